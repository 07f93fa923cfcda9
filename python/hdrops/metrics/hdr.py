"""PSNR, SSIM and MS-SSIM in the domains in which HDR images are compared."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hdrops.metrics import _pairs
from hdrops.metrics.domains import MU, mu_law_encode, pq_encode, pu21_encode
from hdrops.metrics.single_image import LUMINANCE, match_exposure, match_response
from hdrops.ops import ssim as structure

Domain = Literal["linear", "mu", "pq", "pu21"]
Normalize = Literal["none", "reference"]
Channels = Literal["rgb", "luminance"]
Correct = Literal["none", "exposure", "response"]

# The range that a metric is told: the span of the encoded values, but for PU21 the 256 of its authors' code, about what
# 100 cd/m² give, so that results on displays of that brightness compare with those of 8-bit images.
_DATA_RANGE = {"linear": 1.0, "mu": 1.0, "pq": 1.0, "pu21": 256.0}


def psnr(
    x: Any,
    y: Any,
    domain: Domain = "linear",
    *,
    data_range: float | None = None,
    normalize: Normalize = "none",
    display_peak: float | None = None,
    color: Channels = "rgb",
    correct: Correct = "none",
    mu: float = MU,
) -> Tensor:
    """Peak signal-to-noise ratio of images against their references.

    ::

        PSNR = 10 log10(L² / MSE)

    with the mean squared error over all samples of an image, channels included, in the domain asked for. PSNR-l of the
    HDR papers is ``domain="linear"``, PSNR-µ ``domain="mu"``, both on values of which 1 is white, with peak 1; PU-PSNR
    is ``domain="pu21"``, with peak 256 as in its authors' code (not the 595 that 10000 cd/m² encode to).

    The order is: codes to [0, 1], normalisation, correction, luminance, encoding, metric; all in float64.

    Args:
        x: the images to judge (N, C, H, W), any C: linear values of which 1 is white, uint8 codes (divided by 255) or
            uint16 codes (by 65535). Nothing is clipped but by the encodings: μ-law and PQ take values below 0 as 0, PQ
            and PU21 luminance above 10000 cd/m² as 10000, PU21 that below 0.005 as 0.005.
        y: the references, same shape; their dtype may differ.
        domain: "linear", "mu" (:func:`mu_law_encode`), "pq" (:func:`pq_encode`) or "pu21" (:func:`pu21_encode`).
        data_range: L; by default 1, for PU21 256.
        normalize: "none", or "reference": both images are divided by the largest value of the reference, image by
            image.
        display_peak: luminance in cd/m² at which value 1 is shown; what PQ and PU21 need, and have no default for: a
            PSNR at 100 cd/m² and one at 4000 are two things. 1 for images in cd/m². ``correct="response"`` needs it in
            every domain.
        color: "rgb" takes all channels, or "luminance" that of linear BT.709, from 3 channels or 1.
        correct: for images reconstructed from a single one, what x is freed from before: "exposure"
            (:func:`match_exposure`), or "response": first that, then :func:`match_response` with its defaults. No
            gradient then.
        mu: μ of the μ-law.

    Returns:
        (N,) in decibel, float64; infinite where an image equals its reference in the domain, NaN where either holds
        NaN; NaN or -infinity where either holds infinities that the encoding does not clip. Differentiable where
        finite.

    Raises:
        TypeError, ValueError: images that do not fit together, an option out of range, ``display_peak`` missing or
            useless, a reference to normalise by without a positive value.
    """
    image, reference = _encoded(x, y, domain, normalize, display_peak, color, correct, mu)
    error = (image - reference).square().mean((1, 2, 3))
    return 10 * torch.log10(_range(domain, data_range) ** 2 / error)


def ssim(
    x: Any,
    y: Any,
    domain: Domain = "linear",
    *,
    data_range: float | None = None,
    normalize: Normalize = "none",
    display_peak: float | None = None,
    color: Channels = "rgb",
    correct: Correct = "none",
    mu: float = MU,
    **options: Any,
) -> Tensor:
    """SSIM of images against their references, by :func:`hdrops.ssim`, in the domains of :func:`psnr`.

    The mean over positions and channels of the index of Wang et al. 2004, by default under a Gaussian window of 11 and
    sigma 1.5 where it lies inside. The authors of PU21 take SSIM on luminance: ``color="luminance"``.

    Args:
        x: as for :func:`psnr`, and so all others but the last.
        y: as for :func:`psnr`.
        domain: as for :func:`psnr`.
        data_range: as for :func:`psnr`.
        normalize: as for :func:`psnr`.
        display_peak: as for :func:`psnr`.
        color: as for :func:`psnr`.
        correct: as for :func:`psnr`.
        mu: as for :func:`psnr`.
        options: of :func:`hdrops.ssim`: ``window``, ``sigma``, ``border``, ``k``, ``unbiased``, ``backend``.

    Returns:
        (N,) in float64 where an image is float64, else in float32; 1 for identical images, NaN where either holds NaN.
        Differentiable.

    Raises:
        TypeError, ValueError: as :func:`psnr` and :func:`hdrops.ssim`.
    """
    pair = _operands(x, y, domain, normalize, display_peak, color, correct, mu)
    return structure.ssim(*pair, _range(domain, data_range), reduction="none", **options)


def ms_ssim(
    x: Any,
    y: Any,
    domain: Domain = "linear",
    *,
    data_range: float | None = None,
    normalize: Normalize = "none",
    display_peak: float | None = None,
    color: Channels = "rgb",
    correct: Correct = "none",
    mu: float = MU,
    **options: Any,
) -> Tensor:
    """MS-SSIM of images against their references, by :func:`hdrops.ms_ssim`, in the domains of :func:`psnr`.

    Five scales by default (Wang et al. 2003), for each channel, then the mean over the channels.

    Args:
        x: as for :func:`psnr`, and so all others but the last; with the default options at least 161 pixels high and
            wide.
        y: as for :func:`psnr`.
        domain: as for :func:`psnr`.
        data_range: as for :func:`psnr`.
        normalize: as for :func:`psnr`.
        display_peak: as for :func:`psnr`.
        color: as for :func:`psnr`.
        correct: as for :func:`psnr`.
        mu: as for :func:`psnr`.
        options: of :func:`hdrops.ms_ssim`: those of :func:`ssim`, ``weights`` and ``downsampling``.

    Returns:
        (N,), as of :func:`ssim`.

    Raises:
        TypeError, ValueError: as :func:`psnr` and :func:`hdrops.ms_ssim`.
    """
    pair = _operands(x, y, domain, normalize, display_peak, color, correct, mu)
    return structure.ms_ssim(*pair, _range(domain, data_range), reduction="none", **options)


def _range(domain: Domain, data_range: float | None) -> float:
    if data_range is None:
        return _DATA_RANGE[domain]
    if not 0 < data_range < float("inf"):
        raise ValueError(f"data_range must be positive and finite, got {data_range}")
    return data_range


def _operands(x: Any, y: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Both images encoded, in the type that SSIM is computed in."""
    image, reference = _encoded(x, y, *arguments)
    wide = any(getattr(array, "dtype", None) == torch.float64 for array in (x, y))
    dtype = torch.float64 if wide else torch.float32
    return image.to(dtype), reference.to(dtype)


def _encoded(
    x: Any,
    y: Any,
    domain: Domain,
    normalize: Normalize,
    display_peak: float | None,
    color: Channels,
    correct: Correct,
    mu: float,
) -> tuple[Tensor, Tensor]:
    """Both images in float64 in the domain."""
    _check_options(domain, normalize, display_peak, color, correct)
    image, reference = (_pairs.values(z) for z in _pairs.checked(x, y))
    if normalize == "reference" and len(reference):
        largest = reference.amax((1, 2, 3))
        if (largest <= 0).any():
            raise ValueError("a reference has no positive value to normalise by")
        image, reference = (z / _pairs.per_image(largest) for z in (image, reference))
    if correct != "none":
        image = match_exposure(image, reference)
    if correct == "response":
        peak = _pairs.checked_peak(display_peak, "correct='response'")
        image = match_response(image, reference, display_peak=peak)
    if color == "luminance":
        image, reference = _luminance(image), _luminance(reference)
    if domain == "linear":
        return image, reference
    if domain == "mu":
        return mu_law_encode(image, mu), mu_law_encode(reference, mu)
    encode = pq_encode if domain == "pq" else pu21_encode
    peak = _pairs.checked_peak(display_peak, f"domain={domain!r}")
    return encode(image * peak), encode(reference * peak)


def _check_options(
    domain: Domain, normalize: Normalize, display_peak: float | None, color: Channels, correct: Correct
) -> None:
    for value, name, allowed in (
        (domain, "domain", get_args(Domain)),
        (normalize, "normalize", get_args(Normalize)),
        (color, "color", get_args(Channels)),
        (correct, "correct", get_args(Correct)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    if display_peak is not None and domain in ("linear", "mu") and correct != "response":
        raise ValueError(f"display_peak has no part in domain={domain!r}; leave it out, or compare in 'pq' or 'pu21'")


def _luminance(image: Tensor) -> Tensor:
    """Luminance (N, 1, H, W) of linear BT.709, in units of white."""
    if image.shape[1] == 1:
        return image
    if image.shape[1] != 3:
        raise ValueError(f"color='luminance' takes 3 channels or 1, got {image.shape[1]}")
    weights = torch.tensor(LUMINANCE, dtype=image.dtype, device=image.device)
    return torch.einsum("c,nchw->nhw", weights, image)[:, None]
