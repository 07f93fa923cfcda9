"""What the networks of several systems share."""

from hdrops.nn.discriminator import VGGDiscriminator
from hdrops.nn.gamma import adaptive_gamma
from hdrops.nn.hourglass import Hourglass3d
from hdrops.nn.mosaic import demosaic
from hdrops.nn.tiling import tiled
from hdrops.nn.vgg import VGGFeatures, vgg_layers

__all__ = [
    "Hourglass3d",
    "VGGDiscriminator",
    "VGGFeatures",
    "adaptive_gamma",
    "demosaic",
    "tiled",
    "vgg_layers",
]
