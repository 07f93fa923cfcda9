"""hdrops fuse."""

import pytest
import torch
from photographs import photographs, real_brackets

import hdrops as package
from hdrops.io import read_image, write_image
from hdrops.models import insert_exposures


def _codes(image):
    return image.to(torch.int32)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("method", ["mertens", "interpolate"])
def test_writes_what_the_operators_give(hdrops, tmp_path, request, bits, method):
    paths = request.getfixturevalue(f"frames{bits}")
    images = request.getfixturevalue(f"bracket{bits}")[0][None]
    out = tmp_path / "out.png"
    code, stdout, stderr = hdrops("fuse", *paths, "-o", out, "--method", method)
    assert (code, stderr) == (0, "")
    expected = package.exposure_fusion(insert_exposures(images) if method == "interpolate" else images)[0]
    result = read_image(out)
    assert result.bits == bits
    assert torch.equal(_codes(result.pixels), _codes(expected))
    for word in ("3 frames", "exif", "72x48", f"{bits} bit", method, str(out)):
        assert word in stdout
    assert stdout.count("\n") == 1


def test_exponents_reach_the_operator(hdrops, tmp_path, frames8, bracket8):
    out = tmp_path / "out.png"
    exponents = {"contrast": 0.0, "saturation": 2.0, "exposedness": 0.5}
    options = [f"--{name}={value}" for name, value in exponents.items()]
    assert hdrops("fuse", *frames8, "-o", out, *options).code == 0
    expected = package.exposure_fusion(bracket8[0][None], **exponents)[0]
    assert torch.equal(read_image(out).pixels, expected)
    assert not torch.equal(expected, package.exposure_fusion(bracket8[0][None])[0])


def test_folder_stands_for_the_images_in_it(hdrops, tmp_path, frames8):
    (frames8[0].parent / "notes.txt").write_text("no image")
    (frames8[0].parent / ".hidden.png").write_text("no image")
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    assert hdrops("fuse", frames8[0].parent, "-o", one).code == 0
    assert hdrops("fuse", *frames8, "-o", other).code == 0
    assert one.read_bytes() == other.read_bytes()


def test_quality_reaches_the_encoder(hdrops, tmp_path, frames8):
    small, large = tmp_path / "small.jpg", tmp_path / "large.jpg"
    assert hdrops("fuse", *frames8, "-o", small, "--quality", 20).code == 0
    assert hdrops("fuse", *frames8, "-o", large).code == 0
    assert small.stat().st_size < large.stat().st_size / 2


def test_stated_exposures_order_the_frames(hdrops, tmp_path, frames8):
    out = tmp_path / "out.png"
    assert "by times" in hdrops("fuse", *frames8, "-o", out, "--times", "1/60, 1/15,0.25").stdout
    assert "by ev" in hdrops("fuse", *frames8, "-o", out, "--ev", "-2,0,2").stdout


def test_order_by_brightness_warns_in_one_line(hdrops, tmp_path, bracket8):
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, image in zip(paths, bracket8[0], strict=True):
        write_image(path, image)
    code, stdout, stderr = hdrops("fuse", *reversed(paths), "-o", tmp_path / "out.png")
    assert code == 0
    assert "by brightness" in stdout
    assert stderr.startswith("warning: ")
    assert stderr.count("\n") == 1


def test_one_frame_can_be_fused(hdrops, tmp_path, frames8):
    code, stdout, stderr = hdrops("fuse", frames8[1], "-o", tmp_path / "out.png")
    assert (code, stderr) == (0, "")
    assert "1 frame," in stdout


def test_float_frames_become_a_float_picture(hdrops, tmp_path, frames_float):
    out = tmp_path / "out.exr"
    assert hdrops("fuse", *frames_float, "-o", out).code == 0
    expected = package.exposure_fusion(torch.stack([read_image(p).pixels for p in frames_float])[None])[0]
    assert torch.equal(read_image(out).pixels, expected)


@pytest.mark.parametrize("name", ["villa", "land"])
def test_real_bracket(hdrops, tmp_path, name):
    entry = real_brackets()[f"brackets/misc/{name}"]
    folder = photographs() / entry["dir"]
    out = tmp_path / "out.png"
    code, stdout, _ = hdrops("fuse", *(folder / f for f in entry["files"]), "-o", out)
    assert code == 0
    assert "by exif" in stdout
    frames = [read_image(folder / f).pixels.float() for f in entry["files"]]
    fused = read_image(out).pixels.float()
    frames.sort(key=torch.mean)
    # What the brightest exposure lost to white is back, and so is what the darkest lost to black.
    assert float((fused[frames[-1] >= 252] >= 252).float().mean()) < 0.3
    assert float((fused[frames[0] <= 3] <= 3).float().mean()) < 0.6
