"""Writing one image, whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import resource
import secrets
import shutil
import stat
from typing import IO, Any

import numpy as np
import torch

from hdrops.io import _stderr
from hdrops.io.errors import InputError
from hdrops.io.exposure import Exposure
from hdrops.io.metadata import Metadata, describe_exposure, describe_metadata

_CODES = {torch.uint8: "uint8", torch.uint16: "uint16"}
_LINEAR = {torch.float16: "half", torch.float32: "float"}
_PNG_FILTER_UP = 0x20  # with level 1, a picture of 12 megapixels takes 0.3 s instead of 2.5 s, and a quarter more room
_FORMATS = {
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".exr": "openexr",
    ".hdr": "hdr",
}
_LINEAR_EXTENSIONS = (".exr", ".hdr")
_ROOM_FOR_METADATA = 1 << 24  # bytes


def write_image(
    path: str | os.PathLike[str],
    pixels: torch.Tensor,
    *,
    exposure: Exposure | None = None,
    metadata: Metadata | None = None,
    quality: int = 95,
) -> None:
    """Write an image in the format that the file's extension names: .png .tif .tiff .jpg .jpeg .exr .hdr.

    PNG, TIFF (deflated) and OpenEXR (zip) keep every bit; JPEG and Radiance HDR do not. Radiance HDR has no
    grey: one channel is written as three equal ones. The file appears under its name only when it is
    complete; an older file of that name stays intact until then. A symbolic link is followed.

    Args:
        path: the file to write.
        pixels: (C, H, W), C = 1 or 3, upright: uint8 or uint16 codes (uint16 not to JPEG), or float32 or
            float16 linear light, finite (and non-negative for .hdr), which only .exr and .hdr take. An
            OpenEXR file has 32-bit or half samples as the pixels have.
        exposure: to be stored, the sensitivity as an integer. JPEG and PNG may cut the time to whole
            microseconds. Radiance HDR holds none.
        metadata: to be stored. PNG, TIFF and JPEG hold all of it, but TIFF no altitude below the sea, and a
            colour profile only if it is of the same number of colours as the pixels. OpenEXR holds no colour
            profile, Radiance HDR nothing.
        quality: of JPEG, 1 to 100. Colour is not subsampled.

    Raises:
        InputError: an unknown extension, a tensor that the format cannot hold, a place that cannot be
            written.
    """
    target, extension = _target(path)
    sample = _check_pixels(target, extension, pixels)
    with _encode(target, extension, pixels, sample, exposure, metadata, quality) as encoded:
        _replace(target, encoded)


def encode_image(pixels: torch.Tensor, extension: str, quality: int = 95) -> bytes:
    """The bytes of the file that :func:`write_image` would write, without metadata.

    Raises:
        InputError: as for :func:`write_image`.
    """
    name = pathlib.Path(f"image{extension}")
    _check_extension(name)
    sample = _check_pixels(name, extension, pixels)
    with _encode(name, extension, pixels, sample, None, None, quality) as encoded:
        return encoded.read()


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write any file as :func:`write_image` writes images: it appears under its name only when it is complete.

    Raises:
        InputError: a place that cannot be written.
    """
    _replace(_place(path), io.BytesIO(content))


def check_place(path: str | os.PathLike[str]) -> None:
    """Make sure, before long work, that a file could be written to ``path``, whatever its extension.

    Raises:
        InputError: a missing or unwritable folder, or something that is not a file at ``path``.
    """
    _create_temporary(_place(path)).unlink()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make sure, before long work, that an image could be written to ``path``.

    Raises:
        InputError: an unknown extension, a missing or unwritable folder, or something that is not a file at
            ``path``.
    """
    _create_temporary(_target(path)[0]).unlink()


def _target(path: str | os.PathLike[str]) -> tuple[pathlib.Path, str]:
    """The file that ``path`` stands for, links followed, and the extension of ``path`` in lower case."""
    extension = _check_extension(path)
    return _place(path), extension


def _check_extension(path: str | os.PathLike[str]) -> str:
    extension = pathlib.Path(path).suffix.lower()
    if extension not in _FORMATS:
        raise InputError(f"cannot write {path}: unknown extension {extension!r}; use one of {' '.join(_FORMATS)}")
    return extension


def _place(path: str | os.PathLike[str]) -> pathlib.Path:
    """The file that ``path`` stands for, links followed; a file may be written there."""
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} is not a file name (it holds a null character); check the path")
    try:
        target = pathlib.Path(os.path.realpath(path))
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(target).st_mode
            if not stat.S_ISREG(mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
                raise InputError(f"cannot write {path}: it is {kind}; give another file name")
        if not stat.S_ISDIR(os.stat(target.parent).st_mode):
            raise InputError(f"cannot write {path}: {target.parent} is no folder; give another folder")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; check its folder") from error
    return target


def _replace(target: pathlib.Path, content: IO[bytes]) -> None:
    """Put a file in the place of another, whole or not at all."""
    temporary = _create_temporary(target)
    try:
        with open(temporary, "wb") as stream:
            shutil.copyfileobj(content, stream, 1 << 20)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}; check its folder and the free space") from error
    finally:
        temporary.unlink(missing_ok=True)


def _create_temporary(target: pathlib.Path) -> pathlib.Path:
    """An empty file beside the target, with the permissions that the umask leaves."""
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        raise InputError(f"cannot write into {target.parent}: {error.strerror}; give another folder") from error
    return temporary


def _check_pixels(target: pathlib.Path, extension: str, pixels: torch.Tensor) -> str:
    """Refuse what the format cannot hold; otherwise the sample type to write."""
    if pixels.dim() != 3 or pixels.shape[0] not in (1, 3) or 0 in pixels.shape:
        raise InputError(f"an image must be (C, H, W) with 1 or 3 channels, got shape {tuple(pixels.shape)}")
    if pixels.dtype in _CODES:
        if extension in _LINEAR_EXTENSIONS:
            raise InputError(
                f"{target.name}: {extension} holds linear light, got {pixels.dtype} codes; "
                "linearise them to float32, or write .png or .tif"
            )
        if pixels.dtype == torch.uint16 and extension in (".jpg", ".jpeg"):
            raise InputError(f"{target.name}: JPEG holds 8 bits, got 16-bit codes; write .png or .tif")
        return _CODES[pixels.dtype]
    if pixels.dtype not in _LINEAR:
        raise InputError(
            f"{target.name}: pixels must be uint8, uint16, float16 or float32, got {pixels.dtype}; convert"
        )
    if extension not in _LINEAR_EXTENSIONS:
        raise InputError(
            f"{target.name}: {extension} holds 8-bit or 16-bit codes, got {pixels.dtype}; "
            "quantise with hdrops.io.to_codes, or write .exr or .hdr"
        )
    low, high = (float(x) for x in torch.aminmax(pixels.detach().float()))
    if not (-np.inf < low and high < np.inf):
        raise InputError(f"{target.name}: pixels hold NaN or infinite values; repair them first")
    if extension == ".hdr" and low < 0:
        raise InputError(f"{target.name}: Radiance HDR holds no negative values, got {low:g}; clamp it or write .exr")
    return "float" if extension == ".hdr" else _LINEAR[pixels.dtype]


def _encode(
    target: pathlib.Path,
    extension: str,
    pixels: torch.Tensor,
    sample: str,
    exposure: Exposure | None,
    metadata: Metadata | None,
    quality: int,
) -> IO[bytes]:
    """The file of (C, H, W) pixels, in memory.

    On a full disk OpenImageIO's PNG and TIFF writers may report success, and libjpeg ends the process: they
    never see the disk.
    """
    import OpenImageIO as oiio

    if not 1 <= quality <= 100:
        raise InputError(f"quality must be 1 to 100, got {quality}")
    if extension == ".hdr":
        pixels = pixels.float().expand(3, -1, -1)
    channels_last: np.ndarray[Any, Any] = pixels.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    # The memory that stands for a file is a file to this limit, which libjpeg too answers by ending the process.
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < 2 * channels_last.nbytes + _ROOM_FOR_METADATA:
        raise InputError(f"cannot write {target}: files are limited to {limit} bytes here; raise that by ulimit -f")
    format = _FORMATS[extension]
    height, width, channels = channels_last.shape
    spec = oiio.ImageSpec(width, height, channels, sample)
    if format == "jpeg":
        spec.attribute("Compression", f"jpeg:{quality}")
        spec.attribute("jpeg:subsampling", "4:4:4")
    elif format == "png":
        spec.attribute("png:compressionLevel", 1)
        spec.attribute("png:filter", _PNG_FILTER_UP)
    elif format != "hdr":
        spec.attribute("Compression", "zip")
    if exposure is not None:
        describe_exposure(spec, exposure, format)
    if metadata is not None:
        describe_metadata(spec, metadata, format)
    encoded = open(os.memfd_create("image"), "r+b")  # noqa: SIM115  (the caller closes it)
    name = f"/proc/self/fd/{encoded.fileno()}"
    output = oiio.ImageOutput.create(format)
    # A writer that did not open must not be written to: some crash. The calls report by their results; a
    # message may be left behind in spite of success.
    assert output is not None
    with _stderr.without_library_messages():  # libpng speaks of a colour profile that it does not like
        done = output.open(name, spec)
        done = done and output.write_image(channels_last)
        done = output.close() and done
    if not done:
        encoded.close()
        raise InputError(f"cannot write {target} as {format} ({output.geterror()}); check the image's size")
    return encoded
