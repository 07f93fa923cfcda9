"""Tiles give what the whole image gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hdrops.nn import tiled
from hdrops.nn.tiling import tiles


def network(mode: str = "zeros", channels: int = 2) -> torch.nn.Module:
    """Three convolutions: a field of 7 x 7."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(channels, channels, 3, padding=1, padding_mode=mode) for _ in range(3)]
    return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]).double()


def image(height: int, width: int) -> Tensor:
    return torch.rand(2, 2, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("tile", [1, 4, 7, (3, 100), (100, 5), 64])
@torch.no_grad()
def test_tiled_equals_whole(tile: int | tuple[int, int], mode: str) -> None:
    for height, width in ((23, 31), (7, 1), (2, 40)):
        if mode == "reflect" and min(height, width) < 2:
            continue
        x = image(height, width)
        model = network(mode)
        whole = model(x)
        actual = tiled(model, [x], torch.full_like(x, torch.nan), tile=tile, halo=3)
        torch.testing.assert_close(actual, whole, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_short_halo_shows() -> None:
    x, model = image(23, 31), network()
    actual = tiled(model, [x], torch.empty_like(x), tile=8, halo=2)
    assert (actual - model(x)).abs().max() > 1e-4


@torch.no_grad()
def test_memory_is_that_of_a_tile() -> None:
    sizes = []

    def watched(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape[-2:]))
        return x

    x = image(50, 61)
    assert torch.equal(tiled(watched, [x], torch.empty_like(x), tile=(10, 20), halo=3), x)
    assert len(sizes) == 5 * 4
    assert max(h for h, _ in sizes) <= 16
    assert max(w for _, w in sizes) <= 26


def test_tiles_cover_every_pixel_once_and_evenly() -> None:
    for height, width, tile in ((1, 1, 5), (13, 100, 8), (0, 5, 4), (16, 16, 16), (17, 33, (16, 7))):
        seen = torch.zeros(height, width, dtype=torch.int32)
        shapes = set()
        for rows, columns in tiles(height, width, tile):
            seen[rows, columns] += 1
            shapes.add((rows.stop - rows.start, columns.stop - columns.start))
        assert bool((seen == 1).all())
        assert len(shapes) <= 4
        assert max((max(h, w) for h, w in shapes), default=0) <= 16


@torch.no_grad()
def test_several_images_and_another_dtype() -> None:
    x, y = image(9, 10), image(9, 10)[:, :1]
    out = torch.empty(2, 2, 9, 10, dtype=torch.uint8)
    actual = tiled(lambda x, y: 100 * (x + y), [x, y], out, tile=4, halo=0)
    assert actual is out
    assert torch.equal(out, (100 * (x + y)).to(torch.uint8))


def test_wrong_arguments() -> None:
    x = image(9, 10)
    with pytest.raises(ValueError, match="must agree in height and width"):
        tiled(torch.relu, [x, x[..., 1:]], torch.empty_like(x), tile=4, halo=0)
    with pytest.raises(ValueError, match="halo must be 0 or more"):
        tiled(torch.relu, [x], torch.empty_like(x), tile=4, halo=-1)
    for tile in (0, (3, 0), (3,), (3, 4, 5)):
        with pytest.raises(ValueError, match="at least one pixel a side, as a number or"):
            tiled(torch.relu, [x], torch.empty_like(x), tile=tile, halo=1)
    with pytest.raises(ValueError, match=r"keep height and width: \(5, 6\) became \(4, 5\)"):
        tiled(lambda x: x[..., 1:, 1:], [x], torch.empty_like(x), tile=5, halo=1)
