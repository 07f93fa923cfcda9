"""Triton kernels of ``matching_volume``; arguments as in ``cpp/schema.cpp``, definition in
``hdrops.reference.matching_volume``.

The convolution never makes the volume. With its weight split along the channels into Wa, Wr, Wd and Wp, a place of the
result is, over the depth taps, the slices d that they read and the taps of a plane::

    Σ F' Wa + |F' - F_ref| Wd + F' F_ref Wp  +  Σ F_ref Wr                    of slices of other images
    Σ F_ref (Wa + Wr) + F_ref² Wp                                             of slices of the reference image

What is of F_ref alone does not depend on the slice: both sums are made once per depth tap, as maps of the size of one
slice of the result, and added where the tap reads such a slice. The rest is an implicit GEMM: a program has a block of
places, in the order of memory and whatever slices they lie in, and makes F', the difference and the product of each
tap where it multiplies them.

Backwards are gathers, so the same input gives the same bits. T_a, T_d and T_p being the gradients of the three parts of
a slice, sums over the places that a pixel is read by::

    of F_i(q)    Σ F''(T_a + F_ref T_p + sign(F' - F_ref) T_d)                over motions and gains, at p = q - M
    of F_ref(p)  Σ F' T_p - sign(F' - F_ref) T_d                              over images, motions and gains

F'' is the slope of F' by F. Pixels of one remainder modulo the stride are in one program: the same taps reach them.
What F_ref has of the maps comes from sums of the upstream gradient over the depth, by the transposed convolution of
``hourglass``. The gradient of the weight is added up in parts, a fixed number of places each, and then over them.

A sum over channels ("inner") is the product of every channel with one weight for all. Operands of products are formed
in float32 and, for float16 and bfloat16, rounded to these; sums are in float32 (float64 for float64).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import _store, compute_dtype, on_device
from hdrops.kernels._strides import _meeting_taps, chunk, columns, halves, meeting, side
from hdrops.kernels.hourglass import deconv3d
from hdrops.reference.matching_volume import Convolution, Volume

ROWS = 64  # places, or pixels, in a block
SUMMED = 32  # of them, where their products are in arithmetic of at least 32 bits and summed over them
PROGRAMS = 2048  # to which the places are divided for the gradient of the weight, at most
SHARE = 512  # places at least, in each of them

FARTHEST = tl.constexpr(1 << 30)  # of motions

# Sizes that no other variant is compiled for; of channels it matters whether they are aligned.
SIZES = [
    *("rows", "share", "batch", "count", "height", "width", "reference", "images", "moves", "exposures", "depth"),
    *("image_stride", "move_stride", "exposure_stride", "out_depth", "out_height", "out_width"),
    *("depth_taps", "row_taps", "column_taps", "depth_stride", "row_stride", "column_stride"),
    *("depth_padding", "row_padding", "column_padding", "depth_dilation", "row_dilation", "column_dilation"),
    *("depth_divisor", "row_divisor", "column_divisor", "depth_inverse", "row_inverse", "column_inverse"),
    *("depth_step", "row_step", "column_step"),
]

# The parts of a slice that have a weight in the implicit GEMM: F', the difference and the product.
_PARTS = 3


# ---- slices --------------------------------------------------------------------------------------------------------


@triton.jit
def _moved(value, mask, gain, ceiling, CAP: tl.constexpr, SATURATION: tl.constexpr):
    """g(F, E) under a saturation."""
    if CAP:
        scaled = gain * value
        capped = tl.where(scaled > ceiling, ceiling, scaled)  # NaN stays
        return mask * capped + (1 - mask) * scaled if SATURATION else capped
    return mask * value + gain * ((1 - mask) * value) if SATURATION else gain * value


@triton.jit
def _slope(value, mask, gain, ceiling, CAP: tl.constexpr, SATURATION: tl.constexpr):
    """dg / dF."""
    if CAP:
        capped = tl.where(gain * value <= ceiling, gain, 0.0)
        return mask * capped + (1 - mask) * gain if SATURATION else capped
    return mask + gain * (1 - mask) if SATURATION else gain + 0 * value


@triton.jit
def _sign(value):
    return tl.where(value > 0, 1.0, 0.0) - tl.where(value < 0, 1.0, 0.0)


@triton.jit
def _pixels(source, pixel, c, channels, mask, T: tl.constexpr):
    """(pixels, channels) of what lies channels last; 0 outside."""
    at = source + (pixel * channels)[:, None] + c[None, :]
    return tl.load(at, mask=mask[:, None] & (c < channels)[None, :], other=0).to(T)


@triton.jit
def _saturation(saturation, pixel, c, channels, mask, SATURATION: tl.constexpr, T: tl.constexpr):
    """Of every channel where SATURATION is 2, one for all where it is 1."""
    found = 0.0
    if SATURATION == 2:
        found = _pixels(saturation, pixel, c, channels, mask, T)
    elif SATURATION == 1:
        found = tl.load(saturation + pixel, mask=mask, other=0).to(T)[:, None]
    return found


@triton.jit
def _image_at(position, reference, INCLUDE: tl.constexpr):
    """The image at a position of its axis."""
    return position if INCLUDE else position + (position >= reference).to(tl.int32)


@triton.jit
def _motion(motions, move, mask):
    """Rows and columns of motions, 32 bits of them: one that is longer leads out of any image as well."""
    down = tl.load(motions + 2 * move, mask=mask, other=0)
    right = tl.load(motions + 2 * move + 1, mask=mask, other=0)
    down = tl.minimum(tl.maximum(down, -FARTHEST), FARTHEST)
    right = tl.minimum(tl.maximum(right, -FARTHEST), FARTHEST)
    return down.to(tl.int32), right.to(tl.int32)


@triton.jit
def _inside(y, x, height, width):
    return (y >= 0) & (y < height) & (x >= 0) & (x < width)


@triton.jit
def _other(
    features,
    saturation,
    pixel,
    c,
    channels,
    there,
    gain,
    ceiling,
    CAP: tl.constexpr,
    SATURATION: tl.constexpr,
    T: tl.constexpr,
):
    """F' at pixels of other images, 0 where they are not there."""
    value = _pixels(features, pixel, c, channels, there, T)
    mask = _saturation(saturation, pixel, c, channels, there, SATURATION, T)
    # An infinite gain would make NaN of the zeros outside.
    return tl.where(there[:, None], _moved(value, mask, gain, ceiling, CAP, SATURATION), 0.0)


@triton.jit(do_not_specialize=SIZES)
def volume_kernel(
    features,
    saturation,
    motions,
    gains,
    out,
    rows,
    count,
    channels,
    height,
    width,
    reference,
    images,
    moves,
    exposures,
    image_stride,
    move_stride,
    exposure_stride,
    depth,
    ceiling: tl.float64,
    CAP: tl.constexpr,
    SATURATION: tl.constexpr,
    INNER: tl.constexpr,
    INCLUDE: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The volume (N, D, H, W, channels), of ``rows`` pixels in all."""
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    row = tl.program_id(0).to(rows.dtype) * ROWS + tl.arange(0, ROWS)
    live = row < rows
    x = (row % width).to(tl.int32)
    line = row // width
    y = (line % height).to(tl.int32)
    line = line // height
    d = (line % depth).to(tl.int32)
    first = (line // depth).to(tl.int64) * count
    image = _image_at(d // image_stride % images, reference, INCLUDE)
    move, exposure = d // move_stride % moves, d // exposure_stride % exposures
    top = tl.full([], ceiling, T)
    of_volume = 3 * channels + (1 if INNER else channels)
    to = out + (row.to(tl.int64) * of_volume)[:, None]
    inner = tl.zeros([ROWS], T)
    own = live & (image == reference)
    down, right = _motion(motions, move, live)
    down = tl.where(own, 0, down)
    right = tl.where(own, 0, right)
    gain = tl.load(gains + exposure, mask=live, other=0)[:, None]
    there = live & _inside(y + down, x + right, height, width)
    plane = height.to(tl.int64) * width
    base_at = (first + reference) * plane + y.to(tl.int64) * width + x
    other_at = (first + image) * plane + (y + down).to(tl.int64) * width + x + right
    for begin in range(0, channels, CHANNELS):
        c = begin + tl.arange(0, CHANNELS)
        base = _pixels(features, base_at, c, channels, live, T)
        value = _other(features, saturation, other_at, c, channels, there, gain, top, CAP, SATURATION, T)
        value = tl.where(own[:, None], base, value)
        mask = live[:, None] & (c < channels)[None, :]
        _store(to + c[None, :], value, mask, 1)
        _store(to + channels + c[None, :], base, mask, 1)
        _store(to + 2 * channels + c[None, :], tl.abs(value - base), mask, 1)
        if INNER:
            inner += tl.sum(tl.where(mask, value * base, 0.0), 1)
        else:
            _store(to + 3 * channels + c[None, :], value * base, mask, 1)
    if INNER:
        _store(out + row.to(tl.int64) * of_volume + 3 * channels, inner, live, 1)


# ---- the convolution -----------------------------------------------------------------------------------------------


@triton.jit
def _place(row, out_depth, out_height, out_width):
    """The batch's member, slice, row and column of a place of the result."""
    x = (row % out_width).to(tl.int32)
    line = row // out_width
    y = (line % out_height).to(tl.int32)
    line = line // out_height
    return (line // out_depth).to(tl.int64), (line % out_depth).to(tl.int32), y, x


@triton.jit(do_not_specialize=SIZES)
def constants_kernel(
    base,
    weight,
    out,
    rows,
    channels,
    height,
    width,
    out_height,
    out_width,
    results,
    depth_taps,
    row_taps,
    column_taps,
    row_stride,
    column_stride,
    row_padding,
    column_padding,
    row_dilation,
    column_dilation,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Maps (N, H', W', 2, depth taps, K) of F_ref (N, H, W, C) by the weight (4, depth taps, taps, C, K): what a depth
    tap adds that reads a slice of another image, and one of the reference image."""
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    program = tl.program_id(0).to(tl.int64)
    column_blocks = (results + COLUMNS - 1) // COLUMNS
    k = (program % column_blocks).to(tl.int32) * COLUMNS + tl.arange(0, COLUMNS)
    program = program // column_blocks
    tap_z = (program % depth_taps).to(tl.int32)
    row = program // depth_taps * ROWS + tl.arange(0, ROWS)
    live = row < rows
    n, _, y0, x0 = _place(row, 1, out_height, out_width)
    y0 = y0 * row_stride - row_padding
    x0 = x0 * column_stride - column_padding
    taps = row_taps * column_taps
    part = depth_taps.to(tl.int64) * taps * channels * results
    blocks = (channels + CHANNELS - 1) // CHANNELS
    of_others = tl.zeros([ROWS, COLUMNS], T)
    of_own = tl.zeros([ROWS, COLUMNS], T)
    for step in range(taps * blocks):
        c = step % blocks * CHANNELS + tl.arange(0, CHANNELS)
        tap = step // blocks
        y = y0 + tap // column_taps * row_dilation
        x = x0 + tap % column_taps * column_dilation
        inside = live & _inside(y, x, height, width)
        value = _pixels(base, (n * height + y) * width + x, c, channels, inside, T)
        at = weight + ((tap_z * taps + tap) * channels + c).to(tl.int64)[:, None] * results + k[None, :]
        mask = (c < channels)[:, None] & (k < results)[None, :]
        linear = tl.load(at, mask=mask, other=0).to(T)
        itself = tl.load(at + part, mask=mask, other=0).to(T)
        product = tl.load(at + 3 * part, mask=mask, other=0).to(T)
        of_others = tl.dot(value, itself, of_others, input_precision="ieee", out_dtype=T)
        of_own = tl.dot(value, linear + itself, of_own, input_precision="ieee", out_dtype=T)
        of_own = tl.dot(value * value, product, of_own, input_precision="ieee", out_dtype=T)
    to = out + ((row.to(tl.int64) * 2 * depth_taps + tap_z) * results)[:, None] + k[None, :]
    mask = live[:, None] & (k < results)[None, :]
    tl.store(to, of_others, mask=mask)
    tl.store(to + depth_taps * results, of_own, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def convolve_kernel(
    features,
    saturation,
    motions,
    gains,
    weight,
    constants,
    bias,
    out,
    rows,
    count,
    channels,
    height,
    width,
    reference,
    images,
    moves,
    exposures,
    image_stride,
    move_stride,
    exposure_stride,
    depth,
    ceiling: tl.float64,
    out_depth,
    out_height,
    out_width,
    results,
    depth_taps,
    row_taps,
    column_taps,
    depth_stride,
    row_stride,
    column_stride,
    depth_padding,
    row_padding,
    column_padding,
    depth_dilation,
    row_dilation,
    column_dilation,
    CAP: tl.constexpr,
    SATURATION: tl.constexpr,
    INCLUDE: tl.constexpr,
    BIAS: tl.constexpr,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The result (N, D', H', W', K), of ``rows`` places in all; the weight is (4, depth taps, taps, C, K)."""
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    OPERAND: tl.constexpr = features.dtype.element_ty if HALF else T
    program = tl.program_id(0).to(rows.dtype)
    column_blocks = (results + COLUMNS - 1) // COLUMNS
    k = (program % column_blocks).to(tl.int32) * COLUMNS + tl.arange(0, COLUMNS)
    row = program // column_blocks * ROWS + tl.arange(0, ROWS)
    live = row < rows
    n, o, y0, x0 = _place(row, out_depth, out_height, out_width)
    map_at = ((n * out_height + y0) * out_width + x0) * 2
    first = n * count
    y0 = y0 * row_stride - row_padding
    x0 = x0 * column_stride - column_padding
    plane = height.to(tl.int64) * width
    base_from = (first + reference) * plane + y0.to(tl.int64) * width + x0
    top = tl.full([], ceiling, T)
    taps = row_taps * column_taps
    part = depth_taps.to(tl.int64) * taps * channels * results
    blocks = (channels + CHANNELS - 1) // CHANNELS
    total = tl.zeros([ROWS, COLUMNS], T)
    for tap_z in range(depth_taps):
        d = o * depth_stride - depth_padding + tap_z * depth_dilation
        known = live & (d >= 0) & (d < depth)
        d = tl.where(known, d, 0)
        image = _image_at(d // image_stride % images, reference, INCLUDE)
        other = known & (image != reference)
        at = ((map_at + (image == reference).to(tl.int32)) * depth_taps + tap_z) * results
        wanted = known[:, None] & (k < results)[None, :]
        total += tl.load(constants + at[:, None] + k[None, :], mask=wanted, other=0)
        down, right = _motion(motions, d // move_stride % moves, other)
        gain = tl.load(gains + d // exposure_stride % exposures, mask=other, other=0)[:, None]
        other_from = (first + image) * plane + (y0 + down).to(tl.int64) * width + x0 + right
        # Without a slice of another image there is nothing to multiply.
        steps = tl.max(other.to(tl.int32), 0) * taps * blocks
        for step in range(steps):
            c = step % blocks * CHANNELS + tl.arange(0, CHANNELS)
            tap = step // blocks
            lower, further = tap // column_taps * row_dilation, tap % column_taps * column_dilation
            y, x = y0 + lower, x0 + further
            inside = other & _inside(y, x, height, width)
            there = inside & _inside(y + down, x + right, height, width)
            apart = lower.to(tl.int64) * width + further
            base = _pixels(features, base_from + apart, c, channels, inside, T)
            value = _other(features, saturation, other_from + apart, c, channels, there, gain, top, CAP, SATURATION, T)
            from_w = weight + ((tap_z * taps + tap) * channels + c).to(tl.int64)[:, None] * results + k[None, :]
            mask = (c < channels)[:, None] & (k < results)[None, :]
            linear = tl.load(from_w, mask=mask, other=0).to(OPERAND)
            total = tl.dot(value.to(OPERAND), linear, total, input_precision="ieee", out_dtype=T)
            difference = tl.load(from_w + 2 * part, mask=mask, other=0).to(OPERAND)
            total = tl.dot(tl.abs(value - base).to(OPERAND), difference, total, input_precision="ieee", out_dtype=T)
            product = tl.load(from_w + 3 * part, mask=mask, other=0).to(OPERAND)
            total = tl.dot((value * base).to(OPERAND), product, total, input_precision="ieee", out_dtype=T)
    if BIAS:
        total += tl.load(bias + k, mask=k < results, other=0).to(T)[None, :]
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # NaN stays
    to = out + (row.to(tl.int64) * results)[:, None] + k[None, :]
    _store(to, total, live[:, None] & (k < results)[None, :], 1)


# ---- gradients -----------------------------------------------------------------------------------------------------


@triton.jit
def _of_slice(
    grad,
    weight,
    d,
    n,
    y0,
    x0,
    down,
    across,
    inside,
    c,
    channels,
    out_depth,
    out_height,
    out_width,
    results,
    depth_taps,
    row_taps,
    column_taps,
    depth_stride,
    row_stride,
    column_stride,
    depth_padding,
    row_padding,
    column_padding,
    depth_dilation,
    row_dilation,
    column_dilation,
    depth_divisor,
    row_divisor,
    column_divisor,
    depth_inverse,
    row_inverse,
    column_inverse,
    depth_step,
    row_step,
    column_step,
    LINEAR: tl.constexpr,
    T: tl.constexpr,
    OPERAND: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """T_a (where LINEAR), T_d and T_p of slice d at the pixels (y0 + down row_stride, x0 + across column_stride).

    The weight is (4, depth taps, taps, K, C).
    """
    first_z, of_z = _meeting_taps(d + depth_padding, depth_stride, depth_divisor, depth_inverse, depth_step, depth_taps)
    first_y, of_y = _meeting_taps(y0 + row_padding, row_stride, row_divisor, row_inverse, row_step, row_taps)
    first_x, of_x = _meeting_taps(
        x0 + column_padding, column_stride, column_divisor, column_inverse, column_step, column_taps
    )
    part = depth_taps.to(tl.int64) * row_taps * column_taps * channels * results
    blocks = (results + COLUMNS - 1) // COLUMNS
    linear = tl.zeros([ROWS, CHANNELS], T)
    apart = tl.zeros([ROWS, CHANNELS], T)
    product = tl.zeros([ROWS, CHANNELS], T)
    for step in range(of_z * of_y * of_x * blocks):
        k = (step % blocks).to(tl.int32) * COLUMNS + tl.arange(0, COLUMNS)
        at = step // blocks
        tap_x = first_x + at % of_x * column_step
        tap_y = first_y + at // of_x % of_y * row_step
        tap_z = first_z + at // of_x // of_y * depth_step
        # Divisions without remainder, of which some are of negative numbers.
        x = across + (x0 + column_padding - tap_x * column_dilation) // column_stride
        y = down + (y0 + row_padding - tap_y * row_dilation) // row_stride
        o = 0 * down + (d + depth_padding - tap_z * depth_dilation) // depth_stride
        read = inside & (o >= 0) & (o < out_depth) & _inside(y, x, out_height, out_width)
        place = ((n * out_depth + o) * out_height + y) * out_width + x
        upstream = _pixels(grad, place, k, results, read, OPERAND)
        tap = (tap_z * row_taps + tap_y) * column_taps + tap_x
        from_w = weight + (tap.to(tl.int64) * results + k)[:, None] * channels + c[None, :]
        mask = (k < results)[:, None] & (c < channels)[None, :]
        if LINEAR:
            factor = tl.load(from_w, mask=mask, other=0).to(OPERAND)
            linear = tl.dot(upstream, factor, linear, input_precision="ieee", out_dtype=T)
        factor = tl.load(from_w + 2 * part, mask=mask, other=0).to(OPERAND)
        apart = tl.dot(upstream, factor, apart, input_precision="ieee", out_dtype=T)
        factor = tl.load(from_w + 3 * part, mask=mask, other=0).to(OPERAND)
        product = tl.dot(upstream, factor, product, input_precision="ieee", out_dtype=T)
    return linear, apart, product


@triton.jit(do_not_specialize=SIZES)
def features_kernel(
    grad,
    features,
    saturation,
    motions,
    gains,
    weight,
    constants,
    out,
    rows,
    batch,
    count,
    channels,
    height,
    width,
    reference,
    images,
    moves,
    exposures,
    image_stride,
    move_stride,
    exposure_stride,
    depth,
    ceiling: tl.float64,
    out_depth,
    out_height,
    out_width,
    results,
    depth_taps,
    row_taps,
    column_taps,
    depth_stride,
    row_stride,
    column_stride,
    depth_padding,
    row_padding,
    column_padding,
    depth_dilation,
    row_dilation,
    column_dilation,
    depth_divisor,
    row_divisor,
    column_divisor,
    depth_inverse: tl.int64,
    row_inverse: tl.int64,
    column_inverse: tl.int64,
    depth_step,
    row_step,
    column_step,
    REFERENCE: tl.constexpr,
    CONVOLVED: tl.constexpr,
    CAP: tl.constexpr,
    SATURATION: tl.constexpr,
    INNER: tl.constexpr,
    INCLUDE: tl.constexpr,
    WIDE: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Into ``out`` (N, n, C, H, W) the gradient of the reference image, or those of the others.

    The upstream gradient is of the convolution or, unless CONVOLVED, of the volume. ``constants`` (N, H, W, 2, C) has
    what F_ref and F_ref² have of the maps. ``rows`` is the most pixels that one remainder modulo the strides has, N
    included.
    """
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    OPERAND: tl.constexpr = features.dtype.element_ty if HALF else T
    program = tl.program_id(0).to(tl.int64)
    channel_blocks = (channels + CHANNELS - 1) // CHANNELS
    row_blocks = (rows + ROWS - 1) // ROWS
    c = (program % channel_blocks).to(tl.int32) * CHANNELS + tl.arange(0, CHANNELS)
    program = program // channel_blocks
    row = (program % row_blocks).to(rows.dtype) * ROWS + tl.arange(0, ROWS)
    program = program // row_blocks
    wide = tl.minimum(column_stride, width)
    high = tl.minimum(row_stride, height)
    x0 = (program % wide).to(tl.int32)
    program = program // wide
    y0 = (program % high).to(tl.int32)
    which = (program // high).to(tl.int32)
    # Pixels of these remainders on each axis.
    columns = (width - x0 + column_stride - 1) // column_stride
    lines = (height - y0 + row_stride - 1) // row_stride
    across = (row % columns).to(tl.int32)
    line = row // columns
    down = (line % lines).to(tl.int32)
    n = (line // lines).to(tl.int64)
    live = n < batch
    own_y, own_x = y0 + down * row_stride, x0 + across * column_stride

    top = tl.full([], ceiling, T)
    plane = height.to(tl.int64) * width
    total = tl.zeros([ROWS, CHANNELS], T)
    if REFERENCE and CONVOLVED:
        itself = _pixels(features, (n * count + reference) * plane + own_y * width + own_x, c, channels, live, T)
        of_own = constants + ((n * height + own_y) * width + own_x)[:, None] * 2 * channels + c[None, :]
        known = live[:, None] & (c < channels)[None, :]
        total = tl.load(of_own, mask=known, other=0) + 2 * itself * tl.load(of_own + channels, mask=known, other=0)
    for index in range(depth if REFERENCE else moves * exposures):
        if REFERENCE:
            image = _image_at(index // image_stride % images, reference, INCLUDE)
            move = index // move_stride % moves
            exposure = index // exposure_stride % exposures
            d = index
        else:
            image = which + (which >= reference).to(tl.int32)
            move, exposure = index // exposures, index % exposures
            d = (image if INCLUDE else which) * image_stride + move * move_stride + exposure * exposure_stride
        if CONVOLVED is False or REFERENCE is False or image != reference:
            to_y, to_x = _motion(motions, move, move >= 0)
            gain = tl.load(gains + exposure)
            # The pixel (y, x) of the slice reads that of the image at (from_y, from_x).
            if REFERENCE:
                first_y, first_x = y0, x0
                y, x = own_y, own_x
                inside = live
                from_y, from_x = own_y + to_y, own_x + to_x
                there = live & _inside(from_y, from_x, height, width) & (image + 0 * own_y != reference)
            else:
                first_y, first_x = y0 - to_y, x0 - to_x
                y, x = own_y - to_y, own_x - to_x
                inside = live & _inside(y, x, height, width)
                from_y, from_x = own_y, own_x
                there = inside
            if CONVOLVED:
                linear, apart, product = _of_slice(
                    grad,
                    weight,
                    d,
                    n,
                    first_y,
                    first_x,
                    down,
                    across,
                    inside,
                    c,
                    channels,
                    out_depth,
                    out_height,
                    out_width,
                    results,
                    depth_taps,
                    row_taps,
                    column_taps,
                    depth_stride,
                    row_stride,
                    column_stride,
                    depth_padding,
                    row_padding,
                    column_padding,
                    depth_dilation,
                    row_dilation,
                    column_dilation,
                    depth_divisor,
                    row_divisor,
                    column_divisor,
                    depth_inverse,
                    row_inverse,
                    column_inverse,
                    depth_step,
                    row_step,
                    column_step,
                    not REFERENCE,
                    T,
                    OPERAND,
                    ROWS,
                    CHANNELS,
                    COLUMNS,
                )
            else:
                of_volume = 3 * channels + (1 if INNER else channels)
                at = grad + (((n * depth + d) * height + y) * width + x)[:, None] * of_volume
                known = inside[:, None] & (c < channels)[None, :]
                linear = tl.load(at + c[None, :], mask=known, other=0).to(T)
                apart = tl.load(at + 2 * channels + c[None, :], mask=known, other=0).to(T)
                product = tl.load(at + 3 * channels + (0 if INNER else c[None, :]), mask=known, other=0).to(T)
                if REFERENCE:
                    total += tl.load(at + channels + c[None, :], mask=known, other=0).to(T)
            base_at = (n * count + reference) * plane + y.to(tl.int64) * width + x
            base = _pixels(features, base_at, c, channels, inside, T)
            pixel = (n * count + image) * plane + from_y.to(tl.int64) * width + from_x
            value = _pixels(features, pixel, c, channels, there, T)
            shares = _saturation(saturation, pixel, c, channels, there, SATURATION, T)
            moved = tl.where(there[:, None], _moved(value, shares, gain, top, CAP, SATURATION), 0.0)
            sign = _sign(moved - base)
            if REFERENCE:
                if image == reference:
                    total += linear + 2 * base * product
                else:
                    total += moved * product - sign * apart
            else:
                slope = _slope(value, shares, gain, top, CAP, SATURATION)
                total += tl.where(inside[:, None], slope * (linear + base * product + sign * apart), 0.0)
    image = reference if REFERENCE else which + (which >= reference).to(tl.int32)
    to = out + (((n * count + image) * channels) * plane + own_y * width + own_x)[:, None] + c[None, :] * plane
    _store(to, total, live[:, None] & (c < channels)[None, :], 1)


@triton.jit(do_not_specialize=SIZES)
def depth_sums_kernel(
    grad,
    out,
    rows,
    reference,
    images,
    image_stride,
    depth,
    out_depth,
    out_height,
    out_width,
    results,
    depth_taps,
    depth_stride,
    depth_padding,
    depth_dilation,
    INCLUDE: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums (N, H', W', 2, depth taps, K) of a gradient over the places of the depth whose tap reads a slice of another
    image, and one of the reference image."""
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    program = tl.program_id(0).to(tl.int64)
    column_blocks = (results + COLUMNS - 1) // COLUMNS
    k = (program % column_blocks).to(tl.int32) * COLUMNS + tl.arange(0, COLUMNS)
    program = program // column_blocks
    tap_z = (program % depth_taps).to(tl.int32)
    row = program // depth_taps * ROWS + tl.arange(0, ROWS)
    live = row < rows
    plane = out_height.to(tl.int64) * out_width
    place = row // plane * out_depth * plane + row % plane
    of_others = tl.zeros([ROWS, COLUMNS], T)
    of_own = tl.zeros([ROWS, COLUMNS], T)
    for o in range(out_depth):
        d = o * depth_stride - depth_padding + tap_z * depth_dilation
        if (d >= 0) & (d < depth):
            value = _pixels(grad, place, k, results, live, T)
            if _image_at(d // image_stride % images, reference, INCLUDE) == reference:
                of_own += value
            else:
                of_others += value
        place += plane
    to = out + ((row * 2 * depth_taps + tap_z) * results)[:, None] + k[None, :]
    mask = live[:, None] & (k < results)[None, :]
    tl.store(to, of_others, mask=mask)
    tl.store(to + depth_taps * results, of_own, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def weight_kernel(
    grad,
    features,
    saturation,
    motions,
    gains,
    out,
    rows,
    share,
    count,
    channels,
    height,
    width,
    reference,
    images,
    moves,
    exposures,
    image_stride,
    move_stride,
    exposure_stride,
    depth,
    ceiling: tl.float64,
    out_depth,
    out_height,
    out_width,
    results,
    depth_taps,
    row_taps,
    column_taps,
    depth_stride,
    row_stride,
    column_stride,
    depth_padding,
    row_padding,
    column_padding,
    depth_dilation,
    row_dilation,
    column_dilation,
    CONSTANT: tl.constexpr,
    CAP: tl.constexpr,
    SATURATION: tl.constexpr,
    INCLUDE: tl.constexpr,
    WIDE: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradients (parts of the places, 3, depth taps, taps, C, K) of Wa, Wd and Wp by what other images have of it.

    Where CONSTANT, those of Wa, Wr and Wp by the maps: the upstream gradient is that of :func:`depth_sums_kernel`, with
    a depth of 1. A part is ``share`` places, a multiple of ROWS.
    """
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    OPERAND: tl.constexpr = features.dtype.element_ty if HALF else T
    program = tl.program_id(0)
    column_blocks = (results + COLUMNS - 1) // COLUMNS
    channel_blocks = (channels + CHANNELS - 1) // CHANNELS
    taps = row_taps * column_taps
    k = program % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    program = program // column_blocks
    c = program % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    program = program // channel_blocks
    tap = program % taps
    program = program // taps
    tap_z = program % depth_taps
    chunk = program // depth_taps
    top = tl.full([], ceiling, T)
    linear = tl.zeros([CHANNELS, COLUMNS], T)
    second = tl.zeros([CHANNELS, COLUMNS], T)
    product = tl.zeros([CHANNELS, COLUMNS], T)
    plane = height.to(tl.int64) * width
    begin = chunk.to(rows.dtype) * share
    for start in range(begin, begin + tl.minimum(share, rows - begin), ROWS):
        row = start + tl.arange(0, ROWS)
        live = row < rows
        n, o, y, x = _place(row, out_depth, out_height, out_width)
        y = y * row_stride - row_padding + tap // column_taps * row_dilation
        x = x * column_stride - column_padding + tap % column_taps * column_dilation
        inside = live & _inside(y, x, height, width)
        if CONSTANT:
            pixel = (n * count + reference) * plane + y.to(tl.int64) * width + x
            base = tl.trans(_pixels(features, pixel, c, channels, inside, T))
            place = row.to(tl.int64) * 2 * depth_taps + tap_z
            of_others = _pixels(grad, place, k, results, inside, T)
            of_own = _pixels(grad, place + depth_taps, k, results, inside, T)
            linear = tl.dot(base, of_own, linear, input_precision="ieee", out_dtype=T)
            second = tl.dot(base, of_others + of_own, second, input_precision="ieee", out_dtype=T)
            product = tl.dot(base * base, of_own, product, input_precision="ieee", out_dtype=T)
        else:
            d = o * depth_stride - depth_padding + tap_z * depth_dilation
            known = inside & (d >= 0) & (d < depth)
            d = tl.where(known, d, 0)
            image = _image_at(d // image_stride % images, reference, INCLUDE)
            other = known & (image != reference)
            if tl.max(other.to(tl.int32), 0) > 0:
                down, right = _motion(motions, d // move_stride % moves, other)
                gain = tl.load(gains + d // exposure_stride % exposures, mask=other, other=0)[:, None]
                there = other & _inside(y + down, x + right, height, width)
                base_at = (n * count + reference) * plane + y.to(tl.int64) * width + x
                base = _pixels(features, base_at, c, channels, other, T)
                other_at = (n * count + image) * plane + (y + down).to(tl.int64) * width + x + right
                value = _other(features, saturation, other_at, c, channels, there, gain, top, CAP, SATURATION, T)
                upstream = _pixels(grad, row.to(tl.int64), k, results, other, OPERAND)
                apart, both = tl.abs(value - base), value * base
                value = tl.trans(value.to(OPERAND))
                linear = tl.dot(value, upstream, linear, input_precision="ieee", out_dtype=T)
                apart = tl.trans(apart.to(OPERAND))
                second = tl.dot(apart, upstream, second, input_precision="ieee", out_dtype=T)
                both = tl.trans(both.to(OPERAND))
                product = tl.dot(both, upstream, product, input_precision="ieee", out_dtype=T)
    part = depth_taps.to(tl.int64) * taps * channels * results
    at = (tap_z * taps + tap) * channels + c
    to = out + chunk * 3 * part + at.to(tl.int64)[:, None] * results + k[None, :]
    mask = (c < channels)[:, None] & (k < results)[None, :]
    tl.store(to, linear, mask=mask)
    tl.store(to + part, second, mask=mask)
    tl.store(to + 2 * part, product, mask=mask)


# ---- launches ------------------------------------------------------------------------------------------------------


class _Inputs(NamedTuple):
    """What the kernels take of the features and of what the volume is made of."""

    features: Tensor  # (N, n, H, W, C)
    saturation: Tensor  # (N, n, H, W, 1 or C); without one, the features
    motions: Tensor
    gains: Tensor
    sizes: tuple[int, ...]
    depth: int
    ceiling: float
    constants: dict[str, Any]


def _inputs(features: Tensor, saturation: Tensor | None, volume: Volume) -> _Inputs:
    _, count, channels, height, width = features.shape
    counts = (count - (not volume.include_reference), len(volume.motions), len(volume.exposures))
    strides, depth = [1, 1, 1], 1
    for axis in reversed(volume.order):
        strides[axis] = max(depth, 1)
        depth *= counts[axis]
    last = features.permute(0, 1, 3, 4, 2).contiguous()
    masks = last if saturation is None else saturation.permute(0, 1, 3, 4, 2).contiguous()
    how = 0 if saturation is None else (1 if saturation.shape[2] == 1 else 2)
    # Written by the device: a copy from the host would keep it out of CUDA graphs.
    gains = features.new_empty(max(1, counts[2]), dtype=compute_dtype(features))
    for gain, value in zip(gains, volume.exposures, strict=False):
        gain.fill_(value)
    # Kernels divide by these counts.
    sizes = (count, channels, height, width, volume.reference, *(max(1, size) for size in counts), *strides)
    constants = {
        "CAP": volume.cap,
        "SATURATION": how,
        "INCLUDE": volume.include_reference,
        "WIDE": features.dtype == torch.float64,
        "CHANNELS": side(channels, chunk(features)),
    }
    motions = volume.motions if len(volume.motions) else volume.motions.new_zeros(1, 2)
    return _Inputs(last, masks, motions.contiguous(), gains, sizes, depth, volume.ceiling, constants)


def matching_volume(features: Tensor, saturation: Tensor | None, *settings: Any) -> Tensor:
    volume = Volume(*settings)
    given = _inputs(features, saturation, volume)
    n, _, channels, height, width = features.shape
    out = features.new_empty((n, given.depth, height, width, volume.channels(channels)))
    if out.numel() == 0:
        return out
    rows = n * given.depth * height * width
    with on_device(features):
        volume_kernel[(triton.cdiv(rows, ROWS),)](
            *given[:4],
            out,
            rows,
            *given.sizes,
            given.depth,
            given.ceiling,
            INNER=volume.inner,
            ROWS=ROWS,
            **given.constants,
        )
    return out


def _of_features(
    given: _Inputs,
    volume: Volume,
    grad: Tensor,
    weight: Tensor,
    constants: Tensor,
    out: Tensor,
    how: Convolution,
    places: tuple[int, ...],
    results: int,
    taps: tuple[int, ...],
    convolved: bool,
) -> None:
    """Gradients of all images by those of a convolution or, unless ``convolved``, of the volume itself."""
    n, count, channels, height, width = out.shape
    rows = n * triton.cdiv(height, how.stride[1]) * triton.cdiv(width, how.stride[2])
    remainders = min(height, how.stride[1]) * min(width, how.stride[2])
    blocks = remainders * triton.cdiv(rows, ROWS) * triton.cdiv(channels, given.constants["CHANNELS"])
    axes = [meeting(s, d) for s, d in zip(how.stride, how.dilation, strict=True)]
    for of_reference, images in ((True, 1), (False, count - 1)):
        if images == 0:
            continue
        features_kernel[(blocks * images,)](
            grad,
            *given[:4],
            weight,
            constants,
            out,
            rows,
            n,
            *given.sizes,
            given.depth,
            given.ceiling,
            *places,
            results,
            *taps,
            *how.stride,
            *how.padding,
            *how.dilation,
            *(numbers[which] for which in range(3) for numbers in axes),
            REFERENCE=of_reference,
            CONVOLVED=convolved,
            INNER=volume.inner,
            HALF=halves(out),
            ROWS=ROWS,
            COLUMNS=side(results, chunk(out)),
            **given.constants,
        )


def matching_volume_backward(grad: Tensor, features: Tensor, saturation: Tensor | None, *settings: Any) -> Tensor:
    volume = Volume(*settings)
    given = _inputs(features, saturation, volume)
    out = features.new_empty(features.shape)
    if out.numel() == 0:
        return out
    none = Convolution((1, 1, 1), (0, 0, 0), (1, 1, 1))
    upstream = grad.to(features.dtype).contiguous()
    with on_device(features):
        _of_features(
            given, volume, upstream, upstream, given.gains, out, none, tuple(grad.shape[1:4]), 1, (1, 1, 1), False
        )
    return out


def _four(weight: Tensor, channels: int) -> Tensor:
    """The weight (4, kD, kH, kW, C, K) of F', F_ref, their difference and their product."""
    _, of_volume, *taps = weight.shape
    if of_volume < 4 * channels:
        # One channel of products is their sum: one weight for all of them.
        shape = (weight.shape[0], channels, *taps)
        weight = torch.cat([weight[:, : 3 * channels], weight[:, 3 * channels :].expand(shape)], 1)
    return weight.unflatten(1, (4, channels)).permute(1, 3, 4, 5, 2, 0)


def matching_conv3d(
    features: Tensor, saturation: Tensor | None, weight: Tensor, bias: Tensor | None, *settings: Any
) -> Tensor:
    volume, how = Volume(*settings[:8]), Convolution(*settings[8:11])
    given = _inputs(features, saturation, volume)
    n, _, channels, height, width = features.shape
    results, _, *taps = weight.shape
    sides = (given.depth, height, width)
    places = [
        (size + 2 * p - d * (t - 1) - 1) // s + 1
        for size, t, s, p, d in zip(sides, taps, how.stride, how.padding, how.dilation, strict=True)
    ]
    out = features.new_empty((n, *places, results))
    if out.numel() == 0:
        return out
    kernel = _four(weight, channels).contiguous()
    block = side(results, columns(features))
    maps = features.new_empty((n, *places[1:], 2, taps[0], results), dtype=compute_dtype(features))
    few = side(results, columns(maps))
    with on_device(features):
        rows = n * places[1] * places[2]
        constants_kernel[(triton.cdiv(rows, ROWS) * taps[0] * triton.cdiv(results, few),)](
            given.features[:, volume.reference].contiguous(),
            kernel,
            maps,
            rows,
            channels,
            height,
            width,
            *places[1:],
            results,
            *taps,
            *how.stride[1:],
            *how.padding[1:],
            *how.dilation[1:],
            WIDE=given.constants["WIDE"],
            ROWS=ROWS,
            CHANNELS=side(channels, chunk(maps)),
            COLUMNS=few,
        )
        rows *= places[0]
        convolve_kernel[(triton.cdiv(rows, ROWS) * triton.cdiv(results, block),)](
            *given[:4],
            kernel,
            maps,
            kernel if bias is None else bias.contiguous(),
            out,
            rows,
            *given.sizes,
            given.depth,
            given.ceiling,
            *places,
            results,
            *taps,
            *how.stride,
            *how.padding,
            *how.dilation,
            BIAS=bias is not None,
            RELU=settings[11],
            HALF=halves(features),
            ROWS=ROWS,
            COLUMNS=block,
            **given.constants,
        )
    return out


def _of_weight(
    given: _Inputs, grad: Tensor, how: Convolution, places: tuple[int, ...], taps: tuple[int, ...], constant: bool
) -> Tensor:
    """Gradients (3, kD, kH, kW, C, K) of :func:`weight_kernel`."""
    channels, results, n = given.sizes[1], grad.shape[-1], given.features.shape[0]
    block = side(results, 32)
    rows = n * places[0] * places[1] * places[2]
    each = taps[0] * taps[1] * taps[2]
    each *= triton.cdiv(channels, given.constants["CHANNELS"]) * triton.cdiv(results, block)
    share = max(triton.cdiv(triton.cdiv(rows, max(1, PROGRAMS // each)), SHARE), 1) * SHARE
    chunks = triton.cdiv(rows, share)
    out = grad.new_empty((chunks, _PARTS, *taps, channels, results), dtype=compute_dtype(grad))
    weight_kernel[(chunks * each,)](
        grad,
        *given[:4],
        out,
        rows,
        share,
        *given.sizes,
        given.depth,
        given.ceiling,
        *places,
        results,
        *taps,
        *how.stride,
        *how.padding,
        *how.dilation,
        CONSTANT=constant,
        HALF=halves(given.features),
        ROWS=SUMMED if constant else ROWS,
        COLUMNS=block,
        **given.constants,
    )
    return out.sum(0)


def _depth_sums(
    given: _Inputs, volume: Volume, grad: Tensor, how: Convolution, places: tuple[int, ...], taps: int
) -> Tensor:
    n, results = grad.shape[0], grad.shape[-1]
    rows, block = n * places[1] * places[2], side(results, 32)
    sums = grad.new_empty((n, *places[1:], 2, taps, results), dtype=compute_dtype(grad))
    depth_sums_kernel[(triton.cdiv(rows, ROWS) * taps * triton.cdiv(results, block),)](
        grad,
        sums,
        rows,
        volume.reference,
        given.sizes[5],
        given.sizes[8],
        given.depth,
        *places,
        results,
        taps,
        how.stride[0],
        how.padding[0],
        how.dilation[0],
        INCLUDE=volume.include_reference,
        WIDE=given.constants["WIDE"],
        ROWS=ROWS,
        COLUMNS=block,
    )
    return sums


def matching_conv3d_backward(
    grad: Tensor, features: Tensor, saturation: Tensor | None, weight: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    volume, how, wants = Volume(*settings[:8]), Convolution(*settings[8:11]), settings[11:]
    of_features = features.new_empty(features.shape if wants[0] else (0,))
    if grad.numel() == 0 or features.numel() == 0:
        return of_features.zero_(), weight.new_zeros(weight.shape if wants[1] else (0,))
    of_weight = weight.new_empty(0)
    given = _inputs(features, saturation, volume)
    n, _, channels, height, width = features.shape
    results, _, *taps = weight.shape
    places = tuple(grad.shape[1:4])
    upstream = grad.to(features.dtype).contiguous()
    with on_device(features):
        sums = _depth_sums(given, volume, upstream, how, places, taps[0])
        if wants[0]:
            # What F_ref and F_ref² have of the maps: a transposed convolution of the sums.
            kernel = _four(weight, channels)
            linear, itself, _, product = kernel.to(sums.dtype)
            factor = torch.stack(
                [torch.stack([itself, torch.zeros_like(itself)]), torch.stack([linear + itself, product])]
            )
            factor = factor.permute(0, 2, 6, 1, 5, 3, 4).reshape(2 * taps[0] * results, 2 * channels, 1, *taps[1:])
            sides = zip((height, width), taps[1:], how.stride[1:], how.padding[1:], how.dilation[1:], strict=True)
            rest = [(size + 2 * p - d * (t - 1) - 1) % s for size, t, s, p, d in sides]
            plane = ((1, *numbers[1:]) for numbers in (how.stride, how.padding, how.dilation))
            stride, padding, dilation = plane
            constants = deconv3d(
                sums.view(n, 1, *places[1:], -1),
                factor,
                None,
                stride,
                (0, *padding[1:]),
                (0, *rest),
                dilation,
                False,
            )
            gathered = kernel.transpose(-1, -2).contiguous()
            _of_features(
                given, volume, upstream, gathered, constants, of_features, how, places, results, tuple(taps), True
            )
        if wants[1]:
            linear, apart, product = _of_weight(given, upstream, how, places, tuple(taps), False)
            of_own, itself, of_squares = _of_weight(given, sums.flatten(3, 4), how, (1, *places[1:]), tuple(taps), True)
            product = product + of_squares
            if volume.inner:
                product = product.sum(-2, keepdim=True)
            whole = torch.cat([linear + of_own, itself, apart, product], -2)
            of_weight = whole.permute(4, 3, 0, 1, 2).to(weight.dtype).contiguous()
    return of_features, of_weight
