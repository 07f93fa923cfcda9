"""``hdrops fuse``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from hdrops_cli.align import aligned
from hdrops_cli.bracket import describe, images_of, open_bracket
from hdrops_cli.interpolate import in_order, load_model, pretrained
from hdrops_cli.report import say, warn, working

if TYPE_CHECKING:
    import torch

    from hdrops.io import Bracket
    from hdrops.models import ExposureInterpolator, HyperPMB


class Exponents(TypedDict):
    """Of the weights of exposure fusion."""

    contrast: float
    saturation: float
    exposedness: float


LEAST = {"mertens": 1, "interpolate": 2, "hyperp-mb": 2}  # frames


def model_of(method: str, imf_only: bool, weights: Path | None) -> ExposureInterpolator | HyperPMB | None:
    """The network that a method works with, if it does."""
    if method == "hyperp-mb":
        from hdrops.models import HyperPMB

        return pretrained(HyperPMB, weights)
    return load_model(imf_only, weights) if method == "interpolate" else None


def fused(
    bracket: Bracket,
    method: str,
    model: ExposureInterpolator | HyperPMB | None,
    **exponents: Unpack[Exponents],
) -> torch.Tensor:
    """The picture of a bracket; the method "interpolate" uses the model, or without one the maps alone."""
    import torch

    import hdrops
    from hdrops.models import HyperPMB, insert_exposures

    with torch.inference_mode():
        frames = bracket.images[None]
        if isinstance(model, HyperPMB):
            return model.fuse(frames)[0]
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
    align: str,
    times: str | None,
    ev: str | None,
    quality: int,
    **exponents: Unpack[Exponents],
) -> None:
    from hdrops.io import write_image

    started = time.perf_counter()
    model = model_of(method, imf_only, weights)
    bracket = open_bracket(images_of(images), [out], times, ev, least=LEAST[method])
    read = time.perf_counter()
    with working("aligning"):
        bracket, outcome, told = aligned(bracket, align)
    for line in told:
        warn(line)
    ready = time.perf_counter()
    with working("fusing"):
        picture = fused(bracket, method, model, **exponents)
    done = time.perf_counter()
    with working(f"writing {out}"):
        write_image(out, picture, exposure=bracket.common_exposure, metadata=bracket.middle_metadata, quality=quality)
    spent = f"read {read - started:.2f} s"
    spent += "" if align == "none" else f", aligned {ready - read:.2f} s ({outcome})"
    spent += f", fused {done - ready:.2f} s, wrote {time.perf_counter() - done:.2f} s"
    say(f"{describe(bracket)}, {method}, {spent} → {out}")
