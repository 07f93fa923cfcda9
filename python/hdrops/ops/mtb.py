"""Operator ``mtb``: the shift between two exposures of a scene, by median threshold bitmaps.

Ward, "Fast, robust image registration for compositing high dynamic range photographs from hand-held exposures",
Journal of Graphics Tools 8(2), 2003.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from hdrops.ops import _arguments, _providers


def mtb_shift(
    image: Tensor, reference: Tensor, *, levels: int = 6, exclude: int = 4, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """The shift that brings an exposure to lie on another, found from coarse to fine in median threshold bitmaps.

    Whether a pixel is brighter than the median of its image does not depend on the exposure. On every level of a
    pyramid, the image is tried at nine shifts: twice that of the coarser level and -1, 0 or 1 pixels in either
    direction. The shift stays at which the fewest pixels disagree, that is, are above the median in one image and
    below it in the other. Pixels within ``exclude`` codes of the median are noise and are not compared, nor are those
    that the shift moves from outside.

    The result is that of OpenCV's ``AlignMTB.calculateShift(reference, image)``, whose conventions these are:

    * a level has every second pixel of every second row of the finer one, the first of both included; there are at
      most ``levels``, the coarsest no smaller than 2 pixels along the longer side (and 1 along the shorter);
    * the threshold is the number of codes, from 0 on, whose pixels together are at least half of the image, which is
      one code above the median; a pixel is above if its code exceeds the threshold by more than ``exclude``, below if
      it falls short of it by more than ``exclude``;
    * of shifts with equally many pixels that disagree, the leftmost wins, then the uppermost.

    Unlike there, a level on which one of the images has no pixel to compare, such as a black or a flat one, leaves the
    shift as it is.

    Args:
        image: the image to be shifted, (N, C, H, W) with C = 1 or 3 (red, green, blue). uint8 codes; uint16 codes are
            divided by 257 and rounded; floating point in [0, 1] is multiplied by 255 and rounded half to even, NaN
            counting as 0. Three channels then become grey: (9798 R + 19235 G + 3735 B) / 32768, rounded (BT.601).
        reference: the image to be met, of the same shape, dtype and device.
        levels: levels of the pyramid at most, 1 to 16. The shift is less than 2^levels pixels in either direction. Take
            few for small images: where a level has few pixels to compare, many shifts are equally good, and what the
            coarsest levels err the finer ones cannot make up for.
        exclude: codes on either side of the threshold that are not compared, 0 to 254.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        Two int64 tensors. The first, (N, 2), has the shift (dy, dx) of each image in pixels, by which
        out(y, x) = image(y - dy, x - dx) lies on the reference: positive numbers move the image down and to the right.
        The second, (N, 2), has how many pixels of the finest level disagree at that shift, and how many were compared:
        their quotient measures the trust that the shift deserves, from 0 for equal bitmaps to 1/2 for unrelated ones.
        It says nothing of images most of which is black or blown: whose median lies within ``exclude`` codes of either
        end of the range has pixels on one side of it only, none of which can disagree, so that the first shift wins.
        Both are 0 where nothing was compared, as for an image of one pixel, whose shift is 0. Not differentiable.

    Raises:
        TypeError: images that differ in dtype, or of an unsupported one.
        ValueError: shapes that differ, images without pixels, another number of channels, or levels or exclude out of
            range.
    """
    image, reference = _arguments.as_tensor(image, "image"), _arguments.as_tensor(reference, "reference")
    _arguments.check_image_dtype(image, "image")
    if reference.dtype != image.dtype:
        raise TypeError(f"image is {image.dtype}, reference {reference.dtype}; convert one of them")
    if image.dim() != 4:
        raise ValueError(f"image must be (N, C, H, W), got shape {tuple(image.shape)}")
    if image.shape != reference.shape:
        raise ValueError(
            f"image {tuple(image.shape)} and reference {tuple(reference.shape)} must have one shape; crop one of them"
        )
    if image.shape[1] not in (1, 3):
        raise ValueError(f"image must have 1 or 3 channels, got shape {tuple(image.shape)}")
    if image.shape[2] * image.shape[3] == 0:
        raise ValueError(f"image has no pixels: shape {tuple(image.shape)}")
    if image.device != reference.device:
        raise ValueError(f"image is on {image.device}, reference on {reference.device}; move one of them")
    levels, exclude = operator.index(levels), operator.index(exclude)
    if not 1 <= levels <= 16:
        raise ValueError(f"levels must be 1 to 16, got {levels}")
    if not 0 <= exclude <= 254:
        raise ValueError(f"exclude must be 0 to 254, got {exclude}")
    numbers: Tensor = _providers.overload("mtb_shift", backend, image)(image, reference, levels, exclude)
    return numbers[:, :2], numbers[:, 2:]


# ---- fake kernel ---------------------------------------------------------------------------------------------------


def _fake(image: Tensor, reference: Tensor, levels: int, exclude: int) -> Tensor:
    return image.new_empty((image.shape[0], 4), dtype=torch.int64)


_providers.register("mtb_shift", "mtb", fake=_fake)
