"""``exposure_fusion`` against ``cv2.createMergeMertens`` and a PyTorch composition."""

from __future__ import annotations

import functools
from collections.abc import Callable

import peers
import pictures
import torch
from timing import Candidate, Case, Peer, Work
from torch import Tensor

import hdrops

STEPS = {3: (-2.0, 0.0, 2.0), 5: (-3.0, -1.5, 0.0, 1.5, 3.0)}
FLOPS_PER_PIXEL = 200  # and exposure: weights, and two pyramids of four planes down and up


def _check(ours: Tensor, theirs: Tensor, who: str) -> None:
    """OpenCV within 1 code (1e-3) everywhere; the PyTorch composition for 99.9 % of the samples.

    Where all exposures of a pixel are neutral its weights are rounding noise, which hdrops reproduces as
    OpenCV has it; another composition need not.
    """
    assert ours.shape == theirs.shape, f"{who}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    allowed = 1e-3 if ours.dtype.is_floating_point else 1
    wrong = 0
    for a, b in zip(ours.reshape(-1).split(1 << 24), theirs.to(ours.device).reshape(-1).split(1 << 24), strict=True):
        wrong += int(((a.float() - b.float()).abs() > allowed).sum())
    share = 0 if who.startswith("OpenCV") else 1e-3
    assert wrong <= share * ours.numel(), f"{who}: {wrong} of {ours.numel()} samples differ by more than {allowed}"


def _check_gradient(ours: Tensor, theirs: Tensor, who: str) -> None:
    """99.9 % of the samples within 1e-2: where all weights are tiny the gradient is large and ill-conditioned."""
    wrong = int(((ours - theirs).abs() > 1e-2 * (1 + theirs.abs())).sum())
    assert wrong <= 1e-3 * ours.numel(), f"{who}: {wrong} of {ours.numel()} gradients differ by more than 1e-2"


def _bracket(height: int, width: int, count: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.stack(pictures.exposures(height, width, STEPS[count], dtype))[None].to(device)


def _build(
    height: int,
    width: int,
    count: int,
    out_dtype: torch.dtype,
    variant: str,
    sweep: bool,
    compile_it: bool,
    device: str,
) -> Work:
    bracket = _bracket(height, width, count, torch.uint8, device)
    out = peers.touched((1, 3, height, width), out_dtype, device) if variant == "out" else None
    theirs = peers.touched((1, 3, height, width), out_dtype, device) if variant == "out" else None

    def call() -> Tensor:
        return hdrops.exposure_fusion(bracket, convention="opencv", dtype=out_dtype, out=out)

    others = [] if sweep else peers.torch_mertens(bracket, out_dtype, theirs, compile_it=compile_it)
    if device == "cpu":
        others.insert(0, peers.opencv_mertens(bracket, out_dtype, theirs is not None))
    else:
        others.append(Peer("OpenCV", [], "MergeMertens has no GPU version"))
    pixels = height * width
    return Work(
        Candidate("", call),
        others,
        moved=3 * pixels * (count + out_dtype.itemsize),
        flops=FLOPS_PER_PIXEL * count * pixels,
        check=_check,
        tolerance="OpenCV within 1 code (1e-3), PyTorch for 99.9 % of the samples",
    )


def _build_backward(height: int, width: int, count: int, device: str) -> Work:
    # Away from the ends of the range, where clipped neutral pixels have no derivative.
    bracket = _bracket(height, width, count, torch.float32, device)
    noise = torch.rand(bracket.shape, generator=torch.Generator().manual_seed(24)).to(device)
    bracket = (0.05 + 0.85 * bracket + 0.1 * noise).requires_grad_()
    grad = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(25)).to(device)

    def call() -> Tensor:
        return torch.autograd.grad(hdrops.exposure_fusion(bracket, convention="opencv"), bracket, grad)[0]

    pixels = height * width
    return Work(
        Candidate("", call),
        peers.torch_mertens(bracket, torch.float32, None, grad),
        moved=12 * pixels * (count + 1 + 1 + 2 * count),  # forward, then gradient and bracket to gradients
        flops=3 * FLOPS_PER_PIXEL * count * pixels,
        check=_check_gradient,
        tolerance="gradient within 1e-2 for 99.9 % of the samples",
    )


def exposure_fusion_cases(sizes: list[str], device: str) -> list[Case]:
    cases = []

    def add(
        size: str,
        shape: tuple[int, int],
        count: int,
        out_dtype: torch.dtype,
        variant: str,
        sweep: bool = False,
    ) -> None:
        name = "uint8" if out_dtype == torch.uint8 else "float32"
        headline = count == 3 and out_dtype == torch.uint8 and variant == "out" and not sweep
        build = functools.partial(_build, *shape, count, out_dtype, variant, sweep, headline, device)
        label = f"{count} exposures, uint8 to {name}"
        cases.append(Case("exposure_fusion", label, size, *shape, variant, build, sweep=sweep, headline=headline))

    for size in sizes:
        if size == "sweep":
            for megapixels in pictures.SWEEP:
                add(f"{megapixels:g}mp", pictures.sweep_size(megapixels), 3, torch.uint8, "out", sweep=True)
            continue
        shape = pictures.SIZES[size]
        add(size, shape, 3, torch.uint8, "out")
        add(size, shape, 3, torch.uint8, "fresh")
        if size == "12mp":  # a call of a peer takes seconds: the headline is enough
            continue
        add(size, shape, 3, torch.float32, "out")
        add(size, shape, 5, torch.uint8, "out")
        if size in ("1080p", "tiny"):
            build = functools.partial(_build_backward, *shape, 3, device)
            label = "3 exposures, float32, gradient of the bracket"
            cases.append(Case("exposure_fusion", label, size, *shape, "forward+backward", build))
    return cases


def bench_exposure_fusion(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
