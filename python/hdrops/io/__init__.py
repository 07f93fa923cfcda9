"""Photographs in files: reading and writing single images and exposure brackets, and finding brackets in folders.

PNG, TIFF, JPEG, OpenEXR and Radiance HDR, through OpenImageIO; camera RAW through rawpy, HEIC and AVIF through
pillow-heif, reading only. Each is imported at its first use. Pixels are planar ``(C, H, W)`` tensors: ``uint8`` and
``uint16`` hold the codes of the file, ``float32`` linear light. Whatever is wrong with a file is an
:class:`InputError` of one line.
"""

from hdrops.io.bracket import Bracket, read_bracket
from hdrops.io.errors import InputError
from hdrops.io.exposure import Exposure
from hdrops.io.formats import IMAGE_ENDINGS, RAW_ENDINGS
from hdrops.io.grouping import Frame, Group, group_frames, inspect_image
from hdrops.io.metadata import Location, Metadata
from hdrops.io.photograph import Photograph, to_codes
from hdrops.io.raw import Bayer, read_bayer, read_raw
from hdrops.io.reading import read_image
from hdrops.io.writing import check_writable, write_image

__all__ = [
    "IMAGE_ENDINGS",
    "RAW_ENDINGS",
    "Bayer",
    "Bracket",
    "Exposure",
    "Frame",
    "Group",
    "InputError",
    "Location",
    "Metadata",
    "Photograph",
    "check_writable",
    "group_frames",
    "inspect_image",
    "read_bayer",
    "read_bracket",
    "read_image",
    "read_raw",
    "to_codes",
    "write_image",
]
