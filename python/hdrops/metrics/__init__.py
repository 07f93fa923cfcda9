"""The metrics of the field: fusion quality, structural similarity, and fidelity in the domains of HDR imaging."""

from hdrops.metrics.edges import nabf, qabf
from hdrops.metrics.features import fmi
from hdrops.metrics.fidelity import correlation_coefficient, fusion_mse, fusion_psnr, scd, vif, viff
from hdrops.metrics.gradients import average_gradient, edge_intensity, spatial_frequency, standard_deviation
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

__all__ = [
    "average_gradient",
    "correlation_coefficient",
    "cross_entropy",
    "edge_intensity",
    "entropy",
    "fmi",
    "fusion_mse",
    "fusion_psnr",
    "lpc_si",
    "mutual_information",
    "nabf",
    "normalized_mutual_information",
    "piqe",
    "qabf",
    "qc",
    "qncie",
    "qw",
    "qy",
    "s3",
    "scd",
    "spatial_frequency",
    "standard_deviation",
    "tsallis_entropy",
    "vif",
    "viff",
]
