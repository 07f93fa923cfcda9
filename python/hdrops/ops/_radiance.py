"""Radiance from a bracket of known exposures and a known response, without a network.

Debevec and Malik, "Recovering high dynamic range radiance maps from photographs", SIGGRAPH 1997.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hdrops.ops import _arguments
from hdrops.reference.imf import FULL_SCALE
from hdrops.reference.lab import linear_light

Coding = Literal["linear", "srgb"]

_BLOCK = 2**18  # values of all exposures that are computed at once


def merge_radiance(
    images: Tensor,
    times: Tensor | Sequence[float],
    *,
    coding: Coding | float | None = None,
) -> Tensor:
    """The radiance of a static scene from a bracket, by Debevec and Malik's weighted mean (eq. 6).

    ::

        ln E = Σ_k w(z_k) (ln f⁻¹(z_k) - ln t_k) / Σ_k w(z_k)
        w(z) = min(z, 1 - z)                                 (eq. 4)

    z_k is the value of the exposure k in [0, 1], and f⁻¹ the light that it stands for; each channel is computed on its
    own. Where every exposure is black or white, no weight is left. The paper leaves this open: E is then 1 / t of the
    shortest exposure that is white, the least that the scene can have there, and 0 if none is.

    Args:
        images: (N, K, C, H, W), or (K, C, H, W) of one scene, K >= 1, in any order: uint8 or uint16 codes, or floating
            point in [0, 1]; values outside count as 0 and 1, NaN gives NaN.
        times: exposure times (K,), or (N, K), positive and finite: seconds, or relative to any unit.
        coding: f⁻¹. "linear", of values that are linear light already; "srgb" (IEC 61966-2-1); or a number γ, the light
            is z^γ. None for "linear" of floating-point images and "srgb" of codes.

    Returns:
        E, (N, C, H, W) or (C, H, W), in units of the light that just saturates an exposure of one unit of time; >= 0.
        float64 for float64 images, float32 for all others. Not differentiable. Beside the result, memory does not grow
        with the size of the images.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: a shape, times or a coding out of range.
    """
    images = _arguments.as_tensor(images, "images").detach()
    _arguments.check_image_dtype(images, "images")
    if images.dim() not in (4, 5) or images.shape[-4] < 1:
        wanted = "(N, K, C, H, W) or (K, C, H, W) of at least one exposure"
        raise ValueError(f"images must be {wanted}, got shape {tuple(images.shape)}")
    if coding is None:
        coding = "srgb" if images.dtype in _arguments.CODE_DTYPES else "linear"
    known = coding in ("linear", "srgb") if isinstance(coding, str) else 0 < coding < math.inf
    if not known:
        raise ValueError(f"coding must be 'linear', 'srgb' or a positive exponent, got {coding!r}")
    bracket = images[None] if images.dim() == 4 else images
    scenes, exposures, channels, height, width = bracket.shape
    seconds = torch.as_tensor(times, dtype=torch.float64, device=images.device)
    if seconds.shape not in ((exposures,), (scenes, exposures)):
        raise ValueError(f"times must be one of each of {exposures} exposures, got shape {tuple(seconds.shape)}")
    if not bool((seconds > 0).all() & seconds.isfinite().all()):
        raise ValueError(f"times must be positive and finite, got {seconds.tolist()}")
    radiance = torch.empty(
        scenes, channels, height, width, dtype=_arguments.compute_dtype(images), device=images.device
    )
    rows = max(1, _BLOCK // max(1, exposures * channels * width))
    for scene, result, time in zip(bracket, radiance, seconds.expand(scenes, -1), strict=True):
        for top in range(0, height, rows):
            part = slice(top, top + rows)
            result[:, part] = _merged(scene[:, :, part], time[:, None, None, None], coding)
    return radiance[0] if images.dim() == 4 else radiance


def _terms(values: Tensor, coding: Coding | float) -> tuple[Tensor, Tensor]:
    """w(z) and ln f⁻¹(z) of values in [0, 1]."""
    if coding == "linear":
        light = values
    elif coding == "srgb":
        light = linear_light(values)
    else:
        light = values**coding
    # Black has no logarithm, but no weight either.
    return torch.minimum(values, 1 - values), light.clamp(min=torch.finfo(light.dtype).tiny).log()


def _merged(images: Tensor, times: Tensor, coding: Coding | float) -> Tensor:
    """Radiance (C, H, W) of images (K, C, H, W) and times (K, 1, 1, 1)."""
    full = FULL_SCALE.get(images.dtype)
    if full is None:
        values = images.to(_arguments.compute_dtype(images)).clamp(0, 1)
        weight, logarithm = _terms(values, coding)
        white = values == 1
    else:
        codes = images.int()
        tables = _terms(torch.arange(full + 1, device=images.device) / full, coding)
        weight, logarithm = (table[codes] for table in tables)
        white = codes == full
    logarithm -= times.log().to(logarithm.dtype)
    total = weight.sum(0)
    mean = (weight * logarithm).sum(0) / total
    least = (white / times.to(weight.dtype)).amax(0)
    return torch.where(total == 0, least, mean.exp())
