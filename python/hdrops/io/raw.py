"""Camera RAW files, through LibRaw: linear colours of the camera, or the codes of its sensor."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import pathlib
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


@dataclass(frozen=True)
class Bayer:
    """The codes of a sensor with a Bayer filter, packed by colour.

    Attributes:
        pixels: (4, H/2, W/2), contiguous, uint16: the planes R, Gr, Gb, B, where Gr is the green in the rows of
            red. Nothing is subtracted, scaled or turned. Of an odd number of rows or columns the last is dropped.
        pattern: the colours of a 2 x 2 cell of the sensor, row by row: "RGGB", "BGGR", "GRBG" or "GBRG".
        black_level: of the four planes, in codes: no light.
        white_level: in codes: the sensor is saturated.
        white_balance: factors of R, G and B that make a neutral object grey, as shot, G's is 1; or None.
        path: the file.
        exposure: time, aperture and sensitivity.
        metadata: camera, lens, time and place.
        orientation: EXIF orientation, 1 to 8, of the planes.
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

    def linear(self) -> torch.Tensor:
        """Light as the sensor saw it: ``(pixels - black_level) / (white_level - black_level)``, clamped to [0, 1].

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
        return ((self.pixels.float() - black) / (self.white_level - black)).clamp_(0, 1)


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
        levels = [float(raw.black_level_per_channel[cell[2 * y + x]]) for y, x in places]
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
