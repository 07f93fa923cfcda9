"""The training of HyperP_MB: what it learns from, and that it resumes and improves."""

import pytest
import torch

pytest.importorskip("pydantic", reason="training needs pydantic")
pytest.importorskip("OpenImageIO", reason="reading images needs OpenImageIO")

from hdrops.data import render_scene
from hdrops.io import InputError, write_image
from hdrops.losses import HyperPMBLoss
from hdrops.models import HyperPMB
from hdrops.train import load_config, train
from hdrops.train.hyperp_mb import SYSTEM
from hdrops.train.random_state import seed_everything


@pytest.fixture
def panoramas(tmp_path):
    (tmp_path / "hdr").mkdir()
    for number in range(3):
        write_image(tmp_path / "hdr" / f"{number}.exr", render_scene(64, 96, seed=number))
    return tmp_path / "hdr"


@pytest.fixture
def brackets(tmp_path):
    for scene in range(3):
        (tmp_path / "brackets" / str(scene)).mkdir(parents=True)
        radiance = render_scene(64, 96, seed=scene)
        for k in range(3):
            image = (radiance * 8.0 ** (k - 1)).clamp(0, 1).pow(1 / 2.2).mul(255).round().byte()
            write_image(tmp_path / "brackets" / str(scene) / f"{k}.png", image)
    return tmp_path / "brackets"


def config(folder, *settings):
    values = {"data.folders": [str(folder)]}
    return load_config(SYSTEM.config, SYSTEM.presets, preset="tiny", values=values, settings=settings)


@pytest.mark.parametrize("kind", ["panoramas", "brackets"])
def test_trains(kind, request, tmp_path):
    chosen = config(request.getfixturevalue(kind), "steps=40", "validate_every=20")
    seed_everything(chosen.seed, 0)  # the weights that the run begins with
    with torch.inference_mode():
        fresh = SYSTEM.model(chosen).eval()
        before = SYSTEM.validate(fresh, SYSTEM.samples(chosen).held_out, chosen, torch.device("cpu"), False)
    outcome = train(SYSTEM, chosen, tmp_path / "run")
    assert outcome.validation["loss"] < before.metrics["loss"]
    assert set(outcome.validation) == {"loss", "mef_ssim", "ms_ssim_target"}
    trained = HyperPMB.from_pretrained(outcome.model)
    bracket = torch.randint(0, 256, (1, 2, 3, 30, 40), dtype=torch.uint8)
    assert trained.fuse(bracket).shape == (1, 3, 30, 40)
    assert list((tmp_path / "run" / "pictures").iterdir())


def test_resumes_to_the_bit(panoramas, tmp_path):
    whole = train(SYSTEM, config(panoramas, "steps=12"), tmp_path / "whole")
    train(SYSTEM, config(panoramas, "steps=5"), tmp_path / "parts")
    parts = train(SYSTEM, config(panoramas, "steps=12"), tmp_path / "parts")
    assert parts.began == 5
    files = [(outcome.model / "model.safetensors").read_bytes() for outcome in (whole, parts)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        ((), {"correct", "under", "over"}),
        (("loss.tuner=false",), {"correct", "under", "over"}),
        (("loss.masks=false",), {"correct"}),
        (("loss.task=reconstruction", "model.network=densefuse"), {"correct"}),
    ],
)
def test_terms_of_the_losses(panoramas, settings, terms):
    chosen = config(panoramas, *settings)
    data = SYSTEM.samples(chosen).training
    batch = {name: torch.stack([data[i][name] for i in range(2)]) for name in ("dark", "target", "bright")}
    network = SYSTEM.model(chosen)
    ((_, found),) = SYSTEM.losses(network, batch, chosen)
    assert set(found) == terms
    if "loss.task=reconstruction" in settings:
        images = torch.cat([batch[name] for name in ("dark", "target", "bright")])
        luma = (images * torch.tensor([0.298936, 0.587043, 0.114021]).view(3, 1, 1)).sum(1, keepdim=True)
        error = (network(luma, luma) - luma).square().mean() * 255**2
        assert found["correct"] > error
        alone = HyperPMBLoss(scales=2)(network(luma, luma), luma, luma, luma)
        assert found["correct"].item() == pytest.approx(alone.item(), rel=1e-4)


def test_samples_too_small_for_the_scales(panoramas):
    with pytest.raises(InputError, match=r"5 scales needs 161 pixels a side; raise data\.synthesis\.frame, or lower"):
        SYSTEM.samples(config(panoramas, "loss.scales=5"))


def test_samples_of_brackets_have_a_size_of_their_own(brackets):
    SYSTEM.samples(config(brackets, "data.synthesis.frame=[8,8]"))
    with pytest.raises(InputError, match=r"2 scales needs 21 pixels a side; raise data\.size, or lower"):
        SYSTEM.samples(config(brackets, "data.size=[20,20]"))


def test_reconstruction_is_validated_by_its_own_loss(panoramas):
    chosen = config(panoramas, "loss.task=reconstruction", "model.network=densefuse", "data.validation_samples=1")
    network, held_out = SYSTEM.model(chosen), SYSTEM.samples(chosen).held_out
    with torch.inference_mode():
        found = SYSTEM.validate(network, held_out, chosen, torch.device("cpu"), False).metrics
        ((_, terms),) = SYSTEM.losses(
            network, {name: held_out[0][name][None] for name in ("dark", "target", "bright")}, chosen
        )
    assert found["loss"] == pytest.approx(float(terms["correct"]), rel=1e-5)
