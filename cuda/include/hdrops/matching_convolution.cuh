// What the convolution of the matching volume and its gradients share on CUDA.
#pragma once

#include "hdrops/matching_volume.cuh"
#include "hdrops/packed_weights.cuh"

namespace hdrops {

// Places of rows of pixels; -1 beyond an image.
template <class S>
using Places = int32_t[lane_rows<S>];

// Packed weights of the parts, matrices (depth tap, row tap, column tap).
template <class S>
struct PartWeights {
  PackedWeights<S> part[all_parts];
};

// Weights (K, channels, taps) packed with the channels of a part as rows and K as columns, or, where
// `transposed`, the other way round.
template <class S>
class DevicePartWeights {
 public:
  DevicePartWeights(const Launcher& launch,
                    const VolumeProblem& p,
                    const Convolved& how,
                    const Tensor& weight,
                    bool transposed) {
    const int64_t taps = how.taps[0] * plane_taps(how), of_k = p.channels() * taps;
    const PackedLayout layout{transposed ? how.k : p.c, transposed ? p.c : how.k, taps};
    memory_ = allocate({all_parts * layout.size()}, weight.scalar_type(), weight);
    S* const to = data_of<S>(memory_);
    for (int part = 0; part < all_parts; ++part) {
      // One weight is that of the products of all channels.
      const int64_t of_channel = part == of_product && p.inner ? 0 : taps;
      pack(launch,
           const_data_of<S>(weight) + part * p.c * taps,
           to + part * layout.size(),
           layout,
           transposed ? of_k : of_channel,
           transposed ? of_channel : of_k,
           1);
      weights_.part[part] = {to + part * layout.size(), layout.padded(), layout.blocks()};
    }
  }
  const PartWeights<S>& operator()() const { return weights_; }

 private:
  Tensor memory_ = Tensor();
  PartWeights<S> weights_{};
};

constexpr int32_t window = 3;  // depth taps at a time

// What a lane multiplies of moved features a and of those of the reference r.
struct Difference {
  template <class T>
  __device__ T operator()(T a, T r) const {
    return fabs(a - r);
  }
};
struct Product {
  template <class T>
  __device__ T operator()(T a, T r) const {
    return a * r;
  }
};
struct First {
  template <class T>
  __device__ T operator()(T a, T) const {
    return a;
  }
};

// How many parts of a moved feature are linear in it and scaled alike: f; with a mask s f, which the
// exposure does not scale, and then (1 - s) f; none under a ceiling.
template <Mode mode>
constexpr int32_t linear_parts = mode == Mode::cap ? 0 : (mode == Mode::split ? 2 : 1);
template <Mode mode>
__device__ bool is_scaled(int32_t part) {
  return part + 1 == linear_parts<mode>;
}
// What a part takes of a feature whose saturation is s.
template <Mode mode, class T>
__device__ T share_of_part(int32_t part, T s) {
  if constexpr (mode != Mode::split) return T(1);
  return is_scaled<mode>(part) ? T(1) - s : s;
}

}  // namespace hdrops
