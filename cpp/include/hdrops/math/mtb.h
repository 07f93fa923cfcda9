// Median threshold bitmaps: grey codes, levels, and the limits that a histogram gives.
#pragma once

#include <cstdint>

#include "hdrops/math/common.h"

namespace hdrops::math {

// Luma of BT.601 in 15-bit fixed point.
HDROPS_HD uint32_t grey_code(uint32_t red, uint32_t green, uint32_t blue) {
  return (9798 * red + 19235 * green + 3735 * blue + (1u << 14)) >> 15;
}

// A 16-bit code divided by 257 and rounded.
HDROPS_HD uint32_t byte_code(uint32_t code) { return (255 * code + 32895) >> 16; }

// A value in [0, 1] as an 8-bit code.
template <class T>
HDROPS_HD uint32_t byte_code_of_value(T value) {
  return static_cast<uint32_t>(static_cast<int32_t>(to_code(value * T(255), T(255))));
}

// Levels of the pyramid: at most `most`, the coarsest with 2 or 3 pixels along the longer side and
// at least one along the shorter. An image of one pixel has none.
HDROPS_HD int32_t mtb_levels(int64_t height, int64_t width, int64_t most) {
  const int64_t longer = height > width ? height : width;
  const int64_t shorter = height > width ? width : height;
  int32_t levels = 0;
  while (levels < most && longer >> (levels + 1) > 0 && shorter >> levels > 0) ++levels;
  return levels;
}

// Codes above `high` are above the median, codes below `low` below it; those between are noise. An
// image whose codes all lie between is not informative.
struct MtbLimits {
  int32_t low, high;
  bool informative;
};

// Limits of an image of `pixels` pixels with counts[256]. The median is the number of codes from 0
// on whose pixels together are half of the image.
template <class Count>
HDROPS_HD MtbLimits mtb_limits(const Count* counts, int64_t pixels, int32_t exclude) {
  int32_t median = 0;
  for (int64_t seen = 0; seen < pixels / 2 && median < 256; ++median)
    seen += static_cast<int64_t>(counts[median]);
  MtbLimits limits{median - exclude, median + exclude, false};
  for (int32_t code = 0; code < 256; ++code) {
    const bool outside = code < limits.low || code > limits.high;
    limits.informative = limits.informative || (outside && counts[code] != 0);
  }
  return limits;
}

// The nine candidates of a level, in the order in which the first of the best is taken.
constexpr int32_t mtb_candidates = 9;

HDROPS_HD int32_t mtb_step_y(int32_t candidate) { return candidate % 3 - 1; }
HDROPS_HD int32_t mtb_step_x(int32_t candidate) { return candidate / 3 - 1; }

// The first candidate with the fewest errors.
template <class Count>
HDROPS_HD int32_t mtb_best(const Count* errors) {
  int32_t best = 0;
  for (int32_t candidate = 1; candidate < mtb_candidates; ++candidate) {
    if (errors[candidate] < errors[best]) best = candidate;
  }
  return best;
}

}  // namespace hdrops::math
