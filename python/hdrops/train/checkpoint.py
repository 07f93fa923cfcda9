"""Checkpoints: folders that are there whole or not at all, of safetensors and JSON; nothing is pickled.

::

    checkpoints/
      step-000500/  model, optimizer, ema, rng .safetensors; state.json
      step-001000/
      best -> step-000500
      damaged-step-001500/  one that could not be read
"""

from __future__ import annotations

import functools
import json
import operator
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn, optim

from hdrops.io.errors import InputError
from hdrops.nn.weights import difference

FORMAT = 1
_NAME = re.compile(r"step-(\d{6,})")
_TEMPORARY = ".unfinished-"
_BEST = "best"
_STATE = "state.json"
# What it must hold, and the files that must be there.
_SHAPE: Mapping[str, type] = {
    "format": int,
    "step": int,
    "files": list,
    "system": str,
    "config": str,
    "processes": int,
    "device": str,
    "threads": int,
    "data": dict,
    "window.steps": int,
    "window.sums": dict,
    "skipped": int,
    "validation": dict,
    "best": dict,
    "versions.torch": str,
}
_NEEDED = ("model", "optimizer", "rng")

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on.

    Attributes:
        step: updates that are done.
        tensors: by the name of their file, without its ending.
        state: what JSON holds.
    """

    step: int
    tensors: Mapping[str, Tensors]
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of a run, in a folder that need not be there yet."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def path(self, step: int) -> pathlib.Path:
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, whole or damaged, rising."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def save(self, checkpoint: Checkpoint, keep: int, best: int | None) -> None:
        """Write a checkpoint, then remove all but the last ``keep`` and that of the best step.

        Raises:
            InputError: a place that cannot be written; what was there is left as it was.
        """
        files = {f"{name}.safetensors": safetensors.torch.save(t) for name, t in checkpoint.tensors.items()}
        state = {"format": FORMAT, "step": checkpoint.step, "files": sorted(files), **checkpoint.state}
        files[_STATE] = json.dumps(state, indent=1).encode()
        temporary = self.folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            temporary.mkdir(parents=True)
            for name, content in files.items():
                with open(temporary / name, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
            _sync_folder(temporary)
            os.rename(temporary, self.path(checkpoint.step))
            _sync_folder(self.folder)
            self._tidy(keep, best)
        except OSError as error:
            raise InputError(
                f"cannot write the checkpoint {self.path(checkpoint.step)}: {error.strerror}; make room or give "
                "rights, then run the same command to resume from the one before"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def load(self, keep: int, warn: Callable[[str], None]) -> Checkpoint | None:
        """The last whole checkpoint; None if there has never been one. What interrupted saves have left is removed.

        A damaged one is renamed, so that it is out of the way and can be looked at.

        Raises:
            InputError: checkpoints that are all damaged, one of a later format, or one that cannot be read at present;
                the checkpoints are left as they are.
        """
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
        damaged = []
        for step in reversed(self.steps()):
            try:
                checkpoint = self._read(step)
            except InputError:
                raise
            except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
                damaged.append((step, " ".join(str(error).split())))
                continue
            except OSError as error:  # of the disk, the network or rights, not of the checkpoint
                raise InputError(
                    f"cannot read the checkpoint {self.path(step)}: {error.strerror}; it is left as it is: make it "
                    "readable, then run the same command"
                ) from error
            for other, cause in damaged:
                kept = self._renamed(self.path(other), f"damaged-{self.path(other).name}")
                warn(f"{self.path(other)} is damaged ({cause}), now {kept.name}; going on from step {step}")
            self._tidy(keep, checkpoint.state["best"].get("step"))
            return checkpoint
        if damaged:
            step, cause = damaged[0]
            raise InputError(
                f"no checkpoint in {self.folder} can be read, such as {self.path(step).name} ({cause}); "
                "--fresh --force begins anew and removes them"
            )
        return None

    def _read(self, step: int) -> Checkpoint:
        folder = self.path(step)
        state = json.loads((folder / _STATE).read_text())
        if state["format"] > FORMAT:
            raise InputError(f"{folder} was written by a later version of hdrops ({state['versions']}); install that")
        for key, kind in _SHAPE.items():
            value = functools.reduce(operator.getitem, key.split("."), state)
            if not isinstance(value, kind):
                raise TypeError(f"{key} in {_STATE} is {value!r}")
        tensors = {}
        for name in state["files"]:
            tensors[name.removesuffix(".safetensors")] = safetensors.torch.load((folder / name).read_bytes())
        missing = [name for name in _NEEDED if name not in tensors]
        if missing:
            raise ValueError(f"files in {_STATE} does not name {', '.join(missing)}")
        return Checkpoint(state["step"], tensors, state)

    def _tidy(self, keep: int, best: int | None) -> None:
        self._point_to(best)
        for step in self.steps()[:-keep]:
            if step != best:
                shutil.rmtree(self._set_aside(self.path(step)))

    def _point_to(self, best: int | None) -> None:
        """Have the link ``best`` name a step's checkpoint."""
        link = self.folder / _BEST
        if best is None or not self.path(best).is_dir():
            return
        if link.is_symlink() and os.readlink(link) == self.path(best).name:
            return
        temporary = self.folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
        os.symlink(self.path(best).name, temporary)
        os.replace(temporary, link)

    def _set_aside(self, path: pathlib.Path) -> pathlib.Path:
        """Give a checkpoint the name of an unfinished one, so that it never stands there half removed."""
        return self._renamed(path, f"{_TEMPORARY}{secrets.token_hex(8)}")

    def _renamed(self, path: pathlib.Path, name: str) -> pathlib.Path:
        """Give a checkpoint another name; a longer one if that is taken."""
        target = self.folder / name
        if target.exists():
            target = self.folder / f"{name}-{secrets.token_hex(4)}"
        os.rename(path, target)
        return target


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def on_cpu(tensors: Mapping[str, Tensor]) -> Tensors:
    """Copies that lie on the CPU, each in memory of its own, as safetensors wants them."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def optimizer_tensors(optimizer: optim.Optimizer, names: list[str]) -> Tensors:
    """The state of an optimiser as tensors by "parameter/quantity".

    Args:
        optimizer: with one group of parameters.
        names: of its parameters, in their order.
    """
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}/{key}": value for i, values in state.items() for key, value in values.items()}


def load_optimizer(optimizer: optim.Optimizer, names: list[str], tensors: Tensors) -> None:
    """Put back what :func:`optimizer_tensors` has taken.

    Raises:
        KeyError: a parameter that the optimiser does not have.
    """
    numbers = {name: i for i, name in enumerate(names)}
    parameters = optimizer.param_groups[0]["params"]
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        number = numbers[name]
        if value.shape == parameters[number].shape:
            # In the parameter's memory format again: the last bits of an update depend on it.
            value = torch.empty_like(parameters[number], device="cpu", dtype=value.dtype).copy_(value)
        state.setdefault(number, {})[quantity] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_module(module: nn.Module, tensors: Tensors) -> None:
    """Put back a module's weights and buffers.

    Raises:
        InputError: those of another network.
    """
    differs = difference(module.state_dict(), tensors)
    if differs is not None:
        raise InputError(f"the checkpoint is of another network: {differs}; give another --out")
    module.load_state_dict(tensors)
