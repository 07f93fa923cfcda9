"""Means of metrics over a data set, batch by batch and across processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor

Infinite = Literal["keep", "skip"]


class Accumulator:
    """The mean of a metric over all images seen: :meth:`update` with each batch, :meth:`compute` at the end.

    Takes any metric that gives one value per image, (N,), or a scalar. Every value is kept (8 bytes an image), and the
    sum is rounded once, to float64: the mean does not depend on the batches, their order or the processes.

    Args:
        metric: called by :meth:`update` as ``metric(*args, **options)``.
        infinite: what becomes of a value of +infinity, the PSNR of an image equal to its reference: "keep" makes the
            mean infinite; "skip" leaves the image out of the mean, which is infinite if none remains; a number stands
            in for it, as the 100 dB of some papers do. NaN and -infinity are kept in any case.
        options: keyword arguments of the metric.

    Raises:
        ValueError: another ``infinite``.

    Example:
        >>> import torch
        >>> from hdrops.metrics import Accumulator, psnr
        >>> mean = Accumulator(psnr, domain="mu")
        >>> for _ in range(3):
        ...     values = mean.update(torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8))
        >>> mean.compute(), len(mean)
        (0.0, 6)
    """

    def __init__(self, metric: Callable[..., Tensor], *, infinite: Infinite | float = "keep", **options: Any) -> None:
        if infinite not in ("keep", "skip") and not (isinstance(infinite, int | float) and math.isfinite(infinite)):
            raise ValueError(f"infinite must be 'keep', 'skip' or a finite number, got {infinite!r}")
        self.metric = metric
        self.infinite = infinite
        self.options = options
        self._batches: list[Tensor] = []

    def __len__(self) -> int:
        """Number of images seen by this process."""
        return sum(batch.numel() for batch in self._batches)

    def update(self, *args: Any) -> Tensor:
        """Take the metric of a batch.

        Args:
            args: what the metric takes: images and references, say.

        Returns:
            What the metric gave, detached.

        Raises:
            TypeError: a metric that does not give one number per image.
        """
        values = self.metric(*args, **self.options)
        if not isinstance(values, Tensor) or values.dim() > 1 or values.is_complex():
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(f"a metric must give a tensor (N,) or a scalar one, got {got}")
        values = values.detach()
        # A copy, in case the metric writes to its result again; on its device, so as not to wait for it.
        self._batches.append(values.reshape(-1).clone())
        return values

    @property
    def values(self) -> Tensor:
        """Every value of this process (N,) in the order of its updates, float64 on the CPU."""
        return torch.cat([torch.empty(0, dtype=torch.float64), *(batch.cpu().double() for batch in self._batches)])

    def compute(self, *, synchronize: bool = True) -> float:
        """The mean so far.

        Args:
            synchronize: where torch.distributed is initialised, take the images of all processes; each must then call.
                False takes those of this process only.

        Raises:
            ValueError: no image has been seen.
        """
        values: list[float] = self.values.tolist()
        if synchronize and torch.distributed.is_available() and torch.distributed.is_initialized():
            gathered: list[list[float]] = [[] for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(gathered, values)
            values = [value for part in gathered for value in part]
        if not values:
            raise ValueError("no images to take the mean of; call update first")
        if self.infinite == "skip":
            values = [value for value in values if value != math.inf] or [math.inf]
        elif self.infinite != "keep":
            values = [self.infinite if value == math.inf else value for value in values]
        if not all(map(math.isfinite, values)):
            return sum(values)
        return math.fsum(values) / len(values)

    def merge_state(self, *others: Accumulator) -> None:
        """Take over the values of others, of other processes or parts of a data set; they keep theirs."""
        for other in others:
            self._batches.append(other.values)

    def reset(self) -> None:
        """Forget all values."""
        self._batches.clear()
