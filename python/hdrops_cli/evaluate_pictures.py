"""Thumbnails and maps of differences, as the report shows them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Colours at equal distances, as hexadecimal digits: of no difference up to the largest, and of darker over equal to
# brighter. Their lightness grows evenly from one end, or from the middle to both ends falls.
SEQUENTIAL = ("000004", "2a0a55", "6a176e", "a82e5f", "dd513a", "f98e09", "f8d84b", "fcffa4")
DIVERGING = ("123c7d", "2f79b5", "8fc0dd", "f4f4f4", "eda98f", "c8443f", "72081f")
_QUALITY = 80
_LEAST_SCALE = 0.01
_BYTES_PER_PIXEL = 0.6  # of such a JPEG of a thumbnail, in Base64
_BUDGET = 20e6  # bytes of all pictures of a report
_SIDES = (120, 420)  # pixels


def transparent(path: Path) -> bool:
    """Whether a picture, which can be read, has pixels that are not opaque: reading it drops alpha."""
    from hdrops.io.formats import detect_format

    format = detect_format(path)
    if format == "raw":
        return False
    if format == "heif":
        import numpy as np
        from PIL import Image, UnidentifiedImageError

        try:
            picture: Image.Image = Image.open(path)  # AVIF
        except UnidentifiedImageError:
            import pillow_heif

            picture = pillow_heif.open_heif(path).to_pillow()
        return picture.mode in ("LA", "RGBA") and bool(np.array(picture.getchannel("A")).min() < 255)
    import OpenImageIO as oiio

    from hdrops.io._stderr import without_library_messages

    with without_library_messages():
        source = oiio.ImageInput.open(str(path))
        if source is None:
            return False
        try:
            channel = source.spec().alpha_channel
            alpha = source.read_image(0, 0, channel, channel + 1, "float") if channel >= 0 else None
        finally:
            source.close()
    return alpha is not None and bool((alpha < 1).any())


def side_for(pictures: int) -> int:
    """The longer side of thumbnails, such that so many of 3:2 stay within the room for them."""
    least, most = _SIDES
    return min(most, max(least, int(math.sqrt(_BUDGET / max(1, pictures) / _BYTES_PER_PIXEL * 1.5))))


def reduced(image: Tensor, side: int) -> Tensor:
    """(C, H, W) of any floating-point values, its longer side no more than ``side``: mean values."""
    import torch.nn.functional as F

    height, width = image.shape[-2:]
    factor = min(1.0, side / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return F.adaptive_avg_pool2d(image, size)


def jpeg(image: Tensor) -> bytes:
    """The JPEG of (C, H, W) display values, nominally in [0, 1]."""
    from hdrops.io import to_codes
    from hdrops.io.writing import encode_image

    return encode_image(to_codes(image.clamp(0, 1)), ".jpg", _QUALITY)


def scale_of(maps: Iterable[Tensor]) -> float:
    """The difference that the end of the colour scale stands for: few pixels exceed it."""
    import torch

    largest = max((float(torch.quantile(x.abs().flatten(), 0.995)) for x in maps), default=0.0)
    digits = 2 - math.floor(math.log10(max(largest, _LEAST_SCALE))) - 1
    return max(_LEAST_SCALE, round(largest, digits))


def coloured(values: Tensor, scale: float, colours: tuple[str, ...]) -> Tensor:
    """(3, H, W) colours of a map (1, H, W): of 0 to ``scale``, or of ``-scale`` to ``scale`` if these diverge."""
    import torch

    table = torch.tensor([[int(colour[k : k + 2], 16) for k in (0, 2, 4)] for colour in colours]) / 255
    place = values[0] / scale
    if colours is DIVERGING:
        place = (place + 1) / 2
    place = place.clamp(0, 1) * (len(colours) - 1)
    low = place.floor().long().clamp(max=len(colours) - 2)
    part = (place - low)[..., None]
    return (table[low] * (1 - part) + table[low + 1] * part).permute(2, 0, 1)
