"""Demosaicing against its taps, written out pixel by pixel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hdrops.nn import demosaic

SITES = ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1))  # colour, row and column of each plane
CROSS = ((0, 1, 0), (1, 4, 1), (0, 1, 0))
SQUARE = ((1, 2, 1), (2, 4, 2), (1, 2, 1))


def planes(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def packed(scene: Tensor) -> Tensor:
    """The samples (N, 4, H, W) of a colour image (N, 3, 2H, 2W) at the pixels of its mosaic."""
    return torch.stack([scene[:, colour, y::2, x::2] for colour, y, x in SITES], 1)


def literal(raw: Tensor) -> Tensor:
    n, _, h, w = raw.shape
    sparse = raw.new_zeros(n, 3, 2 * h, 2 * w)
    for plane, (colour, y, x) in enumerate(SITES):
        sparse[:, colour, y::2, x::2] = raw[:, plane]
    around = F.pad(sparse, (1, 1, 1, 1), "reflect")
    out = torch.zeros_like(sparse)
    for y in range(2 * h):
        for x in range(2 * w):
            for colour, taps in enumerate((SQUARE, CROSS, SQUARE)):
                for v in range(3):
                    for u in range(3):
                        out[:, colour, y, x] += taps[v][u] / 4 * around[:, colour, y + v, x + u]
    return out


@pytest.mark.parametrize("size", [(5, 7), (2, 2), (1, 4), (3, 1), (1, 1)])
def test_taps(size: tuple[int, int]) -> None:
    raw = planes(2, 4, *size)
    torch.testing.assert_close(demosaic(raw), literal(raw), rtol=1e-14, atol=1e-15)


def test_flat_images_and_ramps() -> None:
    colours = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64).view(1, 3, 1, 1)
    flat = colours.expand(1, 3, 8, 10)
    torch.testing.assert_close(demosaic(packed(flat)), flat, rtol=1e-15, atol=0)
    y, x = (torch.arange(n, dtype=torch.float64) for n in (8, 10))
    ramp = colours + 0.02 * y[:, None] * torch.tensor([1.0, 2, -1]).view(1, 3, 1, 1) + 0.01 * x
    found = demosaic(packed(ramp))
    torch.testing.assert_close(found[..., 1:-1, 1:-1], ramp[..., 1:-1, 1:-1], rtol=1e-14, atol=0)
    assert (found - ramp).abs().max() <= 0.05 + 1e-12  # the outer pixels have the slope of one pixel less


def test_a_sample_spreads_around_its_place() -> None:
    """Over four pixels of red or blue and two of green, with the sample itself in the middle and unchanged."""
    for plane, (colour, row, column) in enumerate(SITES):
        raw = torch.zeros(1, 4, 5, 5, dtype=torch.float64)
        raw[0, plane, 2, 2] = 1
        out = demosaic(raw)[0]
        y, x = 4 + row, 4 + column
        assert out[colour, y, x] == 1
        assert out.sum() == out[colour].sum() == (2 if colour == 1 else 4)
        places = torch.arange(10, dtype=torch.float64)
        centre = ((out.sum((0, 2)) @ places) / out.sum(), (out.sum((0, 1)) @ places) / out.sum())
        assert centre == (y, x)


def test_gradients() -> None:
    raw = planes(1, 4, 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(demosaic, raw)
    assert torch.autograd.gradgradcheck(demosaic, raw)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype: torch.dtype) -> None:
    raw = planes(1, 4, 4, 5).to(dtype)
    found = demosaic(raw)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), literal(raw.double()), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_no_images() -> None:
    assert demosaic(torch.zeros(0, 4, 3, 2)).shape == (0, 3, 6, 4)


def test_export_of_any_size() -> None:
    class Module(torch.nn.Module):
        def forward(self, raw: Tensor) -> Tensor:
            return demosaic(raw)

    some = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)
    program = torch.export.export(Module(), (torch.rand(2, 4, 6, 5),), dynamic_shapes=some).module()
    raw = planes(3, 4, 7, 9).float()
    torch.testing.assert_close(program(raw), demosaic(raw))


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"floating point, got torch\.uint8; divide codes by their full scale"):
        demosaic(torch.zeros(1, 4, 2, 2, dtype=torch.uint8))
    for shape in ((4, 2, 2), (1, 3, 2, 2), (1, 4, 0, 2)):
        with pytest.raises(ValueError, match=r"planes must be \(N, 4, H, W\) with pixels, got shape"):
            demosaic(torch.zeros(shape))
