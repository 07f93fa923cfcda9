"""Filters that the metrics share, on float64 images (..., H, W)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Local statistics are taken around this: variances do not depend on it, and those of flat windows stay within 1e-11 of
# 0, where sums of squares of 0-255 leave ten times that.
MIDDLE = 127.5


def smooth(image: Tensor, taps: Sequence[float]) -> Tensor:
    """The separable, symmetric filter of ``taps`` where its window lies within the image: (H - size + 1, ...)."""
    for dim in (-2, -1):
        length = image.shape[dim] - len(taps) + 1
        # In place, a sweep for each tap: ten times as fast on a CPU as PyTorch's convolution of float64.
        total = image.narrow(dim, 0, length) * taps[0]
        for i, tap in enumerate(taps[1:], 1):
            total.add_(image.narrow(dim, i, length), alpha=tap)
        image = total
    return image


def covariance(x: Tensor, y: Tensor, mean_x: Tensor, mean_y: Tensor, taps: Sequence[float]) -> Tensor:
    """The weighted covariance of x and y in each window, from their weighted means; the variance where y is x."""
    return smooth(x * y, taps).sub_(mean_x * mean_y)


def sobel(padded: Tensor, middle: int = 2) -> tuple[Tensor, Tensor]:
    """Unnormalised Sobel responses along x and along y, or Prewitt's for ``middle`` 1: right - left, lower - upper.

    The weights across are 1, ``middle``, 1. The outermost pixels of ``padded`` fall away.
    """
    rows = padded[..., :-2, :] + middle * padded[..., 1:-1, :] + padded[..., 2:, :]
    columns = padded[..., :-2] + middle * padded[..., 1:-1] + padded[..., 2:]
    return rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]


def magnitude(x: Tensor, y: Tensor) -> Tensor:
    """sqrt(x^2 + y^2), exactly equal for responses of equal squares."""
    return torch.sqrt(x * x + y * y)
