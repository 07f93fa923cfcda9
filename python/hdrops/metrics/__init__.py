"""The metrics of the field: fusion quality, structural similarity, and fidelity in the domains of HDR imaging."""

from hdrops.metrics.accumulators import Accumulator
from hdrops.metrics.domains import mu_law_decode, mu_law_encode, pq_decode, pq_encode, pu21_decode, pu21_encode
from hdrops.metrics.edges import nabf, qabf
from hdrops.metrics.features import fmi
from hdrops.metrics.fidelity import correlation_coefficient, fusion_mse, fusion_psnr, scd, vif, viff
from hdrops.metrics.gradients import average_gradient, edge_intensity, spatial_frequency, standard_deviation
from hdrops.metrics.hdr import ms_ssim, psnr, ssim
from hdrops.metrics.hdr_vdp import HdrVdpError, hdr_vdp2, pixels_per_degree
from hdrops.metrics.information import (
    cross_entropy,
    entropy,
    mutual_information,
    normalized_mutual_information,
    qncie,
    tsallis_entropy,
)
from hdrops.metrics.patches import qc, qw, qy
from hdrops.metrics.piqe import piqe
from hdrops.metrics.sharpness import lpc_si, s3
from hdrops.metrics.single_image import match_exposure, match_response
from hdrops.metrics.structural import ms_ssim_sources, ssim_sources
from hdrops.ops.mef_ssim import mef_ssim

__all__ = [
    "Accumulator",
    "HdrVdpError",
    "average_gradient",
    "correlation_coefficient",
    "cross_entropy",
    "edge_intensity",
    "entropy",
    "fmi",
    "fusion_mse",
    "fusion_psnr",
    "hdr_vdp2",
    "lpc_si",
    "match_exposure",
    "match_response",
    "mef_ssim",
    "ms_ssim",
    "ms_ssim_sources",
    "mu_law_decode",
    "mu_law_encode",
    "mutual_information",
    "nabf",
    "normalized_mutual_information",
    "piqe",
    "pixels_per_degree",
    "pq_decode",
    "pq_encode",
    "psnr",
    "pu21_decode",
    "pu21_encode",
    "qabf",
    "qc",
    "qncie",
    "qw",
    "qy",
    "s3",
    "scd",
    "spatial_frequency",
    "ssim",
    "ssim_sources",
    "standard_deviation",
    "tsallis_entropy",
    "vif",
    "viff",
]
