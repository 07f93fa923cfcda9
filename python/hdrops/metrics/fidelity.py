"""How much of its sources a fused image carries: visual information (VIFF, VIFp), correlation (CC, SCD), MSE, PSNR.

Metrics of a fused image against its sources take any number K of them, where the published code has two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from hdrops.metrics import _filters
from hdrops.metrics._filters import covariance
from hdrops.metrics._images import Color, check_choice, check_size, checked_pair, measure
from hdrops.reference.gaussian import window

# ---- visual information --------------------------------------------------------------------------------------------

SCALES = tuple(window(size / 5, size // 2) for size in (17, 9, 5, 3))
# The least size whose coarsest scale holds one window.
SMALLEST = 41
VIFF_WEIGHTS = (1 / 2.15, 0.0, 0.15 / 2.15, 1 / 2.15)
VIFF_NOISE = 0.005 * 255**2
VIFP_NOISE = 2.0
EPSILON = 1e-10


def _channels(fused: Tensor, sources: list[Tensor]) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """For each of the four scales and each source: gain g, variance of the source, variance of the distortion.

    The model of Sheikh and Bovik at each position: fused = g source + noise of that variance, from windows within the
    image. Flat windows have no gain, and a negative gain counts as none.
    """
    fused, *sources = (image - _filters.MIDDLE for image in (fused, *sources))
    for scale, taps in enumerate(SCALES):
        if scale > 0:
            fused, *sources = (_filters.smooth(image, taps)[..., ::2, ::2] for image in (fused, *sources))
        mean = _filters.smooth(fused, taps)
        variance = covariance(fused, fused, mean, mean, taps).clamp_(min=0)
        found = []
        for source in sources:
            source_mean = _filters.smooth(source, taps)
            source_variance = covariance(source, source, source_mean, source_mean, taps).clamp_(min=0)
            shared = covariance(source, fused, source_mean, mean, taps)
            gain = shared / (source_variance + EPSILON)
            linked = (source_variance >= EPSILON) & (variance >= EPSILON) & (gain >= 0)
            distortion = torch.where(linked, variance - gain * shared, variance).clamp_(min=EPSILON)
            source_variance = torch.where(source_variance < EPSILON, 0.0, source_variance)
            found.append((torch.where(linked, gain, 0.0), source_variance, distortion))
        yield found


def _information(gain: Tensor, variance: Tensor, distortion: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """log10(1 + signal to noise) of the source as seen in the fused image, and as seen itself."""
    return torch.log10(1 + gain.square() * variance / (distortion + noise)), torch.log10(1 + variance / noise)


def viff(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Visual information fidelity for fusion (VIFF): the information of the sources that the fused image shows.

    Han, Cai, Cao and Xu, "A new image fusion performance metric based on visual information fidelity", Information
    Fusion 2013. On four scales (Gaussian windows of 17, 9, 5 and 3 pixels, within the image), each position takes the
    source of least gain g, the last of equal ones, of which there may be any number; the value is the mean over the
    scales, from the finest, of Σ VID / Σ VIND with weights 1, 0, 0.15, 1. Visual noise 0.005 * 255².

    As in MEFB, colour images are measured channel by channel; the paper's lightness of CIELAB has to be given as a
    single channel. In the published code rounding decides which source flat windows take, so its values differ by up to
    0.0004 of the value on images with saturated areas.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; at least 41 x 41 pixels.
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,); 1 where the fused image equals every source, also where all are flat; more where contrast is
        raised. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, the images are too small, or color is unknown.
    """
    image, sources = checked_pair(fused, bracket)
    check_size(image, SMALLEST)
    return measure(_viff, color, image, sources)


def _viff(fused: Tensor, bracket: Tensor) -> Tensor:
    value = fused.new_zeros(fused.shape[0])
    for weight, found in zip(VIFF_WEIGHTS, _channels(fused, list(bracket.unbind(1))), strict=True):
        gain, variance, distortion = found[-1]
        for others in reversed(found[:-1]):
            smaller = others[0] < gain
            gain, variance, distortion = (
                torch.where(smaller, other, own)
                for other, own in zip(others, (gain, variance, distortion), strict=True)
            )
        distorted, whole = _information(gain, variance, distortion, VIFF_NOISE)
        value += weight * (distorted + 1e-7).sum((-3, -2, -1)) / (whole + 1e-7).sum((-3, -2, -1))
    return value


def vif(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Visual information fidelity in the pixel domain (VIFp), summed over the sources as the toolbox LT does (VIF).

    Sheikh and Bovik, "Image information and visual quality", IEEE Trans. Image Processing 2006, in the authors'
    multi-scale form on pixels: four scales (Gaussian windows of 17, 9, 5 and 3 pixels, within the image), visual noise
    2, Σ VID / Σ VIND over all scales together. VIFp of one reference is this with a bracket of one source.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; at least 41 x 41 pixels.
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,); K where the fused image equals every source; more where contrast is raised. A flat source, which
        has no information to lose, counts as 1. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, the images are too small, or color is unknown.
    """
    image, sources = checked_pair(fused, bracket)
    check_size(image, SMALLEST)
    return measure(_vif, color, image, sources)


def _vif(fused: Tensor, bracket: Tensor) -> Tensor:
    shown, present = (fused.new_zeros(bracket.shape[:2]) for _ in range(2))
    for found in _channels(fused, list(bracket.unbind(1))):
        for k, channel in enumerate(found):
            distorted, whole = _information(*channel, VIFP_NOISE)
            shown[:, k] += distorted.sum((-3, -2, -1))
            present[:, k] += whole.sum((-3, -2, -1))
    return torch.where(present > 0, shown / present, 1.0).sum(1)


# ---- correlation ---------------------------------------------------------------------------------------------------


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation over the pixels, (N,); 0 where an image is flat."""
    x, y = (image - image.mean((-3, -2, -1), keepdim=True) for image in (x, y))
    scale = (x.square().sum((-3, -2, -1)) * y.square().sum((-3, -2, -1))).sqrt()
    return torch.where(scale > 0, (x * y).sum((-3, -2, -1)) / scale, 0.0)


def correlation_coefficient(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Correlation coefficient (CC): the mean over the sources of Pearson's correlation with the fused image.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), -1 to 1; 0 with a flat image. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, or color is unknown.
    """

    def metric(fused: Tensor, bracket: Tensor) -> Tensor:
        return torch.stack([_correlation(image, fused) for image in bracket.unbind(1)]).mean(0)

    return measure(metric, color, *checked_pair(fused, bracket))


def scd(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Sum of the correlations of differences (SCD): Σ corr(fused - others of k, source k) over the sources k.

    Aslantas and Bendes, "A new image quality metric for image fusion: the sum of the correlations of differences",
    AEÜ 2015. The others of k are the other source, or the mean of the others of a larger bracket.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        bracket: its sources (N, K, C, H, W), K >= 2, of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), -K to K; a flat difference or source adds 0. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, there is one source only, or color is unknown.
    """
    image, sources = checked_pair(fused, bracket)
    if sources.shape[1] < 2:
        raise ValueError("scd compares sources with each other; bracket has 1, give 2 or more")
    return measure(_scd, color, image, sources)


def _scd(fused: Tensor, bracket: Tensor) -> Tensor:
    whole, count = bracket.sum(1), bracket.shape[1]
    value = fused.new_zeros(fused.shape[0])
    for image in bracket.unbind(1):
        value += _correlation(fused - (whole - image) / (count - 1), image)
    return value


# ---- squared error -------------------------------------------------------------------------------------------------


def _squared_error(fused: Tensor, bracket: Tensor) -> Tensor:
    """Mean squared error (N, K) against each source, on 0-255."""
    return torch.stack([(image - fused).square().mean((-3, -2, -1)) for image in bracket.unbind(1)], 1)


def fusion_mse(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Mean squared error (MSE) against the sources on images of [0, 1], the mean over the sources; as the toolbox LT.

    A fused image differs from its sources on purpose: this tells how far it lies from their mean, not how good it is.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), 0 to 1; NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, or color is unknown.
    """

    def metric(fused: Tensor, bracket: Tensor) -> Tensor:
        return _squared_error(fused, bracket).mean(1) / 255**2

    return measure(metric, color, *checked_pair(fused, bracket))


def fusion_psnr(
    fused: Tensor, bracket: Tensor, *, color: Color = "mean", convention: Literal["mefb", "lt", "standard"] = "mefb"
) -> Tensor:
    """Peak signal-to-noise ratio (PSNR) against the sources, in dB, as the toolboxes compute it or as it is defined.

    Only "standard" is a PSNR in the usual sense; the values of the others, which the literature reports, compare only
    with their like.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean of the decibels, "grey" measures the grey image.
        convention: "standard": 10 log10(255² / MSE) with the MSE on 0-255, averaged over the sources. "lt": the MSE on
            [0, 1] against the peak 255, which is 20 log10 255 = 48.13 dB more. "mefb": in place of the MSE the mean
            over the sources of sqrt(Σ error²) / (H W) on 0-255, which depends on the size of the image.

    Returns:
        float64 (N,); infinite where the fused image equals every source. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, or color or convention is unknown.
    """
    check_choice("convention", convention, ("mefb", "lt", "standard"))

    def metric(fused: Tensor, bracket: Tensor) -> Tensor:
        error = _squared_error(fused, bracket)
        if convention == "mefb":
            error = (error / fused.shape[-2:].numel()).sqrt()
        elif convention == "lt":
            error = error / 255**2
        return 10 * torch.log10(255**2 / error.mean(1))

    return measure(metric, color, *checked_pair(fused, bracket))
