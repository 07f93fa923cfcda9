"""The scripts that repeat the experiments of papers, on small generated scenes."""

import csv
import importlib.util
import json
import math
import pathlib
import sys

import pytest
import torch

from hdrops.data import sample_bracket
from hdrops.io import write_image

SCRIPTS = pathlib.Path(__file__).parents[1] / "bench" / "reproduce"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("reproduction", SCRIPTS / "exposure_interpolation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
