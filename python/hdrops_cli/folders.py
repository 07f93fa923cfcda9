"""``hdrops fuse --recursive``: every bracket in folders."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hdrops_cli.align import aligned
from hdrops_cli.bracket import images_below, inspected, parse_numbers, read_checked
from hdrops_cli.fuse import Exponents, fused, model_of
from hdrops_cli.report import OUT_OF_MEMORY, counting, printable, say, tell, warn

if TYPE_CHECKING:
    from hdrops.io import Frame, Group
    from hdrops.models import ExposureInterpolator, HyperPMB

_FLOAT_BITS = 32
_MOST_STOPS = 1000


@dataclass(frozen=True)
class _Job:
    group: Group
    folder: Path  # the one named on the command line
    result: Path  # where its picture goes, if it is a bracket
    kept: bool  # a file lies there already, and stays

    @property
    def files(self) -> str:
        count = len(self.group.frames)
        return _span(self.group.frames[0].path, self.group.frames) + (f" ({count} images)" if count > 1 else "")


def run(
    folders: Sequence[Path],
    out: Path,
    per_set: int | None,
    dry_run: bool,
    suffix: str,
    format: str | None,
    force: bool,
    method: str,
    imf_only: bool,
    weights: Path | None,
    align: str,
    times: str | None,
    ev: str | None,
    quality: int,
    **exponents: Unpack[Exponents],
) -> int:
    """Fuse them, or print what would be done; the exit code."""
    started = time.perf_counter()
    given_times = parse_numbers(times, "--times", "--times 1/60,1/15")
    given_ev = parse_numbers(ev, "--ev", "--ev -2,0,2")
    exposures = _exposures(per_set, given_times, given_ev)
    targets = _targets(folders, out, suffix)
    jobs, failures = _plan(targets, out, per_set, exposures, suffix, format, force)
    if dry_run:
        _print(jobs, out)
    model = None if dry_run else model_of(method, imf_only, weights)

    counts = dict.fromkeys(("fused", "kept", "skipped", "refused", "failed"), 0)
    notes = [f"failed: {failure}" for failure in failures]
    counts["failed"] += len(failures)
    brackets = sum(job.group.verdict == "bracket" for job in jobs)
    with counting("fusing", 0 if dry_run else brackets) as advance:
        for job in jobs:
            outcome: str = job.group.verdict
            remarks = [job.group.reason]
            if outcome == "bracket":
                if job.kept:
                    outcome, remarks = "kept", [f"{job.result} exists already; --force overwrites it"]
                else:
                    failure, told = (
                        ("", [])
                        if dry_run
                        else _fuse(job, method, model, align, given_times, given_ev, quality, exponents)
                    )
                    remarks = [failure] if failure else [*job.group.warnings, *told]
                    outcome = "failed" if failure else "fused"
                advance()
            counts[outcome] += 1
            if outcome == "fused":
                notes += [f"warning: {job.files}: {remark}" for remark in remarks]
            elif not dry_run:  # the table says it
                notes += [f"{outcome}: {job.files}: {remark}" for remark in remarks]
    for note in notes:
        tell(printable(note))
    done, undone = counts["fused"] + counts["kept"], counts["refused"] + counts["failed"]
    if not done and not undone:
        warn("no bracket was found; --dry-run shows why, --per-set states the number of images of each")
    words = {"fused": "to fuse" if dry_run else "fused"}
    summary = ", ".join(f"{n} {words.get(what, what)}" for what, n in counts.items() if n or what == "fused")
    if dry_run:
        tell(summary)
    else:
        say(f"{summary}, {time.perf_counter() - started:.2f} s → {out}")
    return 2 if not done else 1 if undone else 0


def _exposures(
    per_set: int | None, times: Sequence[float] | None, ev: Sequence[float] | None
) -> Sequence[float] | None:
    """The exposures of the images of each set that the options state, checked before anything is read."""
    from hdrops.io import InputError

    if times is not None and ev is not None:
        raise InputError("--times and --ev both state the exposures; give one of them")
    option, given = ("--times", times) if times is not None else ("--ev", ev)
    if given is None:
        return None
    if len(given) < 2:
        raise InputError(f"{option} states {len(given)} exposure; a bracket has at least 2")
    if per_set not in (None, len(given)):
        raise InputError(f"{option} states {len(given)} exposures, but --per-set {per_set}; make them agree")
    if times is not None and min(times) <= 0:
        raise InputError(f"--times must be positive, got {min(times):g}")
    if ev is not None and max(map(abs, ev)) >= _MOST_STOPS:
        raise InputError(f"--ev must be below {_MOST_STOPS}, got {max(ev, key=abs):g}")
    return times if ev is None else [2.0**value for value in ev]


def _targets(folders: Sequence[Path], out: Path, suffix: str) -> dict[Path, Path]:
    """Where the results of each folder go."""
    from hdrops.io import InputError

    if "/" in suffix or "\0" in suffix:
        raise InputError(f"--suffix has {suffix!r}, which no file name can hold; write for example --suffix _fused")
    if os.path.lexists(out) and not out.is_dir():
        raise InputError(f"{out} is not a folder; with --recursive, -o names the folder of the results")
    targets: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; with --recursive, give folders of images")
        target = out if len(folders) == 1 else out / folder.resolve().name
        if target in targets.values():
            raise InputError(f"two folders are named {target.name}; fuse them one by one")
        if target.resolve() == folder.resolve() or out.resolve() == folder.resolve():
            raise InputError(f"{out} would mix the results with the images; choose another folder for the results")
        for other in targets:
            if folder.resolve().is_relative_to(other.resolve()) or other.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{folder} and {other} contain one another; give the outer one")
        targets[folder] = target
    return targets


def _plan(
    targets: dict[Path, Path],
    out: Path,
    per_set: int | None,
    exposures: Sequence[float] | None,
    suffix: str,
    format: str | None,
    force: bool,
) -> tuple[list[_Job], list[str]]:
    """Read and group all images; also what could not be looked into."""
    from hdrops.io import InputError, group_frames

    failures: list[str] = []
    files = {folder: list(images_below(folder, [out], failures)) for folder in targets}
    count = sum(map(len, files.values()))
    if not count:
        raise InputError(failures[0] if failures else f"no images in {', '.join(map(str, targets))}; check the folder")
    frames = inspected(files)
    jobs = []
    taken: set[str] = set()
    for folder, target in targets.items():
        for group in group_frames(frames[folder], per_set=per_set, exposures=exposures):
            first = group.frames[0]
            place = target / first.path.parent.relative_to(folder)
            ending = format or ("exr" if first.bits == _FLOAT_BITS else "png")
            # IMG_1.jpg and IMG_1.tif may both begin a bracket.
            names = (first.path.stem, first.path.name.replace(".", "_"))
            results = [place / f"{name}{suffix}.{ending}" for name in names]
            result = next((x for x in results if str(x).casefold() not in taken), results[0])
            if group.verdict == "bracket":
                taken.add(str(result).casefold())
            jobs.append(_Job(group, folder, result, kept=not force and os.path.lexists(result)))
    return jobs, failures


def _fuse(
    job: _Job,
    method: str,
    model: ExposureInterpolator | HyperPMB | None,
    align: str,
    times: Sequence[float] | None,
    ev: Sequence[float] | None,
    quality: int,
    exponents: Exponents,
) -> tuple[str, list[str]]:
    """Fuse one bracket; why that failed, or nothing, and warnings."""
    from hdrops.io import InputError, write_image
    from hdrops.io.errors import out_of_memory

    try:
        job.result.parent.mkdir(parents=True, exist_ok=True)
        bracket = read_checked([frame.path for frame in job.group.frames], [job.result], times, ev)
        bracket, _, told = aligned(bracket, align)
        write_image(
            job.result,
            fused(bracket, method, model, **exponents),
            exposure=bracket.common_exposure,
            metadata=bracket.middle_metadata,
            quality=quality,
        )
    except InputError as error:
        return str(error), []
    except OSError as error:
        return f"{error.filename or job.result}: {error.strerror or error}", []
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return OUT_OF_MEMORY, []
    return "", told


def _print(jobs: Sequence[_Job], out: Path) -> None:
    """The grouping: a table in a terminal, elsewhere lines of tab-separated values with the files last."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    headings = ("verdict", "images", "EV", "decided by", "result or reason")
    rows = []
    for job in jobs:
        ev, outcome = "", job.group.reason
        if job.group.verdict == "bracket":
            ev = " ".join(map(_signed, job.group.stops))
            outcome = str(job.result.relative_to(out) if console.is_terminal else job.result)
            outcome += " (exists and is kept)" if job.kept else ""
        rows.append((job.group.verdict, str(len(job.group.frames)), ev, job.group.decided_by, printable(outcome)))
    if not console.is_terminal:
        print(*headings, "files", sep="\t")
        for job, row in zip(jobs, rows, strict=True):
            print(*row, *(printable(str(frame.path)) for frame in job.group.frames), sep="\t")
        sys.stdout.flush()
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("files", ratio=3, overflow="fold")
    for heading, ratio in zip(headings, (1, 1, 2, 2, 4), strict=True):
        table.add_column(heading, ratio=ratio, overflow="fold")
    one = len({job.folder for job in jobs}) == 1
    for job, row in zip(jobs, rows, strict=True):
        first = job.group.frames[0].path
        table.add_row(Text(_span(first.relative_to(job.folder) if one else first, job.group.frames)), *map(Text, row))
    console.print(table)


def _span(first: Path, frames: Sequence[Frame]) -> str:
    return printable(str(first) if len(frames) == 1 else f"{first} … {frames[-1].path.name}")


def _signed(stops: float | None) -> str:
    return "?" if stops is None else f"{stops:+.1f}" if abs(stops) >= 0.05 else "0"
