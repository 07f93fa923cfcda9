"""EMVNet learns from scenes on disk, in the layouts of Kalantari, of the NTIRE challenge and of HDR+."""

import math

import pytest
import torch

pytest.importorskip("pydantic", reason="training needs pydantic")
pytest.importorskip("OpenImageIO", reason="reading images needs OpenImageIO")

from moving_files import kalantari, ntire

from hdrops.models import EMVNet
from hdrops.train import load_config, train
from hdrops.train.emvnet import SYSTEM, gamma_of

CONTENT = ("loss.adversarial=0.0", "loss.pixels=0.0", "loss.patches=0.0", "steps=2", "validate_every=2")
WRITERS = {"kalantari": (kalantari, 2.2), "ntire": (ntire, 2.24)}


def config(folder, layout, *settings):
    values = {"data.folders": [str(folder)], "data.layout": layout, "data.validation_samples": 2}
    return load_config(SYSTEM.config, SYSTEM.presets, preset="tiny", values=values, settings=(*CONTENT, *settings))


@pytest.mark.parametrize("layout", WRITERS)
def test_photographed_scenes(layout, tmp_path):
    write, gamma = WRITERS[layout]
    for number in range(3):
        write(tmp_path / "data" / f"{number:03}", seed=number)
    chosen = config(tmp_path / "data", layout, "data.held_out_scenes=['002']", "model.changes={residual = true}")
    assert gamma_of(chosen) == gamma
    data = SYSTEM.samples(chosen)
    assert len(data.held_out) == 1
    sample = data.training[0, 0]
    assert sample["images"].shape == (3, 3, 32, 40)
    outcome = train(SYSTEM, chosen, tmp_path / "run")
    # Before it has learnt anything, a network that adds to the reference is about as good as that.
    found = outcome.validation
    assert found["psnr_mu"] == pytest.approx(found["psnr_mu_reference"], abs=0.5)
    assert 15 < found["psnr_mu"] < math.inf
    network = EMVNet.from_pretrained(outcome.model)
    assert network.choose_reference(sample["images"][None]).item() == sample["reference"]
    assert network.enhance(sample["images"][None]).shape == (1, 3, 32, 40)


@pytest.mark.parametrize(
    ("channels", "changes"),
    [
        (4, "model.changes={channels = 4, outputs = 4, residual = true}"),
        (3, "model.changes={channels = 4, outputs = 3, grow = 2, head_taps = 3, residual = false}"),
    ],
    ids=["raw", "isp"],
)
def test_bursts(channels, changes, tmp_path):
    pytest.importorskip("rawpy", reason="rawpy is not installed")
    from burst_files import burst

    for number in range(3):
        burst(tmp_path / "data", f"{number:04}", seed=number)
    chosen = config(tmp_path / "data", "hdrplus", changes, "data.held_out_scenes=['0002']")
    data = SYSTEM.samples(chosen)
    assert data.facts["validation"] == ["0002"]
    sample = data.training[0, 0]
    assert sample["images"].shape == (2, 4, 32, 40)
    scale = 1 if channels == 4 else 2
    assert sample["target"].shape == (channels, 32 * scale, 40 * scale)
    outcome = train(SYSTEM, chosen, tmp_path / "run")
    assert math.isfinite(outcome.validation["psnr_l"])
    assert ("psnr_l_reference" in outcome.validation) == (channels == 4)
    network = EMVNet.from_pretrained(outcome.model)
    assert network.config.choice == "clearest"
    assert network.choose_reference(sample["images"][None]).item() == sample["reference"]
    picture = network.enhance(torch.rand(1, 2, 4, 30, 34))
    assert picture.shape == (1, channels, 30 * scale, 34 * scale)
