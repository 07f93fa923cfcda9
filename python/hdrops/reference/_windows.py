"""Separable windows over images of (..., H, W), with every border."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

VALID, REFLECT, SYMMETRIC, REPLICATE, ZEROS = range(5)


def border_index(i: int, size: int, border: int) -> int:
    """The pixel of a line of ``size`` that stands at position ``i``; -1 where it is a zero."""
    if 0 <= i < size:
        return i
    if border == REPLICATE:
        return 0 if i < 0 else size - 1
    if border not in (REFLECT, SYMMETRIC):
        return -1
    repeat = 1 if border == SYMMETRIC else 0
    period = 2 * (size - 1 + repeat)
    if period == 0:
        return 0
    phase = i % period
    return phase if phase < size else period - repeat - phase


def pad_rows(x: Tensor, before: int, after: int, border: int) -> Tensor:
    size = x.shape[-2]
    rows = torch.tensor([border_index(i, size, border) for i in range(-before, size + after)], device=x.device)
    padded = x.index_select(-2, rows.clamp(min=0))
    return torch.where((rows >= 0)[:, None], padded, torch.zeros((), dtype=x.dtype, device=x.device))


def filter_rows(x: Tensor, taps: Sequence[float], border: int) -> Tensor:
    """Each column weighed by an odd number of ``taps``; ``VALID`` leaves len(taps) - 1 fewer rows."""
    radius = len(taps) // 2
    padded = x if border == VALID else pad_rows(x, radius, radius, border)
    rows = padded.shape[-2] - 2 * radius
    result = taps[0] * padded[..., :rows, :]
    for i, tap in enumerate(taps[1:], 1):
        result = result + tap * padded[..., i : i + rows, :]
    return result


def filter_window(x: Tensor, taps: Sequence[float], border: int) -> Tensor:
    """The separable window of ``taps`` along both axes."""
    return filter_rows(filter_rows(x, taps, border).mT, taps, border).mT
