"""Photographs in files: reading and writing single images and exposure brackets, and finding brackets in folders.

PNG, TIFF, JPEG, OpenEXR and Radiance HDR, through OpenImageIO, which is imported at the first use. Pixels are
planar ``(C, H, W)`` tensors: ``uint8`` and ``uint16`` hold the codes of the file, ``float32`` linear light.
Whatever is wrong with a file is an :class:`InputError` of one line.
"""

from hdrops.io.bracket import Bracket, read_bracket
from hdrops.io.errors import InputError
from hdrops.io.grouping import Frame, Group, group_frames, inspect_image
from hdrops.io.photograph import Exposure, Photograph, to_codes
from hdrops.io.reading import read_image
from hdrops.io.writing import check_writable, write_image

__all__ = [
    "Bracket",
    "Exposure",
    "Frame",
    "Group",
    "InputError",
    "Photograph",
    "check_writable",
    "group_frames",
    "inspect_image",
    "read_bracket",
    "read_image",
    "to_codes",
    "write_image",
]
