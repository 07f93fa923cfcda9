"""What scripts that repeat the experiments of papers share: runs of the training engine, their logs, tables."""

from __future__ import annotations

import csv
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hdrops.train import load_config, train
from hdrops.train.system import System


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Configurations within configurations are merged too."""
    both = {key: merged(base[key], changes[key]) for key in base.keys() & changes.keys() if isinstance(base[key], dict)}
    return {**base, **changes, **both}


def trained(system: System[Any], name: str, values: Mapping[str, Any], out: pathlib.Path) -> pathlib.Path:
    """The folder of the weights of a run in ``out/name``, which goes on where it was; an interruption ends the
    script."""
    config = load_config(system.config, system.presets, values=values)
    outcome = train(system, config, out / name, progress=lambda p: _report(name, p) if p.logged else None)
    if outcome.model is None:
        sys.exit(f"{name} was interrupted at step {outcome.step}; the same command goes on")
    return outcome.model


def _report(name: str, p: Any) -> None:
    print(f"{name}: step {p.step}/{p.steps}, loss {p.loss:.5f}, {p.images_per_second:.1f} images/s", flush=True)


def log_of(run: pathlib.Path, table: str) -> dict[str, list[float]]:
    """The columns of a log of a run: "metrics" or "validation"."""
    with (run / f"{table}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    listed = list(values)
    return sum(listed) / len(listed)


def per_scene(values: Sequence[float], scenes: Sequence[str]) -> dict[str, float]:
    """The mean of the values of every scene."""
    return {
        scene: mean(v for v, s in zip(values, scenes, strict=True) if s == scene) for scene in dict.fromkeys(scenes)
    }


def write_table(path: pathlib.Path, rows: Mapping[str, Mapping[str, float]], titles: Mapping[str, str]) -> None:
    """A line for each method: its name, what it is, and its values."""
    columns = list(next(iter(rows.values())))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "what it is", *columns])
        for name, row in rows.items():
            writer.writerow([name, titles[name], *(f"{row[column]:.4f}" for column in columns)])
