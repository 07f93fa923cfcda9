"""What the losses of single pixels share."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hdrops.ops._arguments import compute_dtype

PixelReduction = Literal["mean", "sum", "none"]


def operands(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both images in the arithmetic type: float32, or float64 where one of them is."""
    for image, name in ((prediction, "prediction"), (target, "target")):
        if not image.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {image.dtype}; divide codes by their full scale")
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must have one shape")
    dtype = torch.promote_types(compute_dtype(prediction), compute_dtype(target))
    return prediction.to(dtype), target.to(dtype)


def difference(prediction: Tensor, target: Tensor) -> Tensor:
    first, second = operands(prediction, target)
    return first - second


def reduced(values: Tensor, reduction: str) -> Tensor:
    if reduction not in get_args(PixelReduction):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return values.mean() if reduction == "mean" else values.sum() if reduction == "sum" else values
