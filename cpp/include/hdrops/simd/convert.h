// Conversions between storage types and the arithmetic type, in runs. Included by cpp/simd/ only,
// so that each CPU level gets its own copy.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "hdrops/math/common.h"
#include "hdrops/simd/storage.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// IEEE half to float without F16C: scale the shifted bits by 2^112, which handles subnormals; Inf
// and NaN apart.
inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u)
    return float_from_bits(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  const float scaled = float_from_bits(magnitude << 13) * 0x1p112f;
  return float_from_bits(sign | bits_from_float(scaled));
}

// Float to IEEE half, round to nearest even.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = bits_from_float(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Subnormal half: adding 0.5 aligns the mantissa to units of 2^-24 and rounds in hardware.
    const uint32_t aligned = bits_from_float(float_from_bits(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (aligned - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = bits_from_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Of an arithmetic type.
template <class T>
constexpr Storage own_storage = std::is_same_v<T, float> ? Storage::f32 : Storage::f64;

// Storage to arithmetic type, unscaled.
template <class In, class T>
inline void load_run(const In* in, int64_t n, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(in[i]);
}

inline void load_run(const bfloat16_bits* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = float_from_bits(static_cast<uint32_t>(in[i].bits) << 16);
}

inline void load_run(const float16_bits* in, int64_t n, float* out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i,
                     _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  }
#endif
  for (; i < n; ++i) out[i] = half_to_float(in[i].bits);
}

// The largest code of an integer storage type; 1 for floats.
template <class Out>
constexpr double full_scale = 1.0;
template <>
constexpr double full_scale<uint8_t> = 255.0;
template <>
constexpr double full_scale<uint16_t> = 65535.0;

// Arithmetic type to storage: codes are rounded half to even and saturated, floats converted.
// `values` are in units of the storage type.
template <class T, class Out>
inline void store_run(const T* values, int64_t n, Out* out) {
  if constexpr (full_scale<Out> > 1.0) {
    constexpr T limit = static_cast<T>(full_scale<Out>);
    for (int64_t i = 0; i < n; ++i) {
      out[i] = static_cast<Out>(static_cast<int32_t>(math::to_code(values[i], limit)));
    }
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<Out>(values[i]);
  }
}

inline void store_run(const float* values, int64_t n, bfloat16_bits* out) {
  for (int64_t i = 0; i < n; ++i) out[i].bits = float_to_bfloat16(values[i]);
}

inline void store_run(const float* values, int64_t n, float16_bits* out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), halves);
  }
#endif
  for (; i < n; ++i) out[i].bits = float_to_half(values[i]);
}

// Calls f with a pointer to elements of a storage type, all but f64 being float32 in arithmetic.
template <class Void, class F>
inline void with_elements(Void* memory, Storage storage, const F& f) {
  const auto as = [&]<class S>(S) {
    if constexpr (std::is_const_v<Void>)
      f(static_cast<const S*>(memory));
    else
      f(static_cast<S*>(memory));
  };
  switch (storage) {
    case Storage::u8:
      return as(uint8_t{});
    case Storage::u16:
      return as(uint16_t{});
    case Storage::f16:
      return as(float16_bits{});
    case Storage::bf16:
      return as(bfloat16_bits{});
    default:
      return as(float{});
  }
}

}  // namespace
}  // namespace HDROPS_LEVEL
}  // namespace hdrops
