"""Operator ``lab``: sRGB to CIELAB and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hdrops.ops import _arguments, _providers
from hdrops.reference import lab as reference


def rgb_to_lab(image: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """CIELAB values of a display-referred sRGB image (IEC 61966-2-1, CIE 15, white D65).

    ::

        C = c / 12.92 where c <= 0.04045, ((c + 0.055) / 1.055)^2.4 beyond       C of R, G, B; C(-c) = -C(c)
        [X/Xn]   [0.433887  0.376224  0.189889] [R]
        [Y/Yn] = [0.212639  0.715169  0.072192] [G]
        [Z/Zn]   [0.017750  0.109448  0.872802] [B]
        L* = 116 f(Y/Yn) - 16,  a* = 500 (f(X/Xn) - f(Y/Yn)),  b* = 200 (f(Y/Yn) - f(Z/Zn))
        f(t) = t^(1/3) where t > (6/29)³, t / (3 (6/29)²) + 4/29 elsewhere

    The matrix is that of the primaries (0.64, 0.33), (0.30, 0.60), (0.15, 0.06) and the white (0.3127, 0.3290), over
    that white: each row sums to 1. It is known exactly, and used with the precision of the arithmetic; the matrices of
    four to six digits that others use move L*, a*, b* by hundredths.

    Args:
        image: (N, 3, H, W), red, green, blue: uint8 or uint16 codes, or floating point, white being 1. Values below 0
            and above 1 follow the curve as it is written above, so that :func:`lab_to_rgb` gives them back.
        out: tensor to write the result to, of its shape and dtype, sharing no memory with the image. Not with
            autograd.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        L* (0 for black to 100 for white), a* and b* as (N, 3, H, W), in the image's dtype, float32 for codes, and
        memory format. Where R, G and B are equal, a* and b* are exactly 0, in the reference to rounding. float32 values
        are within 2e-4 of the formula for images in [0, 1]. A pixel that holds NaN or infinity has no finite value.
        Differentiable with respect to a floating-point image, as often as wanted.

    Raises:
        TypeError: an unsupported dtype of the image, or an ``out`` of another dtype than the result.
        ValueError: an image that is not (N, 3, H, W), or an ``out`` of another shape.
    """
    image = _arguments.as_tensor(image, "image")
    _arguments.check_image_dtype(image, "image")
    _check_shape(image, "image")
    out = out if out is None else _arguments.as_tensor(out, "out")
    dtype = torch.float32 if image.dtype in _arguments.CODE_DTYPES else image.dtype
    _arguments.output_dtype(image, None, out, (dtype,))
    return _run("rgb_to_lab", (image,), out, backend)


def lab_to_rgb(
    lab: Tensor, *, dtype: torch.dtype | None = None, out: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """The display-referred sRGB image of CIELAB values: the inverse of :func:`rgb_to_lab`.

    Args:
        lab: L*, a*, b* as (N, 3, H, W), floating point.
        dtype: of the result: that of ``lab`` (the default), which holds colours outside of sRGB as values below 0 and
            above 1, or ``torch.uint8`` or ``torch.uint16``: codes, rounded half to even, which end at 0 and at full
            scale; NaN becomes 0 in them.
        out: tensor to write the result to, of its shape and a dtype as above, sharing no memory with ``lab``. Not
            with autograd.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        Red, green and blue as (N, 3, H, W), in the memory format of ``lab``. Where a* and b* are 0, they are equal to
        the bit, in the reference to rounding. float32 images in [0, 1] return from :func:`rgb_to_lab` within 1e-5, and
        all colours of uint8 to their codes. A pixel that holds NaN or infinity has no finite value. Differentiable as
        often as wanted, except for codes.

    Raises:
        TypeError: ``lab`` is not floating point, or a dtype of the result that is not offered.
        ValueError: ``lab`` is not (N, 3, H, W), or an ``out`` of another shape.
    """
    lab = _arguments.as_tensor(lab, "lab")
    if lab.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"lab must be floating point (L*, a*, b*), got {lab.dtype}")
    _check_shape(lab, "lab")
    out = out if out is None else _arguments.as_tensor(out, "out")
    wanted = _arguments.output_dtype(lab, dtype, out, (lab.dtype, *_arguments.CODE_DTYPES))
    return _run("lab_to_rgb", (lab,), out, backend, wanted)


def _check_shape(image: Tensor, name: str) -> None:
    if image.dim() != 4 or image.shape[1] != 3:
        raise ValueError(f"{name} must be (N, 3, H, W), got shape {tuple(image.shape)}")


def _run(
    operator: str, arguments: tuple[Tensor], out: Tensor | None, backend: str | None, *dtype: torch.dtype
) -> Tensor:
    (image,) = arguments
    if out is not None:
        _arguments.check_out(out, image.shape, [image])
        if out.is_contiguous():
            _providers.overload(f"{operator}_out", backend, image)(image, out)
            return out
    result = _providers.overload(operator, backend, image)(image, *dtype)
    return out.copy_(result) if out is not None else _arguments.keep_format(result, image)


# ---- fake kernels and autograd -------------------------------------------------------------------------------------


def _to_lab_fake(image: Tensor) -> Tensor:
    return image.new_empty(image.shape, dtype=image.dtype if image.is_floating_point() else torch.float32)


def _to_rgb_fake(lab: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return lab.new_empty(lab.shape, dtype=dtype or lab.dtype)


def _out_fake(image: Tensor, out: Tensor) -> None:
    return None


def _backward_fake(grad: Tensor, image: Tensor) -> Tensor:
    return image.new_empty(image.shape)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[0])


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _to_lab_backward(namespace: str, ctx: Any, grad: Tensor) -> Tensor:
    return getattr(torch.ops, namespace).rgb_to_lab_backward(grad, *ctx.saved_tensors)  # type: ignore[no-any-return]


def _to_lab_double_backward(namespace: str, ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    grad, image = ctx.saved_tensors
    return _providers.second_order(lambda x: reference.to_lab(x).to(grad.dtype), [image], grad, [grad_output])


def _to_rgb_backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return getattr(torch.ops, namespace).lab_to_rgb_backward(grad, *ctx.saved_tensors), None


def _to_rgb_double_backward(namespace: str, ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    grad, lab = ctx.saved_tensors
    return _providers.second_order(lambda x: reference.to_rgb(x).to(grad.dtype), [lab], grad, [grad_output])


_providers.register("rgb_to_lab", "lab", fake=_to_lab_fake, backward=_to_lab_backward, setup_context=_save_forward)
_providers.register("rgb_to_lab_out", "lab", fake=_out_fake)
_providers.register(
    "rgb_to_lab_backward",
    "lab",
    fake=_backward_fake,
    backward=_to_lab_double_backward,
    setup_context=_save_backward,
)
_providers.register("lab_to_rgb", "lab", fake=_to_rgb_fake, backward=_to_rgb_backward, setup_context=_save_forward)
_providers.register("lab_to_rgb_out", "lab", fake=_out_fake)
_providers.register(
    "lab_to_rgb_backward",
    "lab",
    fake=_backward_fake,
    backward=_to_rgb_double_backward,
    setup_context=_save_backward,
)
