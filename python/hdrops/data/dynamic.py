"""Moving scenes, photographed by virtual cameras in HDR images; samples are those of :mod:`hdrops.data.moving`."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hdrops.data.camera import LinearPhotograph, Panorama, draw_camera, metered_time
from hdrops.data.objects import HARMONICS, MovingObject
from hdrops.data.responses import Response, gamma_response
from hdrops.data.triplets import LinearScenes, Sample, _check_length, _generator, _key, _one_thread

_STILL = 0.1  # share of the scenes in which nothing moves
_CLEAR = 0.5  # least share of the values of the reference that do not saturate
_LEAST_LIGHT = 1e-8


class DynamicScenes(Dataset[Sample]):
    """Brackets of moving scenes, photographed by virtual cameras in HDR images, with ground truth.

    Item i shows image i modulo their number. A view of it is drawn, and from one exposure to the next the camera moves:
    it turns (a view of a photograph moves) by a normal distribution. Objects move in front of it: parts of views of all
    images within random outlines, as bright as what is behind them times 2^N(0, 1.5), in a line and turning. In a tenth
    of the samples nothing moves. The middle exposure is the reference (of an even number the darker one of the two).
    The darkest one is metered for the highlights: a share of the middle one's values, log-uniform from 0.1 to 5 %,
    saturates in its exposure, and less where half of the values would saturate in the middle one. The others are
    brighter by stops that are drawn for each bracket. The response is a power of 1 / ``gamma``, 8 bits; noise as by
    :func:`draw_camera`. The target is cut off where the darkest image saturates.

    Files are read when the dataset is made; those that cannot be used are named in a warning and left out. They are
    kept in memory as far as ``cache_bytes`` reaches, others are read again at every access.

    Args:
        images: HDR files, folders of .hdr and .exr files at any depth, or linear tensors (3, H, W); one or several.
        panorama: whether the images are equirectangular panoramas; by default those twice as wide as high.
        count: images of a bracket, at least 2.
        stops: range of those between one exposure and the next.
        frame: (height, width) of the images.
        motion: largest motion of an object between two exposures, in pixels.
        shake: standard deviation of the camera's motion between two exposures, in pixels.
        objects: most objects in a scene.
        fov: range of the field of view in panoramas, in degrees.
        gamma: of the images: a value is exposure^(1 / gamma).
        seed: of everything, at least 0.
        samples_per_epoch: ``len()``.
        augment: mirror half of the samples left to right.
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
        count: int = 3,
        stops: tuple[float, float] = (1.5, 3.0),
        frame: Sequence[int] = (128, 128),
        motion: float = 16.0,
        shake: float = 2.0,
        objects: int = 4,
        fov: tuple[float, float] = (50.0, 95.0),
        gamma: float = 2.2,
        seed: int = 0,
        samples_per_epoch: int = 1024,
        augment: bool = True,
        cache_bytes: int = 4 << 30,
    ) -> None:
        if operator.index(count) < 2:
            raise ValueError(f"count must be at least 2 images, got {count}")
        if not 0 < stops[0] <= stops[1] < math.inf:
            raise ValueError(f"stops must be a range of positive stops, got {stops}")
        if len(frame) != 2 or min(frame) < 8:
            raise ValueError(f"frame must be (height, width), both at least 8, got {frame}")
        if not (0 <= motion < math.inf and 0 <= shake < math.inf):
            raise ValueError(f"motion and shake must be pixels, 0 or more, got {motion} and {shake}")
        if operator.index(objects) < 0:
            raise ValueError(f"objects must be 0 or more, got {objects}")
        if not 0 < gamma < math.inf:
            raise ValueError(f"gamma must be positive, got {gamma}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be at least 0 and below 2^64, got {seed}")
        self._frame = operator.index(frame[0]), operator.index(frame[1])
        self._fov, self._count, self._stops = fov, count, stops
        self._motion, self._shake, self._objects, self._gamma = motion, shake, objects, gamma
        self._seed, self._augment = seed, augment
        self._length = _check_length(samples_per_epoch, 1)
        self._images = LinearScenes(images, panorama, fov, self._frame, cache_bytes)
        self.scenes = self._images.names

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = _key(item, self._length)
        with _one_thread():
            return self._drawn(_generator(self._seed, epoch, index), index)

    def _drawn(self, generator: np.random.Generator, index: int) -> Sample:
        still = bool(generator.random() < _STILL)
        middle = (self._count - 1) // 2
        moments = [k - middle for k in range(self._count)]
        shake = 0.0 if still else self._shake
        paths = generator.normal(0.0, shake, (2, self._count)).cumsum(1)
        places = (paths - paths[:, middle : middle + 1]).T.tolist()  # of the camera, in pixels
        views = self._views(self._images.scene(index), generator, places)
        for thing in self._things(generator, views[middle], still):
            views = [thing.over(view, moment) for view, moment in zip(views, moments, strict=True)]

        response: Response = functools.partial(gamma_response, gamma=1 / self._gamma)
        camera = draw_camera(generator, draw_response=lambda _: response, jpeg=0)
        camera = dataclasses.replace(camera, curvature=(1.0, 1.0, 1.0))
        gains = torch.tensor(camera.sensitivity)[:, None, None]
        share = 10 ** generator.uniform(math.log10(0.001), math.log10(0.05))
        steps = generator.uniform(*self._stops, self._count - 1)
        stops = np.concatenate([[0.0], steps.cumsum()])
        times = 2.0 ** (stops - stops[middle])
        light = views[middle] * gains
        time = min(metered_time(light, 1 - share) / float(times[0]), metered_time(light, _CLEAR))
        noise = torch.Generator().manual_seed(int(generator.integers(2**63)))
        codes = [
            camera.expose(view, [time * float(relative)], noise)[0] for view, relative in zip(views, times, strict=True)
        ]
        images = torch.stack(codes).float().div_(255)
        target = (light * time).clamp_(max=float(1 / times[0]))
        if self._augment and generator.random() < 0.5:
            images, target = images.flip(-1), target.flip(-1)
        return {
            "images": images.contiguous(),
            "target": target.contiguous(),
            "reference": torch.tensor(middle),
            "times": torch.tensor(times, dtype=torch.float32),
        }

    def _views(
        self, scene: Panorama | LinearPhotograph, generator: np.random.Generator, places: Sequence[Sequence[float]]
    ) -> list[Tensor]:
        """What the camera sees at its places, (rows, columns) in pixels of the views."""
        height, width = self._frame
        if isinstance(scene, Panorama):
            yaw, pitch = generator.uniform(-180.0, 180.0), float(np.clip(generator.normal(0.0, 15.0), -75, 75))
            roll, fov = generator.normal(0.0, 2.0), generator.uniform(*self._fov)
            degrees = math.degrees(2 * math.tan(math.radians(fov) / 2) / width)  # of a pixel in the middle
            return [
                scene.view(height, width, yaw=yaw + degrees * x, pitch=pitch - degrees * y, roll=roll, fov=fov)
                for y, x in places
            ]
        most = scene.largest_scale(height, width)
        scale = math.exp(generator.uniform(math.log(min(1.0, most)), math.log(min(4.0, most))))
        room = scene.height - scale * height, scene.width - scale * width
        start = [generator.uniform(0.0, side) for side in room]
        corners = [
            [min(max(s + scale * step, 0.0), side) for s, step, side in zip(start, place, room, strict=True)]
            for place in places
        ]
        return [scene.crop(height, width, top=top, left=left, scale=scale) for top, left in corners]

    def _things(self, generator: np.random.Generator, view: Tensor, still: bool) -> list[MovingObject]:
        """What moves in front of a view."""
        height, width = self._frame
        things = []
        for _ in range(int(generator.integers(self._objects + 1))):
            texture = self._images.draw(int(generator.integers(len(self.scenes))), generator, height, width)
            centre = generator.uniform(0.0, height), generator.uniform(0.0, width)
            radius = min(height, width) * generator.uniform(0.08, 0.3)
            behind = view[:, max(0, int(centre[0]) - 8) : int(centre[0]) + 8, max(0, int(centre[1]) - 8) :][..., :16]
            brightness = float(behind.mean()) / max(float(texture.mean()), _LEAST_LIGHT) * 2 ** generator.normal(0, 1.5)
            direction, speed = generator.uniform(0, 2 * math.pi), generator.uniform(0.0, self._motion)
            spin = generator.normal(0.0, 0.1)
            if still:
                speed = spin = 0.0
            decay = 0.25 / np.arange(1, HARMONICS + 1)
            harmonics = torch.tensor(generator.normal(0.0, decay, (2, HARMONICS)), dtype=torch.float32)
            velocity = speed * math.sin(direction), speed * math.cos(direction)
            things.append(MovingObject(texture * brightness, centre, velocity, radius, harmonics, spin))
        return things
