"""Operator ``imf``: intensity mapping functions and the weighted fusion that interpolates an exposure.

Zheng, Li, Yang and Wu, "Compensated exposure interpolation by fusing conventional and deep learning methods", section
III.A. An intensity mapping function (IMF) Λ12 maps the codes of one exposure of a scene to those of another (eq. 6).

All tables are in 8-bit code units: entry ``i`` of ``L`` stands for the code ``255 i / (L - 1)`` and holds the code it
maps to, at most 255 in an intermediate table. The same table serves uint8 images, uint16 images (codes divided by 257)
and float images (times 255).
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

from hdrops.ops import _arguments, _providers
from hdrops.reference import imf as reference

# ---- producers of tables ----------------------------------------------------------------------------------------


def _codes(levels: int) -> Tensor:
    levels = operator.index(levels)
    if not 2 <= levels <= 65536:
        raise ValueError(f"levels must be 2 to 65536, got {levels}")
    return torch.linspace(0, 255, levels)


def _check_ratio(ratio: float) -> float:
    if not 0 < ratio < float("inf"):
        raise ValueError(f"ratio must be a positive exposure ratio, got {ratio}")
    return ratio


def gamma_imf(ratio: float, gamma: float = 1 / 2.2, levels: int = 256) -> Tensor:
    """IMF of the response F(z) = β z^γ in closed form: Λ12(z) = ratio^γ z (eq. 6).

    Values above 255 are kept: they are what a sensor without saturation would record, and :func:`intermediate_imf`
    needs them.

    Args:
        ratio: exposure ratio Δt2 / Δt1 from the source to the target, positive; above 1 brightens.
        gamma: exponent of the response, positive. The paper leaves it open; 1/2.2 is that of a display-referred image.
        levels: entries of the table, 2 to 65536.

    Returns:
        float32 table (levels,), in 8-bit code units.

    Raises:
        ValueError: ratio, gamma or levels out of range.
    """
    if not 0 < gamma < float("inf"):
        raise ValueError(f"gamma must be positive, got {gamma}")
    factor: float = _check_ratio(ratio) ** gamma
    return _codes(levels) * factor


def crf_imf(crf: Tensor, ratio: float, levels: int = 256, *, inverse: bool = False) -> Tensor:
    """IMF of any camera response: Λ12(z) = F(ratio F⁻¹(z)) (eq. 6), linearly interpolated.

    With ``ratio=sqrt(Δt2 / Δt1)`` this is the map to the middle exposure itself, without the square-root rule.

    Args:
        crf: the response per channel, (M,) or (C, M), M >= 2. By default F on a uniform grid of relative exposures
            from 0 to its last sample (as in the EMoR data base); with ``inverse`` F⁻¹ on a uniform grid of codes,
            (M, 1, C) too, as OpenCV's calibrations return it. Any scale; of F the first and the last sample become 0
            and 255. Where it does not rise, as where a camera clips or an estimate is noisy, the running maximum is
            taken, and a level that several exposures reach stands for the first of them.
        ratio: exposure ratio Δt2 / Δt1 from the source to the target, positive.
        levels: entries of the table, 2 to 65536.
        inverse: whether ``crf`` maps codes to exposures.

    Returns:
        float32 table (levels,) or (C, levels) in 8-bit code units. Exposures beyond the response saturate at 255.

    Raises:
        ValueError: crf is not finite, does not rise at all or is negative (``inverse``), or ratio or levels are out
            of range.
    """
    crf = _arguments.as_tensor(crf, "crf").detach().double()
    if inverse and crf.dim() == 3 and crf.shape[1] == 1:
        crf = crf[:, 0].T
    if crf.dim() not in (1, 2) or crf.shape[-1] < 2:
        raise ValueError(f"crf must be (M,) or (C, M) with M >= 2, got shape {tuple(crf.shape)}")
    if not bool(crf.isfinite().all()):
        raise ValueError("crf must be finite")
    crf = crf.cummax(-1).values
    if not bool((crf[..., -1] > crf[..., 0]).all()):
        raise ValueError("crf must rise along its last dimension, but is constant or falls from its first sample on")
    if inverse and not bool((crf >= 0).all()):
        raise ValueError("an inverse crf holds exposures and must not be negative")
    _check_ratio(ratio)
    codes = (_codes(levels).double() / 255).to(crf.device)
    grid = torch.linspace(0, 1, crf.shape[-1], dtype=torch.float64, device=crf.device)
    rows = []
    for row in crf.reshape(-1, crf.shape[-1]):
        rising = torch.cat([row.new_ones(1, dtype=torch.bool), row.diff() > 0])
        samples, places = row[rising], grid[rising]
        if inverse:
            exposure, response = samples, places
        else:
            exposure, response = places, (samples - samples[0]) / (samples[-1] - samples[0])
        scaled = ratio * reference._interpolate(codes, response, exposure)
        rows.append(255 * reference._interpolate(scaled, exposure, response))
    return torch.stack(rows).reshape(*crf.shape[:-1], levels).float()


def intermediate_imf(imf: Tensor, fraction: float = 0.5) -> Tensor:
    """IMF to an exposure between source and target: Λ13(z) = z^(1-f) Λ12(z)^f, at most 255 (eq. 5 and 7).

    The virtual exposure time is Δt3 = Δt1^(1-f) Δt2^f: for f = 1/2, as in the paper, the geometric mean, and
    Λ13(z) = sqrt(z Λ12(z)). The rule is exact for the paper's response F(z) = β z^γ.

    Args:
        imf: Λ12, (..., L), non-negative, in 8-bit code units. Differentiable.
        fraction: f, position of the virtual exposure on the logarithmic scale, between 0 (the source) and 1 (the
            target), both excluded.

    Returns:
        Λ13, same shape and dtype.

    Raises:
        TypeError: imf is not floating point.
        ValueError: fraction out of range.
    """
    imf = _arguments.as_tensor(imf, "imf")
    if not imf.is_floating_point():
        raise TypeError(f"imf must be floating point, got {imf.dtype}")
    _arguments.check_fraction(fraction)
    z = torch.linspace(0, 255, imf.shape[-1], dtype=imf.dtype, device=imf.device)
    # The power is taken of values bounded away from 0, so that the gradient at z = 0 or Λ = 0 is finite.
    power = imf.clamp(min=torch.finfo(imf.dtype).tiny).pow(fraction)
    return torch.where(imf > 0, z.pow(1 - fraction) * power, 0 * imf).clamp(max=255)


def estimate_imf(
    source: Tensor, target: Tensor, levels: int = 256, *, saturated: float = 250.0, backend: str | None = None
) -> Tensor:
    """Estimate Λ12 from two exposures of one scene by histogram specification.

    Motion and misalignment hardly matter, since only histograms are compared. A source level maps to the target level
    with the same quantile: with cumulative histograms taken at the middle of each level's share, Λ12 = P2⁻¹(P1(z)).
    Target levels that do not occur are interpolated between those that do, and so are source levels. Below the first
    source level that occurs, and above the last trusted one, the map continues in proportion to z. A level matched to
    ``saturated`` or above is not trusted: where the target is clipped it tells nothing about the exposure, and the
    intermediate exposure, which is clipped later, needs the continuation (on real brackets with a ratio of 16 it
    raises the PSNR of the interpolated exposure by 2 dB); there the map stays at
    ``saturated`` or above. Values may therefore exceed 255, as in :func:`gamma_imf`.

    Args:
        source: uint8 or uint16 image (C, H, W), or a batch (N, C, H, W) whose members are treated one by one.
        target: the other exposure; same dtype, C and N; H and W may differ.
        levels: entries of the table, 2 to 65536.
        saturated: threshold on the target, in 8-bit code units; 256 trusts every level.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        float32 table (C, levels), or (N, C, levels) for a batch; non-decreasing, in 8-bit code units. Not
        differentiable.

    Raises:
        TypeError: the images are not uint8 or uint16, or differ in dtype.
        ValueError: shapes do not agree, an image has no pixels, or levels is out of range.
    """
    source, target = _arguments.as_tensor(source, "source"), _arguments.as_tensor(target, "target")
    for image, name in ((source, "source"), (target, "target")):
        if image.dtype not in _arguments.CODE_DTYPES:
            raise TypeError(
                f"{name} must be uint8 or uint16 (histograms are defined on codes), got {image.dtype}; "
                "quantise it first"
            )
        if image.dim() not in (3, 4):
            raise ValueError(f"{name} must be (C, H, W) or (N, C, H, W), got shape {tuple(image.shape)}")
        if image.shape[-1] * image.shape[-2] == 0:
            raise ValueError(f"{name} has no pixels: shape {tuple(image.shape)}")
    if source.dtype != target.dtype:
        raise TypeError(f"source is {source.dtype}, target {target.dtype}; convert one of them")
    if source.shape[:-2] != target.shape[:-2]:
        raise ValueError(f"source {tuple(source.shape)} and target {tuple(target.shape)} must agree in N and C")
    if source.device != target.device:
        raise ValueError(f"source is on {source.device}, target on {target.device}; move one of them")
    levels = operator.index(levels)
    if not 2 <= levels <= 65536:
        raise ValueError(f"levels must be 2 to 65536, got {levels}")
    if saturated != saturated:
        raise ValueError("saturated must be a number, got NaN")
    single = source.dim() == 3
    if single:
        source, target = source.unsqueeze(0), target.unsqueeze(0)
    table: Tensor = _providers.overload("estimate_imf", backend, source)(source, target, levels, float(saturated))
    return table.squeeze(0) if single else table


# ---- fusion -----------------------------------------------------------------------------------------------------


def _table(table: Any, name: str, images: Tensor) -> Tensor:
    """A table as (1 or N, 1 or C, L) in the arithmetic type, on the device of the images."""
    given = _arguments.as_tensor(table, name)
    n, c = images.shape[:2]
    if not given.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {given.dtype}")
    if given.dim() not in (1, 2, 3):
        raise ValueError(f"{name} must be (L,), (C, L) or (N, C, L), got shape {tuple(given.shape)}")
    full = given.reshape((1,) * (3 - given.dim()) + tuple(given.shape))
    if (full.shape[0] != 1 and full.shape[0] != n) or (full.shape[1] != 1 and full.shape[1] != c):
        raise ValueError(f"{name} of shape {tuple(given.shape)} does not fit images of shape {tuple(images.shape)}")
    if not 2 <= full.shape[2] <= 65536:
        raise ValueError(f"{name} must have 2 to 65536 levels, got {full.shape[2]}")
    return full.to(device=images.device, dtype=_arguments.compute_dtype(images))


def imf_fuse(
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    *,
    low: tuple[float, float] = (5, 55),
    high: tuple[float, float] = (200, 250),
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Interpolate the exposure between two images: their intermediate maps, fused by reliability (eq. 8-12).

    ::

        x3 = (W1(dark) Λ13(dark) + W2(bright) Λ23(bright)) / (W1(dark) + W2(bright))
        W1(z) = 1 - 3 h² + 2 h³,  h = (low[1] - z) / (low[1] - low[0]) clamped to [0, 1]     rises from 0 to 1
        W2(z) = 1 - 3 h² + 2 h³,  h = (z - high[0]) / (high[1] - high[0]) clamped to [0, 1]  falls from 1 to 0

    Brightening is unreliable in the dark part of the dark image and darkening in the bright part of the bright one, so
    the weights go by role; the paper's text swaps the labels. Where both weights are 0 the two maps are averaged, which
    the paper leaves open. Weights are per channel, as eq. 8 is written.

    Args:
        dark: the less exposed image (N, C, H, W): uint8 or uint16 codes, or floating point in [0, 1]. Floats are looked
            up with linear interpolation and clamped to the table; NaN in either image gives NaN.
        bright: the more exposed image; same shape, dtype and device.
        imf_dark: the *intermediate* table Λ13 of the dark image, (L,), (C, L) or (N, C, L) with 2 <= L <= 65536, in
            8-bit code units (see :func:`intermediate_imf`).
        imf_bright: the intermediate table Λ23 of the bright image.
        low: the codes (ξL, 55) between which W1 rises; increasing, in 8-bit code units. The paper does not give ξL.
        high: the codes (200, ξU) between which W2 falls. The paper does not give ξU.
        dtype: of the result: that of the images (the default; codes are rounded half to even), or ``torch.float32`` for
            integer images, in [0, 1].
        out: tensor to write the result to, of its shape and a dtype as above, sharing no memory with the
            inputs. Not with autograd.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        The interpolated image, (N, C, H, W), in the memory format of ``dark``. Differentiable with respect to float
        images and to tables; gradients of tables sum over pixels, on CUDA in an order that varies
        (``torch.use_deterministic_algorithms(True)`` raises there).

    Raises:
        TypeError: images of different or unsupported dtypes, or a result dtype that is not offered.
        ValueError: shapes that do not fit, thresholds that do not increase.
    """
    dark, bright = _arguments.as_tensor(dark, "dark"), _arguments.as_tensor(bright, "bright")
    _arguments.check_image_dtype(dark, "dark")
    if bright.dtype != dark.dtype:
        raise TypeError(f"dark is {dark.dtype}, bright {bright.dtype}; convert one of them")
    if dark.dim() != 4:
        raise ValueError(f"dark must be (N, C, H, W), got shape {tuple(dark.shape)}")
    if dark.shape != bright.shape:
        raise ValueError(f"dark {tuple(dark.shape)} and bright {tuple(bright.shape)} must have one shape")
    if dark.device != bright.device:
        raise ValueError(f"dark is on {dark.device}, bright on {bright.device}; move one of them")
    for ends, name in ((low, "low"), (high, "high")):
        if len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
            raise ValueError(f"{name} must be two finite, increasing code values, got {ends}")
    tables = _table(imf_dark, "imf_dark", dark), _table(imf_bright, "imf_bright", dark)
    out = out if out is None else _arguments.as_tensor(out, "out")
    wanted = _arguments.output_dtype(dark, dtype, out)
    limits = [float(v) for v in low], [float(v) for v in high]
    if out is not None:
        _arguments.check_out(out, dark.shape, [dark, bright, *tables])
        if out.is_contiguous():
            _providers.overload("imf_fuse_out", backend, dark)(dark, bright, *tables, *limits, out)
            return out
    result = _providers.overload("imf_fuse", backend, dark)(dark, bright, *tables, *limits, wanted)
    return out.copy_(result) if out is not None else _arguments.keep_format(result, dark)


# ---- fake kernels and autograd -------------------------------------------------------------------------------------


def _estimate_fake(source: Tensor, target: Tensor, levels: int, saturated: float) -> Tensor:
    return source.new_empty((*source.shape[:2], levels), dtype=torch.float32)


def _fuse_fake(
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: list[float],
    high: list[float],
    dtype: torch.dtype | None = None,
) -> Tensor:
    return dark.new_empty(dark.shape, dtype=dtype or dark.dtype)


def _fuse_out_fake(*args: Any) -> None:
    return None


def _fuse_backward_fake(
    grad: Tensor,
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: list[float],
    high: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if dark.is_floating_point():
        images = dark.new_empty(dark.shape), dark.new_empty(dark.shape)
    else:
        images = grad.new_empty(0, dtype=torch.float32), grad.new_empty(0, dtype=torch.float32)
    return *images, imf_dark.new_empty(imf_dark.shape), imf_bright.new_empty(imf_bright.shape)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.low, ctx.high, _ = inputs
    ctx.save_for_backward(*tensors)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.low, ctx.high = inputs
    ctx.save_for_backward(*tensors)


def _fuse_backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    dark, bright, imf_dark, imf_bright = ctx.saved_tensors
    if grad.is_cuda and (ctx.needs_input_grad[2] or ctx.needs_input_grad[3]):
        torch._prims_common.alert_not_deterministic("hdrops::imf_fuse_backward")
    grads = getattr(torch.ops, namespace).imf_fuse_backward(grad, dark, bright, imf_dark, imf_bright, ctx.low, ctx.high)
    wanted = [g if needed else None for g, needed in zip(grads, ctx.needs_input_grad, strict=False)]
    return *wanted, None, None, None


def _fuse_double_backward(namespace: str, ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    grad, *inputs = ctx.saved_tensors

    def forward(dark: Tensor, bright: Tensor, imf_dark: Tensor, imf_bright: Tensor) -> Tensor:
        result = reference.fuse(dark, bright, imf_dark, imf_bright, ctx.low, ctx.high) / 255.0
        return result.to(grad.dtype)

    return *_providers.second_order(forward, inputs, grad, list(grads)), None, None


_providers.register("estimate_imf", "imf", fake=_estimate_fake)
_providers.register("imf_fuse", "imf", fake=_fuse_fake, backward=_fuse_backward, setup_context=_save_forward)
_providers.register("imf_fuse_out", "imf", fake=_fuse_out_fake)
_providers.register(
    "imf_fuse_backward", "imf", fake=_fuse_backward_fake, backward=_fuse_double_backward, setup_context=_save_backward
)
