"""How much memory there is to work with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available(root: Path = Path("/")) -> int:
    """Bytes of memory that can be had without swapping, within what the control groups of this process, of either
    version, allow; where the system tells neither, half of what is built in.

    Args:
        root: of the file system.
    """
    found = list(_left(root))
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")))
    except (OSError, StopIteration):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return max(0, min(found))


def _left(root: Path) -> Iterator[int]:
    """Bytes up to the limit of each control group that has one. Files that are only cached do not count as used."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, limit, used, cached = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        group = base / path.lstrip("/")
        # A container may see its own group as the root, under the path that the host knows.
        for folder in (group, *group.parents):
            try:
                most = int((folder / limit).read_text(encoding="ascii"))  # "max" where there is none
                now = int((folder / used).read_text(encoding="ascii"))
                counts = (folder / "memory.stat").read_text(encoding="ascii").split()
                yield most - now + int(dict(zip(counts[::2], counts[1::2], strict=True)).get(cached, 0))
            except (OSError, ValueError):
                pass
            if folder == base:
                break
