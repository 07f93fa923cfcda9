import errno
import os
import stat
import subprocess
import sys

import image_files
import numpy as np
import pytest
import torch

from hdrops.io import Exposure, InputError, check_writable, read_image, to_codes, write_image, writing

EXPOSURE = Exposure(time=1 / 250, f_number=5.6, iso=400)


def image(dtype, channels=3, height=13, width=17):
    levels = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 9)
    pixels = image_files.smooth(height, width, channels, levels).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(dtype)


def pixels_for(extension):
    return image(torch.float32 if extension in (".exr", ".hdr") else torch.uint8)


def refused(path, pixels, *words, **options):
    with pytest.raises(InputError) as caught:
        write_image(path, pixels, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("extension", "dtype"),
    [
        (".png", torch.uint8),
        (".png", torch.uint16),
        (".tif", torch.uint8),
        (".tif", torch.uint16),
        (".tiff", torch.uint16),
        (".exr", torch.float32),
        (".PNG", torch.uint8),
    ],
)
def test_lossless_round_trip(tmp_path, extension, dtype, channels):
    pixels = image(dtype, channels)
    write_image(tmp_path / f"a{extension}", pixels)
    again = read_image(tmp_path / f"a{extension}")
    assert again.pixels.dtype == dtype
    assert torch.equal(again.pixels, pixels)


@pytest.mark.parametrize(
    ("extension", "dtype"), [(".png", torch.uint16), (".tif", torch.uint16), (".exr", torch.float16)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_16_bit_code_is_kept(tmp_path, extension, dtype, channels):
    codes = torch.arange(-(2**15), 2**15).to(torch.int16).view(1, 256, 256)
    if dtype == torch.float16:
        codes = torch.where(codes.view(dtype).isfinite(), codes, 0)
    pixels = torch.cat([codes, codes.flip(1), codes.flip(2)][:channels]).view(dtype)
    write_image(tmp_path / f"a{extension}", pixels)
    again = read_image(tmp_path / f"a{extension}").pixels
    assert again.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    assert torch.equal(again.to(dtype).view(torch.int16), pixels.view(torch.int16))


def test_exr_has_the_samples_of_the_pixels(tmp_path):
    import OpenImageIO as oiio

    for dtype, name in ((torch.float16, "half"), (torch.float32, "float")):
        write_image(tmp_path / "a.exr", image(dtype))
        assert str(oiio.ImageInput.open(str(tmp_path / "a.exr")).spec().format) == name
    write_image(tmp_path / "a.hdr", image(torch.float16))
    write_image(tmp_path / "b.hdr", image(torch.float16).float())
    assert (tmp_path / "a.hdr").read_bytes() == (tmp_path / "b.hdr").read_bytes()


def test_every_finite_float_is_kept(tmp_path):
    bits = torch.randint(-(2**31), 2**31, (1, 300, 300), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    pixels = bits.view(torch.float32)
    pixels = torch.where(pixels.isfinite(), pixels, torch.tensor(-0.0))
    write_image(tmp_path / "a.exr", pixels)
    assert torch.equal(read_image(tmp_path / "a.exr").pixels.view(torch.int32), pixels.view(torch.int32))


@pytest.mark.parametrize("extension", [".jpg", ".jpeg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_round_trip(tmp_path, extension, channels):
    pixels = image(torch.uint8, channels)
    errors = []
    for quality in (95, 20):
        write_image(tmp_path / f"a{extension}", pixels, quality=quality)
        again = read_image(tmp_path / f"a{extension}")
        assert (again.format, again.pixels.shape) == ("jpeg", pixels.shape)
        errors.append((again.pixels.float() - pixels.float()).abs().mean().item())
    assert errors[0] < 1.5
    assert errors[1] > 2 * errors[0]


def test_jpeg_keeps_the_resolution_of_colour(tmp_path):
    pixels = torch.zeros(3, 16, 16, dtype=torch.uint8)
    pixels[0, :, ::2] = 200
    pixels[2, :, 1::2] = 200
    write_image(tmp_path / "a.jpg", pixels, quality=98)
    assert (read_image(tmp_path / "a.jpg").pixels.float() - pixels.float()).abs().mean() < 4


@pytest.mark.parametrize("channels", [1, 3])
def test_hdr_round_trip(tmp_path, channels):
    pixels = image(torch.float32, channels)
    write_image(tmp_path / "a.hdr", pixels)
    again = read_image(tmp_path / "a.hdr").pixels
    assert again.shape == (3, 13, 17)
    error = (again - pixels).abs() / pixels.amax(0).clamp(min=1e-3)
    assert error.max() <= 1 / 128


def test_strided_tensors(tmp_path):
    pixels = image(torch.uint16, 3).flip(0)[:, 1::2, 2:].transpose(1, 2)
    assert not pixels.is_contiguous()
    write_image(tmp_path / "a.png", pixels)
    assert torch.equal(read_image(tmp_path / "a.png").pixels, pixels.contiguous())


@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg", ".exr"])
@pytest.mark.parametrize(
    "exposure",
    [EXPOSURE, Exposure(time=30.0, f_number=22.0, iso=102400), Exposure(time=1 / 8000), Exposure(iso=50)],
)
def test_exposure_round_trip(tmp_path, extension, exposure):
    write_image(tmp_path / f"a{extension}", pixels_for(extension), exposure=exposure)
    assert read_image(tmp_path / f"a{extension}").exposure == exposure


@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg", ".exr"])
def test_odd_exposure_times(tmp_path, extension):
    for time in (4.1e-05, 0.00064599, 0.3, 1 / 3, 0.76923076, 1.3, 1e3):
        write_image(tmp_path / f"a{extension}", pixels_for(extension), exposure=Exposure(time=time))
        assert read_image(tmp_path / f"a{extension}").exposure.time == pytest.approx(time, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif"])
def test_usual_exposure_times_are_exact(tmp_path, extension):
    for time in (30.0, 8.0, 2.0, 0.5, 1 / 3, 1 / 10, 1 / 25, 1 / 60, 1 / 100, 1 / 125, 1 / 1000, 1 / 4000, 1 / 8000):
        write_image(tmp_path / f"a{extension}", pixels_for(extension), exposure=Exposure(time=time))
        assert read_image(tmp_path / f"a{extension}").exposure.time == pytest.approx(time, rel=1e-6), f"1/{1 / time}"


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize(("iso", "stored"), [(0.3, 1), (100.4, 100), (2.0**33, 2**31 - 1)])
def test_sensitivities_that_no_field_holds(tmp_path, extension, iso, stored):
    write_image(tmp_path / f"a{extension}", pixels_for(extension), exposure=Exposure(iso=iso))
    assert read_image(tmp_path / f"a{extension}").exposure.iso == pytest.approx(stored, rel=1e-6)


def test_hdr_holds_no_exposure(tmp_path):
    write_image(tmp_path / "a.hdr", pixels_for(".hdr"), exposure=EXPOSURE)
    assert read_image(tmp_path / "a.hdr").exposure == Exposure()


def test_what_a_format_cannot_hold(tmp_path):
    refused(tmp_path / "a.jpg", image(torch.uint16), "16-bit", ".png")
    for extension in (".png", ".tif", ".jpg"):
        refused(tmp_path / f"a{extension}", image(torch.float32), "float32", "to_codes", ".exr")
        refused(tmp_path / f"a{extension}", image(torch.float16), "float16", "to_codes", ".exr")
    for extension in (".exr", ".hdr"):
        refused(tmp_path / f"a{extension}", image(torch.uint8), "uint8", "linear", ".png")
        refused(tmp_path / f"a{extension}", image(torch.float32) * float("nan"), "NaN")
        refused(tmp_path / f"a{extension}", image(torch.float32).double(), "float64")
        refused(tmp_path / f"a{extension}", image(torch.float16) * float("inf"), "NaN")
    refused(tmp_path / "a.hdr", image(torch.float32) - 1, "negative", ".exr")
    refused(tmp_path / "a.png", image(torch.uint8).to(torch.int16), "int16")
    for shape in ((13, 17), (2, 13, 17), (4, 13, 17), (3, 0, 17), (1, 3, 13, 17)):
        refused(tmp_path / "a.png", torch.zeros(shape, dtype=torch.uint8), "(C, H, W)", str(shape))
    for quality in (0, 101):
        refused(tmp_path / "a.jpg", image(torch.uint8), "quality", str(quality), quality=quality)
    refused(tmp_path / "a.jpg", torch.zeros(1, 1, 70_000, dtype=torch.uint8), "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_extension(tmp_path):
    for name in ("a.bmp", "a", "a.png.txt", ".png"):
        for call in (lambda path: write_image(path, image(torch.uint8)), check_writable):
            with pytest.raises(InputError, match=r"\.png \.tif \.tiff \.jpg \.jpeg \.exr \.hdr"):
                call(tmp_path / name)


@pytest.mark.parametrize("call", [lambda path: write_image(path, image(torch.uint8)), check_writable])
def test_places_that_cannot_be_written(tmp_path, call):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, words in (
        ("none/a.png", "No such file"),
        ("file/a.png", "no folder|Not a directory"),
        ("folder.png", "folder"),
        ("pipe.png", "no regular file"),
        ("x" * 300 + ".png", "File name too long"),
        ("a\0.png", "null character"),
    ):
        with pytest.raises(InputError, match=words):
            call(f"{tmp_path}/{name}")
    with pytest.raises(InputError, match="/proc"):
        call("/proc/a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png", "pipe.png"]


def test_check_writable_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.png").write_text("old")
    check_writable(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "old"


# ---- whole or not at all --------------------------------------------------------------------------


def _full_disk(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def _interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg", ".exr", ".hdr"])
@pytest.mark.parametrize(
    ("place", "name"), [(writing.os, "replace"), (writing.os, "fsync"), (writing.shutil, "copyfileobj")]
)
def test_failure_leaves_the_old_file(tmp_path, monkeypatch, extension, place, name):
    path = tmp_path / f"a{extension}"
    path.write_text("old")
    monkeypatch.setattr(place, name, _full_disk)
    refused(path, pixels_for(extension), "No space left", path.name)
    monkeypatch.setattr(place, name, _interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_image(path, pixels_for(extension))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg", ".exr", ".hdr"])
def test_full_device_leaves_the_old_file(tmp_path, monkeypatch, extension):
    path = tmp_path / f"a{extension}"
    path.write_text("old")

    def on_full_device(name, *args, **kwargs):
        return open("/dev/full" if str(name).endswith(".tmp") else name, *args, **kwargs)

    monkeypatch.setattr(writing, "open", on_full_device, raising=False)
    refused(path, pixels_for(extension), "No space left", path.name)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


@pytest.mark.parametrize("extension", [".jpg", ".exr"])
def test_limit_of_file_sizes_leaves_the_old_file(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    path.write_text("old")
    code = (
        "import resource, sys, torch; from hdrops.io import InputError, write_image\n"
        "noise = torch.rand(3, 100, 100, generator=torch.Generator().manual_seed(0))\n"
        "pixels = noise if sys.argv[1][-3:] in ('exr', 'hdr') else (noise * 255).to(torch.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_image(sys.argv[1], pixels)\nexcept InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {path}: ")
    assert "ulimit -f" in done.stdout
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_failing_encoder_leaves_the_old_file(tmp_path, monkeypatch):
    import OpenImageIO as oiio

    (tmp_path / "a.png").write_text("old")
    monkeypatch.setattr(oiio.ImageOutput, "write_image", lambda *args: False)
    refused(tmp_path / "a.png", image(torch.uint8), "a.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "old"


def test_file_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(writing.os, name, lambda *args, name=name, call=call: (events.append(name), call(*args))[1])
    write_image(tmp_path / "a.png", image(torch.uint8))
    assert events == ["fsync", "replace"]


def test_overwrites(tmp_path):
    write_image(tmp_path / "a.png", image(torch.uint8))
    write_image(tmp_path / "a.png", image(torch.uint8, 1))
    assert torch.equal(read_image(tmp_path / "a.png").pixels, image(torch.uint8, 1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_image(tmp_path / "a.png", image(torch.uint8))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o666 & ~umask


def test_links_are_followed(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "a.png").symlink_to(tmp_path / "store" / "real.dat")
    write_image(tmp_path / "a.png", image(torch.uint8))
    assert (tmp_path / "a.png").is_symlink()
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["real.dat"]
    assert torch.equal(read_image(tmp_path / "a.png").pixels, image(torch.uint8))


# ---- codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "dtype"), [(8, torch.uint8), (16, torch.uint16)])
@pytest.mark.parametrize("source", [torch.float32, torch.float64])
def test_codes_round_trip(bits, dtype, source):
    codes = torch.arange(2**bits, dtype=torch.int32)
    quantised = to_codes(codes.to(source).reshape(1, 16, -1) / (2**bits - 1), bits)
    assert quantised.dtype == dtype
    assert torch.equal(quantised.flatten().to(torch.int32), codes)


def test_codes_round_half_to_even():
    halves = torch.tensor([0.5, 1.5, 2.5, 3.5], dtype=torch.float64) / 255
    assert (halves * 255).tolist() == [0.5, 1.5, 2.5, 3.5]
    assert to_codes(halves).tolist() == [0, 2, 2, 4]


def test_codes_leave_the_image_alone():
    image = torch.rand(3, 4, 4, dtype=torch.float64)
    before = image.clone()
    to_codes(image)
    assert torch.equal(image, before)


def test_codes_refuse_what_is_no_image():
    for value in (1.01, -0.01, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            to_codes(torch.tensor([0.5, value]))
    with pytest.raises(InputError, match="uint8"):
        to_codes(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(InputError, match="bits=12"):
        to_codes(torch.zeros(3), 12)
    assert to_codes(torch.zeros(0)).shape == (0,)


# ---- other files --------------------------------------------------------------------------------------------------


def test_encoded_image_is_the_file(tmp_path):
    for extension in (".png", ".jpg", ".exr"):
        write_image(tmp_path / f"a{extension}", pixels_for(extension), quality=70)
        assert writing.encode_image(pixels_for(extension), extension, 70) == (tmp_path / f"a{extension}").read_bytes()
    with pytest.raises(InputError, match="unknown extension"):
        writing.encode_image(pixels_for(".png"), ".gif")


def test_any_file_is_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    writing.write_file(path, b"old")

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writing.os, "fsync", full)
        with pytest.raises(InputError, match="No space left"):
            writing.write_file(path, b"new")
    assert [(file, file.read_bytes()) for file in tmp_path.iterdir()] == [(path, b"old")]
    writing.write_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_places_of_other_files_are_checked(tmp_path):
    writing.check_place(tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []
    for path in (tmp_path, tmp_path / "none" / "a.csv", tmp_path / "a\0.csv"):
        with pytest.raises(InputError):
            writing.check_place(path)
