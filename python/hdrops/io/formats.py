"""Which format a file has, by its content, and the endings that such files mostly have."""

from __future__ import annotations

import os
import pathlib
import stat
import struct
from typing import IO

from hdrops.io.errors import InputError

NAMES = {
    "png": "PNG",
    "jpeg": "JPEG",
    "tiff": "TIFF",
    "openexr": "OpenEXR",
    "hdr": "Radiance HDR",
    "heif": "HEIC or AVIF",
    "raw": "camera RAW",
}
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".exr", ".hdr", ".heic", ".heif", ".avif")
RAW_ENDINGS = (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".raf", ".rw2", ".orf", ".pef", ".srw", ".3fr", ".iiq")

_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\x76\x2f\x31\x01": "openexr",
    b"#?": "hdr",
    b"FUJIFILMCCD-RAW": "raw",
    b"IIU\0": "raw",
    b"IIRO": "raw",
    b"IIRS": "raw",
    b"MMOR": "raw",
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis", b"mif2")
_CR3_BRAND = b"crx "
_NEW_SUBFILE_TYPE, _DNG_VERSION = 254, 50706
_REDUCED = 1


def check_name(file: pathlib.Path) -> None:
    """Refuse a name that the libraries cannot open.

    Raises:
        InputError: a null character, or bytes that are not UTF-8.
    """
    try:
        str(file).encode()
    except UnicodeEncodeError:
        broken = True
    else:
        broken = "\0" in str(file)
    if broken:
        raise InputError(f"{str(file)!a} has a null character or is not UTF-8; rename the file")


def detect_format(file: pathlib.Path) -> str:
    """A key of ``NAMES``.

    Raises:
        InputError: no regular file, an empty one, or an unknown format.
    """
    try:
        mode = os.stat(file).st_mode
        if not stat.S_ISREG(mode):  # a pipe or a device could block, or never end
            raise InputError(f"{file} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; give an image file")
        with open(file, "rb") as stream:
            head = stream.read(256)
            raw = head[:4] in _TIFF_ORDERS and (file.suffix.lower() in RAW_ENDINGS or _holds_raw(stream, head))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; check the path and its permissions") from error
    if not head:
        raise InputError(f"{file} is empty (0 bytes); copy or export it again")
    if b"#?RADIANCE\r\n" in head or b"#?RGBE\r\n" in head:
        raise InputError(
            f"{file} is a Radiance HDR file whose line ends were converted, which destroys its pixels; "
            "copy it again, in binary mode"
        )
    if raw:
        return "raw"
    for signature, format in _SIGNATURES.items():
        if head.startswith(signature):
            return format
    if head[4:8] == b"ftyp":
        if head[8:12] == _CR3_BRAND:
            return "raw"
        if head[8:12] in _HEIF_BRANDS:
            return "heif"
    raise InputError(
        f"{file} is not a PNG, TIFF, JPEG, OpenEXR, Radiance HDR, HEIC, AVIF or camera RAW image "
        f"(it begins with {head[:8]!r}); convert it to one of these"
    )


def _holds_raw(stream: IO[bytes], head: bytes) -> bool:
    """Whether a TIFF is the container of a camera: a DNG, a CR2, or one that begins with a preview."""
    if head[8:10] == b"CR":
        return True
    order = _TIFF_ORDERS[head[:4]]
    try:
        stream.seek(struct.unpack(f"{order}I", head[4:8])[0])
        for _ in range(struct.unpack(f"{order}H", stream.read(2))[0]):
            tag, _, _, value = struct.unpack(f"{order}HHII", stream.read(12))
            if tag == _DNG_VERSION or (tag == _NEW_SUBFILE_TYPE and value == _REDUCED):
                return True
    except struct.error:  # cut short
        return False
    return False
