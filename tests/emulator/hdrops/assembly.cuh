// In place of the CUDA kernels' own: what it writes in PTX, by the definitions in the PTX manual.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

namespace hdrops {

template <class S>
constexpr bool on_tensor_cores =
    std::is_same_v<S, torch::headeronly::Half> || std::is_same_v<S, torch::headeronly::BFloat16>;

template <class S>
float of_pair(uint32_t pair, int32_t place) {
  const auto bits = static_cast<uint16_t>(pair >> (16 * place));
  S value;
  std::memcpy(&value, &bits, sizeof bits);
  return static_cast<float>(value);
}

template <class S>
uint32_t packed_pair(float low, float high) {
  const S values[2] = {S(low), S(high)};
  uint32_t pair;
  std::memcpy(&pair, values, sizeof pair);
  return pair;
}

template <class S>
uint32_t multiplied_pairs(uint32_t a, uint32_t b) {
  return packed_pair<S>(of_pair<S>(a, 0) * of_pair<S>(b, 0), of_pair<S>(a, 1) * of_pair<S>(b, 1));
}

inline void keep_order() {}

template <class T>
T* kept(T* pointer) {
  return pointer;
}

// mma.m16n8k16: where the lanes hold the elements of both operands and of the result.
template <class S>
void multiply_add_tile(
    float& d0, float& d1, float& d2, float& d3, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    float a[8], b[4];
  };
  struct Result {
    float item[4];
  };
  Operands own;
  for (int32_t i = 0; i < 8; ++i) own.a[i] = of_pair<S>(a[i / 2], i % 2);
  for (int32_t i = 0; i < 4; ++i) own.b[i] = of_pair<S>(i < 2 ? b0 : b1, i % 2);
  const unsigned lane = threadIdx.x % emulator::lanes;
  const Result sum = emulator::exchange(own, [&](const Operands* of) {
    const auto left = [&](unsigned row, unsigned k) {
      return of[row % 8 * 4 + k % 8 / 2].a[2 * (row / 8 + k / 8 * 2) + k % 2];
    };
    const auto right = [&](unsigned k, unsigned column) {
      return of[column * 4 + k % 8 / 2].b[2 * (k / 8) + k % 2];
    };
    Result result{{d0, d1, d2, d3}};
    for (unsigned i = 0; i < 4; ++i)
      for (unsigned k = 0; k < 16; ++k)
        result.item[i] += left(lane / 4 + i / 2 * 8, k) * right(k, lane % 4 * 2 + i % 2);
    return result;
  });
  d0 = sum.item[0];
  d1 = sum.item[1];
  d2 = sum.item[2];
  d3 = sum.item[3];
}

}  // namespace hdrops
