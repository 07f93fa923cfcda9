"""Whole-pixel shifts by median threshold bitmaps: Ward, "Fast, robust image registration for compositing high dynamic
range photographs from hand-held exposures", 2003."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hdrops.align.errors import Unmatched
from hdrops.align.geometry import Matrix, translation
from hdrops.ops.mtb import mtb_shift
from hdrops.reference.mtb import bitmaps, grey_codes

_COARSEST = 16  # pixels a side at least of the coarsest level: below, many shifts are equally good
_EXCLUDE = 4  # codes next to the median that are not compared
# Of all pixels on either side of the median: without one of the sides no shift can disagree with another.
_LEAST_SIDE = 0.02
_LEAST = 0.75  # of the compared pixels must agree; of unrelated frames half of them do


@dataclass(frozen=True)
class Seen:
    """A frame (C, H, W), and whether enough of it lies clearly on either side of its median."""

    frame: Tensor
    split: bool


def look_at(frame: Tensor, _: str) -> Seen:
    """Look at a frame; of large ones, at about a million pixels."""
    step = max(1, min(frame.shape[-2:]) // 1024)
    sides = bitmaps(grey_codes(frame[None, :, ::step, ::step])[0], _EXCLUDE)
    return Seen(frame, min(side.float().mean().item() for side in sides) >= _LEAST_SIDE)


def shift(moving: Seen, fixed: Seen) -> tuple[Matrix, float]:
    """The shift from one frame to another, and the share of the compared pixels that agree under it.

    Raises:
        Unmatched: too little can be compared, as where most of a frame is black or blown, or too few agree.
    """
    if not (moving.split and fixed.split):
        raise Unmatched("too few pixels of one of both frames are clearly brighter, or darker, than its median")
    levels = max(1, (min(moving.frame.shape[-2:]) // _COARSEST).bit_length())
    shifts, counts = mtb_shift(moving.frame[None], fixed.frame[None], levels=levels, exclude=_EXCLUDE)
    disagreeing, compared = counts[0].tolist()
    agreement = 1 - disagreeing / compared if compared else 0.0
    if agreement < _LEAST:
        raise Unmatched(f"only {agreement:.0%} of the bitmaps agree, {_LEAST:.0%} are needed")
    down, right = shifts[0].tolist()
    return translation(right, down), agreement
