"""What this machine can do at most, measured before anything is timed: the ceilings of the results.

On the CPU a small C++ program (``limits.cpp``, compiled with ``-march=native``) measures the bandwidth of
reads and copies, with plain and with streaming stores, over several working sets, and the peak of fused
multiply-adds. Without a compiler, and on a GPU, PyTorch's copy and its float32 matrix product stand in.
Bandwidths count the bytes that the program names, read plus written, in GB/s; each figure is the best of
its repetitions.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from typing import Any

import numpy as np
import torch

MEGABYTES = (4, 16, 64, 256, 768)
QUICK_MEGABYTES = (4, 16)


def measure(device: str, threads: int, quick: bool = False) -> dict[str, Any]:
    """The ceilings of ``device`` at ``threads`` threads, as a JSON object."""
    megabytes = QUICK_MEGABYTES if quick else MEGABYTES
    seconds = 0.02 if quick else 0.25
    if device == "cuda":
        return _with_torch("cuda", megabytes, seconds)
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return _with_torch("cpu", megabytes, seconds)
    source = pathlib.Path(__file__).with_name("limits.cpp")
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder, "limits")
        flags = ["-O3", "-march=native", "-std=c++17", "-fopenmp", "-ffp-contract=fast"]
        subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)
        command = [str(program), str(threads), str(seconds), *map(str, megabytes)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"method": "C++ program", "threads": threads, **json.loads(printed)}


def _with_torch(device: str, megabytes: tuple[int, ...], seconds: float) -> dict[str, Any]:
    def best(work: Any) -> float:
        fastest, stop = float("inf"), time.perf_counter() + seconds
        rounds = 0
        while rounds < 5 or time.perf_counter() < stop:
            rounds += 1
            if device == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                work()
                end.record()
                end.synchronize()
                elapsed = start.elapsed_time(end) / 1e3
            else:
                begin = time.perf_counter()
                work()
                elapsed = time.perf_counter() - begin
            if rounds > 1:
                fastest = min(fastest, elapsed)
        return fastest

    copy, read = [], []
    for size in megabytes:
        n = int(size * 1e6) // 2
        a = torch.ones(n, dtype=torch.uint8, device=device)
        b = torch.zeros_like(a)
        copy.append(round(2 * n / best(lambda a=a, b=b: b.copy_(a)) / 1e9, 1))
        whole = torch.ones(2 * n // 4, dtype=torch.float32, device=device)
        read.append(round(whole.numel() * 4 / best(whole.amax) / 1e9, 1))
    size = 4096 if device == "cuda" else 1024
    x = torch.ones(size, size, device=device)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    peak = 2 * size**3 / best(lambda: x @ x) / 1e9
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return {
        "method": "PyTorch copy and float32 matrix product",
        "threads": torch.get_num_threads(),
        "megabytes": list(megabytes),
        "read": read,
        "copy": copy,
        "fma_gflops": round(peak),
    }


def bandwidth(limits: dict[str, Any], moved: float, reads_only: bool = False) -> float:
    """The best measured GB/s of any access pattern over a working set of ``moved`` bytes."""
    names = ["read"] if reads_only else [n for n in limits if n.startswith("copy")]
    sizes = np.log(limits["megabytes"])
    return max(float(np.interp(np.log(moved / 1e6), sizes, limits[name])) for name in names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print this machine's measured ceilings as JSON.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(json.dumps(measure(options.device, options.threads, options.quick)))
