"""Triton kernels of ``mtb``; arguments as in ``cpp/schema.cpp``, definition in ``hdrops.reference.mtb``.

The finest level becomes grey codes; coarser levels are read from it with strides. A level takes one pass for its
histogram, and one in which each program counts the pixels of a block that disagree at the nine shifts, with integer
atomics, whose order does not matter. Limits and the choice of the shift are work on a few numbers by PyTorch, on the
device: nothing waits for it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import full_scale, on_device
from hdrops.reference.mtb import GREY, level_count

BLOCK = 1024


@triton.jit
def _byte_code(raw, FULL: tl.constexpr):
    """Samples as 8-bit codes: 16 bits divided by 257, floats times 255, both rounded."""
    if FULL == 255:
        return raw.to(tl.int32)
    if FULL == 65535:
        return (255 * raw.to(tl.int32) + 32895) >> 16
    T: tl.constexpr = tl.float64 if raw.dtype == tl.float64 else tl.float32
    value = raw.to(T) * 255.0
    value = tl.where(value > 0, value, 0.0)
    value = tl.where(value < 255, value, 255.0)
    # Adding 1.5 times the power of two that leaves no bits for the fraction rounds half to even.
    magic: tl.constexpr = 6755399441055744.0 if value.dtype.is_fp64() else 12582912.0
    return ((value + magic) - magic).to(tl.int32)


@triton.jit(do_not_specialize=["blocks"])
def grey_kernel(
    image,
    codes,
    pixels,
    blocks,
    CHANNELS: tl.constexpr,
    FULL: tl.constexpr,
    RED: tl.constexpr,
    GREEN: tl.constexpr,
    BLUE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grey codes (n, pixels) of images (n, CHANNELS, pixels)."""
    program = tl.program_id(0).to(tl.int64)
    n = program // blocks
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    plane = image + n * CHANNELS * pixels + at
    grey = _byte_code(tl.load(plane, mask=inside, other=0), FULL)
    if CHANNELS == 3:
        green = _byte_code(tl.load(plane + pixels, mask=inside, other=0), FULL)
        blue = _byte_code(tl.load(plane + 2 * pixels, mask=inside, other=0), FULL)
        grey = (RED * grey + GREEN * green + BLUE * blue + 16384) >> 15
    tl.store(codes + n * pixels + at, grey.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["height", "width", "level", "blocks"])
def histogram_kernel(codes, counts, height, width, level, blocks, BLOCK: tl.constexpr):
    """Histograms of one level of (planes, height, width) codes, added to counts (planes, 256)."""
    program = tl.program_id(0).to(tl.int64)
    plane = program // blocks
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    columns = width >> level
    inside = at < (height >> level).to(tl.int64) * columns
    place = ((at // columns) << level) * width + ((at % columns) << level)
    found = tl.load(codes + plane * height * width + place, mask=inside, other=0).to(tl.int32)
    bins = tl.arange(0, 256)
    # Lanes past the end have been counted as code 0.
    outside = BLOCK - tl.sum(inside.to(tl.int32), 0)
    sums = tl.histogram(found, 256) - tl.where(bins == 0, outside, 0)
    tl.atomic_add(counts + plane * 256 + bins, sums.to(tl.int64), mask=sums > 0, sem="relaxed")


@triton.jit(do_not_specialize=["n", "height", "width", "level", "blocks"])
def compare_kernel(image, reference, limits, shifts, sums, n, height, width, level, blocks, BLOCK: tl.constexpr):
    """Counts at the nine shifts about ``shifts`` (n, 2) on one level of codes (n, height, width).

    limits (2, n, 2), of the reference and of the image: lower codes are below and higher ones above the median. Pixels
    that disagree and pixels compared are added to sums (n, 9, 2).
    """
    program = tl.program_id(0).to(tl.int64)
    pair = program // blocks
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    rows, columns = (height >> level).to(tl.int64), (width >> level).to(tl.int64)
    inside = at < rows * columns
    y, x = at // columns, at % columns
    base = pair * height * width
    code = tl.load(reference + base + (y << level) * width + (x << level), mask=inside, other=0).to(tl.int64)
    below = (code < tl.load(limits + 2 * pair)) & inside
    above = (code > tl.load(limits + 2 * pair + 1)) & inside
    image_low = tl.load(limits + 2 * (n + pair))
    image_high = tl.load(limits + 2 * (n + pair) + 1)
    dy, dx = tl.load(shifts + 2 * pair), tl.load(shifts + 2 * pair + 1)
    for candidate in tl.static_range(9):
        from_y = y - dy - (candidate % 3 - 1)
        from_x = x - dx - (candidate // 3 - 1)
        valid = inside & (from_y >= 0) & (from_y < rows) & (from_x >= 0) & (from_x < columns)
        place = (from_y << level) * width + (from_x << level)
        other = tl.load(image + base + place, mask=valid, other=0).to(tl.int64)
        other_below = (other < image_low) & valid
        other_above = (other > image_high) & valid
        errors = (above & other_below) | (below & other_above)
        compared = (above | below) & (other_above | other_below)
        to = sums + (pair * 9 + candidate) * 2
        tl.atomic_add(to, tl.sum(errors.to(tl.int64), 0), sem="relaxed")
        tl.atomic_add(to + 1, tl.sum(compared.to(tl.int64), 0), sem="relaxed")


def _grey(image: Tensor, codes: Tensor) -> None:
    n, c, h, w = image.shape
    blocks = triton.cdiv(h * w, BLOCK)
    red, green, blue = GREY
    grey_kernel[(n * blocks,)](
        image.contiguous(),
        codes,
        h * w,
        blocks,
        CHANNELS=c,
        FULL=full_scale(image.dtype),
        RED=red,
        GREEN=green,
        BLUE=blue,
        BLOCK=BLOCK,
    )


def _limits(counts: Tensor, exclude: int) -> tuple[Tensor, Tensor]:
    """Limits (2, n, 2) of histograms (2, n, 256), and whether any pixel of both images of a pair lies outside (n)."""
    before = counts.cumsum(-1) - counts
    median = (before < counts.sum(-1, keepdim=True) >> 1).sum(-1, keepdim=True)
    limits = torch.cat([median - exclude, median + exclude], -1)
    code = torch.arange(256, device=counts.device)
    outside = (code < limits[..., :1]) | (code > limits[..., 1:])
    return limits, ((counts > 0) & outside).any(-1).all(0)


def mtb_shift(image: Tensor, reference: Tensor, levels: int, exclude: int) -> Tensor:
    n, _, h, w = image.shape
    device = image.device
    levels = level_count(h, w, levels)
    shift = torch.zeros(n, 2, dtype=torch.int64, device=device)
    numbers = torch.zeros_like(shift)
    if n == 0 or levels == 0:
        return torch.cat([shift, numbers], 1)
    codes = torch.empty(2, n, h, w, dtype=torch.uint8, device=device)
    order = torch.arange(9, device=device)
    with on_device(image):
        _grey(reference, codes[0])
        _grey(image, codes[1])
        for level in reversed(range(levels)):
            blocks = triton.cdiv((h >> level) * (w >> level), BLOCK)
            counts = torch.zeros(2, n, 256, dtype=torch.int64, device=device)
            histogram_kernel[(2 * n * blocks,)](codes, counts, h, w, level, blocks, BLOCK=BLOCK)
            limits, informative = _limits(counts, exclude)
            shift = 2 * shift
            sums = torch.zeros(n, 9, 2, dtype=torch.int64, device=device)
            compare_kernel[(n * blocks,)](codes[1], codes[0], limits, shift, sums, n, h, w, level, blocks, BLOCK=BLOCK)
            # The first of the best: keys differ, so that the least of them is one.
            best = (9 * sums[..., 0] + order).argmin(1)
            step = torch.stack([best % 3 - 1, best // 3 - 1], 1)
            shift = torch.where(informative[:, None], shift + step, shift)
            found = sums.gather(1, best[:, None, None].expand(-1, -1, 2))[:, 0]
            numbers = torch.where(informative[:, None], found, 0)
    return torch.cat([shift, numbers], 1)
