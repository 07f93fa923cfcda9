"""Training data of exposure fusion: an underexposed, a correctly exposed and an overexposed image of a scene."""

from __future__ import annotations

import itertools
import operator
import pathlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hdrops.data.scenes import Paths, find_scenes, images_in, scene_names
from hdrops.data.triplets import (
    Sample,
    _check_length,
    _eight_bits,
    _generator,
    _key,
    _one_thread,
    _report,
)
from hdrops.io import InputError, read_bracket
from hdrops.ops._grey import luma

CORRECT = 0.3, 0.7


def classify_exposures(means: Sequence[float], correct: tuple[float, float] = CORRECT) -> list[int]:
    """Which frames of a bracket are correctly exposed, by their brightness alone.

    The paper sorts frames into under-, correctly and overexposed ones without saying how. Here a frame is correctly
    exposed if its mean luma lies within a range around the middle of the codes, and the frame next to the middle of
    that range is in any case; but never the darkest frame or the brightest, on whose other side nothing is left.

    Args:
        means: mean luma of the frames in [0, 1], in the order of their exposures, dark to bright; at least three.
        correct: the range, within [0, 1].

    Returns:
        The places of the correctly exposed frames, in their order.

    Raises:
        ValueError: fewer than three frames, or a range that is none.
    """
    if len(means) < 3:
        raise ValueError(f"three exposures at least are needed, got {len(means)}")
    low, high = correct
    if not 0 <= low < high <= 1:
        raise ValueError(f"correct must be a range within [0, 1], got {correct}")
    inner = range(1, len(means) - 1)
    nearest = min(inner, key=lambda k: abs(means[k] - (low + high) / 2))
    return [k for k in inner if k == nearest or low <= means[k] <= high]


class FusionTriplets(Dataset[Sample]):
    """Triplets of section 3.2 from brackets on disk. Every folder with images is a scene (:func:`find_scenes`).

    Im, Son, Kwon and Lee, "Multi-task learning approach using dynamic hyperparameter for multi-exposure fusion": a
    correctly exposed frame (:func:`classify_exposures`), any frame of less and any frame of more exposure; all such
    triplets of all scenes. The brightness of the frames classifies them, known exposure times or not. The order of
    the frames is that of their stated exposures, or of their brightness (:func:`hdrops.io.read_bracket`). Item i
    shows triplet i modulo their number::

        dark, target, bright     (3, H, W) float32 in [0, 1]

    An item is asked for by ``index`` or ``(epoch, index)``, and depends on the seed, the epoch and the index alone. All
    files are read when the dataset is made, reduced to the size of the samples and kept; scenes that cannot be used are
    named in a warning and left out.

    Args:
        folders: of one scene or of many.
        size: (height, width) that the frames are resized to, whatever their shape; the paper takes 256 x 256. None
            keeps their size, for validation.
        seed: of the mirrors, at least 0.
        samples_per_epoch: ``len()``; the number of triplets by default.
        augment: mirror half of the samples left to right.
        correct: range of the mean luma of correctly exposed frames.

    Attributes:
        triplets: (scene, dark, target, bright): its name, and the places of the frames, dark to bright.
        scenes: names of the scenes that give triplets.
        smallest_side: the least pixels a side that a sample has.

    Raises:
        ValueError: no triplet at all, and why; an argument out of range.
    """

    def __init__(
        self,
        folders: Paths,
        *,
        size: Sequence[int] | None = (256, 256),
        seed: int = 0,
        samples_per_epoch: int | None = None,
        augment: bool = True,
        correct: tuple[float, float] = CORRECT,
    ) -> None:
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size must be (height, width), both at least 1, or None, got {size}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be at least 0 and below 2^64, got {seed}")
        self._size = None if size is None else (operator.index(size[0]), operator.index(size[1]))
        self._seed, self._augment = seed, augment
        self._frames: dict[str, Tensor] = {}
        self.triplets: list[tuple[str, int, int, int]] = []
        skipped: dict[str, str] = {}
        found = find_scenes(folders)
        for name, folder in zip(scene_names(found), found, strict=True):
            try:
                frames = self._read(folder)
            except InputError as error:
                skipped[name] = str(error)
                continue
            self._frames[name] = frames
            means = (luma(frames.float()).mean((1, 2, 3)) / 255).tolist()
            for middle in classify_exposures(means, correct):
                sides = range(middle), range(middle + 1, len(frames))
                self.triplets += [(name, dark, middle, bright) for dark, bright in itertools.product(*sides)]
        _report(skipped, len(found) - len(skipped), "scene")
        self.scenes = list(self._frames)
        self.smallest_side = min(min(frames.shape[-2:]) for frames in self._frames.values())
        self._length = _check_length(samples_per_epoch, len(self.triplets))

    def _read(self, folder: pathlib.Path) -> Tensor:
        """(K, 3, H, W) uint8, dark to bright."""
        bracket = read_bracket(images_in(folder))
        frames = _eight_bits(bracket.images, bracket.paths[0].name)
        if len(frames) < 3:
            raise InputError(f"it has {len(frames)} exposures; three at least are needed")
        if self._size is None:
            return frames
        with _one_thread():
            resized = F.interpolate(frames.float(), self._size, mode="bilinear", antialias=True, align_corners=False)
        return resized.round().clamp(0, 255).to(torch.uint8)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        epoch, index = _key(item, self._length)
        scene, *places = self.triplets[index % len(self.triplets)]
        mirrored = self._augment and bool(_generator(self._seed, epoch, index).random() < 0.5)
        parts = [self._frames[scene][place].float().div_(255) for place in places]
        if mirrored:
            parts = [part.flip(-1) for part in parts]
        return dict(zip(("dark", "target", "bright"), parts, strict=True))
