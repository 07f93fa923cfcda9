"""hdrops merge."""

import math
import re

import numpy as np
import pytest
import raw_files
import torch
from conftest import write_all

import hdrops as package
from hdrops.data import sample_bracket
from hdrops.io import Exposure, InputError, Metadata, read_bracket, read_image, write_image
from hdrops.models import EMVNet, EMVNetConfig, choose_reference


def small(**changes):
    torch.manual_seed(0)
    model = EMVNet(EMVNetConfig.preset("tiny", features=4, filters=4, motion_extent=3, **changes)).eval()
    with torch.no_grad():  # a picture of about medium brightness
        for head in model.heads:
            head.conv.bias += 0.5
    return model


@pytest.fixture
def weights(tmp_path):
    small().save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def values(images):
    return images.float() / torch.iinfo(images.dtype).max


def light_of(path):
    photograph = read_image(path)
    assert photograph.format == "openexr"
    assert photograph.pixels.dtype == torch.float32
    return photograph.pixels


def refused(outcome, *words):
    code, stdout, stderr = outcome
    assert (code, stdout) == (2, "")
    message = stderr.splitlines()[-1]
    assert message.startswith("error: ")
    for word in words:
        assert word in message
    return stderr.count("\n")


# ---- the weighted mean ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("gamma", [None, 1.8])
def test_weighted_mean_in_the_exposure_of_the_reference(hdrops, tmp_path, request, bits, gamma):
    paths = request.getfixturevalue(f"frames{bits}")
    images, times = request.getfixturevalue(f"bracket{bits}")
    out = tmp_path / "out.exr"
    options = [] if gamma is None else ["--gamma", gamma]
    code, stdout, stderr = hdrops("merge", *paths[::-1], "-o", out, *options)
    assert (code, stderr) == (0, "")
    place = int(choose_reference(values(images)[None]))
    times = read_bracket(paths).exposure_times
    expected = package.merge_radiance(images, times / times[place], coding=gamma)
    assert torch.equal(light_of(out), expected)
    assert read_image(out).exposure.time == pytest.approx(float(times[place]), rel=1e-3)
    assert f"weighted, in the exposure of {paths[place].name}, " in stdout


def test_the_light_of_the_scene_is_found(hdrops, tmp_path):
    light = torch.exp2(-8 * torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(1)))
    times = [1.0, 4.0, 16.0]
    frames = [(light * t).clamp(max=1) for t in times]
    paths = write_all(tmp_path / "linear", frames, ".exr", times)
    out = tmp_path / "out.exr"
    for place, t in enumerate(times):
        assert hdrops("merge", *paths, "-o", out, "--reference", place + 1).code == 0
        torch.testing.assert_close(light_of(out), t * light, rtol=1e-5, atol=0)
        assert read_image(out).exposure.time == t


def test_the_reference_counts_images_as_given(hdrops, tmp_path, frames8, bracket8):
    images, times = bracket8[0], read_bracket(frames8).exposure_times
    out = tmp_path / "out.exr"
    assert hdrops("merge", frames8[2], frames8[0], frames8[1], "-o", out, "--reference", 2).code == 0
    assert torch.equal(light_of(out), package.merge_radiance(images, times / times[0]))


@pytest.mark.parametrize(("option", "stated"), [("--times", "1/100,1/25,1/5"), ("--ev", "-2,0,2.3")])
def test_stated_exposures(hdrops, tmp_path, frames8, bracket8, option, stated):
    out = tmp_path / "out.exr"
    assert hdrops("merge", *frames8, "-o", out, option, stated, "--reference", 2).code == 0
    times = torch.tensor([0.01, 0.04, 0.2] if option == "--times" else [2**-2, 1, 2**2.3], dtype=torch.float64)
    assert torch.equal(light_of(out), package.merge_radiance(bracket8[0], times / times[1]))
    assert read_image(out).exposure.time == (pytest.approx(0.04) if option == "--times" else None)


def test_metadata_are_those_of_the_reference(hdrops, tmp_path, bracket8):
    paths = [tmp_path / f"{k}.jpg" for k in range(3)]
    for k, path in enumerate(paths):
        exposure = Exposure(float(bracket8[1][k]), 4.0, 200)
        write_image(path, bracket8[0][k], exposure=exposure, metadata=Metadata(model=f"Camera {k}", focal_length=35))
    out = tmp_path / "out.exr"
    assert hdrops("merge", *paths, "-o", out, "--reference", 3).code == 0
    written = read_image(out)
    assert written.metadata == Metadata(model="Camera 2", focal_length=35)
    assert written.exposure.time == pytest.approx(float(bracket8[1][2]), rel=1e-3)
    assert (written.exposure.f_number, written.exposure.iso) == (4, 200)


def test_clipped_pixels_and_radiance_files(hdrops, tmp_path):
    white, black = torch.full((1, 8, 8), 255, dtype=torch.uint8), torch.zeros(1, 8, 8, dtype=torch.uint8)
    grey = torch.full((1, 8, 8), 128, dtype=torch.uint8)
    frames = [torch.cat(row, 2) for row in ((white, black, black), (white, grey, black), (white, white, black))]
    paths = write_all(tmp_path / "clipped", frames, ".png")
    out = tmp_path / "out.hdr"
    options = ["--times", "1,8,16", "--reference", 2]
    assert hdrops("merge", *paths, "-o", out, *options).code == 0
    pixels = read_image(out).pixels
    expected = torch.tensor([8.0, ((128 / 255 + 0.055) / 1.055) ** 2.4, 0]).repeat_interleave(8).expand(3, 8, 24)
    torch.testing.assert_close(pixels, expected, rtol=0.01, atol=0)


def test_aligned_first(hdrops, tmp_path):
    pytest.importorskip("cv2", reason="alignment needs OpenCV")
    from hdrops.align import align_bracket

    images, times = sample_bracket(240, 360, exposures=3, step=1.5)
    images = torch.stack([images[0].roll((5, -7), (1, 2)), images[1], images[2]])[:, :, 10:-10, 10:-10]
    paths = write_all(tmp_path / "handheld", images, ".png", times)
    out = tmp_path / "out.exr"
    code, stdout, _ = hdrops("merge", *paths, "-o", out, "--align", "homography", "--reference", 2)
    assert code == 0
    assert re.search(r", aligned \d+\.\d\d s \(confidence ", stdout)
    done = align_bracket(images).images
    assert done.shape[-2:] != images.shape[-2:]
    times = read_bracket(paths).exposure_times
    assert torch.equal(light_of(out), package.merge_radiance(done, times / times[1]))


def test_raw_frames_are_linear(hdrops, tmp_path):
    paths = raw_bracket(tmp_path)
    out = tmp_path / "out.exr"
    assert hdrops("merge", *paths, "-o", out, "--reference", 1).code == 0
    images = torch.stack([read_image(path).pixels for path in paths])
    expected = package.merge_radiance(images, [1, 4], coding="linear")
    torch.testing.assert_close(light_of(out), expected, rtol=1e-5, atol=1e-7)
    refused(hdrops("merge", *paths, "-o", out, "--gamma", 2), "holds linear light", "omit --gamma")


# ---- the network ---------------------------------------------------------------------------------------------------


def raw_bracket(folder):
    pytest.importorskip("rawpy", reason="rawpy is not installed")
    y, x = np.mgrid[0:48, 0:64]
    paths = []
    for k in range(2):
        codes = np.clip(64 + 4**k * (400 + 300 * np.sin(y / 9) * np.cos(x / 7)), 0, 4095)
        paths.append(folder / f"{k}.dng")
        paths[-1].write_bytes(raw_files.dng(codes.astype(np.uint16), time=(4**k, 250)))
    return paths


@pytest.mark.parametrize(
    ("bits", "options"),
    [(16, []), (8, []), (8, ["--gamma", 1.8]), (8, ["--tile", 40]), (8, ["--reference", 3])],
    ids=str,
)
def test_by_the_network(hdrops, tmp_path, request, weights, bits, options):
    paths = request.getfixturevalue(f"frames{bits}")
    images = values(request.getfixturevalue(f"bracket{bits}")[0])[None]
    out = tmp_path / "out.exr"
    code, stdout, stderr = hdrops("merge", *paths, "-o", out, "--method", "emvnet", "--weights", weights, *options)
    assert (code, stderr) == (0, "")
    given = dict(zip(options[::2], options[1::2], strict=True))
    place = given.get("--reference", int(choose_reference(images)) + 1) - 1
    picture = EMVNet.from_pretrained(weights).enhance(images, place, tile=given.get("--tile"))[0]
    expected = picture.clamp(min=0) ** given.get("--gamma", 2.2)
    torch.testing.assert_close(light_of(out), expected, rtol=1e-4, atol=1e-6)
    assert f"emvnet, in the exposure of {paths[place].name}, " in stdout
    assert read_image(out).exposure.time == pytest.approx(read_image(paths[place]).exposure.time, rel=1e-3)


def test_what_the_picture_has_beyond_white_stays_and_below_black_goes(hdrops, tmp_path, frames8, bracket8):
    model = small()
    with torch.no_grad():
        model.heads[-1].conv.bias.copy_(torch.tensor([-3.0, 0.0, 3.0]))
        model.heads[-1].conv.weight *= 0.01
    model.save_pretrained(tmp_path / "weights")
    out = tmp_path / "out.exr"
    options = ["--method", "emvnet", "--weights", tmp_path / "weights"]
    assert hdrops("merge", *frames8, "-o", out, *options).code == 0
    light = light_of(out)
    assert (light[0] == 0).all()
    assert (light[2] > 2**2.2).all()


def test_a_network_may_prefer_the_middle(hdrops, tmp_path, frames8, bracket8):
    weights = tmp_path / "weights"
    small(choice="middle").save_pretrained(weights)
    images = values(bracket8[0])[None]
    place = int(choose_reference(images, choice="middle"))
    assert place != int(choose_reference(images))
    out = tmp_path / "out.exr"
    code, stdout, _ = hdrops("merge", *frames8, "-o", out, "--method", "emvnet", "--weights", weights)
    assert code == 0
    assert f"emvnet, in the exposure of {frames8[place].name}, " in stdout
    expected = EMVNet.from_pretrained(weights).enhance(images, place)[0].clamp(min=0) ** 2.2
    torch.testing.assert_close(light_of(out), expected, rtol=1e-4, atol=1e-6)


def test_no_exposures_are_needed(hdrops, tmp_path, bracket8, weights):
    paths = write_all(tmp_path / "unknown", bracket8[0], ".png")
    out = tmp_path / "out.exr"
    code, _, stderr = hdrops("merge", *paths, "-o", out, "--method", "emvnet", "--weights", weights)
    assert (code, stderr) == (0, "")
    assert read_image(out).exposure.time is None


@pytest.mark.parametrize("kind", ["float", "raw"])
def test_linear_light_is_coded_for_the_network(hdrops, tmp_path, request, weights, kind):
    paths = raw_bracket(tmp_path) if kind == "raw" else request.getfixturevalue("frames_float")
    out = tmp_path / "out.exr"
    options = ["--method", "emvnet", "--weights", weights, "--gamma", 2, "--reference", 1]
    assert hdrops("merge", *paths, "-o", out, *options).code == 0
    bracket = read_bracket(paths)
    place = bracket.paths.index(paths[0])
    picture = EMVNet.from_pretrained(weights).enhance(bracket.images[None] ** 0.5, place)[0]
    torch.testing.assert_close(light_of(out), picture.clamp(min=0) ** 2, rtol=1e-4, atol=1e-6)


def test_tiles_are_as_memory_allows(hdrops, tmp_path, frames8, weights, monkeypatch):
    """Of 2 bytes a slice of the volume, filter and pixel, as far as the network looks."""
    tiles, pieces = [], []
    enhance = EMVNet.enhance

    def watched(self, images, reference=None, *, tile=None, piece=None):
        tiles.append(tile)
        pieces.append(piece)
        return enhance(self, images, reference, tile=tile, piece=piece)

    monkeypatch.setattr(EMVNet, "enhance", watched)
    arguments = ["merge", *frames8, "-o", tmp_path / "out.exr", "--method", "emvnet", "--weights", weights]
    cost = 2 * 3 * 4 * 4 * 48 * 72  # 3 images, 1 motion, 4 gains, 4 filters; the halo is larger than the image
    for free, tile in ((2 * cost, 72), (1.4 * cost, 72)):
        monkeypatch.setattr("hdrops_cli.emvnet.available", lambda free=free: int(free))
        assert hdrops(*arguments).code == 0
        assert tiles.pop() == tile
        assert pieces.pop() is None
    monkeypatch.setattr("hdrops_cli.emvnet.available", lambda: int(1.3 * cost))
    refused(hdrops(*arguments), "needs about 0.0 GiB for 3 images", "--tile")
    assert tiles == []
    assert hdrops(*arguments, "--tile", 24).code == 0
    assert tiles == [24]
    assert pieces == [32]  # the smallest, for a tile that is too large


def test_smaller_tiles_need_less(weights, monkeypatch):
    from hdrops_cli.emvnet import tile_of

    model = small(shrink=2)
    halo = -(-model.radius // 8) * 8
    costs = [2 * 2 * 4 * 4 * (side + 2 * halo) ** 2 for side in (256, 128)]
    monkeypatch.setattr("hdrops_cli.emvnet.available", lambda: int(costs[0] / 0.75) + 1)
    assert tile_of(model, 2, 8000, 6000) == 512
    monkeypatch.setattr("hdrops_cli.emvnet.available", lambda: int(costs[0] / 0.75) - 1)
    assert tile_of(model, 2, 8000, 6000) == 256
    monkeypatch.undo()
    assert tile_of(model, 2, 100, 100) == 100


def test_pieces_spare_memory_and_work(hdrops, tmp_path, frames8, weights, monkeypatch):
    """Of those that fit the parts of the least work, and for a tile that is given the largest pieces that fit."""
    from hdrops_cli.emvnet import parts_of, tile_of

    model = EMVNet(EMVNetConfig.preset("tiny", features=4, filters=4, motion_extent=48))
    halo, reach = -(-model.radius // 8) * 8, model.piece_radius
    assert (halo, reach) == (192, 32)
    unit = 2 * 2 * 16**2 * 4 * 4  # bytes: 2 images, 16 x 16 motions, 4 gains, 4 filters
    features = 4 * 2 * 4 * 8000 * 6000  # bytes: 2 images, 4 features

    def free(need):
        monkeypatch.setattr("hdrops_cli.emvnet.available", lambda: int(need / 0.75) + 1)

    def need(tile, piece=None):
        whole = (tile + 2 * halo) ** 2
        return unit * whole if piece is None else unit * (whole / 8 + (piece + 2 * reach) ** 2) + features

    free(unit * 8000 * 6000)
    assert parts_of(model, 2, 8000, 6000) == (8000, None)
    found = []
    for tile, piece in ((512, 128), (512, 64), (512, 32), (256, 32), (128, 32), (32, 32)):
        free(need(tile, piece))
        assert tile_of(model, 2, 8000, 6000, piece) == tile
        assert parts_of(model, 2, 8000, 6000, tile) == (tile, piece)
        # Each pixel is computed so many times.
        work = {
            (t, p): (1 + 2 * halo / t) ** 2 * (1 if p is None else (1 + 2 * reach / p) ** 2)
            for t in (512, 256, 128, 64, 32)
            for p in (None, 128, 64, 32)
            if need(t, p) <= need(tile, piece)
        }
        found.append(parts_of(model, 2, 8000, 6000))
        assert found[-1] == min(work, key=work.get)
    assert found[:2] == [(512, 128), (512, 64)]
    assert need(32, 32) - features < need(32) / 5
    free(need(32, 32) - 2)
    with pytest.raises(InputError, match=r"needs about 1\.9 GiB for 2 images"):
        parts_of(model, 2, 8000, 6000)
    assert parts_of(model, 2, 8000, 6000, 64) == (64, 32)
    # Without two layers beyond the finest there are none.
    free(unit * 100)
    assert parts_of(small(dilations=(1,)), 2, 8000, 6000, 64) == (64, None)


def test_the_largest_preset_fits_into_an_ordinary_computer(monkeypatch):
    from hdrops_cli.emvnet import parts_of

    models = [EMVNet(EMVNetConfig.preset(name, blocks=1)) for name in ("hdr", "isp")]
    monkeypatch.setattr("hdrops_cli.emvnet.available", lambda: 14 << 30)
    for model, count, size in zip(models, (3, 2), ((3000, 4000), (1500, 2000)), strict=True):
        tile, piece = parts_of(model, count, *size)
        assert tile >= 128
        assert piece in (32, 64, 128)


@pytest.mark.parametrize("command", ["merge", "develop"])
def test_pieces_change_nothing(hdrops, tmp_path, frames8, monkeypatch, command):
    changes = {"channels": 4, "grow": 2, "head_taps": 3} if command == "develop" else {}
    small(**changes).save_pretrained(tmp_path / "net")
    paths = raw_bracket(tmp_path) if command == "develop" else frames8
    method = [] if command == "develop" else ["--method", "emvnet"]
    chosen, results = [], []
    for parts in ((1000, None), (24, 8)):
        monkeypatch.setattr("hdrops_cli.emvnet.parts_of", lambda *args, parts=parts: chosen.append(args[1:]) or parts)
        out = tmp_path / ("out.png" if command == "develop" else "out.exr")
        assert hdrops(command, *paths, "-o", out, "--weights", tmp_path / "net", *method).code == 0
        results.append(read_image(out).pixels.double())
    assert chosen == [(2, 24, 32, None) if command == "develop" else (3, 48, 72, None)] * 2
    torch.testing.assert_close(*results, rtol=1e-4, atol=1.0 if command == "develop" else 1e-6)


# ---- what cannot be done -------------------------------------------------------------------------------------------


def network_of(folder, **changes):
    small(**changes).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.tif"])
def test_only_files_of_linear_light(hdrops, tmp_path, frames8, name):
    frames8[0].write_bytes(b"not read")
    assert refused(hdrops("merge", *frames8, "-o", tmp_path / name), ".exr or .hdr", "fuse") == 1
    assert not (tmp_path / name).exists()


def test_exposures_are_needed(hdrops, tmp_path, bracket8):
    paths = write_all(tmp_path / "unknown", bracket8[0], ".png")
    arguments = ["merge", *paths, "-o", tmp_path / "out.exr"]
    assert refused(hdrops(*arguments), "not known", "--times or --ev") == 1
    false = write_all(tmp_path / "false", bracket8[0], ".png", [1, 1 / 8, 1 / 64])
    code, _, stderr = hdrops("merge", *false, "-o", tmp_path / "out.exr")
    assert code == 2
    assert "contradict the brightness" in stderr.splitlines()[0]
    assert "--times or --ev" in stderr.splitlines()[1]


def test_weights_are_needed(hdrops, tmp_path, frames8, monkeypatch):
    monkeypatch.setattr("hdrops.models._pretrained.__file__", str(tmp_path / "a" / "b" / "c.py"))
    arguments = ["merge", *frames8, "-o", tmp_path / "out.exr", "--method", "emvnet"]
    assert refused(hdrops(*arguments), "no weights of emvnet", "--weights", "--method weighted") == 1
    assert refused(hdrops(*arguments, "--weights", tmp_path / "none"), "none does not exist") == 1
    raw = network_of(tmp_path / "raw", channels=4)
    assert refused(hdrops(*arguments, "--weights", raw), "for raw frames; develop takes it") == 1
    for k, changes in enumerate(({"channels": 6}, {"outputs": 1})):
        other = network_of(tmp_path / f"{k}", **changes)
        assert refused(hdrops(*arguments, "--weights", other), "channels; merge takes one for RGB images") == 1


@pytest.mark.parametrize("reference", ["0", "4", "-1", "1.5", "first", "", "²"])
def test_references_that_do_not_exist(hdrops, tmp_path, frames8, reference):
    outcome = hdrops("merge", *frames8, "-o", tmp_path / "out.exr", f"--reference={reference}")
    assert refused(outcome, "auto, or the number of an image from 1 to 3", repr(reference)) == 1


def test_options_of_the_other_method(hdrops, tmp_path, frames8, weights):
    for options in (["--weights", weights], ["--tile", 64]):
        outcome = hdrops("merge", *frames8, "-o", tmp_path / "out.exr", *options)
        assert refused(outcome, f"{options[0]} belongs to --method emvnet") == 1


@pytest.mark.parametrize("options", [["--gamma", "nan"], ["--gamma", "0"], ["--tile", "0"], ["--method", "best"]])
def test_options_out_of_range(hdrops, tmp_path, frames8, options):
    assert refused(hdrops("merge", *frames8, "-o", tmp_path / "out.exr", *options), options[0], "--help") == 1


@pytest.mark.parametrize("method", ["weighted", "emvnet"])
def test_frames_that_make_no_bracket(hdrops, tmp_path, frames8, frames_float, weights, method):
    options = ["-o", tmp_path / "out.exr", "--method", method]
    options += ["--weights", weights] if method == "emvnet" else []
    assert refused(hdrops("merge", frames8[0], *options), "at least 2 images are needed, got 1") == 1
    write_image(frames8[2], torch.zeros(3, 20, 30, dtype=torch.uint8))
    assert refused(hdrops("merge", *frames8, *options), "30 x 20") == 1
    write_image(frames_float[1], torch.full((3, 48, 72), 1.5))
    assert refused(hdrops("merge", *frames_float, *options), str(frames_float[1]), "[0, 1]") == 1
    before = frames_float[0].read_bytes()
    assert refused(hdrops("merge", *frames_float, *options, "-o", frames_float[0]), "one of the inputs") == 1
    assert frames_float[0].read_bytes() == before
    assert not (tmp_path / "out.exr").exists()


def test_grey_frames(hdrops, tmp_path, bracket8, weights):
    paths = write_all(tmp_path / "grey", bracket8[0][:, :1], ".png", bracket8[1])
    out = tmp_path / "out.exr"
    outcome = hdrops("merge", *paths, "-o", out, "--method", "emvnet", "--weights", weights)
    assert refused(outcome, "is grey", "--method weighted") == 1
    assert hdrops("merge", *paths, "-o", out).code == 0
    assert read_image(out).pixels.shape == (1, 48, 72)


def test_a_failure_leaves_what_was_there(hdrops, tmp_path, frames8, monkeypatch):
    out = tmp_path / "out.exr"
    out.write_bytes(b"what was there before")
    outcome = hdrops("merge", *frames8, "-o", out, "--ev", "-900,0,900")
    assert refused(outcome, "1800 stops apart", "--times or --ev") == 2
    assert "contradict the brightness" in outcome.stderr

    def full(*_args):
        raise InputError("cannot write: No space left on device")

    monkeypatch.setattr("hdrops.io.writing._replace", full)
    assert refused(hdrops("merge", *frames8, "-o", out), "No space left") == 1
    assert out.read_bytes() == b"what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames8", "out.exr"]


def test_a_frame_of_one_exposure_more_tells_more(hdrops, tmp_path, bracket8):
    """What is white in two of three frames is known by the third alone."""
    light = torch.tensor([0.9, 0.2, 0.02]).repeat(4, 1).expand(3, 4, 3)
    times = [1.0, 8.0, 64.0]
    frames = [(light * t).clamp(max=1) for t in times]
    paths = write_all(tmp_path / "linear", frames, ".exr", times)
    out = tmp_path / "out.exr"
    assert hdrops("merge", *paths[1:], "-o", out, "--reference", 1).code == 0
    assert math.isclose(float(light_of(out)[0, 0, 0]), 1.0)
    assert hdrops("merge", *paths, "-o", out, "--reference", 2).code == 0
    assert math.isclose(float(light_of(out)[0, 0, 0]), 7.2, rel_tol=1e-5)
