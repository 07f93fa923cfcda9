"""Networks on images of any size, tile by tile, with the result of the whole image."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

LARGEST_KEPT = 31 * 2**20  # bytes


def tiles(height: int, width: int, tile: int | tuple[int, int], *, step: int = 1) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of tiles that cover an image, as nearly equal in size as they can be.

    Equal ones let a network reuse what it has prepared for a size, and no sliver pays for a whole halo.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        tile: most pixels a side, or (rows, columns).
        step: every tile begins at a multiple of it, as strided layers need; a tile has at least so many pixels a side.
    """
    sides = (tile, tile) if isinstance(tile, int) else tile
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"a tile must have at least one pixel a side, as a number or (rows, columns), got {tile}")

    def cuts(size: int, most: int) -> list[slice]:
        units = -(-size // step)
        count = -(-units // max(1, most // step))
        ends = [min(units * i // count * step, size) for i in range(count + 1)] if count else []
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    columns = cuts(width, sides[1])
    for rows in cuts(height, sides[0]):
        for column in columns:
            yield rows, column


def tiled(
    function: Callable[..., Tensor],
    images: Sequence[Tensor],
    out: Tensor,
    *,
    tile: int | tuple[int, int],
    halo: int,
    step: int = 1,
    scale: int = 1,
) -> Tensor:
    """Apply a function of local neighbourhoods to images, one tile at a time.

    Every tile is computed with ``halo`` more pixels on each side, as far as the image reaches, and loses them
    afterwards. With the radius of the receptive field as halo the result is that of the whole image: a network that
    pads with zeros (or reflects) does so where the image ends, and what it pads elsewhere reaches only pixels that are
    cut off. Memory is that of one tile. Functions of statistics of the whole image need these computed beforehand.

    Args:
        function: takes a crop of every image and returns (..., scale h, scale w) of one of (..., h, w).
        images: tensors (..., H, W) of one height and width. Crops are views of them.
        out: receives the result, (..., scale H, scale W); values are cast to its dtype.
        tile: most pixels of a tile a side, without its halo, or (rows, columns).
        halo: radius of the receptive field, in pixels: 10 where the field is 21 x 21. It is rounded up to a multiple
            of ``step``.
        step: every crop begins at a multiple of it, as strided layers need; a tile has at least so many pixels a side.
        scale: how much larger than the images the result is, a whole number.

    Returns:
        ``out``.

    Raises:
        ValueError: images of different sizes, a tile without pixels, a negative halo, or a function that changes the
            size.
    """
    height, width = out.shape[-2] // scale, out.shape[-1] // scale
    if any(image.shape[-2:] != (height, width) for image in images):
        sizes = [tuple(image.shape[-2:]) for image in images]
        raise ValueError(f"images and out must agree in height and width, got {sizes} and {(height, width)}")
    if halo < 0:
        raise ValueError(f"halo must be 0 or more, got {halo}")
    if out.device.type == "cpu":
        _keep_freed_memory()
    halo = -(-halo // step) * step
    for rows, columns in tiles(height, width, tile, step=step):
        top, left = max(rows.start - halo, 0), max(columns.start - halo, 0)
        bottom, right = min(rows.stop + halo, height), min(columns.stop + halo, width)
        result = function(*(image[..., top:bottom, left:right] for image in images))
        wanted = ((bottom - top) * scale, (right - left) * scale)
        if result.shape[-2:] != wanted:
            raise ValueError(f"the function must keep height and width: {wanted} became {tuple(result.shape[-2:])}")
        inner = result[..., _scaled(rows, top, scale), _scaled(columns, left, scale)]
        out[..., _scaled(rows, 0, scale), _scaled(columns, 0, scale)] = inner
    return out


def _scaled(place: slice, origin: int, scale: int) -> slice:
    """A place from an origin, in smaller pixels."""
    return slice((place.start - origin) * scale, (place.stop - origin) * scale)


def _keep_freed_memory() -> None:
    """Let glibc keep what a tile frees for the next one.

    It returns freed memory to the kernel beyond twice the largest block that it ever mapped by itself and freed, up to
    32 MiB, and fetching the pages again takes longer than a small network. So such a block is mapped and freed once;
    its pages are never touched. Other allocators do not mind.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8)
