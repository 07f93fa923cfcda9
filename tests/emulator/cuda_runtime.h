// A CUDA device on the CPU, for tests: kernels are compiled as C++, the threads of a block are fibres
// that take turns, blocks run one after the other. It shows what kernels compute, not how fast, and
// not what goes wrong only where threads truly run at once.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // of the one block that runs

struct uint4 {
  uint32_t x, y, z, w;
};
struct double2 {
  double x, y;
};

namespace emulator {

struct Index {
  unsigned x;
};
extern Index thread, block, threads, blocks;

constexpr unsigned lanes = 32;

// Waits for the other threads of the block, or of the warp.
void wait_for_block();
void wait_for_warp();
// Memory of the warp, 64 bytes for each lane.
void* warp_memory();
// Runs `body` in every thread of every block.
void run(unsigned blocks, unsigned threads, const std::function<void()>& body);

// What each lane of the warp gives, for all of them to see: use(values).
template <class T, class Use>
auto exchange(const T& value, const Use& use) {
  static_assert(sizeof(T) <= 64);
  T* const values = static_cast<T*>(warp_memory());
  wait_for_warp();
  values[thread.x % lanes] = value;
  wait_for_warp();
  const auto result = use(static_cast<const T*>(values));
  wait_for_warp();
  return result;
}

}  // namespace emulator

#define threadIdx emulator::thread
#define blockIdx emulator::block
#define blockDim emulator::threads
#define gridDim emulator::blocks

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp(unsigned = 0) { emulator::wait_for_warp(); }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulator::exchange(value, [&](const T* all) { return all[lane % emulator::lanes]; });
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned by) {
  const unsigned lane = threadIdx.x % emulator::lanes;
  return emulator::exchange(
      value, [&](const T* all) { return all[lane + by < emulator::lanes ? lane + by : lane]; });
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  return emulator::exchange(predicate, [](const int* all) {
    unsigned bits = 0;
    for (unsigned lane = 0; lane < emulator::lanes; ++lane)
      bits |= (all[lane] != 0 ? 1u : 0u) << lane;
    return bits;
  });
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == 0xffffffffu;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (by % 32));
}
inline void __stwb(uint4* to, uint4 value) { *to = value; }

template <class T, class U>
T atomicAdd(T* to, U value) {
  const T before = *to;
  *to = before + static_cast<T>(value);
  return before;
}
template <class T, class U>
T atomicMax(T* to, U value) {
  const T before = *to;
  if (static_cast<T>(value) > before) *to = static_cast<T>(value);
  return before;
}

template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
