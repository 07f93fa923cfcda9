"""Networks that tell real images from generated ones."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

_SLOPE = 0.2
_SIDE = 4  # of the map that the last two layers see
_HIDDEN = 100


class VGGDiscriminator(nn.Module):
    """The discriminator of Wang et al., "ESRGAN: enhanced super-resolution generative adversarial networks", 2018.

    Five pairs of convolutions, 3 x 3 and then 4 x 4 with stride 2, each but the first followed by batch normalisation,
    all by leaky ReLU; two layers make a number of it. Images of 128 x 128 give these 4 x 4 places, as published; of
    others, 4 x 4 means.

    Args:
        channels: of the images.
        features: of the first pair; the next have 2, 4, 8 and 8 times as many.

    Raises:
        ValueError: numbers below 1.
    """

    def __init__(self, channels: int = 3, features: int = 64) -> None:
        super().__init__()
        if min(channels, features) < 1:
            raise ValueError(f"channels and features must be at least 1, got {channels} and {features}")
        sizes = [channels, *(features * k for k in (1, 2, 4, 8, 8))]
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(itertools.pairwise(sizes)):
            layers.append(nn.Conv2d(before, after, 3, padding=1, bias=k == 0))
            if k > 0:
                layers.append(nn.BatchNorm2d(after))
            layers += [nn.LeakyReLU(_SLOPE), nn.Conv2d(after, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.LeakyReLU(_SLOPE))
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(_SIDE)
        self.hidden = nn.Linear(sizes[-1] * _SIDE**2, _HIDDEN)
        self.last = nn.Linear(_HIDDEN, 1)
        self.activation = nn.LeakyReLU(_SLOPE)

    def forward(self, images: Tensor) -> Tensor:
        """C, a number for each image, before the sigmoid.

        Args:
            images: (N, channels, H, W), H and W at least 32.

        Returns:
            (N, 1).

        Raises:
            ValueError: images that are too small.
        """
        if min(images.shape[-2:]) < 1 << 5:
            raise ValueError(f"images must have at least 32 pixels a side, got shape {tuple(images.shape)}")
        maps = self.pool(self.layers(images.contiguous(memory_format=torch.channels_last)))
        result: Tensor = self.last(self.activation(self.hidden(maps.flatten(1))))
        return result
