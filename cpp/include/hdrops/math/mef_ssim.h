// Quality of a fused image given its bracket, at one position of the window: Ma, Zeng and Wang,
// "Perceptual quality assessment for multi-exposure image fusion". Values are on 0 to 255.
#pragma once

#include <cmath>

#include "hdrops/math/common.h"

namespace hdrops::math {

constexpr double mef_range = 255.0;
// Those of the authors' code.
constexpr double mef_contrast_floor = 0.001;
constexpr double mef_epsilon = 0x1p-52;
constexpr double mef_steepest = 10.0;
// A logarithm of weights beyond which epsilon makes all equal anyway, and its power of e.
constexpr double mef_lowest = 80.0;
constexpr double mef_lowest_power = 5.540622384393510e34;
// Sources that cancel leave rounding, this many units of it; that has no structure.
constexpr double mef_cancelled = 16.0;

// Energy of deviations from the means, of the sums over a window of n pixels. In areas that are
// flat both products are the same number, rounded alike.
template <class T>
HDROPS_HD T mef_energy(T product, T sum_a, T sum_b, T n, T inverse_n) {
  const T gross = n * product, mean = sum_a * sum_b;
  return (gross - mean) * inverse_n;
}

// R of eq. 11: the norm of the sum of the sources over the sum of their norms; at most 1.
template <class T>
HDROPS_HD T mef_consistency(T energy_of_sum, T sum_of_norms) {
  constexpr T epsilon = T(mef_epsilon);
  const T r = (std::sqrt(at_least_0(energy_of_sum)) + epsilon) / (sum_of_norms + epsilon);
  return r > T(1) ? T(1) : r;
}

// From the shares of the sources to the desired patch: its contrast over the norm of its parts'
// sum, of which rounding leaves `gross` units.
template <class T>
HDROPS_HD T mef_gain(T squared, T gross, T contrast) {
  constexpr T units = T(mef_cancelled * (sizeof(T) == 4 ? 0x1p-23 : 0x1p-52));
  return squared > units * gross ? contrast / std::sqrt(squared) : T(0);
}

template <class T>
struct MefQuality {
  T value;
  T inverse;  // of the denominator
};

template <class T>
HDROPS_HD MefQuality<T> mef_quality(T covariance, T variance_desired, T variance, T c) {
  const T inverse = T(1) / (at_least_0(variance_desired) + variance + c);
  return {(T(2) * covariance + c) * inverse, inverse};
}

}  // namespace hdrops::math
