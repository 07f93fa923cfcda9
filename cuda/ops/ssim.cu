// ssim on CUDA: means of the structural similarity of two images (N, C, H, W) on every level.
//
// One launch per level reads both images and gives two sums per tile; nothing else of the size of an
// image is written. A block of threads filters the rows that its tile reaches, a few at a time, along
// themselves into shared memory, and adds them into the positions of its tile: any window fits.
// Values are relative to a pixel of the tile, so that bright flat areas keep their variance. Tiles
// are added in a fixed order.
//
// The backward writes four maps per level, the derivatives with respect to the moments at each
// position, and filters them by the adjoint of the window in the same way, with the weights that
// pixels have beyond the border too: a gather, so the same input gives the same bits. The pyramid is
// built again.

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <type_traits>
#include <vector>

#include "hdrops/launch.cuh"
#include "hdrops/reduce.cuh"
#include "hdrops/ssim_checks.h"
#include "hdrops/storage.cuh"
#include "hdrops/window.cuh"

namespace hdrops {
namespace {

constexpr int32_t lanes = 32, warps = 8, threads = lanes * warps;
constexpr int32_t maps = 4;
// A tile has 32 columns and 32 rows, four of which belong to each thread.
constexpr int32_t tile_rows = 32, own_rows = tile_rows / warps;

struct Extent {
  int64_t h, w;
};

HDROPS_HD int64_t area(Extent e) { return e.h * e.w; }
HDROPS_HD int64_t tiles(Extent e) { return ceil_div(e.h, tile_rows) * ceil_div(e.w, lanes); }

// One level: images of `size`, positions of the window in `positions`, and the middle of the first
// of them.
struct Level {
  Extent size, positions;
  int64_t middle;
  math::Border border;
};

Level level_of(const SsimProblem& p, Extent size) {
  return {size,
          {p.positions(size.h), p.positions(size.w)},
          p.border == math::Border::valid ? p.radius() : 0,
          p.border};
}

struct Tile {
  int64_t plane, top, left;
};

HDROPS_HD Tile tile_at(int64_t unit, Extent e) {
  const int64_t across = ceil_div(e.w, lanes), per_plane = tiles(e);
  const int64_t tile = unit % per_plane;
  return {unit / per_plane, tile / across * tile_rows, tile % across * lanes};
}

template <class T>
struct Four {
  T item[maps];
};

// The rows of a block, filtered along themselves.
template <class T>
struct Rows {
  Four<T> item[warps][lanes];
};

// For each of the rows begin to end - 1, line(row) gives four values of every column of the tile;
// into sum go those of all rows, times weight(u, row) for the u-th row of the thread.
template <class T, class Line, class Weight>
__device__ void add_rows(int64_t begin,
                         int64_t end,
                         Rows<T>& shared,
                         const Line& line,
                         const Weight& weight,
                         Four<T> (&sum)[own_rows]) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % lanes;
  const auto warp = static_cast<int32_t>(threadIdx.x) / lanes;
  for (int64_t first = begin; first < end; first += warps) {
    if (first + warp < end) shared.item[warp][lane] = line(first + warp);
    __syncthreads();
    const int64_t count = end - first < warps ? end - first : warps;
    for (int64_t i = 0; i < count; ++i) {
      const Four<T> value = shared.item[i][lane];
#pragma unroll
      for (int32_t u = 0; u < own_rows; ++u) {
        const T by = weight(u, first + i);
#pragma unroll
        for (int32_t m = 0; m < maps; ++m) sum[u].item[m] += by * value.item[m];
      }
    }
    __syncthreads();
  }
}

// Moments of the sum and the difference of two images, and what the images were relative to.
template <class T>
struct TileMoments {
  math::SsimMoments<T> item[own_rows];
  T pivot_x, pivot_y;
};

// At the positions of a tile; x and y point to planes.
template <class In>
__device__ TileMoments<Compute<In>> moments(const In* x,
                                            const In* y,
                                            const Level& level,
                                            const Tile& tile,
                                            const Window<Compute<In>>& window,
                                            Compute<In> covariance,
                                            Rows<Compute<In>>& shared) {
  using T = Compute<In>;
  const Extent e = level.size;
  const auto lane = static_cast<int32_t>(threadIdx.x) % lanes;
  const auto warp = static_cast<int32_t>(threadIdx.x) / lanes;
  TileMoments<T> result{};
  const int64_t near_row = tile.top + tile_rows / 2, near_column = tile.left + lanes / 2;
  const int64_t near =
      (near_row < e.h ? near_row : e.h - 1) * e.w + (near_column < e.w ? near_column : e.w - 1);
  result.pivot_x = static_cast<T>(x[near]);
  result.pivot_y = static_cast<T>(y[near]);
  const int64_t radius = window.radius;
  const int64_t position = tile.left + lane, column = position + level.middle;
  const auto line = [&](int64_t row) {
    Four<T> sum{};
    const int64_t pixel_row = math::border_index(row, e.h, level.border);
    if (position >= level.positions.w) return sum;
    for (int64_t t = -radius; t <= radius; ++t) {
      const int64_t pixel_column = math::border_index(column + t, e.w, level.border);
      // Zeros beyond the border are relative to the pivot too.
      T value_x = -result.pivot_x, value_y = -result.pivot_y;
      if (pixel_row >= 0 && pixel_column >= 0) {
        const int64_t at = pixel_row * e.w + pixel_column;
        value_x += static_cast<T>(x[at]);
        value_y += static_cast<T>(y[at]);
      }
      const T s = value_x + value_y, d = value_x - value_y, weight = tap_at(window, t);
      sum.item[0] += weight * s;
      sum.item[1] += weight * d;
      sum.item[2] += weight * s * s;
      sum.item[3] += weight * d * d;
    }
    return sum;
  };
  const int64_t first = tile.top + level.middle + warp * own_rows;
  Four<T> sum[own_rows] = {};
  const int64_t last =
      tile.top + tile_rows < level.positions.h ? tile.top + tile_rows : level.positions.h;
  add_rows(
      tile.top + level.middle - radius,
      last + level.middle + radius,
      shared,
      line,
      [&](int32_t u, int64_t row) { return tap_at(window, row - first - u); },
      sum);
#pragma unroll
  for (int32_t u = 0; u < own_rows; ++u) {
    const T mean_s = sum[u].item[0], mean_d = sum[u].item[1];
    result.item[u] = {mean_s,
                      mean_d,
                      math::ssim_variance(sum[u].item[2], mean_s, covariance),
                      math::ssim_variance(sum[u].item[3], mean_d, covariance)};
  }
  return result;
}

// With means that are not relative to anything.
template <class T>
__device__ math::SsimMoments<T> absolute(const TileMoments<T>& all, int32_t u) {
  math::SsimMoments<T> m = all.item[u];
  m.mean_s += all.pivot_x + all.pivot_y;
  m.mean_d += all.pivot_x - all.pivot_y;
  return m;
}

// ---- means ------------------------------------------------------------------------------------

// Sums over positions, or their means: of l cs, and of cs.
struct Means {
  double both, structure;
};

HDROPS_HD Means operator+(const Means& a, const Means& b) {
  return {a.both + b.both, a.structure + b.structure};
}

template <class In>
__global__ void __launch_bounds__(threads) sum_tiles(const In* x,
                                                     const In* y,
                                                     int64_t planes,
                                                     Level level,
                                                     Window<Compute<In>> window,
                                                     math::SsimConstants<Compute<In>> constants,
                                                     Means* sums) {
  using T = Compute<In>;
  __shared__ Rows<T> rows;
  __shared__ Means shared[threads];
  const auto lane = static_cast<int32_t>(threadIdx.x) % lanes;
  const auto warp = static_cast<int32_t>(threadIdx.x) / lanes;
  const int64_t units = planes * tiles(level.positions);
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const Tile tile = tile_at(unit, level.positions);
    const int64_t base = tile.plane * area(level.size);
    const TileMoments<T> all =
        moments(x + base, y + base, level, tile, window, constants.covariance, rows);
    T both = T(0), structure = T(0);
#pragma unroll
    for (int32_t u = 0; u < own_rows; ++u) {
      const bool inside = tile.top + warp * own_rows + u < level.positions.h &&
                          tile.left + lane < level.positions.w;
      const math::SsimFactors<T> factors = math::ssim_factors(absolute(all, u), constants);
      both += inside ? factors.luminance * factors.structure : T(0);
      structure += inside ? factors.structure : T(0);
    }
    const Means sum = block_reduce<threads>(
        Means{both, structure}, shared, [](const Means& a, const Means& b) { return a + b; });
    if (threadIdx.x == 0) sums[unit] = sum;
  }
}

// out (planes, levels, 2) at one level, from the sums of the tiles of every plane.
template <class T>
__global__ void __launch_bounds__(threads) mean_planes(const Means* sums,
                                                       T* out,
                                                       int64_t planes,
                                                       int64_t per_plane,
                                                       double positions,
                                                       int64_t level,
                                                       int64_t levels) {
  __shared__ Means shared[threads];
  for (int64_t plane = blockIdx.x; plane < planes; plane += gridDim.x) {
    Means sum{};
    for (int64_t i = threadIdx.x; i < per_plane; i += threads)
      sum = sum + sums[plane * per_plane + i];
    sum = block_reduce<threads>(sum, shared, [](const Means& a, const Means& b) { return a + b; });
    if (threadIdx.x == 0) {
      T* const to = out + (plane * levels + level) * 2;
      to[0] = static_cast<T>(sum.both / positions);
      to[1] = static_cast<T>(sum.structure / positions);
    }
  }
}

// ---- the pyramid ------------------------------------------------------------------------------

HDROPS_HD Extent halved(Extent e) { return {math::halved_size(e.h), math::halved_size(e.w)}; }

// Means of 2 x 2 pixels of planes of `e`, in the units of the image.
template <class In>
__global__ void __launch_bounds__(threads)
    halve(const In* fine, Compute<In>* coarse, int64_t planes, Extent e, bool zero_padded) {
  using T = Compute<In>;
  const Extent to = halved(e);
  const int64_t first = int64_t{blockIdx.x} * threads + threadIdx.x;
  for (int64_t i = first; i < planes * area(to); i += int64_t{gridDim.x} * threads) {
    const int64_t row = i / to.w;
    const int64_t y = math::halved_line(row % to.h, e.h, zero_padded);
    const int64_t x = math::halved_line(i % to.w, e.w, zero_padded);
    const In* const plane = fine + row / to.h * area(e);
    T sum = T(0);
    for (int32_t k = 0; k < 4; ++k) {
      int64_t at_y = y + k / 2, at_x = x + k % 2;
      if (!zero_padded) {
        at_y = at_y < e.h ? at_y : e.h - 1;
        at_x = at_x < e.w ? at_x : e.w - 1;
      }
      if (at_y >= 0 && at_y < e.h && at_x >= 0 && at_x < e.w)
        sum += static_cast<T>(plane[at_y * e.w + at_x]);
    }
    coarse[i] = sum * T(0.25);
  }
}

// ---- backward ---------------------------------------------------------------------------------

// The gradient of the sum s of both images at a pixel is the sum, over the windows that hold it, of
// weight (a_s + b_s s), s being relative to the middle of its plane; that of d likewise. Writes a_s,
// b_s, a_d and b_d of each position.
template <class S>
__global__ void __launch_bounds__(threads) slopes(const Compute<S>* grad,
                                                  const S* x,
                                                  const S* y,
                                                  int64_t planes,
                                                  Level level,
                                                  Window<Compute<S>> window,
                                                  math::SsimConstants<Compute<S>> constants,
                                                  int64_t number,
                                                  int64_t levels,
                                                  Four<Compute<S>>* out) {
  using T = Compute<S>;
  __shared__ Rows<T> rows;
  const auto lane = static_cast<int32_t>(threadIdx.x) % lanes;
  const auto warp = static_cast<int32_t>(threadIdx.x) / lanes;
  const Extent e = level.size;
  const int64_t units = planes * tiles(level.positions);
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const Tile tile = tile_at(unit, level.positions);
    const S* const plane_x = x + tile.plane * area(e);
    const S* const plane_y = y + tile.plane * area(e);
    const TileMoments<T> all =
        moments(plane_x, plane_y, level, tile, window, constants.covariance, rows);
    const int64_t centre = e.h / 2 * e.w + e.w / 2;
    const T shift_x = all.pivot_x - static_cast<T>(plane_x[centre]);
    const T shift_y = all.pivot_y - static_cast<T>(plane_y[centre]);
    const T scale = T(1) / static_cast<T>(area(level.positions));
    const Compute<S>* const upstream = grad + (tile.plane * levels + number) * 2;
#pragma unroll
    for (int32_t u = 0; u < own_rows; ++u) {
      const int64_t row = tile.top + warp * own_rows + u, column = tile.left + lane;
      if (row >= level.positions.h || column >= level.positions.w) continue;
      const math::SsimMoments<T> by =
          math::ssim_slopes(absolute(all, u), constants, upstream[0] * scale, upstream[1] * scale);
      // The variance of s is covariance (E[s²] - E[s]²).
      const T b_s = T(2) * constants.covariance * by.var_s;
      const T b_d = T(2) * constants.covariance * by.var_d;
      out[tile.plane * area(level.positions) + row * level.positions.w + column] = {
          by.mean_s - b_s * (all.item[u].mean_s + (shift_x + shift_y)),
          b_s,
          by.mean_d - b_d * (all.item[u].mean_d + (shift_x - shift_y)),
          b_d};
    }
  }
}

// Gradients of the images of a level: through its own means, from `slopes`, and through the coarser
// level, where there is one. Null where not wanted.
template <class S>
struct Gradients {
  const Compute<S>* coarse_x;
  const Compute<S>* coarse_y;
  S* x;
  S* y;
};

template <class S>
__global__ void __launch_bounds__(threads) pixel_gradients(const S* x,
                                                           const S* y,
                                                           const Four<Compute<S>>* slopes,
                                                           int64_t planes,
                                                           Level level,
                                                           Window<Compute<S>> window,
                                                           bool zero_padded,
                                                           Gradients<S> grads) {
  using T = Compute<S>;
  __shared__ Rows<T> rows;
  const auto lane = static_cast<int32_t>(threadIdx.x) % lanes;
  const auto warp = static_cast<int32_t>(threadIdx.x) / lanes;
  const Extent e = level.size, positions = level.positions;
  const int64_t radius = window.radius, units = planes * tiles(e);
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const Tile tile = tile_at(unit, e);
    const Four<T>* const from = slopes + tile.plane * area(positions);
    // Whether windows of the tile reach beyond the border.
    const bool folded = level.border != math::Border::valid && level.border != math::Border::zeros;
    const bool near_rows = folded && (tile.top <= radius || tile.top + tile_rows + radius >= e.h);
    const bool near_columns = folded && (tile.left <= radius || tile.left + lanes + radius >= e.w);
    const int64_t column = tile.left + lane;
    const auto line = [&](int64_t row) {
      Four<T> sum{};
      if (column >= e.w) return sum;
      for (int64_t t = -radius; t <= radius; ++t) {
        const int64_t position = column + t - level.middle;
        if (position < 0 || position >= positions.w) continue;
        T weight = tap_at(window, t);
        if (near_columns) weight += weight_beyond(window, level.border, column, column + t, e.w);
        const Four<T> value = from[row * positions.w + position];
#pragma unroll
        for (int32_t m = 0; m < maps; ++m) sum.item[m] += weight * value.item[m];
      }
      return sum;
    };
    const int64_t first = tile.top + warp * own_rows;
    Four<T> sum[own_rows] = {};
    const int64_t begin = tile.top - radius - level.middle;
    const int64_t end = tile.top + tile_rows + radius - level.middle;
    add_rows(
        begin > 0 ? begin : 0,
        end < positions.h ? end : positions.h,
        rows,
        line,
        [&](int32_t u, int64_t row) {
          const int64_t middle = row + level.middle;
          T weight = tap_at(window, middle - first - u);
          if (near_rows && first + u < e.h)
            weight += weight_beyond(window, level.border, first + u, middle, e.h);
          return weight;
        },
        sum);

    const S* const plane_x = x + tile.plane * area(e);
    const S* const plane_y = y + tile.plane * area(e);
    const int64_t centre = e.h / 2 * e.w + e.w / 2;
    const Extent coarse = halved(e);
#pragma unroll
    for (int32_t u = 0; u < own_rows; ++u) {
      const int64_t row = first + u;
      if (row >= e.h || column >= e.w) continue;
      const int64_t at = row * e.w + column;
      const T value_x = static_cast<T>(plane_x[at]) - static_cast<T>(plane_x[centre]);
      const T value_y = static_cast<T>(plane_y[at]) - static_cast<T>(plane_y[centre]);
      const T by_s = sum[u].item[0] + (value_x + value_y) * sum[u].item[1];
      const T by_d = sum[u].item[2] + (value_x - value_y) * sum[u].item[3];
      const int64_t above = tile.plane * area(coarse) +
                            math::coarser_line(row, e.h, zero_padded) * coarse.w +
                            math::coarser_line(column, e.w, zero_padded);
      const T share = T(0.25) * static_cast<T>(math::times_halved(row, e.h, zero_padded) *
                                               math::times_halved(column, e.w, zero_padded));
      const int64_t to = tile.plane * area(e) + at;
      if (grads.x != nullptr) {
        const T coarser = grads.coarse_x != nullptr ? share * grads.coarse_x[above] : T(0);
        grads.x[to] = to_storage<S>(by_s + by_d + coarser);
      }
      if (grads.y != nullptr) {
        const T coarser = grads.coarse_y != nullptr ? share * grads.coarse_y[above] : T(0);
        grads.y[to] = to_storage<S>(by_s - by_d + coarser);
      }
    }
  }
}

// ---- launches ---------------------------------------------------------------------------------

// Both images and their coarser levels, which are of the arithmetic type.
struct Pyramid {
  std::vector<Tensor> x, y;
  std::vector<Extent> sizes;
};

Pyramid build(const Launcher& launch, const SsimProblem& p, const Tensor& x, const Tensor& y) {
  Pyramid pyramid{{x}, {y}, {{p.h, p.w}}};
  for (int64_t level = 1; level < p.levels; ++level) {
    const Extent e = pyramid.sizes.back(), to = halved(e);
    for (std::vector<Tensor>* const images : {&pyramid.x, &pyramid.y}) {
      const Tensor& fine = images->back();
      const Tensor coarse =
          allocate({p.n, p.c, to.h, to.w}, compute_dtype(fine.scalar_type()), fine);
      with_image_type(fine.scalar_type(), [&](auto tag) {
        using In = typename decltype(tag)::type;
        launch(&halve<In>,
               ceil_div(coarse.numel(), threads),
               threads,
               0,
               const_data_of<In>(fine),
               data_of<Compute<In>>(coarse),
               p.n * p.c,
               e,
               p.zero_padded);
      });
      images->push_back(coarse);
    }
    pyramid.sizes.push_back(to);
  }
  return pyramid;
}

// The taps at distances 0 to radius.
std::vector<double> half_window(const SsimProblem& p) {
  return {p.window.begin() + static_cast<std::ptrdiff_t>(p.radius()), p.window.end()};
}

Tensor ssim_means(const Tensor& x,
                  const Tensor& y,
                  std::vector<double> window,
                  double c1,
                  double c2,
                  double covariance,
                  int64_t border,
                  int64_t levels,
                  bool zero_padded) {
  const SsimProblem p =
      check_ssim("ssim_means", x, y, window, c1, c2, covariance, border, levels, zero_padded);
  const Launcher launch(x);
  const int64_t planes = p.n * p.c;
  const Tensor out = allocate({p.n, p.c, levels, 2}, compute_dtype(x.scalar_type()), x);
  if (planes == 0) return out;
  const Pyramid pyramid =
      build(launch, p, torch::stable::contiguous(x), torch::stable::contiguous(y));
  with_image_type(x.scalar_type(), [&](auto image) {
    using T = Compute<typename decltype(image)::type>;
    // All levels keep the units of the images.
    const auto constants =
        math::ssim_constants<T>(c1, c2, covariance, full_scale<typename decltype(image)::type>);
    const DeviceWindow<T> taps(launch, half_window(p), x);
    for (int64_t i = 0; i < levels; ++i) {
      const Level level = level_of(p, pyramid.sizes[i]);
      const int64_t per_plane = tiles(level.positions);
      const Tensor sums =
          allocate({planes * per_plane, sizeof(Means) / sizeof(double)}, ScalarType::Double, x);
      with_image_type(pyramid.x[i].scalar_type(), [&](auto tag) {
        using In = typename decltype(tag)::type;
        if constexpr (std::is_same_v<Compute<In>, T>) {
          launch(&sum_tiles<In>,
                 planes * per_plane,
                 threads,
                 0,
                 const_data_of<In>(pyramid.x[i]),
                 const_data_of<In>(pyramid.y[i]),
                 planes,
                 level,
                 taps.view(),
                 constants,
                 data_of<Means>(sums));
        }
      });
      launch(&mean_planes<T>,
             planes,
             threads,
             0,
             const_data_of<Means>(sums),
             data_of<T>(out),
             planes,
             per_plane,
             static_cast<double>(area(level.positions)),
             i,
             levels);
    }
  });
  return out;
}

std::tuple<Tensor, Tensor> ssim_means_backward(const Tensor& grad_in,
                                               const Tensor& x,
                                               const Tensor& y,
                                               std::vector<double> window,
                                               double c1,
                                               double c2,
                                               double covariance,
                                               int64_t border,
                                               int64_t levels,
                                               bool zero_padded,
                                               bool wants_x,
                                               bool wants_y) {
  const SsimProblem p = check_ssim(
      "ssim_means_backward", x, y, window, c1, c2, covariance, border, levels, zero_padded);
  check_ssim_grad(p, grad_in, x);
  const Launcher launch(x);
  const ScalarType dtype = compute_dtype(x.scalar_type());
  const std::vector<int64_t> none{0};
  const Tensor out_x = allocate(wants_x ? shape_of(x) : none, x.scalar_type(), x);
  const Tensor out_y = allocate(wants_y ? shape_of(x) : none, x.scalar_type(), x);
  const int64_t planes = p.n * p.c;
  if (planes == 0 || !(wants_x || wants_y)) return {out_x, out_y};
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  const Pyramid pyramid =
      build(launch, p, torch::stable::contiguous(x), torch::stable::contiguous(y));
  with_image_type(x.scalar_type(), [&](auto image) {
    using T = Compute<typename decltype(image)::type>;
    const auto constants = math::ssim_constants<T>(c1, c2, covariance, 1.0);
    const DeviceWindow<T> taps(launch, half_window(p), x);
    Tensor coarse_x, coarse_y;
    for (int64_t i = levels - 1; i >= 0; --i) {
      const Level level = level_of(p, pyramid.sizes[i]);
      const Tensor& level_x = pyramid.x[i];
      const Tensor& level_y = pyramid.y[i];
      const Tensor factors = allocate({planes * area(level.positions), maps}, dtype, x);
      const auto gradient_of = [&](const Tensor& out, bool wanted) {
        return i == 0 ? out : allocate(wanted ? shape_of(level_x) : none, dtype, x);
      };
      const Tensor grad_x = gradient_of(out_x, wants_x), grad_y = gradient_of(out_y, wants_y);
      const bool coarsest = i == levels - 1;
      with_image_type(level_x.scalar_type(), [&](auto tag) {
        using S = typename decltype(tag)::type;
        if constexpr (!is_code_storage<S> && std::is_same_v<Compute<S>, T>) {
          launch(&slopes<S>,
                 planes * tiles(level.positions),
                 threads,
                 0,
                 const_data_of<T>(grad),
                 const_data_of<S>(level_x),
                 const_data_of<S>(level_y),
                 planes,
                 level,
                 taps.view(),
                 constants,
                 i,
                 levels,
                 data_of<Four<T>>(factors));
          const Gradients<S> grads{coarsest || !wants_x ? nullptr : const_data_of<T>(coarse_x),
                                   coarsest || !wants_y ? nullptr : const_data_of<T>(coarse_y),
                                   wants_x ? data_of<S>(grad_x) : nullptr,
                                   wants_y ? data_of<S>(grad_y) : nullptr};
          launch(&pixel_gradients<S>,
                 planes * tiles(level.size),
                 threads,
                 0,
                 const_data_of<S>(level_x),
                 const_data_of<S>(level_y),
                 const_data_of<Four<T>>(factors),
                 planes,
                 level,
                 taps.view(),
                 p.zero_padded,
                 grads);
        }
      });
      coarse_x = grad_x;
      coarse_y = grad_y;
    }
  });
  return {out_x, out_y};
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) {
  m.impl("ssim_means", TORCH_BOX(&hdrops::ssim_means));
  m.impl("ssim_means_backward", TORCH_BOX(&hdrops::ssim_means_backward));
}
