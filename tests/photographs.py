"""Where the real photographs are that some tests take: HDROPS_TEST_DATA, or ``shared/data`` beside the repository."""

import json
import os
import pathlib

import pytest

DATA = pathlib.Path(os.environ.get("HDROPS_TEST_DATA", pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"))


def photographs() -> pathlib.Path:
    """The folder of photographs; skips the test where it is absent."""
    if not (DATA / "brackets.json").exists():
        pytest.skip(
            f"the real photographs are absent: no brackets.json in {DATA.name}; HDROPS_TEST_DATA names the folder"
        )
    return DATA


def real_brackets() -> dict[str, dict]:
    """What is known of every real bracket, by its folder within the data."""
    return {entry["dir"]: entry for entry in json.loads((photographs() / "brackets.json").read_text())}
