// The inner loops of the operator mef_ssim: torch-free, one copy per CPU level.
#pragma once

#include <cstdint>

#include "hdrops/cpu_level.h"
#include "hdrops/math/mef_ssim.h"

namespace hdrops {

// Values of the cache lines that n values fill.
template <class T>
HDROPS_HD int64_t whole_lines(int64_t n) {
  return math::rounded_up(n, 64 / static_cast<int64_t>(sizeof(T)));
}

// A part of the sources and, after them, of the fused image, about a pivot of each: row y of image
// i begins at images + i * plane + y * pitch, with a cache line. Rows are readable for `window` - 1
// values behind the last of `width` positions, rounded up to whole cache lines.
template <class T>
struct MefSsimTile {
  const T* images;
  int64_t sources, plane, pitch;
  const T* taps;  // symmetric
  int64_t window;
  int64_t width;
  T c;

  int64_t pairs() const { return sources * (sources + 1) / 2; }
  // Values of scratch that one row of positions takes.
  int64_t scratch() const {
    const int64_t fused_too = sources + 1 + (sources + 1) * (sources + 2) / 2;
    return (fused_too + 3 * sources + pairs() + 6) * pitch;
  }
};

template <class T>
struct MefSsimLoops {
  // Subtracts the mean of `rows` rows of `width` values from them, rounded so that codes stay
  // exact: to multiples of 1/16.
  void (*centre)(T* image, int64_t pitch, int64_t rows, int64_t width);
  // Adds the quality at the positions of row y to sums[width].
  void (*quality)(const MefSsimTile<T>&, int64_t y, T* scratch, double* sums);
  // Derivatives of `upstream` times the quality at the positions of row y by what their windows
  // see, on a row of each of sources + 2 planes at `out`: that of fused at a pixel is the sum under
  // its windows of source k times plane k, plus plane `sources`, less fused times the last plane.
  void (*slopes)(const MefSsimTile<T>&, int64_t y, T upstream, T* scratch, int64_t plane, T* out);
  // These sums: `slopes` is the row of the first window of the pixels, `images` their own row.
  void (*gradient)(const MefSsimTile<T>&,
                   const T* slopes,
                   int64_t slopes_plane,
                   const T* images,
                   T* scratch,
                   T* out);
  // Means of 2 x 2 pixels of two rows of n values; an odd last one counts twice.
  void (*halve)(const T* above, const T* below, int64_t n, T* out);
  // Its adjoint: adds `weight` times the row `coarse` to n values of a row of `width` from x on.
  void (*spread)(const T* coarse, T weight, int64_t x, int64_t n, int64_t width, T* out);
};

HDROPS_DECLARE_LOOPS(MefSsimLoops<float>, mef_ssim_loops_f32)
HDROPS_DECLARE_LOOPS(MefSsimLoops<double>, mef_ssim_loops_f64)

}  // namespace hdrops
