import contextlib
import struct
import subprocess
import sys

import image_files
import numpy as np
import pytest
import torch

from hdrops.io import InputError, read_image

pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
pytestmark = pytest.mark.skipif(not pillow_heif.libheif_info()["encoders"], reason="pillow-heif has no encoder")

LOSSLESS = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
PROFILE = image_files.icc_profile(b"RGB ")


def picture(channels=3, levels=255, dtype=np.uint8):
    return image_files.smooth(64, 96, channels, levels).astype(dtype)


def write(path, pixels, depth=8, **options):
    mode = MODES[pixels.shape[2]] + (f";{depth}" if depth > 8 else "")
    content = pixels.astype("<u2" if depth > 8 else np.uint8).tobytes()
    pillow_heif.encode(mode, pixels.shape[1::-1], content, path, **{**LOSSLESS, **options})


def planar(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def exif(**tags):
    from PIL import ExifTags, Image

    block = Image.Exif()
    for name, value in tags.items():
        block[ExifTags.Base[name]] = value
    return block.tobytes()


def avif(path, pixels, **options):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    features = pytest.importorskip("PIL.features")
    if not features.check("avif"):
        pytest.skip("this build of Pillow has no AVIF")
    image_module.fromarray(pixels).save(path, "AVIF", quality=100, subsampling="4:4:4", **options)


def refused(path, *words, **options):
    with pytest.raises(InputError) as caught:
        read_image(path, **options)
    assert "\n" not in str(caught.value)
    for word in (path.name, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_eight_bits(tmp_path, channels):
    pixels = picture(channels)
    write(tmp_path / "a.heic", pixels)
    photograph = read_image(tmp_path / "a.heic")
    assert (photograph.format, photograph.bits) == ("heif", 8)
    assert torch.equal(photograph.pixels, planar(pixels[..., :3]))


@pytest.mark.parametrize("depth", [10, 12])
def test_deeper_codes_are_scaled_to_sixteen_bits(tmp_path, depth, monkeypatch):
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", depth == 12)
    largest = 2**depth - 1
    pixels = picture(3, largest, np.uint16)
    pixels[0, :2] = [[0] * 3, [largest] * 3]
    write(tmp_path / "a.heic", pixels, depth)
    photograph = read_image(tmp_path / "a.heic")
    assert photograph.bits == 16
    expected = np.round(pixels / largest * 65535).astype(np.uint16)
    assert torch.equal(photograph.pixels, planar(expected))
    assert (int(photograph.pixels.int().min()), int(photograph.pixels.int().max())) == (0, 65535)


def test_metadata(tmp_path):
    block = exif(Make="Maker", Model="Phone 1")
    write(tmp_path / "a.heic", picture(), exif=block, icc_profile=PROFILE)
    metadata = read_image(tmp_path / "a.heic").metadata
    assert (metadata.make, metadata.model, metadata.icc_profile) == ("Maker", "Phone 1", PROFILE)


def test_pixels_are_turned_once(tmp_path):
    from PIL import Image

    pixels = picture()
    turned = planar(np.rot90(pixels, -1).copy())
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(
        tmp_path / "a.heic", exif=exif(Orientation=6), quality=-1, chroma=444, matrix_coefficients=0
    )
    assert torch.equal(read_image(tmp_path / "a.heic").pixels, turned)
    avif(tmp_path / "a.avif", pixels, exif=exif(Orientation=6, Make="Maker"))
    photograph = read_image(tmp_path / "a.avif")
    assert (photograph.pixels.float() - turned.float()).abs().mean() < 2
    assert photograph.metadata.make == "Maker"


def test_avif(tmp_path):
    avif(tmp_path / "a.avif", picture(), icc_profile=PROFILE)
    photograph = read_image(tmp_path / "a.avif")
    assert (photograph.format, photograph.bits, photograph.metadata.icc_profile) == ("heif", 8, PROFILE)
    assert (photograph.pixels.float() - planar(picture()).float()).abs().mean() < 2
    refused(tmp_path / "a.avif", "96 x 64", "6143", max_pixels=6143)


def test_avif_of_a_general_brand(tmp_path):
    avif(tmp_path / "a.avif", picture())
    content = (tmp_path / "a.avif").read_bytes()
    assert content[8:12] == b"avif"
    (tmp_path / "b.avif").write_bytes(content[:8] + b"mif1" + content[12:])
    assert torch.equal(read_image(tmp_path / "b.avif").pixels, read_image(tmp_path / "a.avif").pixels)


def test_deep_avif_is_refused(tmp_path):
    avif(tmp_path / "a.avif", picture())
    content = bytearray((tmp_path / "a.avif").read_bytes())
    content[content.index(b"av1C") + 6] |= 0x40
    (tmp_path / "a.avif").write_bytes(content)
    refused(tmp_path / "a.avif", "10 or 12 bits")


def test_pixel_limit(tmp_path):
    write(tmp_path / "a.heic", picture())
    assert read_image(tmp_path / "a.heic", max_pixels=96 * 64).pixels.shape == (3, 64, 96)
    refused(tmp_path / "a.heic", "96 x 64", "6143", max_pixels=6143)


@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_truncation(tmp_path, capfd, kind):
    path = tmp_path / f"a.{kind}"
    {"heic": write, "avif": avif}[kind](path, picture())
    content = path.read_bytes()
    for part in range(1, 21):
        path.write_bytes(content[: (len(content) - 1) * part // 20])
        refused(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_corruption(tmp_path, capfd, kind):
    path = tmp_path / f"a.{kind}"
    {"heic": write, "avif": avif}[kind](path, picture())
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(content)
        for position in rng.integers(12, len(content) if trial % 2 else 300, 4):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            read_image(path, max_pixels=2**20)
    assert capfd.readouterr().err == ""


def test_header_and_data_of_different_sizes(tmp_path):
    write(tmp_path / "a.heic", picture())
    content = bytearray((tmp_path / "a.heic").read_bytes())
    place = content.index(b"ispe") + 8
    content[place : place + 8] = struct.pack(">II", 32, 20)
    (tmp_path / "a.heic").write_bytes(content)
    refused(tmp_path / "a.heic", "cannot be read as HEIC")


def test_container_without_an_image(tmp_path):
    write(tmp_path / "a.heic", picture())
    content = (tmp_path / "a.heic").read_bytes()
    (tmp_path / "a.heic").write_bytes(content.replace(b"hvc1", b"none"))
    refused(tmp_path / "a.heic", "cannot be read as HEIC")


@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_missing_reader_names_the_fix(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "heic":
        write(path, picture())
    else:
        avif(path, picture())
    code = (
        "import sys; sys.modules['pillow_heif'] = sys.modules['PIL'] = None; import hdrops.io as io\n"
        "try: io.read_image(sys.argv[1])\nexcept io.InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path} is {kind.upper()}, which needs pillow-heif; pip install 'hdrops[heif]'\n"
