import contextlib
import os
import struct
import subprocess
import sys
import zlib

import image_files
import numpy as np
import pytest
import torch

from hdrops.io import Exposure, InputError, Photograph, read_image, write_image


def planar(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def refused(path, *words, **options):
    with pytest.raises(InputError) as caught:
        read_image(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message
    return message


def test_import_is_light():
    code = (
        "import sys, hdrops.io; heavy = 'OpenImageIO rawpy pillow_heif PIL cv2 typer rich matplotlib'; "
        "sys.exit(bool({*heavy.split()} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "levels", "dtype", "format", "bits"),
    [
        ("a.png", 255, np.uint8, "png", 8),
        ("a.png", 65535, np.uint16, "png", 16),
        ("a.tif", 255, np.uint8, "tiff", 8),
        ("a.tif", 65535, np.uint16, "tiff", 16),
        ("a.tif", 7, np.float32, "tiff", 32),
        ("a.exr", 7, np.float32, "openexr", 32),
    ],
)
def test_lossless_pixels(tmp_path, name, levels, dtype, format, bits, channels):
    pixels = image_files.smooth(13, 17, channels, levels).astype(dtype)
    image_files.write(tmp_path / name, pixels, names=("Y",) if channels == 1 else None)
    photograph = read_image(tmp_path / name)
    assert isinstance(photograph, Photograph)
    assert photograph.pixels.is_contiguous()
    torch.testing.assert_close(photograph.pixels, planar(pixels), rtol=0, atol=0)
    assert (photograph.path, photograph.format, photograph.bits) == (tmp_path / name, format, bits)
    assert photograph.exposure == Exposure()


def test_half_exr_becomes_float32(tmp_path):
    pixels = image_files.smooth(5, 7, 3, 100).astype(np.float16).astype(np.float32)
    image_files.write(tmp_path / "a.exr", pixels, sample="half")
    assert torch.equal(read_image(str(tmp_path / "a.exr")).pixels, planar(pixels))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_pixels(tmp_path, channels):
    pixels = image_files.smooth(40, 50, channels, 255).astype(np.uint8)
    image_files.write(tmp_path / "a.jpg", pixels, Compression="jpeg:98", jpeg__subsampling="4:4:4")
    photograph = read_image(tmp_path / "a.jpg")
    assert (photograph.format, photograph.bits, photograph.pixels.dtype) == ("jpeg", 8, torch.uint8)
    assert (photograph.pixels.int() - planar(pixels).int()).abs().max() <= 6


def test_hdr_pixels(tmp_path):
    pixels = image_files.smooth(9, 20, 3, 50) + 0.1
    image_files.write(tmp_path / "a.hdr", pixels)
    photograph = read_image(tmp_path / "a.hdr")
    assert (photograph.format, photograph.bits) == ("hdr", 32)
    error = (photograph.pixels - planar(pixels)).abs() / planar(pixels).amax(0)
    assert error.max() <= 1 / 128


@pytest.mark.parametrize("extension", [".jpg", ".png", ".tif", ".exr"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, extension, orientation):
    # Corners of an upright picture, and what EXIF says is stored in its place.
    upright = np.zeros((16, 32, 1), np.uint8)
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = 250, 170, 90
    picture = upright[..., 0]
    stored = {
        1: picture,
        2: np.fliplr(picture),
        3: np.rot90(picture, 2),
        4: np.flipud(picture),
        5: picture.T,
        6: np.rot90(picture, 1),
        7: np.rot90(picture, 2).T,
        8: np.rot90(picture, -1),
    }[orientation][..., None]
    path = tmp_path / f"a{extension}"
    if extension == ".exr":
        image_files.write(path, stored.astype(np.float32), names=("Y",), Orientation=orientation)
    else:
        image_files.write(path, stored, Orientation=orientation)
    pixels = read_image(path).pixels
    assert pixels.is_contiguous()
    np.testing.assert_allclose(pixels[0].numpy(), picture, atol=3)


def test_orientation_in_colour_and_16_bits(tmp_path):
    pixels = image_files.smooth(6, 10, 3, 65535).astype(np.uint16)
    image_files.write(tmp_path / "a.tif", np.rot90(pixels, 1), Orientation=6)
    assert torch.equal(read_image(tmp_path / "a.tif").pixels, planar(pixels))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_orientation_of_lines(tmp_path, orientation, size):
    pixels = np.arange(3 * size[0] * size[1], dtype=np.uint8).reshape(*size, 3)
    image_files.write(tmp_path / "a.png", pixels, Orientation=orientation)
    read = read_image(tmp_path / "a.png").pixels
    assert read.shape[1:] == (size[::-1] if orientation > 4 else size)
    assert sorted(read.flatten().tolist()) == list(range(pixels.size))


@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_dropped_and_changes_no_colour(tmp_path, extension, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, channels), dtype=np.uint8)
    names = ("Y", "A") if channels == 2 else ("R", "G", "B", "A")
    image_files.write(tmp_path / f"a{extension}", pixels, names=names, oiio__UnassociatedAlpha=1)
    assert torch.equal(read_image(tmp_path / f"a{extension}").pixels, planar(pixels[..., :-1]))


def test_exr_alpha_is_dropped(tmp_path):
    pixels = image_files.smooth(6, 5, 4, 1)
    image_files.write(tmp_path / "a.exr", pixels, names=("R", "G", "B", "A"))
    assert torch.equal(read_image(tmp_path / "a.exr").pixels, planar(pixels[..., :3]))


def test_palette_is_expanded(tmp_path):
    palette = image_files.png_chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    (tmp_path / "a.png").write_bytes(image_files.png(2, 2, b"\0\0\1\0\1\0", colour=3, extra=palette))
    pixels = read_image(tmp_path / "a.png").pixels
    assert pixels.tolist() == [[[10, 40], [40, 10]], [[20, 50], [50, 20]], [[30, 60], [60, 30]]]


def test_palette_with_transparency(tmp_path):
    extra = image_files.png_chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])) + image_files.png_chunk(b"tRNS", b"\x80")
    (tmp_path / "a.png").write_bytes(image_files.png(2, 1, b"\0\0\1", colour=3, extra=extra))
    assert read_image(tmp_path / "a.png").pixels.tolist() == [[[10, 40]], [[20, 50]], [[30, 60]]]


def test_codes_of_few_bits_fill_the_range(tmp_path):
    (tmp_path / "a.png").write_bytes(image_files.png(2, 2, b"\0\x3f\0\x40", bits=4, colour=0))
    assert read_image(tmp_path / "a.png").pixels.tolist() == [[[51, 255], [68, 0]]]


def test_cmyk_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(image_files.cmyk_jpeg())
    refused(tmp_path / "a.jpg", "CMYK", "RGB")
    pixels = np.zeros((4, 4, 4), np.uint8)
    image_files.write(tmp_path / "a.tif", pixels, tiff__ColorSpace="CMYK", tiff__PhotometricInterpretation=5)
    refused(tmp_path / "a.tif", "CMYK", "RGB")


@pytest.mark.parametrize("names", [("R", "G", "B", "Z"), ("Z",), ("R", "G"), ("Y", "RY", "BY"), ("l.R", "l.G", "l.B")])
def test_other_exr_channels_are_refused(tmp_path, names):
    image_files.write(tmp_path / "a.exr", np.zeros((4, 4, len(names)), np.float32), names=names)
    refused(tmp_path / "a.exr", "channels", names[-1])


def test_integer_exr_is_refused(tmp_path):
    image_files.write(tmp_path / "a.exr", np.zeros((4, 4, 3), np.uint32), sample="uint")
    refused(tmp_path / "a.exr", "uint", "float")


def test_five_channel_tiff_is_refused(tmp_path):
    image_files.write(tmp_path / "a.tif", np.zeros((4, 4, 5), np.uint8))
    refused(tmp_path / "a.tif", "channels")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("extension", [".exr", ".tif"])
def test_not_finite(tmp_path, value, extension):
    pixels = np.ones((4, 4, 3), np.float32)
    pixels[1, 2, 0] = pixels[3, 3, 2] = value
    image_files.write(tmp_path / f"a{extension}", pixels)
    refused(tmp_path / f"a{extension}", "2 NaN or infinite values of 48")


def test_nan_under_dropped_alpha_does_not_count(tmp_path):
    pixels = np.ones((4, 4, 4), np.float32)
    pixels[0, 0, 3] = np.nan
    image_files.write(tmp_path / "a.exr", pixels, names=("R", "G", "B", "A"))
    assert torch.equal(read_image(tmp_path / "a.exr").pixels, torch.ones(3, 4, 4))


# ---- files that are no images, or not whole -------------------------------------------------------


def test_missing_empty_folder_and_device(tmp_path):
    refused(tmp_path / "none.png", "No such file")
    refused(tmp_path, "folder")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty", "0 bytes")
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "no regular file")
    with pytest.raises(InputError, match="null character"):
        read_image("a\0b.png")


def test_permission_denied(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(image_files.png(1, 1, b"\0\0\0\0"))

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    refused(tmp_path / "a.png", "Permission denied")


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif", ".exr", ".hdr"])
@pytest.mark.parametrize("content", [b"once upon a time\n" * 50, b"BM" + bytes(500), b"GIF89a" + bytes(99), b"\x89"])
def test_other_content_is_refused(tmp_path, extension, content):
    path = tmp_path / f"a{extension}"
    path.write_bytes(content)
    refused(path, "is not a PNG, TIFF, JPEG, OpenEXR, Radiance HDR, HEIC, AVIF or camera RAW image")


@pytest.mark.parametrize(
    "signature",
    [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"MM\0*", b"\x76\x2f\x31\x01", b"#?RADIANCE\n"],
)
@pytest.mark.parametrize("filler", [b"", bytes(300), b"\xff" * 300, b"\xac\xfe" * 300])
def test_a_signature_is_not_an_image(tmp_path, capfd, signature, filler):
    (tmp_path / "a.png").write_bytes(signature + filler)
    refused(tmp_path / "a.png", "cannot be read as")
    assert capfd.readouterr().err == ""


def test_wrong_extension_is_read_by_content(tmp_path):
    pixels = image_files.smooth(8, 8, 3, 65535).astype(np.uint16)
    image_files.write(tmp_path / "a.png", pixels)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.png").read_bytes())
    photograph = read_image(tmp_path / "a.jpg")
    assert photograph.format == "png"
    assert torch.equal(photograph.pixels, planar(pixels))


def test_header_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.exr").write_bytes(b"\x76\x2f\x31\x01\x02\0\0\0" + b"\xac" * 600)
    refused(tmp_path / "a.exr", "cannot be read as OpenEXR")
    image_files.write(tmp_path / "b.exr", np.zeros((4, 4, 1), np.float32), names=("Y",))
    content = (tmp_path / "b.exr").read_bytes()
    assert content.count(b"\x13\0\0\0Y\0") == 1
    (tmp_path / "b.exr").write_bytes(content.replace(b"\x13\0\0\0Y\0", b"\x13\0\0\0\xac\0"))
    assert refused(tmp_path / "b.exr", "channels").isprintable()


def test_file_name_that_is_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xac.png"
    with open(path, "wb") as stream:
        stream.write(image_files.png(1, 1, b"\0\1\2\3"))
    with pytest.raises(InputError, match="not UTF-8") as caught:
        read_image(os.fsdecode(path))
    assert str(caught.value).isprintable()


WHOLE_FILES = ["a.png", "16.png", "a.jpg", "progressive.jpg", "a.tif", "raw.tif", "16.tif", "a.exr", "a.hdr"]


def _whole_file(folder, name):
    path = folder / name
    if name.endswith(("exr", "hdr")):
        image_files.write(path, image_files.smooth(60, 80, 3, 5) + 0.01)
    else:
        levels, dtype = (65535, np.uint16) if name.startswith("16") else (255, np.uint8)
        options = {"progressive.jpg": {"jpeg__progressive": 1}, "raw.tif": {"compression": "none"}}.get(name, {})
        image_files.write(path, image_files.smooth(60, 80, 3, levels).astype(dtype), **options)
    return path.read_bytes()


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_truncation(tmp_path, capfd, name):
    content = _whole_file(tmp_path, name)
    whole = read_image(tmp_path / name).pixels
    size = len(content)
    refusals = 0
    cuts = {size * part // 20 for part in range(20)} | {
        size - 1,
        size - 2,
        size - 3,
        size - 4,
        size - 12,
        size - 13,
    }
    for cut in sorted(cuts):
        path = tmp_path / f"cut{cut}.{name.rsplit('.')[-1]}"
        path.write_bytes(content[:cut])
        try:
            pixels = read_image(path).pixels
        except InputError:
            refusals += 1
        else:
            assert torch.equal(pixels, whole), f"half a picture from {cut} of {size} bytes"
            assert name.endswith(".png"), "only the end mark of a PNG may be missing"
            assert cut >= size - 12
    assert refusals >= 20
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_corruption(tmp_path, capfd, name):
    content = _whole_file(tmp_path, name)
    rng = np.random.default_rng(0)
    path = tmp_path / f"bad.{name.rsplit('.')[-1]}"
    for trial in range(40):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content) if trial % 2 else 300, 4):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            read_image(path, max_pixels=2**20)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.exr", "a.hdr"])
def test_pixel_limit(tmp_path, name):
    _whole_file(tmp_path, name)
    assert read_image(tmp_path / name, max_pixels=60 * 80).pixels.shape == (3, 60, 80)
    refused(tmp_path / name, "80 x 60", "4799", "limit of", max_pixels=60 * 80 - 1)


def test_bombs_are_refused_before_they_expand(tmp_path):
    (tmp_path / "a.png").write_bytes(image_files.png(100_000, 100_000, bytes(1000)))
    refused(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(image_files.png(17_000, 17_000, bytes(1000), bits=1, colour=0))
    refused(tmp_path / "b.png", "17000 x 17000", "limit")
    content = bytearray(_whole_file(tmp_path, "a.jpg"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 16_000, 16_000)
    (tmp_path / "b.jpg").write_bytes(content)
    refused(tmp_path / "b.jpg", "too short for 16000 x 16000 pixels")


def test_what_follows_a_jpeg_is_not_looked_at(tmp_path):
    # Motion photos carry a film behind the picture, in which any marker can occur.
    path = tmp_path / "a.jpg"
    content = _whole_file(tmp_path, "progressive.jpg")
    path.write_bytes(content)
    alone = read_image(path).pixels
    path.write_bytes(content + b"\xff\xda" * 300 + os.urandom(1 << 20))
    assert torch.equal(read_image(path).pixels, alone)


def test_jpeg_of_endless_scans(tmp_path):
    content = _whole_file(tmp_path, "progressive.jpg")
    last = content.rindex(b"\xff\xda")
    path = tmp_path / "b.jpg"
    path.write_bytes(content[:last] + content[last:-2] * 300 + content[-2:])
    refused(path, "scans")


def test_compressed_text_in_a_png_does_not_expand(tmp_path):
    text = image_files.png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))
    (tmp_path / "a.png").write_bytes(image_files.png(1, 1, b"\0\1\2\3", extra=text))
    assert read_image(tmp_path / "a.png").pixels.flatten().tolist() == [1, 2, 3]


def test_what_others_print_meanwhile_is_passed_on(tmp_path, capfd, monkeypatch):
    import OpenImageIO as oiio

    opening = oiio.ImageInput.open

    def loud(*args):
        os.write(2, b"libpng error: noise\nanother program's line\n")
        return opening(*args)

    (tmp_path / "a.png").write_bytes(image_files.png(1, 1, b"\0\1\2\3"))
    monkeypatch.setattr(oiio.ImageInput, "open", loud)
    read_image(tmp_path / "a.png")
    assert capfd.readouterr().err == "another program's line\n"


# ---- exposure metadata ----------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".jpg", ".png", ".exr"])
def test_exif_of_other_programs(tmp_path, extension):
    pixels = np.zeros((8, 8, 3), np.float32 if extension == ".exr" else np.uint8)
    image_files.write(
        tmp_path / f"a{extension}",
        pixels,
        ExposureTime=1 / 30,
        FNumber=2.8,
        Exif__PhotographicSensitivity=200,
    )
    assert read_image(tmp_path / f"a{extension}").exposure == Exposure(time=1 / 30, f_number=2.8, iso=200)


def test_meaningless_exif_is_unknown(tmp_path):
    image_files.write(tmp_path / "a.exr", np.zeros((8, 8, 3), np.float32), ExposureTime=0.0, FNumber=float("inf"))
    assert read_image(tmp_path / "a.exr").exposure == Exposure()


def test_exposure_value():
    assert Exposure().value is None
    assert Exposure(f_number=2, iso=100).value is None
    assert Exposure(time=0.5).value == 0.5
    assert Exposure(time=0.5, f_number=2, iso=100).value == 12.5
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="time must be positive"):
            Exposure(time=wrong)


# ---- real photographs -----------------------------------------------------------------------------


def test_real_16_bit_png(data, tmp_path):
    photograph = read_image(data / "dynamic_gt/ntire21_000002/gt.png")
    assert (photograph.pixels.dtype, photograph.bits) == (torch.uint16, 16)
    write_image(tmp_path / "a.tif", photograph.pixels)
    assert torch.equal(read_image(tmp_path / "a.tif").pixels, photograph.pixels)


def test_real_exr(data):
    for name, size in (("StillLife", (3, 846, 1240)), ("Tree", (3, 906, 928))):
        assert read_image(data / f"hdr/openexr/{name}.exr").pixels.shape == size
    refused(data / "hdr/openexr/CrissyField.exr", "luma/chroma", "RGB")


def test_real_radiance(data):
    photograph = read_image(data / "hdr/polyhaven/noon_grass_1k.hdr")
    assert photograph.pixels.shape == (3, 512, 1024)
    assert photograph.pixels.min() >= 0
