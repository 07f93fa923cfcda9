"""Things that move in front of synthetic scenes."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

HARMONICS = 4  # of the outline of an object
_EDGE = 1.0  # pixels over which it ends


@dataclasses.dataclass(frozen=True)
class MovingObject:
    """Something that moves: a part of another image within an outline.

    The outline is r(a) = radius (1 + sum of harmonics of the angle a), seen from a centre that moves in a line while
    the object turns.

    Attributes:
        texture: radiance (3, h, w), whose middle is at the centre; it goes on by reflection.
        centre: row and column at the moment 0, in pixels.
        velocity: rows and columns per unit of time, in pixels.
        radius: of the outline, in pixels.
        harmonics: factors of the cosines and the sines of a, 2 a and so on, (2, HARMONICS) float32.
        spin: radians per unit of time.
    """

    texture: Tensor
    centre: tuple[float, float]
    velocity: tuple[float, float]
    radius: float
    harmonics: Tensor
    spin: float = 0.0

    def over(self, radiance: Tensor, moment: float) -> Tensor:
        """The image (3, H, W) with the object in front of it at a moment; its edge is one pixel soft."""
        height, width = radiance.shape[-2:]
        top, left = (c + moment * v for c, v in zip(self.centre, self.velocity, strict=True))
        rows = torch.arange(height)[:, None] - top
        columns = torch.arange(width)[None, :] - left
        cosine, sine = math.cos(moment * self.spin), math.sin(moment * self.spin)
        y, x = cosine * rows - sine * columns, sine * rows + cosine * columns
        angle = torch.atan2(y, x)
        order = torch.arange(1, HARMONICS + 1)[:, None, None] * angle
        outline = 1 + (self.harmonics[0, :, None, None] * order.cos()).sum(0)
        outline = self.radius * (outline + (self.harmonics[1, :, None, None] * order.sin()).sum(0))
        cover = ((outline - torch.hypot(y, x)) / _EDGE + 0.5).clamp(0, 1)
        tall, wide = self.texture.shape[-2:]
        grid = torch.stack([2 * x / wide, 2 * y / tall], -1)[None]
        texture = F.grid_sample(self.texture[None], grid, padding_mode="reflection", align_corners=False)[0]
        return torch.lerp(radiance, texture, cover)
