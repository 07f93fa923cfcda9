"""Operator ``pairwise``: what the contract does not say of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import FLOATS, INTERPRETING, make_ordered
from torch import Tensor

import hdrops
from hdrops.reference import pairwise as reference

NAMESPACES = {"triton": "hdrops_triton", "reference": "hdrops_reference"}


def run(
    backend: str,
    prediction: Tensor,
    target: Tensor,
    *,
    seed: int = 1,
    sides: Tensor | None = None,
    pairs: int = 50,
    threshold: float = 0.25,
    limit: float = 1.0,
    ignore_ties: bool = False,
    least: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    """The results of the operator itself."""
    operator = getattr(torch.ops, NAMESPACES.get(backend, "hdrops")).pairwise_loss
    number = torch.tensor(seed, device=prediction.device)
    return operator(prediction, target, number, sides, pairs, threshold, limit, ignore_ties, least)


def images(
    *shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0
) -> tuple[Tensor, Tensor]:
    found = make_ordered(shape, dtype, torch.Generator().manual_seed(seed))
    return found["prediction"].to(device), found["target"].to(device)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, -1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_has_its_authors_answers(counter: tuple[int, ...], key: int, expected: tuple[int, ...]) -> None:
    words = reference.philox(tuple(torch.tensor([word]) for word in counter), torch.tensor(key))  # type: ignore[arg-type]
    assert tuple(word.item() for word in words) == expected


SEEDS = (0, -1, 2**63 - 1, -(2**63))


@pytest.mark.parametrize("sides", [None, (3, 8)])
@pytest.mark.parametrize("limit", [1.0, 0.97, 0.5])
def test_places_are_those_of_the_definition(
    sides: tuple[int, ...] | None, limit: float, backend: str, device: str
) -> None:
    if backend == "reference":
        pytest.skip("the definition itself")
    shape = (2, 1, 14, 19) if INTERPRETING else (2, 3, 61, 130)
    for dtype, seed in zip(FLOATS, SEEDS, strict=True):
        prediction, target = images(*shape, dtype=dtype, device=device)
        given = None if sides is None else torch.tensor(sides, device=device)
        options: dict[str, Any] = {"seed": seed, "pairs": 700, "limit": limit}
        actual = run(backend, prediction, target, sides=given, **options)
        wide = [image.cpu().double() for image in (prediction, target)]
        expected = run("reference", *wide, sides=None if sides is None else torch.tensor(sides), **options)
        assert torch.equal(actual[1].cpu(), expected[1])
        assert torch.equal(actual[0][..., 1].cpu().double(), expected[0][..., 1])
        k = 64 * torch.finfo(actual[0].dtype).eps
        torch.testing.assert_close(actual[0].cpu().double(), expected[0], rtol=k, atol=k)
        torch.testing.assert_close(actual[2].cpu().double(), expected[2], rtol=k, atol=k)


@pytest.mark.parametrize("side", [None, 3])
def test_places_are_uniform_and_never_over_exposed(side: int | None, backend: str, device: str) -> None:
    pairs = 2000 if INTERPRETING else 30_000
    target = torch.full((1, 3, 9, 11), 0.5, device=device)
    for y, x in ((0, 0), (5, 4), (8, 10)):
        target[0, 0, y, x] = 1.0
    target[0, 1] = 1.0  # nothing is left of it
    sides = None if side is None else torch.tensor([side], device=device)
    sums, places, slopes = run(backend, target, target, sides=sides, pairs=pairs, limit=0.9)
    assert sums[0, :, 1].tolist() == [pairs, 0, pairs]
    assert (sums[0, 1] == 0).all()
    assert (slopes[0, 1] == 0).all()
    width = side or 1
    for c in (0, 2):
        usable = torch.zeros(9, 11, dtype=torch.bool)
        for y in range(9 - width + 1):
            for x in range(11 - width + 1):
                usable[y, x] = bool((target[0, c, y : y + width, x : x + width] < 1).all())
        for one in places[0, c].cpu():
            counts = torch.bincount(one, minlength=99)
            assert (counts[~usable.flatten()] == 0).all()
            expected = pairs / int(usable.sum())
            chi = ((counts[usable.flatten()] - expected) ** 2 / expected).sum()
            freedom = int(usable.sum()) - 1
            assert abs(chi - freedom) < 5 * math.sqrt(2 * freedom)


def test_draws_are_independent(backend: str, device: str) -> None:
    """Both places of a pair, rows, and seeds."""
    prediction, target = images(2, 2, 10, 10, device=device)
    pairs = 1000 if INTERPRETING else 20_000
    drawn = [run(backend, prediction, target, seed=seed, pairs=pairs)[1].cpu() for seed in (5, 6)]
    variables = torch.stack(drawn).double().flatten(0, -2)  # (seeds, images, channels, both)
    correlation = torch.corrcoef(variables) - torch.eye(len(variables), dtype=torch.float64)
    assert correlation.abs().max() < 5 / math.sqrt(pairs)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 8, 13, 16])
@pytest.mark.parametrize("dtype", FLOATS)
def test_equal_patches_have_equal_means(dtype: torch.dtype, side: int, backend: str, device: str) -> None:
    """Wherever they lie: what is flat has only ties."""
    target = torch.full((1, 1, 20, 33), 0.1, dtype=dtype, device=device)
    sides = torch.tensor([side], device=device)
    sums, _, slopes = run(backend, target, target, sides=sides, ignore_ties=True)
    assert (sums == 0).all()
    assert (slopes == 0).all()
    sums, _, _ = run(backend, target, target, sides=sides)
    torch.testing.assert_close(sums[0, 0].cpu().double(), torch.tensor([50 * math.log(2), 50.0], dtype=torch.float64))


def test_sides_are_bounded_by_the_image(backend: str, device: str) -> None:
    prediction, target = images(3, 1, 6, 40, device=device)
    for sides, same in (((-5, 0, 1), (1, 1, 1)), ((6, 7, 2**40), (6, 6, 6))):
        found = [run(backend, prediction, target, sides=torch.tensor(s, device=device)) for s in (sides, same)]
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    pixels = run(backend, prediction, target)
    ones = run(backend, prediction, target, sides=torch.ones(3, dtype=torch.int64, device=device))
    assert all(torch.equal(a, b) for a, b in zip(pixels, ones, strict=True))


def test_large_patches_keep_their_accuracy(backend: str, device: str) -> None:
    """Sums of thousands of pixels, and the gradients of as many patches at one pixel."""
    shape, side, pairs = ((1, 1, 24, 40), 20, 100) if INTERPRETING else ((1, 1, 180, 300), 120, 3000)
    narrow, target = images(*shape, dtype=torch.float32, device=device)
    variable, other = narrow.requires_grad_(), narrow.detach().double().requires_grad_()
    options: dict[str, Any] = {"sides": side, "pairs": pairs, "limit": 1.0}
    actual = hdrops.pairwise_loss(variable, target, 3, **options, backend=backend)
    exact = hdrops.pairwise_loss(other, target.double(), 3, **options, backend="reference")
    torch.testing.assert_close(actual.double(), exact, rtol=1e-6, atol=0)
    (slope,), (expected,) = torch.autograd.grad(actual, variable), torch.autograd.grad(exact, other)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("side", [1, 3])
def test_nan_of_the_prediction(side: int, backend: str, device: str) -> None:
    """It reaches the loss by the pairs that touch it, and gradients where their patches lie."""
    prediction, target = images(1, 2, 12, 14, dtype=torch.float32, device=device)
    target[0, 0, :, :4] = 1.0
    prediction[0, 0, 5, 1] = torch.nan  # over-exposed
    variable = prediction.clone().requires_grad_()
    options: dict[str, Any] = {"sides": side, "pairs": 40, "limit": 0.99, "backend": backend}
    loss = hdrops.pairwise_loss(variable, target, 3, **options)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, variable)[0].isfinite().all()
    variable = prediction.clone()
    variable[0, 1] = torch.nan
    loss = hdrops.pairwise_loss(variable.requires_grad_(), target, 3, **options)
    assert loss.isnan()
    (slope,) = torch.autograd.grad(loss, variable)
    assert slope[0, 0].isfinite().all()
    sides = torch.tensor([side], device=device)
    _, places, _ = run(backend, prediction, target, seed=3, sides=sides, pairs=40, limit=0.99)
    covered = torch.zeros(12, 14, dtype=torch.bool)
    for place in places[0, 1].flatten().tolist():
        y, x = divmod(place, 14)
        covered[y : y + side, x : x + side] = True
    assert torch.equal(slope[0, 1].isnan().cpu(), covered)


def test_nan_of_the_target(backend: str, device: str) -> None:
    """An image whose target has one has no pairs; others are as without it."""
    prediction, target = images(2, 3, 8, 9, dtype=torch.float32, device=device)
    clean = run(backend, prediction, target)[0]
    target[0, 2, 7, 8] = torch.nan
    sums = run(backend, prediction, target)[0]
    assert (sums[0] == 0).all()
    assert torch.equal(sums[1], clean[1])


def test_below_the_least(backend: str, device: str) -> None:
    """Values below it count as it, without gradient; logarithms of them are never taken."""
    prediction, target = images(1, 1, 5, 6, dtype=torch.float32, device=device)
    prediction[0, 0, :2] = -1.0
    prediction[0, 0, 2] = 0.0
    variable = prediction.clone().requires_grad_()
    loss = hdrops.pairwise_loss(variable, target, 0, pairs=500, least=1e-3, backend=backend)
    bounded = hdrops.pairwise_loss(prediction.clamp(min=1e-3), target, 0, pairs=500, least=1e-3, backend=backend)
    assert loss == bounded
    (slope,) = torch.autograd.grad(loss, variable)
    assert (slope[0, 0, :3] == 0).all()
    assert (slope[0, 0, 3:] != 0).all()


def test_means_of_patches_below_the_least(backend: str, device: str) -> None:
    """What is compared with it is the mean, whatever the sum over the patch."""
    prediction, target = images(1, 1, 9, 10, dtype=torch.float32, device=device)
    for least, bounded in ((1.0, True), (0.25, False)):  # of means about 0.5
        variable = prediction.clone().requires_grad_()
        loss = hdrops.pairwise_loss(variable, target, 0, pairs=500, sides=4, limit=1.0, least=least, backend=backend)
        (slope,) = torch.autograd.grad(loss, variable)
        assert (loss.item() == pytest.approx(math.log(2), rel=1e-6)) == bounded
        assert (slope == 0).all() if bounded else (slope != 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_gradients_of_any_magnitude(scale: float, backend: str, device: str) -> None:
    """They are inverse to the intensities."""
    prediction, target = images(1, 2, 8, 9, dtype=torch.float32, device=device)
    slopes = []
    for factor in (1.0, scale):
        variable = (prediction * factor).requires_grad_()
        loss = hdrops.pairwise_loss(variable, target, 2, pairs=60, sides=2, least=1e-37, backend=backend)
        slopes.append(torch.autograd.grad(loss, variable)[0].double() * factor)
    assert slopes[0].abs().max() > 0
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-4, atol=1e-5 * slopes[0].abs().max().item())


def test_any_threshold(backend: str, device: str) -> None:
    """Beyond all contradictions there is one formula, also where e^S overflows."""
    prediction, target = images(1, 1, 8, 9, device=device)
    losses = [
        hdrops.pairwise_loss(prediction, target, 5, pairs=40, threshold=threshold, backend=backend)
        for threshold in (100.0, 800.0, 1e6)
    ]
    assert losses[0].isfinite()
    assert losses[1] == losses[0]
    assert losses[2] == losses[0]


def test_far_contradictions(backend: str, device: str) -> None:
    """Ratios of intensities as far apart as the type goes, in either order."""
    for dtype in (torch.float32, torch.float64):
        tiny, huge = torch.finfo(dtype).tiny, torch.finfo(dtype).max
        target = torch.tensor([0.0, 1.0], dtype=dtype, device=device).view(1, 1, 1, 2)
        for pixels in ((tiny, huge), (huge, tiny)):
            prediction = torch.tensor(pixels, dtype=dtype, device=device).view(1, 1, 1, 2)
            sums, _, slopes = run(backend, prediction, target, ignore_ties=True, least=tiny, pairs=20)
            p = math.log(huge / 2) - math.log(tiny) + math.log(2)
            if pixels[0] == huge:  # contradicts the target
                mean = math.sqrt(p) + math.log1p(math.exp(0.25)) - math.log1p(math.exp(0.5))
            else:
                mean = math.exp(-p) if p < 700 else 0.0
            assert sums[0, 0, 0].item() / sums[0, 0, 1].item() == pytest.approx(mean, rel=1e-5, abs=1e-30)
            assert slopes.isfinite().all()


def test_gradients_are_the_same_each_time(backend: str, device: str) -> None:
    """More pairs than pixels: many meet in one."""
    prediction, target = images(1, 3, 16, 17, dtype=torch.float32, device=device)
    grads = []
    for _ in range(3):
        variable = prediction.clone().requires_grad_()
        hdrops.pairwise_loss(variable, target, 4, pairs=1000, sides=4, backend=backend).backward()
        grads.append(variable.grad)
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_slopes_are_taken_from_the_arguments(backend: str, device: str) -> None:
    """What a caller gives the backward; places outside of the image are left out."""
    if backend == "reference":
        pytest.skip("the reference differentiates its definition")
    prediction, target = images(1, 1, 3, 4, dtype=torch.float32, device=device)
    places = torch.tensor([[5, -1, 11], [5, 12, 0]], dtype=torch.int32, device=device).view(1, 1, 2, 3)
    slopes = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], device=device).view(1, 1, 2, 3)
    operator = getattr(torch.ops, NAMESPACES.get(backend, "hdrops")).pairwise_loss_backward
    grad = torch.tensor([[[0.5, 7.0]]], device=device)
    seed = torch.tensor(0, device=device)
    found = operator(grad, prediction, target, seed, None, places, slopes, 0.25, 1.0, False, 1e-6)
    expected = torch.zeros(12)
    expected[5], expected[11], expected[0] = 4.5, 2.0, 16.0
    assert torch.equal(found.flatten().cpu(), expected)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"target": torch.zeros(1, 1, 4, 6)}, ValueError, "must have one shape"),
        ({"target": torch.zeros(1, 1, 4, 5, dtype=torch.float64)}, TypeError, "convert one of them"),
        ({"target": torch.zeros(1, 1, 4, 5, device="meta")}, ValueError, "move one of them"),
        ({"seed": torch.zeros(2, dtype=torch.int64)}, ValueError, "seed must be one int64 number"),
        ({"seed": torch.zeros(())}, ValueError, "seed must be one int64 number"),
        ({"seed": torch.tensor(0, device="meta")}, ValueError, "seed is on meta"),
        ({"sides": torch.ones(1, dtype=torch.int64, device="meta")}, ValueError, "sides is on meta"),
        ({"sides": torch.ones(2, dtype=torch.int64)}, ValueError, r"sides must be int64 of shape \(1,\)"),
        ({"sides": torch.ones(1)}, ValueError, "sides must be int64"),
        ({"sides": True}, ValueError, "sides must be a number of pixels"),
        ({"pairs": 0}, ValueError, "pairs must be 1 or more"),
        ({"pairs": 2**31}, ValueError, r"below 2\^31"),
        ({"threshold": 0.0}, ValueError, "threshold"),
        ({"threshold": math.inf}, ValueError, "threshold"),
        ({"limit": 1.5}, ValueError, "limit"),
        ({"ties": "none"}, ValueError, "ties"),
        ({"least": math.nan}, ValueError, "least"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"prediction": torch.zeros(1, 1, 4, 5), "target": torch.zeros(1, 1, 4, 5), "seed": 0}
    with pytest.raises(error, match=message):
        hdrops.pairwise_loss(**(arguments | changes))


def test_operator_checks_what_python_checks(backend: str) -> None:
    """Callers of the C++ operator itself get errors that name operator and argument, not a crash."""
    if backend != "cpp":
        pytest.skip("the checks of the C++ operator")
    image, seed = torch.zeros(1, 1, 2, 3), torch.tensor(0)
    sides = torch.ones(1, dtype=torch.int64)

    def forward(
        x: Tensor = image, y: Tensor = image, s: Tensor = seed, k: Tensor | None = None, **changes: Any
    ) -> None:
        options = {"pairs": 4, "threshold": 0.25, "limit": 1.0, "ignore_ties": False, "least": 1e-6} | changes
        torch.ops.hdrops.pairwise_loss(x, y, s, k, *options.values())

    sums, places, slopes = run("cpp", image, image, pairs=4)

    def backward(grad: Tensor = sums, x: Tensor = image, p: Tensor = places, d: Tensor = slopes) -> None:
        torch.ops.hdrops.pairwise_loss_backward(grad, x, image, seed, None, p, d, 0.25, 1.0, False, 1e-6)

    for call, message in (
        (lambda: forward(image[0]), r"pairwise_loss: prediction must be \(N, C, H, W\)"),
        (lambda: forward(image.int()), "pairwise_loss: prediction must be floating point"),
        (lambda: forward(y=image.mT), "pairwise_loss: target must have the shape of the prediction"),
        (lambda: forward(y=image.double()), "pairwise_loss: target must be float32"),
        (lambda: forward(s=seed.int()), "pairwise_loss: seed must be one int64 number"),
        (lambda: forward(k=sides[:0]), r"pairwise_loss: sides must have shape \(1\)"),
        (lambda: forward(k=sides.int()), "pairwise_loss: sides must be int64"),
        (lambda: forward(pairs=0), "pairwise_loss: pairs must be 1"),
        (lambda: forward(threshold=0.0), "pairwise_loss: threshold must be positive"),
        (lambda: forward(limit=2.0), r"pairwise_loss: limit must be in \(0, 1\]"),
        (lambda: forward(least=0.0), "pairwise_loss: least must be positive"),
        (lambda: backward(grad=sums[0]), r"pairwise_loss_backward: grad must be \(N, C, 2\)"),
        (lambda: backward(p=places.long()), "pairwise_loss_backward: places must be int32"),
        (lambda: backward(p=places[..., 1:]), "pairwise_loss_backward: slopes must have the shape of places"),
        (lambda: backward(d=slopes.double()), "pairwise_loss_backward: slopes must be float32"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
