"""``hdrops fuse``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from hdrops_cli.bracket import describe, images_of, open_bracket
from hdrops_cli.interpolate import in_order, load_model
from hdrops_cli.report import say, working

if TYPE_CHECKING:
    import torch

    from hdrops.io import Bracket
    from hdrops.models import ExposureInterpolator


class Exponents(TypedDict):
    """Of the weights of exposure fusion."""

    contrast: float
    saturation: float
    exposedness: float


def fused(
    bracket: Bracket, method: str, model: ExposureInterpolator | None, **exponents: Unpack[Exponents]
) -> torch.Tensor:
    """The picture of a bracket; the method "interpolate" uses the model, or without one the maps alone."""
    import torch

    import hdrops
    from hdrops.models import insert_exposures

    with torch.inference_mode():
        frames = bracket.images[None]
        if method == "interpolate":
            with in_order():
                frames = insert_exposures(frames, model)
        return hdrops.exposure_fusion(frames, **exponents)[0]


def run(
    images: Sequence[Path],
    out: Path,
    method: str,
    imf_only: bool,
    weights: Path | None,
    times: str | None,
    ev: str | None,
    quality: int,
    **exponents: Unpack[Exponents],
) -> None:
    from hdrops.io import write_image

    started = time.perf_counter()
    model = load_model(imf_only, weights) if method == "interpolate" else None
    bracket = open_bracket(images_of(images), [out], times, ev, least=2 if method == "interpolate" else 1)
    read = time.perf_counter()
    with working("fusing"):
        picture = fused(bracket, method, model, **exponents)
    done = time.perf_counter()
    with working(f"writing {out}"):
        write_image(out, picture, exposure=bracket.common_exposure, metadata=bracket.middle_metadata, quality=quality)
    spent = f"read {read - started:.2f} s, fused {done - read:.2f} s, wrote {time.perf_counter() - done:.2f} s"
    say(f"{describe(bracket)}, {method}, {spent} → {out}")
