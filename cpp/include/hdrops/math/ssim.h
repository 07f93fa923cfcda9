// Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004, eq. 6, 10 and 13) and its
// derivatives, and the pyramid of Wang, Simoncelli and Bovik 2003.
//
// With s = x + y and d = x - y, four moments do instead of five:
//   2 µ_x µ_y = (µ_s² - µ_d²) / 2,  µ_x² + µ_y² = (µ_s² + µ_d²) / 2,
//   2 σ_xy = (σ_s² - σ_d²) / 2,     σ_x² + σ_y² = (σ_s² + σ_d²) / 2.
// Equal images have µ_d = σ_d = 0, and so exactly 1.
//
// V is an arithmetic type or a vector of it.
#pragma once

#include "hdrops/math/common.h"

namespace hdrops::math {

template <class T>
struct SsimConstants {
  T two_c1, two_c2;
  T covariance;  // factor of variances and covariance
};

// `unit` is the value of the images that stands for 1: that of a code type's largest code.
template <class T>
HDROPS_HD SsimConstants<T> ssim_constants(double c1, double c2, double covariance, double unit) {
  return {static_cast<T>(2 * c1 * unit * unit),
          static_cast<T>(2 * c2 * unit * unit),
          static_cast<T>(covariance)};
}

// Moments of the sum s and the difference d of both images under the window.
template <class V>
struct SsimMoments {
  V mean_s, mean_d, var_s, var_d;
};

// From the weighted mean of squares and the mean. Rounding leaves no variance below 0, so that the
// factors below stay in [-1, 1]; NaN stays.
template <class V, class T>
HDROPS_HD V ssim_variance(const V& square, const V& mean, T covariance) {
  return at_least_0(covariance * (square - mean * mean));
}

// The luminance factor l and the contrast-structure factor cs.
template <class V>
struct SsimFactors {
  V luminance, structure;
};

template <class V, class T>
HDROPS_HD SsimFactors<V> ssim_factors(const SsimMoments<V>& m, const SsimConstants<T>& c) {
  const V s2 = m.mean_s * m.mean_s, d2 = m.mean_d * m.mean_d;
  return {(s2 - d2 + c.two_c1) / (s2 + d2 + c.two_c1),
          (m.var_s - m.var_d + c.two_c2) / (m.var_s + m.var_d + c.two_c2)};
}

// Derivatives of by_product * l * cs + by_structure * cs with respect to the moments. Written
// without 1 - l and 1 - cs, which vanish to rounding where the images are alike, and without squares
// of the inverses, which leave the range of float32 where the images are very dark or very bright.
template <class V, class T>
HDROPS_HD SsimMoments<V> ssim_slopes(const SsimMoments<V>& m,
                                     const SsimConstants<T>& c,
                                     T by_product,
                                     T by_structure) {
  const V s2 = m.mean_s * m.mean_s, d2 = m.mean_d * m.mean_d;
  const V over_l = T(1) / (s2 + d2 + c.two_c1);
  const V over_cs = T(1) / (m.var_s + m.var_d + c.two_c2);
  const V l = (s2 - d2 + c.two_c1) * over_l, cs = (m.var_s - m.var_d + c.two_c2) * over_cs;
  const V luminance = T(4) * by_product * cs;
  const V structure = T(2) * (by_product * l + by_structure) * over_cs;
  return {luminance * (m.mean_s * over_l) * (d2 * over_l),
          -luminance * (m.mean_d * over_l) * ((s2 + c.two_c1) * over_l),
          structure * (m.var_d * over_cs),
          -structure * ((m.var_s + c.two_c2) * over_cs)};
}

// ---- the pyramid --------------------------------------------------------------------------------

HDROPS_HD int64_t halved_size(int64_t n) { return (n + 1) / 2; }

// The first of the two lines, of n, whose mean is line i of the coarser level; -1 is a line of zeros.
// The second one follows, and is the last line again where it would be line n.
HDROPS_HD int64_t halved_line(int64_t i, int64_t n, bool zero_padded) {
  return 2 * i - (zero_padded ? n % 2 : 0);
}

// The line of the coarser level that line i of n is part of, and how often: twice where the last one
// is repeated.
HDROPS_HD int64_t coarser_line(int64_t i, int64_t n, bool zero_padded) {
  return (i + (zero_padded ? n % 2 : 0)) / 2;
}
HDROPS_HD int64_t times_halved(int64_t i, int64_t n, bool zero_padded) {
  return !zero_padded && n % 2 == 1 && i == n - 1 ? 2 : 1;
}

}  // namespace hdrops::math
