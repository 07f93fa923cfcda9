"""Running commands in this process, and small brackets to run them on."""

import collections

import pytest
import torch

from hdrops.data import sample_bracket
from hdrops.io import Exposure, write_image

pytest.importorskip("typer", reason="the command line needs typer")
pytest.importorskip("OpenImageIO", reason="the command line needs OpenImageIO")

Outcome = collections.namedtuple("Outcome", "code stdout stderr")


@pytest.fixture
def hdrops(capfd):
    """Run the command line in this process: exit code, stdout and stderr, down to the file descriptors."""
    from hdrops_cli.commands import app

    def run(*arguments) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            app([str(a) for a in arguments])
        return Outcome(stop.value.code or 0, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def bracket8():
    return sample_bracket(48, 72, exposures=3, bits=8)


@pytest.fixture(scope="session")
def bracket16():
    return sample_bracket(48, 72, exposures=3, bits=16)


def write_all(folder, images, ending, times=None):
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{k}{ending}" for k in range(len(images))]
    for k, (path, image) in enumerate(zip(paths, images, strict=True)):
        write_image(path, image, exposure=None if times is None else Exposure(float(times[k])))
    return paths


@pytest.fixture
def frames8(tmp_path, bracket8):
    """Three 8-bit PNG files with EXIF times."""
    return write_all(tmp_path / "frames8", *(bracket8[0], ".png", bracket8[1]))


@pytest.fixture
def frames16(tmp_path, bracket16):
    return write_all(tmp_path / "frames16", *(bracket16[0], ".tif", bracket16[1]))


@pytest.fixture
def frames_float(tmp_path, bracket16):
    images = bracket16[0].to(torch.int32).float() / 65535
    return write_all(tmp_path / "frames_float", images, ".exr")
