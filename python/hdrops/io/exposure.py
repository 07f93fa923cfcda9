"""The exposure of one photograph."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hdrops.io.errors import InputError


@dataclass(frozen=True)
class Exposure:
    """How much light a photograph was given, as far as its file says.

    Attributes:
        time: exposure time in seconds, positive, or None.
        f_number: focal length over aperture diameter, positive, or None.
        iso: sensitivity (ISO 12232), positive, or None.

    Raises:
        InputError: a value that is not positive and finite.
    """

    time: float | None = None
    f_number: float | None = None
    iso: float | None = None

    def __post_init__(self) -> None:
        for name in ("time", "f_number", "iso"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be positive and finite, got {value}; leave it out if it is unknown")

    @property
    def value(self) -> float | None:
        """Relative exposure ``time · iso / f_number²``, unknown factors taken as 1; None without a time."""
        if self.time is None:
            return None
        return self.time * (self.iso or 1.0) / (self.f_number or 1.0) ** 2
