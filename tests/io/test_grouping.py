import dataclasses
import pathlib
import random

import pytest
import shots
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdrops.io import Exposure, InputError, group_frames, inspect_image

TIMES = {-2: 1 / 400, -1: 1 / 200, 0: 1 / 100, 1: 1 / 50, 2: 1 / 25}


def shoot(*cycles, exif=True, every=None, pause=None, names="IMG_{}.jpg", **options):
    """Cycles of (scene, stops of each frame): frames named in order, ``every`` seconds apart, ``pause`` s between."""
    frames, now = [], 0.0
    for scene, cycle in cycles:
        for stops in cycle:
            at = None if every is None else now
            name = names.format(len(frames))
            frames.append(shots.frame(name, scene, stops, time=TIMES[stops] if exif else None, at=at, **options))
            now += every or 0
        now += pause or 0
    return frames


def result(groups):
    """Verdict and names of each group."""
    return [
        (group.verdict[0], " ".join(frame.path.stem.removeprefix("IMG_") for frame in group.frames)) for group in groups
    ]


def grouped(frames, **options):
    return result(group_frames(frames, **options))


AEB = (0, -2, 2)


# ---- time and exposure ----------------------------------------------------------------------------


@pytest.mark.parametrize("exif", [True, False])
def test_a_pause_starts_a_group(exif):
    frames = shoot((0, (-2, 0)), (0, (2, 1)), every=1, pause=60, exif=exif)
    assert grouped(frames) == [("b", "0 1"), ("b", "2 3")]
    assert group_frames(frames)[0].decided_by == ("time, exif" if exif else "time, brightness")


def test_long_exposures_may_take_long():
    frames = [shots.frame(f"{k}.jpg", 0, k, time=8.0 * 2**k, at=at) for k, at in enumerate((0, 20, 55))]
    assert grouped(frames) == [("b", "0 1 2")]
    assert grouped([dataclasses.replace(x, exposure=Exposure(x.exposure.time / 100)) for x in frames]) == [
        ("s", "0"),
        ("s", "1"),
        ("s", "2"),
    ]


def test_fractions_of_a_second_count():
    frames = [
        shots.frame(f"{name}.jpg", 0, s, time=TIMES[s], at=at) for name, s, at in (("a", 2, 0.75), ("b", 0, 0.25))
    ]
    assert grouped(frames) == [("b", "b a")]


@pytest.mark.parametrize("cycle", [AEB, (-2, 0, 2), (2, 0, -2), (0, 2, -2), (0, -1, 1, -2, 2), (-2, 2)])
@pytest.mark.parametrize("exif", [True, False])
@pytest.mark.parametrize("every", [None, 0.5])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_repeated_cycle_starts_a_group(cycle, exif, every, count):
    frames = shoot(*[(0, cycle)] * count, exif=exif, every=every)
    expected = [" ".join(str(k * len(cycle) + i) for i in range(len(cycle))) for k in range(count)]
    groups = group_frames(frames)
    assert result(groups) == [("b", names) for names in expected]
    for group in groups:
        assert group.decided_by == f"{'name' if every is None else 'time'}, {'exif' if exif else 'brightness'}"
        assert group.stops == pytest.approx([stops - cycle[0] for stops in cycle], abs=0.15)
        assert group.warnings == ()


def test_a_cycle_at_another_base_exposure_starts_a_group():
    frames = shoot((0, (0, -2, 2)), (1, (1, -1)), every=0.5)
    assert grouped(frames[:3]) == [("b", "0 1 2")]
    metered = [
        shots.frame(f"{k}.jpg", 0, 0.5 * s, time=2.0**s / 100, at=k) for k, s in enumerate((0, -2, 2, 0.7, -1.3, 2.7))
    ]
    assert grouped(metered) == [("b", "0 1 2"), ("b", "3 4 5")]


def test_another_scene_starts_a_group():
    for options in ({}, {"every": 1.0}, {"exif": False}):
        frames = shoot((0, (-2, 0, 2)), (1, (-1, 1)), (2, (0, 2)), **options)
        assert grouped(frames) == [("b", "0 1 2"), ("b", "3 4"), ("b", "5 6")]


def test_aperture_and_sensitivity_make_exposures_too():
    settings = ((100, 8.0), (400, 8.0), (400, 4.0))
    frames = [
        shots.frame(f"{k}.jpg", 0, 2 * k - 2, at=k, exposure=Exposure(0.01, f_number, iso))
        for k, (iso, f_number) in enumerate(settings)
    ]
    (group,) = group_frames(frames)
    assert (group.verdict, group.decided_by) == ("bracket", "time, exif")
    assert group.stops == pytest.approx((0, 2, 4))


# ---- kind and place -------------------------------------------------------------------------------


def test_folders_do_not_mix():
    frames = shoot((0, (-2, 0, 2)), every=1)
    frames[2] = dataclasses.replace(frames[2], path=pathlib.Path("other/IMG_2.jpg"))
    assert grouped(frames) == [("b", "0 1"), ("s", "2")]


@pytest.mark.parametrize(
    "other", [{"shape": (3, 80, 60)}, {"shape": (1, 60, 80)}, {"bits": 16}, {"camera": "Another"}, {"format": "tiff"}]
)
@pytest.mark.parametrize("every", [None, 1.0])
def test_kinds_do_not_mix(other, every):
    frames = shoot((0, (-2, 0, 1, 2)), every=every)
    frames[2:] = [dataclasses.replace(frame, **other) for frame in frames[2:]]
    assert grouped(frames) == [("b", "0 1"), ("b", "2 3")]


def test_two_cameras_at_once():
    frames = shoot((0, AEB), every=1)
    others = [
        dataclasses.replace(x, path=pathlib.Path(f"folder/IMG_{k}b.jpg"), camera="B") for k, x in enumerate(frames)
    ]
    assert grouped(frames + others) == [("b", "0 1 2"), ("b", "0b 1b 2b")]


@pytest.mark.parametrize("every", [None, 1.0])
@pytest.mark.parametrize("per_set", [None, 3])
def test_two_formats_of_every_picture(every, per_set):
    frames = shoot((0, AEB), (0, AEB), every=every)
    others = [dataclasses.replace(x, path=x.path.with_suffix(".tif"), format="tiff", bits=16) for x in frames]
    groups = group_frames(frames + others, per_set=per_set)
    assert [{frame.path.suffix for frame in group.frames} for group in groups] == [{".jpg"}, {".tif"}] * 2
    assert all(len(group.frames) == 3 for group in groups)


def test_numbers_in_names_count():
    frames = shoot((0, (-2, 0, 2)), (1, (-2, 0, 2)), (2, (-2, 0, 2)), (3, (-2, 0, 2)), exif=False)
    assert grouped(frames) == [("b", f"{k} {k + 1} {k + 2}") for k in (0, 3, 6, 9)]


def test_names_of_every_form_have_an_order():
    names = ["a.jpg", "a1.jpg", "a1b.jpg", "1a.jpg", "1.jpg", "A.jpg", "a01.jpg", "²3.jpg", "٣.jpg", "1", "a1b2/3.jpg"]
    frames = [shots.frame(name, error="broken") for name in names]
    found = [group.frames[0].path for group in group_frames(frames)]
    assert found == [group.frames[0].path for group in group_frames(frames[::-1])]
    assert sorted(found) == sorted(frame.path for frame in frames)


def test_files_with_and_without_exif():
    frames = shoot((0, (-2, 0, 2)), exif=False) + shoot((0, (-2, 0, 2)), names="MORE_{}.jpg")
    groups = group_frames(frames)
    assert [(len(group.frames), group.decided_by) for group in groups] == [(3, "name, brightness"), (3, "name, exif")]


# ---- no brackets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"every": 1.0}, {"exif": False}, {"exif": False, "every": 1.0}])
def test_a_stray_image_is_skipped(options):
    frames = shoot((0, (-2, 0, 2)), (1, (0,)), (2, (-2, 0, 2)), **options)
    groups = group_frames(frames)
    assert result(groups) == [("b", "0 1 2"), ("s", "3"), ("b", "4 5 6")]
    assert groups[1].reason.startswith("a single image")


@pytest.mark.parametrize("before", [1, 0])
@pytest.mark.parametrize("after", [1, 0])
def test_single_images_beside_a_cycle_of_the_same_scene(before, after):
    frames = shoot(*[(0, (0,))] * before, (0, AEB), *[(0, (0,))] * after, every=1)
    verdicts = [group.verdict for group in group_frames(frames)]
    assert verdicts == ["skipped"] * before + ["bracket"] + ["skipped"] * after


def test_a_series_of_one_exposure_is_skipped():
    (group,) = group_frames(shoot((0, (0, 0, 0, 0)), every=1))
    assert (group.verdict, len(group.frames)) == ("skipped", 4)
    assert "4 images of one exposure" in group.reason


@pytest.mark.parametrize(
    ("cycles", "options"),
    [
        ((0, -2, 2, 0, -2), {}),
        ((-2, 0, -2, 2, 0, -2, 2), {}),  # a single image that looks like a part of the cycle after it
        ((0, -2, 2, 0, -2), {"exif": False}),
        ((0, 0, 0), {"exif": False}),
        ((0, -2, 2, 0), {"exif": False}),
        ((-2, 0, -2, 2), {}),
        ((-2, 0, -2, 2), {"exif": False}),
        ((-2, 2, 0), {}),
        ((-2, 0, 2, -1, 1), {"exif": False}),
    ],
)
def test_what_is_unclear_is_refused(cycles, options):
    (group,) = group_frames(shoot((0, cycles), **options))
    assert (group.verdict, len(group.frames)) == ("refused", len(cycles))
    assert "--per-set" in group.reason


def test_a_wide_cycle_is_compared_with_more_than_its_neighbour():
    frames = [shots.frame(f"{k}.jpg", 0, stops) for k, stops in enumerate((0, -5, 5))]
    assert grouped(frames) == [("b", "0 1 2")]
    assert grouped(frames[1:]) == [("r", "1 2")]


def test_a_doubtful_scene_is_refused_only_where_nothing_else_is_known():
    alike = (shots.picture(0, -2).float() + 1.4 * shots.picture(1, -2).float()) / 2.4
    half = shots.measure_tones(alike.to(torch.uint8))
    assert 0.35 < shots.scene_likeness(shots.tones(0), half) < 0.55
    for time, at, verdict in ((None, None, "refused"), (1, None, "bracket"), (None, 1, "bracket")):
        frames = [
            shots.frame("0.jpg", 0, 0, time=time, at=at),
            shots.frame("1.jpg", time=time and time / 4, at=at, tones=half),
        ]
        assert [group.verdict for group in group_frames(frames)] == [verdict]


def test_without_anything_in_common_neighbours_are_refused():
    frames = [shots.frame("0.jpg", 0, -6), shots.frame("1.jpg", 0, 6)]
    (group,) = group_frames(frames)
    assert group.verdict == "refused"
    assert "unclear whether 1.jpg shows the scene of 0.jpg" in group.reason


# ---- false and missing times ----------------------------------------------------------------------


@pytest.mark.parametrize("every", [None, 1.0])
def test_equal_times_that_are_false(every):
    frames = [dataclasses.replace(x, exposure=Exposure(1 / 60)) for x in shoot((0, AEB), (0, AEB), every=every)]
    groups = group_frames(frames)
    assert result(groups) == [("b", "0 1 2"), ("b", "3 4 5")]
    for group in groups:
        assert group.decided_by.endswith("brightness")
        assert "contradict" in group.warnings[0]


def test_reversed_times_are_said():
    frames = [shots.frame(f"{k}.jpg", 0, stops, time=TIMES[-stops]) for k, stops in enumerate((-2, 0, 2))]
    (group,) = group_frames(frames)
    assert (group.verdict, len(group.warnings)) == ("bracket", 1)
    assert "stated +2.0 EV, measured -2.0 EV" in group.warnings[0]
    assert group.stops == pytest.approx((0, 2, 4), abs=0.1)


def test_times_that_some_files_lack():
    frames = shoot((0, AEB), every=1)
    frames[1] = dataclasses.replace(frames[1], exposure=Exposure())
    (group,) = group_frames(frames)
    assert (group.verdict, group.decided_by) == ("bracket", "time, brightness")
    assert "1 of 3 files state no exposure time (such as IMG_1.jpg)" in group.warnings[0]


# ---- stated sets ----------------------------------------------------------------------------------


def test_sets_by_number():
    frames = shoot((0, (-2, 0, 2, 1)), (0, (-1, 0, 1, 2)), every=1, pause=99)
    groups = group_frames(frames, per_set=3)
    assert result(groups) == [("b", "0 1 2"), ("b", "3 4 5"), ("r", "6 7")]
    assert groups[0].decided_by == "count"
    assert "left over of 8 files in sets of 3" in groups[2].reason


def test_sets_whose_files_differ():
    frames = shoot((0, (-2, 2)), (1, (-2, 2)))
    frames[1] = dataclasses.replace(frames[1], shape=(3, 10, 20))
    frames[2] = dataclasses.replace(frames[2], error="IMG_2.jpg is empty", tones=None)
    groups = group_frames(frames, per_set=2)
    assert [group.verdict for group in groups] == ["refused"] * 2
    assert "IMG_0.jpg is 80 x 60, 8-bit RGB, IMG_1.jpg is 20 x 10, 8-bit RGB" in groups[0].reason
    assert groups[1].reason == "IMG_2.jpg is empty"


def test_sets_that_seem_to_mix_scenes_are_said():
    frames = shoot((0, (-1, 1, 0)), (1, (-1, 1, 0)))
    assert all(not group.warnings for group in group_frames(frames, per_set=3))
    mixed = group_frames(frames, per_set=2)[1]
    assert mixed.verdict == "bracket"
    assert "IMG_3.jpg does not seem to show the scene of IMG_2.jpg" in mixed.warnings[0]


def test_stated_exposures():
    frames = shoot((0, AEB), (1, AEB), exif=False)
    groups = group_frames(frames, exposures=[1.0, 0.25, 4.0])
    assert [(group.verdict, group.stops, group.warnings) for group in groups] == [("bracket", (0, -2, 2), ())] * 2
    for group in group_frames(frames, exposures=[0.25, 1.0, 4.0], per_set=3):
        assert group.stops == (0, 2, 4)
        assert "the stated exposures contradict" in group.warnings[0]


def test_wrong_arguments():
    for options in ({"per_set": 1}, {"per_set": 0}, {"per_set": 3, "exposures": [1, 2]}, {"exposures": [1]}):
        with pytest.raises(InputError):
            group_frames([], **options)
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="positive and finite"):
            group_frames([], exposures=[1, value])
    assert group_frames([]) == []


# ---- broken files ---------------------------------------------------------------------------------


def test_a_broken_file_refuses_the_bracket_around_it():
    frames = shoot((0, AEB), (1, AEB), every=1)
    broken = dataclasses.replace(frames[1], error="IMG_1.jpg is empty", tones=None, captured=None, exposure=Exposure())
    groups = group_frames([frames[0], broken, *frames[2:]])
    assert result(groups) == [("r", "0 2"), ("r", "1"), ("b", "3 4 5")]
    assert "IMG_1.jpg, which lies between its frames, cannot be read" in groups[0].reason
    assert groups[1].reason == "IMG_1.jpg is empty"


def test_a_broken_file_beside_a_bracket_leaves_it_alone():
    frames = [*shoot((0, AEB), every=1), shots.frame("IMG_3.jpg", error="IMG_3.jpg is empty", tones=None)]
    assert grouped(frames) == [("b", "0 1 2"), ("r", "3")]


# ---- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".jpg", ".tif"])
def test_facts_of_a_file(tmp_path, extension):
    path = shots.write(tmp_path / f"a{extension}", 3, 1, time=1 / 30, at=0.25, Make="Maker ", Model="X 1")
    frame = inspect_image(path)
    assert frame.captured == shots.CLOCK + 0.25
    assert (frame.camera, frame.exposure.time, frame.shape, frame.bits) == ("Maker X 1", 1 / 30, (3, 60, 80), 8)
    assert (frame.format, frame.path, frame.error) == ({".jpg": "jpeg", ".tif": "tiff"}[extension], path, "")
    assert frame.tones is not None


@pytest.mark.parametrize("date", ["0000:00:00 00:00:00", "    :  :     :  :  ", "yesterday", "2020:02:30 10:00:00"])
def test_a_date_that_is_none(tmp_path, date):
    path = shots.write(tmp_path / "a.jpg", Exif__DateTimeOriginal=date)
    assert (inspect_image(path).captured, inspect_image(path).error) == (None, "")


def test_fraction_that_is_none(tmp_path):
    path = shots.write(tmp_path / "a.jpg", at=0, Exif__SubsecTimeOriginal="x")
    assert inspect_image(path).captured == shots.CLOCK


def test_text_that_is_not_utf8(tmp_path):
    path = shots.write(tmp_path / "a.jpg", at=0, time=0.1, Make="M~ker", Model="X")
    path.write_bytes(path.read_bytes().replace(b"M~ker", b"M\xe4ker"))
    frame = inspect_image(path)
    assert frame.camera == "Mäker X"
    assert (frame.captured, frame.exposure.time) == (shots.CLOCK, 0.1)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert "empty" in inspect_image(tmp_path / "a.jpg").error
    assert "No such file" in inspect_image(tmp_path / "b.jpg").error


# ---- properties -----------------------------------------------------------------------------------


@st.composite
def folders(draw):
    frames = []
    for k in range(draw(st.integers(1, 14))):
        stops = draw(st.sampled_from(sorted(TIMES)))
        frames.append(
            shots.frame(
                draw(st.sampled_from(["IMG_", "", "a/", "a1/"]))
                + f"{k}"
                + draw(st.sampled_from([".jpg", "b.jpg", ".tif"])),
                draw(st.integers(0, 2)),
                stops,
                time=draw(st.sampled_from([None, TIMES[stops], 0.01])),
                at=draw(st.none() | st.sampled_from([0, 0, 1, 5, 30, 31, 600])),
                error=draw(st.sampled_from(["", "", "", "broken"])),
                bits=draw(st.sampled_from([8, 8, 16])),
            )
        )
    return frames


@given(folders(), st.randoms(use_true_random=False), st.none() | st.integers(2, 4))
@settings(max_examples=150, deadline=None)
def test_the_order_of_the_files_does_not_matter(frames, chance: random.Random, per_set):
    groups = group_frames(frames, per_set=per_set)
    shuffled = frames.copy()
    chance.shuffle(shuffled)
    assert group_frames(shuffled, per_set=per_set) == groups
    listed = [frame.path for group in groups for frame in group.frames]
    assert sorted(listed) == sorted(frame.path for frame in frames)
    for group in groups:
        assert bool(group.reason) == (group.verdict != "bracket")
        assert group.verdict != "bracket" or len(group.frames) > 1
        assert group.verdict != "bracket" or not any(frame.error for frame in group.frames)
        assert len(group.stops) in (0, len(group.frames))


# ---- real brackets --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "least"), [("iccv17", 12), ("fairchild", 10)])
def test_real_brackets_without_metadata_in_one_folder(data, brackets, kind, least):
    chosen = [entry for name, entry in sorted(brackets.items()) if f"/{kind}/" in name][:12]
    frames, sets = [], []
    for entry in chosen:
        paths = []
        for name in entry["files"]:
            path = pathlib.Path(f"{len(frames)}.png")
            frame = inspect_image(data / entry["dir"] / name)
            frames.append(dataclasses.replace(frame, path=path, exposure=Exposure(), captured=None, camera=""))
            paths.append(path)
        sets.append(paths)
    groups = group_frames(frames)
    found = [[frame.path for frame in group.frames] for group in groups if group.verdict == "bracket"]
    assert all(paths in sets for paths in found)
    assert len(found) >= least
    assert all(group.verdict == "refused" for group in groups if group.verdict != "bracket")


def test_flat_pictures_are_no_scene():
    flat = torch.full((3, 60, 80), 128, dtype=torch.uint8)
    frames = [dataclasses.replace(x, tones=shots.measure_tones(flat)) for x in shoot((0, AEB), exif=False)]
    (group,) = group_frames(frames)
    assert group.verdict == "refused"
