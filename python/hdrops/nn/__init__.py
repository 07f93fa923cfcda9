"""What the networks of several systems share."""

from hdrops.nn.gamma import adaptive_gamma
from hdrops.nn.tiling import tiled

__all__ = ["adaptive_gamma", "tiled"]
