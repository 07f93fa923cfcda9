// mef_ssim on CUDA. A block takes a square of positions, about the means of its own images. Windows
// are separable: a pair of images is staged in shared memory, filtered along its rows there, and
// down the columns by the threads that hold the positions. The pairs of sources are formed twice,
// before and after the weights are known, so that what a position keeps grows with the number of
// sources, not of pairs.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "hdrops/launch.cuh"
#include "hdrops/mef_ssim_checks.h"
#include "hdrops/storage.cuh"
#include "hdrops/warp.cuh"

namespace hdrops {
namespace {

constexpr int32_t threads = 256;
constexpr int64_t most_shared = 48 << 10;

// One level of N images: fused (N, h, w) and sources (N, k, h, w).
template <class S>
struct Level {
  const S* fused;
  const S* bracket;
  Compute<S> scale;
  int64_t n, k, h, w;
  math::Border border;
  int32_t reach, before;
  int64_t height, width;  // of the positions
  Compute<S> c;

  __device__ const S* image(int64_t n_at, int64_t i) const {
    return i == k ? fused + n_at * h * w : bracket + (n_at * k + i) * h * w;
  }
};

struct Tile {
  int64_t n, y, x;
};

// What a block holds in shared memory: pivots of all images, two staged squares and their sums along
// the rows, each with `reach` lines more than the block has positions, and the taps.
template <class T>
struct Shared {
  T *pivots, *taps, *a, *b, *weighted, *uniform, *lanes;

  __device__ Shared(T* memory, int64_t images, int32_t side, int32_t reach) {
    const int32_t seen = side + reach;
    pivots = memory;
    taps = pivots + images;
    a = taps + reach + 1;
    b = a + seen * seen;
    weighted = b + seen * seen;
    uniform = weighted + seen * side;
    lanes = uniform + seen * side;
  }
  static int64_t values(int64_t images, int64_t side, int64_t reach) {
    const int64_t seen = side + reach;
    return images + reach + 1 + 2 * seen * (seen + side) + threads / 32;
  }
};

template <class T>
__device__ T block_sum(T value, T* lanes) {
  for (int32_t distance = 16; distance > 0; distance /= 2)
    value += __shfl_down_sync(all_lanes, value, distance);
  __syncthreads();
  if (threadIdx.x % 32 == 0) lanes[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = T(0);
  for (int32_t i = 0; i < threads / 32; ++i) sum += lanes[i];
  __syncthreads();
  return sum;
}

// The square of an image that the block's windows see, less `pivot`. Beyond the last window it
// repeats the edge.
template <class S>
__device__ void stage(const Level<S>& level,
                      const Tile& tile,
                      int64_t image,
                      int32_t side,
                      Compute<S> pivot,
                      Compute<S>* to) {
  using T = Compute<S>;
  const S* from = level.image(tile.n, image);
  const int32_t seen = side + level.reach;
  for (int32_t i = threadIdx.x; i < seen * seen; i += threads) {
    int64_t y = tile.y + i / seen, x = tile.x + i % seen;
    y = math::border_index(
        y < level.height + level.reach ? y - level.before : level.h - 1, level.h, level.border);
    x = math::border_index(
        x < level.width + level.reach ? x - level.before : level.w - 1, level.w, level.border);
    const T value = y < 0 || x < 0 ? T(0) : static_cast<T>(from[y * level.w + x]) * level.scale;
    to[i] = value - pivot;
  }
}

// Sums of a staged square, or of the products of two, under the weighted and the plain window:
// f(i, weighted, uniform) for the i-th position of the thread. The square is free again afterwards.
template <int32_t side, class T, class F>
__device__ void sums(const Shared<T>& s, int32_t reach, const T* a, const T* b, const F& f) {
  const int32_t seen = side + reach;
  __syncthreads();
  for (int32_t i = threadIdx.x; i < seen * side; i += threads) {
    const int32_t at = i / side * seen + i % side;
    T weighted = T(0), uniform = T(0);
    for (int32_t t = 0; t <= reach; ++t) {
      const T value = b == nullptr ? a[at + t] : a[at + t] * b[at + t];
      weighted += s.taps[t] * value;
      uniform += value;
    }
    s.weighted[i] = weighted;
    s.uniform[i] = uniform;
  }
  __syncthreads();
  for (int32_t i = 0, p = threadIdx.x; p < side * side; p += threads, ++i) {
    T weighted = T(0), uniform = T(0);
    for (int32_t t = 0; t <= reach; ++t) {
      weighted += s.taps[t] * s.weighted[p + t * side];
      uniform += s.uniform[p + t * side];
    }
    f(i, weighted, uniform);
  }
}

// What the threads of a block keep of their positions for every image, in global memory: plane
// `what` of image i at position p.
template <class T>
struct Kept {
  T* memory;
  int64_t positions;
  enum What { mean, sum, norm, share, count };  // norm: then contrast; share: first the root

  __device__ T& operator()(What what, int64_t image, int32_t p) const {
    return memory[(image * count + what) * positions + p];
  }
};

template <class T, int32_t side>
struct Qualities {
  static constexpr int32_t own = (side * side + threads - 1) / threads;  // positions of a thread
  T value[own], inverse[own];
};

template <class S, int32_t side>
__device__ Qualities<Compute<S>, side> qualities(const Level<S>& level,
                                                 const Tile& tile,
                                                 const Shared<Compute<S>>& s,
                                                 const Kept<Compute<S>>& kept) {
  using T = Compute<S>;
  using K = Kept<T>;
  constexpr int32_t own = Qualities<T, side>::own;
  const int32_t reach = level.reach, seen = side + reach;
  const T n = static_cast<T>((reach + 1) * (reach + 1)), inverse_n = T(1) / n;
  const auto position = [](int32_t i) { return static_cast<int32_t>(threadIdx.x) + i * threads; };
  // Beyond a border of zeros a pivot would stand for them.
  for (int64_t i = 0; i <= level.k; ++i) {
    T pivot = T(0);
    if (level.border != math::Border::zeros) {
      stage(level, tile, i, side, T(0), s.a);
      __syncthreads();
      T sum = T(0);
      for (int32_t p = threadIdx.x; p < seen * seen; p += threads) sum += s.a[p];
      // Of few bits, so that codes stay exact.
      pivot = rint(block_sum(sum, s.lanes) / static_cast<T>(seen * seen) * T(16)) / T(16);
    }
    if (threadIdx.x == 0) s.pivots[i] = pivot;
  }
  __syncthreads();

  T whole[own] = {}, norms[own] = {}, variance[own] = {};
  for (int64_t j = 0; j <= level.k; ++j) {
    stage(level, tile, j, side, s.pivots[j], s.a);
    sums<side>(
        s, reach, s.a, static_cast<const T*>(nullptr), [&](int32_t i, T weighted, T uniform) {
          kept(K::mean, j, position(i)) = weighted;
          kept(K::sum, j, position(i)) = uniform;
        });
    sums<side>(s, reach, s.a, s.a, [&](int32_t i, T weighted, T uniform) {
      const int32_t p = position(i);
      if (j == level.k) {
        variance[i] = weighted - kept(K::mean, j, p) * kept(K::mean, j, p);
        return;
      }
      const T sum = kept(K::sum, j, p);
      const T energy = math::mef_energy(uniform, sum, sum, n, inverse_n);
      const T norm = sqrt(math::at_least_0(energy));
      kept(K::norm, j, p) = norm;
      kept(K::share, j, p) = sqrt(uniform);
      whole[i] += energy;
      norms[i] += norm;
    });
    for (int64_t other = 0; other < j && j < level.k; ++other) {
      __syncthreads();
      stage(level, tile, other, side, s.pivots[other], s.b);
      sums<side>(s, reach, s.a, s.b, [&](int32_t i, T, T uniform) {
        const int32_t p = position(i);
        whole[i] += T(2) * math::mef_energy(
                               uniform, kept(K::sum, j, p), kept(K::sum, other, p), n, inverse_n);
      });
    }
    __syncthreads();
  }

  T gross[own] = {}, contrast[own] = {};
  const T per_norm = T(1) / static_cast<T>(reach + 1);
  for (int32_t i = 0; i < own && position(i) < side * side; ++i) {
    const int32_t p = position(i);
    const T consistency = math::mef_consistency(whole[i], norms[i]);
    // The cotangent of the complement above 1/2: exact where the tangent is steep.
    const bool steep = consistency > T(0.5);
    const T tangent = tan(T(1.5707963267948966) * (steep ? T(1) - consistency : consistency));
    const T p_of_r = steep ? T(1) / tangent : tangent;
    const T exponent = p_of_r < T(math::mef_steepest) ? p_of_r : T(math::mef_steepest);
    for (int64_t k = 0; k < level.k; ++k) {
      const T here = kept(K::norm, k, p) + T(math::mef_contrast_floor);
      kept(K::norm, k, p) = here;
      contrast[i] = here > contrast[i] ? here : contrast[i];
    }
    // Relative to the largest: the tenth power leaves the range of float32. The weights' sum would
    // go out of the gain again.
    const T largest = exponent * log(contrast[i] * per_norm);
    const T above = -largest < T(math::mef_lowest) ? -largest : T(math::mef_lowest);
    const T even = T(math::mef_epsilon) * exp(above);
    for (int64_t k = 0; k < level.k; ++k) {
      const T here = kept(K::norm, k, p);
      const T share = (exp(exponent * log(here * per_norm) - largest) + even) / here;
      gross[i] += share * kept(K::share, k, p);
      kept(K::share, k, p) = share;
    }
  }

  T squared[own] = {}, desired[own] = {}, covariance[own] = {};
  for (int64_t j = 0; j < level.k; ++j) {
    __syncthreads();
    stage(level, tile, j, side, s.pivots[j], s.a);
    for (int64_t other = 0; other <= level.k; ++other) {
      if (other > j && other < level.k) continue;
      __syncthreads();
      stage(level, tile, other, side, s.pivots[other], s.b);
      sums<side>(s, reach, s.a, s.b, [&](int32_t i, T weighted, T uniform) {
        const int32_t p = position(i);
        const T share = kept(K::share, j, p);
        const T centred = weighted - kept(K::mean, j, p) * kept(K::mean, other, p);
        if (other == level.k) {
          covariance[i] += share * centred;
          return;
        }
        const T pair = (other < j ? T(2) : T(1)) * share * kept(K::share, other, p);
        squared[i] += pair * math::mef_energy(
                                 uniform, kept(K::sum, j, p), kept(K::sum, other, p), n, inverse_n);
        desired[i] += pair * centred;
      });
    }
  }
  Qualities<T, side> result;
  for (int32_t i = 0; i < own; ++i) {
    const T gain = math::mef_gain(squared[i], gross[i] * gross[i], contrast[i]);
    const auto q =
        math::mef_quality(gain * covariance[i], gain * gain * desired[i], variance[i], level.c);
    result.value[i] = q.value;
    result.inverse[i] = q.inverse;
    for (int64_t k = 0; k < level.k && position(i) < side * side; ++k)
      kept(K::share, k, position(i)) *= gain;
  }
  __syncthreads();
  return result;
}

template <class S>
struct Grid {
  int64_t rows, columns;  // of tiles
  __host__ __device__ int64_t count(const Level<S>& level) const {
    return level.n * rows * columns;
  }
  __device__ Tile tile(int64_t unit, int32_t side) const {
    const int64_t within = unit % (rows * columns);
    return {unit / (rows * columns), within / columns * side, within % columns * side};
  }
};

// Sums of the quality over the tiles.
template <class S, int32_t side>
__global__ void __launch_bounds__(threads) quality_sums(
    Level<S> level, Grid<S> grid, const Compute<S>* taps, Compute<S>* kept, double* out) {
  using T = Compute<S>;
  const Shared<T> s(dynamic_shared<T>(), level.k + 1, side, level.reach);
  __shared__ double lanes[threads / 32];
  for (int32_t i = threadIdx.x; i <= level.reach; i += threads) s.taps[i] = taps[i];
  const Kept<T> own{kept + blockIdx.x * (level.k + 1) * Kept<T>::count * side * side, side * side};
  for (int64_t unit = blockIdx.x; unit < grid.count(level); unit += gridDim.x) {
    const Tile tile = grid.tile(unit, side);
    const auto q = qualities<S, side>(level, tile, s, own);
    double sum = 0;
    for (int32_t i = 0, p = threadIdx.x; p < side * side; p += threads, ++i) {
      if (tile.y + p / side < level.height && tile.x + p % side < level.width)
        sum += static_cast<double>(q.value[i]);
    }
    sum = block_sum(sum, lanes);
    if (threadIdx.x == 0) out[unit] = sum;
  }
}

// One block for every image: the mean of a level, always added in the same order.
template <class T>
__global__ void __launch_bounds__(threads) level_means(
    const double* sums, int64_t n, int64_t tiles, double positions, int64_t levels, T* out) {
  __shared__ double lanes[threads / 32];
  for (int64_t image = blockIdx.x; image < n; image += gridDim.x) {
    double sum = 0;
    for (int64_t t = threadIdx.x; t < tiles; t += threads) sum += sums[image * tiles + t];
    sum = block_sum(sum, lanes);
    if (threadIdx.x == 0) out[image * levels] = static_cast<T>(sum / positions);
  }
}

// What the quality of the positions owes to their pixels, on planes (N, k + 2, height, width): by
// each source, by nothing, and by fused. All are about `pivots` (N, k + 1), values of the images.
template <class S, int32_t side>
__global__ void __launch_bounds__(threads) slopes(Level<S> level,
                                                  Grid<S> grid,
                                                  const Compute<S>* taps,
                                                  const Compute<S>* upstream,
                                                  int64_t levels,
                                                  Compute<S>* kept,
                                                  Compute<S>* out) {
  using T = Compute<S>;
  using K = Kept<T>;
  const Shared<T> s(dynamic_shared<T>(), level.k + 1, side, level.reach);
  for (int32_t i = threadIdx.x; i <= level.reach; i += threads) s.taps[i] = taps[i];
  const K own{kept + blockIdx.x * (level.k + 1) * K::count * side * side, side * side};
  const int64_t size = level.height * level.width;
  for (int64_t unit = blockIdx.x; unit < grid.count(level); unit += gridDim.x) {
    const Tile tile = grid.tile(unit, side);
    const auto q = qualities<S, side>(level, tile, s, own);
    const T twice = T(2) * upstream[tile.n * levels] / static_cast<T>(size);
    for (int32_t i = 0, p = threadIdx.x; p < side * side; p += threads, ++i) {
      const int64_t y = tile.y + p / side, x = tile.x + p % side;
      if (y >= level.height || x >= level.width) continue;
      T* const to = out + tile.n * (level.k + 2) * size + y * level.width + x;
      const auto mean = [&](int64_t image) {
        const T centre = static_cast<T>(*level.image(tile.n, image)) * level.scale;
        return own(K::mean, image, p) + (s.pivots[image] - centre);
      };
      const T by_fused = twice * q.value[i] * q.inverse[i];
      T constant = by_fused * mean(level.k);
      for (int64_t k = 0; k < level.k; ++k) {
        const T factor = twice * own(K::share, k, p) * q.inverse[i];
        to[k * size] = factor;
        constant -= factor * mean(k);
      }
      to[level.k * size] = constant;
      to[(level.k + 1) * size] = by_fused;
    }
  }
}

// The gradient of the pixels, those beyond the border included: a square of them is filtered as
// staged images are.
template <class S, int32_t side>
__global__ void __launch_bounds__(threads) gradients(Level<S> level,
                                                     Grid<S> grid,
                                                     const Compute<S>* taps,
                                                     const Compute<S>* slopes,
                                                     Compute<S>* out) {
  using T = Compute<S>;
  const Shared<T> s(dynamic_shared<T>(), level.k + 1, side, level.reach);
  for (int32_t i = threadIdx.x; i <= level.reach; i += threads) s.taps[i] = taps[i];
  constexpr int32_t own = Qualities<T, side>::own;
  const int32_t seen = side + level.reach;
  const int64_t size = level.height * level.width;
  const int64_t height = level.height + level.reach, width = level.width + level.reach;
  for (int64_t unit = blockIdx.x; unit < grid.count(level); unit += gridDim.x) {
    const Tile tile = grid.tile(unit, side);
    T total[own] = {};
    for (int64_t k = 0; k < level.k + 2; ++k) {
      __syncthreads();
      const T* plane = slopes + (tile.n * (level.k + 2) + k) * size;
      for (int32_t i = threadIdx.x; i < seen * seen; i += threads) {
        const int64_t y = tile.y - level.reach + i / seen, x = tile.x - level.reach + i % seen;
        const bool inside = y >= 0 && y < level.height && x >= 0 && x < level.width;
        s.a[i] = inside ? plane[y * level.width + x] : T(0);
      }
      const S* image = level.image(tile.n, k < level.k ? k : level.k);
      const T centre = static_cast<T>(*image) * level.scale;
      sums<side>(s, level.reach, s.a, static_cast<const T*>(nullptr), [&](int32_t i, T sum, T) {
        const int32_t p = static_cast<int32_t>(threadIdx.x) + i * threads;
        if (k == level.k) {
          total[i] += sum;
          return;
        }
        const int64_t y =
            math::border_index(tile.y + p / side - level.before, level.h, level.border);
        const int64_t x =
            math::border_index(tile.x + p % side - level.before, level.w, level.border);
        const T value = y < 0 || x < 0 || y >= level.h || x >= level.w
                            ? T(0)
                            : static_cast<T>(image[y * level.w + x]) * level.scale;
        total[i] += k < level.k ? sum * (value - centre) : -sum * (value - centre);
      });
    }
    for (int32_t i = 0, p = threadIdx.x; p < side * side; p += threads, ++i) {
      const int64_t y = tile.y + p / side, x = tile.x + p % side;
      if (y < height && x < width) out[(tile.n * height + y) * width + x] = total[i];
    }
  }
}

// Of every pixel of a level: its own gradient, what stands beyond the border for it, and its share
// in the next level (null: none), whose odd last line it makes alone.
template <class S, class T>
__global__ void __launch_bounds__(threads) collect(
    Level<S> level, const T* padded, const T* coarser, T scale, Level<S> next, S* stored, T* wide) {
  const int64_t pixels = level.n * level.h * level.w;
  const int64_t height = level.height + level.reach, width = level.width + level.reach;
  const int64_t first = int64_t{blockIdx.x} * threads + threadIdx.x;
  for (int64_t i = first; i < pixels; i += int64_t{gridDim.x} * threads) {
    const int64_t n = i / (level.h * level.w), y = i / level.w % level.h, x = i % level.w;
    const T* own = padded + n * height * width;
    T total = T(0);
    const auto row_sum = [&](int64_t row) {
      for (int64_t column = 0; column < width; ++column) {
        if (column == level.before && x > 0) column += x;
        if (column > level.before + x && column < level.before + level.w)
          column = level.before + level.w;
        if (column >= width) break;
        if (math::border_index(column - level.before, level.w, level.border) == x)
          total += own[row * width + column];
      }
    };
    for (int64_t row = 0; row < height; ++row) {
      if (row == level.before && y > 0) row += y;
      if (row > level.before + y && row < level.before + level.h) row = level.before + level.h;
      if (row >= height) break;
      if (math::border_index(row - level.before, level.h, level.border) == y) row_sum(row);
    }
    if (coarser != nullptr) {
      const T down = y == level.h - 1 && level.h % 2 != 0 ? T(1) : T(0.5);
      const T along = x == level.w - 1 && level.w % 2 != 0 ? T(1) : T(0.5);
      total += down * along * coarser[(n * next.h + y / 2) * next.w + x / 2];
    }
    if (stored != nullptr)
      stored[i] = to_storage<S>(total * scale);
    else
      wide[i] = total;
  }
}

// Means of 2 x 2 pixels of `planes` planes of h x w; odd sizes repeat their last line.
template <class S>
__global__ void __launch_bounds__(threads)
    halve(const S* from, int64_t planes, int64_t h, int64_t w, Compute<S> scale, Compute<S>* to) {
  using T = Compute<S>;
  const int64_t rows = math::halved_size(h), columns = math::halved_size(w);
  const int64_t first = int64_t{blockIdx.x} * threads + threadIdx.x;
  for (int64_t i = first; i < planes * rows * columns; i += int64_t{gridDim.x} * threads) {
    const S* plane = from + i / (rows * columns) * h * w;
    const int64_t y = 2 * (i / columns % rows), x = 2 * (i % columns);
    const int64_t below = y + 1 < h ? y + 1 : y, right = x + 1 < w ? x + 1 : x;
    const auto value = [&](int64_t row, int64_t column) {
      return static_cast<T>(plane[row * w + column]) * scale;
    };
    to[i] = ((value(y, x) + value(below, x)) * T(0.5) +
             (value(y, right) + value(below, right)) * T(0.5)) *
            T(0.5);
  }
}

// Taps come as an argument, so that a CUDA graph captures them. check_window() admits no more.
template <class T>
struct Taps {
  T value[most_taps];
};

template <class T>
__global__ void __launch_bounds__(threads) store_taps(Taps<T> taps, int64_t count, T* to) {
  for (int64_t i = threadIdx.x; i < count; i += threads) to[i] = taps.value[i];
}

// ---- host ---------------------------------------------------------------------------------------

// The usual windows fit squares of 32 positions in shared memory, larger ones those of 8.
template <class T>
int32_t side_for(const MefSsimProblem& p) {
  for (const int32_t side : {32, 8}) {
    const int64_t bytes = Shared<T>::values(p.k + 1, side, p.reach()) * sizeof(T);
    if (bytes + 256 <= most_shared) return side;
  }
  STD_TORCH_CHECK(false,
                  "mef_ssim: a window of ",
                  p.reach() + 1,
                  " taps and ",
                  p.k,
                  " sources do not fit into the shared memory of a CUDA block; use a smaller "
                  "window, or backend='triton'");
}

template <class S, class F>
void with_side(const MefSsimProblem& p, const F& f) {
  if (side_for<Compute<S>>(p) == 32)
    f(std::integral_constant<int32_t, 32>{});
  else
    f(std::integral_constant<int32_t, 8>{});
}

template <class S>
Grid<S> grid_over(int64_t height, int64_t width, int32_t side) {
  return {ceil_div(height, side), ceil_div(width, side)};
}

// The operator on images of one storage type; levels above the finest are of its arithmetic type.
template <class S>
class MefSsim {
  using T = Compute<S>;

 public:
  MefSsim(const Launcher& launch,
          const MefSsimProblem& p,
          const Tensor& fused,
          const Tensor& bracket)
      : launch_(launch), p_(p), like_(fused), dtype_(compute_dtype(fused.scalar_type())) {
    finest_ = level_of<S>(static_cast<const S*>(fused.const_data_ptr()),
                          static_cast<const S*>(bracket.const_data_ptr()),
                          p.h,
                          p.w,
                          static_cast<T>(p.scale));
    int64_t h = p.h, w = p.w;
    for (int64_t level = 1; level < p.levels; ++level) {
      const int64_t rows = math::halved_size(h), columns = math::halved_size(w);
      T *to_fused = scratch(p.n * rows * columns),
        *to_bracket = scratch(p.n * p.k * rows * columns);
      if (level == 1) {
        reduce(finest_.fused, p.n, h, w, finest_.scale, to_fused);
        reduce(finest_.bracket, p.n * p.k, h, w, finest_.scale, to_bracket);
      } else {
        reduce(coarse_.back().fused, p.n, h, w, T(1), to_fused);
        reduce(coarse_.back().bracket, p.n * p.k, h, w, T(1), to_bracket);
      }
      coarse_.push_back(level_of<T>(to_fused, to_bracket, rows, columns, T(1)));
      h = rows;
      w = columns;
    }
    Taps<T> taps{};
    std::transform(p.window.begin(), p.window.end(), taps.value, [](double tap) {
      return static_cast<T>(tap);
    });
    taps_ = scratch(p.reach() + 1);
    launch(&store_taps<T>, 1, threads, 0, taps, p.reach() + 1, taps_);
  }

  void means(T* out) {
    mean_of(finest_, out);
    for (size_t i = 0; i < coarse_.size(); ++i) mean_of(coarse_[i], out + i + 1);
  }

  void gradient(const T* grad, S* out) {
    const T* coarser = nullptr;
    for (int64_t i = static_cast<int64_t>(coarse_.size()); i > 0; --i) {
      const auto at = static_cast<size_t>(i) - 1;
      const Level<T>& level = coarse_[at];
      const Level<T>& next = coarse_[std::min(at + 1, coarse_.size() - 1)];
      T* wide = scratch(p_.n * level.h * level.w);
      gradient_of(level, grad + i, coarser, next, static_cast<T*>(nullptr), wide);
      coarser = wide;
    }
    Level<S> next = finest_;
    if (!coarse_.empty()) {
      next.h = coarse_[0].h;
      next.w = coarse_[0].w;
    }
    gradient_of(finest_, grad, coarser, next, out, static_cast<T*>(nullptr));
  }

 private:
  template <class V>
  Level<V> level_of(const V* fused, const V* bracket, int64_t h, int64_t w, T scale) const {
    return {fused,
            bracket,
            scale,
            p_.n,
            p_.k,
            h,
            w,
            p_.border,
            static_cast<int32_t>(p_.reach()),
            static_cast<int32_t>(p_.before()),
            p_.positions(h),
            p_.positions(w),
            static_cast<T>(p_.c)};
  }

  T* scratch(int64_t values) {
    tensors_.push_back(allocate({values}, dtype_, like_));
    return tensors_.back().mutable_data_ptr<T>();
  }

  template <class V>
  void reduce(const V* from, int64_t planes, int64_t h, int64_t w, T scale, T* to) {
    const int64_t size = planes * math::halved_size(h) * math::halved_size(w);
    launch_(&halve<V>, ceil_div(size, threads), threads, 0, from, planes, h, w, scale, to);
  }

  // Blocks that share what their positions keep.
  template <int32_t side>
  int64_t blocks(int64_t units) const {
    return std::min<int64_t>(units, 8 * launch_.multiprocessors());
  }

  template <class V>
  void mean_of(const Level<V>& level, T* out) {
    with_side<V>(p_, [&](auto side) {
      const Grid<V> grid = grid_over<V>(level.height, level.width, side);
      const int64_t units = grid.count(level), used = blocks<side>(units);
      tensors_.push_back(allocate({units}, ScalarType::Double, like_));
      double* const sums = tensors_.back().template mutable_data_ptr<double>();
      launch_(&quality_sums<V, side>,
              used,
              threads,
              Shared<T>::values(p_.k + 1, side, p_.reach()) * static_cast<int64_t>(sizeof(T)),
              level,
              grid,
              static_cast<const T*>(taps_),
              scratch(used * (p_.k + 1) * Kept<T>::count * side * side),
              sums);
      launch_(&level_means<T>,
              p_.n,
              threads,
              0,
              static_cast<const double*>(sums),
              p_.n,
              grid.rows * grid.columns,
              static_cast<double>(level.height * level.width),
              p_.levels,
              out);
    });
  }

  template <class V>
  void gradient_of(const Level<V>& level,
                   const T* grad,
                   const T* coarser,
                   const Level<V>& next,
                   V* stored,
                   T* wide) {
    const int64_t height = level.height + p_.reach(), width = level.width + p_.reach();
    T* const all = scratch(p_.n * (p_.k + 2) * level.height * level.width);
    T* const padded = scratch(p_.n * height * width);
    with_side<V>(p_, [&](auto side) {
      const int64_t shared =
          Shared<T>::values(p_.k + 1, side, p_.reach()) * static_cast<int64_t>(sizeof(T));
      const Grid<V> positions = grid_over<V>(level.height, level.width, side);
      const int64_t used = blocks<side>(positions.count(level));
      launch_(&slopes<V, side>,
              used,
              threads,
              shared,
              level,
              positions,
              static_cast<const T*>(taps_),
              grad,
              p_.levels,
              scratch(used * (p_.k + 1) * Kept<T>::count * side * side),
              all);
      const Grid<V> pixels = grid_over<V>(height, width, side);
      launch_(&gradients<V, side>,
              pixels.count(level),
              threads,
              shared,
              level,
              pixels,
              static_cast<const T*>(taps_),
              static_cast<const T*>(all),
              padded);
    });
    launch_(&collect<V, T>,
            ceil_div(p_.n * level.h * level.w, threads),
            threads,
            0,
            level,
            static_cast<const T*>(padded),
            coarser,
            level.scale,
            next,
            stored,
            wide);
  }

  const Launcher& launch_;
  MefSsimProblem p_;
  Tensor like_;
  ScalarType dtype_;
  std::vector<Tensor> tensors_;
  Level<S> finest_{};
  std::vector<Level<T>> coarse_;
  T* taps_ = nullptr;
};

Tensor mef_ssim_means(const Tensor& fused_in,
                      const Tensor& bracket_in,
                      const std::vector<double> window,
                      double data_range,
                      double k,
                      int64_t border,
                      int64_t levels) {
  const MefSsimProblem p =
      check_mef_ssim("mef_ssim_means", fused_in, bracket_in, window, data_range, k, border, levels);
  const Launcher launch(fused_in);
  const Tensor fused = torch::stable::contiguous(fused_in);
  const Tensor bracket = torch::stable::contiguous(bracket_in);
  const Tensor out = allocate({p.n, p.levels}, compute_dtype(fused.scalar_type()), fused);
  if (p.n == 0) return out;
  with_image_type(fused.scalar_type(), [&](auto tag) {
    using S = typename decltype(tag)::type;
    MefSsim<S>(launch, p, fused, bracket).means(static_cast<Compute<S>*>(out.mutable_data_ptr()));
  });
  return out;
}

Tensor mef_ssim_means_backward(const Tensor& grad_in,
                               const Tensor& fused_in,
                               const Tensor& bracket_in,
                               const std::vector<double> window,
                               double data_range,
                               double k,
                               int64_t border,
                               int64_t levels) {
  const MefSsimProblem p = check_mef_ssim(
      "mef_ssim_means_backward", fused_in, bracket_in, window, data_range, k, border, levels);
  check_mef_ssim_grad(p, grad_in, fused_in);
  const Launcher launch(fused_in);
  const Tensor fused = torch::stable::contiguous(fused_in);
  const Tensor bracket = torch::stable::contiguous(bracket_in);
  const ScalarType compute = compute_dtype(fused.scalar_type());
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, compute));
  const Tensor out = allocate(shape_of(fused), fused.scalar_type(), fused);
  if (p.n == 0) return out;
  with_image_type(fused.scalar_type(), [&](auto tag) {
    using S = typename decltype(tag)::type;
    if constexpr (!is_code_storage<S>) {
      MefSsim<S>(launch, p, fused, bracket)
          .gradient(static_cast<const Compute<S>*>(grad.const_data_ptr()),
                    static_cast<S*>(out.mutable_data_ptr()));
    }
  });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) {
  m.impl("mef_ssim_means", TORCH_BOX(&hdrops::mef_ssim_means));
  m.impl("mef_ssim_means_backward", TORCH_BOX(&hdrops::mef_ssim_means_backward));
}
