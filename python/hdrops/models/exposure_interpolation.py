"""Exposure interpolation: the conventional half of Zheng, Li, Yang and Wu, "Compensated exposure interpolation by
fusing conventional and deep learning methods", section III.A."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hdrops.ops.imf import estimate_imf, imf_fuse, intermediate_imf


def _codes(image: Tensor) -> Tensor:
    """The image as codes, for histograms."""
    if not image.is_floating_point():
        return image
    return (image.detach().float() * 65535).round().clamp(0, 65535).to(torch.int32).to(torch.uint16)


def interpolate_exposure(dark: Tensor, bright: Tensor) -> Tensor:
    """The exposure halfway between two, from their intensity mapping functions alone (eq. 5-12).

    Λ12 and Λ21 are estimated from the two images, reduced to the intermediate maps and fused. No exposure time or
    camera response is needed.

    Args:
        dark: the less exposed image (N, C, H, W), uint8, uint16 or floating point in [0, 1].
        bright: the more exposed image; same shape and dtype.

    Returns:
        The image exposed for sqrt(Δt1 Δt2), same shape and dtype.

    Raises:
        TypeError, ValueError: images that :func:`hdrops.imf_fuse` refuses, or a float image outside [0, 1].
    """
    for image, name in ((dark, "dark"), (bright, "bright")):
        if image.is_floating_point() and image.numel() and not bool(((image >= 0) & (image <= 1)).all()):
            raise ValueError(f"{name} must lie in [0, 1]; scale it by its maximum, or tone it to display range first")
    codes_dark, codes_bright = _codes(dark), _codes(bright)
    levels = 256 if dark.dtype == torch.uint8 else 4096
    return imf_fuse(
        dark,
        bright,
        intermediate_imf(estimate_imf(codes_dark, codes_bright, levels)),
        intermediate_imf(estimate_imf(codes_bright, codes_dark, levels)),
    )


def insert_exposures(bracket: Tensor) -> Tensor:
    """The bracket with an interpolated exposure between every two neighbours (section IV.E).

    Args:
        bracket: (N, K, C, H, W), K >= 2, dark to bright.

    Returns:
        (N, 2 K - 1, C, H, W), dark to bright.

    Raises:
        ValueError: fewer than two exposures.
    """
    if bracket.dim() != 5 or bracket.shape[1] < 2:
        raise ValueError(
            f"interpolation needs a bracket (N, K, C, H, W) of at least two exposures, got {tuple(bracket.shape)}"
        )
    frames = list(bracket.unbind(1))
    result = [frames[0]]
    for dark, bright in itertools.pairwise(frames):
        result += [interpolate_exposure(dark, bright), bright]
    return torch.stack(result, 1)
