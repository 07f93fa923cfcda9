"""Feature mutual information, FMI."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from hdrops.metrics._filters import sobel
from hdrops.metrics._images import Color, check_choice, check_size, checked_pair, measure, one_by_one

Feature = Literal["edge", "none", "gradient", "dct", "wavelet"]
Identical = Literal["published", "exact"]

# Windows whose joint distributions are made at a time: 81 numbers each, which should stay in the second-level cache.
_WINDOWS = 4096

_DMEY_TAPS = 102


def _gradient(image: Tensor) -> Tensor:
    """The derivative along x: central differences, one-sided at the borders."""
    inner = (image[..., 2:] - image[..., :-2]) / 2
    return torch.cat([image[..., 1:2] - image[..., :1], inner, image[..., -1:] - image[..., -2:-1]], dim=-1)


def _edge(image: Tensor) -> Tensor:
    """1 on Sobel edges thinned across their direction, 0 elsewhere."""
    across, down = sobel(torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate"))
    across, down = across.abs() / 8, down.abs() / 8
    strength = across.square() + down.square()

    def ridge(dim: int) -> Tensor:
        """Not below the neighbour before and above the one after; one beyond the border is below all."""
        beyond = torch.full_like(strength.narrow(dim, 0, 1), -1)
        size = strength.shape[dim] - 1
        before = torch.cat([beyond, strength.narrow(dim, 0, size)], dim)
        after = torch.cat([strength.narrow(dim, 1, size), beyond], dim)
        return (before <= strength) & (strength > after)

    tie = 100 * torch.finfo(image.dtype).eps
    thin = ((across >= down - tie) & ridge(-1)) | ((down >= across - tie) & ridge(-2))
    return ((strength > 4 * strength.mean((-2, -1), keepdim=True)) & thin).to(image.dtype)


def _dct(image: Tensor) -> Tensor:
    """The orthonormal two-dimensional cosine transform (DCT-II) of the whole image."""

    def along_rows(x: Tensor) -> Tensor:
        size = x.shape[-1]
        # The DCT is the DFT of the even samples followed by the odd ones backwards, turned in phase (Makhoul 1980).
        spectrum = torch.fft.fft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1))
        angle = torch.arange(size, dtype=x.dtype, device=x.device) * (math.pi / (2 * size))
        scale = torch.full_like(angle, math.sqrt(2 / size))
        scale[0] = math.sqrt(1 / size)
        turned: Tensor = spectrum.real * angle.cos() + spectrum.imag * angle.sin()
        return turned * scale

    # Without its first value a flat image has no coefficients at all, where rounding would leave some and the
    # windows, which are scaled to [0, 1], would make features of them.
    level = image[..., :1, :1]
    result = along_rows(along_rows(image - level).mT).mT.contiguous()
    result[..., :1, :1] += level * math.sqrt(image.shape[-2] * image.shape[-1])
    return result


def _dmey(taps: int, device: torch.device) -> Tensor:
    """The low-pass and the high-pass filter of Meyer's wavelet, cut to ``taps``, (2, taps).

    The transfer function of the low pass is √2 cos(π/2 ν(3 |ω| / π - 1)) with ν(x) = x⁴ (35 - 84 x + 70 x² - 20 x³).
    """
    grid = 4096
    turn = torch.arange(grid // 2 + 1, dtype=torch.float64) / grid
    x = (6 * turn - 1).clamp(0, 1)
    response = math.sqrt(2) * torch.cos(math.pi / 2 * x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3))
    impulse = torch.fft.irfft(response.to(torch.complex128), grid)
    low = impulse[(torch.arange(taps) - taps // 2) % grid]
    sign = 1 - 2 * (torch.arange(taps) % 2)
    return torch.stack([low, -sign * low.flip(0)]).to(device)


def _wavelet(image: Tensor, taps: int = _DMEY_TAPS) -> Tensor:
    """One level of the discrete Meyer wavelet, half-sample symmetric at the borders, as one picture [A H; V D]."""
    filters = _dmey(taps, image.device)

    def analysis(size: int) -> Tensor:
        """The matrix from ``size`` samples to their low-pass and then their high-pass coefficients."""
        count = (size + taps - 1) // 2
        out = torch.arange(count, device=image.device)[:, None]
        source = (2 * out + 1 - torch.arange(taps, device=image.device)) % (2 * size)
        source = torch.where(source < size, source, 2 * size - 1 - source)
        matrix = image.new_zeros(2, count, size)
        matrix.scatter_add_(-1, source.expand(2, -1, -1), filters[:, None].expand(-1, count, -1))
        return matrix.flatten(0, 1)

    bands = analysis(image.shape[-2]) @ image @ analysis(image.shape[-1]).mT
    (low, across), (down, diagonal) = (half.chunk(2, -1) for half in bands.chunk(2, -2))
    tiled = torch.cat([torch.cat([low, down], -1), torch.cat([across, diagonal], -1)], -2)
    minimum, maximum = tiled.amin((-2, -1), keepdim=True), tiled.amax((-2, -1), keepdim=True)
    flat = maximum == minimum
    scaled = torch.where(flat, 1, (tiled - minimum) / torch.where(flat, 1, maximum - minimum))
    # Where the image is flat the sums differ in their last bits from place to place, and each window would be
    # stretched to pure noise.
    return (scaled * 2**40).round() / 2**40


_FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "edge": _edge,
    "none": lambda image: image,
    "gradient": _gradient,
    "dct": _dct,
    "wavelet": _wavelet,
}


def _rescaled(windows: Tensor) -> Tensor:
    """Windows (L, n) stretched to [0, 1] each; flat ones become 1."""
    minimum, maximum = windows.amin(0), windows.amax(0)
    flat = maximum == minimum
    return torch.where(flat, 1, (windows - minimum) / torch.where(flat, 1, maximum - minimum))


class _Distribution:
    """Windows (L, n) of 0-1 as distributions over their L places, and what the score takes of one alone."""

    def __init__(self, windows: Tensor) -> None:
        places = torch.arange(1, len(windows) + 1, dtype=windows.dtype, device=windows.device)[:, None]
        self.flat = (windows == 1).all(0)
        self.pdf = windows / windows.sum(0)
        self.entropy = torch.special.entr(self.pdf).sum(0)
        # Zero where one place has all the mass, to the bit.
        variance = (places.square() * self.pdf).sum(0) - (places * self.pdf).sum(0).square()
        self.deviation = variance.clamp_min(0).sqrt()
        self.centred = self.pdf - 1 / len(windows)
        self.norm = self.centred.square().sum(0).sqrt()


def _normalised_information(source: _Distribution, fused: _Distribution, flat_pair: float) -> Tensor:
    """2 I / (H + H) of every window (n,), the joint distribution being Nelsen's mixture with the given correlation."""
    flat = source.flat | fused.flat
    norms = torch.where(flat, 1, source.norm * fused.norm)
    correlation = torch.where(flat, 0, (source.centred * fused.centred).sum(0) / norms)
    # The lower Fréchet bound is the upper one with the places of one window in reverse.
    pdf = torch.where(correlation < 0, source.pdf.flip(0), source.pdf)
    cdf, fused_cdf = pdf.cumsum(0), fused.pdf.cumsum(0)

    upper = torch.minimum(fused_cdf[:, None], cdf)
    covariance = upper.sum((0, 1)) - fused_cdf.sum(0) * cdf.sum(0)
    mixed = (correlation != 0) & (source.deviation > 0) & (fused.deviation > 0)
    deviations = source.deviation * fused.deviation
    share = torch.where(mixed, correlation.abs() * deviations / torch.where(mixed, covariance, 1), 0)

    # What the steps of the two cumulative distributions share is the joint distribution at the bound.
    joint = upper.sub_(torch.maximum((fused_cdf - fused.pdf)[:, None], cdf - pdf)).clamp_min_(0).mul_(share)
    joint.addcmul_(((1 - share) * fused.pdf)[:, None], pdf)
    # A share above 1 makes some entries negative; the published code takes the real part of their logarithm.
    joint_entropy = -(joint.abs().clamp_min_(torch.finfo(joint.dtype).tiny).log_().mul_(joint)).sum((0, 1))

    both = source.entropy + fused.entropy
    score = torch.where(both > 0, 2 * (both - joint_entropy) / torch.where(both > 0, both, 1), 0)
    return torch.where(source.flat & fused.flat, flat_pair, score)


def _windows(feature: Tensor, size: int) -> Tensor:
    """Every ``size`` x ``size`` window of (H, W) as a column of (size², n), taken column by column."""
    return feature.unfold(0, size, 1).unfold(1, size, 1).permute(3, 2, 0, 1).reshape(size * size, -1)


def _sum_of_scores(sources: Tensor, fused: Tensor, size: int, flat_pair: float, identical: Identical) -> Tensor:
    """The sum over the sources (K, h, W) and the windows of (h, W)."""
    raw = _windows(fused, size)
    rescaled = _rescaled(raw)
    fused_distribution = _Distribution(rescaled)
    compared = raw
    untouched = torch.ones_like(raw[0], dtype=torch.bool)
    total = raw.new_zeros(())
    for source in sources:
        windows = _windows(source, size)
        same = (windows == compared).all(0)
        score = _normalised_information(_Distribution(_rescaled(windows)), fused_distribution, flat_pair)
        total += torch.where(same, 1, score).sum()
        if identical == "published":
            untouched &= same
            compared = torch.where(untouched, raw, rescaled)
    return total


def fmi(
    fused: Tensor,
    bracket: Tensor,
    feature: Feature | Callable[[Tensor], Tensor] = "edge",
    *,
    window: int = 3,
    flat_pairs: Literal[0, 1] = 1,
    identical: Identical = "published",
    color: Color = "mean",
) -> Tensor:
    """Feature mutual information (FMI) of a fused image with its sources: 1 is best.

    Haghighat, Aghagolzadeh and Seyedarabi, "A non-reference image fusion metric based on mutual information of image
    features", Computers and Electrical Engineering 2011; in the fast form of Haghighat and Razian, "Fast-FMI:
    non-reference image fusion metric", AICT 2014.

    Every window of a feature picture, stretched to [0, 1] and divided by its sum, is taken as a distribution p over
    its places, counted down the columns. With the Pearson correlation c of p_s and p_f, those of a source and the fused
    image, their joint distribution is ``φ M + (1 - φ) p_s p_f``, where M is the upper Fréchet bound ``min(P_s, P_f)``
    of the cumulative distributions for c > 0, the lower one ``max(P_s + P_f - 1, 0)`` for c < 0, and φ is c over the
    correlation of M (Nelsen 1987). The window scores ``2 I(s, f) / (H(s) + H(f))``, the image the mean over all windows
    and sources.

    The values are those of the authors' code, which the MEFB and LT toolboxes carry. It takes two sources; here the
    mean goes over K. Three things in it are arguments:

    - ``flat_pairs``: two flat windows of different level correlate as 0/0. The published code gets 1, since in its
      order of summation the mean of nine ninths is not a ninth; exact arithmetic, and 0/0 taken as 0, gives 0. Where
      much is saturated this decides the value (0.57 or 0.49 for one photograph).
    - ``identical``: equal windows score 1 without a calculation. The published code stretches the window of the fused
      image in place when it scores a source that differs, so that the sources after it are compared with the stretched
      one: equal windows with a single outlying pixel then score 0, and the order of the sources matters
      (``"published"``). ``"exact"`` compares every source with the window itself.
    - ``feature``: with none named, both toolboxes take ``"edge"``, whatever their comments say.

    Args:
        fused: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; no smaller than a window.
        bracket: (N, K, C, H, W), its sources.
        feature: ``"none"`` for the grey values themselves on 0-255; ``"gradient"``, the derivative along x only, by
            central differences; ``"dct"``, the DCT of the whole image; ``"edge"``, MATLAB's ``edge``: Sobel gradients
            with replicated borders, a threshold of twice their root mean square, thinned across the larger component;
            ``"wavelet"``, one level of the discrete Meyer wavelet with 102 taps. Or a function from (M, H, W) float64
            on 0-255 to (M, H', W') float64, no smaller than a window.

            ``"edge"`` and ``"wavelet"`` approximate MATLAB. The thinning of its ``edge`` is not documented at the
            outermost pixels, where a missing neighbour counts as smaller here; GNU Octave's ``edge``, which thins
            without regard to direction, moves the value of whole photographs by up to 3 %. The wavelet's filter is
            computed from Meyer's formula; the tables in use are finite approximations of it, whose border and values
            in saturated areas differ: PyWavelets' 62 taps move the value by up to 2 %.
        window: side of the windows, odd; even numbers are taken as the next odd one, as published.
        flat_pairs: the score of two flat windows that are not equal.
        identical: how equal windows are found.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,); 1 for the image itself; NaN where a float image is not finite.

    Raises:
        TypeError: an image is of another dtype.
        ValueError: images have other shapes, do not fit each other or are too small, or another argument is unknown.
    """
    image, sources = checked_pair(fused, bracket)
    if isinstance(feature, str):
        check_choice("feature", feature, get_args(Feature))
    if window < 2:
        raise ValueError(f"window must be at least 2, got {window}")
    if flat_pairs not in (0, 1):
        raise ValueError(f"flat_pairs must be 0 or 1, got {flat_pairs!r}")
    check_choice("identical", identical, get_args(Identical))
    size = 2 * (window // 2) + 1
    check_size(image, size)
    extract = _FEATURES[feature] if isinstance(feature, str) else feature

    def score(one: Tensor, its_sources: Tensor) -> Tensor:
        picture, pictures = extract(one), extract(its_sources[:, 0])
        check_size(picture, size)
        height, width = picture.shape[-2] - size + 1, picture.shape[-1] - size + 1
        rows = max(1, _WINDOWS // width)
        total = picture.new_zeros(())
        for top in range(0, height, rows):
            strip = slice(top, min(top + rows, height) + size - 1)
            total += _sum_of_scores(pictures[:, strip], picture[0, strip], size, flat_pairs, identical)
        return total / (height * width * len(pictures))

    return measure(functools.partial(one_by_one, score), color, image, sources)
