"""Folders of weights: ``config.json`` and ``model.safetensors``, nothing that can run code."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import pathlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from hdrops.nn import weights

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
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
    contents = {
        WEIGHTS: weights.content(model),
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
    }
    if target.is_dir():
        for name, content in contents.items():
            weights.replace(target / name, content)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{secrets.token_hex(8)}.tmp")
    draft.mkdir()
    try:
        for name, content in contents.items():
            weights.write(draft / name, content)
        weights.synchronise(draft)
        os.rename(draft, target)
    except BaseException:
        for name in contents:
            (draft / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            draft.rmdir()
        raise
    weights.synchronise(target.parent)


def find(source: Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The files of configuration and weights: in a folder, or beside a file of weights.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: the weights are a pickle, or of an unknown kind.
    """
    given = pathlib.Path(source)
    file = given
    if given.is_dir():
        file = given / WEIGHTS
        pickles = sorted(path for path in given.iterdir() if path.suffix in weights.PICKLES)
        if not file.is_file() and pickles:
            raise weights.pickled(pickles[0])
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; give a folder with {CONFIG} and {WEIGHTS}")
    weights.check_format(file)
    config = file.with_name(CONFIG)
    if not config.is_file():
        raise FileNotFoundError(f"{config} is missing: it says which network {file.name} belongs to")
    return config, file


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
    path, file = find(source)
    config = read(read_config(path), str(path))
    # Neither memory nor random numbers are spent on weights that the file replaces, or does not fit.
    with torch.device("meta"):
        model = kind(config)
    state = weights.read(file)
    differs = weights.difference(model.state_dict(), state)
    if differs is not None:
        raise ValueError(f"{file} belongs to another network than {CONFIG}: {differs}")
    weights.assign(model, state, f"{file}: ")
    return model.eval()
