"""The training loss of Zheng, Li, Yang and Wu, "Compensated exposure interpolation by fusing conventional and deep
learning methods", eq. 13."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor, nn

from hdrops.losses import _pixels
from hdrops.losses.color_angle import color_angle_loss
from hdrops.losses.psi import psi_loss

Restoration = Literal["l2", "l1", "psi"]
CODES = 255.0


class InterpolationLoss(nn.Module):
    """L_d = L_r + w_c L_c (eq. 13): restoration, and the angle between colours.

    ::

        L_r = mean over pixels of Σ_c |s d|²             "l2" (eq. 3)
                                  Σ_c |s d|              "l1" (section IV.D)
                                  Σ_c s / 255 ψ(255 d)   "psi" (eq. 14-16, c = 1 code)
        L_c = mean over pixels of ∠(prediction, target)  radians (eq. 17)

    for a difference d of images in [0, 1]. The paper sums over pixels; their mean has the same minimum and does not
    grow with the patch.

    Args:
        kind: of L_r. The paper finds "l2" the best.
        color: w_c. The paper takes 0.1; 0 leaves L_c out, which grey images need.
        scale: s, the full scale of the values on which L_r is measured. The paper leaves it open, and with it what 0.1
            means beside a sum of squares. At the accuracy it reports (29.5 dB, angles of some hundredths of a radian)
            values on 0 to 255 would make the colour term some 1e-5 of the whole, without the effect it shows; on 0 to 1
            both terms weigh alike, which is the default.

    Raises:
        ValueError: a kind that is not offered, or color or scale out of range.
    """

    def __init__(self, kind: Restoration = "l2", color: float = 0.1, *, scale: float = 1.0) -> None:
        super().__init__()
        if kind not in get_args(Restoration):
            raise ValueError(f"kind must be 'l2', 'l1' or 'psi', got {kind!r}")
        if not 0 <= color < math.inf or not 0 < scale < math.inf:
            raise ValueError(f"color must be 0 or more and scale positive, got {color} and {scale}")
        self.kind, self.color, self.scale = kind, color, scale

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, color={self.color}, scale={self.scale}"

    def terms(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """L_r under its kind and, where it counts, w_c L_c as "color": the loss is their sum.

        Args:
            prediction: (N, C, H, W), floating point, nominally in [0, 1], not clamped; C = 3 with a colour term.
            target: the image wanted; same shape.

        Returns:
            Scalars, float32 (float64 for float64 images).

        Raises:
            TypeError, ValueError: images that are not floating point, or shapes that do not fit.
        """
        if self.kind == "psi":
            values = psi_loss(prediction, target, reduction="none") * (self.scale / CODES)
        else:
            values = _pixels.difference(prediction, target) * self.scale
            values = values.square() if self.kind == "l2" else values.abs()
        result: dict[str, Tensor] = {self.kind: values.sum(1).mean()}
        if self.color > 0:
            result["color"] = self.color * color_angle_loss(prediction, target)
        return result

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar; arguments as for :meth:`terms`."""
        terms = list(self.terms(prediction, target).values())
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]
