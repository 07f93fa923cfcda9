// exposure_fusion on CUDA: weights, pyramids and blend of Mertens et al. for brackets
// (N, K, C, H, W).
//
// Passes of the forward, each with the bytes it moves per pixel of the finest level, for K
// exposures of 3 channels and b bytes per stored value; the levels above add a third:
//   weigh: bracket -> weights, normalised over the exposures.
//     Reads 3 K b, writes 4 K; scaling by the sum reads and writes 4 K again, mostly in L2.
//   down: weights and images, one level at a time. The finest images are read as they are stored.
//     Reads 3 K b + 4 K, writes 4 K; above: a third of 20 K.
//   collapse: coarse to fine, res = up(res+) + sum_k w_k (I_k - up(I_k+)), where + is the next
//     coarser level. No Laplacian pyramid is stored; the last one clamps, rounds and stores.
//     Reads 3 K b + 7 K + 3, writes 3 b; above: a third of 19 K + 15.
// State: K float planes at the finest level and 4 K + 3 at every other; levels shrink by four.
//
// The backward runs the forward again and keeps its pyramids. Then, every step as a gather, with -
// for the next finer level:
//   G = gradient of the unclamped result at the finest level, G = upT(G-) above;
//   coarse to fine: dw_k = sum_c G_c (I_kc - up(I_kc+)) + downT(dw_k+)
//                   dI_kc = w_k G_c - upT(w_k- G_c-) + downT(dI_kc+);
//   at the finest level through the normalisation and the pointwise factors of the weights, and
//   through the Laplacian last, as its adjoint reads neighbours.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <vector>

#include "hdrops/exposure_fusion_checks.h"
#include "hdrops/launch.cuh"
#include "hdrops/math/exposure_fusion.h"
#include "hdrops/storage.cuh"

namespace hdrops {
namespace {

template <class T>
using Parameters = math::FusionParameters<T>;

struct Extent {
  int64_t h, w;
};

HDROPS_HD int64_t area(Extent e) { return e.h * e.w; }
HDROPS_HD Extent coarser(Extent e) { return {math::coarse_size(e.h), math::coarse_size(e.w)}; }

// ---- threads over planes ----------------------------------------------------------------------

constexpr int32_t tile_width = 32, tile_height = 8, tile_threads = tile_width * tile_height;

HDROPS_HD int64_t tiles(int64_t planes, Extent e) {
  return planes * ceil_div(e.h, tile_height) * ceil_div(e.w, tile_width);
}

// f(plane, y, x) for every cell of every plane, one thread each, in tiles that lie in one plane.
template <class F>
__device__ void for_each_cell(int64_t planes, Extent e, const F& f) {
  const int64_t columns = ceil_div(e.w, tile_width), rows = ceil_div(e.h, tile_height);
  for (int64_t tile = blockIdx.x; tile < planes * rows * columns; tile += gridDim.x) {
    const int64_t row = tile / columns, plane = row / rows;
    const int64_t y = row % rows * tile_height + threadIdx.x / tile_width;
    const int64_t x = tile % columns * tile_width + threadIdx.x % tile_width;
    if (y < e.h && x < e.w) f(plane, y, x);
  }
}

// ---- weights ----------------------------------------------------------------------------------

// math::mirror() for indices at most two beyond either end of the axis, without its division.
HDROPS_HD int64_t mirror_near(int64_t i, int64_t size) {
  const int64_t from_start = i < 0 ? -i : i;
  const int64_t inside = from_start < size ? from_start : 2 * (size - 1) - from_start;
  return inside > 0 ? inside : 0;
}

// Elements of a plane that the Laplacian at one pixel reads.
struct Cross {
  int64_t above, left, centre, right, below;
};

HDROPS_HD Cross cross_at(int64_t y, int64_t x, Extent e) {
  const int64_t row = y * e.w;
  return {mirror_near(y - 1, e.h) * e.w + x,
          row + mirror_near(x - 1, e.w),
          row + x,
          row + mirror_near(x + 1, e.w),
          mirror_near(y + 1, e.h) * e.w + x};
}

// `exposure` points to the first of its `channels` planes of `size` elements.
template <int32_t channels, class In, class T>
HDROPS_HD T grey_at(const In* exposure, int64_t size, int64_t at, const Parameters<T>& p) {
  const T first = static_cast<T>(exposure[at]);
  if constexpr (channels == 1)
    return math::grey(first, p);
  else
    return math::grey(
        first, static_cast<T>(exposure[size + at]), static_cast<T>(exposure[2 * size + at]), p);
}

// The weight of one pixel of one exposure, in factors.
template <class T, int32_t channels>
struct PixelWeight {
  T x[channels];  // in [0, 1]
  T laplacian;    // of grey()
  T contrast, saturation;
  T by_contrast, by_saturation, by_exposedness;  // raised to their exponents
};

template <class T, int32_t channels>
HDROPS_HD T product(const PixelWeight<T, channels>& w) {
  return w.by_contrast * w.by_saturation * w.by_exposedness + static_cast<T>(math::fusion_epsilon);
}

template <class T>
HDROPS_HD T falloff(const Parameters<T>& p) {
  return -p.exposedness / static_cast<T>(math::fusion_two_sigma_squared);
}

template <int32_t channels, class In, class T>
HDROPS_HD PixelWeight<T, channels> pixel_weight(const In* exposure,
                                                int64_t size,
                                                const Cross& at,
                                                const Parameters<T>& p) {
  const auto grey = [&](int64_t element) { return grey_at<channels>(exposure, size, element, p); };
  PixelWeight<T, channels> w;
  w.laplacian = math::laplacian(
      grey(at.above), grey(at.left), grey(at.centre), grey(at.right), grey(at.below));
  w.contrast = std::fabs(w.laplacian) * math::contrast_unit(channels, p);
  w.by_contrast = math::power(w.contrast, p.contrast);
  T raw[channels], distance = T(0);
  for (int32_t c = 0; c < channels; ++c) {
    raw[c] = static_cast<T>(exposure[c * size + at.centre]);
    w.x[c] = raw[c] * p.unit;
    distance += (w.x[c] - T(0.5)) * (w.x[c] - T(0.5));
  }
  w.saturation = T(0);
  w.by_saturation = T(1);
  if constexpr (channels == 3) {
    w.saturation = math::colourfulness(raw[0], raw[1], raw[2], p);
    w.by_saturation = math::power(w.saturation, p.saturation);
  }
  w.by_exposedness = p.exposedness != T(0) ? std::exp(falloff(p) * distance) : T(1);
  return w;
}

// bracket (N, K, C, H, W) -> weights (N, K, H, W)
template <class In, int32_t channels>
__global__ void __launch_bounds__(tile_threads) weigh(const In* bracket,
                                                      Compute<In>* weights,
                                                      int64_t n,
                                                      int64_t k,
                                                      Extent e,
                                                      Parameters<Compute<In>> p) {
  using T = Compute<In>;
  const int64_t size = area(e);
  for_each_cell(n, e, [&](int64_t image, int64_t y, int64_t x) {
    const Cross at = cross_at(y, x, e);
    const In* const first = bracket + image * k * channels * size;
    T* const to = weights + image * k * size + at.centre;
    T sum = T(0);
    for (int64_t j = 0; j < k; ++j) {
      const T weight = product(pixel_weight<channels>(first + j * channels * size, size, at, p));
      to[j * size] = weight;
      sum += weight;
    }
    for (int64_t j = 0; j < k; ++j) to[j * size] /= sum;
  });
}

// ---- pyramid: down ----------------------------------------------------------------------------

template <class T>
HDROPS_HD T binomial(T a, T b, T c, T d, T e) {
  return (a + e) * T(1.0 / 16) + (b + d) * T(4.0 / 16) + c * T(6.0 / 16);
}

// Coarse rows that one thread filters from top to bottom, so that each fine row is read once.
constexpr int64_t strip = 8;

template <class In, class T>
HDROPS_HD void down_strip(const In* fine, T unit, T* coarse, Extent e, int64_t first, int64_t x) {
  const Extent to = coarser(e);
  int64_t column[5];
  for (int32_t t = 0; t < 5; ++t) column[t] = mirror_near(2 * x + t - 2, e.w);
  const auto row = [&](int64_t y) {
    const In* const from = fine + mirror_near(y, e.h) * e.w;
    return binomial(static_cast<T>(from[column[0]]),
                    static_cast<T>(from[column[1]]),
                    static_cast<T>(from[column[2]]),
                    static_cast<T>(from[column[3]]),
                    static_cast<T>(from[column[4]]));
  };
  T a = row(2 * first - 2), b = row(2 * first - 1), c = row(2 * first);
  const int64_t end = first + strip < to.h ? first + strip : to.h;
  for (int64_t y = first; y < end; ++y) {
    const T d = row(2 * y + 1), f = row(2 * y + 2);
    coarse[y * to.w + x] = unit * binomial(a, b, c, d, f);
    a = c;
    b = d;
    c = f;
  }
}

// One level of the weights and of the images, which are scaled by `unit`, at once.
template <class In, class T>
__global__ void __launch_bounds__(tile_threads) down(const T* weights,
                                                     const In* images,
                                                     T unit,
                                                     T* coarse_weights,
                                                     T* coarse_images,
                                                     int64_t weight_planes,
                                                     int64_t image_planes,
                                                     Extent e) {
  const Extent to = coarser(e);
  for_each_cell(
      weight_planes + image_planes,
      {ceil_div(to.h, strip), to.w},
      [&](int64_t plane, int64_t y, int64_t x) {
        if (plane < weight_planes) {
          down_strip(
              weights + plane * area(e), T(1), coarse_weights + plane * area(to), e, y * strip, x);
        } else {
          const int64_t image = plane - weight_planes;
          down_strip(
              images + image * area(e), unit, coarse_images + image * area(to), e, y * strip, x);
        }
      });
}

// ---- pyramid: up and blend --------------------------------------------------------------------

// A coarse pixel and its neighbours, as the upward filter of the two by two fine pixels above it
// reads them.
struct Patch {
  int64_t row[3], column[3];  // elements of the rows' beginnings, and within a row
};

HDROPS_HD Patch patch_at(int64_t y, int64_t x, Extent coarse) {
  return {{math::coarse_neighbour(y - 1, coarse.h) * coarse.w,
           y * coarse.w,
           math::coarse_neighbour(y + 1, coarse.h) * coarse.w},
          {math::coarse_neighbour(x - 1, coarse.w), x, math::coarse_neighbour(x + 1, coarse.w)}};
}

template <class T>
HDROPS_HD T up_even(T before, T at, T after) {
  return (before + T(6) * at + after) * T(1.0 / 8);
}

template <class T>
HDROPS_HD T up_odd(T at, T after) {
  return (at + after) * T(0.5);
}

template <class T>
struct Quad {
  T item[2][2];
};

template <class T>
HDROPS_HD Quad<T> up_quad(const T* plane, const Patch& patch) {
  T even[3], odd[3];
  for (int32_t i = 0; i < 3; ++i) {
    const T* const row = plane + patch.row[i];
    const T before = row[patch.column[0]], at = row[patch.column[1]], after = row[patch.column[2]];
    even[i] = up_even(before, at, after);
    odd[i] = up_odd(at, after);
  }
  return {{{up_even(even[0], even[1], even[2]), up_even(odd[0], odd[1], odd[2])},
           {up_odd(even[1], even[2]), up_odd(odd[1], odd[2])}}};
}

// Clamps to [0, 1] but keeps NaN.
template <class T>
HDROPS_HD T clamp_unit(T x) {
  const T floor = x < T(0) ? T(0) : x;
  return floor > T(1) ? T(1) : floor;
}

// A blended value in [0, 1] as stored. Codes saturate whether or not `clamp` asks for it.
template <class Out, class T>
HDROPS_HD Out finish(T value, bool clamp) {
  if constexpr (is_code_storage<Out>)
    return to_storage<Out>(value * static_cast<T>(full_scale<Out>));
  else
    return static_cast<Out>(clamp ? clamp_unit(value) : value);
}

// One level: weights (N, K, h, w), images (N, K, C, h, w), the next coarser images and result (null
// at the top).
template <class In, class T>
struct BlendLevel {
  const T* weights;
  const In* images;
  const T* coarse_images;
  const T* coarse_result;
  T unit;
  int64_t n, k;
  Extent extent;
};

template <class In, class Out, int32_t channels>
__global__ void __launch_bounds__(tile_threads, 2)
    collapse(BlendLevel<In, Compute<In>> level, Out* out, bool clamp) {
  using T = Compute<In>;
  const Extent e = level.extent, coarse = coarser(e);
  const int64_t size = area(e), coarse_size = area(coarse);
  const bool top = level.coarse_images == nullptr;
  for_each_cell(level.n, coarse, [&](int64_t image, int64_t y, int64_t x) {
    const Patch patch = patch_at(y, x, coarse);
    const int64_t at = 2 * y * e.w + 2 * x;
    const bool inside[2][2] = {{true, 2 * x + 1 < e.w},
                               {2 * y + 1 < e.h, 2 * x + 1 < e.w && 2 * y + 1 < e.h}};
    Quad<T> sum[channels] = {};
    if (!top) {
#pragma unroll
      for (int32_t c = 0; c < channels; ++c) {
        sum[c] = up_quad(level.coarse_result + (image * channels + c) * coarse_size, patch);
      }
    }
    for (int64_t j = 0; j < level.k; ++j) {
      const int64_t plane = image * level.k + j;
      Quad<T> weight;
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        const int64_t element = at + i / 2 * e.w + i % 2;
        weight.item[i / 2][i % 2] =
            inside[i / 2][i % 2] ? level.weights[plane * size + element] : T(0);
      }
#pragma unroll
      for (int32_t c = 0; c < channels; ++c) {
        const In* const from = level.images + (plane * channels + c) * size + at;
        Quad<T> base = {};
        if (!top) base = up_quad(level.coarse_images + (plane * channels + c) * coarse_size, patch);
#pragma unroll
        for (int32_t i = 0; i < 4; ++i) {
          if (!inside[i / 2][i % 2]) continue;
          const T value = static_cast<T>(from[i / 2 * e.w + i % 2]) * level.unit;
          sum[c].item[i / 2][i % 2] +=
              weight.item[i / 2][i % 2] * (value - base.item[i / 2][i % 2]);
        }
      }
    }
#pragma unroll
    for (int32_t c = 0; c < channels; ++c) {
      Out* const to = out + (image * channels + c) * size + at;
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        if (inside[i / 2][i % 2])
          to[i / 2 * e.w + i % 2] = finish<Out>(sum[c].item[i / 2][i % 2], clamp);
      }
    }
  });
}

// ---- backward: adjoints of the pyramid --------------------------------------------------------

// One term of a gather along an axis. With weight 0 it is not read: its index may lie outside.
template <class T>
struct Tap {
  int64_t index;
  T weight;
};

// The share of the coarse sample `coarse` in the fine sample `fine`, summed over the taps that a
// border folds together.
template <class T>
HDROPS_HD T up_share(int64_t fine, int64_t coarse, int64_t coarse_size) {
  const int64_t at = fine / 2;
  const T before = math::coarse_neighbour(at - 1, coarse_size) == coarse ? T(1) : T(0);
  const T centre = at == coarse ? T(1) : T(0);
  const T after = math::coarse_neighbour(at + 1, coarse_size) == coarse ? T(1) : T(0);
  return fine % 2 == 0 ? (before + T(6) * centre + after) * T(1.0 / 8) : (centre + after) * T(0.5);
}

// The share of the fine sample `fine` in the coarse sample `coarse`.
template <class T>
HDROPS_HD T down_share(int64_t fine, int64_t coarse, int64_t fine_size) {
  const T outer = T(1.0 / 16), inner = T(4.0 / 16), centre = T(6.0 / 16);
  const auto hits = [&](int64_t tap) { return mirror_near(2 * coarse + tap, fine_size) == fine; };
  return (hits(-2) ? outer : T(0)) + (hits(-1) ? inner : T(0)) + (hits(0) ? centre : T(0)) +
         (hits(1) ? inner : T(0)) + (hits(2) ? outer : T(0));
}

// Filters as gathers: tap(i, t, size) is the term t < count of the output i; `size` is that of the
// fine axis. What borders fold together stays within the window of a filter.

// Coarse samples that make up the fine sample i.
template <class T>
struct Up {
  static constexpr int32_t count = 3;
  static __host__ __device__ __forceinline__ Tap<T> tap(int64_t i, int32_t t, int64_t size) {
    const int64_t index = math::coarse_neighbour(i / 2 + t - 1, math::coarse_size(size));
    if (i % 2 == 0) return {index, t == 1 ? T(0.75) : T(0.125)};
    return {index, t == 0 ? T(0) : T(0.5)};
  }
};

// Coarse samples that the fine sample i went down to.
template <class T>
struct DownAdjoint {
  static constexpr int32_t count = 3;
  static __host__ __device__ __forceinline__ Tap<T> tap(int64_t i, int32_t t, int64_t size) {
    const int64_t coarse = i / 2 + t - 1;
    const bool exists = coarse >= 0 && coarse < math::coarse_size(size);
    return {coarse, exists ? down_share<T>(i, coarse, size) : T(0)};
  }
};

// Fine samples that the coarse sample i went up to.
template <class T>
struct UpAdjoint {
  static constexpr int32_t count = 5;
  static __host__ __device__ __forceinline__ Tap<T> tap(int64_t i, int32_t t, int64_t size) {
    const int64_t fine = 2 * i + t - 2;
    const bool exists = fine >= 0 && fine < size;
    return {fine, exists ? up_share<T>(fine, i, math::coarse_size(size)) : T(0)};
  }
};

// The terms of one output along its row, which all rows of the window share.
template <class Filter>
struct Columns {
  decltype(Filter::tap(0, 0, 0)) taps[Filter::count];
};

template <class Filter>
HDROPS_HD Columns<Filter> columns_at(int64_t x, int64_t width) {
  Columns<Filter> columns;
  for (int32_t t = 0; t < Filter::count; ++t) columns.taps[t] = Filter::tap(x, t, width);
  return columns;
}

// Sum over the window of the output (y, x) of weight * value(element), in rows of `stride`
// elements; `height` is that of the fine extent.
template <class T, class Filter, class Value>
__device__ T gather(
    int64_t y, int64_t height, const Columns<Filter>& columns, int64_t stride, const Value& value) {
  T sum = T(0);
  // Unrolled rows would cost more registers than they save time.
#pragma unroll 1
  for (int32_t i = 0; i < Filter::count; ++i) {
    const auto row = Filter::tap(y, i, height);
    if (row.weight == T(0)) continue;
    T in_row = T(0);
#pragma unroll
    for (int32_t t = 0; t < Filter::count; ++t) {
      const auto column = columns.taps[t];
      if (column.weight != T(0)) in_row += column.weight * value(row.index * stride + column.index);
    }
    sum += row.weight * in_row;
  }
  return sum;
}

// grad becomes the gradient of the unclamped result, in place of which it is stored: 0 where
// clamped.
template <class T>
__global__ void __launch_bounds__(tile_threads)
    unclamp(const T* grad, T* result, int64_t size, bool clamped) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * tile_threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * tile_threads + threadIdx.x; i < size;
       i += stride) {
    const bool passes = !clamped || (result[i] >= T(0) && result[i] <= T(1));
    result[i] = passes ? grad[i] : T(0);
  }
}

// coarse = upT(fine), plane by plane; `e` is the fine extent.
template <class T>
__global__ void __launch_bounds__(tile_threads)
    up_adjoint(const T* fine, T* coarse, int64_t planes, Extent e) {
  const Extent to = coarser(e);
  for_each_cell(planes, to, [&](int64_t plane, int64_t y, int64_t x) {
    const T* const from = fine + plane * area(e);
    const auto columns = columns_at<UpAdjoint<T>>(x, e.w);
    coarse[plane * area(to) + y * to.w + x] =
        gather<T>(y, e.h, columns, e.w, [&](int64_t at) { return from[at]; });
  });
}

// Gradients of the weights and images of one level; the coarser level is null at the top, the finer
// one at the bottom.
template <class In, class T>
struct AdjointLevel {
  const T* weights;
  const In* images;
  const T* grad;  // (N, C, h, w)
  const T* coarse_images;
  const T* coarse_weight_grad;
  const T* coarse_image_grad;
  const T* fine_weights;
  const T* fine_grad;
  T* weight_grad;
  T* image_grad;
  int64_t n, k;
  Extent extent, fine_extent;
};

template <class In, int32_t channels>
__global__ void __launch_bounds__(tile_threads) adjoint(AdjointLevel<In, Compute<In>> level) {
  using T = Compute<In>;
  const Extent e = level.extent, coarse = coarser(e), fine = level.fine_extent;
  const int64_t size = area(e), coarse_size = area(coarse), fine_size = area(fine);
  const bool top = level.coarse_images == nullptr, bottom = level.fine_weights == nullptr;
  for_each_cell(level.n * level.k, e, [&](int64_t plane, int64_t y, int64_t x) {
    const int64_t at = y * e.w + x, image = plane / level.k;
    const T weight = level.weights[plane * size + at];
    const auto up = columns_at<Up<T>>(x, e.w);
    const auto from_coarse = columns_at<DownAdjoint<T>>(x, e.w);
    const auto from_fine = columns_at<UpAdjoint<T>>(x, fine.w);
    T weight_grad = T(0);
    if (!top) {
      const T* const from = level.coarse_weight_grad + plane * coarse_size;
      weight_grad = gather<T>(y, e.h, from_coarse, coarse.w, [&](int64_t i) { return from[i]; });
    }
#pragma unroll 1
    for (int32_t c = 0; c < channels; ++c) {
      const int64_t image_plane = plane * channels + c;
      const T grad = level.grad[(image * channels + c) * size + at];
      T band = static_cast<T>(level.images[image_plane * size + at]);
      T image_grad = weight * grad;
      if (!top) {
        const T* const base = level.coarse_images + image_plane * coarse_size;
        band -= gather<T>(y, e.h, up, coarse.w, [&](int64_t i) { return base[i]; });
        const T* const from = level.coarse_image_grad + image_plane * coarse_size;
        image_grad += gather<T>(y, e.h, from_coarse, coarse.w, [&](int64_t i) { return from[i]; });
      }
      if (!bottom) {
        const T* const fine_weight = level.fine_weights + plane * fine_size;
        const T* const fine_grad = level.fine_grad + (image * channels + c) * fine_size;
        image_grad -= gather<T>(
            y, fine.h, from_fine, fine.w, [&](int64_t i) { return fine_weight[i] * fine_grad[i]; });
      }
      weight_grad += grad * band;
      level.image_grad[image_plane * size + at] = image_grad;
    }
    level.weight_grad[plane * size + at] = weight_grad;
  });
}

// ---- backward: weights ------------------------------------------------------------------------

// Through the normalisation and the factors of the weights: adds what saturation and exposedness
// give to `image_grad` and replaces `weight_grad` by the gradient of the Laplacian. A pixel reads
// and writes both at its own place only.
template <class In, int32_t channels>
__global__ void __launch_bounds__(tile_threads) weights_adjoint(const In* bracket,
                                                                const Compute<In>* weights,
                                                                Compute<In>* weight_grad,
                                                                Compute<In>* image_grad,
                                                                int64_t n,
                                                                int64_t k,
                                                                Extent e,
                                                                Parameters<Compute<In>> p) {
  using T = Compute<In>;
  const int64_t size = area(e);
  for_each_cell(n, e, [&](int64_t image, int64_t y, int64_t x) {
    const Cross at = cross_at(y, x, e);
    const auto terms = [&](int64_t plane) {
      return pixel_weight<channels>(bracket + plane * channels * size, size, at, p);
    };
    T sum = T(0), mean = T(0);
    for (int64_t plane = image * k; plane < (image + 1) * k; ++plane) {
      sum += product(terms(plane));
      mean += weights[plane * size + at.centre] * weight_grad[plane * size + at.centre];
    }
    for (int64_t plane = image * k; plane < (image + 1) * k; ++plane) {
      const auto w = terms(plane);
      T* const own = weight_grad + plane * size + at.centre;
      const T grad = (*own - mean) / sum;
      const T sign = w.laplacian > T(0) ? T(1) : w.laplacian < T(0) ? T(-1) : T(0);
      *own = grad * w.by_saturation * w.by_exposedness * math::power_slope(w.contrast, p.contrast) *
             math::contrast_unit(channels, p) * sign;
      const T of_distance = grad * w.by_contrast * w.by_saturation * w.by_exposedness * falloff(p);
      T of_saturation = T(0);
      if constexpr (channels == 3) {
        of_saturation =
            grad * w.by_contrast * w.by_exposedness * math::power_slope(w.saturation, p.saturation);
      }
#pragma unroll
      for (int32_t c = 0; c < channels; ++c) {
        T part = of_distance * T(2) * (w.x[c] - T(0.5));
        if constexpr (channels == 3) {
          part += of_saturation *
                  math::colourfulness_slope(
                      w.x[c], w.x[(c + 1) % 3], w.x[(c + 2) % 3], w.saturation, p.opencv);
        }
        image_grad[(plane * channels + c) * size + at.centre] += part;
      }
    }
  });
}

// How often the sample `from` reads the sample `to` as its neighbour along an axis.
HDROPS_HD int32_t neighbour_reads(int64_t from, int64_t to, int64_t size) {
  if (from < 0 || from >= size) return 0;
  return (mirror_near(from - 1, size) == to) + (mirror_near(from + 1, size) == to);
}

// The adjoint of the Laplacian at a pixel.
template <class T>
HDROPS_HD T laplacian_adjoint(const T* grad, int64_t y, int64_t x, Extent e) {
  const int64_t at = y * e.w + x;
  T sum = T(-4) * grad[at];
#pragma unroll
  for (int32_t step = -1; step <= 1; ++step) {
    const int32_t in_column = neighbour_reads(y + step, y, e.h),
                  in_row = neighbour_reads(x + step, x, e.w);
    if (in_column != 0) sum += static_cast<T>(in_column) * grad[at + step * e.w];
    if (in_row != 0) sum += static_cast<T>(in_row) * grad[at + step];
  }
  return sum;
}

// out = image_grad + the share of each channel in grey() times the adjoint of the Laplacian.
template <class Out, int32_t channels>
__global__ void __launch_bounds__(tile_threads) contrast_adjoint(const Compute<Out>* laplacian_grad,
                                                                 const Compute<Out>* image_grad,
                                                                 Out* out,
                                                                 int64_t planes,
                                                                 Extent e,
                                                                 bool opencv) {
  using T = Compute<Out>;
  const int64_t size = area(e);
  for_each_cell(planes, e, [&](int64_t plane, int64_t y, int64_t x) {
    const T grey_grad = laplacian_adjoint(laplacian_grad + plane * size, y, x, e);
    const T share[3] = {channels == 1 ? T(1)
                        : opencv      ? T(0.299)
                                      : T(299),
                        opencv ? T(0.587) : T(587),
                        opencv ? T(0.114) : T(114)};
    for (int32_t c = 0; c < channels; ++c) {
      const int64_t at = (plane * channels + c) * size + y * e.w + x;
      out[at] = static_cast<Out>(image_grad[at] + share[c] * grey_grad);
    }
  });
}

// ---- the operator -----------------------------------------------------------------------------

// Scratch of one level. The finest has no images (the bracket) and, in the forward, no result (the
// output).
template <class T>
struct Level {
  Extent extent;
  T* weights;
  T* images;
  T* result;
  T* grad;
  T* weight_grad;
  T* image_grad;
};

// All levels, finest first, in one allocation.
template <class T>
struct Pyramid {
  std::vector<Level<T>> levels;
  Tensor storage;
};

template <class T>
Pyramid<T> allocate_pyramid(const FusionProblem& p, bool backward, const Tensor& like) {
  const int32_t depth = math::pyramid_depth(p.h, p.w);
  std::vector<Level<T>> levels(static_cast<size_t>(depth) + 1);
  // Laid out twice: to count, then to place.
  const auto lay_out = [&](T* base) {
    int64_t used = 0;
    const auto take = [&](bool wanted, int64_t count) -> T* {
      if (!wanted) return nullptr;
      T* const begin = base == nullptr ? nullptr : base + used;
      used += count;
      return begin;
    };
    Extent e{p.h, p.w};
    for (Level<T>& level : levels) {
      const bool finest = &level == levels.data();
      const int64_t weights = p.n * p.k * area(e), images = weights * p.c,
                    result = p.n * p.c * area(e);
      level.extent = e;
      level.weights = take(true, weights);
      level.images = take(!finest, images);
      level.result = take(!finest || backward, result);
      level.grad = take(backward && !finest, result);
      if (backward && finest) level.grad = level.result;
      level.weight_grad = take(backward, weights);
      level.image_grad = take(backward, images);
      e = coarser(e);
    }
    return used;
  };
  constexpr auto dtype = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  const Tensor storage = allocate({lay_out(nullptr)}, dtype, like);
  lay_out(storage.mutable_data_ptr<T>());
  return {std::move(levels), storage};
}

template <class In>
Parameters<Compute<In>> fusion_parameters(const FusionProblem& p) {
  using T = Compute<In>;
  return {static_cast<T>(p.contrast),
          static_cast<T>(p.saturation),
          static_cast<T>(p.exposedness),
          p.opencv,
          static_cast<T>(1.0 / full_scale<In>)};
}

template <class In, int32_t channels>
void build(const Launcher& launch,
           const FusionProblem& p,
           const In* bracket,
           const Pyramid<Compute<In>>& pyramid) {
  using T = Compute<In>;
  const auto& levels = pyramid.levels;
  const auto parameters = fusion_parameters<In>(p);
  const int64_t planes = p.n * p.k;
  const Extent finest = levels[0].extent;
  launch(&weigh<In, channels>,
         tiles(p.n, finest),
         tile_threads,
         0,
         bracket,
         levels[0].weights,
         p.n,
         p.k,
         finest,
         parameters);
  for (size_t l = 0; l + 1 < levels.size(); ++l) {
    const auto from = [&](auto* kernel, auto* images, T unit) {
      const Extent e = levels[l].extent, to = coarser(e);
      launch(kernel,
             tiles(planes * (1 + channels), {ceil_div(to.h, strip), to.w}),
             tile_threads,
             0,
             levels[l].weights,
             images,
             unit,
             levels[l + 1].weights,
             levels[l + 1].images,
             planes,
             planes * channels,
             e);
    };
    if (l == 0)
      from(&down<In, T>, bracket, parameters.unit);
    else
      from(&down<T, T>, levels[l].images, T(1));
  }
}

template <class In, class Out, int32_t channels>
void blend(const Launcher& launch,
           const FusionProblem& p,
           const In* bracket,
           const Pyramid<Compute<In>>& pyramid,
           Out* out,
           bool clamp) {
  using T = Compute<In>;
  const auto& levels = pyramid.levels;
  for (size_t l = levels.size(); l-- > 0;) {
    const bool top = l + 1 == levels.size();
    const auto to = [&](auto* kernel, auto* images, T unit, auto* result, bool clamped) {
      using Image = std::remove_cv_t<std::remove_pointer_t<decltype(images)>>;
      const BlendLevel<Image, T> level{levels[l].weights,
                                       images,
                                       top ? nullptr : levels[l + 1].images,
                                       top ? nullptr : levels[l + 1].result,
                                       unit,
                                       p.n,
                                       p.k,
                                       levels[l].extent};
      launch(kernel, tiles(p.n, coarser(level.extent)), tile_threads, 0, level, result, clamped);
    };
    if (l == 0)
      to(&collapse<In, Out, channels>, bracket, fusion_parameters<In>(p).unit, out, clamp);
    else
      to(&collapse<T, T, channels>, levels[l].images, T(1), levels[l].result, false);
  }
}

template <class In, class Out, int32_t channels>
void forward(const Launcher& launch,
             const FusionProblem& p,
             const Tensor& bracket,
             const Tensor& out) {
  const auto* images = static_cast<const In*>(bracket.const_data_ptr());
  const auto pyramid = allocate_pyramid<Compute<In>>(p, false, bracket);
  build<In, channels>(launch, p, images, pyramid);
  blend<In, Out, channels>(
      launch, p, images, pyramid, static_cast<Out*>(out.mutable_data_ptr()), !p.opencv);
}

template <class In, int32_t channels>
void backward(const Launcher& launch,
              const FusionProblem& p,
              const Tensor& grad,
              const Tensor& bracket,
              const Tensor& out) {
  using T = Compute<In>;
  const auto* images = static_cast<const In*>(bracket.const_data_ptr());
  const auto pyramid = allocate_pyramid<T>(p, true, bracket);
  const auto& levels = pyramid.levels;
  const Extent finest = levels[0].extent;
  build<In, channels>(launch, p, images, pyramid);
  // Only the clamp asks for the result.
  if (!p.opencv) blend<In, T, channels>(launch, p, images, pyramid, levels[0].result, false);
  const int64_t values = p.n * channels * area(finest);
  launch(&unclamp<T>,
         ceil_div(values, tile_threads),
         tile_threads,
         0,
         grad.const_data_ptr<T>(),
         levels[0].grad,
         values,
         !p.opencv);
  for (size_t l = 0; l + 1 < levels.size(); ++l) {
    const Extent e = levels[l].extent;
    launch(&up_adjoint<T>,
           tiles(p.n * channels, coarser(e)),
           tile_threads,
           0,
           levels[l].grad,
           levels[l + 1].grad,
           p.n * channels,
           e);
  }
  for (size_t l = levels.size(); l-- > 0;) {
    const bool top = l + 1 == levels.size(), bottom = l == 0;
    const auto at = [&](auto* kernel, auto* level_images) {
      using Image = std::remove_cv_t<std::remove_pointer_t<decltype(level_images)>>;
      const AdjointLevel<Image, T> level{levels[l].weights,
                                         level_images,
                                         levels[l].grad,
                                         top ? nullptr : levels[l + 1].images,
                                         top ? nullptr : levels[l + 1].weight_grad,
                                         top ? nullptr : levels[l + 1].image_grad,
                                         bottom ? nullptr : levels[l - 1].weights,
                                         bottom ? nullptr : levels[l - 1].grad,
                                         levels[l].weight_grad,
                                         levels[l].image_grad,
                                         p.n,
                                         p.k,
                                         levels[l].extent,
                                         levels[bottom ? l : l - 1].extent};
      launch(kernel, tiles(p.n * p.k, level.extent), tile_threads, 0, level);
    };
    if (bottom)
      at(&adjoint<In, channels>, images);
    else
      at(&adjoint<T, channels>, levels[l].images);
  }
  launch(&weights_adjoint<In, channels>,
         tiles(p.n, finest),
         tile_threads,
         0,
         images,
         levels[0].weights,
         levels[0].weight_grad,
         levels[0].image_grad,
         p.n,
         p.k,
         finest,
         fusion_parameters<In>(p));
  launch(&contrast_adjoint<In, channels>,
         tiles(p.n * p.k, finest),
         tile_threads,
         0,
         levels[0].weight_grad,
         levels[0].image_grad,
         static_cast<In*>(out.mutable_data_ptr()),
         p.n * p.k,
         finest,
         p.opencv);
}

void fuse_into(const Launcher& launch,
               const FusionProblem& p,
               const Tensor& bracket_in,
               const Tensor& out) {
  const Tensor bracket = torch::stable::contiguous(bracket_in);
  if (bracket.numel() == 0) return;
  const bool to_float = out.scalar_type() == ScalarType::Float;
  with_image_type(bracket.scalar_type(), [&](auto tag) {
    using In = typename decltype(tag)::type;
    const auto run = [&](auto out_tag) {
      using Out = typename decltype(out_tag)::type;
      if (p.c == 3)
        forward<In, Out, 3>(launch, p, bracket, out);
      else
        forward<In, Out, 1>(launch, p, bracket, out);
    };
    if constexpr (is_code_storage<In>) {
      if (to_float) return run(Tag<float>{});
    }
    run(tag);
  });
}

Tensor exposure_fusion(const Tensor& bracket,
                       double contrast,
                       double saturation,
                       double exposedness,
                       bool opencv,
                       std::optional<ScalarType> dtype) {
  const FusionProblem p = check_fusion(bracket, contrast, saturation, exposedness, opencv);
  const ScalarType wanted = check_output_dtype("exposure_fusion", bracket.scalar_type(), dtype);
  const Launcher launch(bracket);
  const Tensor out = allocate({p.n, p.c, p.h, p.w}, wanted, bracket);
  fuse_into(launch, p, bracket, out);
  return out;
}

void exposure_fusion_out(const Tensor& bracket,
                         double contrast,
                         double saturation,
                         double exposedness,
                         bool opencv,
                         Tensor out) {
  const FusionProblem p = check_fusion(bracket, contrast, saturation, exposedness, opencv);
  check_out("exposure_fusion", out, {p.n, p.c, p.h, p.w}, bracket);
  check_output_dtype("exposure_fusion", bracket.scalar_type(), out.scalar_type());
  const Launcher launch(bracket);
  fuse_into(launch, p, bracket, out);
}

Tensor exposure_fusion_backward(const Tensor& grad_in,
                                const Tensor& bracket_in,
                                double contrast,
                                double saturation,
                                double exposedness,
                                bool opencv) {
  const FusionProblem p = check_fusion(bracket_in, contrast, saturation, exposedness, opencv);
  const ScalarType compute = check_fusion_grad(p, grad_in, bracket_in);
  const Launcher launch(bracket_in);
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, compute));
  const Tensor bracket = torch::stable::contiguous(bracket_in);
  const Tensor out = allocate(shape_of(bracket), bracket.scalar_type(), bracket);
  if (bracket.numel() == 0) return out;
  with_image_type(bracket.scalar_type(), [&](auto tag) {
    using In = typename decltype(tag)::type;
    if constexpr (!is_code_storage<In>) {
      if (p.c == 3)
        backward<In, 3>(launch, p, grad, bracket, out);
      else
        backward<In, 1>(launch, p, grad, bracket, out);
    }
  });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) {
  m.impl("exposure_fusion", TORCH_BOX(&hdrops::exposure_fusion));
  m.impl("exposure_fusion_out", TORCH_BOX(&hdrops::exposure_fusion_out));
  m.impl("exposure_fusion_backward", TORCH_BOX(&hdrops::exposure_fusion_backward));
}
