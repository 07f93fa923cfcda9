"""``pairwise_loss`` against the same loss composed from PyTorch: 10^4 pairs of each channel of 8 images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import peers
import pictures
import torch
from timing import Candidate, Case, Work
from torch import Tensor

import hdrops

BATCH, PAIRS = 8, 10_000
SIDES = (5, 7, 8, 9, 11, 12, 14, 15)
FLOPS_PER_PAIR = 120  # ten rounds of random numbers, two logarithms, an exponential, a root


def _check(ours: Tensor, theirs: Tensor, who: str) -> None:
    """Means over pairs that are drawn anew: within 2 %; gradients of such agree in their sums over the images."""
    if ours.dim():
        ours, theirs = ours.abs().sum(), theirs.abs().sum()
    error = abs(float(ours) / float(theirs) - 1)
    allowed = 0.02
    assert error <= allowed, f"{who}: differs by {error} of its value, allowed {allowed}"


def _build(height: int, width: int, patches: bool, backward: bool, device: str) -> Work:
    target = torch.stack(
        [x for k in range(BATCH) for x in pictures.exposures(height, width, (k / 4,), torch.float32)]
    ).to(device)
    noise = torch.rand(target.shape, generator=torch.Generator().manual_seed(33)).to(device)
    prediction = (target * (0.5 + noise)).requires_grad_(backward)
    sides = torch.tensor(SIDES, device=device) if patches else None
    threshold = 0.5 if patches else 0.25

    def call() -> Any:
        seed = torch.randint(1 << 62, (), device=device)
        value = hdrops.pairwise_loss(prediction, target, seed, pairs=PAIRS, sides=sides, threshold=threshold)
        return torch.autograd.grad(value, prediction)[0] if backward else value

    others = peers.torch_pairwise(prediction, target, PAIRS, SIDES if patches else None, threshold, backward)
    values = target.numel()
    return Work(
        Candidate("", call),
        others,
        moved=values * 4 * (4 if backward else 2),
        flops=BATCH * 3 * PAIRS * FLOPS_PER_PAIR + values * (12 if patches else 2),
        check=_check,
        tolerance="value within 2 %, absolute gradient within 2 %",
    )


def pairwise_cases(sizes: list[str], device: str) -> list[Case]:
    """The size of a batch in training alone, unless a tiny one is asked for."""
    cases = []
    side = 64 if "tiny" in sizes else 256
    for patches in (False, True):
        for backward in (False, True):
            build = functools.partial(_build, side, side, patches, backward, device)
            label = f"{BATCH} images, 10^4 pairs of {'patches' if patches else 'pixels'}, float32"
            variant = "forward+backward" if backward else "fresh"
            cases.append(Case("pairwise", label, f"{side}px", side, side, variant, build, headline=backward))
    return cases


def bench_pairwise(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
