"""Definition of the operator ``imf``; arguments as in ``cpp/schema.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

from hdrops.reference._autograd import differentiable

FULL_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0}


def _compute(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _interpolate(x: Tensor, xp: Tensor, fp: Tensor) -> Tensor:
    """Piecewise linear through (xp, fp), xp strictly increasing; constant outside."""
    upper = torch.searchsorted(xp, x, right=True).clamp(1, max(len(xp) - 1, 1)).clamp(max=len(xp) - 1)
    lower = (upper - 1).clamp(min=0)
    width = torch.where(upper > lower, xp[upper] - xp[lower], 1.0)
    t = ((x - xp[lower]) / width).clamp(0, 1)
    return fp[lower] + t * (fp[upper] - fp[lower])


def specify(source: Tensor, target: Tensor, saturated: float) -> Tensor:
    """Map of one channel at full code resolution from two histograms, float64."""
    codes = len(source)
    z = torch.arange(codes, dtype=torch.float64, device=source.device)

    def mid_quantile(counts: Tensor) -> Tensor:
        return (2 * counts.cumsum(0) - counts).double() / (2.0 * counts.sum().double())

    occupied = target > 0
    observed = source > 0
    matched = _interpolate(mid_quantile(source), mid_quantile(target)[occupied], z[occupied])
    values = _interpolate(z, z[observed], matched[observed])
    first, last = int(z[observed][0]), int(z[observed][-1])
    if first > 0:
        values[:first] = values[first] * z[:first] / first
    limit = saturated * (codes - 1) / 255.0
    trusted = observed & (z > 0) & (matched > 0) & (matched < limit)
    if trusted.any():
        last = int(z[trusted][-1])
    if last > 0:
        values[last + 1 :] = torch.maximum(values[last + 1 :].clamp(max=limit), values[last] * z[last + 1 :] / last)
    return values


def estimate_imf(source: Tensor, target: Tensor, levels: int, saturated: float) -> Tensor:
    codes = 256 if source.dtype == torch.uint8 else 65536
    n, c = source.shape[:2]
    z = torch.arange(codes, dtype=torch.float64, device=source.device)
    nodes = torch.arange(levels, dtype=torch.float64, device=source.device) * ((codes - 1) / (levels - 1))
    out = torch.empty(n, c, levels, dtype=torch.float32, device=source.device)
    for i in range(n):
        for j in range(c):
            of_source, of_target = (
                torch.bincount(image[i, j].flatten().to(torch.int64), minlength=codes) for image in (source, target)
            )
            out[i, j] = _interpolate(nodes, z, specify(of_source, of_target, saturated)) * (255.0 / (codes - 1))
    return out


def _position(raw: Tensor, levels: int, full_scale: float) -> tuple[Tensor, Tensor]:
    """Index of the lower table entry and the fraction; NaN keeps a NaN fraction."""
    position = (raw * ((levels - 1) / full_scale)).clamp(0, levels - 1)
    index = torch.nan_to_num(position.detach()).floor().clamp(max=levels - 2).to(torch.int64)
    return index, position - index


def _look_up(raw: Tensor, table: Tensor, full_scale: float) -> Tensor:
    """Linear interpolation of images (N, C, H, W) in tables (1 or N, 1 or C, L)."""
    n, c, h, w = raw.shape
    levels = table.shape[-1]
    index, fraction = _position(raw, levels, full_scale)
    flat = table.expand(n, c, levels)
    index = index.reshape(n, c, h * w)
    lower = flat.gather(2, index).reshape(raw.shape)
    upper = flat.gather(2, index + 1).reshape(raw.shape)
    return lower + fraction * (upper - lower)


def _smoothstep(t: Tensor) -> Tensor:
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def fuse(
    dark: Tensor, bright: Tensor, imf_dark: Tensor, imf_bright: Tensor, low: list[float], high: list[float]
) -> Tensor:
    """Eq. 8-12 in the arithmetic type; the result in 8-bit code units."""
    dtype = _compute(dark)
    full_scale = FULL_SCALE.get(dark.dtype, 1.0)
    raw_dark, raw_bright = dark.to(dtype), bright.to(dtype)
    value_dark = _look_up(raw_dark, imf_dark, full_scale)
    value_bright = _look_up(raw_bright, imf_bright, full_scale)
    weight_dark = _smoothstep((raw_dark * (255.0 / full_scale) - low[0]) / (low[1] - low[0]))
    weight_bright = _smoothstep((high[1] - raw_bright * (255.0 / full_scale)) / (high[1] - high[0]))
    total = weight_dark + weight_bright
    some = total > 0
    weighted = (weight_dark * value_dark + weight_bright * value_bright) / torch.where(some, total, 1.0)
    invalid = torch.isnan(total)
    return torch.where(some | invalid, weighted, (value_dark + value_bright) / 2)


def _store(value: Tensor, dtype: torch.dtype) -> Tensor:
    """8-bit code units to an output type: codes are rounded half to even and saturated, floats scaled to [0, 1]."""
    if dtype not in FULL_SCALE:
        return (value / 255.0).to(dtype)
    codes = (value * (FULL_SCALE[dtype] / 255.0)).nan_to_num(0.0).round().clamp(0, FULL_SCALE[dtype])
    return codes.to(torch.int32).to(dtype)


def imf_fuse(
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: list[float],
    high: list[float],
    dtype: torch.dtype | None = None,
) -> Tensor:
    return _store(fuse(dark, bright, imf_dark, imf_bright, low, high), dtype or dark.dtype)


def imf_fuse_out(
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: list[float],
    high: list[float],
    out: Tensor,
) -> None:
    out.copy_(imf_fuse(dark, bright, imf_dark, imf_bright, low, high, out.dtype))


def imf_fuse_backward(
    grad: Tensor,
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: list[float],
    high: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with differentiable():
        inputs = [x.detach() for x in (dark, bright, imf_dark, imf_bright)]
        active = [x.requires_grad_() for x in inputs if x.is_floating_point()]
        out = fuse(inputs[0], inputs[1], inputs[2], inputs[3], low, high) / 255.0
        grads = list(torch.autograd.grad(out, active, grad.to(out.dtype)))
    if not dark.is_floating_point():
        grads = [grad.new_empty(0, dtype=_compute(dark)), grad.new_empty(0, dtype=_compute(dark)), *grads]
    return grads[0], grads[1], grads[2], grads[3]
