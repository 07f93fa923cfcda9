"""Things that move in front of synthetic scenes."""

import math

import pytest
import torch

from hdrops.data.objects import HARMONICS, MovingObject

ROUND = torch.zeros(2, HARMONICS)
WAVY = torch.tensor([[0.1, -0.2, 0.05, 0.1], [0.1, 0.05, -0.1, 0.1]])
BLACK = torch.zeros(3, 41, 41)


@pytest.mark.parametrize("moment", [-0.5, 0, 2])
def test_it_is_where_it_has_moved(moment):
    thing = MovingObject(torch.ones(3, 9, 11), (15.25, 18.5), (4, -3), 6.5, ROUND)
    cover = thing.over(BLACK, moment)[0]
    assert float(cover.sum()) == pytest.approx(math.pi * 6.5**2, rel=0.01)
    rows, columns = (float((cover.sum(1 - axis) @ torch.arange(41.0)) / cover.sum()) for axis in (0, 1))
    assert (rows, columns) == pytest.approx((15.25 + 4 * moment, 18.5 - 3 * moment), abs=0.02)
    assert ((cover > 0) & (cover < 1)).sum() < 4 * math.pi * 6.5  # the edge


def test_outline_by_its_harmonics():
    thing = MovingObject(torch.ones(3, 5, 5), (20, 20), (0, 0), 9, WAVY)
    cover = thing.over(BLACK, 0)[0]
    for row, column in ((20, 28), (29, 20), (20, 10), (14, 26), (12, 16)):
        y, x = row - 20, column - 20
        angle = math.atan2(y, x)
        waves = sum(
            float(WAVY[0, k - 1]) * math.cos(k * angle) + float(WAVY[1, k - 1]) * math.sin(k * angle)
            for k in range(1, HARMONICS + 1)
        )
        expected = min(max(9 * (1 + waves) - math.hypot(y, x) + 0.5, 0), 1)
        assert float(cover[row, column]) == pytest.approx(expected, abs=1e-4)


def test_texture_and_outline_turn_together():
    texture = torch.rand(3, 25, 25, generator=torch.Generator().manual_seed(0))
    thing = MovingObject(texture, (20, 20), (0, 0), 9, WAVY, spin=math.pi / 2)
    before, after = (thing.over(BLACK, moment) for moment in (0, 1))
    torch.testing.assert_close(before[:, 20, 20], texture[:, 12, 12])  # its middle at the centre
    torch.testing.assert_close(before[:, 17, 22], texture[:, 9, 14])
    torch.testing.assert_close(after, before.rot90(-1, (1, 2)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before, atol=0.1)
