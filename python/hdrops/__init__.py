"""hdrops: fast operators and complete systems for multi-exposure imaging on PyTorch.

Images are ``(N, C, H, W)`` tensors, brackets ``(N, K, C, H, W)``, dark to bright. ``uint8`` and ``uint16`` images hold
codes, floating-point images lie in [0, 1].
"""

import torch  # noqa: F401  (torch must be loaded before the extension that links against it)

from hdrops import _C as _C
from hdrops.ops._radiance import merge_radiance
from hdrops.ops._response import estimate_response, response_imf
from hdrops.ops.exposure_fusion import exposure_fusion
from hdrops.ops.gaussian import gaussian_blur, gaussian_mask
from hdrops.ops.hourglass import conv3d, deconv3d, deconv_conv3d, deconv_reduce
from hdrops.ops.imf import crf_imf, estimate_imf, gamma_imf, imf_fuse, intermediate_imf
from hdrops.ops.lab import lab_to_rgb, rgb_to_lab
from hdrops.ops.matching import correlation, motion_grid
from hdrops.ops.matching_volume import matching_conv3d, matching_volume
from hdrops.ops.mef_ssim import mef_ssim
from hdrops.ops.mtb import mtb_shift
from hdrops.ops.pairwise import pairwise_loss
from hdrops.ops.ssim import ms_ssim, ssim

__version__: str = _C.__version__
_C.cpu_level()  # an HDROPS_CPU that names no level of this machine fails here, with its message

__all__ = [
    "__version__",
    "conv3d",
    "correlation",
    "crf_imf",
    "deconv3d",
    "deconv_conv3d",
    "deconv_reduce",
    "estimate_imf",
    "estimate_response",
    "exposure_fusion",
    "gamma_imf",
    "gaussian_blur",
    "gaussian_mask",
    "imf_fuse",
    "intermediate_imf",
    "lab_to_rgb",
    "matching_conv3d",
    "matching_volume",
    "mef_ssim",
    "merge_radiance",
    "motion_grid",
    "ms_ssim",
    "mtb_shift",
    "pairwise_loss",
    "response_imf",
    "rgb_to_lab",
    "ssim",
]
