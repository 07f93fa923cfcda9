"""``hdrops train``."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdrops_cli.report import counted, failure, progress_console, say, tell, warn

if TYPE_CHECKING:
    from hdrops.train import Outcome, Progress, System

# By name: the module that holds it as SYSTEM, and what it learns.
_SYSTEMS = {
    "exposure-interpolation": (
        "hdrops.train.exposure_interpolation",
        "the exposure between two, from intensity mapping functions and a residual network",
    ),
    "emvnet": ("hdrops.train.emvnet", "the picture that exposures of a moving scene should give"),
    "hyperp-mb": ("hdrops.train.hyperp_mb", "the fusion of an under- and an overexposed image, by masked targets"),
}
_SECONDS_BETWEEN_LINES = 10


def run(
    name: str | None,
    preset: str | None,
    config: Path | None,
    settings: Sequence[str],
    data: Sequence[Path],
    out: Path | None,
    show_config: bool,
    fresh: bool,
    force: bool,
    accept_changes: bool,
    debug: bool,
) -> int:
    """The exit code: 1 if the training failed, 128 + the signal that ended it, otherwise 0."""
    from hdrops.io import InputError

    if name is None:
        for known, (_, learns) in _SYSTEMS.items():
            say(f"{known}  {learns} (presets: {', '.join(_system(known).presets)})")
        return 0
    if name not in _SYSTEMS:
        close = difflib.get_close_matches(name, _SYSTEMS, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(f"there is no system {name!r} to train{hint}; systems: {', '.join(_SYSTEMS)}")
    system = _system(name)

    from hdrops.train import TrainingError, dump_config, load_config, train

    folders = {"data.folders": [str(folder) for folder in data]} if data else {}
    settled = load_config(system.config, system.presets, preset=preset, file=config, settings=settings, values=folders)
    if show_config:
        print(dump_config(settled), end="")
        return 0
    if out is None:
        raise InputError("there is no folder for the run; give one by --out")
    rank = int(os.environ.get("RANK", 0))
    started = time.perf_counter()
    try:
        with _shown() if rank == 0 else contextlib.nullcontext() as shown:
            outcome = train(
                system,
                settled,
                out,
                fresh=fresh,
                force=force,
                accept_changes=accept_changes,
                progress=shown,
                warn=warn,
            )
    except InputError as error:
        raise InputError(f"process {rank}: {error}" if rank else str(error)) from error
    except TrainingError as error:
        raise failure(f"process {rank}: {error}" if rank else str(error), debug, 1) from error
    if rank == 0:
        _conclude(outcome, settled.steps, time.perf_counter() - started)
    return 0 if outcome.signal is None else 128 + outcome.signal


def _system(name: str) -> System[Any]:
    system: System[Any] = importlib.import_module(_SYSTEMS[name][0]).SYSTEM
    return system


def _conclude(outcome: Outcome, steps: int, seconds: float) -> None:
    if outcome.model is None:
        assert outcome.signal is not None
        tell(
            f"{outcome.signal.name}: stopped after step {outcome.step} of {steps}, which {outcome.checkpoint} holds; "
            "the same command resumes"
        )
        return
    done = outcome.step - outcome.began
    what = f"{counted(done, 'step')} in {_duration(seconds)}" if done else f"all {steps} steps were done already"
    measured = "".join(f", {name} {value:.4g}" for name, value in outcome.validation.items())
    best = f"; the best checkpoint is {outcome.best.name}" if outcome.best not in (None, outcome.checkpoint) else ""
    say(f"{what}{measured}{best} → {outcome.model}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal, otherwise a line every few seconds; both on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    told = 0.0

    def tell_sometimes(progress: Progress) -> None:
        nonlocal told
        now = time.monotonic()
        if progress.step == progress.steps or (progress.logged and now - told >= _SECONDS_BETWEEN_LINES):
            tell(f"step {progress.step}/{progress.steps}, {_state(progress)}")
            told = now

    with progress_console() as console:
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            task = bars.add_task("", total=None)

            def show(progress: Progress) -> None:
                if progress.began and progress.step == progress.began + 1:
                    console.print(f"resumed after step {progress.began}", markup=False, highlight=False)
                if console.is_terminal:
                    bars.update(task, completed=progress.step, total=progress.steps, description=_state(progress))
                else:
                    tell_sometimes(progress)

            yield show


def _state(progress: Progress) -> str:
    validated = "".join(f", {name} {value:.4g}" for name, value in progress.validation.items())
    return (
        f"loss {progress.loss:.4g}{validated}, {progress.images_per_second:.0f} images/s, "
        f"{_duration(progress.seconds_left)} left"
    )
