"""Bursts in the layout of the HDR+ dataset, of DNG files made by hand, written for tests."""

import numpy as np
import raw_files
import torch
import torch.nn.functional as F

from hdrops.io import write_image

BLACK, WHITE = 64, 1023
NOISE = 2e-4, 1e-6
SIZE = 120, 160
RESULTS = "results_20171023"


def scene(size=SIZE, seed=0):
    """Light (3, H, W) with detail of some pixels, 0.01 to 0.7."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.rand(1, 3, size[0] // 4 + 1, size[1] // 4 + 1, generator=generator)
    grey = torch.rand(1, 1, size[0] // 5 + 1, size[1] // 5 + 1, generator=generator)
    detail = [F.interpolate(x, size, mode="bicubic")[0].clamp(0, 1) for x in (grid, grey)]
    return 0.01 * 70.0 ** (0.2 * detail[0] + 0.8 * detail[1])


def mosaic(light, pattern):
    """Light (H, W) behind a Bayer filter."""
    seen = torch.empty(light.shape[1:])
    for k, colour in enumerate(pattern):
        seen[k // 2 :: 2, k % 2 :: 2] = light["RGB".index(colour), k // 2 :: 2, k % 2 :: 2]
    return seen


def write_dng(path, light, pattern, **options):
    codes = (BLACK + light * (WHITE - BLACK)).round().clamp(0, 65535).numpy().astype(np.uint16)
    arguments = {"pattern": pattern, "black": (BLACK,) * 4, "white": WHITE, "noise": NOISE} | options
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw_files.dng(codes, **arguments))


def finished(light):
    """What the camera makes of light: brighter, another contrast and colour."""
    return (light * torch.tensor([1.6, 1.0, 1.3])[:, None, None] * 1.4).clamp(0, 1).pow(1 / 2.4).mul(255).round().byte()


def write_picture(root, name, picture):
    path = root / RESULTS / name / "final.jpg"
    write_image(path.with_suffix(".png"), picture.contiguous())
    path.with_suffix(".png").rename(path)


def burst(root, name="0006", *, pattern="RGGB", size=SIZE, frames=3, reference=1, seed=0, orientation=1, **options):
    """A burst whose frames are shifted by two pixels from one to the next; the light of the reference frame."""
    whole = scene((size[0] + 2 * frames, size[1] + 2 * frames), seed)
    views = [whole[:, 2 * k : 2 * k + size[0], 2 * k : 2 * k + size[1]] for k in range(frames)]
    for k, view in enumerate(views):
        path = root / "bursts" / name / f"payload_N{k:03d}.dng"
        write_dng(path, mosaic(view, pattern), pattern, orientation=orientation, **options)
    result = root / RESULTS / name
    write_dng(result / "merged.dng", mosaic(views[reference], pattern), pattern, noise=None)
    (result / "reference_frame.txt").write_text(f"{reference}\n")
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    write_picture(root, name, finished(views[reference]).rot90(turns, (1, 2)))
    return views[reference]
