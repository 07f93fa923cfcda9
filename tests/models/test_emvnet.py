"""EMVNet against the same network from PyTorch's layers, with the volume, and what it must do with any input."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import pathlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hdrops import matching_volume, motion_grid
from hdrops.models import EMVNet, EMVNetConfig, choose_reference
from hdrops.models.emvnet import RRDB

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "softmax": {"head": "softmax"},
    "isp": {"channels": 4, "grow": 2, "head_taps": 3},
    "light": {"depthwise": True, "shrink": 2},
    "cap": {"mask": "cap", "correlation": "inner", "order": "mei"},
    "no-mask": {"mask": "none", "include_reference": False},
    "dilated": {"dilations": (2, 1)},
    "residual": {"shrink": 2, "residual": True},
    "gated": {"residual": True, "gated": True, "saturated": 0.9, "skips": True, "dilations": (1, 3, 1)},
    "gated-frames": {"head": "frames", "gated": True, "shrink": 2},
    "frames": {"head": "frames", "order": "emi"},
    "frames-light": {"head": "frames", "shrink": 2, "include_reference": False},
    "frames-bare": {"head": "frames", "mask": "none"},
    "skips": {"skips": True, "dilations": (1, 3, 1, 1), "shrink": 2},
    "frames-far": {"head": "frames", "motion_extent": 24, "motion_step": 12},
}


def made(name: str, **changes: Any) -> EMVNet:
    torch.manual_seed(1)
    model = EMVNet(EMVNetConfig.preset("tiny", **(VARIANTS[name] | changes))).double()
    for weights in model.heads.parameters():
        if not weights.any():
            nn.init.normal_(weights, std=0.2)
    return model


def scene(model: EMVNet, count: int = 2, size: tuple[int, int] = (18, 21), batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (batch, count, model.config.channels, *size)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * 1.3).clamp(max=1)


def mean_of_frames(scores: Tensor, images: Tensor, config: EMVNetConfig) -> Tensor:
    """Slice by slice, of images whose first is the reference."""
    side = config.shrink
    motions = motion_grid(config.motion_extent, config.motion_step, centred=config.motion_centred).tolist()
    axes = {
        "i": range(0 if config.include_reference else 1, images.shape[1]),
        "m": range(len(motions)),
        "e": range(len(config.exposures)),
    }
    height, width = (-(-s // side) * side for s in images.shape[-2:])
    rows, columns = torch.arange(height), torch.arange(width)
    values, logarithms = [], []
    for d, numbers in enumerate(itertools.product(*(axes[axis] for axis in config.order))):
        place = dict(zip(config.order, numbers, strict=True))
        dy, dx = (side * m for m in motions[place["m"]]) if place["i"] else (0, 0)
        image = F.pad(images[:, place["i"]], (0, width - images.shape[-1], 0, height - images.shape[-2]), "replicate")
        moved = image[:, :, (rows + dy).clamp(0, height - 1)][..., (columns + dx).clamp(0, width - 1)]
        score = F.pixel_shuffle(scores[:, :, d], side)
        if config.include_reference and not place["i"]:
            score = score + config.preference
        if config.mask != "none":
            score = score - 1000 * (moved >= config.saturated).any(1, keepdim=True).double()
        values.append(moved * (config.exposures[place["e"]] if place["i"] else 1.0))
        logarithms.append(score)
    picture = (torch.stack(logarithms).softmax(0) * torch.stack(values)).sum(0)
    return picture[..., : images.shape[-2], : images.shape[-1]]


def literal(model: EMVNet, images: Tensor, reference: int) -> list[Tensor]:
    """Y'', Y', Y by torch's layers of the whole volume."""
    config = model.config
    order = [reference, *(i for i in range(images.shape[1]) if i != reference)]
    images = images[:, order]
    saturated = (images >= config.saturated).any(2, keepdim=True).double()
    flat = images.flatten(0, 1)
    if config.shrink > 1:
        flat = F.pad(flat, (0, -flat.shape[-1] % config.shrink, 0, -flat.shape[-2] % config.shrink), "replicate")
        flat = F.pixel_unshuffle(flat, config.shrink)
        saturated = F.max_pool2d(saturated.flatten(0, 1), config.shrink, ceil_mode=True).unflatten(0, images.shape[:2])
    x = F.conv2d(flat, model.entry.weight, model.entry.bias, padding=1)
    for block in model.extractor:
        y = x
        for dense in block.blocks:
            parts = [y]
            for k, layer in enumerate(dense.layers):
                made = layer(torch.cat(parts, 1))
                parts.append(made if k == len(dense.layers) - 1 else made.relu())
            y = y + 0.2 * parts[-1]
        x = x + 0.2 * y
    volume = matching_volume(
        x.unflatten(0, images.shape[:2]),
        0,
        motion_grid(config.motion_extent, config.motion_step, centred=config.motion_centred),
        config.exposures,
        None if config.mask == "none" else saturated,
        correlation=config.correlation,
        mask="cap" if config.mask == "cap" else "gain",
        ceiling=config.ceiling,
        order=config.order,
        include_reference=config.include_reference,
        backend="reference",
    )
    pictures = []
    for hourglass, head in zip(model.hourglasses, model.heads, strict=True):
        given = []
        for layer, d in zip(hourglass.down, config.dilations, strict=True):
            given.append(volume)
            volume = F.conv3d(volume, layer.weight, layer.bias, 2, d, d).relu()
        for k, (layer, d) in enumerate(zip(hourglass.up, reversed(config.dilations), strict=True)):
            extra = [a - (2 * b - 1) for a, b in zip(given[-1 - k].shape[2:], volume.shape[2:], strict=True)]
            volume = F.conv_transpose3d(volume, layer.weight, layer.bias, 2, d, extra, 1, d)
            volume = volume if k == len(hourglass.up) - 1 else volume.relu()
            volume = volume + given[-1 - k] if config.skips and k < len(hourglass.up) - 2 else volume
        if config.head == "frames":
            pictures.append(mean_of_frames(head.score(volume), images, config))
            continue
        weights = volume.new_ones(()) / volume.shape[2] if head.score is None else head.score(volume).softmax(2)
        flat = head.conv((weights * volume).sum(2))
        side = config.shrink * config.grow
        pictures.append(F.pixel_shuffle(flat, side) if side > 1 else flat)
    height, width = (s * config.grow for s in images.shape[-2:])
    added = images[:, 0] if config.residual else 0
    pictures = [picture[..., :height, :width] + added for picture in pictures]
    if config.gated:
        lost = (images[:, 0].amax(1, keepdim=True) >= config.saturated).double()
        pictures = [picture * lost + images[:, 0] * (1 - lost) for picture in pictures]
    return pictures


@pytest.mark.parametrize("collapsed", [True, False])
@pytest.mark.parametrize("name", VARIANTS)
def test_is_its_definition(name: str, collapsed: bool) -> None:
    model = made(name)
    images = scene(model, 3)
    found = model(images, 1, collapsed=collapsed)
    expected = literal(model, images, 1)
    for one, other in zip(found, reversed(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(model.enhance(images, 1), found.last, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["plain", "isp", "light", "gated", "frames-light"])
def test_gradients_are_those_of_the_definition(name: str) -> None:
    model = made(name)
    images = scene(model, batch=1)
    parameters = list(model.parameters())

    def gradients(pictures: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sum((p.sin() * p).sum() for p in pictures), parameters)

    for one, other in zip(gradients(model(images, 0)), gradients(literal(model, images, 0)), strict=True):
        assert (one - other).abs().max() <= 1e-9 * max(other.abs().max(), 1e-3)


@pytest.mark.parametrize("depthwise", [False, True])
def test_dense_blocks_are_the_same_without_gradients(depthwise: bool) -> None:
    torch.manual_seed(3)
    block = RRDB(EMVNetConfig(features=6, depthwise=depthwise)).double()
    for weights in block.parameters():
        nn.init.normal_(weights, std=0.3)
    x = torch.randn(2, 6, 9, 11, dtype=torch.float64)
    before = x.clone()
    with torch.no_grad():
        found = block(x)
    torch.testing.assert_close(found, block(x), rtol=1e-11, atol=1e-11)
    assert torch.equal(x, before)


def test_numbers_of_weights() -> None:
    def count(part: nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters())

    with torch.device("meta"):
        hdr, isp, light = (EMVNet(name) for name in ("hdr", "isp", "light"))
    assert count(hdr.extractor) == 12 * 415_200
    assert count(isp.extractor) == 16 * 415_200
    assert count(hdr.hourglasses) == 581_184
    assert count(isp.hourglasses) == 2_102_400
    assert (len(light.extractor), light.config.filters, light.config.shrink) == (6, 16, 2)


@pytest.mark.parametrize(("preset", "count"), [("hdr", 3), ("raw_hdr", 2), ("isp", 2), ("light", 2), ("tiny", 4)])
def test_presets(preset: Any, count: int) -> None:
    """Forward and backward of every one, collapsed and not, in float32."""
    torch.manual_seed(0)
    model = EMVNet(preset)
    images = torch.rand(1, count, model.config.channels, 8, 10)
    found = model(images)
    side = model.config.grow
    assert found.last.shape == (1, model.config.outputs, 8 * side, 10 * side)
    sum(picture.square().mean() for picture in found).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(grad is not None and grad.isfinite().all() and grad.abs().max() > 0 for grad in gradients)
    with torch.no_grad():
        whole = model(images, collapsed=False)
    for one, other in zip(found, whole, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


@pytest.mark.parametrize("name", ["plain", "light", "isp", "residual", "gated", "frames-light"])
def test_tiles(name: str) -> None:
    """A strip longer than what two tiles see of each other."""
    model = made(name, **({} if name == "gated" else {"dilations": (1, 3)})).float().eval()
    halo = model.radius + model.feature_radius
    side = model.config.shrink
    length = (2 * halo + 37) * side
    images = scene(model, size=(length, 5), batch=1).float()
    whole = model.enhance(images)
    tiles = model.enhance(images, tile=(32 * side, 8))
    assert (tiles - whole).abs().max() <= 1e-5 * whole.abs().max()
    images[..., : length // 8, :] = images[..., : length // 8, :].flip(-2)  # they do look at the image
    assert not torch.allclose(model.enhance(images, tile=(32 * side, 8)), whole)


@pytest.mark.parametrize("size", [(37, 46), (5, 30)])
@pytest.mark.parametrize("name", VARIANTS)
def test_pieces(name: str, size: tuple[int, int]) -> None:
    """Sides that end within cells of the quarter grid, pieces of several sizes, and within tiles."""
    model = made(name)
    side = model.config.shrink
    images = scene(model, size=(size[0] * side, size[1] * side - (side > 1)), batch=1)
    whole = model.enhance(images)
    for piece in (24 * side, (20 * side, 12 * side)):
        torch.testing.assert_close(model.enhance(images, piece=piece), whole, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(model.enhance(images, tile=40, piece=16), whole, rtol=1e-9, atol=1e-11)


class Depths(TorchDispatchMode):
    """Notes the numbers of values of all tensors of a depth."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth, self.sizes = depth, []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() == 5 and result.shape[2] == self.depth:
            self.sizes.append(result.numel())
        return result


def test_half_a_grid_never_exists_in_pieces() -> None:
    model = made("plain")
    images = scene(model, size=(72, 90), batch=1)
    largest = []
    for piece in (None, 16):
        with Depths(2 * 4 * 4 // 2) as noted:  # of images, motions and exposures
            model.enhance(images, piece=piece)
        largest.append(max(noted.sizes))
    assert largest[0] == model.config.filters * 16 * 36 * 45
    assert largest[1] < 0.6 * largest[0]


def test_the_reach_is_as_stated() -> None:
    """A pixel beyond it changes nothing; one within it does."""
    model = made("plain", dilations=(1, 2))
    reach = model.radius + model.feature_radius
    images = scene(model, size=(2 * reach + 9, 6), batch=1)
    before = model.enhance(images, 0)
    images[..., -1, :] *= 0.5
    changed = (model.enhance(images, 0) - before).abs().amax((0, 1, 3)) > 0
    assert changed[-9:].any()
    assert not changed[: len(changed) - 1 - reach].any()


def test_the_reference_is_chosen_blindly() -> None:
    bright, fair, dark = torch.full((3, 6, 6), 0.99), torch.full((3, 6, 6), 0.5), torch.full((3, 6, 6), 0.01)
    images = torch.stack([torch.stack([bright, fair, dark]), torch.stack([dark, bright, fair])]).double()
    assert choose_reference(images).tolist() == [1, 2]
    assert choose_reference(torch.ones(1, 3, 3, 4, 4)).tolist() == [0]
    model = made("plain")
    images = images * (1 - 0.01 * torch.rand(images.shape, dtype=torch.float64))
    found = model.enhance(images)
    torch.testing.assert_close(found[:1], model.enhance(images[:1], 1), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found[1:], model.enhance(images[1:], 2), rtol=1e-9, atol=1e-11)
    # Of two images the order does not matter.
    torch.testing.assert_close(
        model.enhance(images[:1, :2]), model.enhance(images[:1, :2].flip(1)), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize(
    ("means", "place"),
    [
        ([0.9, 0.1, 0.5], 2),
        ([0.1, 0.9, 0.9, 0.5, 0.3], 3),
        ([0.8, 0.2], 1),
        ([0.7, 0.1, 0.4, 0.9], 2),
        ([0.5, 0.5, 0.5], 1),
    ],
)
def test_the_middle_is_chosen_by_brightness(means: list[float], place: int) -> None:
    images = torch.tensor(means).reshape(1, -1, 1, 1, 1) * torch.ones(3, 6, 6)
    assert choose_reference(images).tolist() == [0]  # all are as clear
    both = torch.cat([images, images.flip(1)])
    expected = [place, len(means) - 1 - place]
    assert choose_reference(both, choice="middle").tolist() == expected
    model = made("plain", choice="middle")
    assert model.choose_reference(both).tolist() == expected
    assert made("plain").choose_reference(both).tolist() == [0, 0]
    both = both.double() * (1 - 0.01 * torch.rand(1, 1, 3, 6, 6, dtype=torch.float64))
    found = model.enhance(both)
    for number, first in enumerate(expected):
        torch.testing.assert_close(
            found[number], model.enhance(both[number : number + 1], first)[0], rtol=1e-9, atol=1e-11
        )


@pytest.mark.parametrize(("dtype", "step"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10), (torch.float64, 1e-10)])
def test_the_middle_of_images_that_are_almost_equal(dtype: torch.dtype, step: float) -> None:
    """Their means differ by less than half of the bits, or single precision in float64, can tell."""
    images = torch.full((1, 3, 3, 64, 64), 0.5, dtype=dtype)
    for number, raised in enumerate((200, 0, 100)):
        images[0, number].view(-1)[:raised] += step
    assert choose_reference(images, choice="middle").tolist() == [2]


def test_a_choice_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="clearest, middle"):
        choose_reference(torch.rand(1, 3, 3, 4, 4), choice="darkest")  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"residual": True}, {"head": "frames", "preference": 100.0}])
def test_begins_with_the_reference(changes: dict[str, Any]) -> None:
    images = torch.rand(1, 3, 3, 12, 14) * 0.9
    pictures = EMVNet(EMVNetConfig.preset("tiny", **changes))(images, 1)
    for picture in pictures:
        torch.testing.assert_close(picture, images[:, 1], rtol=0, atol=1e-6)


def test_begins_near_the_reference_by_default() -> None:
    images = torch.rand(1, 3, 3, 12, 14) * 0.9
    last = EMVNet(EMVNetConfig.preset("tiny", head="frames"))(images, 1).last
    assert 1e-4 < (last - images[:, 1]).abs().max() < 0.1


def test_what_is_not_saturated_is_the_reference_of_gated_networks() -> None:
    """In its own dtype, and whatever the network says there."""
    model = made("gated").float()
    with torch.no_grad():
        model.heads[-1].conv.bias.fill_(math.inf)
    images = scene(model).float()
    images[:, 1, :, 0, :2] = 0.8999
    lost = (images[:, 1] >= 0.9).any(1, keepdim=True).expand(-1, 3, -1, -1)
    assert 0 < lost.sum() < lost.numel()
    for found in (model.enhance(images, 1), model(images, 1).last, model.bfloat16().enhance(images, 1)):
        assert torch.equal(found[~lost], images[:, 1][~lost])
        assert bool((found[lost] == math.inf).all())


@pytest.mark.parametrize("name", ["plain", "light"])
def test_half_of_the_bits(name: str) -> None:
    model = made(name).float().eval()
    images = scene(model).float()
    expected = model.enhance(images, 0)
    found = model.bfloat16().enhance(images, 0)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= 0.05 * expected.abs().max()
    with pytest.raises(TypeError, match="floating point"):
        model.enhance((images * 255).to(torch.uint8))


def test_begins_with_the_mean_of_others_where_the_reference_is_saturated() -> None:
    images = torch.full((1, 2, 3, 12, 14), 0.4)
    images[:, 0] = 1
    model = EMVNet(EMVNetConfig.preset("tiny", head="frames"))
    mean = 0.4 * sum(model.config.exposures) / len(model.config.exposures)
    torch.testing.assert_close(model(images, 0).last, torch.full((1, 3, 12, 14), mean))


def test_every_scene_may_have_its_own_reference() -> None:
    model = made("residual")
    images = scene(model, count=3)
    each = [model.enhance(images[k : k + 1], reference) for k, reference in enumerate((2, 0))]
    for references in ((2, 0), (-1, -3)):
        found = model.enhance(images, torch.tensor(references))
        torch.testing.assert_close(found, torch.cat(each), rtol=1e-9, atol=1e-11)
    for bad in (torch.tensor([0]), torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match=r"references must be integers \(2,\)"):
            model(images, bad)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("mask", ["gain", "cap", "none"])
def test_all_dark_and_all_saturated(value: float, mask: str) -> None:
    model = made("plain", mask=mask)
    images = torch.full((1, 3, 3, 9, 8), value, dtype=torch.float64)
    assert model.enhance(images).isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2)])
@pytest.mark.parametrize("name", ["plain", "light"])
def test_any_size(size: tuple[int, int], name: str) -> None:
    model = made(name)
    images = scene(model, size=size)
    expected = literal(model, images, 1)[-1]
    torch.testing.assert_close(model.enhance(images, 1), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["plain", "gated"])
def test_autocast(name: str) -> None:
    model = made(name).float()
    images = scene(model).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(images, 0)
    torch.testing.assert_close(found.last.float(), model(images, 0).last, rtol=0.1, atol=0.05)
    found.last.float().sum().backward()
    assert model.entry.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["plain", "gated", "frames"])
def test_export(name: str) -> None:
    model = made(name).float().eval()
    images = scene(model).float()
    program = torch.export.export(model, (images, 0))
    torch.testing.assert_close(program.module()(images, 0).last, model(images, 0).last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choice", ["clearest", "middle"])
def test_export_with_its_choice(choice: str) -> None:
    model = made("plain", choice=choice).float().eval()
    images = scene(model, count=3).float()
    program = torch.export.export(model, (images,))
    for turned in (images, images.flip(1)):
        torch.testing.assert_close(program.module()(turned).last, model(turned).last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cap", "gated-frames"])
def test_folder_of_weights(name: str, tmp_path: pathlib.Path) -> None:
    model = made(name).float().eval()
    model.save_pretrained(tmp_path / "weights")
    again = EMVNet.from_pretrained(tmp_path / "weights")
    assert again.config == model.config
    images = scene(model).float()
    assert torch.equal(again.enhance(images), model.enhance(images))
    config = json.loads((tmp_path / "weights" / "config.json").read_text())
    assert config["system"] == "emvnet"
    (tmp_path / "weights" / "config.json").write_text(json.dumps(config | {"features": 16}))
    with pytest.raises(ValueError, match="another network"):
        EMVNet.from_pretrained(tmp_path / "weights")


def test_bad_images() -> None:
    model = made("plain")
    good = scene(model)
    with pytest.raises(TypeError, match="floating point"):
        model(good.to(torch.uint8))
    for bad in (good[:, :1], good[:, :, :2], good[0], good[..., :0]):
        with pytest.raises(ValueError, match="at least two images"):
            model(bad)
    for reference in (2, -3):
        with pytest.raises(ValueError, match="reference must be"):
            model(good, reference)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 0},
        {"blocks": 2.0},
        {"depthwise": 1},
        {"dilations": ()},
        {"dilations": (0,)},
        {"exposures": ()},
        {"exposures": (-1.0,)},
        {"mask": "soft"},
        {"correlation": None},
        {"head": "max"},
        {"head_taps": 2},
        {"order": "im"},
        {"saturated": 0},
        {"ceiling": float("inf")},
        {"motion_step": 0},
        {"residual": True, "outputs": 4},
        {"residual": True, "grow": 2},
        {"residual": True, "head": "frames"},
        {"gated": True},
        {"gated": 1, "residual": True},
        {"head": "frames", "outputs": 4},
        {"head": "frames", "grow": 2},
        {"skips": 1},
        {"skips": True, "dilations": (1, 3)},
        {"choice": "darkest"},
        {"preference": -1.0},
        {"preference": float("nan")},
    ],
)
def test_bad_configurations(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        EMVNetConfig(**changes)
    assert {field.name for field in dataclasses.fields(EMVNetConfig)} >= changes.keys()
