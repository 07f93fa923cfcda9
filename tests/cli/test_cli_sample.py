"""hdrops sample."""

import pytest
import torch

from hdrops.data import sample_bracket
from hdrops.io import read_bracket

SMALL = ("--size", "60x40")


def test_sixteen_bit_files_hold_the_bracket_and_its_times(hdrops, tmp_path):
    folder = tmp_path / "new" / "folder"
    code, stdout, stderr = hdrops("sample", folder, *SMALL, "--bits", 16, "--exposures", 3, "--step", 1.5, "--seed", 4)
    assert (code, stderr) == (0, "")
    assert str(folder) in stdout
    images, times = sample_bracket(40, 60, exposures=3, step=1.5, bits=16, seed=4)
    files = sorted(folder.iterdir())
    assert [f.name for f in files] == ["00.tif", "01.tif", "02.tif"]
    bracket = read_bracket(files)
    assert torch.equal(bracket.images.to(torch.int32), images.to(torch.int32))
    assert bracket.ordered_by == "exif"
    assert bracket.exposure_times.tolist() == pytest.approx(times.tolist(), rel=1e-3)


def test_eight_bit_files_are_jpeg_in_the_default_number(hdrops, tmp_path):
    assert hdrops("sample", tmp_path, *SMALL).code == 0
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == [f"0{k}.jpg" for k in range(5)]
    bracket = read_bracket(files)
    assert bracket.exposure_times.tolist() == pytest.approx([2.0**-e for e in (12, 10, 8, 6, 4)], rel=1e-3)
    difference = bracket.images.float() - sample_bracket(40, 60)[0].float()
    assert float(difference.abs().mean()) < 4


def test_same_arguments_same_files(hdrops, tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        assert hdrops("sample", tmp_path / name, *SMALL, "--exposures", 1, "--seed", seed).code == 0
    a, b, c = ((tmp_path / name / "00.jpg").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_existing_files_are_kept_without_force(hdrops, tmp_path):
    old = tmp_path / "01.jpg"
    old.write_text("mine")
    code, _, stderr = hdrops("sample", tmp_path, *SMALL, "--exposures", 2)
    assert code == 2
    assert stderr.startswith("error: ")
    assert "--force" in stderr
    assert old.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [old]
    assert hdrops("sample", tmp_path, *SMALL, "--exposures", 2, "--force").code == 0
    assert old.read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    "options",
    [
        ("--size", "60"),
        ("--size", "0x40"),
        ("--size", "99999x99999"),
        ("--step", "0"),
        ("--step", "nan"),
    ],
)
def test_bad_options(hdrops, tmp_path, options):
    folder = tmp_path / "new"
    code, stdout, stderr = hdrops("sample", folder, *options)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert not folder.exists()
