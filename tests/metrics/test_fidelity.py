"""VIFF, VIF, CC, SCD, and the toolboxes' MSE and PSNR."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import golden
import pytest
import torch
from torch import Tensor

from hdrops.metrics import _filters, correlation_coefficient, fusion_mse, fusion_psnr, scd, vif, viff

TOLERANCE = 1e-10
GREY = {"color": "grey"}


def image(*codes: int) -> Tensor:
    return torch.tensor(codes, dtype=torch.uint8).view(1, 1, 1, -1)


def bracket(*images: Tensor) -> Tensor:
    return torch.stack(images, 1)


def texture(seed: int, height: int = 48, width: int = 52) -> Tensor:
    return torch.rand(1, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def against_sources(function: Callable[..., Tensor], **options: Any) -> Callable[[golden.Row], Tensor]:
    return lambda row: function(row.fused, row.bracket, **options)


# ---- visual information ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "variant", "function", "options", "tolerance"),
    [
        ("VIFF", "mefb_gray", viff, GREY, 1e-3),
        ("VIFF", "mefb_rgb", viff, {}, 1e-3),
        ("VIF", "lt_gray_sum", vif, GREY, 1e-6),
        ("VIFp", "live_gray", vif, GREY, 1e-6),
    ],
)
def test_golden(
    metric: str, variant: str, function: Callable[..., Tensor], options: dict[str, Any], tolerance: float
) -> None:
    """Within what rounding in flat windows makes of the published values; the next test takes it away."""
    deviations = golden.deviations(metric, variant, against_sources(function, **options))
    assert float(deviations.max()) < tolerance
    assert float(deviations.median()) < tolerance / 10


@pytest.mark.parametrize(
    ("metric", "variant", "function", "largest"),
    [("VIFF", "mefb_gray", viff, 200_000), ("VIFp", "live_gray", vif, 100_000)],
)
def test_golden_in_the_published_order_of_summation(
    metric: str, variant: str, function: Callable[..., Tensor], largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_filters, "MIDDLE", 0.0)
    monkeypatch.setattr(_filters, "smooth", lambda x, taps: golden.octave_filter(x, len(taps), len(taps) / 5))
    deviations = golden.deviations(metric, variant, against_sources(function, **GREY), largest=largest)
    assert float(deviations.max()) < TOLERANCE


def test_golden_tells_conventions_apart() -> None:
    def means(row: golden.Row) -> Tensor:
        return vif(row.fused, row.bracket, color="grey") / row.bracket.shape[1]

    def reversed_roles(row: golden.Row) -> Tensor:
        return vif(row.bracket[:, 0], row.fused[:, None], color="grey")

    small = 200_000
    for deviations in (
        golden.deviations("VIFF", "mefb_rgb", against_sources(viff, color="grey"), largest=small),
        golden.deviations("VIF", "lt_gray_sum", means, largest=small),
        golden.deviations("VIFp", "live_gray", reversed_roles, largest=small),
    ):
        assert float(deviations.min()) > 1e-3


def test_contrast_raises_visual_information() -> None:
    source = texture(0) / 2
    equal = viff(source, bracket(source)), vif(source, bracket(source))
    assert float(equal[0]) == pytest.approx(1, rel=1e-6)
    assert float(equal[1]) == pytest.approx(1, rel=1e-6)
    assert float(viff(2 * source, bracket(source))) > 1.05
    assert float(vif(2 * source, bracket(source))) > 1.05
    assert float(viff(source / 2, bracket(source))) < 0.9
    assert float(vif(source / 2, bracket(source))) < 0.9


def test_visual_information_of_half_a_source() -> None:
    """fused = source / 2 has gain 1/2 and no distortion on every scale."""
    source = texture(1, 61, 57)
    scaled, shares, information = 255 * source, [], []
    for size in (17, 9, 5, 3):
        line = torch.exp(-((torch.arange(size, dtype=torch.float64) - size // 2) ** 2) / (2 * (size / 5) ** 2))
        kernel = (line[:, None] * line / line.sum() ** 2)[None, None]
        if size < 17:
            scaled = torch.nn.functional.conv2d(scaled, kernel)[..., ::2, ::2]
        mean, power = (torch.nn.functional.conv2d(x, kernel) for x in (scaled, scaled.square()))
        variance = power - mean.square()
        noise = 0.005 * 255**2
        shares.append(float(torch.log10(1 + variance / 4 / noise).sum() / torch.log10(1 + variance / noise).sum()))
        information.append([float(torch.log10(1 + variance * gain / 2).sum()) for gain in (1 / 4, 1)])
    expected = (shares[0] + 0.15 * shares[2] + shares[3]) / 2.15
    assert float(viff(source / 2, bracket(source))) == pytest.approx(expected, rel=1e-5)
    shown, present = (sum(parts) for parts in zip(*information, strict=True))
    assert float(vif(source / 2, bracket(source))) == pytest.approx(shown / present, rel=1e-9)


def test_viff_takes_the_weaker_gain() -> None:
    """A source that the fused image lacks counts, though another is all there."""
    a, b = texture(2), texture(3)
    lacking = float(viff(a, bracket(a, b)))
    assert lacking < 0.5
    assert float(viff(a, bracket(b, a))) == pytest.approx(lacking, rel=1e-12)
    assert float(viff(a, bracket(a, b, a))) == pytest.approx(lacking, rel=1e-12)
    assert float(viff(a, bracket(a, a))) == pytest.approx(1, rel=1e-6)


def test_vif_is_a_sum() -> None:
    a, b = texture(2), texture(3)
    parts = vif(a, bracket(a)) + vif(a, bracket(b))
    torch.testing.assert_close(vif(a, bracket(a, b)), parts)


def test_flat_windows_have_no_information() -> None:
    """At every level, not only where sums happen to be exact."""
    for level in (0, 1, 77, 254, 255):
        flat = torch.full((1, 1, 44, 44), level, dtype=torch.uint8)
        fused = (255 * texture(0, 44, 44)).to(torch.uint8)
        assert float(vif(fused, bracket(flat))) == 1
        assert float(viff(flat, bracket(flat, flat))) == 1
        assert float(viff(fused, bracket(flat, fused))) == pytest.approx(1)


# ---- correlation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "function"), [("CC", correlation_coefficient), ("SCD", scd)])
def test_golden_correlation(metric: str, function: Callable[..., Tensor]) -> None:
    deviations = golden.deviations(metric, "lt_gray", against_sources(function, **GREY))
    assert float(deviations.max()) < TOLERANCE
    in_colour = golden.deviations(metric, "lt_gray", against_sources(function), largest=200_000)
    assert float(in_colour.min()) > 100 * TOLERANCE


def test_correlation_of_few_pixels() -> None:
    a, b = image(0, 10, 20), image(30, 20, 10)
    assert float(correlation_coefficient(a, bracket(a))) == pytest.approx(1)
    assert float(correlation_coefficient(a, bracket(b))) == pytest.approx(-1)
    assert float(correlation_coefficient(a, bracket(a, b, a))) == pytest.approx(1 / 3)
    assert float(correlation_coefficient(image(5, 5, 5), bracket(a))) == 0


def test_scd_of_few_pixels() -> None:
    a, b = image(0, 10, 0, 10), image(0, 0, 10, 10)
    # fused = a + b: the differences are the sources themselves.
    assert float(scd(a + b, bracket(a, b))) == pytest.approx(2)
    # fused = a: its differences are a - b, of correlation 1/√2 with a, and 0.
    assert float(scd(a, bracket(a, b))) == pytest.approx(1 / math.sqrt(2))
    # Of three sources, the mean of the others is subtracted: a, less what they have in common.
    c = image(0, 10, 10, 0)
    fused = torch.tensor([0, 15, 10, 5], dtype=torch.uint8).view(1, 1, 1, -1)
    differences = [torch.tensor(d, dtype=torch.float64) for d in ([0.0, 10, 0, 0], [0.0, 5, 5, 0], [0.0, 10, 5, -5])]
    expected = sum(
        float(torch.corrcoef(torch.stack([difference, source.flatten().double()]))[0, 1])
        for difference, source in zip(differences, (a, b, c), strict=True)
    )
    assert float(scd(fused, bracket(a, b, c))) == pytest.approx(expected)


def test_scd_needs_two_sources() -> None:
    with pytest.raises(ValueError, match="bracket has 1, give 2 or more"):
        scd(image(0, 1), bracket(image(0, 1)))


# ---- squared error ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "variant", "function", "options", "other"),
    [
        ("MSE", "lt_gray", fusion_mse, GREY, {}),
        ("PSNR", "lt_gray", fusion_psnr, {**GREY, "convention": "lt"}, {**GREY, "convention": "standard"}),
        ("PSNR", "mefb_gray", fusion_psnr, GREY, {**GREY, "convention": "lt"}),
        ("PSNR", "mefb_rgb", fusion_psnr, {}, GREY),
        ("PSNR", "skimage_gray", fusion_psnr, {**GREY, "convention": "standard"}, GREY),
    ],
)
def test_golden_squared_error(
    metric: str, variant: str, function: Callable[..., Tensor], options: dict[str, Any], other: dict[str, Any]
) -> None:
    deviations = golden.deviations(metric, variant, against_sources(function, **options))
    assert float(deviations.max()) < TOLERANCE
    otherwise = golden.deviations(metric, variant, against_sources(function, **other), largest=200_000)
    assert float(otherwise.min()) > 100 * TOLERANCE


def test_squared_error_of_few_pixels() -> None:
    fused, sources = image(0, 0, 0, 0), bracket(image(3, 0, 0, 1), image(0, 2, 2, 0))
    assert float(fusion_mse(fused, sources)) == pytest.approx((10 / 4 + 8 / 4) / 2 / 255**2)
    standard = 10 * math.log10(255**2 / ((10 / 4 + 8 / 4) / 2))
    assert float(fusion_psnr(fused, sources, convention="standard")) == pytest.approx(standard)
    assert float(fusion_psnr(fused, sources, convention="lt")) == pytest.approx(standard + 20 * math.log10(255))
    mefb = 20 * math.log10(255 / math.sqrt((math.sqrt(10) / 4 + math.sqrt(8) / 4) / 2))
    assert float(fusion_psnr(fused, sources)) == pytest.approx(mefb)


@pytest.mark.parametrize("convention", ["mefb", "lt", "standard"])
def test_psnr_of_equal_images(convention: str) -> None:
    assert float(fusion_psnr(image(1, 2), bracket(image(1, 2)), convention=convention)) == math.inf


def test_unknown_convention() -> None:
    with pytest.raises(ValueError, match="convention must be 'mefb' or 'lt' or 'standard', got 'other'"):
        fusion_psnr(image(0, 1), bracket(image(0, 1)), convention="other")  # type: ignore[arg-type]
