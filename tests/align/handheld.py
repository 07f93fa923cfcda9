"""Brackets of a rendered scene whose camera moved between the exposures, and how far an alignment is off."""

import functools
import math

import cv2
import numpy as np
import torch

from hdrops.align.geometry import apply, corners, translation
from hdrops.data import expose, render_scene

HEIGHT, WIDTH = 401, 603
MARGIN = 64


@functools.cache
def radiance():
    """(H, W, 3) with a margin on all sides, for the camera to move into."""
    return render_scene(HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN).permute(1, 2, 0).contiguous().numpy()


def shaken(seed, *, perspective=True, largest=1.0):
    """A transform from a moved frame to the reference: of up to 1.2°, 1 % in scale, 18 pixels, by ``largest``."""
    random = np.random.default_rng(seed)
    draw = functools.partial(random.uniform, -largest, largest)
    angle, scale = math.radians(1.2) * draw(), 1 + 0.01 * draw()
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    places = corners(HEIGHT, WIDTH)
    middle = places.mean(0)
    moved = (places - middle) @ turn.T + middle + 18 * np.array([draw(), draw()])
    if perspective:
        moved = moved + np.array([[draw(), draw()] for _ in range(4)]) * 3
        return cv2.getPerspectiveTransform(places.astype(np.float32), moved.astype(np.float32))
    return np.vstack([np.column_stack([turn, moved.mean(0) - turn @ middle]), [0, 0, 1]])


def seen(transform):
    """The scene's radiance (3, H, W) in a moved frame, which ``transform`` takes to the reference."""
    source = translation(MARGIN, MARGIN) @ transform
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpPerspective(radiance(), source, (WIDTH, HEIGHT), flags=flags)
    return torch.from_numpy(view).permute(2, 0, 1).contiguous()


def bracket(transforms, stops, *, bits=8, seed=0, **camera):
    """Photographs (K, 3, H, W) of the moved camera, so many stops above 1/256 s, with noise."""
    frames = [
        expose(seen(transform), 2.0 ** (stop - 8), bits=bits, seed=seed + k, **camera)
        for k, (transform, stop) in enumerate(zip(transforms, stops, strict=True))
    ]
    return torch.stack(frames)


def corner_error(found, truth, height=HEIGHT, width=WIDTH):
    """The distance in pixels by which the worst corner is misplaced."""
    places = corners(height, width)
    return float(np.hypot(*(apply(np.asarray(found), places) - apply(truth, places)).T).max())
