"""Quality of fusion on static brackets: ``hdrops fuse`` by both methods, OpenCV's Mertens and the plain average.

Writes the pictures of every method below a folder, judges them by ``hdrops evaluate``, and keeps the
values in ``bench/results/fusion_quality.csv``. The brackets are those of kind "static" in ``brackets.json`` of a data
folder, whose pictures have 8 bits.

    python bench/fusion_quality.py DATA OUT
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from hdrops.io import InputError, read_bracket, write_image

RESULTS = pathlib.Path(__file__).parent / "results"
METHODS = ("mertens", "interpolate")
# A process for each bracket would be most of the time.
FUSE = """
import json, pathlib, sys
from hdrops_cli.fuse import run
for files, out, method in json.load(sys.stdin):
    run([pathlib.Path(f) for f in files], pathlib.Path(out), method, True, None, None, None, 95,
        contrast=1.0, saturation=1.0, exposedness=1.0)
"""


def average(frames: Tensor) -> Tensor:
    return frames.double().mean(0).round().to(torch.uint8)


def opencv(frames: Tensor) -> Tensor:
    bgr = [np.ascontiguousarray(frame.permute(1, 2, 0).numpy()[..., ::-1]) for frame in frames]
    fused = cv2.createMergeMertens(1, 1, 1).process(bgr)[..., ::-1]
    return torch.from_numpy(np.rint(np.clip(fused, 0, 1) * 255).astype(np.uint8)).permute(2, 0, 1)


PEERS: dict[str, Callable[[Tensor], Tensor]] = {"average": average, "opencv": opencv}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    sources, pictures = arguments.out / "sources", arguments.out / "results"
    jobs = []
    for bracket in json.loads((arguments.data / "brackets.json").read_text()):
        if bracket["kind"] != "static":
            continue
        files = [arguments.data / bracket["dir"] / name for name in bracket["files"]]
        scene = bracket["dir"].removeprefix("brackets/")
        try:
            frames = read_bracket(files).images
        except InputError as error:
            print(f"left out: {scene}: {error}", file=sys.stderr)
            continue
        if frames.dtype != torch.uint8:
            print(f"left out: {scene}: {frames.dtype}", file=sys.stderr)
            continue
        (sources / scene).mkdir(parents=True, exist_ok=True)
        for file in files:
            link = sources / scene / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
        for name in (*METHODS, *PEERS):
            out = pictures / name / f"{scene}.png"
            out.parent.mkdir(parents=True, exist_ok=True)
            if name in PEERS:
                write_image(out, PEERS[name](frames))
            else:
                jobs.append(([str(file) for file in files], str(out), name))
    subprocess.run([sys.executable, "-c", FUSE], input=json.dumps(jobs), text=True, check=True, stdout=sys.stderr)
    report = arguments.out / "report.html"
    evaluate = [sys.executable, "-m", "hdrops_cli.main", "evaluate", *(str(pictures / m) for m in (*METHODS, *PEERS))]
    evaluate += ["--sources", str(sources), "-o", str(report)]
    code = subprocess.run(evaluate, check=False).returncode
    if code == 0:
        shutil.copy(report.with_suffix(".csv"), RESULTS / "fusion_quality.csv")
    return code


if __name__ == "__main__":
    sys.exit(main())
