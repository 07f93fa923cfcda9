"""The matching volume and the first convolution of EMVNet's hourglass on it, against the volume composed from PyTorch
straight into channels-last-3d and its convolution there: forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import peers
import torch
import torch.nn.functional as F
from timing import Candidate, Case, Peer, Work
from torch import Tensor

import hdrops

CHANNELS = RESULTS = 32
EXPOSURES = (1 / 4, 1 / 2, 2.0, 4.0, 8.0, 16.0)
SHAPES = {"128x128": (128, 128, 12), "tiny": (24, 32, 6)}  # and the extent of the motions, 3 apart
LIMIT_S = 60.0
TOLERANCE = "results within 1e-5 of the norm, gradients 1e-4"


def slices(
    features: Tensor, motions: Sequence[tuple[int, int]], saturation: Tensor | None, exposures: Sequence[float]
) -> list[tuple[Tensor, Tensor]]:
    """F' and F_ref of each slice, channels last; image 0 is the reference."""
    reach = max(max(abs(y), abs(x)) for y, x in motions)
    height, width = features.shape[-2:]
    last = features.permute(0, 1, 3, 4, 2).contiguous()
    base = last[:, 0]
    found = [(base, base)] * (len(motions) * len(exposures))
    for i in range(1, features.shape[1]):
        padded = [F.pad(last[:, i], (0, 0, reach, reach, reach, reach))]
        if saturation is not None:
            s = F.pad(saturation[:, i].permute(0, 2, 3, 1), (0, 0, reach, reach, reach, reach))
            padded = [s * padded[0], (1 - s) * padded[0]]
        for y, x in motions:
            rows, columns = slice(reach + y, reach + y + height), slice(reach + x, reach + x + width)
            parts = [p[:, rows, columns] for p in padded]
            found += [(gain * parts[0] if len(parts) == 1 else parts[0] + gain * parts[1], base) for gain in exposures]
    return found


def written(
    features: Tensor,
    motions: Sequence[tuple[int, int]],
    saturation: Tensor | None,
    exposures: Sequence[float] = EXPOSURES,
) -> Tensor:
    """The volume, each part written into its place."""
    n, _, c, height, width = features.shape
    pairs = slices(features, motions, saturation, exposures)
    out = features.new_empty(n, len(pairs), height, width, 4 * c)
    for d, (a, r) in enumerate(pairs):
        place = out[:, d]
        place[..., :c] = a
        place[..., c : 2 * c] = r
        torch.sub(a, r, out=place[..., 2 * c : 3 * c]).abs_()
        torch.mul(a, r, out=place[..., 3 * c :])
    return out.permute(0, 4, 1, 2, 3)


def stacked(features: Tensor, motions: Sequence[tuple[int, int]], saturation: Tensor | None) -> Tensor:
    """The same for autograd and compilers."""
    pairs = slices(features, motions, saturation, EXPOSURES)
    return torch.stack([torch.cat([a, r, (a - r).abs(), a * r], -1) for a, r in pairs], 1).permute(0, 4, 1, 2, 3)


def _close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], who: str) -> None:
    """Results within 1e-5, gradients within 1e-4: torch's own gradient of the weight is 2e-5 from the exact one."""
    for a, b, allowed in zip(ours, theirs, (1e-5, 1e-4, 1e-4, 1e-4), strict=False):
        error = ((a - b).norm() / a.norm()).item()
        assert error <= allowed, f"{who}: differs by {error} of its norm, allowed {allowed}"


def _near(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], who: str) -> None:
    """In bfloat16."""
    error = ((ours[0].float() - theirs[0].float()).norm() / ours[0].float().norm()).item()
    assert error <= 1e-2, f"{who}: differs by {error} of its norm, allowed 1e-2"


def flops(height: int, width: int, motions: int, images: int = 2, masked: bool = False) -> float:
    """Of the factorised convolution: |F' - F_ref| for each exposure, the product and the linear part for each motion
    and image, and what the reference has of it alone."""
    outputs = height * width / 4
    tap = 2 * 9 * CHANNELS * RESULTS
    others = images - 1
    depth = motions * len(EXPOSURES)
    per_part = 2 if masked else 1
    return (
        others * depth / 2 * 3 * tap * outputs
        + others * motions * 3 * per_part * tap * outputs
        + others * 3 * per_part * tap * height * width
        + 3 * 3 * tap * outputs
    )


def _build(
    height: int, width: int, extent: int, what: str, masked: bool, backward: bool, dtype: torch.dtype, device: str
) -> Work:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 2, CHANNELS, height, width, generator=generator).to(device, dtype)
    saturated = torch.rand(1, 2, 1, height, width, generator=generator) > 0.8
    saturation = saturated.to(features) if masked else None
    motions = hdrops.motion_grid(extent, 3)
    listed = [(y, x) for y, x in motions.tolist()]
    weight = torch.randn(RESULTS, 4 * CHANNELS, 3, 3, 3, generator=generator).to(features) / 60
    bias = torch.randn(RESULTS, generator=generator).to(features)
    volume = what == "volume"
    if not volume:
        weight = weight.contiguous(memory_format=torch.channels_last_3d)
    inputs = [features] if volume else [features, weight, bias]
    if backward:
        inputs = [x.requires_grad_() for x in inputs]
    moves = motions.to(device)

    def call(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        result = function(*inputs)
        if not backward:
            return (result,)
        return result.detach(), *torch.autograd.grad(result, inputs, torch.ones_like(result))

    def ours(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        if w is None:
            return hdrops.matching_volume(x, 0, moves, EXPOSURES, saturation)
        return hdrops.matching_conv3d(x, w, b, 0, moves, EXPOSURES, saturation)

    def composed(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def function(x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
            made = make(x, listed, saturation)
            return made if w is None else F.conv3d(made, w, b, stride=2, padding=1)

        return function

    size = features.element_size()
    pixels, depth = height * width, 2 * len(listed) * len(EXPOSURES)
    elements = 4 * CHANNELS * depth * pixels
    outputs = elements if volume else RESULTS * depth * pixels / 8
    memory = size * elements * (4 if backward else 1.2)
    makes = [stacked] if backward else [written, stacked]
    eager = [
        Candidate(make.__name__, functools.partial(call, composed(make)), memory=memory * (1 + (make is stacked)))
        for make in makes
    ]
    threads = torch.get_num_threads()
    others = [Peer("torch eager", eager, threads=threads)]
    if not volume and not backward and dtype == torch.float32:  # the compiler takes minutes over slices without end
        compiled = peers.compiled(composed(stacked), device)
        others.append(
            Peer(
                "torch.compile",
                [Candidate("", functools.partial(call, compiled), compiles=True, memory=2 * memory)],
                threads=threads,
            )
        )
    return Work(
        Candidate("", functools.partial(call, ours)),
        others,
        moved=size * (features.numel() + outputs) * (3 if backward else 1),
        flops=0 if volume else (3 if backward else 1) * flops(height, width, len(listed), masked=masked),
        check=_close if dtype == torch.float32 else _near,
        tolerance="within 1 % of the norm" if dtype != torch.float32 else TOLERANCE,
    )


def matching_volume_cases(sizes: list[str], device: str) -> list[Case]:
    """Sizes of feature maps, whatever sizes of pictures are asked for."""
    name = "tiny" if "tiny" in sizes else "128x128"
    height, width, extent = SHAPES[name]
    depth = f"{(extent // 3) ** 2} motions x {len(EXPOSURES)} exposures"
    settings = [
        ("volume", False, False, torch.float32),
        ("conv3d", False, False, torch.float32),
        ("conv3d", True, False, torch.float32),
        ("conv3d", False, True, torch.float32),
        ("conv3d", False, False, torch.bfloat16),
    ]
    cases = []
    for what, masked, backward, dtype in settings:
        made: Callable[[], Any] = functools.partial(
            _build, height, width, extent, what, masked, backward, dtype, device
        )
        label = f"matching_{what}, {CHANNELS} channels, {depth}" + (", saturation" if masked else "")
        label += (", forward and backward" if backward else "") + (", bfloat16" if dtype == torch.bfloat16 else "")
        variant = "forward+backward" if backward else "fresh"
        case = Case("matching_volume", label, name, height, width, variant, made, headline=not masked, limit_s=LIMIT_S)
        cases.append(case)
    return cases


def bench_matching_volume(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
