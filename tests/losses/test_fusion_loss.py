"""MaskBuilder, ParamTuner and the loss of HyperP_MB against the formulas of the paper, written out."""

import math

import pytest
import torch

from hdrops import ms_ssim
from hdrops.losses import HyperPMBLoss, MaskBuilder, ParamTuner
from hdrops.nn import adaptive_gamma

SIDE = 176


@pytest.fixture
def images():
    """A grey scene, under-, correctly and overexposed, and a result near the middle one."""
    generator = torch.Generator().manual_seed(3)
    smooth = torch.rand(2, 1, 12, 12, generator=generator)
    scene = torch.nn.functional.interpolate(smooth, (SIDE, SIDE), mode="bicubic").clamp(0.02, 1)
    scene = scene * (1 + 0.1 * torch.randn(scene.shape, generator=generator)).clamp(0.5, 1.5)
    under, correct, over = ((scene * gain).clamp(0, 1) ** (1 / 2.2) for gain in (0.1, 0.5, 3.0))
    fused = (correct + 0.05 * torch.randn(scene.shape, generator=generator)).clamp(0, 1)
    return {"fused": fused, "under": under, "correct": correct, "over": over}


def blurred(image, sigma):
    """Eq. 1 to 3 with a window of 6 sigma + 1 taps."""
    radius = round(3 * sigma)
    taps = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    padded = torch.nn.functional.pad(image.double(), (radius,) * 4, "reflect")
    rows = torch.nn.functional.conv2d(padded, taps.view(1, 1, -1, 1))
    return torch.nn.functional.conv2d(rows, taps.view(1, 1, 1, -1))


def test_masks_are_those_of_the_paper(images):
    under, over = MaskBuilder(sigma=5)(images["under"], images["over"])
    for mask, image, invert in ((under, images["under"], False), (over, images["over"], True)):
        blur = blurred(image, 5)
        low, high = blur.amin((1, 2, 3), True), blur.amax((1, 2, 3), True)
        expected = (blur - low) / (high - low)
        torch.testing.assert_close(mask.double(), 1 - expected if invert else expected, atol=1e-4, rtol=0)


def test_flat_images_are_not_masked():
    flat = torch.full((1, 1, 40, 40), 0.3)
    assert all(bool((mask == 1).all()) for mask in MaskBuilder()(flat, flat))


def gamma(image):
    """Eq. 10 to 12 of one image."""
    mean, deviation = image.double().mean().item(), image.double().std(correction=0).item()
    return -math.log2(deviation) if 4 * deviation <= 1 / 3 else math.exp((1 - (mean + deviation)) / 2)


def test_adaptive_gamma_of_both_classes_of_contrast(images):
    flat = 0.5 + (images["correct"] - 0.5) * 0.1
    for image in (*images.values(), flat):
        expected = torch.tensor([gamma(one) for one in image], dtype=torch.float32)
        torch.testing.assert_close(adaptive_gamma(image), expected, rtol=1e-5, atol=0)
    assert adaptive_gamma(flat).min() > 2  # of the low class
    assert adaptive_gamma(torch.full((1, 1, 4, 4), 0.5)).item() == pytest.approx(math.log2(255))


def test_weights_are_those_of_the_paper(images):
    found = ParamTuner()(images["under"], images["correct"], images["over"])
    for number, weights in enumerate(found.tolist()):
        under, correct, over = (gamma(images[name][number]) for name in ("under", "correct", "over"))
        first, second = abs(under - correct), abs(over - correct)
        assert weights == pytest.approx([2 * first / (first + second), 2 * second / (first + second)], rel=1e-4)
    assert found.sum(1).tolist() == pytest.approx([2, 2])


def test_wrong_arguments(images):
    with pytest.raises(ValueError, match=r"sigma must be 0\.3 to 200 pixels, got -1"):
        MaskBuilder(-1)
    under, correct, over = (images[name] for name in ("under", "correct", "over"))
    with pytest.raises(ValueError, match="images must have one shape"):
        ParamTuner()(under, correct[:1], over)
    with pytest.raises(ValueError, match=r"over \(1, 1, 176, 176\) and fused \(2, 1, 176, 176\) must have one shape"):
        HyperPMBLoss()(images["fused"], under, correct, over[:1])


def test_weights_where_nothing_differs(images):
    same = images["correct"]
    assert ParamTuner(beta=3.0)(same, same, same).tolist() == [[1.5, 1.5]] * 2


def test_weights_of_what_is_no_number_are_none(images):
    broken = images["under"].clone()
    broken[0, 0, 3, 3] = torch.nan
    found = ParamTuner()(broken, images["correct"], images["over"])
    assert found.isnan().all(1).tolist() == [True, False]


def test_least_size_of_the_scales():
    x = torch.rand(1, 1, 161, 161)
    assert HyperPMBLoss()(x, x, x, x).item() == pytest.approx(0, abs=0.01)
    x = x[..., 1:]
    with pytest.raises(ValueError, match="161"):
        HyperPMBLoss()(x, x, x, x)


def single(x, y):
    """Eq. 7 of one pair, on values of 0 to 255."""
    square = ((255 * x.double() - 255 * y.double()) ** 2).mean()
    return square + 1000 * (1 - ms_ssim(255 * x.double(), 255 * y.double(), data_range=255.0))


@pytest.mark.parametrize("tuned", [False, True])
def test_loss_is_that_of_the_paper(images, tuned):
    builder = MaskBuilder(sigma=5)
    tuner = ParamTuner() if tuned else None
    terms = HyperPMBLoss(builder, tuner).terms(**images)
    masks = builder(images["under"], images["over"])
    weights = ParamTuner()(images["under"], images["correct"], images["over"]) if tuned else torch.ones(2, 2)
    expected = dict.fromkeys(("correct", "under", "over"), 0.0)
    for i in range(2):
        one = {name: image[i : i + 1] for name, image in images.items()}
        expected["correct"] += single(one["fused"], one["correct"]).item() / 2
        for k, name in enumerate(("under", "over")):
            mask = masks[k][i : i + 1]
            expected[name] += weights[i, k].item() * single(mask * one["fused"], mask * one[name]).item() / 2
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-4)
    total = HyperPMBLoss(builder, tuner)(**images)
    assert total.item() == pytest.approx(sum(expected.values()), rel=1e-4)


def test_the_correct_image_alone(images):
    terms = HyperPMBLoss().terms(**images)
    assert list(terms) == ["correct"]
    assert terms["correct"].item() == pytest.approx(
        sum(single(images["fused"][i : i + 1], images["correct"][i : i + 1]).item() for i in range(2)) / 2, rel=1e-4
    )


def test_gradients_reach_the_result_alone(images):
    loss = HyperPMBLoss(MaskBuilder(), ParamTuner())
    fused = images["fused"].clone().requires_grad_()
    loss(**{**images, "fused": fused}).backward()
    assert bool(fused.grad.isfinite().all())
    step = 1e-3 * fused.grad / fused.grad.abs().max()
    assert loss(**{**images, "fused": images["fused"] - step}) < loss(**images)


def test_half_precision_counts_as_float32(images):
    loss = HyperPMBLoss(MaskBuilder(), ParamTuner())
    terms = loss.terms(**{**images, "fused": images["fused"].bfloat16()})
    assert all(term.dtype == torch.float32 for term in terms.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": -1.0}, "alpha must be 0 or more"),
        ({"scale": 0.0}, "scale positive"),
        ({"scales": 6}, "scales must be 1 to 5, got 6"),
        ({"tuner": ParamTuner()}, "give masks as well"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        HyperPMBLoss(**options)


def test_bad_images(images):
    with pytest.raises(TypeError, match="floating point"):
        HyperPMBLoss()(**{**images, "correct": images["correct"].mul(255).byte()})
    with pytest.raises(ValueError, match="one shape"):
        HyperPMBLoss()(**{**images, "over": images["over"][..., 1:]})
    with pytest.raises(ValueError, match="tau must be positive"):
        adaptive_gamma(images["over"], tau=0)
