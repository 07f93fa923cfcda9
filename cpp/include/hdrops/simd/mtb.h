// The inner loops of the operator mtb: torch-free, one copy per CPU level.
#pragma once

#include <cstdint>

#include "hdrops/cpu_level.h"
#include "hdrops/math/mtb.h"
#include "hdrops/simd/storage.h"

namespace hdrops {

// Words of a row of a bitmap come in multiples of this.
constexpr int64_t mtb_word_step = 8;

// One row of a bitmap, 64 pixels per word, the first in the lowest bit: where codes lie above and
// where they lie below the limits. Zero words precede and follow it.
struct MtbRow {
  const uint64_t* above;
  const uint64_t* below;
};

struct MtbLoops {
  // Grey codes of n pixels from element `at` on of the first of `channels` (1 or 3) planes, which
  // are `plane` elements apart.
  void (*grey)(const void* image,
               Storage storage,
               int64_t channels,
               int64_t plane,
               int64_t at,
               int64_t n,
               uint8_t* codes);
  // out[i] = codes[2 i] for i < n.
  void (*pick)(const uint8_t* codes, int64_t n, uint8_t* out);
  // Bitmaps of n codes in `words` words, and `pad` zero words before and after them.
  void (*bitmap)(const uint8_t* codes,
                 int64_t n,
                 const math::MtbLimits& limits,
                 int64_t words,
                 int64_t pad,
                 uint64_t* above,
                 uint64_t* below);
  // Adds to errors[i], for i < 3, the pixels in which a row of the reference and that of the image,
  // moved to the right by shifts[i], disagree: above in one and below in the other.
  void (*differences)(const MtbRow& reference,
                      const MtbRow& image,
                      int64_t words,
                      const int64_t* shifts,
                      int64_t* errors);
  // The pixels that are above or below in both rows.
  int64_t (*compared)(const MtbRow& reference, const MtbRow& image, int64_t words, int64_t shift);
};

HDROPS_DECLARE_LOOPS(MtbLoops, mtb_loops)

}  // namespace hdrops
