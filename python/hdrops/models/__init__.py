"""Complete systems, one file each."""

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
    "ExposureInterpolator",
    "ExposureInterpolatorConfig",
    "HyperPMB",
    "HyperPMBConfig",
    "LRLConfig",
    "SwappedImages",
    "exposures_between",
    "insert_exposures",
    "interpolate_exposure",
]
