"""``gaussian_blur`` and ``gaussian_mask`` against compositions of OpenCV, PyTorch and kornia."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import peers
import pictures
import torch
from timing import Candidate, Case, Peer, Work
from torch import Tensor

import hdrops

NAMES = {torch.uint8: "uint8", torch.float32: "float32"}


def _flops(sigma: float) -> int:
    """A pixel's, along both axes: taps of half the window for two pixels each, or five cosines where that is less."""
    return 2 * min(3 * round(3 * sigma) + 1, 5 * 8 + 8)


def _check(ours: Tensor, theirs: Tensor, who: str) -> None:
    """float32 within 2e-4 of the range. Of bytes OpenCV's fixed-point window may be 2 codes of the blur off, which
    the mask stretches; PyTorch rounds alike but at ties."""
    assert ours.shape == theirs.shape, f"{who}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    allowed = 2e-4 if ours.dtype.is_floating_point else 12 if who.startswith("OpenCV") else 1
    error = (ours.float() - theirs.to(ours.device).float()).abs().max().item()
    assert error <= allowed, f"{who}: differs by {error}, allowed {allowed}"


def _check_gradient(ours: Tensor, theirs: Tensor, who: str) -> None:
    error = ((ours - theirs).norm() / theirs.norm()).item()
    assert error <= 1e-3, f"{who}: the gradient differs by {error} of its norm, allowed 1e-3"


def _image(height: int, width: int, dtype: torch.dtype, device: str) -> Tensor:
    """One channel of the synthetic scene, (1, 1, H, W)."""
    return pictures.exposures(height, width, (0.0,), dtype)[0][None, 1:2].contiguous().to(device)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is computed."""

    masked: bool = True
    sigma: float = 10.0
    dtype: torch.dtype = torch.float32
    variant: str = "out"
    sweep: bool = False

    @property
    def headline(self) -> bool:
        return self in (Setting(), Setting(sigma=50.0))

    @property
    def label(self) -> str:
        return f"{'mask' if self.masked else 'blur'}, sigma {self.sigma:g}, {NAMES[self.dtype]}"


def _build(height: int, width: int, setting: Setting, device: str) -> Work:
    image = _image(height, width, setting.dtype, device)
    keep = setting.variant == "out"
    out = peers.touched(image.shape, setting.dtype, device) if keep else None
    theirs = peers.touched(image.shape, setting.dtype, device) if keep else None
    operator = hdrops.gaussian_mask if setting.masked else hdrops.gaussian_blur
    others: list[Peer] = []
    if device == "cpu":
        others.append(peers.opencv_gaussian(image, setting.sigma, setting.masked, keep))
    else:
        others.append(Peer("OpenCV", [], "its CUDA filters take 32 taps at most"))
    if not setting.sweep:
        others += peers.torch_gaussian(image, setting.sigma, setting.masked, theirs)
    # The mask needs the extremes of the blurred image before its first value.
    values = 4 if setting.masked else 2
    return Work(
        Candidate("", lambda: operator(image, setting.sigma, out=out)),
        others,
        moved=values * image.numel() * image.element_size(),
        flops=_flops(setting.sigma) * image.numel(),
        check=_check,
        tolerance="within 2e-4; bytes within 1 code, OpenCV's 12",
    )


def _build_backward(height: int, width: int, sigma: float, device: str) -> Work:
    image = _image(height, width, torch.float32, device).requires_grad_()
    grad = torch.randn(image.shape, generator=torch.Generator().manual_seed(26)).to(device)

    def call() -> Tensor:
        return torch.autograd.grad(hdrops.gaussian_mask(image, sigma), image, grad)[0]

    return Work(
        Candidate("", call),
        peers.torch_gaussian(image, sigma, True, None, grad),
        moved=14 * image.numel() * image.element_size(),  # two blurs, the sums, the slopes, the adjoint
        flops=3 * _flops(sigma) * image.numel(),
        check=_check_gradient,
        tolerance="gradient within 1e-3 of its norm",
    )


def gaussian_cases(sizes: list[str], device: str) -> list[Case]:
    cases = []

    def add(size: str, shape: tuple[int, int], setting: Setting) -> None:
        build = functools.partial(_build, *shape, setting, device)
        cases.append(
            Case(
                "gaussian",
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
        for sigma in (10.0, 20.0, 50.0):
            add(size, shape, Setting(sigma=sigma))
            add(size, shape, Setting(masked=False, sigma=sigma))
        add(size, shape, Setting(sigma=2.0))
        add(size, shape, Setting(variant="fresh"))
        add(size, shape, Setting(dtype=torch.uint8))
        add(size, shape, Setting(masked=False, dtype=torch.uint8))
        if size in ("1080p", "tiny"):
            build = functools.partial(_build_backward, *shape, 10.0, device)
            label = "mask, sigma 10, float32, gradient"
            cases.append(Case("gaussian", label, size, *shape, "forward+backward", build))
    return cases


def bench_gaussian(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
