"""Triplets from brackets on disk and from HDR images: what they hold, and that they depend on their keys alone."""

import functools
import pickle
import warnings

import numpy as np
import pytest
import torch
from photographs import photographs
from torch.utils.data import DataLoader

from hdrops import estimate_imf, estimate_response, intermediate_imf, response_imf
from hdrops.data import (
    BracketTriplets,
    Camera,
    SyntheticTriplets,
    draw_camera,
    find_scenes,
    gamma_response,
    split_scenes,
)
from hdrops.data.triplets import _admissible
from hdrops.io import Exposure, InputError, read_image, write_image

SHAPES = {"dark": 3, "bright": 3, "target": 3, "imf_dark": 2, "imf_bright": 2, "fraction": 0}
RESPONSE = functools.partial(gamma_response, gamma=1 / 2.2)


def light(height, width, seed=0, stops=10.0):
    """Smooth linear light of some ten stops, (3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 7, generator=generator)
    field = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    texture = torch.rand(3, height, width, generator=generator) * 0.1
    return 2 ** (stops * (field.clamp(0, 1) + texture - 1))


def write_scene(folder, *, ev=(-2, -1, 0, 1, 2), size=(70, 100), seed=0, timed=False, names="{}.png", convert=None):
    """A bracket of PNG files, named from the brightest to the darkest; the frames, dark to bright."""
    folder.mkdir(parents=True)
    camera = Camera(RESPONSE, full_well=1e5)
    frames = camera.expose(light(*size, seed), [4 * 2.0**stop for stop in ev], torch.Generator().manual_seed(seed))
    for k, frame in enumerate(frames):
        exposure = Exposure(time=2.0 ** ev[k] / 64) if timed else None
        write_image(folder / names.format(len(ev) - k), convert(frame) if convert else frame, exposure=exposure)
    return frames


@pytest.fixture(scope="module")
def brackets(tmp_path_factory):
    """Three scenes of seven frames, one stop apart."""
    root = tmp_path_factory.mktemp("brackets")
    for k, name in enumerate(("church", "lake", "tree")):
        write_scene(root / name, ev=range(-3, 4), seed=k)
    return root


@pytest.fixture(scope="module")
def hdr_files(tmp_path_factory):
    """Two panoramas and a photograph."""
    root = tmp_path_factory.mktemp("hdr")
    write_image(root / "hall.hdr", light(128, 256, 1, stops=14))
    write_image(root / "square.hdr", light(128, 256, 2, stops=14))
    (root / "more").mkdir()
    write_image(root / "more" / "street.exr", light(150, 200, 3, stops=12))
    return root


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def assert_sample(sample, size):
    assert sample.keys() == SHAPES.keys()
    for key, value in sample.items():
        assert value.dtype == torch.float32
        assert value.dim() == SHAPES[key]
        assert value.is_contiguous()
    for key in ("dark", "bright", "target"):
        assert sample[key].shape == (3, *size)
        codes = sample[key] * 255
        assert torch.equal(sample[key], codes.round() / 255)
        assert 0 <= float(codes.min()) <= float(codes.max()) <= 255
    assert sample["imf_dark"].shape == sample["imf_bright"].shape == (3, 256)
    assert bool((sample["imf_dark"].diff() >= 0).all())
    assert float(sample["imf_dark"].max()) <= 255


def found_in(part, frame):
    """Whether the (3, h, w) part occurs in the (3, H, W) frame."""
    windows = frame.unfold(1, part.shape[1], 1).unfold(2, part.shape[2], 1)
    return bool((windows == part[:, None, None]).flatten(3).all(-1).all(0).any())


# ---- brackets ----------------------------------------------------------------------------------------------------


def test_triplets_are_all_that_fit(brackets):
    data = BracketTriplets(brackets, distance=4, ev_step=1)
    assert data.scenes == ["church", "lake", "tree"]
    assert len(data) == len(data.triplets) == 9
    names = [(t.dark.name, t.target.name, t.bright.name) for t in data.triplets[:3]]
    assert names == [("7.png", "5.png", "3.png"), ("6.png", "4.png", "2.png"), ("5.png", "3.png", "1.png")]
    assert all((t.distance, t.fraction) == (4, 0.5) for t in data.triplets)
    assert len(BracketTriplets(brackets, distance=2, ev_step=1)) == 15
    assert len(BracketTriplets(brackets, distance=4, ev_step=2)) == 15
    # Three stops with the middle half a stop off, either way.
    wide = BracketTriplets(brackets, distance=3, tolerance=0.5, ev_step=1)
    assert len(wide) == 3 * 4 * 2
    assert {round(t.fraction, 4) for t in wide.triplets} == {0.3333, 0.6667}


def test_the_target_lies_between_the_others(brackets):
    """However far from the middle it may be."""
    data = BracketTriplets(brackets, distance=3, tolerance=1.2, ev_step=1)
    assert {(t.distance, round(t.fraction, 3)) for t in data.triplets} == {
        (2, 0.5),
        (3, 0.333),
        (3, 0.667),
        (4, 0.25),
        (4, 0.5),
        (4, 0.75),
    }
    # What rounding tells apart is one exposure.
    for stops in ([0.0, 1e-12, 4.0], [0.0, 4 - 1e-12, 4.0]):
        with pytest.raises(InputError, match="no two frames"):
            _admissible(stops, 6.0, 2.0)


def test_exposures_of_the_files_come_first(tmp_path):
    write_scene(tmp_path / "timed", ev=(-2, -1, 0, 2), timed=True)
    data = BracketTriplets(tmp_path, distance=4, ev_step=100)
    (triplet,) = data.triplets
    assert triplet.distance == pytest.approx(4)
    assert triplet.dark.name == "4.png"
    assert triplet.target.name == "2.png"
    assert float(data[0]["fraction"]) == pytest.approx(0.5)


def test_whole_frames(brackets):
    data = BracketTriplets(brackets, distance=4, ev_step=1, patch=None, augment=False, maps="response")
    for k in (0, 4, 8):
        triplet, sample = data.triplets[k], data[k]
        assert_sample(sample, (70, 100))
        frames = {key: read_image(getattr(triplet, key)).pixels for key in ("dark", "target", "bright")}
        for key, frame in frames.items():
            assert torch.equal(sample[key], frame.float() / 255)
        response = estimate_response(frames["dark"], frames["bright"])
        assert torch.equal(sample["imf_dark"], response_imf(response, 0.5))
        assert torch.equal(sample["imf_bright"], response_imf(response, -0.5))
        assert_equal(data[5, k], sample)  # nothing random is left


def test_tables_are_those_of_the_fraction(brackets):
    data = BracketTriplets(brackets, distance=3, tolerance=0.5, ev_step=1, patch=None, augment=False)
    triplet, sample = data.triplets[0], data[0]
    assert float(sample["fraction"]) == pytest.approx(1 / 3)
    dark, bright = read_image(triplet.dark).pixels, read_image(triplet.bright).pixels
    assert torch.equal(sample["imf_dark"], intermediate_imf(estimate_imf(dark, bright), 1 / 3))
    assert torch.equal(sample["imf_bright"], intermediate_imf(estimate_imf(bright, dark), 2 / 3))


def test_patches_are_parts_of_the_frames(brackets):
    data = BracketTriplets(brackets, distance=4, ev_step=1, patch=(20, 30), samples_per_epoch=24)
    whole = BracketTriplets(brackets, distance=4, ev_step=1, patch=None, augment=False)
    assert len(data) == 24
    mirrored, places = 0, set()
    for index in range(24):
        sample, frames = data[index], whole[index % 9]
        assert_sample(sample, (20, 30))
        stacked, part = (torch.stack([x[key][1] for key in ("dark", "bright", "target")]) for x in (frames, sample))
        plain, flipped = found_in(part, stacked), found_in(part.flip(-1), stacked)
        assert plain != flipped
        mirrored += flipped
        places.add(float(part.double().sum()))
        assert torch.equal(sample["imf_dark"], frames["imf_dark"])
    assert 5 < mirrored < 19
    assert len(places) == 24
    straight = BracketTriplets(brackets, distance=4, ev_step=1, patch=(20, 30), augment=False)
    assert all(found_in(straight[k]["target"], whole[k]["target"]) for k in range(9))


def test_rotations(brackets):
    data = BracketTriplets(
        brackets, distance=4, ev_step=1, patch=(20, 30), augment=False, rotate=True, samples_per_epoch=20
    )
    whole = BracketTriplets(brackets, distance=4, ev_step=1, patch=None, augment=False)
    turns = []
    for index in range(20):
        target = data[index]["target"]
        assert target.shape == (3, 20, 30)
        frame = whole[index % 9]["target"]
        turns += [k for k in range(4) if found_in(target.rot90(-k, (-2, -1)), frame)]
    assert len(turns) == 20
    assert set(turns) == {0, 1, 2, 3}


def test_patches_lie_where_something_is_exposed(tmp_path):
    """All is black but one corner; of eight tries nearly always one meets it."""
    folder = tmp_path / "night"
    folder.mkdir()
    for k in range(3):
        frame = torch.zeros(3, 60, 60, dtype=torch.uint8)
        frame[:, 20:, 20:] = 40 * (k + 1)
        write_image(folder / f"{k}.png", frame)
    data = BracketTriplets(folder, distance=2, ev_step=1, patch=(20, 20), samples_per_epoch=200)
    lit = [float((data[index]["target"] > 0).float().mean()) for index in range(200)]
    # One place in two is at least half lit: all eight miss it once in 256 times.
    assert np.mean(np.array(lit) >= 0.5) > 0.97
    assert min(lit) < 1


def test_nothing_exposed_anywhere_still_gives_a_patch(tmp_path):
    folder = tmp_path / "black"
    folder.mkdir()
    for k in range(3):
        write_image(folder / f"{k}.png", torch.full((3, 24, 24), k, dtype=torch.uint8))
    sample = BracketTriplets(folder, distance=2, ev_step=1, patch=(20, 20))[0]
    assert_sample(sample, (20, 20))


def test_sixteen_bits_and_grey(tmp_path):
    def wide(frame):
        codes = frame.to(torch.int32) * 257 + 60
        return codes.clamp(max=65535).to(torch.uint16)

    frames = write_scene(tmp_path / "deep", ev=(-2, 0, 2), convert=wide)
    grey = write_scene(tmp_path / "grey", ev=(-2, 0, 2), convert=lambda frame: frame[1:2])
    data = BracketTriplets(tmp_path, ev_step=2, patch=None, augment=False)
    assert torch.equal(data[0]["dark"], frames[0].float() / 255)
    assert torch.equal(data[1]["bright"], (grey[2, 1:2].float() / 255).expand(3, -1, -1))
    assert_sample(data[1], (70, 100))


def test_frames_beyond_the_cache_are_read_again(brackets):
    cached, reading, some = (
        BracketTriplets(brackets, ev_step=1, patch=(30, 40), cache_bytes=size)
        for size in (1 << 30, 0, 7 * 3 * 70 * 100)
    )
    for index in range(9):
        assert_equal(cached[index], reading[index])
        assert_equal(cached[index], some[index])
    assert len(pickle.dumps(reading)) < len(pickle.dumps(some)) < len(pickle.dumps(cached))


def test_what_cannot_be_used_is_named(tmp_path):
    write_scene(tmp_path / "good", ev=(-2, 0, 2))
    write_scene(tmp_path / "narrow", ev=(0, 1))
    write_scene(tmp_path / "tiny", ev=(-2, 0, 2), size=(10, 200))
    write_scene(tmp_path / "broken", ev=(-2, 0, 2))
    (tmp_path / "broken" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    (tmp_path / "linear").mkdir()
    write_image(tmp_path / "linear" / "a.exr", light(70, 100))
    with pytest.warns(UserWarning, match="left out 4 of 5") as caught:
        data = BracketTriplets(tmp_path, ev_step=2)
    assert data.scenes == ["good"]
    (message,) = [str(w.message) for w in caught]
    assert "\n" not in message
    assert "narrow: no two frames are 4 stops apart with one halfway (exposures in stops: 0, 2)" in message
    assert "tiny: its frames of 10 x 200 pixels are smaller than the patches of 60 x 90" in message
    assert "1.png cannot be read as PNG" in message
    assert "a.exr holds linear light" in message
    assert caught[0].filename == __file__


def test_long_lists_are_cut(tmp_path):
    for k in range(12):
        write_scene(tmp_path / f"scene{k:02}", ev=(0, 1), size=(8, 8))
    with pytest.raises(ValueError, match=r"no scene can be used: scene00: .*; and 4 more"):
        BracketTriplets(tmp_path, ev_step=1)


def test_no_triplet_at_all(tmp_path):
    with pytest.raises(ValueError, match="no scene can be used: none was found"):
        BracketTriplets(tmp_path)
    write_scene(tmp_path / "church", ev=(-2, 0, 2))
    with pytest.raises(ValueError, match=r"church: its files state no exposures that can be believed; give ev_step"):
        BracketTriplets(tmp_path)
    with pytest.raises(ValueError, match=r"church: no two frames are 5 stops apart"):
        BracketTriplets(tmp_path, distance=5, ev_step=2)


def test_contradicted_exposures_are_not_believed(tmp_path):
    folder = tmp_path / "false"
    write_scene(folder, ev=(-2, 0, 2))
    for k, path in enumerate(sorted(folder.iterdir())):  # the brightest comes first
        write_image(path, read_image(path).pixels, exposure=Exposure(time=2.0 ** (2 * k) / 64))
    with pytest.raises(ValueError, match="contradict the brightness"):
        BracketTriplets(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(BracketTriplets(tmp_path, ev_step=2)) == 1


def test_a_file_that_vanishes_is_named(tmp_path):
    write_scene(tmp_path / "church", ev=(-2, 0, 2))
    data = BracketTriplets(tmp_path, ev_step=2, cache_bytes=0)
    (tmp_path / "church" / "2.png").unlink()
    message = rf"^cannot read {tmp_path}/church/2\.png: No such file or directory; check the path and its permissions$"
    for workers in (0, 1):
        with pytest.raises(InputError, match=message):
            list(DataLoader(data, num_workers=workers))


def test_a_file_that_is_damaged_later_is_named(tmp_path):
    write_image(tmp_path / "hall.hdr", light(130, 260))
    data = SyntheticTriplets(tmp_path, cache_bytes=0)
    (tmp_path / "hall.hdr").write_bytes(b"")
    with pytest.raises(InputError, match=r"hall\.hdr is empty \(0 bytes\); copy or export it again$"):
        list(DataLoader(data, num_workers=1))


def test_a_split_never_shares_scenes(brackets):
    train, held = split_scenes(find_scenes(brackets), ["lake"])
    assert BracketTriplets(train, ev_step=1).scenes == ["church", "tree"]
    assert BracketTriplets(held, ev_step=1).scenes == ["lake"]


# ---- synthesis ---------------------------------------------------------------------------------------------------


def test_sample_of_synthesis(hdr_files):
    data = SyntheticTriplets(hdr_files, samples_per_epoch=12, patch=(40, 60))
    assert data.scenes == ["hall.hdr", "street.exr", "square.hdr"]
    assert len(data) == 12
    for index in range(12):
        sample = data[index]
        assert_sample(sample, (40, 60))
        assert float(sample["dark"].mean()) < float(sample["target"].mean()) < float(sample["bright"].mean())


def test_whole_frames_of_synthesis_have_their_own_tables(hdr_files):
    for maps in ("histogram", "response"):
        data = SyntheticTriplets(hdr_files, patch=None, augment=False, fraction=0.25, distance=3.0, maps=maps)
        sample = data[0, 7]
        assert_sample(sample, (120, 180))
        dark, bright = ((sample[key] * 255).round().to(torch.uint8) for key in ("dark", "bright"))
        if maps == "response":
            response = estimate_response(dark, bright)
            expected = response_imf(response, 0.25), response_imf(response, 0.25 - 1)
        else:
            pairs = (dark, bright, 0.25), (bright, dark, 0.75)
            expected = tuple(intermediate_imf(estimate_imf(a, b), fraction) for a, b, fraction in pairs)
        assert torch.equal(sample["imf_dark"], expected[0])
        assert torch.equal(sample["imf_bright"], expected[1])
    with pytest.raises(ValueError, match="maps must be 'response' or 'histogram', got 'x'"):
        SyntheticTriplets(hdr_files, maps="x")


def test_patch_is_part_of_the_whole_frame(hdr_files):
    patches = SyntheticTriplets(hdr_files, patch=(30, 40), augment=False)
    whole = SyntheticTriplets(hdr_files, patch=None, augment=False)
    for index in range(4):
        part, frame = patches[index], whole[index]
        assert found_in(part["target"], frame["target"])
        assert torch.equal(part["imf_bright"], frame["imf_bright"])


def linear_camera(generator):
    return Camera(functools.partial(gamma_response, gamma=1.0), full_well=1e12, read_noise=0.0)


def test_exposures_are_where_they_are_said_to_be():
    """With a linear response, codes are exposures."""
    data = SyntheticTriplets(
        light(150, 220, stops=3), camera=linear_camera, distance=(2.0, 3.0), patch=None, augment=False
    )
    distances, fractions = [], []
    for index in range(60):
        dark, target, bright = (data[index][key].double() for key in ("dark", "target", "bright"))
        known = (bright < 0.97) & (dark > 0.05)
        if int(known.sum()) < 500:
            continue
        distance = float((bright[known] / dark[known]).log2().median())
        distances.append(distance)
        fractions.append(float((target[known] / dark[known]).log2().median()) / distance)
        assert fractions[-1] == pytest.approx(float(data[index]["fraction"]), abs=0.02)
    assert len(distances) > 15
    assert min(distances) > 1.98
    assert max(distances) < 3.02
    assert max(distances) - min(distances) > 0.5


def test_fractions_and_distances_as_asked(hdr_files):
    def fractions(**arguments):
        data = SyntheticTriplets(hdr_files, patch=(8, 8), frame=(16, 24), samples_per_epoch=300, **arguments)
        return [round(float(data[index]["fraction"]), 4) for index in range(300)]

    drawn = fractions()
    assert set(drawn) == {0.5, 0.3333, 0.6667, 0.25, 0.75}
    assert 150 < drawn.count(0.5) < 210
    assert set(fractions(fraction=0.4)) == {0.4}
    weighted = fractions(fraction={0.5: 3, 0.2: 1})
    assert 50 < weighted.count(0.2) < 100


def test_a_range_may_be_any_two_numbers():
    image = light(150, 200)
    one, other = (SyntheticTriplets(image, distance=distance) for distance in ([2, 6], (2.0, 6.0)))
    assert_equal(one[3], other[3])


def test_panoramas_are_told_by_their_shape_or_said():
    image = light(64, 128)
    assert SyntheticTriplets([image], frame=(20, 30), patch=None).scenes == ["tensor 0"]
    told, said, photograph = (
        SyntheticTriplets(image, panorama=panorama, frame=(20, 30), patch=None, augment=False, samples_per_epoch=2)
        for panorama in (None, True, False)
    )
    assert_equal(told[0], said[0])
    assert not torch.equal(told[0]["target"], photograph[0]["target"])
    with pytest.raises(ValueError, match="twice as wide as high"):
        SyntheticTriplets(light(64, 100), panorama=True)


def test_grey_light_and_any_iterable(hdr_files):
    sources = (source for source in (light(150, 200)[:1], str(hdr_files / "hall.hdr")))
    data = SyntheticTriplets(sources)
    assert data.scenes == ["tensor 0", "hall.hdr"]
    assert_sample(data[0], (60, 90))


def test_images_take_turns(hdr_files):
    data = SyntheticTriplets([light(150, 200), light(150, 200) * torch.tensor([1.0, 0.0, 0.0])[:, None, None]])
    for index in range(6):
        assert (float(data[index]["bright"][2].mean()) < 0.05) == (index % 2 == 1)


def test_images_beyond_the_cache_are_read_again(hdr_files):
    cached, reading = (SyntheticTriplets(hdr_files, cache_bytes=size) for size in (1 << 30, 0))
    for index in range(4):
        assert_equal(cached[index], reading[index])
    assert len(pickle.dumps(reading)) < 5000 < len(pickle.dumps(cached))


def test_what_cannot_be_synthesised_from_is_named(tmp_path):
    write_image(tmp_path / "good.hdr", light(130, 200))
    write_image(tmp_path / "small.hdr", light(20, 200))
    write_image(tmp_path / "dark.exr", torch.zeros(3, 130, 200))
    (tmp_path / "broken.exr").write_bytes(b"\x76\x2f\x31\x01 no more")
    write_image(tmp_path / "codes.png", torch.zeros(3, 130, 200, dtype=torch.uint8))
    with pytest.warns(UserWarning, match="left out 4 of 5") as caught:
        data = SyntheticTriplets([tmp_path, tmp_path / "codes.png"])
    assert data.scenes == ["good.hdr"]
    message = str(caught[0].message)
    assert "small.hdr: a photograph of 20 x 200 pixels is too small" in message
    assert "dark.exr: a scene must hold light" in message
    assert "broken.exr cannot be read as OpenEXR" in message
    assert "codes.png: a scene must be linear light" in message
    with pytest.raises(ValueError, match=r"no HDR image can be used: .*too small"):
        SyntheticTriplets(tmp_path / "small.hdr")
    with pytest.raises(ValueError, match="none was found"):
        SyntheticTriplets([])
    with pytest.raises(ValueError, match=r"cannot read .*absent\.hdr"):
        SyntheticTriplets(tmp_path / "absent.hdr")


# ---- what both promise -------------------------------------------------------------------------------------------


@pytest.fixture(params=["brackets", "synthesis"])
def data(request):
    if request.param == "brackets":
        folder = request.getfixturevalue("brackets")
        return BracketTriplets(folder, ev_step=1, patch=(30, 40), seed=7, samples_per_epoch=24, rotate=True)
    return SyntheticTriplets(request.getfixturevalue("hdr_files"), seed=7, samples_per_epoch=24)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_samples_depend_on_their_key_alone(data):
    keys = [(epoch, index) for epoch in (0, 3) for index in range(12)]
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    expected = {key: data[key] for key in keys}
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert_equal(data[5], expected[0, 5])
    order = np.random.default_rng(0).permutation(len(keys))
    for workers in (0, 1, 3):
        shuffled = [keys[k] for k in order]
        loader = DataLoader(data, batch_size=5, sampler=shuffled, num_workers=workers)
        at = 0
        for batch in loader:
            for k in range(len(batch["fraction"])):
                assert_equal({name: values[k] for name, values in batch.items()}, expected[shuffled[at]])
                at += 1
        assert at == len(keys)
    assert len({float(sample["target"].double().sum()) for sample in expected.values()}) == len(keys)


def test_samples_do_not_depend_on_threads(data, threads):
    threads(1)
    expected = [data[1, index] for index in range(8)]
    threads(2)
    for index in range(8):
        assert_equal(data[1, index], expected[index])
    assert torch.get_num_threads() == 2


def test_samples_survive_pickling(data):
    assert_equal(pickle.loads(pickle.dumps(data))[2, 3], data[2, 3])


def test_seeds_differ(brackets, hdr_files):
    for make in (
        lambda seed: BracketTriplets(brackets, ev_step=1, patch=(30, 40), seed=seed),
        lambda seed: SyntheticTriplets(hdr_files, seed=seed),
    ):
        assert not torch.equal(make(0)[1]["dark"], make(1)[1]["dark"])


def test_iteration_ends(data):
    assert sum(1 for _ in data) == 24
    for key in (24, -1, (0, 24), (-1, 0)):
        with pytest.raises(IndexError, match=r"epoch"):
            data[key]


@pytest.mark.parametrize(
    "arguments",
    [
        {"distance": 0.0},
        {"patch": (0, 10)},
        {"patch": (5,)},
        {"seed": -1},
        {"samples_per_epoch": 0},
        {"tolerance": -0.1},
        {"tolerance": 2.0},
        {"ev_step": 0.0},
    ],
)
def test_bracket_arguments(brackets, arguments):
    with pytest.raises(ValueError, match="must be"):
        BracketTriplets(brackets, **{"ev_step": 1, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"distance": (3.0, 2.0)},
        {"distance": [2.0]},
        {"distance": (2.0, 4.0, 6.0)},
        {"fraction": 1.0},
        {"fraction": {}},
        {"fraction": {0.5: 0.0}},
        {"frame": (10, 0)},
        {"fov": (0.0, 90.0)},
        {"patch": (200, 90)},
        {"patch": (60, 130), "rotate": True},
        {"seed": 2**64},
        {"samples_per_epoch": 0},
    ],
)
def test_synthesis_arguments(arguments):
    with pytest.raises(ValueError, match=r"must (be|fit)"):
        SyntheticTriplets(light(150, 200), **arguments)


# ---- real images -------------------------------------------------------------------------------------------------


def test_real_bracket():
    data = BracketTriplets(photographs() / "brackets" / "fairchild" / "507", ev_step=1.0, patch=None, augment=False)
    assert len(data) == 5
    sample = data[2]
    assert_sample(sample, tuple(sample["dark"].shape[1:]))
    assert float(sample["dark"].mean()) < float(sample["target"].mean()) < float(sample["bright"].mean())


def test_real_bracket_with_exposures_in_its_files():
    data = BracketTriplets(photographs() / "brackets" / "misc" / "villa", distance=4.0)
    (triplet,) = data.triplets
    assert triplet.distance == pytest.approx(4)


def test_real_panorama():
    files = sorted((photographs() / "hdr" / "polyhaven").glob("*.hdr"))[:2]
    data = SyntheticTriplets(files, camera=functools.partial(draw_camera, jpeg=1.0))
    assert_sample(data[0], (60, 90))
    assert not torch.equal(data[0]["target"], data[2]["target"])
