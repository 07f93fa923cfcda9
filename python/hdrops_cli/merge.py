"""``hdrops merge``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hdrops_cli.align import aligned
from hdrops_cli.bracket import describe, images_of, open_bracket
from hdrops_cli.emvnet import enhanced, reference_of
from hdrops_cli.interpolate import pretrained
from hdrops_cli.report import say, warn, working

if TYPE_CHECKING:
    from torch import Tensor

    from hdrops.io import Bracket, Exposure
    from hdrops.models import EMVNet

GAMMA = 2.2
_MOST_STOPS = 60  # between exposures, which leaves radiance in float32
_LOOKED_AT = 2**20  # pixels of a frame, to choose the reference of the method that does not need one


def _network(weights: Path | None) -> EMVNet:
    from hdrops.io import InputError
    from hdrops.models import EMVNet

    try:
        model = pretrained(EMVNet, weights)
    except InputError as error:
        if weights is not None:
            raise
        raise InputError(f"{error} by --weights, or take --method weighted") from error
    channels, outputs = model.config.channels, model.config.outputs
    if channels == 4:
        raise InputError(
            "the weights are those of a network for raw frames; develop takes it, merge one for RGB images"
        )
    if (channels, outputs) != (3, 3):
        raise InputError(
            f"the weights are those of a network from {channels} to {outputs} channels; merge takes one for RGB images"
        )
    return model


def _coded(images: Tensor, gamma: float) -> Tensor:
    """Values in [0, 1] as a camera codes them: linear light by a power, codes as they are."""
    import torch

    if images.is_floating_point():
        return images.float() ** (1 / gamma)
    return images.float() / torch.iinfo(images.dtype).max


def _by_network(
    bracket: Bracket, model: EMVNet, place: int | None, tile: int | None, gamma: float
) -> tuple[Tensor, int]:
    """Light (C, H, W) in the exposure of the reference, and the place of that in the bracket."""
    from hdrops.io import InputError

    if bracket.images.shape[1] != model.config.channels:
        raise InputError(f"{bracket.paths[0]} is grey, and the network takes RGB; take --method weighted")
    images = _coded(bracket.images, gamma)[None]
    if place is None:
        place = int(model.choose_reference(images))
    return enhanced(model, images, place, tile).clamp_(min=0).pow_(gamma), place


def _by_weights(bracket: Bracket, place: int | None, gamma: float | None) -> tuple[Tensor, int]:
    """The same by the exposure times."""
    import hdrops
    from hdrops.io import InputError
    from hdrops.models import choose_reference

    times = bracket.exposure_times
    if times is None:
        raise InputError(
            "the exposures of the frames are not known, which --method weighted needs; state them by --times or --ev"
        )
    apart = math.log2(float(times.max())) - math.log2(float(times.min()))
    if apart > _MOST_STOPS:
        raise InputError(
            f"the exposures are {apart:.0f} stops apart, which no scene is; correct them by --times or --ev"
        )
    if gamma is not None and bracket.images.is_floating_point():
        raise InputError(f"{bracket.paths[0]} holds linear light, which --method weighted takes as it is; omit --gamma")
    if place is None:
        step = math.ceil(math.sqrt(bracket.images[0, 0].numel() / _LOOKED_AT))
        place = int(choose_reference(_coded(bracket.images[None, ..., ::step, ::step], GAMMA)))
    return hdrops.merge_radiance(bracket.images, times / times[place], coding=gamma), place


def _exposure_of(bracket: Bracket, place: int) -> Exposure | None:
    """That of a frame, as far as it is known and not doubtful."""
    from hdrops.io import Exposure

    if bracket.exposures_believed:
        return bracket.exposures[place]
    if bracket.ordered_by == "times" and bracket.exposure_times is not None:
        return Exposure(float(bracket.exposure_times[place]))
    return None


def run(
    images: Sequence[Path],
    out: Path,
    method: str,
    weights: Path | None,
    reference: str,
    tile: int | None,
    gamma: float | None,
    align: str,
    times: str | None,
    ev: str | None,
) -> None:
    import torch

    from hdrops.io import InputError, write_image

    started = time.perf_counter()
    for option, given in (("--weights", weights), ("--tile", tile)):
        if given is not None and method != "emvnet":
            raise InputError(f"{option} belongs to --method emvnet; add it")
    model = _network(weights) if method == "emvnet" else None
    files = images_of(images)
    number = reference_of(reference, len(files))
    bracket = open_bracket(files, [out], times, ev, least=2, radiance=True)
    place = None if number is None else bracket.paths.index(files[number])
    read = time.perf_counter()
    with working("aligning"):
        bracket, outcome, told = aligned(bracket, align)
    for line in told:
        warn(line)
    ready = time.perf_counter()
    with working("merging"), torch.inference_mode():
        if model is None:
            light, place = _by_weights(bracket, place, gamma)
        else:
            light, place = _by_network(bracket, model, place, tile, GAMMA if gamma is None else gamma)
    done = time.perf_counter()
    with working(f"writing {out}"):
        write_image(out, light, exposure=_exposure_of(bracket, place), metadata=bracket.metadata[place])
    spent = f"read {read - started:.2f} s"
    spent += "" if align == "none" else f", aligned {ready - read:.2f} s ({outcome})"
    spent += f", merged {done - ready:.2f} s, wrote {time.perf_counter() - done:.2f} s"
    say(f"{describe(bracket)}, {method}, in the exposure of {bracket.paths[place].name}, {spent} → {out}")
