"""The training of EMVNet: that it resumes and improves, with and without a discriminator and a teacher."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import default_collate

pytest.importorskip("pydantic", reason="training needs pydantic")
pytest.importorskip("OpenImageIO", reason="reading images needs OpenImageIO")

from hdrops.data import render_scene
from hdrops.io import InputError, write_image
from hdrops.losses import (
    ContentLoss,
    PairwiseLoss,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
)
from hdrops.metrics.domains import mu_law_encode
from hdrops.models import EMVNet
from hdrops.nn import VGGFeatures, demosaic
from hdrops.train import load_config, train
from hdrops.train.emvnet import SYSTEM, light_of
from hdrops.train.random_state import seed_everything

TERMS = {"content_last", "content_second", "content_first", "pairwise"}


@pytest.fixture(scope="module")
def panoramas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hdr")
    for number in range(3):
        write_image(folder / f"{number}.exr", render_scene(64, 128, seed=number))
    return folder


def config(folder, *settings):
    values = {"data.folders": [str(folder)]}
    return load_config(SYSTEM.config, SYSTEM.presets, preset="tiny", values=values, settings=settings)


def batch_of(chosen):
    training = SYSTEM.samples(chosen).training
    return default_collate([training[0, i] for i in range(2)])


def test_learns(panoramas, tmp_path):
    alone = "model.changes={residual = false}"  # a network that begins far from the reference
    settings = (alone, "steps=24", "validate_every=24", "loss.adversarial=0.0", "optimizer.lr=3e-3")
    chosen = config(panoramas, *settings)
    seed_everything(chosen.seed, 0)  # the weights that the run begins with
    fresh = SYSTEM.model(chosen).eval()
    before = SYSTEM.validate(fresh, SYSTEM.samples(chosen).held_out, chosen, torch.device("cpu"), False).metrics
    outcome = train(SYSTEM, chosen, tmp_path / "run")
    found = outcome.validation
    assert {name.removesuffix("_reference") for name in found} == {"error", "psnr_mu", "ssim_mu", "psnr_l", "ssim_l"}
    assert found["error"] < 0.5 * before["error"]
    assert found["psnr_mu_reference"] == pytest.approx(before["psnr_mu_reference"], rel=1e-6)
    assert list((tmp_path / "run" / "pictures").iterdir())
    network = EMVNet.from_pretrained(outcome.model)
    assert not network.config.residual
    assert network.enhance(torch.rand(1, 3, 3, 30, 42)).shape == (1, 3, 30, 42)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_networks_choose_the_reference_that_they_learnt_from(panoramas, count):
    chosen = config(panoramas, f"data.synthesis.images={count}")
    network, data = SYSTEM.model(chosen).generator, SYSTEM.samples(chosen)
    samples = [data.training[0, number] for number in range(8)]
    chosen_here = [network.choose_reference(sample["images"][None]).item() for sample in samples]
    assert chosen_here == [int(sample["reference"]) for sample in samples]
    assert set(chosen_here) == {(count - 1) // 2}


def test_a_choice_may_be_stated(panoramas):
    for choice in ("clearest", "middle"):
        chosen = config(panoramas, f"model.changes={{choice = '{choice}'}}")
        assert SYSTEM.model(chosen).generator.config.choice == choice


def test_a_gated_network_learns_what_the_reference_saturates(panoramas):
    """Of one batch, in a few updates, better than the reference; what is not saturated cannot change."""
    changes = "model.changes={residual = true, gated = true, motion_extent = 3, motion_step = 1}"
    chosen = config(panoramas, changes, "loss.adversarial=0.0", "loss.pixels=0.0", "loss.patches=0.0")
    seed_everything(0, 0)
    networks, batch = SYSTEM.model(chosen), batch_of(chosen)
    optimizer = torch.optim.Adam(networks.parameters(), lr=5e-3)
    found = []
    for _ in range(31):
        ((_, terms),) = SYSTEM.losses(networks, batch, chosen)
        loss = sum(terms.values())
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    picture = networks.generator(batch["images"], batch["reference"]).last
    rows = torch.arange(2)
    reference = batch["images"][rows, batch["reference"]]
    clear = (reference < networks.generator.config.saturated).all(1, keepdim=True).expand_as(reference)
    assert torch.equal(picture[clear], reference[clear])
    assert 0.05 < (~clear).float().mean() < 0.9
    assert found[-1] < 0.85 * found[0]


def test_two_images_teach_a_gated_network_nothing(panoramas):
    gated = "model.changes={residual = true, gated = true}"
    with pytest.raises(InputError, match="the darker one is the reference"):
        SYSTEM.samples(config(panoramas, gated, "data.synthesis.images=2"))
    with pytest.raises(InputError, match="pairs"):
        config(panoramas, f"loss.pairs={2**31}")


def test_raw_pairs(panoramas, tmp_path):
    network = "model.changes={channels = 4, outputs = 4, residual = true}"
    chosen = config(panoramas, network, "steps=2", "data.synthesis.samples=8", "data.validation_samples=2")
    networks, batch = SYSTEM.model(chosen), batch_of(chosen)
    assert batch["images"].shape == (2, 2, 4, 32, 40)
    (_, terms), (_, own) = SYSTEM.losses(networks, batch, chosen)
    scale = batch["times"].amin(1).view(-1, 1, 1, 1)
    light = networks.generator(batch["images"], batch["reference"]).last * scale
    content = ContentLoss(weights=(1, 0, 0))([light] * 3, batch["target"] * scale)
    assert terms["content_last"].item() == pytest.approx(content.item(), rel=1e-6)
    shown = [mu_law_encode(demosaic(x)) for x in (batch["target"] * scale, light)]
    judged = relativistic_discriminator_loss(*(networks.discriminator(x) for x in shown))
    assert own[""].item() == pytest.approx(judged.item(), rel=1e-6)
    outcome = train(SYSTEM, chosen, tmp_path / "run")
    assert outcome.validation["psnr_l"] > 5
    assert EMVNet.from_pretrained(outcome.model).config.outputs == 4
    with pytest.raises(InputError, match="must be one of synthesis, hdrplus, got ntire"):
        SYSTEM.samples(config(panoramas, network, "data.layout=ntire"))
    finishing = "model.changes={channels = 4, outputs = 3, grow = 2, head_taps = 3, residual = false}"
    with pytest.raises(InputError, match="must be one of hdrplus, got synthesis"):
        SYSTEM.samples(config(panoramas, finishing))


def test_the_perceptual_loss_takes_a_file(panoramas, tmp_path):
    file = tmp_path / "vgg19.safetensors"
    VGGFeatures("vgg19", "conv1_2").save_pretrained(file)
    chosen = config(panoramas, f"loss.vgg={file}", "loss.perceptual=1.0")
    phases = SYSTEM.losses(SYSTEM.model(chosen), batch_of(chosen), chosen)
    with pytest.raises(InputError, match=r"loss\.vgg: .*missing"):
        next(phases)
    with pytest.raises(InputError, match=r"give their file by loss\.vgg"):
        SYSTEM.model(config(panoramas, "loss.perceptual=1.0"))


def test_terms_of_the_losses(panoramas):
    chosen = config(panoramas)
    networks = SYSTEM.model(chosen)
    phases = list(SYSTEM.losses(networks, batch_of(chosen), chosen))
    assert [name for name, _ in phases] == ["generator", "discriminator"]
    assert set(phases[0][1]) == TERMS | {"adversarial"}
    generator = sum(phases[0][1].values())
    parameters = [*networks.generator.parameters()]
    assert any(
        g is not None and g.abs().max() > 0 for g in torch.autograd.grad(generator, parameters, allow_unused=True)
    )
    # The discriminator's own loss moves nothing of the generator.
    own = phases[1][1][""]
    assert all(g is None for g in torch.autograd.grad(own, parameters, retain_graph=True, allow_unused=True))
    assert all(g is not None for g in torch.autograd.grad(own, [*networks.discriminator.parameters()]))
    alone = config(panoramas, "loss.adversarial=0.0", "loss.pixels=0.0", "loss.patches=0.0")
    ((_, terms),) = SYSTEM.losses(SYSTEM.model(alone), batch_of(alone), alone)
    assert set(terms) == TERMS - {"pairwise"}


def test_content_is_the_distance_of_light_by_mu_law(panoramas):
    chosen = config(panoramas, "loss.adversarial=0.0", "loss.pixels=0.0", "loss.patches=0.0")
    networks, batch = SYSTEM.model(chosen), batch_of(chosen)
    ((_, terms),) = SYSTEM.losses(networks, batch, chosen)
    picture = networks.generator(batch["images"], batch["reference"]).last
    scale = batch["times"].amin(1).view(-1, 1, 1, 1)

    def encoded(light):
        return light.sign() * torch.log1p(5000 * light.abs() * scale) / torch.log(torch.tensor(5001.0))

    expected = (encoded(picture.sign() * picture.abs() ** 2.2) - encoded(batch["target"])).abs().mean()
    assert terms["content_last"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_last_picture_is_ranked_and_judged(panoramas):
    """By networks whose pictures differ, against the same terms of what displays show."""
    chosen = config(panoramas)
    networks, batch = SYSTEM.model(chosen), batch_of(chosen)
    scale = batch["times"].amin(1).view(-1, 1, 1, 1)
    torch.manual_seed(5)
    ((_, terms), _) = SYSTEM.losses(networks, batch, chosen)
    light = light_of(networks.generator(batch["images"], batch["reference"]).last, 2.2) * scale
    target = batch["target"] * scale
    torch.manual_seed(5)
    ranked = PairwiseLoss(0.25, 0.25, pairs=64)(light, target)
    assert terms["pairwise"].item() == pytest.approx(ranked.item(), rel=1e-6)
    real, fake = (networks.discriminator(mu_law_encode(x)) for x in (target, light))
    expected = 0.001 * relativistic_generator_loss(real, fake)
    assert expected.item() != pytest.approx(0.001 * relativistic_generator_loss(fake, real).item(), rel=1e-3)
    assert terms["adversarial"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_light_keeps_a_gradient_below_zero():
    picture = torch.tensor([-0.5, 0.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    light = light_of(picture, 2.2)
    torch.testing.assert_close(light, torch.tensor([-(0.5**2.2), 0.0, 0.5**2.2, 2**2.2], dtype=torch.float64))
    (slope,) = torch.autograd.grad(light.sum(), picture)
    assert bool((slope[[0, 2, 3]] > 0).all())
    assert slope.isfinite().all()
    assert light_of(picture, 1.0) is picture


def test_a_student_learns_from_its_teacher(panoramas, tmp_path):
    torch.manual_seed(3)
    teacher = EMVNet(SYSTEM.model(config(panoramas)).generator.config)
    for head in teacher.heads:
        torch.nn.init.normal_(head.conv.bias, 0, 0.3)
    teacher.save_pretrained(tmp_path / "teacher")
    settings = (
        f"loss.teacher={tmp_path / 'teacher'}",
        *(f"loss.{name}=0.0" for name in ("adversarial", "content", "pixels", "patches")),
    )
    chosen = config(panoramas, *settings)
    networks, batch = SYSTEM.model(chosen), batch_of(chosen)
    ((_, terms),) = SYSTEM.losses(networks, batch, chosen)
    assert set(terms) == {"distillation_last", "distillation_second", "distillation_first"}
    assert all(float(term) > 1e-3 for term in terms.values())
    networks.generator.load_state_dict(teacher.state_dict())
    ((_, terms),) = SYSTEM.losses(networks, batch, chosen)
    assert all(float(term) < 1e-6 for term in terms.values())
    missing = config(panoramas, f"loss.teacher={tmp_path / 'nowhere'}")
    with pytest.raises(InputError, match=r"loss\.teacher: .*nowhere"):
        next(SYSTEM.losses(networks, batch, missing))


def start(folder, out, steps):
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from hdrops.train import load_config, train\n"
        "from hdrops.train.emvnet import SYSTEM\n"
        "folder, out, steps = sys.argv[1:]\n"
        "settings = [f'steps={steps}', 'run.checkpoint_every=1', 'validate_every=4', 'run.tensorboard=false']\n"
        "values = {'data.folders': [folder]}\n"
        "config = load_config(SYSTEM.config, SYSTEM.presets, preset='tiny', settings=settings, values=values)\n"
        "train(SYSTEM, config, out)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, folder, out, str(steps)], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def test_killed_with_its_discriminator(panoramas, tmp_path):
    """SIGKILL twice; both networks, their optimisers and the pairs that are drawn go on to the bit."""
    steps = 8
    with start(panoramas, tmp_path / "whole", steps) as whole:
        assert whole.wait(120) == 0
    for step in (2, 5):
        with start(panoramas, tmp_path / "parts", steps) as run:
            goal = tmp_path / "parts" / "checkpoints" / f"step-{step:06d}"
            while not goal.exists():
                assert run.poll() is None
                time.sleep(0.002)
            run.kill()
        assert run.returncode == -signal.SIGKILL
    with start(panoramas, tmp_path / "parts", steps) as run:
        assert run.wait(120) == 0
    last = pathlib.PurePath("checkpoints", f"step-{steps:06d}")
    names = [last / f"{part}.safetensors" for part in ("model", "ema", "optimizer", "rng")]
    for name in (*names, "model/model.safetensors", "metrics.csv", "validation.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("data.frame=[24,40]",), "the discriminator needs 32 pixels a side; raise data.frame, or set"),
        (("data.kind=brackets", "data.held_out=0"), "brackets say nothing of the picture wanted"),
        (("data.layout=hdrplus",), "must be one of synthesis, kalantari, ntire, got hdrplus"),
    ],
)
def test_data_that_does_not_serve(panoramas, settings, message):
    with pytest.raises(InputError, match=message):
        SYSTEM.samples(config(panoramas, *settings))


@pytest.mark.parametrize("changes", ["{blocks = 0}", "{colour = 1}", "{residual = true, outputs = 4}"])
def test_networks_that_cannot_be(panoramas, changes):
    with pytest.raises(InputError, match="model: "):
        SYSTEM.model(config(panoramas, f"model.changes={changes}"))
