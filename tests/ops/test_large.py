"""Images of more than 2^31 elements, opt-in: every index beyond 32 bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hdrops
from hdrops_cli.memory import available

pytestmark = pytest.mark.large
WIDTH = 46_400
HEIGHT = 46_400  # 2.15e9 elements, 2^31 is 2.147e9
BOUNDARY = 2**31


def skip_below(gigabytes: int) -> None:
    if available() < gigabytes * 2**30:
        pytest.skip(f"needs {gigabytes} GiB of free memory")


def codes(shape: tuple[int, ...], period: int) -> Tensor:
    """Codes with a prime period, so that a wrong index shows."""
    out = torch.empty(shape, dtype=torch.uint8)
    flat = out.view(-1)
    pattern = torch.arange(period).remainder(256).to(torch.uint8).repeat(2**20 // period + 1)
    step = len(pattern) // period * period
    for begin in range(0, len(flat), step):
        part = flat[begin : begin + step]
        part.copy_(pattern[: len(part)])
    return out


def windows(total: int) -> list[slice]:
    size = 1 << 16
    return [slice(0, size), slice(BOUNDARY - size // 2, BOUNDARY + size // 2), slice(total - size, total)]


@pytest.mark.parametrize("low", [(5, 55), (5, 100)], ids=["permutations", "joint-table"])
def test_imf_fuse(low: tuple[int, int]) -> None:
    skip_below(8)
    dark, bright = codes((1, 1, HEIGHT, WIDTH), 251), codes((1, 1, HEIGHT, WIDTH), 241)
    assert dark.numel() > BOUNDARY
    tables = hdrops.gamma_imf(4.0, 0.3), hdrops.gamma_imf(0.25, 0.3)
    result = hdrops.imf_fuse(dark, bright, *tables, low=low).view(-1)
    for window in windows(dark.numel()):
        d, b = (x.view(-1)[window].view(1, 1, 1, -1) for x in (dark, bright))
        expected = hdrops.imf_fuse(d, b, *tables, low=low, backend="reference").view(-1)
        assert int((result[window].int() - expected.int()).abs().max()) <= 1


def test_estimate_imf() -> None:
    skip_below(6)
    source = codes((1, HEIGHT, WIDTH), 256)
    flat = torch.zeros_like(source)
    table = hdrops.estimate_imf(source, source)
    torch.testing.assert_close(table, torch.arange(256.0)[None], rtol=1e-6, atol=1e-5)
    table = hdrops.estimate_imf(flat, source)
    assert table.isfinite().all()
    assert float(table[0, 0]) == pytest.approx(127.5, abs=1.0)


def test_exposure_fusion() -> None:
    skip_below(8)
    count = BOUNDARY // (2 * 3 * 32 * 32) + 64
    bracket = codes((count, 2, 3, 32, 32), 251)
    assert bracket.numel() > BOUNDARY
    result = hdrops.exposure_fusion(bracket)
    for first in (0, BOUNDARY // (2 * 3 * 32 * 32) - 2, count - 4):
        expected = hdrops.exposure_fusion(bracket[first : first + 4])
        assert torch.equal(result[first : first + 4], expected)


def test_lab() -> None:
    skip_below(8)
    side = 26_760
    lab = torch.empty(1, 3, side, side, dtype=torch.float16)
    assert lab.numel() > BOUNDARY
    period = torch.arange(99_991).remainder(251) / 251
    for plane, (middle, range_) in zip(lab[0].view(3, -1), ((40, 60), (-30, 60), (-20, 40)), strict=True):
        pattern = (middle + range_ * period).half().repeat(11)
        for begin in range(0, len(plane), len(pattern)):
            part = plane[begin : begin + len(pattern)]
            part.copy_(pattern[: len(part)])
        period = period.flip(0)
    result = hdrops.lab_to_rgb(lab, dtype=torch.uint8).view(3, -1)
    first = BOUNDARY - 2 * side**2  # the pixel whose blue is the first beyond 32 bits
    for pixels in (slice(0, 1 << 16), slice(first - (1 << 15), first + (1 << 15)), slice(side**2 - (1 << 16), None)):
        some = lab.view(3, -1)[:, pixels].reshape(1, 3, 1, -1)
        expected = hdrops.lab_to_rgb(some, dtype=torch.uint8, backend="reference").view(3, -1)
        assert int((result[:, pixels].int() - expected.int()).abs().max()) <= 1
