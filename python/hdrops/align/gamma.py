"""Adaptive gamma correction: Rahman, Rahman, Abdullah-Al-Wadud, Al-Quaderi and Shoyaib, "An adaptive gamma correction
for image enhancement", EURASIP Journal on Image and Video Processing 2016."""

from __future__ import annotations

import torch
from torch import Tensor

from hdrops.nn import adaptive_gamma


def adaptive_gamma_correction(value: Tensor, tau: float = 3.0) -> Tensor:
    """Bring images of any exposure to similar brightness and contrast, by a curve of their mean μ and deviation σ.

    ::

        I_out = I^γ / k   where μ < 0.5,   I^γ elsewhere
        k = I^γ + (1 - I^γ) μ^γ

    with the exponent γ of :func:`hdrops.nn.adaptive_gamma`. Of a colour image it is the value of HSV, the largest of
    the channels, that is corrected.

    Args:
        value: (N, 1, H, W), floating point in [0, 1].
        tau: τ of the exponent, positive: an image counts as one of low contrast where 4 σ <= 1 / τ.

    Returns:
        (N, 1, H, W), in [0, 1], of the dtype of ``value``. Increasing in ``value``; black stays black and white white.

    Raises:
        TypeError: values that are not floating point.
        ValueError: another shape, no pixels, or tau out of range.
    """
    gamma = adaptive_gamma(value, tau).view(-1, 1, 1, 1)
    if value.shape[1] != 1:
        raise ValueError(f"value must have one channel, the largest of a colour image's, got {value.shape[1]}")
    intensity = value.to(gamma.dtype)
    mean = intensity.mean((1, 2, 3), keepdim=True)
    power = intensity.pow(gamma)
    k = torch.where(mean < 0.5, power + (1 - power) * mean.pow(gamma), 1.0)
    # k is 0 where an image is black, or so dark that its powers vanish.
    return (power / k.clamp(min=torch.finfo(k.dtype).tiny)).to(value.dtype)
