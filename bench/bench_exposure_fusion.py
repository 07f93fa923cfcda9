"""``exposure_fusion`` against ``cv2.createMergeMertens`` and a PyTorch composition."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import peers
import pictures
import torch
from timing import Candidate, Case, Peer, Work
from torch import Tensor

import hdrops

STEPS = {3: (-2.0, 0.0, 2.0), 5: (-3.0, -1.5, 0.0, 1.5, 3.0)}
NAMES = {torch.uint8: "uint8", torch.uint16: "uint16", torch.float32: "float32"}
FLOPS_PER_PIXEL = 200  # and exposure: weights, and two pyramids of four planes down and up


def _check(ours: Tensor, theirs: Tensor, who: str) -> None:
    """OpenCV within 1 code of 8 bits (1e-3) everywhere; the PyTorch composition for 99.9 % of the samples.

    Where all exposures of a pixel are neutral its weights are rounding noise, which hdrops reproduces as
    OpenCV has it; another composition need not.
    """
    assert ours.shape == theirs.shape, f"{who}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    allowed = 1e-3 if ours.dtype.is_floating_point else 1 if ours.dtype == torch.uint8 else 66
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


def _photographs(device: str) -> Tensor | None:
    """Five exposures of a real scene, 12 MP each, or None where they are absent."""
    frames = pictures.photographs(frames=(0, 1, 2, 3, 4))
    return None if frames is None else torch.stack(frames)[None].to(device)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is fused, and how."""

    count: int = 3
    dtype: torch.dtype = torch.uint8
    out_dtype: torch.dtype = torch.uint8
    variant: str = "out"
    convention: Literal["paper", "opencv"] = "opencv"
    picture: str = "synthetic"
    sweep: bool = False

    @property
    def headline(self) -> bool:
        return self == Setting()

    @property
    def label(self) -> str:
        types = f"{NAMES[self.dtype]} to {NAMES[self.out_dtype]}"
        return f"{self.count} exposures, {types}" + (", paper" if self.convention == "paper" else "")


def _build(height: int, width: int, setting: Setting, device: str) -> Work:
    if setting.picture == "photographs":
        photographs = _photographs(device)
        assert photographs is not None
        bracket = photographs
    else:
        bracket = _bracket(height, width, setting.count, setting.dtype, device)
    keep = setting.variant == "out"
    out = peers.touched((1, 3, height, width), setting.out_dtype, device) if keep else None
    theirs = peers.touched((1, 3, height, width), setting.out_dtype, device) if keep else None

    def call() -> Tensor:
        return hdrops.exposure_fusion(bracket, convention=setting.convention, dtype=setting.out_dtype, out=out)

    others: list[Peer] = []
    if setting.convention == "paper":
        others.append(Peer("OpenCV", [], "MergeMertens does not clamp, and takes bytes only"))
    elif device == "cpu":
        others.append(peers.opencv_mertens(bracket, setting.out_dtype, keep))
    else:
        others.append(Peer("OpenCV", [], "MergeMertens has no GPU version"))
    if not setting.sweep:
        clamp = setting.convention == "paper"
        others += peers.torch_mertens(bracket, setting.out_dtype, theirs, clamp=clamp, compile_it=setting.headline)
    pixels = height * width
    return Work(
        Candidate("", call),
        others,
        moved=3 * pixels * (setting.count * setting.dtype.itemsize + setting.out_dtype.itemsize),
        flops=FLOPS_PER_PIXEL * setting.count * pixels,
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

    def add(size: str, shape: tuple[int, int], setting: Setting) -> None:
        build = functools.partial(_build, *shape, setting, device)
        cases.append(
            Case(
                "exposure_fusion",
                setting.label,
                size,
                *shape,
                setting.variant,
                build,
                picture=setting.picture,
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
        add(size, shape, Setting())
        add(size, shape, Setting(variant="fresh"))
        if size == "12mp":  # a call of a peer takes seconds: little beside the headline
            photographs = _photographs(device)
            if photographs is not None:
                height, width = photographs.shape[-2:]
                add(size, (height, width), Setting(5, picture="photographs"))
            continue
        add(size, shape, Setting(out_dtype=torch.float32))
        add(size, shape, Setting(5))
        add(size, shape, Setting(dtype=torch.uint16, out_dtype=torch.uint16, convention="paper"))
        add(size, shape, Setting(dtype=torch.float32, out_dtype=torch.float32, convention="paper"))
        if size in ("1080p", "tiny"):
            build = functools.partial(_build_backward, *shape, 3, device)
            label = "3 exposures, float32, gradient of the bracket"
            cases.append(Case("exposure_fusion", label, size, *shape, "forward+backward", build))
    return cases


def bench_exposure_fusion(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
