"""Affine transforms by maximising the enhanced correlation coefficient: Evangelidis and Psarakis, "Parametric image
alignment using enhanced correlation coefficient maximization", PAMI 2008. Shifts by orientation correlation: Fitch,
Kadyrov, Christmas and Kittler, "Orientation correlation", BMVC 2002. And which of several transforms is right."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hdrops.align.corrected import corrected
from hdrops.align.errors import Unmatched, opencv
from hdrops.align.geometry import Matrix, inverse, settled, translation, valid_mask

_MOST_PIXELS = 1_000_000
_SMALLEST = 40  # pixels a side of the coarsest level
_ITERATIONS, _PRECISION = 50, 1e-5
_BLUR = 5
_DETAIL = 4.0  # pixels: what is coarser, as a sky above ground, many scenes have in common
_LEAST_COEFFICIENT = 0.25
_LEAST_SIDE, _LEAST_DEVIATION = 16, 1 / 255  # fewer pixels correlate by chance
_REACH = 0.25  # of the sides, that a shift is looked for
# A peak of the correlation is a shift where it is so much higher than all that is not next to it, and than chance. Of
# real exposures up to 13 stops apart, the right ones have 1.29 and 9.2 at least, a wrong one 1.0 and 3.5.
_PEAK, _DEVIATIONS, _NEXT = 1.2, 7.0, 6
_EDGES = 0.2  # of the pixels, those with the steepest gradients, have an orientation
_EQUAL = 0.995  # of the highest agreement: transforms that reach it are as good, and the simplest is kept


@dataclass(frozen=True)
class Levels:
    """A frame and its halvings.

    Attributes:
        planes: float32, fine to coarse; pixel (x, y) of one lies at (2 x, 2 y) of the one before.
        reduction: from the pixels of the frame to those of the first plane.
    """

    planes: list[NDArray[np.float32]]
    reduction: Matrix

    @functools.cached_property
    def orientations(self) -> NDArray[np.complex64]:
        """Those of the first plane's edges, see :func:`_orientations`."""
        return _orientations(self.planes[0])

    @functools.cached_property
    def spectrum(self) -> Tensor:
        """The Fourier transform of the orientations, with room for shifts."""
        room = [side + _reach(side) for side in self.orientations.shape]
        transformed: Tensor = torch.fft.fft2(torch.from_numpy(self.orientations), s=room)
        return transformed


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
    transform: Matrix = inverse(fixed.reduction) @ inverse(back) @ moving.reduction
    return transform, min(coefficient, 1.0)


def _reach(side: int) -> int:
    return int(_REACH * side)


def _orientations(plane: NDArray[np.float32]) -> NDArray[np.complex64]:
    """The directions of a plane's stronger edges, as exp(2 i angle); 0 elsewhere.

    They are the same whichever side is the brighter, and however much.
    """
    cv2 = opencv()
    smooth = cv2.GaussianBlur(plane, (0, 0), 1.0)
    x, y = (cv2.Sobel(smooth, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    size = np.hypot(x, y)
    edges = (size >= np.quantile(size, 1 - _EDGES)) & (size > 0)
    edges[[0, -1]] = edges[:, [0, -1]] = False
    field = np.zeros(plane.shape, dtype=np.complex64)
    field[edges] = ((x[edges] + 1j * y[edges]) / size[edges]) ** 2
    return field


def _moved(plane: NDArray[np.float32], back: Matrix) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A plane in the coordinates of another of its size, and where it covers that."""
    cv2 = opencv()
    height, width = plane.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(plane, back, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return moved, valid_mask(inverse(back), height, width)


def _agreement(moving: Levels, fixed: Levels, back: Matrix) -> float:
    """How well the orientations of two frames agree, over what both show: 1 where all do, about 0 by chance."""
    moved, covered = _moved(moving.planes[0], back)
    a, b = _orientations(moved)[covered], fixed.orientations[covered]
    count = math.sqrt(float(np.count_nonzero(a)) * np.count_nonzero(b))
    return float(np.vdot(a, b).real) / count if count else 0.0


def _coefficient(moving: NDArray[np.float32], fixed: NDArray[np.float32], back: Matrix) -> float:
    """The correlation coefficient of the detail of two planes, over what both show."""
    cv2 = opencv()
    moved, covered = _moved(moving, back)
    a, b = ((plane - cv2.GaussianBlur(plane, (0, 0), _DETAIL))[covered] for plane in (moved, fixed))
    energy = float(np.sum(a * a, dtype=np.float64) * np.sum(b * b, dtype=np.float64))
    return float(np.sum(a * b, dtype=np.float64)) / math.sqrt(energy) if energy > 0 else 0.0


def offset(moving: Levels, fixed: Levels) -> Matrix:
    """The shift between the first planes under which their orientations agree best, to a fraction of a pixel.

    Raises:
        Unmatched: no shift stands out.
    """
    height, width = fixed.planes[0].shape
    if min(height, width) < _LEAST_SIDE:
        raise Unmatched("it is too small for a shift to stand out")
    down, right = (_reach(side) for side in (height, width))
    products = torch.fft.ifft2(moving.spectrum.conj() * fixed.spectrum).real.roll((down, right), (0, 1))
    correlation = products[: 2 * down + 1, : 2 * right + 1].numpy()
    y, x = (int(place) for place in np.unravel_index(correlation.argmax(), correlation.shape))
    elsewhere = correlation.copy()
    elsewhere[max(0, y - _NEXT) : y + _NEXT + 1, max(0, x - _NEXT) : x + _NEXT + 1] = 0
    if not correlation[y, x] > max(_PEAK * float(elsewhere.max()), _DEVIATIONS * float(elsewhere.std())):
        raise Unmatched("no shift of it stands out")
    return translation(
        x - right + _vertex(correlation[y, max(0, x - 1) : x + 2]),
        y - down + _vertex(correlation[max(0, y - 1) : y + 2, x]),
    )


def _vertex(values: NDArray[np.float32]) -> float:
    """Where a parabola through three values, the highest in the middle, has its vertex; 0 without neighbours."""
    if len(values) < 3:
        return 0.0
    before, middle, after = (float(value) for value in values)
    bend = before - 2 * middle + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def verified(find: Callable[[], tuple[Matrix, float]], moving: Levels, fixed: Levels) -> tuple[Matrix, float]:
    """What a method finds, unless leaving the frame where it is, or a shift of it, explains the frames as well.

    A method may agree with itself and be wrong, where features are few and lie together, or find nothing where frames
    have little in common. So the directions of the edges decide, between no motion, the best shift and what the method
    found: the first under which they agree to 99.5 % of the most is taken.

    Args:
        find: gives the transform of a method and its confidence.
        moving: levels of the one frame.
        fixed: levels of the other.

    Returns:
        The transform, and its confidence: the method's own, or the correlation coefficient of the detail.

    Raises:
        Unmatched: the method found nothing, and no shift stands out.
    """
    plane, into = fixed.planes[0], fixed.reduction
    out_of = inverse(into)
    candidates: list[tuple[Matrix, float | None]] = [(np.eye(3), None)]  # between the planes
    with contextlib.suppress(Unmatched):
        candidates.append((settled(offset(moving, fixed), *plane.shape), None))
    try:
        found, confidence = find()
        candidates.append((settled(into @ found @ out_of, *plane.shape), confidence))
    except Unmatched:
        if len(candidates) == 1:
            raise
    agreements = [_agreement(moving, fixed, inverse(candidate)) for candidate, _ in candidates]
    enough = _EQUAL * max(agreements)
    transform, own = next(c for c, agreement in zip(candidates, agreements, strict=True) if agreement >= enough)
    if own is None:
        own = min(max(_coefficient(moving.planes[0], plane, inverse(transform)), 0.0), 1.0)
    return out_of @ transform @ into, own
