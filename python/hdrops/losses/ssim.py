"""Structural dissimilarity: 1 minus the similarity of :mod:`hdrops.ops.ssim`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hdrops.ops._borders import WindowBorder
from hdrops.ops._similarity import Reduction
from hdrops.ops.ssim import MS_SSIM_WEIGHTS, Downsampling, ms_ssim, ssim


class _Dissimilarity(nn.Module):
    """The options of a loss, which its representation names."""

    options: dict[str, Any]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class SSIMLoss(_Dissimilarity):
    """``1 - ssim(x, y)`` of two images (N, C, H, W), differentiable with respect to both: 0 where they are equal.

    Args:
        data_range: range of the values of the images: 1 for [0, 1].
        window: odd number of taps of the window.
        sigma: of a Gaussian window in pixels; None for a uniform one.
        border: "valid", "reflect", "symmetric", "replicate" or "zeros".
        k: the constants k_1 and k_2.
        unbiased: variances and covariance with the factor n / (n - 1).
        reduction: "mean" over the batch, or "none" for a value per image.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Raises, when called, what :func:`hdrops.ssim` raises, where the options are explained.
    """

    def __init__(
        self,
        data_range: float = 1.0,
        *,
        window: int = 11,
        sigma: float | None = 1.5,
        border: WindowBorder = "valid",
        k: tuple[float, float] = (0.01, 0.03),
        unbiased: bool = False,
        reduction: Reduction = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.options = {
            "data_range": data_range,
            "window": window,
            "sigma": sigma,
            "border": border,
            "k": k,
            "unbiased": unbiased,
            "reduction": reduction,
            "backend": backend,
        }

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """A scalar, or (N,) for reduction "none", float32 (float64 for float64 images)."""
        return 1 - ssim(x, y, **self.options)


class MSSSIMLoss(_Dissimilarity):
    """``1 - ms_ssim(x, y)`` of two images (N, C, H, W), differentiable with respect to both: 0 where they are equal.

    Args:
        data_range: as for :class:`SSIMLoss`, like all that is not explained here.
        weights: exponents of the scales, finest first; their number is that of the scales.
        window: as above, of every scale.
        sigma: as above.
        border: as above.
        k: as above.
        downsampling: of odd sizes: "symmetric" or "zeros".
        unbiased: as above.
        reduction: as above.
        backend: as above.

    Raises, when called, what :func:`hdrops.ms_ssim` raises, where the options are explained.
    """

    def __init__(
        self,
        data_range: float = 1.0,
        *,
        weights: Sequence[float] = MS_SSIM_WEIGHTS,
        window: int = 11,
        sigma: float | None = 1.5,
        border: WindowBorder = "valid",
        k: tuple[float, float] = (0.01, 0.03),
        downsampling: Downsampling = "symmetric",
        unbiased: bool = False,
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
            "downsampling": downsampling,
            "unbiased": unbiased,
            "reduction": reduction,
            "backend": backend,
        }

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """A scalar, or (N,) for reduction "none", float32 (float64 for float64 images)."""
        return 1 - ms_ssim(x, y, **self.options)
