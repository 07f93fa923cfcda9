"""One case: check all implementations, pick each peer's best configuration, time all interleaved.

A *candidate* is one way to compute the result; a *peer* offers several (thread counts, layouts,
compositions), of which the fastest in a short trial represents it. Then all implementations take turns: in
each of a few rounds every one runs a block of calls, led in by an untimed call that warms its caches and
threads. hdrops is timed by pytest-benchmark, the peers in the set-up of its rounds with the same clock. A
call's result is freed within the timed call.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import math
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

L2_FLUSH_BYTES = 256 * 2**20
LEAD_IN_BELOW_S = 0.3
TRIAL_S = 0.1


@dataclasses.dataclass
class Candidate:
    """One way to compute a result.

    ``call`` is timed; ``result`` turns what it returns into tensors like those of hdrops; ``prepare`` runs
    untimed before every block (thread counts); ``memory`` estimates the bytes it needs beyond the inputs;
    ``compiles`` says that the first call compiles.
    """

    config: str
    call: Callable[[], Any]
    result: Callable[[Any], Any] = lambda x: x
    prepare: Callable[[], Any] = lambda: None
    memory: float = 0.0
    compiles: bool = False


@dataclasses.dataclass
class Peer:
    """An implementation that a user would pick instead; without candidates it is a reported skip.

    Where candidates are dear to try (they compile, or take seconds), the winner of the first case of a
    ``family`` represents the peer in the later ones.
    """

    name: str
    candidates: list[Candidate]
    skipped: str = ""
    threads: int | None = None
    family: str = ""


@dataclasses.dataclass
class Work:
    """A built case: implementations, the least it must move and compute, and how results are compared."""

    ours: Candidate
    peers: list[Peer]
    moved: float
    check: Callable[[Any, Any, str], None]
    tolerance: str
    flops: float = 0.0
    reads_only: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """What is timed; ``build`` makes the pictures and the implementations when its turn comes.

    ``limit_s`` takes the place of the session's limit where calls of peers are long by their nature.
    """

    op: str
    label: str
    size: str
    height: int
    width: int
    variant: str
    build: Callable[[], Work] = dataclasses.field(compare=False)
    picture: str = "synthetic"
    sweep: bool = False
    headline: bool = False
    limit_s: float | None = None

    @property
    def id(self) -> str:
        words = (self.label, self.picture, "sweep" if self.sweep else "", self.size, self.variant)
        return "-".join(re.sub(r"[^a-z0-9.]+", "_", w.lower()) for w in words if w and w != "synthetic")


class Instant:
    """A point on the GPU's time line; the difference of two is in seconds."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, start: Instant) -> float:
        self.event.synchronize()
        return start.event.elapsed_time(self.event) / 1e3


def clock(device: str) -> Callable[[], Any]:
    return Instant if device == "cuda" else time.perf_counter


class PeakMemory:
    """Peak bytes above those at entry: resident memory on the CPU (Linux), allocated memory on a GPU."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.bytes: int | None = None

    @staticmethod
    def _resident(key: str) -> int:
        status = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(rf"{key}:\s+(\d+)", status)[1]) * 1024

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
            return self
        try:
            ctypes.CDLL(None).malloc_trim(0)
            pathlib.Path("/proc/self/clear_refs").write_text("5")
            self.start = self._resident("VmRSS")
        except (OSError, AttributeError):
            self.start = -1
        return self

    def __exit__(self, *exception: object) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - self.start
        elif self.start >= 0:
            self.bytes = max(0, self._resident("VmHWM") - self.start)


def available_memory(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    found = re.search(r"MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024.0 if found else math.inf


@dataclasses.dataclass
class _Entry:
    """An implementation under way."""

    name: str
    candidate: Candidate
    estimate: float
    memory: int | None
    block: int = 1
    rounds: int = 1
    samples: list[float] = dataclasses.field(default_factory=list)
    threads: int | None = None


class Measurement:
    """Runs cases on one device with one budget of time per implementation."""

    def __init__(self, device: str, budget_s: float, limit_s: float, threads: int) -> None:
        self.device = device
        self.budget_s = budget_s
        self.limit_s = limit_s
        self.threads = threads
        self.clock = clock(device)
        self.winners: dict[tuple[str, str], str] = {}
        self.paces: dict[tuple[str, str], float] = {}
        self.flush = torch.empty(L2_FLUSH_BYTES, dtype=torch.uint8, device="cuda") if device == "cuda" else None

    def _before_call(self) -> None:
        if self.flush is not None:
            self.flush.zero_()

    def _timed(self, call: Callable[[], Any]) -> float:
        self._before_call()
        start = self.clock()
        call()
        return self.clock() - start

    def _trial(self, name: str, candidate: Candidate, first_s: float, memory: int | None) -> _Entry:
        """The time of a call: the least of a few; the first call's own where that was long."""
        times = [] if candidate.compiles else [first_s]
        stop = time.perf_counter() + TRIAL_S
        while not times or (len(times) < 5 and time.perf_counter() < stop):
            times.append(self._timed(candidate.call))
        return _Entry(name, candidate, min(times), memory)

    def _first(self, candidate: Candidate) -> tuple[Any, float, int | None]:
        """Result, seconds and peak memory of the first call; of the second where the first compiles."""
        candidate.prepare()
        if candidate.compiles:
            candidate.call()
        with PeakMemory(self.device) as peak:
            begin = time.perf_counter()
            returned = candidate.call()
            if self.device == "cuda":
                torch.cuda.synchronize()
            elapsed = time.perf_counter() - begin
        return candidate.result(returned), elapsed, peak.bytes

    def _choose(self, peer: Peer, case: Case, work: Work, expected: Any) -> tuple[_Entry | None, str]:
        """The fastest candidate of a peer, every one checked; or None and the reason."""
        if not peer.candidates:
            return None, peer.skipped
        pixels = case.height * case.width
        foreseen = pixels * self.paces.get((case.label, peer.name), 0.0)
        limit_s = self.limit_s if case.limit_s is None else case.limit_s
        if foreseen > 1.3 * limit_s:
            return None, f"a call would take about {foreseen:.0f} s"
        entries: list[_Entry] = []
        reasons: list[str] = []
        winner = self.winners.get((peer.family, peer.name)) if peer.family else None
        for candidate in peer.candidates:
            if winner is not None and candidate.config != winner:
                continue
            if candidate.memory > 0.6 * available_memory(self.device):
                reasons.append(f"{candidate.config}: needs about {candidate.memory / 1e9:.0f} GB")
                continue
            try:
                result, elapsed, memory = self._first(candidate)
            except Unavailable as error:
                reasons.append(str(error))
                continue
            work.check(expected, result, f"{peer.name} ({candidate.config}) against hdrops")
            del result
            entries.append(self._trial(peer.name, candidate, elapsed, memory))
            if entries[-1].estimate > limit_s:
                slow = entries.pop().estimate
                self.paces.setdefault((case.label, peer.name), slow / pixels)
                reasons.append(f"a call takes {slow:.0f} s ({candidate.config})")
                break
        if not entries:
            return None, "; ".join(dict.fromkeys(reasons))
        best = min(entries, key=lambda e: e.estimate)
        best.threads = peer.threads
        self.paces[case.label, peer.name] = best.estimate / pixels
        if peer.family:
            self.winners.setdefault((peer.family, peer.name), best.candidate.config)
        return best, ""

    def _plan(self, entry: _Entry, rounds: int) -> None:
        calls = max(1, min(150, int(self.budget_s / max(entry.estimate, 1e-7))))
        entry.rounds = min(rounds, max(3, calls))
        entry.block = max(1, calls // entry.rounds)

    def _block(self, entry: _Entry) -> None:
        entry.candidate.prepare()
        if entry.estimate < LEAD_IN_BELOW_S:
            entry.candidate.call()
        for _ in range(entry.block):
            entry.samples.append(self._timed(entry.candidate.call))

    def run(self, case: Case, work: Work, benchmark: Any) -> dict[str, Any] | None:
        """Check, choose and time; None where pytest-benchmark is told to time nothing."""
        expected, elapsed, memory = self._first(work.ours)
        ours = self._trial("hdrops", work.ours, elapsed, memory)
        ours.threads = self.threads
        peers: list[_Entry] = []
        skipped: dict[str, str] = {}
        for peer in work.peers:
            entry, reason = self._choose(peer, case, work, expected)
            if entry is None:
                skipped[peer.name] = reason
            else:
                peers.append(entry)
        rounds = 5
        for entry in (ours, *peers):
            self._plan(entry, rounds)
        ours.rounds = rounds
        calls = 0

        def set_up() -> None:
            """Before the first call of each block of hdrops: the peers' blocks, in an order that rotates."""
            nonlocal calls
            turn, within = divmod(calls, ours.block)
            calls += 1
            if within == 0:
                shift = turn % max(1, len(peers))
                for entry in peers[shift:] + peers[:shift]:
                    if turn < entry.rounds:
                        self._block(entry)
                work.ours.prepare()
                work.ours.call()
            self._before_call()

        def target() -> None:
            work.ours.call()

        gc.collect()
        gc.disable()
        try:
            benchmark.pedantic(target, setup=set_up, rounds=rounds * ours.block, iterations=1)
        finally:
            gc.enable()
        if benchmark.stats is None:
            return None
        ours.samples = list(benchmark.stats.stats.data)
        return {"implementations": [_summary(e) for e in (ours, *peers)], "skipped": skipped}


class Unavailable(Exception):
    """A candidate cannot run here, for the reason given."""


def significant(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def _summary(entry: _Entry) -> dict[str, Any]:
    p20, median, p80 = (significant(1e3 * q) for q in np.quantile(entry.samples, (0.2, 0.5, 0.8)))
    return {
        "name": entry.name,
        "config": entry.candidate.config,
        "threads": entry.threads,
        "median_ms": median,
        "p20_ms": p20,
        "p80_ms": p80,
        "calls": len(entry.samples),
        "peak_memory_mb": None if entry.memory is None else significant(entry.memory / 1e6, 3),
    }
