"""Reading one photograph."""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
from typing import Any

import numpy as np
import torch

from hdrops.io import _stderr
from hdrops.io.errors import InputError
from hdrops.io.exposure import Exposure
from hdrops.io.formats import NAMES, check_name, detect_format
from hdrops.io.heif import read_heif
from hdrops.io.metadata import Metadata, exposure_of, metadata_of
from hdrops.io.photograph import Photograph
from hdrops.io.radiance import read_header, read_pixels
from hdrops.io.raw import read_raw

_SAMPLES = {
    "png": ("uint8", "uint16"),
    "jpeg": ("uint8",),
    "tiff": ("uint8", "uint16", "half", "float", "double"),
    "openexr": ("half", "float"),
    "hdr": ("float",),
}
_COLOUR_CHANNELS = {("Y",): 1, ("Y", "A"): 1, ("R", "G", "B"): 3, ("R", "G", "B", "A"): 3}
# A Huffman code has at least one bit and a block 64 pixels: a byte codes 512 pixels at most, and four times
# that is room for arithmetic coding. Beyond, libjpeg would make the pixels up, for seconds and gigabytes.
_JPEG_PIXELS_PER_BYTE = 2048
# Every scan of a progressive file goes over all its pixels, however few bytes it has; encoders make about ten.
_MOST_JPEG_SCANS = 200
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xD9), 0xFF}  # stuffing, restarts and fill bytes among them
_CMYK_PHOTOMETRIC = 5
_TIFF_PHOTOMETRICS = (0, 1, 2, 3, 6)  # white is zero, black is zero, RGB, palette, YCbCr


def read_image(path: str | os.PathLike[str], *, max_pixels: int = 2**28) -> Photograph:
    """Read an image file. Its content decides the format, not its name.

    PNG, TIFF, JPEG, OpenEXR and Radiance HDR; HEIC and AVIF where pillow-heif is installed; camera RAW, as
    :func:`hdrops.io.read_raw` develops it, where rawpy is.

    Codes stay as they are stored, 8-bit or 16-bit; those of 1 to 4 bits are scaled to 8, those of 10 and 12 bits
    to 16; palettes are expanded. Floating-point samples become float32, half ones without loss. The pixels are
    turned upright by the file's orientation. Alpha is dropped: nothing is composited, multiplied or divided, so
    colours stored as premultiplied stay so. Of several images in a file the first is read; of an OpenEXR file the
    data window. Colour profiles are returned, not applied; nor is the exposure of a Radiance HDR header. Colour
    encodings stated in other ways (nclx of HEIC and AVIF, cICP and gAMA of PNG) are not looked at.

    Args:
        path: the file.
        max_pixels: refuse images with more pixels than this, before any pixel is read.

    Returns:
        The photograph.

    Raises:
        InputError: no such file, an unknown format, truncated or corrupt data, too many pixels, NaN or
            infinity, channels other than grey or RGB with or without alpha (CMYK, luma/chroma OpenEXR,
            layers), AVIF of more than 8 bits, or a reader that is not installed.
    """
    file = pathlib.Path(path)
    check_name(file)
    format = detect_format(file)
    if format == "raw":
        return read_raw(file, max_pixels=max_pixels)
    if format == "heif":
        pixels, orientation, exposure, metadata = read_heif(file, max_pixels)
    else:
        pixels, orientation, exposure, metadata = _read(file, format, max_pixels)
    if pixels.dtype == np.float32:
        broken = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
        if broken:
            raise InputError(f"{file} has {broken} NaN or infinite values of {pixels.size}; repair or re-render it")
    return Photograph(
        pixels=torch.from_numpy(upright(pixels, orientation)).permute(2, 0, 1).contiguous(),
        path=file,
        exposure=exposure,
        metadata=metadata,
        format=format,
        bits=8 * pixels.itemsize,
    )


def _read(file: pathlib.Path, format: str, max_pixels: int) -> tuple[np.ndarray[Any, Any], int, Exposure, Metadata]:
    """(H, W, C) as stored, the orientation, and what the file says of it, through OpenImageIO."""
    import OpenImageIO as oiio

    name = NAMES[format]
    radiance = read_header(file) if format == "hdr" else None
    configuration = oiio.ImageSpec()
    configuration.attribute("oiio:UnassociatedAlpha", 1)  # or OpenImageIO would multiply the colours by alpha
    quiet = _stderr.without_library_messages() if format == "png" else contextlib.nullcontext()
    try:
        with quiet:
            source = oiio.ImageInput.open(str(file), configuration)
            reason = _message(oiio)
            if source is None:
                raise _corrupt(file, name, reason)
            try:
                if source.format_name() != format:
                    raise _corrupt(file, name, f"it was taken for {source.format_name()}")
                spec = source.spec()
                channels = _check_header(file, name, format, spec, max_pixels)
                if radiance is not None and not radiance.runs:
                    pixels = read_pixels(file, radiance)
                else:
                    sample = str(spec.format)
                    stored = source.read_image(sample if sample in ("uint8", "uint16") else "float")
                    if stored is None or source.has_error:
                        raise _corrupt(file, name, _message(source))
                    pixels = stored
            finally:
                source.close()
    except MemoryError as error:
        raise InputError(f"{file} does not fit into memory; reduce it") from error
    orientation = spec.get_int_attribute("Orientation", 1) if radiance is None else radiance.orientation
    return pixels[..., :channels], orientation, exposure_of(spec), metadata_of(spec)


def _check_header(file: pathlib.Path, name: str, format: str, spec: Any, max_pixels: int) -> int:
    """Refuse what cannot be read faithfully; otherwise the number of colour channels."""
    width, height = spec.width, spec.height
    if width * height > max_pixels or spec.tile_width * spec.tile_height > max_pixels:
        raise InputError(f"{file} has {width} x {height} pixels, more than the limit of {max_pixels}; reduce it")
    if format == "jpeg" and width * height > _JPEG_PIXELS_PER_BYTE * file.stat().st_size:
        raise InputError(f"{file} is too short for {width} x {height} pixels; it may be truncated, copy it again")
    if format == "jpeg" and _count_scans(file) > _MOST_JPEG_SCANS:
        raise InputError(f"{file} is a JPEG of more than {_MOST_JPEG_SCANS} scans; save it again with fewer")
    if width < 1 or height < 1 or spec.depth > 1 or spec.deep:
        raise InputError(f"{file} is not a flat image ({width} x {height} x {spec.depth}); export a flattened copy")
    photometric = spec.get_int_attribute("tiff:PhotometricInterpretation", 2)
    if photometric == _CMYK_PHOTOMETRIC or (
        format == "jpeg" and spec.get_string_attribute("jpeg:ColorSpace") in ("CMYK", "YCCK")
    ):
        raise InputError(f"{file} is a CMYK {name}; convert it to RGB")
    if photometric not in _TIFF_PHOTOMETRICS:
        raise InputError(f"{file} is a TIFF with the colour encoding {photometric}; convert it to RGB or grey")
    names = tuple(spec.channelnames)
    if names not in _COLOUR_CHANNELS:
        listed = ", ".join(map(ascii, names[:8])) + (", ..." if len(names) > 8 else "")
        raise InputError(f"{file} has the channels {listed}; export only R, G, B or Y, with or without A")
    for sample in {str(spec.format), *(str(x) for x in spec.channelformats)}:
        if sample not in _SAMPLES[format]:
            wanted = " or ".join(_SAMPLES[format])
            raise InputError(f"{file} has {sample} samples; export the {name} with {wanted} samples")
    return _COLOUR_CHANNELS[names]


def _count_scans(file: pathlib.Path) -> int:
    """Scans up to the end of the picture: what follows it, such as the film of a motion photo, is not looked at."""
    scans = 0
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(b"\xff", 2)
        while 0 <= at < len(data) - 3 and scans <= _MOST_JPEG_SCANS:
            marker = data[at + 1]
            if marker == _END_OF_IMAGE:
                break
            if marker in _WITHOUT_LENGTH:
                at += 1 if marker == 0xFF else 2
            else:
                scans += marker == _START_OF_SCAN
                at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            at = data.find(b"\xff", at)
    return scans


def upright(pixels: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """(H, W, C) turned as the EXIF orientation 1 to 8 asks."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    # Tensors have no negative strides, not even along a dimension of one pixel, which counts as contiguous.
    return pixels if orientation in (1, 5) else pixels.copy()


def _message(source: Any) -> str:
    """The pending error of OpenImageIO or of one of its readers, cleared."""
    try:
        return str(source.geterror())
    except UnicodeDecodeError:
        return "its header is damaged"


def _corrupt(file: pathlib.Path, name: str, reason: str) -> InputError:
    if reason.startswith("Subsampled channels"):
        return InputError(f"{file} is a luma/chroma {name} (subsampled channels); convert it to RGB")
    reason = " ".join(reason.split())[:200].rstrip(".") or "no reason given"
    return InputError(f"{file} cannot be read as {name} ({reason}); it may be truncated; copy it again")
