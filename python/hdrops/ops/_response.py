"""The camera response from two exposures of a scene, and the intensity mapping functions that follow from it.

Zheng, Li, Yang and Wu, "Compensated exposure interpolation by fusing conventional and deep learning methods", take the
square root of z Λ12(z) for the map to the middle exposure (eq. 7), which is exact for the response β z^γ alone, and
Λ12 is unknown where the brighter image is clipped. Both follow from a response: with g = ln F⁻¹ in units of the
distance of the exposures, g(Λ12(z)) = g(z) + 1, so that the map to any other exposure is g⁻¹(g(z) + f).

Grossberg and Nayar, "Determining the camera response from images: what is knowable?", show that such a g is not unique;
the smoothest one is taken, over a place s(z) = ln z - ln(1 - z / 300) of the codes. A line over s is the response
z^γ in the dark with a shoulder in the light, z = 300 E^n / (E^n + σ^n): that is found where nothing speaks against it.
On photographs a line over ln z, which z^γ is, and maps by it lose 2 to 3 dB against that.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from hdrops.ops import _arguments
from hdrops.ops.imf import estimate_imf, intermediate_imf

# How the maps to an exposure between two are estimated: by the response, or as the paper has it.
Maps = Literal["response", "histogram"]
# From the fraction of the way to the bright exposure to the intermediate tables of the dark and of the bright image.
MapsAt = Callable[[float], tuple[Tensor, Tensor]]

_SHOULDER = 300.0  # the code that a line never reaches
_KNOT = 0.25  # distance of the knots in s
_TRUSTED = 2.0, 250.0  # codes between which an entry of an IMF tells of the response
_PRIOR = 1e-4  # weight of the line by the images' means, for images that tell nothing
_LEAST_SLOPE = 0.05  # of the mean one
_SMALLEST_DISTANCE = 1e-3  # in s, that equal images count as
_GRID = 192  # rows and columns of pixels whose codes are counted
_LARGEST_SMOOTHNESS = 1e4  # the maps are those of a line then; beyond, rounding errors grow


def _codes(levels: int, like: Tensor) -> Tensor:
    return torch.linspace(0, 255, levels, dtype=torch.float64, device=like.device)


def _black(levels: int) -> float:
    """The code that stands for black, which has no logarithm: half the second one."""
    return 255 / (levels - 1) / 2


def _place(codes: Tensor, black: float) -> Tensor:
    """s of codes, taken between black and white."""
    codes = codes.clamp(black, 255)
    return codes.log() - (1 - codes / _SHOULDER).log()


def _basis(places: Tensor, knots: Tensor) -> Tensor:
    """(..., K): the weights of the knots in a piecewise linear function at some places."""
    at = ((places - knots[0]) / (knots[1] - knots[0])).clamp(0, len(knots) - 1)
    return (1 - (at[..., None] - torch.arange(len(knots), device=at.device)).abs()).clamp(min=0)


def _shares(image: Tensor, levels: int) -> Tensor:
    """(N, C, levels): the share of each level in an image (N, C, H, W) of codes, on a regular grid of pixels."""
    rows, columns = (torch.arange(_GRID, device=image.device) * side // _GRID for side in image.shape[-2:])
    full = torch.iinfo(image.dtype).max
    codes = image[:, :, rows[:, None], columns].to(torch.int64).flatten(2)
    level = (codes * (levels - 1) + full // 2) // full
    images, channels, pixels = level.shape
    # In one dimension the sum is deterministic on GPUs too.
    starts = torch.arange(images * channels, device=image.device)[:, None] * levels
    places = (level.reshape(images * channels, pixels) + starts).flatten()
    counts = torch.zeros(images * channels * levels, device=image.device)
    counts.scatter_add_(0, places, torch.ones_like(places, dtype=torch.float32))
    return counts.reshape(images, channels, levels).double() / pixels


def estimate_response(dark: Tensor, bright: Tensor, levels: int = 256, *, smoothness: float = 0.05) -> Tensor:
    """Estimate the response of the camera from two exposures: g = ln F⁻¹(z) / ln(Δt2 / Δt1).

    Minimises Σ_z p(z) (g(Λ(z)) - g(z) ∓ 1)² + smoothness² ∫ (d²g / ds²)² ds for each channel, where Λ is the IMF to the
    bright image (-) and that to the dark one (+), by :func:`hdrops.estimate_imf`, p(z) the share of the level in the
    image that is mapped, s(z) = ln z - ln(1 - z / 300), and g piecewise linear over s. Motion and misalignment hardly
    matter, since only histograms are compared.

    On photographs 2 to 6 stops apart, the maps of :func:`response_imf` raise the PSNR of the interpolated exposure by
    3.7 to 7.5 dB over those of :func:`hdrops.intermediate_imf`; on the response z^γ, for which the latter are exact,
    they cost 1.4 dB.

    Args:
        dark: the less exposed image, uint8 or uint16 (C, H, W), or a batch (N, C, H, W) whose members are treated one
            by one.
        bright: the more exposed image; same dtype, C and N.
        levels: entries of the table, 2 to 65536.
        smoothness: weight λ of the second term, positive, at most 1e4.

    Returns:
        float32 table (C, levels), or (N, C, levels) for a batch, that rises; defined up to a constant. Entry ``i`` of
        ``L`` is g of the code ``255 i / (L - 1)``, the first that of half the second code. Images that hold nothing
        between black and white, or are equally exposed, give a line over s. Not differentiable.

    Raises:
        TypeError: the images are not uint8 or uint16, or differ in dtype.
        ValueError: shapes do not agree, an image has no pixels, or levels or smoothness are out of range.
    """
    if not 0 < smoothness <= _LARGEST_SMOOTHNESS:
        raise ValueError(f"smoothness must be positive, at most {_LARGEST_SMOOTHNESS:g}, got {smoothness}")
    dark, bright = _arguments.as_tensor(dark, "dark"), _arguments.as_tensor(bright, "bright")
    levels = operator.index(levels)
    forth, back = estimate_imf(dark, bright, levels), estimate_imf(bright, dark, levels)  # check all arguments
    single = forth.dim() == 2
    tables = [table[None] if single else table for table in (forth, back)]
    images = [image[None] if single else image for image in (dark, bright)]
    g = _solved([_shares(image, levels) for image in images], [table.double() for table in tables], smoothness)
    return g[0] if single else g


@torch.no_grad()
def _solved(shares: list[Tensor], tables: list[Tensor], smoothness: float) -> Tensor:
    """g (N, C, L), from the shares of the levels and the IMFs (N, C, L) of the dark and of the bright image."""
    levels = shares[0].shape[-1]
    codes, black = _codes(levels, shares[0]), _black(levels)
    places = _place(codes, black)
    # Once more without tensors: their number of knots must not depend on values where the program is traced.
    first, last = (math.log(code) - math.log(1 - code / _SHOULDER) for code in (black, 255.0))
    count = math.ceil((last - first) / _KNOT) + 1
    knots = torch.linspace(first, last, count, dtype=torch.float64, device=places.device)
    width = (last - first) / (count - 1)
    means = [_place((share * codes).sum(-1, keepdim=True), black) for share in shares]
    distance = (means[1] - means[0]).clamp(min=_SMALLEST_DISTANCE)

    # Unknown is g times the distance in s: its slope is about 1.
    here = _basis(places, knots)
    matrix = torch.zeros(*shares[0].shape[:2], count, count, dtype=torch.float64, device=places.device)
    vector = matrix.new_zeros(matrix.shape[:-1])
    low, high = _TRUSTED
    for share, table, sign in zip(shares, tables, (1, -1), strict=True):
        known = (codes >= low) & (codes < high) & (table > low) & (table < high)
        rows = _basis(_place(table, black), knots) - here
        weighted = rows * (share * known)[..., None]
        matrix += weighted.mT @ rows
        vector += sign * distance * weighted.sum(-2)
    identity = torch.eye(count, dtype=torch.float64, device=places.device)
    bends = identity.diff(n=2, dim=0) / width**2
    slopes = identity.diff(dim=0) / width
    matrix += smoothness**2 * width * bends.mT @ bends + _PRIOR * width * slopes.mT @ slopes
    matrix += identity[count // 2, :, None] * identity[count // 2]  # a constant is free
    vector += _PRIOR * width * slopes.sum(0)
    solved, _ = torch.linalg.solve_ex(matrix, vector)
    steps = solved.diff(dim=-1)
    steps = torch.maximum(steps, _LEAST_SLOPE * steps.mean(-1, keepdim=True).clamp(min=_LEAST_SLOPE * width))
    rising = torch.cat([solved[..., :1], solved[..., :1] + steps.cumsum(-1)], -1) / distance
    return (rising @ here.mT).float()


def pair_imfs(dark: Tensor, bright: Tensor, levels: int, maps: Maps) -> MapsAt:
    """The maps to any exposure between two images, estimated from these.

    Args:
        dark: the less exposed image, uint8 or uint16 (C, H, W) or (N, C, H, W).
        bright: the more exposed image; same dtype, C and N.
        levels: L, entries of the tables.
        maps: how they are estimated.

    Returns:
        What gives for a fraction f, 0 < f < 1, the tables (C, L) or (N, C, L) in 8-bit code units: of the response
        g⁻¹(g(z) + f) and g⁻¹(g(z) + f - 1), or by histogram z^(1-f) Λ12(z)^f and z^f Λ21(z)^(1-f).

    Raises:
        TypeError, ValueError: what :func:`estimate_response` and :func:`hdrops.estimate_imf` raise.
    """
    if maps == "response":
        response = estimate_response(dark, bright, levels)
        return lambda fraction: (response_imf(response, fraction), response_imf(response, fraction - 1))
    forth, back = estimate_imf(dark, bright, levels), estimate_imf(bright, dark, levels)
    return lambda fraction: (intermediate_imf(forth, fraction), intermediate_imf(back, 1 - fraction))


def check_maps(maps: str) -> None:
    """Raise a ValueError where it is none of the ways to estimate maps."""
    if maps not in get_args(Maps):
        raise ValueError(f"maps must be 'response' or 'histogram', got {maps!r}")


def response_imf(response: Tensor, step: float) -> Tensor:
    """IMF of a response: Λ(z) = g⁻¹(g(z) + step), at most 255.

    Args:
        response: g, (..., L), L >= 2, finite, which rises along its last dimension: see :func:`estimate_response`.
            Beyond its ends it goes on in a line over ln z.
        step: from the exposure of the source to that of the target, in units of the distance of the two images that
            ``response`` is of: from the dark one to the fraction f of the way ``f``, from the bright one ``f - 1``.

    Returns:
        Table of the same shape and dtype, in 8-bit code units. Not differentiable.

    Raises:
        TypeError: response is not floating point.
        ValueError: it is not finite or does not rise, which is not asked under ``torch.compile``, ``torch.export`` and
            in CUDA graphs; or step is not finite.
    """
    response = _arguments.as_tensor(response, "response").detach()
    if not response.is_floating_point():
        raise TypeError(f"response must be floating point, got {response.dtype}")
    if response.dim() == 0 or response.shape[-1] < 2:
        raise ValueError(f"response must be (..., L) with L >= 2, got shape {tuple(response.shape)}")
    if not -math.inf < step < math.inf:
        raise ValueError(f"step must be finite, got {step}")
    g = response.double()
    if _arguments.can_wait(g) and not bool(g.isfinite().all() & (g.diff(dim=-1) > 0).all()):
        raise ValueError("response must be finite and rise along its last dimension")
    levels = g.shape[-1]
    places = _codes(levels, g).clamp(min=_black(levels)).log()
    wanted = (g + step).contiguous()
    after = torch.searchsorted(g.contiguous(), wanted).clamp(1, levels - 1)
    first, last = g.gather(-1, after - 1), g.gather(-1, after)
    start, end = places[after - 1], places[after]
    table = (start + (wanted - first) / (last - first) * (end - start)).exp().clamp(max=255)
    table[..., 0] = 0
    return table.to(response.dtype)
