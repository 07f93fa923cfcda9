"""``hdrops fuse``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from hdrops_cli.bracket import describe, images_of, open_bracket
from hdrops_cli.report import say, working


def run(
    images: Sequence[Path],
    out: Path,
    method: str,
    times: str | None,
    ev: str | None,
    contrast: float,
    saturation: float,
    exposedness: float,
    quality: int,
) -> None:
    import torch

    import hdrops
    from hdrops.io import write_image
    from hdrops.models import insert_exposures

    started = time.perf_counter()
    bracket = open_bracket(images_of(images), out, times, ev, least=2 if method == "interpolate" else 1)
    read = time.perf_counter()
    with torch.inference_mode(), working("fusing"):
        frames = bracket.images[None]
        if method == "interpolate":
            frames = insert_exposures(frames)
        fused = hdrops.exposure_fusion(frames, contrast=contrast, saturation=saturation, exposedness=exposedness)[0]
    done = time.perf_counter()
    with working(f"writing {out}"):
        write_image(out, fused, quality=quality)
    spent = f"read {read - started:.2f} s, fused {done - read:.2f} s, wrote {time.perf_counter() - done:.2f} s"
    say(f"{describe(bracket)}, {method}, {spent} → {out}")
