"""``mef_ssim`` against the same equations composed from PyTorch convolutions: there is no package that has it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import peers
import pictures
import torch
from timing import Candidate, Case, Work
from torch import Tensor

import hdrops
from hdrops.ops.mef_ssim import MEF_SSIM_WEIGHTS
from hdrops.reference import gaussian

STEPS = (-2.0, 0.0, 2.0)
PYRAMID = 4 / 3  # pixels on all levels, of those of the finest
# Per pixel, three sources: 10 products and 4 means under the weighted window, 6 and 3 under the uniform one, each of
# two axes of 11 taps; then weights and quality.
FLOPS_PER_PIXEL = PYRAMID * (23 * 2 * 2 * 11 + 200)


def _check(ours: Tensor, theirs: Tensor, who: str) -> None:
    """Values within 1e-4: the composition loses what E[x²] - µ² cancels."""
    error = (ours.detach() - theirs.detach()).abs().item()
    assert error <= 1e-4, f"{who}: differs by {error}"


def _check_gradient(ours: Tensor, theirs: Tensor, who: str) -> None:
    """Within 5 % of the norm: in flat areas float32 without local pivots leaves the composition no more."""
    error = ((ours - theirs).norm() / ours.norm()).item()
    assert error <= 5e-2, f"{who}: gradients differ by {error} of their norm"


def _build(height: int, width: int, dtype: torch.dtype, backward: bool, device: str) -> Work:
    bracket = torch.stack([x.mean(0, keepdim=True) for x in pictures.exposures(height, width, STEPS, torch.float32)])
    noise = 0.02 * torch.rand(1, height, width, generator=torch.Generator().manual_seed(30))
    fused = (0.9 * bracket.mean(0) + noise)[None].to(device)
    bracket = bracket[None].to(device)
    if dtype == torch.uint8:
        fused, bracket = ((255 * x).round().to(dtype) for x in (fused, bracket))
    fused.requires_grad_(backward)

    def call() -> Tensor:
        value = hdrops.mef_ssim(fused, bracket)
        return torch.autograd.grad(value, fused)[0] if backward else value

    scale = 1 / 255 if dtype == torch.uint8 else 1.0
    taps = torch.tensor(gaussian.window(1.5, 5))
    others = peers.torch_mef_ssim(fused * scale, bracket * scale, taps, torch.tensor(MEF_SSIM_WEIGHTS), backward)
    pixels = height * width
    return Work(
        Candidate("", call),
        others,
        moved=int((len(STEPS) + 1) * pixels * dtype.itemsize * (3 if backward else 1)),
        flops=int(FLOPS_PER_PIXEL * pixels * (2 if backward else 1)),
        check=_check_gradient if backward else _check,
        tolerance="value within 1e-4, gradient within 5e-2 of its norm",
    )


def mef_ssim_cases(sizes: list[str], device: str) -> list[Case]:
    cases = []
    for size in sizes:
        if size == "sweep":
            continue
        shape = pictures.SIZES[size]
        for dtype, backward in ((torch.float32, False), (torch.uint8, False), (torch.float32, True)):
            build = functools.partial(_build, *shape, dtype, backward, device)
            label = f"3 sources, 3 scales, {'uint8' if dtype == torch.uint8 else 'float32'}"
            variant = "forward+backward" if backward else "fresh"
            headline = dtype == torch.float32 and not backward
            cases.append(Case("mef_ssim", label, size, *shape, variant, build, headline=headline))
    return cases


def bench_mef_ssim(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
