"""Separable windows over lines of pixels with every border, for the kernels of several operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

# Numbered as in hdrops.reference._windows.
VALID, REFLECT, SYMMETRIC, REPLICATE, ZEROS = range(5)
_REFLECT = tl.constexpr(REFLECT)
_REPLICATE = tl.constexpr(REPLICATE)
_SYMMETRIC = tl.constexpr(SYMMETRIC)


@triton.jit
def _tap(taps, t, size):
    """Tap t of ``size``, 0 where there is none."""
    return tl.load(taps + t, mask=(t >= 0) & (t < size), other=0)


@triton.jit
def _border_index(i, n, BORDER: tl.constexpr):
    """The pixel of a line of n that stands at position i; -1 where there is none, or a zero."""
    pixel = tl.where((i >= 0) & (i < n), i, -1)
    if BORDER == _REPLICATE:
        pixel = tl.minimum(tl.maximum(i, 0), n - 1)
    elif BORDER == _REFLECT or BORDER == _SYMMETRIC:  # noqa: SIM109  (Triton has no "in")
        repeat: tl.constexpr = 0 if BORDER == _REFLECT else 1
        period = 2 * (n - 1 + repeat)
        # The remainder has the sign of i.
        phase = i % period
        phase = tl.where(phase < 0, phase + period, phase)
        pixel = tl.where(phase < n, phase, period - repeat - phase)
    return pixel


@triton.jit
def _window(pixel, position, n, taps, size, before, folds, BORDER: tl.constexpr):
    """Weight of a pixel of a line of n in the window at a position, whose first tap lies ``before`` pixels before it.

    It holds the taps at all places beyond the border that stand for the pixel. Mirrored lines repeat with a period;
    ``folds`` counts the periods to either side, 0 where no window leaves the line. Where lines are continued by their
    ends, those weigh as much as all that lie beyond: ``continue_kernel`` has put these sums after the taps, which are
    symmetric and begin half their number before the position.
    """
    first = before - position
    weight = _tap(taps, pixel + first, size)
    if BORDER == _REPLICATE:
        weight += tl.where(pixel == 0, _tap(taps + size, first, size), 0.0)
        weight += tl.where(pixel == n - 1, _tap(taps + size, size - first - n, size), 0.0)
    elif BORDER == _REFLECT or BORDER == _SYMMETRIC:  # noqa: SIM109  (Triton has no "in")
        repeat: tl.constexpr = 0 if BORDER == _REFLECT else 1
        period = 2 * (n - 1 + repeat)
        for fold in range(tl.where(folds > 0, -folds, 1), folds + 1):
            shift = fold * period
            mirrored = _tap(taps, first + (shift - repeat) - pixel, size)
            if BORDER == _REFLECT:
                # The ends of the line are their own mirror images.
                mirrored = tl.where((pixel == 0) | (pixel == n - 1), 0.0, mirrored)
            weight += mirrored
            weight += tl.where(shift != 0, _tap(taps, first + shift + pixel, size), 0.0)
    return weight


@triton.jit(do_not_specialize=["size"])
def continue_kernel(taps, size, BLOCK: tl.constexpr):
    """After the ``size`` taps, for each of them the sum of those before it."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], taps.dtype.element_ty)
    for i in range(size):
        total += tl.where(i < at, tl.load(taps + i), 0.0)
    tl.store(taps + size + at, total, mask=at < size)


def continue_taps(taps: Tensor, size: int) -> None:
    """Complete a table of 2 ``size`` values, of which the first ``size`` are taps."""
    continue_kernel[(triton.cdiv(size, 256),)](taps, size, BLOCK=256)


def folds(n: int, radius: int, border: int) -> int:
    """How far ``_window`` must look beyond lines of n pixels."""
    if border not in (REFLECT, SYMMETRIC):
        return 0
    return 1 + radius // (2 * (n - 1) if border == REFLECT else 2 * n)


def line_border(n: int, border: int) -> int:
    """Mirrored without its edge, a line of one pixel has no period: everything around it stands for that pixel."""
    return REPLICATE if border == REFLECT and n == 1 else border


@triton.jit(do_not_specialize=["begin", "size"])
def store_taps_kernel(
    out,
    begin,
    size,
    a: tl.float64,
    b: tl.float64,
    c: tl.float64,
    d: tl.float64,
    e: tl.float64,
    f: tl.float64,
    g: tl.float64,
    h: tl.float64,
):
    """Up to eight taps of ``size``, from ``begin`` on."""
    T: tl.constexpr = out.dtype.element_ty
    lane = tl.arange(0, 8)
    tap = tl.full([8], a, T)
    tap = tl.where(lane == 1, tl.full([], b, T), tap)
    tap = tl.where(lane == 2, tl.full([], c, T), tap)
    tap = tl.where(lane == 3, tl.full([], d, T), tap)
    tap = tl.where(lane == 4, tl.full([], e, T), tap)
    tap = tl.where(lane == 5, tl.full([], f, T), tap)
    tap = tl.where(lane == 6, tl.full([], g, T), tap)
    tap = tl.where(lane == 7, tl.full([], h, T), tap)
    tl.store(out + begin + lane, tap, mask=begin + lane < size)


def device_taps(window: Sequence[float], like: Tensor, dtype: torch.dtype, continued: bool = False) -> Tensor:
    """The taps on the device of a tensor, for lines that are ``continued`` by their ends or not.

    They travel as arguments: a copy from the host would have to wait.
    """
    size = len(window)
    taps = like.new_empty(2 * size if continued else size, dtype=dtype)
    for begin in range(0, size, 8):
        some = [*window[begin : begin + 8], *[0.0] * 8][:8]
        store_taps_kernel[(1,)](taps, begin, size, *some)
    if continued:
        continue_taps(taps, size)
    return taps
