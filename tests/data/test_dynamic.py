"""Moving scenes made of HDR images: what stands still is in all exposures the same light, and what moves is not."""

import statistics

import pytest
import torch

pytest.importorskip("OpenImageIO", reason="reading images needs OpenImageIO")

from hdrops.data import DynamicScenes, render_scene
from hdrops.io import InputError, write_image

PANORAMAS = [render_scene(96, 192, seed=seed) for seed in (1, 2)]


def dataset(**options):
    return DynamicScenes(PANORAMAS, **({"frame": (48, 64), "samples_per_epoch": 8, "seed": 5} | options))


def light(sample, number):
    """Of an image in the exposure of the reference, and where it is neither dark nor saturated."""
    image = sample["images"][number]
    return image**2.2 / sample["times"][number], ((image > 0.15) & (image < 0.95)).all(0)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_samples(count):
    data = dataset(count=count, stops=(1.0, 2.0))
    assert data.scenes == ["tensor 0", "tensor 1"]
    for index in range(len(data)):
        sample = data[index]
        reference = int(sample["reference"])
        assert reference == (count - 1) // 2
        assert sample["images"].shape == (count, 3, 48, 64)
        assert sample["target"].shape == (3, 48, 64)
        assert all(t.dtype == torch.float32 for t in (sample["images"], sample["target"], sample["times"]))
        assert sample["images"].min() >= 0
        assert sample["images"].max() <= 1
        times = sample["times"]
        assert times[reference] == 1
        stops = times.log2().diff()
        assert bool(((stops >= 1 - 1e-6) & (stops <= 2 + 1e-6)).all())
        assert sample["target"].min() >= 0
        assert sample["target"].max() <= (1 / times[0]) * (1 + 1e-6)


def test_the_target_is_the_light_of_the_reference():
    data = dataset(samples_per_epoch=16)
    for index in range(len(data)):
        sample = data[index]
        found, clear = light(sample, int(sample["reference"]))
        assert clear.any()
        error = (found - sample["target"])[:, clear] / sample["target"][:, clear]
        assert error.abs().median() < 0.05
        assert error.median().abs() < 0.01
        saturated = (sample["images"][1] == 1) & (sample["target"] < 0.8)
        assert saturated.float().mean() < 0.001


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_darkest_exposure_holds_the_highlights(count):
    """Beyond it are at most 5 % of the values, of every second row and column, and beyond the reference half."""
    options = {"shake": 0, "objects": 0, "augment": False, "stops": (2.0, 2.0), "count": count}
    samples = [sample for seed in range(4) for sample in dataset(**options, seed=seed)]
    value = 3 / (3 * 24 * 32)  # of the values, three
    beyond = {}
    for name, number in (("darkest", 0), ("reference", (count - 1) // 2)):
        beyond[name] = [
            float((s["target"][:, ::2, ::2] >= (1 - 1e-5) / s["times"][number]).float().mean()) for s in samples
        ]
    assert max(beyond["darkest"]) <= 0.05 + value
    assert max(beyond["reference"]) <= 0.5 + value
    bounded = [share > 0.5 - value for share in beyond["reference"]]
    drawn = [share for share, held in zip(beyond["darkest"], bounded, strict=True) if not held]
    assert len(drawn) >= 3
    assert min(drawn) >= 0.001 - value
    assert max(drawn) > 4 * min(drawn)


def differences(data):
    """Median relative difference of light between the first two images of samples, where enough of both is clear."""
    found = []
    for sample in data:
        (a, clear), (b, also) = light(sample, 0), light(sample, 1)
        both = clear & also
        if both.sum() > 20:
            found.append(float(((a - b).abs() / b)[:, both].median()))
    assert len(found) >= len(data) // 3
    return found


def test_scenes_move_unless_nothing_does():
    still = differences(dataset(motion=0, shake=0, objects=0, stops=(0.5, 0.5)))
    moving = differences(dataset(motion=0, shake=6, objects=0, stops=(0.5, 0.5)))
    assert max(still) < 0.05
    assert statistics.median(moving) > 3 * statistics.median(still)
    # Objects alone: what is behind them stays.
    data = [dataset(motion=motion, shake=0, objects=3, augment=False) for motion in (0, 12)]
    changed = 0
    for resting, going in zip(*data, strict=True):
        assert torch.equal(resting["target"], going["target"])
        assert torch.equal(resting["images"][1], going["images"][1])
        share = ((resting["images"][2] - going["images"][2]).abs().amax(0) > 0.05).float().mean()
        assert share < 0.9
        changed += bool(share > 0.01)
    assert changed > len(data[0]) // 3


def test_photographs_move_too():
    photograph = render_scene(140, 170, seed=4)
    data = DynamicScenes(photograph, frame=(48, 64), shake=5, objects=0, samples_per_epoch=6, stops=(0.5, 0.5))
    assert max(differences(data)) > 0.05
    with pytest.raises(InputError, match="no HDR image can be used"):
        DynamicScenes(render_scene(30, 50), frame=(48, 64))


def test_samples_depend_on_their_key_alone():
    first, second = dataset(), dataset()
    keys = [(epoch, index) for epoch in range(2) for index in range(len(first))]
    expected = {key: first[key] for key in keys}
    for key in reversed(keys):
        assert all(torch.equal(value, second[key][name]) for name, value in expected[key].items())
    assert not torch.equal(expected[0, 0]["images"], expected[1, 0]["images"])
    assert not torch.equal(expected[0, 0]["images"], dataset(seed=6)[0]["images"])


def test_files_beyond_the_cache_are_read_again(tmp_path):
    for number, image in enumerate(PANORAMAS):
        write_image(tmp_path / f"{number}.exr", image)
    kept, again = (DynamicScenes(tmp_path, frame=(32, 32), cache_bytes=size) for size in (1 << 30, 0))
    for index in range(2):
        assert all(torch.equal(value, again[index][name]) for name, value in kept[index].items())
    (tmp_path / "1.exr").unlink()
    with pytest.raises(InputError, match=r"1\.exr"):
        [again[k] for k in range(8)]


@pytest.mark.parametrize(
    "bad",
    [
        {"count": 1},
        {"stops": (2.0, 1.0)},
        {"stops": (0.0, 1.0)},
        {"frame": (4, 64)},
        {"motion": -1.0},
        {"shake": float("nan")},
        {"objects": -1},
        {"fov": (0.0, 90.0)},
        {"gamma": 0.0},
        {"seed": -1},
        {"samples_per_epoch": 0},
    ],
)
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        dataset(**bad)
