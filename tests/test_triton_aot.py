"""Every Triton kernel compiles ahead of time, whether or not the machine has a GPU."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_every_kernel_compiles_ahead_of_time(pytestconfig: pytest.Config) -> None:
    script = pathlib.Path(__file__).with_name("aot_triton.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(script), *(["--full"] if pytestconfig.getoption("--full") else [])]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    summary = re.search(r"compiled (\d+) variants of (\d+) kernels", run.stdout)
    assert summary is not None, run.stdout[-2000:]
    lines = [line for line in run.stdout.splitlines() if line.startswith("sm_")]
    assert len(lines) == int(summary[1])
    # Each kernel for each of the two targets at least.
    kernels = {line.split()[1] for line in lines}
    assert len(kernels) == int(summary[2]) >= 14
    for kernel in kernels:
        assert {line.split()[0] for line in lines if line.split()[1] == kernel} == {"sm_80", "sm_90"}
