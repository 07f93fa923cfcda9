"""Colour images of Bayer mosaics, inside what is differentiated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_RED, _GREEN_OF_RED, _GREEN_OF_BLUE, _BLUE = range(4)


def demosaic(planes: Tensor) -> Tensor:
    """RGB of a packed Bayer mosaic by bilinear interpolation, for losses and networks that were made for RGB.

    The four planes are the pixels of the mosaic at even rows and even columns (R), even and odd (Gr), odd and even
    (Gb), odd and odd (B). A sample stays where it is; a colour that a pixel lacks is the mean of its nearest samples,
    as these taps on the mosaic have it::

        R, B:  1 2 1            G:  0 1 0
               2 4 2 / 4            1 4 1 / 4
               1 2 1                0 1 0

    At the edges the mosaic is reflected about its outer pixels, which leaves every colour in its place. Flat images
    and, but for the outer pixels, linear ramps are therefore exact. Nothing leaves the range of the samples.

    Args:
        planes: (N, 4, H, W), H and W at least 1, floating point, nominally in [0, 1].

    Returns:
        (N, 3, 2H, 2W) of the same dtype. Differentiable, as often as wanted.

    Raises:
        TypeError: planes that are not floating point.
        ValueError: another shape.
    """
    if not planes.is_floating_point():
        raise TypeError(f"planes must be floating point, got {planes.dtype}; divide codes by their full scale")
    if planes.dim() != 4 or planes.shape[1] != 4 or 0 in planes.shape[2:]:
        raise ValueError(f"planes must be (N, 4, H, W) with pixels, got shape {tuple(planes.shape)}")
    height, width = planes.shape[-2:]
    padded = F.pad(planes, (1, 1, 1, 1), "replicate")  # of a plane: reflection of the mosaic

    def at(plane: int, *steps: tuple[int, int]) -> Tensor:
        parts = [padded[:, plane, 1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in steps]
        return torch.stack(parts).mean(0) if len(parts) > 1 else parts[0]

    here, up, down, left, right = (0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)
    channels = [
        *(at(_RED, here), at(_RED, here, right), at(_RED, here, down), at(_RED, here, right, down, (1, 1))),
        (at(_GREEN_OF_RED, left, here) + at(_GREEN_OF_BLUE, up, here)) / 2,
        *(at(_GREEN_OF_RED, here), at(_GREEN_OF_BLUE, here)),
        (at(_GREEN_OF_RED, here, down) + at(_GREEN_OF_BLUE, here, right)) / 2,
        *(at(_BLUE, (-1, -1), up, left, here), at(_BLUE, up, here), at(_BLUE, left, here), at(_BLUE, here)),
    ]
    return F.pixel_shuffle(torch.stack(channels, 1), 2)
