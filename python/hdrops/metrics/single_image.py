"""Exposure and response of a reconstruction matched to its reference, before a metric is taken.

A network that sees one low-dynamic-range image cannot know the exposure and the response curve of the camera, and
errors in these outweigh all others in every metric: Eilertsen et al., "How to cheat with metrics in single-image HDR
reconstruction", ICCV Workshops 2021. Hanji et al., "Comparison of single image HDR reconstruction methods — the caveats
of quality assessment", SIGGRAPH 2022, therefore correct them first.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hdrops.metrics import _pairs
from hdrops.metrics.domains import PU21_RANGE, pq_decode, pq_encode
from hdrops.ops import _arguments

Space = Literal["luv", "rgb"]
Transfer = Literal["pq", "log"]

# What the published correction is defined with: linear BT.709 to XYZ, the scale of u' and v', the range of XYZ.
_XYZ = (
    (0.412424, 0.357579, 0.180464),
    (0.212656, 0.715158, 0.072186),
    (0.019332, 0.119193, 0.950444),
)
_UV_SCALE = 410 / 255
_XYZ_RANGE = (1e-4, 1e8)
LUMINANCE = _XYZ[1]


def _kth(flat: Tensor, fraction: float) -> Tensor:
    """The smallest of the values that at least ``fraction`` of them do not exceed."""
    return flat.kthvalue(max(1, math.ceil(fraction * flat.numel()))).values


def _checked_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    if mask is None:
        return None
    mask = _arguments.as_tensor(mask, "mask")
    if mask.dtype != torch.bool or mask.shape != (x.shape[0], 1, *x.shape[2:]) or mask.device != x.device:
        raise ValueError(
            f"mask must be bool {(x.shape[0], 1, *x.shape[2:])} on {x.device}, got {mask.dtype} {tuple(mask.shape)} on "
            f"{mask.device}"
        )
    return mask


def _within(mask: Tensor | None) -> str:
    return "" if mask is None else ", within the mask"


def _restored(result: Tensor, x: Tensor) -> Tensor:
    return result.to(x.dtype if x.is_floating_point() else torch.float32)


@torch.no_grad()
def match_exposure(x: Any, y: Any, *, mask: Tensor | None = None) -> Tensor:
    """The image times one factor per image, which brings it closest to the reference in the log domain.

    The factor is the geometric mean of y / x over the samples of all channels that are positive and finite in both and,
    without a mask, well exposed: between the 10th and the 90th percentile of the reference. These percentiles are this
    project's convention.

    Args:
        x: the reconstruction (N, C, H, W), linear; uint8, uint16 (scaled to [0, 1]) or floating point.
        y: the reference, same shape.
        mask: the well-exposed pixels, bool (N, 1, H, W), in place of the percentiles.

    Returns:
        x scaled; dtype of x, float32 for codes. Without gradient.

    Raises:
        TypeError, ValueError: images that do not fit together, or an image without samples to match.
    """
    x, y = _pairs.checked(x, y)
    mask = _checked_mask(mask, x)
    images, references = _pairs.values(x), _pairs.values(y)
    scales = []
    for i, (image, reference) in enumerate(zip(images, references, strict=True)):
        usable = (image > 0) & (reference > 0) & image.isfinite() & reference.isfinite()
        if mask is not None:
            usable &= mask[i]
        elif usable.any():
            positive = reference[usable]
            usable &= (reference >= _kth(positive, 0.1)) & (reference <= _kth(positive, 0.9))
        if not usable.any():
            raise ValueError(
                f"image {i} has no samples to match: none are positive in both it and its reference{_within(mask)}"
            )
        scales.append((reference[usable].log() - image[usable].log()).mean().exp())
    if not scales:
        return _restored(images, x)
    return _restored(images * _pairs.per_image(torch.stack(scales)), x)


@torch.no_grad()
def match_response(
    x: Any,
    y: Any,
    *,
    display_peak: float,
    space: Space = "luv",
    transfer: Transfer = "pq",
    degree: int = 3,
    regularization: float = 0.01,
    mask: Tensor | None = None,
) -> Tensor:
    """The image through the response curve and colour mix that bring it closest to the reference (Hanji et al. 2022).

    ``space="luv"`` is the published correction: luminance by a polynomial of its PQ value, fitted by least squares;
    u' and v' of CIE 1976, linear and times 410/255, each by a polynomial of both with their product::

        Y ← PQ⁻¹(Σ_{d ≥ 0} a_d PQ(Y)^d),   (u, v) ← Σ_{d ≥ 1} (b_d u^d + c_d v^d) + e u v + f

    with d up to the degree, the latter regularised towards the identity by λ P/K for P pixels and K terms; the fit of
    luminance is not regularised. ``space="rgb"`` fits all channels so at once: powers of each and all products of two,
    regularised. Values are raised to 0.005 cd/m² before, the result likewise; it is at most 10000 cd/m² for PQ.

    Args:
        x: the reconstruction, linear BT.709 (N, 3, H, W), or luminance (N, 1, H, W), which is matched as the
            luminance of ``luv`` is; uint8, uint16 (scaled to [0, 1]) or floating point. ``rgb`` takes any number of
            channels.
        y: the reference, same shape.
        display_peak: luminance in cd/m² at which value 1 is shown (1 for images in cd/m²). PQ ends at 10000 cd/m²:
            match exposures first where x may be far brighter than y.
        space: "luv" or "rgb".
        transfer: what the fit compares: "pq", or "log" for log10.
        degree: of the polynomials, at least 1.
        regularization: λ.
        mask: pixels to fit on, bool (N, 1, H, W); all finite ones by default, as published.

    Returns:
        x corrected; dtype of x, float32 for codes. NaN and infinite pixels are left out of the fit; NaN stays NaN.
        Without gradient.

    Raises:
        TypeError, ValueError: images that do not fit together, an argument out of range, an image without pixels to fit
            on, or one that the fit does not converge for.
    """
    x, y = _pairs.checked(x, y)
    mask = _checked_mask(mask, x)
    if space not in get_args(Space) or transfer not in get_args(Transfer):
        raise ValueError(f"space must be 'luv' or 'rgb' and transfer 'pq' or 'log', got {space!r} and {transfer!r}")
    if degree < 1 or not regularization >= 0:
        raise ValueError(f"degree must be at least 1, regularization at least 0, got {degree} and {regularization}")
    if space == "luv" and x.shape[1] not in (1, 3):
        raise ValueError(f"space='luv' takes 1 or 3 channels, got {x.shape[1]}; use space='rgb'")
    peak = _pairs.checked_peak(display_peak, "match_response")
    images, references = _pairs.values(x) * peak, _pairs.values(y) * peak
    corrected = torch.empty_like(images)
    for i, (image, reference) in enumerate(zip(images, references, strict=True)):
        used = image.isfinite().all(0) & reference.isfinite().all(0)
        if mask is not None:
            used &= mask[i, 0]
        if not used.any():
            raise ValueError(
                f"image {i} has no pixels to fit on: none are finite in both it and its reference{_within(mask)}"
            )
        image, reference = (z.clamp(min=PU21_RANGE[0]) for z in (image, reference))
        if space == "rgb":
            result = _toned(image, reference, transfer, degree, regularization, used)
        elif image.shape[0] == 1:
            result = _toned(image, reference, transfer, degree, 0.0, used)
        else:
            luma, chroma = _luv(image)
            luma_reference, chroma_reference = _luv(reference)
            colours = _fitted(chroma, chroma_reference, degree, regularization, used).clamp(min=PU21_RANGE[0])
            result = _rgb(_toned(luma, luma_reference, transfer, degree, 0.0, used), colours)
        corrected[i] = result / peak
    return _restored(corrected, x)


def _toned(image: Tensor, reference: Tensor, transfer: Transfer, degree: int, strength: float, used: Tensor) -> Tensor:
    """The image through the polynomial that fits the reference best in the domain of ``transfer``."""
    encode = pq_encode if transfer == "pq" else torch.log10
    floor = encode(torch.tensor(PU21_RANGE[0], dtype=image.dtype, device=image.device))
    fitted = torch.maximum(_fitted(encode(image), encode(reference), degree, strength, used), floor)
    return pq_decode(fitted) if transfer == "pq" else 10**fitted


def _fitted(image: Tensor, reference: Tensor, degree: int, strength: float, used: Tensor) -> Tensor:
    """The polynomial of the image's channels (C, H, W) closest to the reference over the pixels ``used`` (H, W)."""
    channels = image.shape[0]
    terms = [image[c] for c in range(channels)]
    terms += [image[a] * image[b] for a, b in itertools.combinations(range(channels), 2)]
    terms += [image[c] ** d for d in range(2, degree + 1) for c in range(channels)]
    terms.append(torch.ones_like(image[0]))
    basis = torch.stack(terms).flatten(1)
    pixels = used.flatten()
    chosen = basis[:, pixels]
    identity = torch.eye(len(terms), dtype=basis.dtype, device=basis.device)
    weight = strength * chosen.shape[1] / len(terms)
    gram = chosen @ chosen.T + weight * identity
    target = chosen @ reference.flatten(1)[:, pixels].T + weight * identity[:, :channels]
    # A handful of unknowns: on the CPU, where the solver copes with terms that depend on each other (a flat image).
    try:
        coefficients = torch.linalg.lstsq(gram.cpu(), target.cpu(), driver="gelsd").solution.to(basis.device)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ValueError(
            "no response curve can be fitted to these images: the least squares do not converge"
        ) from error
    fitted: Tensor = (coefficients.T @ basis).view(image.shape)
    return fitted


def _luv(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance (1, H, W), and u' and v' (2, H, W) times 410/255, of linear BT.709."""
    matrix = torch.tensor(_XYZ, dtype=rgb.dtype, device=rgb.device)
    xyz = torch.einsum("ij,jhw->ihw", matrix, rgb).clamp(*_XYZ_RANGE)
    x, y, z = xyz
    whole = x + 15 * y + 3 * z
    return xyz[1:2], torch.stack((4 * x / whole, 9 * y / whole)) * _UV_SCALE


def _rgb(luminance: Tensor, chroma: Tensor) -> Tensor:
    """The inverse of :func:`_luv`, where no channel is negative."""
    u, v = chroma / _UV_SCALE
    y = luminance[0].clamp(*_XYZ_RANGE)
    x = (y * 9 * u / (4 * v)).clamp(*_XYZ_RANGE)
    z = (y * (12 - 3 * u - 20 * v) / (4 * v)).clamp(*_XYZ_RANGE)
    inverse = torch.linalg.inv(torch.tensor(_XYZ, dtype=torch.float64)).to(y.device)
    return torch.einsum("ij,jhw->ihw", inverse, torch.stack((x, y, z))).clamp(min=0)
