"""The losses of exposure interpolation: values, and gradients where the formulas have none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hdrops import losses

Loss = Callable[..., Tensor]


def images(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(0.1 + 0.8 * torch.rand(2, 3, 5, 7, generator=generator, dtype=dtype) for _ in range(2))


def pixel(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype).view(1, 3, 1, 1)


def turned(angle: float) -> Tensor:
    """The red vector, turned towards green."""
    return pixel(math.cos(angle), math.sin(angle), 0)


# ---- psi -------------------------------------------------------------------------------------------------------------


def test_psi_is_what_the_paper_says() -> None:
    z = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    values = losses.psi_loss(z, torch.zeros_like(z), scale=1, reduction="none")
    expected = torch.tensor([3, 1, 0.625, 0.5, 0.625, 1, 3], dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=1e-15, atol=0)
    (slope,) = torch.autograd.grad(values.sum(), z)
    torch.testing.assert_close(slope, z.detach().clamp(-1, 1), rtol=1e-15, atol=0)


def test_psi_of_images_is_that_of_their_codes() -> None:
    x, y = images()
    for c in (1.0, 20.0):
        in_codes = losses.psi_loss(255 * x, 255 * y, c, scale=1)
        torch.testing.assert_close(losses.psi_loss(x, y, c), in_codes)
    torch.testing.assert_close(
        losses.psi_loss(x, y, 20.0), torch.nn.functional.huber_loss(255 * x, 255 * y, delta=20.0) / 20 + 10
    )


def test_psi_is_differentiable() -> None:
    x, y = (image.requires_grad_() for image in images())
    assert torch.autograd.gradcheck(lambda x, y: losses.psi_loss(x, y, 20.0), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: losses.psi_loss(x, y, 20.0), (x, y))


# ---- angles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 1e-5, 0.3, math.pi / 2, 3.0, math.pi])
def test_angles(angle: float) -> None:
    for length in (1 / 255, 1.0, 100.0):
        value = losses.color_angle_loss(length * turned(0.2 + angle), 0.7 * turned(0.2)).item()
        assert value == pytest.approx(angle, rel=1e-9, abs=1e-12)


def test_angle_of_small_differences_in_float32() -> None:
    """Where the arc cosine has lost all digits."""
    one, other = turned(0.2).float(), turned(0.2 + 1e-4).float()
    exact = losses.color_angle_loss(one.double(), other.double()).item()
    assert losses.color_angle_loss(one, other).item() == pytest.approx(exact, rel=1e-3)
    assert (one * other).sum().clamp(max=1).acos().item() != pytest.approx(exact, rel=0.5)


def test_faint_colours_count_by_their_length() -> None:
    for length, share in ((1.0, 1.0), (0.5, 0.5), (0.01, 0.01), (0.0, 0.0)):
        value = losses.color_angle_loss(turned(1.0) * length / 255, turned(0.0)).item()
        assert value == pytest.approx(share, rel=1e-9)


def test_equal_images_have_no_angle_and_no_gradient() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = images(torch.float64)[0].to(dtype).requires_grad_()
        value = losses.color_angle_loss(x, x.detach().clone())
        assert value.item() == 0
        assert (torch.autograd.grad(value, x)[0] == 0).all()


def test_angles_are_differentiable() -> None:
    x, y = (image.requires_grad_() for image in images())
    for floor in (1 / 255, 3.0):  # all vectors above it, all below it
        assert torch.autograd.gradcheck(lambda x, y, f=floor: losses.color_angle_loss(x, y, floor=f), (x, y))
        assert torch.autograd.gradgradcheck(lambda x, y, f=floor: losses.color_angle_loss(x, y, floor=f), (x, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((0, 0, 0), (0.3, 0.5, 0.1)),
        ((0.3, 0.5, 0.1), (0, 0, 0)),
        ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ((0.5, 0.25, 0), (0.5, 0.25, 0)),
        ((0.5, 0.25, 0), (-0.5, -0.25, 0)),
        ((0.5, 0.25, 0), (0.5, 0.25001, 0)),
        ((1e-7, 0, 0), (0, 1e-7, 0)),
        ((1e-30, 0, 0), (0, 1, 0)),
        ((4e-7, 1e-7, 0), (0, 4e-7, 1e-7)),
    ],
)
def test_gradients_are_finite_where_angles_have_none(
    one: tuple[float, ...], other: tuple[float, ...], dtype: torch.dtype
) -> None:
    x, y = (pixel(*values, dtype=dtype).requires_grad_() for values in (one, other))
    value = losses.color_angle_loss(x, y)
    first = torch.autograd.grad(value, (x, y), create_graph=True)
    bound = (1 + math.pi) * 255
    assert all(bool((g.abs() <= bound).all()) for g in first)
    second = torch.autograd.grad(sum(g.float().square().sum() for g in first), (x, y), allow_unused=True)
    assert all(bool(g.isfinite().all()) for g in second if g is not None)
    assert any(g is not None for g in second)


def test_nan_is_not_hidden() -> None:
    x, y = images(torch.float32)
    x[0, 1, 2, 3] = math.nan
    assert losses.color_angle_loss(x, y).isnan()
    assert losses.psi_loss(x, y).isnan()


def test_descent_turns_the_colour() -> None:
    """From near grey, and with black pixels in it, whose gradient must not throw the others off."""
    target = images(torch.float32)[1]
    target[..., 0] = 0
    x = torch.full_like(target, 0.4).requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.01)
    before = losses.color_angle_loss(x, target).item()
    for _ in range(200):
        optimiser.zero_grad()
        losses.color_angle_loss(x, target).backward()
        optimiser.step()
    assert losses.color_angle_loss(x, target).item() < 0.05 * before


# ---- what they share -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [losses.psi_loss, losses.color_angle_loss])
def test_reductions(loss: Loss) -> None:
    x, y = images()
    values = loss(x, y, reduction="none")
    assert values.shape == (x.shape if loss is losses.psi_loss else (2, 5, 7))
    torch.testing.assert_close(loss(x, y), values.mean())
    torch.testing.assert_close(loss(x, y, reduction="sum"), values.sum())
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'average'"):
        loss(x, y, reduction="average")


@pytest.mark.parametrize("loss", [losses.psi_loss, losses.color_angle_loss])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    x, y = (image.to(dtype) for image in images())
    value = loss(x, y)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(x.float(), y.float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(value, loss(x, y))


@pytest.mark.parametrize("loss", [losses.psi_loss, losses.color_angle_loss, losses.InterpolationLoss()])
def test_wrong_images(loss: Loss) -> None:
    x, y = images()
    with pytest.raises(ValueError, match="must have one shape"):
        loss(x, y[:1])
    with pytest.raises(TypeError, match=r"prediction must be floating point, got torch\.uint8"):
        loss(x.to(torch.uint8), y)


def test_wrong_options() -> None:
    x, y = images()
    with pytest.raises(ValueError, match=r"colours need images \(N, 3, H, W\), got shape \(2, 1, 5, 7\)"):
        losses.color_angle_loss(x[:, :1], y[:, :1])
    with pytest.raises(ValueError, match="floor must be positive"):
        losses.color_angle_loss(x, y, floor=0)
    with pytest.raises(ValueError, match="c and scale must be positive"):
        losses.psi_loss(x, y, -1.0)
    with pytest.raises(ValueError, match="kind must be 'l2', 'l1' or 'psi', got 'l3'"):
        losses.InterpolationLoss("l3")
    with pytest.raises(ValueError, match="color must be 0 or more"):
        losses.InterpolationLoss(color=-0.1)


def test_modules_are_the_functions() -> None:
    x, y = images()
    assert torch.equal(losses.PsiLoss(2.0, scale=9.0)(x, y), losses.psi_loss(x, y, 2.0, scale=9.0))
    assert torch.equal(losses.ColorAngleLoss(floor=0.5)(x, y), losses.color_angle_loss(x, y, floor=0.5))
    assert "c=2.0" in repr(losses.PsiLoss(2.0))
    assert "floor=0.5" in repr(losses.ColorAngleLoss(floor=0.5))
    assert "kind='l1'" in repr(losses.InterpolationLoss("l1"))


# ---- the loss of the system ------------------------------------------------------------------------------------------


def test_interpolation_loss_is_the_sum_of_its_terms() -> None:
    x, y = images()
    restorations = {
        "l2": 3 * (x - y).square().mean(),
        "l1": 3 * (x - y).abs().mean(),
        "psi": 3 * losses.psi_loss(x, y) / 255,
    }
    for kind, restoration in restorations.items():
        for scale in (1.0, 255.0):
            loss = losses.InterpolationLoss(kind, 0.3, scale=scale)
            terms = loss.terms(x, y)
            assert list(terms) == [kind, "color"]
            torch.testing.assert_close(terms[kind], restoration * scale ** (2 if kind == "l2" else 1))
            torch.testing.assert_close(terms["color"], 0.3 * losses.color_angle_loss(x, y))
            torch.testing.assert_close(loss(x, y), sum(terms.values()))


def test_interpolation_loss_of_grey_images() -> None:
    x, y = (image[:, :1] for image in images())
    assert list(losses.InterpolationLoss(color=0).terms(x, y)) == ["l2"]
    torch.testing.assert_close(losses.InterpolationLoss(color=0)(x, y), (x - y).square().mean())
    with pytest.raises(ValueError, match="colours need images"):
        losses.InterpolationLoss()(x, y)


@pytest.mark.parametrize("kind", ["l2", "l1", "psi"])
def test_interpolation_loss_compiles(kind: str) -> None:
    x, y = (image.float() for image in images())
    leaf = x.clone().requires_grad_()
    loss = losses.InterpolationLoss(kind)
    compiled = torch.compile(loss, fullgraph=True)(leaf, y)
    (gradient,) = torch.autograd.grad(compiled, leaf)
    (expected,) = torch.autograd.grad(loss(leaf, y), leaf)
    torch.testing.assert_close(compiled, loss(x, y))
    torch.testing.assert_close(gradient, expected)
