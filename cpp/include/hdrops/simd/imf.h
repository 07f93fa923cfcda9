// The inner loops of the operator imf: torch-free, one copy per CPU level.
#pragma once

#include <cstdint>

#include "hdrops/cpu_level.h"
#include "hdrops/math/imf.h"
#include "hdrops/simd/storage.h"

namespace hdrops {

// The two intermediate tables of one channel and the weight thresholds, all in 8-bit code units.
template <class T>
struct ImfChannel {
  const T* dark;
  const T* bright;
  int32_t levels_dark;
  int32_t levels_bright;
  math::Ramp<T> low;
  math::Ramp<T> high;
};

// Gradients of one run of pixels. `image_*` are null for integer images; `table_*` are added to.
template <class T>
struct ImfGradients {
  T* image_dark;
  T* image_bright;
  T* table_dark;
  T* table_bright;
};

template <class In, class Out, class T>
using ImfFuse =
    void (*)(const In* dark, const In* bright, int64_t n, const ImfChannel<T>&, Out* out);

template <class In, class T>
using ImfBackward = void (*)(const T* grad,
                             const In* dark,
                             const In* bright,
                             int64_t n,
                             const ImfChannel<T>&,
                             ImfGradients<T>);

// Tables of the byte-permutation path: 16-bit fixed point, split in byte planes.
struct ImfPacked;

struct ImfLoops {
  // Adds the counts of n codes to counts[256] or counts[65536].
  void (*histogram_u8)(const uint8_t* codes, int64_t n, int64_t* counts);
  void (*histogram_u16)(const uint16_t* codes, int64_t n, int64_t* counts);

  // out[i] = fusion of dark[i] and bright[i], evaluated pixel by pixel.
  ImfFuse<uint8_t, uint8_t, float> fuse_u8;
  ImfFuse<uint8_t, float, float> fuse_u8_f32;
  ImfFuse<uint16_t, uint16_t, float> fuse_u16;
  ImfFuse<uint16_t, float, float> fuse_u16_f32;
  ImfFuse<float16_bits, float16_bits, float> fuse_f16;
  ImfFuse<bfloat16_bits, bfloat16_bits, float> fuse_bf16;
  ImfFuse<float, float, float> fuse_f32;
  ImfFuse<double, double, double> fuse_f64;

  ImfBackward<uint8_t, float> backward_u8;
  ImfBackward<uint16_t, float> backward_u16;
  ImfBackward<float, float> backward_f32;
  ImfBackward<double, double> backward_f64;

  // joint[256 * d + b] = fusion of the codes d and b, for dark codes d in [begin, end).
  void (*joint_u8)(const ImfChannel<float>&, int32_t begin, int32_t end, uint8_t* joint);
  void (*joint_u8_f32)(const ImfChannel<float>&, int32_t begin, int32_t end, float* joint);
  // out[i] = joint[256 * dark[i] + bright[i]].
  void (*lookup_u8)(
      const uint8_t* dark, const uint8_t* bright, int64_t n, const uint8_t* joint, uint8_t* out);
  void (*lookup_u8_f32)(
      const uint8_t* dark, const uint8_t* bright, int64_t n, const float* joint, float* out);

  // The byte-permutation path from uint8 to uint8, null where the level has none: pack() returns
  // false where the thresholds or tables do not fit it; the result is within 1/64 code of the exact
  // value before rounding. Sizes: packed holds packed_bytes bytes, aligned to 64.
  bool (*pack)(const ImfChannel<float>&, ImfPacked* packed);
  void (*fuse_packed)(
      const uint8_t* dark, const uint8_t* bright, int64_t n, const ImfPacked&, uint8_t* out);
  int64_t packed_bytes;
};

HDROPS_DECLARE_LOOPS(ImfLoops, imf_loops)

}  // namespace hdrops
