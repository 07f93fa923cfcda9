"""The losses of the field, as modules: structural dissimilarity on one and on several scales."""

from hdrops.losses.ssim import MSSSIMLoss, SSIMLoss

__all__ = ["MSSSIMLoss", "SSIMLoss"]
