// The inner loops of the operator exposure_fusion: torch-free, one copy per CPU level. All work on
// one row at a time.
#pragma once

#include <cstdint>

#include "hdrops/cpu_level.h"
#include "hdrops/math/exposure_fusion.h"
#include "hdrops/simd/storage.h"

namespace hdrops {

// One output sample of a 1-D filter: weights of input samples.
template <class T>
struct Tap {
  int64_t index;
  T weight;
};

// Rows and strips begin at multiples of this: loads and stores of whole cache lines.
constexpr int64_t lane = 16;

// Samples begin to end - 1.
struct Range {
  int64_t begin, end;
  int64_t width() const { return end - begin; }
};

// A linear map along one axis, sparse by output sample: taps[begin[i]] to taps[begin[i + 1]].
// Between inner_begin and inner_end (output samples) it is the plain binomial filter: `shrink` of
// inputs 2 i - 2 to 2 i + 2, or `grow` of inputs i / 2 - 1 to i / 2 + 1, times `gain`.
template <class T>
struct AxisFilter {
  bool shrink;
  T gain;
  int64_t inputs;
  int64_t outputs;
  int64_t inner_begin;
  int64_t inner_end;
  const int64_t* begin;
  const Tap<T>* taps;

  // The inputs that the outputs first..last-1 rest on, from a multiple of `lane`; at most
  // needed_most(last - first) of them.
  Range needed(int64_t first, int64_t last) const {
    const int64_t before = shrink ? 2 * first - 4 : first / 2 - 3;
    const int64_t after = shrink ? 2 * last + 4 : last / 2 + 4;
    return {before > 0 ? before / lane * lane : 0, after < inputs ? after : inputs};
  }
  int64_t needed_most(int64_t count) const {
    const int64_t most = (shrink ? 2 * count + 8 : count / 2 + 8) + lane;
    return most < inputs ? most : inputs;
  }
};

// Rows of one exposure around a pixel row: grey rows are readable one sample to either side.
template <class T>
struct WeightRows {
  const T* grey_above;
  const T* grey;
  const T* grey_below;
  const T* channels[3];  // raw
  int64_t count;         // 1 or 3 channels
};

template <class T>
struct FusionLoops {
  // n stored values to raw arithmetic values times `scale`.
  void (*load)(const void* row, Storage storage, int64_t n, T scale, T* out);
  // n values in [0, 1] units to storage: codes rounded half to even and saturated; floats clamped
  // to [0, 1] if asked.
  void (*store)(const T* row, Storage storage, int64_t n, bool clamp, void* out);

  // Grey of a raw row.
  void (*grey)(const T* const* channels,
               int64_t count,
               int64_t n,
               const math::FusionParameters<T>&,
               T* grey);
  // Unnormalised weights.
  void (*weights)(const WeightRows<T>&, int64_t n, const math::FusionParameters<T>&, T* out);
  // rows[k][i] /= sum over k.
  void (*normalise)(T* const* rows, int64_t k, int64_t n);

  // out = sum of the rows named by the taps.
  void (*combine)(
      const T* plane, int64_t stride, const Tap<T>* taps, int64_t count, int64_t n, T* out);
  // out[begin..end) = filter(in) along the row; both rows are numbered from the start of the image.
  // Where the filter grows, begin is even.
  void (*filter)(const AxisFilter<T>&, const T* in, int64_t begin, int64_t end, T* out);
  // sum += weights[k] * (images[k] * unit - coarse[k]), `count` rows of each; the coarsest level has
  // no `coarse` rows: null.
  void (*blend)(const T* const* weights,
                const T* const* images,
                T unit,
                const T* const* coarse,
                int64_t count,
                int64_t n,
                T* sum);

  // Backward. product: out = a * b. add: out += sign * a. add_products: out += gain * a * b.
  void (*product)(const T* a, const T* b, int64_t n, T* out);
  void (*add)(const T* a, T sign, int64_t n, T* out);
  void (*add_products)(const T* a, const T* b, T gain, int64_t n, T* out);
  // In: gradients of normalised weights rows[k]; out: gradients of unnormalised weights, in place.
  // `weights` are unnormalised.
  void (*normalise_grad)(const T* const* weights, T* const* rows, int64_t k, int64_t n);
  // Gradient of one exposure's unnormalised weights: adds the saturation and exposedness parts to
  // channels_grad (in [0, 1] units) and writes the gradient of the Laplacian.
  void (*weights_grad)(const WeightRows<T>&,
                       const T* grad,
                       int64_t n,
                       const math::FusionParameters<T>&,
                       T* const* channels_grad,
                       T* laplacian_grad);
  // Adds the contrast part: the adjoint of the Laplacian at this row, given laplacian gradients of
  // the rows above and below with their multiplicities under mirroring, times the grey
  // coefficients.
  void (*contrast_grad)(const T* above,
                        T above_gain,
                        const T* centre,
                        const T* below,
                        T below_gain,
                        int64_t n,
                        int64_t count,
                        const math::FusionParameters<T>&,
                        T* const* channels_grad);
};

HDROPS_DECLARE_LOOPS(FusionLoops<float>, fusion_loops_f32)
HDROPS_DECLARE_LOOPS(FusionLoops<double>, fusion_loops_f64)

}  // namespace hdrops
