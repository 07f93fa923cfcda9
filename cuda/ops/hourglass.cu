// Transposed 3D convolution on CUDA, channels last, with bias and ReLU.
//
// Places of the result that leave the same remainders by the strides are reached by the same taps: a
// warp owns 32 columns of such places, and multiplies what the taps read, whatever the dilation.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "hdrops/hourglass_checks.h"
#include "hdrops/packed_weights.cuh"

namespace hdrops {
namespace {

// How many remainders there are, and the most places that leave one.
struct Remainders {
  int64_t count[3], most;
  HDROPS_HD_MEMBER int64_t all() const { return count[0] * count[1] * count[2]; }
};

Remainders remainders_of(const TransposedProblem& p) {
  Remainders found{{}, 1};
  for (int axis = 0; axis < 3; ++axis) {
    found.count[axis] = std::min(p.stride[axis], p.out[axis]);
    found.most *= ceil_div(p.out[axis], p.stride[axis]);
  }
  return found;
}

template <class S>
__global__ void __launch_bounds__(block_threads, 3) transposed(TransposedProblem p,
                                                               Remainders remainders,
                                                               PackedWeights<S> weights,
                                                               const S* x,
                                                               bool whole_quads,
                                                               const S* bias,
                                                               bool relu,
                                                               S* out) {
  using T = Compute<S>;
  const int64_t tiles = ceil_div(remainders.most, warp_rows<S>), classes = remainders.all();
  const int64_t units = p.n * classes * weights.blocks * tiles;
  for (int64_t unit = int64_t{blockIdx.x} * block_warps + warp_of_thread(); unit < units;
       unit += int64_t{gridDim.x} * block_warps) {
    __syncwarp();
    const int64_t tile = unit % tiles, block = unit / tiles % weights.blocks;
    const int64_t which = unit / tiles / weights.blocks % classes;
    const int64_t n = unit / tiles / weights.blocks / classes;
    const int64_t remainder[3] = {which / remainders.count[2] / remainders.count[1],
                                  which / remainders.count[2] % remainders.count[1],
                                  which % remainders.count[2]};
    // Places of the class, in steps of the strides.
    const int64_t deep = ceil_div(p.out[0] - remainder[0], p.stride[0]);
    const int64_t high = ceil_div(p.out[1] - remainder[1], p.stride[1]);
    const int64_t wide = ceil_div(p.out[2] - remainder[2], p.stride[2]);
    int32_t steps[lane_rows<S>][3];
#pragma unroll
    for (int32_t i = 0; i < lane_rows<S>; ++i) {
      const int64_t at = tile * warp_rows<S> + row_of_lane(i);
      const bool there = at < deep * high * wide;
      steps[i][0] = there ? static_cast<int32_t>(at / wide / high) : -1;
      steps[i][1] = static_cast<int32_t>(at / wide % high);
      steps[i][2] = static_cast<int32_t>(at % wide);
    }
    Sums<S> sums;
    clear<S>(sums);
    // Where a tap's first place is read, in steps of the strides; false where it reaches none.
    const auto reaches = [&](int32_t axis, int64_t tap, int32_t& first) {
      const int64_t at = remainder[axis] + p.padding[axis] - tap * p.dilation[axis];
      first = static_cast<int32_t>(at / p.stride[axis]);
      return at % p.stride[axis] == 0;
    };
#pragma unroll 1
    for (int64_t kd = 0; kd < p.taps[0]; ++kd) {
      int32_t z = 0, y = 0, column = 0;
      if (!reaches(0, kd, z)) continue;
#pragma unroll 1
      for (int64_t kh = 0; kh < p.taps[1]; ++kh) {
        if (!reaches(1, kh, y)) continue;
#pragma unroll 1
        for (int64_t kw = 0; kw < p.taps[2]; ++kw) {
          if (!reaches(2, kw, column)) continue;
          const S* from[lane_rows<S>];
#pragma unroll
          for (int32_t i = 0; i < lane_rows<S>; ++i) {
            const int64_t a = z + steps[i][0], b = y + steps[i][1], c = column + steps[i][2];
            const bool inside = steps[i][0] >= 0 && a >= 0 && a < p.in[0] && b >= 0 &&
                                b < p.in[1] && c >= 0 && c < p.in[2];
            const int64_t place = ((n * p.in[0] + a) * p.in[1] + b) * p.in[2] + c;
            from[i] = inside ? x + place * p.c + lane_channel<S>() : nullptr;
          }
          const int64_t matrix = (kd * p.taps[1] + kh) * p.taps[2] + kw;
#pragma unroll 1
          for (int64_t c = 0; c < weights.padded; c += span<S>) {
            const int64_t known = p.c - c - lane_channel<S>();
            LoadedQuads<S> a;
#pragma unroll
            for (int32_t i = 0; i < lane_rows<S>; ++i)
              a[i] = from[i] == nullptr ? Loaded<S, quad>::zeros()
                                        : load_quad(from[i] + c, whole_quads, known);
            add_product<S>(sums, a, weights.at(matrix, block, c));
          }
        }
      }
    }
#pragma unroll
    for (int32_t i = 0; i < lane_rows<S>; ++i) {
      if (steps[i][0] < 0) continue;
      const int64_t d = remainder[0] + steps[i][0] * p.stride[0];
      const int64_t h = remainder[1] + steps[i][1] * p.stride[1];
      const int64_t w = remainder[2] + steps[i][2] * p.stride[2];
      S* const to = out + (((n * p.out[0] + d) * p.out[1] + h) * p.out[2] + w) * p.k;
      store_row(sums[i], bias, relu, block, p.k, to);
    }
  }
}

Tensor deconv3d(const Tensor& x_in,
                const Tensor& weight_in,
                const std::optional<Tensor> bias_in,
                const std::vector<int64_t> stride,
                const std::vector<int64_t> padding,
                const std::vector<int64_t> output_padding,
                const std::vector<int64_t> dilation,
                bool relu) {
  const TransposedProblem p = check_transposed(
      "deconv3d", x_in, weight_in, bias_in, stride, padding, output_padding, dilation);
  const Launcher launch(x_in);
  const ScalarType dtype = x_in.scalar_type();
  const Tensor out = allocate({p.n, p.out[0], p.out[1], p.out[2], p.k}, dtype, x_in);
  if (out.numel() == 0) return out;
  const Tensor x = torch::stable::contiguous(x_in), weight = torch::stable::contiguous(weight_in);
  std::optional<Tensor> bias;
  if (bias_in) bias = torch::stable::contiguous(*bias_in);
  const int64_t taps = p.taps[0] * p.taps[1] * p.taps[2];
  with_float_type(dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const PackedLayout layout{p.c, p.k, taps};
    const Tensor packed = allocate({layout.size()}, dtype, x_in);
    pack(launch, const_data_of<S>(weight), data_of<S>(packed), layout, p.k * taps, taps, 1);
    const Remainders remainders = remainders_of(p);
    const int64_t tiles = ceil_div(remainders.most, warp_rows<S>);
    launch(&transposed<S>,
           ceil_div(p.n * remainders.all() * layout.blocks() * tiles, block_warps),
           block_threads,
           0,
           p,
           remainders,
           PackedWeights<S>{const_data_of<S>(packed), layout.padded(), layout.blocks()},
           const_data_of<S>(x),
           p.c % quad == 0 && is_aligned<S>(x, quad),
           bias ? const_data_of<S>(*bias) : nullptr,
           relu,
           data_of<S>(out));
  });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) { m.impl("deconv3d", TORCH_BOX(&hdrops::deconv3d)); }
