"""``mtb_shift`` against OpenCV's ``AlignMTB``: the shift of a grey pair, and three frames in colour aligned."""

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

SHIFT = (13, -22)  # of the darker exposure, which lies on the brighter one when it is moved back
STEPS = (-1.5, 0.0, 1.5)
LEVELS = 4 / 3  # pixels of all levels, of those of the finest
# Per pixel: the histogram, two comparisons, and at nine shifts four logical operations and a count on 64 pixels a word.
FLOPS_PER_PIXEL = LEVELS * (1 + 2 + 9 * 5 / 64)
PAIR = "shift of a grey pair, uint8"


def _frames(height: int, width: int) -> list[Tensor]:
    """Three exposures (1, 3, H, W), the first and the last moved by the camera."""
    dy, dx = (abs(x) for x in SHIFT)
    whole = pictures.exposures(height + dy, width + dx, STEPS, torch.uint8)
    places = ((dy, 0), (0, dx), (dy // 2, dx // 2))
    return [x[:, y : y + height, z : z + width][None].contiguous() for x, (y, z) in zip(whole, places, strict=True)]


def _equal(ours: Tensor, theirs: Tensor, who: str) -> None:
    different = int((ours.cpu() != theirs).sum())
    assert different == 0, f"{who}: {different} numbers differ"


def _build_pair(height: int, width: int, device: str) -> Work:
    dark, middle, _ = _frames(height, width)
    image, reference = (peers.opencv_grey(x).to(device) for x in (dark, middle))

    def call() -> Tensor:
        return hdrops.mtb_shift(image, reference)[0]

    skipped = Peer("OpenCV", [], "its AlignMTB has no CUDA form")
    return Work(
        Candidate("", call),
        [peers.opencv_mtb_shift(image, reference) if device == "cpu" else skipped],
        moved=2 * image.numel(),
        flops=2 * FLOPS_PER_PIXEL * image.numel(),
        check=_equal,
        tolerance="equal shifts",
        reads_only=True,
    )


def _moved(frame: Tensor, dy: int, dx: int, out: Tensor) -> Tensor:
    """out(y, x) = frame(y - dy, x - dx), 0 outside."""
    *_, h, w = frame.shape
    inside = out[..., max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)]
    inside.copy_(frame[..., max(-dy, 0) : h - max(dy, 0), max(-dx, 0) : w - max(dx, 0)])
    for border in (out[..., : max(dy, 0), :], out[..., h + min(dy, 0) :, :]):
        border.zero_()
    for border in (out[..., : max(dx, 0)], out[..., w + min(dx, 0) :]):
        border.zero_()
    return out


def _build_frames(height: int, width: int, device: str) -> Work:
    frames = [x.to(device) for x in _frames(height, width)]
    out = peers.touched((3, *frames[0].shape[1:]), torch.uint8, device)

    def call() -> Tensor:
        out[1].copy_(frames[1][0])
        for k in (0, 2):
            dy, dx = hdrops.mtb_shift(frames[k], frames[1])[0][0].tolist()
            _moved(frames[k][0], dy, dx, out[k])
        return out

    skipped = Peer("OpenCV", [], "its AlignMTB has no CUDA form")
    return Work(
        Candidate("", call),
        [peers.opencv_mtb_process([x[0] for x in frames]) if device == "cpu" else skipped],
        moved=2 * sum(x.numel() for x in frames),
        flops=4 * FLOPS_PER_PIXEL * height * width,
        check=_equal,
        tolerance="equal pictures",
    )


def mtb_cases(sizes: list[str], device: str) -> list[Case]:
    cases = []
    for size in sizes:
        if size == "sweep":
            for megapixels in pictures.SWEEP:
                shape = pictures.sweep_size(megapixels)
                made: Callable[[], Any] = functools.partial(_build_pair, *shape, device)
                cases.append(Case("mtb", PAIR, f"{megapixels:g}mp", *shape, "fresh", made, sweep=True))
            continue
        shape = pictures.SIZES[size]
        for label, build, variant in (
            (PAIR, _build_pair, "fresh"),
            ("3 frames aligned, RGB uint8", _build_frames, "out"),
        ):
            made = functools.partial(build, *shape, device)
            cases.append(Case("mtb", label, size, *shape, variant, made, headline=variant == "fresh"))
    return cases


def bench_mtb(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
