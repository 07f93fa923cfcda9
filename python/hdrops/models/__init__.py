"""Complete systems, one file each."""

from hdrops.models.exposure_interpolation import insert_exposures, interpolate_exposure

__all__ = ["insert_exposures", "interpolate_exposure"]
