"""Definition of the operator ``ssim``; arguments as in ``cpp/schema.cpp``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hdrops.reference._autograd import differentiable
from hdrops.reference._windows import SYMMETRIC, VALID, ZEROS, filter_window, pad_rows
from hdrops.reference.imf import FULL_SCALE


def _compute(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _halve_rows(x: Tensor, zero_padded: bool) -> Tensor:
    odd = x.shape[-2] % 2
    if zero_padded:
        padded = pad_rows(x, odd, odd, ZEROS)
        padded = padded[..., : padded.shape[-2] // 2 * 2, :]
    else:
        padded = pad_rows(x, 0, odd, SYMMETRIC)
    return (padded[..., ::2, :] + padded[..., 1::2, :]) / 2


def halve(x: Tensor, zero_padded: bool) -> Tensor:
    """Means of 2 x 2 pixels; an odd size repeats its last line, or has a line of zeros before and after."""
    return _halve_rows(_halve_rows(x, zero_padded).mT, zero_padded).mT


def level_means(
    x: Tensor, y: Tensor, window: Sequence[float], c1: float, c2: float, covariance: float, border: int
) -> Tensor:
    """Means of the map and of its contrast-structure factor over the window's positions: (N, C, 2)."""
    radius = 0 if border == VALID else len(window) // 2

    def padded(image: Tensor) -> Tensor:
        rows = pad_rows(image, radius, radius, border)
        return pad_rows(rows.mT, radius, radius, border).mT

    def weigh(image: Tensor) -> Tensor:
        return filter_window(image, window, VALID)

    def moments(image: Tensor) -> tuple[Tensor, Tensor]:
        """The square of the mean, and the variance."""
        # About the image's own mean: E[x²] - µ² of bright flat areas would be lost to rounding.
        pivot = image.mean((-2, -1), keepdim=True).detach()
        centred = image - pivot
        mean = weigh(centred)
        variance = covariance * (weigh(centred * centred) - mean * mean)
        # What rounding leaves below 0 is taken off as a constant: a variance of 0 has derivatives too.
        return (mean + pivot) ** 2, variance - variance.detach().clamp(max=0)

    # 2 µ_x µ_y = (µ_s² - µ_d²) / 2, µ_x² + µ_y² = (µ_s² + µ_d²) / 2 and so on, with s = x + y and d = x - y: both
    # quotients stay in [-1, 1], and equal images give exactly 1.
    x, y = padded(x), padded(y)
    (square_s, var_s), (square_d, var_d) = moments(x + y), moments(x - y)
    structure = (var_s - var_d + 2 * c2) / (var_s + var_d + 2 * c2)
    luminance = (square_s - square_d + 2 * c1) / (square_s + square_d + 2 * c1)
    return torch.stack([(luminance * structure).mean((-2, -1)), structure.mean((-2, -1))], -1)


def means(
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
    """Those of every level of the pyramid: (N, C, levels, 2) in the arithmetic type."""
    scale = 1 / FULL_SCALE.get(x.dtype, 1.0)
    # Contiguous, as the order of a sum, and so its rounding, follows the layout.
    wide_x, wide_y = (image.to(_compute(image)).contiguous() * scale for image in (x, y))
    results = []
    for level in range(levels):
        if level:
            wide_x, wide_y = halve(wide_x, zero_padded), halve(wide_y, zero_padded)
        results.append(level_means(wide_x, wide_y, window, c1, c2, covariance, border))
    return torch.stack(results, 2)


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
    return means(x, y, window, c1, c2, covariance, border, levels, zero_padded)


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
    with differentiable():
        variables = x.detach().requires_grad_(wants_x), y.detach().requires_grad_(wants_y)
        result = means(*variables, window, c1, c2, covariance, border, levels, zero_padded)
        active = [v for v in variables if v.requires_grad]
        grads = iter(torch.autograd.grad(result, active, grad.to(result.dtype)) if active and x.numel() else active)
    grad_x, grad_y = (next(grads).detach() if v.requires_grad else v.new_empty(0) for v in variables)
    return grad_x, grad_y
