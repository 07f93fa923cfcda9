// Separable symmetric windows on the device, and what of them lies beyond the border of an image.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "hdrops/launch.cuh"
#include "hdrops/math/border.h"
#include "hdrops/tensor.h"

namespace hdrops {

template <class T>
struct Window {
  const T* taps;   // at distances 0 to radius from the middle
  const T* tails;  // sums of the taps beyond these distances
  int64_t radius;
};

template <class T>
__device__ T tap_at(const Window<T>& window, int64_t distance) {
  const int64_t away = distance < 0 ? -distance : distance;
  return away <= window.radius ? window.taps[away] : T(0);
}

// Weight of a pixel of a line of n in the window around `middle`, another pixel of the line, at the
// places beyond the border that stand for the pixel. Those are at least as far from `middle` as the
// pixel itself.
template <class T>
__device__ T weight_beyond(
    const Window<T>& window, math::Border border, int64_t pixel, int64_t middle, int64_t n) {
  T weight = T(0);
  const bool mirrors = border == math::Border::reflect || border == math::Border::symmetric;
  if (border == math::Border::replicate || (border == math::Border::reflect && n == 1)) {
    if (pixel == 0 && middle < window.radius) weight += window.tails[middle];
    if (pixel == n - 1 && n - 1 - middle < window.radius) weight += window.tails[n - 1 - middle];
  } else if (mirrors) {
    const int64_t repeat = border == math::Border::symmetric ? 1 : 0;
    const int64_t period = 2 * (n - 1 + repeat);
    // The ends of a line that does not repeat them are their own mirror images.
    const bool mirrored = repeat == 1 || (pixel > 0 && pixel < n - 1);
    const int64_t most = 1 + window.radius / period;
    for (int64_t i = -most; i <= most; ++i) {
      if (mirrored) weight += tap_at(window, i * period - repeat - pixel - middle);
      if (i != 0) weight += tap_at(window, i * period + pixel - middle);
    }
  }
  return weight;
}

// Values that travel as an argument: a copy from the host would have to wait for the device.
struct WindowPiece {
  static constexpr int32_t size = 256;
  double item[size];
};

template <class T>
__global__ void __launch_bounds__(WindowPiece::size)
    store_window(WindowPiece piece, int64_t size, T* out) {
  if (static_cast<int64_t>(threadIdx.x) < size)
    out[threadIdx.x] = static_cast<T>(piece.item[threadIdx.x]);
}

// A window in the memory of a tensor, which must outlive its use by kernels.
template <class T>
struct DeviceWindow {
  Tensor memory;
  int64_t radius;

  // From the taps at distances 0 to radius.
  DeviceWindow(const Launcher& launch, const std::vector<double>& taps, const Tensor& like)
      : memory(allocate({2 * static_cast<int64_t>(taps.size())},
                        sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float,
                        like)),
        radius(static_cast<int64_t>(taps.size()) - 1) {
    std::vector<double> values(taps);
    values.resize(2 * taps.size());
    double tail = 0;
    for (size_t i = taps.size(); i-- > 0;) {
      values[taps.size() + i] = tail;
      tail += taps[i];
    }
    T* const to = static_cast<T*>(memory.mutable_data_ptr());
    for (size_t begin = 0; begin < values.size(); begin += WindowPiece::size) {
      const size_t count = std::min<size_t>(WindowPiece::size, values.size() - begin);
      WindowPiece piece{};
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(begin), count, piece.item);
      launch(&store_window<T>,
             1,
             WindowPiece::size,
             0,
             piece,
             static_cast<int64_t>(count),
             to + begin);
    }
  }

  Window<T> view() const {
    const T* const data = static_cast<const T*>(memory.const_data_ptr());
    return {data, data + radius + 1, radius};
  }
};

}  // namespace hdrops
