"""The copies of the C++ loops for different instruction sets give the same results."""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import torch
from cases import CASES, CODES, FULL_SCALE, HALVES, OpCase
from tolerance import assert_close, assert_codes, assert_gradient, ulp
from torch import Tensor

import hdrops

LEVELS = ("baseline", "avx2", "avx512")
SHAPE = (2, 3, 37, 75)
SAVE = """
import sys
import torch
from test_cpu_levels import results
torch.save(results(), sys.argv[1])
"""


def combinations() -> list[tuple[OpCase, torch.dtype, bool]]:
    """Operators, dtypes and whether codes give float32."""
    return [
        (case, dtype, as_float)
        for case in CASES
        for dtype, as_float in itertools.product(case.dtypes, (False, True))
        if not as_float or case.gives_float32(dtype)
    ]


def inputs_of(case: OpCase, dtype: torch.dtype) -> dict[str, Tensor]:
    # More than 2^17 pixels of bytes let imf_fuse and estimate_imf take their ways for many pixels.
    many = dtype == torch.uint8 and case.operator in ("imf_fuse", "estimate_imf")
    return case.inputs((1, 3, 371, 359) if many else SHAPE, dtype)


@functools.cache
def exact_result(index: int) -> Tensor:
    case, dtype, _ = combinations()[index]
    return case.definition(inputs_of(case, dtype))


def results() -> list[list[Tensor]]:
    """The results of every combination, each followed by its gradients."""
    found = []
    for case, dtype, as_float in combinations():
        inputs = inputs_of(case, dtype)
        names = case.active(inputs) if dtype in case.gradient_dtypes else []
        leaves = inputs | {name: inputs[name].requires_grad_() for name in names}
        result = case.call(leaves, backend="cpp", **({"dtype": torch.float32} if as_float else {}))
        grads: tuple[Tensor, ...] = ()
        if result.requires_grad:
            upstream = torch.rand(result.shape, generator=torch.Generator().manual_seed(1)).to(result)
            grads = torch.autograd.grad(result, [leaves[name] for name in names], upstream)
        found.append([x.detach() for x in (result, *grads)])
    return found


def run_at(level: str, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    here = pathlib.Path(__file__).parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"HDROPS_CPU": level, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def at_level(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The results at one level, from a process of its own."""
    cache: dict[str, list[list[Tensor]]] = {}
    available = LEVELS[: LEVELS.index(hdrops._C.best_cpu_level()) + 1]

    def load(level: str) -> list[list[Tensor]]:
        if level not in available:
            pytest.skip(f"this processor or build has no {level}; its best level is {available[-1]}")
        if level not in cache:
            file = tmp_path_factory.mktemp("levels") / f"{level}.pt"
            done = run_at(level, SAVE, str(file))
            assert done.returncode == 0, done.stderr
            cache[level] = torch.load(file)
        return cache[level]

    return load


@pytest.mark.parametrize("level", LEVELS)
def test_level_is_used(level: str, at_level: Any) -> None:
    at_level(level)
    done = run_at(level, "import hdrops; print(hdrops._C.cpu_level())")
    assert done.stdout.strip() == level


@pytest.mark.parametrize("level", LEVELS)
def test_values(level: str, at_level: Any) -> None:
    for index, ((case, dtype, as_float), (actual, *_)) in enumerate(zip(combinations(), at_level(level), strict=True)):
        what = f"{case.name}, {dtype}{' to float32' if as_float else ''}"
        exact = exact_result(index)
        if actual.dtype in CODES:
            full = FULL_SCALE[actual.dtype]
            slack = (
                1 / 64
                if actual.dtype == torch.uint8
                else case.tolerance(actual.dtype, "cpp") * torch.finfo(torch.float32).eps * full
            )
            assert_codes(actual, exact * full, slack, what)
        elif actual.dtype in HALVES:
            error = (actual.double() - exact).abs()
            allowed = case.tolerance(torch.float32, "cpp") * torch.finfo(torch.float32).eps * (exact.abs() + case.scale)
            assert (error <= ulp(exact, actual.dtype) + allowed).all(), what
        else:
            assert_close(actual, exact, case.tolerance(actual.dtype, "cpp"), case.scale, what)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(LEVELS, 2)))
def test_levels_agree(one: str, other: str, at_level: Any) -> None:
    both = zip(at_level(one), at_level(other), strict=True)
    for index, ((case, dtype, _), (first, second)) in enumerate(zip(combinations(), both, strict=True)):
        what = f"{case.name}, {dtype}"
        a, b = first[0], second[0]
        if a.dtype == torch.uint8:
            different = a != b
            assert int((a.int() - b.int()).abs().max()) <= 1, what
            exact = (exact_result(index) * 255).clamp(0, 255)[different]
            tie = ((exact - exact.floor()) - 0.5).abs()
            assert (tie <= 1 / 64).all(), f"{what}: the levels round differently away from ties"
        elif a.dtype == torch.uint16:
            assert int((a.int() - b.int()).abs().max()) <= 1, what
        elif a.dtype in HALVES:
            allowed = 2 * case.k * torch.finfo(torch.float32).eps * (b.double().abs() + case.scale)
            assert ((a.double() - b.double()).abs() <= ulp(a, a.dtype) + allowed).all(), what
        else:
            assert_close(a, b.double(), 2 * case.k, case.scale, what)
        for x, y in zip(first[1:], second[1:], strict=True):
            eps = torch.finfo(x.dtype).eps
            assert_gradient(x, y.double(), eps if x.dtype in HALVES else 1000 * eps, what=what)


@pytest.mark.parametrize("level", ["avx1024", "AVX2", " avx2"])
def test_unknown_level(level: str) -> None:
    done = run_at(level, "import hdrops; hdrops._C.cpu_level()")
    assert done.returncode != 0
    assert f"RuntimeError: HDROPS_CPU={level} is unknown; use baseline, avx2 or avx512, or unset it" in done.stderr
    operator = "import torch, hdrops; x = torch.zeros(1, 1, 2, 2); t = x[0, 0, 0]; hdrops.imf_fuse(x, x, t, t)"
    done = run_at(level, operator)
    assert done.returncode != 0
    assert f"HDROPS_CPU={level} is unknown" in done.stderr


def test_empty_means_unset() -> None:
    done = run_at("", "import hdrops; print(hdrops._C.cpu_level())")
    assert done.stdout.strip() == hdrops._C.best_cpu_level(), done.stderr


def test_unavailable_level() -> None:
    best = hdrops._C.best_cpu_level()
    if best == LEVELS[-1]:
        pytest.skip("this processor has every level")
    done = run_at(LEVELS[LEVELS.index(best) + 1], "import hdrops; hdrops._C.cpu_level()")
    assert done.returncode != 0
    assert "is not available here; the best level of this build on this processor is" in done.stderr
