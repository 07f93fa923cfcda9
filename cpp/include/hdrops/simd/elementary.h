// Elementary functions that the compiler vectorises. Included by cpp/simd/ only, so that each CPU
// level gets its own copy.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "hdrops/math/exposure_fusion.h"
#include "hdrops/simd/convert.h"

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

// e^x for x <= 0, to 2 units in the last place: 2^n by exponent bits, the rest by a polynomial.
// Below -87 the result is 0.
[[maybe_unused]] inline float exp_negative(float x) {
  const float bounded = x > -87.0f ? x : -87.0f;
  const float shifted = bounded * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  float r = math::fused(n, -0.693359375f, bounded);
  r = math::fused(n, 2.12194440e-4f, r);
  float y = 1.9875691500e-4f;
  y = math::fused(y, r, 1.3981999507e-3f);
  y = math::fused(y, r, 8.3334519073e-3f);
  y = math::fused(y, r, 4.1665795894e-2f);
  y = math::fused(y, r, 1.6666665459e-1f);
  y = math::fused(y, r, 5.0000001201e-1f);
  y = math::fused(y, r * r, r) + 1.0f;
  const float scale = float_from_bits((bits_from_float(shifted) + 127u) << 23);
  const float value = x > -87.0f ? y * scale : 0.0f;
  return x == x ? value : x;
}

[[maybe_unused]] inline double exp_negative(double x) { return std::exp(x); }

// ln x for normal x > 0, to 2 units in the last place: x = 2^n (1 + f) with 1 + f from sqrt(1/2) to
// sqrt(2), and a polynomial in f.
[[maybe_unused]] inline float logarithm(float x) {
  const uint32_t bits = bits_from_float(x);
  const int32_t n = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  const float f = float_from_bits(bits - (static_cast<uint32_t>(n) << 23)) - 1.0f;
  float y = 7.0376836292e-2f;
  y = y * f - 1.1514610310e-1f;
  y = y * f + 1.1676998740e-1f;
  y = y * f - 1.2420140846e-1f;
  y = y * f + 1.4249322787e-1f;
  y = y * f - 1.6668057665e-1f;
  y = y * f + 2.0000714765e-1f;
  y = y * f - 2.4999993993e-1f;
  y = y * f + 3.3333331174e-1f;
  const float square = f * f;
  const float exponent = static_cast<float>(n);
  const float low = square * (f * y - 0.5f) - 2.12194440e-4f * exponent;
  const float value = 0.693359375f * exponent + (f + low);
  return x <= std::numeric_limits<float>::max() ? value : x;
}

[[maybe_unused]] inline double logarithm(double x) { return std::log(x); }

// tan(pi / 2 x) for x from 0 to 1, to 4 units in the last place: by the cotangent of the complement
// above 1/2.
[[maybe_unused]] inline float tangent_of_quarters(float x) {
  const bool steep = x > 0.5f;
  const float a = 1.57079633f * (steep ? 1.0f - x : x);
  const float z = a * a;
  float y = 9.38540185543e-3f;
  y = y * z + 3.11992232697e-3f;
  y = y * z + 2.44301354525e-2f;
  y = y * z + 5.34112807005e-2f;
  y = y * z + 1.33387994085e-1f;
  y = y * z + 3.33331568548e-1f;
  y = y * z * a + a;
  return steep ? 1.0f / y : y;
}

[[maybe_unused]] inline double tangent_of_quarters(double x) {
  const bool steep = x > 0.5;
  const double y = std::tan(1.5707963267948966 * (steep ? 1.0 - x : x));
  return steep ? 1.0 / y : y;
}

}  // namespace
}  // namespace HDROPS_LEVEL
}  // namespace hdrops
