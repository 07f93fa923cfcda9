"""Affine transforms by maximising the enhanced correlation coefficient: Evangelidis and Psarakis, "Parametric image
alignment using enhanced correlation coefficient maximization", PAMI 2008."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hdrops.align.corrected import corrected
from hdrops.align.errors import Unmatched, opencv
from hdrops.align.geometry import Matrix, valid_mask

_MOST_PIXELS = 1_000_000
_SMALLEST = 40  # pixels a side of the coarsest level
_ITERATIONS, _PRECISION = 50, 1e-5
_BLUR = 5
_DETAIL = 4.0  # pixels: what is coarser, as a sky above ground, many scenes have in common
_LEAST_COEFFICIENT = 0.25
_LEAST_SIDE, _LEAST_DEVIATION = 16, 1 / 255  # fewer pixels correlate by chance


@dataclass(frozen=True)
class Levels:
    """A frame and its halvings.

    Attributes:
        planes: float32, fine to coarse; pixel (x, y) of one lies at (2 x, 2 y) of the one before.
        reduction: from the pixels of the frame to those of the first plane.
    """

    planes: list[NDArray[np.float32]]
    reduction: Matrix


def find_levels(frame: Tensor, correction: str) -> Levels:
    """The pyramid of a frame (C, H, W)."""
    cv2 = opencv()
    seen = corrected(frame, correction, _MOST_PIXELS)
    planes = [seen.plane]
    while min(planes[-1].shape) >= 2 * _SMALLEST:
        planes.append(cv2.pyrDown(planes[-1]))
    return Levels(planes, seen.reduction)


def affine(moving: Levels, fixed: Levels) -> tuple[Matrix, float]:
    """The transform from one frame to another.

    Returns:
        The transform, and the correlation coefficient of the frames' detail under it.

    Raises:
        Unmatched: a frame without contrast, an iteration that does not converge, or a low coefficient.
    """
    cv2 = opencv()
    for levels, name in ((moving, "it"), (fixed, "the frame it is compared with")):
        if min(levels.planes[0].shape) < _LEAST_SIDE or levels.planes[0].std() < _LEAST_DEVIATION:
            raise Unmatched(f"{name} shows too little structure")
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ITERATIONS, _PRECISION)
    back = np.eye(3)  # from places in ``fixed`` to those in ``moving``
    for k in reversed(range(len(fixed.planes))):
        try:
            _, found = cv2.findTransformECC(
                fixed.planes[k], moving.planes[k], back[:2].astype(np.float32), cv2.MOTION_AFFINE, criteria, None, _BLUR
            )
        except cv2.error as error:
            raise Unmatched("the correlation does not converge") from error
        back[:2] = found
        if k > 0:
            back[:2, 2] *= 2
    if not np.linalg.det(back) > 0:
        raise Unmatched("the transform found is degenerate")
    coefficient = _coefficient(moving.planes[0], fixed.planes[0], back)
    if not coefficient >= _LEAST_COEFFICIENT:
        raise Unmatched(f"the correlation with it is only {max(coefficient, 0.0):.2f}")
    transform: Matrix = np.linalg.inv(fixed.reduction) @ np.linalg.inv(back) @ moving.reduction
    return transform, min(coefficient, 1.0)


def _coefficient(moving: NDArray[np.float32], fixed: NDArray[np.float32], back: Matrix) -> float:
    """The correlation coefficient of the detail of two planes, over what both show."""
    cv2 = opencv()
    height, width = fixed.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(moving, back[:2], (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    covered = valid_mask(np.linalg.inv(back).astype(np.float64), height, width)
    a, b = ((plane - cv2.GaussianBlur(plane, (0, 0), _DETAIL))[covered] for plane in (moved, fixed))
    energy = float(np.sum(a * a, dtype=np.float64) * np.sum(b * b, dtype=np.float64))
    return float(np.sum(a * b, dtype=np.float64)) / math.sqrt(energy) if energy > 0 else 0.0
