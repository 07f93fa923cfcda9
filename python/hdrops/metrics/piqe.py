"""The perception based image quality evaluator PIQE."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hdrops.metrics._filters import smooth
from hdrops.metrics._images import Color, checked, measure, one_by_one
from hdrops.reference.gaussian import window

_BLOCK = 16
_ACTIVE = 0.1
_SEGMENT = 6
_EVEN = 0.1
_C = 1


def _blurred(image: Tensor) -> Tensor:
    """A Gaussian of 7 x 7, σ = 7/6, on (1, H, W), its border replicated."""
    return smooth(torch.nn.functional.pad(image, (3, 3, 3, 3), mode="replicate"), window(7 / 6, 3))


def _score(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    codes = (image + 0.5).floor()
    codes = torch.nn.functional.pad(codes, (0, -width % _BLOCK, 0, -height % _BLOCK), mode="replicate")

    mean = _blurred(codes)
    deviation = (_blurred(codes.square()) - mean.square()).abs().sqrt()
    normalised = ((codes - mean) / (deviation + 1))[0]
    # (blocks, 16, 16)
    blocks = normalised.unfold(0, _BLOCK, _BLOCK).unfold(1, _BLOCK, _BLOCK).flatten(0, 1)
    variance = blocks.var((-2, -1))
    active = variance > _ACTIVE

    edges = torch.stack([blocks[..., 0, :], blocks[..., -1, :], blocks[..., 0], blocks[..., -1]], dim=-2)
    impaired = (edges.unfold(-1, _SEGMENT, 1).std(-1) < _EVEN).flatten(1).any(-1)

    # The centre is columns 7 and 8. Column 7 is taken out of the surround first, and of what is left column 8.
    centre = blocks[..., 7:9].flatten(1).std(-1)
    surround = torch.cat([blocks[..., :7], blocks[..., 8:9], blocks[..., 10:]], dim=-1).flatten(1).std(-1)
    ratio = torch.where(centre == 0, 0, centre / surround)
    spread = variance.sqrt()
    # Over an even surround the ratio is infinite and this NaN: no noise, as published.
    beta = (spread - ratio).abs() / torch.maximum(spread, ratio)
    noisy = spread > 2 * beta

    distortion = (active & impaired) * (1 - variance) + (active & noisy) * variance
    return 100 * (distortion.sum(-1) + _C) / (active.sum(-1) + _C)


def piqe(image: Tensor, *, color: Color = "grey") -> Tensor:
    """Perception based image quality evaluator (PIQE): 0 excellent, 100 bad.

    Venkatanath, Praneeth, Chandrasekhar, Channappayya and Medasani, "Blind image quality evaluation using perception
    based features", NCC 2015; it needs neither a reference nor training.

    The image on 0-255, rounded, is normalised to ``(x - μ) / (σ + 1)`` with local mean and deviation under a 7 x 7
    Gaussian and cut into blocks of 16 x 16, the last ones filled by repeating the border. Only blocks of variance v
    above 0.1 count. One has a noticeable artefact where six neighbours on one of its four edges have a deviation below
    0.1; it is noisy where its deviation exceeds twice the relative difference between that and the ratio of the
    deviations of its two central columns and of the others. An artefact adds 1 - v, noise v; the score is
    ``100 (sum + 1) / (blocks + 1)``.

    Deviations and variances are those of samples, divided by n - 1. The constants, the filter and the columns of the
    surround, which keep one central column and lack another, are those of MATLAB's ``piqe`` as ported by others;
    MATLAB itself has not been run against this. The Python package pypiqe 1.2 gives the same values, to rounding, for
    images whose sides are multiples of 16 and whose maximum is 255: it fills the last blocks by reflection and
    stretches the image to 255 first.

    Args:
        image: (N, C, H, W) of 1 or 3 channels, uint8, uint16 or float in [0, 1]; of any size.
        color: "grey" measures the grey image, as MATLAB does, "mean" measures each channel and takes the mean.

    Returns:
        float64 (N,); 100 without an active block, as for a flat image; NaN where a float image is not finite.

    Raises:
        TypeError: image is of another dtype.
        ValueError: image has another shape, or color is unknown.
    """
    return measure(functools.partial(one_by_one, _score), color, checked(image, "image"))
