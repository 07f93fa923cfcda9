"""The synthetic scene and its camera."""

import math

import pytest
import torch

from hdrops.data import camera_response, expose, render_scene, sample_bracket

HEIGHT, WIDTH = 80, 120


@pytest.fixture(scope="module")
def scene() -> torch.Tensor:
    return render_scene(HEIGHT, WIDTH)


def test_scene_is_linear_radiance(scene):
    assert scene.shape == (3, HEIGHT, WIDTH)
    assert scene.dtype == torch.float32
    assert bool(scene.isfinite().all())
    assert float(scene.min()) >= 0


def test_scene_spans_fourteen_stops_even_without_the_sun(scene):
    positive = scene[scene > 0]
    dark = torch.quantile(positive, 0.001)
    assert math.log2(scene.max() / dark) >= 14
    assert math.log2(torch.quantile(positive, 0.995) / dark) >= 14


def test_scene_has_texture_at_both_ends(scene):
    # Relative steps between neighbours: in the darkest fifth (shelves, corners) and the brightest (window).
    grey = scene.mean(0).log2()
    step = (grey[:, 1:] - grey[:, :-1]).abs()
    level = grey[:, 1:]
    low, high = torch.quantile(grey, 0.2), torch.quantile(grey, 0.9)
    assert float(step[level < low].mean()) > 0.05
    assert float(step[level > high].mean()) > 0.05


def test_scene_is_deterministic_and_leaves_global_state_alone(scene):
    torch.manual_seed(1)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(1)
    assert torch.equal(render_scene(HEIGHT, WIDTH), scene)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_scene_does_not_depend_on_the_number_of_threads(scene):
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert torch.equal(render_scene(HEIGHT, WIDTH), scene)
    finally:
        torch.set_num_threads(threads)


def test_another_seed_changes_the_textures_not_the_room(scene):
    other = render_scene(HEIGHT, WIDTH, seed=1)
    assert not torch.equal(other, scene)
    assert float((other.mean(0).log2() - scene.mean(0).log2()).abs().median()) < 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 5)])
def test_tiny_and_odd_sizes(size):
    scene = render_scene(*size)
    assert scene.shape == (3, *size)
    assert bool(scene.isfinite().all())


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_scene_refuses_sizes_without_pixels(size):
    with pytest.raises(ValueError, match="at least 1"):
        render_scene(*size)


def test_response_increases_strictly_between_its_ends():
    x = torch.linspace(0, 1, 4097, dtype=torch.float64)
    y = camera_response(x)
    assert bool((y.diff() > 0).all())
    assert float(y[0]) == 0
    assert float(y[-1]) == pytest.approx(1, abs=1e-12)


def test_response_is_film_like():
    x = torch.tensor([0.0, 1e-4, 0.1, 0.11, 0.9, 1.0], dtype=torch.float64)
    toe, straight, shoulder = (camera_response(x).diff() / x.diff())[[0, 2, 4]].tolist()
    assert toe > 10 * straight > 30 * shoulder > 0  # compresses, and never clips before the sensor does
    assert float(camera_response(torch.tensor(0.18))) > 0.4


def test_response_clips_outside_and_refuses_codes():
    assert camera_response(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 1.0]
    with pytest.raises(TypeError, match="floating point"):
        camera_response(torch.tensor([1]))


def _electrons(codes: torch.Tensor, full_well: float) -> torch.Tensor:
    """Invert the response by table."""
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    at = torch.searchsorted(camera_response(x), codes.double() / 65535).clamp(max=200_000)
    return x[at] * full_well


@pytest.mark.parametrize("mean", [400.0, 5000.0])
def test_noise_is_shot_noise_and_read_noise(mean):
    full_well, read = 20_000.0, 12.0
    flat = torch.full((3, 200, 200), mean / full_well)
    shot = expose(flat, 1.0, bits=16, seed=3, gain=1.0, full_well=full_well, read_noise=read)
    electrons = _electrons(shot.to(torch.int32), full_well)
    assert float(electrons.mean()) == pytest.approx(mean, rel=0.01)
    assert float(electrons.var()) == pytest.approx(mean + read**2, rel=0.03)


def test_read_noise_can_be_off():
    dark = expose(torch.zeros(3, 8, 8), 1.0, read_noise=0.0)
    assert int(dark.to(torch.int32).max()) == 0


def test_saturated_pixels_are_white():
    bright = torch.full((3, 8, 8), 1e30)
    for bits, highest in ((8, 255), (16, 65535)):
        assert int(expose(bright, 1.0, bits=bits).to(torch.int32).min()) == highest


def test_noise_is_deterministic_and_follows_the_seed(scene):
    first = expose(scene, 0.01, seed=5)
    torch.manual_seed(0)
    assert torch.equal(expose(scene, 0.01, seed=5), first)
    assert not torch.equal(expose(scene, 0.01, seed=6), first)


@pytest.mark.parametrize(
    "arguments",
    [
        {"time": 0.0},
        {"time": math.nan},
        {"time": 1.0, "bits": 12},
        {"time": 1.0, "gain": -1.0},
        {"time": 1.0, "full_well": 0.0},
        {"time": 1.0, "read_noise": -1.0},
    ],
)
def test_expose_refuses_parameters_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"must be"):
        expose(torch.ones(3, 2, 2), **arguments)


@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_expose_refuses_what_is_no_radiance(value):
    with pytest.raises(ValueError, match="radiance"):
        expose(torch.full((3, 2, 2), value), 1.0)


@pytest.mark.parametrize(("bits", "dtype"), [(8, torch.uint8), (16, torch.uint16)])
def test_bracket(bits, dtype):
    images, times = sample_bracket(HEIGHT, WIDTH, exposures=4, step=1.5, bits=bits)
    assert images.shape == (4, 3, HEIGHT, WIDTH)
    assert images.dtype == dtype
    assert torch.allclose(times[1:] / times[:-1], torch.tensor(2.0**1.5))
    brightness = images.to(torch.int32).double().mean((1, 2, 3))
    assert bool((brightness.diff() > 0).all())


def test_default_bracket_covers_the_scene():
    images, times = sample_bracket(HEIGHT, WIDTH)
    assert times.tolist() == pytest.approx([1 / 4096, 1 / 1024, 1 / 256, 1 / 64, 1 / 16])
    darkest, brightest = images[0].float(), images[-1].float()
    assert float((darkest == 255).all(0).float().mean()) < 0.005  # the sun and little else
    assert float((brightest < 16).all(0).float().mean()) < 0.02  # the shadows are open


def test_sixteen_bit_bracket_holds_more_than_eight():
    images, _ = sample_bracket(HEIGHT, WIDTH, exposures=1, bits=16)
    assert len(images.to(torch.int32).unique()) > 2000


@pytest.mark.parametrize("arguments", [{"exposures": 0}, {"step": 0.0}, {"step": -1.0}, {"step": 1000.0}, {"bits": 10}])
def test_bracket_refuses_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"must be"):
        sample_bracket(8, 8, **arguments)
