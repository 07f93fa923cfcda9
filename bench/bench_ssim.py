"""``ssim`` and ``ms_ssim`` against pytorch-msssim, eager and compiled, and scikit-image; values, and as losses."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import peers
import pictures
import torch
from timing import Candidate, Case, Work
from torch import Tensor

import hdrops

NAMES = {torch.uint8: "uint8", torch.float16: "float16", torch.float32: "float32"}
# Of a sample of a level: two passes of the window over four products, and the map; for the gradient the moments again,
# the derivatives, and two passes over three maps.
FLOPS, FLOPS_BACKWARD = 230, 335


def _check(ours: Any, theirs: Any, who: str) -> None:
    """Values within 1e-4, gradients within 1 % of their norm: peers lose the small contrasts of flat areas."""
    assert len(ours) == len(theirs), f"{who}: {len(theirs)} results"
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.float(), b.float().to(a.device)
        assert a.shape == b.shape, f"{who}: shapes {tuple(a.shape)} and {tuple(b.shape)}"
        if a.dim() == 0:
            assert abs(a.item() - b.item()) <= 1e-4, f"{who}: {b.item()}, not {a.item()}"
        else:
            error = ((a - b).norm() / a.norm()).item()
            assert error <= 1e-2, f"{who}: the gradient differs by {error} of its norm"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured: one or several scales, of which images, and how many gradients."""

    scales: int = 5
    dtype: torch.dtype = torch.float32
    gradients: int = 1
    sweep: bool = False

    @property
    def headline(self) -> bool:
        return self == Setting()

    @property
    def label(self) -> str:
        name = "ms_ssim" if self.scales > 1 else "ssim"
        return f"{name}, {NAMES[self.dtype]}" + (", both gradients" if self.gradients == 2 else "")

    @property
    def variant(self) -> str:
        return "forward+backward" if self.gradients else "forward"

    def levels(self, samples: int) -> float:
        """Samples of all scales."""
        return samples * sum(0.25**scale for scale in range(self.scales))


def _build(height: int, width: int, setting: Setting, device: str) -> Work:
    x, y = (image[None].to(device) for image in pictures.exposures(height, width, (0.0, 0.25), setting.dtype))
    if setting.gradients:
        x.requires_grad_()
        y.requires_grad_(setting.gradients == 2)
    leaves = [image for image in (x, y) if image.requires_grad]

    def call() -> tuple[Tensor, ...]:
        value = hdrops.ms_ssim(x, y, downsampling="zeros") if setting.scales > 1 else hdrops.ssim(x, y)
        return torch.autograd.grad(value, leaves) if leaves else (value,)

    several = setting.scales > 1
    compile_it = several and setting.dtype == torch.float32 and not setting.sweep and setting.gradients < 2
    others = peers.msssim(x, y, several, compile_it)
    if not several and not leaves and device == "cpu":
        others.append(peers.skimage_ssim(x, y))
    samples = setting.levels(x.numel())
    element = x.element_size()
    coarser = samples - x.numel()
    moved = 2 * (x.numel() * element + 2 * coarser * 4)  # every level but the finest is written, and read
    flops = FLOPS * samples
    if leaves:
        moved += 2 * (x.numel() * element + coarser * 4) + len(leaves) * (x.numel() * element + coarser * 4)
        flops += FLOPS_BACKWARD * samples
    return Work(
        Candidate("", call),
        others,
        moved=moved,
        flops=flops,
        check=_check,
        tolerance="values within 1e-4, gradients within 1 % of their norm",
        reads_only=not several and not leaves,
    )


def ssim_cases(sizes: list[str], device: str) -> list[Case]:
    cases = []

    def add(size: str, shape: tuple[int, int], setting: Setting) -> None:
        build = functools.partial(_build, *shape, setting, device)
        cases.append(
            Case(
                "ssim",
                setting.label,
                size,
                *shape,
                setting.variant,
                build,
                sweep=setting.sweep,
                headline=setting.headline,
            )
        )

    for size in sizes:
        if size == "sweep":
            for megapixels in pictures.SWEEP:
                add(f"{megapixels:g}mp", pictures.sweep_size(megapixels), Setting(sweep=True))
            continue
        shape = pictures.SIZES[size]
        for scales in (5, 1):
            add(size, shape, Setting(scales))
            add(size, shape, Setting(scales, gradients=0))
        if size in ("1080p", "tiny"):
            add(size, shape, Setting(gradients=2))
            add(size, shape, Setting(dtype=torch.float16))
            add(size, shape, Setting(dtype=torch.float16, gradients=0))
            add(size, shape, Setting(dtype=torch.uint8, gradients=0))
            add(size, shape, Setting(1, dtype=torch.uint8, gradients=0))
    return cases


def bench_ssim(case: Case, measure: Callable[[Case], Any]) -> None:
    measure(case)
