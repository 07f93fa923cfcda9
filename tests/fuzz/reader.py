"""Fuzz the reader of one format with atheris: ``reader.py FORMAT [libFuzzer's options and folders]``.

Whatever the bytes, reading gives a photograph or an ``InputError``. Anything else ends the process, and
libFuzzer saves the bytes: an exception, a crash or an exit of a C library, more than the time or memory of its options.
Files that are named instead of folders are read once each, to see a finding again.
"""

from __future__ import annotations

import contextlib
import pathlib
import struct
import sys
import tempfile
import zlib

import atheris

with atheris.instrument_imports(include=["hdrops.io"]):
    from hdrops.io import InputError, read_bayer, read_image

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from fuzz.seeds import FORMATS

MOST_PIXELS = 2**20
_PNG_SIGNATURE = 8


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have correct checksums, or libpng would look no further."""
    mended, place = bytearray(data), _PNG_SIGNATURE
    while place + 12 <= len(mended):
        end = place + 8 + struct.unpack(">I", mended[place : place + 4])[0]
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(mended[place + 4 : end]))
        place = end + 4
    return bytes(mended)


def main() -> None:
    name = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / f"input{FORMATS[name][1]}"
        calls = (read_image, read_bayer) if name == "raw" else (read_image,)

        def read(data: bytes) -> None:
            file.write_bytes(with_checksums(data) if name == "png" else data)
            for call in calls:
                with contextlib.suppress(InputError):
                    pixels = call(file, max_pixels=MOST_PIXELS).pixels
                    assert pixels.dim() == 3
                    assert 0 < pixels.numel() <= 4 * MOST_PIXELS

        atheris.Setup(sys.argv, read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
