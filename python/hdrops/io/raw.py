"""Camera RAW files, through LibRaw: linear colours of the camera, or the codes of its sensor."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import pathlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hdrops.io import _stderr
from hdrops.io.errors import InputError
from hdrops.io.exposure import Exposure
from hdrops.io.formats import NAMES, check_name, detect_format
from hdrops.io.metadata import Metadata, exposure_of, metadata_of
from hdrops.io.photograph import Photograph

_ORIENTATIONS = {0: 1, 3: 3, 5: 8, 6: 6}  # EXIF's, by LibRaw's
_CAMERA_COLOURS = 0
_LARGEST_CODE = 65535
_COLOURS = "RGBG"
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_SUB_DIRECTORIES, _BLACK_REPEATS, _BLACK, _NOISE_PROFILE = 330, 50713, 50714, 51041  # tags
_RATIONAL = 5
_TYPES = {3: "H", 4: "I", _RATIONAL: "II", 12: "d"}
_MOST_VALUES = 16  # of a tag that is looked at; and directories
_PLANES_BY_PROFILES = {1: (0, 0, 0, 0), 3: (0, 1, 1, 2), 4: (0, 1, 2, 3)}  # which profile a plane has


@dataclass(frozen=True)
class Bayer:
    """The codes of a sensor with a Bayer filter, packed by colour.

    Attributes:
        pixels: (4, H/2, W/2), contiguous, uint16: the planes R, Gr, Gb, B, where Gr is the green in the rows of
            red. Nothing is subtracted, scaled or turned. Of an odd number of rows or columns the last is dropped.
        pattern: the colours of a 2 x 2 cell of the sensor, row by row: "RGGB", "BGGR", "GRBG" or "GBRG".
        black_level: of the four planes, in codes: no light; with the fraction that a DNG states.
        white_level: in codes: the sensor is saturated.
        white_balance: factors of R, G and B that make a neutral object grey, as shot, G's is 1; or None.
        path: the file.
        exposure: time, aperture and sensitivity.
        metadata: camera, lens, time and place.
        orientation: EXIF orientation, 1 to 8, of the planes.
        noise_profile: (S, O) of the four planes, from a DNG that states it; or None. The variance of a value x is S x +
            O, where black is 0 and the white level 1.
    """

    pixels: torch.Tensor
    pattern: str
    black_level: tuple[float, float, float, float]
    white_level: float
    white_balance: tuple[float, float, float] | None
    path: pathlib.Path
    exposure: Exposure
    metadata: Metadata
    orientation: int
    noise_profile: tuple[tuple[float, float], ...] | None

    def linear(self, *, clamped: bool = True) -> torch.Tensor:
        """Light as the sensor saw it: ``(pixels - black_level) / (white_level - black_level)``.

        Args:
            clamped: to [0, 1]. Noise about black has no mean of 0 then.

        Returns:
            (4, H/2, W/2) float32, the planes R, Gr, Gb, B, without white balance.

        Raises:
            InputError: a black level that is not below the white level.
        """
        if not max(self.black_level) < self.white_level:
            raise InputError(
                f"{self.path} has a black level of {max(self.black_level):g}, not below its white level of "
                f"{self.white_level:g}; convert it to DNG again"
            )
        black = torch.tensor(self.black_level)[:, None, None]
        light = self.pixels.float().sub_(black).div_(self.white_level - black)
        return light.clamp_(0, 1) if clamped else light


def read_raw(path: str | os.PathLike[str], *, white_balance: bool = True, max_pixels: int = 2**28) -> Photograph:
    """Read a camera RAW file as linear light in the colours of the camera.

    Black is subtracted, the white level becomes 1, and colours are interpolated (AHD). There is no tone curve, no
    matrix to another colour space, no brightening: equal light gives equal values in every frame of a bracket. The
    pixels are turned upright.

    Args:
        path: a DNG, NEF, CR2, CR3, ARW or other file that LibRaw reads.
        white_balance: multiply the colours by the as-shot white balance, the least factor being 1, and clip at 1. A
            file that states none gets LibRaw's daylight balance of its camera. Frames that a camera took with
            automatic white balance each have factors of their own.
        max_pixels: refuse images with more pixels than this, before any pixel is read.

    Returns:
        The photograph, float32 in [0, 1], (3, H, W), or (1, H, W) of a camera without colours.

    Raises:
        InputError: no such file, no camera RAW, truncated or corrupt data, too many pixels, or rawpy is missing.
    """
    file = pathlib.Path(path)
    with _opened(file, max_pixels) as raw:
        import rawpy

        balance = {"use_camera_wb": True} if white_balance else {"user_wb": [1.0, 1.0, 1.0, 1.0]}
        codes = raw.postprocess(
            output_color=rawpy.ColorSpace(_CAMERA_COLOURS),
            output_bps=16,
            gamma=(1, 1),
            no_auto_bright=True,
            adjust_maximum_thr=0.0,
            **balance,
        )
        exposure, metadata = _described(file, raw)
    pixels = torch.from_numpy(codes.astype(np.float32) / np.float32(_LARGEST_CODE))
    return Photograph(
        pixels=pixels.permute(2, 0, 1).contiguous(),
        path=file,
        exposure=exposure,
        metadata=metadata,
        format="raw",
        bits=32,
    )


def read_bayer(path: str | os.PathLike[str], *, max_pixels: int = 2**28) -> Bayer:
    """Read the sensor's own codes from a camera RAW file.

    Args:
        path: a DNG, NEF, CR2, CR3, ARW or other file that LibRaw reads.
        max_pixels: refuse sensors with more pixels than this, before any pixel is read.

    Returns:
        The packed codes, and what is needed to develop them.

    Raises:
        InputError: as by ``read_raw``; or a sensor without a Bayer filter (X-Trans, Foveon, monochrome).
    """
    file = pathlib.Path(path)
    with _opened(file, max_pixels) as raw:
        cell = [] if raw.raw_pattern is None else raw.raw_colors_visible[:2, :2].flatten().tolist()
        pattern = "".join(_COLOURS[colour] if colour < len(_COLOURS) else "?" for colour in cell)
        if raw.raw_pattern is None or raw.raw_pattern.shape != (2, 2) or sorted(pattern) != sorted(_COLOURS):
            raise InputError(f"{file} comes from a sensor without a Bayer filter; read it with read_raw, or merge it")
        codes = raw.raw_image_visible
        height, width = codes.shape[0] // 2, codes.shape[1] // 2
        red = divmod(pattern.index("R"), 2)
        row, column = red
        places = [red, (row, 1 - column), (1 - row, column), (1 - row, 1 - column)]
        planes = np.stack([codes[y : y + 2 * height : 2, x : x + 2 * width : 2][:height, :width] for y, x in places])
        tags = _dng_tags(file)
        levels = [float(raw.black_level_per_channel[cell[2 * y + x]]) for y, x in places]
        stated = tags.get(_BLACK, ())
        if tags.get(_BLACK_REPEATS) == (2, 2) and len(stated) == 4:
            # LibRaw cuts fractions off.
            exact = [stated[2 * y + x] for y, x in places]
            levels = [e if abs(e - level) < 1 else level for e, level in zip(exact, levels, strict=True)]
        gains = [float(gain) for gain in raw.camera_whitebalance[:3]]
        exposure, metadata = _described(file, raw)
        return Bayer(
            pixels=torch.from_numpy(planes),
            pattern=pattern,
            black_level=(levels[0], levels[1], levels[2], levels[3]),
            white_level=float(raw.white_level),
            white_balance=(
                (gains[0] / gains[1], 1.0, gains[2] / gains[1]) if all(0 < gain < math.inf for gain in gains) else None
            ),
            path=file,
            exposure=exposure,
            metadata=metadata,
            orientation=_ORIENTATIONS.get(raw.sizes.flip, 1),
            noise_profile=_noise_profile(tags.get(_NOISE_PROFILE, ())),
        )


@contextmanager
def _opened(file: pathlib.Path, max_pixels: int) -> Iterator[Any]:
    """The sensor's codes in LibRaw's hands; whatever LibRaw refuses in the block is an InputError."""
    check_name(file)
    format = detect_format(file)
    if format != "raw":
        raise InputError(f"{file} is {NAMES[format]}, not a camera RAW file; read it with read_image")
    try:
        import rawpy
    except ModuleNotFoundError as error:
        raise InputError(f"{file} is a camera RAW file, which needs rawpy; pip install 'hdrops[raw]'") from error
    try:
        with _stderr.without_library_messages(), rawpy.RawPy() as raw:
            raw.open_file(str(file))
            width, height = raw.sizes.raw_width, raw.sizes.raw_height
            if width * height > max_pixels:
                raise InputError(
                    f"{file} has {width} x {height} pixels, more than the limit of {max_pixels}; reduce it"
                )
            raw.unpack()
            yield raw
    except (rawpy.LibRawError, rawpy.NotSupportedError, NotImplementedError, OSError) as error:
        reason = error.args[0] if error.args else "no reason given"
        reason = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise InputError(
            f"{file} cannot be read as camera RAW ({reason}); it may be truncated, or newer than the installed LibRaw; "
            "copy it again, or convert it to DNG"
        ) from error
    except MemoryError as error:
        raise InputError(f"{file} does not fit into memory; convert it to DNG") from error


def _described(file: pathlib.Path, raw: Any) -> tuple[Exposure, Metadata]:
    """What the file says in EXIF, where it is a TIFF in disguise; completed by what LibRaw found."""
    exposure, metadata = _exif(file)

    def positive(value: float) -> float | None:
        # The shortest decimal that rounds to the same float32: 5.6, not 5.599999904632568.
        return float(str(np.float32(value))) if 0 < value < math.inf else None

    # rawpy reads all of a group at once, and fails on dates that no calendar has and on text that is not UTF-8.
    with contextlib.suppress(ValueError, OverflowError, OSError):
        shot = raw.other
        exposure = Exposure(
            time=exposure.time or positive(shot.shutter_speed),
            f_number=exposure.f_number or positive(shot.aperture),
            iso=exposure.iso or positive(shot.iso_speed),
        )
        metadata = replace(
            metadata,
            artist=metadata.artist or shot.artist.strip() or None,
            taken_at=metadata.taken_at or (shot.timestamp if shot.timestamp > datetime.datetime(1980, 1, 1) else None),
            focal_length=metadata.focal_length or positive(shot.focal_length),
        )
    with contextlib.suppress(ValueError, OverflowError, OSError):
        lens = raw.lens
        metadata = replace(
            metadata,
            lens_make=metadata.lens_make or lens.make.strip() or None,
            lens_model=metadata.lens_model or lens.model.strip() or None,
        )
    return exposure, replace(metadata, icc_profile=None)  # a profile would be that of a preview


def _exif(file: pathlib.Path) -> tuple[Exposure, Metadata]:
    import OpenImageIO as oiio

    source = oiio.ImageInput.open(str(file))
    oiio.geterror()
    if source is None:
        return Exposure(), Metadata()
    try:
        spec = source.spec()
        return exposure_of(spec), metadata_of(spec)
    finally:
        source.close()


def _noise_profile(values: tuple[float, ...]) -> tuple[tuple[float, float], ...] | None:
    """That of the planes R, Gr, Gb, B, from the tag of a DNG."""
    profiles = _PLANES_BY_PROFILES.get(len(values) // 2)
    if profiles is None or len(values) % 2 or not all(0 <= value < math.inf for value in values):
        return None
    return tuple((values[2 * k], values[2 * k + 1]) for k in profiles)


def _dng_tags(file: pathlib.Path) -> dict[int, tuple[float, ...]]:
    """Tags of a DNG that LibRaw does not tell, or not exactly; of other files and damaged ones what can be read."""
    found: dict[int, tuple[float, ...]] = {}
    with open(file, "rb") as stream, contextlib.suppress(struct.error, OSError):
        order = _TIFF_ORDERS.get(stream.read(4))
        if order is None:
            return found

        def read(form: str, place: int) -> tuple[Any, ...]:
            stream.seek(place)
            return struct.unpack(order + form, stream.read(struct.calcsize(order + form)))

        waiting = list(read("I", 4))
        for _ in range(_MOST_VALUES):
            if not waiting:
                break
            directory = waiting.pop(0)
            for entry in range(directory + 2, directory + 2 + 12 * read("H", directory)[0], 12):
                tag, kind, count = read("HHI", entry)
                wanted = tag in (_SUB_DIRECTORIES, _BLACK_REPEATS, _BLACK, _NOISE_PROFILE)
                if not wanted or kind not in _TYPES or count > _MOST_VALUES:
                    continue
                form = _TYPES[kind] * count
                inline = struct.calcsize(order + form) <= 4
                values = read(form, entry + 8 if inline else read("I", entry + 8)[0])
                if kind == _RATIONAL:
                    values = tuple(a / b if b else math.nan for a, b in zip(values[::2], values[1::2], strict=True))
                if tag == _SUB_DIRECTORIES:
                    waiting += [value for value in values if isinstance(value, int)]
                else:
                    found.setdefault(tag, values)
    return found
