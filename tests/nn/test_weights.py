"""Files of weights are told from pickles by how they begin."""

from __future__ import annotations

import pathlib
import pickle

import pytest
import safetensors.torch
import torch

from hdrops.nn import weights


def test_every_size_of_header(tmp_path: pathlib.Path) -> None:
    """A file of safetensors begins with it: with 0x80, as pickles do, every 32nd time."""
    path = tmp_path / "model.safetensors"
    first = set()
    for length in range(0, 512, 8):
        safetensors.torch.save_file({"x": torch.zeros(1)}, path, {"note": "n" * length})
        first.add(path.read_bytes()[0])
        weights.check_format(path)
    assert 0x80 in first


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [{}, [1.5] * 3, {"weight": list(range(1000))}, "w" * 256], ids=type)
def test_pickles_under_another_name(tmp_path: pathlib.Path, protocol: int, value: object) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(ValueError, match=r"model\.safetensors is a pickle, which can run any code"):
        weights.check_format(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("archive", [True, False])
def test_checkpoints_under_another_name(tmp_path: pathlib.Path, archive: bool) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match="is a pickle"):
        weights.check_format(path)


def test_other_names(tmp_path: pathlib.Path) -> None:
    for name, words in (("model.pth", "is a pickle"), ("model.h5", "give a .safetensors file")):
        (tmp_path / name).write_bytes(b"content")
        with pytest.raises(ValueError, match=words):
            weights.check_format(tmp_path / name)
