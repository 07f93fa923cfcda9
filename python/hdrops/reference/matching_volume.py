"""Definition of the matching volume, and of a convolution of it; arguments as in ``cpp/schema.cpp``.

The convolution makes the part of the volume that a few of its slices read, then the next part.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hdrops.reference._autograd import differentiable
from hdrops.reference.matching import _compute, shifted

_ELEMENTS_AT_ONCE = 1 << 24


class Volume(NamedTuple):
    """What the volume is made of, and how: arguments after the tensors."""

    motions: Tensor
    exposures: Sequence[float]
    reference: int
    cap: bool
    ceiling: float
    inner: bool
    order: Sequence[int]
    include_reference: bool

    def slices(self, count: int) -> list[tuple[int, int, int]]:
        """Image, motion and exposure of each slice, of ``count`` images."""
        images = [i for i in range(count) if self.include_reference or i != self.reference]
        axes = (images, range(len(self.motions)), range(len(self.exposures)))
        where = [self.order.index(axis) for axis in range(3)]
        places = itertools.product(*(axes[axis] for axis in self.order))
        return [(place[where[0]], place[where[1]], place[where[2]]) for place in places]

    def channels(self, of: int) -> int:
        return 3 * of + (1 if self.inner else of)


def moved(volume: Volume, image: Tensor, saturation: Tensor | None, motion: int, exposure: int) -> Tensor:
    """F' of features (N, C, H, W) and where they are saturated."""
    gain = volume.exposures[exposure]
    if volume.cap:
        scaled = gain * image
        capped = scaled.clamp(max=volume.ceiling)
        result = capped if saturation is None else saturation * capped + (1 - saturation) * scaled
    elif saturation is None:
        result = gain * image
    else:
        result = saturation * image + gain * ((1 - saturation) * image)
    down, right = volume.motions[motion].tolist()
    return shifted(result, down, right)


def part(volume: Volume, features: Tensor, saturation: Tensor | None, places: Sequence[tuple[int, int, int]]) -> Tensor:
    """Slices (N, channels, len(places), H, W) of the volume of features in the arithmetic type."""
    base = features[:, volume.reference]
    slices = []
    for i, motion, exposure in places:
        if i == volume.reference:
            other = base
        else:
            mask = None if saturation is None else saturation[:, i]
            other = moved(volume, features[:, i], mask, motion, exposure)
        product = other * base
        if volume.inner:
            product = product.sum(1, keepdim=True)
        slices.append(torch.cat([other, base, (other - base).abs(), product], 1))
    return torch.stack(slices, 2)


def _wide(features: Tensor, saturation: Tensor | None) -> tuple[Tensor, Tensor | None]:
    wide = _compute(features)
    return features.to(wide), None if saturation is None else saturation.to(wide)


def matching_volume(features: Tensor, saturation: Tensor | None, *settings: object) -> Tensor:
    volume = Volume(*settings)  # type: ignore[arg-type]
    places = volume.slices(features.shape[1])
    if not places:
        n, _, c, height, width = features.shape
        return features.new_empty(n, 0, height, width, volume.channels(c))
    return part(volume, *_wide(features, saturation), places).permute(0, 2, 3, 4, 1).to(features.dtype)


def matching_volume_backward(grad: Tensor, features: Tensor, saturation: Tensor | None, *settings: object) -> Tensor:
    volume = Volume(*settings)  # type: ignore[arg-type]
    places = volume.slices(features.shape[1])
    wide, mask = _wide(features, saturation)
    if not places:
        return torch.zeros_like(features)
    with differentiable():
        variable = wide.detach().requires_grad_()
        result = part(volume, variable, mask, places).permute(0, 2, 3, 4, 1)
        return torch.autograd.grad(result, variable, grad.to(wide.dtype))[0].to(features.dtype)


class Convolution(NamedTuple):
    """How the volume is convolved: (depth, rows, columns) each."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]

    def depth(self, slices: int, taps: int) -> int:
        """Slices of the result."""
        return (slices + 2 * self.padding[0] - self.dilation[0] * (taps - 1) - 1) // self.stride[0] + 1


def _parts(volume: Volume, features: Tensor, weight: Tensor, how: Convolution) -> Iterator[tuple[int, int, list[int]]]:
    """First and last slice of a part of the result, and the slices of the volume that it reads, outside ones too."""
    n, count, c, height, width = features.shape
    slices, taps = len(volume.slices(count)), weight.shape[2]
    reach = how.dilation[0] * (taps - 1) + 1
    elements = max(1, n * volume.channels(c) * height * width)
    at_once = max(1, (_ELEMENTS_AT_ONCE // elements - reach) // how.stride[0] + 1)
    total = how.depth(slices, taps)
    for first in range(0, total, at_once):
        last = min(first + at_once, total)
        begin = first * how.stride[0] - how.padding[0]
        yield first, last, list(range(begin, begin + (last - first - 1) * how.stride[0] + reach))


def _convolved(
    volume: Volume, features: Tensor, saturation: Tensor | None, weight: Tensor, how: Convolution, read: list[int]
) -> Tensor:
    places = volume.slices(features.shape[1])
    inside = [d for d in read if 0 <= d < len(places)]
    n, _, c, height, width = features.shape
    if inside:
        slices = part(volume, features, saturation, places[inside[0] : inside[-1] + 1])
    else:
        slices = features.new_zeros(n, volume.channels(c), 0, height, width)
    before = len([d for d in read if d < 0])
    padded = F.pad(slices, (0, 0, 0, 0, before, len(read) - before - len(inside)))
    _, *padding = how.padding
    with torch.autocast(features.device.type, enabled=False):
        return F.conv3d(padded, weight, None, tuple(how.stride), (0, *padding), tuple(how.dilation))


def _split(settings: tuple[object, ...]) -> tuple[Volume, Convolution]:
    return Volume(*settings[:8]), Convolution(*settings[8:11])  # type: ignore[arg-type]


def matching_conv3d(
    features: Tensor, saturation: Tensor | None, weight: Tensor, bias: Tensor | None, *settings: object
) -> Tensor:
    volume, how = _split(settings)
    wide, mask = _wide(features, saturation)
    kernel = weight.to(wide.dtype)
    parts = [_convolved(volume, wide, mask, kernel, how, read) for _, _, read in _parts(volume, features, weight, how)]
    result = torch.cat(parts, 2)
    if bias is not None:
        result = result + bias.to(wide.dtype)[:, None, None, None]
    if settings[11]:
        result = result.relu()
    return result.permute(0, 2, 3, 4, 1).to(features.dtype)


def matching_conv3d_backward(
    grad: Tensor,
    features: Tensor,
    saturation: Tensor | None,
    weight: Tensor,
    *settings: object,
) -> tuple[Tensor, Tensor]:
    volume, how = _split(settings)
    wants = settings[11:]
    wide, mask = _wide(features, saturation)
    upstream = grad.to(wide.dtype).permute(0, 4, 1, 2, 3)
    totals = [
        torch.zeros_like(wide) if wants[0] else None,
        torch.zeros_like(weight, dtype=wide.dtype) if wants[1] else None,
    ]
    for first, last, read in _parts(volume, features, weight, how):
        with differentiable():
            variables = [
                t.detach().requires_grad_(bool(w)) for t, w in zip((wide, weight.to(wide.dtype)), wants, strict=True)
            ]
            result = _convolved(volume, variables[0], mask, variables[1], how, read)
            active = [v for v in variables if v.requires_grad]
            if not active or not result.requires_grad:
                continue
            found = iter(torch.autograd.grad(result, active, upstream[:, :, first:last], materialize_grads=True))
        for total, variable in zip(totals, variables, strict=True):
            if total is not None and variable.requires_grad:
                total += next(found)
    of_features, of_weight = totals
    return (
        features.new_empty(0) if of_features is None else of_features.to(features.dtype),
        weight.new_empty(0) if of_weight is None else of_weight.to(weight.dtype),
    )
