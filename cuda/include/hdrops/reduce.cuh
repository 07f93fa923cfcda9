// Reductions over the threads of a block, in an order that does not depend on timing.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hdrops {

// combine() of the values of all `threads` (a power of two) of the block, in every thread. All of
// them call it; `shared` holds one T per thread and is free again afterwards.
template <int32_t threads, class T, class F>
__device__ T block_reduce(T value, T* shared, const F& combine) {
  static_assert((threads & (threads - 1)) == 0);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  shared[thread] = value;
  __syncthreads();
  for (int32_t half = threads / 2; half > 0; half /= 2) {
    if (thread < half) shared[thread] = combine(shared[thread], shared[thread + half]);
    __syncthreads();
  }
  const T result = shared[0];
  __syncthreads();
  return result;
}

}  // namespace hdrops
