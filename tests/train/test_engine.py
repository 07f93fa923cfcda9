"""The engine: what a run leaves, what interrupts it and what goes wrong in it."""

import csv
import dataclasses
import errno
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import toy

from hdrops.io import InputError, read_image
from hdrops.train import TrainingError
from hdrops.train.logs import Table


def rows(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_what_a_run_leaves(run, tmp_path):
    seen = []
    outcome = run(progress=seen.append)
    folder = tmp_path / "run"
    names = {"config.toml", "data.json", "metrics.csv", "validation.csv", "timing.csv", "model"}
    assert {path.name for path in folder.iterdir()} == names | {".lock", "checkpoints", "pictures"}
    assert (outcome.step, outcome.model, outcome.signal, outcome.began) == (12, folder / "model", None, 0)
    assert [progress.step for progress in seen] == list(range(1, 13))
    assert [progress.step for progress in seen if progress.logged] == [3, 6, 9, 12]
    metrics = rows(folder / "metrics.csv")
    assert [row["step"] for row in metrics] == ["3", "6", "9", "12"]
    assert list(metrics[0]) == ["step", "epoch", "loss", "l2", "l1", "gradient_norm", "lr"]
    for row in metrics:
        assert float(row["loss"]) == pytest.approx(float(row["l2"]) + float(row["l1"]), rel=1e-6)
    assert float(metrics[-1]["loss"]) < 0.7 * float(metrics[0]["loss"])
    assert float(metrics[0]["loss"]) == pytest.approx(sum(progress.loss for progress in seen[:3]) / 3, rel=1e-6)
    validations = rows(folder / "validation.csv")
    assert [row["step"] for row in validations] == ["5", "10", "12"]
    assert [path.name for path in sorted((folder / "pictures").iterdir())] == [
        f"step-{step:06d}.png" for step in (5, 10, 12)
    ]
    assert read_image(folder / "pictures" / "step-000005.png").pixels.shape == (3, 6, 8)
    best = min(validations, key=lambda row: float(row["mse"]))
    assert os.readlink(folder / "checkpoints" / "best") == outcome.best.name == f"step-{int(best['step']):06d}"
    kept = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert kept == sorted({"step-000010", "step-000012", outcome.best.name})


def test_the_best_is_kept(run, tmp_path):
    errors = iter([0.5, 0.2, 0.3, float("nan"), 0.4, 0.3, 0.2])

    def validate(*_):
        return toy.Validation({"mse": next(errors)})

    outcome = run("validate_every=2", "steps=14", system=dataclasses.replace(toy.TOY, validate=validate))
    assert outcome.best == tmp_path / "run/checkpoints/step-000004"
    assert (outcome.best / "model.safetensors").exists()
    assert os.readlink(tmp_path / "run/checkpoints/best") == "step-000004"
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").glob("step-*"))
    assert kept == ["step-000004", "step-000012", "step-000014"]


def test_nothing_is_pickled(run, tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("pickled")

    monkeypatch.setattr(pickle, "dump", refuse)
    monkeypatch.setattr(pickle, "dumps", refuse)
    monkeypatch.setattr(pickle, "Pickler", refuse)
    run()
    endings = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".lock"}
    assert endings == {".toml", ".json", ".csv", ".png", ".safetensors"}


@pytest.mark.parametrize("settings", [["run.workers=2"], ["run.workers=1", "run.keep=1", "run.checkpoint_every=1"]])
def test_same_result_for_any_workers(run, results, settings):
    run()
    run(*settings, out="other")
    assert results("other") == results()


def test_seeds_matter(run, results):
    run("steps=2")
    run("steps=2", "seed=1", out="other")
    assert results("other")["model.safetensors"] != results()["model.safetensors"]


def test_validation_leaves_training_alone(run, results):
    run("validate_every=1", "picture_every=0")
    run("validate_every=100", out="other")
    kept = ["model.safetensors", "metrics.csv", "last/optimizer.safetensors", "last/rng.safetensors"]
    assert [results("other")[name] for name in kept] == [results()[name] for name in kept]


def test_settings_of_torch_return(run):
    state = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGINT)
    run("steps=1", f"run.threads={torch.get_num_threads() + 1}")
    with pytest.raises(InputError):
        run("steps=1", "data.samples=0", out="other")
    now = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGINT)
    assert now == state


def test_average_is_exported(run, tmp_path):
    def load(path):
        return safetensors.torch.load_file(tmp_path / "run" / path)

    run("ema=0.5")
    exported, average = load("model/model.safetensors"), load("checkpoints/step-000012/ema.safetensors")
    weights = load("checkpoints/step-000012/model.safetensors")
    assert all(torch.equal(exported[name], average[name]) for name in average)
    assert not torch.equal(average["first.weight"], weights["first.weight"])
    assert torch.equal(average["norm.running_mean"], weights["norm.running_mean"])
    run("ema=0", fresh=True, force=True)
    assert not (tmp_path / "run/checkpoints/step-000012/ema.safetensors").exists()
    exported, weights = load("model/model.safetensors"), load("checkpoints/step-000012/model.safetensors")
    assert all(torch.equal(exported[name], weights[name]) for name in weights)


def test_average_follows_its_definition(run, tmp_path):
    """Of the weights after each step."""
    run("ema=0.9", "steps=3", "run.checkpoint_every=1", "run.keep=3")
    steps = [
        safetensors.torch.load_file(tmp_path / f"run/checkpoints/step-{step:06d}/{name}.safetensors")["last.weight"]
        for name in ("model", "ema")
        for step in (1, 2, 3)
    ]
    weights, averages = steps[:3], steps[3:]
    for number in (2, 3):
        decay = min(0.9, (1 + number) / (10 + number))
        expected = decay * averages[number - 2] + (1 - decay) * weights[number - 1]
        torch.testing.assert_close(averages[number - 1], expected)


def test_schedule_and_warm_up(run, tmp_path):
    run("schedule.kind=cosine", "schedule.warmup=4", "log_every=1", "steps=8")
    lr = [float(row["lr"]) for row in rows(tmp_path / "run/metrics.csv")]
    expected = [0.25, 0.5, 0.75, 1, 1, 0.853553, 0.5, 0.146447]
    assert lr == pytest.approx([0.01 * factor for factor in expected], rel=1e-4)


def test_parts_of_a_batch_add_up(run, tmp_path):
    run(system=toy.linear())
    run("accumulate=2", system=toy.linear(), out="other")
    one, other = (safetensors.torch.load_file(tmp_path / out / "model/model.safetensors") for out in ("run", "other"))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-5, atol=1e-6)
    losses = [[float(row["loss"]) for row in rows(tmp_path / out / "metrics.csv")] for out in ("run", "other")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert "l2" not in rows(tmp_path / "run/metrics.csv")[0]  # a single term is the loss


def test_gradients_are_clipped(run, tmp_path):
    networks = []
    run("clip=1e-3", "log_every=1", system=toy.linear(networks))
    norm = torch.cat([parameter.grad.flatten() for parameter in networks[0].parameters()]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert float(rows(tmp_path / "run/metrics.csv")[-1]["gradient_norm"]) > 1e-3  # as it was before


def test_bfloat16(run, tmp_path):
    dtypes = set()

    def losses(network, batch, config):
        prediction = network(batch["image"])
        dtypes.add(prediction.dtype)
        yield "", {"l2": (prediction - batch["target"]).square().mean()}

    system = dataclasses.replace(toy.TOY, losses=losses)
    run("precision=bfloat16", system=system)
    assert dtypes == {torch.bfloat16}
    weights = safetensors.torch.load_file(tmp_path / "run/model/model.safetensors")
    assert weights["first.weight"].dtype == torch.float32
    losses_seen = [float(row["loss"]) for row in rows(tmp_path / "run/metrics.csv")]
    assert losses_seen[-1] < losses_seen[0]


def test_two_optimizers(run, results, tmp_path):
    """Each moves its own network, in the order in which losses come; the state of both is kept."""
    system = toy.adversarial()
    run("log_every=1", system=system)
    header = ["step", "epoch", "loss/generator", "fit", "fool", "gradient_norm/generator"]
    assert list(rows(tmp_path / "run/metrics.csv")[0]) == [*header, "loss/critic", "gradient_norm/critic", "lr"]
    interrupt_at(run, 5, signal.SIGTERM, "log_every=1", system=system, out="other")
    run("log_every=1", system=system, out="other")
    assert results("other") == results()
    state = safetensors.torch.load_file(tmp_path / "run/checkpoints/step-000012/optimizer.safetensors")
    assert {name.partition(".")[0] for name in state} == {"generator", "critic"}


def test_an_optimizer_moves_its_own_parameters_alone(run, tmp_path):
    def losses(model, batch, config):
        yield "critic", {"tell": model["critic"](model["generator"](batch["image"])).square().mean()}

    system = dataclasses.replace(toy.adversarial(), losses=losses)
    run("run.checkpoint_every=1", "run.keep=12", system=system)
    first, last = (
        safetensors.torch.load_file(tmp_path / f"run/checkpoints/step-{step:06d}/model.safetensors") for step in (1, 12)
    )
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved == {"critic.weight", "critic.bias"}


# ---- interruptions -------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_resumes_on_a_gpu(run, results):
    settings = ["run.device=cuda", "precision=bfloat16", "run.workers=1"]
    run(*settings)
    assert interrupt_at(run, 4, signal.SIGTERM, *settings, out="other").step == 5
    assert run(*settings, out="other").began == 5
    assert results("other") == results()


def interrupt_at(run, step, number, *settings, **options):
    def kill(progress):
        if progress.step == step:
            os.kill(os.getpid(), number)

    return run(*settings, progress=kill, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_run_after_the_step(run, results, tmp_path, number):
    run()
    outcome = interrupt_at(run, 4, number, out="other")
    assert (outcome.signal, outcome.step, outcome.model) == (number, 5, None)
    assert outcome.checkpoint == tmp_path / "other/checkpoints/step-000005"
    assert not (tmp_path / "other/model").exists()
    outcome = run(out="other")
    assert (outcome.began, outcome.step, outcome.signal) == (5, 12, None)
    assert results("other") == results()


def test_a_second_interrupt_ends_it_at_once(run, results):
    run()

    def interrupt_twice(progress):
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(out="other", progress=interrupt_twice)
    run(out="other")
    assert results("other") == results()


def test_a_run_that_is_done_stays_as_it_is(run, results, tmp_path):
    run()
    before = results()
    shutil.rmtree(tmp_path / "run/model")  # as if it was killed before the export
    outcome = run()
    assert (outcome.began, outcome.step) == (12, 12)
    assert results() == before


def test_more_steps_continue_a_run(run, results):
    run("steps=16")
    run(out="other")
    told = []
    run("steps=16", out="other", told=told)
    assert told == []
    expected, found = results(), results("other")
    # The log has a row and a validation at the first run's end.
    assert found["model.safetensors"] == expected["model.safetensors"]
    assert found["last/optimizer.safetensors"] == expected["last/optimizer.safetensors"]
    with pytest.raises(InputError, match="the run is at step 16 already; steps must be at least that, got 12"):
        run(out="other")
    run("schedule.kind=cosine", out="third")
    with pytest.raises(InputError, match=r"of another configuration: steps \(12 there, 16 here\)"):
        run("schedule.kind=cosine", "steps=16", out="third")


# ---- the folder ----------------------------------------------------------------------------------------------------


def test_another_configuration_is_refused(run, results, tmp_path):
    run("steps=2")
    before = results()
    with pytest.raises(InputError) as error:
        run("steps=2", "optimizer.lr=0.5", "data.samples=7")
    assert "optimizer.lr (0.01 there, 0.5 here), data.samples (10 there, 7 here)" in str(error.value)
    assert "--accept-changes" in str(error.value)
    assert "--fresh --force" in str(error.value)
    assert results() == before
    run("steps=2", "run.workers=1", "run.keep=7")  # these may differ
    assert "workers = 1" in (tmp_path / "run/config.toml").read_text()


def test_changes_are_accepted(run, tmp_path):
    run("steps=2", "ema=0")
    told = []
    outcome = run("ema=0.5", "optimizer.lr=0.5", "batch=5", accept_changes=True, told=told)
    assert (outcome.began, outcome.step) == (2, 12)
    assert told == ["the configuration differs from that of step 2; the run goes on with the present one"]
    assert "lr = 0.5" in (tmp_path / "run/config.toml").read_text()
    assert run("ema=0.5", "optimizer.lr=0.5", "batch=5").began == 12


def test_rows_and_the_best_are_of_one_configuration(run, tmp_path):
    """What was summed for a row, and the best validation, of another configuration are dropped."""
    errors = iter([0.1, 0.5, 0.4])
    system = dataclasses.replace(toy.TOY, validate=lambda *_: toy.Validation({"mse": next(errors)}))
    settings = "log_every=4", "validate_every=5"
    interrupt_at(run, 5, signal.SIGTERM, *settings, system=system)
    seen = []
    options = {"system": system, "accept_changes": True, "told": []}
    outcome = run(*settings, "optimizer.lr=0.5", progress=seen.append, **options)
    assert (outcome.began, outcome.best.name) == (6, "step-000012")
    losses = [progress.loss for progress in seen if progress.step <= 8]
    row = next(row for row in rows(tmp_path / "run/metrics.csv") if row["step"] == "8")
    assert float(row["loss"]) == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_the_best_outlives_an_interruption(run):
    errors = iter([0.1, 0.5, 0.4])
    system = dataclasses.replace(toy.TOY, validate=lambda *_: toy.Validation({"mse": next(errors)}))
    interrupt_at(run, 7, signal.SIGTERM, "validate_every=5", system=system)
    outcome = run("validate_every=5", system=system, told=[])
    assert (outcome.began, outcome.best.name) == (8, "step-000005")


def test_a_term_that_comes_later_gets_a_column(tmp_path):
    table = Table(tmp_path / "log.csv", 0)
    table.write(1, {"loss": 1.0, "l2": 2.0})
    table.write(2, {"loss": 1.0, "l1": 3.0})
    table.close()
    table = Table(tmp_path / "log.csv", 2)
    table.write(3, {"l1": 4.0})
    table.close()
    assert (tmp_path / "log.csv").read_text() == "step,loss,l2,l1\n1,1,2,\n2,1,,3\n3,,,4\n"


def test_a_table_of_another_origin_is_named(run, tmp_path):
    run("steps=2")
    with open(tmp_path / "run/metrics.csv", "a") as file:
        file.write("garbage,1\n")
    with pytest.raises(InputError, match=r"metrics.csv, line \d does not begin with a step"):
        run("steps=3")


def test_a_refused_configuration_is_not_written(run, tmp_path):
    """What is refused only once the checkpoint is read as well: the network."""
    run("steps=2")
    before = (tmp_path / "run/config.toml").read_bytes()
    with pytest.raises(InputError, match="the checkpoint is of another network"):
        run("width=7", accept_changes=True, told=[])
    assert (tmp_path / "run/config.toml").read_bytes() == before
    with pytest.raises(InputError, match="the run is at step 2 already"):
        run("steps=1")
    assert (tmp_path / "run/config.toml").read_bytes() == before


def test_a_bad_configuration_of_the_run_is_named(run, tmp_path):
    run("steps=2")
    file = tmp_path / "run/config.toml"
    file.write_text(file.read_text().replace("clip = ", "clap = "))
    with pytest.raises(InputError, match=rf"^{file}: unknown key clap \(did you mean clip\?\)"):
        run("steps=2")


def test_a_run_of_another_system_is_refused(run, results):
    run("steps=2")
    before = results()
    with pytest.raises(InputError, match="holds a run of toy, not of game; give another folder"):
        run("steps=2", system=dataclasses.replace(toy.TOY, name="game"))
    assert results() == before


def test_fresh(run, tmp_path):
    run("steps=2", fresh=True)
    with pytest.raises(InputError, match="holds a run; give another folder, or add --force"):
        run("steps=2", fresh=True)
    with pytest.raises(InputError, match="ask for both"):
        run("steps=2", force=True)
    (tmp_path / "run/notes.txt").write_text("mine")
    outcome = run("steps=3", "width=2", fresh=True, force=True)
    assert (outcome.began, outcome.step) == (0, 3)
    assert [row["step"] for row in rows(tmp_path / "run/metrics.csv")] == ["3"]
    assert (tmp_path / "run/notes.txt").exists()


def test_a_foreign_folder_is_refused(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/photo.jpg").touch()
    with pytest.raises(InputError, match=r"holds files of another origin, such as photo\.jpg"):
        run()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write into"):
        run(out="file")


@pytest.mark.parametrize("config", [None, "title = 'a blog'\n", "", "steps = 3\n", "a = [\n"])
@pytest.mark.parametrize("options", [{}, {"fresh": True, "force": True}])
def test_files_of_another_origin_are_never_touched(run, tmp_path, config, options):
    folder = tmp_path / "run"
    names = ["pictures/a.png", "model/b.bin", "tensorboard/c", "checkpoints/step-000001/d", "data.json", "metrics.csv"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    if config is not None:
        (folder / "config.toml").write_text(config)
    with pytest.raises(InputError, match="holds files of another origin"):
        run("steps=1", **options)
    assert all((folder / name).read_text() == "mine" for name in names)
    assert config is None or (folder / "config.toml").read_text() == config


@pytest.mark.parametrize("marked", [True, False])
def test_a_run_is_known_by_its_configuration(run, tmp_path, marked):
    """By its first line, even if the keys are of another version; or because it is complete."""
    run("steps=1")
    file = tmp_path / "run/config.toml"
    first, rest = file.read_text().split("\n", 1)
    assert first == "# hdrops train toy"
    file.write_text(f"{first}\nold = 1\n{rest}" if marked else rest)
    assert run("steps=2", fresh=True, force=True).began == 0


def test_fresh_where_the_checkpoints_are_a_link(run, tmp_path):
    """The link is removed, not what it names."""
    run("steps=2")
    (tmp_path / "run/checkpoints").rename(tmp_path / "elsewhere")
    (tmp_path / "run/checkpoints").symlink_to(tmp_path / "elsewhere")
    assert run("steps=2").began == 2
    assert run("steps=2", fresh=True, force=True).began == 0
    assert not (tmp_path / "run/checkpoints").is_symlink()
    assert (tmp_path / "elsewhere/step-000002/model.safetensors").exists()


@pytest.mark.parametrize("setting", ["data.samples=0", "accumulate=3"])
def test_a_run_is_removed_only_for_one_that_can_start(run, results, setting):
    run("steps=2")
    before = results()
    with pytest.raises(InputError, match=r"no training samples|cannot be divided"):
        run(setting, fresh=True, force=True)
    assert results() == before


def test_a_run_that_failed_at_its_start_may_begin_anew(run, tmp_path):
    with pytest.raises(InputError, match="there are no training samples"):
        run("data.samples=0")
    assert run("data.samples=5", "steps=1").step == 1


def test_two_processes_do_not_share_a_folder(run, tmp_path):
    (tmp_path / "run").mkdir()
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "run/.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match="another process is training in"):
            run("steps=1")
        other.communicate(b"\n")
    assert run("steps=1").step == 1


# ---- checkpoints ---------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES = {
    "truncated weights": lambda folder: truncate(folder / "model.safetensors"),
    "no random state": lambda folder: (folder / "rng.safetensors").unlink(),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "half a state": lambda folder: truncate(folder / "state.json"),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
    "state of another shape": lambda folder: (folder / "state.json").write_text("[]"),
    "window of another shape": lambda folder: rewrite(folder / "state.json", '"sums"', '"sum"'),
    "weights not named": lambda folder: rewrite(folder / "state.json", '"model.safetensors",', ""),
    "no best": lambda folder: rewrite(folder / "state.json", '"best"', '"worst"'),
    "a word for a number": lambda folder: rewrite(folder / "state.json", '"format": 1', '"format": "1"'),
}


def rewrite(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(run, results, tmp_path, damage):
    run()
    interrupt_at(run, 8, signal.SIGTERM, out="other")
    DAMAGES[damage](tmp_path / "other/checkpoints/step-000009")
    (tmp_path / "other/checkpoints/.unfinished-1").mkdir()
    (tmp_path / "other/checkpoints/.unfinished-2").symlink_to("step-000005")
    told = []
    outcome = run(out="other", told=told)
    assert outcome.began == 8
    assert len(told) == 1
    assert "step-000009 is damaged" in told[0]
    assert "going on from step 8" in told[0]
    assert results("other") == results()
    assert not list((tmp_path / "other/checkpoints").glob(".*"))
    assert (tmp_path / "other/checkpoints/damaged-step-000009").is_dir()


def test_damaged_checkpoints_of_one_step_are_all_kept(run, tmp_path):
    folder = tmp_path / "run/checkpoints"
    for _ in range(2):
        run("steps=8", told=[])
        truncate(folder / "step-000008/model.safetensors")
    assert run("steps=8", told=[]).began == 6
    assert len(list(folder.glob("damaged-step-000008*"))) == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE])
def test_a_checkpoint_that_cannot_be_read_now_is_left_alone(run, results, tmp_path, monkeypatch, number):
    run()
    before = results()
    read = pathlib.Path.read_bytes

    def failing(path):
        if path.parent.name == "step-000012":
            raise OSError(number, os.strerror(number))
        return read(path)

    with monkeypatch.context() as context:
        context.setattr(pathlib.Path, "read_bytes", failing)
        with pytest.raises(
            InputError, match=f"cannot read the checkpoint .*step-000012: {os.strerror(number)}; it is left as it is"
        ):
            run()
    assert results() == before
    assert run().began == 12


def test_no_checkpoint_can_be_read(run, tmp_path):
    run("steps=4")
    for path in (tmp_path / "run/checkpoints").glob("step-*/model.safetensors"):
        truncate(path)
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read, such as step-000004 .*--fresh --force"):
        run("steps=4")
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == 2


def test_a_later_format_is_refused(run, tmp_path):
    run("steps=2")
    state = tmp_path / "run/checkpoints/step-000002/state.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(InputError, match="written by a later version of hdrops"):
        run("steps=2")


def test_a_full_disk_leaves_the_last_checkpoint(run, results, tmp_path, monkeypatch):
    run()
    rename = os.rename

    def full(source, target):
        if pathlib.Path(target).name == "step-000006":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(InputError, match=r"cannot write the checkpoint .*step-000006: No space left on device"):
        run(out="other")
    monkeypatch.undo()
    assert not list((tmp_path / "other/checkpoints").glob(".*"))
    assert run(out="other").began == 5
    assert results("other") == results()


def test_other_data_are_said(run):
    interrupt_at(run, 3, signal.SIGTERM)
    told = []
    system = dataclasses.replace(
        toy.TOY, samples=lambda config: dataclasses.replace(toy.TOY.samples(config), facts={"kind": "other"})
    )
    run(system=system, told=told)
    assert len(told) == 1
    assert "the data are not those of step 4 (see kind in data.json)" in told[0]


def test_another_network_is_refused(run):
    interrupt_at(run, 3, signal.SIGTERM)
    system = dataclasses.replace(toy.TOY, model=lambda config: toy.ToyNetwork(7))
    with pytest.raises(InputError, match="the checkpoint is of another network"):
        run(system=system)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"threads": 1', '"threads": 7', "with 7 threads and torch"),
        (f'"torch": "{torch.__version__}"', '"torch": "1.0"', "and torch 1.0, now it is"),
    ],
)
def test_what_changes_the_last_bits_is_said(run, tmp_path, old, new, words):
    run("steps=4")
    rewrite(tmp_path / "run/checkpoints/step-000004/state.json", old, new)
    told = []
    run("steps=4", told=told)
    (warning,) = told
    assert words in warning
    assert "not to the bit as it would have" in warning


def test_a_row_that_was_cut_is_written_again(run, results, tmp_path):
    run()
    interrupt_at(run, 7, signal.SIGTERM, out="other")
    with open(tmp_path / "other/metrics.csv", "a") as stream:
        stream.write("9,1,2,3,4,5,6\n12,4.")
    run(out="other")
    assert results("other") == results()


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def sums_of_keys(steps, seed=0):
    from hdrops.train.sampler import Batches

    batches = iter(Batches(10, 4, seed))
    return [sum(epoch + index for epoch, index in next(batches)) for _ in range(steps)]


def test_a_loss_that_is_not_finite_stops_the_run(run, results, tmp_path):
    sums = sums_of_keys(12)
    limit = sorted(sums)[-2]
    bad = sums.index(max(sums)) + 1
    assert sums.count(max(sums)) == 1
    with pytest.raises(TrainingError) as error:
        run(f"explode_at={limit}", "run.checkpoint_every=1")
    message = str(error.value)
    assert f"not finite at step {bad} (loss nan, l2 nan, l1 0." in message
    assert "skip_non_finite=1" in message
    assert "with --accept-changes" in message
    assert f"The last checkpoint is {tmp_path / 'run/checkpoints'}/step-{bad - 1:06d}" in message
    weights = safetensors.torch.load_file(tmp_path / f"run/checkpoints/step-{bad - 1:06d}/model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    told = []
    outcome = run(f"explode_at={limit}", "skip_non_finite=1", out="other", told=told)
    assert outcome.step == 12
    assert len(told) == 1
    assert f"step {bad} is left out" in told[0]
    assert b"nan" not in results("other")["metrics.csv"]
    # What the message advises: the same folder goes on.
    shutil.copytree(tmp_path / "run", tmp_path / "calmer", symlinks=True)
    outcome = run(f"explode_at={limit}", "skip_non_finite=1", "run.checkpoint_every=1", told=[])
    assert (outcome.began, outcome.step) == (bad - 1, 12)
    settings = [f"explode_at={max(sums)}", "optimizer.lr=1e-3", "clip=1"]
    outcome = run(*settings, out="calmer", accept_changes=True, told=[])
    assert (outcome.began, outcome.step) == (bad - 1, 12)


def toy_that_goes_wrong(step, before=None, after=None):
    """The toy, and what happens to its batch before a step, or to its network after it."""

    def losses(model, batch, config):
        losses.step += 1
        if losses.step == step and before is not None:
            before(batch)
        yield from toy.losses(model, batch, config)
        if losses.step == step and after is not None:
            after(model)

    losses.step = 0
    return dataclasses.replace(toy.TOY, losses=losses)


def test_a_step_that_is_left_out_leaves_the_buffers(run, tmp_path):
    """NaN in an image would reach the statistics of the normalisation."""
    system = toy_that_goes_wrong(5, before=lambda batch: batch["image"][0, 0, 0, 0].fill_(torch.nan))
    run("skip_non_finite=1", "validate_every=100", system=system, told=[])
    weights = safetensors.torch.load_file(tmp_path / "run/checkpoints/step-000012/model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    assert int(weights["norm.num_batches_tracked"]) == 11


def test_weights_that_overflow_are_not_kept(run, tmp_path):
    system = toy_that_goes_wrong(5, after=lambda model: model.first.weight.data[0, 0, 0, 0].fill_(torch.inf))
    with pytest.raises(TrainingError) as error:
        run("skip_non_finite=1", "run.checkpoint_every=1", system=system)
    message = str(error.value)
    assert message.startswith("first.weight of the network is not finite after step 5, and would be so again: lower ")
    assert message.endswith(f"with --accept-changes. The last checkpoint is {tmp_path}/run/checkpoints/step-000004")
    assert run("skip_non_finite=1", "run.checkpoint_every=1").began == 4


def test_a_network_that_is_not_finite_is_not_exported(run, tmp_path):
    run()
    file = tmp_path / "run/checkpoints/step-000012/ema.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["last.bias"][0] = torch.inf
    safetensors.torch.save_file(tensors, file)
    before = (tmp_path / "run/model/model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=r"last\.bias of the network is not finite after step 12"):
        run()
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    ],
)
def test_out_of_memory(run, tmp_path, error):
    count = 0

    def losses(model, batch, config):
        nonlocal count
        count += 1
        if count == 4:
            raise error
        yield from toy.losses(model, batch, config)

    system = dataclasses.replace(toy.TOY, losses=losses)
    with pytest.raises(TrainingError) as caught:
        run(system=system)
    assert "memory does not suffice for step 4 on cpu; lower batch or width, or raise accumulate" in str(caught.value)
    assert "step-000002" in str(caught.value)
    assert "accumulate from 1, with --accept-changes. The last checkpoint is" in str(caught.value)
    assert run("accumulate=2", accept_changes=True, told=[]).began == 2


def memoryless(*_arguments):
    raise MemoryError


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"validate": memoryless},
            "the validation after step 5 on cpu; lower data.samples, with --accept-changes. The",
        ),
        (
            {"validate": memoryless, "validation_keys": ()},
            "the validation after step 5 on cpu; end other programs. The",
        ),
        ({"model": memoryless}, "the network on cpu; take a smaller one. There is no checkpoint yet"),
        ({"export": memoryless}, "run/model on cpu; end other programs. The last checkpoint is"),
    ],
)
def test_out_of_memory_outside_of_steps(run, changes, words):
    system = dataclasses.replace(toy.TOY, **({"validation_keys": ("data.samples",)} | changes))
    with pytest.raises(TrainingError) as error:
        run(system=system)
    assert words in str(error.value)


def test_out_of_memory_in_a_checkpoint(run, monkeypatch):
    save = safetensors.torch.save

    def failing(tensors):
        return memoryless() if float(tensors.get("norm.num_batches_tracked", 0)) == 4 else save(tensors)

    with monkeypatch.context() as context:
        context.setattr(safetensors.torch, "save", failing)
        with pytest.raises(TrainingError, match="memory does not suffice for the checkpoint of step 4 on cpu"):
            run()
    assert run().began == 2


def test_bugs_are_not_taken_for_lack_of_memory(run):
    def losses(model, batch, config):
        raise RuntimeError("a bug")
        yield

    with pytest.raises(RuntimeError, match=r"^a bug$"):
        run(system=dataclasses.replace(toy.TOY, losses=losses))


@pytest.mark.parametrize("workers", [0, 1])
def test_bugs_in_samples_are_not_taken_for_lack_of_memory(run, workers):
    class Wrong(toy.ToySamples):
        def __getitem__(self, key):
            raise RuntimeError("a bug")

    system = dataclasses.replace(toy.TOY, samples=lambda config: toy.Data(Wrong(config)), validate=None)
    with pytest.raises(RuntimeError, match="a bug") as error:
        run(f"run.workers={workers}", system=system)
    assert error.type is RuntimeError


def test_losses_must_yield(run):
    def nothing(model, batch, config):
        yield from ()

    with pytest.raises(ValueError, match="losses of toy must yield an optimiser and terms, got none"):
        run(system=dataclasses.replace(toy.TOY, losses=nothing))


@pytest.mark.parametrize("odd", ["one more", "another name"])
def test_parts_must_yield_the_same(run, odd):
    def losses(model, batch, config):
        losses.part += 1
        for _ in range(losses.part if odd == "one more" else 1):
            yield "", {"l2" if odd == "one more" else f"l{losses.part}": model(batch["image"]).square().mean()}

    losses.part = 0
    with pytest.raises(ValueError, match="must yield the same optimisers and terms for every part of a batch, got "):
        run("accumulate=2", system=dataclasses.replace(toy.TOY, losses=losses))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(run, tmp_path, workers):
    with pytest.raises(InputError) as error:
        run("data.unreadable=3", f"run.workers={workers}")
    message = str(error.value)
    assert message.startswith("cannot read scene/3.png: it is truncated; copy it again (at step ")
    assert "Traceback" not in message


def test_a_worker_that_dies_is_said(run):
    class Deadly(toy.ToySamples):
        def __getitem__(self, key):
            os.kill(os.getpid(), signal.SIGKILL)

    system = dataclasses.replace(toy.TOY, samples=lambda config: toy.Data(Deadly(config)), validate=None)
    with pytest.raises(TrainingError, match=r"at step 1: DataLoader worker .*lower run\.workers"):
        run("run.workers=1", system=system)


def test_batches_that_cannot_be_divided(run):
    with pytest.raises(
        InputError, match=r"batch 4 cannot be divided among 1 processes in 3 parts each; .*multiple of 3"
    ):
        run("accumulate=3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(run):
    with pytest.raises(InputError, match=r"run\.device is cuda, but torch finds no GPU"):
        run("run.device=cuda")


# ---- TensorBoard ---------------------------------------------------------------------------------------------------


def test_missing_tensorboard_is_one_warning(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", "tensorboard."))]:
        monkeypatch.delitem(sys.modules, name)
    told = []
    run("run.tensorboard=true", "steps=2", told=told)
    assert told == ["tensorboard is not installed: only CSV logs are written; pip install 'hdrops[train]'"]
    assert not (tmp_path / "run/tensorboard").exists()


def test_tensorboard_has_the_rows(run, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupt_at(run, 5, signal.SIGTERM, "run.tensorboard=true")
    run("run.tensorboard=true")
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("training/loss")] == [3, 6, 9, 12]
    losses = [float(row["loss"]) for row in rows(tmp_path / "run/metrics.csv")]
    assert [event.value for event in events.Scalars("training/loss")] == pytest.approx(losses, rel=1e-6)
    assert [event.step for event in events.Scalars("validation/mse")] == [5, 10, 12]
    assert [event.step for event in events.Images("validation")] == [5, 10, 12]


def test_tensorboard_has_no_row_twice(run, tmp_path):
    """After a run that ended without a checkpoint."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def fail(progress):
        if progress.step == 3:
            raise OSError("the machine ends")

    settings = ["run.tensorboard=true", "log_every=1", "steps=4", "run.checkpoint_every=100", "validate_every=100"]
    with pytest.raises(OSError, match="the machine ends"):
        run(*settings, progress=fail)
    run(*settings)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("training/loss")] == [1, 2, 3, 4]
