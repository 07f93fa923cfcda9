"""What the commands that read a bracket share: their arguments, and the checks before any work."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from hdrops_cli.report import counting, warn, working

if TYPE_CHECKING:
    from hdrops.io import Bracket, Frame

_FLOAT_IMAGES = (".exr", ".hdr")
LOSSY_IMAGES = (".jpg", ".jpeg")


def parse_numbers(text: str | None, option: str, example: str) -> list[float] | None:
    """Numbers such as ``1/60,0.5`` or ``-2,0,2``."""
    from hdrops.io import InputError

    if text is None:
        return None
    numbers = []
    for part in text.split(","):
        numerator, slash, denominator = part.partition("/")
        try:
            number = float(numerator) / (float(denominator) if slash else 1.0)
        except (ValueError, ZeroDivisionError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"{option} has {part.strip()!r} where a number is expected; write for example {example}")
        numbers.append(number)
    return numbers


def images_in(folder: Path, raw: bool = False) -> list[Path]:
    """The images of one folder, sorted by name; camera RAW files only where it has no others, or alone if ``raw``."""
    from hdrops.io import IMAGE_ENDINGS, RAW_ENDINGS

    files = sorted(p for p in folder.iterdir() if p.name[0] != "." and p.is_file())
    images = [] if raw else [p for p in files if p.suffix.lower() in IMAGE_ENDINGS]
    return images or [p for p in files if p.suffix.lower() in RAW_ENDINGS]


def images_below(root: Path, left_out: Iterable[Path], failures: list[str]) -> Iterator[Path]:
    """Images in a folder and its subfolders, without hidden folders and those of ``left_out``, such as results.

    What cannot be looked into is added to ``failures``.
    """
    strange = {path.resolve() for path in left_out}

    def failed(error: OSError) -> None:
        failures.append(f"{error.filename}: {error.strerror}")

    for place, folders, _ in os.walk(root, onerror=failed):
        folder = Path(place)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (folder / name).resolve() not in strange
        )
        try:
            yield from images_in(folder)
        except OSError as error:
            failed(error)


def inspected(files: Mapping[Path, Sequence[Path]]) -> dict[Path, list[Frame]]:
    """What grouping needs to know of the files of each folder."""
    from hdrops.io import inspect_image

    frames: dict[Path, list[Frame]] = {folder: [] for folder in files}
    pool = ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0))))
    try:
        with counting("reading", sum(map(len, files.values()))) as advance:
            for folder, found in files.items():
                for frame in pool.map(inspect_image, found):
                    frames[folder].append(frame)
                    advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return frames


def images_of(paths: Sequence[Path], raw: bool = False) -> list[Path]:
    """The paths, with folders replaced by the images (or only the ``raw`` ones) in them, sorted by name."""
    from hdrops.io import IMAGE_ENDINGS, RAW_ENDINGS, InputError

    images: list[Path] = []
    for path in paths:
        if not path.is_dir():
            images.append(path)
            continue
        found = images_in(path, raw)
        if not found:
            endings = ", ".join(RAW_ENDINGS if raw else IMAGE_ENDINGS + RAW_ENDINGS)
            raise InputError(f"{path} is a folder without images; expected files ending in {endings}")
        images += found
    return images


def check_count(images: Sequence[Path], least: int) -> None:
    from hdrops.io import InputError

    if len(images) < least:
        raise InputError(f"at least {least} images are needed, got {len(images)}; add another exposure")


def open_bracket(
    images: Sequence[Path],
    outs: Sequence[Path],
    times: str | None,
    ev: str | None,
    least: int = 1,
    radiance: bool = False,
) -> Bracket:
    """Read a bracket of ``least`` images or more that is to become ``outs``, check that it can, and voice doubts.

    ``radiance`` is for :func:`read_checked`; the order of the frames does not matter to it.
    """
    given_times = parse_numbers(times, "--times", "--times 1/60,1/15")
    given_ev = parse_numbers(ev, "--ev", "--ev -2,0,2")
    check_count(images, least)
    with working(f"reading {len(images)} images"):
        bracket = read_checked(images, outs, given_times, given_ev, radiance)
    for warning in bracket.warnings:
        warn(warning)
    unordered = bracket.ordered_by == "brightness" and len(images) > 1 and bracket.exposures_believed
    if unordered and not radiance:
        warn("no exposure times known, so the images are ordered by brightness; --times or --ev state an order")
    return bracket


def check_place(images: Sequence[Path], out: Path) -> None:
    """Make sure, before any work, that a picture can be written, and over none of the images it is made of."""
    from hdrops.io import InputError, check_writable

    for path in images:
        if out.resolve() == path.resolve() or (out.exists() and path.exists() and out.samefile(path)):
            raise InputError(f"{out} is one of the inputs; choose another name for the result")
    check_writable(out)


def holds_radiance(out: Path) -> bool:
    """Whether a picture of this name holds linear light without a bound."""
    return out.suffix.lower() in _FLOAT_IMAGES


def read_checked(
    images: Sequence[Path],
    outs: Sequence[Path],
    times: Sequence[float] | None,
    ev: Sequence[float] | None,
    radiance: bool = False,
) -> Bracket:
    """Read a bracket that is to become ``outs``, files of one kind, and check that it can.

    Pictures are coded as the frames are, but for ``radiance``, which is linear light whatever these are.
    """
    from hdrops.io import InputError, read_bracket

    for out in outs:
        check_place(images, out)
        if radiance and not holds_radiance(out):
            raise InputError(
                f"{out} cannot hold linear light; write a .exr or .hdr, or fuse the images for a picture to look at"
            )
    bracket = read_bracket(images, times=times, ev=ev)
    _check_range(bracket, None if radiance else outs[0])
    return bracket


def _check_range(bracket: Bracket, out: Path | None) -> None:
    """Refuse frames that ``out`` cannot hold in their coding, and such of linear light that are not of [0, 1]."""
    import torch

    from hdrops.io import InputError

    images, ending = bracket.images, None if out is None else out.suffix.lower()
    if images.dtype == torch.uint16 and ending in LOSSY_IMAGES:
        raise InputError(f"{out} would cut 16-bit images to 8 bits; write a .png or .tif instead")
    if not images.is_floating_point():
        if out is not None and holds_radiance(out):
            raise InputError(f"{out} holds linear light, not 8-bit or 16-bit codes; write a .png or .tif instead")
        return
    for path, image in zip(bracket.paths, images, strict=True):
        low, high = (float(v) for v in torch.aminmax(image))
        if not (low >= 0 and high <= 1):  # NaN too
            raise InputError(
                f"{path} has values from {low:.4g} to {high:.4g} where [0, 1] is expected; "
                "divide the bracket by its maximum, or tone it to display range first"
            )
    if out is not None and not holds_radiance(out):
        raise InputError(f"{out} cannot hold floating-point pixels; write a .exr or .hdr instead")


def describe(bracket: Bracket) -> str:
    """The frames of a bracket in words."""
    count, channels, height, width = bracket.images.shape
    kind = {"uint8": "8 bit", "uint16": "16 bit"}.get(str(bracket.images.dtype).removeprefix("torch."), "float")
    colour = "grey" if channels == 1 else "colour"
    frames = f"{count} frames by {bracket.ordered_by}" if count > 1 else "1 frame"
    return f"{frames}, {width}x{height}, {kind} {colour}"
