"""Moving scenes in the layouts of Kalantari and of the NTIRE challenge, written for tests."""

import numpy as np
import torch
from image_files import smooth

from hdrops.io import write_image

STOPS = (-2.0, 0.0, 3.0)
SIZE = 64, 80


def light(seed=1):
    """Light of a scene from 0.02 to 3, where 1 saturates the exposure 2^0; no two places are alike."""
    waves = torch.from_numpy(smooth(*SIZE, 4, 1, seed)).permute(2, 0, 1)
    grain = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed))
    return 0.02 * 150.0 ** (0.8 * waves[:1] + 0.1 * waves[1:] + 0.1 * grain)


def code(radiance, gamma, levels):
    dtype = torch.uint8 if levels == 255 else torch.uint16
    return radiance.clamp(0, 1).pow(1 / gamma).mul(levels).round().to(dtype)


def kalantari(folder, *, stops=STOPS, levels=65535, unit=1.0, light_name="HDRImg.hdr", names=("1", "2", "3"), seed=1):
    """A scene in Kalantari's layout, whose HDR file is ``unit`` times the light at 2^0."""
    folder.mkdir(parents=True)
    radiance = light(seed)
    for name, stop in zip(names, stops, strict=True):
        write_image(folder / f"{name}.tif", code(radiance * 2.0**stop, 2.2, levels))
    (folder / "exposure.txt").write_text("".join(f"{stop:.6f}\n" for stop in stops))
    if light_name:
        write_image(folder / light_name, radiance * unit)
    return radiance


def ntire(place, *, flat=False, stops=(-3, -1, 1), ratio=6000.0, seed=1):
    """A scene in the layout of the challenge; light 1 saturates the medium image."""
    radiance = light(seed)
    if flat:
        place.parent.mkdir(parents=True, exist_ok=True)
    else:
        place.mkdir(parents=True)
    images = ("short.png", "medium.png", "long.png") if flat else ("0.png", "1.png", "2.png")

    def path(name):
        return place.with_name(f"{place.name}_{name}") if flat else place / name

    for name, stop in zip(images, stops, strict=True):
        write_image(path(name), code(radiance * 2.0 ** (stop - stops[1]), 2.24, 255))
    write_image(path("gt.png"), (radiance.pow(1 / 2.24) * ratio).round().to(torch.uint16))
    np.save(path("exposures.npy"), np.array(stops))
    np.save(path("alignratio.npy"), np.float64(ratio))
    return radiance
