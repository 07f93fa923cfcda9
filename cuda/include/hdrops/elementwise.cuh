// Kernels whose threads each do the same of one of many elements.
#pragma once

#include <cstdint>

#include "hdrops/launch.cuh"

namespace hdrops {

constexpr int32_t elementwise_threads = 256;

// The blocks for so many elements.
inline int64_t elementwise_blocks(int64_t count) { return ceil_div(count, elementwise_threads); }

// f(0) to f(count - 1), each in one thread.
template <class F>
__device__ void over(int64_t count, const F& f) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < count;
       at += step)
    f(at);
}

}  // namespace hdrops
