// In place of the CUDA kernels' own: a launch runs in the emulator.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "hdrops/math/common.h"
#include "hdrops/tensor.h"

namespace hdrops {

class Launcher {
 public:
  explicit Launcher(const Tensor&) {}

  int64_t multiprocessors() const { return 4; }

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...),
                  int64_t units,
                  int32_t threads,
                  int64_t,
                  Arguments&&... arguments) const {
    // Few blocks, so that kernels take their units in a loop.
    constexpr int64_t most_blocks = 3;
    if (units > 0)
      emulator::run(static_cast<unsigned>(std::min(units, most_blocks)),
                    static_cast<unsigned>(threads),
                    [&] { kernel(arguments...); });
  }
};

using math::ceil_div;

template <class T>
T* dynamic_shared() {
  alignas(16) static unsigned char memory[48 << 10];
  return reinterpret_cast<T*>(memory);
}

}  // namespace hdrops
