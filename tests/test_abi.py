"""The built libraries: what they import, what they name, what they export."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest
from binaries import dynamic_section, machine_paths, missing_tools, newest_versions, output, undefined, unstable

import hdrops

pytestmark = pytest.mark.skipif(bool(missing_tools()), reason="binutils (nm, readelf) are not installed")
FOLDER = pathlib.Path(hdrops._C.__file__).parent
LIBRARIES = ["libhdrops.so", pathlib.Path(hdrops._C.__file__).name, "libhdrops_cuda.so"]
every_library = pytest.mark.parametrize("name", LIBRARIES)


def library(name: str) -> pathlib.Path:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} was not built")
    return path


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
def test_no_file_of_the_build_machine(name: str) -> None:
    """File names in error messages begin at the repository, wherever that was when it was built."""
    assert not machine_paths(library(name))


def test_machine_paths_are_recognised(tmp_path: pathlib.Path) -> None:
    binary = tmp_path / "library"
    binary.write_bytes(
        b"\0cpp/ops/imf.cpp\0torch/csrc/stable/ops.h\0/srv/ci/hdrops/cpp/ops/imf.cpp\0/home/me/x\0/dev/null\0"
    )
    assert machine_paths(binary) == ["/home/me/x", "/srv/ci/hdrops/cpp/ops/imf.cpp"]


def test_versions_are_read() -> None:
    versions = newest_versions(library("libhdrops.so"))
    assert (2,) < versions["GLIBC"] < (3,)
    assert versions["GLIBCXX"] >= (3, 4)


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
