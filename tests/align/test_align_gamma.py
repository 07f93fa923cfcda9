"""Adaptive gamma correction."""

import math

import pytest
import torch

from hdrops.align import adaptive_gamma_correction


def image(mean, deviation, n=2):
    """Two values of this mean and standard deviation."""
    return (
        torch.tensor([mean - deviation, mean + deviation] * 3, dtype=torch.float64).view(1, 1, 2, 3).repeat(n, 1, 1, 1)
    )


@pytest.mark.parametrize(
    ("mean", "deviation", "gamma", "dark"),
    [
        (0.1, 0.05, -math.log2(0.05), True),
        (0.9, 0.05, -math.log2(0.05), False),
        (0.3, 0.2, math.exp((1 - 0.5) / 2), True),
        (0.7, 0.2, math.exp((1 - 0.9) / 2), False),
        (0.5, 0.2, math.exp((1 - 0.7) / 2), False),
    ],
)
def test_formula(mean, deviation, gamma, dark):
    values = image(mean, deviation)
    power = values**gamma
    expected = power / (power + (1 - power) * mean**gamma) if dark else power
    torch.testing.assert_close(adaptive_gamma_correction(values), expected, rtol=1e-12, atol=0)


def test_images_are_corrected_one_by_one():
    both = torch.cat([image(0.1, 0.05, 1), image(0.7, 0.2, 1)])
    alone = [adaptive_gamma_correction(one[None])[0] for one in both]
    torch.testing.assert_close(adaptive_gamma_correction(both), torch.stack(alone))


def test_exposures_become_alike():
    light = torch.rand(1, 1, 40, 50, generator=torch.Generator().manual_seed(0)) ** 3
    means = [float(adaptive_gamma_correction(light * factor).mean()) for factor in (0.02, 0.1, 1.0)]
    assert max(means) - min(means) < 0.25
    assert float(light.mean()) * (1 - 0.02) > 0.24


@pytest.mark.parametrize("level", [0.0, 1e-30, 0.001, 0.4, 0.6, 1.0])
def test_flat_images_stay_finite(level):
    result = adaptive_gamma_correction(torch.full((1, 1, 3, 4), level))
    assert bool(((result >= 0) & (result <= 1)).all())
    if level in (0.0, 1.0):
        assert bool((result == level).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_increases_and_keeps_the_dtype(dtype):
    for low, high in ((0.0, 0.2), (0.0, 1.0), (0.7, 1.0)):
        values = torch.linspace(low, high, 50).to(dtype).view(1, 1, 5, 10)
        result = adaptive_gamma_correction(values)
        assert result.dtype == dtype
        assert bool((result.flatten().diff() >= 0).all())


def test_refuses():
    with pytest.raises(ValueError, match="one channel"):
        adaptive_gamma_correction(torch.rand(1, 3, 4, 4))
    with pytest.raises(TypeError, match="uint8"):
        adaptive_gamma_correction(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="tau"):
        adaptive_gamma_correction(torch.rand(1, 1, 4, 4), tau=0)
