"""The encodings in which HDR images are compared: μ-law, PQ and PU21, each with its inverse.

All are differentiable, take floating-point tensors of any shape, compute in float32 (float64 for float64) and give the
dtype of their input. NaN stays NaN; outside the range of an encoding its value is that of the nearest end, and the
gradient there is 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hdrops.ops import _arguments

MU = 5000.0

# SMPTE ST 2084:2014, section 5.2.
_PQ_M1 = 2610 / 16384
_PQ_M2 = 2523 / 4096 * 128
_PQ_C1 = 3424 / 4096
_PQ_C2 = 2413 / 4096 * 32
_PQ_C3 = 2392 / 4096 * 32
_PQ_BLACK = _PQ_C1**_PQ_M2
PQ_PEAK = 10000.0

# The fit that its authors recommend of the four ("banding_glare").
_PU21 = (0.353487901, 0.3734658629, 8.277049286e-05, 0.9062562627, 0.09150303166, 0.9099517204, 596.3148142)
PU21_RANGE = (0.005, 10000.0)


def _floating(array: Tensor, name: str) -> tuple[Tensor, torch.dtype]:
    tensor = _arguments.as_tensor(array, name)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}; divide codes by their largest value first")
    return tensor.to(_arguments.compute_dtype(tensor)), tensor.dtype


def _checked_mu(mu: float) -> float:
    if not 0 < mu < math.inf:
        raise ValueError(f"mu must be positive and finite, got {mu}")
    return mu


def mu_law_encode(linear: Tensor, mu: float = MU) -> Tensor:
    """μ-law, the range compressor of the HDR papers (Kalantari and Ramamoorthi 2017, eq. 2).

    ::

        T(H) = log(1 + μ H) / log(1 + μ)

    Args:
        linear: linear values H, 1 being white. Those below 0 count as 0, those above 1 go on along the curve.
        mu: strength of the compression, positive and finite.

    Returns:
        T(H), 0 at 0 and 1 at 1; same shape and dtype.

    Raises:
        TypeError: values that are not floating point.
        ValueError: mu out of range.
    """
    wide, dtype = _floating(linear, "linear")
    return (torch.log1p(_checked_mu(mu) * torch.where(wide < 0, 0.0, wide)) / math.log1p(mu)).to(dtype)


def mu_law_decode(encoded: Tensor, mu: float = MU) -> Tensor:
    """The linear values of μ-law, H = ((1 + μ)^T - 1) / μ; the inverse of :func:`mu_law_encode`.

    Args:
        encoded: T(H). Values below 0 count as 0.
        mu: as given to :func:`mu_law_encode`.

    Returns:
        H, same shape and dtype.

    Raises:
        TypeError, ValueError: as :func:`mu_law_encode`.
    """
    wide, dtype = _floating(encoded, "encoded")
    exponent = torch.where(wide < 0, 0.0, wide) * math.log1p(_checked_mu(mu))
    return (torch.expm1(exponent) / mu).to(dtype)


def pq_encode(luminance: Tensor) -> Tensor:
    """PQ, the perceptual quantizer of SMPTE ST 2084 (inverse EOTF).

    ::

        E = ((c1 + c2 Y^m1) / (1 + c3 Y^m1))^m2,   Y = L / 10000

    Args:
        luminance: absolute luminance L in cd/m², or linear RGB in these units; clamped to [0, 10000].

    Returns:
        E from 7.3e-7 at 0 (the standard's own value) to 1 at 10000 cd/m²; 0.5081 at 100. Same shape and dtype. The
        gradient grows without bound towards 0 and is 0 at 0.

    Raises:
        TypeError: values that are not floating point.
    """
    wide, dtype = _floating(luminance, "luminance")
    dark = wide <= 0
    power = (torch.where(dark, 1.0, wide).clamp(max=PQ_PEAK) / PQ_PEAK) ** _PQ_M1
    encoded = ((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power)) ** _PQ_M2
    return torch.where(dark, _PQ_BLACK, encoded).to(dtype)


def pq_decode(encoded: Tensor) -> Tensor:
    """The luminance of a PQ value (EOTF of SMPTE ST 2084); the inverse of :func:`pq_encode`.

    Args:
        encoded: E; clamped to the values of 0 and of 10000 cd/m².

    Returns:
        Absolute luminance in cd/m², same shape and dtype.

    Raises:
        TypeError: values that are not floating point.
    """
    wide, dtype = _floating(encoded, "encoded")
    root = wide.clamp(_PQ_BLACK, 1.0) ** (1 / _PQ_M2)
    power = (root - _PQ_C1).clamp(min=0) / (_PQ_C2 - _PQ_C3 * root)
    return (PQ_PEAK * power ** (1 / _PQ_M1)).to(dtype)


def pu21_encode(luminance: Tensor) -> Tensor:
    """PU21, the perceptually uniform encoding of Mantiuk and Azimi (Picture Coding Symposium 2021), "banding_glare".

    ::

        V = p7 (((p1 + p2 L^p4) / (1 + p3 L^p4))^p5 - p6)

    Args:
        luminance: absolute luminance L in cd/m², or linear RGB in these units; clamped to [0.005, 10000].

    Returns:
        V, which is 0 at 0.005 cd/m², 256.4 at 100, 595.4 at 10000; same shape and dtype.

    Raises:
        TypeError: values that are not floating point.
    """
    wide, dtype = _floating(luminance, "luminance")
    p1, p2, p3, p4, p5, p6, p7 = _PU21
    power = wide.clamp(*PU21_RANGE) ** p4
    return (p7 * (((p1 + p2 * power) / (1 + p3 * power)) ** p5 - p6)).to(dtype)


def pu21_decode(encoded: Tensor) -> Tensor:
    """The luminance of a PU21 value; the inverse of :func:`pu21_encode`.

    Args:
        encoded: V; what lies outside the values of 0.005 and of 10000 cd/m² counts as the nearer of them.

    Returns:
        Absolute luminance in cd/m², same shape and dtype.

    Raises:
        TypeError: values that are not floating point.
    """
    wide, dtype = _floating(encoded, "encoded")
    p1, p2, p3, p4, p5, p6, p7 = _PU21
    low, high = pu21_encode(torch.tensor(PU21_RANGE, dtype=torch.float64)).tolist()
    root = (wide.clamp(low, high) / p7 + p6) ** (1 / p5)
    return (((root - p1) / (p2 - p3 * root)) ** (1 / p4)).to(dtype)
