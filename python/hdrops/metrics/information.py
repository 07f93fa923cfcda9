"""Metrics of information theory, from histograms of 256 bins: EN, CE, MI, NMI, TE, Qncie.

The bins are 8-bit codes: 16-bit and float images are rounded to them first, and floats beyond [0, 1] fall into the
first or last. Metrics of a fused image against its sources take any number K of them, where the published code has two.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from hdrops.metrics._images import Color, check_choice, checked, checked_pair, measure

LEVELS = 256
TSALLIS_ORDER = 1.85


def _codes(image: Tensor) -> Tensor:
    """Codes (N, pixels) of a single-channel image of 0-255, halves rounded up."""
    return (image + 0.5).floor().nan_to_num(0.0).clamp(0, LEVELS - 1).flatten(1).long()


def _stretched(image: Tensor) -> Tensor:
    """Codes (N, pixels) of each image stretched from its least and greatest value to 0-255; 0 for a flat one."""
    low, high = image.amin((-3, -2, -1), keepdim=True), image.amax((-3, -2, -1), keepdim=True)
    return _codes((image - low) / torch.where(high > low, high - low, 1.0) * (LEVELS - 1))


def _frequencies(codes: Tensor, levels: int) -> Tensor:
    """Relative frequencies (N, levels) of codes (N, pixels)."""
    members = torch.arange(codes.shape[0], device=codes.device)[:, None]
    counts = torch.bincount((members * levels + codes).flatten(), minlength=codes.shape[0] * levels)
    return counts.view(-1, levels).double() / codes.shape[1]


def _joint(x: Tensor, y: Tensor) -> Tensor:
    """Joint relative frequencies (N, levels of x, levels of y) of codes (N, pixels)."""
    return _frequencies(x * LEVELS + y, LEVELS**2).view(-1, LEVELS, LEVELS)


def _entropy(frequencies: Tensor) -> Tensor:
    """Shannon's entropy in bits of (N, ...), with 0 log 0 = 0."""
    nats: Tensor = torch.special.entr(frequencies)
    return nats.flatten(1).sum(1) / math.log(2)


def _shared(joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From joint frequencies: the mutual information of x and y and the entropy of each, in bits."""
    entropy_x, entropy_y = _entropy(joint.sum(2)), _entropy(joint.sum(1))
    return entropy_x + entropy_y - _entropy(joint), entropy_x, entropy_y


def entropy(image: Tensor, *, color: Color = "mean") -> Tensor:
    """Entropy (EN) of the histogram: -Σ p log2 p, in bits.

    Roberts, van Aardt and Ahmed, "Assessment of image fusion procedures using entropy, image quality, and multispectral
    classification", Journal of Applied Remote Sensing 2008.

    Args:
        image: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), 0 (flat) to 8; NaN where a float image is not finite.

    Raises:
        TypeError: image is of another dtype.
        ValueError: image has another shape, or color is unknown.
    """
    return measure(lambda channel: _entropy(_frequencies(_codes(channel), LEVELS)), color, checked(image, "image"))


def cross_entropy(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Cross entropy (CE): the mean over the sources k of Σ p_k log2(p_k / p_fused), in bits; lower is better.

    Bulanon, Burks and Alchanatis, "Image fusion of visible and thermal images for fruit detection", Biosystems
    Engineering 2009. As MEFB has it, levels that the source or the fused image lacks are left out of the sum, so that
    the value may be negative and is not the Kullback-Leibler divergence that the formula suggests.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,); 0 for equal histograms, and where no level is common; NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, or color is unknown.
    """
    return measure(_cross_entropy, color, *checked_pair(fused, bracket))


def _cross_entropy(fused: Tensor, bracket: Tensor) -> Tensor:
    target = _frequencies(_codes(fused), LEVELS)
    divergences = []
    for image in bracket.unbind(1):
        source = _frequencies(_codes(image), LEVELS)
        common = (source > 0) & (target > 0)
        divergences.append(torch.where(common, source * torch.log2(source / target), 0.0).sum(1))
    return torch.stack(divergences).mean(0)


def mutual_information(
    fused: Tensor, bracket: Tensor, *, color: Color = "mean", convention: Literal["lt", "paper"] = "lt"
) -> Tensor:
    """Mutual information (MI): the sum over the sources k of H(k) + H(fused) - H(k, fused), in bits.

    Qu, Zhang and Yan, "Information measure for performance of image fusion", Electronics Letters 2002.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.
        convention: "paper" as above; "lt" (the toolbox LT, whose values the literature reports) counts the levels 254
            and 255 as one in the joint histogram alone, which raises the value where images are saturated.

    Returns:
        float64 (N,); 0 by "paper" where the fused image or every source is flat; NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, or color or convention is unknown.
    """
    check_choice("convention", convention, ("lt", "paper"))
    last = LEVELS - 2 if convention == "lt" else LEVELS - 1

    def metric(fused: Tensor, bracket: Tensor) -> Tensor:
        target = _codes(fused)
        alone = _entropy(_frequencies(target, LEVELS))
        total = torch.zeros_like(alone)
        for image in bracket.unbind(1):
            source = _codes(image)
            joint = _entropy(_joint(source.clamp(max=last), target.clamp(max=last)))
            total = total + _entropy(_frequencies(source, LEVELS)) + alone - joint
        return total

    return measure(metric, color, *checked_pair(fused, bracket))


def normalized_mutual_information(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Normalised mutual information (NMI, Q_MI): 2 Σ I(k, fused) / (H(k) + H(fused)) over the sources k.

    Hossny, Nahavandi and Creighton, "Comments on 'Information measure for performance of image fusion'", Electronics
    Letters 2008. As MEFB has it, every image is first stretched from its least and greatest value to 0-255 and rounded.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), 0 to K. A flat image shares nothing, its term is 0. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, or color is unknown.
    """
    return measure(_normalized_mutual_information, color, *checked_pair(fused, bracket))


def _normalized_mutual_information(fused: Tensor, bracket: Tensor) -> Tensor:
    target = _stretched(fused)
    total = fused.new_zeros(fused.shape[0])
    for image in bracket.unbind(1):
        shared, source_entropy, target_entropy = _shared(_joint(_stretched(image), target))
        both = source_entropy + target_entropy
        total = total + torch.where(both > 0, 2 * shared / both, 0.0)
    return total


def tsallis_entropy(
    fused: Tensor, bracket: Tensor, *, color: Color = "mean", convention: Literal["mefb", "paper"] = "mefb"
) -> Tensor:
    """Mutual information by Tsallis entropy (TE): the sum over the sources k of I_q(k, fused), q = 1.85.

    I_q(k, fused) = (1 - Σ p(a, b)^q / (p_k(a) p_fused(b))^(q - 1)) / (1 - q), over levels that occur. Cvejic,
    Canagarajah and Bull, "Image fusion metric based on mutual information and Tsallis entropy", Electronics Letters
    2006. Every image is first stretched from its least and greatest value to 0-255 and rounded, as in MEFB.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.
        convention: "paper" as above; "mefb" has the two marginals swapped, p_fused(a) p_k(b), and leaves out the pairs
            for which their product is 0. Its values, often in the thousands, are those that the literature reports.

    Returns:
        float64 (N,); NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, or color or convention is unknown.
    """
    check_choice("convention", convention, ("mefb", "paper"))

    def metric(fused: Tensor, bracket: Tensor) -> Tensor:
        target = _stretched(fused)
        total = fused.new_zeros(fused.shape[0])
        for image in bracket.unbind(1):
            joint = _joint(_stretched(image), target)
            independent = joint.sum(2)[:, :, None] * joint.sum(1)[:, None, :]
            if convention == "mefb":
                independent = independent.mT
            ratio = joint**TSALLIS_ORDER / independent ** (TSALLIS_ORDER - 1)
            spread = torch.where(independent > 0, ratio, 0.0).sum((1, 2))
            total = total + (1 - spread) / (1 - TSALLIS_ORDER)
        return total

    return measure(metric, color, *checked_pair(fused, bracket))


def qncie(fused: Tensor, bracket: Tensor, *, color: Color = "mean") -> Tensor:
    """Nonlinear correlation information entropy (Q_NCIE) of the K sources and the fused image together.

    1 + Σ (λ / M) log_256(λ / M) over the eigenvalues λ of the M x M matrix of nonlinear correlation coefficients, which
    are the mutual informations of the M = K + 1 images in units of 8 bits, and 1 on the diagonal. Wang, Shen and Jin,
    "Performance evaluation of image fusion techniques", in Image Fusion: Algorithms and Applications, 2008. As MEFB has
    it, every image is first stretched from its least and greatest value to 0-255 and rounded.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        bracket: its sources (N, K, C, H, W), of any of these dtypes.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,); 1 - log_256(K + 1) where no two images share information, as flat ones do not; an eigenvalue that
        is not positive counts as 0. NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: shapes or devices do not fit, or color is unknown.
    """
    return measure(_qncie, color, *checked_pair(fused, bracket))


def _qncie(fused: Tensor, bracket: Tensor) -> Tensor:
    codes = [_stretched(image) for image in (*bracket.unbind(1), fused)]
    count = len(codes)
    correlation = torch.eye(count, dtype=torch.float64, device=fused.device).repeat(fused.shape[0], 1, 1)
    for i in range(count):
        for j in range(i):
            correlation[:, i, j] = correlation[:, j, i] = _shared(_joint(codes[i], codes[j]))[0] / math.log2(LEVELS)
    shares = torch.linalg.eigvalsh(correlation).clamp(min=0) / count
    return 1 - _entropy(shares) / math.log2(LEVELS)
