"""Bursts of the HDR+ dataset, from DNG files made by hand and read through LibRaw."""

import shutil

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("rawpy", reason="rawpy is not installed")
pytest.importorskip("OpenImageIO", reason="reading images needs OpenImageIO")

from burst_files import BLACK, NOISE, RESULTS, SIZE, WHITE, burst, finished, mosaic, scene, write_dng, write_picture

from hdrops.data import HDRPlusBursts, NoiseProfile
from hdrops.data.hdrplus import _read_frame, picture_is_aligned
from hdrops.data.moving import pack
from hdrops.io import InputError

PATTERNS = ["RGGB", "BGGR", "GRBG", "GBRG"]


def packed(light, pattern):
    """The planes of an RGGB sensor that begins with the first red pixel."""
    row, column = divmod(pattern.index("R"), 2)
    seen = mosaic(light, pattern)[None, : light.shape[1] // 2 * 2, : light.shape[2] // 2 * 2]
    seen = seen[:, row:, column:]
    return pack(seen[:, : seen.shape[1] // 2 * 2, : seen.shape[2] // 2 * 2])


@pytest.mark.parametrize(
    ("pattern", "size"), [*((pattern, (121, 161)) for pattern in PATTERNS), ("RGGB", SIZE), ("GBRG", (120, 161))]
)
def test_merged_frame_is_the_target(tmp_path, pattern, size):
    light = packed(burst(tmp_path, pattern=pattern, size=size), pattern)
    bursts = HDRPlusBursts(tmp_path, patch=None, augment=False, samples_per_epoch=4)
    assert bursts.scenes == ["0006"]
    for index in range(4):
        sample = bursts[index]
        assert {name: (tuple(value.shape), value.dtype) for name, value in sample.items()} == {
            "images": ((2, *light.shape), torch.float32),
            "target": (tuple(light.shape), torch.float32),
            "reference": ((), torch.int64),
            "times": ((2,), torch.float32),
        }
        reference = int(sample["reference"])
        assert sample["times"][reference] == 1
        # In the exposure of the reference: by one factor as bright as the light of the merged frame.
        factor = float(sample["target"].mean() / light.mean())
        assert (1 / 16 < factor <= 1.001) if reference == 0 else (0.999 < factor <= 16)
        torch.testing.assert_close(sample["target"], light * factor, atol=factor / 900, rtol=2e-3)
        image = sample["images"][reference]
        seen = (sample["target"] > 0.02) & (sample["target"] < 0.9)
        assert float((image - sample["target"])[seen].abs().mean()) < 0.03
        ratio = float(sample["times"][1] / sample["times"][0])
        assert 2 <= ratio <= 16


@pytest.mark.parametrize(("pattern", "orientation"), list(zip(PATTERNS, (1, 3, 6, 8), strict=True)))
def test_finished_picture_is_the_target(tmp_path, pattern, orientation):
    view = burst(tmp_path, pattern=pattern, orientation=orientation)
    row, column = divmod(pattern.index("R"), 2)
    bursts = HDRPlusBursts(tmp_path, task="isp", patch=None, augment=False)
    sample = bursts[0]
    height, width = sample["images"].shape[-2:]
    assert (height, width) == ((SIZE[0] - row) // 2, (SIZE[1] - column) // 2)
    expected = finished(view)[:, row : row + 2 * height, column : column + 2 * width]
    torch.testing.assert_close(sample["target"], expected / 255, rtol=0, atol=1e-6)
    merged = HDRPlusBursts(tmp_path, patch=None, augment=False)[0]
    assert torch.equal(merged["images"], sample["images"])


@pytest.mark.parametrize(
    ("pattern", "rows", "columns"), [("RGGB", 8, 6), ("RGGB", 5, 3), ("BGGR", 5, 3), ("BGGR", 1, 2)]
)
def test_picture_of_the_middle_of_the_sensor(tmp_path, rows, columns, pattern):
    """Cameras cut the border of finished pictures off."""
    view = burst(tmp_path, pattern=pattern)
    top, left = rows // 2, columns // 2
    picture = finished(view)[:, top : SIZE[0] - (rows - top), left : SIZE[1] - (columns - left)]
    write_picture(tmp_path, "0006", picture)
    bursts = HDRPlusBursts(tmp_path, task="isp", patch=(20, 24), rotate=True, samples_per_epoch=10)
    frames = HDRPlusBursts(tmp_path, task="isp", patch=None, augment=False)
    sample = frames[0]
    # The merged frame, seen through the same part.
    start = divmod(pattern.index("R"), 2)
    down, across = (first + (start[k] - first) % 2 for k, first in enumerate((top, left)))
    height, width = sample["images"].shape[-2:]
    expected = finished(view)[:, down : down + 2 * height, across : across + 2 * width]
    assert torch.equal((sample["target"] * 255).round().byte(), expected)
    assert picture_is_aligned(sample["images"][int(sample["reference"])], (sample["target"] * 255).byte())
    assert (SIZE[0] - rows) // 2 - 1 <= height <= (SIZE[0] - rows + 1) // 2
    for index in range(10):
        sample = bursts[index]
        assert sample["images"].shape == (2, 4, 20, 24)
        assert sample["target"].shape == (3, 40, 48)


def test_patches_in_all_attitudes_belong_to_their_target(tmp_path):
    """Red cells of images and the target's red pixels at the upper left of the cells rise and fall together."""
    burst(tmp_path, pattern="GBRG")
    bursts = HDRPlusBursts(tmp_path, task="isp", patch=(24, 30), rotate=True, samples_per_epoch=16, ratio=2.0, bits=16)
    for index in range(16):
        sample = bursts[index]
        image = sample["images"][int(sample["reference"])]
        for plane, (channel, row, column) in enumerate([(0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)]):
            places = {
                (y, x): torch.corrcoef(
                    torch.stack(
                        [
                            image[plane, 1:-1, 1:-1].sqrt().flatten(),
                            sample["target"][channel, 2 + y : y + 46 : 2, 2 + x : x + 58 : 2].flatten(),
                        ]
                    )
                )[0, 1]
                for y in (-1, 0, 1, 2)
                for x in (-1, 0, 1, 2)
            }
            assert max(places, key=places.get) == (row, column)


def test_samples_depend_on_their_key_alone(tmp_path):
    burst(tmp_path, "a")
    burst(tmp_path, "b", seed=1)
    first, second = (HDRPlusBursts(tmp_path, patch=(16, 20), seed=4) for _ in range(2))
    assert first.scenes == ["a", "b"]
    forward = {key: first[key] for key in [(0, 0), (0, 1), (3, 0)]}
    for key in reversed(forward):
        assert all(torch.equal(forward[key][name], second[key][name]) for name in forward[key])
    assert not torch.equal(first[0, 0]["images"], first[1, 0]["images"])


def test_both_exposures_become_the_reference(tmp_path):
    burst(tmp_path)
    bursts = HDRPlusBursts(tmp_path, patch=(24, 24), samples_per_epoch=24)
    assert {int(bursts[index]["reference"]) for index in range(24)} == {0, 1}


def test_other_image_is_of_another_frame_of_the_same_exposure(tmp_path):
    """The last frame of old bursts has a longer exposure: it is not used; with it alone nothing can be made."""
    burst(tmp_path, frames=3, reference=0)
    last = tmp_path / "bursts" / "0006" / "payload_N002.dng"
    write_dng(last, torch.zeros(SIZE), "RGGB", time=(1, 30))
    bursts = HDRPlusBursts(tmp_path, patch=None, augment=False, samples_per_epoch=8)
    for index in range(8):
        sample = bursts[index]
        assert sample["images"].mean((1, 2, 3)).min() > 0.001
        short, long = sample["images"]
        brightened = (short * sample["times"][1] / sample["times"][0]).clamp(max=1)
        assert not torch.allclose(brightened, long, atol=0.1)  # two pixels apart
    (tmp_path / "bursts" / "0006" / "payload_N001.dng").unlink()
    alone = HDRPlusBursts(tmp_path, patch=None, augment=False)
    with pytest.raises(InputError, match="0006 has no second frame with the exposure of the reference frame"):
        alone[0]


def test_dark_frames_have_no_bias(tmp_path):
    """Noise reaches below black: what is cut off there would become light once a frame is brightened."""
    grain = 0.01 * torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    write_dng(tmp_path / "dark.dng", grain, "RGGB")
    light = _read_frame(tmp_path / "dark.dng").light
    torch.testing.assert_close(light, pack(grain[None]), rtol=0, atol=0.51 / (WHITE - BLACK))
    assert abs(float(light.mean())) < 2e-4


def test_noise_of_the_short_image_is_that_of_the_brightened_sensor(tmp_path):
    """Grey frames without noise, though stating some: the short image gets the difference."""
    grey = torch.full(SIZE, 0.2)
    profile = 1e-3, 2e-5
    for k in range(2):
        write_dng(tmp_path / "bursts" / "0" / f"payload_N{k:03d}.dng", grey, "RGGB", noise=profile)
    write_dng(tmp_path / RESULTS / "0" / "merged.dng", grey, "RGGB")
    bursts = HDRPlusBursts(tmp_path, patch=None, augment=False, ratio=4.0, bits=16, samples_per_epoch=12)
    told = HDRPlusBursts(tmp_path, patch=None, augment=False, ratio=4.0, bits=16, noise=NoiseProfile(1.0, 1.0))
    assert torch.equal(bursts[0]["images"], told[0]["images"])  # what the file states counts
    measured = 0
    for index in range(12):
        short, long = bursts[index]["images"]
        brighter = float(long.mean()) / 0.2
        assert long.std() < 1e-3
        x = 0.2 * brighter / 4
        variance = (brighter - brighter / 4) * profile[0] * x + (brighter**2 - (brighter / 4) ** 2) * profile[1]
        if brighter < 4.9 and x > 4 * variance**0.5:
            assert float(short.var()) == pytest.approx(variance, rel=0.05)
            measured += 1
    assert measured >= 3


def test_bursts_that_cannot_be_used(tmp_path):
    for name in ("good", "one", "unmerged", "number", "beyond", "bright", "sensor", "plain", "corrupt"):
        burst(tmp_path, name)
    results = tmp_path / RESULTS
    for k in (1, 2):
        (tmp_path / "bursts" / "one" / f"payload_N00{k}.dng").unlink()
    (results / "unmerged" / "merged.dng").unlink()
    (results / "number" / "reference_frame.txt").write_text("first")
    (results / "beyond" / "reference_frame.txt").write_text("3")
    write_dng(results / "bright" / "merged.dng", 1.4 * mosaic(burst(tmp_path, "bright"), "RGGB"), "RGGB")
    write_dng(results / "sensor" / "merged.dng", torch.zeros(60, 60), "RGGB")
    burst(tmp_path, "plain", noise=None)
    (results / "corrupt" / "merged.dng").write_bytes(b"II*\0")
    with pytest.warns(UserWarning, match="left out 8 of 9") as caught:
        bursts = HDRPlusBursts(tmp_path, patch=(16, 16))
    assert bursts.scenes == ["good"]
    told = str(caught[0].message)
    for reason in (
        "one: it has 1 frames payload_N000.dng and so on; two at least are needed",
        "unmerged: it has no merged.dng",
        "number: its reference_frame.txt must hold the number of a frame, got 'first'",
        "beyond: its reference frame is 3 of 3",
        "bright: merged.dng is 1.4",
        "sensor: merged.dng and the reference frame are of different sensors",
        "plain: payload_N001.dng states no noise profile; give noise",
        "corrupt: ",
    ):
        assert reason in told
    assert HDRPlusBursts(tmp_path, bursts=["plain"], noise=NoiseProfile(*NOISE), patch=(16, 16)).scenes == ["plain"]
    with pytest.raises(InputError, match="are too small for parts of 60x80"):
        HDRPlusBursts(tmp_path, bursts=["good"], patch=(60, 80))
    unverified = HDRPlusBursts(tmp_path, bursts=["good", "sensor"], patch=(16, 16), verify=False)
    assert unverified.scenes == ["good", "sensor"]
    with pytest.raises(InputError, match="of different sensors"):
        unverified[1]


def test_pictures_that_are_not_aligned(tmp_path):
    names = ("good", "turned", "shifted", "scaled", "other", "small", "grey", "absent")
    views = {name: burst(tmp_path, name) for name in names}
    write_picture(tmp_path, "turned", finished(views["turned"]).rot90(2, (1, 2)))
    write_picture(tmp_path, "shifted", finished(views["shifted"]).roll((4, -2), (1, 2)))
    zoomed = F.interpolate(views["scaled"][None], scale_factor=1.1, mode="bilinear")[0]
    write_picture(tmp_path, "scaled", finished(zoomed[:, 6:126, 8:168]))
    write_picture(tmp_path, "other", finished(scene(seed=9)))
    write_picture(tmp_path, "small", finished(views["small"])[:, :50])
    write_picture(tmp_path, "grey", finished(views["grey"])[:1])
    (tmp_path / RESULTS / "absent" / "final.jpg").unlink()
    with pytest.warns(UserWarning, match="left out 7 of 8") as caught:
        bursts = HDRPlusBursts(tmp_path, task="isp", patch=(16, 16))
    assert bursts.scenes == ["good"]
    told = str(caught[0].message)
    for name in ("turned", "shifted", "scaled", "other"):
        assert f"{name}: final.jpg is not aligned with merged.dng" in told
    assert "small: final.jpg has 50 pixels a side where merged.dng has 120" in told
    assert "grey: final.jpg must be an RGB picture of 8 bits" in told
    assert "absent: it has no final.jpg" in told
    assert HDRPlusBursts(tmp_path, patch=(16, 16)).scenes == sorted(names)


def test_what_is_asked_for_must_exist(tmp_path):
    burst(tmp_path)
    with pytest.raises(InputError, match="holds no folder bursts"):
        HDRPlusBursts(tmp_path / "bursts")
    with pytest.raises(ValueError, match="bursts names 'x', which is not among the 1 found"):
        HDRPlusBursts(tmp_path, bursts=["x"])
    with pytest.raises(InputError, match=r"no burst can be used: 0006: it has no merged.dng"):
        HDRPlusBursts(tmp_path, results="results_20161014")
    for changes, message in (
        ({"task": "rgb"}, 'task must be "raw" or "isp"'),
        ({"bits": 17}, "bits must be 1 to 16"),
        ({"ratio": (3, 2)}, "ratio must be"),
        ({"patch": (0, 3)}, "patch must be"),
    ):
        with pytest.raises(ValueError, match=message):
            HDRPlusBursts(tmp_path, **changes)
    shutil.rmtree(tmp_path / RESULTS)
    with pytest.raises(InputError, match="no burst can be used"):
        HDRPlusBursts(tmp_path)
