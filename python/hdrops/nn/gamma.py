"""The exponent of adaptive gamma correction: Rahman, Rahman, Abdullah-Al-Wadud, Al-Quaderi and Shoyaib, "An adaptive
gamma correction for image enhancement", EURASIP Journal on Image and Video Processing 2016."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST_DEVIATION = 1 / 255


def adaptive_gamma(image: Tensor, tau: float = 3.0) -> Tensor:
    """The exponent γ by which images of [0, 1] would be corrected, from their mean μ and standard deviation σ.

    Im, Son, Kwon and Lee, "Multi-task learning approach using dynamic hyperparameter for multi-exposure fusion",
    eq. 10 to 12::

        γ = -log2 σ                    where the contrast is low: 4 σ <= 1 / τ
        γ = exp((1 - (μ + σ)) / 2)     elsewhere

    Args:
        image: (N, C, H, W) floating point in [0, 1]; statistics are of all channels and pixels of an image.
        tau: τ, positive.

    Returns:
        (N,), float32 (float64 for float64 images). A σ below 1 / 255 counts as that, so that flat images have the
        exponent log2 255 = 7.99. Differentiable.

    Raises:
        TypeError: an image that is not floating point.
        ValueError: an image of another shape or without pixels, or tau out of range.
    """
    if not image.is_floating_point():
        raise TypeError(f"image must be floating point in [0, 1], got {image.dtype}")
    if image.dim() != 4 or 0 in image.shape[1:]:
        raise ValueError(f"image must be (N, C, H, W) with pixels, got shape {tuple(image.shape)}")
    if not 0 < tau < math.inf:
        raise ValueError(f"tau must be positive, got {tau}")
    values = image if image.dtype == torch.float64 else image.float()
    variance, mean = torch.var_mean(values.flatten(1), 1, correction=0)
    deviation = variance.clamp(min=_LEAST_DEVIATION**2).sqrt()
    return torch.where(4 * deviation <= 1 / tau, -deviation.log2(), ((1 - (mean + deviation)) / 2).exp())
