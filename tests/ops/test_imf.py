"""Operator ``imf``: what the contract does not say of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import CODES, FLOATS, FULL_SCALE, INTERPRETING, imf_fuse_case, rising_table
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import assert_close, assert_codes
from torch import Tensor

import hdrops

EPS = torch.finfo(torch.float32).eps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_image(height: int, width: int) -> Tensor:
    """A smooth float64 image in [0, 1] in which every level occurs."""
    coarse = torch.rand(1, 1, 5, 6, generator=generator(), dtype=torch.float64)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    return (image - image.min()) / (image.max() - image.min())


def codes_of(image: Tensor, dtype: torch.dtype = torch.uint8) -> Tensor:
    full = FULL_SCALE[dtype]
    return (image.clamp(0, 1) * full).round().to(torch.int32).to(dtype)


# ---- estimate_imf ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CODES)
def test_identity(dtype: torch.dtype, backend: str, device: str) -> None:
    image = codes_of(torch.rand(3, 40, 50, generator=generator(), dtype=torch.float64), dtype).to(device)
    table = hdrops.estimate_imf(image, image, backend=backend).cpu()
    torch.testing.assert_close(table, torch.linspace(0, 255, 256).expand(3, -1), rtol=1e-6, atol=1e-5)


def test_identity_of_few_levels(backend: str, device: str) -> None:
    image = torch.tensor([3, 3, 9, 9, 9, 200], dtype=torch.uint8, device=device).view(1, 2, 3)
    table = hdrops.estimate_imf(image, image, backend=backend).cpu()[0]
    torch.testing.assert_close(table, torch.arange(256.0), rtol=1e-6, atol=1e-5)


def test_gamma_map_is_recovered(backend: str, device: str) -> None:
    image = smooth_image(160, 200)
    exact = hdrops.gamma_imf(2.0)
    assert float(exact[128]) == pytest.approx(128 * 2 ** (1 / 2.2), rel=1e-6)
    source, target = codes_of(image), codes_of(image * 2 ** (1 / 2.2))
    table = hdrops.estimate_imf(source.to(device), target.to(device), backend=backend).cpu()[0]
    reached = exact < 248
    assert float((table - exact)[reached].abs().max()) < 1
    # Beyond the saturation of the target the map goes on in proportion, which a gamma map is.
    assert float((table - exact)[~reached].abs().max()) < 2.5
    assert float(table[-1]) > 340


def test_saturated(backend: str, device: str) -> None:
    image = smooth_image(160, 200)
    source, target = codes_of(image).to(device), codes_of(image * 2 ** (1 / 2.2)).to(device)
    trusting = hdrops.estimate_imf(source, target, saturated=256, backend=backend).cpu()[0]
    careful = hdrops.estimate_imf(source, target, saturated=250, backend=backend).cpu()[0]
    earlier = hdrops.estimate_imf(source, target, saturated=100, backend=backend).cpu()[0]
    assert float(trusting.max()) <= 255
    trusted = trusting < 250
    assert torch.equal(careful[trusted], trusting[trusted])
    last = int(trusted.nonzero().max())
    line = torch.maximum(careful[last] * torch.arange(256.0) / last, trusting.clamp(max=250))
    torch.testing.assert_close(careful[last:], line[last:], rtol=1e-6, atol=1e-4)
    last = int((trusting < 100).nonzero().max())
    line = torch.maximum(trusting[last] * torch.arange(256.0) / last, trusting.clamp(max=100))
    torch.testing.assert_close(earlier[last:], line[last:], rtol=1e-6, atol=1e-4)


def test_gaps_and_ends(backend: str, device: str) -> None:
    """Levels 10, 20 and 40 in equal shares, matched to 30, 60 and 90."""
    source = torch.tensor([10, 20, 40], dtype=torch.uint8, device=device).view(1, 1, 3)
    target = torch.tensor([30, 60, 90], dtype=torch.uint8, device=device).view(1, 1, 3)
    table = hdrops.estimate_imf(source, target, backend=backend).cpu()[0]
    expected = np.interp(np.arange(256), [0, 10, 20, 40], [0, 30, 60, 90])
    expected[40:] = 90 / 40 * np.arange(40, 256)
    np.testing.assert_allclose(table.numpy(), expected, rtol=1e-6, atol=1e-5)


def test_target_levels_between_shares(backend: str, device: str) -> None:
    """The quantile of the middle source level lies halfway between those of the two target levels."""
    source = torch.tensor([10, 20, 40], dtype=torch.uint8, device=device).view(1, 1, 3)
    target = torch.tensor([50, 50, 100, 100], dtype=torch.uint8, device=device).view(1, 2, 2)
    table = hdrops.estimate_imf(source, target, backend=backend).cpu()[0]
    assert table[[10, 20, 40]].tolist() == pytest.approx([50, 75, 100], abs=1e-4)


@pytest.mark.parametrize("level", [0, 7, 255])
@pytest.mark.parametrize("target_level", [0, 100, 255])
def test_flat_images(level: int, target_level: int, backend: str, device: str) -> None:
    source = torch.full((1, 4, 4), level, dtype=torch.uint8, device=device)
    target = torch.full((1, 4, 4), target_level, dtype=torch.uint8, device=device)
    table = hdrops.estimate_imf(source, target, backend=backend).cpu()[0]
    assert table.isfinite().all()
    expected = target_level * torch.arange(256.0) / level if level else torch.full((256,), float(target_level))
    torch.testing.assert_close(table, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("levels", [2, 3, 17, 256, 1000, 65536])
def test_levels_and_uint16(levels: int, backend: str, device: str) -> None:
    """A table of other length samples the same map; codes times 257 are the same image in 16 bits."""
    image = smooth_image(60, 70)
    source, target = codes_of(image).to(device), codes_of(image**0.8).to(device)
    wide = [(x.int() * 257).to(torch.uint16) for x in (source, target)]
    full = hdrops.estimate_imf(source, target, backend=backend).cpu()[0]
    nodes = np.linspace(0, 255, levels)
    expected = np.interp(nodes, np.arange(256), full.numpy())
    table = hdrops.estimate_imf(source, target, levels, backend=backend).cpu()
    np.testing.assert_allclose(table[0].numpy(), expected, rtol=1e-5, atol=1e-4)
    table = hdrops.estimate_imf(*wide, levels, backend=backend).cpu()
    np.testing.assert_allclose(table[0].numpy(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", CODES)
def test_sizes_may_differ_and_batches_are_singles(dtype: torch.dtype, backend: str, device: str) -> None:
    source = codes_of(torch.rand(3, 2, 30, 41, generator=generator(1), dtype=torch.float64), dtype).to(device)
    target = codes_of(torch.rand(3, 2, 17, 23, generator=generator(2), dtype=torch.float64) ** 2, dtype)
    target = target.to(device)
    tables = hdrops.estimate_imf(source, target, 300, backend=backend)
    assert tables.shape == (3, 2, 300)
    for i in range(3):
        single = hdrops.estimate_imf(source[i], target[i], 300, backend=backend)
        assert single.shape == (2, 300)
        assert torch.equal(single, tables[i])


def large_images(pixels: int) -> dict[str, Tensor]:
    """Images that make the pair histogram take each of its branches."""
    random = torch.randint(0, 256, (pixels,), dtype=torch.uint8, generator=generator(pixels))
    period = torch.tensor([1, 2, 3, 250, 5, 6, 0, 8], dtype=torch.uint8).repeat(pixels // 8 + 1)[:pixels]
    runs = torch.where(torch.arange(pixels) // 3001 % 2 == 0, random, torch.full_like(random, 255))
    ends = torch.zeros_like(random)
    ends[-1], ends[0] = 77, 99
    return {
        "black": torch.zeros_like(random),
        "white": torch.full_like(random, 255),
        "period": period,
        "runs": runs,
        "ends": ends,
        "random": random,
    }


@pytest.mark.parametrize("pixels", [2**17 - 1, 2**17, 2**17 + 1, 2**17 + 7, 2**17 + 8, 3 * 2**17 + 5])
@pytest.mark.parametrize("count", [1, 2])
def test_large_histograms(pixels: int, count: int, threads: Any) -> None:
    """From 2^17 pixels on, the C++ kernel counts pairs of pixels: the counts must not change by one."""
    threads(count)
    images = large_images(pixels)
    steps = torch.arange(pixels).remainder(256).to(torch.uint8)
    source = torch.stack(list(images.values()))[:, None, :]
    target = steps.expand(source.shape)
    for first, second in ((source, target), (target, source)):
        actual = hdrops.estimate_imf(first, second, backend="cpp")
        expected = hdrops.estimate_imf(first, second, backend="reference")
        torch.testing.assert_close(actual, expected, rtol=EPS, atol=0)
    # One pixel more or less of one level moves the table by more than the comparison allows.
    moved = source.clone()
    moved[:, 0, 0] ^= 128
    changed = hdrops.estimate_imf(moved, target, backend="cpp")
    original = hdrops.estimate_imf(source, target, backend="cpp")
    assert ((changed - original).abs() > 4 * EPS * original.abs()).any(-1).all()


@st.composite
def code_images(draw: Any) -> tuple[Tensor, Tensor]:
    dtype = draw(st.sampled_from(CODES))
    largest = draw(st.sampled_from([1, 5, 40, 255 if dtype == torch.uint8 else 65535]))
    images = []
    for _ in range(2):
        height, width = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
        seed = draw(st.integers(0, 10**6))
        base = draw(st.integers(0, (255 if dtype == torch.uint8 else 65535) - largest))
        image = torch.randint(0, largest + 1, (2, height, width), generator=generator(seed)) + base
        images.append(image.to(torch.int32).to(dtype))
    return images[0], images[1]


def test_tables_rise_and_agree_with_the_reference(backend: str, device: str) -> None:
    @settings(max_examples=8 if INTERPRETING else 40, deadline=None, derandomize=True)
    @given(code_images(), st.integers(2, 700), st.sampled_from([1.0, 120.5, 250.0, 256.0]))
    def check(images: tuple[Tensor, Tensor], levels: int, saturated: float) -> None:
        on_device = [image.to(device) for image in images]
        table = hdrops.estimate_imf(*on_device, levels, saturated=saturated, backend=backend).cpu()
        assert (table.diff(dim=-1) >= -4 * EPS * table[:, 1:]).all()
        assert (table >= 0).all()
        expected = hdrops.estimate_imf(*images, levels, saturated=saturated, backend="reference")
        torch.testing.assert_close(table, expected, rtol=EPS, atol=1e-30)

    check()


def test_estimate_imf_errors(backend: str, device: str) -> None:
    def image(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    def estimate(*arguments: Any) -> Tensor:
        return hdrops.estimate_imf(*arguments, backend=backend)

    with pytest.raises(TypeError, match=r"target must be uint8 or uint16.*float32; quantise"):
        estimate(image(1, 2, 2), image(1, 2, 2, dtype=torch.float32))
    with pytest.raises(TypeError, match=r"source is torch\.uint8, target torch\.uint16"):
        estimate(image(1, 2, 2), image(1, 2, 2, dtype=torch.uint16))
    with pytest.raises(ValueError, match=r"target must be \(C, H, W\) or \(N, C, H, W\)"):
        estimate(image(1, 2, 2), image(2, 2))
    with pytest.raises(ValueError, match="source has no pixels"):
        estimate(image(1, 0, 2), image(1, 2, 2))
    with pytest.raises(ValueError, match="target has no pixels"):
        estimate(image(1, 2, 2), image(1, 2, 0))
    for other in (image(2, 2, 2), image(1, 1, 2, 2)):
        with pytest.raises(ValueError, match="must agree in N and C"):
            estimate(image(1, 2, 2), other)
    for levels in (1, 0, -3, 65537):
        with pytest.raises(ValueError, match=f"levels must be 2 to 65536, got {levels}"):
            estimate(image(1, 2, 2), image(1, 2, 2), levels)


# ---- tables from responses ---------------------------------------------------------------------------


def test_gamma_imf() -> None:
    torch.testing.assert_close(hdrops.gamma_imf(4.0, 0.5), 2 * torch.arange(256.0))
    torch.testing.assert_close(hdrops.gamma_imf(4.0, 0.5, 5), torch.tensor([0, 127.5, 255, 382.5, 510]))
    torch.testing.assert_close(hdrops.gamma_imf(1.0), torch.arange(256.0))
    inverse = hdrops.gamma_imf(1 / 16) * 16 ** (1 / 2.2)
    torch.testing.assert_close(inverse, torch.arange(256.0), rtol=1e-5, atol=1e-4)
    assert hdrops.gamma_imf(2.0).dtype == torch.float32
    for ratio in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="ratio must be a positive exposure ratio"):
            hdrops.gamma_imf(ratio)
    for gamma in (0.0, -0.5, math.nan):
        with pytest.raises(ValueError, match="gamma must be positive"):
            hdrops.gamma_imf(2.0, gamma)
    for levels in (1, 65537):
        with pytest.raises(ValueError, match="levels must be 2 to 65536"):
            hdrops.gamma_imf(2.0, levels=levels)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("gamma", [1.0, 1 / 2.2])
def test_crf_imf_of_a_gamma_response(ratio: float, gamma: float) -> None:
    expected = hdrops.gamma_imf(ratio, gamma, 400).clamp(max=255)
    grid = torch.linspace(0, 1, 4097, dtype=torch.float64)
    torch.testing.assert_close(hdrops.crf_imf(grid**gamma, ratio, 400)[40:], expected[40:], rtol=0, atol=0.05)
    inverse = hdrops.crf_imf(grid ** (1 / gamma), ratio, 400, inverse=True)
    torch.testing.assert_close(inverse, expected, rtol=0, atol=0.05)


def test_crf_imf_of_a_response_that_does_not_rise_everywhere() -> None:
    # A camera that clips at half of the exposures given, with an estimate that dips.
    grid = torch.linspace(0, 1, 513, dtype=torch.float64)
    clipped = (2 * grid).clamp(max=1)
    noisy = clipped.clone()
    noisy[100] = noisy[99] - 1e-3
    table = hdrops.crf_imf(noisy, 2.0)
    expected = (2 * torch.arange(256.0)).clamp(max=255)
    torch.testing.assert_close(table, expected, rtol=0, atol=1.0)
    assert (table.diff() >= 0).all()


def test_crf_imf_takes_the_layout_of_opencv() -> None:
    # cv2.createCalibrateDebevec().process() returns exposures by code, (256, 1, 3).
    exposures = torch.linspace(0, 1, 256, dtype=torch.float64)[:, None, None] ** torch.tensor([2.2, 2.0, 1.8])
    tables = hdrops.crf_imf(exposures.numpy(), 3.0, inverse=True)
    assert tables.shape == (3, 256)
    torch.testing.assert_close(tables, hdrops.crf_imf(exposures[:, 0].T, 3.0, inverse=True))
    torch.testing.assert_close(tables[0, 100], torch.tensor(100 * 3 ** (1 / 2.2)), rtol=1e-3, atol=0.1)


def test_crf_imf_channels_scale_and_errors() -> None:
    grid = torch.linspace(0, 1, 257, dtype=torch.float64)
    crf = torch.stack([grid**0.4, grid, torch.log1p(3 * grid)])
    tables = hdrops.crf_imf(crf, 2.0, 128)
    assert tables.shape == (3, 128)
    assert tables.dtype == torch.float32
    for row, table in zip(crf, tables, strict=True):
        torch.testing.assert_close(hdrops.crf_imf(row, 2.0, 128), table)
    torch.testing.assert_close(hdrops.crf_imf(7 * crf + 3, 2.0, 128), tables)
    assert (hdrops.crf_imf(crf, 2.0) <= 255).all()
    torch.testing.assert_close(hdrops.crf_imf(crf, 1.0), torch.arange(256.0).expand(3, -1), rtol=0, atol=1e-3)
    torch.testing.assert_close(hdrops.crf_imf(crf.numpy(), 2.0, 128), tables)
    for wrong in (torch.ones(5), grid.flip(0)):
        with pytest.raises(ValueError, match="crf must rise"):
            hdrops.crf_imf(wrong, 2.0)
    with pytest.raises(ValueError, match="crf must be finite"):
        hdrops.crf_imf(grid * math.nan, 2.0)
    with pytest.raises(ValueError, match="must not be negative"):
        hdrops.crf_imf(grid - 0.5, 2.0, inverse=True)
    for shape in ((), (1,), (2, 2, 5)):
        with pytest.raises(ValueError, match=r"crf must be \(M,\) or \(C, M\)"):
            hdrops.crf_imf(torch.zeros(shape), 2.0)
    with pytest.raises(ValueError, match="ratio must be a positive exposure ratio"):
        hdrops.crf_imf(grid, -2.0)
    with pytest.raises(ValueError, match="levels must be 2 to 65536"):
        hdrops.crf_imf(grid, 2.0, 1)
    with pytest.raises(TypeError, match="crf must be a tensor"):
        hdrops.crf_imf([0.0, 1.0], 2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_intermediate_imf(dtype: torch.dtype) -> None:
    table = torch.rand(2, 3, 100, generator=generator(), dtype=torch.float64).to(dtype) * 400
    z = torch.linspace(0, 255, 100, dtype=torch.float64)
    exact = (z * table.double()).sqrt().clamp(max=255)
    result = hdrops.intermediate_imf(table)
    assert_close(result, exact, 8, 0)
    assert float(result.max()) == 255
    # Twice half the way is the whole way, for a map that commutes with the root.
    half = hdrops.intermediate_imf(hdrops.gamma_imf(0.25, 1.0))
    torch.testing.assert_close(half, hdrops.gamma_imf(0.5, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_intermediate_imf_at_any_fraction(dtype: torch.dtype) -> None:
    """Of the paper's response the rule is exact: the map of the ratio's power; and a fraction of 1/2 is the root."""
    for ratio in (16.0, 1 / 16):
        for fraction in (0.1, 1 / 3, 0.5, 0.9):
            direct = hdrops.gamma_imf(ratio**fraction).to(dtype).clamp(max=255)
            table = hdrops.intermediate_imf(hdrops.gamma_imf(ratio).to(dtype), fraction)
            torch.testing.assert_close(table, direct, rtol=2e-6, atol=1e-4)
    table = hdrops.gamma_imf(4.0).to(dtype)
    assert torch.equal(hdrops.intermediate_imf(table), hdrops.intermediate_imf(table, 0.5))
    for fraction in (0.0, 1.0, -0.5, math.nan):
        with pytest.raises(ValueError, match="fraction must lie between 0 and 1"):
            hdrops.intermediate_imf(table, fraction)


def test_intermediate_imf_gradient() -> None:
    table = torch.linspace(0, 200, 9, dtype=torch.float64).requires_grad_()
    hdrops.intermediate_imf(table).sum().backward()
    assert table.grad is not None
    assert table.grad.isfinite().all()
    black = torch.zeros(2, 9, dtype=torch.float32, requires_grad=True)
    hdrops.intermediate_imf(black).sum().backward()
    assert black.grad is not None
    assert black.grad.isfinite().all()
    inside = torch.linspace(20, 200, 9, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(hdrops.intermediate_imf, [inside])
    assert torch.autograd.gradgradcheck(hdrops.intermediate_imf, [inside])
    assert torch.autograd.gradcheck(lambda table: hdrops.intermediate_imf(table, 0.3), [inside])
    with pytest.raises(TypeError, match=r"imf must be floating point, got torch\.uint8"):
        hdrops.intermediate_imf(torch.zeros(5, dtype=torch.uint8))


# ---- imf_fuse ----------------------------------------------------------------------------------------


def maps(ratio: float) -> tuple[Tensor, Tensor]:
    return (
        hdrops.intermediate_imf(hdrops.gamma_imf(ratio)),
        hdrops.intermediate_imf(hdrops.gamma_imf(1 / ratio)),
    )


def noise(levels: int, seed: int) -> Tensor:
    return 255 * torch.rand(levels, generator=generator(seed))


PAPER = ((5.0, 55.0), (200.0, 250.0))
SETTINGS = {
    "gamma": (*maps(16.0), *PAPER),
    "late-ramp": (*maps(4.0), (5.0, 100.0), (200.0, 250.0)),
    "early-fall": (*maps(4.0), (5.0, 55.0), (100.0, 250.0)),
    "widest-packed": (*maps(4.0), (-20.0, 64.0), (191.0, 300.0)),
    "steps": (*maps(8.0), (20.0, 21.0), (220.0, 221.0)),
    "half-codes": (*maps(8.0), (63.25, 63.75), (191.5, 191.75)),
    "always-trusted": (*maps(8.0), (-9.0, -5.0), (400.0, 500.0)),
    "never-trusted": (*maps(8.0), (260.0, 300.0), (-9.0, -5.0)),
    "dark-only": (*maps(8.0), (0.0, 1.0), (-9.0, -5.0)),
    "above-range": (
        rising_table((), 256, generator(1), 300.0),
        rising_table((), 256, generator(2), 280.0),
        *PAPER,
    ),
    "below-range": (rising_table((), 256, generator(1), 300.0) - 30, noise(256, 3), *PAPER),
    "random": (noise(256, 4), noise(256, 5), *PAPER),
    "random-lengths": (noise(2, 6), noise(777, 7), (3.0, 50.0), (210.5, 252.0)),
    "extremes": (
        torch.tensor([0.0, 255.0]).repeat(128),
        torch.tensor([255.0, 0.0]).repeat(128),
        *PAPER,
    ),
}


def all_pairs(copies: int) -> tuple[Tensor, Tensor]:
    code = torch.arange(256, dtype=torch.uint8)
    dark, bright = torch.meshgrid(code, code, indexing="ij")
    return dark.repeat(copies, 1)[None, None], bright.repeat(copies, 1)[None, None]


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", SETTINGS)
def test_all_pairs_of_bytes(name: str, dtype: torch.dtype, copies: int, backend: str, device: str) -> None:
    """All 65,536 pairs, once (pixel by pixel) and thrice (more than 2^17 pixels: one joint table)."""
    if copies > 1 and backend != "cpp":
        pytest.skip("the number of pixels chooses an algorithm in the C++ kernel only")
    imf_dark, imf_bright, low, high = SETTINGS[name]
    dark, bright = all_pairs(copies)
    inputs = {"dark": dark, "bright": bright, "imf_dark": imf_dark, "imf_bright": imf_bright}
    case = imf_fuse_case(name, low, high)
    exact = case.definition(inputs | {t: inputs[t].view(1, 1, -1) for t in ("imf_dark", "imf_bright")})
    on_device = {key: x.to(device) for key, x in inputs.items()}
    actual = case.call(on_device, backend=backend, dtype=dtype)
    if dtype == torch.uint8:
        assert_codes(actual, exact * 255, 1 / 64)
    else:
        # Codes are positions in tables of 256; in others the position is rounded, and noise is steep.
        longest = max(len(imf_dark), len(imf_bright))
        assert_close(actual, exact, 16 if longest == 256 else 2 * longest, 1.0)


@pytest.mark.parametrize("name", ["gamma", "late-ramp"])
def test_every_length(name: str, backend: str, device: str) -> None:
    """Lengths 1 to 130 at every alignment of a result that must not leave its place."""
    imf_dark, imf_bright, low, high = SETTINGS[name]
    dark, bright = (x.flatten().roll(-40000).to(device) for x in all_pairs(1))
    case = imf_fuse_case(name, low, high)
    whole = case.call(
        {
            "dark": dark.view(1, 1, 1, -1),
            "bright": bright.view(1, 1, 1, -1),
            "imf_dark": imf_dark,
            "imf_bright": imf_bright,
        },
        backend="reference",
    ).flatten()
    for length in range(1, 131, 13 if INTERPRETING else 1):
        begin = 97 * length
        part = slice(begin, begin + length)
        storage = torch.full((length + 131,), 171, dtype=torch.uint8, device=device)
        lead = length % 65
        out = storage[lead : lead + length].view(1, 1, 1, -1)
        inputs = {"dark": dark[part].view(1, 1, 1, -1), "bright": bright[part].view(1, 1, 1, -1)}
        case.call(inputs | {"imf_dark": imf_dark, "imf_bright": imf_bright}, backend=backend, out=out)
        assert (out.flatten().int() - whole[part].int()).abs().max() <= 1
        assert (storage[:lead] == 171).all(), "wrote before the result"
        assert (storage[lead + length :] == 171).all(), "wrote behind the result"


def test_average_where_neither_is_reliable(backend: str, device: str) -> None:
    imf_dark, imf_bright = maps(4.0)
    for dtype in (torch.uint8, torch.uint16, torch.float32):
        unit = 1 / 255 if dtype == torch.float32 else FULL_SCALE[dtype] / 255
        dark = torch.tensor([0, 2, 4], dtype=torch.float64) * unit
        bright = torch.tensor([255, 252, 251], dtype=torch.float64) * unit
        images = [x.to(torch.float32 if dtype == torch.float32 else torch.int32) for x in (dark, bright)]
        images = [x.to(dtype).view(1, 1, 1, 3).to(device) for x in images]
        keep = {} if dtype == torch.float32 else {"dtype": torch.float32}
        result = hdrops.imf_fuse(*images, imf_dark, imf_bright, backend=backend, **keep)
        expected = (imf_dark[[0, 2, 4]] + imf_bright[[255, 252, 251]]) / 2 / 255
        torch.testing.assert_close(result.cpu().flatten(), expected, rtol=1e-5, atol=1e-6)


def test_weights_follow_the_equation(backend: str, device: str) -> None:
    """Eq. 8-12 written out: a dark code in the ramp, a bright one below its own."""
    imf_dark, imf_bright = torch.full((256,), 200.0), torch.full((256,), 100.0)
    dark = torch.tensor([5, 15, 30, 45, 55], dtype=torch.uint8, device=device).view(1, 1, 1, 5)
    bright = torch.full_like(dark, 100)
    h = (55 - torch.tensor([5.0, 15, 30, 45, 55])) / 50
    weight = 1 - 3 * h**2 + 2 * h**3
    result = hdrops.imf_fuse(dark, bright, imf_dark, imf_bright, dtype=torch.float32, backend=backend)
    expected = (weight * 200 + 100) / (weight + 1) / 255
    torch.testing.assert_close(result.cpu().flatten(), expected, rtol=1e-5, atol=1e-6)
    dark, bright = torch.full_like(dark, 100), torch.tensor([200, 210, 225, 240, 250], dtype=torch.uint8)
    h = (torch.tensor([200.0, 210, 225, 240, 250]) - 200) / 50
    weight = 1 - 3 * h**2 + 2 * h**3
    result = hdrops.imf_fuse(
        dark, bright.view(dark.shape).to(device), imf_dark, imf_bright, dtype=torch.float32, backend=backend
    )
    expected = (200 + weight * 100) / (1 + weight) / 255
    torch.testing.assert_close(result.cpu().flatten(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_shapes_of_tables(dtype: torch.dtype, backend: str, device: str) -> None:
    """Tables may be shared by all channels, by the batch, or by nothing."""
    case = imf_fuse_case("tables", *PAPER, batched=True)
    inputs = case.inputs((3, 2, 9, 11), dtype, device=device)
    one = inputs["imf_dark"][0, 0], inputs["imf_bright"][0, 0]

    def fuse(dark: Tensor, bright: Tensor, *tables: Tensor) -> Tensor:
        return hdrops.imf_fuse(dark, bright, *tables, backend=backend)

    images = inputs["dark"], inputs["bright"]
    shared = fuse(*images, *one)
    for shape in ((2, 256), (1, 256), (3, 2, 256), (1, 2, 256), (3, 1, 256), (1, 1, 256)):
        assert torch.equal(fuse(*images, *(t.expand(shape) for t in one)), shared)
        assert torch.equal(fuse(*images, one[0], one[1].expand(shape)), shared)
    whole = fuse(*images, inputs["imf_dark"], inputs["imf_bright"])
    for n in range(3):
        for c in range(2):
            single = [x[n : n + 1, c : c + 1] for x in images]
            expected = fuse(*single, inputs["imf_dark"][n, c], inputs["imf_bright"][n, c])
            assert torch.equal(whole[n : n + 1, c : c + 1], expected)
    spread = torch.zeros(3, 2, 512, device=device)[..., ::2]
    spread.copy_(inputs["imf_dark"])
    assert torch.equal(fuse(*images, spread, inputs["imf_bright"].double()), whole)


@pytest.mark.parametrize("levels", [2, 256, 4096, 65536])
def test_uint16(levels: int, backend: str, device: str) -> None:
    every = torch.arange(0, 65536, 16 if INTERPRETING else 1)
    order = torch.randperm(65536, generator=generator())[: len(every)]
    # The corner in which both weights nearly vanish is ill-conditioned.
    weak = (every < 8 * 257) & (order > 247 * 257)
    inputs = {
        "dark": every.to(torch.int32).to(torch.uint16).view(1, 1, 64, -1).to(device),
        "bright": torch.where(weak, 0, order).to(torch.int32).to(torch.uint16).view(1, 1, 64, -1).to(device),
        "imf_dark": rising_table((1, 1), levels, generator(1), 255.0).to(device),
        "imf_bright": rising_table((1, 1), levels, generator(2), 255.0).to(device),
    }
    case = imf_fuse_case("uint16", *PAPER)
    exact = case.definition(inputs)
    assert_codes(case.call(inputs, backend=backend), exact * 65535, 16 * EPS * 65535)
    assert_close(case.call(inputs, backend=backend, dtype=torch.float32), exact, 16, 1.0)


def test_bytes_are_words_and_floats(backend: str, device: str) -> None:
    """One image in all element types gives one result."""
    case = imf_fuse_case("units", *PAPER)
    inputs = case.inputs((1, 3, 20, 31), torch.uint8, device=device)
    expected = case.call(inputs, backend=backend, dtype=torch.float32)
    words = {name: (inputs[name].int() * 257).to(torch.uint16) for name in case.images}
    result = case.call(inputs | words, backend=backend, dtype=torch.float32)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    floats = {name: inputs[name].double() / 255 for name in case.images}
    result = case.call(inputs | floats, backend=backend)
    torch.testing.assert_close(result.float(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity(dtype: torch.dtype, backend: str, device: str) -> None:
    """NaN in either image gives NaN in that pixel; infinities are clamped to the ends of the table."""
    case = imf_fuse_case("special", *PAPER)
    inputs = case.inputs((1, 1, 6, 7), dtype, device=device)
    clean = case.call(inputs, backend=backend)
    spoilt = {name: x.clone() for name, x in inputs.items()}
    spoilt["dark"].view(-1)[[0, 9]] = math.nan
    spoilt["bright"].view(-1)[[0, 20]] = math.nan
    result = case.call(spoilt, backend=backend)
    where = torch.zeros(42, dtype=torch.bool, device=device)
    where[[0, 9, 20]] = True
    assert torch.equal(result.isnan().flatten(), where)
    assert torch.equal(result.flatten()[~where], clean.flatten()[~where])
    for image, value, like in (
        ("dark", math.inf, 1.0),
        ("dark", -math.inf, 0.0),
        ("bright", math.inf, 1.0),
        ("bright", -math.inf, 0.0),
        ("dark", 1.75, 1.0),
        ("bright", -0.5, 0.0),
    ):
        beyond = inputs | {image: torch.full_like(inputs[image], value)}
        at_end = inputs | {image: torch.full_like(inputs[image], like)}
        actual, expected = case.call(beyond, backend=backend), case.call(at_end, backend=backend)
        assert torch.equal(actual, expected), f"{image} = {value} is not treated as {like}"


@pytest.mark.parametrize("dtype", CODES)
def test_codes_from_tables_without_a_value(dtype: torch.dtype, backend: str, device: str) -> None:
    """A code has no NaN: 0 stands for it; infinite table values saturate."""
    image = torch.full((1, 1, 9, 9), 100, dtype=torch.int32).to(dtype).to(device)
    for value, code in ((math.nan, 0), (1e30, FULL_SCALE[dtype]), (-1e30, 0)):
        table = torch.full((256,), value)
        assert (hdrops.imf_fuse(image, image, table, table, backend=backend).cpu().int() == code).all()


def test_imf_fuse_errors(backend: str, device: str) -> None:
    def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    def table(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device)

    def fuse(dark: Any = None, bright: Any = None, **options: Any) -> Tensor:
        dark = image(2, 3, 4, 5) if dark is None else dark
        bright = image(2, 3, 4, 5) if bright is None else bright
        tables = options.pop("imf_dark", table(256)), options.pop("imf_bright", table(256))
        return hdrops.imf_fuse(dark, bright, *tables, backend=backend, **options)

    fuse()
    with pytest.raises(TypeError, match=r"dark is torch\.float32, bright torch\.float64"):
        fuse(bright=image(2, 3, 4, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"dark must be \(N, C, H, W\), got shape \(3, 4, 5\)"):
        fuse(image(3, 4, 5), image(3, 4, 5))
    with pytest.raises(ValueError, match=r"dark .* and bright .* must have one shape"):
        fuse(bright=image(2, 3, 4, 6))
    with pytest.raises(ValueError, match=r"dark is on .*, bright on meta"):
        fuse(bright=torch.zeros(2, 3, 4, 5, device="meta"))
    for name in ("low", "high"):
        for ends in (
            (5, 5),
            (9, 5),
            (5,),
            (1, 2, 3),
            (math.nan, 5),
            (5, math.nan),
            (-math.inf, 5),
            (5, math.inf),
        ):
            with pytest.raises(ValueError, match=f"{name} must be two finite, increasing code values"):
                fuse(**{name: ends})
    for name in ("imf_dark", "imf_bright"):
        with pytest.raises(TypeError, match=rf"{name} must be floating point, got torch\.int64"):
            fuse(**{name: torch.zeros(256, dtype=torch.int64)})
        with pytest.raises(TypeError, match=f"{name} must be a tensor"):
            fuse(**{name: [0.0] * 256})
        for shape in ((), (1, 1, 1, 256)):
            with pytest.raises(ValueError, match=rf"{name} must be \(L,\), \(C, L\) or \(N, C, L\)"):
                fuse(**{name: table(*shape)})
        for shape in ((2, 256), (3, 3, 256), (2, 2, 256)):
            with pytest.raises(ValueError, match=f"{name} of shape .* does not fit images"):
                fuse(**{name: table(*shape)})
        for levels in (0, 1, 65537):
            with pytest.raises(ValueError, match=f"{name} must have 2 to 65536 levels, got {levels}"):
                fuse(**{name: table(levels)})


def test_operator_checks_what_python_checks(backend: str) -> None:
    """Callers of the C++ operator itself get errors that name operator and argument, not a crash."""
    if backend != "cpp":
        pytest.skip("the checks of the C++ operator")
    operator = torch.ops.hdrops.imf_fuse
    image, table, low, high = torch.zeros(2, 3, 4, 5), torch.zeros(1, 1, 256), [5.0, 55.0], [200.0, 250.0]
    operator(image, image, table, table, low, high)
    for arguments, message in (
        ((image[0], image[0], table, table, low, high), "imf_fuse: dark must be"),
        ((image.int(), image.int(), table, table, low, high), "imf_fuse: dark must be uint8"),
        ((image, image.double(), table, table, low, high), "imf_fuse: bright must be float32"),
        ((image, image[:1], table, table, low, high), "imf_fuse: dark and bright must have one shape"),
        ((image, image, table[0], table, low, high), "imf_fuse: imf_dark must be"),
        ((image, image, table, table.double(), low, high), "imf_fuse: imf_bright must be float32"),
        ((image, image, table.expand(1, 2, 256), table, low, high), "imf_fuse: imf_dark of shape"),
        ((image, image, table[..., :1], table, low, high), "imf_fuse: imf_dark must have 2 to 65536 levels"),
        ((image, image, table, table, [55.0, 5.0], high), "imf_fuse: low must be two finite, increasing"),
        ((image, image, table, table, low, [200.0]), "imf_fuse: high must be two finite, increasing"),
        ((image, image, table, table, low, high, torch.float64), "imf_fuse: an output of float64"),
    ):
        with pytest.raises(RuntimeError, match=message):
            operator(*arguments)
    out = torch.empty(2, 3, 4, 6)
    with pytest.raises(RuntimeError, match="imf_fuse: out has shape"):
        torch.ops.hdrops.imf_fuse_out(image, image, table, table, low, high, out)
    with pytest.raises(RuntimeError, match="imf_fuse: out must be contiguous"):
        torch.ops.hdrops.imf_fuse_out(image, image, table, table, low, high, out[..., :5])
    with pytest.raises(RuntimeError, match="grad must have the shape of the images"):
        torch.ops.hdrops.imf_fuse_backward(out, image, image, table, table, low, high)
    codes = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    for arguments, message in (
        ((codes.float(), codes, 256, 250.0), "estimate_imf: source must be uint8 or uint16"),
        ((codes, codes.float(), 256, 250.0), "estimate_imf: target must be uint8"),
        ((codes, codes, 1, 250.0), "estimate_imf: levels must be 2 to 65536"),
        ((codes, codes[..., :0], 256, 250.0), "estimate_imf: source and target must have at least one pixel"),
        ((codes, codes.expand(2, 1, 2, 2), 256, 250.0), "estimate_imf: source and target must agree"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.hdrops.estimate_imf(*arguments)


@pytest.mark.parametrize(("source", "target", "least"), [((20, 200), (5, 255), 250.0), ((1, 200), (0, 255), 250.0)])
def test_saturated_levels_stay_bright(
    source: tuple[int, int], target: tuple[int, int], least: float, backend: str, device: str
) -> None:
    """Few levels below saturation tell little: the continuation must not darken what was matched to white."""
    images = [
        torch.tensor(codes, dtype=torch.uint8).repeat_interleave(8).reshape(1, 4, 4) for codes in (source, target)
    ]
    table = hdrops.estimate_imf(images[0].to(device), images[1].to(device), backend=backend)[0].cpu()
    assert table[source[1]] >= least
    assert bool((table.diff() >= 0).all())


def test_out_must_not_share_memory_with_an_input() -> None:
    buffer = torch.randint(0, 256, (4096 + 64,), dtype=torch.int32).to(torch.uint8)
    dark, out = buffer[:4096].view(1, 1, 64, 64), buffer[64:].view(1, 1, 64, 64)
    table = torch.linspace(0, 255, 256)
    with pytest.raises(ValueError, match="out shares memory with an input"):
        hdrops.imf_fuse(dark, dark.clone(), table, table, out=out)
