"""What exposure interpolation learns from, and what it validates with."""

import os
import shutil

import pytest
import torch

pytest.importorskip("pydantic", reason="training needs pydantic")
pytest.importorskip("OpenImageIO", reason="reading images needs OpenImageIO")

from hdrops.data import render_scene
from hdrops.io import InputError, write_image
from hdrops.train import load_config
from hdrops.train.exposure_interpolation import SYSTEM


@pytest.fixture
def photos(tmp_path):
    """HDR images: two, and two more in a folder below."""
    (tmp_path / "hdr" / "more").mkdir(parents=True)
    for number, name in enumerate(["a", "b", "more/c", "more/d"]):
        write_image(tmp_path / "hdr" / f"{name}.exr", render_scene(48, 72, seed=number))
    return tmp_path / "hdr"


def data(*folders, **values):
    keys = {"data.folders": [str(folder) for folder in folders]}
    keys |= {f"data.{key}": value for key, value in values.items()}
    return SYSTEM.samples(load_config(SYSTEM.config, SYSTEM.presets, preset="tiny", values=keys)).facts


def test_an_image_is_one_scene_by_whatever_ways(photos):
    os.symlink(photos / "a.exr", photos / "same.exr")
    facts = data(photos, photos / "more", photos / "b.exr", photos / ".." / "hdr", held_out=0)
    assert sorted(facts["training"]) == ["a.exr", "b.exr", "c.exr", "d.exr"]


def test_a_bracket_is_one_scene_by_whatever_ways(tmp_path):
    for scene in ("one", "two"):
        for number in range(3):
            (tmp_path / "all" / scene).mkdir(parents=True, exist_ok=True)
            image = (render_scene(48, 72, seed=1) * 4.0 ** (number - 2)).clamp(0, 1).mul(255).byte()
            write_image(tmp_path / "all" / scene / f"{number}.png", image)
    places = [tmp_path / "all", tmp_path / "all" / ".." / "all" / "two"]
    facts = data(*places, held_out=0, **{"brackets.ev_step": 2.0})
    assert sorted(facts["training"]) == ["one", "two"]


def test_validation_without_images(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"there are no images in {tmp_path}/empty; give folders"):
        data(photos, validation=[str(tmp_path / "empty")])


def test_validation_with_scenes_of_the_training(photos, tmp_path):
    with pytest.raises(InputError) as error:
        data(photos, validation=[str(photos / "more" / ".." / "more")])
    message = str(error.value)
    assert "data.validation holds scenes that are trained with: " in message
    assert all(f"more/{name}.exr" in message for name in "cd")
    with pytest.raises(InputError, match=r"a\.exr, .*b\.exr, .*c\.exr and 1 more; keep them in folders of their own"):
        data(photos, validation=[str(photos)])
    shutil.move(photos / "more", tmp_path / "other")
    facts = data(photos, validation=[str(tmp_path / "other")])
    assert (facts["training"], facts["validation"]) == (["a.exr", "b.exr"], ["c.exr", "d.exr"])


def test_folders_are_looked_through_alike(photos, tmp_path):
    """Hidden files and folders are no data, folders that links lead to are, each once."""
    for hidden in (".trash/e.exr", ".thumbnails/a.png", "more/.f.exr"):
        (photos / hidden).parent.mkdir(exist_ok=True)
        (photos / hidden).write_bytes(b"")
    facts = data(photos, held_out=0)
    assert (facts["kind"], sorted(facts["training"])) == ("hdr", ["a.exr", "b.exr", "c.exr", "d.exr"])
    (tmp_path / "linked").mkdir()
    os.symlink(photos, tmp_path / "linked" / "there")
    os.symlink(tmp_path / "linked", photos / "more" / "back")
    facts = data(tmp_path / "linked", held_out=0)
    assert (facts["kind"], sorted(facts["training"])) == ("hdr", ["a.exr", "b.exr", "c.exr", "d.exr"])


def test_the_kind_of_a_validation_can_be_said(photos, tmp_path):
    shutil.move(photos / "more", tmp_path / "other")
    write_image(tmp_path / "other" / "preview.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"set data\.validation_kind to brackets or hdr"):
        data(photos, kind="hdr", validation=[str(tmp_path / "other")])
    facts = data(photos, validation=[str(tmp_path / "other")], validation_kind="hdr")
    assert facts["validation"] == ["c.exr", "d.exr"]


def test_frames_too_small_to_validate(photos, tmp_path):
    small = {"synthesis.frame": [10, 40], "patch": [8, 8]}
    with pytest.raises(InputError, match=r"10 pixels a side, and SSIM needs 11"):
        data(photos, **small)
    assert len(data(photos, held_out=0, **small)["training"]) == 4
    with pytest.raises(InputError, match=r"data\.validation_size: should be greater than or equal to 11"):
        data(photos, validation_size=10)
    for scene, height in (("one", 24), ("two", 10)):
        for number in range(3):
            (tmp_path / "all" / scene).mkdir(parents=True, exist_ok=True)
            image = (render_scene(height, 40, seed=1) * 4.0 ** (number - 2)).clamp(0, 1).mul(255).byte()
            write_image(tmp_path / "all" / scene / f"{number}.png", image)
    options = {"brackets.ev_step": 2.0, "patch": [8, 8]}
    assert data(tmp_path / "all", held_out_scenes=["one"], **options)["validation"] == ["one"]
    with pytest.raises(InputError, match=r"10 pixels a side, and SSIM needs 11"):
        data(tmp_path / "all", held_out_scenes=["two"], **options)


@pytest.mark.parametrize("kind", ["hdr", "brackets"])
def test_network_and_samples_have_the_same_maps(kind, photos, tmp_path):
    if kind == "brackets":
        for scene, seed in (("one", 1), ("two", 2)):
            (tmp_path / "all" / scene).mkdir(parents=True)
            for number in range(3):
                image = (render_scene(24, 40, seed=seed) * 4.0 ** (number - 2)).clamp(0, 1).mul(255).byte()
                write_image(tmp_path / "all" / scene / f"{number}.png", image)
    found = {}
    for maps in ("histogram", "response"):
        values = {
            "data.folders": [str(photos if kind == "hdr" else tmp_path / "all")],
            "data.patch": [16, 16],
            "data.brackets.ev_step": 2.0,
            "model.maps": maps,
        }
        config = load_config(SYSTEM.config, SYSTEM.presets, preset="tiny", values=values)
        assert SYSTEM.model(config).config.maps == maps
        made = SYSTEM.samples(config)
        found[maps] = [samples[0]["imf_dark"] for samples in (made.training, made.held_out)]
    assert not any(torch.equal(*pair) for pair in zip(*found.values(), strict=True))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.synthesis.responses", [], "at least one family"),
        ("model.inputs", [], "model.inputs"),
        ("model.inputs", ["dark", "dark"], "model.inputs: .*each once"),
    ],
)
def test_values_that_nothing_can_be_built_of(key, value, words):
    with pytest.raises(InputError, match=words):
        load_config(SYSTEM.config, SYSTEM.presets, values={key: value})
    load_config(SYSTEM.config, SYSTEM.presets, values={"data.synthesis.responses": [], "data.synthesis.emor": "e"})


def test_places_are_absolute(tmp_path, monkeypatch):
    """Those of a file too: the configuration of a run holds wherever it is read."""
    (tmp_path / "mine.toml").write_text(
        '[data]\nfolders = ["hdr"]\nvalidation = ["../v"]\n[data.synthesis]\nemor = "e"\n'
    )
    monkeypatch.chdir(tmp_path)
    config = load_config(SYSTEM.config, SYSTEM.presets, file="mine.toml")
    assert config.data.folders == (f"{tmp_path}/hdr",)
    assert config.data.validation == (f"{tmp_path}/../v",)
    assert config.data.synthesis.emor == f"{tmp_path}/e"
    assert load_config(SYSTEM.config, SYSTEM.presets, values={"data.synthesis.emor": ""}).data.synthesis.emor == ""


def test_the_key_that_a_validation_grows_with():
    assert SYSTEM.validation_keys == ("data.validation_size",)
