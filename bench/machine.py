"""What measured numbers depend on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

import torch

FOLDER = pathlib.Path(__file__).parent
PACKAGES = (
    "hdrops",
    "torch",
    "numpy",
    "opencv-python-headless",
    "scikit-image",
    "kornia",
    "pytorch-msssim",
    "cupy-cuda12x",
    "triton",
)


def _printed(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu() -> str:
    found = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    return " ".join(re.sub(r"\((R|TM)\)", "", found[1]).split()) if found else platform.machine()


def machine(device: str, threads: int) -> dict[str, Any]:
    """What the numbers depend on; nothing that tells whose machine it is."""
    from hdrops import _C

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _printed("git", "rev-parse", "--short", "HEAD")
    changed = bool(_printed("git", "status", "--porcelain", "--", "../cpp", "../cuda", "../kernels", "../python"))
    gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if gpu else _cpu(),
        "kind": device,
        "driver": _printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0],
        "cuda": (gpu and torch.version.cuda) or "",
        "host_cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "cpu_level": _C.cpu_level(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": (commit and commit + (" with local changes" if changed else "")) or "unknown",
        "date": datetime.date.today().isoformat(),
    }
