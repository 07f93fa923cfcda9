"""Losses of the order of intensities: the paper's constants, what is drawn, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hdrops import losses

LOSSES = (losses.pairwise_pixel_loss, losses.pairwise_patch_loss)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    first, second = (0.05 + 0.9 * torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return first, second


@pytest.mark.parametrize(("threshold", "constant"), [(0.25, -0.14813756), (0.5, -0.13386332)])
def test_penalty_is_the_papers(threshold: float, constant: float) -> None:
    p = torch.tensor([-3.0, 0.0, threshold, 1.0, 9.0], dtype=torch.float64, requires_grad=True)
    found = losses.ordinal_penalty(p, threshold)
    expected = [
        math.log1p(math.exp(v)) if v <= threshold else math.log1p(math.exp(math.sqrt(v))) + constant for v in p.tolist()
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)
    (slope,) = torch.autograd.grad(found.sum(), p)
    roots = [math.sqrt(max(v, 0)) for v in p.tolist()]
    sigmoid = [1 / (1 + math.exp(-(v if v <= threshold else r))) for v, r in zip(p.tolist(), roots, strict=True)]
    expected = [s if v <= threshold else s / (2 * r) for v, r, s in zip(p.tolist(), roots, sigmoid, strict=True)]
    torch.testing.assert_close(slope, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_penalty_is_continuous(threshold: float) -> None:
    around = torch.tensor([threshold, threshold * (1 + 1e-12)], dtype=torch.float64)
    below, above = losses.ordinal_penalty(around, threshold)
    assert abs(below - above) < 1e-11


def test_a_pair_of_pixels() -> None:
    """The paper's example: 4 and 7 wanted, 6 and 5 given, and the other way round."""
    target = torch.tensor([4.0, 7.0, 100.0], dtype=torch.float64).view(1, 1, 1, 3)
    for given, p in (((6.0, 5.0), math.log(6 / 5)), ((4.0, 7.0), -math.log(7 / 4))):
        prediction = torch.tensor([*given, 1.0], dtype=torch.float64).view(1, 1, 1, 3)
        found = losses.pairwise_pixel_loss(prediction, target, pairs=4000, ties="ignored", generator=seeded())
        assert found.item() == pytest.approx(math.log1p(math.exp(p)), rel=1e-12)


def test_ties() -> None:
    """r = -1 as written, for which a brighter first pixel costs more than a darker one; or no pair at all."""
    target = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    prediction = torch.tensor([0.2, 0.8], dtype=torch.float64).view(1, 1, 1, 2)
    found = losses.pairwise_pixel_loss(prediction, target, pairs=20_000, limit=1, generator=seeded())
    p = torch.tensor([0.0, 0.0, math.log(4), -math.log(4)], dtype=torch.float64)
    assert found.item() == pytest.approx(losses.ordinal_penalty(p).mean().item(), rel=0.02)
    assert losses.pairwise_pixel_loss(prediction, target, pairs=50, limit=1, ties="ignored") == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_over_exposed_pixels_have_no_part(loss: object) -> None:
    """Whatever the prediction is there; a patch that touches one is not taken."""
    prediction, target = images(2, 3, 33, 40)
    target[:, :, 8:12, 5:30] = 1.0
    target[0, 0, 0, 0] = 1.0
    variable = prediction.clone().requires_grad_()
    found = loss(variable, target, pairs=3000, generator=seeded())  # type: ignore[operator]
    (slope,) = torch.autograd.grad(found, variable)
    assert (slope[target > 0.99] == 0).all()
    assert (slope != 0).float().mean() > 0.3
    prediction[target > 0.99] = torch.nan
    again = loss(prediction, target, pairs=3000, generator=seeded())  # type: ignore[operator]
    torch.testing.assert_close(found.detach(), again, rtol=1e-10, atol=0)


def test_patches_are_their_means() -> None:
    """Against means of the patches themselves, with the pairs that it draws."""
    prediction, target = images(2, 2, 20, 23)
    found = losses.pairwise_patch_loss(
        prediction, target, pairs=30, smallest=3, largest=6, limit=1, generator=seeded(4)
    )
    generator = seeded(4)
    sides = torch.randint(3, 7, (2,), generator=generator)
    seed = torch.randint(2**63 - 1, (), generator=generator)
    operator = torch.ops.hdrops.pairwise_loss
    _, places, _ = operator(prediction, target, seed, sides, 30, 0.5, 1.0, False, 1e-6)
    costs = []
    for n, side in enumerate(sides.tolist()):
        for c in range(2):
            means = [
                [image[n, c, y : y + side, x : x + side].mean() for y, x in (divmod(int(p), 23) for p in one)]
                for image in (prediction, target)
                for one in places[n, c]
            ]
            for first, second, wanted, other in zip(*means, strict=True):
                r = 1 if wanted > other else -1
                costs.append(losses.ordinal_penalty(-r * (first.log() - second.log()), 0.5))
    torch.testing.assert_close(found, torch.stack(costs).mean(), rtol=1e-10, atol=0)


def test_sides_are_drawn_for_each_image() -> None:
    """The larger the patches, the less they differ, and the more a pair costs; drawn sides lie between."""
    target = torch.rand(400, 1, 12, 12, generator=seeded(), dtype=torch.float64)
    costs = [
        losses.pairwise_patch_loss(0.2 + target, target, smallest=a, largest=b, generator=seeded(1)).item()
        for a, b in ((1, 1), (1, 4), (4, 4))
    ]
    assert costs[0] < costs[1] - 0.02
    assert costs[1] < costs[2] - 0.02


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss: object) -> None:
    prediction, target = images(1, 2, 20, 18)

    def of(x: Tensor) -> Tensor:
        return loss(x, target, pairs=25, generator=seeded(2))  # type: ignore[operator]

    (slope,) = torch.autograd.grad(of(prediction.requires_grad_()), prediction)
    assert (slope != 0).any()
    assert torch.autograd.gradcheck(of, prediction)


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_to_compare(loss: object) -> None:
    prediction, _ = images(1, 3, 6, 6)
    variable = prediction.requires_grad_()
    found = loss(variable, torch.ones_like(prediction) * 0.7)  # type: ignore[operator]
    assert found == 0
    (slope,) = torch.autograd.grad(found, variable)
    assert (slope == 0).all()
    assert loss(prediction[:0], prediction[:0]) == 0  # type: ignore[operator]
    assert loss(torch.zeros(1, 3, 4, 4), torch.rand(1, 3, 4, 4)).isfinite()  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types(dtype: torch.dtype) -> None:
    prediction, target = (image.to(dtype).requires_grad_() for image in images(2, 3, 30, 31))
    loss = losses.PairwiseLoss(0.5, 2, pairs=64)
    found = loss(prediction, target, seeded(3))
    assert found.dtype == torch.float32
    found.backward()
    assert prediction.grad.isfinite().all()
    assert target.grad is None
    generator = seeded(3)
    parts = [one(prediction, target, pairs=64, generator=generator) for one in LOSSES]
    torch.testing.assert_close(found, 0.5 * parts[0] + 2 * parts[1])


def test_wrong_order_costs_more() -> None:
    _, target = images(2, 3, 40, 40)
    right, wrong = target.square(), 1 - target
    for loss in LOSSES:
        assert loss(right, target, generator=seeded()) < 0.97 * loss(wrong, target, generator=seeded())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 0}, "pairs"),
        ({"limit": 0.0}, "limit"),
        ({"ties": "none"}, "ties"),
        ({"least": 0.0}, "least"),
        ({"threshold": 0.0}, "threshold"),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_bad_arguments(loss: object, changes: dict[str, object], message: str) -> None:
    prediction, target = images(1, 1, 20, 20)
    with pytest.raises(ValueError, match=message):
        loss(prediction, target, **changes)  # type: ignore[operator]


def test_bad_images() -> None:
    prediction, target = images(1, 1, 20, 20)
    with pytest.raises(TypeError, match="floating point"):
        losses.pairwise_pixel_loss(prediction.long(), target)
    with pytest.raises(ValueError, match="one shape"):
        losses.pairwise_pixel_loss(prediction[..., 1:], target)
    with pytest.raises(ValueError, match="smallest"):
        losses.pairwise_patch_loss(prediction, target, smallest=4, largest=3)
