"""Memory that a run keeps."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from hdrops.train.memory import kept_memory, return_memory

torch.set_num_threads(1)

def faults(megabytes, rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1])

with kept_memory():
    first = faults(48, 20)
    second = faults(48, 20)
    kept = resident()
    return_memory()
    returned = kept - resident()
    child = faults(256, 4)
print(first, second, returned, child, faults(256, 4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc on Linux")
def test_what_is_freed_is_kept_and_returned():
    """Pages cleared in 20 rounds of 48 MB (12,288 pages): in the first ones alone while kept.

    Once it has been returned, an array larger than every gap of the heap (4 rounds of 65,536 pages) is mapped and
    cleared each time, as usual; a gap below something small stays the heap's own, though its pages are returned.
    """
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, second, returned, child, after = map(int, done.stdout.split())
    assert first < 40_000
    assert second < 100
    assert returned > 10_000
    assert child > 200_000
    assert after > 200_000
