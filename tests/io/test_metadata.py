import datetime
import struct
from dataclasses import replace

import image_files
import numpy as np
import pytest
import torch

from hdrops.io import InputError, Location, Metadata, read_bracket, read_image, write_image

ZONE = datetime.timezone(datetime.timedelta(hours=-3, minutes=-30))
FULL = Metadata(
    icc_profile=image_files.icc_profile(b"RGB "),
    make="Maker",
    model="Camera 1",
    lens_make="Lensmaker",
    lens_model="24-70mm f/2.8",
    artist="Zoë",
    copyright="© 2024 Zoë",
    taken_at=datetime.datetime(2024, 5, 6, 7, 8, 9, 250_000, ZONE),
    focal_length=35.5,
    exposure_bias=-1.5,
    location=Location(-33.8567844, 151.2152967, 12.5),
)


def pixels_for(extension, channels=3):
    dtype = torch.float32 if extension in (".exr", ".hdr") else torch.uint8
    return torch.full((channels, 6, 8), 1, dtype=dtype)


def round_trip(folder, extension, metadata, channels=3):
    path = folder / f"a{extension}"
    write_image(path, pixels_for(extension, channels), metadata=metadata)
    return read_image(path).metadata


def assert_same(found, expected):
    near = found.location is not None and expected.location is not None
    if near:
        for name in ("latitude", "longitude"):
            assert getattr(found.location, name) == pytest.approx(getattr(expected.location, name), abs=1e-6)
        assert found.location.altitude == expected.location.altitude
        found = replace(found, location=expected.location)
    assert found == expected


@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg"])
def test_all_of_it_is_kept(tmp_path, extension):
    assert_same(round_trip(tmp_path, extension, FULL), FULL)


def test_exr_keeps_all_but_the_profile(tmp_path):
    assert_same(round_trip(tmp_path, ".exr", FULL), replace(FULL, icc_profile=None))


def test_hdr_keeps_nothing(tmp_path):
    assert round_trip(tmp_path, ".hdr", FULL) == Metadata()


@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg", ".exr"])
def test_nothing_is_made_up(tmp_path, extension):
    assert round_trip(tmp_path, extension, None) == Metadata()
    assert round_trip(tmp_path, extension, Metadata()) == Metadata()


@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg"])
def test_profile_of_grey(tmp_path, capfd, extension):
    grey = Metadata(icc_profile=image_files.icc_profile(b"GRAY"))
    assert round_trip(tmp_path, extension, grey, channels=1) == grey
    # A profile of other colours than those of the pixels would make the file unreadable for some.
    assert round_trip(tmp_path, extension, grey, channels=3) == Metadata()
    assert round_trip(tmp_path, extension, FULL, channels=1).icc_profile is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("profile", [b"", b"short", bytes(300), image_files.icc_profile(b"RGB ") + b"more"])
def test_malformed_profile_is_left_out(tmp_path, profile):
    assert round_trip(tmp_path, ".tif", Metadata(icc_profile=profile)) == Metadata()


def test_large_profile(tmp_path):
    profile = Metadata(icc_profile=image_files.icc_profile(b"RGB ", 200_000))
    for extension in (".jpg", ".tif", ".png"):
        assert round_trip(tmp_path, extension, profile) == profile


@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg", ".exr"])
def test_moments(tmp_path, extension):
    for moment in (
        datetime.datetime(1999, 12, 31, 23, 59, 59),
        datetime.datetime(2024, 2, 29, 0, 0, 0, 1000),
        datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
    ):
        assert round_trip(tmp_path, extension, Metadata(taken_at=moment)).taken_at == moment


@pytest.mark.parametrize("extension", [".png", ".jpg", ".exr", ".tif"])
def test_places(tmp_path, extension):
    for place in (Location(0, 0), Location(59.9999999999, -179.99999999), Location(-90, 180, 8848.5)):
        assert_same(round_trip(tmp_path, extension, Metadata(location=place)), Metadata(location=place))
    deep = round_trip(tmp_path, extension, Metadata(location=Location(1, 2, -400))).location
    assert deep.altitude == (None if extension == ".tif" else -400)
    assert (deep.latitude, deep.longitude) == (1, 2)


def test_wrong_places():
    for latitude, longitude in ((91, 0), (0, 181), (float("nan"), 0)):
        with pytest.raises(InputError, match="latitude"):
            Location(latitude, longitude)
    with pytest.raises(InputError, match="altitude"):
        Location(0, 0, float("inf"))


def test_malformed_exif_counts_as_absent(tmp_path):
    image_files.write(
        tmp_path / "a.exr",
        np.zeros((4, 4, 3), np.float32),
        Make="a\x01b",
        Model="",
        Copyright="x" * 5000,
        Exif__DateTimeOriginal="0000:00:00 00:00:00",
        Exif__FocalLength=-3.0,
        Exif__ExposureBiasValue=float("nan"),
        GPS__Latitude=5.0,
    )
    assert read_image(tmp_path / "a.exr").metadata == Metadata()


def test_turned_pixels_are_written_upright(tmp_path):
    pixels = image_files.smooth(6, 10, 3, 255).astype(np.uint8)
    image_files.write(tmp_path / "a.jpg", pixels, Orientation=6, Make="Maker")
    photograph = read_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.png", photograph.pixels, metadata=photograph.metadata)
    again = read_image(tmp_path / "b.png")
    assert again.pixels.shape == (3, 10, 6)
    assert torch.equal(again.pixels, photograph.pixels)
    assert again.metadata.make == "Maker"


def test_bracket_has_that_of_its_frames(tmp_path):
    metadata = [replace(FULL, model=f"Camera {k}", exposure_bias=float(k)) for k in range(4)]
    for k in range(4):
        write_image(tmp_path / f"{k}.png", pixels_for(".png") * (10 * k + 10), metadata=metadata[k])
    bracket = read_bracket([tmp_path / f"{k}.png" for k in (3, 1, 0, 2)])
    assert [m.model for m in bracket.metadata] == [f"Camera {k}" for k in range(4)]
    assert_same(bracket.middle_metadata, replace(metadata[1], exposure_bias=None))
    assert_same(read_bracket([tmp_path / "2.png"]).middle_metadata, metadata[2])


def test_profile_with_a_size_that_is_not_its_own(tmp_path):
    profile = bytearray(image_files.icc_profile(b"RGB "))
    profile[:4] = struct.pack(">I", len(profile) + 4)
    image_files.write(tmp_path / "a.jpg", np.zeros((8, 8, 3), np.uint8), ICCProfile=bytes(profile))
    assert read_image(tmp_path / "a.jpg").metadata == Metadata()


def test_text_in_latin_1(tmp_path):
    image_files.write(tmp_path / "a.jpg", np.zeros((8, 8, 3), np.uint8), Make="M~ker", Copyright="~ 2024")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content.replace(b"M~ker", b"M\xe4ker").replace(b"~ 2024", b"\xa9 2024"))
    metadata = read_image(tmp_path / "a.jpg").metadata
    assert (metadata.make, metadata.copyright) == ("Mäker", "© 2024")
    write_image(tmp_path / "b.jpg", pixels_for(".jpg"), metadata=metadata)
    assert read_image(tmp_path / "b.jpg").metadata == metadata
