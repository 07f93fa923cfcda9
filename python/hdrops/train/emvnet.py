"""Training of :class:`hdrops.models.EMVNet`, the multi-exposure enhancement of Ren, Fan and Huang.

Samples are brackets of moving scenes with the picture wanted (:mod:`hdrops.data.dynamic`). The picture of a network for
RGB images is in their own coding, extended above 1: light^(1 / gamma) in the exposure of the reference. That of raw
images is light. For the losses and metrics light is divided by the brightest that the darkest image holds.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.utils.data import Dataset

from hdrops.data import DynamicScenes
from hdrops.io import InputError
from hdrops.losses import ContentLoss, PairwiseLoss, relativistic_discriminator_loss, relativistic_generator_loss
from hdrops.metrics import psnr
from hdrops.metrics.domains import mu_law_encode
from hdrops.metrics.hdr import ssim
from hdrops.models import EMVNet, EMVNetConfig
from hdrops.models.emvnet import Pictures
from hdrops.nn import VGGDiscriminator
from hdrops.train.config import OptimizerConfig, Section, TrainConfig
from hdrops.train.scenes import (
    Place,
    ScenesConfig,
    datasets,
    means,
    picture_of,
    picture_row,
    spread,
)
from hdrops.train.system import Batch, Data, System, Terms, Validation

_ROWS = 3  # of a validation picture
_LEAST_FRAME = 32  # pixels a side that the discriminator needs
_GENERATOR, _DISCRIMINATOR = "generator", "discriminator"


class ModelConfig(Section):
    """The network."""

    network: Literal["hdr", "raw_hdr", "isp", "light", "tiny"] = Field(default="hdr", description="its preset")
    changes: dict[str, Any] = Field(default={}, description="fields of EMVNetConfig that differ from the preset")


class LossConfig(Section):
    """L_G = L_p + lambda L_a + eta L_c + alpha L_s, the paper's weights for HDR."""

    perceptual: float = Field(default=1.0, ge=0, description="of L_p; it needs vgg")
    adversarial: float = Field(default=0.001, ge=0, description="lambda, of L_a; 0 trains no discriminator")
    content: float = Field(default=0.001, ge=0, description="eta, of L_c")
    pixels: float = Field(default=0.25, ge=0, description="alpha, of the pairs of pixels in L_s")
    patches: float = Field(default=0.25, ge=0, description="alpha, of the pairs of patches in L_s")
    pairs: int = Field(default=1024, ge=1, description="of both, of each channel of an image")
    domain: Literal["mu", "none"] = Field(default="mu", description="of L_c: mu compares by the mu-law, none as it is")
    vgg: Place = Field(default="", description="file of VGG-19's weights (.safetensors)")
    teacher: Place = Field(default="", description="folder of a trained network whose pictures are learnt as well")
    distillation: float = Field(default=1.0, ge=0, description="weight of the distance to the teacher's pictures")
    discriminator: PositiveInt = Field(default=64, description="features of the discriminator's first layers")


class DynamicConfig(Section):
    """Moving scenes photographed by virtual cameras in HDR images: every file is a scene."""

    samples: int = Field(default=2048, ge=1, description="of an epoch")
    images: int = Field(default=3, ge=2, le=16, description="of a bracket")
    stops: tuple[float, float] = Field(default=(1.5, 3.0), description="range of stops between two exposures")
    motion: float = Field(default=16.0, ge=0, description="largest motion of an object between two exposures, pixels")
    shake: float = Field(default=2.0, ge=0, description="standard deviation of the camera's motion, pixels")
    objects: int = Field(default=4, ge=0, description="most objects in a scene")
    fov: tuple[float, float] = Field(default=(50.0, 95.0), description="range of the field of view in panoramas")
    panorama: Literal["auto", "yes", "no"] = Field(default="auto", description="auto: images twice as wide as high are")


class DataConfig(ScenesConfig):
    """What is learnt from."""

    frame: tuple[PositiveInt, PositiveInt] = Field(
        default=(128, 128), description="height and width of the images that are learnt from"
    )
    validation_frame: tuple[PositiveInt, PositiveInt] = Field(
        default=(192, 256), description="of those to validate with"
    )
    gamma: float = Field(
        default=2.2, gt=0, description="of RGB images: a value is exposure^(1 / gamma); raw ones have 1"
    )
    synthesis: DynamicConfig = DynamicConfig()


class EMVNetTrainConfig(TrainConfig):
    """The defaults are the paper's: Adam, batches of 8, a rate of 1e-4 that is halved every 200,000 updates.

    How many updates there are is not said, nor of what size samples are.
    """

    steps: int = Field(default=600_000, ge=1, description="updates in all")
    batch: int = Field(default=8, ge=1, description="samples of an update, of all processes together")
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    discriminator: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()


_SCHEDULE = {"kind": "step", "every": 200_000, "factor": 0.5}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "hdr": {"schedule": _SCHEDULE},
    "quick": {
        "steps": 3000,
        "batch": 4,
        "ema": 0.995,
        "clip": 1.0,
        "optimizer": {"lr": 1e-3},
        "schedule": {"kind": "cosine", "warmup": 100, "floor": 0.01},
        "model": {
            "network": "light",
            "changes": {
                "residual": True,
                "blocks": 2,
                "depthwise": False,
                "motion_extent": 9,
                "exposures": [0.25, 0.5, 2.0, 4.0],
            },
        },
        "loss": {"perceptual": 0.0, "adversarial": 0.0, "content": 1.0, "pixels": 0.0, "patches": 0.0},
        "data": {"frame": [64, 64], "synthesis": {"motion": 6.0, "shake": 1.0}},
    },
    "tiny": {
        "steps": 100,
        "batch": 2,
        "ema": 0.9,
        "log_every": 20,
        "validate_every": 50,
        "picture_every": 1,
        "optimizer": {"lr": 1e-3},
        "discriminator": {"lr": 1e-3},
        "model": {"network": "tiny", "changes": {"residual": True}},
        "loss": {"perceptual": 0.0, "content": 1.0, "pairs": 64, "discriminator": 4},
        "data": {
            "frame": [32, 40],
            "validation_frame": [32, 40],
            "validation_samples": 4,
            "synthesis": {"samples": 64, "motion": 4.0, "shake": 1.0},
        },
        "run": {"workers": 0, "checkpoint_every": 50},
    },
}


# ---- data ----------------------------------------------------------------------------------------------------------


def samples(config: EMVNetTrainConfig) -> Data:
    """The brackets to train with, and those of other scenes to validate with."""
    data, s = config.data, config.data.synthesis
    if config.loss.adversarial and min(data.frame) < _LEAST_FRAME:
        raise InputError(
            f"the discriminator needs {_LEAST_FRAME} pixels a side; raise data.frame, or set loss.adversarial=0"
        )

    def made(scenes: Sequence[pathlib.Path], kind: str, training: bool) -> DynamicScenes:
        if kind == "brackets":
            raise InputError("brackets say nothing of the picture wanted; give folders of .hdr or .exr images")
        return DynamicScenes(
            scenes,
            panorama={"auto": None, "yes": True, "no": False}[s.panorama],
            count=s.images,
            stops=s.stops,
            frame=data.frame if training else data.validation_frame,
            motion=s.motion,
            shake=s.shake,
            objects=s.objects,
            fov=s.fov,
            gamma=data.gamma,
            seed=config.seed if training else config.seed + 1,
            samples_per_epoch=s.samples if training else data.validation_samples,
            augment=training,
        )

    return Data(*datasets(data, made))


# ---- learning ------------------------------------------------------------------------------------------------------


class Networks(nn.Module):
    """The network, and the one that it is to deceive, if there is one."""

    def __init__(self, generator: EMVNet, discriminator: VGGDiscriminator | None) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


def model(config: EMVNetTrainConfig) -> Networks:
    """Networks with fresh weights."""
    try:
        chosen = EMVNetConfig.preset(config.model.network, **_tuples(config.model.changes))
    except (TypeError, ValueError) as error:
        raise InputError(f"model: {error}") from error
    generator = EMVNet(chosen)
    if not config.loss.adversarial:
        return Networks(generator, None)
    return Networks(generator, VGGDiscriminator(features=config.loss.discriminator))


def _tuples(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}


def optimizers(config: EMVNetTrainConfig) -> Mapping[str, OptimizerConfig]:
    """Of both networks, one each."""
    if not config.loss.adversarial:
        return {_GENERATOR: config.optimizer}
    return {_GENERATOR: config.optimizer, _DISCRIMINATOR: config.discriminator}


def light_of(picture: Tensor, gamma: float) -> Tensor:
    """Linear light of a picture in the coding of the images; below 0 the same with the sign."""
    return picture if gamma == 1 else picture.sign() * picture.abs().clamp(min=1e-8) ** gamma


def losses(networks: nn.Module, batch: Batch, config: EMVNetTrainConfig) -> Iterator[tuple[str, Terms]]:
    """L_G by its terms, then what the discriminator loses (eq. 6)."""
    assert isinstance(networks, Networks)
    loss = config.loss
    generator, discriminator = networks.generator, networks.discriminator
    gamma = config.data.gamma if generator.config.channels == 3 else 1.0
    scale = batch["times"].amin(1).view(-1, 1, 1, 1)  # of light, so that the brightest is 1
    pictures = generator(batch["images"], batch["reference"])
    found = Pictures(*(light_of(picture, gamma) * scale for picture in pictures))
    target = batch["target"] * scale

    content = ContentLoss(loss.domain)
    terms: dict[str, Tensor] = {}
    if loss.content:
        terms |= {f"content_{name}": loss.content * term for name, term in content.terms(found, target).items()}
    if loss.pixels or loss.patches:
        ranked = PairwiseLoss(loss.pixels, loss.patches, pairs=loss.pairs)
        terms["pairwise"] = ranked(found.last, target)
    if loss.teacher and loss.distillation:
        with torch.no_grad():
            shown = _teacher(loss.teacher, found.last.device)(batch["images"], batch["reference"])
        for name, own, wanted in zip(Pictures._fields, found, shown, strict=True):
            distance = ContentLoss(loss.domain, weights=(1, 0, 0))([own] * 3, light_of(wanted, gamma) * scale)
            terms[f"distillation_{name}"] = loss.distillation * distance
    if discriminator is None:
        yield _GENERATOR, terms
        return
    shown, real = mu_law_encode(found.last), mu_law_encode(target)
    judged = discriminator(real).detach(), discriminator(shown)
    terms["adversarial"] = loss.adversarial * relativistic_generator_loss(*judged)
    yield _GENERATOR, terms
    yield _DISCRIMINATOR, {"": relativistic_discriminator_loss(discriminator(real), discriminator(shown.detach()))}


@functools.cache
def _teacher(folder: str, device: torch.device) -> EMVNet:
    try:
        return EMVNet.from_pretrained(folder).requires_grad_(False).to(device)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"loss.teacher: {error}") from error


def measured(
    picture: Tensor, target: Tensor, images: Tensor, reference: int, times: Tensor, gamma: float
) -> dict[str, float]:
    """The metrics of a picture (1, C, H, W) in the coding of the images, and of the reference alone."""
    scale = float(times.min())
    wanted = (target * scale).clamp(0, 1)
    found: dict[str, float] = {}
    for suffix, coded in {"": picture, "_reference": images[:, reference]}.items():
        light = (coded.clamp(min=0) ** gamma * scale).clamp(0, 1)
        found[f"psnr_mu{suffix}"] = float(psnr(light, wanted, "mu"))
        found[f"ssim_mu{suffix}"] = float(ssim(light, wanted, "mu"))
        found[f"psnr_l{suffix}"] = float(psnr(light, wanted))
    return found


def validate(
    networks: Networks, held_out: Dataset[Any], config: EMVNetTrainConfig, device: torch.device, picture: bool
) -> Validation:
    """PSNR in dB and SSIM of the light, by mu-law and linear, of the picture and of the reference alone."""
    network = networks.generator
    gamma = config.data.gamma if network.config.channels == 3 else 1.0
    found: list[dict[str, float]] = []
    rows: list[Tensor] = []
    for sample in spread(held_out, config.data.validation_samples):
        images, target = sample["images"][None].to(device), sample["target"][None].to(device)
        reference = int(sample["reference"])
        result = network.enhance(images, reference)
        found.append(measured(result, target, images, reference, sample["times"], gamma))
        if picture and len(rows) < _ROWS:
            scale = float(sample["times"].min())
            shown = [mu_law_encode((light * scale).clamp(0, 1))[0] for light in (light_of(result, gamma), target)]
            rows.append(picture_row([*images[0], *shown]))
    return Validation(means(found), picture_of(rows))


def _export(networks: nn.Module, folder: pathlib.Path) -> None:
    assert isinstance(networks, Networks)
    networks.generator.save_pretrained(folder)


SYSTEM = System(
    name="emvnet",
    config=EMVNetTrainConfig,
    presets=PRESETS,
    model=model,
    samples=samples,
    losses=losses,
    export=_export,
    validate=validate,
    best=("psnr_mu", "highest"),
    optimizers=optimizers,
    size_keys=("batch", "data.frame"),
    validation_keys=("data.validation_frame",),
)
