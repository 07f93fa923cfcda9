"""The logs of a run: tables in CSV that a resumed run continues without a seam, and TensorBoard."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import IO, Any

from torch import Tensor

from hdrops.io import InputError
from hdrops.io.writing import write_file


class Table:
    """A CSV file with a row for some steps, the first column ``step``.

    A value that has no column yet gets one, which is empty in the rows above.
    """

    def __init__(self, path: pathlib.Path, step: int) -> None:
        """Continue after a step: rows beyond it, and a row that was not written whole, are cut off.

        Raises:
            InputError: a row that is not of such a table.
        """
        self.path = path
        self.columns: list[str] = []
        kept = b""
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            rows = [line for number, line in enumerate(whole[1:], 2) if self._step(number, line) <= step]
            if rows:
                self.columns = whole[0].decode().rstrip("\n").split(",")
                kept = b"".join([whole[0], *rows])
        self._open(kept)

    def _step(self, number: int, line: bytes) -> int:
        try:
            return int(line.partition(b",")[0])
        except ValueError as error:
            raise InputError(
                f"{self.path}, line {number} does not begin with a step; mend or remove the file"
            ) from error

    def _open(self, content: bytes) -> None:
        write_file(self.path, content)
        self._stream: IO[str] = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row; a column that has no value is left empty."""
        added = [name for name in values if name not in self.columns]
        if added:
            self._stream.close()
            rows = self.path.read_bytes().splitlines()[1:]
            self.columns = [*(self.columns or ["step"]), *added]
            lines = [",".join(self.columns).encode(), *(row + b"," * len(added) for row in rows)]
            self._open(b"".join(line + b"\n" for line in lines))
        cells = [str(step), *(_cell(values.get(name)) for name in self.columns[1:])]
        self._stream.write(",".join(cells) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Have everything on the disk."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


class Board:
    """TensorBoard's log, or nothing where that is not wanted or not installed."""

    def __init__(self, folder: pathlib.Path, step: int, wanted: bool, warn: Callable[[str], None]) -> None:
        self._writer: Any = None
        if not wanted:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            warn("tensorboard is not installed: only CSV logs are written; pip install 'hdrops[train]'")
            return
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def picture(self, step: int, picture: Tensor) -> None:
        if self._writer is not None:
            self._writer.add_image("validation", picture, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
