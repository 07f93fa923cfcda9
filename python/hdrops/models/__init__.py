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

__all__ = [
    "LRL",
    "ExposureInterpolator",
    "ExposureInterpolatorConfig",
    "LRLConfig",
    "SwappedImages",
    "exposures_between",
    "insert_exposures",
    "interpolate_exposure",
]
