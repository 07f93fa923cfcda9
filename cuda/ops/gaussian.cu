// gaussian on CUDA: blurred images and masks of (N, C, H, W).
//
// A blur takes two passes, along columns and along rows, with a plane of arithmetic values between:
// with b bytes per stored value it reads b + 4 and writes 4 + b bytes per value. A block filters 32
// lines. Pixels pass through a ring in shared memory, each read once per block, and every thread
// slides a window of registers along a line: two shared loads make 16 products, 8 in float64.
// Borders are resolved where pixels enter the ring. Each pass takes 2 r + 1 multiply-adds per value.
//
// The adjoint is the same filter over zeros, and next to the border also the weights with which a
// pixel stands beyond it. It gathers: the same input gives the same bits.
//
// A mask also keeps the blurred image, with the extremes of every block of the second pass; they are
// reduced per image, and a third pass maps them to 0 and 1: 2 b + 20 bytes per value. Masks are of
// differences from one pixel of the image, so that a flat image stays flat to the last bit.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>

#include "hdrops/gaussian_checks.h"
#include "hdrops/launch.cuh"
#include "hdrops/reduce.cuh"
#include "hdrops/storage.cuh"
#include "hdrops/window.cuh"

namespace hdrops {
namespace {

constexpr int32_t lanes = 32, warps = 8, threads = lanes * warps;

// ---- the filter -------------------------------------------------------------------------------

// (N, C, H, W) as lines: pixel i of line l of group o is element o group_stride + i pixel_stride +
// l line_stride.
struct Lines {
  int64_t groups, lines, size;  // `size` pixels in each of `lines` lines of each group
  int64_t group_stride, pixel_stride, line_stride;
};

// Along rows the groups are images, along columns planes.
Lines lines_of(const GaussianProblem& p, bool rows) {
  if (rows) return {p.n, p.c * p.h, p.w, p.c * p.h * p.w, 1, p.w};
  return {p.n * p.c, p.w, p.h, p.h * p.w, p.w, 1};
}

// A block filters `length` pixels of 32 lines, each thread `outputs` of them; the ring holds twice
// as many. Columns of shared memory are one longer than they need be, so that lanes along a line
// meet no bank twice.
template <class T>
struct Tile {
  static constexpr int32_t outputs = sizeof(T) == 4 ? 16 : 8;
  static constexpr int32_t length = warps * outputs;
  static constexpr int32_t ring = 2 * length, mask = ring - 1;
  static constexpr int32_t pitch = lanes + 1;
};

template <class T>
int64_t tiles_per_group(const Lines& a) {
  return ceil_div(a.size, Tile<T>::length) * ceil_div(a.lines, lanes);
}

template <class T>
constexpr T infinity = std::numeric_limits<T>::infinity();

template <class T>
struct Extremes {
  T* low;
  T* high;
};

// NaN, where there is one.
template <class T>
__device__ T least(T a, T b) {
  return a < b || a != a ? a : b;
}
template <class T>
__device__ T greatest(T a, T b) {
  return a > b || a != a ? a : b;
}

template <class T>
__device__ T finite_or_zero(T x) {
  return x - x == T(0) ? x : T(0);
}

// source -> out, times `gain`. Unless `planes` is 0, all pixels of an image, of `planes` groups, are
// relative to its first one. Where `extremes` are given, they get those of every tile.
template <class In, class Out, bool rows, bool adjoint>
__global__ void __launch_bounds__(threads) filter(const In* source,
                                                  Out* out,
                                                  Lines a,
                                                  Window<Compute<In>> window,
                                                  math::Border border,
                                                  int64_t planes,
                                                  Compute<In> gain,
                                                  Extremes<Compute<In>> extremes) {
  using T = Compute<In>;
  using Shape = Tile<T>;
  constexpr int32_t outputs = Shape::outputs, length = Shape::length;
  __shared__ T ring[Shape::ring * Shape::pitch];
  __shared__ T taps[length];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t lane = thread % lanes, warp = thread / lanes;
  const int64_t line_tiles = ceil_div(a.lines, lanes);
  const int64_t per_group = ceil_div(a.size, length) * line_tiles;
  const int64_t radius = window.radius, tap_count = 2 * radius + 1;
  for (int64_t unit = blockIdx.x; unit < a.groups * per_group; unit += gridDim.x) {
    const int64_t group = unit / per_group, tile = unit % per_group;
    const int64_t first = tile / line_tiles * length, first_line = tile % line_tiles * lanes;
    const In* const from = source + group * a.group_stride;
    T pivot = T(0);
    if (planes != 0) {
      pivot = finite_or_zero(static_cast<T>(source[group / planes * planes * a.group_stride]));
    }

    // Pixels `begin` to `end` of the tile's reach, counted from the first tap of its first window.
    const auto fill = [&](int64_t begin, int64_t end) {
      // Neighbouring threads take neighbouring elements.
      const int64_t count = (end - begin) * lanes;
      for (int64_t i = thread; i < count; i += threads) {
        const int64_t span = end - begin;
        const int64_t at = begin + (rows ? i % span : i / lanes);
        const int64_t column = rows ? i / span : i % lanes;
        const int64_t line = first_line + column;
        const int64_t pixel =
            math::border_index(first - radius + at, a.size, adjoint ? math::Border::zeros : border);
        T value = T(0);
        if (pixel >= 0 && line < a.lines)
          value = static_cast<T>(from[pixel * a.pixel_stride + line * a.line_stride]) - pivot;
        ring[(at & Shape::mask) * Shape::pitch + column] = value;
      }
    };
    const auto in_ring = [&](int64_t at) { return ring[(at & Shape::mask) * Shape::pitch + lane]; };

    T sum[outputs] = {};
    const int64_t reach = length + tap_count - 1;
    fill(0, length < reach ? length : reach);
    for (int64_t begin = 0; begin < tap_count; begin += length) {
      const int64_t end = begin + length < tap_count ? begin + length : tap_count;
      fill(begin + length, end + length < reach ? end + length : reach);
      if (thread < length && begin + thread < tap_count)
        taps[thread] = tap_at(window, begin + thread - radius);
      __syncthreads();
      // value[(s + u) % outputs] is the pixel of output u under tap t + s.
      const int64_t own = warp * outputs;
      T value[outputs];
#pragma unroll
      for (int32_t u = 0; u + 1 < outputs; ++u) value[u] = in_ring(own + begin + u);
      int64_t t = begin;
      for (; t + outputs <= end; t += outputs) {
#pragma unroll
        for (int32_t s = 0; s < outputs; ++s) {
          value[(s + outputs - 1) % outputs] = in_ring(own + t + s + outputs - 1);
          const T weight = taps[t + s - begin];
#pragma unroll
          for (int32_t u = 0; u < outputs; ++u) sum[u] += weight * value[(s + u) % outputs];
        }
      }
      for (; t < end; ++t) {
        value[outputs - 1] = in_ring(own + t + outputs - 1);
        const T weight = taps[t - begin];
#pragma unroll
        for (int32_t u = 0; u < outputs; ++u) sum[u] += weight * value[u];
#pragma unroll
        for (int32_t u = 0; u + 1 < outputs; ++u) value[u] = value[u + 1];
      }
      __syncthreads();
    }

    const int64_t line = first_line + lane;
    if constexpr (adjoint) {
      const bool near = first <= radius || first + length + radius >= a.size;
      if (near && border != math::Border::zeros && line < a.lines) {
        // In shared memory: indexed by a loop, the sums would leave their registers.
        T* const beyond = ring + warp * outputs * Shape::pitch + lane;
        for (int32_t u = 0; u < outputs; ++u) {
          const int64_t pixel = first + warp * outputs + u;
          const int64_t begin = pixel < radius ? 0 : pixel - radius;
          const int64_t end = pixel + radius < a.size ? pixel + radius + 1 : a.size;
          T extra = T(0);
          for (int64_t i = begin; i < end && pixel < a.size; ++i) {
            extra += weight_beyond(window, border, pixel, i, a.size) *
                     static_cast<T>(from[i * a.pixel_stride + line * a.line_stride]);
          }
          beyond[u * Shape::pitch] = extra;
        }
#pragma unroll
        for (int32_t u = 0; u < outputs; ++u) sum[u] += beyond[u * Shape::pitch];
      }
      __syncthreads();
    }

    T low = infinity<T>, high = -infinity<T>;
#pragma unroll
    for (int32_t u = 0; u < outputs; ++u) {
      const int64_t pixel = first + warp * outputs + u;
      sum[u] *= gain;
      if (pixel < a.size && line < a.lines) {
        low = least(low, sum[u]);
        high = greatest(high, sum[u]);
        if constexpr (!rows) {
          out[group * a.group_stride + pixel * a.pixel_stride + line * a.line_stride] =
              to_storage<Out>(sum[u]);
        }
      }
    }
    if constexpr (rows) {
      // Turned in shared memory, so that neighbouring threads store neighbouring elements.
#pragma unroll
      for (int32_t u = 0; u < outputs; ++u)
        ring[(warp * outputs + u) * Shape::pitch + lane] = sum[u];
      __syncthreads();
      for (int32_t i = thread; i < length * lanes; i += threads) {
        const int64_t pixel = first + i % length, to_line = first_line + i / length;
        if (pixel < a.size && to_line < a.lines) {
          out[group * a.group_stride + pixel + to_line * a.line_stride] =
              to_storage<Out>(ring[i % length * Shape::pitch + i / length]);
        }
      }
      __syncthreads();
    }
    if (extremes.low != nullptr) {
      low = block_reduce<threads>(low, ring, least<T>);
      high = block_reduce<threads>(high, ring, greatest<T>);
      if (thread == 0) {
        extremes.low[unit] = low;
        extremes.high[unit] = high;
      }
    }
  }
}

template <class T>
int64_t tiles(const Lines& a) {
  return a.groups * tiles_per_group<T>(a);
}

template <bool adjoint, class In, class Out>
void run_filter(const Launcher& launch,
                const GaussianProblem& p,
                const Window<Compute<In>>& window,
                bool rows,
                const In* source,
                Out* out,
                bool pivoted = false,
                Extremes<Compute<In>> extremes = {}) {
  using T = Compute<In>;
  const Lines a = lines_of(p, rows);
  const double gain = full_scale<Out> / full_scale<In>;
  const int64_t planes = pivoted ? p.c : 0;
  const auto go = [&](auto kernel, double by) {
    launch(kernel,
           tiles<T>(a),
           threads,
           0,
           source,
           out,
           a,
           window,
           p.border,
           planes,
           static_cast<T>(by),
           extremes);
  };
  if (rows)
    go(&filter<In, Out, true, adjoint>, gain);
  else
    go(&filter<In, Out, false, adjoint>, gain);
}

// Calls f with the Tags of the storage types of an image and of a result from it.
template <class F>
void with_types(ScalarType image, ScalarType result, const F& f) {
  with_image_type(image, [&](auto in) {
    using In = typename decltype(in)::type;
    if constexpr (is_code_storage<In>) {
      if (result == ScalarType::Float) return f(in, Tag<float>{});
    }
    f(in, in);
  });
}

template <class T>
DeviceWindow<T> gaussian_on_device(const Launcher& launch,
                                   const GaussianProblem& p,
                                   const Tensor& like) {
  return DeviceWindow<T>(launch, math::gaussian_window<T>(p.sigma, p.radius), like);
}

// ---- the blurred image ------------------------------------------------------------------------

void blur_into(const Tensor& image_in, const GaussianProblem& p, const Tensor& out) {
  const Launcher launch(image_in);
  const Tensor image = torch::stable::contiguous(image_in);
  if (image.numel() == 0) return;
  const Tensor columns = allocate(shape_of(image), compute_dtype(image.scalar_type()), image);
  with_types(image.scalar_type(), out.scalar_type(), [&](auto in, auto result) {
    using In = typename decltype(in)::type;
    using Out = typename decltype(result)::type;
    using T = Compute<In>;
    const auto window = gaussian_on_device<T>(launch, p, image);
    run_filter<false>(
        launch, p, window.view(), false, const_data_of<In>(image), data_of<T>(columns));
    run_filter<false>(launch, p, window.view(), true, const_data_of<T>(columns), data_of<Out>(out));
  });
}

Tensor gaussian_blur(const Tensor& image,
                     double sigma,
                     int64_t radius,
                     int64_t border,
                     std::optional<ScalarType> dtype) {
  constexpr auto op = "gaussian_blur";
  const GaussianProblem p = check_gaussian(op, image, sigma, radius, border);
  const Tensor out =
      allocate(shape_of(image), check_output_dtype(op, image.scalar_type(), dtype), image);
  blur_into(image, p, out);
  return out;
}

void gaussian_blur_out(
    const Tensor& image, double sigma, int64_t radius, int64_t border, Tensor out) {
  constexpr auto op = "gaussian_blur_out";
  const GaussianProblem p = check_gaussian(op, image, sigma, radius, border);
  check_gaussian_out(op, image, out);
  blur_into(image, p, out);
}

// grad (N, C, H, W) through both passes of the filter, into out.
template <class In, class Out>
void adjoint_into(const Launcher& launch,
                  const GaussianProblem& p,
                  const Window<Compute<In>>& window,
                  const In* grad,
                  Compute<In>* rows,
                  Out* out) {
  run_filter<true>(launch, p, window, true, grad, rows);
  run_filter<true>(launch, p, window, false, const_cast<const Compute<In>*>(rows), out);
}

Tensor gaussian_blur_backward(const Tensor& grad_in, double sigma, int64_t radius, int64_t border) {
  constexpr auto op = "gaussian_blur_backward";
  const GaussianProblem p = check_gaussian(op, grad_in, sigma, radius, border);
  check_gaussian_grad(op, grad_in);
  const Launcher launch(grad_in);
  const Tensor grad = torch::stable::contiguous(grad_in);
  const Tensor out = allocate(shape_of(grad), grad.scalar_type(), grad);
  if (grad.numel() == 0) return out;
  const Tensor rows = allocate(shape_of(grad), compute_dtype(grad.scalar_type()), grad);
  with_float_type(grad.scalar_type(), [&](auto tag) {
    using S = typename decltype(tag)::type;
    using T = Compute<S>;
    const auto window = gaussian_on_device<T>(launch, p, grad);
    adjoint_into(
        launch, p, window.view(), const_data_of<S>(grad), data_of<T>(rows), data_of<S>(out));
  });
  return out;
}

// ---- the mask ---------------------------------------------------------------------------------

// Extremes of every image from those of its tiles; one block per image.
template <class T>
__global__ void __launch_bounds__(threads)
    image_extremes(Extremes<T> tiles, Extremes<T> out, int64_t images, int64_t per_image) {
  __shared__ T shared[threads];
  for (int64_t image = blockIdx.x; image < images; image += gridDim.x) {
    T low = infinity<T>, high = -infinity<T>;
    for (int64_t i = threadIdx.x; i < per_image; i += threads) {
      low = least(low, tiles.low[image * per_image + i]);
      high = greatest(high, tiles.high[image * per_image + i]);
    }
    low = block_reduce<threads>(low, shared, least<T>);
    high = block_reduce<threads>(high, shared, greatest<T>);
    if (threadIdx.x == 0) {
      out.low[image] = low;
      out.high[image] = high;
    }
  }
}

// The blurred image, relative to one of its pixels, and the extremes of every image.
template <class T>
struct Blurred {
  Tensor values, low, high;
  const T* data() const { return const_data_of<T>(values); }
  Extremes<T> extremes() const { return {data_of<T>(low), data_of<T>(high)}; }
};

template <class In>
Blurred<Compute<In>> blurred(const Launcher& launch,
                             const GaussianProblem& p,
                             const Window<Compute<In>>& window,
                             const Tensor& image) {
  using T = Compute<In>;
  const ScalarType dtype = compute_dtype(image.scalar_type());
  const int64_t per_image = tiles_per_group<T>(lines_of(p, true));
  const Tensor columns = allocate(shape_of(image), dtype, image);
  const Tensor parts = allocate({2, p.n, per_image}, dtype, image);
  const Blurred<T> result{allocate(shape_of(image), dtype, image),
                          allocate({p.n}, dtype, image),
                          allocate({p.n}, dtype, image)};
  const Extremes<T> of_tiles{data_of<T>(parts), data_of<T>(parts) + p.n * per_image};
  // Beyond the border there may be zeros, which are not relative to anything.
  const bool pivoted = p.border != math::Border::zeros;
  run_filter<false>(
      launch, p, window, false, const_data_of<In>(image), data_of<T>(columns), pivoted);
  run_filter<false>(launch,
                    p,
                    window,
                    true,
                    const_data_of<T>(columns),
                    data_of<T>(result.values),
                    false,
                    of_tiles);
  launch(&image_extremes<T>, p.n, threads, 0, of_tiles, result.extremes(), p.n, per_image);
  return result;
}

// Eq. 4; 1 where the extremes are equal.
template <class T>
HDROPS_HD T share(T value, T low, T high) {
  return low == high ? T(1) : (value - low) / (high - low);
}

// Eq. 4 or 5 of `total` values of images of `size`.
template <class T, class Out>
__global__ void __launch_bounds__(threads) normalise(
    const T* values, Extremes<T> extremes, Out* out, int64_t size, int64_t total, bool invert) {
  const int64_t first = int64_t{blockIdx.x} * threads + threadIdx.x;
  for (int64_t i = first; i < total; i += int64_t{gridDim.x} * threads) {
    const T low = extremes.low[i / size], high = extremes.high[i / size];
    T result = share(values[i], low, high);
    if (invert && low != high) result = T(1) - result;
    out[i] = to_storage<Out>(result * static_cast<T>(full_scale<Out>));
  }
}

void mask_into(const Tensor& image_in, const GaussianProblem& p, bool invert, const Tensor& out) {
  const Launcher launch(image_in);
  const Tensor image = torch::stable::contiguous(image_in);
  if (image.numel() == 0) return;
  with_types(image.scalar_type(), out.scalar_type(), [&](auto in, auto result) {
    using In = typename decltype(in)::type;
    using Out = typename decltype(result)::type;
    using T = Compute<In>;
    const auto window = gaussian_on_device<T>(launch, p, image);
    const auto blur = blurred<In>(launch, p, window.view(), image);
    launch(&normalise<T, Out>,
           ceil_div(image.numel(), threads),
           threads,
           0,
           blur.data(),
           blur.extremes(),
           data_of<Out>(out),
           image.numel() / p.n,
           image.numel(),
           invert);
  });
}

Tensor gaussian_mask(const Tensor& image,
                     double sigma,
                     int64_t radius,
                     int64_t border,
                     bool invert,
                     std::optional<ScalarType> dtype) {
  constexpr auto op = "gaussian_mask";
  const GaussianProblem p = check_gaussian(op, image, sigma, radius, border);
  const Tensor out =
      allocate(shape_of(image), check_output_dtype(op, image.scalar_type(), dtype), image);
  mask_into(image, p, invert, out);
  return out;
}

void gaussian_mask_out(
    const Tensor& image, double sigma, int64_t radius, int64_t border, bool invert, Tensor out) {
  constexpr auto op = "gaussian_mask_out";
  const GaussianProblem p = check_gaussian(op, image, sigma, radius, border);
  check_gaussian_out(op, image, out);
  mask_into(image, p, invert, out);
}

// ---- backward of the mask ---------------------------------------------------------------------

// Sums over an image: of the gradient, of its product with the mask, and of the pixels at either
// extreme.
struct MaskSums {
  double grad, product, at_low, at_high;
};

HDROPS_HD MaskSums operator+(const MaskSums& a, const MaskSums& b) {
  return {a.grad + b.grad, a.product + b.product, a.at_low + b.at_low, a.at_high + b.at_high};
}

constexpr int64_t summed_at_once = 16 * threads;

// Of every piece of every image.
template <class S>
__global__ void __launch_bounds__(threads) sum_pieces(const S* grad,
                                                      const Compute<S>* values,
                                                      Extremes<Compute<S>> extremes,
                                                      MaskSums* sums,
                                                      int64_t size,
                                                      int64_t images) {
  using T = Compute<S>;
  __shared__ MaskSums shared[threads];
  const int64_t pieces = ceil_div(size, summed_at_once);
  for (int64_t unit = blockIdx.x; unit < images * pieces; unit += gridDim.x) {
    const int64_t image = unit / pieces, begin = unit % pieces * summed_at_once;
    const int64_t end = begin + summed_at_once < size ? begin + summed_at_once : size;
    const T low = extremes.low[image], high = extremes.high[image];
    MaskSums sum{};
    for (int64_t i = begin + threadIdx.x; i < end; i += threads) {
      const T value = values[image * size + i], upstream = static_cast<T>(grad[image * size + i]);
      sum = sum + MaskSums{upstream,
                           upstream * share(value, low, high),
                           value == low ? 1.0 : 0.0,
                           value == high ? 1.0 : 0.0};
    }
    sum = block_reduce<threads>(
        sum, shared, [](const MaskSums& a, const MaskSums& b) { return a + b; });
    if (threadIdx.x == 0) sums[unit] = sum;
  }
}

__global__ void __launch_bounds__(threads)
    sum_images(const MaskSums* pieces, MaskSums* out, int64_t images, int64_t per_image) {
  __shared__ MaskSums shared[threads];
  for (int64_t image = blockIdx.x; image < images; image += gridDim.x) {
    MaskSums sum{};
    for (int64_t i = threadIdx.x; i < per_image; i += threads)
      sum = sum + pieces[image * per_image + i];
    sum = block_reduce<threads>(
        sum, shared, [](const MaskSums& a, const MaskSums& b) { return a + b; });
    if (threadIdx.x == 0) out[image] = sum;
  }
}

// The gradient of the blurred image takes its place. With M = (b - low) / (high - low):
// dM / db = 1 / (high - low), dM / dlow = (M - 1) / (high - low), dM / dhigh = -M / (high - low);
// pixels at an extreme share its part.
template <class S>
__global__ void __launch_bounds__(threads) blurred_gradient(const S* grad,
                                                            Compute<S>* values,
                                                            Extremes<Compute<S>> extremes,
                                                            const MaskSums* sums,
                                                            int64_t size,
                                                            int64_t total,
                                                            bool invert) {
  using T = Compute<S>;
  const int64_t first = int64_t{blockIdx.x} * threads + threadIdx.x;
  for (int64_t i = first; i < total; i += int64_t{gridDim.x} * threads) {
    const T low = extremes.low[i / size], high = extremes.high[i / size];
    const MaskSums& sum = sums[i / size];
    const T value = values[i];
    T upstream = static_cast<T>(grad[i]);
    if (value == low) upstream += static_cast<T>((sum.product - sum.grad) / sum.at_low);
    if (value == high) upstream -= static_cast<T>(sum.product / sum.at_high);
    const T spread = invert ? low - high : high - low;
    values[i] = low == high ? T(0) : upstream / spread;
  }
}

Tensor gaussian_mask_backward(const Tensor& grad_in,
                              const Tensor& image_in,
                              double sigma,
                              int64_t radius,
                              int64_t border,
                              bool invert) {
  constexpr auto op = "gaussian_mask_backward";
  const GaussianProblem p = check_gaussian(op, image_in, sigma, radius, border);
  check_gaussian_grad(op, grad_in, image_in);
  const Launcher launch(image_in);
  const ScalarType dtype = image_in.scalar_type();
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  const Tensor image = torch::stable::contiguous(image_in);
  const Tensor out = allocate(shape_of(image), dtype, image);
  const int64_t total = image.numel();
  if (total == 0) return out;
  const int64_t size = total / p.n, pieces = ceil_div(size, summed_at_once);
  constexpr int64_t fields = sizeof(MaskSums) / sizeof(double);
  const Tensor parts = allocate({p.n, pieces, fields}, ScalarType::Double, image);
  const Tensor sums = allocate({p.n, fields}, ScalarType::Double, image);
  const Tensor rows = allocate(shape_of(image), compute_dtype(dtype), image);
  with_float_type(dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    using T = Compute<S>;
    const auto window = gaussian_on_device<T>(launch, p, image);
    const auto blur = blurred<S>(launch, p, window.view(), image);
    launch(&sum_pieces<S>,
           p.n * pieces,
           threads,
           0,
           const_data_of<S>(grad),
           blur.data(),
           blur.extremes(),
           data_of<MaskSums>(parts),
           size,
           p.n);
    launch(&sum_images,
           p.n,
           threads,
           0,
           const_data_of<MaskSums>(parts),
           data_of<MaskSums>(sums),
           p.n,
           pieces);
    launch(&blurred_gradient<S>,
           ceil_div(total, threads),
           threads,
           0,
           const_data_of<S>(grad),
           data_of<T>(blur.values),
           blur.extremes(),
           const_data_of<MaskSums>(sums),
           size,
           total,
           invert);
    adjoint_into(launch, p, window.view(), blur.data(), data_of<T>(rows), data_of<S>(out));
  });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) {
  m.impl("gaussian_blur", TORCH_BOX(&hdrops::gaussian_blur));
  m.impl("gaussian_blur_out", TORCH_BOX(&hdrops::gaussian_blur_out));
  m.impl("gaussian_blur_backward", TORCH_BOX(&hdrops::gaussian_blur_backward));
  m.impl("gaussian_mask", TORCH_BOX(&hdrops::gaussian_mask));
  m.impl("gaussian_mask_out", TORCH_BOX(&hdrops::gaussian_mask_out));
  m.impl("gaussian_mask_backward", TORCH_BOX(&hdrops::gaussian_mask_backward));
}
