"""torchvision's VGG checkpoints: all their convolutions, and refusals."""

from __future__ import annotations

import pathlib

import pytest
import torch
from torch import Tensor

from hdrops.convert import vgg16, vgg19
from hdrops.nn import vgg_layers


def checkpoint(architecture: str) -> dict[str, Tensor]:
    """Tensors by the names of the publication, each of one value, which is all that takes place in a file."""
    with torch.device("meta"):
        shapes = vgg_layers(architecture).state_dict()  # type: ignore[arg-type]
    state = {"classifier.6.weight": torch.zeros(10, 7), "classifier.6.bias": torch.zeros(10)}
    return state | {
        f"features.{name}": torch.tensor(k / 64).expand(t.shape) for k, (name, t) in enumerate(shapes.items())
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_vgg19(tmp_path: pathlib.Path, archive: bool) -> None:
    state = checkpoint("vgg19")
    torch.save(state, tmp_path / "vgg19.pth", _use_new_zipfile_serialization=archive)
    found = vgg19(tmp_path / "vgg19.pth").state_dict()
    assert len(found) == 32
    assert all(tensor.is_contiguous() and torch.equal(tensor, state[name]) for name, tensor in found.items())


def test_the_other_network(tmp_path: pathlib.Path) -> None:
    state = checkpoint("vgg16")
    torch.save(state, tmp_path / "vgg16.pth")
    found = vgg16(tmp_path / "vgg16.pth").state_dict()
    assert len(found) == 26
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())
    with pytest.raises(ValueError, match=r"not those of vgg19: \d+ weights are missing \(features\.16\.bias"):
        vgg19(tmp_path / "vgg16.pth")


def test_batch_normalisation(tmp_path: pathlib.Path) -> None:
    torch.save(checkpoint("vgg16") | {"features.1.running_mean": torch.zeros(64)}, tmp_path / "vgg16_bn.pth")
    with pytest.raises(ValueError, match=r"1 weights are unknown \(features\.1\.running_mean\)"):
        vgg16(tmp_path / "vgg16_bn.pth")
