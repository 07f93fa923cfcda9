"""Transforms between the pixels of two frames, and what of a frame remains in view.

A transform is a (3, 3) matrix in float64 that maps (column, row, 1), 0 at the centre of the first pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hdrops.align.errors import Unmatched

Matrix = NDArray[np.float64]
Area = tuple[int, int, int, int]  # top, left, height, width

_FARTHEST = 0.25  # of the diagonal, that a corner may move
# OpenCV resamples at multiples of 1/32 pixel: what moves by less than half of that stays.
_LEAST_MOTION = 1 / 64


def translation(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def scaling(x: float, y: float) -> Matrix:
    """From an image to one reduced by these factors (below 1): pixels are areas, so their centres move too."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]], dtype=np.float64)


def apply(transform: Matrix, points: Matrix) -> Matrix:
    """Where points (n, 2) go."""
    mapped: Matrix = np.column_stack([points, np.ones(len(points))]) @ transform.T
    return mapped[:, :2] / mapped[:, 2:]


def inverse(transform: Matrix) -> Matrix:
    return np.linalg.inv(transform).astype(np.float64)


def corners(height: int, width: int) -> Matrix:
    """The centres of the four outermost pixels (4, 2), clockwise."""
    x, y = width - 1.0, height - 1.0
    return np.array([[0, 0], [x, 0], [x, y], [0, y]], dtype=np.float64)


def settled(transform: Matrix, height: int, width: int) -> Matrix:
    """A transform that a camera held by hand can have made, scaled so that its last entry is 1.

    Returns:
        The transform; the identity where it moves no corner by as much as the resampling resolves.

    Raises:
        Unmatched: a transform that turns the frame over, folds it, moves a corner by more than a quarter of the
            diagonal, or leaves no common pixel.
    """
    if not np.isfinite(transform).all() or transform[2, 2] == 0:
        raise Unmatched("the transform found is degenerate")
    scaled: Matrix = transform / transform[2, 2]
    before = corners(height, width)
    depth = before @ scaled[2, :2] + 1
    if depth.min() <= 0:
        raise Unmatched("the transform found folds the frame")
    after = apply(scaled, before)
    sides = np.roll(after, -1, 0) - after
    turns = sides[:, 0] * np.roll(sides, -1, 0)[:, 1] - sides[:, 1] * np.roll(sides, -1, 0)[:, 0]
    if min(height, width) > 1 and turns.min() <= 0:
        raise Unmatched("the transform found turns the frame over or folds it")
    moved = float(np.hypot(*(after - before).T).max())
    diagonal = math.hypot(height, width)
    if moved > _FARTHEST * diagonal:
        raise Unmatched(
            f"the transform found moves a corner by {moved:.0f} pixels, more than a quarter of the diagonal"
        )
    if moved < _LEAST_MOTION:
        return np.eye(3)
    if valid_area([scaled], height, width) is None:
        raise Unmatched("the transform found leaves no common pixel")
    return scaled


def valid_rows(transform: Matrix, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels of the reference that a frame covers, row by row.

    Returns:
        The first column of each row, and the one after the last; the same where a row has none. The region is convex.
    """
    inverse = np.linalg.inv(transform)
    if (inverse @ [(width - 1) / 2, (height - 1) / 2, 1])[2] < 0:
        inverse = -inverse
    # A place (x, y) comes from (u / w, v / w): it is covered where w > 0, 0 <= u <= (W - 1) w, 0 <= v <= (H - 1) w,
    # each a half-plane a x + b y + c >= 0. Ends of rows that rounding would lose count.
    u, v, w = inverse
    planes = np.array([u, (width - 1) * w - u, v, (height - 1) * w - v, w])
    slack = 1e-9 * np.abs(planes).sum(1, keepdims=True) * max(height, width)
    y = np.arange(height, dtype=np.float64)
    a = planes[:, :1]
    rest = planes[:, 1:2] * y + planes[:, 2:] + slack
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = -rest / a
    low = np.where(a > 0, bound, np.where((a == 0) & (rest < 0), np.inf, -np.inf)).max(0)
    high = np.where(a < 0, bound, np.inf).min(0)
    first = np.ceil(low.clip(0, width)).astype(np.int64)
    end = np.floor(high.clip(-1, width - 1)).astype(np.int64) + 1
    return first, np.maximum(end, first)


def valid_area(transforms: Sequence[Matrix], height: int, width: int) -> Area | None:
    """The largest rectangle of the reference, upright, that every frame covers; of equals the uppermost, then leftmost.

    The covered region is convex: of the rows of a rectangle, the first and the last confine it.
    """
    rows = [valid_rows(transform, height, width) for transform in transforms]
    first = np.max([begin for begin, _ in rows], axis=0)
    end = np.min([stop for _, stop in rows], axis=0)
    best, area = 0, None
    count = np.arange(1, height + 1)
    for top in range(height):
        if (height - top) * (end[top] - first[top]) <= best:
            continue
        widths = np.minimum(end[top], end[top:]) - np.maximum(first[top], first[top:])
        sizes = widths * count[: height - top]
        k = int(sizes.argmax())
        if sizes[k] > best:
            best = int(sizes[k])
            area = (top, int(max(first[top], first[top + k])), k + 1, int(widths[k]))
    return area


def valid_mask(transform: Matrix, height: int, width: int) -> NDArray[np.bool_]:
    """Which pixels (H, W) of the reference a frame covers."""
    first, end = valid_rows(transform, height, width)
    column = np.arange(width)
    covered: NDArray[np.bool_] = (column >= first[:, None]) & (column < end[:, None])
    return covered
