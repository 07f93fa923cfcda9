"""hdrops fuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from image_files import icc_profile
from photographs import photographs, real_brackets
from raw_files import dng

import hdrops as package
from hdrops.io import Exposure, Metadata, read_image, write_image
from hdrops.models import ExposureInterpolator, ExposureInterpolatorConfig, insert_exposures


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
    frames = insert_exposures(images, ExposureInterpolator.from_pretrained()) if method == "interpolate" else images
    expected = package.exposure_fusion(frames)[0]
    result = read_image(out)
    assert result.bits == bits
    assert torch.equal(_codes(result.pixels), _codes(expected))
    for word in ("3 frames", "exif", "72x48", f"{bits} bit", method, str(out)):
        assert word in stdout
    assert stdout.count("\n") == 1


def test_what_interpolates(hdrops, tmp_path, frames8, bracket8):
    """The maps alone, or another network."""
    images, out = bracket8[0][None], tmp_path / "out.png"
    torch.manual_seed(0)
    other = ExposureInterpolator(ExposureInterpolatorConfig.preset("tiny"))
    other.network.tail.weight.data.normal_(std=0.05)
    other.save_pretrained(tmp_path / "weights")
    for options, model in ((["--imf-only"], None), (["--weights", tmp_path / "weights"], other)):
        assert hdrops("fuse", *frames8, "-o", out, "--method", "interpolate", *options).code == 0
        assert torch.equal(read_image(out).pixels, package.exposure_fusion(insert_exposures(images, model))[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--imf-only"], "--imf-only belongs to --method interpolate; add it"),
        (["--weights", "x"], "--weights belongs to --method interpolate or hyperp-mb; add it"),
        (["--method", "hyperp-mb", "--imf-only"], "--imf-only belongs to --method interpolate; add it"),
        (["--method", "hyperp-mb", "--contrast", "2"], "leave them out with --method hyperp-mb"),
        (["--method", "hyperp-mb", "--weights", "no_such_folder"], "no_such_folder"),
        (["--method", "interpolate", "--imf-only", "--weights", "x"], "leave out --weights"),
        (["--method", "interpolate", "--weights", "no_such_folder"], "no_such_folder"),
    ],
)
def test_options_of_interpolation_are_checked(hdrops, tmp_path, frames8, options, message):
    code, stdout, stderr = hdrops("fuse", *frames8, "-o", tmp_path / "out.png", *options)
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


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


def _with_metadata(folder, images, **changes):
    """Frames of one camera, dark to bright; ``changes`` of the second one's metadata."""
    metadata = Metadata(icc_profile=icc_profile(b"RGB "), make="Maker", model="Camera 1", lens_model="35mm")
    paths = [folder / f"{k}.jpg" for k in range(3)]
    for k, (path, image) in enumerate(zip(paths, images, strict=True)):
        own = replace(metadata, exposure_bias=k - 1.0, artist=f"frame {k}", **(changes if k == 1 else {}))
        write_image(path, image, exposure=Exposure(0.01 * 4**k, 8, 100), metadata=own)
    return paths, metadata


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg"])
def test_profile_and_camera_of_the_middle_frame_are_carried(hdrops, tmp_path, bracket8, ending):
    paths, metadata = _with_metadata(tmp_path, bracket8[0])
    out = tmp_path / f"out{ending}"
    code, _, stderr = hdrops("fuse", *reversed(paths), "-o", out)
    assert (code, stderr) == (0, "")
    result = read_image(out)
    assert result.metadata == replace(metadata, artist="frame 1")  # and no exposure bias
    assert result.exposure == Exposure(None, 8, 100)  # there is no exposure time that all frames have
    assert hdrops("fuse", paths[2], "-o", out).code == 0
    result = read_image(out)
    assert result.metadata == replace(metadata, artist="frame 2", exposure_bias=1)
    assert result.exposure.time == pytest.approx(0.16, abs=2e-6)


def test_different_profiles_warn_in_one_line(hdrops, tmp_path, bracket8):
    paths, _ = _with_metadata(tmp_path, bracket8[0], icc_profile=None)
    code, _, stderr = hdrops("fuse", *paths, "-o", tmp_path / "out.png")
    assert code == 0
    assert stderr.startswith("warning: ")
    assert "colour profiles" in stderr
    assert stderr.count("\n") == 1


def test_raw_frames_become_a_linear_picture(hdrops, tmp_path):
    pytest.importorskip("rawpy", reason="rawpy is not installed")
    codes = np.random.default_rng(0).integers(64, 1000, (40, 60))
    for k in range(3):
        sensor = np.minimum(64 + (codes - 64) * 2**k, 4095)
        (tmp_path / f"{k}.dng").write_bytes(dng(sensor, time=(2**k, 100)))
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "out.exr"
    code, stdout, stderr = hdrops("fuse", tmp_path, "-o", out)
    assert (code, stderr) == (0, "")
    assert "3 frames by exif" in stdout
    result = read_image(out)
    assert result.pixels.shape == (3, 40, 60)
    assert result.metadata.model == "Camera 1"
    # Beside developed images, camera RAW files are taken for their originals.
    write_image(tmp_path / "0.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert "1 frame, 8x8" in hdrops("fuse", tmp_path, "-o", tmp_path / "out" / "out.png").stdout


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
