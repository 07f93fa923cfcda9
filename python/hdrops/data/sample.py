"""A synthetic bracket: a room at sunset, rendered in linear radiance and photographed by a simulated camera.

The room is lit by the sky through a large window (area light, soft shadows), by the sun itself (a streak
across the floor), by a lamp and by the light that its walls exchange (radiosity). Radiance spans some 28
stops with the sun's disc and 17 without it, with fine texture at both ends.

Lengths are metres: x to the right, y up, z into the picture.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

# ---- the scene ---------------------------------------------------------------------------------------------

_ROOM_LOW, _ROOM_HIGH = (-2.2, 0.0, -1.0), (2.2, 2.9, 6.4)
_WINDOW_LOW, _WINDOW_HIGH = (-1.65, 0.12), (1.45, 2.5)  # x, y of the opening in the far wall
_PANES = (4, 3)
_FRAME_DEPTH, _FRAME_WIDTH = 0.16, 0.045
_EYE, _TARGET, _VIEW_HEIGHT = (0.10, 1.22, -0.45), (0.0, 1.26, 6.4), 0.80  # height of the view at distance 1

_SUN_DIRECTION = (-0.86, 0.86, 6.8)
_SUN_RADIUS = 0.0095  # radians
_SUN_IRRADIANCE = (330.0, 165.0, 62.0)
_LAMP = (1.78, 1.52, 5.45)
_LAMP_COLOUR = (1.0, 0.60, 0.26)

_FLOOR, _CEILING, _LEFT, _RIGHT, _BACK, _FRONT = range(6)  # the walls, in the order of their light maps
_FRAME, _WOOD, _BOOKS, _PAINTING, _CURTAIN, _SHADE, _METAL, _TEAL, _CLAY, _POUF, _PAGES, _OUTSIDE = range(6, 18)


@dataclasses.dataclass(frozen=True)
class _Box:
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    material: int


@dataclasses.dataclass(frozen=True)
class _Round:
    """A sphere (``height`` 0, ``centre`` its middle) or an upright capped cylinder (``centre`` its foot)."""

    centre: tuple[float, float, float]
    radius: float
    height: float
    material: int


_BOXES = (
    _Box((-2.2, 0.0, 3.0), (-1.88, 2.15, 5.75), _BOOKS),
    _Box((0.62, 0.69, 3.15), (1.72, 0.74, 4.05), _WOOD),
    *(_Box((x, 0.0, z), (x + 0.06, 0.69, z + 0.06), _WOOD) for x in (0.66, 1.62) for z in (3.19, 3.95)),
    _Box((0.72, 0.16, 3.25), (1.62, 0.19, 3.95), _WOOD),
    _Box((0.82, 0.74, 3.35), (1.14, 0.785, 3.58), _PAGES),
    _Box((0.84, 0.785, 3.36), (1.11, 0.82, 3.57), _CLAY),
    *(_Box((-2.2, 2.70, z), (2.2, 2.9, z + 0.17), _WOOD) for z in (1.6, 3.3, 5.0)),
    _Box((2.15, 1.08, 3.75), (2.2, 2.06, 5.0), _PAINTING),
    _Box((-2.08, 2.58, 6.24), (1.88, 2.61, 6.27), _METAL),
)
_ROUNDS = (
    _Round((1.42, 0.90, 3.62), 0.16, 0.0, _TEAL),
    _Round((1.10, 0.74, 3.84), 0.075, 0.34, _CLAY),
    _Round((-0.95, 0.27, 3.75), 0.30, 0.0, _POUF),
    _Round((_LAMP[0], 0.0, _LAMP[2]), 0.015, 1.42, _METAL),
    _Round((_LAMP[0], 0.0, _LAMP[2]), 0.15, 0.025, _METAL),
    _Round((_LAMP[0], 1.40, _LAMP[2]), 0.20, 0.27, _SHADE),
)


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(-1, 1)


def _smoothstep(low: float | Tensor, high: float | Tensor, x: Tensor) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _mix(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return a + (b - a) * t


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(0)


def _unit(a: Tensor) -> Tensor:
    return a / _dot(a, a).sqrt()


class _Noise:
    """Value noise over the plane, of period 256, in [0, 1]."""

    def __init__(self, seed: int) -> None:
        self.table = torch.rand(256 * 256, generator=torch.Generator().manual_seed(seed))

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:
        iu, iv = u.floor(), v.floor()
        fu, fv = u - iu, v - iv
        fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
        ju, jv = iu.long(), iv.long()
        u0, u1 = ju & 255, (ju + 1) & 255
        v0, v1 = (jv & 255) << 8, ((jv + 1) & 255) << 8
        low = torch.lerp(self.table[v0 + u0], self.table[v0 + u1], fu)
        return torch.lerp(low, torch.lerp(self.table[v1 + u0], self.table[v1 + u1], fu), fv)

    def cell(self, u: Tensor, v: Tensor) -> Tensor:
        """One value per integer cell."""
        return self.table[((v.floor().long() & 255) << 8) + (u.floor().long() & 255)]

    def octaves(self, u: Tensor, v: Tensor, count: int) -> Tensor:
        total, weight = torch.zeros_like(u), 0.0
        for k in range(count):
            total += self(u * 2.03**k + 17.3 * k, v * 2.03**k + 5.7 * k) * 0.5**k
            weight += 0.5**k
        return total / weight


# ---- light -------------------------------------------------------------------------------------------------


def _sun() -> Tensor:
    return _unit(_column(_SUN_DIRECTION))


def _plain_sky(direction: Tensor) -> Tensor:
    """Radiance (3, n) of the clear sky; below the horizon that of a dim landscape."""
    up = direction[1]
    high = up.clamp(min=0)
    toward = _dot(direction, _sun()).clamp(min=0)
    horizon = _mix(_column((34.0, 19.0, 14.0)), _column((110.0, 58.0, 20.0)), toward**6)
    zenith = _column((9.0, 17.0, 40.0))
    colour = _mix(zenith, horizon, torch.exp(-high / 0.085))
    colour = (
        colour + _column((420.0, 190.0, 48.0)) * toward.pow(220) + _column((900.0, 480.0, 150.0)) * toward.pow(1500)
    )
    return torch.where(up < 0, _column((5.0, 3.6, 2.6)) * (1 + 4 * toward**8), colour)


def _landscape(direction: Tensor, noise: _Noise) -> Tensor:
    """Radiance (3, n) of what is seen through the window: sky, clouds, sun, hills and a lake."""
    x, y, z = direction
    slope, azimuth = y / z, x / z
    toward = _dot(direction, _sun())
    radiance = _plain_sky(torch.stack([x, y.abs().clamp(min=1e-3), z]))
    # Clouds lie on a plane overhead; their thin parts glow toward the sun.
    height = slope.clamp(min=0.02) + 0.06
    u, v = azimuth / height * 1.15, 1.6 / height
    billow = noise.octaves(u + 0.8 * noise(u * 0.7, v * 0.7), v * 1.5, 6)
    cover = _smoothstep(0.46, 0.66, billow) * _smoothstep(0.0, 0.10, slope)
    lining = _column((230.0, 92.0, 40.0)) * toward.clamp(min=0) ** 30 + _column((34.0, 17.0, 19.0))
    body = _mix(lining, _column((9.0, 8.0, 13.0)), _smoothstep(0.56, 0.80, billow))
    radiance = _mix(radiance, body, 0.9 * cover)
    angle = toward.clamp(max=1).acos()
    area = math.pi * _SUN_RADIUS**2
    disc = _smoothstep(_SUN_RADIUS * 1.08, _SUN_RADIUS * 0.92, angle) * (1 - 0.5 * cover)
    radiance = radiance + _column(_SUN_IRRADIANCE) / area * disc
    # Four ranges of hills, hazier with distance.
    glow = toward.clamp(min=0) ** 24
    for layer, (base, size, frequency) in enumerate(((0.060, 0.075, 3.0), (0.036, 0.060, 4.5), (0.018, 0.040, 7.0))):
        line = azimuth * frequency + 31.7 * layer + 3.1
        ridge = base + size * (noise.octaves(line, torch.full_like(line, 9.5 * layer), 6) - 0.5)
        haze = _mix(_column((11.0, 9.5, 15.0)), _column((120.0, 52.0, 18.0)), glow)
        rock = noise.octaves(azimuth * 90, slope * 160 + 40 * layer, 4)
        land = haze * (0.75 - 0.24 * layer) + _column((2.4, 2.3, 1.5)) * rock * (1 + layer)
        radiance = _mix(radiance, land, _smoothstep(-0.0012, 0.0012, ridge - slope))
    # The lake mirrors the sky; ripples tilt it, most near the shore where it is seen at a grazing angle.
    below = (-slope).clamp(min=2e-3)
    ripple = noise.octaves(azimuth / below * 6, 9 / below, 3) - 0.5
    mirror = _unit(torch.stack([x + 0.02 * ripple, (below + 0.16 * ripple.abs() * below**0.35), z]))
    glitter = _smoothstep(0.60, 0.74, noise.octaves(azimuth / below * 14, 26 / below, 2))
    path = torch.exp(-(((azimuth - _SUN_DIRECTION[0] / _SUN_DIRECTION[2]) / (0.018 + 0.10 * below)) ** 2))
    water = 0.42 * _plain_sky(mirror) * (0.75 + 0.5 * ripple) + _column((2600.0, 1150.0, 330.0)) * path * glitter * 0.35
    radiance = _mix(radiance, water, _smoothstep(0.0006, -0.0006, slope))
    # The near shore: grass against the light.
    blades = noise.octaves(azimuth * 60, torch.zeros_like(azimuth), 5) * 0.02 + 0.03 * noise(azimuth * 7, slope * 0 + 3)
    shore = -0.115 + blades + 0.03 * azimuth
    grass = noise.octaves(azimuth * 130, slope * 60, 4)
    ground = _column((1.5, 1.6, 0.5)) * (0.3 + 1.5 * grass**2) + _column((9.0, 4.0, 1.0)) * glow * grass
    return _mix(radiance, ground, _smoothstep(-0.0015, 0.0015, shore - slope))


def _window(x: Tensor, y: Tensor, blur: Tensor | float) -> Tensor:
    """Share of the light that the window lets through at (x, y); ``blur`` is the width of its soft edges."""
    result = torch.ones_like(x)
    for value, low, high, panes in zip((x, y), _WINDOW_LOW, _WINDOW_HIGH, _PANES, strict=True):
        pane = (high - low) / panes
        inside = (value - low).clamp(0, high - low)
        bar = (inside / pane - (inside / pane).round()).abs() * pane  # distance to the nearest bar's middle
        glass = ((bar - _FRAME_WIDTH / 2) / blur + 0.5).clamp(0, 1)
        edge = torch.minimum(value - low, high - value)
        result = result * glass * (edge / blur + 0.5).clamp(0, 1)
    return result


def _hits_box(point: Tensor, direction: Tensor, box: _Box, reach: Tensor | float) -> Tensor:
    """Whether the segment from ``point`` over ``reach`` times ``direction`` meets the box."""
    low, high = _bounds(point, direction, box.low, box.high)
    near, far = low.amax(0), high.amin(0)
    return (near < far) & (far > 2e-3) & (near < reach) & (near > 1e-3)


def _bounds(point: Tensor, direction: Tensor, low: tuple[float, ...], high: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    shape = (-1, *(1,) * (point.dim() - 1))
    a = (torch.tensor(low).view(shape) - point) / direction
    b = (torch.tensor(high).view(shape) - point) / direction
    return torch.minimum(a, b), torch.maximum(a, b)


def _hits_round(point: Tensor, direction: Tensor, item: _Round) -> Tensor:
    """Distance to the sphere or cylinder along unit ``direction``; infinite where it is missed."""
    offset = point - torch.tensor(item.centre).view(-1, *(1,) * (point.dim() - 1))
    axes = [0, 1, 2] if item.height == 0 else [0, 2]
    a = (direction[axes] ** 2).sum(0)
    b = (offset[axes] * direction[axes]).sum(0)
    root = (b * b - a * ((offset[axes] ** 2).sum(0) - item.radius**2)).sqrt()  # NaN where it is missed
    t = (-b - root) / a
    if item.height == 0:
        return torch.where(t > 1e-3, t, math.inf)
    y = offset[1] + t * direction[1]
    side = torch.where((t > 1e-3) & (y > 0) & (y < item.height), t, math.inf)
    if item.material == _SHADE:  # open at both ends: its inside is seen from above and below
        return side
    cap = (item.height - offset[1]) / direction[1]
    within = ((offset[axes] + cap * direction[axes]) ** 2).sum(0) < item.radius**2
    return torch.minimum(side, torch.where(within & (cap > 1e-3), cap, math.inf))


def _shadowed(point: Tensor, direction: Tensor, reach: Tensor | float) -> Tensor:
    """Whether furniture stands between ``point`` (3, ...) and ``reach`` along ``direction`` (3, ...)."""
    blocked = torch.zeros_like((point * direction)[0], dtype=torch.bool)
    for box in _BOXES[:-2]:
        blocked |= _hits_box(point, direction, box, reach)
    for item in _ROUNDS[:3]:
        blocked |= _hits_round(point, direction, item) < reach
    return blocked


def _lamp_light(point: Tensor, normal: Tensor) -> Tensor:
    """Irradiance (3, n) from the lamp: through the open ends of the shade, and dimly through its fabric."""
    way = torch.tensor(_LAMP).view(-1, *(1,) * (point.dim() - 1)) - point
    square = _dot(way, way) + 0.01
    way = way / square.sqrt()
    cone = 0.10 + _smoothstep(0.45, 0.72, way[1].abs())
    return torch.tensor(_LAMP_COLOUR).view(-1, *(1,) * (point.dim() - 1)) * (
        7.0 * cone * _dot(way, normal).clamp(min=0) / square
    )


def _sun_light(point: Tensor, normal: Tensor, direction: Tensor) -> Tensor:
    """Irradiance (3, n) from the sun through the window; ``direction`` is a point of its disc."""
    cosine = _dot(normal, direction).clamp(min=0)
    reach = (_ROOM_HIGH[2] + _FRAME_DEPTH - point[2]) / direction[2]
    through = _window(
        point[0] + reach * direction[0],
        point[1] + reach * direction[1],
        2 * _SUN_RADIUS * reach.clamp(min=0.3),
    )
    share = through * cosine
    lit = (share > 0).nonzero()[:, 0]
    if lit.numel():
        part = direction[:, lit] if direction.shape[1] > 1 else direction
        share[lit] *= (~_shadowed(point[:, lit], part, reach[lit])).float()
    return _column(_SUN_IRRADIANCE) * share


def _sky_light(point: Tensor, normal: Tensor, samples: int, shadows: bool) -> Tensor:
    """Irradiance (3, n) from the sky through the window, over samples x samples points of it."""
    steps = (torch.arange(samples) + 0.5) / samples
    width, height = (h - low for low, h in zip(_WINDOW_LOW, _WINDOW_HIGH, strict=True))
    ys, xs = torch.meshgrid(_WINDOW_LOW[1] + height * steps, _WINDOW_LOW[0] + width * steps, indexing="ij")
    total = torch.zeros_like(point)
    for x, y in zip(xs.flatten().tolist(), ys.flatten().tolist(), strict=True):
        way = _column((x, y, _ROOM_HIGH[2] + 0.02)) - point
        square = _dot(way, way)
        reach = square.sqrt()
        way = way / reach
        form = _dot(way, normal).clamp(min=0) * way[2].clamp(min=0) / (square + width * height / samples**2 / math.pi)
        if shadows:
            form = form * ~_shadowed(point, way, reach)
        total += _plain_sky(way).clamp(max=300) * form
    return total * (width * height / samples**2 * 0.85)


@dataclasses.dataclass(frozen=True)
class _LightMaps:
    walls: list[Tensor]  # irradiance without the sun, (1, 3, v, u) for each wall
    ambient: Tensor  # (6, 3): mean indirect irradiance from each wall's side


_WALL_ALBEDO = (
    (0.36, 0.22, 0.13),
    (0.66, 0.62, 0.54),
    (0.17, 0.30, 0.33),
    (0.52, 0.26, 0.17),
    (0.20, 0.34, 0.36),
    (0.45, 0.40, 0.34),
)
_WALL_AXES = ((1, 0, 2), (1, 0, 2), (0, 2, 1), (0, 2, 1), (2, 0, 1), (2, 0, 1))  # normal, u, v


def _wall_points(wall: int, count: int) -> tuple[Tensor, Tensor]:
    """A grid of points (3, count * count) on a wall, v-major, and its normal (3, 1)."""
    axis, u_axis, v_axis = _WALL_AXES[wall]
    steps = (torch.arange(count) + 0.5) / count
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    point = torch.empty(3, count * count)
    for values, at in ((u, u_axis), (v, v_axis)):
        point[at] = _ROOM_LOW[at] + (_ROOM_HIGH[at] - _ROOM_LOW[at]) * values.flatten()
    at_high = wall in (_CEILING, _RIGHT, _BACK)
    point[axis] = _ROOM_HIGH[axis] if at_high else _ROOM_LOW[axis]
    normal = torch.zeros(3, 1)
    normal[axis] = -1.0 if at_high else 1.0
    return point, normal


@functools.cache
@torch.no_grad()
def _light_maps() -> _LightMaps:
    """Direct light with soft shadows, and the light that the walls throw at each other."""
    coarse = 14
    points, normals, areas, albedos, direct = [], [], [], [], []
    for wall in range(6):
        point, normal = _wall_points(wall, coarse)
        normal = normal.expand_as(point)
        _, u_axis, v_axis = _WALL_AXES[wall]
        size = (_ROOM_HIGH[u_axis] - _ROOM_LOW[u_axis]) * (_ROOM_HIGH[v_axis] - _ROOM_LOW[v_axis])
        light = _sky_light(point, normal, 5, False) + _lamp_light(point, normal) + _sun_light(point, normal, _sun())
        albedo = _column(_WALL_ALBEDO[wall]).expand_as(point)
        if wall == _BACK:  # the window gives nothing back
            albedo = albedo * (1 - _window(point[0], point[1], 0.02))
        points.append(point)
        normals.append(normal)
        areas.append(torch.full((coarse * coarse,), size / coarse**2))
        albedos.append(albedo)
        direct.append(light)
    point, normal, area = torch.cat(points, 1), torch.cat(normals, 1), torch.cat(areas)
    way = point[:, None, :] - point[:, :, None]
    square = _dot(way, way)
    cosines = (way * normal[:, :, None]).sum(0).clamp(min=0) * (-way * normal[:, None, :]).sum(0).clamp(min=0)
    form = cosines * area / (square * (math.pi * square + area) + 1e-9)
    emitted = torch.cat(direct, 1)
    albedo = torch.cat(albedos, 1)
    indirect = torch.zeros_like(emitted)
    for _ in range(4):
        indirect = (albedo * (emitted + indirect)) @ form.T
    maps = []
    for wall in range(6):
        fine = 96 if wall == _FLOOR else 40
        at, facing = _wall_points(wall, fine)
        facing = facing.expand_as(at)
        light = _sky_light(at, facing, 7, True)
        way = _column(_LAMP) - at
        reach = _dot(way, way).sqrt()
        light += _lamp_light(at, facing) * ~_shadowed(at, way / reach, reach)
        part = indirect[:, wall * coarse**2 : (wall + 1) * coarse**2].view(1, 3, coarse, coarse)
        maps.append(light.view(1, 3, fine, fine) + F.interpolate(part, size=(fine, fine), mode="bicubic").clamp(min=0))
    ambient = torch.stack([indirect[:, w * coarse**2 : (w + 1) * coarse**2].mean(1) for w in (2, 3, 0, 1, 5, 4)])
    return _LightMaps(maps, ambient)


# ---- surfaces ----------------------------------------------------------------------------------------------


def _boards(u: Tensor, v: Tensor, noise: _Noise) -> tuple[Tensor, Tensor]:
    """Floor boards that run along v: albedo (3, n) and the darkness of the joints (n)."""
    width, length = 0.14, 1.3
    row = (u / width).floor()
    shift = noise.cell(row, torch.full_like(row, 7.0)) * length
    column = ((v + shift) / length).floor()
    tone = noise.cell(row, column)
    grain = noise.octaves(u * 60 + 40 * tone, v * 2.2 + 30 * tone, 4)
    rings = 0.5 + 0.5 * torch.sin(40 * (u + 0.10 * noise.octaves(u * 9 + 9 * tone, v * 0.9, 3)) + 20 * tone)
    wood = _mix(_column((0.20, 0.105, 0.052)), _column((0.52, 0.32, 0.17)), 0.5 * grain + 0.2 * rings + 0.3 * tone)
    across = (u / width - row) * width
    along = ((v + shift) / length - column) * length
    edge = torch.minimum(torch.minimum(across, width - across), torch.minimum(along, length - along))
    return wood, 1 - 0.75 * _smoothstep(0.004, 0.0015, edge)


def _rug(x: Tensor, z: Tensor, noise: _Noise) -> tuple[Tensor, Tensor]:
    """A woven rug: albedo (3, n) and where it lies (n)."""
    u, v = (x + 0.35) / 1.15, (z - 3.45) / 1.45  # [-1, 1] inside
    inside = _smoothstep(1.004, 0.996, torch.maximum(u.abs(), v.abs()))
    border = torch.maximum(u.abs(), v.abs())
    diamonds = ((u * 5).abs() % 2 - 1).abs() + ((v * 5).abs() % 2 - 1).abs()
    red, navy, cream = _column((0.42, 0.075, 0.05)), _column((0.05, 0.075, 0.17)), _column((0.62, 0.53, 0.38))
    colour = _mix(red, navy, _smoothstep(0.95, 1.0, diamonds))
    colour = _mix(colour, cream, _smoothstep(0.10, 0.06, (diamonds - 0.98).abs()))
    colour = _mix(colour, cream, _smoothstep(0.012, 0.008, (border - 0.86).abs()))
    colour = _mix(colour, navy, _smoothstep(0.87, 0.875, border))
    colour = _mix(colour, red * 1.2, _smoothstep(0.03, 0.025, (border - 0.94).abs()))
    weave = 0.55 + 0.9 * noise.octaves(x * 240, z * 120, 2) * (0.8 + 0.2 * torch.sin(z * 900))
    return colour * weave, inside


def _books(y: Tensor, z: Tensor, noise: _Noise) -> Tensor:
    """The front of the bookcase: shelves with books, whose gaps are dark."""
    shelf = (y / 0.358).floor()
    level = y - shelf * 0.358
    slot = 0.045
    index = (z / slot + 0.35 * shelf).floor()
    within = z / slot + 0.35 * shelf - index
    tone, tall = noise.cell(index, shelf), noise.cell(index + 91, shelf + 40)
    hue = 2 * math.pi * noise.cell(index + 33, shelf + 77)
    paint = torch.stack(
        [0.5 + 0.5 * torch.cos(hue), 0.42 + 0.34 * torch.cos(hue - 1.9), 0.4 + 0.36 * torch.cos(hue - 3.6)]
    )
    cover = paint * (0.10 + 0.45 * tone**1.5)
    spine = (4 * within * (1 - within)).clamp(min=0) ** 0.5  # a rounded back
    height = 0.19 + 0.11 * tall
    bands = _smoothstep(0.008, 0.004, ((level - 0.03) / height * 3 % 1 - 0.5).abs() * height / 3)
    cover = _mix(cover, _column((0.60, 0.46, 0.18)), bands * (tone > 0.45) * 0.8)
    gone = noise.cell((index / 5).floor() + 11, shelf + 3) > 0.86  # a few gaps between groups of books
    book = (level - 0.03 < height) & (level > 0.03) & ~gone
    shade = 0.25 + 0.75 * _smoothstep(0.35, 0.06, level - 0.03)
    inner = _column((0.020, 0.014, 0.010)) * shade
    front = torch.where(book, cover * (0.12 + 0.88 * spine) * shade.clamp(min=0.6), inner)
    plank = _mix(_column((0.12, 0.07, 0.04)), _column((0.20, 0.12, 0.07)), noise.octaves(y * 90, z * 3, 3))
    return torch.where((level < 0.028) | (z < 3.04) | (z > 5.71) | (y > 2.12), plank, front)


def _painting(y: Tensor, z: Tensor, noise: _Noise) -> Tensor:
    """A framed seascape."""
    u, v = (z - 3.75) / 1.25, (y - 1.08) / 0.98
    border = torch.minimum(torch.minimum(u, 1 - u) * 1.25, torch.minimum(v, 1 - v) * 0.98)
    brush = noise.octaves(u * 14, v * 60, 4)
    sky = _mix(
        _column((0.75, 0.50, 0.26)),
        _column((0.16, 0.34, 0.52)),
        (1.7 * (v - 0.5) + 0.5 * (brush - 0.5)).clamp(0, 1),
    )
    sea = _mix(_column((0.03, 0.11, 0.17)), _column((0.20, 0.42, 0.44)), (2.2 * v * brush).clamp(0, 1))
    picture = torch.where(v + 0.02 * (brush - 0.5) > 0.42, sky, sea)
    sail = ((u - 0.58).abs() < (0.66 - v) * 0.35) & (v > 0.40) & (v < 0.66)
    picture = torch.where(sail, _column((0.80, 0.74, 0.62)) * (0.7 + 0.5 * brush), picture)
    mat = torch.where(border < 0.15, _column((0.70, 0.67, 0.60)), picture)
    gold = _column((0.42, 0.27, 0.09)) * (0.5 + noise.octaves(u * 80, v * 60, 3)) * (0.6 + 8 * border.clamp(0, 0.06))
    return torch.where(border < 0.06, gold, mat)


def _wall_texture(u: Tensor, height: Tensor, colour: tuple[float, ...], noise: _Noise) -> Tensor:
    """Limewash: soft clouds and fine grain, with a skirting board."""
    wash = (
        0.72 + 0.42 * noise.octaves(u * 1.7 + 4, height * 1.7, 5) + 0.14 * (noise.octaves(u * 70, height * 70, 3) - 0.5)
    )
    skirting = _column((0.50, 0.47, 0.42)) * (0.75 + 0.25 * _smoothstep(0.0, 0.01, (height - 0.1).abs()))
    return torch.where(height < 0.12, skirting, _column(colour) * wash)


def _albedo(material: int, point: Tensor, normal: Tensor, noise: _Noise) -> Tensor:
    x, y, z = point
    if material == _CEILING:
        return _column(_WALL_ALBEDO[_CEILING]) * (0.88 + 0.2 * noise.octaves(x * 3, z * 3, 5))
    if material in (_LEFT, _RIGHT):
        return _wall_texture(z, y, _WALL_ALBEDO[material], noise)
    if material in (_BACK, _FRONT):
        return _wall_texture(x, y, _WALL_ALBEDO[material], noise)
    if material == _FRAME:
        return _column((0.62, 0.60, 0.55)).expand_as(point)
    if material == _WOOD:  # the grain runs along the legs of the table, and along x elsewhere
        leg = (y < 0.69) & ((y - 0.175).abs() > 0.016)
        across, along = torch.where(leg, x, y) + z, torch.where(leg, y, x)
        grain = noise.octaves(across * 70, along * 4, 4)
        return _mix(_column((0.10, 0.055, 0.030)), _column((0.30, 0.17, 0.09)), grain)
    if material == _BOOKS:
        side = _column((0.15, 0.09, 0.05)) * (0.6 + 0.8 * noise.octaves(x * 40, y * 3 + z, 3))
        return torch.where(normal[0] > 0.5, _books(y, z, noise), side)
    if material == _PAINTING:
        return torch.where(normal[0] < -0.5, _painting(y, z, noise), _column((0.20, 0.13, 0.05)))
    if material == _METAL:
        return _column((0.30, 0.22, 0.12)).expand_as(point)
    if material == _TEAL:
        glaze = noise.octaves(x * 30, y * 30 + z * 30, 4)
        return _mix(_column((0.02, 0.22, 0.26)), _column((0.08, 0.42, 0.40)), glaze)
    if material == _CLAY:
        return _column((0.50, 0.17, 0.08)) * (0.75 + 0.3 * noise.octaves(x * 8, y * 160, 3))
    if material == _POUF:
        angle = torch.atan2(z - 3.75, x + 0.95)
        knit = 0.5 + 0.5 * torch.sin(angle * 40) * torch.sin((y - 0.27).clamp(-0.3, 0.3).div(0.3).asin() * 26)
        return _column((0.60, 0.40, 0.10)) * (0.45 + 0.65 * knit)
    return _column((0.62, 0.56, 0.44)) * (0.7 + 0.4 * noise(x * 3, y * 400))  # pages


def _curtain(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Folds of the curtains beside the window: where they hang (n) and the phase of their folds (n)."""
    bend = 0.02 * torch.sin(y * 2.1)
    left = (x + bend > -2.12) & (x + bend < -1.52)
    right = (x - bend > 1.32) & (x - bend < 1.86)
    return (left | right) & (y < 2.6) & (y > 0.02), x * (2 * math.pi / 0.105) + 0.7 * torch.sin(y * 1.3)


# ---- rendering ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Hits:
    distance: Tensor  # (n,)
    normal: Tensor  # (3, n)
    material: Tensor  # (n,)

    def update(self, where: Tensor, distance: Tensor, normal: Tensor, material: int) -> None:
        self.distance = torch.where(where, distance, self.distance)
        self.normal = torch.where(where, normal, self.normal)
        self.material = torch.where(where, material, self.material)


@dataclasses.dataclass(frozen=True)
class _View:
    eye: Tensor
    right: Tensor
    up: Tensor
    forward: Tensor

    def rows(self, item: _Box | _Round) -> tuple[float, float]:
        """The lowest and highest slope at which the item can be seen; all furniture is before the eye."""
        if isinstance(item, _Box):
            low, high = item.low, item.high
        else:
            x, y, z = item.centre
            foot, top = (0.0, item.height) if item.height else (-item.radius, item.radius)
            low = (x - item.radius, y + foot, z - item.radius)
            high = (x + item.radius, y + top, z + item.radius)
        corners = torch.tensor(list(itertools.product(*zip(low, high, strict=True)))).T - self.eye
        slopes = _dot(corners, self.up) / _dot(corners, self.forward)
        return float(slopes.min()), float(slopes.max())


def _trace(eye: Tensor, direction: Tensor, furniture: list[_Box | _Round]) -> _Hits:
    """The first surface along each unit direction (3, n)."""
    high = _bounds(eye, direction, _ROOM_LOW, _ROOM_HIGH)[1]
    distance, axis = high.min(0)
    toward = torch.gather(direction, 0, axis[None])[0] > 0
    normal = F.one_hot(axis, 3).T * torch.where(toward, -1.0, 1.0)
    walls = torch.tensor([[_LEFT, _RIGHT], [_FLOOR, _CEILING], [_FRONT, _BACK]])
    hits = _Hits(distance, normal, walls[axis, toward.long()])
    point = eye + direction * distance
    # The opening of the window, its reveals, and the frame at its outer end.
    opening = (hits.material == _BACK) & _inside(point[0], point[1])
    low = (*_WINDOW_LOW, _ROOM_HIGH[2])
    far = (*_WINDOW_HIGH, _ROOM_HIGH[2] + _FRAME_DEPTH)
    exits = _bounds(eye, direction, low, far)[1]
    distance, axis = exits.min(0)
    toward = torch.gather(direction, 0, axis[None])[0] > 0
    normal = F.one_hot(axis, 3).T * torch.where(toward, -1.0, 1.0)
    hits.update(opening, distance, normal, _FRAME)
    point = eye + direction * distance
    hits.material = torch.where(
        opening & (axis == 2) & (_window(point[0], point[1], 1e-4) > 0.5), _OUTSIDE, hits.material
    )
    reach = (6.22 - eye[2]) / direction[2]
    at = eye + direction * reach
    hangs, fold = _curtain(at[0], at[1])
    slope = 0.9 * torch.cos(fold)
    cloth = _unit(torch.stack([slope, torch.zeros_like(slope), -torch.ones_like(slope)]))
    hits.update(hangs & (reach > 0) & (reach < hits.distance), reach, cloth, _CURTAIN)
    for item in furniture:
        if isinstance(item, _Box):
            near, far_ = _bounds(eye, direction, item.low, item.high)
            enter, axis = near.max(0)
            where = (enter < far_.amin(0)) & (enter > 1e-3) & (enter < hits.distance)
            if where.any():
                sign = -torch.gather(direction, 0, axis[None])[0].sign()
                hits.update(where, enter, F.one_hot(axis, 3).T * sign, item.material)
            continue
        enter = _hits_round(eye, direction, item)
        where = enter < hits.distance
        if where.any():
            offset = torch.where(where, eye + direction * enter, 0.0) - _column(item.centre)
            if item.height:
                top = (offset[1] > item.height - 1e-3) & (item.material != _SHADE)
                offset = torch.where(top, _column((0.0, 1.0, 0.0)), offset * _column((1.0, 0.0, 1.0)))
            hits.update(where, enter, _unit(offset), item.material)
    return hits


def _inside(x: Tensor, y: Tensor) -> Tensor:
    return (x > _WINDOW_LOW[0]) & (x < _WINDOW_HIGH[0]) & (y > _WINDOW_LOW[1]) & (y < _WINDOW_HIGH[1])


def _shade(
    material: int,
    point: Tensor,
    normal: Tensor,
    direction: Tensor,
    sun: Tensor,
    maps: _LightMaps,
    noise: _Noise,
) -> Tensor:
    """Radiance (3, n) that leaves the points toward the eye."""
    if material == _OUTSIDE:
        return _landscape(direction, noise)
    if material == _SHADE:
        up = (point[1] - 1.40) / 0.27
        weave = 0.85 + 0.3 * noise(point[0] * 300 + point[2] * 300, point[1] * 300)
        glow = torch.exp(-(((up - 0.45) / 0.38) ** 2)) * (0.35 + 0.65 * (-_dot(direction, normal)).clamp(min=0))
        return _column((9.5, 5.2, 1.9)) * (0.15 + glow) * weave
    if material < 6:
        _, u_axis, v_axis = _WALL_AXES[material]
        at = [2 * (point[a] - _ROOM_LOW[a]) / (_ROOM_HIGH[a] - _ROOM_LOW[a]) - 1 for a in (u_axis, v_axis)]
        grid = torch.stack(at, -1)[None, None]
        light = F.grid_sample(maps.walls[material], grid, padding_mode="border", align_corners=False)[0, :, 0]
    else:
        squares = normal**2
        sides = [
            torch.where(normal[a] > 0, maps.ambient[2 * a, :, None], maps.ambient[2 * a + 1, :, None]) for a in range(3)
        ]
        light = sum((s * q for s, q in zip(sides, squares, strict=True)), torch.zeros_like(point))
        light = light * (0.35 + 0.65 * _smoothstep(0.0, 0.5, point[1]))
        light = light + _sky_light(point, normal, 3, False) + _lamp_light(point, normal)
        if material == _CURTAIN:  # daylight through the cloth
            light = light + _column((3.2, 1.9, 1.2)) * (1 + 1.2 * _smoothstep(0.0, -1.0, normal[0] * point[0].sign()))
    if material == _FLOOR:
        albedo, joint = _boards(point[0], point[2], noise)
        rug, on_rug = _rug(point[0], point[2], noise)
        albedo = _mix(albedo * joint, rug, on_rug)
    elif material == _CURTAIN:
        thread = 0.9 + 0.2 * noise(point[0] * 500, point[1] * 500)
        fold = 0.45 + 0.55 * normal[2].abs() ** 2
        albedo = _column((0.55, 0.50, 0.42)) * thread * fold
    else:
        albedo = _albedo(material, point, normal, noise)
    light = light + _sun_light(point + 1e-3 * normal, normal, sun)
    radiance = albedo / math.pi * light
    if material in (_FLOOR, _TEAL):
        radiance = radiance + _gloss(material, point, normal, direction, noise)
    return radiance


def _gloss(material: int, point: Tensor, normal: Tensor, direction: Tensor, noise: _Noise) -> Tensor:
    """Reflection of the window in varnish: Schlick's Fresnel term, blurred with distance."""
    cosine = (-_dot(direction, normal)).clamp(0, 1)
    fresnel = 0.035 + 0.965 * (1 - cosine) ** 5
    mirror = direction + 2 * cosine * normal
    if material == _FLOOR:
        fresnel = fresnel * (1 - _rug(point[0], point[2], noise)[1])
        wave = noise.octaves(point[0] * 30, point[2] * 3, 3) - 0.5
        mirror = mirror + torch.stack([0.012 * wave, 0.02 * wave, torch.zeros_like(wave)])
        fresnel = fresnel * (0.5 + 0.6 * noise.octaves(point[0] * 50, point[2] * 2, 2))
    reach = (_ROOM_HIGH[2] + _FRAME_DEPTH - point[2]) / mirror[2].clamp(min=1e-3)
    spread = 0.01 if material == _TEAL else 0.05
    through = _window(point[0] + reach * mirror[0], point[1] + reach * mirror[1], spread * reach.clamp(min=0.3))
    through = torch.where(mirror[2] > 0, through, 0.0)
    return _plain_sky(_unit(mirror)).clamp(max=400) * (0.8 * fresnel * through)


def _bloom(radiance: Tensor) -> Tensor:
    """Scatter of the lens: a little of every bright pixel, spread over three widths."""
    height, width = radiance.shape[-2:]
    result = radiance.clone()
    for fraction, weight in ((1 / 400, 0.03), (1 / 90, 0.010), (1 / 24, 0.0018)):
        # A wide spread is computed on a smaller image.
        factor = max(1, math.floor(fraction * height / 2))
        small = -(-height // factor), -(-width // factor)
        bright = F.interpolate(radiance.clamp(max=4000.0)[None], small, mode="area")
        sigma = max(fraction * height / factor, 0.3)
        radius = math.ceil(3 * sigma)
        line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
        line = (line / line.sum()).expand(3, 1, 1, -1)
        # Beyond the frame there is the wall: zero padding, no energy from outside.
        spread = F.conv2d(bright, line, padding=(0, radius), groups=3)
        spread = F.conv2d(spread, line.mT.reshape(3, 1, -1, 1), padding=(radius, 0), groups=3)
        spread = F.interpolate(spread, (height, width), mode="bilinear", align_corners=False)
        result = result * (1 - weight) + weight * spread[0]
    return result


@torch.no_grad()
def render_scene(height: int, width: int, seed: int = 0) -> Tensor:
    """Render the room.

    Args:
        height, width: of the picture; composed for an aspect ratio of 3 : 2, other ratios crop or widen it.
        seed: of the textures: clouds, hills, wood, books. The geometry stays.

    Returns:
        Linear radiance, (3, height, width), float32, >= 0; the same values for the same arguments.

    Raises:
        ValueError: a height or width below 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} x {width}")
    noise = _Noise(seed)
    eye = _column(_EYE)
    forward = _unit(_column(_TARGET) - eye)
    right = _unit(torch.linalg.cross(_column((0.0, 1.0, 0.0)), forward, dim=0))
    view = _View(eye, right, torch.linalg.cross(forward, right, dim=0), forward)
    band = max(1, 32_000 // (4 * width))  # rows: small enough to stay in the cache
    starts = range(0, height, band)
    # Threads over bands, not within operators: those are short.
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            maps = pool.submit(_light_maps).result()
            render = functools.partial(_render_band, height, width, view=view, maps=maps, noise=noise)
            parts = list(pool.map(render, starts, [min(height, start + band) for start in starts]))
    finally:
        torch.set_num_threads(threads)
    return _bloom(torch.cat(parts, 1))


@torch.no_grad()
def _render_band(
    height: int, width: int, start: int, stop: int, *, view: _View, maps: _LightMaps, noise: _Noise
) -> Tensor:
    """Rows start to stop, (3, stop - start, width): two samples a pixel each way, and a tent filter."""
    pitch = _VIEW_HEIGHT / (2 * height)
    columns = (torch.arange(2 * width + 2) - width - 0.5) * pitch
    rows = (height + 0.5 - torch.arange(2 * start, 2 * stop + 2)) * pitch
    v, u = (t.flatten() for t in torch.meshgrid(rows, columns, indexing="ij"))
    direction = _unit(view.forward + view.right * u + view.up * v)
    # Each sample of a pixel sees another point of the sun's disc: soft edges for shadows.
    i, j = torch.meshgrid(torch.arange(len(rows)) % 2, torch.arange(len(columns)) % 2, indexing="ij")
    angle = (2 * i + (i + j) % 2).flatten() * (math.pi / 2) + 0.4
    sun, around = _sun(), _unit(torch.linalg.cross(_sun(), _column((0.0, 1.0, 0.0)), dim=0))
    suns = sun + 0.7 * _SUN_RADIUS * (around * angle.cos() + torch.linalg.cross(around, sun, dim=0) * angle.sin())
    furniture: list[_Box | _Round] = []
    items: tuple[_Box | _Round, ...] = (*_BOXES, *_ROUNDS)
    for item in items:
        low, high = view.rows(item)
        if low <= float(rows[0]) and high >= float(rows[-1]):
            furniture.append(item)
    hits = _trace(view.eye, direction, furniture)
    point = view.eye + direction * hits.distance
    samples = torch.zeros(3, direction.shape[1])
    for material in sorted(set(hits.material.tolist())):
        at = (hits.material == material).nonzero()[:, 0]
        samples[:, at] = _shade(material, point[:, at], hits.normal[:, at], direction[:, at], suns[:, at], maps, noise)
    tent = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = (tent[:, None] * tent).expand(3, 1, 4, 4)
    return F.conv2d(samples.view(1, 3, len(rows), len(columns)), kernel, stride=2, groups=3)[0]


# ---- the camera --------------------------------------------------------------------------------------------

_CURVATURE, _POWER, _TOE = 3.2, 0.58, 0.002
_SENSITIVITY = 1.7  # full wells per unit of radiance and second
_MIDDLE_TIME = 1 / 256


def camera_response(exposure: Tensor) -> Tensor:
    """A film-like curve from exposure to code value.

    ::

        f(x) = (1 - exp(-a s(x))) / (1 - exp(-a)),   s(x) = ((x + t)^p - t^p) / ((1 + t)^p - t^p)

    with a = 3.2 (shoulder), p = 0.58 (slope of the straight part) and t = 0.002 (linear toe). It increases
    strictly from f(0) = 0 to f(1) = 1; exposure outside [0, 1] is clipped.

    Args:
        exposure: floating point, any shape, 1 where the sensor saturates.

    Returns:
        Values in [0, 1], same shape and dtype.

    Raises:
        TypeError: exposure is not floating point.
    """
    if not exposure.is_floating_point():
        raise TypeError(f"exposure must be floating point, got {exposure.dtype}")
    foot = _TOE**_POWER
    straight = ((exposure.clamp(0, 1) + _TOE) ** _POWER - foot) / ((1 + _TOE) ** _POWER - foot)
    response: Tensor = torch.expm1(-_CURVATURE * straight) / math.expm1(-_CURVATURE)
    return response


def expose(
    radiance: Tensor,
    time: float,
    *,
    bits: int = 8,
    seed: int = 0,
    gain: float = _SENSITIVITY,
    full_well: float = 20_000.0,
    read_noise: float = 4.0,
) -> Tensor:
    """Photograph a scene: photons, shot noise, read noise, saturation, response, quantisation.

    Args:
        radiance: linear, >= 0, any shape, float32.
        time: exposure time in seconds.
        bits: of the codes, 8 or 16.
        seed: of the noise.
        gain: full wells that a radiance of 1 fills in one second.
        full_well: electrons at saturation.
        read_noise: standard deviation in electrons.

    Returns:
        Codes of the shape of ``radiance``, uint8 or uint16; the same for the same arguments.

    Raises:
        ValueError: a time, number of bits or parameter out of range, or negative radiance.
    """
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16, got {bits}")
    if not (0 < time < math.inf and 0 < gain < math.inf and 0 < full_well < math.inf and 0 <= read_noise < math.inf):
        raise ValueError(
            "time, gain and full_well must be positive and read_noise not negative, "
            f"got {time}, {gain}, {full_well} and {read_noise}"
        )
    if radiance.numel() and not bool((radiance >= 0).all()):
        raise ValueError("radiance must be >= 0 and free of NaN")
    generator = torch.Generator().manual_seed(seed)
    # Beyond twice the full well the noise no longer matters: the pixel is saturated.
    mean = (radiance.float() * (time * gain * full_well)).clamp(max=2 * full_well)
    electrons = torch.poisson(mean, generator=generator)
    electrons += read_noise * torch.randn(mean.shape, generator=generator)
    highest = 2**bits - 1
    codes: Tensor = (camera_response(electrons / full_well) * highest).round()
    return codes.to(torch.uint8) if bits == 8 else codes.to(torch.int32).to(torch.uint16)


def sample_times(exposures: int = 5, step: float = 2.0) -> list[float]:
    """Exposure times of the sample bracket in seconds, ``step`` stops apart, evenly around 1/256 s.

    Raises:
        ValueError: fewer than one exposure, a step that is not positive, or more than 40 stops in all.
    """
    if exposures < 1:
        raise ValueError(f"exposures must be at least 1, got {exposures}")
    if not (step > 0 and step * exposures <= 40):
        raise ValueError(f"step must be positive and step x exposures at most 40 stops, got {step} x {exposures}")
    return [_MIDDLE_TIME * 2.0 ** (step * (k - (exposures - 1) / 2)) for k in range(exposures)]


def sample_bracket(
    height: int, width: int, exposures: int = 5, step: float = 2.0, bits: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """A bracket of the rendered room, dark to bright.

    Args:
        height, width: of the images.
        exposures: number of images K >= 1.
        step: between neighbours, in stops (EV), > 0: see :func:`sample_times`. With five exposures and two
            stops the darkest keeps the sunset and the brightest opens the shadows.
        bits: 8 or 16.
        seed: of the textures and the noise.

    Returns:
        Images (K, 3, height, width), uint8 or uint16, and their exposure times in seconds, (K,) float32.

    Raises:
        ValueError: an argument out of range.
    """
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16, got {bits}")
    times = sample_times(exposures, step)
    radiance = render_scene(height, width, seed)
    images = [expose(radiance, t, bits=bits, seed=seed * 1009 + k) for k, t in enumerate(times)]
    return torch.stack(images), torch.tensor(times)
