"""The content loss against its equation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hdrops.losses import ContentLoss
from hdrops.models.emvnet import Pictures

MU = 5000.0


def images(dtype: torch.dtype = torch.float64) -> tuple[Pictures, Tensor]:
    """Predictions, one value in five of which is negative, and a target."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(2, 4, 5, 6, generator=generator, dtype=torch.float64) for _ in range(4)]
    return Pictures(*(value.mul(1.25).sub(0.25).to(dtype) for value in values[:3])), values[3].to(dtype)


def compressed(x: Tensor) -> Tensor:
    return x.sign() * (1 + MU * x.abs()).log() / math.log(1 + MU)


@pytest.mark.parametrize(("domain", "encoded"), [("mu", compressed), ("none", lambda x: x)])
def test_equation(domain: str, encoded: Callable[[Tensor], Tensor]) -> None:
    pictures, target = images()
    loss = ContentLoss(domain)  # type: ignore[arg-type]
    y, y1, y2 = ((encoded(picture) - encoded(target)).abs().mean() for picture in pictures)
    torch.testing.assert_close(loss(pictures, target), y + 0.5 * y2 + 0.75 * y1, rtol=1e-12, atol=0)
    terms = loss.terms(pictures, target)
    assert list(terms) == ["last", "second", "first"]
    for term, expected in zip(terms.values(), (y, 0.75 * y1, 0.5 * y2), strict=True):
        torch.testing.assert_close(term, expected, rtol=1e-12, atol=0)


def test_mu_is_the_default_and_its_own() -> None:
    pictures, target = images()
    assert ContentLoss()(pictures, target) == ContentLoss("mu", mu=5000)(pictures, target)
    expected = (((1 + 10 * target).log() - (1 + 10 * target / 2).log()) / math.log(11)).mean()
    found = ContentLoss(mu=10, weights=(1, 0, 0))([target / 2] * 3, target)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("domain", ["mu", "none"])
def test_gradients(domain: str) -> None:
    pictures, target = images()
    loss = ContentLoss(domain)  # type: ignore[arg-type]
    variables = [value[:1, :1].clone().requires_grad_() for value in (*pictures, target)]
    assert torch.autograd.gradcheck(lambda *values: loss(values[:3], values[3]), variables)


def test_slope_below_and_at_zero() -> None:
    """That of T, which is even, over the number of values."""
    values = torch.tensor([-0.5, -1e-4, 0.0, 1e-4, 0.5], dtype=torch.float64).requires_grad_()
    loss = ContentLoss(weights=(1, 0, 0))
    (slope,) = torch.autograd.grad(loss([values] * 3, torch.ones_like(values)), values)
    expected = -MU / (1 + MU * values.detach().abs()) / math.log(1 + MU) / 5
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=0)


def test_equal_images_have_no_loss() -> None:
    _, target = images()
    assert ContentLoss()([target] * 3, target) == 0


def test_half_precision_counts_as_float32() -> None:
    pictures, target = images(torch.bfloat16)
    found = ContentLoss()(pictures, target)
    assert found.dtype == torch.float32
    wide = ContentLoss()([picture.double() for picture in pictures], target.double())
    torch.testing.assert_close(found.double(), wide, rtol=1e-6, atol=0)


def test_no_state() -> None:
    assert not ContentLoss().state_dict()
    assert repr(ContentLoss("none")) == "ContentLoss(domain='none', mu=5000.0, weights=(1, 0.75, 0.5))"


def test_wrong_arguments() -> None:
    for options, words in (
        ({"domain": "log"}, "domain must be 'mu' or 'none', got 'log'"),
        ({"mu": 0}, "mu must be positive and finite, got 0"),
        ({"weights": (1, -1, 1)}, "weights must be three numbers from 0"),
        ({"weights": (1, 1)}, "weights must be three numbers from 0"),
    ):
        with pytest.raises(ValueError, match=words):
            ContentLoss(**options)  # type: ignore[arg-type]
    pictures, target = images()
    with pytest.raises(ValueError, match="last, second and first hourglass, got 2"):
        ContentLoss()(pictures[:2], target)
    with pytest.raises(ValueError, match="must have one shape"):
        ContentLoss()(pictures, target[:1])
    with pytest.raises(TypeError, match="floating point"):
        ContentLoss()(pictures, target.mul(255).byte())
