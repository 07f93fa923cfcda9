"""Checkpoints that others have published, as models of hdrops: every name is mapped, none is guessed or left out."""

from hdrops.convert.densefuse import densefuse
from hdrops.convert.vgg import vgg16, vgg19

__all__ = ["densefuse", "vgg16", "vgg19"]
