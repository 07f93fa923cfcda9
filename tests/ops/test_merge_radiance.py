"""The weighted merge of a bracket, against the paper's equation in float64, pixel by pixel."""

import math

import numpy as np
import pytest
import torch

import hdrops


def srgb(z):
    return z / 12.92 if z <= 0.04045 else ((z + 0.055) / 1.055) ** 2.4


CODINGS = {"linear": lambda z: z, "srgb": srgb, 2.2: lambda z: z**2.2}
FULL = {torch.uint8: 255, torch.uint16: 65535}


def equation(images, times, inverse):
    """Eq. 6 of images (K, C, H, W) with values in [0, 1]."""
    result = np.empty(images.shape[1:])
    for place in np.ndindex(*result.shape):
        above, below, least = 0.0, 0.0, 0.0
        for z, t in zip(images[(slice(None), *place)], times, strict=True):
            weight = z if z <= 0.5 else 1 - z
            if weight > 0:
                above += weight * (math.log(inverse(z)) - math.log(t))
                below += weight
            if z == 1:
                least = max(least, 1 / t)
        result[place] = math.exp(above / below) if below else least
    return result


def bracket(dtype, shape=(4, 3, 17, 23), seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(*shape, generator=generator, dtype=torch.float64)
    values[:, :, 0, :5] = torch.tensor([0.0, 1, 1, 1, 0]).double()  # clipped in every exposure
    values[1:, :, 1] = 1  # known by the first one alone
    if dtype in FULL:
        return (values * FULL[dtype]).round().to(dtype)
    return values.to(dtype)


@pytest.mark.parametrize("coding", [None, *CODINGS])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.float32, torch.float64])
def test_equation(dtype, coding):
    images, times = bracket(dtype), [1 / 8000, 1 / 60, 0.5, 30.0]
    usual = "srgb" if dtype in FULL else "linear"
    expected = equation(images.double().numpy() / FULL.get(dtype, 1), times, CODINGS[coding or usual])
    found = hdrops.merge_radiance(images, times, coding=coding)
    exact = dtype == torch.float64
    assert found.dtype == (torch.float64 if exact else torch.float32)
    torch.testing.assert_close(
        found.double(), torch.from_numpy(expected), rtol=1e-12 if exact else 4e-6, atol=1e-300 if exact else 1e-30
    )
    assert not np.allclose(found.double().numpy(), 1.00002 * expected, rtol=4e-6, atol=0)


def test_light_of_a_static_scene_is_found():
    light = torch.exp2(-10 * torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(1)).double())
    times = torch.tensor([1.0, 4.0, 16.0, 64.0])
    images = (light * times[:, None, None, None]).clamp(max=1)
    torch.testing.assert_close(hdrops.merge_radiance(images, times), light)
    coded = (images ** (1 / 2.2) * 65535).round().to(torch.uint16)
    found = hdrops.merge_radiance(coded, times, coding=2.2)
    torch.testing.assert_close(found.double(), light, rtol=1e-3, atol=0)


def test_clipped_in_every_exposure():
    """Of white ones the shortest, whatever the order; black is no light."""
    images = torch.tensor([[255, 255, 0, 255], [255, 0, 0, 255], [255, 255, 0, 0]], dtype=torch.uint8)[:, None, None]
    found = hdrops.merge_radiance(images, [0.5, 0.125, 2.0])
    assert found.tolist() == [[[8.0, 2.0, 0.0, 8.0]]]


def test_batches_and_order():
    images = torch.stack([bracket(torch.uint8, seed=seed) for seed in range(2)])
    times = torch.tensor([[1.0, 2, 4, 8], [1, 3, 9, 27]])
    found = hdrops.merge_radiance(images, times)
    for k in range(2):
        assert torch.equal(found[k], hdrops.merge_radiance(images[k], times[k]))
    turned = hdrops.merge_radiance(images.flip(1), times.flip(1))
    torch.testing.assert_close(turned, found, rtol=1e-5, atol=0)
    one = hdrops.merge_radiance(images, times[0])
    assert torch.equal(one[0], found[0])
    assert not torch.equal(one[1], found[1])


def test_blocks_change_nothing(monkeypatch):
    images = bracket(torch.float32, (3, 3, 50, 40))
    whole = hdrops.merge_radiance(images, [1, 2, 4])
    monkeypatch.setattr("hdrops.ops._radiance._BLOCK", 7 * 3 * 3 * 40)
    torch.testing.assert_close(hdrops.merge_radiance(images, [1, 2, 4]), whole, rtol=1e-6, atol=0)
    assert hdrops.merge_radiance(images[..., :0], [1, 2, 4]).shape == (3, 50, 0)


def test_values_outside_and_nan():
    images = torch.tensor([[-0.5, 1.5, 0.25, math.nan], [-1.0, 7.0, 0.5, 0.5]])[:, None, None]
    found = hdrops.merge_radiance(images, [1, 2])[0, 0]
    assert found[:2].tolist() == [0, 1]
    assert found[2].item() == pytest.approx(0.25)
    assert found[3].isnan()


def test_memory_does_not_grow_with_the_images(monkeypatch):
    largest = 0
    merged = hdrops.ops._radiance._merged

    def watched(images, *rest):
        nonlocal largest
        largest = max(largest, images.numel())
        return merged(images, *rest)

    monkeypatch.setattr("hdrops.ops._radiance._merged", watched)
    hdrops.merge_radiance(torch.zeros(3, 3, 600, 800, dtype=torch.uint8), [1, 2, 4])
    assert 0 < largest <= 2**18


def test_bad_input():
    images = bracket(torch.uint8)
    for wrong, error, words in (
        ((images.int(), [1, 2, 4, 8]), TypeError, "uint8, uint16 or floating point, got torch.int32"),
        ((images[0], [1, 2, 4]), ValueError, "got shape"),
        ((images[:0], []), ValueError, "at least one exposure"),
        ((images, [1, 2, 4]), ValueError, "one of each of 4 exposures"),
        ((images, [1, 2, 4, 0]), ValueError, "positive and finite"),
        ((images, [1, 2, 4, math.inf]), ValueError, "positive and finite"),
        ((images, [1, 2, 4, math.nan]), ValueError, "positive and finite"),
    ):
        with pytest.raises(error, match=words):
            hdrops.merge_radiance(*wrong)
    for coding in ("gamma", 0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="coding must be"):
            hdrops.merge_radiance(images, [1, 2, 4, 8], coding=coding)
