"""HDR-VDP-2, by the program that its authors publish, run in GNU Octave or MATLAB."""

from __future__ import annotations

import math
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hdrops.metrics import _pairs

ColorEncoding = Literal["luminance", "luma-display", "sRGB-display", "rgb-bt.709", "XYZ"]

_FOLDER_VARIABLE = "HDROPS_HDRVDP"
_INTERPRETERS = ("octave", "octave-cli", "matlab")
_SCRIPT = "hdrops_hdrvdp"
_ABSOLUTE = ("luminance", "rgb-bt.709", "XYZ")


class HdrVdpError(RuntimeError):
    """HDR-VDP could not be run, or gave no result. The message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def pixels_per_degree(width: int, height: int, diagonal: float = 24.0, distance: float = 0.5) -> float:
    """Pixels that one degree of the visual field holds, as HDR-VDP's ``hdrvdp_pix_per_deg`` has it.

    ::

        height_deg = 2 atan(height_m / (2 distance)),   result = height / height_deg

    Args:
        width: of the display in pixels, which are square.
        height: likewise.
        diagonal: of the display, in inches.
        distance: of the eye from it, in metres.

    Raises:
        ValueError: a size or distance that is not positive.
    """
    if not (width > 0 and height > 0 and diagonal > 0 and distance > 0):
        raise ValueError(
            f"a display needs positive sizes and a distance, got {width} x {height}, {diagonal} inches, {distance} m"
        )
    metres = diagonal * 0.0254 * height / math.hypot(width, height)
    return height / math.degrees(2 * math.atan(metres / (2 * distance)))


def hdr_vdp2(
    x: Any,
    y: Any,
    *,
    display_peak: float | None = None,
    color_encoding: ColorEncoding | None = None,
    diagonal: float = 24.0,
    distance: float = 0.5,
    resolution: tuple[int, int] | None = None,
    folder: str | os.PathLike[str] | None = None,
    program: str | os.PathLike[str] | None = None,
    timeout: float = 600.0,
) -> Tensor:
    """Quality Q of HDR-VDP-2 (Mantiuk, Kim, Rempel and Heidrich, SIGGRAPH 2011), 100 for the best, lower for worse.

    The published MATLAB code computes it; this function hands over the images and reads the result. It is made for
    version 2.2.2, from https://sourceforge.net/projects/hdrvdp/files/hdrvdp/2.2.2/: unpack it, and name its folder by
    ``folder`` or by the environment variable HDROPS_HDRVDP. **Q of different versions is not comparable** (in the
    earliest a lower one was better), nor is Q at different display sizes, distances or peaks. MATLAB needs the Image
    Processing Toolbox, Octave its package ``image``; Octave's ``ifft2`` does not take the argument ``'symmetric'``,
    which must be removed from ``fast_conv_fft.m`` and ``fast_gauss.m``.

    The defaults are the display of EMVNet, 24 inches at 0.5 m; it states neither encoding nor resolution. SAFNet's
    script has ``diagonal=28, distance=0.55, color_encoding="sRGB-display"`` and the image's resolution.

    Args:
        x: the images to judge (N, C, H, W), 1 or 3 channels: uint8, uint16 (scaled to [0, 1]) or floating point.
        y: the references, same shape.
        display_peak: luminance in cd/m² at which value 1 is shown; required for the absolute encodings "luminance",
            "rgb-bt.709" and "XYZ" (1 for images in cd/m²), refused for the others, whose display is fixed by HDR-VDP at
            100 cd/m². The program divides by luminance: reference values should be above 0.
        color_encoding: "rgb-bt.709" (linear; default for 3 channels), "luminance" (default for 1), "XYZ", or
            display-encoded values in [0, 1]: "sRGB-display", "luma-display".
        diagonal: of the display, in inches.
        distance: of the eye from it, in metres.
        resolution: of the display, (width, height) in pixels; by default that of the images.
        folder: the unpacked program, the folder that holds hdrvdp.m.
        program: the interpreter, by name or path; by default the first of octave, octave-cli and matlab on PATH. One
            whose name begins with "matlab" is called as MATLAB (R2019a or later), any other as Octave.
        timeout: seconds for all images together.

    Returns:
        (N,), float64, on the device of x. Without gradient.

    Raises:
        HdrVdpError: no interpreter, no program, a program that fails, takes too long or gives no number.
        TypeError, ValueError: images that do not fit together or to the encoding, an option out of range.
    """
    x, y = _pairs.checked(x, y)
    count, channels, height, width = x.shape
    if color_encoding is None:
        color_encoding = "luminance" if channels == 1 else "rgb-bt.709"
    if color_encoding not in get_args(ColorEncoding):
        raise ValueError(
            f"color_encoding must be one of {', '.join(map(repr, get_args(ColorEncoding)))}, got {color_encoding!r}"
        )
    expected = 1 if color_encoding.startswith("lum") else 3
    if channels != expected:
        raise ValueError(f"color_encoding={color_encoding!r} takes {expected} channels, got {channels}")
    pair = [_pairs.values(z.detach()) for z in (x, y)]
    if color_encoding in _ABSOLUTE:
        peak = _pairs.checked_peak(display_peak, f"color_encoding={color_encoding!r}")
        pair = [z * peak for z in pair]
    elif display_peak is not None:
        raise ValueError(
            f"display_peak has no part in color_encoding={color_encoding!r}, whose display is fixed; leave it out"
        )
    elif not all(bool(((z >= 0) & (z <= 1)).all()) for z in pair):
        raise ValueError(
            f"color_encoding={color_encoding!r} takes display values in [0, 1]; normalise the images first"
        )
    if not all(bool(z.isfinite().all()) for z in pair):
        raise ValueError("HDR-VDP takes finite values only; x or y holds NaN or infinity")
    display = resolution or (width, height)
    density = pixels_per_degree(display[0], display[1], diagonal, distance)
    if not timeout > 0:
        raise ValueError(f"timeout must be positive, got {timeout}")
    source, interpreter = _folder(folder), _interpreter(program)
    with tempfile.TemporaryDirectory(prefix="hdrops-hdrvdp-") as name:
        exchange = pathlib.Path(name)
        for image, stem in zip(pair, ("test", "reference"), strict=True):
            # Rows of pixels are columns of a MATLAB array: the script reads (W, H, C) and swaps the first two.
            for i in range(count):
                image[i].cpu().numpy().astype("<f8").tofile(exchange / f"{stem}_{i}.f64")
        script = _script(source, count, (width, height, channels), color_encoding, density)
        (exchange / f"{_SCRIPT}.m").write_text(script, encoding="utf-8")
        _run(interpreter, exchange, timeout)
        return torch.from_numpy(_result(exchange / "quality.txt", count)).to(x.device)


def _folder(folder: str | os.PathLike[str] | None) -> pathlib.Path:
    named = folder or os.environ.get(_FOLDER_VARIABLE)
    if not named:
        raise HdrVdpError(
            f"HDR-VDP-2 is missing: give folder=, or set {_FOLDER_VARIABLE}, to the unpacked hdrvdp-2.2.2 from "
            "https://sourceforge.net/projects/hdrvdp/files/hdrvdp/2.2.2/"
        )
    path = pathlib.Path(named).resolve()
    if not (path / "hdrvdp.m").is_file():
        raise HdrVdpError(f"HDR-VDP-2 is missing: {path} holds no hdrvdp.m; name the unpacked folder hdrvdp-2.2.2")
    return path


def _interpreter(program: str | os.PathLike[str] | None) -> str:
    candidates = _INTERPRETERS if program is None else (os.fspath(program),)
    found = next((path for path in map(shutil.which, candidates) if path), None)
    if found is None:
        raise HdrVdpError(
            f"no {' or '.join(candidates)} to run HDR-VDP-2 with; install GNU Octave and its package image, or MATLAB, "
            "and put it on PATH, or name it by program="
        )
    # It runs in another folder, and its name says what it is: absolute, but no link followed.
    return os.path.abspath(found)


def _script(source: pathlib.Path, count: int, shape: tuple[int, int, int], encoding: str, density: float) -> str:
    quoted = str(source).replace("'", "''")
    return f"""\
if exist('OCTAVE_VERSION', 'builtin')
  pkg('load', 'image');
end
addpath(genpath('{quoted}'));
stems = {{'test', 'reference'}};
images = cell(1, 2);
out = fopen('quality.txt', 'w');
for i = 0:{count - 1}
  for j = 1:2
    file = fopen(sprintf('%s_%d.f64', stems{{j}}, i), 'r', 'ieee-le');
    images{{j}} = permute(reshape(fread(file, Inf, 'double'), {list(shape)}), [2 1 3]);
    fclose(file);
  end
  result = hdrvdp(images{{1}}, images{{2}}, '{encoding}', {density!r});
  fprintf(out, '%.17g\\n', result.Q);
end
fclose(out);
"""


def _run(interpreter: str, exchange: pathlib.Path, timeout: float) -> None:
    name = pathlib.Path(interpreter).name
    if name.lower().startswith("matlab"):
        command = [interpreter, "-batch", _SCRIPT]
    else:
        command = [interpreter, "--no-gui", "--quiet", f"{_SCRIPT}.m"]
    try:
        # A session of its own: the launchers of both interpreters start further processes, which must end with them.
        process = subprocess.Popen(
            command,
            cwd=exchange,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise HdrVdpError(f"{interpreter} cannot be run: {error.strerror}") from error
    try:
        printed, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise HdrVdpError(f"HDR-VDP-2 took more than {timeout:g} s in {name}; raise timeout=") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        lines = printed.decode(errors="replace").split("\n")
        said = next((line for line in lines if "error" in line.lower()), lines[-1] or "nothing printed")
        raise HdrVdpError(f"HDR-VDP-2 failed in {name} (exit code {process.returncode}): {said[:300]}")


def _result(path: pathlib.Path, count: int) -> np.ndarray[Any, Any]:
    try:
        words = path.read_text(errors="replace").split()
    except FileNotFoundError:
        raise HdrVdpError("HDR-VDP-2 wrote no result, though its interpreter ended without an error") from None
    try:
        qualities = np.array([float(word) for word in words])
    except ValueError:
        qualities = np.array([])
    if len(qualities) != count:
        raise HdrVdpError(f"HDR-VDP-2 wrote {' '.join(words)[:100]!r} in place of {count} numbers")
    if not np.isfinite(qualities).all():
        worst = int(np.argmin(np.isfinite(qualities)))
        raise HdrVdpError(
            f"HDR-VDP-2 gave {qualities[worst]} for image {worst}; are there values of 0 in the reference?"
        )
    return qualities
