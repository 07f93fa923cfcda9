"""Triton kernels of ``mef_ssim``; arguments as in ``cpp/schema.cpp``, definition in ``hdrops.reference.mef_ssim``.

A program takes a run of positions and sums over their windows directly, about the pixel at the centre of
each; all pairs of images are axes of its tensors, so that programs take fewer positions the more sources there are. The
levels above the finest, and images with what stands beyond their borders, are made by PyTorch.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import _store, compute_dtype, full_scale, on_device
from hdrops.reference._windows import VALID, border_index, pad_rows
from hdrops.reference.mef_ssim import CANCELLED, CONTRAST_FLOOR, EPSILON, RANGE, STEEPEST
from hdrops.reference.ssim import halve

BLOCK = 128
MOST_VALUES = 2**15  # of a tensor over all pairs of images
MOST_SOURCES = 127
LEVEL = 2 / math.pi * math.atan(STEEPEST)  # the consistency from which p is at its largest


@triton.jit
def _see(sources, fused, at, k, mask, K, plane, scale, T: tl.constexpr):
    """Pixels at offsets ``at`` of all images, on 0 to 255: the sources on rows 0 to K - 1, fused on row K."""
    of_sources = tl.load(sources + k * plane + at, mask=mask & (k < K), other=0).to(T)
    of_fused = tl.load(fused + 0 * k + at, mask=mask & (k == K), other=0).to(T)
    return (of_sources + of_fused) * scale


@triton.jit
def _positive(x):
    """At least 0; NaN stays."""
    return tl.where(x < 0, 0.0, x)


@triton.jit
def _quality(
    sources,
    fused,
    taps,
    at,
    k,
    mask,
    K,
    plane,
    width,
    window,
    c,
    scale,
    T: tl.constexpr,
    KP: tl.constexpr,
    BLOCK: tl.constexpr,
    FLOOR: tl.constexpr,
    EPS: tl.constexpr,
    STEEP: tl.constexpr,
    STEEP_FROM: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """Of the windows that begin at ``at``: quality, the inverse of its denominator, shares of the sources in the
    desired patch, weighted means and the pixels at the centres, about which these are."""
    zero = tl.zeros([KP, BLOCK], T)
    zeros = tl.zeros([KP, KP, BLOCK], T)
    pivot = _see(sources, fused, at + (window // 2) * (width + 1), k, mask, K, plane, scale, T)
    sums, means, products, covariances = zero, zero, zeros, zeros
    for dy in range(window):
        for dx in range(window):
            weight = tl.load(taps + dy).to(T) * tl.load(taps + dx).to(T)
            value = _see(sources, fused, at + dy * width + dx, k, mask, K, plane, scale, T) - pivot
            product = value[:, None, :] * value[None, :, :]
            sums += value
            means += weight * value
            products += product
            covariances += weight * product
    covariances -= means[:, None, :] * means[None, :, :]

    i = tl.arange(0, KP)[:, None, None]
    j = tl.arange(0, KP)[None, :, None]
    n = (window * window).to(T)
    energies = (n * products - sums[:, None, :] * sums[None, :, :]) / n
    energies = tl.where((i < K) & (j < K), energies, 0.0)
    squares = tl.sum(tl.where((i == j) & (i < K), products, 0.0), axis=1)
    norms = tl.sqrt(_positive(tl.sum(tl.where(i == j, energies, 0.0), axis=1)))
    whole = tl.sqrt(_positive(tl.sum(tl.sum(energies, axis=1), axis=0)))
    consistency = (whole + EPS) / (tl.sum(norms, axis=0) + EPS)
    gentle = consistency < STEEP_FROM
    angle = tl.where(gentle, consistency, 0.0) * 1.5707963267948966
    exponent = tl.where(gentle, tl.sin(angle) / tl.cos(angle), STEEP)[None, :]
    contrasts = norms + FLOOR
    side = tl.full([], 1.0, T) * window
    powers = tl.where(k < K, exponent * tl.log(contrasts / side), -3e38)
    largest = tl.max(powers, axis=0)[None, :]
    # Relative to the largest: the tenth power leaves the range of float32. A common factor goes out of the gain.
    even = EPS * tl.exp(tl.where(largest < -80, 80.0, -largest))
    weights = (tl.exp(powers - largest) + even) / (1 + even)
    shares = tl.where(k < K, weights / contrasts, 0.0)
    pairs = shares[:, None, :] * shares[None, :, :]
    squared = tl.sum(tl.sum(pairs * energies, axis=1), axis=0)
    gross = tl.sum(shares * tl.sqrt(squares), axis=0)
    some = squared > ROUNDING * gross * gross
    contrast = tl.max(tl.where(k < K, contrasts, 0.0), axis=0)
    gain = tl.where(some, contrast / tl.sqrt(tl.where(some, squared, 1.0)), 0.0)
    shares *= gain[None, :]
    pairs = shares[:, None, :] * shares[None, :, :]
    desired = tl.sum(tl.sum(pairs * covariances, axis=1), axis=0)
    with_fused = tl.sum(tl.where(j == K, covariances, 0.0), axis=1)
    covariance = tl.sum(shares * with_fused, axis=0)
    variance = tl.sum(tl.where(k == K, with_fused, 0.0), axis=0)
    inverse = 1.0 / (_positive(desired) + variance + c)
    return (2 * covariance + c) * inverse, inverse, shares, means, pivot


@triton.jit(do_not_specialize=["K", "height", "width", "window", "blocks"])
def means_kernel(
    sources,
    fused,
    taps,
    out,
    K,
    height,
    width,
    window,
    blocks,
    c: tl.float64,
    scale: tl.float64,
    KP: tl.constexpr,
    BLOCK: tl.constexpr,
    FLOOR: tl.constexpr,
    EPS: tl.constexpr,
    STEEP: tl.constexpr,
    STEEP_FROM: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """The sum of the quality over one block of positions."""
    T: tl.constexpr = taps.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    columns = width - window + 1
    position = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = position < (height - window + 1).to(tl.int64) * columns
    mask = inside[None, :]
    k = tl.arange(0, KP).to(tl.int64)[:, None]
    plane = height.to(tl.int64) * width
    quality, _inverse, _shares, _means, _pivot = _quality(
        sources + image * K * plane,
        fused + image * plane,
        taps,
        (position // columns * width + position % columns)[None, :],
        k,
        mask,
        K,
        plane,
        width,
        window,
        tl.full([], c, T),
        tl.full([], scale, T),
        T,
        KP,
        BLOCK,
        FLOOR,
        EPS,
        STEEP,
        STEEP_FROM,
        ROUNDING,
    )
    tl.store(out + program, tl.sum(tl.where(inside, quality, 0.0).to(tl.float64)))


@triton.jit(do_not_specialize=["K", "height", "width", "window", "blocks"])
def slopes_kernel(
    sources,
    fused,
    taps,
    upstream,
    pivots,
    slopes,
    K,
    height,
    width,
    window,
    blocks,
    c: tl.float64,
    scale: tl.float64,
    KP: tl.constexpr,
    BLOCK: tl.constexpr,
    FLOOR: tl.constexpr,
    EPS: tl.constexpr,
    STEEP: tl.constexpr,
    STEEP_FROM: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """What the quality of one block of positions owes to its pixels, on planes (N, K + 2, positions): by each source,
    by nothing, and by fused. All are about ``pivots`` (N, K + 1)."""
    T: tl.constexpr = taps.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    columns = width - window + 1
    size = (height - window + 1).to(tl.int64) * columns
    position = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = position < size
    mask = inside[None, :]
    k = tl.arange(0, KP).to(tl.int64)[:, None]
    plane = height.to(tl.int64) * width
    quality, inverse, shares, means, pivot = _quality(
        sources + image * K * plane,
        fused + image * plane,
        taps,
        (position // columns * width + position % columns)[None, :],
        k,
        mask,
        K,
        plane,
        width,
        window,
        tl.full([], c, T),
        tl.full([], scale, T),
        T,
        KP,
        BLOCK,
        FLOOR,
        EPS,
        STEEP,
        STEEP_FROM,
        ROUNDING,
    )
    means += pivot - tl.load(pivots + image * (K + 1) + k, mask=k <= K, other=0)
    twice = 2 * tl.load(upstream + image) * inverse
    by_fused = twice * quality
    # Fused is on row K: with its own factor there, one sum gives what is due to nothing.
    factors = tl.where(k == K, -by_fused[None, :], twice[None, :] * shares)
    constant = -tl.sum(tl.where(k <= K, factors * means, 0.0), axis=0)
    to = slopes + image * (K + 2) * size + position
    tl.store(to[None, :] + k * size, factors, mask=mask & (k < K))
    tl.store(to + K * size, constant, mask=inside)
    tl.store(to + (K + 1) * size, by_fused, mask=inside)


@triton.jit
def _seen(slopes, taps, y, x, rows, columns, window, T: tl.constexpr, BLOCK: tl.constexpr):
    """The weighted sum of a plane of slopes over the windows that see the pixels (y, x), tensors of one shape."""
    sums = tl.zeros([BLOCK], T)
    for dy in range(window):
        for dx in range(window):
            weight = tl.load(taps + dy).to(T) * tl.load(taps + dx).to(T)
            from_y, from_x = y - dy, x - dx
            mask = (from_y >= 0) & (from_y < rows) & (from_x >= 0) & (from_x < columns)
            sums += weight * tl.load(slopes + from_y * columns + from_x, mask=mask, other=0)
    return sums


@triton.jit(do_not_specialize=["K", "height", "width", "window", "blocks"])
def gradient_kernel(
    sources,
    fused,
    taps,
    pivots,
    slopes,
    grad,
    K,
    height,
    width,
    window,
    blocks,
    scale: tl.float64,
    BLOCK: tl.constexpr,
):
    """The gradient of one block of pixels, from the windows that see them."""
    T: tl.constexpr = taps.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    plane = height.to(tl.int64) * width
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < plane
    y, x = at // width, at % width
    rows, columns = height - window + 1, width - window + 1
    size = rows.to(tl.int64) * columns
    factor_scale = tl.full([], scale, T)
    first = slopes + image * (K + 2) * size
    total = _seen(first + K * size, taps, y, x, rows, columns, window, T, BLOCK)
    for k in range(K):
        value = tl.load(sources + (image * K + k) * plane + at, mask=inside, other=0).to(T) * factor_scale
        value -= tl.load(pivots + image * (K + 1) + k)
        total += value * _seen(first + k * size, taps, y, x, rows, columns, window, T, BLOCK)
    value = tl.load(fused + image * plane + at, mask=inside, other=0).to(T) * factor_scale
    value -= tl.load(pivots + image * (K + 1) + K)
    total -= value * _seen(first + (K + 1) * size, taps, y, x, rows, columns, window, T, BLOCK)
    _store(grad + image * plane + at, total * factor_scale, inside, 1)


def _positions(k: int) -> int:
    """Positions of a program, for k sources."""
    return min(BLOCK, MOST_VALUES // triton.next_power_of_2(k + 1) ** 2)


def _constants(dtype: torch.dtype, k: int) -> dict[str, object]:
    return {
        "KP": triton.next_power_of_2(k + 1),
        "BLOCK": _positions(k),
        "FLOOR": CONTRAST_FLOOR,
        "EPS": EPSILON,
        "STEEP": STEEPEST,
        "STEEP_FROM": LEVEL,
        "ROUNDING": CANCELLED * torch.finfo(dtype).eps,
    }


class _Level:
    """One level: fused (N, H, W) and sources (N, K, H, W), with what stands beyond their borders."""

    def __init__(self, fused: Tensor, sources: Tensor, scale: float, radius: int, border: int) -> None:
        self.size = fused.shape[-2:]
        if border != VALID:
            wide = compute_dtype(fused)
            fused, sources = (self._padded(image.to(wide), radius, border) for image in (fused, sources))
        self.fused, self.sources, self.scale = fused.contiguous(), sources.contiguous(), scale

    @staticmethod
    def _padded(image: Tensor, radius: int, border: int) -> Tensor:
        return pad_rows(pad_rows(image, radius, radius, border).mT, radius, radius, border).mT

    def arguments(self, window: int) -> tuple[int, int, int, int, int]:
        """K, height and width, window, and blocks of positions."""
        height, width = self.fused.shape[-2:]
        positions = (height - window + 1) * (width - window + 1)
        count = self.sources.shape[1]
        return count, height, width, window, triton.cdiv(positions, _positions(count))


def _levels(fused: Tensor, bracket: Tensor, data_range: float, taps: int, border: int, levels: int) -> list[_Level]:
    if bracket.shape[1] > MOST_SOURCES:
        raise ValueError(
            f"mef_ssim: backend='triton' takes at most {MOST_SOURCES} sources, got {bracket.shape[1]}; "
            "give fewer, or use another backend"
        )
    scale = RANGE / data_range / full_scale(fused.dtype)
    image, sources = fused[:, 0], bracket[:, :, 0]
    result = []
    for level in range(levels):
        if level:
            wide = compute_dtype(fused)
            image, sources = halve(image.to(wide), False), halve(sources.to(wide), False)
        result.append(_Level(image, sources, scale, taps // 2, border))
    return result


def _taps(window: list[float], like: Tensor) -> Tensor:
    return torch.tensor(window, dtype=compute_dtype(like), device=like.device)


def mef_ssim_means(
    fused: Tensor, bracket: Tensor, window: list[float], data_range: float, k: float, border: int, levels: int
) -> Tensor:
    n = fused.shape[0]
    wide = compute_dtype(fused)
    out = fused.new_empty((n, levels), dtype=wide)
    if n == 0:
        return out
    taps = _taps(window, fused)
    c = (k * RANGE) ** 2
    with on_device(fused):
        for index, level in enumerate(_levels(fused, bracket, data_range, len(window), border, levels)):
            count, height, width, size, blocks = level.arguments(len(window))
            sums = fused.new_empty((n, blocks), dtype=torch.float64)
            means_kernel[(n * blocks,)](
                level.sources,
                level.fused,
                taps,
                sums,
                count,
                height,
                width,
                size,
                blocks,
                c,
                level.scale,
                **_constants(wide, count),
            )
            out[:, index] = sums.sum(1) / ((height - size + 1) * (width - size + 1))
    return out


def _fold_rows(padded: Tensor, size: int, radius: int, border: int) -> Tensor:
    """The adjoint of padding: what stands beyond the border goes to the rows that it repeats."""
    result = padded[..., radius : radius + size, :].clone()
    for i in (*range(-radius, 0), *range(size, size + radius)):
        row = border_index(i, size, border)
        if row >= 0:
            result[..., row, :] += padded[..., i + radius, :]
    return result


def _spread_rows(coarse: Tensor, size: int) -> Tensor:
    """The adjoint of the means of two rows, of which an odd last one counts twice."""
    fine = (coarse / 2).repeat_interleave(2, -2)
    if size % 2:
        fine = torch.cat([fine[..., : size - 1, :], coarse[..., -1:, :]], -2)
    return fine


def mef_ssim_means_backward(
    grad: Tensor,
    fused: Tensor,
    bracket: Tensor,
    window: list[float],
    data_range: float,
    k: float,
    border: int,
    levels: int,
) -> Tensor:
    n = fused.shape[0]
    if n == 0:
        return torch.zeros_like(fused)
    wide = compute_dtype(fused)
    taps = _taps(window, fused)
    c, radius = (k * RANGE) ** 2, len(window) // 2
    coarser: Tensor | None = None
    with on_device(fused):
        for index, level in reversed(list(enumerate(_levels(fused, bracket, data_range, len(window), border, levels)))):
            count, height, width, size, blocks = level.arguments(len(window))
            rows, columns = height - size + 1, width - size + 1
            upstream = (grad[:, index].to(wide) / (rows * columns)).contiguous()
            means = [x.to(wide).mean((-2, -1)).view(n, -1) for x in (level.sources, level.fused)]
            pivots = torch.cat(means, 1) * level.scale
            slopes = fused.new_empty((n, count + 2, rows, columns), dtype=wide)
            slopes_kernel[(n * blocks,)](
                level.sources,
                level.fused,
                taps,
                upstream,
                pivots,
                slopes,
                count,
                height,
                width,
                size,
                blocks,
                c,
                level.scale,
                **_constants(wide, count),
            )
            own = fused.new_empty((n, height, width), dtype=wide)
            blocks = triton.cdiv(height * width, BLOCK)
            gradient_kernel[(n * blocks,)](
                level.sources,
                level.fused,
                taps,
                pivots,
                slopes,
                own,
                count,
                height,
                width,
                size,
                blocks,
                level.scale,
                BLOCK=BLOCK,
            )
            if border != VALID:
                own = _fold_rows(_fold_rows(own, level.size[0], radius, border).mT, level.size[1], radius, border).mT
            if coarser is not None:
                own = own + _spread_rows(_spread_rows(coarser, level.size[0]).mT, level.size[1]).mT
            coarser = own
    assert coarser is not None
    return coarser[:, None].to(fused.dtype)
