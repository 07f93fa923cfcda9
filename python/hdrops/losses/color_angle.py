"""The angle between colours: Zheng, Li, Yang and Wu, "Compensated exposure interpolation by fusing conventional and
deep learning methods", eq. 17."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hdrops.losses import _pixels
from hdrops.losses._pixels import PixelReduction

PARALLEL = 1e-7  # radians: what float32 cannot tell from parallel
FAINT = 1e-4  # of the floor: below it, second derivatives of the length would leave float32


def _root(squares: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """The square root, 0 with a gradient of 0 below ``least``²; and where it is not below."""
    present = ~(squares <= least * least)  # NaN passes through
    return torch.where(present, torch.where(present, squares, 1.0).sqrt(), 0.0), present


def color_angle_loss(
    prediction: Tensor, target: Tensor, *, floor: float = 1 / 255, reduction: PixelReduction = "mean"
) -> Tensor:
    """Angles between the (R, G, B) vectors of two images, in radians (eq. 17)::

        ∠(a, b) = atan2(|a × b|, a · b)

    which, unlike the arc cosine, is exact for small angles and has bounded slopes there. A vector shorter than
    ``floor`` hardly has a direction: its angle counts in the proportion of its length to ``floor``. The gradient of a
    pixel is therefore bounded by (1 + π) / floor; it is 0 for a vector of length 0 and for parallel ones (angles below
    1e-7).

    Args:
        prediction: (N, 3, H, W), floating point. Negative values are allowed.
        target: the image wanted; same shape.
        floor: length from which a vector counts in full, positive. The default is one code of an image in [0, 1]. The
            paper leaves black pixels open.
        reduction: "mean" over the pixels, "sum" as eq. 17 has it, or "none" for a map (N, H, W).

    Returns:
        The loss in radians, float32 (float64 for float64 images). Differentiable with respect to both arguments.

    Raises:
        TypeError: images that are not floating point.
        ValueError: shapes that differ or are not (N, 3, H, W), a floor that is not positive, or an unknown reduction.
    """
    if not floor > 0:
        raise ValueError(f"floor must be positive, got {floor}")
    first, second = _pixels.operands(prediction, target)
    if first.dim() != 4 or first.shape[1] != 3:
        raise ValueError(f"colours need images (N, 3, H, W), got shape {tuple(first.shape)}")
    share = torch.ones_like(first[:, 0])
    units = []
    for image in (first, second):
        length, present = _root(image.square().sum(1), FAINT * floor)
        units.append(image / torch.where(present, length, 1.0).unsqueeze(1))
        share = share * (length / floor).clamp(max=1)
    sine, tilted = _root(torch.linalg.cross(*units, dim=1).square().sum(1), PARALLEL)
    cosine = (units[0] * units[1]).sum(1)
    # The arc tangent is kept away from (0, 0), where it has no slope: vectors on one line are 0 or π apart.
    angle = torch.where(
        tilted, torch.atan2(sine, torch.where(tilted, cosine, 1.0)), torch.pi * (cosine < 0).to(cosine.dtype)
    )
    return _pixels.reduced(angle * share, reduction)


class ColorAngleLoss(nn.Module):
    """:func:`color_angle_loss` as a module; arguments as there."""

    def __init__(self, *, floor: float = 1 / 255, reduction: PixelReduction = "mean") -> None:
        super().__init__()
        self.floor, self.reduction = floor, reduction

    def extra_repr(self) -> str:
        return f"floor={self.floor:.6g}, reduction={self.reduction!r}"

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of a prediction."""
        return color_angle_loss(prediction, target, floor=self.floor, reduction=self.reduction)
