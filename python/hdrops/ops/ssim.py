"""Operator ``ssim``: structural similarity on one scale (Wang, Bovik, Sheikh and Simoncelli 2004) and on several (Wang,
Simoncelli and Bovik 2003)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hdrops.ops import _arguments, _providers
from hdrops.ops._borders import WindowBorder
from hdrops.ops._similarity import Reduction, checked_options, checked_weights, product_of_powers, reduced
from hdrops.reference import ssim as reference

Downsampling = Literal["symmetric", "zeros"]
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ssim(
    x: Tensor,
    y: Tensor,
    data_range: float = 1.0,
    *,
    window: int = 11,
    sigma: float | None = 1.5,
    border: WindowBorder = "valid",
    k: tuple[float, float] = (0.01, 0.03),
    unbiased: bool = False,
    reduction: Reduction = "mean",
    backend: str | None = None,
) -> Tensor:
    """Structural similarity of two images, differentiable with respect to both.

    ::

        l = (2 µ_x µ_y + C_1) / (µ_x² + µ_y² + C_1),   cs = (2 σ_xy + C_2) / (σ_x² + σ_y² + C_2)
        SSIM = mean of l · cs over positions and channels,   C_i = (k_i · data_range)²

    with means, variances and covariance under a window of weights that sum to 1. Moments are taken about a nearby
    value, not as E[x²] - µ², so that bright flat areas keep their accuracy.

    Args:
        x: (N, C, H, W), any C: floating point, or uint8 or uint16 codes, which are scaled to [0, 1] first.
        y: of the same shape and dtype.
        data_range: L, the range of the values: 1 for images in [0, 1], 255 for floats of 0 to 255; of codes always 1.
            Windows of a float32 image whose values exceed it a hundredfold lose their accuracy: convert to float64.
        window: odd number of taps of the separable window, 1 to 127.
        sigma: of a Gaussian window in pixels; None for a uniform one.
        border: "valid" takes only positions at which the whole window lies inside, as Wang's code, pytorch-msssim and
            the mean of scikit-image do; or "reflect", "symmetric", "replicate" (MATLAB's ``ssim``), "zeros".
        k: the constants k_1 and k_2.
        unbiased: variances and covariance times n / (n - 1), for n = window² weights; scikit-image does so by default
            with its uniform window of 7.
        reduction: "mean" over the batch, or "none" for a value per image.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        A scalar, or (N,) for reduction "none"; float32, float64 for float64 images. NaN where an image of the mean
        holds NaN. A loss is ``1 - ssim(x, y)``: see :mod:`hdrops.losses`.

    Raises:
        TypeError: images of an unsupported dtype, or of two.
        ValueError: shapes that differ, an image smaller than the window, or an option out of range.
    """
    arguments = _checked(x, y, data_range, window, sigma, border, k, unbiased, reduction, 1)
    means = _providers.overload("ssim_means", backend, arguments[0])(*arguments, 1, False)
    return reduced(means[..., 0, 0].mean(1), reduction)


def ms_ssim(
    x: Tensor,
    y: Tensor,
    data_range: float = 1.0,
    *,
    weights: Sequence[float] = MS_SSIM_WEIGHTS,
    window: int = 11,
    sigma: float | None = 1.5,
    border: WindowBorder = "valid",
    k: tuple[float, float] = (0.01, 0.03),
    downsampling: Downsampling = "symmetric",
    unbiased: bool = False,
    reduction: Reduction = "mean",
    backend: str | None = None,
) -> Tensor:
    """Multi-scale structural similarity of two images, differentiable with respect to both.

    ::

        MS-SSIM = Π_{j < M} cs_j^{w_j} · (l · cs)_M^{w_M}

    for each channel, then the mean over the channels; cs_j and (l · cs)_M are the means of :func:`ssim` at scale j,
    each scale half the size of the one before, by means of 2 x 2 pixels. A negative mean counts as 0, whose power is 0
    and has a gradient of 0.

    Args:
        x: (N, C, H, W), as for :func:`ssim`.
        y: of the same shape and dtype.
        data_range: as for :func:`ssim`.
        weights: w_1 ... w_M, finest first; those of the paper by default. Their number is that of the scales.
        window: as for :func:`ssim`, of every scale.
        sigma: as for :func:`ssim`.
        border: as for :func:`ssim`.
        k: as for :func:`ssim`.
        downsampling: of odd sizes: "symmetric" repeats the last line (Wang's code); "zeros" averages with a line of
            zeros before and after the image (pytorch-msssim). Even sizes are alike.
        unbiased: as for :func:`ssim`.
        reduction: as for :func:`ssim`.
        backend: as for :func:`ssim`.

    Returns:
        A scalar, or (N,) for reduction "none"; float32, float64 for float64 images.

    Raises:
        TypeError: images of an unsupported dtype, or of two.
        ValueError: as for :func:`ssim`; with border "valid" the coarsest scale must hold the window.
    """
    exponents = checked_weights(weights)
    if downsampling not in get_args(Downsampling):
        raise ValueError(f"downsampling must be 'symmetric' or 'zeros', got {downsampling!r}")
    levels = len(exponents)
    arguments = _checked(x, y, data_range, window, sigma, border, k, unbiased, reduction, levels)
    means = _providers.overload("ssim_means", backend, arguments[0])(*arguments, levels, downsampling == "zeros")
    factors = torch.cat([means[..., :-1, 1], means[..., -1:, 0]], -1)
    return reduced(product_of_powers(factors, exponents).mean(1), reduction)


def _checked(
    x: Any,
    y: Any,
    data_range: float,
    window: int,
    sigma: float | None,
    border: str,
    k: tuple[float, float],
    unbiased: bool,
    reduction: str,
    levels: int,
) -> tuple[Any, ...]:
    x, y = _arguments.as_tensor(x, "x"), _arguments.as_tensor(y, "y")
    _arguments.check_image_dtype(x, "x")
    if y.dtype != x.dtype:
        raise TypeError(f"x and y must have one dtype, got {x.dtype} and {y.dtype}")
    if x.dim() != 4:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x.shape)}")
    if y.shape != x.shape:
        raise ValueError(f"x and y must have one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"x is on {x.device}, y on {y.device}; move them to one device")
    if len(k) != 2 or not all(0 <= value < math.inf for value in k):
        raise ValueError(f"k must be two finite constants >= 0, got {k}")
    if unbiased and window == 1:
        raise ValueError("unbiased needs a window of at least 3 taps")
    if 0 in x.shape[1:]:
        raise ValueError(f"x has no pixels: shape {tuple(x.shape)}")
    taps, number = checked_options(x, data_range, window, sigma, border, reduction, levels, 1)
    covariance = window**2 / (window**2 - 1) if unbiased else 1.0
    c1, c2 = ((value * data_range) ** 2 for value in k)
    return x, y, taps, c1, c2, covariance, number


# ---- fake kernels and autograd -------------------------------------------------------------------------------------


def _fake(
    x: Tensor, y: Tensor, window: Any, c1: float, c2: float, cov: float, border: int, levels: int, *_: Any
) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], levels, 2), dtype=_arguments.compute_dtype(x))


def _backward_fake(grad: Tensor, x: Tensor, y: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    *_, wants_x, wants_y = options
    return x.new_empty(x.shape if wants_x else (0,)), y.new_empty(y.shape if wants_y else (0,))


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, y, *ctx.options = inputs
    ctx.save_for_backward(x, y)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, x, y, *ctx.options, ctx.wants_x, ctx.wants_y = inputs
    ctx.save_for_backward(grad, x, y)


def _backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, y = ctx.saved_tensors
    wants_x, wants_y = ctx.needs_input_grad[:2]
    operator = getattr(torch.ops, namespace).ssim_means_backward
    grad_x, grad_y = operator(grad, x, y, *ctx.options, wants_x, wants_y)
    return (grad_x if wants_x else None, grad_y if wants_y else None, *(None for _ in ctx.options))


def _double_backward(namespace: str, ctx: Any, grad_x: Tensor, grad_y: Tensor) -> tuple[Any, ...]:
    grad, x, y = ctx.saved_tensors

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return reference.means(x, y, *ctx.options).to(grad.dtype)

    outputs = [g if wanted else None for g, wanted in ((grad_x, ctx.wants_x), (grad_y, ctx.wants_y))]
    return *_providers.second_order(forward, [x, y], grad, outputs), *(None for _ in ctx.options), None, None


_providers.register("ssim_means", "ssim", fake=_fake, backward=_backward, setup_context=_save_forward)
_providers.register(
    "ssim_means_backward",
    "ssim",
    fake=_backward_fake,
    backward=_double_backward,
    setup_context=_save_backward,
)
