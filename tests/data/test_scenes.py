"""Finding scenes and dividing them."""

import operator
import pathlib

import pytest

from hdrops.data import find_scenes, split_scenes
from hdrops.data.scenes import scene_names
from hdrops.io import InputError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_every_folder_with_images_is_a_scene(tmp_path):
    touch(
        tmp_path / "b" / "1.PNG",
        tmp_path / "a" / "x.jpg",
        tmp_path / "a" / "part of it" / "y.png",
        tmp_path / "c" / "deep" / "y.nef",
        tmp_path / "notes" / "readme.txt",
        tmp_path / ".cache" / "thumb.png",
        tmp_path / "b" / ".hidden.png",
    )
    (tmp_path / "empty").mkdir()
    found = find_scenes(tmp_path)
    assert found == [tmp_path / "a", tmp_path / "b", tmp_path / "c" / "deep"]
    # A scene itself, one found twice, and text paths.
    assert find_scenes([str(tmp_path / "b"), tmp_path]) == [found[1], found[0], found[2]]
    assert find_scenes(str(tmp_path / "c")) == found[2:]


def test_links_in_a_circle(tmp_path):
    touch(tmp_path / "a" / "one" / "1.png", tmp_path / "a" / "two" / "1.png")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert find_scenes(tmp_path) == [tmp_path / "a" / "one", tmp_path / "a" / "two"]


def test_absent_folder(tmp_path):
    with pytest.raises(InputError, match="absent is no folder"):
        find_scenes([tmp_path / "absent"])


def test_names_are_short_but_tell_apart():
    paths = [pathlib.Path(p) for p in ("/d/one/tree", "/d/two/tree", "/d/two/house")]
    assert scene_names(paths) == ["one/tree", "two/tree", "house"]
    assert scene_names([]) == []


def test_split_by_share_depends_on_names_alone():
    scenes = [pathlib.Path(f"/data/scene{k}") for k in range(50)]
    train, held = split_scenes(scenes, 0.2, seed=3)
    assert len(held) == 10
    assert sorted(train + held) == sorted(scenes)
    moved = [f"/elsewhere/new/{scene.name}" for scene in reversed(scenes)]
    assert {path.name for path in split_scenes(moved, 0.2, seed=3)[1]} == {path.name for path in held}
    assert split_scenes(scenes, 0.2, seed=4)[1] != held


def test_split_keeps_scenes_of_one_name_together():
    scenes = [f"{root}/{k}" for root in ("a", "b") for k in range(10)]
    for seed in range(10):
        train, held = split_scenes(scenes, 0.3, seed)
        assert len(held) == 6
        assert {path.name for path in train}.isdisjoint(path.name for path in held)


def test_split_keeps_scenes_of_one_subject_together():
    scenes = [f"{place}_{k}" for place in ("lake", "tree", "hut", "road", "barn") for k in (1, 2)]
    place = operator.methodcaller("rstrip", "_12")
    for seed in range(10):
        train, held = split_scenes(scenes, 0.4, seed, subject=place)
        assert len(held) == 4
        assert {place(path.name) for path in train}.isdisjoint(place(path.name) for path in held)
    assert [len(side) for side in split_scenes(scenes, ["hut_1", "hut_2"], subject=place)] == [8, 2]
    with pytest.raises(ValueError, match="'hut_2', which shows the same"):
        split_scenes(scenes, ["hut_1"], subject=place)
    with pytest.raises(ValueError, match="at least two"):
        split_scenes(scenes[:2], 0.5, subject=place)


def test_split_leaves_both_sides_something():
    assert [len(side) for side in split_scenes(["a", "b"], 0.01)] == [1, 1]
    assert [len(side) for side in split_scenes(["a", "b"], 0.99)] == [1, 1]


def test_split_by_names():
    scenes = ["x/church.hdr", "x/dot.ted", "y/lake"]
    train, held = split_scenes(scenes, ["church", "dot.ted"])
    assert [*map(str, train)] == ["y/lake"]
    assert [*map(str, held)] == ["x/church.hdr", "x/dot.ted"]
    with pytest.raises(ValueError, match="'sea', which is not among the 3 scenes"):
        split_scenes(scenes, ["sea"])


@pytest.mark.parametrize(("scenes", "share"), [(["a", "b"], 0.0), (["a", "b"], 1.0), (["a", "b"], 2), (["a"], 0.5)])
def test_split_refuses(scenes, share):
    with pytest.raises(ValueError, match=r"share|at least two"):
        split_scenes(scenes, share)
