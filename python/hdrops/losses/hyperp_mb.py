"""The targets and the loss of Im, Son, Kwon and Lee, "Multi-task learning approach using dynamic hyperparameter for
multi-exposure fusion", Mathematics 2023, 11, 1620."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hdrops.losses import _pixels
from hdrops.nn.gamma import adaptive_gamma
from hdrops.ops._borders import Border
from hdrops.ops.gaussian import SIGMAS, gaussian_mask
from hdrops.ops.ssim import MS_SSIM_WEIGHTS, ms_ssim


class MaskBuilder(nn.Module):
    """Where an underexposed image tells of the scene, and where an overexposed one does (section 3.3, eq. 1 to 5).

    Args:
        sigma: standard deviation of the blur in pixels, 0.3 to 200. The paper finds 10 the best of 10, 20 and 50.
        radius: of its window in pixels; round(3 sigma) by default, which gives the paper's 6 sigma + 1 taps.
        border: as for :func:`hdrops.gaussian_mask`; the paper leaves it open.

    Raises:
        ValueError: sigma out of range.
    """

    def __init__(self, sigma: float = 10.0, *, radius: int | None = None, border: Border = "reflect") -> None:
        super().__init__()
        if not SIGMAS[0] <= sigma <= SIGMAS[1]:
            raise ValueError(f"sigma must be {SIGMAS[0]:g} to {SIGMAS[1]:g} pixels, got {sigma}")
        self.sigma, self.radius, self.border = sigma, radius, border

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}, radius={self.radius}, border={self.border!r}"

    def forward(self, under: Tensor, over: Tensor) -> tuple[Tensor, Tensor]:
        """The masks of both images.

        Args:
            under: underexposed grey images (N, 1, H, W), of any type that :func:`hdrops.gaussian_mask` takes.
            over: overexposed ones.

        Returns:
            Masks in [0, 1], of the shapes of the images. The first is 0 in the darkest area of ``under`` (eq. 4), the
            second in the brightest area of ``over`` (eq. 5). A flat image is not masked at all.

        Raises:
            TypeError, ValueError: what :func:`hdrops.gaussian_mask` raises.
        """
        return (
            gaussian_mask(under, self.sigma, radius=self.radius, border=self.border),
            gaussian_mask(over, self.sigma, invert=True, radius=self.radius, border=self.border),
        )


class ParamTuner(nn.Module):
    """How much an under- and an overexposed image are to count (section 3.5, eq. 10 to 13).

    ::

        λ_i = β D_i / (D_1 + D_2),   D_1 = |γ(under) - γ(correct)|,   D_2 = |γ(over) - γ(correct)|

    with γ of :func:`hdrops.nn.adaptive_gamma`. Where both differences are 0, which the paper leaves open, both λ are
    β / 2.

    Args:
        tau: τ of the exponents, positive; the paper takes 3.
        beta: β, the sum of both weights, positive; the paper takes 2.

    Raises:
        ValueError: tau or beta out of range.
    """

    def __init__(self, tau: float = 3.0, beta: float = 2.0) -> None:
        super().__init__()
        if not 0 < tau < math.inf or not 0 < beta < math.inf:
            raise ValueError(f"tau and beta must be positive, got {tau} and {beta}")
        self.tau, self.beta = tau, beta

    def extra_repr(self) -> str:
        return f"tau={self.tau}, beta={self.beta}"

    def forward(self, under: Tensor, correct: Tensor, over: Tensor) -> Tensor:
        """λ_1 and λ_2.

        Args:
            under: underexposed grey images (N, 1, H, W), floating point in [0, 1].
            correct: correctly exposed ones.
            over: overexposed ones.

        Returns:
            (N, 2), of ``under`` and of ``over``; float32, float64 for float64 images.

        Raises:
            TypeError, ValueError: images of several shapes, or what :func:`hdrops.nn.adaptive_gamma` raises.
        """
        if not under.shape == correct.shape == over.shape:
            shapes = ", ".join(str(tuple(image.shape)) for image in (under, correct, over))
            raise ValueError(f"images must have one shape, got {shapes}")
        dark, middle, bright = (adaptive_gamma(image, self.tau) for image in (under, correct, over))
        distances = torch.stack([(dark - middle).abs(), (bright - middle).abs()], 1)
        total = distances.sum(1, keepdim=True)
        same = total == 0  # and not NaN, which stays
        shares = torch.where(same, 0.5, distances / torch.where(same, 1, total))
        return self.beta * shares


class HyperPMBLoss(nn.Module):
    """``λ_1 Loss_un + λ_2 Loss_ov + Loss_co`` (eq. 6), each of them a mean square error and a dissimilarity.

    ::

        Loss(x, y) = mean (s x - s y)² + α (1 - MS-SSIM(x, y))     (eq. 7 to 9)
        Loss_un of M_un x and M_un I_un,   Loss_ov of M_ov x and M_ov I_ov,   Loss_co of x and I_co

    The paper prints a norm in eq. 8 and speaks of the mean square error; this is the latter.

    Args:
        masks: makes M_un and M_ov; None for a loss on the correctly exposed image alone, which the paper compares to.
        tuner: makes λ_1 and λ_2; None for 1 and 1.
        alpha: α. The paper takes 1000.
        scale: s, the full scale of the values whose error is squared, which decides its weight beside α. The paper
            leaves it open; DenseFuse, whose α it takes over, works on 0 to 255.
        scales: of MS-SSIM, 1 to 5, the first so many weights divided by their sum. Images must have
            10 · 2^(scales - 1) + 1 pixels a side: 161 for the paper's five.

    Raises:
        ValueError: alpha, scale or scales out of range, or a tuner without masks.
    """

    def __init__(
        self,
        masks: MaskBuilder | None = None,
        tuner: ParamTuner | None = None,
        *,
        alpha: float = 1000.0,
        scale: float = 255.0,
        scales: int = 5,
    ) -> None:
        super().__init__()
        if not 0 <= alpha < math.inf or not 0 < scale < math.inf:
            raise ValueError(f"alpha must be 0 or more and scale positive, got {alpha} and {scale}")
        if not 1 <= scales <= len(MS_SSIM_WEIGHTS):
            raise ValueError(f"scales must be 1 to {len(MS_SSIM_WEIGHTS)}, got {scales}")
        if tuner is not None and masks is None:
            raise ValueError("a tuner weighs the losses that masks make; give masks as well")
        self.masks, self.tuner, self.alpha, self.scale = masks, tuner, alpha, scale
        weights = MS_SSIM_WEIGHTS[:scales]
        self.weights = tuple(weight / sum(weights) for weight in weights)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, scale={self.scale}, scales={len(self.weights)}"

    def terms(self, fused: Tensor, under: Tensor, correct: Tensor, over: Tensor) -> dict[str, Tensor]:
        """The terms of eq. 6 with their λ, as "correct" and, with masks, "under" and "over": the loss is their sum.

        Args:
            fused: the network's result (N, 1, H, W), floating point, nominally in [0, 1].
            under: the underexposed grey image; same shape, in [0, 1].
            correct: the correctly exposed one.
            over: the overexposed one.

        Returns:
            Scalars, means over the batch, float32 (float64 for float64 images).

        Raises:
            TypeError, ValueError: images that are not floating point, shapes that do not fit, or images too small for
                the scales.
        """
        for name, image in (("under", under), ("correct", correct), ("over", over)):
            if image.shape != fused.shape:
                raise ValueError(f"{name} {tuple(image.shape)} and fused {tuple(fused.shape)} must have one shape")
        under, correct, over = (_pixels.operands(fused, image)[1] for image in (under, correct, over))
        fused = _pixels.operands(fused, correct)[0]
        results, targets = [fused], [correct]
        if self.masks is not None:
            for mask, image in zip(self.masks(under, over), (under, over), strict=True):
                results.append(mask * fused)
                targets.append(mask * image)
        # One call of each for all three: their work is shared among threads.
        x, y = torch.cat(results), torch.cat(targets)
        error = (x - y).square().flatten(1).mean(1) * self.scale**2
        similarity = ms_ssim(x, y, weights=self.weights, reduction="none")
        losses = (error + self.alpha * (1 - similarity)).reshape(len(results), -1)
        if self.tuner is not None:
            shares = self.tuner(under, correct, over).T
            losses = losses * torch.cat([torch.ones_like(shares[:1]), shares])
        return dict(zip(("correct", "under", "over"), losses.mean(1), strict=False))

    def forward(self, fused: Tensor, under: Tensor, correct: Tensor, over: Tensor) -> Tensor:
        """The loss, a scalar; arguments as for :meth:`terms`."""
        return torch.stack([*self.terms(fused, under, correct, over).values()]).sum()
