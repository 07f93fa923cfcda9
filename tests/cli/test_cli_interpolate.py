"""hdrops interpolate."""

import math

import pytest
import torch
from image_files import icc_profile

from hdrops.io import Exposure, Metadata, read_image, write_image
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
