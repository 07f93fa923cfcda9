"""Triton kernels of ``ssim``; arguments as in ``cpp/schema.cpp``, definition in ``hdrops.reference.ssim``.

With s = x + y and d = x - y, four moments under the window do instead of five: the means of s, d, s² and d², as
2 µ_x µ_y = (µ_s² - µ_d²) / 2, 2 σ_xy = (σ_s² - σ_d²) / 2 and so on. Equal images have d = 0, and so exactly 1.

One launch per level reads both images once, with a halo, and gives two sums per tile: nothing else of the size of the
image is written. A tile is filtered by two products with the banded matrix of taps, in three products of TF32 halves,
whose error is that of float32; values are relative to a pixel of the tile, so that bright flat areas keep their
variance. The tiles are added in a fixed order.

The backward writes four maps per level, the derivatives with respect to the moments at each position, in 4-byte (for
float64 8-byte) arithmetic, and filters them by the adjoint of the window: a gather, so the same input gives the same
bits. The pyramid is built again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import _store, compute_dtype, full_scale, on_device
from hdrops.kernels._windows import REPLICATE, VALID, _border_index, _tap, _window, device_taps, folds, line_border

# Sides of a tile of results and of a chunk of what the filter reads.
TILE, CHUNK = 32, 16
BLOCK = 1024


# ---- the pyramid ---------------------------------------------------------------------------------------------------


@triton.jit
def _halved_lines(i, n, ZERO_PADDED: tl.constexpr):
    """The two lines, of n, whose mean is line i of the coarser level; those outside are zeros."""
    first = 2 * i
    if ZERO_PADDED:
        first -= n % 2
        return first, first + 1
    return first, tl.minimum(first + 1, n - 1)


@triton.jit(do_not_specialize=["h", "w", "hc", "wc", "size"])
def halve_kernel(source, out, h, w, hc, wc, size, ZERO_PADDED: tl.constexpr, FULL: tl.constexpr, BLOCK: tl.constexpr):
    """Planes (h, w) to planes (hc, wc), ``size`` values in all: means of 2 x 2 pixels, codes scaled to [0, 1]."""
    T: tl.constexpr = out.dtype.element_ty
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    row = at // wc
    x0, x1 = _halved_lines((at % wc).to(tl.int32), w, ZERO_PADDED)
    y0, y1 = _halved_lines((row % hc).to(tl.int32), h, ZERO_PADDED)
    plane = source + (row // hc) * h * w
    above, below = plane + y0.to(tl.int64) * w, plane + y1.to(tl.int64) * w
    has_above, has_below = mask & (y0 >= 0), mask & (y1 < h)
    has_left, has_right = x0 >= 0, x1 < w
    left = tl.load(above + x0, mask=has_above & has_left, other=0).to(T)
    left += tl.load(below + x0, mask=has_below & has_left, other=0).to(T)
    right = tl.load(above + x1, mask=has_above & has_right, other=0).to(T)
    right += tl.load(below + x1, mask=has_below & has_right, other=0).to(T)
    tl.store(out + at, (left + right) * (0.25 / FULL), mask=mask)


# ---- moments -------------------------------------------------------------------------------------------------------


@triton.jit
def _tile(rows, columns, TILE: tl.constexpr):
    """The plane, first row and first column of this program, of planes of (rows, columns)."""
    program = tl.program_id(0).to(tl.int64)
    across = (columns + TILE - 1) // TILE
    tiles = across * ((rows + TILE - 1) // TILE).to(tl.int64)
    tile = program % tiles
    return program // tiles, (tile // across).to(tl.int32) * TILE, (tile % across).to(tl.int32) * TILE


@triton.jit
def _moments(
    x,
    y,
    taps,
    h,
    w,
    size,
    before,
    top,
    left,
    covariance,
    ROW_BORDER: tl.constexpr,
    COLUMN_BORDER: tl.constexpr,
    FULL: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    T: tl.constexpr,
):
    """Means and variances of x + y and x - y under the windows at a tile of positions, and the pivots of x and y."""
    middle = tl.minimum(top + TILE // 2, h - 1).to(tl.int64) * w + tl.minimum(left + TILE // 2, w - 1)
    pivot_x, pivot_y = tl.load(x + middle).to(T), tl.load(y + middle).to(T)
    row = tl.arange(0, TILE)
    chunk = tl.arange(0, CHUNK)
    mean_s = tl.zeros([TILE, TILE], T)
    mean_d = tl.zeros([TILE, TILE], T)
    square_s = tl.zeros([TILE, TILE], T)
    square_d = tl.zeros([TILE, TILE], T)
    reach = TILE + size - 1
    for across in range(0, reach, CHUNK):
        column = _border_index(left - before + across + chunk, w, COLUMN_BORDER)[None, :]
        line_s = tl.zeros([TILE, CHUNK], T)
        line_d = tl.zeros([TILE, CHUNK], T)
        line_ss = tl.zeros([TILE, CHUNK], T)
        line_dd = tl.zeros([TILE, CHUNK], T)
        for down in range(0, reach, CHUNK):
            at_row = _border_index(top - before + down + chunk, h, ROW_BORDER)[:, None]
            mask = (at_row >= 0) & (column >= 0)
            at = at_row.to(tl.int64) * w + column
            # Differences of codes are exact. Zeros beyond the border are relative to the pivot too.
            value_x = (tl.load(x + at, mask=mask, other=0).to(T) - pivot_x) * (1.0 / FULL)
            value_y = (tl.load(y + at, mask=mask, other=0).to(T) - pivot_y) * (1.0 / FULL)
            s = value_x + value_y
            d = value_x - value_y
            weight = _tap(taps, down + chunk[None, :] - row[:, None], size)
            line_s = tl.dot(weight, s, line_s, input_precision="tf32x3", out_dtype=T)
            line_d = tl.dot(weight, d, line_d, input_precision="tf32x3", out_dtype=T)
            line_ss = tl.dot(weight, s * s, line_ss, input_precision="tf32x3", out_dtype=T)
            line_dd = tl.dot(weight, d * d, line_dd, input_precision="tf32x3", out_dtype=T)
        weight = _tap(taps, across + chunk[:, None] - row[None, :], size)
        mean_s = tl.dot(line_s, weight, mean_s, input_precision="tf32x3", out_dtype=T)
        mean_d = tl.dot(line_d, weight, mean_d, input_precision="tf32x3", out_dtype=T)
        square_s = tl.dot(line_ss, weight, square_s, input_precision="tf32x3", out_dtype=T)
        square_d = tl.dot(line_dd, weight, square_d, input_precision="tf32x3", out_dtype=T)
    factor = tl.full([], covariance, T)
    # Rounding leaves none below 0, so that the factors stay in [-1, 1]; NaN stays.
    var_s = factor * (square_s - mean_s * mean_s)
    var_d = factor * (square_d - mean_d * mean_d)
    var_s = tl.where(var_s < 0, 0.0, var_s)
    var_d = tl.where(var_d < 0, 0.0, var_d)
    unit: tl.constexpr = 1.0 / FULL
    return mean_s, mean_d, var_s, var_d, pivot_x * unit, pivot_y * unit


@triton.jit(do_not_specialize=["h", "w", "rows", "columns", "size", "before"])
def means_kernel(
    x,
    y,
    taps,
    sums,
    h,
    w,
    rows,
    columns,
    size,
    before,
    c1: tl.float64,
    c2: tl.float64,
    covariance: tl.float64,
    ROW_BORDER: tl.constexpr,
    COLUMN_BORDER: tl.constexpr,
    FULL: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Sums of l cs and of cs over each tile of (rows, columns) positions."""
    T: tl.constexpr = taps.dtype.element_ty
    plane, top, left = _tile(rows, columns, TILE)
    base = plane * h * w
    mean_s, mean_d, var_s, var_d, pivot_x, pivot_y = _moments(
        x + base,
        y + base,
        taps,
        h,
        w,
        size,
        before,
        top,
        left,
        covariance,
        ROW_BORDER,
        COLUMN_BORDER,
        FULL,
        TILE,
        CHUNK,
        T,
    )
    mean_s += pivot_x + pivot_y
    mean_d += pivot_x - pivot_y
    two_c1, two_c2 = tl.full([], 2 * c1, T), tl.full([], 2 * c2, T)
    luminance = (mean_s * mean_s - mean_d * mean_d + two_c1) / (mean_s * mean_s + mean_d * mean_d + two_c1)
    structure = (var_s - var_d + two_c2) / (var_s + var_d + two_c2)
    mask = (top + tl.arange(0, TILE)[:, None] < rows) & (left + tl.arange(0, TILE)[None, :] < columns)
    to = sums + tl.program_id(0).to(tl.int64) * 2
    both = tl.sum(tl.sum(tl.where(mask, luminance * structure, 0.0), 1), 0)
    tl.store(to, both.to(tl.float64))
    tl.store(to + 1, tl.sum(tl.sum(tl.where(mask, structure, 0.0), 1), 0).to(tl.float64))


# ---- backward ------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["h", "w", "rows", "columns", "size", "before", "level", "levels", "map_size"])
def slopes_kernel(
    grad,
    x,
    y,
    taps,
    maps,
    h,
    w,
    rows,
    columns,
    size,
    before,
    level,
    levels,
    map_size,
    c1: tl.float64,
    c2: tl.float64,
    covariance: tl.float64,
    ROW_BORDER: tl.constexpr,
    COLUMN_BORDER: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Factors of the sum s of both images, relative to the middle of its plane, at each position.

    The gradient of s at a pixel is the sum, over the windows that hold it, of weight (A + s B), and that of d likewise;
    maps holds A and B of s, then A and B of d, ``map_size`` values each.
    """
    T: tl.constexpr = taps.dtype.element_ty
    plane, top, left = _tile(rows, columns, TILE)
    x += plane * h * w
    y += plane * h * w
    mean_s, mean_d, var_s, var_d, pivot_x, pivot_y = _moments(
        x,
        y,
        taps,
        h,
        w,
        size,
        before,
        top,
        left,
        covariance,
        ROW_BORDER,
        COLUMN_BORDER,
        1,
        TILE,
        CHUNK,
        T,
    )
    middle = (h // 2).to(tl.int64) * w + w // 2
    middle_x, middle_y = tl.load(x + middle).to(T), tl.load(y + middle).to(T)
    from_middle_s = mean_s + ((pivot_x - middle_x) + (pivot_y - middle_y))
    from_middle_d = mean_d + ((pivot_x - middle_x) - (pivot_y - middle_y))
    mean_s += pivot_x + pivot_y
    mean_d += pivot_x - pivot_y

    scale = 1 / (rows.to(T) * columns.to(T))
    upstream = grad + (plane * levels + level) * 2
    by_product = tl.load(upstream).to(T) * scale
    by_structure = tl.load(upstream + 1).to(T) * scale
    # Written without 1 - l and 1 - cs, which vanish to rounding where the images are alike, and without squares of
    # the inverses, which leave the range of float32 where the images are very dark or very bright.
    two_c1, two_c2 = tl.full([], 2 * c1, T), tl.full([], 2 * c2, T)
    s2, d2 = mean_s * mean_s, mean_d * mean_d
    over_l = 1 / (s2 + d2 + two_c1)
    over_cs = 1 / (var_s + var_d + two_c2)
    l_factor = (s2 - d2 + two_c1) * over_l
    cs_factor = (var_s - var_d + two_c2) * over_cs
    luminance = 4 * by_product * cs_factor
    structure = 2 * (by_product * l_factor + by_structure) * over_cs
    factor = 2 * tl.full([], covariance, T)
    b_s = factor * structure * (var_d * over_cs)
    b_d = -factor * structure * ((var_s + two_c2) * over_cs)
    a_s = luminance * (mean_s * over_l) * (d2 * over_l) - b_s * from_middle_s
    a_d = -luminance * (mean_d * over_l) * ((s2 + two_c1) * over_l) - b_d * from_middle_d

    row = top + tl.arange(0, TILE)[:, None]
    column = left + tl.arange(0, TILE)[None, :]
    mask = (row < rows) & (column < columns)
    at = maps + (plane * rows + row) * columns + column
    tl.store(at, a_s, mask=mask)
    tl.store(at + map_size, b_s, mask=mask)
    tl.store(at + 2 * map_size, a_d, mask=mask)
    tl.store(at + 3 * map_size, b_d, mask=mask)


@triton.jit
def _coarser_line(i, n, ZERO_PADDED: tl.constexpr, T: tl.constexpr):
    """The line of the coarser level that line i of n is part of, and its share of it."""
    if ZERO_PADDED:
        return (i + n % 2) // 2, tl.full(i.shape, 0.5, T)
    return i // 2, tl.where((n % 2 == 1) & (i == n - 1), 1.0, 0.5).to(T)


@triton.jit(
    do_not_specialize=[
        "h",
        "w",
        "hc",
        "wc",
        "rows",
        "columns",
        "size",
        "before",
        "row_folds",
        "column_folds",
        "map_size",
    ]
)
def gradient_kernel(
    x,
    y,
    taps,
    maps,
    coarse_x,
    coarse_y,
    grad_x,
    grad_y,
    h,
    w,
    hc,
    wc,
    rows,
    columns,
    size,
    before,
    row_folds,
    column_folds,
    map_size,
    ROW_BORDER: tl.constexpr,
    COLUMN_BORDER: tl.constexpr,
    ZERO_PADDED: tl.constexpr,
    COARSEST: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_Y: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Gradients of the images of one level: of its own means, from maps, and of the coarser level."""
    T: tl.constexpr = taps.dtype.element_ty
    plane, top, left = _tile(h, w, TILE)
    row = top + tl.arange(0, TILE)
    column = left + tl.arange(0, TILE)
    chunk = tl.arange(0, CHUNK)
    maps += plane * rows * columns
    after = size - 1 - before
    # Positions whose windows reach the tile, and whether they reach beyond the border too.
    first_row = tl.maximum(top - after, 0)
    last_row = tl.minimum(top + TILE + before, rows)
    first_column = tl.maximum(left - after, 0)
    last_column = tl.minimum(left + TILE + before, columns)
    row_folds = tl.where((top >= size) & (top + TILE + size <= h), 0, row_folds)
    column_folds = tl.where((left >= size) & (left + TILE + size <= w), 0, column_folds)
    sum_as = tl.zeros([TILE, TILE], T)
    sum_bs = tl.zeros([TILE, TILE], T)
    sum_ad = tl.zeros([TILE, TILE], T)
    sum_bd = tl.zeros([TILE, TILE], T)
    for across in range(first_column, last_column, CHUNK):
        at_column = across + chunk
        line_as = tl.zeros([TILE, CHUNK], T)
        line_bs = tl.zeros([TILE, CHUNK], T)
        line_ad = tl.zeros([TILE, CHUNK], T)
        line_bd = tl.zeros([TILE, CHUNK], T)
        for down in range(first_row, last_row, CHUNK):
            at_row = down + chunk
            mask = (at_row < rows)[:, None] & (at_column < columns)[None, :]
            at = maps + at_row.to(tl.int64)[:, None] * columns + at_column[None, :]
            weight = _window(row[:, None], at_row[None, :], h, taps, size, before, row_folds, ROW_BORDER)
            a_s = tl.load(at, mask=mask, other=0)
            b_s = tl.load(at + map_size, mask=mask, other=0)
            a_d = tl.load(at + 2 * map_size, mask=mask, other=0)
            b_d = tl.load(at + 3 * map_size, mask=mask, other=0)
            line_as = tl.dot(weight, a_s, line_as, input_precision="tf32x3", out_dtype=T)
            line_bs = tl.dot(weight, b_s, line_bs, input_precision="tf32x3", out_dtype=T)
            line_ad = tl.dot(weight, a_d, line_ad, input_precision="tf32x3", out_dtype=T)
            line_bd = tl.dot(weight, b_d, line_bd, input_precision="tf32x3", out_dtype=T)
        weight = _window(column[None, :], at_column[:, None], w, taps, size, before, column_folds, COLUMN_BORDER)
        sum_as = tl.dot(line_as, weight, sum_as, input_precision="tf32x3", out_dtype=T)
        sum_bs = tl.dot(line_bs, weight, sum_bs, input_precision="tf32x3", out_dtype=T)
        sum_ad = tl.dot(line_ad, weight, sum_ad, input_precision="tf32x3", out_dtype=T)
        sum_bd = tl.dot(line_bd, weight, sum_bd, input_precision="tf32x3", out_dtype=T)

    base = plane * h * w
    middle = base + (h // 2).to(tl.int64) * w + w // 2
    mask = (row < h)[:, None] & (column < w)[None, :]
    at = base + row.to(tl.int64)[:, None] * w + column[None, :]
    value_x = tl.load(x + at, mask=mask, other=0).to(T) - tl.load(x + middle).to(T)
    value_y = tl.load(y + at, mask=mask, other=0).to(T) - tl.load(y + middle).to(T)
    by_s = sum_as + (value_x + value_y) * sum_bs
    by_d = sum_ad + (value_x - value_y) * sum_bd
    coarse_row, row_share = _coarser_line(row, h, ZERO_PADDED, T)
    coarse_column, column_share = _coarser_line(column, w, ZERO_PADDED, T)
    share = row_share[:, None] * column_share[None, :]
    coarse = plane * hc * wc + coarse_row.to(tl.int64)[:, None] * wc + coarse_column[None, :]
    if WANTS_X:
        result = by_s + by_d
        if not COARSEST:
            result += share * tl.load(coarse_x + coarse, mask=mask, other=0)
        _store(grad_x + at, result, mask, 1)
    if WANTS_Y:
        result = by_s - by_d
        if not COARSEST:
            result += share * tl.load(coarse_y + coarse, mask=mask, other=0)
        _store(grad_y + at, result, mask, 1)


# ---- launches ------------------------------------------------------------------------------------------------------


def _tiles(rows: int, columns: int) -> int:
    return triton.cdiv(rows, TILE) * triton.cdiv(columns, TILE)


def _pyramid(image: Tensor, levels: int, zero_padded: bool) -> list[Tensor]:
    """The image and its coarser levels, of the arithmetic type."""
    pyramid = [image.contiguous()]
    for _ in range(1, levels):
        finer = pyramid[-1]
        n, c, h, w = finer.shape
        out = finer.new_empty((n, c, (h + 1) // 2, (w + 1) // 2), dtype=compute_dtype(image))
        halve_kernel[(triton.cdiv(out.numel(), BLOCK),)](
            finer,
            out,
            h,
            w,
            *out.shape[2:],
            out.numel(),
            ZERO_PADDED=zero_padded,
            FULL=full_scale(finer.dtype),
            BLOCK=BLOCK,
        )
        pyramid.append(out)
    return pyramid


class _Level:
    """Sizes of one level: of its images, and of the positions of the window."""

    def __init__(self, image: Tensor, window: Sequence[float], border: int) -> None:
        *_, self.h, self.w = image.shape
        self.size = len(window)
        self.before = 0 if border == VALID else self.size // 2
        lost = self.size - 1 if border == VALID else 0
        self.rows, self.columns = self.h - lost, self.w - lost
        self.row_border, self.column_border = line_border(self.h, border), line_border(self.w, border)

    def sizes(self) -> tuple[int, int, int, int, int, int]:
        return self.h, self.w, self.rows, self.columns, self.size, self.before

    def constants(self) -> dict[str, int]:
        return {"ROW_BORDER": self.row_border, "COLUMN_BORDER": self.column_border, "TILE": TILE, "CHUNK": CHUNK}


def ssim_means(
    x: Tensor,
    y: Tensor,
    window: Sequence[float],
    c1: float,
    c2: float,
    covariance: float,
    border: int,
    levels: int,
    zero_padded: bool,
) -> Tensor:
    n, c, *_ = x.shape
    dtype = compute_dtype(x)
    results = x.new_empty((n, c, levels, 2), dtype=dtype)
    if n == 0:
        return results
    with on_device(x):
        taps = device_taps(window, x, dtype)
        pyramids = zip(*(_pyramid(image, levels, zero_padded) for image in (x, y)), strict=True)
        for number, (level_x, level_y) in enumerate(pyramids):
            level = _Level(level_x, window, border)
            tiles = _tiles(level.rows, level.columns)
            sums = x.new_empty((n, c, tiles, 2), dtype=torch.float64)
            means_kernel[(n * c * tiles,)](
                level_x,
                level_y,
                taps,
                sums,
                *level.sizes(),
                c1,
                c2,
                covariance,
                FULL=full_scale(level_x.dtype),
                **level.constants(),
            )
            results[:, :, number] = sums.sum(2) / (level.rows * level.columns)
    return results


def ssim_means_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    window: Sequence[float],
    c1: float,
    c2: float,
    covariance: float,
    border: int,
    levels: int,
    zero_padded: bool,
    wants_x: bool,
    wants_y: bool,
) -> tuple[Tensor, Tensor]:
    n, c, *_ = x.shape
    dtype = compute_dtype(x)
    out_x, out_y = (x.new_empty(x.shape if wanted else 0) for wanted in (wants_x, wants_y))
    if n == 0 or not (wants_x or wants_y):
        return out_x, out_y
    with on_device(x):
        pyramid_x, pyramid_y = (_pyramid(image, levels, zero_padded) for image in (x, y))
        continued = REPLICATE in (line_border(n, border) for n in pyramid_x[-1].shape[2:])
        taps = device_taps(window, x, dtype, continued)
        grad = grad.contiguous()
        # Unused at the coarsest level; of a type that does not make another variant.
        coarse_x = coarse_y = taps
        coarse_shape = (0, 0)
        for number in range(levels - 1, -1, -1):
            level_x, level_y = pyramid_x[number], pyramid_y[number]
            level = _Level(level_x, window, border)
            maps = x.new_empty((4, n * c * level.rows * level.columns), dtype=dtype)
            slopes_kernel[(n * c * _tiles(level.rows, level.columns),)](
                grad,
                level_x,
                level_y,
                taps,
                maps,
                *level.sizes(),
                number,
                levels,
                maps.shape[1],
                c1,
                c2,
                covariance,
                **level.constants(),
            )
            grads = [
                (out if number == 0 else out.new_empty(level_x.shape, dtype=dtype)) if wanted else taps
                for out, wanted in ((out_x, wants_x), (out_y, wants_y))
            ]
            gradient_kernel[(n * c * _tiles(level.h, level.w),)](
                level_x,
                level_y,
                taps,
                maps,
                coarse_x,
                coarse_y,
                *grads,
                level.h,
                level.w,
                *coarse_shape,
                *level.sizes()[2:],
                folds(level.h, level.before, level.row_border),
                folds(level.w, level.before, level.column_border),
                maps.shape[1],
                ZERO_PADDED=zero_padded,
                COARSEST=number == levels - 1,
                WANTS_X=wants_x,
                WANTS_Y=wants_y,
                **level.constants(),
            )
            coarse_x, coarse_y = grads
            coarse_shape = level.h, level.w
    return out_x, out_y
