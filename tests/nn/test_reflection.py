"""Reflection by one pixel, and ReLU with it, against PyTorch's own layers."""

import pytest
import torch
import torch.nn.functional as F

from hdrops.nn.reflection import reflected, reflected_relu

SIZES = [(5, 7), (2, 2), (3, 2), (1, 4), (4, 1), (1, 1)]


def image(size, dtype=torch.float64, memory_format=torch.contiguous_format):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=memory_format).requires_grad_()


@pytest.mark.parametrize("size", SIZES)
def test_reflects(size):
    x = image(size).detach()
    rows, columns = ([1, *range(n), n - 2] if n > 1 else [0, 0, 0] for n in size)
    assert torch.equal(reflected(x), x[..., rows, :][..., columns])
    assert torch.equal(reflected_relu(x), x.clamp(min=0)[..., rows, :][..., columns])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_gradient_and_format(memory_format, dtype):
    x = image((6, 9), dtype, memory_format)
    out = reflected_relu(x)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    (found,) = torch.autograd.grad(out, x, grad)
    (expected,) = torch.autograd.grad(F.pad(x.double().relu(), (1,) * 4, "reflect"), x, grad.double())
    # In bfloat16 what meets in a corner is rounded three times, to a unit of the largest.
    allowed = 3 * 2**-8 * grad.abs().max().item() if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(found, expected.to(dtype), atol=allowed, rtol=0)
    assert out.is_contiguous(memory_format=memory_format)
    assert out.dtype == dtype


@pytest.mark.parametrize("size", SIZES)
def test_gradients(size):
    x = image(size)
    assert torch.autograd.gradcheck(reflected_relu, x)
    assert torch.autograd.gradgradcheck(reflected_relu, x)


def test_gradient_that_came_in_is_unmodified():
    x = image((4, 5))
    out = reflected_relu(x)
    grad = torch.ones_like(out)
    torch.autograd.grad(out, x, grad)
    assert bool((grad == 1).all())


def test_compiles():
    x = image((6, 5), torch.float32)
    compiled = torch.compile(reflected_relu, fullgraph=True)
    assert torch.equal(compiled(x), reflected_relu(x))
