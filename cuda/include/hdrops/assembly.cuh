// All that is written in PTX: products of a warp on tensor cores, pairs of 16-bit values, and hints.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

namespace hdrops {

// Whether storage S is multiplied on tensor cores by what is being compiled (sm_80 and later).
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
template <class S>
constexpr bool on_tensor_cores = false;
#else
template <class S>
constexpr bool on_tensor_cores =
    std::is_same_v<S, torch::headeronly::Half> || std::is_same_v<S, torch::headeronly::BFloat16>;
#endif

// Two values rounded to S, the first in the lower half.
template <class S>
__device__ __forceinline__ uint32_t packed_pair(float low, float high) {
  uint32_t pair;
  if constexpr (std::is_same_v<S, torch::headeronly::Half>)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// One of the values of a pair, by its place.
template <class S>
__device__ __forceinline__ float of_pair(uint32_t pair, int32_t place) {
  if constexpr (std::is_same_v<S, torch::headeronly::Half>) {
    torch::headeronly::Half half;
    half.x = static_cast<uint16_t>(pair >> (16 * place));
    return static_cast<float>(half);
  } else {
    return __uint_as_float(place == 0 ? pair << 16 : pair & 0xffff0000u);
  }
}

// Products of two pairs, rounded once.
template <class S>
__device__ __forceinline__ uint32_t multiplied_pairs(uint32_t a, uint32_t b) {
  uint32_t pair;
  if constexpr (std::is_same_v<S, torch::headeronly::Half>)
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(pair) : "r"(a), "r"(b));
  else
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(pair)
        : "r"(a), "r"(b), "r"(0x80008000u));  // a b - 0
  return pair;
}

// The compiler moves no load across this. Where a loop must be unrolled for its registers, it would
// move all loads to the front, for which there are no registers.
__device__ __forceinline__ void keep_order() { asm volatile("" ::: "memory"); }

// A pointer to global memory that is kept in registers, not made again at each use of it.
template <class T>
__device__ __forceinline__ T* kept(T* pointer) {
  asm volatile("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));  // else loads would be generic
}

// d += a b of 16 x 16 and 16 x 8 values, mma.m16n8k16. Of lane 4 g + t, a holds rows g, g + 8, g,
// g + 8 and columns 2t, 2t, 2t + 8, 2t + 8 with their neighbours; b holds rows 2t and 2t + 8 with
// their neighbours of column g; d0 and d1 are row g and columns 2t, 2t + 1, d2 and d3 row g + 8.
template <class S>
__device__ __forceinline__ void multiply_add_tile(
    float& d0, float& d1, float& d2, float& d3, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<S, torch::headeronly::Half>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace hdrops
