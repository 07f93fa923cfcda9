"""Compiles every Triton kernel of hdrops for GPUs that need not be present.

Run as a script, without TRITON_INTERPRET; with --full, every variant for every target. Prints one line per compiled
variant. Fails if a kernel does not compile, or if one is missing from ``VARIANTS``: launch entries are all Triton
functions in ``hdrops.kernels`` whose name does not begin with an underscore.
"""

from __future__ import annotations

import importlib
import itertools
import os
import pathlib
import pkgutil
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

CAPABILITIES = (80, 90)


class Variant(NamedTuple):
    """Element types of pointers and values of constants by parameter; others as annotated or i32.

    ``aligned`` are integers that 16 divides.
    """

    pointers: dict[str, str]
    constants: dict[str, Any]
    warps: int = 4
    contraction: bool = True
    aligned: tuple[str, ...] = ()


def _imf() -> dict[str, list[Variant]]:
    specify = {"quantiles": "fp64", "before": "i64", "after": "i64", "matched": "fp64"}
    resample = {
        "before": "i64",
        "after": "i64",
        "matched": "fp64",
        "firsts": "i64",
        "finals": "i64",
        "lasts": "i64",
        "limits": "fp64",
        "table": "fp32",
    }

    def fuse(image: str, out: str) -> Variant:
        table = "fp64" if image == "fp64" else "fp32"
        pointers = {"dark": image, "bright": image, "out": out, "imf_dark": table, "imf_bright": table}
        full = {"u8": 255, "u16": 65535}
        return Variant(pointers, {"FULL_IN": full.get(image, 1), "FULL_OUT": full.get(out, 1), "BLOCK": 1024})

    def backward(image: str) -> Variant:
        table = "fp64" if image == "fp64" else "fp32"
        codes = image.startswith("u")
        names = ("imf_dark", "imf_bright", "grad_imf_dark", "grad_imf_bright")
        pointers = dict.fromkeys(names, table)
        pointers |= {"dark": image, "bright": image, "grad": table if codes else image}
        pointers |= dict.fromkeys(("grad_dark", "grad_bright"), table if codes else image)
        full = {"u8": 255, "u16": 65535}.get(image, 1)
        return Variant(pointers, {"FULL_IN": full, "IMAGES": not codes, "BLOCK": 512})

    return {
        "histogram_bytes_kernel": [Variant({"image": "u8", "counts": "i64"}, {"BLOCK": 4096}, warps=8)],
        "histogram_words_kernel": [Variant({"image": "u16", "counts": "i64"}, {"BLOCK": 4096}, warps=8)],
        "specify_kernel": [
            Variant(specify, {"CODES": codes, "STEPS": codes.bit_length(), "BLOCK": 4096}, warps=8)
            for codes in (256, 65536)
        ],
        "resample_kernel": [Variant(resample, {"CODES": codes, "BLOCK": 1024}, 8) for codes in (256, 65536)],
        "fuse_kernel": [
            fuse(image, out)
            for image, out in (
                ("u8", "u8"),
                ("u8", "fp32"),
                ("u16", "u16"),
                ("u16", "fp32"),
                ("fp16", "fp16"),
                ("bf16", "bf16"),
                ("fp32", "fp32"),
                ("fp64", "fp64"),
            )
        ],
        "fuse_backward_kernel": [backward(t) for t in ("u8", "u16", "fp16", "bf16", "fp32", "fp64")],
    }


def _exposure_fusion() -> dict[str, list[Variant]]:
    wide = {"PLANES": 1, "ROWS": 8, "COLUMNS": 128}
    small = {"PLANES": 16, "ROWS": 8, "COLUMNS": 8}
    bracket = {"PLANES": 4, "ROWS": 4, "COLUMNS": 64}
    images = ("u8", "u16", "fp16", "bf16", "fp32", "fp64")

    def compute(image: str) -> str:
        return "fp64" if image == "fp64" else "fp32"

    def full(image: str) -> int:
        return {"u8": 255, "u16": 65535}.get(image, 1)

    def measured(constants: dict[str, Any], general: bool, opencv: bool, channels: int) -> dict[str, Any]:
        mode = 2 if general else 1
        saturation = mode if channels == 3 else 0
        modes = {"CONTRAST": mode, "SATURATION": saturation, "EXPOSEDNESS": True}
        return {**constants, **modes, "OPENCV": opencv, "CHANNELS": channels}

    def weights(image: str, general: bool, opencv: bool, channels: int) -> Variant:
        constants = measured({"FULL": full(image), **bracket}, general, opencv, channels)
        return Variant({"images": image, "weights": compute(image)}, constants, 8, contraction=False)

    def down(source: str, tile: dict[str, int]) -> Variant:
        return Variant({"source": source, "out": compute(source)}, {"FULL": full(source), **tile}, 32)

    def collapse(image: str, out: str, coarsest: bool, mask: bool, tile: dict[str, int]) -> Variant:
        t = compute(image)
        pointers = {
            "images": image,
            "weights": t,
            "coarse": t,
            "result": t,
            "grad": out if mask else t,
            "out": t if mask else out,
        }
        constants = {"CHANNELS": 3, "FULL_IN": full(image), "FULL_OUT": full(out), "COARSEST": coarsest}
        return Variant(pointers, {**constants, "CLAMP": True, "MASK_GRAD": mask, **tile}, 32)

    def adjoint(t: str) -> Variant:
        return Variant({"source": t, "out": t}, wide, 32)

    def weight_gradient(image: str, coarsest: bool) -> Variant:
        pointers = {name: compute(image) for name in ("coarse", "grad", "coarse_grad", "out")}
        return Variant({"images": image, **pointers}, {"CHANNELS": 3, "COARSEST": coarsest, **wide}, 32)

    def image_gradient(t: str, coarsest: bool) -> Variant:
        names = ("weights", "grad", "fine_weights", "fine_grad", "coarse_grad", "out")
        return Variant(dict.fromkeys(names, t), {"CHANNELS": 3, "COARSEST": coarsest, **wide}, 32)

    def measure_gradient(image: str, general: bool, opencv: bool, channels: int) -> Variant:
        pointers = {name: compute(image) for name in ("weight_grads", "shares", "slopes")}
        constants = measured(bracket, general, opencv, channels)
        return Variant({"images": image, **pointers}, constants, 8, contraction=False)

    def bracket_gradient(image: str, general: bool, opencv: bool, channels: int) -> Variant:
        names = ("weights", "grad", "coarse_grad", "shares", "slopes")
        pointers = {"images": image, "out": image} | {name: compute(image) for name in names}
        constants = measured({"COARSEST": False, **wide}, general, opencv, channels)
        return Variant(pointers, constants, 32, contraction=False)

    # Exponents 1 or general, convention, channels.
    settings = ((False, False, 3), (True, True, 3), (True, False, 1))
    floats = ("fp16", "bf16", "fp32", "fp64")
    return {
        "weights_kernel": [weights(image, *setting) for image, setting in _cycle(images, settings)],
        "down_kernel": [down(image, tile) for image, tile in _cycle(images, (wide, small))],
        "collapse_kernel": [
            *(collapse(image, image, False, False, wide) for image in images),
            collapse("u8", "fp32", True, False, small),
            collapse("u16", "fp32", False, False, wide),
            *(collapse(image, image, coarsest, True, wide) for image, coarsest in _cycle(floats, (False, True))),
        ],
        "up_adjoint_kernel": [adjoint(t) for t in ("fp32", "fp64")],
        "weight_gradient_kernel": [weight_gradient(*each) for each in _cycle(floats, (False, True))],
        "image_gradient_kernel": [image_gradient(*each) for each in itertools.product(("fp32", "fp64"), (False, True))],
        "measure_gradient_kernel": [measure_gradient(image, *setting) for image, setting in _cycle(floats, settings)],
        "bracket_gradient_kernel": [bracket_gradient(image, *setting) for image, setting in _cycle(floats, settings)],
    }


def _windows() -> dict[str, list[Variant]]:
    arithmetic = ("fp32", "fp64")
    return {
        "store_taps_kernel": [Variant({"out": t}, {}) for t in arithmetic],
        "continue_kernel": [Variant({"taps": t}, {"BLOCK": 256}) for t in arithmetic],
    }


def _gaussian() -> dict[str, list[Variant]]:
    images = ("u8", "u16", "fp16", "bf16", "fp32", "fp64")
    tile = {"POSITIONS": 64, "LINES": 64, "CHUNK": 32}
    reflect, symmetric, replicate, zeros = range(1, 5)

    def compute(image: str) -> str:
        return "fp64" if image == "fp64" else "fp32"

    def full(image: str) -> int:
        return {"u8": 255, "u16": 65535}.get(image, 1)

    def line(source: str, out: str, rows: bool, border: int, product: bool, adjoint: bool, mask: bool) -> Variant:
        wide = source == "fp64"
        pointers = {"source": source, "out": out} | dict.fromkeys(("lows", "highs", "taps"), compute(source))
        constants = {
            "BORDER": border,
            "ADJOINT": adjoint,
            "ROWS": rows,
            "PRODUCT": product and not wide,
            "PIVOT": mask and not rows and border != zeros,
            "EXTREMES": mask and rows,
            "FULL_OUT": full(out),
            "WIDE": wide,
        }
        return Variant(pointers, {**constants, **tile}, 8)

    def passes(image: str, out: str, border: int, product: bool, adjoint: bool, mask: bool) -> list[Variant]:
        between = compute(image)
        ends = [line(image, between, adjoint, border, product, adjoint, mask)]
        return [*ends, line(between, between if mask else out, not adjoint, border, product, adjoint, mask)]

    def pointwise(constants: dict[str, Any], **pointers: str) -> Variant:
        return Variant(pointers, {**constants, "BLOCK": 1024})

    def reduced(compute_type: str) -> dict[str, str]:
        return dict.fromkeys(("blurred", "lows", "highs"), compute_type)

    # Border, matrix product, adjoint, mask.
    settings = (
        (reflect, True, False, False),
        (symmetric, False, False, True),
        (replicate, True, True, False),
        (zeros, False, True, False),
        (symmetric, True, True, False),
        (replicate, False, False, False),
        (zeros, True, False, True),
        (reflect, True, False, True),
    )
    floats = ("fp16", "bf16", "fp32", "fp64")
    return {
        "taps_kernel": [pointwise({}, taps=t) for t in ("fp32", "fp64")],
        "filter_kernel": [
            *(v for image, setting in _cycle(floats, settings) for v in passes(image, image, *setting)),
            *passes("u8", "u8", reflect, True, False, False),
            *passes("u16", "u16", symmetric, False, False, False),
            *passes("u8", "fp32", replicate, True, False, True),
        ],
        "mask_kernel": [
            pointwise({"INVERT": invert, "FULL": full(out)}, out=out, **reduced(compute(out)))
            for out, invert in _cycle(images, (False, True))
        ],
        "extremes_gradient_kernel": [
            pointwise({}, grad=image, sums="fp64", **reduced(compute(image))) for image in floats
        ],
        "mask_gradient_kernel": [
            pointwise({"INVERT": invert}, grad=image, sums="fp64", **reduced(compute(image)))
            for image, invert in _cycle(floats, (False, True))
        ],
    }


def _lab() -> dict[str, list[Variant]]:
    floats = ("fp16", "bf16", "fp32", "fp64")

    def variant(source: str, out: str, code: str, **pointers: str) -> Variant:
        full = {"u8": 255, "u16": 65535}.get(code, 1)
        return Variant(pointers | {"out": out}, {"FULL": full, "WIDE": source == "fp64", "BLOCK": 512})

    def backward(image: str, name: str) -> Variant:
        return Variant(dict.fromkeys(("grad", name, "out"), image), {"WIDE": image == "fp64", "BLOCK": 512})

    return {
        "to_lab_kernel": [
            *(variant(image, image, image, image=image) for image in floats),
            *(variant(image, "fp32", image, image=image) for image in ("u8", "u16")),
        ],
        "to_rgb_kernel": [
            *(variant(lab, lab, lab, lab=lab) for lab in floats),
            *(variant(lab, out, out, lab=lab) for lab, out in _cycle(floats, ("u8", "u16"))),
        ],
        "to_lab_backward_kernel": [backward(image, "image") for image in floats],
        "to_rgb_backward_kernel": [backward(image, "lab") for image in floats],
    }


def _ssim() -> dict[str, list[Variant]]:
    images = ("u8", "u16", "fp16", "bf16", "fp32", "fp64")
    floats = ("fp16", "bf16", "fp32", "fp64")
    borders = tuple(range(5))  # valid, reflect, symmetric, replicate, zeros
    tile = {"TILE": 32, "CHUNK": 16}

    def compute(image: str) -> str:
        return "fp64" if image == "fp64" else "fp32"

    def full(image: str) -> int:
        return {"u8": 255, "u16": 65535}.get(image, 1)

    def sides(border: int) -> dict[str, int]:
        return {"ROW_BORDER": border, "COLUMN_BORDER": border, **tile}

    def halve(image: str, zero_padded: bool) -> Variant:
        constants = {"ZERO_PADDED": zero_padded, "FULL": full(image), "BLOCK": 1024}
        return Variant({"source": image, "out": compute(image)}, constants)

    def means(image: str, border: int) -> Variant:
        pointers = {"x": image, "y": image, "taps": compute(image), "sums": "fp64"}
        return Variant(pointers, {"FULL": full(image), **sides(border)})

    def slopes(image: str, border: int) -> Variant:
        t = compute(image)
        return Variant({"grad": t, "x": image, "y": image, "taps": t, "maps": t}, sides(border))

    def gradient(image: str, border: int, coarsest: bool, wants: tuple[bool, bool]) -> Variant:
        t = compute(image)
        pointers = {"x": image, "y": image} | dict.fromkeys(("taps", "maps", "coarse_x", "coarse_y"), t)
        pointers |= {name: image if wanted else t for name, wanted in zip(("grad_x", "grad_y"), wants, strict=True)}
        constants = {"ZERO_PADDED": border % 2 == 0, "COARSEST": coarsest, "WANTS_X": wants[0], "WANTS_Y": wants[1]}
        return Variant(pointers, {**constants, **sides(border)})

    wanted = ((True, True), (True, False), (False, True))
    return {
        "halve_kernel": [halve(*each) for each in _cycle(images, (False, True))],
        "means_kernel": [means(*each) for each in _cycle(images, borders)],
        "slopes_kernel": [slopes(*each) for each in _cycle(floats, borders)],
        "gradient_kernel": [
            gradient(image, border, coarsest, wants)
            for (image, border), (coarsest, wants) in zip(
                _cycle(floats, borders) * 2, _cycle((False, True) * 5, wanted), strict=True
            )
        ],
    }


def _cycle(first: tuple[Any, ...], second: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """Every member of both at least once."""
    length = max(len(first), len(second))
    return list(itertools.islice(zip(itertools.cycle(first), itertools.cycle(second), strict=False), length))


def _mef_ssim() -> dict[str, list[Variant]]:
    def variant(image: str, wide: tuple[str, ...], constants: dict[str, Any]) -> Variant:
        arithmetic = "fp64" if image == "fp64" else "fp32"
        pointers = {"sources": image, "fused": image, "taps": arithmetic} | dict.fromkeys(wide, arithmetic)
        if "KP" in constants:
            limits = {"FLOOR": 0.001, "EPS": 2.0**-52, "STEEP": 10.0, "STEEP_FROM": 0.936, "ROUNDING": 1e-6}
            constants = constants | limits
        return Variant(pointers | ({} if wide else {"out": "fp64"}), constants | {"BLOCK": 128})

    images = ("u8", "u16", "fp16", "bf16", "fp32", "fp64")
    floats = images[2:]
    return {
        "means_kernel": [
            *(variant(image, (), {"KP": 4}) for image in images),
            *(variant("fp32", (), {"KP": size}) for size in (2, 8)),
        ],
        "slopes_kernel": [variant(image, ("upstream", "pivots", "slopes"), {"KP": 4}) for image in floats],
        "gradient_kernel": [variant(image, ("pivots", "slopes", "grad"), {}) for image in floats],
    }


def _mtb() -> dict[str, list[Variant]]:
    block = {"BLOCK": 1024}
    grey = {"RED": 9798, "GREEN": 19235, "BLUE": 3735, **block}
    full = {"u8": 255, "u16": 65535}
    images = ("u8", "u16", "fp16", "bf16", "fp32", "fp64")
    compared = {"image": "u8", "reference": "u8", "limits": "i64", "shifts": "i64", "sums": "i64"}
    return {
        "grey_kernel": [
            Variant({"image": image, "codes": "u8"}, {"CHANNELS": channels, "FULL": full.get(image, 1), **grey})
            for image, channels in itertools.product(images, (1, 3))
        ],
        "histogram_kernel": [Variant({"codes": "u8", "counts": "i64"}, block)],
        "compare_kernel": [Variant(compared, block)],
    }


def _pairwise() -> dict[str, list[Variant]]:
    block = {"BLOCK": 512}
    floats = ("fp16", "bf16", "fp32", "fp64")

    def compute(image: str) -> str:
        return "fp64" if image == "fp64" else "fp32"

    def across(image: str) -> Variant:
        pointers = {"prediction": image, "target": image, "tops": "fp64", "sides": "i64", "touched": "u8"}
        pointers |= dict.fromkeys(("given", "wanted"), compute(image))
        return Variant(pointers, {"WIDE": image == "fp64", **block})

    def compare(t: str, ties: bool) -> Variant:
        pointers = {"numbers": "i32", "sides": "i64", "seed": "i64", "costs": "fp64", "counts": "i32", "places": "i32"}
        pointers |= dict.fromkeys(("given", "wanted", "slopes"), t)
        return Variant(pointers, {"TIES": ties, "WIDE": t == "fp64", "STEPS": 17, **block})

    def scatter(t: str, missing: bool) -> Variant:
        pointers = {"places": "i32", "slopes": t, "quanta": "i64", "sums": "i64"}
        return Variant(pointers, {"MISSING": missing, **block})

    def down(image: str) -> Variant:
        pointers = {"sums": "i64", "sides": "i64", "units": "fp64", "grad": compute(image), "out": image}
        return Variant(pointers, {"WIDE": image == "fp64", **block})

    both = (("fp32", True), ("fp64", False))
    return {
        "across_kernel": [across(image) for image in floats],
        "usable_kernel": [Variant({"touched": "u8", "sides": "i64", "usable": "i32"}, block)],
        "compare_kernel": [compare(*one) for one in both],
        "scatter_kernel": [scatter(*one) for one in both],
        "spread_across_kernel": [Variant({"sums": "i64", "sides": "i64", "out": "i64"}, block)],
        "spread_down_kernel": [down(image) for image in floats],
    }


def _matching() -> dict[str, list[Variant]]:
    def variant(image: str, inputs: tuple[str, ...], **constants: Any) -> Variant:
        pointers = dict.fromkeys((*inputs, "out"), image) | {"motions": "i64"}
        return Variant(pointers, {**constants, "WIDE": image == "fp64", "GROUP": 8, "BLOCK": 128})

    floats = ("fp16", "bf16", "fp32", "fp64")
    return {
        "correlation_kernel": [variant(image, ("a", "b")) for image in floats],
        "correlation_backward_kernel": [
            variant(image, ("grad", "other"), MOVED=moved) for image, moved in _cycle(floats, (False, True))
        ],
    }


def _hourglass() -> dict[str, list[Variant]]:
    def variant(image: str, biased: bool) -> Variant:
        half = image in ("fp16", "bf16")
        pointers = dict.fromkeys(("x", "weight", "bias", "out"), image)
        constants = {"BIAS": biased, "RELU": biased, "WIDE": image == "fp64", "HALF": half, "ROWS": 64}
        constants |= {"CHANNELS": 32 if half else 16, "COLUMNS": 64 if half else 32}
        return Variant(pointers, constants, aligned=("channels", "results") if biased else ())

    floats = ("fp16", "bf16", "fp32", "fp64")
    return {"deconv3d_kernel": [variant(*each) for each in _cycle(floats, (True, False, True))]}


def _matching_volume() -> dict[str, list[Variant]]:
    floats = ("fp16", "bf16", "fp32", "fp64")
    given = ("features", "saturation", "motions", "gains")

    def arithmetic(image: str) -> str:
        return "fp64" if image == "fp64" else "fp32"

    def variant(image: str, out: str, names: tuple[str, ...], constants: dict[str, Any]) -> Variant:
        pointers = dict.fromkeys((*names, "out"), image) | {"out": out}
        pointers |= {name: arithmetic(image) for name in ("gains", "constants") if name in names}
        pointers |= {"motions": "i64"} if "motions" in names else {}
        chunk = 32 if image in ("fp16", "bf16") else 16
        constants = {"CHANNELS": chunk, "ROWS": 64, "WIDE": image == "fp64"} | constants
        return Variant(
            pointers,
            constants,
            aligned=("channels", "results") if "weight" in names or "grad" in names else ("channels",),
        )

    def volume(mask: tuple[bool, int, bool]) -> dict[str, Any]:
        return dict(zip(("CAP", "SATURATION", "INCLUDE"), mask, strict=True))

    def product(image: str, columns: int) -> dict[str, Any]:
        return {"HALF": image in ("fp16", "bf16"), "COLUMNS": columns}

    def gradient(image: str, mask: tuple[bool, int, bool], of_reference: bool, convolved: bool) -> Variant:
        what = {"REFERENCE": of_reference, "CONVOLVED": convolved, "INNER": not convolved and mask[0]}
        constants = {**volume(mask), **what, **product(image, 32 if image in ("fp16", "bf16") else 16)}
        return variant(image, image, ("grad", *given, "weight", "constants"), constants)

    def weight(image: str, mask: tuple[bool, int, bool], constant: bool) -> Variant:
        # What is constant is summed already.
        grad = arithmetic(image) if constant else image
        constants = {**volume(mask), **product(image, 32), "CONSTANT": constant, "ROWS": 32 if constant else 64}
        found = variant(image, arithmetic(image), ("grad", *given), constants)
        return found._replace(pointers=found.pointers | {"grad": grad})

    # The reading of the mask, channels of the saturation (none, one, all), whether the reference image has slices.
    masks = ((False, 1, True), (True, 0, True), (True, 2, False), (False, 0, False))
    each = _cycle(floats, masks)
    return {
        "volume_kernel": [
            variant(image, image, given, {**volume(mask), "INNER": inner})
            for (image, mask), inner in zip(each, (False, True, True, False), strict=True)
        ],
        "constants_kernel": [
            variant(image, arithmetic(image), ("base", "weight"), {"CHANNELS": 16, "COLUMNS": 32}) for image in floats
        ],
        "convolve_kernel": [
            variant(
                image,
                image,
                (*given, "weight", "constants", "bias"),
                {
                    **volume(mask),
                    **product(image, 64 if image in ("fp16", "bf16") else 32),
                    "BIAS": biased,
                    "RELU": biased,
                },
            )
            for (image, mask), biased in zip(each, (True, False, False, True), strict=True)
        ],
        "features_kernel": [
            gradient(image, mask, of_reference, convolved)
            for of_reference, convolved in itertools.product((False, True), (True, False))
            for image, mask in each
        ],
        "depth_sums_kernel": [
            Variant(
                {"grad": image, "out": arithmetic(image)},
                {"INCLUDE": mask[2], "WIDE": image == "fp64", "ROWS": 64, "COLUMNS": 32},
                aligned=("results",),
            )
            for image, mask in each
        ],
        "weight_kernel": [weight(image, mask, constant) for constant in (False, True) for image, mask in each],
    }


VARIANTS = {
    "imf": _imf(),
    "exposure_fusion": _exposure_fusion(),
    "gaussian": _gaussian(),
    "hourglass": _hourglass(),
    "lab": _lab(),
    "matching": _matching(),
    "matching_volume": _matching_volume(),
    "mef_ssim": _mef_ssim(),
    "mtb": _mtb(),
    "pairwise": _pairwise(),
    "ssim": _ssim(),
    "_windows": _windows(),
}


def entries() -> dict[str, dict[str, Any]]:
    """Launch entries by module."""
    from triton.runtime.jit import JITFunction

    package = importlib.import_module("hdrops.kernels")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        members = vars(importlib.import_module(f"hdrops.kernels.{module.name}"))
        kernels = {
            name: member
            for name, member in members.items()
            if isinstance(member, JITFunction) and not name.startswith("_")
        }
        if kernels:
            found[module.name] = kernels
    return found


def compile_variant(kernel: Any, variant: Variant, capability: int) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, attributes = {}, {}
    for position, parameter in enumerate(kernel.params):
        name = parameter.name
        if parameter.is_constexpr:
            signature[name] = "constexpr"
        elif name in variant.pointers:
            signature[name] = "*" + variant.pointers[name]
            if not parameter.do_not_specialize_on_alignment:
                attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = parameter.annotation_type or "i32"
            if name in variant.aligned:
                attributes[(position,)] = [["tt.divisibility", 16]]
    constants = {
        parameter.name: variant.constants[parameter.name] for parameter in kernel.params if parameter.is_constexpr
    }
    unknown = (variant.pointers.keys() | variant.constants.keys() | {*variant.aligned}) - signature.keys()
    if unknown:
        raise ValueError(f"{kernel.__name__} has no parameters {sorted(unknown)}")
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": variant.warps, "enable_fp_fusion": variant.contraction}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(cubin: bytes) -> str:
    """Registers per thread, and bytes of stack, where registers are spilled to."""
    import triton.backends.nvidia as nvidia

    dump = pathlib.Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    if not dump.exists():
        return "registers unknown"
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(dump), "--dump-resource-usage", str(file)]
        report = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", report)
    return f"{usage[1]} registers, {usage[2]} bytes of stack" if usage else "registers unknown"


def main() -> int:
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise SystemExit("unset TRITON_INTERPRET: the interpreter compiles nothing")
    found = entries()
    listed = {(module, name) for module, kernels in VARIANTS.items() for name in kernels}
    present = {(module, name) for module, kernels in found.items() for name in kernels}
    if listed != present:
        raise SystemExit(f"without a variant: {sorted(present - listed)}, without a kernel: {sorted(listed - present)}")
    compiled = 0
    for module, name in sorted(present):
        pairs = [*itertools.product(VARIANTS[module][name], CAPABILITIES)]
        if "--full" not in sys.argv:  # the first variant for both, the others for one and the other by turns
            pairs = [pair for k, pair in enumerate(pairs) if k < 2 or (k // 2 + k) % 2]
        for variant, capability in pairs:
            result = compile_variant(found[module][name], variant, capability)
            if not result.asm.get("cubin"):
                raise SystemExit(f"{module}.{name}: no cubin for sm_{capability}")
            compiled += 1
            types = " ".join(dict.fromkeys(variant.pointers.values()))
            usage = resources(result.asm["cubin"])
            print(
                f"sm_{capability} {module}.{name} ({types}): {usage}, {result.metadata.shared} bytes shared",
                flush=True,
            )
    print(f"compiled {compiled} variants of {len(present)} kernels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
