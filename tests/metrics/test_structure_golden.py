"""``ssim`` and ``ms_ssim`` on real pictures, against the authors' published code and the packages of Python."""

from __future__ import annotations

from typing import Any

import golden
import pytest
import torch
from golden import Row
from torch import Tensor

import hdrops

GREY = torch.tensor([0.298936021293775, 0.587043074451121, 0.114020904255103], dtype=torch.float64)


def grey(image: Tensor) -> Tensor:
    """(N, 3, H, W) codes to rounded ones of one channel, in float64."""
    return (image.double() * GREY.view(3, 1, 1)).sum(1, keepdim=True).round()


def images(row: Row) -> tuple[Tensor, Tensor]:
    """The fused picture and its source, float64 codes; grey unless the variant says otherwise."""
    pictures = row.fused, row.bracket[:, 0]
    if "rgb" in row.variant:
        return pictures[0].double(), pictures[1].double()
    return grey(pictures[0]), grey(pictures[1])


@pytest.mark.parametrize(
    ("metric", "variant", "options", "allowed"),
    [
        ("SSIM", "wang2003_gray", {}, 1e-10),
        ("MS-SSIM", "wang2003_gray", {}, 1e-10),
        ("SSIM", "skimage_gray_gaussian", {}, 1e-10),
        ("SSIM", "skimage_rgb_gaussian", {}, 1e-10),
        ("SSIM", "skimage_gray_default_uniform7", {"window": 7, "sigma": None, "unbiased": True}, 1e-10),
        # Their window is rounded to float32, which moves their own values so far.
        ("SSIM", "pytorch_msssim_gray", {}, 2e-5),
        ("SSIM", "pytorch_msssim_rgb", {}, 2e-5),
        ("MS-SSIM", "pytorch_msssim_gray", {"downsampling": "zeros"}, 2e-5),
        ("MS-SSIM", "pytorch_msssim_rgb", {"downsampling": "zeros"}, 2e-5),
    ],
)
def test_equals_published_values(metric: str, variant: str, options: dict[str, Any], allowed: float) -> None:
    function = hdrops.ms_ssim if metric == "MS-SSIM" else hdrops.ssim
    for row in golden.rows(metric, variant):
        x, y = images(row)
        expected = pytest.approx(row.value, abs=allowed)
        assert function(x, y, 255.0, **options).item() == expected, row
        single = pytest.approx(row.value, abs=allowed + 1e-6)
        assert function((x / 255).float(), (y / 255).float(), **options).item() == single, row
