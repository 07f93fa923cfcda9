"""What a photograph is: pixels, and what is known of them."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

import torch

from hdrops.io.errors import InputError
from hdrops.io.exposure import Exposure
from hdrops.io.metadata import Metadata


@dataclass(frozen=True)
class Photograph:
    """One image file in memory.

    Attributes:
        pixels: (C, H, W), contiguous, C = 1 (grey) or 3 (red, green, blue); uint8 or uint16 codes of the
            file's own encoding (mostly sRGB), or float32 linear light, finite.
        path: the file.
        exposure: its exposure metadata.
        metadata: colour profile, camera, lens, time and place.
        format: "png", "tiff", "jpeg", "openexr", "hdr", "heif" or "raw", by the file's content.
        bits: per value of ``pixels``: 8, 16 or 32. Smaller samples in the file are scaled up to the full
            range.
    """

    pixels: torch.Tensor
    path: pathlib.Path
    exposure: Exposure
    metadata: Metadata
    format: str
    bits: int


def to_codes(image: torch.Tensor, bits: int = 8) -> torch.Tensor:
    """Quantise an image to integer codes: ``round((2^bits - 1) · image)``, half to even.

    Args:
        image: any shape, floating point in [0, 1].
        bits: 8 or 16.

    Returns:
        uint8 or uint16 tensor of the same shape and device.

    Raises:
        InputError: an image that is not floating point, or has NaN or values outside [0, 1], or other bits.
    """
    if bits not in (8, 16):
        raise InputError(f"codes have 8 or 16 bits, got bits={bits}")
    if not image.is_floating_point():
        raise InputError(f"only a floating-point image can be quantised, got {image.dtype}")
    if image.numel():
        low, high = (float(x) for x in torch.aminmax(image.detach()))
        if not (low >= 0 and high <= 1):
            raise InputError(
                f"an image must lie in [0, 1] to be quantised, got values from {low:g} to {high:g}; "
                "clamp or tone-map it, or write it as .exr or .hdr"
            )
    codes = torch.round(image.detach().double() * (2**bits - 1))
    return codes.to(torch.uint8 if bits == 8 else torch.uint16)
