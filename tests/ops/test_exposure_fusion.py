"""Operator ``exposure_fusion``: what the contract does not say of it."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import FLOATS, INTERPRETING, exposure_fusion_case
from photographs import photographs, real_brackets
from tolerance import assert_close
from torch import Tensor

import hdrops

EXPONENTS = [
    (1.0, 1.0, 1.0),
    (1.0, 1.0, 0.0),
    (0.5, 2.0, 0.0),
    (0.0, 0.0, 1.0),
    (2.0, 0.0, 0.5),
    (0.0, 0.0, 0.0),
]
SIZES = [(1, 1), (1, 9), (2, 2), (3, 2), (5, 64), (17, 31), (33, 32), (64, 65), (100, 3)]


def random_bracket(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def fuse(bracket: Any, exponents: tuple[float, float, float] = (1.0, 1.0, 1.0), **options: Any) -> Tensor:
    contrast, saturation, exposedness = exponents
    return hdrops.exposure_fusion(bracket, contrast=contrast, saturation=saturation, exposedness=exposedness, **options)


def mertens(frames: list[np.ndarray], exponents: tuple[float, float, float]) -> Tensor:
    """OpenCV's fusion of frames (H, W, C), as (C, H, W)."""
    cv2 = pytest.importorskip("cv2")
    fused = cv2.createMergeMertens(*exponents).process(frames)
    return torch.from_numpy(fused.reshape(*frames[0].shape[:2], -1).transpose(2, 0, 1).copy())


def frames_of(scene: str, limit: int | None = None) -> list[np.ndarray]:
    """The frames of a real bracket as OpenCV reads them: (H, W, C), blue first."""
    cv2 = pytest.importorskip("cv2")
    entry = real_brackets()[f"brackets/{scene}"]
    frames = [cv2.imread(str(photographs() / entry["dir"] / name)) for name in entry["files"][:limit]]
    assert all(frame is not None for frame in frames)
    return frames


def bracket_of(frames: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).copy())[None]


# ---- OpenCV ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponents", EXPONENTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_opencv(channels: int, exponents: tuple[float, float, float], backend: str, device: str) -> None:
    for size, count in itertools.product(SIZES[:: 3 if INTERPRETING else 1], (2, 3)):
        if min(size) == 1:
            continue  # OpenCV's pyramid rejects or mishandles a side of one pixel
        bracket = (256 * random_bracket((1, count, channels, *size), seed=size[0])).to(torch.uint8)
        frames = [frame.permute(1, 2, 0).contiguous().numpy() for frame in bracket[0]]
        expected = mertens(frames, exponents)
        actual = fuse(bracket.to(device), exponents, convention="opencv", dtype=torch.float32, backend=backend).cpu()[0]
        error = float((actual - expected).abs().max())
        assert error < 2e-3, f"{size}, {count} exposures: {error:.2g} off"


@pytest.mark.parametrize("scene", ["fairchild/bigfoot_pass", "misc/villa", "iccv17/seq_00"])
def test_equals_opencv_on_photographs(scene: str, backend: str, device: str) -> None:
    if backend != "cpp" and device == "cpu":
        pytest.skip("photographs are too large for the reference and the interpreter")
    frames = frames_of(scene, 3)
    for exponents in ((1.0, 1.0, 1.0), (1.0, 1.0, 0.0)):
        expected = mertens(frames, exponents)
        actual = fuse(
            bracket_of(frames).to(device),
            exponents,
            convention="opencv",
            dtype=torch.float32,
            backend=backend,
        )
        error = (actual.cpu()[0] - expected).abs()
        assert float(error.max()) < 2e-3, f"{scene}, {exponents}: {float(error.max()):.2g} off"


@pytest.mark.parametrize(
    "name", ["pairs_balancedrock", "pairs_door", "pairs_knossos7", "fairchild_bigfoot_pass", "iccv17_seq_18"]
)
def test_equals_golden_pictures(name: str, backend: str, device: str) -> None:
    if backend != "cpp" and device == "cpu":
        pytest.skip("photographs are too large for the reference and the interpreter")
    cv2 = pytest.importorskip("cv2")
    data = photographs()
    listing = json.loads((data / "golden" / "golden.json").read_text())
    entry = next(e for e in listing["images"] if e["fused"] == f"{name}_mertens.png")
    frames = [cv2.imread(str(data / entry["scene_dir"] / source["file"])) for source in entry["sources"]]
    golden = bracket_of([cv2.imread(str(data / "golden" / entry["fused"]))])[0]
    fused = fuse(bracket_of(frames).to(device), convention="opencv", backend=backend).cpu()
    difference = (fused.int() - golden.int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).double().mean()) < 1e-3, "more than ties differ"
    # The order of the channels matters: the golden pictures were made from blue, green, red.
    swapped = fuse(bracket_of(frames).flip(2).to(device), convention="opencv", backend=backend).cpu().flip(1)
    assert int((swapped.int() - golden.int()).abs().max()) > 1


# ---- properties of the fusion ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [(1, 3, 3, 9, 4099), (1, 40, 3, 7, 700), (2, 30, 1, 35, 1041), (1, 3, 3, 700, 9)],
    ids=["wide", "many exposures", "grey", "high"],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_strips(shape: tuple[int, ...], dtype: torch.dtype, backend: str, threads: Any) -> None:
    """The C++ kernel goes down strips of columns: no seam, whatever the strips and the threads."""
    if backend != "cpp":
        pytest.skip("strips are those of the C++ kernel")
    bracket = random_bracket(shape)
    if dtype == torch.uint8:
        bracket = (bracket * 255).round().to(torch.uint8)
    threads(1)
    result = fuse(bracket, dtype=torch.float32)
    exact = fuse(bracket.double() / (255 if dtype == torch.uint8 else 1), backend="reference")
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=2e-5)
    threads(2)
    assert torch.equal(fuse(bracket, dtype=torch.float32), result)
    if dtype == torch.float32:
        upstream = random_bracket(tuple(result.shape), 1) - 0.5
        leaf, precise = bracket.requires_grad_(), bracket.detach().double().requires_grad_()
        (actual,) = torch.autograd.grad(fuse(leaf), leaf, upstream)
        (expected,) = torch.autograd.grad(fuse(precise, backend="reference"), precise, upstream.double())
        distance = (actual.double() - expected).norm() / expected.norm()
        assert float(distance) < 1e-4
        threads(1)
        assert torch.equal(torch.autograd.grad(fuse(leaf), leaf, upstream)[0], actual)


@pytest.mark.parametrize("convention", ["paper", "opencv"])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_exposure_is_returned(channels: int, convention: Any, backend: str, device: str) -> None:
    for size in SIZES[:: 3 if INTERPRETING else 1]:
        image = random_bracket((2, 1, channels, *size)).to(device)
        result = fuse(image, convention=convention, backend=backend)
        torch.testing.assert_close(result, image[:, 0], rtol=0, atol=1e-6)
        codes = (image * 255).round().to(torch.uint8)
        assert torch.equal(fuse(codes, convention=convention, backend=backend), codes[:, 0])


@pytest.mark.parametrize("convention", ["paper", "opencv"])
def test_order_of_exposures_does_not_matter(convention: Any, backend: str, device: str) -> None:
    case = exposure_fusion_case("order", convention=convention, count=4)
    bracket = case.inputs((1, 3, 24, 35), torch.float32, device=device)["bracket"]
    expected = fuse(bracket, convention=convention, backend=backend)
    assert float((expected - bracket[:, 0]).abs().max()) > 0.01
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        actual = fuse(bracket[:, order], convention=convention, backend=backend)
        torch.testing.assert_close(actual, expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("convention", ["paper", "opencv"])
def test_equal_exposures_are_returned(convention: Any, backend: str, device: str) -> None:
    image = random_bracket((1, 1, 3, 19, 26)).to(device)
    result = fuse(image.expand(1, 5, 3, 19, 26), convention=convention, backend=backend)
    torch.testing.assert_close(result, image[:, 0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("convention", ["paper", "opencv"])
def test_flat_exposures(convention: Any, backend: str, device: str) -> None:
    """Without contrast all weights are equal: the mean of the exposures."""
    levels = torch.tensor([0.1, 0.4, 0.7]).view(1, 3, 1, 1, 1)
    bracket = levels.expand(2, 3, 3, 20, 33).to(device)
    result = fuse(bracket, convention=convention, backend=backend).cpu()
    torch.testing.assert_close(result, torch.full((2, 3, 20, 33), 0.4), rtol=0, atol=1e-6)


def test_grey_has_no_saturation(backend: str, device: str) -> None:
    """One channel: the exponent of saturation changes nothing."""
    bracket = random_bracket((1, 3, 1, 21, 18)).to(device)
    expected = fuse(bracket, (1.0, 0.0, 1.0), backend=backend)
    assert torch.equal(fuse(bracket, (1.0, 3.0, 1.0), backend=backend), expected)


def test_neutral_pixels_weigh_equally(backend: str, device: str) -> None:
    """S = 0 at every pixel of a neutral colour bracket: only the epsilon of the weights is left."""
    grey = random_bracket((1, 3, 1, 20, 22)).to(device).expand(1, 3, 3, 20, 22)
    equal = fuse(grey, (0.0, 0.0, 0.0), backend=backend)
    torch.testing.assert_close(fuse(grey, (1.0, 1.0, 1.0), backend=backend), equal, rtol=0, atol=1e-6)


def test_paper_convention_is_clamped(backend: str, device: str) -> None:
    """Black and white textures overshoot in the blended pyramid: only one convention clamps them."""
    bracket = (random_bracket((1, 2, 3, 64, 64)) > 0.5).float().to(device)
    free = fuse(bracket, convention="opencv", backend=backend)
    clamped = fuse(bracket, convention="paper", backend=backend)
    assert float(free.min()) < -0.02
    assert float(free.max()) > 1.02
    assert float(clamped.min()) == 0
    assert float(clamped.max()) == 1
    codes = fuse((bracket * 255).to(torch.uint8), convention="opencv", backend=backend)
    assert int(codes.min()) == 0
    assert int(codes.max()) == 255


def test_gradient_of_clamped_values_is_zero(backend: str, device: str) -> None:
    bracket = (random_bracket((1, 2, 3, 16, 16)) > 0.5).float().mul(0.96).add(0.02).to(device)
    bracket.requires_grad_()
    free = fuse(bracket, convention="opencv", backend=backend)
    result = fuse(bracket, backend=backend)
    beyond = (result == 0) | (result == 1)
    assert beyond.any(), "nothing is clamped here"
    assert (~beyond).any()
    assert ((free < 0) | (free > 1)).any()
    (grad,) = torch.autograd.grad(result, bracket, beyond.float(), retain_graph=True)
    assert (grad == 0).all()
    (grad,) = torch.autograd.grad(result, bracket, (~beyond).float())
    assert (grad != 0).any()


@pytest.mark.parametrize("exponents", EXPONENTS[:4])
def test_gradient_is_finite_at_kinks(exponents: tuple[float, float, float], backend: str, device: str) -> None:
    """Flat and neutral areas, where C = 0 and S = 0."""
    bracket = torch.full((1, 3, 3, 12, 13), 0.25)
    bracket[:, 1, :, :6] = 0.75
    bracket[:, 2, 0, :, :5] = 0.5
    bracket = bracket.to(device).requires_grad_()
    for convention in ("paper", "opencv"):
        result = fuse(bracket, exponents, convention=convention, backend=backend)
        (grad,) = torch.autograd.grad(result.square().sum(), bracket)
        assert grad.isfinite().all()
        assert float(grad.abs().max()) > 0


def test_pyramid_against_a_direct_definition(backend: str, device: str) -> None:
    """Two rows of pyramid written out with dense matrices, for one channel and given weights."""
    height, width = 6, 4
    bracket = random_bracket((1, 2, 1, height, width), seed=3).double()

    def reflect(i: int, size: int) -> int:
        i = abs(i)
        return i if i < size else 2 * size - 2 - i

    def shrink(size: int) -> np.ndarray:
        matrix = np.zeros(((size + 1) // 2, size))
        for row in range(len(matrix)):
            for tap, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
                matrix[row, reflect(2 * row + tap, size)] += weight / 16
        return matrix

    def grow(size: int) -> np.ndarray:
        """Zeros between the samples, mirrored at the start, repeated at the end, and the filter times two."""
        coarse = (size + 1) // 2
        matrix = np.zeros((size, coarse))
        for row in range(size):
            for tap, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
                if (row + tap) % 2 == 0:
                    at = (row + tap) // 2
                    at = min(1, coarse - 1) if at < 0 else min(at, coarse - 1)
                    matrix[row, at] += weight / 8
        return matrix

    images = bracket[0, :, 0].numpy()
    distance = np.exp(-((images - 0.5) ** 2) / 0.08)
    weights = (distance + 1e-12) / (distance + 1e-12).sum(0)
    down = [(shrink(height), shrink(width)), (shrink(3), shrink(2))]
    up = [(grow(height), grow(width)), (grow(3), grow(2))]
    result = 0.0
    for image, weight in zip(images, weights, strict=True):
        image_1, weight_1 = (down[0][0] @ x @ down[0][1].T for x in (image, weight))
        image_2, weight_2 = (down[1][0] @ x @ down[1][1].T for x in (image_1, weight_1))
        coarse = weight_2 * image_2
        middle = weight_1 * (image_1 - up[1][0] @ image_2 @ up[1][1].T)
        finest = weight * (image - up[0][0] @ image_1 @ up[0][1].T)
        result = result + finest + up[0][0] @ (middle + up[1][0] @ coarse @ up[1][1].T) @ up[0][1].T
    exact = torch.from_numpy(np.asarray(result)).clamp(0, 1)[None, None]
    actual = fuse(bracket.to(device), (0.0, 0.0, 1.0), backend=backend)
    assert_close(actual, exact, 64, 1.0)


@pytest.mark.parametrize("convention", ["paper", "opencv"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan(dtype: torch.dtype, convention: Any, backend: str, device: str) -> None:
    """NaN reaches as far as the pyramid does, and no farther."""
    bracket = random_bracket((2, 2, 3, 4, 96)).to(dtype)
    bracket[0, 1, 0, 2, 5] = math.nan
    bracket = bracket.to(device)
    result = fuse(bracket, convention=convention, backend=backend).isnan().cpu()
    expected = fuse(bracket.cpu(), convention=convention, backend="reference").isnan()
    assert expected[0, :, 2, 5].all()
    assert not expected[0, :, :, 60:].any()
    assert torch.equal(result, expected)


def test_shapes_dtypes_and_exponents_are_checked(backend: str, device: str) -> None:
    def bracket(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    for shape in ((3, 3, 4, 5), (1, 2, 3, 4, 5, 6)):
        with pytest.raises(ValueError, match=r"bracket must be \(N, K, C, H, W\), got shape"):
            fuse(bracket(*shape), backend=backend)
    with pytest.raises(ValueError, match=r"bracket must hold at least one exposure \(K >= 1\)"):
        fuse(bracket(1, 0, 3, 4, 5), backend=backend)
    for channels in (0, 2, 4):
        with pytest.raises(ValueError, match=f"bracket must have 1 or 3 channels, got {channels}"):
            fuse(bracket(1, 2, channels, 4, 5), backend=backend)
    for position, name in enumerate(("contrast", "saturation", "exposedness")):
        for value in (-0.5, math.inf, math.nan):
            exponents = [1.0, 1.0, 1.0]
            exponents[position] = value
            with pytest.raises(ValueError, match=f"{name} must be a finite exponent >= 0, got {value}"):
                fuse(bracket(1, 2, 3, 4, 5), tuple(exponents), backend=backend)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="convention must be 'paper' or 'opencv', got 'cv'"):
        fuse(bracket(1, 2, 3, 4, 5), convention="cv", backend=backend)


@pytest.mark.parametrize("exponents", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.0), (0.0, 0.5, 2.0)])
@pytest.mark.parametrize("convention", ["paper", "opencv"])
def test_gradcheck_of_exponents(
    convention: str, exponents: tuple[float, float, float], backend: str, device: str
) -> None:
    case = exposure_fusion_case("gradcheck", exponents, convention, count=2)
    bracket = case.inputs((1, 3, 4, 5), torch.float64, device=device)["bracket"].requires_grad_()

    def function(x: Tensor) -> Tensor:
        return case.call({"bracket": x}, backend=backend)

    assert torch.autograd.gradcheck(function, [bracket], eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, [bracket], eps=1e-7, atol=1e-4, rtol=1e-3, fast_mode=True)
