"""The installed command in a process of its own: start-up time, exit codes, missing extras."""

import os
import resource
import subprocess
import sys

import pytest

ENTRY = "from hdrops_cli.main import main; main()"


def _run(*arguments, prelude="", **options):
    command = [sys.executable, "-c", prelude + ENTRY, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("fuse", "--help"), ("evaluate", "--help"), ("train", "--help")]
)
def test_help_is_instant(arguments):
    # Processor time: the wall time of an idle machine, but not that of a busy one.
    best = float("inf")
    for _ in range(5):
        started = _seconds_of_children()
        done = _run(*arguments)
        best = min(best, _seconds_of_children() - started)
        assert done.returncode == 0
        assert "Usage: " in done.stdout
    assert best < 0.3


@pytest.mark.parametrize("module", ["torch", "numpy", "hdrops", "OpenImageIO", "matplotlib"])
def test_help_imports_nothing_heavy(module):
    prelude = f"import sys; sys.modules[{module!r}] = None; "
    for command in ("fuse", "merge", "develop", "evaluate", "train"):
        assert _run(command, "--help", prelude=prelude).returncode == 0


@pytest.mark.parametrize("module", ["typer", "rich", "OpenImageIO"])
def test_missing_extra_names_the_fix(module, tmp_path, frames8):
    prelude = f"import sys; sys.modules[{module!r}] = None; "
    done = _run("fuse", *frames8, "-o", tmp_path / "out.png", prelude=prelude)
    assert done.returncode == 2
    assert done.stderr == f"error: {module} is not installed; pip install 'hdrops[cli]'\n"
    assert not (tmp_path / "out.png").exists()


def test_bad_input_exits_with_2_and_one_line(tmp_path):
    done = _run("fuse", tmp_path / "missing.png", "-o", tmp_path / "out.png")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_no_progress_and_no_colour_codes_in_a_pipe(tmp_path, frames8):
    environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    done = _run("fuse", *frames8, "-o", tmp_path / "out.png", env=environment)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
