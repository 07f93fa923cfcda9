"""The smooth absolute difference of Zheng, Li, Yang and Wu, "Compensated exposure interpolation by fusing conventional
and deep learning methods", eq. 14-16."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hdrops.losses import _pixels
from hdrops.losses._pixels import PixelReduction


def psi_loss(
    prediction: Tensor, target: Tensor, c: float = 1.0, *, scale: float = 255.0, reduction: PixelReduction = "mean"
) -> Tensor:
    """Absolute differences that are rounded off below ``c`` (eq. 14)::

        ψ(z) = |z|                   where |z| > c                     (eq. 15)
               (z² + c²) / (2 c)     elsewhere
        ψ'(z) = z / c clamped to [-1, 1], continuous                   (eq. 16)

    The value of equal images is c / 2, not 0, as the paper has it: ψ is Huber's loss over c, plus c / 2.

    Args:
        prediction: values of any shape, floating point.
        target: the values wanted; same shape.
        c: where the absolute difference begins, positive, on the scale below. The paper takes 1.
        scale: what the differences are multiplied by first. The paper's c = 1 is one code of 255, so the default suits
            images in [0, 1]; for codes it is 1.
        reduction: "mean" over all values, "sum" as eq. 14 has it, or "none" for a map of the shape of the images.

    Returns:
        The loss in units of ``scale`` (codes, by default), float32 (float64 for float64 images). Differentiable with
        respect to both arguments, once everywhere and twice but where z is c or -c.

    Raises:
        TypeError: values that are not floating point.
        ValueError: shapes that differ, c or scale that is not positive, or an unknown reduction.
    """
    if not c > 0 or not scale > 0:
        raise ValueError(f"c and scale must be positive, got {c} and {scale}")
    z = _pixels.difference(prediction, target) * scale
    magnitude = z.abs()
    return _pixels.reduced(torch.where(magnitude > c, magnitude, (z * z + c * c) / (2 * c)), reduction)


class PsiLoss(nn.Module):
    """:func:`psi_loss` as a module; arguments as there."""

    def __init__(self, c: float = 1.0, *, scale: float = 255.0, reduction: PixelReduction = "mean") -> None:
        super().__init__()
        self.c, self.scale, self.reduction = c, scale, reduction

    def extra_repr(self) -> str:
        return f"c={self.c}, scale={self.scale}, reduction={self.reduction!r}"

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of a prediction."""
        return psi_loss(prediction, target, self.c, scale=self.scale, reduction=self.reduction)
