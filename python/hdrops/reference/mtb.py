"""Definition of the operator ``mtb``; arguments as in ``cpp/schema.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

# BT.601 in 15-bit fixed point.
GREY = (9798, 19235, 3735)


def grey_codes(image: Tensor) -> Tensor:
    """Images (N, C, H, W) as 8-bit grey codes (N, H, W), int32: samples become codes first, then the codes grey."""
    if image.dtype == torch.uint8:
        codes = image.to(torch.int32)
    elif image.dtype == torch.uint16:
        codes = (255 * image.to(torch.int32) + 32895) >> 16
    else:
        wide = 255 * (image if image.dtype == torch.float64 else image.float())
        codes = wide.nan_to_num(0.0, posinf=255.0, neginf=0.0).round().clamp(0, 255).to(torch.int32)
    if codes.shape[1] == 1:
        return codes[:, 0]
    red, green, blue = codes.unbind(1)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue + (1 << 14)) >> 15


def level_count(height: int, width: int, most: int) -> int:
    """Levels of the pyramid: the coarsest has 2 or 3 pixels along the longer side, and one along the shorter."""
    return min(most, max(height, width).bit_length() - 1, min(height, width).bit_length())


def bitmaps(codes: Tensor, exclude: int) -> tuple[Tensor, Tensor]:
    """Where grey codes (h, w) lie above and where below the median, by more than ``exclude``."""
    counts = torch.bincount(codes.flatten(), minlength=256)
    before = counts.cumsum(0) - counts
    median = int((before < codes.numel() // 2).sum())
    return codes > median + exclude, codes < median - exclude


def moved(bitmap: Tensor, dy: int, dx: int) -> Tensor:
    """out(y, x) = bitmap(y - dy, x - dx), False outside."""
    h, w = bitmap.shape
    out = torch.zeros_like(bitmap)
    if abs(dy) < h and abs(dx) < w:
        kept = bitmap[max(-dy, 0) : h - max(dy, 0), max(-dx, 0) : w - max(dx, 0)]
        out[max(dy, 0) : h - max(-dy, 0), max(dx, 0) : w - max(-dx, 0)] = kept
    return out


def shift_of_pair(image: Tensor, reference: Tensor, levels: int, exclude: int) -> tuple[int, int, int, int]:
    """dy, dx, pixels that disagree and pixels compared, of grey codes (H, W)."""
    height, width = image.shape
    dy = dx = errors = compared = 0
    for level in reversed(range(level_count(height, width, levels))):
        dy, dx, errors, compared = 2 * dy, 2 * dx, 0, 0
        h, w = height >> level, width >> level
        of_image, of_reference = (
            bitmaps(codes[:: 1 << level, :: 1 << level][:h, :w], exclude) for codes in (image, reference)
        )
        if not all(bool((above | below).any()) for above, below in (of_image, of_reference)):
            continue
        found = []
        for step_x in (-1, 0, 1):
            for step_y in (-1, 0, 1):
                above, below = (moved(bitmap, dy + step_y, dx + step_x) for bitmap in of_image)
                disagree = (of_reference[0] & below) | (of_reference[1] & above)
                overlap = (of_reference[0] | of_reference[1]) & (above | below)
                found.append((int(disagree.sum()), dy + step_y, dx + step_x, int(overlap.sum())))
        # The first of the best.
        errors, dy, dx, compared = min(found, key=lambda candidate: candidate[0])
    return dy, dx, errors, compared


def mtb_shift(image: Tensor, reference: Tensor, levels: int, exclude: int) -> Tensor:
    pairs = zip(grey_codes(image), grey_codes(reference), strict=True)
    rows = [shift_of_pair(one, other, levels, exclude) for one, other in pairs]
    return torch.tensor(rows, dtype=torch.int64, device=image.device).reshape(len(rows), 4)
