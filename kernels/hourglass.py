"""Triton kernel of ``hourglass``; arguments as in ``cpp/schema.cpp``, definition in ``hdrops.reference.hourglass``.

A transposed convolution by gather. Tap k carries element i to place i stride - padding + k dilation; all places of one
remainder modulo the stride are met by the same taps, each from the element at a constant distance. A program has a
block of such places of the result and of its channels, and adds up a product of matrices for each tap and block of
channels of x: an implicit GEMM, without zeros between the elements and without atomics. Products of float16 and
bfloat16 have float32 sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import _store, on_device
from hdrops.kernels._strides import _meeting_taps, chunk, columns, halves, meeting, side

ROWS = 64  # places of the result in a block

# Sizes that no other variant is compiled for; of channels it matters whether they are aligned.
SIZES = [
    *("rows", "batch", "depth", "height", "width", "out_depth", "out_height", "out_width"),
    *("depth_taps", "row_taps", "column_taps", "depth_stride", "row_stride", "column_stride"),
    *("depth_padding", "row_padding", "column_padding", "depth_dilation", "row_dilation", "column_dilation"),
    *("depth_divisor", "row_divisor", "column_divisor", "depth_inverse", "row_inverse", "column_inverse"),
    *("depth_step", "row_step", "column_step"),
]


@triton.jit(do_not_specialize=SIZES)
def deconv3d_kernel(
    x,
    weight,
    bias,
    out,
    rows,
    batch,
    depth,
    height,
    width,
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
    depth_inverse: tl.int64,
    row_inverse: tl.int64,
    column_inverse: tl.int64,
    depth_step,
    row_step,
    column_step,
    BIAS: tl.constexpr,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """x (N, D, H, W, C) by weight (taps, C, K); ``rows`` is the most that one remainder has, N included."""
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    OPERAND: tl.constexpr = x.dtype.element_ty if HALF else T
    program = tl.program_id(0).to(rows.dtype)
    column_blocks = (results + COLUMNS - 1) // COLUMNS
    row_blocks = (rows + ROWS - 1) // ROWS
    k = (program % column_blocks).to(tl.int32) * COLUMNS + tl.arange(0, COLUMNS)
    program = program // column_blocks
    row = program % row_blocks * ROWS + tl.arange(0, ROWS)
    remainder = (program // row_blocks).to(tl.int32)
    across = tl.minimum(column_stride, out_width)
    down = tl.minimum(row_stride, out_height)
    x0 = remainder % across
    y0 = remainder // across % down
    z0 = remainder // across // down
    # Places of this remainder on each axis.
    wide = (out_width - x0 + column_stride - 1) // column_stride
    high = (out_height - y0 + row_stride - 1) // row_stride
    deep = (out_depth - z0 + depth_stride - 1) // depth_stride
    column = (row % wide).to(tl.int32)
    line = row // wide
    down_to = (line % high).to(tl.int32)
    line = line // high
    slice_ = (line % deep).to(tl.int32)
    n = (line // deep).to(tl.int64)
    live = n < batch

    first_z, of_z = _meeting_taps(
        z0 + depth_padding, depth_stride, depth_divisor, depth_inverse, depth_step, depth_taps
    )
    first_y, of_y = _meeting_taps(y0 + row_padding, row_stride, row_divisor, row_inverse, row_step, row_taps)
    first_x, of_x = _meeting_taps(
        x0 + column_padding, column_stride, column_divisor, column_inverse, column_step, column_taps
    )
    blocks = (channels + CHANNELS - 1) // CHANNELS
    total = tl.zeros([ROWS, COLUMNS], T)
    for step in range(of_z * of_y * of_x * blocks):
        c = (step % blocks).to(tl.int32) * CHANNELS + tl.arange(0, CHANNELS)
        at = step // blocks
        tap_x = first_x + at % of_x * column_step
        tap_y = first_y + at // of_x % of_y * row_step
        tap_z = first_z + at // of_x // of_y * depth_step
        # Divisions without remainder, of which some are of negative numbers.
        xi = column + (x0 + column_padding - tap_x * column_dilation) // column_stride
        yi = down_to + (y0 + row_padding - tap_y * row_dilation) // row_stride
        zi = slice_ + (z0 + depth_padding - tap_z * depth_dilation) // depth_stride
        inside = live & (zi >= 0) & (zi < depth) & (yi >= 0) & (yi < height) & (xi >= 0) & (xi < width)
        element = ((n * depth + zi) * height + yi) * width + xi
        value = tl.load(
            x + (element * channels)[:, None] + c[None, :],
            mask=inside[:, None] & (c < channels)[None, :],
            other=0,
        ).to(OPERAND)
        tap = (tap_z * row_taps + tap_y) * column_taps + tap_x
        factor = tl.load(
            weight + (tap * channels + c).to(tl.int64)[:, None] * results + k[None, :],
            mask=(c < channels)[:, None] & (k < results)[None, :],
            other=0,
        ).to(OPERAND)
        total = tl.dot(value, factor, total, input_precision="ieee", out_dtype=T)
    if BIAS:
        total += tl.load(bias + k, mask=k < results, other=0).to(T)[None, :]
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # NaN stays
    place = ((n * out_depth + z0 + slice_ * depth_stride) * out_height + y0 + down_to * row_stride) * out_width
    place += x0 + column * column_stride
    _store(out + (place * results)[:, None] + k[None, :], total, live[:, None] & (k < results)[None, :], 1)


def deconv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    relu: bool,
) -> Tensor:
    n, *sides, channels = x.shape
    results, *taps = weight.shape[1:]
    axes = zip(sides, taps, stride, padding, output_padding, dilation, strict=True)
    places = [(size - 1) * s - 2 * p + d * (t - 1) + extra + 1 for size, t, s, p, extra, d in axes]
    out = x.new_empty((n, *places, results))
    if out.numel() == 0:
        return out
    # Places of the remainder 0, and remainders that occur.
    rows, remainders = n, 1
    for place, s in zip(places, stride, strict=True):
        rows *= triton.cdiv(place, s)
        remainders *= min(place, s)
    block = side(results, columns(x))
    divisors, inverses, steps = zip(*(meeting(s, d) for s, d in zip(stride, dilation, strict=True)), strict=True)
    with on_device(x):
        deconv3d_kernel[(remainders * triton.cdiv(rows, ROWS) * triton.cdiv(results, block),)](
            x.contiguous(),
            weight.permute(2, 3, 4, 0, 1).contiguous(),
            out if bias is None else bias.contiguous(),
            out,
            rows,
            n,
            *sides,
            channels,
            *places,
            results,
            *taps,
            *stride,
            *padding,
            *dilation,
            *divisors,
            *inverses,
            *steps,
            BIAS=bias is not None,
            RELU=relu,
            WIDE=x.dtype == torch.float64,
            HALF=halves(x),
            ROWS=ROWS,
            CHANNELS=side(channels, chunk(x)),
            COLUMNS=block,
        )
    return out
