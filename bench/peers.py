"""What a user would run instead of hdrops, each in its best configuration.

Look-up tables of peers are made before the clock starts and hold products of weight and value, so that a
peer does the least arithmetic; hdrops makes its own inside the timed call. Temporaries of NumPy and OpenCV
are allocated beforehand.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.util
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timing import Candidate, Peer, Unavailable
from torch import Tensor

from hdrops.reference.imf import specify

FULL = {torch.uint8: 255, torch.uint16: 65535}
STRIP_PIXELS = 32768
Array = NDArray[Any]


# ---- threads, strips, compilation ----------------------------------------------------------------


def thread_choices() -> list[int]:
    return sorted({1, torch.get_num_threads()})


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads)


def in_strips(work: Callable[[slice], None], height: int, width: int, threads: int) -> None:
    """``work`` on strips of rows that fit in the cache, shared by threads."""
    rows = max(1, STRIP_PIXELS // width)
    strips = [slice(y, min(y + rows, height)) for y in range(0, height, rows)]
    if threads == 1:
        for strip in strips:
            work(strip)
        return

    def share(first: int) -> None:
        for strip in strips[first::threads]:
            work(strip)

    list(_pool(threads).map(share, range(threads)))


class Scratch(threading.local):
    """Buffers that each thread allocates once."""

    def __init__(self) -> None:
        self.buffers: dict[Any, Array] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        key = (name, shape, np.dtype(dtype))
        if key not in self.buffers:
            self.buffers[key] = np.zeros(shape, dtype)
        return self.buffers[key]


def compiled(function: Callable[..., Any], device: str, fullgraph: bool = True) -> Callable[..., Any]:
    """``torch.compile`` for one shape; without a compiler the candidate is unavailable."""
    if device == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return _unavailable("torch.compile needs a C++ compiler, none is on PATH")
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return _unavailable("torch.compile needs triton, which is not installed")
    return torch.compile(function, fullgraph=fullgraph, dynamic=False)


def _unavailable(reason: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        raise Unavailable(reason)

    return call


def missing(name: str, module: str) -> Peer | None:
    """The reported skip of a peer whose module is not installed."""
    return None if importlib.util.find_spec(module) else Peer(name, [], f"{module} is not installed")


def hwc(image: Tensor) -> Array:
    """(C, H, W) tensor as a contiguous (H, W, C) array."""
    return np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())


def chw(array: Array) -> Tensor:
    """(H, W, C) array as a (1, C, H, W) tensor."""
    return torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0)


def touched(shape: Iterable[int], dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """A preallocated output whose pages exist."""
    return torch.zeros(*shape, dtype=dtype, device=device)


# ---- imf_fuse: fusion by look-up -----------------------------------------------------------------


def _smoothstep(t: Array) -> Array:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def weighted_tables(
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: tuple[float, float],
    high: tuple[float, float],
    entries: int,
    gain: float,
) -> Array:
    """Weight and weight times value for the dark and the bright image: (4, C, entries), float32.

    A weight of 0 becomes 1e-7: where both vanish the quotient is then the mean of the values.
    """
    z = np.linspace(0, 255, entries)
    grid = np.linspace(0, 255, imf_dark.shape[-1])
    weight_dark = _smoothstep((z - low[0]) / (low[1] - low[0])) + 1e-7
    weight_bright = _smoothstep((high[1] - z) / (high[1] - high[0])) + 1e-7
    rows = []
    for table, weight in ((imf_dark, weight_dark), (imf_bright, weight_bright)):
        values = np.stack([np.interp(z, grid, channel) for channel in table.double().cpu().numpy()])
        rows += [np.broadcast_to(weight, values.shape), gain * weight * values]
    return np.stack(rows).astype(np.float32)


def joint_tables(tables: Array, dtype: Any) -> Array:
    """The result for every pair of bytes: (C, 65536), indexed by 256 dark + bright."""
    w1, v1, w2, v2 = (t.astype(np.float64) for t in tables)
    value = (v1[:, :, None] + v2[:, None, :]) / (w1[:, :, None] + w2[:, None, :])
    value = value.reshape(len(value), -1)
    return np.rint(value).astype(dtype) if np.dtype(dtype).kind == "u" else value.astype(dtype)


def _store(value: Tensor, out: Tensor) -> Tensor:
    """Write values to a given output; codes are rounded."""
    if out.dtype.is_floating_point:
        return out.copy_(value)
    full = FULL[out.dtype]
    return out.copy_(value.round().clamp(0, full).to(torch.int32) if full > 255 else value.round().clamp(0, full))


def torch_fuse(dark: Tensor, bright: Tensor, tables: Array, out_dtype: torch.dtype, out: Tensor | None) -> list[Peer]:
    """Eager and compiled PyTorch on (1, C, H, W) codes: the operator as its equations stand, with four tables, and for
    bytes, as a peer of its own, the result for every pair of codes in one joint table."""
    device = dark.device.type
    channels, entries = tables.shape[1:]
    flat = torch.from_numpy(tables.reshape(4, -1)).to(device)
    numpy_dtype = {torch.uint8: np.uint8, torch.float32: np.float32, torch.uint16: np.uint16}[out_dtype]
    joint = None
    if entries == 256:
        joint = torch.from_numpy(joint_tables(tables, numpy_dtype).reshape(-1)).to(device)

    def offset(size: int, dtype: torch.dtype) -> Tensor:
        return torch.arange(channels, dtype=dtype, device=device).mul_(size).view(1, channels, 1, 1)

    def four(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
        start = offset(entries, dtype)

        def value(dark: Tensor, bright: Tensor) -> Tensor:
            i, j = dark.to(dtype) + start, bright.to(dtype) + start
            return (flat[1][i] + flat[3][j]) / (flat[0][i] + flat[2][j])

        return value

    def four_selected(dark: Tensor, bright: Tensor) -> Tensor:
        i, j = ((x.to(torch.int32) + starts).view(-1) for x in (dark, bright))
        w1, v1 = flat[0].index_select(0, i), flat[1].index_select(0, i)
        w2, v2 = flat[2].index_select(0, j), flat[3].index_select(0, j)
        return v1.add_(v2).div_(w1.add_(w2)).view(dark.shape)

    starts = offset(entries, torch.int32)
    joint_starts = offset(65536, torch.int32)

    def one(dark: Tensor, bright: Tensor) -> Tensor:
        return joint[(dark.to(torch.int32) * 256 + bright.to(torch.int32)) + joint_starts]

    def one_selected(dark: Tensor, bright: Tensor) -> Tensor:
        index = dark.to(torch.int32).mul_(256).add_(bright).add_(joint_starts)
        return joint.index_select(0, index.view(-1)).view(dark.shape)

    def candidate(
        config: str, value: Callable[[Tensor, Tensor], Tensor], final: bool, compile_it: bool, memory: float
    ) -> Candidate:
        """``final``: the value is the output already and needs no rounding."""

        def fresh(dark: Tensor, bright: Tensor) -> Tensor:
            result = value(dark, bright)
            return result if final else _store(result, torch.empty_like(result, dtype=out_dtype))

        def into(dark: Tensor, bright: Tensor) -> Tensor:
            result = value(dark, bright)
            return out.copy_(result) if final else _store(result, out)

        function = fresh if out is None else into
        if compile_it:
            function = compiled(function, device)
        return Candidate(config, lambda: function(dark, bright), memory=memory * dark.numel(), compiles=compile_it)

    eager = [
        candidate("int64 index, four tables", four(torch.int64), False, False, 40),
        candidate("int32 index_select, four tables", four_selected, False, False, 30),
    ]
    inductor = [
        candidate("int64 index, four tables", four(torch.int64), False, True, 12),
        candidate("int32 index, four tables", four(torch.int32), False, True, 12),
    ]
    if joint is not None:
        eager.append(candidate("int32 index_select, joint table", one_selected, True, False, 12))
    threads = torch.get_num_threads()
    family = f"imf_fuse {dark.dtype} {out_dtype}"
    peers = [
        Peer("torch eager", eager, threads=threads),
        Peer("torch.compile", inductor, threads=threads, family=family),
    ]
    if joint is not None:
        jointly = candidate("int32 index", one, True, True, 8)
        peers.append(Peer("torch.compile, joint table", [jointly], threads=threads))
    return peers


def opencv_fuse(dark: Tensor, bright: Tensor, tables: Array, out_dtype: torch.dtype, with_out: bool) -> Peer:
    """``cv2.LUT`` of both images to weights and weighted values, then add and divide, on (H, W, C)."""
    if int(cv2.__version__.split(".")[0]) < 5 and dark.dtype != torch.uint8:
        return Peer("OpenCV", [], "cv2.LUT takes bytes only before OpenCV 5")
    a, b = hwc(dark[0]), hwc(bright[0])
    luts = [np.ascontiguousarray(t.T)[:, None, :] for t in tables]
    depth = {torch.uint8: cv2.CV_8U, torch.uint16: cv2.CV_16U, torch.float32: cv2.CV_32F}[out_dtype]
    dtype = {torch.uint8: np.uint8, torch.uint16: np.uint16, torch.float32: np.float32}[out_dtype]
    height, width, channels = a.shape
    kept = np.full(a.shape, 1, dtype) if with_out else None
    scratch = Scratch()

    def fuse(a: Array, b: Array, out: Array | None) -> Array:
        buffers = [scratch.get(str(i), a.shape, np.float32) for i in range(4)]
        for image, lut, buffer in zip((a, a, b, b), luts, buffers, strict=True):
            cv2.LUT(image, lut, dst=buffer)
        w1, v1, w2, v2 = buffers
        cv2.add(w1, w2, dst=w1)
        cv2.add(v1, v2, dst=v1)
        return cv2.divide(v1, w1, dst=out, dtype=depth)

    def strips(threads: int) -> Array:
        out = kept if kept is not None else np.empty((height, width, channels), dtype)
        in_strips(lambda s: void(fuse(a[s], b[s], out[s])), height, width, threads)
        return out

    candidates = [
        Candidate(
            f"whole image, {n} threads",
            lambda: fuse(a, b, kept),
            chw,
            functools.partial(cv2.setNumThreads, n),
            memory=20 * a.size,
        )
        for n in thread_choices()
    ]
    threads = torch.get_num_threads()
    candidates.append(
        Candidate(
            f"strips, {threads} threads",
            lambda: strips(threads),
            chw,
            functools.partial(cv2.setNumThreads, 1),
        )
    )
    return Peer("OpenCV", candidates, threads=threads)


def void(_: object) -> None:
    """For work in strips, which returns nothing."""


def numpy_fuse(dark: Tensor, bright: Tensor, tables: Array, out_dtype: torch.dtype, with_out: bool) -> Peer:
    """``np.take`` in strips over threads: one joint table for bytes, four tables for 16-bit codes."""
    a, b = dark[0].cpu().numpy(), bright[0].cpu().numpy()
    channels, height, width = a.shape
    dtype = {torch.uint8: np.uint8, torch.uint16: np.uint16, torch.float32: np.float32}[out_dtype]
    kept = np.full(a.shape, 1, dtype) if with_out else None
    scratch = Scratch()
    joint = joint_tables(tables, dtype) if tables.shape[-1] == 256 else None

    def by_joint_table(a: Array, b: Array, out: Array, c: int) -> None:
        index = scratch.get("index", a.shape, np.uint16)
        np.left_shift(a, 8, out=index, dtype=np.uint16)
        np.bitwise_or(index, b, out=index)
        np.take(joint[c], index, out=out, mode="clip")

    def by_four_tables(a: Array, b: Array, out: Array, c: int) -> None:
        w1, v1, w2, v2 = (scratch.get(str(i), a.shape, np.float32) for i in range(4))
        for image, table, buffer in zip((a, a, b, b), tables[:, c], (w1, v1, w2, v2), strict=True):
            np.take(table, image, out=buffer, mode="clip")
        np.add(w1, w2, out=w1)
        np.add(v1, v2, out=v1)
        if np.dtype(dtype).kind == "f":
            np.divide(v1, w1, out=out)
            return
        np.divide(v1, w1, out=v1)
        np.rint(v1, out=v1)
        np.copyto(out, v1, casting="unsafe")

    fuse = by_four_tables if joint is None else by_joint_table

    def call(threads: int) -> Array:
        out = kept if kept is not None else np.empty((channels, height, width), dtype)

        def strip(rows: slice) -> None:
            for c in range(channels):
                fuse(a[c, rows], b[c, rows], out[c, rows], c)

        in_strips(strip, height, width, threads)
        return out

    kind = "four tables" if joint is None else "joint table"
    candidates = [
        Candidate(f"{kind}, strips, {n} threads", functools.partial(call, n), lambda x: torch.from_numpy(x)[None])
        for n in thread_choices()
    ]
    return Peer("NumPy", candidates, threads=torch.get_num_threads())


def cupy_fuse(dark: Tensor, bright: Tensor, tables: Array, out_dtype: torch.dtype, out: Tensor | None) -> Peer:
    """``cupy.take`` from a joint table."""
    skip = missing("CuPy", "cupy")
    if skip is not None:
        return skip
    import cupy

    dtype = {torch.uint8: np.uint8, torch.float32: np.float32}[out_dtype]
    joint = cupy.asarray(joint_tables(tables, dtype).reshape(-1))
    a, b = cupy.from_dlpack(dark), cupy.from_dlpack(bright)
    kept = None if out is None else cupy.from_dlpack(out)
    start = (cupy.arange(dark.shape[1], dtype=cupy.int32) * 65536).reshape(1, -1, 1, 1)

    def call() -> Any:
        stream = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)
        with stream:
            return cupy.take(joint, (a.astype(cupy.int32) << 8 | b) + start, out=kept)

    return Peer("CuPy", [Candidate("joint table", call, torch.from_dlpack)])


# ---- imf_fuse of floating-point images -----------------------------------------------------------


def interpolated_fuse(
    dark: Tensor,
    bright: Tensor,
    imf_dark: Tensor,
    imf_bright: Tensor,
    low: tuple[float, float],
    high: tuple[float, float],
    index_dtype: torch.dtype = torch.int64,
) -> Tensor:
    """The operator on (N, C, H, W) images in [0, 1], composed of PyTorch operators; differentiable."""

    def look_up(image: Tensor, table: Tensor) -> Tensor:
        channels, entries = table.shape
        position = (image * (entries - 1)).clamp(0, entries - 1)
        index = position.detach().floor().clamp(max=entries - 2)
        start = torch.arange(channels, dtype=index_dtype, device=image.device).mul(entries).view(1, -1, 1, 1)
        flat, lower = table.reshape(-1), index.to(index_dtype) + start
        below = flat[lower]
        return below + (position - index) * (flat[lower + 1] - below)

    def smoothstep(t: Tensor) -> Tensor:
        t = t.clamp(0, 1)
        return t * t * (3 - 2 * t)

    weight_dark = smoothstep((dark * 255 - low[0]) / (low[1] - low[0])) + 1e-7
    weight_bright = smoothstep((high[1] - bright * 255) / (high[1] - high[0])) + 1e-7
    value = weight_dark * look_up(dark, imf_dark) + weight_bright * look_up(bright, imf_bright)
    return value / ((weight_dark + weight_bright) * 255)


def torch_fuse_float(
    images: tuple[Tensor, Tensor],
    tables: tuple[Tensor, Tensor],
    limits: tuple[tuple[float, float], tuple[float, float]],
    out: Tensor | None,
) -> list[Peer]:
    device = images[0].device.type

    def candidates(compile_it: bool) -> list[Candidate]:
        made = []
        for name, dtype in (("int64", torch.int64), ("int32", torch.int32)):

            def step(dark: Tensor, bright: Tensor, first: Tensor, second: Tensor, dtype: torch.dtype = dtype) -> Tensor:
                value = interpolated_fuse(dark, bright, first, second, *limits, dtype)
                return value if out is None else out.copy_(value)

            function = compiled(step, device) if compile_it else step
            made.append(
                Candidate(
                    f"{name} index",
                    lambda function=function: function(*images, *tables),
                    memory=(16 if compile_it else 60) * images[0].numel(),
                    compiles=compile_it,
                )
            )
        return made

    threads = torch.get_num_threads()
    return [
        Peer("torch eager", candidates(False), threads=threads),
        Peer("torch.compile", candidates(True), threads=threads, family="imf_fuse float32"),
    ]


def numpy_fuse_float(
    images: tuple[Tensor, Tensor],
    tables: tuple[Tensor, Tensor],
    limits: tuple[tuple[float, float], tuple[float, float]],
    with_out: bool,
) -> Peer:
    """``np.interp`` for values and weights, in strips over threads."""
    a, b = (x[0].cpu().numpy() for x in images)
    channels, height, width = a.shape
    entries = 65536
    maps = weighted_tables(*tables, *limits, tables[0].shape[-1], 1 / 255)
    grid = np.linspace(0, 1, tables[0].shape[-1])
    fine = np.linspace(0, 1, entries)
    weights = weighted_tables(*tables, *limits, entries, 1 / 255)[::2, 0]
    values = maps[1::2] / maps[::2]
    kept = np.full(a.shape, 1, np.float32) if with_out else None

    def call(threads: int) -> Array:
        out = kept if kept is not None else np.empty((channels, height, width), np.float32)

        def strip(rows: slice) -> None:
            for c in range(channels):
                x, y = a[c, rows], b[c, rows]
                w1, w2 = np.interp(x, fine, weights[0]), np.interp(y, fine, weights[1])
                value = w1 * np.interp(x, grid, values[0, c]) + w2 * np.interp(y, grid, values[1, c])
                np.copyto(out[c, rows], value / (w1 + w2), casting="unsafe")

        in_strips(strip, height, width, threads)
        return out

    candidates = [
        Candidate(f"np.interp, strips, {n} threads", functools.partial(call, n), lambda x: torch.from_numpy(x)[None])
        for n in thread_choices()
    ]
    return Peer("NumPy", candidates, threads=torch.get_num_threads())


def torch_fuse_backward(
    images: tuple[Tensor, Tensor],
    tables: tuple[Tensor, Tensor],
    limits: tuple[tuple[float, float], tuple[float, float]],
    grad: Tensor,
) -> list[Peer]:
    """Forward and backward with respect to whichever of images and tables require a gradient."""
    device = images[0].device.type

    def candidate(compile_it: bool) -> Candidate:
        def forward(dark: Tensor, bright: Tensor, first: Tensor, second: Tensor) -> Tensor:
            return interpolated_fuse(dark, bright, first, second, *limits)

        function = compiled(forward, device) if compile_it else forward

        def call() -> tuple[Tensor, ...]:
            inputs = [x for x in (*images, *tables) if x.requires_grad]
            return torch.autograd.grad(function(*images, *tables), inputs, grad)

        return Candidate("int64 index", call, memory=120 * images[0].numel(), compiles=compile_it)

    threads = torch.get_num_threads()
    return [
        Peer("torch eager", [candidate(False)], threads=threads),
        Peer("torch.compile", [candidate(True)], threads=threads),
    ]


# ---- estimate_imf: histogram specification -------------------------------------------------------


def specified(counts: Sequence[Array]) -> Tensor:
    """The tables of all channels from histograms of 256 numbers, source and target of every channel in turn: the
    same specification for all peers."""
    histograms = [torch.from_numpy(np.asarray(count).astype(np.int64).ravel()) for count in counts]
    return torch.stack(
        [specify(*pair, saturated=250.0) for pair in zip(histograms[::2], histograms[1::2], strict=True)]
    )


def _estimator(counts: Callable[[int, int], Array], channels: int) -> Callable[[], Tensor]:
    """The tables from ``counts(image, channel)``."""
    return lambda: specified([counts(image, c) for c in range(channels) for image in range(2)])


def estimators(source: Tensor, target: Tensor) -> list[Peer]:
    """Histogram specification of two (C, H, W) images of bytes on the CPU."""
    channels = source.shape[0]
    pair = source, target
    planes = [image.numpy() for image in pair]
    pixels = [hwc(image) for image in pair]

    def of_planes(image: int, c: int) -> Array:
        return cv2.calcHist([planes[image][c]], [0], None, [256], [0, 256]).ravel()

    def of_pixels(image: int, c: int) -> Array:
        return cv2.calcHist([pixels[image]], [c], None, [256], [0, 256]).ravel()

    def by_numpy(image: int, c: int) -> Array:
        return np.bincount(planes[image][c].ravel(), minlength=256)

    def by_torch(image: int, c: int) -> Array:
        return torch.bincount(pair[image][c].view(-1), minlength=256).numpy()

    def numpy_over_threads() -> Tensor:
        jobs = [(image, c) for c in range(channels) for image in range(2)]
        counts = list(_pool(torch.get_num_threads()).map(lambda job: by_numpy(*job), jobs))
        return specified(counts)

    opencv = [
        Candidate(
            f"calcHist of {layout}, {n} threads",
            _estimator(counts, channels),
            prepare=functools.partial(cv2.setNumThreads, n),
        )
        for n in thread_choices()
        for layout, counts in (("planes", of_planes), ("interleaved channels", of_pixels))
    ]
    numpy = [
        Candidate("bincount, 1 thread", _estimator(by_numpy, channels)),
        Candidate(f"bincount, {torch.get_num_threads()} threads", numpy_over_threads),
    ]
    eager = [Candidate("bincount", _estimator(by_torch, channels))]
    threads = torch.get_num_threads()
    return [
        Peer("OpenCV", opencv, threads=threads),
        Peer("NumPy", numpy, threads=threads),
        Peer("torch eager", eager, threads=threads),
        _skimage(pixels[0], pixels[1]),
    ]


def _skimage(source: Array, target: Array) -> Peer:
    """``match_histograms``, which returns the matched picture: its table is read off that."""
    skip = missing("scikit-image", "skimage")
    if skip is not None:
        return skip
    from skimage.exposure import match_histograms

    def table(matched: Array) -> Tensor:
        rows = np.full((matched.shape[2], 256), np.nan)
        for c in range(matched.shape[2]):
            rows[c, source[..., c].ravel()] = matched[..., c].ravel()
        return torch.from_numpy(rows)

    call = functools.partial(match_histograms, source, target, channel_axis=-1)
    return Peer("scikit-image", [Candidate("match_histograms", call, table)], threads=1)


def torch_estimator(source: Tensor, target: Tensor) -> list[Peer]:
    """``torch.bincount`` on any device, the rest in NumPy."""

    def counts(image: int, c: int) -> Array:
        return torch.bincount((source, target)[image][c].view(-1), minlength=256).cpu().numpy()

    return [Peer("torch eager", [Candidate("bincount", _estimator(counts, len(source)))])]


# ---- exposure_fusion: Mertens with OpenCV and with PyTorch ---------------------------------------


def opencv_mertens(bracket: Tensor, out_dtype: torch.dtype, with_out: bool) -> Peer:
    """``cv2.createMergeMertens`` with all exponents 1; its float32 result is converted to bytes if wanted."""
    images = [hwc(image) for image in bracket[0]]
    merge = cv2.createMergeMertens(1, 1, 1)
    shape = images[0].shape
    kept = np.full(shape, 1, np.uint8 if out_dtype == torch.uint8 else np.float32) if with_out else None
    blended = np.full(shape, 1, np.float32)

    def call() -> Array:
        if out_dtype == torch.float32:
            return merge.process(images) if kept is None else merge.process(images, dst=kept)
        return cv2.multiply(merge.process(images, dst=blended), 255, dst=kept, dtype=cv2.CV_8U)

    pixels, exposures = shape[0] * shape[1], len(images)
    choices = sorted({1, *range(1, torch.get_num_threads() + 1)}) if torch.get_num_threads() <= 4 else thread_choices()
    candidates = [
        Candidate(
            f"MergeMertens, {n} threads",
            call,
            chw,
            functools.partial(cv2.setNumThreads, n),
            memory=80.0 * pixels * exposures,
        )
        for n in choices
    ]
    return Peer("OpenCV", candidates, threads=torch.get_num_threads())


def _mirrored(size: int, before: int, after: int, device: torch.device) -> Tensor:
    """Row numbers of a size padded by mirroring; a single row repeats."""
    period = max(2 * size - 2, 1)
    i = torch.arange(-before, size + after, device=device).abs() % period
    return torch.minimum(i, (period - i).abs()) if size > 1 else torch.zeros_like(i)


def _pad(x: Tensor, margin: int) -> Tensor:
    if min(x.shape[-2:]) > margin:
        return F.pad(x, (margin,) * 4, mode="reflect")
    rows, columns = (_mirrored(size, margin, margin, x.device) for size in x.shape[-2:])
    return x[..., rows, :][..., columns]


class TorchMertens:
    """Exposure fusion of (K, C, H, W) in OpenCV's convention, composed of PyTorch operators.

    ``filters`` is "conv" (depthwise convolutions and a pixel shuffle) or "slices" (sums of shifted views,
    which a compiler can fuse). ``torch.compile`` sees the weights and the finest levels, which hold 98 % of the
    samples: the whole pyramid would compile for minutes.
    """

    BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
    COMPILED_LEVELS = 3

    def __init__(self, filters: str, device: str) -> None:
        self.filters = filters
        taps = torch.tensor(self.BINOMIAL, device=device)
        self.kernel = taps[:, None] * taps
        even, odd = torch.tensor([1.0, 6, 1], device=device) / 8, torch.tensor([0.0, 4, 4], device=device) / 8
        self.phases = torch.stack([v[:, None] * h for v in (even, odd) for h in (even, odd)])
        self.cross = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=device)

    def _conv(self, x: Tensor, kernels: Tensor, stride: int = 1) -> Tensor:
        """Every channel with every kernel (M, k, k); output channels are grouped by input channel."""
        channels = x.shape[1]
        weight = kernels.repeat(channels, 1, 1)[:, None]
        return F.conv2d(x, weight, stride=stride, groups=channels)

    def down(self, x: Tensor) -> Tensor:
        padded = _pad(x, 2)
        if self.filters == "conv":
            return self._conv(padded, self.kernel[None], 2)
        height, width = ((s + 1) // 2 for s in x.shape[-2:])
        rows = sum(t * padded[..., i : i + 2 * height - 1 : 2, :] for i, t in enumerate(self.BINOMIAL))
        return sum(t * rows[..., i : i + 2 * width - 1 : 2] for i, t in enumerate(self.BINOMIAL))

    def up(self, x: Tensor, height: int, width: int) -> Tensor:
        # Before the first row comes the second, after the last the last.
        h, w = x.shape[-2:]
        x = torch.cat([x[..., min(1, h - 1), None, :], x, x[..., -1:, :]], -2)
        x = torch.cat([x[..., min(1, w - 1), None], x, x[..., -1:]], -1)
        if self.filters == "conv":
            return F.pixel_shuffle(self._conv(x, self.phases), 2)[..., :height, :width]
        even = (x[..., :-2, :] + 6 * x[..., 1:-1, :] + x[..., 2:, :]) / 8
        odd = (x[..., 1:-1, :] + x[..., 2:, :]) / 2
        x = torch.stack([even, odd], -2).flatten(-3, -2)[..., :height, :]
        even = (x[..., :-2] + 6 * x[..., 1:-1] + x[..., 2:]) / 8
        odd = (x[..., 1:-1] + x[..., 2:]) / 2
        return torch.stack([even, odd], -1).flatten(-2)[..., :width]

    def laplacian(self, x: Tensor) -> Tensor:
        padded = _pad(x, 1)
        if self.filters == "conv":
            return self._conv(padded, self.cross[None])
        vertical = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
        return vertical + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:] - 4 * x

    def weights(self, images: Tensor) -> Tensor:
        """Normalised weights (K, 1, H, W)."""
        r, g, b = images.unbind(1)
        grey = (0.299 * r + 0.587 * g + 0.114 * b)[:, None]
        mean = (r + g + b) * (1 / 3)
        saturation = ((r - mean).square() + (g - mean).square() + (b - mean).square()).sqrt()
        exposedness = torch.exp((images - 0.5).square().sum(1) * (-1 / 0.08))
        weight = self.laplacian(grey).abs()[:, 0] * saturation * exposedness + 1e-12
        return (weight / weight.sum(0))[:, None]

    def __call__(self, bracket: Tensor) -> Tensor:
        """(1, C, H, W) in [0, 1] of codes or [0, 1]."""
        images = bracket if bracket.is_floating_point() else bracket.float() * (1 / FULL[bracket.dtype])
        return self.blend(images, self.weights(images), min(images.shape[-2:]).bit_length() - 1, 0)

    def blend(self, images: Tensor, weights: Tensor, depth: int, level: int) -> Tensor:
        """The blended pyramid from ``level`` down to ``depth``, collapsed."""
        if level == depth:
            return (weights * images).sum(0, keepdim=True)
        coarse, coarse_weights = self.down(images), self.down(weights)
        blend = self.blend_uncompiled if level + 1 == self.COMPILED_LEVELS else self.blend
        below = blend(coarse, coarse_weights, depth, level + 1)
        size = images.shape[-2:]
        band = images - self.up(coarse, *size)
        return self.up(below, *size) + (weights * band).sum(0, keepdim=True)

    @torch.compiler.disable
    def blend_uncompiled(self, images: Tensor, weights: Tensor, depth: int, level: int) -> Tensor:
        """The same, outside what ``torch.compile`` sees."""
        return self.blend(images, weights, depth, level)


def torch_mertens(
    bracket: Tensor,
    out_dtype: torch.dtype,
    out: Tensor | None,
    grad: Tensor | None = None,
    clamp: bool = False,
    compile_it: bool = True,
) -> list[Peer]:
    """The composition, eager and, where wanted, compiled; with ``grad`` forward and backward."""
    device = bracket.device.type
    images = bracket[0]
    last = images.contiguous(memory_format=torch.channels_last)
    if grad is not None:
        images, last = (x.detach().requires_grad_() for x in (images, last))

    def candidate(filters: str, layout: str, compile_it: bool) -> Candidate:
        fusion = TorchMertens(filters, device)

        def forward(x: Tensor) -> Tensor:
            value = fusion(x)
            if out_dtype in FULL:
                value = value * FULL[out_dtype]
            elif clamp:
                value = value.clamp(0, 1)
            if out is None and out_dtype == value.dtype:
                return value
            return _store(value, torch.empty_like(value, dtype=out_dtype) if out is None else out)

        function = compiled(forward, device, fullgraph=False) if compile_it else forward
        x = last if layout == "channels_last" else images

        def call() -> Tensor:
            return function(x) if grad is None else torch.autograd.grad(function(x), x, grad)[0]

        memory = (60 if grad is None else 200) * images.numel()
        result = (lambda g: g) if grad is None else (lambda g: g.contiguous()[None])
        return Candidate(f"{filters}, {layout}", call, result, memory=memory, compiles=compile_it)

    kinds = (("conv", "contiguous"), ("conv", "channels_last"), ("slices", "contiguous"))
    threads = torch.get_num_threads()
    family = "exposure_fusion"
    eager = Peer("torch eager", [candidate(*kind, False) for kind in kinds], threads=threads, family=family)
    if not compile_it:
        return [eager, Peer("torch.compile", [], "compiling takes a minute: timed in the headline rows only")]
    inductor = [candidate(*kind, True) for kind in kinds]
    return [eager, Peer("torch.compile", inductor, threads=threads, family=family)]


# ---- gaussian ------------------------------------------------------------------------------------


def opencv_gaussian(image: Tensor, sigma: float, masked: bool, with_out: bool) -> Peer:
    """``cv2.GaussianBlur`` with the window of 6 sigma + 1 taps, and for the mask ``cv2.normalize``, which finds the
    extremes and applies them in one more pass each. ``image`` is (1, 1, H, W)."""
    pixels = image[0, 0].numpy()
    taps = 2 * round(3 * sigma) + 1
    kept = np.full_like(pixels, 1) if with_out else None
    blurred = np.full_like(pixels, 1)
    top = 255 if pixels.dtype == np.uint8 else 1

    def blur(dst: Array | None) -> Array:
        return cv2.GaussianBlur(pixels, (taps, taps), sigma, dst=dst, borderType=cv2.BORDER_REFLECT_101)

    def call() -> Array:
        return cv2.normalize(blur(blurred), kept, 0, top, cv2.NORM_MINMAX) if masked else blur(kept)

    candidates = [
        Candidate(
            f"{n} threads",
            call,
            lambda array: torch.from_numpy(array)[None, None],
            functools.partial(cv2.setNumThreads, n),
        )
        for n in thread_choices()
    ]
    return Peer("OpenCV", candidates, threads=torch.get_num_threads())


def opencv_grey(image: Tensor) -> Tensor:
    """A uint8 image (1, 3, H, W) in grey, (1, 1, H, W)."""
    return torch.from_numpy(cv2.cvtColor(hwc(image[0]), cv2.COLOR_RGB2GRAY))[None, None]


def opencv_mtb_shift(image: Tensor, reference: Tensor) -> Peer:
    """``AlignMTB.calculateShift`` of grey images (1, 1, H, W)."""
    pair = reference[0, 0].numpy(), image[0, 0].numpy()
    align = cv2.createAlignMTB()
    candidates = [
        Candidate(
            f"{n} threads",
            lambda: align.calculateShift(*pair),
            lambda point: torch.tensor([[point[1], point[0]]]),
            functools.partial(cv2.setNumThreads, n),
        )
        for n in thread_choices()
    ]
    return Peer("OpenCV", candidates, threads=torch.get_num_threads())


def opencv_mtb_process(frames: Sequence[Tensor]) -> Peer:
    """``AlignMTB.process`` of uint8 frames (3, H, W), to the middle one and without a cut."""
    pixels = [hwc(frame) for frame in frames]
    aligned = [image.copy() for image in pixels]
    align = cv2.createAlignMTB(cut=False)

    def call() -> list[Array]:
        align.process(pixels, aligned)
        return aligned

    candidates = [
        Candidate(
            f"{n} threads",
            call,
            lambda images: torch.cat([chw(image) for image in images]),
            functools.partial(cv2.setNumThreads, n),
        )
        for n in thread_choices()
    ]
    return Peer("OpenCV", candidates, threads=torch.get_num_threads())


def _separable(sigma: float, device: str) -> Callable[[Tensor], Tensor]:
    """The window of 6 sigma + 1 taps as two convolutions of an image mirrored at its borders."""
    radius = round(3 * sigma)
    window = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=device) / sigma) ** 2)
    window = window / window.sum()

    def blur(x: Tensor) -> Tensor:
        down = F.conv2d(F.pad(x, (0, 0, radius, radius), mode="reflect"), window.view(1, 1, -1, 1))
        return F.conv2d(F.pad(down, (radius, radius, 0, 0), mode="reflect"), window.view(1, 1, 1, -1))

    return blur


def _kornia_blur(sigma: float) -> Callable[[Tensor], Tensor]:
    import kornia

    taps = 2 * round(3 * sigma) + 1
    return lambda x: kornia.filters.gaussian_blur2d(x, (taps, taps), (sigma, sigma))


def torch_gaussian(
    image: Tensor, sigma: float, masked: bool, out: Tensor | None, grad: Tensor | None = None
) -> list[Peer]:
    """PyTorch eager and compiled, and kornia where it is installed; with ``grad`` forward and backward."""
    device = image.device.type

    def candidate(blur: Callable[[Tensor], Tensor], compile_it: bool) -> Candidate:
        def forward(x: Tensor) -> Tensor:
            value = blur(x if x.is_floating_point() else x.float() * (1 / FULL[x.dtype]))
            if masked:
                low, high = value.aminmax()
                value = (value - low) / (high - low)
            if x.dtype in FULL:
                value = value * FULL[x.dtype]
            elif out is None:
                return value
            return _store(value, torch.empty_like(x) if out is None else out)

        function = compiled(forward, device) if compile_it else forward

        def call() -> Tensor:
            return function(image) if grad is None else torch.autograd.grad(function(image), image, grad)[0]

        return Candidate("separable", call, memory=40.0 * image.numel(), compiles=compile_it)

    threads = torch.get_num_threads()
    family = f"gaussian {sigma:g}"
    blur = _separable(sigma, device)
    kornia = missing("kornia", "kornia") or Peer("kornia", [candidate(_kornia_blur(sigma), False)], threads=threads)
    return [
        Peer("torch eager", [candidate(blur, False)], threads=threads),
        Peer("torch.compile", [candidate(blur, True)], threads=threads, family=family),
        kornia,
    ]


# ---- lab -----------------------------------------------------------------------------------------


def opencv_lab(image: Tensor, to_lab: bool, out_dtype: torch.dtype, with_out: bool) -> Peer:
    """``cv2.cvtColor`` on float (H, W, C) arrays, which it takes in tables; codes are converted by ``cv2.multiply``.

    ``image`` is (1, 3, H, W).
    """
    if torch.float16 in (image.dtype, out_dtype):
        return Peer("OpenCV", [], "OpenCV converts no float16")
    pixels = hwc(image[0])
    wide = np.full(pixels.shape, 1, np.float32)
    kept = np.full(pixels.shape, 1, np.float32) if with_out or out_dtype in FULL else None
    codes = np.full(pixels.shape, 1, np.uint8) if with_out else None
    code = cv2.COLOR_RGB2Lab if to_lab else cv2.COLOR_Lab2RGB

    def call() -> Array:
        source = pixels if image.dtype not in FULL else cv2.multiply(pixels, 1 / 255, wide, dtype=cv2.CV_32F)
        result = cv2.cvtColor(source, code, dst=kept)
        return result if out_dtype not in FULL else cv2.multiply(result, 255, codes, dtype=cv2.CV_8U)

    candidates = [
        Candidate(f"{n} threads", call, chw, functools.partial(cv2.setNumThreads, n)) for n in thread_choices()
    ]
    return Peer("OpenCV", candidates, threads=torch.get_num_threads())


def skimage_lab(image: Tensor, to_lab: bool, out_dtype: torch.dtype) -> Peer:
    """scikit-image on an (H, W, C) array of float32."""
    absent = missing("scikit-image", "skimage")
    if absent is not None:
        return absent
    from skimage import color

    if (image.dtype, out_dtype) != (torch.float32, torch.float32):
        return Peer("scikit-image", [], "timed from float32 to float32 only")
    pixels = hwc(image[0])
    convert = color.rgb2lab if to_lab else color.lab2rgb
    return Peer("scikit-image", [Candidate("", lambda: convert(pixels), chw, memory=120 * image.numel())], threads=1)


def _lab_of_rgb(rgb: Tensor) -> Tensor:
    light = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    r, g, b = light.unbind(1)
    x = 0.43388735 * r + 0.37622401 * g + 0.18988864 * b
    y = 0.21263901 * r + 0.71516868 * g + 0.07219232 * b
    z = 0.01775004 * r + 0.10944762 * g + 0.87280234 * b
    xyz = torch.stack([x, y, z], 1)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-4) ** (1 / 3), xyz * (841 / 108) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _rgb_of_lab(lab: Tensor) -> Tensor:
    level, a, b = lab.unbind(1)
    y = (level + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], 1)
    x, y, z = torch.where(f > 6 / 29, f**3, (f - 4 / 29) * (108 / 841)).unbind(1)
    r = 3.08039909 * x - 1.53738318 * y - 0.54301591 * z
    g = -0.92122336 * x + 1.87596750 * y + 0.04525586 * z
    b = 0.05287394 * x - 0.20397696 * y + 1.15110302 * z
    light = torch.stack([r, g, b], 1)
    return torch.where(light > 0.0031308, 1.055 * light.clamp(min=1e-4) ** (1 / 2.4) - 0.055, 12.92 * light)


def torch_lab(
    image: Tensor, to_lab: bool, out_dtype: torch.dtype, out: Tensor | None, grad: Tensor | None, compile_it: bool
) -> list[Peer]:
    """The formulas in PyTorch, eager and compiled, in float32; with ``grad`` forward and backward."""
    device = image.device.type

    def forward(x: Tensor) -> Tensor:
        wide = x.float() * (1 / FULL[x.dtype]) if x.dtype in FULL else x.float()
        value = _lab_of_rgb(wide) if to_lab else _rgb_of_lab(wide)
        if out_dtype in FULL:
            return _store(value * FULL[out_dtype], torch.empty_like(x, dtype=out_dtype) if out is None else out)
        return value.to(out_dtype) if out is None else out.copy_(value)

    def candidate(function: Callable[[Tensor], Tensor], compiles: bool) -> Candidate:
        def call() -> Tensor:
            return function(image) if grad is None else torch.autograd.grad(function(image), image, grad)[0]

        return Candidate("", call, memory=60.0 * image.numel(), compiles=compiles)

    threads = torch.get_num_threads()
    eager = Peer("torch eager", [candidate(forward, False)], threads=threads)
    if not compile_it:
        return [eager, Peer("torch.compile", [], "compiling takes a minute: timed in the headline rows only")]
    inductor = [candidate(compiled(forward, device), True)]
    return [eager, Peer("torch.compile", inductor, threads=threads, family=f"lab {to_lab} {grad is None}")]


# ---- mef_ssim ------------------------------------------------------------------------------------


def _windowed(planes: Tensor, taps: Tensor) -> Tensor:
    """The separable window of planes (..., H, W) at valid positions."""
    shape = planes.shape
    flat = planes.reshape(-1, 1, *shape[-2:])
    rows = torch.nn.functional.conv2d(flat, taps.view(1, 1, 1, -1))
    result = torch.nn.functional.conv2d(rows, taps.view(1, 1, -1, 1))
    return result.view(*shape[:-2], *result.shape[-2:])


def composed_mef_ssim(fused: Tensor, sources: Tensor, taps: Tensor, weights: Tensor) -> Tensor:
    """The equations of MEF-SSIM by convolutions, for fused (H, W) and sources (K, H, W) on 0 to 255."""
    count, size = sources.shape[0], taps.numel()
    uniform = torch.full_like(taps, 1 / size)
    upper = torch.triu_indices(count, count)
    c = (0.03 * 255) ** 2
    values = []
    for level in range(weights.numel()):
        if level:
            both = torch.cat([sources, fused[None]])[None]
            both = torch.nn.functional.pad(both, (0, both.shape[-1] % 2, 0, both.shape[-2] % 2), mode="replicate")
            both = torch.nn.functional.avg_pool2d(both, 2)[0]
            sources, fused = both[:-1], both[-1]
        products = sources[upper[0]] * sources[upper[1]]
        with torch.no_grad():
            means, squares = _windowed(sources, uniform), _windowed(products, uniform)
            energies = size**2 * (squares - means[upper[0]] * means[upper[1]])
            diagonal = upper[0] == upper[1]
            norms = energies[diagonal].clamp(min=0).sqrt()
            both_ways = torch.where(diagonal, 1.0, 2.0).view(-1, 1, 1)
            whole = (both_ways * energies).sum(0).clamp(min=0).sqrt()
            consistency = (whole / norms.sum(0).clamp(min=1e-6)).clamp(0, 0.9366)
            contrasts = norms + 0.001
            powers = torch.tan(math.pi / 2 * consistency) * (contrasts / size).log()
            shares = torch.softmax(powers, 0) / contrasts
            pairs = both_ways * shares[upper[0]] * shares[upper[1]]
            squared = (pairs * energies).sum(0)
            # What rounding leaves of a flat patch is no structure.
            rounding = 2e-6 * size**2 * (shares * squares[diagonal].clamp(min=0).sqrt()).sum(0) ** 2
            gain = torch.where(squared > rounding, contrasts.amax(0) * squared.clamp(min=1e-12).rsqrt(), 0.0)
            shares = shares * gain
            pairs = both_ways * shares[upper[0]] * shares[upper[1]]
            means = _windowed(sources, taps)
            among = _windowed(products, taps) - means[upper[0]] * means[upper[1]]
            desired = (pairs * among).sum(0).clamp(min=0)
        seen = _windowed(torch.cat([fused[None], (fused * fused)[None], sources * fused]), taps)
        covariance = (shares * (seen[2:] - means * seen[0])).sum(0)
        quality = (2 * covariance + c) / (desired + seen[1] - seen[0] * seen[0] + c)
        values.append(quality.mean())
    return (torch.stack(values).clamp(min=1e-6) ** weights).prod()


def torch_mef_ssim(fused: Tensor, bracket: Tensor, taps: Tensor, weights: Tensor, backward: bool) -> list[Peer]:
    """The composition, eager and compiled; with ``backward`` forward and backward."""
    device = fused.device.type
    taps, weights = taps.to(device, fused.dtype), weights.to(device, fused.dtype)
    # Less the means, on which the quality does not depend: squares of large values leave little of their differences.
    image, sources = (255 * (x - x.mean((-2, -1), keepdim=True)) for x in (fused[0, 0].detach(), bracket[0, :, 0]))

    def candidate(compile_it: bool) -> Candidate:
        function = compiled(composed_mef_ssim, device, fullgraph=False) if compile_it else composed_mef_ssim
        x = image.clone().requires_grad_(backward)

        def call() -> Tensor:
            value = function(x, sources, taps, weights)
            return torch.autograd.grad(value, x)[0] if backward else value

        def result(value: Tensor) -> Tensor:
            return 255 * value[None, None] if backward else value

        return Candidate("separable", call, result, memory=400 * bracket.numel(), compiles=compile_it)

    threads = torch.get_num_threads()
    return [
        Peer("torch eager", [candidate(False)], threads=threads, family="mef_ssim"),
        Peer("torch.compile", [candidate(True)], threads=threads, family="mef_ssim"),
    ]


# ---- pairwise ------------------------------------------------------------------------------------


def _drawn(usable: Tensor, count: int) -> Tensor:
    """Places (rows, count) among the usable ones of each row, uniformly."""
    numbers = usable.cumsum(1)
    wanted = (torch.rand(len(usable), count, dtype=torch.float64, device=usable.device) * numbers[:, -1:]).long() + 1
    return torch.searchsorted(numbers, wanted).clamp(max=usable.shape[1] - 1)


def _boxes(images: Tensor, side: int) -> Tensor:
    """Sums of squares (C, H - side + 1, W - side + 1) by integral images."""
    sums = F.pad(images.double(), (1, 0, 1, 0)).cumsum(1).cumsum(2)
    right = sums[..., side:] - sums[..., :-side]
    return right[:, side:] - right[:, :-side]


def composed_pairwise(
    prediction: Tensor, target: Tensor, pairs: int, sides: Sequence[int] | None, threshold: float
) -> Tensor:
    """The pairwise loss of pixels, or of patches of such sides, from PyTorch's own operators."""
    usable = target <= 0.99 * target.amax((1, 2, 3), keepdim=True)
    if sides is None:
        rows, wanted = prediction.flatten(2).flatten(0, 1), target.flatten(2).flatten(0, 1)
        places = _drawn(usable.flatten(2).flatten(0, 1), 2 * pairs)
        first, second = rows.gather(1, places), wanted.gather(1, places)
    else:
        drawn = []
        for k, side in enumerate(sides):
            places = _drawn((_boxes(~usable[k], side) < 0.5).flatten(1), 2 * pairs)
            images = [torch.where(usable[k], image[k], 0) for image in (prediction, target)]
            drawn.append([(_boxes(image, side).flatten(1) / side**2).gather(1, places) for image in images])
        first, second = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    logarithms = first.clamp(min=1e-6).log().unflatten(1, (-1, 2)).diff(dim=2)[..., 0]
    sign = torch.where(second.unflatten(1, (-1, 2)).diff(dim=2)[..., 0] < 0, 1.0, -1.0)
    cost = sign * logarithms
    root = cost.clamp(min=threshold).sqrt()
    constant = math.log1p(math.exp(threshold)) - math.log1p(math.exp(threshold**0.5))
    return torch.where(cost <= threshold, F.softplus(cost), F.softplus(root) + constant).mean()


def torch_pairwise(
    prediction: Tensor, target: Tensor, pairs: int, sides: Sequence[int] | None, threshold: float, backward: bool
) -> list[Peer]:
    """The composition, eager; with ``backward`` forward and backward, else the value alone."""
    x = prediction.detach().clone().requires_grad_(backward)

    def call() -> Tensor:
        value = composed_pairwise(x, target, pairs, sides, threshold)
        return torch.autograd.grad(value, x)[0] if backward else value

    threads = torch.get_num_threads()
    return [
        Peer("torch eager", [Candidate("integral images", call)], threads=threads, family="pairwise"),
        Peer("torch.compile", [], "searchsorted and random numbers are calls of the same library functions"),
    ]


# ---- ssim: similarity and its gradient -----------------------------------------------------------


def msssim(x: Tensor, y: Tensor, several: bool, compile_it: bool) -> list[Peer]:
    """pytorch-msssim on (1, C, H, W) images, eager and compiled, in both layouts, with the gradients that x and y ask
    for. Codes and halves are converted to float32 first: its moments need that."""
    absent = missing("pytorch-msssim", "pytorch_msssim")
    if absent is not None:
        return [absent]
    import pytorch_msssim

    measure = pytorch_msssim.ms_ssim if several else pytorch_msssim.ssim
    device = x.device.type
    full = float(FULL.get(x.dtype, 1))

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return measure(x.float(), y.float(), data_range=full)

    def candidate(layout: str, compiles: bool) -> Candidate:
        function = compiled(forward, device) if compiles else forward
        memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        images = [
            image.detach().contiguous(memory_format=memory_format).requires_grad_(image.requires_grad)
            for image in (x, y)
        ]
        leaves = [image for image in images if image.requires_grad]

        def call() -> tuple[Tensor, ...]:
            value = function(*images)
            return torch.autograd.grad(value, leaves) if leaves else (value,)

        memory = (40 if leaves else 20) * 4 * x.numel()
        return Candidate(layout, call, memory=memory, compiles=compiles)

    layouts = ("contiguous", "channels_last")
    threads = torch.get_num_threads()
    family = f"ssim, {several}, {x.requires_grad}"
    eager = [candidate(layout, False) for layout in layouts]
    result = [Peer("pytorch-msssim", eager, threads=threads, family=family)]
    if not compile_it:
        reason = "compiling takes a minute: timed for ms_ssim on float32 images only"
        return [*result, Peer("pytorch-msssim, compiled", [], reason)]
    inductor = [candidate(layout, True) for layout in layouts]
    return [*result, Peer("pytorch-msssim, compiled", inductor, threads=threads, family=family)]


def skimage_ssim(x: Tensor, y: Tensor) -> Peer:
    """scikit-image's ``structural_similarity`` with the same window, on (H, W, C) arrays."""
    absent = missing("scikit-image", "skimage")
    if absent is not None:
        return absent
    from skimage.metrics import structural_similarity

    images = hwc(x[0]), hwc(y[0])
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}

    def call() -> tuple[Tensor, ...]:
        value = structural_similarity(*images, data_range=FULL.get(x.dtype, 1), channel_axis=-1, **options)
        return (torch.tensor(float(value)),)

    return Peer("scikit-image", [Candidate("", call, memory=80 * x.numel())], threads=1)


# ---- training of HyperP_MB -----------------------------------------------------------------------


def composed_fusion_loss(size: int, device: str, batched: bool) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Masks, weights and loss of HyperP_MB on grey images (N, 1, size, size) in [0, 1], of PyTorch and pytorch-msssim;
    ``batched``: the three pairs in one call."""
    from pytorch_msssim import ms_ssim

    blur = _separable(10.0, device)

    def mask(image: Tensor) -> Tensor:
        blurred = blur(image)
        low, high = blurred.amin((1, 2, 3), keepdim=True), blurred.amax((1, 2, 3), keepdim=True)
        return (blurred - low) / (high - low)

    def gamma(image: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(image, (1, 2, 3), correction=0)
        deviation = deviation.clamp(min=1 / 255)
        return torch.where(4 * deviation <= 1 / 3, -deviation.log2(), ((1 - (mean + deviation)) / 2).exp())

    def loss(fused: Tensor, under: Tensor, correct: Tensor, over: Tensor) -> Tensor:
        dark, bright = mask(under), 1 - mask(over)
        middle = gamma(correct)
        distances = torch.stack([(gamma(under) - middle).abs(), (gamma(over) - middle).abs()])
        shares = 2 * distances / distances.sum(0)
        weights = [torch.ones_like(middle), *shares]
        pairs = [(fused, correct), (dark * fused, dark * under), (bright * fused, bright * over)]
        if batched:
            pairs = [tuple(torch.cat(images) for images in zip(*pairs, strict=True))]
            weights = [torch.cat(weights)]
        total = fused.new_zeros(())
        for (x, y), weight in zip(pairs, weights, strict=True):
            error = (255 * (x - y)).square().mean((1, 2, 3))
            similarity = ms_ssim(255 * x, 255 * y, data_range=255, size_average=False)
            total = total + (weight * (error + 1000 * (1 - similarity))).sum()
        return total / len(fused)

    return loss


class PlainFusion(torch.nn.Module):
    """The network of HyperP_MB from PyTorch's own layers, with the weights of another one."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        layers = {name.removesuffix(".weight"): w for name, w in weights.items() if name.endswith(".weight")}
        for name, weight in layers.items():
            layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, padding_mode="reflect")
            layer.weight.data.copy_(weight)
            layer.bias.data.copy_(weights[f"{name}.bias"])
            self.add_module(name.replace(".", "_"), layer)
        self.names = [name.replace(".", "_") for name in layers]

    def forward(self, dark: Tensor, bright: Tensor) -> Tensor:
        layers = [self.get_submodule(name) for name in self.names]
        features = []
        for encoder, image in ((layers[:4], dark), (layers[4:8], bright)):
            x = encoder[0](255 * image).relu()
            for layer in encoder[1:]:
                x = torch.cat([x, layer(x).relu()], 1)
            features.append(x)
        x = features[0] + features[1]
        for layer in layers[8:]:
            x = layer(x).relu()
        return x / 255
