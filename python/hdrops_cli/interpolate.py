"""``hdrops interpolate``, and the model that this and ``hdrops fuse`` interpolate with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hdrops_cli.bracket import describe, open_bracket
from hdrops_cli.report import say, working

if TYPE_CHECKING:
    from hdrops.models import EMVNet, ExposureInterpolator, HyperPMB

    Model = TypeVar("Model", EMVNet, ExposureInterpolator, HyperPMB)


def load_model(imf_only: bool, weights: Path | None) -> ExposureInterpolator | None:
    """The trained network, or None where the intensity mapping functions are to do alone."""
    from hdrops.io import InputError
    from hdrops.models import ExposureInterpolator

    if imf_only:
        if weights is not None:
            raise InputError("--imf-only takes no network; leave out --weights")
        return None
    return pretrained(ExposureInterpolator, weights)


def pretrained(kind: type[Model], weights: Path | None) -> Model:
    """A trained model: of a folder, or the one that comes along. What is wrong with its files is bad input."""
    from hdrops.io import InputError

    try:
        return kind.from_pretrained(weights)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(str(error)) from error


@contextlib.contextmanager
def in_order() -> Iterator[None]:
    """Frames in an order that their brightness belies are bad input: exposures decide it, which a user can state."""
    from hdrops.io import InputError
    from hdrops.models import SwappedImages

    try:
        yield
    except SwappedImages as error:
        raise InputError(f"{error}, or state their exposures by --times or --ev") from error


def run(
    dark: Path,
    bright: Path,
    out: Path,
    steps: int,
    imf_only: bool,
    weights: Path | None,
    times: str | None,
    ev: str | None,
    quality: int,
) -> None:
    import torch

    from hdrops.io import Exposure, write_image
    from hdrops.models import exposures_between

    started = time.perf_counter()
    model = load_model(imf_only, weights)
    places = [out]
    if steps > 1:  # their numbers go up with the exposure
        places = [out.parent / f"{out.stem}_{i}{out.suffix}" for i in range(1, steps + 1)]
    bracket = open_bracket([dark, bright], places, times, ev, least=2)
    seconds: list[float | None] = [None] * steps
    if bracket.exposure_times is not None and bracket.ordered_by != "ev":  # seconds, not relative
        first, last = bracket.exposure_times.tolist()
        seconds = [first * (last / first) ** (i / (steps + 1)) for i in range(1, steps + 1)]
    with torch.inference_mode(), working("interpolating"), in_order():
        darker, brighter = bracket.images[:, None]
        between = exposures_between(darker, brighter, model, steps)
        for place, images, exposed in zip(places, between, seconds, strict=True):
            exposure = None
            if exposed is not None:
                # Times from EXIF refer to the aperture and sensitivity of the darkest frame.
                exposure = (
                    replace(bracket.exposures[0], time=exposed) if bracket.ordered_by == "exif" else Exposure(exposed)
                )
            write_image(place, images[0], exposure=exposure, metadata=bracket.middle_metadata, quality=quality)
    known = "" if None in seconds else f", exposed {', '.join(f'{t:.4g}' for t in seconds)} s"
    names = str(places[0]) if steps == 1 else f"{places[0]} to {places[-1].name}"
    say(f"{describe(bracket)}{known}, {time.perf_counter() - started:.2f} s → {names}")
