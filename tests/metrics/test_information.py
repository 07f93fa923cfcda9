"""EN, CE, MI, NMI, TE and Qncie."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import golden
import pytest
import torch
from torch import Tensor

from hdrops.metrics import (
    cross_entropy,
    entropy,
    mutual_information,
    normalized_mutual_information,
    qncie,
    tsallis_entropy,
)

TOLERANCE = 1e-10


def image(*codes: int) -> Tensor:
    return torch.tensor(codes, dtype=torch.uint8).view(1, 1, 1, -1)


def bracket(*images: Tensor) -> Tensor:
    return torch.stack(images, 1)


def test_golden_entropy() -> None:
    for variant, color in (("mefb_gray", "grey"), ("lt_gray", "grey"), ("mefb_rgb", "mean")):
        assert (
            float(golden.deviations("EN", variant, lambda row, c=color: entropy(row.image, color=c)).max()) < TOLERANCE
        )
    coarse = golden.deviations("EN", "mefb_rgb", lambda row: entropy(row.image // 2))
    assert float(coarse.min()) > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("metric", "variant", "function", "options", "other"),
    [
        ("CE", "mefb_gray", cross_entropy, {"color": "grey"}, {"color": "mean"}),
        ("CE", "mefb_rgb", cross_entropy, {}, {"color": "grey"}),
        ("MI", "lt_gray", mutual_information, {"color": "grey"}, {"color": "grey", "convention": "paper"}),
        ("NMI", "mefb_gray", normalized_mutual_information, {"color": "grey"}, {"color": "mean"}),
        ("TE", "mefb_gray", tsallis_entropy, {"color": "grey"}, {"color": "grey", "convention": "paper"}),
        ("Qncie", "mefb_gray", qncie, {"color": "grey"}, {"color": "mean"}),
    ],
)
def test_golden(
    metric: str, variant: str, function: Callable[..., Tensor], options: dict[str, Any], other: dict[str, Any]
) -> None:
    deviations = golden.deviations(metric, variant, lambda row: function(row.fused, row.bracket, **options))
    assert float(deviations.max()) < TOLERANCE
    otherwise = golden.deviations(
        metric, variant, lambda row: function(row.fused, row.bracket, **other), largest=200_000
    )
    assert float(otherwise.max()) > 100 * TOLERANCE


def test_golden_cross_entropy_has_a_direction() -> None:
    """From the source to the fused image, and not the other way round."""

    def reversed_roles(row: golden.Row) -> Tensor:
        return torch.stack([cross_entropy(frame, row.fused[:, None]) for frame in row.bracket.unbind(1)]).mean(0)

    assert float(golden.deviations("CE", "mefb_rgb", reversed_roles).min()) > 100 * TOLERANCE


def test_entropy_of_few_levels() -> None:
    assert float(entropy(image(0, 0, 1, 2))) == pytest.approx(1.5)
    assert float(entropy(image(*range(256)))) == pytest.approx(8)
    assert float(entropy(image(7))) == 0


def test_floats_fall_into_the_nearest_code() -> None:
    codes = torch.tensor([10.4, 9.6, 20.5, 21.0, -30.0, 0.0, 300.0, 255.0], dtype=torch.float64)
    assert float(entropy(codes.view(1, 1, 1, -1) / 255)) == pytest.approx(2)
    wide = torch.tensor([0, 128, 129, 257], dtype=torch.int32).to(torch.uint16).view(1, 1, 2, 2)
    assert float(entropy(wide)) == pytest.approx(1)


def test_cross_entropy_of_few_levels() -> None:
    source, fused = image(0, 0, 1, 1), image(0, 1, 1, 1)
    expected = 0.5 * math.log2(0.5 / 0.25) + 0.5 * math.log2(0.5 / 0.75)
    assert float(cross_entropy(fused, bracket(source))) == pytest.approx(expected)
    # The mean over sources; an equal histogram adds 0.
    assert float(cross_entropy(fused, bracket(source, fused))) == pytest.approx(expected / 2)
    # Level 2 of the source is missing from the fused image, and is left out: the value is negative.
    assert float(cross_entropy(image(0, 0, 0, 1), bracket(image(0, 0, 1, 2)))) == pytest.approx(0.5 * math.log2(2 / 3))
    assert float(cross_entropy(image(0, 0), bracket(image(9, 9)))) == 0


@pytest.mark.parametrize("convention", ["lt", "paper"])
def test_mutual_information_of_few_levels(convention: str) -> None:
    a, b = image(0, 0, 9, 9), image(0, 9, 0, 9)
    assert float(mutual_information(a, bracket(a), convention=convention)) == pytest.approx(1)
    assert float(mutual_information(a, bracket(b), convention=convention)) == pytest.approx(0, abs=1e-12)
    # The sum over the sources.
    assert float(mutual_information(a, bracket(a, b, a), convention=convention)) == pytest.approx(2)
    # Levels 254 and 255 are one in the joint histogram of "lt" alone.
    bright = image(254, 254, 255, 255)
    expected = 2 if convention == "lt" else 1
    assert float(mutual_information(bright, bracket(bright), convention=convention)) == pytest.approx(expected)


def test_normalized_mutual_information_of_few_levels() -> None:
    a, b = image(0, 0, 9, 9), image(0, 9, 0, 9)
    assert float(normalized_mutual_information(a, bracket(a))) == pytest.approx(1)
    assert float(normalized_mutual_information(a, bracket(b))) == pytest.approx(0, abs=1e-12)
    assert float(normalized_mutual_information(a, bracket(a, b, a))) == pytest.approx(2)
    flat = image(5, 5, 5, 5)
    assert float(normalized_mutual_information(flat, bracket(flat, a))) == 0


def test_images_are_stretched() -> None:
    """What is measured does not change with exposure, but for the rounding of the stretched codes."""
    generator = torch.Generator().manual_seed(0)
    fused, sources = (torch.randint(0, 6, (1, *k, 1, 20, 20), generator=generator) for k in ((), (2,)))
    for function in (normalized_mutual_information, tsallis_entropy, qncie):
        plain = function(fused.to(torch.uint8), sources.to(torch.uint8))
        exposed = function((40 * fused + 7).to(torch.uint8), (30 * sources + 90).to(torch.uint8))
        torch.testing.assert_close(exposed, plain)


def test_tsallis_entropy_of_few_levels() -> None:
    a = image(0, 0, 9, 9)
    expected = (1 - 2 * 0.5**1.85 / 0.25**0.85) / (1 - 1.85)
    assert float(tsallis_entropy(a, bracket(a))) == pytest.approx(expected)
    assert float(tsallis_entropy(a, bracket(a, a))) == pytest.approx(2 * expected)
    # Frequencies 1/4, 1/2, 1/4 of (0, 0), (0, 9), (9, 9); marginals 3/4, 1/4 of the source, 1/4, 3/4 of the other.
    source, fused = image(0, 0, 0, 9), image(0, 9, 9, 9)
    for convention, products in (("paper", (3 / 16, 9 / 16, 3 / 16)), ("mefb", (3 / 16, 1 / 16, 3 / 16))):
        spread = sum(p**1.85 / q**0.85 for p, q in zip((0.25, 0.5, 0.25), products, strict=True))
        value = tsallis_entropy(fused, bracket(source), convention=convention)
        assert float(value) == pytest.approx((1 - spread) / (1 - 1.85))


def test_qncie_of_few_levels() -> None:
    every = image(*range(256))
    # Eigenvalues 2 and 0 of images that determine each other, 1 and 1 of independent ones.
    assert float(qncie(every, bracket(every))) == pytest.approx(1)
    assert float(qncie(every, bracket(every, every))) == pytest.approx(1)
    a, b = image(0, 0, 9, 9), image(0, 9, 0, 9)
    assert float(qncie(a, bracket(b))) == pytest.approx(1 - math.log(2, 256))
    flat = image(5, 5, 5, 5)
    assert float(qncie(flat, bracket(a, flat))) == pytest.approx(1 - math.log(3, 256))


@pytest.mark.parametrize(
    ("function", "choices"), [(mutual_information, "'lt' or 'paper'"), (tsallis_entropy, "'mefb' or 'paper'")]
)
def test_unknown_convention(function: Callable[..., Tensor], choices: str) -> None:
    with pytest.raises(ValueError, match=f"convention must be {choices}, got 'other'"):
        function(image(0, 1), bracket(image(0, 1)), convention="other")
