"""Operator ``matching``: the matching volume of EMVNet, and its first convolution without the volume."""

from __future__ import annotations

import math
import numbers as kinds
import operator
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hdrops.ops import _arguments, _providers
from hdrops.ops.matching import _FLOATS, checked_motions
from hdrops.reference import matching_volume as reference

_AXES = "ime"
_SPATIAL = 3
_MOST = 1 << 16  # of strides, paddings and dilations

Triple = int | Sequence[int]


def matching_volume(
    features: Tensor,
    reference: int,
    motions: Tensor | Sequence[Sequence[int]],
    exposures: Tensor | Sequence[float],
    saturation: Tensor | None = None,
    *,
    correlation: Literal["product", "inner"] = "product",
    mask: Literal["gain", "cap"] = "gain",
    ceiling: float = 1.0,
    order: str = "ime",
    include_reference: bool = True,
    backend: str | None = None,
) -> Tensor:
    """The matching volume of Ren, Fan and Huang, "Robust real-world image enhancement based on multi-exposure LDR
    images", WACV 2023, section 3.2, as a tensor.

    For every image i, motion M = (dy, dx) and exposure E one slice holds, of each pixel p::

        <F', F_ref, |F' - F_ref|, F' · F_ref>      F'(p) = g(F_i, E)(p + M), or 0 where p + M lies outside

    with one of two readings of "if a pixel is saturated, the corresponding multiplication will be thresholded"::

        gain:  g(F, E) = s F + E (1 - s) F
        cap:   g(F, E) = s min(E F, T) + (1 - s) E F          s = 1 without a saturation

    The slices of the reference image itself are <F_ref, F_ref, 0, F_ref · F_ref> for every motion and exposure: it is
    neither moved nor scaled.

    The volume of a picture does not fit into any memory: 1.3 TB at 12 megapixels. :func:`matching_conv3d` convolves it
    without making it.

    Args:
        features: of the images, (N, n, C, H, W), floating point.
        reference: number of the reference image, 0 to n - 1; negative ones count from the end.
        motions: (N_M, 2) integers, rows of (dy, dx) in pixels of the features; see
            :func:`motion_grid`.
        exposures: the N_E gains E, finite. The paper's are 1/4, 1/2, 2, 4, 8 and 16. They are constants; a tensor is
            read, for which a GPU waits and which no compiler traces.
        saturation: s, (N, n, 1 or C, H, W), 1 where an image is saturated; of the dtype of the features. A constant.
            That of the reference image is not used.
        correlation: "product" of every channel, as in the paper, or "inner", the sum of these over the channels.
        mask: the reading of the saturation.
        ceiling: T, 0 or more.
        order: the depth axis from its slowest to its fastest index, of i(mage), m(otion) and e(xposure). The paper does
            not state it.
        include_reference: whether the reference image has slices.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        (N, 4 C, D, H, W), with "inner" (N, 3 C + 1, D, H, W), of the dtype of the features, channels last in memory; D
        is n or n - 1 times N_M N_E. Differentiable with respect to the features; at F' = F_ref the derivative of
        ``|F' - F_ref|`` is 0. NaN and infinity stay where they are read; under a saturation, "gain" makes NaN of an
        infinity.

    Raises:
        TypeError: features that are not floating point, a saturation of another dtype, motions that are not integers.
        ValueError: shapes that do not fit, an image number, order, correlation or mask that does not exist.
    """
    features, saturation, settings = _settings(
        features, reference, motions, exposures, saturation, correlation, mask, ceiling, order, include_reference
    )
    result: Tensor = _providers.overload("matching_volume", backend, features)(features, saturation, *settings)
    return result.permute(0, 4, 1, 2, 3)


def matching_conv3d(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    reference: int,
    motions: Tensor | Sequence[Sequence[int]],
    exposures: Tensor | Sequence[float],
    saturation: Tensor | None = None,
    *,
    stride: Triple = 2,
    padding: Triple = 1,
    dilation: Triple = 1,
    activation: Literal["relu"] | None = None,
    correlation: Literal["product", "inner"] = "product",
    mask: Literal["gain", "cap"] = "gain",
    ceiling: float = 1.0,
    order: str = "ime",
    include_reference: bool = True,
    backend: str | None = None,
) -> Tensor:
    """A 3D convolution of the matching volume, which is never made.

    ::

        activation(conv3d(matching_volume(features, ...), weight, bias, stride, padding, dilation))

    What the convolution has of F' is linear in it: it is a convolution of each image, moved and scaled, and so is, once
    per motion, what it has of the product. What remains for every motion and exposure is ``|F' - F_ref|``. Memory is
    that of the features and of the result, and of maps of 2 kD K numbers for each pixel of a slice of the result. On a
    GPU products ``F F_ref`` of float16 features must stay below 65504, and so must sums of gradients over exposures;
    an image and a volume have less than 2^29 pixels and slices there.

    Args:
        features: as for :func:`matching_volume`.
        weight: (K, 4 C, taps of depth, rows, columns), with "inner" (K, 3 C + 1, ...), of the dtype of the features.
        bias: (K,), or None.
        reference, motions, exposures, saturation, correlation, mask, ceiling, order, include_reference: as for
            :func:`matching_volume`.
        stride: of depth, rows and columns, or one for all.
        padding: zeros before and after each, or one number for all.
        dilation: steps between taps, or one for all.
        activation: "relu", or None.
        backend: as for :func:`matching_volume`.

    Returns:
        (N, K, D', H', W'), as :func:`torch.nn.functional.conv3d` counts, of the dtype of the features, channels last in
        memory. Sums are in float32, in float64 for float64 features. Differentiable with respect to features, weight
        and bias, as often as wanted; compiled programs once.

    Raises:
        TypeError, ValueError: as for :func:`matching_volume`; a weight or bias of another dtype or shape; a result
            without any place.
    """
    features, saturation, settings = _settings(
        features, reference, motions, exposures, saturation, correlation, mask, ceiling, order, include_reference
    )
    weight = _arguments.as_tensor(weight, "weight")
    channels = _channels_of(features.shape[2], settings[5])
    if weight.dim() != 5 or weight.shape[1] != channels or 0 in weight.shape:
        raise ValueError(f"weight must be (K, {channels}, kD, kH, kW), got shape {tuple(weight.shape)}")
    bias = bias if bias is None else _arguments.as_tensor(bias, "bias")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},), got shape {tuple(bias.shape)}")
    for tensor, name in ((weight, "weight"), (bias, "bias")):
        if tensor is not None and tensor.dtype != features.dtype:
            raise TypeError(f"{name} must have the dtype of the features, {features.dtype}, got {tensor.dtype}")
        if tensor is not None and tensor.device != features.device:
            raise ValueError(f"{name} is on {tensor.device}, the features on {features.device}")
    if activation not in (None, "relu"):
        raise ValueError(f'activation must be "relu" or None, got {activation!r}')
    how = [_triple(stride, "stride", 1), _triple(padding, "padding", 0), _triple(dilation, "dilation", 1)]
    shape = _result_shape(features, weight, settings, how)
    if any(side < 1 for side in shape[1:]):
        raise ValueError(
            f"the kernel {tuple(weight.shape[2:])} with dilation {tuple(how[2])} is larger than the padded volume"
        )
    operator = _providers.overload("matching_conv3d", backend, features)
    result: Tensor = operator(features, saturation, weight, bias, *settings, *how, activation == "relu")
    return result.permute(0, 4, 1, 2, 3)


def _channels_of(channels: int, inner: bool) -> int:
    """Channels of the volume of so many of the features."""
    return 3 * channels + (1 if inner else channels)


def _triple(value: Triple, name: str, least: int) -> list[int]:
    each = value if isinstance(value, Sequence) else [value] * _SPATIAL
    # What a compiler leaves open is no number yet.
    numbers = [v if isinstance(v, torch.SymInt) else operator.index(v) for v in each]
    if len(numbers) != _SPATIAL or min(numbers) < least or max(numbers) > _MOST:
        raise ValueError(f"{name} must be one number or three, each from {least} to {_MOST}, got {value}")
    return numbers


def _settings(
    features: Tensor,
    reference: int,
    motions: Any,
    exposures: Any,
    saturation: Tensor | None,
    correlation: str,
    mask: str,
    ceiling: float,
    order: str,
    include_reference: bool,
) -> tuple[Tensor, Tensor | None, tuple[Any, ...]]:
    """The tensors, checked, and what the operators take after them."""
    features = _arguments.as_tensor(features, "features")
    if features.dtype not in _FLOATS:
        raise TypeError(f"features must be floating point, got {features.dtype}")
    if features.dim() != 5 or features.shape[1] < 1 or features.shape[2] < 1:
        raise ValueError(f"features must be (N, n, C, H, W), n and C at least 1, got shape {tuple(features.shape)}")
    n, count, channels, height, width = features.shape
    if not -count <= reference < count:
        raise ValueError(f"reference must be the number of one of {count} images, got {reference}")
    if saturation is not None:
        saturation = _arguments.as_tensor(saturation, "saturation").detach()
        if saturation.dtype != features.dtype:
            raise TypeError(f"saturation must have the dtype of the features, {features.dtype}, got {saturation.dtype}")
        allowed = [(n, count, c, height, width) for c in (1, channels)]
        if tuple(saturation.shape) not in allowed:
            raise ValueError(f"saturation must be {allowed[0]} or {allowed[1]}, got shape {tuple(saturation.shape)}")
        if saturation.device != features.device:
            raise ValueError(f"saturation is on {saturation.device}, the features on {features.device}")
    if correlation not in ("product", "inner"):
        raise ValueError(f'correlation must be "product" or "inner", got {correlation!r}')
    if mask not in ("gain", "cap"):
        raise ValueError(f'mask must be "gain" or "cap", got {mask!r}')
    if sorted(order) != sorted(_AXES):
        raise ValueError(f'order must hold each of "i", "m" and "e" once, slowest first, got {order!r}')
    gains = exposures.tolist() if hasattr(exposures, "tolist") else exposures
    if not isinstance(gains, Sequence) or not all(isinstance(gain, kinds.Real) for gain in gains):
        raise ValueError("exposures must be a sequence of numbers")
    if not all(-math.inf < gain < math.inf for gain in gains):  # which a compiler traces, unlike math.isfinite
        raise ValueError(f"exposures must be finite, got {gains}")
    if not ceiling >= 0:
        raise ValueError(f"ceiling must be 0 or more, got {ceiling}")
    moves = checked_motions(motions, features.device)
    axes = [_AXES.index(axis) for axis in order]
    settings = (
        moves,
        [float(gain) for gain in gains],
        reference % count,
        mask == "cap",
        float(ceiling),
        correlation == "inner",
        axes,
        bool(include_reference),
    )
    return features, saturation, settings


# ---- fake kernels and autograd -------------------------------------------------------------------------------------


def _depth(features: Tensor, settings: Sequence[Any]) -> int:
    images = features.shape[1] - (not settings[7])
    return images * int(settings[0].shape[0]) * len(settings[1])


def _result_shape(
    features: Tensor, weight: Tensor, settings: Sequence[Any], how: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    n, _, _, height, width = features.shape
    sides = zip((_depth(features, settings), height, width), weight.shape[2:], *how, strict=True)
    places = [(side + 2 * pad - dil * (taps - 1) - 1) // step + 1 for side, taps, step, pad, dil in sides]
    return (n, *places, weight.shape[0])


def _fake_volume(features: Tensor, saturation: Tensor | None, *settings: Any) -> Tensor:
    n, _, channels, height, width = features.shape
    of_volume = _channels_of(channels, settings[5])
    return features.new_empty((n, _depth(features, settings), height, width, of_volume))


def _fake_volume_backward(grad: Tensor, features: Tensor, saturation: Tensor | None, *settings: Any) -> Tensor:
    return features.new_empty(features.shape)


def _save_volume(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, saturation, motions, *ctx.settings = inputs
    ctx.save_for_backward(features, saturation, motions)


def _volume_backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    features, saturation, motions = ctx.saved_tensors
    operator = getattr(torch.ops, namespace).matching_volume_backward
    of_features = operator(grad, features, saturation, motions, *ctx.settings)
    return of_features, *(None,) * (2 + len(ctx.settings))


def _save_volume_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, features, saturation, motions, *ctx.settings = inputs
    ctx.save_for_backward(grad, features, saturation, motions)


def _volume_double_backward(namespace: str, ctx: Any, of_features: Tensor) -> tuple[Any, ...]:
    grad, features, saturation, motions = ctx.saved_tensors

    def forward(x: Tensor) -> Tensor:
        return reference.matching_volume(x, saturation, motions, *ctx.settings)

    of_grad, of_x = _providers.second_order(forward, [features], grad, [of_features])
    return of_grad, of_x, *(None,) * (2 + len(ctx.settings))


def _fake_conv(
    features: Tensor, saturation: Tensor | None, weight: Tensor, bias: Tensor | None, *settings: Any
) -> Tensor:
    return features.new_empty(_result_shape(features, weight, settings, settings[8:11]))


def _fake_conv_backward(
    grad: Tensor, features: Tensor, saturation: Tensor | None, weight: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    wants_features, wants_weight = settings[11:]
    return (
        features.new_empty(features.shape if wants_features else (0,)),
        weight.new_empty(weight.shape if wants_weight else (0,)),
    )


def _save_conv(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, saturation, weight, _, motions, *ctx.settings = inputs
    ctx.save_for_backward(features, saturation, weight, motions, output if ctx.settings[-1] else None)


def _conv_backward(namespace: str, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    features, saturation, weight, motions, output = ctx.saved_tensors
    if output is not None:
        grad = grad.masked_fill(output <= 0, 0)
    wants_features, _, wants_weight, wants_bias = ctx.needs_input_grad[:4]
    of_features = of_weight = None
    if wants_features or wants_weight:
        operator = getattr(torch.ops, namespace).matching_conv3d_backward
        of_features, of_weight = operator(
            grad, features, saturation, weight, motions, *ctx.settings[:-1], wants_features, wants_weight
        )
    return (
        of_features if wants_features else None,
        None,
        of_weight if wants_weight else None,
        grad.sum((0, 1, 2, 3)) if wants_bias else None,
        *(None,) * (1 + len(ctx.settings)),
    )


def _save_conv_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, features, saturation, weight, motions, *ctx.settings = inputs
    ctx.save_for_backward(grad, features, saturation, weight, motions)


def _conv_double_backward(
    namespace: str, ctx: Any, of_features: Tensor | None, of_weight: Tensor | None
) -> tuple[Any, ...]:
    grad, features, saturation, weight, motions = ctx.saved_tensors
    *settings, wants_features, wants_weight = ctx.settings

    def forward(x: Tensor, w: Tensor) -> Tensor:
        return reference.matching_conv3d(x, saturation, w, None, motions, *settings, False)

    outputs = [of_features if wants_features else None, of_weight if wants_weight else None]
    of_grad, of_x, of_w = _providers.second_order(forward, [features, weight], grad, outputs)
    return of_grad, of_x, None, of_w, *(None,) * (1 + len(ctx.settings))


_providers.register(
    "matching_volume",
    "matching_volume",
    fake=_fake_volume,
    backward=_volume_backward,
    setup_context=_save_volume,
)
_providers.register(
    "matching_volume_backward",
    "matching_volume",
    fake=_fake_volume_backward,
    backward=_volume_double_backward,
    setup_context=_save_volume_backward,
)
_providers.register(
    "matching_conv3d",
    "matching_volume",
    fake=_fake_conv,
    backward=_conv_backward,
    setup_context=_save_conv,
)
_providers.register(
    "matching_conv3d_backward",
    "matching_volume",
    fake=_fake_conv_backward,
    backward=_conv_double_backward,
    setup_context=_save_conv_backward,
)
