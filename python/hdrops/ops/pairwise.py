"""Operator ``pairwise``: the order of intensities in random pairs, of Ren, Fan and Huang, "Robust real-world image
enhancement based on multi-exposure LDR images", WACV 2023, section 4.1."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from hdrops.ops import _arguments, _providers
from hdrops.reference import pairwise as reference

Ties = Literal["darker", "ignored"]
PIXEL_THRESHOLD = 0.25  # the paper's S, found by tuning
_MOST_PAIRS = 2**31 - 1


def pairwise_loss(
    prediction: Tensor,
    target: Tensor,
    seed: Tensor | int,
    *,
    pairs: int = 1024,
    sides: Tensor | int | None = None,
    threshold: float = PIXEL_THRESHOLD,
    limit: float = 0.99,
    ties: Ties = "darker",
    least: float = 1e-6,
    backend: str | None = None,
) -> Tensor:
    """Whether random pairs of pixels, or of patches, keep their order (eq. 2 and 3).

    Of the intensities I of the prediction, which are means over patches, a pair costs ::

        P = -r (log I_i - log I_j)         r = 1 where target_i > target_j, else -1

        log(1 + e^P)              P <= S
        log(1 + e^√P) + C         P > S    C = log(1 + e^S) - log(1 + e^√S)

    Both patches of a pair are of one channel of one image and of one size. Each is drawn on its own and uniformly among
    those that lie in the image and touch no over-exposed pixel, one whose target exceeds ``limit`` times the largest
    of its image. The draws are those of Philox4x32-10 with the seed as its key: equal on every device and backend, and
    for any number of threads. Equal patches have equal means wherever they lie. What a pair takes grows at most with
    the side of its patches, not with their area.

    Args:
        prediction: (N, C, H, W), floating point.
        target: the image wanted; of the same shape, dtype and device.
        seed: an integer of 64 bits, or a tensor of one, int64 and on the images' device.
        pairs: of each channel of each image, 1 or more, below 2^31.
        sides: pixels along a side of the patches: one number, or int64 (N,) with one for each image, on its device.
            Those below 1 count as 1, those above H or W as the smaller of these. None for pixels.
        threshold: S, positive and finite.
        limit: share of the image's maximum up to which a pixel is not over-exposed, in (0, 1].
        ties: pairs of equal targets count as "darker", r = -1, as the formula has it, or are "ignored".
        least: means below it count as it, for their logarithms; positive. What is below it has no gradient.
        backend: "cpp", "cuda", "triton", "reference", or None for the device's own.

    Returns:
        The mean over all pairs of all images, float32 (float64 for float64 images); 0 where there is none.
        Differentiable with respect to the prediction. A pair that touches NaN in the prediction makes it NaN, and the
        gradient NaN where its patch lies. An image whose target holds NaN has no pairs.

    Raises:
        TypeError: images that are not floating point, or of two dtypes.
        ValueError: shapes that differ or are not (N, C, H, W), or numbers out of range.
    """
    prediction = _arguments.as_tensor(prediction, "prediction")
    target = _arguments.as_tensor(target, "target")
    for image, name in ((prediction, "prediction"), (target, "target")):
        if not image.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {image.dtype}; divide codes by their full scale")
    if prediction.dtype != target.dtype:
        raise TypeError(f"prediction is {prediction.dtype}, target {target.dtype}; convert one of them")
    if prediction.dim() != 4:
        raise ValueError(f"prediction must be (N, C, H, W), got shape {tuple(prediction.shape)}")
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must have one shape")
    if prediction.device != target.device:
        raise ValueError(f"prediction is on {prediction.device}, target on {target.device}; move one of them")
    check_options(pairs, threshold, limit, ties, least)
    number = seed if isinstance(seed, Tensor) else torch.tensor(seed, device=prediction.device)
    if number.numel() != 1 or number.dtype != torch.int64:
        raise ValueError(f"seed must be one int64 number, got shape {tuple(number.shape)} of {number.dtype}")
    n = prediction.shape[0]
    if isinstance(sides, bool):
        raise ValueError(f"sides must be a number of pixels, got {sides}")
    if isinstance(sides, int):
        sides = torch.full((n,), sides, device=prediction.device)
    elif sides is not None and (sides.dtype != torch.int64 or sides.shape != (n,)):
        raise ValueError(f"sides must be int64 of shape ({n},), got shape {tuple(sides.shape)} of {sides.dtype}")
    for tensor, name in ((number, "seed"), (sides, "sides")):
        if tensor is not None and tensor.device != prediction.device:
            raise ValueError(f"{name} is on {tensor.device}, prediction on {prediction.device}; move one of them")
    operator = _providers.overload("pairwise_loss", backend, prediction)
    options = (pairs, float(threshold), float(limit), ties == "ignored", float(least))
    sums: Tensor = operator(prediction, target.detach(), number, sides, *options)[0]
    total, counted = sums.sum((0, 1), dtype=torch.float64).unbind()
    return (total / counted.clamp(min=1)).to(sums.dtype)


def check_options(pairs: int, threshold: float, limit: float, ties: str, least: float) -> None:
    if not 1 <= pairs <= _MOST_PAIRS:
        raise ValueError(f"pairs must be 1 or more and below 2^31, got {pairs}")
    if not 0 < threshold < math.inf:
        raise ValueError(f"threshold must be positive, got {threshold}")
    if not 0 < limit <= 1:
        raise ValueError(f"limit must be in (0, 1], got {limit}")
    if ties not in ("darker", "ignored"):
        raise ValueError(f"ties must be 'darker' or 'ignored', got {ties!r}")
    if not least > 0:
        raise ValueError(f"least must be positive, got {least}")


# ---- fake kernels and autograd -------------------------------------------------------------------------------------


def _fake(
    prediction: Tensor, target: Tensor, seed: Tensor, sides: Tensor | None, pairs: int, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    rows, dtype = prediction.shape[:2], _arguments.compute_dtype(prediction)
    return (
        prediction.new_empty((*rows, 2), dtype=dtype),
        prediction.new_empty((*rows, 2, pairs), dtype=torch.int32),
        prediction.new_empty((*rows, 2, pairs), dtype=dtype),
    )


def _backward_fake(grad: Tensor, prediction: Tensor, *args: Any) -> Tensor:
    return prediction.new_empty(prediction.shape)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    prediction, target, seed, sides, _, *ctx.options = inputs
    _, places, slopes = output
    ctx.mark_non_differentiable(places, slopes)
    ctx.save_for_backward(prediction, target, seed, sides, places, slopes)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, prediction, target, seed, sides, places, _, *ctx.options = inputs
    ctx.pairs = places.shape[-1]
    ctx.save_for_backward(grad, prediction, target, seed, sides)


def _backward(namespace: str, ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    operator = getattr(torch.ops, namespace).pairwise_loss_backward
    return operator(grad, *ctx.saved_tensors, *ctx.options), *(None,) * (4 + len(ctx.options))


def _double_backward(namespace: str, ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    grad, prediction, target, seed, sides = ctx.saved_tensors

    def forward(prediction: Tensor) -> Tensor:
        return reference.sums(prediction, target, seed, sides, ctx.pairs, *ctx.options)[0].to(grad.dtype)

    seconds = _providers.second_order(forward, [prediction], grad, [grad_output])
    return *seconds, *(None,) * (5 + len(ctx.options))


_providers.register("pairwise_loss", "pairwise", fake=_fake, backward=_backward, setup_context=_save_forward)
_providers.register(
    "pairwise_loss_backward",
    "pairwise",
    fake=_backward_fake,
    backward=_double_backward,
    setup_context=_save_backward,
)
