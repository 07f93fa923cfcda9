"""``correlation`` over the motions of EMVNet, 144 of them, against its composition from PyTorch and, where it is
installed, spatial-correlation-sampler: forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import peers
import torch
from timing import Candidate, Case, Peer, Work
from torch import Tensor

import hdrops

CHANNELS = 32
EXTENT, STEP = 36, 3
SHAPES = {"128x128": (128, 128), "270x480": (270, 480), "tiny": (48, 64)}
LIMIT_S = 60.0


def _composed(a: Tensor, b: Tensor, motions: list[tuple[int, int]], reach: int) -> Tensor:
    """Products with slices of a padded image."""
    height, width = a.shape[-2:]
    wide = torch.nn.functional.pad(b, (reach, reach, reach, reach))
    planes = [(a * wide[..., reach + y : reach + y + height, reach + x : reach + x + width]).sum(1) for y, x in motions]
    return torch.stack(planes, 1)


def _close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], who: str) -> None:
    for a, b in zip(ours, theirs, strict=True):
        error = ((a - b).norm() / a.norm()).item()
        assert error <= 1e-5, f"{who}: differs by {error} of its norm, allowed 1e-5"


def _sampler(a: Tensor, b: Tensor) -> Tensor:
    """Its motions are odd in number: one more to each side than an even grid has."""
    from spatial_correlation_sampler import spatial_correlation_sample

    side = EXTENT // STEP + 1
    found: Tensor = spatial_correlation_sample(a, b, kernel_size=1, patch_size=side, dilation_patch=STEP)
    return found[:, :-1, :-1].flatten(1, 2)


def _build(height: int, width: int, backward: bool, device: str) -> Work:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1, CHANNELS, height, width, generator=generator).to(device) for _ in range(2))
    motions = hdrops.motion_grid(EXTENT, STEP)
    listed = [(y, x) for y, x in motions.tolist()]
    reach = int(motions.abs().max())
    upstream = torch.randn(1, len(listed), height, width, generator=generator).to(device)
    if backward:
        a, b = a.requires_grad_(), b.requires_grad_()
    moves = motions.to(device)

    def call(function: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        result = function(a, b)
        return (result.detach(), *torch.autograd.grad(result, (a, b), upstream)) if backward else (result,)

    composed = functools.partial(_composed, motions=listed, reach=reach)
    others = [
        Peer("torch eager", [Candidate("", functools.partial(call, composed))], threads=torch.get_num_threads()),
        Peer(
            "torch.compile",
            [Candidate("", functools.partial(call, peers.compiled(composed, device)), compiles=True)],
            threads=torch.get_num_threads(),
        ),
    ]
    absent = peers.missing("spatial-correlation-sampler", "spatial_correlation_sampler")
    others.append(absent or Peer("spatial-correlation-sampler", [Candidate("", functools.partial(call, _sampler))]))
    pixels = height * width
    times = 3 if backward else 1
    return Work(
        Candidate("", functools.partial(call, functools.partial(hdrops.correlation, motions=moves))),
        others,
        moved=times * 4 * pixels * (2 * CHANNELS + len(listed)),
        flops=times * 2 * CHANNELS * len(listed) * pixels,
        check=_close,
        tolerance="within 1e-5 of the norm",
    )


def matching_cases(sizes: list[str], device: str) -> list[Case]:
    """Sizes of feature maps, whatever sizes of pictures are asked for."""
    names = ["tiny"] if "tiny" in sizes else ["128x128", "270x480"]
    cases = []
    for name in names:
        for variant in ("fresh", "forward+backward"):
            made: Callable[[], Any] = functools.partial(_build, *SHAPES[name], variant != "fresh", device)
            label = f"correlation, {CHANNELS} channels, {(EXTENT // STEP) ** 2} motions"
            label += "" if variant == "fresh" else ", forward and backward"
            cases.append(Case("matching", label, name, *SHAPES[name], variant, made, headline=True, limit_s=LIMIT_S))
    return cases


def bench_matching(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
