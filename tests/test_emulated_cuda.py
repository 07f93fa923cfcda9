"""The CUDA kernels on the CPU: compiled as C++ for an emulated device, held to the tests of the operators.

Their values are proven on every machine with that; their speed, and races between threads, only a GPU shows.
``make emulate`` runs all tests of the operators so.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
EMULATOR = ROOT / "tests" / "emulator"
# Some tests of each file that reach every kernel; those of matrix products in every type and reading of a mask.
CHOSEN = [
    ("tests/ops/test_contract.py", "test_values and float32 and contiguous and not many-blocks"),
    ("tests/ops/test_contract.py", "test_gradients and float16 and contiguous and not many-blocks"),
    ("tests/ops/test_matching_volume.py", "test_other_types"),
    ("tests/ops/test_matching_volume.py", "test_gradients_of_other_types and (plain and 0.004 or cap and 0.03)"),
    ("tests/ops/test_matching_volume.py", "test_gradients_of_the_volume"),
    ("tests/ops/test_matching_volume.py", "test_gradients_of_the_convolution and paper and not order"),
    ("tests/ops/test_matching_volume.py", "test_convolution_is_that_of_the_volume and uneven"),
    ("tests/ops/test_hourglass.py", "test_is_torchs_own or test_other_types"),
]


def compiled(source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """An object file of a CUDA or C++ file. Its operators take the place of those of the CPU."""
    torch = pathlib.Path(importlib.util.find_spec("torch").submodule_search_locations[0])
    text = f'#include "{source}"\n'
    if source.suffix == ".cu":
        text = f"#include <torch/csrc/stable/library.h>\n#define CUDA CPU\n{text}"
    out = folder / f"{source.stem}.o"
    includes = [f"-I{folder}" for folder in (EMULATOR, ROOT / "cuda" / "include", ROOT / "cpp" / "include")]
    command = [
        os.environ.get("CXX", "c++"),
        "-std=c++20",
        "-O1",
        "-fPIC",
        "-w",
        "-ffp-contract=off",
        "-xc++",
        "-c",
        "-",
    ]
    command += ["-DTORCH_TARGET_VERSION=0x020a000000000000ULL", "-DUSE_CUDA", *includes, "-isystem", f"{torch}/include"]
    subprocess.run([*command, "-o", str(out)], input=text, text=True, check=True)
    return out


def build(folder: pathlib.Path) -> pathlib.Path:
    """The library of all CUDA kernels for the emulator."""
    sources = [EMULATOR / "emulator.cpp", *sorted((ROOT / "cuda" / "ops").glob("*.cu"))]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: compiled(source, folder), sources))
    torch = pathlib.Path(importlib.util.find_spec("torch").submodule_search_locations[0]) / "lib"
    library = folder / "libemulated.so"
    libraries = [f"-L{torch}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"]
    command = [os.environ.get("CXX", "c++"), "-shared", "-o", str(library), *map(str, objects), *libraries]
    subprocess.run(command, check=True)
    return library


def run(library: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Tests in a process in which the library's kernels serve the CPU."""
    path = os.pathsep.join(filter(None, [str(EMULATOR), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "HDROPS_EMULATED": str(library), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", "-q", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=7200)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("there is no C++ compiler")
    return build(tmp_path_factory.mktemp("emulated"))


@pytest.mark.skipif(sys.platform != "linux", reason="of fibres of glibc")
@pytest.mark.parametrize(("file", "chosen"), CHOSEN)
def test_operators_on_an_emulated_device(file: str, chosen: str, library: pathlib.Path) -> None:
    done = run(library, file, "-k", f"cpp and ({chosen})")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]  # 5 where nothing was chosen
    assert "Overriding a previously registered kernel" in done.stderr + done.stdout


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    finished = run(build(target), *sys.argv[2:])
    print(finished.stdout, finished.stderr, sep="\n")
    sys.exit(finished.returncode)
