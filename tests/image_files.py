"""Image files made by hand: kinds that the writers under test do not produce."""

import struct
import zlib

import numpy as np
import OpenImageIO as oiio


def smooth(height, width, channels, levels, seed=0):
    """A picture of smooth gradients, (H, W, C) in [0, levels], all channels different."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    frequency = rng.uniform(0.02, 0.08, (2, channels))
    phase = rng.uniform(0, 6, channels)
    waves = np.sin(y[..., None] * frequency[0] + x[..., None] * frequency[1] + phase)
    return ((waves + 1) / 2 * levels).astype(np.float32)


def write(path, pixels, sample=None, names=None, **attributes):
    """Write (H, W, C) pixels with OpenImageIO itself; ``__`` in an attribute's name stands for a colon."""
    sample = sample or {"uint8": "uint8", "uint16": "uint16", "float32": "float"}[str(pixels.dtype)]
    spec = oiio.ImageSpec(pixels.shape[1], pixels.shape[0], pixels.shape[2], sample)
    if names:
        spec.channelnames = names
        spec.alpha_channel = names.index("A") if "A" in names else -1
    for name, value in attributes.items():
        if isinstance(value, bytes):
            spec.attribute(name, f"uint8[{len(value)}]", np.frombuffer(value, dtype=np.uint8))
        else:
            spec.attribute(name.replace("__", ":"), value)
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec)
    assert output.write_image(np.ascontiguousarray(pixels))
    assert output.close()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, rows, *, bits=8, colour=2, extra=b""):
    """A PNG of raw rows, each of which begins with its filter byte."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + png_chunk(b"IEND", b"")


def icc_profile(colours, size=0):
    """A colour profile without meaning, but of correct form: a display's, of "RGB " or "GRAY"."""
    text = b"text" + bytes(4) + b"test" + bytes(max(4, size - 156))
    tags = struct.pack(">I4sII", 1, b"desc", 144, len(text))
    header = struct.pack(
        ">I4sI4s4s4s6H4s28x3I48x",
        128 + len(tags) + len(text),
        b"test",
        0x04300000,
        b"mntr",
        colours,
        b"XYZ ",
        *(2024, 5, 6, 7, 8, 9),
        b"acsp",
        *(0xF6D6, 0x10000, 0xD32D),  # D50
    )
    return header + tags + text


def cmyk_jpeg():
    """A baseline JPEG of 8 x 8 pixels with four components, all of them mid-grey."""

    def segment(marker, data):
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    components = range(1, 5)
    quantisation = segment(0xDB, bytes([0] + [1] * 64))
    frame = segment(0xC0, struct.pack(">BHHB", 8, 8, 8, 4) + b"".join(bytes([c, 0x11, 0]) for c in components))
    one_code = bytes([1] + [0] * 15 + [0])  # the code of one bit that stands for 0
    tables = segment(0xC4, b"\x00" + one_code) + segment(0xC4, b"\x10" + one_code)
    scan = segment(0xDA, bytes([4]) + b"".join(bytes([c, 0]) for c in components) + bytes([0, 63, 0]))
    return b"\xff\xd8" + quantisation + frame + tables + scan + b"\x00" + b"\xff\xd9"
