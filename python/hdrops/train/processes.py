"""The processes that train together, as torchrun starts them: one for each GPU, or several on the CPU.

Gradients are averaged in one buffer once a backward pass is done. torch's DistributedDataParallel would do so
meanwhile, but in parts whose borders it moves after the first step: a resumed run would sum in another order and
part from the one it continues in the last bits.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hdrops.io.errors import InputError
from hdrops.train.errors import TrainingError

_PATIENCE = datetime.timedelta(hours=2)  # the others wait while one process validates


@dataclass(frozen=True)
class Processes:
    """This process among all.

    Attributes:
        rank: its number, from 0; process 0 writes all files.
        count: of all processes.
        device: what it computes on.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def average(self, parameters: Sequence[nn.Parameter], numbers: Sequence[float | Tensor]) -> list[float]:
        """Average gradients, in place, and numbers over all processes.

        A parameter that has a gradient in no process has one of zeros afterwards, if there are several processes.
        """
        vector = torch.stack([torch.as_tensor(x, dtype=torch.float32, device=self.device) for x in numbers])
        if self.count > 1:
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            flat = torch.cat([*(g.flatten().float() for g in parts), vector])
            self._all_reduce(flat)
            flat /= self.count
            *gradients, vector = flat.split([*(p.numel() for p in parameters), len(vector)])
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.view_as(parameter).to(parameter.dtype)
        averaged: list[float] = vector.tolist()
        return averaged

    def anywhere(self, condition: bool) -> bool:
        """Whether the condition holds in some process."""
        return self.average((), [float(condition)])[0] > 0

    @torch.no_grad()
    def take_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of process 0."""
        if self.count > 1:
            with _others_are_there():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def gather(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of all processes on the CPU, by "rank/name"; their shapes are the same everywhere."""
        gathered: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            parts = [tensor.to(self.device).clone() for _ in range(self.count)]
            if self.count > 1:
                with _others_are_there():
                    dist.all_gather(parts, tensor.to(self.device))
            gathered |= {f"{rank}/{name}": part.cpu() for rank, part in enumerate(parts)}
        return gathered

    def _all_reduce(self, tensor: Tensor) -> None:
        with _others_are_there():
            dist.all_reduce(tensor)


@contextlib.contextmanager
def _others_are_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"the connection to the other processes is lost ({str(error).splitlines()[0]}); look for what one of them "
            "says, then run the same command to resume"
        ) from error


@contextlib.contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun has started; without it there is this one.

    Args:
        device: "cpu", "cuda", or "auto": CUDA where torch finds a GPU.

    Raises:
        InputError: CUDA where there is no GPU for this process.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and gpus == 0:
        raise InputError("run.device is cuda, but torch finds no GPU; set run.device=cpu")
    if device != "cpu" and gpus and local >= gpus:
        raise InputError(f"there are {gpus} GPUs but more processes; start torchrun with --nproc-per-node {gpus}")
    own = torch.device("cuda", local) if device != "cpu" and gpus else torch.device("cpu")
    if own.type == "cuda":
        torch.cuda.set_device(own)
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Processes(0, 1, own)
        return
    on_gpu = own.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE, device_id=own if on_gpu else None)
    try:
        yield Processes(dist.get_rank(), count, own)
    finally:
        dist.destroy_process_group()
