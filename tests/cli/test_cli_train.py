"""``hdrops train``: systems, configurations, runs and what stops them."""

import itertools
import os
import signal
import tomllib

import pytest
import torch

from hdrops.data import render_scene
from hdrops.io import read_image, write_image
from hdrops.models import ExposureInterpolator

pytest.importorskip("pydantic", reason="training needs pydantic")

SYSTEM = "exposure-interpolation"
SHORT = ["--preset", "tiny", "--set", "steps=6", "--set", "validate_every=3", "--set", "run.checkpoint_every=2"]
SHORT += ["--set", "run.tensorboard=false", "--set", "run.threads=1", "--set", "log_every=2"]


@pytest.fixture(scope="session")
def hdr_images(tmp_path_factory):
    """Three linear photographs of a rendered room."""
    folder = tmp_path_factory.mktemp("hdr")
    for seed in range(3):
        write_image(folder / f"room{seed}.exr", render_scene(72, 108, seed=seed))
    return folder


@pytest.fixture
def brackets(tmp_path, bracket8):
    """Two scenes of three exposures two stops apart."""
    for scene in ("one", "two"):
        (tmp_path / "brackets" / scene).mkdir(parents=True)
        for number, image in enumerate(bracket8[0]):
            write_image(tmp_path / "brackets" / scene / f"{number}.png", image)
    return tmp_path / "brackets"


def assert_refused(outcome, *words, code=2):
    assert (outcome.code, outcome.stdout) == (code, "")
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    for word in words:
        assert word in outcome.stderr


def test_systems_are_listed(hdrops):
    listed = hdrops("train")
    assert listed.code == 0
    assert listed.stdout.startswith(f"{SYSTEM}  ")
    assert "(presets: paper, quick, tiny)" in listed.stdout


def test_unknown_names(hdrops, tmp_path):
    assert_refused(hdrops("train", "exposure_interpolation"), f"did you mean {SYSTEM}?", f"systems: {SYSTEM}")
    assert_refused(
        hdrops("train", SYSTEM, "--preset", "fast", "--out", tmp_path / "run"), "presets: paper, quick, tiny"
    )


def test_show_config(hdrops, tmp_path):
    shown = hdrops("train", SYSTEM, "--preset", "quick", "--set", "loss.kind=psi", "--show-config", "--data", "photos")
    assert shown.code == 0
    values = tomllib.loads(shown.stdout)
    assert values["loss"]["kind"] == "psi"
    assert values["model"]["network"] == "light"
    assert values["data"]["folders"] == [os.path.abspath("photos")]
    (tmp_path / "config.toml").write_text(shown.stdout)
    assert hdrops("train", SYSTEM, "--config", tmp_path / "config.toml", "--show-config").stdout == shown.stdout


def test_the_paper_is_the_default(hdrops):
    values = tomllib.loads(hdrops("train", SYSTEM, "--show-config").stdout)
    assert (
        hdrops("train", SYSTEM, "--preset", "paper", "--show-config").stdout
        == hdrops("train", SYSTEM, "--show-config").stdout
    )
    assert (values["steps"], values["batch"], values["data"]["patch"]) == (20_000, 32, [60, 90])
    assert (values["optimizer"]["kind"], values["optimizer"]["lr"], values["schedule"]["kind"]) == (
        "adam",
        1e-4,
        "constant",
    )
    assert values["loss"] == {"kind": "l2", "color": 0.1, "scale": 1.0}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("lr=1", ["unknown key lr (did you mean optimizer.lr?)"]),
        ("data.foldr=x", ["unknown key data.foldr (did you mean data.folders?)", "keys of data are folders, kind"]),
        ("loss.kind=l3", ["loss.kind: should be 'l2', 'l1' or 'psi', got 'l3'"]),
        ("model.inputs=x4", ["model.inputs", "got 'x4'"]),
        ("model.inputs=['x3', 'x3']", ["model.inputs: should name each once, got"]),
        ("data.held_out_scenes=['room9']", ["data: held_out names 'room9'"]),
        ("data.synthesis.distance=[6, 2]", ["data: distance must be positive stops"]),
        (
            "data.synthesis.responses=['flat']",
            ["data.synthesis.responses: should be some of gamma, srgb", "got ['flat']"],
        ),
        ("data.synthesis.emor='/missing.txt'", ["missing.txt"]),
        ("data.patch=[600, 900]", ["data: patch (600, 900) must fit into the frame"]),
        ("data.validation=['/missing']", ["/missing does not exist"]),
    ],
)
def test_bad_settings(hdrops, hdr_images, tmp_path, setting, words):
    assert_refused(
        hdrops("train", SYSTEM, *SHORT, "--data", hdr_images, "--set", setting, "-o", tmp_path / "r"), *words
    )


def test_missing_arguments(hdrops, tmp_path, hdr_images):
    assert_refused(hdrops("train", SYSTEM, *SHORT, "--out", tmp_path / "run"), "there is no training data", "--data")
    assert_refused(hdrops("train", SYSTEM, *SHORT, "--data", hdr_images), "there is no folder for the run", "--out")
    assert_refused(hdrops("train", SYSTEM, "--config", tmp_path / "no.toml"), "no.toml", "No such file")


def test_bad_data(hdrops, tmp_path, hdr_images, frames8):
    def trained(folder, *more):
        return hdrops("train", SYSTEM, *SHORT, "--data", folder, "--out", tmp_path / "run", *more)

    (tmp_path / "empty").mkdir()
    assert_refused(trained(tmp_path / "empty"), "there are no images in")
    assert_refused(trained(tmp_path / "missing"), "missing does not exist")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "a.exr").symlink_to(hdr_images / "room0.exr")
    (mixed / "b.png").symlink_to(frames8[0])
    assert_refused(trained(mixed), "hold both .hdr or .exr files and other images; set data.kind")
    broken = tmp_path / "broken"
    broken.mkdir()
    for number in range(2):
        (broken / f"{number}.exr").write_bytes((hdr_images / "room0.exr").read_bytes()[:2000])
    assert_refused(trained(broken), "no HDR image can be used", ".exr", "copy it again")
    assert trained(hdr_images).code == 0  # the same folder, now that the data are right


def test_train_and_resume(hdrops, hdr_images, tmp_path):
    command = ["train", SYSTEM, *SHORT, "--data", hdr_images, "--out", tmp_path / "run"]
    done = hdrops(*command)
    assert done.code == 0
    assert done.stdout.startswith("6 steps in ")
    assert done.stdout.endswith(f"→ {tmp_path / 'run/model'}\n")
    assert "psnr" in done.stdout
    assert {path.name for path in (tmp_path / "run/model").iterdir()} == {"config.json", "model.safetensors"}
    picture = read_image(tmp_path / "run/pictures/step-000006.png").pixels
    assert picture.shape == (3, 3 * 48 + 2 * 4, 3 * 72 + 2 * 4)  # rows of x3, prediction and target
    assert (tmp_path / "run/validation.csv").read_text().startswith("step,psnr,ssim,psnr_x3,ssim_x3\n3,")
    model = ExposureInterpolator.from_pretrained(tmp_path / "run/model")
    images = torch.randint(0, 256, (2, 1, 3, 20, 30), dtype=torch.uint8)
    assert model.interpolate(*images).shape == (1, 1, 3, 20, 30)
    again = hdrops(*command)
    assert again.stdout.startswith("all 6 steps were done already")
    more = hdrops(*command, "--set", "steps=8")
    assert more.code == 0
    assert "resumed after step 6" in more.stderr
    changed = [*command, "--set", "loss.kind=l1", "--set", "steps=10"]
    assert_refused(hdrops(*changed), "loss.kind ('l2' there, 'l1' here)", "--accept-changes")
    accepted = hdrops(*changed, "--accept-changes")
    assert accepted.code == 0
    assert "the configuration differs from that of step 8" in accepted.stderr
    assert_refused(hdrops(*command, "--fresh"), "holds a run", "--force")
    assert hdrops(*command, "--fresh", "--force").stdout.startswith("6 steps in ")


def test_brackets(hdrops, brackets, tmp_path):
    command = ["train", SYSTEM, *SHORT, "--data", brackets, "--out", tmp_path / "run"]
    assert_refused(hdrops(*command), "no scene can be used", "give ev_step")
    done = hdrops(*command, "--set", "data.brackets.ev_step=2")
    assert done.code == 0
    assert '"kind": "brackets"' in (tmp_path / "run/data.json").read_text()
    assert sorted(word for word in ("one", "two") if f'"{word}"' in (tmp_path / "run/data.json").read_text()) == [
        "one",
        "two",
    ]


def test_validation_on_other_data(hdrops, brackets, hdr_images, tmp_path):
    command = ["train", SYSTEM, *SHORT, "--data", hdr_images, "--out", tmp_path / "run"]
    command += ["--set", f"data.validation=['{brackets}']", "--set", "data.brackets.ev_step=2"]
    assert hdrops(*command).code == 0
    facts = (tmp_path / "run/data.json").read_text()
    assert all(f'"{name}"' in facts for name in ("room0.exr", "room1.exr", "room2.exr", "one", "two"))


def test_without_validation(hdrops, hdr_images, tmp_path):
    command = ["train", SYSTEM, *SHORT, "--data", hdr_images / "room0.exr", "--set", "data.held_out=0"]
    assert hdrops(*command, "--out", tmp_path / "run").code == 0
    assert (tmp_path / "run/validation.csv").read_text() == ""


@pytest.mark.parametrize(
    "settings",
    [
        ["precision=bfloat16", "accumulate=2"],
        ["model.inputs=['x3', 'dark', 'bright']", "optimizer.kind=adamw"],
        ["model.residual=false", "loss.kind=l1", "loss.color=0"],
        ["loss.kind=psi", "data.rotate=true", "data.synthesis.half=true", "data.synthesis.jpeg=0"],
        ["data.held_out_scenes=['room1']", "data.validation_size=20", "run.workers=1"],
    ],
)
def test_variants(hdrops, hdr_images, tmp_path, settings):
    options = [word for setting in settings for word in ("--set", setting)]
    done = hdrops("train", SYSTEM, *SHORT, *options, "--data", hdr_images, "--out", tmp_path / "run")
    assert done.code == 0
    assert "nan" not in (tmp_path / "run/metrics.csv").read_text() + (tmp_path / "run/validation.csv").read_text()
    model = ExposureInterpolator.from_pretrained(tmp_path / "run/model")
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def interrupted_at(monkeypatch, step, number):
    """Send a signal to this process when the loss of a step is computed."""
    from hdrops.train import exposure_interpolation as system

    losses, calls = system.losses, itertools.count(1)

    def losses_and_signal(*arguments):
        if next(calls) == step:
            os.kill(os.getpid(), number)
        yield from losses(*arguments)

    replaced = {"losses": losses_and_signal}
    monkeypatch.setattr(system, "SYSTEM", type(system.SYSTEM)(**(vars(system.SYSTEM) | replaced)))


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 3), (signal.SIGTERM, 5)])
def test_interruption(hdrops, hdr_images, tmp_path, monkeypatch, number, step):
    command = ["train", SYSTEM, *SHORT, "--set", "ema=0.9", "--data", hdr_images, "--out"]
    assert hdrops(*command, tmp_path / "whole").code == 0
    with monkeypatch.context() as context:
        interrupted_at(context, step, number)
        done = hdrops(*command, tmp_path / "run")
    assert (done.code, done.stdout) == (128 + number, "")
    assert done.stderr.splitlines()[-1] == (
        f"{number.name}: stopped after step {step} of 6, which {tmp_path}/run/checkpoints/step-00000{step} holds; "
        "the same command resumes"
    )
    assert hdrops(*command, tmp_path / "run").code == 0
    last = "checkpoints/step-000006"
    for name in (f"{last}/model", f"{last}/optimizer", f"{last}/ema", f"{last}/rng", "model/model"):
        assert (tmp_path / f"run/{name}.safetensors").read_bytes() == (
            tmp_path / f"whole/{name}.safetensors"
        ).read_bytes()
    for name in ("metrics.csv", "validation.csv", "model/config.json", "data.json"):
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_loss_that_is_not_finite(hdrops, hdr_images, tmp_path):
    command = ["train", SYSTEM, *SHORT, "--data", hdr_images, "--out", tmp_path / "run"]
    refused = hdrops(*command, "--set", "optimizer.lr=1e30")
    assert (refused.code, refused.stdout) == (1, "")
    assert "error: the loss is not finite at step" in refused.stderr.splitlines()[-1]
    assert "with --accept-changes" in refused.stderr
    assert hdrops(*command, "--accept-changes").code == 0


def test_plain_lines_where_there_is_no_terminal(hdrops, hdr_images, tmp_path):
    done = hdrops("train", SYSTEM, *SHORT, "--data", hdr_images, "--out", tmp_path / "run")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("step 2/6, loss ")
    assert lines[-1].startswith("step 6/6, loss ")
    assert " images/s, 0 s left" in lines[-1]
    assert "\x1b" not in done.stderr


def test_one_process_alone_shows_progress(hdrops, hdr_images, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    done = hdrops("train", SYSTEM, *SHORT, "--data", hdr_images, "--out", tmp_path / "run")
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
