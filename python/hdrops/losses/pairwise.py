"""The order of intensities: Ren, Fan and Huang, "Robust real-world image enhancement based on multi-exposure LDR
images", WACV 2023, section 4.1."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hdrops.losses import _pixels

Ties = Literal["darker", "ignored"]
PIXEL_THRESHOLD, PATCH_THRESHOLD = 0.25, 0.5  # the paper's S, found by tuning
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
    constant = math.log1p(math.exp(threshold)) - math.log1p(math.exp(math.sqrt(threshold)))
    beyond = F.softplus(contradiction.clamp(min=threshold).sqrt()) + constant
    return torch.where(contradiction > threshold, beyond, F.softplus(contradiction))


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
    first, second = _checked(prediction, target, pairs, limit, ties, least)
    rows, wanted = first.flatten(2).flatten(0, 1), second.flatten(2).flatten(0, 1)
    usable = _exposed(second, limit).flatten(2).flatten(0, 1)
    places, there = _drawn(usable, 2 * pairs, generator)
    return _loss(rows.gather(1, places), wanted.gather(1, places), there, threshold, ties, least)


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
    so that what a pair takes does not grow with its patches.

    Args:
        prediction, target, pairs, threshold, limit, ties, least, generator: as for :func:`pairwise_pixel_loss`.
        smallest, largest: sides of patches, at least 1.

    Returns:
        As :func:`pairwise_pixel_loss`.

    Raises:
        TypeError, ValueError: as for :func:`pairwise_pixel_loss`.
    """
    first, second = _checked(prediction, target, pairs, limit, ties, least)
    if not 1 <= smallest <= largest:
        raise ValueError(f"patches need 1 <= smallest <= largest, got {smallest} and {largest}")
    n, _, height, width = first.shape
    sides = torch.randint(smallest, largest + 1, (n,), generator=generator, device=first.device).tolist()
    exposed = _exposed(second, limit)
    drawn: list[tuple[Tensor, Tensor, Tensor]] = []
    for k, most in enumerate(sides):
        side = min(most, height, width)
        if side < 1:
            continue
        usable = _boxes(_integral(exposed[k].logical_not().to(torch.float64)), side) < 0.5
        places, there = _drawn(usable.flatten(1), 2 * pairs, generator)
        # What is over-exposed is in no patch, but would be in the sums.
        images = [torch.where(exposed[k], image[k], 0).double() for image in (first, second)]
        means = [_boxes(_integral(image), side).flatten(1) / side**2 for image in images]
        drawn.append((means[0].gather(1, places), means[1].gather(1, places), there))
    if not drawn:
        return first.sum() * 0
    values, wanted, there = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return _loss(values, wanted, there, threshold, ties, least).to(first.dtype)


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


def _checked(
    prediction: Tensor, target: Tensor, pairs: int, limit: float, ties: str, least: float
) -> tuple[Tensor, Tensor]:
    first, second = _pixels.operands(prediction, target)
    if first.dim() != 4:
        raise ValueError(f"images must be (N, C, H, W), got shape {tuple(first.shape)}")
    if pairs < 1:
        raise ValueError(f"pairs must be 1 or more, got {pairs}")
    if not 0 < limit <= 1:
        raise ValueError(f"limit must be in (0, 1], got {limit}")
    if ties not in ("darker", "ignored"):
        raise ValueError(f"ties must be 'darker' or 'ignored', got {ties!r}")
    if not least > 0:
        raise ValueError(f"least must be positive, got {least}")
    return first, second.detach()


def _exposed(target: Tensor, limit: float) -> Tensor:
    """Which pixels are not over-exposed."""
    if target.numel() == 0:
        return torch.ones_like(target, dtype=torch.bool)
    return target <= limit * target.amax((1, 2, 3), keepdim=True)


def _drawn(usable: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """``count`` places of each row (rows, places) among its usable ones, uniformly; and which rows have any."""
    rows, size = usable.shape
    if size == 0:
        return usable.new_zeros((rows, 0), dtype=torch.long), usable.new_zeros((rows, 1))
    numbers = usable.cumsum(1)
    total = numbers[:, -1:]
    share = torch.rand(rows, count, generator=generator, dtype=torch.float64, device=usable.device)
    wanted = (share * total).long().clamp(max=(total - 1).clamp(min=0)) + 1  # the wanted-th usable place
    return torch.searchsorted(numbers, wanted).clamp(max=size - 1), total > 0


def _integral(image: Tensor) -> Tensor:
    """Sums of all that lies above and left, (C, H + 1, W + 1)."""
    return F.pad(image, (1, 0, 1, 0)).cumsum(1).cumsum(2)


def _boxes(sums: Tensor, side: int) -> Tensor:
    """Sums of the squares from each pixel on."""
    right = sums[..., side:] - sums[..., :-side]
    return right[:, side:] - right[:, :-side]


def _loss(values: Tensor, wanted: Tensor, there: Tensor, threshold: float, ties: str, least: float) -> Tensor:
    """Of pairs that lie one after the other in rows."""
    logarithms = values.clamp(min=least).log().unflatten(1, (-1, 2))
    order = wanted.unflatten(1, (-1, 2)).diff(dim=2)[..., 0]  # of the second, less the first
    sign = torch.where(order < 0, 1.0, -1.0).to(values.dtype)
    counted = there & (order != 0) if ties == "ignored" else there.expand_as(order)
    penalty = ordinal_penalty(sign * logarithms.diff(dim=2)[..., 0], threshold)
    return torch.where(counted, penalty, 0).sum() / counted.sum().clamp(min=1)
