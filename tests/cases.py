"""What the contract of ``tests/ops/test_contract.py`` runs over: operators, dtypes, layouts and shapes.

A new operator adds its ``OpCase`` entries to ``CASES``.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import pkgutil
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import hdrops
from hdrops import reference
from hdrops.ops import _providers
from hdrops.ops._borders import BORDERS, Border
from hdrops.ops.mef_ssim import in_grey
from hdrops.reference import exposure_fusion as exposure_fusion_reference
from hdrops.reference import gaussian as gaussian_reference
from hdrops.reference import hourglass as hourglass_reference
from hdrops.reference import imf as imf_reference
from hdrops.reference import lab as lab_reference
from hdrops.reference import matching as matching_reference
from hdrops.reference import matching_volume as matching_volume_reference
from hdrops.reference import mtb as mtb_reference

# Triton reads this when its kernels are imported; see conftest.py.
INTERPRETING = _providers.interpreting()

CODES = (torch.uint8, torch.uint16)
HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, *CODES)
LAYOUTS = ("contiguous", "channels_last", "sliced", "expanded", "offset")
FULL_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0}

# (N, C, H, W) by name.
SHAPES = {
    "pixel": (2, 3, 1, 1),
    "row": (2, 1, 1, 37),
    "column": (1, 3, 41, 1),
    "odd": (2, 3, 15, 21),
    "prime": (2, 1, 31, 53),
    "empty-batch": (0, 3, 8, 8),
    "no-rows": (2, 3, 0, 7),
    "many-blocks": (1, 3, 300, 517),
}
# For the slow reference.
SMALL_SHAPES = SHAPES | {
    "odd": (2, 3, 9, 13),
    "prime": (2, 1, 17, 29),
    "many-blocks": (1, 3, 45, 71),
}
# For the interpreter of Triton, which runs one program after the other.
INTERPRETED_SHAPES = {
    "pixel": (2, 3, 1, 1),
    "row": (2, 1, 1, 37),
    "odd": (2, 3, 7, 9),
    "empty-batch": (0, 3, 8, 8),
    "many-blocks": (1, 3, 23, 41),
}


def device_copy(inputs: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in inputs.items()}


def lay_out(image: Tensor, layout: str) -> Tensor:
    """A tensor of the same shape and dtype in the given layout; the leading dimension is the batch.

    The values are those of ``image``, except that "expanded" repeats its first member.
    """
    if layout == "channels_last":
        return image.movedim(-3, -1).contiguous().movedim(-1, -3)
    if layout == "sliced":
        *outer, height, width = image.shape
        storage = torch.zeros(*outer, height + 2, 2 * width + 1, dtype=image.dtype, device=image.device)
        view = storage[..., 1 : height + 1, 1 : 2 * width + 1 : 2]
        view.copy_(image)
        return view
    if layout == "expanded":
        return image[:1].expand(image.shape) if len(image) > 1 else image
    if layout == "offset":
        storage = torch.zeros(image.numel() + 1, dtype=image.dtype, device=image.device)
        view = storage[1:].view(image.shape)
        view.copy_(image)
        return view
    assert layout == "contiguous"
    return image


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Let every reference compute in float64 whatever the dtype of the images."""
    with contextlib.ExitStack() as stack:
        for module in pkgutil.iter_modules(reference.__path__):
            definition = importlib.import_module(f"hdrops.reference.{module.name}")
            if hasattr(definition, "_compute"):
                stack.enter_context(mock.patch.object(definition, "_compute", return_value=torch.float64))
        yield


def usual_results(image: torch.dtype) -> tuple[torch.dtype, ...]:
    """That of the images, and float32 for codes."""
    return (image, torch.float32) if image in CODES else (image,)


@dataclass(frozen=True)
class OpCase:
    """One operator with one set of options.

    ``make(shape, dtype, generator)`` gives contiguous CPU inputs by name; those in ``images`` take the layout
    under test. ``call`` is the public function, ``exact`` the float64 definition in units of full scale 1 and
    ``arguments`` the arguments of the operator's schema (without ``dtype`` and ``out``). Results are within
    k eps (|exact| + scale) and gradients, whose largest entry is taken as their scale, within k_gradient eps. Where
    float32 arithmetic of the C++ kernel approximates, ``method_error`` states how far in units of eps: it adds to both.
    The backward of a ``linear`` operator takes no image.
    ``results`` gives the dtypes offered for results from images of a dtype, the default first.
    ``numbers`` gives the shape of what the operator returns where that is no image: numbers of the arithmetic type.
    ``backward`` holds what the schema of the backward takes beyond ``arguments``, or ``backward_arguments`` in their
    place; without ``has_backward`` gradients are made of torch's operators. Below ``least_side`` pixels the result
    hangs on cancellation. Second derivatives of those that are not ``traced_twice`` look at values, which no compiler
    has.
    """

    name: str
    operator: str
    make: Callable[[Sequence[int], torch.dtype, torch.Generator], dict[str, Tensor]]
    images: tuple[str, ...]
    call: Callable[..., Tensor]
    exact: Callable[[dict[str, Tensor]], Tensor]
    arguments: Callable[[dict[str, Tensor]], tuple[Any, ...]]
    k: float
    k_gradient: float = 0.0
    method_error: float = 0.0
    linear: bool = False
    scale: float = 1.0
    dtypes: tuple[torch.dtype, ...] = DTYPES
    gradient_dtypes: tuple[torch.dtype, ...] = ()
    differentiable: tuple[str, ...] = ()
    has_out: bool = True
    has_backward: bool = True
    traced_twice: bool = True
    results: Callable[[torch.dtype], tuple[torch.dtype, ...]] = usual_results
    numbers: Callable[[Tensor], tuple[int, ...]] | None = None
    backward: tuple[Any, ...] = ()
    backward_arguments: Callable[[dict[str, Tensor]], tuple[Any, ...]] | None = None
    shapes: tuple[str, ...] = tuple(SHAPES)
    many_blocks: tuple[int, ...] = SHAPES["many-blocks"]
    least_side: int = 1

    def inputs(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        layout: str = "contiguous",
        device: str = "cpu",
        seed: int = 0,
    ) -> dict[str, Tensor]:
        made = device_copy(self.make(shape, dtype, torch.Generator().manual_seed(seed)), device)
        return {name: lay_out(x, layout) if name in self.images else x for name, x in made.items()}

    def tolerance(self, dtype: torch.dtype, backend: str) -> float:
        """k for the arithmetic of images or results of ``dtype``."""
        return self.k + self._approximation(dtype, backend)

    def gradient_tolerance(self, dtype: torch.dtype, backend: str) -> float:
        return self.k_gradient + self._approximation(dtype, backend)

    def _approximation(self, dtype: torch.dtype, backend: str) -> float:
        return self.method_error if backend == "cpp" and dtype != torch.float64 else 0.0

    def gives_float32(self, dtype: torch.dtype) -> bool:
        """Whether float32 results of images of ``dtype`` are to be asked for."""
        return self.has_out and torch.float32 in self.results(dtype)[1:]

    def result_shape(self, inputs: dict[str, Tensor]) -> tuple[int, ...]:
        """The shape of the operator's result."""
        image = inputs[self.images[0]]
        if self.numbers is not None:
            return self.numbers(image)
        return (image.shape[0], *image.shape[-3:])

    def active(self, inputs: dict[str, Tensor]) -> list[str]:
        """Names of the inputs with a gradient: of images only where they are floating point."""
        return [name for name in self.differentiable if inputs[name].is_floating_point()]

    def definition(self, inputs: dict[str, Tensor]) -> Tensor:
        """The exact result on the CPU, for a full scale of 1."""
        wide = {name: x.cpu().contiguous() for name, x in inputs.items()}
        wide = {name: x.double() if x.is_floating_point() else x for name, x in wide.items()}
        with in_float64():
            return self.exact(wide)

    def definition_gradients(self, inputs: dict[str, Tensor], upstream: Tensor) -> dict[str, Tensor]:
        names = self.active(inputs)
        wide = {name: x.detach().cpu().contiguous() for name, x in inputs.items()}
        wide |= {name: x.double() for name, x in wide.items() if x.is_floating_point()}
        leaves = {name: wide[name].requires_grad_() for name in names}
        with in_float64():
            result = self.exact(wide)
        grads = torch.autograd.grad(result, list(leaves.values()), upstream.detach().cpu().double())
        return dict(zip(names, grads, strict=True))


# ---- inputs --------------------------------------------------------------------------------------


def to_dtype(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in [0, 1] as an image: codes of an integer type, or rounded floats."""
    if dtype in FULL_SCALE:
        return (image * FULL_SCALE[dtype]).round().to(torch.int32).to(dtype)
    return image.to(dtype)


def rising_table(rows: tuple[int, ...], levels: int, generator: torch.Generator, top: float) -> Tensor:
    """Increasing tables (*rows, levels) of float32 from 0 to ``top``."""
    steps = 0.5 + torch.rand(*rows, levels, generator=generator, dtype=torch.float64)
    steps[..., 0] = 0
    climb = steps.cumsum(-1)
    return (climb / climb[..., -1:] * top).float()


def _unpin(image: Tensor, levels: int) -> Tensor:
    """Float images whose table positions keep 0.02 entries away from the kinks of the table."""
    if not image.is_floating_point():
        return image
    step = torch.finfo(image.dtype).eps / 2
    for _ in range(64):
        position = image.double() * (levels - 1)
        pinned = ((position - position.round()).abs() < 0.02) & (position > 0) & (position < levels - 1)
        if not pinned.any():
            break
        image = torch.where(pinned, (image.double() * (1 + 2 * step) + 0.01 / levels).to(image.dtype), image)
    return image


def make_imf_fuse(
    low: tuple[float, float], high: tuple[float, float], levels: tuple[int, int], batched: bool
) -> Callable[[Sequence[int], torch.dtype, torch.Generator], dict[str, Tensor]]:
    def make(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
        n, c = shape[:2]
        dark = torch.rand(*shape, generator=generator, dtype=torch.float64)
        bright = torch.rand(*shape, generator=generator, dtype=torch.float64)
        # Where both weights nearly vanish, eq. 8 is 0/0 and no arithmetic can be accurate: make both vanish.
        weak = (dark * 255 < low[0] + 3) & (bright * 255 > high[1] - 3)
        dark, bright = torch.where(weak, 0.0, dark), torch.where(weak, 1.0, bright)
        rows = (n, c) if batched else (c,)
        return {
            "dark": _unpin(to_dtype(dark, dtype), levels[0]),
            "bright": _unpin(to_dtype(bright, dtype), levels[1]),
            "imf_dark": rising_table(rows, levels[0], generator, 300.0),
            "imf_bright": rising_table(rows, levels[1], generator, 240.0),
        }

    return make


def make_bracket(count: int) -> Callable[[Sequence[int], torch.dtype, torch.Generator], dict[str, Tensor]]:
    """Brackets whose weights are well conditioned: contrast and saturation bounded away from 0.

    A chessboard of amplitude 0.12 dominates the noise in the Laplacian, offsets of the channels that in S.
    """

    def make(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
        n, c, height, width = shape
        noise = torch.rand(n, count, c, height, width, generator=generator, dtype=torch.float64)
        board = 1.0 - 2.0 * ((torch.arange(height)[:, None] + torch.arange(width)) % 2)
        sign = torch.tensor([1.0, -0.7, 0.85, -1.0])[torch.arange(count) % 4].view(-1, 1, 1, 1)
        offset = torch.linspace(-0.1, 0.1, c).view(-1, 1, 1) if c > 1 else torch.zeros(1, 1, 1)
        exposure = torch.linspace(-0.16, 0.16, count).view(-1, 1, 1, 1)
        return {"bracket": to_dtype(0.46 + 0.08 * noise + 0.12 * board * sign + offset + exposure, dtype)}

    return make


def make_image(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    return {"image": to_dtype(torch.rand(*shape, generator=generator, dtype=torch.float64), dtype)}


def make_colours(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """sRGB colours off the kinks of the curve, some dark, some negative; three channels whatever the shape says.

    None is neutral, where a* and b* are what rounding leaves.
    """
    n, _, height, width = shape

    def one_in(count: int) -> Tensor:
        return torch.rand(n, 1, height, width, generator=generator) < 1 / count

    colours = 0.1 + 0.9 * torch.rand(n, 3, height, width, generator=generator, dtype=torch.float64)
    colours = torch.where(one_in(4), 0.03 * colours, colours)
    neutral = (lab_reference.to_lab(colours)[:, 1:].abs() < 0.25).any(1, keepdim=True)
    colours = torch.where(neutral, torch.tensor([0.8, 0.3, 0.2], dtype=torch.float64).view(3, 1, 1), colours)
    if dtype.is_floating_point:
        colours = torch.where(one_in(20), -colours, colours)
    return {"image": to_dtype(colours, dtype)}


def make_lab(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    colours = make_colours(shape, torch.float64, generator)["image"]
    return {"lab": lab_reference.to_lab(colours).to(dtype)}


def make_histograms(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    source = torch.rand(*shape, generator=generator, dtype=torch.float64)
    target = (1.3 * torch.rand(*shape, generator=generator, dtype=torch.float64) ** 0.7).clamp(0, 1)
    return {"source": to_dtype(source, dtype), "target": to_dtype(target, dtype)}


# ---- operators -----------------------------------------------------------------------------------


def imf_fuse_case(
    name: str,
    low: tuple[float, float] = (5, 55),
    high: tuple[float, float] = (200, 250),
    levels: tuple[int, int] = (256, 256),
    batched: bool = False,
) -> OpCase:
    def broadcast(table: Tensor) -> Tensor:
        return table if table.dim() == 3 else table.unsqueeze(0)

    def arguments(x: dict[str, Tensor]) -> tuple[Any, ...]:
        tables = [
            broadcast(x[t]).to(torch.float64 if x["dark"].dtype == torch.float64 else torch.float32)
            for t in ("imf_dark", "imf_bright")
        ]
        return x["dark"], x["bright"], *tables, [float(v) for v in low], [float(v) for v in high]

    def exact(x: dict[str, Tensor]) -> Tensor:
        tables = broadcast(x["imf_dark"]), broadcast(x["imf_bright"])
        return imf_reference.fuse(x["dark"], x["bright"], *tables, list(low), list(high)) / 255.0

    def call(x: dict[str, Tensor], **kwargs: Any) -> Tensor:
        return hdrops.imf_fuse(x["dark"], x["bright"], x["imf_dark"], x["imf_bright"], low=low, high=high, **kwargs)

    return OpCase(
        name=name,
        operator="imf_fuse",
        make=make_imf_fuse(low, high, levels, batched),
        images=("dark", "bright"),
        call=call,
        exact=exact,
        arguments=arguments,
        k=16,
        k_gradient=64,
        gradient_dtypes=DTYPES,
        differentiable=("dark", "bright", "imf_dark", "imf_bright"),
    )


def exposure_fusion_case(
    name: str,
    exponents: tuple[float, float, float] = (1.0, 1.0, 1.0),
    convention: str = "paper",
    count: int = 3,
) -> OpCase:
    contrast, saturation, exposedness = exponents

    def arguments(x: dict[str, Tensor]) -> tuple[Any, ...]:
        return x["bracket"], contrast, saturation, exposedness, convention == "opencv"

    def exact(x: dict[str, Tensor]) -> Tensor:
        bracket = x["bracket"]
        if bracket.numel() == 0:
            return bracket.double().sum(1)
        return exposure_fusion_reference.fuse(*arguments(x))

    def call(x: dict[str, Tensor], **kwargs: Any) -> Tensor:
        return hdrops.exposure_fusion(
            x["bracket"],
            contrast=contrast,
            saturation=saturation,
            exposedness=exposedness,
            convention=convention,
            **kwargs,
        )

    return OpCase(
        name=name,
        operator="exposure_fusion",
        make=make_bracket(count),
        images=("bracket",),
        call=call,
        exact=exact,
        arguments=arguments,
        k=16,
        k_gradient=128,
        gradient_dtypes=FLOATS,
        differentiable=("bracket",),
        many_blocks=(1, 3, 97, 151),
    )


def gaussian_case(name: str, operator: str, sigma: float, border: Border, **options: Any) -> OpCase:
    """``options`` may hold ``radius`` and, for the mask, ``invert``. Windows longer than 12 pixels to either side are
    sums of cosines in the C++ kernel's float32, which fit them to 3e-5."""
    radius = options.get("radius", round(3 * sigma))
    masked = operator == "gaussian_mask"
    definition = gaussian_reference.mask if masked else gaussian_reference.blur

    def arguments(x: dict[str, Tensor]) -> tuple[Any, ...]:
        shared = (x["image"], sigma, radius, BORDERS[border])
        return (*shared, options.get("invert", False)) if masked else shared

    return OpCase(
        name=name,
        operator=operator,
        make=make_image,
        images=("image",),
        call=lambda x, **kwargs: getattr(hdrops, operator)(x["image"], sigma, border=border, **options, **kwargs),
        exact=lambda x: definition(*arguments(x)),
        arguments=arguments,
        # The mask divides by the contrast that the blur left.
        k=128 if masked else 16,
        k_gradient=512 if masked else 64,
        method_error=3e-5 / torch.finfo(torch.float32).eps if radius > 12 else 0.0,
        # A blur much wider than the image leaves hardly any contrast.
        least_side=max(1, round(2 * sigma)) if masked else 1,
        linear=not masked,
        gradient_dtypes=FLOATS,
        differentiable=("image",),
        many_blocks=(1, 3, 97, 151),
    )


def lab_results(image: torch.dtype) -> tuple[torch.dtype, ...]:
    return (torch.float32 if image in CODES else image,)


RGB_TO_LAB = OpCase(
    name="rgb_to_lab",
    operator="rgb_to_lab",
    make=make_colours,
    images=("image",),
    call=lambda x, **kwargs: hdrops.rgb_to_lab(x["image"], **kwargs),
    exact=lambda x: lab_reference.to_lab(x["image"]),
    arguments=lambda x: (x["image"],),
    # a* is 500 times a difference of roots, of which each may be off by 3 eps.
    k=32,
    k_gradient=64,
    scale=100.0,
    results=lab_results,
    gradient_dtypes=FLOATS,
    differentiable=("image",),
    many_blocks=(1, 3, 97, 151),
)
LAB_TO_RGB = OpCase(
    name="lab_to_rgb",
    operator="lab_to_rgb",
    make=make_lab,
    images=("lab",),
    call=lambda x, **kwargs: hdrops.lab_to_rgb(x["lab"], **kwargs),
    exact=lambda x: lab_reference.to_rgb(x["lab"]),
    arguments=lambda x: (x["lab"],),
    # Near 0 the curve multiplies what the matrix leaves by 12.92.
    k=64,
    k_gradient=64,
    results=lambda lab: (lab, *CODES),
    dtypes=FLOATS,
    gradient_dtypes=FLOATS,
    differentiable=("lab",),
    many_blocks=(1, 3, 97, 151),
)


def make_pair(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """An image and a noisier copy: neither alike nor unlike."""
    x = 0.1 + 0.8 * torch.rand(*shape, generator=generator, dtype=torch.float64)
    y = 0.7 * x + 0.25 * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return {"x": to_dtype(x, dtype), "y": to_dtype(y, dtype)}


def ssim_case(
    name: str,
    weights: tuple[float, ...] = (),
    downsampling: str = "symmetric",
    **options: Any,
) -> OpCase:
    """``ssim``, or ``ms_ssim`` where there are weights, times the number of pixels.

    Gradients of a mean over many pixels are too small for float16.
    """

    def evaluate(x: dict[str, Tensor], **backend: Any) -> Tensor:
        common = {"reduction": "none", **options, **backend}
        if weights:
            value = hdrops.ms_ssim(x["x"], x["y"], weights=weights, downsampling=downsampling, **common)
        else:
            value = hdrops.ssim(x["x"], x["y"], **common)
        height, width = x["x"].shape[-2:]
        return value * (height * width)

    def arguments(x: dict[str, Tensor]) -> tuple[Any, ...]:
        c1, c2 = (k**2 for k in options.get("k", (0.01, 0.03)))
        size, sigma = options.get("window", 11), options.get("sigma", 1.5)
        taps = [1 / size] * size if sigma is None else gaussian_reference.window(sigma, size // 2)
        covariance = size**2 / (size**2 - 1) if options.get("unbiased") else 1.0
        common = (taps, c1, c2, covariance, BORDERS[options["border"]])
        return x["x"], x["y"], *common, max(1, len(weights)), downsampling == "zeros"

    return OpCase(
        name=name,
        operator="ssim_means",
        make=make_pair,
        images=("x", "y"),
        call=evaluate,
        exact=lambda x: evaluate(x, backend="reference").double(),
        arguments=arguments,
        k=16,
        k_gradient=128,
        scale=0.0,
        gradient_dtypes=FLOATS,
        differentiable=("x", "y"),
        has_out=False,
        numbers=lambda image: (*image.shape[:2], max(1, len(weights)), 2),
        backward=(True, True),
        shapes=tuple(shape for shape in SHAPES if shape != "no-rows"),
        many_blocks=(1, 3, 97, 151),
    )


def _estimate(x: dict[str, Tensor], **kwargs: Any) -> Tensor:
    return hdrops.estimate_imf(x["source"], x["target"], 100, **kwargs)


def make_fusion(count: int) -> Callable[[Sequence[int], torch.dtype, torch.Generator], dict[str, Tensor]]:
    """Sources that share some structure, and a fused image that has some of it: neither alike nor unlike."""

    def make(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
        n, *image = shape
        scene = torch.rand(n, 1, *image, generator=generator, dtype=torch.float64)
        noise = torch.rand(n, count, *image, generator=generator, dtype=torch.float64)
        gain = torch.linspace(0.3, 1.0, count, dtype=torch.float64).view(-1, 1, 1, 1)
        sources = 0.1 + 0.8 * gain * (0.5 * scene + 0.5 * noise)
        fused = 0.7 * sources.mean(1) + 0.25 * torch.rand(n, *image, generator=generator, dtype=torch.float64)
        return {"fused": to_dtype(fused, dtype), "bracket": to_dtype(sources, dtype)}

    return make


def mef_ssim_case(name: str, count: int, *, border: str, weights: tuple[float, ...], **options: Any) -> OpCase:
    """``mef_ssim`` of ``count`` sources times the number of pixels, as :func:`ssim_case`; over 255, for gradients of
    the size that those of codes have."""
    levels = len(weights)

    def evaluate(x: dict[str, Tensor], **backend: Any) -> Tensor:
        value = hdrops.mef_ssim(
            x["fused"], x["bracket"], weights=weights, border=border, reduction="none", **options, **backend
        )
        height, width = x["fused"].shape[-2:]
        return value * (height * width / 255)

    def arguments(x: dict[str, Tensor]) -> tuple[Any, ...]:
        taps = gaussian_reference.window(options.get("sigma", 1.5), options.get("window", 11) // 2)
        images = (in_grey(x["fused"]), in_grey(x["bracket"]))
        return *images, taps, 1.0, options.get("k", 0.03), BORDERS[border], levels

    return OpCase(
        name=name,
        operator="mef_ssim_means",
        make=make_fusion(count),
        images=("fused", "bracket"),
        call=evaluate,
        exact=lambda x: evaluate(x, backend="reference").double(),
        arguments=arguments,
        # Weights are powers, up to the tenth, of contrasts that are sums over windows.
        k=64,
        k_gradient=512,
        scale=0.0,
        gradient_dtypes=FLOATS,
        differentiable=("fused",),
        has_out=False,
        numbers=lambda image: (image.shape[0], levels),
        # One pixel is flat under every border but zeros, and its gradient 0 but for rounding.
        shapes=tuple(shape for shape in SHAPES if shape not in ("no-rows", "pixel")),
        # Two pixels have one structure, up to its sign: sources of a level so small may cancel.
        least_side=2**levels + 1,
        many_blocks=(1, 3, 97, 151),
    )


def make_shifted(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """Codes of a smooth scene, and those of a darker exposure of it that is moved and noisy. Floating-point images
    keep away from values halfway between two codes."""
    *outer, height, width = shape
    coarse = torch.rand(*outer, height // 4 + 2, width // 4 + 2, generator=generator, dtype=torch.float64)
    fine = coarse.repeat_interleave(4, -2).repeat_interleave(4, -1)[..., : height + 2, : width + 1]
    fine = 0.8 * fine + 0.2 * torch.rand(fine.shape, generator=generator, dtype=torch.float64)
    pair = {"image": 0.6 * fine[..., 2:, :width], "reference": fine[..., :height, 1:]}
    if dtype == torch.uint16:
        return {name: to_dtype(x, dtype) for name, x in pair.items()}
    codes = {name: to_dtype(x, torch.uint8) for name, x in pair.items()}
    if dtype == torch.uint8:
        return codes
    between = {name: 0.8 * torch.rand(x.shape, generator=generator) - 0.4 for name, x in codes.items()}
    return {name: ((x + between[name]) / 255).to(dtype) for name, x in codes.items()}


def mtb_case(name: str, levels: int, exclude: int) -> OpCase:
    """Whole numbers, in the arithmetic type: the tolerance is far below 1."""

    def call(x: dict[str, Tensor], **kwargs: Any) -> Tensor:
        found = torch.cat(hdrops.mtb_shift(x["image"], x["reference"], levels=levels, exclude=exclude, **kwargs), dim=1)
        return found.to(torch.float64 if x["image"].dtype == torch.float64 else torch.float32)

    return OpCase(
        name=name,
        operator="mtb_shift",
        make=make_shifted,
        images=("image", "reference"),
        call=call,
        exact=lambda x: mtb_reference.mtb_shift(x["image"], x["reference"], levels, exclude).double(),
        arguments=lambda x: (x["image"], x["reference"], levels, exclude),
        k=1,
        has_out=False,
        numbers=lambda image: (image.shape[0], 4),
        shapes=tuple(name for name in SHAPES if name != "no-rows"),
    )


def make_ordered(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """A target, and a prediction that has something of its order."""
    target, noise = (0.05 + 0.9 * torch.rand(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return {"prediction": (0.4 * target + 0.6 * noise).to(dtype), "target": target.to(dtype)}


def pairwise_case(name: str, *, patches: bool, threshold: float, limit: float, ties: str) -> OpCase:
    """``pairwise_loss`` times 32, for gradients that float16 can hold; patches of 2 to 4 pixels a side."""
    pairs, seed, least = 24, -(2**62) - 12345, 1e-6

    def sides_of(image: Any) -> Tensor | None:
        if not patches or isinstance(image, list):
            return None
        return torch.arange(image.shape[0], device=torch.as_tensor(image).device) % 3 + 2

    def evaluate(x: dict[str, Tensor], **backend: Any) -> Tensor:
        options = {"pairs": pairs, "threshold": threshold, "limit": limit, "ties": ties, "least": least}
        prediction, target = x["prediction"], x["target"]
        return 32 * hdrops.pairwise_loss(prediction, target, seed, sides=sides_of(prediction), **options, **backend)

    def arguments(x: dict[str, Tensor]) -> tuple[Any, ...]:
        prediction, target = x["prediction"], x["target"]
        number = torch.tensor(seed, device=prediction.device)
        return prediction, target, number, sides_of(prediction), pairs, threshold, limit, ties == "ignored", least

    def backward_arguments(x: dict[str, Tensor]) -> tuple[Any, ...]:
        prediction, *rest = arguments(x)
        _, places, slopes = torch.ops.hdrops.pairwise_loss(prediction, *rest)
        return prediction.detach().requires_grad_(), *rest[:3], places, slopes, *rest[4:]

    return OpCase(
        name=name,
        operator="pairwise_loss",
        make=make_ordered,
        images=("prediction", "target"),
        call=evaluate,
        exact=lambda x: evaluate(x, backend="reference").double(),
        arguments=arguments,
        k=16,
        k_gradient=64,
        scale=32.0,
        dtypes=FLOATS,
        gradient_dtypes=FLOATS,
        differentiable=("prediction",),
        has_out=False,
        numbers=lambda image: (*image.shape[:2], 2),
        backward_arguments=backward_arguments,
        traced_twice=False,
        # Of one pixel, what a pair gives cancels but for rounding.
        shapes=tuple(shape for shape in SHAPES if shape != "pixel"),
    )


def make_features(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """Features of both signs, and as many motions as channels, so that the result has the shape of the features."""
    a, b = (2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1 for _ in range(2))
    motions = torch.tensor([[1, -2], [-3, 5], [0, 0]])[: shape[1]]
    return {"a": a.to(dtype), "b": b.to(dtype), "motions": motions}


CORRELATION = OpCase(
    name="correlation",
    operator="correlation",
    make=make_features,
    images=("a", "b"),
    call=lambda x, **kwargs: hdrops.correlation(x["a"], x["b"], x["motions"], **kwargs),
    exact=lambda x: matching_reference.products(x["a"], x["b"], x["motions"]),
    arguments=lambda x: (x["a"], x["b"], x["motions"]),
    k=8,
    k_gradient=8,
    dtypes=FLOATS,
    gradient_dtypes=FLOATS,
    differentiable=("a", "b"),
    backward=(True, True),
)

VOLUME_MOTIONS = torch.tensor([[0, 1], [-2, 0]])
VOLUME_EXPOSURES = [0.5, 3.0]


def volume_case(name: str, *, convolved: bool, cap: bool = False, inner: bool = False, masked: bool = False) -> OpCase:
    """Brackets of two, given as two images; the reference is the second. Results as the operator lays them out."""
    operator = "matching_conv3d" if convolved else "matching_volume"

    def make(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
        def drawn(*sizes: int) -> Tensor:
            return (2 * torch.rand(*sizes, generator=generator, dtype=torch.float64) - 1).to(dtype)

        found = {"features": drawn(*shape), "b": drawn(*shape)}
        if convolved:
            found |= {"weight": drawn(2, 3 * shape[1] + (1 if inner else shape[1]), 3, 3, 3) / 8}
        return found

    def tensors(x: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        features = torch.stack([torch.as_tensor(x["features"]), torch.as_tensor(x["b"])], 1)
        if not masked:
            return features, None
        saturation = torch.linspace(0, 1, 7).repeat(features.numel()).to(features)
        return features, saturation[: features[:, :, :1].numel()].view_as(features[:, :, :1])

    settings = (VOLUME_EXPOSURES, 1, cap, 0.4, inner, [1, 0, 2], True)
    convolution = ([2, 1, 1], [1, 1, 1], [1, 1, 1])

    def call(x: dict[str, Tensor], **kwargs: Any) -> Tensor:
        for name in ("features", "b"):
            if isinstance(x[name], list):
                raise TypeError(f"{name} must be a tensor or an array that supports DLPack, got list")
        features, saturation = tensors(x)
        options = {"mask": "cap" if cap else "gain", "ceiling": 0.4, "correlation": "inner" if inner else "product"}
        motions = VOLUME_MOTIONS.to(features.device)
        rest = (1, motions, VOLUME_EXPOSURES, saturation)
        if not convolved:
            return hdrops.matching_volume(features, *rest, order="mie", **options, **kwargs).permute(0, 2, 3, 4, 1)
        found = hdrops.matching_conv3d(
            features, torch.as_tensor(x["weight"]), None, *rest, stride=(2, 1, 1), order="mie", **options, **kwargs
        )
        return found.permute(0, 2, 3, 4, 1)

    def arguments(x: dict[str, Tensor], bias: bool = True) -> tuple[Any, ...]:
        tail = (VOLUME_MOTIONS.to(x["features"].device), *settings)
        if not convolved:
            return (*tensors(x), *tail)
        last = (False,) if bias else ()
        return (*tensors(x), x["weight"], *((None,) if bias else ()), *tail, *convolution, *last)

    def numbers(image: Tensor) -> tuple[int, ...]:
        n, c, height, width = image.shape
        channels = 3 * c + (1 if inner else c)
        return (n, 4, height, width, 2) if convolved else (n, 8, height, width, channels)

    definition = getattr(matching_volume_reference, operator)
    return OpCase(
        name=name,
        operator=operator,
        make=make,
        images=("features", "b"),
        call=call,
        exact=lambda x: definition(*arguments(x)),
        arguments=arguments,
        k=32,
        k_gradient=64,
        dtypes=(torch.float64, torch.float32),
        gradient_dtypes=(torch.float64, torch.float32),
        differentiable=("features", "b", "weight") if convolved else ("features", "b"),
        has_out=False,
        numbers=numbers,
        backward=(True, True) if convolved else (),
        backward_arguments=(lambda x: arguments(x, bias=False)) if convolved else None,
        traced_twice=False,
        shapes=tuple(name for name in SHAPES if name != "no-rows"),
        many_blocks=(1, 3, 45, 71),
    )


def make_grid(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """An image, and weights of a transposed convolution that takes it as a grid of one slice."""
    image = 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1
    weight = torch.rand(shape[1], 2, 2, 3, 3, generator=generator, dtype=torch.float64) - 0.5
    return {"x": image.to(dtype), "weight": weight.to(dtype)}


def _deconv3d(x: dict[str, Tensor], **kwargs: Any) -> Tensor:
    if isinstance(x["x"], list):
        raise TypeError("x must be a tensor or an array that supports DLPack, got list")
    image, weight = torch.as_tensor(x["x"]), torch.as_tensor(x["weight"])
    grid = image[:, :, None] if image.dim() > 2 else image
    found = hdrops.deconv3d(grid, weight, stride=(1, 2, 2), padding=(0, 1, 1), activation="relu", **kwargs)
    return found.permute(0, 2, 3, 4, 1)


def _deconv3d_arguments(x: dict[str, Tensor]) -> tuple[Any, ...]:
    how = ([1, 2, 2], [0, 1, 1], [0, 0, 0], [1, 1, 1])
    return (x["x"][:, :, None].permute(0, 2, 3, 4, 1), x["weight"], None, *how, True)


DECONV3D = OpCase(
    name="deconv3d",
    operator="deconv3d",
    make=make_grid,
    images=("x",),
    call=_deconv3d,
    exact=lambda x: hourglass_reference.deconv3d(*_deconv3d_arguments(x)),
    arguments=_deconv3d_arguments,
    k=16,
    k_gradient=32,
    dtypes=(torch.float64, torch.float32),
    differentiable=("x", "weight"),
    gradient_dtypes=(torch.float64, torch.float32),
    has_out=False,
    has_backward=False,
    numbers=lambda image: (len(image), 2, 2 * image.shape[2] - 1, 2 * image.shape[3] - 1, 2),
    shapes=tuple(name for name in SHAPES if name != "no-rows"),
)


CASES = [
    CORRELATION,
    DECONV3D,
    volume_case("matching_volume", convolved=False),
    volume_case("matching_volume-cap", convolved=False, cap=True, inner=True, masked=True),
    volume_case("matching_conv3d", convolved=True),
    volume_case("matching_conv3d-mask", convolved=True, masked=True),
    volume_case("matching_conv3d-cap", convolved=True, cap=True, inner=True),
    imf_fuse_case("imf_fuse"),
    imf_fuse_case("imf_fuse-wide", (3, 101.5), (120, 251), (33, 4096), batched=True),
    exposure_fusion_case("exposure_fusion"),
    exposure_fusion_case("exposure_fusion-opencv", convention="opencv", count=2),
    exposure_fusion_case("exposure_fusion-powers", (0.5, 2.0, 0.0), count=2),
    gaussian_case("gaussian_blur", "gaussian_blur", 0.8, "reflect"),
    gaussian_case("gaussian_blur-wide", "gaussian_blur", 12.0, "reflect"),
    gaussian_case("gaussian_blur-symmetric", "gaussian_blur", 4.7, "symmetric", radius=19),
    gaussian_case("gaussian_blur-replicate", "gaussian_blur", 5.0, "replicate"),
    gaussian_case("gaussian_blur-zeros", "gaussian_blur", 2.5, "zeros"),
    gaussian_case("gaussian_mask", "gaussian_mask", 0.6, "reflect"),
    gaussian_case("gaussian_mask-wide", "gaussian_mask", 4.5, "symmetric"),
    gaussian_case("gaussian_mask-inverted", "gaussian_mask", 0.5, "replicate", invert=True, radius=3),
    RGB_TO_LAB,
    LAB_TO_RGB,
    ssim_case("ssim", border="symmetric"),
    ssim_case("ssim-uniform", border="reflect", window=7, sigma=None, unbiased=True),
    ssim_case("ms_ssim", (0.3, 0.3, 0.4), border="zeros"),
    ssim_case("ms_ssim-zeros", (0.5, 0.5), "zeros", border="replicate", window=5),
    mef_ssim_case("mef_ssim", 3, border="symmetric", weights=(0.1, 0.4, 0.5)),
    mef_ssim_case("mef_ssim-one", 1, border="zeros", window=7, weights=(1.0,)),
    mef_ssim_case("mef_ssim-many", 6, border="reflect", window=5, sigma=1.0, k=0.1, weights=(0.5, 0.5)),
    pairwise_case("pairwise_loss", patches=False, threshold=0.25, limit=0.9, ties="darker"),
    pairwise_case("pairwise_loss-patches", patches=True, threshold=0.5, limit=0.98, ties="ignored"),
    mtb_case("mtb_shift", 6, 4),
    mtb_case("mtb_shift-deep", 16, 0),
    OpCase(
        name="estimate_imf",
        operator="estimate_imf",
        make=make_histograms,
        images=("source", "target"),
        call=_estimate,
        exact=lambda x: imf_reference.estimate_imf(x["source"], x["target"], 100, 250.0).double(),
        arguments=lambda x: (x["source"], x["target"], 100, 250.0),
        k=1,
        scale=0.0,
        dtypes=CODES,
        has_out=False,
        shapes=tuple(name for name in SHAPES if name != "no-rows"),
    ),
]


# ---- covering subsets ----------------------------------------------------------------------------


def pairwise(combinations: list[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """A subset in which every pair of values of two axes that occurs at all still occurs."""

    def pairs(combination: tuple[Any, ...]) -> set[Any]:
        return set(itertools.combinations(enumerate(combination), 2))

    order = list(combinations)
    random.Random(0).shuffle(order)
    remaining = {combination: pairs(combination) for combination in order}
    uncovered = set().union(*remaining.values()) if remaining else set()
    chosen: set[tuple[Any, ...]] = set()
    while uncovered:
        best = max(remaining, key=lambda combination: len(remaining[combination] & uncovered))
        chosen.add(best)
        uncovered -= remaining.pop(best)
    return chosen


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers on the default device, the same on all of them."""
    generator = torch.Generator("cpu").manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return values.to(torch.get_default_device(), dtype)
