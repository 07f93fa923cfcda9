import json
import pathlib

import pytest

pytest.importorskip("OpenImageIO", reason="OpenImageIO is not installed")

_DATA = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def data():
    """The folder of real photographs."""
    if not (_DATA / "brackets.json").exists():
        pytest.skip("the folder of real photographs, ../shared/data, is absent")
    return _DATA


@pytest.fixture(scope="session")
def brackets(data):
    """The list of real brackets, by folder."""
    return {entry["dir"]: entry for entry in json.loads((data / "brackets.json").read_text())}
