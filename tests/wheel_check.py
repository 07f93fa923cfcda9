"""The wheel as its users get it.

``python tests/wheel_check.py dist/*.whl --torch torch==2.13.0`` prints its content, audits its binaries, installs it
into a new environment without a compiler and runs ``python tests/wheel_check.py --smoke`` there: every operator against
its definition, and the command line.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile

import binaries

COMPILERS = ("cc", "gcc", "c++", "g++", "clang", "clang++", "nvcc")


def version_text(number: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in number)


def audit(wheel: pathlib.Path) -> None:
    """Print what the wheel holds; fail where a binary needs more than its tag allows, or names its build machine."""
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")
    tagged = re.search(r"manylinux_(\d+)_(\d+)_", wheel.name)
    problems = []
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        python = [entry for entry in archive.infolist() if entry.filename.endswith((".py", ".pyi"))]
        print(f"  {len(python)} Python files: {sum(entry.compress_size for entry in python) / 1e6:.2f} MB compressed")
        for entry in archive.infolist():
            if not entry.filename.endswith(".so"):
                continue
            library = pathlib.Path(archive.extract(entry, folder))
            versions = binaries.newest_versions(library)
            needs = ", ".join(f"{name} {version_text(number)}" for name, number in sorted(versions.items()))
            print(f"  {entry.filename}: {entry.file_size / 1e6:.2f} MB, {entry.compress_size / 1e6:.2f} MB compressed")
            print(f"    needs {needs}")
            dynamic = binaries.dynamic_section(library)
            found = {
                "symbols of torch's unstable ABI": binaries.unstable(binaries.undefined(library)),
                "paths of the build machine": binaries.machine_paths(library),
                "libraries needed by their place": [name for name in dynamic["NEEDED"] if "/" in name],
                "run paths": sorted({*dynamic.get("RPATH", []), *dynamic.get("RUNPATH", [])} - {"$ORIGIN"}),
            }
            if tagged and versions["GLIBC"] > (allowed := (int(tagged[1]), int(tagged[2]))):
                found["a newer GLIBC than its tag"] = [f"{version_text(versions['GLIBC'])} > {version_text(allowed)}"]
            problems += [f"{entry.filename} has {what}: {', '.join(names)}" for what, names in found.items() if names]
    if problems:
        raise SystemExit("\n".join(problems))


def install_and_smoke(wheel: pathlib.Path, torch: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder) / "environment"
        venv.create(home, with_pip=True)
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CC", "CXX", "CUDACXX")}
        environment["PATH"] = str(home / "bin")
        assert not any(shutil.which(name, path=environment["PATH"]) for name in COMPILERS)
        python = str(home / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
        for arguments in (
            [*install, torch, f"hdrops[cli] @ {wheel.resolve().as_uri()}"],
            [python, str(pathlib.Path(__file__).resolve()), "--smoke"],
        ):
            subprocess.run(arguments, env=environment, cwd=folder, check=True)


def smoke() -> None:
    """Every operator against its definition in float64, and the command line on a rendered bracket."""
    import torch
    from cases import CASES
    from tolerance import assert_close, assert_codes

    import hdrops

    for case in CASES:
        for dtype in {torch.float32, torch.uint8} & {*case.dtypes}:
            inputs = case.inputs((2, 3, 15, 21), dtype)
            result, exact = case.call(inputs), case.definition(inputs)
            if result.dtype == torch.uint8:
                assert_codes(result, exact * 255, 1 / 64, case.name)
            else:
                assert_close(result, exact, case.k, case.scale, case.name)
    with tempfile.TemporaryDirectory() as folder:
        picture = pathlib.Path(folder) / "fused.png"
        for arguments in (
            ["info"],
            ["sample", f"{folder}/bracket", "--size", "240x160", "--exposures", "3"],
            ["fuse", f"{folder}/bracket", "-o", str(picture)],
            ["fuse", f"{folder}/bracket", "-o", str(picture), "--method", "interpolate"],
            ["fuse", f"{folder}/bracket", "-o", str(picture), "--method", "hyperp-mb", "--align", "none"],
        ):
            subprocess.run([str(pathlib.Path(sys.executable).with_name("hdrops")), *arguments], check=True)
        assert picture.stat().st_size > 1000
    print(f"hdrops {hdrops.__version__} works in {sys.prefix}: {len(CASES)} cases of operators, the command line")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", nargs="?", type=pathlib.Path)
    parser.add_argument("--torch", default="torch", help="what pip installs as torch (default: the newest)")
    parser.add_argument("--audit", action="store_true", help="only print and audit the content of the wheel")
    parser.add_argument("--smoke", action="store_true", help="only run the smoke test, in this environment")
    options = parser.parse_args()
    if options.smoke:
        smoke()
        return
    if options.wheel is None:
        parser.error("give a wheel, or --smoke")
    audit(options.wheel)
    if not options.audit:
        install_and_smoke(options.wheel, options.torch)


if __name__ == "__main__":
    main()
