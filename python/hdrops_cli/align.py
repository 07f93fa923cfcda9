"""``--align``: the frames of a bracket on one another before they are fused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hdrops.io import Bracket

BEST_EFFORT = "best-effort"


def default_of(method: str) -> str:
    """The paper of "hyperp-mb" aligns first; the other methods take frames as they are."""
    return "homography" if method == "hyperp-mb" else "none"


def aligned(bracket: Bracket, align: str) -> tuple[Bracket, str, list[str]]:
    """The bracket with its frames aligned as ``--align`` says, how well that went, and warnings of frames that could
    not be aligned."""
    if align == "none" or len(bracket.paths) == 1:
        return bracket, "nothing to align", []
    from hdrops.align import AlignmentError, align_bracket
    from hdrops.io import InputError

    best_effort = align == BEST_EFFORT
    try:
        found = align_bracket(bracket.images, "homography" if best_effort else align, best_effort=best_effort)
    except AlignmentError as error:
        frames = "; ".join(f"{bracket.paths[k]}: {reason}" for k, reason in error.failed.items())
        go_on = "" if best_effort else f"--align {BEST_EFFORT} to fuse such frames as they are, or "
        raise InputError(f"cannot align {frames}; take {go_on}--align none") from error
    except ValueError as error:
        raise InputError(f"cannot align: {error}; --align none leaves frames as they are") from error
    others = [float(c) for k, c in enumerate(found.confidence) if k not in found.failed and k != found.reference]
    outcome = f"confidence {min(others):.2f}" if others else "no frame"
    told = [f"{bracket.paths[k]} is fused as it is, for it cannot be aligned: {why}" for k, why in found.failed.items()]
    return replace(bracket, images=found.images), outcome, told
