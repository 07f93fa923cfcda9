"""Bad input: exit code 2, one line on stderr, nothing written."""

import image_files
import numpy as np
import pytest
import raw_files
import torch

from hdrops.io import write_image


def _missing(frames, tmp_path):
    return [*frames, tmp_path / "missing.png"]


def _empty(frames, tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    return [*frames, path]


def _text(frames, tmp_path):
    path = tmp_path / "text.png"
    path.write_text("This is not an image.\n" * 50)
    return [*frames, path]


def _truncated(frames, tmp_path):
    path = tmp_path / "truncated.png"
    path.write_bytes(frames[0].read_bytes()[:-200])
    return [*frames, path]


def _bomb(frames, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(image_files.png(60_000, 60_000, bytes(1000), bits=1, colour=0))
    return [*frames, path]


def _not_finite(frames, tmp_path):
    path = tmp_path / "nan.exr"
    image_files.write(path, np.full((48, 72, 3), np.nan, np.float32))
    return [path, *frames]


def _truncated_raw(frames, tmp_path):
    path = tmp_path / "truncated.dng"
    path.write_bytes(raw_files.dng(np.zeros((48, 72), np.uint16))[:-100])
    return [path, *frames]


def _wrong_ending(frames, tmp_path):
    path = tmp_path / "text.nef"
    path.write_text("This is not an image.\n" * 50)
    return [path, *frames]


def _mixed_sizes(frames, tmp_path):
    path = tmp_path / "small.png"
    write_image(path, torch.zeros(3, 20, 30, dtype=torch.uint8))
    return [*frames, path]


def _mixed_bits(frames, tmp_path):
    path = tmp_path / "deep.png"
    write_image(path, torch.zeros(3, 48, 72, dtype=torch.uint16))
    return [*frames, path]


def _empty_folder(frames, tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return [path]


def _one_frame(frames, tmp_path):
    return [frames[0], "--method", "interpolate"]


def _too_few_times(frames, tmp_path):
    return [*frames, "--times", "1/60,1/15"]


def _times_garbage(frames, tmp_path):
    return [*frames, "--times", "1/60,fast,1/4"]


def _times_by_zero(frames, tmp_path):
    return [*frames, "--times", "1/0,1/60,1/4"]


def _times_negative(frames, tmp_path):
    return [*frames, "--times", "-1,1,2"]


def _times_not_finite(frames, tmp_path):
    return [*frames, "--times", "inf,1,2"]


def _times_overflow(frames, tmp_path):
    return [*frames, "--times", "1e999,1,2"]


def _times_huge_exponent(frames, tmp_path):
    return [*frames, "--times", "1e999999999,1,2"]


def _times_missing(frames, tmp_path):
    return [*frames, "--times", ""]


def _ev_garbage(frames, tmp_path):
    return [*frames, "--ev", "a,b,c"]


def _times_and_ev(frames, tmp_path):
    return [*frames, "--times", "1,2,3", "--ev", "0,1,2"]


BRACKETS = [value for name, value in list(globals().items()) if name.startswith("_") and callable(value)]


def _assert_refused(outcome, *words):
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    assert outcome.stderr.endswith("\n")
    for word in words:
        assert word in outcome.stderr


@pytest.mark.parametrize("make", BRACKETS, ids=lambda make: make.__name__[1:])
def test_bad_bracket(hdrops, tmp_path, frames8, make):
    target = tmp_path / "target"
    target.mkdir()
    _assert_refused(hdrops("fuse", *make(frames8, tmp_path), "-o", target / "out.png"))
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("name", ["out", "out.gif", "no/such/folder/out.png", "0.png/out.png"])
def test_target_that_cannot_be_written(hdrops, frames8, name):
    folder = frames8[0].parent
    before = sorted(folder.iterdir())
    _assert_refused(hdrops("fuse", *frames8, "-o", folder / name))
    assert sorted(folder.iterdir()) == before


def test_target_is_a_folder(hdrops, tmp_path, frames8):
    folder = tmp_path / "out.png"
    folder.mkdir()
    _assert_refused(hdrops("fuse", *frames8, "-o", folder))


def test_sixteen_bits_do_not_go_into_a_jpeg(hdrops, tmp_path, frames16):
    _assert_refused(hdrops("fuse", *frames16, "-o", tmp_path / "out.jpg"), "16-bit", ".png")
    assert not (tmp_path / "out.jpg").exists()


def test_codes_do_not_go_into_linear_formats(hdrops, tmp_path, frames8):
    _assert_refused(hdrops("fuse", *frames8, "-o", tmp_path / "out.exr"), ".png")


@pytest.mark.parametrize("link", [False, True])
def test_target_is_an_input(hdrops, tmp_path, frames8, link):
    target = frames8[1]
    if link:
        target = tmp_path / "link.png"
        target.symlink_to(frames8[1])
    before = frames8[1].read_bytes()
    _assert_refused(hdrops("fuse", *frames8, "-o", target), "one of the inputs")
    assert frames8[1].read_bytes() == before


@pytest.mark.parametrize("value", [1.5, -0.25])
def test_float_frames_outside_the_unit_range(hdrops, tmp_path, frames_float, value):
    image = torch.full((3, 48, 72), 0.5)
    image[1, 3, 4] = value
    write_image(frames_float[1], image)
    outcome = hdrops("fuse", *frames_float, "-o", tmp_path / "out.exr")
    _assert_refused(outcome, str(frames_float[1]), f"{value:g}", "[0, 1]")
    assert not (tmp_path / "out.exr").exists()


def test_float_frames_do_not_go_into_codes(hdrops, tmp_path, frames_float):
    _assert_refused(hdrops("fuse", *frames_float, "-o", tmp_path / "out.png"), ".exr")


def test_interpolate_refuses_a_folder(hdrops, tmp_path, frames8):
    _assert_refused(hdrops("interpolate", frames8[0].parent, frames8[0], "-o", tmp_path / "out.png"))


def test_debug_adds_the_traceback(hdrops, tmp_path):
    arguments = ("fuse", tmp_path / "missing.png", "-o", tmp_path / "out.png")
    assert "Traceback" not in hdrops(*arguments).stderr
    code, _, stderr = hdrops(*arguments, "--debug")
    assert code == 2
    assert "Traceback" in stderr
    assert stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fuse",), "images"),
        (("fuse", "a.png"), "--out"),
        (("fuse", "a.png", "-o", "b.png", "--method", "best"), "best"),
        (("fuse", "a.png", "-o", "b.png", "--quality", "101"), "--quality"),
        (("fuse", "a.png", "-o", "b.png", "--contrast", "inf"), "--contrast"),
        (("fuse", "a.png", "-o", "b.png", "--saturation", "nan"), "--saturation"),
        (("interpolate", "a.png", "-o", "b.png"), "bright"),
        (("interpolate", "a.png", "b.png", "c.png", "-o", "d.png"), "c.png"),
        (("sample", "--nothing", "x"), "--nothing"),
        (("wrong",), "wrong"),
    ],
)
def test_usage_errors_are_one_line_and_exit_with_2(hdrops, arguments, says):
    code, stdout, stderr = hdrops(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert says in stderr
    assert "--help" in stderr


def test_interrupt_exits_with_130(hdrops, tmp_path, frames8, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hdrops.io.write_image", interrupted)
    code, _, stderr = hdrops("fuse", *frames8, "-o", tmp_path / "out.png")
    assert code == 130
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_out_of_memory_is_one_line(hdrops, tmp_path, frames8, monkeypatch, error):
    def exhausted(*_args, **_options):
        raise error

    monkeypatch.setattr("hdrops.exposure_fusion", exhausted)
    _assert_refused(hdrops("fuse", *frames8, "-o", tmp_path / "out.png"), "do not fit into memory")


@pytest.mark.parametrize("kind", [AssertionError, ValueError, TypeError, RuntimeError])
def test_bugs_are_not_taken_for_bad_input(hdrops, tmp_path, frames8, monkeypatch, kind):
    def broken(*_args, **_options):
        raise kind("a bug")

    monkeypatch.setattr("hdrops.io.write_image", broken)
    with pytest.raises(kind, match="a bug"):
        hdrops("fuse", *frames8, "-o", tmp_path / "out.png")
