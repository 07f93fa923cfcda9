"""Feature mutual information against golden values, a naive loop and values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import golden
import pytest
import torch
from golden import Row
from torch import Tensor

from hdrops.metrics import fmi
from hdrops.metrics.features import _dct, _dmey, _edge, _gradient, _wavelet

FEATURES = ["edge", "none", "gradient", "dct", "wavelet"]


def random_codes(*shape: int, seed: int = 0, levels: int = 256) -> Tensor:
    """uint8 images with neighbours alike, so that some windows are flat and some equal."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, levels, shape, generator=generator)
    keep = torch.rand(shape, generator=generator) < 0.5
    return torch.where(keep, coarse, coarse.roll(1, -1)).to(torch.uint8)


def worst(variant: str, measure: Callable[[Row], Tensor], scenes: tuple[str, ...] = ("balancedrock", "door")) -> float:
    """The largest relative deviation from the golden values of a variant, on some scenes; both of these saturate."""
    found = [row for row in golden.rows("FMI", variant) if row.scene.endswith(scenes)]
    assert found
    return max(abs(measure(row).item() / row.value - 1) for row in found)


def measured(row: Row, feature: Any = "edge", **options: Any) -> Tensor:
    return fmi(row.fused, row.bracket, feature, color="grey", **options)


# ---- the published values ----------------------------------------------------------------------------


@pytest.mark.parametrize("feature", ["none", "gradient", "dct"])
def test_published_values_on_crops(feature: str) -> None:
    assert worst(f"crop20_{feature}", lambda row: measured(row, feature), ("",)) < 1e-10


def test_published_value_on_a_larger_crop() -> None:
    assert worst("crop48_none", lambda row: measured(row, "none"), ("",)) < 1e-10


@pytest.mark.parametrize(
    ("variant", "feature", "flat_pairs"),
    [
        ("full_none", "none", 1),
        ("full_none_flatpair0", "none", 0),
        ("full_gradient", "gradient", 1),
        ("full_gradient_flatpair0", "gradient", 0),
        ("full_dct", "dct", 1),
    ],
)
def test_published_values_on_two_scenes(variant: str, feature: str, flat_pairs: int) -> None:
    assert worst(variant, lambda row: measured(row, feature, flat_pairs=flat_pairs)) < 1e-10


@pytest.mark.full
def test_published_values_on_all_scenes() -> None:
    assert worst("full_none", lambda row: measured(row, "none"), ("",)) < 1e-10


def octave_edge(image: Tensor) -> Tensor:
    """Edges as GNU Octave's ``edge`` finds them: larger than both neighbours along x, or than both along y."""
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=torch.float64) / 8
    x, y = (torch.nn.functional.conv2d(padded[:, None], k[None, None])[:, 0] for k in (kernel, kernel.T))
    strength = torch.hypot(x, y)
    strength = torch.where(strength > 2 * strength.square().mean((-2, -1), keepdim=True).sqrt(), strength, 0)
    around = torch.nn.functional.pad(strength, (1, 1, 1, 1))
    along_x = (strength > around[:, 1:-1, :-2]) & (strength > around[:, 1:-1, 2:])
    along_y = (strength > around[:, :-2, 1:-1]) & (strength > around[:, 2:, 1:-1])
    return (along_x | along_y).double()


def test_edge_is_near_octave_s() -> None:
    """The golden values have Octave's thinning: with it the values agree, with MATLAB's they are a few percent off."""
    assert worst("crop20_edge", lambda row: measured(row, octave_edge)) < 1e-10
    assert worst("full_edge", lambda row: measured(row, octave_edge)) < 1e-3
    assert worst("full_edge_flatpair0", lambda row: measured(row, octave_edge, flat_pairs=0)) < 1e-3
    assert worst("full_edge", lambda row: measured(row)) < 0.03


def test_wavelet_is_near_pywavelets() -> None:
    """The golden values have 62 tabled taps, and rounding instead of nothing in saturated areas."""
    assert worst("full_wavelet", lambda row: measured(row, lambda x: _wavelet(x, 62))) < 0.012
    assert worst("full_wavelet", lambda row: measured(row, "wavelet")) < 0.021


@pytest.mark.parametrize(
    ("variant", "measure", "least"),
    [
        ("crop20_none", lambda row: fmi(row.fused.mT, row.bracket.mT, "none", color="grey"), 1e-3),
        ("full_none", lambda row: measured(row, "none", flat_pairs=0), 1e-2),
        ("crop48_none", lambda row: measured(row, "none", window=5), 1e-2),
        ("crop48_none", lambda row: fmi(row.fused, row.bracket, "none", color="mean"), 1e-3),
        # Equal windows with one outlying pixel are few in a photograph.
        ("full_gradient", lambda row: measured(row, "gradient", identical="exact"), 1e-5),
    ],
    ids=["places along the rows", "flat pairs", "larger windows", "colour", "identical windows"],
)
def test_other_conventions_miss_the_published_values(
    variant: str, measure: Callable[[Row], Tensor], least: float
) -> None:
    assert worst(variant, measure, ("balancedrock", "door") if variant.startswith("full") else ("",)) > least


# ---- the definition ----------------------------------------------------------------------------------


def naive_window(source: list[float], fused: list[float], flat_pair: float) -> float:
    """The score of one window, entry by entry."""
    if min(source) == max(source) and min(fused) == max(fused):
        return flat_pair

    def distribution(window: list[float]) -> list[float]:
        low, high = min(window), max(window)
        stretched = [1.0 if high == low else (v - low) / (high - low) for v in window]
        return [v / sum(stretched) for v in stretched]

    def cumulative(p: list[float]) -> list[float]:
        return [sum(p[: i + 1]) for i in range(len(p))]

    def deviation(p: list[float]) -> float:
        mean = sum(i * v for i, v in enumerate(p))
        return math.sqrt(max(0.0, sum(v * (i - mean) ** 2 for i, v in enumerate(p))))

    def entropy(p: list[float]) -> float:
        return -sum(v * math.log2(abs(v)) for v in p if abs(v) > 1e-300)

    p, q = distribution(source), distribution(fused)
    size = len(p)
    x, y = [v - 1 / size for v in p], [v - 1 / size for v in q]
    norm = math.sqrt(sum(v * v for v in x) * sum(v * v for v in y))
    c = sum(a * b for a, b in zip(x, y, strict=True)) / norm if norm > 1e-12 else 0.0
    cp, cq = [0.0, *cumulative(p)], [0.0, *cumulative(q)]

    def bound(i: int, j: int) -> float:
        return min(cq[i], cp[j]) if c >= 0 else max(cq[i] + cp[j] - 1, 0.0)

    cells = range(1, size + 1)
    covariance = sum(bound(i, j) - cq[i] * cp[j] for i in cells for j in cells)
    deviations = deviation(p) * deviation(q)
    share = c * deviations / covariance if abs(c) > 1e-12 and deviations > 1e-12 else 0.0
    joint = [
        share * (bound(i, j) - bound(i - 1, j) - bound(i, j - 1) + bound(i - 1, j - 1))
        + (1 - share) * q[i - 1] * p[j - 1]
        for i in cells
        for j in cells
    ]
    total = entropy(p) + entropy(q)
    return 2 * (total - entropy(joint)) / total if total > 0 else 0.0


def naive_fmi(fused: Tensor, sources: list[Tensor], flat_pair: float, published: bool, size: int = 3) -> float:
    """FMI of (H, W) grey values with no feature."""
    height, width = fused.shape
    scores = []
    for top in range(height - size + 1):
        for left in range(width - size + 1):
            square = (slice(top, top + size), slice(left, left + size))
            raw = fused[square].T.flatten().tolist()
            low, high = min(raw), max(raw)
            compared, stretched = raw, [1.0 if high == low else (v - low) / (high - low) for v in raw]
            for source in sources:
                window = source[square].T.flatten().tolist()
                if window == compared:
                    scores.append(1.0)
                    continue
                scores.append(naive_window(window, raw, flat_pair))
                if published:
                    compared = stretched
    return sum(scores) / len(scores)


@pytest.mark.parametrize("identical", ["published", "exact"])
@pytest.mark.parametrize("flat_pairs", [0, 1])
@pytest.mark.parametrize("levels", [2, 4, 256])
def test_equals_a_naive_loop(levels: int, flat_pairs: int, identical: str) -> None:
    fused = random_codes(1, 1, 9, 11, levels=levels)
    bracket = random_codes(1, 3, 1, 9, 11, seed=1, levels=levels)
    bracket[:, 1, :, :, 4:] = fused[..., 4:]
    bracket[:, 0, :, 6:] = 200
    fused[..., 7:, :5] = 9
    expected = naive_fmi(
        fused[0, 0].double(), [b[0].double() for b in bracket[0]], flat_pairs, identical == "published"
    )
    value = fmi(fused, bracket, "none", flat_pairs=flat_pairs, identical=identical)
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_larger_windows_equal_a_naive_loop() -> None:
    fused, bracket = random_codes(1, 1, 7, 8), random_codes(1, 2, 1, 7, 8, seed=1)
    expected = naive_fmi(fused[0, 0].double(), [b[0].double() for b in bracket[0]], 1, True, size=5)
    assert fmi(fused, bracket, "none", window=5).item() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(fmi(fused, bracket, "none", window=4), fmi(fused, bracket, "none", window=5))


def window(*places: int) -> Tensor:
    """One 3 x 3 window, 255 at the given places as counted down the columns, 0 elsewhere."""
    values = torch.zeros(9, dtype=torch.uint8)
    values[list(places)] = 255
    return values.reshape(3, 3).T[None, None]


def test_positive_correlation_by_hand() -> None:
    """Halves at places 1, 2 and 1, 9: c = (1/4 - 1/9) / (1/2 - 1/9) = 5/14, and the upper bound correlates fully."""
    share = 5 / 14
    joint = [share / 2 + (1 - share) / 4] * 2 + [(1 - share) / 4] * 2
    expected = 2 + sum(v * math.log2(v) for v in joint)
    assert fmi(window(0, 1), window(0, 8)[:, None], "none").item() == pytest.approx(expected, rel=1e-12)


def test_negative_correlation_by_hand() -> None:
    """Halves at places 1, 2 and 3, 4: c = (0 - 1/9) / (1/2 - 1/9) = -2/7, and the lower bound correlates to -1."""
    share = 2 / 7
    joint = [share / 2 + (1 - share) / 4] * 2 + [(1 - share) / 4] * 2
    expected = 2 + sum(v * math.log2(v) for v in joint)
    assert fmi(window(0, 1), window(2, 3)[:, None], "none").item() == pytest.approx(expected, rel=1e-12)


def test_a_single_outlying_pixel() -> None:
    """An equal window scores 1 as the first source; after a different one only in exact comparison."""
    fused, other = window(4), window(0, 1)
    alone = fmi(fused, other[:, None], "none").item()
    for sources, identical, expected in [
        ((fused, other), "published", (1 + alone) / 2),
        ((other, fused), "published", alone / 2),
        ((other, fused), "exact", (1 + alone) / 2),
    ]:
        value = fmi(fused, torch.stack(sources, 1), "none", identical=identical)
        assert value.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("feature", FEATURES)
def test_the_image_itself_scores_1(feature: str) -> None:
    fused = random_codes(2, 3, 20, 21)
    assert torch.equal(fmi(fused, fused[:, None], feature), torch.ones(2, dtype=torch.float64))


def test_flat_images() -> None:
    texture, dark = random_codes(1, 1, 12, 13), torch.full((1, 1, 12, 13), 10, dtype=torch.uint8)
    for fused, source in ((dark, texture), (texture, dark)):
        assert fmi(fused, source[:, None], "none").item() == pytest.approx(0, abs=1e-12)
    bright = dark + 100
    for flat_pairs in (0, 1):
        assert fmi(dark, bright[:, None], "none", flat_pairs=flat_pairs).item() == flat_pairs
    for feature in FEATURES:
        assert fmi(dark, dark[:, None], feature).item() == 1
        assert 0 <= fmi(dark, bright[:, None], feature).item() <= 1


def test_pixel_values_may_be_scaled_and_shifted() -> None:
    fused = torch.rand(1, 1, 16, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bracket = torch.rand(1, 2, 1, 16, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for feature in ("none", "gradient"):
        expected = fmi(fused, bracket, feature)
        torch.testing.assert_close(fmi(0.25 * fused + 0.5, bracket / 2, feature), expected, rtol=1e-9, atol=0)


def test_sources_are_averaged() -> None:
    fused, bracket = random_codes(1, 3, 16, 15), random_codes(1, 4, 3, 16, 15, seed=1)
    each = [fmi(fused, bracket[:, k : k + 1], identical="exact") for k in range(4)]
    torch.testing.assert_close(fmi(fused, bracket, identical="exact"), torch.stack(each).mean(0))


@pytest.mark.parametrize("feature", FEATURES)
def test_codes_and_floats_agree(feature: str) -> None:
    fused, bracket = random_codes(1, 1, 24, 25), random_codes(1, 2, 1, 24, 25, seed=1)
    expected = fmi(fused, bracket, feature)
    wide = [(x.int() * 257).to(torch.uint16) for x in (fused, bracket)]
    for images in (wide, [x.double() / 255 for x in (fused, bracket)]):
        torch.testing.assert_close(fmi(*images, feature), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_batch_is_its_members(feature: str) -> None:
    fused, bracket = random_codes(3, 3, 20, 17), random_codes(3, 2, 3, 20, 17, seed=1)
    batch = fmi(fused, bracket, feature)
    assert batch.shape == (3,)
    assert batch.dtype == torch.float64
    singles = [fmi(fused[i : i + 1], bracket[i : i + 1], feature) for i in range(3)]
    assert torch.equal(batch, torch.cat(singles))


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    fused, bracket = random_codes(1, 1, 23, 17), random_codes(1, 2, 1, 23, 17, seed=1)
    expected = fmi(fused, bracket)
    for windows in (1, 40):
        monkeypatch.setattr("hdrops.metrics.features._WINDOWS", windows)
        torch.testing.assert_close(fmi(fused, bracket), expected, rtol=1e-12, atol=0)


def test_color_mean_is_the_mean_over_channels() -> None:
    fused, bracket = random_codes(2, 3, 10, 12), random_codes(2, 2, 3, 10, 12, seed=1)
    channels = [fmi(fused[:, c : c + 1], bracket[:, :, c : c + 1], "none") for c in range(3)]
    torch.testing.assert_close(fmi(fused, bracket, "none"), torch.stack(channels).mean(0))


def test_empty_batch() -> None:
    value = fmi(torch.zeros(0, 3, 8, 8), torch.zeros(0, 2, 3, 8, 8))
    assert value.shape == (0,)


def test_the_smallest_images() -> None:
    value = fmi(random_codes(1, 1, 3, 3), random_codes(1, 2, 1, 3, 3, seed=1), "none")
    assert value.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(value: float) -> None:
    """The members that have such a pixel in their fused image or a source are NaN."""
    fused, bracket = torch.rand(3, 1, 8, 8), torch.rand(3, 2, 1, 8, 8)
    fused[1, 0, 3, 3] = bracket[2, 1, 0, 4, 5] = value
    for feature in FEATURES:
        assert fmi(fused, bracket, feature).isnan().tolist() == [False, True, True]


def test_layouts_and_inputs() -> None:
    fused, bracket = random_codes(2, 3, 12, 14), random_codes(2, 2, 3, 12, 14, seed=1)
    before, expected = (fused.clone(), bracket.clone()), fmi(fused, bracket)
    last, strided = fused.contiguous(memory_format=torch.channels_last), bracket.repeat_interleave(2, -1)[..., ::2]
    assert torch.equal(fmi(last, strided), expected)
    assert torch.equal(fmi(fused.numpy(), bracket.numpy()), expected)
    assert torch.equal(fused, before[0])
    assert torch.equal(bracket, before[1])
    assert not fmi((fused / 255).requires_grad_(), bracket / 255).requires_grad


def test_errors() -> None:
    fused, bracket = random_codes(1, 1, 8, 9), random_codes(1, 2, 1, 8, 9)
    with pytest.raises(ValueError, match="feature must be 'edge'"):
        fmi(fused, bracket, "sobel")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window must be at least 2"):
        fmi(fused, bracket, window=1)
    with pytest.raises(ValueError, match="flat_pairs must be 0 or 1"):
        fmi(fused, bracket, flat_pairs=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="identical must be"):
        fmi(fused, bracket, identical="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 3 x 3"):
        fmi(fused[..., :2], bracket[..., :2])
    with pytest.raises(ValueError, match="at least 9 x 9"):
        fmi(fused, bracket, window=9)
    with pytest.raises(ValueError, match="at least 3 x 3"):
        fmi(fused, bracket, lambda x: x[..., :2])
    with pytest.raises(ValueError, match="differ in more than the exposures"):
        fmi(fused, bracket[..., :8])


# ---- the feature pictures ----------------------------------------------------------------------------


def test_gradient_is_central_within_and_one_sided_at_borders() -> None:
    row = torch.tensor([[[1.0, 4.0, 9.0, 16.0, 25.0]]])
    assert torch.equal(_gradient(row), torch.tensor([[[3.0, 4.0, 6.0, 8.0, 9.0]]]))


@pytest.mark.parametrize("shape", [(5, 8), (1, 1), (2, 3), (16, 9)])
def test_dct_equals_its_definition(shape: tuple[int, int]) -> None:
    image = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def matrix(size: int) -> Tensor:
        k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
        rows = torch.cos(math.pi * (2 * n + 1) * k / (2 * size)) * math.sqrt(2 / size)
        rows[0] = math.sqrt(1 / size)
        return rows

    torch.testing.assert_close(_dct(image), matrix(shape[0]) @ image @ matrix(shape[1]).T, rtol=0, atol=1e-12)


def test_dct_of_a_flat_image_is_one_coefficient() -> None:
    spectrum = _dct(torch.full((1, 35, 27), 77.7, dtype=torch.float64))
    assert spectrum.count_nonzero() == 1
    assert spectrum[0, 0, 0].item() == pytest.approx(77.7 * math.sqrt(35 * 27))


def test_edge_of_a_step_is_one_pixel_wide() -> None:
    image = torch.zeros(1, 12, 15, dtype=torch.float64)
    image[..., 7:] = 100
    edges = _edge(image)
    # Both columns beside the step are as steep; the second one counts.
    assert torch.equal(edges[0].nonzero()[:, 1].unique(), torch.tensor([7]))
    assert edges.sum() == 12
    assert torch.equal(_edge(image.mT), edges.mT)
    assert _edge(torch.full((1, 5, 5), 3.0)).count_nonzero() == 0


def test_edge_is_thinned_across_its_direction_only() -> None:
    """A ridge of strength along a horizontal edge is no vertical edge."""
    image = torch.zeros(1, 12, 15, dtype=torch.float64)
    image[:, 6:] = torch.linspace(60, 100, 15, dtype=torch.float64)
    assert torch.equal(_edge(image)[0].nonzero()[:, 0].unique(), torch.tensor([6]))


@pytest.mark.parametrize("taps", [62, 102])
def test_meyer_filters_are_orthonormal(taps: int) -> None:
    low, high = _dmey(taps, torch.device("cpu"))
    assert low.sum().item() == pytest.approx(math.sqrt(2), abs=1e-4)
    assert high.sum().item() == pytest.approx(0, abs=1e-4)
    for shift in (0, 2, 4):
        for x, y, expected in ((low, low, shift == 0), (high, high, shift == 0), (low, high, False)):
            assert (x[shift:] * y[: taps - shift]).sum().item() == pytest.approx(float(expected), abs=1e-4)
    # Values of the tables in use, but for their common factor.
    assert (low[taps // 2 + 1] / low[taps // 2]).item() == pytest.approx(0.444593 / 0.7445856, abs=1e-5)
    assert (low[taps // 2 + 3] / low[taps // 2]).item() == pytest.approx(-0.1328452 / 0.7445856, abs=2e-5)


def test_wavelet_picture() -> None:
    image = torch.rand(2, 20, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bands = _wavelet(image)
    assert bands.shape == (2, 2 * 60, 2 * 66)
    assert bands.amin((-2, -1)).tolist() == [0, 0]
    assert bands.amax((-2, -1)).tolist() == [1, 1]


def test_wavelet_bands_stand_in_their_places() -> None:
    """Rows that alternate are detail down the columns: the band at the upper right."""
    image = torch.zeros(1, 256, 256, dtype=torch.float64)
    image[:, ::2] = 1
    image[:, :, :128] *= 0.999
    bands = _wavelet(image)[0]
    spread = [half.std().item() for rows in bands.chunk(2, 0) for half in rows.chunk(2, 1)]
    assert max(range(4), key=lambda i: spread[i]) == 1
