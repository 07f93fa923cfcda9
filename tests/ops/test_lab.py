"""Operator ``lab``: what the contract does not say of it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import CODES, FLOATS, FULL_SCALE
from torch import Tensor

import hdrops
from hdrops.reference import lab as definition

# sRGB (IEC 61966-2-1) and CIELAB (CIE 15) once more, in float64: chromaticities, then linear algebra.
PRIMARIES = np.array([[0.64, 0.33, 0.03], [0.30, 0.60, 0.10], [0.15, 0.06, 0.79]]).T
WHITE = np.array([0.3127, 0.3290, 0.3583]) / 0.3290
MATRIX = PRIMARIES @ np.diag(np.linalg.solve(PRIMARIES, WHITE)) / WHITE[:, None]


def oracle(rgb: np.ndarray) -> np.ndarray:
    """L*, a*, b* along the first axis of R, G, B in [0, 1]."""
    light = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = np.tensordot(MATRIX, light, 1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def cube(values: Tensor) -> Tensor:
    """Every colour of the given values: (1, 3, n², n)."""
    return torch.stack(torch.meshgrid(values, values, values, indexing="ij")).reshape(1, 3, -1, len(values))


def grid(count: int) -> Tensor:
    return cube(torch.linspace(0, 1, count, dtype=torch.float64))


def to(image: Tensor, **options: Any) -> Tensor:
    return hdrops.rgb_to_lab(image, **options)


def back(lab: Tensor, **options: Any) -> Tensor:
    return hdrops.lab_to_rgb(lab, **options)


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_equals_the_standards(dtype: torch.dtype, allowed: float, backend: str, device: str) -> None:
    rgb = grid(17).to(dtype)
    expected = oracle(rgb.double().numpy()[0])
    error = np.abs(to(rgb.to(device), backend=backend)[0].cpu().double().numpy() - expected).max()
    assert error <= allowed
    exact = torch.from_numpy(expected)[None].to(dtype)
    returned = back(exact.to(device), backend=backend).cpu()
    torch.testing.assert_close(returned, rgb, rtol=0, atol=1e-13 if dtype == torch.float64 else 1e-5)


def test_matrices_are_exact() -> None:
    """Rows sum to 1, one is the inverse of the other, and both are those of the chromaticities."""
    forward, inverse = definition._rgb_to_xyz(), definition._inverse(definition._rgb_to_xyz())
    assert all(sum(row) == 1 for row in (*forward, *inverse))
    product = [
        [sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*inverse, strict=True)]
        for row in forward
    ]
    assert product == [[i == j for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(np.array(forward, float), MATRIX, rtol=1e-14)


@pytest.mark.parametrize("function", [to, back])
@pytest.mark.parametrize("offset", [0, 1])
def test_large_images_are_made_of_the_same_pixels(function: Any, offset: int, device: str) -> None:
    """Wherever in memory their results begin."""
    height, width = 1823, 1601  # 35 MB of float32
    image = cube(torch.linspace(0, 1, 144))[:, :, :-1].flatten(2)[..., : height * width].view(1, 3, height, width)
    image = (image if function is to else to(image)).to(device)
    memory = torch.full((image.numel() + 2,), torch.nan, device=device)
    out = memory[offset : offset + image.numel()].view_as(image)
    function(image, out=out)
    rows = [function(image[..., row : row + 91, :]) for row in range(0, height, 91)]
    assert torch.equal(out, torch.cat(rows, 2))
    assert int(memory.isnan().sum()) == 2


@pytest.mark.parametrize("dtype", FLOATS)
def test_fixed_points(dtype: torch.dtype, backend: str, device: str) -> None:
    """Black and white, and grey, which is neutral to the bit in both directions.

    In the reference only to rounding: powers of torch round differently in the last elements of a plane.
    """
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    slack = 4 * eps if backend == "reference" else 0.0
    grey = torch.linspace(-0.5, 1.5, 801, dtype=torch.float64)
    grey = torch.cat([grey, torch.tensor([0.0, 1.0])]).to(dtype).to(device).expand(1, 3, 1, -1)
    lab = to(grey, backend=backend)
    assert (lab[:, 1:].abs() <= 500 * slack).all()
    assert lab[0, 0, 0, -2] == 0
    assert abs(lab[0, 0, 0, -1].item() - 100) <= 100 * torch.finfo(dtype).eps
    assert (lab[0, 0, 0, :801].diff() >= 0).all()
    rgb = back(lab, backend=backend)
    assert (rgb[:, ::2] - rgb[:, 1:2]).abs().max().item() <= (slack and 32 * torch.finfo(dtype).eps)


def test_primaries(backend: str, device: str) -> None:
    """Red, green and blue in the usual tables, which round the matrix: within 0.1."""
    rgb = torch.eye(3, device=device).view(1, 3, 1, 3)
    expected = torch.tensor([[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]).T.view(1, 3, 1, 3)
    torch.testing.assert_close(to(rgb, backend=backend).cpu(), expected, rtol=0, atol=0.1)


def test_equals_scikit_image(backend: str, device: str) -> None:
    color = pytest.importorskip("skimage.color")
    rgb = grid(9)
    theirs = torch.from_numpy(color.rgb2lab(rgb[0].numpy(), channel_axis=0))[None]
    torch.testing.assert_close(to(rgb.to(device), backend=backend).cpu(), theirs, rtol=0, atol=0.02)


def test_equals_opencv(backend: str, device: str) -> None:
    """OpenCV interpolates in tables: its error is up to 0.7."""
    cv2 = pytest.importorskip("cv2")
    rgb = grid(9).float()
    theirs = cv2.cvtColor(np.ascontiguousarray(rgb[0].permute(1, 2, 0).numpy()), cv2.COLOR_RGB2Lab)
    ours = to(rgb.to(device), backend=backend).cpu()[0].permute(1, 2, 0)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1.0)


# ---- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_round_trip(dtype: torch.dtype, allowed: float, backend: str, device: str) -> None:
    """Also on the faces of the cube, where the curve is steep and the matrix cancels."""
    values = torch.tensor([0, 1e-6, 1e-3, 0.0404, 0.0405, 0.3, 0.999, 1.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    face = torch.rand(2, 40, 50, generator=generator, dtype=torch.float64).sqrt()
    faces = [
        torch.cat([face, torch.full((1, 40, 50), float(value), dtype=torch.float64)])
        .roll(channel, 0)
        .reshape(1, 3, 50, 40)
        for value, channel in itertools.product(values, range(3))
    ]
    for rgb in (cube(values), *faces):
        image = rgb.to(dtype).to(device)
        error = (back(to(image, backend=backend), backend=backend) - image).abs().max().item()
        assert error <= allowed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_round_trip_outside_of_the_cube(dtype: torch.dtype, backend: str, device: str) -> None:
    values = torch.tensor([-8.0, -1.0, -0.1, -0.02, 0.0, 0.5, 2.0, 8.0], dtype=dtype)
    image = cube(values).to(device)
    lab = to(image, backend=backend)
    assert lab.isfinite().all()
    # A component small beside the others keeps what precision these leave it: the lines of both curves, 12.92 and 7.79,
    # and the matrix multiply the rounding of the largest.
    scale = image.abs().amax(1, keepdim=True) ** 2.4
    error = (back(lab, backend=backend) - image).abs() / scale.clamp(min=1)
    assert error.max().item() <= 4e3 * torch.finfo(dtype).eps


def test_every_byte_returns(backend: str, device: str) -> None:
    """A grid of colours with the ends of the codes and the kink of the curve."""
    values = (
        torch.cat([torch.arange(0, 256, 16), torch.tensor([1, 9, 10, 11, 12, 253, 254, 255])]).unique().to(torch.uint8)
    )
    image = cube(values).to(device)
    lab = to(image, backend=backend)
    assert lab.dtype == torch.float32
    assert torch.equal(back(lab, dtype=torch.uint8, backend=backend), image)


@pytest.mark.full
def test_all_colours_of_bytes_return(backend: str, device: str) -> None:
    values = torch.arange(256).to(torch.uint8)
    for red in values.split(16):
        image = torch.stack(torch.meshgrid(red, values, values, indexing="ij")).reshape(1, 3, -1, 256).to(device)
        assert torch.equal(back(to(image, backend=backend), dtype=torch.uint8, backend=backend), image)


@pytest.mark.parametrize("dtype", CODES)
def test_codes_are_those_of_floats(dtype: torch.dtype, backend: str, device: str) -> None:
    full = FULL_SCALE[dtype]
    codes = cube(torch.linspace(0, full, 9).round().to(torch.int32)).to(dtype).to(device)
    as_floats = codes.cpu().double().div(full).to(device)
    expected = to(as_floats, backend=backend)
    torch.testing.assert_close(to(codes, backend=backend).double(), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("lab_dtype", FLOATS)
def test_codes_out(dtype: torch.dtype, lab_dtype: torch.dtype, backend: str, device: str) -> None:
    """Rounded, ended at 0 and at full scale; into ``out``, also a strided one."""
    full = FULL_SCALE[dtype]
    lab = oracle(grid(5)[0].numpy())
    lab[1:, ::3] *= 1.7  # beyond sRGB
    given = torch.from_numpy(lab)[None].to(lab_dtype).to(device)
    exact = back(given.cpu().double(), backend="reference") * full
    assert exact.min() < -1
    assert exact.max() > full + 1
    fresh = back(given, dtype=dtype, backend=backend)
    assert fresh.dtype == dtype
    slack = 0.5 + 64 * torch.finfo(torch.float32).eps * full
    assert (fresh.cpu().double() - exact.clamp(0, full)).abs().max().item() <= slack
    out = torch.empty(fresh.shape, dtype=dtype, device=device)
    assert back(given, out=out, backend=backend) is out
    assert torch.equal(out.int(), fresh.int())
    strided = torch.empty(*fresh.shape[:-1], 2 * fresh.shape[-1], dtype=dtype, device=device)[..., ::2]
    back(given, out=strided, backend=backend)
    assert torch.equal(strided.int(), fresh.int())
    assert not back(given.clone().requires_grad_(), dtype=dtype, backend=backend).requires_grad


# ---- special values and gradients ----------------------------------------------------------------


@pytest.mark.parametrize("function", [to, back])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_special_values_stay_in_their_pixel(function: Any, value: float, backend: str, device: str) -> None:
    image = torch.full((1, 3, 5, 7), 0.4, device=device)
    usual = function(image, backend=backend)
    for channel in range(3):
        spoiled = image.clone()
        spoiled[0, channel, 2, 3] = value
        result = function(spoiled, backend=backend)
        assert not result[0, :, 2, 3].isfinite().any()
        result[0, :, 2, 3] = usual[0, :, 2, 3]
        assert torch.equal(result, usual)


def test_nan_gives_code_0(backend: str, device: str) -> None:
    lab = torch.full((1, 3, 1, 2), math.nan, device=device)
    assert (back(lab, dtype=torch.uint8, backend=backend) == 0).all()


def test_gradients_at_black(backend: str, device: str) -> None:
    """The line of the curve passes through 0: derivatives there are those beside it."""
    black = torch.zeros(1, 3, 1, 1, dtype=torch.float64, device=device)
    for function in (to, back):
        near = [(black + shift).requires_grad_() for shift in (0.0, 1e-4)]
        upstream = torch.tensor([0.3, 1.0, -2.0], dtype=torch.float64, device=device).view(1, 3, 1, 1)
        at, beside = (torch.autograd.grad(function(x, backend=backend), x, upstream)[0] for x in near)
        torch.testing.assert_close(at, beside)
        assert (at != 0).all()


# ---- arguments -----------------------------------------------------------------------------------


def test_channels_are_checked(backend: str, device: str) -> None:
    for channels in (1, 4):
        image = torch.zeros(1, channels, 2, 2, device=device)
        with pytest.raises(ValueError, match=r"image must be \(N, 3, H, W\), got shape"):
            to(image, backend=backend)
        with pytest.raises(ValueError, match=r"lab must be \(N, 3, H, W\), got shape"):
            back(image, backend=backend)


def test_results_are_checked(backend: str, device: str) -> None:
    codes, lab = torch.zeros(1, 3, 2, 2, dtype=torch.uint8, device=device), torch.zeros(1, 3, 2, 2, device=device)
    with pytest.raises(
        TypeError, match=r"torch\.uint8 from torch\.uint8 images is not offered; ask for torch\.float32"
    ):
        to(codes, out=torch.empty_like(codes), backend=backend)
    with pytest.raises(TypeError, match=r"ask for torch\.float32 or torch\.uint8 or torch\.uint16"):
        back(lab, dtype=torch.float16, backend=backend)
    with pytest.raises(ValueError, match="contradicts out"):
        back(lab, dtype=torch.uint8, out=torch.empty_like(lab), backend=backend)


def test_operator_checks_what_python_checks(backend: str) -> None:
    """Callers of the C++ operator itself get errors that name operator and argument, not a crash."""
    if backend != "cpp":
        pytest.skip("the checks of the C++ operator")
    image, operators = torch.zeros(1, 3, 2, 5), torch.ops.hdrops
    codes = image.to(torch.uint8)
    for call, message in (
        (lambda: operators.rgb_to_lab(image[0]), r"rgb_to_lab: image must be \(N, 3, H, W\)"),
        (lambda: operators.rgb_to_lab(image[:, :2]), r"rgb_to_lab: image must be \(N, 3, H, W\)"),
        (lambda: operators.rgb_to_lab(image.int()), "rgb_to_lab: image must be uint8"),
        (lambda: operators.rgb_to_lab_out(codes, codes.clone()), "rgb_to_lab: out must be float32"),
        (lambda: operators.rgb_to_lab_out(image, image.mT), "rgb_to_lab: out has shape"),
        (lambda: operators.rgb_to_lab_backward(image.mT, image), "rgb_to_lab_backward: grad must have the shape"),
        (lambda: operators.rgb_to_lab_backward(image, codes), "rgb_to_lab_backward: integer images have no gradient"),
        (lambda: operators.lab_to_rgb(codes), "lab_to_rgb: lab must be floating point"),
        (lambda: operators.lab_to_rgb(image, torch.float64), "lab_to_rgb: an output of float64"),
        (lambda: operators.lab_to_rgb_out(image, image.double()), "lab_to_rgb: an output of float64"),
        (lambda: operators.lab_to_rgb_backward(image[:, :1], image), "lab_to_rgb_backward: grad must have the shape"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
