"""Radiance HDR: the layouts and encodings that OpenImageIO reads wrongly or not at all."""

import image_files
import numpy as np
import pytest
import torch

from hdrops.io import InputError, read_image

NEW, OLD, FLAT = "new", "old", "flat"


def colours(height, width, seed=0):
    """(H, W, 4) bytes of RGBE with runs of equal pixels, some black, none that looks like a mark of a run."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(2, 256, (height, width, 4)).astype(np.uint8)
    pixels[..., 3] = rng.integers(120, 140, (height, width))
    pixels[rng.random((height, width)) < 0.2, 3] = 0
    pixels[:, width // 3 : width // 2] = pixels[:, width // 3, None]
    return pixels


def linear(pixels):
    value = pixels[..., :3].astype(np.float64) * 2.0 ** (pixels[..., 3:].astype(np.float64) - 136)
    value[pixels[..., 3] == 0] = 0
    return torch.from_numpy(value.astype(np.float32)).permute(2, 0, 1)


def _run(pixel, count):
    """A pixel and marks that repeat it, of the first version of run lengths."""
    marks, left = b"", count - 1
    while left:
        marks += bytes([1, 1, 1, left & 255])
        left >>= 8
    return pixel.tobytes() + marks


def encoded(pixels, kind):
    if kind == FLAT:
        return pixels.tobytes()
    if kind == OLD:
        flat, content, start = pixels.reshape(-1, 4), b"", 0
        changes = [*np.flatnonzero((flat[1:] != flat[:-1]).any(1)) + 1, len(flat)]
        for end in changes:
            content += _run(flat[start], end - start)
            start = end
        return content
    content = b""
    for row in pixels:
        content += bytes([2, 2, row.shape[0] >> 8, row.shape[0] & 255])
        for channel in row.T:
            for start in range(0, len(channel), 128):
                part = channel[start : start + 128]
                content += bytes([len(part)]) + part.tobytes()
    return content


def hdr(pixels, kind, axes=("-Y", "+X"), header=b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n"):
    size = f"{axes[0]} {pixels.shape[0]} {axes[1]} {pixels.shape[1]}\n"
    return header + size.encode() + encoded(pixels, kind)


def read(folder, content, **options):
    (folder / "a.hdr").write_bytes(content)
    return read_image(folder / "a.hdr", **options).pixels


@pytest.mark.parametrize("kind", [NEW, OLD, FLAT])
@pytest.mark.parametrize("size", [(5, 40), (3, 300), (1, 8)])
def test_pixels(tmp_path, kind, size):
    pixels = colours(*size)
    assert torch.equal(read(tmp_path, hdr(pixels, kind)), linear(pixels))


@pytest.mark.parametrize("kind", [OLD, FLAT])
@pytest.mark.parametrize("size", [(7, 5), (1, 1)])
def test_narrow_pictures_have_no_new_run_lengths(tmp_path, kind, size):
    pixels = colours(*size)
    assert torch.equal(read(tmp_path, hdr(pixels, kind)), linear(pixels))


def test_long_runs_of_the_first_version(tmp_path):
    pixels = np.empty((300, 400, 4), np.uint8)
    pixels[:] = 10, 20, 30, 129
    pixels[-1, -1] = 2, 2, 40, 130
    content = hdr(pixels, OLD)
    assert len(content) < 100
    assert torch.equal(read(tmp_path, content), linear(pixels))


@pytest.mark.parametrize("kind", [NEW, OLD])
@pytest.mark.parametrize(
    ("axes", "store"),
    [
        (("-Y", "+X"), lambda p: p),
        (("-Y", "-X"), lambda p: p[:, ::-1]),
        (("+Y", "-X"), lambda p: p[::-1, ::-1]),
        (("+Y", "+X"), lambda p: p[::-1]),
        (("+X", "-Y"), lambda p: p.swapaxes(0, 1)),
        (("-X", "-Y"), lambda p: p[:, ::-1].swapaxes(0, 1)),
        (("-X", "+Y"), lambda p: p[::-1, ::-1].swapaxes(0, 1)),
        (("+X", "+Y"), lambda p: p[::-1].swapaxes(0, 1)),
    ],
)
def test_orientation(tmp_path, axes, store, kind):
    pixels = colours(12, 20)
    assert torch.equal(read(tmp_path, hdr(np.ascontiguousarray(store(pixels)), kind, axes)), linear(pixels))


def test_other_headers(tmp_path):
    pixels = colours(4, 20)
    long = b"#?RGBE\n# " + b"x" * 1000 + b"\nEXPOSURE=2\nGAMMA=1\nFORMAT=32-bit_rle_rgbe\nVIEW= -vtv\n\n"
    for kind in (NEW, OLD):
        assert torch.equal(read(tmp_path, hdr(pixels, kind, header=long)), linear(pixels))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"#?RADIANCE\nFORMAT=32-bit_rle_xyze\n\n-Y 1 +X 1\n\1\2\3\4", "XYZ"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +Y 1\n\1\2\3\4", "header is damaged"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1\n", "header is damaged"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n" + b"a=b\n" * 50_000, "header is damaged"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 2\n\1\2\3\x80\1\1\1\2", "3 pixels of 4"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 2\n\1\2\3\x80\1\1\1\x09", "5 pixels of 4"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 2\n\1\1\1\1\1\2\3\x80", "0 pixels of 4"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 2\n", "0 pixels of 4"),
        (b"#?RADIANCE\r\nFORMAT=32-bit_rle_rgbe\r\n\r\n-Y 1 +X 1\r\n\1\2\3\x80", "line ends"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 60000 +X 60000\n\1\2\3\x80", "limit"),
    ],
)
def test_refused(tmp_path, content, says):
    with pytest.raises(InputError, match=says) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_run_of_endless_length_takes_no_memory(tmp_path):
    content = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 2\n\1\2\3\x80" + b"\1\1\1\xff" * 100
    with pytest.raises(InputError, match="5 pixels of 4"):
        read(tmp_path, content)


@pytest.mark.parametrize("kind", [NEW, OLD, FLAT])
def test_truncation(tmp_path, capfd, kind):
    content = hdr(colours(30, 40), kind)
    for part in range(1, 21):
        with pytest.raises(InputError):
            read(tmp_path, content[: (len(content) - 1) * part // 20])
    assert capfd.readouterr().err == ""


def test_real_file_that_a_text_transfer_has_destroyed(data):
    # Every byte 10 and every byte 13 of its pixels has become the pair 13, 10.
    with pytest.raises(InputError, match=r"memorial\.hdr .* line ends"):
        read_image(data / "hdr/memorial.hdr")


def test_writer_and_reader_agree(tmp_path):
    pixels = image_files.smooth(20, 30, 3, 100)
    image_files.write(tmp_path / "a.hdr", pixels)
    stored = read_image(tmp_path / "a.hdr").pixels
    image_files.write(tmp_path / "b.hdr", stored.permute(1, 2, 0).numpy())
    assert torch.equal(read_image(tmp_path / "b.hdr").pixels, stored)
