// The inner loops of the operator gaussian: torch-free, one copy per CPU level. All filters run
// along *lines* of 16 values that lie side by side across the direction of the filter: pieces of
// rows when it runs down the columns, pieces of columns when it runs along the rows.
#pragma once

#include <cstdint>
#include <limits>

#include "hdrops/cpu_level.h"
#include "hdrops/simd/storage.h"

namespace hdrops {

constexpr int64_t line_size = 16;

// A window as a sum of cosines, whose convolutions follow from line to line (see cpp/ops/
// gaussian.cpp). All constants hold the weight of their cosine.
struct Cosines {
  static constexpr int64_t most = 8;
  int64_t terms;  // 5, 6 or 8
  int64_t radius;
  // Of the second difference of a convolution, by term.
  float curvature[most], entering[most], drift[most];
  // For j from 0 to radius: `terms` weights of u(j) + u(-j), then as many of u(j) - u(-1 - j).
  const float* start;
};

// Convolutions with every cosine at one position, how far they moved to it, and the two values
// that the next step needs: terms, terms and 2 lines.
constexpr int64_t state_lines(int64_t terms) { return 2 * terms + 2; }

template <class T>
struct Extremes {
  T low = std::numeric_limits<T>::infinity();
  T high = -std::numeric_limits<T>::infinity();
  bool nan = false;
};

// What the mask of one image is made from.
template <class T>
struct MaskRange {
  T low, high;
  bool invert;
};

// Sums over pixels with their upstream gradient g and mask M of eq. 4, and how many pixels lie at
// the minimum and the maximum.
struct MaskSums {
  double below = 0;  // of g (1 - M)
  double above = 0;  // of g M
  int64_t at_low = 0, at_high = 0;
};

// The gradient of a blurred value is gain g, less at_low or at_high at a minimum or maximum.
template <class T>
struct MaskSlopes {
  T low, high;
  T gain, at_low, at_high;
};

template <class T>
struct GaussianLoops {
  // n stored values, `pivot` taken off.
  void (*load)(const void* in, Storage storage, int64_t n, T pivot, T* out);

  // `count` lines of the convolution with taps 0 to radius of a symmetric window; `in` points to
  // the line under its centre.
  void (*convolve)(const T* taps, int64_t radius, const T* in, int64_t count, T* out);
  // The state at the line `in` points to.
  void (*start)(const Cosines& window, const T* in, T* state);
  // The next `count` lines, and the state at the last of them. `lead` points to the first line that
  // enters the window, `trail` to the first that leaves it; `stride` is from line to line, and
  // `pivot` is taken off.
  void (*advance)(const Cosines& window,
                  const T* lead,
                  const T* trail,
                  int64_t stride,
                  int64_t count,
                  T pivot,
                  T* state,
                  T* out);
  bool (*finite)(const T* values, int64_t n);

  // 16 lines become 16 others.
  void (*transpose)(const T* in, int64_t in_stride, T* out, int64_t out_stride);

  // Blocks of rows; strides are in values. Stored values are (value + offset) * scale, codes
  // rounded half to even.
  void (*store)(const T* in,
                int64_t in_stride,
                int64_t rows,
                int64_t n,
                T offset,
                T scale,
                Storage storage,
                void* out,
                int64_t out_stride);
  // Values + offset, and their extremes.
  void (*keep)(const T* in,
               int64_t in_stride,
               int64_t rows,
               int64_t n,
               T offset,
               T* out,
               int64_t out_stride,
               Extremes<T>* extremes);
  // Eq. 4 or 5 of n values times `scale`; `out` may be `in`.
  void (*mask)(
      const T* in, int64_t n, const MaskRange<T>& range, T scale, Storage storage, void* out);

  // Adds the sums of n pixels.
  void (*sum)(
      const T* blurred, const T* grad, int64_t n, const MaskRange<T>& range, MaskSums* sums);
  // Blurred values become their gradients.
  void (*differentiate)(T* blurred, const T* grad, int64_t n, const MaskSlopes<T>& slopes);
};

HDROPS_DECLARE_LOOPS(GaussianLoops<float>, gaussian_loops_f32)
HDROPS_DECLARE_LOOPS(GaussianLoops<double>, gaussian_loops_f64)

}  // namespace hdrops
