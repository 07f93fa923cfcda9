"""Moving scenes in files: layouts, units, and what is left out."""

import pickle
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("OpenImageIO", reason="reading images needs OpenImageIO")

from moving_files import SIZE, code, kalantari, light, ntire
from photographs import DATA

from hdrops.data import KalantariScenes, NTIREScenes
from hdrops.data.moving import Views, exposure_agreement, pack, unpack
from hdrops.io import InputError, write_image

# ---- Kalantari's layout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [255, 65535])
def test_kalantari_sample(tmp_path, levels):
    radiance = kalantari(tmp_path / "Training" / "001", levels=levels)
    scenes = KalantariScenes(tmp_path, patch=None, augment=False)
    assert scenes.scenes == ["001"]
    assert scenes.smallest_side == 64
    sample = scenes[0]
    assert {name: (value.shape, value.dtype) for name, value in sample.items()} == {
        "images": ((3, 3, *SIZE), torch.float32),
        "target": ((3, *SIZE), torch.float32),
        "reference": ((), torch.int64),
        "times": ((3,), torch.float32),
    }
    assert sample["times"].tolist() == [0.25, 1.0, 8.0]
    assert sample["reference"] == 1
    assert sample["target"].max() > 1.5
    # Radiance files share an exponent among three channels: 1/256 of the brightest.
    torch.testing.assert_close(sample["target"], radiance, atol=float(radiance.max()) / 128, rtol=0.0)
    for image, time in zip(sample["images"], sample["times"], strict=True):
        torch.testing.assert_close(image, (radiance * time).clamp(max=1).pow(1 / 2.2), atol=0.5 / levels + 1e-5, rtol=0)
    assert abs(scenes.agreement["001"] - 1) < 0.01


@pytest.mark.parametrize("stops", [(0.0, 2.0, 4.0), (-2.0, 0.0, 2.0), (1.0, 4.0, 7.0)])
@pytest.mark.parametrize("relative", [False, True])
def test_unit_of_the_light_is_measured(tmp_path, stops, relative):
    """The picture's unit is that of EV 0, or that of the shortest exposure; in both cases the target is the same."""
    radiance = light() * 2.0 ** -stops[1]
    kalantari(tmp_path / "s", stops=stops)
    for name, stop in zip("123", stops, strict=True):
        write_image(tmp_path / "s" / f"{name}.tif", code(radiance * 2.0**stop, 2.2, 65535))
    write_image(tmp_path / "s" / "HDRImg.hdr", radiance * (2.0 ** stops[0] if relative else 1))
    measured = KalantariScenes(tmp_path, patch=None, augment=False)
    stated = KalantariScenes(tmp_path, patch=None, augment=False, exposures="relative" if relative else "written")
    assert torch.equal(measured[0]["target"], stated[0]["target"])
    assert abs(measured.agreement["s"] - 1) < 0.01
    torch.testing.assert_close(measured[0]["target"], light(), atol=float(light().max()) / 128, rtol=0.0)


def test_light_of_another_unit_is_left_out(tmp_path):
    kalantari(tmp_path / "good")
    kalantari(tmp_path / "wrong", unit=0.01)
    with pytest.warns(UserWarning, match="left out 1 of 2: wrong: its light is 0.0399 times that of its reference"):
        scenes = KalantariScenes(tmp_path, patch=(16, 16))
    assert scenes.scenes == ["good"]


def test_exposures_in_any_order_and_other_names_of_the_light(tmp_path):
    kalantari(tmp_path / "a", stops=(3.0, -2.0, 0.0), light_name="ref_HDR.hdr")
    kalantari(tmp_path / "b", light_name="light.exr")
    scenes = KalantariScenes(tmp_path, patch=None, augment=False)
    assert torch.equal(scenes[0]["images"], scenes[1]["images"])
    assert scenes[0]["times"].tolist() == [0.25, 1.0, 8.0]
    assert torch.equal(scenes[1]["target"], light().half().float()) or torch.equal(scenes[1]["target"], light())


def test_kalantari_scenes_that_cannot_be_used(tmp_path):
    kalantari(tmp_path / "good")
    kalantari(tmp_path / "two lights", light_name="a.hdr")
    write_image(tmp_path / "two lights" / "b.hdr", light())
    kalantari(tmp_path / "no light", light_name=None)
    kalantari(tmp_path / "four")
    shutil.copy(tmp_path / "four" / "1.tif", tmp_path / "four" / "4.tif")
    kalantari(tmp_path / "no times")
    (tmp_path / "no times" / "exposure.txt").unlink()
    kalantari(tmp_path / "words")
    (tmp_path / "words" / "exposure.txt").write_text("dark\nbright\n")
    kalantari(tmp_path / "same")
    (tmp_path / "same" / "exposure.txt").write_text("0\n0\n2\n")
    kalantari(tmp_path / "sizes")
    write_image(tmp_path / "sizes" / "HDRImg.hdr", light()[:, 1:])
    with pytest.warns(UserWarning, match="left out 7 of 8") as caught:
        scenes = KalantariScenes(tmp_path, patch=(16, 16))
    assert scenes.scenes == ["good"]
    told = str(caught[0].message)
    for reason in (
        "two lights: it needs HDRImg.hdr or one other .hdr or .exr file, got a.hdr, b.hdr",
        "no light: it needs HDRImg.hdr or one other .hdr or .exr file, got none",
        "four: it has 4 .tif images; 3 are needed",
        "no times: its exposure.txt cannot be read",
        "words: its exposure.txt cannot be read",
        "same: it needs 3 different exposures in stops, got 0, 0, 2",
        "sizes: its images differ in size: 1.tif 64 x 80",
    ):
        assert reason in told
    with pytest.raises(
        InputError, match=r"no scene can be used: good: its frames of 64 x 80 are too small for parts of 65"
    ):
        KalantariScenes(tmp_path / "good", patch=(65, 8))
    with pytest.raises(ValueError, match='exposures must be "measured"'):
        KalantariScenes(tmp_path, exposures="guess")
    with pytest.raises(ValueError, match="seed must be"):
        KalantariScenes(tmp_path, seed=-1)


def test_kept_and_reread_scenes_are_equal(tmp_path):
    kalantari(tmp_path / "a")
    kalantari(tmp_path / "b", seed=2)
    kept, reread = (KalantariScenes(tmp_path, patch=(16, 24), rotate=True, cache_bytes=size) for size in (1 << 30, 0))
    for key in ((0, 0), (0, 1), (3, 1)):
        assert all(torch.equal(kept[key][name], reread[key][name]) for name in kept[key])
    (tmp_path / "a" / "exposure.txt").unlink()
    with pytest.raises(InputError, match="cannot be read as numbers"):
        reread[0]
    with pytest.raises(IndexError):
        kept[2]


def test_patches_are_the_same_place_of_every_frame(tmp_path):
    """Images and target of a patch belong together in every attitude, and all attitudes occur."""
    kalantari(tmp_path / "a")
    scenes = KalantariScenes(tmp_path, patch=(16, 24), rotate=True, samples_per_epoch=40, seed=5)
    frame = KalantariScenes(tmp_path, patch=None, augment=False)[0]
    codes, target = frame["images"][1], frame["target"]
    found = set()
    for index in range(40):
        sample = scenes[index]
        assert sample["images"].shape == (3, 3, 16, 24)
        for mirrored in (False, True):
            for turns in range(4):
                parts = [x.rot90(-turns, (-2, -1)) for x in (sample["images"][1], sample["target"])]
                parts = [x.flip(-1) if mirrored else x for x in parts]
                # No two places are alike: one pixel tells which it is.
                for top, left in (codes == parts[0][:, :1, :1]).all(0).nonzero().tolist():
                    rows, columns = (slice(top, top + parts[0].shape[1]), slice(left, left + parts[0].shape[2]))
                    if torch.equal(codes[:, rows, columns], parts[0]):
                        assert torch.equal(target[:, rows, columns], parts[1])
                        found.add((index, mirrored, turns))
    assert {index for index, _, _ in found} == set(range(40))
    assert {(mirrored, turns) for _, mirrored, turns in found} == {(m, t) for m in (False, True) for t in range(4)}


# ---- the challenge's layout --------------------------------------------------------------------------------------


def test_both_layouts_of_the_challenge(tmp_path):
    radiance = ntire(tmp_path / "folders" / "000007")
    ntire(tmp_path / "flat" / "0003", flat=True)
    ntire(tmp_path / "flat" / "0004", flat=True, seed=2)
    scenes = NTIREScenes([tmp_path / "folders", tmp_path / "flat"], patch=None, augment=False)
    assert scenes.scenes == ["000007", "0003", "0004"]
    first, second, third = (scenes[k] for k in range(3))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(second["target"], third["target"])
    assert first["times"].tolist() == [0.25, 1.0, 4.0]
    assert first["target"].max() > 1.5
    torch.testing.assert_close(first["target"], radiance, atol=1e-4, rtol=2e-3)
    torch.testing.assert_close(first["images"][1], radiance.clamp(max=1).pow(1 / 2.24), atol=0.51 / 255, rtol=0)
    assert all(abs(value - 1) < 0.01 for value in scenes.agreement.values())


def test_scenes_of_the_challenge_that_cannot_be_used(tmp_path):
    ntire(tmp_path / "good")
    ntire(tmp_path / "ratio")
    np.save(tmp_path / "ratio" / "alignratio.npy", np.zeros(1))
    ntire(tmp_path / "order")
    np.save(tmp_path / "order" / "exposures.npy", np.array([1, 0, -1]))
    ntire(tmp_path / "pickle")
    np.save(tmp_path / "pickle" / "exposures.npy", np.array([{}, {}, {}]), allow_pickle=True)
    ntire(tmp_path / "bits")
    write_image(tmp_path / "bits" / "gt.png", code(light(), 2.24, 255))
    ntire(tmp_path / "unit")
    np.save(tmp_path / "unit" / "alignratio.npy", np.float64(3000))
    ntire(tmp_path / "part")
    (tmp_path / "part" / "2.png").unlink()
    with pytest.warns(UserWarning, match="left out 6 of 7") as caught:
        scenes = NTIREScenes(tmp_path, patch=(32, 32))
    assert scenes.scenes == ["good"]
    told = str(caught[0].message)
    for reason in (
        "ratio: its alignratio.npy must hold one positive number, got [0.0]",
        "order: its exposures must go from short to long, got 1, 0, -1",
        "pickle: its exposures.npy cannot be read as an array of numbers",
        "bits: gt.png must have 16 bits",
        "unit: its light is 4.7",
        "part: ",
    ):
        assert reason in told
    with pytest.raises(InputError, match="is no folder"):
        NTIREScenes(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no scene can be used: none was found"):
        NTIREScenes(tmp_path / "empty")


def test_damaged_numbers_leave_their_scene_out(tmp_path):
    """Headers that numpy takes for unfinished or wrong Python, for more than there is, or for what no number is."""
    ntire(tmp_path / "good")
    content = (tmp_path / "good" / "exposures.npy").read_bytes()
    for name, old, new in (
        ("bracket", b"(3,), }", b"(3,)(( "),
        ("zeros", b"(3,), }", b"(03,),}"),
        ("end", b"(3,), }", b"(3,),  "),
        ("huge", b"(3,), }            ", b"(9999999999999,), }"),
        ("complex", b"<i8", b"<c8"),
        ("nothing", content, b""),
    ):
        ntire(tmp_path / name)
        assert content.count(old) == 1
        (tmp_path / name / "exposures.npy").write_bytes(content.replace(old, new))
    with pytest.warns(UserWarning, match="left out 6 of 7") as caught:
        scenes = NTIREScenes(tmp_path, patch=(32, 32))
    assert scenes.scenes == ["good"]
    assert str(caught[-1].message).count("its exposures.npy cannot be read as an array of numbers") == 6


class Opens:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["array", "pickle", "archive"])
def test_nothing_is_unpickled(tmp_path, kind):
    ntire(tmp_path / "scene")
    mark, path = tmp_path / "mark", tmp_path / "scene" / "exposures.npy"
    content = Opens(str(mark))
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        with open(path, "wb") as stream:
            (np.save if kind == "array" else np.savez)(stream, np.array([content], dtype=object))
    with pytest.raises(InputError, match=r"its exposures\.npy cannot be read as an array of numbers"):
        NTIREScenes(tmp_path)
    assert not mark.exists()


def test_real_scenes_of_the_challenge():
    """The unit of the light, measured: target and reference image agree to one per cent where that is well exposed."""
    folder = DATA / "dynamic_gt"
    if not folder.is_dir():
        pytest.skip("the scenes of the challenge are absent: no dynamic_gt in the folder that HDROPS_TEST_DATA names")
    scenes = NTIREScenes(folder, patch=None, augment=False)
    assert len(scenes) == 3
    for name in scenes.scenes:
        assert abs(scenes.agreement[name] - 1) < 0.01
    # Saturated parts go on beyond 1, in the view of the reference.
    for index in range(3):
        sample = scenes[index]
        white = (sample["images"][1] > 0.995).all(0)
        if int(white.sum()) > 100:
            assert sample["target"][:, white].mean() > 0.9
        assert sample["times"].tolist() == [0.25, 1.0, 4.0]


# ---- parts -------------------------------------------------------------------------------------------------------


def test_agreement_is_robust():
    codes = light().clamp(0, 1).pow(1 / 2.2)
    target = light().clone()
    assert abs(exposure_agreement(codes, target, 2.2) - 1) < 1e-5
    target[:, :, :24] *= 50  # a third is something else
    assert abs(exposure_agreement(codes, target, 2.2) - 1) < 1e-5
    assert exposure_agreement(codes, 3 * light(), 2.2) == pytest.approx(3)
    assert exposure_agreement(torch.ones(3, 64, 64), torch.ones(3, 64, 64), 2.2) is None


def test_packing():
    mosaic = torch.arange(6 * 8).view(1, 6, 8)
    planes = pack(mosaic)
    assert planes.shape == (4, 3, 4)
    assert planes[:, 0, 0].tolist() == [0, 1, 8, 9]
    assert torch.equal(unpack(planes), mosaic)


@pytest.mark.parametrize("patch", [(4, 6), None])
def test_attitudes_of_a_sensor(patch):
    """Whatever the attitude, red stays at the upper left of every cell, pixels stay neighbours, a picture follows."""
    height, width = 10, 12
    row, column = torch.meshgrid(torch.arange(2 * height), torch.arange(2 * width), indexing="ij")
    mosaic = (100 * row + column)[None]
    views = Views(patch, mirror=True, rotate=True, packed=True)
    seen = set()
    for seed in range(60):
        part, picture = views.draw((pack(mosaic), mosaic.expand(3, -1, -1)), np.random.default_rng(seed))
        if patch:
            assert part.shape == (4, *patch)
        pixels = unpack(part)[0]
        assert torch.equal(picture, pixels.expand(3, -1, -1))
        rows, columns = pixels // 100, pixels % 100
        assert (rows[0::2, 0::2] % 2 == 0).all()
        assert (columns[0::2, 0::2] % 2 == 0).all()
        down, right = (pixels[1, 0] - pixels[0, 0]).item(), (pixels[0, 1] - pixels[0, 0]).item()
        assert {abs(down), abs(right)} == {1, 100}
        assert (pixels.diff(dim=0) == down).all()
        assert (pixels.diff(dim=1) == right).all()
        seen.add((down, right))
    assert len(seen) == 8


def test_sensor_must_hold_a_part_in_every_attitude():
    Views((4, 6), mirror=True, rotate=False, packed=True).check_fits(4, 7)
    Views((4, 6), mirror=False, rotate=False, packed=True).check_fits(4, 6)
    with pytest.raises(InputError, match="too small for parts of 4x6"):
        Views((4, 6), mirror=True, rotate=False, packed=True).check_fits(4, 6)
    with pytest.raises(InputError, match="too small"):
        Views((4, 6), mirror=True, rotate=True, packed=True).check_fits(6, 7)
    Views((4, 6), mirror=True, rotate=True, packed=True).check_fits(7, 7)
