"""How well the edges of the sources survive in the fused image: Qabf, and the artefacts that fusion adds, Nabf."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from hdrops.metrics._filters import magnitude, sobel
from hdrops.metrics._images import Color, by_color, check_choice, check_size, checked_pair


def qabf(
    fused: Tensor, bracket: Tensor, *, color: Color = "mean", convention: Literal["mefb", "lt"] = "mefb"
) -> Tensor:
    """Gradient-based fusion quality (Q^AB/F): the share of the sources' edges that the fused image preserves.

    Xydeas and Petrović, "Objective image fusion performance measure", Electronics Letters 2000. With Sobel strength g
    and orientation α of each pixel (zero border, included), strength ratio G = min(g_k, g_f) / max(g_k, g_f) and
    A = 1 - |α_k - α_f| / (π/2),

        Q_k = 0.9994 / (1 + exp(-15 (G - 0.5))) * 0.9879 / (1 + exp(-22 (A - 0.8))),

    and the value is Σ Q_k g_k / Σ g_k over the pixels and the sources k, of which there may be any number. As in the
    toolboxes, α lies in (-π/2, π/2], and G of equal strengths is not 1 but the strength itself: so 0 where both are 0.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.
        convention: the unit of equal strengths: "lt" takes images of 0-255, "mefb" takes 255 times that. It matters
            little, since a strength of 1 or more gives nearly the same Q_k.

    Returns:
        float64 (N,), 0 to 0.987; 0 where no source has any edge, which a black source alone has not, since the border
        counts. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, or color or convention is unknown.
    """
    check_choice("convention", convention, ("mefb", "lt"))
    unit = 255.0 if convention == "mefb" else 1.0

    def edges(image: Tensor) -> tuple[Tensor, Tensor]:
        x, y = sobel(pad(image, (1, 1, 1, 1)))
        return magnitude(x, y), torch.where(x == 0, math.pi / 2, torch.atan(-y / x))

    def metric(fused: Tensor, bracket: Tensor) -> Tensor:
        strength, angle = edges(fused)
        preserved, present = fused.new_zeros(fused.shape[0]), fused.new_zeros(fused.shape[0])
        for image in bracket.unbind(1):
            source_strength, source_angle = edges(image)
            ratio = torch.minimum(strength, source_strength) / torch.maximum(strength, source_strength)
            ratio = torch.where(strength == source_strength, unit * strength, ratio)
            alignment = 1 - (source_angle - angle).abs() / (math.pi / 2)
            quality = 0.9994 / (1 + torch.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + torch.exp(-22 * (alignment - 0.8)))
            preserved += (quality * source_strength).sum((-3, -2, -1))
            present += source_strength.sum((-3, -2, -1))
        return torch.where(present > 0, preserved / present, 0.0)

    return by_color(metric, color, *checked_pair(fused, bracket))


def nabf(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Fusion artefacts (N^AB/F, modified): the weight of edges that are stronger in the fused image than in any source.

    Shreyamsha Kumar, "Multifocus and multispectral image fusion based on pixel significance using discrete cosine
    harmonic wavelet transform", Signal, Image and Video Processing 2013. With Sobel strength g (divided by 8, mirrored
    border) and orientation α, strength ratio G = min(g_k, g_f) / max(g_k, g_f) and A = ||α_k - α_f| - π/2| / (π/2),

        Q_k = sqrt(0.9999 / (1 + exp(-19 (G - 0.5))) * 0.9995 / (1 + exp(-22 (A - 0.5)))),

    and the value is Σ (1 - Q_k) w_k over the pixels where g_f exceeds the strength of every source, divided by Σ w_k
    over all pixels, both over the sources k, of which there may be any number. w_k = g_k^1.5, or 0.001 where g_k < 2.
    As in the toolbox LT, G is 0 where a strength is 0, and α is 0 where both responses are.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; at least 2 x 2 pixels.
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), 0 to 1; lower is better, 0 for flat or identical images. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, the images are too small, or color is unknown.
    """
    image, sources = checked_pair(fused, bracket)
    check_size(image, 2)
    return by_color(_nabf, color, image, sources)


def _nabf(fused: Tensor, bracket: Tensor) -> Tensor:
    def edges(image: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (response / 8 for response in sobel(pad(image, (1, 1, 1, 1), mode="reflect")))
        return magnitude(x, y), torch.where((x == 0) & (y == 0), 0.0, torch.atan(x / y))

    strength, angle = edges(fused)
    added, loss, weights = torch.ones_like(fused, dtype=torch.bool), torch.zeros_like(fused), torch.zeros_like(fused)
    for image in bracket.unbind(1):
        source_strength, source_angle = edges(image)
        ratio = torch.minimum(strength, source_strength) / torch.maximum(strength, source_strength)
        ratio = torch.where(torch.maximum(strength, source_strength) == 0, 0.0, ratio)
        alignment = ((source_angle - angle).abs() - math.pi / 2).abs() / (math.pi / 2)
        quality = 0.9999 / (1 + torch.exp(-19 * (ratio - 0.5))) * 0.9995 / (1 + torch.exp(-22 * (alignment - 0.5)))
        weight = torch.where(source_strength >= 2, source_strength**1.5, 0.001)
        added &= strength > source_strength
        loss += (1 - quality.sqrt()) * weight
        weights += weight
    return (loss * added).sum((-3, -2, -1)) / weights.sum((-3, -2, -1))
