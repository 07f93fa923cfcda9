// The inner loops of the matching volume and its convolution: torch-free, one copy per CPU level.
// Pixels hold their channels side by side (NHWC).
#pragma once

#include <cstdint>

#include "hdrops/cpu_level.h"
#include "hdrops/math/matching_volume.h"
#include "hdrops/simd/storage.h"

namespace hdrops {

template <class T>
struct Moved {
  Gain gain;
  T exposure;
  T ceiling;
};

// What a slice holds of a moved feature a and that of the reference r: a, |a - r| or a r.
enum class Part { moved, difference, product };

// Runs of channels. Where the moved pixel lies outside, u is null.
template <class T>
struct MovedRun {
  const T* u;
  const T* v;
  const T* r;
  Moved<T> how;
};

// Matrix products of a strip of pixels with weights, added to a tile:
//   tile[p][k] += Σ_t Σ_c strip[taps[t] + p step + c] weight[t][c][k]
// for p < pixels; weights lie in blocks of `width` columns k: [block][t][c][width]. In bfloat16 there
// are pairs of channels, [block][t][c / 2][width][2]; their number is even.
template <class T, class S = T>
struct StripProduct {
  const S* strip;
  int64_t step;
  const int64_t* taps;
  int64_t count;
  int64_t channels;
  const S* weight;
  int64_t blocks;
  int64_t pixels;
  T* tile;
  int64_t tile_stride;
};

// Gradients of a moved feature a and of the reference r from those of their slice:
//   da = sign(a - r) t + t1 + r t2,  du, dv += da's parts,  dr += tr - sign(a - r) t + a t2
// Each of t, t1, t2 and tr may be null; pixels of them are `gap` apart. With `inner`, t2 holds one
// number for all channels.
template <class T>
struct MovedGradient {
  MovedRun<T> run;
  const T *t, *t1, *t2, *tr;
  int64_t gap;
  bool inner;
  T *du, *dv, *dr;
};

// Sums over pixels of products of a strip with rows of gradients, for every tap t, added to `sums`:
//   sums[t][c][k] += Σ_p strip[taps[t] + p step + c] rows[p][k]
// for c < channels and k < columns, a multiple of a strip product's width; sums lie `gap` apart for
// taps.
template <class T>
struct StripOuter {
  const T* strip;
  int64_t step;
  const int64_t* taps;
  int64_t count;
  int64_t channels;
  const T* rows;
  int64_t columns;
  int64_t pixels;
  T* sums;
  int64_t gap;
};

template <class T>
struct MatchingVolumeLoopsOf {
  int64_t pixels;  // most of a strip product
  int64_t width;   // of its blocks
  void (*run)(Part part, const MovedRun<T>& of, int64_t n, T* out);
  // One pixel's a, r, |a - r|, a r, of `channels` each, after another's.
  void (*volume)(const MovedRun<T>& of, int64_t pixels, int64_t channels, bool inner, T* out);
  void (*multiply)(const StripProduct<T>& of);
  // to += scale from
  void (*add)(const T* from, T scale, int64_t n, T* to);
  void (*relu)(int64_t n, T* values);
  void (*differentiate)(const MovedGradient<T>& of, int64_t pixels, int64_t channels);
  void (*outer)(const StripOuter<T>& of);
};

struct MatchingVolumeLoops {
  MatchingVolumeLoopsOf<float> f32;
  MatchingVolumeLoopsOf<double> f64;
  // Null where the level or the processor does not multiply bfloat16.
  void (*multiply_bf16)(const StripProduct<float, bfloat16_bits>& of);
  void (*round_bf16)(const float* from, int64_t n, bfloat16_bits* to);
  bool (*has_bf16)();
};

HDROPS_DECLARE_LOOPS(MatchingVolumeLoops, matching_volume_loops)

}  // namespace hdrops
