"""A DNG made by hand: TIFF with the codes of a Bayer sensor, uncompressed."""

import struct

import numpy as np

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _SRATIONAL, _DOUBLE = 1, 2, 3, 4, 5, 10, 12
_FORMATS = {_BYTE: "B", _SHORT: "H", _LONG: "I", _DOUBLE: "d"}
COLOURS = {"R": 0, "G": 1, "B": 2}


def _packed(kind, values):
    if kind == _ASCII:
        return values.encode() + b"\0"
    if kind in (_RATIONAL, _SRATIONAL):
        form = "<II" if kind == _RATIONAL else "<ii"
        return b"".join(struct.pack(form, *value) for value in values)
    return struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values)


def _directory(entries, start):
    """A directory that begins at ``start``, followed by the values that do not fit into its entries."""
    body, extra = b"", b""
    behind = start + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        data = _packed(kind, values)
        count = len(data) if kind == _ASCII else len(values)
        if len(data) > 4:
            field = struct.pack("<I", behind + len(extra))
            extra += data + bytes(len(data) % 2)
        else:
            field = data.ljust(4, b"\0")
        body += struct.pack("<HHI", tag, kind, count) + field
    return struct.pack("<H", len(entries)) + body + bytes(4) + extra


def dng(
    codes,
    *,
    pattern="RGGB",
    black=(64,) * 4,
    white=4095,
    neutral=(0.5, 1.0, 0.8),
    orientation=1,
    time=(1, 250),
    noise=None,
    changed=None,
):
    """The bytes of a DNG of (H, W) uint16 codes; ``noise`` is its profile, S and O of every plane or of all;
    ``changed`` replaces entries of its directory, None removes one."""
    height, width = codes.shape
    exif = {
        33434: (_RATIONAL, [time]),
        33437: (_RATIONAL, [(56, 10)]),
        34855: (_SHORT, [400]),
        36867: (_ASCII, "2024:05:06 07:08:09"),
        37386: (_RATIONAL, [(35, 1)]),
        42036: (_ASCII, "35mm f/2"),
    }
    exif_start = 8
    exif_bytes = _directory(exif, exif_start)
    start = exif_start + len(exif_bytes)
    pixels = np.ascontiguousarray(codes, dtype="<u2").tobytes()
    entries = {
        254: (_LONG, [0]),
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [16]),
        259: (_SHORT, [1]),
        262: (_SHORT, [32803]),  # colour filter array
        271: (_ASCII, "Maker"),
        272: (_ASCII, "Camera 1"),
        273: (_LONG, [0]),
        274: (_SHORT, [orientation]),
        277: (_SHORT, [1]),
        278: (_LONG, [height]),
        279: (_LONG, [len(pixels)]),
        284: (_SHORT, [1]),
        33421: (_SHORT, [2, 2]),
        33422: (_BYTE, [COLOURS[c] for c in pattern]),
        34665: (_LONG, [exif_start]),
        50706: (_BYTE, [1, 4, 0, 0]),
        50707: (_BYTE, [1, 1, 0, 0]),
        50708: (_ASCII, "Maker Camera 1"),
        50713: (_SHORT, [2, 2]),
        50714: (_SHORT, list(black)),
        50717: (_LONG, [white]),
        50721: (_SRATIONAL, [(int(i == j) * 10000, 10000) for i in range(3) for j in range(3)]),
        50728: (_RATIONAL, [(round(v * 10000), 10000) for v in neutral]),
        50778: (_SHORT, [21]),
    }
    if noise is not None:
        entries[51041] = (_DOUBLE, list(noise))
    entries = {tag: entry for tag, entry in {**entries, **(changed or {})}.items() if entry is not None}
    entries[273] = (_LONG, [start + len(_directory(entries, start))])
    return b"II*\0" + struct.pack("<I", start) + exif_bytes + _directory(entries, start) + pixels
