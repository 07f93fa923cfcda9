"""The C library's memory while a run computes on the CPU.

Every step allocates the same arrays and frees them. By default glibc returns large ones to the system, which must then
clear each page again for the next step: of a step of HyperP_MB with a batch of 8 that was half of the time.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of malloc.h
_MOST = 2**31 - 1
_blocks = 0
# Where glibc's own adaptation ends once large arrays have been freed, and its default number of mapped arrays.
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 65536}


def _library() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Keep what is freed in the process while the block runs, and return it at its end; glibc only, else nothing.

    It is of the whole process, and lasts beyond the block in one way: glibc's thresholds, which cannot be read, are
    left at where its own adaptation ends. Blocks within blocks change nothing.
    """
    global _blocks
    _blocks += 1
    library = _library()
    if library is not None:
        library.mallopt(_TRIM_THRESHOLD, _MOST)
        library.mallopt(_MMAP_MAX, 0)
    try:
        yield
    finally:
        _blocks -= 1
        if not _blocks:
            return_memory()


def return_memory() -> None:
    """Return what is freed to the system, as usual: what a process needs that was forked within :func:`kept_memory`."""
    library = _library()
    if library is not None:
        for name, value in _USUAL.items():
            library.mallopt(name, value)
        library.malloc_trim(0)
