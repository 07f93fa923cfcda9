"""Choice of backends and of the covering subset.

Triton reads TRITON_INTERPRET when its kernels are imported, so the interpreter has a process of its own: with
TRITON_INTERPRET=1 only the Triton backend is collected from ``tests/ops``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from cases import INTERPRETING

from hdrops.ops import _providers

# The interpreter takes about a second a call: of these tests it runs one case in so many, unless --full is given.
INTERPRETED = {
    "test_values": 20,
    "test_gradients": 20,
    "test_gradcheck": 3,
    "test_only_wanted_gradients": 3,
    "test_opcheck": 2,
    "test_compile": 5,
    "test_compile_out": 3,
    "test_export": 4,
    "test_autocast": 4,
    "test_any_shape_and_strides": 3,
    "test_memory_format": 5,
    "test_all_pairs_of_bytes": 8,
    "test_equals_opencv": 3,
    "test_sigma_sweep": 3,
    "test_borders_and_small_images": 4,
    "test_adjoint": 3,
    "test_flat_image": 3,
    "test_special_values_stay_within_the_window": 2,
    "test_mask_of_infinity": 2,
    "test_windows_and_borders": 6,
    "test_equals_the_patches_of_the_paper": 3,
    "test_shift_is_recovered": 10,
    "test_levels_bound_the_shift": 4,
    "test_is_torchs_own": 7,
    "test_volume_is_its_definition": 5,
    "test_gradients_of_the_volume": 7,
    "test_convolution_is_that_of_the_volume": 17,
    "test_gradients_of_the_convolution": 26,
    "test_any_size_and_number_of_channels": 6,
    "test_gradients_of_any_size": 6,
    "test_any_number_of_results": 2,
    "test_gradients_of_other_types": 4,
    "test_equal_images_give_exactly_one": 4,
    "test_gradcheck_of_exponents": 3,
}
# Without --full it does not run these at all: minutes, for code that other cases pass through.
NEVER_INTERPRETED = (
    "test_equals_opencv_on_photographs",
    "test_equals_golden_pictures",
    "test_equals_pytorch_msssim",
    "test_gradcheck[triton-gaussian_blur-wide]",
    "test_gradcheck[triton-gaussian_blur-symmetric]",
    "test_gradcheck[triton-gaussian_mask-wide]",
    "test_compile[triton-mef_ssim-dynamic]",
    "test_compile[triton-mef_ssim-many-dynamic]",
    "test_compile[triton-ms_ssim-zeros-dynamic]",
    *(f"test_gradcheck[triton-{name}]" for name in ("plain", "gain-random", "cap", "inner")),
    *(f"test_opcheck[triton-{name}]" for name in ("plain", "cap-random", "inner", "matching_conv3d")),
    "test_gradcheck[triton-matching_conv3d-cap]",
    *(
        f"test_compile[triton-matching_conv3d{kind}-{how}]"
        for kind in ("", "-mask", "-cap")
        for how in ("static", "dynamic")
    ),
)


# Natively, without --full: one case in so many, by test and backend, or by test, backend and shape. The reference is
# compared with itself here; its own tests, and those of all other backends, hold it to the definitions.
THINNED = {
    "test_values[reference]": 4,
    "test_gradients[reference]": 4,
    "test_gradients[cpp]many-blocks": 4,
    "test_gradcheck[reference]": 3,
    "test_opcheck[reference]": 4,
    "test_compile[reference]": 3,
    "test_any_shape_and_strides[reference]": 3,
    "test_bits_do_not_depend_on_threads[reference]": 3,
    "test_many_tiles[cpp]": 2,
    "test_opcheck[cpp]": 2,
    "test_gradients[cpp]": 2,
    "test_values[cpp]": 2,
    "test_homography_is_exact[None]": 3,
    "test_affine_is_exact[None]": 2,
    "test_published_values_on_two_scenes[None]": 2,
    "test_exact_values[None]": 2,
    "test_convolution_is_that_of_the_volume[reference]": 4,
    "test_gradients_of_the_convolution[reference]": 4,
    "test_gradients_of_any_size[reference]": 4,
}


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--full"):
        os.environ["HDROPS_TEST_FULL"] = "1"  # for what tests read of recorded values


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
    seen: dict[str, int] = {}

    def counted(name: str, one_in: int) -> bool:
        """Whether this one is left out."""
        seen[name] = seen.get(name, -1) + 1
        return seen[name] % one_in != 0

    def thinned(item: pytest.Item) -> bool:
        name = getattr(item, "originalname", item.name)
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if INTERPRETING:
            if name in NEVER_INTERPRETED or item.name in NEVER_INTERPRETED:
                return True
            return counted(name, INTERPRETED.get(name, 1))
        of_backend = f"{name}[{parameters.get('backend')}]"
        keys = (of_backend, f"{of_backend}{parameters.get('shape')}")
        return any(key in THINNED and counted(key, THINNED[key]) for key in keys)

    def wanted(item: pytest.Item) -> bool:
        if not config.getoption("--full") and item.get_closest_marker("full"):
            return False
        if INTERPRETING:
            callspec = getattr(item, "callspec", None)
            if callspec is None or "backend" not in callspec.params:
                return False
        return config.getoption("--full") or not thinned(item)

    verdicts = [wanted(item) for item in items]
    config.hook.pytest_deselected(items=[item for item, kept in zip(items, verdicts, strict=True) if not kept])
    items[:] = [item for item, kept in zip(items, verdicts, strict=True) if kept]


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


@pytest.fixture
def where_the_backend_is(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tensors are made on the device that the backend takes them from."""
    device = request.getfixturevalue("device") if "backend" in request.fixturenames else "cpu"
    if device == "cpu":
        yield
    else:
        with torch.device(device):
            yield
