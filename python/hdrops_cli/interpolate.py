"""``hdrops interpolate``."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

from hdrops_cli.bracket import describe, open_bracket
from hdrops_cli.report import say, working


def run(dark: Path, bright: Path, out: Path, times: str | None, ev: str | None, quality: int) -> None:
    import torch

    from hdrops.io import Exposure, write_image
    from hdrops.models import interpolate_exposure

    started = time.perf_counter()
    bracket = open_bracket([dark, bright], out, times, ev, least=2)
    with torch.inference_mode(), working("interpolating"):
        middle = interpolate_exposure(bracket.images[:1], bracket.images[1:])[0]
    exposure = None
    if bracket.exposure_times is not None and bracket.ordered_by != "ev":  # seconds, not relative
        seconds = math.sqrt(float(bracket.exposure_times.prod()))
        # Times from EXIF refer to the aperture and sensitivity of the darkest frame.
        exposure = replace(bracket.exposures[0], time=seconds) if bracket.ordered_by == "exif" else Exposure(seconds)
    write_image(out, middle, exposure=exposure, metadata=bracket.middle_metadata, quality=quality)
    known = "" if exposure is None or exposure.time is None else f", exposed {exposure.time:.4g} s"
    say(f"{describe(bracket)}{known}, {time.perf_counter() - started:.2f} s → {out}")
