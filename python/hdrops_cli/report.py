"""What the commands say: a summary on stdout; errors, warnings and progress on stderr."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.core import TyperGroup

_EXTRAS = ("typer", "rich", "OpenImageIO")
_OUT_OF_MEMORY = "the images do not fit into memory; give fewer or smaller ones"


def _fail(message: str, debug: bool) -> typer.Exit:
    if debug:
        traceback.print_exc()
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return typer.Exit(2)


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
        raise _fail(f"{package} is not installed; pip install 'hdrops[cli]'", debug) from error
    except BrokenPipeError:
        raise  # the reader of our output is gone; typer exits quietly
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise _fail(f"{where}{error.strerror or error}", debug) from error
    except ValueError as error:
        from hdrops.io import InputError

        if not isinstance(error, InputError):
            raise
        raise _fail(str(error), debug) from error
    except MemoryError as error:
        raise _fail(_OUT_OF_MEMORY, debug) from error
    except RuntimeError as error:
        if any(sign in str(error) for sign in ("allocate memory", "not enough memory", "bad_alloc")):
            raise _fail(_OUT_OF_MEMORY, debug) from error
        if "HDROPS_CPU" not in str(error):
            raise
        raise _fail(str(error), debug) from error
    except KeyboardInterrupt as error:
        if debug:
            traceback.print_exc()
        raise typer.Exit(130) from error


def tell(line: str) -> None:
    """Print one line on stderr."""
    print(" ".join(line.split()), file=sys.stderr)


def warn(message: str) -> None:
    tell(f"warning: {message}")


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr while something takes its time; nothing where stderr is not a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


@contextlib.contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, which each call of the result advances; nothing where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (console.is_terminal and total)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def say(summary: str) -> None:
    """Print the one line that sums up what a command did."""
    from rich.console import Console

    Console(soft_wrap=True, highlight=False).print(summary, markup=False, emoji=False)
