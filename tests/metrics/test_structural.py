"""SSIM and MS-SSIM of a fused image with its sources."""

from __future__ import annotations

import math
from collections.abc import Callable

import golden
import pytest
import torch
from torch import Tensor

import hdrops
from hdrops import metrics
from hdrops.ops._grey import GREY

BOTH = [(metrics.ssim_sources, hdrops.ssim), (metrics.ms_ssim_sources, hdrops.ms_ssim)]


def scene(channels: int = 3, exposures: int = 3, size: int = 176) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    base = torch.rand(2, 1, channels, size, size, generator=generator, dtype=torch.float64)
    gains = torch.linspace(0.4, 1.0, exposures, dtype=torch.float64)[:, None, None, None]
    bracket = base * gains
    return bracket.mean(1), bracket


@pytest.mark.parametrize(("metric", "operator"), BOTH)
@pytest.mark.parametrize("channels", [1, 3])
def test_mean_over_sources(metric: Callable[..., Tensor], operator: Callable[..., Tensor], channels: int) -> None:
    fused, bracket = scene(channels)
    each = [operator(fused, bracket[:, k], reduction="none") for k in range(3)]
    expected = torch.stack(each).mean(0)
    measured = metric(fused, bracket, color="mean")
    assert measured.shape == (2,)
    assert torch.allclose(measured, expected, rtol=1e-9)


@pytest.mark.parametrize(("metric", "operator"), BOTH)
def test_grey_by_default(metric: Callable[..., Tensor], operator: Callable[..., Tensor]) -> None:
    fused, bracket = scene()
    weights = torch.tensor(GREY, dtype=torch.float64)[:, None, None]
    grey = [(z * weights).sum(-3, keepdim=True) for z in (fused, bracket)]
    expected = torch.stack([operator(grey[0], grey[1][:, k], reduction="none") for k in range(3)]).mean(0)
    assert torch.allclose(metric(fused, bracket), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("metric", "name"), [(metrics.ssim_sources, "SSIM"), (metrics.ms_ssim_sources, "MS-SSIM")], ids=["ssim", "ms_ssim"]
)
def test_equals_the_authors_code(metric: Callable[..., Tensor], name: str) -> None:
    """The mean of the authors' values for every source of a scene: grey of 8 bits, valid region."""
    scenes: dict[tuple[str, str], list[golden.Row]] = {}
    for row in golden.rows(name, "wang2003_gray"):
        scenes.setdefault((row.scene, row.method), []).append(row)
    for rows in scenes.values():
        bracket = torch.cat([row.bracket for row in rows], 1)
        expected = sum(row.value for row in rows) / len(rows)
        assert metric(rows[0].fused, bracket).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", [metrics.ssim_sources, metrics.ms_ssim_sources])
def test_codes_and_floats_agree(metric: Callable[..., Tensor]) -> None:
    codes = [(z * 65535).round() for z in scene()]
    expected = metric(*(z / 65535 for z in codes))
    assert torch.allclose(metric(*(z.to(torch.int32).to(torch.uint16) for z in codes)), expected, rtol=1e-9)


@pytest.mark.parametrize("metric", [metrics.ssim_sources, metrics.ms_ssim_sources])
def test_one_source_equal_to_the_fused_image(metric: Callable[..., Tensor]) -> None:
    fused, _ = scene()
    assert torch.allclose(metric(fused, fused[:, None]), torch.ones(2, dtype=torch.float64), atol=1e-12)


def test_options_reach_the_operator() -> None:
    fused, bracket = scene(channels=1, size=32)
    expected = torch.stack([hdrops.ssim(fused, z, window=7, sigma=None, reduction="none") for z in bracket.unbind(1)])
    assert torch.allclose(metrics.ssim_sources(fused, bracket, window=7, sigma=None), expected.mean(0), rtol=1e-9)


def test_nan_is_of_its_image_only() -> None:
    fused, bracket = scene(size=32)
    bracket[1, 2, 0, 5, 5] = math.nan
    assert metrics.ssim_sources(fused, bracket).isnan().tolist() == [False, True]


def test_differentiable() -> None:
    fused, bracket = scene(channels=1, size=12)
    fused.requires_grad_()
    metrics.ssim_sources(fused, bracket).sum().backward()
    assert fused.grad.isfinite().all()
    assert fused.grad.abs().max() > 0


def test_bad_images() -> None:
    fused, bracket = scene(size=32)
    with pytest.raises(ValueError, match="differ in more than the exposures"):
        metrics.ssim_sources(fused[..., :-1], bracket)
    with pytest.raises(ValueError, match="color must be"):
        metrics.ssim_sources(fused, bracket, color="rgb")
