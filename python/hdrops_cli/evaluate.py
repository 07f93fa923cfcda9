"""``hdrops evaluate``: results of methods against sources or references."""

from __future__ import annotations

import csv
import io
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdrops_cli.evaluate_metrics import Metric, chosen
from hdrops_cli.evaluate_pictures import DIVERGING, SEQUENTIAL, coloured, jpeg, reduced, scale_of, side_for, transparent
from hdrops_cli.evaluate_scenes import Method, Plan, Scene, methods_of, plan_references, plan_sources
from hdrops_cli.report import OUT_OF_MEMORY, counted, counting, printable, say, tell

if TYPE_CHECKING:
    from torch import Tensor

    from hdrops.io import Photograph

_PIXELS_AT_ONCE = 30_000_000  # of all pictures of the scenes that are measured at the same time
_MOST_THUMBNAILS = 9  # of the sources of a scene
_FEW_SCENES = 3
_ENDINGS = (".html", ".htm")
_COLUMNS = ("scene", "method", "picture")  # of the table, before those of the metrics


@dataclass(frozen=True)
class Task:
    """What to evaluate, and how.

    Attributes:
        methods: in the order of the arguments.
        metrics: in the order of the registry.
        folder: of the sources or references.
        reference: whether there are references.
        display_peak: cd/m² that the largest value of a floating-point reference is shown at, for PQ and PU21.
        correct: what floating-point pictures are freed from before: "none", "exposure" or "response".
    """

    methods: list[Method]
    metrics: list[Metric]
    folder: Path
    reference: bool
    display_peak: float
    correct: str


@dataclass
class Evaluated:
    """What was found out about a scene.

    Attributes:
        scene: with the paths.
        values: by method and metric; what could not be computed is absent.
        failures: one line each.
        warnings: one line each.
        depths: bits of pictures that are measured against ones of other bits, and those of the latter, by method.
        transparent: number of pictures with transparent pixels, by method.
        transparent_against: that of the frames or the reference.
        size: of its pictures, in words.
        against: thumbnails of the frames or the reference, by name.
        pictures: thumbnails of the results, by method.
        maps: pictures of the differences, by method.
        scale: the difference at the end of the colours of the maps.
    """

    scene: Scene
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    depths: dict[str, tuple[int, int]] = field(default_factory=dict)
    transparent: Counter[str] = field(default_factory=Counter)
    transparent_against: int = 0
    size: str = ""
    against: dict[str, bytes] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    maps: dict[str, bytes] = field(default_factory=dict)
    scale: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """All results.

    Attributes:
        task: what was asked for.
        metrics: those with a value somewhere.
        scenes: those with values.
        shared: those that all methods have values of; the means are over them.
        means: by method and metric.
        rows: the scenes that the means of a metric are over: those of ``shared`` for which all methods have it.
    """

    task: Task
    metrics: list[Metric]
    scenes: list[Evaluated]
    shared: list[Evaluated]
    means: dict[str, dict[str, float]]
    rows: dict[str, list[Evaluated]]


def run(
    results: Sequence[str],
    out: Path,
    sources: Path | None,
    reference: Path | None,
    metrics: str | None,
    per_scene: bool,
    suffix: str,
    per_set: int | None,
    display_peak: float,
    correct: str,
    jobs: int | None,
) -> int:
    """Evaluate, print and write; the exit code."""
    from hdrops.io import InputError
    from hdrops.io.writing import check_place, write_file

    started = time.perf_counter()
    folder = sources or reference
    if folder is None or (sources is not None and reference is not None):
        raise InputError(
            f"give either --sources or --reference to measure against, got {'neither' if folder is None else 'both'}"
        )
    wanted = chosen(metrics, reference is not None)
    if out.suffix.lower() not in _ENDINGS:
        raise InputError(f"-o names the report, a file ending in .html; got {out}")
    table = out.with_suffix(".csv")
    for path in (out, table):
        check_place(path)
    _check_own(table, out)
    failures: list[str] = []
    methods = methods_of(results, folder, failures)
    if reference is None:
        plan = plan_sources(methods, folder, suffix, per_set, failures)
    else:
        plan = plan_references(methods, folder, suffix, failures)
    task = Task(methods, wanted, folder, reference is not None, display_peak, correct)
    evaluated = _evaluate(plan.scenes, task, jobs)
    evaluation = _summarised(task, evaluated)
    failures += [line for one in evaluated for line in one.failures]
    warnings = [line for one in evaluated for line in one.warnings] + _doubts(evaluation, evaluated, plan)
    notes = [*(f"failed: {line}" for line in failures), *(f"warning: {line}" for line in warnings)]
    for note in notes:
        tell(printable(note))
    if evaluation.scenes:
        from hdrops_cli.evaluate_report import page

        files = {out: page(evaluation, notes), table: _csv(evaluation)}
        for path, content in files.items():
            write_file(path, content)
        _print(evaluation, per_scene)
    counts = (len(evaluation.scenes), "scene"), (len(methods), "method"), (len(evaluation.metrics), "metric")
    summary = ", ".join(counted(*count) for count in counts)
    summary += f", {len(failures)} failed" if failures else ""
    written = f"{out} and {table}" if evaluation.scenes else "nothing written"
    say(f"{summary}, {time.perf_counter() - started:.2f} s → {written}")
    return 2 if not evaluation.scenes else 1 if failures else 0


def _check_own(table: Path, out: Path) -> None:
    """Refuse to replace a table that no evaluation has written: only the report's name was asked for."""
    from hdrops.io import InputError

    if not table.exists():
        return
    header = ",".join(_COLUMNS).encode() + b","
    with open(table, "rb") as stream:
        own = stream.read(len(header)) == header
    if not own or not out.exists():
        reason = "has other columns than a table of values" if not own else f"has no report {out.name} beside it"
        raise InputError(f"{table} would be replaced, but {reason}; move it away, or name another report by -o")


# ---- measuring -----------------------------------------------------------------------------------------------------


class _Room:
    """Lets so many pixels be worked on at once; what alone exceeds that, alone."""

    def __init__(self, most: int) -> None:
        self._most, self._used = most, 0
        self._freed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        with self._freed:
            self._freed.wait_for(lambda: not self._used or self._used + amount <= self._most)
            self._used += amount
        try:
            yield
        finally:
            with self._freed:
                self._used -= amount
                self._freed.notify_all()


def _evaluate(scenes: Sequence[Scene], task: Task, jobs: int | None) -> list[Evaluated]:
    """Measure the scenes, several at a time."""
    import torch

    threads = torch.get_num_threads()
    workers = max(1, min(jobs or threads, len(scenes)))
    side = side_for(sum(min(len(scene.against), _MOST_THUMBNAILS) + 2 * len(scene.results) for scene in scenes))
    room = _Room(_PIXELS_AT_ONCE)
    # torch counts threads per calling thread: those of a worker are the worker's own.
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),))
    try:
        futures = [pool.submit(_evaluate_scene, scene, task, side, room) for scene in scenes]
        with counting("evaluating", len(futures)) as advance:
            for future in as_completed(futures):
                future.result()
                advance()
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _evaluate_scene(scene: Scene, task: Task, side: int, room: _Room) -> Evaluated:
    import torch

    from hdrops.io import InputError
    from hdrops.io.errors import out_of_memory

    found = Evaluated(scene)
    try:
        frames, paths = _read_against(scene, task.reference)
        height, width = frames.shape[-2:]
        found.size = f"{width} × {height}"
        with torch.inference_mode(), room.taken(height * width * (len(frames) + len(scene.results))):
            _compare(found, task, frames, paths, side)
    except InputError as error:
        found.failures.append(f"{scene.name}: {error}")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return Evaluated(scene, failures=[f"{scene.name}: {OUT_OF_MEMORY}"])
    return found


def _read_against(scene: Scene, reference: bool) -> tuple[Tensor, list[Path]]:
    """The frames, dark to bright, or the reference, which is (1, C, H, W); checked."""
    from hdrops.io import InputError, read_bracket, read_image

    if reference:
        paths = list(scene.against)
        frames = read_image(paths[0]).pixels[None]
    else:
        if len(scene.against) < 2:
            raise InputError(f"{scene.against[0]} is the only image of its bracket; fusion takes at least 2")
        bracket = read_bracket(scene.against)
        frames, paths = bracket.images, bracket.paths
    if min(frames.shape[-2:]) < 2:
        raise InputError(f"{paths[0]} is {_size(frames)}; a picture one pixel wide or high has no structure to measure")
    if frames.is_floating_point():
        _check_range(frames, paths[0], None if reference else 1.0)
    return frames, paths


def _compare(found: Evaluated, task: Task, frames: Tensor, paths: list[Path], side: int) -> None:
    """Measure the pictures of a scene, and make those of the report."""
    from hdrops.io import InputError, read_image

    white = float(frames.max()) if task.reference and frames.is_floating_point() else None
    found.warnings += _negatives(frames, paths[0])
    found.transparent_against = sum(map(transparent, paths))
    shown: dict[str, Tensor] = {}
    for method in task.methods:
        path = found.scene.results.get(method.name)
        if path is None:
            continue
        try:
            picture = read_image(path)
            _check_alike(picture, frames, paths[0])
            if picture.pixels.is_floating_point():
                _check_range(picture.pixels, path, None if task.reference else 1.0)
        except InputError as error:
            found.failures.append(str(error))
            continue
        found.warnings += _negatives(picture.pixels, path)
        if transparent(path):
            found.transparent[method.name] += 1
        if picture.pixels.dtype != frames.dtype:
            found.depths[method.name] = (picture.bits, 8 * frames.element_size())
        values, missing = _measured(picture.pixels, frames, task)
        if not values:
            kind = "linear light" if picture.pixels.is_floating_point() else "codes of 8 or 16 bits"
            reason = "; ".join(missing) or f"none of the metrics is for {kind}"
            found.failures.append(f"{path}: nothing can be computed of it: {reason}")
            continue
        found.warnings += [f"{path}: no {', '.join(labels)}: {reason}" for reason, labels in missing.items()]
        found.values[method.name] = values
        shown[method.name] = _display(picture.pixels, white)
    if shown:
        _illustrate(found, shown, frames, paths, white, side)


def _check_range(pixels: Tensor, path: Path, most: float | None) -> None:
    """Refuse linear light without any value above 0, and values beyond the display range where that is meant."""
    from hdrops.io import InputError

    low, high = float(pixels.min()), float(pixels.max())
    if most is not None and not (low >= 0 and high <= most):
        raise InputError(f"{path} has values from {low:.4g} to {high:.4g} where [0, 1] is expected; tone it first")
    if high <= 0:
        raise InputError(f"{path} has no value above 0: all black linear light cannot be measured; render it again")


def _negatives(pixels: Tensor, path: Path) -> list[str]:
    """A line if there is negative light: what comes of it depends on the metric."""
    count = int((pixels < 0).sum()) if pixels.is_floating_point() else 0
    if not count:
        return []
    return [
        f"{path} has {counted(count, 'value below 0')} of {pixels.numel()}, the least {float(pixels.min()):.4g}; "
        "linear metrics take them as they are, all others as black"
    ]


def _check_alike(picture: Photograph, frames: Tensor, path: Path) -> None:
    from hdrops.io import InputError

    def describe(pixels: Tensor) -> tuple[str, str, str]:
        colours = {1: "grey", 3: "RGB"}
        return _size(pixels), colours[pixels.shape[-3]], "float" if pixels.is_floating_point() else "8-bit or 16-bit"

    advice = ("crop or resize them alike", "convert them alike", "convert them alike")
    for own, other, remedy in zip(describe(picture.pixels), describe(frames), advice, strict=True):
        if own != other:
            raise InputError(f"{picture.path} is {own}, but {path} is {other}; {remedy}")


def _size(pixels: Tensor) -> str:
    return f"{pixels.shape[-1]} x {pixels.shape[-2]}"


def _measured(picture: Tensor, frames: Tensor, task: Task) -> tuple[dict[str, float], dict[str, list[str]]]:
    """The values of a picture by metric, and the labels of those that it has none of by the reason."""
    image, against = picture[None], frames[None]
    linear = task.reference and image.is_floating_point()
    if image.dtype != against.dtype:
        image, against = _deep(image), _deep(against)
    values: dict[str, float] = {}
    missing: dict[str, list[str]] = {}
    for metric in task.metrics:
        if metric.linear != linear:
            continue
        options = dict(metric.options)
        if metric.linear:
            options |= {"correct": task.correct}
        if options.get("domain") in ("pq", "pu21") or (metric.linear and task.correct == "response"):
            options |= {"display_peak": task.display_peak}
        try:
            if metric.needs == "nothing":
                value = metric.load()(picture[None], **options)
            else:
                value = metric.load()(image, against if metric.needs == "sources" else against[:, 0], **options)
        except ValueError as error:
            # The metrics count the images of a batch; here there is one.
            reason = re.sub(r"^image 0\b", "the picture", str(error))
            missing.setdefault(reason, []).append(metric.label)
            continue
        number = float(value)
        if math.isnan(number):
            missing.setdefault("the value is not a number", []).append(metric.label)
        else:
            values[metric.name] = number
    return values, missing


def _deep(codes: Tensor) -> Tensor:
    """The codes in 16 bits."""
    import torch

    return codes if codes.dtype == torch.uint16 else (codes.to(torch.int32) * 257).to(torch.uint16)


# ---- pictures of the report ----------------------------------------------------------------------------------------


def _display(pixels: Tensor, white: float | None) -> Tensor:
    """Display values in [0, 1]: those of the pixels, or linear light up to ``white`` by the μ-law."""
    import torch

    if not pixels.is_floating_point():
        unit: Tensor = pixels.to(torch.float32) / torch.iinfo(pixels.dtype).max
        return unit
    if white is None:
        return pixels
    from hdrops.metrics import mu_law_encode

    return mu_law_encode((pixels / white).clamp(0, 1))


def _illustrate(
    found: Evaluated, shown: Mapping[str, Tensor], frames: Tensor, paths: Sequence[Path], white: float | None, side: int
) -> None:
    """Thumbnails, and maps of the differences from the reference, or from the first method where there is none."""
    step = math.ceil(len(paths) / _MOST_THUMBNAILS)
    found.against = {paths[k].name: jpeg(reduced(_display(frames[k], white), side)) for k in range(0, len(paths), step)}
    found.pictures = {name: jpeg(reduced(picture, side)) for name, picture in shown.items()}
    if len(frames) == 1:
        reference = _display(frames[0], white)
        errors = {name: (picture - reference).abs() for name, picture in shown.items()}
        colours: tuple[str, ...] = SEQUENTIAL
    else:
        base = next(iter(shown.values()))
        errors = {name: picture - base for name, picture in list(shown.items())[1:]}
        colours = DIVERGING
    maps = {name: reduced(error.mean(0, keepdim=True), side) for name, error in errors.items()}
    found.scale = scale_of(maps.values())
    found.maps = {name: jpeg(coloured(error, found.scale, colours)) for name, error in maps.items()}


# ---- results -------------------------------------------------------------------------------------------------------


def _summarised(task: Task, evaluated: Sequence[Evaluated]) -> Evaluation:
    scenes = [one for one in evaluated if one.values]
    shared = [one for one in scenes if len(one.values) == len(task.methods)]
    present = [m for m in task.metrics if any(m.name in values for one in scenes for values in one.values.values())]
    means: dict[str, dict[str, float]] = {method.name: {} for method in task.methods}
    rows = {}
    for metric in present:
        # A mean over other scenes than that of another method would be no comparison.
        common = [one for one in shared if all(metric.name in values for values in one.values.values())]
        rows[metric.name] = common
        for method in task.methods if common else ():
            mean = _mean([one.values[method.name][metric.name] for one in common])
            if not math.isnan(mean):
                means[method.name][metric.name] = mean
    return Evaluation(task, present, scenes, shared, means, rows)


def _mean(values: Sequence[float]) -> float:
    """The mean; NaN of infinities of both signs."""
    # fsum, which rounds once only, raises on these.
    return (math.fsum(values) if all(map(math.isfinite, values)) else sum(values)) / len(values)


def _doubts(evaluation: Evaluation, evaluated: Sequence[Evaluated], plan: Plan) -> list[str]:
    """What a reader of the means should know, one line each."""
    task = evaluation.task
    doubts = []
    for method in task.methods:
        depths = Counter(one.depths[method.name] for one in evaluated if method.name in one.depths)
        for (own, other), count in depths.items():
            against = "references" if task.reference else "sources"
            doubts.append(
                f"{method.name}: {counted(count, 'picture')} of {own} bits against {against} of {other}; "
                "both are taken as values in [0, 1]"
            )
    clear = [(method.name, sum(one.transparent[method.name] for one in evaluated)) for method in task.methods]
    clear.append((str(task.folder), sum(one.transparent_against for one in evaluated)))
    for name, count in clear:
        if count:
            pictures = counted(count, "picture with transparent pixels")
            doubts.append(f"{name}: {pictures}; alpha is left out, colours are taken as stored")
    doubts += plan.doubts
    if plan.idle:
        doubts.append(f"no result of {counted(plan.idle, 'reference' if task.reference else 'folder of images')}")
    shared, scenes = len(evaluation.shared), len(evaluation.scenes)
    if shared < scenes:
        lacking = {
            method.name: sum(method.name not in one.values for one in evaluation.scenes) for method in task.methods
        }
        doubts.append(
            f"the means are over {shared} of {scenes} scenes, those that all methods have values of ("
            + ", ".join(f"{name} lacks {count}" for name, count in lacking.items() if count)
            + ")"
        )
    return doubts


def cells(
    values: Mapping[str, Mapping[str, float]], methods: Sequence[Method], metric: Metric
) -> list[tuple[str, bool]]:
    """The value of each method as text, and whether it is the best of several as far as the text shows it."""
    numbers = [values.get(method.name, {}).get(metric.name) for method in methods]
    infinite = {math.inf: "∞", -math.inf: "−∞"}
    texts = ["–" if x is None else infinite.get(x) or f"{x:.{metric.digits}f}" for x in numbers]
    known = [x for x in numbers if x is not None]
    if len(known) < 2:
        return [(text, False) for text in texts]
    best = max(known) if metric.higher_is_better else min(known)
    return [(text, text == texts[numbers.index(best)]) for text in texts]


def fewer_scenes(values: Mapping[str, Mapping[str, float]], metric: Metric, evaluation: Evaluation) -> str:
    """What is to be said beside a mean over fewer scenes than others."""
    count = len(evaluation.rows[metric.name])
    return f" ({count} of them)" if values is evaluation.means and 0 < count < len(evaluation.shared) else ""


def _csv(evaluation: Evaluation) -> bytes:
    """Every value: a line per scene and method."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *(metric.name for metric in evaluation.metrics)])
    for one in evaluation.scenes:
        for method, values in one.values.items():
            numbers = [values.get(metric.name) for metric in evaluation.metrics]
            writer.writerow(
                [one.scene.name, method, one.scene.results[method], *("" if x is None else x for x in numbers)]
            )
    return text.getvalue().encode("utf-8", "surrogateescape")


def _print(evaluation: Evaluation, per_scene: bool) -> None:
    """The means, and the values of each scene where these are few or asked for."""
    several = len(evaluation.scenes) > 1
    if several:
        _print_table(f"mean over {counted(len(evaluation.shared), 'scene')}", evaluation.means, evaluation)
    if per_scene or len(evaluation.scenes) <= _FEW_SCENES:
        for one in evaluation.scenes:
            _print_table(one.scene.name, one.values, evaluation)


def _print_table(title: str, values: Mapping[str, Mapping[str, float]], evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    options: dict[str, Any] = {} if console.is_terminal else {"width": 10_000}
    several = len(evaluation.task.methods) > 1
    title += " (* best)" if several and not console.is_terminal else ""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(Text(printable(title)), no_wrap=True)
    for method in evaluation.task.methods:
        table.add_column(
            Text(printable(method.name)), justify="right", no_wrap=not console.is_terminal, overflow="fold"
        )
    for metric in evaluation.metrics:
        row = [Text(f"{metric.label} {metric.arrow}" + fewer_scenes(values, metric, evaluation))]
        for text, best in cells(values, evaluation.task.methods, metric):
            # Without a terminal nothing is bold.
            mark = ("*" if best else " ") if several and not console.is_terminal else ""
            row.append(Text(text + mark, style="bold" if best else ""))
        table.add_row(*row)
    console.print(table, **options)
    console.print()
