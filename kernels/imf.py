"""Triton kernels of ``imf``; arguments as in ``cpp/schema.cpp``, definition in ``hdrops.reference.imf``.

* ``estimate_imf``: one pass over each image for its histogram (per program in shared memory for bytes,
  integer atomics in global memory for 16 bits; counts do not depend on the order), then work on tables of 256
  or 65,536 entries only, parallel over levels. Nothing waits for the device.
* ``imf_fuse``: one pass, 2 s bytes read and s written per value (s: the size of the image type); tables are
  gathered from global memory, where a table of 256 entries stays in the L1 cache.
* ``imf_fuse_backward``: one pass; image gradients pixel by pixel, table gradients by atomic additions into
  copies of the table that are added at the end, so their last bits vary from run to run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import _store, compute_dtype, full_scale, on_device

# Programs per histogram: each adds its counts to the global table once.
HISTOGRAM_PROGRAMS = 512
# Entries that the copies of a table gradient may have together, and how many copies help at most.
GRADIENT_ENTRIES = 1 << 16
GRADIENT_COPIES = 64


# ---- estimate_imf ------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["chunks", "steps"])
def histogram_bytes_kernel(image, counts, pixels, chunks, steps, BLOCK: tl.constexpr):
    """Histograms of (planes, pixels) bytes, added to counts (planes, 256); `steps` blocks per program."""
    program = tl.program_id(0).to(tl.int64)
    plane = program // chunks
    bins = tl.arange(0, 256)
    found = tl.zeros([256], tl.int32)
    for step in range(steps):
        at = (step * chunks + program % chunks) * BLOCK + tl.arange(0, BLOCK)
        inside = at < pixels
        codes = tl.load(image + plane * pixels + at, mask=inside, other=0).to(tl.int32)
        # Lanes past the end have been counted as code 0.
        outside = BLOCK - tl.sum(inside.to(tl.int32), 0)
        found += tl.histogram(codes, 256) - tl.where(bins == 0, outside, 0)
    tl.atomic_add(counts + plane * 256 + bins, found.to(tl.int64), mask=found > 0, sem="relaxed")


@triton.jit(do_not_specialize=["blocks"])
def histogram_words_kernel(image, counts, pixels, blocks, BLOCK: tl.constexpr):
    """Histograms of (planes, pixels) 16-bit codes, added to counts (planes, 65536)."""
    program = tl.program_id(0).to(tl.int64)
    plane = program // blocks
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    codes = tl.load(image + plane * pixels + at, mask=inside, other=0).to(tl.int64)
    tl.atomic_add(counts + plane * 65536 + codes, tl.full([BLOCK], 1, tl.int64), mask=inside, sem="relaxed")


@triton.jit
def specify_kernel(
    quantiles, before, after, matched, entries, CODES: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr
):
    """The target value whose quantile equals that of each source level, into matched (planes, CODES).

    quantiles, before and after (the nearest level that occurs: at or before, at or after) are
    (2, planes, CODES), source first; entries = planes * CODES.
    """
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < entries
    source = tl.where(inside, entry, 0)
    quantile = tl.load(quantiles + source)
    target = entries + source // CODES * CODES
    # The first target level beyond the quantile. Quantiles of levels that do not occur lie between their
    # neighbours', so all levels can be searched and the nearest that occur taken afterwards.
    low = tl.zeros([BLOCK], tl.int64)
    high = tl.full([BLOCK], CODES, tl.int64)
    for _ in range(STEPS):
        middle = (low + high) // 2
        active = low < high
        beyond = tl.load(quantiles + target + middle, mask=active, other=0) > quantile
        high = tl.where(active & beyond, middle, high)
        low = tl.where(active & (beyond == 0), middle + 1, low)
    upper = tl.load(after + target + low, mask=low < CODES, other=CODES)
    lower = tl.load(before + target + low - 1, mask=low > 0, other=-1)
    # Before the first and after the last level that occurs, that level itself.
    first = tl.where(lower >= 0, lower, upper)
    second = tl.where(upper < CODES, upper, first)
    at_first = tl.load(quantiles + target + first)
    at_second = tl.load(quantiles + target + second)
    between = first < second
    share = (quantile - at_first) / tl.where(between, at_second - at_first, 1.0)
    share = tl.where(between, tl.minimum(tl.maximum(share, 0.0), 1.0), 0.0)
    value = first.to(tl.float64) + share * (second - first).to(tl.float64)
    tl.store(matched + entry, value, mask=inside)


@triton.jit
def _mapped(z, before, after, matched, first, final, last, limit):
    """The map at level z: matched where z occurs, linear between, in proportion to z before and after."""
    lower = tl.minimum(tl.maximum(tl.load(before + z), first), final)
    upper = tl.minimum(tl.maximum(tl.load(after + z), first), final)
    value = tl.load(matched + lower)
    gap = tl.where(lower < upper, upper - lower, 1).to(tl.float64)
    between = value + (tl.load(matched + upper) - value) * ((z - lower).to(tl.float64) / gap)
    # Outside, the clamping has moved both ends to the first or the final level; `between` has slope 0 there.
    below = z < first
    above = (z > last) & (last > 0)
    anchor = tl.where(below, first, tl.where(above, last, 1))
    continued = tl.load(matched + anchor) * z.to(tl.float64) / anchor.to(tl.float64)
    return tl.where(below, continued, tl.where(above, tl.maximum(tl.minimum(between, limit), continued), between))


@triton.jit
def resample_kernel(
    before,
    after,
    matched,
    firsts,
    finals,
    lasts,
    limits,
    table,
    entries,
    levels,
    CODES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Maps at `levels` equidistant positions, in 8-bit code units; before and after as in specify_kernel."""
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < entries
    plane = tl.where(inside, entry // levels, 0)
    level = tl.where(inside, entry % levels, 0)
    spacing = tl.full([], CODES - 1, tl.float64) / tl.full([], levels - 1, tl.float64)
    position = level.to(tl.float64) * spacing
    z = tl.minimum(position.to(tl.int64), CODES - 2)
    share = tl.minimum(position - z.to(tl.float64), 1.0)
    first, final, last = tl.load(firsts + plane), tl.load(finals + plane), tl.load(lasts + plane)
    limit = tl.load(limits + plane)
    base = plane * CODES
    lower = _mapped(z, before + base, after + base, matched + base, first, final, last, limit)
    upper = _mapped(z + 1, before + base, after + base, matched + base, first, final, last, limit)
    # A quotient of constants: 1 for bytes, 1 / 257 for 16 bits.
    value = (lower + share * (upper - lower)) * (255.0 / (CODES - 1))
    tl.store(table + entry, value.to(tl.float32), mask=inside)


def estimate_imf(source: Tensor, target: Tensor, levels: int, saturated: float) -> Tensor:
    codes = 256 if source.dtype == torch.uint8 else 65536
    n, c = source.shape[:2]
    planes = n * c
    table = source.new_empty((n, c, levels), dtype=torch.float32)
    if planes == 0:
        return table
    counts = source.new_zeros((2, planes, codes), dtype=torch.int64)
    matched = source.new_empty((planes, codes), dtype=torch.float64)
    block = 4096
    options = {"num_warps": 8, "enable_fp_fusion": False}
    with on_device(source):
        for image, count in zip((source.contiguous(), target.contiguous()), counts, strict=True):
            pixels = image.shape[2] * image.shape[3]
            blocks = triton.cdiv(pixels, block)
            if codes == 256:
                chunks = min(blocks, HISTOGRAM_PROGRAMS)
                grid, steps = (planes * chunks,), triton.cdiv(blocks, chunks)
                histogram_bytes_kernel[grid](image, count, pixels, chunks, steps, BLOCK=block, **options)
            else:
                grid = (planes * blocks,)
                histogram_words_kernel[grid](image, count, pixels, blocks, BLOCK=block, **options)

        # On tables: the middle of each level's share of the cumulative histogram stands for the level.
        through = counts.cumsum(-1)
        quantiles = (2 * through - counts).double() / (2.0 * through[..., -1:].double())
        z = torch.arange(codes, device=source.device)
        occurs = counts > 0
        before = torch.where(occurs, z, -1).cummax(-1).values
        after = torch.where(occurs, z, codes).flip(-1).cummin(-1).values.flip(-1)
        entries = planes * codes
        specify_kernel[(triton.cdiv(entries, block),)](
            quantiles,
            before,
            after,
            matched,
            entries,
            CODES=codes,
            STEPS=codes.bit_length(),
            BLOCK=block,
            **options,
        )
        limit = saturated * (codes - 1) / 255.0
        limits = matched.new_full((planes,), limit)
        trusted = occurs[0] & (z > 0) & (matched > 0) & (matched < limit)
        last = torch.where(trusted, z, -1).amax(-1)
        final = before[0, :, -1].contiguous()
        last = torch.where(last >= 0, last, final)
        first = after[0, :, 0].contiguous()
        block = 1024
        resample_kernel[(triton.cdiv(planes * levels, block),)](
            before,
            after,
            matched,
            first,
            final,
            last,
            limits,
            table,
            planes * levels,
            levels,
            CODES=codes,
            BLOCK=block,
            **options,
        )
    return table


# ---- imf_fuse ----------------------------------------------------------------------------------------------


@triton.jit
def _table_position(position, levels):
    """Lower entry and fraction of positions, clamped to the table; NaN gives entry 0 and a NaN fraction."""
    inside = tl.where(position > 0, position, 0.0)
    last = tl.full([], levels - 1, position.dtype)
    inside = tl.where(inside < last, inside, last)
    index = tl.minimum(inside.to(tl.int32), levels - 2)
    fraction = inside - index.to(position.dtype)
    return index, tl.where(position == position, fraction, position)


@triton.jit
def _unit(t):
    """Clamped to [0, 1]; NaN becomes 0."""
    floor = tl.where(t > 0, t, 0.0)
    return tl.where(floor < 1, floor, 1.0)


@triton.jit
def _smoothstep(t):
    return t * t * (3 - 2 * t)


@triton.jit
def _blend(weight_dark, value_dark, weight_bright, value_bright):
    """Eq. 8, with the plain average where both weights vanish."""
    total = weight_dark + weight_bright
    some = total > 0
    weighted = (weight_dark * value_dark + weight_bright * value_bright) / tl.where(some, total, 1.0)
    return tl.where(some, weighted, (value_dark + value_bright) * 0.5)


@triton.jit
def _plane_table(table, plane, channels, stride_n, stride_c):
    return table + (plane // channels) * stride_n + (plane % channels) * stride_c


@triton.jit
def fuse_kernel(
    dark,
    bright,
    imf_dark,
    imf_bright,
    out,
    pixels,
    blocks,
    channels,
    dark_stride_n,
    dark_stride_c,
    bright_stride_n,
    bright_stride_c,
    levels_dark,
    levels_bright,
    low_start: tl.float64,
    low_slope: tl.float64,
    high_end: tl.float64,
    high_slope: tl.float64,
    FULL_IN: tl.constexpr,
    FULL_OUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of one (n, c) plane. Tables and thresholds in 8-bit code units."""
    T: tl.constexpr = imf_dark.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    plane = program // blocks
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = at < pixels
    raw_dark = tl.load(dark + plane * pixels + at, mask=mask, other=0).to(T)
    raw_bright = tl.load(bright + plane * pixels + at, mask=mask, other=0).to(T)

    table_dark = _plane_table(imf_dark, plane, channels, dark_stride_n, dark_stride_c)
    table_bright = _plane_table(imf_bright, plane, channels, bright_stride_n, bright_stride_c)
    index_dark, fraction_dark = _table_position(raw_dark * (tl.full([], levels_dark - 1, T) / FULL_IN), levels_dark)
    index_bright, fraction_bright = _table_position(
        raw_bright * (tl.full([], levels_bright - 1, T) / FULL_IN), levels_bright
    )
    value_dark = tl.load(table_dark + index_dark)
    value_dark += fraction_dark * (tl.load(table_dark + index_dark + 1) - value_dark)
    value_bright = tl.load(table_bright + index_bright)
    value_bright += fraction_bright * (tl.load(table_bright + index_bright + 1) - value_bright)

    code: tl.constexpr = 255.0 / FULL_IN
    rising = (raw_dark * code - tl.full([], low_start, T)) * tl.full([], low_slope, T)
    falling = (tl.full([], high_end, T) - raw_bright * code) * tl.full([], high_slope, T)
    value = _blend(_smoothstep(_unit(rising)), value_dark, _smoothstep(_unit(falling)), value_bright)
    _store(out + plane * pixels + at, value * (FULL_OUT / 255.0), mask, FULL_OUT)


@triton.jit
def fuse_backward_kernel(
    grad,
    dark,
    bright,
    imf_dark,
    imf_bright,
    grad_dark,
    grad_bright,
    grad_imf_dark,
    grad_imf_bright,
    pixels,
    blocks,
    channels,
    dark_stride_n,
    dark_stride_c,
    bright_stride_n,
    bright_stride_c,
    levels_dark,
    levels_bright,
    copies,
    dark_entries,
    bright_entries,
    low_start: tl.float64,
    low_slope: tl.float64,
    high_end: tl.float64,
    high_slope: tl.float64,
    FULL_IN: tl.constexpr,
    IMAGES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of one block. Table gradients go to one of `copies` copies, each of `*_entries` entries."""
    T: tl.constexpr = imf_dark.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    plane = program // blocks
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = at < pixels
    raw_dark = tl.load(dark + plane * pixels + at, mask=mask, other=0).to(T)
    raw_bright = tl.load(bright + plane * pixels + at, mask=mask, other=0).to(T)
    upstream = tl.load(grad + plane * pixels + at, mask=mask, other=0).to(T) / 255.0

    table_dark = _plane_table(imf_dark, plane, channels, dark_stride_n, dark_stride_c)
    table_bright = _plane_table(imf_bright, plane, channels, bright_stride_n, bright_stride_c)
    step_dark = tl.full([], levels_dark - 1, T) / FULL_IN
    step_bright = tl.full([], levels_bright - 1, T) / FULL_IN
    index_dark, fraction_dark = _table_position(raw_dark * step_dark, levels_dark)
    index_bright, fraction_bright = _table_position(raw_bright * step_bright, levels_bright)
    value_dark = tl.load(table_dark + index_dark)
    rise_dark = tl.load(table_dark + index_dark + 1) - value_dark
    value_dark += fraction_dark * rise_dark
    value_bright = tl.load(table_bright + index_bright)
    rise_bright = tl.load(table_bright + index_bright + 1) - value_bright
    value_bright += fraction_bright * rise_bright

    code: tl.constexpr = 255.0 / FULL_IN
    slope_low = tl.full([], low_slope, T)
    slope_high = tl.full([], high_slope, T)
    rising = _unit((raw_dark * code - tl.full([], low_start, T)) * slope_low)
    falling = _unit((tl.full([], high_end, T) - raw_bright * code) * slope_high)
    weight_dark, weight_bright = _smoothstep(rising), _smoothstep(falling)
    total = weight_dark + weight_bright
    some = total > 0
    inverse = tl.where(some, 1.0 / tl.where(some, total, 1.0), 0.0)
    to_dark = upstream * tl.where(some, weight_dark * inverse, 0.5)
    to_bright = upstream * tl.where(some, weight_bright * inverse, 0.5)

    if IMAGES:
        blended = _blend(weight_dark, value_dark, weight_bright, value_bright)
        # Positions outside the table are clamped to it and pass nothing on.
        in_dark = (raw_dark * step_dark >= 0) & (raw_dark * step_dark <= tl.full([], levels_dark - 1, T))
        in_bright = (raw_bright * step_bright >= 0) & (raw_bright * step_bright <= tl.full([], levels_bright - 1, T))
        through_value = to_dark * tl.where(in_dark, rise_dark, 0.0) * step_dark
        through_weight = upstream * (value_dark - blended) * inverse * slope_low * 6 * rising * (1 - rising)
        _store(grad_dark + plane * pixels + at, through_value + through_weight * code, mask, 1)
        through_value = to_bright * tl.where(in_bright, rise_bright, 0.0) * step_bright
        through_weight = upstream * (value_bright - blended) * inverse * -slope_high * 6 * falling * (1 - falling)
        _store(grad_bright + plane * pixels + at, through_value + through_weight * code, mask, 1)

    copy = program % copies
    sum_dark = _plane_table(grad_imf_dark + copy * dark_entries, plane, channels, dark_stride_n, dark_stride_c)
    sum_bright = _plane_table(
        grad_imf_bright + copy * bright_entries, plane, channels, bright_stride_n, bright_stride_c
    )
    tl.atomic_add(sum_dark + index_dark, to_dark * (1 - fraction_dark), mask=mask, sem="relaxed")
    tl.atomic_add(sum_dark + index_dark + 1, to_dark * fraction_dark, mask=mask, sem="relaxed")
    tl.atomic_add(sum_bright + index_bright, to_bright * (1 - fraction_bright), mask=mask, sem="relaxed")
    tl.atomic_add(sum_bright + index_bright + 1, to_bright * fraction_bright, mask=mask, sem="relaxed")


def _strides(table: Tensor) -> tuple[int, int]:
    """Strides of a contiguous table over images and channels, 0 where one table serves all."""
    n, c, levels = table.shape
    return (c * levels if n > 1 else 0), (levels if c > 1 else 0)


def _ramps(low: list[float], high: list[float]) -> tuple[float, float, float, float]:
    return float(low[0]), 1.0 / (low[1] - low[0]), float(high[1]), 1.0 / (high[1] - high[0])


def _fuse_into(
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: list[float],
    high: list[float],
    out: Tensor,
) -> None:
    if dark.numel() == 0:
        return
    dark, bright = dark.contiguous(), bright.contiguous()
    imf_dark, imf_bright = imf_dark.contiguous(), imf_bright.contiguous()
    n, c, h, w = dark.shape
    block = 1024
    blocks = triton.cdiv(h * w, block)
    with on_device(dark):
        fuse_kernel[(n * c * blocks,)](
            dark,
            bright,
            imf_dark,
            imf_bright,
            out,
            h * w,
            blocks,
            c,
            *_strides(imf_dark),
            *_strides(imf_bright),
            imf_dark.shape[2],
            imf_bright.shape[2],
            *_ramps(low, high),
            FULL_IN=full_scale(dark.dtype),
            FULL_OUT=full_scale(out.dtype),
            BLOCK=block,
            enable_fp_fusion=True,
        )


def imf_fuse(
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: list[float],
    high: list[float],
    dtype: torch.dtype | None = None,
) -> Tensor:
    out = dark.new_empty(dark.shape, dtype=dtype or dark.dtype)
    _fuse_into(dark, bright, imf_dark, imf_bright, low, high, out)
    return out


def imf_fuse_out(
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: list[float],
    high: list[float],
    out: Tensor,
) -> None:
    dense = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    _fuse_into(dark, bright, imf_dark, imf_bright, low, high, dense)
    if dense is not out:
        out.copy_(dense)


def imf_fuse_backward(
    grad: Tensor,
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: list[float],
    high: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = dark.is_floating_point()
    if images:
        grad_dark, grad_bright = dark.new_empty(dark.shape), dark.new_empty(dark.shape)
    else:
        grad_dark, grad_bright = (grad.new_empty(0, dtype=compute_dtype(dark)) for _ in range(2))
    if dark.numel() == 0:
        return grad_dark, grad_bright, torch.zeros_like(imf_dark), torch.zeros_like(imf_bright)
    grad, dark, bright = grad.contiguous(), dark.contiguous(), bright.contiguous()
    imf_dark, imf_bright = imf_dark.contiguous(), imf_bright.contiguous()
    n, c, h, w = dark.shape
    block = 512
    blocks = triton.cdiv(h * w, block)
    copies = GRADIENT_ENTRIES // max(imf_dark.numel(), imf_bright.numel())
    copies = max(1, min(copies, GRADIENT_COPIES, n * c * blocks))
    sum_dark = imf_dark.new_zeros((copies, *imf_dark.shape))
    sum_bright = imf_bright.new_zeros((copies, *imf_bright.shape))
    with on_device(dark):
        fuse_backward_kernel[(n * c * blocks,)](
            grad,
            dark,
            bright,
            imf_dark,
            imf_bright,
            grad_dark if images else sum_dark,
            grad_bright if images else sum_bright,
            sum_dark,
            sum_bright,
            h * w,
            blocks,
            c,
            *_strides(imf_dark),
            *_strides(imf_bright),
            imf_dark.shape[2],
            imf_bright.shape[2],
            copies,
            imf_dark.numel(),
            imf_bright.numel(),
            *_ramps(low, high),
            FULL_IN=full_scale(dark.dtype),
            IMAGES=images,
            BLOCK=block,
            enable_fp_fusion=True,
        )
    return grad_dark, grad_bright, sum_dark.sum(0), sum_bright.sum(0)
