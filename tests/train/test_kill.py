"""SIGKILL at any moment: the resumed run is that without interruption, to the bit."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("pydantic", reason="training needs pydantic")

HERE = pathlib.Path(__file__).parent
STEPS = 40
SETTINGS = [f"steps={STEPS}", "optimizer.kind=adamw", "schedule.kind=cosine", "schedule.warmup=10", "clip=1.0"]
# What must be equal, besides the checkpoint of the last step.
RESULTS = ("model/model.safetensors", "metrics.csv", "validation.csv")


@pytest.fixture(scope="module")
def run():
    """Train the toy in processes of its own: run(folder, processes, ...), see runner.py.

    Signals other than SIGKILL go to process ``to`` and to its workers.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "runner.py"), "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:

        def order(
            out, processes, event=0, step=None, delay=0.0, number=signal.SIGKILL, to=0, settings=(), system="toy"
        ):
            keys = {"out": str(out), "settings": [*SETTINGS, *settings], "processes": processes, "system": system}
            keys |= {"event": event, "step": step, "delay": delay, "signal": number, "to": to}
            print(json.dumps(keys), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield order
        server.stdin.close()


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The folder of a run without interruption, by processes and settings, and how often it touches files."""
    folders = {}

    def get(processes, settings=()):
        key = processes, settings
        if key not in folders:
            folder = tmp_path_factory.mktemp("whole") / "run"
            outcome = run(folder, processes, settings=settings)
            assert (outcome["codes"], outcome["steps"]) == ([0] * processes, STEPS)
            folders[key] = folder, outcome["events"]
        return folders[key]

    return get


def assert_same(folder, expected):
    last = f"checkpoints/step-{STEPS:06d}"
    files = [*RESULTS, *(f"{last}/{path.name}" for path in (expected / last).iterdir())]
    assert {"rng.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json"} < {
        pathlib.PurePath(f).name for f in files
    }
    differing = [name for name in files if (folder / name).read_bytes() != (expected / name).read_bytes()]
    assert not differing
    assert os.readlink(folder / "checkpoints/best") == os.readlink(expected / "checkpoints/best")
    entries = [sorted(path.name for path in (x / "checkpoints").iterdir()) for x in (folder, expected)]
    assert entries[0] == entries[1]  # nothing unfinished is left, nor an old one


def last_step(folder):
    """Of the checkpoints that a run has left; 0 if there is none."""
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=0)


def resumed(run, folder, processes, settings=()):
    """Go on with a run to its end, from its last checkpoint and not from its start: what was warned of."""
    done = last_step(folder)
    assert done > 0
    outcome = run(folder, processes, settings=settings)
    assert (outcome["codes"], outcome["steps"]) == ([0] * processes, STEPS - done)
    return outcome["warnings"]


def killed(run, folder, expected, processes, kills, generator, settings=()):
    """Kill a run so often, each time some steps and a random time after its start; one that ends first begins anew."""
    while kills or not last_step(folder):
        step, delay = generator.randint(0, 8), generator.uniform(0, 0.02)
        codes = set(run(folder, processes, step=step, delay=delay, settings=settings)["codes"])
        if codes == {0}:
            assert_same(folder, expected)
            shutil.rmtree(folder)
            continue
        assert -signal.SIGKILL in codes
        kills = max(0, kills - 1)


@pytest.mark.parametrize(
    ("processes", "settings"), [(1, ()), (2, ()), (2, ("accumulate=2", "run.workers=1"))], ids=["1", "2", "2-parts"]
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full)])
def test_killed_at_random(run, whole, tmp_path, processes, settings, seed, request):
    kills = 20 if request.config.getoption("--full") else 4
    expected, _ = whole(processes, settings)
    killed(run, tmp_path / "run", expected, processes, kills, random.Random(seed), settings)
    assert resumed(run, tmp_path / "run", processes, settings) == []
    assert_same(tmp_path / "run", expected)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.full)])
def test_killed_while_files_change(run, whole, tmp_path, processes, request):
    """Just before each file event of two checkpoints in turn (of the whole run with --full), and then once more."""
    expected, events = whole(processes)
    assert events > 100
    numbers = range(1, events + 1)
    if not request.config.getoption("--full"):
        numbers = [1, 2, 3, 5, *range(events // 2, events // 2 + 30, 3), events - 3, events]
    folder = tmp_path / "run"
    killed_last = None
    for number in numbers:
        outcome = run(folder, processes, event=number)
        if set(outcome["codes"]) == {0}:
            # The rest of the run touches fewer files than that: from its start again.
            assert_same(folder, expected)
            shutil.rmtree(folder)
            outcome = run(folder, processes, event=number)
        assert outcome["codes"][0] == -signal.SIGKILL
        killed_last = number
    assert killed_last == numbers[-1]
    assert resumed(run, folder, processes) == []
    assert_same(folder, expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("processes", "to"), [(1, 0), (2, 0), (2, 1)])
def test_signal_to_a_group(run, whole, tmp_path, processes, to, number):
    """Workers live on until the step is done; both of two end after the same one and know the signal."""
    expected, _ = whole(processes)
    folder = tmp_path / "run"
    outcome = run(folder, processes, step=3, number=number, to=to, settings=["run.workers=1"])
    assert outcome["codes"] == [0] * processes
    assert 3 < last_step(folder) < STEPS
    assert not (folder / "model").exists()
    assert resumed(run, folder, processes) == []
    assert_same(folder, expected)


def test_another_number_of_processes_goes_on(run, whole, tmp_path):
    folder = tmp_path / "run"
    run(folder, 2, step=5)
    (warning,) = resumed(run, folder, 1)
    assert "was made by 2 processes on cpu" in warning
    assert "now it is 1 processes on cpu" in warning
    assert (folder / "model").exists()


def test_processes_and_parts_equal_one(run, tmp_path):
    """Two processes, each with two parts of a batch, compute what one computes on the whole: clipped by its norm."""
    # With so large an epsilon an update is as long as the gradient, so that clipping shows in the weights.
    settings = ["batch=8", "clip=0.05", "log_every=1", "optimizer.eps=1.0", "optimizer.lr=1.0"]
    assert run(tmp_path / "one", 1, settings=settings, system="linear")["codes"] == [0]
    assert run(tmp_path / "two", 2, settings=[*settings, "accumulate=2"], system="linear")["codes"] == [0, 0]
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-6)
    tables = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("one", "two")]
    assert tables[0][0] == tables[1][0] == "step,epoch,loss,gradient_norm,lr"
    numbers = [[[float(cell) for cell in row.split(",")] for row in table[1:]] for table in tables]
    assert len(numbers[0]) == STEPS
    assert max(row[3] for row in numbers[0]) > 0.05
    for a, b in zip(*numbers, strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-6)


def torchrun(folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(HERE / "runner.py"), str(folder), *SETTINGS]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def test_torchrun_resumes(run, whole, tmp_path):
    expected, _ = whole(2)
    killed(run, tmp_path / "run", expected, 2, 1, random.Random(2))
    began = last_step(tmp_path / "run")
    with torchrun(tmp_path / "run") as launcher:
        out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    assert out.splitlines() == [f"{began} {STEPS}"] * 2
    assert_same(tmp_path / "run", expected)


def descendants(pid):
    """A process and all that it has started."""
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return [pid, *(d for child in children for d in descendants(child))]


@pytest.mark.full
def test_torchrun_killed(whole, tmp_path):
    generator = random.Random(3)
    folder = tmp_path / "run"
    for number in range(4):
        goal = f"step-{2 + 12 * number:06d}"
        with torchrun(folder) as launcher:
            while not (folder / "checkpoints" / goal).exists():
                assert launcher.poll() is None
                time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.02))
            for pid in descendants(launcher.pid):
                os.kill(pid, signal.SIGKILL)
        assert launcher.returncode == -signal.SIGKILL
    with torchrun(folder) as launcher:
        _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    assert_same(folder, whole(2)[0])
