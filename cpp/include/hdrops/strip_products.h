// Products of strips of pixels with weights, of which convolutions on the CPU are made.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <type_traits>

#include "hdrops/buffer.h"
#include "hdrops/math/common.h"
#include "hdrops/simd/matching.h"
#include "hdrops/simd/matching_volume.h"
#include "hdrops/tensor.h"

namespace hdrops {

template <class T>
const MatchingVolumeLoopsOf<T>& volume_loops() {
  const MatchingVolumeLoops& all = HDROPS_PICK(matching_volume_loops);
  if constexpr (std::is_same_v<T, float>)
    return all.f32;
  else
    return all.f64;
}

// Elements in storage to the arithmetic type, and back.
template <class T>
void load_elements(const void* from, Storage storage, int64_t n, T* to) {
  const MatchingLoops& all = HDROPS_PICK(matching_loops);
  if constexpr (std::is_same_v<T, float>)
    all.load_f32(from, storage, n, to);
  else
    all.load_f64(from, storage, n, to);
}
template <class T>
void store_elements(const T* from, int64_t n, void* to, Storage storage) {
  const MatchingLoops& all = HDROPS_PICK(matching_loops);
  if constexpr (std::is_same_v<T, float>)
    all.store_f32(from, n, to, storage);
  else
    all.store_f64(from, n, to, storage);
}

// A tensor's elements in the arithmetic type.
template <class T>
Buffer<T> elements_of(const Tensor& t) {
  auto values = buffer<T>(std::max<int64_t>(1, t.numel()));
  load_elements(t.const_data_ptr(), storage_of(t.scalar_type()), t.numel(), values.get());
  return values;
}

// Strips and weights of strip products, in T or in S = bfloat16, whose channels are even in number.
template <class S>
constexpr bool in_bf16 = std::is_same_v<S, bfloat16_bits>;
template <class S>
int64_t held(int64_t channels) {
  return in_bf16<S> ? math::rounded_up(channels, 2) : channels;
}

template <class T, class S>
void multiply_strip(const StripProduct<T, S>& of) {
  if constexpr (in_bf16<S>)
    HDROPS_PICK(matching_volume_loops).multiply_bf16(of);
  else
    volume_loops<T>().multiply(of);
}

// Has `make` write `pixels` of `channels` in T into a strip, by way of `line` where that holds S.
template <class T, class S, class Make>
void make_strip(int64_t pixels, int64_t channels, T* line, S* to, const Make& make) {
  if constexpr (!in_bf16<S>) {
    make(to);
  } else {
    const auto& loops = HDROPS_PICK(matching_volume_loops);
    make(line);
    if (channels % 2 == 0) return loops.round_bf16(line, pixels * channels, to);
    for (int64_t x = 0; x < pixels; ++x) {
      loops.round_bf16(line + x * channels, channels, to + x * (channels + 1));
      to[x * (channels + 1) + channels] = {0};
    }
  }
}

}  // namespace hdrops
