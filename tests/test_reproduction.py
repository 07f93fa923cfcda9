"""The scripts that repeat the experiments of papers, on small generated scenes."""

import csv
import importlib.util
import json
import math
import pathlib
import sys

import pytest
import torch

from hdrops.data import DynamicScenes, render_scene, sample_bracket
from hdrops.io import write_image
from hdrops.losses import MaskBuilder
from hdrops.models import EMVNet, EMVNetConfig, HyperPMB, HyperPMBConfig

SCRIPTS = pathlib.Path(__file__).parents[1] / "bench" / "reproduce"


def loaded(name, monkeypatch, folder=SCRIPTS):
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(monkeypatch):
    return loaded("exposure_interpolation", monkeypatch)


@pytest.fixture
def fusion(monkeypatch):
    return loaded("hyperp_mb", monkeypatch)


def test_photographs_of_a_place_have_one_subject(script):
    names = ("lake", "lake_1", "lake_2", "dam_pm1", "dam_pm2", "507")
    assert [script.subject(name) for name in names] == ["lake", "lake", "lake", "dam", "dam", "5"]


def test_fitted_tables_are_means_and_holes_ask_their_neighbours(script):
    codes = torch.arange(0, 256, 2).repeat_interleave(30).float().view(1, 30, 128).expand(3, -1, -1)
    dark = codes / 255
    noise = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    sample = {"dark": dark, "target": dark.sqrt() + 0.1 * noise}
    method = script.fitted([sample], lambda s: script.codes(s["dark"]), 1)
    for code in (0, 100, 254):
        expected = sample["target"][1][codes[1] == code].mean()
        assert method({"dark": torch.full((3, 1, 1), code / 255)})[1].item() == pytest.approx(expected.item(), abs=1e-6)
    hole = method({"dark": torch.full((3, 1, 1), 101 / 255)})
    assert hole.flatten().tolist() == pytest.approx([math.sqrt(101 / 255)] * 3, abs=0.02)


def test_updates_to_a_level_that_is_kept(script):
    log = {"step": [10.0, 20.0, 30.0, 40.0], "psnr": [31.0, 29.0, 30.0, 32.0]}
    assert script.updates_to(30, log) == 30
    assert script.updates_to(25, log) == 10
    assert math.isnan(script.updates_to(33, log))


def test_the_whole_reproduction_runs(script, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    for seed, name in enumerate(("hall", "yard_1", "yard_2", "barn")):
        folder = tmp_path / "brackets" / "fairchild" / name
        folder.mkdir(parents=True)
        for k, frame in enumerate(sample_bracket(72, 108, exposures=5, step=1.0, seed=seed)[0]):
            write_image(folder / f"{k}.png", frame)
    arguments = ["--steps", "2", "--batch", "1", "--network", "tiny", "--threads", "1"]
    arguments += ["--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["script", str(tmp_path), str(tmp_path / "runs"), *arguments])
    script.main()
    facts = json.loads((tmp_path / "results" / "run.json").read_text())
    sides = [{script.subject(name) for name in facts[side]} for side in ("training", "held_out")]
    assert sides[0].isdisjoint(sides[1])
    with (tmp_path / "results" / "quality.csv").open() as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert set(table) == set(script.TITLES) - {"two-frames"}
    assert float(table["imf-histogram"]["psnr"]) > float(table["average"]["psnr"])
    for name in ("curve", "joint"):
        assert float(table[f"{name}-limit"]["psnr"]) > float(table[name]["psnr"])
    for name in ("fusion.csv", "convergence.csv", "convergence.png", "losses.png"):
        assert (tmp_path / "results" / name).stat().st_size > 0


# ---- fusion ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def brackets(tmp_path):
    """A data folder: four scenes of five exposures, two of three, and two pairs."""
    listed = []
    scenes = {"fairchild/a": 5, "fairchild/b": 5, "fairchild/c": 5, "fairchild/balanced_rock": 5}
    scenes |= {"iccv17/one": 3, "iccv17/two": 3, "pairs/one": 2, "pairs/two": 2}
    for seed, (name, count) in enumerate(scenes.items()):
        folder = tmp_path / "brackets" / name
        folder.mkdir(parents=True)
        for k, frame in enumerate(sample_bracket(192, 200, exposures=count, step=4 / (count - 1), seed=seed)[0]):
            write_image(folder / f"{k}.png", frame)
        kind = "pair" if count == 2 else "static"
        files = [f"{k}.png" for k in range(count)]
        listed.append({"dir": f"brackets/{name}", "kind": kind, "files": files})
    (tmp_path / "brackets.json").write_text(json.dumps(listed))
    return tmp_path


def test_a_picture_of_pairs_is_that_of_both_where_there_are_two(fusion):
    torch.manual_seed(0)
    model = HyperPMB(HyperPMBConfig.preset("tiny")).eval()
    bracket = sample_bracket(24, 32, exposures=3, step=2.0)[0][None]
    assert torch.equal(fusion.by_pairs(model)(bracket[:, :2]), model.fuse(bracket[:, :2]))
    twice = torch.stack([model.fuse(bracket[:, :2]), bracket[:, 2]], 1)
    assert torch.equal(fusion.by_pairs(model)(bracket), model.fuse(twice))


def test_changes_are_of_pairs(fusion, tmp_path):
    names = {name for step in fusion.STEPS_OF_TABLE_2 for name in step}
    table = {name: {scene: dict.fromkeys(fusion.METRICS, 1.0) for scene in "abc"} for name in names}
    table["masks"]["a"]["ag"], table["masks"]["b"]["ag"] = 4.0, 0.0
    fusion.write_changes(tmp_path / "changes.csv", table)
    with (tmp_path / "changes.csv").open() as file:
        rows = {(row["to"], row["metric"]): row for row in csv.DictReader(file)}
    raised, unchanged = rows["masks", "ag"], rows["hyperp-mb", "piqe"]
    assert (raised["mean change"], raised["pairs where it rises"], raised["pairs"]) == ("+0.6667", "1", "3")
    assert (unchanged["mean change"], unchanged["pairs where it rises"]) == ("+0.0000", "0")
    assert rows["hyperp-mb", "ag"]["pairs where it rises"] == "1"


def test_the_least_loss_is_found_by_descent(fusion):
    dark, correct, bright = (
        sample_bracket(192, 176, exposures=3, step=2.0)[0].float().mean(1, keepdim=True)[:, None] / 255
    )
    alone = fusion.least(fusion.HyperPMBLoss(), dark, correct, bright, steps=100)
    assert (alone - correct).abs().max() < 1e-3
    masks = fusion.HyperPMBLoss(MaskBuilder())
    picture = fusion.least(masks, dark, correct, bright, steps=100)
    assert picture.min() >= 0
    assert picture.max() <= 1
    generator = torch.Generator().manual_seed(0)
    for other in (
        dark,
        correct,
        bright,
        (dark + bright) / 2,
        picture + 0.02 * torch.randn(picture.shape, generator=generator),
    ):
        assert masks(picture, dark, correct, bright) < masks(other, dark, correct, bright)


def test_the_whole_reproduction_of_fusion_runs(fusion, brackets, monkeypatch):
    pytest.importorskip("matplotlib")
    arguments = ["--steps", "2", "--network", "tiny", "--threads", "1", "--validated", "c"]
    arguments += ["--results", str(brackets / "results")]
    monkeypatch.setattr(sys, "argv", ["script", str(brackets), str(brackets / "out"), *arguments])
    monkeypatch.setattr(fusion, "DESCENT", 3)
    monkeypatch.setattr(fusion, "METRICS", ("ag", "piqe", "mef_ssim"))  # which are quick
    fusion.main()
    trained = json.loads((brackets / "out" / "hyperp-mb" / "data.json").read_text())
    assert trained["training"] == ["a", "b"]
    with (brackets / "results" / "quality.csv").open() as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert set(table) == set(fusion.TITLES)
    assert float(table["mertens"]["mef_ssim"]) > float(table["average"]["mef_ssim"])
    facts = json.loads((brackets / "results" / "run.json").read_text())
    assert sorted(facts["pairs"]) == ["iccv17/one", "iccv17/two", "pairs/one", "pairs/two"]
    assert (facts["brackets of three"], facts["brackets of nine"]) == (1, 2)
    for name in ("changes.csv", "losses.png", "sought_changes.csv", "three_frames.csv", "nine_frames.csv"):
        assert (brackets / "results" / name).stat().st_size > 0


def test_enhancement_is_judged_beside_the_reference_and_a_merge(monkeypatch, tmp_path):
    script = loaded("emvnet", monkeypatch)
    assert set(script.TITLES) == {*script.RUNS, "reference", "merge"}
    still = DynamicScenes(render_scene(64, 128), frame=(40, 48), objects=0, shake=0.0, samples_per_epoch=2)
    torch.manual_seed(1)
    network = EMVNet(EMVNetConfig.preset("tiny", residual=True))
    for head in network.heads:
        torch.nn.init.zeros_(head.conv.weight)
        torch.nn.init.zeros_(head.conv.bias)
    table = script.judged({"full": network}, (still[k] for k in range(2)), 2.2, tmp_path / "pictures")
    assert list(table) == ["reference", "merge", "full"]
    assert table["full"] == table["reference"]  # it adds nothing to it
    assert table["merge"]["psnr_l"] > 40  # nothing moves
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_the_plan_counts_what_tiles_and_pieces_compute(monkeypatch):
    plan = loaded("emvnet_plan", monkeypatch, SCRIPTS.parent)
    network = plan.Network("light", 3, 200, 328)
    assert (network.rows, network.columns) == (100, 164)
    assert network.depth == 3 * len(network.model._motions) * len(network.model.config.exposures)
    counted = torch.zeros(100, 164)
    for top in range(0, 100, 32):
        for left in range(0, 164, 32):
            counted[max(0, top - 12) : min(100, top + 32 + 12), max(0, left - 12) : left + 32 + 12] += 1
    assert network.times((100, 164), 32, 12) == pytest.approx(counted.mean().item(), rel=1e-6)
    assert network.times((100, 164), 164, 12) == 1
    assert network.seen((100, 164), 64, 12) == (76, 88)
    # Of a high picture, rolling buffers hold some rows.
    tall, taller = (plan.Network("hdr", 3, rows, 500).rolling(2) for rows in (4000, 8000))
    assert tall[1] == taller[1]
    assert tall[0] < 2


def test_the_plan_is_what_was_measured(monkeypatch):
    """Peaks of memory in the results, of networks that were computed whole or in pieces."""
    plan = loaded("emvnet_plan", monkeypatch, SCRIPTS.parent)
    with (plan.RESULTS.parent / "inference.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["path"] == "hdrops"]
    assert rows
    for row in rows:
        network = plan.Network(row["preset"], int(row["images"]), int(row["rows"]), int(row["columns"]))
        _, counted = network.point(0, int(row["piece"]), plan.BYTES[row["dtype"]])
        assert counted == pytest.approx(float(row["gb"]) * 1e9, rel=0.15), row
