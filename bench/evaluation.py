"""What scripts that judge pictures of several methods share: ``hdrops evaluate`` on folders, and what it found."""

from __future__ import annotations

import csv
import json
import pathlib
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence


def brackets(data: pathlib.Path, kinds: Collection[str]) -> dict[str, list[pathlib.Path]]:
    """The files, dark to bright, of the brackets of such kinds in ``brackets.json`` of a data folder, by scene."""
    listed = json.loads((data / "brackets.json").read_text())
    return {
        bracket["dir"].removeprefix("brackets/"): [data / bracket["dir"] / name for name in bracket["files"]]
        for bracket in listed
        if bracket["kind"] in kinds
    }


def link(files: Iterable[pathlib.Path], folder: pathlib.Path) -> None:
    """Links to the files in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        place = folder / file.name
        place.unlink(missing_ok=True)
        place.symlink_to(file.resolve())


def evaluated(
    pictures: pathlib.Path,
    methods: Sequence[str],
    sources: pathlib.Path,
    out: pathlib.Path,
    metrics: Sequence[str] = (),
) -> pathlib.Path:
    """The CSV file with the values of the pictures ``pictures/METHOD/SCENE.png``, beside a report ``out``; of some
    metrics, or of those of the field."""
    command = [sys.executable, "-m", "hdrops_cli.main", "evaluate", *(str(pictures / name) for name in methods)]
    command += ["--metrics", ",".join(metrics)] if metrics else []
    subprocess.run([*command, "--sources", str(sources), "-o", str(out)], check=True)
    return out.with_suffix(".csv")


def values(report: pathlib.Path) -> dict[tuple[str, str], dict[str, str]]:
    """By method and scene: what stands in a CSV file, without the places of the pictures."""
    with report.open(newline="") as stream:
        rows = {(row["method"], row["scene"]): row for row in csv.DictReader(stream)}
    for row in rows.values():
        row.pop("picture", None)
    return rows
