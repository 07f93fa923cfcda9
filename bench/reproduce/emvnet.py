"""The experiments of Ren, Fan and Huang, "Robust real-world image enhancement based on multi-exposure LDR images":
Table 3, what the axes of the matching volume, the mask and dense motions add, and Table 4, what the losses add.

Networks of one size learn from moving scenes that virtual cameras photograph in HDR panoramas (Poly Haven), a fifth of
which are held out. All have the same number of updates of the same samples under the same schedule, and the moving
average of their weights is what is judged: on brackets of the held-out panoramas, and on brackets of NTIRE 2021. Beside
them stand the reference image alone, and the weighted merge of Debevec and Malik, which takes a scene to stand still.

Light is divided by the brightest that the darkest image holds; the mean absolute error by mu-law (mu = 5000), which is
what the networks minimise, and PSNR in dB and SSIM by it and linear.

The values of the paper are of other images, networks sixteen times as large and hundreds of times as many updates:
what can be compared is the order. How far it depends on chance, a second seed shows: ``--seed 1`` draws other weights
and other training samples, and is judged on the same brackets.

Interrupted, the script goes on where it was. Tables go to ``bench/results/emvnet``, those of other seeds to a folder of
the seed in it; pictures stay in OUT.

    python bench/reproduce/emvnet.py DATA OUT

Networks can be trained at the same time before, by ``--only NAME --threads 1`` in several processes.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

import hdrops
from hdrops.data import NTIREScenes
from hdrops.io import write_image
from hdrops.metrics.domains import mu_law_encode
from hdrops.models import EMVNet
from hdrops.train import load_config
from hdrops.train.emvnet import SYSTEM, measured

BENCH = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(BENCH))
import runs  # noqa: E402
from machine import machine  # noqa: E402

ALONE = {"motion_extent": 1, "motion_step": 1}  # one motion, none
LINEAR = {"head": "linear", "residual": True}
# What each network changes in the configuration; all else is shared.
RUNS: dict[str, dict[str, Any]] = {
    "linear-none": {"model": {"changes": {**LINEAR, **ALONE, "exposures": [1.0]}}},
    "linear-motion": {"model": {"changes": {**LINEAR, "exposures": [1.0]}}},
    "linear-exposure": {"model": {"changes": {**LINEAR, **ALONE}}},
    "linear-both": {"model": {"changes": LINEAR}},
    "motion": {"model": {"changes": {"exposures": [1.0]}}},
    "exposure": {"model": {"changes": ALONE}, "optimizer": {"lr": 1e-3}},  # at 2e-3 its layers fall silent
    "no-mask": {"model": {"changes": {"mask": "none"}}},
    "dense": {"model": {"changes": {"motion_extent": 7, "motion_step": 1}}},
    "full": {},
    "adversarial": {"loss": {"adversarial": 0.001, "discriminator": 16}},
    "pairs": {"loss": {"pixels": 0.25, "patches": 0.25}},
}
TITLES = {
    "reference": "the reference alone",
    "merge": "weighted merge, as if nothing moved",
    "linear-none": "residual: no motions, no gains, so no matching volume",
    "linear-motion": "residual: motions",
    "linear-exposure": "residual: gains",
    "linear-both": "residual: motions and gains",
    "motion": "mean of frames: motions",
    "exposure": "mean of frames: gains",
    "no-mask": "mean of frames: motions and gains, no mask",
    "dense": "mean of frames: motions of every pixel and gains",
    "full": "mean of frames: motions and gains",
    "adversarial": "the same, adversarial loss as well",
    "pairs": "the same, loss of pairs of pixels and patches as well",
}
METRICS = ("error", "psnr_mu", "ssim_mu", "psnr_l", "ssim_l")


def configuration(data: pathlib.Path, budget: argparse.Namespace) -> dict[str, Any]:
    """What all runs share."""
    shared: Mapping[str, Any] = {
        "steps": budget.steps,
        "seed": budget.seed,
        "validate_every": max(1, budget.steps // 6),
        "schedule": {"kind": "cosine", "warmup": min(50, budget.steps // 10), "floor": 0.01},
        "data": {"folders": [str(data / "hdr" / "polyhaven")], "validation_samples": 16},
        "run": {"workers": 0, "threads": budget.threads, "tensorboard": False, "checkpoint_every": 200},
    }
    return runs.merged(SYSTEM.presets["quick"], shared)


def learnt(name: str, data: pathlib.Path, out: pathlib.Path, budget: argparse.Namespace) -> pathlib.Path:
    """The folder of the weights of a run."""
    folder = out / f"seed_{budget.seed}" if budget.seed else out
    return runs.trained(SYSTEM, name, runs.merged(configuration(data, budget), RUNS[name]), folder)


def judged(
    networks: Mapping[str, EMVNet], samples: Iterable[Mapping[str, Tensor]], gamma: float, pictures: pathlib.Path
) -> dict[str, dict[str, float]]:
    """The mean metrics of networks, of the reference alone and of the weighted merge; pictures by mu-law."""
    found: dict[str, list[dict[str, float]]] = {}
    pictures.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(samples):
        images, target, times = sample["images"][None], sample["target"][None], sample["times"]
        reference = int(sample["reference"])
        results = {
            "reference": images[:, reference],
            "merge": hdrops.merge_radiance(images, times, coding=gamma) ** (1 / gamma),
        }
        results |= {name: network.enhance(images, reference) for name, network in networks.items()}
        scale = float(times.min())
        shown = [mu_law_encode((target * scale).clamp(0, 1))]
        for name, result in results.items():
            row = measured(result, target, images, reference, times, gamma, next(iter(networks.values())).config)
            found.setdefault(name, []).append({metric: row[metric] for metric in METRICS})
            shown.append(mu_law_encode((result.clamp(min=0) ** gamma * scale).clamp(0, 1)))
        strip = torch.cat([*images[0], *(x[0] for x in shown)], -1)
        write_image(pictures / f"{number:02}.png", (strip * 255).round().to(torch.uint8))
    return {name: {m: runs.mean(row[m] for row in rows) for m in METRICS} for name, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path, help="folder with hdr/polyhaven and dynamic_gt")
    parser.add_argument("out", type=pathlib.Path, help="folder of the runs and of the pictures")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of weights and training samples; those judged stay")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--judged", type=int, default=48, help="brackets of held-out panoramas")
    parser.add_argument("--only", nargs="*", choices=[*RUNS], help="train these and stop")
    parser.add_argument("--runs", nargs="*", choices=[*RUNS], default=[*RUNS], help="judge these; by default all")
    parser.add_argument("--results", type=pathlib.Path, help="folder of the tables; by default by the seed")
    budget = parser.parse_args()
    budget.results = budget.results or BENCH / "results" / "emvnet" / (f"seed_{budget.seed}" if budget.seed else "")
    if budget.only is not None:
        for name in budget.only:
            learnt(name, budget.data, budget.out, budget)
        return
    folders = {name: learnt(name, budget.data, budget.out, budget) for name in budget.runs}
    networks = {name: EMVNet.from_pretrained(folder) for name, folder in folders.items()}
    values = runs.merged(configuration(budget.data, budget), {"seed": 0, "data": {"validation_samples": budget.judged}})
    config = load_config(SYSTEM.config, SYSTEM.presets, values=values)
    data = SYSTEM.samples(config)
    synthetic = (data.held_out[k] for k in range(budget.judged))
    scenes = NTIREScenes(budget.data / "dynamic_gt", patch=None, augment=False)
    budget.results.mkdir(parents=True, exist_ok=True)
    for name, samples, gamma in (
        ("synthetic", synthetic, config.data.gamma),
        ("ntire", (scenes[k] for k in range(len(scenes))), scenes.gamma),
    ):
        table = judged(networks, samples, gamma, budget.out / "pictures" / f"{name}_{budget.seed}")
        runs.write_table(budget.results / f"{name}.csv", table, TITLES)
    facts = {"steps": budget.steps, "seed": budget.seed, "brackets": budget.judged, "scenes": dict(data.facts)}
    facts |= {"machine": machine("cpu", budget.threads or torch.get_num_threads())}
    (budget.results / "run.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
