"""Definition of the operator ``pairwise``; arguments as in ``cpp/schema.cpp``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hdrops.reference._autograd import differentiable

_LOW = 0xFFFFFFFF


def _compute(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def offset(threshold: float) -> float:
    """C = log(1 + e^S) - log(1 + e^√S), of any S: no exponential is of a positive number."""
    root = math.sqrt(threshold)
    return threshold - root + math.log1p(math.exp(-threshold)) - math.log1p(math.exp(-root))


def penalty(contradiction: Tensor, threshold: float) -> Tensor:
    """log(1 + e^P) up to S, log(1 + e^√P) + C beyond."""
    beyond = F.softplus(contradiction.clamp(min=threshold).sqrt()) + offset(threshold)
    return torch.where(contradiction > threshold, beyond, F.softplus(contradiction))


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of Salmon et al., SC 2011: words of 32 bits, each in an int64.

    A product that exceeds int64 wraps around, and has its 64 bits all the same.
    """
    a, b, c, d = counter
    key, other_key = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b = ((second >> 32) & _LOW) ^ b ^ key, second & _LOW
        c, d = ((first >> 32) & _LOW) ^ d ^ other_key, first & _LOW
        key, other_key = (key + 0x9E3779B9) & _LOW, (other_key + 0xBB67AE85) & _LOW
    return a, b, c, d


def drawn(usable: Tensor, seed: Tensor, pairs: int, first_row: int = 0) -> Tensor:
    """Places of pairs (rows, 2, pairs) among the usable ones (rows, size), uniformly: 0 in rows without any.

    The counter is the pair and the row; of the four words, the first two are the first place, as a fraction of all
    usable ones from left to right, the others the second.
    """
    rows, size = usable.shape
    numbers = usable.cumsum(1)
    total = numbers[:, -1:]
    pair = torch.arange(pairs, device=usable.device).expand(rows, pairs)
    row = torch.arange(first_row, first_row + rows, device=usable.device)[:, None].expand(rows, pairs)
    words = philox((pair, row, torch.zeros_like(pair), torch.zeros_like(pair)), seed)
    ranks = [(high * total + ((low * total) >> 32)) >> 32 for high, low in (words[:2], words[2:])]
    places = torch.searchsorted(numbers, torch.cat(ranks, 1) + 1).clamp(max=size - 1)
    return torch.where(total > 0, places, 0).view(rows, 2, pairs)


def windows(image: Tensor, side: int) -> Tensor:
    """Sums over squares by their first pixels, (..., H - side + 1, W - side + 1)."""
    rows, columns = (size - side + 1 for size in image.shape[-2:])
    across = image[..., :columns]
    for k in range(1, side):
        across = across + image[..., k : columns + k]
    found = across[..., :rows, :]
    for k in range(1, side):
        found = found + across[..., k : rows + k, :]
    return found


def sums(
    prediction: Tensor,
    target: Tensor,
    seed: Tensor,
    sides: Tensor | None,
    pairs: int,
    threshold: float,
    limit: float,
    ignore_ties: bool,
    least: float,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The first result, in the arithmetic type; the sums over the patches that it is made of, a tensor (C, 2, pairs)
    for each image; and the places."""
    dtype = _compute(prediction)
    n, c, height, width = prediction.shape
    if prediction.numel() == 0:
        shape = (n, c, 2, pairs)
        values = list(prediction.new_zeros(shape, dtype=dtype))
        return prediction.new_zeros((n, c, 2), dtype=dtype), values, prediction.new_zeros(shape, dtype=torch.int32)
    first, second = prediction.to(dtype), target.to(dtype)
    # In float64, so that what is over-exposed does not depend on the arithmetic.
    over_exposed = ~(second.double() <= limit * second.double().amax((1, 2, 3), keepdim=True))
    found, values, places = [], [], []
    for k, wanted in enumerate([1] * n if sides is None else sides.tolist()):
        side = max(1, min(wanted, height, width))
        usable = windows(over_exposed[k].int(), side) == 0
        columns = usable.shape[-1]
        chosen = drawn(usable.flatten(1), seed.reshape(()), pairs, k * c)
        one, other = (windows(image[k], side).flatten(1).gather(1, chosen.flatten(1)) for image in (first, second))
        value, order = one.view_as(chosen), other.view_as(chosen)
        means, bound = value / side**2, max(least, torch.finfo(dtype).tiny)
        logarithms = torch.where(means < bound, bound, means).log()
        sign = torch.where(order[:, 0] > order[:, 1], -1.0, 1.0).to(dtype)  # -r
        counted = usable.flatten(1).any(1)[:, None].expand(c, pairs)
        if ignore_ties:
            counted = counted & (order[:, 0] != order[:, 1])
        cost = penalty(sign * (logarithms[:, 0] - logarithms[:, 1]), threshold)
        total = torch.where(counted, cost, 0).sum(1, dtype=torch.float64).to(dtype)
        found.append(torch.stack([total, counted.sum(1).to(dtype)], 1))
        values.append(value)
        places.append(chosen // columns * width + chosen % columns)
    return torch.stack(found), values, torch.stack(places).int()


def pairwise_loss(
    prediction: Tensor,
    target: Tensor,
    seed: Tensor,
    sides: Tensor | None,
    pairs: int,
    threshold: float,
    limit: float,
    ignore_ties: bool,
    least: float,
) -> tuple[Tensor, Tensor, Tensor]:
    with differentiable():
        variable = prediction.detach().requires_grad_()
        options = (seed, sides, pairs, threshold, limit, ignore_ties, least)
        result, values, places = sums(variable, target.detach(), *options)
        slopes = [torch.zeros_like(v) for v in values]
        if prediction.numel() > 0:
            slopes = list(torch.autograd.grad(result[..., 0].sum(), values))
    shape = (*prediction.shape[:2], 2, pairs)
    return result.detach(), places, torch.stack(slopes) if slopes else result.new_zeros(shape)


def pairwise_loss_backward(
    grad: Tensor,
    prediction: Tensor,
    target: Tensor,
    seed: Tensor,
    sides: Tensor | None,
    places: Tensor,
    slopes: Tensor,
    threshold: float,
    limit: float,
    ignore_ties: bool,
    least: float,
) -> Tensor:
    if prediction.numel() == 0:
        return torch.zeros_like(prediction)
    with differentiable():
        variable = prediction.detach().requires_grad_()
        options = (seed, sides, places.shape[-1], threshold, limit, ignore_ties, least)
        result, _, _ = sums(variable, target.detach(), *options)
        return torch.autograd.grad(result, variable, grad.to(result.dtype))[0]
