"""Operator ``ssim``: structural similarity on one scale (Wang, Bovik, Sheikh and Simoncelli 2004) and on several (Wang,
Simoncelli and Bovik 2003)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hdrops.ops import _arguments, _providers
from hdrops.ops._borders import WindowBorder, border_number
from hdrops.reference import gaussian
from hdrops.reference import ssim as reference

Reduction = Literal["mean", "none"]
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
        data_range: L, the range of the values: 1 for images in [0, 1] and for codes, 255 for floats of 0 to 255.
        window: odd number of taps of the separable window.
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
    return _reduced(means[..., 0, 0].mean(1), reduction)


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
    if not weights or not all(0 <= w < math.inf for w in weights):
        raise ValueError(f"weights must be finite exponents >= 0, at least one, got {tuple(weights)}")
    if downsampling not in get_args(Downsampling):
        raise ValueError(f"downsampling must be 'symmetric' or 'zeros', got {downsampling!r}")
    levels = len(weights)
    arguments = _checked(x, y, data_range, window, sigma, border, k, unbiased, reduction, levels)
    means = _providers.overload("ssim_means", backend, arguments[0])(*arguments, levels, downsampling == "zeros")
    factors = torch.cat([means[..., :-1, 1], means[..., -1:, 0]], -1)
    # Not clamp(min=0) ** w: its gradient at 0 is infinite, and infinity times 0 is NaN.
    negative = factors <= 0
    exponents = torch.tensor(weights, dtype=means.dtype, device=means.device)
    powers = torch.where(negative, 0.0, torch.where(negative, 1.0, factors).pow(exponents))
    return _reduced(powers.prod(-1).mean(1), reduction)


def _reduced(values: Tensor, reduction: str) -> Tensor:
    return values.mean() if reduction == "mean" else values


def taps(window: int, sigma: float | None) -> list[float]:
    """Those of a Gaussian window, or of a uniform one."""
    window, sigma = _constant(window), _constant(sigma)
    return [1 / window] * window if sigma is None else gaussian.window(sigma, window // 2)


def _constant(value: Any) -> Any:
    """A number itself where the compiler has made it a symbol: taps of symbols do not compile."""
    if value is None or not torch.compiler.is_compiling():
        return value
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return guard_scalar(value)


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
    if not 0 < data_range < math.inf:
        raise ValueError(f"data_range must be positive and finite, got {data_range}")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be an odd number of taps, got {window}")
    if sigma is not None and not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, or None for a uniform window, got {sigma}")
    if len(k) != 2 or not all(0 <= value < math.inf for value in k):
        raise ValueError(f"k must be two finite constants >= 0, got {k}")
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    if unbiased and window == 1:
        raise ValueError("unbiased needs a window of at least 3 taps")
    number = border_number(border, WindowBorder)
    *_, c, h, w = x.shape
    if 0 in (c, h, w):
        raise ValueError(f"x has no pixels: shape {tuple(x.shape)}")
    smallest = (window - 1) * 2 ** (levels - 1) + 1 if border == "valid" else 1
    if min(h, w) < smallest:
        scales = f" on {levels} scales" if levels > 1 else ""
        raise ValueError(
            f"an image of {w} x {h} is too small for a window of {window}{scales}: give at least {smallest} pixels "
            "a side, border='symmetric', or fewer weights"
        )
    covariance = window**2 / (window**2 - 1) if unbiased else 1.0
    c1, c2 = ((value * data_range) ** 2 for value in k)
    return x, y, taps(window, sigma), c1, c2, covariance, number


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
