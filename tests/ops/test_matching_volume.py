"""The matching volume and its convolution: against the literal volume and torch's own convolution."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import INTERPRETING, drawn
from torch import Tensor

import hdrops
from hdrops import matching_conv3d, matching_volume, motion_grid

pytestmark = pytest.mark.usefixtures("where_the_backend_is")
EXPOSURES: tuple[float, ...] = (0.25, 0.5, 2.0, 4.0)
# Also to no place inside of the images.
MOTIONS = torch.tensor([[0, 0], [1, -2], [-3, 1], [2, 40], [-1, -1]])
SIZE, LARGEST = (9, 12), (16, 64)
if INTERPRETING:  # every slice of every pixel is a step of the interpreter
    EXPOSURES, MOTIONS, SIZE = EXPOSURES[1::2], MOTIONS[1:4], (6, 7)


def masks(kind: str, features: Tensor, channels: int = 1) -> Tensor | None:
    n, count, _, height, width = features.shape
    if kind == "none":
        return None
    shape = (n, count, channels, height, width)
    if kind == "random":
        generator = torch.Generator("cpu").manual_seed(5)
        return torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu").to(features)
    return torch.full(shape, float(kind == "ones"), dtype=features.dtype)


def literal(
    features: Tensor,
    reference: int,
    motions: Tensor,
    exposures: Any,
    saturation: Tensor | None = None,
    *,
    correlation: str = "product",
    mask: str = "gain",
    ceiling: float = 1.0,
    order: str = "ime",
    include_reference: bool = True,
) -> Tensor:
    """The definition, slice by slice."""
    _, count, _, height, width = features.shape
    reference %= count
    base = features[:, reference]
    far = int(motions.abs().max()) + 1
    axes = {
        "i": [i for i in range(count) if include_reference or i != reference],
        "m": range(len(motions)),
        "e": range(len(exposures)),
    }
    slices = []
    for places in itertools.product(*(axes[name] for name in order)):
        place = dict(zip(order, places, strict=True))
        other = features[:, place["i"]]
        if place["i"] != reference:
            gain = exposures[place["e"]]
            s = torch.ones(()) if saturation is None else saturation[:, place["i"]]
            if mask == "cap":
                capped = torch.clamp(gain * other, max=ceiling)
                other = capped if saturation is None else s * capped + (1 - s) * (gain * other)
            else:
                s = 0 * s if saturation is None else s
                other = other * (s + gain * (1 - s))
            down, right = motions[place["m"]].tolist()
            wide = F.pad(other, (far, far, far, far))
            other = wide[..., far + down : far + down + height, far + right : far + right + width]
        product = other * base
        if correlation == "inner":
            product = product.sum(1, keepdim=True)
        slices.append(torch.cat([other, base, (other - base).abs(), product], 1))
    return torch.stack(slices, 2)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "three": {"count": 3, "reference": 1},
    "last": {"reference": -1},
    "gain-zeros": {"saturation": "zeros"},
    "gain-ones": {"saturation": "ones"},
    "gain-random": {"saturation": "random", "count": 3},
    "gain-channels": {"saturation": "random", "masks": "channels"},
    "cap": {"mask": "cap", "ceiling": 0.7},
    "cap-random": {"mask": "cap", "saturation": "random", "ceiling": 0.4, "count": 3},
    "cap-ones": {"mask": "cap", "saturation": "ones"},
    "inner": {"correlation": "inner"},
    "inner-random": {"correlation": "inner", "saturation": "random"},
    "inner-cap": {"correlation": "inner", "mask": "cap"},
    "others": {"include_reference": False, "count": 3, "reference": 1},
    "others-first": {"include_reference": False, "order": "emi"},
    "one-image": {"count": 1},
    **{f"order-{''.join(order)}": {"order": "".join(order), "count": 3} for order in itertools.permutations("ime")},
    "order-mie-random": {"order": "mie", "saturation": "random"},
    "one-exposure": {"exposures": (3.0,)},
}
CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "one": {"stride": 1, "k": 5},
    "dilated": {"dilation": 2, "padding": 2, "k": 17},
    "uneven": {"stride": (1, 2, 3), "padding": (2, 0, 3), "dilation": (2, 1, 2), "taps": (2, 3, 2)},
    "steps": {"stride": 3, "padding": 0, "taps": (3, 1, 1)},
}


def made(name: str, c: int = 3, size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float64) -> tuple:
    """Features, the other arguments, and options of a configuration."""
    options = dict(CONFIGURATIONS[name])
    features = drawn(2, options.pop("count", 2), c, *size, dtype=dtype)
    saturation = masks(options.pop("saturation", "none"), features, c if options.pop("masks", "") else 1)
    arguments = (options.pop("reference", 0), MOTIONS, options.pop("exposures", EXPOSURES), saturation)
    return features, arguments, options


def kernel(name: str, channels: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, dict[str, Any]]:
    options = dict(CONVOLUTIONS[name])
    taps, k = options.pop("taps", (3, 3, 3)), options.pop("k", 4)
    weight = drawn(k, channels, *taps, seed=1, dtype=dtype) / channels
    return weight, drawn(k, seed=2, dtype=dtype), {"stride": 2, "padding": 1, "dilation": 1} | options


def volume_channels(features: Tensor, options: dict[str, Any]) -> int:
    c = features.shape[2]
    return 3 * c + (1 if options.get("correlation") == "inner" else c)


def assert_equal(found: Tensor, expected: Tensor, relative: float = 1e-10) -> None:
    assert found.shape == expected.shape
    found, expected = found.double().cpu(), expected.double().cpu()
    assert (found - expected).abs().max() <= relative * expected.abs().max()


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_volume_is_its_definition(name: str, backend: str) -> None:
    features, arguments, options = made(name)
    found = matching_volume(features, *arguments, **options, backend=backend)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert_equal(found, literal(features, *arguments, **options))


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_convolution_is_that_of_the_volume(name: str, convolution: str, backend: str) -> None:
    features, arguments, options = made(name)
    weight, bias, how = kernel(convolution, volume_channels(features, options))
    found = matching_conv3d(features, weight, bias, *arguments, **how, **options, backend=backend)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert_equal(found, F.conv3d(literal(features, *arguments, **options), weight, bias, **how))


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (31, 2), (5, 29), LARGEST])
@pytest.mark.parametrize("c", [1, 16, 19, 32])
def test_any_size_and_number_of_channels(size: tuple[int, int], c: int, backend: str) -> None:
    if INTERPRETING and size == LARGEST:
        pytest.skip("too slow for the interpreter")
    features, arguments, options = made("gain-random", c, size)
    weight, bias, how = kernel("paper", 4 * c)
    found = matching_conv3d(features, weight, bias, *arguments, **how, **options, backend=backend)
    assert_equal(found, F.conv3d(literal(features, *arguments, **options), weight, bias, **how))


@pytest.mark.parametrize("k", [1, 31, 32, 33, 64])
def test_any_number_of_results(k: int, backend: str) -> None:
    features, arguments, options = made("plain")
    weight = drawn(k, 12, 3, 3, 3, seed=1)
    found = matching_conv3d(features, weight, None, *arguments, activation="relu", **options, backend=backend)
    assert_equal(found, F.conv3d(literal(features, *arguments, **options), weight, None, 2, 1).relu())


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 3e-6), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("name", ["plain", "gain-random", "cap"])
def test_other_types(dtype: torch.dtype, relative: float, name: str, backend: str) -> None:
    features, arguments, options = made(name, 8, dtype=dtype)
    weight, bias, how = kernel("paper", 32, dtype)
    found = matching_conv3d(features, weight, bias, *arguments, **how, **options, backend=backend)
    assert found.dtype == dtype
    wide = (*arguments[:3], None if arguments[3] is None else arguments[3].double())
    volume = literal(features.double(), *wide, **options)
    assert_equal(found, F.conv3d(volume, weight.double(), bias.double(), **how), relative)
    found = matching_volume(features, *arguments, **options, backend=backend)
    assert_equal(found, volume, relative)


def test_paper_sizes_of_the_volume() -> None:
    features = torch.zeros(1, 2, 32, 2, 2)
    volume = matching_volume(features, 0, motion_grid(), (1 / 4, 1 / 2, 2, 4, 8, 16))
    assert volume.shape == (1, 128, 1728, 2, 2)


def test_bits_do_not_depend_on_threads() -> None:
    features, arguments, options = made("gain-random", 8, (17, 40), torch.float32)
    weight, bias, how = kernel("paper", 32, torch.float32)
    variables = (features.requires_grad_(), weight.requires_grad_(), bias.requires_grad_())
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = matching_conv3d(features, weight, bias, *arguments, **how, **options)
            results.append((out.detach(), *torch.autograd.grad(out.sin().sum(), variables[:2])))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_volume_beyond_2_31_elements(backend: str) -> None:
    """Slices of the result at the start, in the middle and at the end, against chunks of the literal volume."""
    if backend == "reference":
        pytest.skip("the reference makes the whole volume in parts: minutes")
    if INTERPRETING:
        pytest.skip("too slow for the interpreter")
    features = drawn(1, 2, 2, 96, 130, dtype=torch.float32)
    motions = motion_grid(150, 2)
    exposures = (0.5, 2.0)
    depth = 2 * len(motions) * len(exposures)
    assert 8 * depth * 96 * 130 > 2**31
    weight = drawn(2, 8, 3, 3, 3, seed=1, dtype=torch.float32)
    found = matching_conv3d(features, weight, None, 0, motions, exposures, backend=backend)
    assert found.shape[2] == depth // 2
    for first in (1, depth // 4, depth // 2 - 4):
        read = range(2 * first - 1, 2 * first + 6)
        pairs = [(d // 2 % len(motions), d % 2, d // (2 * len(motions))) for d in read]
        slices = [
            literal(features, 0, motions[m : m + 1], exposures[e : e + 1], order="ime")[:, :, i : i + 1]
            for m, e, i in pairs
        ]
        expected = F.conv3d(torch.cat(slices, 2), weight, None, 2, (0, 1, 1))
        assert_equal(found[:, :, first : first + 3], expected, 3e-6)


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_gradients_of_the_volume(name: str, backend: str) -> None:
    features, arguments, options = made(name)
    upstream = drawn(*literal(features, *arguments, **options).shape, seed=3)
    variable = features.requires_grad_()
    found = torch.autograd.grad(matching_volume(features, *arguments, **options, backend=backend), variable, upstream)
    expected = torch.autograd.grad(literal(features, *arguments, **options), variable, upstream)
    assert_equal(found[0], expected[0])


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_gradients_of_the_convolution(name: str, convolution: str, backend: str) -> None:
    features, arguments, options = made(name)
    weight, bias, how = kernel(convolution, volume_channels(features, options))
    variables = [x.requires_grad_() for x in (features, weight, bias)]
    relu = convolution == "paper"
    activation = "relu" if relu else None
    out = matching_conv3d(*variables, *arguments, **how, **options, activation=activation, backend=backend)
    upstream = drawn(*out.shape, seed=3)
    found = torch.autograd.grad(out, variables, upstream)
    result = F.conv3d(literal(features, *arguments, **options), weight, bias, **how)
    expected = torch.autograd.grad(result.relu() if relu else result, variables, upstream)
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("name", ["plain", "gain-random", "cap"])
def test_gradients_of_other_types(dtype: torch.dtype, relative: float, name: str, backend: str) -> None:
    """Of more channels and results than a block of either has."""
    features, arguments, options = made(name, 19, dtype=dtype)
    weight, _, how = kernel("paper", 76, dtype)
    weight = torch.cat([weight] * 9)[:33]
    variables = (features.requires_grad_(), weight.requires_grad_())
    out = matching_conv3d(*variables, None, *arguments, **how, **options, backend=backend)
    upstream = drawn(*out.shape, seed=3, dtype=dtype)
    found = torch.autograd.grad(out, variables, upstream)
    wide = [x.detach().double().requires_grad_() for x in variables]
    mask = None if arguments[3] is None else arguments[3].double()
    result = F.conv3d(literal(wide[0], *arguments[:3], mask, **options), wide[1], None, **how)
    for one, other in zip(found, torch.autograd.grad(result, wide, upstream.double()), strict=True):
        assert one.dtype == dtype
        assert_equal(one, other, relative)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (31, 2), LARGEST])
@pytest.mark.parametrize(("c", "k"), [(1, 33), (16, 8), (19, 32), (32, 32)])
def test_gradients_of_any_size(size: tuple[int, int], c: int, k: int, backend: str) -> None:
    if INTERPRETING and size == LARGEST:
        pytest.skip("too slow for the interpreter")
    features, arguments, options = made("gain-random", c, size)
    weight = drawn(k, 4 * c, 3, 3, 3, seed=1)
    variables = (features.requires_grad_(), weight.requires_grad_())
    out = matching_conv3d(features, weight, None, *arguments, **options, backend=backend)
    upstream = drawn(*out.shape, seed=3)
    found = torch.autograd.grad(out, variables, upstream)
    result = F.conv3d(literal(features, *arguments, **options), weight, None, 2, 1)
    expected = torch.autograd.grad(result, variables, upstream)
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("name", ["plain", "gain-random", "cap", "inner"])
def test_gradcheck(name: str, backend: str) -> None:
    options = dict(CONFIGURATIONS[name])
    features = drawn(1, options.pop("count", 2), 1, 3, 4)
    saturation = masks(options.pop("saturation", "none"), features)
    channels = volume_channels(features, options)
    variables = [x.requires_grad_() for x in (features, drawn(1, channels, 3, 3, 3, seed=1), drawn(1, seed=2))]
    motions = [[0, 1], [-1, 0]]

    def convolved(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return matching_conv3d(x, w, b, 0, motions, (0.5, 3.0), saturation, **options, backend=backend)

    fast = INTERPRETING
    assert torch.autograd.gradcheck(convolved, variables, fast_mode=fast)
    assert torch.autograd.gradgradcheck(convolved, variables, fast_mode=fast)

    def volume(x: Tensor) -> Tensor:
        return matching_volume(x, 0, motions, (0.5, 3.0), saturation, **options, backend=backend)

    assert torch.autograd.gradcheck(volume, variables[:1], fast_mode=fast)
    assert torch.autograd.gradgradcheck(volume, variables[:1], fast_mode=fast)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_each_gradient_alone(wanted: tuple[bool, ...], backend: str) -> None:
    features, arguments, options = made("plain")
    weight, bias, how = kernel("paper", 12)
    variables = [x.requires_grad_(w) for x, w in zip((features, weight, bias), wanted, strict=True)]
    out = matching_conv3d(*variables, *arguments, **how, **options, backend=backend)
    out.square().sum().backward()
    assert [x.grad is not None for x in variables] == list(wanted)


# ---- the dispatcher --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "cap-random", "inner"])
def test_opcheck(name: str, backend: str) -> None:
    from hdrops.ops import _providers
    from hdrops.ops.matching_volume import _settings

    features, arguments, options = made(name)
    reference, motions, exposures, saturation = arguments
    everything = {"correlation": "product", "mask": "gain", "ceiling": 1.0, "order": "ime", "include_reference": True}
    everything |= options
    *_, settings = _settings(features, reference, motions, exposures, saturation, *everything.values())
    weight, bias, _ = kernel("paper", volume_channels(features, options))
    features.requires_grad_()
    weight.requires_grad_()
    volume = _providers.overload("matching_volume", backend, features)
    torch.library.opcheck(volume, (features, saturation, *settings))
    convolved = _providers.overload("matching_conv3d", backend, features)
    how = ([2] * 3, [1] * 3, [1] * 3, True)
    torch.library.opcheck(convolved, (features, saturation, weight, bias, *settings, *how))


def test_compile_and_export(backend: str) -> None:
    features, arguments, options = made("gain-random", dtype=torch.float32)
    weight, bias, how = kernel("paper", 12, torch.float32)

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return matching_conv3d(x, w, b, *arguments, **how, **options, activation="relu", backend=backend) + 1

    expected = Module()(features, weight, bias)
    compiled = torch.compile(Module(), fullgraph=True)
    torch.testing.assert_close(compiled(features, weight, bias), expected)
    exported = torch.export.export(Module(), (features, weight, bias))
    torch.testing.assert_close(exported.module()(features, weight, bias), expected)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": torch.zeros(2, 2, 9, 9)}, "features must be"),
        ({"features": torch.zeros(1, 2, 3, 9, 9, dtype=torch.int32)}, "floating point"),
        ({"reference": 2}, "reference must be"),
        ({"motions": torch.zeros(3, 3, dtype=torch.int64)}, "motions must be"),
        ({"motions": [[0.5, 0.0]]}, "motions must be integers"),
        ({"exposures": ("a",)}, "exposures"),
        ({"saturation": torch.zeros(1, 2, 2, 9, 9)}, "saturation must be"),
        ({"saturation": torch.zeros(1, 2, 1, 9, 9, dtype=torch.float64)}, "saturation must have"),
        ({"weight": torch.zeros(4, 13, 3, 3, 3)}, "weight must be"),
        ({"weight": torch.zeros(4, 12, 3, 3, 3, dtype=torch.float64)}, "weight must have"),
        ({"bias": torch.zeros(5)}, "bias must be"),
        ({"stride": 0}, "stride must be"),
        ({"padding": (1, 1)}, "padding must be"),
        ({"dilation": (1, 9, 1)}, "larger than the padded volume"),
        ({"activation": "tanh"}, "activation must be"),
        ({"correlation": "outer"}, "correlation must be"),
        ({"mask": "clip"}, "mask must be"),
        ({"order": "imm"}, "order must"),
        ({"ceiling": -0.5}, "ceiling must be 0 or more"),
        ({"ceiling": float("nan")}, "ceiling must be 0 or more"),
        ({"exposures": (1.0, float("inf"))}, "exposures must be finite"),
        ({"motions": torch.zeros(0, 2, dtype=torch.int64)}, "larger than the padded volume"),
    ],
)
def test_bad_input(changed: dict[str, Any], message: str, backend: str) -> None:
    arguments: dict[str, Any] = {
        "features": torch.zeros(1, 2, 3, 9, 9),
        "weight": torch.zeros(4, 12, 3, 3, 3),
        "bias": None,
        "reference": 0,
        "motions": MOTIONS,
        "exposures": EXPOSURES,
    }
    with pytest.raises((TypeError, ValueError), match=message):
        matching_conv3d(**(arguments | changed), backend=backend)


def test_no_channels(backend: str) -> None:
    with pytest.raises(ValueError, match="C at least 1"):
        matching_volume(torch.zeros(1, 2, 0, 4, 5), 0, MOTIONS, EXPOSURES, correlation="inner", backend=backend)


@pytest.mark.parametrize("name", ["plain", "cap", "cap-random"])
def test_special_values_stay_where_they_are_read(name: str, backend: str) -> None:
    features, arguments, options = made(name)
    features[0, 1, 0, 3, 4], features[1, 0, 1, 5, 5] = float("inf"), float("nan")
    if arguments[3] is not None:
        arguments[3][0, 1, :, 3, 4] = 0
    found = matching_volume(features, *arguments, **options, backend=backend)
    torch.testing.assert_close(found, literal(features, *arguments, **options), equal_nan=True, rtol=1e-10, atol=1e-10)


@pytest.mark.large
def test_a_large_volume(backend: str) -> None:
    """Past 2^31 elements: its last slice."""
    if backend == "reference" or INTERPRETING:
        pytest.skip("of kernels: the reference takes many times the memory, the interpreter hours")
    features = drawn(1, 2, 2, 96, 130, dtype=torch.float16)
    motions = motion_grid(150, 2)
    volume = matching_volume(features, 0, motions, (0.5, 2.0), backend=backend)
    assert volume.numel() > 2**31
    last = literal(features, 0, motions[-1:], (2.0,))[:, :, 1]
    assert torch.equal(volume[:, :, -1], last)


def test_an_empty_batch(backend: str) -> None:
    features = torch.zeros(0, 2, 3, 9, 12, requires_grad=True)
    weight = torch.zeros(4, 12, 3, 3, 3, requires_grad=True)
    out = matching_conv3d(features, weight, None, 0, MOTIONS, EXPOSURES, backend=backend)
    assert out.shape == (0, 4, len(MOTIONS) * len(EXPOSURES), 5, 6)
    out.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_names() -> None:
    assert {"matching_volume", "matching_conv3d"} <= {*hdrops.__all__}
