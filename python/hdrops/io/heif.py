"""HEIC through pillow-heif, AVIF through Pillow."""

from __future__ import annotations

import pathlib
import struct
from dataclasses import replace
from typing import Any

import numpy as np

from hdrops.io.errors import InputError
from hdrops.io.exposure import Exposure
from hdrops.io.metadata import Metadata, exposure_of, icc_profile, metadata_of, read_exif

_AVIF_BRANDS, _HEIC_BRANDS = (b"avif", b"avis"), b"hei"
_AV1_CONFIGURATION, _HIGH_BIT_DEPTH = b"av1C", 0x40
_LONGEST_HEADER = 1 << 20
_DEEPEST = 65535


def read_heif(file: pathlib.Path, max_pixels: int) -> tuple[np.ndarray[Any, Any], int, Exposure, Metadata]:
    """The primary image as (H, W, C) codes of 8 or 16 bits, its EXIF orientation, and what the file says of it.

    Samples of 10 and 12 bits are scaled to the 16-bit range. Alpha is dropped.

    Raises:
        InputError: truncated or corrupt data, too many pixels, AVIF of more than 8 bits, or the reader is missing.
    """
    with open(file, "rb") as stream:
        head = stream.read(_LONGEST_HEADER)
    brands = head[8 : int.from_bytes(head[:4], "big")]  # of the container: the main one and compatible ones
    avif = any(brand in brands for brand in _AVIF_BRANDS) and _HEIC_BRANDS not in brands
    if avif:
        _check_depth(file, head)
    try:
        image = _open_avif(file) if avif else _open_heic(file)
        width, height = image.size
        if width * height > max_pixels:
            raise InputError(f"{file} has {width} x {height} pixels, more than the limit of {max_pixels}; reduce it")
        pixels = np.array(image)
        if pixels.shape[:2] != (height, width):
            raise ValueError(f"its header states {width} x {height} pixels, its data hold others")
        mode, depth = str(image.mode).partition(";")[::2]
    except ModuleNotFoundError as error:
        name = "AVIF" if avif else "HEIC"
        raise InputError(f"{file} is {name}, which needs pillow-heif; pip install 'hdrops[heif]'") from error
    except MemoryError as error:
        raise InputError(f"{file} does not fit into memory; reduce it") from error
    except (ValueError, LookupError, RuntimeError, SyntaxError, EOFError, OSError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".") or "no reason given"
        raise InputError(
            f"{file} cannot be read as HEIC or AVIF ({reason}); it may be truncated; copy it again"
        ) from error
    pixels = pixels.reshape(height, width, -1)[..., : 1 if mode.startswith("L") else 3]
    if pixels.dtype != np.uint8:
        largest = 2 ** int(depth) - 1
        pixels = ((pixels.astype(np.uint32) * _DEEPEST + largest // 2) // largest).astype(np.uint16)
    spec = read_exif((image.info.get("exif") or b"").removeprefix(b"Exif\0\0"))
    metadata = replace(metadata_of(spec), icc_profile=icc_profile(image.info.get("icc_profile"), pixels.shape[2]))
    # libheif has turned the pixels as the container asks, whatever EXIF says; Pillow says in EXIF how to turn them.
    orientation = spec.get_int_attribute("Orientation", 1) if avif else 1
    return pixels, orientation, exposure_of(spec), metadata


def _check_depth(file: pathlib.Path, head: bytes) -> None:
    place = head.find(_AV1_CONFIGURATION)
    if place >= 0 and head[place + 6 : place + 7] > b"" and head[place + 6] & _HIGH_BIT_DEPTH:
        raise InputError(f"{file} is AVIF of 10 or 12 bits, of which its reader keeps 8; convert it to a 16-bit PNG")


def _open_avif(file: pathlib.Path) -> Any:
    from PIL import AvifImagePlugin

    if not AvifImagePlugin.SUPPORTED:
        raise ModuleNotFoundError("this build of Pillow reads no AVIF")
    return AvifImagePlugin.AvifImageFile(file)


def _open_heic(file: pathlib.Path) -> Any:
    import pillow_heif

    return pillow_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False)
