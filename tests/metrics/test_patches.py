"""Qy, Qw and Qc."""

from __future__ import annotations

import math
from collections.abc import Callable

import golden
import pytest
import torch
from torch import Tensor

from hdrops.metrics import _filters, patches, qc, qw, qy

TOLERANCE = 1e-10
GREY = {"color": "grey"}


def texture(seed: int, height: int = 24, width: int = 30) -> Tensor:
    return torch.rand(1, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def bracket(*images: Tensor) -> Tensor:
    return torch.stack(images, 1)


def flat(level: int) -> Tensor:
    return torch.full((1, 1, 12, 14), level, dtype=torch.uint8)


def window(size: int) -> Tensor:
    """The weights of the one window of an image of ``size`` x ``size``."""
    line = torch.exp(-((torch.arange(size, dtype=torch.float64) - size // 2) ** 2) / (2 * 1.5**2))
    return line[:, None] * line / line.sum() ** 2


def moments(x: Tensor, y: Tensor) -> tuple[float, float, float, float, float]:
    """Weighted means, variances and covariance of 7 x 7 images in [0, 1], on 0-255."""
    x, y = 255 * x, 255 * y
    weights = window(7)
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    dx, dy = x - mean_x, y - mean_y
    results = (mean_x, mean_y, (weights * dx * dx).sum(), (weights * dy * dy).sum(), (weights * dx * dy).sum())
    return tuple(map(float, results))  # type: ignore[return-value]


def similarity(x: Tensor, y: Tensor) -> float:
    mean_x, mean_y, variance_x, variance_y, shared = moments(x, y)
    return 4 * mean_x * mean_y * shared / ((mean_x**2 + mean_y**2) * (variance_x + variance_y))


# ---- published values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "function"), [("Qy", qy), ("Qc", qc)])
def test_golden_in_the_published_order_of_summation(
    metric: str, function: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rounding that decides in flat windows, and flat windows like any other, the published values result."""
    monkeypatch.setattr(_filters, "MIDDLE", 0.0)
    monkeypatch.setattr(_filters, "smooth", lambda x, taps: golden.octave_filter(x, len(taps), 1.5, True))
    monkeypatch.setattr(patches, "FLAT", -math.inf)
    deviations = golden.deviations(metric, "mefb_gray", lambda row: function(row.fused, row.bracket, **GREY))
    assert float(deviations.max()) < TOLERANCE


def test_golden_qy() -> None:
    """Half of the pictures have no window in which rounding matters."""
    deviations = golden.deviations("Qy", "mefb_gray", lambda row: qy(row.fused, row.bracket, **GREY))
    assert float(deviations.sort().values[len(deviations) // 2 - 1]) < TOLERANCE
    assert float(deviations.max()) < 0.06


def test_golden_qc() -> None:
    deviations = golden.deviations("Qc", "mefb_gray", lambda row: qc(row.fused, row.bracket, **GREY))
    assert float(deviations.min()) < 0.006
    assert float(deviations.max()) < 0.11


def test_golden_qw() -> None:
    deviations = golden.deviations("Qw", "mefb_gray", lambda row: qw(row.fused, row.bracket, **GREY))
    assert float(deviations.max()) < TOLERANCE


@pytest.mark.parametrize(("metric", "function"), [("Qy", qy), ("Qw", qw), ("Qc", qc)])
def test_golden_tells_colours_apart(metric: str, function: Callable[..., Tensor]) -> None:
    deviations = golden.deviations(metric, "mefb_gray", lambda row: function(row.fused, row.bracket))
    assert float(deviations.min()) > 100 * TOLERANCE


# ---- one window ------------------------------------------------------------------------------------------------------


def test_qy_of_one_window() -> None:
    a, fused = texture(0, 7, 7), texture(1, 7, 7)
    alike = (a + 0.1 * texture(2, 7, 7)).clamp(max=1)
    other = 1 - a
    assert similarity(a, alike) > 0.75 > similarity(a, other)
    variances = moments(a, a)[2], moments(alike, alike)[2]
    weighted = variances[0] * similarity(a, fused) + variances[1] * similarity(alike, fused)
    assert float(qy(fused, bracket(a, alike))) == pytest.approx(weighted / sum(variances))
    better = max(similarity(a, fused), similarity(other, fused))
    assert float(qy(fused, bracket(a, other))) == pytest.approx(better)
    # One pair that disagrees is enough.
    assert float(qy(fused, bracket(a, alike, other))) == pytest.approx(max(better, similarity(alike, fused)))


def covariances(fused: Tensor, *images: Tensor) -> list[float]:
    return [moments(image, fused)[4] for image in images]


@pytest.mark.parametrize("convention", ["mefb", "paper"])
def test_qc_of_one_window(convention: str) -> None:
    a, b = texture(0, 7, 7), texture(1, 7, 7)
    fused = (a + b) / 2
    shared = covariances(fused, a, b)
    assert min(shared) > 0
    expected = (shared[0] * similarity(a, fused) + shared[1] * similarity(b, fused)) / sum(shared)
    assert float(qc(fused, bracket(a, b), convention=convention)) == pytest.approx(expected)


def test_qc_of_negative_covariance() -> None:
    a = texture(0, 7, 7)
    against, fused = 1 - a / 2, a
    assert sum(covariances(fused, a, against)) > 0 > covariances(fused, against)[0]
    # The whole weight for the other source by the paper; 0 or 1 by MEFB, as the one or the other is negative.
    assert float(qc(fused, bracket(a, against), convention="paper")) == pytest.approx(1)
    assert float(qc(fused, bracket(against, a), convention="paper")) == pytest.approx(1)
    assert float(qc(fused, bracket(a, against))) == 1
    assert float(qc(fused, bracket(against, a))) == 0


def test_qc_of_three_sources() -> None:
    sources = [texture(seed, 7, 7) for seed in range(3)]
    fused = sum(sources) / 3
    shared = covariances(fused, *sources)
    expected = sum(s * similarity(image, fused) for s, image in zip(shared, sources, strict=True)) / sum(shared)
    assert min(shared) > 0
    assert float(qc(fused, bracket(*sources), convention="paper")) == pytest.approx(expected)
    with pytest.raises(ValueError, match="'mefb' is for 2 sources, bracket has 3; convention='paper' takes any"):
        qc(fused, bracket(*sources))


def test_qw_of_one_window() -> None:
    """One window, whose weight does not matter: that of SSIM on the magnitudes of Prewitt's operator."""
    a, b, fused = (255 * texture(seed, 11, 11) for seed in range(3))

    def edges(codes: Tensor) -> Tensor:
        kernel = torch.tensor([[1.0, 0, -1]] * 3, dtype=torch.float64)
        return torch.nn.functional.conv2d(codes, torch.stack([kernel, kernel.T])[:, None], padding=1).norm(dim=1)[0]

    weights = window(11)

    def moment(x: Tensor, y: Tensor) -> float:
        return float((weights * x * y).sum() - (weights * x).sum() * (weights * y).sum())

    def ssim(x: Tensor, y: Tensor) -> float:
        mean_x, mean_y = float((weights * x).sum()), float((weights * y).sum())
        c1, c2 = 2.55**2, 7.65**2
        structure = (2 * moment(x, y) + c2) / (moment(x, x) + moment(y, y) + c2)
        return (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * structure

    target, *sources = (edges(x) for x in (fused, a, b))
    variances = [moment(source, source) for source in sources]
    expected = sum(v * ssim(source, target) for v, source in zip(variances, sources, strict=True)) / sum(variances)
    assert float(qw(fused / 255, bracket(a / 255, b / 255))) == pytest.approx(expected)


def test_qw_weighs_windows_by_variance() -> None:
    """A loss counts where the source has strong edges."""
    source = torch.full((1, 1, 40, 80), 0.5, dtype=torch.float64)
    source[..., :40] += 0.4 * (texture(0, 40, 40) - 0.5)
    source[..., 40:] += 0.02 * (texture(1, 40, 40) - 0.5)
    strong, weak = source.clone(), source.clone()
    strong[..., :40], weak[..., 40:] = 0.5, 0.5
    assert float(qw(weak, bracket(source))) > 0.9
    assert float(qw(strong, bracket(source))) < 0.2


# ---- flat images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 77, 255])
@pytest.mark.parametrize("function", [qy, qw, qc])
def test_equal_flat_images(function: Callable[..., Tensor], level: int) -> None:
    assert float(function(flat(level), bracket(flat(level), flat(level)))) == pytest.approx(1)


@pytest.mark.parametrize("function", [qy, qc])
def test_flat_windows_compare_means(function: Callable[..., Tensor]) -> None:
    expected = (2 * 40 * 80) / (40**2 + 80**2)
    assert float(function(flat(40), bracket(flat(80), flat(80)))) == pytest.approx(expected)


def test_a_flat_source_has_no_share() -> None:
    a, level = texture(3), torch.full((1, 1, 24, 30), 0.3, dtype=torch.float64)
    assert float(qc(a, bracket(a, level))) == pytest.approx(1)
    assert float(qc(a, bracket(level, a))) == pytest.approx(1)
    assert float(qy(a, bracket(level, a))) == pytest.approx(1)
    # A fused image of noise where both sources are flat is unlike them.
    assert float(qy(a, bracket(level, level))) == pytest.approx(0, abs=1e-12)


def test_qc_leaves_out_windows_without_covariance() -> None:
    """Beyond column 26 of the fused image every window is flat, and what the sources hold there does not count."""
    sources, fused = bracket(texture(4, 20, 40), texture(5, 20, 40)), texture(4, 20, 40)
    fused[..., 20:] = 0.5
    value = qc(fused, sources)
    torch.testing.assert_close(value, qc(fused[..., :26], sources[..., :26]))
    assert abs(float(value) - float(qc(fused[..., :23], sources[..., :23]))) > 1e-3


def test_unknown_convention() -> None:
    with pytest.raises(ValueError, match="convention must be 'mefb' or 'paper', got 'other'"):
        qc(flat(0), bracket(flat(0), flat(0)), convention="other")  # type: ignore[arg-type]
