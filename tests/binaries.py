"""What built libraries import, name and need, as binutils print it."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

TOOLS = ("nm", "readelf")


def missing_tools() -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def output(tool: str, *arguments: str) -> str:
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


def newest_versions(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """The newest symbol version that a library needs of GLIBC, GLIBCXX, CXXABI and GCC."""
    found: dict[str, tuple[int, ...]] = {}
    for name, version in re.findall(r"Name: (GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)", output("readelf", "-V", str(path))):
        number = tuple(int(part) for part in version.split("."))
        found[name] = max(found.get(name, ()), number)
    return found


def machine_paths(path: pathlib.Path) -> list[str]:
    """Absolute paths of source files and homes in a binary: they tell whose machine built it."""
    text = path.read_bytes()
    found = re.findall(
        rb"(?<![\w.+@/-])/[\w.+@-]+(?:/[\w.+@-]+)*\.(?:cpp|cc|cuh?|hp*|inl)\b|(?<![\w.+@-])/(?:home|root|Users)/[\w./+@-]+",
        text,
    )
    return sorted({name.decode() for name in found})
