"""What JPEG does to a picture, without the file: everything of the codec that loses information."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-T T.81, tables K.1 and K.2, row by row.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def _transform() -> Tensor:
    """The DCT of a block of 64 values in a row as one orthonormal matrix (64, 64)."""
    k, x = torch.meshgrid(torch.arange(8.0, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64), indexing="ij")
    line = torch.cos((2 * x + 1) * k * math.pi / 16) / 2
    line[0] /= math.sqrt(2)
    return torch.kron(line, line).float()


_DCT = _transform()


def jpeg_round_trip(codes: Tensor, quality: int, *, subsampled: bool = False) -> Tensor:
    """The picture that a JPEG file of it would hold: colour conversion, DCT, quantisation, and back.

    Baseline JPEG (ITU-T T.81) in JFIF's YCbCr with the example tables of its annex K, scaled by quality as libjpeg does
    it. The entropy coding that is left out loses nothing. A real codec computes in integers of few bits and so rounds
    some coefficients near the middle of two levels the other way: pixels differ from its by less than a third of the
    loss, and the loss itself by hardly anything.

    Args:
        codes: (..., 3, H, W) uint8, red, green, blue; H, W >= 1.
        quality: 1 to 100.
        subsampled: halve the colour differences in both directions ("4:2:0") instead of keeping them ("4:4:4"). They
            are averaged, and interpolated linearly when read.

    Returns:
        (..., 3, H, W) uint8.

    Raises:
        TypeError: codes other than uint8.
        ValueError: another shape, or a quality out of range.
    """
    if codes.dtype != torch.uint8:
        raise TypeError(f"JPEG holds uint8 codes, got {codes.dtype}")
    if codes.dim() < 3 or codes.shape[-3] != 3 or 0 in codes.shape:
        raise ValueError(f"codes must be (..., 3, H, W), got shape {tuple(codes.shape)}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1 to 100, got {quality}")
    height, width = codes.shape[-2:]
    red, green, blue = codes.reshape(-1, 3, height, width).float().unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1)
    luma = _coded((luma - 128).round_()[:, None], _steps(_LUMINANCE, quality))[:, 0].add_(128).clamp_(0, 255)
    if subsampled:
        small = F.avg_pool2d(_padded(chroma, 2), 2).round_()
        small = _coded(small, _steps(_CHROMINANCE, quality)).clamp_(-128, 127)
        chroma = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
        chroma = chroma.round_()
    else:
        chroma = _coded(chroma.round_(), _steps(_CHROMINANCE, quality)).clamp_(-128, 127)
    cb, cr = chroma.unbind(1)
    decoded = torch.stack([luma + 1.402 * cr, luma - 0.344136286 * cb - 0.714136286 * cr, luma + 1.772 * cb], 1)
    return decoded.round_().clamp_(0, 255).to(torch.uint8).reshape(codes.shape)


def _steps(table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """The quantisation steps (64,) at a quality: the table's at 50."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = torch.tensor(table).flatten()
    return ((base * percent + 50) // 100).clamp(1, 255).float()


def _padded(planes: Tensor, multiple: int) -> Tensor:
    """Extended at the right and bottom by repetition, as encoders do."""
    height, width = planes.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    return F.pad(planes, (0, right, 0, bottom), mode="replicate") if right or bottom else planes


def _coded(planes: Tensor, steps: Tensor) -> Tensor:
    """(N, C, H, W) after quantisation of its DCT coefficients, rounded to integers."""
    height, width = planes.shape[-2:]
    padded = _padded(planes, 8)
    n, c, rows, columns = padded.shape
    blocks = padded.reshape(n, c, rows // 8, 8, columns // 8, 8).transpose(3, 4).reshape(-1, 64)
    levels = ((blocks @ _DCT.T) / steps).round_()
    blocks = ((levels * steps) @ _DCT).round_()
    blocks = blocks.reshape(n, c, rows // 8, columns // 8, 8, 8).transpose(3, 4)
    return blocks.reshape(n, c, rows, columns)[..., :height, :width]
