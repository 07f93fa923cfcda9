"""Memory that a run keeps."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from hdrops.train.memory import kept_memory, return_memory

torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(3 << 22)  # 48 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1])

with kept_memory():
    first = faults()
    kept = resident()
    second = faults()
    return_memory()
    child = faults()
print(first, second, child, faults(), kept - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc on Linux")
def test_what_is_freed_is_kept_and_returned():
    """Pages cleared in 20 rounds of 48 MB (12,288 pages): in the first ones alone while kept, else each time."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, second, child, after, returned = map(int, done.stdout.split())
    assert first < 40_000
    assert second < 100
    assert child > 200_000
    assert after > 200_000
    assert returned > 10_000
