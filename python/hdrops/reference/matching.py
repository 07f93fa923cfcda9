"""Definition of the operator ``matching``; arguments as in ``cpp/schema.cpp``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hdrops.reference._autograd import differentiable


def _compute(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """What lies at every pixel plus (down, right), 0 where that is outside.

    Args:
        image: (..., H, W).
        down: rows.
        right: columns.
    """
    height, width = image.shape[-2:]
    top, left = min(max(0, -down), height), min(max(0, -right), width)
    bottom, far = min(max(0, down), height - top), min(max(0, right), width - left)
    rows, columns = height - top - bottom, width - left - far
    part = image[..., height - top - rows :, width - left - columns :][..., :rows, :columns]
    return F.pad(part, (left, far, top, bottom))


def products(a: Tensor, b: Tensor, motions: Tensor) -> Tensor:
    """The correlation in the arithmetic type."""
    wide = _compute(a)
    a, b = a.to(wide), b.to(wide)
    planes = [(a * shifted(b, down, right)).sum(1) for down, right in motions.tolist()]
    return torch.stack(planes, 1) if planes else (a * b).sum(1, keepdim=True)[:, :0]


def correlation(a: Tensor, b: Tensor, motions: Tensor) -> Tensor:
    return products(a, b, motions).to(a.dtype)


def correlation_out(a: Tensor, b: Tensor, motions: Tensor, out: Tensor) -> None:
    out.copy_(correlation(a, b, motions))


def correlation_backward(
    grad: Tensor, a: Tensor, b: Tensor, motions: Tensor, wants_a: bool, wants_b: bool
) -> tuple[Tensor, Tensor]:
    with differentiable():
        variables = a.detach().requires_grad_(wants_a), b.detach().requires_grad_(wants_b)
        active = [v for v in variables if v.requires_grad]
        result = products(*variables, motions)
        grads = iter(torch.autograd.grad(result, active, grad.to(result.dtype)) if active else active)
    grad_a, grad_b = (next(grads).detach() if v.requires_grad else v.new_empty(0) for v in variables)
    return grad_a, grad_b
