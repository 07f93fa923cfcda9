"""LPC-SI and S3 against golden values, naive definitions and values worked out by hand."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

import golden
import pytest
import torch
from golden import Row
from torch import Tensor

from hdrops.metrics import lpc_si, s3
from hdrops.metrics.sharpness import _polar_average, _spatial_map, _spectral_map

SCENES = ("balancedrock", "door", "lake1")
METRICS = [lpc_si, s3]


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_codes(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def worst(metric: str, variant: str, measure: Callable[[Row], Tensor], scenes: tuple[str, ...] = SCENES) -> float:
    """The largest relative deviation from the golden values of a variant, on some scenes."""
    found = [row for row in golden.rows(metric, variant) if row.scene.endswith(scenes)]
    assert found
    return max(abs(measure(row).item() / row.value - 1) for row in found)


# ---- the published values ----------------------------------------------------------------------------


def test_published_values_of_lpc_si() -> None:
    assert worst("LPC-SI", "hassen_gray", lambda row: lpc_si(row.image)) < 1e-9


@pytest.mark.full
def test_published_values_of_lpc_si_of_large_images() -> None:
    fused = [row for row in golden.rows("LPC-SI", "hassen_gray") if row.target == "fused" and "iccv17" in row.scene]
    assert max(abs(lpc_si(row.image).item() / row.value - 1) for row in fused) < 1e-9


@pytest.mark.parametrize(("constant", "value"), [("_WEIGHTS", (1, -2, 1)), ("_SCALES", (1, 2, 4))])
def test_other_constants_miss_the_published_lpc_si(
    monkeypatch: pytest.MonkeyPatch, constant: str, value: tuple[float, ...]
) -> None:
    monkeypatch.setattr(f"hdrops.metrics.sharpness.{constant}", value)
    assert worst("LPC-SI", "hassen_gray", lambda row: lpc_si(row.image), ("door",)) > 1e-2


def test_another_grey_misses_the_published_lpc_si() -> None:
    assert worst("LPC-SI", "hassen_gray", lambda row: lpc_si(row.image, color="mean"), ("door",)) > 1e-3


@pytest.mark.parametrize("sharpness", ["s1", "s2", "s3"])
@pytest.mark.parametrize(
    ("variant", "pooling"), [("top1pct_floor", "top_floor"), ("top1pct_ceil", "top_ceil"), ("mean", "mean")]
)
def test_published_values_of_s3(sharpness: Any, variant: str, pooling: Any) -> None:
    """The golden values come from GNU Octave, whose window has zeros at its ends."""
    deviation = worst(
        "S3",
        f"{sharpness}_{variant}",
        lambda row: s3(row.image, sharpness=sharpness, pooling=pooling, zero_ends=True),
        ("",),
    )
    assert deviation < 1e-9


def test_other_conventions_miss_the_published_s3() -> None:
    assert worst("S3", "s1_mean", lambda row: s3(row.image, sharpness="s1", pooling="mean")) > 1e-2
    assert worst("S3", "s3_top1pct_floor", lambda row: s3(row.image)) > 1e-3
    assert worst("S3", "s3_top1pct_floor", lambda row: s3(row.image, pooling="top_ceil", zero_ends=True)) > 1e-6
    assert worst("S3", "s3_top1pct_floor", lambda row: s3(row.image, color="mean", zero_ends=True)) > 1e-3


# ---- LPC-SI ------------------------------------------------------------------------------------------


def naive_lpc_si(image: Tensor) -> float:
    """LPC-SI of (H, W) on 0-255, filter by filter and pixel by pixel."""
    height, width = image.shape

    def frequency(index: int, size: int) -> float:
        """What the authors assign to bin ``index`` of the DFT: the middle of the shifted grid is zero."""
        shifted = (index + size // 2) % size - size // 2
        return shifted / (size - 1 if size % 2 else size)

    def gain(row: int, column: int, scale: float, orientation: int) -> float:
        if row == column == 0:
            return 0.0
        y, x = frequency(row, height), frequency(column, width)
        radius = math.sqrt(x * x + y * y)
        angle = math.pi * orientation / 8
        turn = abs(cmath.phase(complex(x, -y) * cmath.exp(-1j * angle)))
        radial = math.exp(-(math.log(radius * 4 * scale) ** 2) / (2 * math.log(0.75) ** 2)) / (
            1 + (radius / 0.45) ** 30
        )
        return radial * math.exp(-(turn**2) / (2 * (math.pi / 12) ** 2))

    border = math.floor(min(height, width) / 16 + 0.5)
    inner = (slice(border, height - border), slice(border, width - border))
    top, bottom = torch.zeros_like(image), torch.full_like(image, 2.0)
    for orientation in range(8):
        responses = []
        for scale in (1, 1.5, 2):
            gains = [[gain(r, c, scale, orientation) for c in range(width)] for r in range(height)]
            responses.append(torch.fft.ifft2(torch.fft.fft2(image) * torch.tensor(gains, dtype=torch.float64)))
        coherence = torch.cos((responses[0] * responses[1] ** -3 * responses[2] ** 2).angle()).clamp_min(0)
        energy = responses[0].abs()
        energy = (energy - energy[inner].mean() - 2 * energy[inner].std()).clamp_min(0)
        top += coherence * energy
        bottom += energy
    values = sorted((top / bottom)[inner].flatten().tolist(), reverse=True)
    weights = [math.exp(-k / (len(values) - 1) / 1e-4) for k in range(len(values))]
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


# In the largest, several of the sharpest values have weight.
@pytest.mark.parametrize("shape", [(24, 33), (25, 25), (7, 9), (2, 2), (3, 40), (120, 100)])
def test_lpc_si_equals_its_definition(shape: tuple[int, int]) -> None:
    image = random_image(1, 1, *shape)
    assert lpc_si(image).item() == pytest.approx(naive_lpc_si(image[0, 0] * 255), rel=1e-9, abs=1e-12)


def test_lpc_si_is_the_same_turned_and_mirrored() -> None:
    image = random_image(1, 1, 33, 33)
    expected = lpc_si(image)
    assert expected > 0
    for other in (image.rot90(1, (-2, -1)), image.flip(-1), image.mT):
        torch.testing.assert_close(lpc_si(other), expected, rtol=1e-9, atol=0)


def test_lpc_si_does_not_see_brightness() -> None:
    image = random_image(1, 1, 32, 40) / 2
    torch.testing.assert_close(lpc_si(image + 0.5), lpc_si(image), rtol=1e-9, atol=0)


# ---- S3 ----------------------------------------------------------------------------------------------


def naive_polar_average(magnitudes: Tensor) -> list[float]:
    """The mean over 16 circles, with the published exchange of weights at negative coordinates."""
    size = len(magnitudes)
    values = magnitudes.clone()
    values[0, 0] = (values[1, 0] + values[0, 1]) / 2
    means = []
    for ring in range(1, size // 2 + 1):
        total = 0.0
        for degree in range(360):
            points, shares = [], []
            for coordinate in (
                ring * math.sin(degree / 360 * (2 * math.pi)),
                ring * math.cos(degree / 360 * (2 * math.pi)),
            ):
                sign = (coordinate > 0) - (coordinate < 0)
                near, far = sign * math.floor(abs(coordinate)), sign * math.ceil(abs(coordinate))
                shares.append(abs(coordinate - far) if far < 0 else abs(coordinate - near))
                points.append((near % size, far % size))
            (r0, r1), (c0, c1) = points
            a, b = shares
            total += (1 - a) * ((1 - b) * values[r0, c0].item() + b * values[r0, c1].item())
            total += a * ((1 - b) * values[r1, c0].item() + b * values[r1, c1].item())
        means.append(total / 360)
    return means


def naive_maps(image: Tensor, zero_ends: bool) -> tuple[Tensor, Tensor]:
    """s1 and s2 of (H, W) on 0-255, block by block."""
    height, width = image.shape

    def mirrored(border: int) -> Tensor:
        """One more line at the right and at the bottom, as published."""
        wide = torch.cat([image[:, :border].flip(1), image, image[:, -border - 1 :].flip(1)], 1)
        return torch.cat([wide[:border].flip(0), wide, wide[-border - 1 :].flip(0)], 0)

    k = torch.arange(32, dtype=torch.float64)
    taper = 0.5 - 0.5 * torch.cos(2 * math.pi * (k / 31 if zero_ends else (k + 1) / 33))
    padded = mirrored(16)
    luminance = (0.7656 + 0.0364 * padded) ** 2.2
    spectral = torch.zeros_like(padded)
    for top in range(0, padded.shape[0] - 32, 8):
        for left in range(0, padded.shape[1] - 32, 8):
            light = luminance[top : top + 32, left : left + 32]
            contrast = False
            for y in range(0, 28, 4):
                for x in range(0, 28, 4):
                    small = light[y : y + 8, x : x + 8]
                    contrast |= bool(small.mean() > 2 and small.max() - small.min() > 5)
            if contrast:
                block = padded[top : top + 32, left : left + 32] * taper * taper[:, None]
                means = naive_polar_average(torch.fft.fft2(block).abs())
                x_ = torch.linspace(0, 0.5, 17, dtype=torch.float64)[1:].log()
                y_ = torch.tensor(means, dtype=torch.float64).log()
                slope = -((x_ - x_.mean()) * (y_ - y_.mean())).sum() / (x_ - x_.mean()).square().sum()
                spectral[top + 12 : top + 20, left + 12 : left + 20] = 1 - 1 / (1 + torch.exp(-3 * (slope - 2)))
    spectral = spectral[16:-17, 16:-17]

    spatial = torch.zeros_like(image)
    for border in (8, 4):
        padded = mirrored(border)
        result = torch.zeros_like(padded)
        for top in range(0, padded.shape[0] - 8, 8):
            for left in range(0, padded.shape[1] - 8, 8):
                largest = 0.0
                for y in range(top, top + 7):
                    for x in range(left, left + 7):
                        corners = padded[y : y + 2, x : x + 2].flatten().tolist()
                        pairs = [(i, j) for i in range(4) for j in range(i)]
                        largest = max(largest, sum(abs(corners[i] - corners[j]) for i, j in pairs) / 255 / 4)
                result[top : top + 8, left : left + 8] = largest
        spatial = torch.maximum(spatial, result[border : border + height, border : border + width])
    return spectral, spatial


@pytest.mark.parametrize("zero_ends", [False, True])
@pytest.mark.parametrize("shape", [(17, 24), (29, 19)])
def test_s3_maps_equal_their_definition(shape: tuple[int, int], zero_ends: bool) -> None:
    image = random_codes(*shape).double()
    image[:, :8] = 100
    spectral, spatial = naive_maps(image, zero_ends)
    torch.testing.assert_close(_spectral_map(image, zero_ends), spectral, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(_spatial_map(image), spatial, rtol=1e-12, atol=1e-12)


def test_s3_pools_its_map() -> None:
    codes = random_codes(1, 1, 30, 41)
    spectral, spatial = naive_maps(codes[0, 0].double(), zero_ends=False)
    for name, values in (("s1", spectral), ("s2", spatial), ("s3", (spectral * spatial).sqrt())):
        ordered = values.flatten().sort(descending=True).values
        # 1230 pixels
        for pooling, count in (("top_floor", 12), ("top_ceil", 13), ("mean", 1230)):
            value = s3(codes, sharpness=name, pooling=pooling)
            assert value.item() == pytest.approx(ordered[:count].mean().item(), rel=1e-9)


def test_flat_spectra_average_to_themselves() -> None:
    torch.testing.assert_close(_polar_average().sum(1), torch.ones(16, dtype=torch.float64))


def test_chunks_of_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = random_codes(1, 1, 40, 50)
    expected = s3(codes)
    monkeypatch.setattr("hdrops.metrics.sharpness._BLOCKS", 7)
    torch.testing.assert_close(s3(codes), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        # |difference| of six pairs in 2 x 2 pixels, over four: a step has four, a lone pixel three, a ramp four steps.
        (lambda y, x: (x + y) % 2, 1.0),
        (lambda y, x: (x >= 10) * 1.0, 1.0),
        (lambda y, x: ((x == 10) & (y == 10)) * 1.0, 0.75),
        (lambda y, x: x / 50, 0.02),
        (lambda y, x: 0 * x, 0.0),
    ],
)
def test_spatial_sharpness_by_hand(pattern: Callable[[Tensor, Tensor], Tensor], expected: float) -> None:
    y, x = torch.arange(24, dtype=torch.float64)[:, None], torch.arange(32, dtype=torch.float64)
    image = pattern(y, x).expand(24, 32)[None, None].double()
    value = s3(image, sharpness="s2")
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_spectral_sharpness_needs_contrast() -> None:
    """Luminance of 8-bit codes below 16 stays under 2; brighter codes one step apart differ by less than 5."""
    dark = random_codes(1, 1, 32, 32) % 8
    assert s3(dark, sharpness="s1").item() == 0
    assert s3(100 + dark % 2, sharpness="s1").item() == 0
    assert s3(100 + 8 * dark, sharpness="s1").item() > 0


def test_cells_that_lie_half_outside_stay_0() -> None:
    image = random_codes(29, 40).double()
    assert (_spectral_map(image, False)[:28] > 0).all()
    assert (_spectral_map(image, False)[28:] == 0).all()


def test_spectral_sharpness_falls_with_the_slope() -> None:
    """White noise has slope 0, twice integrated noise a steep one."""
    noise = random_codes(1, 1, 64, 64)
    smooth = torch.nn.functional.avg_pool2d(noise.double(), 9, 1, 4, count_include_pad=False) / 255
    assert s3(noise, sharpness="s1", pooling="mean") > 0.9
    assert s3(smooth, sharpness="s1", pooling="mean") < 0.5


# ---- both --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_blur_is_less_sharp(metric: Any) -> None:
    image = (torch.arange(64)[:, None] // 16 + torch.arange(80) // 16) % 2 * 0.8 + 0.1
    image = image[None, None].double() + 0.05 * random_image(1, 1, 64, 80)
    last = metric(image)
    for _ in range(3):
        image = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
        assert metric(image) < last
        last = metric(image)


@pytest.mark.parametrize("metric", METRICS)
def test_codes_and_floats_agree(metric: Any) -> None:
    codes = random_codes(1, 1, 40, 37)
    for image in ((codes.int() * 257).to(torch.uint16), codes.double() / 255):
        torch.testing.assert_close(metric(image), metric(codes), rtol=1e-9, atol=0)
    torch.testing.assert_close(metric(codes.float() / 255), metric(codes), rtol=1e-4, atol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_is_its_members(metric: Any) -> None:
    codes = random_codes(3, 3, 33, 40)
    batch = metric(codes)
    assert batch.shape == (3,)
    assert batch.dtype == torch.float64
    assert torch.equal(batch, torch.cat([metric(codes[i : i + 1]) for i in range(3)]))
    assert metric(codes[:0]).shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
def test_color_mean_is_the_mean_over_channels(metric: Any) -> None:
    codes = random_codes(2, 3, 33, 40)
    channels = [metric(codes[:, c : c + 1]) for c in range(3)]
    torch.testing.assert_close(metric(codes, color="mean"), torch.stack(channels).mean(0))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("level", [0, 77, 255])
def test_flat_images_are_not_sharp(metric: Any, level: int) -> None:
    for shape in ((17, 17), (30, 45)):
        assert metric(torch.full((1, 3, *shape), level, dtype=torch.uint8)).item() == 0
        assert metric(torch.full((1, 1, *shape), level / 255)).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(metric: Any, value: float) -> None:
    image = random_image(2, 1, 32, 32)
    image[1, 0, 3, 3] = value
    assert metric(image).isnan().tolist() == [False, True]


@pytest.mark.parametrize("metric", METRICS)
def test_layouts_and_inputs(metric: Any) -> None:
    codes = random_codes(2, 3, 33, 40)
    before, expected = codes.clone(), metric(codes)
    last, strided = codes.contiguous(memory_format=torch.channels_last), codes.repeat_interleave(2, -1)[..., ::2]
    for image in (last, strided, codes.numpy()):
        torch.testing.assert_close(metric(image), expected, rtol=1e-12, atol=0)
    assert torch.equal(codes, before)
    assert not metric((codes / 255).requires_grad_()).requires_grad


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least 2 x 2"):
        lpc_si(random_codes(1, 1, 1, 9))
    with pytest.raises(ValueError, match="at least 17 x 17"):
        s3(random_codes(1, 1, 16, 30))
    with pytest.raises(ValueError, match="sharpness must be"):
        s3(random_codes(1, 1, 20, 20), sharpness="s4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pooling must be"):
        s3(random_codes(1, 1, 20, 20), pooling="max")  # type: ignore[arg-type]
    for metric in METRICS:
        with pytest.raises(ValueError, match="color must be"):
            metric(random_codes(1, 1, 20, 20), color="hsv")  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="must be"):
            metric(random_codes(1, 20, 20))
