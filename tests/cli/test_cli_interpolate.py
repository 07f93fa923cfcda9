"""hdrops interpolate."""

import math

import pytest
import torch
from image_files import icc_profile

import hdrops as package
from hdrops.io import Exposure, InputError, Metadata, read_image, write_image
from hdrops.models import ExposureInterpolator, insert_exposures, interpolate_exposure


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("swapped", [False, True])
def test_middle_exposure_by_role_not_by_order(hdrops, tmp_path, request, bits, swapped):
    dark, _, bright = request.getfixturevalue(f"frames{bits}")
    images, times = request.getfixturevalue(f"bracket{bits}")
    out = tmp_path / "out.tif"
    code, stdout, stderr = hdrops("interpolate", *((bright, dark) if swapped else (dark, bright)), "-o", out)
    assert (code, stderr) == (0, "")
    expected = ExposureInterpolator.from_pretrained().interpolate(images[:1], images[2:])[0, 0]
    result = read_image(out)
    assert torch.equal(result.pixels.to(torch.int32), expected.to(torch.int32))
    assert result.exposure.time == pytest.approx(math.sqrt(times[0] * times[2]), rel=1e-3)
    assert "by exif" in stdout
    assert "exposed 0.00390" in stdout


def test_maps_alone(hdrops, tmp_path, frames8, bracket8):
    out = tmp_path / "out.png"
    assert hdrops("interpolate", frames8[0], frames8[2], "-o", out, "--imf-only").code == 0
    expected = interpolate_exposure(bracket8[0][:1], bracket8[0][2:])[0]
    assert torch.equal(read_image(out).pixels, expected)


def test_several_exposures_are_numbered(hdrops, tmp_path, frames8, bracket8):
    images, times = bracket8
    code, stdout, _ = hdrops("interpolate", frames8[2], frames8[0], "-o", tmp_path / "out.tif", "--steps", 3)
    assert code == 0
    assert "out_1.tif to out_3.tif" in stdout
    pair = images[None][:, ::2]
    expected = insert_exposures(pair, ExposureInterpolator.from_pretrained(), 3)[0]
    for i in (1, 2, 3):
        result = read_image(tmp_path / f"out_{i}.tif")
        assert torch.equal(result.pixels, expected[i])
        assert result.exposure.time == pytest.approx(float(times[0] * (times[2] / times[0]) ** (i / 4)), rel=1e-3)
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize("link", [False, True])
def test_no_numbered_exposure_overwrites_an_input(hdrops, tmp_path, frames8, link):
    source = frames8[2] if link else frames8[2].rename(tmp_path / "out_2.png")
    if link:
        (tmp_path / "out_2.png").symlink_to(source)
    before = source.read_bytes()
    options = ("--steps", 3, "--imf-only")
    code, stdout, stderr = hdrops("interpolate", frames8[0], source, "-o", tmp_path / "out.png", *options)
    assert (code, stdout) == (2, "")
    assert "out_2.png is one of the inputs" in stderr
    assert stderr.count("\n") == 1
    assert source.read_bytes() == before
    assert not (tmp_path / "out_1.png").exists()


def test_an_input_may_have_the_name_without_a_number(hdrops, frames8):
    """That file is not written where there are several."""
    before = frames8[0].read_bytes()
    arguments = ("interpolate", frames8[0], frames8[2], "-o", frames8[0], "--imf-only", "--steps")
    assert hdrops(*arguments, 2).code == 0
    assert hdrops(*arguments, 1).code == 2
    assert frames8[0].read_bytes() == before
    assert frames8[0].with_name("0_2.png").exists()


def test_every_place_is_checked_before_anything_is_read(hdrops, tmp_path, frames8):
    (tmp_path / "out_3.png").mkdir()
    frames8[2].write_bytes(b"not read")
    code, _, stderr = hdrops("interpolate", frames8[0], frames8[2], "-o", tmp_path / "out.png", "--steps", 3)
    assert code == 2
    assert "out_3.png: it is a folder" in stderr
    assert not (tmp_path / "out_1.png").exists()


def test_exposures_are_written_one_at_a_time(hdrops, tmp_path, frames8, monkeypatch):
    """Memory does not grow with their number: the next is computed when the last is on disk."""
    events = []

    def computed(*args, **options):
        events.append("computed")
        return package.imf_fuse(*args, **options)

    def written(path, image, **options):
        assert image.untyped_storage().nbytes() == image.nbytes
        events.append("written")
        write_image(path, image, **options)

    monkeypatch.setattr("hdrops.models.exposure_interpolation.imf_fuse", computed)
    monkeypatch.setattr("hdrops.io.write_image", written)
    options = ("--steps", 4, "--imf-only")
    assert hdrops("interpolate", frames8[0], frames8[2], "-o", tmp_path / "out.png", *options).code == 0
    assert events == ["computed", "written"] * 4


def test_failure_half_way_leaves_whole_files(hdrops, tmp_path, frames8, monkeypatch):
    old = tmp_path / "out_2.png"
    old.write_bytes(b"what was there before")

    def fails_at_the_second(path, image, **options):
        if path == old:
            raise InputError(f"cannot write {path}: No space left on device")
        write_image(path, image, **options)

    monkeypatch.setattr("hdrops.io.write_image", fails_at_the_second)
    options = ("--steps", 3, "--imf-only")
    code, _, stderr = hdrops("interpolate", frames8[0], frames8[2], "-o", tmp_path / "out.png", *options)
    assert code == 2
    assert "No space left" in stderr
    assert old.read_bytes() == b"what was there before"
    assert read_image(tmp_path / "out_1.png").pixels.shape == (3, 48, 72)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames8", "out_1.png", "out_2.png"]


@pytest.mark.parametrize("command", [("interpolate",), ("fuse", "--method", "interpolate")])
def test_stated_order_against_all_brightness_is_refused(hdrops, tmp_path, frames8, command):
    out = tmp_path / "out.png"
    code, stdout, stderr = hdrops(*command, frames8[0], frames8[2], "-o", out, "--imf-only", "--times", "1,1/16")
    assert (code, stdout) == (2, "")
    assert stderr.startswith("warning: ")
    assert "clearly brighter than bright; swap the images, or state their exposures by --times or --ev" in stderr
    assert stderr.count("\n") == 2
    assert not out.exists()


def test_stated_times_are_written(hdrops, tmp_path, frames8):
    out = tmp_path / "out.jpg"
    assert hdrops("interpolate", frames8[0], frames8[1], "-o", out, "--times", "1/100,1/4").code == 0
    assert read_image(out).exposure.time == pytest.approx(1 / 20, rel=1e-3)


def test_aperture_and_sensitivity_are_those_of_the_darkest_frame(hdrops, tmp_path, bracket8):
    images = bracket8[0]
    dark, bright, out = (tmp_path / f"{n}.jpg" for n in ("dark", "bright", "out"))
    write_image(dark, images[0], exposure=Exposure(0.01, 8.0, 100))
    write_image(bright, images[1], exposure=Exposure(0.01, 4.0, 400))  # 16 times the light
    assert hdrops("interpolate", bright, dark, "-o", out).code == 0
    result = read_image(out).exposure
    assert result.time == pytest.approx(0.04, rel=1e-3)
    assert (result.f_number, result.iso) == (8.0, 100)


def test_relative_exposures_are_not_written_as_seconds(hdrops, tmp_path, frames8):
    out = tmp_path / "out.jpg"
    assert hdrops("interpolate", frames8[0], frames8[1], "-o", out, "--ev", "-1,1").code == 0
    assert read_image(out).exposure.time is None


def test_camera_of_the_darker_frame_is_carried(hdrops, tmp_path, bracket8):
    dark, bright, out = (tmp_path / f"{n}.jpg" for n in ("dark", "bright", "out"))
    for path, image, name in ((dark, bracket8[0][0], "dark"), (bright, bracket8[0][1], "bright")):
        write_image(path, image, metadata=Metadata(make="Maker", model=name, icc_profile=icc_profile(b"RGB ")))
    assert hdrops("interpolate", bright, dark, "-o", out).code == 0
    assert read_image(out).metadata == Metadata(make="Maker", model="dark", icc_profile=icc_profile(b"RGB "))
