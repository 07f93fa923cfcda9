"""PIQE against the values of a Python port of MATLAB's function, a naive definition and values worked out by hand."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import golden
import pytest
import torch
from golden import Row
from torch import Tensor

from hdrops.metrics import piqe
from hdrops.metrics._images import grey

# Filled by replication before pypiqe measured them, with a maximum of 255, so that it neither reflects nor stretches.
COMPARABLE = "pypiqe_gray_prepadded_replicate_max255"


def random_codes(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def worst(variant: str, measure: Callable[[Row], Tensor]) -> float:
    return golden.deviations("PIQE", variant, measure).max().item()


# ---- the values of the port --------------------------------------------------------------------------


def test_equals_the_port() -> None:
    assert worst(COMPARABLE, lambda row: piqe(row.image)) < 1e-9


@pytest.mark.parametrize("maximum", [179, 196, 202])
def test_equals_the_port_that_stretches(maximum: int) -> None:
    def stretched(row: Row) -> Tensor:
        codes = grey(row.image)
        assert codes.max() == maximum
        return piqe(codes / maximum)

    variant = f"pypiqe_gray_prepadded_replicate_max{maximum}"
    assert worst(variant, stretched) < 1e-9
    assert worst(variant, lambda row: piqe(row.image)) > 1e-2


def reflected(image: Tensor) -> Tensor:
    """Grey codes filled up to whole blocks by reflection."""
    codes = grey(image)
    for dim in (-2, -1):
        missing = -codes.shape[dim] % 16
        codes = torch.cat([codes, codes.narrow(dim, codes.shape[dim] - missing, missing).flip(dim)], dim)
    return codes / 255


def test_other_conventions_miss_the_port() -> None:
    assert worst(COMPARABLE, lambda row: piqe(reflected(row.image))) > 0.1
    assert worst(COMPARABLE, lambda row: piqe(row.image, color="mean")) > 1e-2
    assert worst(COMPARABLE, lambda row: piqe(row.image[..., 8:, 8:])) > 1e-2


# ---- the definition ----------------------------------------------------------------------------------


def naive_piqe(codes: Tensor, surround_columns: list[int]) -> float:
    """PIQE of (H, W) codes, block by block."""
    height, width = codes.shape
    rows = torch.arange(-(-height // 16) * 16).clamp(max=height - 1)
    columns = torch.arange(-(-width // 16) * 16).clamp(max=width - 1)
    image = codes.double()[rows][:, columns]

    offsets = range(-3, 4)
    weights = [[math.exp(-(x * x + y * y) / (2 * (7 / 6) ** 2)) for x in offsets] for y in offsets]
    kernel = torch.tensor(weights, dtype=torch.float64)
    kernel /= kernel.sum()

    def blurred(x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x[None, None], (3, 3, 3, 3), mode="replicate")
        return torch.nn.functional.conv2d(padded, kernel[None, None])[0, 0]

    mean = blurred(image)
    normalised = (image - mean) / (blurred(image**2).sub(mean**2).abs().sqrt() + 1)
    total, count = 0.0, 0
    for top in range(0, len(rows), 16):
        for left in range(0, len(columns), 16):
            block = normalised[top : top + 16, left : left + 16]
            variance = statistics.variance(block.flatten().tolist())
            if variance <= 0.1:
                continue
            count += 1
            edges = [block[0].tolist(), block[15].tolist(), block[:, 0].tolist(), block[:, 15].tolist()]
            if any(statistics.stdev(edge[i : i + 6]) < 0.1 for edge in edges for i in range(11)):
                total += 1 - variance
            centre = statistics.stdev(block[:, 7:9].flatten().tolist())
            ratio = centre / statistics.stdev(block[:, surround_columns].flatten().tolist())
            spread = math.sqrt(variance)
            if spread > 2 * abs(spread - ratio) / max(spread, ratio):
                total += variance
    return 100 * (total + 1) / (count + 1)


SURROUND = [0, 1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("shape", [(48, 64), (50, 35), (16, 16), (1, 40), (9, 5)])
def test_equals_its_definition(shape: tuple[int, int]) -> None:
    codes = random_codes(*shape)
    codes[: shape[0] // 2, 16:32] //= 32
    codes[:, 32:48] = 90
    assert piqe(codes[None, None]).item() == pytest.approx(naive_piqe(codes, SURROUND), rel=1e-9)


def test_surround_with_both_central_columns_missing_is_another_measure() -> None:
    """On a photograph, so that the tests above do tell the columns of the surround."""
    row = min(golden.rows("PIQE", COMPARABLE), key=lambda row: row.image.numel())
    codes = grey(row.image)[0, 0]
    assert naive_piqe(codes, SURROUND) == pytest.approx(row.value, rel=1e-9)
    both = [column for column in range(16) if column not in (7, 8)]
    assert abs(naive_piqe(codes, both) / row.value - 1) > 1e-4


def test_flat_images_score_100() -> None:
    for image in (torch.zeros(1, 1, 40, 40), torch.full((1, 3, 7, 5), 200, dtype=torch.uint8), torch.ones(1, 1, 1, 1)):
        assert piqe(image).item() == 100


def test_a_damaged_photograph_scores_worse() -> None:
    cv2 = pytest.importorskip("cv2")
    photograph = golden.rows("PIQE", COMPARABLE)[-1].image
    score = piqe(photograph).item()
    noise = torch.randn(photograph.shape, generator=torch.Generator().manual_seed(0))
    assert piqe((photograph / 255 + 0.1 * noise).clamp(0, 1)).item() > score + 10
    for quality, worse in ((20, 5), (5, 20)):
        stream = cv2.imencode(".jpg", photograph[0].permute(1, 2, 0).numpy(), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        compressed = torch.from_numpy(cv2.imdecode(stream, cv2.IMREAD_COLOR)).permute(2, 0, 1)[None]
        assert piqe(compressed).item() > score + worse


# ---- inputs ------------------------------------------------------------------------------------------


def test_codes_and_floats_agree() -> None:
    codes = random_codes(1, 1, 40, 37)
    for image in ((codes.int() * 257).to(torch.uint16), codes.double() / 255, codes.float() / 255):
        assert torch.equal(piqe(image), piqe(codes))


def test_a_batch_is_its_members() -> None:
    codes = random_codes(3, 3, 33, 40)
    batch = piqe(codes)
    assert batch.shape == (3,)
    assert batch.dtype == torch.float64
    assert torch.equal(batch, torch.cat([piqe(codes[i : i + 1]) for i in range(3)]))
    assert piqe(codes[:0]).shape == (0,)


def test_color_mean_is_the_mean_over_channels() -> None:
    codes = random_codes(2, 3, 33, 40)
    channels = [piqe(codes[:, c : c + 1]) for c in range(3)]
    torch.testing.assert_close(piqe(codes, color="mean"), torch.stack(channels).mean(0))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(value: float) -> None:
    image = torch.rand(2, 1, 32, 32)
    image[1, 0, 3, 3] = value
    assert piqe(image).isnan().tolist() == [False, True]


def test_layouts_and_inputs() -> None:
    codes = random_codes(2, 3, 33, 40)
    before, expected = codes.clone(), piqe(codes)
    last, strided = codes.contiguous(memory_format=torch.channels_last), codes.repeat_interleave(2, -1)[..., ::2]
    for image in (last, strided, codes.numpy()):
        torch.testing.assert_close(piqe(image), expected, rtol=1e-12, atol=0)
    assert torch.equal(codes, before)
    assert not piqe((codes / 255).requires_grad_()).requires_grad


def test_errors() -> None:
    with pytest.raises(ValueError, match="color must be"):
        piqe(random_codes(1, 1, 20, 20), color="hsv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be"):
        piqe(random_codes(20, 20))
    with pytest.raises(ValueError, match="no pixels"):
        piqe(random_codes(1, 1, 0, 20))
