"""Photographs of made-up scenes, in memory and in files."""

import datetime
import functools
import pathlib

import image_files
import numpy as np
import torch

from hdrops.io import Exposure, Frame
from hdrops.io.brightness import measure_tones, scene_likeness

__all__ = ["CLOCK", "frame", "measure_tones", "picture", "scene_likeness", "tones", "write"]

CLOCK = 1_600_000_000.0  # a full second


@functools.cache
def picture(scene, stops=0.0):
    """(3, 60, 80) sRGB codes of a scene of six stops, exposed by so many stops."""
    light = 2.0 ** np.random.default_rng(scene).uniform(-6, 0, (3, 15, 20)).astype(np.float32)
    light = np.clip(np.kron(light, np.ones((4, 4), np.float32)) * 2.0**stops, 0, 1)
    codes = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return torch.from_numpy(np.round(codes * 255).astype(np.uint8))


@functools.cache
def tones(scene, stops=0.0):
    return measure_tones(picture(scene, stops))


def frame(name, scene=0, stops=0.0, *, time=None, at=None, **options):
    """Facts of ``folder/name``: a scene exposed by some stops, the exposure time that its file states, and when."""
    facts = {
        "path": pathlib.Path("folder") / name,
        "exposure": Exposure(time),
        "captured": None if at is None else CLOCK + at,
        "format": "jpeg",
        "shape": (3, 60, 80),
        "tones": tones(scene, stops),
    }
    return Frame(**facts | options)


def write(path, scene=0, stops=0.0, *, time=None, at=None, pixels=None, **attributes):
    """The same as a file, of other pixels (C, H, W) if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if time is not None:
        attributes["ExposureTime"] = float(time)
    if at is not None:
        moment = datetime.datetime.fromtimestamp(CLOCK + at, datetime.UTC)
        attributes["Exif__DateTimeOriginal"] = moment.strftime("%Y:%m:%d %H:%M:%S")
        attributes["Exif__SubsecTimeOriginal"] = f"{moment.microsecond // 10_000:02d}"
    pixels = picture(scene, stops) if pixels is None else pixels
    image_files.write(path, pixels.permute(1, 2, 0).numpy(), **attributes)
    return path
