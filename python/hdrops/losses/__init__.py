"""The losses of the field, as modules and functions: structural dissimilarity on one and on several scales, smooth
absolute differences, angles between colours, and those of the published systems.

The angle between colours is no fused operator, because there is little to win: its forward and backward take 6 ms of a
training step of exposure interpolation of 230 ms in float32 or 112 ms in bfloat16 (batches of 32, two cores)."""

from hdrops.losses.adversarial import relativistic_discriminator_loss, relativistic_generator_loss
from hdrops.losses.color_angle import ColorAngleLoss, color_angle_loss
from hdrops.losses.content import ContentLoss
from hdrops.losses.hyperp_mb import HyperPMBLoss, MaskBuilder, ParamTuner
from hdrops.losses.interpolation import InterpolationLoss
from hdrops.losses.mef_ssim import MEFSSIMLoss
from hdrops.losses.pairwise import PairwiseLoss, ordinal_penalty, pairwise_patch_loss, pairwise_pixel_loss
from hdrops.losses.perceptual import PerceptualLoss
from hdrops.losses.psi import PsiLoss, psi_loss
from hdrops.losses.ssim import MSSSIMLoss, SSIMLoss

__all__ = [
    "ColorAngleLoss",
    "ContentLoss",
    "HyperPMBLoss",
    "InterpolationLoss",
    "MEFSSIMLoss",
    "MSSSIMLoss",
    "MaskBuilder",
    "PairwiseLoss",
    "ParamTuner",
    "PerceptualLoss",
    "PsiLoss",
    "SSIMLoss",
    "color_angle_loss",
    "ordinal_penalty",
    "pairwise_patch_loss",
    "pairwise_pixel_loss",
    "psi_loss",
    "relativistic_discriminator_loss",
    "relativistic_generator_loss",
]
