"""Relativistic losses against their definition."""

from __future__ import annotations

import math

import pytest
import torch

from hdrops.losses import relativistic_discriminator_loss, relativistic_generator_loss


def test_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(5, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    of_real, of_fake = (real - fake.mean()).sigmoid(), (fake - real.mean()).sigmoid()
    found = relativistic_discriminator_loss(real, fake)
    torch.testing.assert_close(found, -(of_real.log().mean() + (1 - of_fake).log().mean()))
    found = relativistic_generator_loss(real, fake)
    torch.testing.assert_close(found, -((1 - of_real).log().mean() + of_fake.log().mean()))


def test_extremes() -> None:
    """Where C tells nothing, and where the sigmoid is 0 or 1 in float32."""
    same = torch.full((3, 1), 7.0)
    assert relativistic_discriminator_loss(same, same).item() == pytest.approx(2 * math.log(2))
    real, fake = torch.full((2, 1), 500.0), torch.full((4, 1), -500.0)
    assert relativistic_discriminator_loss(real, fake) == 0
    assert relativistic_generator_loss(real, fake) == 2000


def test_gradients() -> None:
    values = [torch.randn(4, 1, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(relativistic_discriminator_loss, values)
    assert torch.autograd.gradcheck(relativistic_generator_loss, values)


def test_nothing() -> None:
    for one, other in ((torch.zeros(0, 1), torch.zeros(1, 1)), (torch.zeros(1, 1), torch.zeros(0, 1))):
        for loss in (relativistic_discriminator_loss, relativistic_generator_loss):
            with pytest.raises(ValueError, match="must both have values"):
                loss(one, other)
