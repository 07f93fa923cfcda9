"""The order of the samples, and the state of random generators."""

import itertools
import random

import numpy as np
import pytest
import torch

from hdrops.train.random_state import random_state, seed_everything, set_random_state
from hdrops.train.sampler import Batches, seed_of


def first(count, **options):
    return list(itertools.islice(Batches(**options), count))


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def test_every_epoch_is_a_permutation():
    keys = flat(first(15, length=10, batch=4, seed=3))
    epochs = [[index for epoch, index in keys if epoch == e] for e in range(6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [epoch for epoch, _ in keys] == sorted(epoch for epoch, _ in keys)
    assert keys != flat(first(15, length=10, batch=4, seed=4))


def test_fewer_samples_than_a_batch():
    (batch,) = first(1, length=3, batch=7, seed=0)
    assert [epoch for epoch, _ in batch] == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("start", [0, 1, 7, 1000])
def test_starts_at_any_step(start):
    assert first(5, length=10, batch=4, seed=3, start=start) == first(start + 5, length=10, batch=4, seed=3)[start:]


@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (1, 3), (2, 3), (3, 2)])
def test_processes_and_parts_share_a_batch(processes, parts):
    whole = first(4, length=10, batch=12, seed=3, start=2)
    shares = [
        first(4 * parts, length=10, batch=12, seed=3, start=2, rank=rank, processes=processes, parts=parts)
        for rank in range(processes)
    ]
    for step, batch in enumerate(whole):
        assert batch == flat(flat(share[step * parts : (step + 1) * parts]) for share in shares)


def test_seeds():
    seeds = {seed_of(*numbers) for numbers in itertools.product(range(5), repeat=3)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)


def draw():
    return [random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), float(torch.randn(()))]


@pytest.mark.parametrize("draws", [0, 1, 2])
def test_random_state_returns(draws):
    """A normal deviate is pending after an odd number of draws."""
    seed_everything(5, 0)
    for _ in range(draws):
        draw()
    device = torch.device("cpu")
    state = random_state(device)
    expected = [draw(), draw()]
    set_random_state(state, device)
    assert [draw(), draw()] == expected


def test_processes_draw_differently():
    seed_everything(5, 0)
    one = draw()
    seed_everything(5, 1)
    assert not set(one) & set(draw())
    seed_everything(5, 0)
    assert draw() == one
