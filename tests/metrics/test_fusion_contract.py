"""What holds for every metric of fusion quality."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hdrops import metrics


@dataclasses.dataclass(frozen=True)
class Case:
    """A metric; the least size of its images; the value of equal flat images; how K equal sources combine."""

    function: Callable[..., Tensor]
    least: int
    flat: float
    combined: str = "alone"
    options: tuple[tuple[str, str], ...] = ()

    def __call__(self, fused: Tensor, bracket: Tensor | None = None, **options: str) -> Tensor:
        sources = () if self.combined == "alone" else (bracket,)
        return self.function(fused, *sources, **dict(self.options), **options)

    @property
    def __name__(self) -> str:
        return "-".join([self.function.__name__, *(value for _, value in self.options)])


def convention(name: str) -> tuple[tuple[str, str], ...]:
    return (("convention", name),)


ALONE = [
    Case(metrics.average_gradient, 2, 0),
    Case(metrics.entropy, 1, 0),
    Case(metrics.spatial_frequency, 1, 0),
    Case(metrics.spatial_frequency, 1, 0, options=convention("lt")),
    Case(metrics.standard_deviation, 1, 0),
    Case(metrics.edge_intensity, 1, 0),
]
AGAINST = [
    Case(metrics.correlation_coefficient, 1, 0, "mean"),
    Case(metrics.cross_entropy, 1, 0, "mean"),
    Case(metrics.fusion_mse, 1, 0, "mean"),
    Case(metrics.fusion_psnr, 1, math.inf, "mean"),
    Case(metrics.fusion_psnr, 1, math.inf, "mean", convention("lt")),
    Case(metrics.fusion_psnr, 1, math.inf, "mean", convention("standard")),
    Case(metrics.mutual_information, 1, 0, "sum"),
    Case(metrics.mutual_information, 1, 0, "sum", convention("paper")),
    Case(metrics.nabf, 2, 0, "mean"),
    Case(metrics.normalized_mutual_information, 1, 0, "sum"),
    Case(metrics.qabf, 1, 0.987, "mean"),
    Case(metrics.qabf, 1, 0.987, "mean", convention("lt")),
    Case(metrics.qc, 7, 1, "two"),
    Case(metrics.qc, 7, 1, "mean", convention("paper")),
    Case(metrics.qncie, 1, 1 - math.log(3, 256), "own"),
    Case(metrics.qw, 11, 1, "mean"),
    Case(metrics.qy, 7, 1, "mean"),
    Case(metrics.scd, 1, 0, "own"),
    Case(metrics.tsallis_entropy, 1, 0, "sum"),
    Case(metrics.tsallis_entropy, 1, 0, "sum", convention("paper")),
    Case(metrics.vif, 41, 2, "sum"),
    Case(metrics.viff, 41, 1, "mean"),
]
every = pytest.mark.parametrize("metric", ALONE + AGAINST, ids=lambda case: case.__name__)
against = pytest.mark.parametrize("metric", AGAINST, ids=lambda case: case.__name__)


def codes(*shape: int, seed: int = 0) -> Tensor:
    """Smooth uint8 pictures with noise; each member, frame and channel has all of 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    height, width = shape[-2:]
    coarse = torch.rand(1, math.prod(shape[:-2]), 5, 6, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    images = images + 0.1 * torch.rand(images.shape, generator=generator)
    low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
    return (255 * (images - low) / (high - low)).round().to(torch.uint8).reshape(shape)


def pictures(n: int = 2, k: int = 2, channels: int = 3, height: int = 44, width: int = 49) -> tuple[Tensor, Tensor]:
    """A fused image, and sources of which it has something."""
    bracket = codes(n, k, channels, height, width)
    mean = bracket.double().mean(1) + codes(n, channels, height, width, seed=1).double() / 4
    fused = 255 * mean / mean.amax((-2, -1), keepdim=True)
    low = fused.amin((-2, -1), keepdim=True)
    return (255 * (fused - low) / (255 - low)).round().to(torch.uint8), bracket


def test_every_metric_is_here() -> None:
    files = {case.function.__module__ for case in ALONE + AGAINST}
    public = {name for name in metrics.__all__ if getattr(metrics, name).__module__ in files}
    assert {case.function.__name__ for case in ALONE + AGAINST} == public


@every
def test_batch_equals_single(metric: Case) -> None:
    fused, bracket = pictures(3)
    values = metric(fused, bracket)
    assert values.shape == (3,)
    assert values.dtype == torch.float64
    assert values.isfinite().all()
    assert len(values.unique()) == 3
    single = torch.cat([metric(fused[i : i + 1], bracket[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(values, single, rtol=1e-12, atol=1e-12)
    assert metric(fused[:0], bracket[:0]).shape == (0,)


@every
def test_dtypes_agree(metric: Case) -> None:
    fused, bracket = pictures()
    values = metric(fused, bracket)

    def deep(image: Tensor) -> Tensor:
        return (image.int() * 257).to(torch.uint16)

    torch.testing.assert_close(metric(deep(fused), deep(bracket)), values, rtol=1e-12, atol=1e-12)
    # Whether edges are equally strong, which Qabf and Nabf ask, rounding to float32 decides where they are.
    rtol = 1e-2 if metric.function in (metrics.qabf, metrics.nabf) else 1e-4
    torch.testing.assert_close(metric(fused / 255, bracket / 255), values, rtol=rtol, atol=1e-6)
    torch.testing.assert_close(metric(fused.double() / 255, bracket.double() / 255), values, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(metric(fused, deep(bracket)), values, rtol=1e-12, atol=1e-12)


@every
def test_colour(metric: Case) -> None:
    fused, bracket = pictures()
    channels = torch.stack([metric(fused[:, c : c + 1], bracket[:, :, c : c + 1]) for c in range(3)])
    torch.testing.assert_close(metric(fused, bracket), channels.mean(0), rtol=1e-12, atol=1e-12)
    weights = torch.tensor([0.298936021293775, 0.587043074451121, 0.114020904255103], dtype=torch.float64)

    def grey(image: Tensor) -> Tensor:
        return (weights[:, None, None] * image).sum(-3, keepdim=True).round().to(torch.uint8)

    expected = metric(grey(fused), grey(bracket))
    torch.testing.assert_close(metric(fused, bracket, color="grey"), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(expected, channels.mean(0), rtol=1e-4)


@against
def test_number_of_sources(metric: Case) -> None:
    """The same source again changes nothing where sources are averaged, and adds its value where they are summed."""
    fused, bracket = pictures(k=1)
    again = bracket.expand(-1, 3, -1, -1, -1)
    if metric.combined == "two":
        with pytest.raises(ValueError, match="2 sources"):
            metric(fused, again)
    elif metric.combined == "own":
        assert metric(fused, again).isfinite().all()
    else:
        factor = 3 if metric.combined == "sum" else 1
        torch.testing.assert_close(metric(fused, again), factor * metric(fused, bracket), rtol=1e-9, atol=1e-12)


@against
def test_order_of_sources(metric: Case) -> None:
    fused, bracket = pictures(k=3 if metric.combined != "two" else 2)
    values, flipped = metric(fused, bracket), metric(fused, bracket.flip(1))
    if metric.combined == "two":
        assert not torch.allclose(values, flipped, rtol=1e-6)
    else:
        # VIFF takes the last of the sources without gain.
        rtol = 1e-2 if metric.function is metrics.viff else 1e-9
        torch.testing.assert_close(values, flipped, rtol=rtol, atol=1e-12)
    # A source at a time, the fused image counts as well.
    assert not torch.allclose(metric(bracket[:, 0], bracket), values, rtol=1e-3)


@every
@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
def test_equal_flat_images(metric: Case, level: int) -> None:
    fused = torch.full((1, 1, 44, 44), level, dtype=torch.uint8)
    expected = metric.flat
    if metric.function is metrics.qabf and level == 0:
        expected = 0
    if metric.function is metrics.qabf and level > 0:
        # The border counts as black.
        expected = 0.9994 * 0.9879 / (1 + math.exp(-4.4))
    assert float(metric(fused, fused[:, None].expand(-1, 2, -1, -1, -1))) == pytest.approx(expected, abs=1e-12)


@every
@pytest.mark.parametrize("level", [0, 100])
def test_one_flat_image(metric: Case, level: int) -> None:
    """A flat fused image, a flat source, and flat sources of other levels: no NaN."""
    flat = torch.full((1, 1, 44, 44), level, dtype=torch.uint8)
    picture = codes(1, 1, 44, 44)
    for fused, sources in (
        (flat, [picture, picture]),
        (picture, [flat, picture]),
        (picture, [flat, flat]),
        (flat, [flat + 5, flat + 9]),
    ):
        assert metric(fused, torch.stack(sources, 1)).isfinite().all()


@every
def test_smallest_images(metric: Case) -> None:
    fused, bracket = pictures(height=metric.least, width=metric.least) if metric.least > 1 else pictures()
    if metric.least > 1:
        too_small = [(..., slice(None), slice(1, None)), (..., slice(1, None), slice(None))]
        for crop in too_small:
            with pytest.raises(ValueError, match=f"at least {metric.least} x {metric.least} pixels"):
                metric(fused[crop], bracket[crop])
    else:
        fused, bracket = fused[..., :1, :1], bracket[..., :1, :1]
    assert not metric(fused, bracket).isnan().any()


@every
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(metric: Case, value: float) -> None:
    """The member that has such a pixel is NaN, in its fused image or in a source; the others are as without it."""
    fused, bracket = (image / 255 for image in pictures(3))
    values = metric(fused, bracket)
    fused[1, 2, 5, 6] = value
    if metric in AGAINST:
        bracket[2, 1, 0, 7, 8] = value
    for color in ("mean", "grey"):
        spoilt = metric(fused, bracket, color=color)
        assert spoilt.isnan().tolist() == [False, True, metric in AGAINST]
    torch.testing.assert_close(metric(fused, bracket)[:1], values[:1], rtol=1e-12, atol=1e-12)


@every
def test_layouts_and_inputs(metric: Case) -> None:
    fused, bracket = pictures()
    before = fused.clone(), bracket.clone()
    values = metric(fused, bracket)
    last = fused.contiguous(memory_format=torch.channels_last)
    strided = bracket.repeat_interleave(2, -1)[..., ::2]
    torch.testing.assert_close(metric(last, strided), values, rtol=1e-12, atol=1e-12)
    assert torch.equal(fused, before[0])
    assert torch.equal(bracket, before[1])
    torch.testing.assert_close(metric(fused.numpy(), bracket.numpy()), values, rtol=0, atol=0)
    assert not metric((fused / 255).requires_grad_(), bracket / 255).requires_grad


@every
def test_bad_arguments(metric: Case) -> None:
    fused, bracket = pictures()
    with pytest.raises(ValueError, match="color must be 'grey' or 'mean', got 'blue'"):
        metric(fused, bracket, color="blue")
    with pytest.raises(TypeError, match="must be uint8, uint16 or floating point"):
        metric(fused.int(), bracket)
    with pytest.raises(TypeError, match="must be a tensor or an array"):
        metric([[1, 2], [3, 4]], bracket)
    with pytest.raises(ValueError, match=r"must be \(N, C, H, W\), got shape \(3, 44, 49\)"):
        metric(fused[0], bracket)
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        metric(fused[:, :2], bracket[:, :, :2])
    with pytest.raises(ValueError, match="has no pixels"):
        metric(fused[..., :0], bracket[..., :0])


@against
def test_pictures_that_do_not_fit(metric: Case) -> None:
    fused, bracket = pictures()
    for other in (bracket[..., 1:], bracket[:1], bracket[:, :, :1]):
        with pytest.raises(ValueError, match="differ in more than the exposures"):
            metric(fused, other)
    with pytest.raises(ValueError, match=r"bracket must be \(N, K, C, H, W\)"):
        metric(fused, fused)
    with pytest.raises(ValueError, match="bracket has no pixels"):
        metric(fused, bracket[:, :0])
    with pytest.raises(ValueError, match="move them to one device"):
        metric(fused, bracket.to("meta"))
