"""How much memory there is to work with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available(root: Path = Path("/")) -> int:
    """Bytes of memory that can be had without swapping, within what the control groups of this process, of either
    version, allow. Where the system does not tell the former, half of what is built in takes its place.

    Args:
        root: of the file system.
    """
    counts = _counts(root / "proc/meminfo")
    free = counts.get("MemAvailable:", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 >> 10) << 10
    return max(0, min([free, *_left(root)]))


def _left(root: Path) -> Iterator[int]:
    """Bytes up to the limit of each control group that has one. Files that are only cached do not count as used."""
    try:
        lines = os.fsdecode((root / "proc/self/cgroup").read_bytes()).split("\n")
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "", "")[:3]
        if path and not controllers:
            limits, used = ["memory.max", "memory.high"], "memory.current"
            cached = ("inactive_file", "active_file")
            bases = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "memory" in controllers.split(","):
            limits, used = ["memory.limit_in_bytes"], "memory.usage_in_bytes"
            cached = ("total_inactive_file", "total_active_file")
            bases = [root / "sys/fs/cgroup/memory"]
        else:
            continue
        for folder in {folder for base in bases for folder in _groups(base, path)}:
            most = [amount for name in limits if (amount := _amount(folder / name)) is not None]
            if most:
                counts = _counts(folder / "memory.stat")
                taken = (_amount(folder / used) or 0) - sum(counts.get(name, 0) for name in cached)
                yield min(most) - max(0, taken)


def _groups(base: Path, path: str) -> Iterator[Path]:
    """The folders of a group and of those above it. A container sees a part of the path that the host knows."""
    names = [name for name in path.split("/") if name]
    for first in range(len(names) + 1):
        for last in range(first, len(names) + 1):
            yield base.joinpath(*names[first:last])


def _amount(path: Path) -> int | None:
    """The number in a file; None without the file, and for "max", which means that there is no limit."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _counts(path: Path) -> dict[str, int]:
    """The names and numbers at the beginnings of the lines of a file; none without the file."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return {}
    words = [line.split() for line in lines]
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}
