"""Alignment of all frames of a bracket with one of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hdrops.align.corrected import CORRECTIONS, as_array
from hdrops.align.correlation import Levels, affine, find_levels, verified
from hdrops.align.errors import AlignmentError, Unmatched, opencv
from hdrops.align.features import Features, find_features, homography
from hdrops.align.geometry import Area, Matrix, settled, translation, valid_area, valid_mask
from hdrops.align.shift import look_at, shift
from hdrops.ops import _arguments
from hdrops.ops.imf import estimate_imf, imf_fuse


def _features_and_levels(frame: Tensor, correction: str) -> tuple[Features, Levels]:
    return find_features(frame, correction), find_levels(frame, correction)


def _homography(moving: tuple[Features, Levels], fixed: tuple[Features, Levels]) -> tuple[Matrix, float]:
    return verified(lambda: homography(moving[0], fixed[0]), moving[1], fixed[1])


def _affine(moving: Levels, fixed: Levels) -> tuple[Matrix, float]:
    return verified(lambda: affine(moving, fixed), moving, fixed)


# What is kept of a frame, and how two such are compared.
_ESTIMATORS: dict[str, tuple[Callable[[Tensor, str], Any], Callable[[Any, Any], tuple[Matrix, float]]]] = {
    "homography": (_features_and_levels, _homography),
    "affine": (find_levels, _affine),
    "shift": (look_at, shift),
}
METHODS = tuple(_ESTIMATORS)
FILLS = ("crop", "reference")
INTERPOLATIONS = ("cubic", "linear", "lanczos")
# Confidence with which a frame needs no other between it and the reference: what is matched directly is as exact over
# eight stops as over a chain, whose errors add up.
_GOOD = 0.6
_SHADOW, _LIGHT = 26 / 255, 229 / 255
_LEVELS = 4096  # of the map between exposures of more than 8 bits
_LONGEST = 32767  # pixels a side that OpenCV resamples


@dataclass(frozen=True, eq=False)
class Alignment:
    """A bracket after alignment.

    Attributes:
        images: (K, C, h, w), of the dtype and on the device of the bracket; the frames within ``area``.
        transforms: (K, 3, 3) float64, on the CPU: from (column, row, 1) in a frame to the reference, 0 at the centre of
            the first pixel, last entry 1. The identity for the reference and for frames that failed.
        confidence: (K,) float64, on the CPU, in [0, 1]: of "homography" the share of the matching features that agree
            with the transform, of "affine", and of frames that no motion or a shift explains as well, the correlation
            coefficient of the frames' detail, of "shift" the share of the compared pixels whose bitmaps agree. The
            least of the chain where a frame was aligned through others; 1 for the reference, 0 for frames that failed.
        failed: why, by the index of each frame that failed; empty unless ``best_effort`` was asked for.
        area: (top, left, height, width) of the images within the reference.
        reference: index of the frame that stayed.
    """

    images: Tensor
    transforms: Tensor
    confidence: Tensor
    failed: Mapping[int, str]
    area: Area
    reference: int


def align_bracket(
    images: Tensor,
    method: str = "homography",
    reference: int | None = None,
    *,
    correction: str = "histogram",
    fill: str = "crop",
    interpolation: str = "cubic",
    best_effort: bool = False,
) -> Alignment:
    """Align the frames of a bracket that was not taken from a tripod.

    Each frame is compared with the reference first; where that fails or is doubtful, with the frames between it and the
    reference, nearest first, and the transforms are composed. The frames themselves are resampled once.

    "homography" follows Im, Son, Kwon and Lee, "Multi-task learning approach using dynamic hyperparameter for
    multi-exposure fusion", section 3.6: SIFT features and a homography; the paper leaves the ratio test (0.75) and the
    tolerance of RANSAC (3 pixels) open. It follows any motion of a camera in the hand. "affine" maximises the enhanced
    correlation coefficient, which needs no distinct features. What either of them finds is kept where the edges of both
    frames agree better under it than without any motion, or under the best shift: frames from a tripod stay as they
    are. "shift" finds whole pixels and resamples nothing; it needs no OpenCV.

    Args:
        images: (K, C, H, W), C = 1 or 3, K >= 1, dark to bright: uint8 or uint16 codes, or floating point in [0, 1].
        method: "homography", "affine" or "shift".
        reference: index of the frame that stays; None takes the one with the largest share of well exposed values (10
            to 90 % of the range), of equals the one next to the middle.
        correction: what takes the exposures out before frames are compared by "homography" or "affine". "gamma" is the
            paper's, :func:`adaptive_gamma_correction`; "histogram" equalises histograms, with which more features
            match and transforms are more exact.
        fill: what becomes of the margins that not every frame shows. "crop" cuts all frames to the largest rectangle
            that every one of them covers; "reference" keeps the size and takes missing pixels from the reference,
            mapped to the frame's exposure by :func:`hdrops.estimate_imf` over the rectangle that both show.
        interpolation: "cubic", "linear" or "lanczos" (8 x 8). Results stay within the range of the dtype, or [0, 1].
        best_effort: leave frames that cannot be aligned as they are, and say so in the result, instead of failing.

    Returns:
        The alignment.

    Raises:
        TypeError: images of an unsupported dtype.
        ValueError: images of another shape, out of range or not finite, or an argument that is not offered.
        AlignmentError: frames that cannot be aligned, without ``best_effort``, or that show nothing in common.
        hdrops.io.InputError: OpenCV is not installed, but for "shift".
    """
    images = _checked(images)
    for name, value, offered in (
        ("method", method, METHODS),
        ("correction", correction, CORRECTIONS),
        ("fill", fill, FILLS),
        ("interpolation", interpolation, INTERPOLATIONS),
    ):
        if value not in offered:
            raise ValueError(f"{name} must be one of {', '.join(offered)}, got {value!r}")
    count, _, height, width = images.shape
    if reference is None:
        reference = best_exposed(images)
    else:
        reference = operator.index(reference)
        if not 0 <= reference < count:
            raise ValueError(f"reference must be the index of one of {count} frames, 0 to {count - 1}, got {reference}")
    found, failed = _estimate(images, method, correction, reference)
    if failed and not best_effort:
        raise AlignmentError(failed)
    transforms = [found[k][0] if k in found else np.eye(3) for k in range(count)]
    area = valid_area(transforms, height, width) if fill == "crop" else (0, 0, height, width)
    if area is None:
        apart = {k: "no pixel is common to all frames" for k in range(count) if k != reference}
        raise AlignmentError(apart, 'fill="reference" keeps the size of the frames')
    return Alignment(
        images=_resampled(images, transforms, area, interpolation, reference if fill == "reference" else None),
        transforms=torch.from_numpy(np.stack(transforms)),
        confidence=torch.tensor([found[k][1] if k in found else 0.0 for k in range(count)], dtype=torch.float64),
        failed=MappingProxyType(failed),
        area=area,
        reference=reference,
    )


def _checked(given: Any) -> Tensor:
    images = _arguments.as_tensor(given, "images").detach()
    _arguments.check_image_dtype(images, "images")
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"images must be (K, C, H, W) with pixels and C = 1 (grey) or 3 (RGB), got shape {tuple(images.shape)}"
        )
    if max(images.shape[-2:]) >= _LONGEST:
        raise ValueError(f"images must be less than {_LONGEST} pixels a side, got {tuple(images.shape[-2:])}")
    if images.is_floating_point():
        low, high = (float(bound) for bound in torch.aminmax(images))
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"floating-point images must lie in [0, 1], got values from {low:g} to {high:g}; scale all frames alike"
            )
    return images


def best_exposed(images: Tensor) -> int:
    """The frame of a bracket (K, C, H, W) with the largest share of values between 10 and 90 % of the range.

    Of frames with equal shares the one next to the middle, of two such the darker. At most about a million values of
    each frame are looked at.
    """
    count, _, height, width = images.shape
    step = max(1, min(height, width) // 512)
    full = 1.0 if images.is_floating_point() else float(torch.iinfo(images.dtype).max)
    shares = []
    for frame in images[..., ::step, ::step]:
        values = as_array(frame)
        shares.append(float(np.mean((values >= _SHADOW * full) & (values <= _LIGHT * full))))
    return max(range(count), key=lambda k: (shares[k], -abs(k - (count - 1) / 2)))


def _estimate(
    images: Tensor, method: str, correction: str, reference: int
) -> tuple[dict[int, tuple[Matrix, float]], dict[int, str]]:
    """The transform and the confidence of every frame that can be aligned; of the others, why not."""
    prepare, compare = _ESTIMATORS[method]
    count, _, height, width = images.shape
    prepared: dict[int, Any] = {}

    def compared(k: int, other: int) -> tuple[Matrix, float]:
        for index in (k, other):
            if index not in prepared:
                prepared[index] = prepare(images[index], correction)
        return compare(prepared[k], prepared[other])

    found = {reference: (np.eye(3), 1.0)}
    failed: dict[int, str] = {}
    for k in sorted(range(count), key=lambda k: (abs(k - reference), k)):
        if k == reference:
            continue
        step = 1 if k < reference else -1
        reasons = []
        for bridge in (reference, *range(k + step, reference, step)):
            if bridge not in found:
                continue
            try:
                transform, confidence = compared(k, bridge)
                onward, other = found[bridge]
                total = settled(onward @ transform, height, width)
            except Unmatched as reason:
                reasons.append(str(reason))
                continue
            if k not in found or min(confidence, other) > found[k][1]:
                found[k] = (total, min(confidence, other))
            if found[k][1] >= _GOOD:
                break
        if k not in found:
            failed[k] = reasons[0]
    return found, dict(sorted(failed.items()))


def _resampled(
    images: Tensor, transforms: list[Matrix], area: Area, interpolation: str, reference: int | None
) -> Tensor:
    """The frames within an area of the reference, and what they miss of it taken from the reference, if given."""
    top, left, height, width = area
    result = torch.empty(*images.shape[:2], height, width, dtype=images.dtype, device=images.device)
    for k, transform in enumerate(transforms):
        if np.array_equal(transform, np.eye(3)):
            result[k] = images[k, :, top : top + height, left : left + width]
            continue
        if np.array_equal(transform, translation(*np.rint(transform[:2, 2]))):
            result[k] = _moved(images[k], transform, area)
        else:
            onto = translation(-left, -top) @ transform
            frame = torch.from_numpy(_warped(images[k], onto, height, width, interpolation))
            result[k] = frame.permute(2, 0, 1).to(images.dtype)
        if reference is not None:
            _complete(result[k], images[reference], transform)
    return result


def _moved(frame: Tensor, transform: Matrix, area: Area) -> Tensor:
    """A frame (C, H, W) moved by whole pixels, its borders repeated."""
    top, left, height, width = area
    right, down = (int(step) for step in transform[:2, 2])
    rows, columns = (
        (torch.arange(start, start + count, device=frame.device) - step).clamp(0, side - 1)
        for start, count, step, side in zip((top, left), (height, width), (down, right), frame.shape[1:], strict=True)
    )
    return _storable(frame)[:, rows[:, None], columns].view(frame.dtype)


def _warped(frame: Tensor, transform: Matrix, height: int, width: int, interpolation: str) -> NDArray[Any]:
    """A frame (C, H, W) in other coordinates, (height, width, C)."""
    cv2 = opencv()
    flag = {"cubic": cv2.INTER_CUBIC, "linear": cv2.INTER_LINEAR, "lanczos": cv2.INTER_LANCZOS4}[interpolation]
    pixels = np.ascontiguousarray(as_array(frame).transpose(1, 2, 0))
    # Repeated borders: neighbours of a covered pixel may lie outside.
    moved = cv2.warpPerspective(pixels, transform, (width, height), flags=flag, borderMode=cv2.BORDER_REPLICATE)
    if frame.is_floating_point():
        moved = moved.clip(0, 1)
    shaped: NDArray[Any] = moved.reshape(height, width, -1)
    return shaped


def _complete(frame: Tensor, reference: Tensor, transform: Matrix) -> None:
    """Write the pixels that a frame (C, H, W) does not cover, from the reference in the frame's exposure."""
    height, width = frame.shape[1:]
    rows, columns = (torch.from_numpy(places) for places in np.nonzero(~valid_mask(transform, height, width)))
    common = valid_area([transform], height, width)
    if not len(rows) or common is None:
        return
    top, left, tall, wide = common
    window = (slice(None), slice(top, top + tall), slice(left, left + wide))
    levels = 256 if frame.dtype == torch.uint8 else _LEVELS
    table = estimate_imf(_codes(reference[window]), _codes(frame[window]), levels, saturated=256).clamp(max=255)
    missing = _storable(reference)[:, rows, columns].view(reference.dtype)[None, :, None]
    # Fused with itself an image is what its map makes of it.
    mapped = imf_fuse(missing, missing, table, table)[0, :, 0]
    _storable(frame)[:, rows, columns] = _storable(mapped)


def _storable(image: Tensor) -> Tensor:
    """The same memory in a type that torch reads and writes at any places, on every device."""
    return image.view(torch.int16) if image.dtype == torch.uint16 else image


def _codes(image: Tensor) -> Tensor:
    """Codes of an image, of 16 bits where it has none."""
    return (image.double() * 65535).round().to(torch.uint16) if image.is_floating_point() else image
