"""Test pictures: exposures of one synthetic scene, noise, and photographs where they are at hand.

Neighbouring pixels and exposures of photographs are alike, and that decides how look-ups meet the cache:
random bytes are the worst case and stand in a row of their own.
"""

from __future__ import annotations

import functools
import os
import pathlib

import numpy as np
import torch
from torch import Tensor

SIZES = {"tiny": (192, 256), "1080p": (1080, 1920), "4k": (2160, 3840), "12mp": (3000, 4000)}
SWEEP = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 100)
TILE = 2048
DATA = os.environ.get("HDROPS_TEST_DATA", pathlib.Path(__file__).resolve().parents[2] / "shared/data")
PHOTOGRAPHS = pathlib.Path(DATA) / "brackets/highres/library"


def sweep_size(megapixels: float) -> tuple[int, int]:
    """Height and width of a 4:3 picture, multiples of 4."""
    width = 4 * round((megapixels * 1e6 * 4 / 3) ** 0.5 / 4)
    return 4 * round(megapixels * 1e6 / width / 4), width


@functools.cache
def _radiance() -> Tensor:
    """Log2 radiance of the scene (3, TILE, TILE): smooth fields of several scales, and texture."""
    random = np.random.default_rng(20)
    field = torch.zeros(3, TILE, TILE)
    for cells, stops in ((6, 3.0), (24, 1.5), (96, 0.7), (384, 0.3)):
        grey = random.standard_normal((1, 1, cells, cells))
        colour = 0.25 * random.standard_normal((1, 3, cells, cells))
        coarse = torch.from_numpy((grey + colour).astype(np.float32))
        field += stops * torch.nn.functional.interpolate(coarse, (TILE, TILE), mode="bicubic")[0]
    return field - field.median()


@functools.cache
def _tile(step: float) -> Tensor:
    """One exposure in [0, 1], ``step`` stops from the middle one: gamma response, sensor noise, clipped."""
    random = np.random.default_rng(100 + round(8 * step))
    value = (0.2 * torch.exp2(_radiance() + step)).clamp(0, 1) ** (1 / 2.2)
    noise = torch.from_numpy(random.standard_normal(tuple(value.shape), dtype=np.float32))
    return (value + noise * 1.5 / 255).clamp(0, 1)


def _cover(tile: Tensor, height: int, width: int) -> Tensor:
    """The tile, mirrored as often as it takes."""
    down, across = -(-height // TILE), -(-width // TILE)
    rows = torch.cat([tile.flip(-2) if i % 2 else tile for i in range(down)], -2)[..., :height, :]
    return torch.cat([rows.flip(-1) if i % 2 else rows for i in range(across)], -1)[..., :width].contiguous()


def _quantise(image: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype.is_floating_point:
        return image.to(dtype)
    full = {torch.uint8: 255, torch.uint16: 65535}[dtype]
    return (image * full).round().to(torch.int32).to(dtype)


def exposures(height: int, width: int, steps: tuple[float, ...], dtype: torch.dtype) -> list[Tensor]:
    """Exposures (3, H, W) of the synthetic scene, ``steps`` stops from the middle one, codes or [0, 1]."""
    return [_quantise(_cover(_tile(step), height, width), dtype) for step in steps]


def noise(height: int, width: int, count: int) -> list[Tensor]:
    """Independent uniform random bytes (3, H, W)."""
    generator = torch.Generator().manual_seed(22)
    return [torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator) for _ in range(count)]


@functools.cache
def photographs(height: int = 0, width: int = 0, frames: tuple[int, ...] = (0, 2)) -> list[Tensor] | None:
    """The middle of frames of a real bracket (3, H, W), whole ones without a size, or None where it is absent."""
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))
    if len(files) <= max(frames):
        return None
    import cv2

    pictures = []
    for k in frames:
        image = cv2.imread(str(files[k]), cv2.IMREAD_COLOR)
        if image is None or image.shape[0] < height or image.shape[1] < width:
            return None
        rows, columns = height or image.shape[0], width or image.shape[1]
        top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
        crop = image[top : top + rows, left : left + columns, ::-1].transpose(2, 0, 1)
        pictures.append(torch.from_numpy(np.ascontiguousarray(crop)))
    return pictures
