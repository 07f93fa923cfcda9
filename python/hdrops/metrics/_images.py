"""What the metrics share: the range 0-255, grey, colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hdrops.ops import _arguments, _grey

Color = Literal["grey", "mean"]


def checked(image: Any, name: str, dim: int = 4) -> Tensor:
    """An image (N, C, H, W), or a bracket (N, K, C, H, W) for ``dim`` 5, of 1 or 3 channels and at least one pixel."""
    tensor = _arguments.as_tensor(image, name)
    _arguments.check_image_dtype(tensor, name)
    layout = "(N, C, H, W)" if dim == 4 else "(N, K, C, H, W)"
    if tensor.dim() != dim:
        raise ValueError(f"{name} must be {layout}, got shape {tuple(tensor.shape)}")
    if tensor.shape[-3] not in (1, 3):
        raise ValueError(f"{name} must have 1 or 3 channels, got {tensor.shape[-3]}")
    if 0 in tensor.shape[1:]:
        raise ValueError(f"{name} has no pixels: shape {tuple(tensor.shape)}")
    return tensor


def checked_pair(fused: Any, bracket: Any) -> tuple[Tensor, Tensor]:
    """A fused image and the bracket that it came from, of the same size, channels and device."""
    image, sources = checked(fused, "fused"), checked(bracket, "bracket", 5)
    if image.shape[0] != sources.shape[0] or image.shape[1:] != sources.shape[2:]:
        raise ValueError(
            f"fused {tuple(image.shape)} and bracket {tuple(sources.shape)} differ in more than the exposures: "
            "give (N, C, H, W) and (N, K, C, H, W)"
        )
    if image.device != sources.device:
        raise ValueError(f"fused is on {image.device}, bracket on {sources.device}; move them to one device")
    return image, sources


def in_255(image: Tensor) -> Tensor:
    """The image in float64 on 0-255: 8-bit codes as they are, 16-bit codes / 257, floats in [0, 1] times 255."""
    scale = {torch.uint8: 1.0, torch.uint16: 1 / 257}.get(image.dtype, 255.0)
    return image.to(torch.float64) * scale


def grey(image: Tensor) -> Tensor:
    """Grey of (..., C, H, W) on 0-255, (..., 1, H, W) in float64: MATLAB's rgb2gray.

    That of 8-bit images is rounded to codes, half away from zero, as MATLAB's is; that of others is not rounded.
    """
    wide = in_255(image)
    if image.shape[-3] == 1:
        return wide
    luma = _grey.luma(wide)
    return _grey.rounded(luma) if image.dtype == torch.uint8 else luma


def by_color(metric: Callable[..., Tensor], color: Color, *images: Tensor) -> Tensor:
    """``metric`` on single-channel float64 images of 0-255: on grey, or on each channel and then their mean.

    ``metric`` takes one (..., 1, H, W) tensor for each of ``images`` and gives (N,).
    """
    if color not in get_args(Color):
        raise ValueError(f"color must be 'grey' or 'mean', got {color!r}")
    if color == "grey":
        return metric(*(grey(image) for image in images))
    wide = [in_255(image) for image in images]
    channels = wide[0].shape[-3]
    values = [metric(*(image[..., c : c + 1, :, :] for image in wide)) for c in range(channels)]
    return torch.stack(values).mean(0)
