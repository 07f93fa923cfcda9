"""``imf_fuse`` and ``estimate_imf`` against look-up compositions of PyTorch, OpenCV and NumPy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import peers
import pictures
import torch
from timing import Candidate, Case, Peer, Work
from torch import Tensor

import hdrops

LOW, HIGH = (5.0, 55.0), (200.0, 250.0)
RATIOS = (14.0, 16.0, 18.0)  # of the two exposures, per channel: four stops
FLOPS_PER_SAMPLE = 18  # two smoothsteps, two products, a sum, a quotient
SHORT = {torch.uint8: "uint8", torch.uint16: "uint16", torch.float32: "float32"}


def tables() -> tuple[Tensor, Tensor]:
    """Intermediate maps of both exposures, (3, 256)."""
    dark = torch.stack([hdrops.gamma_imf(ratio) for ratio in RATIOS])
    bright = torch.stack([hdrops.gamma_imf(1 / ratio) for ratio in RATIOS])
    return hdrops.intermediate_imf(dark), hdrops.intermediate_imf(bright)


def _close(codes: float, fraction: float) -> Callable[[Any, Any, str], None]:
    """Integer results within ``codes``, float results within ``fraction`` of full scale."""

    def check(ours: Tensor, theirs: Tensor, who: str) -> None:
        assert ours.shape == theirs.shape, f"{who}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
        allowed = fraction if ours.dtype.is_floating_point else codes
        # In slices, so that the check needs little memory beside the pictures.
        for a, b in zip(
            ours.reshape(-1).split(1 << 24), theirs.to(ours.device).reshape(-1).split(1 << 24), strict=True
        ):
            error = (a.float() - b.float()).abs().max().item()
            assert error <= allowed, f"{who}: differs by {error}, allowed {allowed}"

    return check


def _gradients_close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], who: str) -> None:
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        error = ((a - b).norm() / b.norm().clamp(min=1e-30)).item()
        assert error <= 1e-3, f"{who}: gradient {i} differs by {error} of its norm, allowed 1e-3"


def _pair(height: int, width: int, dtype: torch.dtype, picture: str, device: str) -> tuple[Tensor, Tensor]:
    if picture == "random bytes":
        dark, bright = pictures.noise(height, width, 2)
    else:
        dark, bright = pictures.exposures(height, width, (-2.0, 2.0), dtype)
    return dark[None].to(device), bright[None].to(device)


def _build_fuse(
    height: int,
    width: int,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    variant: str,
    picture: str,
    device: str,
) -> Work:
    dark, bright = _pair(height, width, dtype, picture, device)
    maps = tuple(t.to(device) for t in tables())
    out = peers.touched(dark.shape, out_dtype, device) if variant == "out" else None
    theirs = peers.touched(dark.shape, out_dtype, device) if variant == "out" else None

    def call() -> Tensor:
        return hdrops.imf_fuse(dark, bright, *maps, low=LOW, high=HIGH, dtype=out_dtype, out=out)

    if dtype.is_floating_point:
        others = peers.torch_fuse_float((dark, bright), maps, (LOW, HIGH), theirs)
        others.append(Peer("OpenCV", [], "OpenCV has no interpolating look-up of floating-point images"))
        if device == "cpu":
            others.append(peers.numpy_fuse_float((dark, bright), maps, (LOW, HIGH), theirs is not None))
    else:
        gain = peers.FULL.get(out_dtype, 1) / 255
        weighted = peers.weighted_tables(*maps, LOW, HIGH, peers.FULL[dtype] + 1, gain)
        others = peers.torch_fuse(dark, bright, weighted, out_dtype, theirs)
        if device == "cpu":
            others.append(peers.opencv_fuse(dark, bright, weighted, out_dtype, theirs is not None))
            others.append(peers.numpy_fuse(dark, bright, weighted, out_dtype, theirs is not None))
        elif dtype == torch.uint8:
            others.append(peers.cupy_fuse(dark, bright, weighted, out_dtype, theirs))
    samples = dark.numel()
    codes = 1 if out_dtype == torch.uint8 else 4
    return Work(
        Candidate("", call),
        others,
        moved=samples * (2 * dark.element_size() + out_dtype.itemsize),
        flops=FLOPS_PER_SAMPLE * samples,
        check=_close(codes, 1e-4),
        tolerance=f"within {codes} code{'s' * (codes > 1)}" if out_dtype in peers.FULL else "within 1e-4",
    )


def _build_backward(height: int, width: int, with_tables: bool, device: str) -> Work:
    dark, bright = _pair(height, width, torch.float32, "synthetic", device)
    # Off the kinks of the tables and weights, where one-sided derivatives may differ between implementations.
    dark, bright = (((x * 255).floor() + 0.5).mul(1 / 256).requires_grad_() for x in (dark, bright))
    maps = tuple(t.to(device).requires_grad_(with_tables) for t in tables())
    grad = torch.randn(dark.shape, generator=torch.Generator().manual_seed(23)).to(device)

    def call() -> tuple[Tensor, ...]:
        inputs = [x for x in (dark, bright, *maps) if x.requires_grad]
        return torch.autograd.grad(hdrops.imf_fuse(dark, bright, *maps, low=LOW, high=HIGH), inputs, grad)

    samples = dark.numel()
    return Work(
        Candidate("", call),
        peers.torch_fuse_backward((dark, bright), maps, (LOW, HIGH), grad),
        moved=samples * 4 * (3 + 5),  # forward: two images to one; backward: gradient and two images to two
        flops=3 * FLOPS_PER_SAMPLE * samples,
        check=_gradients_close,
        tolerance="gradients within 1e-3 of their norm",
    )


def imf_fuse_cases(sizes: list[str], device: str) -> list[Case]:
    cases = []

    def add(
        size: str,
        shape: tuple[int, int],
        dtype: torch.dtype,
        out_dtype: torch.dtype,
        variant: str,
        picture: str = "synthetic",
        sweep: bool = False,
    ) -> None:
        build = functools.partial(_build_fuse, *shape, dtype, out_dtype, variant, picture, device)
        main = dtype == out_dtype == torch.uint8 and picture == "synthetic" and not sweep
        label = f"{SHORT[dtype]} to {SHORT[out_dtype]}"
        headline = main and variant == "out"
        cases.append(Case("imf_fuse", label, size, *shape, variant, build, picture, sweep, headline))

    named = [s for s in sizes if s != "sweep"]
    for size in named:
        shape = pictures.SIZES[size]
        for variant in ("out", "fresh"):
            add(size, shape, torch.uint8, torch.uint8, variant)
            add(size, shape, torch.uint8, torch.float32, variant)
            add(size, shape, torch.uint16, torch.uint16, variant)
            add(size, shape, torch.float32, torch.float32, variant)
        if size in ("4k", "tiny"):
            add(size, shape, torch.uint8, torch.uint8, "out", "random bytes")
        if size in ("1080p", "tiny"):
            for with_tables in (False, True):
                label = "float32, gradients of images" + " and tables" * with_tables
                build = functools.partial(_build_backward, *shape, with_tables, device)
                cases.append(Case("imf_fuse", label, size, *shape, "forward+backward", build))
    if "sweep" in sizes:
        for megapixels in pictures.SWEEP:
            for variant in ("out", "fresh"):
                shape = pictures.sweep_size(megapixels)
                add(f"{megapixels:g}mp", shape, torch.uint8, torch.uint8, variant, sweep=True)
    return cases


def _tables_close(ours: Tensor, theirs: Tensor, who: str) -> None:
    """Within 0.01 codes; scikit-image, which takes another quantile, within 2 codes on average."""
    difference = (ours.cpu().double() - theirs.double()).abs()
    if "scikit-image" in who:
        error = difference[(~theirs.isnan()) & (ours.cpu() < 250)].mean().item()
        assert error <= 2, f"{who}: tables differ by {error} codes on average, allowed 2"
        return
    error = difference.max().item()
    assert error <= 0.01, f"{who}: tables differ by {error} codes, allowed 0.01"


def _build_estimate(height: int, width: int, pair: Callable[[], Any], device: str) -> Work:
    source, target = (x.to(device) for x in pair())
    others = peers.estimators(source, target) if device == "cpu" else peers.torch_estimator(source, target)
    return Work(
        Candidate("", lambda: hdrops.estimate_imf(source, target)),
        others,
        moved=2 * source.numel(),
        check=_tables_close,
        tolerance="tables within 0.01 codes",
        reads_only=True,
    )


def estimate_imf_cases(sizes: list[str], device: str) -> list[Case]:
    cases = []

    def add(size: str, picture: str, pair: Callable[[int, int], Any], sweep: bool = False) -> None:
        shape = pictures.sweep_size(float(size[:-2])) if sweep else pictures.SIZES[size]
        build = functools.partial(_build_estimate, *shape, functools.partial(pair, *shape), device)
        headline = picture == "synthetic" and not sweep
        cases.append(Case("estimate_imf", "uint8", size, *shape, "fresh", build, picture, sweep, headline))

    def synthetic(height: int, width: int) -> list[Tensor]:
        return pictures.exposures(height, width, (-2.0, 2.0), torch.uint8)

    for size in sizes:
        if size == "sweep":
            for megapixels in pictures.SWEEP:
                add(f"{megapixels:g}mp", "synthetic", synthetic, sweep=True)
            continue
        add(size, "synthetic", synthetic)
        if size in ("4k", "tiny"):
            add(size, "random bytes", functools.partial(pictures.noise, count=2))
            if pictures.photographs(*pictures.SIZES[size]) is not None:
                add(size, "photograph", pictures.photographs)
    return cases


def bench_imf_fuse(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)


def bench_estimate_imf(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
