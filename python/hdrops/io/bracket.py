"""Reading a bracket: several exposures of one scene, brought into order from dark to bright."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hdrops.io.brightness import contradiction, measure_tones
from hdrops.io.errors import InputError
from hdrops.io.exposure import Exposure
from hdrops.io.metadata import Metadata
from hdrops.io.photograph import Photograph
from hdrops.io.reading import read_image

_SAME_EXPOSURE = 1.01  # ratio between the brightest and the darkest frame up to which metadata tell nothing apart


@dataclass(frozen=True)
class Bracket:
    """Exposures of one scene, dark to bright.

    Attributes:
        images: (K, C, H, W), C = 1 or 3; uint8 or uint16 codes, or float32 linear light.
        exposure_times: (K,) float64, positive, never decreasing: seconds, or relative (``2^ev``, 1 is the
            frame of 0 EV). From EXIF, the seconds that would give each frame's exposure at the aperture and
            sensitivity of the darkest frame. None where only the brightness of the frames is known.
        paths: of the K files.
        ordered_by: what the order rests on: "times", "ev", "exif" or "brightness" (mean of the pixels).
        exposures: of the K files.
        metadata: of the K files.
        warnings: what is doubtful, one line each: exposure times that contradict the brightness of the frames, or
            that only some files state; different colour profiles.
        exposures_believed: whether nothing contradicts the exposures in the files.
    """

    images: torch.Tensor
    exposure_times: torch.Tensor | None
    paths: list[pathlib.Path]
    ordered_by: str
    exposures: list[Exposure]
    metadata: list[Metadata]
    warnings: tuple[str, ...] = ()
    exposures_believed: bool = True

    @property
    def common_exposure(self) -> Exposure:
        """What all frames have in common of time, aperture and sensitivity, as a fused picture may state it."""
        first = self.exposures[0]
        same_time = self.exposures_believed and all(other.time == first.time for other in self.exposures)
        return Exposure(
            time=first.time if same_time else None,
            f_number=first.f_number if all(other.f_number == first.f_number for other in self.exposures) else None,
            iso=first.iso if all(other.iso == first.iso for other in self.exposures) else None,
        )

    @property
    def middle_metadata(self) -> Metadata:
        """That of the middle frame, of two the darker; the exposure bias only where all frames have the same."""
        middle = self.metadata[(len(self.metadata) - 1) // 2]
        same = all(other.exposure_bias == middle.exposure_bias for other in self.metadata)
        return middle if same else replace(middle, exposure_bias=None)


def read_bracket(
    paths: Sequence[str | os.PathLike[str]],
    *,
    times: Sequence[float] | None = None,
    ev: Sequence[float] | None = None,
) -> Bracket:
    """Read the frames of a bracket, in any order, and sort them from dark to bright.

    The order is that of ``times`` or ``ev`` where given; else that of the exposures in the files, where all
    of them state a time, they differ (aperture and sensitivity count where all files state them) and the
    brightness of the frames does not contradict them (:func:`hdrops.io.brightness.contradiction`); else that of
    the mean of the pixels. Equal frames keep their order.

    Args:
        paths: one image file per frame, at least one.
        times: exposure time of each path, in seconds or relative, positive and finite. Not with ``ev``.
        ev: exposure of each path in stops, finite, higher is brighter. Not with ``times``.

    Returns:
        The bracket.

    Raises:
        InputError: a file that cannot be read, no file, frames that differ in size, channels or bits, or
            times or ev that do not fit the paths.
    """
    if isinstance(paths, str | os.PathLike):
        raise InputError(f"a bracket needs a list of files, got the single path {os.fspath(paths)!r}")
    if not paths:
        raise InputError("a bracket needs at least one image, got none")
    stated = _stated_times(len(paths), times, ev)
    frames: list[Photograph] = []
    for path in paths:
        frames.append(read_image(path))
        _check_alike(frames[0], frames[-1])
    exposures = [frame.exposure for frame in frames]
    recorded = recorded_times(exposures) if stated is None else None
    doubts = _doubts(frames, stated, recorded)
    if stated is not None:
        known: list[float] | None = stated
        ordered_by = "times" if times is not None else "ev"
    elif recorded is not None and not doubts and max(recorded) > _SAME_EXPOSURE * min(recorded):
        known = recorded
        ordered_by = "exif"
    else:
        known = None
        ordered_by = "brightness"
    keys = known or [float(np.mean(frame.pixels.numpy(), dtype=np.float64)) for frame in frames]
    order = sorted(range(len(frames)), key=keys.__getitem__)
    metadata = [frames[k].metadata for k in order]
    profiles = len({entry.icc_profile for entry in metadata})
    mixed = f"the frames have {profiles} different colour profiles, which are not applied"
    files = [frames[k].path for k in order]
    return Bracket(
        images=_stacked(frames, order),
        exposure_times=(None if known is None else torch.tensor([known[k] for k in order], dtype=torch.float64)),
        paths=files,
        ordered_by=ordered_by,
        exposures=[exposures[k] for k in order],
        metadata=metadata,
        warnings=(*doubts, mixed) if profiles > 1 else doubts,
        exposures_believed=stated is None and not doubts,
    )


def _stacked(frames: list[Photograph], order: Sequence[int]) -> torch.Tensor:
    """The pixels of the frames in order; the list is emptied, so that no two copies of all of them exist."""
    first = frames[0].pixels
    images = torch.empty(len(frames), *first.shape, dtype=first.dtype)
    pixels = {place: frames[k].pixels for place, k in enumerate(order)}
    frames.clear()
    del first
    for place in range(len(order)):
        images[place] = pixels.pop(place)
    return images


def _stated_times(count: int, times: Sequence[float] | None, ev: Sequence[float] | None) -> list[float] | None:
    """The caller's exposure times, relative where given in stops."""
    if times is not None and ev is not None:
        raise InputError("times and ev both state the exposures; give one of them")
    for name, values in (("times", times), ("ev", ev)):
        if values is not None and len(values) != count:
            raise InputError(f"{name} must have one entry per image, got {len(values)} for {count} images")
    if times is not None:
        for value in times:
            if not 0 < value < math.inf:
                raise InputError(f"times must be positive and finite, got {value}")
        return [float(value) for value in times]
    if ev is not None:
        for value in ev:
            if not -1000 < value < 1000:
                raise InputError(f"ev must be finite stops, got {value}")
        return [2.0**value for value in ev]
    return None


def recorded_times(exposures: Sequence[Exposure]) -> list[float] | None:
    """Exposure times by the files, in seconds at the settings of the darkest frame; None where one is unknown."""
    every_f_number = all(exposure.f_number is not None for exposure in exposures)
    every_iso = all(exposure.iso is not None for exposure in exposures)
    comparable = [
        Exposure(
            time=exposure.time,
            f_number=exposure.f_number if every_f_number else None,
            iso=exposure.iso if every_iso else None,
        )
        for exposure in exposures
    ]
    values = [exposure.value for exposure in comparable if exposure.value is not None]
    if len(values) < len(exposures):
        return None
    darkest = comparable[values.index(min(values))]
    return [
        # Equal settings divide to exactly 1 and leave the time as it is.
        (exposure.time or 0.0)
        * ((exposure.iso or 1.0) / (darkest.iso or 1.0))
        * ((darkest.f_number or 1.0) / (exposure.f_number or 1.0)) ** 2
        for exposure in comparable
    ]


def _doubts(
    frames: Sequence[Photograph], stated: Sequence[float] | None, recorded: Sequence[float] | None
) -> tuple[str, ...]:
    """What is wrong with the exposures that the caller or the files state."""
    claimed = stated if stated is not None else recorded
    if claimed is None:
        untimed = [frame.path.name for frame in frames if frame.exposure.time is None]
        if len(untimed) == len(frames):
            return ()
        return (
            f"{len(untimed)} of {len(frames)} files state no exposure time (such as {untimed[0]}), "
            "so the frames are ordered by brightness",
        )
    conflict = contradiction(
        claimed, [measure_tones(frame.pixels) for frame in frames], [frame.path.name for frame in frames]
    )
    if conflict is None:
        return ()
    if stated is not None:
        return (f"the stated exposures contradict the brightness of the frames ({conflict}); the stated order is kept",)
    return (
        f"the exposures in the files contradict the brightness of the frames ({conflict}), "
        "so the frames are ordered by brightness",
    )


def _check_alike(first: Photograph, other: Photograph) -> None:
    def describe(frame: Photograph) -> tuple[str, str]:
        channels, height, width = frame.pixels.shape
        colour = "grey" if channels == 1 else "RGB"
        depth = "float" if frame.pixels.is_floating_point() else f"{frame.bits}-bit"
        return f"{width} x {height}", f"{depth} {colour}"

    for a, b, advice in zip(
        describe(first), describe(other), ("crop or resize them alike", "convert them alike"), strict=True
    ):
        if a != b:
            raise InputError(f"the frames of a bracket must agree: {first.path} is {a}, {other.path} is {b}; {advice}")
