"""A virtual camera: it looks around in a panorama or at a part of a photograph, and turns light into codes.

Panoramas are equirectangular: columns are azimuth, from -180° at the left edge over 0° in the middle to 180° at the
right edge, rows latitude, from 90° (up) to -90°. A :class:`Panorama` and a :class:`LinearPhotograph` give radiance; a
:class:`Camera` exposes it: photons, noise, saturation, response, quantisation, JPEG.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hdrops.data.jpeg import jpeg_round_trip
from hdrops.data.responses import Response, draw_response

_LEAST_SCALE = 0.7  # pixels of the source per pixel of a view: below, views would be blurred
_MOST_REDUCTION = 4.0
_STEEPEST_PITCH = 75.0  # degrees
_TABLE = 4096
_DARKEST = 1e-30  # radiance; the time for less would leave float32
_NARROW, _WIDE = 1.0, 170.0  # degrees


def _check_radiance(image: Tensor) -> Tensor:
    """Linear light as (3, H, W) float32 without negative values."""
    if not image.is_floating_point():
        raise TypeError(f"a scene must be linear light in floating point, got {image.dtype} codes; linearise them")
    if image.dim() != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"a scene must be (3, H, W) or (1, H, W), got shape {tuple(image.shape)}")
    if not bool(image.isfinite().all()):
        raise ValueError("a scene must be free of NaN and infinity; repair it first")
    if not bool((image > 0).any()):
        raise ValueError("a scene must hold light; all its values are 0 or negative")
    return image.detach().float().clamp(min=0).expand(3, -1, -1)


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} x {width}")


class _Pyramid:
    """An image and its halvings, each with a border of one pixel, for bilinear look-ups at any scale >= 0.7.

    Args:
        image: (3, H, W).
        finest: the smallest scale that will be asked for.
        border: adds one pixel on each side.
        whole: halve no image with an odd side, as one that continues at its other edge has no column to repeat.
    """

    def __init__(self, image: Tensor, finest: float, border: Callable[[Tensor], Tensor], *, whole: bool) -> None:
        self.scales: list[float] = []
        self.levels: list[Tensor] = []
        scale = 1.0
        while True:
            odd = [side % 2 for side in image.shape[-2:]]
            last = min(image.shape[-2:]) < 4 or (whole and any(odd))
            # What is finer than any view needs is not kept.
            if scale * math.sqrt(2) > finest or last:
                self.scales.append(scale)
                self.levels.append(border(image)[None].contiguous())
            if last:
                return
            image = F.avg_pool2d(F.pad(image, (0, odd[1], 0, odd[0]), mode="replicate"), 2)
            scale *= 2

    @property
    def nbytes(self) -> int:
        return sum(level.nbytes for level in self.levels)

    def look_up(self, row: Tensor, column: Tensor, scale: float) -> Tensor:
        """Values (3, h, w) at places in pixels of the image; (0, 0) is the centre of the first pixel.

        The level is the one whose pixels are nearest in size to ``scale`` pixels of the image.
        """
        k = min(range(len(self.scales)), key=lambda k: abs(math.log(scale / self.scales[k])))
        factor, level = self.scales[k], self.levels[k]
        height, width = level.shape[-2:]
        # Centre to corner, to the coarser pixels, to their centres, past the border; then to [-1, 1].
        x = ((column + 0.5) / factor + 0.5) * (2 / (width - 1)) - 1
        y = ((row + 0.5) / factor + 0.5) * (2 / (height - 1)) - 1
        grid = torch.stack([x, y], -1)[None]
        return F.grid_sample(level, grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


def _around_the_globe(image: Tensor) -> Tensor:
    """With a border: columns continue at the other edge, rows beyond a pole on the other side of the globe."""
    across = image.shape[-1] // 2
    rows = [image[:, :1].roll(across, -1), image, image[:, -1:].roll(across, -1)]
    tall = torch.cat(rows, 1)
    return torch.cat([tall[..., -1:], tall, tall[..., :1]], 2)


def _evened(image: Tensor) -> Tensor:
    """Rows averaged over as many columns as cover the angle of one column at the equator.

    Towards the poles the columns of a panorama come closer than its rows: what they hold beyond the resolution of the
    equator would alias in a view.
    """
    height, width = image.shape[-2:]
    latitude = (0.5 - (torch.arange(height, dtype=torch.float64) + 0.5) / height) * math.pi
    radius = ((1 / latitude.cos() - 1) / 2).round().clamp(max=(width - 1) // 2).long()[:, None]
    sums = F.pad(image.double().cumsum(-1), (1, 0))
    total = sums[..., -1:]
    column = torch.arange(width)

    def up_to(place: Tensor) -> Tensor:
        """The sum of all columns before ``place``, counted around the globe."""
        index = (place % width).expand(3, -1, -1)
        return sums.gather(-1, index) + total * (place.div(width, rounding_mode="floor"))

    even = ((up_to(column + radius + 1) - up_to(column - radius)) / (2 * radius + 1)).clamp(min=0).float()
    # Differences of sums would lose dim columns beside the sun.
    return torch.where(radius > 0, even, image)


class Panorama:
    """An equirectangular panorama, ready to be looked at.

    Args:
        image: (3, H, W) or (1, H, W) linear radiance, W = 2 H; negative values count as 0.
        narrowest: the narrowest view that will be asked for, (field of view in degrees, width in pixels); of a
            panorama finer than such a view only the reduced versions are kept. None keeps everything.

    Raises:
        TypeError: an image that is not floating point.
        ValueError: another shape, NaN or infinity, no light, or a narrowest view out of range.
    """

    def __init__(self, image: Tensor, *, narrowest: tuple[float, int] | None = None) -> None:
        radiance = _check_radiance(image)
        self.height, self.width = radiance.shape[-2:]
        if self.width != 2 * self.height:
            raise ValueError(f"a panorama must be twice as wide as high, got {self.width} x {self.height}")
        finest = 0.0 if narrowest is None else self._scale(*narrowest)
        self._pyramid = _Pyramid(_evened(radiance), finest, _around_the_globe, whole=True)

    @property
    def nbytes(self) -> int:
        """Memory that it occupies."""
        return self._pyramid.nbytes

    def _scale(self, fov: float, width: int) -> float:
        """Pixels of the panorama per pixel in the middle of a view."""
        if not _NARROW <= fov <= _WIDE:
            raise ValueError(f"fov must be {_NARROW:g} to {_WIDE:g} degrees, got {fov}")
        return 2 * math.tan(math.radians(fov) / 2) / width * self.width / (2 * math.pi)

    def view(
        self, height: int, width: int, *, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0, fov: float = 70.0
    ) -> Tensor:
        """What a pinhole camera in the centre sees.

        The panorama is first reduced to about the resolution of the middle of the view, so that nothing aliases; a view
        finer than the panorama is interpolated.

        Args:
            height, width: of the view.
            yaw: to the right of the middle of the panorama, in degrees.
            pitch: upwards, in degrees.
            roll: of the camera, clockwise as seen from behind it, in degrees.
            fov: field of view from the left to the right edge, in degrees, 1 to 170.

        Returns:
            Radiance, (3, height, width) float32.

        Raises:
            ValueError: a size or an angle out of range.
        """
        _check_size(height, width)
        if not all(map(math.isfinite, (yaw, pitch, roll))):
            raise ValueError(f"yaw, pitch and roll must be finite, got {yaw}, {pitch} and {roll}")
        scale = self._scale(fov, width)
        step = 2 * math.tan(math.radians(fov) / 2) / width
        right = ((torch.arange(width) + 0.5 - width / 2) * step)[None, :]
        up = ((height / 2 - torch.arange(height) - 0.5) * step)[:, None]
        cosine, sine = math.cos(math.radians(roll)), math.sin(math.radians(roll))
        x, y = cosine * right + sine * up, cosine * up - sine * right
        cosine, sine = math.cos(math.radians(pitch)), math.sin(math.radians(pitch))
        y, z = cosine * y + sine, cosine - sine * y
        azimuth = torch.atan2(x, z) / (2 * math.pi) + yaw / 360
        latitude = torch.atan2(y, torch.sqrt(x * x + z * z)) / math.pi
        # Half a turn from the middle lies the seam.
        column = ((azimuth + 0.5) % 1.0) * self.width - 0.5
        row = (0.5 - latitude) * self.height - 0.5
        return self._pyramid.look_up(row, column, scale)

    def draw(
        self, generator: np.random.Generator, height: int, width: int, fov: tuple[float, float] = (50.0, 95.0)
    ) -> Tensor:
        """A random view: yaw uniform, pitch ~ N(0, 15°) up to 75°, roll ~ N(0, 2°), the field of view uniform in a
        range, whose lower end is raised until a pixel of the view is at least 0.7 of the panorama's.

        Args:
            generator: the source of randomness.
            height, width: of the view.
            fov: range of the field of view in degrees.

        Returns:
            Radiance, (3, height, width) float32.
        """
        yaw = generator.uniform(-180.0, 180.0)
        pitch = float(np.clip(generator.normal(0.0, 15.0), -_STEEPEST_PITCH, _STEEPEST_PITCH))
        roll = generator.normal(0.0, 2.0)
        least = math.degrees(2 * math.atan(_LEAST_SCALE * math.pi * width / self.width))
        low = min(max(fov[0], least), fov[1])
        return self.view(height, width, yaw=yaw, pitch=pitch, roll=roll, fov=generator.uniform(low, fov[1]))


class LinearPhotograph:
    """A photograph in linear light, of which parts are looked at.

    Args:
        image: (3, H, W) or (1, H, W) linear radiance; negative values count as 0.

    Raises:
        TypeError: an image that is not floating point.
        ValueError: another shape, NaN or infinity, or no light.
    """

    def __init__(self, image: Tensor) -> None:
        radiance = _check_radiance(image)
        self.height, self.width = radiance.shape[-2:]
        border = functools.partial(F.pad, pad=(1, 1, 1, 1), mode="replicate")
        self._pyramid = _Pyramid(radiance, 0.0, border, whole=False)

    @property
    def nbytes(self) -> int:
        """Memory that it occupies."""
        return self._pyramid.nbytes

    def largest_scale(self, height: int, width: int) -> float:
        """The scale at which a part of this size just fits into the photograph.

        Raises:
            ValueError: a size out of range, or a photograph so small that it would have to be enlarged by more than
                1 / 0.7.
        """
        _check_size(height, width)
        most = min(self.height / height, self.width / width)
        if most < _LEAST_SCALE:
            raise ValueError(
                f"a photograph of {self.height} x {self.width} pixels is too small for views of {height} x {width}"
            )
        return most

    def crop(self, height: int, width: int, *, top: float = 0.0, left: float = 0.0, scale: float = 1.0) -> Tensor:
        """A part of the photograph, reduced without aliasing.

        Args:
            height, width: of the result.
            top, left: of the part, in pixels of the photograph.
            scale: pixels of the photograph per pixel of the result, positive.

        Returns:
            Radiance, (3, height, width) float32.

        Raises:
            ValueError: a size out of range, or a part that is not within the photograph.
        """
        _check_size(height, width)
        slack = 1e-3  # of rounding
        if not (
            0 < scale < math.inf
            and -slack <= top <= self.height - scale * height + slack
            and -slack <= left <= self.width - scale * width + slack
        ):
            raise ValueError(
                f"a part of {height} x {width} pixels at scale {scale:g} from ({top:g}, {left:g}) does not lie within "
                f"the photograph of {self.height} x {self.width}"
            )
        row = top + (torch.arange(height) + 0.5) * scale - 0.5
        column = left + (torch.arange(width) + 0.5) * scale - 0.5
        rows, columns = torch.meshgrid(row, column, indexing="ij")
        return self._pyramid.look_up(rows, columns, scale)

    def draw(self, generator: np.random.Generator, height: int, width: int) -> Tensor:
        """A random part: its scale log-uniform from 1 to 4 as far as the photograph allows, its place uniform.

        A photograph smaller than the result is enlarged, by 1 / 0.7 at most (:meth:`largest_scale`).

        Args:
            generator: the source of randomness.
            height, width: of the result.

        Returns:
            Radiance, (3, height, width) float32.

        Raises:
            ValueError: a photograph that is too small.
        """
        most = self.largest_scale(height, width)
        scale = math.exp(generator.uniform(math.log(min(1.0, most)), math.log(min(_MOST_REDUCTION, most))))
        top = generator.uniform(0.0, self.height - scale * height)
        left = generator.uniform(0.0, self.width - scale * width)
        return self.crop(height, width, top=top, left=left, scale=scale)


@dataclasses.dataclass(frozen=True)
class Camera:
    """How radiance becomes codes.

    ::

        e = clip(H t s_c + noise, 0, 1),   noise ~ N(0, (H t s_c + r² / w) / w),   code = round(255 f(e)^p_c)

    with the full well w in electrons and the read noise r: the variance of the electrons w e is that of the photons,
    w H t s_c, plus r². The normal distribution stands for Poisson's, which it resembles from some ten electrons on;
    below, the read noise hides the difference.

    Attributes:
        response: f, from exposure in [0, 1] to [0, 1].
        sensitivity: s_c of red, green and blue, positive: the white balance.
        curvature: p_c of red, green and blue, positive: how the responses of the channels differ.
        full_well: w, electrons at saturation, positive: small at a high ISO value. A picture that was reduced has the
            sum over many photosites.
        read_noise: r, standard deviation in electrons, >= 0.
        jpeg_quality: 1 to 100, or None for no JPEG.
        jpeg_subsampled: whether JPEG halves the resolution of colour.

    Raises:
        ValueError: a parameter out of range.
    """

    response: Response
    sensitivity: tuple[float, float, float] = (1.0, 1.0, 1.0)
    curvature: tuple[float, float, float] = (1.0, 1.0, 1.0)
    full_well: float = 20_000.0
    read_noise: float = 4.0
    jpeg_quality: int | None = None
    jpeg_subsampled: bool = False

    def __post_init__(self) -> None:
        positive = (*self.sensitivity, *self.curvature, self.full_well)
        if not all(0 < value < math.inf for value in positive) or not 0 <= self.read_noise < math.inf:
            raise ValueError(
                "sensitivity, curvature and full_well must be positive and read_noise not negative, got "
                f"{self.sensitivity}, {self.curvature}, {self.full_well} and {self.read_noise}"
            )
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be 1 to 100 or None, got {self.jpeg_quality}")

    @functools.cached_property
    def _codes(self) -> Tensor:
        """(3, 4096) uint8: the code for the square root of the exposure, which resolves the shadows."""
        root = torch.linspace(0, 1, _TABLE, dtype=torch.float64)
        values = self.response(root * root)
        rows = [(255 * values**power).round() for power in self.curvature]
        return torch.stack(rows).to(torch.uint8)

    def expose(self, radiance: Tensor, times: Sequence[float], generator: torch.Generator | None = None) -> Tensor:
        """Photograph radiance at several exposure times.

        Args:
            radiance: (3, H, W) floating point, linear, >= 0.
            times: at which a radiance of 1 / time saturates a channel of sensitivity 1; positive.
            generator: of the noise, on the CPU; None photographs without noise.

        Returns:
            (K, 3, H, W) uint8, one frame per time.

        Raises:
            ValueError: another shape, or a time that is not positive and finite.
        """
        if radiance.dim() != 3 or radiance.shape[0] != 3:
            raise ValueError(f"radiance must be (3, H, W), got shape {tuple(radiance.shape)}")
        for time in times:
            if not 0 < time < math.inf:
                raise ValueError(f"times must be positive and finite, got {time}")
        shape = (3, len(times), *radiance.shape[1:])
        # Planes of one channel lie together, as the look-up wants them.
        gains = torch.tensor(self.sensitivity)[:, None] * torch.tensor(times, dtype=torch.float32)
        exposure = radiance.float()[:, None] * gains[:, :, None, None]
        if generator is not None:
            # Far above saturation the noise no longer matters.
            exposure.clamp_(max=2.0)
            noise = torch.randn(shape, generator=generator)
            deviation = exposure.add((self.read_noise / self.full_well**0.5) ** 2).div_(self.full_well).sqrt_()
            exposure.addcmul_(noise, deviation)
        index = exposure.clamp_(0, 1).sqrt_().mul_(_TABLE - 1).round_().to(torch.int64)
        codes = torch.gather(self._codes, 1, index.view(3, -1)).view(shape).transpose(0, 1).contiguous()
        if self.jpeg_quality is not None:
            codes = jpeg_round_trip(codes, self.jpeg_quality, subsampled=self.jpeg_subsampled)
        return codes


def draw_camera(
    generator: np.random.Generator,
    *,
    draw_response: Callable[[np.random.Generator], Response] = draw_response,
    full_well: tuple[float, float] = (3e3, 1e6),
    jpeg: float = 0.5,
) -> Camera:
    """A random camera.

    Sensitivities are log-normal with a standard deviation of 0.1 stops for red and blue, green has 1; the curvatures
    of the channels are log-normal with 0.02; the full well is log-uniform, from that of a small sensor at a high ISO
    value to that of a photograph reduced in size; the read noise is log-uniform from 1 to 8 electrons; the quality of
    JPEG is uniform from 70 to 98, and half of the JPEG files halve the resolution of colour.

    Args:
        generator: the source of randomness.
        draw_response: of the responses, :func:`hdrops.data.draw_response` or the ``draw`` of a model of responses.
        full_well: range of the full well in electrons.
        jpeg: share of cameras that write JPEG, 0 to 1.

    Returns:
        The camera.

    Raises:
        ValueError: a range or share that makes no sense.
    """
    if not 0 < full_well[0] <= full_well[1] < math.inf:
        raise ValueError(f"full_well must be a range of positive electrons, got {full_well}")
    if not 0 <= jpeg <= 1:
        raise ValueError(f"jpeg must be a share from 0 to 1, got {jpeg}")
    response = draw_response(generator)
    red, blue = (2.0 ** generator.normal(0.0, 0.1, 2)).tolist()
    curvature = np.exp(generator.normal(0.0, 0.02, 3)).tolist()
    well = math.exp(generator.uniform(math.log(full_well[0]), math.log(full_well[1])))
    noise = math.exp(generator.uniform(0.0, math.log(8.0)))
    quality, subsampled = int(generator.integers(70, 99)), bool(generator.random() < 0.5)
    written = generator.random() < jpeg
    return Camera(
        response=response,
        sensitivity=(red, 1.0, blue),
        curvature=(curvature[0], curvature[1], curvature[2]),
        full_well=well,
        read_noise=noise,
        jpeg_quality=quality if written else None,
        jpeg_subsampled=subsampled,
    )


def metered_time(radiance: Tensor, share: float) -> float:
    """The exposure time at which this share of the values of a frame does not saturate.

    Every second row and column is measured. Where the share holds no light, the brightest value does not saturate.

    Args:
        radiance: (3, H, W), linear, >= 0.
        share: above 0, at most 1.

    Returns:
        The time, for :meth:`Camera.expose`; 1 for a frame without light.

    Raises:
        ValueError: a share out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    values = radiance[..., ::2, ::2].numpy().ravel()
    rank = math.ceil(share * values.size) - 1
    level = float(np.partition(values, rank)[rank]) or float(values.max())
    return 1 / max(level, _DARKEST) if level > 0 else 1.0
