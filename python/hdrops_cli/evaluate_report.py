"""The report of ``hdrops evaluate``: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import datetime
import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hdrops_cli.evaluate_pictures import DIVERGING, SEQUENTIAL
from hdrops_cli.report import counted

if TYPE_CHECKING:
    from hdrops_cli.evaluate import Evaluated, Evaluation
    from hdrops_cli.evaluate_metrics import Metric

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #5c6570; --line: #d5dae0; --best: #e4f3e6;
  --dot: #2f6fb3; --mean: #b3392f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --paper: #15181c; --soft: #98a2ad; --line: #363c44;
  --best: #1d3a24; --dot: #6aa6e0; --mean: #f0857c; } }
@media print { :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --best: #e4f3e6; --dot: #2f6fb3;
  --mean: #b3392f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 2rem 4rem; max-width: 100rem; background: var(--paper); color: var(--ink);
  font: .95rem/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
p, ul { margin: .4rem 0; } .soft, figcaption { color: var(--soft); font-size: .85rem; }
a { color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; overflow-wrap: anywhere; } th:first-child, td:first-child { text-align: left; }
thead th { border-bottom-width: 2px; } tbody th { font-weight: 400; white-space: nowrap; }
td.best { font-weight: 700; background: var(--best); print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.words td { text-align: left; } .words th { vertical-align: top; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem 2rem; }
.plots figure { break-inside: avoid; } .plots svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: var(--ink); } svg .tick { fill: var(--soft); }
svg .grid { stroke: var(--line); } svg .dot { fill: var(--dot); fill-opacity: .55; }
svg .mean { stroke: var(--mean); stroke-width: 2.5; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
.row { display: flex; flex-wrap: wrap; gap: .7rem; align-items: flex-start; margin-bottom: .7rem; }
.grid { display: grid; gap: .7rem; align-items: start; margin-bottom: .7rem; overflow-x: auto; }
figure { margin: 0; } img { display: block; max-width: 100%; height: auto; }
.row img { max-height: 8rem; width: auto; }
figcaption { overflow-wrap: anywhere; }
.scale { display: inline-flex; align-items: center; gap: .5rem; }
.scale i { width: 9rem; height: .7rem; display: inline-block; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
nav { columns: 16rem; margin: .5rem 0 1rem; } nav a { display: block; overflow-wrap: anywhere; }
@page { margin: 12mm; }
@media print { :root { font-size: 10px; } body { font-size: 1rem; padding: 0; max-width: none; } nav { display: none; }
  section { break-inside: avoid; } h2 { break-after: avoid; } .plots { grid-template-columns: repeat(3, 1fr); } }
"""
_WIDTH, _ROW, _TOP, _BOTTOM = 420, 26, 8, 24  # of a plot, in its units
_LETTERS = 18  # of a method's name in a plot


def page(evaluation: Evaluation, notes: Sequence[str]) -> bytes:
    """The whole report."""
    task = evaluation.task
    names = [method.name for method in task.methods]
    title = f"Evaluation of {', '.join(names)}"
    what = "references" if task.reference else "sources"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(title)}</h1>",
        f'<p class="soft">{counted(len(evaluation.scenes), "scene")} against the {what} in {_text(task.folder)}</p>',
        *_summary(evaluation),
        *_notes(notes),
        *_plots(evaluation),
        "<h2>Scenes</h2>",
        *_legend(evaluation),
        *_index(evaluation.scenes),
    ]
    for number, one in enumerate(evaluation.scenes):
        parts += _scene(evaluation, one, number)
    parts += _provenance(evaluation)
    parts.append("</body></html>\n")
    return "\n".join(parts).encode("utf-8", "replace")


def _text(value: object) -> str:
    return html.escape("".join(c if c.isprintable() else "�" for c in str(value)))


# ---- tables --------------------------------------------------------------------------------------------------------


def _table(values: Mapping[str, Mapping[str, float]], evaluation: Evaluation) -> list[str]:
    """Metrics by methods, the best in bold."""
    from hdrops_cli.evaluate import cells, fewer_scenes

    methods = evaluation.task.methods
    lines = ['<div class="scroll"><table><thead><tr><th></th>']
    lines += [f"<th>{_text(method.name)}</th>" for method in methods]
    lines.append("</tr></thead><tbody>")
    for metric in evaluation.metrics:
        row = [f'<td class="best">{x}</td>' if best else f"<td>{x}</td>" for x, best in cells(values, methods, metric)]
        heading = _heading(metric) + fewer_scenes(values, metric, evaluation)
        lines.append(f"<tr><th>{heading}</th>{''.join(row)}</tr>")
    lines.append("</tbody></table></div>")
    return lines


def _heading(metric: Metric) -> str:
    direction = "higher is better" if metric.higher_is_better else "lower is better"
    return f'{_text(metric.label)} <span title="{direction}">{metric.arrow}</span>'


def _summary(evaluation: Evaluation) -> list[str]:
    count, all_scenes = len(evaluation.shared), len(evaluation.scenes)
    if not count:
        return ["<h2>Summary</h2>", "<p>No scene has values of all methods, so there are no means to compare.</p>"]
    several = len(evaluation.task.methods) > 1
    dropped = f", those of {all_scenes} that all methods have" if count < all_scenes else ""
    explained = "↑ higher is better, ↓ lower is better" + (", the best in bold" if several else "")
    return [
        "<h2>Summary</h2>",
        f"<p>Mean over {counted(count, 'scene')}{dropped}; {explained}.</p>",
        *_table(evaluation.means, evaluation),
    ]


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    return ["<h2>Notes</h2>", "<ul>", *(f"<li>{_text(note)}</li>" for note in notes), "</ul>"]


def _provenance(evaluation: Evaluation) -> list[str]:
    import torch

    import hdrops

    task = evaluation.task
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = [
        ("hdrops", hdrops.__version__),
        ("torch", torch.__version__),
        ("date", now),
        ("reference" if task.reference else "sources", task.folder),
        *((method.name, method.path) for method in task.methods),
    ]
    lines = ["<h2>How this was measured</h2>", '<div class="scroll"><table class="words"><tbody>']
    lines += [f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows]
    lines.append("</tbody></table></div>")
    lines.append("<p>Codes of 8 and of 16 bits are both taken as values in [0, 1].</p>")
    if any(metric.linear for metric in evaluation.metrics):
        corrected = "" if task.correct == "none" else f", after the correction of the {task.correct}"
        lines.append(
            "<p>Linear light: both pictures are divided by the largest value of the reference, which PQ and PU21 show "
            f"at {task.display_peak:g} cd/m²{corrected}.</p>"
        )
    lines.append('<div class="scroll"><table class="words"><tbody>')
    for metric in evaluation.metrics:
        stated = ", ".join(f"{key}={value!r}" for key, value in metric.options.items())
        call = f"{metric.module}.{metric.function} ({stated})"
        words = f'{_text(metric.convention)}<p class="soft">{_text(metric.manner)}</p>'
        lines.append(f"<tr><th>{_heading(metric)}</th><td>{words}</td><td><code>{_text(call)}</code></td></tr>")
    lines.append("</tbody></table></div>")
    return lines


# ---- plots ---------------------------------------------------------------------------------------------------------


def _plots(evaluation: Evaluation) -> list[str]:
    """For each metric a dot per scene, and the mean."""
    if len(evaluation.shared) < 2:
        return []
    lines = [
        "<h2>Distribution</h2>",
        "<p>A dot is a scene, the bar the mean; better is to the right. Infinite values have no place: a scene of such "
        "a value has no dot, and a mean over it no bar.</p>",
        '<div class="plots">',
    ]
    for metric in evaluation.metrics:
        points = {
            method.name: [
                (one.scene.name, value)
                for one in evaluation.rows[metric.name]
                if math.isfinite(value := one.values[method.name][metric.name])
            ]
            for method in evaluation.task.methods
        }
        if any(points.values()):
            means = {name: values[metric.name] for name, values in evaluation.means.items() if metric.name in values}
            lines.append(f"<figure><figcaption>{_heading(metric)}</figcaption>{_plot(points, means, metric)}</figure>")
    lines.append("</div>")
    return lines


def _plot(points: Mapping[str, Sequence[tuple[str, float]]], means: Mapping[str, float], metric: Metric) -> str:
    values = [value for row in points.values() for _, value in row]
    low, high, ticks = _axis(min(values), max(values))
    left = 12 + 6.4 * max(min(len(name), _LETTERS) for name in points)
    height = _TOP + _ROW * len(points) + _BOTTOM

    def x(value: float) -> float:
        part = (value - low) / (high - low)
        return left + (part if metric.higher_is_better else 1 - part) * (_WIDTH - 14 - left)

    lines = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{_text(metric.label)} by method">']
    for tick in ticks:
        lines.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        lines.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    for k, (name, row) in enumerate(points.items()):
        y = _TOP + _ROW * (k + 0.5)
        short = name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
        lines.append(f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{_text(short)}</text>')
        for scene, value in row:
            tip = f"<title>{_text(scene)}: {value:.{metric.digits}f}</title>"
            lines.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{y:.1f}" r="4">{tip}</circle>')
        if math.isfinite(means.get(name, math.inf)):
            mean = x(means[name])
            lines.append(f'<line class="mean" x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 9:.1f}" y2="{y + 9:.1f}"/>')
    return "".join(lines) + "</svg>"


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """An interval around the values, and round numbers in it."""
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    rough = (high - low) / 5  # at least two ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(k for k in (1, 2, 5, 10) if k * power >= rough)
    first = math.ceil(low / step)
    # The nearest number of few digits: multiples of a step such as 0.1 are not exact.
    ticks = [float(f"{k * step:.12g}") for k in range(first, math.floor(high / step) + 1)]
    return low, high, ticks


# ---- scenes --------------------------------------------------------------------------------------------------------


def _index(scenes: Sequence[Evaluated]) -> list[str]:
    if len(scenes) < 2:
        return []
    return ["<nav>", *(f'<a href="#s{k}">{_text(one.scene.name)}</a>' for k, one in enumerate(scenes)), "</nav>"]


def _legend(evaluation: Evaluation) -> list[str]:
    task = evaluation.task
    if task.reference:
        text = "The maps show the absolute difference from the reference"
        if any(metric.linear for metric in evaluation.metrics):
            text = "Linear light is shown by its μ-law. " + text + ", in that encoding"
    elif len(task.methods) > 1:
        text = "The maps show where a result is darker (blue) or brighter (red) than the first one"
    else:
        return []
    return [f'<p class="soft">{text}: mean of the channels, white being 1. Their scale is each scene\'s own.</p>']


def _scene(evaluation: Evaluation, one: Evaluated, number: int) -> list[str]:
    task = evaluation.task
    total = len(one.scene.against)
    count = "" if task.reference else f", {total} sources"
    count += f", of which {len(one.against)} are shown" if len(one.against) < total else ""
    columns = f"grid-template-columns: repeat({len(task.methods)}, minmax(8rem, 26rem))"
    lines = [
        f'<section id="s{number}">',
        f'<h3>{_text(one.scene.name)} <span class="soft">{_text(one.size)}{count}</span></h3>',
        '<div class="row">',
        *(_figure(name, picture) for name, picture in one.against.items()),
        f'</div><div class="grid" style="{columns}">',
        *(_figure(x.name, one.pictures[x.name]) if x.name in one.pictures else "<div></div>" for x in task.methods),
    ]
    if one.maps:
        base = next(iter(one.pictures))
        for x in task.methods:
            caption = f"|{x.name} − reference|" if task.reference else f"{x.name} − {base}"
            lines.append(_figure(caption, one.maps[x.name]) if x.name in one.maps else "<div></div>")
    lines.append("</div>")
    if one.maps:
        colours, least = (SEQUENTIAL, "0") if task.reference else (DIVERGING, f"−{one.scale:g}")
        stops = ", ".join(f"#{colour}" for colour in colours)
        bar = f'<i style="background: linear-gradient(to right, {stops})"></i>'
        lines.append(f'<p class="soft"><span class="scale">{least} {bar} {one.scale:g}</span></p>')
    return [*lines, *_table(one.values, evaluation), "</section>"]


def _figure(name: str, picture: bytes) -> str:
    data = base64.b64encode(picture).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{_text(name)}">'
        f"<figcaption>{_text(name)}</figcaption></figure>"
    )
