"""What the pixels themselves say: by how many stops photographs differ, and whether they show one scene."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

_SAMPLES = 1 << 16  # pixels looked at, about
_LEVELS = np.linspace(0.0, 1.0, 129)[1:-1]
_BLOCKS = 16
_SURROUNDINGS = 5  # blocks
_BLACK, _WHITE = 0.1, 0.96  # codes beyond which a camera tells little, as fractions of the full code
_EMPTY = 0.02  # mean codes so near to black or white that a part of the picture shows nothing
_LEAST_LEVELS = 10
_LEAST_BLOCKS = 24


@dataclass(frozen=True, eq=False)
class Tones:
    """A photograph, reduced to what comparisons need.

    Attributes:
        levels: (127,) float64, log2 of linear light at equally spaced quantiles of the green (or grey) channel;
            NaN where it is black or clipped.
        blocks: (16, 16) float64, mean codes of the parts of the picture, in [0, 1].
    """

    levels: np.ndarray[Any, np.dtype[np.float64]]
    blocks: np.ndarray[Any, np.dtype[np.float64]]


def measure_tones(pixels: torch.Tensor) -> Tones:
    """Reduce a photograph to its tones.

    Codes are taken for sRGB. Cameras bend their curves at will: differences in stops are good to a factor of
    about two.

    Args:
        pixels: (C, H, W), C = 1 or 3: uint8 or uint16 codes, or float32 linear light, finite.

    Returns:
        The tones.
    """
    channels, height, width = pixels.shape
    step = max(1, int(math.sqrt(height * width / _SAMPLES)))
    plane = pixels[channels // 2, ::step, ::step].numpy().astype(np.float64)
    if pixels.is_floating_point():
        linear = np.maximum(plane, 0.0)
        codes = srgb_encode(np.minimum(linear, 1.0))
        # Linear light has neither a black level nor, above 1, a white one.
        usable = (linear > 0) & ((codes < _WHITE) | (linear.max() > 1))
    else:
        codes = plane / torch.iinfo(pixels.dtype).max
        linear = _decoded(codes)
        usable = (codes > _BLACK) & (codes < _WHITE)
    order = np.argsort(linear, axis=None)[np.round(_LEVELS * (linear.size - 1)).astype(int)]
    levels = np.full(_LEVELS.size, np.nan)
    kept = usable.ravel()[order]
    levels[kept] = np.log2(linear.ravel()[order][kept])
    blocks = F.adaptive_avg_pool2d(torch.from_numpy(codes)[None], _BLOCKS)[0].numpy()
    return Tones(levels=levels, blocks=blocks)


def stops_between(dark: Tones, bright: Tones) -> float | None:
    """By how many stops (EV) the second photograph is exposed brighter, if both show one scene.

    The median over the quantiles that are neither black nor clipped in both; camera and subject may move.

    Returns:
        The difference, negative if the second is darker; None where the two have too few tones in common.
    """
    difference = bright.levels - dark.levels
    known = difference[np.isfinite(difference)]
    return float(np.median(known)) if known.size >= _LEAST_LEVELS else None


def scene_likeness(one: Tones, other: Tones) -> float | None:
    """How alike two photographs are whatever their exposures.

    The correlation of the parts of the pictures, each compared by rank with its surroundings. Exposures of one scene
    mostly exceed 0.85, even with a moving camera; of two scenes, 99 in 100 stay below 0.45.

    Returns:
        The likeness in [-1, 1]; None where too few parts are neither black nor white in both.
    """
    usable = np.ones(one.blocks.shape, bool)
    for blocks in (one.blocks, other.blocks):
        usable &= (blocks > _EMPTY) & (blocks < 1 - _EMPTY)
    if np.count_nonzero(usable) < _LEAST_BLOCKS:
        return None
    first, second = (_relief(blocks)[usable] for blocks in (one.blocks, other.blocks))
    scale = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / scale if scale else None


def contradiction(exposures: Sequence[float], tones: Sequence[Tones], names: Sequence[str]) -> str | None:
    """Where stated exposures cannot be those of the photographs.

    Each is compared with its neighbour in the stated order, and with the darkest. Camera curves differ: from a stop
    on, the measured difference may be 0.4 to 2.5 times the stated one, and a stop more; below, it may be up to a stop
    less, so that it must not exceed one for equal exposures.

    Args:
        exposures: of each photograph, positive, in any unit.
        tones: of each photograph.
        names: of each photograph, for the answer.

    Returns:
        The first contradiction in words, or None.
    """
    order = sorted(range(len(exposures)), key=exposures.__getitem__)
    for dark, bright in itertools.chain(itertools.pairwise(order), ((order[0], k) for k in order[2:])):
        measured = stops_between(tones[dark], tones[bright])
        stated = math.log2(exposures[bright] / exposures[dark])
        if measured is None:
            continue
        if not 0.4 * stated - max(0.0, 1 - stated) <= measured <= 2.5 * stated + 1:
            return f"{names[bright]} against {names[dark]}: stated {stated:+.1f} EV, measured {measured:+.1f} EV"
    return None


def _decoded(codes: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """IEC 61966-2-1, codes in [0, 1] to linear light."""
    return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)


def srgb_encode(linear: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """IEC 61966-2-1, linear light in [0, 1] to codes."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _relief(blocks: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks of the blocks, equal ones sharing theirs, against the mean of their surroundings."""
    ordered = np.sort(blocks, axis=None)
    ranks = (np.searchsorted(ordered, blocks) + np.searchsorted(ordered, blocks, "right")) / (2.0 * blocks.size)
    margin = _SURROUNDINGS // 2
    padded = np.pad(ranks, margin, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (_SURROUNDINGS, _SURROUNDINGS))
    relief: np.ndarray[Any, np.dtype[np.float64]] = ranks - windows.mean((2, 3))
    return relief
