"""Triton kernels of the operator ``matching``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import _store, on_device

BLOCK = 128  # pixels of a row
GROUP = 8  # motions, or channels, of a program


@triton.jit
def _row(height, blocks, BLOCK: tl.constexpr):
    """The image and group, the row and the columns of this program."""
    program = tl.program_id(0).to(tl.int64)
    x = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    y = program // blocks % height
    return program // blocks // height, y, x


@triton.jit
def correlation_kernel(
    a,
    b,
    motions,
    out,
    channels,
    height,
    width,
    count,
    blocks,
    groups,
    WIDE: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    which, y, x = _row(height, blocks, BLOCK)
    n = which // groups
    m = which % groups * GROUP + tl.arange(0, GROUP)
    there = m < count
    down = tl.load(motions + 2 * m, mask=there, other=0)
    right = tl.load(motions + 2 * m + 1, mask=there, other=0)
    plane = height.to(tl.int64) * width
    inside = x < width
    rows = y + down
    columns = x[None, :] + right[:, None]
    known = (rows >= 0) & (rows < height) & there
    overlaps = known[:, None] & (columns >= 0) & (columns < width) & inside[None, :]
    from_a = a + n * channels * plane + y * width + x
    from_b = b + n * channels * plane + rows[:, None] * width + columns
    total = tl.zeros([GROUP, BLOCK], T)
    for _ in range(channels):
        left = tl.load(from_a, mask=inside, other=0).to(T)
        total += left[None, :] * tl.load(from_b, mask=overlaps, other=0).to(T)
        from_a += plane
        from_b += plane
    to = out + (n * count + m[:, None]) * plane + y * width + x[None, :]
    _store(to, total, there[:, None] & inside[None, :], 1)


@triton.jit
def correlation_backward_kernel(
    grad,
    other,
    motions,
    out,
    channels,
    height,
    width,
    count,
    blocks,
    groups,
    MOVED: tl.constexpr,
    WIDE: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of a, or, where MOVED, that of b."""
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    which, y, x = _row(height, blocks, BLOCK)
    n = which // groups
    c = which % groups * GROUP + tl.arange(0, GROUP)
    there = c < channels
    plane = height.to(tl.int64) * width
    inside = x < width
    total = tl.zeros([GROUP, BLOCK], T)
    for m in range(count):
        down = tl.load(motions + 2 * m)
        right = tl.load(motions + 2 * m + 1)
        row = y + 0 * x + (-down if MOVED else down)
        column = x + (-right if MOVED else right)
        overlaps = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        at = row * width + column
        here = at if MOVED else y * width + x
        upstream = tl.load(grad + (n * count + m) * plane + here, mask=overlaps, other=0).to(T)
        features = tl.load(
            other + (n * channels + c[:, None]) * plane + at[None, :],
            mask=there[:, None] & overlaps[None, :],
            other=0,
        ).to(T)
        total += upstream[None, :] * features
    to = out + (n * channels + c[:, None]) * plane + y * width + x[None, :]
    _store(to, total, there[:, None] & inside[None, :], 1)


def correlation(a: Tensor, b: Tensor, motions: Tensor) -> Tensor:
    n, _, height, width = a.shape
    out = a.new_empty((n, len(motions), height, width))
    correlation_out(a, b, motions, out)
    return out


def _launch(
    kernel: object, inputs: list[Tensor], out: Tensor, planes: int, sizes: tuple[int, ...], **flags: bool
) -> None:
    """Over all rows of `planes` planes an image of `out`."""
    if out.numel() == 0:
        return
    n, _, height, width = out.shape
    blocks, groups = triton.cdiv(width, BLOCK), triton.cdiv(planes, GROUP)
    with on_device(out):
        kernel[(n * groups * height * blocks,)](
            *(x.contiguous() for x in inputs),
            out,
            *sizes,
            blocks,
            groups,
            **flags,
            WIDE=out.dtype == torch.float64,
            GROUP=GROUP,
            BLOCK=BLOCK,
        )


def correlation_out(a: Tensor, b: Tensor, motions: Tensor, out: Tensor) -> None:
    _, channels, height, width = a.shape
    sizes = (channels, height, width, len(motions))
    _launch(correlation_kernel, [a, b, motions], out, len(motions), sizes)


def correlation_backward(
    grad: Tensor, a: Tensor, b: Tensor, motions: Tensor, wants_a: bool, wants_b: bool
) -> tuple[Tensor, Tensor]:
    _, channels, height, width = a.shape
    sizes = (channels, height, width, len(motions))

    def gradient(other: Tensor, moved: bool) -> Tensor:
        out = other.new_empty(other.shape)
        _launch(correlation_backward_kernel, [grad.to(a.dtype), other, motions], out, channels, sizes, MOVED=moved)
        return out

    return gradient(b, False) if wants_a else a.new_empty(0), gradient(a, True) if wants_b else b.new_empty(0)
