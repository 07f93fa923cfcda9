"""Exposure and response matched to a reference before a metric."""

from __future__ import annotations

import math

import pytest
import torch
from photographs import photographs
from torch import Tensor

from hdrops import metrics

MIX = torch.tensor([[0.9, 0.08, 0.02], [0.05, 0.9, 0.05], [0.02, 0.1, 0.88]], dtype=torch.float64)
PEAK = 1000.0

# (space, transfer): the corrected samples (0, 0, 0), (1, 5, 10) and (2, 11, 15) and the mean of all, for the images of
# ``waves``, by the published MATLAB code (gfxdisp/pu21) under GNU Octave 7.3. Its constants of PQ are rounded to
# four decimals; here they are those of the standard, which moves the values of PQ by up to 4e-5 of themselves.
PUBLISHED = {
    ("luv", "pq"): (35.2906017114763, 30.9622277300323, 4.23909068004029, 88.8736815218482),
    ("luv", "log"): (35.2866540706623, 30.9731708253565, 4.23784062290281, 88.8947992398224),
    ("rgb", "pq"): (32.8729765231493, 33.1631015191441, 4.2709202108452, 86.2844678978385),
    ("rgb", "log"): (30.8995607765913, 28.8773250015032, 3.93752329148708, 87.9574468393162),
}


def mixed(image: Tensor, mix: Tensor = MIX) -> Tensor:
    return torch.einsum("ij,njhw->nihw", mix, image)


def waves() -> tuple[Tensor, Tensor]:
    """A reference in cd/m² over three decades, and the same through a gamma and a mix of colours."""
    rows, columns = torch.arange(12, dtype=torch.float64)[:, None], torch.arange(16, dtype=torch.float64)
    exponents = [
        1.5
        + 1.2 * torch.sin(0.5 * columns + 0.3 * k) * torch.cos(0.4 * rows - 0.2 * k)
        + 0.3 * torch.sin(1.7 * rows * (k + 1))
        for k in range(3)
    ]
    y = 10 ** torch.stack(exponents)[None]
    return 2 * mixed(y) ** 0.7, y


def scene(seed: int = 0) -> Tensor:
    """Smooth colour over four decades with white at 1 (1, 3, 64, 64)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 6, 6, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse.mean(1, keepdim=True) + 0.2 * coarse, (64, 64), mode="bicubic")
    image = 10 ** (1.2 * smooth)
    return image / image.max()


def quality(x: Tensor, y: Tensor, correct: str) -> float:
    return metrics.psnr(x, y, "pu21", display_peak=PEAK, correct=correct).item()


# ---- exposure ------------------------------------------------------------------------------------------------------


def test_a_scale_is_undone() -> None:
    y = torch.cat([scene(0), scene(1)])
    x = y * torch.tensor([0.01, 300.0], dtype=torch.float64)[:, None, None, None]
    assert torch.allclose(metrics.match_exposure(x, y), y, rtol=1e-12)
    assert metrics.psnr(x, y, "mu", correct="exposure").min() > 200
    assert metrics.psnr(x, y, "mu").max() < 30
    for metric in (metrics.ssim, metrics.ms_ssim):
        size = {"window": 3} if metric is metrics.ms_ssim else {}
        assert metric(x, y, "mu", correct="exposure", **size).min() > 1 - 1e-9


def test_lost_highlights_do_not_move_the_exposure() -> None:
    """The samples beyond the 10th and the 90th percentile have no say."""
    y = scene()
    white, black = (y.flatten().quantile(q) for q in (0.92, 0.08))
    x = torch.where(y > white, white, y)
    x = torch.where(y < black, x / 10, x)
    assert torch.allclose(metrics.match_exposure(0.2 * x, y), x, rtol=1e-12)


def test_exposure_within_a_mask() -> None:
    y = scene()
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., :10] = True
    x = torch.where(mask, 0.5 * y, 7.0 * y)
    assert torch.allclose(metrics.match_exposure(x, y, mask=mask), 2 * x, rtol=1e-12)
    assert not torch.allclose(metrics.match_exposure(x, y), 2 * x, rtol=0.1)


def test_exposure_of_zeros_and_nan() -> None:
    """Samples that are not positive or not finite have no say either."""
    y = scene()
    x = 0.5 * y
    x[0, 0, :30] = 0
    x[0, 1, 40] = math.nan
    matched = metrics.match_exposure(x, y)
    assert torch.equal(matched.isnan(), x.isnan())
    assert torch.allclose(matched[0, 2], y[0, 2], rtol=1e-12)


# ---- response ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("space", "transfer"), PUBLISHED)
def test_response_equals_the_published_code(space: str, transfer: str) -> None:
    x, y = waves()
    z = metrics.match_response(x, y, display_peak=1, space=space, transfer=transfer)
    measured = [z[0, 0, 0, 0].item(), z[0, 1, 5, 10].item(), z[0, 2, 11, 15].item(), z.mean().item()]
    assert measured == pytest.approx(PUBLISHED[space, transfer], rel=1e-10)


def test_units_of_the_result() -> None:
    """What ``display_peak`` multiplies it divides again."""
    x, y = waves()
    expected = metrics.match_response(x, y, display_peak=1) / 500
    assert torch.allclose(metrics.match_response(x / 500, y / 500, display_peak=500), expected, rtol=1e-9)


def test_identical_images_stay() -> None:
    y = scene().clamp(min=1e-5)
    for space in ("luv", "rgb"):
        assert torch.allclose(metrics.match_response(y, y, display_peak=PEAK, space=space), y, rtol=1e-6)


def test_a_response_is_undone() -> None:
    """A gamma with a mix of colours and another exposure costs little once it is corrected, and much before."""
    y = scene()
    x = 0.3 * mixed(y) ** 0.85
    assert quality(x, y, "none") < 25
    assert quality(x, y, "exposure") < 35
    assert quality(x, y, "response") > 40
    ssim = [metrics.ssim(x, y, "pu21", display_peak=PEAK, correct=c).item() for c in ("none", "response")]
    assert ssim[0] < 0.98
    assert ssim[1] > 0.998


def test_a_power_in_the_log_domain_is_undone() -> None:
    """A gamma and mix of the logarithms is a polynomial of the first degree there: nothing but it remains."""
    y = scene()
    x = torch.exp(0.8 * mixed(y.log(), MIX)) * 0.4
    matched = metrics.match_response(x, y, display_peak=PEAK, space="rgb", transfer="log", regularization=0)
    floor = 0.005 / PEAK
    assert torch.allclose(matched, y.clamp(min=floor), rtol=1e-5)


def test_lost_highlights_are_not_forgiven() -> None:
    y = scene()
    lost = y.clamp(max=y.flatten().quantile(0.95).item())
    kept = 0.1 * mixed(y) ** 0.85
    assert quality(kept, y, "response") > quality(lost, y, "response") + 15
    # Without the correction the image that lost its highlights is the better one.
    assert quality(lost, y, "none") > quality(kept, y, "none")


def test_real_scene() -> None:
    cv2 = pytest.importorskip("cv2")
    file = photographs() / "hdr" / "polyhaven" / "autoshop_01_1k.hdr"
    y = torch.from_numpy(cv2.imread(str(file), -1)[..., ::-1].copy()).permute(2, 0, 1)[None].double()
    y = (y / y.max()).clamp(min=1e-6)
    toned = 0.3 * mixed(y) ** 0.85
    lost = 0.5 * y.clamp(max=y.flatten().kthvalue(int(0.95 * y.numel())).values.item())
    assert quality(toned, y, "none") < 30
    assert quality(toned, y, "response") > 45
    assert quality(lost, y, "response") < 30


def test_luminance_alone() -> None:
    """One channel is matched as the luminance of three equal ones is."""
    x, y = (z[:, 1:2] for z in waves())
    grey = metrics.match_response(x, y, display_peak=1)
    colour = metrics.match_response(x.expand(1, 3, 12, 16), y.expand(1, 3, 12, 16), display_peak=1)
    assert torch.allclose(colour, grey.expand_as(colour), rtol=1e-3)
    assert grey.shape == x.shape


def test_response_within_a_mask() -> None:
    y = scene()
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., :32] = True
    x = torch.where(mask, y**0.8, torch.full_like(y, 0.5))
    matched = metrics.match_response(x, y, display_peak=PEAK, mask=mask)
    alone = metrics.match_response(x[..., :32], y[..., :32], display_peak=PEAK)
    assert torch.allclose(matched[..., :32], alone, rtol=1e-9)


def test_nan_is_left_out_of_the_fit() -> None:
    x, y = waves()
    x[0, 1, 3, 4] = math.nan
    y[0, 0, 5, 5] = math.inf
    mask = torch.ones(1, 1, 12, 16, dtype=torch.bool)
    mask[0, 0, 3, 4] = mask[0, 0, 5, 5] = False
    matched = metrics.match_response(x, y, display_peak=1)
    assert matched[0, :, 3, 4].isnan().all()
    expected = metrics.match_response(*waves(), display_peak=1, mask=mask)
    assert torch.allclose(matched[mask.expand_as(x)], expected[mask.expand_as(x)], rtol=1e-12)


def test_flat_images() -> None:
    """A fit without a unique answer gives the reference's level."""
    x, y = torch.full((1, 3, 8, 8), 0.2), torch.full((1, 3, 8, 8), 0.4)
    assert torch.allclose(metrics.match_response(x, y, display_peak=PEAK), y, rtol=1e-3)
    assert torch.allclose(metrics.match_exposure(x, y), y)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    y = scene()
    x = (y * 200).round().to(torch.int32).to(dtype) if dtype in (torch.uint8, torch.uint16) else (0.5 * y).to(dtype)
    expected = dtype if dtype.is_floating_point else torch.float32
    assert metrics.match_exposure(x, y).dtype == expected
    assert metrics.match_response(x, y, display_peak=PEAK).dtype == expected


def test_batches_are_independent() -> None:
    y = torch.cat([scene(0), scene(1)])
    x = 0.5 * mixed(y) ** 0.9
    for function in (metrics.match_exposure, lambda x, y: metrics.match_response(x, y, display_peak=PEAK)):
        both = function(x, y)
        assert torch.equal(both, torch.cat([function(x[:1], y[:1]), function(x[1:], y[1:])]))
        assert function(x[:0], y[:0]).shape == (0, 3, 64, 64)


def test_more_channels() -> None:
    y = torch.cat([scene(), scene(1)[:, :1]], 1)
    assert metrics.match_response(y, y, display_peak=PEAK, space="rgb").shape == y.shape
    with pytest.raises(ValueError, match="use space='rgb'"):
        metrics.match_response(y, y, display_peak=PEAK)


def test_errors() -> None:
    y = scene()
    match = metrics.match_response
    for options, message in (
        ({"space": "lab"}, "space must be"),
        ({"transfer": "mu"}, "space must be"),
        ({"degree": 0}, "degree must be"),
        ({"regularization": -1.0}, "regularization"),
        ({"regularization": math.nan}, "regularization"),
        ({"display_peak": 0.0}, "display_peak must be"),
        ({"mask": torch.ones(1, 64, 64, dtype=torch.bool)}, "mask must be"),
        ({"mask": torch.ones(1, 1, 64, 64)}, "mask must be"),
        ({"mask": torch.zeros(1, 1, 64, 64, dtype=torch.bool)}, "image 0 has no pixels to fit on"),
    ):
        with pytest.raises(ValueError, match=message):
            match(y, y, **{"display_peak": PEAK, **options})
    with pytest.raises(ValueError, match="image 1 has no samples to match"):
        metrics.match_exposure(torch.cat([y, -y]), torch.cat([y, y]))
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.match_exposure(y, y[:, :1])
