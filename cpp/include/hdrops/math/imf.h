// The fusion of Zheng, Li, Yang and Wu, "Compensated exposure interpolation by fusing conventional
// and deep learning methods", section III.A: per-pixel arithmetic of eq. 8-12. Values are in 8-bit
// code units (0..255).
#pragma once

#include "hdrops/math/common.h"

namespace hdrops::math {

// A smoothstep between two code values: thresholds and the slope of its argument.
template <class T>
struct Ramp {
  T start;
  T end;
  T inverse_width;  // 1 / (end - start)
};

// t^2 (3 - 2 t): the smoothstep. With h = 1 - t it is the paper's 1 - 3 h^2 + 2 h^3.
template <class T>
HDROPS_HD T smoothstep(T t) {
  return t * t * (T(3) - T(2) * t);
}

// Eq. 9 and 11: weight of the dark image, 0 below low.start, rising to 1 at low.end.
template <class T>
HDROPS_HD T dark_weight(T code, const Ramp<T>& low) {
  return smoothstep(clamp((code - low.start) * low.inverse_width, T(0), T(1)));
}

// Eq. 10 and 12: weight of the bright image, 1 below high.start, falling to 0 at high.end.
template <class T>
HDROPS_HD T bright_weight(T code, const Ramp<T>& high) {
  return smoothstep(clamp((high.end - code) * high.inverse_width, T(0), T(1)));
}

// d smoothstep(t(code)) / d code; zero outside the ramp. `direction` is +1 for the rising, -1 for
// the falling ramp.
template <class T>
HDROPS_HD T weight_slope(T t, T inverse_width, T direction) {
  const T inside = clamp(t, T(0), T(1));
  return direction * inverse_width * T(6) * inside * (T(1) - inside);
}

// Eq. 8, with the plain average where both weights vanish (the paper leaves 0/0 open).
template <class T>
HDROPS_HD T blend(T weight_dark, T value_dark, T weight_bright, T value_bright) {
  const T sum = weight_dark + weight_bright;
  const T weighted =
      (weight_dark * value_dark + weight_bright * value_bright) / (sum > T(0) ? sum : T(1));
  return sum > T(0) ? weighted : (value_dark + value_bright) * T(0.5);
}

// Partial derivatives of blend() with respect to its four arguments.
template <class T>
struct BlendGradient {
  T weight_dark;
  T value_dark;
  T weight_bright;
  T value_bright;
};

template <class T>
HDROPS_HD BlendGradient<T> blend_gradient(T weight_dark,
                                          T value_dark,
                                          T weight_bright,
                                          T value_bright) {
  const T sum = weight_dark + weight_bright;
  const T inverse = sum > T(0) ? T(1) / (sum > T(0) ? sum : T(1)) : T(0);
  const T out = blend(weight_dark, value_dark, weight_bright, value_bright);
  return {(value_dark - out) * inverse,
          sum > T(0) ? weight_dark * inverse : T(0.5),
          (value_bright - out) * inverse,
          sum > T(0) ? weight_bright * inverse : T(0.5)};
}

// A position in a table of `levels` entries that spans the whole code range: lower entry and
// fraction. NaN gives a NaN fraction; positions outside the table are clamped to it.
template <class T>
struct TablePosition {
  int32_t index;
  T fraction;
};

template <class T>
HDROPS_HD TablePosition<T> table_position(T position, int32_t levels) {
  const T inside = clamp(position, T(0), T(levels - 1));
  const int32_t floor = static_cast<int32_t>(inside);
  const int32_t index = floor < levels - 2 ? floor : levels - 2;
  const T fraction = inside - T(index);
  return {index, position == position ? fraction : position};
}

template <class T>
HDROPS_HD T interpolate(const T* table, TablePosition<T> at) {
  const T lower = table[at.index];
  return lower + at.fraction * (table[at.index + 1] - lower);
}

// The midpoint of one level's share of a cumulative histogram, in [0, 1]: the quantile that stands
// for that level.
HDROPS_HD double mid_quantile(int64_t below, int64_t count, int64_t total) {
  return static_cast<double>(2 * below + count) / (2.0 * static_cast<double>(total));
}

}  // namespace hdrops::math
