"""Enhancement of several exposures of a moving scene: Ren, Fan and Huang, "Robust real-world image enhancement based on
multi-exposure LDR images", WACV 2023.

Features of each image are compared with those of one of them, the reference, moved and scaled by many motions and
exposures: the matching volume (section 3.2). Hourglasses of 3D convolutions make the picture of it (section 3.3). The
exposures themselves are not needed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hdrops.models import _pretrained
from hdrops.nn.hourglass import OUTER, Hourglass3d
from hdrops.nn.tiling import tiled, tiles
from hdrops.ops.hourglass import deconv3d, deconv_reduce
from hdrops.ops.matching import motion_grid
from hdrops.ops.matching_volume import matching_conv3d

Preset = Literal["hdr", "raw_hdr", "isp", "light", "tiny"]
Head = Literal["linear", "softmax", "frames"]
Reading = Literal["gain", "cap", "none"]
Correlation = Literal["product", "inner"]
Choice = Literal["clearest", "middle"]
Reference = int | Tensor | None
SYSTEM = "emvnet"
_GAINS = (1 / 4, 1 / 2, 2.0, 4.0, 8.0, 16.0)
_MOST_LAYERS = 256
_MOST_PREFERENCE = 100.0
_MOST_CHANNELS = 4096


@dataclasses.dataclass(frozen=True)
class EMVNetConfig:
    """What an :class:`EMVNet` is made of. The defaults are the paper's for HDR of RGB images, and where it is silent
    what is said here.

    Args:
        channels: of an image: 3 of RGB, 4 of packed RGGB.
        outputs: channels of the picture.
        features: channels of the features, and of every convolution that extracts them.
        blocks: residual-in-residual dense blocks, 12 for HDR and 16 for the end-to-end ISP.
        depthwise: whether convolutions of features are one per channel, followed by one per pixel, as in the paper's
            distilled network.
        shrink: side of the squares of pixels that become channels first; 1 for none, 2 in the distilled network. The
            picture grows back by it.
        grow: by how much the picture is larger than the images: 2 for the end-to-end ISP, whose images are packed.
        filters: channels of the hourglasses.
        dilations: of each hourglass's convolutions. The paper says only that they grow.
        skips: whether each hourglass adds what it is given on a quarter of the grid to what it makes there, see
            :class:`hdrops.nn.hourglass.Hourglass3d`. The paper does not say; without them little of single pixels gets
            through, and networks are slow to learn.
        motion_extent: pixels of the features that motions reach over.
        motion_step: pixels between motions, 1 for the paper's dense ones.
        motion_centred: whether motions lie about 0; as written in the paper they have one sign.
        exposures: gains that images are compared with. The paper's -4 and -2 are read as division by 4 and 2.
        correlation: the product of every channel, or the sum of these, "inner".
        mask: what becomes of the gain where an image is saturated: "gain" leaves it at 1, "cap" cuts what it makes off
            at ``ceiling``, "none" does not look.
        ceiling: of "cap".
        saturated: the value from which a channel of an image is saturated, in [0, 1] of its full scale.
        order: of the depth axis, slowest first, of i(mage), m(otion), e(xposure).
        include_reference: whether the reference is compared with itself too.
        head: how a picture is made of an hourglass's depth: "linear", a mean; "softmax", a mean with weights that the
            network gives to slices; or "frames", where such weights are those of the images themselves, moved and
            scaled as the slices say, in a mean that is the picture.
        preference: of the head "frames", for the reference: what is added to the scores of its slices, so that the
            network begins with the reference where that is not saturated.
        head_taps: of the convolution that makes the picture of it, a side; "frames" has none.
        residual: for the first two heads, whether the reference image is added, so that only what it lacks is learnt.
            The paper does not say; nothing else in the network keeps details of single pixels.
        gated: with ``residual`` or the head "frames", whether what is learnt counts only where a channel of the
            reference is saturated. Elsewhere the picture is the reference, noise included, and no loss arises there:
            where most pixels are right from the beginning, layers else learn to be silent. It holds whatever the mask.
            The paper does not have it.
        choice: of the reference where none is given, see :func:`choose_reference`. Training on RGB brackets, whose
            reference is the middle exposure, makes it "middle".

    Raises:
        ValueError: a size that is not positive, values out of range, a picture of other channels or another size than
            the images that it is made of, skips with fewer than three dilations, ``residual`` with the head "frames",
            or ``gated`` without either.
    """

    channels: int = 3
    outputs: int = 3
    features: int = 32
    blocks: int = 12
    depthwise: bool = False
    shrink: int = 1
    grow: int = 1
    filters: int = 32
    dilations: tuple[int, ...] = (1, 3, 5)
    skips: bool = False
    motion_extent: int = 36
    motion_step: int = 3
    motion_centred: bool = True
    exposures: tuple[float, ...] = _GAINS
    correlation: Correlation = "product"
    mask: Reading = "gain"
    ceiling: float = 1.0
    saturated: float = 0.95
    order: str = "ime"
    include_reference: bool = True
    head: Head = "linear"
    preference: float = 5.0
    head_taps: int = 1
    residual: bool = False
    gated: bool = False
    choice: Choice = "clearest"

    def __post_init__(self) -> None:
        most = {"blocks": _MOST_LAYERS, "shrink": 8, "grow": 8, "head_taps": 15}
        names = ("channels", "outputs", "features", "blocks", "shrink", "grow", "filters", "head_taps")
        for name in (*names, "motion_extent", "motion_step"):
            value, limit = getattr(self, name), most.get(name, _MOST_CHANNELS)
            if type(value) is not int or not 1 <= value <= limit:
                raise ValueError(f"{name} must be an integer from 1 to {limit}, got {value!r}")
        if self.head_taps % 2 == 0:
            raise ValueError(f"head_taps must be odd, got {self.head_taps}")
        for name in ("depthwise", "skips", "motion_centred", "include_reference", "residual", "gated"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        whole = all(type(d) is int and 1 <= d <= 64 for d in self.dilations)
        if not whole or not 1 <= len(self.dilations) <= 8:
            raise ValueError(f"dilations must be 1 to 8 integers from 1 to 64, got {self.dilations!r}")
        numbers = all(type(gain) in (int, float) and 0 < gain < math.inf for gain in self.exposures)
        if not numbers or not 1 <= len(self.exposures) <= 64:
            raise ValueError(f"exposures must be 1 to 64 positive numbers, got {self.exposures!r}")
        choices = {
            "correlation": get_args(Correlation),
            "mask": get_args(Reading),
            "head": get_args(Head),
            "choice": get_args(Choice),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if type(self.order) is not str or sorted(self.order) != ["e", "i", "m"]:
            raise ValueError(f'order must hold each of "i", "m" and "e" once, got {self.order!r}')
        for name in ("ceiling", "saturated"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value!r}")
        if self.skips and len(self.dilations) <= OUTER:
            raise ValueError(f"skips need at least {OUTER + 1} dilations, got {self.dilations!r}")
        if type(self.preference) not in (int, float) or not 0 <= self.preference <= _MOST_PREFERENCE:
            raise ValueError(f"preference must be from 0 to {_MOST_PREFERENCE:g}, got {self.preference!r}")
        made = "residual" if self.residual else 'head "frames"'
        if self.gated and not self.residual and self.head != "frames":
            raise ValueError('gated needs residual, or head "frames"')
        if self.residual and self.head == "frames":
            raise ValueError('residual is of no use with head "frames", whose pictures are made of the images')
        if (self.residual or self.head == "frames") and (self.outputs != self.channels or self.grow != 1):
            raise ValueError(
                f"{made} needs pictures like the images, {self.channels} channels and grow = 1, got "
                f"{self.outputs} channels and grow = {self.grow}"
            )

    @classmethod
    def preset(cls, name: Preset, **changes: Any) -> Self:
        """A named configuration.

        Args:
            name: "hdr" for RGB images; "raw_hdr" for packed raw ones; "isp", from packed raw images to RGB of twice
                their sides; "light", the paper's distilled network; or "tiny", for tests.
            changes: fields to set differently.

        Raises:
            ValueError: an unknown name, or a value out of range.
        """
        sizes: dict[str, dict[str, Any]] = {
            "hdr": {},
            "raw_hdr": {"channels": 4, "outputs": 4},
            "isp": {"channels": 4, "blocks": 16, "filters": 64, "grow": 2, "head_taps": 3},
            "light": {"blocks": 6, "features": 16, "filters": 16, "depthwise": True, "shrink": 2},
            "tiny": {
                "features": 8,
                "blocks": 1,
                "filters": 8,
                "motion_extent": 6,
                "motion_step": 3,
                "exposures": (0.25, 0.5, 2.0, 4.0),
            },
        }
        if name not in sizes:
            raise ValueError(f"preset must be one of {', '.join(sizes)}, got {name!r}")
        return cls(**(sizes[name] | changes))

    @classmethod
    def _read(cls, values: dict[str, Any], where: str) -> Self:
        """From the object of a configuration file."""
        values = dict(values)
        system = values.pop("system", None)
        if system != SYSTEM:
            raise ValueError(f"{where}: system must be {SYSTEM!r}, got {system!r}")
        for name in ("dilations", "exposures"):
            if name in values:
                if not isinstance(values[name], list):
                    raise ValueError(f"{where}: {name} must be a list, got {values[name]!r}")
                values[name] = tuple(values[name])
        return _pretrained.build(cls, values, where)


# ---- features: section 3.1 -----------------------------------------------------------------------------------------

_LAYERS = 5  # of a dense block
_DENSE_BLOCKS = 3  # of a residual-in-residual one
_RESIDUAL = 0.2  # share of what a block adds to what it is given


def _conv(channels: int, results: int, config: EMVNetConfig) -> nn.Module:
    """3 x 3, with first weights of a tenth of He's, as such deep residual networks begin."""
    if config.depthwise:
        each = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        layers = [each, nn.Conv2d(channels, results, 1)]
    else:
        layers = [nn.Conv2d(channels, results, 3, padding=1)]
    for layer in layers:
        assert layer.bias is not None
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layers[-1].weight *= 0.1
    return nn.Sequential(*layers) if len(layers) > 1 else layers[0]


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class DenseBlock(nn.Module):
    """Five convolutions, each of all that came before; ReLU but after the last, a fifth of which is added.

    For inference what came before is never put together: each result is convolved for all layers that follow, which
    sum up. For training, where autograd would make more of the sums than of what is put together, it is.
    """

    def __init__(self, config: EMVNetConfig) -> None:
        super().__init__()
        size = config.features
        self.layers = nn.ModuleList(_conv(size * (k + 1), size, config) for k in range(_LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        return x + _RESIDUAL * (self._joined(x) if torch.is_grad_enabled() else self._summed(x))

    def _joined(self, x: Tensor) -> Tensor:
        parts = [x]
        *inner, last = self.layers
        for layer in inner:
            parts.append(layer(torch.cat(parts, 1)).relu_())
        added: Tensor = last(torch.cat(parts, 1))
        return added

    def _summed(self, part: Tensor) -> Tensor:
        sums: list[Tensor] = []
        for number in range(_LAYERS):
            place = slice(number * part.shape[1], (number + 1) * part.shape[1])
            terms = self._terms(part, place, first=number == 0)
            sums = [total.add_(term) for total, term in zip(sums, terms, strict=True)] if sums else terms
            part, *sums = sums
            part = part.relu() if sums else part
        return part

    def _terms(self, part: Tensor, place: slice, *, first: bool) -> list[Tensor]:
        """What channels at ``place`` of the layers' input add to each layer that has them; the biases come first."""
        size = part.shape[1]
        following = list(self.layers)[place.start // size :]
        whole = [layer for layer in following if isinstance(layer, nn.Conv2d)]
        if whole:
            weight = torch.cat([layer.weight[:, place] for layer in whole])
            bias = torch.cat([_bias(layer) for layer in whole]) if first else None
            return list(F.conv2d(part, weight, bias, padding=1).split(size, 1))
        terms = []
        for layer in following:
            assert isinstance(layer, nn.Sequential)
            each, point = (inner for inner in layer if isinstance(inner, nn.Conv2d))
            alone = F.conv2d(part, each.weight[place], _bias(each)[place], padding=1, groups=size)
            terms.append(F.conv2d(alone, point.weight[:, place], point.bias if first else None))
        return terms


class RRDB(nn.Module):
    """A residual-in-residual dense block: three dense blocks, a fifth of whose result is added."""

    def __init__(self, config: EMVNetConfig) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(config) for _ in range(_DENSE_BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.blocks(x)
        return x + _RESIDUAL * added


# ---- the reference -------------------------------------------------------------------------------------------------

_DARK = 0.05  # of full scale


def _clipped(images: Tensor, saturated: float) -> Tensor:
    """Where a channel of images (..., C, H, W) is saturated, (..., 1, H, W)."""
    return (images >= saturated).any(-3, keepdim=True)


def choose_reference(images: Tensor, *, choice: Choice = "clearest", saturated: float = 0.95) -> Tensor:
    """The image of each scene that serves as reference, chosen blindly: without its exposure.

    The clearest is the one with the smallest share of pixels that are saturated in a channel, or in all of them below
    a twentieth of full scale, of equal ones the first. The middle is the one in the middle of all, in the order of
    their means; of an even number of images the darker of the two. Images of equal means are in the order given.

    Args:
        images: (N, n, C, H, W), in [0, 1].
        choice: "clearest" or "middle".
        saturated: the value from which a channel is saturated, of the clearest.

    Returns:
        (N,) int64.

    Raises:
        ValueError: another choice.
    """
    if choice not in get_args(Choice):
        raise ValueError(f"choice must be one of {', '.join(get_args(Choice))}, got {choice!r}")
    if choice == "middle":
        means = images.flatten(2).mean(2, dtype=torch.promote_types(images.dtype, torch.float32))
        return means.argsort(dim=1, stable=True)[:, (images.shape[1] - 1) // 2]
    lost = _clipped(images, saturated).squeeze(2) | (images < _DARK).all(2)
    return lost.flatten(2).sum(2).argmin(1)


# ---- the network ---------------------------------------------------------------------------------------------------

_HOURGLASSES = 3


_QUARTER = 4  # pixels of the features between places of the second layer of an hourglass
_Place = tuple[slice, slice]


def _in_pieces(
    function: Callable[[_Place], Tensor],
    sides: Sequence[int],
    piece: tuple[int, int],
    reach: int,
    scale: int,
    step: int,
) -> Tensor:
    """Put together what a function gives of places that overlap.

    Args:
        function: from rows and columns of the features to (..., h, w), ``scale`` values for ``step`` of them.
        sides: of the features.
        piece: most pixels of the features a side that are taken of the result at once.
        reach: how many more the function needs on each side.
        scale, step: as above.
    """
    out: Tensor | None = None
    reach = -(-reach // _QUARTER) * _QUARTER
    for wanted in tiles(sides[0], sides[1], piece, step=_QUARTER):
        rows, columns = (
            slice(max(0, part.start - reach), min(part.stop + reach, side))
            for part, side in zip(wanted, sides, strict=True)
        )
        result = function((rows, columns))
        if out is None:
            size = [*result.shape[:-2], *(-(-side * scale // step) for side in sides)]
            kept = torch.channels_last_3d if result.dim() == 5 else torch.contiguous_format
            out = torch.empty(size, dtype=result.dtype, device=result.device, memory_format=kept)
        ends = [[-(-end * scale // step) for end in (part.start, part.stop)] for part in wanted]
        (top, bottom), (left, right) = ends
        above, before = (part.start * scale // step for part in (rows, columns))
        out[..., top:bottom, left:right] = result[..., top - above : bottom - above, left - before : right - before]
    assert out is not None
    return out


class Pictures(NamedTuple):
    """What the hourglasses give, (N, outputs, H, W) each: the paper's Y, and from the two before Y' and Y''."""

    last: Tensor
    second: Tensor
    first: Tensor


def _silence(layer: nn.Module) -> None:
    """Weights of 0: what noise makes of a picture at first would be learnt away by layers that fall silent for good."""
    for weights in layer.parameters():
        nn.init.zeros_(weights)


class _Head(nn.Module):
    """A picture of an hourglass's depth, by one convolution of a mean."""

    def __init__(self, config: EMVNetConfig) -> None:
        super().__init__()
        self.side = config.shrink * config.grow
        self.conv = nn.Conv2d(
            config.filters, config.outputs * self.side**2, config.head_taps, padding=config.head_taps // 2
        )
        if config.residual:
            _silence(self.conv)
        self.score = nn.Conv3d(config.filters, 1, 1) if config.head == "softmax" else None

    def forward(self, volume: Tensor, images: Tensor) -> Tensor:
        """Of (N, filters, D, H, W), and of the images (N, n, channels, H, W) as the network has them."""
        mean = volume.mean(2) if self.score is None else (self.score(volume).softmax(2) * volume).sum(2)
        return self._picture(self.conv(mean))

    def of_inner(self, hourglass: Hourglass3d, x: Tensor, size: Sequence[int], images: Tensor) -> Tensor:
        """The same of ``hourglass.last(x, size)``, which a linear head need not have."""
        if self.score is not None:
            return self.forward(hourglass.last(x, size), images)
        weight, offset = _last_layer(hourglass, x.dtype)
        assert self.conv.bias is not None
        kernel, last = self.conv.weight.to(x.dtype), self.conv.bias.to(x.dtype)
        means = x.new_full((size[0],), 1 / max(1, size[0]))
        at_once = self.conv.kernel_size == (1, 1)
        projection = kernel[:, :, 0, 0] if at_once else torch.eye(len(weight), dtype=x.dtype, device=x.device)
        dilation = hourglass.dilations[0]
        flat = deconv_reduce(
            x,
            weight,
            offset,
            means,
            projection,
            last if at_once else None,
            size=size,
            padding=dilation,
            dilation=dilation,
        )
        return self._picture(flat if at_once else self.conv(flat))

    def _picture(self, flat: Tensor) -> Tensor:
        picture: Tensor = F.pixel_shuffle(flat, self.side) if self.side > 1 else flat
        return picture


_UNTRUSTED = 1e3


class _FramesHead(nn.Module):
    """A picture as a mean of the images, moved and scaled as the slices say::

        Y(p) = sum_d softmax_d(S(d, p) + b_d - c s_d(p + M_d)) E_d I_d(p + M_d)

    with S, one number for every slice and pixel, by a convolution of the hourglass's result, 0 at first, and b, the
    preference, for slices of the reference. Where an image is
    saturated, s = 1, and c = 1000 takes its weight unless there is no mask; a pixel that is saturated in all images
    keeps the weights that S gives. Slices of the reference have M = 0 and E = 1; beyond an image its edge continues.
    """

    def __init__(self, config: EMVNetConfig) -> None:
        super().__init__()
        self.side, self.order = config.shrink, config.order
        self.score = nn.Conv3d(config.filters, self.side**2, 1)
        _silence(self.score)
        self.with_reference = config.include_reference
        with torch.device("cpu"):  # numbers, wherever the weights are to be
            motions = motion_grid(config.motion_extent, config.motion_step, centred=config.motion_centred)
        self.motions = [(dy * self.side, dx * self.side) for dy, dx in motions.tolist()]
        self.gains, self.preference = config.exposures, config.preference
        self.saturated = None if config.mask == "none" else config.saturated

    def forward(self, volume: Tensor, images: Tensor) -> Tensor:
        """As :class:`_Head` does."""
        return self._mean(self.score(volume), images)

    def of_inner(self, hourglass: Hourglass3d, x: Tensor, size: Sequence[int], images: Tensor) -> Tensor:
        """Of both layers as one."""
        weight, offset = _last_layer(hourglass, x.dtype)
        assert self.score.bias is not None
        kernel = self.score.weight.to(x.dtype)[:, :, 0, 0, 0]
        dilation = hourglass.dilations[0]
        scores = deconv3d(
            x,
            torch.einsum("iodhw,so->isdhw", weight, kernel).contiguous(),
            self.score.bias.to(x.dtype) + kernel @ offset,
            padding=dilation,
            output_padding=[side - (2 * small - 1) for side, small in zip(size, x.shape[2:], strict=True)],
            dilation=dilation,
        )
        return self._mean(scores, images)

    def _mean(self, scores: Tensor, images: Tensor) -> Tensor:
        scores = F.pixel_shuffle(scores.transpose(1, 2), self.side)[:, :, 0]  # (N, D, H, W)
        if self.side > 1:
            images = F.pixel_shuffle(images, self.side)
        slices = {"i": images.shape[1] - (not self.with_reference), "m": len(self.motions), "e": len(self.gains)}
        scores = scores.unflatten(1, [slices[axis] for axis in self.order])
        axes = [1 + self.order.index(axis) for axis in "ime"]
        scores = scores.permute(0, *axes, 4, 5).to(torch.promote_types(scores.dtype, torch.float32))
        reference, others = images[:, 0], images[:, 1:]
        if self.saturated is not None:
            lost = [-_UNTRUSTED * _clipped(x, self.saturated).squeeze(-3).to(scores.dtype) for x in (reference, others)]
            beside = torch.stack([*self._moved(lost[1])], 2).unsqueeze(3)  # (N, n - 1, M, 1, H, W)
            if self.with_reference:
                beside = torch.cat([lost[0][:, None, None, None].expand_as(beside[:, :1]), beside], 1)
            scores = scores + beside
        if self.with_reference:
            preferred = scores.new_zeros(scores.shape[1])
            preferred[0] = self.preference
            scores = scores + preferred.view(-1, 1, 1, 1, 1)
        weights = scores.flatten(1, 3).softmax(1).unflatten(1, scores.shape[1:4]).to(images.dtype)
        total = torch.zeros_like(reference)
        if self.with_reference:
            total = reference * weights[:, 0].sum((1, 2)).unsqueeze(1)
            weights = weights[:, 1:]
        gains = torch.tensor(self.gains, dtype=weights.dtype, device=weights.device).view(-1, 1, 1)
        scaled = (weights * gains).sum(3)
        for k, moved in enumerate(self._moved(others)):
            total = total + (moved * scaled[:, :, k].unsqueeze(2)).sum(1)
        return total

    def _moved(self, images: Tensor) -> Iterator[Tensor]:
        """Images (..., H, W) by each motion."""
        reach = max(max(abs(dy), abs(dx)) for dy, dx in self.motions)
        height, width = images.shape[-2:]
        wide = F.pad(images.flatten(1, -3), [reach] * 4, "replicate").unflatten(1, images.shape[1:-2])
        for dy, dx in self.motions:
            yield wide[..., reach + dy : reach + dy + height, reach + dx : reach + dx + width]


def _last_layer(hourglass: Hourglass3d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias."""
    layer = hourglass.up[-1]
    assert isinstance(layer, nn.ConvTranspose3d)
    assert layer.bias is not None
    return layer.weight.to(dtype), layer.bias.to(dtype)


def _shrunk_sides(sides: int | tuple[int, int] | None, side: int) -> tuple[int, int] | None:
    """Of a tile of an image, in pixels of the features."""
    if sides is None:
        return None
    rows, columns = (sides, sides) if isinstance(sides, int) else sides
    return max(1, rows // side), max(1, columns // side)


class EMVNet(nn.Module):
    """The network.

    Args:
        config: a configuration, or the name of a preset.
    """

    def __init__(self, config: EMVNetConfig | Preset = "hdr") -> None:
        super().__init__()
        self.config = config if isinstance(config, EMVNetConfig) else EMVNetConfig.preset(config)
        config = self.config
        self.entry = nn.Conv2d(config.channels * config.shrink**2, config.features, 3, padding=1)
        self.extractor = nn.Sequential(*(RRDB(config) for _ in range(config.blocks)))
        of_volume = 3 * config.features + (config.features if config.correlation == "product" else 1)
        inputs = [of_volume, *[config.filters] * (_HOURGLASSES - 1)]
        self.hourglasses = nn.ModuleList(
            Hourglass3d(size, config.filters, config.dilations, skips=config.skips) for size in inputs
        )
        head = _FramesHead if config.head == "frames" else _Head
        self.heads = nn.ModuleList(head(config) for _ in range(_HOURGLASSES))
        for hourglass in self.hourglasses:
            for layer in hourglass.modules():
                if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
                    assert layer.bias is not None
                    fan = layer.in_channels * 27 // (8 if isinstance(layer, nn.ConvTranspose3d) else 1)
                    nn.init.normal_(layer.weight, 0, math.sqrt(2 / fan))
                    nn.init.zeros_(layer.bias)

    @classmethod
    def from_pretrained(cls, source: _pretrained.Path | None = None) -> Self:
        """A trained model, in evaluation mode, on the CPU.

        Args:
            source: a folder with ``config.json`` and ``model.safetensors``, or such a file of weights beside its
                ``config.json``; None for the weights that come with hdrops.

        Raises:
            FileNotFoundError: files are missing.
            ValueError: a pickle, unknown or missing keys, weights of another network, or a damaged file.
        """
        return _pretrained.load(cls, EMVNetConfig._read, _pretrained.shipped(SYSTEM) if source is None else source)

    def save_pretrained(self, folder: _pretrained.Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` for :meth:`from_pretrained`, each file whole or not at all.

        Args:
            folder: made if it does not exist; what it holds under these names is replaced.

        Raises:
            OSError: the folder cannot be written.
        """
        _pretrained.save(folder, {"system": SYSTEM, **dataclasses.asdict(self.config)}, self)

    @property
    def _motions(self) -> Tensor:
        config = self.config
        grid = motion_grid(config.motion_extent, config.motion_step, centred=config.motion_centred)
        return grid.to(self.entry.weight.device)

    @property
    def feature_radius(self) -> int:
        """How far the features of a pixel look, in pixels of the features."""
        return 1 + _LAYERS * _DENSE_BLOCKS * self.config.blocks

    @property
    def radius(self) -> int:
        """How far the picture looks from the features of a pixel, in pixels of these."""
        scales = [d << k for k, d in enumerate(self.config.dilations)]
        return int(self._motions.abs().max()) + 2 * _HOURGLASSES * sum(scales) + self.config.head_taps // 2

    @property
    def piece_radius(self) -> int:
        """How far the pieces of :meth:`enhance` look around themselves at most, in pixels of the features; 0 of a
        network of one dilation, which is not computed in pieces."""
        return -(-max(self._reaches) // _QUARTER) * _QUARTER if len(self.config.dilations) > 1 else 0

    @property
    def _reaches(self) -> tuple[int, int, int]:
        """The same of pieces of the matching, between two hourglasses, and of the last one and its picture."""
        config = self.config
        farthest = int(self._motions.abs().max())
        within = config.dilations[0] + 2 * config.dilations[1]
        beside = farthest if config.head == "frames" else 0
        return farthest + within, 2 * within, max(within + config.head_taps // 2, beside)

    @property
    def step(self) -> int:
        """Pixels of the features between places that the hourglasses treat alike."""
        return 1 << len(self.config.dilations)

    def forward(self, images: Tensor, reference: Reference = None, *, collapsed: bool = True) -> Pictures:
        """The pictures of all hourglasses, for training: differentiable and not clamped.

        Args:
            images: (N, n, channels, H, W), n >= 2, floating point in [0, 1], in any order and of any exposures.
            reference: the number of the reference image, one for all scenes or (N,) integers, taken modulo n; None to
                choose it blindly, see :meth:`choose_reference`.
            collapsed: whether what stands between two hourglasses, and what a linear head takes the mean of, is never
                made. The results are equal but for rounding.

        Returns:
            The pictures of the last, the second and the first hourglass, (N, outputs, grow H, grow W) each.

        Raises:
            TypeError: images that are not floating point.
            ValueError: fewer than two images, other channels, or a reference that does not exist.
        """
        images, saturation = self._prepared(images, reference)
        flat = self._shrunk(images)
        features = self._extracted(flat).unflatten(0, images.shape[:2])
        pictures = self._aggregated(features, saturation, flat.unflatten(0, images.shape[:2]), collapsed=collapsed)
        return Pictures(*(self._finished(picture, images) for picture in pictures))

    def choose_reference(self, images: Tensor) -> Tensor:
        """The reference of each scene, (N,) int64, as the configuration says: see :func:`choose_reference`.

        Args:
            images: (N, n, channels, H, W), in [0, 1].
        """
        return choose_reference(images, choice=self.config.choice, saturated=self.config.saturated)

    def _prepared(self, images: Tensor, reference: Reference) -> tuple[Tensor, Tensor | None]:
        """The images with their reference first, and the mask of what is saturated at the features' pixels."""
        config = self.config
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}")
        if images.dim() != 5 or images.shape[1] < 2 or images.shape[2] != config.channels or 0 in images.shape[3:]:
            wanted = f"(N, n, {config.channels}, H, W) of at least two images"
            raise ValueError(f"images must be {wanted}, got shape {tuple(images.shape)}")
        count = images.shape[1]
        if reference is None:
            first = self.choose_reference(images)
        elif isinstance(reference, Tensor):
            if reference.shape != images.shape[:1] or reference.is_floating_point():
                raise ValueError(
                    f"references must be integers ({len(images)},), got {reference.dtype} {tuple(reference.shape)}"
                )
            first = reference.to(images.device).long() % count
        elif -count <= reference < count:
            first = torch.full((len(images),), reference % count, device=images.device)
        else:
            raise ValueError(f"reference must be the number of one of {count} images, got {reference}")
        others = torch.arange(count - 1, device=images.device).expand(len(images), -1)
        order = torch.cat([first[:, None], others + (others >= first[:, None]).long()], 1)
        images = images[torch.arange(len(images), device=images.device)[:, None], order]
        if config.mask == "none":
            return images, None
        saturated = _clipped(images, config.saturated).to(images.dtype)
        if config.shrink > 1:
            flat = F.max_pool2d(saturated.flatten(0, 1), config.shrink, ceil_mode=True)
            saturated = flat.unflatten(0, saturated.shape[:2])
        return images, saturated

    def _shrunk(self, images: Tensor) -> Tensor:
        """What the extractor takes, (N n, channels, h, w): squares of pixels are channels where the network shrinks."""
        flat, side = images.flatten(0, 1), self.config.shrink
        if side > 1:
            bottom, right = (-size % side for size in flat.shape[-2:])
            flat = F.pixel_unshuffle(F.pad(flat, (0, right, 0, bottom), "replicate"), side)
        return flat

    def _extracted(self, flat: Tensor) -> Tensor:
        result: Tensor = self.extractor(self.entry(flat.contiguous(memory_format=torch.channels_last)))
        return result

    @property
    def _layers(self) -> list[tuple[Hourglass3d, _Head | _FramesHead]]:
        return [
            (hourglass, head)
            for hourglass, head in zip(self.hourglasses, self.heads, strict=True)
            if isinstance(hourglass, Hourglass3d) and isinstance(head, _Head | _FramesHead)
        ]

    def _size(self, features: Tensor) -> tuple[int, int, int]:
        """Of the volume."""
        images = features.shape[1] - (not self.config.include_reference)
        height, width = features.shape[-2:]
        return images * len(self._motions) * len(self.config.exposures), height, width

    def _matched(self, features: Tensor, saturation: Tensor | None) -> Tensor:
        """The first layer of the first hourglass, of the volume."""
        config = self.config
        layer = self._layers[0][0].down[0]
        assert isinstance(layer, nn.Conv3d)
        assert layer.bias is not None
        return matching_conv3d(
            features,
            layer.weight.to(features.dtype),
            layer.bias.to(features.dtype),
            0,
            self._motions,
            config.exposures,
            None if saturation is None else saturation.to(features.dtype),
            padding=config.dilations[0],
            dilation=config.dilations[0],
            activation="relu",
            correlation=config.correlation,
            mask="cap" if config.mask == "cap" else "gain",
            ceiling=config.ceiling,
            order=config.order,
            include_reference=config.include_reference,
        )

    def _next(self, number: int, x: Tensor, size: Sequence[int]) -> Tensor:
        """From before the last layer of an hourglass to behind the first of the next."""
        before, after = self._layers[number][0], self._layers[number + 1][0]
        if self.config.dilations[0] == 1:
            return after.first_after(before, x, size)
        return after.first(before.last(x, size))

    def _aggregated(
        self,
        features: Tensor,
        saturation: Tensor | None,
        images: Tensor,
        *,
        collapsed: bool,
        last: bool = False,
    ) -> list[Tensor]:
        """The pictures of features and of the images as these have them, the last one alone if wanted."""
        size = self._size(features)
        x = self._matched(features, saturation)
        pictures: list[Tensor] = []
        for k, (hourglass, head) in enumerate(self._layers):
            x = hourglass.inner(x)
            final = k == _HOURGLASSES - 1
            if collapsed:
                if final or not last:
                    pictures.append(head.of_inner(hourglass, x, size, images))
                if not final:
                    x = self._next(k, x, size)
            else:
                whole = hourglass.last(x, size)
                if final or not last:
                    pictures.append(head(whole, images))
                if not final:
                    x = self._layers[k + 1][0].first(whole)
        return pictures[::-1]

    def _picture(
        self, features: Tensor, saturation: Tensor | None, images: Tensor, piece: tuple[int, int] | None
    ) -> Tensor:
        """The last picture. The layers on the grid of the volume and on half of it are computed piece by piece: what
        is kept of the whole lies on a quarter of the grid."""
        if piece is None or len(self.config.dilations) < 2:
            return self._aggregated(features, saturation, images, collapsed=True, last=True)[0]
        layers = self._layers
        depth, *sides = self._size(features)
        matching, between, behind = self._reaches
        scale = self.config.shrink * self.config.grow

        def matched(place: _Place) -> Tensor:
            masked = None if saturation is None else saturation[(..., *place)]
            return layers[0][0].second(self._matched(features[(..., *place)], masked))

        x = _in_pieces(matched, sides, piece, matching, 1, _QUARTER)
        for k, (hourglass, head) in enumerate(layers):
            final = k == _HOURGLASSES - 1
            core = hourglass.core(x)
            del x

            def following(
                place: _Place,
                k: int = k,
                core: Tensor = core,
                hourglass: Hourglass3d = hourglass,
                head: _Head | _FramesHead = head,
            ) -> Tensor:
                rows, columns = (slice(side.start // _QUARTER, -(-side.stop // _QUARTER)) for side in place)
                size = (depth, *(side.stop - side.start for side in place))
                half = hourglass.widened(core[..., rows, columns], [-(-side // 2) for side in size])
                if k == _HOURGLASSES - 1:
                    return head.of_inner(hourglass, half, size, images[(..., *place)])
                return layers[k + 1][0].second(self._next(k, half, size))

            reach = behind if final else between
            x = _in_pieces(following, sides, piece, reach, *((scale, 1) if final else (1, _QUARTER)))
            del core, following
        return x

    def _finished(self, picture: Tensor, images: Tensor) -> Tensor:
        """Without what was added to the sides of the images, the first of which is the reference."""
        height, width = (side * self.config.grow for side in images.shape[-2:])
        reference = images[:, 0]
        picture = picture[..., :height, :width]
        if self.config.residual:
            picture = picture + reference
        if self.config.gated:
            picture = torch.where(_clipped(reference, self.config.saturated), picture, reference)
        return picture

    @torch.no_grad()
    def enhance(
        self,
        images: Tensor,
        reference: Reference = None,
        *,
        tile: int | tuple[int, int] | None = None,
        piece: int | tuple[int, int] | None = None,
    ) -> Tensor:
        """The picture, for inference.

        Args:
            images: as for :meth:`forward`; on the device of the model.
            reference: as for :meth:`forward`.
            tile: most pixels of the images a side, or (rows, columns), that are computed at once, beside what the
                network sees around them; it bounds the memory. None for the whole image. It changes the result by
                rounding errors alone.
            piece: most pixels a side of which the largest layers, those on the grid of the volume and on half of it,
                are computed at once. What is kept of the whole image, or of a tile, is an eighth then, for some time:
                pieces see far less of each other than tiles do. It too changes rounding errors alone.

        Returns:
            (N, outputs, grow H, grow W), not clamped, of the dtype of the images.

        Raises:
            TypeError, ValueError: as for :meth:`forward`.
        """
        images, saturation = self._prepared(images, reference)
        side, dtype = self.config.shrink, self.entry.weight.dtype
        small, part = (_shrunk_sides(sides, side) for sides in (tile, piece))
        flat = self._shrunk(images.to(dtype))
        saturation = None if saturation is None else saturation.to(dtype)
        if small is None:
            features = self._extracted(flat).unflatten(0, images.shape[:2])
            picture = self._picture(features, saturation, flat.unflatten(0, images.shape[:2]), part)
            return self._finished(picture, images).to(images.dtype)
        features = flat.new_empty(len(flat), self.config.features, *flat.shape[-2:])
        tiled(self._extracted, [flat], features, tile=small, halo=self.feature_radius)
        parts = [part_of.unflatten(0, images.shape[:2]) for part_of in (features, flat)]
        parts += [] if saturation is None else [saturation]
        scale = side * self.config.grow
        out = flat.new_empty(len(images), self.config.outputs, *(scale * s for s in flat.shape[-2:]))

        def picture_of(features: Tensor, flat: Tensor, saturation: Tensor | None = None) -> Tensor:
            return self._picture(features, saturation, flat, part)

        tiled(picture_of, parts, out, tile=small, halo=self.radius, step=self.step, scale=scale)
        return self._finished(out, images).to(images.dtype)
