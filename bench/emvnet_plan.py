"""Memory and repeated work of EMVNet's inference by tiles and pieces, and by bands of rows with rolling buffers.

    python bench/emvnet_plan.py [ROWSxCOLUMNS]

Counted, not measured: from the sides of the largest arrays and from how far the layers look, which are the model's own,
and from how many such arrays there are at a time, which the peaks in ``bench/results/emvnet/inference.csv`` confirm.
Results replace ``bench/results/emvnet/plan.csv``.

- A *tile* is computed from the images to the picture with everything that it sees of the others.
- A *piece* is computed from one array on a quarter of the grid to the next; what lies between, on the grid of the
  volume or on half of it, exists for the piece alone.
- *Rolling buffers* are a plan for devices of little memory: the picture is computed in bands as wide as itself, and
  every layer keeps the rows that its next band reads, so that on a quarter of the grid and on less of it nothing is
  computed twice. Pieces of a band still are.

A pixel is computed at most so many times: pieces of the matching look farthest, those behind it half as far.
"""

from __future__ import annotations

import argparse
import csv
import math
import pathlib
from typing import Any

from hdrops.models import EMVNet

RESULTS = pathlib.Path(__file__).parent / "results" / "emvnet" / "plan.csv"
BYTES = {"float32": 4, "bfloat16": 2}
TILES = (0, 2048, 1024, 512, 256)  # pixels of the images, 0 for the whole
PIECES = (0, 1024, 512, 256, 128)
BAND = 256  # pixels of the features: sides of the pieces of a band
_QUARTER = 4
# Arrays at a time:
_EXTRACTING = 14  # of features, of which a dense block has most
_WHOLE = 3  # on half of the grid, computed whole
_IN_PIECE = 2.8  # of a piece
_KEPT = 2.25  # on a quarter of the grid: what a core takes and makes, and an eighth of one
_RUNTIME = 0.4e9  # bytes of the interpreter, torch and the weights


class Network:
    """The sides of an EMVNet's arrays for some images."""

    def __init__(self, preset: str, count: int, rows: int, columns: int) -> None:
        self.model = EMVNet(preset)
        config = self.model.config
        self.shrink = config.shrink
        self.rows, self.columns = -(-rows // self.shrink), -(-columns // self.shrink)
        self.depth = count * len(self.model._motions) * len(config.exposures)
        self.filters, self.features = config.filters, count * config.features
        self.halo = -(-self.model.radius // self.model.step) * self.model.step
        self.reach = self.model.piece_radius

    def array(self, pixels: float, level: int, size: int) -> float:
        """Bytes of an array on 1 / 2^level of the grid."""
        return self.filters * self.depth * pixels * size / 8**level

    def seen(self, sides: tuple[int, int], part: int, around: int) -> tuple[int, int]:
        """The sides of the largest part with what it sees."""
        rows, columns = (max(self._lengths(side, part, around)) for side in sides)
        return rows, columns

    def times(self, sides: tuple[int, int], part: int, around: int) -> float:
        """How often a pixel is computed."""
        return math.prod(sum(self._lengths(side, part, around)) / side for side in sides)

    def _lengths(self, side: int, part: int, around: int) -> list[int]:
        return [min(side, s + part + around) - max(0, s - around) for s in range(0, side, part)]

    def point(self, tile: int, piece: int, size: int) -> tuple[float, float]:
        """How many times a pixel is computed on the largest grids at most, and bytes."""
        whole = self.rows, self.columns
        side = tile // self.shrink or max(whole)
        sides = self.seen(whole, side, self.halo)
        times = self.times(whole, side, self.halo)
        features = self.features * math.prod(whole) * size
        at_once = math.prod(self.seen(whole, side, self.model.feature_radius))
        extracting = features + _EXTRACTING * self.features * at_once * size
        pixels = math.prod(sides)
        if not piece:
            work = _WHOLE * self.array(pixels, 1, size)
        else:
            part = piece // self.shrink
            times *= self.times(sides, part, self.reach)
            inner = math.prod(self.seen(sides, part, self.reach))
            work = _IN_PIECE * self.array(inner, 1, size) + _KEPT * self.array(pixels, 2, size)
        return times, max(extracting, features + work) + _RUNTIME

    def rolling(self, size: int) -> tuple[float, float]:
        """The same of bands with rolling buffers, pieces of ``BAND`` in them; the features by bands as well."""
        whole = self.rows, self.columns
        # Rows of a quarter of the grid that wait in an hourglass: those that its convolutions and transposed ones look
        # back on, once for each, and what a skip adds behind them.
        dilations = self.model.config.dilations[2:]
        looking = sum(2 * d << k for k, d in enumerate(dilations))
        waiting = (3 if self.model.config.skips else 2) * looking + 1
        # Behind it, what the pieces of the next band look back on.
        waiting += 2 * self.reach // _QUARTER
        row = self.array(_QUARTER * self.columns, 2, size)
        kept = len(self.model.hourglasses) * waiting * row
        # The band itself, of the hourglass that is at work: what its core takes and makes.
        kept += _KEPT * BAND // _QUARTER * row
        inner = math.prod(self.seen(whole, BAND, self.reach))
        band = min(self.rows, BAND + 2 * (self.model.feature_radius + self.reach))
        extracting = _EXTRACTING * self.features * band * self.columns * size
        work = kept + max(extracting, _IN_PIECE * self.array(inner, 1, size))
        return self.times(whole, BAND, self.reach), work + _RUNTIME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", default="3000x4000", help="rows and columns of the images")
    rows, columns = (int(part) for part in parser.parse_args().size.split("x"))
    lines: list[dict[str, Any]] = []
    for preset, count in (("light", 3), ("hdr", 3), ("raw_hdr", 2)):
        # A packed raw image has half of the sensor's sides.
        network = Network(preset, count, *((rows // 2, columns // 2) if preset == "raw_hdr" else (rows, columns)))
        shared = {"preset": preset, "images": count, "rows": rows, "columns": columns}
        for dtype, size in BYTES.items():
            for tile in TILES:
                for piece in PIECES:
                    if tile and piece > tile:
                        continue
                    times, need = network.point(tile, piece, size)
                    halos = {"tile_halo": network.halo * network.shrink if tile else 0}
                    halos |= {"piece": piece, "piece_halo": network.reach * network.shrink if piece else 0}
                    line = {**shared, "dtype": dtype, "way": "tiles", "tile": tile, **halos}
                    lines.append({**line, "times": f"{times:.2f}", "gb": f"{need / 1e9:.1f}"})
            times, need = network.rolling(size)
            halos = {"tile_halo": 0, "piece": BAND * network.shrink, "piece_halo": network.reach * network.shrink}
            line = {**shared, "dtype": dtype, "way": "rolling buffers", "tile": 0, **halos}
            lines.append({**line, "times": f"{times:.2f}", "gb": f"{need / 1e9:.1f}"})
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*lines[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
