"""The content loss of Ren, Fan and Huang, "Robust real-world image enhancement based on multi-exposure LDR images",
WACV 2023, section 4.2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hdrops.losses import _pixels
from hdrops.metrics.domains import MU, mu_law_encode

Domain = Literal["mu", "none"]
NAMES = ("last", "second", "first")


class ContentLoss(nn.Module):
    """L_c of the pictures of all hourglasses (eq. 5)::

        L_c = L1(Y) + 0.75 L1(Y') + 0.5 L1(Y''),   L1(X) = mean |T(X) - T(Y*)|

    Y, Y' and Y'' are the pictures of the last, the second and the first hourglass, Y* is the target.

    Args:
        domain: what T is. "mu" for linear values, which the paper leaves open but whose results it gives there: μ-law,
            ``T(x) = log(1 + μ x) / log(1 + μ)``, and ``T(-x) = -T(x)``, so that the gradient of a negative prediction
            does not vanish. "none" for values that are compared as they are.
        mu: μ, positive and finite.
        weights: of the last, the second and the first picture.

    Raises:
        ValueError: a domain that is not offered, mu out of range, or weights that are not three numbers from 0.
    """

    def __init__(
        self, domain: Domain = "mu", *, mu: float = MU, weights: tuple[float, float, float] = (1, 0.75, 0.5)
    ) -> None:
        super().__init__()
        if domain not in get_args(Domain):
            raise ValueError(f"domain must be 'mu' or 'none', got {domain!r}")
        if not 0 < mu < math.inf:
            raise ValueError(f"mu must be positive and finite, got {mu}")
        if len(weights) != len(NAMES) or not all(0 <= weight < math.inf for weight in weights):
            raise ValueError(f"weights must be three numbers from 0, got {weights}")
        self.domain, self.mu, self.weights = domain, mu, weights

    def extra_repr(self) -> str:
        return f"domain={self.domain!r}, mu={self.mu}, weights={self.weights}"

    def terms(self, pictures: Sequence[Tensor], target: Tensor) -> dict[str, Tensor]:
        """The terms with their weights, as "last", "second" and "first": the loss is their sum.

        Args:
            pictures: of the last, the second and the first hourglass, as :class:`hdrops.models.emvnet.Pictures` has
                them: (N, C, H, W) each, floating point, nominally in [0, 1], not clamped.
            target: the image wanted; same shape.

        Returns:
            Scalars, float32 (float64 for float64 images). Differentiable with respect to the pictures and the target.

        Raises:
            TypeError: images that are not floating point.
            ValueError: other than three pictures, or shapes that differ.
        """
        if len(pictures) != len(NAMES):
            raise ValueError(f"pictures must be those of the last, second and first hourglass, got {len(pictures)}")
        result: dict[str, Tensor] = {}
        for name, weight, picture in zip(NAMES, self.weights, pictures, strict=True):
            prediction, wanted = _pixels.operands(picture, target)
            result[name] = weight * (self._encoded(prediction) - self._encoded(wanted)).abs().mean()
        return result

    def forward(self, pictures: Sequence[Tensor], target: Tensor) -> Tensor:
        """The loss, a scalar; arguments as for :meth:`terms`."""
        return torch.stack([*self.terms(pictures, target).values()]).sum()

    def _encoded(self, values: Tensor) -> Tensor:
        if self.domain == "none":
            return values
        return torch.where(values < 0, -mu_law_encode(-values, self.mu), mu_law_encode(values, self.mu))
