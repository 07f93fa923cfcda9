"""Radiance HDR: the header, and the pixels of files without run lengths or with those of the first version.

OpenImageIO reads the run lengths of the second version only, takes those of the first for colours, and confuses two
of the eight orientations.
"""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from hdrops.io.errors import InputError

_LONGEST_HEADER = 1 << 16
# Rows and columns as they are stored, and the EXIF orientation that says the same.
_ORIENTATIONS = {
    (b"-Y", b"+X"): 1,
    (b"-Y", b"-X"): 2,
    (b"+Y", b"-X"): 3,
    (b"+Y", b"+X"): 4,
    (b"+X", b"-Y"): 5,
    (b"-X", b"-Y"): 6,
    (b"-X", b"+Y"): 7,
    (b"+X", b"+Y"): 8,
}
_EXPONENT_OF_ONE = 128 + 8
_SHORTEST_RUN_ROW, _LONGEST_RUN_ROW = 8, 0x7FFF


@dataclass(frozen=True)
class Header:
    """What stands before the pixels.

    Attributes:
        height, width: of the pixels as they are stored.
        orientation: EXIF orientation, 1 to 8.
        start: offset of the pixels.
        runs: whether the first row has run lengths of the second version.
    """

    height: int
    width: int
    orientation: int
    start: int
    runs: bool


def read_header(file: pathlib.Path) -> Header:
    """Read the header of a file that begins with ``#?``.

    Raises:
        InputError: no complete header, or colours other than RGB.
    """
    with open(file, "rb") as stream:
        text = stream.read(_LONGEST_HEADER)
    end = text.find(b"\n\n")
    size = re.compile(rb"([-+][XY]) +(\d{1,9}) +([-+][XY]) +(\d{1,9}) *\n").match(text, end + 2)
    axes = (size[1], size[3]) if size else None
    if end < 0 or size is None or axes not in _ORIENTATIONS:
        raise InputError(
            f"{file} cannot be read as Radiance HDR (its header is damaged); it may be truncated; copy it again"
        )
    if b"\nFORMAT=32-bit_rle_xyze" in text[:end]:
        raise InputError(f"{file} is a Radiance HDR of XYZ colours; convert it to RGB")
    height, width = int(size[2]), int(size[4])
    first = text[size.end() : size.end() + 4]
    runs = (
        _SHORTEST_RUN_ROW <= width <= _LONGEST_RUN_ROW
        and first[:2] == b"\x02\x02"
        and int.from_bytes(first[2:], "big") == width
    )
    return Header(height, width, _ORIENTATIONS[axes], size.end(), runs)


def read_pixels(file: pathlib.Path, header: Header) -> np.ndarray[Any, Any]:
    """(H, W, 3) float32 pixels of a file whose rows are not run lengths of the second version.

    Raises:
        InputError: too few pixels, or too many.
    """
    count = header.height * header.width
    with open(file, "rb") as stream:
        stream.seek(header.start)
        pixels = _expand(stream, count)
    if len(pixels) != count:
        raise InputError(
            f"{file} cannot be read as Radiance HDR ({len(pixels)} pixels of {count}); it may be truncated; "
            "copy it again"
        )
    colours, exponents = pixels[:, :3], pixels[:, 3:].astype(np.int32)
    linear = colours.astype(np.float32)
    np.ldexp(linear, exponents - _EXPONENT_OF_ONE, out=linear)
    linear[exponents[:, 0] == 0] = 0
    rows: np.ndarray[Any, Any] = linear.reshape(header.height, header.width, 3)
    return rows


def _expand(stream: IO[bytes], count: int) -> np.ndarray[Any, Any]:
    """(N, 4) bytes of the stream, N <= count + 1, with runs of the first version expanded.

    There, (1, 1, 1, n) repeats the pixel before it n times; directly after another such mark, n counts 256 times as
    much, and so on.
    """
    stored = np.frombuffer(stream.read(4 * count), dtype=np.uint8)
    stored = stored[: len(stored) // 4 * 4].reshape(-1, 4)
    marks = (stored[:, :3] == 1).all(1)
    if not marks.any():
        return stored
    # Place of each mark in its chain of marks: 0, 1, 2, ...
    places = np.arange(len(stored))
    chain = places - np.maximum.accumulate(np.where(marks, -1, places)) - 1
    repeats = np.where(marks, stored[:, 3].astype(np.int64) << np.minimum(8 * chain, 32), 1)
    source = np.maximum.accumulate(np.where(marks, -1, places))
    ends = np.cumsum(np.minimum(repeats, count + 1))
    used = int(np.searchsorted(ends, count)) + 1
    if source[0] < 0:  # a run of nothing
        return stored[:0]
    repeats = np.minimum(repeats, count + 1)[:used]
    expanded: np.ndarray[Any, Any] = np.repeat(stored[source[:used]], repeats, axis=0)[: count + 1]
    return expanded
