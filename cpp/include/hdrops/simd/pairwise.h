// The inner loops of the operator pairwise_loss: torch-free, one copy per CPU level.
#pragma once

#include <algorithm>
#include <cstdint>

#include "hdrops/cpu_level.h"
#include "hdrops/math/pairwise.h"
#include "hdrops/simd/storage.h"

namespace hdrops {

// A channel of an image, and which of its patches are compared.
struct PairwiseRow {
  Storage storage;
  int64_t height, width, side, pairs;

  int64_t plane() const { return height * width; }
};

struct PairwiseDraw {
  uint64_t seed;
  uint32_t row;      // of all channels of all images
  double top;        // what exceeds it in the target is over-exposed
  double threshold;  // S
  double least;
  bool ignore_ties;
};

// Columns that are summed over together.
constexpr int64_t pairwise_strip = 64;

// Scratch of a row, elements of the arithmetic type: two lines or two strips of columns, with
// margins for the backward.
inline int64_t pairwise_buffer_size(const PairwiseRow& r) {
  const int64_t strip = std::min(pairwise_strip, r.width);
  return 2 * std::max(r.width + r.side - 1, (r.height + r.side - 1) * strip);
}

template <class T>
struct PairwiseScratch {
  T* planes[2];      // for all but pixels of the arithmetic type
  T* buffer;         // pairwise_buffer_size
  int32_t* choices;  // plane
  uint8_t* exposed;  // plane: 1 where a patch, by its first pixel, touches what is over-exposed
};

template <class T>
struct PairwiseRowLoops {
  // The sum over the pairs and their number; places and slopes (2, pairs).
  void (*forward)(const PairwiseRow& row,
                  const PairwiseDraw& draw,
                  const void* prediction,
                  const void* target,
                  const PairwiseScratch<T>& scratch,
                  T* sums,
                  int32_t* places,
                  T* slopes);
  // The gradient of the row, which is `grad` times the slopes, added up over what patches cover.
  void (*backward)(const PairwiseRow& row,
                   T grad,
                   const int32_t* places,
                   const T* slopes,
                   const PairwiseScratch<T>& scratch,
                   void* out);
};

struct PairwiseLoops {
  // The largest of n values, NaN where one is; n > 0.
  double (*largest)(const void* values, Storage storage, int64_t n);
  PairwiseRowLoops<float> f32;
  PairwiseRowLoops<double> f64;
};

HDROPS_DECLARE_LOOPS(PairwiseLoops, pairwise_loops)

}  // namespace hdrops
