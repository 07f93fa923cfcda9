"""What the operators of structural similarity share: their options, their windows, and scales made into one value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hdrops.ops._borders import WindowBorder, border_number
from hdrops.reference import gaussian

Reduction = Literal["mean", "none"]
WIDEST = 127  # taps
_SIGMAS = (1e-2, 1e6)
_RANGES = (1e-15, 1e15)


def checked_options(
    image: Tensor,
    data_range: float,
    window: int,
    sigma: float | None,
    border: str,
    reduction: str,
    levels: int,
    narrowest: int,
) -> tuple[list[float], int]:
    """The taps of the window and the number of the border, for ``levels`` scales of an image (..., H, W)."""
    if not _RANGES[0] <= data_range <= _RANGES[1]:
        raise ValueError(f"data_range must be {_RANGES[0]:g} to {_RANGES[1]:g}, got {data_range}")
    if not image.is_floating_point() and data_range != 1:
        raise ValueError(
            f"data_range is {data_range:g}, but {image.dtype} codes are scaled to [0, 1]: leave it out, or convert the "
            "images to floating point"
        )
    if int(window) != window or not narrowest <= window <= WIDEST or window % 2 == 0:
        raise ValueError(f"window must be an odd number of taps, {narrowest} to {WIDEST}, got {window}")
    if sigma is not None and not _SIGMAS[0] <= sigma <= _SIGMAS[1]:
        raise ValueError(f"sigma of the window must be {_SIGMAS[0]:g} to {_SIGMAS[1]:g} pixels, got {sigma}")
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    number = border_number(border, WindowBorder)
    height, width = image.shape[-2:]
    smallest = (window - 1) * 2 ** (levels - 1) + 1 if border == "valid" else 1
    if min(height, width) < smallest:
        scales = f" on {levels} scales" if levels > 1 else ""
        raise ValueError(
            f"an image of {width} x {height} is too small for a window of {window}{scales}: give at least {smallest} "
            "pixels a side, border='symmetric', or fewer weights"
        )
    return _taps(int(window), sigma), number


def checked_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """The exponents of the scales."""
    exponents = tuple(float(weight) for weight in weights)
    if not 1 <= len(exponents) <= 16 or not all(0 <= weight < math.inf for weight in exponents):
        raise ValueError(f"weights must be 1 to 16 finite exponents >= 0, got {exponents}")
    return exponents


def product_of_powers(factors: Tensor, weights: Sequence[float]) -> Tensor:
    """Π_j factors[..., j] ** weights[j]; a factor that is not positive gives 0, with a gradient of 0."""
    # Not clamp(min=0) ** w: its gradient at 0 is infinite, and infinity times 0 is NaN.
    negative = factors <= 0
    positive = torch.where(negative, 1.0, factors)
    # Numbers, not a tensor of them: that would be copied to the device, which a CUDA graph cannot capture.
    powers = torch.stack([positive[..., j].pow(weight) for j, weight in enumerate(weights)], -1)
    return torch.where(negative, 0.0, powers).prod(-1)


def reduced(values: Tensor, reduction: str) -> Tensor:
    return values.mean() if reduction == "mean" else values


def _taps(window: int, sigma: float | None) -> list[float]:
    """Those of a Gaussian window, or of a uniform one."""
    window, sigma = _constant(window), _constant(sigma)
    return [1 / window] * window if sigma is None else gaussian.window(sigma, window // 2)


def _constant(value: Any) -> Any:
    """A number itself where the compiler has made it a symbol: taps of symbols do not compile."""
    if value is None or not torch.compiler.is_compiling():
        return value
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return guard_scalar(value)
