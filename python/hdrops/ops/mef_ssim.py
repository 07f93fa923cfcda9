"""Operator ``mef_ssim``: quality of a fused image given its bracket, of Ma, Zeng and Wang, "Perceptual quality
assessment for multi-exposure image fusion", IEEE Transactions on Image Processing 24, 2015."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hdrops.ops import _arguments, _grey, _providers
from hdrops.ops._borders import WindowBorder
from hdrops.ops._similarity import Reduction, checked_options, checked_weights, product_of_powers, reduced
from hdrops.ops.ssim import MS_SSIM_WEIGHTS
from hdrops.reference import mef_ssim as reference

# Those of the authors' code: the finest three of MS-SSIM's five, of sum 1.
MEF_SSIM_WEIGHTS = tuple(weight / math.fsum(MS_SSIM_WEIGHTS[:3]) for weight in MS_SSIM_WEIGHTS[:3])


def mef_ssim(
    fused: Tensor,
    bracket: Tensor,
    data_range: float = 1.0,
    *,
    weights: Sequence[float] = MEF_SSIM_WEIGHTS,
    window: int = 11,
    sigma: float = 1.5,
    border: WindowBorder = "valid",
    k: float = 0.03,
    reduction: Reduction = "mean",
    backend: str | None = None,
) -> Tensor:
    """Multi-exposure fusion SSIM of a fused image and its sources, differentiable with respect to the fused image.

    Of the patches x_k of K sources at one position, with µ their mean and ‖x̃_k‖ the norm of x̃_k = x_k - µ_k, the
    desired patch and the quality of the patch y of the fused image are ::

        c   = max_k (‖x̃_k‖ + 0.001)
        R   = (‖Σ x̃_k‖ + ε) / (Σ ‖x̃_k‖ + ε),   p = min(tan(π R / 2), 10)
        s̄   = Σ w_k x̃_k / (‖x̃_k‖ + 0.001),      w_k = ((‖x̃_k‖ + 0.001) / window)^p + ε
        x̂   = c s̄ / ‖s̄‖
        Q   = (2 σ_x̂y + C) / (σ_x̂² + σ_y² + C),  C = (k · 255)²

    for values on 0 to 255. Norms and means of the desired patch (eq. 6 to 11) are under a uniform window, the moments
    of Q (eq. 13) under the Gaussian one. MEF-SSIM is ::

        Π_j (mean of Q at scale j)^{w_j}

    each scale half the size of the one before, by means of 2 x 2 pixels, odd sizes repeating their last line; a
    negative mean counts as 0, whose power is 0 and has a gradient of 0. Constants and borders are those of the authors'
    code.

    Args:
        fused: (N, C, H, W) with 1 or 3 channels: floating point, or uint8 or uint16 codes. Colour becomes grey first,
            by MATLAB's ``rgb2gray``; of uint8 it is rounded to codes, as there.
        bracket: the sources, (N, K, C, H, W) with K >= 1, of the same dtype, in any order.
        data_range: the range of the values: 1 for images in [0, 1], 255 for floats of 0 to 255; of codes always 1.
        weights: w_1 ... w_J, finest first; their number is that of the scales, ``(1.0,)`` for the finest alone.
        window: odd number of taps of both windows, 3 to 127.
        sigma: of the Gaussian window, in pixels.
        border: "valid" takes only positions at which the whole window lies inside, as the authors do; or "reflect",
            "symmetric", "replicate", "zeros".
        k: of the constant C, positive.
        reduction: "mean" over the batch, or "none" for a value per image.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        A scalar, or (N,) for reduction "none"; float32, float64 for float64 images. 1 is the best, of one source, or of
        equal ones, and this image itself. Where all sources are flat, or cancel but for rounding, the desired patch is
        flat, and Q falls with the fused patch's variance. NaN for an image whose fused image or sources hold NaN or
        infinity. The gradient of ``fused`` is exact, since the desired patch does not depend on it.

    Raises:
        TypeError: images of an unsupported dtype, or of two.
        ValueError: shapes that do not go together, an image smaller than the window at the coarsest scale, or an option
            out of range.
        RuntimeError: a bracket that requires a gradient.
    """
    fused, sources = _checked_images(fused, bracket)
    exponents = checked_weights(weights)
    if not 0 < k < math.inf:
        raise ValueError(f"k must be positive and finite, got {k}")
    taps, number = checked_options(fused, data_range, window, sigma, border, reduction, len(exponents), 3)
    operator = _providers.overload("mef_ssim_means", backend, fused)
    means = operator(in_grey(fused), in_grey(sources), taps, float(data_range), float(k), number, len(exponents))
    return reduced(product_of_powers(means, exponents), reduction)


def _checked_images(fused: Any, bracket: Any) -> tuple[Tensor, Tensor]:
    image, sources = _arguments.as_tensor(fused, "fused"), _arguments.as_tensor(bracket, "bracket")
    _arguments.check_image_dtype(image, "fused")
    if sources.dtype != image.dtype:
        raise TypeError(f"fused and bracket must have one dtype, got {image.dtype} and {sources.dtype}")
    if image.dim() != 4 or image.shape[1] not in (1, 3):
        raise ValueError(f"fused must be (N, C, H, W) with 1 or 3 channels, got shape {tuple(image.shape)}")
    if sources.dim() != 5 or sources.shape[:1] + sources.shape[2:] != image.shape:
        raise ValueError(
            f"bracket must be (N, K, C, H, W) for fused {tuple(image.shape)}, got shape {tuple(sources.shape)}"
        )
    if 0 in sources.shape[1:]:
        raise ValueError(f"bracket has no pixels: shape {tuple(sources.shape)}")
    if sources.device != image.device:
        raise ValueError(f"fused is on {image.device}, bracket on {sources.device}; move them to one device")
    if torch.is_grad_enabled() and sources.requires_grad:
        raise RuntimeError(
            "mef_ssim has no gradient of the bracket: the desired patch is a constant; give bracket.detach()"
        )
    return image, sources


def in_grey(image: Tensor) -> Tensor:
    """One channel of (..., C, H, W): what the operator takes."""
    if image.shape[-3] == 1:
        return image
    wide = _grey.luma(image.to(_arguments.compute_dtype(image)))
    if image.dtype == torch.uint8:
        return _grey.rounded(wide).to(torch.uint8)
    return wide / 65535 if image.dtype == torch.uint16 else wide


# ---- fake kernels and autograd -------------------------------------------------------------------------------------


def _fake(fused: Tensor, bracket: Tensor, window: Any, data_range: float, k: float, border: int, levels: int) -> Tensor:
    return fused.new_empty((fused.shape[0], levels), dtype=_arguments.compute_dtype(fused))


def _backward_fake(grad: Tensor, fused: Tensor, *args: Any) -> Tensor:
    return fused.new_empty(fused.shape)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    fused, bracket, *ctx.options = inputs
    ctx.save_for_backward(fused, bracket)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, fused, bracket, *ctx.options = inputs
    ctx.save_for_backward(grad, fused, bracket)


def _backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    fused, bracket = ctx.saved_tensors
    operator = getattr(torch.ops, namespace).mef_ssim_means_backward
    return operator(grad, fused, bracket, *ctx.options), None, *(None for _ in ctx.options)


def _double_backward(namespace: str, ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    grad, fused, bracket = ctx.saved_tensors

    def forward(fused: Tensor) -> Tensor:
        return reference.means(fused, bracket, *ctx.options).to(grad.dtype)

    return *_providers.second_order(forward, [fused], grad, [grad_output]), None, *(None for _ in ctx.options)


_providers.register("mef_ssim_means", "mef_ssim", fake=_fake, backward=_backward, setup_context=_save_forward)
_providers.register(
    "mef_ssim_means_backward",
    "mef_ssim",
    fake=_backward_fake,
    backward=_double_backward,
    setup_context=_save_backward,
)
