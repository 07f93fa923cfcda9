"""The operators from C++ alone: a program that knows torch, loads libhdrops.so and calls the dispatcher."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest
import torch

import hdrops

PROGRAM = r"""
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/linspace.h>

#include <dlfcn.h>

#include <cstdio>

int main(int, char** arguments) {
  if (dlopen(arguments[1], RTLD_NOW) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  const at::Tensor dark = at::arange(2 * 3 * 5 * 7, at::kInt).to(at::kByte).reshape({2, 3, 5, 7});
  const at::Tensor bright = dark.flip({3}).contiguous();
  const at::Tensor table = at::linspace(0, 255, 64, at::kFloat).reshape({1, 1, 64});
  const auto fuse = c10::Dispatcher::singleton().findSchemaOrThrow("hdrops::imf_fuse", "");
  torch::jit::Stack stack;
  torch::jit::push(stack, dark, bright, table, table.flip({2}).contiguous());
  torch::jit::push(stack, std::vector<double>{5, 55}, std::vector<double>{200, 250}, at::kFloat);
  fuse.callBoxed(&stack);
  const at::Tensor result = stack.at(0).toTensor();
  for (const int64_t size : result.sizes()) std::printf("%ld ", static_cast<long>(size));
  std::printf("%.9g %.9g\n", result.sum(at::kDouble).item<double>(), result.view(-1)[17].item<double>());

  torch::jit::Stack refused;
  torch::jit::push(refused, dark, bright, table, table, std::vector<double>{55, 5}, std::vector<double>{200, 250});
  torch::jit::push(refused, c10::IValue());
  try {
    fuse.callBoxed(&refused);
  } catch (const std::exception& error) {
    std::printf("%.200s\n", error.what());
  }
  return 0;
}
"""


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    root = pathlib.Path(torch.__file__).parent
    folder = tmp_path_factory.mktemp("consumer")
    source, program = folder / "consumer.cpp", folder / "consumer"
    source.write_text(PROGRAM)
    command = [compiler, "-std=c++20", "-O0", "-w", str(source), "-o", str(program)]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", f"-isystem{root / 'include'}"]
    command += [f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-Wl,--no-as-needed"]
    command += ["-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def test_consumer(consumer: pathlib.Path) -> None:
    library = pathlib.Path(hdrops._C.__file__).parent / "libhdrops.so"
    done = subprocess.run([str(consumer), str(library)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers, refusal, *_ = done.stdout.splitlines()

    dark = torch.arange(2 * 3 * 5 * 7).to(torch.uint8).reshape(2, 3, 5, 7)
    table = torch.linspace(0, 255, 64)
    expected = hdrops.imf_fuse(dark, dark.flip(3), table, table.flip(0), dtype=torch.float32)
    *sizes, total, sample = (float(number) for number in numbers.split())
    assert sizes == [2, 3, 5, 7]
    assert total == pytest.approx(float(expected.double().sum()), rel=1e-7)
    assert sample == pytest.approx(float(expected.flatten()[17]), rel=1e-7)
    assert "imf_fuse: low must be two finite, increasing code values" in refusal
