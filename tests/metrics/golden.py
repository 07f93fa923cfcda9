"""Values of published metric code on real pictures, from the golden data beside the photographs.

Each value belongs to one fused picture and some of its sources; its ``status`` says how faithfully the published code
was run. ``photographs.py`` says where the data are.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable

import pytest
import torch
from photographs import photographs
from torch import Tensor

USUAL = 250_000  # pixels


@dataclasses.dataclass(frozen=True)
class Row:
    """One golden value and the pictures that it was computed from."""

    metric: str
    variant: str
    scene: str
    method: str
    target: str
    sources: tuple[int, ...]
    crop: tuple[slice, slice]
    value: float
    status: str
    convention: str

    @property
    def fused(self) -> Tensor:
        """The fused picture, uint8 (1, 3, H, W)."""
        entry = _listing()[1][self.scene, self.method]
        return _picture(photographs() / "golden" / entry["fused"], entry["fused_sha256_rgb"])[None][..., *self.crop]

    @property
    def bracket(self) -> Tensor:
        """The frames that were the sources, dark to bright, uint8 (1, K, 3, H, W); every frame where none is named."""
        entry = _listing()[1][self.scene, self.method]
        frames = [entry["sources"][i] for i in self.sources] or entry["sources"]
        folder = photographs() / self.scene
        pictures = [_picture(folder / frame["file"], frame["sha256_rgb"]) for frame in frames]
        return torch.stack(pictures)[None][..., *self.crop]

    @property
    def image(self) -> Tensor:
        """What a metric without sources measured, uint8 (1, 3, H, W): the fused picture or one source."""
        return self.fused if self.target == "fused" else self.bracket[:, 0]


@functools.cache
def _listing() -> tuple[list[Row], dict[tuple[str, str], dict]]:
    listing = json.loads((photographs() / "golden" / "golden.json").read_text())

    def crop(entry: dict) -> tuple[slice, slice]:
        bounds = entry.get("crop", {})
        return slice(*bounds.get("rows", [None])), slice(*bounds.get("cols", [None]))

    rows = [
        Row(
            metric=entry["metric"],
            variant=entry["variant"],
            scene=entry["scene_dir"],
            method=entry["method"],
            target=entry["target"],
            sources=tuple(entry["source_indices"]),
            crop=crop(entry),
            value=entry["value"],
            status=entry["status"],
            convention=entry["convention"],
        )
        for entry in listing["values"]
    ]
    return rows, {(entry["scene_dir"], entry["method"]): entry for entry in listing["images"]}


@functools.lru_cache(maxsize=16)
def _picture(path: pathlib.Path, sha256: str) -> Tensor:
    """A picture as uint8 (3, H, W), red first; fails where the decoded array is not the one the values came from."""
    cv2 = pytest.importorskip("cv2")
    decoded = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    digest = hashlib.sha256(decoded.tobytes()).hexdigest()
    assert digest == sha256, f"{path.name} decodes to other values than those measured"
    return torch.from_numpy(decoded.transpose(2, 0, 1).copy())


def rows(metric: str, variant: str) -> list[Row]:
    """The golden values of a metric and variant; skips the test where the data are absent.

    Without --full they are those of the pictures of up to a quarter of a megapixel, five scenes of seven.
    """
    if not (photographs() / "golden" / "golden.json").exists():
        pytest.skip("the golden values are absent: no golden/golden.json beside the photographs")
    listed, pictures = _listing()
    found = [row for row in listed if (row.metric, row.variant) == (metric, variant)]
    if "HDROPS_TEST_FULL" not in os.environ:
        found = [row for row in found if math.prod(pictures[row.scene, row.method]["shape"][:2]) <= USUAL]
    assert found, f"no golden values of {metric}, {variant}"
    return found


def deviations(metric: str, variant: str, measure: Callable[[Row], Tensor], largest: float = math.inf) -> Tensor:
    """Relative deviation of ``measure`` from each golden value of pictures of up to ``largest`` pixels, in float64."""
    found = [row for row in rows(metric, variant) if row.fused[0, 0].numel() <= largest]
    measured = torch.cat([measure(row).double() for row in found])
    exact = torch.tensor([row.value for row in found], dtype=torch.float64)
    return (measured - exact).abs() / exact.abs()


def octave_filter(image: Tensor, size: int, sigma: float, normalized_twice: bool = False) -> Tensor:
    """The Gaussian window as GNU Octave's filter2 sums it, within the image: one product after another, from the last.

    The golden values were computed so. In flat windows their variances are what this order leaves by rounding, and of
    the published metrics some depend on that.
    """
    middle = (size - 1) / 2
    columns = [
        [math.exp(-((y - middle) ** 2 + (x - middle) ** 2) / (2 * sigma**2)) for y in range(size)] for x in range(size)
    ]
    total = sum(weight for column in columns for weight in column)
    columns = [[weight / total for weight in column] for column in columns]
    if normalized_twice:
        total = sum(sum(column) for column in columns)
        columns = [[weight / total for weight in column] for column in columns]
    height, width = (length - size + 1 for length in image.shape[-2:])
    result = image.new_zeros(*image.shape[:-2], height, width)
    for x in reversed(range(size)):
        for y in reversed(range(size)):
            # Not in one operation, which would round once instead of twice.
            product = image[..., y : y + height, x : x + width] * columns[x][y]
            result += product
    return result
