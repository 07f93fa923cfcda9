"""The experiments of Im, Son, Kwon and Lee, "Multi-task learning approach using dynamic hyperparameter for
multi-exposure fusion": Table 1 (without U2Fusion and TransMEF), Table 2 and Figure 10; and brackets of more frames.

Networks learn from triplets of the Fairchild survey, resized to 256 x 256. They are judged by other photographs: under-
and overexposed pairs, and the first and the last frame of the static brackets of DeepFuse, but for two in which things
move; all of them aligned. A survey scene of the same place as a pair is left out of the training. All networks have the
same number of updates under the same schedule, and the moving average of their weights is what is judged. An update of
DenseFuse, which learns to reconstruct, works on three images instead of two that become one: it has a third of the
updates. More frames than two: a third of the static brackets of DeepFuse (3 frames) and of the survey (mostly 9), with
the shipped weights, which learnt from neither.

What a loss asks for, whatever network is to learn it: the pictures for which the three losses of Table 2 are the least,
found by descent on their pixels, of one triplet of every static scene.

Interrupted, the script goes on where it was. Tables and the plot go to ``bench/results/hyperp_mb``; pictures stay in
OUT.

    python bench/reproduce/hyperp_mb.py DATA OUT

Networks can be trained at the same time before, by ``--only NAME --threads 1`` in several processes; ``--only folds``
does the brackets of more frames alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import hdrops
from hdrops.align import align_bracket
from hdrops.data import FusionTriplets
from hdrops.io import read_bracket, write_image
from hdrops.losses import HyperPMBLoss
from hdrops.models import HyperPMB
from hdrops.ops._grey import luma
from hdrops.train.hyperp_mb import SYSTEM, LossConfig, loss_of

BENCH = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(BENCH))
import evaluation  # noqa: E402
import runs  # noqa: E402
from machine import machine  # noqa: E402

# What each network changes in the configuration; all else is shared.
RUNS: dict[str, dict[str, Any]] = {
    "correct": {"loss": {"masks": False, "tuner": False}},
    "masks": {"loss": {"tuner": False}},
    "hyperp-mb": {},
    "sigma-20": {"loss": {"sigma": 20.0}},
    "sigma-50": {"loss": {"sigma": 50.0}},
    "densefuse": {"model": {"network": "densefuse"}, "loss": {"task": "reconstruction"}},
}
SHARE = {"densefuse": 1 / 3}  # of the updates
SIGMAS = {"hyperp-mb": 10, "sigma-20": 20, "sigma-50": 50}
TITLES = {
    "average": "plain average",
    "mertens": "Mertens",
    "densefuse": "DenseFuse, of the same images",
    "correct": "correct target",
    "masks": "correct target, MaskBuilder",
    "hyperp-mb": "HyperP_MB: correct target, MaskBuilder, ParamTuner",
    "shipped": "HyperP_MB, shipped weights (of generated brackets)",
}
METRICS = ("ag", "ei", "fmi", "lpc_si", "s3", "sf", "piqe", "ms_ssim_sources", "qabf", "viff", "mef_ssim")
SOUGHT = {
    "average": "plain average",
    "target": "the correctly exposed frame, which is what the loss on it alone asks for",
    "masks": "least loss with MaskBuilder",
    "hyperp-mb": "least loss with MaskBuilder and ParamTuner",
}
FOLDED = 3  # one of so many static brackets shows what is best done with more frames
DESCENT = 150  # steps; after 900, the losses of three triplets are the same to 0.01
STEPS_OF_SOUGHT = (("target", "masks"), ("masks", "hyperp-mb"))
STEPS_OF_TABLE_2 = (("correct", "masks"), ("masks", "hyperp-mb"))
SAME_PLACE = ("balanced_rock",)  # in the survey, as the pair balancedrock
MOVING = ("iccv17/seq_74", "iccv17/seq_80")
Method = Callable[[Tensor], Tensor]
Brackets = Mapping[str, Sequence[pathlib.Path]]


def learnt(name: str, data: pathlib.Path, out: pathlib.Path, budget: argparse.Namespace) -> HyperPMB:
    folder = data / "brackets" / "fairchild"
    steps = max(1, round(budget.steps * SHARE.get(name, 1)))
    shared = {
        "steps": steps,
        "ema": 0.995,
        "validate_every": max(1, steps // 8),
        "optimizer": {"lr": budget.rate},
        "schedule": {"kind": "cosine", "warmup": min(50, steps // 10), "floor": 0.01},
        "model": {"network": budget.network},
        "data": {
            "folders": [str(folder)],
            "held_out_scenes": [*SAME_PLACE, *budget.validated],
            "validation_samples": 16,
        },
        "run": {"workers": 0, "threads": budget.threads, "tensorboard": False},
    }
    return HyperPMB.from_pretrained(runs.trained(SYSTEM, name, runs.merged(shared, RUNS[name]), out))


def average(bracket: Tensor) -> Tensor:
    return bracket.double().mean(1).round().to(bracket.dtype)


def by_pairs(model: HyperPMB) -> Method:
    """The first two frames, then that picture and the third, and so on."""

    def fuse(bracket: Tensor) -> Tensor:
        picture = bracket[:, 0]
        for frame in bracket.unbind(1)[1:]:
            picture = model.fuse(torch.stack([picture, frame], 1))
        return picture

    return fuse


def aligned(scene: str, files: Sequence[pathlib.Path], out: pathlib.Path) -> Tensor:
    """The frames of a scene (1, K, 3, H, W) on one another, as section 3.6 has it, which are in a folder then too.

    What cannot be aligned stays as it is.
    """
    frames = align_bracket(read_bracket(files).images, best_effort=True).images
    for k, frame in enumerate(frames):
        write_image(_place(out / scene / f"{k}.png"), frame)
    return frames[None]


def _place(path: pathlib.Path) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def pictures(
    methods: Mapping[str, Method], scenes: Mapping[str, Sequence[pathlib.Path]], out: pathlib.Path, ends: bool
) -> pathlib.Path:
    """The values of the pictures that methods make of brackets, or of their first and last frames."""
    for scene, files in scenes.items():
        frames = aligned(scene, [files[0], files[-1]] if ends else files, out / "sources")
        for name, method in methods.items():
            with torch.inference_mode():
                write_image(_place(out / "pictures" / name / f"{scene}.png"), method(frames)[0])
    return evaluation.evaluated(out / "pictures", list(methods), out / "sources", out / "report.html", METRICS)


def table_of(report: pathlib.Path) -> dict[str, dict[str, dict[str, float]]]:
    """Values by method, scene and metric."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for (method, scene), row in evaluation.values(report).items():
        table.setdefault(method, {})[scene] = {metric: float(row[metric]) for metric in METRICS}
    return table


def means(scenes: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {metric: runs.mean(row[metric] for row in scenes.values()) for metric in METRICS}


def least(loss: HyperPMBLoss, under: Tensor, correct: Tensor, over: Tensor, steps: int | None = None) -> Tensor:
    """The picture in [0, 1] for which a loss is the least, found by descent from the plain average."""
    picture = ((under + over) / 2).requires_grad_()
    optimizer = torch.optim.Adam([picture], 0.02)
    count = DESCENT if steps is None else steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
    for _ in range(count):
        optimizer.zero_grad()
        loss(picture, under, correct, over).backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            picture.clamp_(0, 1)
    return picture.detach()


def sought(data: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """The values of the pictures that the losses ask for, beside the plain average and the correct frame, all of them
    grey, as the networks see them. Of a scene: the triplet in the middle of its list."""
    report = out / "report.html"
    if report.with_suffix(".csv").exists():  # of photographs alone
        return report.with_suffix(".csv")
    losses = {name: loss_of(LossConfig(**RUNS[name].get("loss", {}))) for name in ("masks", "hyperp-mb")}
    for group in ("fairchild", "iccv17"):
        triplets = FusionTriplets(data / "brackets" / group, augment=False)
        for scene in triplets.scenes:
            name = f"{group}/{scene}"
            places = [k for k, triplet in enumerate(triplets.triplets) if triplet[0] == scene]
            if name in MOVING or not places:
                continue
            sample = triplets[places[len(places) // 2]]
            under, correct, over = (luma(sample[key])[None] for key in ("dark", "target", "bright"))
            found = {"average": (under + over) / 2, "target": correct}
            found |= {loss: least(function, under, correct, over) for loss, function in losses.items()}
            files = {f"pictures/{method}/{name}": picture for method, picture in found.items()}
            for file, picture in (files | {f"sources/{name}/0": under, f"sources/{name}/1": over}).items():
                write_image(_place(out / f"{file}.png"), (picture[0] * 255).round().to(torch.uint8))
    return evaluation.evaluated(out / "pictures", list(SOUGHT), out / "sources", report, METRICS)


def write_changes(
    path: pathlib.Path,
    table: Mapping[str, Mapping[str, Mapping[str, float]]],
    steps: Sequence[tuple[str, str]] = STEPS_OF_TABLE_2,
) -> None:
    """What each step of Table 2 changes: the mean of every metric, and in how many of the pairs it rises."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["from", "to", "metric", "mean change", "pairs where it rises", "pairs"])
        for before, after in steps:
            for metric in METRICS:
                changes = [table[after][scene][metric] - table[before][scene][metric] for scene in table[before]]
                rising = sum(change > 0 for change in changes)
                writer.writerow([before, after, metric, f"{runs.mean(changes):+.4f}", rising, len(changes)])


def plot_losses(out: pathlib.Path, path: pathlib.Path) -> None:
    """Figure 10: the total loss, of the updates and of the held-out scenes."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, sigma in SIGMAS.items():
        for axis, log in zip(axes, ("metrics", "validation"), strict=True):
            columns = runs.log_of(out / name, log)
            axis.plot(columns["step"], columns["loss"], label=f"sigma {sigma}")
    for axis, title in zip(axes, ("of the updates", "of the held-out scenes"), strict=True):
        axis.set(xlabel="updates", ylabel="total loss", title=title, yscale="log")
        axis.grid(alpha=0.3)
    axes[1].legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def static_brackets(data: pathlib.Path) -> tuple[Brackets, Brackets]:
    """Those of DeepFuse, of three frames, in which nothing moves, and those of the survey, mostly of nine."""
    static = evaluation.brackets(data, {"static"})
    return (
        {scene: files for scene, files in static.items() if scene.startswith("iccv17/") and scene not in MOVING},
        {scene: files for scene, files in static.items() if scene.startswith("fairchild/")},
    )


def fold(data: pathlib.Path, out: pathlib.Path, results: pathlib.Path) -> dict[str, int]:
    """Ways to fuse more frames than two, with the shipped weights; how many brackets of each kind were judged."""
    model = HyperPMB.from_pretrained()
    folds: dict[str, Method] = {
        "by-place": model.fuse,
        "ends": lambda bracket: model.fuse(bracket[:, [0, -1]]),
        "by-pairs": by_pairs(model),
        "mertens": hdrops.exposure_fusion,
    }
    titles = {
        "by-place": "weighted by their place",
        "ends": "the first and the last alone",
        "by-pairs": "pair by pair, dark to bright",
        "mertens": "Mertens",
    }
    counts = {}
    for name, brackets in zip(("three", "nine"), static_brackets(data), strict=True):
        scenes = dict([*brackets.items()][::FOLDED])
        found = table_of(pictures(folds, scenes, out / name, ends=False))
        runs.write_table(results / f"{name}_frames.csv", {fold: means(found[fold]) for fold in folds}, titles)
        counts[name] = len(scenes)
    return counts


def counted(folded: dict[str, int]) -> dict[str, int]:
    return {f"brackets of {name}": count for name, count in folded.items()}


def record(results: pathlib.Path, facts: dict) -> None:
    """Write what the results are of into ``run.json``, over what it said of the same."""
    place = results / "run.json"
    known = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps(known | facts, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path, help="folder with brackets.json")
    parser.add_argument("out", type=pathlib.Path, help="folder of the runs and of the pictures")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--network", default="paper", choices=("paper", "light", "tiny"))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--validated", nargs="*", default=["el_capitan", "ur_chapel_1", "ur_chapel_2", "willy_desk"])
    parser.add_argument("--only", nargs="*", choices=[*RUNS, "folds"], help="do these and stop")
    parser.add_argument("--results", type=pathlib.Path, default=BENCH / "results" / "hyperp_mb")
    budget = parser.parse_args()

    budget.results.mkdir(parents=True, exist_ok=True)
    if budget.only is not None:
        for name in budget.only:
            if name == "folds":
                record(budget.results, counted(fold(budget.data, budget.out, budget.results)))
            else:
                learnt(name, budget.data, budget.out, budget)
        return
    models = {name: learnt(name, budget.data, budget.out, budget) for name in RUNS}
    models["shipped"] = HyperPMB.from_pretrained()
    methods: dict[str, Method] = {"average": average, "mertens": hdrops.exposure_fusion}
    methods |= {name: models[name].fuse for name in TITLES if name in models}

    threes, _ = static_brackets(budget.data)
    judged = evaluation.brackets(budget.data, {"pair"}) | threes
    table = table_of(pictures(methods, judged, budget.out / "pairs", ends=True))
    runs.write_table(budget.results / "quality.csv", {name: means(table[name]) for name in methods}, TITLES)
    write_changes(budget.results / "changes.csv", table)
    plot_losses(budget.out, budget.results / "losses.png")
    asked = table_of(sought(budget.data, budget.out / "sought"))
    runs.write_table(budget.results / "sought.csv", {name: means(asked[name]) for name in SOUGHT}, SOUGHT)
    write_changes(budget.results / "sought_changes.csv", asked, STEPS_OF_SOUGHT)

    folded = fold(budget.data, budget.out, budget.results)

    facts = {name: getattr(budget, name) for name in ("steps", "rate", "network")}
    facts |= {"share of the steps": SHARE, "left out": [*SAME_PLACE, *MOVING], "validated": budget.validated}
    facts |= {"pairs": [*judged]} | counted(folded)
    facts |= {"machine": machine("cpu", budget.threads or torch.get_num_threads())}
    record(budget.results, facts)


if __name__ == "__main__":
    main()
