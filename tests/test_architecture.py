"""The order of the house: one operator has one name in every room, and imports go downward only."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys

import pytest
from cases import CASES

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "hdrops"
OPERATORS = sorted(path.stem for path in (PACKAGE / "ops").glob("[a-z]*.py"))
ROOMS = [
    "cpp/ops/{}.cpp",
    "cuda/ops/{}.cu",
    "kernels/{}.py",
    "python/hdrops/ops/{}.py",
    "python/hdrops/reference/{}.py",
    "tests/ops/test_{}.py",
    "bench/bench_{}.py",
]
# From the top down; a layer may import those behind it.
LAYERS = [
    {"train", "data", "io", "align", "convert"},
    {"models"},
    {"nn", "losses", "metrics"},
    {"ops"},
    {"kernels"},
    {"reference"},
]
HEAVY = ["matplotlib", "cv2", "OpenImageIO", "typer", "pydantic", "triton", "rawpy", "pillow_heif", "tensorboard"]


def imported_by(path: pathlib.Path) -> set[str]:
    """Full names of what a file imports, at whatever depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer_of(part: str) -> int | None:
    return next((i for i, layer in enumerate(LAYERS) if part in layer), None)


def test_operators_are_found() -> None:
    assert {"imf", "exposure_fusion"} <= set(OPERATORS)


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_same_name_in_every_room(operator: str, room: str) -> None:
    place = room.format(operator)
    assert (ROOT / place).is_file(), f"{place} is missing"


@pytest.mark.parametrize("room", [*ROOMS, "cpp/simd/{}.cpp"])
def test_no_room_has_a_stranger(room: str) -> None:
    """A file in a room that belongs to no operator."""
    folder, name = room.rsplit("/", 1)
    prefix, suffix = name.split("{}")
    own = {
        "test_contract",
        "test_cpu_levels",
        "test_large",
        "test_merge_radiance",
        "test_response",
        "bench_data",
        "bench_lrl",
        "bench_hyperp_mb",
    }
    found = {path.stem for path in (ROOT / folder).glob(f"{prefix}[a-z]*{suffix}")} - own
    names = {stem.removeprefix(prefix) for stem in found}
    if folder in ("cpp/ops", "cuda/ops"):
        names = {name.removesuffix("_backward") for name in names}
    assert names <= set(OPERATORS)


def registered(operator: str) -> dict[str, str]:
    """The schemas that a file of ``ops`` registers, each with the module that it names for their implementations."""
    nodes = ast.walk(ast.parse((PACKAGE / "ops" / f"{operator}.py").read_text()))
    calls = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "_providers.register"]
    return {ast.literal_eval(c.args[0]): ast.literal_eval(c.args[1]) for c in calls}


def test_every_schema_is_registered_by_its_operator() -> None:
    names = [(name, operator) for operator in OPERATORS for name, module in registered(operator).items()]
    assert all(registered(operator)[name] == operator for name, operator in names)
    declared = re.findall(r'm\.def\(\s*"(\w+)\(', (ROOT / "cpp" / "schema.cpp").read_text())
    assert sorted(declared) == sorted(name for name, _ in names)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_cases(operator: str) -> None:
    """The contract runs over every schema but those of ``out=`` and backward, which it calls with their operator."""
    called = {case.operator for case in CASES}
    assert {name for name in registered(operator) if not name.endswith(("_out", "_backward"))} <= called


def test_every_operator_is_built() -> None:
    listed = re.search(r"set\(HDROPS_OPS ([^)]+)\)", (ROOT / "CMakeLists.txt").read_text())
    assert listed is not None
    assert sorted(listed[1].split()) == OPERATORS


def test_import_is_light() -> None:
    code = f"import sys, hdrops; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # torch itself may load some of them: what it does is not ours.
    alone = code.replace("hdrops", "torch")
    torch_alone = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True)
    assert done.stdout == torch_alone.stdout


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: pathlib.Path) -> None:
    names = imported_by(path)
    assert not any(name.split(".")[0] == "hdrops_cli" for name in names), "the package imports the command line"
    own = layer_of(path.relative_to(PACKAGE).parts[0])
    if own is None:
        return
    for name in names:
        parts = name.split(".")
        if parts[0] != "hdrops" or len(parts) < 2:
            continue
        other = layer_of(parts[1])
        assert other is None or other >= own, f"{path.name} imports {name}, which lies above it"


def test_layers_are_recognised(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from hdrops.models import a\n    import hdrops.io.b\n")
    assert imported_by(file) == {"hdrops.models.a", "hdrops.io.b"}
    assert layer_of("reference") > layer_of("ops") > layer_of("models")
