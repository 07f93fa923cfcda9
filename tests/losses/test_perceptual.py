"""The perceptual loss is what it says of its features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hdrops.losses import PerceptualLoss
from hdrops.nn import VGGFeatures, demosaic


def images(channels: int = 3, side: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, channels, side, side, generator=generator, dtype=torch.float64) for _ in range(2))
    return first, second


def features() -> VGGFeatures:
    torch.manual_seed(0)
    return VGGFeatures(layer="conv2_1").double()


def test_values() -> None:
    prediction, target = images()
    network = features()
    found, wanted = (network(image) for image in (prediction, target))
    torch.testing.assert_close(PerceptualLoss(network)(prediction, target), (found - wanted).abs().mean())
    torch.testing.assert_close(PerceptualLoss(network, "l2")(prediction, target), (found - wanted).square().mean())
    assert PerceptualLoss(network)(target, target) == 0


def test_mosaics() -> None:
    prediction, target = images(4, 3)
    network = features()
    expected = PerceptualLoss(network)(demosaic(prediction), demosaic(target))
    assert torch.equal(PerceptualLoss(network, mosaic=True)(prediction, target), expected)


def test_values_beyond_the_range_count() -> None:
    prediction, target = images()
    loss = PerceptualLoss(features())
    assert loss(prediction + 1, target) > loss(prediction.clamp(0, 1), target)


@pytest.mark.parametrize("mosaic", [False, True])
def test_gradients(mosaic: bool) -> None:
    prediction, target = images(4 if mosaic else 3, 4)
    loss = PerceptualLoss(features(), mosaic=mosaic)
    variable = prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), variable, fast_mode=True)
    wanted = target.clone().requires_grad_()
    loss(variable, wanted).backward()
    assert wanted.grad is None
    assert variable.grad is not None
    assert (variable.grad != 0).all()


def test_it_trains_what_is_measured_alone() -> None:
    """A step on a network through the loss; the features stay."""
    torch.manual_seed(0)
    network, loss = nn.Conv2d(3, 3, 3, padding=1), PerceptualLoss(VGGFeatures(layer="conv2_1"))
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    both = [*network.parameters(), *loss.parameters()]
    optimizer = torch.optim.Adam(both, 0.01, weight_decay=0.1)
    source, target = (image.float() for image in images())
    values = []
    for _ in range(10):
        optimizer.zero_grad()
        value = loss(network(source), target)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in loss.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_half_precision() -> None:
    prediction, target = (image.bfloat16() for image in images())
    network = VGGFeatures(layer="conv2_1")
    loss = PerceptualLoss(network)
    found = loss(prediction, target)
    assert found.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        fast = loss(prediction, target)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, found, rtol=0.03, atol=0)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="criterion must be 'l1' or 'l2', got 'huber'"):
        PerceptualLoss(features(), "huber")  # type: ignore[arg-type]
    prediction, target = images()
    loss = PerceptualLoss(features())
    with pytest.raises(ValueError, match="must have one shape"):
        loss(prediction, target[:1])
    with pytest.raises(TypeError, match="prediction must be floating point"):
        loss(prediction.mul(255).byte(), target)
    with pytest.raises(ValueError, match="at least 2 pixels a side"):
        loss(prediction[..., :1], target[..., :1])
    with pytest.raises(ValueError, match=r"planes must be \(N, 4, H, W\)"):
        PerceptualLoss(features(), mosaic=True)(prediction, target)
    assert "criterion='l1', mosaic=False" in repr(loss)
