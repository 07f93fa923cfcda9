"""Aligning brackets whose camera is known to have moved, and real ones."""

import re
import statistics
import subprocess
import sys

import numpy as np
import pytest
import torch
from handheld import HEIGHT, WIDTH, bracket, corner_error, seen, shaken
from photographs import photographs, real_brackets

from hdrops.align import AlignmentError, align_bracket
from hdrops.align import bracket as module
from hdrops.align.bracket import best_exposed
from hdrops.align.geometry import translation, valid_mask
from hdrops.data import expose
from hdrops.io import InputError, read_image

NOWHERE = np.eye(3)


def textured(seed, height=160, width=240, bits=8):
    """A picture (3, H, W) with structure at several scales, unlike that of any other seed."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(3, height, width)
    for size in (8, 16, 32, 64):
        noise = torch.rand(1, 3, size, size, generator=generator)
        total += torch.nn.functional.interpolate(noise, (height, width), mode="bicubic", align_corners=False)[0]
    codes = ((total - total.min()) / (total.max() - total.min()) * (2**bits - 1)).round()
    return codes.to(torch.uint8 if bits == 8 else torch.uint16)


# ---- accuracy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("correction", "bits"), [("histogram", 8), ("histogram", 16), ("gamma", 8)])
@pytest.mark.parametrize(("stops", "most"), [((-3, -1), 0.5), ((-2, 2), 0.5), ((0, 4), 0.5), ((-3, 3), 1.0)])
def test_homography_is_exact(stops, most, correction, bits):
    errors = []
    for seed in range(5):
        truth = shaken(seed)
        frames = bracket([truth, NOWHERE], stops, bits=bits, seed=10 * seed)
        done = align_bracket(frames, reference=1, correction=correction)
        errors.append(corner_error(done.transforms[0], truth))
        assert done.confidence[1] == 1
        assert 0 < done.confidence[0] <= 1
    assert statistics.median(errors) < most * (1 if correction == "histogram" else 1.5)
    assert max(errors) < 2


@pytest.mark.parametrize("stops", [(-3, -1), (-2, 2), (0, 4), (-3, 3)])
def test_affine_is_exact(stops):
    errors = []
    for seed in range(5):
        truth = shaken(seed, perspective=False)
        done = align_bracket(bracket([truth, NOWHERE], stops, seed=10 * seed), "affine", reference=1)
        errors.append(corner_error(done.transforms[0], truth))
        assert 0.6 <= done.confidence[0] <= 1
    assert max(errors) < 0.6


@pytest.mark.parametrize("method", ["homography", "affine"])
def test_a_whole_bracket(method):
    """Ten stops from end to end, the darkest frame nearly black; every frame has moved by itself."""
    truths = [shaken(seed, perspective=method == "homography") for seed in range(6)]
    truths[2] = NOWHERE
    done = align_bracket(bracket(truths, (-5, -3, -1, 1, 3, 5)), method, reference=2)
    errors = [corner_error(found, truth) for found, truth in zip(done.transforms, truths, strict=True)]
    assert statistics.median(errors) < 0.5
    assert max(errors) < 3
    assert done.failed == {}
    top, left, height, width = done.area
    assert done.images.shape == (6, 3, height, width)
    masks = [valid_mask(found.numpy(), HEIGHT, WIDTH) for found in done.transforms]
    assert np.all(masks, axis=0)[top : top + height, left : left + width].all()


def test_frames_between_help(monkeypatch):
    """What the reference does not show of the frame, one between them does."""
    truth = [shaken(1), shaken(2), NOWHERE]
    compared = []
    prepare, compare = module._ESTIMATORS["homography"]

    def direct_fails(moving, fixed):
        compared.append((moving[0], fixed[0]))
        if (moving[0], fixed[0]) == (0, 2):
            raise module.Unmatched("nothing in common")
        return compare(moving[1], fixed[1])

    images = bracket(truth, (-4, -1, 2))
    indices = {float(image.double().mean()): k for k, image in enumerate(images)}
    numbered = (
        lambda frame, correction: (indices[float(frame.double().mean())], prepare(frame, correction)),
        direct_fails,
    )
    monkeypatch.setitem(module._ESTIMATORS, "homography", numbered)
    done = align_bracket(images, reference=2)
    assert compared == [(1, 2), (0, 2), (0, 1)]
    assert corner_error(done.transforms[0], truth[0]) < 1
    assert done.confidence[0] <= done.confidence[1]


@pytest.mark.parametrize("method", ["homography", "affine"])
def test_aligned_frames_show_the_same(method):
    """Exposed alike and without noise, the moved frame becomes the reference."""
    truth = shaken(3, perspective=method == "homography")
    frames = bracket([truth, NOWHERE], (0, 0), bits=16, full_well=1e7, read_noise=0.0)
    done = align_bracket(frames, method, reference=1)
    top, left, height, width = done.area
    before = frames[:, :, top : top + height, left : left + width].double()
    after = done.images.double()
    assert torch.equal(after[1], before[1])
    assert (after[0] - after[1]).abs().mean() < 0.15 * (before[0] - before[1]).abs().mean()


# ---- what stays as it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["homography", "affine"])
@pytest.mark.parametrize("fill", ["crop", "reference"])
def test_equal_frames_stay(method, fill):
    frames = textured(0)[None].expand(3, -1, -1, -1)
    done = align_bracket(frames, method, fill=fill)
    assert torch.equal(done.images, frames)
    assert torch.equal(done.transforms, torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    assert done.area == (0, 0, 160, 240)
    assert done.reference == 1
    assert done.confidence.min() > 0.99


@pytest.mark.parametrize("method", ["homography", "affine"])
def test_single_frame(method):
    frame = torch.rand(1, 3, 7, 5)
    done = align_bracket(frame, method)
    assert torch.equal(done.images, frame)
    assert done.area == (0, 0, 7, 5)
    assert done.confidence.tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint16])
@pytest.mark.parametrize("fill", ["crop", "reference"])
@pytest.mark.parametrize("channels", [1, 3])
def test_dtypes(dtype, fill, channels):
    picture = textured(1, 181, 263, bits=16)[:channels]
    moved = torch.roll(picture, (3, -5), (1, 2))
    frames = torch.stack([picture, moved])
    frames = frames if dtype == torch.uint16 else (frames.double() / 65535).to(dtype)
    kept = frames.clone()
    done = align_bracket(frames, reference=0, fill=fill)
    assert torch.equal(frames, kept)
    assert done.images.dtype == dtype
    # Features may lie off by some hundredths of a pixel.
    assert corner_error(done.transforms[1], translation(5, -3), 181, 263) < 0.3
    if fill == "crop":
        assert done.images.shape[-2] in (177, 178)
        assert done.images.shape[-1] in (257, 258)
    else:
        assert done.images.shape == frames.shape
    values = done.images.double() / (65535 if dtype == torch.uint16 else 1)
    assert (values[0] - values[1]).abs().median() < 0.02
    assert values.min() >= 0
    assert values.max() <= 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("interpolation", ["cubic", "linear", "lanczos"])
def test_whole_pixels_are_copied(monkeypatch, dtype, interpolation):
    known = (lambda frame, correction: None, lambda moving, fixed: (translation(3, -2), 0.9))
    monkeypatch.setitem(module._ESTIMATORS, "homography", known)
    frames = torch.rand(2, 3, 20, 31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frames = frames.float() if dtype == torch.float32 else (frames * torch.iinfo(dtype).max).round().to(dtype)
    done = align_bracket(frames, reference=0, interpolation=interpolation)
    assert done.area == (0, 3, 18, 28)
    assert torch.equal(done.images[0], frames[0, :, :18, 3:])
    assert torch.equal(done.images[1], frames[1, :, 2:, :28])


def test_result_is_the_same_again():
    frames = bracket([shaken(1), NOWHERE], (-1, 1))
    once, again = align_bracket(frames), align_bracket(frames)
    assert torch.equal(once.images, again.images)
    assert torch.equal(once.transforms, again.transforms)


# ---- margins -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [(-2, 1), (1, -2)])
@pytest.mark.parametrize("bits", [8, 16])
def test_margins_from_the_reference_show_no_edge(stops, bits):
    truth = shaken(5)
    quiet = {"full_well": 1e7, "read_noise": 0.0}
    frames = bracket([truth, NOWHERE], stops, bits=bits, **quiet)
    done = align_bracket(frames, reference=1, fill="reference")
    assert done.area == (0, 0, HEIGHT, WIDTH)
    full = 2.0**bits - 1
    filled = done.images[0].double() / full
    missing = torch.from_numpy(~valid_mask(done.transforms[0].numpy(), HEIGHT, WIDTH))
    assert 0.01 < missing.double().mean() < 0.3
    # What the camera would have recorded there.
    would = expose(seen(NOWHERE), 2.0 ** (stops[0] - 8), bits=bits, **quiet).double() / full
    off = (filled - would).abs()[:, missing]
    unmatched = (frames[1].double() / full - would).abs()[:, missing]
    assert off.mean() < 0.02
    assert unmatched.mean() > 5 * off.mean()
    # Steps across the seam are those of the scene.
    across = missing[:, 1:] != missing[:, :-1]
    steps, natural = (image.diff(dim=-1)[:, across] for image in (filled, would))
    assert (steps - natural).abs().mean() < 0.02


# ---- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["homography", "affine", "shift"])
def test_nothing_in_common(method):
    frames = torch.stack([textured(1), textured(2), textured(2)])
    with pytest.raises(AlignmentError) as caught:
        align_bracket(frames, method, reference=1)
    assert [*caught.value.failed] == [0]
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert re.search(r"frame 0: \w+", message)
    assert "best_effort=True leaves such frames as they are" in message
    assert "\n" not in message
    done = align_bracket(frames, method, reference=1, best_effort=True)
    assert done.failed == caught.value.failed
    assert torch.equal(done.images, frames)
    assert torch.equal(done.transforms[0], torch.eye(3, dtype=torch.float64))
    assert done.confidence.tolist()[0] == 0
    assert done.confidence[2] > 0.99


@pytest.mark.parametrize("method", ["homography", "affine"])
@pytest.mark.parametrize("seed", range(3))
def test_other_scenes_are_not_taken_for_the_same(method, seed):
    scene = bracket([NOWHERE], (0,))[0]
    other = textured(seed, HEIGHT, WIDTH)
    with pytest.raises(AlignmentError):
        align_bracket(torch.stack([other, scene]), method, reference=1)


@pytest.mark.parametrize("method", ["homography", "affine"])
def test_noise(method):
    """Dark frames are little else."""
    for seed, (height, width) in enumerate([(3, 3), (15, 40), (60, 80), (200, 300)]):
        frames = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
        with pytest.raises(AlignmentError):
            align_bracket(frames, method)


@pytest.mark.parametrize("method", ["homography", "affine"])
def test_flat_frames(method):
    frames = torch.stack([torch.zeros(3, 90, 120, dtype=torch.uint8), textured(1, 90, 120)])
    with pytest.raises(AlignmentError, match="frame 0: it shows too little structure"):
        align_bracket(frames, method, reference=1)
    with pytest.raises(AlignmentError, match="frame 1: the frame it is compared with shows too little structure"):
        align_bracket(frames, method, reference=0)
    with pytest.raises(AlignmentError, match="structure"):
        align_bracket(torch.full((2, 1, 5, 4), 0.5), method)


def test_frames_without_a_common_pixel(monkeypatch):
    """Each shares some with the reference, all of them none."""
    shifts = iter([translation(0, 12), translation(0, -12)])
    known = (lambda frame, correction: None, lambda moving, fixed: (next(shifts), 0.9))
    monkeypatch.setitem(module._ESTIMATORS, "homography", known)
    with pytest.raises(AlignmentError, match="no pixel is common to all frames"):
        align_bracket(torch.rand(3, 1, 20, 100), reference=1)


def test_arguments():
    frames = torch.rand(2, 3, 20, 30)
    for arguments, message in (
        ({"method": "flow"}, "method must be one of homography, affine, shift, got 'flow'"),
        ({"correction": "none"}, "correction must be one of histogram, gamma"),
        ({"fill": "white"}, "fill must be one of crop, reference"),
        ({"interpolation": "area"}, "interpolation must be one of cubic, linear, lanczos"),
        ({"reference": 2}, "0 to 1, got 2"),
        ({"reference": -1}, "0 to 1, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            align_bracket(frames, **arguments)
    for images, message in (
        (frames[0], r"\(K, C, H, W\)"),
        (frames[:0], "with pixels"),
        (torch.rand(2, 2, 4, 4), "C = 1"),
        (torch.zeros(1, 1, 1, 32767), "less than 32767"),
        (2 * frames, r"\[0, 1\]"),
        (frames.log(), r"\[0, 1\]"),
        (torch.full((2, 1, 4, 4), torch.nan), "nan"),
    ):
        with pytest.raises(ValueError, match=message):
            align_bracket(images)
    with pytest.raises(TypeError, match="int64"):
        align_bracket(torch.zeros(2, 3, 4, 4, dtype=torch.int64))


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=re.escape("pip install 'hdrops[align]'")):
        align_bracket(torch.rand(2, 3, 40, 50))
    scene = textured(4)
    done = align_bracket(torch.stack([scene.roll((2, -3), (1, 2)), scene])[..., 8:-8, 8:-8], "shift", reference=1)
    assert np.allclose(done.transforms[0], translation(3, -2))
    assert torch.equal(done.images[0], done.images[1])


def test_import_is_light():
    code = "import sys, hdrops.align; print(any(name in sys.modules for name in ('cv2', 'OpenImageIO', 'typer')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- the reference -------------------------------------------------------------------------------------------------


def test_best_exposed():
    levels = torch.tensor([0.02, 0.5, 0.6, 0.7, 0.99])
    frames = levels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()
    assert best_exposed(frames) == 2
    assert best_exposed((frames * 65535).round().to(torch.uint16)) == 2
    assert best_exposed(frames[:4]) == 1
    frames[2, :, 0] = 1
    assert best_exposed(frames) == 1
    assert best_exposed(frames[[0, 4]]) == 0


# ---- photographs ---------------------------------------------------------------------------------------------------


def edge_disagreement(one, other):
    """How far the directions of the stronger edges of two frames differ: 0 where parallel, 1 where at random."""

    def gradient(image):
        grey = torch.nn.functional.avg_pool2d(image.double().mean(0)[None, None], 3, 1)[0, 0]
        return torch.stack([grey[1:-1, 2:] - grey[1:-1, :-2], grey[2:, 1:-1] - grey[:-2, 1:-1]])

    a, b = gradient(one), gradient(other)
    sizes = a.norm(dim=0), b.norm(dim=0)
    strong = (sizes[0] > sizes[0].quantile(0.8)) & (sizes[1] > sizes[1].quantile(0.8))
    cosine = (a * b).sum(0) / (sizes[0] * sizes[1])
    return float(1 - (2 * cosine[strong] ** 2 - 1).mean())


@pytest.mark.parametrize("method", ["homography", "affine"])
def test_handheld_photographs(method):
    entry = real_brackets()["brackets/handheld/misalign"]
    folder = photographs() / entry["dir"]
    frames = torch.stack([read_image(folder / name).pixels for name in entry["files"]])
    done = align_bracket(frames, method)
    top, left, height, width = done.area
    assert height * width > 0.8 * frames[0, 0].numel()
    before = frames[..., top : top + height, left : left + width]
    pairs = range(len(frames) - 1)
    off, now = ([edge_disagreement(*images[k : k + 2]) for k in pairs] for images in (before, done.images))
    assert sum(now) < 0.3 * sum(off)
    assert all(b < max(a, 0.05) for a, b in zip(off, now, strict=True))


@pytest.mark.parametrize("method", ["homography", "affine"])
@pytest.mark.parametrize("scene", ["garage", "door", "door2", "flowergate", "building"])
def test_photographs_with_little_in_common(method, scene):
    """Features are few, lie together or do not match; what is done may not be worse than nothing, but for what half a
    pixel makes."""
    entry = real_brackets()[f"brackets/pairs/{scene}"]
    folder = photographs() / entry["dir"]
    frames = torch.stack([read_image(folder / name).pixels for name in entry["files"]])
    done = align_bracket(frames, method)
    top, left, height, width = done.area
    before = frames[..., top : top + height, left : left + width]
    assert edge_disagreement(*done.images) < 1.1 * edge_disagreement(*before)
    moved = np.abs(done.transforms.numpy() - np.eye(3))[:, :2, 2].max()
    assert moved < 6
    if scene == "building":
        assert edge_disagreement(*done.images) < 0.3 * edge_disagreement(*before)


def test_agreeing_features_are_not_enough(monkeypatch):
    """A homography that its features confirm is dropped where a simpler motion shows the same better."""
    wrong = np.array([[1.03, 0, 0], [0, 1, 0], [1e-4, 0, 1]])
    monkeypatch.setattr(module, "homography", lambda moving, fixed: (wrong, 0.9))
    scene = textured(7)
    done = align_bracket(torch.stack([scene, scene]), reference=1)
    assert torch.equal(done.transforms[0], torch.eye(3, dtype=torch.float64))
    assert done.confidence[0] > 0.99
    moved = torch.stack([scene.roll((5, -9), (1, 2)), scene])[..., 20:-20, 20:-20]
    done = align_bracket(moved, reference=1)
    assert np.allclose(done.transforms[0], translation(9, -5), atol=0.1)


def test_a_shift_is_found_where_features_are_not(monkeypatch):
    def nothing(moving, fixed):
        raise module.Unmatched("only 3 features of it match")

    monkeypatch.setattr(module, "homography", nothing)
    scene = textured(8)
    moved = torch.stack([scene.roll((-3, 6), (1, 2)), scene])[..., 20:-20, 20:-20]
    done = align_bracket(moved, reference=1)
    assert np.allclose(done.transforms[0], translation(-6, 3), atol=0.1)
    assert 0.5 < done.confidence[0] <= 1
    with pytest.raises(AlignmentError, match="only 3 features of it match"):
        align_bracket(torch.stack([textured(9), scene]), reference=1)


# ---- whole pixels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("moved", [(0, 0), (3, -5), (-9, 14)])
def test_shift_is_found_to_the_pixel(moved, bits):
    full = 2**bits - 1
    # Fine grain: where all is smooth, neighbouring shifts leave no pixel that disagrees either.
    grain = torch.randn(3, 300, 400, generator=torch.Generator().manual_seed(0)) * 0.1 * full
    scene = (textured(4, 300, 400, bits=bits).float() + grain).clamp(0, full).round()
    scene = scene.to(torch.uint8 if bits == 8 else torch.uint16)
    frames = torch.stack([(scene.float() * gain).clamp(0, full).round().to(scene.dtype) for gain in (0.25, 1.0)])
    frames[0] = frames[0].roll(moved, (1, 2))
    done = align_bracket(frames[:, :, 30:-30, 30:-30], "shift", reference=1)
    assert np.allclose(done.transforms[0], translation(-moved[1], -moved[0]))
    assert done.confidence[0] > 0.95
    top, left, height, width = done.area
    assert (height, width) == (240 - abs(moved[0]), 340 - abs(moved[1]))
    inside = frames[0].roll((-moved[0], -moved[1]), (1, 2))[:, 30 + top : 30 + top + height, 30 + left :][..., :width]
    assert torch.equal(done.images[0], inside)


def test_shift_of_what_cannot_be_compared():
    flat = torch.full((3, 64, 96), 7, dtype=torch.uint8)
    spot = torch.zeros(3, 64, 96, dtype=torch.uint8)
    spot[:, 30, 40] = 255
    night = torch.where(textured(3, 64, 96) > 160, textured(3, 64, 96), 2)
    for frame, other in ((flat, textured(1, 64, 96)), (spot, textured(1, 64, 96)), (night, night), (255 - night,) * 2):
        with pytest.raises(AlignmentError, match=r"frame 0: too few pixels of one of both frames are clearly brighter"):
            align_bracket(torch.stack([frame, other]), "shift", reference=1)
    with pytest.raises(AlignmentError, match="of the bitmaps agree, 75% are needed"):
        align_bracket(torch.stack([textured(1), textured(2)]), "shift", reference=1)
