"""How much detail a fused image shows, without a look at its sources: AG, EI, SF, SD. Higher is sharper.

All are defined on the range 0-255 and take 8-bit codes, 16-bit codes and floats in [0, 1] alike.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hdrops.metrics._filters import magnitude, sobel
from hdrops.metrics._images import Color, check_choice, check_size, checked, measure


def average_gradient(image: Tensor, *, color: Color = "mean") -> Tensor:
    """Average gradient (AG): Σ sqrt((∂x² + ∂y²) / 2) / ((H - 1)(W - 1)).

    Cui, Feng, Xu, Li and Chen, "Detail preserved fusion of visible and infrared images using regional saliency
    extraction and multi-scale image decomposition", Optics Communications 2015. As the toolboxes MEFB and LT have it:
    central differences, one-sided at the border, summed over all H W pixels in spite of the divisor.

    Args:
        image: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; at least 2 x 2 pixels.
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), in 8-bit codes per pixel; 0 for a flat image; NaN where a float image is not finite.

    Raises:
        TypeError: image is of another dtype.
        ValueError: image has another shape or is too small, or color is unknown.
    """
    image = checked(image, "image")
    check_size(image, 2)
    return measure(_average_gradient, color, image)


def _average_gradient(image: Tensor) -> Tensor:
    along_y, along_x = torch.gradient(image, dim=(-2, -1))
    height, width = image.shape[-2:]
    return (magnitude(along_x, along_y) / 2**0.5).sum((-3, -2, -1)) / ((height - 1) * (width - 1))


def edge_intensity(image: Tensor, *, color: Color = "mean") -> Tensor:
    """Edge intensity (EI): the mean magnitude of the Sobel gradient.

    Rajalingam and Priya, "Hybrid multimodality medical image fusion technique for feature enhancement in medical
    diagnosis", IJESI 2018. As MEFB has it: weights 1, 2, 1 without a divisor, replicated border.

    Args:
        image: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), on the range 0-255; 0 for a flat image or a single pixel; NaN where a float image is not finite.

    Raises:
        TypeError: image is of another dtype.
        ValueError: image has another shape, or color is unknown.
    """
    return measure(_edge_intensity, color, checked(image, "image"))


def _edge_intensity(image: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    return magnitude(*sobel(padded)).mean((-3, -2, -1))


def spatial_frequency(image: Tensor, *, color: Color = "mean", convention: Literal["mefb", "lt"] = "mefb") -> Tensor:
    """Spatial frequency (SF): sqrt(RF² + CF²), of the mean squared differences along rows (RF²) and columns (CF²).

    Eskicioglu and Fisher, "Image quality measures and their performance", IEEE Trans. Communications 1995.

    Args:
        image: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.
        convention: what the sums of squared differences are divided by: "mefb" by H W as the paper does, "lt" by their
            numbers, H (W - 1) and (H - 1) W.

    Returns:
        float64 (N,), on the range 0-255; 0 for a flat image. A direction without differences, in an image one pixel
        wide or high, counts as 0. NaN where a float image is not finite.

    Raises:
        TypeError: image is of another dtype.
        ValueError: image has another shape, or color or convention is unknown.
    """
    check_choice("convention", convention, ("mefb", "lt"))

    def metric(image: Tensor) -> Tensor:
        power = image.new_zeros(image.shape[0])
        for dim in (-2, -1):
            squares = image.diff(dim=dim).square()
            pixels = (image if convention == "mefb" else squares).shape[-2:].numel()
            power = power + squares.sum((-3, -2, -1)) / max(pixels, 1)
        return power.sqrt()

    return measure(metric, color, checked(image, "image"))


def standard_deviation(image: Tensor, *, color: Color = "mean") -> Tensor:
    """Standard deviation (SD) of the pixels: sqrt(Σ (I - mean)² / (H W)), the measure of global contrast.

    Rao, "In-fibre Bragg grating sensors", Measurement Science and Technology 1997, which the toolboxes cite.

    Args:
        image: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1].
        color: "mean" measures each channel and takes the mean, "grey" measures the grey image.

    Returns:
        float64 (N,), on the range 0-255; 0 for a flat image; NaN where a float image is not finite.

    Raises:
        TypeError: image is of another dtype.
        ValueError: image has another shape, or color is unknown.
    """
    return measure(_standard_deviation, color, checked(image, "image"))


def _standard_deviation(image: Tensor) -> Tensor:
    return (image - image.mean((-3, -2, -1), keepdim=True)).square().mean((-3, -2, -1)).sqrt()
