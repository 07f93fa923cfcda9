"""Options of ``pytest bench``, the session that measures and records, and the summary."""

from __future__ import annotations

import json
import os
import pathlib
import re
from typing import Any

import limits
import pictures
import pytest
import timing
import torch
from machine import machine

FOLDER = pathlib.Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hdrops")
    group.addoption("--sizes", default=None, help="of 1080p,4k,12mp,sweep,tiny; default: the first four")
    group.addoption("--quick", action="store_true", help="tiny pictures, few calls, nothing recorded: a smoke test")
    group.addoption("--threads", type=int, default=None, help="threads of every implementation; default: torch's")
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    group.addoption("--budget", type=float, default=None, help="seconds of calls per implementation and case")
    group.addoption("--limit", type=float, default=8.0, help="skip a peer whose calls take longer (seconds)")
    group.addoption("--results", default=None, help="folder of the JSON files; default: bench/results")


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True  # the summary below shows hdrops beside its peers
    torch.set_num_threads(config.getoption("threads") or torch.get_num_threads())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    config = metafunc.config
    sizes = (config.getoption("sizes") or ("tiny" if config.getoption("quick") else "1080p,4k,12mp,sweep")).split(",")
    unknown = set(sizes) - {*pictures.SIZES, "sweep"}
    if unknown:
        raise pytest.UsageError(f"--sizes takes {', '.join(pictures.SIZES)} and sweep, got {', '.join(unknown)}")
    make = getattr(metafunc.module, metafunc.function.__name__.replace("bench_", "") + "_cases")
    cases = make(sizes, config.getoption("device"))
    metafunc.parametrize("case", cases, ids=[case.id for case in cases])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=timing.clock(config.getoption("device"))))


class Session:
    """Ceilings first, then one row per case; written per benchmark file as each row is done."""

    def __init__(self, config: pytest.Config) -> None:
        self.device = config.getoption("device")
        self.quick = config.getoption("quick")
        self.threads = torch.get_num_threads()
        budget = config.getoption("budget") or (0.05 if self.quick else 0.3)
        self.measurement = timing.Measurement(self.device, budget, config.getoption("limit"), self.threads)
        self.limits = limits.measure(self.device, self.threads, self.quick)
        self.header = {"machine": machine(self.device, self.threads), "limits": self.limits}
        results = config.getoption("results")
        self.folder = pathlib.Path(results) if results else None if self.quick else FOLDER / "results"
        self.rows: list[dict[str, Any]] = []

    def measure(self, case: timing.Case, benchmark: Any) -> None:
        torch.compiler.reset()
        work = case.build()
        benchmark.group = case.op
        timed = self.measurement.run(case, work, benchmark)
        if timed is None:
            return
        row: dict[str, Any] = {
            name: getattr(case, name)
            for name in (
                "op",
                "id",
                "label",
                "size",
                "height",
                "width",
                "variant",
                "picture",
                "sweep",
                "headline",
            )
        }
        row["tolerance"] = work.tolerance
        row["moved_mb"] = timing.significant(work.moved / 1e6)
        row["gflop"] = timing.significant(work.flops / 1e9)
        row |= timed
        self._compare(row, work)
        self.rows.append(row)
        benchmark.extra_info.update(peers=row["implementations"][1:])
        self._write(case.op, row)

    def _compare(self, row: dict[str, Any], work: timing.Work) -> None:
        """Rates of every implementation, its share of the ceiling, and hdrops against the best peer."""
        memory_floor = work.moved / limits.bandwidth(self.limits, work.moved, work.reads_only) / 1e6
        compute_floor = work.flops / self.limits["fma_gflops"] / 1e6
        row["ceiling"] = "arithmetic" if compute_floor > memory_floor else "memory"
        row["floor_ms"] = timing.significant(max(memory_floor, compute_floor))
        for entry in row["implementations"]:
            entry["gb_per_s"] = timing.significant(work.moved / entry["median_ms"] / 1e6, 3)
            entry["gflop_per_s"] = timing.significant(work.flops / entry["median_ms"] / 1e6, 3)
            entry["percent_of_ceiling"] = timing.significant(100 * row["floor_ms"] / entry["median_ms"], 3)
        ours, *peers = row["implementations"]
        best = min(peers, key=lambda e: e["median_ms"], default=None)
        row["best_peer"] = best and best["name"]
        row["speedup"] = best and timing.significant(best["median_ms"] / ours["median_ms"], 3)

    def _write(self, op: str, row: dict[str, Any]) -> None:
        """Into the operator's file; rows of an earlier run stay if machine, versions and commit agree."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{op} {self.header['machine']['device']} {self.threads} threads"
        path = self.folder / (re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") + ".json")
        rows: list[dict[str, Any]] = []
        if path.exists():
            earlier = json.loads(path.read_text())
            if earlier["machine"] == self.header["machine"]:
                rows = [r for r in earlier["rows"] if r["id"] != row["id"]]
        document = {**self.header, "rows": [*rows, row]}
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        os.replace(draft, path)


_sessions: list[Session] = []


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Session:
    session = Session(request.config)
    _sessions.append(session)
    return session


@pytest.fixture
def measure(session: Session, benchmark: Any) -> Any:
    return lambda case: session.measure(case, benchmark)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    line = terminalreporter.write_line
    for session in _sessions:
        line("")
        line(f"{session.header['machine']['device']}, {session.threads} threads; ceilings:")
        line(json.dumps(session.limits))
        for row in session.rows:
            line("")
            line(f"{row['op']} {row['id']} ({row['tolerance']}); floor {row['floor_ms']} ms, {row['ceiling']}")
            for e in row["implementations"]:
                memory = "" if e["peak_memory_mb"] is None else f"{e['peak_memory_mb']:9.1f} MB"
                times = f"{e['median_ms']:>10.3f} ms [{e['p20_ms']:.3f}..{e['p80_ms']:.3f}]"
                rates = f"{e['gb_per_s']:>8.2f} GB/s{e['percent_of_ceiling']:>7.1f} %"
                line(f"  {e['name']:<28}{times:<36}{rates}{memory}  {e['config']}")
            for name, reason in row["skipped"].items():
                line(f"  {name:<28} skipped: {reason}")
            if row["speedup"] is not None:
                verdict = "faster" if row["speedup"] >= 1 else "SLOWER"
                line(f"  {verdict}: {row['speedup']} times the speed of {row['best_peer']}")
