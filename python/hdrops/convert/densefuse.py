"""DenseFuse as its authors published it for PyTorch, and as many networks after it."""

from __future__ import annotations

import os

from hdrops.convert._checkpoint import read_state, renamed
from hdrops.models import HyperPMB, HyperPMBConfig
from hdrops.nn.weights import difference

_LAYERS = {
    "conv1.conv2d": "encoders.0.first",
    **{f"DB1.denseblock.{i}.dense_conv.conv2d": f"encoders.0.dense.{i}" for i in range(3)},
    **{f"conv{i + 2}.conv2d": f"decoder.{i}" for i in range(4)},
}
NAMES = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in _LAYERS.items() for kind in ("weight", "bias")}


def densefuse(path: str | os.PathLike[str]) -> HyperPMB:
    """A published DenseFuse as a :class:`hdrops.models.HyperPMB` of the preset "densefuse".

    One encoder, the mean of both images' features, a ReLU behind the last convolution too, values of 0 to 255: those
    are the conventions of that implementation.

    Args:
        path: its checkpoint: tensors by name, as ``torch.save`` or safetensors writes them. Grey and RGB variants are
            told apart by the channels of the first layer.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no checkpoint of DenseFuse.
    """
    state = renamed(read_state(path), NAMES, "DenseFuse")
    first = state["encoders.0.first.weight"]
    channels = first.shape[1] if first.dim() == 4 else 0
    if channels not in (1, 3):
        raise ValueError(f"the checkpoint is not of DenseFuse: conv1.conv2d.weight has shape {tuple(first.shape)}")
    model = HyperPMB(HyperPMBConfig.preset("densefuse", channels=channels))
    differs = difference(model.state_dict(), state)
    if differs is not None:
        raise ValueError(f"the checkpoint is not of DenseFuse: {differs}")
    model.load_state_dict(state)
    return model.eval()
