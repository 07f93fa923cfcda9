"""The dilated 3D hourglass against the same from PyTorch's layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hdrops import matching_conv3d, matching_volume, motion_grid
from hdrops.nn import Hourglass3d


def plain(model: Hourglass3d, x: Tensor) -> Tensor:
    sizes = []
    for layer, dilation in zip(model.down, model.dilations, strict=True):
        sizes.append(x.shape[2:])
        x = F.conv3d(x, layer.weight, layer.bias, 2, dilation, dilation).relu()
    last = len(sizes) - 1
    for k, (layer, dilation) in enumerate(zip(model.up, reversed(model.dilations), strict=True)):
        extra = [a - (2 * b - 1) for a, b in zip(sizes[last - k], x.shape[2:], strict=True)]
        x = F.conv_transpose3d(x, layer.weight, layer.bias, 2, dilation, extra, 1, dilation)
        x = x if k == last else x.relu()
    return x


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dilations", [(1, 3, 5), (1, 2, 4), (1,), (2, 1)])
@pytest.mark.parametrize("size", [(16, 8, 24), (9, 7, 13), (1, 2, 3)])
def test_is_its_layers(dilations: tuple[int, ...], size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = Hourglass3d(5, 4, dilations).double()
    x = drawn(2, 5, *size).requires_grad_()
    found, expected = model(x), plain(model, x)
    assert found.shape == (2, 4, *size)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    variables = [x, *model.parameters()]
    upstream = drawn(*found.shape, seed=1)
    gradients = [torch.autograd.grad(y, variables, upstream) for y in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dilations", [(1, 3, 5), (1, 1, 3, 1)])
def test_skips(dilations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Hourglass3d(5, 4, dilations, skips=True).double()
    x = drawn(1, 5, 9, 18, 21).requires_grad_()
    y, given = x, []
    for layer, dilation in zip(model.down, dilations, strict=True):
        given.append(y)
        y = F.conv3d(y, layer.weight, layer.bias, 2, dilation, dilation).relu()
    for layer, dilation in zip(model.up, reversed(dilations), strict=True):
        wanted = given.pop()
        extra = [a - (2 * b - 1) for a, b in zip(wanted.shape[2:], y.shape[2:], strict=True)]
        y = F.conv_transpose3d(y, layer.weight, layer.bias, 2, dilation, extra, 1, dilation)
        y = y.relu() if given else y
        y = y + wanted if len(given) > 1 else y
    found = model(x)
    torch.testing.assert_close(found, y, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(z.sum(), [x, *model.parameters()]) for z in (found, y)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match="at least three dilations"):
        Hourglass3d(5, 4, (1, 3), skips=True)


def test_numbers_of_parameters() -> None:
    """128 to 32 channels: 110,624 + 5 x 27,680; three in a row 581,184; with 64 channels 2,102,400."""
    models = [Hourglass3d(128), Hourglass3d(32), Hourglass3d(32)]
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert counts == [249_024, 166_080, 166_080]
    wide = [Hourglass3d(128, 64), Hourglass3d(64, 64), Hourglass3d(64, 64)]
    assert sum(p.numel() for model in wide for p in model.parameters()) == 2_102_400


@pytest.mark.parametrize("size", [(8, 12, 10), (7, 9, 11)])
def test_two_in_a_row_collapse(size: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    one, two = Hourglass3d(3, 4).double(), Hourglass3d(4, 4).double()
    x = drawn(1, 3, *size)
    expected = two(one(x))
    inner = one.inner(one.first(x))
    found = two.last(two.inner(two.first_after(one, inner, size)), size)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="outer dilations"):
        Hourglass3d(4, 4, (2,)).first_after(one, inner, size)


def test_its_first_layer_on_the_matching_volume() -> None:
    torch.manual_seed(2)
    model = Hourglass3d(12, 4).double()
    features = drawn(1, 2, 3, 9, 10)
    arguments = (1, motion_grid(6, 3), (0.5, 2.0))
    expected = model(matching_volume(features, *arguments))
    first = matching_conv3d(features, model.down[0].weight, model.down[0].bias, *arguments, activation="relu")
    found = model.last(model.inner(first), expected.shape[2:])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_autocast() -> None:
    """In its dtype, forward and backward, as torch's own layers."""
    torch.manual_seed(3)
    one, two = Hourglass3d(3, 4), Hourglass3d(4, 4)
    x = drawn(1, 3, 8, 8, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        whole = one(x)
        collapsed = two.first_after(one, one.inner(one.first(x)), (8, 8, 8))
        pair = two.first(whole)
    assert {whole.dtype, collapsed.dtype} == {torch.bfloat16}
    torch.testing.assert_close(whole.float(), one(x), rtol=0.05, atol=0.02)
    torch.testing.assert_close(collapsed, pair, rtol=0.05, atol=0.02)
    (whole.float().sum() + collapsed.float().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in one.parameters())


def test_bad_dilations() -> None:
    for dilations in ((), (1, 0)):
        with pytest.raises(ValueError, match="dilations must be"):
            Hourglass3d(4, 4, dilations)


def test_export_of_any_size() -> None:
    model = Hourglass3d(4, 6).eval()
    some = (dict.fromkeys((2, 3, 4), torch.export.Dim.DYNAMIC),)
    program = torch.export.export(model, (torch.randn(1, 4, 9, 16, 20),), dynamic_shapes=some).module()
    for size in ((9, 16, 20), (10, 13, 32), (24, 31, 17)):
        x = torch.randn(1, 4, *size)
        torch.testing.assert_close(program(x), model(x), rtol=1e-5, atol=1e-6)
