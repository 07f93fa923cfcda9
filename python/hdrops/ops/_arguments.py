"""Argument handling that the public functions share."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

IMAGE_DTYPES = (torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64)
CODE_DTYPES = (torch.uint8, torch.uint16)


def as_tensor(array: Any, name: str) -> torch.Tensor:
    """A tensor itself, or any array that speaks DLPack (NumPy, CuPy, JAX) without a copy."""
    if isinstance(array, torch.Tensor):
        return array
    if hasattr(array, "__dlpack__"):
        return from_dlpack(array)
    raise TypeError(f"{name} must be a tensor or an array that supports DLPack, got {type(array).__name__}")


def check_image_dtype(image: torch.Tensor, name: str) -> None:
    if image.dtype not in IMAGE_DTYPES:
        raise TypeError(f"{name} must be uint8, uint16 or floating point, got {image.dtype}")


def check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, both excluded, got {fraction}")


def can_wait(tensor: torch.Tensor) -> bool:
    """Whether values of a tensor may be looked at here, which a program that is traced or captured cannot do."""
    return not torch.compiler.is_compiling() and not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def compute_dtype(image: torch.Tensor) -> torch.dtype:
    """The arithmetic type of an operator: float64 for float64 images, float32 for all others."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def without_autocast(tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Autocast off where there is one."""
    device = tensor.device.type
    return (
        torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else contextlib.nullcontext()
    )


def output_dtype(
    image: torch.Tensor,
    dtype: torch.dtype | None,
    out: torch.Tensor | None,
    offered: tuple[torch.dtype, ...] = (),
) -> torch.dtype:
    """The element type of a result: ``dtype``, else that of ``out``, else the first of those offered.

    Unless told otherwise, these are the image's and, for codes, float32.
    """
    if dtype is not None and out is not None and dtype != out.dtype:
        raise ValueError(f"dtype={dtype} contradicts out, which is {out.dtype}; give one of them")
    allowed = offered or ((image.dtype, torch.float32) if image.dtype in CODE_DTYPES else (image.dtype,))
    wanted = dtype or (allowed[0] if out is None else out.dtype)
    if wanted not in allowed:
        raise TypeError(
            f"a result of {wanted} from {image.dtype} images is not offered; "
            f"ask for {' or '.join(str(d) for d in allowed)}"
        )
    return wanted


def check_out(out: torch.Tensor, shape: torch.Size, inputs: list[torch.Tensor]) -> None:
    if out.shape != shape:
        raise ValueError(f"out has shape {tuple(out.shape)}, the result {tuple(shape)}")
    if out.device != inputs[0].device:
        raise ValueError(f"out is on {out.device}, the images on {inputs[0].device}")
    if not torch.compiler.is_compiling() and any(_overlap(out, x) for x in inputs):
        raise ValueError("out shares memory with an input; give it memory of its own")
    if torch.is_grad_enabled() and (out.requires_grad or any(x.requires_grad for x in inputs)):
        raise RuntimeError("out= does not support autograd; leave it out, or work under torch.no_grad()")


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the memory ranges of two tensors meet."""

    def span(x: torch.Tensor) -> tuple[int, int]:
        reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        return x.data_ptr(), x.data_ptr() + (reach + 1) * x.element_size()

    if a.numel() == 0 or b.numel() == 0 or a.device != b.device or a.is_meta:
        return False
    (begin, end), (other_begin, other_end) = span(a), span(b)
    return begin < other_end and other_begin < end


def keep_format(result: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The result in the memory format of the images, (..., C, H, W): channels last where each pixel is one run."""
    channels, _, width = images.shape[-3:]
    strides = images.stride()[-3:]
    if channels > 1 and strides == (1, width * channels, channels) and not images.is_contiguous():
        return result.contiguous(memory_format=torch.channels_last)
    return result
