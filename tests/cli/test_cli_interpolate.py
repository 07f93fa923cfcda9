"""hdrops interpolate."""

import math

import pytest
import torch
from image_files import icc_profile

from hdrops.io import Exposure, Metadata, read_image, write_image
from hdrops.models import interpolate_exposure


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("swapped", [False, True])
def test_middle_exposure_by_role_not_by_order(hdrops, tmp_path, request, bits, swapped):
    dark, _, bright = request.getfixturevalue(f"frames{bits}")
    images, times = request.getfixturevalue(f"bracket{bits}")
    out = tmp_path / "out.tif"
    code, stdout, stderr = hdrops("interpolate", *((bright, dark) if swapped else (dark, bright)), "-o", out)
    assert (code, stderr) == (0, "")
    expected = interpolate_exposure(images[:1], images[2:])[0]
    result = read_image(out)
    assert torch.equal(result.pixels.to(torch.int32), expected.to(torch.int32))
    assert result.exposure.time == pytest.approx(math.sqrt(times[0] * times[2]), rel=1e-3)
    assert "by exif" in stdout
    assert "exposed 0.00390" in stdout


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
