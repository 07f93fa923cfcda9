"""A training step of HyperP_MB at the paper's 256 x 256: its masks and losses alone, forward and backward, and the
whole step with the network and Adam, against the same composed from PyTorch and pytorch-msssim."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import peers
import pictures
import torch
from timing import Candidate, Case, Peer, Work
from torch import Tensor

from hdrops.losses import HyperPMBLoss, MaskBuilder, ParamTuner
from hdrops.models import HyperPMB
from hdrops.ops._grey import luma

SIDE = 256
STEPS = (-2.0, 0.0, 2.0)  # stops of the exposures
RATE = 0.0  # of Adam: every call computes the same
LIMIT_S = 60.0
CALLS = {False: "a call for each pair", True: "one call for three pairs"}
# Of a pixel: two masks (as a sum of cosines), then three pairs on all scales, whose windows take 230 forward and 335
# backward; the network's products and sums forward, and twice as many backward.
LOSS_FLOPS = 2 * 61 + 3 * 4 / 3 * (230 + 335)
NETWORK_FLOPS = 3 * 2 * 88_225


def _close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], who: str) -> None:
    """Losses within 1e-3, gradients within 1 % of their norm: peers lose the small contrasts of flat areas."""
    for what, a, b, allowed in zip(("the loss", "the gradient"), ours, theirs, (1e-3, 1e-2), strict=True):
        error = ((a - b).norm() / a.norm()).item()
        assert error <= allowed, f"{who}: {what} differs by {error} of its norm, allowed {allowed}"


def _images(batch: int, device: str) -> list[Tensor]:
    """Grey exposures (batch, 1, SIDE, SIDE), dark to bright."""
    places = range(batch)
    whole = [luma(x) for x in pictures.exposures(SIDE, SIDE * batch, STEPS, torch.float32)]
    return [torch.stack([x[..., SIDE * k : SIDE * (k + 1)] for k in places]).contiguous().to(device) for x in whole]


def _missing() -> Peer | None:
    return peers.missing("pytorch-msssim", "pytorch_msssim")


def _build_losses(batch: int, device: str) -> Work:
    under, correct, over = _images(batch, device)
    fused = (0.3 * under + 0.7 * correct).requires_grad_()
    ours = HyperPMBLoss(MaskBuilder(), ParamTuner())

    def call(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        loss = function(fused, under, correct, over)
        return loss.detach(), *torch.autograd.grad(loss, fused)

    def candidate(batched: bool, compile_it: bool) -> Candidate:
        composed = peers.composed_fusion_loss(SIDE, device, batched)
        function = peers.compiled(composed, device) if compile_it else composed
        return Candidate(CALLS[batched], functools.partial(call, function), compiles=compile_it)

    return Work(
        Candidate("", functools.partial(call, ours)),
        _others(candidate),
        moved=4 * fused.numel() * (3 + 2 + 1),
        flops=LOSS_FLOPS * fused.numel(),
        check=_close,
        tolerance="loss within 1e-3, gradient within 1 % of its norm",
    )


def _others(candidate: Callable[[bool, bool], Candidate]) -> list[Peer]:
    absent = _missing()
    if absent is not None:
        return [absent]
    threads = torch.get_num_threads()
    return [
        Peer("torch eager", [candidate(first, False) for first in (False, True)], threads=threads),
        Peer("torch.compile", [candidate(first, True) for first in (False, True)], threads=threads),
    ]


def _build_step(batch: int, device: str) -> Work:
    images = _images(batch, device)
    under, correct, over = images
    torch.manual_seed(3)
    start = HyperPMB()

    def step(
        network: torch.nn.Module, loss_of: Callable[..., Tensor], optimizer: torch.optim.Optimizer
    ) -> tuple[Tensor, ...]:
        optimizer.zero_grad()
        loss = loss_of(network, under, correct, over)
        loss.backward()
        optimizer.step()
        return loss.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])

    def whole(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda network, under, correct, over: function(network(under, over), under, correct, over)

    def candidate(batched: bool, compile_it: bool) -> Candidate:
        network = peers.PlainFusion(start.state_dict()).to(device)
        network = network.to(memory_format=torch.channels_last)  # a tenth faster than contiguous
        loss_of = whole(peers.composed_fusion_loss(SIDE, device, batched))
        function = peers.compiled(loss_of, device) if compile_it else loss_of
        optimizer = torch.optim.Adam(network.parameters(), RATE)
        config = "channels last, " + CALLS[batched]
        return Candidate(config, functools.partial(step, network, function, optimizer), compiles=compile_it)

    network = HyperPMB().to(device)
    network.load_state_dict(start.state_dict())
    ours = whole(HyperPMBLoss(MaskBuilder(), ParamTuner()))
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    return Work(
        Candidate("", functools.partial(step, network, ours, optimizer)),
        _others(candidate),
        moved=4 * under.numel() * 3,
        flops=(LOSS_FLOPS + NETWORK_FLOPS) * under.numel(),
        check=_close,
        tolerance="loss within 1e-3, gradient within 1 % of its norm",
    )


def hyperp_mb_cases(sizes: list[str], device: str) -> list[Case]:
    """The paper's size alone, whatever sizes are asked for."""
    cases = []
    for label, build in (("masks and losses", _build_losses), ("whole training step", _build_step)):
        for batch in (1, 8):
            made: Callable[[], Any] = functools.partial(build, batch, device)
            name = f"{label}, batch of {batch}"
            case = Case(
                "hyperp_mb",
                name,
                f"{SIDE}x{SIDE}",
                SIDE,
                SIDE,
                "forward+backward",
                made,
                headline=batch == 1,
                limit_s=LIMIT_S,
            )
            cases.append(case)
    return cases


def bench_hyperp_mb(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
