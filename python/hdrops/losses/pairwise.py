"""The order of intensities: Ren, Fan and Huang, "Robust real-world image enhancement based on multi-exposure LDR
images", WACV 2023, section 4.1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hdrops.losses import _pixels
from hdrops.ops import pairwise
from hdrops.ops.pairwise import PIXEL_THRESHOLD, Ties
from hdrops.reference import pairwise as reference

PATCH_THRESHOLD = 0.5  # the paper's S, found by tuning, as that of pixels
SMALLEST, LARGEST = 5, 15  # sides of patches


def ordinal_penalty(contradiction: Tensor, threshold: float = PIXEL_THRESHOLD) -> Tensor:
    """What a pair costs whose order is contradicted by P (eq. 2 and 3)::

        log(1 + e^P)              P <= S
        log(1 + e^√P) + C         P > S         C = log(1 + e^S) - log(1 + e^√S), for which it is continuous

    Its slope is not: at S = 0.25 it rises from 0.562 to 0.622, at 0.5 it falls from 0.622 to 0.474.

    Args:
        contradiction: P, any shape, floating point.
        threshold: S, positive.

    Raises:
        ValueError: a threshold that is not positive.
    """
    if not 0 < threshold < math.inf:
        raise ValueError(f"threshold must be positive, got {threshold}")
    return reference.penalty(contradiction, threshold)


def pairwise_pixel_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    pairs: int = 1024,
    threshold: float = PIXEL_THRESHOLD,
    limit: float = 0.99,
    ties: Ties = "darker",
    least: float = 1e-6,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Whether pairs of pixels keep their order, pairs drawn anew at each call (eq. 2)::

        P = -r (log I_i - log I_j)        r = 1 where target_i > target_j, else -1

    Both pixels of a pair are of one channel of one image, and drawn among those whose target is at most ``limit`` times
    the largest of its image: neither is over-exposed. The paper draws one pair at each step.

    Args:
        prediction: (N, C, H, W), floating point.
        target: the image wanted; same shape.
        pairs: of each channel of each image.
        threshold: S.
        limit: share of the image's maximum up to which a pixel is not over-exposed.
        ties: pairs of equal targets count as "darker", r = -1, as the formula has it, or are "ignored".
        least: intensities below it count as it, for their logarithms.
        generator: of the random pairs, on the images' device; None for torch's own.

    Returns:
        The mean over all pairs, float32 (float64 for float64 images); 0 where there is none. Differentiable with
        respect to the prediction.

    Raises:
        TypeError: images that are not floating point.
        ValueError: shapes that differ or are not (N, C, H, W), or numbers out of range.
    """
    options = {"pairs": pairs, "threshold": threshold, "limit": limit, "ties": ties, "least": least}
    return _loss(prediction, target, None, generator, **options)


def pairwise_patch_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    pairs: int = 1024,
    smallest: int = SMALLEST,
    largest: int = LARGEST,
    threshold: float = PATCH_THRESHOLD,
    limit: float = 0.99,
    ties: Ties = "darker",
    least: float = 1e-6,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The same of pairs of patches, whose intensities are their means (eq. 3).

    Patches have from ``smallest`` to ``largest`` pixels a side (no more than the image has), as drawn for each image;
    both of a pair have the same size. No pixel of a patch is over-exposed. Their means come from sums over the image,
    so that what a pair takes does not grow with the area of its patches.

    Args:
        prediction, target, pairs, threshold, limit, ties, least, generator: as for :func:`pairwise_pixel_loss`.
        smallest, largest: sides of patches, at least 1.

    Returns:
        As :func:`pairwise_pixel_loss`.

    Raises:
        TypeError, ValueError: as for :func:`pairwise_pixel_loss`.
    """
    if not 1 <= smallest <= largest:
        raise ValueError(f"patches need 1 <= smallest <= largest, got {smallest} and {largest}")
    sides = torch.randint(smallest, largest + 1, prediction.shape[:1], generator=generator, device=prediction.device)
    options = {"pairs": pairs, "threshold": threshold, "limit": limit, "ties": ties, "least": least}
    return _loss(prediction, target, sides, generator, **options)


class PairwiseLoss(nn.Module):
    """:func:`pairwise_pixel_loss` plus :func:`pairwise_patch_loss`, as section 5.4.2 finds best.

    Args:
        pixels: weight of the first.
        patches: weight of the second.
        pairs: of both, of each channel of each image.
        limit, ties: as for :func:`pairwise_pixel_loss`.
    """

    def __init__(
        self, pixels: float = 1, patches: float = 1, *, pairs: int = 1024, limit: float = 0.99, ties: Ties = "darker"
    ) -> None:
        super().__init__()
        self.pixels, self.patches, self.pairs, self.limit, self.ties = pixels, patches, pairs, limit, ties

    def extra_repr(self) -> str:
        return (
            f"pixels={self.pixels}, patches={self.patches}, pairs={self.pairs}, limit={self.limit}, ties={self.ties!r}"
        )

    def forward(self, prediction: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss of a prediction, with pairs from a generator."""
        total = prediction.new_zeros(())
        for weight, loss in ((self.pixels, pairwise_pixel_loss), (self.patches, pairwise_patch_loss)):
            if weight:
                found = loss(
                    prediction, target, pairs=self.pairs, limit=self.limit, ties=self.ties, generator=generator
                )
                total = total + weight * found
        return total


def _loss(
    prediction: Tensor, target: Tensor, sides: Tensor | None, generator: torch.Generator | None, **options: Any
) -> Tensor:
    if prediction.dtype != target.dtype:
        prediction, target = _pixels.operands(prediction, target)
    seed = torch.randint(2**63 - 1, (), generator=generator, device=prediction.device)
    return pairwise.pairwise_loss(prediction, target, seed, sides=sides, **options)
