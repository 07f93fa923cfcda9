"""What the training engine has to know of a system: a plain object of functions."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol

import torch
from torch import Tensor, nn

from hdrops.train.config import C, OptimizerConfig

Batch = dict[str, Tensor]
Terms = Mapping[str, Tensor]


class Samples(Protocol):
    """A data set: a sample depends on (epoch, index) alone, and on no global random state."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Data:
    """What a system learns from.

    Attributes:
        training: the samples.
        held_out: what its ``validate`` takes; None: nothing is validated.
        facts: what is worth knowing of them, such as the names of scenes; written into the run as ``data.json``.
    """

    training: Samples
    held_out: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """What a validation has found.

    Attributes:
        metrics: by name, in the order of their columns; the same names every time.
        picture: (3, H, W), uint8, if one was asked for.
    """

    metrics: Mapping[str, float]
    picture: Tensor | None = None


def _one_optimizer(config: C) -> Mapping[str, OptimizerConfig]:
    return {"": config.optimizer}


@dataclass(frozen=True)
class System(Generic[C]):
    """A system that can be trained.

    Attributes:
        name: as on the command line.
        config: the type of its configuration.
        presets: what differs from the defaults of the type, by the preset's name.
        model: makes the network, or a module of several, with fresh weights from torch's global random state.
        samples: makes the data.
        losses: computes on a batch the terms of the loss, which are summed as they are. It yields them with the name of
            the optimiser whose parameters follow that loss; the engine makes the update, and asks for the next. A
            generative adversarial network yields twice: ``"generator"`` first, then, from detached pictures,
            ``"discriminator"``. At least one must come, and in a step the same optimisers with the same terms in the
            same order whatever the batch is: it may be a part of one, or the share of one of several processes.
        export: writes the trained weights into a folder, which it makes if need be.
        validate: measures a network in evaluation mode; the last argument says whether a picture is wanted.
        best: the metric by which a checkpoint is the best, and whether its highest or lowest value is.
        optimizers: by prefix of the names of their parameters (that of a submodule; "" is all).
        size_keys: the keys of the configuration that the memory of a step grows with.
        validation_keys: those that the memory of a validation grows with.
    """

    name: str
    config: type[C]
    presets: Mapping[str, Mapping[str, Any]]
    model: Callable[[C], nn.Module]
    samples: Callable[[C], Data]
    losses: Callable[[nn.Module, Batch, C], Iterator[tuple[str, Terms]]]
    export: Callable[[nn.Module, pathlib.Path], None]
    validate: Callable[[Any, Any, C, torch.device, bool], Validation] | None = None
    best: tuple[str, Literal["highest", "lowest"]] = ("loss", "lowest")
    optimizers: Callable[[C], Mapping[str, OptimizerConfig]] = field(default=_one_optimizer)
    size_keys: tuple[str, ...] = ("batch",)
    validation_keys: tuple[str, ...] = ()
