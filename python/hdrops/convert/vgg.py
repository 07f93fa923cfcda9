"""VGG networks as torchvision published them."""

from __future__ import annotations

import os

from hdrops.convert._checkpoint import read_state
from hdrops.nn.vgg import VGGFeatures


def vgg16(path: str | os.PathLike[str]) -> VGGFeatures:
    """The convolutions of a published VGG-16; as :func:`vgg19`."""
    return VGGFeatures.from_state_dict(read_state(path), "vgg16")


def vgg19(path: str | os.PathLike[str]) -> VGGFeatures:
    """The convolutions of a published VGG-19, without batch normalisation, as :class:`hdrops.nn.VGGFeatures`.

    Args:
        path: its checkpoint: tensors by torchvision's names, as ``torch.save`` or safetensors writes them. The
            classifier is left out.

    Returns:
        All of them, on the CPU; its ``save_pretrained`` writes the file that
        :meth:`hdrops.nn.VGGFeatures.from_pretrained` reads.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no checkpoint of this network.
    """
    return VGGFeatures.from_state_dict(read_state(path), "vgg19")
