"""What the metrics of an image against its reference share: checks, and codes as values in [0, 1]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hdrops.ops import _arguments


def checked(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """An image and its reference, both (N, C, H, W) of one shape and device; dtypes may differ."""
    images = []
    for array, name in ((x, "x"), (y, "y")):
        image = _arguments.as_tensor(array, name)
        _arguments.check_image_dtype(image, name)
        if image.dim() != 4:
            raise ValueError(f"{name} must be (N, C, H, W), got shape {tuple(image.shape)}")
        if 0 in image.shape[1:]:
            raise ValueError(f"{name} has no pixels: shape {tuple(image.shape)}")
        images.append(image)
    if images[0].shape != images[1].shape:
        raise ValueError(
            f"x {tuple(images[0].shape)} and y {tuple(images[1].shape)} differ in shape; crop or resize one of them"
        )
    if images[0].device != images[1].device:
        raise ValueError(f"x is on {images[0].device}, y on {images[1].device}; move them to one device")
    return images[0], images[1]


def values(image: Tensor) -> Tensor:
    """The image in float64: uint8 codes / 255, uint16 codes / 65535, floating-point values as they are."""
    if image.is_floating_point():
        return image.to(torch.float64)
    return image.to(torch.float64) / torch.iinfo(image.dtype).max


def per_image(value: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1), to meet images."""
    return value[:, None, None, None]


def checked_peak(display_peak: float | None, who: str) -> float:
    """The luminance in cd/m² at which value 1 is shown, where absolute luminance is asked for."""
    if display_peak is None:
        raise ValueError(
            f"{who} takes absolute luminance: give display_peak, what value 1 stands for in cd/m² (1 where the images "
            "are in cd/m² already)"
        )
    if not 0 < display_peak < float("inf"):
        raise ValueError(f"display_peak must be positive and finite, got {display_peak}")
    return display_peak
