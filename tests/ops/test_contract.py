"""What every operator promises, on every backend: see ``cases.py`` for what it runs over."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from cases import (
    CASES,
    CODES,
    FULL_SCALE,
    HALVES,
    INTERPRETED_SHAPES,
    INTERPRETING,
    LAYOUTS,
    SHAPES,
    SMALL_SHAPES,
    OpCase,
    lay_out,
    pairwise,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerance import assert_close, assert_codes, assert_gradient, assert_half, ulp
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

RESULTS = ("fresh", "float32", "out", "out-float32", "out-strided")
NAMESPACES = {"cpp": "hdrops", "cuda": "hdrops", "triton": "hdrops_triton", "reference": "hdrops_reference"}
by_name = {case.name: case for case in CASES}
differentiable = [case for case in CASES if case.differentiable]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_differentiable = pytest.mark.parametrize("case", differentiable, ids=lambda case: case.name)


def shape_of(name: str, backend: str, case: OpCase | None = None) -> tuple[int, ...]:
    if INTERPRETING:
        return INTERPRETED_SHAPES[name]
    if backend == "reference":
        return SMALL_SHAPES[name]
    return case.many_blocks if case is not None and name == "many-blocks" else SHAPES[name]


def shapes_of(case: OpCase) -> list[str]:
    return [name for name in case.shapes if not INTERPRETING or name in INTERPRETED_SHAPES]


def usual_dtype(case: OpCase) -> torch.dtype:
    """Bytes where the operator is defined on codes, float32 elsewhere."""
    return torch.uint8 if torch.uint8 in case.dtypes else torch.float32


def compute_dtype(image: torch.dtype) -> torch.dtype:
    """The arithmetic type."""
    return torch.float64 if image == torch.float64 else torch.float32


def label(value: Any) -> str:
    return str(value).removeprefix("torch.")


def covering(case: OpCase, *axes: tuple[Any, ...], valid: Any = lambda *_: True) -> list[Any]:
    """The whole product of the axes; what the pairwise subset leaves out is marked ``full``."""
    product = [c for c in itertools.product(*axes) if valid(*c)]
    subset = pairwise(product)
    return [
        pytest.param(
            case,
            *combination,
            id="-".join(label(v) for v in (case.name, *combination)),
            marks=() if combination in subset else pytest.mark.full,
        )
        for combination in product
    ]


def offered(case: OpCase) -> Any:
    """Which ways of asking for a result exist: float32 results where that is a choice, out= where there is one."""

    def valid(dtype: torch.dtype, layout: str, shape: str, result: str) -> bool:
        return (case.has_out or result == "fresh") and (case.gives_float32(dtype) or "float32" not in result)

    return valid


def snapshot(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in inputs.items()}


def assert_unmodified(inputs: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    for name, x in inputs.items():
        assert bits(x) == bits(before[name]), f"{name} was written to"


def bits(x: Tensor) -> bytes:
    """For comparisons in which NaN equals NaN and -0 is not 0."""
    return x.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes() if x.numel() else b""


def assert_values(case: OpCase, inputs: dict[str, Tensor], actual: Tensor, backend: str) -> None:
    exact = case.definition(inputs)
    if actual.dtype in CODES:
        full = FULL_SCALE[actual.dtype]
        # Byte results may come from fixed point; 16-bit ones are float32 arithmetic.
        slack = (
            1 / 64
            if actual.dtype == torch.uint8
            else case.tolerance(actual.dtype, backend) * torch.finfo(torch.float32).eps * full
        )
        assert_codes(actual, exact * full, slack)
    elif actual.dtype in HALVES:
        eager = case.call({name: x.cpu() for name, x in inputs.items()}, backend="reference")
        assert_half(actual, eager, exact)
    else:
        assert_close(actual, exact, case.tolerance(actual.dtype, backend), case.scale)


def run(case: OpCase, inputs: dict[str, Tensor], backend: str, result: str = "fresh") -> Tensor:
    """The result of ``case``, asked for in one of the ways of ``RESULTS``."""
    if result == "fresh":
        return case.call(inputs, backend=backend)
    if result == "float32":
        return case.call(inputs, backend=backend, dtype=torch.float32)
    like = inputs[case.images[0]]
    dtype = torch.float32 if result == "out-float32" else case.results(like.dtype)[0]
    shape = case.result_shape(inputs)
    out = torch.full(shape, 77, dtype=torch.int32, device=like.device).to(dtype)
    if result == "out-strided":
        out = lay_out(out, "sliced")
    returned = case.call(inputs, backend=backend, out=out)
    assert returned is out, "out= must return the tensor that it was given"
    return out


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "dtype", "layout", "shape", "result"),
    [
        parameter
        for case in CASES
        for parameter in covering(case, case.dtypes, LAYOUTS, shapes_of(case), RESULTS, valid=offered(case))
    ],
)
def test_values(
    case: OpCase, dtype: torch.dtype, layout: str, shape: str, result: str, backend: str, device: str
) -> None:
    inputs = case.inputs(shape_of(shape, backend, case), dtype, layout, device)
    before = snapshot(inputs)
    actual = run(case, inputs, backend, result)
    assert_values(case, inputs, actual, backend)
    assert_unmodified(inputs, before)
    assert actual.device == inputs[case.images[0]].device
    if case.has_out:
        assert actual.dtype == (torch.float32 if "float32" in result else case.results(dtype)[0])
    else:
        assert actual.dtype == compute_dtype(dtype)
    assert bits(actual) == bits(run(case, inputs, backend, result)), "a rerun gave other bits"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [c for c in CASES if c.has_out], ids=lambda case: case.name)
def test_memory_format(case: OpCase, layout: str, backend: str, device: str) -> None:
    """A channels-last image gives a channels-last result, any other layout a contiguous one."""
    for dtype in (torch.float32, usual_dtype(case)):
        actual = case.call(case.inputs(shape_of("odd", backend), dtype, layout, device), backend=backend)
        last = actual.is_contiguous(memory_format=torch.channels_last)
        assert (last, actual.is_contiguous()) == (layout == "channels_last", layout != "channels_last")


@every_case
def test_bits_do_not_depend_on_threads(case: OpCase, backend: str, device: str, threads: Any) -> None:
    if INTERPRETING:
        pytest.skip("the interpreter of Triton has one thread")
    if backend == "reference" and case.operator == "deconv3d":
        pytest.skip("the order of torch's own sums depends on the number of threads")
    for dtype in case.dtypes:
        inputs = case.inputs(shape_of("many-blocks", backend, case), dtype, "contiguous", device)
        own = dtype in case.gradient_dtypes and case.has_backward  # not made of torch's operators
        names = case.active(inputs) if own else []
        leaves = inputs | {name: inputs[name].detach().requires_grad_() for name in names}
        keep = {"dtype": torch.float32} if case.gives_float32(dtype) else {}
        results = []
        for count in (1, 2):
            threads(count)
            result = case.call(leaves, backend=backend, **keep)
            upstream = torch.rand(result.shape, generator=torch.Generator().manual_seed(3)).to(result)
            variables = [leaves[name] for name in names]
            grads = torch.autograd.grad(result, variables, upstream) if names else ()
            results.append([bits(x) for x in (result, *grads)])
        assert results[0] == results[1], f"{dtype}: the bits depend on the number of threads"


@every_case
def test_planted_errors_are_caught(case: OpCase) -> None:
    """Each tolerance rejects one value a little further off than it allows, and none a little nearer."""
    offered = {case.results(dtype)[0] for dtype in case.dtypes} if case.has_out else set()
    for dtype in {torch.float32} | offered:
        inputs = case.inputs(SHAPES["odd"], dtype if dtype in case.dtypes else torch.uint8)
        exact = case.definition(inputs)
        where = (-1,) * exact.dim()

        def plant(error: float, exact: Tensor = exact, where: tuple[int, ...] = where) -> Tensor:
            planted = exact.clone()
            planted[where] += error
            return planted

        if dtype in CODES:
            full = FULL_SCALE[dtype]
            slack = (
                1 / 64 if dtype == torch.uint8 else case.tolerance(dtype, "cpp") * torch.finfo(torch.float32).eps * full
            )
            codes = (exact * full).clamp(0, full).round().to(torch.int32).to(dtype)
            middle = codes.double()
            middle[where] = 100 + 0.5 + 0.9 * slack
            codes[where] = 100
            assert_codes(codes, middle, slack)
            middle[where] = 100 + 0.5 + 1.1 * slack
            with pytest.raises(AssertionError, match="beyond the tolerance"):
                assert_codes(codes, middle, slack)
        elif dtype in HALVES:
            step = float(ulp(exact, dtype)[where])
            eager = exact.to(dtype)
            allowed = 2 * abs(float(eager[where].double() - exact[where])) + step
            near = exact.to(dtype)
            near[where] = plant(allowed - step)[where].to(dtype)
            assert_half(near, eager, exact)
            near[where] = plant(allowed + step)[where].to(dtype)
            with pytest.raises(AssertionError, match="beyond the tolerance"):
                assert_half(near, eager, exact)
        else:
            k = case.tolerance(dtype, "cpp")
            allowed = k * torch.finfo(dtype).eps * (abs(float(exact[where])) + case.scale)
            kept = plant(0.4 * allowed).to(dtype)
            assert_close(kept, exact, k, case.scale)
            with pytest.raises(AssertionError, match="beyond the tolerance"):
                assert_close(plant(2.1 * allowed).to(dtype), exact, k, case.scale)


def test_comparators_see_special_values() -> None:
    exact = torch.tensor([0.5, float("nan"), float("inf")], dtype=torch.float64)
    assert_close(exact.float(), exact, 1, 1)
    for position, wrong in ((0, "nan"), (0, "inf"), (1, "0"), (2, "nan"), (2, "-inf")):
        actual = exact.float()
        actual[position] = float(wrong)
        with pytest.raises(AssertionError):
            assert_close(actual, exact, 1, 1)


def test_gradient_comparator_sees_errors() -> None:
    exact = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_gradient(exact * 1.009, exact, 0.01)
    with pytest.raises(AssertionError, match="relative L2"):
        assert_gradient(exact * 1.011, exact, 0.01)
    with pytest.raises(AssertionError, match="bias"):
        assert_gradient(exact + 0.005, exact, 0.01, bias=0.004)
    with pytest.raises(AssertionError, match="not finite"):
        assert_gradient(exact * float("nan"), exact, 0.01)


# ---- gradients -----------------------------------------------------------------------------------


def gradients(case: OpCase, inputs: dict[str, Tensor], backend: str) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients by name, and the upstream gradient that gave them."""
    names = case.active(inputs)
    leaves = inputs | {name: inputs[name].detach().requires_grad_() for name in names}
    codes = inputs[case.images[0]].dtype in CODES
    result = case.call(leaves, backend=backend, **({"dtype": torch.float32} if codes else {}))
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(5)).to(result)
    grads = torch.autograd.grad(result, [leaves[name] for name in names], upstream)
    return dict(zip(names, grads, strict=True)), upstream


@pytest.mark.parametrize(
    ("case", "dtype", "layout", "shape"),
    [
        parameter
        for case in differentiable
        for parameter in covering(case, case.gradient_dtypes, LAYOUTS, shapes_of(case))
    ],
)
def test_gradients(case: OpCase, dtype: torch.dtype, layout: str, shape: str, backend: str, device: str) -> None:
    inputs = case.inputs(shape_of(shape, backend, case), dtype, layout, device)
    before = snapshot(inputs)
    actual, upstream = gradients(case, inputs, backend)
    assert_unmodified(inputs, before)
    exact = case.definition_gradients(inputs, upstream)
    pixels = max(1, inputs[case.images[0]].numel())
    for name, grad in actual.items():
        assert grad.dtype == inputs[name].dtype
        assert grad.device == inputs[name].device
        if grad.dtype in HALVES:
            # Rounded once on storing; the gradient itself is formed in float32.
            assert_gradient(grad, exact[name], torch.finfo(dtype).eps, what=name)
            continue
        largest = float(exact[name].abs().max()) if grad.numel() else 0.0
        # A table entry is a sum over the pixels that fall on it, weighted by fractions of its finer steps.
        table = inputs[name].shape[-1] + pixels**0.5
        k = case.gradient_tolerance(grad.dtype, backend) + (0 if name in case.images else table)
        assert_close(grad, exact[name], k, largest, name)
        assert_gradient(grad, exact[name], k * torch.finfo(grad.dtype).eps, what=name)


@every_differentiable
def test_only_wanted_gradients(case: OpCase, backend: str, device: str) -> None:
    """Each input alone can be the only one with a gradient, with the same result."""
    inputs = case.inputs(shape_of("odd", backend), torch.float32, "contiguous", device)
    together, _ = gradients(case, inputs, backend)
    for name in case.differentiable:
        leaf = inputs[name].detach().requires_grad_()
        result = case.call(inputs | {name: leaf}, backend=backend)
        upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(5)).to(result)
        (alone,) = torch.autograd.grad(result, leaf, upstream)
        torch.testing.assert_close(alone, together[name], rtol=1e-5, atol=1e-6)


@every_differentiable
def test_gradcheck(case: OpCase, backend: str, device: str) -> None:
    """First and second derivatives in float64 against finite differences, away from kinks."""
    shape = (2, 3, 2, 3) if case.operator == "imf_fuse" else (1, 3, 4, 5)
    inputs = case.inputs(shape, torch.float64, device=device)
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    if case.operator == "imf_fuse":  # few enough table entries to perturb each
        for name in ("imf_dark", "imf_bright"):
            inputs[name] = inputs[name][..., :: max(1, inputs[name].shape[-1] // 8)]
        for image in ("dark", "bright"):
            levels = inputs[f"imf_{image}"].shape[-1]
            cell = (inputs[image] * (levels - 1)).floor().clamp(max=levels - 2)
            inputs[image] = (cell + 0.2 + 0.6 * (inputs[image] * 977).frac()) / (levels - 1)
    names = case.active(inputs)
    leaves = [inputs[name].detach().requires_grad_() for name in names]

    def function(*values: Tensor) -> Tensor:
        return case.call(inputs | dict(zip(names, values, strict=True)), backend=backend)

    fast = INTERPRETING
    assert torch.autograd.gradcheck(function, leaves, eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, leaves, eps=1e-7, atol=1e-4, rtol=1e-3, fast_mode=True)


def test_integer_images_have_no_gradient(backend: str, device: str) -> None:
    for case in (c for c in differentiable if torch.uint8 in c.dtypes):
        inputs = case.inputs(shape_of("odd", backend), torch.uint8, "contiguous", device)
        leaves = {name: x.requires_grad_() if x.is_floating_point() else x for name, x in inputs.items()}
        assert not case.call(leaves, backend=backend).requires_grad
    histograms = by_name["estimate_imf"]
    codes = histograms.inputs(shape_of("odd", backend), torch.uint8, device=device)
    assert not histograms.call(codes, backend=backend).requires_grad


# ---- the dispatcher and the compiler -------------------------------------------------------------


def overloads(
    case: OpCase, backend: str, dtype: torch.dtype, device: str, layout: str
) -> list[tuple[Any, tuple[Any, ...]]]:
    """Each overload of the operator's schema with arguments: forward, out and backward."""
    library = getattr(torch.ops, NAMESPACES[backend])

    def overload(suffix: str = "") -> Any:
        return getattr(library, case.operator + suffix).default

    inputs = case.inputs((2, 3, 5, 6), dtype, layout, device)
    shape = case.result_shape(inputs)
    constants = case.arguments(inputs)
    variables = tuple(
        a.detach().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in constants
    )
    found = [(overload(), variables)]
    if case.has_out:
        found.append((overload("_out"), (*constants, torch.empty(shape, dtype=case.results(dtype)[0], device=device))))
        for other in case.results(dtype)[1:]:
            found.append((overload(), (*variables, other)))
            found.append((overload("_out"), (*constants, torch.empty(shape, dtype=other, device=device))))
    if dtype in case.gradient_dtypes and case.has_backward:
        numbers = case.numbers is not None
        grad = torch.randn(shape, device=device).to(compute_dtype(dtype) if numbers or dtype in CODES else dtype)
        if case.backward_arguments is not None:
            variables = case.backward_arguments(inputs)
        found.append((overload("_backward"), (grad.requires_grad_(), *variables[case.linear :], *case.backward)))
    return found


@every_case
def test_opcheck(case: OpCase, backend: str, device: str, pytestconfig: pytest.Config) -> None:
    """Schema and fake kernel for all dtypes (three without --full) and layouts; autograd and tracing, which are slow,
    for two dtypes.

    Cases of one operator trace alike: the first of each does.
    """
    quick = ("test_schema", "test_faketensor")
    slow = (*quick, "test_autograd_registration", "test_aot_dispatch_dynamic")
    some = (torch.float32, torch.uint8) if INTERPRETING else (torch.float32, torch.uint8, torch.bfloat16)
    dtypes = [d for d in case.dtypes if d in some or (pytestconfig.getoption("--full") and not INTERPRETING)]
    for layout, dtype in itertools.product(("contiguous", "channels_last"), dtypes):
        first = case is next(c for c in CASES if c.operator == case.operator)
        traced = first and layout == "contiguous" and dtype in (torch.float32, torch.uint8)
        for operator, arguments in overloads(case, backend, dtype, device, layout):
            try:
                twice = operator.name().endswith("_backward")
                utils = slow if traced and (case.traced_twice or not twice) else quick
                torch.library.opcheck(operator, arguments, test_utils=utils)
            except Exception as error:
                raise AssertionError(f"{operator}, {dtype}, {layout}: {error}") from error


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@every_case
def test_compile(case: OpCase, dynamic: bool, backend: str, device: str) -> None:
    """No graph break, the same result and gradients, and with dynamic shapes one graph for all sizes."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def function(x: dict[str, Tensor]) -> Tensor:
        return case.call(x, backend=backend)

    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=dynamic)
    dtype = torch.float32 if torch.float32 in case.dtypes else torch.uint8
    # No two equal sizes: the compiler would take them for one.
    sizes = ((5, 3, 9, 13), (7, 3, 6, 11), (4, 3, 12, 8))
    graphs = 0
    for shape in sizes if dynamic else sizes[:1]:
        inputs = case.inputs(shape, dtype, device=device)
        names = case.active(inputs)
        leaves = inputs | {name: inputs[name].detach().requires_grad_() for name in names}
        expected, actual = case.call(leaves, backend=backend), compiled(leaves)
        assert bits(actual) == bits(expected)
        if names:
            variables = [leaves[name] for name in names]
            upstream = torch.ones_like(expected)
            for a, e in zip(
                torch.autograd.grad(actual, variables, upstream),
                torch.autograd.grad(expected, variables, upstream),
                strict=True,
            ):
                torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-6)
        # The compiler may start over within the first call.
        graphs = graphs or counter.frame_count
        assert counter.frame_count == graphs, f"shape {shape} was compiled anew"


@pytest.mark.parametrize("operator", sorted({case.operator for case in CASES if case.has_out}))
def test_compile_inductor(operator: str, backend: str, device: str) -> None:
    torch._dynamo.reset()
    case = next(c for c in CASES if c.operator == operator)
    inputs = case.inputs((2, 3, 9, 13), torch.float32, device=device)
    compiled = torch.compile(lambda x: 2 * case.call(x, backend=backend) + 1, fullgraph=True)
    expected = 2 * case.call(inputs, backend=backend) + 1
    torch.testing.assert_close(compiled(inputs), expected, rtol=1e-6, atol=1e-6)


@every_case
def test_compile_out(case: OpCase, backend: str, device: str) -> None:
    if not case.has_out:
        pytest.skip(f"{case.operator} has no out=")
    torch._dynamo.reset()
    inputs = case.inputs((2, 3, 9, 13), torch.float32, device=device)
    out = torch.empty(2, 3, 9, 13, device=device)

    def function(x: dict[str, Tensor], out: Tensor) -> Tensor:
        return case.call(x, backend=backend, out=out) + 1

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    result = compiled(inputs, out)
    expected = case.call(inputs, backend=backend)
    assert bits(out) == bits(expected)
    assert bits(result) == bits(expected + 1)


@every_case
def test_export(case: OpCase, backend: str, device: str) -> None:
    """One exported program serves every batch size, height and width."""

    class Module(torch.nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return case.call(inputs, backend=backend)

    dtype = torch.float32 if torch.float32 in case.dtypes else torch.uint8
    inputs = case.inputs((3, 3, 9, 13), dtype, device=device)
    batch, height, width = (torch.export.Dim(name, min=2, max=1024) for name in ("batch", "height", "width"))
    dynamic = {
        name: {0: batch, x.dim() - 2: height, x.dim() - 1: width}
        if name in case.images
        else ({0: batch} if x.dim() == 3 else None)
        for name, x in inputs.items()
    }
    program = torch.export.export(Module(), (inputs,), dynamic_shapes=(dynamic,), strict=False)
    other = case.inputs((5, 3, 14, 6), dtype, device=device, seed=1)
    assert bits(program.module()(other)) == bits(case.call(other, backend=backend))


@every_case
def test_autocast(case: OpCase, backend: str, device: str) -> None:
    """Autocast changes neither the dtype nor the values: the arithmetic is float32 in any case."""
    for dtype in (d for d in case.dtypes if d != torch.float64):
        inputs = case.inputs(shape_of("odd", backend), dtype, device=device)
        expected = case.call(inputs, backend=backend)
        with torch.autocast(device, dtype=torch.bfloat16):
            actual = case.call(inputs, backend=backend)
        assert actual.dtype == expected.dtype
        assert bits(actual) == bits(expected)


# ---- arguments that all operators share ----------------------------------------------------------


@every_case
def test_backend_is_checked(case: OpCase, backend: str, device: str) -> None:
    inputs = case.inputs((1, 3, 4, 4), usual_dtype(case), device=device)
    with pytest.raises(ValueError, match="backend must be one of cpp, cuda, triton, reference"):
        case.call(inputs, backend="numpy")
    if device == "cpu":
        with pytest.raises(ValueError, match="takes CUDA tensors, got a tensor on cpu"):
            case.call(inputs, backend="cuda")
        if not INTERPRETING:
            with pytest.raises((ValueError, RuntimeError), match="triton"):
                case.call(inputs, backend="triton")
    else:
        with pytest.raises(ValueError, match="takes CPU tensors, got a tensor on cuda"):
            case.call(inputs, backend="cpp")


@pytest.mark.parametrize("case", [c for c in CASES if c.has_out], ids=lambda case: case.name)
def test_out_of_tensors_without_data(case: OpCase) -> None:
    inputs = {name: x.to("meta") for name, x in case.inputs((2, 3, 4, 5), torch.float32).items()}
    out = torch.empty_like(case.call(inputs))
    assert case.call(inputs, out=out) is out


@pytest.mark.parametrize("case", [c for c in CASES if c.has_out], ids=lambda case: case.name)
def test_out_and_dtype_are_checked(case: OpCase, backend: str, device: str) -> None:
    inputs = case.inputs((2, 3, 4, 5), torch.float32, device=device)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    with pytest.raises(ValueError, match="out has shape"):
        case.call(inputs, backend=backend, out=empty(2, 3, 5, 4))
    with pytest.raises(ValueError, match="out has shape"):
        case.call(inputs, backend=backend, out=empty(3, 4, 5))
    with pytest.raises(ValueError, match="out is on meta"):
        case.call(inputs, backend=backend, out=torch.empty(2, 3, 4, 5, device="meta"))
    for wrong in {torch.float64, torch.float16, torch.uint8, torch.int32} - {*case.results(torch.float32)}:
        with pytest.raises(TypeError, match=r"is not offered; ask for torch\.float32"):
            case.call(inputs, backend=backend, out=empty(2, 3, 4, 5, dtype=wrong))
    # Only where codes can give float32 is there a choice, and so an argument dtype.
    if torch.uint8 in case.dtypes and case.gives_float32(torch.uint8):
        codes = case.inputs((2, 3, 4, 5), torch.uint8, device=device)
        choices = (
            (inputs, r"torch\.float32", (torch.float64, torch.float16, torch.uint8, torch.int32)),
            (codes, r"torch\.uint8 or torch\.float32", (torch.float64, torch.uint16, torch.int64)),
        )
        for given, offers, dtypes in choices:
            for wrong in dtypes:
                with pytest.raises(TypeError, match=f"is not offered; ask for {offers}"):
                    case.call(given, backend=backend, dtype=wrong)
        with pytest.raises(ValueError, match="contradicts out"):
            case.call(codes, backend=backend, dtype=torch.float32, out=empty(2, 3, 4, 5, dtype=torch.uint8))
    for name in case.differentiable:
        variable = inputs | {name: inputs[name].detach().requires_grad_()}
        with pytest.raises(RuntimeError, match="out= does not support autograd"):
            case.call(variable, backend=backend, out=empty(2, 3, 4, 5))
        with torch.no_grad():
            case.call(variable, backend=backend, out=empty(2, 3, 4, 5))


@every_case
def test_image_dtype_and_rank_are_checked(case: OpCase, backend: str, device: str) -> None:
    inputs = case.inputs((2, 3, 4, 5), usual_dtype(case), device=device)
    wrong_dtypes = {torch.int32, torch.int8, torch.bool, torch.complex64, torch.uint8, torch.float32} - {*case.dtypes}
    for dtype in wrong_dtypes:
        images = {name: inputs[name].to(dtype) for name in case.images}
        with pytest.raises(TypeError, match=rf"{case.images[0]} must be (uint8|floating point).*got {dtype}"):
            case.call(inputs | images, backend=backend)
    images = {name: inputs[name][0, 0] for name in case.images}
    with pytest.raises(ValueError, match=f"{case.images[0]} must be .*got shape"):
        case.call(inputs | images, backend=backend)
    for name in case.images:
        with pytest.raises(TypeError, match=f"{name} must be a tensor or an array that supports DLPack, got list"):
            case.call(inputs | {name: inputs[name].tolist()}, backend=backend)


@every_case
def test_numpy_arrays_enter_by_dlpack(case: OpCase, backend: str, device: str) -> None:
    if device != "cpu":
        pytest.skip("NumPy arrays lie in CPU memory")
    inputs = case.inputs((2, 3, 4, 5), usual_dtype(case))
    arrays = {name: x.numpy() for name, x in inputs.items()}
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert bits(case.call(arrays, backend=backend)) == bits(case.call(inputs, backend=backend))


# ---- any shape and any strides -------------------------------------------------------------------


@st.composite
def strided(draw: Any, least: int) -> tuple[tuple[int, ...], Any]:
    """A shape (N, C, H, W), and a rearrangement of memory that keeps the values."""
    sizes = st.integers(least, 12 if INTERPRETING else 24)
    shape = (draw(st.integers(0, 3)), draw(st.sampled_from([1, 3])), draw(sizes), draw(sizes))
    order = draw(st.permutations(range(5)))
    gaps = draw(st.tuples(*[st.integers(1, 3)] * 5))
    lead = draw(st.integers(0, 3))

    def rearrange(x: Tensor) -> Tensor:
        axes = [axis for axis in order if axis < x.dim()]
        spread = [x.shape[axis] * gaps[axis] + lead for axis in axes]
        storage = torch.zeros(spread, dtype=x.dtype, device=x.device)
        inverse = [axes.index(axis) for axis in range(x.dim())]
        view = storage.permute(inverse)[
            tuple(slice(lead, lead + x.shape[axis] * gaps[axis], gaps[axis]) for axis in range(x.dim()))
        ]
        view.copy_(x)
        return view

    return shape, rearrange


@every_case
def test_any_shape_and_strides(case: OpCase, backend: str, device: str) -> None:
    @settings(
        max_examples=5 if INTERPRETING else 20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strided(case.least_side), st.sampled_from(case.dtypes), st.integers(0, 1000))
    def check(layout: tuple[tuple[int, ...], Any], dtype: torch.dtype, seed: int) -> None:
        shape, rearrange = layout
        packed = case.inputs(shape, dtype, device=device, seed=seed)
        inputs = {name: rearrange(x) for name, x in packed.items()}
        actual = case.call(inputs, backend=backend)
        assert bits(actual) == bits(case.call(packed, backend=backend)), "the strides changed the values"
        assert_values(case, inputs, actual, backend)

    check()


# ---- what only a GPU can show --------------------------------------------------------------------

gpu_backends = pytest.mark.parametrize("gpu_backend", ["cuda", "triton"])


def skip_without(gpu_backend: str) -> None:
    from hdrops.ops import _providers

    cause = _providers.cuda_missing() if gpu_backend == "cuda" else _providers.triton_missing()
    if cause is not None or not torch.cuda.is_available():
        pytest.skip(cause or "no CUDA device is visible to torch")


@pytest.mark.gpu
@gpu_backends
@every_case
def test_stream(case: OpCase, gpu_backend: str) -> None:
    """Work goes to the current stream: queued behind a long wait, it sees what that stream wrote before."""
    skip_without(gpu_backend)
    inputs = case.inputs(case.many_blocks, usual_dtype(case), device="cuda")
    expected = case.call(inputs, backend=gpu_backend)
    late = {name: torch.zeros_like(x) for name, x in inputs.items()}
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for name, x in inputs.items():
            late[name].copy_(x)
        actual = case.call(late, backend=gpu_backend)
    stream.synchronize()
    assert bits(actual) == bits(expected)


@pytest.mark.gpu
@gpu_backends
@every_case
def test_graph_capture(case: OpCase, gpu_backend: str) -> None:
    skip_without(gpu_backend)
    inputs = {
        name: x.to(torch.float32) if x.is_floating_point() else x
        for name, x in case.inputs(case.many_blocks, torch.float32, device="cuda").items()
    }
    result = case.call(inputs, backend=gpu_backend)  # a first call compiles what Triton runs
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        if case.has_out:
            result = case.call(inputs, backend=gpu_backend, out=torch.empty_like(result))
        else:
            result = case.call(inputs, backend=gpu_backend)
    for seed in (1, 2):
        for name, x in case.inputs(case.many_blocks, torch.float32, device="cuda", seed=seed).items():
            inputs[name].copy_(x)
        graph.replay()
        torch.cuda.synchronize()
        assert bits(result) == bits(case.call(inputs, backend=gpu_backend))


@pytest.mark.gpu
@gpu_backends
@every_case
def test_second_device(case: OpCase, gpu_backend: str) -> None:
    skip_without(gpu_backend)
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    inputs = case.inputs(SHAPES["odd"], usual_dtype(case))
    results = [
        case.call({name: x.to(d) for name, x in inputs.items()}, backend=gpu_backend) for d in ("cuda:0", "cuda:1")
    ]
    assert [r.device.index for r in results] == [0, 1]
    assert bits(results[0]) == bits(results[1])


@pytest.mark.gpu
@gpu_backends
def test_table_gradients_are_not_deterministic(gpu_backend: str) -> None:
    """Gradients of tables are summed in an order that varies: deterministic mode refuses just them."""
    skip_without(gpu_backend)
    case = by_name["imf_fuse"]
    inputs = case.inputs(SHAPES["odd"], torch.float32, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        images = inputs | {"dark": inputs["dark"].requires_grad_()}
        case.call(images, backend=gpu_backend).sum().backward()
        tables = inputs | {"imf_dark": inputs["imf_dark"].requires_grad_()}
        with pytest.raises(RuntimeError, match="imf_fuse_backward does not have a deterministic"):
            case.call(tables, backend=gpu_backend).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
