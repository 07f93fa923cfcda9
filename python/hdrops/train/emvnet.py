"""Training of :class:`hdrops.models.EMVNet`, the multi-exposure enhancement of Ren, Fan and Huang.

Samples are brackets of moving scenes with the picture wanted (:mod:`hdrops.data.moving`). The picture of a network for
RGB images is in their own coding, extended above 1: light^(1 / gamma) in the exposure of the reference. That of raw
images is light. For the losses and metrics light is divided by the brightest that the darkest image holds.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.utils.data import Dataset

from hdrops.data import DynamicScenes, HDRPlusBursts, KalantariScenes, NTIREScenes, RawPairs, split_scenes
from hdrops.io import InputError
from hdrops.losses import (
    ContentLoss,
    PairwiseLoss,
    PerceptualLoss,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
)
from hdrops.metrics import psnr
from hdrops.metrics.domains import mu_law_encode
from hdrops.metrics.hdr import ssim
from hdrops.models import EMVNet, EMVNetConfig
from hdrops.models.emvnet import Pictures
from hdrops.nn import VGGDiscriminator, VGGFeatures, demosaic
from hdrops.train.config import OptimizerConfig, Section, TrainConfig
from hdrops.train.scenes import (
    Place,
    ScenesConfig,
    datasets,
    means,
    panorama_of,
    picture_of,
    picture_row,
    spread,
)
from hdrops.train.system import Batch, Data, System, Terms, Validation

_ROWS = 3  # of a validation picture
_LEAST_FRAME = 32  # pixels a side that the discriminator needs
_RGB = 3  # channels
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
    pairs: int = Field(default=1024, ge=1, lt=2**31, description="of both, of each channel of an image")
    domain: Literal["mu", "none"] = Field(default="mu", description="of L_c: mu compares by the mu-law, none as it is")
    vgg: Place = Field(default="", description="file of VGG-19's weights (.safetensors)")
    teacher: Place = Field(default="", description="folder of a trained network whose pictures are learnt as well")
    distillation: float = Field(default=1.0, ge=0, description="weight of the distance to the teacher's pictures")
    discriminator: PositiveInt = Field(default=64, description="features of the discriminator's first layers")


class DynamicConfig(Section):
    """Moving scenes photographed by virtual cameras in HDR images: every file is a scene."""

    samples: int = Field(default=2048, ge=1, description="of an epoch")
    ratio: tuple[float, float] = Field(default=(2.0, 16.0), description="range of the exposures' ratio, of raw pairs")
    images: int = Field(default=3, ge=2, le=16, description="of a bracket")
    stops: tuple[float, float] = Field(default=(1.5, 3.0), description="range of stops between two exposures")
    motion: float = Field(default=16.0, ge=0, description="largest motion of an object between two exposures, pixels")
    shake: float = Field(default=2.0, ge=0, description="standard deviation of the camera's motion, pixels")
    objects: int = Field(default=4, ge=0, description="most objects in a scene")
    fov: tuple[float, float] = Field(default=(50.0, 95.0), description="range of the field of view in panoramas")
    panorama: Literal["auto", "yes", "no"] = Field(default="auto", description="auto: images twice as wide as high are")


class DataConfig(ScenesConfig):
    """What is learnt from."""

    layout: Literal["synthesis", "kalantari", "ntire", "hdrplus"] = Field(
        default="synthesis", description="of the folders: HDR images, or scenes as these data sets have them"
    )
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
    "raw_hdr": {"schedule": _SCHEDULE, "model": {"network": "raw_hdr"}},
    "isp": {
        "schedule": _SCHEDULE,
        "model": {"network": "isp"},
        "loss": {"adversarial": 0.005, "pixels": 0.6, "patches": 0.6, "domain": "none"},
        "data": {"layout": "hdrplus"},
    },
    "quick": {
        "steps": 3000,
        "batch": 4,
        "ema": 0.995,
        "clip": 1.0,
        "optimizer": {"lr": 2e-3},
        "schedule": {"kind": "cosine", "warmup": 100, "floor": 0.01},
        "model": {
            "network": "light",
            "changes": {
                "blocks": 2,
                "depthwise": False,
                "skips": True,
                "motion_extent": 9,
                "exposures": [0.4, 0.65, 1.6, 2.5],
                "head": "frames",
                "gated": True,
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


Samples = DynamicScenes | RawPairs | KalantariScenes | NTIREScenes | HDRPlusBursts


def samples(config: EMVNetTrainConfig) -> Data:
    """The brackets to train with, and those of other scenes to validate with."""
    data, network = config.data, _network(config)
    if config.loss.adversarial and min(data.frame) < _LEAST_FRAME:
        raise InputError(
            f"the discriminator needs {_LEAST_FRAME} pixels a side; raise data.frame, or set loss.adversarial=0"
        )
    raw = network.channels != _RGB
    allowed = ["synthesis", "hdrplus"] if raw else ["synthesis", "kalantari", "ntire"]
    if _finishing(network):
        allowed.remove("synthesis")
    if data.layout not in allowed:
        raise InputError(f"data.layout of this network must be one of {', '.join(allowed)}, got {data.layout}")
    if data.layout == "hdrplus":
        return _bursts(config, "isp" if _finishing(network) else "raw")
    if data.layout != "synthesis":
        given = {"kind": "brackets", "validation_kind": "brackets"}
        return Data(*datasets(data.model_copy(update=given), functools.partial(_photographed, config)))
    return Data(*datasets(data, functools.partial(_synthesised, config, raw)))


def _synthesised(
    config: EMVNetTrainConfig, raw: bool, scenes: Sequence[pathlib.Path], kind: str, training: bool
) -> Samples:
    if kind == "brackets":
        raise InputError(
            "brackets say nothing of the picture wanted; give folders of .hdr or .exr images, or say by data.layout "
            "how the folders hold it"
        )
    data, s = config.data, config.data.synthesis
    frame = data.frame if training else data.validation_frame
    shared: dict[str, Any] = {
        "panorama": panorama_of(s.panorama),
        "motion": s.motion,
        "objects": s.objects,
        "fov": s.fov,
        "seed": config.seed if training else config.seed + 1,
        "samples_per_epoch": s.samples if training else data.validation_samples,
        "augment": training,
    }
    if not raw:
        if _network(config).gated and s.images == 2:
            raise InputError(
                "of two images the darker one is the reference, and light that it saturates is not known: a network "
                "that is gated learns nothing of them; set data.synthesis.images=3, or model.changes={gated = false}"
            )
        return DynamicScenes(
            scenes, count=s.images, stops=s.stops, frame=frame, shake=s.shake, gamma=data.gamma, **shared
        )
    # Of what is mirrored a cell is cut off.
    drawn = (frame[0] + 1, frame[1] + 1)
    return RawPairs(
        scenes, ratio=s.ratio, frame=drawn if training else frame, patch=frame if training else None, **shared
    )


def _photographed(
    config: EMVNetTrainConfig, scenes: Sequence[pathlib.Path], kind: str, training: bool
) -> KalantariScenes | NTIREScenes:
    layout = KalantariScenes if config.data.layout == "kalantari" else NTIREScenes
    return layout(scenes, patch=config.data.frame if training else None, seed=config.seed, augment=training)


def _bursts(config: EMVNetTrainConfig, task: Literal["raw", "isp"]) -> Data:
    data = config.data
    if not data.folders:
        raise InputError("there is no training data; give the folder of the bursts and their results by --data")
    if data.validation:
        raise InputError("data.validation is not for bursts; name those to hold out in data.held_out_scenes")
    try:
        known = HDRPlusBursts(data.folders, task=task, patch=None).scenes
        trained, held_out = known, []
        if data.held_out_scenes or data.held_out:
            sides = split_scenes(known, data.held_out_scenes or data.held_out)
            trained, held_out = ([place.name for place in side] for side in sides)
        made = functools.partial(
            HDRPlusBursts, data.folders, task=task, ratio=data.synthesis.ratio, seed=config.seed, verify=False
        )
        training = made(bursts=trained, patch=data.frame)
        validation = made(bursts=held_out, patch=None, augment=False) if held_out else None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"data: {error}") from error
    facts = {"kind": "hdrplus", "training": training.scenes, "validation": held_out}
    return Data(training, validation, facts)


# ---- learning ------------------------------------------------------------------------------------------------------


class Networks(nn.Module):
    """The network, and the one that it is to deceive, if there is one."""

    def __init__(self, generator: EMVNet, discriminator: VGGDiscriminator | None) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


def model(config: EMVNetTrainConfig) -> Networks:
    """Networks with fresh weights."""
    if config.loss.perceptual and not config.loss.vgg:
        raise InputError(
            "L_p needs the weights of VGG-19: give their file by loss.vgg (hdrops convert vgg19 makes one of "
            "torchvision's), or set loss.perceptual=0"
        )
    generator = EMVNet(_network(config))
    if not config.loss.adversarial:
        return Networks(generator, None)
    return Networks(generator, VGGDiscriminator(features=config.loss.discriminator))


def _network(config: EMVNetTrainConfig) -> EMVNetConfig:
    changes = _tuples(config.model.changes)
    try:
        network = EMVNetConfig.preset(config.model.network, **changes)
        # The reference of RGB brackets is their middle exposure, in all layouts.
        if network.channels == _RGB and "choice" not in changes:
            network = dataclasses.replace(network, choice="middle")
        return network
    except (TypeError, ValueError) as error:
        raise InputError(f"model: {error}") from error


def _finishing(network: EMVNetConfig) -> bool:
    """Whether pictures are finished ones of raw images."""
    return network.channels != _RGB and network.outputs == _RGB


def _tuples(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}


def optimizers(config: EMVNetTrainConfig) -> Mapping[str, OptimizerConfig]:
    """Of both networks, one each."""
    if not config.loss.adversarial:
        return {_GENERATOR: config.optimizer}
    return {_GENERATOR: config.optimizer, _DISCRIMINATOR: config.discriminator}


def gamma_of(config: EMVNetTrainConfig) -> float:
    """The power that makes light of the images, 1 of raw ones."""
    if _network(config).channels != _RGB:
        return 1.0
    layouts = {"kalantari": KalantariScenes.gamma, "ntire": NTIREScenes.gamma}
    return layouts.get(config.data.layout, config.data.gamma)


def light_of(picture: Tensor, gamma: float) -> Tensor:
    """Linear light of a picture in the coding of the images; below 0 the same with the sign."""
    return picture if gamma == 1 else picture.sign() * picture.abs().clamp(min=1e-8) ** gamma


def losses(networks: nn.Module, batch: Batch, config: EMVNetTrainConfig) -> Iterator[tuple[str, Terms]]:
    """L_G by its terms, then what the discriminator loses (eq. 6)."""
    assert isinstance(networks, Networks)
    loss, network = config.loss, networks.generator.config
    generator, discriminator = networks.generator, networks.discriminator
    gamma = gamma_of(config)
    scale = _scale(batch["times"], network)
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
            taught = _teacher(loss.teacher, found.last.device)(batch["images"], batch["reference"])
        for name, own, wanted in zip(Pictures._fields, found, taught, strict=True):
            distance = ContentLoss(loss.domain, weights=(1, 0, 0))([own] * 3, light_of(wanted, gamma) * scale)
            terms[f"distillation_{name}"] = loss.distillation * distance
    shown, real = (_displayed(light, network) for light in (found.last, target))
    if loss.perceptual:
        terms["perceptual"] = loss.perceptual * _perceptual(loss.vgg, shown.device)(shown, real)
    if discriminator is None:
        yield _GENERATOR, terms
        return
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


@functools.cache
def _perceptual(file: str, device: torch.device) -> PerceptualLoss:
    try:
        return PerceptualLoss(VGGFeatures.from_pretrained(file)).to(device)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"loss.vgg: {error}") from error


def _scale(times: Tensor, network: EMVNetConfig) -> Tensor:
    """Of light, (N, 1, 1, 1), so that the brightest that images (N, n) of such times hold is 1."""
    scale = torch.ones_like(times[:, 0]) if _finishing(network) else times.amin(1)
    return scale.view(-1, 1, 1, 1)


def _displayed(light: Tensor, network: EMVNetConfig) -> Tensor:
    """RGB pictures of light, of which 1 is the brightest, as displays show them; finished ones as they are."""
    if _finishing(network):
        return light
    return mu_law_encode(light if network.channels == _RGB else demosaic(light))


def measured(
    picture: Tensor, target: Tensor, images: Tensor, reference: int, times: Tensor, gamma: float, network: EMVNetConfig
) -> dict[str, float]:
    """The metrics of a picture (1, C, H, W) in the coding of the images, and of the reference where it is one.

    "error" is the mean absolute difference of what displays show.
    """
    scale = _scale(times[None], network).to(target)
    wanted = (target * scale).clamp(0, 1)
    candidates = {"": picture} if _finishing(network) else {"": picture, "_reference": images[:, reference]}
    shown = [_displayed(light, network) for light in ((picture.clamp(min=0) ** gamma * scale).clamp(0, 1), wanted)]
    found = {"error": float((shown[0] - shown[1]).abs().mean())}
    for suffix, coded in candidates.items():
        light = (coded.clamp(min=0) ** gamma * scale).clamp(0, 1)
        if not _finishing(network):
            found[f"psnr_mu{suffix}"] = float(psnr(light, wanted, "mu"))
            found[f"ssim_mu{suffix}"] = float(ssim(light, wanted, "mu"))
        found[f"psnr_l{suffix}"] = float(psnr(light, wanted))
        found[f"ssim_l{suffix}"] = float(ssim(light, wanted))
    return found


def validate(
    networks: Networks, held_out: Dataset[Any], config: EMVNetTrainConfig, device: torch.device, picture: bool
) -> Validation:
    """PSNR in dB and SSIM of the light, by mu-law and linear, of the picture and of the reference alone; of finished
    pictures as they are."""
    model = networks.generator
    network = model.config
    gamma = gamma_of(config)
    found: list[dict[str, float]] = []
    rows: list[Tensor] = []
    for sample in spread(held_out, config.data.validation_samples):
        images, target = sample["images"][None].to(device), sample["target"][None].to(device)
        reference = int(sample["reference"])
        result = model.enhance(images, reference)
        found.append(measured(result, target, images, reference, sample["times"], gamma, network))
        if picture and len(rows) < _ROWS:
            scale = _scale(sample["times"][None].to(device), network)
            light = [(x * scale).clamp(0, 1) for x in (light_of(result, gamma), target)]
            frames = images[0] if network.channels == _RGB else demosaic(images[0])
            rows.append(picture_row([*frames, *(_displayed(x, network)[0] for x in light)]))
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
    best=("error", "lowest"),
    optimizers=optimizers,
    size_keys=("batch", "data.frame"),
    validation_keys=("data.validation_frame",),
)
