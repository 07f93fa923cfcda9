"""Checkpoints that others have published, as models of hdrops: every name is mapped, none is guessed or left out."""

from hdrops.convert.densefuse import densefuse

__all__ = ["densefuse"]
