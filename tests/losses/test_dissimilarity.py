"""The losses are what they say of the operators."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hdrops
from hdrops import losses

PAIRS = [(losses.SSIMLoss, hdrops.ssim), (losses.MSSSIMLoss, hdrops.ms_ssim)]
pairs = pytest.mark.parametrize(("loss", "function"), PAIRS, ids=["ssim", "ms_ssim"])
Loss = type[nn.Module]
Function = Callable[..., Tensor]


def images(size: int = 192) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, size, size, generator=generator)
    return x, (x + 0.2 * torch.rand(2, 3, size, size, generator=generator)).clamp(0, 1)


@pairs
def test_options_are_those_of_the_function(loss: Loss, function: Function) -> None:
    def options(callable_: Any) -> dict[str, Any]:
        parameters = inspect.signature(callable_).parameters.values()
        return {p.name: p.default for p in parameters if p.name not in ("x", "y")}

    assert options(loss) == options(function)


@pairs
def test_value_and_gradients(loss: Loss, function: Function) -> None:
    x, y = (image.requires_grad_() for image in images())
    for options in ({}, {"data_range": 2.0, "window": 7, "sigma": None, "unbiased": True, "reduction": "none"}):
        actual, expected = loss(**options)(x, y), 1 - function(x, y, **options)
        assert torch.equal(actual, expected)
        for a, e in zip(
            torch.autograd.grad(actual.sum(), (x, y)), torch.autograd.grad(expected.sum(), (x, y)), strict=True
        ):
            assert torch.equal(a, e)


@pairs
def test_equal_images_have_no_loss(loss: Loss, function: Function) -> None:
    x, _ = images()
    leaf = x.clone().requires_grad_()
    value = loss()(leaf, x)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, leaf)
    assert gradient.abs().max() < 1e-9


@pairs
def test_descent_finds_the_image(loss: Loss, function: Function) -> None:
    target, start = images()
    x = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.01)
    before = loss()(x, target).item()
    for _ in range(30):
        optimiser.zero_grad()
        loss()(x, target).backward()
        optimiser.step()
    assert loss()(x, target).item() < 0.2 * before


def test_representation_names_the_options() -> None:
    assert "window=7" in repr(losses.SSIMLoss(window=7))
    assert "weights=(0.5, 0.5)" in repr(losses.MSSSIMLoss(weights=[0.5, 0.5]))


def test_a_loss_is_a_module_without_state() -> None:
    model = nn.Sequential(nn.Identity())
    model.add_module("loss", losses.SSIMLoss())
    assert not model.state_dict()
