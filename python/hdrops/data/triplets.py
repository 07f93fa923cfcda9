"""Training data of exposure interpolation: a dark and a bright exposure, and the one between them.

Both datasets give samples of the same kind::

    dark, bright, target     (3, H, W) float32 in [0, 1]
    imf_dark, imf_bright     (3, 256) float32: intermediate IMFs of the whole frames towards the target
    fraction                 () float32: place of the target in log exposure, 0 = dark, 1 = bright

An item is asked for by ``index`` or ``(epoch, index)``. It depends on the seed, the epoch and the index alone: not on
the order of access, the number of worker processes or of threads, nor on any global state of randomness.

**Where patches are taken.** A place is drawn uniformly, up to eight times; the first is taken in which at least half of
the target's pixels are exposed, that is, have a channel above 5 and below 250. Where there is none, the one with the
largest share.
"""

from __future__ import annotations

import contextlib
import math
import operator
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hdrops.data.camera import Camera, LinearPhotograph, Panorama, draw_camera, metered_time
from hdrops.data.scenes import LINEAR_ENDINGS, Paths, find_scenes, images_below, images_in, scene_names
from hdrops.io import InputError, read_bracket, read_image
from hdrops.ops._response import Maps, check_maps, pair_imfs

Sample = dict[str, Tensor]

_BLACK, _WHITE = 5, 250  # codes between which a pixel is exposed
_EXPOSED, _TRIES = 0.5, 8
_CODES_PER_BYTE = 257  # 16-bit codes per 8-bit code
_MOST_NAMED = 8
FRACTIONS: Mapping[float, float] = {1 / 2: 0.6, 1 / 3: 0.1, 2 / 3: 0.1, 1 / 4: 0.1, 3 / 4: 0.1}


# ---- what both have in common ------------------------------------------------------------------------------------


class UnreadableImage(InputError):
    """A file that could be read when the dataset was made, but not when a sample was asked for.

    A loader hands on the error of a worker process as a text that ends with the traceback there, whose last line is the
    message: the rest is cut off.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{UnreadableImage.__name__}: ")[2])


def _pixels_again(path: pathlib.Path) -> Tensor:
    try:
        return read_image(path).pixels
    except InputError as error:
        raise UnreadableImage(str(error)) from error


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Where a tensor is cut among threads decides which elements take the vector path: the last bits depend on it."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _key(item: int | tuple[int, int], length: int) -> tuple[int, int]:
    """(epoch, index) of an item."""
    epoch, index = map(operator.index, item) if isinstance(item, tuple) else (0, operator.index(item))
    if epoch < 0:
        raise IndexError(f"an epoch must not be negative, got {epoch}")
    if not 0 <= index < length:
        raise IndexError(f"index {index} is not within an epoch of {length} samples")
    return epoch, index


def _generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """A stream of its own for every key: Philox with (seed, epoch) as its key and the index high in its counter."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, index]))


def _tables(dark: Tensor, bright: Tensor, fraction: float, maps: Maps) -> tuple[Tensor, Tensor]:
    """Intermediate IMFs of uint8 frames, (3, 256) each."""
    return pair_imfs(dark, bright, 256, maps)(fraction)


def _exposed(target: Tensor) -> float:
    """The share of the pixels of a (3, H, W) uint8 image that have a channel neither black nor white."""
    exposed = ((target > _BLACK) & (target < _WHITE)).any(0)
    return int(exposed.sum()) / exposed.numel()


@dataclass(frozen=True)
class _Cut:
    """How samples are taken from frames."""

    patch: tuple[int, int] | None
    mirror: bool
    rotate: bool

    def fits(self, height: int, width: int) -> bool:
        if self.patch is None:
            return True
        # Where patches are turned, the frame must hold one lying and standing.
        rows, columns = (max(self.patch),) * 2 if self.rotate else self.patch
        return rows <= height and columns <= width

    def __call__(self, frames: Sequence[Tensor], generator: np.random.Generator) -> list[Tensor]:
        """Parts of (3, H, W) uint8 frames dark, target and bright, as float32 in [0, 1]."""
        turns = int(generator.integers(4)) if self.rotate else 0
        mirrored = self.mirror and bool(generator.random() < 0.5)
        parts = list(frames)
        if self.patch is not None:
            rows, columns = self.patch if turns % 2 == 0 else self.patch[::-1]
            top, left = self._place(frames[1], rows, columns, generator)
            parts = [frame[:, top : top + rows, left : left + columns] for frame in parts]
        if mirrored:
            parts = [part.flip(-1) for part in parts]
        if turns:
            parts = [part.rot90(turns, (-2, -1)) for part in parts]
        return [part.to(torch.float32, memory_format=torch.contiguous_format).div_(255) for part in parts]

    @staticmethod
    def _place(target: Tensor, rows: int, columns: int, generator: np.random.Generator) -> tuple[int, int]:
        height, width = target.shape[-2:]
        best, place = -1.0, (0, 0)
        for _ in range(_TRIES):
            top, left = int(generator.integers(height - rows + 1)), int(generator.integers(width - columns + 1))
            share = _exposed(target[:, top : top + rows, left : left + columns])
            if share > best:
                best, place = share, (top, left)
            if share >= _EXPOSED:
                break
        return place


def _cut(patch: Sequence[int] | None, augment: bool, rotate: bool, seed: int) -> _Cut:
    if patch is not None and (len(patch) != 2 or min(patch) < 1):
        raise ValueError(f"patch must be (height, width), both at least 1, or None for whole frames, got {patch}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be at least 0 and below 2^64, got {seed}")
    size = None if patch is None else (operator.index(patch[0]), operator.index(patch[1]))
    return _Cut(patch=size, mirror=augment, rotate=rotate)


def _sample(parts: Sequence[Tensor], tables: tuple[Tensor, Tensor] | None, fraction: float) -> Sample:
    dark, target, bright = parts
    sample = {
        "dark": dark,
        "bright": bright,
        "target": target,
        "fraction": torch.tensor(fraction, dtype=torch.float32),
    }
    if tables is not None:
        sample["imf_dark"], sample["imf_bright"] = tables
    return sample


def _report(skipped: Mapping[str, str], usable: int, what: str, depth: int = 3) -> None:
    """Warn of what was left out, in the name of the caller at this depth; raise if nothing remains."""
    named = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:_MOST_NAMED])
    if len(skipped) > _MOST_NAMED:
        named += f"; and {len(skipped) - _MOST_NAMED} more"
    if not usable:
        raise InputError(f"no {what} can be used: {named or 'none was found'}")
    if skipped:
        warnings.warn(f"left out {len(skipped)} of {len(skipped) + usable}: {named}", stacklevel=depth)


def _check_length(samples_per_epoch: int | None, default: int) -> int:
    length = default if samples_per_epoch is None else operator.index(samples_per_epoch)
    if length < 1:
        raise ValueError(f"samples_per_epoch must be at least 1, got {length}")
    return length


# ---- brackets on disk --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Triplet:
    """Three frames of a scene.

    Attributes:
        scene: its name.
        dark: the file of the darkest.
        target: the file of the one between.
        bright: the file of the brightest.
        distance: from dark to bright, in stops.
        fraction: place of the target between them, 0 = dark, 1 = bright.
    """

    scene: str
    dark: pathlib.Path
    target: pathlib.Path
    bright: pathlib.Path
    distance: float
    fraction: float


class BracketTriplets(Dataset[Sample]):
    """Triplets from photographed brackets. Every folder with images is a scene (:func:`find_scenes`).

    A triplet is any three frames of a scene of which the outer two are ``distance`` stops apart and the third lies
    halfway, both within the tolerance. Item i shows triplet i modulo their number. Frames of 16 bits are reduced to 8;
    grey ones have three equal channels. With ``patch=None, augment=False`` the items are whole frames, for validation.

    All files are read when the dataset is made: scenes that cannot be read, or hold no triplet, are named in a warning
    and left out. Frames are kept in memory, three bytes per pixel, as far as ``cache_bytes`` reaches; those of
    further scenes are read again at every access. Worker processes share this memory.

    Args:
        folders: of one scene or of many.
        distance: stops between the dark and the bright frame, positive.
        tolerance: stops by which the distance, and the target's from the middle, may differ.
        patch: (height, width) of the samples, or None for whole frames.
        seed: of the places and mirrors, at least 0.
        samples_per_epoch: ``len()``; the number of triplets by default.
        augment: mirror half of the samples left to right.
        rotate: also turn the samples by a random multiple of 90°; then frames must hold a square of the longer side of
            the patch.
        ev_step: stops between neighbouring frames, in the order of their brightness, of the scenes whose files state no
            exposure that can be believed; positive.
        cache_bytes: of pixels to keep in memory.
        maps: how the IMFs are estimated, "histogram" or "response": those of the model that is trained
            (:class:`hdrops.models.ExposureInterpolatorConfig`).

    Attributes:
        triplets: in the order of the scenes' folders, and from dark to bright.
        scenes: names of the scenes that give triplets.
        smallest_side: the least pixels a side that a frame of theirs has.

    Raises:
        ValueError: no triplet at all, and why; an argument out of range.
    """

    def __init__(
        self,
        folders: Paths,
        *,
        distance: float = 4.0,
        tolerance: float = 0.25,
        patch: Sequence[int] | None = (60, 90),
        seed: int = 0,
        samples_per_epoch: int | None = None,
        augment: bool = True,
        rotate: bool = False,
        ev_step: float | None = None,
        cache_bytes: int = 4 << 30,
        maps: Maps = "histogram",
    ) -> None:
        check_maps(maps)
        if not 0 < distance < math.inf:
            raise ValueError(f"distance must be positive stops, got {distance}")
        if not 0 <= tolerance < distance / 2:
            raise ValueError(f"tolerance must be at least 0 and below half the distance, got {tolerance}")
        if ev_step is not None and not 0 < ev_step < math.inf:
            raise ValueError(f"ev_step must be positive stops, got {ev_step}")
        self._cut, self._seed = _cut(patch, augment, rotate, seed), seed
        self._tables: list[tuple[Tensor, Tensor]] = []
        self._frames: dict[pathlib.Path, Tensor] = {}
        self.triplets: list[Triplet] = []
        self.smallest_side = sys.maxsize
        skipped: dict[str, str] = {}
        found = find_scenes(folders)
        for name, folder in zip(scene_names(found), found, strict=True):
            try:
                frames, stops = _read_scene(folder, ev_step)
                self._check_fits(next(iter(frames.values())))
                places = _admissible(stops, distance, tolerance)
            except InputError as error:
                skipped[name] = str(error)
                continue
            files = list(frames)
            for d, t, b in places:
                span = stops[b] - stops[d]
                fraction = (stops[t] - stops[d]) / span
                triplet = Triplet(name, files[d], files[t], files[b], span, fraction)
                self.triplets.append(triplet)
                with _one_thread():
                    self._tables.append(_tables(frames[triplet.dark], frames[triplet.bright], fraction, maps))
            first = next(iter(frames.values()))
            if places:
                self.smallest_side = min(self.smallest_side, *first.shape[-2:])
            size = first.untyped_storage().nbytes()  # which all frames share
            if size <= cache_bytes:
                cache_bytes -= size
                self._frames |= frames
        _report(skipped, len(found) - len(skipped), "scene")
        self.scenes = list(dict.fromkeys(triplet.scene for triplet in self.triplets))
        self._length = _check_length(samples_per_epoch, len(self.triplets))

    def _check_fits(self, frame: Tensor) -> None:
        height, width = frame.shape[-2:]
        if not self._cut.fits(height, width):
            patch = " x ".join(map(str, self._cut.patch or ()))
            raise InputError(f"its frames of {height} x {width} pixels are smaller than the patches of {patch}")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = _key(item, self._length)
        number = index % len(self.triplets)
        triplet = self.triplets[number]
        frames = [self._frame(path) for path in (triplet.dark, triplet.target, triplet.bright)]
        with _one_thread():
            parts = self._cut(frames, _generator(self._seed, epoch, index))
        return _sample(parts, self._tables[number], triplet.fraction)

    def _frame(self, path: pathlib.Path) -> Tensor:
        kept = self._frames.get(path)
        return kept if kept is not None else _eight_bits(_pixels_again(path), path.name)


def _eight_bits(pixels: Tensor, name: str) -> Tensor:
    """Codes (..., C, H, W) as (..., 3, H, W) uint8; grey has three equal channels."""
    if pixels.is_floating_point():
        raise InputError(f"{name} holds linear light, not the codes of a camera; take it as a source of synthesis")
    if pixels.dtype == torch.uint16:
        pixels = (pixels.to(torch.int32) + _CODES_PER_BYTE // 2).div(_CODES_PER_BYTE, rounding_mode="floor")
    return pixels.to(torch.uint8).expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])


def _read_scene(folder: pathlib.Path, ev_step: float | None) -> tuple[dict[pathlib.Path, Tensor], list[float]]:
    """The frames of a scene from dark to bright, and their exposures in stops."""
    bracket = read_bracket(images_in(folder))
    images = _eight_bits(bracket.images, bracket.paths[0].name)
    if bracket.exposure_times is not None:
        stops = bracket.exposure_times.log2().tolist()
    elif ev_step is not None:
        stops = [k * ev_step for k in range(len(images))]
    else:
        doubt = f" ({bracket.warnings[0]})" if bracket.warnings else ""
        raise InputError(
            f"its files state no exposures that can be believed{doubt}; give ev_step, "
            "the stops between them (data.brackets.ev_step of a training)"
        )
    return dict(zip(bracket.paths, images, strict=True)), stops


def _admissible(stops: Sequence[float], distance: float, tolerance: float) -> list[tuple[int, int, int]]:
    """Frames (dark, target, bright) with the wanted distance and the target halfway, and between the others at all."""
    rounding = 1e-6
    slack = tolerance + rounding
    count = range(len(stops))
    places = [
        (dark, target, bright)
        for dark in count
        for target in count
        for bright in count
        if abs(stops[bright] - stops[dark] - distance) <= slack
        and abs(stops[target] - (stops[dark] + stops[bright]) / 2) <= slack
        and stops[dark] + rounding < stops[target] < stops[bright] - rounding
    ]
    if not places:
        known = ", ".join(f"{value - stops[0]:.3g}" for value in stops)
        raise InputError(f"no two frames are {distance:g} stops apart with one halfway (exposures in stops: {known})")
    return places


# ---- synthesis ---------------------------------------------------------------------------------------------------


class SyntheticTriplets(Dataset[Sample]):
    """Triplets photographed by virtual cameras in HDR images: every sample has a view and a camera of its own.

    Item i shows image i modulo their number. A view of it is drawn (:meth:`Panorama.draw` or
    :meth:`LinearPhotograph.draw`), a camera (:func:`draw_camera`), the distance from dark to bright uniformly in stops,
    and the place of the target. The target is exposed so that a share of its values saturates that is log-uniform
    from 0.03 % to 40 % (:func:`metered_time`), times 2^N(0, 0.5). The IMFs are those of the whole uint8 frames; a
    patch is cut from these. With ``patch=None, augment=False`` the items are whole frames, for validation.

    Files are read when the dataset is made; those that cannot be used are named in a warning and left out. They are
    kept in memory as far as ``cache_bytes`` reaches, others are read again at every access. Worker processes share
    this memory.

    Args:
        images: HDR files, folders of .hdr and .exr files at any depth, or linear tensors (3, H, W); one or several.
        panorama: whether the images are equirectangular panoramas; by default those twice as wide as high.
        distance: stops between dark and bright: one number, or the two ends of a range.
        fraction: place of the target between them, or weights of several places.
        frame: (height, width) of the virtual camera's pictures.
        patch: (height, width) of the samples, or None for whole frames.
        fov: range of the field of view in panoramas, in degrees.
        camera: draws a camera: :func:`draw_camera`, or with other arguments by ``functools.partial``.
        seed: of everything, at least 0.
        samples_per_epoch: ``len()``.
        augment: mirror half of the samples left to right.
        rotate: also turn the samples by a random multiple of 90°.
        cache_bytes: of radiance to keep in memory.
        maps: how the IMFs are estimated, "histogram" or "response": those of the model that is trained
            (:class:`hdrops.models.ExposureInterpolatorConfig`). None leaves them out of the samples.

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
        distance: float | Sequence[float] = (2.0, 6.0),
        fraction: float | Mapping[float, float] = FRACTIONS,
        frame: Sequence[int] = (120, 180),
        patch: Sequence[int] | None = (60, 90),
        fov: tuple[float, float] = (50.0, 95.0),
        camera: Callable[[np.random.Generator], Camera] = draw_camera,
        seed: int = 0,
        samples_per_epoch: int = 1024,
        augment: bool = True,
        rotate: bool = False,
        cache_bytes: int = 4 << 30,
        maps: Maps | None = "histogram",
    ) -> None:
        if maps is not None:
            check_maps(maps)
        ends = tuple(distance) if isinstance(distance, Sequence) else (distance, distance)
        if len(ends) != 2 or not 0 < ends[0] <= ends[1] < math.inf:
            raise ValueError(f"distance must be positive stops or a range of them, got {distance}")
        self._distance = ends[0], ends[1]
        weights = fraction if isinstance(fraction, Mapping) else {fraction: 1.0}
        if not weights or not all(0 < place < 1 and 0 < weight < math.inf for place, weight in weights.items()):
            raise ValueError(f"fraction must be above 0 and below 1, with positive weights, got {fraction}")
        self._places = list(weights)
        self._weights = np.cumsum(list(weights.values())) / sum(weights.values())
        if len(frame) != 2 or min(frame) < 1:
            raise ValueError(f"frame must be (height, width), both at least 1, got {frame}")
        self._frame = operator.index(frame[0]), operator.index(frame[1])
        self._cut, self._seed = _cut(patch, augment, rotate, seed), seed
        if not self._cut.fits(*self._frame):
            raise ValueError(f"patch {patch} must fit into the frame {tuple(frame)}")
        self._length, self._maps = _check_length(samples_per_epoch, 1), maps
        self._camera = camera
        self._lights = LinearScenes(images, panorama, fov, self._frame, cache_bytes)
        self.scenes = self._lights.names

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = _key(item, self._length)
        with _one_thread():
            generator = _generator(self._seed, epoch, index)
            radiance = self._lights.draw(index, generator, *self._frame)
            camera = self._camera(generator)
            distance = generator.uniform(*self._distance)
            fraction = self._places[int(np.searchsorted(self._weights, generator.random(), "right"))]
            time = metered_time(radiance, 1 - 10 ** generator.uniform(-3.5, -0.4)) * 2 ** generator.normal(0.0, 0.5)
            noise = torch.Generator().manual_seed(int(generator.integers(2**63)))
            stops = -fraction * distance, 0.0, (1 - fraction) * distance
            dark, target, bright = camera.expose(radiance, [time * 2**ev for ev in stops], noise)
            tables = None if self._maps is None else _tables(dark, bright, fraction, self._maps)
            return _sample(self._cut((dark, target, bright), generator), tables, fraction)


class LinearScenes:
    """HDR images of which views are drawn: what datasets of synthesis have in common.

    Args:
        images: HDR files, folders of .hdr and .exr files at any depth, or linear tensors (3, H, W); one or several.
        panorama: whether the images are equirectangular panoramas; by default those twice as wide as high.
        fov: range of the field of view in panoramas, in degrees.
        size: (height, width) of the finest views.
        cache_bytes: of radiance to keep in memory; other files are read again at every access.

    Attributes:
        names: of the images that are used; those that cannot be are named in a warning.

    Raises:
        ValueError: no usable image, and why; a field of view out of range.
    """

    def __init__(
        self,
        images: str | os.PathLike[str] | Tensor | Iterable[str | os.PathLike[str] | Tensor],
        panorama: bool | None,
        fov: tuple[float, float],
        size: tuple[int, int],
        cache_bytes: int,
    ) -> None:
        if not 1 <= fov[0] <= fov[1] <= 170:
            raise ValueError(f"fov must be a range within 1 to 170 degrees, got {fov}")
        self._panorama, self._fov, self._size = panorama, fov, size
        self._sources: list[pathlib.Path | Panorama | LinearPhotograph] = []
        self.names: list[str] = []
        skipped: dict[str, str] = {}
        for name, source in _linear_sources(images):
            try:
                scene = self._open(source if isinstance(source, Tensor) else read_image(source).pixels)
            except (InputError, ValueError, TypeError) as error:
                skipped[name] = str(error)
                continue
            self.names.append(name)
            if isinstance(source, pathlib.Path) and scene.nbytes > cache_bytes:
                self._sources.append(source)
            else:
                cache_bytes -= scene.nbytes
                self._sources.append(scene)
        _report(skipped, len(self.names), "HDR image", depth=4)

    def _open(self, image: Tensor) -> Panorama | LinearPhotograph:
        height, width = image.shape[-2:]
        if self._panorama if self._panorama is not None else width == 2 * height:
            return Panorama(image, narrowest=(self._fov[0], self._size[1]))
        photograph = LinearPhotograph(image)
        photograph.largest_scale(*self._size)  # raises where it is too small
        return photograph

    def scene(self, number: int) -> Panorama | LinearPhotograph:
        """Image ``number`` modulo their number."""
        source = self._sources[number % len(self._sources)]
        return self._open(_pixels_again(source)) if isinstance(source, pathlib.Path) else source

    def draw(self, number: int, generator: np.random.Generator, height: int, width: int) -> Tensor:
        """A view of it, radiance (3, height, width)."""
        scene = self.scene(number)
        if isinstance(scene, Panorama):
            return scene.draw(generator, height, width, fov=self._fov)
        return scene.draw(generator, height, width)


def _linear_sources(
    images: str | os.PathLike[str] | Tensor | Iterable[str | os.PathLike[str] | Tensor],
) -> list[tuple[str, pathlib.Path | Tensor]]:
    """Names and sources, folders replaced by the HDR files below them."""
    given = [images] if isinstance(images, str | os.PathLike | Tensor) else list(images)
    sources: list[pathlib.Path | Tensor] = []
    for entry in given:
        if isinstance(entry, Tensor):
            sources.append(entry)
            continue
        path = pathlib.Path(entry)
        if not path.is_dir():
            sources.append(path)
            continue
        sources += sorted(image for image in images_below(path) if image.suffix.lower() in LINEAR_ENDINGS)
    paths = [source for source in sources if isinstance(source, pathlib.Path)]
    names = iter(scene_names(paths))
    return [
        (next(names) if isinstance(source, pathlib.Path) else f"tensor {k}", source) for k, source in enumerate(sources)
    ]
