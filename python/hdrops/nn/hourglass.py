"""The dilated 3D hourglass."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hdrops.ops.hourglass import conv3d, deconv3d, deconv_conv3d

OUTER = 2  # convolutions before the first that has a skip


class Hourglass3d(nn.Module):
    """Convolutions with stride 2, then as many transposed ones back to the size of the input.

    Ren, Fan and Huang, "Robust real-world image enhancement based on multi-exposure LDR images", WACV 2023, section
    3.3: three of each, 3 x 3 x 3 taps, with dilations that grow with depth. The paper gives neither the dilations nor
    the activations. Here every layer but the last is followed by ReLU, so that of hourglasses in a row the last layer
    of one and the first of the next are one convolution on half the grid (:func:`hdrops.deconv_conv3d`).

    With stride 2 and an even dilation, a convolution reads one voxel in eight, and a transposed one leaves all but one
    in eight to its bias.

    Args:
        in_channels: channels C of the input; 4 times those of the features for the matching volume.
        channels: of every layer, K.
        dilations: of the convolutions, first to last; the transposed ones have them in reverse.
        skips: whether what a convolution from the third on is given is added to what the transposed one of the same
            sides makes. Such sums are on a quarter of the grid or less: the layers outside remain what can be one.
            The paper says nothing of them.

    Raises:
        ValueError: no dilations, or one below 1; fewer than three with skips.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 32,
        dilations: Sequence[int] = (1, 3, 5),
        *,
        skips: bool = False,
    ) -> None:
        super().__init__()
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations must be numbers from 1, at least one, got {tuple(dilations)}")
        if skips and len(dilations) <= OUTER:
            raise ValueError(f"skips need at least three dilations, got {tuple(dilations)}")
        self.dilations = tuple(dilations)
        self.skips = skips
        sizes = itertools.pairwise([in_channels, *[channels] * len(dilations)])
        self.down = nn.ModuleList(nn.Conv3d(a, b, 3, 2, d, d) for (a, b), d in zip(sizes, dilations, strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(channels, channels, 3, 2, d, dilation=d) for d in reversed(dilations)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The whole hourglass.

        Args:
            x: (N, C, D, H, W), each side at least 1; channels last in memory is fastest.

        Returns:
            (N, K, D, H, W), channels last in memory.
        """
        return self.last(self.inner(self.first(x)), x.shape[2:])

    def first(self, x: Tensor) -> Tensor:
        """The first layer: (N, C, D, H, W) to (N, K, D', H', W'), D' = ceil(D / 2) and so on.

        For the matching volume, :func:`hdrops.matching_conv3d` with its weight and bias takes its place.
        """
        return self._convolved(x, 0)

    def inner(self, x: Tensor) -> Tensor:
        """All layers but the first and the last: what :meth:`first` gives, to the same shape."""
        if len(self.down) == 1:
            return x
        return self.widened(self.core(self.second(x)), x.shape[2:])

    def second(self, x: Tensor) -> Tensor:
        """The second layer, the first of :meth:`inner`: to half the sides of ``x``, rounded up."""
        return self._convolved(x, 1)

    def core(self, x: Tensor) -> Tensor:
        """The layers of :meth:`inner` but its first and its last: what :meth:`second` gives, to the same shape."""
        given = []
        for number in range(OUTER, len(self.down)):
            given.append((x.shape[2:], x if self.skips else None))
            x = self._convolved(x, number)
        for number, (size, before) in enumerate(reversed(given)):
            x = self._transposed(x, number, size, relu=True)
            x = x if before is None else x + before
        return x

    def widened(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """The last layer of :meth:`inner`: what :meth:`core` gives, to the size of what :meth:`first` gives."""
        return self._transposed(x, len(self.up) - 2, size, relu=True)

    def last(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """The last layer: what :meth:`inner` gives, to (N, K, D, H, W), the size of the hourglass's input."""
        return self._transposed(x, len(self.up) - 1, size, relu=False)

    def first_after(self, previous: Hourglass3d, x: Tensor, size: Sequence[int]) -> Tensor:
        """``self.first(previous.last(x, size))``, without the tensor of that size.

        Args:
            previous: the hourglass before this one.
            x: what its :meth:`inner` gives.
            size: of its input, and so of this one's.

        Raises:
            ValueError: the outer dilation of one of them is not 1, for which the two layers are no such convolution.
        """
        if previous.dilations[0] != 1 or self.dilations[0] != 1:
            raise ValueError("the outer dilations must be 1 for the layers to be one convolution")
        before, after = _layer(previous.up, -1), _layer(self.down, 0)
        x, first, first_bias, second, second_bias = _cast(x, before.weight, before.bias, after.weight, after.bias)
        return deconv_conv3d(x, first, first_bias, second, second_bias, size, activation="relu")

    def _convolved(self, x: Tensor, number: int) -> Tensor:
        layer, dilation = _layer(self.down, number), self.dilations[number]
        x, weight, bias = _cast(x, layer.weight, layer.bias)
        return conv3d(x, weight, bias, padding=dilation, dilation=dilation, activation="relu")

    def _transposed(self, x: Tensor, number: int, size: Sequence[int], *, relu: bool) -> Tensor:
        layer, dilation = _layer(self.up, number), self.dilations[-1 - number]
        extra = [side - (2 * small - 1) for side, small in zip(size, x.shape[2:], strict=True)]
        x, weight, bias = _cast(x, layer.weight, layer.bias)
        return deconv3d(
            x,
            weight,
            bias,
            padding=dilation,
            output_padding=extra,
            dilation=dilation,
            activation="relu" if relu else None,
        )


def _cast(*tensors: Any) -> tuple[Any, ...]:
    """The tensors in autocast's dtype, if it is on, as torch's own layers have them."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if t is not None and t.dtype != torch.float64 else t for t in tensors)


def _layer(layers: nn.ModuleList, number: int) -> nn.Conv3d | nn.ConvTranspose3d:
    layer = layers[number]
    assert isinstance(layer, nn.Conv3d | nn.ConvTranspose3d)
    return layer
