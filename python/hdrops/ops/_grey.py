"""Grey of colour images."""

from __future__ import annotations

from torch import Tensor

# MATLAB's rgb2gray: the luma row of the inverse of its YIQ matrix.
GREY = (0.298936021293775, 0.587043074451121, 0.114020904255103)


def luma(image: Tensor) -> Tensor:
    """The weighted sum of three channels (..., 3, H, W), (..., 1, H, W)."""
    red, green, blue = image.split(1, dim=-3)
    result: Tensor = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    return result


def rounded(values: Tensor) -> Tensor:
    """To whole codes, half away from zero as MATLAB does."""
    return (values + 0.5).floor()
