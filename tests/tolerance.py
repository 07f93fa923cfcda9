"""How far a result may lie from its definition in float64: comparators that raise AssertionError."""

from __future__ import annotations

import torch
from torch import Tensor


def ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance of neighbouring numbers of ``dtype`` at ``values``, in float64."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(values.double().abs().clamp(min=info.tiny)).exponent - 1
    return torch.ldexp(torch.full_like(values, info.eps, dtype=torch.float64), exponent)


def _check(actual: Tensor, exact: Tensor, bound: Tensor, what: str) -> None:
    """|actual - exact| <= bound where exact is finite, the same NaN and the same infinities elsewhere."""
    assert actual.shape == exact.shape, f"{what}: shape {tuple(actual.shape)}, not {tuple(exact.shape)}"
    actual, exact = actual.detach().cpu().double(), exact.detach().cpu()
    finite = exact.isfinite()
    special = torch.equal(actual[~finite].nan_to_num(123.0), exact[~finite].nan_to_num(123.0))
    assert special, f"{what}: NaN or infinities are not where the definition has them"
    error = torch.where(finite, (actual - exact).abs(), 0.0)
    excess = torch.where(finite & ~(error <= bound.detach().cpu()), error, -1.0)
    if excess.numel() and (worst := int(excess.argmax())) >= 0 and excess.flatten()[worst] >= 0:
        where = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), exact.shape))
        raise AssertionError(
            f"{what}: {int((excess >= 0).sum())} of {excess.numel()} values beyond the tolerance; "
            f"worst at {where}: got {actual[where].item():.9g}, exact {exact[where].item():.9g}, "
            f"error {error[where].item():.3g}, allowed {bound[where].item():.3g}"
        )
    assert not actual[finite].isnan().any(), f"{what}: NaN where the definition is finite"


def assert_close(actual: Tensor, exact: Tensor, k: float, scale: float, what: str = "result") -> None:
    """float32 and float64: k eps(dtype) (|exact| + scale)."""
    _check(actual, exact, k * torch.finfo(actual.dtype).eps * (exact.abs() + scale), what)


def assert_half(actual: Tensor, eager: Tensor, exact: Tensor, what: str = "result") -> None:
    """float16 and bfloat16: twice the error of PyTorch in the same dtype, and one unit in the last place."""
    assert actual.dtype == eager.dtype
    bound = 2 * (eager.detach().cpu().double() - exact).abs() + ulp(exact, actual.dtype)
    _check(actual, exact, torch.where(exact.isfinite(), bound, 0.0), what)


def assert_codes(actual: Tensor, exact: Tensor, slack: float, what: str = "result") -> None:
    """Integer results: within half a code and ``slack`` of the exact value before rounding."""
    limit = float(torch.iinfo(actual.dtype).max)
    exact = exact.nan_to_num(0.0).clamp(0, limit)
    _check(actual, exact, torch.full_like(exact, 0.5 + slack), what)


def assert_gradient(
    actual: Tensor, exact: Tensor, relative: float, bias: float | None = None, what: str = "gradient"
) -> None:
    """Relative L2 distance, cosine and bias (mean error over mean magnitude) of a gradient."""
    assert actual.shape == exact.shape, f"{what}: shape {tuple(actual.shape)}, not {tuple(exact.shape)}"
    if actual.numel() == 0:
        return
    actual = actual.detach().cpu().double()
    assert actual.isfinite().all(), f"{what} is not finite"
    error, norm = actual - exact, exact.norm()
    if norm == 0:
        assert (actual == 0).all(), f"{what} must be zero"
        return
    distance = float(error.norm() / norm)
    assert distance <= relative, f"{what}: relative L2 distance {distance:.3g}, allowed {relative:.3g}"
    cosine = float(torch.dot(actual.flatten(), exact.flatten()) / (actual.norm() * norm))
    # The cosine itself is only known to the rounding of float64.
    slack = relative**2 + 1e-14
    assert cosine >= 1 - slack, f"{what}: 1 - cosine is {1 - cosine:.3g}, allowed {slack:.3g}"
    allowed = relative if bias is None else bias
    drift = float(error.mean().abs() / exact.abs().mean())
    assert drift <= allowed, f"{what}: bias {drift:.3g} of the mean magnitude, allowed {allowed:.3g}"
