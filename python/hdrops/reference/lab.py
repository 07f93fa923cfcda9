"""Definition of the operator ``lab``; arguments as in ``cpp/schema.cpp``.

Tristimulus values X, Y, Z are over those of white, so that white is X = Y = Z = 1.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from hdrops.reference._autograd import differentiable
from hdrops.reference.gaussian import _stored
from hdrops.reference.imf import FULL_SCALE

# Chromaticities (x, y) of red, green and blue, and of the white D65 (IEC 61966-2-1).
PRIMARIES = tuple((Fraction(x), Fraction(y)) for x, y in (("0.64", "0.33"), ("0.30", "0.60"), ("0.15", "0.06")))
WHITE = (Fraction("0.3127"), Fraction("0.3290"))
# The curve of sRGB: a line up to THRESHOLD, a power beyond it.
THRESHOLD, SLOPE, OFFSET, EXPONENT = 0.04045, 12.92, 0.055, 2.4
# CIE 15: a cube root above (6/29)³, its tangent below.
DELTA = 6 / 29
ORIGIN = 4 / 29  # of the tangent at 0

Rows = tuple[tuple[Fraction, Fraction, Fraction], ...]


def _cofactors(m: Rows) -> Rows:
    def cofactor(i: int, j: int) -> Fraction:
        (a, b), (c, d) = ((m[k % 3][(j + 1) % 3], m[k % 3][(j + 2) % 3]) for k in (i + 1, i + 2))
        return a * d - b * c

    return tuple((cofactor(i, 0), cofactor(i, 1), cofactor(i, 2)) for i in range(3))


def _inverse(m: Rows) -> Rows:
    cofactors = _cofactors(m)
    determinant = sum(a * b for a, b in zip(m[0], cofactors[0], strict=True))
    return tuple(
        (row[0] / determinant, row[1] / determinant, row[2] / determinant) for row in zip(*cofactors, strict=True)
    )


def _rgb_to_xyz() -> Rows:
    """Of the primaries' tristimulus values over those of white, each times what makes their sum white."""

    def tristimulus(x: Fraction, y: Fraction) -> tuple[Fraction, Fraction, Fraction]:
        return x / y, Fraction(1), (1 - x - y) / y

    white = tristimulus(*WHITE)
    columns = [[value / w for value, w in zip(tristimulus(*p), white, strict=True)] for p in PRIMARIES]
    rows = tuple((row[0], row[1], row[2]) for row in zip(*columns, strict=True))
    gains = [sum(row) for row in _inverse(rows)]
    return tuple((row[0] * gains[0], row[1] * gains[1], row[2] * gains[2]) for row in rows)


# Rows sum to 1. Weights of R - G and B - G in X - G, Y - G and Z - G, and of X - Y and Z - Y in R - Y, G - Y and B - Y:
# neutral colours stay neutral to the bit.
RGB_TO_XYZ = [(float(row[0]), float(row[2])) for row in _rgb_to_xyz()]
XYZ_TO_RGB = [(float(row[0]), float(row[2])) for row in _inverse(_rgb_to_xyz())]


def _compute(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _mixed(first: Tensor, pivot: Tensor, last: Tensor, weights: list[tuple[float, float]]) -> list[Tensor]:
    return [pivot + a * (first - pivot) + b * (last - pivot) for a, b in weights]


def _odd(curve: Tensor, value: Tensor) -> Tensor:
    return torch.where(value < 0, -curve, curve)


def _wide(image: Tensor) -> Tensor:
    """In the arithmetic type, codes over their full scale; contiguous, since powers of torch depend on the layout."""
    return image.to(_compute(image)).contiguous() * (1 / FULL_SCALE.get(image.dtype, 1.0))


def _magnitude(value: Tensor) -> Tensor:
    """With the derivative 1 at 0, where that of the absolute value would be 0."""
    return torch.where(value < 0, -value, value)


def linear_light(value: Tensor) -> Tensor:
    """Linear light of display-referred sRGB, odd about 0 and without a bound."""
    magnitude = _magnitude(value)
    power = ((magnitude + OFFSET) / (1 + OFFSET)) ** EXPONENT
    return _odd(torch.where(magnitude <= THRESHOLD, magnitude / SLOPE, power), value)


def display(light: Tensor) -> Tensor:
    """The inverse of :func:`linear_light`."""
    magnitude = _magnitude(light)
    line = magnitude <= THRESHOLD / SLOPE
    power = (1 + OFFSET) * torch.where(line, 1.0, magnitude) ** (1 / EXPONENT) - OFFSET
    return _odd(torch.where(line, magnitude * SLOPE, power), light)


def lightness(t: Tensor) -> Tensor:
    """f(t) - f(0) of CIE 15."""
    curved = t > DELTA**3
    root = torch.where(curved, t, 1.0) ** (1 / 3) - ORIGIN
    return torch.where(curved, root, t / (3 * DELTA**2))


def tristimulus(g: Tensor) -> Tensor:
    """The inverse of :func:`lightness`."""
    return torch.where(g > DELTA - ORIGIN, (g + ORIGIN) ** 3, g * (3 * DELTA**2))


def to_lab(image: Tensor) -> Tensor:
    """L*, a*, b* in the arithmetic type."""
    red, green, blue = linear_light(_wide(image)).unbind(1)
    x, y, z = (lightness(t) for t in _mixed(red, green, blue, RGB_TO_XYZ))
    return torch.stack([116 * y, 500 * (x - y), 200 * (y - z)], 1)


def to_rgb(lab: Tensor) -> Tensor:
    """Display-referred sRGB in the arithmetic type, without bounds."""
    level, a, b = _wide(lab).unbind(1)
    y = level / 116
    x, y, z = (tristimulus(g) for g in (y + a / 500, y, y - b / 200))
    return torch.stack([display(light) for light in _mixed(x, y, z, XYZ_TO_RGB)], 1)


def rgb_to_lab(image: Tensor) -> Tensor:
    return to_lab(image).to(image.dtype if image.is_floating_point() else torch.float32)


def rgb_to_lab_out(image: Tensor, out: Tensor) -> None:
    out.copy_(rgb_to_lab(image))


def rgb_to_lab_backward(grad: Tensor, image: Tensor) -> Tensor:
    with differentiable():
        variable = image.detach().requires_grad_()
        out = to_lab(variable)
        return torch.autograd.grad(out, variable, grad.to(out.dtype))[0]


def lab_to_rgb(lab: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return _stored(to_rgb(lab), dtype or lab.dtype)


def lab_to_rgb_out(lab: Tensor, out: Tensor) -> None:
    out.copy_(lab_to_rgb(lab, out.dtype))


def lab_to_rgb_backward(grad: Tensor, lab: Tensor) -> Tensor:
    with differentiable():
        variable = lab.detach().requires_grad_()
        out = to_rgb(variable)
        return torch.autograd.grad(out, variable, grad.to(out.dtype))[0]
