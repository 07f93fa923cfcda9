"""Files of weights: safetensors, nothing that can run code."""

from __future__ import annotations

import os
import pathlib
import secrets
from collections.abc import Iterable, Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
_ARCHIVE = b"PK\x03\x04"  # how a file of torch.save begins
_LARGEST_HEADER = 100_000_000  # bytes that safetensors allows


def check_format(path: pathlib.Path) -> None:
    """Raise where a file is not one of safetensors, by its name and how it begins.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a pickle, or of an unknown kind.
    """
    with open(path, "rb") as stream:
        start = stream.read(8)
    # Pickles begin with 0x80, and so does every 32nd file of safetensors: with the size of its header.
    bare = start.startswith(b"\x80") and int.from_bytes(start, "little") > _LARGEST_HEADER
    if path.suffix in PICKLES or start.startswith(_ARCHIVE) or bare:
        raise pickled(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no file of weights; give a .safetensors file")


def pickled(path: pathlib.Path) -> ValueError:
    """The error of a pickle."""
    return ValueError(
        f"{path} is a pickle, which can run any code when it is loaded; hdrops convert makes safetensors of published "
        "checkpoints that it knows, safetensors.torch.save_file of weights of your own"
    )


def read(path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of a file by their names. They lie in the file, which is mapped into memory.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return state


def difference(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """What tells the weights of one network from those of another, by names and shapes; None if nothing does."""
    for what, names in (("missing", own.keys() - given.keys()), ("unknown", given.keys() - own.keys())):
        if names:
            return f"{len(names)} weights are {what} ({_some(names)})"
    reshaped = [name for name, tensor in own.items() if given[name].shape != tensor.shape]
    if reshaped:
        first = reshaped[0]
        return (
            f"{len(reshaped)} weights have another shape ({_some(reshaped)}): {first} is {tuple(given[first].shape)} "
            f"instead of {tuple(own[first].shape)}"
        )
    return None


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (" ..." if len(listed) > 3 else "")


def assign(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Give a model on the meta device copies of weights that have all its names and shapes.

    They lie on the CPU then, in the dtypes and memory formats of the model.

    Args:
        model: all of whose parameters and persistent buffers are replaced.
        state: the weights.
        where: what errors begin with.

    Raises:
        ValueError: weights that are not floating point, or not finite.
    """
    own = model.state_dict()
    for name in own:
        if not state[name].is_floating_point():
            raise ValueError(f"{where}{name} is {state[name].dtype}; weights must be floating point")
        if not bool(state[name].isfinite().all()):
            raise ValueError(f"{where}{name} is not finite; the file is damaged")
    # What is only mapped into memory would change with its file, or crash.
    copies = {name: torch.empty_like(tensor, device="cpu").copy_(state[name]) for name, tensor in own.items()}
    model.load_state_dict(copies, assign=True)


def content(model: nn.Module) -> bytes:
    """What a file of a model's weights holds."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(state, {"format": "pt"})


def replace(path: pathlib.Path, data: bytes) -> None:
    """Write a file, whole or not at all, in place of what has its name.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        write(temporary, data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    synchronise(path.parent)


def write(path: pathlib.Path, data: bytes) -> None:
    """Write a new file, so that it lasts.

    Raises:
        OSError: it exists, or cannot be written.
    """
    with open(path, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def synchronise(folder: pathlib.Path) -> None:
    """Make the names in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
