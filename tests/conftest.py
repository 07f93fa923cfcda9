"""Choice of backends and of the covering subset.

Triton reads TRITON_INTERPRET when its kernels are imported, so the interpreter has a process of its own: with
TRITON_INTERPRET=1 only the Triton backend is collected from ``tests/ops``.
"""

from __future__ import annotations

import os

import pytest
import torch

from hdrops.ops import _providers

INTERPRETING = _providers.interpreting()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the whole product, not its pairwise-covering subset")


def backends() -> list[object]:
    """Values of the argument ``backend``: what this process can run, the GPU's marked ``gpu``."""
    if INTERPRETING:
        return ["triton"]
    return ["cpp", "reference", *(pytest.param(name, marks=pytest.mark.gpu) for name in ("cuda", "triton"))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", backends())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def wanted(item: pytest.Item) -> bool:
        if not config.getoption("--full") and item.get_closest_marker("full"):
            return False
        if INTERPRETING:
            callspec = getattr(item, "callspec", None)
            return callspec is not None and "backend" in callspec.params
        return True

    dropped = [item for item in items if not wanted(item)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if wanted(item)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("large") and os.environ.get("HDROPS_TEST_LARGE") != "1":
        pytest.skip("needs up to 8 GB and minutes; set HDROPS_TEST_LARGE=1 to run it")
    if item.get_closest_marker("gpu") is None:
        return
    backend = getattr(item, "callspec", None) and item.callspec.params.get("backend")
    cause = _providers.triton_missing() if backend == "triton" else _providers.cuda_missing()
    if cause is not None:
        pytest.skip(cause)


@pytest.fixture
def device(backend: str) -> str:
    """Where the tensors of a backend lie."""
    return "cuda" if backend in ("cuda", "triton") and not INTERPRETING else "cpu"


@pytest.fixture
def threads() -> object:
    """Set the number of threads of torch; the former number returns afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
