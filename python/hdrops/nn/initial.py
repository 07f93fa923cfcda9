"""First weights of networks most of whose task is a function of single pixels."""

from __future__ import annotations

import math

import torch
from torch import nn

SPREAD = 1 / 30  # of the taps around the middle one, of its deviation


def near_pixelwise_(layer: nn.Conv2d, *, linear: bool = False) -> None:
    """Begin near a layer of single pixels: layers of random taps would have to unlearn their blur first.

    Middle taps are drawn from He's normal distribution over the channels, but are 1 in layers of each channel alone;
    the other taps have a thirtieth of that deviation, biases are 0.

    Args:
        layer: with a bias and an odd number of taps a side; changed in place.
        linear: whether no ReLU follows, for a gain of 1.
    """
    assert layer.bias is not None
    deviation = math.sqrt((1 if linear else 2) / layer.weight.shape[1])
    middle = tuple(side // 2 for side in layer.kernel_size)
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.normal_(0, deviation * (SPREAD if max(middle) else 1))
        if layer.groups > 1:
            layer.weight[..., middle[0], middle[1]] = 1
        elif max(middle):
            layer.weight[..., middle[0], middle[1]].normal_(0, deviation)
