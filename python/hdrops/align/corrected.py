"""What the estimators look at: one plane per frame, reduced, with the differences in exposure taken out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hdrops.align.errors import opencv
from hdrops.align.gamma import adaptive_gamma_correction
from hdrops.align.geometry import Matrix, scaling
from hdrops.ops._grey import luma

_FULL = {torch.uint8: 255.0, torch.uint16: 65535.0}
_BINS = 65536
_SMOOTHING = 0.7  # pixels: between the steps of 8-bit codes it makes values that ranks can tell apart


@dataclass(frozen=True)
class Corrected:
    """A frame without its exposure.

    Attributes:
        plane: (h, w) float32 in [0, 1].
        reduction: from the pixels of the frame to those of ``plane``.
    """

    plane: NDArray[np.float32]
    reduction: Matrix


def as_array(frame: Tensor) -> NDArray[Any]:
    """The values of a frame on the CPU, in a type that OpenCV computes in."""
    frame = frame.cpu()
    return (frame.float() if frame.dtype in (torch.float16, torch.bfloat16) else frame).numpy()


def histogram_correction(frame: NDArray[np.float32]) -> NDArray[np.float32]:
    """The luma of a frame (C, h, w), equalised: of each pixel, the share of the pixels that are darker.

    Half of the equal ones count. Exposures of a scene differ in it only where they clip.
    """
    grey = luma(torch.from_numpy(frame))[0].numpy() if len(frame) == 3 else frame[0]
    smooth = opencv().GaussianBlur(grey, (0, 0), _SMOOTHING)
    bins = np.rint(smooth * np.float32(_BINS - 1)).astype(np.int64)
    counts = np.bincount(bins.ravel(), minlength=_BINS)
    ranks = ((np.cumsum(counts) - counts / 2) / bins.size).astype(np.float32)
    result: NDArray[np.float32] = ranks[bins]
    return result


def gamma_correction(frame: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest channel of a frame (C, h, w) after adaptive gamma correction."""
    value = torch.from_numpy(frame.max(0))
    return adaptive_gamma_correction(value[None, None])[0, 0].numpy()


_CORRECTIONS = {"histogram": histogram_correction, "gamma": gamma_correction}
CORRECTIONS = tuple(_CORRECTIONS)


def corrected(frame: Tensor, correction: str, most_pixels: int) -> Corrected:
    """A frame reduced to a number of pixels, and corrected.

    Args:
        frame: (C, H, W), codes or floating point in [0, 1].
        correction: "histogram" or "gamma".
        most_pixels: of the plane. Reduction averages noise, and finding takes time in proportion to the pixels.
    """
    cv2 = opencv()
    height, width = frame.shape[1:]
    factor = min(1.0, math.sqrt(most_pixels / (height * width)))
    h, w = max(1, round(factor * height)), max(1, round(factor * width))
    full = np.float32(_FULL.get(frame.dtype, 1.0))
    planes = [plane.astype(np.float32) / full for plane in as_array(frame)]
    if (h, w) != (height, width):
        planes = [cv2.resize(plane, (w, h), interpolation=cv2.INTER_AREA) for plane in planes]
    return Corrected(_CORRECTIONS[correction](np.stack(planes)), scaling(w / width, h / height))
