"""``hdrops develop``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hdrops_cli.bracket import LOSSY_IMAGES, check_count, check_place, holds_radiance, images_of
from hdrops_cli.emvnet import enhanced, reference_of
from hdrops_cli.interpolate import pretrained
from hdrops_cli.report import say, working

if TYPE_CHECKING:
    from hdrops.io import Bayer
    from hdrops.models import EMVNet


def _network(weights: Path) -> EMVNet:
    from hdrops.io import InputError
    from hdrops.models import EMVNet

    model = pretrained(EMVNet, weights)
    channels, outputs = model.config.channels, model.config.outputs
    if channels == 3:
        raise InputError(f"{weights} holds a network for RGB images; merge takes it, develop one for raw frames")
    if channels != 4:
        raise InputError(f"{weights} holds a network for images of {channels} channels; develop needs one for 4")
    if outputs != 3:
        raise InputError(
            f"{weights} holds a network whose picture has {outputs} channels, as raw frames have; develop needs one "
            "that makes RGB of them, of the preset isp"
        )
    return model


def _read(files: Sequence[Path]) -> list[Bayer]:
    """Raw frames of one size. Cells of other patterns are no matter: the planes are the same colours."""
    from hdrops.io import InputError, read_bayer

    frames: list[Bayer] = []
    for file in files:
        frames.append(read_bayer(file))
        (height, width), (rows, columns) = (frame.pixels.shape[1:] for frame in (frames[0], frames[-1]))
        if (height, width) != (rows, columns):
            raise InputError(
                f"the frames must agree: {files[0]} has {2 * width} x {2 * height} pixels, {file} "
                f"{2 * columns} x {2 * rows}; take frames of one camera and setting"
            )
    return frames


def run(images: Sequence[Path], out: Path, weights: Path, reference: str, tile: int | None, quality: int) -> None:
    import torch

    from hdrops.io import InputError, to_codes, write_image
    from hdrops.io.reading import upright

    started = time.perf_counter()
    model = _network(weights)
    files = images_of(images, raw=True)
    check_count(files, 2)
    place = reference_of(reference, len(files))
    check_place(files, out)
    if holds_radiance(out):
        raise InputError(f"{out} holds linear light, and this is a picture to look at; write a .png, .tif or .jpg")
    with working(f"reading {len(files)} images"):
        frames = _read(files)
        planes = torch.stack([frame.linear() for frame in frames])[None]
    read = time.perf_counter()
    with working("developing"), torch.inference_mode():
        if place is None:
            place = int(model.choose_reference(planes))
        picture = enhanced(model, planes, place, tile)
    chosen = frames[place]
    turned = torch.from_numpy(upright(picture.clamp(0, 1).permute(1, 2, 0).numpy(), chosen.orientation))
    codes = to_codes(turned.permute(2, 0, 1), 8 if out.suffix.lower() in LOSSY_IMAGES else 16)
    done = time.perf_counter()
    with working(f"writing {out}"):
        write_image(out, codes, exposure=chosen.exposure, metadata=chosen.metadata, quality=quality)
    height, width = codes.shape[1:]
    spent = f"read {read - started:.2f} s, developed {done - read:.2f} s, wrote {time.perf_counter() - done:.2f} s"
    say(f"{len(files)} raw frames, reference {chosen.path.name}, {width}x{height}, {spent} → {out}")
