"""Sharpness without a reference: LPC-SI and S3."""

from __future__ import annotations

import functools
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from hdrops.metrics._images import Color, check_choice, check_size, checked, measure, one_by_one

S3Map = Literal["s1", "s2", "s3"]
Pooling = Literal["top_floor", "top_ceil", "mean"]

# LPC-SI: wavelengths 4 s for the scales s, the weights of their phases, the number of orientations.
_SCALES = (1.0, 1.5, 2.0)
_WEIGHTS = (1, -3, 2)
_ORIENTATIONS = 8

# S3: side and step of the blocks of the spectral slope, side of those of the total variation.
_BLOCK = 32
_STEP = 8
_SMALL = 8

# Blocks transformed at a time.
_BLOCKS = 512


def _polar_frequencies(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Radius and angle of the bins of a DFT, (height, width); the highest frequency of odd sizes is taken as 1/2."""

    def axis(size: int) -> Tensor:
        steps = torch.fft.ifftshift(torch.arange(size, device=device) - size // 2)
        frequencies: Tensor = steps.to(torch.float64) / (size - size % 2)
        return frequencies

    x, y = axis(width), axis(height)[:, None]
    return torch.hypot(x, y), torch.atan2(-y, x)


def _log_gabor(height: int, width: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """The radial factors of the filters, one for each scale, and the angular ones, one for each orientation."""
    radius, theta = _polar_frequencies(height, width, device)
    low_pass = 1 / (1 + (radius / 0.45) ** 30)
    radius[0, 0] = 1
    radial = []
    for scale in _SCALES:
        bandpass = torch.exp(-((radius * (4 * scale)).log() / math.log(0.75)).square() / 2) * low_pass
        bandpass[0, 0] = 0
        radial.append(bandpass)
    spread = math.pi / _ORIENTATIONS / 1.5
    angular = []
    for orientation in range(_ORIENTATIONS):
        turn = (theta - orientation * math.pi / _ORIENTATIONS).abs()
        turn = torch.minimum(turn, 2 * math.pi - turn)
        angular.append(torch.exp(-(turn / spread).square() / 2))
    return radial, angular


def lpc_si(image: Tensor, *, color: Color = "grey") -> Tensor:
    """Sharpness index of local phase coherence (LPC-SI): 0 blurred, 1 sharp.

    Hassen, Wang and Salama, "Image sharpness assessment based on local phase coherence", IEEE Transactions on Image
    Processing 2013.

    Complex log-Gabor responses c of three scales and eight orientations; at each pixel and orientation the coherence is
    the cosine of ``φ1 - 3 φ2 + 2 φ3``, φ being their phases from fine to coarse, and 0 where that is negative. It is
    averaged over the orientations with weights ``max(0, |c1| - T)``, T being the mean of ``|c1|`` plus twice its
    standard deviation, and 2 added to the sum of the weights. The index is the mean of the N averages, in falling
    order, with weights ``exp(-(k - 1) / (N - 1) / 1e-4)``. A border of a sixteenth of the shorter side, rounded, counts
    neither in T nor in the mean.

    The values are those of the authors' version 1.0, whose filters have the bandwidth 0.75 on the logarithmic axis. A
    flat image, for which that code gives NaN, has no coherence and gets 0.

    Args:
        image: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; at least 2 x 2 pixels.
        color: "grey" measures the grey image, "mean" measures each channel and takes the mean.

    Returns:
        float64 (N,); 0 for a flat image; NaN where a float image is not finite.

    Raises:
        TypeError: image is of another dtype.
        ValueError: image has another shape or is too small, or color is unknown.
    """
    tensor = checked(image, "image")
    check_size(tensor, 2)
    height, width = tensor.shape[-2:]
    border = (min(height, width) + 8) // 16
    radial, angular = _log_gabor(height, width, tensor.device)

    def centre(x: Tensor) -> Tensor:
        return x[border : height - border, border : width - border]

    def score(image: Tensor) -> Tensor:
        picture = image[0]
        # No filter passes a constant; taking one off keeps flat images free of the transform's rounding.
        spectrum = torch.fft.fft2(picture - picture[0, 0])
        coherent = torch.zeros_like(picture)
        weight = torch.full_like(picture, 2)
        for direction in angular:
            turned = spectrum * direction
            finest, *coarser = (torch.fft.ifft2(turned * band) for band in radial)
            energy = finest.abs()
            energy = (energy - centre(energy).mean() - 2 * centre(energy).std()).clamp_min_(0)
            strong = energy.nonzero(as_tuple=True)
            phase = sum(w * c[strong].angle() for w, c in zip(_WEIGHTS, (finest, *coarser), strict=True))
            coherent[strong] += torch.cos(phase).clamp_min(0) * energy[strong]
            weight += energy
        values = centre(coherent / weight).flatten()
        # What comes after has a weight below 1e-17 of the first.
        kept = min(len(values), math.ceil(40e-4 * (len(values) - 1)) + 1)
        rank = torch.arange(kept, dtype=values.dtype, device=values.device)
        weights = torch.exp(-rank / (len(values) - 1) / 1e-4)
        return (values.topk(kept).values * weights).sum() / weights.sum()

    return measure(functools.partial(one_by_one, score), color, tensor)


@functools.cache
def _polar_average() -> Tensor:
    """The matrix from the magnitudes of half a block's spectrum, (32, 17) row by row, to their means on 16 circles.

    360 points on each circle, interpolated between the four bins around. As published, the weights of the two bins are
    exchanged along an axis on which the coordinate is negative, points being told apart by the sign that their
    coordinates have after rounding: the sine of π is positive, the cosine of 3π/2 negative.
    """
    matrix = torch.zeros(_BLOCK // 2, _BLOCK, _BLOCK // 2 + 1, dtype=torch.float64)

    def bins(coordinate: float) -> list[tuple[int, float]]:
        """The two bins around a coordinate, and the weight of each."""
        inner, outer = math.trunc(coordinate), int(math.copysign(math.ceil(abs(coordinate)), coordinate))
        share = abs(coordinate - (outer if outer < 0 else inner))
        return [(inner, 1 - share), (outer, share)]

    for ring in range(_BLOCK // 2):
        for degree in range(360):
            turn = degree / 360 * (2 * math.pi)
            for row, row_weight in bins((ring + 1) * math.sin(turn)):
                for column, column_weight in bins((ring + 1) * math.cos(turn)):
                    # The magnitudes of a real block are the same at opposite frequencies; the mean of the block gives
                    # way to that of its two neighbours.
                    targets = [(row, column, 1.0)] if row or column else [(0, 1, 0.5), (1, 0, 0.5)]
                    for y, x, part in targets:
                        y, x = (-y, -x) if x < 0 else (y, x)
                        matrix[ring, y % _BLOCK, x] += part * row_weight * column_weight / 360
    return matrix.flatten(1)


def _mirrored(image: Tensor, border: int) -> Tensor:
    """Each side of (H, W) extended by its mirror image, edge included."""
    for dim in (0, 1):
        first, last = image.narrow(dim, 0, border), image.narrow(dim, -border, border)
        image = torch.cat([first.flip(dim), image, last.flip(dim)], dim)
    return image


def _spread(values: Tensor, height: int, width: int, shift: int) -> Tensor:
    """The value of each 8 x 8 cell on its pixels, cells starting ``shift`` before the image; 0 where there is none."""
    pixels = values.repeat_interleave(_STEP, 0).repeat_interleave(_STEP, 1)[shift:, shift:][:height, :width]
    missing = (0, width - pixels.shape[1], 0, height - pixels.shape[0])
    return torch.nn.functional.pad(pixels, missing)


def _spectral_map(image: Tensor, zero_ends: bool) -> Tensor:
    """s1: 0 for a steep amplitude spectrum or no contrast, 1 for a flat spectrum."""
    height, width = image.shape
    padded = _mirrored(image, _BLOCK // 2)

    # Contrast, in the luminance of a display, anywhere on a grid of 8 x 8 blocks four apart.
    luminance = (0.7656 + 0.0364 * padded) ** 2.2
    small = luminance[None, None]
    highest = torch.nn.functional.max_pool2d(small, _SMALL, _SMALL // 2)
    lowest = -torch.nn.functional.max_pool2d(-small, _SMALL, _SMALL // 2)
    visible = (highest - lowest > 5) & (torch.nn.functional.avg_pool2d(small, _SMALL, _SMALL // 2) > 2)
    contrasted = torch.nn.functional.max_pool2d(visible.to(image.dtype), _BLOCK // 4 - 1, 2)[0, 0] > 0

    steps = torch.arange(_BLOCK, dtype=image.dtype, device=image.device)
    turn = steps / (_BLOCK - 1) if zero_ends else (steps + 1) / (_BLOCK + 1)
    taper = (math.pi * turn).sin().square()
    window = torch.outer(taper, taper)
    average = _polar_average().to(image.device).mT
    radius = torch.arange(1, _BLOCK // 2 + 1, dtype=image.dtype, device=image.device).log()
    radius -= radius.mean()
    fit = radius / radius.square().sum()

    blocks = padded.unfold(0, _BLOCK, _STEP).unfold(1, _BLOCK, _STEP)
    chosen = contrasted.nonzero(as_tuple=True)
    result = torch.zeros_like(contrasted, dtype=image.dtype)
    for start in range(0, len(chosen[0]), _BLOCKS):
        places = tuple(index[start : start + _BLOCKS] for index in chosen)
        spectrum = torch.fft.rfft2(blocks[places] * window).abs().flatten(1)
        amplitudes = (spectrum @ average).clamp_min(torch.finfo(image.dtype).tiny)
        slope = -(amplitudes.log() @ fit)
        result[places] = torch.sigmoid(-3 * (slope - 2))
    return _spread(result, height, width, _STEP // 2)


def _spatial_map(image: Tensor) -> Tensor:
    """s2: the largest total variation of 2 x 2 pixels in the 8 x 8 block, of two grids of blocks the larger."""
    height, width = image.shape
    maps = []
    for border in (_SMALL, _SMALL // 2):
        padded = _mirrored(image, border)
        a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
        variation = (a - b).abs() + (a - c).abs() + (a - d).abs() + (d - c).abs() + (c - b).abs() + (d - b).abs()
        blocks = torch.nn.functional.max_pool2d(variation[None, None], _SMALL - 1, _SMALL)[0, 0] / (4 * 255)
        maps.append(_spread(blocks, height, width, border))
    return torch.maximum(*maps)


def s3(
    image: Tensor,
    *,
    sharpness: S3Map = "s3",
    pooling: Pooling = "top_floor",
    zero_ends: bool = False,
    color: Color = "grey",
) -> Tensor:
    """Spectral and spatial sharpness (S3): larger is sharper.

    Vu, Phan and Chandler, "S3: a spectral and spatial measure of local perceived sharpness in natural images", IEEE
    Transactions on Image Processing 2012.

    - s1, spectral: the slope of the amplitude spectrum of 32 x 32 blocks, eight apart, under a Hann window, from a
      line through the logarithms of its means on 16 circles, as ``1 - 1 / (1 + exp(-3 (slope - 2)))``; 0 where the
      luminance ``(0.7656 + 0.0364 x)^2.2`` has no contrast.
    - s2, spatial: a quarter of the largest total variation of 2 x 2 pixels on 0-1 in each 8 x 8 block, the larger one
      of two grids of blocks.
    - s3: the square root of their product, pixel by pixel.

    The values are those of the authors' code, which exchanges the weights of two bins where it interpolates at
    negative frequencies, and leaves cells at the right and lower border at 0 that lie half outside.

    Args:
        image: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; at least 17 x 17 pixels.
        sharpness: the map to pool.
        pooling: the mean over the largest hundredth of the N pixels of the map, ⌊N/100⌋ or ⌈N/100⌉ of them, or over
            all. The paper takes the highest 1 % and leaves the rounding open.
        zero_ends: whether the Hann window begins and ends with 0. The authors' code calls ``hanning``, which in MATLAB
            leaves the zeros out and in GNU Octave keeps them; with them s3 of photographs differs by about 1 %, the
            mean of s1 by up to 7 %.
        color: "grey" measures the grey image, "mean" measures each channel and takes the mean.

    Returns:
        float64 (N,); 0 for a flat image; NaN where a float image is not finite.

    Raises:
        TypeError: image is of another dtype.
        ValueError: image has another shape or is too small, or another argument is unknown.
    """
    tensor = checked(image, "image")
    check_choice("sharpness", sharpness, get_args(S3Map))
    check_choice("pooling", pooling, get_args(Pooling))
    check_size(tensor, _BLOCK // 2 + 1)

    def score(image: Tensor) -> Tensor:
        picture = image[0]
        if sharpness == "s1":
            values = _spectral_map(picture, zero_ends)
        elif sharpness == "s2":
            values = _spatial_map(picture)
        else:
            values = (_spectral_map(picture, zero_ends) * _spatial_map(picture)).sqrt()
        if pooling == "mean":
            return values.mean()
        count = values.numel() // 100 if pooling == "top_floor" else -(-values.numel() // 100)
        return values.flatten().topk(count).values.mean()

    return measure(functools.partial(one_by_one, score), color, tensor)
