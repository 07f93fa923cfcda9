"""Transposed 3D convolutions, their collapse with what follows, and the hourglass: against torch's own."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import INTERPRETING, drawn
from torch import Tensor

from hdrops import conv3d, deconv3d, deconv_conv3d, deconv_reduce

pytestmark = pytest.mark.usefixtures("where_the_backend_is")
SETTINGS: dict[str, dict[str, Any]] = {
    "first": {"stride": 2, "padding": 1, "output_padding": 1},
    "short": {"stride": 2, "padding": 1},
    "dilated": {"stride": 2, "padding": 3, "output_padding": 1, "dilation": 3},
    "far": {"stride": 2, "padding": 5, "output_padding": (1, 0, 1), "dilation": 5},
    "even": {"stride": 2, "padding": 2, "output_padding": 1, "dilation": 2},
    "dense": {"stride": 1, "padding": 1},
    "uneven": {"stride": (3, 1, 2), "padding": (0, 2, 1), "output_padding": (2, 0, 0), "dilation": (1, 2, 1)},
    "again": {"stride": 2, "padding": 2, "output_padding": (3, 2, 4), "dilation": 5},
    "dense-beyond": {"stride": 1, "padding": 2, "output_padding": 1, "dilation": 2},
    "beyond": {"stride": 2, "padding": 0, "output_padding": (3, 2, 1), "dilation": 4},
}


def expected(x: Tensor, weight: Tensor, bias: Tensor | None, how: dict[str, Any]) -> Tensor:
    return F.conv_transpose3d(
        x, weight, bias, how["stride"], how["padding"], how.get("output_padding", 0), 1, how.get("dilation", 1)
    )


# ---- deconv3d --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("c", "k", "size"), [(3, 4, (7, 8, 9)), (32, 32, (8, 7, 33)), (17, 35, (7, 8, 6))])
def test_is_torchs_own(name: str, c: int, k: int, size: tuple[int, int, int], backend: str) -> None:
    how = SETTINGS[name]
    if INTERPRETING:  # programs run one after the other
        size = tuple((side + 1) // 2 for side in size)
    x, weight, bias = drawn(2, c, *size), drawn(c, k, 3, 3, 3, seed=1), drawn(k, seed=2)
    found = deconv3d(x, weight, bias, **how, activation="relu", backend=backend)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, expected(x, weight, bias, how).relu(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("taps", [(1, 1, 1), (2, 3, 4), (5, 1, 2)])
@pytest.mark.parametrize("layout", ["contiguous", "last", "sliced"])
def test_any_taps_and_layout(taps: tuple[int, ...], layout: str, backend: str) -> None:
    x, weight = drawn(2, 3, 4, 5, 6), drawn(3, 2, *taps, seed=1)
    if layout == "last":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    if layout == "sliced":
        x = drawn(2, 3, 4, 5, 12)[..., ::2]
    how = {"stride": 2, "padding": 0, "output_padding": 1}
    found = deconv3d(x, weight, **how, backend=backend)
    torch.testing.assert_close(found, expected(x, weight, None, how), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients(name: str, backend: str) -> None:
    how = SETTINGS[name]
    variables = [t.requires_grad_() for t in (drawn(1, 3, 7, 8, 7), drawn(3, 4, 3, 3, 3, seed=1), drawn(4, seed=2))]
    result = expected(*variables, how).relu()
    upstream = drawn(*result.shape, seed=3)
    found = torch.autograd.grad(deconv3d(*variables, **how, activation="relu", backend=backend), variables, upstream)
    for one, other in zip(found, torch.autograd.grad(result, variables, upstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_gradcheck(backend: str) -> None:
    variables = [t.requires_grad_() for t in (drawn(1, 2, 2, 3, 2), drawn(2, 1, 3, 3, 3, seed=1), drawn(1, seed=2))]

    def function(*tensors: Tensor) -> Tensor:
        return deconv3d(*tensors, output_padding=1, backend=backend)

    fast = INTERPRETING
    assert torch.autograd.gradcheck(function, variables, fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, variables, fast_mode=fast)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(("c", "k"), [(32, 16), (17, 35)])
def test_other_types(c: int, k: int, dtype: torch.dtype, relative: float, backend: str) -> None:
    x, weight = drawn(1, c, 6, 5, 9, dtype=dtype), drawn(c, k, 3, 3, 3, seed=1, dtype=dtype)
    exact = F.conv_transpose3d(x.double(), weight.double(), None, 2, 3, 0, 1, 3).cpu()
    for chosen in (backend, None):
        found = deconv3d(x, weight, padding=3, dilation=3, backend=chosen)
        assert found.dtype == dtype
        assert (found.double().cpu() - exact).abs().max() <= relative * exact.abs().max()


def test_bits_do_not_depend_on_threads() -> None:
    x, weight = drawn(1, 32, 6, 5, 40, dtype=torch.float32), drawn(32, 16, 3, 3, 3, seed=1, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(deconv3d(x, weight))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results)


def test_an_even_dilation_reaches_one_place_in_eight() -> None:
    found = deconv3d(torch.ones(1, 2, 4, 4, 4), torch.ones(2, 1, 3, 3, 3), torch.ones(1), padding=2, dilation=2)
    assert (found != 1).double().mean().item() == pytest.approx((4 / 7) ** 3)
    assert (found[..., 1::2, :, :] == 1).all()


def test_opcheck_compile_and_export(backend: str) -> None:
    from hdrops.ops import _providers

    x, weight, bias = (drawn(*s, dtype=torch.float32) for s in ((2, 3, 4, 5, 6), (3, 2, 3, 3, 3), (2,)))
    operator = _providers.overload("deconv3d", backend, x)
    variables = (x.permute(0, 2, 3, 4, 1).detach().requires_grad_(), weight.requires_grad_(), bias.requires_grad_())
    torch.library.opcheck(operator, (*variables, [2] * 3, [3] * 3, [1] * 3, [3] * 3, True))

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return deconv3d(x, weight, bias, activation="relu", backend=backend) * 2

    inputs = (x, weight.detach(), bias.detach())
    result = Module()(*inputs)
    torch.testing.assert_close(torch.compile(Module(), fullgraph=True)(*inputs), result)
    torch.testing.assert_close(torch.export.export(Module(), inputs).module()(*inputs), result)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(3, 4, 4, 4)}, "x must be"),
        ({"x": torch.zeros(1, 3, 4, 4, 4, dtype=torch.uint8)}, "floating point"),
        ({"weight": torch.zeros(2, 4, 3, 3, 3)}, "weight must be"),
        ({"weight": torch.zeros(3, 4, 3, 3, 3, dtype=torch.float64)}, "weight must have"),
        ({"bias": torch.zeros(3)}, "bias must be"),
        ({"stride": (2, 2)}, "stride must be"),
        ({"output_padding": 2}, "output_padding must be below"),
        ({"padding": 9}, "no place"),
        ({"activation": "gelu"}, "activation must be"),
    ],
)
def test_bad_input(changed: dict[str, Any], message: str, backend: str) -> None:
    arguments: dict[str, Any] = {"x": torch.zeros(1, 3, 4, 4, 4), "weight": torch.zeros(3, 4, 3, 3, 3)}
    with pytest.raises((TypeError, ValueError), match=message):
        deconv3d(**(arguments | changed), backend=backend)


# ---- conv3d ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"stride": 2, "padding": 1},
        {"stride": 2, "padding": 3, "dilation": 3},
        {"stride": 2, "padding": 2, "dilation": 2},
        {"stride": (1, 3, 2), "padding": (0, 1, 5), "dilation": (2, 1, 3)},
    ],
)
@pytest.mark.parametrize("size", [(7, 8, 9), (6, 11, 10)])
def test_convolution_is_torchs_own(how: dict[str, Any], size: tuple[int, int, int]) -> None:
    x, weight, bias = drawn(2, 3, *size), drawn(4, 3, 3, 3, 3, seed=1), drawn(4, seed=2)
    variables = [t.requires_grad_() for t in (x, weight, bias)]
    found = conv3d(*variables, **how, activation="relu")
    result = F.conv3d(x, weight, bias, how["stride"], how["padding"], how.get("dilation", 1)).relu()
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, result, rtol=1e-10, atol=1e-10)
    upstream = drawn(*result.shape, seed=3)
    gradients = [torch.autograd.grad(y, variables, upstream) for y in (found, result)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_gradcheck_of_the_convolution() -> None:
    variables = [t.requires_grad_() for t in (drawn(1, 2, 3, 4, 3), drawn(1, 2, 3, 3, 3, seed=1), drawn(1, seed=2))]
    assert torch.autograd.gradcheck(conv3d, variables)
    assert torch.autograd.gradgradcheck(conv3d, variables)


def test_bad_convolution() -> None:
    x, weight = torch.zeros(1, 3, 4, 4, 4), torch.zeros(5, 3, 3, 3, 3)
    with pytest.raises(ValueError, match="weight must be"):
        conv3d(x, torch.zeros(5, 4, 3, 3, 3))
    with pytest.raises(ValueError, match="bias must be"):
        conv3d(x, weight, torch.zeros(3))
    with pytest.raises(ValueError, match="smaller than the kernel"):
        conv3d(x, weight, dilation=4)
    with pytest.raises(TypeError, match="floating point"):
        conv3d(x.int(), weight)


# ---- the pairs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(4, 5, 6), (1, 2, 3), (1, 1, 1)])
@pytest.mark.parametrize("odd", [*itertools.product((0, 1), repeat=3)])
@pytest.mark.parametrize(("c", "k", "biased"), [(3, 5, True), (3, 5, False), (1, 1, True)])
def test_collapse_is_the_pair(
    sides: tuple[int, int, int], odd: tuple[int, int, int], c: int, k: int, biased: bool
) -> None:
    x = drawn(2, c, *sides).requires_grad_()
    first, second = drawn(c, 4, 3, 3, 3, seed=1).requires_grad_(), drawn(k, 4, 3, 3, 3, seed=2).requires_grad_()
    biases = [drawn(4, seed=3).requires_grad_(), drawn(k, seed=4).requires_grad_()] if biased else [None, None]
    size = [2 * side - cut for side, cut in zip(sides, odd, strict=True)]
    found = deconv_conv3d(x, first, biases[0], second, biases[1], size, activation="relu")
    extra = [1 - cut for cut in odd]
    between = F.conv_transpose3d(x, first, biases[0], 2, 1, extra)
    assert list(between.shape[2:]) == size
    pair = F.conv3d(between, second, biases[1], 2, 1).relu()
    torch.testing.assert_close(found, pair, rtol=1e-10, atol=1e-10)
    upstream = drawn(*pair.shape, seed=5)
    variables = [t for t in (x, first, second, *biases) if t is not None]
    gradients = [torch.autograd.grad(y, variables, upstream) for y in (found, pair)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_collapse_of_float32_is_near_the_pair() -> None:
    x = drawn(1, 32, 12, 10, 11, dtype=torch.float32)
    weights = [drawn(32, 32, 3, 3, 3, seed=k, dtype=torch.float32) / 30 for k in (1, 2)]
    found = deconv_conv3d(x, weights[0], None, weights[1], None, (24, 20, 22))
    pair = F.conv3d(F.conv_transpose3d(x, weights[0], None, 2, 1, 1), weights[1], None, 2, 1)
    assert (found - pair).abs().max() <= 1e-5 * pair.abs().max()


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("size", [(8, 10, 12), (7, 9, 12)])
def test_reduction_is_that_of_the_whole(dilation: int, size: tuple[int, int, int]) -> None:
    x, weight, bias = drawn(2, 3, 4, 5, 6), drawn(3, 4, 3, 3, 3, seed=1), drawn(4, seed=2)
    shares, projection, offset = drawn(size[0], seed=3), drawn(2, 4, seed=4), drawn(2, seed=5)
    variables = [t.requires_grad_() for t in (x, weight, bias, shares, projection, offset)]
    found = deconv_reduce(*variables, size=size, padding=dilation, dilation=dilation)
    extra = [q - (2 * (side - 1) + 1) for q, side in zip(size, (4, 5, 6), strict=True)]
    whole = F.conv_transpose3d(x, weight, bias, 2, dilation, extra, 1, dilation)
    assert whole.shape[2:] == size
    result = torch.einsum("nkdhw,d,ok->nohw", whole, shares, projection) + offset[:, None, None]
    torch.testing.assert_close(found, result, rtol=1e-10, atol=1e-10)
    upstream = drawn(*result.shape, seed=6)
    gradients = [torch.autograd.grad(y, variables, upstream) for y in (found, result)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_modes_leave_no_trace() -> None:
    """What is computed first without gradients, or without data, must not be in the way of what follows."""
    x, weight = drawn(1, 2, 3, 3, 3), drawn(2, 2, 3, 3, 3, seed=1)
    with torch.inference_mode():
        deconv_conv3d(x, weight, None, weight, None, (6, 5, 6))
    meta = torch.zeros(1, 2, 3, 3, 3, device="meta"), torch.zeros(2, 2, 3, 3, 3, device="meta")
    assert deconv_conv3d(*meta, None, meta[1], None, (6, 5, 6)).shape == (1, 2, 3, 3, 3)
    variable = weight.clone().requires_grad_()
    deconv_conv3d(x, variable, None, variable, None, (6, 5, 6)).sum().backward()
    assert variable.grad is not None


@pytest.mark.parametrize("function", [conv3d, deconv3d])
def test_nan_and_infinity_stay_where_they_are_read(function: Any) -> None:
    x, weight = drawn(1, 2, 9, 9, 9), drawn(2, 2, 3, 3, 3, seed=1)
    x[0, 0, 4, 4, 4], x[0, 1, 0, 0, 0] = float("nan"), float("inf")
    variable = x.clone().requires_grad_()
    found = function(variable, weight, activation="relu")
    theirs = {conv3d: F.conv3d, deconv3d: F.conv_transpose3d}[function](variable, weight, None, 2, 1).relu()
    torch.testing.assert_close(found, theirs, equal_nan=True, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(y.sum(), variable)[0] for y in (found, theirs)]
    torch.testing.assert_close(*gradients, equal_nan=True, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("function", [conv3d, deconv3d])
def test_autocast_changes_nothing(function: Any) -> None:
    x, weight = drawn(1, 2, 4, 5, 6, dtype=torch.float32), drawn(2, 2, 3, 3, 3, seed=1, dtype=torch.float32)
    variables = [x.requires_grad_(), weight.requires_grad_()]
    expected = function(*variables)
    with torch.autocast("cpu", torch.bfloat16):
        found = function(*variables)
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad(y.sum(), variables) for y in (found, expected)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_bad_pairs() -> None:
    x, weight = torch.zeros(1, 3, 4, 4, 4), torch.zeros(3, 4, 3, 3, 3)
    with pytest.raises(ValueError, match="size must be"):
        deconv_conv3d(x, weight, None, torch.zeros(5, 4, 3, 3, 3), None, (8, 8, 9))
    with pytest.raises(ValueError, match="weights must be"):
        deconv_conv3d(x, weight, None, torch.zeros(5, 3, 3, 3, 3), None, (8, 8, 8))
    with pytest.raises(ValueError, match="is none that"):
        deconv_reduce(x, weight, None, torch.zeros(9), torch.zeros(1, 4), size=(9, 8, 8))
    with pytest.raises(ValueError, match="depth_weights must be"):
        deconv_reduce(x, weight, None, torch.zeros(9), torch.zeros(1, 4), size=(8, 8, 8))
    with pytest.raises(ValueError, match="projection must be"):
        deconv_reduce(x, weight, None, torch.zeros(8), torch.zeros(1, 3), size=(8, 8, 8))
    with pytest.raises(ValueError, match="projection_bias must be"):
        deconv_reduce(x, weight, None, torch.zeros(8), torch.zeros(2, 4), torch.zeros(1), size=(8, 8, 8))
    with pytest.raises(TypeError, match="depth_weights must have"):
        deconv_reduce(x, weight, None, torch.zeros(8).double(), torch.zeros(2, 4), size=(8, 8, 8))
    with pytest.raises(ValueError, match="three numbers"):
        deconv_reduce(x, weight, None, torch.zeros(8), torch.zeros(2, 4), size=(8, 8))
    with pytest.raises(ValueError, match="conv_bias must be"):
        deconv_conv3d(x, weight, None, torch.zeros(5, 4, 3, 3, 3), torch.zeros(1), (8, 8, 8))
    with pytest.raises(ValueError, match="stride must be"):
        deconv3d(x, weight, stride=2**40)
    with pytest.raises(TypeError, match="integer"):
        deconv3d(x, weight, stride=(1.9, 1.5, 1.2))  # type: ignore[arg-type]
