"""The losses of JPEG against a real codec."""

import pytest
import torch
from image_files import smooth, write

from hdrops.data import jpeg_round_trip
from hdrops.io import read_image


def picture(height, width, seed=0):
    """Smooth colours with some noise, (3, H, W) uint8."""
    base = torch.from_numpy(smooth(height, width, 3, 235, seed)).permute(2, 0, 1)
    noise = 6 * torch.randn(base.shape, generator=torch.Generator().manual_seed(seed))
    return (base + 10 + noise).clamp(0, 255).to(torch.uint8)


def coded(folder, codes, quality, subsampled=False):
    """The picture through a file of the codec."""
    file = folder / "x.jpg"
    write(
        file,
        codes.permute(1, 2, 0).contiguous().numpy(),
        Compression=f"jpeg:{quality}",
        jpeg__subsampling="4:2:0" if subsampled else "4:4:4",
    )
    return read_image(file).pixels


def difference(one, other):
    return float((one.float() - other.float()).abs().mean())


@pytest.mark.parametrize("subsampled", [False, True], ids=["444", "420"])
@pytest.mark.parametrize(("quality", "share"), [(1, 0.01), (30, 0.15), (75, 0.15), (95, 0.3)])
@pytest.mark.parametrize("size", [(64, 96), (61, 87)])
def test_loses_what_a_codec_loses(tmp_path, quality, share, subsampled, size):
    codes = picture(*size)
    real = coded(tmp_path, codes, quality, subsampled)
    ours = jpeg_round_trip(codes, quality, subsampled=subsampled)
    loss = difference(codes, real)
    assert difference(ours, real) < share * loss
    assert difference(codes, ours) == pytest.approx(loss, rel=0.02)


@pytest.mark.parametrize("quality", [10, 30, 60])
def test_a_codec_s_picture_is_a_fixed_point(tmp_path, quality):
    real = coded(tmp_path, picture(64, 96), quality)
    assert difference(jpeg_round_trip(real, quality), real) < 0.1
    assert difference(jpeg_round_trip(real, quality - 3), real) > 0.5


@pytest.mark.parametrize("subsampled", [False, True], ids=["444", "420"])
def test_smaller_than_a_block(tmp_path, subsampled):
    codes = picture(5, 3)
    real = coded(tmp_path, codes, 90, subsampled)
    ours = jpeg_round_trip(codes, 90, subsampled=subsampled)
    assert ours.shape == codes.shape
    assert difference(codes, ours) == pytest.approx(difference(codes, real), rel=0.2)


def test_quality_orders_the_loss():
    codes = picture(64, 96)
    loss = [float((jpeg_round_trip(codes, q).float() - codes.float()).abs().mean()) for q in (10, 50, 90, 100)]
    assert loss == sorted(loss, reverse=True)
    assert loss[0] > 3
    assert loss[-1] < 0.7


def test_flat_pictures_of_any_batch_pass():
    codes = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1, 1).expand(3, 2, 3, 9, 17)
    assert torch.equal(jpeg_round_trip(codes, 100), codes)
    mixed = torch.stack([picture(16, 16, k) for k in range(4)])
    assert torch.equal(jpeg_round_trip(mixed, 60)[2], jpeg_round_trip(mixed[2], 60))


def test_refuses():
    with pytest.raises(TypeError, match="uint8"):
        jpeg_round_trip(torch.zeros(3, 8, 8), 90)
    for shape in ((1, 8, 8), (8, 8), (3, 0, 8)):
        with pytest.raises(ValueError, match=r"\(\.\.\., 3, H, W\)"):
            jpeg_round_trip(torch.zeros(shape, dtype=torch.uint8), 90)
    for quality in (0, 101):
        with pytest.raises(ValueError, match="quality"):
            jpeg_round_trip(torch.zeros(3, 8, 8, dtype=torch.uint8), quality)
