"""What implicit products of matrices share: taps of a strided convolution that meet a place, and sizes of blocks."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_LEAST = 16  # rows and columns of what tl.dot takes


def meeting(stride: int, dilation: int) -> tuple[int, int, int]:
    """What :func:`_meeting_taps` takes of an axis: with g = gcd(stride, dilation), g, the inverse of dilation / g
    modulo stride / g, and stride / g, the distance of taps that meet one place."""
    divisor = math.gcd(stride, dilation)
    step = stride // divisor
    return divisor, pow(dilation // divisor, -1, step), step


@triton.jit
def _meeting_taps(place, stride, divisor, inverse, step, taps):
    """The first tap k with k dilation = place modulo the stride, and how many there are; they are ``step`` apart."""
    residue = (place % stride + stride) % stride
    first = tl.where(residue % divisor == 0, residue // divisor * inverse % step, taps)
    return first, (taps - first + step - 1) // step


def halves(tensor: Tensor) -> bool:
    """Whether products are of the tensor's own type of 16 bits. The interpreter multiplies no bfloat16."""
    if tensor.dtype == torch.bfloat16:
        return not triton.knobs.runtime.interpret
    return tensor.dtype == torch.float16


def chunk(tensor: Tensor) -> int:
    """Terms of a product at once: what registers hold of both factors."""
    return 32 if tensor.element_size() == torch.float16.itemsize else 16


def columns(tensor: Tensor) -> int:
    """Columns of a product at most."""
    return 2 * chunk(tensor)


def side(wanted: int, most: int) -> int:
    """The side of a block of so many: a power of 2 that tl.dot takes."""
    return min(max(triton.next_power_of_2(wanted), _LEAST), most)
