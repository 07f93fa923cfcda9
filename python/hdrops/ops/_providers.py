"""Which implementation serves an operator on a device, and how one is forced.

Every operator ``X`` exists three times for the dispatcher, with one schema, one fake kernel and one autograd formula:

* ``hdrops::X``, the one that users get: C++ on the CPU, CUDA on a GPU (Triton where no CUDA library is loaded), the
  reference on any other device;
* ``hdrops_triton::X`` and ``hdrops_reference::X``, which force one implementation for tests and benchmarks.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import torch

from hdrops import _C

BACKENDS = ("cpp", "cuda", "triton", "reference")
_NAMESPACES = {"cpp": "hdrops", "cuda": "hdrops", "triton": "hdrops_triton", "reference": "hdrops_reference"}
_libraries: list[torch.library.Library] = []
operators: list[str] = []


@functools.cache
def _cuda_library_missing() -> str | None:
    """Load the CUDA kernels where this torch can use them; otherwise say why not. Does not initialise CUDA."""
    if torch.version.cuda is None:
        return "this torch is a CPU build; install a CUDA build of torch"
    library = pathlib.Path(_C.__file__).parent / "libhdrops_cuda.so"
    if not library.exists():
        return "hdrops was built without nvcc; put nvcc on PATH and reinstall"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library.name} did not load ({error})"
    return None


# The dispatcher must know the CUDA kernels before the first call.
_cuda_library_missing()


@functools.cache
def cuda_missing() -> str | None:
    """Why the CUDA kernels are inactive, or None."""
    return _cuda_library_missing() or (None if torch.cuda.is_available() else "no CUDA device is visible to torch")


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


@functools.cache
def triton_missing() -> str | None:
    """Why the Triton kernels are inactive, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install triton"
    if not interpreting() and not torch.cuda.is_available():
        return "no CUDA device is visible to torch; TRITON_INTERPRET=1 runs the kernels in Triton's interpreter"
    return None


@functools.cache
def _warn_missing(device: str, chosen: str, cause: str) -> None:
    what = "its Triton kernels" if chosen == "triton" else "its slow reference"
    warnings.warn(f"hdrops runs {what} on {device} tensors: {cause}", RuntimeWarning, stacklevel=3)


def provider(device: str) -> tuple[str, str]:
    """The backend that serves ``device`` ("cpu", "cuda", ...) and, where it is not the fastest, the reason."""
    if device == "cpu":
        return "cpp", ""
    if device != "cuda":
        return "reference", f"hdrops has no {device} kernels"
    cause = cuda_missing()
    if cause is None:
        return "cuda", ""
    without_triton = triton_missing()
    if without_triton is None:
        return "triton", cause
    return "reference", f"{cause}; {without_triton}"


def overload(operator: str, backend: str | None, tensor: torch.Tensor) -> Any:
    """The dispatcher's overload of ``operator`` for ``backend`` (None: the device's own provider)."""
    if backend is None:
        return getattr(torch.ops.hdrops, operator).default
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)} or None, got {backend!r}")
    device = tensor.device.type
    if backend == "cpp" and device != "cpu":
        raise ValueError(f"backend='cpp' takes CPU tensors, got a tensor on {device}; move it with .cpu()")
    if backend == "cuda":
        if device != "cuda":
            raise ValueError(f"backend='cuda' takes CUDA tensors, got a tensor on {device}; move it with .cuda()")
        if (cause := cuda_missing()) is not None:
            raise RuntimeError(f"backend='cuda' is not available: {cause}")
    if backend == "triton":
        if (cause := triton_missing()) is not None:
            raise RuntimeError(f"backend='triton' is not available: {cause}")
        if device != "cuda" and not interpreting():
            raise ValueError(f"backend='triton' takes CUDA tensors, got a tensor on {device}; move it with .cuda()")
    return getattr(getattr(torch.ops, _NAMESPACES[backend]), operator).default


def register(
    operator: str,
    module: str,
    *,
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> None:
    """Complete the operator declared in ``cpp/schema.cpp``.

    Its Triton and reference implementations are the functions of the same name in ``hdrops.kernels.<module>`` and
    ``hdrops.reference.<module>``.
    ``backward(namespace, ctx, *grads)`` gets the namespace it must call back into.
    """

    def implementation(package: str) -> Callable[..., Any]:
        return getattr(importlib.import_module(f"hdrops.{package}.{module}"), operator)  # type: ignore[no-any-return]

    def triton(*args: Any) -> Any:
        return implementation("kernels")(*args)

    def reference(*args: Any) -> Any:
        # Fresh results are contiguous, as the fake kernels promise.
        result = implementation("reference")(*args)
        if isinstance(result, tuple):
            return tuple(tensor.contiguous() for tensor in result)
        return result if result is None else result.contiguous()

    def without_native_kernel(*args: Any) -> Any:
        device = next(a.device.type for a in args if isinstance(a, torch.Tensor))
        chosen, cause = provider(device)
        _warn_missing(device, chosen, cause)
        return triton(*args) if chosen == "triton" else reference(*args)

    schema = str(getattr(torch.ops.hdrops, operator).default._schema).removeprefix("hdrops::")
    for namespace, kernel in (
        ("hdrops", without_native_kernel),
        ("hdrops_triton", triton),
        ("hdrops_reference", reference),
    ):
        library = torch.library.Library(namespace, "FRAGMENT")
        if namespace != "hdrops":
            library.define(schema)
        library.impl(operator, kernel, "CompositeExplicitAutograd")
        name = f"{namespace}::{operator}"
        torch.library.register_fake(name, fake, lib=library)
        if backward is not None:
            torch.library.register_autograd(
                name, functools.partial(backward, namespace), setup_context=setup_context, lib=library
            )
        _libraries.append(library)
    operators.append(operator)


def second_order(
    forward: Callable[..., torch.Tensor],
    inputs: list[torch.Tensor],
    grad: torch.Tensor,
    grad_outputs: list[torch.Tensor | None],
) -> tuple[torch.Tensor | None, ...]:
    """Vector-Jacobian product of ``(grad, *inputs) -> vjp(forward, inputs)(grad)``, through the reference.

    Serves the double backward of every operator: rare enough that one differentiable definition is worth more than a
    third kernel. Inputs of an integer type are constants.
    """
    with torch.enable_grad():
        variables = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
        active = [x for x in variables if x.requires_grad]
        upstream = grad.detach().requires_grad_()
        firsts = torch.autograd.grad(forward(*variables), active, upstream, create_graph=True, materialize_grads=True)
        wanted = [g for x, g in zip(variables, grad_outputs, strict=True) if x.requires_grad]
        used = [(f, g) for f, g in zip(firsts, wanted, strict=True) if g is not None and f.requires_grad]
        if not used:
            return (None,) * (1 + len(inputs))
        seconds = iter(
            torch.autograd.grad([f for f, _ in used], [upstream, *active], [g for _, g in used], allow_unused=True)
        )
    return (next(seconds), *(next(seconds) if x.requires_grad else None for x in variables))
