"""VGG features against the network written out, and the files of their weights."""

from __future__ import annotations

import pathlib

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from hdrops.nn import VGGFeatures, vgg_layers

# torchvision's tables: M is a maximum; and the numbers that its convolutions have among the layers.
NETWORKS = {
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512",
}
NUMBERS = {
    "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    "vgg19": [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
}
architectures = pytest.mark.parametrize("architecture", NETWORKS)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Of the first two blocks of either network, with a classifier."""
    generator = torch.Generator().manual_seed(0)
    names = ("classifier.0.weight", "pre_logits.fc1.weight", "head.fc.bias")  # the latter two of timm
    result = {name: torch.zeros(3) for name in names}
    for number, (before, after) in zip((0, 2, 5, 7), ((3, 64), (64, 64), (64, 128), (128, 128)), strict=True):
        deviation = (2 / (9 * before)) ** 0.5
        result[f"features.{number}.weight"] = deviation * torch.randn(after, before, 3, 3, generator=generator)
        result[f"features.{number}.bias"] = torch.rand(after, generator=generator)
    return result


@pytest.fixture
def file(state: dict[str, Tensor], tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "vgg.safetensors"
    safetensors.torch.save_file(state, path)
    return path


def images(*size: int) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def literal(weights: dict[str, Tensor], architecture: str, x: Tensor) -> Tensor:
    """The last convolution's result before its ReLU."""
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (x - mean.to(x.dtype)) / deviation.to(x.dtype)
    numbers = iter(NUMBERS[architecture])
    for k, entry in enumerate(NETWORKS[architecture].split()):
        if entry == "M":
            x = F.max_pool2d(x, 2)
            continue
        number = next(numbers)
        x = F.conv2d(x if k == 0 else x.relu(), *(weights[f"features.{number}.{n}"] for n in ("weight", "bias")), 1, 1)
    return x


@architectures
def test_whole_networks(architecture: str) -> None:
    torch.manual_seed(0)
    model = VGGFeatures(architecture).double()  # type: ignore[arg-type]
    weights = model.state_dict()
    assert list(weights) == [f"features.{n}.{kind}" for n in NUMBERS[architecture] for kind in ("weight", "bias")]
    count = {"vgg16": 14_714_688, "vgg19": 20_024_384}[architecture]
    assert sum(tensor.numel() for tensor in weights.values()) == count
    x = images(16, 33)
    expected = literal(weights, architecture, x)
    assert expected.shape == (2, 512, 1, 2)
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("architecture", "layer", "number"),
    [("vgg19", "conv1_1", 0), ("vgg19", "conv3_4", 16), ("vgg19", "conv4_1", 19), ("vgg16", "conv4_1", 17)],
)
def test_layers(architecture: str, layer: str, number: int) -> None:
    with torch.device("meta"):
        layers = vgg_layers(architecture, layer)  # type: ignore[arg-type]
        assert len(layers) == number + 1
        block = int(layer[4])
        features = layers(torch.empty(1, 3, 48, 50))
    assert features.shape == (1, (64, 128, 256, 512, 512)[block - 1], 48 >> block - 1, 50 >> block - 1)


def test_after_the_relu(state: dict[str, Tensor]) -> None:
    x = images(8, 9).float()
    before, after = (VGGFeatures.from_state_dict(state, "vgg16", "conv2_1", activated=a)(x) for a in (False, True))
    assert before.min() < 0
    assert torch.equal(after, before.relu())


def test_gradient(state: dict[str, Tensor]) -> None:
    model = VGGFeatures.from_state_dict(state, layer="conv2_1").double()
    assert torch.autograd.gradcheck(model, images(4, 5)[:1].requires_grad_(), fast_mode=True)


def test_frozen(state: dict[str, Tensor]) -> None:
    for model in (VGGFeatures(layer="conv2_1"), VGGFeatures.from_state_dict(state, layer="conv2_1")):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        x = images(8, 9).float().requires_grad_()
        found = model(x)
        found.sum().backward()
        assert x.grad is not None
        assert (x.grad != 0).any()
        assert all(parameter.grad is None for parameter in model.parameters())
        assert torch.equal(model.train()(x), found)


def test_dtypes(state: dict[str, Tensor]) -> None:
    model = VGGFeatures.from_state_dict(state, layer="conv2_1")
    x = images(8, 9)
    assert model(x).dtype == torch.float32
    torch.testing.assert_close(model(x), model(x.float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16


def test_file(file: pathlib.Path, state: dict[str, Tensor]) -> None:
    """The layer's weights of a file that goes on after it, without its classifier."""
    random = torch.get_rng_state()
    model = VGGFeatures.from_pretrained(file, "vgg16", "conv2_1")
    assert torch.equal(torch.get_rng_state(), random)
    assert list(model.state_dict()) == [f"features.{n}.{kind}" for n in (0, 2, 5) for kind in ("weight", "bias")]
    x = images(8, 9).float()
    expected = model(x)
    content = file.read_bytes()
    with open(file, "r+b") as stream:  # in place, where the file might be mapped into memory
        stream.write(bytes(len(content)))
    assert torch.equal(model(x), expected)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_saved(file: pathlib.Path, state: dict[str, Tensor], tmp_path: pathlib.Path) -> None:
    model = VGGFeatures.from_pretrained(file, layer="conv2_2")
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "saved.safetensors")
    for _ in range(2):
        model.save_pretrained(link)
    assert link.is_symlink()
    again = VGGFeatures.from_pretrained(tmp_path / "saved.safetensors", layer="conv2_2")
    assert torch.equal(again(images(4, 4)), model(images(4, 4)))
    assert {path.name for path in tmp_path.iterdir()} == {file.name, link.name, "saved.safetensors"}
    with pytest.raises(ValueError, match=r"vgg\.pth must end in \.safetensors"):
        model.save_pretrained(tmp_path / "vgg.pth")
    with pytest.raises(FileNotFoundError):
        model.save_pretrained(tmp_path / "none" / "vgg.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features.2.bias": None}, r"not those of vgg19: 1 weights are missing \(features\.2\.bias\)"),
        ({"features.7.bias": None}, r"not those of vgg19: 1 weights are missing \(features\.7\.bias\)"),
        ({"features.17.weight": torch.zeros(1)}, r"1 weights are unknown \(features\.17\.weight\)"),
        ({"decoder.weight": torch.zeros(1)}, r"1 weights are unknown \(decoder\.weight\)"),
        ({"features.7.bias": torch.zeros(3)}, r"features\.7\.bias is \(3,\) instead of \(128,\)"),
        ({"features.0.bias": torch.full((64,), torch.nan)}, r"features\.0\.bias is not finite"),
        ({"features.0.bias": torch.zeros(64, dtype=torch.int64)}, "weights must be floating point"),
    ],
)
def test_other_weights(
    file: pathlib.Path, state: dict[str, Tensor], changes: dict[str, Tensor | None], words: str
) -> None:
    changed = {name: tensor for name, tensor in {**state, **changes}.items() if tensor is not None}
    safetensors.torch.save_file(changed, file)
    with pytest.raises(ValueError, match=r"vgg\.safetensors: .*" + words):
        VGGFeatures.from_pretrained(file, layer="conv2_2")


def test_missing_beyond_the_layer(file: pathlib.Path, state: dict[str, Tensor]) -> None:
    """Is of no matter to it."""
    safetensors.torch.save_file({name: state[name] for name in state if not name.startswith("features.7.")}, file)
    assert VGGFeatures.from_pretrained(file, layer="conv2_1")(images(2, 2)).shape == (2, 128, 1, 1)


@pytest.mark.filterwarnings("ignore")
def test_wrong_files(file: pathlib.Path, state: dict[str, Tensor], tmp_path: pathlib.Path) -> None:
    whole = file.read_bytes()
    for cut in (0, 4, 100, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="is damaged"):
            VGGFeatures.from_pretrained(file)
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match=r"vgg\.pth is a pickle, which can run any code .*hdrops convert"):
        VGGFeatures.from_pretrained(tmp_path / "vgg.pth")
    with pytest.raises(FileNotFoundError):
        VGGFeatures.from_pretrained(tmp_path / "none.safetensors")


def test_wrong_arguments(state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="architecture must be 'vgg16' or 'vgg19', got 'vgg11'"):
        VGGFeatures("vgg11")  # type: ignore[arg-type]
    for layer in ("conv5_4", "conv0_1", "relu1_1", ""):
        with pytest.raises(ValueError, match=f"layer of vgg16 must be conv1_1 to conv5_3, got '{layer}'"):
            VGGFeatures.from_state_dict(state, "vgg16", layer)
    model = VGGFeatures.from_state_dict(state, layer="conv2_1")
    with pytest.raises(TypeError, match=r"floating point in \[0, 1\], got torch\.uint8"):
        model(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    for shape in ((3, 4, 4), (1, 4, 4, 4), (1, 3, 1, 4)):
        with pytest.raises(ValueError, match=r"\(N, 3, H, W\) with at least 2 pixels a side"):
            model(torch.zeros(shape))
