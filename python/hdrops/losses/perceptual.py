"""The distance of images in the features of a network: Johnson, Alahi and Fei-Fei, "Perceptual losses for real-time
style transfer and super-resolution", ECCV 2016."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hdrops.losses import _pixels
from hdrops.nn.mosaic import demosaic

Criterion = Literal["l1", "l2"]


class PerceptualLoss(nn.Module):
    """L_p, the mean distance of the features of a prediction and of its target.

    Ren, Fan and Huang, "Robust real-world image enhancement based on multi-exposure LDR images", WACV 2023, section
    4.2, take VGG-19 and refer to ESRGAN, which takes L1 of conv5_4 before its ReLU: the defaults here and of
    :class:`hdrops.nn.VGGFeatures`.

    Args:
        features: from RGB images (N, 3, H, W) to features; its parameters get no gradients if they want none, as those
            of :class:`hdrops.nn.VGGFeatures`.
        criterion: "l1" for absolute differences, "l2" for squares.
        mosaic: whether images are packed Bayer mosaics, (N, 4, H, W), which :func:`hdrops.nn.demosaic` makes RGB of.

    Raises:
        ValueError: a criterion that is not offered.
    """

    def __init__(self, features: nn.Module, criterion: Criterion = "l1", *, mosaic: bool = False) -> None:
        super().__init__()
        if criterion not in get_args(Criterion):
            raise ValueError(f"criterion must be 'l1' or 'l2', got {criterion!r}")
        self.features, self.criterion, self.mosaic = features, criterion, mosaic

    def extra_repr(self) -> str:
        return f"criterion={self.criterion!r}, mosaic={self.mosaic}"

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of a prediction.

        Args:
            prediction: (N, 3, H, W), or (N, 4, H, W) of mosaics, floating point. Networks for ImageNet know pictures in
                [0, 1] as displays show them: linear values are best encoded first. What lies outside is not clamped,
                for it would have no gradient.
            target: the image wanted; same shape.

        Returns:
            A scalar, float32 (float64 from features in float64). Differentiable with respect to the prediction, not
            the target.

        Raises:
            TypeError: images that are not floating point.
            ValueError: shapes that differ, or that the features do not take.
        """
        first, second = _pixels.operands(prediction, target)
        with torch.no_grad():
            wanted = self._found(second)
        found = self._found(first)
        return F.l1_loss(found, wanted) if self.criterion == "l1" else F.mse_loss(found, wanted)

    def _found(self, images: Tensor) -> Tensor:
        result: Tensor = self.features(demosaic(images) if self.mosaic else images)
        return result if result.dtype == torch.float64 else result.float()
