"""Camera responses: how a camera turns relative exposure into codes.

A response maps exposure in [0, 1], 1 where the sensor saturates, to values in [0, 1]; it never falls, 0 gives 0 and 1
gives 1. Exposure outside [0, 1] is clipped. Here are parametric families, the empirical model of responses (EMoR) of
Grossberg and Nayar, and draws from them for training data. A drawn response is a function of one tensor that can be
pickled.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from hdrops.io.brightness import srgb_encode
from hdrops.io.errors import InputError

Response: TypeAlias = Callable[[Tensor], Tensor]

_EMOR_SAMPLES = 1024
_EMOR_SPREAD, _EMOR_DECAY = 2.0, 2.0
_SHRINK = 0.8
_DISPLAY_GAMMA = 1 / 2.2


def _clipped(exposure: Tensor) -> Tensor:
    if not exposure.is_floating_point():
        raise TypeError(f"exposure must be floating point, got {exposure.dtype}")
    return exposure.clamp(0, 1)


def _check_positive(**parameters: float) -> None:
    for name, value in parameters.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")


def gamma_response(exposure: Tensor, gamma: float = _DISPLAY_GAMMA) -> Tensor:
    """The power law f(x) = x^gamma.

    Args:
        exposure: floating point, any shape.
        gamma: exponent, positive.

    Returns:
        Values in [0, 1], same shape and dtype.

    Raises:
        TypeError: exposure is not floating point.
        ValueError: gamma out of range.
    """
    _check_positive(gamma=gamma)
    return _clipped(exposure) ** gamma


def srgb_response(exposure: Tensor) -> Tensor:
    """The transfer function of sRGB (IEC 61966-2-1): linear up to 0.0031308, then a power of 1/2.4.

    Args:
        exposure: floating point, any shape, on the CPU.

    Returns:
        Values in [0, 1], same shape and dtype.

    Raises:
        TypeError: exposure is not floating point.
    """
    return torch.from_numpy(np.asarray(srgb_encode(_clipped(exposure).double().numpy()))).to(exposure.dtype)


def sigmoid_response(exposure: Tensor, a: float = 0.6, n: float = 0.9) -> Tensor:
    """The sigmoid that Eilertsen et al. (HDRCNN, 2017) fit to the database of responses (DoRF).

    ::

        f(x) = (1 + a) x^n / (x^n + a)

    Args:
        exposure: floating point, any shape.
        a: where the shoulder lies, positive; they draw it from N(0.6, 0.1).
        n: slope, positive; they draw it from N(0.9, 0.1).

    Returns:
        Values in [0, 1], same shape and dtype.

    Raises:
        TypeError: exposure is not floating point.
        ValueError: a parameter out of range.
    """
    _check_positive(a=a, n=n)
    power = _clipped(exposure) ** n
    return ((1 + a) * power / (power + a)).clamp(max=1)


def log_response(exposure: Tensor, scale: float = 30.0, power: float = 1.0) -> Tensor:
    """The curve of film-like profiles: logarithmic, with a linear foot.

    ::

        f(x) = (log(1 + scale x) / log(1 + scale))^power

    Args:
        exposure: floating point, any shape.
        scale: how far the logarithm reaches into the shadows, positive.
        power: contrast, positive.

    Returns:
        Values in [0, 1], same shape and dtype.

    Raises:
        TypeError: exposure is not floating point.
        ValueError: a parameter out of range.
    """
    _check_positive(scale=scale, power=power)
    return (torch.log1p(scale * _clipped(exposure)) / math.log1p(scale)).clamp(max=1) ** power


def contrast_response(
    exposure: Tensor, contrast: float = 1.4, shift: float = 0.0, gamma: float = _DISPLAY_GAMMA
) -> Tensor:
    """The curve of a camera's picture styles: x^gamma, bent to an S with a toe and a shoulder.

    ::

        f(x) = 1 / (1 + 2^shift ((1 - u) / u)^contrast),   u = x^gamma

    Args:
        exposure: floating point, any shape.
        contrast: slope of the S in log odds, positive; above 1 it presses shadows and highlights, 1 is no S.
        shift: of the middle of the S, in powers of two of the odds; positive darkens.
        gamma: exponent, positive.

    Returns:
        Values in [0, 1], same shape and dtype.

    Raises:
        TypeError: exposure is not floating point.
        ValueError: a parameter out of range.
    """
    _check_positive(contrast=contrast, gamma=gamma)
    if not math.isfinite(shift):
        raise ValueError(f"shift must be finite, got {shift}")
    u = _clipped(exposure) ** gamma
    rising = u**contrast
    bent: Tensor = rising / (rising + 2.0**shift * (1 - u) ** contrast)
    return bent


def polynomial_response(
    exposure: Tensor, coefficients: Sequence[float] = (0.2, 0.5, 0.8), gamma: float = _DISPLAY_GAMMA
) -> Tensor:
    """A polynomial of x^gamma in Bernstein's form, which never falls because its coefficients do not.

    ::

        f(x) = sum over k of c_k B(k, n; x^gamma),   0 = c_0 <= c_1 <= ... <= c_n = 1

    Args:
        exposure: floating point, any shape.
        coefficients: c_1 to c_(n-1), in [0, 1], never falling.
        gamma: exponent, positive.

    Returns:
        Values in [0, 1], same shape and dtype.

    Raises:
        TypeError: exposure is not floating point.
        ValueError: coefficients that fall or leave [0, 1], gamma out of range.
    """
    _check_positive(gamma=gamma)
    points = (0.0, *coefficients, 1.0)
    if not all(low <= high for low, high in itertools.pairwise(points)):
        raise ValueError(f"coefficients must rise from 0 to 1, got {tuple(coefficients)}")
    t = _clipped(exposure) ** gamma
    # De Casteljau's scheme only takes averages: rounding cannot make it fall by more than an ulp.
    rows = [t.new_full((), value) for value in points]
    while len(rows) > 1:
        rows = [torch.lerp(low.expand_as(t), high.expand_as(t), t) for low, high in itertools.pairwise(rows)]
    return rows[0]


def table_response(exposure: Tensor, table: Tensor) -> Tensor:
    """A response given by its values at equal steps of exposure from 0 to 1, linear in between.

    Args:
        exposure: floating point, any shape.
        table: (M,), M >= 2, floating point, never falling from 0 to 1.

    Returns:
        Values in [0, 1], same shape and dtype.

    Raises:
        TypeError: exposure is not floating point.
        ValueError: a table of another shape or other ends, or one that falls.
    """
    if table.dim() != 1 or len(table) < 2 or not table.is_floating_point():
        raise ValueError(f"table must be (M,) floating point with M >= 2, got {table.dtype} {tuple(table.shape)}")
    if not (float(table[0]) == 0 and float(table[-1]) == 1 and bool((table.diff() >= 0).all())):
        raise ValueError("table must never fall and run from 0 to 1")
    place = _clipped(exposure) * (len(table) - 1)
    below = place.floor().clamp(max=len(table) - 2)
    index = below.long()
    values = table.to(exposure)
    return torch.lerp(values[index], values[index + 1], place - below)


@dataclass(frozen=True, eq=False)
class EmpiricalResponses:
    """The empirical model of responses (EMoR): a mean curve and a basis of deviations from it.

    Grossberg and Nayar, "Modeling the space of camera response functions", PAMI 2004.

    Attributes:
        mean: (1024,) float64, f0 at equal steps of exposure from 0 to 1.
        basis: (M, 1024) float64, the deviations h_1 to h_M, the most important first.
    """

    mean: Tensor
    basis: Tensor

    def curve(self, coefficients: Sequence[float] | Tensor) -> Tensor:
        """The response f0 + Σ c_k h_k; where it would fall, all coefficients are reduced by 0.8 until it does not.

        The mean rises, and monotone curves are a convex set: some reduction always suffices.

        Args:
            coefficients: c_1 to c_m, m <= M, finite.

        Returns:
            A table of the response, (1024,) float64, for :func:`table_response`.

        Raises:
            ValueError: too many coefficients, or such as are not finite.
        """
        c = torch.as_tensor(coefficients, dtype=torch.float64)
        if c.dim() != 1 or len(c) > len(self.basis) or not bool(c.isfinite().all()):
            raise ValueError(f"coefficients must be at most {len(self.basis)} finite numbers, got {coefficients}")
        deviation = c @ self.basis[: len(c)]
        table = self.mean + deviation
        while bool((table.diff() < 0).any()):
            deviation = deviation * _SHRINK
            table = self.mean + deviation
        return table

    def draw(self, generator: np.random.Generator) -> Response:
        """A random response.

        The covariance of the coefficients over real cameras is not part of the published files. Here they are
        independent, c_k ~ N(0, (2 / k²)²): 99 % of the variance lies in the first three, as for real cameras, and
        one standard deviation of the first is the way from a display gamma of 2.2 to 1.6 or 2.9.

        Args:
            generator: the source of randomness.

        Returns:
            The response.
        """
        order = np.arange(1, len(self.basis) + 1)
        coefficients = generator.standard_normal(len(order)) * _EMOR_SPREAD / order**_EMOR_DECAY
        return functools.partial(table_response, table=self.curve(torch.from_numpy(coefficients)))


def read_emor(path: str | os.PathLike[str]) -> EmpiricalResponses:
    """Read the file ``emor.txt`` of the EMoR database: ``E =``, ``f0 =`` and ``h(k)=``, 1024 numbers each.

    Args:
        path: the file.

    Returns:
        The mean and the basis.

    Raises:
        InputError: a file that cannot be read or is none of this kind.
    """
    file = pathlib.Path(path)
    try:
        text = file.read_text("ascii")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text file; give emor.txt of the EMoR database") from error
    parts = re.split(r"^\s*(E|f0|h\(\d+\))\s*=\s*$", text, flags=re.MULTILINE)
    blocks: dict[str, Tensor] = {}
    try:
        for name, numbers in zip(parts[1::2], parts[2::2], strict=True):
            blocks[name] = torch.tensor([float(number) for number in numbers.split()], dtype=torch.float64)
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); give emor.txt of the EMoR database") from error
    count = len(blocks) - 2
    names = ["E", "f0", *(f"h({k})" for k in range(1, count + 1))]
    if count < 1 or sorted(blocks) != sorted(names):
        raise InputError(f"{file} does not hold E, f0 and h(1) to h(M); give emor.txt of the EMoR database")
    wrong = next((name for name in names if len(blocks[name]) != _EMOR_SAMPLES), None)
    if wrong is not None:
        raise InputError(f"{file} has {len(blocks[wrong])} numbers of {wrong}, not {_EMOR_SAMPLES}; copy it again")
    values = torch.stack([blocks[name] for name in names])
    mean, basis = values[1], values[2:].clone()
    # The numbers are printed with seven digits; the ends are exact by definition.
    basis[:, 0] = basis[:, -1] = 0
    if not bool(values.isfinite().all()) or mean[0] != 0 or mean[-1] != 1 or bool((mean.diff() < 0).any()):
        raise InputError(f"{file} has a mean response that does not rise from 0 to 1; give emor.txt, not invemor.txt")
    return EmpiricalResponses(mean=mean, basis=basis)


def _draw_gamma(generator: np.random.Generator) -> Response:
    return functools.partial(gamma_response, gamma=1 / generator.uniform(1.6, 2.8))


def _draw_srgb(generator: np.random.Generator) -> Response:
    return srgb_response


def _draw_sigmoid(generator: np.random.Generator) -> Response:
    a, n = max(0.2, generator.normal(0.6, 0.1)), max(0.5, generator.normal(0.9, 0.1))
    return functools.partial(sigmoid_response, a=a, n=n)


def _draw_log(generator: np.random.Generator) -> Response:
    scale, power = 10 ** generator.uniform(0.7, 2.0), generator.uniform(0.85, 1.2)
    return functools.partial(log_response, scale=scale, power=power)


def _draw_contrast(generator: np.random.Generator) -> Response:
    contrast, shift, gamma = generator.uniform(1.0, 2.0), generator.normal(0.0, 0.4), 1 / generator.uniform(1.8, 2.6)
    return functools.partial(contrast_response, contrast=contrast, shift=shift, gamma=gamma)


def _draw_polynomial(generator: np.random.Generator) -> Response:
    steps = generator.dirichlet([6.0] * 5)
    coefficients = tuple(float(value) for value in np.minimum(np.cumsum(steps[:-1]), 1.0))
    return functools.partial(polynomial_response, coefficients=coefficients, gamma=1 / generator.uniform(1.8, 2.4))


RESPONSE_FAMILIES: dict[str, Callable[[np.random.Generator], Response]] = {
    "gamma": _draw_gamma,
    "srgb": _draw_srgb,
    "sigmoid": _draw_sigmoid,
    "log": _draw_log,
    "contrast": _draw_contrast,
    "polynomial": _draw_polynomial,
}


# Of pictures as cameras write them, few follow a plain power or sRGB: most have the S of a picture style.
_WEIGHTS = {"gamma": 1.0, "srgb": 1.0, "sigmoid": 2.0, "log": 2.0, "contrast": 4.0, "polynomial": 2.0}
_EMOR_WEIGHT = 4.0


def draw_response(
    generator: np.random.Generator,
    families: Sequence[str] = tuple(RESPONSE_FAMILIES),
    emor: EmpiricalResponses | None = None,
) -> Response:
    """A random camera response: first its family, by the weights of those asked for, then its parameters.

    ========== ====== ========================================================================================
    family     weight parameters
    ========== ====== ========================================================================================
    gamma      1      1/gamma ~ U(1.6, 2.8)
    srgb       1      none
    sigmoid    2      a ~ N(0.6, 0.1), n ~ N(0.9, 0.1), as HDRCNN draws them
    log        2      log10(scale) ~ U(0.7, 2), power ~ U(0.85, 1.2)
    contrast   4      contrast ~ U(1, 2), shift ~ N(0, 0.4), 1/gamma ~ U(1.8, 2.6)
    polynomial 2      five steps of the coefficients ~ a symmetric Dirichlet distribution (6), 1/gamma ~ U(1.8, 2.4)
    ========== ====== ========================================================================================

    Args:
        generator: the source of randomness.
        families: names of the above, at least one unless ``emor`` is given.
        emor: the empirical model, one more family of weight 4 where given (:meth:`EmpiricalResponses.draw`).

    Returns:
        The response.

    Raises:
        ValueError: an unknown family, or none.
    """
    unknown = [name for name in families if name not in RESPONSE_FAMILIES]
    if unknown:
        raise ValueError(f"unknown family of responses {unknown[0]!r}; known are {', '.join(RESPONSE_FAMILIES)}")
    draws = [RESPONSE_FAMILIES[name] for name in families]
    weights = [_WEIGHTS[name] for name in families]
    if emor is not None:
        draws.append(emor.draw)
        weights.append(_EMOR_WEIGHT)
    if not draws:
        raise ValueError("families must name at least one family of responses, or emor be given")
    place = generator.random() * sum(weights)
    return draws[int(np.searchsorted(np.cumsum(weights)[:-1], place, "right"))](generator)
