"""Operator ``exposure_fusion``: Mertens, Kautz and Van Reeth, "Exposure fusion", Pacific Graphics 2007."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from hdrops.ops import _arguments, _providers
from hdrops.reference import exposure_fusion as reference

CONVENTIONS = ("paper", "opencv")


def exposure_fusion(
    bracket: Tensor,
    *,
    contrast: float = 1.0,
    saturation: float = 1.0,
    exposedness: float = 1.0,
    convention: Literal["paper", "opencv"] = "paper",
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Fuse a bracket of exposures into one well-exposed image, without exposure times or a response curve.

    ::

        W_k = C_k^contrast · S_k^saturation · E_k^exposedness + 1e-12,   Ŵ_k = W_k / Σ_j W_j
        C = |Laplacian of the grey image|
        S = standard deviation of R, G, B                         (1 for one channel)
        E = Π_c exp(-(I_c - 0.5)² / (2 · 0.2²))
        L{R}_l = Σ_k G{Ŵ_k}_l · L{I_k}_l                          (Laplacian and Gaussian pyramids), R from L{R}

    The pyramid has floor(log2(min(H, W))) levels above the finest, a binomial 5 x 5 filter and mirrored borders; grey
    is 0.299 of channel 0, 0.587 of channel 1 and 0.114 of channel 2.

    Args:
        bracket: (N, K, C, H, W) with K >= 1 exposures in any order and C = 1 or 3: uint8 or uint16 codes, or floating
            point in [0, 1]. NaN spreads as far as the pyramid reaches.
        contrast: exponent of C, >= 0.
        saturation: exponent of S, >= 0. A neutral pixel has S = 0: where all exposures are neutral the weights are
            equal.
        exposedness: exponent of E, >= 0.
        convention: "paper" follows the article and clamps the result to [0, 1], which the blended pyramid may leave.
            "opencv" equals ``cv2.createMergeMertens`` on the same channel order (give it BGR where OpenCV has BGR),
            in its float32 rounding too, and is not clamped where the result is floating point; OpenCV's own default has
            exposedness 0.
        dtype: of the result: that of the bracket (the default; codes are rounded half to even and saturated), or
            ``torch.float32`` for integer brackets.
        out: tensor to write the result to, of its shape and a dtype as above, sharing no memory with the
            inputs. Not with autograd.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        The fused image, (N, C, H, W), in the memory format of the exposures. Differentiable with respect to a
        floating-point bracket: gradients at C = 0 and S = 0 are taken as 0, and those of clamped values are 0.

    Raises:
        TypeError: an unsupported dtype of the bracket or the result.
        ValueError: a shape, exponent or convention out of range.
    """
    bracket = _arguments.as_tensor(bracket, "bracket")
    _arguments.check_image_dtype(bracket, "bracket")
    if bracket.dim() != 5:
        raise ValueError(f"bracket must be (N, K, C, H, W), got shape {tuple(bracket.shape)}")
    n, k, c, h, w = bracket.shape
    if k < 1:
        raise ValueError("bracket must hold at least one exposure (K >= 1)")
    if c not in (1, 3):
        raise ValueError(f"bracket must have 1 or 3 channels, got {c}")
    for value, name in ((contrast, "contrast"), (saturation, "saturation"), (exposedness, "exposedness")):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite exponent >= 0, got {value}")
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be 'paper' or 'opencv', got {convention!r}")
    out = out if out is None else _arguments.as_tensor(out, "out")
    wanted = _arguments.output_dtype(bracket, dtype, out)
    arguments = (bracket, float(contrast), float(saturation), float(exposedness), convention == "opencv")
    if out is not None:
        _arguments.check_out(out, torch.Size((n, c, h, w)), [bracket])
        if out.is_contiguous():
            _providers.overload("exposure_fusion_out", backend, bracket)(*arguments, out)
            return out
    result = _providers.overload("exposure_fusion", backend, bracket)(*arguments, wanted)
    if out is not None:
        return out.copy_(result)
    return _arguments.keep_format(result, bracket)


# ---- fake kernels and autograd -------------------------------------------------------------------------------------


def _fake(
    bracket: Tensor,
    contrast: float,
    saturation: float,
    exposedness: float,
    opencv: bool,
    dtype: torch.dtype | None = None,
) -> Tensor:
    n, _, c, h, w = bracket.shape
    return bracket.new_empty((n, c, h, w), dtype=dtype or bracket.dtype)


def _out_fake(*args: Any) -> None:
    return None


def _backward_fake(
    grad: Tensor, bracket: Tensor, contrast: float, saturation: float, exposedness: float, opencv: bool
) -> Tensor:
    return bracket.new_empty(bracket.shape)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    bracket, *ctx.exponents, ctx.opencv, _ = inputs
    ctx.save_for_backward(bracket)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, bracket, *ctx.exponents, ctx.opencv = inputs
    ctx.save_for_backward(grad, bracket)


def _backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (bracket,) = ctx.saved_tensors
    operator = getattr(torch.ops, namespace).exposure_fusion_backward
    return operator(grad, bracket, *ctx.exponents, ctx.opencv), None, None, None, None, None


def _double_backward(namespace: str, ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    grad, bracket = ctx.saved_tensors

    def forward(images: Tensor) -> Tensor:
        contrast, saturation, exposedness = ctx.exponents
        return reference.fuse(images, contrast, saturation, exposedness, ctx.opencv).to(grad.dtype)

    return *_providers.second_order(forward, [bracket], grad, [grad_output]), None, None, None, None


_providers.register("exposure_fusion", "exposure_fusion", fake=_fake, backward=_backward, setup_context=_save_forward)
_providers.register("exposure_fusion_out", "exposure_fusion", fake=_out_fake)
_providers.register(
    "exposure_fusion_backward",
    "exposure_fusion",
    fake=_backward_fake,
    backward=_double_backward,
    setup_context=_save_backward,
)
