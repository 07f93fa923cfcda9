"""Adversarial losses: Wang et al., "ESRGAN: enhanced super-resolution generative adversarial networks", ECCV workshops
2018, section 3.2, after Jolicoeur-Martineau's relativistic average discriminator."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def relativistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What a discriminator loses::

        D(a, b) = sigmoid(C(a) - E[C(b)])
        L = -E[log D(real, fake)] - E[log(1 - D(fake, real))]

    Args:
        real: C of real images, any shape, floating point.
        fake: C of generated ones.

    Returns:
        A number of their dtype, 2 log 2 where C tells nothing. Differentiable with respect to both.

    Raises:
        ValueError: one of them is empty.
    """
    _check(real, fake)
    return F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()


def relativistic_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the generator loses, the same with the roles exchanged::

        L = -E[log(1 - D(real, fake))] - E[log D(fake, real)]

    EMVNet's equation 6 prints D(real, fake) in both terms; this is ESRGAN's, which it refers to.

    Args:
        real, fake: as for :func:`relativistic_discriminator_loss`.

    Returns:
        As :func:`relativistic_discriminator_loss`.

    Raises:
        ValueError: one of them is empty.
    """
    _check(real, fake)
    return relativistic_discriminator_loss(fake, real)


def _check(real: Tensor, fake: Tensor) -> None:
    if real.numel() == 0 or fake.numel() == 0:
        raise ValueError("real and fake must both have values")
