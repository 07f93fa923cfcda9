"""The convolutions of the VGG networks: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
recognition", ICLR 2015, under the names that torchvision gives their weights."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Mapping
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from hdrops.nn import weights

Architecture = Literal["vgg16", "vgg19"]
_CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # of the blocks, with a maximum of 2 x 2 between
_CHANNELS = (3, 64, 128, 256, 512, 512)
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision trains on it
# What follows the convolutions in the files of torchvision and of timm.
_CLASSIFIERS = ("classifier.", "pre_logits.", "head.")


def vgg_layers(architecture: Architecture = "vgg19", layer: str | None = None) -> nn.Sequential:
    """The layers of a network up to a convolution, numbered as torchvision's ``features``; random weights.

    Args:
        architecture: "vgg16" or "vgg19".
        layer: the last one: "conv3_2" is the second convolution of the third block, which works on a quarter of the
            pixels a side. None for the last convolution, "conv5_3" or "conv5_4".

    Returns:
        From images (N, 3, H, W) to what the convolution gives, before its ReLU. Convolutions have 3 x 3 taps and zeros
        around the image.

    Raises:
        ValueError: an architecture that is not offered, or a layer that it does not have.
    """
    if architecture not in get_args(Architecture):
        raise ValueError(f"architecture must be 'vgg16' or 'vgg19', got {architecture!r}")
    layers: list[nn.Module] = []
    last = f"conv{len(_CHANNELS) - 1}_{_CONVOLUTIONS[architecture][-1]}"
    if layer is None:
        layer = last
    sizes = itertools.pairwise(_CHANNELS)
    for block, (count, (before, after)) in enumerate(zip(_CONVOLUTIONS[architecture], sizes, strict=True), 1):
        for number in range(1, count + 1):
            layers.append(nn.Conv2d(before if number == 1 else after, after, 3, padding=1))
            if f"conv{block}_{number}" == layer:
                return nn.Sequential(*layers)
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.MaxPool2d(2))
    raise ValueError(f"layer of {architecture} must be conv1_1 to {last}, got {layer!r}")


class VGGFeatures(nn.Module):
    """What a convolution of a network for ImageNet finds in images; for :class:`hdrops.losses.PerceptualLoss`.

    Its weights do not learn, and no layer depends on whether the module is in training mode. They are random until they
    are loaded: :meth:`from_pretrained`.

    Args:
        architecture: "vgg19" or "vgg16".
        layer: the convolution, from "conv1_1"; None for the last one. Wang et al., "ESRGAN: enhanced super-resolution
            generative adversarial networks", 2018, section 3.3, take conv5_4 of VGG-19, before its ReLU.
        activated: whether the features are taken after its ReLU.

    Raises:
        ValueError: an architecture that is not offered, or a layer that it does not have.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, architecture: Architecture = "vgg19", layer: str | None = None, *, activated: bool = False
    ) -> None:
        super().__init__()
        self.features = vgg_layers(architecture, layer).requires_grad_(False)
        self.architecture, self.activated = architecture, activated
        self.least = 1 << sum(isinstance(module, nn.MaxPool2d) for module in self.features)
        self._set_statistics()
        self.eval()

    def _set_statistics(self) -> None:
        for name, values in (("mean", _MEAN), ("deviation", _DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        architecture: Architecture = "vgg19",
        layer: str | None = None,
        *,
        activated: bool = False,
    ) -> Self:
        """The features of a trained network, on the CPU.

        Args:
            source: a ``.safetensors`` file with torchvision's names, as ``hdrops convert vgg19 FILE.pth -o
                FILE.safetensors`` makes it of torchvision's own. Those of timm have the same names.
            architecture, layer, activated: as for the class. The file may end with the layer or go on.

        Raises:
            OSError: the file cannot be read.
            ValueError: a pickle, a damaged file, weights that are missing, unknown, of another shape, not floating
                point or not finite, or what the class raises.
        """
        path = pathlib.Path(source)
        weights.check_format(path)
        return cls._loaded(weights.read(path), architecture, layer, activated, f"{path}: ")

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        architecture: Architecture = "vgg19",
        layer: str | None = None,
        *,
        activated: bool = False,
    ) -> Self:
        """The features of a network's weights, which are copied to the CPU.

        Args:
            state: by torchvision's names, ``features.0.weight`` and so on; its classifier is ignored.
            architecture, layer, activated: as for the class. The weights may end with the layer or go on.

        Raises:
            ValueError: as for :meth:`from_pretrained`.
        """
        return cls._loaded(state, architecture, layer, activated, "")

    @classmethod
    def _loaded(
        cls, state: Mapping[str, Tensor], architecture: Architecture, layer: str | None, activated: bool, where: str
    ) -> Self:
        # Neither memory nor random numbers are spent on weights that are replaced.
        with torch.device("meta"):
            model = cls(architecture, layer, activated=activated)
            known = {f"features.{name}": tensor for name, tensor in vgg_layers(architecture).state_dict().items()}
        own = model.state_dict()
        given = {name: tensor for name, tensor in state.items() if not name.startswith(_CLASSIFIERS)}
        wanted = {name: tensor for name, tensor in known.items() if name in own or name in given}
        differs = weights.difference(wanted, given)
        if differs is not None:
            raise ValueError(f"{where}the weights are not those of {architecture}: {differs}")
        weights.assign(model, given, where)
        model._set_statistics()
        return model

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write a file for :meth:`from_pretrained`, whole or not at all.

        Args:
            path: its name, which ends in ``.safetensors``; a file of this name is replaced.

        Raises:
            OSError: the file cannot be written.
            ValueError: another ending.
        """
        target = pathlib.Path(os.path.realpath(path))
        if target.suffix != ".safetensors":
            raise ValueError(f"{path} must end in .safetensors")
        weights.replace(target, weights.content(self))

    def forward(self, images: Tensor) -> Tensor:
        """The features.

        Args:
            images: (N, 3, H, W), RGB, floating point, nominally in [0, 1] as displays show them, not clamped. H and W
                are at least 1 for the first block, and twice as many for each further: 16 for the fifth.

        Returns:
            (N, K, h, w), K from 64 to 512, h = H / 2^(block - 1) rounded down; in the dtype of the weights. It is
            differentiable with respect to the images.

        Raises:
            TypeError: images that are not floating point.
            ValueError: other channels, or images that are too small.
        """
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}")
        if images.dim() != 4 or images.shape[1] != _CHANNELS[0] or min(images.shape[-2:]) < self.least:
            wanted = f"(N, 3, H, W) with at least {self.least} pixels a side"
            raise ValueError(f"images must be {wanted}, got shape {tuple(images.shape)}")
        normal = (images.to(self.mean.dtype) - self.mean) / self.deviation
        result: Tensor = self.features(normal.contiguous(memory_format=torch.channels_last))
        return result.relu() if self.activated else result
