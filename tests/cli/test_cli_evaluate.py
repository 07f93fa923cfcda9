"""hdrops evaluate."""

import csv
import html.parser
import inspect
import math
import re

import image_files
import numpy as np
import pytest
import shots
import torch

import hdrops as package
from hdrops import metrics
from hdrops.data import sample_bracket
from hdrops.io import read_bracket, read_image, write_image
from hdrops_cli.evaluate_metrics import METRICS, chosen

FEW = ("--metrics", "ag,sd,qabf")
AEB = {0: 1 / 100, -2: 1 / 400, 2: 1 / 25}


def bracket(seed, height=64, width=80):
    return sample_bracket(height, width, exposures=3, bits=8, seed=seed)[0]


def write_frames(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        write_image(folder / f"{k}.png", image)


@pytest.fixture
def album(tmp_path):
    """Two scenes in a folder each, and the results of two methods, as ``fuse --recursive`` names them."""
    for seed, scene in enumerate(("a/one", "two")):
        folder = tmp_path / "in" / scene
        images = bracket(seed)
        write_frames(folder, images)
        for method, picture in (("fused", package.exposure_fusion(images[None])[0]), ("dark", images[0])):
            target = tmp_path / method / scene / "0_fused.png"
            target.parent.mkdir(parents=True)
            write_image(target, picture)
    return tmp_path


def table(path):
    """Values of a CSV file by scene and method."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    text = ("scene", "method", "picture")
    return {
        (row["scene"], row["method"]): {name: float(x) for name, x in row.items() if name not in text and x}
        for row in rows
    }


class Page(html.parser.HTMLParser):
    """A report: its elements are closed in order, and it needs nothing from outside."""

    def __init__(self, path):
        super().__init__()
        self.open, self.text, self.images, self.best = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") for name in values)
        assert values.get("href", "#").startswith("#")
        if tag == "img":
            assert values["src"].startswith("data:image/jpeg;base64,")
            self.images.append(values["alt"])
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if values.get("class") == "best":
            self.best.append("")

    def handle_startendtag(self, tag, attributes):
        assert tag in ("circle", "line")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.best and self.open[-1:] == ["td"] and not self.best[-1]:
            self.best[-1] = data


# ---- finding the scenes -------------------------------------------------------------------------------------------


def test_values_are_those_of_the_metrics(hdrops, album):
    code, stdout, stderr = hdrops("evaluate", album / "fused", album / "dark", "--sources", album / "in", "-o",
                                  album / "report.html", *FEW)  # fmt: skip
    assert (code, stderr) == (0, "")
    values = table(album / "report.csv")
    assert list(values) == [("a/one", "fused"), ("a/one", "dark"), ("two", "fused"), ("two", "dark")]
    for (scene, method), row in values.items():
        frames = read_bracket(sorted((album / "in" / scene).iterdir())).images[None]
        picture = read_image(album / method / scene / "0_fused.png").pixels[None]
        assert row == {
            "ag": float(metrics.average_gradient(picture)),
            "sd": float(metrics.standard_deviation(picture)),
            "qabf": float(metrics.qabf(picture, frames)),
        }
    mean, one, two, summary = re.split(r"\n\n", stdout)
    assert mean.startswith("mean over 2 scenes (* best)")
    expected = sum(values[scene, "fused"]["ag"] for scene in ("a/one", "two")) / 2
    assert re.search(rf"^AG ↑ +{expected:.4f}\* +\d", mean, re.MULTILINE)
    assert one.startswith("a/one")
    assert two.startswith("two")
    assert summary.startswith("2 scenes, 2 methods, 3 metrics, ")
    assert summary.endswith(f"→ {album}/report.html and {album}/report.csv\n")


def test_what_fuse_writes_is_understood(hdrops, tmp_path):
    """Two brackets in one folder, one in a folder below, and files that share a stem."""
    folder = tmp_path / "in"
    for first, scene in ((0, 0), (3, 1)):
        for k, (stops, time) in enumerate(AEB.items()):
            shots.write(folder / f"{first + k}.jpg", scene, stops, time=time, at=100 * first + k)
    for k in range(3):
        shots.write(folder / "sub" / f"{k}.jpg", 2, k - 1)
        shots.write(folder / f"{k}.tif", 3, k - 1)
    assert hdrops("fuse", folder, "-r", "-o", tmp_path / "out").code == 0
    code, _, stderr = hdrops("evaluate", tmp_path / "out", "--sources", folder, "-o", tmp_path / "r.html", *FEW)
    assert (code, stderr) == (0, "")
    values = table(tmp_path / "r.csv")
    brackets = {"0.jpg": "012", "3": "345", "0.tif": "012", "sub": "012"}
    assert sorted(values) == sorted((scene, "out") for scene in brackets)
    for scene, names in brackets.items():
        place, ending = (folder / "sub", ".jpg") if scene == "sub" else (folder, ".tif" if "tif" in scene else ".jpg")
        frames = read_bracket([place / f"{name}{ending}" for name in names]).images[None]
        fused = package.exposure_fusion(frames)
        assert values[scene, "out"]["qabf"] == float(metrics.qabf(fused, frames))


def test_sets_of_a_stated_size(hdrops, tmp_path):
    for k in range(4):
        shots.write(tmp_path / "in" / f"{k}.jpg", 0, k % 2)
    assert hdrops("fuse", tmp_path / "in", "-r", "-o", tmp_path / "out", "--per-set", 2).code == 0
    arguments = ("evaluate", tmp_path / "out", "--sources", tmp_path / "in", "-o", tmp_path / "r.html", *FEW)
    assert hdrops(*arguments, "--per-set", 2).code == 0
    assert list(table(tmp_path / "r.csv")) == [("0", "out"), ("2", "out")]


def test_results_may_be_named_after_the_folder(hdrops, album):
    """With or without the suffix, beside results that are named after the first image, or are alone in the folder."""
    other = album / "other"
    (other / "a").mkdir(parents=True)
    (album / "dark" / "a" / "one" / "0_fused.png").rename(other / "a" / "one.png")
    (album / "dark" / "two" / "0_fused.png").rename(other / "two-done.png")
    arguments = ("evaluate", album / "fused", other, "--sources", album / "in", "-o", album / "r.html", *FEW)
    code, _, stderr = hdrops(*arguments, "--suffix", "-done")
    assert code == 0
    assert len(re.findall(r"^warning: .*/0_fused.png: no scene of this name; ", stderr, re.MULTILINE)) == 2
    first = table(album / "r.csv")
    assert list(first) == [(scene, method) for scene in ("a/one", "two") for method in ("fused", "other")]
    assert hdrops(*arguments).code == 1
    (other / "two-done.png").rename(other / "two_fused.png")
    code, _, stderr = hdrops(*arguments)
    assert (code, stderr) == (0, "")
    assert table(album / "r.csv") == first


@pytest.mark.parametrize("place", ["elsewhere", "frames"])
def test_pictures_of_one_folder_of_frames(hdrops, tmp_path, place):
    images = bracket(0)
    write_frames(tmp_path / "frames", images)
    (tmp_path / place).mkdir(exist_ok=True)
    pictures = [tmp_path / place / name for name in ("best.png", "worst.png")]
    for picture, pixels in zip(pictures, images, strict=False):
        write_image(picture, pixels)
    arguments = ("evaluate", *pictures, "--sources", tmp_path / "frames", "-o", tmp_path / "r.html", *FEW)
    code, stdout, stderr = hdrops(*arguments)
    assert (code, stderr) == (0, "")
    assert stdout.startswith("frames (* best)")
    values = table(tmp_path / "r.csv")
    assert list(values) == [("frames", "best"), ("frames", "worst")]
    frames = read_bracket([tmp_path / "frames" / f"{k}.png" for k in range(3)]).images[None]
    assert values["frames", "best"]["qabf"] == float(metrics.qabf(images[:1], frames))


def test_names_can_be_given(hdrops, album):
    arguments = [f"x={album / 'fused'}", f"y={album / 'fused'}", "--sources", album / "in", "-o", album / "r.html"]
    assert hdrops("evaluate", *arguments, *FEW).code == 0
    assert {method for _, method in table(album / "r.csv")} == {"x", "y"}


# ---- against a reference ------------------------------------------------------------------------------------------


@pytest.fixture
def references(tmp_path):
    """Two references, and results that are near and equal."""
    for seed, name in enumerate(("a/x", "y")):
        for folder in ("truth", "near", "equal"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        truth = bracket(seed, 180, 200)[1]
        write_image(tmp_path / "truth" / f"{name}.png", truth)
        write_image(tmp_path / "equal" / f"{name}.tif", truth)
        write_image(tmp_path / "near" / f"{name}_fused.png", truth // 2 + 60)
    return tmp_path


def test_pictures_against_references(hdrops, references):
    code, stdout, stderr = hdrops("evaluate", references / "near", references / "equal", "--reference",
                                  references / "truth", "-o", references / "r.html")  # fmt: skip
    assert (code, stderr) == (0, "")
    values = table(references / "r.csv")
    near, truth = (read_image(references / f).pixels[None] for f in ("near/y_fused.png", "truth/y.png"))
    assert values["y", "near"] == pytest.approx(
        {
            "psnr": float(metrics.psnr(near, truth)),
            "ssim": float(metrics.ssim(near, truth)),
            "ms_ssim": float(metrics.ms_ssim(near, truth)),
        },
        rel=1e-12,  # a sum depends on where its values lie in memory
    )
    assert values["a/x", "equal"]["psnr"] == math.inf
    assert re.search(r"^PSNR ↑ +[\d.]+ +∞\*", stdout, re.MULTILINE)
    page = Page(references / "r.html")
    assert "∞" in page.best
    assert page.images.count("|near − reference|") == 2


def test_linear_light_against_references(hdrops, tmp_path):
    truth = torch.rand(3, 180, 200, generator=torch.Generator().manual_seed(0)) * 7 + 0.1
    for folder, image in (("truth", truth), ("half", truth / 2), ("good", truth * 1.01)):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "x.exr", image)
    arguments = ("evaluate", tmp_path / "half", tmp_path / "good", "--reference", tmp_path / "truth", "-o",
                 tmp_path / "r.html", "--metrics", "psnr,ssim_mu")  # fmt: skip
    code, _, stderr = hdrops(*arguments, "--display-peak", 400)
    assert (code, stderr) == (0, "")
    half, whole = truth[None] / 2, truth[None]
    for domain in ("linear", "mu", "pq", "pu21"):
        peak = {"display_peak": 400} if domain in ("pq", "pu21") else {}
        expected = float(metrics.psnr(half, whole, domain, normalize="reference", **peak))
        assert table(tmp_path / "r.csv")["x", "half"][f"psnr_{domain}"] == pytest.approx(expected, rel=1e-9)
    assert {*table(tmp_path / "r.csv")["x", "half"]} == {
        "ssim_mu",
        *(f"psnr_{d}" for d in ("linear", "mu", "pq", "pu21")),
    }
    assert "at 400 cd/m²" in Page(tmp_path / "r.html").source
    assert hdrops(*arguments, "--correct", "exposure").code == 0
    assert table(tmp_path / "r.csv")["x", "half"]["psnr_linear"] > 100


@pytest.mark.parametrize("correct", ["none", "exposure", "response"])
def test_all_metrics_of_linear_light_have_values(hdrops, tmp_path, correct):
    truth = torch.rand(3, 180, 200, generator=torch.Generator().manual_seed(0)) * 7 + 0.1
    for folder, image in (("truth", truth), ("result", (truth / 2) ** 1.1)):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "x.exr", image)
    code, _, stderr = hdrops("evaluate", tmp_path / "result", "--reference", tmp_path / "truth", "-o",
                             tmp_path / "r.html", "--correct", correct, "--display-peak", 300)  # fmt: skip
    assert (code, stderr) == (0, "")
    ((_, values),) = table(tmp_path / "r.csv").items()
    assert list(values) == [metric.name for metric in METRICS.values() if metric.linear]
    assert len(values) == 12
    image, reference = (read_image(tmp_path / folder / "x.exr").pixels[None] for folder in ("result", "truth"))
    for domain in ("linear", "mu", "pq", "pu21"):
        peak = {"display_peak": 300} if domain in ("pq", "pu21") or correct == "response" else {}
        expected = metrics.psnr(image, reference, domain, normalize="reference", correct=correct, **peak)
        assert values[f"psnr_{domain}"] == pytest.approx(float(expected), rel=1e-9)


def test_a_response_that_cannot_be_fitted_ends_no_other_scene(hdrops, tmp_path, monkeypatch):
    truth = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0)) + 0.1
    for folder in ("truth", "result"):
        (tmp_path / folder).mkdir()
        for name in ("bad", "good"):
            write_image(tmp_path / folder / f"{name}.exr", truth if folder == "truth" else truth**1.2)
    solve = torch.linalg.lstsq
    calls = []

    def diverges(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise torch.linalg.LinAlgError("the algorithm for computing the SVD failed to converge")
        return solve(*args, **options)

    monkeypatch.setattr("torch.linalg.lstsq", diverges)
    code, _, stderr = hdrops("evaluate", tmp_path / "result", "--reference", tmp_path / "truth", "-o",
                             tmp_path / "r.html", "--correct", "response", "--metrics", "psnr_pq", "--jobs",
                             1)  # fmt: skip
    assert code == 1
    assert stderr.count("\n") == 1
    assert "no response curve can be fitted" in stderr
    assert list(table(tmp_path / "r.csv")) == [("good", "result")]


def test_one_picture_and_its_reference(hdrops, references):
    arguments = ("evaluate", references / "near" / "y_fused.png", "--reference", references / "truth" / "y.png", "-o",
                 references / "r.html", "--metrics", "psnr")  # fmt: skip
    code, stdout, stderr = hdrops(*arguments)
    assert (code, stderr) == (0, "")
    assert stdout.startswith("y ")
    assert list(table(references / "r.csv")) == [("y", "y_fused")]


def test_partners_by_being_the_only_ones_are_said(hdrops, references):
    """Where two folders hold a picture each, of different names; not where one is named itself."""
    for folder in ("truth", "near"):
        (references / f"one-{folder}").mkdir()
    write_image(references / "one-truth" / "beach.png", bracket(0)[1])
    write_image(references / "one-near" / "wood.png", bracket(0)[0])
    results, truths = references / "one-near", references / "one-truth"
    for result, truth in ((results, truths / "beach.png"), (results / "wood.png", truths), (results, truths)):
        code, _, stderr = hdrops("evaluate", result, "--reference", truth, "-o", references / "r.html", "--metrics",
                                 "psnr")  # fmt: skip
        assert code == 0
        assert (stderr == "") == (result != results or truth != truths)
    assert stderr.startswith(f"warning: {results}/wood.png: no reference of this name; ")
    assert f"{truths}/beach.png" in stderr


def test_sources_by_being_the_only_result_are_said(hdrops, tmp_path):
    write_frames(tmp_path / "in" / "a", bracket(0))
    (tmp_path / "out" / "a").mkdir(parents=True)
    write_image(tmp_path / "out" / "a" / "wood.png", bracket(0)[1])
    code, _, stderr = hdrops("evaluate", tmp_path / "out", "--sources", tmp_path / "in", "-o", tmp_path / "r.html",
                             *FEW)  # fmt: skip
    assert code == 0
    assert stderr.startswith(f"warning: {tmp_path}/out/a/wood.png: no scene of this name; ")
    assert f"{tmp_path}/in/a" in stderr
    assert stderr.count("\n") == 1


def test_negative_light_is_said(hdrops, tmp_path):
    light = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0)) + 0.1
    result, truth = light.clone(), light.clone()
    result[0, 0, :5] = -0.25
    truth[0, 0, 0] = -0.5
    write_image(tmp_path / "result.exr", result)
    write_image(tmp_path / "truth.exr", truth)
    code, _, stderr = hdrops("evaluate", tmp_path / "result.exr", "--reference", tmp_path / "truth.exr", "-o",
                             tmp_path / "r.html", "--metrics", "psnr")  # fmt: skip
    assert code == 0
    first, second = stderr.splitlines()
    assert first.startswith(f"warning: {tmp_path}/truth.exr has 1 value below 0 of 2304, the least -0.5;")
    assert second.startswith(f"warning: {tmp_path}/result.exr has 5 values below 0 of 2304, the least -0.25;")


@pytest.mark.parametrize("black", ["result", "truth"])
def test_black_light_is_refused(hdrops, tmp_path, black):
    for name in ("result", "truth"):
        write_image(tmp_path / f"{name}.exr", torch.full((3, 24, 32), float(name != black)))
    code, _, stderr = hdrops("evaluate", tmp_path / "result.exr", "--reference", tmp_path / "truth.exr", "-o",
                             tmp_path / "r.html")  # fmt: skip
    assert code == 2
    assert stderr.count("\n") == 1
    assert f"{tmp_path}/{black}.exr has no value above 0" in stderr


def test_transparent_pixels_are_said(hdrops, tmp_path):
    """Of results and of references; not of pictures whose alpha is opaque."""
    (tmp_path / "out").mkdir()
    (tmp_path / "truth").mkdir()
    for folder in ("out", "truth"):
        for name, least in (("clear", 40), ("opaque", 255)):
            pixels = np.full((24, 32, 4), 255, np.uint8)
            pixels[..., :3] = bracket(0, 24, 32)[int(folder == "out")].permute(1, 2, 0)
            pixels[3, 4, 3] = least
            image_files.write(tmp_path / folder / f"{name}.png", pixels, names=("R", "G", "B", "A"))
    write_image(tmp_path / "truth" / "clear.png", bracket(0, 24, 32)[0])
    arguments = ("evaluate", tmp_path / "out", "--reference", tmp_path / "truth", "-o", tmp_path / "r.html",
                 "--metrics", "psnr")  # fmt: skip
    said = "1 picture with transparent pixels; alpha is left out, colours are taken as stored"
    code, _, stderr = hdrops(*arguments)
    assert (code, stderr) == (0, f"warning: out: {said}\n")
    (tmp_path / "out" / "clear.png").replace(tmp_path / "truth" / "opaque.png")
    code, _, stderr = hdrops(*arguments)
    assert (code, stderr.splitlines()[0]) == (0, f"warning: {tmp_path}/truth: {said}")


@pytest.mark.parametrize("ending", [".heic", ".avif", ".tif", ".exr"])
@pytest.mark.parametrize("least", [40, 255])
def test_formats_that_hold_transparency(tmp_path, ending, least):
    from hdrops_cli.evaluate_pictures import transparent

    pixels = np.full((24, 32, 4), 255, np.uint8)
    pixels[3:9, 4:12, 3] = least
    path = tmp_path / f"x{ending}"
    if ending in (".heic", ".avif"):
        heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
        from PIL import Image, features

        picture = Image.fromarray(pixels)
        if ending == ".heic":
            heif.from_pillow(picture).save(path)
        elif features.check("avif"):
            picture.save(path)
        else:
            pytest.skip("this Pillow writes no AVIF")
    else:
        image_files.write(path, pixels if ending == ".tif" else pixels.astype(np.float32) / 255, names=tuple("RGBA"))
    assert read_image(path).pixels.shape == (3, 24, 32)
    assert transparent(path) == (least < 255)


# ---- comparing ----------------------------------------------------------------------------------------------------


def test_methods_are_compared_on_the_scenes_that_all_have(hdrops, album):
    (album / "dark" / "two" / "0_fused.png").unlink()
    code, stdout, stderr = hdrops("evaluate", album / "fused", album / "dark", "--sources", album / "in", "-o",
                                  album / "r.html", *FEW)  # fmt: skip
    assert code == 0
    assert stderr == "warning: the means are over 1 of 2 scenes, those that all methods have values of (dark lacks 1)\n"
    values = table(album / "r.csv")
    assert len(values) == 3
    assert re.search(rf"^AG ↑ +{values['a/one', 'fused']['ag']:.4f}", stdout, re.MULTILINE)
    assert "those of 2 that all methods have" in Page(album / "r.html").source


def test_no_scene_that_all_have(hdrops, album):
    (album / "dark" / "two" / "0_fused.png").unlink()
    (album / "fused" / "a" / "one" / "0_fused.png").unlink()
    code, _, stderr = hdrops("evaluate", album / "fused", album / "dark", "--sources", album / "in", "-o",
                             album / "r.html", *FEW)  # fmt: skip
    assert code == 0
    assert "over 0 of 2 scenes" in stderr
    assert "there are no means to compare" in Page(album / "r.html").source


def test_sources_without_results_are_said(hdrops, album):
    write_frames(album / "in" / "three", bracket(5))
    code, _, stderr = hdrops("evaluate", album / "fused", "--sources", album / "in", "-o", album / "r.html", *FEW)
    assert (code, stderr) == (0, "warning: no result of 1 folder of images\n")


def test_scenes_are_printed_where_few_or_asked_for(hdrops, tmp_path):
    for seed in range(4):
        write_frames(tmp_path / f"{seed}", bracket(seed, 24, 32))
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"{seed}").rename(tmp_path / "in" / f"{seed}")
        (tmp_path / "out").mkdir(exist_ok=True)
        write_image(tmp_path / "out" / f"{seed}.png", bracket(seed, 24, 32)[1])
    arguments = ("evaluate", tmp_path / "out", "--sources", tmp_path / "in", "-o", tmp_path / "r.html", *FEW)
    assert hdrops(*arguments).stdout.count("AG ↑") == 1
    assert hdrops(*arguments, "--per-scene").stdout.count("AG ↑") == 5
    first = (tmp_path / "r.csv").read_bytes()
    assert hdrops(*arguments, "--jobs", 1).code == 0
    assert (tmp_path / "r.csv").read_bytes() == first


def test_the_best_is_marked_by_the_direction_of_the_metric(hdrops, album):
    code, stdout, _ = hdrops("evaluate", album / "fused", album / "dark", "--sources", album / "in", "-o",
                             album / "r.html", "--metrics", "sd,piqe,ce")  # fmt: skip
    assert code == 0
    page = Page(album / "r.html")
    for line in stdout.partition("\n\n")[0].splitlines()[1:]:
        label, arrow, fused, dark = line.split()
        best = (max if arrow == "↑" else min)((fused, dark), key=lambda x: float(x.rstrip("*")))
        assert best.endswith("*"), label
        assert best.rstrip("*") in page.best


def test_bits_may_differ_and_that_is_said(hdrops, album):
    path = album / "fused" / "two" / "0_fused.png"
    write_image(path, (read_image(path).pixels.int() * 257).to(torch.uint16))
    arguments = ("evaluate", album / "fused", "--sources", album / "in", "-o", album / "r.html", *FEW)
    code, _, stderr = hdrops(*arguments)
    assert code == 0
    said = "fused: 1 picture of 16 bits against sources of 8; both are taken as values in [0, 1]"
    assert stderr == f"warning: {said}\n"
    deep = table(album / "r.csv")["two", "fused"]
    write_image(path, (read_image(path).pixels.int() // 257).to(torch.uint8))
    assert hdrops(*arguments).code == 0
    assert table(album / "r.csv")["two", "fused"] == pytest.approx(deep, rel=1e-4)


# ---- the report ---------------------------------------------------------------------------------------------------


def test_report_shows_everything(hdrops, album):
    code, _, _ = hdrops("evaluate", album / "fused", album / "dark", "--sources", album / "in", "-o",
                        album / "r.html", *FEW)  # fmt: skip
    assert code == 0
    page = Page(album / "r.html")
    text = " ".join(page.text)
    assert page.images == 2 * ["0.png", "1.png", "2.png", "fused", "dark", "dark − fused"]
    assert page.source.count("<svg") == 3
    assert page.source.count("<circle") == 3 * 2 * 2
    for words in (
        "Mean over 2 scenes",
        package.__version__,
        torch.__version__,
        METRICS["qabf"].convention,
        METRICS["qabf"].manner,
    ):
        assert words in text
    for value in table(album / "r.csv").values():
        assert f"{value['ag']:.4f}" in text


def bars(page):
    """Position and method's row of the mean in each plot."""
    return [
        [(float(x), float(y)) for x, y in re.findall(r'class="mean" x1="([\d.]+)" x2="[\d.]+" y1="([\d.]+)"', plot)]
        for plot in re.findall(r"<svg.*?</svg>", page.source, re.DOTALL)
    ]


def test_plots_have_the_means_of_the_table(hdrops, references):
    """An infinite mean has no bar, though the other scene's value is finite."""
    write_image(references / "equal" / "y.tif", read_image(references / "truth" / "y.png").pixels // 2)
    code, _, _ = hdrops("evaluate", references / "near", references / "equal", "--reference", references / "truth",
                        "-o", references / "r.html", "--metrics", "psnr,ssim")  # fmt: skip
    assert code == 0
    page = Page(references / "r.html")
    psnr, ssim = bars(page)
    assert (len(psnr), len(ssim)) == (1, 2)
    assert page.source.count("<circle") == 3 + 4


def test_plots_have_the_scenes_of_the_table(hdrops, tmp_path):
    """A scene that one method has no value of is in neither the mean nor the plot of the metric."""
    for name, size in (("large", (180, 200)), ("small", (64, 80))):
        write_frames(tmp_path / "in" / name, bracket(0, *size))
        for k, method in enumerate(("a", "b")):
            (tmp_path / method).mkdir(exist_ok=True)
            write_image(tmp_path / method / f"{name}.png", bracket(0, *size)[k])
    code, _, _ = hdrops("evaluate", tmp_path / "a", tmp_path / "b", "--sources", tmp_path / "in", "-o",
                        tmp_path / "r.html", "--metrics", "sd,ms_ssim")  # fmt: skip
    assert code == 0
    page = Page(tmp_path / "r.html")
    assert [plot.count("<circle") for plot in re.findall(r"<svg.*?</svg>", page.source, re.DOTALL)] == [4, 2]
    dots = re.findall(r'cx="([\d.]+)"', page.source)[4:]
    assert [x for x, _ in bars(page)[1]] == [float(x) for x in dots]


def test_infinities_keep_their_sign():
    from hdrops_cli.evaluate import cells
    from hdrops_cli.evaluate_scenes import Method

    methods = [Method(name, None, {}) for name in ("x", "y", "z")]
    values = {"x": {"psnr": -math.inf}, "y": {"psnr": math.inf}, "z": {"psnr": 1.0}}
    assert cells(values, methods, METRICS["psnr"]) == [("−∞", False), ("∞", True), ("1.000", False)]


def test_means_of_infinities():
    from hdrops_cli.evaluate import _mean

    assert _mean([1.0, math.inf]) == math.inf
    assert math.isnan(_mean([math.inf, -math.inf]))
    assert _mean([1.0, 2.0]) == 1.5


def test_names_are_escaped(hdrops, tmp_path):
    odd = "<b>&\"'\n\x1b[1m"
    write_frames(tmp_path / "in", bracket(0))
    (tmp_path / "sources").mkdir()
    (tmp_path / "in").rename(tmp_path / "sources" / odd)
    method = tmp_path / f"{odd} method"
    method.mkdir()
    write_image(method / f"{odd}.png", bracket(0)[0])
    (method / "other<i>.png").write_bytes(b"")
    code, stdout, stderr = hdrops(
        "evaluate", method, "--sources", tmp_path / "sources", "-o", tmp_path / "r.html", *FEW
    )
    assert code == 1
    assert stderr.count("\n") == 1
    assert "\x1b" not in stdout + stderr
    page = Page(tmp_path / "r.html")
    assert "<b>" not in page.source
    assert "<i>.png" not in page.source
    assert "<b>&\"'" in "".join(page.text)
    assert list(table(tmp_path / "r.csv")) == [(odd, method.name)]


def test_report_of_many_scenes_stays_small():
    from hdrops_cli.evaluate_pictures import jpeg, reduced, side_for

    picture = bracket(0, 400, 600)[1] / 255
    for scenes, methods, frames in ((80, 4, 3), (80, 4, 9), (5, 4, 3)):
        pictures = scenes * (2 * methods + frames)
        size = len(jpeg(reduced(picture, side_for(pictures)))) * 4 / 3
        assert pictures * size < 30e6
    assert side_for(10) == 420


def test_maps_have_the_colours_of_their_scale():
    from hdrops_cli.evaluate_pictures import DIVERGING, SEQUENTIAL, coloured, scale_of

    values = torch.tensor([[[-0.5, 0.0, 0.5, 2.0]]])
    colours = (coloured(values, 0.5, DIVERGING)[:, 0].T * 255).round().int().tolist()
    hexadecimal = ["".join(f"{x:02x}" for x in colour) for colour in colours]
    assert hexadecimal == [DIVERGING[0], DIVERGING[3], DIVERGING[6], DIVERGING[6]]
    dark, bright = coloured(torch.tensor([[[0.0, 1.0]]]), 1.0, SEQUENTIAL)[:, 0].T
    assert dark.sum() < 0.1
    assert bright.sum() > 2.5
    assert scale_of([torch.full((1, 9, 9), -0.1234)]) == 0.12
    assert scale_of([torch.zeros(1, 9, 9)]) == 0.01


def test_terminal(hdrops, album, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    code, stdout, stderr = hdrops("evaluate", album / "fused", album / "dark", "--sources", album / "in", "-o",
                                  album / "r.html", *FEW)  # fmt: skip
    assert code == 0
    assert "evaluating" in stderr
    assert "\x1b[1m" in stdout
    assert "*" not in stdout


def test_progress_is_shown_while_libraries_are_held_back(capfd, monkeypatch):
    """A picture that another thread reads must not swallow the bar."""
    from hdrops.io._stderr import without_library_messages
    from hdrops_cli.report import counting

    monkeypatch.setenv("FORCE_COLOR", "1")
    with without_library_messages():
        with counting("evaluating", 2) as advance:
            advance()
        assert "evaluating" in capfd.readouterr().err
    assert "evaluating" not in capfd.readouterr().err


# ---- the metrics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_is_there(metric):
    assert callable(metric.load())
    assert 10 < len(metric.convention) < 200
    assert "`" not in metric.convention


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_options_are_stated_and_are_those_of_the_function(metric):
    """All arguments that choose something are given, so that a report states what its values are of."""
    parameters = inspect.signature(metric.load()).parameters
    choices = {
        "color",
        "convention",
        "feature",
        "window",
        "flat_pairs",
        "identical",
        "sharpness",
        "pooling",
        "zero_ends",
    }
    choices |= {"domain", "normalize", "sigma", "border"}
    assert {*parameters} & choices <= {*metric.options}
    assert {*metric.options} <= {*parameters} or "options" in parameters
    for name, value in metric.options.items():
        if name in parameters and name not in ("domain", "normalize", "data_range") and metric.name != "qc":
            assert parameters[name].default == value
    assert ("sources" in metric.over or "source" in metric.over) == (metric.needs == "sources")
    ranges = {"nothing": "values on 0 to 255", "sources": "values on 0 to 255", "reference": "; range "}
    assert ranges[metric.needs] in metric.manner
    assert re.match("each channel|the grey image|over all channels", metric.manner)


def test_the_window_of_s3_is_said():
    assert METRICS["s3"].options["zero_ends"] == inspect.signature(metrics.s3).parameters["zero_ends"].default
    assert "Hann window without zeros at its ends" in METRICS["s3"].manner


def test_choice_of_metrics():
    def names(text, reference):
        return [metric.name for metric in chosen(text, reference)]

    usual = ["ag", "ei", "sf", "en", "sd", "fmi", "lpc_si", "s3", "piqe", "ms_ssim_sources", "mef_ssim", "qabf", "viff"]
    assert names(None, False) == usual
    assert {*names("fast", False)} < {*usual} < {*names("all", False)}
    assert names("SD, ag,ms-ssim", False) == ["ag", "sd", "ms_ssim_sources"]
    assert "psnr" in names(None, True)
    assert "ag" not in names(None, True)
    assert "ag" in names("all", True)
    assert names("psnr", True) == ["psnr", "psnr_linear", "psnr_mu", "psnr_pq", "psnr_pu21"]
    assert names("psnr_mu", True) == ["psnr_mu"]


def test_all_metrics_have_values(hdrops, tmp_path):
    images = bracket(0, 161, 164)
    write_frames(tmp_path / "frames", images)
    write_image(tmp_path / "x.png", package.exposure_fusion(images[None])[0])
    code, _, stderr = hdrops("evaluate", tmp_path / "x.png", "--sources", tmp_path / "frames", "-o",
                             tmp_path / "r.html", "--metrics", "all")  # fmt: skip
    assert (code, stderr) == (0, "")
    ((_, values),) = table(tmp_path / "r.csv").items()
    assert list(values) == [metric.name for metric in METRICS.values() if metric.needs != "reference"]
    assert all(map(math.isfinite, values.values()))


def test_metrics_that_a_picture_is_too_small_for(hdrops, tmp_path):
    for name, (height, width) in {"small": (64, 80), "large": (180, 200)}.items():
        write_frames(tmp_path / name, bracket(0, height, width))
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "in" / name)
        (tmp_path / "out").mkdir(exist_ok=True)
        write_image(tmp_path / "out" / f"{name}.png", bracket(0, height, width)[1])
    code, stdout, stderr = hdrops("evaluate", tmp_path / "out", "--sources", tmp_path / "in", "-o", tmp_path / "r.html",
                                  "--metrics", "ag,ms_ssim")  # fmt: skip
    assert code == 0
    assert stderr.startswith(f"warning: {tmp_path}/out/small.png: no MS-SSIM: ")
    assert stderr.count("\n") == 1
    values = table(tmp_path / "r.csv")
    assert {*values["small", "out"]} == {"ag"}
    assert f"MS-SSIM ↑ (1 of them)  {values['large', 'out']['ms_ssim_sources']:.4f}" in stdout


# ---- what goes wrong ----------------------------------------------------------------------------------------------


def _truncate(path):
    path.write_bytes(path.read_bytes()[:300])


def _nan(path):
    image_files.write(path.with_suffix(".exr"), np.full((64, 80, 3), np.nan, np.float32))
    path.unlink()


BROKEN = {
    "truncated": (_truncate, "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "another size": (lambda path: write_image(path, torch.zeros(3, 64, 81, dtype=torch.uint8)), "81 x 64"),
    "grey": (lambda path: write_image(path, torch.zeros(1, 64, 80, dtype=torch.uint8)), "grey"),
    "one pixel": (lambda path: write_image(path, torch.zeros(3, 1, 1, dtype=torch.uint8)), "1 x 1"),
    "NaN": (_nan, "NaN"),
    "no partner": (lambda path: path.rename(path.parent.parent / "nobody.png"), "no scene of this name"),
    "twice": (lambda path: write_image(path.parent.parent / "two.png", read_image(path).pixels), "same scene"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_result_does_not_stop_the_others(hdrops, album, name):
    spoil, words = BROKEN[name]
    spoil(album / "fused" / "two" / "0_fused.png")
    code, stdout, stderr = hdrops("evaluate", album / "fused", "--sources", album / "in", "-o", album / "r.html", *FEW)
    assert code == 1
    assert ", 1 failed, " in stdout
    failed = [line for line in stderr.splitlines() if not line.startswith("warning: ")]
    assert len(failed) == 1
    assert failed[0].startswith("failed: ")
    assert words in failed[0]
    assert ("a/one", "fused") in table(album / "r.csv")
    assert "failed: " in Page(album / "r.html").source


def _one_frame(folder):
    (folder / "1.png").unlink()
    (folder / "2.png").unlink()


def _one_pixel(folder):
    for k in range(3):
        write_image(folder / f"{k}.png", torch.full((3, 1, 1), 80 * k, dtype=torch.uint8))


def _light(folder):
    for k in range(3):
        image_files.write(folder / f"{k}.exr", np.full((64, 80, 3), 3.0 * k, np.float32))
        (folder / f"{k}.png").unlink()


BROKEN_SOURCES = {
    "truncated": (lambda folder: _truncate(folder / "1.png"), "truncated"),
    "another size": (lambda folder: write_image(folder / "1.png", torch.zeros(3, 9, 9, dtype=torch.uint8)), "9 x 9"),
    "one frame": (_one_frame, "only image"),
    "one pixel": (_one_pixel, "1 x 1"),
    "not for display": (_light, "[0, 1]"),
}


@pytest.mark.parametrize("name", BROKEN_SOURCES)
def test_a_bad_bracket_does_not_stop_the_others(hdrops, album, name):
    spoil, words = BROKEN_SOURCES[name]
    (album / "fused" / "two" / "0_fused.png").rename(album / "fused" / "two.png")
    spoil(album / "in" / "two")
    code, _, stderr = hdrops("evaluate", album / "fused", "--sources", album / "in", "-o", album / "r.html", *FEW)
    assert code == 1
    assert stderr.startswith("failed: two: ")
    assert stderr.count("\n") == 1
    assert words in stderr
    assert list(table(album / "r.csv")) == [("a/one", "fused")]


def test_nothing_to_compute_is_one_line_with_the_reason(hdrops, tmp_path):
    """Too small a picture, and one that is positive only where its reference is not."""
    write_frames(tmp_path / "in", bracket(0, 24, 32))
    write_image(tmp_path / "x.png", bracket(0, 24, 32)[1])
    code, _, stderr = hdrops("evaluate", tmp_path / "x.png", "--sources", tmp_path / "in", "-o", tmp_path / "r.html",
                             "--metrics", "ms_ssim,viff")  # fmt: skip
    assert code == 2
    assert stderr.count("\n") == 1
    assert stderr.startswith(f"failed: {tmp_path}/x.png: nothing can be computed of it: ")
    assert "pixels" in stderr
    light = torch.zeros(3, 24, 32)
    light[:, :12] = 1
    write_image(tmp_path / "truth.exr", light)
    write_image(tmp_path / "result.exr", 1 - light)
    code, _, stderr = hdrops("evaluate", tmp_path / "result.exr", "--reference", tmp_path / "truth.exr", "-o",
                             tmp_path / "r.html", "--correct", "exposure", "--metrics", "psnr")  # fmt: skip
    assert code == 2
    reason = "the picture has no samples to match: none are positive in both it and its reference"
    assert stderr == f"failed: {tmp_path}/result.exr: nothing can be computed of it: {reason}\n"


def test_codes_are_not_compared_with_linear_light(hdrops, references):
    (references / "near" / "y_fused.png").unlink()
    write_image(references / "near" / "y.exr", torch.rand(3, 180, 200))
    code, _, stderr = hdrops("evaluate", references / "near", "--reference", references / "truth", "-o",
                             references / "r.html", "--metrics", "psnr")  # fmt: skip
    assert code == 1
    assert "is float, but" in stderr


def test_lack_of_memory_fails_one_scene_only(hdrops, album, monkeypatch):
    measure = metrics.average_gradient
    calls = []

    def exhausted(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise MemoryError("std::bad_alloc")
        return measure(*args, **options)

    monkeypatch.setattr("hdrops.metrics.average_gradient", exhausted)
    arguments = ("evaluate", album / "fused", "--sources", album / "in", "-o", album / "r.html", "--jobs", 1)
    code, _, stderr = hdrops(*arguments, *FEW)
    assert code == 1
    assert stderr.startswith("failed: a/one: the images do not fit into memory")
    assert list(table(album / "r.csv")) == [("two", "fused")]


def test_bugs_are_not_taken_for_bad_input(hdrops, album, monkeypatch):
    def broken(*_args, **_options):
        raise AssertionError("a bug")

    monkeypatch.setattr("hdrops.metrics.average_gradient", broken)
    with pytest.raises(AssertionError, match="a bug"):
        hdrops("evaluate", album / "fused", "--sources", album / "in", "-o", album / "r.html", *FEW)
    assert not (album / "r.html").exists()


def test_big_scenes_wait_for_one_another():
    from hdrops_cli.evaluate import _Room

    room = _Room(10)
    with room.taken(4), room.taken(6):
        assert room._used == 10
    with room.taken(1000):  # what exceeds the room goes alone
        assert room._used == 1000
    assert room._used == 0


def test_tables_of_others_stay(hdrops, album):
    """A table is replaced where an evaluation has written it, its report being beside it."""
    arguments = ("evaluate", album / "fused", "--sources", album / "in", "-o", album / "r.html", *FEW)
    path = album / "r.csv"
    path.write_text("name,age\nx,3\n")
    for own, words in ((False, "other columns"), (True, "no report r.html beside it")):
        before = path.read_bytes()
        code, stdout, stderr = hdrops(*arguments)
        assert (code, stdout) == (2, "")
        assert stderr.startswith(f"error: {path} would be replaced, but ")
        assert stderr.count("\n") == 1
        assert words in stderr
        assert path.read_bytes() == before
        if not own:
            path.unlink()
            assert hdrops(*arguments).code == 0
            assert hdrops(*arguments).code == 0
            (album / "r.html").unlink()
    (album / "r.html").write_text("")
    path.write_text("name,age\nx,3\n")
    assert hdrops(*arguments).code == 2


def test_nothing_is_written_unless_all_is_made(hdrops, album, monkeypatch):
    def broken(*_args):
        raise AssertionError("a bug")

    monkeypatch.setattr("hdrops_cli.evaluate_report.page", broken)
    before = sorted(album.rglob("*"))
    with pytest.raises(AssertionError, match="a bug"):
        hdrops("evaluate", album / "fused", "--sources", album / "in", "-o", album / "r.html", *FEW)
    assert sorted(album.rglob("*")) == before


def test_nothing_evaluated(hdrops, album):
    for path in (album / "fused").rglob("*.png"):
        _truncate(path)
    (album / "r.html").write_text("old")
    code, stdout, stderr = hdrops("evaluate", album / "fused", "--sources", album / "in", "-o", album / "r.html", *FEW)
    assert code == 2
    assert stdout.startswith("0 scenes, 1 method, 0 metrics, 2 failed, ")
    assert "nothing written" in stdout
    assert stderr.count("\n") == 2
    assert (album / "r.html").read_text() == "old"
    assert not (album / "r.csv").exists()


BAD = {
    "neither": (lambda t: [t / "fused", "-o", t / "r.html"], "neither"),
    "both": (lambda t: [t / "fused", "-o", t / "r.html", "--sources", t / "in", "--reference", t / "in"], "both"),
    "no result": (lambda t: [t / "none", "-o", t / "r.html", "--sources", t / "in"], "does not exist"),
    "no named result": (lambda t: [f"x={t}/none", "-o", t / "r.html", "--sources", t / "in"], "does not exist"),
    "no sources": (lambda t: [t / "fused", "-o", t / "r.html", "--sources", t / "none"], "no folder"),
    "no reference": (lambda t: [t / "fused", "-o", t / "r.html", "--reference", t / "none"], "does not exist"),
    "empty result": (lambda t: [t / "empty", "-o", t / "r.html", "--sources", t / "in"], "without images"),
    "empty sources": (lambda t: [t / "fused", "-o", t / "r.html", "--sources", t / "empty"], "without images"),
    "empty reference": (lambda t: [t / "fused", "-o", t / "r.html", "--reference", t / "empty"], "without images"),
    "same names": (lambda t: [t / "fused", t / "fused", "-o", t / "r.html", "--sources", t / "in"], "both named fused"),
    "ending": (lambda t: [t / "fused", "-o", t / "r.txt", "--sources", t / "in"], ".html"),
    "no place": (lambda t: [t / "fused", "-o", t / "none" / "r.html", "--sources", t / "in"], "cannot write"),
    "a folder": (lambda t: [t / "fused", "-o", t / "taken.html", "--sources", t / "in"], "a folder"),
    "a folder of values": (lambda t: [t / "fused", "-o", t / "values.html", "--sources", t / "in"], "a folder"),
    "metric": (lambda t: [t / "fused", "-o", t / "r.html", "--sources", t / "in", "--metrics", "ag,best"], "'best'"),
    "no metric": (lambda t: [t / "fused", "-o", t / "r.html", "--sources", t / "in", "--metrics", ""], "''"),
    "psnr": (lambda t: [t / "fused", "-o", t / "r.html", "--sources", t / "in", "--metrics", "psnr"], "--reference"),
    "qabf": (lambda t: [t / "fused", "-o", t / "r.html", "--reference", t / "in", "--metrics", "qabf"], "--sources"),
    "peak": (lambda t: [t / "fused", "-o", t / "r.html", "--sources", t / "in", "--display-peak", "nan"], "-peak"),
    "results as sources": (lambda t: [t / "dark", "-o", t / "r.html", "--sources", t / "dark"], "results themselves"),
    "no argument": (lambda t: ["-o", t / "r.html", "--sources", t / "in"], "--help"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(hdrops, album, name):
    (album / "empty").mkdir()
    (album / "taken.html").mkdir()
    (album / "values.csv").mkdir()
    make, words = BAD[name]
    before = sorted(album.rglob("*"))
    code, stdout, stderr = hdrops("evaluate", *make(album))
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert words in stderr
    assert sorted(album.rglob("*")) == before
