"""What the commands say: a summary on stdout; errors, warnings and progress on stderr."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

_EXTRAS = {"typer": "cli", "rich": "cli", "OpenImageIO": "cli", "pydantic": "train"}
OUT_OF_MEMORY = "the images do not fit into memory; give fewer or smaller ones"


def failure(message: str, debug: bool, code: int = 2) -> typer.Exit:
    """Say what went wrong, in one line, after the traceback if it is wanted; the exit to raise."""
    if debug:
        traceback.print_exc()
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return typer.Exit(code)


class OneLineErrors(TyperGroup):
    """Commands whose usage errors, like all others, are one line on stderr and exit code 2."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except typer.TyperException as error:
            context = getattr(error, "ctx", None)
            command = self.name if context is None else context.command_path
            message = " ".join(error.format_message().split()).rstrip(".")
            print(f"error: {message[:1].lower()}{message[1:]}; {command} --help shows the usage", file=sys.stderr)
            sys.exit(2)
        except typer.Abort:
            sys.exit(130)
        sys.exit(code)


@contextlib.contextmanager
def errors_reported(debug: bool) -> Iterator[None]:
    """Turn bad input into one line on stderr and exit code 2; other exceptions are bugs and pass.

    With ``debug`` the traceback comes first.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        raise failure(f"{package} is not installed; pip install 'hdrops[{_EXTRAS[package]}]'", debug) from error
    except BrokenPipeError:
        raise  # the reader of our output is gone; typer exits quietly
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise failure(f"{where}{error.strerror or error}", debug) from error
    except ValueError as error:
        from hdrops.io import InputError

        if not isinstance(error, InputError):
            raise
        raise failure(str(error), debug) from error
    except (MemoryError, RuntimeError) as error:
        from hdrops.io.errors import out_of_memory

        if out_of_memory(error):
            raise failure(OUT_OF_MEMORY, debug) from error
        if "HDROPS_CPU" not in str(error):
            raise
        raise failure(str(error), debug) from error
    except KeyboardInterrupt as error:
        if debug:
            traceback.print_exc()
        raise typer.Exit(130) from error


def printable(text: str) -> str:
    """The text, with ``?`` for what would change the terminal's state or break the line."""
    return "".join(c if c.isprintable() else "?" for c in text)


def counted(number: int, what: str) -> str:
    """Such as "1 scene" and "2 scenes"; of a noun with an attribute, "2 folders of images"."""
    noun, space, attribute = what.partition(" ")
    return f"{number} {noun}{'' if number == 1 else 's'}{space}{attribute}"


def tell(line: str) -> None:
    """Print one line on stderr."""
    print(" ".join(line.split()), file=sys.stderr)


def warn(message: str) -> None:
    tell(f"warning: {message}")


@contextlib.contextmanager
def progress_console() -> Iterator[Console]:
    """A console on stderr's own terminal: image libraries are kept off file descriptor 2 while they read."""
    from rich.console import Console

    from hdrops.io._stderr import duplicate

    try:
        terminal = duplicate()
    except OSError:
        yield Console(quiet=True)
        return
    with open(terminal, "w", encoding="utf-8", errors="replace") as stream:
        yield Console(file=stream)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr while something takes its time; nothing where stderr is not a terminal."""
    with progress_console() as console:
        if not console.is_terminal:
            yield
            return
        with console.status(what):
            yield


@contextlib.contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, which each call of the result advances; nothing where stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        progress_console() as console,
        Progress(*columns, console=console, transient=True, disable=not (console.is_terminal and total)) as bar,
    ):
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def say(summary: str) -> None:
    """Print the one line that sums up what a command did."""
    from rich.console import Console

    Console(soft_wrap=True, highlight=False).print(summary, markup=False, emoji=False)
