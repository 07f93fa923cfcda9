"""Definition of the operator ``hourglass``; arguments as in ``cpp/schema.cpp``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _compute(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def deconv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    relu: bool,
) -> Tensor:
    wide = _compute(x)
    bias = bias if bias is None else bias.to(wide)
    with torch.autocast(x.device.type, enabled=False):
        result = F.conv_transpose3d(
            x.to(wide).permute(0, 4, 1, 2, 3),
            weight.to(wide),
            bias,
            tuple(stride),
            tuple(padding),
            tuple(output_padding),
            1,
            tuple(dilation),
        )
    if relu:
        result = result.relu()
    return result.permute(0, 2, 3, 4, 1).to(x.dtype)
