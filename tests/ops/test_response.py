"""The response from two exposures, and the maps that follow from it."""

import math

import photographs
import pytest
import torch

import hdrops
from hdrops.data import BracketTriplets
from hdrops.metrics import psnr

RATIO = 16.0


def gamma(x):
    return x ** (1 / 2.2)


def srgb(x):
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp(min=1e-9) ** (1 / 2.4) - 0.055)


def bent(x):
    """A gamma curve bent to an S, as picture styles have it."""
    y = gamma(x)
    return y + 0.25 * (y * y * (3 - 2 * y) - y) * 2


def logarithmic(x):
    return (1 + 200 * x).log() / math.log(201)


RESPONSES = [gamma, srgb, bent, logarithmic]


def radiance(height=300, width=400):
    """Over 12 stops, about as often everywhere."""
    return torch.exp2(-12 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)))


def photograph(response, stops, dtype=torch.uint8, light=None):
    full = torch.iinfo(dtype).max
    exposed = ((radiance() if light is None else light) * 2.0**stops).clamp(0, 1)
    return (response(exposed) * full).round().to(torch.int32).to(dtype)


def truth(response, stops):
    """The codes that those from 4 on would have, so many stops brighter."""
    light = torch.linspace(0, 1, 1 << 16)
    exposure = light[torch.searchsorted(response(light), torch.arange(4, 251) / 255).clamp(max=(1 << 16) - 1)]
    return 255 * response((exposure * 2.0**stops).clamp(max=1))


@pytest.mark.parametrize("response", RESPONSES)
def test_maps_to_exposures_between(response):
    """Near the truth, also where the bright image is clipped; nearer than by the square root, which is made for z^γ."""
    dark, bright = photograph(response, 0), photograph(response, 4)
    g = hdrops.estimate_response(dark, bright)
    for step in (0.25, 0.5, 0.75, -0.75, -0.5, -0.25):
        error = (hdrops.response_imf(g, step)[:, 4:251] - truth(response, 4 * step)).abs()
        assert error.mean() < 1.5, step
        assert error.max() < 12, step
    if response is not gamma:
        ours = hdrops.response_imf(g, 0.5), hdrops.response_imf(g, -0.5)
        roots = [hdrops.intermediate_imf(hdrops.estimate_imf(*pair)) for pair in ((dark, bright), (bright, dark))]
        errors = [
            sum(
                float((table[:, 4:251] - truth(response, stops)).abs().mean())
                for table, stops in zip(t, (2, -2), strict=True)
            )
            for t in (ours, roots)
        ]
        assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_the_smoothest_response_is_found(power):
    """z = 300 E^n / (E^n + σ^n): g is a line over ln z - ln(1 - z / 300), of the slope 1 / (n ln ratio)."""

    def sigmoid(x):
        raised = (4 * x) ** power
        return (300 / 255 * raised / (raised + 4**power * 45 / 255)).clamp(max=1)

    g = hdrops.estimate_response(photograph(sigmoid, 0), photograph(sigmoid, 4))
    codes = torch.arange(8.0, 251)
    places = codes.log() - (1 - codes / 300).log()
    line = (places - places[0]) / (power * math.log(RATIO))
    assert (g[:, 8:251] - g[:, 8:9] - line).abs().max() < 0.06


def test_it_agrees_with_the_histograms():
    """g(Λ12(z)) = g(z) + 1 where Λ12 is known."""
    dark, bright = photograph(bent, 0), photograph(bent, 4)
    imf = hdrops.estimate_imf(dark, bright)
    whole = hdrops.response_imf(hdrops.estimate_response(dark, bright), 1.0)
    known = (imf > 4) & (imf < 250)
    assert (whole - imf)[known].abs().max() < 4


@pytest.mark.parametrize(("dtype", "levels"), [(torch.uint8, 64), (torch.uint16, 256), (torch.uint16, 4096)])
def test_levels(dtype, levels):
    """Tables of any length are of the same response."""
    reference = hdrops.estimate_response(photograph(bent, 0), photograph(bent, 4))
    g = hdrops.estimate_response(photograph(bent, 0, dtype), photograph(bent, 4, dtype), levels)
    assert g.shape == (3, levels)
    codes = torch.linspace(0, 255, levels)
    inner = (codes >= 16) & (codes <= 248)
    expected = hdrops.response_imf(reference, 0.5)
    found = hdrops.response_imf(g, 0.5)[:, inner]
    low = codes[inner].long()
    weight = codes[inner] - low
    assert (found - ((1 - weight) * expected[:, low] + weight * expected[:, low + 1])).abs().max() < 3


def test_batches_are_treated_one_by_one():
    pairs = [(photograph(response, 0), photograph(response, 3)) for response in RESPONSES]
    batch = hdrops.estimate_response(*(torch.stack(images) for images in zip(*pairs, strict=True)))
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, torch.stack([hdrops.estimate_response(*pair) for pair in pairs]))


def test_arrays_of_numpy():
    dark, bright = photograph(bent, 0), photograph(bent, 4)
    g = hdrops.estimate_response(dark.numpy(), bright.numpy())
    assert torch.equal(g, hdrops.estimate_response(dark, bright))
    assert torch.equal(hdrops.response_imf(g.numpy(), 0.5), hdrops.response_imf(g, 0.5))


@pytest.mark.parametrize("smoothness", [1e2, 1e4])
def test_the_smoothest_is_a_line(smoothness):
    g = hdrops.estimate_response(photograph(logarithmic, 0), photograph(logarithmic, 4), smoothness=smoothness)
    codes = torch.arange(1.0, 256)
    places = codes.log() - (1 - codes / 300).log()
    slopes = g[:, 1:].diff(dim=-1) / places.diff()
    assert (slopes / slopes.mean(-1, keepdim=True) - 1).abs().max() < 0.01


def test_layouts_threads_and_empty_batches():
    pair = [torch.stack([photograph(response, stops) for response in RESPONSES]) for stops in (0, 3)]
    expected = hdrops.estimate_response(*pair)
    last = [image.contiguous(memory_format=torch.channels_last) for image in pair]
    assert torch.equal(hdrops.estimate_response(*last), expected)
    wider = [torch.nn.functional.pad(image, (1, 2, 3, 4))[..., 3:-4, 1:-2] for image in pair]
    assert torch.equal(hdrops.estimate_response(*wider), expected)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.testing.assert_close(hdrops.estimate_response(*pair), expected)
    finally:
        torch.set_num_threads(threads)
    empty = hdrops.estimate_response(*(image[:0] for image in pair))
    assert empty.shape == (0, 3, 256)
    assert hdrops.response_imf(empty, 0.5).shape == (0, 3, 256)


def test_sizes_may_differ():
    light = radiance()
    dark, bright = photograph(bent, 0, light=light), photograph(bent, 4, light=light[:, ::2])
    whole = hdrops.estimate_response(dark, photograph(bent, 4, light=light))
    assert (hdrops.response_imf(hdrops.estimate_response(dark, bright), 0.5) - hdrops.response_imf(whole, 0.5)).abs()[
        :, 8:
    ].max() < 6


def flat(code):
    return torch.full((3, 8, 8), code, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("dark", "bright"),
    [
        (flat(0), flat(0)),
        (flat(0), flat(255)),
        (flat(255), flat(255)),
        (flat(100), flat(255)),
        (flat(40), flat(90)),
        (flat(90), flat(40)),
    ],
)
def test_images_that_tell_nothing(dark, bright):
    g = hdrops.estimate_response(dark, bright)
    assert g.isfinite().all()
    assert (g.diff(dim=-1) > 0).all()
    for step in (0.5, -0.5):
        table = hdrops.response_imf(g, step)
        assert table.isfinite().all()
        assert ((table >= 0) & (table <= 255)).all()


def test_one_pair_of_codes_is_a_factor():
    """Nothing but 40 -> 90: a line over ln z - ln(1 - z / 300)."""
    g = hdrops.estimate_response(flat(40), flat(90))
    torch.testing.assert_close(hdrops.response_imf(g, 0.5)[:, 40], torch.full((3,), 61.3), atol=0.2, rtol=0)
    torch.testing.assert_close(hdrops.response_imf(g, 1.0)[:, 40], torch.full((3,), 90.0), atol=0.2, rtol=0)


def test_equal_images_stay():
    image = photograph(bent, 2)
    table = hdrops.response_imf(hdrops.estimate_response(image, image), 0.5)
    assert (table - torch.arange(256)).abs().max() < 1


def test_steps_add_up():
    g = hdrops.estimate_response(photograph(bent, 0), photograph(bent, 4)).double()
    codes = torch.arange(256, dtype=torch.float64)
    torch.testing.assert_close(hdrops.response_imf(g, 0.0), codes.expand(3, -1))
    once = hdrops.response_imf(g, -0.3)
    index = once.floor().long().clamp(max=254)
    again = hdrops.response_imf(g, 0.3)
    back = again.gather(1, index) * (1 - (once - index)) + again.gather(1, index + 1) * (once - index)
    assert (back - codes)[:, 32:].abs().max() < 0.5
    assert (hdrops.response_imf(g, 5.0)[:, 1:] <= 255).all()
    assert hdrops.response_imf(g, 5.0)[:, 0].tolist() == [0.0] * 3


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize(("name", "ev_step"), [("fairchild", 1.0), ("iccv17", 2.0)])
def test_photographs(name, ev_step):
    """Of cameras with picture styles: 4 dB above the square root of histogram specification."""
    pytest.importorskip("OpenImageIO", reason="reading images needs OpenImageIO")
    folder = photographs.photographs() / "brackets" / name
    triplets = BracketTriplets(folder, ev_step=ev_step, patch=None, augment=False)
    gains = []
    for k in range(0, len(triplets), max(1, len(triplets) // 12)):
        dark, bright, target = ((triplets[k][key] * 255).round().byte() for key in ("dark", "bright", "target"))
        g = hdrops.estimate_response(dark, bright)
        roots = [hdrops.intermediate_imf(hdrops.estimate_imf(*pair)) for pair in ((dark, bright), (bright, dark))]
        found, former = (
            psnr(hdrops.imf_fuse(dark[None], bright[None], *tables), target[None])
            for tables in ((hdrops.response_imf(g, 0.5), hdrops.response_imf(g, -0.5)), roots)
        )
        gains.append(float(found - former))
    assert len(gains) >= 12
    assert sum(gains) / len(gains) >= 4, gains


def test_bad_arguments():
    dark, bright = photograph(gamma, 0), photograph(gamma, 4)
    with pytest.raises(ValueError, match="smoothness must be positive, at most 10000, got 0"):
        hdrops.estimate_response(dark, bright, smoothness=0)
    with pytest.raises(ValueError, match=r"at most 10000, got 1e\+16"):
        hdrops.estimate_response(dark, bright, smoothness=1e16)
    with pytest.raises(TypeError, match="quantise it first"):
        hdrops.estimate_response(dark.float(), bright.float())
    with pytest.raises(ValueError, match="must agree in N and C"):
        hdrops.estimate_response(dark, bright[:1])
    with pytest.raises(ValueError, match="levels must be 2 to 65536"):
        hdrops.estimate_response(dark, bright, 1)
    with pytest.raises(TypeError, match="response must be floating point"):
        hdrops.response_imf(torch.arange(256), 0.5)
    for bad in (torch.zeros(256), torch.arange(256.0).flip(0), torch.full((256,), math.nan), torch.arange(256.0).log()):
        with pytest.raises(ValueError, match="response must be finite and rise"):
            hdrops.response_imf(bad, 0.5)
    with pytest.raises(ValueError, match="L >= 2"):
        hdrops.response_imf(torch.zeros(1), 0.5)
    with pytest.raises(ValueError, match="step must be finite"):
        hdrops.response_imf(torch.arange(256.0), math.inf)
