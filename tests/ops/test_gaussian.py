"""Operator ``gaussian``: what the contract does not say of it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import CODES, FLOATS, FULL_SCALE, INTERPRETING
from photographs import photographs
from torch import Tensor

import hdrops
from hdrops.ops._borders import BORDERS
from hdrops.reference import gaussian as reference

# Of float32 against the exact window, in units of the contrast of the image (docstring of gaussian_blur).
METHOD_ERROR = 3e-5
BORDER_NAMES = ("reflect", "symmetric", "replicate", "zeros")
# Names of the borders in NumPy; zeros are "constant".
NUMPY_MODES = {"reflect": "reflect", "symmetric": "symmetric", "replicate": "edge", "zeros": "constant"}
SIZES = [(1, 1), (1, 9), (7, 1), (2, 2), (9, 7), (40, 33), (65, 130)]


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def radius_of(sigma: float) -> int:
    return math.floor(3 * sigma + 0.5)


def exact_blur(image: Tensor, sigma: float, border: str = "reflect", radius: int | None = None) -> Tensor:
    """The separable window in float64 with NumPy's padding and convolution: nothing of hdrops."""
    reach = radius or radius_of(sigma)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    window /= window.sum()

    def along(axis: int, array: np.ndarray) -> np.ndarray:
        padding = [(reach, reach) if a == axis else (0, 0) for a in range(array.ndim)]
        padded = np.pad(array, padding, NUMPY_MODES[border])
        # Transforms of a length without large factors.
        length = padded.shape[axis]
        size = 1 << (length + 2 * reach).bit_length()
        shape = [-1 if a == axis else 1 for a in range(array.ndim)]
        product = np.fft.rfft(padded, size, axis) * np.fft.rfft(window, size).reshape(shape)
        full = np.fft.irfft(product, size, axis)
        return np.take(full, np.arange(2 * reach, length), axis)

    return torch.from_numpy(along(3, along(2, image.cpu().double().numpy())))


def exact_mask(image: Tensor, sigma: float, border: str = "reflect", invert: bool = False) -> Tensor:
    blurred = exact_blur(image, sigma, border)
    low, high = blurred.amin((1, 2, 3), keepdim=True), blurred.amax((1, 2, 3), keepdim=True)
    value = (blurred - low) / (high - low)
    return 1 - value if invert else value


def scene(height: int, width: int, seed: int = 0) -> Tensor:
    """A grey picture like a photograph: structure at all scales, and clipped areas."""
    random = np.random.default_rng(seed)
    picture = torch.zeros(1, 1, height, width)
    for cells, weight in ((3, 0.5), (12, 0.25), (48, 0.12), (192, 0.06)):
        coarse = torch.from_numpy(random.standard_normal((1, 1, cells, cells), dtype=np.float32))
        picture += weight * torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (picture + 0.5).clamp(0, 1)


# ---- values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1, 2, 4, 4.2, 5, 7.3, 10, 20, 35, 50, 100, 200])
def test_sigma_sweep(sigma: float, backend: str, device: str) -> None:
    size = (23, 31) if INTERPRETING else (61, 90) if backend == "reference" else (310, 263)
    if backend != "cpp" and device == "cpu" and sigma > 20:
        pytest.skip("long windows are too slow for the reference and the interpreter")
    image = random_image(1, 2, *size)
    blurred = hdrops.gaussian_blur(image.to(device), sigma, backend=backend).cpu()
    error = (blurred.double() - exact_blur(image, sigma)).abs().max()
    assert float(error) < (METHOD_ERROR if radius_of(sigma) > 12 else 1e-6)
    precise = hdrops.gaussian_blur(image.double().to(device), sigma, backend=backend).cpu()
    torch.testing.assert_close(precise, exact_blur(image, sigma), rtol=0, atol=1e-13)


@pytest.mark.parametrize("border", BORDER_NAMES)
@pytest.mark.parametrize("sigma", [0.8, 6.0, 40.0, 200.0])
def test_borders_and_small_images(sigma: float, border: Any, backend: str, device: str) -> None:
    if backend != "cpp" and device == "cpu" and sigma > 6:
        pytest.skip("long windows are too slow for the reference and the interpreter")
    for size in SIZES[:: 3 if INTERPRETING else 1]:
        image = random_image(2, 1, *size) + 3
        blurred = hdrops.gaussian_blur(image.to(device), sigma, border=border, backend=backend).cpu()
        exact = exact_blur(image, sigma, border)
        error = (blurred.double() - exact).abs().max()
        # Zeros beyond the border make a contrast of 4 of values from 3 to 4.
        assert float(error) < 4 * METHOD_ERROR, f"{size}: {float(error):.2g}"
        torch.testing.assert_close(
            hdrops.gaussian_blur(image.double().to(device), sigma, border=border, backend=backend).cpu(),
            exact,
            rtol=0,
            atol=1e-12,
        )


@pytest.mark.parametrize(("sigma", "radius"), [(10, 13), (10, 25), (10, 40), (10, 55), (10, 200), (3, 2), (50, 20)])
def test_radius(sigma: float, radius: int, backend: str, device: str) -> None:
    """Windows cut short or long: as many cosines as it takes."""
    if backend != "cpp" and device == "cpu" and radius > 60:
        pytest.skip("long windows are too slow for the reference and the interpreter")
    image = random_image(1, 1, 17, 29) if INTERPRETING else random_image(1, 1, 80, 217)
    blurred = hdrops.gaussian_blur(image.to(device), sigma, radius, backend=backend).cpu()
    exact = exact_blur(image, sigma, radius=radius)
    assert float((blurred.double() - exact).abs().max()) < METHOD_ERROR
    if radius < 30:
        other = exact_blur(image, sigma, radius=radius + max(1, radius // 5))
        assert float((other - exact).abs().max()) > METHOD_ERROR, "the radius makes no difference here"


@pytest.mark.parametrize("reach", [0.2, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 7, 30])
def test_cpp_cosines_fit_the_window(reach: float) -> None:
    """The response to a single pixel is the window: its differences sum up to 1e-5 at most."""
    for sigma in (4.4, 10, 33, 100, 200):
        radius = max(1, round(reach * sigma))
        span = min(radius, 1500) + 30
        image = torch.zeros(1, 1, 1, 2 * span + 1)
        image[..., span] = 1
        response = hdrops.gaussian_blur(image, sigma, radius, "zeros", backend="cpp")[0, 0, 0].double()
        vertical = exact_blur(torch.ones(1, 1, 1, 1), sigma, "zeros", radius).item() ** 0.5
        exact = exact_blur(image, sigma, "zeros", radius)[0, 0, 0]
        error = (response - exact).abs().sum() / vertical
        assert float(error) < 1.5e-5, f"sigma {sigma}, radius {radius}: {float(error):.2g}"


def test_equals_opencv(backend: str, device: str) -> None:
    cv2 = pytest.importorskip("cv2")
    borders = {"reflect": cv2.BORDER_REFLECT_101, "symmetric": cv2.BORDER_REFLECT, "replicate": cv2.BORDER_REPLICATE}
    image = random_image(40, 57) if INTERPRETING else random_image(190, 257)
    for (border, number), sigma in itertools.product(borders.items(), (1.0, 2.0, 5.0, 12.0)):
        taps = 2 * radius_of(sigma) + 1
        expected = torch.from_numpy(cv2.GaussianBlur(image.numpy(), (taps, taps), sigma, borderType=number))
        actual = hdrops.gaussian_blur(image[None, None].to(device), sigma, border=border, backend=backend).cpu()[0, 0]
        assert float((actual - expected).abs().max()) < METHOD_ERROR, f"{border}, {sigma}"


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("sigma", [1.0, 9.0])
def test_codes_are_rounded_exact_results(sigma: float, dtype: torch.dtype, backend: str, device: str) -> None:
    full = FULL_SCALE[dtype]
    size = (17, 23) if INTERPRETING else (120, 251)
    codes = (random_image(1, 3, *size).double() * full).round().to(torch.int32).to(dtype)
    exact = exact_blur(codes.to(torch.float64), sigma)
    blurred = hdrops.gaussian_blur(codes.to(device), sigma, backend=backend).cpu()
    # Half a code, and what float32 adds.
    assert float((blurred.double() - exact).abs().max()) <= 0.5 + METHOD_ERROR * full
    if dtype == torch.uint8:
        safe = ((exact - exact.floor()) - 0.5).abs() > METHOD_ERROR * full
        assert torch.equal(blurred[safe], exact.round().to(torch.uint8)[safe])
    wide = hdrops.gaussian_blur(codes.to(device), sigma, dtype=torch.float32, backend=backend).cpu()
    assert float((wide.double() - exact / full).abs().max()) < METHOD_ERROR


def test_cpp_accuracy_on_pictures() -> None:
    """The mask of pictures is within 2e-4 of its range, for any sigma: by far, in fact."""
    picture = scene(1000, 1400)
    for sigma in (3, 5, 10, 20, 50):
        for invert in (False, True):
            mask = hdrops.gaussian_mask(picture, sigma, invert)
            error = (mask.double() - exact_mask(picture, sigma, invert=invert)).abs().max()
            assert float(error) < 2e-5, f"sigma {sigma}: {float(error):.2g}"


def test_cpp_accuracy_on_photographs() -> None:
    cv2 = pytest.importorskip("cv2")
    data = photographs()
    files = sorted((data / "brackets" / "highres").glob("*/*.jpg"))
    for file in files[:: max(1, len(files) // 4)]:
        picture = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        assert picture is not None
        image = torch.from_numpy(picture[:1200, :1600].copy())[None, None].float() / 255
        for sigma in (3, 10, 50):
            error = (hdrops.gaussian_mask(image, sigma).double() - exact_mask(image, sigma)).abs().max()
            assert float(error) < 5e-5, f"{file.name}, sigma {sigma}: {float(error):.2g}"


@pytest.mark.parametrize("shape", [(1, 1, 7, 9000), (1, 1, 3000, 20), (3, 2, 700, 90), (1, 3, 1031, 517)])
def test_bands_have_no_seam(shape: tuple[int, ...], threads: Any) -> None:
    """Where the C++ kernel begins its sums anew nothing shows, whatever the threads."""
    image = random_image(*shape)
    for sigma in (2, 8, 30):
        threads(1)
        blurred = hdrops.gaussian_blur(image, sigma)
        error = (blurred.double() - exact_blur(image, sigma)).abs().max()
        assert float(error) < METHOD_ERROR
        threads(2)
        assert torch.equal(hdrops.gaussian_blur(image, sigma), blurred)
        mask = hdrops.gaussian_mask(image, sigma)
        threads(1)
        assert torch.equal(hdrops.gaussian_mask(image, sigma), mask)


# ---- flat images, offsets, special values ------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*FLOATS, *CODES])
@pytest.mark.parametrize("sigma", [0.7, 9.0])
def test_flat_image(sigma: float, dtype: torch.dtype, backend: str, device: str) -> None:
    for size in ((1, 1), (9, 13)):
        image = torch.full((2, 3, *size), 77, dtype=torch.int32).to(dtype).to(device)
        if dtype in FLOATS:
            image = image / 100
        blurred = hdrops.gaussian_blur(image, sigma, backend=backend)
        if backend == "cpp" or dtype in CODES:
            assert torch.equal(blurred, image)
        one = FULL_SCALE.get(dtype, 1)
        for invert in (False, True):
            mask = hdrops.gaussian_mask(image, sigma, invert, backend=backend)
            assert (mask == one).all(), "a flat image has a mask of ones"


def test_one_flat_image_of_a_batch(backend: str, device: str) -> None:
    images = random_image(3, 1, 12, 15)
    images[1] = 0.25
    masks = hdrops.gaussian_mask(images.to(device), 1.0, backend=backend).cpu()
    assert (masks[1] == 1).all()
    for i in (0, 2):
        assert (float(masks[i].min()), float(masks[i].max())) == (0, 1)
        single = hdrops.gaussian_mask(images[i : i + 1].to(device), 1.0, backend=backend).cpu()
        assert torch.equal(single[0], masks[i])


@pytest.mark.parametrize("sigma", [1.0, 8.0])
def test_mask_range_and_inverse(sigma: float, backend: str, device: str) -> None:
    """Over all channels of an image; 0 and 1 occur; the inverse is 1 - M."""
    size = (19, 22) if INTERPRETING else (60, 75)
    image = random_image(2, 3, *size) + torch.tensor([0.0, 2.0, 5.0]).view(3, 1, 1)
    mask = hdrops.gaussian_mask(image.to(device), sigma, backend=backend).cpu()
    inverse = hdrops.gaussian_mask(image.to(device), sigma, True, backend=backend).cpu()
    assert mask.amin((1, 2, 3)).tolist() == [0, 0]
    assert mask.amax((1, 2, 3)).tolist() == [1, 1]
    torch.testing.assert_close(inverse, 1 - mask, rtol=0, atol=1e-6)
    exact = exact_mask(image, sigma)
    assert float((mask.double() - exact).abs().max()) < METHOD_ERROR


def test_cpp_offset_costs_no_accuracy() -> None:
    """Contrast 1 on a pedestal of 1000: relative to the contrast as good as without."""
    image = scene(300, 400).double()
    for sigma in (2, 10):
        raised = (image + 1000).float()
        error = (hdrops.gaussian_mask(raised, sigma).double() - exact_mask(raised, sigma)).abs().max()
        assert float(error) < 1e-4


@pytest.mark.parametrize("sigma", [1.0, 4.5])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_mask_of_infinity(value: float, sigma: float, backend: str, device: str) -> None:
    """A maximum of infinity leaves 0 outside its windows, a minimum nothing."""
    if INTERPRETING and sigma > 1:
        pytest.skip("long windows are too slow for the interpreter")
    image = random_image(1, 1, 40, 50)
    image[0, 0, 20, 25] = value
    mask = hdrops.gaussian_mask(image.to(device), sigma, backend=backend).cpu()
    reach = radius_of(sigma)
    window = torch.zeros_like(mask, dtype=torch.bool)
    window[..., max(0, 20 - reach) : 21 + reach, max(0, 25 - reach) : 26 + reach] = True
    assert torch.equal(mask.isnan(), window if value > 0 else torch.ones_like(window))
    assert (mask[~mask.isnan()] == 0).all()


@pytest.mark.parametrize("sigma", [1.0, 10.0])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_special_values_stay_within_the_window(sigma: float, value: float, backend: str, device: str) -> None:
    size = (70, 23) if INTERPRETING else (160, 300)
    if INTERPRETING and sigma > 1:
        pytest.skip("long windows are too slow for the interpreter")
    clean = random_image(1, 2, *size)
    image = clean.clone()
    y, x = size[0] // 2, size[1] // 2
    image[0, 1, y, x] = value
    blurred = hdrops.gaussian_blur(image.to(device), sigma, backend=backend).cpu()
    reach = radius_of(sigma)
    inside = torch.zeros(blurred.shape, dtype=torch.bool)
    inside[0, 1, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = True
    expected = torch.full_like(blurred[inside], value)
    assert torch.equal(blurred[inside].nan_to_num(5.0), expected.nan_to_num(5.0))
    assert blurred[~inside].isfinite().all()
    error = (blurred.double() - exact_blur(clean, sigma)).abs()[~inside]
    assert float(error.max()) < METHOD_ERROR


def test_mask_of_nan_is_nan(backend: str, device: str) -> None:
    images = random_image(2, 1, 20, 21)
    images[0, 0, 3, 4] = math.nan
    for sigma in (1.0, 6.0):
        for invert in (False, True):
            masks = hdrops.gaussian_mask(images.to(device), sigma, invert, backend=backend).cpu()
            assert masks[0].isnan().all()
            assert masks[1].isfinite().all()


@pytest.mark.parametrize("at", [(0, 0), (150, 150)])
def test_first_pixel_may_be_special(at: tuple[int, int], backend: str, device: str) -> None:
    if INTERPRETING:
        pytest.skip("the origin of values is that of the C++ kernel")
    image = random_image(1, 1, 151, 151)
    image[0, 0, at[0], at[1]] = math.inf
    blurred = hdrops.gaussian_blur(image.to(device), 5.0, backend=backend).cpu()
    assert int((blurred == math.inf).sum()) == 16 * 16
    assert int(blurred.isfinite().sum()) == 151 * 151 - 16 * 16


# ---- gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", BORDER_NAMES)
@pytest.mark.parametrize("sigma", [0.7, 5.0, 30.0])
def test_adjoint(sigma: float, border: Any, backend: str, device: str) -> None:
    """<B x, y> = <x, B' y>, images larger and smaller than the window."""
    if backend != "cpp" and device == "cpu" and sigma > 5:
        pytest.skip("long windows are too slow for the reference and the interpreter")
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, METHOD_ERROR)):
        for size in SIZES[:: 3 if INTERPRETING else 1]:
            x = random_image(1, 2, *size, seed=1).to(dtype).to(device).requires_grad_()
            y = random_image(1, 2, *size, seed=2).to(dtype).to(device) - 0.3
            blurred = hdrops.gaussian_blur(x, sigma, border=border, backend=backend)
            (adjoint,) = torch.autograd.grad(blurred, x, y)
            left, right = (blurred.double() * y.double()).sum().item(), (x.double() * adjoint.double()).sum().item()
            scale = float(x.detach().double().norm() * y.double().norm())
            assert abs(left - right) <= tolerance * scale, f"{size}, {dtype}"


@pytest.mark.parametrize("invert", [False, True])
def test_mask_gradient_of_wide_windows(invert: bool, backend: str, device: str) -> None:
    if backend != "cpp" and device == "cpu":
        pytest.skip("long windows are too slow for the reference and the interpreter")
    picture = scene(200, 260)
    upstream = random_image(1, 1, 200, 260, seed=3) - 0.4
    number = BORDERS["reflect"]
    exact = reference.gaussian_mask_backward(upstream.double(), picture.double(), 9.0, 27, number, invert)
    leaf = picture.to(device).requires_grad_()
    mask = hdrops.gaussian_mask(leaf, 9.0, invert, backend=backend)
    (grad,) = torch.autograd.grad(mask, leaf, upstream.to(device))
    distance = (grad.cpu().double() - exact).norm() / exact.norm()
    assert float(distance) < 1e-3


def test_pixels_at_the_extremes_share_their_gradient(backend: str, device: str) -> None:
    """Three pixels at the maximum of the blurred image and two at the minimum."""
    image = torch.zeros(1, 1, 3, 60, dtype=torch.float64) + 0.5
    for x in (5, 25, 45):
        image[..., x] = 1
    for x in (15, 35):
        image[..., x] = 0
    leaf = image.to(device).requires_grad_()
    mask = hdrops.gaussian_mask(leaf, 0.5, backend=backend)
    assert int((mask == 1).sum()) == 9
    assert int((mask == 0).sum()) == 6
    upstream = random_image(*image.shape).double().to(device)
    (grad,) = torch.autograd.grad(mask, leaf, upstream)
    expected = reference.gaussian_mask_backward(upstream.cpu(), image, 0.5, 2, BORDERS["reflect"], False)
    torch.testing.assert_close(grad.cpu(), expected, rtol=1e-10, atol=1e-12)


def test_gradient_of_a_flat_mask_is_zero(backend: str, device: str) -> None:
    leaf = torch.full((2, 1, 9, 11), 0.3, device=device)
    leaf[1] = random_image(1, 9, 11).to(device)
    leaf.requires_grad_()
    mask = hdrops.gaussian_mask(leaf, 1.0, backend=backend)
    (grad,) = torch.autograd.grad(mask, leaf, random_image(*mask.shape).to(device))
    assert (grad[0] == 0).all()
    assert float(grad[1].abs().max()) > 0


# ---- arguments ---------------------------------------------------------------------------------------


def test_arguments_are_checked(backend: str, device: str) -> None:
    image = random_image(1, 1, 8, 8).to(device)
    for operator in (hdrops.gaussian_blur, hdrops.gaussian_mask):
        for sigma in (0.0, 0.29, 200.5, -3, math.nan):
            with pytest.raises(ValueError, match=r"sigma must be 0\.3 to 200 pixels, got"):
                operator(image, sigma, backend=backend)
        with pytest.raises(ValueError, match="radius must be 1 to 10000 whole pixels, got 0"):
            operator(image, 2.0, radius=0, backend=backend)
        for border in ("valid", "mirror"):
            with pytest.raises(ValueError, match=f"border must be one of reflect.*got '{border}'"):
                operator(image, 2.0, border=border, backend=backend)
        out = torch.empty(1, 1, 8, 8, device=device)
        with pytest.raises(ValueError, match="out shares memory with an input"):
            operator(image, 2.0, out=image, backend=backend)
        assert operator(image, 2.0, out=out, backend=backend) is out


def test_schema_checks_its_arguments() -> None:
    """Who calls the dispatcher gets an error too, no crash."""
    image = random_image(1, 1, 8, 8)
    blur, backward = torch.ops.hdrops.gaussian_blur, torch.ops.hdrops.gaussian_blur_backward
    for arguments, message in (
        ((image, math.nan, 3, 1), "sigma must be"),
        ((image, 2.0, 0, 1), "radius must be"),
        ((image, 2.0, 6, 0), "border must be"),
        ((image, 2.0, 6, 5), "border must be"),
        ((image[0], 2.0, 6, 1), "image must be"),
    ):
        with pytest.raises(RuntimeError, match=message):
            blur(*arguments)
    with pytest.raises(RuntimeError, match="grad must be floating point"):
        backward((image * 255).to(torch.uint8), 2.0, 6, 1)
    with pytest.raises(RuntimeError, match="grad must have the shape of the image"):
        torch.ops.hdrops.gaussian_mask_backward(image[..., :4], image, 2.0, 6, 1, False)
    with pytest.raises(RuntimeError, match="integer images have no gradient"):
        torch.ops.hdrops.gaussian_mask_backward(image, (image * 255).to(torch.uint8), 2.0, 6, 1, False)
