// Argument checks that the operators on windows and pyramids share.
#pragma once

#include <cmath>
#include <vector>

#include "hdrops/tensor.h"

namespace hdrops {

// The rows that a window sees stay in a cache or in shared memory, and kernels take taps by value.
constexpr int64_t most_taps = 127;
// More halvings than an image of any size has.
constexpr int64_t most_levels = 60;

inline void check_window(const char* op, const std::vector<double>& window) {
  const auto size = static_cast<int64_t>(window.size());
  STD_TORCH_CHECK(size % 2 == 1, op, ": window must have an odd number of taps, got ", size);
  STD_TORCH_CHECK(size <= most_taps,
                  op,
                  ": window must have at most ",
                  most_taps,
                  " taps, got ",
                  size,
                  "; give a smaller window, or shrink the images");
  for (int64_t i = 0; i < size; ++i) {
    const double tap = window[static_cast<size_t>(i)];
    STD_TORCH_CHECK(std::isfinite(tap), op, ": window must have finite taps, got ", tap, " at ", i);
    STD_TORCH_CHECK(tap == window[static_cast<size_t>(size - 1 - i)],
                    op,
                    ": window must be symmetric about its middle, got other taps at ",
                    i,
                    " and ",
                    size - 1 - i);
  }
}

inline void check_levels(const char* op, int64_t levels) {
  STD_TORCH_CHECK(levels >= 1, op, ": levels must be at least 1, got ", levels);
  STD_TORCH_CHECK(
      levels <= most_levels, op, ": levels must be at most ", most_levels, ", got ", levels);
}

inline void check_finite(const char* op, const char* name, double value) {
  STD_TORCH_CHECK(std::isfinite(value), op, ": ", name, " must be finite, got ", value);
}

inline void check_positive(const char* op, const char* name, double value) {
  STD_TORCH_CHECK(value > 0 && std::isfinite(value),
                  op,
                  ": ",
                  name,
                  " must be positive and finite, got ",
                  value);
}

}  // namespace hdrops
