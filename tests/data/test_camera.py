"""The virtual camera: geometry against formulas, noise against its statistics."""

import functools
import math
import pickle

import numpy as np
import pytest
import torch

from hdrops.data import (
    Camera,
    LinearPhotograph,
    Panorama,
    draw_camera,
    draw_response,
    gamma_response,
    jpeg_round_trip,
    metered_time,
)
from hdrops.data.camera import _evened

AXES = torch.tensor([[0.3, 0.5, -0.8], [0.9, -0.1, 0.4], [-0.2, 0.9, 0.3]])
LINEAR = functools.partial(gamma_response, gamma=1.0)


def directions(height, width):
    """Unit vectors (3, H, W) of the pixels of a panorama: x to the right of its middle, y up, z to its middle."""
    azimuth = ((torch.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    latitude = (0.5 - (torch.arange(height) + 0.5) / height) * math.pi
    cosine = latitude.cos()[:, None]
    return torch.stack([cosine * azimuth.sin(), latitude.sin()[:, None].expand(height, width), cosine * azimuth.cos()])


def glow(direction):
    """Smooth radiance (3, ...) of directions (3, ...)."""
    return 2 + torch.einsum("ck,k...->c...", AXES, direction)


def rotation(yaw, pitch, roll):
    """Camera to world, composed of three textbook rotations."""
    a, b, c = map(math.radians, (yaw, pitch, roll))
    about_y = torch.tensor([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    about_x = torch.tensor([[1, 0, 0], [0, math.cos(b), math.sin(b)], [0, -math.sin(b), math.cos(b)]])
    about_z = torch.tensor([[math.cos(c), math.sin(c), 0], [-math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


@pytest.fixture(scope="module")
def panorama():
    return Panorama(glow(directions(128, 256)))


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll", "fov"),
    [
        (0, 0, 0, 70),
        (180, 0, 0, 70),  # across the seam
        (-137, 20, 0, 40),
        (33, -35, 25, 90),
        (75, 90, 0, 60),  # straight up: the pole in the middle of the picture
        (-75, -85, 170, 60),
        (1000, 5, 0, 150),
    ],
)
def test_view_is_what_a_pinhole_camera_sees(panorama, yaw, pitch, roll, fov):
    height, width = 60, 90
    step = 2 * math.tan(math.radians(fov) / 2) / width
    x = (torch.arange(width) - (width - 1) / 2) * step
    y = ((height - 1) / 2 - torch.arange(height)) * step
    y, x = torch.meshgrid(y, x, indexing="ij")
    ray = torch.stack([x, y, torch.ones_like(x)])
    ray = torch.einsum("ij,jhw->ihw", rotation(yaw, pitch, roll), ray / ray.norm(dim=0))
    view = panorama.view(height, width, yaw=yaw, pitch=pitch, roll=roll, fov=fov)
    assert view.dtype == torch.float32
    # Bilinear interpolation and reduction of a glow that changes by 1 per radian.
    assert float((view - glow(ray)).abs().max()) < 0.01


def test_view_turns_as_documented():
    marks = torch.full((3, 64, 128), 0.1)
    marks[:, 30:34, 94:98] = 1.0  # 90 degrees to the right
    right = Panorama(marks).view(40, 60, yaw=75.0, fov=60)
    assert int(right[0].amax(0).argmax()) > 30
    marks = torch.full((3, 64, 128), 0.1)
    marks[:, 14:18, 62:66] = 1.0  # 45 degrees up
    assert int(Panorama(marks).view(40, 60, pitch=30.0, fov=60)[0].amax(1).argmax()) < 20
    # Rolled clockwise, the camera sees what is above to its left.
    assert int(Panorama(marks).view(40, 40, pitch=30.0, roll=90.0, fov=60)[0].amax(0).argmax()) < 20


def test_columns_at_the_seam_meet():
    noise = torch.rand(3, 32, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    for shift in (0, 13, 32):
        turned = Panorama(noise.roll(shift, -1)).view(20, 30, yaw=170.0 + shift * 360 / 64, fov=80)
        assert torch.allclose(turned, Panorama(noise).view(20, 30, yaw=170.0, fov=80), atol=1e-4)


def test_fine_texture_does_not_alias():
    board = (torch.arange(512)[:, None] + torch.arange(1024)) % 2 * 1.0
    panorama = Panorama(board.expand(3, -1, -1))
    wide = panorama.view(48, 64, fov=90)  # five pixels of the panorama per pixel
    assert float((wide - 0.5).abs().max()) < 0.05
    # At the poles columns are close together: they average out whatever the resolution.
    pole = panorama.view(64, 64, pitch=90, fov=20)
    assert float((pole - 0.5).abs().max()) < 0.1
    near = panorama.view(64, 64, fov=20)
    assert float(near.std()) > 0.1


def test_evening_keeps_the_light_of_every_row():
    light = torch.rand(3, 64, 128, generator=torch.Generator().manual_seed(1)) ** 8 * 1e4
    even = _evened(light)
    assert torch.allclose(even.mean(-1), light.mean(-1), rtol=1e-5)
    assert torch.equal(even[:, 11:53], light[:, 11:53])  # up to 60 degrees from the equator
    # In the first row 41 columns subtend the angle of one.
    window = light[:, 0].roll(20 - 7, -1)[:, :41].mean(-1)
    assert torch.allclose(even[:, 0, 7], window, rtol=1e-5)


def test_narrowest_view_keeps_what_is_needed():
    image = glow(directions(256, 512)) + torch.rand(3, 256, 512, generator=torch.Generator().manual_seed(0))
    full, reduced = Panorama(image), Panorama(image, narrowest=(40.0, 16))
    assert reduced.nbytes < full.nbytes / 3
    for fov in (40.0, 60.0, 100.0):
        assert torch.equal(reduced.view(12, 16, fov=fov), full.view(12, 16, fov=fov))


def test_draws_of_a_panorama_repeat_and_differ(panorama):
    first, again, other = (panorama.draw(np.random.default_rng(seed), 40, 60) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (3, 40, 60)


def test_draws_stay_within_the_resolution(monkeypatch):
    panorama, seen = Panorama(torch.ones(3, 128, 256)), []
    original = Panorama.view
    monkeypatch.setattr(Panorama, "view", lambda self, *size, **k: seen.append(k) or original(self, *size, **k))
    for seed in range(200):
        panorama.draw(np.random.default_rng(seed), 40, 60, fov=(50, 95))
        panorama.draw(np.random.default_rng(seed), 20, 30, fov=(50, 95))
    fine, coarse = [k["fov"] for k in seen[::2]], [k["fov"] for k in seen[1::2]]
    # 60 pixels across, each 0.7 of 360 / 256 degrees in the middle.
    least = math.degrees(2 * math.atan(30 * 0.7 * 2 * math.pi / 256))
    assert least <= min(fine) < least + 2
    assert 50 <= min(coarse) < 52
    assert 93 < max(fine) <= 95
    assert max(abs(k["pitch"]) for k in seen) <= 75
    assert min(k["yaw"] for k in seen) < -150
    assert max(k["yaw"] for k in seen) > 150


def test_crop_takes_pixels_as_they_are():
    image = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    photograph = LinearPhotograph(image)
    assert torch.allclose(photograph.crop(12, 20, top=3, left=7), image[:, 3:15, 7:27], atol=1e-5)
    assert torch.allclose(photograph.crop(40, 50), image, atol=1e-5)


def test_crop_reduces_without_aliasing():
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 1.0).expand(3, -1, -1)
    assert float((LinearPhotograph(board).crop(16, 16, scale=4.0) - 0.5).abs().max()) < 1e-5
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    halved = torch.nn.functional.avg_pool2d(image, 2)
    assert torch.allclose(LinearPhotograph(image).crop(32, 32, scale=2.0), halved, atol=1e-5)
    odd = LinearPhotograph(image[:, :63, :61])
    assert torch.allclose(odd.crop(31, 30, scale=2.0), halved[:, :31, :30], atol=1e-5)
    noise = torch.rand(3, 255, 253, generator=torch.Generator().manual_seed(1))
    assert float(LinearPhotograph(noise).crop(60, 60, scale=4.0).std()) < 1.1 * float(noise.std()) / 4
    enlarged = LinearPhotograph(image).crop(64, 64, top=8, left=8, scale=0.75)
    assert float(enlarged.min()) >= float(image.min())


def test_draws_of_a_photograph():
    photograph = LinearPhotograph(torch.rand(1, 90, 300, generator=torch.Generator().manual_seed(0)))
    first, again, other = (photograph.draw(np.random.default_rng(seed), 30, 45) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert photograph.draw(np.random.default_rng(0), 120, 45).shape == (3, 120, 45)
    with pytest.raises(ValueError, match="90 x 300 pixels is too small for views of 30 x 450"):
        photograph.draw(np.random.default_rng(0), 30, 450)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Panorama(torch.ones(3, 8, 17)),
        lambda: Panorama(torch.ones(8, 16)),
        lambda: Panorama(torch.ones(2, 8, 16)),
        lambda: Panorama(torch.zeros(3, 8, 16)),
        lambda: Panorama(torch.full((3, 8, 16), math.nan)),
        lambda: Panorama(torch.ones(3, 8, 16), narrowest=(0.0, 10)),
        lambda: Panorama(torch.ones(3, 8, 16)).view(0, 4),
        lambda: Panorama(torch.ones(3, 8, 16)).view(4, 4, fov=180),
        lambda: Panorama(torch.ones(3, 8, 16)).view(4, 4, yaw=math.inf),
        lambda: LinearPhotograph(torch.ones(3, 8, 16)).crop(8, 17),
        lambda: LinearPhotograph(torch.ones(3, 8, 16)).crop(4, 4, top=-1),
        lambda: LinearPhotograph(torch.ones(3, 8, 16)).crop(4, 4, scale=0.0),
        lambda: LinearPhotograph(torch.ones(3, 8, 16)).crop(4, 0),
        lambda: Camera(LINEAR, full_well=0.0),
        lambda: Camera(LINEAR, read_noise=-1.0),
        lambda: Camera(LINEAR, sensitivity=(1.0, math.inf, 1.0)),
        lambda: Camera(LINEAR, jpeg_quality=0),
        lambda: Camera(LINEAR).expose(torch.ones(1, 4, 4), [1.0]),
        lambda: Camera(LINEAR).expose(torch.ones(3, 4, 4), [1.0, 0.0]),
        lambda: metered_time(torch.ones(3, 4, 4), 0.0),
        lambda: draw_camera(np.random.default_rng(0), jpeg=1.5),
        lambda: draw_camera(np.random.default_rng(0), full_well=(10.0, 5.0)),
    ],
)
def test_refuses(call):
    with pytest.raises(ValueError, match=r"must|does not lie within"):
        call()


def test_refuses_codes():
    for make in (Panorama, LinearPhotograph):
        with pytest.raises(TypeError, match="linearise"):
            make(torch.zeros(3, 8, 16, dtype=torch.uint8))


def test_negative_light_counts_as_none():
    image = torch.ones(3, 8, 16)
    image[:, :, :8] = -5.0
    assert float(LinearPhotograph(image).crop(8, 16).min()) == 0


@pytest.mark.parametrize("seed", range(6))
def test_codes_are_those_of_the_response(seed):
    response = draw_response(np.random.default_rng(seed))
    light = torch.linspace(0, 1.2, 3 * 40 * 50).view(3, 40, 50)
    codes = Camera(response, sensitivity=(0.9, 1.0, 1.1), curvature=(1.1, 1.0, 0.9)).expose(light, [0.5, 2.0])
    for k, time in enumerate((0.5, 2.0)):
        for channel, (gain, power) in enumerate(((0.9, 1.1), (1.0, 1.0), (1.1, 0.9))):
            expected = 255 * response((light[channel] * time * gain).clamp(0, 1).double()) ** power
            # Half a code of rounding, and the steps of the table where the response is steep.
            assert float((codes[k, channel] - expected).abs().max()) < 0.75


def test_noise_is_that_of_photons_and_of_the_amplifier():
    well, read = 2000.0, 5.0
    camera = Camera(LINEAR, full_well=well, read_noise=read)
    light = torch.full((3, 300, 300), 0.4)
    codes = camera.expose(light, [1.0], torch.Generator().manual_seed(0)).double()
    electrons = codes / 255 * well
    assert float(electrons.mean()) == pytest.approx(0.4 * well, rel=2e-3)
    rounding = (well / 255) ** 2 / 12
    assert float(electrons.var()) == pytest.approx(0.4 * well + read**2 + rounding, rel=0.02)
    # In the dark only the amplifier is left, of which the negative half is cut off.
    dark = camera.expose(light * 0, [1.0], torch.Generator().manual_seed(0))
    assert float((dark == 0).float().mean()) > 0.5
    noisy = Camera(LINEAR, full_well=well, read_noise=40.0).expose(light * 0, [1.0], torch.Generator().manual_seed(0))
    half_normal = 40.0 / math.sqrt(2 * math.pi)
    assert float((noisy / 255 * well).mean()) == pytest.approx(half_normal, rel=0.05)


def test_noise_differs_between_frames_and_repeats():
    camera = Camera(LINEAR)
    light = torch.full((3, 20, 20), 0.3)
    first = camera.expose(light, [1.0, 1.0], torch.Generator().manual_seed(4))
    assert torch.equal(first, camera.expose(light, [1.0, 1.0], torch.Generator().manual_seed(4)))
    assert not torch.equal(first[0], first[1])
    silent = camera.expose(light, [1.0, 1.0])
    assert torch.equal(silent[0], silent[1])


def test_ends_of_the_scale():
    camera = Camera(LINEAR)
    light = torch.tensor([0.0, 1e-30, 1e30]).view(3, 1, 1).expand(3, 4, 4)
    codes = camera.expose(light, [1.0], torch.Generator().manual_seed(0))[0]
    assert codes[2].unique().tolist() == [255]
    assert int(codes[:2].max()) <= 1


def test_jpeg_comes_last():
    light = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    plain, coded = (Camera(LINEAR, jpeg_quality=q).expose(light, [0.5, 1.0]) for q in (None, 70))
    assert torch.equal(coded, jpeg_round_trip(plain, 70))


def test_cameras_are_drawn_within_their_ranges():
    cameras = [draw_camera(np.random.default_rng(seed)) for seed in range(300)]
    wells = [camera.full_well for camera in cameras]
    assert 3e3 <= min(wells) < 4e3
    assert 8e5 < max(wells) <= 1e6
    assert all(1 <= camera.read_noise <= 8 for camera in cameras)
    assert all(camera.sensitivity[1] == 1 for camera in cameras)
    assert np.std([math.log2(camera.sensitivity[0]) for camera in cameras]) == pytest.approx(0.1, rel=0.2)
    assert np.std([math.log(camera.curvature[1]) for camera in cameras]) == pytest.approx(0.02, rel=0.2)
    qualities = [camera.jpeg_quality for camera in cameras if camera.jpeg_quality is not None]
    assert 110 < len(qualities) < 190
    assert (min(qualities), max(qualities)) == (70, 98)
    assert {camera.jpeg_subsampled for camera in cameras} == {False, True}
    assert all(draw_camera(np.random.default_rng(seed), jpeg=0.0).jpeg_quality is None for seed in range(30))
    fixed = draw_camera(np.random.default_rng(0), draw_response=lambda generator: LINEAR)
    assert fixed.response is LINEAR
    assert pickle.loads(pickle.dumps(cameras[0])).full_well == wells[0]


def test_metering():
    light = torch.rand(3, 60, 60, generator=torch.Generator().manual_seed(0))
    for share in (0.5, 0.9):
        time = metered_time(light, share)
        assert float((light * time <= 1).float().mean()) == pytest.approx(share, abs=0.03)
    assert metered_time(light * 0, 0.9) == 1.0
    sparse = torch.zeros(3, 8, 8)
    sparse[0, 2, 2] = 4.0
    assert metered_time(sparse, 0.5) == 0.25
    assert metered_time(torch.full((3, 4, 4), 1e-38), 0.5) == pytest.approx(1e30)
