"""PSNR, SSIM and MS-SSIM in the domains of HDR images, and the encodings themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

import golden
import pytest
import torch
from torch import Tensor

import hdrops
from hdrops import metrics

LUMINANCES = torch.logspace(math.log10(0.005), 4, 200, dtype=torch.float64)
CODECS = {
    "mu": (metrics.mu_law_encode, metrics.mu_law_decode, LUMINANCES / 10000),
    "pq": (metrics.pq_encode, metrics.pq_decode, LUMINANCES),
    "pu21": (metrics.pu21_encode, metrics.pu21_decode, LUMINANCES),
}


def images(seed: int = 0, shape: tuple[int, ...] = (2, 3, 24, 20)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (y + 0.05 * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(0, 1), y


# ---- encodings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_decode_inverts_encode(codec: str) -> None:
    encode, decode, values = CODECS[codec]
    assert torch.allclose(decode(encode(values)), values, rtol=1e-9, atol=0)


@pytest.mark.parametrize("codec", CODECS)
def test_encodings_rise(codec: str) -> None:
    encode, _, values = CODECS[codec]
    assert (encode(values).diff() > 0).all()


@pytest.mark.parametrize("codec", CODECS)
def test_encodings_are_differentiable(codec: str) -> None:
    encode, decode, values = CODECS[codec]
    inner = values[5:-5:20].clone().requires_grad_()
    # Over six decades a fixed step of the numerical derivative fits none of the values: relative ones do.
    assert torch.autograd.gradcheck(lambda t: encode(inner.detach() * t), torch.ones_like(inner).requires_grad_())
    encoded = encode(values[5:-5:20])
    assert torch.autograd.gradcheck(lambda t: decode(encoded * t).log(), torch.ones_like(encoded).requires_grad_())


def test_mu_law_anchors() -> None:
    values = torch.tensor([0.0, 1.0, 0.1], dtype=torch.float64)
    expected = [0.0, 1.0, math.log(501) / math.log(5001)]
    assert metrics.mu_law_encode(values).tolist() == pytest.approx(expected, rel=1e-14)
    assert metrics.mu_law_encode(values, mu=10)[2].item() == pytest.approx(math.log(2) / math.log(11), rel=1e-14)


def test_pq_anchors() -> None:
    """Both ends, and the values of ST 2084 that ITU-R BT.2408 gives in percent: 51, 58 and 75."""
    luminance = torch.tensor([0.0, 100.0, 203.0, 1000.0, 10000.0], dtype=torch.float64)
    encoded = metrics.pq_encode(luminance).tolist()
    assert encoded == pytest.approx([(107 / 128) ** 78.84375, 0.51, 0.58, 0.75, 1.0], abs=0.005)
    assert encoded[1] == pytest.approx(0.508078421517399, abs=1e-12)


def test_pu21_anchors() -> None:
    """0 at its lowest luminance and about 256 at 100 cd/m², as the encoding was designed, and values of its formula."""
    luminance = torch.tensor([0.005, 100.0, 1.0, 1000.0, 10000.0], dtype=torch.float64)
    encoded = metrics.pu21_encode(luminance).tolist()
    assert encoded[0] == pytest.approx(0, abs=1e-6)
    assert encoded[1] == pytest.approx(256, abs=0.5)
    assert encoded == pytest.approx([0, 256.38389731, 36.54391114, 420.09692134, 595.39392002], abs=1e-6)


@pytest.mark.parametrize(
    ("encode", "below", "above", "low", "high"),
    [
        (metrics.mu_law_encode, -1.0, None, 0.0, None),
        (metrics.pq_encode, -1.0, 20000.0, 0.0, 10000.0),
        (metrics.pu21_encode, 0.0, 20000.0, 0.005, 10000.0),
    ],
)
def test_values_out_of_range(
    encode: Callable[..., Tensor], below: float, above: float | None, low: float, high: float | None
) -> None:
    values = torch.tensor([below] + ([] if above is None else [above]), requires_grad=True)
    encoded = encode(values)
    assert torch.equal(encoded, encode(torch.tensor([low] + ([] if high is None else [high]))))
    encoded.sum().backward()
    assert torch.equal(values.grad, torch.zeros_like(values))


@pytest.mark.parametrize("function", [f for codec in CODECS.values() for f in codec[:2]])
def test_encodings_keep_nan_dtype_and_refuse_codes(function: Callable[..., Tensor]) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        result = function(torch.tensor([math.nan, 0.5], dtype=dtype))
        assert result.dtype == dtype
        assert result.isnan().tolist() == [True, False]
    with pytest.raises(TypeError, match="floating point"):
        function(torch.zeros(3, dtype=torch.uint8))


def test_gradient_of_pq_at_black_is_finite() -> None:
    values = torch.tensor([0.0, 1e-30], requires_grad=True)
    metrics.pq_encode(values).sum().backward()
    assert values.grad[0] == 0
    assert values.grad.isfinite().all()
    encoded = torch.tensor([0.0, metrics.pq_encode(torch.tensor(0.0)).item()], requires_grad=True)
    metrics.pq_decode(encoded).sum().backward()
    assert encoded.grad.isfinite().all()


@pytest.mark.parametrize("mu", [0.0, -1.0, math.inf, math.nan])
def test_bad_mu(mu: float) -> None:
    with pytest.raises(ValueError, match="mu must be"):
        metrics.mu_law_encode(torch.ones(1), mu)
    with pytest.raises(ValueError, match="mu must be"):
        metrics.mu_law_decode(torch.ones(1), mu)


# ---- PSNR ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["skimage_gray", "skimage_rgb"])
def test_psnr_equals_scikit_image(variant: str) -> None:
    """On 8-bit codes; its grey is MATLAB's, rounded."""

    def measure(row: golden.Row) -> Tensor:
        fused, source = row.fused, row.bracket[:, 0]
        if variant == "skimage_gray":
            fused, source = (hdrops.metrics._images.grey(z).to(torch.uint8) for z in (fused, source))
        return metrics.psnr(fused, source)

    assert golden.deviations("PSNR", variant, measure).max() < 1e-12


def test_psnr_by_hand() -> None:
    y = torch.zeros(2, 3, 4, 5)
    x = y.clone()
    x[0] = 0.1
    x[1, 0] = 0.3
    expected = [20.0, 10 * math.log10(3 / 0.09)]
    assert metrics.psnr(x, y).tolist() == pytest.approx(expected, rel=1e-6)
    assert metrics.psnr(x, y, data_range=2).tolist() == pytest.approx([v + 20 * math.log10(2) for v in expected])


def test_psnr_mu_by_hand() -> None:
    x, y = images()
    curve = [torch.log(1 + 5000 * z) / math.log(5001) for z in (x, y)]
    expected = -10 * (curve[0] - curve[1]).square().mean((1, 2, 3)).log10()
    assert torch.allclose(metrics.psnr(x, y, "mu"), expected, rtol=1e-12)


@pytest.mark.parametrize(("domain", "peak"), [("pq", 1.0), ("pu21", 256.0)])
def test_psnr_of_absolute_domains(domain: str, peak: float) -> None:
    x, y = images()
    encode = CODECS[domain][0]
    error = (encode(x * 1000) - encode(y * 1000)).square().mean((1, 2, 3))
    expected = 10 * (peak**2 / error).log10()
    assert torch.allclose(metrics.psnr(x, y, domain, display_peak=1000), expected, rtol=1e-12)
    assert torch.allclose(metrics.psnr(x * 1000, y * 1000, domain, display_peak=1), expected, rtol=1e-9)
    assert not torch.allclose(metrics.psnr(x, y, domain, display_peak=100), expected, rtol=1e-3)


@pytest.mark.parametrize("domain", ["linear", "mu", "pq", "pu21"])
def test_identical_images(domain: str) -> None:
    _, y = images(shape=(2, 3, 176, 176))
    peak = {"display_peak": 1000.0} if domain.startswith("p") else {}
    assert torch.equal(metrics.psnr(y, y, domain, **peak), torch.full((2,), math.inf, dtype=torch.float64))
    for metric in (metrics.ssim, metrics.ms_ssim):
        assert torch.allclose(metric(y, y, domain, **peak), torch.ones(2, dtype=torch.float64), atol=1e-12)


def test_nan_is_of_its_image_only() -> None:
    x, y = images()
    x[0, 1, 2, 3] = math.nan
    for domain in ("linear", "mu"):
        assert metrics.psnr(x, y, domain).isnan().tolist() == [True, False]
        assert metrics.ssim(x, y, domain).isnan().tolist() == [True, False]
    assert metrics.psnr(x, y, "mu", normalize="reference").isnan().tolist() == [True, False]


def test_infinite_pixels() -> None:
    x, y = images()
    y[0, 0, 0, 0] = math.inf
    x[1, 0, 0, 0] = y[1, 0, 0, 0] = math.inf
    assert metrics.psnr(x, y)[0] == -math.inf
    assert metrics.psnr(x, y)[1].isnan()
    assert metrics.psnr(x, y, "pu21", display_peak=100).isfinite().all()


@pytest.mark.parametrize(("dtype", "largest"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_codes_are_scaled_to_one(dtype: torch.dtype, largest: int) -> None:
    x, y = ((z * largest).round() for z in images())
    codes = [z.to(torch.int32).to(dtype) for z in (x, y)]
    for domain in ("linear", "mu"):
        expected = metrics.psnr(x / largest, y / largest, domain)
        assert torch.allclose(metrics.psnr(*codes, domain), expected, rtol=1e-12)
        assert torch.allclose(metrics.psnr(codes[0], y / largest, domain), expected, rtol=1e-12)
        assert torch.allclose(metrics.ssim(*codes, domain).double(), metrics.ssim(x / largest, y / largest, domain))


def test_one_step_of_sixteen_bits_is_seen() -> None:
    x = torch.full((1, 1, 8, 8), 40000, dtype=torch.int32)
    expected = 20 * math.log10(65535)
    assert metrics.psnr((x + 1).to(torch.uint16), x.to(torch.uint16)).item() == pytest.approx(expected, rel=1e-12)


def test_normalisation_by_the_reference() -> None:
    x, y = images()
    scale = torch.tensor([3.0, 17.0], dtype=torch.float64)[:, None, None, None]
    largest = y.amax((1, 2, 3), keepdim=True)
    for metric in (metrics.psnr, metrics.ssim):
        expected = metric(x / largest, y / largest, "mu")
        assert torch.allclose(metric(x * scale, y * scale, "mu", normalize="reference"), expected, rtol=1e-9)
        assert not torch.allclose(metric(x * scale, y * scale, "mu"), expected, rtol=1e-3)


def test_luminance() -> None:
    x, y = images()
    weights = torch.tensor([0.212656, 0.715158, 0.072186], dtype=torch.float64)[:, None, None]
    grey = [(z * weights).sum(1, keepdim=True) for z in (x, y)]
    for domain in ("linear", "mu"):
        expected = metrics.psnr(*grey, domain)
        assert torch.allclose(metrics.psnr(x, y, domain, color="luminance"), expected, rtol=1e-6)
        assert torch.allclose(metrics.psnr(*grey, domain, color="luminance"), expected, rtol=1e-12)


def test_any_number_of_channels() -> None:
    x, y = images(shape=(1, 4, 16, 16))
    assert metrics.psnr(x, y).isfinite().all()
    with pytest.raises(ValueError, match="3 channels or 1"):
        metrics.psnr(x, y, color="luminance")


def test_gradients() -> None:
    x, y = images(shape=(1, 3, 12, 12))
    x, y = 0.1 + 0.5 * x, 0.1 + 0.5 * y
    for domain in ("linear", "mu", "pq", "pu21"):
        peak = {"display_peak": 1000.0} if domain.startswith("p") else {}
        assert torch.autograd.gradcheck(
            lambda x, domain=domain, peak=peak: metrics.psnr(x, y, domain, **peak), x.clone().requires_grad_()
        )


# ---- SSIM and MS-SSIM ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ssim", "ms_ssim"])
def test_similarity_is_the_operators(name: str) -> None:
    """In the domain, with the range of the domain and the options given."""
    metric, operator = getattr(metrics, name), getattr(hdrops, name)
    x, y = images(shape=(2, 3, 180, 170))
    assert torch.equal(metric(x, y), operator(x, y, reduction="none"))
    options = {"window": 7, "sigma": None, "k": (0.02, 0.05)}
    assert torch.equal(metric(x, y, **options), operator(x, y, reduction="none", **options))
    encoded = [metrics.pu21_encode(z * 500) for z in (x, y)]
    expected = operator(*encoded, 256.0, reduction="none")
    assert torch.allclose(metric(x, y, "pu21", display_peak=500), expected, rtol=1e-12)
    assert torch.allclose(metric(x, y, data_range=4), operator(x, y, 4.0, reduction="none"), rtol=1e-12)


def test_dtype_of_similarity() -> None:
    x, y = images()
    assert metrics.ssim(x, y).dtype == torch.float64
    assert metrics.ssim(x.float(), y.float()).dtype == torch.float32
    assert metrics.ssim(x.float(), y.float(), "mu").tolist() == pytest.approx(metrics.ssim(x, y, "mu").tolist(), 1e-5)


def test_similarity_is_differentiable() -> None:
    x, y = images(shape=(1, 1, 12, 12))
    assert torch.autograd.gradcheck(lambda x: metrics.ssim(x, y, "mu"), (0.1 + 0.5 * x).requires_grad_())


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim, metrics.ms_ssim])
def test_bad_options(metric: Callable[..., Tensor]) -> None:
    x, y = images()
    for options, message in (
        ({"domain": "log"}, "domain must be"),
        ({"normalize": "max"}, "normalize must be"),
        ({"color": "grey"}, "color must be"),
        ({"correct": "gamma"}, "correct must be"),
        ({"domain": "pq"}, "give display_peak"),
        ({"domain": "pu21", "display_peak": -1.0}, "display_peak must be"),
        ({"display_peak": 100.0}, "has no part"),
        ({"correct": "response"}, "give display_peak"),
        ({"data_range": 0.0}, "data_range must be"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(x, y, **options)


def test_bad_images() -> None:
    x, y = images()
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.psnr(x, y[:, :2])
    with pytest.raises(ValueError, match=r"x must be \(N, C, H, W\)"):
        metrics.psnr(x[0], y[0])
    with pytest.raises(ValueError, match="no pixels"):
        metrics.psnr(x[..., :0], y[..., :0])
    with pytest.raises(TypeError, match="x must be uint8, uint16 or floating point"):
        metrics.psnr(x.to(torch.int32), y)
    with pytest.raises(ValueError, match="no positive value"):
        metrics.psnr(x, torch.zeros_like(y), normalize="reference")
    with pytest.raises(ValueError, match="move them to one device"):
        metrics.psnr(x, y.to("meta"))


def test_empty_batch() -> None:
    empty = torch.empty(0, 3, 8, 8)
    assert metrics.psnr(empty, empty, "mu", normalize="reference", correct="exposure").shape == (0,)


def test_arrays_of_numpy() -> None:
    x, y = images()
    assert torch.equal(metrics.psnr(x.numpy(), y.numpy(), "mu"), metrics.psnr(x, y, "mu"))


def test_inputs_are_left_alone() -> None:
    x, y = images()
    before = x.clone(), y.clone()
    metrics.psnr(x, y, "pu21", display_peak=1000, normalize="reference", correct="response")
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
