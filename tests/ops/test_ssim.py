"""Structural similarity: the conventions of others, accuracy, borders, pyramids, gradients, memory."""

from __future__ import annotations

import itertools
import math
import pathlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from cases import CODES, FLOATS, FULL_SCALE, HALVES, in_float64, to_dtype
from tolerance import assert_gradient
from torch import Tensor
from torch.nn import functional as F

import hdrops
from hdrops.ops.ssim import MS_SSIM_WEIGHTS
from hdrops.reference import gaussian

BORDERS = ("valid", "reflect", "symmetric", "replicate", "zeros")
THREE = (0.3, 0.3, 0.4)


def pair(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    """A smooth picture with texture in [0, 1], and a darker one with noise."""
    generator = torch.Generator().manual_seed(seed)
    *outer, height, width = shape
    coarse = torch.rand(*outer, height // 16 + 2, width // 16 + 2, generator=generator, dtype=torch.float64)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    x = 0.8 * smooth + 0.2 * torch.rand(*shape, generator=generator, dtype=torch.float64)
    y = 0.85 * x + noise * (torch.rand(*shape, generator=generator, dtype=torch.float64) - 0.5)
    return to_dtype(x, dtype), to_dtype(y.clamp(0, 1), dtype)


def exact(function: Any, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """The definition in float64 of the images as they are."""
    with in_float64():
        return function(x.cpu(), y.cpu(), backend="reference", **options)


def with_gradients(function: Any, x: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """Value and the gradients of both images."""
    x, y = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
    value = function(x, y, **options)
    return value.detach(), *torch.autograd.grad(value.sum(), (x, y))


# ---- the conventions of others -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}),
        ({"window": 7, "sigma": None, "unbiased": True}, {}),
        (
            {"window": 9, "sigma": None, "k": (0.02, 0.05)},
            {"win_size": 9, "use_sample_covariance": False, "K1": 0.02, "K2": 0.05},
        ),
    ],
    ids=["gaussian", "uniform7", "uniform9"],
)
def test_equals_scikit_image(ours: dict[str, Any], theirs: dict[str, Any], backend: str, device: str) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    x, y = pair(1, 3, 61, 83)
    expected = metrics.structural_similarity(x[0].numpy(), y[0].numpy(), data_range=1.0, channel_axis=0, **theirs)
    actual = hdrops.ssim(x.to(device), y.to(device), backend=backend, **ours).item()
    assert actual == pytest.approx(expected, abs=1e-12)
    actual = hdrops.ssim(255 * x.float().to(device), 255 * y.float().to(device), 255.0, backend=backend, **ours).item()
    assert actual == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [(163, 179), (176, 192)])
def test_equals_pytorch_msssim(size: tuple[int, int], backend: str, device: str) -> None:
    """Values and gradients; theirs with our window, as its own is rounded to float32."""
    peer = pytest.importorskip("pytorch_msssim")
    images = pair(2, 3, *size)
    win = torch.tensor(gaussian.window(1.5, 5), dtype=torch.float64).expand(3, 1, 1, 11)
    common: dict[str, Any] = {"data_range": 1.0, "size_average": False, "win": win}
    kinds = [
        (hdrops.ssim, {}, peer.ssim, {}),
        (hdrops.ms_ssim, {"downsampling": "zeros"}, peer.ms_ssim, {}),
        (hdrops.ms_ssim, {"downsampling": "zeros", "weights": THREE}, peer.ms_ssim, {"weights": list(THREE)}),
    ]
    for function, options, other, settings in kinds:
        expected = with_gradients(other, *images, **common, **settings)
        on_device = [image.to(device) for image in images]
        actual = with_gradients(function, *on_device, reduction="none", backend=backend, **options)
        torch.testing.assert_close(actual[0].cpu(), expected[0], rtol=0, atol=1e-12)
        for a, e in zip(actual[1:], expected[1:], strict=True):
            assert_gradient(a, e, 1e-10)
        single = [image.float() for image in on_device]
        value = function(*single, reduction="none", backend=backend, **options).cpu().double()
        torch.testing.assert_close(value, expected[0], rtol=0, atol=1e-6)


def test_own_windows_of_pytorch_msssim() -> None:
    """As it is called by its users: in float32, with its own window."""
    peer = pytest.importorskip("pytorch_msssim")
    x, y = pair(1, 3, 163, 179, dtype=torch.float32)
    assert hdrops.ssim(x, y).item() == pytest.approx(peer.ssim(x, y, data_range=1.0).item(), abs=1e-5)
    assert hdrops.ms_ssim(x, y, downsampling="zeros").item() == pytest.approx(
        peer.ms_ssim(x, y, data_range=1.0).item(), abs=1e-5
    )


@pytest.mark.parametrize("downsampling", ["symmetric", "zeros"])
def test_scales_are_means_of_two_by_two(downsampling: str, backend: str, device: str) -> None:
    """The product over scales that are halved one after the other."""
    x, y = (image.to(device) for image in pair(1, 1, 51, 62))
    factors = []
    levels = [(x, y)]
    for _ in THREE[1:]:
        halves = []
        for image in levels[-1]:
            odd = [size % 2 for size in image.shape[-2:]]
            if downsampling == "zeros":
                halves.append(F.avg_pool2d(image, 2, padding=odd))
            else:
                halves.append(F.avg_pool2d(F.pad(image, (0, odd[1], 0, odd[0]), mode="replicate"), 2))
        levels.append((halves[0], halves[1]))
    options: dict[str, Any] = {"border": "symmetric", "backend": backend}
    for index, (a, b) in enumerate(levels):
        last = index == len(levels) - 1
        # An added constant of luminance, k_1, that is huge leaves contrast and structure alone.
        factors.append(hdrops.ssim(a, b, k=(0.01 if last else 1e9, 0.03), **options) ** THREE[index])
    expected = torch.stack(factors).prod().item()
    actual = hdrops.ms_ssim(x, y, weights=THREE, downsampling=downsampling, **options).item()
    assert actual == pytest.approx(expected, abs=1e-9)


# ---- accuracy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_bright_flat_areas(dtype: torch.dtype, backend: str, device: str) -> None:
    """Deviations of a thousandth about 0.95, where E[x²] - µ² would leave nothing."""
    generator = torch.Generator().manual_seed(0)
    x, y = (
        (0.95 + 1e-3 * torch.randn(1, 1, 70, 90, generator=generator, dtype=torch.float64)).to(device, dtype)
        for _ in range(2)
    )
    options = {"k": (0.0001, 0.0003)}  # small constants: the moments alone decide
    actual = with_gradients(hdrops.ssim, x, y, backend=backend, **options)
    wide = with_gradients(hdrops.ssim, x.cpu().double(), y.cpu().double(), backend="reference", **options)
    assert actual[0].item() == pytest.approx(wide[0].item(), abs=1e-5)
    for a, e in zip(actual[1:], wide[1:], strict=True):
        assert_gradient(a, e, 1e-4 if dtype == torch.float32 else torch.finfo(dtype).eps)


def test_bright_flat_areas_beside_dark_ones() -> None:
    """No pivot is near to both halves of a tile."""
    generator = torch.Generator().manual_seed(0)
    level = torch.where(torch.arange(180) < 70, 0.02, 0.97)
    x, y = (
        (level + 2e-3 * torch.randn(1, 1, 90, 180, generator=generator, dtype=torch.float64)).float() for _ in range(2)
    )
    actual = with_gradients(hdrops.ssim, x, y)
    wide = with_gradients(hdrops.ssim, x.double(), y.double(), backend="reference")
    assert actual[0].item() == pytest.approx(wide[0].item(), abs=1e-6)
    for a, e in zip(actual[1:], wide[1:], strict=True):
        assert_gradient(a, e, 1e-4)


@pytest.mark.parametrize("dtype", [*FLOATS, *CODES], ids=str)
def test_equal_images_give_exactly_one(dtype: torch.dtype, backend: str, device: str) -> None:
    x, _ = pair(2, 3, 45, 61, dtype=dtype)
    for image in (x.to(device), torch.full_like(x, 1, device=device)):
        for border in ("valid", "symmetric"):
            value = hdrops.ssim(image, image.clone(), border=border, reduction="none", backend=backend)
            assert value.tolist() == [1, 1]
        value = hdrops.ms_ssim(image, image.clone(), weights=THREE, border="zeros", reduction="none", backend=backend)
        assert value.tolist() == [1, 1]


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_codes_are_scaled(dtype: torch.dtype, backend: str, device: str) -> None:
    x, y = (image.to(device) for image in pair(1, 3, 45, 61, dtype=dtype))
    wide = [image.to(torch.float64) / FULL_SCALE[dtype] for image in (x, y)]
    for function, options in ((hdrops.ssim, {}), (hdrops.ms_ssim, {"weights": THREE, "border": "symmetric"})):
        actual = function(x, y, backend=backend, **options).item()
        assert actual == pytest.approx(function(*wide, backend=backend, **options).item(), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e12])
def test_range_of_values(scale: float, backend: str, device: str) -> None:
    """Radiance of any unit, with its range."""
    images = [image.to(device) for image in pair(1, 1, 40, 50)]
    expected = hdrops.ssim(*images, backend=backend).item()
    scaled = [(image * scale).float() for image in images]
    assert hdrops.ssim(*scaled, scale, backend=backend).item() == pytest.approx(expected, abs=1e-6)


# ---- windows, borders, sizes ---------------------------------------------------------------------


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(
    ("window", "sigma"), [(1, 1.5), (3, None), (7, None), (11, 1.5), (13, 2.0), (63, 10.0)], ids=str
)
def test_windows_and_borders(window: int, sigma: float | None, border: Any, backend: str, device: str) -> None:
    """Values and gradients to both images; images smaller than the window where the border allows them."""
    sizes = [(1, 1, 67, 81)] + ([(2, 1, 2, 9), (1, 2, 19, 1)] if border != "valid" else [])
    for size, dtype in itertools.product(sizes, (torch.float64, torch.float32)):
        x, y = pair(*size, dtype=dtype)
        options: dict[str, Any] = {"window": window, "sigma": sigma, "border": border}
        options |= {"unbiased": window > 1, "reduction": "none"}
        expected = with_gradients(hdrops.ssim, x.double(), y.double(), backend="reference", **options)
        actual = with_gradients(hdrops.ssim, x.to(device), y.to(device), backend=backend, **options)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(actual[0].cpu().double(), expected[0], rtol=0, atol=16 * eps)
        for a, e in zip(actual[1:], expected[1:], strict=True):
            assert_gradient(a, e, 500 * eps)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("downsampling", ["symmetric", "zeros"])
def test_many_tiles(border: Any, downsampling: Any) -> None:
    """Sizes that are odd on several levels, over several tiles of the CPU's sweep."""
    for dtype, size in ((torch.float32, (531, 1043)), (torch.float64, (301, 633))):
        x, y = pair(1, 1, *size, dtype=dtype)
        options: dict[str, Any] = {"weights": THREE, "border": border, "downsampling": downsampling}
        expected = with_gradients(hdrops.ms_ssim, x.double(), y.double(), backend="reference", **options)
        actual = with_gradients(hdrops.ms_ssim, x, y, **options)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(actual[0].double(), expected[0], rtol=0, atol=16 * eps)
        for a, e in zip(actual[1:], expected[1:], strict=True):
            assert_gradient(a, e, 500 * eps)


def test_bits_do_not_depend_on_threads_over_tiles(threads: Any) -> None:
    x, y = pair(1, 3, 555, 1111, dtype=torch.float32)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(with_gradients(hdrops.ms_ssim, x, y))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# ---- special values ------------------------------------------------------------------------------


def test_negative_contrast(backend: str, device: str) -> None:
    """Of a negative, contrast-structure is negative: a value below 0 on one scale, 0 with no gradient on several."""
    x = torch.rand(1, 1, 50, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    negative = 1 - x
    value, *grads = with_gradients(hdrops.ssim, x, negative, backend=backend)
    assert value.item() < 0
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in grads)
    value, *grads = with_gradients(hdrops.ms_ssim, x, negative, weights=THREE, border="zeros", backend=backend)
    assert value.item() == 0
    assert all((g == 0).all() for g in grads)


def test_one_negative_channel(backend: str, device: str) -> None:
    """The other channels keep their share and their gradients."""
    x, y = (image.to(device) for image in pair(1, 2, 50, 60))
    y = torch.cat([y[:, :1], 1 - x[:, 1:]], 1)
    options: dict[str, Any] = {"weights": THREE, "border": "zeros", "backend": backend}
    value, grad, _ = with_gradients(hdrops.ms_ssim, x, y, **options)
    assert value.item() == pytest.approx(hdrops.ms_ssim(x[:, :1], y[:, :1], **options).item() / 2, abs=1e-9)
    assert grad[:, 0].abs().max() > 0
    assert (grad[:, 1] == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_with_its_image(bad: float, backend: str, device: str) -> None:
    x, y = (image.to(device) for image in pair(2, 1, 45, 60, dtype=torch.float32))
    x[1, 0, 20, 33] = bad
    for function, options in ((hdrops.ssim, {}), (hdrops.ms_ssim, {"weights": THREE, "border": "symmetric"})):
        value, *grads = with_gradients(function, x, y, reduction="none", backend=backend, **options)
        assert value[0].isfinite()
        assert value[1].isnan()
        assert all(g[0].isfinite().all() and g[1, 0, 20, 33].isnan() for g in grads)


# ---- arguments -----------------------------------------------------------------------------------


def test_too_small_images_are_named(backend: str, device: str) -> None:
    small = torch.rand(1, 3, 160, 200, device=device)
    with pytest.raises(ValueError, match=r"200 x 160 is too small for a window of 11 on 5 scales: give at least 161"):
        hdrops.ms_ssim(small, small, backend=backend)
    assert hdrops.ms_ssim(small, small, border="symmetric", backend=backend).item() == 1
    tiny = small[..., :10, :40]
    with pytest.raises(ValueError, match="40 x 10 is too small for a window of 11: give at least 11 pixels a side"):
        hdrops.ssim(tiny, tiny, backend=backend)
    assert hdrops.ssim(tiny, tiny, window=9, backend=backend).item() == 1


def test_smallest_images(backend: str, device: str) -> None:
    x, y = (image.to(device) for image in pair(1, 1, 41, 41))
    options: dict[str, Any] = {"weights": THREE}
    expected = exact(hdrops.ms_ssim, x, y, **options).item()
    assert hdrops.ms_ssim(x, y, backend=backend, **options).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_range": 0.0}, "data_range must be 1e-15 to 1e+15, got 0.0"),
        ({"window": 10}, "window must be an odd number of taps, 1 to 127, got 10"),
        ({"sigma": -1.0}, "sigma of the window must be 0.01 to 1e+06 pixels, got -1.0"),
        ({"border": "wrap"}, "border must be one of valid, reflect, symmetric, replicate, zeros, got 'wrap'"),
        ({"k": (0.01, -1.0)}, "k must be two finite constants >= 0"),
        ({"reduction": "sum"}, "reduction must be 'mean' or 'none', got 'sum'"),
        ({"window": 1, "unbiased": True}, "unbiased needs a window of at least 3 taps"),
        ({"weights": ()}, "weights must be 1 to 16 finite exponents >= 0"),
        ({"weights": (0.5, -0.1)}, "weights must be 1 to 16 finite exponents >= 0"),
        ({"downsampling": "half"}, "downsampling must be 'symmetric' or 'zeros', got 'half'"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    x = torch.rand(1, 1, 200, 200)
    function = hdrops.ms_ssim if {"weights", "downsampling"} & options.keys() else hdrops.ssim
    with pytest.raises(ValueError, match=re.escape(message)):
        function(x, x, **options)


def test_images_must_agree() -> None:
    x = torch.rand(1, 1, 20, 20)
    with pytest.raises(TypeError, match=r"one dtype, got torch\.float32 and torch\.float64"):
        hdrops.ssim(x, x.double())
    with pytest.raises(ValueError, match="one shape"):
        hdrops.ssim(x, x[..., 1:])
    with pytest.raises(ValueError, match="has no pixels"):
        hdrops.ssim(x[..., :0], x[..., :0])


def test_operator_checks_its_arguments() -> None:
    """Those that the public functions never pass."""
    x = torch.rand(1, 1, 12, 12)
    taps = gaussian.window(1.5, 2)

    def means(window: list[float] = taps, border: int = 0, levels: int = 1, y: Tensor = x) -> Tensor:
        return torch.ops.hdrops.ssim_means(x, y, window, 1e-4, 9e-4, 1.0, border, levels, False)

    with pytest.raises(RuntimeError, match="window must have an odd number of taps, got 4"):
        means([0.25] * 4)
    with pytest.raises(RuntimeError, match="window must be symmetric"):
        means([0.5, 0.3, 0.2])
    with pytest.raises(RuntimeError, match="border must be 0 to 4, got 5"):
        means(border=5)
    with pytest.raises(RuntimeError, match="levels must be at least 1, got 0"):
        means(levels=0)
    with pytest.raises(RuntimeError, match="level 2 of x has 3 x 3 pixels, fewer than the window of 5 a side"):
        means(levels=3)
    with pytest.raises(RuntimeError, match="y must be float32 here, got float64"):
        means(y=x.double())
    grad = torch.rand(1, 1, 1, 2)
    arguments = (taps, 1e-4, 9e-4, 1.0, 0, 1, False, True, True)
    with pytest.raises(RuntimeError, match=r"grad must be \(N, C, levels, 2\) of the means, got \(1, 1, 2, 2\)"):
        torch.ops.hdrops.ssim_means_backward(grad.expand(1, 1, 2, 2), x, x, *arguments)
    codes = (x * 255).to(torch.uint8)
    with pytest.raises(RuntimeError, match="integer images have no gradient"):
        torch.ops.hdrops.ssim_means_backward(grad, codes, codes, *arguments)


# ---- memory --------------------------------------------------------------------------------------


def test_nothing_but_the_images_is_saved() -> None:
    x, y = (image.requires_grad_() for image in pair(1, 3, 200, 220, dtype=torch.float32))
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hdrops.ms_ssim(x, y)
    large = {tensor.data_ptr() for tensor in saved if tensor.numel() > 1000}
    assert large == {x.data_ptr(), y.data_ptr()}


MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, hdrops
from timing import PeakMemory
x = torch.rand(1, 1, 6000, 4000).requires_grad_()
y = torch.rand(1, 1, 6000, 4000)
small = x[..., :200, :200]
hdrops.ms_ssim(small, y[..., :200, :200]).backward()
x.grad = None
with PeakMemory("cpu") as peak:
    torch.autograd.grad(hdrops.ms_ssim(x, y), x)
print(-1 if peak.bytes is None else peak.bytes / (x.numel() * x.element_size()))
"""


def test_memory() -> None:
    """Forward and backward take the gradient, and a third of each image and of the gradient for coarser levels."""
    bench = pathlib.Path(__file__).parents[2] / "bench"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, str(bench)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    images = float(done.stdout)
    if images < 0:
        pytest.skip("this system does not tell the peak of resident memory")
    assert images <= 2.2, f"{images:.2f} times an image"


def test_arrays() -> None:
    """NumPy arrays, as metrics get them."""
    x, y = (image.numpy() for image in pair(1, 3, 40, 50, dtype=torch.float32))
    assert isinstance(x, np.ndarray)
    assert hdrops.ssim(x, y).item() == hdrops.ssim(torch.from_numpy(x), torch.from_numpy(y)).item()


def test_default_weights_are_those_of_the_paper() -> None:
    assert MS_SSIM_WEIGHTS == (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    x, y = pair(1, 1, 170, 170)
    assert hdrops.ms_ssim(x, y).item() == hdrops.ms_ssim(x, y, weights=[0.0448, 0.2856, 0.3001, 0.2363, 0.1333]).item()


# ---- extremes ------------------------------------------------------------------------------------


def highlight(added: float) -> tuple[Tensor, Tensor]:
    """A picture around 0.5 and a noisier one, with a light that exceeds the range of values by far."""
    generator = torch.Generator().manual_seed(0)
    x = 0.45 + 0.1 * torch.rand(1, 1, 128, 128, generator=generator, dtype=torch.float64)
    y = x + 0.02 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    x[..., 40:70, 50:80] += added
    y[..., 40:70, 50:80] += added
    return x, y


@pytest.mark.parametrize("added", [100.0, 1000.0, 5000.0])
def test_highlights_far_beyond_the_range(added: float, backend: str, device: str) -> None:
    x, y = (image.float() for image in highlight(added))
    exact = hdrops.ssim(x.double(), y.double(), backend="reference").item()
    value = hdrops.ssim(x.to(device), y.to(device), backend=backend).item()
    assert abs(value) <= 1
    # The windows of the light, a twentieth of all, are lost to rounding; the reference has one pivot per image.
    assert abs(value - exact) < (0.2 if backend == "reference" else 5e-3)
    same = x.to(device)
    assert hdrops.ssim(same, same, backend=backend).item() == 1


@pytest.mark.parametrize("unit", [1e-9, 1e11])
def test_gradients_in_any_unit(unit: float, backend: str, device: str) -> None:
    x, y = highlight(0.2)

    def gradient(dtype: torch.dtype, scale: float, kind: str, place: str) -> Tensor:
        leaf = (scale * x).to(place, dtype).requires_grad_()
        value = hdrops.ssim(leaf, (scale * y).to(place, dtype), scale, backend=kind)
        return scale * torch.autograd.grad(value, leaf)[0].cpu().double()

    exact = gradient(torch.float64, 1.0, "reference", "cpu")
    error = (gradient(torch.float32, unit, backend, device) - exact).norm() / exact.norm()
    assert float(error) < 1e-5


@pytest.mark.parametrize("dtype", CODES)
def test_codes_have_one_range(dtype: torch.dtype) -> None:
    """255 for bytes, as other libraries want it, would be taken for 255 times the range."""
    image = torch.zeros(1, 1, 16, 16, dtype=dtype)
    with pytest.raises(ValueError, match=r"codes are scaled to \[0, 1\]"):
        hdrops.ssim(image, image, 255.0)


def test_operator_refuses_windows_and_levels_without_end() -> None:
    image = torch.rand(1, 1, 16, 16)
    symmetric = 2

    def call(window: list[float], levels: int) -> Tensor:
        return torch.ops.hdrops.ssim_means(image, image, window, 1e-4, 9e-4, 1.0, symmetric, levels, False)

    for window, levels in (([1 / 129] * 129, 1), ([1.0], 61), ([1.0], 1 << 40), ([math.nan], 1)):
        with pytest.raises(RuntimeError):
            call(window, levels)
    assert call([1 / 127] * 127, 1).isfinite().all()
