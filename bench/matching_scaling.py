"""Time and peak memory of ``matching_conv3d`` and of the literal volume with its convolution, over the number of slices
and over the number of pixels: ``python bench/matching_scaling.py``.

Every point has a process of its own, since peak memory is that of a process. The literal path ends where its volume
takes more than half of the memory.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import resource
import subprocess
import sys
import time

BENCH = pathlib.Path(__file__).parent
RESULTS = BENCH / "results" / "matching_volume"
SLICES = [((12, 3), count) for count in (1, 2, 3, 6)] + [((24, 3), 6), ((36, 3), 6)]  # (extent, step), exposures
SIDES = [32, 64, 128, 256, 512, 1024]
GAINS = (0.25, 0.5, 2.0, 4.0, 8.0, 16.0)
CALLS = 3


def point(path: str, extent: int, step: int, exposures: int, side: int) -> None:
    """Measure one, and print it."""
    import bench_matching_volume as composed
    import torch
    import torch.nn.functional as F

    import hdrops

    torch.manual_seed(0)
    features = torch.randn(1, 2, composed.CHANNELS, side, side)
    weight = torch.randn(composed.RESULTS, 4 * composed.CHANNELS, 3, 3, 3) / 60
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    motions = hdrops.motion_grid(extent, step)
    listed = [(y, x) for y, x in motions.tolist()]
    gains = GAINS[:exposures]

    def call() -> torch.Tensor:
        if path == "hdrops":
            return hdrops.matching_conv3d(features, weight, None, 0, motions, gains)
        return F.conv3d(composed.written(features, listed, None, gains), weight, None, 2, 1)

    with torch.inference_mode():
        hdrops.matching_conv3d(features[..., :4, :4].contiguous(), weight, None, 0, motions[:1], gains)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"ms": 1e3 * sorted(times)[CALLS // 2], "mb": (after - before) * 1024 / 1e6}))


def volume_bytes(extent: int, step: int, exposures: int, side: int) -> float:
    return 4.0 * 4 * 32 * 2 * (extent // step) ** 2 * exposures * side**2


def measured() -> list[dict[str, float | str]]:
    from timing import available_memory

    room = 0.5 * available_memory("cpu")
    settings = [("slices", *grid, count, 128) for grid, count in SLICES]
    settings += [("pixels", 12, 3, 6, side) for side in SIDES]
    rows: list[dict[str, float | str]] = []
    for axis, extent, step, exposures, side in settings:
        for path in ("hdrops", "literal"):
            if path == "literal" and 1.1 * volume_bytes(extent, step, exposures, side) > room:
                continue
            words = [path, extent, step, exposures, side]
            command = [sys.executable, __file__, "--point", *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            slices = 2 * (extent // step) ** 2 * exposures
            rows.append({"axis": axis, "path": path, "slices": slices, "side": side, **json.loads(done.stdout)})
            print(rows[-1], flush=True)
    return rows


def plot(rows: list[dict[str, float | str]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import torch
    from machine import machine

    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    colours = {"hdrops": "#0072B2", "literal": "#D55E00"}
    names = {"hdrops": "matching_conv3d", "literal": "volume, then conv3d (PyTorch)"}
    for column, axis in enumerate(("slices", "pixels")):
        for line, (what, unit) in enumerate((("ms", "milliseconds"), ("mb", "peak memory, MB"))):
            panel = axes[line][column]
            for name in colours:
                chosen = [r for r in rows if r["axis"] == axis and r["path"] == name]
                x = [float(r["slices"]) if axis == "slices" else float(r["side"]) ** 2 for r in chosen]
                y = [max(float(r[what]), 1e-1) for r in chosen]
                panel.plot(x, y, "o-", color=colours[name], label=names[name], lw=2)
            panel.set(xscale="log", yscale="log", ylabel=unit)
            panel.set_xlabel("slices of the volume (128 x 128 pixels)" if axis == "slices" else "pixels (192 slices)")
            panel.grid(True, which="major", color="#dddddd", lw=0.7)
            for side in ("top", "right"):
                panel.spines[side].set_visible(False)
    axes[0][0].legend(frameon=False)
    facts = machine("cpu", torch.get_num_threads())
    title = (
        f"First convolution on the matching volume, 32 channels, float32\n{facts['device']}, {facts['threads']} threads"
    )
    figure.suptitle(title, fontsize=11, weight="bold")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        path, *numbers = arguments.point
        point(path, *map(int, numbers))
        return
    rows = measured()
    RESULTS.mkdir(parents=True, exist_ok=True)
    with open(RESULTS / "scaling.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, ["axis", "path", "slices", "side", "ms", "mb"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {key: f"{float(row[key]):.4g}" for key in ("ms", "mb")})
    plot(rows, RESULTS / "scaling.png")


if __name__ == "__main__":
    main()
