"""What the commands that work with an EMVNet share: its reference, and tiles and pieces that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hdrops_cli.memory import available

if TYPE_CHECKING:
    from torch import Tensor

    from hdrops.models import EMVNet

_SIDES = (512, 256, 128, 64, 32)  # of a tile, in pixels of the features
_PIECES = (128, 64, 32)  # likewise, of the pieces of a tile
_SHARE = 0.75  # of the memory that is free
# Bytes per slice of the matching volume, filter and pixel of the features. The largest array, of half the depth and the
# sides, takes half a byte; there are up to 3.6 of them at a time.
_BYTES = 2.0
_FLOAT = 4
_KEPT = 1 / 8  # of these, that pieces need of the whole tile


def reference_of(text: str, count: int) -> int | None:
    """The index of ``--reference``, which counts images from 1; None where the choice is left to their pixels."""
    from hdrops.io import InputError

    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= count:
        raise InputError(f"--reference must be auto, or the number of an image from 1 to {count}, got {text!r}")
    return int(text) - 1


def enhanced(model: EMVNet, images: Tensor, place: int, tile: int | None) -> Tensor:
    """The picture (C, H, W) of images (1, n, C, H, W), in tiles of ``--tile`` or what memory is free for.

    Raises:
        InputError: there is too little memory.
    """
    count, _, height, width = images.shape[1:]
    tile, piece = parts_of(model, count, height, width, tile)
    return model.enhance(images, place, tile=tile, piece=piece)[0]


def parts_of(model: EMVNet, count: int, height: int, width: int, tile: int | None = None) -> tuple[int, int | None]:
    """Tiles and pieces of ``count`` images, in pixels a side, for :meth:`EMVNet.enhance`.

    Of those that memory is free for, the ones of the least work. A tile that is given is kept; where there is no memory
    for it, it is tried with the smallest pieces.

    Raises:
        InputError: memory is free for none.
    """
    from hdrops.io import InputError

    shrink = model.config.shrink
    pieces = [None, *(piece * shrink for piece in _PIECES if model.piece_radius)]
    room = _Room(model, count, height, width)
    if tile is not None:
        return tile, next((piece for piece in pieces if room.fits(tile, piece)), pieces[-1])
    found = [(tile_of(model, count, height, width, piece), piece) for piece in pieces]
    plans = [(side, piece) for side, piece in found if side is not None]
    if not plans:
        need = min(room.need(_SIDES[-1] * shrink, piece) for piece in pieces)
        raise InputError(
            f"the network needs about {need / 2**30:.1f} GiB for {count} images, and {room.free / 2**30:.1f} GiB are "
            "free; give fewer or smaller images, or --tile to try nevertheless"
        )
    return min(plans, key=lambda plan: room.work(*plan))


def tile_of(model: EMVNet, count: int, height: int, width: int, piece: int | None = None) -> int | None:
    """The largest tile that memory is free for, in pixels of ``count`` images a side; None if it is for none."""
    room, shrink = _Room(model, count, height, width), model.config.shrink
    sides = (max(room.sides) * shrink, *(side * shrink for side in _SIDES))
    return next((side for side in sides if room.fits(side, piece)), None)


class _Room:
    """Memory and work of an EMVNet for some images, by tiles and pieces in pixels of the images."""

    def __init__(self, model: EMVNet, count: int, height: int, width: int) -> None:
        config = model.config
        depth = (count - (not config.include_reference)) * (config.motion_extent // config.motion_step) ** 2
        self.sides = [-(-side // config.shrink) for side in (height, width)]  # in pixels of the features
        self.free = available()
        self._shrink, self._cost = config.shrink, _BYTES * depth * len(config.exposures) * config.filters
        # Features of all images stay; beside a volume that is not in pieces they hardly count.
        self._features = _FLOAT * count * config.features * math.prod(self.sides)
        self._halo, self._reach = -(-model.radius // model.step) * model.step, model.piece_radius

    def fits(self, tile: int, piece: int | None) -> bool:
        return self.need(tile, piece) <= _SHARE * self.free

    def need(self, tile: int, piece: int | None) -> float:
        """Bytes."""
        whole = self._seen(self.sides, tile, self._halo)
        if piece is None:
            return self._cost * math.prod(whole)
        volume = _KEPT * math.prod(whole) + math.prod(self._seen(whole, piece, self._reach))
        return self._cost * volume + self._features

    def work(self, tile: int, piece: int | None) -> float:
        """How many times a pixel is computed, about."""
        whole = self._seen(self.sides, tile, self._halo)
        times = math.prod(whole) / math.prod(self._seen(self.sides, tile, 0))
        if piece is None:
            return times
        return times * math.prod(self._seen(whole, piece, self._reach)) / math.prod(self._seen(whole, piece, 0))

    def _seen(self, sides: Sequence[int], part: int, around: int) -> list[int]:
        """What is computed at once of a part, of an image or a tile, with so much around it."""
        return [min(side, max(1, part // self._shrink) + 2 * around) for side in sides]
