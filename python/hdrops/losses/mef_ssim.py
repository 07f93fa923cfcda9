"""Structural dissimilarity of a fused image and its sources: 1 minus the quality of :mod:`hdrops.ops.mef_ssim`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hdrops.losses.ssim import _Dissimilarity
from hdrops.ops._borders import WindowBorder
from hdrops.ops._similarity import Reduction
from hdrops.ops.mef_ssim import MEF_SSIM_WEIGHTS, mef_ssim


class MEFSSIMLoss(_Dissimilarity):
    """``1 - mef_ssim(fused, bracket)``, differentiable with respect to the fused image: 0 at its best.

    Needs no target, so that fusion networks train on brackets alone.

    Args:
        data_range: range of the values of the images: 1 for [0, 1].
        weights: exponents of the scales, finest first; their number is that of the scales.
        window: odd number of taps of the windows.
        sigma: of the Gaussian window in pixels.
        border: "valid", "reflect", "symmetric", "replicate" or "zeros".
        k: of the constant C, (k · 255)² for values on 0 to 255.
        reduction: "mean" over the batch, or "none" for a value per image.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Raises, when called, what :func:`hdrops.mef_ssim` raises, where the options are explained.
    """

    def __init__(
        self,
        data_range: float = 1.0,
        *,
        weights: Sequence[float] = MEF_SSIM_WEIGHTS,
        window: int = 11,
        sigma: float = 1.5,
        border: WindowBorder = "valid",
        k: float = 0.03,
        reduction: Reduction = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.options = {
            "data_range": data_range,
            "weights": tuple(weights),
            "window": window,
            "sigma": sigma,
            "border": border,
            "k": k,
            "reduction": reduction,
            "backend": backend,
        }

    def forward(self, fused: Tensor, bracket: Tensor) -> Tensor:
        """A scalar, or (N,) for reduction "none", float32 (float64 for float64 images).

        Args:
            fused: (N, C, H, W) with 1 or 3 channels.
            bracket: the sources, (N, K, C, H, W), without gradient.
        """
        return 1 - mef_ssim(fused, bracket, **self.options)
