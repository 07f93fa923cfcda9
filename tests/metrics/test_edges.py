"""Qabf and Nabf."""

from __future__ import annotations

import math
from typing import Any

import golden
import pytest
import torch
from torch import Tensor

from hdrops.metrics import nabf, qabf

TOLERANCE = 1e-12


def image(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8)[None, None]


@pytest.mark.parametrize(
    ("variant", "options", "other"),
    [
        ("mefb_gray", {"color": "grey"}, {"color": "grey", "convention": "lt"}),
        ("mefb_rgb", {}, {"color": "grey"}),
        ("lt_gray", {"color": "grey", "convention": "lt"}, {"color": "grey"}),
    ],
)
def test_golden_qabf(variant: str, options: dict[str, Any], other: dict[str, Any]) -> None:
    deviations = golden.deviations("Qabf", variant, lambda row: qabf(row.fused, row.bracket, **options))
    assert float(deviations.max()) < TOLERANCE
    otherwise = golden.deviations("Qabf", variant, lambda row: qabf(row.fused, row.bracket, **other), largest=200_000)
    assert float(otherwise.max()) > 100 * TOLERANCE


def test_golden_qabf_has_an_upper_side() -> None:
    """A horizontal edge has the orientation +π/2 whichever side is bright, so that turning the pictures counts."""
    upside_down = golden.deviations(
        "Qabf", "mefb_gray", lambda row: qabf(row.fused.flip(-2), row.bracket.flip(-2), color="grey")
    )
    assert float(upside_down.min()) > 1e-6


def test_golden_nabf() -> None:
    """The golden values were measured with the first source as the fused image of the second and the fused one."""

    def roles(row: golden.Row) -> tuple[Tensor, Tensor]:
        return row.bracket[:, 0], torch.stack([row.bracket[:, 1], row.fused], 1)

    deviations = golden.deviations("Nabf", "lt_gray", lambda row: nabf(*roles(row), color="grey"))
    assert float(deviations.max()) < TOLERANCE
    in_colour = golden.deviations("Nabf", "lt_gray", lambda row: nabf(*roles(row)))
    assert float(in_colour.min()) > 1e-6


def sigmoid(value: float, slope: float, middle: float) -> float:
    return 1 / (1 + math.exp(-slope * (value - middle)))


def test_qabf_of_one_edge() -> None:
    edge = image([[0, 0, 80, 80]] * 5)
    best = 0.9994 * 0.9879 * sigmoid(1, 22, 0.8)
    # Equal strengths count as a ratio far above 1.
    assert float(qabf(edge, edge[:, None])) == pytest.approx(best, rel=1e-12)
    half = 0.9994 * sigmoid(0.5, 15, 0.5) * 0.9879 * sigmoid(1, 22, 0.8)
    assert float(qabf(edge // 2, edge[:, None])) == pytest.approx(half, rel=1e-12)
    # Twice the contrast is as bad as half of it, and each source weighs with its edges, here 2 : 1.
    expected = (2 * best + 1 * half) / 3
    assert float(qabf(edge, torch.stack([edge, edge // 2], 1))) == pytest.approx(expected, rel=1e-12)


def test_qabf_of_equal_strengths() -> None:
    """Their ratio is the strength itself, so 0 where there is no edge in either: what the conventions differ in."""
    # The border counts as black: a float image this dark has strengths of a few hundredths there.
    dark = torch.full((1, 1, 1, 1), 0.01 / 255, dtype=torch.float64)
    # A single pixel has neither response, so that its strength is 0, as is the sum of the weights.
    assert float(qabf(dark, dark[:, None])) == 0
    dark = dark.expand(1, 1, 2, 2)
    strength = math.sqrt(0.03**2 + 0.03**2)
    for convention, unit in (("lt", 1), ("mefb", 255)):
        expected = 0.9994 * sigmoid(unit * strength, 15, 0.5) * 0.9879 * sigmoid(1, 22, 0.8)
        assert float(qabf(dark, dark[:, None], convention=convention)) == pytest.approx(expected, rel=1e-9)


def test_qabf_of_another_orientation() -> None:
    upright = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    upright[..., 4] = 200
    value = float(qabf(upright.mT, upright[:, None]))
    assert 0 <= value < 0.01
    assert float(qabf(upright, upright[:, None])) > 0.97


def test_black_sources_have_no_edges() -> None:
    black, edge = image([[0] * 4] * 4), image([[0, 0, 80, 80]] * 4)
    assert float(qabf(black, black[:, None])) == 0
    assert float(qabf(edge, black[:, None])) == 0


def test_nabf_of_an_added_edge() -> None:
    flat, edge = image([[50] * 4] * 4), image([[0, 0, 80, 80]] * 4)
    # Strength 40 in the two middle columns, where the flat source has weight 0.001 like everywhere.
    quality = math.sqrt(0.9999 * sigmoid(0, 19, 0.5) * 0.9995 * sigmoid(0, 22, 0.5))
    # atan(x / y) of the edge is π/2, that of no edge 0: they count as orthogonal.
    assert float(nabf(edge, flat[:, None])) == pytest.approx((1 - quality) / 2, rel=1e-9)
    # Against an edge of half the strength: weight 20^1.5 in the middle.
    weight, half = 20**1.5, math.sqrt(0.9999 * 0.5 * 0.9995 * sigmoid(1, 22, 0.5))
    expected = 2 * (1 - half) * weight / (2 * weight + 2 * 0.001)
    assert float(nabf(edge, (edge // 2)[:, None])) == pytest.approx(expected, rel=1e-9)
    # Every source has to be weaker.
    assert float(nabf(edge, torch.stack([edge // 2, edge], 1))) == 0


def test_nabf_mirrors_at_the_border() -> None:
    """The outermost column has no edge along x, whatever its difference from the next."""
    flat, added = image([[9] * 5] * 5), image([[200, 0, 0, 0, 0]] * 5)
    quality = math.sqrt(0.9999 * sigmoid(0, 19, 0.5) * 0.9995 * sigmoid(0, 22, 0.5))
    assert float(nabf(added, flat[:, None])) == pytest.approx((1 - quality) / 5, rel=1e-9)


def test_unknown_convention() -> None:
    edge = image([[0, 9]])
    with pytest.raises(ValueError, match="convention must be 'mefb' or 'lt', got 'other'"):
        qabf(edge, edge[:, None], convention="other")  # type: ignore[arg-type]
