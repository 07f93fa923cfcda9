"""Triton kernels of ``pairwise``; arguments as in ``cpp/schema.cpp``, definition in ``hdrops.reference.pairwise``.

Sums over patches are separable: across once for all places, down where a pair needs them. A pair finds the places of
its ranks by bisection of the running number of usable places, which PyTorch sums. Backward: slopes are added up in
fixed point, relative to the largest of their channel, so that the order of the atomics does not matter; then in whole
numbers over the patches that cover a pixel. Pixels are patches of one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import _divide, _store, compute_dtype, on_device
from hdrops.reference.pairwise import offset

BLOCK = 512
NONE = tl.constexpr(-(2**63))  # of a sum that NaN takes part in


@triton.jit
def _side(sides, image, height, width):
    wanted = tl.load(sides + image)
    most = tl.minimum(height, width).to(tl.int64)
    return tl.maximum(tl.minimum(wanted, most), 1).to(tl.int32)


@triton.jit(do_not_specialize=["blocks"])
def across_kernel(
    prediction,
    target,
    tops,
    sides,
    given,
    wanted,
    touched,
    channels,
    height,
    width,
    blocks,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums of both images over a side to the right, and whether one of the pixels is over-exposed."""
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    program = tl.program_id(0).to(tl.int64)
    row, size = program // blocks, height * width
    at = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    side, top = _side(sides, row // channels, height, width), tl.load(tops + row // channels)
    inside = (at < size) & (at % width + side <= width)
    first = row * size + at
    one, other = tl.zeros([BLOCK], T), tl.zeros([BLOCK], T)
    exposed = tl.zeros([BLOCK], tl.int32)
    for k in range(side):
        value = tl.load(target + first + k, mask=inside, other=0).to(T)
        one += tl.load(prediction + first + k, mask=inside, other=0).to(T)
        other += value
        exposed |= tl.where(value.to(tl.float64) <= top, 0, 1)
    tl.store(given + first, one, mask=inside)
    tl.store(wanted + first, other, mask=inside)
    tl.store(touched + first, exposed.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["blocks"])
def usable_kernel(touched, sides, usable, channels, height, width, blocks, BLOCK: tl.constexpr):
    """1 where a patch that begins there lies in the image and touches nothing over-exposed, else 0."""
    program = tl.program_id(0).to(tl.int64)
    row, size = program // blocks, height * width
    at = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    side = _side(sides, row // channels, height, width)
    inside = (at < size) & (at % width + side <= width) & (at // width + side <= height)
    first = row * size + at
    exposed = tl.where(inside, 0, 1)
    for k in range(side):
        exposed |= tl.load(touched + first + k * width, mask=inside, other=1).to(tl.int32)
    tl.store(usable + first, 1 - exposed, mask=at < size)


@triton.jit
def _scaled_rank(high, low, total):
    """The 64 random bits as a fraction of 2^64, times the total."""
    factor = total.to(tl.uint64)
    return ((high.to(tl.uint64) * factor + ((low.to(tl.uint64) * factor) >> 32)) >> 32).to(tl.int32)


@triton.jit
def _bisected(numbers, rank, size, STEPS: tl.constexpr):
    """The first place up to which there are more than ``rank`` usable ones."""
    low, high = tl.zeros_like(rank), tl.zeros_like(rank) + size - 1
    for _ in range(STEPS):
        middle = low + (high - low) // 2
        enough = tl.load(numbers + middle) > rank
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, tl.minimum(middle + 1, high))
    return low


@triton.jit(do_not_specialize=["pairs", "blocks"])
def compare_kernel(
    given,
    wanted,
    numbers,
    sides,
    seed,
    costs,
    counts,
    places,
    slopes,
    channels,
    height,
    width,
    pairs,
    blocks,
    threshold: tl.float64,
    constant: tl.float64,
    least: tl.float64,
    TIES: tl.constexpr,
    WIDE: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Costs and numbers of pairs (rows, blocks); their places and slopes. Without TIES, these are not counted."""
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    program = tl.program_id(0).to(tl.int64)
    row, size = program // blocks, height * width
    pair = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    inside = pair < pairs
    side = _side(sides, row // channels, height, width)
    total = tl.load(numbers + row * size + size - 1)
    zero = tl.zeros([BLOCK], tl.int32)
    w0, w1, w2, w3 = tl.philox(tl.load(seed), pair, zero + row.to(tl.int32), zero, zero)
    first = _bisected(numbers + row * size, _scaled_rank(w0, w1, total), size, STEPS)
    second = _bisected(numbers + row * size, _scaled_rank(w2, w3, total), size, STEPS)
    first, second = tl.where(total > 0, first, 0), tl.where(total > 0, second, 0)
    a, b = tl.zeros([BLOCK], T), tl.zeros([BLOCK], T)
    order_a, order_b = tl.zeros([BLOCK], T), tl.zeros([BLOCK], T)
    there = inside & (zero + total > 0)
    for k in range(side):
        line = row * size + k * width
        a += tl.load(given + line + first, mask=there, other=1)
        b += tl.load(given + line + second, mask=there, other=1)
        order_a += tl.load(wanted + line + first, mask=there, other=0)
        order_b += tl.load(wanted + line + second, mask=there, other=0)
    share = _divide(tl.full([], 1, T), (side * side).to(T))
    bound, s = tl.full([], least, T), tl.full([], threshold, T)
    a *= share
    b *= share
    bounded_a, bounded_b = tl.where(a < bound, bound, a), tl.where(b < bound, bound, b)
    sign = tl.where(order_a > order_b, -1.0, 1.0).to(T)
    p = sign * (tl.log(bounded_a) - tl.log(bounded_b))
    beyond = p > s
    x = tl.where(beyond, tl.sqrt(tl.where(beyond, p, 1.0)), p)
    t = tl.exp(tl.where(x < 0, x, -x))
    # log(1 + t) times t over what of it the sum has.
    sum_t = 1 + t
    rest = tl.where(sum_t == 1, 1.0, sum_t - 1)
    softplus = tl.where(x < 0, 0.0, x) + tl.where(sum_t == 1, t, tl.log(sum_t) * (t / rest))
    cost = softplus + tl.where(beyond, tl.full([], constant, T), 0.0)
    sigmoid = tl.where(x < 0, t, 1.0) / sum_t
    slope = sign * share * tl.where(beyond, 0.5 * sigmoid / tl.where(beyond, x, 1.0), sigmoid)
    counted = there
    if not TIES:
        counted = counted & (order_a != order_b)
    at = 2 * row * pairs + pair
    tl.store(places + at, first, mask=inside)
    tl.store(places + at + pairs, second, mask=inside)
    tl.store(slopes + at, tl.where(counted & ~(a < bound), slope / bounded_a, 0.0), mask=inside)
    tl.store(slopes + at + pairs, tl.where(counted & ~(b < bound), -slope / bounded_b, 0.0), mask=inside)
    tl.store(costs + program, tl.sum(tl.where(counted, cost, 0.0).to(tl.float64), 0))
    tl.store(counts + program, tl.sum(counted.to(tl.int32), 0))


@triton.jit(do_not_specialize=["entries"])
def scatter_kernel(places, slopes, quanta, sums, entries, size, blocks, MISSING: tl.constexpr, BLOCK: tl.constexpr):
    """Adds the slopes of each row, in whole numbers, at their places; or puts NONE where a slope is NaN."""
    program = tl.program_id(0).to(tl.int64)
    row = program // blocks
    entry = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = row * entries + entry
    place = tl.load(places + at, mask=entry < entries, other=-1)
    inside = (place >= 0) & (place < size)  # any may come from a caller
    to = sums + row * size + place
    if MISSING:
        slope = tl.load(slopes + at, mask=inside, other=0)
        tl.store(to, tl.full([BLOCK], NONE, tl.int64), mask=inside & (slope != slope))
    else:
        tl.atomic_add(to, tl.load(quanta + at, mask=inside, other=0), mask=inside)


@triton.jit
def _window(sums, at, position, last, side, step, inside, BLOCK: tl.constexpr):
    """What those of ``side`` numbers up to ``at`` add up to that lie from 0 to ``last``."""
    found = tl.zeros([BLOCK], tl.int64)
    missing = tl.zeros([BLOCK], tl.int32)
    for k in range(side):
        there = inside & (position >= k) & (position - k <= last)
        value = tl.load(sums + at - k * step, mask=there, other=0)
        missing |= (value == NONE).to(tl.int32)
        found += value
    return tl.where(missing != 0, NONE, found)


@triton.jit(do_not_specialize=["blocks"])
def spread_across_kernel(sums, sides, out, channels, height, width, blocks, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    row, size = program // blocks, height * width
    at = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    side = _side(sides, row // channels, height, width)
    inside = at < size
    found = _window(sums, row * size + at, at % width, width - side, side, 1, inside, BLOCK)
    tl.store(out + row * size + at, found, mask=inside)


@triton.jit(do_not_specialize=["blocks"])
def spread_down_kernel(
    sums, sides, units, grad, out, channels, height, width, blocks, WIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """The gradient: sums of whole numbers times the unit of their row, and the upstream gradient."""
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    program = tl.program_id(0).to(tl.int64)
    row, size = program // blocks, height * width
    at = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    side = _side(sides, row // channels, height, width)
    inside = at < size
    found = _window(sums, row * size + at, at // width, height - side, side, width, inside, BLOCK)
    slope = tl.where(found == NONE, float("nan"), found.to(tl.float64) * tl.load(units + row))
    _store(out + row * size + at, slope.to(T) * tl.load(grad + 2 * row), inside, 1)


def _sides_of(image: Tensor, sides: Tensor | None) -> Tensor:
    if sides is None:
        return torch.ones(image.shape[0], dtype=torch.int64, device=image.device)
    return sides.contiguous()


def pairwise_loss(
    prediction: Tensor,
    target: Tensor,
    seed: Tensor,
    sides: Tensor | None,
    pairs: int,
    threshold: float,
    limit: float,
    ignore_ties: bool,
    least: float,
) -> tuple[Tensor, Tensor, Tensor]:
    n, c, height, width = prediction.shape
    dtype = compute_dtype(prediction)
    places = prediction.new_zeros((n, c, 2, pairs), dtype=torch.int32)
    slopes = prediction.new_zeros((n, c, 2, pairs), dtype=dtype)
    if prediction.numel() == 0:
        return prediction.new_zeros((n, c, 2), dtype=dtype), places, slopes
    rows, size = n * c, height * width
    own = _sides_of(prediction, sides)
    first, second = prediction.contiguous(), target.contiguous()
    tops = limit * second.amax((1, 2, 3)).double()
    given, wanted = (torch.empty_like(first, dtype=dtype) for _ in range(2))
    touched = torch.empty_like(first, dtype=torch.uint8)
    usable = torch.empty((rows, size), dtype=torch.int32, device=first.device)
    blocks, pieces = triton.cdiv(size, BLOCK), triton.cdiv(pairs, BLOCK)
    costs = torch.empty((n, c, pieces), dtype=torch.float64, device=first.device)
    counts = torch.empty((n, c, pieces), dtype=torch.int32, device=first.device)
    wide = dtype == torch.float64
    with on_device(first):
        across_kernel[(rows * blocks,)](
            first, second, tops, own, given, wanted, touched, c, height, width, blocks, WIDE=wide, BLOCK=BLOCK
        )
        usable_kernel[(rows * blocks,)](touched, own, usable, c, height, width, blocks, BLOCK=BLOCK)
        numbers = usable.cumsum(1, dtype=torch.int32)
        compare_kernel[(rows * pieces,)](
            given,
            wanted,
            numbers,
            own,
            seed,
            costs,
            counts,
            places,
            slopes,
            c,
            height,
            width,
            pairs,
            pieces,
            threshold=threshold,
            constant=offset(threshold),
            least=max(least, torch.finfo(dtype).tiny),
            TIES=not ignore_ties,
            WIDE=wide,
            STEPS=size.bit_length(),
            BLOCK=BLOCK,
        )
    sums = torch.stack([costs.sum(2), counts.sum(2).double()], 2).to(dtype)
    return sums, places, slopes


def pairwise_loss_backward(
    grad: Tensor,
    prediction: Tensor,
    target: Tensor,
    seed: Tensor,
    sides: Tensor | None,
    places: Tensor,
    slopes: Tensor,
    threshold: float,
    limit: float,
    ignore_ties: bool,
    least: float,
) -> Tensor:
    out = prediction.new_empty(prediction.shape)
    if prediction.numel() == 0:
        return out
    n, c, height, width = prediction.shape
    rows, size, entries = n * c, height * width, 2 * slopes.shape[-1]
    own, dtype = _sides_of(prediction, sides), compute_dtype(prediction)
    flat = slopes.reshape(rows, entries)
    known = torch.where(flat.isnan(), 0, flat).double()
    # Sums of all whole numbers of a row stay below 2^62.
    exponents = 62 - (entries - 1).bit_length() - torch.frexp(known.abs().amax(1, keepdim=True)).exponent
    # Not ldexp, whose powers are float32 in torch 2.10.
    exponents = exponents.clamp(max=1000).double()
    quanta = (known * exponents.exp2()).round().to(torch.int64)
    units = (-exponents).exp2()
    sums = torch.zeros((rows, size), dtype=torch.int64, device=out.device)
    across = torch.empty_like(sums)
    blocks, pieces = triton.cdiv(size, BLOCK), triton.cdiv(entries, BLOCK)
    starts = places.contiguous()
    with on_device(out):
        for missing in (False, True):
            scatter_kernel[(rows * pieces,)](
                starts, flat, quanta, sums, entries, size, pieces, MISSING=missing, BLOCK=BLOCK
            )
        spread_across_kernel[(rows * blocks,)](sums, own, across, c, height, width, blocks, BLOCK=BLOCK)
        upstream = grad.to(dtype).contiguous()
        spread_down_kernel[(rows * blocks,)](
            across, own, units, upstream, out, c, height, width, blocks, WIDE=dtype == torch.float64, BLOCK=BLOCK
        )
    return out
