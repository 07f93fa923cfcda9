"""Small valid files of every format, from which the fuzzer starts."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import image_files
import numpy as np
import raw_files

_PROFILE = image_files.icc_profile(b"RGB ")
_EXIF = {
    "ExposureTime": 0.01,
    "FNumber": 5.6,
    "Exif__PhotographicSensitivity": 100,
    "Make": "Maker",
    "Model": "Camera 1",
    "Exif__DateTimeOriginal": "2024:05:06 07:08:09",
    "Orientation": 6,
    "ICCProfile": _PROFILE,
}


def _codes(channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    return image_files.smooth(12, 20, channels, np.iinfo(dtype).max).astype(dtype)


def _linear(channels: int = 3) -> np.ndarray:
    return image_files.smooth(12, 20, channels, 9) + 0.01


def _png(folder: pathlib.Path) -> None:
    image_files.write(folder / "8.png", _codes(), **_EXIF)
    image_files.write(folder / "16.png", _codes(4, np.uint16))
    image_files.write(folder / "grey.png", _codes(1))
    palette = image_files.png_chunk(b"PLTE", bytes(range(48)))
    (folder / "palette.png").write_bytes(
        image_files.png(4, 2, b"\0\x12\x34\0\x56\x78", bits=4, colour=3, extra=palette)
    )


def _tiff(folder: pathlib.Path) -> None:
    for compression in ("none", "zip", "lzw", "packbits", "jpeg"):
        image_files.write(folder / f"{compression}.tif", _codes(), compression=compression, **_EXIF)
    image_files.write(folder / "16.tif", _codes(4, np.uint16))
    image_files.write(folder / "float.tif", _linear(1))
    image_files.write(folder / "tiles.tif", _codes(), compression="none", planarconfig="separate")


def _jpeg(folder: pathlib.Path) -> None:
    image_files.write(folder / "baseline.jpg", _codes(), **_EXIF)
    image_files.write(folder / "progressive.jpg", _codes(), jpeg__progressive=1)
    image_files.write(folder / "grey.jpg", _codes(1))
    (folder / "cmyk.jpg").write_bytes(image_files.cmyk_jpeg())


def _openexr(folder: pathlib.Path) -> None:
    for compression in ("none", "rle", "zip", "zips", "piz", "pxr24", "b44", "dwaa"):
        image_files.write(folder / f"{compression}.exr", _linear(), sample="half", compression=compression)
    image_files.write(folder / "float.exr", _linear(4), names=("R", "G", "B", "A"), Make="Maker")


def _hdr(folder: pathlib.Path) -> None:
    image_files.write(folder / "new.hdr", _linear())
    header = b"#?RADIANCE\nEXPOSURE=2\nFORMAT=32-bit_rle_rgbe\n\n+X 4 -Y 3\n"
    (folder / "old.hdr").write_bytes(header + b"\x09\x08\x07\x80\1\1\1\5" + b"\x19\x18\x17\x81\1\1\1\5")


def _raw(folder: pathlib.Path) -> None:
    sensor = np.random.default_rng(0).integers(64, 4096, (24, 30)).astype(np.uint16)
    (folder / "a.dng").write_bytes(raw_files.dng(sensor, noise=(1e-4, 1e-6) * 3))
    (folder / "b.dng").write_bytes(raw_files.dng(sensor, pattern="GBRG", orientation=8, changed={50728: None}))


def _heif(folder: pathlib.Path) -> None:
    import pillow_heif
    from PIL import Image

    picture = Image.fromarray(_codes())
    for name, options in (("lossy", {"quality": 60}), ("lossless", {"quality": -1, "chroma": 444})):
        pillow_heif.from_pillow(picture).save(folder / f"{name}.heic", icc_profile=_PROFILE, **options)
    exif = Image.Exif()
    exif[274] = 6
    picture.save(folder / "a.avif", exif=exif)


# Of each format: the maker of its files, and the ending that the fuzzer's inputs get.
FORMATS: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    "png": (_png, ".png"),
    "tiff": (_tiff, ".tif"),
    "jpeg": (_jpeg, ".jpg"),
    "openexr": (_openexr, ".exr"),
    "hdr": (_hdr, ".hdr"),
    "raw": (_raw, ".dng"),
    "heif": (_heif, ".heic"),
}
