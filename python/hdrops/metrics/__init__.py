"""The metrics of the field: fusion quality, structural similarity, and fidelity in the domains of HDR imaging."""

from hdrops.metrics.accumulators import Accumulator
from hdrops.metrics.domains import (
    mu_law_decode,
    mu_law_encode,
    pq_decode,
    pq_encode,
    pu21_decode,
    pu21_encode,
)
from hdrops.metrics.hdr import ms_ssim, psnr, ssim
from hdrops.metrics.hdr_vdp import HdrVdpError, hdr_vdp2, pixels_per_degree
from hdrops.metrics.single_image import match_exposure, match_response
from hdrops.metrics.structural import ms_ssim_sources, ssim_sources

__all__ = [
    "Accumulator",
    "HdrVdpError",
    "hdr_vdp2",
    "match_exposure",
    "match_response",
    "ms_ssim",
    "ms_ssim_sources",
    "mu_law_decode",
    "mu_law_encode",
    "pixels_per_degree",
    "pq_decode",
    "pq_encode",
    "psnr",
    "pu21_decode",
    "pu21_encode",
    "ssim",
    "ssim_sources",
]
