"""Quality of fusion on static brackets: ``hdrops fuse`` by both methods, interpolation also without the network;
OpenCV's Mertens; the plain average.

Writes the pictures of every method below a folder, judges them by ``hdrops evaluate``, and keeps the values of every
scene in ``bench/results/fusion_quality.csv`` and their means in ``fusion_quality.md`` there. The brackets are those of
kind "static" in ``brackets.json`` of a data folder, whose pictures have 8 bits. Given methods, it judges these alone,
and keeps the values of others that it finds.

    python bench/fusion_quality.py DATA OUT [METHOD ...]
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable

import cv2
import evaluation
import numpy as np
import torch
from torch import Tensor

from hdrops.io import InputError, read_bracket, write_image

RESULTS = pathlib.Path(__file__).parent / "results"
# Of ``hdrops fuse``: the method, and whether it leaves out the network.
METHODS = {
    "mertens": ("mertens", False),
    "interpolate-imf": ("interpolate", True),
    "interpolate": ("interpolate", False),
}
# A process for each bracket would be most of the time.
FUSE = """
import json, pathlib, sys
from hdrops_cli.fuse import run
for files, out, method, imf_only in json.load(sys.stdin):
    run([pathlib.Path(f) for f in files], pathlib.Path(out), method, imf_only, None, "none", None, None, 95,
        contrast=1.0, saturation=1.0, exposedness=1.0)
"""


def average(frames: Tensor) -> Tensor:
    return frames.double().mean(0).round().to(torch.uint8)


def opencv(frames: Tensor) -> Tensor:
    bgr = [np.ascontiguousarray(frame.permute(1, 2, 0).numpy()[..., ::-1]) for frame in frames]
    fused = cv2.createMergeMertens(1, 1, 1).process(bgr)[..., ::-1]
    return torch.from_numpy(np.rint(np.clip(fused, 0, 1) * 255).astype(np.uint8)).permute(2, 0, 1)


PEERS: dict[str, Callable[[Tensor], Tensor]] = {"average": average, "opencv": opencv}


def keep(report: pathlib.Path, folder: pathlib.Path) -> None:
    """The values of a report beside those of other methods, without the places of pictures; and the means."""
    file = folder / "fusion_quality.csv"
    rows = {}
    for path in (file, report):
        if path.exists():
            rows |= evaluation.values(path)
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    order = {name: place for place, name in enumerate((*METHODS, *PEERS))}
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(sorted(rows.values(), key=lambda row: (row["scene"], order.get(row["method"], len(order)))))
    methods = [name for name in order if any(name == method for method, _ in rows)]
    scenes = set.intersection(*({scene for m, scene in rows if m == name} for name in methods))
    lines = [f"Means over {len(scenes)} static brackets.", "", f"| metric | {' | '.join(methods)} |"]
    lines.append("|---|" + "---:|" * len(methods))
    for metric in columns:
        if metric not in ("scene", "method"):
            means = [statistics.fmean(float(rows[name, scene][metric]) for scene in scenes) for name in methods]
            lines.append(f"| {metric} | {' | '.join(f'{value:.4g}' for value in means)} |")
    (folder / "fusion_quality.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    arguments = parser.parse_args()
    for name in set(arguments.methods) - {*METHODS, *PEERS}:
        parser.error(f"unknown method {name}; methods are {', '.join((*METHODS, *PEERS))}")
    methods = arguments.methods or [*METHODS, *PEERS]
    sources, pictures = arguments.out / "sources", arguments.out / "results"
    jobs = []
    for scene, files in evaluation.brackets(arguments.data, {"static"}).items():
        try:
            frames = read_bracket(files).images
        except InputError as error:
            print(f"left out: {scene}: {error}", file=sys.stderr)
            continue
        if frames.dtype != torch.uint8:
            print(f"left out: {scene}: {frames.dtype}", file=sys.stderr)
            continue
        evaluation.link(files, sources / scene)
        for name in methods:
            out = pictures / name / f"{scene}.png"
            out.parent.mkdir(parents=True, exist_ok=True)
            if name in PEERS:
                write_image(out, PEERS[name](frames))
            else:
                jobs.append(([str(file) for file in files], str(out), *METHODS[name]))
    subprocess.run([sys.executable, "-c", FUSE], input=json.dumps(jobs), text=True, check=True, stdout=sys.stderr)
    keep(evaluation.evaluated(pictures, methods, sources, arguments.out / "report.html"), RESULTS)


if __name__ == "__main__":
    main()
