"""Complete systems, one file each."""

from hdrops.models.emvnet import EMVNet, EMVNetConfig, Pictures, choose_reference
from hdrops.models.exposure_interpolation import (
    LRL,
    ExposureInterpolator,
    ExposureInterpolatorConfig,
    LRLConfig,
    SwappedImages,
    exposures_between,
    insert_exposures,
    interpolate_exposure,
)
from hdrops.models.hyperp_mb import HyperPMB, HyperPMBConfig

__all__ = [
    "LRL",
    "EMVNet",
    "EMVNetConfig",
    "ExposureInterpolator",
    "ExposureInterpolatorConfig",
    "HyperPMB",
    "HyperPMBConfig",
    "LRLConfig",
    "Pictures",
    "SwappedImages",
    "choose_reference",
    "exposures_between",
    "insert_exposures",
    "interpolate_exposure",
]
