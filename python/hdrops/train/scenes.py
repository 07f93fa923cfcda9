"""What systems that learn from brackets, or from HDR images that virtual cameras photograph, have in common."""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from pydantic import AfterValidator, Field, PositiveInt, field_validator, model_validator
from torch import Tensor, nn
from torch.utils.data import Dataset

from hdrops.data import RESPONSE_FAMILIES, Camera, draw_camera, draw_response, find_scenes, read_emor, split_scenes
from hdrops.data.scenes import LINEAR_ENDINGS, images_below
from hdrops.io import InputError
from hdrops.train.config import Section

_GAP = 4  # pixels between the parts of a picture
_NAMED = 3  # scenes in an error


class _Named(Protocol):
    scenes: list[str]


D = TypeVar("D", bound=_Named)


def _absolute(path: str) -> str:
    """So that the configuration of a run says where its files are, wherever it is read; "" is none."""
    return path and str(pathlib.Path(path).absolute())


Place = Annotated[str, AfterValidator(_absolute)]


class SynthesisConfig(Section):
    """Triplets photographed by virtual cameras in HDR images: every file is a scene."""

    samples: int = Field(default=1024, ge=1, description="of an epoch")
    distance: tuple[float, float] = Field(default=(2.0, 6.0), description="range of stops between dark and bright")
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


class ScenesConfig(Section):
    """Where the scenes are, and which of them are for validation alone."""

    folders: tuple[Place, ...] = Field(default=(), description="of brackets or HDR images; files of the latter as well")
    kind: Literal["auto", "brackets", "hdr"] = Field(
        default="auto", description="auto: hdr where all images are .hdr or .exr, brackets where none is"
    )
    held_out: float = Field(default=0.2, ge=0, lt=1, description="share of the scenes for validation alone; 0 is none")
    held_out_scenes: tuple[str, ...] = Field(default=(), description="the names of these scenes, instead of a share")
    validation: tuple[Place, ...] = Field(
        default=(), description="folders to validate with, instead of held-out scenes"
    )
    validation_kind: Literal["auto", "brackets", "hdr"] = Field(
        default="auto", description="of these folders, as kind is of those to train with"
    )
    validation_samples: int = Field(default=32, ge=1, description="at most so many, evenly taken from all scenes")


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
    config: ScenesConfig, kind: str, scenes: Sequence[pathlib.Path]
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


def camera_of(config: SynthesisConfig) -> Callable[[np.random.Generator], Camera]:
    """What draws the cameras."""
    emor = read_emor(config.emor) if config.emor else None
    response = functools.partial(draw_response, families=config.responses, emor=emor)
    return functools.partial(draw_camera, draw_response=response, jpeg=config.jpeg)


def panorama_of(said: Literal["auto", "yes", "no"]) -> bool | None:
    """Whether images are panoramas; None: their shape says."""
    return {"auto": None, "yes": True, "no": False}[said]


@contextlib.contextmanager
def _bad_values() -> Iterator[None]:
    """Arguments that a data set refuses come from the configuration."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"data: {error}") from error


def datasets(
    config: ScenesConfig, made: Callable[[Sequence[pathlib.Path], str, bool], D]
) -> tuple[D, D | None, dict[str, Any]]:
    """The data to train with, those to validate with if there are any, and the facts that all runs note.

    Args:
        config: where the scenes are.
        made: makes the data of scenes (folders of brackets or HDR files), their kind, and whether they are to train
            with; its attribute ``scenes`` holds their names.

    Raises:
        InputError: no data, or what cannot be used.
    """
    if not config.folders:
        raise InputError("there is no training data; give folders of brackets or of HDR images by --data")
    kind = _kind(config.folders, config.kind)
    scenes = _scenes(config.folders, kind)
    with _bad_values():
        trained, validated, validated_kind = _divided(config, kind, scenes)
        training = made(trained, kind, True)
        held_out = made(validated, validated_kind, False) if validated else None
    names = held_out.scenes if held_out is not None else []
    facts = {"kind": kind, "training": training.scenes, "validation": names}
    return training, held_out, facts


def spread(held_out: Dataset[Any], most: int) -> Iterator[Mapping[str, Tensor]]:
    """At most so many samples, evenly taken from all of them."""
    total = len(held_out)  # type: ignore[arg-type]
    count = min(total, most)
    return (held_out[number * total // count] for number in range(count))


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of the values of each name."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def eight_bits(image: Tensor) -> Tensor:
    """As a file would hold it."""
    return (image.clamp(0, 1) * 255).round() / 255


def picture_row(images: Sequence[Tensor]) -> Tensor:
    """Images beside each other, uint8, with a white gap to the right and below."""
    bordered = [nn.functional.pad(image, (0, _GAP, 0, _GAP), value=1.0) for image in images]
    return (torch.cat(bordered, 2)[..., :-_GAP] * 255).round().to(torch.uint8).cpu()


def picture_of(rows: Sequence[Tensor]) -> Tensor | None:
    """Rows of the size of the first one below each other; None where there is none."""
    alike = [row for row in rows if row.shape == rows[0].shape]
    return torch.cat(alike, 1)[:, :-_GAP] if alike else None
