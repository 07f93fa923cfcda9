"""Triton kernels of ``gaussian``; arguments as in ``cpp/schema.cpp``, definition in ``hdrops.reference.gaussian``.

The filter takes two passes, along columns and then along rows, with one plane of 4-byte values (8-byte for float64) in
between; s being the size of the image type, it moves 2 s + 8 bytes per value. A window reaches a pixel of the image at
its own position and at those positions beyond the border that stand for it. With the weights of all of these added,
only pixels of the image are read, and the adjoint of the filter is the same kernel with the roles of pixel and position
exchanged: a gather, so the same input gives the same bits.

* Up to ``FIR_RADIUS``, and for float64, a pass adds up shifted tiles: 2 r + 1 products per value.
* Beyond, it is a product with the banded matrix of weights, in chunks that are made where they are used, on the tensor
  cores: three products of TF32 halves, whose error is that of float32. Zeros of the matrix would spread NaN and
  infinities; a tile that is not finite is filtered again as above.

A mask also keeps the blurred image. The second pass takes the extremes of each tile; they are reduced per image, and a
third pass maps them to 0 and 1: 2 s + 20 bytes per value. Masks are of differences from one pixel of the image, so
that a flat image stays flat to the last bit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import _divide, _store, compute_dtype, full_scale, on_device
from hdrops.kernels._windows import REPLICATE, ZEROS, _border_index, _window, continue_taps, folds, line_border

# Largest radius that is filtered by shifted tiles: 17 products cost what a chunk of the matrix product does.
FIR_RADIUS = 8
# A tile: positions along the filtered axis, lines beside each other, and pixels in a chunk of the matrix product.
POSITIONS, LINES, CHUNK = 64, 64, 32
BLOCK = 1024


# ---- the filter ----------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["radius"])
def taps_kernel(taps, radius, steepness: tl.float64, peak: tl.float64, BLOCK: tl.constexpr):
    """peak exp(-steepness i²) for i = -radius ... radius."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offset = (at - radius).to(tl.float64)
    tap = peak * tl.exp(-steepness * (offset * offset))
    tl.store(taps + at, tap.to(taps.dtype.element_ty), mask=at <= 2 * radius)


@triton.jit
def _pixels(source, index, n, line, lines, pivot, position_stride, line_stride, PIVOT: tl.constexpr, T: tl.constexpr):
    """Values of pixels of lines, relative to the pivot; 0 outside."""
    mask = (index >= 0) & (index < n) & (line < lines)
    value = tl.load(source + index.to(tl.int64) * position_stride + line * line_stride, mask=mask, other=0).to(T)
    return tl.where(mask, value - pivot, 0.0) if PIVOT else value


@triton.jit(
    do_not_specialize=["n", "lines", "outer_stride", "position_stride", "line_stride", "radius", "folds", "channels"]
)
def filter_kernel(
    source,
    out,
    lows,
    highs,
    taps,
    n,
    lines,
    outer_stride,
    position_stride,
    line_stride,
    radius,
    folds,
    channels,
    gain: tl.float64,
    BORDER: tl.constexpr,
    ADJOINT: tl.constexpr,
    ROWS: tl.constexpr,
    PRODUCT: tl.constexpr,
    PIVOT: tl.constexpr,
    EXTREMES: tl.constexpr,
    FULL_OUT: tl.constexpr,
    WIDE: tl.constexpr,
    POSITIONS: tl.constexpr,
    LINES: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Lines of n pixels, filtered, times ``gain``; element (o, i, l) of source and out is at o outer_stride +
    i position_stride + l line_stride.

    Tiles have positions across where the lines are rows, down where they are columns. PIVOT takes from all pixels of
    an image its first one, (o // channels) being the image; EXTREMES gives the least and the largest value of each
    tile.
    """
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    program = tl.program_id(0).to(tl.int64)
    down = (n + POSITIONS - 1) // POSITIONS
    across = (lines + LINES - 1) // LINES
    tiles = down * across.to(tl.int64)
    outer = program // tiles
    tile = program % tiles
    first = (tile // across).to(tl.int32) * POSITIONS
    at = first + tl.arange(0, POSITIONS)
    line = (tile % across) * LINES + tl.arange(0, LINES)
    if ROWS:
        at, line = at[None, :], line[:, None]
    else:
        at, line = at[:, None], line[None, :]
    pivot = tl.zeros([], T)
    if PIVOT:
        pivot = tl.load(source + (outer // channels) * channels * outer_stride).to(T)
        pivot = tl.where(tl.abs(pivot) < float("inf"), pivot, 0.0)
    base = source + outer * outer_stride
    # The adjoint asks which windows hold a pixel: mirrored without its edge, one at the border reaches a pixel further.
    reach = radius + 1 if ADJOINT else radius
    folds = tl.where((first >= reach) & (first + POSITIONS + reach <= n), 0, folds)

    value = tl.zeros([LINES, POSITIONS], T) if ROWS else tl.zeros([POSITIONS, LINES], T)
    wild = 1
    if PRODUCT:
        for begin in range(tl.maximum(first - radius, 0), tl.minimum(first + POSITIONS + radius, n), CHUNK):
            index = begin + tl.arange(0, CHUNK)
            index = index[:, None] if ROWS else index[None, :]
            if ADJOINT:
                weight = _window(at, index, n, taps, 2 * radius + 1, radius, folds, BORDER)
            else:
                weight = _window(index, at, n, taps, 2 * radius + 1, radius, folds, BORDER)
            if ROWS:
                pixel = _pixels(base, tl.trans(index), n, line, lines, pivot, position_stride, line_stride, PIVOT, T)
                value = tl.dot(pixel, weight, value, input_precision="tf32x3")
            else:
                pixel = _pixels(base, tl.trans(index), n, line, lines, pivot, position_stride, line_stride, PIVOT, T)
                value = tl.dot(weight, pixel, value, input_precision="tf32x3")
        finite = (tl.abs(value) < float("inf")).to(tl.int32)
        wild = 1 - tl.min(tl.min(finite, 1), 0)
    if wild > 0:
        value = tl.zeros(value.shape, T)
        for tap in range(-radius, radius + 1):
            if ADJOINT:
                index = at + tap
                weight = _window(at, index, n, taps, 2 * radius + 1, radius, folds, BORDER)
            else:
                index = _border_index(at + tap, n, BORDER)
                weight = tl.load(taps + radius + tap)
            value += weight * _pixels(base, index, n, line, lines, pivot, position_stride, line_stride, PIVOT, T)

    value *= tl.full([], gain, T)
    mask = (at < n) & (line < lines)
    _store(out + outer * outer_stride + at.to(tl.int64) * position_stride + line * line_stride, value, mask, FULL_OUT)
    if EXTREMES:
        unknown = tl.max(tl.max((mask & (value != value)).to(tl.int32), 1), 0) > 0
        low = tl.min(tl.min(tl.where(mask, value, float("inf")), 1), 0)
        high = tl.max(tl.max(tl.where(mask, value, float("-inf")), 1), 0)
        tl.store(lows + program, tl.where(unknown, float("nan"), low))
        tl.store(highs + program, tl.where(unknown, float("nan"), high))


class _Gaussian(NamedTuple):
    """A window on the device, and its border."""

    taps: Tensor
    radius: int
    border: int


def _gaussian(image: Tensor, sigma: float, radius: int, border: int) -> _Gaussian:
    dtype = compute_dtype(image)
    # Beyond, taps vanish beside those before them: the reach of the other backends.
    radius = min(radius, math.ceil((39 if dtype == torch.float64 else 5.5) * sigma))
    steepness = 0.5 / sigma**2
    peak = 1 / math.fsum(math.exp(-steepness * i * i) for i in range(-radius, radius + 1))
    size = 2 * radius + 1
    continued = REPLICATE in (line_border(n, border) for n in image.shape[2:])
    taps = image.new_empty(2 * size if continued else size, dtype=dtype)
    taps_kernel[(triton.cdiv(size, BLOCK),)](taps, radius, steepness, peak, BLOCK=BLOCK)
    if continued:
        continue_taps(taps, size)
    return _Gaussian(taps, radius, border)


def _filter(
    source: Tensor,
    out: Tensor,
    rows: bool,
    window: _Gaussian,
    *,
    adjoint: bool = False,
    gain: float = 1.0,
    pivot: bool = False,
    extremes: bool = False,
) -> tuple[Tensor, Tensor]:
    """One pass over (N, C, H, W), along rows or columns; the extremes of each image's tiles, where asked for."""
    images, c, h, w = source.shape
    n, lines, outer, strides = (w, c * h, images, (c * h * w, 1, w)) if rows else (h, w, images * c, (h * w, w, 1))
    border = line_border(n, window.border)
    dtype = compute_dtype(source)
    grid = (outer * triton.cdiv(n, POSITIONS) * triton.cdiv(lines, LINES),)
    # Unused without extremes; of a type that does not make another variant.
    lows, highs = source.new_empty((2, images, grid[0] // images if extremes else 1), dtype=dtype)
    filter_kernel[grid](
        source,
        out,
        lows,
        highs,
        window.taps,
        n,
        lines,
        *strides,
        window.radius,
        folds(n, window.radius, border),
        c,
        gain,
        BORDER=border,
        ADJOINT=adjoint,
        ROWS=rows,
        PRODUCT=window.radius > FIR_RADIUS and dtype != torch.float64,
        PIVOT=pivot,
        EXTREMES=extremes,
        FULL_OUT=full_scale(out.dtype),
        WIDE=dtype == torch.float64,
        POSITIONS=POSITIONS,
        LINES=LINES,
        CHUNK=CHUNK,
        num_warps=8,
    )
    return lows, highs


# ---- the blurred image ---------------------------------------------------------------------------------------------


def gaussian_blur(image: Tensor, sigma: float, radius: int, border: int, dtype: torch.dtype | None = None) -> Tensor:
    out = image.new_empty(image.shape, dtype=dtype or image.dtype)
    gaussian_blur_out(image, sigma, radius, border, out)
    return out


def gaussian_blur_out(image: Tensor, sigma: float, radius: int, border: int, out: Tensor) -> None:
    if image.numel() == 0:
        return
    image = image.contiguous()
    with on_device(image):
        window = _gaussian(image, sigma, radius, border)
        columns = image.new_empty(image.shape, dtype=compute_dtype(image))
        _filter(image, columns, False, window)
        _filter(columns, out, True, window, gain=full_scale(out.dtype) / full_scale(image.dtype))


def gaussian_blur_backward(grad: Tensor, sigma: float, radius: int, border: int) -> Tensor:
    out = grad.new_empty(grad.shape)
    if grad.numel() == 0:
        return out
    with on_device(grad):
        window = _gaussian(grad, sigma, radius, border)
        rows = grad.new_empty(grad.shape, dtype=compute_dtype(grad))
        _filter(grad.contiguous(), rows, True, window, adjoint=True)
        _filter(rows, out, False, window, adjoint=True)
    return out


# ---- the mask ------------------------------------------------------------------------------------------------------


@triton.jit
def _share(blurred, low, high):
    """Eq. 4; 1 where the extremes are equal."""
    flat = low == high
    return tl.where(flat, 1.0, _divide(blurred - low, tl.where(flat, 1.0, high - low)))


@triton.jit(do_not_specialize=["size"])
def mask_kernel(blurred, lows, highs, out, size, INVERT: tl.constexpr, FULL: tl.constexpr, BLOCK: tl.constexpr):
    """Eq. 4 or 5 of images of ``size`` values."""
    program = tl.program_id(0).to(tl.int64)
    blocks = (size + BLOCK - 1) // BLOCK
    image = program // blocks
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    low, high = tl.load(lows + image), tl.load(highs + image)
    share = _share(tl.load(blurred + image * size + at, mask=mask, other=0), low, high)
    if INVERT:
        share = tl.where(low == high, share, 1 - share)
    _store(out + image * size + at, share * FULL, mask, FULL)


@triton.jit(do_not_specialize=["size"])
def extremes_gradient_kernel(grad, blurred, lows, highs, sums, size, BLOCK: tl.constexpr):
    """Of each block: the sums of the gradient and of its product with the mask, and the pixels at either extreme."""
    program = tl.program_id(0).to(tl.int64)
    blocks = (size + BLOCK - 1) // BLOCK
    image = program // blocks
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    low, high = tl.load(lows + image), tl.load(highs + image)
    value = tl.load(blurred + image * size + at, mask=mask, other=0)
    upstream = tl.load(grad + image * size + at, mask=mask, other=0).to(value.dtype)
    tl.store(sums + program * 4, tl.sum(upstream, 0).to(tl.float64))
    tl.store(sums + program * 4 + 1, tl.sum(upstream * _share(value, low, high), 0).to(tl.float64))
    tl.store(sums + program * 4 + 2, tl.sum((mask & (value == low)).to(tl.int32), 0).to(tl.float64))
    tl.store(sums + program * 4 + 3, tl.sum((mask & (value == high)).to(tl.int32), 0).to(tl.float64))


@triton.jit(do_not_specialize=["size"])
def mask_gradient_kernel(grad, blurred, lows, highs, sums, size, INVERT: tl.constexpr, BLOCK: tl.constexpr):
    """The gradient of the blurred image, which it replaces.

    With M = (b - low) / (high - low): dM / db = 1 / (high - low), dM / dlow = (M - 1) / (high - low) and
    dM / dhigh = -M / (high - low), which the pixels at the extreme share.
    """
    program = tl.program_id(0).to(tl.int64)
    blocks = (size + BLOCK - 1) // BLOCK
    image = program // blocks
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    low, high = tl.load(lows + image), tl.load(highs + image)
    value = tl.load(blurred + image * size + at, mask=mask, other=0)
    upstream = tl.load(grad + image * size + at, mask=mask, other=0).to(value.dtype)
    total, weighed = tl.load(sums + image * 4), tl.load(sums + image * 4 + 1)
    at_low, at_high = tl.load(sums + image * 4 + 2), tl.load(sums + image * 4 + 3)
    to_low = ((weighed - total) / tl.where(at_low > 0, at_low, 1.0)).to(value.dtype)
    to_high = (-weighed / tl.where(at_high > 0, at_high, 1.0)).to(value.dtype)
    upstream += tl.where(value == low, to_low, 0.0) + tl.where(value == high, to_high, 0.0)
    flat = low == high
    spread = tl.where(flat, 1.0, high - low)
    result = tl.where(flat, 0.0, upstream / (-spread if INVERT else spread))
    tl.store(blurred + image * size + at, result, mask=mask)


def _blurred(image: Tensor, window: _Gaussian) -> tuple[Tensor, Tensor, Tensor]:
    """The blurred image, relative to one of its pixels, and the extremes of each image."""
    columns = image.new_empty(image.shape, dtype=compute_dtype(image))
    blurred = torch.empty_like(columns)
    # Beyond the border there may be zeros, which are not relative to anything.
    _filter(image, columns, False, window, pivot=window.border != ZEROS)
    lows, highs = _filter(columns, blurred, True, window, extremes=True)
    return blurred, lows.amin(1), highs.amax(1)


def gaussian_mask(
    image: Tensor, sigma: float, radius: int, border: int, invert: bool, dtype: torch.dtype | None = None
) -> Tensor:
    out = image.new_empty(image.shape, dtype=dtype or image.dtype)
    gaussian_mask_out(image, sigma, radius, border, invert, out)
    return out


def gaussian_mask_out(image: Tensor, sigma: float, radius: int, border: int, invert: bool, out: Tensor) -> None:
    if image.numel() == 0:
        return
    image = image.contiguous()
    size = image[0].numel()
    with on_device(image):
        window = _gaussian(image, sigma, radius, border)
        blurred, lows, highs = _blurred(image, window)
        mask_kernel[(len(image) * triton.cdiv(size, BLOCK),)](
            blurred, lows, highs, out, size, INVERT=invert, FULL=full_scale(out.dtype), BLOCK=BLOCK
        )


def gaussian_mask_backward(grad: Tensor, image: Tensor, sigma: float, radius: int, border: int, invert: bool) -> Tensor:
    out = image.new_empty(image.shape)
    if image.numel() == 0:
        return out
    image, grad = image.contiguous(), grad.contiguous()
    size = image[0].numel()
    blocks = triton.cdiv(size, BLOCK)
    grid = (len(image) * blocks,)
    with on_device(image):
        window = _gaussian(image, sigma, radius, border)
        blurred, lows, highs = _blurred(image, window)
        parts = image.new_empty((len(image), blocks, 4), dtype=torch.float64)
        extremes_gradient_kernel[grid](grad, blurred, lows, highs, parts, size, BLOCK=BLOCK)
        mask_gradient_kernel[grid](grad, blurred, lows, highs, parts.sum(1), size, INVERT=invert, BLOCK=BLOCK)
        rows = torch.empty_like(blurred)
        _filter(blurred, rows, True, window, adjoint=True)
        _filter(rows, out, False, window, adjoint=True)
    return out
