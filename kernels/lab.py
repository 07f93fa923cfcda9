"""Triton kernels of ``lab``; arguments as in ``cpp/schema.cpp``, definition in ``hdrops.reference.lab``.

One pass, a program taking a run of pixels of one image with their three channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdrops.kernels._launch import _store, full_scale, on_device
from hdrops.reference.lab import (
    DELTA,
    EXPONENT,
    OFFSET,
    ORIGIN,
    RGB_TO_XYZ,
    SLOPE,
    THRESHOLD,
    XYZ_TO_RGB,
)

BLOCK = 512

_THRESHOLD = tl.constexpr(THRESHOLD)
_SLOPE = tl.constexpr(SLOPE)
_OFFSET = tl.constexpr(OFFSET)
_EXPONENT = tl.constexpr(EXPONENT)
_ORIGIN = tl.constexpr(ORIGIN)
_DELTA = tl.constexpr(DELTA)
_RGB_TO_XYZ = tl.constexpr(tuple(RGB_TO_XYZ))
_XYZ_TO_RGB = tl.constexpr(tuple(XYZ_TO_RGB))


@triton.jit
def _with_sign_of(value, magnitude):
    return tl.where(value < 0, -magnitude, magnitude)


@triton.jit
def _power(x, EXPONENT: tl.constexpr, T: tl.constexpr):
    return tl.exp2(tl.log2(x) * tl.full([], EXPONENT, T))


@triton.jit
def _base(magnitude, T: tl.constexpr):
    """Of which the curve of sRGB is a power."""
    return magnitude * tl.full([], 1 / (1 + _OFFSET), T) + tl.full([], _OFFSET / (1 + _OFFSET), T)


@triton.jit
def _linear_light(value, T: tl.constexpr):
    magnitude = _with_sign_of(value, value)
    line = magnitude * tl.full([], 1 / _SLOPE, T)
    power = _power(_base(magnitude, T), _EXPONENT, T)
    return _with_sign_of(value, tl.where(magnitude <= tl.full([], _THRESHOLD, T), line, power))


@triton.jit
def _linear_light_slope(value, T: tl.constexpr):
    magnitude = _with_sign_of(value, value)
    slope = tl.full([], _EXPONENT / (1 + _OFFSET), T) * _power(_base(magnitude, T), _EXPONENT - 1, T)
    return tl.where(magnitude <= tl.full([], _THRESHOLD, T), tl.full([], 1 / _SLOPE, T), slope)


@triton.jit
def _display(light, T: tl.constexpr):
    magnitude = _with_sign_of(light, light)
    line = magnitude <= tl.full([], _THRESHOLD / _SLOPE, T)
    root = _power(tl.where(line, 1.0, magnitude), 1 / _EXPONENT, T)
    power = tl.full([], 1 + _OFFSET, T) * root - tl.full([], _OFFSET, T)
    return _with_sign_of(light, tl.where(line, magnitude * tl.full([], _SLOPE, T), power))


@triton.jit
def _display_slope(light, T: tl.constexpr):
    magnitude = _with_sign_of(light, light)
    line = magnitude <= tl.full([], _THRESHOLD / _SLOPE, T)
    power = _power(tl.where(line, 1.0, magnitude), 1 / _EXPONENT - 1, T)
    return tl.where(line, tl.full([], _SLOPE, T), tl.full([], (1 + _OFFSET) / _EXPONENT, T) * power)


@triton.jit
def _cube_root(t, T: tl.constexpr):
    """Of t > (6/29)³, 1 elsewhere; one Newton step after the power."""
    bounded = tl.where(t > tl.full([], _DELTA * _DELTA * _DELTA, T), t, 1.0)
    root = _power(bounded, 1 / 3, T)
    better = root + (bounded / (root * root) - root) * tl.full([], 1 / 3, T)
    return tl.where(better == better, better, root)


@triton.jit
def _lightness(t, T: tl.constexpr):
    """f(t) - f(0)."""
    line = t * tl.full([], 1 / (3 * _DELTA * _DELTA), T)
    curved = t > tl.full([], _DELTA * _DELTA * _DELTA, T)
    return tl.where(curved, _cube_root(t, T) - tl.full([], _ORIGIN, T), line)


@triton.jit
def _lightness_slope(t, T: tl.constexpr):
    root = _cube_root(t, T)
    curved = t > tl.full([], _DELTA * _DELTA * _DELTA, T)
    slope = tl.full([], 1 / 3, T) / (root * root)
    return tl.where(curved, slope, tl.full([], 1 / (3 * _DELTA * _DELTA), T))


@triton.jit
def _tristimulus(g, T: tl.constexpr):
    """The inverse of _lightness."""
    root = g + tl.full([], _ORIGIN, T)
    line = g * tl.full([], 3 * _DELTA * _DELTA, T)
    return tl.where(g > tl.full([], _DELTA - _ORIGIN, T), root * root * root, line)


@triton.jit
def _tristimulus_slope(g, T: tl.constexpr):
    root = g + tl.full([], _ORIGIN, T)
    return tl.where(g > tl.full([], _DELTA - _ORIGIN, T), 3 * (root * root), tl.full([], 3 * _DELTA * _DELTA, T))


@triton.jit
def _mixed(first, pivot, third, MATRIX: tl.constexpr, T: tl.constexpr):
    """``pivot`` and the weighted differences from it, by rows."""
    a, b = first - pivot, third - pivot
    return (
        pivot + tl.full([], MATRIX[0][0], T) * a + tl.full([], MATRIX[0][1], T) * b,
        pivot + tl.full([], MATRIX[1][0], T) * a + tl.full([], MATRIX[1][1], T) * b,
        pivot + tl.full([], MATRIX[2][0], T) * a + tl.full([], MATRIX[2][1], T) * b,
    )


@triton.jit
def _mixed_gradient(x, y, z, MATRIX: tl.constexpr, T: tl.constexpr):
    """The gradient of what _mixed took, from that of its result."""
    first = tl.full([], MATRIX[0][0], T) * x + tl.full([], MATRIX[1][0], T) * y + tl.full([], MATRIX[2][0], T) * z
    third = tl.full([], MATRIX[0][1], T) * x + tl.full([], MATRIX[1][1], T) * y + tl.full([], MATRIX[2][1], T) * z
    return first, x + y + z - first - third, third


@triton.jit
def _xyz_of_rgb(r, g, b, T: tl.constexpr):
    return _mixed(_linear_light(r, T), _linear_light(g, T), _linear_light(b, T), _RGB_TO_XYZ, T)


@triton.jit
def _lightness_of_lab(level, a, b, T: tl.constexpr):
    y = level * tl.full([], 1 / 116, T)
    return y + a * tl.full([], 1 / 500, T), y, y - b * tl.full([], 1 / 200, T)


@triton.jit
def _light_of_lab(gx, gy, gz, T: tl.constexpr):
    return _mixed(_tristimulus(gx, T), _tristimulus(gy, T), _tristimulus(gz, T), _XYZ_TO_RGB, T)


@triton.jit
def _pixels(plane, blocks, BLOCK: tl.constexpr):
    """Offsets of the first channel of this program's pixels, and which of them there are."""
    program = tl.program_id(0).to(tl.int64)
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    return program // blocks * 3 * plane + at, at < plane


@triton.jit
def _load_colours(image, at, mask, plane, FULL: tl.constexpr, T: tl.constexpr):
    unit = tl.full([], 1 / FULL, T)
    first = tl.load(image + at, mask=mask, other=0).to(T) * unit
    second = tl.load(image + at + plane, mask=mask, other=0).to(T) * unit
    third = tl.load(image + at + 2 * plane, mask=mask, other=0).to(T) * unit
    return first, second, third


@triton.jit
def _store_colours(image, at, mask, plane, first, second, third, FULL: tl.constexpr):
    if FULL > 1:
        first, second, third = first.to(tl.float32), second.to(tl.float32), third.to(tl.float32)
    _store(image + at, first * FULL, mask, FULL)
    _store(image + at + plane, second * FULL, mask, FULL)
    _store(image + at + 2 * plane, third * FULL, mask, FULL)


@triton.jit
def to_lab_kernel(image, out, plane, blocks, FULL: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    at, mask = _pixels(plane, blocks, BLOCK)
    r, g, b = _load_colours(image, at, mask, plane, FULL, T)
    x, y, z = _xyz_of_rgb(r, g, b, T)
    gx, gy, gz = _lightness(x, T), _lightness(y, T), _lightness(z, T)
    _store_colours(out, at, mask, plane, 116 * gy, 500 * (gx - gy), 200 * (gy - gz), 1)


@triton.jit
def to_rgb_kernel(lab, out, plane, blocks, FULL: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    at, mask = _pixels(plane, blocks, BLOCK)
    level, a, b = _load_colours(lab, at, mask, plane, 1, T)
    gx, gy, gz = _lightness_of_lab(level, a, b, T)
    red, green, blue = _light_of_lab(gx, gy, gz, T)
    _store_colours(out, at, mask, plane, _display(red, T), _display(green, T), _display(blue, T), FULL)


@triton.jit
def to_lab_backward_kernel(grad, image, out, plane, blocks, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    at, mask = _pixels(plane, blocks, BLOCK)
    r, g, b = _load_colours(image, at, mask, plane, 1, T)
    of_level, of_a, of_b = _load_colours(grad, at, mask, plane, 1, T)
    x, y, z = _xyz_of_rgb(r, g, b, T)
    of_a, of_b = 500 * of_a, 200 * of_b
    of_x = of_a * _lightness_slope(x, T)
    of_y = (116 * of_level - of_a + of_b) * _lightness_slope(y, T)
    of_z = -of_b * _lightness_slope(z, T)
    red, green, blue = _mixed_gradient(of_x, of_y, of_z, _RGB_TO_XYZ, T)
    red, green, blue = (
        red * _linear_light_slope(r, T),
        green * _linear_light_slope(g, T),
        blue * _linear_light_slope(b, T),
    )
    _store_colours(out, at, mask, plane, red, green, blue, 1)


@triton.jit
def to_rgb_backward_kernel(grad, lab, out, plane, blocks, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    T: tl.constexpr = tl.float64 if WIDE else tl.float32
    at, mask = _pixels(plane, blocks, BLOCK)
    level, a, b = _load_colours(lab, at, mask, plane, 1, T)
    of_red, of_green, of_blue = _load_colours(grad, at, mask, plane, 1, T)
    gx, gy, gz = _lightness_of_lab(level, a, b, T)
    red, green, blue = _light_of_lab(gx, gy, gz, T)
    of_red, of_green, of_blue = (
        of_red * _display_slope(red, T),
        of_green * _display_slope(green, T),
        of_blue * _display_slope(blue, T),
    )
    x, y, z = _mixed_gradient(of_red, of_green, of_blue, _XYZ_TO_RGB, T)
    x, y, z = x * _tristimulus_slope(gx, T), y * _tristimulus_slope(gy, T), z * _tristimulus_slope(gz, T)
    of_level = (x + y + z) * tl.full([], 1 / 116, T)
    _store_colours(out, at, mask, plane, of_level, x * tl.full([], 1 / 500, T), -z * tl.full([], 1 / 200, T), 1)


def _launch(kernel: object, inputs: list[Tensor], out: Tensor, **constants: object) -> None:
    if out.numel() == 0:
        return
    n, _, height, width = out.shape
    blocks = triton.cdiv(height * width, BLOCK)
    wide = inputs[-1].dtype == torch.float64
    with on_device(out):
        kernel[(n * blocks,)](
            *(x.contiguous() for x in inputs), out, height * width, blocks, **constants, WIDE=wide, BLOCK=BLOCK
        )


def rgb_to_lab(image: Tensor) -> Tensor:
    out = image.new_empty(image.shape, dtype=image.dtype if image.is_floating_point() else torch.float32)
    rgb_to_lab_out(image, out)
    return out


def rgb_to_lab_out(image: Tensor, out: Tensor) -> None:
    _launch(to_lab_kernel, [image], out, FULL=full_scale(image.dtype))


def rgb_to_lab_backward(grad: Tensor, image: Tensor) -> Tensor:
    out = image.new_empty(image.shape)
    _launch(to_lab_backward_kernel, [grad, image], out)
    return out


def lab_to_rgb(lab: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    out = lab.new_empty(lab.shape, dtype=dtype or lab.dtype)
    lab_to_rgb_out(lab, out)
    return out


def lab_to_rgb_out(lab: Tensor, out: Tensor) -> None:
    _launch(to_rgb_kernel, [lab], out, FULL=full_scale(out.dtype))


def lab_to_rgb_backward(grad: Tensor, lab: Tensor) -> Tensor:
    out = lab.new_empty(lab.shape)
    _launch(to_rgb_backward_kernel, [grad, lab], out)
    return out
