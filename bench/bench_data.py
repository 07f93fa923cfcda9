"""Training samples per second, against the number of worker processes of the loader.

Synthesis from HDR panoramas and patches of brackets, as training asks for them: batches of 32 patches of 60 x 90. First
every loader must give the samples that the dataset itself gives; then all take turns in rounds. "cpu ms" is the
processor time of one sample in one process. Without --panoramas and --brackets, generated ones are taken.

    python bench/bench_data.py [--panoramas DIR] [--brackets DIR --ev-step 1]

The values go to ``bench/results/data/MACHINE.json``; ``bench/report.py`` puts them into a table.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import re
import statistics
import sys
import tempfile
import time
import warnings

import numpy as np
import torch
from machine import machine
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hdrops.data import BracketTriplets, SyntheticTriplets, draw_camera, find_scenes, render_scene, sample_bracket
from hdrops.io import write_image

RESULTS = pathlib.Path(__file__).parent / "results"
BATCH = 32
EPOCH = 1 << 20


def panoramas(count: int = 4) -> list[Tensor]:
    """Rooms, mirrored to panoramas of 512 x 1024: what they show does not matter here."""
    rooms = [render_scene(512, 512, seed) for seed in range(count)]
    return [torch.cat([room, room.flip(-1)], -1) for room in rooms]


def write_brackets(folder: pathlib.Path, count: int = 4) -> pathlib.Path:
    for seed in range(count):
        (folder / str(seed)).mkdir()
        for k, frame in enumerate(sample_bracket(356, 536, exposures=9, step=1.0, seed=seed)[0]):
            write_image(folder / str(seed) / f"{k}.png", frame)
    return folder


def datasets(arguments: argparse.Namespace, folder: pathlib.Path) -> dict[str, Dataset[dict[str, Tensor]]]:
    hdr = [arguments.panoramas] if arguments.panoramas else panoramas()
    brackets = arguments.brackets or write_brackets(folder)
    step = arguments.ev_step if arguments.brackets else 1.0
    synthesis = functools.partial(SyntheticTriplets, hdr, samples_per_epoch=EPOCH)
    return {
        "brackets": BracketTriplets(brackets, ev_step=step, samples_per_epoch=EPOCH),
        "synthesis": synthesis(),
        "synthesis, no JPEG": synthesis(camera=functools.partial(draw_camera, jpeg=0.0)),
        "synthesis, frames of 180 x 270": synthesis(frame=(180, 270)),
    }


def loader(data: Dataset[dict[str, Tensor]], first: int, count: int, workers: int) -> DataLoader[dict[str, Tensor]]:
    return DataLoader(data, BATCH, sampler=range(first, first + count), num_workers=workers)


def check(data: Dataset[dict[str, Tensor]], workers: int) -> None:
    """The loader's samples are those of the dataset."""
    batches = list(loader(data, 0, 2 * BATCH, workers))
    for index in range(0, 2 * BATCH, 7):
        for key, value in data[index].items():
            if not torch.equal(batches[index // BATCH][key][index % BATCH], value):
                raise SystemExit(f"sample {index} with {workers} workers has another {key}")


def rate(data: Dataset[dict[str, Tensor]], first: int, samples: int, workers: int) -> float:
    """Samples per second, from the first batch to the last: what starts the workers is left out."""
    batches = iter(loader(data, first, samples + BATCH * max(1, 2 * workers), workers))
    for _ in range(max(1, 2 * workers)):  # made while the workers started
        next(batches)
    begin = time.perf_counter()
    count = sum(len(batch["fraction"]) for batch in batches)
    return count / (time.perf_counter() - begin)


def cpu_time(data: Dataset[dict[str, Tensor]], samples: int) -> float:
    """Milliseconds of processor time per sample on one thread."""
    begin = time.thread_time()
    for index in range(samples):
        data[1, index]
    return (time.thread_time() - begin) / samples * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panoramas", type=pathlib.Path, help="folder of HDR panoramas")
    parser.add_argument("--brackets", type=pathlib.Path, help="folder of brackets")
    parser.add_argument("--ev-step", type=float, help="of the brackets whose files state no exposure")
    parser.add_argument("--workers", default="0,1,2", help="numbers of worker processes")
    parser.add_argument("--samples", type=int, default=512, help="per measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-results", action="store_true", help="only print")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    workers = [int(count) for count in arguments.workers.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, data in datasets(arguments, pathlib.Path(folder)).items():
            for count in workers:
                check(data, count)
            rates: dict[int, list[float]] = {count: [] for count in workers}
            cpu = []
            for k in range(arguments.rounds):
                cpu.append(cpu_time(data, min(arguments.samples, 256)))
                for count in workers:
                    rates[count].append(rate(data, k * arguments.samples, arguments.samples, count))
            for count, values in rates.items():
                low, high = np.percentile(values, [20, 80])
                row = {
                    "data": name,
                    "workers": count,
                    "samples_per_s": round(statistics.median(values)),
                    "p20": round(low),
                    "p80": round(high),
                    "cpu_ms": round(statistics.median(cpu), 2),
                }
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if not arguments.no_results:
        facts = machine("cpu", torch.get_num_threads())
        sources = {"synthesis": "generated panoramas", "brackets": "generated brackets"}
        if arguments.panoramas:
            sources["synthesis"] = f"{len([*arguments.panoramas.iterdir()])} panoramas"
        if arguments.brackets:
            sources["brackets"] = f"{len(find_scenes(arguments.brackets))} scenes"
        slug = re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")
        file = RESULTS / "data" / f"{slug}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"machine": facts, "sources": sources, "rows": rows}, indent=1) + "\n")
        print(f"written to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
