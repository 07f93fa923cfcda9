"""HyperP_MB and DenseFuse: the networks of the papers, and fusion of any bracket with them."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import photographs
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

import hdrops
from hdrops.data.sample import sample_bracket
from hdrops.losses import HyperPMBLoss, MaskBuilder, ParamTuner
from hdrops.models import HyperPMB, HyperPMBConfig
from hdrops.nn.reflection import reflected
from hdrops.ops._grey import luma

PRESETS = ["paper", "densefuse", "light", "tiny"]
DTYPES = [torch.uint8, torch.uint16, torch.float32, torch.float64]


def model(preset: str = "tiny", seed: int = 0, **changes: Any) -> HyperPMB:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return HyperPMB(HyperPMBConfig.preset(preset, **changes)).eval()


def frames(height: int = 40, width: int = 50, count: int = 2, channels: int = 3, n: int = 1) -> Tensor:
    """(N, K, C, H, W) of a smooth scene that spans some stops, in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(n, channels, 5, 6, generator=generator)
    radiance = torch.exp2(8 * F.interpolate(coarse, (height, width), mode="bilinear") - 6)
    stops = torch.linspace(-2, 2, count).tolist()
    return torch.stack([(radiance * 2.0**ev).clamp(0, 1) ** (1 / 2.2) for ev in stops], 1)


def as_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype.is_floating_point:
        return images.to(dtype)
    return (images * torch.iinfo(dtype).max).round().to(torch.int32).to(dtype)


def test_numbers_of_parameters() -> None:
    def count(*args: Any, **kwargs: Any) -> int:
        return sum(parameter.numel() for parameter in model(*args, **kwargs).parameters())

    assert count("paper") == 88_225
    assert count("paper", shared_encoder=True) == count("densefuse") == 74_193
    parts = model("densefuse")
    assert sum(p.numel() for p in parts.encoders.parameters()) == 14_032
    assert sum(p.numel() for p in parts.decoder.parameters()) == 60_161


def test_network_is_that_of_the_paper() -> None:
    """Figure 3, written out: reflected 3 x 3 layers with ReLU, dense connections, features added."""
    network = model("paper", scale=1.0)
    state = network.state_dict()
    dark, bright = frames(channels=1).unbind(1)

    def layer(x: Tensor, name: str) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), state[f"{name}.weight"], state[f"{name}.bias"]).clamp(min=0)

    features = []
    for number, image in enumerate((dark, bright)):
        seen = [layer(image, f"encoders.{number}.first")]
        for i in range(3):
            seen.append(layer(torch.cat(seen, 1), f"encoders.{number}.dense.{i}"))
        features.append(torch.cat(seen, 1))
    x = features[0] + features[1]
    for i in range(4):
        x = layer(x, f"decoder.{i}")
    torch.testing.assert_close(network(dark, bright), x)
    mean, halved = model("paper", scale=1.0, fusion="mean"), model("paper", scale=1.0)
    mean.load_state_dict(state)
    halved.decoder[0].weight.data /= 2
    torch.testing.assert_close(mean(dark, bright), halved(dark, bright))


def test_scale_is_of_the_values_inside() -> None:
    network, unit = model("paper"), model("paper", scale=1.0)
    for name, parameter in unit.named_parameters():
        if name.endswith("bias"):
            parameter.data /= 255
    dark, bright = frames(channels=1).unbind(1)
    torch.testing.assert_close(network(dark, bright), unit(dark, bright), rtol=1e-4, atol=1e-6)


def test_receptive_field_is_17_by_17() -> None:
    network = model("paper").double()
    image = frames(41, 41, channels=1).double()
    dark, bright = image[:, 0].requires_grad_(), image[:, 1]
    network(dark, bright)[0, 0, 20, 20].backward()
    seen = dark.grad[0, 0].nonzero()
    assert network.radius == 8
    assert bool((seen >= 12).all())
    assert bool((seen <= 28).all())


@pytest.mark.parametrize("preset", PRESETS)
def test_forward_and_backward(preset: str) -> None:
    network = model(preset)
    dark, bright = frames(n=2, channels=1).unbind(1)
    out = network(dark, bright)
    assert out.shape == dark.shape
    assert bool((out >= 0).all())
    (out - 0.5).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("side", [(1, 1), (1, 9), (7, 1), (2, 2)])
def test_smallest_images(side: tuple[int, int]) -> None:
    bracket = as_dtype(frames(*side), torch.uint8)
    assert model().fuse(bracket).shape == (1, 3, *side)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("preset", PRESETS)
def test_untrained_result_is_as_bright_as_the_images(preset: str, seed: int) -> None:
    """Where the last ReLU gives 0 there is no gradient."""
    dark, bright = frames(channels=1).unbind(1)
    found = model(preset, seed)(dark, bright)
    assert bool((found > 0).all())
    assert 0.5 * dark.mean() < found.mean() < 2 * bright.mean()


@pytest.mark.parametrize("seed", range(4))
def test_first_updates_do_not_kill_it(seed: int, threads: Callable[[int], None]) -> None:
    threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = HyperPMB(HyperPMBConfig.preset("light"))
    images = sample_bracket(64, 64, exposures=3, step=2.0)[0].float() / 255
    dark, target, bright = (image.mean(0)[None, None] for image in images)
    loss = HyperPMBLoss(MaskBuilder(3.0), ParamTuner(), scales=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss(network(dark, bright), dark, target, bright).backward()
        optimizer.step()
    assert loss(network(dark, bright), dark, target, bright) < 2 * loss((dark + bright) / 2, dark, target, bright)


def test_overfits_a_bracket(threads: Callable[[int], None]) -> None:
    threads(1)
    started = time.monotonic()
    torch.manual_seed(0)
    network = HyperPMB(HyperPMBConfig.preset("tiny"))
    images = sample_bracket(64, 64, exposures=3, step=2.0)[0].float() / 255
    dark, target, bright = (image.mean(0)[None, None] for image in images)
    loss = HyperPMBLoss(scales=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        loss(network(dark, bright), dark, target, bright).backward()
        optimizer.step()
    average = loss((dark + bright) / 2, dark, target, bright)
    assert loss(network(dark, bright), dark, target, bright) < 0.3 * average
    assert time.monotonic() - started < 60


def test_overfits_a_real_bracket(threads: Callable[[int], None]) -> None:
    """Under a minute on one thread: far closer to the correct exposure than the average is."""
    from hdrops.io import read_bracket

    entries = photographs.real_brackets()
    name, entry = next(x for x in sorted(entries.items()) if "fairchild" in x[0] and len(x[1]["files"]) == 9)
    threads(1)
    images = read_bracket([photographs.photographs() / name / entry["files"][k] for k in (2, 4, 6)]).images
    dark, target, bright = luma(images[..., 100:196, 100:196].float() / 255)[:, None]
    torch.manual_seed(0)
    network = HyperPMB(HyperPMBConfig.preset("tiny"))
    loss = HyperPMBLoss(scales=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    started = time.monotonic()
    for _ in range(300):
        optimizer.zero_grad()
        loss(network(dark, bright), dark, target, bright).backward()
        optimizer.step()
    assert loss(network(dark, bright), dark, target, bright) < 0.3 * loss((dark + bright) / 2, dark, target, bright)
    assert time.monotonic() - started < 60


# ---- fusion of brackets ----------------------------------------------------------------------------------------------


def test_lightness_is_fused_and_colours_are_averaged() -> None:
    network = model("paper")
    bracket = frames()
    lab = [hdrops.rgb_to_lab(frame) for frame in bracket.unbind(1)]
    lightness = network(lab[0][:, :1] / 100, lab[1][:, :1] / 100) * 100
    expected = torch.cat([lightness, (lab[0][:, 1:] + lab[1][:, 1:]) / 2], 1)
    torch.testing.assert_close(network.fuse(bracket), hdrops.lab_to_rgb(expected).clamp(0, 1), atol=1e-5, rtol=0)


def test_more_frames_are_weighted_by_their_place() -> None:
    """The weights of the first encoder fall in equal steps to 0, those of the second rise."""
    network = model("paper")
    bracket = frames(count=4, channels=1)
    lightness = [hdrops.rgb_to_lab(x.expand(-1, 3, -1, -1))[:, :1] * 2.55 for x in bracket.unbind(1)]

    def features(number: int, x: Tensor) -> Tensor:
        return torch.cat(network.encoders[number](x), 1)[..., 1:-1, 1:-1]

    dark = sum(weight / 6 * features(0, x) for weight, x in zip((3, 2, 1), lightness[:3], strict=True))
    bright = sum(weight / 6 * features(1, x) for weight, x in zip((1, 2, 3), lightness[1:], strict=True))
    fused = dark + bright
    for layer in network.decoder:
        fused = layer(F.pad(fused, (1, 1, 1, 1), "reflect")).relu()
    grey = torch.zeros(1, 2, 40, 50)
    expected = hdrops.lab_to_rgb(torch.cat([fused / 2.55, grey], 1))[:, :1].clamp(0, 1)
    torch.testing.assert_close(network.fuse(bracket), expected, atol=1e-5, rtol=0)


def test_a_shared_encoder_takes_the_mean_of_all_frames() -> None:
    network = model("densefuse", lightness=True)
    bracket = frames(count=4, channels=1)
    lightness = [hdrops.rgb_to_lab(x.expand(-1, 3, -1, -1))[:, :1] / 100 for x in bracket.unbind(1)]
    features = [network.encoders[0](x * 255) for x in lightness]
    fused = torch.stack([torch.cat(parts, 1) for parts in features]).mean(0)
    fused = network.decoder[0](fused)
    for layer in network.decoder[1:]:
        fused = layer(F.pad(fused.relu(), (1, 1, 1, 1), "reflect"))
    expected = hdrops.lab_to_rgb(torch.cat([fused.relu() / 2.55, torch.zeros(1, 2, 40, 50)], 1))[:, :1].clamp(0, 1)
    torch.testing.assert_close(network.fuse(bracket), expected, atol=1e-5, rtol=0)


def test_gradients_by_torch_func() -> None:
    network = model()
    dark, bright = frames(channels=1).unbind(1)

    def mean(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(network, parameters, (dark, bright)).mean()

    parameters = dict(network.named_parameters())
    found = torch.func.grad(mean)(parameters)
    network(dark, bright).mean().backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad)


@pytest.mark.parametrize("size", [(1, 40), (3, 2), (37, 53), (64, 80)])
@pytest.mark.parametrize("preset", ["paper", "densefuse"])
def test_tiled_equals_whole(size: tuple[int, int], preset: str) -> None:
    network = model(preset).double()
    bracket = frames(*size, count=3).double()
    whole = network.fuse(bracket, tile=10_000)
    torch.testing.assert_close(network.fuse(bracket, tile=(16, 24)), whole, atol=1e-9, rtol=0)


@pytest.mark.large
def test_tiled_equals_whole_at_12_megapixels() -> None:
    network = model("paper")
    bracket = frames(3000, 4000)
    torch.testing.assert_close(network.fuse(bracket), network.fuse(bracket, tile=4000), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_dtypes(dtype: torch.dtype, channels: int) -> None:
    network = model(channels=channels)
    bracket = frames(24, 30)
    expected = network.fuse(bracket)
    found = network.fuse(as_dtype(bracket, dtype))
    assert found.dtype == dtype
    full = torch.iinfo(dtype).max if not dtype.is_floating_point else 1
    torch.testing.assert_close(found.double() / full, expected.double(), atol=0.02 if full == 255 else 1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_lose_no_more_than_their_rounding(dtype: torch.dtype) -> None:
    network = model()
    bracket = frames(24, 30).to(dtype)
    error = (network.fuse(bracket).double() - network.fuse(bracket.double())).abs().max()
    assert error <= torch.finfo(dtype).eps / 2 + 1e-5


def test_16_bits_are_kept() -> None:
    picture = model().fuse(as_dtype(frames(64, 64), torch.uint16)).to(torch.int32)
    assert len((picture % 257).unique()) > 50


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_brackets(channels: int) -> None:
    network = model(channels=channels)
    bracket = frames(channels=1)
    grey = network.fuse(bracket)
    assert grey.shape == (1, 1, 40, 50)
    torch.testing.assert_close(grey, network.fuse(bracket.expand(-1, -1, 3, -1, -1))[:, :1], atol=1e-5, rtol=0)


def test_grey_of_a_published_densefuse() -> None:
    """Its implementation takes grey codes as they are, the mean of both images' features, and clamps what comes out."""
    network = model("densefuse")
    bracket = as_dtype(frames(channels=1), torch.uint8)
    (encoder,), decoder = network.encoders, network.decoder
    features = [torch.cat(encoder(x.float()), 1) for x in bracket.unbind(1)]
    result = (features[0] + features[1]) / 2
    for k, layer in enumerate(decoder):
        result = layer(result if k == 0 else reflected(result)).relu()
    assert torch.equal(network.fuse(bracket), result.round().clamp(0, 255).byte())
    lightness = model("densefuse", lightness=True)
    lightness.load_state_dict(network.state_dict())
    assert not torch.equal(lightness.fuse(bracket), network.fuse(bracket))
    assert torch.equal(
        lightness.fuse(bracket.expand(-1, -1, 3, -1, -1)), network.fuse(bracket.expand(-1, -1, 3, -1, -1))
    )


def test_arrays_enter_by_dlpack() -> None:
    bracket = as_dtype(frames(), torch.uint8)
    assert torch.equal(model().fuse(bracket.numpy()), model().fuse(bracket))  # type: ignore[arg-type]


def test_compiles() -> None:
    network = model()
    dark, bright = frames(channels=1).unbind(1)
    compiled = torch.compile(network, fullgraph=True)
    torch.testing.assert_close(compiled(dark, bright), network(dark, bright), atol=1e-5, rtol=1e-4)


def test_exports() -> None:
    network = model()
    dark, bright = frames(channels=1).unbind(1)
    sides = {2: torch.export.Dim("height", min=8, max=4096), 3: torch.export.Dim("width", min=8, max=4096)}
    program = torch.export.export(network, (dark, bright), dynamic_shapes=(sides, sides))
    other = frames(33, 70, channels=1).unbind(1)
    torch.testing.assert_close(program.module()(*other), network(*other), atol=1e-5, rtol=1e-4)


def test_autocast_trains() -> None:
    network = model("light")
    dark, bright = frames(channels=1).unbind(1)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(dark, bright)
    out.float().mean().backward()
    torch.testing.assert_close(out.float(), network(dark, bright), atol=0.02, rtol=0.05)


# ---- wrong arguments -------------------------------------------------------------------------------------------------


def test_wrong_brackets() -> None:
    network = model()
    with pytest.raises(ValueError, match="at least two exposures"):
        network.fuse(frames(count=1))
    with pytest.raises(ValueError, match="with 3 channels, or 1 for grey"):
        network.fuse(frames(channels=4))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        network.fuse(frames() * 2)
    with pytest.raises(TypeError, match="uint8, uint16 or floating point"):
        network.fuse(frames().to(torch.int32))
    with pytest.raises(ValueError, match=r"must both be \(N, 1, H, W\)"):
        network(*frames().unbind(1))
    with pytest.raises(TypeError, match="must be floating point"):
        network(*as_dtype(frames(channels=1), torch.uint8).unbind(1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": 0}, "features must be an integer from 1 to 4096"),
        ({"decoder": ()}, "decoder must be 1 to 64 numbers"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"channels": 1.0}, "channels must be 1 or 3"),
        ({"channels": True}, "channels must be 1 or 3"),
        ({"layers": 65}, "layers must be an integer from 1 to 64"),
        ({"fusion": "max"}, "fusion must be 'sum' or 'mean'"),
        ({"shared_encoder": 1}, "shared_encoder must be true or false"),
        ({"lightness": "no"}, "lightness must be true or false"),
        ({"scale": 0.0}, "scale must be positive"),
    ],
)
def test_wrong_configurations(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HyperPMBConfig(**options)
    with pytest.raises(ValueError, match="preset must be one of paper, densefuse, light, tiny"):
        HyperPMBConfig.preset("huge")  # type: ignore[arg-type]


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["densefuse", "tiny"])
def test_save_and_load(tmp_path: pathlib.Path, preset: str) -> None:
    network = model(preset)
    network.save_pretrained(tmp_path / "weights")
    again = HyperPMB.from_pretrained(tmp_path / "weights")
    assert again.config == network.config
    assert not again.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_wrong_files(tmp_path: pathlib.Path) -> None:
    model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, words in (
        ({"system": "other"}, "system must be 'hyperp_mb', got 'other'"),
        ({"decoder": 3}, "decoder must be a list"),
        ({"colour": 3}, "unknown key 'colour'"),
        ({"features": 5}, "belongs to another network than config.json"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=words):
            HyperPMB.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    weights["decoder.0.bias"][0] = float("nan")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not finite"):
        HyperPMB.from_pretrained(tmp_path)
