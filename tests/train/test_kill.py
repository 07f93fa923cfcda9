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

pytest.importorskip("pydantic", reason="training needs pydantic")

HERE = pathlib.Path(__file__).parent
STEPS = 40
SETTINGS = [f"steps={STEPS}", "optimizer.kind=adamw", "schedule.kind=cosine", "schedule.warmup=10", "clip=1.0"]
# What must be equal, besides the checkpoint of the last step.
RESULTS = ("model/model.safetensors", "metrics.csv", "validation.csv")


@pytest.fixture(scope="module")
def run():
    """Train the toy in processes of its own: run(folder, processes, ...), see runner.py.

    Signals other than SIGKILL go to the last of the processes and to its workers.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "runner.py"), "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:

        def order(out, processes, event=0, step=None, delay=0.0, number=signal.SIGKILL, settings=()):
            keys = {"out": str(out), "settings": [*SETTINGS, *settings], "processes": processes}
            keys |= {"event": event, "step": step, "delay": delay, "signal": number}
            print(json.dumps(keys), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield order
        server.stdin.close()


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The folder of a run without interruption, by number of processes, and how often it touches files."""
    folders = {}

    def get(processes):
        if processes not in folders:
            folder = tmp_path_factory.mktemp("whole") / "run"
            outcome = run(folder, processes)
            assert outcome["codes"] == [0] * processes
            folders[processes] = folder, outcome["events"]
        return folders[processes]

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


def killed(run, folder, expected, processes, kills, generator):
    """Kill a run so often, each time some steps and a random time after its start; one that ends first begins anew."""
    while kills:
        step, delay = generator.randint(0, 8), generator.uniform(0, 0.02)
        codes = set(run(folder, processes, step=step, delay=delay)["codes"])
        if codes == {0}:
            assert_same(folder, expected)
            shutil.rmtree(folder)
            continue
        assert -signal.SIGKILL in codes
        kills -= 1


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full)])
def test_killed_at_random(run, whole, tmp_path, processes, seed, request):
    kills = 20 if request.config.getoption("--full") else 4
    expected, _ = whole(processes)
    killed(run, tmp_path / "run", expected, processes, kills, random.Random(seed))
    assert run(tmp_path / "run", processes)["codes"] == [0] * processes
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
    assert run(folder, processes)["codes"] == [0] * processes
    assert_same(folder, expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", [1, 2])
def test_signal_to_a_group(run, whole, tmp_path, processes, number):
    """Workers live on until the step is done; of two processes both end after the same one."""
    expected, _ = whole(processes)
    folder = tmp_path / "run"
    outcome = run(folder, processes, step=3, number=number, settings=["run.workers=1"])
    assert outcome["codes"] == [0] * processes
    steps = sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))
    assert 3 < steps[-1] < STEPS
    assert not (folder / "model").exists()
    assert run(folder, processes)["codes"] == [0] * processes
    assert_same(folder, expected)


def test_another_number_of_processes_goes_on(run, whole, tmp_path):
    folder = tmp_path / "run"
    run(folder, 2, step=5)
    assert run(folder, 1)["codes"] == [0]
    assert (folder / "model").exists()


def torchrun(folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(HERE / "runner.py"), str(folder), *SETTINGS]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def test_torchrun_resumes(run, whole, tmp_path):
    expected, _ = whole(2)
    killed(run, tmp_path / "run", expected, 2, 1, random.Random(2))
    with torchrun(tmp_path / "run") as launcher:
        out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    assert out.split() == [str(STEPS)] * 2
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
