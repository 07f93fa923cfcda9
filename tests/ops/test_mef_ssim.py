"""What the contract does not say of ``mef_ssim``: its formulas patch by patch, values of the authors' code, and the
cases in which there is nothing to compare."""

from __future__ import annotations

import math
import pathlib
import sys

import pytest
import torch
from torch import Tensor

import hdrops
from hdrops.losses import MEFSSIMLoss
from hdrops.reference import gaussian

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "metrics"))
import golden

EPS = 2.0**-52


def patch_quality(sources: list[Tensor], fused: Tensor, weights: Tensor) -> float:
    """The quality of one patch, formed as the paper says: float64 patches (n, n) on 0 to 255."""
    n = fused.shape[-1]
    deviations = [source - source.mean() for source in sources]
    norms = [float(deviation.norm()) for deviation in deviations]
    contrasts = [norm + 0.001 for norm in norms]
    whole = sum(sources)
    consistency = (float((whole - whole.mean()).norm()) + EPS) / (sum(norms) + EPS)
    p = min(math.tan(math.pi / 2 * min(consistency, 1 - EPS)), 10.0)
    powers = [(contrast / n) ** p + EPS for contrast in contrasts]
    structure = sum(
        power / sum(powers) * deviation / contrast
        for power, deviation, contrast in zip(powers, deviations, contrasts, strict=True)
    )
    norm = float(structure.norm())
    desired = structure / norm * max(contrasts) if norm > 0 else structure
    centred, compared = desired - (weights * desired).sum(), fused - (weights * fused).sum()
    c = (0.03 * 255) ** 2
    numerator = 2 * (weights * centred * compared).sum() + c
    return float(numerator / ((weights * centred**2).sum() + (weights * compared**2).sum() + c))


def patchwise(fused: Tensor, bracket: Tensor, window: int, sigma: float) -> float:
    """The mean quality of an image (H, W) on 0 to 255, given its sources (K, H, W)."""
    taps = torch.tensor(gaussian.window(sigma, window // 2), dtype=torch.float64)
    weights = torch.outer(taps, taps)
    height, width = fused.shape
    qualities = [
        patch_quality(
            [source[y : y + window, x : x + window] for source in bracket],
            fused[y : y + window, x : x + window],
            weights,
        )
        for y in range(height - window + 1)
        for x in range(width - window + 1)
    ]
    return sum(qualities) / len(qualities)


def pictures(count: int, *shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A fused image (1, 1, H, W) and its sources (1, K, 1, H, W), float64 in [0, 1], with flat and clipped areas."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.rand(1, 1, 1, *shape, generator=generator, dtype=torch.float64)
    noise = torch.rand(1, count, 1, *shape, generator=generator, dtype=torch.float64)
    gains = torch.linspace(0.5, 1.5, count, dtype=torch.float64).view(-1, 1, 1, 1)
    bracket = ((0.8 * scene + 0.1 * noise) * gains).clamp(0, 1)
    bracket[..., : shape[0] // 2, :] = bracket[..., :1, :1]
    fused = bracket.mean(1) + 0.1 * torch.rand(1, 1, *shape, generator=generator, dtype=torch.float64)
    return fused, bracket


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("window", [11, 5])
def test_equals_the_patches_of_the_paper(count: int, window: int, backend: str) -> None:
    fused, bracket = pictures(count, 17, 16)
    value = hdrops.mef_ssim(fused, bracket, weights=(1.0,), window=window, sigma=1.3, backend=backend)
    expected = patchwise(255 * fused[0, 0], 255 * bracket[0, :, 0], window, 1.3)
    assert abs(value.item() - expected) < 1e-12


def test_scales_are_halves_of_each_other(backend: str) -> None:
    """Odd sizes repeat their last line; the result is the product of the powers of the means."""
    fused, bracket = pictures(2, 15, 17)
    smaller = [
        torch.nn.functional.avg_pool2d(torch.nn.functional.pad(image, (0, 1, 0, 1), mode="replicate"), 2)
        for image in (fused, bracket[0])
    ]
    first = patchwise(255 * fused[0, 0], 255 * bracket[0, :, 0], 5, 1.5)
    second = patchwise(255 * smaller[0][0, 0], 255 * smaller[1][:, 0], 5, 1.5)
    value = hdrops.mef_ssim(fused, bracket, weights=(0.3, 0.7), window=5, backend=backend)
    assert abs(value.item() - first**0.3 * second**0.7) < 1e-12


# ---- values of the authors' code -----------------------------------------------------------------


def single_scale(fused: Tensor, bracket: Tensor, data_range: float = 1.0) -> Tensor:
    return hdrops.mef_ssim(fused, bracket, data_range, weights=(1.0,), reduction="none")


def grey_codes(image: Tensor) -> Tensor:
    from hdrops.ops.mef_ssim import in_grey

    return in_grey(image)


def test_equals_the_authors_code() -> None:
    """Within 1e-7 in float64: where textures of two sources cancel, the authors' code compares what rounding leaves."""

    def measure(row: golden.Row) -> Tensor:
        return hdrops.mef_ssim(
            grey_codes(row.fused).double(), grey_codes(row.bracket).double(), 255.0, reduction="none"
        )

    assert golden.deviations("MEF-SSIM", "multiscale", measure).max() < 1e-7

    def finest(row: golden.Row) -> Tensor:
        return single_scale(grey_codes(row.fused).double(), grey_codes(row.bracket).double(), 255.0)

    assert golden.deviations("MEF-SSIM", "scale1", finest).max() < 1e-7


def test_codes_equal_the_authors_code() -> None:
    """Colour codes in float32."""
    whole = golden.deviations(
        "MEF-SSIM", "multiscale", lambda row: hdrops.mef_ssim(row.fused, row.bracket, reduction="none")
    )
    assert whole.max() < 2e-6
    finest = golden.deviations("MEF-SSIM", "scale1", lambda row: single_scale(row.fused, row.bracket))
    assert finest.max() < 4e-6


# ---- nothing to compare --------------------------------------------------------------------------


def test_of_one_source_and_of_equal_ones(backend: str) -> None:
    """The desired patch of one source is itself but for the 0.001 of its contrast."""
    _, bracket = pictures(1, 12, 13)
    image = bracket[:, 0]
    for sources in (bracket, bracket.expand(-1, 3, -1, -1, -1)):
        value = hdrops.mef_ssim(image, sources, weights=(1.0,), window=5, backend=backend)
        assert 1 - 1e-6 < value.item() <= 1 + 1e-12


def test_flat_sources(backend: str) -> None:
    """Their desired patch is flat: Q = C / (variance + C)."""
    fused, bracket = pictures(3, 7, 7)
    flat = torch.ones_like(bracket) * torch.tensor([0.1, 0.5, 1.0]).view(3, 1, 1, 1)
    options = {"weights": (1.0,), "window": 7, "sigma": 1.5, "backend": backend}
    taps = torch.tensor(gaussian.window(1.5, 3), dtype=torch.float64)
    weights = torch.outer(taps, taps)
    values = 255 * fused[0, 0]
    variance = (weights * (values - (weights * values).sum()) ** 2).sum()
    c = (0.03 * 255) ** 2
    for sources in (flat, flat.zero_()):
        assert abs(hdrops.mef_ssim(fused, sources, **options).item() - (c / (variance + c)).item()) < 1e-9
        assert abs(hdrops.mef_ssim(torch.full_like(fused, 0.3), sources, **options).item() - 1) < 1e-9


def test_sources_that_cancel(backend: str) -> None:
    """Opposite textures have no common structure; what rounding leaves of them is none."""
    texture = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fused = (0.5 + 0.1 * texture).requires_grad_()
    for dtype in (torch.float64, torch.float32):
        sources = torch.stack([0.5 + 0.3 * texture, 0.5 - 0.3 * texture], 1).to(dtype)
        value = hdrops.mef_ssim(fused.to(dtype), sources, weights=(1.0,), window=5, backend=backend)
        assert 0.5 < value.item() <= 1 + 1e-6
        (grad,) = torch.autograd.grad(value, fused)
        assert grad.isfinite().all()


def test_one_pixel(backend: str) -> None:
    fused, bracket = torch.full((1, 1, 1, 1), 0.25), torch.full((1, 2, 1, 1, 1), 0.75)
    for border in ("reflect", "symmetric", "replicate"):
        fused.requires_grad_()
        value = hdrops.mef_ssim(fused, bracket, border=border, window=5, backend=backend)
        assert abs(value.item() - 1) < 1e-6
        assert torch.autograd.grad(value, fused)[0].abs().item() < 1e-6


def test_negative_means_count_as_zero(backend: str) -> None:
    """An image that is the negative of its source: the value is 0 and so is the gradient, not NaN."""
    texture = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fused = (1 - texture).requires_grad_()
    value = hdrops.mef_ssim(fused, texture[None], weights=(0.5, 0.5), window=3, backend=backend)
    assert value.item() == 0
    assert torch.autograd.grad(value, fused)[0].abs().max().item() == 0


@pytest.mark.parametrize("where", ["fused", "bracket"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_image(where: str, number: float, backend: str) -> None:
    fused, bracket = (torch.cat([x, x]) for x in pictures(2, 9, 9))
    expected = hdrops.mef_ssim(fused, bracket, weights=(1.0,), window=5, reduction="none", backend=backend)
    images = {"fused": fused.clone(), "bracket": bracket.clone()}
    images[where][0, ..., 4, 4] = number
    images["fused"].requires_grad_()
    values = hdrops.mef_ssim(**images, weights=(1.0,), window=5, reduction="none", backend=backend)
    assert values[0].isnan()
    assert values[1] == expected[1]
    grad = torch.autograd.grad(values.sum(), images["fused"])[0]
    assert grad[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_clipped_areas_have_no_contrast(dtype: torch.dtype, backend: str) -> None:
    """A clipped source beside a textured one: the textured one alone is wanted."""
    texture = torch.rand(1, 1, 20, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dark, bright = 0.2 + 0.05 * texture, torch.ones_like(texture)
    bright[..., :8] = 0.0
    images = [torch.stack([dark, bright], 1), dark]
    bracket, fused = ((255 * x).round().to(dtype) if dtype == torch.uint8 else x.to(dtype) for x in images)
    inner = slice(10, None)  # windows that see no edge
    value = hdrops.mef_ssim(fused[..., inner], bracket[..., inner], weights=(1.0,), backend=backend)
    assert 1 - 1e-4 < value.item() <= 1 + 1e-5


def test_order_of_sources(backend: str) -> None:
    fused, bracket = pictures(3, 13, 12)
    options = {"weights": (1.0,), "window": 5, "backend": backend}
    ordered = hdrops.mef_ssim(fused, bracket, **options)
    assert abs(hdrops.mef_ssim(fused, bracket.flip(1), **options) - ordered).item() < 1e-12


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("border", ["valid", "reflect", "symmetric", "replicate", "zeros"])
def test_gradient_equals_the_definition(border: str, backend: str) -> None:
    fused, bracket = pictures(3, 15, 14)
    grads = []
    for name in (backend, "reference"):
        image = fused.clone().requires_grad_()
        value = hdrops.mef_ssim(image, bracket, weights=(0.4, 0.6), window=5, border=border, backend=name)
        grads.append(torch.autograd.grad(value, image)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-12)


def test_gradient_climbs(backend: str) -> None:
    """A step along the gradient changes the value as the gradient says."""
    fused, bracket = pictures(2, 12, 11)
    image = fused.clone().requires_grad_()
    options = {"weights": (1.0,), "window": 5, "backend": backend}
    value = hdrops.mef_ssim(image, bracket, **options)
    (grad,) = torch.autograd.grad(value, image)
    step = 1e-6 * grad / grad.norm()
    rise = hdrops.mef_ssim(fused + step, bracket, **options) - hdrops.mef_ssim(fused - step, bracket, **options)
    assert abs(rise.item() / (2e-6 * grad.norm().item()) - 1) < 1e-6


def test_loss() -> None:
    fused, bracket = pictures(2, 12, 11)
    loss = MEFSSIMLoss(weights=(1.0,), window=5, reduction="none")
    expected = 1 - hdrops.mef_ssim(fused, bracket, weights=(1.0,), window=5, reduction="none")
    assert torch.equal(loss(fused, bracket), expected)
    assert "window=5" in repr(loss)


# ---- arguments -----------------------------------------------------------------------------------


def test_colour_becomes_grey(backend: str) -> None:
    fused = torch.rand(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    bracket = torch.rand(2, 2, 3, 7, 8, generator=torch.Generator().manual_seed(1))
    luma = torch.tensor([0.298936021293775, 0.587043074451121, 0.114020904255103]).view(3, 1, 1)
    options = {"weights": (1.0,), "window": 5, "backend": backend}
    grey = [(luma * x).sum(-3, keepdim=True) for x in (fused, bracket)]
    torch.testing.assert_close(hdrops.mef_ssim(fused, bracket, **options), hdrops.mef_ssim(*grey, **options))
    codes = [(255 * x).round().to(torch.uint8) for x in (fused, bracket)]
    rounded = [((luma.double() * x).sum(-3, keepdim=True) + 0.5).floor().to(torch.uint8) for x in codes]
    assert hdrops.mef_ssim(*codes, **options) == hdrops.mef_ssim(*rounded, **options)


def test_data_range(backend: str) -> None:
    fused, bracket = pictures(2, 9, 9)
    options = {"weights": (1.0,), "window": 5, "backend": backend}
    value = hdrops.mef_ssim(fused, bracket, **options)
    assert abs(hdrops.mef_ssim(255 * fused, 255 * bracket, 255.0, **options) - value).item() < 1e-12


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bracket": torch.rand(1, 2, 1, 12, 13)}, ValueError, r"bracket must be \(N, K, C, H, W\)"),
        ({"bracket": torch.rand(1, 1, 12, 12)}, ValueError, r"bracket must be \(N, K, C, H, W\)"),
        ({"bracket": torch.rand(1, 0, 1, 12, 12)}, ValueError, "bracket has no pixels"),
        ({"bracket": torch.rand(1, 2, 1, 12, 12).double()}, TypeError, "must have one dtype"),
        ({"fused": torch.rand(1, 2, 12, 12)}, ValueError, "with 1 or 3 channels"),
        ({"weights": ()}, ValueError, "weights must be 1 to 16 finite exponents"),
        ({"weights": (-1.0,)}, ValueError, "weights must be 1 to 16 finite exponents"),
        ({"data_range": 0.0}, ValueError, "data_range must be 1e-15"),
        ({"window": 4}, ValueError, "window must be an odd number"),
        ({"window": 1}, ValueError, "window must be an odd number"),
        ({"sigma": 0.0}, ValueError, "sigma of the window must be"),
        ({"k": 0.0}, ValueError, "k must be positive"),
        ({"border": "wrap"}, ValueError, "border must be one of valid"),
        ({"reduction": "sum"}, ValueError, "reduction must be 'mean' or 'none'"),
        ({"weights": (0.5, 0.5)}, ValueError, "12 x 12 is too small for a window of 11 on 2 scales.*21 pixels"),
    ],
)
def test_arguments_are_checked(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"fused": torch.rand(1, 1, 12, 12), "bracket": torch.rand(1, 2, 1, 12, 12), "weights": (1.0,)}
    with pytest.raises(error, match=message):
        hdrops.mef_ssim(**(arguments | change))


def test_brackets_have_no_gradient() -> None:
    fused, bracket = torch.rand(1, 1, 12, 12), torch.rand(1, 2, 1, 12, 12).requires_grad_()
    with pytest.raises(RuntimeError, match=r"no gradient of the bracket.*bracket\.detach"):
        hdrops.mef_ssim(fused, bracket, weights=(1.0,))
    with torch.no_grad():
        hdrops.mef_ssim(fused, bracket, weights=(1.0,))
