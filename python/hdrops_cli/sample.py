"""``hdrops sample``."""

from __future__ import annotations

import re
import time
from pathlib import Path

from hdrops_cli.report import say, working

_MOST_PIXELS = 100_000_000


def run(folder: Path, exposures: int, step: float, size: str, bits: int, seed: int, force: bool) -> None:
    from hdrops.io import InputError

    started = time.perf_counter()
    match = re.fullmatch(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", size.strip())
    if match is None:
        raise InputError(f"--size has {size!r} where width x height is expected; write for example --size 1200x800")
    width, height = int(match[1]), int(match[2])
    if exposures * width * height > _MOST_PIXELS:
        raise InputError(
            f"{exposures} images of {width}x{height} are more than {_MOST_PIXELS // 1_000_000} megapixels; "
            "ask for fewer or smaller ones"
        )
    paths = [folder / f"{k:02d}.{'jpg' if bits == 8 else 'tif'}" for k in range(exposures)]
    taken = [path for path in paths if path.exists()]
    if taken and not force:
        raise InputError(f"{taken[0]} exists already; choose another folder, or overwrite it with --force")

    from hdrops.data import sample_bracket, sample_times
    from hdrops.io import Exposure, check_writable, write_image

    try:
        times = sample_times(exposures, step)
    except ValueError as error:
        raise InputError(str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        check_writable(path)
    with working(f"rendering {exposures} exposures of {width}x{height}"):
        images, _ = sample_bracket(height, width, exposures, step, bits, seed)
    with working(f"writing to {folder}"):
        for path, image, seconds in zip(paths, images, times, strict=True):
            write_image(path, image, exposure=Exposure(seconds, None, None))

    spent = f"{time.perf_counter() - started:.2f} s"
    say(f"{exposures} exposures {step:g} EV apart, {width}x{height}, {bits} bit, {spent} → {folder}")
