"""Pytest plugin: the CUDA kernels, compiled for the emulator, in place of the C++ kernels of the CPU."""

import os

import torch

import hdrops  # noqa: F401  (registers the operators)

torch.ops.load_library(os.environ["HDROPS_EMULATED"])
