"""Exposure interpolation: Zheng, Li, Yang and Wu, "Compensated exposure interpolation by fusing conventional and deep
learning methods".

The conventional half (section III.A) makes the intermediate image x3 from intensity mapping functions; the network LRL
(section III.B, Table I) adds what these do not model, so that the result is x3 + LRL(x3).
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hdrops.models import _pretrained
from hdrops.nn.initial import near_pixelwise_
from hdrops.nn.tiling import tiled
from hdrops.ops._arguments import CODE_DTYPES, can_wait, check_fraction, check_image_dtype, keep_format
from hdrops.ops._response import Maps, MapsAt, check_maps, pair_imfs
from hdrops.ops.imf import crf_imf, gamma_imf, imf_fuse, intermediate_imf

Preset = Literal["paper", "light", "tiny"]
Input = Literal["x3", "dark", "bright"]
SYSTEM = "exposure_interpolation"
COLOURS = 3
MOST_STEPS = 1000
_BRIGHTER = 1.1  # ratio of mean codes from which images are in the wrong order: 0.3 stops of the response z^(1/2.2)
_SAMPLED = 1 << 18  # pixels at most, about, that means are taken of

# ---- the conventional half -------------------------------------------------------------------------------------------


def _codes(image: Tensor) -> Tensor:
    """The image as codes, for histograms."""
    if not image.is_floating_point():
        return image
    return (image.detach().float() * 65535).round().clamp(0, 65535).to(torch.int32).to(torch.uint16)


class SwappedImages(ValueError):
    """The image given as the dark one is clearly brighter than the bright one."""


def _check_order(dark: Tensor, bright: Tensor) -> None:
    """Raise where the mean code of the dark image exceeds that of the bright one by more than a tenth.

    Both are taken on a regular grid of pixels. A program that is being traced or captured does not ask.
    """
    if not can_wait(dark):
        return
    step = max(1, math.isqrt(dark.shape[-2] * dark.shape[-1] // _SAMPLED))
    means = [image[..., ::step, ::step].float().mean((1, 2, 3)) for image in (dark, bright)]
    if bool((means[0] > _BRIGHTER * means[1]).any()):
        raise SwappedImages("dark must be the less exposed image, but is clearly brighter than bright; swap the images")


def _check_range(image: Tensor, name: str) -> None:
    if image.is_floating_point() and image.numel() and not bool(((image >= 0) & (image <= 1)).all()):
        raise ValueError(f"{name} must lie in [0, 1]; scale it by its maximum, or tone it to display range first")


def _check_channels(image: Tensor) -> None:
    if image.dim() != 4 or image.shape[1] not in (1, COLOURS):
        raise ValueError(
            f"images must be (N, C, H, W) with 3 channels, or 1 for grey, got shape {tuple(image.shape)}; "
            "drop an alpha channel"
        )


def _check_images(dark: Tensor, bright: Tensor) -> None:
    for image, name in ((dark, "dark"), (bright, "bright")):
        check_image_dtype(image, name)
        _check_range(image, name)
    _check_channels(dark)
    if dark.shape != bright.shape:
        raise ValueError(f"dark {tuple(dark.shape)} and bright {tuple(bright.shape)} must have one shape")


def _check_steps(steps: int) -> int:
    steps = operator.index(steps)
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps must be 1 to {MOST_STEPS}, got {steps}")
    return steps


def _maps(
    dark: Tensor,
    bright: Tensor,
    ratio: float | None,
    gamma: float | None,
    crf: Tensor | None,
    imf: tuple[Tensor, Tensor] | None,
    maps: Maps,
) -> MapsAt:
    """The maps to any exposure between two images, from what is known of these."""
    response = "gamma" if gamma is not None else "crf" if crf is not None else None
    if imf is not None and (ratio is not None or response is not None):
        raise ValueError("imf says all about the exposures; leave out ratio, gamma and crf")
    if gamma is not None and crf is not None:
        raise ValueError("gamma and crf both state the response; give one of them")
    if response is not None and ratio is None:
        raise ValueError(
            f"{response} needs the exposure ratio of the images as well: give ratio, or neither for an estimate"
        )
    if ratio is not None:
        if not 1 <= ratio < math.inf:
            raise ValueError(
                f"ratio is the exposure time of the bright image over that of the dark one, at least 1, got {ratio}; "
                "swap the images if it is below"
            )
        times, exponent = ratio, 1 / 2.2 if gamma is None else gamma

        def known(fraction: float) -> tuple[Tensor, Tensor]:
            to, back = times**fraction, times ** (fraction - 1)
            if crf is None:
                return gamma_imf(to, exponent).clamp(max=255), gamma_imf(back, exponent)
            return crf_imf(crf, to), crf_imf(crf, back)

        return known
    if imf is not None:
        if len(imf) != 2:
            raise ValueError(f"imf must be two tables, of the dark and of the bright image, got {len(imf)}")
        forth, back = imf
        return lambda f: (intermediate_imf(forth, f), intermediate_imf(back, 1 - f))
    _check_order(dark, bright)
    return pair_imfs(_codes(dark), _codes(bright), 256 if dark.dtype == torch.uint8 else 4096, maps)


def interpolate_exposure(
    dark: Tensor,
    bright: Tensor,
    *,
    fraction: float = 0.5,
    ratio: float | None = None,
    gamma: float | None = None,
    crf: Tensor | None = None,
    imf: tuple[Tensor, Tensor] | None = None,
    maps: Maps = "response",
) -> Tensor:
    """An exposure between two, from their intensity mapping functions alone (eq. 5-12): the image x3.

    Without ``ratio`` and ``imf``, the maps are estimated from the two images; no exposure time or camera response is
    needed.

    Args:
        dark: the less exposed image (N, C, H, W), C = 3 or 1, uint8, uint16 or floating point in [0, 1].
        bright: the more exposed image; same shape, dtype and device.
        fraction: position between the exposures on the logarithmic scale, 0 being the dark and 1 the bright one, both
            excluded. The paper takes 1/2, the geometric mean of the exposure times.
        ratio: exposure time of the bright image over that of the dark one, at least 1.
        gamma: of the response z^γ that ``ratio`` is applied to where there is no ``crf``, 1/2.2 by default. The paper
            leaves it open.
        crf: the camera response that ``ratio`` is applied to, as :func:`hdrops.crf_imf` takes it. The maps are then the
            direct ones to the exposure between, Λ(z) = F(r F⁻¹(z)) with the ratio r to it, instead of the square-root
            rule (eq. 7).
        imf: the tables Λ12, from the dark image to the bright one, and Λ21, as :func:`hdrops.estimate_imf` gives them.
        maps: how they are estimated where nothing is known: by "response" (:func:`hdrops.estimate_response`), or by
            "histogram" specification and the square-root rule, as the paper has it.

    Returns:
        The image exposed for Δt_dark^(1-f) Δt_bright^f, same shape and dtype.

    Raises:
        SwappedImages: a ValueError: the mean code of ``dark`` exceeds that of ``bright`` by more than a tenth. That is
            asked where the maps are estimated, but not under ``torch.compile``, ``torch.export`` and in CUDA graphs.
        TypeError, ValueError: images of other shapes or dtypes, float images outside [0, 1], or arguments out of
            range or at odds with each other.
    """
    check_fraction(fraction)
    check_maps(maps)
    _check_images(dark, bright)
    return imf_fuse(dark, bright, *_maps(dark, bright, ratio, gamma, crf, imf, maps)(fraction))


# ---- the network -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LRLConfig:
    """Sizes of :class:`LRL`. The defaults are Table I, with what it leaves open as explained there.

    Args:
        in_channels: of the image that the network sees.
        out_channels: of the residual.
        stem: channels of the two first convolutions.
        hidden: channels within a bottleneck.
        features: channels between bottlenecks.
        blocks: the bottlenecks in their order, "L" (linear) or "R" (with a shortcut around it).
        last_depthwise: whether the last bottleneck has its 3 x 3 layer.

    Raises:
        ValueError: a size that is not positive, or blocks that cannot be built.
    """

    in_channels: int = COLOURS
    out_channels: int = COLOURS
    stem: int = 32
    hidden: int = 32
    features: int = 64
    blocks: str = "LLRLRLRL"
    last_depthwise: bool = False

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "stem", "hidden", "features"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 4096:
                raise ValueError(f"{name} must be an integer from 1 to 4096, got {value!r}")
        if not isinstance(self.blocks, str) or not 1 <= len(self.blocks) <= 64 or set(self.blocks) - set("LR"):
            raise ValueError(f"blocks must be 1 to 64 letters L or R, got {self.blocks!r}")
        if self.blocks[0] == "R" and self.stem != self.features:
            raise ValueError(f"a first block R needs stem and features alike, got {self.stem} and {self.features}")
        if type(self.last_depthwise) is not bool:
            raise ValueError(f"last_depthwise must be true or false, got {self.last_depthwise!r}")

    @classmethod
    def preset(cls, name: Preset, **changes: Any) -> Self:
        """A named configuration: "paper" (Table I), "light" (about a quarter of it) or "tiny" (for tests).

        Args:
            name: of the preset.
            changes: fields to set differently.

        Raises:
            ValueError: an unknown name, or a value out of range.
        """
        sizes: dict[str, dict[str, Any]] = {
            "paper": {},
            "light": {"stem": 16, "hidden": 16, "features": 32},
            "tiny": {"stem": 8, "hidden": 8, "features": 16, "blocks": "LRL"},
        }
        if name not in sizes:
            raise ValueError(f"preset must be one of {', '.join(sizes)}, got {name!r}")
        return cls(**(sizes[name] | changes))


class _Bottleneck(nn.Module):
    """1 x 1 and ReLU, 3 x 3 of each channel and ReLU, 1 x 1 without activation; around them an R block's shortcut."""

    def __init__(self, channels: int, hidden: int, features: int, depthwise: bool, shortcut: bool) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) if depthwise else None
        self.project = nn.Conv2d(hidden, features, 1)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.expand(x).relu()
        if self.depthwise is not None:
            hidden = self.depthwise(hidden).relu()
        y: Tensor = self.project(hidden)
        return x + y if self.shortcut else y


class LRL(nn.Module):
    """The lightweight residual learning network (Table I), whose receptive field is 21 x 21.

    Two 3 x 3 convolutions with ReLU, eight bottlenecks, a 3 x 3 convolution. Every 3 x 3 layer pads with zeros; nothing
    is normalised or pooled.

    The paper leaves open, and this project resolves: bottlenecks have 32 hidden channels, which fits its 200 kB; the
    last has no 3 x 3 layer, since the table's receptive field does not grow there (``last_depthwise`` adds it); an R
    bottleneck is an L bottleneck with an identity shortcut; and neither the last layer nor a bottleneck's last one has
    the ReLU of eq. 19, since a residual has a sign. So built it has 46,627 parameters; with ``last_depthwise`` 46,947.

    It begins near a network of single pixels, since most of what is to be learnt is a curve: middle taps are drawn from
    He's normal distribution over the channels (with a gain of 1 where no ReLU follows), but are 1 in layers of each
    channel; the other taps have a thirtieth of that deviation, biases are 0. Layers of random taps would have to
    unlearn their blur first: that takes two to six times the updates to the same error.

    Args:
        config: its sizes.
    """

    def __init__(self, config: LRLConfig | None = None) -> None:
        super().__init__()
        self.config = config = LRLConfig() if config is None else config
        self.head = nn.Conv2d(config.in_channels, config.stem, 3, padding=1)
        self.stem = nn.Conv2d(config.stem, config.stem, 3, padding=1)
        last = len(config.blocks) - 1
        self.blocks = nn.ModuleList(
            _Bottleneck(
                config.features if i else config.stem,
                config.hidden,
                config.features,
                i < last or config.last_depthwise,
                kind == "R",
            )
            for i, kind in enumerate(config.blocks)
        )
        self.tail = nn.Conv2d(config.features, config.out_channels, 3, padding=1)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d):
                near_pixelwise_(layer, linear=name == "tail" or name.endswith("project"))

    @property
    def radius(self) -> int:
        """How far a pixel's receptive field reaches, 10 in the paper's 21 x 21."""
        return 3 + sum(block.depthwise is not None for block in self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """The residual of an image.

        Args:
            x: (N, in_channels, H, W), nominally in [0, 1].

        Returns:
            (N, out_channels, H, W).
        """
        x = self.stem(self.head(x).relu()).relu()
        for block in self.blocks:
            x = block(x)
        residual: Tensor = self.tail(x)
        return residual

    def folded(self) -> Callable[[Tensor], Tensor]:
        """The same function of x, with the present weights, at about half the arithmetic.

        Between the ReLU of one bottleneck and that of the next there are only 1 x 1 layers: they are multiplied out,
        and so is the last bottleneck's with the last convolution. Results differ by rounding errors alone, and so do
        gradients, which pass through the products to the parameters.
        """
        return _Folded(self)

    @torch.no_grad()
    def predict(self, x: Tensor, *, tile: int | tuple[int, int] | None = None) -> Tensor:
        """The residual of an image of any size, for inference: :meth:`folded`, tile by tile.

        Args:
            x: (N, in_channels, H, W), of the dtype and on the device of the network.
            tile: as for :meth:`ExposureInterpolator.interpolate`.

        Returns:
            (N, out_channels, H, W), in the memory format of x; that of :meth:`forward` but for rounding errors.

        Raises:
            ValueError: x of another shape, or a tile without pixels.
        """
        config = self.config
        if x.dim() != 4 or x.shape[1] != config.in_channels:
            raise ValueError(f"x must be (N, {config.in_channels}, H, W), got shape {tuple(x.shape)}")
        out = keep_format(x.new_empty(len(x), config.out_channels, *x.shape[2:]), x)
        return tiled(self.folded(), (x,), out, tile=_tile(x) if tile is None else tile, halo=self.radius)


def _tile(image: Tensor) -> int:
    """Pixels a side of a tile: its activations stay within the last cache of a CPU; a GPU wants more work at once."""
    return 192 if image.device.type == "cpu" else 1024


class _Folded:
    """What :meth:`LRL.folded` says.

    The features f between bottlenecks are never formed. After an L bottleneck f = P h + b, where h is what it has
    behind its last ReLU; each R bottleneck after it adds such a term. The next layer E f + e is therefore
    Σ (E P) h + (E b + e). Where it is the last convolution, its padding is the zero of f and not that of h, so that b
    counts only at the taps that lie within the image.
    """

    def __init__(self, network: LRL) -> None:
        kept = network.tail.weight

        def ready(weight: Tensor) -> Tensor:
            return weight.to(kept.dtype).contiguous(memory_format=torch.channels_last)

        def matrix(layer: nn.Conv2d) -> Tensor:
            return layer.weight.double().flatten(1)

        def offset(layer: nn.Conv2d) -> Tensor:
            assert layer.bias is not None
            return layer.bias.double()

        self.first = [(ready(layer.weight), layer.bias) for layer in (network.head, network.stem)]
        self.layers: list[tuple[Tensor, Tensor, nn.Conv2d | None, bool]] = []
        terms: list[Tensor] = []
        bias = kept.new_zeros(network.config.features, dtype=torch.float64)
        for block in network.blocks:
            assert isinstance(block, _Bottleneck)
            weight, constant = matrix(block.expand), offset(block.expand)
            if terms:
                constant = weight @ bias + constant
                weight = torch.cat([weight @ term for term in terms], 1)
            elif block.shortcut:  # a first block R: its own input is a term
                terms = [torch.eye(network.config.features, dtype=torch.float64, device=kept.device)]
            self.layers.append(
                (ready(weight[:, :, None, None]), constant.to(kept.dtype), block.depthwise, block.shortcut)
            )
            term, constant = matrix(block.project), offset(block.project)
            terms, bias = ([*terms, term], bias + constant) if block.shortcut else ([term], constant)
        tail = kept.double()
        self.last = ready(torch.cat([torch.einsum("ofyx,fh->ohyx", tail, term) for term in terms], 1))
        self.last_bias = network.tail.bias
        self.taps = torch.einsum("ofyx,f->oyx", tail, bias)[:, None].to(kept.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for weight, bias in self.first:
            x = F.conv2d(x, weight, bias, padding=1).relu_()
        terms = [x]
        for weight, bias, depthwise, shortcut in self.layers:
            hidden = F.conv2d(terms[0] if len(terms) == 1 else torch.cat(terms, 1), weight, bias).relu_()
            if depthwise is not None:
                hidden = depthwise(hidden).relu_()
            terms = [*terms, hidden] if shortcut else [hidden]
        residual = F.conv2d(terms[0] if len(terms) == 1 else torch.cat(terms, 1), self.last, self.last_bias, padding=1)
        inside = residual.new_ones(1, 1, *residual.shape[2:])
        return residual.add_(F.conv2d(inside, self.taps, padding=1))


# ---- the system ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ExposureInterpolatorConfig:
    """What an :class:`ExposureInterpolator` is made of.

    Args:
        network: sizes of the network; it takes 3 channels of each input and returns 3.
        inputs: what the network sees, of "x3", "dark" and "bright", each at most once. The paper's sees "x3" alone.
        residual: whether the network learns y - x3, as the paper has it, or y itself, to which the paper compares it.
        low: the codes (ξL, 55) between which the weight of the dark image rises in x3 (eq. 9).
        high: the codes (200, ξU) between which that of the bright one falls (eq. 10).
        maps: how the maps of x3 are estimated from two images: by "histogram" specification and the square-root rule,
            as the paper has it, or by "response" (:func:`hdrops.estimate_response`). A network must be used with those
            that it is trained with.

    Raises:
        ValueError: values out of range, or a network of other channels.
    """

    network: LRLConfig = LRLConfig()
    inputs: tuple[Input, ...] = ("x3",)
    residual: bool = True
    low: tuple[float, float] = (5.0, 55.0)
    high: tuple[float, float] = (200.0, 250.0)
    maps: Maps = "histogram"

    def __post_init__(self) -> None:
        known = get_args(Input)
        if not self.inputs or any(self.inputs.count(name) > 1 or name not in known for name in self.inputs):
            raise ValueError(f"inputs must be some of x3, dark and bright, each once, got {self.inputs!r}")
        if type(self.residual) is not bool:
            raise ValueError(f"residual must be true or false, got {self.residual!r}")
        for name in ("low", "high"):
            ends = getattr(self, name)
            numbers = len(ends) == 2 and all(type(end) in (int, float) for end in ends)
            if not numbers or not -math.inf < ends[0] < ends[1] < math.inf:
                raise ValueError(f"{name} must be two finite, increasing code values, got {ends!r}")
        check_maps(self.maps)
        channels = COLOURS * len(self.inputs)
        if self.network.in_channels != channels or self.network.out_channels != COLOURS:
            raise ValueError(
                f"the network must have in_channels={channels} and out_channels={COLOURS} for inputs {self.inputs}, "
                f"got {self.network.in_channels} and {self.network.out_channels}"
            )

    @classmethod
    def preset(cls, name: Preset, *, inputs: tuple[Input, ...] = ("x3",), **changes: Any) -> Self:
        """A configuration with the network of that preset, for these inputs.

        Args:
            name: of the preset: "paper", "light" or "tiny".
            inputs: as above.
            changes: other fields to set differently.

        Raises:
            ValueError: an unknown name, or a value out of range.
        """
        return cls(LRLConfig.preset(name, in_channels=COLOURS * len(inputs)), tuple(inputs), **changes)

    @classmethod
    def _read(cls, values: dict[str, Any], where: str) -> Self:
        """From the object of a configuration file."""
        values = dict(values)
        system = values.pop("system", None)
        if system != SYSTEM:
            raise ValueError(f"{where}: system must be {SYSTEM!r}, got {system!r}")
        network = values.get("network")
        if isinstance(network, dict):
            values["network"] = _pretrained.build(LRLConfig, network, f"{where}, network")
        elif network is not None:
            raise ValueError(f"{where}: network must be an object, got {network!r}")
        for name in ("inputs", "low", "high"):
            if name in values:
                if not isinstance(values[name], list):
                    raise ValueError(f"{where}: {name} must be a list, got {values[name]!r}")
                values[name] = tuple(values[name])
        return _pretrained.build(cls, values, where)


def _store(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in [0, 1] as codes, rounded half to even, or as floats; clamped."""
    if dtype not in CODE_DTYPES:
        return values.clamp(0, 1).to(dtype)
    full = torch.iinfo(dtype).max
    return (values * full).round().clamp(0, full).to(torch.int32).to(dtype)


def _unit(image: Tensor) -> Tensor:
    """An image in [0, 1] in the arithmetic type: float32, or float64 where it is."""
    if image.dtype in CODE_DTYPES:
        return image.float() / torch.iinfo(image.dtype).max
    return image if image.dtype == torch.float64 else image.float()


class ExposureInterpolator(nn.Module):
    """Exposures between two of a bracket: x3 + LRL(x3) (section III).

    With ``residual`` the network's last layer begins at 0, so that training begins at x3. Grey images are shown to the
    network as three equal channels, and the mean of its three results is theirs.

    Args:
        config: what it is made of.
    """

    def __init__(self, config: ExposureInterpolatorConfig | None = None) -> None:
        super().__init__()
        self.config = ExposureInterpolatorConfig() if config is None else config
        self.network = LRL(self.config.network)
        if self.config.residual:
            nn.init.zeros_(self.network.tail.weight)

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
        folder = _pretrained.shipped(SYSTEM) if source is None else source
        return _pretrained.load(cls, ExposureInterpolatorConfig._read, folder)

    def save_pretrained(self, folder: _pretrained.Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` for :meth:`from_pretrained`, each file whole or not at all.

        Args:
            folder: made if it does not exist; what it holds under these names is replaced.

        Raises:
            OSError: the folder cannot be written.
        """
        _pretrained.save(folder, {"system": SYSTEM, **dataclasses.asdict(self.config)}, self)

    def forward(self, dark: Tensor, bright: Tensor, imf_dark: Tensor, imf_bright: Tensor) -> Tensor:
        """The interpolated image, for training: differentiable and not clamped.

        Args:
            dark: the less exposed image (N, C, H, W), C = 3 or 1, floating point in [0, 1] or codes.
            bright: the more exposed image; same shape and dtype.
            imf_dark: the *intermediate* table of the dark image, (L,), (C, L) or (N, C, L), in 8-bit code units (see
                :func:`hdrops.intermediate_imf`).
            imf_bright: the intermediate table of the bright image.

        Returns:
            (N, C, H, W), nominally in [0, 1], float32 (float64 for float64 images).

        Raises:
            TypeError, ValueError: what :func:`hdrops.imf_fuse` raises, or images that are neither RGB nor grey.
        """
        return self._compensated(dark, bright, imf_dark, imf_bright, self.network.folded())

    def _compensated(
        self, dark: Tensor, bright: Tensor, imf_dark: Tensor, imf_bright: Tensor, network: Callable[[Tensor], Tensor]
    ) -> Tensor:
        _check_channels(dark)
        if dark.dtype in CODE_DTYPES:
            x3 = imf_fuse(
                dark,
                bright,
                imf_dark,
                imf_bright,
                low=self.config.low,
                high=self.config.high,
                dtype=torch.float32,
            )
        else:
            dark, bright = _unit(dark), _unit(bright)
            x3 = imf_fuse(dark, bright, imf_dark, imf_bright, low=self.config.low, high=self.config.high)
        images = {"x3": x3, "dark": dark, "bright": bright}
        seen = torch.cat([_unit(images[name]).expand(-1, COLOURS, -1, -1) for name in self.config.inputs], 1)
        learnt = network(seen.to(self.network.tail.weight.dtype)).to(x3.dtype)
        if x3.shape[1] == 1:
            learnt = learnt.mean(1, keepdim=True)
        return x3 + learnt if self.config.residual else learnt

    @torch.no_grad()
    def interpolate(
        self,
        dark: Tensor,
        bright: Tensor,
        steps: int = 1,
        *,
        ratio: float | None = None,
        gamma: float | None = None,
        crf: Tensor | None = None,
        imf: tuple[Tensor, Tensor] | None = None,
        tile: int | tuple[int, int] | None = None,
    ) -> Tensor:
        """Insert exposures between two images.

        Without ``ratio`` and ``imf``, the maps are estimated from the images, as ``config.maps`` says. Each exposure is
        computed from the two images themselves, none from another interpolated one.

        Args:
            dark: the less exposed image (N, C, H, W), C = 3 or 1, of any size: uint8 or uint16 codes, or floating point
                in [0, 1].
            bright: the more exposed image; same shape, dtype and device, which is that of the model.
            steps: number n of exposures, at the fractions i / (n + 1) of the way from the dark to the bright exposure
                on the logarithmic scale. The weights that come with hdrops are trained at 1/4, 1/3, 1/2, 2/3 and 3/4;
                the paper's at 1/2 alone.
            ratio: exposure time of the bright image over that of the dark one, at least 1.
            gamma: of the response z^γ that ``ratio`` is applied to where there is no ``crf``, 1/2.2 by default.
            crf: the camera response that ``ratio`` is applied to, as :func:`hdrops.crf_imf` takes it; its direct maps
                replace the square-root rule, as for :func:`interpolate_exposure`.
            imf: the tables Λ12, from the dark image to the bright one, and Λ21, as :func:`hdrops.estimate_imf` returns
                them.
            tile: most pixels a side, or (rows, columns), that are computed at once, which bounds the memory; None for
                what suits the device. It changes the result by rounding errors of float32 alone.

        Returns:
            (N, steps, C, H, W), dark to bright, of the images' dtype and memory format; codes are rounded half to even.

        Raises:
            SwappedImages: a ValueError: the mean code of ``dark`` exceeds that of ``bright`` by more than a tenth. That
                is asked where the maps are estimated.
            TypeError, ValueError: images of other shapes or dtypes, float images outside [0, 1], or arguments out of
                range or at odds with each other.
        """
        steps = _check_steps(steps)
        expose = self._between(dark, bright, ratio=ratio, gamma=gamma, crf=crf, imf=imf, tile=tile)
        n, c, h, w = dark.shape
        if dark.is_contiguous(memory_format=torch.channels_last) and not dark.is_contiguous():
            result = dark.new_empty(n, steps, h, w, c).permute(0, 1, 4, 2, 3)
        else:
            result = dark.new_empty(n, steps, c, h, w)
        for i in range(steps):
            expose((i + 1) / (steps + 1), result[:, i])
        return result

    def _between(
        self,
        dark: Tensor,
        bright: Tensor,
        *,
        ratio: float | None = None,
        gamma: float | None = None,
        crf: Tensor | None = None,
        imf: tuple[Tensor, Tensor] | None = None,
        tile: int | tuple[int, int] | None = None,
    ) -> Callable[[float, Tensor], Tensor]:
        """What computes the exposure at a fraction of the way from dark to bright into a tensor, and returns this.

        All is checked here, and the maps and the folded network are made once for all fractions.
        """
        home = self.network.tail.weight.device
        for image, name in ((dark, "dark"), (bright, "bright")):
            if image.device != home:
                raise ValueError(f"{name} is on {image.device}, the model on {home}; move one of them")
        _check_images(dark, bright)
        with torch.no_grad():
            maps = _maps(dark, bright, ratio, gamma, crf, imf, self.config.maps)
            network = self.network.folded()
        side = _tile(dark) if tile is None else tile

        @torch.no_grad()
        def expose(fraction: float, out: Tensor) -> Tensor:
            tables = maps(fraction)

            def frame(dark: Tensor, bright: Tensor) -> Tensor:
                return _store(self._compensated(dark, bright, *tables, network), dark.dtype)

            return tiled(frame, (dark, bright), out, tile=side, halo=self.network.radius)

        return expose


def exposures_between(
    dark: Tensor, bright: Tensor, model: ExposureInterpolator | None = None, steps: int = 1
) -> Iterator[Tensor]:
    """The exposures of :meth:`ExposureInterpolator.interpolate` one at a time, none kept.

    What they share is computed once, when this is called: the estimated maps, and the model in the form in which it
    runs, with the weights that it has then.

    Args:
        dark: the less exposed image (N, C, H, W), C = 3 or 1, uint8, uint16 or floating point in [0, 1].
        bright: the more exposed image; same shape, dtype and device.
        model: what interpolates; None for the intensity mapping functions alone.
        steps: number of exposures, 1 to 1000, evenly spaced on the logarithmic scale.

    Returns:
        An iterator over ``steps`` images (N, C, H, W), dark to bright, of the dtype of ``dark``.

    Raises:
        TypeError, ValueError: as for :meth:`ExposureInterpolator.interpolate`, at the call.
    """
    steps = _check_steps(steps)
    fractions = (i / (steps + 1) for i in range(1, steps + 1))
    if model is not None:
        expose = model._between(dark, bright)
        return (expose(fraction, torch.empty_like(dark)) for fraction in fractions)
    _check_images(dark, bright)
    maps = _maps(dark, bright, None, None, None, None, "response")
    return (imf_fuse(dark, bright, *maps(fraction)) for fraction in fractions)


def insert_exposures(bracket: Tensor, model: ExposureInterpolator | None = None, steps: int = 1) -> Tensor:
    """The bracket with interpolated exposures between every two neighbours (section IV.E).

    Args:
        bracket: (N, K, C, H, W), K >= 2, C = 3 or 1, dark to bright, uint8, uint16 or floating point in [0, 1].
        model: what interpolates; None for the intensity mapping functions alone.
        steps: number of exposures between two neighbours, 1 to 1000.

    Returns:
        (N, K + (K - 1) steps, C, H, W), dark to bright.

    Raises:
        SwappedImages: a ValueError: the mean code of an exposure exceeds that of the next by more than a tenth.
        TypeError, ValueError: fewer than two exposures, steps out of range, or images of another kind.
    """
    if bracket.dim() != 5 or bracket.shape[1] < 2:
        raise ValueError(
            f"interpolation needs a bracket (N, K, C, H, W) of at least two exposures, got {tuple(bracket.shape)}"
        )
    steps = _check_steps(steps)
    n, k, *size = bracket.shape
    result = bracket.new_empty(n, k + (k - 1) * steps, *size)
    result[:, :: steps + 1] = bracket
    for pair in range(k - 1):
        between = exposures_between(bracket[:, pair], bracket[:, pair + 1], model, steps)
        for place, image in enumerate(between, pair * (steps + 1) + 1):
            result[:, place] = image
    return result
