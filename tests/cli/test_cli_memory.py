"""What memory is free, on machines and in containers of which only the files exist."""

import os
from pathlib import Path

import pytest

from hdrops_cli.memory import available

MIB = 1 << 20


def written(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def machine(root, free, groups=None):
    info = f"MemTotal: {8 << 20} kB\nMemFree: 12 kB\nMemAvailable: {free >> 10} kB\n"
    return written(root, {"proc/meminfo": info} | ({"proc/self/cgroup": groups} if groups else {}))


def second(most, used, cached=0):
    return {
        "memory.max": f"{most}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 5\ninactive_file {cached}\nactive_file 7\n",
    }


def group(folder, files):
    return {f"{folder}/{name}": text for name, text in files.items()}


def test_what_the_machine_has(tmp_path):
    assert available(machine(tmp_path, 300 * MIB)) == 300 * MIB


def test_a_group_without_limits(tmp_path):
    root = machine(tmp_path, 300 * MIB, "0::/user\n")
    written(root, group("sys/fs/cgroup/user", second("max", 5 * MIB)))
    assert available(root) == 300 * MIB


def test_containers(tmp_path):
    root = machine(tmp_path, 300 * MIB, "0::/\n")
    written(root, group("sys/fs/cgroup", second(100 * MIB, 70 * MIB, 20 * MIB)))
    assert available(root) == 50 * MIB
    # A limit that is more than what is free on the machine
    written(root, group("sys/fs/cgroup", second(900 * MIB, 70 * MIB)))
    assert available(root) == 300 * MIB
    # All is used, and a little more
    written(root, group("sys/fs/cgroup", second(100 * MIB, 101 * MIB)))
    assert available(root) == 0


@pytest.mark.parametrize(("inner", "outer", "left"), [(90, 200, 80), (200, 40, 30), ("max", 60, 50)])
def test_groups_above_count(tmp_path, inner, outer, left):
    root = machine(tmp_path, 300 * MIB, "0::/jobs/mine\n")
    limit = inner if inner == "max" else inner * MIB
    written(root, group("sys/fs/cgroup/jobs/mine", second(limit, 10 * MIB)))
    written(root, group("sys/fs/cgroup/jobs", second(outer * MIB, 10 * MIB)))
    assert available(root) == left * MIB


@pytest.mark.parametrize("seen", ["docker/abc", ""])
def test_the_first_version(tmp_path, seen):
    root = machine(tmp_path, 300 * MIB, "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n")
    files = {
        "memory.limit_in_bytes": f"{100 * MIB}\n",
        "memory.usage_in_bytes": f"{70 * MIB}\n",
        "memory.stat": f"inactive_file 5\ntotal_inactive_file {20 * MIB}\n",
    }
    written(root, group(f"sys/fs/cgroup/memory/{seen}", files))
    assert available(root) == 50 * MIB


def test_a_system_that_tells_nothing(tmp_path):
    assert available(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    assert available(written(tmp_path, {"proc/meminfo": "MemTotal: 5 kB\n"})) > 0


def test_here():
    assert 0 < available() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available(Path("/")) > 16 * MIB
