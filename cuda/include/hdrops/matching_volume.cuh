// The matching volume on CUDA: images with their channels side by side, and moved features of them.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "hdrops/elementwise.cuh"
#include "hdrops/matching_volume_checks.h"
#include "hdrops/math/matching_volume.h"
#include "hdrops/storage.cuh"
#include "hdrops/warp_products.cuh"

namespace hdrops {

// What a kernel reads of a volume. Features are (N, n, H, W, padded), so are saturations of channels;
// those of whole pixels are (N, n, H, W).
template <class S>
struct VolumeView {
  using T = Compute<S>;
  VolumeProblem p;
  int64_t padded;
  const S* features;
  const S* saturation;
  const int64_t* motions;
  const T* exposures;
  int64_t depth_steps[3];  // of an image, a motion and an exposure

  __device__ int64_t depth(int64_t i, int64_t m, int64_t e) const {
    const int64_t place = i - (!p.include_reference && i > p.reference ? 1 : 0);
    return place * depth_steps[0] + m * depth_steps[1] + e * depth_steps[2];
  }
  __device__ const S* image(int64_t n, int64_t i) const {
    return features + (n * p.count + i) * p.plane() * padded;
  }
  __device__ const S* mask(int64_t n, int64_t i) const {
    return saturation + (n * p.count + i) * p.plane() * (p.mask_of_channels ? padded : 1);
  }
  // Steps of a motion, so far that none beyond differs.
  __device__ int32_t step(int64_t motion, int32_t axis) const {
    constexpr int64_t far = int64_t{1} << 29;
    return static_cast<int32_t>(math::clamp<int64_t>(motions[2 * motion + axis], -far, far));
  }
};

struct FusedMultiplyAdd {
  __device__ float operator()(float a, float b, float c) const { return fmaf(a, b, c); }
  __device__ double operator()(double a, double b, double c) const { return fma(a, b, c); }
};

// How a moved feature is made: the enum Gain without its distinction of masks under a ceiling.
enum class Mode { scaled, split, cap };

// `count` neighbouring channels from c of the pixel at `place` of an image, and their saturation;
// 0 where place < 0.
template <int32_t count, class S>
__device__ __forceinline__ Loaded<S, count> load_features(const VolumeView<S>& view,
                                                          const S* image,
                                                          int32_t place,
                                                          int64_t c) {
  // 32 bits hold the offset, and save registers: see check_places.
  const uint32_t offset =
      static_cast<uint32_t>(place) * static_cast<uint32_t>(view.padded) + static_cast<uint32_t>(c);
  return place < 0 ? Loaded<S, count>::zeros()
                   : *reinterpret_cast<const Loaded<S, count>*>(image + offset);
}
template <int32_t count, class S>
__device__ __forceinline__ Loaded<S, count> load_mask(const VolumeView<S>& view,
                                                      const S* mask,
                                                      int32_t place,
                                                      int64_t c) {
  if (view.p.mask_of_channels) return load_features<count>(view, mask, place, c);
  auto same = Loaded<S, count>::zeros();
  if (!view.p.masked || place < 0) return same;
  if constexpr (Loaded<S, count>::pairs) {
    const uint32_t one = reinterpret_cast<const uint16_t*>(mask)[place];
#pragma unroll
    for (auto& item : same.item) item = one | one << 16;
  } else {
    const S one = mask[place];
#pragma unroll
    for (auto& item : same.item) item = one;
  }
  return same;
}

// A moved feature of a feature f and its saturation s.
template <Mode mode, class T>
__device__ __forceinline__ T moved(T f, T s, T exposure, T ceiling, bool masked) {
  constexpr FusedMultiplyAdd fused{};
  if constexpr (mode == Mode::scaled)
    return math::moved_feature<Gain::scaled>(f, s, exposure, ceiling, fused);
  if constexpr (mode == Mode::split)
    return math::moved_feature<Gain::split>(s * f, (T(1) - s) * f, exposure, ceiling, fused);
  return masked ? math::moved_feature<Gain::blended>(f, s, exposure, ceiling, fused)
                : math::moved_feature<Gain::capped>(f, s, exposure, ceiling, fused);
}

// Its derivative by f.
template <Mode mode, class T>
__device__ __forceinline__ T slope(T f, T s, T exposure, T ceiling, bool masked) {
  constexpr FusedMultiplyAdd fused{};
  if constexpr (mode == Mode::scaled) return exposure;
  if constexpr (mode == Mode::split) return fused(exposure, T(1) - s, s);
  return masked ? math::moved_slope<Gain::blended>(f, s, exposure, ceiling, fused)
                : math::moved_slope<Gain::capped>(f, s, exposure, ceiling, fused);
}

// ---- preparation ----

// (planes, channels, pixels) into (planes, pixels, padded), zeros behind the channels.
template <class S>
__global__ void __launch_bounds__(256) channels_last(
    const S* from, S* to, int64_t planes, int64_t channels, int64_t padded, int64_t pixels) {
  constexpr int32_t side = 32, rows = 8;
  __shared__ S tile[side][side + 1];
  const auto column = static_cast<int32_t>(threadIdx.x) % side;
  const auto first = static_cast<int32_t>(threadIdx.x) / side;
  const int64_t across = ceil_div(pixels, side), down = ceil_div(padded, side);
  for (int64_t unit = blockIdx.x; unit < planes * down * across; unit += gridDim.x) {
    const int64_t x = unit % across * side, c = unit / across % down * side;
    const int64_t plane = unit / across / down;
    for (int32_t row = first; row < side; row += rows) {
      const bool there = c + row < channels && x + column < pixels;
      tile[row][column] =
          there ? from[(plane * channels + c + row) * pixels + x + column] : static_cast<S>(0.0f);
    }
    __syncthreads();
    for (int32_t row = first; row < side; row += rows)
      if (x + row < pixels && c + column < padded)
        to[(plane * pixels + x + row) * padded + c + column] = tile[column][row];
    __syncthreads();
  }
}

// Up to so many numbers are written by one launch, which carries them: a graph can capture it.
constexpr int32_t numbers_at_once = 64;
struct Numbers {
  double item[numbers_at_once];
};
template <class T>
__global__ void write_numbers(Numbers numbers, int32_t count, T* to) {
  const auto k = static_cast<int32_t>(threadIdx.x);
  if (k < count) to[k] = static_cast<T>(numbers.item[k]);
}

// Places in an image, slices and motions of images are 32-bit numbers in the kernels.
inline void check_places(const char* what, int64_t count) {
  constexpr int64_t most = int64_t{1} << 29;
  STD_TORCH_CHECK(
      count < most, "matching volume: ", what, " must be below ", most, ", got ", count);
}

// Checked arguments on the device, packed.
template <class S>
struct DeviceVolume {
  using T = Compute<S>;
  static constexpr ScalarType compute =
      std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  VolumeView<S> view;
  Tensor features, exposures, motions;
  std::optional<Tensor> saturation;

  DeviceVolume(const Launcher& launch, const VolumeArguments& arguments)
      : view{arguments.problem,
             math::rounded_up(arguments.problem.c, channel_step),
             nullptr,
             nullptr,
             nullptr,
             nullptr,
             {}},
        features(packed(launch, arguments.features, view.p.c)),
        exposures(allocate({std::max<int64_t>(1, view.p.exposures)}, compute, arguments.features)),
        motions(arguments.motions) {
    check_places("pixels of an image", view.p.plane());
    STD_TORCH_CHECK(view.p.plane() * view.padded < int64_t{1} << 32,
                    "matching volume: an image must have less than 2^32 features");
    check_places("slices", view.p.depth());
    check_places("images times motions", view.p.count * view.p.motions);
    if (view.p.masked)
      saturation = view.p.mask_of_channels ? packed(launch, *arguments.saturation, view.p.c)
                                           : *arguments.saturation;
    for (int64_t first = 0; first < view.p.exposures; first += numbers_at_once) {
      Numbers numbers{};
      const int64_t count = std::min<int64_t>(numbers_at_once, view.p.exposures - first);
      std::copy_n(arguments.exposures.begin() + first, count, numbers.item);
      launch(&write_numbers<T>,
             1,
             numbers_at_once,
             0,
             numbers,
             static_cast<int32_t>(count),
             data_of<T>(exposures) + first);
    }
    view.features = const_data_of<S>(features);
    if (saturation) view.saturation = const_data_of<S>(*saturation);
    view.motions = const_data_of<int64_t>(motions);
    view.exposures = const_data_of<T>(exposures);
    const int64_t sizes[3] = {view.p.images(), view.p.motions, view.p.exposures};
    for (int64_t axis = 2, step = 1; axis >= 0; --axis) {
      const int64_t which = view.p.order[axis];
      view.depth_steps[which] = step;
      step *= sizes[which];
    }
  }

 private:
  Tensor packed(const Launcher& launch, const Tensor& planar, int64_t channels) const {
    const VolumeProblem& p = view.p;
    const Tensor to =
        allocate({p.n, p.count, p.plane(), view.padded}, planar.scalar_type(), planar);
    const int64_t tiles = ceil_div(p.plane(), 32) * ceil_div(view.padded, 32);
    launch(&channels_last<S>,
           p.n * p.count * tiles,
           256,
           0,
           const_data_of<S>(planar),
           data_of<S>(to),
           p.n * p.count,
           channels,
           view.padded,
           p.plane());
    return to;
  }
};

// Calls f with the Mode of a problem as an integral constant.
template <class F>
void with_mode(const VolumeProblem& p, const F& f) {
  if (p.cap) return f(std::integral_constant<Mode, Mode::cap>{});
  if (p.masked) return f(std::integral_constant<Mode, Mode::split>{});
  f(std::integral_constant<Mode, Mode::scaled>{});
}

// ---- what its convolutions share ----

// Parts of a volume's channels: F', F_ref, |F' - F_ref| and the product. The sum of products takes
// the same weight for the product of every channel.
enum Part { of_moved, of_reference, of_difference, of_product, all_parts };

// Each slice of the volume.
struct SliceTable {
  const int32_t* keys;  // image times motions plus motion; below 0 of the reference image
  const int32_t* exposures;
};

// Kinds of slices, in what is (N, H' W', kind, depth taps, columns).
constexpr int32_t of_others = 0, of_constant = 1, map_kinds = 2;

HDROPS_HD bool is_constant(const SliceTable& table, int64_t d) { return table.keys[d] < 0; }

static __global__ void write_slices(VolumeProblem p, int32_t* keys, int32_t* exposures) {
  over(p.depth(), [&](int64_t d) {
    const VolumeSlice slice = slice_of(p, d);
    const bool constant = slice.image == p.reference;
    keys[d] = constant ? -1 : static_cast<int32_t>(slice.image * p.motions + slice.motion);
    exposures[d] = static_cast<int32_t>(slice.exposure);
  });
}

struct DeviceSlices {
  Tensor keys, exposures;
  DeviceSlices(const Launcher& launch, const VolumeProblem& p, const Tensor& like)
      : keys(allocate({std::max<int64_t>(1, p.depth())}, ScalarType::Int, like)),
        exposures(allocate({std::max<int64_t>(1, p.depth())}, ScalarType::Int, like)) {
    launch(&write_slices,
           elementwise_blocks(p.depth()),
           elementwise_threads,
           0,
           p,
           data_of<int32_t>(keys),
           data_of<int32_t>(exposures));
  }
  SliceTable table() const {
    return {const_data_of<int32_t>(keys), const_data_of<int32_t>(exposures)};
  }
};

HDROPS_HD int64_t plane_taps(const Convolved& how) { return how.taps[1] * how.taps[2]; }

}  // namespace hdrops
