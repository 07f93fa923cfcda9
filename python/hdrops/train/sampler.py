"""Which samples make which batch: a function of the seed and the step, so that a run resumes at any step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Key = tuple[int, int]


@dataclass(frozen=True)
class Batches:
    """Batches of keys (epoch, index), without end, from a step on.

    The orders of the epochs stand one after the other, each a permutation of all samples; a step takes the next
    ``batch`` of them. A batch may thus reach into the next epoch: no sample is left out, and a data set may be smaller
    than a batch. Each process takes an equal part of every batch, in one or several parts.

    Attributes:
        length: number of samples.
        batch: of all processes and parts.
        seed: of the order.
        rank, processes: this process, and how many there are.
        parts: of the share of a process.
        start: steps that are done already.
    """

    length: int
    batch: int
    seed: int
    rank: int = 0
    processes: int = 1
    parts: int = 1
    start: int = 0

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = -1, torch.empty(0)
        size = self.batch // (self.processes * self.parts)
        first = self.start * self.batch + self.rank * size * self.parts
        while True:
            for part in range(self.parts):
                keys = []
                for position in range(first + part * size, first + (part + 1) * size):
                    if position // self.length != epoch:
                        epoch = position // self.length
                        order = self._order(epoch)
                    keys.append((epoch, int(order[position % self.length])))
                yield keys
            first += self.batch

    def epoch(self, step: int) -> float:
        """Epochs that are done after so many steps."""
        return step * self.batch / self.length

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
        return torch.randperm(self.length, generator=generator)


def seed_of(*numbers: int) -> int:
    """A seed of 63 bits that differs for different numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
