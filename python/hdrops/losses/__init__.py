"""The losses of the field, as modules: structural dissimilarity on one and on several scales."""

from hdrops.losses.mef_ssim import MEFSSIMLoss
from hdrops.losses.ssim import MSSSIMLoss, SSIMLoss

__all__ = ["MEFSSIMLoss", "MSSSIMLoss", "SSIMLoss"]
