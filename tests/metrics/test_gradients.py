"""AG, EI, SF and SD."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import golden
import pytest
import torch
from torch import Tensor

from hdrops.metrics import average_gradient, edge_intensity, spatial_frequency, standard_deviation

TOLERANCE = 1e-10


def image(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8)[None, None]


@pytest.mark.parametrize(
    ("metric", "variant", "function", "options"),
    [
        ("AG", "mefb_gray", average_gradient, {"color": "grey"}),
        ("AG", "lt_gray", average_gradient, {"color": "grey"}),
        ("AG", "mefb_rgb", average_gradient, {}),
        ("EI", "mefb_gray", edge_intensity, {"color": "grey"}),
        ("EI", "mefb_rgb", edge_intensity, {}),
        ("SF", "mefb_gray", spatial_frequency, {"color": "grey"}),
        ("SF", "lt_gray", spatial_frequency, {"color": "grey", "convention": "lt"}),
        ("SF", "mefb_rgb", spatial_frequency, {}),
        ("SD", "mefb_gray", standard_deviation, {"color": "grey"}),
        ("SD", "lt_gray", standard_deviation, {"color": "grey"}),
        ("SD", "mefb_rgb", standard_deviation, {}),
    ],
)
def test_golden(metric: str, variant: str, function: Callable[..., Tensor], options: dict[str, Any]) -> None:
    deviations = golden.deviations(metric, variant, lambda row: function(row.image, **options))
    assert float(deviations.max()) < TOLERANCE


def test_golden_tells_conventions_apart() -> None:
    """Another divisor, border, convention or colour misses every golden value."""

    def all_pixels(row: golden.Row) -> Tensor:
        height, width = row.image.shape[-2:]
        return average_gradient(row.image) * (height - 1) * (width - 1) / (height * width)

    def zero_border(row: golden.Row) -> Tensor:
        kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
        channels = row.image[0, :, None].double()
        responses = torch.nn.functional.conv2d(channels, torch.stack([kernel, kernel.T])[:, None], padding=1)
        return responses.square().sum(1).sqrt().mean()[None]

    def unbiased(row: golden.Row) -> Tensor:
        return row.image.double().std((-2, -1)).mean(1)

    for deviations in (
        golden.deviations("AG", "mefb_rgb", all_pixels),
        golden.deviations("EI", "mefb_rgb", zero_border),
        golden.deviations("SF", "lt_gray", lambda row: spatial_frequency(row.image, color="grey")),
        golden.deviations("SD", "mefb_rgb", unbiased),
        golden.deviations("SD", "mefb_rgb", lambda row: standard_deviation(row.image, color="grey")),
    ):
        assert float(deviations.min()) > 100 * TOLERANCE


def test_average_gradient_of_few_pixels() -> None:
    # One-sided differences along x are 2, 2, 6, 6, along y 4, 8, 4, 8.
    expected = math.sqrt((4 + 16) / 2) + math.sqrt((4 + 64) / 2) + math.sqrt((36 + 16) / 2) + math.sqrt((36 + 64) / 2)
    assert float(average_gradient(image([[0, 2], [4, 10]]))) == pytest.approx(expected)
    # In the middle a central difference, 9 / 2.
    assert float(average_gradient(image([[0, 3, 9]] * 3))) == pytest.approx(3 * (3 + 4.5 + 6) / math.sqrt(2) / 4)


def test_edge_intensity_of_a_dot() -> None:
    dot = image([[0, 0, 0], [0, 10, 0], [0, 0, 0]])
    assert float(edge_intensity(dot)) == pytest.approx((4 * 10 * math.sqrt(2) + 4 * 20) / 9)
    # Nothing but the border: replicated, it has no edge.
    assert float(edge_intensity(image([[200]]))) == 0
    assert float(edge_intensity(image([[0, 50]]))) == pytest.approx(4 * 50)


def test_spatial_frequency_of_few_pixels() -> None:
    few = image([[0, 3], [4, 4]])
    assert float(spatial_frequency(few)) == pytest.approx(math.sqrt((9 + 0 + 16 + 1) / 4))
    assert float(spatial_frequency(few, convention="lt")) == pytest.approx(math.sqrt(9 / 2 + 17 / 2))


@pytest.mark.parametrize("convention", ["mefb", "lt"])
def test_spatial_frequency_of_a_line(convention: str) -> None:
    """A direction without differences counts as 0."""
    line = image([[0, 6, 6]])
    expected = math.sqrt(36 / 3) if convention == "mefb" else math.sqrt(36 / 2)
    assert float(spatial_frequency(line, convention=convention)) == pytest.approx(expected)
    assert float(spatial_frequency(line.mT, convention=convention)) == pytest.approx(expected)
    assert float(spatial_frequency(image([[9]]), convention=convention)) == 0


def test_standard_deviation_of_few_pixels() -> None:
    assert float(standard_deviation(image([[0, 0], [4, 4]]))) == pytest.approx(2)


@pytest.mark.parametrize("function", [average_gradient, edge_intensity, spatial_frequency, standard_deviation])
def test_turned_and_scaled(function: Callable[..., Tensor]) -> None:
    """No direction is preferred, and values grow with contrast."""
    picture = torch.rand(2, 3, 17, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 2
    value = function(picture)
    torch.testing.assert_close(function(picture.mT.flip(-1)), value)
    torch.testing.assert_close(function(2 * picture), 2 * value)
    torch.testing.assert_close(function(picture + 0.25), value)


def test_unknown_convention() -> None:
    with pytest.raises(ValueError, match="convention must be 'mefb' or 'lt', got 'other'"):
        spatial_frequency(image([[0, 1]]), convention="other")  # type: ignore[arg-type]
