"""Fusion of exposures: Im, Son, Kwon and Lee, "Multi-task learning approach using dynamic hyperparameter for
multi-exposure fusion", Mathematics 2023, 11, 1620, and the network that it builds on, Li and Wu, "DenseFuse: a fusion
approach to infrared and visible images", IEEE Transactions on Image Processing 2019.

Lightness is fused by the network, the two axes of colour are averaged (section 3.6, Figure 9).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from hdrops.models import _pretrained
from hdrops.nn.initial import SPREAD, near_pixelwise_
from hdrops.nn.reflection import reflected, reflected_relu
from hdrops.nn.tiling import tiled
from hdrops.ops._arguments import CODE_DTYPES, as_tensor, check_image_dtype
from hdrops.ops.lab import lab_to_rgb, rgb_to_lab

Preset = Literal["paper", "densefuse", "light", "tiny"]
Fusion = Literal["sum", "mean"]
SYSTEM = "hyperp_mb"
_COLOURS = 3
_MOST_LAYERS = 64  # of the dense block, and between the ends of the decoder
_LIGHTNESS = 100.0  # of white in CIELAB


@dataclasses.dataclass(frozen=True)
class HyperPMBConfig:
    """What a :class:`HyperPMB` is made of. The defaults are the paper's.

    Args:
        channels: of the images: 1 for lightness, 3 for a network that fuses RGB itself.
        features: of every convolution of the encoder; its dense block gives four times as many.
        layers: of the dense block.
        decoder: channels between the convolutions of the decoder.
        shared_encoder: whether one encoder sees both exposures, as DenseFuse has it.
        fusion: of the features, "sum" or "mean".
        scale: full scale of the values that the network computes with.
        lightness: whether a network of one channel sees grey images as CIELAB's lightness too, as the paper has it for
            colour, and not their values themselves.

    Raises:
        ValueError: a size that is not positive, or values out of range.
    """

    channels: int = 1
    features: int = 16
    layers: int = 3
    decoder: tuple[int, ...] = (64, 32, 16)
    shared_encoder: bool = False
    fusion: Fusion = "sum"
    scale: float = 255.0
    lightness: bool = True

    def __post_init__(self) -> None:
        sizes = {"features": self.features, "layers": self.layers}
        sizes |= {f"decoder[{i}]": size for i, size in enumerate(self.decoder)}
        for name, value in sizes.items():
            most = _MOST_LAYERS if name == "layers" else 4096
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} must be an integer from 1 to {most}, got {value!r}")
        if type(self.channels) is not int or self.channels not in (1, _COLOURS):
            raise ValueError(f"channels must be 1 or 3, got {self.channels!r}")
        if not 1 <= len(self.decoder) <= _MOST_LAYERS:
            raise ValueError(f"decoder must be 1 to 64 numbers, got {self.decoder!r}")
        for name in ("shared_encoder", "lightness"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.fusion not in get_args(Fusion):
            raise ValueError(f"fusion must be 'sum' or 'mean', got {self.fusion!r}")
        if type(self.scale) not in (int, float) or not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive, got {self.scale!r}")

    @classmethod
    def preset(cls, name: Preset, **changes: Any) -> Self:
        """A named configuration.

        Args:
            name: "paper"; "densefuse", one encoder, the mean of the features and grey values as they are, as in its
                published checkpoints;
                "light", about a quarter of the paper's; or "tiny", for tests.
            changes: fields to set differently.

        Raises:
            ValueError: an unknown name, or a value out of range.
        """
        sizes: dict[str, dict[str, Any]] = {
            "paper": {},
            "densefuse": {"shared_encoder": True, "fusion": "mean", "lightness": False},
            "light": {"features": 8, "decoder": (32, 16, 8)},
            "tiny": {"features": 4, "layers": 2, "decoder": (8, 4)},
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
        if "decoder" in values:
            if not isinstance(values["decoder"], list):
                raise ValueError(f"{where}: decoder must be a list, got {values['decoder']!r}")
            values["decoder"] = tuple(values["decoder"])
        return _pretrained.build(cls, values, where)


class _ConvLayer(nn.Conv2d):
    """3 x 3 of an image that is reflected already; ReLU is what takes its result."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__(channels, features, 3)
        near_pixelwise_(self)
        with torch.no_grad():  # see HyperPMB
            self.weight[::2, :, 1, 1] = self.weight[::2, :, 1, 1].abs() / math.sqrt(channels)
        # And so are the features then, which is the fastest on CPUs and on GPUs.
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)


class _Encoder(nn.Module):
    """C1 and the dense block, every layer of which sees all that came before."""

    def __init__(self, config: HyperPMBConfig) -> None:
        super().__init__()
        self.first = _ConvLayer(config.channels, config.features)
        self.dense = nn.ModuleList(_ConvLayer(config.features * (i + 1), config.features) for i in range(config.layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features of all layers, reflected once each: that is most of what a layer takes beside its products."""
        parts = [reflected_relu(self.first(reflected(x)))]
        for layer in self.dense:
            parts.append(reflected_relu(layer(parts[0] if len(parts) == 1 else torch.cat(parts, 1))))
        return parts


class HyperPMB(nn.Module):
    """The network of Figure 3, a DenseFuse with two encoders: 88,225 parameters, 74,193 with a shared one.

    Its layers pad by reflection and end in a ReLU each, the last one too. The receptive field is 17 x 17.

    The paper leaves the first weights open. Here the network begins near one of single pixels, since most of what is to
    be learnt is which exposure to take: middle taps are drawn from He's normal distribution over the channels, the
    others have a thirtieth of that deviation, biases are 0. Where a result is 0 ReLU has no gradient, so that a network
    may die, at the beginning or in the first updates. Against it, every second unit has middle taps that are not
    negative, divided by the root of the number of channels, and so has the last layer, scaled such that a ramp keeps
    its mean.

    Args:
        config: what it is made of.
    """

    def __init__(self, config: HyperPMBConfig | None = None) -> None:
        super().__init__()
        self.config = config = HyperPMBConfig() if config is None else config
        self.encoders = nn.ModuleList(_Encoder(config) for _ in range(1 if config.shared_encoder else 2))
        sizes = [config.features * (config.layers + 1), *config.decoder, config.channels]
        # DenseFuse keeps the number of its features in the first layer of the decoder.
        self.decoder = nn.Sequential(*(_ConvLayer(a, b) for a, b in itertools.pairwise(sizes)))
        last, mean = self._last.weight.detach(), 1 / sizes[-2]
        nn.init.trunc_normal_(last, 0, mean * SPREAD, 0, math.inf)
        nn.init.trunc_normal_(last[..., 1, 1], mean, mean / 4, 0, math.inf)
        if last.is_meta:  # its weights are still to be read
            return
        with torch.no_grad():
            ramp = torch.linspace(0, 1, 256).expand(1, config.channels, 2, -1)
            last *= ramp.mean() / self(ramp, ramp).mean().clamp(min=1e-3)

    @property
    def _last(self) -> _ConvLayer:
        layer = self.decoder[-1]
        assert isinstance(layer, _ConvLayer)
        return layer

    @property
    def radius(self) -> int:
        """How far a pixel's receptive field reaches, 8 in the paper's."""
        return 1 + self.config.layers + len(self.decoder)

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
        return _pretrained.load(cls, HyperPMBConfig._read, _pretrained.shipped(SYSTEM) if source is None else source)

    def save_pretrained(self, folder: _pretrained.Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` for :meth:`from_pretrained`, each file whole or not at all.

        Args:
            folder: made if it does not exist; what it holds under these names is replaced.

        Raises:
            OSError: the folder cannot be written.
        """
        _pretrained.save(folder, {"system": SYSTEM, **dataclasses.asdict(self.config)}, self)

    def forward(self, dark: Tensor, bright: Tensor) -> Tensor:
        """Two exposures in one image, for training: differentiable and not clamped.

        Args:
            dark: the less exposed image (N, channels, H, W), floating point in [0, 1].
            bright: the more exposed one; same shape.

        Returns:
            (N, channels, H, W), nominally in [0, 1], never negative.

        Raises:
            TypeError: images that are not floating point.
            ValueError: images of other channels, or of two shapes.
        """
        for image in (dark, bright):
            if not image.is_floating_point():
                raise TypeError(f"images must be floating point in [0, 1], got {image.dtype}; fuse() takes codes")
            if image.dim() != 4 or image.shape[1] != self.config.channels or image.shape != dark.shape:
                shapes = f"{tuple(dark.shape)} and {tuple(bright.shape)}"
                raise ValueError(f"images must both be (N, {self.config.channels}, H, W), got shapes {shapes}")
        return self._fused([dark, bright])

    def _fused(self, frames: Sequence[Tensor]) -> Tensor:
        """The image of two or more frames, dark to bright."""
        last = len(frames) - 1
        sums: list[Tensor] = []
        for encoder, places in self._sides(last):
            for k, weight in places:
                parts = encoder(frames[k] * self.config.scale)
                if weight != 1:
                    parts = [weight * part for part in parts]
                sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
        features = torch.cat(sums, 1)
        if self.config.fusion == "mean":
            features = features / 2
        first, *others = self.decoder
        result: Tensor = first(features)
        for layer in others:
            result = layer(reflected_relu(result))
        return result.relu() / self.config.scale

    def _sides(self, last: int) -> list[tuple[nn.Module, list[tuple[int, float]]]]:
        """Each encoder with the places of its frames, of 0 to ``last``, and their weights.

        They are 1 for the first frame, or the last one, where there are two, as in the paper.
        """
        if self.config.shared_encoder:  # both weights of a frame at once
            return [(self.encoders[0], [(k, 2 / (last + 1)) for k in range(last + 1)])]
        falling = [(k, 2 * (last - k) / (last * (last + 1))) for k in range(last)]
        return [(self.encoders[0], falling), (self.encoders[1], [(last - k, weight) for k, weight in falling])]

    @torch.no_grad()
    def fuse(self, bracket: Tensor, *, tile: int | tuple[int, int] | None = None) -> Tensor:
        """The picture of a bracket, for inference (Figure 9).

        A network of one channel fuses CIELAB's lightness, whose 0 to 100 it sees as 0 to 1; both axes of colour are
        the means of the frames'. With ``lightness=False`` it fuses the values of grey frames themselves. One of three
        channels fuses RGB; of grey frames its first channel is the result.

        The paper fuses two images. Of more, a frame's features are those of both encoders, and weighted means replace
        the two that are added: the weights of the encoder of dark images fall in equal steps from the darkest frame to
        0 at the brightest, and those of the other rise.

        Args:
            bracket: (N, K, C, H, W), K >= 2, C = 3 or 1, dark to bright, of any size: uint8 or uint16 codes, or
                floating point in [0, 1]; on the device of the model.
            tile: most pixels a side, or (rows, columns), that are computed at once, which bounds the memory; None for
                what suits the device. It changes the result by rounding errors of float32 alone.

        Returns:
            (N, C, H, W), of the bracket's dtype; codes are rounded half to even.

        Raises:
            TypeError, ValueError: fewer than two frames, frames of other shapes or dtypes, or float values outside
                [0, 1].
        """
        bracket = as_tensor(bracket, "bracket")
        check_image_dtype(bracket, "bracket")
        if bracket.dim() != 5 or bracket.shape[1] < 2 or bracket.shape[2] not in (1, _COLOURS):
            raise ValueError(
                "bracket must be (N, K, C, H, W) of at least two exposures, with 3 channels, or 1 for grey, got shape "
                f"{tuple(bracket.shape)}"
            )
        home = self._last.weight.device
        if bracket.device != home:
            raise ValueError(f"bracket is on {bracket.device}, the model on {home}; move one of them")
        if bracket.is_floating_point() and bracket.numel() and not bool(((bracket >= 0) & (bracket <= 1)).all()):
            raise ValueError("bracket must lie in [0, 1]; scale it by its maximum, or tone it to display range first")
        side = (256 if home.type == "cpu" else 1024) if tile is None else tile
        out = bracket.new_empty(len(bracket), *bracket.shape[2:])
        return tiled(self._picture, bracket.unbind(1), out, tile=side, halo=self.radius)

    def _picture(self, *frames: Tensor) -> Tensor:
        """The picture of frames (N, C, H, W), of their dtype."""
        channels, dtype = frames[0].shape[1], frames[0].dtype
        direct = self.config.channels == 3 or (channels == 1 and not self.config.lightness)
        colour = [frame.expand(-1, self.config.channels if direct else _COLOURS, -1, -1) for frame in frames]
        if dtype in (torch.float16, torch.bfloat16):  # L*, up to 100, would lose what [0, 1] keeps
            colour = [frame.float() for frame in colour]
        if not direct:
            spaces = [rgb_to_lab(frame) for frame in colour]
            fused = self._fused([self._ready(space[:, :1] / _LIGHTNESS) for space in spaces])
            colours = torch.stack([space[:, 1:] for space in spaces]).mean(0)
            lab = torch.cat([fused.to(colours.dtype) * _LIGHTNESS, colours], 1)
            picture = lab_to_rgb(lab, dtype=dtype if dtype in CODE_DTYPES else None).to(dtype)
        else:
            full = torch.iinfo(dtype).max if dtype in CODE_DTYPES else 1
            fused = self._fused([self._ready(frame / full) for frame in colour])
            picture = (fused * full).round().clamp(0, full).to(torch.int32).to(dtype) if full > 1 else fused.to(dtype)
        if dtype not in CODE_DTYPES:
            picture = picture.clamp(0, 1)
        return picture[:, :channels]

    def _ready(self, image: Tensor) -> Tensor:
        return image.to(self._last.weight.dtype)
