// What stands beyond the borders of an image.
#pragma once

#include <cstdint>

#include "hdrops/math/common.h"

namespace hdrops::math {

// Numbered as hdrops.ops._borders.BORDERS. For a line a b c d:
enum class Border : int64_t {
  valid = 0,      // nothing: results only where the whole window lies inside
  reflect = 1,    // c b | a b c d | c b
  symmetric = 2,  // b a | a b c d | d c
  replicate = 3,  // a a | a b c d | d d
  zeros = 4,      // 0 0 | a b c d | 0 0
};

// The pixel of a line of n >= 1 that stands at position i, as far out as it may lie; -1 where it is
// a zero.
HDROPS_HD int64_t border_index(int64_t i, int64_t n, Border border) {
  if (i >= 0 && i < n) return i;
  if (border == Border::replicate) return i < 0 ? 0 : n - 1;
  if (border == Border::reflect || border == Border::symmetric) {
    const int64_t repeat = border == Border::symmetric ? 1 : 0;  // of the pixel at the edge
    const int64_t period = 2 * (n - 1 + repeat);
    if (period == 0) return 0;
    int64_t phase = i % period;
    if (phase < 0) phase += period;
    return phase < n ? phase : period - repeat - phase;
  }
  return -1;
}

}  // namespace hdrops::math
