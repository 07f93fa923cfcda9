"""Folders of weights: ``config.json`` and ``model.safetensors``, nothing that can run code."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import pathlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # a zip archive of torch.save, a bare pickle
# After the lower half of the length of its header a safetensors file has the upper one, and the header. That length may
# begin as a pickle does, which in turn has no such bytes there.
_HEADER = slice(4, 9), bytes(4) + b"{"
_LARGEST_CONFIG = 1 << 20
Config = TypeVar("Config")
Model = TypeVar("Model", bound=nn.Module)
Path = str | os.PathLike[str]


def shipped(system: str) -> pathlib.Path:
    """The folder of the weights that come with the package.

    Raises:
        FileNotFoundError: this installation has none.
    """
    folder = pathlib.Path(__file__).resolve().parents[1] / "weights" / system
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"this installation of hdrops has no weights of {system}; train them (hdrops train "
            f"{system.replace('_', '-')}) and give their folder"
        )
    return folder


def save(folder: Path, config: Mapping[str, Any], model: nn.Module) -> None:
    """Write a model's configuration and weights into a folder, each file whole or not at all.

    A folder that does not exist yet appears with both or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    target = pathlib.Path(os.path.realpath(folder))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    contents = {
        WEIGHTS: safetensors.torch.save(state, {"format": "pt"}),
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
    }
    if target.is_dir():
        for name, content in contents.items():
            temporary = target / f".{secrets.token_hex(8)}.tmp"
            try:
                _write(temporary, content)
                os.replace(temporary, target / name)
            finally:
                temporary.unlink(missing_ok=True)
        _synchronise(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{secrets.token_hex(8)}.tmp")
    draft.mkdir()
    try:
        for name, content in contents.items():
            _write(draft / name, content)
        _synchronise(draft)
        os.rename(draft, target)
    except BaseException:
        for name in contents:
            (draft / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            draft.rmdir()
        raise
    _synchronise(target.parent)


def _write(path: pathlib.Path, content: bytes) -> None:
    with open(path, "xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _synchronise(folder: pathlib.Path) -> None:
    """Make the names in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find(source: Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The files of configuration and weights: in a folder, or beside a file of weights.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: the weights are a pickle, or of an unknown kind.
    """
    given = pathlib.Path(source)
    weights = given
    if given.is_dir():
        weights = given / WEIGHTS
        pickles = sorted(path.name for path in given.iterdir() if path.suffix in _PICKLES)
        if not weights.is_file() and pickles:
            raise _is_pickle(given / pickles[0])
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} does not exist; give a folder with {CONFIG} and {WEIGHTS}")
    with open(weights, "rb") as stream:
        start = stream.read(9)
    place, header = _HEADER
    if weights.suffix in _PICKLES or (start.startswith(_PICKLE_STARTS) and start[place] != header):
        raise _is_pickle(weights)
    if weights.suffix != ".safetensors":
        raise ValueError(f"{weights} is no file of weights; give a .safetensors file or its folder")
    config = weights.with_name(CONFIG)
    if not config.is_file():
        raise FileNotFoundError(f"{config} is missing: it says which network {weights.name} belongs to")
    return config, weights


def _is_pickle(path: pathlib.Path) -> ValueError:
    return ValueError(
        f"{path} is a pickle, which can run any code when it is loaded; hdrops convert makes a folder of {WEIGHTS} of "
        "published checkpoints that it knows, safetensors.torch.save_file a file of your own"
    )


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The object in a configuration file.

    Raises:
        ValueError: it is not a JSON object.
    """
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ValueError(f"{path} is no configuration: it is larger than {_LARGEST_CONFIG} bytes")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(values).__name__}")
    return values


def build(kind: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """A configuration from exactly the keys it has.

    Raises:
        ValueError: a key is missing or unknown, or a value is not allowed.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
            raise ValueError(f"{where}: unknown key {name!r}; {hint}")
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(map(repr, missing))}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


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


def load(kind: Callable[[Config], Model], read: Callable[[dict[str, Any], str], Config], source: Path) -> Model:
    """A trained model, in evaluation mode, on the CPU.

    Args:
        kind: makes the model of its configuration.
        read: makes the configuration of the object in its file, whose name it is given for errors.
        source: a folder of weights, or such a file beside its configuration.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: a pickle, unknown or missing keys, weights of another network, or a damaged file.
    """
    path, weights = find(source)
    config = read(read_config(path), str(path))
    # Neither memory nor random numbers are spent on weights that the file replaces, or does not fit.
    with torch.device("meta"):
        model = kind(config)
    load_weights(model, weights)
    return model.eval()


def load_weights(model: nn.Module, path: pathlib.Path) -> None:
    """Give a model on the meta device its weights, whose names and shapes they must have, all of them and no others.

    They lie on the CPU then, in the dtypes and memory formats of the model.

    Raises:
        ValueError: the file is damaged or belongs to another network.
    """
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    own = model.state_dict()
    differs = difference(own, state)
    if differs is not None:
        raise ValueError(f"{path} belongs to another network than {CONFIG}: {differs}")
    for name in own:
        if not state[name].is_floating_point():
            raise ValueError(f"{path}: {name} is {state[name].dtype}; weights must be floating point")
        if not bool(state[name].isfinite().all()):
            raise ValueError(f"{path}: {name} is not finite; the file is damaged")
    # The file is only mapped into memory, where a change of it would be one of the weights, or a crash.
    copies = {name: torch.empty_like(tensor, device="cpu").copy_(state[name]) for name, tensor in own.items()}
    model.load_state_dict(copies, assign=True)
