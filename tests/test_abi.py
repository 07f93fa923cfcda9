"""The built libraries: what they import, what they name, what they export."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import hdrops

FOLDER = pathlib.Path(hdrops._C.__file__).parent
LIBRARIES = ["libhdrops.so", pathlib.Path(hdrops._C.__file__).name, "libhdrops_cuda.so"]
every_library = pytest.mark.parametrize("name", LIBRARIES)


def library(name: str) -> pathlib.Path:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} was not built")
    return path


def output(tool: str, *arguments: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} (binutils) is not installed")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def undefined(path: pathlib.Path) -> list[str]:
    """Demangled names of the symbols that a library imports."""
    lines = output("nm", "-D", "--undefined-only", "-C", str(path)).splitlines()
    return [line.split(maxsplit=1)[1] for line in lines if line.strip()]


def unstable(symbols: list[str]) -> list[str]:
    """Those of the symbols that belong to torch's C++ library, whose ABI changes with every release."""
    return [symbol for symbol in symbols if re.search(r"\b(at|c10)::", symbol)]


def dynamic_section(path: pathlib.Path) -> dict[str, list[str]]:
    """Entries of the dynamic section: NEEDED, RUNPATH, RPATH, SONAME."""
    entries: dict[str, list[str]] = {}
    for tag, value in re.findall(r"\((\w+)\).*\[(.*)\]", output("readelf", "-d", str(path))):
        entries.setdefault(tag, []).append(value)
    return entries


def test_unstable_symbols_are_recognised() -> None:
    assert unstable(["at::Tensor::to()", "void c10::detail::f(char)", "foo(c10::ArrayRef<long>)"])
    assert not unstable(["aoti_torch_empty_strided", "std::cat::x", "torch_call_dispatcher", "hdrops::format::y"])


@every_library
def test_only_the_stable_abi_of_torch(name: str) -> None:
    symbols = undefined(library(name))
    assert len(symbols) > 10, "nm listed hardly any import"
    assert not unstable(symbols)


def test_torch_is_called_through_its_c_interface() -> None:
    symbols = undefined(library("libhdrops.so"))
    assert any(symbol.startswith(("aoti_torch_", "torch_")) for symbol in symbols)


@pytest.mark.parametrize("name", ["libhdrops.so", "libhdrops_cuda.so"])
def test_torch_is_needed_by_name(name: str) -> None:
    needed = dynamic_section(library(name))["NEEDED"]
    assert "libtorch.so" in needed
    assert not any("/" in entry for entry in needed), "a library is needed by its place on the build machine"
    assert not any("python" in entry for entry in needed), "it could not be loaded without Python"


def test_module_needs_the_library_beside_it() -> None:
    entries = dynamic_section(library(LIBRARIES[1]))
    assert "libhdrops.so" in entries["NEEDED"]
    assert entries.get("RUNPATH", []) + entries.get("RPATH", []) == ["$ORIGIN"]


@pytest.mark.parametrize("name", ["libhdrops.so", "libhdrops_cuda.so"])
def test_no_path_of_the_build_machine(name: str) -> None:
    entries = dynamic_section(library(name))
    assert "RUNPATH" not in entries
    assert "RPATH" not in entries


@every_library
def test_messages_carry_repository_paths(name: str) -> None:
    """File names in error messages begin at the repository, wherever that was when it was built."""
    text = library(name).read_bytes()
    root = str(pathlib.Path(__file__).parents[1]).encode()
    assert root + b"/cpp" not in text
    assert root + b"/cuda" not in text


def test_loops_of_a_level_stay_inside() -> None:
    """A function compiled for AVX-512 must not serve, by the linker's choice, the whole process."""
    defined = output("nm", "-D", "--defined-only", "-C", str(library("libhdrops.so"))).splitlines()
    assert defined, "nm listed no export"
    leaked = [line for line in defined if re.search(r"\b(baseline|avx2|avx512)::", line)]
    assert not leaked
    # Inline functions of any library are weak too: the object files of the levels may define none, since the linker
    # would keep one copy for all. Their names are local, so only the whole symbol table shows them.
    everything = output("nm", "-C", str(library("libhdrops.so"))).splitlines()
    weak = [line for line in everything if re.match(r"[0-9a-f]+ [WVu] ", line)]
    math = [line for line in weak if "hdrops::math::" in line or re.search(r"hdrops::(baseline|avx2|avx512)::", line)]
    assert not math


def test_import_does_not_initialise_cuda():
    # A process that forks, or chooses its device after the import, must still be able to.
    program = (
        "import torch\n"
        "def initialise(*_): raise AssertionError('CUDA was initialised')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch._C._cuda_init = initialise\n"
        "torch.version.cuda = '13.0'\n"
        "import hdrops\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
