"""Moving scenes with a picture of high dynamic range in the view of one of the images: data of HDR reconstruction.

All datasets of this kind give samples::

    images       (n, C, H, W) float32 in [0, 1], from the shortest to the longest exposure, as the camera codes them
    target       (T, H', W') float32 >= 0: light in the exposure of the reference, which saturates at 1; not clipped
    reference    () int64: the number of the reference image, whose view the target has
    times        (n,) float32: exposure times relative to that of the reference

Images are RGB codes, C = 3, or raw: C = 4, linear, packed R, Gr, Gb, B, where black is 0 and the white level 1. Targets
are of the images' size and channels, but for the finished pictures of :class:`hdrops.data.HDRPlusBursts`: three
channels in [0, 1], coded, twice as high and wide as packed images.

An item is asked for by ``index`` or ``(epoch, index)``. It depends on the seed, the epoch and the index alone: not on
the order of access, the number of worker processes or of threads, nor on any global state of randomness.
"""

from __future__ import annotations

import math
import pathlib
import sys
import tokenize
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hdrops.data.scenes import LINEAR_ENDINGS, Paths, find_scenes, images_below, images_in, listed, scene_names
from hdrops.data.triplets import (
    Sample,
    UnreadableImage,
    _check_length,
    _cut,
    _generator,
    _key,
    _one_thread,
    _report,
)
from hdrops.io import InputError, read_image

_KALANTARI_GAMMA, _NTIRE_GAMMA = 2.2, 2.24
_BLOCK = 8  # pixels a side, over which noise averages out
_DIM, _BRIGHT, _SATURATED = 0.03, 0.6, 0.95  # light of blocks that are well exposed; code that none of them reaches
_FEWEST_BLOCKS = 20
_MOST_APART = 2.0  # target and reference: half a stop more than the measured ones, and half of what a wrong unit makes
_EXPOSURES = 3


# ---- parts of samples --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """Which parts of frames the samples show, and in which attitude.

    Attributes:
        patch: (height, width), or None for whole frames.
        mirror: left to right, half of the samples.
        rotate: by a random multiple of 90°.
        packed: frames are packed R, Gr, Gb, B, whose cells are mirrored as sensors: what was a cell's left column
            becomes its right one. The cells are then cut one column further, so that red is at their upper left again.
    """

    patch: tuple[int, int] | None
    mirror: bool
    rotate: bool
    packed: bool = False

    @classmethod
    def checked(cls, patch: Sequence[int] | None, augment: bool, rotate: bool, seed: int, packed: bool) -> Views:
        """From the arguments of a dataset.

        Raises:
            ValueError: one of them is out of range.
        """
        cut = _cut(patch, augment, rotate, seed)
        return cls(cut.patch, cut.mirror, cut.rotate, packed)

    def check_fits(self, height: int, width: int) -> None:
        """Refuse frames that do not hold a part in every attitude.

        Raises:
            InputError: a frame too small.
        """
        spare = int(self.packed)
        rows, columns = self.patch or (1, 1)
        if self.rotate:
            rows, columns = (max(rows, columns) + spare,) * 2
        elif self.mirror:
            columns += spare
        if height < rows or width < columns:
            wanted = "x".join(map(str, self.patch or (1, 1)))
            raise InputError(f"its frames of {height} x {width} are too small for parts of {wanted}")

    def draw(self, frames: Sequence[Tensor], generator: np.random.Generator) -> list[Tensor]:
        """The same part of every frame (C, H, W); a frame of twice the size gives a part of twice the size.

        Args:
            frames: the first decides the size; with ``packed`` four planes are a sensor, three a picture of its pixels.
            generator: the source of randomness.

        Returns:
            (C, h, w) each, of the frames' dtypes.
        """
        turns = int(generator.integers(4)) if self.rotate else 0
        mirrored = self.mirror and bool(generator.random() < 0.5)
        cell = 2 if self.packed else 1
        down, right = self._red(mirrored, turns) if self.packed else (0, 0)
        height, width = frames[0].shape[-2:]
        if self.patch is None:
            rows, columns = (height, width) if turns % 2 == 0 else (width, height)
            rows, columns = rows - down, columns - right
        else:
            rows, columns = self.patch
        taken = (rows + down, columns + right)
        taken = taken if turns % 2 == 0 else taken[::-1]
        top, left = int(generator.integers(height - taken[0] + 1)), int(generator.integers(width - taken[1] + 1))
        parts = []
        for frame in frames:
            sensor = self.packed and frame.shape[0] == 4
            scale = 1 if sensor else frame.shape[-1] // width
            # torch cannot mirror 16 bits without a sign.
            bits = frame.view(torch.int16) if frame.dtype == torch.uint16 else frame
            part = bits[:, scale * top : scale * (top + taken[0]), scale * left : scale * (left + taken[1])]
            if sensor:
                part = unpack(part)
            part = self._turned(part, mirrored, turns)
            if self.packed:
                part = part[..., down : down + cell * rows, right : right + cell * columns]
            parts.append((pack(part) if sensor else part).view(frame.dtype))
        return parts

    @staticmethod
    def _turned(part: Tensor, mirrored: bool, turns: int) -> Tensor:
        part = part.flip(-1) if mirrored else part
        return part.rot90(turns, (-2, -1)) if turns else part

    def _red(self, mirrored: bool, turns: int) -> tuple[int, int]:
        """Where in a turned cell red is."""
        row, column = self._turned(torch.tensor([[1, 0], [0, 0]]), mirrored, turns).nonzero()[0].tolist()
        return row, column


def pack(mosaic: Tensor) -> Tensor:
    """The planes (4, H/2, W/2) of a mosaic (1, H, W) of even sides, by their place in a cell of 2 x 2: upper left,
    upper right, lower left, lower right."""
    return torch.stack([mosaic[0, row::2, column::2] for row in (0, 1) for column in (0, 1)])


def unpack(planes: Tensor) -> Tensor:
    """The mosaic (1, 2 H, 2 W) of planes (4, H, W), see :func:`pack`."""
    mosaic = planes.new_empty(1, 2 * planes.shape[1], 2 * planes.shape[2])
    for plane, (row, column) in zip(planes, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        mosaic[0, row::2, column::2] = plane
    return mosaic


# ---- scenes on disk ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scene:
    """Three frames (3, H, W) of codes in order of their exposures, and the light: (gain * linear) ** power."""

    frames: list[Tensor]
    linear: Tensor
    gain: float
    power: float
    times: tuple[float, ...]

    @property
    def nbytes(self) -> int:
        return sum(frame.nbytes for frame in (*self.frames, self.linear))

    def light(self, part: Tensor) -> Tensor:
        return (part.float() * self.gain).clamp_(min=0).pow_(self.power)


_REFERENCE = 1


def _unit(codes: Tensor) -> Tensor:
    """Codes as float32 in [0, 1]."""
    return codes.float().div_(255 if codes.dtype == torch.uint8 else 65535)


def exposure_agreement(codes: Tensor, target: Tensor, gamma: float) -> float | None:
    """How many times brighter a target is than its reference image, where that is well exposed.

    Both are averaged over blocks of 8 x 8 pixels, so that noise does not count. Blocks are well exposed if their light
    is 0.03 to 0.6 of saturation and no pixel of theirs reaches a code of 0.95. The median of their quotients stays what
    it is where less than half of them are wrong.

    Args:
        codes: (C, H, W), the reference in [0, 1].
        target: (C, H, W), light in the exposure of the reference.
        gamma: the power that linearises the codes.

    Returns:
        The median quotient, 1 where both agree; None of fewer than twenty well exposed blocks.
    """
    seen, meant = F.avg_pool2d(codes.pow(gamma), _BLOCK), F.avg_pool2d(target, _BLOCK)
    exposed = (seen > _DIM) & (seen < _BRIGHT) & (F.max_pool2d(codes, _BLOCK) < _SATURATED)
    return float((meant / seen)[exposed].median()) if int(exposed.sum()) >= _FEWEST_BLOCKS else None


class _MovingScenes(Dataset[Sample]):
    """Scenes of three exposures with a picture of their light, in files.

    A subclass finds scenes and reads one.
    """

    def __init__(
        self,
        found: Mapping[str, pathlib.Path],
        *,
        patch: Sequence[int] | None,
        seed: int,
        samples_per_epoch: int | None,
        augment: bool,
        rotate: bool,
        cache_bytes: int,
    ) -> None:
        self._views, self._seed = Views.checked(patch, augment, rotate, seed, packed=False), seed
        self._places: list[pathlib.Path] = []
        self._kept: dict[pathlib.Path, _Scene] = {}
        self.scenes: list[str] = []
        self.agreement: dict[str, float | None] = {}
        self.smallest_side = sys.maxsize
        skipped: dict[str, str] = {}
        for name, place in found.items():
            try:
                with _one_thread():
                    scene = self._read(place)
                    agreement = self._check(scene)
            except InputError as error:
                skipped[name] = str(error)
                continue
            self.scenes.append(name)
            self.agreement[name] = agreement
            self._places.append(place)
            self.smallest_side = min(self.smallest_side, *scene.linear.shape[-2:])
            if scene.nbytes <= cache_bytes:
                cache_bytes -= scene.nbytes
                self._kept[place] = scene
        _report(skipped, len(self.scenes), "scene", depth=4)
        self._length = _check_length(samples_per_epoch, len(self.scenes))

    @property
    @abstractmethod
    def gamma(self) -> float:
        """The power that linearises codes."""

    @abstractmethod
    def _read(self, place: pathlib.Path) -> _Scene: ...

    def _check(self, scene: _Scene) -> float | None:
        self._views.check_fits(*scene.linear.shape[-2:])
        agreement = exposure_agreement(_unit(scene.frames[_REFERENCE]), scene.light(scene.linear), self.gamma)
        if agreement is not None and not 1 / _MOST_APART < agreement < _MOST_APART:
            raise InputError(
                f"its light is {agreement:.3g} times that of its reference image, whose exposure it should have; "
                "check the exposures and the unit of the light"
            )
        return agreement

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = _key(item, self._length)
        place = self._places[index % len(self._places)]
        with _one_thread():
            scene = self._kept.get(place) or self._again(place)
            *frames, linear = self._views.draw((*scene.frames, scene.linear), _generator(self._seed, epoch, index))
            return {
                "images": torch.stack([_unit(frame) for frame in frames]),
                "target": scene.light(linear).contiguous(),
                "reference": torch.tensor(_REFERENCE),
                "times": torch.tensor(scene.times, dtype=torch.float32),
            }

    def _again(self, place: pathlib.Path) -> _Scene:
        try:
            return self._read(place)
        except InputError as error:
            raise UnreadableImage(str(error)) from error


def _codes(path: pathlib.Path) -> Tensor:
    """(3, H, W) uint8 or uint16; grey has three equal channels."""
    pixels = read_image(path).pixels
    if pixels.is_floating_point():
        raise InputError(f"{path.name} holds linear light; the images of a scene must be codes of 8 or 16 bits")
    return pixels.expand(3, -1, -1)


def _same_size(named: Mapping[str, Tensor]) -> None:
    sizes = {name: tuple(pixels.shape[-2:]) for name, pixels in named.items()}
    if len(set(sizes.values())) > 1:
        listed_sizes = ", ".join(f"{name} {height} x {width}" for name, (height, width) in sizes.items())
        raise InputError(f"its images differ in size: {listed_sizes}")


def _ordered(stops: Sequence[float]) -> list[int]:
    """The order from short to long of three different exposures."""
    if len(stops) != _EXPOSURES or not all(map(math.isfinite, stops)) or len(set(stops)) < _EXPOSURES:
        known = ", ".join(f"{stop:g}" for stop in stops)
        raise InputError(f"it needs {_EXPOSURES} different exposures in stops, got {known}")
    return sorted(range(_EXPOSURES), key=stops.__getitem__)


class KalantariScenes(_MovingScenes):
    """Scenes in the layout of Kalantari and Ramamoorthi, "Deep high dynamic range imaging of dynamic scenes", 2017.

    Every folder, at any depth, that holds image files is a scene::

        *.tif           three images of 8 or 16 bits, coded with gamma 2.2, of any names (.tif or .tiff)
        exposure.txt    their exposures in stops, in the order of the names, divided by white space
        HDRImg.hdr      linear light in the view of the image of the middle exposure; or else the one .hdr or .exr file

    The reference is the image of the middle exposure. The light of an image of codes c and exposure EV is c^2.2 / 2^EV;
    hence the target is the picture times 2^EV of the reference. Readers of this data disagree about EV: some take it as
    written, others less the smallest of the scene, so that the picture ends at 1 where the shortest exposure saturates.
    With ``exposures="measured"`` the scene decides: the one that brings the target nearer to the reference image, where
    that is well exposed (:func:`hdrops.data.moving.exposure_agreement`); as written, where nothing is. In either case
    a scene whose target and reference are more than a factor of two apart is left out.

    Item i shows scene i modulo their number, at a place drawn uniformly. All files are read when the dataset is made:
    scenes that cannot be used are named in a warning and left out. They are kept in memory as far as ``cache_bytes``
    reaches, 20 bytes per pixel of 16-bit images or less; others are read again at every access. Worker processes share
    this memory. With ``patch=None, augment=False`` the items are whole frames, for validation.

    Args:
        folders: of one scene or of many.
        exposures: "measured"; "written": 2^EV; "relative": 2^(EV - min EV).
        patch: (height, width) of the samples, or None for whole frames.
        seed: of the places and attitudes, at least 0.
        samples_per_epoch: ``len()``; the number of scenes by default.
        augment: mirror half of the samples left to right.
        rotate: also turn the samples by a random multiple of 90°; then frames must hold a square of the longer side of
            the patch.
        cache_bytes: of pixels to keep in memory.

    Attributes:
        scenes: names of the scenes that are used.
        agreement: of each scene, how many times brighter the target is than the reference image where that is well
            exposed, or None where nothing is.
        smallest_side: the least pixels a side that a frame of theirs has.

    Raises:
        ValueError: no usable scene, and why; an argument out of range.
    """

    gamma = _KALANTARI_GAMMA

    def __init__(
        self,
        folders: Paths,
        *,
        exposures: str = "measured",
        patch: Sequence[int] | None = (256, 256),
        seed: int = 0,
        samples_per_epoch: int | None = None,
        augment: bool = True,
        rotate: bool = False,
        cache_bytes: int = 4 << 30,
    ) -> None:
        if exposures not in ("measured", "written", "relative"):
            raise ValueError(f'exposures must be "measured", "written" or "relative", got {exposures!r}')
        self._exposures = exposures
        found = find_scenes(folders)
        super().__init__(
            dict(zip(scene_names(found), found, strict=True)),
            patch=patch,
            seed=seed,
            samples_per_epoch=samples_per_epoch,
            augment=augment,
            rotate=rotate,
            cache_bytes=cache_bytes,
        )

    def _read(self, place: pathlib.Path) -> _Scene:
        files = images_in(place)
        photographs = [file for file in files if file.suffix.lower() in (".tif", ".tiff")]
        if len(photographs) != _EXPOSURES:
            raise InputError(f"it has {len(photographs)} .tif images; {_EXPOSURES} are needed")
        stops = _read_stops(place / "exposure.txt")
        order = _ordered(stops)
        linear = read_image(_light_file(files)).pixels.float().expand(3, -1, -1)
        frames = [_codes(photographs[k]) for k in order]
        names = [photographs[k].name for k in order]
        _same_size({**dict(zip(names, frames, strict=True)), "its light": linear})
        middle = stops[order[_REFERENCE]]
        times = tuple(2.0 ** (stops[k] - middle) for k in order)
        written, relative = 2.0**middle, 2.0 ** (middle - stops[order[0]])
        if self._exposures != "measured":
            gain = written if self._exposures == "written" else relative
        else:
            light = linear.clamp(min=0)
            agreement = exposure_agreement(_unit(frames[_REFERENCE]), light, self.gamma)
            gain = written if not agreement else min((written, relative), key=lambda t: abs(math.log(agreement * t)))
        return _Scene(frames, linear, gain, 1.0, times)


def _read_stops(path: pathlib.Path) -> list[float]:
    try:
        return [float(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise InputError(f"its {path.name} cannot be read as numbers, one per line ({error})") from error


def _light_file(files: Sequence[pathlib.Path]) -> pathlib.Path:
    """The picture of linear light among the files of a scene."""
    linear = [file for file in files if file.suffix.lower() in LINEAR_ENDINGS]
    named = [file for file in linear if file.name.lower() == "hdrimg.hdr"]
    chosen = named or linear
    if len(chosen) != 1:
        names = ", ".join(file.name for file in linear) or "none"
        raise InputError(f"it needs HDRImg.hdr or one other .hdr or .exr file, got {names}")
    return chosen[0]


class NTIREScenes(_MovingScenes):
    """Scenes of the NTIRE 2021 and 2022 challenges on HDR, whole or cut into pieces.

    A scene is a folder of its own, or all files of a folder whose names begin alike; at any depth, both may occur::

        0.png, 1.png, 2.png     0000_short.png, 0000_medium.png, 0000_long.png    images of 8 bits
        gt.png                  0000_gt.png                                       the light, of 16 bits
        exposures.npy           0000_exposures.npy                                exposures in stops, short to long
        alignratio.npy          0000_alignratio.npy                               one number

    The reference is the medium image. Its light is its codes in [0, 1] to the power of 2.24, and the target is, in the
    same unit, (code of ``gt.png`` / ``alignratio``)^2.24: the challenge stores light as if it were codes that go beyond
    1. A scene whose target and reference are more than a factor of two apart where the reference is well exposed
    (:func:`hdrops.data.moving.exposure_agreement`) is left out.

    Item i shows scene i modulo their number, at a place drawn uniformly. All files are read when the dataset is made:
    scenes that cannot be used are named in a warning and left out. They are kept in memory as far as ``cache_bytes``
    reaches, 15 bytes per pixel; others are read again at every access. Worker processes share this memory. With
    ``patch=None, augment=False`` the items are whole frames, for validation.

    Args:
        folders: of scenes.
        patch: (height, width) of the samples, or None for whole frames.
        seed: of the places and attitudes, at least 0.
        samples_per_epoch: ``len()``; the number of scenes by default.
        augment: mirror half of the samples left to right.
        rotate: also turn the samples by a random multiple of 90°; then frames must hold a square of the longer side of
            the patch.
        cache_bytes: of pixels to keep in memory.

    Attributes:
        scenes: names of the scenes that are used.
        agreement: of each scene, how many times brighter the target is than the reference image where that is well
            exposed, or None where nothing is.
        smallest_side: the least pixels a side that a frame of theirs has.

    Raises:
        ValueError: no usable scene, and why; an argument out of range.
    """

    gamma = _NTIRE_GAMMA

    def __init__(
        self,
        folders: Paths,
        *,
        patch: Sequence[int] | None = (256, 256),
        seed: int = 0,
        samples_per_epoch: int | None = None,
        augment: bool = True,
        rotate: bool = False,
        cache_bytes: int = 4 << 30,
    ) -> None:
        # The folder of a scene, or in the folder of many the beginning of its files' names, which is no file itself.
        found: dict[pathlib.Path, None] = {}
        for root in listed(folders):
            if not root.is_dir():
                raise InputError(f"{root} is no folder; give the folder of one scene or of several")
            for path in images_below(root):
                if path.name == "gt.png":
                    found[path.parent] = None
                elif path.name.endswith("_gt.png"):
                    found[path.with_name(path.name.removesuffix("_gt.png"))] = None
        super().__init__(
            dict(zip(scene_names(list(found)), found, strict=True)),
            patch=patch,
            seed=seed,
            samples_per_epoch=samples_per_epoch,
            augment=augment,
            rotate=rotate,
            cache_bytes=cache_bytes,
        )

    def _read(self, place: pathlib.Path) -> _Scene:
        own = place.is_dir()
        kinds = ("0", "1", "2") if own else ("short", "medium", "long")

        def path(part: str) -> pathlib.Path:
            return place / part if own else place.with_name(f"{place.name}_{part}")

        stops = _numbers(path("exposures.npy"))
        if _ordered(stops) != list(range(_EXPOSURES)):
            raise InputError(f"its exposures must go from short to long, got {', '.join(f'{x:g}' for x in stops)}")
        ratio = _numbers(path("alignratio.npy"))
        if len(ratio) != 1 or not 0 < ratio[0] < math.inf:
            raise InputError(f"its alignratio.npy must hold one positive number, got {ratio}")
        linear = _codes(path("gt.png"))
        if linear.dtype != torch.uint16:
            raise InputError("gt.png must have 16 bits")
        images = [path(f"{kind}.png") for kind in kinds]
        frames = [_codes(image) for image in images]
        names = [image.name for image in images]
        _same_size({**dict(zip(names, frames, strict=True)), "gt.png": linear})
        times = tuple(2.0 ** (stop - stops[_REFERENCE]) for stop in stops)
        return _Scene(frames, linear, 1 / ratio[0], self.gamma, times)


def _numbers(path: pathlib.Path) -> list[float]:
    """The numbers of an .npy file."""
    try:
        # Mapped, an array is no larger than its file, whatever this says. Damaged headers are no Python.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        numbers: list[float] = np.ravel(array).astype(np.float64, casting="same_kind").tolist()
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise InputError(f"its {path.name} cannot be read as an array of numbers ({error})") from error
    return numbers
