"""Reading and renaming of published checkpoints."""

from __future__ import annotations

import os
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which training scripts store tensors among other things
_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_PARALLEL = "module."  # what DataParallel puts before every name


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names, in float32 on the CPU: of safetensors, or of ``torch.save``.

    The latter is read by torch's restricted loader, which makes tensors and plain containers and runs no other code.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is neither, is damaged, or holds more than dense, finite floating-point tensors by name.
    """
    file = pathlib.Path(path)
    with open(file, "rb"):  # for the system's own words where it cannot be
        pass
    found: Any
    try:
        if file.suffix == ".safetensors":
            found = safetensors.torch.load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it is damaged, or holds more than tensors by name; save the network's state_dict()"
        raise ValueError(f"{file} is no checkpoint of tensors: {reason}") from error
    except Exception as error:  # of damaged files the loader raises whatever it meets, AssertionError and OSError too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file} is no checkpoint of tensors, or is damaged: {reason}") from error
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ValueError(f"{file} must hold tensors by their names; whole models are not read")
    state = {str(name).removeprefix(_PARALLEL): tensor for name, tensor in found.items()}
    if len(state) < len(found):
        raise ValueError(f"{file} has names twice, with and without {_PARALLEL}")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in _TYPES:
            raise ValueError(f"{file}: {name} must be a dense floating-point tensor, got {_kind(tensor)}")
        if not bool(tensor.float().isfinite().all()):
            raise ValueError(f"{file}: {name} is not finite in float32")
    return {name: tensor.float() for name, tensor in state.items()}


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype}, {tensor.layout}" + (" without values" if tensor.is_meta else "")


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str], what: str) -> dict[str, Tensor]:
    """The tensors under our names.

    Args:
        state: tensors by the names of others.
        names: theirs to ours, all that there must be.
        what: the network, for errors.

    Raises:
        ValueError: names are missing or unknown.
    """
    for kind, found in (("misses", names.keys() - state.keys()), ("has unknown", state.keys() - names.keys())):
        if found:
            listed = ", ".join(sorted(found)[:3]) + (" ..." if len(found) > 3 else "")
            raise ValueError(f"the checkpoint is not of {what}: it {kind} {listed}")
    return {ours: state[theirs] for theirs, ours in names.items()}
