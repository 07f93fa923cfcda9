"""Fusion quality by structural similarity (SSIM) in windows, weighted by where the sources vary: Qy, Qw, Qc."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from hdrops.metrics import _filters
from hdrops.metrics._filters import covariance, magnitude, sobel
from hdrops.metrics._images import Color, by_color, check_choice, check_size, checked_pair
from hdrops.reference.gaussian import window

# Variances below this are rounding: those of 16-bit codes are from 1e-8.
FLAT = 1e-10
SMALL, LARGE = window(1.5, 3), window(1.5, 5)
# C1 and C2 of the SSIM: next to nothing in Qy and Qc, the usual ones in Qw.
BARE = (2e-16, 2e-16)
USUAL = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)


@dataclasses.dataclass(frozen=True)
class _Windows:
    """An image, and its Gaussian-weighted mean and variance in each window."""

    image: Tensor
    mean: Tensor
    variance: Tensor
    flat: Tensor
    taps: Sequence[float]

    @classmethod
    def of(cls, image: Tensor, taps: Sequence[float]) -> _Windows:
        image = image - _filters.MIDDLE
        mean = _filters.smooth(image, taps)
        variance = covariance(image, image, mean, mean, taps)
        flat = variance < FLAT
        return cls(image, mean, variance.masked_fill(flat, 0.0), flat, taps)

    def covariance(self, other: _Windows) -> Tensor:
        shared = covariance(self.image, other.image, self.mean, other.mean, self.taps)
        return shared.masked_fill(self.flat | other.flat, 0.0)

    def similarity(self, other: _Windows, constants: tuple[float, float], shared: Tensor | None = None) -> Tensor:
        """The SSIM index; ``shared`` is the covariance where it is known."""
        c1, c2 = constants
        x, y = self.mean + _filters.MIDDLE, other.mean + _filters.MIDDLE
        shared = self.covariance(other) if shared is None else shared
        structure = (2 * shared + c2) / (self.variance + other.variance + c2)
        return (2 * x * y + c1) / (x * x + y * y + c1) * structure


def _shares(amounts: Tensor) -> Tensor:
    """Each source's share of the sum over the sources (K, ...); equal ones where that is 0."""
    total = amounts.sum(0)
    return torch.where(total != 0, amounts / total, 1 / len(amounts))


def qy(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Yang's metric (Q_Y): similarity to the sources where they agree, to the better of them where they do not.

    Yang, Zhang, Wang and Liu, "A novel similarity based quality metric for image fusion", Information Fusion 2008. The
    mean over Gaussian windows (7 x 7, sigma 1.5, within the image) of Σ λ_k SSIM(k, fused), λ_k the source's share of
    the variance, where the SSIM of every two sources is 0.75 or more; elsewhere of the greatest SSIM(k, fused). There
    may be any number of sources. The constants of the SSIM are 2e-16, as in MEFB.

    A window in which no source varies weighs them equally, and the variance of a flat window is 0. In the published
    code rounding decides there, so its values differ by some percent on images with saturated areas.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; at least 7 x 7 pixels.
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), -1 to 1; 1 where the fused image equals every source. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, the images are too small, or color is unknown.
    """
    image, sources = checked_pair(fused, bracket)
    check_size(image, len(SMALL))
    return by_color(_qy, color, image, sources)


def _qy(fused: Tensor, bracket: Tensor) -> Tensor:
    target, sources = _Windows.of(fused, SMALL), [_Windows.of(image, SMALL) for image in bracket.unbind(1)]
    similar = torch.stack([source.similarity(target, BARE) for source in sources])
    agree = torch.ones_like(target.mean, dtype=torch.bool)
    for one, other in itertools.combinations(sources, 2):
        agree &= one.similarity(other, BARE) >= 0.75
    weighted = (_shares(torch.stack([source.variance for source in sources])) * similar).sum(0)
    return torch.where(agree, weighted, similar.amax(0)).mean((-3, -2, -1))


def qc(
    fused: Tensor, bracket: Tensor, *, color: Color = "mean", convention: Literal["mefb", "paper"] = "mefb"
) -> Tensor:
    """Cvejic's metric (Q_C): similarity to the sources, weighted by their covariance with the fused image.

    Cvejic, Łoza, Bull and Canagarajah, "A similarity metric for assessment of image fusion algorithms", International
    Journal of Signal Processing 2005. The mean over Gaussian windows (7 x 7, sigma 1.5, within the image) of
    Σ s_k SSIM(k, fused), s_k = σ_kf / Σ σ_kf. The constants of the SSIM are 2e-16, as in MEFB.

    Windows in which no source covaries with the fused image are left out; where that is all, they count, and weigh the
    sources equally. A flat window does not covary. In the published code rounding decides there whether the value is 0,
    1 or the similarity, so its values differ by up to a tenth on images with flat areas.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; at least 7 x 7 pixels.
        bracket: its sources (N, K, C, H, W), of any of these dtypes; K = 2 for "mefb".
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.
        convention: what happens where a share s_k is negative: "paper" takes it as 0 and the others in proportion;
            "mefb" gives the window the value 0 if it is the first source's, and 1 if it is the second's.

    Returns:
        float64 (N,); 1 where the fused image equals every source. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, the images are too small, "mefb" gets other than two sources, or
            color or convention is unknown.
    """
    check_choice("convention", convention, ("mefb", "paper"))
    image, sources = checked_pair(fused, bracket)
    check_size(image, len(SMALL))
    if convention == "mefb" and sources.shape[1] != 2:
        raise ValueError(
            f"qc by convention 'mefb' is for 2 sources, bracket has {sources.shape[1]}; convention='paper' takes any"
        )

    def metric(fused: Tensor, bracket: Tensor) -> Tensor:
        target, windows = _Windows.of(fused, SMALL), [_Windows.of(image, SMALL) for image in bracket.unbind(1)]
        shared = torch.stack([source.covariance(target) for source in windows])
        similar = torch.stack(
            [source.similarity(target, BARE, known) for source, known in zip(windows, shared, strict=True)]
        )
        shares = _shares(shared)
        if convention == "paper":
            quality = (_shares(shares.clamp(min=0)) * similar).sum(0)
        else:
            first = shares[0]
            quality = first * similar[0] + (1 - first) * similar[1]
            quality = torch.where(first < 0, 0.0, torch.where(first > 1, 1.0, quality))
        counted = shared.sum(0) != 0
        counted |= ~counted.flatten(1).any(1)[:, None, None, None]
        return (quality * counted).sum((-3, -2, -1)) / counted.sum((-3, -2, -1))

    return by_color(metric, color, image, sources)


def qw(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Piella's metric (Q_W) on edges: similarity of the edges to those of the sources, weighted by their variance.

    Piella and Heijmans, "A new quality metric for image fusion", ICIP 2003. With the Prewitt magnitudes of all images
    (zero border, included) in the place of the images, the mean of Σ λ_k SSIM(k, fused) over Gaussian windows (11 x 11,
    sigma 1.5, within the image), λ_k the source's share of the variance, each window weighted by the greatest variance
    of a source. There may be any number of sources. This is what MEFB calls Qw: the paper's weighted index of the edge
    images, which is one factor of its edge-dependent index Q_E.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; at least 11 x 11 pixels.
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), -1 to 1; 1 where the fused image equals every source. Where no source has any edge, all windows
        weigh the same. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, the images are too small, or color is unknown.
    """
    image, sources = checked_pair(fused, bracket)
    check_size(image, len(LARGE))
    return by_color(_qw, color, image, sources)


def _qw(fused: Tensor, bracket: Tensor) -> Tensor:
    def edges(image: Tensor) -> _Windows:
        return _Windows.of(magnitude(*sobel(pad(image, (1, 1, 1, 1)), middle=1)), LARGE)

    target, sources = edges(fused), [edges(image) for image in bracket.unbind(1)]
    variances = torch.stack([source.variance for source in sources])
    similar = torch.stack([source.similarity(target, USUAL) for source in sources])
    weights = variances.amax(0)
    weights = torch.where(weights.sum((-3, -2, -1), keepdim=True) > 0, weights, 1.0)
    return ((_shares(variances) * similar).sum(0) * weights).sum((-3, -2, -1)) / weights.sum((-3, -2, -1))
