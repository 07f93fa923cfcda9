// Arithmetic shared by the CPU and the CUDA kernels.
#pragma once

#include <cstdint>
#include <limits>

// Internal linkage matters on the CPU: the same function is compiled once per CPU level, and the
// linker must not merge the copies.
#if defined(__CUDACC__)
#define HDROPS_HD static __host__ __device__ __forceinline__
#define HDROPS_HD_MEMBER __host__ __device__ __forceinline__
#else
#define HDROPS_HD static inline __attribute__((always_inline))
#define HDROPS_HD_MEMBER inline
#endif

namespace hdrops::math {

template <class T>
HDROPS_HD T clamp(T x, T low, T high) {
  const T floor = x > low ? x : low;
  return floor < high ? floor : high;
}

HDROPS_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The multiple of `step` at or above n.
HDROPS_HD int64_t rounded_up(int64_t n, int64_t step) { return ceil_div(n, step) * step; }

// Of a number or of each of a vector; NaN stays.
template <class V>
HDROPS_HD V at_least_0(const V& x) {
  return x < V{} ? V{} : x;
}

// Round half to even, then saturate to [0, max_code]; NaN becomes 0.
template <class T>
HDROPS_HD T to_code(T value, T max_code) {
  const T clamped = clamp(value, T(0), max_code);
  // Adding and subtracting 1.5 * 2^(mantissa bits) rounds to the nearest integer in
  // round-to-nearest mode.
  constexpr T magic = sizeof(T) == 4 ? T(12582912) : T(6755399441055744);
  const T shifted = clamped + magic;
  return shifted - magic;
}

}  // namespace hdrops::math
