"""The network of exposure interpolation (LRL) on whole pictures, against the same network run by PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable

import peers
import pictures
import torch
from timing import Candidate, Case, Peer, Work
from torch import Tensor

from hdrops.models import LRL, LRLConfig

SIZES = ("tiny", "1080p", "4k")
LIMIT_S = 60.0  # at 4K the layers of the whole picture leave every cache
# Products and sums of a pixel with what can be multiplied out multiplied out; the layers as Table I has them take
# 45568 products.
FLOPS_PER_PIXEL = 2 * 24224
# At the largest, a shortcut: its input, its branch, the branch's hidden channels and the sum.
BYTES_PER_PIXEL = 4 * (3 * 64 + 32)


def _check(ours: Tensor, theirs: Tensor, who: str) -> None:
    error = (ours - theirs).abs().max().item()
    assert error <= 1e-5, f"{who}: differs by {error}, allowed 1e-5"


def _network(device: str, channels_last: bool) -> LRL:
    """The preset of the paper, with weights and biases of a trained network's order."""
    torch.manual_seed(24)
    network = LRL(LRLConfig.preset("paper"))
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0, 0.05)
    torch.nn.init.normal_(network.tail.weight, 0, 0.01)
    return network.eval().to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _build(height: int, width: int, device: str) -> Work:
    image = pictures.exposures(height, width, (0.0,), torch.float32)[0][None].to(device)
    images = {"contiguous": image, "channels last": image.contiguous(memory_format=torch.channels_last)}
    networks = {layout: _network(device, layout == "channels last") for layout in images}

    def without_gradient(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x)

    def candidates(compile_it: bool) -> list[Candidate]:
        made = []
        for layout, x in images.items():
            network = peers.compiled(networks[layout], device) if compile_it else networks[layout]
            call = functools.partial(without_gradient, network, x)
            made.append(Candidate(layout, call, memory=BYTES_PER_PIXEL * height * width, compiles=compile_it))
        return made

    threads = torch.get_num_threads()
    return Work(
        Candidate("folded, tiled", lambda: networks["contiguous"].predict(image)),
        [
            Peer("torch eager", candidates(False), threads=threads),
            Peer("torch.compile", candidates(True), threads=threads),
        ],
        moved=2 * image.numel() * image.element_size(),
        flops=FLOPS_PER_PIXEL * height * width,
        check=_check,
        tolerance="within 1e-5",
    )


def lrl_cases(sizes: list[str], device: str) -> list[Case]:
    cases = []
    for size in sizes:
        if size in SIZES:
            shape = pictures.SIZES[size]
            build = functools.partial(_build, *shape, device)
            label = "float32, 46,627 parameters"
            cases.append(Case("lrl", label, size, *shape, "fresh", build, headline=True, limit_s=LIMIT_S))
    return cases


def bench_lrl(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
