"""Definition of the operator ``exposure_fusion``; arguments as in ``cpp/schema.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

from hdrops.reference._autograd import differentiable
from hdrops.reference.imf import FULL_SCALE

GREY = (0.299, 0.587, 0.114)
EPSILON = 1e-12
TWO_SIGMA_SQUARED = 0.08
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def _compute(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _reflect(i: int, size: int) -> int:
    """Mirror without repeating the edge; a single pixel repeats."""
    if size == 1:
        return 0
    i = abs(i) % (2 * size - 2)
    return min(i, 2 * size - 2 - i)


def _gather_rows(x: Tensor, rows: list[int]) -> Tensor:
    return x.index_select(-2, torch.tensor(rows, device=x.device))


def _down_rows(x: Tensor) -> Tensor:
    size = x.shape[-2]
    taps = [
        weight * _gather_rows(x, [_reflect(2 * i + tap, size) for i in range((size + 1) // 2)])
        for tap, weight in zip(range(-2, 3), BINOMIAL, strict=True)
    ]
    return taps[0] + taps[1] + taps[2] + taps[3] + taps[4]


def _up_rows(x: Tensor, size: int) -> Tensor:
    """Even rows (1, 6, 1) / 8, odd rows (4, 4) / 8; the row before the first is the second, the row after the last
    the last."""
    coarse = x.shape[-2]

    def row(i: int) -> int:
        return min(1, coarse - 1) if i < 0 else min(i, coarse - 1)

    even = (
        _gather_rows(x, [row(y // 2 - 1) for y in range(size)])
        + 6 * x.index_select(-2, torch.tensor([y // 2 for y in range(size)], device=x.device))
        + _gather_rows(x, [row(y // 2 + 1) for y in range(size)])
    ) / 8
    odd = (_gather_rows(x, [y // 2 for y in range(size)]) + _gather_rows(x, [row(y // 2 + 1) for y in range(size)])) / 2
    is_even = torch.tensor([y % 2 == 0 for y in range(size)], device=x.device)[:, None]
    return torch.where(is_even, even, odd)


def down(x: Tensor) -> Tensor:
    """One pyramid level down: binomial filter, every second row and column."""
    return _down_rows(_down_rows(x).mT).mT


def up(x: Tensor, height: int, width: int) -> Tensor:
    """One pyramid level up, to (height, width)."""
    return _up_rows(_up_rows(x, height).mT, width).mT


def levels(height: int, width: int) -> int:
    """Pyramid levels above the finest: floor(log2(min(height, width)))."""
    return max(min(height, width), 1).bit_length() - 1


def _power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent for x >= 0, with 0 ** 0 = 1 and a gradient of 0 at x = 0."""
    if exponent == 0:
        return torch.ones_like(x)
    if exponent == 1:
        return x
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0) ** exponent, 0.0 * x)


def _root(x: Tensor) -> Tensor:
    return _power(x, 0.5)


def _fma(a: Tensor, b: float, c: Tensor) -> Tensor:
    """a * b + c with one rounding in float32."""
    if a.dtype == torch.float64:
        return a * b + c
    rounded = torch.tensor(b, dtype=torch.float32).item()
    return (a.double() * rounded + c.double()).float()


def grey(images: Tensor, opencv: bool) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B of images (..., C, H, W); one channel is itself.

    With ``opencv`` in the order and rounding of OpenCV's float32 conversion.
    """
    if images.shape[-3] != 3:
        return images[..., 0, :, :]
    r, g, b = images.unbind(-3)
    if opencv:
        return _fma(b, GREY[2], _fma(r, GREY[0], g * GREY[1]))
    return GREY[0] * r + GREY[1] * g + GREY[2] * b


def laplacian(x: Tensor) -> Tensor:
    """Four-neighbour Laplacian, mirrored border."""
    padded = x
    # One axis at a time, so that one-pixel sizes work.
    for _ in range(2):
        size = padded.shape[-2]
        padded = _gather_rows(padded, [_reflect(i, size) for i in range(-1, size + 1)]).mT
    above, left = padded[..., :-2, 1:-1], padded[..., 1:-1, :-2]
    right, below = padded[..., 1:-1, 2:], padded[..., 2:, 1:-1]
    return above + left - 4 * x + right + below


def colourfulness(images: Tensor, opencv: bool) -> Tensor:
    """Standard deviation of (..., 3, H, W) over the channels; with ``opencv`` the root of the sum of squares.

    From the differences of channels, so that a neutral pixel gives exactly 0; OpenCV subtracts a rounded mean, and its
    weights of neutral pixels are rounding noise, which ``opencv`` reproduces.
    """
    r, g, b = images.unbind(-3)
    if opencv:
        mean = (r + g + b) * (1 / 3)
        return _root((r - mean).square() + (g - mean).square() + (b - mean).square())
    return _root(((r - g).square() + (g - b).square() + (b - r).square()) / 9)


def weights(images: Tensor, contrast: float, saturation: float, exposedness: float, opencv: bool) -> Tensor:
    """Normalised weights (N, K, H, W) of images (N, K, C, H, W) in [0, 1]."""
    weight = _power(laplacian(grey(images, opencv)).abs(), contrast)
    if images.shape[2] == 3:
        weight = weight * _power(colourfulness(images, opencv), saturation)
    if exposedness != 0:
        distance = (images - 0.5).square().sum(2)
        weight = weight * torch.exp(-exposedness / TWO_SIGMA_SQUARED * distance)
    weight = weight + EPSILON
    return weight / weight.sum(1, keepdim=True)


def fuse(bracket: Tensor, contrast: float, saturation: float, exposedness: float, opencv: bool) -> Tensor:
    """The fused image (N, C, H, W) in the arithmetic type, in [0, 1] but for overshoot; clamped unless ``opencv``."""
    images = bracket.to(_compute(bracket)) * (1 / FULL_SCALE.get(bracket.dtype, 1.0))
    weight = weights(images, contrast, saturation, exposedness, opencv)
    h, w = images.shape[-2:]
    depth = levels(h, w)
    image_pyramid, weight_pyramid = [images], [weight]
    for _ in range(depth):
        image_pyramid.append(down(image_pyramid[-1]))
        weight_pyramid.append(down(weight_pyramid[-1]))
    result = (weight_pyramid[-1].unsqueeze(2) * image_pyramid[-1]).sum(1)
    for level in range(depth - 1, -1, -1):
        size = image_pyramid[level].shape[-2:]
        band = image_pyramid[level] - up(image_pyramid[level + 1], *size)
        result = up(result, *size) + (weight_pyramid[level].unsqueeze(2) * band).sum(1)
    return result if opencv else result.clamp(0, 1)


def exposure_fusion(
    bracket: Tensor,
    contrast: float,
    saturation: float,
    exposedness: float,
    opencv: bool,
    dtype: torch.dtype | None = None,
) -> Tensor:
    n, _, c, h, w = bracket.shape
    dtype = dtype or bracket.dtype
    if bracket.numel() == 0:
        return bracket.new_empty((n, c, h, w), dtype=dtype)
    result = fuse(bracket, contrast, saturation, exposedness, opencv)
    if dtype not in FULL_SCALE:
        return result.to(dtype)
    codes = (result * FULL_SCALE[dtype]).nan_to_num(0.0).round().clamp(0, FULL_SCALE[dtype])
    return codes.to(torch.int32).to(dtype)


def exposure_fusion_out(
    bracket: Tensor, contrast: float, saturation: float, exposedness: float, opencv: bool, out: Tensor
) -> None:
    out.copy_(exposure_fusion(bracket, contrast, saturation, exposedness, opencv, out.dtype))


def exposure_fusion_backward(
    grad: Tensor, bracket: Tensor, contrast: float, saturation: float, exposedness: float, opencv: bool
) -> Tensor:
    if bracket.numel() == 0:
        return torch.zeros_like(bracket)
    with differentiable():
        variable = bracket.detach().requires_grad_()
        out = fuse(variable, contrast, saturation, exposedness, opencv)
        return torch.autograd.grad(out, variable, grad.to(out.dtype))[0]
