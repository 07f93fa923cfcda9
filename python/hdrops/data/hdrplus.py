"""Bursts of the HDR+ dataset as pairs of a short and a long raw exposure."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hdrops.data.moving import Views, exposure_agreement, pack, unpack
from hdrops.data.raw_pairs import NoiseProfile, check_ratio, draw_log_uniform, raw_pair
from hdrops.data.scenes import Paths, listed
from hdrops.data.triplets import Sample, UnreadableImage, _check_length, _generator, _key, _one_thread, _report
from hdrops.io import InputError, read_bayer, read_image

_MOST_APART = 1.25  # merged and reference frame
_ALIKE = 0.05  # exposures of frames of a burst
_MOST_CUT = 64  # pixels that a finished picture has less
_TURNS_BACK = {1: 0, 3: 2, 6: 1, 8: 3}  # quarter turns counterclockwise from upright to the sensor, by EXIF orientation
# Detail of picture and sensor: the blur that it is rid of, tiles a side, how far a shift is looked for, and how well a
# tile must correlate to have a say.
_BLUR, _TILES, _REACH, _LEAST_CORRELATION = 9, 4, 3, 0.3
_COMPARED = 512  # pixels of the shorter side
_FEWEST_TILES, _AGREEING = 4, 0.8


@dataclass(frozen=True)
class _Burst:
    """The files of a burst."""

    frames: list[pathlib.Path]
    reference: int
    merged: pathlib.Path
    picture: pathlib.Path


@dataclass(frozen=True)
class _Frame:
    """A frame in linear light (4, H, W), packed from the first red pixel on, which is at ``start`` of the sensor.

    The exposure is time and ISO value multiplied, 0 where the file states no time.
    """

    light: Tensor
    start: tuple[int, int]
    exposure: float
    noise: NoiseProfile | None
    orientation: int


@dataclass(frozen=True)
class _Seen:
    """What a burst shows, apart from its other frames.

    Attributes:
        reference: the reference frame.
        noise: of the frames.
        merged: (4, H, W).
        picture: (3, 2 h, 2 w), where it is wanted.
        part: of frames and the merged one, that the picture shows.
    """

    reference: _Frame
    noise: NoiseProfile
    merged: Tensor
    picture: Tensor | None
    part: tuple[slice, ...]


class HDRPlusBursts(Dataset[Sample]):
    """Pairs of a short and a long exposure from bursts of the HDR+ dataset.

    Hasinoff et al., "Burst photography for high dynamic range and low-light imaging on mobile cameras", 2016; the data
    that Ren, Fan and Huang train EMVNet with. The layout is that of the published archive::

        bursts/<burst>/payload_N000.dng, ...               frames of one exposure
        results_20171023/<burst>/merged.dng                the frames merged, in the view of one of them
        results_20171023/<burst>/reference_frame.txt       its number; without the file the first
        results_20171023/<burst>/final.jpg                 the finished picture, upright

    Samples are those of :mod:`hdrops.data.moving`, n = 2 and C = 4: linear, packed R, Gr, Gb, B, black 0 and the white
    level 1. All sensors are made RGGB ones: of the other three kinds the first row or column of pixels is left out.
    The target is for

    - ``task="raw"`` the merged frame in the exposure of the reference: T = 4, of the images' size;
    - ``task="isp"`` the finished picture, turned back into the attitude of the sensor: T = 3, in [0, 1], coded, twice
      as high and wide as the images.

    **How pairs are made.** The paper scales frames of a burst and leaves open how. Here item i shows burst i modulo
    their number: its reference frame, and another one, drawn among those of the same exposure (older bursts end with a
    longer one). The ratio r of the exposures is log-uniform, and so is the factor a from 1 to r by which the long image
    is brighter than its frame; the short one is then a / r of its frame. The noise is that of the burst's profile
    (S, O) at a times its ISO value, (a S, a² O): the long image has it, the short one is given what it lacks
    (:func:`raw_pair`). Both are clipped at the white level and rounded to ``bits``. The short image is that of the
    reference frame, unless :func:`hdrops.models.choose_reference` then prefers the long one; in that case the long
    image is. The reference is the image of the reference frame.

    **Which bursts are left out**, with the reason in a warning: those that lack a file, have fewer than two frames,
    state no noise profile (unless ``noise`` is given), whose frames are smaller than the patches, or whose merged frame
    is more than a quarter brighter or darker than the reference frame where that is well exposed
    (:func:`hdrops.data.moving.exposure_agreement`). With ``task="isp"`` also those whose picture is not aligned with
    the merged frame, as the paper's authors removed: a picture of another size (up to 64 pixels may be cut off, the
    same on both sides), or of which in more than a fifth of 4 x 4 tiles detail matches that of the merged frame better
    when shifted, by one to three pixels of pictures reduced to some 512 pixels, or that has fewer than four tiles of
    which the detail correlates by 0.3 at all. For this a burst is read when the dataset is made, which takes about a
    second; ``verify=False`` spares it where only good ones are named.

    Nothing is kept in memory. An item is asked for by ``index`` or ``(epoch, index)``, and depends on the seed, the
    epoch and the index alone. With ``patch=None, augment=False`` the items are whole frames, for validation.

    Args:
        folders: of ``bursts`` and results; one or several.
        task: "raw" or "isp".
        bursts: names of those to use; None for all.
        ratio: of the exposures, at least 1: one number, or the two ends of a range.
        noise: of bursts whose files state none.
        bits: of the images' codes, 1 to 16.
        patch: (height, width) of the samples in cells of 2 x 2 pixels, or None for whole frames.
        seed: of everything, at least 0.
        samples_per_epoch: ``len()``; the number of bursts by default.
        augment: mirror half of the samples left to right. The mosaic is mirrored, and cut so that red is at the upper
            left of a cell again: frames must be one cell wider than patches, and whole frames lose a cell.
        rotate: also turn the samples by a random multiple of 90°, likewise.
        results: the folder of results.
        verify: read every burst and leave out those that cannot be used.

    Attributes:
        scenes: names of the bursts that are used.

    Raises:
        ValueError: no usable burst, and why (rawpy is missing, say); a name that is none of a burst; an argument out of
            range.
    """

    def __init__(
        self,
        folders: Paths,
        *,
        task: Literal["raw", "isp"] = "raw",
        bursts: Collection[str] | None = None,
        ratio: float | Sequence[float] = (2.0, 16.0),
        noise: NoiseProfile | None = None,
        bits: int = 10,
        patch: Sequence[int] | None = (128, 128),
        seed: int = 0,
        samples_per_epoch: int | None = None,
        augment: bool = True,
        rotate: bool = False,
        results: str = "results_20171023",
        verify: bool = True,
    ) -> None:
        if task not in ("raw", "isp"):
            raise ValueError(f'task must be "raw" or "isp", got {task!r}')
        if not 1 <= bits <= 16:
            raise ValueError(f"bits must be 1 to 16, got {bits}")
        self._task, self._ratio, self._noise, self._bits = task, check_ratio(ratio), noise, bits
        self._views, self._seed = Views.checked(patch, augment, rotate, seed, packed=True), seed
        found = _find(folders, results)
        missing = sorted(set(bursts or ()) - set(found))
        if missing:
            raise ValueError(f"bursts names {missing[0]!r}, which is not among the {len(found)} found")
        self._bursts: list[_Burst] = []
        self.scenes: list[str] = []
        skipped: dict[str, str] = {}
        for name, (folder, result) in found.items():
            if bursts is not None and name not in bursts:
                continue
            try:
                burst = _files(folder, result, task)
                if verify:
                    with _one_thread():
                        self._verify(burst)
            except InputError as error:
                skipped[name] = str(error)
                continue
            self._bursts.append(burst)
            self.scenes.append(name)
        _report(skipped, len(self.scenes), "burst")
        self._length = _check_length(samples_per_epoch, len(self.scenes))

    def _verify(self, burst: _Burst) -> None:
        seen = self._read(burst)
        light = seen.reference.light[seen.part]
        self._views.check_fits(*light.shape[-2:])
        agreement = exposure_agreement(light.clamp(0, 1), seen.merged[seen.part], 1.0)
        if agreement is not None and not 1 / _MOST_APART < agreement < _MOST_APART:
            raise InputError(f"merged.dng is {agreement:.3g} times as bright as the reference frame")
        if seen.picture is not None and not picture_is_aligned(seen.merged[seen.part], seen.picture):
            raise InputError("final.jpg is not aligned with merged.dng")

    def _read(self, burst: _Burst) -> _Seen:
        reference, merged = _read_frame(burst.frames[burst.reference]), _read_frame(burst.merged)
        noise = reference.noise or self._noise
        if noise is None:
            raise InputError(f"{burst.frames[burst.reference].name} states no noise profile; give noise")
        if merged.light.shape != reference.light.shape or merged.start != reference.start:
            raise InputError("merged.dng and the reference frame are of different sensors")
        if self._task == "raw":
            return _Seen(reference, noise, merged.light, None, (slice(None),) * 3)
        picture = read_image(burst.picture).pixels
        if picture.shape[0] != 3 or picture.dtype != torch.uint8:
            raise InputError("final.jpg must be an RGB picture of 8 bits")
        picture = picture.rot90(_TURNS_BACK[reference.orientation], (-2, -1))
        part, within = [slice(None)], [slice(None)]
        for cells, start, pixels in zip(merged.light.shape[1:], merged.start, picture.shape[1:], strict=True):
            sensor = 2 * (cells + start)
            if not -1 <= sensor - pixels <= _MOST_CUT:
                raise InputError(f"final.jpg has {pixels} pixels a side where merged.dng has {sensor}")
            # The picture begins this far within the sensor, and the first cell that it shows whole so far within it.
            inside = max(sensor - pixels, 0) // 2
            first = max(math.ceil((inside - start) / 2), 0)
            begin = start + 2 * first - inside
            count = min(cells - first, (pixels - begin) // 2)
            part.append(slice(first, first + count))
            within.append(slice(begin, begin + 2 * count))
        return _Seen(reference, noise, merged.light, picture[tuple(within)], tuple(part))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = _key(item, self._length)
        generator = _generator(self._seed, epoch, index)
        with _one_thread():
            try:
                return self._sample(self._bursts[index % len(self._bursts)], generator)
            except InputError as error:
                raise UnreadableImage(str(error)) from error

    def _sample(self, burst: _Burst, generator: np.random.Generator) -> Sample:
        seen = self._read(burst)
        other = self._other(burst, seen.reference, generator)
        frames = [light[seen.part] for light in (seen.reference.light, other.light, seen.merged)]
        self._views.check_fits(*frames[0].shape[-2:])
        if seen.picture is not None:
            frames.append(seen.picture)
        here, there, merged, *picture = self._views.draw(frames, generator)
        ratio = draw_log_uniform(generator, self._ratio)
        brighter = draw_log_uniform(generator, (1.0, ratio))
        noise = NoiseProfile(brighter * seen.noise.shot, brighter**2 * seen.noise.read)

        def photographed(short: Tensor, long: Tensor) -> Sample:
            return raw_pair(
                short,
                long,
                ratio,
                time=brighter / ratio,
                noise=noise,
                present=seen.noise,
                bits=self._bits,
                generator=generator,
            )

        sample, reference = photographed(here, there), 0
        if int(sample["reference"]) != reference:
            sample, reference = photographed(there, here), 1
        times = (brighter / ratio, brighter)
        sample["reference"] = torch.tensor(reference)
        sample["times"] = torch.tensor([time / times[reference] for time in times], dtype=torch.float32)
        sample["target"] = picture[0].float().div_(255) if picture else merged.mul(times[reference]).clamp_(min=0)
        return sample

    def _other(self, burst: _Burst, reference: _Frame, generator: np.random.Generator) -> _Frame:
        """Another frame of the same exposure."""
        for number in generator.permutation(len(burst.frames)).tolist():
            if number == burst.reference:
                continue
            frame = _read_frame(burst.frames[number])
            exposures = frame.exposure, reference.exposure
            if all(exposures) and not math.isclose(*exposures, rel_tol=_ALIKE):
                continue
            if frame.light.shape != reference.light.shape or frame.start != reference.start:
                raise InputError(f"{burst.frames[number]} is of another sensor than the reference frame")
            return frame
        raise InputError(f"{burst.merged.parent.name} has no second frame with the exposure of the reference frame")


def _find(folders: Paths, results: str) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """The folders of frames and of results of every burst, by its name."""
    found: dict[str, tuple[pathlib.Path, pathlib.Path]] = {}
    for root in listed(folders):
        if not (root / "bursts").is_dir():
            raise InputError(f"{root} holds no folder bursts; give the folder of bursts and {results}")
        for folder in sorted(path for path in (root / "bursts").iterdir() if path.is_dir()):
            found.setdefault(folder.name, (folder, root / results / folder.name))
    return found


def _files(folder: pathlib.Path, result: pathlib.Path, task: str) -> _Burst:
    frames = sorted(folder.glob("payload_N*.dng"))
    if len(frames) < 2:
        raise InputError(f"it has {len(frames)} frames payload_N000.dng and so on; two at least are needed")
    number = _reference_number(result / "reference_frame.txt")
    burst = _Burst(frames, number, result / "merged.dng", result / "final.jpg")
    if burst.reference >= len(frames):
        raise InputError(f"its reference frame is {burst.reference} of {len(frames)}")
    for path in (burst.merged, *([burst.picture] if task == "isp" else [])):
        if not path.is_file():
            raise InputError(f"it has no {path.name}")
    return burst


def _reference_number(path: pathlib.Path) -> int:
    if not path.is_file():
        return 0
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not text.isdecimal():
        raise InputError(f"its {path.name} must hold the number of a frame, got {text[:20]!r}")
    return int(text)


def _read_frame(path: pathlib.Path) -> _Frame:
    bayer = read_bayer(path)
    light = bayer.linear(clamped=False)
    row, column = divmod(bayer.pattern.index("R"), 2)
    if row or column:
        # Planes back to their places, and the mosaic cut to begin with red.
        places = [2 * (y != row) + (x != column) for y in (0, 1) for x in (0, 1)]
        mosaic = unpack(light[places])[:, row:, column:]
        light = pack(mosaic[:, : mosaic.shape[1] // 2 * 2, : mosaic.shape[2] // 2 * 2])
    shot = bayer.exposure
    return _Frame(
        light=light,
        start=(row, column),
        exposure=(shot.time or 0.0) * (shot.iso or 1.0),
        noise=None if bayer.noise_profile is None else NoiseProfile(*np.mean(bayer.noise_profile, axis=0).tolist()),
        orientation=bayer.orientation,
    )


def picture_is_aligned(light: Tensor, picture: Tensor) -> bool:
    """Whether the detail of a finished picture lies where it does in the frame.

    Grey values of both, of light its square root, less their means over 9 x 9 pixels, are compared in 4 x 4 tiles of
    pictures whose shorter side is reduced to some 512 pixels. A tile has a say if its correlation reaches 0.3 at any
    shift of up to three pixels; four tiles must, and four fifths of them have it highest without a shift.

    Args:
        light: (4, H, W).
        picture: (3, 2 H, 2 W), codes.
    """
    grey = [light.mean(0).clamp(min=0).sqrt_(), F.avg_pool2d(picture.float().mean(0)[None], 2)[0]]
    step = max(1, min(light.shape[1:]) // _COMPARED)
    detail = []
    for plane in grey:
        reduced = F.avg_pool2d(plane[None, None], step)
        detail.append(reduced - F.avg_pool2d(reduced, _BLUR, 1, _BLUR // 2, count_include_pad=False))
    fixed, moving = detail
    height, width = (side - 2 * _REACH for side in fixed.shape[-2:])
    if min(height, width) < _TILES:
        return False
    middle = fixed[..., _REACH : _REACH + height, _REACH : _REACH + width]
    correlations = []
    for row in range(2 * _REACH + 1):
        for column in range(2 * _REACH + 1):
            shifted = moving[..., row : row + height, column : column + width]
            sums = [F.adaptive_avg_pool2d(x, _TILES) for x in (middle * shifted, middle**2, shifted**2)]
            correlations.append((sums[0] / (sums[1] * sums[2]).sqrt().clamp(min=1e-12)).flatten())
    best, place = torch.stack(correlations).max(0)
    say = best > _LEAST_CORRELATION
    unmoved = int((say & (place == len(correlations) // 2)).sum())
    return int(say.sum()) >= _FEWEST_TILES and unmoved >= _AGREEING * int(say.sum())
