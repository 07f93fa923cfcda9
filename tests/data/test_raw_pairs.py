"""Pairs of raw exposures: values, noise, reference, and the virtual sensors of RawPairs."""

import math

import numpy as np
import pytest
import torch

from hdrops.data import NoiseProfile, RawPairs, draw_noise_profile, raw_pair
from hdrops.data.raw_pairs import NOISELESS, _draw_balance
from hdrops.models import choose_reference


def panorama(seed=0, height=64):
    """Radiance with grain at every scale that matters, (3, H, 2 H), about four orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 6, 12, generator=generator)
    fine = torch.rand(1, 3, height, 2 * height, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, 2 * height), mode="bilinear")
    return 10.0 ** (4 * smooth[0] + 0.5 * fine[0] - 2)


def light(seed=0, size=(40, 48)):
    return torch.rand(4, *size, generator=torch.Generator().manual_seed(seed)) * 1.5


def rng(seed=0):
    return np.random.default_rng(seed)


def quantised(values, bits):
    levels = 2**bits - 1
    return (values.clamp(0, 1) * levels).round() / levels


# ---- a pair ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 14])
def test_values_without_noise(bits):
    dark, bright = light(0), light(1)
    sample = raw_pair(dark, bright, 6.0, time=0.5, bits=bits, generator=rng())
    torch.testing.assert_close(
        sample["images"], torch.stack([quantised(dark * 0.5, bits), quantised(bright * 3, bits)])
    )
    assert sample["images"].dtype == torch.float32
    # Most of the long image is saturated.
    assert sample["reference"] == 0
    assert sample["times"].tolist() == [1, 6]
    torch.testing.assert_close(sample["target"], dark * 0.5)


def test_target_is_in_the_exposure_of_the_reference_and_not_clipped():
    dim = light(0) * 0.02
    dim[:, :4, :4] = 3.0
    sample = raw_pair(light(1) * 0.02, dim, 8.0, generator=rng())
    assert sample["reference"] == 1
    assert sample["times"].tolist() == [0.125, 1]
    torch.testing.assert_close(sample["target"], dim * 8)
    assert sample["target"].max() == 24
    assert sample["images"].max() == 1


def test_the_reference_is_the_one_of_the_model():
    chosen = set()
    for seed in range(12):
        sample = raw_pair(light(seed), light(seed), 4.0, time=2.0 ** -(seed % 6), generator=rng())
        assert sample["reference"] == choose_reference(sample["images"][None])[0]
        chosen.add(int(sample["reference"]))
    assert chosen == {0, 1}


@pytest.mark.parametrize("present", [NOISELESS, NoiseProfile(0.001, 5e-6)])
def test_noise_has_the_variance_of_the_profile(present):
    """Of clean light, and of light that has noise already: both images end with the same profile."""
    wanted = NoiseProfile(0.004, 4e-5)
    levels = torch.tensor([0.05, 0.2, 0.25, 0.3])[:, None, None].expand(4, 200, 300)
    generator = torch.Generator().manual_seed(1)
    deviation = (present.shot * levels + present.read).sqrt()
    frames = [levels + deviation * torch.randn(levels.shape, generator=generator) for _ in range(2)]
    sample = raw_pair(*frames, 2.5, time=1.0, noise=wanted, present=present, bits=16, generator=rng())
    for image, time in zip(sample["images"], (1.0, 2.5), strict=True):
        value = levels[:, 0, 0] * time
        # At the darkest some values are clipped at black.
        exposed = value > 4 * (wanted.shot * value + wanted.read).sqrt()
        assert exposed.sum() >= 2
        torch.testing.assert_close(image.mean((1, 2))[exposed], value[exposed], rtol=2e-3, atol=0)
        variance = image.var((1, 2))[exposed]
        torch.testing.assert_close(variance, (wanted.shot * value + wanted.read)[exposed], rtol=0.03, atol=0)


def test_noise_of_both_images_and_all_planes_is_independent():
    grey = torch.full((4, 64, 64), 0.1)
    sample = raw_pair(grey, grey, 2.0, noise=NoiseProfile(0.01, 1e-4), bits=16, generator=rng())
    residues = sample["images"].flatten(2).flatten(0, 1)
    correlation = torch.corrcoef(residues)
    assert (correlation - torch.eye(8)).abs().max() < 0.08
    again = raw_pair(grey, grey, 2.0, noise=NoiseProfile(0.01, 1e-4), bits=16, generator=rng())
    assert torch.equal(sample["images"], again["images"])
    other = raw_pair(grey, grey, 2.0, noise=NoiseProfile(0.01, 1e-4), bits=16, generator=rng(1))
    assert not torch.equal(sample["images"], other["images"])
    assert bool((grey == 0.1).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"long": torch.zeros(4, 3, 3)}, "of one size"),
        ({"short": torch.zeros(3, 40, 48)}, r"must be \(4, H, W\)"),
        ({"ratio": 0.5}, "ratio must be at least 1"),
        ({"ratio": math.nan}, "ratio must be at least 1"),
        ({"time": 0.0}, "time positive"),
        ({"bits": 17}, "bits must be 1 to 16"),
    ],
)
def test_arguments_are_checked(changes, message):
    arguments = {"short": light(), "long": light(), "ratio": 2.0} | changes
    with pytest.raises(ValueError, match=message):
        raw_pair(**arguments, generator=rng())


def test_profiles():
    with pytest.raises(ValueError, match="not negative"):
        NoiseProfile(-1e-3, 0.0)
    with pytest.raises(ValueError, match="finite"):
        NoiseProfile(1e-3, math.inf)
    drawn = [draw_noise_profile(rng(seed)) for seed in range(200)]
    shots = np.array([profile.shot for profile in drawn])
    assert 1e-4 <= shots.min() < 2e-4
    assert 8e-3 < shots.max() <= 1.2e-2
    # Read noise of 0.1 to 20 codes of 10 bits.
    deviations = np.sqrt([profile.read for profile in drawn]) * 1023
    assert 0.05 < deviations.min() < 0.2
    assert 10 < deviations.max() < 30


def test_green_is_the_most_sensitive():
    balances = np.array([_draw_balance(rng(seed)) for seed in range(300)])
    assert balances.min() >= 1
    assert 2.0 < balances.max() < 3.2
    assert np.corrcoef(np.log(balances).T)[0, 1] < -0.7  # warm light has little blue, cold light little red


# ---- synthesis ---------------------------------------------------------------------------------------------------

SMALL = {"frame": (18, 20), "patch": (12, 14), "motion": 8.0}


def test_samples():
    pairs = RawPairs([panorama(0), panorama(1)], samples_per_epoch=24, seed=3, **SMALL)
    assert pairs.scenes == ["tensor 0", "tensor 1"]
    assert len(pairs) == 24
    ratios, references, saturated = [], set(), []
    for index in range(24):
        sample = pairs[index]
        assert {name: (tuple(value.shape), value.dtype) for name, value in sample.items()} == {
            "images": ((2, 4, 12, 14), torch.float32),
            "target": ((4, 12, 14), torch.float32),
            "reference": ((), torch.int64),
            "times": ((2,), torch.float32),
        }
        reference = int(sample["reference"])
        assert sample["times"][reference] == 1
        assert sample["target"].min() >= 0
        assert sample["images"].min() >= 0
        assert sample["images"].max() <= 1
        references.add(reference)
        ratios.append(float(sample["times"][1] / sample["times"][0]))
        saturated.append(float((sample["images"][1] == 1).float().mean()))
        # The reference image is the target but for noise, which has no bias, and clipping.
        image, target = sample["images"][reference], sample["target"]
        inside = (target > 0.2) & (target < 0.8)
        if int(inside.sum()) > 50:
            assert abs(float((image[inside] - target[inside]).mean())) < 0.03
    assert references == {0, 1}
    assert min(ratios) >= 2
    assert max(ratios) <= 16
    assert max(ratios) / min(ratios) > 3
    assert max(saturated) > 0.2


def test_samples_depend_on_their_key_alone():
    first, second = (RawPairs(panorama(), samples_per_epoch=5, seed=7, rotate=True, **SMALL) for _ in range(2))
    forward = {key: first[key] for key in [(0, 0), (0, 4), (2, 1)]}
    for key in reversed(forward):
        assert all(torch.equal(forward[key][name], second[key][name]) for name in forward[key])
    assert not torch.equal(first[0, 0]["images"], first[1, 0]["images"])
    other = RawPairs(panorama(), samples_per_epoch=5, seed=8, rotate=True, **SMALL)
    assert not torch.equal(first[0, 0]["images"], other[0, 0]["images"])


def noiseless(generator):
    return NOISELESS


def test_still_and_moving_samples():
    """Without motion, noise and clipping both images show the same light; with motion most do not."""
    options = {"noise": noiseless, "bits": (16,), "ratio": 2.0, "samples_per_epoch": 30, "seed": 1}
    still = RawPairs(panorama(), **{**SMALL, "motion": 0.0}, **options)
    moving = RawPairs(panorama(), **SMALL, **options)

    def differ(sample):
        short, long = sample["images"]
        seen = (long < 1) & (short > 1e-3)
        return float(((long - 2 * short).abs() / long.clamp(min=1e-3))[seen].mean()) if seen.any() else 0.0

    assert max(differ(still[index]) for index in range(30)) < 0.02
    shares = [differ(moving[index]) > 0.05 for index in range(30)]
    assert 0.6 < sum(shares) / 30 < 1


def test_objects_move_in_front_of_a_still_view():
    """A view of nothing but grey: what differs between the images are objects."""
    flat = torch.full((3, 64, 128), 0.5)
    options = {"noise": noiseless, "bits": (16,), "ratio": 2.0, "samples_per_epoch": 20, "seed": 2}
    none = RawPairs(flat, objects=0, **SMALL, **options)
    some = RawPairs(flat, objects=3, **SMALL, **options)

    def differ(sample):
        return float((sample["target"] / sample["target"].median() - 1).abs().max())

    # The planes have levels of their own: look at green.
    def green(sample):
        return {"target": sample["target"][1:3]}

    assert max(differ(green(none[index])) for index in range(20)) < 1e-3
    assert sum(differ(green(some[index])) > 0.1 for index in range(20)) >= 8


def test_objects_alone_move():
    """A view of nothing but grey again: the exposures differ by their ratio alone unless objects have moved."""
    flat = torch.full((3, 64, 128), 0.5)
    options = {"noise": noiseless, "bits": (16,), "ratio": 2.0, "objects": 3, "samples_per_epoch": 20, "seed": 2}

    def moved(motion):
        found = 0
        for sample in RawPairs(flat, **{**SMALL, "motion": motion}, **options):
            short, long = sample["images"]
            seen = (long < 1) & (short > 1e-3)
            found += bool(((long - 2 * short).abs() > 0.05 * long)[seen].any())
        return found

    assert moved(0.0) == 0
    assert moved(8.0) >= 6


def test_whole_frames():
    pairs = RawPairs(panorama(), frame=(18, 20), patch=None, motion=8.0, augment=False, samples_per_epoch=3)
    assert pairs[0]["images"].shape == (2, 4, 18, 20)
    mirrored = RawPairs(panorama(), frame=(18, 20), patch=None, motion=8.0, samples_per_epoch=12)
    widths = {mirrored[index]["images"].shape[-1] for index in range(12)}
    assert widths == {19, 20}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": (4.0, 2.0)}, "ratio must be"),
        ({"ratio": 0.5}, "ratio must be"),
        ({"frame": (0, 4)}, "frame must be"),
        ({"motion": -1.0}, "motion and objects must not be negative"),
        ({"objects": -1}, "motion and objects must not be negative"),
        ({"bits": ()}, "bits must be"),
        ({"bits": (10, 20)}, "bits must be"),
        ({"patch": (18, 20)}, r"patch \(18, 20\) must fit into the frame \(18, 20\) in every attitude"),
        ({"seed": -1}, "seed must be"),
        ({"fov": (0.0, 50.0)}, "fov must be"),
        ({"samples_per_epoch": 0}, "samples_per_epoch must be"),
    ],
)
def test_arguments_of_synthesis(changes, message):
    with pytest.raises(ValueError, match=message):
        RawPairs(panorama(), **{**SMALL, **changes})
    RawPairs(panorama(), frame=(18, 20), patch=(18, 20), motion=8.0, augment=False)
