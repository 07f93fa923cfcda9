"""The experiments of Zheng, Li, Yang and Wu, "Compensated exposure interpolation by fusing conventional and deep
learning methods", on brackets of the Fairchild survey: Table II, Figure 7, Figure 9 and Table III.

Inputs are 4 EV apart, the frame halfway is the target. Scenes are divided by what they show: photographs of a place are
on one side. All that is fitted or trained sees the same training scenes. All networks have the same number of updates
under the same schedule, but for one that has three times as many, and are judged by the moving average of their
weights. Two rows are no methods but limits: tables that are fitted to the very frame they are judged by. Interrupted,
the script goes on where it was. Tables and plots go to ``bench/results/exposure_interpolation``.

    python bench/reproduce/exposure_interpolation.py DATA OUT

Networks can be trained at the same time before, by ``--only NAME --threads 1`` in several processes.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import hdrops
from hdrops.data import BracketTriplets, find_scenes, split_scenes
from hdrops.metrics import psnr
from hdrops.models import ExposureInterpolator, interpolate_exposure
from hdrops.train.exposure_interpolation import SYSTEM

BENCH = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(BENCH))
import runs  # noqa: E402
from machine import machine  # noqa: E402

RATIO = 16.0
LEVELS = 256
PATCH = 30, 45
FUSED = (
    "two-frames",
    "imf-histogram",
    "imf-response",
    "lrl",
    "lrl-color",
    "lrl-three-inputs",
    "lrl-three-inputs-long",
    "shipped",
)
SEEN_EVERY = 6  # one triplet of so many of the training scenes is evaluated as well
# What each network changes in the configuration; all else is shared.
RUNS: dict[str, dict[str, Any]] = {
    "lrl": {"loss": {"kind": "l2", "color": 0.0}},
    "lrl-color": {"loss": {"kind": "l2"}},
    "direct": {"loss": {"kind": "l2", "color": 0.0}, "model": {"residual": False}},
    "lrl-three-inputs": {"loss": {"kind": "l1"}, "model": {"inputs": ["x3", "dark", "bright"]}},
    "lrl-three-inputs-long": {"loss": {"kind": "l1"}, "model": {"inputs": ["x3", "dark", "bright"]}},
    "lrl-l1": {"loss": {"kind": "l1", "color": 0.0}},
    "lrl-psi": {"loss": {"kind": "psi", "color": 0.0}},
    "direct-two-inputs": {"loss": {"kind": "l1"}, "model": {"inputs": ["dark", "bright"], "residual": False}},
}
LONGER = {"lrl-three-inputs-long": 3}  # times as many updates
TITLES = {
    "two-frames": "nothing between",  # the two frames are fused alone
    "average": "plain average",
    "imf-histogram": "IMF by histogram (x3)",
    "imf-gamma": "IMF by gamma 1/2.2",
    "imf-response": "IMF by estimated response",
    "curve": "tone curve of x3, fitted",
    "joint": "joint table of dark and bright, fitted",
    "curve-limit": "tone curve of x3, fitted to the frame itself",
    "joint-limit": "joint table, fitted to the frame itself",
    "direct": "network to y directly",
    "lrl": "LRL, l2",
    "lrl-color": "LRL, l2 and colour loss",
    "lrl-l1": "LRL, l1",
    "lrl-psi": "LRL, psi",
    "lrl-three-inputs": "LRL on x3, dark and bright, l1 and colour loss",
    "lrl-three-inputs-long": "the same, three times the updates",
    "direct-two-inputs": "network from dark and bright to y directly, l1 and colour loss",
    "shipped": "LRL, shipped weights (of other cameras)",
}
Sample = Mapping[str, Tensor]
Method = Callable[[Sample], Tensor]


# ---- classical rows --------------------------------------------------------------------------------------------------


def average(sample: Sample) -> Tensor:
    return (sample["dark"] + sample["bright"]) / 2


def fuse(sample: Sample, imf_dark: Tensor, imf_bright: Tensor) -> Tensor:
    return hdrops.imf_fuse(sample["dark"][None], sample["bright"][None], imf_dark, imf_bright)[0]


def imf_histogram(sample: Sample) -> Tensor:
    return fuse(sample, sample["imf_dark"], sample["imf_bright"])


def images(sample: Sample) -> list[Tensor]:
    return [codes(sample[name])[None].to(torch.uint8) for name in ("dark", "bright")]


def imf_response(sample: Sample) -> Tensor:
    return interpolate_exposure(*images(sample))[0].float() / (LEVELS - 1)


def imf_gamma(sample: Sample) -> Tensor:
    return fuse(sample, *(hdrops.intermediate_imf(hdrops.gamma_imf(ratio)) for ratio in (RATIO, 1 / RATIO)))


def codes(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * (LEVELS - 1)).round().long()


def curve_key(sample: Sample) -> Tensor:
    return codes(imf_histogram(sample))


def joint_key(sample: Sample) -> Tensor:
    return codes(sample["dark"]) * LEVELS + codes(sample["bright"])


def fitted(samples: Iterable[Sample], key: Callable[[Sample], Tensor], sides: int, fewest: int = 20) -> Method:
    """For each channel the mean target of every key, which is ``sides`` codes; keys of fewer pixels than ``fewest`` ask
    their neighbours."""
    sums = torch.zeros(2, 3, LEVELS**sides, dtype=torch.float64)
    for sample in samples:
        for channel, (place, target) in enumerate(zip(key(sample), sample["target"], strict=True)):
            sums[0, channel].index_add_(0, place.flatten(), target.flatten().double())
            sums[1, channel].index_add_(0, place.flatten(), torch.ones(place.numel(), dtype=torch.float64))
    total, count = sums.reshape(2, 1, 3, -1, LEVELS)
    table = torch.where(count >= fewest, total / count.clamp(min=1), torch.nan)
    for sigma in (1, 2, 4, 8, 16, 32, 64, 128):
        near, known = (hdrops.gaussian_blur(x, sigma, border="zeros") for x in (total, count))
        table = torch.where(table.isnan() & (known > 1e-3), near / known.clamp(min=1e-3), table)
    table = table.reshape(3, -1).nan_to_num(0.5).float()
    return lambda sample: torch.stack([row[place] for row, place in zip(table, key(sample), strict=True)])


def limit(key: Callable[[Sample], Tensor], sides: int) -> Method:
    """What the best table could reach: it is fitted to the target."""
    return lambda sample: fitted([sample], key, sides, fewest=1)(sample)


# ---- networks --------------------------------------------------------------------------------------------------------


def network(model: ExposureInterpolator) -> Method:
    def apply(sample: Sample) -> Tensor:
        names = ("dark", "bright", "imf_dark", "imf_bright")
        with torch.inference_mode():
            return model(*(sample[name][None] for name in names))[0]

    return apply


def learnt(
    name: str, folders: Sequence[str], held_out: Sequence[str], out: pathlib.Path, budget: argparse.Namespace
) -> Method:
    shared = {
        "steps": budget.steps * LONGER.get(name, 1),
        "batch": budget.batch,
        "clip": 1.0,
        "ema": 0.995,
        "precision": budget.precision,
        "validate_every": min(250, budget.steps),
        "picture_every": 0,
        "optimizer": {"lr": budget.rate},
        "schedule": {"kind": "cosine", "warmup": min(100, budget.steps // 10), "floor": 0.01},
        "model": {"network": budget.network},
        "data": {
            "patch": list(PATCH),
            "folders": list(folders),
            "held_out_scenes": list(held_out),
            "validation_samples": 1000,
            "brackets": {"ev_step": 1.0},
        },
        "run": {"workers": 0, "threads": budget.threads, "tensorboard": False},
    }
    model = runs.trained(SYSTEM, name, runs.merged(shared, RUNS[name]), out)
    return network(ExposureInterpolator.from_pretrained(model))


# ---- evaluation ------------------------------------------------------------------------------------------------------


def eight_bits(image: Tensor) -> Tensor:
    return codes(image).float() / (LEVELS - 1)


def quality(method: Method, samples: Sequence[Sample]) -> list[dict[str, float]]:
    rows = []
    for sample in samples:
        result, target = eight_bits(method(sample))[None], sample["target"][None]
        rows.append({"psnr": float(psnr(result, target)), "ssim": float(hdrops.ssim(result, target))})
    return rows


def fusion(method: Method | None, sample: Sample) -> float:
    """MEF-SSIM of the fused picture of two frames and one in between, given the three true frames."""
    frames = [sample["dark"], sample["bright"]]
    if method is not None:
        frames.insert(1, eight_bits(method(sample)))
    picture = eight_bits(hdrops.exposure_fusion(torch.stack(frames)[None])[0])
    true = torch.stack([sample[name] for name in ("dark", "target", "bright")])
    return float(hdrops.mef_ssim(picture[None], true[None]))


def updates_to(level: float, log: Mapping[str, list[float]]) -> float:
    """The first validation from which on the PSNR stays at or above a level; NaN if the last one is below."""
    first = float("nan")
    for step, value in zip(reversed(log["step"]), reversed(log["psnr"]), strict=True):
        if value < level:
            break
        first = step
    return first


def convergence(out: pathlib.Path, levels: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """For each network its PSNR at the end, and the updates after which it stays above that of other methods."""
    table = {}
    for name in RUNS:
        log = runs.log_of(out / name, "validation")
        table[name] = {"psnr": log["psnr"][-1], "within 0.25 dB of it": updates_to(log["psnr"][-1] - 0.25, log)}
        table[name] |= {f"above {method}": updates_to(level, log) for method, level in levels.items()}
    return table


def curves(
    out: pathlib.Path, names: Sequence[str], levels: Mapping[str, float], path: pathlib.Path, title: str
) -> None:
    """PSNR and SSIM of the held-out scenes over the updates."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for name in names:
        log = runs.log_of(out / name, "validation")
        for axis, metric in zip(axes, ("psnr", "ssim"), strict=True):
            axis.plot(log["step"], log[metric], label=TITLES[name])
    for (name, level), style in zip(levels.items(), (":", "-.", "--", (0, (8, 3))), strict=True):
        axes[0].axhline(level, color="grey", linestyle=style, label=TITLES[name])
    for axis, metric in zip(axes, ("PSNR in dB", "SSIM"), strict=True):
        axis.set(xlabel="updates", ylabel=metric)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def subject(name: str) -> str:
    """What a scene of the survey shows: names of several photographs of it end in numbers."""
    return re.sub(r"(?<=.)(_pm)?_?\d+$", "", name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path, help="folder that holds brackets/fairchild")
    parser.add_argument("out", type=pathlib.Path, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--network", default="paper", choices=("paper", "light", "tiny"))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=RUNS, help="train these and stop")
    parser.add_argument("--results", type=pathlib.Path, default=BENCH / "results" / "exposure_interpolation")
    budget = parser.parse_args()

    scenes = find_scenes([budget.data / "brackets" / "fairchild"])
    training, held_out = split_scenes(scenes, 0.2, subject=subject)
    names = [scene.name for scene in held_out]
    whole = functools.partial(BracketTriplets, ev_step=1.0, patch=None, augment=False)
    trained = functools.partial(learnt, folders=[str(s) for s in scenes], held_out=names, out=budget.out, budget=budget)
    if budget.only is not None:
        for name in budget.only:
            trained(name)
        return
    methods: dict[str, Method] = {
        "average": average,
        "imf-histogram": imf_histogram,
        "imf-gamma": imf_gamma,
        "imf-response": imf_response,
    }
    dataset = whole(training)
    for name, key, sides in (("curve", curve_key, 1), ("joint", joint_key, 2)):
        methods[name] = fitted((dataset[i] for i in range(len(dataset))), key, sides)
        methods[f"{name}-limit"] = limit(key, sides)
    for name in RUNS:
        methods[name] = trained(name)
    shipped = ExposureInterpolator.from_pretrained()
    methods["shipped"] = lambda sample: shipped.interpolate(*images(sample))[0, 0].float() / (LEVELS - 1)

    known = [dataset[i] for i in range(0, len(dataset), SEEN_EVERY)]
    dataset = whole(held_out)
    samples = [dataset[i] for i in range(len(dataset))]
    where = [triplet.scene for triplet in dataset.triplets]
    table: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        rows = quality(method, samples)
        table[name] = {metric: runs.mean(row[metric] for row in rows) for metric in ("psnr", "ssim")}
        table[name]["psnr of training scenes"] = runs.mean(row["psnr"] for row in quality(method, known))
        for metric in ("psnr", "ssim"):
            by_scene = runs.per_scene([row[metric] for row in rows], where)
            table[name] |= {f"{metric} {scene}": value for scene, value in by_scene.items()}
        print(f"{TITLES[name]:45} {table[name]['psnr']:6.2f} dB  {table[name]['ssim']:.4f}", flush=True)
    budget.results.mkdir(parents=True, exist_ok=True)
    runs.write_table(budget.results / "quality.csv", table, TITLES)

    fused: dict[str, dict[str, float]] = {}
    for name in FUSED:
        values = [fusion(methods.get(name), sample) for sample in samples]
        fused[name] = {"mef_ssim": runs.mean(values)} | runs.per_scene(values, where)
        print(f"fused with {TITLES[name]:45} {runs.mean(values):.4f}", flush=True)
    runs.write_table(budget.results / "fusion.csv", fused, TITLES)

    levels = {name: table[name]["psnr"] for name in ("imf-histogram", "imf-response", "curve", "joint")}
    runs.write_table(budget.results / "convergence.csv", convergence(budget.out, levels), TITLES)
    curves(
        budget.out,
        ("lrl", "direct", "lrl-three-inputs"),
        levels,
        budget.results / "convergence.png",
        "Residual and direct learning",
    )
    curves(budget.out, ("lrl", "lrl-l1", "lrl-psi"), levels, budget.results / "losses.png", "Restoration losses")
    facts = {name: getattr(budget, name) for name in ("steps", "batch", "rate", "network", "precision")}
    facts |= {"patch": PATCH, "times as many steps": LONGER}
    facts |= {"training": [scene.name for scene in training], "held_out": names, "triplets": len(samples)}
    facts |= {"machine": machine("cpu", budget.threads or torch.get_num_threads())}
    (budget.results / "run.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
