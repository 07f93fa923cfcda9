"""Training of :class:`hdrops.models.ExposureInterpolator`, the hybrid exposure interpolation of Zheng, Li, Yang and Wu.

Samples are triplets of a dark, a bright and an intermediate exposure: of photographed brackets
(:class:`hdrops.data.BracketTriplets`), or of virtual cameras in HDR images (:class:`hdrops.data.SyntheticTriplets`).
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, Field, PositiveInt, field_validator, model_validator
from torch import Tensor, nn
from torch.utils.data import Dataset

from hdrops.data import (
    FRACTIONS,
    RESPONSE_FAMILIES,
    BracketTriplets,
    SyntheticTriplets,
    draw_camera,
    draw_response,
    find_scenes,
    read_emor,
    split_scenes,
)
from hdrops.data.scenes import LINEAR_ENDINGS, images_below
from hdrops.io import InputError
from hdrops.losses import InterpolationLoss
from hdrops.metrics import psnr
from hdrops.models import ExposureInterpolator, ExposureInterpolatorConfig
from hdrops.ops._response import Maps
from hdrops.ops.imf import imf_fuse
from hdrops.ops.ssim import ssim
from hdrops.train.config import Section, TrainConfig
from hdrops.train.system import Batch, Data, System, Terms, Validation

_ROWS = 3  # of a validation picture
_GAP = 4  # pixels between its parts
_NAMED = 3  # scenes in an error
_SMALLEST = 11  # pixels a side, the window of SSIM
Triplets = BracketTriplets | SyntheticTriplets


def _absolute(path: str) -> str:
    """So that the configuration of a run says where its files are, wherever it is read; "" is none."""
    return path and str(pathlib.Path(path).absolute())


Place = Annotated[str, AfterValidator(_absolute)]


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


class SynthesisConfig(Section):
    """Triplets photographed by virtual cameras in HDR images: every file is a scene."""

    samples: int = Field(default=1024, ge=1, description="of an epoch")
    distance: tuple[float, float] = Field(default=(2.0, 6.0), description="range of stops between dark and bright")
    half: bool = Field(default=False, description="targets halfway alone; false: at quarters and thirds as well")
    frame: tuple[PositiveInt, PositiveInt] = Field(default=(120, 180), description="height and width of a picture")
    fov: tuple[float, float] = Field(default=(50.0, 95.0), description="range of the field of view in panoramas")
    panorama: Literal["auto", "yes", "no"] = Field(default="auto", description="auto: images twice as wide as high are")
    responses: tuple[str, ...] = Field(
        default=tuple(RESPONSE_FAMILIES), description=f"families of camera responses, of {', '.join(RESPONSE_FAMILIES)}"
    )
    emor: Place = Field(default="", description="file of the EMoR basis, for one more family")
    jpeg: float = Field(default=0.5, ge=0, le=1, description="share of cameras that write JPEG")

    @model_validator(mode="after")
    def _some_response(self) -> Self:
        if not self.responses and not self.emor:
            raise ValueError("responses should name at least one family where there is no emor")
        return self

    @field_validator("responses")
    @classmethod
    def _known(cls, responses: tuple[str, ...]) -> tuple[str, ...]:
        if set(responses) - set(RESPONSE_FAMILIES):
            raise ValueError(f"should be some of {', '.join(RESPONSE_FAMILIES)}")
        return responses


class DataConfig(Section):
    """What is learnt from."""

    folders: tuple[Place, ...] = Field(default=(), description="of brackets or HDR images; files of the latter as well")
    kind: Literal["auto", "brackets", "hdr"] = Field(
        default="auto", description="auto: hdr where all images are .hdr or .exr, brackets where none is"
    )
    patch: tuple[PositiveInt, PositiveInt] = Field(default=(60, 90), description="height and width of the samples")
    rotate: bool = Field(default=False, description="turn samples by multiples of 90 degrees as well")
    held_out: float = Field(default=0.2, ge=0, lt=1, description="share of the scenes for validation alone; 0 is none")
    held_out_scenes: tuple[str, ...] = Field(default=(), description="the names of these scenes, instead of a share")
    validation: tuple[Place, ...] = Field(
        default=(), description="folders to validate with, instead of held-out scenes"
    )
    validation_kind: Literal["auto", "brackets", "hdr"] = Field(
        default="auto", description="of these folders, as kind is of those to train with"
    )
    validation_samples: int = Field(default=32, ge=1, description="at most so many, evenly taken from all scenes")
    validation_size: int = Field(
        default=1024, ge=_SMALLEST, description="larger frames are cut to a middle part of so many pixels a side"
    )
    brackets: BracketsConfig = BracketsConfig()
    synthesis: SynthesisConfig = SynthesisConfig()


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


def _kind(places: Sequence[str], asked: str, key: str = "data.kind") -> str:
    """Brackets or HDR images, as asked for by a key or as the files say."""
    if asked != "auto":
        return asked
    linear = {path.suffix.lower() in LINEAR_ENDINGS for place in places for path in images_below(pathlib.Path(place))}
    if len(linear) > 1:
        raise InputError(
            f"{', '.join(places)} hold both .hdr or .exr files and other images; set {key} to brackets or hdr"
        )
    return "hdr" if linear == {True} else "brackets"


def _scenes(places: Sequence[str], kind: str) -> list[pathlib.Path]:
    """Every folder of images, or every HDR file; each once, though several places lead to it."""
    for place in places:
        if not pathlib.Path(place).exists():
            raise InputError(f"{place} does not exist; look at the keys of data, or at --data")
    if kind == "brackets":
        found = find_scenes(places)
    else:
        images = (path for place in places for path in images_below(pathlib.Path(place)))
        found = sorted(path for path in images if path.suffix.lower() in LINEAR_ENDINGS)
    if not found:
        raise InputError(f"there are no images in {', '.join(places)}; give folders of brackets or of HDR images")
    unique: dict[pathlib.Path, pathlib.Path] = {}
    for path in found:
        unique.setdefault(path.resolve(), path)
    return [*unique.values()]


def _divided(
    config: DataConfig, kind: str, scenes: Sequence[pathlib.Path]
) -> tuple[list[pathlib.Path], list[pathlib.Path], str]:
    """Scenes to train with, those to validate with, and the kind of the latter."""
    if config.validation:
        kind = _kind(config.validation, config.validation_kind, "data.validation_kind")
        validated = _scenes(config.validation, kind)
        known = {scene.resolve() for scene in scenes}
        both = [str(scene) for scene in validated if scene.resolve() in known]
        if both:
            more = f" and {len(both) - _NAMED} more" if len(both) > _NAMED else ""
            raise InputError(
                f"data.validation holds scenes that are trained with: {', '.join(both[:_NAMED])}{more}; keep them in "
                "folders of their own, or name them in data.held_out_scenes instead"
            )
        return list(scenes), validated, kind
    if config.held_out_scenes:
        return *split_scenes(scenes, config.held_out_scenes), kind
    if config.held_out:
        return *split_scenes(scenes, config.held_out), kind
    return list(scenes), [], kind


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
    response = functools.partial(draw_response, families=s.responses, emor=read_emor(s.emor) if s.emor else None)
    return SyntheticTriplets(
        scenes,
        panorama={"auto": None, "yes": True, "no": False}[s.panorama],
        distance=s.distance,
        fraction=0.5 if s.half else FRACTIONS,
        frame=s.frame,
        fov=s.fov,
        camera=functools.partial(draw_camera, draw_response=response, jpeg=s.jpeg),
        patch=patch,
        augment=training,
        rotate=training and config.rotate,
        seed=seed if training else seed + 1,
        maps=maps,
        samples_per_epoch=s.samples if training else config.validation_samples,
    )


@contextlib.contextmanager
def _bad_values() -> Iterator[None]:
    """Arguments that a data set refuses come from the configuration."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"data: {error}") from error


def samples(config: ExposureInterpolationConfig) -> Data:
    """The triplets to train with, and those of other scenes to validate with."""
    data = config.data
    if not data.folders:
        raise InputError("there is no training data; give folders of brackets or of HDR images by --data")
    kind = _kind(data.folders, data.kind)
    scenes = _scenes(data.folders, kind)
    with _bad_values():
        trained, validated, validated_kind = _divided(data, kind, scenes)
        training = _triplets(trained, kind, data, config.model.maps, config.seed, True)
        held_out = (
            _triplets(validated, validated_kind, data, config.model.maps, config.seed, False) if validated else None
        )
    if held_out is not None:
        side = held_out.smallest_side if isinstance(held_out, BracketTriplets) else min(data.synthesis.frame)
        if side < _SMALLEST:
            raise InputError(
                f"a held-out frame has {side} pixels a side, and SSIM needs {_SMALLEST}: hold other scenes out "
                "(data.held_out_scenes), or raise data.synthesis.frame"
            )
    facts = {"kind": kind, "training": training.scenes, "validation": held_out.scenes if held_out else []}
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
    total = len(held_out)  # type: ignore[arg-type]
    count = min(total, config.data.validation_samples)
    size = config.data.validation_size
    sums: dict[str, float] = {}
    rows: list[Tensor] = []
    for number in range(count):
        sample = held_out[number * total // count]
        images = {name: _middle(sample[name], size)[None].to(device) for name in ("dark", "bright", "target")}
        tables = sample["imf_dark"][None].to(device), sample["imf_bright"][None].to(device)
        pair = images["dark"], images["bright"]
        x3 = imf_fuse(*pair, *tables, low=network.config.low, high=network.config.high)
        results = {"": _eight_bits(network(*pair, *tables)), "_x3": _eight_bits(x3)}
        for suffix, result in results.items():
            for name, metric in (("psnr", psnr), ("ssim", ssim)):
                key = name + suffix
                sums[key] = sums.get(key, 0.0) + float(metric(result, images["target"]))
        if picture and len(rows) < _ROWS:
            rows.append(_row([results["_x3"][0], results[""][0], images["target"][0]]))
    rows = [row for row in rows if row.shape == rows[0].shape]
    metrics = {name: value / count for name, value in sums.items()}
    return Validation(metrics, torch.cat(rows, 1)[:, :-_GAP] if rows else None)


def _middle(image: Tensor, size: int) -> Tensor:
    """The middle of an image, so many pixels a side at most."""
    height, width = image.shape[-2:]
    top, left = max(0, height - size) // 2, max(0, width - size) // 2
    return image[..., top : top + size, left : left + size]


def _eight_bits(image: Tensor) -> Tensor:
    """As a file would hold it."""
    return (image.clamp(0, 1) * 255).round() / 255


def _row(images: Sequence[Tensor]) -> Tensor:
    """Images beside each other, uint8, with a white border to the right and below."""
    bordered = [nn.functional.pad(image, (0, _GAP, 0, _GAP), value=1.0) for image in images]
    return (torch.cat(bordered, 2)[..., :-_GAP] * 255).round().to(torch.uint8).cpu()


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
