"""A system that trains in milliseconds, with all that a run must keep: state in the network and in every generator."""

import dataclasses
import random

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from hdrops.io import InputError
from hdrops.train import Data, OptimizerConfig, RunConfig, Section, System, TrainConfig, Validation


class ToyData(Section):
    samples: int = Field(10, ge=0)
    unreadable: int = Field(-1, description="a sample that cannot be read")


class ToyConfig(TrainConfig):
    steps: int = Field(12, ge=1)
    batch: int = Field(4, ge=1)
    ema: float = Field(0.9, ge=0, lt=1)
    log_every: int = Field(3, ge=1)
    validate_every: int = Field(5, ge=1)
    picture_every: int = Field(1, ge=0)
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.01)
    run: RunConfig = RunConfig(workers=0, threads=1, checkpoint_every=2, tensorboard=False, keep=2)
    width: int = Field(4, ge=1)
    explode_at: float = Field(float(10**9), description="sum of the seeds of a batch beyond which its loss is NaN")
    data: ToyData = ToyData()


class ToySamples:
    def __init__(self, config):
        self.config = config

    def __len__(self):
        return self.config.data.samples

    def __getitem__(self, key):
        epoch, index = key
        if index == self.config.data.unreadable:
            raise InputError(f"cannot read scene/{index}.png: it is truncated; copy it again")
        noise = np.random.Generator(np.random.Philox(key=[self.config.seed, epoch * 1000 + index]))
        image = torch.from_numpy(noise.random((3, 6, 8), np.float32))
        return {"image": image, "target": image.flip(0) ** 2, "key": torch.tensor([epoch, index])}


class ToyNetwork(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Conv2d(width, 3, 1)

    def forward(self, image):
        return self.last(self.drop(torch.relu(self.norm(self.first(image)))))


def losses(model, batch, config):
    # Draws of all generators: if one was not restored, the loss tells.
    scale = 1 + 0.1 * random.gauss(0, 1) + 0.1 * float(np.random.normal()) + 0.1 * float(torch.rand(()))
    error = model(batch["image"]) - batch["target"]
    terms = {"l2": scale * error.square().mean(), "l1": 0.1 * error.abs().mean()}
    if float(batch["key"].sum()) > config.explode_at:
        terms["l2"] = terms["l2"] * torch.nan
    yield "", terms


def validate(model, samples, config, device, picture):
    images = torch.stack([samples[0, index]["image"] for index in range(2)])
    torch.rand(3), random.random(), np.random.rand()
    prediction = model(images.to(device)).cpu()
    error = float((prediction - images.flip(1) ** 2).square().mean())
    return Validation({"mse": error}, (prediction[0].clamp(0, 1) * 255).to(torch.uint8) if picture else None)


def export(model, folder):
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")


TOY = System(
    name="toy",
    config=ToyConfig,
    presets={"wide": {"width": 16}, "quick": {"steps": 3, "optimizer": {"lr": 0.1}}},
    model=lambda config: ToyNetwork(config.width),
    samples=lambda config: Data(ToySamples(config), ToySamples(config), {"kind": "noise"}),
    losses=losses,
    export=export,
    validate=validate,
    best=("mse", "lowest"),
    size_keys=("batch", "width"),
)


def linear(capture=None):
    """The toy without anything random or of the whole batch, so that a batch may be computed in parts."""

    def model(config):
        network = nn.Conv2d(3, 3, 1)
        if capture is not None:
            capture.append(network)
        return network

    def losses(network, batch, config):
        yield "", {"l2": (network(batch["image"]) - batch["target"]).square().mean()}

    return dataclasses.replace(TOY, model=model, losses=losses, validate=None)


def adversarial():
    """Two networks with an optimiser each."""

    def both(model, batch, config):
        fake = model["generator"](batch["image"])
        yield "generator", {"fit": (fake - batch["target"]).square().mean(), "fool": -model["critic"](fake).mean()}
        fake = fake.detach()
        yield "critic", {"tell": (model["critic"](fake) - model["critic"](batch["target"])).mean()}

    def networks(config):
        return nn.ModuleDict({"generator": nn.Conv2d(3, 3, 1), "critic": nn.Conv2d(3, 1, 3)})

    return dataclasses.replace(
        TOY,
        model=networks,
        losses=both,
        validate=None,
        optimizers=lambda config: {"generator": config.optimizer, "critic": OptimizerConfig(kind="adamw", lr=0.02)},
    )
