"""Configurations: sources in their order, errors that name the key, and text that reads back."""

import json
import pathlib
import re
import tomllib

import pytest
import toy
from pydantic import Field

from hdrops.io import InputError
from hdrops.train import RunConfig, ScheduleConfig, Section, TrainConfig, dump_config, load_config, read_config
from hdrops.train.config import config_hash, differing_keys


def load(*settings, **options):
    return load_config(toy.ToyConfig, toy.TOY.presets, settings=settings, **options)


@pytest.mark.parametrize("ending", [".toml", ".json"])
def test_later_sources_win(tmp_path, ending):
    file = tmp_path / f"config{ending}"
    keys = {"steps": 5, "optimizer": {"beta1": 0.5, "lr": 0.3}}
    toml = "steps = 5\n[optimizer]\nbeta1 = 0.5\nlr = 0.3\n"
    file.write_text(json.dumps(keys) if ending == ".json" else toml)
    assert load(preset="quick").steps == 3
    config = load("optimizer.lr=0.4", "seed=7", preset="quick", file=file, values={"data.samples": 9, "seed": 8})
    assert (config.steps, config.optimizer.beta1, config.optimizer.lr) == (5, 0.5, 0.4)
    assert (config.seed, config.data.samples) == (8, 9)
    assert load(preset="quick").optimizer.lr == 0.1  # the preset itself is as it was


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("steps=2e4", 20_000),
        ("steps = 12", 12),
        ("run.device=cpu", "cpu"),
        ('run.device="cpu"', "cpu"),
        ("run.tensorboard=false", False),
        ("optimizer.lr=1e-3", 1e-3),
    ],
)
def test_settings(setting, expected):
    config = load(setting)
    for part in setting.partition("=")[0].strip().split("."):
        config = getattr(config, part)
    assert config == expected


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("stepz=3", ["unknown key stepz", "did you mean steps?", "keys are seed, steps"]),
        ("lr=3", ["unknown key lr", "did you mean optimizer.lr?"]),
        ("optimizer.learning=3", ["unknown key optimizer.learning", "keys of optimizer are kind, lr"]),
        ("optimizer.kind=sgd", ["optimizer.kind: should be 'adam' or 'adamw', got 'sgd'"]),
        ("steps=0", ["steps: should be greater than or equal to 1, got 0"]),
        ("steps=many", ["steps:", "got 'many'"]),
        ("steps=1.5", ["steps:", "integer", "got 1.5"]),
        ("steps.first=1", ["steps:", "got {'first': 1}"]),
        ("optimizer=3", ["optimizer:", "got 3"]),
        ("optimizer.lr=nan", ["optimizer.lr: should be a finite number, got nan"]),
        ("ema=1.0", ["ema: should be less than 1, got 1.0"]),
        ("steps", ["a setting is key=value", "got 'steps'"]),
        ("run..device=cpu", ["a setting is key=value"]),
        (f"seed='{'x' * 500}'", ["seed:", "xxx..."]),
    ],
)
def test_errors_name_the_key(setting, words):
    with pytest.raises(InputError) as error:
        load(setting)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


def test_every_error_is_said():
    with pytest.raises(InputError, match=r"steps: .*; batch: .*; unknown key oops"):
        load("steps=0", "batch=0", "oops=1")


def test_a_missing_key_is_named():
    class Needy(TrainConfig):
        must: int = Field()

    with pytest.raises(InputError, match="must is missing"):
        load_config(Needy, {})


def test_defaults_of_a_table_stay():
    """Where one key of it is given: those of the configuration, not those of the table's type."""
    assert load("run.workers=1").run.model_dump() == load().run.model_dump() | {"workers": 1}
    assert load().run.keep != RunConfig().keep


def test_unknown_preset():
    with pytest.raises(InputError, match=r"unknown preset 'quik' \(did you mean quick\?\); presets: wide, quick"):
        load(preset="quik")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.toml", b"steps = \n", "is no valid TOML"),
        ("a.json", b"{", "is no valid JSON"),
        ("a.json", b"[" * 100_000, "is no valid JSON"),
        ("a.json", b"[1]", r"must hold a table of keys, got \[1\]"),
        ("a.toml", b"\xff", "is not UTF-8"),
        ("missing.toml", None, "cannot read .*No such file"),
    ],
)
def test_bad_files(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        load(file=tmp_path / name)


def test_text_reads_back(tmp_path):
    class Odd(Section):
        path: pathlib.Path = pathlib.Path("a\x7f\u2028\"b'\\\n\t\U0001f600")
        weights: dict[str, float] = Field(default={"a b": 0.5, "c": 1e-30})
        pair: tuple[float, int] = (1e22, 3)
        nothing: int | None = None
        names: tuple[str, ...] = ()

    class OddConfig(TrainConfig):
        odd: Odd = Odd()

    config = load_config(OddConfig, {}, settings=["optimizer.lr=1e-7", "deterministic=false"])
    file = tmp_path / "config.toml"
    file.write_text(dump_config(config))
    assert read_config(OddConfig, file) == config
    assert "# learning rate" in dump_config(config)
    assert tomllib.loads(dump_config(config))["odd"]["pair"] == [1e22, 3]


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load().steps = 3


def test_what_differs():
    one, other = load("steps=3"), load("optimizer.lr=1.0", "run.keep=9", "steps=3")
    assert differing_keys(one, other) == {"optimizer.lr": (0.01, 1.0)}
    assert config_hash(one) != config_hash(other)
    assert config_hash(one) == config_hash(load("run.keep=9", "steps=3"))
    assert config_hash(one) == config_hash(load("steps=4"))  # of a constant schedule these begin alike
    assert config_hash(load("schedule.kind=cosine", "steps=3")) != config_hash(load("schedule.kind=cosine", "steps=4"))
    assert re.fullmatch("[0-9a-f]{16}", config_hash(one))


def test_schedules():
    constant, rising = ScheduleConfig(), ScheduleConfig(warmup=4)
    assert [constant.at(step, 10) for step in (0, 9)] == [1, 1]
    assert [rising.at(step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = ScheduleConfig(kind="cosine", warmup=2, floor=0.1)
    assert cosine.at(0, 12) == 0.5
    assert cosine.at(2, 12) == 1
    assert cosine.at(7, 12) == pytest.approx(0.55)
    assert cosine.at(12, 12) == pytest.approx(0.1)
    assert ScheduleConfig(kind="cosine", warmup=5).at(5, 5) == 1  # nothing but warm-up
    falling = ScheduleConfig(kind="step", every=3, factor=0.5)
    assert [falling.at(step, 9) for step in range(9)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
