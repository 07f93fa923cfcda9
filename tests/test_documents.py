"""What the documents for contributors name is there, and the code they show fits the code they are about."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import re
import shutil
import subprocess

import pytest
import torch

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/add_an_operator.md"]
GUIDE = (ROOT / "docs" / "add_an_operator.md").read_text()
# A block that is preceded by nothing but a file's name is the whole file.
WHOLE_FILES = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE))
every_document = pytest.mark.parametrize("name", DOCUMENTS)


def words_in_code(name: str) -> list[str]:
    """What stands in backticks, and the words of code blocks."""
    text = (ROOT / name).read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text) + [word for block in blocks for word in block.split()]


@every_document
def test_files_exist(name: str) -> None:
    """Of a file of the example, or of X, its neighbour of the operator imf."""
    rooms = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    paths = [w for w in words_in_code(name) if re.fullmatch(rf"(?:{rooms})(?:/[\w.*-]+)+", w)]
    paths = [p for p in paths if not p.startswith(("build/", "dist/")) and p != "bench/RESULTS.md"]
    assert paths
    missing = [p for p in paths if not (ROOT / re.sub(r"mu_law|\bX\b|(?<=_)X(?=\.)", "imf", p)).exists()]
    assert not missing


@every_document
def test_targets_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    calls = re.findall(r"(?:`|^)make ([a-z][a-z -]*)", text, re.MULTILINE)
    named = {target for call in calls for target in call.split()}
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named
    assert named <= {*rules}


def test_example_is_complete() -> None:
    rooms = {"cpp/ops", "cpp/simd", "cuda/ops", "kernels", "bench", "tests/ops"}
    rooms |= {"python/hdrops/ops", "python/hdrops/reference"}
    assert rooms <= {str(pathlib.PurePath(path).parent) for path in WHOLE_FILES}


def test_example_imports_what_is_there() -> None:
    for path, text in WHOLE_FILES.items():
        if not path.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ImportFrom) or not node.module or not node.module.startswith("hdrops"):
                continue
            if node.module.startswith("hdrops.kernels") and importlib.util.find_spec("triton") is None:
                continue
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert alias.name == "mu_law" or hasattr(module, alias.name), f"{path}: {node.module}.{alias.name}"


def test_results_page_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``bench/report.py`` makes of the files beside it; plots, which need matplotlib, are left out."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    spec = importlib.util.spec_from_file_location("report", ROOT / "bench" / "report.py")
    assert spec is not None
    assert spec.loader is not None
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    monkeypatch.setattr(report, "plot", lambda *_: None)
    results = ROOT / "bench" / "results"
    assert report.results_page(report.load(results), results) == (ROOT / "bench" / "RESULTS.md").read_text()


@pytest.mark.parametrize("path", [path for path in WHOLE_FILES if path.endswith(".cpp")])
def test_example_compiles(path: str, tmp_path: pathlib.Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    for name, text in WHOLE_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [compiler, "-std=c++20", "-fsyntax-only", "-Werror", "-Wall", "-Wextra"]
    command += ["-Wconversion", "-Wno-sign-conversion"]
    command += ["-DHDROPS_LEVEL=baseline", "-DTORCH_TARGET_VERSION=0x020a000000000000ULL"]
    command += [f"-I{tmp_path / 'cpp/include'}", f"-I{ROOT / 'cpp/include'}"]
    command += ["-isystem", str(pathlib.Path(torch.__file__).parent / "include"), str(tmp_path / path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
