"""Reading one photograph."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import stat
from typing import Any

import numpy as np
import torch

from hdrops.io import _stderr
from hdrops.io.errors import InputError
from hdrops.io.photograph import Exposure, Photograph

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\x76\x2f\x31\x01": "openexr",
    b"#?": "hdr",
}
_NAMES = {"png": "PNG", "jpeg": "JPEG", "tiff": "TIFF", "openexr": "OpenEXR", "hdr": "Radiance HDR"}
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
_CMYK_PHOTOMETRIC = 5
_TIFF_PHOTOMETRICS = (0, 1, 2, 3, 6)  # white is zero, black is zero, RGB, palette, YCbCr


def read_image(path: str | os.PathLike[str], *, max_pixels: int = 2**28) -> Photograph:
    """Read a PNG, TIFF, JPEG, OpenEXR or Radiance HDR file. Its content decides the format, not its name.

    Codes stay as they are stored, 8-bit or 16-bit; smaller ones are scaled up, palettes expanded.
    Floating-point samples become float32. The pixels are turned upright by the file's orientation. Alpha is
    dropped: nothing is composited, multiplied or divided, so colours stored as premultiplied stay so. Of
    several images in a file the first is read; of an OpenEXR file the data window. Colour profiles are not
    applied.

    Args:
        path: the file.
        max_pixels: refuse images with more pixels than this, before any pixel is read.

    Returns:
        The photograph.

    Raises:
        InputError: no such file, an unknown format, truncated or corrupt data, too many pixels, NaN or
            infinity, or channels other than grey or RGB with or without alpha (CMYK, luma/chroma OpenEXR,
            layers).
    """
    import OpenImageIO as oiio

    file = pathlib.Path(path)
    if "\0" in str(file) or not _is_utf8(str(file)):
        raise InputError(f"{str(file)!a} has a null character or is not UTF-8; rename the file")
    format = _detect_format(file)
    name = _NAMES[format]
    configuration = oiio.ImageSpec()
    configuration.attribute("oiio:UnassociatedAlpha", 1)  # or OpenImageIO would multiply the colours by alpha
    quiet = _stderr.without_libpng_messages() if format == "png" else contextlib.nullcontext()
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
                sample = str(spec.format)
                pixels = source.read_image(sample if sample in ("uint8", "uint16") else "float")
                if pixels is None or source.has_error:
                    raise _corrupt(file, name, _message(source))
            finally:
                source.close()
    except MemoryError as error:
        raise InputError(f"{file} does not fit into memory; reduce it") from error

    pixels = pixels[..., :channels]
    if pixels.dtype == np.float32:
        broken = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
        if broken:
            raise InputError(f"{file} has {broken} NaN or infinite values of {pixels.size}; repair or re-render it")
    return Photograph(
        pixels=torch.from_numpy(_upright(pixels, spec.get_int_attribute("Orientation", 1)))
        .permute(2, 0, 1)
        .contiguous(),
        path=file,
        exposure=_exposure(spec),
        format=format,
        bits=8 * pixels.itemsize,
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _detect_format(file: pathlib.Path) -> str:
    try:
        mode = os.stat(file).st_mode
        if not stat.S_ISREG(mode):  # a pipe or a device could block, or never end
            raise InputError(f"{file} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; give an image file")
        with open(file, "rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; check the path and its permissions") from error
    if not head:
        raise InputError(f"{file} is empty (0 bytes); copy or export it again")
    for signature, format in _SIGNATURES.items():
        if head.startswith(signature):
            return format
    raise InputError(
        f"{file} is not a PNG, TIFF, JPEG, OpenEXR or Radiance HDR image (it begins with {head[:8]!r}); "
        "convert it to one of these"
    )


def _check_header(file: pathlib.Path, name: str, format: str, spec: Any, max_pixels: int) -> int:
    """Refuse what cannot be read faithfully; otherwise the number of colour channels."""
    width, height = spec.width, spec.height
    if width * height > max_pixels or spec.tile_width * spec.tile_height > max_pixels:
        raise InputError(
            f"{file} has {width} x {height} pixels, more than the limit of {max_pixels}; reduce it or raise max_pixels"
        )
    if format == "jpeg" and width * height > _JPEG_PIXELS_PER_BYTE * file.stat().st_size:
        raise InputError(f"{file} is too short for {width} x {height} pixels; it may be truncated, copy it again")
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


def _upright(pixels: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """(H, W, C) turned as the EXIF orientation 1 to 8 asks, as copies of no data."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    # Tensors have no negative strides.
    return pixels if orientation in (1, 5) else np.ascontiguousarray(pixels)


def _exposure(spec: Any) -> Exposure:
    def positive(attribute: str) -> float | None:
        value = np.float32(spec.get_float_attribute(attribute, 0.0))
        # The shortest decimal that rounds to the same float32: 5.6, not 5.599999904632568.
        return float(str(value)) if 0 < value < math.inf else None

    time = positive("ExposureTime")
    if time is not None and time < 1:
        fraction = 1 / round(1 / time)  # 1/30 is stored as 0.0333333, by some even as 0.033333
        time = fraction if abs(fraction - time) < 2e-5 * time else time
    iso = positive("Exif:PhotographicSensitivity")
    if iso is None or iso >= 65535:  # by EXIF 2.3, 65535 there means that the value needs more bits
        wider = ("Exif:ISOSpeed", "Exif:RecommendedExposureIndex", "Exif:StandardOutputSensitivity")
        iso = next((value for value in map(positive, wider) if value is not None), iso)
    return Exposure(time=time, f_number=positive("FNumber"), iso=iso)


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
