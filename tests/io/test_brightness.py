import math

import numpy as np
import pytest
import shots
import torch

from hdrops.io import inspect_image
from hdrops.io.brightness import contradiction, measure_tones, scene_likeness, stops_between


@pytest.mark.parametrize("stops", [-2, -1, 0.5, 1, 2])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "grey", "linear"])
def test_stops_between(kind, stops):
    def tones(by):
        codes = shots.picture(0, by)
        if kind == "uint16":
            return measure_tones((codes.int() * 257).to(torch.uint16))
        if kind == "grey":
            return measure_tones(codes[:1])
        if kind == "linear":
            return measure_tones(10 * 2.0**by * (torch.arange(4800.0).reshape(1, 60, 80) + 1) / 4800)
        return measure_tones(codes)

    assert stops_between(tones(0), tones(stops)) == pytest.approx(stops, abs=0.1)


def test_stops_of_a_moved_camera():
    codes = shots.picture(0, 1)
    moved = torch.roll(codes, (7, 11), dims=(1, 2))
    assert stops_between(shots.tones(0), measure_tones(moved)) == pytest.approx(1, abs=0.1)


def test_black_and_clipped_pixels_say_nothing():
    assert stops_between(shots.tones(0, -6), shots.tones(0, 6)) is None
    for value in (0, 255):
        flat = measure_tones(torch.full((3, 9, 9), value, dtype=torch.uint8))
        assert np.isnan(flat.levels).all()
        assert stops_between(flat, shots.tones(0)) is None
        assert scene_likeness(flat, shots.tones(0)) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3), (1000, 600)])
def test_any_size_can_be_measured(size):
    tones = measure_tones(torch.full((1, *size), 100, dtype=torch.uint8))
    assert stops_between(tones, tones) == 0
    assert scene_likeness(tones, tones) is None  # nothing to see


def test_likeness_tells_scenes_apart_whatever_the_exposure():
    for stops in (-2, -1, 1, 2):
        assert scene_likeness(shots.tones(0), shots.tones(0, stops)) > 0.85
        for scene in range(1, 9):
            assert abs(scene_likeness(shots.tones(0), shots.tones(scene, stops))) < 0.4


@pytest.mark.parametrize(
    ("stated", "measured", "false"),
    [
        ((1, 4), (0, 2), False),
        ((1, 4), (0, 1), False),  # a flat camera curve
        ((1, 4), (0, 4), False),  # a steep one
        ((4, 1), (0, 2), True),
        ((1, 2, 4), (0, 1, 1), True),
        ((1, 1), (0, 0.5), False),
        ((1, 1), (0, 1.5), True),
        ((1, 1), (0, -1.5), True),
        ((1, 1, 1), (-0.8, 0, 0.8), True),
        ((1, 1.26), (0, -0.2), False),
        ((1, 2), (0, 5), True),
        ((1, 4096), (-6, 6), False),  # nothing in common to measure by
    ],
)
def test_contradiction(stated, measured, false):
    names = [f"{k}.jpg" for k in range(len(stated))]
    found = contradiction(stated, [shots.tones(0, stops) for stops in measured], names)
    assert (found is not None) == false
    if false:
        assert ".jpg against " in found
        assert "stated" in found
        assert "measured" in found


def test_real_times(data, brackets):
    """Times that are right are believed, and the wrong ones are not."""
    wrong = []
    checked = 0
    for folder, entry in brackets.items():
        times = entry["exposure_times"] or [2.0**ev for ev in entry["ev"] or ()]
        if times:
            tones = [inspect_image(data / folder / name).tones for name in entry["files"]]
            checked += 1
            if contradiction(times, tones, entry["files"]) is not None:
                wrong.append(folder)
    assert wrong == ["brackets/false_times/living_room2"]
    assert checked > 15


def test_real_likeness(data, brackets):
    names = [f"brackets/iccv17/seq_{k:02d}" for k in range(100)]
    scenes = [brackets[name] for name in names if name in brackets][:8]
    tones = [[inspect_image(data / scene["dir"] / name).tones for name in scene["files"]] for scene in scenes]
    for dark, middle, bright in tones:
        assert min(scene_likeness(dark, middle), scene_likeness(middle, bright)) > 0.85
        assert math.isclose(stops_between(dark, bright), -stops_between(bright, dark))
    others = [scene_likeness(one[2], other[0]) for one in tones for other in tones if one is not other]
    assert sorted(others)[int(0.9 * len(others))] < 0.45  # two of these brackets show one building
