"""What memory is free, on machines and in containers of which only the files exist."""

import os

import pytest

from hdrops_cli.memory import available

MIB = 1 << 20
BUILT_IN = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def written(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def machine(root, groups, free=300 * MIB):
    info = f"MemTotal: {8 << 20} kB\nMemFree: 12 kB\nMemAvailable: {free >> 10} kB\nHugePages_Total: 0\n"
    return written(root, {"proc/meminfo": info, "proc/self/cgroup": groups})


def second(folder, most, used, inactive=0, active=0, high="max"):
    return {
        f"{folder}/memory.max": f"{most}\n",
        f"{folder}/memory.high": f"{high}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\ninactive_file {inactive}\nactive_file {active}\nslab 9\n",
    }


def first(folder, most, used, inactive=0, active=0):
    return {
        f"{folder}/memory.limit_in_bytes": f"{most}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"inactive_file 5\ntotal_inactive_file {inactive}\ntotal_active_file {active}\n",
    }


def test_what_the_machine_has(tmp_path):
    root = machine(tmp_path, "")
    assert available(root) == 300 * MIB
    (root / "proc/self/cgroup").unlink()
    assert available(root) == 300 * MIB


def test_a_group_without_limits(tmp_path):
    root = machine(tmp_path, "0::/user\n")
    written(root, second("sys/fs/cgroup/user", "max", 5 * MIB))
    assert available(root) == 300 * MIB


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ((100 * MIB, 70 * MIB), 30),
        ((100 * MIB, 70 * MIB, 20 * MIB, 15 * MIB), 65),  # files in the cache can go
        ((100 * MIB, 70 * MIB, 0, 0, 80 * MIB), 10),  # from where the kernel slows the group down
        (("max", 70 * MIB, 0, 0, 80 * MIB), 10),
        ((900 * MIB, 70 * MIB), 300),  # more than what is free on the machine
        ((100 * MIB, 101 * MIB), 0),
        ((100 * MIB, 10 * MIB, 11 * MIB), 100),  # numbers of different moments
    ],
)
def test_containers(tmp_path, limits, left):
    root = machine(tmp_path, "0::/\n")
    written(root, second("sys/fs/cgroup", *limits))
    assert available(root) == left * MIB


@pytest.mark.parametrize(("inner", "outer", "left"), [(90, 200, 80), (200, 40, 30), ("max", 60, 50)])
@pytest.mark.parametrize("where", ["sys/fs/cgroup", "sys/fs/cgroup/unified"])
def test_groups_above_count(tmp_path, where, inner, outer, left):
    root = machine(tmp_path, "0::/jobs/mine\n")
    limit = inner if inner == "max" else inner * MIB
    written(root, second(f"{where}/jobs/mine", limit, 10 * MIB))
    written(root, second(f"{where}/jobs", outer * MIB, 10 * MIB))
    written(root, second(f"{where}/others", MIB, MIB))
    assert available(root) == left * MIB


@pytest.mark.parametrize("seen", ["/docker/abc/job", "/docker/abc", "/abc/job", "/job", ""])
def test_the_first_version(tmp_path, seen):
    """A container sees the whole path that the host knows, or a part of it."""
    root = machine(tmp_path, "9:name=systemd:/\n4:cpu,memory:/docker/abc/job\n0::/\n")
    written(root, first(f"sys/fs/cgroup/memory{seen}", 100 * MIB, 70 * MIB, 20 * MIB, 15 * MIB))
    assert available(root) == 65 * MIB


def test_another_controller_with_such_a_name(tmp_path):
    root = machine(tmp_path, "4:memories:/\n5:mem:/\n")
    written(root, first("sys/fs/cgroup/memory", MIB, 0))
    assert available(root) == 300 * MIB


@pytest.mark.parametrize(("missing", "left"), [("memory.stat", 30), ("memory.current", 100), ("memory.max", 300)])
def test_files_that_cannot_be_read(tmp_path, missing, left):
    root = machine(tmp_path, "0::/\n")
    written(root, second("sys/fs/cgroup", 100 * MIB, 70 * MIB))
    (root / "sys/fs/cgroup" / missing).unlink()
    assert available(root) == left * MIB


@pytest.mark.parametrize("name", [b"a\xff", b"a\x1cb", "a\u2028b".encode(), b"a:b", b"a b"])
def test_names_of_groups(tmp_path, name):
    root = machine(tmp_path, b"0::/" + name + b"\n")
    written(root, second(f"sys/fs/cgroup/{os.fsdecode(name)}", 100 * MIB, 70 * MIB))
    assert available(root) == 30 * MIB


def test_lines_that_say_nothing(tmp_path):
    assert available(machine(tmp_path, "\nnothing\n1:2\n")) == 300 * MIB


def test_a_system_that_does_not_tell(tmp_path):
    assert available(tmp_path) == pytest.approx(BUILT_IN / 2, abs=1024)
    root = written(tmp_path, {"proc/meminfo": "MemTotal: 5 kB\n"})
    assert available(root) == pytest.approx(BUILT_IN / 2, abs=1024)
    written(root, {"proc/self/cgroup": "0::/\n"} | second("sys/fs/cgroup", 20 * MIB, MIB))
    assert available(root) == 19 * MIB


def test_here():
    assert 0 <= available() <= BUILT_IN
