// Mertens, Kautz and Van Reeth, "Exposure fusion", section 3: per-pixel arithmetic of the weights,
// and the taps of the pyramid. `raw` values are codes, or [0, 1] for floating-point images; `unit`
// scales them to [0, 1].
#pragma once

#include <cmath>

#include "hdrops/math/common.h"

namespace hdrops::math {

// a * b + c with a single rounding. OpenCV's grey conversion rounds so, and its weights of flat and
// of neutral pixels are what rounding leaves: the convention "opencv" must round alike.
HDROPS_HD double fused(double a, double b, double c) { return a * b + c; }
HDROPS_HD float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__CUDACC__)
  return __builtin_fmaf(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) +
                            static_cast<double>(c));
#endif
}

// Products and sums that a compiler must not contract.
#if defined(__CUDA_ARCH__)
HDROPS_HD float rounded_product(float a, float b) { return __fmul_rn(a, b); }
HDROPS_HD double rounded_product(double a, double b) { return __dmul_rn(a, b); }
#else
template <class T>
HDROPS_HD T rounded_product(T a, T b) {
  return a * b;  // the CPU loops are compiled without contraction
}
#endif

constexpr double fusion_epsilon = 1e-12;           // added to every weight
constexpr double fusion_two_sigma_squared = 0.08;  // sigma = 0.2

// Exponents and convention of one call.
template <class T>
struct FusionParameters {
  T contrast, saturation, exposedness;
  bool opencv;
  T unit;  // 1 / 255, 1 / 65535 or 1
};

// Factor from a Laplacian of grey() to [0, 1] units.
template <class T>
HDROPS_HD T contrast_unit(int64_t channels, const FusionParameters<T>& p) {
  return p.opencv ? T(1) : channels == 3 ? p.unit / T(1000) : p.unit;
}

// Grey of a pixel. Convention "paper": 299 R + 587 G + 114 B of the raw values, exact for 8-bit
// codes, so that flat areas and ramps have exactly no contrast. Convention "opencv": of values in
// [0, 1], in OpenCV's order.
template <class T>
HDROPS_HD T grey(T r, T g, T b, const FusionParameters<T>& p) {
  if (p.opencv) {
    const T x = rounded_product(r, p.unit), y = rounded_product(g, p.unit),
            z = rounded_product(b, p.unit);
    return fused(z, T(0.114), fused(x, T(0.299), rounded_product(y, T(0.587))));
  }
  return fused(T(299), r, fused(T(587), g, T(114) * b));
}

template <class T>
HDROPS_HD T grey(T only, const FusionParameters<T>& p) {
  return p.opencv ? rounded_product(only, p.unit) : only;
}

// Four-neighbour Laplacian, in OpenCV's order. The factor 4 is exact, so contraction cannot change
// the result.
template <class T>
HDROPS_HD T laplacian(T above, T left, T centre, T right, T below) {
  return (((above + left) - T(4) * centre) + right) + below;
}

// x ^ exponent for x >= 0 with 0 ^ 0 = 1.
template <class T>
HDROPS_HD T power(T x, T exponent) {
  if (exponent == T(1)) return x;
  if (exponent == T(0)) return T(1);
  return std::pow(x, exponent);
}

// d x ^ exponent / d x, taken as 0 at x = 0.
template <class T>
HDROPS_HD T power_slope(T x, T exponent) {
  if (exponent == T(1)) return T(1);
  if (exponent == T(0) || !(x > T(0))) return T(0);
  return exponent * std::pow(x, exponent - T(1));
}

// Colourfulness of a pixel in [0, 1] units: the standard deviation over the channels, from their
// differences (exactly 0 for a neutral pixel); in convention "opencv" the root of the summed
// squares about a rounded mean.
template <class T>
HDROPS_HD T colourfulness(T r, T g, T b, const FusionParameters<T>& p) {
  if (p.opencv) {
    const T x = rounded_product(r, p.unit), y = rounded_product(g, p.unit),
            z = rounded_product(b, p.unit);
    const T mean = rounded_product((x + y) + z, T(1.0 / 3.0));
    return std::sqrt((x - mean) * (x - mean) + (y - mean) * (y - mean) + (z - mean) * (z - mean));
  }
  return std::sqrt(((r - g) * (r - g) + (g - b) * (g - b) + (b - r) * (b - r)) * T(1.0 / 9.0)) *
         p.unit;
}

// d colourfulness / d (one channel in [0, 1] units); the other two are `y` and `z`, in [0, 1] units
// as well.
template <class T>
HDROPS_HD T colourfulness_slope(T x, T y, T z, T value, bool opencv) {
  if (!(value > T(0))) return T(0);
  const T deviation = (T(2) * x - y - z) * T(1.0 / 3.0);
  return deviation / (opencv ? value : T(3) * value);
}

// ---- pyramid ------------------------------------------------------------------------------------

// Mirror an index without repeating the edge; a single pixel repeats.
HDROPS_HD int64_t mirror(int64_t i, int64_t size) {
  if (size == 1) return 0;
  const int64_t period = 2 * size - 2;
  int64_t m = i % period;
  if (m < 0) m += period;
  return m < size ? m : period - m;
}

HDROPS_HD int64_t coarse_size(int64_t size) { return (size + 1) / 2; }

// Pyramid levels above the finest: floor(log2(min(height, width))).
HDROPS_HD int32_t pyramid_depth(int64_t height, int64_t width) {
  int64_t smaller = height < width ? height : width;
  int32_t depth = 0;
  for (; smaller > 1; smaller /= 2) ++depth;
  return depth;
}

// The neighbour of a coarse index in the upward filter: before the first comes the second, after
// the last the last.
HDROPS_HD int64_t coarse_neighbour(int64_t i, int64_t size) {
  if (i < 0) return size > 1 ? 1 : 0;
  return i < size ? i : size - 1;
}

}  // namespace hdrops::math
