"""Time and peak memory of EMVNet's inference, beside the same network composed from PyTorch's own layers.

    python bench/emvnet_inference.py SIDE... [--preset light] [--images 3] [--piece 256] [--plain]

The composition has the matching volume and what the hourglasses make of it, all channels last; where a tensor on the
whole grid would not fit into memory, it exists for some rows at a time, each computed once. Weights are random. Every
point has a process of its own, since peak memory is that of a process; results are appended to
``bench/results/emvnet/inference.csv``, with how far both are apart where both are measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from hdrops.models import EMVNet

BENCH = pathlib.Path(__file__).parent
RESULTS = BENCH / "results" / "emvnet" / "inference.csv"
BAND_BYTES = 2 << 30  # of the largest tensor of the composition


def _rows(tensor: Tensor, low: int, high: int) -> Tensor:
    """Rows of (N, C, D, H, W), zeros beyond it."""
    height = tensor.shape[-2]
    inside = tensor[..., max(low, 0) : min(high, height), :]
    return F.pad(inside, (0, 0, max(0, -low), max(0, high - height)))


def _volume(features: Tensor, saturation: Tensor, model: EMVNet, low: int, high: int) -> Tensor:
    """Rows of the matching volume, zeros beyond it; its mask leaves the gain at 1."""
    config = model.config
    count, height, width = features.shape[1], *features.shape[-2:]
    motions = model._motions.tolist()
    reach = max(max(map(abs, motion)) for motion in motions)
    first, last = max(low, 0), min(high, height)
    wide = F.pad(features[0], [reach] * 4).permute(0, 2, 3, 1)  # (n, H, W, C)
    masks = F.pad(saturation[0], [reach] * 4).permute(0, 2, 3, 1)
    reference = wide[0, reach + first : reach + last, reach : reach + width]
    size = features.shape[2]
    out = features.new_zeros(1, count * len(motions) * len(config.exposures), high - low, width, 4 * size)
    inside = out[0, :, first - low : last - low]
    scaled = {}
    for gain in config.exposures:
        scaled[gain] = wide * (1 + (gain - 1) * (1 - masks))
    d = 0
    for image in range(count):
        for dy, dx in motions:
            for gain in config.exposures:
                place = inside[d]
                d += 1
                moved = reference
                if image:
                    rows = slice(reach + first + dy, reach + last + dy)
                    moved = scaled[gain][image, rows, reach + dx : reach + dx + width]
                place[..., :size] = moved
                place[..., size : 2 * size] = reference
                torch.sub(moved, reference, out=place[..., 2 * size : 3 * size]).abs_()
                torch.mul(moved, reference, out=place[..., 3 * size :])
    return out.permute(0, 4, 1, 2, 3)


def composed(model: EMVNet, images: Tensor, reference: int, band_bytes: float = BAND_BYTES) -> Tensor:
    """The picture by PyTorch's own layers; sides of the features must be multiples of 8."""
    config = model.config
    prepared, saturation = model._prepared(images, reference)
    assert saturation is not None
    features = model._extracted(model._shrunk(prepared)).unflatten(0, prepared.shape[:2])
    height, width = features.shape[-2:]
    depth = features.shape[1] * len(model._motions) * len(config.exposures)
    flat = features.new_empty(1, config.filters, height, width)
    x = features.new_empty(0)
    for number in range(len(model.hourglasses) + 1):
        # The last layer of one hourglass, or the volume; then the first of the next, or the mean.
        channels = 4 * config.features if number == 0 else config.filters
        band = max(1, int(band_bytes / (4 * channels * depth * 2 * width)))
        before, following = x, None
        if number < len(model.hourglasses):
            following = model.hourglasses[number].down[0]
            size = (1, config.filters, depth // 2, height // 2, width // 2)
            x = features.new_empty(size).contiguous(memory_format=torch.channels_last_3d)
        for a in range(0, height // 2, band):
            b = min(a + band, height // 2)
            low, high = 2 * a - 1, 2 * b
            if number == 0:
                rows = _volume(features, saturation, model, low, high)
            else:
                layer = model.hourglasses[number - 1].up[-1]
                s, e = max(a - 1, 0), min(b + 1, height // 2)
                wide = F.conv_transpose3d(before[..., s:e, :], layer.weight, layer.bias, 2, 1, 1)
                rows = _rows(wide, low - 2 * s, high - 2 * s)
            if following is None:
                flat[:, :, 2 * a : 2 * b] = rows[..., 1:, :].mean(2)
            else:
                x[..., a:b, :] = F.conv3d(rows, following.weight, following.bias, 2, (1, 0, 1)).relu_()
        del before, rows
        if following is None:
            break
        hourglass = model.hourglasses[number]
        sizes = []
        for layer, d in zip(hourglass.down[1:], config.dilations[1:], strict=True):
            sizes.append(x.shape[2:])
            x = F.conv3d(x, layer.weight, layer.bias, 2, d, d).relu_()
        for layer, d, size in zip(hourglass.up, reversed(config.dilations[1:]), reversed(sizes), strict=False):
            extra = [big - (2 * small - 1) for big, small in zip(size, x.shape[2:], strict=True)]
            x = F.conv_transpose3d(x, layer.weight, layer.bias, 2, d, extra, 1, d).relu_()
    picture = model.heads[-1].conv(flat)
    return F.pixel_shuffle(picture, config.shrink * config.grow) if config.shrink * config.grow > 1 else picture


def network(preset: str) -> EMVNet:
    """With random weights, in the layout that the composition is fastest in."""
    torch.manual_seed(0)
    model = EMVNet(preset).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return model


def point(plain: bool, preset: str, rows: int, columns: int, count: int, piece: int, dtype: str, out: str) -> None:
    """Measure one, and print it."""
    model = network(preset).to(getattr(torch, dtype))
    images = torch.rand(1, count, model.config.channels, rows, columns, generator=torch.Generator().manual_seed(1))
    images = images.to(getattr(torch, dtype))
    with torch.inference_mode():
        start = time.perf_counter()
        result = composed(model, images, 0) if plain else model.enhance(images, 0, piece=piece or None)
        seconds = time.perf_counter() - start
    save_file({"picture": result.float().contiguous()}, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": round(seconds, 2), "gb": round(peak, 2)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="*", help="pixels of the images: 1024 or 3000x4000")
    parser.add_argument("--preset", default="light", choices=("light", "raw_hdr", "hdr"))
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--piece", type=int, default=0, help="pixels; 0 computes layers whole")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--plain", action="store_true", help="the composition as well")
    parser.add_argument("--point", nargs=8, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.point:
        plain, preset, rows, columns, count, piece, dtype, out = asked.point
        point(plain == "plain", preset, int(rows), int(columns), int(count), int(piece), dtype, out)
        return
    from machine import machine

    facts = machine("cpu", torch.get_num_threads())
    for size in asked.size:
        rows, columns = (int(part) for part in (size if "x" in size else f"{size}x{size}").split("x"))
        pictures: dict[str, Tensor] = {}
        for path in ("hdrops", "plain") if asked.plain else ("hdrops",):
            with tempfile.TemporaryDirectory() as folder:
                out = pathlib.Path(folder) / "picture"
                words = [path, asked.preset, rows, columns, asked.images, asked.piece, asked.dtype, out]
                command = [sys.executable, __file__, "--point", *map(str, words)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                pictures[path] = load_file(out)["picture"]
            other = pictures["hdrops"]
            apart = float((pictures[path] - other).abs().max() / other.abs().max())
            assert apart <= (1e-4 if asked.dtype == "float32" else 1e-1), f"both are {apart} apart"
            row = {"preset": asked.preset, "rows": rows, "columns": columns, "images": asked.images, "path": path}
            row |= {"piece": asked.piece, "dtype": asked.dtype, **json.loads(done.stdout), "apart": f"{apart:.1e}"}
            row |= {"device": facts["device"], "threads": facts["threads"]}
            row |= {"torch": facts["versions"]["torch"], "commit": facts["commit"]}
            print(row, flush=True)
            RESULTS.parent.mkdir(parents=True, exist_ok=True)
            new = not RESULTS.exists()
            with RESULTS.open("a", newline="") as stream:
                writer = csv.DictWriter(stream, [*row], lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)


if __name__ == "__main__":
    main()
