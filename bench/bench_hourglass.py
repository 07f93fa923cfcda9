"""The dilated hourglass and its parts at 96 x 64 x 64 with 32 channels, against the same from PyTorch's layers in both
layouts, eager and compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import peers
import torch
import torch.nn.functional as F
from timing import Candidate, Case, Peer, Work
from torch import Tensor

import hdrops
from hdrops.nn import Hourglass3d

CHANNELS = 32
GRIDS = {"96x64x64": (96, 64, 64), "tiny": (16, 16, 16)}
LIMIT_S = 60.0
LAYOUTS = {"channels last": torch.channels_last_3d, "contiguous": torch.contiguous_format}


def _close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], who: str) -> None:
    for a, b in zip(ours, theirs, strict=True):
        error = ((a - b).norm() / a.norm()).item()
        assert error <= 1e-4, f"{who}: differs by {error} of its norm, allowed 1e-4"


def plain(model: Hourglass3d, x: Tensor) -> Tensor:
    """The hourglass from PyTorch's layers."""
    sizes = []
    for layer in model.down:
        sizes.append(x.shape[2:])
        x = layer(x).relu()
    for k, layer in enumerate(model.up):
        x = layer(x, output_size=sizes[-1 - k])
        x = x if k == len(sizes) - 1 else x.relu()
    return x


def _build_hourglass(grid: tuple[int, int, int], backward: bool, device: str) -> Work:
    torch.manual_seed(0)
    start = Hourglass3d(CHANNELS, CHANNELS)
    x = torch.randn(1, CHANNELS, *grid)

    def candidate(function: Callable[..., Tensor], layout: str, compile_it: bool = False) -> Candidate:
        model = Hourglass3d(CHANNELS, CHANNELS)
        model.load_state_dict(start.state_dict())
        model = model.to(device, memory_format=LAYOUTS[layout])
        given = x.to(device, memory_format=LAYOUTS[layout]).requires_grad_(backward)
        run = peers.compiled(functools.partial(function, model), device) if compile_it else None

        def call() -> tuple[Tensor, ...]:
            if not backward:
                with torch.no_grad():
                    return ((run or functools.partial(function, model))(given),)
            result = (run or functools.partial(function, model))(given)
            return result.detach(), *torch.autograd.grad(result, [given, *model.parameters()], torch.ones_like(result))

        return Candidate(layout, call, compiles=compile_it)

    threads = torch.get_num_threads()
    others = [
        Peer("torch eager", [candidate(plain, layout) for layout in LAYOUTS], threads=threads),
        Peer("torch.compile", [candidate(plain, layout, True) for layout in LAYOUTS], threads=threads),
    ]
    voxels = grid[0] * grid[1] * grid[2]
    layers = 2 * sum(8.0**-k for k in (1, 2, 3))
    times = 3 if backward else 1
    return Work(
        candidate(lambda model, given: model(given), "channels last"),
        others,
        moved=times * 4 * CHANNELS * voxels * 2,
        flops=times * 2 * 27 * CHANNELS**2 * voxels * layers,
        check=_close,
        tolerance="within 1e-4 of the norm",
    )


def _build_part(what: str, dilation: int, grid: tuple[int, int, int], device: str) -> Work:
    torch.manual_seed(0)
    half = [side // 2 for side in grid]
    x = torch.randn(1, CHANNELS, *half).to(device, memory_format=torch.channels_last_3d)
    first, second = (torch.randn(CHANNELS, CHANNELS, 3, 3, 3).to(device) / 30 for _ in range(2))
    bias = torch.randn(CHANNELS).to(device)
    shares = torch.full((grid[0],), 1 / grid[0]).to(device)
    projection = torch.randn(3, CHANNELS).to(device) / 6
    last = {k: w.contiguous(memory_format=torch.channels_last_3d) for k, w in (("first", first), ("second", second))}

    def transposed(weight: Tensor) -> Tensor:
        return F.conv_transpose3d(x, weight, bias, 2, dilation, 1, 1, dilation)

    def ours() -> tuple[Tensor, ...]:
        if what == "deconv3d":
            return (hdrops.deconv3d(x, first, bias, padding=dilation, output_padding=1, dilation=dilation),)
        if what == "deconv_conv3d":
            return (hdrops.deconv_conv3d(x, first, bias, second, bias, grid),)
        return (hdrops.deconv_reduce(x, first, bias, shares, projection, size=grid),)

    def theirs() -> tuple[Tensor, ...]:
        between = transposed(last["first"])
        if what == "deconv3d":
            return (between,)
        if what == "deconv_conv3d":
            return (F.conv3d(between, last["second"], bias, 2, 1),)
        return (torch.einsum("ok,nkhw->nohw", projection, between.mean(2)),)

    voxels = grid[0] * grid[1] * grid[2]
    flops = 2 * 27 * CHANNELS**2 * voxels / 8
    small = what == "deconv_reduce"
    return Work(
        Candidate("", torch.no_grad()(ours)),
        [Peer("torch eager", [Candidate("channels last", torch.no_grad()(theirs))], threads=torch.get_num_threads())],
        moved=4 * CHANNELS * voxels * (1 / 8 + {"deconv3d": 1, "deconv_conv3d": 1 / 8, "deconv_reduce": 0}[what]),
        flops=0 if small else flops,
        check=_close,
        tolerance="within 1e-4 of the norm",
    )


def hourglass_cases(sizes: list[str], device: str) -> list[Case]:
    """Sizes of volumes, whatever sizes of pictures are asked for."""
    name = "tiny" if "tiny" in sizes else "96x64x64"
    grid = GRIDS[name]
    cases = []

    def add(label: str, variant: str, made: Callable[[], Any]) -> None:
        cases.append(Case("hourglass", label, name, *grid[1:], variant, made, headline=True, limit_s=LIMIT_S))

    for backward in (False, True):
        label = f"Hourglass3d, {CHANNELS} channels, dilations 1, 3, 5" + (", forward and backward" if backward else "")
        made = functools.partial(_build_hourglass, grid, backward, device)
        add(label, "forward+backward" if backward else "fresh", made)
    for what, dilation in (
        ("deconv3d", 1),
        ("deconv3d", 3),
        ("deconv3d", 5),
        ("deconv_conv3d", 1),
        ("deconv_reduce", 1),
    ):
        label = f"{what}, {CHANNELS} channels" + (f", dilation {dilation}" if what == "deconv3d" else "")
        add(label, "fresh", functools.partial(_build_part, what, dilation, grid, device))
    return cases


def bench_hourglass(case: Case, measure: Callable[[Case], None]) -> None:
    measure(case)
