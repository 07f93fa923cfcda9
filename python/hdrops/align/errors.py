"""What can go wrong in an alignment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hdrops.io import InputError


class AlignmentError(InputError):
    """Frames that cannot be aligned. The message is one line: which, why, and what can be done.

    Attributes:
        failed: the reason of each frame that failed, by its index.
    """

    def __init__(
        self, failed: Mapping[int, str], remedy: str = "best_effort=True leaves such frames as they are"
    ) -> None:
        self.failed = dict(failed)
        frames = "; ".join(f"frame {k}: {reason}" for k, reason in self.failed.items())
        super().__init__(f"cannot be aligned: {frames} (frames count from 0, dark to bright); {remedy}")


class Unmatched(Exception):
    """Why one frame does not align with another, in words for the user."""


def opencv() -> Any:
    """OpenCV's module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise InputError("alignment needs OpenCV; pip install 'hdrops[align]'") from error
    return cv2
