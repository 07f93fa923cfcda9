// The window of the operator gaussian.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace hdrops::math {

// The taps w[0] to w[r] of one half of the Gaussian of `sigma` sampled at -radius to radius, with
// w[0] + 2 (w[1] + ... + w[r]) = 1. Taps that vanish in the arithmetic type T beside those before
// them are left out, so that r may be less than radius.
template <class T>
std::vector<double> gaussian_window(double sigma, int64_t radius) {
  // In units of sigma: the tails beyond hold 1e-11 of the whole for float32, nothing for float64.
  constexpr double reach = sizeof(T) == 4 ? 7 : 39;
  const int64_t last = std::min(radius, static_cast<int64_t>(std::ceil(reach * sigma)));
  std::vector<double> taps(static_cast<size_t>(last) + 1);
  double total = 0;
  for (int64_t i = last; i >= 0; --i) {  // the small ones first
    const double at = static_cast<double>(i) / sigma;
    taps[static_cast<size_t>(i)] = std::exp(-0.5 * at * at);
    total += (i == 0 ? 1 : 2) * taps[static_cast<size_t>(i)];
  }
  for (double& tap : taps) tap /= total;
  return taps;
}

}  // namespace hdrops::math
