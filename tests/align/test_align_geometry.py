"""Transforms that are refused, and the area that all frames cover."""

import itertools

import numpy as np
import pytest

from hdrops.align.errors import Unmatched
from hdrops.align.geometry import apply, scaling, settled, translation, valid_area, valid_mask


def drawn(random, height, width):
    """A homography near the identity."""
    size = max(height, width)
    linear = np.eye(3) + random.normal(0, 0.08, (3, 3)) * [[1, 1, size], [1, 1, size], [0.5 / size, 0.5 / size, 0]]
    return linear / linear[2, 2]


def covered(transform, height, width):
    """Pixel by pixel."""
    mask = np.zeros((height, width), bool)
    inverse = np.linalg.inv(transform)
    sign = np.sign((inverse @ [(width - 1) / 2, (height - 1) / 2, 1])[2])
    for row, column in itertools.product(range(height), range(width)):
        u, v, w = sign * inverse @ [column, row, 1]
        mask[row, column] = w > 0 and -1e-9 <= u / w <= width - 1 + 1e-9 and -1e-9 <= v / w <= height - 1 + 1e-9
    return mask


def largest(mask):
    """The size of the largest rectangle of a mask, over all of them."""
    height, width = mask.shape
    sums = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    best = 0
    for top, left in itertools.product(range(height), range(width)):
        for bottom, right in itertools.product(range(top + 1, height + 1), range(left + 1, width + 1)):
            size = (bottom - top) * (right - left)
            if size > best and sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left] == size:
                best = size
    return best


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (11, 14), (16, 13)])
def test_area_is_the_largest(size):
    random = np.random.default_rng(sum(size))
    nonempty = 0
    for _ in range(12):
        transforms = [drawn(random, *size) for _ in range(2)]
        masks = [covered(transform, *size) for transform in transforms]
        for transform, mask in zip(transforms, masks, strict=True):
            np.testing.assert_array_equal(valid_mask(transform, *size), mask)
        common = masks[0] & masks[1]
        area = valid_area(transforms, *size)
        if area is None:
            assert not common.any()
            continue
        nonempty += 1
        top, left, height, width = area
        assert common[top : top + height, left : left + width].all()
        assert height * width == largest(common)
    assert nonempty or min(size) == 1


def test_area_of_whole_pixel_shifts():
    assert valid_area([np.eye(3)], 5, 7) == (0, 0, 5, 7)
    assert valid_area([translation(2, 1), translation(-1, 0)], 5, 7) == (1, 2, 4, 4)
    assert valid_area([translation(0.25, 0)], 5, 7) == (0, 1, 5, 6)
    assert valid_area([translation(7, 0)], 5, 7) is None
    assert valid_area([translation(4, 0), translation(-4, 0)], 5, 7) is None


def test_scaling_keeps_the_outer_edges():
    edges = np.array([[-0.5, -0.5], [39.5, 19.5]])
    np.testing.assert_allclose(apply(scaling(0.25, 0.5), edges), [[-0.5, -0.5], [9.5, 9.5]])


def test_settled_scales_and_snaps():
    np.testing.assert_array_equal(settled(-2 * translation(3, 4), 40, 60), translation(3, 4))
    np.testing.assert_array_equal(settled(translation(0.015, 0), 40, 60), np.eye(3))
    np.testing.assert_array_equal(settled(translation(0.016, 0), 40, 60), translation(0.016, 0))


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (np.diag([-1.0, 1, 1]) + translation(59, 0) - np.eye(3), "over"),
        (np.diag([-1.0, -1, 1]) + translation(59, 39) - np.eye(3), "diagonal"),
        (translation(18.1, 0), "18 pixels"),
        (np.array([[1, 0, 0], [0, 1, 0], [-1 / 59, 0, 1]]), "folds"),
        (np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1.0]]), "folds"),
        (np.diag([1.0, 1, 0]), "degenerate"),
        (np.full((3, 3), np.nan), "degenerate"),
    ],
)
def test_settled_refuses(transform, reason):
    with pytest.raises(Unmatched, match=reason):
        settled(transform, 40, 60)


def test_settled_refuses_what_shares_nothing():
    with pytest.raises(Unmatched, match="no common pixel"):
        settled(translation(0, 12), 10, 200)
