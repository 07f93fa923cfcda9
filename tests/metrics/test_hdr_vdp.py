"""The adapter of HDR-VDP-2, with an interpreter that only pretends, and with GNU Octave where it is installed."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from hdrops import metrics

# What the pretended interpreter does: notes how it was called and what it was given, and answers with given lines.
PRETENDED = """\
#!{python}
import json, pathlib, sys
files = {{path.name: len(path.read_bytes()) for path in pathlib.Path().iterdir()}}
script = pathlib.Path("hdrops_hdrvdp.m").read_text()
test = [list(pathlib.Path(name).read_bytes()) for name in sorted(files) if name.startswith("test")]
note = dict(arguments=sys.argv[1:], files=files, script=script, test=test, folder=str(pathlib.Path().resolve()))
pathlib.Path({note!r}).write_text(json.dumps(note))
{action}
"""


class Interpreter:
    """An executable named like an interpreter, alone on PATH."""

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.note_file = folder / "bin", folder / "note.json"
        self.folder.mkdir()
        self.program = folder / "hdrvdp-2.2.2"
        self.program.mkdir()
        (self.program / "hdrvdp.m").write_text("")
        monkeypatch.setenv("PATH", str(self.folder))
        monkeypatch.setenv("HDROPS_HDRVDP", str(self.program))

    def install(self, action: str, name: str = "octave") -> pathlib.Path:
        file = self.folder / name
        file.write_text(PRETENDED.format(python=sys.executable, note=str(self.note_file), action=action))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return file

    def answer(self, text: str, name: str = "octave") -> pathlib.Path:
        return self.install(f"pathlib.Path('quality.txt').write_text({text!r})", name)

    @property
    def note(self) -> dict:
        return json.loads(self.note_file.read_text())


@pytest.fixture
def interpreter(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Interpreter:
    return Interpreter(tmp_path, monkeypatch)


def images(channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, channels, 4, 6, generator=generator, dtype=torch.float64)
    return x, y


def measure(channels: int = 3, **options: object) -> Tensor:
    x, y = images(channels)
    return metrics.hdr_vdp2(x, y, **{"display_peak": 100.0, **options})


# ---- what the program is given -------------------------------------------------------------------------------------


def test_result_is_read(interpreter: Interpreter) -> None:
    interpreter.answer("66.25\n-3.5e-1\n")
    result = measure()
    assert result.tolist() == [66.25, -0.35]
    assert result.dtype == torch.float64


def test_call(interpreter: Interpreter) -> None:
    interpreter.answer("1\n2\n")
    measure()
    note = interpreter.note
    assert note["arguments"] == ["--no-gui", "--quiet", "hdrops_hdrvdp.m"]
    sizes = {f"{stem}_{i}.f64": 3 * 4 * 6 * 8 for stem in ("test", "reference") for i in range(2)}
    assert {name: size for name, size in note["files"].items() if name.endswith(".f64")} == sizes
    assert f"addpath(genpath('{interpreter.program}'));" in note["script"]
    assert "for i = 0:1" in note["script"]
    assert "[6, 4, 3]), [2 1 3])" in note["script"]
    assert not pathlib.Path(note["folder"]).exists(), "the folder of exchange stays behind"


def test_pixels_are_absolute_and_exact(interpreter: Interpreter) -> None:
    interpreter.answer("1\n2\n")
    measure(display_peak=250.0)
    given = [np.frombuffer(bytes(data), "<f8").reshape(3, 4, 6) for data in interpreter.note["test"]]
    assert np.array_equal(np.stack(given), (images()[0] * 250.0).numpy())


def test_codes_are_scaled(interpreter: Interpreter) -> None:
    interpreter.answer("1\n")
    x = torch.full((1, 1, 2, 2), 51, dtype=torch.uint8)
    metrics.hdr_vdp2(x, x, color_encoding="luma-display")
    assert np.frombuffer(bytes(interpreter.note["test"][0]), "<f8").tolist() == [0.2] * 4


def called(interpreter: Interpreter) -> tuple[str, float]:
    found = re.search(r"hdrvdp\(images\{1\}, images\{2\}, '([^']+)', ([^)]+)\)", interpreter.note["script"])
    return found[1], float(found[2])


def test_display_and_encoding(interpreter: Interpreter) -> None:
    """The default is EMVNet's display with the image's resolution; SAFNet's has other numbers and an encoding."""
    interpreter.answer("1\n2\n")
    measure()
    assert called(interpreter) == ("rgb-bt.709", metrics.pixels_per_degree(6, 4, 24, 0.5))
    measure(1)
    assert called(interpreter)[0] == "luminance"
    measure(display_peak=None, color_encoding="sRGB-display", diagonal=28, distance=0.55)
    assert called(interpreter) == ("sRGB-display", metrics.pixels_per_degree(6, 4, 28, 0.55))
    measure(resolution=(1920, 1200))
    assert called(interpreter)[1] == metrics.pixels_per_degree(1920, 1200)


def test_pixels_per_degree() -> None:
    """24 inches of 1920 x 1200 seen from 0.5 m, and a display as high as twice its distance, which spans 90 degrees."""
    height = 24 * 0.0254 * 1200 / math.hypot(1920, 1200)
    assert metrics.pixels_per_degree(1920, 1200, 24, 0.5) == pytest.approx(
        1200 / (2 * math.degrees(math.atan(height / 2 / 0.5)))
    )
    assert metrics.pixels_per_degree(1, 900, math.hypot(1, 900) / 900 / 0.0254, 0.5) == pytest.approx(10)
    with pytest.raises(ValueError, match="positive sizes"):
        metrics.pixels_per_degree(0, 10)


def test_matlab(interpreter: Interpreter) -> None:
    interpreter.answer("1\n2\n", "matlab")
    measure()
    assert interpreter.note["arguments"] == ["-batch", "hdrops_hdrvdp"]


def test_octave_goes_before_matlab(interpreter: Interpreter) -> None:
    interpreter.answer("1\n2\n", "matlab")
    interpreter.answer("3\n4\n", "octave-cli")
    assert measure().tolist() == [3, 4]
    assert measure(program="matlab").tolist() == [1, 2]
    assert measure(program=interpreter.folder / "octave-cli").tolist() == [3, 4]


def test_interpreter_beside_the_user(interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is meant from where the user is, not from where the interpreter runs."""
    interpreter.answer("5\n6\n", "my-octave")
    monkeypatch.chdir(interpreter.folder)
    assert measure(program="./my-octave").tolist() == [5, 6]


def test_folder_with_a_quote(interpreter: Interpreter, tmp_path: pathlib.Path) -> None:
    interpreter.answer("1\n2\n")
    folder = tmp_path / "it's here"
    shutil.copytree(interpreter.program, folder)
    measure(folder=folder)
    assert "it''s here'));" in interpreter.note["script"]


# ---- what can go wrong ---------------------------------------------------------------------------------------------


def refused(message: str, **options: object) -> None:
    with pytest.raises(metrics.HdrVdpError, match=message) as caught:
        measure(**options)
    assert isinstance(caught.value, RuntimeError)
    assert "\n" not in str(caught.value)


def test_no_interpreter(interpreter: Interpreter) -> None:
    refused("no octave or octave-cli or matlab to run HDR-VDP-2 with; install GNU Octave")
    refused("no octave-11 to run", program="octave-11")


def test_no_program(interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    interpreter.answer("1\n2\n")
    refused("holds no hdrvdp.m", folder=tmp_path)
    monkeypatch.delenv("HDROPS_HDRVDP")
    refused("give folder=, or set HDROPS_HDRVDP.*sourceforge.net/projects/hdrvdp")
    assert not interpreter.note_file.exists()


def test_failing_program(interpreter: Interpreter) -> None:
    interpreter.install("print('starting'); print('error: matlabPyrTools not found'); print('bye'); sys.exit(3)")
    refused(r"failed in octave \(exit code 3\): error: matlabPyrTools not found")
    interpreter.install("sys.exit(1)")
    refused(r"failed in octave \(exit code 1\): nothing printed")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "wrote '' in place of 2 numbers"),
        ("1\n", "wrote '1' in place of 2 numbers"),
        ("1\n2\n3\n", "in place of 2 numbers"),
        ("high quality", "wrote 'high quality' in place of 2 numbers"),
        ("\\x00\\xff" * 9, "in place of 2 numbers"),
        ("1\nNaN\n", "gave nan for image 1"),
        ("inf\n1\n", "gave inf for image 0"),
    ],
)
def test_garbage(interpreter: Interpreter, answer: str, message: str) -> None:
    interpreter.answer(answer)
    refused(message)


def test_no_answer(interpreter: Interpreter) -> None:
    interpreter.install("pass")
    refused("wrote no result")


def test_not_executable(interpreter: Interpreter) -> None:
    file = interpreter.answer("1\n2\n")
    file.write_bytes(b"\x00\x01 no program")
    refused("cannot be run")


def test_time_out(interpreter: Interpreter, tmp_path: pathlib.Path) -> None:
    """The interpreter ends, and so does what it started."""
    child = tmp_path / "child.pid"
    interpreter.install(
        "import subprocess, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)"
    )
    begin = time.monotonic()
    refused("took more than 2 s in octave; raise timeout=", timeout=2.0)
    assert time.monotonic() - begin < 30
    pid = int(child.read_text())
    for _ in range(100):
        state = pathlib.Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("what the interpreter started runs on")


def test_wrong_arguments(interpreter: Interpreter) -> None:
    interpreter.answer("1\n2\n")
    x, y = images()
    for options, message in (
        ({"display_peak": None}, "give display_peak"),
        ({"color_encoding": "BT.2020"}, "color_encoding must be one of"),
        ({"color_encoding": "luminance"}, "takes 1 channels, got 3"),
        ({"color_encoding": "sRGB-display"}, "has no part"),
        ({"distance": 0.0}, "positive sizes"),
        ({"timeout": 0.0}, "timeout must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(**options)
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        metrics.hdr_vdp2(2 * x, y, color_encoding="sRGB-display")
    with pytest.raises(ValueError, match="finite values only"):
        metrics.hdr_vdp2(x / 0, y, display_peak=1)
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.hdr_vdp2(x, y[:1], display_peak=1)
    assert not interpreter.note_file.exists()


def test_script_in_octave(tmp_path: pathlib.Path) -> None:
    """The script runs in the real interpreter, and every pixel arrives where it belongs."""
    octave = shutil.which("octave") or shutil.which("octave-cli")
    if octave is None:
        pytest.skip("GNU Octave is not installed")
    if subprocess.run([octave, "--no-gui", "--quiet", "--eval", "pkg load image"], capture_output=True).returncode:
        pytest.skip("GNU Octave has no package image")
    folder = tmp_path / "it's here"
    folder.mkdir()
    (folder / "hdrvdp.m").write_text(
        "function result = hdrvdp(test, reference, encoding, density)\n"
        "  weights = reshape(1:numel(test), size(test));\n"
        "  result.Q = sum((weights .* (test - 2 * reference))(:)) + numel(encoding) + density;\n"
        "end\n"
    )
    x, y = images()
    result = metrics.hdr_vdp2(x, y, display_peak=3.0, folder=folder, program=octave)
    # MATLAB counts down the columns, then along the rows, then over the channels.
    weights = torch.arange(1, 73, dtype=torch.float64).view(3, 6, 4).mT
    expected = (weights * 3 * (x - 2 * y)).sum((1, 2, 3)) + len("rgb-bt.709") + metrics.pixels_per_degree(6, 4)
    assert torch.allclose(result, expected, rtol=1e-12)
