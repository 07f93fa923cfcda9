"""Definition of the operator ``mef_ssim``; arguments as in ``cpp/schema.cpp``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hdrops.reference._autograd import differentiable
from hdrops.reference._windows import ZEROS, filter_window
from hdrops.reference.imf import FULL_SCALE
from hdrops.reference.ssim import halve

# Those of the authors' code, for values of 0 to 255.
RANGE = 255.0
CONTRAST_FLOOR = 0.001
EPSILON = 2.0**-52
STEEPEST = 10.0
# Sources that cancel leave rounding, this many units of it; that has no structure.
CANCELLED = 16.0


def _compute(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _exponent(consistency: Tensor) -> Tensor:
    """p of eq. 10, at most 10: beyond, the largest contrast takes all."""
    steep = ~(consistency < 2 / math.pi * math.atan(STEEPEST))
    p = torch.tan(math.pi / 2 * torch.where(steep, 0.0, consistency))
    return torch.where(steep, STEEPEST, p)


def _desired(squares: Tensor, covariance: Tensor, pixels: int) -> Tensor:
    """What the desired patch takes of every source's deviations from its mean: (N, K, H, W).

    ``squares`` (N, K, H, W) and ``covariance`` (N, K, K, H, W) are the mean squares of the sources, of which the
    covariances were formed, and these under a uniform window of ``pixels``.
    """
    energy = pixels * covariance
    norms = energy.diagonal(dim1=1, dim2=2).movedim(-1, 1).clamp(min=0).sqrt()
    consistency = (energy.sum((1, 2)).clamp(min=0).sqrt() + EPSILON) / (norms.sum(1) + EPSILON)
    contrasts = norms + CONTRAST_FLOOR
    # In logarithms and relative to the largest: the tenth power leaves the range of float32. The sum of the weights, by
    # which eq. 8 divides, goes out of the gain again.
    powers = _exponent(consistency)[:, None] * (contrasts / math.sqrt(pixels)).log()
    largest = powers.amax(1, keepdim=True)
    weights = (powers - largest).exp() + EPSILON * (-largest).clamp(max=80).exp()
    shares = weights / contrasts
    squared = (shares[:, :, None] * shares[:, None] * energy).sum((1, 2))
    rounding = CANCELLED * torch.finfo(energy.dtype).eps * pixels * (shares * squares.sqrt()).sum(1) ** 2
    gain = torch.where(squared > rounding, contrasts.amax(1) * squared.clamp(min=0).rsqrt(), 0.0)
    return gain[:, None] * shares


def level_mean(fused: Tensor, bracket: Tensor, window: Sequence[float], c: float, border: int) -> Tensor:
    """Means over the window's positions, (N,), of the quality of fused (N, 1, H, W) given its sources (N, K, H, W)."""
    sources = bracket.detach()
    # Moments about the image's own mean: E[x²] - µ² of bright flat areas would be lost to rounding.
    if border != ZEROS:  # beyond the border the pivot would stand for zeros
        sources = sources - sources.mean((-2, -1), keepdim=True)
        fused = fused - fused.mean((-2, -1), keepdim=True).detach()
    uniform = [1 / len(window)] * len(window)

    def moments(taps: Sequence[float], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean products and covariances of every x with every y: (N, X, Y, H, W)."""
        mean_x, mean_y = (filter_window(image, taps, border) for image in (x, y))
        products = filter_window(x[:, :, None] * y[:, None], taps, border)
        return products, products - mean_x[:, :, None] * mean_y[:, None]

    products, covariance = moments(uniform, sources, sources)
    squares = products.diagonal(dim1=1, dim2=2).movedim(-1, 1)
    desired = _desired(squares, covariance, len(window) ** 2)
    among = moments(window, sources, sources)[1]
    variance_desired = (desired[:, :, None] * desired[:, None] * among).sum((1, 2)).clamp(min=0)
    variance = moments(window, fused, fused)[1][:, 0, 0]
    covariance = (desired * moments(window, sources, fused)[1][:, :, 0]).sum(1)
    quality = (2 * covariance + c) / (variance_desired + variance + c)
    return quality.mean((-2, -1))


def means(
    fused: Tensor, bracket: Tensor, window: Sequence[float], data_range: float, k: float, border: int, levels: int
) -> Tensor:
    """Those of every level of the pyramid: (N, levels) in the arithmetic type."""
    scale = RANGE / data_range / FULL_SCALE.get(fused.dtype, 1.0)
    # Contiguous: sums must not depend on the strides.
    wide = (fused.to(_compute(fused)) * scale).contiguous()
    sources = (bracket.to(_compute(bracket))[:, :, 0] * scale).contiguous()
    results = []
    for level in range(levels):
        if level:
            wide, sources = halve(wide, False), halve(sources, False)
        results.append(level_mean(wide, sources, window, (k * RANGE) ** 2, border))
    return torch.stack(results, 1)


def mef_ssim_means(
    fused: Tensor, bracket: Tensor, window: Sequence[float], data_range: float, k: float, border: int, levels: int
) -> Tensor:
    return means(fused, bracket, window, data_range, k, border, levels)


def mef_ssim_means_backward(
    grad: Tensor,
    fused: Tensor,
    bracket: Tensor,
    window: Sequence[float],
    data_range: float,
    k: float,
    border: int,
    levels: int,
) -> Tensor:
    if not fused.numel():
        return torch.zeros_like(fused)
    with differentiable():
        variable = fused.detach().requires_grad_()
        result = means(variable, bracket.detach(), window, data_range, k, border, levels)
        return torch.autograd.grad(result, variable, grad.to(result.dtype))[0]
