"""Means over a data set."""

from __future__ import annotations

import math
import pathlib
import pickle
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from hdrops.metrics import Accumulator, ms_ssim_sources, psnr, ssim

INF, NAN = math.inf, math.nan


def given(values: Tensor) -> Tensor:
    """A metric whose values are those it is given."""
    return values


def accumulated(*values: float, **options: object) -> Accumulator:
    accumulator = Accumulator(given, **options)
    accumulator.update(torch.tensor(values, dtype=torch.float64))
    return accumulator


def test_mean_over_images_of_unequal_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 7, 3, 16, 16, generator=generator)
    mean = Accumulator(psnr, domain="mu")
    for begin, end in ((0, 1), (1, 5), (5, 7)):
        batch = mean.update(x[begin:end], y[begin:end])
        assert torch.equal(batch, psnr(x[begin:end], y[begin:end], "mu"))
    assert len(mean) == 7
    assert mean.compute() == pytest.approx(psnr(x, y, "mu").mean().item(), rel=1e-14)
    assert torch.equal(mean.values, psnr(x, y, "mu"))


@pytest.mark.parametrize("metric", [ssim, ms_ssim_sources])
def test_other_metrics(metric: object) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 176, 176, generator=generator)
    y = torch.rand(2, 2, 3, 176, 176, generator=generator) if metric is ms_ssim_sources else x.flip(-1)
    mean = Accumulator(metric)
    mean.update(x, y)
    assert mean.compute() == pytest.approx(metric(x, y).double().mean().item(), rel=1e-12)


def test_scalars_and_gradients() -> None:
    mean = Accumulator(lambda value: 2 * value)
    result = mean.update(torch.tensor(3.0, requires_grad=True))
    mean.update(torch.tensor(5.0))
    assert not result.requires_grad
    assert mean.compute() == 8
    assert len(mean) == 2


def test_values_are_copies() -> None:
    values = torch.tensor([1.0, 2.0])
    mean = Accumulator(given)
    mean.update(values)
    values.zero_()
    assert mean.compute() == 1.5


def test_sum_is_exact() -> None:
    """In whatever order: a running sum in float64 loses the small ones."""
    values = [1e16, 1.0, 1.0, -1e16]
    assert sum(values) / 4 != 0.5
    assert accumulated(*values).compute() == 0.5
    assert accumulated(*reversed(values)).compute() == 0.5


@pytest.mark.parametrize(
    ("infinite", "values", "expected"),
    [
        ("keep", [30.0, INF], INF),
        ("skip", [30.0, INF, 40.0], 35.0),
        ("skip", [INF, INF], INF),
        (100, [30.0, INF], 65.0),
        (100.0, [INF], 100.0),
        ("keep", [30.0, -INF], -INF),
        ("skip", [30.0, -INF], -INF),
        (100, [30.0, -INF], -INF),
    ],
)
def test_infinite_values(infinite: object, values: list[float], expected: float) -> None:
    mean = accumulated(*values, infinite=infinite)
    assert mean.compute() == expected
    assert len(mean) == len(values)
    assert mean.values.tolist() == values


@pytest.mark.parametrize("infinite", ["keep", "skip", 100])
def test_nan_is_kept(infinite: object) -> None:
    assert math.isnan(accumulated(30.0, NAN, INF, infinite=infinite).compute())
    assert math.isnan(accumulated(INF, -INF).compute())


def test_psnr_of_equal_images() -> None:
    x = torch.rand(2, 1, 8, 8)
    for infinite, expected in (("keep", INF), (80, 80.0)):
        mean = Accumulator(psnr, infinite=infinite)
        mean.update(x, x)
        assert mean.compute() == expected


def test_reset() -> None:
    mean = accumulated(1.0)
    mean.reset()
    assert len(mean) == 0
    with pytest.raises(ValueError, match="no images"):
        mean.compute()
    mean.update(torch.tensor([4.0]))
    assert mean.compute() == 4


def test_merge() -> None:
    whole = accumulated(1.0, 2.0)
    part = accumulated(4.5)
    whole.merge_state(part, accumulated(), accumulated(10.0, 0.0))
    assert whole.values.tolist() == [1.0, 2.0, 4.5, 10.0, 0.0]
    assert whole.compute() == 3.5
    assert part.compute() == 4.5


def test_pickle() -> None:
    mean = accumulated(1.0, 2.0)
    assert pickle.loads(pickle.dumps(mean)).compute() == 1.5


@pytest.mark.parametrize("infinite", ["drop", INF, NAN, None])
def test_bad_rule(infinite: object) -> None:
    with pytest.raises(ValueError, match="infinite must be"):
        Accumulator(given, infinite=infinite)


@pytest.mark.parametrize("result", [1.5, torch.ones(2, 2), torch.ones(2, dtype=torch.complex64)])
def test_bad_metric(result: object) -> None:
    with pytest.raises(TypeError, match="a metric must give"):
        Accumulator(lambda: result).update()


PROCESS = """
import sys, torch, torch.distributed as dist
from hdrops.metrics import Accumulator
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
mean = Accumulator(lambda values: values, infinite="skip")
if rank:
    mean.update(torch.tensor([1e16, 1.0, float("inf")], dtype=torch.float64))
    mean.update(torch.tensor([1.0, -1e16], dtype=torch.float64))
print(mean.compute(), mean.compute(synchronize=False) if rank else len(mean))
mean.update(torch.tensor([7.0 - 3 * rank]))
print(mean.compute(), len(mean))
dist.destroy_process_group()
"""


def test_two_processes(tmp_path: pathlib.Path) -> None:
    """Unequal numbers of images, none on the first at first; every process gets the mean of all."""
    command = [sys.executable, "-c", PROCESS]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        printed = [run.communicate(timeout=120)[0].split() for run in runs]
    finally:
        for run in runs:
            run.kill()
    mean = 13 / 6
    assert printed == [["0.5", "0", str(mean), "1"], ["0.5", "0.5", str(mean), "6"]]
