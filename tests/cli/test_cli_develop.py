"""hdrops develop."""

import numpy as np
import pytest
import raw_files
import torch

from hdrops.io import Exposure, InputError, read_bayer, read_image, write_image
from hdrops.models import EMVNet, EMVNetConfig, choose_reference

pytest.importorskip("rawpy", reason="rawpy is not installed")


def small(folder, **changes):
    torch.manual_seed(0)
    values = {"channels": 4, "grow": 2, "head_taps": 3, "features": 4, "filters": 4, "motion_extent": 3}
    model = EMVNet(EMVNetConfig.preset("tiny", **(values | changes)))
    with torch.no_grad():
        for head in model.heads:
            head.conv.bias += 0.5
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def weights(tmp_path):
    return small(tmp_path / "weights")


def sensor(gain, pattern="RGGB", height=48, width=64):
    """A scene of its own in each colour, behind a Bayer filter that begins with any of them."""
    y, x = np.mgrid[0 : height // 2, 0 : width // 2]
    red, by_red, by_blue, blue = (np.clip(64 + gain * (400 + 300 * np.sin(y / 9 + k) * np.cos(x / 7)), 0, 4095)
                                  for k in range(4))  # fmt: skip
    codes = np.zeros((height, width), np.uint16)
    row, column = divmod(pattern.index("R"), 2)
    for plane, place in (
        (red, (row, column)),
        (by_red, (row, 1 - column)),
        (by_blue, (1 - row, column)),
        (blue, (1 - row, 1 - column)),
    ):
        codes[place[0] :: 2, place[1] :: 2] = plane
    return codes


def frames(folder, gains=(1, 6), **options):
    folder.mkdir(exist_ok=True)
    paths = []
    for k, gain in enumerate(gains):
        paths.append(folder / f"{k}.dng")
        paths[-1].write_bytes(raw_files.dng(sensor(gain), time=(gain, 250), **options))
    return paths


def planes(paths):
    """R, Gr, Gb, B from the black to the white level, computed here."""
    packed = [read_bayer(path).pixels.double() for path in paths]
    return (((torch.stack(packed) - 64) / (4095 - 64)).clamp(0, 1).float())[None]


def refused(outcome, *words):
    code, stdout, stderr = outcome
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    for word in words:
        assert word in stderr


@pytest.mark.parametrize(
    ("ending", "options"),
    [(".tif", []), (".png", []), (".png", ["--tile", 16]), (".png", ["--reference", 2])],
    ids=str,
)
def test_the_picture_of_the_network(hdrops, tmp_path, weights, options, ending):
    paths, out = frames(tmp_path / "raw"), tmp_path / f"out{ending}"
    code, stdout, stderr = hdrops("develop", *paths, "-o", out, "--weights", weights, *options)
    assert (code, stderr) == (0, "")
    images = planes(paths)
    place = 1 if "--reference" in options else int(choose_reference(images))
    picture = EMVNet.from_pretrained(weights).enhance(images, place, tile=16 if "--tile" in options else None)[0]
    assert picture.clamp(0, 1).std() > 0.05
    written = read_image(out)
    assert written.pixels.shape == (3, 48, 64)
    assert written.bits == 16
    codes = written.pixels.to(torch.int32)
    assert (codes - (picture.clamp(0, 1) * 65535).round()).abs().max() <= 2
    assert written.exposure == Exposure(read_bayer(paths[place]).exposure.time, 5.6, 400)
    assert written.metadata.model == "Camera 1"
    assert f"2 raw frames, reference {place}.dng, 64x48, " in stdout


def test_a_network_may_prefer_the_middle(hdrops, tmp_path):
    paths = frames(tmp_path / "raw", gains=(12, 1, 6))
    out, weights = tmp_path / "out.png", small(tmp_path / "net", choice="middle")
    images = planes(paths)
    place = int(choose_reference(images, choice="middle"))
    assert place != int(choose_reference(images))
    code, stdout, _ = hdrops("develop", *paths, "-o", out, "--weights", weights)
    assert code == 0
    assert place == 2
    assert "reference 2.dng" in stdout


def test_jpeg(hdrops, tmp_path, weights):
    paths = frames(tmp_path / "raw")
    for name in ("out.jpg", "out.png"):
        assert hdrops("develop", *paths, "-o", tmp_path / name, "--weights", weights, "--quality", 100).code == 0
    jpeg, png = (read_image(tmp_path / name) for name in ("out.jpg", "out.png"))
    assert (jpeg.format, jpeg.bits) == ("jpeg", 8)
    assert (jpeg.pixels.float() - png.pixels.float() / 257).abs().mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(hdrops, tmp_path, weights, orientation):
    plain, turned = tmp_path / "plain.png", tmp_path / "turned.png"
    assert hdrops("develop", *frames(tmp_path / "a"), "-o", plain, "--weights", weights).code == 0
    paths = frames(tmp_path / "b", orientation=orientation)
    assert hdrops("develop", *paths, "-o", turned, "--weights", weights).code == 0
    upright = read_image(plain).pixels.to(torch.int32)
    # What LibRaw does not tell apart from the plain ones, mirrored pictures, stays as it is.
    quarters = {3: 2, 6: 3, 8: 1}.get(read_bayer(paths[0]).orientation, 0)
    assert torch.equal(read_image(turned).pixels.to(torch.int32), upright.rot90(quarters, (1, 2)))
    assert quarters == {3: 2, 6: 3, 8: 1}.get(orientation, quarters)


def test_the_pattern_of_the_filter_is_no_matter(hdrops, tmp_path, weights):
    results = []
    for patterns in (("RGGB", "RGGB"), ("GBRG", "BGGR")):
        for k, (pattern, gain) in enumerate(zip(patterns, (1, 6), strict=True)):
            (tmp_path / f"{k}.dng").write_bytes(raw_files.dng(sensor(gain, pattern), pattern=pattern))
        out = tmp_path / "out.png"
        assert hdrops("develop", tmp_path / "0.dng", tmp_path / "1.dng", "-o", out, "--weights", weights).code == 0
        results.append(read_image(out).pixels)
    assert torch.equal(*(r.to(torch.int32) for r in results))


def test_raw_files_of_a_folder(hdrops, tmp_path, weights):
    """Not the pictures that the camera made of them."""
    paths = frames(tmp_path / "raw")
    write_image(tmp_path / "raw" / "0.jpg", torch.zeros(3, 48, 64, dtype=torch.uint8))
    out = tmp_path / "out.png"
    assert hdrops("develop", tmp_path / "raw", "-o", out, "--weights", weights).code == 0
    expected = read_image(out).pixels
    assert hdrops("develop", *paths, "-o", out, "--weights", weights).code == 0
    assert torch.equal(read_image(out).pixels, expected)
    (tmp_path / "pictures").mkdir()
    write_image(tmp_path / "pictures" / "0.png", torch.zeros(3, 48, 64, dtype=torch.uint8))
    outcome = hdrops("develop", tmp_path / "pictures", "-o", out, "--weights", weights)
    refused(outcome, "is a folder without images", ".dng, .nef")
    assert ".png" not in outcome.stderr


def test_levels(tmp_path):
    codes = np.array([[60, 64, 68, 4095], [72, 76, 5000, 2080]], np.uint16).repeat(12, 0).repeat(12, 1)
    path = tmp_path / "a.dng"
    path.write_bytes(raw_files.dng(codes, black=(60, 64, 68, 72)))
    bayer = read_bayer(path)
    black = torch.tensor(bayer.black_level).double()[:, None, None]
    expected = ((bayer.pixels.double() - black) / (4095 - black)).clamp(0, 1)
    assert bayer.linear().dtype == torch.float32
    assert set(expected.flatten().tolist()) >= {0.0, 1.0}
    torch.testing.assert_close(bayer.linear().double(), expected, rtol=1e-6, atol=1e-7)
    beyond = (bayer.pixels.double() - black) / (4095 - black)
    assert beyond.min() < 0
    assert beyond.max() > 1
    torch.testing.assert_close(bayer.linear(clamped=False).double(), beyond, rtol=1e-6, atol=1e-7)


def test_levels_that_leave_no_range(tmp_path):
    path = tmp_path / "a.dng"
    path.write_bytes(raw_files.dng(sensor(1)))
    bayer = read_bayer(path)
    broken = type(bayer)(**{**vars(bayer), "white_level": 64.0})
    with pytest.raises(InputError, match="not below its white level of 64"):
        broken.linear()


def test_networks_of_other_tasks(hdrops, tmp_path):
    paths, out = frames(tmp_path / "raw"), tmp_path / "out.png"
    for changes, words in (
        ({"channels": 3}, "for RGB images; merge takes it"),
        ({"channels": 6}, "images of 6 channels"),
        ({"outputs": 4}, "as raw frames have"),
    ):
        folder = small(tmp_path / words[:6].strip(), **changes)
        refused(hdrops("develop", *paths, "-o", out, "--weights", folder), str(folder), words)
    refused(hdrops("develop", *paths, "-o", out, "--weights", tmp_path / "none"), "none does not exist")
    refused(hdrops("develop", *paths, "-o", out), "--weights")
    assert not out.exists()


def test_frames_that_cannot_be_developed(hdrops, tmp_path, weights):
    paths, out = frames(tmp_path / "raw"), tmp_path / "out.png"
    options = ["-o", out, "--weights", weights]
    refused(hdrops("develop", paths[0], *options), "at least 2 images are needed, got 1")
    refused(hdrops("develop", *paths, *options, "--reference", 3), "from 1 to 2")
    large = tmp_path / "large.dng"
    large.write_bytes(raw_files.dng(sensor(1, height=60, width=80)))
    refused(hdrops("develop", paths[0], large, *options), "64 x 48", f"{large} 80 x 60", "one camera")
    changed = {262: (3, [34892]), 50714: (3, [64])} | dict.fromkeys((33421, 33422, 50713, 50721, 50728, 50778))
    grey = tmp_path / "grey.dng"
    grey.write_bytes(raw_files.dng(sensor(1), changed=changed))
    refused(hdrops("develop", paths[0], grey, *options), str(grey), "without a Bayer filter", "merge")
    picture = tmp_path / "picture.png"
    write_image(picture, torch.zeros(3, 48, 64, dtype=torch.uint8))
    refused(hdrops("develop", paths[0], picture, *options), "PNG, not a camera RAW file")
    cut = tmp_path / "cut.dng"
    cut.write_bytes(paths[0].read_bytes()[:-100])
    refused(hdrops("develop", paths[0], cut, *options), "truncated")
    assert not out.exists()


@pytest.mark.parametrize("name", ["out.exr", "out.hdr", "out.gif", "no/out.png", "raw"])
def test_places_that_take_no_picture(hdrops, tmp_path, weights, name):
    paths = frames(tmp_path / "raw")
    refused(hdrops("develop", *paths, "-o", tmp_path / name, "--weights", weights))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "weights"]


def test_an_input_is_never_overwritten(hdrops, tmp_path, weights):
    paths = frames(tmp_path / "raw")
    link = tmp_path / "out.png"
    link.symlink_to(paths[0])
    before = paths[0].read_bytes()
    refused(hdrops("develop", *paths, "-o", link, "--weights", weights), "one of the inputs")
    assert paths[0].read_bytes() == before
