"""Structural similarity of a fused image with its sources: without a reference, as in the papers on exposure fusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hdrops.metrics._images import Color, by_color, checked_pair
from hdrops.ops import ssim as structure


def ssim_sources(fused: Any, bracket: Any, *, color: Color = "grey", **options: Any) -> Tensor:
    """The mean of SSIM between a fused image and each of its sources.

    ::

        (1/K) Σ_k SSIM(fused, source_k)

    Papers on fusion print such a value and seldom say how it was averaged; here all sources weigh the same. No fused
    image reaches 1 unless its sources are alike.

    Args:
        fused: the fused image (N, C, H, W), 1 or 3 channels: uint8, uint16 or floating point in [0, 1].
        bracket: its sources (N, K, C, H, W).
        color: "grey": MATLAB's ``rgb2gray``, rounded to codes for 8-bit images; "mean": each channel, then their mean.
        options: of :func:`hdrops.ssim`: ``window`` (Gaussian of 11), ``sigma`` (1.5), ``border`` ("valid"), ``k``,
            ``unbiased``, ``backend``. The range is that of the images' type.

    Returns:
        (N,), float64. NaN where an image holds NaN. Differentiable for floating-point images.

    Raises:
        TypeError, ValueError: images that do not fit together, as :func:`hdrops.ssim`.
    """
    return _mean_over_sources(structure.ssim, fused, bracket, color, options)


def ms_ssim_sources(fused: Any, bracket: Any, *, color: Color = "grey", **options: Any) -> Tensor:
    """The mean of MS-SSIM between a fused image and each of its sources.

    ::

        (1/K) Σ_k MS-SSIM(fused, source_k)

    This is the MS-SSIM without a reference of the papers on exposure fusion, HyperP_MB's among them, which do not say
    how they average.

    Args:
        fused: as for :func:`ssim_sources`; with the default options at least 161 pixels high and wide.
        bracket: as for :func:`ssim_sources`.
        color: as for :func:`ssim_sources`.
        options: of :func:`hdrops.ms_ssim`: those of :func:`ssim_sources`, ``weights`` and ``downsampling``.

    Returns:
        (N,), as of :func:`ssim_sources`.

    Raises:
        TypeError, ValueError: images that do not fit together, as :func:`hdrops.ms_ssim`.
    """
    return _mean_over_sources(structure.ms_ssim, fused, bracket, color, options)


def _mean_over_sources(
    similarity: Callable[..., Tensor], fused: Any, bracket: Any, color: Color, options: dict[str, Any]
) -> Tensor:
    image, sources = checked_pair(fused, bracket)

    def metric(image: Tensor, sources: Tensor) -> Tensor:
        each = [similarity(image, source, 255.0, reduction="none", **options) for source in sources.unbind(1)]
        return torch.stack(each).mean(0)

    return by_color(metric, color, image, sources)
