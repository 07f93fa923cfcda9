"""Triplets of fusion: which frames are correctly exposed, and what a sample holds."""

import pytest
import torch

pytest.importorskip("OpenImageIO", reason="reading images needs OpenImageIO")

from hdrops.data import FusionTriplets, classify_exposures, render_scene
from hdrops.io import InputError, write_image


@pytest.fixture
def folder(tmp_path):
    """Scenes of 5, 3 and 2 exposures."""
    for scene, count, seed in (("five", 5, 1), ("three", 3, 2), ("two", 2, 3)):
        (tmp_path / scene).mkdir()
        radiance = render_scene(36, 54, seed=seed)
        for k in range(count):
            image = (radiance * 4.0 ** (k - count // 2)).clamp(0, 1).pow(1 / 2.2).mul(255).round().byte()
            write_image(tmp_path / scene / f"{k}.png", image)
    return tmp_path


@pytest.mark.parametrize(
    ("means", "correct"),
    [
        ((0.1, 0.4, 0.6, 0.9), [1, 2]),
        ((0.05, 0.1, 0.2, 0.25), [2]),  # none within the range: the nearest to its middle
        ((0.8, 0.85, 0.95), [1]),
        ((0.5, 0.6, 0.65), [1]),  # never an outer one
        ((0.1, 0.3, 0.7, 0.71, 0.9), [1, 2]),
    ],
)
def test_correctly_exposed_frames(means, correct):
    assert classify_exposures(means) == correct


def test_classification_is_checked():
    with pytest.raises(ValueError, match="three exposures at least are needed, got 2"):
        classify_exposures([0.1, 0.9])
    with pytest.raises(ValueError, match=r"range within \[0, 1\]"):
        classify_exposures([0.1, 0.5, 0.9], correct=(0.7, 0.3))


def test_all_pairings_around_each_correct_exposure(folder):
    with pytest.warns(UserWarning, match="left out 1 of 3: two: it has 2 exposures"):
        triplets = FusionTriplets(folder, size=(20, 24))
    assert triplets.scenes == ["five", "three"]
    assert triplets.smallest_side == 20
    assert ("three", 0, 1, 2) in triplets.triplets
    for middle in {middle for scene, _, middle, _ in triplets.triplets if scene == "five"}:
        found = {(d, b) for scene, d, m, b in triplets.triplets if (scene, m) == ("five", middle)}
        assert found == {(d, b) for d in range(middle) for b in range(middle + 1, 5)}
    for index in range(len(triplets)):
        sample = triplets[index]
        assert all(image.shape == (3, 20, 24) and image.dtype == torch.float32 for image in sample.values())
        means = [sample[name].mean() for name in ("dark", "target", "bright")]
        assert means[0] < means[1] < means[2]


def test_samples_depend_on_their_key_alone(folder):
    (folder / "two").rename(folder / ".two")
    first, second = (FusionTriplets(folder, size=(20, 24), seed=3) for _ in range(2))
    seen = set()
    for epoch in range(12):
        for index in reversed(range(len(first))):
            sample = first[epoch, index]
            assert all(torch.equal(sample[name], second[epoch, index][name]) for name in sample)
        flipped = torch.equal(first[epoch, 0]["dark"], first[0, 0]["dark"].flip(-1))
        seen.add(flipped)
    assert seen == {False, True}
    plain = FusionTriplets(folder, size=(20, 24), augment=False)
    assert all(torch.equal(plain[0, 0][name], plain[3, 0][name]) for name in ("dark", "target", "bright"))


def test_size_of_the_files(folder):
    (folder / "two").rename(folder / ".two")
    triplets = FusionTriplets(folder, size=None)
    assert triplets[0]["dark"].shape == (3, 36, 54)
    assert triplets.smallest_side == 36
    assert len(FusionTriplets(folder, samples_per_epoch=7)) == 7


def test_nothing_to_learn_from(folder):
    with pytest.raises(InputError, match="no scene can be used: two: it has 2 exposures; three at least are needed"):
        FusionTriplets(folder / "two")
    with pytest.raises(ValueError, match="size must be"):
        FusionTriplets(folder, size=(0, 3))
    with pytest.raises(ValueError, match="seed must be"):
        FusionTriplets(folder, seed=-1)
