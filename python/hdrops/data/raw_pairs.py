"""Pairs of a short and a long raw exposure, by virtual sensors in HDR images."""

from __future__ import annotations

import dataclasses
import math
import operator
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hdrops.data.camera import metered_time
from hdrops.data.moving import Views
from hdrops.data.objects import HARMONICS, MovingObject
from hdrops.data.triplets import LinearScenes, Sample, _check_length, _generator, _key, _one_thread
from hdrops.io import InputError
from hdrops.models.emvnet import choose_reference

_SHOT = 1e-4, 1.2e-2  # S at the lowest and at a high ISO value of a telephone
_READ_SLOPE, _READ_OFFSET, _READ_SPREAD = 2.18, 1.20, 0.26  # ln O = 2.18 ln S + 1.20 + N(0, 0.26)
_RED, _BLUE, _TINT = (1.3, 2.5), (2.6, 1.3), 0.1  # white balance in lamp light and in shade; stops around it
_SATURATED = -2.5, -0.2  # log10 of the share of the long exposure
_ENLARGED = 2.0  # a long exposure is clipped far below
_TURN = 1.0  # degrees
_STILL = 0.1
_RADIUS = 0.08, 0.25  # of objects, of the shorter side
_WAVINESS = 0.12
_DEEPEST = 16  # bits


@dataclasses.dataclass(frozen=True)
class NoiseProfile:
    """Noise of a sensor at one ISO value, as DNG files state it: the variance of a value x is S x + O.

    Black is 0 and the white level 1. It belongs to the ISO value, not to the exposure time: both images of a pair have
    the same.

    Attributes:
        shot: S, of the photons, >= 0.
        read: O, of the electronics, >= 0.

    Raises:
        ValueError: a negative or infinite number.
    """

    shot: float
    read: float

    def __post_init__(self) -> None:
        if not (0 <= self.shot < math.inf and 0 <= self.read < math.inf):
            raise ValueError(f"shot and read must be finite and not negative, got {self.shot} and {self.read}")


NOISELESS = NoiseProfile(0.0, 0.0)


def draw_noise_profile(generator: np.random.Generator) -> NoiseProfile:
    """A random sensor and ISO value of a telephone.

    S is log-uniform from 0.0001 (10,000 electrons at the white level, ISO 50 or so) to 0.012, and ln O = 2.18 ln S +
    1.20 + N(0, 0.26), as fitted to photographs by Brooks, Mildenhall, Xue, Chen, Sharlet and Barron, "Unprocessing
    images for learned raw denoising", CVPR 2019.

    Args:
        generator: the source of randomness.

    Returns:
        The profile.
    """
    shot = draw_log_uniform(generator, _SHOT)
    read = math.exp(_READ_SLOPE * math.log(shot) + _READ_OFFSET + generator.normal(0.0, _READ_SPREAD))
    return NoiseProfile(shot, read)


def raw_pair(
    short: Tensor,
    long: Tensor,
    ratio: float,
    *,
    time: float = 1.0,
    noise: NoiseProfile = NOISELESS,
    present: NoiseProfile = NOISELESS,
    bits: int = 12,
    generator: np.random.Generator,
) -> Sample:
    """Photograph the light of two moments with a short and a long exposure.

    An exposure time t makes of light H the value x = H t and of that::

        image = round((2^bits - 1) clip(x + N(0, V), 0, 1)) / (2^bits - 1),
        V = max(S - t S0, 0) x + max(O - t² O0, 0)

    with the wanted noise (S, O), and (S0, O0) that which the light has already: frames of a real sensor, once scaled,
    lack only the difference. The reference is the image that :func:`hdrops.models.choose_reference` takes, and the
    target the light of its moment times its exposure, without any noise added.

    Args:
        short: light at the moment of the short exposure, (4, H, W), packed R, Gr, Gb, B; floating point.
        long: light at the moment of the long one, likewise.
        ratio: of the exposure times, at least 1.
        time: the short one: light of 1 / ``time`` saturates it; positive.
        noise: (S, O) of the images.
        present: (S0, O0) of the light.
        bits: of the sensor's codes, 1 to 16.
        generator: the source of randomness.

    Returns:
        ``images`` (2, 4, H, W), ``target`` (4, H, W), ``reference`` and ``times``, see :mod:`hdrops.data.moving`.

    Raises:
        ValueError: shapes other than these, or a number out of range.
    """
    if short.dim() != 3 or short.shape[0] != 4 or short.shape != long.shape:
        raise ValueError(
            f"short and long must be (4, H, W) of one size, got shapes {tuple(short.shape)} and {tuple(long.shape)}"
        )
    if not 1 <= ratio < math.inf or not 0 < time < math.inf:
        raise ValueError(f"ratio must be at least 1 and time positive, got {ratio} and {time}")
    if not 1 <= operator.index(bits) <= _DEEPEST:
        raise ValueError(f"bits must be 1 to {_DEEPEST}, got {bits}")
    source = torch.Generator().manual_seed(int(generator.integers(2**63)))
    times = (time, time * ratio)
    values = [light.float() * t for light, t in zip((short, long), times, strict=True)]
    images = []
    for value, t in zip(values, times, strict=True):
        shot, read = max(noise.shot - t * present.shot, 0.0), max(noise.read - t * t * present.read, 0.0)
        deviation = value.clamp(0, _ENLARGED).mul_(shot).add_(read).sqrt_()
        seen = torch.randn(value.shape, generator=source).mul_(deviation).add_(value).clamp_(0, 1)
        images.append(seen.mul_(2**bits - 1).round_().div_(2**bits - 1))
    stacked = torch.stack(images)
    reference = int(choose_reference(stacked[None])[0])
    return {
        "images": stacked,
        "target": values[reference].clamp(min=0),
        "reference": torch.tensor(reference),
        "times": torch.tensor([t / times[reference] for t in times], dtype=torch.float32),
    }


def check_ratio(ratio: float | Sequence[float]) -> tuple[float, float]:
    """The ends of a range of exposure ratios, or twice the one.

    Raises:
        ValueError: no range of ratios from 1 on.
    """
    ends = tuple(ratio) if isinstance(ratio, Sequence) else (ratio, ratio)
    if len(ends) != 2 or not 1 <= ends[0] <= ends[1] < math.inf:
        raise ValueError(f"ratio must be a number from 1 on or a range of them, got {ratio}")
    return ends[0], ends[1]


def draw_log_uniform(generator: np.random.Generator, ends: tuple[float, float]) -> float:
    """A number of log-uniform distribution between positive ends."""
    return math.exp(generator.uniform(math.log(ends[0]), math.log(ends[1])))


class RawPairs(Dataset[Sample]):
    """Pairs of a short and a long raw exposure of moving scenes, photographed by virtual sensors in HDR images.

    Samples are those of :mod:`hdrops.data.moving`, n = 2 and C = T = 4: linear, packed R, Gr, Gb, B of an RGGB sensor,
    black 0 and the white level 1. Item i shows image i modulo their number. A view of it is drawn
    (:meth:`Panorama.draw` or :meth:`LinearPhotograph.draw`). Between the exposures the camera is shifted by a length
    that is uniform up to half of ``motion`` and turned by up to 1°, both exposures being resampled alike; objects move
    in front of it, by a length uniform up to ``motion``: parts of other views of the same image within wavy outlines,
    as bright in the median as the view times 2^N(0, 1). In a tenth of the samples nothing moves.

    The sensor sees green best: red and blue are divided by the white balance that a camera would apply. This goes from
    1.3 and 2.6, in the light of lamps, to 2.5 and 1.3, in shade, each times 2^N(0, 0.1), and is at least 1. The long
    exposure is metered so that a share of its values saturates that is log-uniform from 0.3 % to 63 %; the short one is
    shorter by a factor that is log-uniform in ``ratio``. Noise, codes, reference and target are those of
    :func:`raw_pair`.

    An item is asked for by ``index`` or ``(epoch, index)``, and depends on the seed, the epoch and the index alone.
    Files are read when the dataset is made; those that cannot be used are named in a warning and left out. They are
    kept in memory as far as ``cache_bytes`` reaches, others are read again at every access. Worker processes share this
    memory. With ``patch=None, augment=False`` the items are whole frames, for validation.

    Args:
        images: HDR files, folders of .hdr and .exr files at any depth, or linear tensors (3, H, W); one or several.
        panorama: whether the images are equirectangular panoramas; by default those twice as wide as high.
        ratio: of the exposure times, at least 1: one number, or the two ends of a range.
        frame: (height, width) of the virtual sensor in cells of 2 x 2 pixels.
        patch: (height, width) of the samples in cells, or None for whole frames.
        motion: largest motion of an object between the exposures, in pixels of the sensor, two per cell; >= 0.
        objects: most objects in a scene, >= 0; their number is uniform.
        fov: range of the field of view in panoramas, in degrees.
        noise: draws the noise of a sensor: :func:`draw_noise_profile`, or another.
        bits: of the codes of sensors, one of which is drawn for each sample.
        seed: of everything, at least 0.
        samples_per_epoch: ``len()``.
        augment: mirror half of the samples left to right. The mosaic is mirrored, and cut so that red is at the upper
            left of a cell again: frames must be one cell wider than patches, and whole frames lose a cell.
        rotate: also turn the samples by a random multiple of 90°, likewise.
        cache_bytes: of radiance to keep in memory.

    Attributes:
        scenes: names of the images that are used.

    Raises:
        ValueError: no usable image, and why; an argument out of range.
    """

    def __init__(
        self,
        images: str | os.PathLike[str] | Tensor | Iterable[str | os.PathLike[str] | Tensor],
        *,
        panorama: bool | None = None,
        ratio: float | Sequence[float] = (2.0, 16.0),
        frame: Sequence[int] = (144, 144),
        patch: Sequence[int] | None = (128, 128),
        motion: float = 48.0,
        objects: int = 3,
        fov: tuple[float, float] = (50.0, 95.0),
        noise: Callable[[np.random.Generator], NoiseProfile] = draw_noise_profile,
        bits: Sequence[int] = (10, 12, 14),
        seed: int = 0,
        samples_per_epoch: int = 1024,
        augment: bool = True,
        rotate: bool = False,
        cache_bytes: int = 4 << 30,
    ) -> None:
        self._ratio = check_ratio(ratio)
        if len(frame) != 2 or min(frame) < 1:
            raise ValueError(f"frame must be (height, width), both at least 1, got {frame}")
        if not 0 <= motion < math.inf or operator.index(objects) < 0:
            raise ValueError(f"motion and objects must not be negative, got {motion} and {objects}")
        if not bits or not all(1 <= operator.index(depth) <= _DEEPEST for depth in bits):
            raise ValueError(f"bits must be numbers from 1 to {_DEEPEST}, got {bits}")
        self._views, self._seed = Views.checked(patch, augment, rotate, seed, packed=True), seed
        self._cells = operator.index(frame[0]), operator.index(frame[1])
        try:
            self._views.check_fits(*self._cells)
        except InputError as error:
            raise ValueError(f"patch {patch} must fit into the frame {tuple(frame)} in every attitude") from error
        self._motion, self._objects, self._noise, self._bits = motion, objects, noise, list(bits)
        height, width = 2 * self._cells[0], 2 * self._cells[1]
        # Each exposure moves by half of the way; bilinear look-ups take one pixel more.
        self._margin = math.ceil(motion / 4 + math.hypot(height, width) / 2 * math.sin(math.radians(_TURN / 2))) + 1
        self._size = height + 2 * self._margin, width + 2 * self._margin
        self._lights = LinearScenes(images, panorama, fov, self._size, cache_bytes)
        self.scenes = self._lights.names
        self._length = _check_length(samples_per_epoch, 1)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = _key(item, self._length)
        with _one_thread():
            generator = _generator(self._seed, epoch, index)
            balance = _draw_balance(generator)
            moments = [_sensor(radiance, balance) for radiance in self._moments(index, generator)]
            time = metered_time(moments[1], 1 - 10 ** generator.uniform(*_SATURATED))
            ratio = draw_log_uniform(generator, self._ratio)
            noise, bits = self._noise(generator), int(generator.choice(self._bits))
            short, long = self._views.draw(moments, generator)
            return raw_pair(short, long, ratio, time=time / ratio, noise=noise, bits=bits, generator=generator)

    def _moments(self, number: int, generator: np.random.Generator) -> list[Tensor]:
        """Radiance (3, 2 H, 2 W) at the moments of both exposures."""
        height, width = self._size[0] - 2 * self._margin, self._size[1] - 2 * self._margin
        view = self._lights.draw(number, generator, *self._size)
        motion = 0.0 if generator.random() < _STILL else self._motion
        turn = math.radians(generator.uniform(-_TURN, _TURN)) if motion else 0.0
        shift = _draw_vector(generator, motion / 2)
        moments = [
            _resampled(view, height, width, sign * turn / 2, (sign * shift[0] / 2, sign * shift[1] / 2))
            for sign in (-1, 1)
        ]
        for _ in range(int(generator.integers(self._objects + 1))):
            radius = generator.uniform(*_RADIUS) * min(height, width)
            side = math.ceil(2 * radius * (1 + HARMONICS * _WAVINESS)) + 2
            texture = self._lights.draw(number, generator, min(side, self._size[0]), min(side, self._size[1]))
            level = float(view.median() / texture.median().clamp(min=1e-30)) * 2 ** generator.normal(0.0, 1.0)
            outline = torch.tensor(generator.uniform(-_WAVINESS, _WAVINESS, (2, HARMONICS)), dtype=torch.float32)
            centre = generator.uniform(0, height), generator.uniform(0, width)
            thing = MovingObject(texture * level, centre, _draw_vector(generator, motion), radius, outline)
            moments = [thing.over(seen, moment) for seen, moment in zip(moments, (-0.5, 0.5), strict=True)]
        return moments


def _draw_vector(generator: np.random.Generator, longest: float) -> tuple[float, float]:
    """Of uniform direction and length."""
    angle, length = generator.uniform(0, 2 * math.pi), generator.uniform(0, 1) * longest
    return length * math.sin(angle), length * math.cos(angle)


def _draw_balance(generator: np.random.Generator) -> tuple[float, float]:
    """The factors by which red and blue are less sensitive than green."""
    cold = generator.uniform(0, 1)
    red, blue = (warm ** (1 - cold) * shade**cold * 2 ** generator.normal(0.0, _TINT) for warm, shade in (_RED, _BLUE))
    return max(red, 1.0), max(blue, 1.0)


def _sensor(radiance: Tensor, balance: tuple[float, float]) -> Tensor:
    """What an RGGB sensor sees of (3, 2 H, 2 W): (4, H, W)."""
    red, green, blue = radiance
    cells = red[0::2, 0::2] / balance[0], green[0::2, 1::2], green[1::2, 0::2], blue[1::2, 1::2] / balance[1]
    return torch.stack(cells)


def _look_up(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Values at places in pixels, by bilinear interpolation; beyond the border those of the border."""
    height, width = image.shape[-2:]
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)[0]


def _resampled(view: Tensor, height: int, width: int, turn: float, shift: tuple[float, float]) -> Tensor:
    """The middle of a view, turned and shifted."""
    rows = (torch.arange(height) - (height - 1) / 2)[:, None]
    columns = (torch.arange(width) - (width - 1) / 2)[None, :]
    cosine, sine = math.cos(turn), math.sin(turn)
    middle = (view.shape[-2] - 1) / 2 + shift[0], (view.shape[-1] - 1) / 2 + shift[1]
    return _look_up(view, middle[0] + cosine * rows - sine * columns, middle[1] + sine * rows + cosine * columns)
