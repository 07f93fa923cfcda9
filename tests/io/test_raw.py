import contextlib
import datetime
import pathlib
import struct
import subprocess
import sys

import image_files
import numpy as np
import pytest
import raw_files
import torch

from hdrops.io import Exposure, InputError, read_bayer, read_bracket, read_image, read_raw
from hdrops.io import raw as raw_module

pytest.importorskip("rawpy", reason="rawpy is not installed")

EXPOSURE = Exposure(time=1 / 250, f_number=5.6, iso=400)
PATTERNS = ["RGGB", "BGGR", "GRBG", "GBRG"]


def codes(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(64, 4096, (height, width)).astype(np.uint16)


def mosaic(levels, pattern="RGGB", height=40, width=60):
    """A sensor of uniform colours; ``levels`` of R, G and B."""
    image = np.zeros((height, width), np.uint16)
    for k, colour in enumerate(pattern):
        image[k // 2 :: 2, k % 2 :: 2] = levels["RGB".index(colour)]
    return image


def written(folder, content, name="a.dng"):
    path = folder / name
    path.write_bytes(content)
    return path


def refused(call, path, *words, **options):
    with pytest.raises(InputError) as caught:
        call(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message


@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_is_packed_to_the_bit(tmp_path, pattern):
    sensor = codes()
    bayer = read_bayer(written(tmp_path, raw_files.dng(sensor, pattern=pattern, black=(60, 64, 68, 72))))
    assert (bayer.pattern, bayer.white_level, bayer.orientation) == (pattern, 4095, 1)
    assert bayer.pixels.dtype == torch.uint16
    assert bayer.pixels.is_contiguous()
    cells = [sensor[k // 2 :: 2, k % 2 :: 2] for k in range(4)]
    red, blue = pattern.index("R"), pattern.index("B")
    green_by_red = next(k for k in range(4) if pattern[k] == "G" and k // 2 == red // 2)
    green_by_blue = next(k for k in range(4) if pattern[k] == "G" and k // 2 == blue // 2)
    order = [red, green_by_red, green_by_blue, blue]
    np.testing.assert_array_equal(bayer.pixels.numpy(), np.stack([cells[k] for k in order]))
    assert bayer.black_level == tuple((60, 64, 68, 72)[k] for k in order)
    assert bayer.white_balance == pytest.approx((2, 1, 1.25))


def test_bayer_metadata(tmp_path):
    path = written(tmp_path, raw_files.dng(codes(), orientation=8))
    bayer = read_bayer(path)
    assert (bayer.exposure, bayer.path, bayer.orientation) == (EXPOSURE, path, 8)
    assert (bayer.metadata.make, bayer.metadata.model, bayer.metadata.lens_model) == ("Maker", "Camera 1", "35mm f/2")
    assert bayer.metadata.taken_at == datetime.datetime(2024, 5, 6, 7, 8, 9)
    assert bayer.metadata.focal_length == 35


def test_dates_that_no_calendar_has(tmp_path):
    content = raw_files.dng(codes()).replace(b"2024:05:06 07:08:09", b"20245:0:06 07:08:09")
    bayer = read_bayer(written(tmp_path, content))
    assert bayer.metadata.taken_at is None
    assert bayer.exposure == EXPOSURE


def test_bayer_of_odd_size_drops_the_last_row_and_column(tmp_path):
    sensor = codes(41, 63)
    bayer = read_bayer(written(tmp_path, raw_files.dng(sensor)))
    assert bayer.pixels.shape == (4, 20, 31)
    np.testing.assert_array_equal(bayer.pixels[3].numpy(), sensor[1:40:2, 1:62:2])


def test_unknown_white_balance(tmp_path):
    assert read_bayer(written(tmp_path, raw_files.dng(codes(), changed={50728: None}))).white_balance is None


def test_linear_colours_of_the_camera(tmp_path):
    sensor = mosaic((64 + 1000, 64 + 2000, 64 + 1600))
    path = written(tmp_path, raw_files.dng(sensor))
    plain = read_raw(path, white_balance=False)
    assert (plain.format, plain.bits, plain.exposure, plain.metadata.model) == ("raw", 32, EXPOSURE, "Camera 1")
    expected = torch.tensor([1000, 2000, 1600]) / (4095 - 64)
    torch.testing.assert_close(plain.pixels, expected[:, None, None].expand(3, 40, 60), rtol=0, atol=2 / 65535)
    balanced = read_raw(path).pixels  # the factors are 2, 1 and 1.25
    torch.testing.assert_close(balanced, torch.full((3, 40, 60), 2000 / 4031), rtol=0, atol=2 / 65535)
    assert torch.equal(read_image(path).pixels, balanced)


def test_saturated_and_black(tmp_path):
    for level, value in ((4095, 1.0), (5000, 1.0), (64, 0.0), (10, 0.0)):
        path = written(tmp_path, raw_files.dng(mosaic((level,) * 3)))
        for balance in (True, False):
            pixels = read_raw(path, white_balance=balance).pixels
            assert torch.equal(pixels, torch.full((3, 40, 60), value))


def test_equal_light_gives_equal_values_whatever_else_is_in_the_picture(tmp_path):
    sensor = mosaic((1064,) * 3)
    alone = read_raw(written(tmp_path, raw_files.dng(sensor))).pixels[:, :10, :10]
    sensor[24:, 24:] = 3300  # near, but below the white level
    beside = read_raw(written(tmp_path, raw_files.dng(sensor))).pixels[:, :10, :10]
    assert torch.equal(alone, beside)


def test_orientation(tmp_path):
    sensor = mosaic((1000,) * 3)
    sensor[:20, :30] = 3000
    upright = read_raw(written(tmp_path, raw_files.dng(sensor)), white_balance=False).pixels
    turned = read_raw(written(tmp_path, raw_files.dng(sensor, orientation=6)), white_balance=False).pixels
    assert torch.equal(turned, upright.rot90(-1, (1, 2)))


def test_bracket_of_raw_files(tmp_path):
    paths = []
    for k, (level, time) in enumerate(((2064, (1, 60)), (564, (1, 240)), (1064, (1, 120)))):
        exif = raw_files.dng(mosaic((level,) * 3), time=time)
        paths.append(written(tmp_path, exif, f"{k}.dng"))
    bracket = read_bracket(paths)
    assert bracket.ordered_by == "exif"
    assert bracket.paths == [paths[1], paths[2], paths[0]]
    assert bracket.exposure_times.tolist() == [1 / 240, 1 / 120, 1 / 60]
    means = bracket.images.mean((1, 2, 3))
    torch.testing.assert_close(means / means[0], torch.tensor([1.0, 2.0, 4.0]), rtol=1e-3, atol=0)


def test_content_decides(tmp_path):
    content = raw_files.dng(codes())
    for name in ("a.tif", "a.png", "a"):
        assert read_image(written(tmp_path, content, name)).format == "raw"
    image_files.write(tmp_path / "b.png", np.zeros((4, 4, 3), np.uint8))
    for call in (read_raw, read_bayer):
        refused(call, tmp_path / "b.png", "PNG", "read_image")
    image_files.write(tmp_path / "b.tif", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "b.tif").rename(tmp_path / "b.nef")
    refused(read_image, tmp_path / "b.nef", "camera RAW")


def test_sensors_without_a_bayer_filter(tmp_path):
    changed = {262: (3, [34892]), 277: (3, [3]), 258: (3, [16] * 3), 33421: None, 33422: None}
    changed |= {256: (4, [30]), 50713: None, 50714: None}
    path = written(
        tmp_path, raw_files.dng(codes(40, 90), changed=changed)
    )  # a DNG of colours that are interpolated already
    assert read_raw(path).pixels.shape == (3, 40, 30)
    refused(read_bayer, path, "Bayer")


def test_camera_without_colours(tmp_path):
    sensor = codes()
    changed = {262: (3, [34892]), 50714: (3, [64])} | dict.fromkeys((33421, 33422, 50713, 50721, 50728, 50778))
    path = written(tmp_path, raw_files.dng(sensor, changed=changed))
    expected = torch.from_numpy((sensor[None].astype(np.float32) - 64) / (4095 - 64))
    torch.testing.assert_close(read_raw(path).pixels, expected, rtol=0, atol=2 / 65535)
    refused(read_bayer, path, "Bayer")


def test_filters_of_colours_that_do_not_exist(tmp_path):
    for cell in ([0, 1, 1, 9], [0, 0, 1, 2], [1, 1, 1, 1], [3, 4, 5, 6]):
        path = written(tmp_path, raw_files.dng(codes(), changed={33422: (1, cell)}))
        refused(read_bayer, path)


def test_pixel_limit(tmp_path):
    path = written(tmp_path, raw_files.dng(codes()))
    for call in (read_raw, read_bayer, read_image):
        assert call(path, max_pixels=2400).pixels.numel()
        refused(call, path, "60 x 40", "2399", max_pixels=2399)
    bomb = raw_files.dng(codes(), changed={256: (4, [60_000]), 257: (4, [60_000])})
    refused(read_raw, written(tmp_path, bomb))


def test_truncation(tmp_path, capfd):
    content = raw_files.dng(codes())
    for part in range(1, 21):
        path = written(tmp_path, content[: (len(content) - 1) * part // 20], f"{part}.dng")
        refused(read_raw, path, "truncated")
        refused(read_bayer, path, "truncated")
    assert capfd.readouterr().err == ""


def test_corruption(tmp_path, capfd):
    content = raw_files.dng(codes())
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for position in rng.integers(8, 700, 4):
            damaged[position] = rng.integers(0, 256)
        path = written(tmp_path, damaged)
        for call in (read_raw, read_bayer):
            with contextlib.suppress(InputError):
                call(path, max_pixels=2**20)
    assert capfd.readouterr().err == ""


def test_missing_reader_names_the_fix(tmp_path):
    path = written(tmp_path, raw_files.dng(codes()))
    code = (
        "import sys; sys.modules['rawpy'] = None; import hdrops.io as io\n"
        "for call in (io.read_image, io.read_raw, io.read_bayer):\n"
        "  try: call(sys.argv[1])\n  except io.InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == 3 * f"{path} is a camera RAW file, which needs rawpy; pip install 'hdrops[raw]'\n"


def test_missing_file():
    for call in (read_raw, read_bayer):
        refused(call, pathlib.Path("none.dng"), "No such file")


@pytest.mark.parametrize(
    ("stated", "planes"),
    [
        ((1e-4, 2e-7), [(1e-4, 2e-7)] * 4),
        ((1e-4, 1e-7, 2e-4, 2e-7, 3e-4, 3e-7), [(1e-4, 1e-7), (2e-4, 2e-7), (2e-4, 2e-7), (3e-4, 3e-7)]),
        ((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0), [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0)]),
        (None, None),
        ((1e-4, 2e-7, 1e-4, 2e-7), None),  # two profiles are those of no sensor
        ((1e-4, -2e-7), None),
        ((float("nan"), 0.0), None),
    ],
)
def test_noise_profile(tmp_path, stated, planes):
    profile = read_bayer(written(tmp_path, raw_files.dng(codes(), noise=stated))).noise_profile
    assert profile == (None if planes is None else tuple(planes))


def test_noise_profile_of_a_directory_below(tmp_path):
    """It stands where the sensor's picture does, which may be below a preview; in big-endian files too."""
    plain = raw_files.dng(codes())
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        profile = struct.pack(order + "2d", 1e-4, 2e-7)
        below = struct.pack(order + "HHHII", 1, 51041, 12, 2, 8) + bytes(4)
        top = struct.pack(order + "HHHII", 1, 330, 4, 1, 24) + bytes(4)
        path = written(tmp_path, mark + struct.pack(order + "I", 24 + len(below)) + profile + below + top)
        assert raw_module._dng_tags(path) == {51041: (1e-4, 2e-7)}
    # Directories that lead to each other, and to nowhere.
    endless = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHII", 1, 330, 4, 1, 8)
    assert raw_module._dng_tags(written(tmp_path, endless)) == {}
    doubtful = b"II*\0" + struct.pack("<I", 24) + struct.pack("<2d", float("inf"), float("nan"))
    doubtful += struct.pack("<HHHII", 1, 330, 12, 2, 8) + bytes(4)
    assert raw_module._dng_tags(written(tmp_path, doubtful)) == {}
    assert raw_module._dng_tags(written(tmp_path, plain[:200])) == {}
    assert raw_module._dng_tags(written(tmp_path, b"FUJIFILM")) == {}


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG"])
def test_fractions_of_black_levels(tmp_path, pattern):
    """LibRaw cuts them off, which shows once a dark frame is brightened."""
    quarters = (255, 254, 253, 252)
    black = 5, [(quarter, 4) for quarter in quarters]
    content = raw_files.dng(codes(), pattern=pattern, changed={50714: black})
    cells = dict(zip(["RGGB", "GBRG"], [(0, 1, 2, 3), (2, 3, 0, 1)], strict=True))[pattern]
    assert read_bayer(written(tmp_path, content)).black_level == tuple(quarters[k] / 4 for k in cells)
    # A fraction that is none says nothing.
    content = raw_files.dng(codes(), changed={50714: (5, [(64, 1), (64, 0), (64, 1), (64, 1)])})
    levels = read_bayer(written(tmp_path, content)).black_level
    assert all(level == level for level in levels)
