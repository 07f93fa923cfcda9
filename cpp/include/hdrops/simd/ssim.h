// The inner loops of the operator ssim: torch-free, one copy per CPU level. All work on a tile of
// one plane of one level.
#pragma once

#include <cstdint>

#include "hdrops/cpu_level.h"
#include "hdrops/math/border.h"
#include "hdrops/math/ssim.h"
#include "hdrops/simd/storage.h"

namespace hdrops {

// A plane of both images.
struct SsimPlanes {
  const void *x, *y;
  Storage storage;
  int64_t height, width;
};

// The window at every position. Images of other borders than "valid" are padded, so that the window
// lies inside at every position: rows and columns below are those of padded images.
template <class T>
struct SsimWindow {
  const T* taps;  // symmetric
  int64_t size;   // odd
  math::Border border;
  math::SsimConstants<T> constants;

  int64_t margin() const { return border == math::Border::valid ? 0 : size / 2; }
  int64_t padded(int64_t n) const { return n + 2 * margin(); }
  int64_t positions(int64_t n) const { return padded(n) - size + 1; }
};

struct SsimTile {
  int64_t top, bottom, left, right;
};

// Upstream gradients of l cs and of cs at every position of a level, the gradient of the next
// coarser level, and where the gradients go.
template <class T>
struct SsimGradient {
  T by_product, by_structure;
  const T *coarser_x, *coarser_y;  // null at the coarsest level
  bool zero_padded;
  void *x, *y;  // y may be null
  Storage storage;
};

template <class T>
struct SsimLoops {
  // Values of scratch, from a cache line, that a tile of so many columns needs.
  int64_t (*scratch)(int64_t window, int64_t columns);
  // Adds up l cs and cs over the positions of the tile, to sums[0] and sums[1].
  void (*sum)(const SsimPlanes&, const SsimWindow<T>&, const SsimTile&, T* scratch, double* sums);
  // Gradients of the pixels of a tile of the padded images. What the padding hands on to pixels must
  // lie in the same tile: tiles are at least twice as wide and high as the window, or all there is.
  void (*differentiate)(
      const SsimPlanes&, const SsimWindow<T>&, const SsimTile&, const SsimGradient<T>&, T* scratch);
  // Rows begin to end - 1 of the next coarser level of a plane. `scratch` holds width + 2 values.
  void (*halve)(const void* plane,
                Storage storage,
                int64_t height,
                int64_t width,
                bool zero_padded,
                int64_t begin,
                int64_t end,
                T* scratch,
                T* out);
};

HDROPS_DECLARE_LOOPS(SsimLoops<float>, ssim_loops_f32)
HDROPS_DECLARE_LOOPS(SsimLoops<double>, ssim_loops_f64)

}  // namespace hdrops
