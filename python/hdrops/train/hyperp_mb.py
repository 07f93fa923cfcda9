"""Training of :class:`hdrops.models.HyperPMB`, the fusion of exposures of Im, Son, Kwon and Lee.

Samples are triplets of an under-, a correctly and an overexposed image: of photographed brackets
(:class:`hdrops.data.FusionTriplets`), or of virtual cameras in HDR images (:class:`hdrops.data.SyntheticTriplets`).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.utils.data import Dataset

from hdrops.data import FRACTIONS, FusionTriplets, SyntheticTriplets
from hdrops.io import InputError
from hdrops.losses import HyperPMBLoss, MaskBuilder, ParamTuner
from hdrops.models import HyperPMB, HyperPMBConfig
from hdrops.ops._grey import luma
from hdrops.ops.mef_ssim import mef_ssim
from hdrops.ops.ssim import ms_ssim
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
_WINDOW = 11  # pixels a side, of MS-SSIM
Triplets = FusionTriplets | SyntheticTriplets


class ModelConfig(Section):
    """The network."""

    network: Literal["paper", "densefuse", "light", "tiny"] = Field(
        default="paper", description="paper, densefuse (one encoder, mean of features), light or tiny"
    )


class LossConfig(Section):
    """Eq. 6 to 13."""

    task: Literal["fusion", "reconstruction"] = Field(
        default="fusion", description="reconstruction: every image is its own target, as DenseFuse is trained"
    )
    masks: bool = Field(default=True, description="learn the useful areas of the under- and overexposed image as well")
    tuner: bool = Field(default=True, description="weigh these two by the distances of their exposures")
    sigma: float = Field(default=10.0, ge=0.3, le=200, description="of the blur of the masks, in pixels")
    alpha: float = Field(default=1000.0, ge=0, description="weight of 1 - MS-SSIM beside the square error")
    scale: float = Field(default=255.0, gt=0, description="full scale of the values whose error is squared")
    scales: int = Field(default=5, ge=1, le=5, description="of MS-SSIM")


class FusionSynthesisConfig(SynthesisConfig):
    """Whole pictures are the samples."""

    distance: tuple[float, float] = Field(default=(2.0, 8.0), description="range of stops between dark and bright")
    frame: tuple[PositiveInt, PositiveInt] = Field(default=(256, 256), description="height and width of a picture")


class DataConfig(ScenesConfig):
    """What is learnt from."""

    size: tuple[PositiveInt, PositiveInt] = Field(
        default=(256, 256), description="height and width that photographs are resized to"
    )
    synthesis: FusionSynthesisConfig = FusionSynthesisConfig()


class HyperPMBTrainConfig(TrainConfig):
    """The defaults are the paper's: Adam with a fixed rate of 1e-4, 40 epochs of 460 triplets, one at a time."""

    steps: int = Field(default=18_400, ge=1, description="updates in all")
    batch: int = Field(default=1, ge=1, description="samples of an update, of all processes together")
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "quick": {
        "steps": 2000,
        "ema": 0.99,
        "optimizer": {"lr": 1e-3},
        "schedule": {"kind": "cosine", "warmup": 100, "floor": 0.01},
        "model": {"network": "light"},
    },
    "tiny": {
        "steps": 100,
        "batch": 2,
        "ema": 0.9,
        "log_every": 20,
        "validate_every": 50,
        "picture_every": 1,
        "optimizer": {"lr": 1e-3},
        "model": {"network": "tiny"},
        "loss": {"scales": 2, "sigma": 3.0},
        "data": {"size": [48, 64], "validation_samples": 4, "synthesis": {"samples": 64, "frame": [48, 64]}},
        "run": {"workers": 0, "checkpoint_every": 50},
    },
}


def _triplets(scenes: Sequence[pathlib.Path], kind: str, config: DataConfig, seed: int, training: bool) -> Triplets:
    if kind == "brackets":
        return FusionTriplets(scenes, size=config.size, seed=seed, augment=training)
    s = config.synthesis
    return SyntheticTriplets(
        scenes,
        panorama=panorama_of(s.panorama),
        distance=s.distance,
        fraction=FRACTIONS,
        frame=s.frame,
        fov=s.fov,
        camera=camera_of(s),
        patch=None,
        augment=training,
        seed=seed if training else seed + 1,
        maps=None,
        samples_per_epoch=s.samples if training else config.validation_samples,
    )


def samples(config: HyperPMBTrainConfig) -> Data:
    """The triplets to train with, and those of other scenes to validate with."""
    data = config.data
    least = ((_WINDOW - 1) << (config.loss.scales - 1)) + 1

    def made(scenes: Sequence[pathlib.Path], kind: str, training: bool) -> Triplets:
        key, sides = ("size", data.size) if kind == "brackets" else ("synthesis.frame", data.synthesis.frame)
        if min(sides) < least:
            raise InputError(
                f"MS-SSIM on {config.loss.scales} scales needs {least} pixels a side; raise data.{key}, or lower "
                "loss.scales"
            )
        return _triplets(scenes, kind, data, config.seed, training)

    return Data(*datasets(data, made))


def model(config: HyperPMBTrainConfig) -> HyperPMB:
    """A network with fresh weights."""
    return HyperPMB(HyperPMBConfig.preset(config.model.network))


def loss_of(config: LossConfig) -> HyperPMBLoss:
    """The loss that a configuration describes."""
    masks = config.masks and config.task == "fusion"
    return HyperPMBLoss(
        MaskBuilder(config.sigma) if masks else None,
        ParamTuner() if masks and config.tuner else None,
        alpha=config.alpha,
        scale=config.scale,
        scales=config.scales,
    )


def losses(network: nn.Module, batch: Batch, config: HyperPMBTrainConfig) -> Iterator[tuple[str, Terms]]:
    """Eq. 6, by its terms, of grey images; or eq. 7 of images that are to stay what they are."""
    images = [luma(batch[name]) for name in ("dark", "target", "bright")]
    if config.loss.task == "reconstruction":
        images = [torch.cat(images)] * 3
    dark, target, bright = images
    yield "", loss_of(config.loss).terms(network(dark, bright), dark, target, bright)


def validate(
    network: HyperPMB, held_out: Dataset[Any], config: HyperPMBTrainConfig, device: torch.device, picture: bool
) -> Validation:
    """MEF-SSIM of the grey picture given both sources, and its MS-SSIM to the correctly exposed image, in 8 bits.

    The loss is the one that is trained.
    """
    loss = loss_of(config.loss)
    found: list[dict[str, float]] = []
    rows: list[Tensor] = []
    for sample in spread(held_out, config.data.validation_samples):
        dark, target, bright = (luma(sample[name])[None].to(device) for name in ("dark", "target", "bright"))
        fused = network(dark, bright)
        judged = fused, dark, target, bright
        if config.loss.task == "reconstruction":
            images = torch.cat([dark, target, bright])
            judged = network(images, images), images, images, images
        values = {"loss": float(loss(*judged))}
        fused = eight_bits(fused)
        values["mef_ssim"] = float(mef_ssim(fused, torch.stack([dark, bright], 1)))
        values["ms_ssim_target"] = float(ms_ssim(fused, target, weights=loss.weights))
        found.append(values)
        if picture and len(rows) < _ROWS:
            rows.append(picture_row([image[0].expand(3, -1, -1) for image in (dark, target, bright, fused)]))
    return Validation(means(found), picture_of(rows))


def _export(network: nn.Module, folder: pathlib.Path) -> None:
    assert isinstance(network, HyperPMB)
    network.save_pretrained(folder)


SYSTEM = System(
    name="hyperp-mb",
    config=HyperPMBTrainConfig,
    presets=PRESETS,
    model=model,
    samples=samples,
    losses=losses,
    export=_export,
    validate=validate,
    best=("loss", "lowest"),
    size_keys=("batch", "data.size", "data.synthesis.frame"),
    validation_keys=("data.synthesis.frame",),
)
