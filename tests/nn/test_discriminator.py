"""The discriminator: its size, any crop, and that it can learn."""

from __future__ import annotations

import pytest
import torch

from hdrops.losses import relativistic_discriminator_loss
from hdrops.nn import VGGDiscriminator


def test_number_of_weights() -> None:
    """Layer by layer, as published."""
    with torch.device("meta"):
        model = VGGDiscriminator()
    convolutions = 3 * 64 * 9 + 64 + sum(a * b * 9 for a, b in ((64, 128), (128, 256), (256, 512), (512, 512)))
    convolutions += sum(a * a * 16 for a in (64, 128, 256, 512, 512))
    norms = 2 * (64 + 2 * (128 + 256 + 512 + 512))
    linear = 512 * 16 * 100 + 100 + 100 + 1
    assert sum(p.numel() for p in model.parameters()) == convolutions + norms + linear


@pytest.mark.parametrize("size", [(32, 32), (33, 70), (128, 128)])
def test_any_crop(size: tuple[int, int]) -> None:
    model = VGGDiscriminator(4, 2)
    assert model(torch.rand(2, 4, *size)).shape == (2, 1)


def test_it_learns() -> None:
    """Flat images from noisy ones."""
    torch.manual_seed(0)
    model = VGGDiscriminator(1, 4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(30):
        flat = torch.rand(8, 1, 1, 1).expand(8, 1, 32, 32)
        loss = relativistic_discriminator_loss(model(flat), model(torch.rand(8, 1, 32, 32)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_too_small() -> None:
    with pytest.raises(ValueError, match="at least 32 pixels"):
        VGGDiscriminator(3, 2)(torch.rand(1, 3, 31, 64))
    with pytest.raises(ValueError, match="at least 1"):
        VGGDiscriminator(0)
