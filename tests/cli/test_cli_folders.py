"""hdrops fuse --recursive."""

import shutil

import pytest
import shots
import torch
from photographs import photographs, real_brackets

import hdrops as package
from hdrops.io import read_bracket, read_image

AEB = {0: 1 / 100, -2: 1 / 400, 2: 1 / 25}


def shoot(folder, scene=0, *, at=None, name="{}.jpg", first=0, times=AEB, **options):
    """Write a bracket in the order of a camera; the paths."""
    return [
        shots.write(
            folder / name.format(first + k), scene, stops, time=time, at=None if at is None else at + k, **options
        )
        for k, (stops, time) in enumerate(times.items())
    ]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def album(tmp_path):
    """Three brackets in two folders, and a stray image."""
    folder = tmp_path / "album"
    shoot(folder, 0, at=0)
    shoot(folder, 1, at=100, first=3)
    shots.write(folder / "sub" / "stray.jpg", 5, time=1 / 60, at=900)
    shoot(folder / "sub", 2, times=dict.fromkeys(AEB))
    return folder


def test_every_bracket_is_fused(hdrops, tmp_path, album):
    out = tmp_path / "new" / "out"
    code, stdout, stderr = hdrops("fuse", album, "--recursive", "-o", out)
    assert code == 0
    assert stdout.startswith("3 fused, 1 skipped, ")
    assert stdout.count("\n") == 1
    assert stderr.startswith(f"skipped: {album}/sub/stray.jpg: a single image")
    assert stderr.count("\n") == 1
    assert files(out) == ["0_fused.png", "3_fused.png", "sub/0_fused.png"]
    for first, folder in ((0, album), (3, album), (0, album / "sub")):
        bracket = read_bracket([folder / f"{first + k}.jpg" for k in range(3)])
        result = read_image(out / folder.relative_to(album) / f"{first}_fused.png").pixels
        assert torch.equal(result, package.exposure_fusion(bracket.images[None])[0])


def test_results_carry_the_camera(hdrops, tmp_path):
    shoot(tmp_path / "in", at=0, Make="Maker", Model="Camera 1")
    assert hdrops("fuse", tmp_path / "in", "--recursive", "-o", tmp_path / "out").code == 0
    result = read_image(tmp_path / "out" / "0_fused.png")
    assert (result.metadata.make, result.metadata.model, result.exposure.time) == ("Maker", "Camera 1", None)


def test_sixteen_bits_stay_sixteen_bits_and_formats_can_be_chosen(hdrops, tmp_path):
    for k in range(3):
        pixels = (shots.picture(0, k - 1).int() * 257).to(torch.uint16)
        shots.write(tmp_path / "in" / f"{k}.tif", pixels=pixels)
    for options, name in (((), "0_fused.png"), (("--format", "tif", "--suffix", "-hdr"), "0-hdr.tif")):
        out = tmp_path / name
        assert hdrops("fuse", tmp_path / "in", "-r", "-o", out, *options).code == 0
        assert files(out) == [name]
        assert read_image(out / name).bits == 16
    code, _, stderr = hdrops("fuse", tmp_path / "in", "-r", "-o", tmp_path / "jpg", "--format", "jpg")
    assert code == 2
    assert "failed: " in stderr
    assert "16-bit" in stderr


def test_options_reach_the_operator(hdrops, tmp_path):
    paths = shoot(tmp_path / "in")
    options = ("--contrast", 0, "--saturation", 2, "--exposedness", 0.5, "--method", "interpolate", "--imf-only")
    assert hdrops("fuse", tmp_path / "in", "-r", "-o", tmp_path / "out", *options).code == 0
    assert hdrops("fuse", *paths, "-o", tmp_path / "one.png", *options).code == 0
    assert (tmp_path / "out" / "0_fused.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_several_folders(hdrops, tmp_path):
    shoot(tmp_path / "a")
    shoot(tmp_path / "b")
    assert hdrops("fuse", tmp_path / "a", tmp_path / "b", "-r", "-o", tmp_path / "out").code == 0
    assert files(tmp_path / "out") == ["a/0_fused.png", "b/0_fused.png"]


def test_brackets_whose_results_would_share_a_name(hdrops, tmp_path):
    shoot(tmp_path / "in", 0)
    shoot(tmp_path / "in", 0, name="{}.tif")
    assert hdrops("fuse", tmp_path / "in", "-r", "-o", tmp_path / "out").code == 0
    assert files(tmp_path / "out") == ["0_fused.png", "0_tif_fused.png"]


def test_results_are_not_taken_for_images(hdrops, album):
    out = album / "out"
    assert hdrops("fuse", album, "-r", "-o", out).code == 0
    before = files(out)
    code, stdout, stderr = hdrops("fuse", album, "-r", "-o", out)
    assert code == 0
    assert stdout.startswith("0 fused, 3 kept, 1 skipped, ")
    assert "--force" in stderr
    assert files(out) == before


def test_existing_results_are_kept_without_force(hdrops, tmp_path, album):
    mine = tmp_path / "out" / "3_fused.png"
    mine.parent.mkdir()
    mine.write_text("mine")
    code, stdout, stderr = hdrops("fuse", album, "-r", "-o", tmp_path / "out")
    assert (code, mine.read_text()) == (0, "mine")
    assert stdout.startswith("2 fused, 1 kept, ")
    assert f"{mine} exists already" in stderr
    assert hdrops("fuse", album, "-r", "-o", tmp_path / "out", "--force").code == 0
    assert read_image(mine).bits == 8


def test_failures_are_listed_and_do_not_stop_the_run(hdrops, tmp_path, album):
    (album / "1.jpg").write_bytes((album / "1.jpg").read_bytes()[:300])
    (album / "sub" / "x.jpg").write_bytes(b"")
    out = tmp_path / "out"
    code, stdout, stderr = hdrops("fuse", album, "-r", "-o", out)
    assert code == 1
    assert stdout.startswith("2 fused, 1 skipped, 3 refused, ")
    lines = stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["refused", "refused", "skipped", "refused"]
    assert "1.jpg, which lies between its frames, cannot be read" in lines[0]
    assert "x.jpg is empty" in lines[3]
    assert files(out) == ["3_fused.png", "sub/0_fused.png"]


def test_results_that_cannot_be_written_are_failures(hdrops, tmp_path, album):
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").write_text("a file where a folder is needed")
    code, stdout, stderr = hdrops("fuse", album, "-r", "-o", out)
    assert (code, stdout[:17]) == (1, "2 fused, 1 skippe")
    assert f"failed: {album}/sub/0.jpg" in stderr
    assert "File exists" in stderr


def test_lack_of_memory_fails_one_bracket_only(hdrops, tmp_path, album, monkeypatch):
    fuse = package.exposure_fusion
    calls = []

    def exhausted(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise MemoryError("std::bad_alloc")
        return fuse(*args, **options)

    monkeypatch.setattr("hdrops.exposure_fusion", exhausted)
    code, stdout, stderr = hdrops("fuse", album, "-r", "-o", tmp_path / "out")
    assert (code, stdout[:25]) == (1, "2 fused, 1 skipped, 1 fai")
    assert "do not fit into memory" in stderr


def test_false_times_are_said(hdrops, tmp_path):
    shoot(tmp_path / "in", times=dict.fromkeys(AEB, 1 / 60))
    code, _, stderr = hdrops("fuse", tmp_path / "in", "-r", "-o", tmp_path / "out")
    assert code == 0
    assert stderr.startswith("warning: ")
    assert "contradict the brightness" in stderr
    assert stderr.count("\n") == 1
    code, stdout, stderr = hdrops("fuse", tmp_path / "in", "-o", tmp_path / "one.png")
    assert code == 0
    assert "by brightness" in stdout
    assert stderr.startswith("warning: the exposures in the files contradict the brightness")
    assert stderr.count("\n") == 1


# ---- dry run --------------------------------------------------------------------------------------


def rows(stdout):
    """Verdict, names and the remaining columns of each line."""
    heading, *lines = [line.split("\t") for line in stdout.splitlines()]
    assert heading == ["verdict", "images", "EV", "decided by", "result or reason", "files"]
    for line in lines:
        assert int(line[1]) == len(line[5:])
    return [(line[0], [name.rpartition("/")[2] for name in line[5:]], *line[2:5]) for line in lines]


def test_dry_run_prints_the_grouping_and_writes_nothing(hdrops, tmp_path, album):
    out = tmp_path / "out"
    code, stdout, stderr = hdrops("fuse", album, "-r", "-o", out, "--dry-run")
    assert code == 0
    assert stderr == "3 to fuse, 1 skipped\n"
    assert not out.exists()
    first, second, third, stray = rows(stdout)
    assert first == ("bracket", ["0.jpg", "1.jpg", "2.jpg"], "0 -2.0 +2.0", "time, exif", f"{out}/0_fused.png")
    assert second[:2] == ("bracket", ["3.jpg", "4.jpg", "5.jpg"])
    assert third[:2] == ("bracket", ["0.jpg", "1.jpg", "2.jpg"])
    assert third[3:] == ("name, brightness", f"{out}/sub/0_fused.png")
    assert stray[:2] == ("skipped", ["stray.jpg"])


def test_dry_run_in_a_terminal(hdrops, tmp_path, album, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    shots.write(album / "sub" / "[bold]odd\n.jpg", 7, time=1, at=9999)
    code, stdout, stderr = hdrops("fuse", album, "-r", "-o", tmp_path / "out", "--dry-run")
    assert code == 0
    assert "reading" in stderr  # the progress bar
    for words in ("0.jpg … 2.jpg", "sub/stray.jpg", "sub/0_fused.png", "sub/[bold]odd?.jpg", "a single image"):
        assert words in stdout


def test_dry_run_says_what_the_run_does(hdrops, tmp_path, album):
    (album / "4.jpg").write_bytes(b"")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0_fused.png").touch()
    code, stdout, _ = hdrops("fuse", album, "-r", "-o", tmp_path / "out", "--dry-run")
    assert code == 1
    assert "0_fused.png (exists and is kept)" in stdout
    assert [line[0] for line in rows(stdout)] == ["bracket", "refused", "refused", "bracket", "skipped"]
    assert hdrops("fuse", album, "-r", "-o", tmp_path / "out").code == 1


# ---- stated sets ----------------------------------------------------------------------------------


def test_sets_by_number(hdrops, tmp_path):
    for k in range(5):
        shots.write(tmp_path / "in" / f"{k}.jpg", 0, k % 2)
    code, stdout, stderr = hdrops("fuse", tmp_path / "in", "-r", "-o", tmp_path / "out", "--per-set", 2)
    assert code == 1
    assert stdout.startswith("2 fused, 1 refused")
    assert "4.jpg: left over of 5 files in sets of 2" in stderr
    assert files(tmp_path / "out") == ["0_fused.png", "2_fused.png"]


@pytest.mark.parametrize("stated", [("--times", "1/100,1/400,1/25"), ("--ev", "0,-2,2")])
def test_stated_exposures_count_for_every_set(hdrops, tmp_path, stated):
    shoot(tmp_path / "in", 0, times=dict.fromkeys(AEB))
    shoot(tmp_path / "in", 1, times=dict.fromkeys(AEB, 0.5), first=3)
    arguments = ("fuse", tmp_path / "in", "-r", "-o", tmp_path / "out", *stated)
    dry = rows(hdrops(*arguments, "--dry-run").stdout)
    assert [line[:4] for line in dry] == [
        ("bracket", [f"{first + k}.jpg" for k in range(3)], "0 -2.0 +2.0", "count") for first in (0, 3)
    ]
    code, _, stderr = hdrops(*arguments)
    assert (code, stderr) == (0, "")
    one = tmp_path / "one.png"
    assert hdrops("fuse", *sorted((tmp_path / "in").iterdir())[:3], "-o", one, *stated).code == 0
    assert (tmp_path / "out" / "0_fused.png").read_bytes() == one.read_bytes()


# ---- bad input ------------------------------------------------------------------------------------


def _outside_and_inside(tmp_path):
    return [tmp_path / "in", tmp_path / "in" / "sub", "-r", "-o", tmp_path / "out"]


def _same_names(tmp_path):
    shoot(tmp_path / "other" / "in")
    return [tmp_path / "in", tmp_path / "other" / "in", "-r", "-o", tmp_path / "out"]


BAD = {
    "file": lambda t: [t / "in" / "0.jpg", "-r", "-o", t / "out"],
    "missing": lambda t: [t / "none", "-r", "-o", t / "out"],
    "no images": lambda t: [t / "empty", "-r", "-o", t / "out"],
    "result is a file": lambda t: [t / "in", "-r", "-o", t / "file"],
    "result is the folder": lambda t: [t / "in", "-r", "-o", t / "in"],
    "result holds the folders": lambda t: [t / "in", t / "empty", "-r", "-o", t],
    "nested": _outside_and_inside,
    "same names": _same_names,
    "suffix": lambda t: [t / "in", "-r", "-o", t / "out", "--suffix", "a/b"],
    "per-set": lambda t: [t / "in", "-r", "-o", t / "out", "--per-set", 1],
    "both": lambda t: [t / "in", "-r", "-o", t / "out", "--times", "1,2", "--ev", "0,1"],
    "one time": lambda t: [t / "in", "-r", "-o", t / "out", "--times", "1"],
    "times and sets": lambda t: [t / "in", "-r", "-o", t / "out", "--times", "1,2", "--per-set", 3],
    "negative": lambda t: [t / "in", "-r", "-o", t / "out", "--times", "1,-2"],
    "ev": lambda t: [t / "in", "-r", "-o", t / "out", "--ev", "0,5000"],
    "text": lambda t: [t / "in", "-r", "-o", t / "out", "--ev", "0,x"],
    **{
        option[0]: lambda t, option=option: [t / "in", "-o", t / "out.png", *option]
        for option in (("--dry-run",), ("--per-set", 3), ("--suffix", "x"), ("--format", "png"), ("--force",))
    },
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(hdrops, tmp_path, name):
    shoot(tmp_path / "in")
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    arguments = BAD[name](tmp_path)
    before = files(tmp_path)
    code, stdout, stderr = hdrops("fuse", *arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert files(tmp_path) == before


def test_a_folder_without_brackets(hdrops, tmp_path):
    shots.write(tmp_path / "in" / "a.jpg", 0)
    code, stdout, stderr = hdrops("fuse", tmp_path / "in", "-r", "-o", tmp_path / "out")
    assert code == 2
    assert stdout.startswith("0 fused, 1 skipped")
    assert "no bracket was found" in stderr
    assert not (tmp_path / "out").exists()


def test_hidden_files_and_folders_are_left_out(hdrops, tmp_path):
    shoot(tmp_path / "in")
    shoot(tmp_path / "in" / ".trash", 3)
    shutil.copy(tmp_path / "in" / "0.jpg", tmp_path / "in" / ".9.jpg")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.jpg").symlink_to(tmp_path / "nothing")
    code, _, stderr = hdrops("fuse", tmp_path / "in", "-r", "-o", tmp_path / "out")
    assert (code, stderr) == (0, "")
    assert files(tmp_path / "out") == ["0_fused.png"]


def test_bugs_are_not_taken_for_failures(hdrops, tmp_path, monkeypatch):
    def broken(*_args, **_options):
        raise ValueError("a bug")

    shoot(tmp_path / "in")
    monkeypatch.setattr("hdrops.io.write_image", broken)
    with pytest.raises(ValueError, match="a bug"):
        hdrops("fuse", tmp_path / "in", "-r", "-o", tmp_path / "out")


# ---- real photographs -----------------------------------------------------------------------------


def small(source, step):
    return read_image(source).pixels[:, ::step, ::step].contiguous()


def test_real_folder(hdrops, tmp_path):
    """Mixed brackets in one folder: with and without EXIF, a set with false times, and a stray image."""
    data, brackets = photographs(), real_brackets()
    folder = tmp_path / "in"
    expected = []

    def add(prefix, name, *, keep=False, times=None, at=None, step=1):
        entry = brackets[f"brackets/{name}"]
        paths = []
        for k, file in enumerate(entry["files"]):
            source = data / entry["dir"] / file
            path = folder / f"{prefix}_{file}"
            if keep:
                path.parent.mkdir(exist_ok=True)
                shutil.copyfile(source, path)
            else:
                shots.write(
                    path,
                    pixels=small(source, step),
                    time=times and times[k],
                    at=None if at is None else at + k,
                )
            paths.append(path.name)
        return paths

    expected.append(("exif", add("a", "misc/villa", keep=True)))
    expected.append(("exif", add("b", "misc/livingroom", keep=True)))
    expected.append(("exif", add("c", "misc/treyratcliff", keep=True)))
    expected.append(("brightness", add("d", "iccv17/seq_00", step=2)))
    expected.append(("brightness", add("e", "iccv17/seq_10", step=2)))
    expected.append(("brightness", add("f", "fairchild/507")))
    false_times = brackets["brackets/false_times/living_room2"]["exposure_times"]
    expected.append(("exif", add("g", "false_times/living_room2", times=false_times, at=0, step=2)))
    expected.append(("brightness", add("h", "dynamic/sculpturegardensequence", times=[0.05] * 5, at=500, step=2)))
    shots.write(folder / "stray.jpg", pixels=small(data / "brackets/iccv17/seq_13/00.jpg", 2))
    add("z", "timed/taipei")  # its darkest frames have nothing in common

    out = tmp_path / "out"
    code, stdout, stderr = hdrops("fuse", folder, "-r", "-o", out, "--dry-run")
    assert code == 1
    found = rows(stdout)
    brackets_found = [(line[3].partition(", ")[2], sorted(line[1])) for line in found if line[0] == "bracket"]
    assert brackets_found == [(evidence, sorted(names)) for evidence, names in expected]
    assert [line[1] for line in found if line[0] == "skipped"] == [["stray.jpg"]]
    ((_, refused, *_, reason),) = (line for line in found if line[0] == "refused")
    assert len(refused) == 10
    assert "it is unclear whether" in reason
    assert "--per-set" in reason
    warned = [line for line in stderr.splitlines() if line.startswith("warning: ")]
    assert ["g_00.png" in line or "h_00.png" in line for line in warned] == [True, True]
    assert all("contradict the brightness" in line for line in warned)

    code, stdout, stderr = hdrops("fuse", folder, "-r", "-o", out)
    assert code == 1
    assert stdout.startswith("8 fused, 1 skipped, 1 refused, ")
    assert [line for line in stderr.splitlines() if line.startswith("warning: ")] == warned
    assert len(files(out)) == len(expected)
