"""What the Triton kernels share: device guard, arithmetic types, conversions between storage and arithmetic.

A kernel loads, converts to its arithmetic type (float64 for float64 images, float32 for all others),
computes, and stores through :func:`_store`. Scalars that must not lose precision are parameters annotated
``tl.float64`` and become arithmetic values by ``tl.full([], value, T)``; an unannotated Python float would
arrive as float32.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

FULL_SCALE = {torch.uint8: 255, torch.uint16: 65535}


def compute_dtype(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def full_scale(dtype: torch.dtype) -> int:
    """The code of full scale of an integer image type, 1 for floating point."""
    return FULL_SCALE.get(dtype, 1)


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device; make that the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


@triton.jit
def _divide(a, b):
    """Rounded correctly; a plain float32 quotient is not."""
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b


@triton.jit
def _round_code(value, FULL: tl.constexpr):
    """float32 values rounded half to even and saturated to [0, FULL], FULL < 2^22; NaN becomes 0."""
    clamped = tl.where(value > 0, value, 0.0)
    clamped = tl.where(clamped < FULL, clamped, FULL)
    # Adding 1.5 * 2^23 leaves no bits for the fraction: the sum is rounded to an integer, half to even.
    return (clamped + 12582912.0) - 12582912.0


@triton.jit
def _store(pointer, value, mask, FULL: tl.constexpr):
    """Store arithmetic values, in units of the pointer's type: FULL is its full-scale code, or 1."""
    dtype: tl.constexpr = pointer.dtype.element_ty
    if FULL > 1:
        tl.store(pointer, _round_code(value, FULL).to(tl.int32).to(dtype), mask=mask)
    elif dtype == tl.bfloat16:
        # Round half to even on the bits: a plain conversion truncates in Triton's interpreter.
        bits = value.to(tl.int32, bitcast=True)
        upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        upper = tl.where(value == value, upper, 0x7FC0)
        tl.store(pointer, upper.to(tl.int16).to(tl.bfloat16, bitcast=True), mask=mask)
    else:
        tl.store(pointer, value.to(dtype), mask=mask)
