"""Operator ``matching``: features of one image against those of another, moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hdrops.ops import _arguments, _providers

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_FARTHEST = 1 << 30  # pixels that a motion may have


def motion_grid(extent: int = 36, step: int = 3, *, centred: bool = True) -> Tensor:
    """The motions of a square, row by row.

    Ren, Fan and Huang, "Robust real-world image enhancement based on multi-exposure LDR images", WACV 2023, sample the
    motions {0, 0} to {36, 36} every 3 pixels, 144 of them. Written so they have one sign only; the paper does not say
    whether that is meant.

    Args:
        extent: pixels that a side has, at least 1.
        step: pixels between neighbours, at least 1.
        centred: whether the motions lie about 0, which is one of them: -18, -15, ... 15 for the defaults. False begins
            at 0: 0, 3, ... 33.

    Returns:
        (M, 2) int64, rows of (dy, dx); ceil(extent / step)² of them, 144 for the defaults.

    Raises:
        ValueError: an extent or a step below 1.
    """
    if extent < 1 or step < 1:
        raise ValueError(f"extent and step must be at least 1, got {extent} and {step}")
    count = -(-extent // step)
    first = -(count // 2) * step if centred else 0
    places = first + step * torch.arange(count)
    return torch.cartesian_prod(places, places)


def correlation(
    a: Tensor,
    b: Tensor,
    motions: Tensor | Sequence[Sequence[int]],
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The cost volume of stereo and optical flow: products of the features at every pixel and at that pixel moved.

    ::

        out[n, m, y, x] = Σ_c a[n, c, y, x] b[n, c, y + dy_m, x + dx_m]

    with 0 where the moved pixel lies outside. It is not divided by the number of channels.

    Args:
        a: features (N, C, H, W), floating point.
        b: those it is compared with; same shape and dtype.
        motions: (M, 2) integers, rows of (dy, dx) in pixels, of any sign and order, also beyond the image; see
            :func:`motion_grid`.
        out: tensor to write the result to, of its shape and dtype, sharing no memory with the features. Not with
            autograd.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        (N, M, H, W), in the dtype and memory format of ``a``. Sums are in float32, in float64 for float64 features.
        NaN and infinity stay where they are read; a motion that leads outside reads nothing. Differentiable with
        respect to both features, as often as wanted; gradients are gathered, the same to the bit in every run.

    Raises:
        TypeError: features that are not floating point or of two dtypes, motions that are not integers.
        ValueError: features of another rank or of two shapes or devices, motions of another shape or too large, or an
            ``out`` of another shape.
    """
    a, b = _arguments.as_tensor(a, "a"), _arguments.as_tensor(b, "b")
    for features, name in ((a, "a"), (b, "b")):
        if features.dtype not in _FLOATS:
            raise TypeError(f"{name} must be floating point, got {features.dtype}")
        if features.dim() != 4:
            raise ValueError(f"{name} must be (N, C, H, W), got shape {tuple(features.shape)}")
    if a.dtype != b.dtype:
        raise TypeError(f"a and b must have one dtype, got {a.dtype} and {b.dtype}")
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.device != b.device:
        raise ValueError(f"a is on {a.device}, b on {b.device}; move them to one device")
    moves = checked_motions(motions, a.device)
    out = out if out is None else _arguments.as_tensor(out, "out")
    _arguments.output_dtype(a, None, out, (a.dtype,))
    if out is not None:
        n, _, height, width = a.shape
        _arguments.check_out(out, torch.Size((n, moves.shape[0], height, width)), [a, b])
        if out.is_contiguous():
            _providers.overload("correlation_out", backend, a)(a, b, moves, out)
            return out
    result = _providers.overload("correlation", backend, a)(a, b, moves)
    return out.copy_(result) if out is not None else _arguments.keep_format(result, a)


def checked_motions(motions: Any, device: torch.device) -> Tensor:
    """Motions as int64 on a device.

    Raises:
        TypeError: they are not integers.
        ValueError: they are not (M, 2), or one is longer than 2^30 pixels.
    """
    if isinstance(motions, Sequence):
        motions = torch.tensor(motions) if len(motions) else torch.zeros(0, 2, dtype=torch.int64)
    moves: Tensor = _arguments.as_tensor(motions, "motions")
    if moves.dtype not in _INTEGERS:
        raise TypeError(f"motions must be integers, got {moves.dtype}")
    if moves.dim() != 2 or moves.shape[1] != 2:
        raise ValueError(f"motions must be (M, 2), rows of (dy, dx), got shape {tuple(moves.shape)}")
    if moves.device.type == "cpu" and not torch.compiler.is_compiling() and moves.numel():
        # Of those on a GPU nothing is read here, since that would wait for it.
        longest = max(int(moves.max()), -int(moves.min()))
        if longest > _FARTHEST:
            raise ValueError(f"motions must be at most 2^30 pixels long, got {longest}")
    return moves.to(device=device, dtype=torch.int64)


# ---- fake kernels and autograd -------------------------------------------------------------------------------------


def _fake(a: Tensor, b: Tensor, motions: Tensor) -> Tensor:
    n, _, height, width = a.shape
    return a.new_empty((n, motions.shape[0], height, width))


def _out_fake(a: Tensor, b: Tensor, motions: Tensor, out: Tensor) -> None:
    return None


def _backward_fake(
    grad: Tensor, a: Tensor, b: Tensor, motions: Tensor, wants_a: bool, wants_b: bool
) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape if wants_a else (0,)), b.new_empty(b.shape if wants_b else (0,))


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *saved, ctx.wants_a, ctx.wants_b = inputs
    ctx.save_for_backward(*saved)


def _backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    wants_a, wants_b = ctx.needs_input_grad[:2]
    operator = getattr(torch.ops, namespace).correlation_backward
    grad_a, grad_b = operator(grad, *ctx.saved_tensors, wants_a, wants_b)
    return grad_a if wants_a else None, grad_b if wants_b else None, None


def _double_backward(namespace: str, ctx: Any, grad_a: Tensor, grad_b: Tensor) -> tuple[Any, ...]:
    """The operator is linear in each of its images, so that its own kernels serve here too."""
    grad, a, b, motions = ctx.saved_tensors
    operators = getattr(torch.ops, namespace)
    of_grad = of_a = of_b = None
    if ctx.wants_a:
        of_grad = operators.correlation(grad_a, b, motions)
        of_b = operators.correlation_backward(grad, grad_a, b, motions, False, True)[1]
    if ctx.wants_b:
        more = operators.correlation(a, grad_b, motions)
        of_grad = more if of_grad is None else of_grad + more
        of_a = operators.correlation_backward(grad, a, grad_b, motions, True, False)[0]
    return of_grad, of_a, of_b, None, None, None


_providers.register("correlation", "matching", fake=_fake, backward=_backward, setup_context=_save_forward)
_providers.register("correlation_out", "matching", fake=_out_fake)
_providers.register(
    "correlation_backward",
    "matching",
    fake=_backward_fake,
    backward=_double_backward,
    setup_context=_save_backward,
)
