"""Whole-pixel shifts by median threshold bitmaps: Ward, "Fast, robust image registration for compositing high dynamic
range photographs from hand-held exposures", 2003."""

from __future__ import annotations

from torch import Tensor

from hdrops.align.errors import Unmatched
from hdrops.align.geometry import Matrix, translation
from hdrops.ops.mtb import mtb_shift

_COARSEST = 16  # pixels a side at least of the coarsest level: below, many shifts are equally good
_LEAST_COMPARED = 0.02  # of all pixels: fewer agree by chance
_LEAST = 0.75  # of the compared pixels must agree; of unrelated frames half of them do


def shift(moving: Tensor, fixed: Tensor) -> tuple[Matrix, float]:
    """The shift from one frame (C, H, W) to another, and the share of the compared pixels that agree under it.

    Raises:
        Unmatched: nothing can be compared, or too few agree.
    """
    levels = max(1, (min(moving.shape[-2:]) // _COARSEST).bit_length())
    shifts, counts = mtb_shift(moving[None], fixed[None], levels=levels)
    disagreeing, compared = counts[0].tolist()
    if compared < _LEAST_COMPARED * moving.shape[-2] * moving.shape[-1]:
        raise Unmatched("too few of its pixels are clearly brighter or darker than its median")
    agreement = 1 - disagreeing / compared
    if agreement < _LEAST:
        raise Unmatched(f"only {agreement:.0%} of the bitmaps agree, {_LEAST:.0%} are needed")
    down, right = shifts[0].tolist()
    return translation(right, down), agreement
