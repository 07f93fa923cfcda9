"""Turn ``results/*.json`` into ``RESULTS.md``, plots and the table of the README.

``python bench/report.py`` writes bench/RESULTS.md and bench/results/*.png;
``python bench/report.py --readme README.md`` also replaces the table between that file's markers.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import pathlib
import re
import sys
from typing import Any

FOLDER = pathlib.Path(__file__).parent
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
SIZES = {"1080p": "1080p", "4k": "4K", "12mp": "12 MP"}
# Okabe and Ito's palette, told apart by readers with any colour vision; each line has its own marker as well.
STYLES = {
    "hdrops": ("#D55E00", "o"),
    "torch.compile": ("#0072B2", "s"),
    "torch eager": ("#56B4E9", "D"),
    "OpenCV": ("#009E73", "^"),
    "NumPy": ("#CC79A7", "v"),
    "CuPy": ("#CC79A7", "v"),
    "scikit-image": ("#E69F00", "P"),
}
FLAT_FROM_MEGAPIXELS = 8
FLAT_WITHIN = 1.2
NOTES = """\
Every row was timed in one run: all implementations took turns in rounds, on the same pictures, dtype,
device and number of threads, after each result was compared with that of hdrops. A peer offers several
configurations (threads, layouts, compositions); the fastest in a short trial stands here. "out" writes to
preallocated memory on both sides, "fresh" allocates the result in the call. Look-up tables of peers and
compilation are not timed; tables of hdrops are. Times are medians with the 20th and 80th percentile. GB/s
counts every input read once and every output written once. The ceiling is the larger of two lower bounds,
measured in the same run: that traffic at the best copy bandwidth of this working set, and the operations
named by the benchmark at the peak of fused multiply-adds. MB is the peak memory above inputs and
preallocated outputs, in the first call. "Speed-up" is the time of the fastest peer over that of hdrops:
below 1 hdrops is slower. Pictures are synthetic exposures of one scene unless the row says otherwise.
"""


def load(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The result documents, CPU first."""
    documents = [json.loads(path.read_text()) | {"name": path.stem} for path in sorted(folder.glob("*.json"))]
    return sorted(documents, key=lambda d: (d["machine"]["kind"] != "cpu", d["name"]))


def number(value: float | None) -> str:
    """Three digits, without an exponent."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def count_threads(machine: dict[str, Any]) -> str:
    return f"{machine['threads']} thread" + "s" * (machine["threads"] != 1)


def machine_line(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    if machine["kind"] == "cuda":
        device = f"{machine['device']}, driver {machine['driver']}, CUDA {machine['cuda']}"
    else:
        device = f"{machine['device']}, {machine['cores']} cores, kernels {machine['cpu_level']}"
    return (
        f"{device}; {count_threads(machine)}; Python {machine['python']}, {versions}; "
        f"commit {machine['commit']}; {machine['date']}"
    )


def limits_line(limits: dict[str, Any]) -> str:
    """Ceilings of the smallest and the largest working set."""
    copies = [limits[name] for name in limits if name.startswith("copy")]
    sizes = limits["megabytes"]
    parts = [
        f"copy {number(max(c[i] for c in copies))}, read {number(limits['read'][i])} GB/s at {sizes[i]} MB"
        for i in sorted({0, len(sizes) - 1})
    ]
    return f"{'; '.join(parts)}; {limits['fma_gflops']} GFLOP/s float32 ({limits['method']})"


def case_name(row: dict[str, Any]) -> str:
    return row["label"] + ("" if row["picture"] == "synthetic" else f", {row['picture']}")


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "|".join("---:" if i > 2 else "---" for i in range(len(header))) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def bold(text: str, when: bool) -> str:
    return f"**{text}**" if when else text


def main_table(rows: list[dict[str, Any]]) -> list[str]:
    """One line per case: hdrops, its rates, the best peer."""
    lines = []
    for row in rows:
        ours, *peers = row["implementations"]
        best = min(peers, key=lambda e: e["median_ms"], default=None)
        lines.append(
            [
                case_name(row),
                SIZES.get(row["size"], row["size"]),
                row["variant"],
                f"{number(ours['median_ms'])} [{number(ours['p20_ms'])}..{number(ours['p80_ms'])}]",
                number(ours["gb_per_s"]),
                number(ours["gflop_per_s"]) if row["gflop"] else "–",
                f"{number(ours['percent_of_ceiling'])} ({row['ceiling']})",
                number(ours["peak_memory_mb"]),
                f"{best['name']} {number(best['median_ms'])}" if best else "–",
                bold(f"{number(row['speedup'])}x", row["speedup"] < 1) if best else "–",
            ]
        )
    header = [
        "case",
        "size",
        "result",
        "hdrops ms",
        "GB/s",
        "GFLOP/s",
        "% of ceiling",
        "MB",
        "best peer ms",
        "speed-up",
    ]
    return table(header, lines)


def full_table(rows: list[dict[str, Any]]) -> list[str]:
    """Every implementation and every skip, folded away."""
    lines = []
    for row in rows:
        where = [case_name(row), SIZES.get(row["size"], row["size"]), row["variant"]]
        for entry in row["implementations"]:
            lines.append(
                [
                    *where,
                    entry["name"] + (f" ({entry['config']})" if entry["config"] else ""),
                    number(entry["median_ms"]),
                    f"{number(entry['p20_ms'])}..{number(entry['p80_ms'])}",
                    number(entry["gb_per_s"]),
                    number(entry["percent_of_ceiling"]),
                    number(entry["peak_memory_mb"]),
                    str(entry["calls"]),
                ]
            )
        for name, reason in row["skipped"].items():
            lines.append([*where, f"{name}: skipped, {reason}", *["–"] * 6])
    header = [
        "case",
        "size",
        "result",
        "implementation",
        "ms",
        "p20..p80",
        "GB/s",
        "% of ceiling",
        "MB",
        "calls",
    ]
    return ["<details><summary>Every implementation</summary>", "", *table(header, lines), "</details>", ""]


def flatness(rows: list[dict[str, Any]]) -> list[str]:
    """Whether the time per pixel stays flat over large pictures."""
    lines = []
    for variant in sorted({row["variant"] for row in rows}):
        costs = {
            row["size"]: 1e6 * row["implementations"][0]["median_ms"] / (row["height"] * row["width"])
            for row in rows
            if row["variant"] == variant and row["height"] * row["width"] > 0.99e6 * FLAT_FROM_MEGAPIXELS
        }
        if len(costs) > 1:
            least, most = (f(costs, key=costs.__getitem__) for f in (min, max))
            ratio = costs[most] / costs[least]
            verdict = "met" if ratio <= FLAT_WITHIN else "**missed**"
            lines.append(
                f"- {variant}: from {FLAT_FROM_MEGAPIXELS} MP on, {most} costs {ratio:.2f} times as much per "
                f"pixel as {least} (goal {FLAT_WITHIN}: {verdict})."
            )
    return [*lines, ""] if lines else []


def plot(document: dict[str, Any], op: str, rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Time per pixel over the size of the picture, one panel per variant."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    variants = sorted({row["variant"] for row in rows}, reverse=True)
    figure, axes = plt.subplots(
        1,
        len(variants),
        figsize=(1 + 4.8 * len(variants), 4.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    drawn = {}
    for axis, variant in zip(axes[0], variants, strict=True):
        lines: dict[str, list[tuple[float, float, float, float]]] = {}
        for row in rows:
            pixels = row["height"] * row["width"]
            for entry in row["implementations"] if row["variant"] == variant else []:
                scaled = [1e6 * entry[key] / pixels for key in ("median_ms", "p20_ms", "p80_ms")]
                lines.setdefault(entry["name"], []).append((pixels / 1e6, *scaled))
        for name, points in lines.items():
            colour, marker = STYLES.get(name, ("#000000", "x"))
            size, median, low, high = zip(*sorted(points), strict=True)
            ours = name == "hdrops"
            (drawn[name],) = axis.plot(
                size,
                median,
                color=colour,
                marker=marker,
                ms=6 if ours else 4.5,
                lw=2.6 if ours else 1.5,
                zorder=2 + ours,
            )
            axis.fill_between(size, low, high, color=colour, alpha=0.18, lw=0)
        floors = sorted(
            (
                row["height"] * row["width"] / 1e6,
                1e12 * row["floor_ms"] / 1e6 / (row["height"] * row["width"]),
            )
            for row in rows
            if row["variant"] == variant
        )
        (drawn["ceiling of this machine"],) = axis.plot(*zip(*floors, strict=True), color="#555555", ls=":", lw=1.5)
        axis.set(xscale="log", yscale="log", xlabel="picture, megapixels")
        axis.set_title({"out": "preallocated output", "fresh": "fresh output"}.get(variant, variant), fontsize=11)
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(plain)
        axis.yaxis.set_major_formatter(plain)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(labelleft=True)
        axis.grid(True, which="major", color="#dddddd", lw=0.7)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0][0].set_ylabel("nanoseconds per pixel (lower is faster)")
    machine = document["machine"]
    figure.suptitle(
        f"{op}, {rows[0]['label']}\n{machine['device']}, {count_threads(machine)}",
        fontsize=11,
        weight="bold",
    )
    figure.legend(
        drawn.values(),
        drawn.keys(),
        loc="outside lower center",
        ncols=min(len(drawn), 3 * len(variants)),
        frameon=False,
        fontsize=10,
    )
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def results_page(documents: list[dict[str, Any]], folder: pathlib.Path) -> str:
    lines = [
        "# Benchmarks",
        "",
        "<!-- generated by bench/report.py; do not edit -->",
        "",
        *NOTES.splitlines(),
        "",
    ]
    for document in documents:
        op = document["rows"][0]["op"]
        where = "" if document["machine"]["kind"] == "cpu" else " on the GPU"
        lines += [f"## {op}{where}", "", f"{machine_line(document['machine'])}.", ""]
        lines += [f"Ceilings: {limits_line(document['limits'])}.", ""]
        named = [row for row in document["rows"] if not row["sweep"]]
        swept = [row for row in document["rows"] if row["sweep"]]
        if named:
            lines += main_table(named)
        if swept:
            path = folder / f"{document['name']}.png"
            plot(document, op, swept, path)
            lines += [
                "### Over the size of the picture",
                "",
                f"![{op}: time per pixel](results/{path.name})",
                "",
            ]
            lines += main_table(swept)
            lines += flatness(swept)
        lines += full_table(document["rows"])
    lines += data_section(folder)
    lines += scaling_section(folder / "matching_volume")
    lines += interpolation_section(folder / "exposure_interpolation")
    lines += ["", *fusion_section(folder / "hyperp_mb")]
    lines += ["", *enhancement_section(folder / "emvnet")]
    return "\n".join(lines).rstrip() + "\n"


def data_section(folder: pathlib.Path) -> list[str]:
    """Training samples per second, of ``bench_data.py``."""
    lines = []
    for path in sorted((folder / "data").glob("*.json")):
        document = json.loads(path.read_text())
        sources = ", ".join(f"{name}: {what}" for name, what in document["sources"].items())
        header = ["data", "workers", "samples/s", "CPU ms of a sample"]
        body = [
            [
                row["data"],
                str(row["workers"]),
                f"{row['samples_per_s']} [{row['p20']}..{row['p80']}]",
                number(row["cpu_ms"]),
            ]
            for row in document["rows"]
        ]
        lines += [machine_line(document["machine"]), "", f"Sources: {sources}.", "", *table(header, body)]
    intro = (
        "Samples of 60 x 90 pixels, in batches of 32, as a loader gives them to training; 0 workers: in its process."
    )
    return ["## Training data", "", intro, "", *lines] if lines else []


def scaling_section(folder: pathlib.Path) -> list[str]:
    """The matching volume's convolution over slices and pixels, by ``matching_scaling.py``."""
    if not (folder / "scaling.csv").exists():
        return []
    with (folder / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    body = [
        [
            row["slices"],
            f"{row['side']} x {row['side']}",
            row["path"],
            number(float(row["ms"])),
            number(float(row["mb"])),
        ]
        for row in rows
    ]
    return [
        "## Matching volume over slices and pixels",
        "",
        "32 channels, two images, float32; the literal path writes the volume and convolves it, where it fits into",
        "half of the memory. Peak memory above that before the calls, result included.",
        "",
        "![time and memory over slices and pixels](results/matching_volume/scaling.png)",
        "",
        *table(["slices", "pixels", "path", "ms", "MB"], body),
        "",
    ]


def interpolation_section(folder: pathlib.Path) -> list[str]:
    """Methods of exposure interpolation, by ``reproduce/exposure_interpolation.py``."""
    if not (folder / "run.json").exists():
        return []
    run = json.loads((folder / "run.json").read_text())
    others = {"ssim": "SSIM", "mef_ssim": "MEF-SSIM when fused"}
    values: dict[str, dict[str, str]] = {}
    for name in ("quality.csv", "fusion.csv"):
        with (folder / name).open() as file:
            for row in csv.DictReader(file):
                values.setdefault(row["method"], {}).update(row)
    body = [
        [row["what it is"], f"{float(row['psnr']):.2f}" if "psnr" in row else "–", *(row.get(c, "–") for c in others)]
        for row in values.values()
    ]
    scenes = sum(column.startswith("ssim ") for column in next(iter(values.values())))
    longer = "".join(f"; {name} {times} times as many" for name, times in run["times as many steps"].items())
    intro = (
        f"{run['triplets']} triplets of {scenes} scenes that were held out, inputs 4 EV apart; networks "
        f"and fitted tables of {len(run['training'])} other scenes of the same survey, {run['steps']} updates with "
        f"{run['batch']} patches of {run['patch'][0]} x {run['patch'][1]}{longer}. Fused: the dark frame, the "
        "interpolated one and the bright one, judged by the three true frames. Of each scene: the CSV files."
    )
    plots = [f"![{name}](results/{folder.name}/{name}.png)" for name in ("convergence", "losses")]
    header = ["method", "PSNR in dB", *others.values()]
    return ["## Exposure interpolation", "", intro, "", *table(header, body), *plots]


FUSION_METRICS = {
    "ag": "AG",
    "ei": "EI",
    "fmi": "FMI",
    "lpc_si": "LPC-SI",
    "s3": "S3",
    "sf": "SF",
    "piqe": "PIQE ↓",
    "ms_ssim_sources": "MS-SSIM",
    "qabf": "Qabf",
    "viff": "VIFF",
    "mef_ssim": "MEF-SSIM",
}


def fusion_section(folder: pathlib.Path) -> list[str]:
    """Networks of fusion, by ``reproduce/hyperp_mb.py``."""
    if not (folder / "run.json").exists():
        return []
    run = json.loads((folder / "run.json").read_text())

    def means(name: str) -> list[str]:
        with (folder / name).open() as file:
            body = [
                [row["what it is"], *(number(float(row[metric])) for metric in FUSION_METRICS)]
                for row in csv.DictReader(file)
            ]
        return table(["method", *FUSION_METRICS.values()], body)

    def changes(name: str) -> list[str]:
        found: dict[str, list[str]] = {metric: [label] for metric, label in FUSION_METRICS.items()}
        with (folder / name).open() as file:
            for row in csv.DictReader(file):
                found[row["metric"]].append(f"{row['mean change']} ({row['pairs where it rises']} of {row['pairs']})")
        return table(["metric", "MaskBuilder", "ParamTuner"], [*found.values()])

    shares = "".join(f"; {name} {share:.2f} times as many" for name, share in run["share of the steps"].items())
    intro = (
        f"{len(run['pairs'])} under- and overexposed pairs of photographs that were not learnt from, aligned. Networks "
        f"of triplets of the Fairchild survey, {run['steps']} updates at 256 x 256, one triplet each{shares}."
    )
    steps = "What MaskBuilder adds, and ParamTuner to it: the mean change, and in how many pairs the value rises."
    asked = (
        "What the losses ask for, whatever the network: the pictures for which they are the least, by descent on their "
        "pixels, of one triplet of every static scene of the survey and of DeepFuse, grey, 256 x 256."
    )
    folds = [name for name in ("three_frames.csv", "nine_frames.csv") if (folder / name).exists()]
    more = (
        "Brackets of more frames, with the shipped weights: static brackets of 3 frames "
        f"({run['brackets of three']}), and of mostly 9 ({run['brackets of nine']}). Metrics are given all frames."
    )
    return [
        "## Learned fusion",
        "",
        intro,
        "",
        *means("quality.csv"),
        steps,
        "",
        *changes("changes.csv"),
        f"![losses by sigma](results/{folder.name}/losses.png)",
        "",
        *(
            [asked, "", *means("sought.csv"), *changes("sought_changes.csv")]
            if (folder / "sought.csv").exists()
            else []
        ),
        *([more, ""] if folds else []),
        *(line for name in folds for line in means(name)),
    ]


ENHANCEMENT_METRICS = {
    "error": "error-μ ↓",
    "psnr_mu": "PSNR-μ",
    "ssim_mu": "SSIM-μ",
    "psnr_l": "PSNR-L",
    "ssim_l": "SSIM-L",
}
DEVICE_GB = 0.9 * 24 * 2**30 / 1e9  # what a GPU of 24 GiB can give


def enhancement_section(folder: pathlib.Path) -> list[str]:
    """EMVNet, by ``reproduce/emvnet.py``, ``emvnet_inference.py`` and ``emvnet_plan.py``."""

    def rows(name: str) -> list[dict[str, str]]:
        if not (folder / name).exists():
            return []
        with (folder / name).open() as file:
            return list(csv.DictReader(file))

    lines = ["## EMVNet", ""]
    if (folder / "run.json").exists():
        run = json.loads((folder / "run.json").read_text())
        header = ["method", *ENHANCEMENT_METRICS.values()]
        seeds = sorted(place.name for place in folder.glob("seed_*"))
        of_seeds = f" Values side by side are of {1 + len(seeds)} seeds." if seeds else ""
        for name, what in (
            ("synthetic.csv", f"{run['brackets']} brackets of moving scenes in panoramas that were not learnt from"),
            ("ntire.csv", "brackets of NTIRE 2021, of which nothing was learnt"),
        ):
            others = [{row["method"]: row for row in rows(f"{seed}/{name}")} for seed in seeds]
            body = []
            for row in rows(name):
                same = [row, *(other[row["method"]] for other in others if row["method"] in other)]
                values = (
                    [f"{float(r[m]):.4f}" if m == "error" else number(float(r[m])) for r in same]
                    for m in ENHANCEMENT_METRICS
                )
                # What learns nothing is the same for every seed.
                body.append([row["what it is"], *(" / ".join(v if len({*v}) > 1 else v[:1]) for v in values)])
            lines += [f"Small networks after {run['steps']} updates: {what}.{of_seeds}", "", *table(header, body)]
    measured = [
        [
            row["preset"],
            f"{row['images']} of {row['rows']} x {row['columns']}",
            row["path"],
            row["dtype"],
            row["piece"] if row["path"] == "hdrops" and row["piece"] != "0" else "",
            number(float(row["seconds"])),
            number(float(row["gb"])),
            row["device"],
            row["threads"],
        ]
        for row in rows("inference.csv")
    ]
    if measured:
        header = ["preset", "images", "by", "dtype", "piece", "s", "peak GB", "device", "threads"]
        lines += [
            "Inference, beside the same network composed of PyTorch's layers in their best layout, in bands that fit:",
            "",
            *table(header, measured),
        ]
    plan = rows("plan.csv")
    if plan:
        lines += [
            f"What 12 megapixels need, counted: the least work in less than {DEVICE_GB:.1f} GB, nine tenths of 24 GiB, "
            "by tiles and pieces, and what bands with rolling buffers would take. Of raw images that is the sensor, "
            "packed a quarter of it. All tiles and pieces are in `results/emvnet/plan.csv`.",
            "",
        ]
        body = []
        for preset in dict.fromkeys(row["preset"] for row in plan):
            for dtype in ("float32", "bfloat16"):
                mine = [row for row in plan if row["preset"] == preset and row["dtype"] == dtype]
                fitting = [row for row in mine if row["way"] == "tiles" and float(row["gb"]) < DEVICE_GB]
                best = min(fitting, key=lambda row: (float(row["times"]), float(row["gb"])), default=None)
                for row in (best, *(row for row in mine if row["way"] != "tiles")):
                    if row is not None and float(row["gb"]) < DEVICE_GB:
                        cells = (row[key] for key in ("tile_halo", "piece", "piece_halo"))
                        tile = row["tile"] if row["tile"] != "0" else "whole"
                        body.append([preset, dtype, row["way"], tile, *cells, row["times"], row["gb"]])
        header = ["preset", "dtype", "way", "tile", "halo", "piece", "halo", "computed at most, times", "GB"]
        lines += table(header, body)
    return lines if len(lines) > 2 else []


def readme_table(documents: list[dict[str, Any]]) -> str:
    """The headline rows of all operators, one table per machine."""
    tables: dict[str, list[list[str]]] = {}
    for document in documents:
        machine = document["machine"]
        title = f"{machine['device']}, {count_threads(machine)}, torch {machine['versions']['torch']}"
        for row in document["rows"]:
            if not row["headline"]:
                continue
            ours, *peers = row["implementations"]
            peers.sort(key=lambda e: e["median_ms"])
            others = ", ".join(f"{e['name']} {number(e['median_ms'])}" for e in peers)
            size = SIZES.get(row["size"], row["size"])
            cells = [f"`{row['op']}`", case_name(row), size, number(ours["median_ms"]), others]
            tables.setdefault(title, []).append([*cells, f"{number(row['speedup'])}x"])
    header = ["operator", "case", "size", "hdrops ms", "peers ms", "against the best"]
    lines = []
    for title, body in tables.items():
        lines += [f"{title}:", "", *table(header, body)]
    return "\n".join(lines).strip()


def write(path: pathlib.Path, text: str) -> None:
    draft = path.with_name(path.name + ".part")
    draft.write_text(text)
    os.replace(draft, path)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write RESULTS.md and the plots from results/*.json.")
    parser.add_argument("--results", type=pathlib.Path, default=FOLDER / "results", help="folder of the JSON files")
    parser.add_argument("--readme", type=pathlib.Path, help="file whose marked table is replaced")
    options = parser.parse_args()
    documents = load(options.results)
    if not documents:
        print(f"no results in {options.results}; run pytest bench first", file=sys.stderr)
        return 2
    write(options.results.parent / "RESULTS.md", results_page(documents, options.results))
    if options.readme:
        text = options.readme.read_text()
        if BEGIN not in text or END not in text:
            print(f"{options.readme} has no markers {BEGIN} and {END}; add them", file=sys.stderr)
            return 2
        short = f"{BEGIN}\n{readme_table(documents)}\n{END}"
        write(options.readme, re.sub(f"{BEGIN}.*?{END}", lambda _: short, text, count=1, flags=re.DOTALL))
    return 0


if __name__ == "__main__":
    sys.exit(main())
