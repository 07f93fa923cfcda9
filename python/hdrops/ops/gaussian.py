"""Operator ``gaussian``: the Gaussian masks of MaskBuilder (Im, Son, Kwon and Lee, "Multi-task learning approach using
dynamic hyperparameter for multi-exposure fusion", Mathematics 2023, 11, 1620)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hdrops.ops import _arguments, _providers
from hdrops.ops._borders import Border, border_number
from hdrops.reference import gaussian as reference

SIGMAS = (0.3, 200.0)
MOST_RADIUS = 10_000


def gaussian_blur(
    image: Tensor,
    sigma: float,
    radius: int | None = None,
    border: Border = "reflect",
    *,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Blur an image by a truncated Gaussian window, on the CPU at a cost that does not grow with sigma.

    Eq. 1 to 3 of the paper, with the window normalised to a sum of 1::

        I_g(i, j) = Σ_{|y| <= r} Σ_{|x| <= r} g(y) g(x) I(i + y, j + x),   g(t) ∝ exp(-t² / (2 sigma²)),   Σ g = 1

    Args:
        image: (N, C, H, W): uint8 or uint16 codes, or floating point of any range whose contrast is in the range of
            float32. Each channel is filtered alone.
            NaN and infinities spread over the window, at most 2 r + 1 pixels square, and no further.
        sigma: standard deviation in pixels, 0.3 to 200.
        radius: r in pixels, 1 to 10000; the paper's window of 6 sigma + 1 taps, r = round(3 sigma), by default.
        border: "reflect" (c b | a b c), "symmetric" (b a | a b c), "replicate" (a a | a b c) or "zeros". Images smaller
            than the window are mirrored as often as it takes.
        dtype: of the result: that of the image (the default; codes are rounded half to even), or ``torch.float32``, in
            [0, 1], for integer images.
        out: tensor to write the result to, of its shape and a dtype as above, sharing no memory with the image. Not
            with autograd.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        The blurred image, (N, C, H, W), in the memory format of the image. Differentiable with respect to a
        floating-point image, as often as wanted. The result for float64 is exact to rounding. On the CPU that for all
        other types is within 3e-5 of the image's contrast, its largest less its smallest value: windows of more than
        12 pixels to either side are sums of 5 to 8 cosines there, fitted to 1e-5 of their sum, so that the time does
        not depend on sigma; without zeros beyond the border a constant channel keeps its value to the bit. Elsewhere,
        and for float64, NaN and infinities, the time grows with the radius: CUDA weighs every tap and Triton
        multiplies by a banded matrix, both exact to rounding.

    Raises:
        TypeError: an unsupported dtype of the image or the result.
        ValueError: a shape, sigma, radius or border out of range.
    """
    arguments = _checked(image, sigma, radius, border)
    return _run("gaussian_blur", arguments, dtype, out, backend)


def gaussian_mask(
    image: Tensor,
    sigma: float = 10.0,
    invert: bool = False,
    out: Tensor | None = None,
    *,
    radius: int | None = None,
    border: Border = "reflect",
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Where an image is bright, or where it is dark, in large areas: the mask of MaskBuilder.

    Eq. 4 of the paper, and with ``invert`` eq. 5::

        M = (I_g - min I_g) / (max I_g - min I_g),   M' = 1 - M

    with I_g of :func:`gaussian_blur`; minimum and maximum are taken over all channels and pixels of each image.

    Args:
        image: (N, C, H, W): uint8 or uint16 codes, or floating point of any range. An image that holds NaN or
            -infinity has a mask of NaN; one that holds +infinity NaN in the windows that do, elsewhere 0 (inverted 1).
        sigma: standard deviation in pixels, 0.3 to 200.
        invert: give the mask of the dark areas, for overexposed images.
        out: tensor to write the mask to, sharing no memory with the image. Not with autograd.
        radius: of the window; round(3 sigma) by default.
        border: as for :func:`gaussian_blur`; the paper leaves this open.
        dtype: as for :func:`gaussian_blur`; full scale of codes is 1.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        The masks, (N, C, H, W), in [0, 1], in the memory format of the image. The paper leaves the flat image open;
        its mask is 1 everywhere with and without ``invert``, so that nothing of it is masked. The error of
        :func:`gaussian_blur` counts relative to the contrast that the blur leaves: masks of photographs are within
        5e-5. Differentiable with respect to a floating-point image; pixels that are equally the minimum or maximum,
        to the bit, share its gradient.

    Raises:
        TypeError: an unsupported dtype of the image or the result.
        ValueError: a shape, sigma, radius or border out of range.
    """
    arguments = _checked(image, sigma, radius, border)
    return _run("gaussian_mask", (*arguments, bool(invert)), dtype, out, backend)


def _checked(image: Any, sigma: float, radius: int | None, border: str) -> tuple[Tensor, float, int, int]:
    image = _arguments.as_tensor(image, "image")
    _arguments.check_image_dtype(image, "image")
    if image.dim() != 4:
        raise ValueError(f"image must be (N, C, H, W), got shape {tuple(image.shape)}")
    if not SIGMAS[0] <= sigma <= SIGMAS[1]:
        raise ValueError(f"sigma must be {SIGMAS[0]:g} to {SIGMAS[1]:g} pixels, got {sigma}")
    reach = math.floor(3 * sigma + 0.5) if radius is None else radius
    if int(reach) != reach or not 1 <= reach <= MOST_RADIUS:
        raise ValueError(f"radius must be 1 to {MOST_RADIUS} whole pixels, got {reach}")
    return image, float(sigma), int(reach), border_number(border, Border)


def _run(
    operator: str, arguments: tuple[Any, ...], dtype: torch.dtype | None, out: Tensor | None, backend: str | None
) -> Tensor:
    image = arguments[0]
    out = out if out is None else _arguments.as_tensor(out, "out")
    wanted = _arguments.output_dtype(image, dtype, out)
    if out is not None:
        _arguments.check_out(out, image.shape, [image])
        if out.is_contiguous():
            _providers.overload(f"{operator}_out", backend, image)(*arguments, out)
            return out
    result = _providers.overload(operator, backend, image)(*arguments, wanted)
    if out is not None:
        return out.copy_(result)
    return _arguments.keep_format(result, image)


# ---- fake kernels and autograd -------------------------------------------------------------------------------------


def _blur_fake(image: Tensor, sigma: float, radius: int, border: int, dtype: torch.dtype | None = None) -> Tensor:
    return image.new_empty(image.shape, dtype=dtype or image.dtype)


def _mask_fake(
    image: Tensor, sigma: float, radius: int, border: int, invert: bool, dtype: torch.dtype | None = None
) -> Tensor:
    return image.new_empty(image.shape, dtype=dtype or image.dtype)


def _out_fake(*args: Any) -> None:
    return None


def _blur_backward_fake(grad: Tensor, sigma: float, radius: int, border: int) -> Tensor:
    return grad.new_empty(grad.shape)


def _mask_backward_fake(grad: Tensor, image: Tensor, sigma: float, radius: int, border: int, invert: bool) -> Tensor:
    return image.new_empty(image.shape)


def _save_blur(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, ctx.sigma, ctx.radius, ctx.border, *_ = inputs


def _save_mask(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    image, *ctx.options, _ = inputs
    ctx.save_for_backward(image)


def _save_mask_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, image, *ctx.options = inputs
    ctx.save_for_backward(grad, image)


def _blur_backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    operator = getattr(torch.ops, namespace).gaussian_blur_backward
    return operator(grad, ctx.sigma, ctx.radius, ctx.border), None, None, None, None


def _blur_double_backward(namespace: str, ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    # The adjoint of the adjoint is the filter itself.
    operator = getattr(torch.ops, namespace).gaussian_blur
    return operator(grad_output, ctx.sigma, ctx.radius, ctx.border), None, None, None


def _mask_backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (image,) = ctx.saved_tensors
    operator = getattr(torch.ops, namespace).gaussian_mask_backward
    return operator(grad, image, *ctx.options), None, None, None, None, None


def _mask_double_backward(namespace: str, ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    grad, image = ctx.saved_tensors

    def forward(images: Tensor) -> Tensor:
        return reference.mask(images, *ctx.options).to(grad.dtype)

    return *_providers.second_order(forward, [image], grad, [grad_output]), None, None, None, None


_providers.register("gaussian_blur", "gaussian", fake=_blur_fake, backward=_blur_backward, setup_context=_save_blur)
_providers.register("gaussian_blur_out", "gaussian", fake=_out_fake)
_providers.register(
    "gaussian_blur_backward",
    "gaussian",
    fake=_blur_backward_fake,
    backward=_blur_double_backward,
    setup_context=_save_blur,
)
_providers.register("gaussian_mask", "gaussian", fake=_mask_fake, backward=_mask_backward, setup_context=_save_mask)
_providers.register("gaussian_mask_out", "gaussian", fake=_out_fake)
_providers.register(
    "gaussian_mask_backward",
    "gaussian",
    fake=_mask_backward_fake,
    backward=_mask_double_backward,
    setup_context=_save_mask_backward,
)
