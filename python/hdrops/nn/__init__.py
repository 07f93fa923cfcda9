"""What the networks of several systems share."""

from hdrops.nn.tiling import tiled

__all__ = ["tiled"]
