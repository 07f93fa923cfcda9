"""The experiments of Im, Son, Kwon and Lee, "Multi-task learning approach using dynamic hyperparameter for
multi-exposure fusion": Table 1, Table 2 and Figure 10.

Networks learn from brackets that virtual cameras photograph in HDR panoramas, all with the same samples, updates and
schedule, and are judged on photographs that none has seen: pairs of an under- and an overexposed one. Values are means
over these of ten metrics, in 8 bits. Interrupted, the script goes on where it was. Tables and plots go to
``bench/results/hyperp_mb``.

    python bench/reproduce/hyperp_mb.py DATA OUT

Networks can be trained at the same time before, by ``--only NAME --threads 1`` in several processes.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hdrops.io import read_bracket
from hdrops.models import HyperPMB
from hdrops.train import load_config, train
from hdrops.train.hyperp_mb import SYSTEM

BENCH = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(BENCH))

# What each network changes in the configuration; all else is shared.
RUNS: dict[str, dict[str, Any]] = {
    "correct": {"loss": {"masks": False}},
    "masks": {"loss": {"tuner": False}},
    "hyperp-mb": {},
    "densefuse": {"model": {"network": "densefuse"}, "loss": {"task": "reconstruction"}},
    "sigma-20": {"loss": {"sigma": 20.0}},
    "sigma-50": {"loss": {"sigma": 50.0}},
}
TITLES = {
    "average": "plain average",
    "mertens": "exposure fusion (Mertens)",
    "densefuse": "DenseFuse, trained to reconstruct, mean of features",
    "correct": "correctly exposed target alone",
    "masks": "and MaskBuilder",
    "hyperp-mb": "and ParamTuner: HyperP_MB",
    "sigma-20": "HyperP_MB, sigma 20",
    "sigma-50": "HyperP_MB, sigma 50",
    "shipped": "HyperP_MB, shipped weights",
}
METRICS = {
    "ag": ("average_gradient", "nothing"),
    "ei": ("edge_intensity", "nothing"),
    "fmi": ("fmi", "sources"),
    "lpc_si": ("lpc_si", "nothing"),
    "s3": ("s3", "nothing"),
    "sf": ("spatial_frequency", "nothing"),
    "piqe": ("piqe", "nothing"),
    "ms_ssim_sources": ("ms_ssim_sources", "sources"),
    "qabf": ("qabf", "sources"),
    "viff": ("viff", "sources"),
}
Fuse = Callable[[Tensor], Tensor]  # of a bracket (1, K, 3, H, W), uint8


# ---- networks --------------------------------------------------------------------------------------------------------


def trained(name: str, data: pathlib.Path, out: pathlib.Path, budget: argparse.Namespace) -> HyperPMB:
    shared = {
        "steps": budget.steps,
        "batch": budget.batch,
        "validate_every": max(1, budget.steps // 20),
        "picture_every": 0,
        "optimizer": {"lr": budget.rate},
        "schedule": {"kind": "cosine", "warmup": min(100, budget.steps // 10), "floor": 0.01},
        "model": {"network": budget.network},
        "data": {"folders": [str(data / "hdr" / "polyhaven")], "synthesis": {"frame": [budget.size] * 2}},
        "loss": {"scales": budget.scales},
        "run": {"workers": 1, "threads": budget.threads, "tensorboard": False},
    }
    config = load_config(SYSTEM.config, SYSTEM.presets, values=merged(shared, RUNS[name]))
    outcome = train(SYSTEM, config, out / name, progress=lambda p: report(name, p) if p.logged else None)
    if outcome.model is None:
        sys.exit(f"{name} was interrupted at step {outcome.step}; the same command goes on")
    return HyperPMB.from_pretrained(outcome.model)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: merged(base[key], changes[key]) for key in base.keys() & changes.keys() if isinstance(base[key], dict)}
    return {**base, **changes, **both}


def report(name: str, p: Any) -> None:
    print(f"{name}: step {p.step}/{p.steps}, loss {p.loss:.2f}, {p.images_per_second:.1f} images/s", flush=True)


# ---- evaluation ------------------------------------------------------------------------------------------------------


def average(bracket: Tensor) -> Tensor:
    return bracket.float().mean(1).round().to(torch.uint8)


def pairs(data: pathlib.Path) -> dict[str, Tensor]:
    """(1, 2, 3, H, W), dark to bright: the pairs, and the outer frames of brackets whose scenes do not move."""
    listed = json.loads((data / "brackets.json").read_text())
    kept = [entry for entry in listed if pathlib.Path(entry["dir"]).parent.name in ("pairs", "iccv17")]
    found = {}
    for entry in kept:
        if entry["kind"] not in ("static", "pair"):
            continue
        folder = data / entry["dir"]
        frames = read_bracket([folder / entry["files"][i] for i in (0, -1)]).images
        found["/".join(folder.parts[-2:])] = frames[None]
    return found


def quality(fused: Tensor, sources: Tensor) -> dict[str, float]:
    """The ten metrics of a picture (1, 3, H, W) of a pair."""
    values = {}
    for name, (function, needs) in METRICS.items():
        metric = getattr(importlib.import_module("hdrops.metrics"), function)
        values[name] = float(metric(fused, sources) if needs == "sources" else metric(fused))
    return values


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def write_table(path: pathlib.Path, rows: Mapping[str, Mapping[str, float]]) -> None:
    columns = list(next(iter(rows.values())))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "what it is", *columns])
        for name, row in rows.items():
            writer.writerow([name, TITLES[name], *(f"{row[column]:.4f}" for column in columns)])
