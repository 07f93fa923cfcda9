"""Differentiation inside a kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """Record gradients even where the dispatcher has gone below autograd, as it has inside an operator's kernel."""
    guard = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
    with torch.enable_grad(), guard:
        yield
