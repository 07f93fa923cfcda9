"""Images with one more pixel to every side, reflected."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reflected(x: Tensor) -> Tensor:
    """An image with one more pixel to every side, for a 3 x 3 layer on it: c b | a b c. One pixel a side repeats.

    Args:
        x: (N, C, H, W), H and W at least 1.

    Returns:
        (N, C, H + 2, W + 2).
    """
    rows, columns = ("reflect" if side > 1 else "replicate" for side in x.shape[-2:])
    if rows == columns:
        return F.pad(x, (1, 1, 1, 1), rows)
    return F.pad(F.pad(x, (1, 1, 0, 0), columns), (0, 0, 1, 1), rows)


def reflected_relu(x: Tensor) -> Tensor:
    """:func:`reflected` of ReLU of an image, in one pass forward and one backward. Differentiable, as often as wanted.

    Args:
        x: (N, C, H, W), H and W at least 1.

    Returns:
        (N, C, H + 2, W + 2), in the memory format of x.
    """
    if torch.compiler.is_compiling():  # compilers fuse by themselves
        return reflected(x.relu())
    result: Tensor = _ReflectedReLU.apply(x)  # type: ignore[no-untyped-call]
    return result


def _inner(x: Tensor) -> Tensor:
    return x[..., 1:-1, 1:-1]


def _sources(side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The outer places before and after a side, and the places in it that they repeat."""
    return (0, min(1, side - 1)), (-1, max(side - 2, 0))


class _ReflectedReLU(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        last = x.is_contiguous(memory_format=torch.channels_last)
        out = torch.empty(
            (n, c, h + 2, w + 2),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        )
        torch.clamp_min(x, 0, out=_inner(out))
        for outer, source in _sources(h):
            out[..., outer, :] = out[..., source + 1, :]
        for outer, source in _sources(w):
            out[..., outer] = out[..., source + 1]
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (out,), (grad,) = ctx.saved_tensors, grads
        inner = _inner(out)
        x_grad: Tensor = torch.ops.aten.threshold_backward(_inner(grad), inner, 0)
        # What the outer rows and columns are copies of gets their gradients too.
        rows, columns = (_sources(side) for side in x_grad.shape[-2:])
        for outer, source in rows:
            x_grad[..., source, :] += torch.where(inner[..., source, :] > 0, grad[..., outer, 1:-1], 0)
        for outer, source in columns:
            column = grad[..., 1:-1, outer].clone()
            for corner, row in rows:
                column[..., row] += grad[..., corner, outer]
            x_grad[..., source] += torch.where(inner[..., source] > 0, column, 0)
        return x_grad
