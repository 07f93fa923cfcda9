"""``rgb_to_lab`` and ``lab_to_rgb`` against OpenCV, scikit-image and the same formulas in PyTorch."""

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

SHORT = {torch.uint8: "uint8", torch.float32: "float32", torch.float16: "float16"}
TOLERANCES = {"rgb_to_lab": "L*, a*, b* within 1", "lab_to_rgb": "within 1 % of full scale"}
FLOPS_PER_PIXEL = {"rgb_to_lab": 140, "lab_to_rgb": 110}  # three or six roots of 16 to 20, the matrix


def _close(lab: bool) -> Callable[[Tensor, Tensor, str], None]:
    """OpenCV interpolates in tables."""

    def check(ours: Tensor, theirs: Tensor, who: str) -> None:
        allowed = 1.0 if lab else 0.01 if ours.is_floating_point() else 2.55
        error = (ours.float() - theirs.to(ours.device).float()).abs().max().item()
        assert error <= allowed, f"{who}: differs by {error}, allowed {allowed}"

    return check


def _build(
    operator: str,
    height: int,
    width: int,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    variant: str,
    sweep: bool,
    device: str,
) -> Work:
    to_lab = operator == "rgb_to_lab"
    rgb = pictures.exposures(height, width, (0.0,), dtype if to_lab else torch.float32)[0][None].to(device)
    image = rgb if to_lab else hdrops.rgb_to_lab(rgb).to(dtype)
    gradient = variant == "forward+backward"
    out = peers.touched(image.shape, out_dtype, device) if variant == "out" else None
    theirs = peers.touched(image.shape, out_dtype, device) if variant == "out" else None
    grad = torch.randn(image.shape, generator=torch.Generator().manual_seed(31)).to(image) if gradient else None
    image.requires_grad_(gradient)
    function = hdrops.rgb_to_lab if to_lab else functools.partial(hdrops.lab_to_rgb, dtype=out_dtype)

    def call() -> Any:
        return function(image, out=out) if grad is None else torch.autograd.grad(function(image), image, grad)[0]

    compile_it = dtype == out_dtype == torch.float32 and variant != "fresh" and not sweep
    others = peers.torch_lab(image, to_lab, out_dtype, theirs, grad, compile_it)
    if device == "cpu" and not gradient:
        others.append(peers.opencv_lab(image, to_lab, out_dtype, out is not None))
        others.append(peers.skimage_lab(image, to_lab, out_dtype))
    pixels = height * width
    moved = 3 * pixels * (dtype.itemsize + out_dtype.itemsize)
    if gradient:
        moved += 3 * 3 * pixels * dtype.itemsize
    return Work(
        Candidate("", call),
        others,
        moved=moved,
        flops=FLOPS_PER_PIXEL[operator] * pixels * (2 if gradient else 1),
        check=_gradients_close if gradient else _close(to_lab),
        tolerance="gradients within 1e-3 of their norm" if gradient else TOLERANCES[operator],
    )


def _gradients_close(ours: Tensor, theirs: Tensor, who: str) -> None:
    error = ((ours - theirs).norm() / theirs.norm()).item()
    assert error <= 1e-3, f"{who}: differs by {error} of its norm, allowed 1e-3"


def lab_cases(sizes: list[str], device: str) -> list[Case]:
    cases = []

    def add(
        size: str,
        shape: tuple[int, int],
        operator: str,
        dtype: torch.dtype,
        out_dtype: torch.dtype,
        variant: str,
        sweep: bool = False,
    ) -> None:
        build = functools.partial(_build, operator, *shape, dtype, out_dtype, variant, sweep, device)
        label = f"{operator}, {SHORT[dtype]} to {SHORT[out_dtype]}"
        headline = dtype == out_dtype == torch.float32 and variant == "out" and not sweep
        cases.append(Case("lab", label, size, *shape, variant, build, sweep=sweep, headline=headline))

    f32, u8, f16 = torch.float32, torch.uint8, torch.float16
    for size in sizes:
        if size == "sweep":
            for megapixels in pictures.SWEEP:
                shape = pictures.sweep_size(megapixels)
                for operator in FLOPS_PER_PIXEL:
                    add(f"{megapixels:g}mp", shape, operator, f32, f32, "out", sweep=True)
            continue
        shape = pictures.SIZES[size]
        for variant in ("out", "fresh"):
            for operator in FLOPS_PER_PIXEL:
                add(size, shape, operator, f32, f32, variant)
                add(size, shape, operator, f16, f16, variant)
            add(size, shape, "rgb_to_lab", u8, f32, variant)
            add(size, shape, "lab_to_rgb", f32, u8, variant)
        if size in ("1080p", "tiny"):
            for operator in FLOPS_PER_PIXEL:
                add(size, shape, operator, f32, f32, "forward+backward")
    return cases


def bench_lab(case: Case, measure: Callable[[Case], Any]) -> None:
    measure(case)
