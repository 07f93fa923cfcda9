"""Training of :class:`hdrops.models.ExposureInterpolator`, the hybrid exposure interpolation of Zheng, Li, Yang and Wu.

Samples are triplets of a dark, a bright and an intermediate exposure: of photographed brackets
(:class:`hdrops.data.BracketTriplets`), or of virtual cameras in HDR images (:class:`hdrops.data.SyntheticTriplets`).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn
from torch.utils.data import Dataset

from hdrops.data import FRACTIONS, BracketTriplets, SyntheticTriplets
from hdrops.io import InputError
from hdrops.losses import InterpolationLoss
from hdrops.metrics import psnr
from hdrops.models import ExposureInterpolator, ExposureInterpolatorConfig
from hdrops.ops._response import Maps
from hdrops.ops.imf import imf_fuse
from hdrops.ops.ssim import ssim
from hdrops.train.config import Section, TrainConfig
from hdrops.train.scenes import (
    ScenesConfig,
    SynthesisConfig,
    camera_of,
    datasets,
    eight_bits,
    means,
    panorama_of,
    picture_of,
    picture_row,
    spread,
)
from hdrops.train.system import Batch, Data, System, Terms, Validation

_ROWS = 3  # of a validation picture
_SMALLEST = 11  # pixels a side, the window of SSIM
Triplets = BracketTriplets | SyntheticTriplets


class ModelConfig(Section):
    """The network."""

    network: Literal["paper", "light", "tiny"] = Field(default="paper", description="size: paper, light or tiny")
    inputs: tuple[Literal["x3", "dark", "bright"], ...] = Field(
        default=("x3",), min_length=1, description="what it sees, of x3, dark and bright"
    )
    residual: bool = Field(default=True, description="learn target - x3; false: the target itself")
    maps: Literal["histogram", "response"] = Field(
        default="histogram", description="how x3 is estimated: histogram, the paper's, or response"
    )

    @field_validator("inputs")
    @classmethod
    def _once(cls, inputs: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(inputs)) < len(inputs):
            raise ValueError("should name each once")
        return inputs


class LossConfig(Section):
    """Eq. 13."""

    kind: Literal["l2", "l1", "psi"] = Field(default="l2", description="restoration term: l2, l1 or psi")
    color: float = Field(default=0.1, ge=0, description="weight of the angle between colours; 0 leaves it out")
    scale: float = Field(default=1.0, gt=0, description="full scale of the values that the restoration term measures")


class BracketsConfig(Section):
    """Triplets of photographed brackets: every folder with images is a scene."""

    distance: float = Field(default=4.0, gt=0, description="stops between the dark and the bright frame")
    tolerance: float = Field(default=0.25, ge=0, description="stops by which that and the middle may differ")
    ev_step: float = Field(default=0.0, ge=0, description="stops between frames without stated exposures; 0: left out")


class InterpolationSynthesisConfig(SynthesisConfig):
    """The same, and where between them the target is."""

    half: bool = Field(default=False, description="targets halfway alone; false: at quarters and thirds as well")


class DataConfig(ScenesConfig):
    """What is learnt from."""

    patch: tuple[PositiveInt, PositiveInt] = Field(default=(60, 90), description="height and width of the samples")
    rotate: bool = Field(default=False, description="turn samples by multiples of 90 degrees as well")
    validation_size: int = Field(
        default=1024, ge=_SMALLEST, description="larger frames are cut to a middle part of so many pixels a side"
    )
    brackets: BracketsConfig = BracketsConfig()
    synthesis: InterpolationSynthesisConfig = InterpolationSynthesisConfig()


class ExposureInterpolationConfig(TrainConfig):
    """The defaults are the paper's: Adam with a fixed rate of 1e-4, 2e4 batches of 32 patches of 60 x 90."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "quick": {
        "steps": 3000,
        "batch": 16,
        "ema": 0.995,
        "optimizer": {"lr": 1e-3},
        "schedule": {"kind": "cosine", "warmup": 100, "floor": 0.01},
        "model": {"network": "light", "inputs": ["x3", "dark", "bright"], "maps": "response"},
        "loss": {"kind": "l1"},
    },
    "tiny": {
        "steps": 200,
        "batch": 4,
        "log_every": 20,
        "validate_every": 100,
        "picture_every": 1,
        "optimizer": {"lr": 2e-3},
        "model": {"network": "tiny"},
        "data": {
            "patch": [24, 36],
            "validation_samples": 4,
            "synthesis": {"samples": 64, "frame": [48, 72]},
        },
        "run": {"workers": 0, "checkpoint_every": 50},
    },
}


# ---- data ----------------------------------------------------------------------------------------------------------


def _triplets(
    scenes: Sequence[pathlib.Path], kind: str, config: DataConfig, maps: Maps, seed: int, training: bool
) -> Triplets:
    patch = config.patch if training else None
    if kind == "brackets":
        b = config.brackets
        return BracketTriplets(
            scenes,
            distance=b.distance,
            tolerance=b.tolerance,
            ev_step=b.ev_step or None,
            patch=patch,
            augment=training,
            rotate=training and config.rotate,
            seed=seed,
            maps=maps,
        )
    s = config.synthesis
    return SyntheticTriplets(
        scenes,
        panorama=panorama_of(s.panorama),
        distance=s.distance,
        fraction=0.5 if s.half else FRACTIONS,
        frame=s.frame,
        fov=s.fov,
        camera=camera_of(s),
        patch=patch,
        augment=training,
        rotate=training and config.rotate,
        seed=seed if training else seed + 1,
        maps=maps,
        samples_per_epoch=s.samples if training else config.validation_samples,
    )


def samples(config: ExposureInterpolationConfig) -> Data:
    """The triplets to train with, and those of other scenes to validate with."""
    data = config.data

    def made(scenes: Sequence[pathlib.Path], kind: str, training: bool) -> Triplets:
        return _triplets(scenes, kind, data, config.model.maps, config.seed, training)

    training, held_out, facts = datasets(data, made)
    if held_out is not None:
        side = held_out.smallest_side if isinstance(held_out, BracketTriplets) else min(data.synthesis.frame)
        if side < _SMALLEST:
            raise InputError(
                f"a held-out frame has {side} pixels a side, and SSIM needs {_SMALLEST}: hold other scenes out "
                "(data.held_out_scenes), or raise data.synthesis.frame"
            )
    return Data(training, held_out, facts)


# ---- learning ------------------------------------------------------------------------------------------------------


def model(config: ExposureInterpolationConfig) -> ExposureInterpolator:
    """A network with fresh weights."""
    chosen = config.model
    try:
        built = ExposureInterpolatorConfig.preset(
            chosen.network, inputs=chosen.inputs, residual=chosen.residual, maps=chosen.maps
        )
    except ValueError as error:
        raise InputError(f"model: {error}") from error
    return ExposureInterpolator(built)


def losses(network: nn.Module, batch: Batch, config: ExposureInterpolationConfig) -> Iterator[tuple[str, Terms]]:
    """Eq. 13, by its terms."""
    prediction = network(batch["dark"], batch["bright"], batch["imf_dark"], batch["imf_bright"])
    loss = InterpolationLoss(config.loss.kind, config.loss.color, scale=config.loss.scale)
    yield "", loss.terms(prediction, batch["target"])


def validate(
    network: ExposureInterpolator,
    held_out: Dataset[Any],
    config: ExposureInterpolationConfig,
    device: torch.device,
    picture: bool,
) -> Validation:
    """PSNR in dB and SSIM, means over whole frames in 8 bits, of the prediction and of x3 alone."""
    size = config.data.validation_size
    found: list[dict[str, float]] = []
    rows: list[Tensor] = []
    for sample in spread(held_out, config.data.validation_samples):
        images = {name: _middle(sample[name], size)[None].to(device) for name in ("dark", "bright", "target")}
        tables = sample["imf_dark"][None].to(device), sample["imf_bright"][None].to(device)
        pair = images["dark"], images["bright"]
        x3 = imf_fuse(*pair, *tables, low=network.config.low, high=network.config.high)
        results = {"": eight_bits(network(*pair, *tables)), "_x3": eight_bits(x3)}
        found.append(
            {
                name + suffix: float(metric(result, images["target"]))
                for suffix, result in results.items()
                for name, metric in (("psnr", psnr), ("ssim", ssim))
            }
        )
        if picture and len(rows) < _ROWS:
            rows.append(picture_row([results["_x3"][0], results[""][0], images["target"][0]]))
    return Validation(means(found), picture_of(rows))


def _middle(image: Tensor, size: int) -> Tensor:
    """The middle of an image, so many pixels a side at most."""
    height, width = image.shape[-2:]
    top, left = max(0, height - size) // 2, max(0, width - size) // 2
    return image[..., top : top + size, left : left + size]


def _export(network: nn.Module, folder: pathlib.Path) -> None:
    assert isinstance(network, ExposureInterpolator)
    network.save_pretrained(folder)


SYSTEM = System(
    name="exposure-interpolation",
    config=ExposureInterpolationConfig,
    presets=PRESETS,
    model=model,
    samples=samples,
    losses=losses,
    export=_export,
    validate=validate,
    best=("psnr", "highest"),
    size_keys=("batch", "data.patch"),
    validation_keys=("data.validation_size",),
)
