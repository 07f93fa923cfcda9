"""Keeping image libraries off the terminal: some print their errors themselves, besides reporting them."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

# libpng's lines, and LibRaw's: "FILE: data corrupted at 1234".
_CHATTER = re.compile(rb"libpng |.*: (data corrupted at -?\d+|unexpected end of file)$", re.IGNORECASE | re.DOTALL)
_lock = threading.Lock()
_readers = 0
_terminal = -1
_held_back: IO[bytes] | None = None


@contextlib.contextmanager
def without_library_messages() -> Iterator[None]:
    """Hold file descriptor 2 back while the block runs, then pass on all of it except libpng's and LibRaw's lines.

    Blocks may run in several threads at once: the first one in redirects, the last one out restores.
    """
    global _readers, _terminal, _held_back
    with _lock:
        _readers += 1
        if _readers == 1:
            with contextlib.suppress(OSError):  # without a descriptor 2 there is nothing to hold back
                _terminal = os.dup(2)
                _held_back = tempfile.TemporaryFile()  # noqa: SIM115  (closed by the last block)
                os.dup2(_held_back.fileno(), 2)
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0 and _terminal >= 0:
                os.dup2(_terminal, 2)
                os.close(_terminal)
                _terminal = -1
                if _held_back is not None:
                    _held_back.seek(0)
                    lines = [line for line in _held_back if not _CHATTER.match(line)]
                    _held_back.close()
                    _held_back = None
                    if lines:
                        os.write(2, b"".join(lines))


def duplicate() -> int:
    """A new descriptor of what descriptor 2 is outside of the blocks; :class:`OSError` without one."""
    with _lock:
        return os.dup(2 if _terminal < 0 else _terminal)


def _restore_in_child() -> None:
    """A process forked while others read gets its own standard error back, and a free lock."""
    global _readers, _terminal, _held_back
    if _terminal >= 0:
        os.dup2(_terminal, 2)
        os.close(_terminal)
    _readers, _terminal, _held_back = 0, -1, None
    _lock.release()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_restore_in_child)
