"""The experiments of Ren, Fan and Huang, "Robust real-world image enhancement based on multi-exposure LDR images":
Table 3, what the axes of the matching volume, the mask and dense motions add, and Table 4, what the losses add.

Networks of one size learn from moving scenes that virtual cameras photograph in HDR panoramas (Poly Haven), a fifth of
which are held out. All have the same number of updates of the same samples under the same schedule, and the moving
average of their weights is what is judged: on brackets of the held-out panoramas, and on brackets of NTIRE 2021. Beside
them stand the reference image alone, and the weighted merge of Debevec and Malik, which takes a scene to stand still.

Light is divided by the brightest that the darkest image holds; PSNR in dB and SSIM of it, by mu-law (mu = 5000) and
linear.

Interrupted, the script goes on where it was. Tables and pictures go to ``bench/results/emvnet``.

    python bench/reproduce/emvnet.py DATA OUT

Networks can be trained at the same time before, by ``--only NAME --threads 1`` in several processes.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from hdrops.train.emvnet import SYSTEM

BENCH = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(BENCH))
import runs  # noqa: E402

ALONE = {"motion_extent": 1, "motion_step": 1}  # one motion, none
# What each network changes in the configuration; all else is shared.
RUNS: dict[str, dict[str, Any]] = {
    "no-volume": {"model": {"changes": {**ALONE, "exposures": [1.0]}}},
    "exposure": {"model": {"changes": ALONE}},
    "motion": {"model": {"changes": {"exposures": [1.0]}}},
    "no-mask": {"model": {"changes": {"mask": "none"}}},
    "dense": {"model": {"changes": {"motion_extent": 7, "motion_step": 1}}},
    "full": {},
    "adversarial": {"loss": {"adversarial": 0.001, "discriminator": 16}},
    "pixels": {"loss": {"pixels": 0.25}},
    "patches": {"loss": {"patches": 0.25}},
    "pairs": {"loss": {"pixels": 0.25, "patches": 0.25}},
}


def learnt(name: str, data: pathlib.Path, out: pathlib.Path, budget: argparse.Namespace) -> pathlib.Path:
    """The folder of the weights of a run."""
    shared: Mapping[str, Any] = {
        "steps": budget.steps,
        "validate_every": max(1, budget.steps // 6),
        "schedule": {"kind": "cosine", "warmup": min(50, budget.steps // 10), "floor": 0.01},
        "data": {"folders": [str(data / "hdr" / "polyhaven")], "validation_samples": 16},
        "run": {"workers": 0, "threads": budget.threads, "tensorboard": False, "checkpoint_every": 200},
    }
    return runs.trained(SYSTEM, name, runs.merged(runs.merged(SYSTEM.presets["quick"], shared), RUNS[name]), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path, help="folder with hdr/polyhaven and dynamic_gt")
    parser.add_argument("out", type=pathlib.Path, help="folder of the runs and of the pictures")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=[*RUNS], help="train these and stop")
    parser.add_argument("--results", type=pathlib.Path, default=BENCH / "results" / "emvnet")
    budget = parser.parse_args()
    for name in budget.only or RUNS:
        learnt(name, budget.data, budget.out, budget)


if __name__ == "__main__":
    main()
