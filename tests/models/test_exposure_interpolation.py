"""Exposure interpolation: the network of the paper, and the system around it."""

from __future__ import annotations

import json
import math
import pathlib
import pickle
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import photographs
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hdrops
from hdrops import losses
from hdrops.data import BracketTriplets, SyntheticTriplets
from hdrops.data.sample import render_scene
from hdrops.metrics import psnr
from hdrops.models import (
    LRL,
    ExposureInterpolator,
    ExposureInterpolatorConfig,
    LRLConfig,
    SwappedImages,
    exposures_between,
    insert_exposures,
    interpolate_exposure,
)
from hdrops.models import _pretrained as pretrained

PRESETS = ["paper", "light", "tiny"]
Config = ExposureInterpolatorConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(height: int = 40, width: int = 50, channels: int = 3, n: int = 1) -> Tensor:
    """Relative exposures of a smooth scene that spans some stops."""
    coarse = torch.rand(n, channels, 5, 6, generator=generator())
    return torch.exp2(8 * torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") - 8)


def exposed(radiance: Tensor, stops: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A photograph of it: clipped, gamma response."""
    values = (radiance * 2.0**stops).clamp(0, 1) ** (1 / 2.2)
    if dtype.is_floating_point:
        return values.to(dtype)
    full = torch.iinfo(dtype).max
    return (values * full).round().to(torch.int32).to(dtype)


def pair(
    height: int = 40, width: int = 50, channels: int = 3, n: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Two exposures, four stops apart."""
    radiance = scene(height, width, channels, n)
    return exposed(radiance, 0, dtype), exposed(radiance, 4, dtype)


def tables(ratio: float = 16.0) -> tuple[Tensor, Tensor]:
    return hdrops.gamma_imf(ratio**0.5).clamp(max=255), hdrops.gamma_imf(ratio**-0.5)


def model(preset: str = "tiny", *, trained: bool = True, seed: int = 1, **changes: Any) -> ExposureInterpolator:
    """A model; ``trained``: its last layer has a residual of some codes to show."""
    torch.manual_seed(seed)
    made = ExposureInterpolator(Config.preset(preset, **changes)).eval()
    if trained:
        torch.nn.init.normal_(made.network.tail.weight, 0, 0.01)
        torch.nn.init.normal_(made.network.tail.bias, 0, 0.01)
        for block in made.network.blocks:
            torch.nn.init.normal_(block.project.bias, 0, 0.1)
    return made


# ---- the network -----------------------------------------------------------------------------------------------------


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_numbers_of_parameters() -> None:
    assert count(LRL()) == 46_627
    assert count(LRL(LRLConfig(last_depthwise=True))) == 46_947
    assert count(ExposureInterpolator()) == 46_627
    assert count(LRL(LRLConfig.preset("light"))) == 13_075
    assert count(LRL(LRLConfig.preset("tiny"))) == 2_179


def test_receptive_field_is_21_by_21() -> None:
    for config, radius in ((LRLConfig(), 10), (LRLConfig(last_depthwise=True), 11), (LRLConfig.preset("tiny"), 5)):
        torch.manual_seed(0)
        network = LRL(config).double()
        assert network.radius == radius
        x = torch.rand(1, 3, 41, 41, dtype=torch.float64, generator=generator()).requires_grad_()
        # Without ReLU every path is open.
        y = network
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.data.abs_()
        (gradient,) = torch.autograd.grad(y(x)[0, :, 20, 20].sum(), x)
        seen = gradient[0].sum(0).nonzero()
        assert seen.min().item() == 20 - radius
        assert seen.max().item() == 20 + radius


@pytest.mark.parametrize("preset", PRESETS)
def test_forward_and_backward(preset: str) -> None:
    dark, bright = pair(n=2)
    for inputs in (("x3",), ("x3", "dark", "bright")):
        made = model(preset, inputs=inputs)
        result = made(dark, bright, *tables())
        assert result.shape == dark.shape
        losses.InterpolationLoss()(result, exposed(scene(n=2), 2)).backward()
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("preset", PRESETS)
def test_untrained_residual_is_x3(preset: str) -> None:
    dark, bright = pair()
    expected = hdrops.imf_fuse(dark, bright, *tables())
    assert torch.equal(model(preset, trained=False)(dark, bright, *tables()), expected)
    direct = model(preset, trained=False, residual=False)
    assert (direct(dark, bright, *tables()) - expected).abs().max() > 0.01


def test_untrained_model_learns() -> None:
    """Its last layer begins at 0, which must not hold the others back."""
    dark, bright = pair()
    target = exposed(scene(), 2)
    made = model(trained=False)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.01)
    for _ in range(2):
        losses.InterpolationLoss()(made(dark, bright, *tables()), target + 0.1).backward()
        optimiser.step()
    for name, parameter in made.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_overfits_a_bracket(threads: Callable[[int], None]) -> None:
    """The tiny preset on one patch: far closer than x3, in seconds."""
    threads(1)
    dark, bright = pair(60, 90, dtype=torch.uint8)
    # A camera that the maps cannot describe: colours mix.
    mix = torch.tensor([[0.8, 0.2, 0.0], [0.1, 0.7, 0.2], [0.0, 0.3, 0.7]])
    target = torch.einsum("ij,njhw->nihw", mix, exposed(scene(60, 90), 2))
    imf = [hdrops.intermediate_imf(hdrops.estimate_imf(*images)) for images in ((dark, bright), (bright, dark))]
    made = model(trained=False)
    loss = losses.InterpolationLoss()
    optimiser = torch.optim.Adam(made.parameters(), lr=0.003)
    with torch.no_grad():
        before = loss(made(dark, bright, *imf), target).item()
    started = time.monotonic()
    for _ in range(300):
        optimiser.zero_grad()
        value = loss(made(dark, bright, *imf), target)
        value.backward()
        optimiser.step()
    assert value.item() < 0.15 * before
    assert time.monotonic() - started < 60


def test_overfits_a_real_bracket(threads: Callable[[int], None]) -> None:
    threads(1)
    from hdrops.io import read_image

    entries = photographs.real_brackets()
    name, entry = next(
        item for item in sorted(entries.items()) if "fairchild" in item[0] and len(item[1]["files"]) == 9
    )
    folder = photographs.photographs() / name
    frames = [read_image(folder / entry["files"][k]).pixels[None] for k in (2, 4, 6)]
    dark, middle, bright = (frame[..., 100:196, 100:196].contiguous() for frame in frames)
    imf = [
        hdrops.intermediate_imf(hdrops.estimate_imf(*images))
        for images in ((frames[0], frames[2]), (frames[2], frames[0]))
    ]
    target = middle / 255
    made = model(trained=False)
    loss = losses.InterpolationLoss()
    optimiser = torch.optim.Adam(made.parameters(), lr=0.001)
    with torch.no_grad():
        before = loss(made(dark, bright, *imf), target).item()
    for _ in range(200):
        optimiser.zero_grad()
        value = loss(made(dark, bright, *imf), target)
        value.backward()
        optimiser.step()
    assert value.item() < 0.6 * before


networks = pytest.mark.parametrize(
    "config",
    [
        LRLConfig(),
        LRLConfig(last_depthwise=True),
        LRLConfig.preset("light"),
        LRLConfig.preset("tiny"),
        LRLConfig(stem=16, features=16, blocks="RRLRR"),
        LRLConfig(in_channels=6, stem=8, hidden=24, features=8, blocks="L", out_channels=2),
    ],
    ids=["paper", "paper with the last 3x3", "light", "tiny", "shortcuts", "one block"],
)


@networks
def test_gradients_pass_through_the_folded_network(config: LRLConfig) -> None:
    torch.manual_seed(3)
    network = LRL(config).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.rand(2, config.in_channels, 9, 12, dtype=torch.float64, requires_grad=True)
    leaves = [x, *network.parameters()]
    upstream = torch.rand(2, config.out_channels, 9, 12, dtype=torch.float64)
    expected = torch.autograd.grad(network(x), leaves, upstream)
    actual = torch.autograd.grad(network.folded()(x), leaves, upstream)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@networks
@torch.no_grad()
def test_folded_and_tiled_equal_the_network(config: LRLConfig) -> None:
    """With biases, whose fold is another at the image's border; to 1e-12 in float64."""
    torch.manual_seed(0)
    network = LRL(config).double()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.bias, 0, 0.3)
    for size in ((1, 1), (2, 9), (31, 40)):
        x = torch.rand(2, config.in_channels, *size, dtype=torch.float64, generator=generator())
        expected = network(x)
        torch.testing.assert_close(network.folded()(x), expected, rtol=1e-12, atol=1e-12)
        for tile in (None, 11, (7, 40)):
            torch.testing.assert_close(network.predict(x, tile=tile), expected, rtol=1e-12, atol=1e-12)
        actual = network.float().predict(x.float())
        torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-5)
        network.double()


@torch.no_grad()
def test_predict_follows_the_weights_and_keeps_the_layout() -> None:
    network = model("light").network
    x = torch.rand(1, 3, 20, 30, generator=generator())
    before = network.predict(x)
    assert before.is_contiguous()
    last = network.predict(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, before, rtol=0, atol=1e-6)
    network.tail.weight.mul_(2)
    network.tail.bias.mul_(2)
    torch.testing.assert_close(network.predict(x), 2 * before)
    with pytest.raises(ValueError, match=r"x must be \(N, 3, H, W\), got shape \(1, 4, 20, 30\)"):
        network.predict(torch.zeros(1, 4, 20, 30))


def resident(key: str) -> float:
    """Memory of this process in MiB: VmRSS now, VmHWM at its peak."""
    status = pathlib.Path("/proc/self/status").read_text()
    found = re.search(rf"{key}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.large
@pytest.mark.parametrize("inputs", [("x3",), ("x3", "dark", "bright")])
@torch.no_grad()
def test_tiled_equals_whole_at_12_megapixels(inputs: Any) -> None:
    """The network of the paper, in bands of the whole width with a halo twice as large as needed."""
    images = pair(3000, 4000, dtype=torch.uint8)
    made = model("paper", inputs=inputs)
    values = [image.float() / 255 for image in images]
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    actual = made.interpolate(*values)[:, 0]
    grown = resident("VmHWM") - before
    assert grown < 1024, f"{grown:.0f} MiB"
    codes = [image.to(torch.int32).mul(257).to(torch.uint16) for image in images]
    imf = [hdrops.intermediate_imf(hdrops.estimate_imf(*p, 4096)) for p in (codes, codes[::-1])]
    halo = 2 * made.network.radius
    for top in range(0, 3000, 500):
        rows = slice(max(top - halo, 0), top + 500 + halo)
        band = made(*(image[:, :, rows] for image in images), *imf).clamp(0, 1)
        whole = band[:, :, top - rows.start :][:, :, :500]
        assert (actual[:, :, top : top + 500] - whole).abs().max() <= 1e-5


def test_gradients_reach_images_and_tables() -> None:
    dark, bright = (image.double().requires_grad_() for image in pair(8, 9))
    imf = [table.double().requires_grad_() for table in tables()]
    made = model().double()
    grads = torch.autograd.grad(made(dark, bright, *imf).square().mean(), [dark, bright, *imf])
    assert all(bool(g.isfinite().all()) and bool(g.abs().sum() > 0) for g in grads)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles(dynamic: bool) -> None:
    torch.compiler.reset()
    made = model(inputs=("x3", "dark"))
    compiled = torch.compile(made, fullgraph=True, dynamic=dynamic)
    network = torch.compile(made.network, fullgraph=True, dynamic=dynamic)
    for size in ((40, 50), (21, 33)):
        images = pair(*size)
        torch.testing.assert_close(compiled(*images, *tables()), made(*images, *tables()), rtol=0, atol=1e-5)
        x = torch.rand(1, 6, *size, generator=generator())
        torch.testing.assert_close(network(x), made.network(x), rtol=0, atol=1e-5)


def test_compiled_gradients() -> None:
    torch.compiler.reset()
    images, target = pair(), exposed(scene(), 2)
    grads = []
    for compiled in (False, True):
        made = model("light")
        forward = torch.compile(made, fullgraph=True) if compiled else made
        losses.InterpolationLoss()(forward(*images, *tables()), target).backward()
        grads.append(torch.cat([p.grad.flatten() for p in made.parameters()]))
    assert (grads[1] - grads[0]).norm() < 1e-4 * grads[0].norm()


def test_exports() -> None:
    made = model("light")
    height, width = torch.export.Dim("height", min=2, max=4096), torch.export.Dim("width", min=2, max=4096)
    of_images = {2: height, 3: width}
    exported = torch.export.export(
        made, (*pair(), *tables()), dynamic_shapes=(of_images, of_images, None, None)
    ).module()
    for size in ((40, 50), (21, 33)):
        images = pair(*size)
        torch.testing.assert_close(exported(*images, *tables()), made(*images, *tables()), rtol=0, atol=1e-6)
    x = torch.rand(1, 3, 12, 13, generator=generator())
    network = torch.export.export(made.network, (x,)).module()
    torch.testing.assert_close(network(x), made.network(x), rtol=0, atol=1e-6)


def test_autocast_trains() -> None:
    made = model()
    with torch.autocast("cpu", torch.bfloat16):
        result = made(*pair(), *tables())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, made(*pair(), *tables()), rtol=0, atol=0.01)
    result.mean().backward()


# ---- interpolate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (37, 53), (64, 80)])
@pytest.mark.parametrize("inputs", [("x3",), ("x3", "dark", "bright")])
def test_tiled_equals_whole(size: tuple[int, int], inputs: Any) -> None:
    images = pair(*size, n=2)
    for preset in PRESETS:
        made = model(preset, inputs=inputs)
        with torch.no_grad():
            whole = made(*images, *tables()).clamp(0, 1)
        for tile in (256, 16, (9, 31)):
            actual = made.interpolate(*images, ratio=16.0, tile=tile)[:, 0]
            assert (actual - whole).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_dtypes(dtype: torch.dtype) -> None:
    dark, bright = pair(dtype=dtype)
    made = model("light")
    actual = made.interpolate(dark, bright, ratio=16.0)
    assert actual.dtype == dtype
    assert actual.shape == (1, 1, 3, 40, 50)

    def unit(image: Tensor) -> Tensor:
        return image.double() / (1 if dtype.is_floating_point else torch.iinfo(dtype).max)

    with torch.no_grad():
        exact = made.double()(unit(dark), unit(bright), *tables()).clamp(0, 1)
    allowed = 2e-5 + (torch.finfo(dtype).eps / 2 if dtype.is_floating_point else 0.5 / torch.iinfo(dtype).max)
    assert (unit(actual[:, 0]) - exact).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_model_in_half_precision(dtype: torch.dtype) -> None:
    """Only the residual is rounded so."""
    images = pair()
    exact = model("light").interpolate(*images)
    residual = float((exact[0] - interpolate_exposure(*images)).abs().max())
    allowed = 16 * torch.finfo(dtype).eps * residual  # of about 20 layers
    assert 0 < allowed < 0.05
    torch.testing.assert_close(model("light").to(dtype).interpolate(*images), exact, rtol=0, atol=allowed)


def test_codes_are_rounded_once() -> None:
    dark, bright = pair(dtype=torch.uint8)
    made = model("light")
    codes = made.interpolate(dark, bright, ratio=16.0)[:, 0]
    with torch.no_grad():
        exact = 255 * made(dark, bright, *tables()).clamp(0, 1)
    assert (codes.float() - exact).abs().max() <= 0.5 + 1e-3


def test_steps_are_computed_from_the_two_images() -> None:
    dark, bright = pair(n=2)
    made = model("light")
    steps = made.interpolate(dark, bright, 3)
    assert steps.shape == (2, 3, 3, 40, 50)
    assert torch.equal(steps[:, 1], made.interpolate(dark, bright)[:, 0])
    for i, fraction in enumerate((0.25, 0.5, 0.75)):
        imf = hdrops.gamma_imf(16.0**fraction).clamp(max=255), hdrops.gamma_imf(16.0 ** (fraction - 1))
        with torch.no_grad():
            expected = made(dark, bright, *imf).clamp(0, 1)
        torch.testing.assert_close(made.interpolate(dark, bright, 3, ratio=16.0)[:, i], expected, rtol=0, atol=1e-5)
    means = steps.mean((0, 2, 3, 4))
    assert bool((means.diff() > 0).all())


def test_what_is_known_of_the_exposures() -> None:
    """Ratio, response, tables and the images themselves tell alike where the response is the paper's."""
    dark, bright = pair(120, 160)
    made = model("light")
    grid = torch.linspace(0, 1, 1024, dtype=torch.float64)
    ways = {
        "ratio": {"ratio": 16.0},
        "response": {"ratio": 16.0, "crf": grid.pow(1 / 2.2)},
        "tables": {"imf": (hdrops.gamma_imf(16.0), hdrops.gamma_imf(1 / 16))},
        "another gamma": {"ratio": 16.0 ** (1.8 / 2.2), "gamma": 1 / 1.8},
    }
    expected = made.interpolate(dark, bright, 2, **ways["ratio"])
    torch.testing.assert_close(made.interpolate(dark, bright, 2, **ways["response"]), expected, rtol=0, atol=5e-3)
    torch.testing.assert_close(made.interpolate(dark, bright, 2, **ways["tables"]), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(made.interpolate(dark, bright, 2, **ways["another gamma"]), expected, rtol=0, atol=1e-5)
    assert (made.interpolate(dark, bright, 2) - expected).abs().mean() < 0.01
    assert (made.interpolate(dark, bright, 2, ratio=4.0) - expected).abs().mean() > 0.03


def test_grey_images() -> None:
    """As three equal channels, of which the mean is taken."""
    for inputs in (("x3",), ("x3", "dark", "bright")):
        dark, bright = pair(channels=1, dtype=torch.uint8)
        made = model("light", inputs=inputs)
        actual = made.interpolate(dark, bright, 2)
        assert actual.shape == (1, 2, 1, 40, 50)
        with torch.no_grad():
            grey = made(dark, bright, *tables())
            colour = made(*(image.expand(-1, 3, -1, -1) for image in (dark, bright)), *tables())
        torch.testing.assert_close(grey, colour.mean(1, keepdim=True), rtol=0, atol=1e-6)


def test_saturation_of_the_estimate() -> None:
    """Where the bright image is white the estimate still tells apart: the truth is found there from the dark one."""
    dark, bright = pair(120, 160, dtype=torch.uint8)
    truth = exposed(scene(120, 160), 2)
    actual = model(trained=False).interpolate(dark, bright)[:, 0]
    white = bright == 255
    assert white.float().mean() > 0.1
    assert (actual / 255 - truth)[white].abs().mean() < 0.02


def test_images_in_channels_last() -> None:
    dark, bright = (image.contiguous(memory_format=torch.channels_last) for image in pair())
    made = model("light")
    for steps in (1, 2):
        actual = made.interpolate(dark, bright, steps)
        assert all(frame.is_contiguous(memory_format=torch.channels_last) for frame in actual.unbind(1))
        expected = made.interpolate(dark.contiguous(), bright.contiguous(), steps)
        assert expected.is_contiguous()
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_begins_near_a_network_of_single_pixels():
    torch.manual_seed(0)
    for name in ("paper", "light", "tiny"):
        network = LRL(LRLConfig.preset(name))
        side = 2 * network.radius + 1
        image = torch.rand(1, 3, side, side, requires_grad=True)
        network(image)[..., side // 2, side // 2].square().sum().backward()
        influence = image.grad.square().sum((0, 1))
        assert float(influence[side // 2, side // 2]) > 0.5 * float(influence.sum()) > 0


def test_no_images() -> None:
    for dark in (pair()[0][:0], pair(dtype=torch.uint8)[0][:0]):
        assert model().interpolate(dark, dark).shape == (0, 1, 3, 40, 50)
        assert model().interpolate(dark, dark, 2, ratio=4.0).shape == (0, 2, 3, 40, 50)
        assert interpolate_exposure(dark, dark).shape == (0, 3, 40, 50)


def test_gradients_are_left_alone() -> None:
    """Images may require gradients and gradients may be on; the model stays as it was."""
    dark, bright = (image.requires_grad_() for image in pair())
    made = model()
    before = [p.clone() for p in made.parameters()]
    assert not made.interpolate(dark, bright).requires_grad
    assert all(torch.equal(p, q) for p, q in zip(made.parameters(), before, strict=True))


def test_interpolate_exposure_is_x3() -> None:
    dark, bright = pair(dtype=torch.uint8)
    tables = hdrops.estimate_imf(dark, bright), hdrops.estimate_imf(bright, dark)
    roots = hdrops.imf_fuse(dark, bright, *(hdrops.intermediate_imf(table) for table in tables))
    response = hdrops.estimate_response(dark, bright)
    steps = hdrops.response_imf(response, 0.25), hdrops.response_imf(response, -0.75)
    assert torch.equal(interpolate_exposure(dark, bright, fraction=0.25), hdrops.imf_fuse(dark, bright, *steps))
    assert torch.equal(interpolate_exposure(dark, bright, maps="histogram"), roots)
    assert torch.equal(interpolate_exposure(dark, bright, imf=tables), roots)
    with pytest.raises(ValueError, match="maps must be 'response' or 'histogram', got 'both'"):
        interpolate_exposure(dark, bright, maps="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("maps", ["histogram", "response"])
def test_an_untrained_model_gives_x3(maps: str) -> None:
    dark, bright = pair(dtype=torch.uint8)
    untrained = ExposureInterpolator(Config.preset("tiny", maps=maps)).eval()
    for options in ({}, {"ratio": 16.0}, {"imf": (hdrops.gamma_imf(16.0), hdrops.gamma_imf(1 / 16))}):
        ours = untrained.interpolate(dark, bright, 3, **options)
        for i in range(3):
            x3 = interpolate_exposure(dark, bright, fraction=(i + 1) / 4, maps=maps, **options)
            assert (ours[:, i].int() - x3.int()).abs().max() <= 1


def test_insert_exposures() -> None:
    radiance = scene(n=2)
    bracket = torch.stack([exposed(radiance, stops) for stops in (0, 3, 6)], 1)
    made = model("light")
    for inserted, steps in ((made, 2), (None, 2), (made, 1), (None, 1)):
        result = insert_exposures(bracket, inserted, steps)
        assert result.shape[:2] == (2, 3 + 2 * steps)
        assert torch.equal(result[:, :: steps + 1], bracket)
        between = result[:, steps + 2]
        if inserted is None:
            assert torch.equal(between, interpolate_exposure(bracket[:, 1], bracket[:, 2], fraction=1 / (steps + 1)))
        else:
            assert torch.equal(between, made.interpolate(bracket[:, 1], bracket[:, 2], steps)[:, 0])
    with pytest.raises(ValueError, match="at least two exposures"):
        insert_exposures(bracket[:, :1], made)
    for inserted in (made, None):
        for steps in (0, 1001):
            with pytest.raises(ValueError, match="steps must be 1 to 1000"):
                insert_exposures(bracket, inserted, steps)


def pair_of(dark: Tensor, bright: Tensor) -> Tensor:
    return torch.stack([dark, bright], 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_exposures_come_one_at_a_time(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has memory of its own; what they share is computed once."""
    from hdrops.models import exposure_interpolation

    calls = {"pair_imfs": 0, "folded": 0, "imf_fuse": 0}

    def counted(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*args, **options)

        monkeypatch.setattr(owner, name, call)

    dark, bright = pair(dtype=dtype)
    made = model("light")
    expected = {
        made: made.interpolate(dark, bright, 3)[0],
        None: insert_exposures(pair_of(dark, bright), None, 3)[0, 1:-1],
    }
    counted(exposure_interpolation, "pair_imfs")
    counted(exposure_interpolation, "imf_fuse")
    counted(LRL, "folded")
    for inserted, frames in expected.items():
        calls.update(pair_imfs=0, folded=0, imf_fuse=0)
        between = exposures_between(dark, bright, inserted, 3)
        for i, frame in enumerate(between, 1):
            assert torch.equal(frame[0], frames[i - 1])
            assert frame.untyped_storage().nbytes() == frame.nbytes
            assert calls == {"pair_imfs": 1, "folded": int(inserted is not None), "imf_fuse": i}
        assert i == 3


def test_inserted_exposures_keep_gradients() -> None:
    """Those of maps alone: the images are differentiable."""
    bracket = pair_of(*(image.double() for image in pair(8, 9))).requires_grad_()
    (gradient,) = torch.autograd.grad(insert_exposures(bracket, steps=2).square().sum(), bracket)
    assert bool(gradient.isfinite().all())
    assert bool((gradient != 2 * bracket).any())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_swapped_images_are_refused(dtype: torch.dtype) -> None:
    """Where the maps are estimated: weights go by role, so that the result would be poor and nothing would say so."""
    dark, bright = pair(dtype=dtype, n=2)
    made = model()
    one_swapped = torch.stack([dark[0], bright[1]]), torch.stack([bright[0], dark[1]])
    calls: list[Callable[[Tensor, Tensor], Any]] = [
        made.interpolate,
        interpolate_exposure,
        lambda *images: insert_exposures(pair_of(*images)),
        lambda *images: insert_exposures(pair_of(*images), made),
        exposures_between,
        lambda *images: exposures_between(*images, made),
    ]
    for call in calls:
        for images in ((bright, dark), one_swapped):
            with pytest.raises(SwappedImages, match=r"dark must be the less exposed image, .*; swap the images"):
                call(*images)
        call(dark, dark)
    assert issubclass(SwappedImages, ValueError)
    made.interpolate(bright, dark, ratio=4.0)
    interpolate_exposure(bright, dark, imf=tables())


def test_what_is_clearly_brighter() -> None:
    dark = torch.full((1, 3, 700, 900), 0.5)
    interpolate_exposure(dark, dark / 1.09)
    with pytest.raises(SwappedImages):
        interpolate_exposure(dark, dark / 1.11)
    black = torch.zeros_like(dark)
    interpolate_exposure(black, black)


def test_estimated_maps_compile_and_export() -> None:
    """For any size and fraction. The order of the images is not asked there: that would break the graph."""
    torch.compiler.reset()

    def between(dark: Tensor, bright: Tensor, fraction: float = 0.5) -> Tensor:
        return interpolate_exposure(dark, bright, fraction=fraction)

    pairs = [pair(*size, dtype=torch.uint8) for size in ((40, 50), (300, 280))]
    compiled = torch.compile(between, fullgraph=True, dynamic=True)
    for images, fraction in ((pairs[0], 0.5), (pairs[1], 0.5), (pairs[1], 0.25)):
        assert torch.equal(compiled(*images, fraction), between(*images, fraction))

    class Module(torch.nn.Module):
        def forward(self, dark: Tensor, bright: Tensor) -> Tensor:
            return between(dark, bright)

    sides = {2: torch.export.Dim("height", min=2, max=4096), 3: torch.export.Dim("width", min=2, max=4096)}
    exported = torch.export.export(Module(), pairs[0], dynamic_shapes=(sides, sides)).module()
    for images in pairs:
        assert torch.equal(exported(*images), between(*images))


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_wrong_images() -> None:
    dark, bright = pair()
    made = model()
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: made.interpolate(dark * 2, bright), ValueError, r"dark must lie in \[0, 1\]; scale it"),
        (lambda: made.interpolate(dark, bright - 1), ValueError, r"bright must lie in \[0, 1\]"),
        (lambda: made.interpolate(dark, bright * math.nan), ValueError, r"bright must lie in \[0, 1\]"),
        (lambda: interpolate_exposure(dark * 2, bright), ValueError, r"dark must lie in \[0, 1\]"),
        (lambda: made.interpolate(dark, bright[..., 1:]), ValueError, "must have one shape"),
        (lambda: made.interpolate(dark.int(), bright.int()), TypeError, "dark must be uint8, uint16 or floating"),
        (lambda: made.interpolate(dark, bright.double()), TypeError, "dark is torch.float32, bright torch.float64"),
        (lambda: made.interpolate(dark[0], bright[0]), ValueError, r"\(N, C, H, W\)"),
        (
            lambda: made.interpolate(*(x[:, [0, 1, 2, 0]] for x in (dark, bright))),
            ValueError,
            "drop an alpha channel",
        ),
        (lambda: interpolate_exposure(*(x[:, [0, 1, 2, 0, 1]] for x in (dark, bright))), ValueError, "drop an alpha"),
        (lambda: interpolate_exposure(dark, bright[..., 1:]), ValueError, "must have one shape"),
        (lambda: interpolate_exposure(dark.int(), bright.int()), TypeError, "dark must be uint8, uint16 or floating"),
        (lambda: made(dark[:, :2], bright[:, :2], *tables()), ValueError, "3 channels, or 1 for grey"),
        (
            lambda: made.interpolate(dark.to("meta"), bright.to("meta")),
            ValueError,
            "is on meta, the model on",
        ),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be 1 to 1000"),
        ({"ratio": 0.25}, "at least 1, got 0.25; swap the images"),
        ({"ratio": math.inf}, "at least 1, got inf"),
        ({"ratio": 4.0, "gamma": -1.0}, "gamma must be positive"),
        ({"crf": torch.linspace(0, 1, 5)}, "crf needs the exposure ratio"),
        ({"gamma": 0.5}, "gamma needs the exposure ratio"),
        ({"ratio": 4.0, "gamma": 0.5, "crf": torch.linspace(0, 1, 5)}, "gamma and crf both state the response"),
        ({"imf": tables(), "ratio": 4.0}, "leave out ratio, gamma and crf"),
        ({"imf": tables(), "gamma": 0.5}, "leave out ratio, gamma and crf"),
        ({"imf": (tables()[0],)}, "imf must be two tables"),
        ({"tile": 0}, "a tile must have at least one pixel"),
        ({"tile": (3,)}, r"a tile must have at least one pixel a side, as a number or \(rows, columns\), got \(3,\)"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().interpolate(*pair(), **options)
    if not options.keys() & {"steps", "tile"}:
        with pytest.raises(ValueError, match=message):
            interpolate_exposure(*pair(), **options)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 2.0, math.nan])
def test_wrong_fractions(fraction: float) -> None:
    for options in ({}, {"ratio": 4.0}, {"imf": tables()}):
        with pytest.raises(ValueError, match="fraction must lie between 0 and 1"):
            interpolate_exposure(*pair(), fraction=fraction, **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LRLConfig.preset("huge"), "preset must be one of paper, light, tiny, got 'huge'"),
        (lambda: LRLConfig(hidden=0), "hidden must be an integer from 1 to 4096, got 0"),
        (lambda: LRLConfig(stem=2.5), "stem must be an integer"),
        (lambda: LRLConfig(blocks="LRX"), "blocks must be 1 to 64 letters L or R"),
        (lambda: LRLConfig(blocks="RL"), "a first block R needs stem and features alike"),
        (lambda: LRLConfig(last_depthwise=1), "last_depthwise must be true or false"),
        (lambda: Config(inputs=()), "inputs must be some of x3, dark and bright"),
        (lambda: Config(inputs=("x3", "x3")), "each once"),
        (lambda: Config(inputs=("x3", "bright")), "must have in_channels=6"),
        (lambda: Config(residual=1), "residual must be true or false"),
        (lambda: Config(low=(55.0, 5.0)), "low must be two finite, increasing"),
    ],
)
def test_wrong_configurations(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [False, True])
def test_save_and_load(tmp_path: pathlib.Path, existing: bool) -> None:
    made = model("light", inputs=("dark", "x3"), residual=False, low=(3.0, 44.0)).to(memory_format=torch.channels_last)
    folder = tmp_path / "new" / "model"
    if existing:
        model("tiny").save_pretrained(folder)
    made.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    for source in (folder, str(folder), folder / "model.safetensors"):
        loaded = ExposureInterpolator.from_pretrained(source)
        assert loaded.config == made.config
        assert not loaded.training
        assert loaded.state_dict().keys() == made.state_dict().keys()
        assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in made.state_dict().items())


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_loaded_weights_are_ordinary(tmp_path: pathlib.Path, stored: torch.dtype) -> None:
    """Each has memory of its own, not that of the mapped file; a seeded run is not disturbed."""
    made = model("light")
    made.to(stored).save_pretrained(tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    loaded = ExposureInterpolator.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    file = tmp_path / "model.safetensors"
    with open(file, "r+b") as stream:  # what is mapped would change; cut off, it would end the process
        stream.write(bytes(file.stat().st_size))
    for (name, parameter), weight in zip(loaded.named_parameters(), made.parameters(), strict=True):
        assert type(parameter) is torch.nn.Parameter, name
        assert parameter.requires_grad
        assert parameter.is_contiguous()
        assert (parameter.dtype, parameter.device.type) == (torch.float32, "cpu")
        assert parameter.untyped_storage().nbytes() == parameter.nbytes
        assert torch.equal(parameter, weight.float())


def test_shipped_weights() -> None:
    """They are loaded without an argument, and gain a little over the maps alone, as an untrained network does not."""
    pairs = SyntheticTriplets(
        render_scene(240, 360),
        panorama=False,
        distance=4.0,
        fraction=0.5,
        frame=(160, 240),
        patch=None,
        seed=2,
        samples_per_epoch=16,
        augment=False,
    )
    gains = gains_of(ExposureInterpolator.from_pretrained(), pairs, range(16))
    assert gains["histogram"] >= 2, gains
    assert gains["response"] >= 0.02, gains


def gains_of(model: ExposureInterpolator, triplets: Any, places: Iterable[int]) -> dict[str, float]:
    """Mean gains in dB over what needs no network."""
    gains: dict[str, list[float]] = {"histogram": [], "gamma": [], "response": []}
    for k in places:
        dark, bright, target = (
            (triplets[k][key][None] * 255).round().to(torch.uint8) for key in ("dark", "bright", "target")
        )
        ours = psnr(model.interpolate(dark, bright)[:, 0], target)
        others = {
            "histogram": interpolate_exposure(dark, bright, maps="histogram"),
            "gamma": interpolate_exposure(dark, bright, ratio=16),
            "response": interpolate_exposure(dark, bright),
        }
        for name, other in others.items():
            gains[name].append(float(ours - psnr(other, target)))
    return {name: sum(values) / len(values) for name, values in gains.items()}


def test_an_installation_without_weights_says_so() -> None:
    with pytest.raises(FileNotFoundError, match=r"has no weights of a_system; train them \(hdrops train a-system\)"):
        pretrained.shipped("a_system")


@pytest.mark.filterwarnings("ignore:left out")
def test_shipped_weights_on_photographs() -> None:
    """Of a camera that they were not trained with: 2 dB above the paper's maps, and no loss against the best ones."""
    pytest.importorskip("OpenImageIO", reason="reading images needs OpenImageIO")
    triplets = BracketTriplets(
        photographs.photographs() / "brackets" / "fairchild", ev_step=1.0, patch=None, augment=False
    )
    first = {triplet.scene: k for k, triplet in reversed([*enumerate(triplets.triplets)])}
    gains = gains_of(ExposureInterpolator.from_pretrained(), triplets, [*first.values()][::4])
    assert min(gains["histogram"], gains["gamma"]) >= 2, gains
    assert gains["response"] >= -0.1, gains


def test_writing_fails_whole(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    folder = tmp_path / "model"
    old = model("tiny")
    old.save_pretrained(folder)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for target in (folder, tmp_path / "other"):
        with pytest.raises(OSError, match="No space left"):
            model("light").save_pretrained(target)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert len(list(folder.iterdir())) == 2
    assert ExposureInterpolator.from_pretrained(folder).config == old.config


def edited(folder: pathlib.Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(residal=True), "unknown key 'residal'; did you mean 'residual'"),
        (lambda c: c["network"].update(width=1), "network: unknown key 'width'; known are in_channels"),
        (lambda c: c.pop("low"), "missing 'low'"),
        (lambda c: c["network"].pop("blocks"), "network: missing 'blocks'"),
        (lambda c: c.update(system="ahdrnet"), "system must be 'exposure_interpolation', got 'ahdrnet'"),
        (lambda c: c.pop("system"), "system must be"),
        (lambda c: c.update(network=5), "network must be an object"),
        (lambda c: c.update(inputs="x3"), "inputs must be a list"),
        (lambda c: c.update(inputs=["middle"]), "inputs must be some of x3, dark and bright"),
        (lambda c: c.update(low=["a", "b"]), "low must be two finite, increasing code values"),
        (lambda c: c.update(inputs=[["x3"]]), "inputs must be some of x3, dark and bright"),
        (lambda c: c["network"].update(hidden=9), r"blocks\.0\.expand\.weight is \(8, 8, 1, 1\) instead of"),
        (lambda c: c["network"].update(blocks="LR"), "weights are unknown"),
        (lambda c: c["network"].update(blocks="LRLL"), "weights are missing"),
    ],
)
def test_wrong_config_files(tmp_path: pathlib.Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    model().save_pretrained(tmp_path)
    edited(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        ExposureInterpolator.from_pretrained(tmp_path)


def test_a_configuration_costs_nothing_before_it_is_checked(tmp_path: pathlib.Path) -> None:
    """However large a network it asks for, the file of weights says what is there."""

    class Largest(TorchDispatchMode):
        nbytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and not result.is_meta:
                self.nbytes = max(self.nbytes, result.nbytes)
            return result

    made = model()
    made.save_pretrained(tmp_path)
    edited(tmp_path, lambda c: c["network"].update(stem=512, hidden=512, features=512))
    with Largest() as largest, pytest.raises(ValueError, match=r"is \(8, 3, 3, 3\) instead of \(512"):
        ExposureInterpolator.from_pretrained(tmp_path)
    assert largest.nbytes <= max(parameter.nbytes for parameter in made.parameters())


def test_wrong_weight_files(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "model"
    made = model("tiny")
    made.save_pretrained(folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()

    def refused(kind: type[Exception], message: str, source: pathlib.Path = folder) -> None:
        with pytest.raises(kind, match=message):
            ExposureInterpolator.from_pretrained(source)

    for cut in (0, 4, 8, 100, len(whole) - 1):
        weights.write_bytes(whole[:cut])
        refused(ValueError, "is damaged")
    safetensors.torch.save_file({name: t.int() for name, t in made.state_dict().items()}, weights)
    refused(ValueError, "weights must be floating point")
    ruined = {name: t.clone() for name, t in made.state_dict().items()}
    ruined["network.tail.weight"].view(-1)[5] = math.nan
    safetensors.torch.save_file(ruined, weights)
    refused(ValueError, "network.tail.weight is not finite; the file is damaged")
    torch.save(made.state_dict(), weights)
    refused(ValueError, "is a pickle, which can run any code")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        for content in ({}, {"weight": [0.0] * 200}):
            weights.write_bytes(pickle.dumps(content, protocol))
            refused(ValueError, "is a pickle")
    weights.rename(folder / "model.pth")
    refused(ValueError, "model.pth is a pickle")
    refused(ValueError, "model.pth is a pickle", folder / "model.pth")
    (folder / "model.pth").unlink()
    refused(FileNotFoundError, "give a folder with config.json and model.safetensors")
    refused(FileNotFoundError, "does not exist", tmp_path / "nowhere")
    (folder / "model.txt").write_text("weights")
    refused(ValueError, "is no file of weights", folder / "model.txt")
    weights.write_bytes(whole)
    for content in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
        (folder / "config.json").write_bytes(content)
        refused(ValueError, "is not JSON|must hold a JSON object")
    (folder / "config.json").write_bytes(b" " * (1 << 21))
    refused(ValueError, "it is larger than")
    (folder / "config.json").unlink()
    refused(FileNotFoundError, "config.json is missing")


def test_weights_that_begin_as_a_pickle_does(tmp_path: pathlib.Path) -> None:
    """The length of the header comes first, and may be any."""
    made = model("tiny")
    made.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    padding = (0x80 - length) % 256
    content = (length + padding).to_bytes(8, "little") + whole[8 : 8 + length] + b" " * padding + whole[8 + length :]
    assert content[0] == 0x80
    weights.write_bytes(content)
    again = ExposureInterpolator.from_pretrained(tmp_path)
    for tensor, expected in zip(again.parameters(), made.parameters(), strict=True):
        assert torch.equal(tensor, expected)
