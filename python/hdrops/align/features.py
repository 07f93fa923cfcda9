"""Homographies from features: scale-invariant keypoints, matched by their descriptors, and a robust fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hdrops.align.corrected import corrected
from hdrops.align.errors import Unmatched, opencv
from hdrops.align.geometry import Matrix

_MOST_PIXELS = 2_000_000
_MOST_FEATURES = 4000
_CONTRAST = 0.02
_RATIO = 0.75
_TOLERANCE = 3.0  # pixels of the reduced frame
_ITERATIONS, _CERTAINTY = 5000, 0.999
# Brown and Lowe, "Automatic panoramic image stitching using invariant features", eq. 13: a match of images is right
# where so many of n matches agree.
_BASE, _SHARE = 8.0, 0.3


@dataclass(frozen=True)
class Features:
    """Of one frame.

    Attributes:
        points: (n, 2) float64, column and row in the reduced frame.
        descriptors: (n, 128) float32 of length 1.
        reduction: from the pixels of the frame to those of the reduced one.
    """

    points: Matrix
    descriptors: Tensor
    reduction: Matrix


def find_features(frame: Tensor, correction: str) -> Features:
    """Keypoints of a frame (C, H, W); descriptors are square roots of SIFT's, which sum to 1."""
    cv2 = opencv()
    seen = corrected(frame, correction, _MOST_PIXELS)
    grey = np.rint(255 * seen.plane).astype(np.uint8)
    finder = cv2.SIFT_create(nfeatures=_MOST_FEATURES, contrastThreshold=_CONTRAST)
    keypoints, found = finder.detectAndCompute(grey, None)
    points = np.array([keypoint.pt for keypoint in keypoints], dtype=np.float64).reshape(-1, 2)
    histograms = torch.from_numpy(found) if len(points) else torch.zeros(0, 128)
    descriptors = (histograms / histograms.sum(1, keepdim=True).clamp(min=1)).sqrt()
    return Features(points, descriptors, seen.reduction)


def match_pairs(moving: Features, fixed: Features) -> tuple[Tensor, Tensor]:
    """Pairs of features that are each other's nearest, and nearer than 0.75 times the second nearest.

    Returns:
        The places (m,) of the pairs in ``moving`` and in ``fixed``.
    """
    if min(len(moving.points), len(fixed.points)) < 2:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    likeness = moving.descriptors @ fixed.descriptors.T
    best, place = likeness.topk(2, dim=1)
    distance = (2 - 2 * best).clamp(min=0).sqrt()
    index = torch.arange(len(place))
    wanted = (distance[:, 0] < _RATIO * distance[:, 1]) & (likeness.argmax(0)[place[:, 0]] == index)
    return index[wanted], place[wanted, 0]


def homography(moving: Features, fixed: Features) -> tuple[Matrix, float]:
    """The transform from one frame to another.

    Returns:
        The transform, and the share of the matches that agree with it.

    Raises:
        Unmatched: too few matches, or too few that agree.
    """
    cv2 = opencv()
    for features, name in ((moving, "it"), (fixed, "the frame it is compared with")):
        if len(features.points) < _BASE:
            raise Unmatched(f"{name} shows too little structure, {len(features.points)} features")
    a, b = match_pairs(moving, fixed)
    if len(a) < _BASE:
        raise Unmatched(f"only {len(a)} features of it match")
    source, target = moving.points[a.numpy()], fixed.points[b.numpy()]
    found, agree = cv2.findHomography(
        source, target, cv2.USAC_ACCURATE, _TOLERANCE, maxIters=_ITERATIONS, confidence=_CERTAINTY
    )
    count = 0 if found is None else int(agree.sum())
    if count <= _BASE + _SHARE * len(a):
        raise Unmatched(f"only {count} of {len(a)} matching features agree on how it moved")
    transform: Matrix = np.linalg.inv(fixed.reduction) @ found @ moving.reduction
    return transform, count / len(a)
