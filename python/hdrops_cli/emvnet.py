"""What the commands that work with an EMVNet share: its reference, and tiles that fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hdrops.models import EMVNet

_SIDES = (512, 256, 128, 64, 32)  # of a tile, in pixels of the features
_SHARE = 0.75  # of the memory that is free
# Bytes per slice of the matching volume, filter and pixel of the features. The largest array, of half the depth and the
# sides, takes half a byte; there are up to 3.6 of them at a time.
_BYTES = 2.0


def reference_of(text: str, count: int) -> int | None:
    """The index of ``--reference``, which counts images from 1; None where the choice is left to their pixels."""
    from hdrops.io import InputError

    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= count:
        raise InputError(f"--reference must be auto, or the number of an image from 1 to {count}, got {text!r}")
    return int(text) - 1


def tile_of(model: EMVNet, count: int, height: int, width: int) -> int:
    """The largest tile that memory is free for, in pixels of ``count`` images a side."""
    from hdrops.io import InputError

    config = model.config
    depth = (count - (not config.include_reference)) * (config.motion_extent // config.motion_step) ** 2
    cost = _BYTES * depth * len(config.exposures) * config.filters
    rows, columns = (-(-side // config.shrink) for side in (height, width))
    halo = -(-model.radius // model.step) * model.step
    free = _available()
    for side in (max(rows, columns), *_SIDES):
        need = cost * min(rows, side + 2 * halo) * min(columns, side + 2 * halo)
        if need <= _SHARE * free:
            return side * config.shrink
    raise InputError(
        f"the network needs about {need / 2**30:.1f} GiB for {count} images, and {free / 2**30:.1f} GiB are free; "
        "give fewer or smaller images, or --tile to try nevertheless"
    )


def _available() -> int:
    """Bytes of memory that can be had without swapping."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
