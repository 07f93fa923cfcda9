"""Triton kernels of ``exposure_fusion``; arguments as in ``cpp/schema.cpp``, definition in
``hdrops.reference.exposure_fusion``.

Forward, for K exposures of P pixels and C channels of s bytes, in 4-byte arithmetic (8-byte for float64); all
levels above the finest together have P / 3 pixels:

1. weights: measures and their normalisation, from the codes; reads s K C P and writes 4 K P bytes.
2. down, one launch per level (two for the first: codes and weights); reads (s C + 4) K P bytes at the finest
   level and 4/3 (C + 1) K P in all others, writes 4/3 (C + 1) K P.
3. collapse, one launch per level from coarse to fine, fused with the blend and at the finest level with
   clamping and rounding: result_l = up(result_l+1) + sum_k weight_kl (image_kl - up(image_k,l+1)). Reads the
   codes, weights and coarser levels once more and writes s C P bytes; Laplacian bands are never stored.

Backward: the adjoint of each step, as a gather, so the same input gives the same bits; the pyramid of the
forward pass is built again from the bracket.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import _divide, _store, compute_dtype, full_scale, on_device

TWO_SIGMA_SQUARED = 0.08

# Sizes of pyramid levels take many values: a kernel compiled for each residue or alignment would not pay.
_SIZES = ["planes", "exposures", "h", "w", "hc", "wc", "hf", "wf"]
_POINTERS = [
    "images",
    "weights",
    "source",
    "out",
    "coarse",
    "result",
    "grad",
    "coarse_grad",
    "fine_weights",
    "fine_grad",
    "weight_grads",
    "shares",
    "slopes",
]


def _kernel(function):
    """A launch entry."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return triton.jit(
        function,
        do_not_specialize=[name for name in names if name in _SIZES],
        do_not_specialize_on_alignment=[name for name in names if name in _POINTERS],
    )


# ---- tiles and taps ----------------------------------------------------------------------------------------


@triton.jit
def _tile(h, w, PLANES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Planes, rows and columns of this program, (PLANES, 1, 1), (1, ROWS, 1) and (1, 1, COLUMNS)."""
    program = tl.program_id(0).to(tl.int64)
    across = (w + COLUMNS - 1) // COLUMNS
    tiles = across * ((h + ROWS - 1) // ROWS).to(tl.int64)
    tile = program % tiles
    plane = (program // tiles) * PLANES + tl.arange(0, PLANES)[:, None, None]
    y = (tile // across) * ROWS + tl.arange(0, ROWS)[None, :, None]
    x = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)[None, None, :]
    return plane, y, x


@triton.jit
def _up_taps(y, coarse, T: tl.constexpr):
    """Rows of the coarser level that make row y, and their weights; the rows also serve for columns.

    Even rows (1, 6, 1) / 8, odd rows (4, 4) / 8; the row before the first is the second, the row after the
    last the last.
    """
    middle = y // 2
    odd = y % 2 == 1
    above = tl.where(odd, middle, tl.where(middle == 0, tl.minimum(coarse - 1, 1), middle - 1))
    below = tl.minimum(middle + 1, coarse - 1)
    side = tl.where(odd, 0.5, 0.125).to(T)
    return above, middle, below, tl.where(odd, 0.0, 0.125).to(T), tl.where(odd, 0.5, 0.75).to(T), side


@triton.jit
def _down_adjoint_taps(y, size, coarse, T: tl.constexpr):
    """Rows of the coarser level that row y went into, and with which weights; mirrored taps are folded in."""
    middle = y // 2
    odd = y % 2 == 1
    odd_size = size % 2 == 1
    above = tl.where(odd | (middle == 0), 0, 1) + tl.where((y == 2) & (size > 2), 1, 0)
    centre = tl.where(odd, 4, 6) + tl.where(y == 1, 4, 0) + tl.where((y == 0) & (size == 2), 1, 0)
    centre += tl.where((y == size - 2) & (odd_size == 0), 1, 0)
    below = tl.where(odd, 4, 1) + tl.where(odd_size & (y == size - 2), 4, 0)
    below += tl.where(odd_size & (y == size - 3), 1, 0)
    below = tl.where(middle + 1 < coarse, below, 0)
    return (
        tl.where(above > 0, middle - 1, middle),
        middle,
        tl.where(below > 0, middle + 1, middle),
        above.to(T) * 0.0625,
        centre.to(T) * 0.0625,
        below.to(T) * 0.0625,
    )


@triton.jit
def _gather_3x3(pointer, rows, columns, width, mask):
    """Sum over three rows and three columns, as the two functions above give them."""
    y0, y1, y2, a0, a1, a2 = rows
    x0, x1, x2, b0, b1, b2 = columns
    above, centre, below = pointer + y0 * width, pointer + y1 * width, pointer + y2 * width
    first = b0 * tl.load(above + x0, mask=mask, other=0)
    first += b1 * tl.load(above + x1, mask=mask, other=0)
    first += b2 * tl.load(above + x2, mask=mask, other=0)
    second = b0 * tl.load(centre + x0, mask=mask, other=0)
    second += b1 * tl.load(centre + x1, mask=mask, other=0)
    second += b2 * tl.load(centre + x2, mask=mask, other=0)
    third = b0 * tl.load(below + x0, mask=mask, other=0)
    third += b1 * tl.load(below + x1, mask=mask, other=0)
    third += b2 * tl.load(below + x2, mask=mask, other=0)
    return a0 * first + a1 * second + a2 * third


@triton.jit
def _up_adjoint_taps(i, size, coarse, T: tl.constexpr):
    """Rows 2 i - 2 to 2 i + 2 of the finer level, made from row i, and their weights, borders folded in."""
    y = 2 * i
    last = i == coarse - 1
    w0 = tl.where(i == 0, 0, tl.where(i == 1, 2, 1))
    w1 = tl.where(i == 0, 0, 4)
    w2 = 6 + tl.where(last, 1, 0) + tl.where(coarse == 1, 1, 0)
    w3 = tl.where(y + 1 < size, tl.where(last, 8, 4), 0)
    w4 = tl.where(y + 2 < size, 1, 0)
    return (
        tl.where(w0 > 0, y - 2, y),
        tl.where(w1 > 0, y - 1, y),
        y,
        tl.where(w3 > 0, y + 1, y),
        tl.where(w4 > 0, y + 2, y),
        w0.to(T) * 0.125,
        w1.to(T) * 0.125,
        w2.to(T) * 0.125,
        w3.to(T) * 0.125,
        w4.to(T) * 0.125,
    )


# ---- measures ----------------------------------------------------------------------------------------------


@triton.jit
def _grey(images, at, size, mask, CHANNELS: tl.constexpr, FULL: tl.constexpr, OPENCV: tl.constexpr, T: tl.constexpr):
    """0.299 R + 0.587 G + 0.114 B at the pixels `at` of channel 0; one channel is itself."""
    grey = tl.load(images + at, mask=mask, other=0).to(T)
    if FULL > 1:
        grey = grey * (1.0 / FULL)
    if CHANNELS == 3:
        g = tl.load(images + at + size, mask=mask, other=0).to(T)
        b = tl.load(images + at + 2 * size, mask=mask, other=0).to(T)
        if FULL > 1:
            g = g * (1.0 / FULL)
            b = b * (1.0 / FULL)
        green = 0.587 * g
        grey = tl.fma(b, 0.114, tl.fma(grey, 0.299, green)) if OPENCV else 0.299 * grey + green + 0.114 * b
    return grey


@triton.jit
def _power(x, exponent, MODE: tl.constexpr):
    """x ** exponent for x >= 0; MODE 0 and 1 are the exponents 0 and 1."""
    power = x
    if MODE == 0:
        power = tl.full(x.shape, 1.0, x.dtype)
    if MODE == 2:
        positive = x > 0
        power = tl.exp2(tl.full([], exponent, x.dtype) * tl.log2(tl.where(positive, x, 1.0)))
        power = tl.where(positive, power, 0.0 * x)
    return power


@triton.jit
def _measures(
    images,
    plane,
    y,
    x,
    h,
    w,
    mask,
    contrast,
    saturation,
    steepness,
    CONTRAST: tl.constexpr,
    SATURATION: tl.constexpr,
    EXPOSEDNESS: tl.constexpr,
    CHANNELS: tl.constexpr,
    FULL: tl.constexpr,
    OPENCV: tl.constexpr,
    T: tl.constexpr,
):
    """Laplacian, C^contrast, S, S^saturation, E^exposedness and the channels of pixels of (n, k) planes.

    Kernels that call this are launched without contraction of products and sums: where the channels are equal
    their differences must be 0, and OpenCV's rounding noise is part of its result.
    """
    size = h.to(tl.int64) * w
    channel = plane * (CHANNELS * size)
    r = tl.load(images + channel + y * w + x, mask=mask, other=0).to(T)
    if FULL > 1:
        r = r * (1.0 / FULL)
    g, b = r, r
    if CHANNELS == 3:
        g = tl.load(images + channel + size + y * w + x, mask=mask, other=0).to(T)
        b = tl.load(images + channel + 2 * size + y * w + x, mask=mask, other=0).to(T)
        if FULL > 1:
            g = g * (1.0 / FULL)
            b = b * (1.0 / FULL)

    laplacian = tl.zeros(r.shape, T)
    contrasted = tl.full(r.shape, 1.0, T)
    if CONTRAST > 0:
        above = tl.where(y > 0, y - 1, tl.minimum(h - 1, 1))
        below = tl.where(y < h - 1, y + 1, tl.maximum(h - 2, 0))
        left = tl.where(x > 0, x - 1, tl.minimum(w - 1, 1))
        right = tl.where(x < w - 1, x + 1, tl.maximum(w - 2, 0))
        centre = r
        if CHANNELS == 3:
            green = 0.587 * g
            centre = tl.fma(b, 0.114, tl.fma(r, 0.299, green)) if OPENCV else 0.299 * r + green + 0.114 * b
        laplacian = _grey(images, channel + above * w + x, size, mask, CHANNELS, FULL, OPENCV, T)
        laplacian += _grey(images, channel + y * w + left, size, mask, CHANNELS, FULL, OPENCV, T)
        laplacian -= 4 * centre
        laplacian += _grey(images, channel + y * w + right, size, mask, CHANNELS, FULL, OPENCV, T)
        laplacian += _grey(images, channel + below * w + x, size, mask, CHANNELS, FULL, OPENCV, T)
        contrasted = _power(tl.abs(laplacian), contrast, CONTRAST)

    colour = tl.zeros(r.shape, T)
    coloured = tl.full(r.shape, 1.0, T)
    if SATURATION > 0:
        if OPENCV:
            mean = (r + g + b) * (1.0 / 3.0)
            spread = (r - mean) * (r - mean) + (g - mean) * (g - mean) + (b - mean) * (b - mean)
        else:
            spread = ((r - g) * (r - g) + (g - b) * (g - b) + (b - r) * (b - r)) / 9.0
        colour = tl.sqrt_rn(spread) if spread.dtype == tl.float32 else tl.sqrt(spread)
        coloured = _power(colour, saturation, SATURATION)

    exposed = tl.full(r.shape, 1.0, T)
    if EXPOSEDNESS:
        distance = (r - 0.5) * (r - 0.5)
        if CHANNELS == 3:
            distance += (g - 0.5) * (g - 0.5)
            distance += (b - 0.5) * (b - 0.5)
        exposed = tl.exp(-tl.full([], steepness, T) * distance)
    return laplacian, contrasted, colour, coloured, exposed, r, g, b


# ---- forward -----------------------------------------------------------------------------------------------


@_kernel
def weights_kernel(
    images,
    weights,
    exposures,
    h,
    w,
    contrast: tl.float64,
    saturation: tl.float64,
    steepness: tl.float64,
    CONTRAST: tl.constexpr,
    SATURATION: tl.constexpr,
    EXPOSEDNESS: tl.constexpr,
    CHANNELS: tl.constexpr,
    FULL: tl.constexpr,
    OPENCV: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Normalised weights (N, K, H, W). A tile holds all exposures (PLANES >= K) of pixels of one image."""
    T: tl.constexpr = weights.dtype.element_ty
    k, y, x = _tile(h, w, PLANES, ROWS, COLUMNS)
    image = (k - tl.arange(0, PLANES)[:, None, None]) // PLANES
    k = tl.arange(0, PLANES)[:, None, None]
    plane = image * exposures + k
    mask = (k < exposures) & (y < h) & (x < w)
    _, contrasted, _, coloured, exposed, _, _, _ = _measures(
        images,
        plane,
        y,
        x,
        h,
        w,
        mask,
        contrast,
        saturation,
        steepness,
        CONTRAST,
        SATURATION,
        EXPOSEDNESS,
        CHANNELS,
        FULL,
        OPENCV,
        T,
    )
    weight = tl.where(k < exposures, contrasted * coloured * exposed + 1e-12, 0.0)
    total = tl.sum(weight, 0)[None, :, :]
    tl.store(weights + plane * (h.to(tl.int64) * w) + y * w + x, _divide(weight, total), mask=mask)


@_kernel
def down_kernel(
    source,
    out,
    planes,
    h,
    w,
    hc,
    wc,
    FULL: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """(planes, h, w) to (planes, hc, wc): binomial filter, every second row and column; codes scaled."""
    T: tl.constexpr = out.dtype.element_ty
    plane, y, x = _tile(hc, wc, PLANES, ROWS, COLUMNS)
    mask = (plane < planes) & (y < hc) & (x < wc)
    base = source + plane * (h.to(tl.int64) * w)
    total = tl.zeros([PLANES, ROWS, COLUMNS], T)
    for j in tl.static_range(5):
        # Mirrored without repeating the edge; two rows mirror twice.
        row = tl.abs(2 * y + (j - 2))
        row = tl.where(row < h, row, tl.abs(2 * h - 2 - row))
        line = tl.zeros([PLANES, ROWS, COLUMNS], T)
        for i in tl.static_range(5):
            column = tl.abs(2 * x + (i - 2))
            column = tl.where(column < w, column, tl.abs(2 * w - 2 - column))
            value = tl.load(base + row * w + column, mask=mask, other=0).to(T)
            line += (6 if i == 2 else (4 if i % 2 == 1 else 1)) * value
        total += (6 if j == 2 else (4 if j % 2 == 1 else 1)) * line
    total = total * (1.0 / (256.0 * FULL))
    tl.store(out + plane * (hc.to(tl.int64) * wc) + y * wc + x, total, mask=mask)


@_kernel
def collapse_kernel(
    images,
    weights,
    coarse,
    result,
    grad,
    out,
    planes,
    exposures,
    h,
    w,
    hc,
    wc,
    CHANNELS: tl.constexpr,
    FULL_IN: tl.constexpr,
    FULL_OUT: tl.constexpr,
    COARSEST: tl.constexpr,
    CLAMP: tl.constexpr,
    MASK_GRAD: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One level of the result, of planes (n, c), from the images (N, K, C) and weights (N, K) of this level,
    the images of the coarser level and the result so far.

    CLAMP limits it to [0, 1]; MASK_GRAD writes the incoming gradient instead, 0 where the result is clamped.
    """
    T: tl.constexpr = weights.dtype.element_ty
    plane, y, x = _tile(h, w, PLANES, ROWS, COLUMNS)
    mask = (plane < planes) & (y < h) & (x < w)
    size = h.to(tl.int64) * w
    coarse_size = hc.to(tl.int64) * wc
    image = plane // CHANNELS
    channel = plane % CHANNELS
    rows = _up_taps(y, hc, T)
    columns = _up_taps(x, wc, T)
    total = tl.zeros([PLANES, ROWS, COLUMNS], T)
    if not COARSEST:
        total = _gather_3x3(result + plane * coarse_size, rows, columns, wc, mask)
    for k in range(exposures):
        source = (image * exposures + k) * CHANNELS + channel
        band = tl.load(images + source * size + y * w + x, mask=mask, other=0).to(T)
        if FULL_IN > 1:
            band = band * (1.0 / FULL_IN)
        if not COARSEST:
            band -= _gather_3x3(coarse + source * coarse_size, rows, columns, wc, mask)
        weight = tl.load(weights + (image * exposures + k) * size + y * w + x, mask=mask, other=0)
        total += weight * band
    at = plane * size + y * w + x
    if MASK_GRAD:
        upstream = tl.load(grad + at, mask=mask, other=0).to(T)
        total = tl.where((total >= 0) & (total <= 1), upstream, 0.0)
    elif CLAMP:
        total = tl.where(total < 0, 0.0, tl.where(total > 1, 1.0, total))
    if FULL_OUT > 1:
        total = total * FULL_OUT
    _store(out + at, total, mask, FULL_OUT)


# ---- backward ----------------------------------------------------------------------------------------------


@_kernel
def up_adjoint_kernel(
    source, out, planes, h, w, hc, wc, PLANES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Adjoint of one pyramid level up: (planes, h, w) to (planes, hc, wc)."""
    T: tl.constexpr = out.dtype.element_ty
    plane, y, x = _tile(hc, wc, PLANES, ROWS, COLUMNS)
    mask = (plane < planes) & (y < hc) & (x < wc)
    base = source + plane * (h.to(tl.int64) * w)
    rows = _up_adjoint_taps(y, h, hc, T)
    columns = _up_adjoint_taps(x, w, wc, T)
    total = tl.zeros([PLANES, ROWS, COLUMNS], T)
    for j in tl.static_range(5):
        line = tl.zeros([PLANES, ROWS, COLUMNS], T)
        for i in tl.static_range(5):
            line += columns[5 + i] * tl.load(base + rows[j] * w + columns[i], mask=mask, other=0)
        total += rows[5 + j] * line
    tl.store(out + plane * (hc.to(tl.int64) * wc) + y * wc + x, total, mask=mask)


@_kernel
def weight_gradient_kernel(
    images,
    coarse,
    grad,
    coarse_grad,
    out,
    planes,
    exposures,
    h,
    w,
    hc,
    wc,
    CHANNELS: tl.constexpr,
    COARSEST: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradient of the weights (N, K) of one level: grad (N, C) times bands, plus that of the coarser level."""
    T: tl.constexpr = out.dtype.element_ty
    plane, y, x = _tile(h, w, PLANES, ROWS, COLUMNS)
    mask = (plane < planes) & (y < h) & (x < w)
    size = h.to(tl.int64) * w
    coarse_size = hc.to(tl.int64) * wc
    total = tl.zeros([PLANES, ROWS, COLUMNS], T)
    if not COARSEST:
        rows = _down_adjoint_taps(y, h, hc, T)
        columns = _down_adjoint_taps(x, w, wc, T)
        total = _gather_3x3(coarse_grad + plane * coarse_size, rows, columns, wc, mask)
    up_rows = _up_taps(y, hc, T)
    up_columns = _up_taps(x, wc, T)
    for c in range(CHANNELS):
        source = plane * CHANNELS + c
        band = tl.load(images + source * size + y * w + x, mask=mask, other=0).to(T)
        if not COARSEST:
            band -= _gather_3x3(coarse + source * coarse_size, up_rows, up_columns, wc, mask)
        upstream = plane // exposures * CHANNELS + c
        total += tl.load(grad + upstream * size + y * w + x, mask=mask, other=0) * band
    tl.store(out + plane * size + y * w + x, total, mask=mask)


@_kernel
def image_gradient_kernel(
    weights,
    grad,
    fine_weights,
    fine_grad,
    coarse_grad,
    out,
    planes,
    exposures,
    h,
    w,
    hc,
    wc,
    hf,
    wf,
    CHANNELS: tl.constexpr,
    COARSEST: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradient of the images (N, K, C) of one level above the finest: weight times grad of this level, less
    what the bands of the finer level subtracted, plus that of the coarser level."""
    T: tl.constexpr = out.dtype.element_ty
    plane, y, x = _tile(h, w, PLANES, ROWS, COLUMNS)
    mask = (plane < planes) & (y < h) & (x < w)
    size = h.to(tl.int64) * w
    fine_size = hf.to(tl.int64) * wf
    exposure = plane // CHANNELS
    upstream = exposure // exposures * CHANNELS + plane % CHANNELS
    total = tl.load(weights + exposure * size + y * w + x, mask=mask, other=0)
    total *= tl.load(grad + upstream * size + y * w + x, mask=mask, other=0)
    if not COARSEST:
        rows = _down_adjoint_taps(y, h, hc, T)
        columns = _down_adjoint_taps(x, w, wc, T)
        total += _gather_3x3(coarse_grad + plane * (hc.to(tl.int64) * wc), rows, columns, wc, mask)
    fine_rows = _up_adjoint_taps(y, hf, h, T)
    fine_columns = _up_adjoint_taps(x, wf, w, T)
    weight_base = fine_weights + exposure * fine_size
    grad_base = fine_grad + upstream * fine_size
    for j in tl.static_range(5):
        line = tl.zeros([PLANES, ROWS, COLUMNS], T)
        for i in tl.static_range(5):
            at = fine_rows[j] * wf + fine_columns[i]
            band = tl.load(weight_base + at, mask=mask, other=0) * tl.load(grad_base + at, mask=mask, other=0)
            line += fine_columns[5 + i] * band
        total -= fine_rows[5 + j] * line
    tl.store(out + plane * size + y * w + x, total, mask=mask)


@_kernel
def measure_gradient_kernel(
    images,
    weight_grads,
    shares,
    slopes,
    exposures,
    h,
    w,
    contrast: tl.float64,
    saturation: tl.float64,
    steepness: tl.float64,
    CONTRAST: tl.constexpr,
    SATURATION: tl.constexpr,
    EXPOSEDNESS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OPENCV: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradients of the weights before normalisation (shares) and of the Laplacian (slopes)."""
    T: tl.constexpr = shares.dtype.element_ty
    k, y, x = _tile(h, w, PLANES, ROWS, COLUMNS)
    image = (k - tl.arange(0, PLANES)[:, None, None]) // PLANES
    k = tl.arange(0, PLANES)[:, None, None]
    plane = image * exposures + k
    mask = (k < exposures) & (y < h) & (x < w)
    laplacian, contrasted, _, coloured, exposed, _, _, _ = _measures(
        images,
        plane,
        y,
        x,
        h,
        w,
        mask,
        contrast,
        saturation,
        steepness,
        CONTRAST,
        SATURATION,
        EXPOSEDNESS,
        CHANNELS,
        1,
        OPENCV,
        T,
    )
    at = plane * (h.to(tl.int64) * w) + y * w + x
    upstream = tl.load(weight_grads + at, mask=mask, other=0)
    weight = tl.where(k < exposures, contrasted * coloured * exposed + 1e-12, 0.0)
    total = tl.sum(weight, 0)[None, :, :]
    mean = tl.sum(weight * upstream, 0)[None, :, :] / total
    share = (upstream - mean) / total
    tl.store(shares + at, share, mask=mask)
    if CONTRAST > 0:
        # d |L|^a / dL = a |L|^a / L, and 0 at L = 0.
        some = laplacian != 0
        slope = tl.full([], contrast, T) * contrasted / tl.where(some, laplacian, 1.0)
        tl.store(slopes + at, tl.where(some, share * coloured * exposed * slope, 0.0), mask=mask)


@_kernel
def bracket_gradient_kernel(
    images,
    weights,
    grad,
    coarse_grad,
    shares,
    slopes,
    out,
    planes,
    exposures,
    h,
    w,
    hc,
    wc,
    contrast: tl.float64,
    saturation: tl.float64,
    steepness: tl.float64,
    CONTRAST: tl.constexpr,
    SATURATION: tl.constexpr,
    EXPOSEDNESS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OPENCV: tl.constexpr,
    COARSEST: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradient of the bracket: through the blend, the coarser levels, and the three measures."""
    T: tl.constexpr = weights.dtype.element_ty
    plane, y, x = _tile(h, w, PLANES, ROWS, COLUMNS)
    mask = (plane < planes) & (y < h) & (x < w)
    size = h.to(tl.int64) * w
    _, contrasted, colour, coloured, exposed, r, g, b = _measures(
        images,
        plane,
        y,
        x,
        h,
        w,
        mask,
        contrast,
        saturation,
        steepness,
        CONTRAST,
        SATURATION,
        EXPOSEDNESS,
        CHANNELS,
        1,
        OPENCV,
        T,
    )
    at = plane * size + y * w + x
    weight = tl.load(weights + at, mask=mask, other=0)
    share = tl.load(shares + at, mask=mask, other=0)

    to_grey = tl.zeros([PLANES, ROWS, COLUMNS], T)
    if CONTRAST > 0:
        # The adjoint of the Laplacian; a neighbour that mirrors onto this pixel counts twice.
        above = tl.where(y > 0, 1, 0) + tl.where(y == 1, 1, 0)
        below = tl.where(y < h - 1, 1, 0) + tl.where((y == h - 2), 1, 0)
        left = tl.where(x > 0, 1, 0) + tl.where(x == 1, 1, 0)
        right = tl.where(x < w - 1, 1, 0) + tl.where((x == w - 2), 1, 0)
        centre = tl.where(h == 1, 2, 0) + tl.where(w == 1, 2, 0) - 4
        to_grey = centre.to(T) * tl.load(slopes + at, mask=mask, other=0)
        to_grey += above.to(T) * tl.load(slopes + at - w, mask=mask & (y > 0), other=0)
        to_grey += below.to(T) * tl.load(slopes + at + w, mask=mask & (y < h - 1), other=0)
        to_grey += left.to(T) * tl.load(slopes + at - 1, mask=mask & (x > 0), other=0)
        to_grey += right.to(T) * tl.load(slopes + at + 1, mask=mask & (x < w - 1), other=0)

    some = colour > 0
    divisor = tl.where(some, colour, 1.0)
    rows = _down_adjoint_taps(y, h, hc, T)
    columns = _down_adjoint_taps(x, w, wc, T)
    for c in tl.static_range(CHANNELS):
        source = plane * CHANNELS + c
        upstream = plane // exposures * CHANNELS + c
        total = weight * tl.load(grad + upstream * size + y * w + x, mask=mask, other=0)
        if not COARSEST:
            total += _gather_3x3(coarse_grad + source * (hc.to(tl.int64) * wc), rows, columns, wc, mask)
        own = r if c == 0 else (g if c == 1 else b)
        if CONTRAST > 0:
            total += (1 if CHANNELS == 1 else (0.299 if c == 0 else (0.587 if c == 1 else 0.114))) * to_grey
        if SATURATION > 0:
            # d S^b / dI = b S^b / S dS/dI, and 0 at S = 0.
            if OPENCV:
                mean = (r + g + b) * (1.0 / 3.0)
                slope = own - mean - ((r - mean) + (g - mean) + (b - mean)) * (1.0 / 3.0)
            else:
                slope = ((own - r) + (own - g) + (own - b)) / 9.0
            slope = tl.full([], saturation, T) * coloured / divisor * (slope / divisor)
            total += share * contrasted * exposed * tl.where(some, slope, 0.0)
        if EXPOSEDNESS:
            slope = -2 * tl.full([], steepness, T) * (own - 0.5)
            total += share * contrasted * coloured * exposed * slope
        _store(out + source * size + y * w + x, total, mask, 1)


# ---- launches ----------------------------------------------------------------------------------------------


class _Exponents(NamedTuple):
    contrast: float
    saturation: float
    exposedness: float

    def values(self) -> tuple[float, float, float]:
        return self.contrast, self.saturation, self.exposedness / TWO_SIGMA_SQUARED

    def modes(self, channels: int) -> dict[str, int | bool]:
        """Exponents 0 and 1 need no power, and with one channel there is no saturation."""
        contrast, saturation = ({0.0: 0, 1.0: 1}.get(e, 2) for e in (self.contrast, self.saturation))
        return {
            "CONTRAST": contrast,
            "SATURATION": saturation if channels == 3 else 0,
            "EXPOSEDNESS": self.exposedness != 0,
        }


class _Tile(NamedTuple):
    planes: int
    rows: int
    columns: int
    warps: int

    def options(self, contraction: bool = True) -> dict[str, int | bool]:
        return {
            "PLANES": self.planes,
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "num_warps": self.warps,
            "enable_fp_fusion": contraction,
        }

    def grid(self, planes: int, h: int, w: int) -> tuple[int]:
        cdiv = triton.cdiv
        return (cdiv(planes, self.planes) * cdiv(h, self.rows) * cdiv(w, self.columns),)


def _tile_for(h: int, w: int) -> _Tile:
    """1,024 pixels: long rows where there are any, several planes where they are small.

    One pixel per thread: with more, the addresses of the taps alone fill the registers.
    """
    if w > 64:
        return _Tile(1, 8, 128, warps=32)
    if w > 8 or h > 8:
        return _Tile(1, 32, 32, warps=32)
    return _Tile(16, 8, 8, warps=32)


def _bracket_tile_for(k: int, h: int, w: int) -> _Tile:
    """All exposures of some pixels."""
    planes = triton.next_power_of_2(k)
    pixels = max(1024 // planes, 16)
    columns = min(pixels, 64 if w > 16 else 16 if w > 4 else 4)
    return _Tile(planes, pixels // columns, columns, warps=8)


def _sizes(h: int, w: int) -> list[tuple[int, int]]:
    """Of the pyramid: floor(log2(min(h, w))) levels above the finest."""
    sizes = [(h, w)]
    for _ in range(min(h, w).bit_length() - 1):
        h, w = (h + 1) // 2, (w + 1) // 2
        sizes.append((h, w))
    return sizes


def _down(source: Tensor, out: Tensor, size: tuple[int, int], coarse: tuple[int, int]) -> None:
    """Planes of one level into planes of the next."""
    tile = _tile_for(*coarse)
    planes = out.numel() // (coarse[0] * coarse[1])
    down_kernel[tile.grid(planes, *coarse)](
        source, out, planes, *size, *coarse, FULL=full_scale(source.dtype), **tile.options()
    )


class _Pyramid(NamedTuple):
    """Images (N, K, C) and weights (N, K) of every level, flat; level 0 of the images is the bracket."""

    images: list[Tensor]
    weights: list[Tensor]
    sizes: list[tuple[int, int]]


def _build(bracket: Tensor, exponents: _Exponents, opencv: bool) -> _Pyramid:
    n, k, c, h, w = bracket.shape
    dtype = compute_dtype(bracket)
    sizes = _sizes(h, w)
    images, weights = [bracket], [bracket.new_empty(n * k * h * w, dtype=dtype)]
    tile = _bracket_tile_for(k, h, w)
    weights_kernel[tile.grid(n * tile.planes, h, w)](
        bracket,
        weights[0],
        k,
        h,
        w,
        *exponents.values(),
        **exponents.modes(c),
        CHANNELS=c,
        FULL=full_scale(bracket.dtype),
        OPENCV=opencv,
        **tile.options(contraction=False),
    )
    both = None
    for size, coarse in itertools.pairwise(sizes):
        finer = both
        pixels = coarse[0] * coarse[1]
        both = bracket.new_empty(n * k * (c + 1) * pixels, dtype=dtype)
        images.append(both[: n * k * c * pixels])
        weights.append(both[n * k * c * pixels :])
        if finer is None:
            _down(images[0], images[1], size, coarse)
            _down(weights[0], weights[1], size, coarse)
        else:
            _down(finer, both, size, coarse)
    return _Pyramid(images, weights, sizes)


def _collapse(pyramid: _Pyramid, shape: torch.Size, out: Tensor, clamp: bool, grad: Tensor | None = None) -> None:
    """The blended pyramid, collapsed into out; with `grad`, that gradient where the result is not clamped."""
    n, k, c, _, _ = shape
    # Unused at the coarsest level, as is the coarser one; of a type that does not make another variant.
    result = unused = pyramid.weights[-1]
    for level in range(len(pyramid.sizes) - 1, -1, -1):
        size = pyramid.sizes[level]
        coarsest = level == len(pyramid.sizes) - 1
        above = level if coarsest else level + 1
        level_out = out if level == 0 else pyramid.weights[level].new_empty(n * c * size[0] * size[1])
        tile = _tile_for(*size)
        collapse_kernel[tile.grid(n * c, *size)](
            pyramid.images[level],
            pyramid.weights[level],
            unused if coarsest else pyramid.images[above],
            result,
            unused if grad is None or level > 0 else grad,
            level_out,
            n * c,
            k,
            *size,
            *pyramid.sizes[above],
            CHANNELS=c,
            FULL_IN=full_scale(pyramid.images[level].dtype),
            FULL_OUT=full_scale(level_out.dtype),
            COARSEST=coarsest,
            CLAMP=clamp and level == 0,
            MASK_GRAD=grad is not None and level == 0,
            **tile.options(),
        )
        result = level_out


def exposure_fusion(
    bracket: Tensor,
    contrast: float,
    saturation: float,
    exposedness: float,
    opencv: bool,
    dtype: torch.dtype | None = None,
) -> Tensor:
    n, _, c, h, w = bracket.shape
    out = bracket.new_empty((n, c, h, w), dtype=dtype or bracket.dtype)
    exposure_fusion_out(bracket, contrast, saturation, exposedness, opencv, out)
    return out


def exposure_fusion_out(
    bracket: Tensor, contrast: float, saturation: float, exposedness: float, opencv: bool, out: Tensor
) -> None:
    if bracket.numel() == 0:
        return
    bracket = bracket.contiguous()
    dense = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    with on_device(bracket):
        pyramid = _build(bracket, _Exponents(contrast, saturation, exposedness), opencv)
        _collapse(pyramid, bracket.shape, dense, clamp=not opencv)
    if dense is not out:
        out.copy_(dense)


def exposure_fusion_backward(
    grad: Tensor, bracket: Tensor, contrast: float, saturation: float, exposedness: float, opencv: bool
) -> Tensor:
    out = torch.empty_like(bracket, memory_format=torch.contiguous_format)
    if bracket.numel() == 0:
        return out
    bracket = bracket.contiguous()
    n, k, c, h, w = bracket.shape
    dtype = compute_dtype(bracket)
    exponents = _Exponents(contrast, saturation, exposedness)
    measures = {**exponents.modes(c), "CHANNELS": c, "OPENCV": opencv}
    with on_device(bracket):
        pyramid = _build(bracket, exponents, opencv)
        sizes = pyramid.sizes
        depth = len(sizes) - 1

        # Gradients of the result, from fine to coarse.
        if opencv:
            results = [grad.to(dtype).contiguous()]
        else:
            results = [grad.new_empty((n, c, h, w), dtype=dtype)]
            _collapse(pyramid, bracket.shape, results[0], clamp=True, grad=grad.contiguous())
        for size, coarse in itertools.pairwise(sizes):
            results.append(results[0].new_empty(n * c * coarse[0] * coarse[1]))
            tile = _tile_for(*coarse)
            up_adjoint_kernel[tile.grid(n * c, *coarse)](
                results[-2], results[-1], n * c, *size, *coarse, **tile.options()
            )

        # Gradients of weights and images, from coarse to fine; the finest images come last.
        weight_grads = image_grads = results[0]
        for level in range(depth, -1, -1):
            size = sizes[level]
            above = min(level + 1, depth)
            pixels = size[0] * size[1]
            tile = _tile_for(*size)
            coarser, weight_grads = weight_grads, results[0].new_empty(n * k * pixels)
            weight_gradient_kernel[tile.grid(n * k, *size)](
                pyramid.images[level],
                pyramid.images[above],
                results[level],
                coarser,
                weight_grads,
                n * k,
                k,
                *size,
                *sizes[above],
                CHANNELS=c,
                COARSEST=level == depth,
                **tile.options(),
            )
            if level == 0:
                break
            coarser, image_grads = image_grads, results[0].new_empty(n * k * c * pixels)
            image_gradient_kernel[tile.grid(n * k * c, *size)](
                pyramid.weights[level],
                results[level],
                pyramid.weights[level - 1],
                results[level - 1],
                coarser,
                image_grads,
                n * k * c,
                k,
                *size,
                *sizes[above],
                *sizes[level - 1],
                CHANNELS=c,
                COARSEST=level == depth,
                **tile.options(),
            )

        shares = torch.empty_like(weight_grads)
        slopes = torch.empty_like(weight_grads) if contrast != 0 else shares
        tile = _bracket_tile_for(k, h, w)
        measure_gradient_kernel[tile.grid(n * tile.planes, h, w)](
            bracket,
            weight_grads,
            shares,
            slopes,
            k,
            h,
            w,
            *exponents.values(),
            **measures,
            **tile.options(contraction=False),
        )
        tile = _tile_for(h, w)
        bracket_gradient_kernel[tile.grid(n * k, h, w)](
            bracket,
            pyramid.weights[0],
            results[0],
            image_grads,
            shares,
            slopes,
            out,
            n * k,
            k,
            h,
            w,
            *sizes[min(1, depth)],
            *exponents.values(),
            **measures,
            COARSEST=depth == 0,
            **tile.options(contraction=False),
        )
    return out
