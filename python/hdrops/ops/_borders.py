"""What stands beyond the borders of an image; numbered as ``math::Border`` of the C++ kernels."""

from __future__ import annotations

from typing import Literal, get_args

Border = Literal["reflect", "symmetric", "replicate", "zeros"]
WindowBorder = Literal["valid", "reflect", "symmetric", "replicate", "zeros"]
BORDERS: dict[str, int] = {name: number for number, name in enumerate(get_args(WindowBorder))}


def border_number(border: str, offered: object) -> int:
    """The number of a border that is one of the names of the type ``offered``."""
    names = get_args(offered)
    if border not in names:
        raise ValueError(f"border must be one of {', '.join(names)}, got {border!r}")
    return BORDERS[border]
