"""Definition of the operator ``gaussian``; arguments as in ``cpp/schema.cpp``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hdrops.reference._autograd import differentiable
from hdrops.reference._windows import ZEROS, filter_window
from hdrops.reference.imf import FULL_SCALE


def _compute(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def window(sigma: float, radius: int) -> list[float]:
    """The Gaussian of ``sigma`` sampled at -radius ... radius, of sum 1."""
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _wide(image: Tensor) -> Tensor:
    """In the arithmetic type: floats as they are, codes in [0, 1]."""
    return image.to(_compute(image)) * (1 / FULL_SCALE.get(image.dtype, 1.0))


def blur(image: Tensor, sigma: float, radius: int, border: int) -> Tensor:
    """The filtered image in the arithmetic type, of codes in [0, 1]."""
    wide = _wide(image)
    return filter_window(wide, window(sigma, radius), border) if image.numel() else wide


def mask(image: Tensor, sigma: float, radius: int, border: int, invert: bool) -> Tensor:
    """Eq. 4 or 5 of every image, 1 for an image that is flat."""
    blurred = blur(image, sigma, radius, border)
    if not image.numel():
        return blurred
    low, high = blurred.amin((1, 2, 3), keepdim=True), blurred.amax((1, 2, 3), keepdim=True)
    flat = low == high
    if border != ZEROS:  # rounding of a constant leaves no contrast either
        wide = _wide(image)
        flat = flat | (wide.amin((1, 2, 3), keepdim=True) == wide.amax((1, 2, 3), keepdim=True))
    normalised = (blurred - low) / torch.where(flat, 1.0, high - low)
    return torch.where(flat, torch.ones_like(blurred), 1 - normalised if invert else normalised)


def _stored(result: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype not in FULL_SCALE:
        return result.to(dtype)
    codes = (result * FULL_SCALE[dtype]).nan_to_num(0.0).round().clamp(0, FULL_SCALE[dtype])
    return codes.to(torch.int32).to(dtype)


def gaussian_blur(image: Tensor, sigma: float, radius: int, border: int, dtype: torch.dtype | None = None) -> Tensor:
    return _stored(blur(image, sigma, radius, border), dtype or image.dtype)


def gaussian_blur_out(image: Tensor, sigma: float, radius: int, border: int, out: Tensor) -> None:
    out.copy_(gaussian_blur(image, sigma, radius, border, out.dtype))


def gaussian_blur_backward(grad: Tensor, sigma: float, radius: int, border: int) -> Tensor:
    if not grad.numel():
        return torch.zeros_like(grad)
    with differentiable():
        variable = torch.zeros_like(grad, dtype=_compute(grad)).requires_grad_()
        out = blur(variable, sigma, radius, border)
        return torch.autograd.grad(out, variable, grad.to(out.dtype))[0].to(grad.dtype)


def gaussian_mask(
    image: Tensor, sigma: float, radius: int, border: int, invert: bool, dtype: torch.dtype | None = None
) -> Tensor:
    return _stored(mask(image, sigma, radius, border, invert), dtype or image.dtype)


def gaussian_mask_out(image: Tensor, sigma: float, radius: int, border: int, invert: bool, out: Tensor) -> None:
    out.copy_(gaussian_mask(image, sigma, radius, border, invert, out.dtype))


def gaussian_mask_backward(grad: Tensor, image: Tensor, sigma: float, radius: int, border: int, invert: bool) -> Tensor:
    if not image.numel():
        return torch.zeros_like(image)
    with differentiable():
        variable = image.detach().requires_grad_()
        out = mask(variable, sigma, radius, border, invert)
        return torch.autograd.grad(out, variable, grad.to(out.dtype))[0]
