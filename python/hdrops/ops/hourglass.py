"""Operator ``hourglass``: transposed 3D convolutions with what follows them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hdrops.ops import _arguments, _providers
from hdrops.ops.matching import _FLOATS
from hdrops.ops.matching_volume import Triple, _triple

Activation = Literal["relu"] | None
_LAST = torch.channels_last_3d
_TAPS = 3
_VOXELS = "NCDHW"


def deconv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Triple = 2,
    padding: Triple = 1,
    output_padding: Triple = 0,
    dilation: Triple = 1,
    activation: Activation = None,
    backend: str | None = None,
) -> Tensor:
    """Transposed 3D convolution with bias and ReLU in one pass.

    ::

        activation(conv_transpose3d(x, weight, bias, stride, padding, output_padding, 1, dilation))

    On the CPU, torch's own is far from the speed of the processor, most of all where it is dilated. At places that
    leave the same remainder by the stride the same taps arrive, one or two on each axis with stride 2 and an odd
    dilation, whatever it is. With an even dilation and stride 2 all taps arrive at one place in eight; the others are
    the bias alone.

    Args:
        x: (N, C, D, H, W), floating point.
        weight: (C, K, kD, kH, kW), of the dtype of x.
        bias: (K,), or None.
        stride, padding, output_padding, dilation: of depth, rows and columns, or one for all, as for
            :func:`torch.nn.functional.conv_transpose3d`.
        activation: "relu", or None.
        backend: "cpp", "cuda", "triton", "reference", or None: on the CPU C++ (in bfloat16 torch's own, which
            multiplies it), elsewhere torch's own.

    Returns:
        (N, K, D', H', W'), D' = (D - 1) stride - 2 padding + dilation (kD - 1) + output_padding + 1, of the dtype of
        x, channels last in memory. Sums of hdrops's own kernels are in float32, in float64 for float64. Differentiable,
        as often as wanted.

    Raises:
        TypeError: x that is not floating point, a weight or bias of another dtype.
        ValueError: shapes that do not fit, an output_padding that is neither below the stride nor the dilation, a
            result without any place.
    """
    x, weight, bias = _checked(x, weight, bias)
    how = [
        _triple(stride, "stride", 1),
        _triple(padding, "padding", 0),
        _triple(output_padding, "output_padding", 0),
        _triple(dilation, "dilation", 1),
    ]
    if any(p >= max(s, d) for p, s, d in zip(how[2], how[0], how[3], strict=True)):
        raise ValueError(f"output_padding must be below the stride or the dilation, got {output_padding}")
    shape = _transposed_shape(x.permute(0, 2, 3, 4, 1), weight, *how)
    if any(side < 1 for side in (*shape[1:], *x.shape[2:])):
        raise ValueError(f"x of shape {tuple(x.shape)} leaves no place in the result, {tuple(shape[1:4])}")
    relu = _relu(activation)
    if backend is None and (x.device.type != "cpu" or x.dtype == torch.bfloat16):
        last = x.contiguous(memory_format=_LAST)
        steps, pads, extra, apart = (tuple(numbers) for numbers in how)
        with _arguments.without_autocast(x):
            result = F.conv_transpose3d(last, weight, bias, steps, pads, extra, 1, apart)
        return (result.relu() if relu else result).contiguous(memory_format=_LAST)
    operator = _providers.overload("deconv3d", backend, x)
    found: Tensor = operator(x.permute(0, 2, 3, 4, 1), weight, bias, *how, relu)
    return found.permute(0, 4, 1, 2, 3)


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Triple = 2,
    padding: Triple = 1,
    dilation: Triple = 1,
    activation: Activation = None,
) -> Tensor:
    """3D convolution with bias and ReLU, channels last.

    ::

        activation(conv3d(x, weight, bias, stride, padding, dilation))

    It is torch's own, which on the CPU is at the processor's speed in this layout. Its gradient of x is not, with a
    stride or a dilation; on the CPU it is :func:`deconv3d` here, but for bfloat16 and compiled programs. With stride 2
    and an even dilation one voxel of x in eight is read. Autocast changes nothing.

    Args:
        x: (N, C, D, H, W), floating point.
        weight: (K, C, kD, kH, kW), of the dtype of x.
        bias: (K,), or None.
        stride, padding, dilation: of depth, rows and columns, or one for all.
        activation: "relu", or None.

    Returns:
        (N, K, D', H', W'), of the dtype of x, channels last in memory. Differentiable, as often as wanted.

    Raises:
        TypeError, ValueError: as for :func:`deconv3d`.
    """
    x, weight, bias = _checked(x, weight, bias, "(K, {c}, kD, kH, kW)")
    how = [_triple(stride, "stride", 1), _triple(padding, "padding", 0), _triple(dilation, "dilation", 1)]
    reach = [dil * (taps - 1) + 1 for dil, taps in zip(how[2], weight.shape[2:], strict=True)]
    if any(side + 2 * pad < least for side, pad, least in zip(x.shape[2:], how[1], reach, strict=True)):
        raise ValueError(f"x of shape {tuple(x.shape)} is smaller than the kernel with its dilation")
    relu = _relu(activation)
    if x.device.type != "cpu" or x.dtype == torch.bfloat16 or torch.compiler.is_compiling():
        result = _convolved(x, weight, bias, *how)
        return result.relu() if relu else result
    found: Tensor = _Convolution.apply(x, weight, bias, *how, relu)  # type: ignore[no-untyped-call]
    return found


def deconv_conv3d(
    x: Tensor,
    deconv_weight: Tensor,
    deconv_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    size: Sequence[int],
    *,
    activation: Activation = None,
) -> Tensor:
    """A transposed convolution with stride 2 and a convolution with stride 2 after it, as one on the small grid.

    ::

        activation(conv3d(conv_transpose3d(x, deconv_weight, deconv_bias, 2, 1), conv_weight, conv_bias, 2, 1))

    Both have 3 x 3 x 3 taps, stride 2 and padding 1, and nothing stands between them: together they are one convolution
    with 3 x 3 x 3 taps and stride 1, and the large grid between them is never made. At its outer planes, where the
    second convolution reads padding, other weights apply. Exact but for rounding: float16 and bfloat16 round the
    weights of both together, where the pair rounds what stands between. Autocast changes nothing.

    Args:
        x: (N, C, D, H, W), floating point.
        deconv_weight: (C, L, 3, 3, 3), of the dtype of x.
        deconv_bias: (L,), or None.
        conv_weight: (K, L, 3, 3, 3).
        conv_bias: (K,), or None.
        size: of the large grid, three numbers of 2 D - 1 or 2 D, and so on.
        activation: "relu", or None.

    Returns:
        (N, K, D, H, W), of the dtype of x, channels last in memory. Differentiable, as often as wanted.

    Raises:
        TypeError, ValueError: as for :func:`deconv3d`; kernels that are not 3 x 3 x 3; a size that does not belong to
            that of x.
    """
    x, deconv_weight, deconv_bias = _checked(x, deconv_weight, deconv_bias)
    inner, three = deconv_weight.shape[1], (_TAPS,) * 3
    conv_weight = _arguments.as_tensor(conv_weight, "conv_weight")
    if conv_weight.dim() != 5 or conv_weight.shape[1:] != (inner, *three) or deconv_weight.shape[2:] != three:
        shapes = f"{tuple(deconv_weight.shape)} and {tuple(conv_weight.shape)}"
        raise ValueError(f"weights must be (C, L, 3, 3, 3) and (K, L, 3, 3, 3), got {shapes}")
    conv_weight = _like(x, conv_weight, "conv_weight", conv_weight.shape)
    conv_bias = None if conv_bias is None else _like(x, conv_bias, "conv_bias", (len(conv_weight),))
    sides = x.shape[2:]
    if len(size) != len(sides) or any(q not in (2 * side - 1, 2 * side) for q, side in zip(size, sides, strict=True)):
        raise ValueError(f"size must be one less than twice {tuple(sides)}, or twice, got {tuple(size)}")
    with _arguments.without_autocast(x):
        result = _collapsed(x, deconv_weight, deconv_bias, conv_weight, conv_bias, [q % 2 == 1 for q in size])
    return result.relu() if _relu(activation) else result


def deconv_reduce(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    depth_weights: Tensor,
    projection: Tensor,
    projection_bias: Tensor | None = None,
    *,
    size: Sequence[int],
    padding: Triple = 1,
    dilation: Triple = 1,
) -> Tensor:
    """A transposed convolution with stride 2, the weighted sum of its result over the depth, and a projection.

    ::

        Y = conv_transpose3d(x, weight, bias, 2)
        result[o, h, w] = projection_bias[o] + Σ_k projection[o, k] Σ_d depth_weights[d] Y[k, d, h, w]

    The sums commute with the convolution: x is summed over its depth once for each tap of depth, and a transposed 2D
    convolution of these sums is the result. Y, the largest tensor of an hourglass, is never made. Autocast changes
    nothing.

    Args:
        x: (N, C, D, H, W), floating point.
        weight: (C, K, kD, kH, kW), of the dtype of x.
        bias: (K,), or None.
        depth_weights: (size[0],), of the dtype of x.
        projection: (O, K), of the dtype of x.
        projection_bias: (O,), or None.
        size: of Y, three numbers.
        padding, dilation: of the convolution, as for :func:`deconv3d`.

    Returns:
        (N, O, H', W'), of the dtype of x. Differentiable, as often as wanted.

    Raises:
        TypeError, ValueError: as for :func:`deconv3d`; a size that this convolution cannot have.
    """
    x, weight, bias = _checked(x, weight, bias)
    pads, steps = _triple(padding, "padding", 0), _triple(dilation, "dilation", 1)
    if len(size) != len(x.shape[2:]):
        raise ValueError(f"size must be three numbers, got {tuple(size)}")
    places = zip(size, x.shape[2:], pads, steps, weight.shape[2:], strict=True)
    extra = [int(q) - ((side - 1) * 2 - 2 * pad + step * (taps - 1) + 1) for q, side, pad, step, taps in places]
    if any(not 0 <= e < max(2, step) for e, step in zip(extra, steps, strict=True)):
        raise ValueError(f"size {tuple(size)} is none that x of shape {tuple(x.shape)} can have")
    depth_weights = _like(x, depth_weights, "depth_weights", (size[0],))
    projection = _arguments.as_tensor(projection, "projection")
    if projection.dim() != 2 or projection.shape[1] != weight.shape[1]:
        raise ValueError(f"projection must be (O, {weight.shape[1]}), got shape {tuple(projection.shape)}")
    projection = _like(x, projection, "projection", projection.shape)
    if projection_bias is not None:
        projection_bias = _like(x, projection_bias, "projection_bias", (len(projection),))
    with _arguments.without_autocast(x):
        return _reduced(x, weight, bias, depth_weights, projection, projection_bias, pads, steps, extra)


def _reduced(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    depth_weights: Tensor,
    projection: Tensor,
    projection_bias: Tensor | None,
    pads: Sequence[int],
    steps: Sequence[int],
    extra: Sequence[int],
) -> Tensor:
    depth = len(depth_weights)
    taps = weight.shape[2]
    # Slice d of x arrives at 2 d - padding + dilation k by tap k.
    at = 2 * torch.arange(x.shape[2])[:, None] - pads[0] + steps[0] * torch.arange(taps)
    inside = (at >= 0) & (at < depth)
    shares = depth_weights[at.clamp(0, depth - 1).to(x.device)] * inside.to(x)
    sums = torch.einsum("ncdhw,dk->nkchw", x, shares).flatten(1, 2)
    planes = torch.einsum("ok,ckdhw->dcohw", projection, weight).flatten(0, 1)
    offset = projection.new_zeros(len(projection)) if projection_bias is None else projection_bias
    if bias is not None:
        offset = offset + depth_weights.sum() * (projection @ bias)
    return F.conv_transpose2d(sums, planes, offset, 2, tuple(pads[1:]), tuple(extra[1:]), 1, tuple(steps[1:]))


# ---- the collapse ----------------------------------------------------------------------------------------------------


# A tap of the first convolution and one of the second, with stride 2 each, meet at an offset of -1, 0 or 1 if their
# difference is even.
_MEETING = [(j, k) for j in range(_TAPS) for k in range(_TAPS) if (j - k) % 2 == 0]


def _meeting(first: bool, last: bool) -> list[list[int]]:
    """Which meetings are at each offset: 1 or 0, for 3 offsets each.

    The second's first tap reads padding at the first place, its last one at the last where the large grid is odd.
    """
    there = [not (first and j == 0) and not (last and j == _TAPS - 1) for j, _ in _MEETING]
    return [
        [int(read and (j - k) // 2 + 1 == offset) for read, (j, k) in zip(there, _MEETING, strict=True)]
        for offset in range(_TAPS)
    ]


class _Kernel:
    """Weight and bias of both convolutions as one, at places that are ends of the axes or not."""

    def __init__(self, deconv: Tensor, bias: Tensor | None, conv: Tensor, conv_bias: Tensor | None) -> None:
        self.bias, self.conv, self.conv_bias = bias, conv, conv_bias
        second, first = ([pair[side] for pair in _MEETING] for side in (0, 1))
        left = conv[:, :, second][:, :, :, second][..., second].flatten(2).permute(2, 0, 1)
        right = deconv[:, :, first][:, :, :, first][..., first].flatten(2).permute(2, 1, 0)
        count = len(_MEETING)
        self.products = torch.bmm(left, right).view(count, -1)

    def _tensor(self, numbers: Sequence[Any]) -> Tensor:
        return torch.tensor(numbers, dtype=self.conv.dtype, device=self.conv.device)

    def at(self, ends: Sequence[tuple[bool, bool]]) -> tuple[Tensor, Tensor | None]:
        meetings = [self._tensor(_meeting(*end)) for end in ends]
        weight = self.products
        for axis, meeting in enumerate(meetings):
            weight = torch.matmul(meeting, weight.reshape(_TAPS**axis, meeting.shape[1], -1))
        weight = weight.view(*(_TAPS,) * 3, self.conv.shape[0], -1).permute(3, 4, 0, 1, 2)
        if self.bias is None:
            return weight, self.conv_bias
        # Taps of the second that read the large grid.
        read = [[not (end[0] and j == 0) and not (end[1] and j == _TAPS - 1) for j in range(_TAPS)] for end in ends]
        there = torch.einsum("x,y,z->xyz", *(self._tensor(r) for r in read))
        offset = torch.einsum("olxyz,xyz,l->o", self.conv, there, self.bias)
        return weight, offset if self.conv_bias is None else offset + self.conv_bias


def _collapsed(
    x: Tensor,
    deconv: Tensor,
    bias: Tensor | None,
    conv: Tensor,
    conv_bias: Tensor | None,
    odd: Sequence[bool],
) -> Tensor:
    kernel = _Kernel(deconv, bias, conv, conv_bias)
    x = x.contiguous(memory_format=_LAST)
    weight, offset = kernel.at([(False, False)] * 3)
    result = F.conv3d(x, weight.contiguous(memory_format=_LAST), offset, 1, 1)
    sides = x.shape[2:]
    # Each axis in runs: its first place, its last one if the large grid is odd, and what lies between.
    runs: list[list[tuple[slice, slice, tuple[int, int], tuple[bool, bool]]]] = []
    for side, cut in zip(sides, odd, strict=True):
        last = side - 1 if cut and side > 1 else side
        found = [(0, 1, (True, cut and side == 1)), (1, last, (False, False)), (last, side, (False, True))]
        # What is written, what of x is read, and the zeros before and after that.
        parts = [(slice(a, b), slice(max(0, a - 1), b + 1), (int(a == 0), int(b == side)), end) for a, b, end in found]
        runs.append([part for part in parts if part[0].stop > part[0].start])
    for place in itertools.product(*runs):
        ends = [end for *_, end in place]
        if not any(any(end) for end in ends):
            continue
        weight, offset = kernel.at(ends)
        around = x[(slice(None), slice(None), *(read for _, read, _, _ in place))]
        around = F.pad(around, [zeros for _, _, pads, _ in reversed(place) for zeros in pads])
        here = result[(slice(None), slice(None), *(part for part, *_ in place))]
        # A plane: its three slices are channels, since torch is slow at 3D convolutions with one of a side.
        axis = next(2 + k for k, end in enumerate(ends) if any(end))
        planes, taps = (t.movedim(axis, 2).flatten(1, 2) for t in (around, weight))
        plane = F.conv2d(planes.contiguous(memory_format=torch.channels_last), taps.contiguous(), offset)
        here.copy_(plane.unsqueeze(axis))
    return result


# ---- the convolution -------------------------------------------------------------------------------------------------


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    x, weight = x.contiguous(memory_format=_LAST), weight.contiguous(memory_format=_LAST)
    with _arguments.without_autocast(x):
        result = F.conv3d(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation))
    return result.contiguous(memory_format=_LAST)


def _of_weight(
    x: Tensor,
    upstream: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The gradient of a convolution's weight."""
    mask = [False, True, False]
    found: Tensor = torch.ops.aten.convolution_backward(
        upstream, x, weight, None, stride, padding, dilation, False, [0, 0, 0], 1, mask
    )[1]
    return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        relu: bool,
    ) -> Tensor:
        result = _convolved(x, weight, bias, stride, padding, dilation)
        return result.relu_() if relu else result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, *ctx.how, relu = inputs
        ctx.save_for_backward(x, weight, output if relu else None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, weight, output = ctx.saved_tensors
        stride, padding, dilation = ctx.how
        upstream = grads[0] if output is None else grads[0].masked_fill(output <= 0, 0)
        of_x = of_weight = of_bias = None
        with _arguments.without_autocast(x):
            if ctx.needs_input_grad[0]:
                # Places that the last taps do not reach.
                sides = zip(x.shape[2:], upstream.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
                rest = [
                    side - ((small - 1) * step - 2 * pad + dil * (taps - 1) + 1)
                    for side, small, taps, step, pad, dil in sides
                ]
                of_x = deconv3d(
                    upstream, weight, stride=stride, padding=padding, output_padding=rest, dilation=dilation
                )
            if ctx.needs_input_grad[1]:
                of_weight = _of_weight(x, upstream, weight, stride, padding, dilation)
            if ctx.needs_input_grad[2]:
                of_bias = upstream.sum((0, 2, 3, 4))
        return of_x, of_weight, of_bias, None, None, None, None


# ---- arguments, fake kernel and autograd -----------------------------------------------------------------------------


def _relu(activation: Activation) -> bool:
    if activation not in (None, "relu"):
        raise ValueError(f'activation must be "relu" or None, got {activation!r}')
    return activation == "relu"


def _checked(
    x: Tensor, weight: Tensor, bias: Tensor | None, layout: str = "({c}, K, kD, kH, kW)"
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors of a convolution whose weight has this layout, c being the channels of x."""
    x = _arguments.as_tensor(x, "x")
    if x.dtype not in _FLOATS:
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if x.dim() != len(_VOXELS):
        raise ValueError(f"x must be (N, C, D, H, W), got shape {tuple(x.shape)}")
    axis = 0 if layout.startswith("({c}") else 1
    weight = _arguments.as_tensor(weight, "weight")
    if weight.dim() != len(_VOXELS) or weight.shape[axis] != x.shape[1] or 0 in weight.shape:
        raise ValueError(f"weight must be {layout.format(c=x.shape[1])}, got shape {tuple(weight.shape)}")
    weight = _like(x, weight, "weight", weight.shape)
    return x, weight, None if bias is None else _like(x, bias, "bias", (weight.shape[1 - axis],))


def _like(x: Tensor, tensor: Tensor, name: str, shape: Sequence[int]) -> Tensor:
    """A tensor of that shape, of the dtype and on the device of x."""
    tensor = _arguments.as_tensor(tensor, name)
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must be {tuple(shape)}, got shape {tuple(tensor.shape)}")
    if tensor.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype of x, {x.dtype}, got {tensor.dtype}")
    if tensor.device != x.device:
        raise ValueError(f"{name} is on {tensor.device}, x on {x.device}")
    return tensor


def _transposed_shape(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    axes = zip(x.shape[1:4], weight.shape[2:], stride, padding, output_padding, dilation, strict=True)
    sides = [(side - 1) * step - 2 * pad + dil * (taps - 1) + extra + 1 for side, taps, step, pad, extra, dil in axes]
    return (x.shape[0], *sides, weight.shape[1])


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    return x.new_empty(_transposed_shape(x, weight, *how[:4]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, _, *ctx.how = inputs
    ctx.save_for_backward(x, weight, output if ctx.how[-1] else None)


def _backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """The convolution that this one transposes, whose own gradients torch takes at the processor's speed."""
    x, weight, output = ctx.saved_tensors
    stride, padding, extra, dilation, _ = ctx.how
    if output is not None:
        grad = grad.masked_fill(output <= 0, 0)
    upstream, x = grad.permute(0, 4, 1, 2, 3), x.permute(0, 4, 1, 2, 3)
    of_x = of_weight = of_bias = None
    # Beyond a stride, output_padding makes room for more places than x has: they are 0.
    more = [pad // step for pad, step in zip(extra, stride, strict=True)]
    sides = x.shape[2:]
    kernel = weight.contiguous(memory_format=_LAST)
    with _arguments.without_autocast(grad):
        if ctx.needs_input_grad[0]:
            of_x = F.conv3d(upstream, kernel, None, stride, padding, dilation)
            of_x = of_x[:, :, : sides[0], : sides[1], : sides[2]].permute(0, 2, 3, 4, 1)
        if ctx.needs_input_grad[1]:
            if any(more):
                x = F.pad(x, (0, more[2], 0, more[1], 0, more[0]))
            of_weight = _of_weight(upstream, x, kernel, stride, padding, dilation)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 1, 2, 3))
    return of_x, of_weight, of_bias, *(None,) * len(ctx.how)


_providers.register("deconv3d", "hourglass", fake=_fake, backward=_backward, setup_context=_save)
