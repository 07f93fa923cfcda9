// matching on CUDA: features of one image against those of another, moved. Gradients are gathered:
// no atomics, the same bits in every run.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "hdrops/launch.cuh"
#include "hdrops/matching_checks.h"
#include "hdrops/storage.cuh"

namespace hdrops {
namespace {

constexpr int32_t threads = 128;
constexpr int32_t group = 8;  // motions, or channels, of a thread

// A thread's image, group of planes and pixel; pixels are fastest.
struct Place {
  int64_t n, first, y, x;
};

__device__ Place place_of(int64_t index, const CorrelationProblem& p, int64_t groups) {
  const int64_t pixel = index % plane_of(p), rest = index / plane_of(p);
  return {rest / groups, rest % groups * group, pixel / p.width, pixel % p.width};
}

template <class F>
__device__ void over(int64_t count, const F& f) {
  for (int64_t unit = blockIdx.x; unit * threads < count; unit += gridDim.x) {
    const int64_t index = unit * threads + threadIdx.x;
    if (index < count) f(index);
  }
}

template <class S>
__global__ void __launch_bounds__(threads) correlate(
    const S* a, const S* b, const int64_t* motions, S* out, CorrelationProblem p, int64_t groups) {
  using T = Compute<S>;
  over(p.n * groups * plane_of(p), [&](int64_t index) {
    const Place at = place_of(index, p, groups);
    const S* from_a = a + at.n * p.c * plane_of(p) + at.y * p.width + at.x;
    const S* from_b[group];
    T total[group];
#pragma unroll
    for (int32_t k = 0; k < group; ++k) {
      total[k] = 0;
      from_b[k] = nullptr;
      const int64_t m = at.first + k;
      if (m >= p.motions) continue;
      const int64_t y = at.y + motions[2 * m], x = at.x + motions[2 * m + 1];
      if (y >= 0 && y < p.height && x >= 0 && x < p.width)
        from_b[k] = b + at.n * p.c * plane_of(p) + y * p.width + x;
    }
    for (int64_t c = 0; c < p.c; ++c) {
      const T left = static_cast<T>(from_a[c * plane_of(p)]);
#pragma unroll
      for (int32_t k = 0; k < group; ++k)
        if (from_b[k] != nullptr) total[k] += left * static_cast<T>(from_b[k][c * plane_of(p)]);
    }
#pragma unroll
    for (int32_t k = 0; k < group; ++k) {
      const int64_t m = at.first + k;
      if (m < p.motions)
        out[(at.n * p.motions + m) * plane_of(p) + at.y * p.width + at.x] =
            static_cast<S>(total[k]);
    }
  });
}

// The gradient of a, or, where `moved`, that of b.
template <class S>
__global__ void __launch_bounds__(threads) correlate_backward(const S* grad,
                                                              const S* other,
                                                              const int64_t* motions,
                                                              S* out,
                                                              CorrelationProblem p,
                                                              int64_t groups,
                                                              bool moved) {
  using T = Compute<S>;
  over(p.n * groups * plane_of(p), [&](int64_t index) {
    const Place at = place_of(index, p, groups);
    const int64_t here = at.y * p.width + at.x;
    const S* features = other + (at.n * p.c + at.first) * plane_of(p);
    const S* upstream = grad + at.n * p.motions * plane_of(p);
    T total[group] = {};
    for (int64_t m = 0; m < p.motions; ++m) {
      const int64_t down = motions[2 * m], right = motions[2 * m + 1];
      const int64_t y = moved ? at.y - down : at.y + down, x = moved ? at.x - right : at.x + right;
      if (y < 0 || y >= p.height || x < 0 || x >= p.width) continue;
      const int64_t there = y * p.width + x;
      const T weight = static_cast<T>(upstream[m * plane_of(p) + (moved ? there : here)]);
#pragma unroll
      for (int32_t k = 0; k < group; ++k)
        if (at.first + k < p.c)
          total[k] += weight * static_cast<T>(features[k * plane_of(p) + there]);
    }
#pragma unroll
    for (int32_t k = 0; k < group; ++k)
      if (at.first + k < p.c)
        out[(at.n * p.c + at.first + k) * plane_of(p) + here] = static_cast<S>(total[k]);
  });
}

void correlate_into(const CorrelationProblem& p,
                    const Tensor& a_in,
                    const Tensor& b_in,
                    const Tensor& motions_in,
                    const Tensor& out) {
  const Launcher launch(a_in);
  const Tensor a = torch::stable::contiguous(a_in), b = torch::stable::contiguous(b_in);
  const Tensor motions = torch::stable::contiguous(motions_in);
  const int64_t groups = ceil_div(p.motions, group);
  with_float_type(a.scalar_type(), [&](auto tag) {
    using S = typename decltype(tag)::type;
    launch(&correlate<S>,
           ceil_div(p.n * groups * plane_of(p), threads),
           threads,
           0,
           const_data_of<S>(a),
           const_data_of<S>(b),
           const_data_of<int64_t>(motions),
           data_of<S>(out),
           p,
           groups);
  });
}

Tensor correlation(const Tensor& a, const Tensor& b, const Tensor& motions) {
  const CorrelationProblem p = check_correlation("correlation", a, b, motions);
  const Tensor out = allocate(correlation_shape(p), a.scalar_type(), a);
  correlate_into(p, a, b, motions, out);
  return out;
}

void correlation_out(const Tensor& a, const Tensor& b, const Tensor& motions, Tensor out) {
  const CorrelationProblem p = check_correlation("correlation", a, b, motions);
  check_out("correlation", out, correlation_shape(p), a);
  check_dtype("correlation", "out", out, a.scalar_type());
  correlate_into(p, a, b, motions, out);
}

std::tuple<Tensor, Tensor> correlation_backward(const Tensor& grad_in,
                                                const Tensor& a_in,
                                                const Tensor& b_in,
                                                const Tensor& motions_in,
                                                bool wants_a,
                                                bool wants_b) {
  const CorrelationProblem p = check_correlation("correlation_backward", a_in, b_in, motions_in);
  check_correlation_grad(p, grad_in, a_in);
  const Launcher launch(a_in);
  const ScalarType dtype = a_in.scalar_type();
  const std::vector<int64_t> none = {0}, whole = shape_of(a_in);
  const Tensor grad_a = allocate(wants_a ? whole : none, dtype, a_in);
  const Tensor grad_b = allocate(wants_b ? whole : none, dtype, a_in);
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  const Tensor a = torch::stable::contiguous(a_in), b = torch::stable::contiguous(b_in);
  const Tensor motions = torch::stable::contiguous(motions_in);
  const int64_t groups = ceil_div(p.c, group);
  with_float_type(dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const auto gradient = [&](const Tensor& other, bool moved, const Tensor& out) {
      launch(&correlate_backward<S>,
             ceil_div(p.n * groups * plane_of(p), threads),
             threads,
             0,
             const_data_of<S>(grad),
             const_data_of<S>(other),
             const_data_of<int64_t>(motions),
             data_of<S>(out),
             p,
             groups,
             moved);
    };
    if (wants_a) gradient(b, false, grad_a);
    if (wants_b) gradient(a, true, grad_b);
  });
  return {grad_a, grad_b};
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) {
  m.impl("correlation", TORCH_BOX(&hdrops::correlation));
  m.impl("correlation_out", TORCH_BOX(&hdrops::correlation_out));
  m.impl("correlation_backward", TORCH_BOX(&hdrops::correlation_backward));
}
