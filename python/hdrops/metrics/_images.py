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


def check_size(image: Tensor, least: int) -> None:
    """Raise ValueError if an image (..., H, W) is smaller than a metric's windows."""
    if min(image.shape[-2:]) < least:
        height, width = image.shape[-2:]
        raise ValueError(f"this metric needs images of at least {least} x {least} pixels, got {height} x {width}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError if an argument is none of its choices."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def in_255(image: Tensor) -> Tensor:
    """The image in float64 on 0-255: 8-bit codes as they are, 16-bit codes / 257, floats in [0, 1] times 255."""
    wide = image.to(torch.float64)
    if image.dtype == torch.uint8:
        return wide
    return wide / 257 if image.dtype == torch.uint16 else wide * 255


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

    ``metric`` takes one (..., 1, H, W) tensor for each of ``images`` and gives (N,). The value of a batch member that
    has NaN or infinities in any of its images is NaN. Values carry no gradient.
    """
    check_choice("color", color, get_args(Color))
    with torch.no_grad():
        if color == "grey":
            value = metric(*(grey(image) for image in images))
        else:
            channels = range(images[0].shape[-3])
            value = torch.stack([metric(*(in_255(image[..., c : c + 1, :, :]) for image in images)) for c in channels])
            value = value.mean(0)
        for image in images:
            if image.is_floating_point():
                value = value.masked_fill(~image.isfinite().flatten(1).all(1), torch.nan)
    return value


def one_by_one(metric: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """``metric`` of each member of the batches, (N,); what it makes on the way is then never larger than for one."""
    values = [metric(*members) for members in zip(*batches, strict=True)]
    return torch.stack(values) if values else batches[0].new_zeros(0)
