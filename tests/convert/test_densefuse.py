"""Published DenseFuse checkpoints: names, conventions and refusals."""

import pickle

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from hdrops.convert import densefuse
from hdrops.convert.densefuse import NAMES
from hdrops.models import HyperPMB, HyperPMBConfig


def checkpoint(channels=1):
    """Tensors by the names of the publication."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"conv1": (channels, 16)}
    sizes |= {f"DB1.denseblock.{i}.dense_conv": (16 * (i + 1), 16) for i in range(3)}
    sizes |= {f"conv{i + 2}": pair for i, pair in enumerate(((64, 64), (64, 32), (32, 16), (16, channels)))}
    state = {}
    for name, (inputs, outputs) in sizes.items():
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
        state[f"{name}.conv2d.weight"] = weight.abs() if name == "conv5" else weight
        state[f"{name}.conv2d.bias"] = torch.rand(outputs, generator=generator)
    return state


def layer(state, name, x):
    padded = F.pad(x, (1, 1, 1, 1), "reflect")
    return F.conv2d(padded, state[f"{name}.conv2d.weight"], state[f"{name}.conv2d.bias"]).relu()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["safetensors", "torch", "parallel"])
def test_runs_as_published(tmp_path, channels, kind):
    """One encoder, the mean of the features, ReLU behind the last layer, values of 0 to 255."""
    state = checkpoint(channels)
    if kind == "safetensors":
        path = tmp_path / "densefuse.safetensors"
        safetensors.torch.save_file(state, path)
    else:
        path = tmp_path / "densefuse.model"
        torch.save({f"module.{name}": x for name, x in state.items()} if kind == "parallel" else state, path)
    model = densefuse(path)
    assert (model.config.channels, model.training) == (channels, False)
    images = torch.rand(2, 1, channels, 20, 24, generator=torch.Generator().manual_seed(1))
    features = []
    for image in images * 255:
        x = layer(state, "conv1", image)
        for i in range(3):
            x = torch.cat([x, layer(state, f"DB1.denseblock.{i}.dense_conv", x)], 1)
        features.append(x)
    x = (features[0] + features[1]) / 2
    for i in range(2, 6):
        x = layer(state, f"conv{i}", x)
    torch.testing.assert_close(model(*images) * 255, x, rtol=1e-4, atol=1e-2)


def test_other_checkpoints_are_refused(tmp_path):
    state = checkpoint()
    for change, words in (
        ({"conv6.conv2d.weight": torch.zeros(1)}, "has unknown conv6.conv2d.weight"),
        ({"conv2.conv2d.weight": torch.zeros(3, 3)}, "have another shape"),
        ({"conv1.conv2d.weight": torch.zeros(16, 2, 3, 3)}, r"conv1.conv2d.weight has shape \(16, 2, 3, 3\)"),
    ):
        torch.save(state | change, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=words):
            densefuse(tmp_path / "other.pt")
    del state["conv3.conv2d.bias"]
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"it misses conv3\.conv2d\.bias"):
        densefuse(tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "other.pt")
    with pytest.raises(ValueError, match="must hold tensors by their names"):
        densefuse(tmp_path / "other.pt")


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_is_not_run(tmp_path):
    with open(tmp_path / "evil.pt", "wb") as file:
        pickle.dump(Harmful(), file)
    torch.save({"conv1.conv2d.weight": Harmful()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(ValueError, match="no checkpoint of tensors"):
            densefuse(tmp_path / name)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.full((16,), torch.nan), "is not finite"),
        (torch.full((16,), 1e300, dtype=torch.float64), "is not finite in float32"),
        (torch.zeros(16).to(torch.float8_e4m3fn), r"got torch\.float8_e4m3fn"),
        (torch.zeros(16, dtype=torch.int64), r"must be a dense floating-point tensor, got torch\.int64"),
        (torch.zeros(16, dtype=torch.complex64), r"got torch\.complex64"),
        (torch.zeros(16).to_sparse(), r"got torch\.float32, torch\.sparse_coo"),
        (torch.zeros(16, device="meta"), "without values"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path, tensor, words):
    torch.save(checkpoint() | {"conv1.conv2d.bias": tensor}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt: conv1.conv2d.bias .*" + words):
        densefuse(tmp_path / "other.pt")


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_tensors_beside_other_things(tmp_path, key):
    state = checkpoint()
    torch.save({"epoch": 4, key: {f"module.{name}": x.double() for name, x in state.items()}}, tmp_path / "all.pt")
    found = densefuse(tmp_path / "all.pt").state_dict()
    assert all(torch.equal(found[ours], state[theirs]) for theirs, ours in NAMES.items())


def test_whole_models(tmp_path):
    torch.save(HyperPMB(HyperPMBConfig.preset("tiny")), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"holds more than tensors by name; save the network's state_dict\(\)$"):
        densefuse(tmp_path / "model.pt")


def test_names_that_stand_twice(tmp_path):
    state = checkpoint()
    torch.save(state | {f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "twice.pt")
    with pytest.raises(ValueError, match=r"has names twice, with and without module\."):
        densefuse(tmp_path / "twice.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_cut_files(tmp_path, kind):
    whole, cut = tmp_path / "whole", tmp_path / ("cut.safetensors" if kind == "safetensors" else "cut.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(checkpoint(), whole)
    else:
        torch.save(checkpoint(), whole, _use_new_zipfile_serialization=kind == "zip")
    content = whole.read_bytes()
    places = [*range(1, 120, 9), *(len(content) * k // 20 for k in range(1, 20))]
    for place in places:
        cut.write_bytes(content[:place])
        with pytest.raises(ValueError, match=r"is no checkpoint of tensors\W.* is damaged"):
            densefuse(cut)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"garbage" * 100])
def test_damaged_files(tmp_path, content):
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"is no checkpoint of tensors\W.* is damaged"):
            densefuse(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        densefuse(tmp_path / "none.pt")
