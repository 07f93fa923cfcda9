"""Operator ``mtb``: what the contract does not say of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CODES, DTYPES, INTERPRETING
from photographs import photographs, real_brackets
from torch import Tensor

import hdrops
from hdrops.reference import mtb as reference

SLOW = ("reference",)


def scene(height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth fields of several scales, and texture: float64 in [0, 1], (H, W)."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.zeros(height, width, dtype=torch.float64)
    for cells, share in ((4, 0.5), (12, 0.3), (40, 0.15)):
        coarse = torch.rand(1, 1, cells, cells, generator=generator, dtype=torch.float64)
        size = (height, width)
        field += share * torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=True)[0, 0]
    return (field + 0.05 * torch.rand(height, width, generator=generator, dtype=torch.float64)).clamp(0, 1)


def hand_held(
    height: int, width: int, dy: int, dx: int, stops: float = 1.0, channels: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Two uint8 exposures (1, C, H, W) of a scene, ``stops`` apart and noisy; the first lies on the second when it is
    shifted by (dy, dx)."""
    margin = max(abs(dy), abs(dx))
    whole = torch.stack([scene(height + 2 * margin, width + 2 * margin, seed + c) for c in range(channels)])
    generator = torch.Generator().manual_seed(seed + 100)

    def photograph(top: int, left: int, gain: float) -> Tensor:
        light = gain * whole[:, top : top + height, left : left + width] ** 2.2
        light = light + 0.003 * torch.randn(light.shape, generator=generator, dtype=torch.float64)
        return (255 * light.clamp(0, 1) ** (1 / 2.2)).round().to(torch.uint8)[None]

    return photograph(margin + dy, margin + dx, 2.0**-stops), photograph(margin, margin, 1.0)


def moved(image: Tensor, dy: int, dx: int) -> Tensor:
    """out(y, x) = image(y - dy, x - dx), 0 outside."""
    return torch.stack([reference.moved(plane, dy, dx) for plane in image.flatten(0, 1)]).view(image.shape)


def found(image: Tensor, other: Tensor, backend: str, device: str, **options: Any) -> list[list[int]]:
    """Rows of dy, dx, pixels that disagree and pixels compared."""
    shift, counts = hdrops.mtb_shift(image.to(device), other.to(device), backend=backend, **options)
    assert shift.dtype == counts.dtype == torch.int64
    return torch.cat([shift, counts], 1).tolist()


# ---- the shift -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (5, -3), (-11, 8), (17, 21), (-30, -1)])
@pytest.mark.parametrize("stops", [1.0, -1.5])
def test_shift_is_recovered(dy: int, dx: int, stops: float, backend: str, device: str) -> None:
    image, other = hand_held(180, 240, dy, dx, stops)
    ((*shift, errors, compared),) = found(image, other, backend, device)
    assert shift == [dy, dx]
    assert compared > 0.5 * 180 * 240
    assert errors < 0.05 * compared


def test_shifted_image_lies_on_the_reference(backend: str, device: str) -> None:
    """The sign, on one bright spot: the image moves by the shift, in the sense of the docstring."""
    other = scene(60, 80)[None, None]
    image = moved(other, -3, 5)
    shift, counts = hdrops.mtb_shift(image.to(device), other.to(device), backend=backend, levels=4)
    dy, dx = shift[0].tolist()
    assert (dy, dx) == (3, -5)
    onto = moved(image, dy, dx)
    assert torch.equal(onto[..., 3:, :-5], other[..., 3:, :-5])
    assert counts[0, 0] < 0.05 * counts[0, 1]


def test_unrelated_images_disagree_in_half_of_the_pixels(backend: str, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(0, 256, (1, 1, 120, 160), dtype=torch.uint8, generator=generator) for _ in "ab")
    ((_, _, errors, compared),) = found(one, other, backend, device)
    assert 0.4 < errors / compared < 0.55


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_levels_bound_the_shift(levels: int, backend: str, device: str) -> None:
    height = max(96, 9 * 2**levels)
    image, other = hand_held(height, height + 20, 2**levels + 3, -(2**levels) - 5)
    ((dy, dx, *_),) = found(image, other, backend, device, levels=levels)
    assert max(abs(dy), abs(dx)) < 2**levels
    exact = 2**levels - 1
    image, other = hand_held(height, height + 20, exact, -exact)
    ((dy, dx, *_),) = found(image, other, backend, device, levels=levels)
    assert (dy, dx) == (exact, -exact)


def test_members_of_a_batch_do_not_meet(backend: str, device: str) -> None:
    pairs = [hand_held(50, 60, dy, dx, seed=dy + 50) for dy, dx in ((1, 2), (-4, 0), (3, -6))]
    singles = [found(image, other, backend, device, levels=3)[0] for image, other in pairs]
    together = found(*(torch.cat(images) for images in zip(*pairs, strict=True)), backend, device, levels=3)
    assert together == singles


# ---- what counts ---------------------------------------------------------------------------------


def test_counts_by_hand(backend: str, device: str) -> None:
    """The codes 0, 4, ..., 252 in any order: half of them are 124 and less, so the threshold is 125."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    other = (4 * order).to(torch.uint8).view(1, 1, 8, 8)
    for exclude, compared in ((0, 64), (1, 63), (2, 63), (3, 62), (127, 0)):
        assert found(other, other, backend, device, levels=1, exclude=exclude) == [[0, 0, 0, compared]]
    image = other.clone()
    # As many as before on either side of 125; the pixel that was 128 is not compared.
    image[other == 0], image[other == 252], image[other == 4], image[other == 128] = 248, 1, 130, 3
    assert found(image, other, backend, device, levels=1, exclude=3) == [[0, 0, 3, 62]]


def test_first_of_the_best(backend: str, device: str) -> None:
    """Stripes of period 2 are as well met one pixel to the left as to the right: the leftmost and uppermost wins."""
    stripes = (200 * (torch.arange(32) % 2)).to(torch.uint8)
    columns = stripes.expand(1, 1, 32, 32)
    opposite = 200 - columns
    ((dy, dx, errors, _),) = found(opposite, columns, backend, device, levels=1)
    assert (dy, dx, errors) == (-1, -1, 0)


@pytest.mark.parametrize("code", [0, 3, 128, 255])
def test_nothing_to_compare_leaves_the_shift(code: int, backend: str, device: str) -> None:
    flat = torch.full((1, 1, 40, 50), code, dtype=torch.uint8)
    textured = (255 * scene(40, 50)).to(torch.uint8)[None, None]
    for image, other in ((flat, flat), (flat, textured), (textured, flat)):
        assert found(image, other, backend, device, exclude=4) == [[0, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 70), (67, 1), (3, 130), (65, 64), (5, 200)])
def test_small_and_narrow_images(shape: tuple[int, int], backend: str, device: str) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    for _ in range(3):
        image, other = (torch.randint(0, 256, (1, 1, *shape), dtype=torch.uint8, generator=generator) for _ in "ab")
        expected = reference.shift_of_pair(image[0, 0].int(), other[0, 0].int(), 16, 2)
        assert found(image, other, backend, device, levels=16, exclude=2) == [[*expected]]
        if shape == (1, 1):
            assert expected == (0, 0, 0, 0)


@pytest.mark.parametrize("exclude", [0, 1, 254])
def test_codes_at_the_ends(exclude: int, backend: str, device: str) -> None:
    """Images mostly black or mostly white: the threshold is 1 or 256."""
    generator = torch.Generator().manual_seed(exclude)
    random = torch.randint(0, 256, (1, 1, 30, 33), dtype=torch.uint8, generator=generator)
    keep = torch.rand(1, 1, 30, 33, generator=generator) < 0.3
    for end in (0, 255):
        image, other = torch.where(keep, random, end), torch.where(keep.roll(1, -1), random.roll(1, -1), end)
        expected = reference.shift_of_pair(image[0, 0].int(), other[0, 0].int(), 3, exclude)
        assert found(image, other, backend, device, levels=3, exclude=exclude) == [[*expected]]


# ---- codes and colours ---------------------------------------------------------------------------


def test_types_of_one_image_agree(backend: str, device: str) -> None:
    image, other = hand_held(60, 70, 3, -2, channels=3)
    expected = found(image, other, backend, device)
    for dtype in DTYPES:
        if dtype == torch.uint16:
            pair = [(257 * x.int()).to(dtype) for x in (image, other)]
        elif dtype == torch.uint8:
            pair = [image, other]
        else:
            pair = [(x.double() / 255).to(dtype) for x in (image, other)]
        # bfloat16 has fewer than 8 bits near 1.
        if dtype != torch.bfloat16:
            assert found(*pair, backend, device) == expected, dtype


@pytest.mark.parametrize("dtype", CODES)
def test_every_code(dtype: torch.dtype, backend: str, device: str) -> None:
    """The image of all codes against that of their 8-bit codes: equal bitmaps, whatever the threshold."""
    codes = torch.arange(256 if dtype == torch.uint8 else 65536, dtype=torch.int32)
    rows = codes.roll(37).view(1, 1, 16 if dtype == torch.uint8 else 128, -1)
    bytes_ = ((rows / 257 if dtype == torch.uint16 else rows).double()).round().to(torch.uint8)
    widened = (257 * bytes_.int() if dtype == torch.uint16 else bytes_).to(dtype)
    ((dy, dx, errors, compared),) = found(rows.to(dtype), widened, backend, device, levels=1, exclude=0)
    assert (dy, dx, errors) == (0, 0, 0)
    below = int((bytes_ < 128).sum())
    assert compared == rows.numel() - int((bytes_ == 128).sum())
    assert 0 < below < compared


def test_special_values(backend: str, device: str) -> None:
    """NaN counts as 0, and values outside [0, 1] as its ends."""
    other = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(1))
    other[..., :4, :], other[..., 8:12, :] = 0, 1
    image = other.clone()
    image[..., 0, :], image[..., 1, :], image[..., 2, :] = torch.nan, -torch.inf, -3
    image[..., 8, :], image[..., 9, :] = torch.inf, 7
    assert found(image, other, backend, device) == found(other, other, backend, device)


# ---- OpenCV --------------------------------------------------------------------------------------


def opencv_shift(image: Tensor, other: Tensor, levels: int = 6, exclude: int = 4) -> list[int]:
    """(dy, dx) of grey images (1, 1, H, W)."""
    cv2 = pytest.importorskip("cv2")
    x, y = cv2.createAlignMTB(levels, exclude).calculateShift(other[0, 0].numpy(), image[0, 0].numpy())
    return [y, x]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(97, 131), (128, 256), (200, 65), (133, 250)])
def test_equals_opencv(size: tuple[int, int], seed: int, backend: str, device: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    dy, dx = (int(x) for x in torch.randint(-40, 41, (2,), generator=generator))
    image, other = hand_held(*size, dy, dx, stops=seed - 2.5, seed=seed)
    options = ((6, 4), (3, 0), (5, 12))
    for levels, exclude in options[:1] if INTERPRETING else options:
        expected = opencv_shift(image, other, levels, exclude)
        assert found(image, other, backend, device, levels=levels, exclude=exclude)[0][:2] == expected


def test_equals_opencv_on_noise(backend: str, device: str) -> None:
    """Images that have nothing to do with each other: whatever decides there, decides alike."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(4 if INTERPRETING else 20):
        image, other = (torch.randint(0, 256, (1, 1, 90, 100), dtype=torch.uint8, generator=generator) for _ in "ab")
        assert found(image, other, backend, device)[0][:2] == opencv_shift(image, other)


def process_of_opencv(frames: Tensor, cut: bool) -> list[Tensor]:
    """``AlignMTB.process`` of (K, 3, H, W) uint8 frames; arrays keep what it does not cut."""
    cv2 = pytest.importorskip("cv2")
    pixels = [frame.permute(1, 2, 0).contiguous().numpy() for frame in frames]
    aligned = [image.copy() for image in pixels]
    cv2.createAlignMTB(6, 4, cut).process(pixels, aligned)
    return [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in aligned]


@pytest.mark.parametrize("cut", [False, True])
def test_equals_opencv_in_colour(cut: bool, backend: str, device: str) -> None:
    """Aligning three frames to the middle one, with zeros from outside, whether or not OpenCV then cuts them off."""
    pairs = [hand_held(120, 150, dy, dx, stops, channels=3, seed=7) for dy, dx, stops in ((4, -9, 1), (-6, 2, -1))]
    middle = pairs[0][1]
    frames = torch.cat([pairs[0][0], middle, pairs[1][0]])
    others = frames[[0, 2]].to(device)
    shift = hdrops.mtb_shift(others, middle.expand(others.shape).to(device), backend=backend)[0].cpu()
    shift = torch.stack([shift[0], torch.zeros_like(shift[0]), shift[1]])
    aligned = torch.cat([moved(frame[None], *by.tolist()) for frame, by in zip(frames, shift, strict=True)])
    for mine, theirs in zip(aligned, process_of_opencv(frames, cut), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("place", ["brackets/handheld", "brackets/highres", "brackets/iccv17", "brackets/dynamic"])
def test_equals_opencv_on_photographs(place: str, backend: str, device: str) -> None:
    """Neighbouring frames of real brackets."""
    if INTERPRETING or backend in SLOW:
        pytest.skip("photographs are too large for the reference and the interpreter")
    cv2 = pytest.importorskip("cv2")
    folder = photographs()
    entries = [entry for name, entry in real_brackets().items() if name.startswith(place)][:8]
    assert entries
    for entry in entries:
        files = [str(folder / entry["dir"] / name) for name in entry["files"][:7]]
        frames = [torch.from_numpy(cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2RGB)) for file in files]
        grey = [torch.from_numpy(cv2.cvtColor(frame.numpy(), cv2.COLOR_RGB2GRAY))[None, None] for frame in frames]
        colour = [frame.permute(2, 0, 1)[None] for frame in frames]
        for k in range(1, len(frames)):
            expected = opencv_shift(grey[k], grey[k - 1])
            assert found(grey[k], grey[k - 1], backend, device)[0][:2] == expected, files[k]
            assert found(colour[k], colour[k - 1], backend, device)[0][:2] == expected, files[k]


# ---- threads and arguments -----------------------------------------------------------------------


def test_strips_and_threads(threads: Any) -> None:
    """An image of several strips, shared by several threads."""
    image, other = hand_held(2101, 2310, 9, -14)
    expected = reference.shift_of_pair(image[0, 0].int(), other[0, 0].int(), 6, 4)
    for count in (1, 2, 3):
        threads(count)
        assert found(image, other, "cpp", "cpu") == [[*expected]]
        assert found(image.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1), "cpp", "cpu") == [[*expected]]


def test_arguments_are_checked(backend: str, device: str) -> None:
    image = torch.zeros(2, 3, 8, 9, dtype=torch.uint8, device=device)

    def call(one: Tensor, other: Tensor, **options: Any) -> None:
        hdrops.mtb_shift(one, other, backend=backend, **options)

    with pytest.raises(ValueError, match=r"image \(2, 3, 8, 9\) and reference \(2, 3, 8, 8\) must have one shape"):
        call(image, image[..., 1:])
    with pytest.raises(TypeError, match=r"image is torch\.uint8, reference torch\.float32"):
        call(image, image.float())
    with pytest.raises(ValueError, match=r"1 or 3 channels, got shape \(2, 2, 8, 9\)"):
        call(image[:, :2], image[:, :2])
    with pytest.raises(ValueError, match=r"image has no pixels: shape \(2, 3, 0, 9\)"):
        call(image[:, :, :0], image[:, :, :0])
    for levels in (0, 17, -1):
        with pytest.raises(ValueError, match=f"levels must be 1 to 16, got {levels}"):
            call(image, image, levels=levels)
    for exclude in (-1, 255):
        with pytest.raises(ValueError, match=f"exclude must be 0 to 254, got {exclude}"):
            call(image, image, exclude=exclude)
    with pytest.raises(TypeError, match="float"):
        call(image, image, levels=2.5)


def test_operator_checks_what_python_checks(backend: str) -> None:
    """Callers of the C++ operator itself get errors that name operator and argument, not a crash."""
    if backend != "cpp":
        pytest.skip("the checks of the C++ operator")
    call = torch.ops.hdrops.mtb_shift
    image = torch.zeros(1, 1, 4, 4)
    for arguments, message in (
        ((image[0], image[0], 6, 4), "mtb_shift: image must be"),
        ((image.int(), image.int(), 6, 4), "mtb_shift: image must be uint8"),
        ((image, image.double(), 6, 4), "mtb_shift: reference must be float32"),
        ((image, image[..., 1:], 6, 4), "mtb_shift: image and reference must have one shape"),
        ((image[:, :0], image[:, :0], 6, 4), "mtb_shift: image must have 1 or 3 channels"),
        ((image[..., :0], image[..., :0], 6, 4), "mtb_shift: image has no pixels"),
        ((image, image, 0, 4), "mtb_shift: levels must be 1 to 16"),
        ((image, image, 17, 4), "mtb_shift: levels must be 1 to 16"),
        ((image, image, 6, -1), "mtb_shift: exclude must be 0 to 254"),
        ((image, image, 6, 255), "mtb_shift: exclude must be 0 to 254"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call(*arguments)
