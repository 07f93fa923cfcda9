"""The operator ``matching`` beyond the contract: any number of motions and channels, edges, motions far outside."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import INTERPRETING
from torch import Tensor

import hdrops
from hdrops import motion_grid


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return a.to(dtype), b.to(dtype)


def by_pixels(a: Tensor, b: Tensor, motions: Tensor) -> Tensor:
    """The definition, pixel by pixel."""
    n, _, height, width = a.shape
    out = torch.zeros(n, len(motions), height, width, dtype=torch.float64)
    for m, (down, right) in enumerate(motions.tolist()):
        for y in range(height):
            for x in range(width):
                if 0 <= y + down < height and 0 <= x + right < width:
                    out[:, m, y, x] = (a[:, :, y, x].double() * b[:, :, y + down, x + right].double()).sum(1)
    return out


def padded(a: Tensor, b: Tensor, motions: Tensor) -> Tensor:
    """Products with slices of a padded image, as networks compose it from PyTorch."""
    reach = int(motions.abs().max())
    wide = torch.nn.functional.pad(b, (reach, reach, reach, reach))
    height, width = a.shape[-2:]
    planes = [
        (a * wide[..., reach + down : reach + down + height, reach + right : reach + right + width]).sum(1)
        for down, right in motions.tolist()
    ]
    return torch.stack(planes, 1)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 1), (1, 9, 4, 17), (1, 2, 6, 16)])
def test_is_its_definition(shape: tuple[int, ...], backend: str, device: str) -> None:
    a, b = features(*shape)
    motions = torch.tensor([[0, 0], [1, 0], [0, 1], [-1, 2], [3, -3], [-4, -6], [5, 0], [0, 16], [2, -1], [-1, -1]])
    found = hdrops.correlation(a.to(device), b.to(device), motions, backend=backend)
    torch.testing.assert_close(found.double().cpu(), by_pixels(a, b, motions), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9, 16, 17])
def test_any_number_of_motions_and_channels(count: int, backend: str, device: str) -> None:
    generator = torch.Generator().manual_seed(count)
    motions = torch.randint(-7, 8, (count, 2), generator=generator)
    a, b = (x.to(device) for x in features(1, count, 9, 21, seed=count))
    expected = padded(a.double().cpu(), b.double().cpu(), motions)
    torch.testing.assert_close(
        hdrops.correlation(a, b, motions, backend=backend).double().cpu(), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("shape", [(1, 5, 11, 19), (2, 12, 3, 33)])
def test_gradients_are_those_of_the_composition(shape: tuple[int, ...], backend: str, device: str) -> None:
    motions = motion_grid(9, 3)
    a, b = (x.to(device).requires_grad_() for x in features(*shape, dtype=torch.float64))
    upstream = torch.randn(shape[0], len(motions), *shape[2:], dtype=torch.float64).to(device)
    found = torch.autograd.grad(hdrops.correlation(a, b, motions, backend=backend), (a, b), upstream)
    expected = torch.autograd.grad(padded(a, b, motions), (a, b), upstream)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_each_gradient_alone(backend: str, device: str) -> None:
    a, b = (x.to(device) for x in features(1, 3, 6, 8))
    motions = motion_grid(4, 2)
    both = torch.autograd.grad(
        hdrops.correlation(a.requires_grad_(), b.requires_grad_(), motions, backend=backend).square().sum(), (a, b)
    )
    for leaf, expected in ((a, both[0]), (b, both[1])):
        one, other = a.detach(), b.detach()
        variable = (one if leaf is a else other).requires_grad_()
        (alone,) = torch.autograd.grad(
            hdrops.correlation(one, other, motions, backend=backend).square().sum(), variable
        )
        assert torch.equal(alone, expected)


def test_motions_outside_the_image_give_nothing(backend: str, device: str) -> None:
    a, b = (x.to(device).requires_grad_() for x in features(1, 2, 5, 6))
    motions = torch.tensor([[5, 0], [-5, 0], [0, 6], [0, -6], [1 << 30, 0], [0, -(1 << 30)]])
    found = hdrops.correlation(a, b, motions, backend=backend)
    assert torch.equal(found, torch.zeros_like(found))
    for grad in torch.autograd.grad(found.sum(), (a, b)):
        assert torch.equal(grad, torch.zeros_like(grad))


def test_no_motions_and_no_channels(backend: str, device: str) -> None:
    a, b = (x.to(device).requires_grad_() for x in features(2, 3, 4, 5))
    found = hdrops.correlation(a, b, [], backend=backend)
    assert found.shape == (2, 0, 4, 5)
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in torch.autograd.grad(found.sum(), (a, b)))
    empty = torch.zeros(2, 0, 4, 5, device=device)
    assert torch.equal(
        hdrops.correlation(empty, empty, motion_grid(4, 2), backend=backend), torch.zeros(2, 4, 4, 5, device=device)
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_special_values_stay_where_they_are_read(value: float, backend: str, device: str) -> None:
    a, b = features(1, 2, 6, 9)
    b[0, 1, 2, 4] = value
    motions = torch.tensor([[0, 0], [1, -2]])
    found = hdrops.correlation(a.to(device), b.to(device), motions, backend=backend).cpu()
    reached = torch.zeros(1, 2, 6, 9, dtype=torch.bool)
    reached[0, 0, 2, 4] = reached[0, 1, 1, 6] = True
    assert torch.equal(~found.isfinite(), reached)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_float32(dtype: torch.dtype, backend: str, device: str) -> None:
    count = 64 if INTERPRETING else 700
    a = torch.full((1, count, 2, 3), 0.1, device=device).to(dtype)
    found = hdrops.correlation(a, a, [[0, 0]], backend=backend)
    expected = count * float(a[0, 0, 0, 0]) ** 2
    assert found.double().sub(expected).abs().max() <= expected * torch.finfo(dtype).eps / 2


def test_motions_of_any_kind(backend: str, device: str) -> None:
    a, b = (x.to(device) for x in features(1, 2, 6, 7))
    expected = hdrops.correlation(a, b, [[1, -2], [0, 3]], backend=backend)
    tensor = torch.tensor([[1, -2], [0, 3]])
    for motions in (((1, -2), (0, 3)), tensor.int(), tensor.to(torch.int8), tensor.numpy(), tensor.to(device)):
        assert torch.equal(hdrops.correlation(a, b, motions, backend=backend), expected)  # type: ignore[arg-type]


# ---- the grid --------------------------------------------------------------------------------------------------------


def test_grids() -> None:
    grid = motion_grid()
    assert grid.shape == (144, 2)
    assert grid[:3].tolist() == [[-18, -18], [-18, -15], [-18, -12]]
    assert grid[-1].tolist() == [15, 15]
    assert [0, 0] in grid.tolist()
    literal = motion_grid(centred=False)
    assert (literal[0].tolist(), literal[-1].tolist(), len(literal)) == ([0, 0], [33, 33], 144)
    assert motion_grid(1).tolist() == [[0, 0]]
    assert motion_grid(5, 2).tolist()[0] == [-2, -2]
    assert len(motion_grid(5, 2)) == 9
    for arguments in ((0, 1), (3, 0)):
        with pytest.raises(ValueError, match="extent and step must be at least 1"):
            motion_grid(*arguments)


# ---- wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"b": torch.zeros(1, 2, 3, 5)}, ValueError, r"one shape, got \(1, 2, 3, 4\) and \(1, 2, 3, 5\)"),
        ({"b": torch.zeros(1, 2, 3, 4, dtype=torch.float64)}, TypeError, "a and b must have one dtype"),
        ({"b": torch.zeros(1, 2, 3, 4, device="meta")}, ValueError, "a is on cpu, b on meta"),
        ({"motions": torch.zeros(2, 2)}, TypeError, "motions must be integers, got torch.float32"),
        ({"motions": [[1, 2, 3]]}, ValueError, r"motions must be \(M, 2\), rows of \(dy, dx\), got shape \(1, 3\)"),
        ({"motions": [1, 2]}, ValueError, r"got shape \(2,\)"),
        ({"motions": [[0, 1 << 31]]}, ValueError, r"at most 2\^30 pixels long, got 2147483648"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], words: str) -> None:
    given: dict[str, Any] = {"a": torch.zeros(1, 2, 3, 4), "b": torch.zeros(1, 2, 3, 4), "motions": [[0, 0]]} | change
    with pytest.raises(error, match=words):
        hdrops.correlation(**given)


def test_checks_of_the_operator() -> None:
    if INTERPRETING:
        pytest.skip("the checks of the C++ operator")
    a, motions = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, dtype=torch.int64)
    operators = torch.ops.hdrops
    for arguments, words in (
        ((a[0], a[0], motions), r"a must be \(N, C, H, W\)"),
        ((a.byte(), a.byte(), motions), "a must be floating point"),
        ((a, a.double(), motions), "b must be float32"),
        ((a, a[..., :2], motions), "one shape"),
        ((a, a, motions.int()), r"motions must be \(M, 2\) of int64"),
        ((a, a, motions[:, :1]), r"motions must be \(M, 2\) of int64"),
    ):
        with pytest.raises(RuntimeError, match=words):
            operators.correlation(*arguments)
    with pytest.raises(RuntimeError, match="grad has shape"):
        operators.correlation_backward(a, a, a, motions, True, True)
