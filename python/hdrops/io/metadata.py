"""What a photograph's file says beside its pixels, and its translation from and to OpenImageIO's attributes."""

from __future__ import annotations

import datetime
import math
import os
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hdrops.io import _stderr
from hdrops.io.errors import InputError
from hdrops.io.exposure import Exposure

_ISO_SPEED = 3  # EXIF SensitivityType: the value is the ISO speed
_MOST_ISO = 2**31 - 1  # OpenImageIO takes no larger integer
_ICC_HEADER = 128  # bytes
_ICC_COLOURS = {1: b"GRAY", 3: b"RGB "}
_TEXTS = {
    "make": "Make",
    "model": "Model",
    "lens_make": "Exif:LensMake",
    "lens_model": "Exif:LensModel",
    "artist": "Artist",
    "copyright": "Copyright",
}
_LONGEST_TEXT = 1000


@dataclass(frozen=True)
class Location:
    """Where a photograph was taken (WGS 84).

    Attributes:
        latitude: degrees north, -90 to 90.
        longitude: degrees east, -180 to 180.
        altitude: metres above the sea, or None.

    Raises:
        InputError: a value outside its range.
    """

    latitude: float
    longitude: float
    altitude: float | None = None

    def __post_init__(self) -> None:
        if not (-90 <= self.latitude <= 90 and -180 <= self.longitude <= 180):
            raise InputError(
                f"a location has a latitude in [-90, 90] and a longitude in [-180, 180], "
                f"got {self.latitude}, {self.longitude}; give degrees"
            )
        if self.altitude is not None and not math.isfinite(self.altitude):
            raise InputError(f"altitude must be finite, got {self.altitude}; leave it out if it is unknown")


@dataclass(frozen=True)
class Metadata:
    """Where the pixels come from, as far as the file says; the exposure has a class of its own.

    Attributes:
        icc_profile: the colour profile that the codes refer to, as stored, or None (mostly sRGB).
        make: of the camera.
        model: of the camera.
        lens_make: of the lens.
        lens_model: of the lens.
        artist: as the camera or a program has stored it.
        copyright: as the camera or a program has stored it.
        taken_at: the moment of the exposure by the camera's clock; with a time zone where the file states it.
        focal_length: in millimetres, positive.
        exposure_bias: exposure compensation in EV.
        location: where it was taken.
    """

    icc_profile: bytes | None = field(default=None, repr=False)
    make: str | None = None
    model: str | None = None
    lens_make: str | None = None
    lens_model: str | None = None
    artist: str | None = None
    copyright: str | None = None
    taken_at: datetime.datetime | None = None
    focal_length: float | None = None
    exposure_bias: float | None = None
    location: Location | None = None


# ---- from a file ----------------------------------------------------------------------------------


def exposure_of(spec: Any) -> Exposure:
    """The exposure that an OpenImageIO specification states."""
    time = _positive(spec, "ExposureTime")
    if time is not None and time < 1:
        fraction = 1 / round(1 / time)  # 1/30 is stored as 0.0333333, by some even as 0.033333
        time = fraction if abs(fraction - time) < 2e-5 * time else time
    iso = _positive(spec, "Exif:PhotographicSensitivity")
    if iso is None or iso >= 65535:  # by EXIF 2.3, 65535 there means that the value needs more bits
        wider = ("Exif:ISOSpeed", "Exif:RecommendedExposureIndex", "Exif:StandardOutputSensitivity")
        iso = next((value for value in (_positive(spec, name) for name in wider) if value is not None), iso)
    return Exposure(time=time, f_number=_positive(spec, "FNumber"), iso=iso)


def metadata_of(spec: Any) -> Metadata:
    """The metadata that an OpenImageIO specification states; what is malformed counts as absent."""
    return Metadata(
        icc_profile=icc_profile(spec.getattribute("ICCProfile"), spec.nchannels),
        **{name: _text(spec, attribute) for name, attribute in _TEXTS.items()},
        taken_at=_taken_at(spec),
        focal_length=_positive(spec, "Exif:FocalLength"),
        exposure_bias=_finite(spec, "Exif:ExposureBiasValue"),
        location=_location(spec),
    )


def icc_profile(stored: Any, channels: int) -> bytes | None:
    """A profile of grey or RGB, as the channels (with or without alpha) ask; None for anything else."""
    if stored is None:
        return None
    profile = stored if isinstance(stored, bytes) else np.asarray(stored, dtype=np.uint8).tobytes()
    whole = len(profile) >= _ICC_HEADER and struct.unpack(">I", profile[:4])[0] == len(profile)
    fits = profile[16:20] == _ICC_COLOURS[1 if channels < 3 else 3] and profile[36:40] == b"acsp"
    return profile if whole and fits else None


def read_exif(block: bytes) -> Any:
    """The OpenImageIO specification of an EXIF block; it reads them in image files only, so it is given one."""
    import OpenImageIO as oiio

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixel = chunk(b"IDAT", zlib.compress(bytes(4)))
    with open(os.memfd_create("exif"), "wb") as stream:
        stream.write(b"\x89PNG\r\n\x1a\n" + header + chunk(b"eXIf", block) + pixel + chunk(b"IEND", b""))
        stream.flush()
        with _stderr.without_library_messages():
            source = oiio.ImageInput.open(f"/proc/self/fd/{stream.fileno()}")
        if source is None:
            oiio.geterror()
            return oiio.ImageSpec()
        spec = source.spec()
        source.close()
    return spec


def _finite(spec: Any, attribute: str) -> float | None:
    value = np.float32(spec.get_float_attribute(attribute, math.nan))
    # The shortest decimal that rounds to the same float32: 5.6, not 5.599999904632568.
    return float(str(value)) if np.isfinite(value) else None


def _positive(spec: Any, attribute: str) -> float | None:
    value = _finite(spec, attribute)
    return value if value is not None and value > 0 else None


def _text(spec: Any, attribute: str) -> str | None:
    try:
        stored = str(spec.get_string_attribute(attribute)).encode(errors="surrogateescape")
    except UnicodeDecodeError:
        return None
    try:
        text = stored.decode()
    except UnicodeDecodeError:  # EXIF is ASCII by the standard, but many programs write Latin-1
        text = stored.decode("latin-1")
    text = " ".join(text.replace("\0", " ").split())
    return text if text and text.isprintable() and len(text) <= _LONGEST_TEXT else None


def _taken_at(spec: Any) -> datetime.datetime | None:
    text = _text(spec, "Exif:DateTimeOriginal")
    if text is None:
        return None
    fraction, offset = _text(spec, "Exif:SubsecTimeOriginal"), _text(spec, "Exif:OffsetTimeOriginal")
    try:
        moment = datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
        if fraction is not None and fraction.isascii() and fraction.isdigit():
            moment = moment.replace(microsecond=int(f"{fraction:0<6.6}"))
        if offset is not None:
            moment = moment.replace(tzinfo=datetime.datetime.strptime(offset, "%z").tzinfo)
    except ValueError:  # cameras without a set clock write zeros or blanks
        return None
    return moment


def _location(spec: Any) -> Location | None:
    def degrees(attribute: str, negative: str) -> float:
        parts = spec.getattribute(attribute)
        if not isinstance(parts, tuple) or len(parts) != 3:
            return math.nan
        size = float(parts[0]) + float(parts[1]) / 60 + float(parts[2]) / 3600
        return -size if (_text(spec, f"{attribute}Ref") or "").upper() == negative else size

    altitude = _finite(spec, "GPS:Altitude")
    if altitude is not None and spec.get_int_attribute("GPS:AltitudeRef", 0) == 1:
        altitude = -altitude
    try:
        return Location(degrees("GPS:Latitude", "S"), degrees("GPS:Longitude", "W"), altitude)
    except InputError:
        return None


# ---- into a file ----------------------------------------------------------------------------------


def describe_exposure(spec: Any, exposure: Exposure, format: str) -> None:
    """Put an exposure into an OpenImageIO specification."""
    if exposure.time is not None:
        time = float(exposure.time)
        if format in ("png", "jpeg") and time < 1:
            # The writers cut to whole microseconds, which would make 9999 of the 10000 that float32 falls short of.
            time = (max(round(time * 1e6), 1) + 0.25) / 1e6
        spec.attribute("ExposureTime", time)
    if exposure.f_number is not None:
        spec.attribute("FNumber", float(exposure.f_number))
    if exposure.iso is not None:
        iso = min(max(round(exposure.iso), 1), _MOST_ISO)
        # OpenImageIO's TIFF writer loses the first of these; the first is also limited to 16 bits.
        spec.attribute("Exif:PhotographicSensitivity", min(iso, 65535))
        spec.attribute("Exif:ISOSpeed", iso)
        spec.attribute("Exif:SensitivityType", _ISO_SPEED)


def describe_metadata(spec: Any, metadata: Metadata, format: str) -> None:
    """Put metadata into an OpenImageIO specification; a colour profile only where it fits the channels."""
    profile = icc_profile(metadata.icc_profile, spec.nchannels)
    if profile is not None:
        spec.attribute("ICCProfile", f"uint8[{len(profile)}]", np.frombuffer(profile, dtype=np.uint8))
    for name, attribute in _TEXTS.items():
        text = getattr(metadata, name)
        if text is not None:
            spec.attribute(attribute, text)
    if metadata.taken_at is not None:
        moment = metadata.taken_at
        spec.attribute("Exif:DateTimeOriginal", moment.strftime("%Y:%m:%d %H:%M:%S"))
        if moment.microsecond:
            spec.attribute("Exif:SubsecTimeOriginal", f"{moment.microsecond:06}".rstrip("0"))
        offset = moment.strftime("%z")
        if offset:
            spec.attribute("Exif:OffsetTimeOriginal", f"{offset[:3]}:{offset[3:5]}")
    if metadata.focal_length is not None:
        spec.attribute("Exif:FocalLength", float(metadata.focal_length))
    if metadata.exposure_bias is not None:
        spec.attribute("Exif:ExposureBiasValue", float(metadata.exposure_bias))
    if metadata.location is not None:
        _describe_location(spec, metadata.location, format)


def _describe_location(spec: Any, location: Location, format: str) -> None:
    for attribute, value, (positive, negative) in (
        ("GPS:Latitude", location.latitude, "NS"),
        ("GPS:Longitude", location.longitude, "EW"),
    ):
        minutes, seconds = divmod(round(abs(value) * 3600, 4), 60)
        degrees, minutes = divmod(minutes, 60)
        spec.attribute(attribute, "float[3]", (degrees, minutes, seconds))
        spec.attribute(f"{attribute}Ref", negative if value < 0 else positive)
    if location.altitude is not None and (location.altitude >= 0 or format != "tiff"):  # the writer loses the sign
        spec.attribute("GPS:Altitude", float(abs(location.altitude)))
        spec.attribute("GPS:AltitudeRef", int(location.altitude < 0))
