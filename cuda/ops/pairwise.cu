// pairwise_loss on CUDA (Ren, Fan and Huang, "Robust real-world image enhancement based on
// multi-exposure LDR images", section 4.1).
//
// Each line of a channel lists its usable places; a pair finds the lines of its ranks by bisection
// of their offsets. Sums over patches are separable: across once for all places, down where a pair
// needs them. Backward: slopes are added up in fixed point, relative to the largest of their
// channel, so that the order of the atomics does not matter; then in whole numbers over the patches
// that cover a pixel. Nothing is read back: a graph can capture it.

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "hdrops/launch.cuh"
#include "hdrops/pairwise_checks.h"
#include "hdrops/reduce.cuh"
#include "hdrops/storage.cuh"
#include "hdrops/warp.cuh"

namespace hdrops {
namespace {

constexpr int32_t threads = 256;
constexpr int32_t warps = threads / warp_size;

using Key = unsigned long long;  // the 64-bit type of atomics

// The channels of all images; `sides` of the images, or null for pixels.
struct Rows {
  int64_t n, c, height, width;
  const int64_t* sides;

  HDROPS_HD_MEMBER int64_t count() const { return n * c; }
  HDROPS_HD_MEMBER int64_t plane() const { return height * width; }
  HDROPS_HD_MEMBER int64_t side(int64_t row) const {
    return sides == nullptr ? 1 : math::patch_side(sides[row / c], height, width);
  }
};

// ---- over-exposure ------------------------------------------------------------------------------

// Keys have the order of the numbers, with NaN above all.
__device__ Key key_of(double value) {
  if (value != value) return ~Key{0};
  Key bits;
  memcpy(&bits, &value, sizeof bits);
  return (bits >> 63) != 0 ? ~bits : bits | (Key{1} << 63);
}

__device__ double value_of(Key key) {
  const Key bits = (key >> 63) != 0 ? key & ~(Key{1} << 63) : ~key;
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Pixels of a block.
constexpr int64_t survey_pixels = 1 << 13;

// Raises the key of each image to that of the largest value of its target.
template <class S>
__global__ void __launch_bounds__(threads)
    find_largest(const S* target, int64_t n, int64_t size, Key* largest) {
  __shared__ Key shared[threads];
  const int64_t pieces = ceil_div(size, survey_pixels);
  for (int64_t unit = blockIdx.x; unit < n * pieces; unit += gridDim.x) {
    const int64_t image = unit / pieces, begin = unit % pieces * survey_pixels;
    const int64_t end = begin + survey_pixels < size ? begin + survey_pixels : size;
    Key best = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += threads) {
      const Key key = key_of(static_cast<double>(target[image * size + i]));
      best = key > best ? key : best;
    }
    best = block_reduce<threads>(best, shared, [](Key a, Key b) { return a > b ? a : b; });
    if (threadIdx.x == 0) atomicMax(&largest[image], best);
  }
}

// What exceeds it in a target is over-exposed; NaN, up to which nothing is, where that holds NaN.
template <class T>
__device__ T bound_of(Key largest, double limit) {
  return math::rounded_down<T>(limit * value_of(largest));
}

// ---- places -------------------------------------------------------------------------------------

// Sums of both images over `side` pixels to the right, and whether one of them is over-exposed.
template <class S>
__global__ void __launch_bounds__(threads) sum_across(const S* prediction,
                                                      const S* target,
                                                      Rows rows,
                                                      const Key* largest,
                                                      double limit,
                                                      Compute<S>* given,
                                                      Compute<S>* wanted,
                                                      uint8_t* touched) {
  using T = Compute<S>;
  for (int64_t line = blockIdx.x; line < rows.count() * rows.height; line += gridDim.x) {
    const int64_t row = line / rows.height, side = rows.side(row), first = line * rows.width;
    const T bound = bound_of<T>(largest[row / rows.c], limit);
    for (int64_t x = threadIdx.x; x < rows.width - side + 1; x += threads) {
      T one{}, other{};
      bool exposed = false;
      for (int64_t k = first + x; k < first + x + side; ++k) {
        const auto value = static_cast<T>(target[k]);
        one += static_cast<T>(prediction[k]);
        other += value;
        exposed = exposed || !(value <= bound);
      }
      given[first + x] = one;
      wanted[first + x] = other;
      touched[first + x] = exposed ? 1 : 0;
    }
  }
}

// One warp lists the usable columns of a line, and counts them. Of pixels, `touched` is null.
template <class S>
__global__ void __launch_bounds__(threads) list_places(const S* target,
                                                       const uint8_t* touched,
                                                       Rows rows,
                                                       const Key* largest,
                                                       double limit,
                                                       int32_t* columns,
                                                       int32_t* counts) {
  using T = Compute<S>;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t lane = thread % warp_size;
  const int64_t lines = rows.count() * rows.height, step = int64_t{gridDim.x} * warps;
  for (int64_t line = int64_t{blockIdx.x} * warps + thread / warp_size; line < lines;
       line += step) {
    const int64_t row = line / rows.height, y = line % rows.height;
    const int64_t side = rows.side(row), first = line * rows.width;
    const T bound = bound_of<T>(largest[row / rows.c], limit);
    const int64_t last = y + side <= rows.height ? rows.width - side + 1 : 0;
    int32_t count = 0;
    for (int64_t x = lane; x - lane < last; x += warp_size) {
      bool usable = x < last;
      if (usable && touched == nullptr) usable = static_cast<T>(target[first + x]) <= bound;
      if (usable && touched != nullptr)
        for (int64_t k = 0; k < side && usable; ++k)
          usable = touched[first + k * rows.width + x] == 0;
      const uint32_t bits = __ballot_sync(all_lanes, usable);
      const uint32_t before = bits & ((1u << lane) - 1);
      if (usable) columns[first + count + __popc(before)] = static_cast<int32_t>(x);
      count += __popc(bits);
    }
    if (lane == 0) counts[line] = count;
  }
}

// One block per channel: how many places lie above each line, and all, (rows, height + 1).
__global__ void __launch_bounds__(threads)
    add_counts(const int32_t* counts, int64_t rows, int64_t height, int32_t* offsets) {
  __shared__ int32_t shared[threads];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    int32_t sum = 0;
    for (int64_t begin = 0; begin < height; begin += threads) {
      const int64_t y = begin + thread;
      __syncthreads();
      shared[thread] = y < height ? counts[row * height + y] : 0;
      __syncthreads();
      for (int32_t reach = 1; reach < threads; reach *= 2) {
        const int32_t more = thread >= reach ? shared[thread - reach] : 0;
        __syncthreads();
        shared[thread] += more;
        __syncthreads();
      }
      if (y < height) offsets[row * (height + 1) + y + 1] = sum + shared[thread];
      sum += shared[threads - 1];
    }
    if (thread == 0) offsets[row * (height + 1)] = 0;
  }
}

// ---- pairs --------------------------------------------------------------------------------------

struct Multiply {
  __device__ uint64_t operator()(uint64_t a, uint32_t b) const {
    return uint64_t{static_cast<uint32_t>(a)} * b;
  }
};

struct Elementary {
  template <class T>
  __device__ static T log(T x) {
    return ::log(x);
  }
  template <class T>
  __device__ static T exp(T x) {
    return ::exp(x);
  }
  template <class T>
  __device__ static T log1p(T x) {
    return ::log1p(x);
  }
  template <class T>
  __device__ static T sqrt(T x) {
    return ::sqrt(x);
  }
};

struct Sum {
  double cost;
  int32_t counted;
};

// A block takes as many pairs of a channel as it has threads, and leaves their sum. `given` and
// `wanted` are pixels, or sums of patches across.
template <class S>
__global__ void __launch_bounds__(threads) compare(const S* given,
                                                   const S* wanted,
                                                   Rows rows,
                                                   const int32_t* columns,
                                                   const int32_t* offsets,
                                                   const int64_t* seed,
                                                   int64_t pairs,
                                                   math::PairRule<Compute<S>> of_pixels,
                                                   Sum* sums,
                                                   int32_t* places,
                                                   Compute<S>* slopes) {
  using T = Compute<S>;
  __shared__ Sum shared[threads];
  const int64_t pieces = ceil_div(pairs, threads);
  for (int64_t unit = blockIdx.x; unit < rows.count() * pieces; unit += gridDim.x) {
    const int64_t row = unit / pieces, pair = unit % pieces * threads + threadIdx.x;
    const int64_t side = rows.side(row), first = row * rows.plane();
    const int32_t* const above = offsets + row * (rows.height + 1);
    const auto total = static_cast<uint32_t>(above[rows.height]);
    Sum sum{0, 0};
    if (pair < pairs) {
      T values[2]{}, orders[2]{}, slope[2]{};
      uint64_t words[4] = {static_cast<uint64_t>(pair), static_cast<uint64_t>(row), 0, 0};
      math::philox(words, static_cast<uint64_t>(*seed), Multiply{});
      for (int32_t k = 0; k < 2; ++k) {
        int64_t place = 0;
        if (total > 0) {
          const auto rank = static_cast<int32_t>(
              math::philox_rank(words[2 * k], words[2 * k + 1], total, Multiply{}));
          int64_t y = 0, beyond = rows.height;  // the last line with no more places above
          while (beyond - y > 1) {
            const int64_t middle = (y + beyond) / 2;
            if (above[middle] <= rank)
              y = middle;
            else
              beyond = middle;
          }
          place = y * rows.width + columns[first + y * rows.width + rank - above[y]];
          for (int64_t i = 0; i < side; ++i) {
            values[k] += static_cast<T>(given[first + place + i * rows.width]);
            orders[k] += static_cast<T>(wanted[first + place + i * rows.width]);
          }
        }
        places[(2 * row + k) * pairs + pair] = static_cast<int32_t>(place);
      }
      if (total > 0) {
        math::PairRule<T> rule = of_pixels;
        rule.share = T(1) / static_cast<T>(side * side);
        sum.cost = static_cast<double>(math::pair_cost(
            values[0], values[1], orders[0], orders[1], rule, Elementary{}, slope[0], slope[1]));
        sum.counted = math::pair_counts(orders[0], orders[1], rule) ? 1 : 0;
      }
      for (int32_t k = 0; k < 2; ++k) slopes[(2 * row + k) * pairs + pair] = slope[k];
    }
    sum = block_reduce<threads>(sum, shared, [](const Sum& a, const Sum& b) {
      return Sum{a.cost + b.cost, a.counted + b.counted};
    });
    if (threadIdx.x == 0) sums[unit] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(threads)
    add_sums(const Sum* sums, int64_t rows, int64_t pieces, T* out) {
  const int64_t first = int64_t{blockIdx.x} * threads + threadIdx.x;
  for (int64_t row = first; row < rows; row += int64_t{gridDim.x} * threads) {
    double cost = 0;
    int64_t counted = 0;
    for (int64_t i = row * pieces; i < (row + 1) * pieces; ++i) {
      cost += sums[i].cost;
      counted += sums[i].counted;
    }
    out[2 * row] = static_cast<T>(cost);
    out[2 * row + 1] = static_cast<T>(counted);
  }
}

std::tuple<Tensor, Tensor, Tensor> pairwise_loss(const Tensor& prediction_in,
                                                 const Tensor& target_in,
                                                 const Tensor& seed,
                                                 std::optional<Tensor> sides_in,
                                                 int64_t pairs,
                                                 double threshold,
                                                 double limit,
                                                 bool ignore_ties,
                                                 double least) {
  const PairwiseProblem p =
      check_pairwise(prediction_in, target_in, seed, sides_in, pairs, threshold, limit, least);
  const Launcher launch(prediction_in);
  const Tensor prediction = torch::stable::contiguous(prediction_in);
  const Tensor target = torch::stable::contiguous(target_in);
  const ScalarType dtype = compute_dtype(prediction.scalar_type());
  Tensor sums = allocate({p.n, p.c, 2}, dtype, prediction);
  Tensor places = allocate({p.n, p.c, 2, pairs}, ScalarType::Int, prediction);
  Tensor slopes = allocate({p.n, p.c, 2, pairs}, dtype, prediction);
  if (p.rows() * p.plane() == 0) {
    for (Tensor* t : {&sums, &places, &slopes}) torch::stable::zero_(*t);
    return {sums, places, slopes};
  }
  std::optional<Tensor> sides;
  if (sides_in.has_value()) sides = torch::stable::contiguous(*sides_in);
  const bool patches = sides.has_value();
  const Rows rows{p.n, p.c, p.height, p.width, patches ? const_data_of<int64_t>(*sides) : nullptr};
  const int64_t lines = p.rows() * p.height, pieces = ceil_div(pairs, threads);
  Tensor largest = allocate({p.n}, ScalarType::Long, prediction);
  torch::stable::zero_(largest);
  const Tensor columns = allocate({lines, p.width}, ScalarType::Int, prediction);
  const Tensor counts = allocate({lines}, ScalarType::Int, prediction);
  const Tensor offsets = allocate({p.rows(), p.height + 1}, ScalarType::Int, prediction);
  const Tensor parts =
      allocate({p.rows(), pieces, static_cast<int64_t>(sizeof(Sum))}, ScalarType::Byte, prediction);
  const std::vector<int64_t> across{patches ? lines : 0, p.width};
  const Tensor given = allocate(across, dtype, prediction);
  const Tensor wanted = allocate(across, dtype, prediction);
  const Tensor touched = allocate(across, ScalarType::Byte, prediction);
  with_float_type(prediction.scalar_type(), [&](auto tag) {
    using S = typename decltype(tag)::type;
    using T = Compute<S>;
    const int64_t size = p.c * p.plane();
    launch(&find_largest<S>,
           p.n * ceil_div(size, survey_pixels),
           threads,
           0,
           const_data_of<S>(target),
           p.n,
           size,
           data_of<Key>(largest));
    if (patches)
      launch(&sum_across<S>,
             lines,
             threads,
             0,
             const_data_of<S>(prediction),
             const_data_of<S>(target),
             rows,
             const_data_of<Key>(largest),
             limit,
             data_of<T>(given),
             data_of<T>(wanted),
             data_of<uint8_t>(touched));
    launch(&list_places<S>,
           ceil_div(lines, warps),
           threads,
           0,
           const_data_of<S>(target),
           patches ? const_data_of<uint8_t>(touched) : nullptr,
           rows,
           const_data_of<Key>(largest),
           limit,
           data_of<int32_t>(columns),
           data_of<int32_t>(counts));
    launch(&add_counts,
           p.rows(),
           threads,
           0,
           const_data_of<int32_t>(counts),
           p.rows(),
           p.height,
           data_of<int32_t>(offsets));
    const auto run = [&]<class V>(const V* first, const V* second) {
      launch(&compare<V>,
             p.rows() * pieces,
             threads,
             0,
             first,
             second,
             rows,
             const_data_of<int32_t>(columns),
             const_data_of<int32_t>(offsets),
             const_data_of<int64_t>(seed),
             pairs,
             math::pair_rule<T>(threshold, least, 1, ignore_ties),
             data_of<Sum>(parts),
             data_of<int32_t>(places),
             data_of<T>(slopes));
    };
    if (patches)
      run(const_data_of<T>(given), const_data_of<T>(wanted));
    else
      run(const_data_of<S>(prediction), const_data_of<S>(target));
    launch(&add_sums<T>,
           ceil_div(p.rows(), threads),
           threads,
           0,
           const_data_of<Sum>(parts),
           p.rows(),
           pieces,
           data_of<T>(sums));
  });
  return {sums, places, slopes};
}

// ---- backward -----------------------------------------------------------------------------------

// Of a sum that NaN takes part in.
constexpr int64_t none = -(int64_t{1} << 62) - (int64_t{1} << 62);

// One block per channel: the exponent by which slopes become whole numbers. Sums of all of them stay
// below 2^62.
template <class T>
__global__ void __launch_bounds__(threads)
    find_exponent(const T* slopes, int64_t rows, int64_t pairs, int32_t* exponents) {
  __shared__ double shared[threads];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    double most = 0;
    for (int64_t i = threadIdx.x; i < 2 * pairs; i += threads) {
      const double size = fabs(static_cast<double>(slopes[2 * row * pairs + i]));
      most = size > most ? size : most;  // NaN is passed over
    }
    most = block_reduce<threads>(most, shared, [](double a, double b) { return a > b ? a : b; });
    if (threadIdx.x == 0) {
      int32_t exponent = 0, bits = 0;
      frexp(most, &exponent);
      while ((int64_t{1} << bits) < 2 * pairs) ++bits;
      exponents[row] = 62 - bits - exponent;
    }
  }
}

// Adds the slopes of all pairs to the first pixels of their patches; or, where `missing`, puts
// `none` where one is NaN.
template <class T>
__global__ void __launch_bounds__(threads) scatter(const int32_t* places,
                                                   const T* slopes,
                                                   int64_t rows,
                                                   int64_t pairs,
                                                   int64_t plane,
                                                   const int32_t* exponents,
                                                   bool missing,
                                                   int64_t* out) {
  const int64_t first = int64_t{blockIdx.x} * threads + threadIdx.x;
  for (int64_t i = first; i < 2 * rows * pairs; i += int64_t{gridDim.x} * threads) {
    const int64_t row = i / (2 * pairs), place = places[i];
    if (place < 0 || place >= plane) continue;  // any may come from a caller
    const auto slope = static_cast<double>(slopes[i]);
    int64_t* const to = out + row * plane + place;
    if (missing) {
      if (slope != slope) *to = none;
    } else if (slope == slope && slope != 0) {
      const auto quanta = static_cast<int64_t>(llrint(scalbn(slope, exponents[row])));
      atomicAdd(reinterpret_cast<Key*>(to), static_cast<Key>(quanta));
    }
  }
}

// What the `side` numbers up to `at`, `step` apart, and of `last + 1` those that there are, add up to.
__device__ int64_t
sum_of_window(const int64_t* line, int64_t at, int64_t side, int64_t last, int64_t step) {
  int64_t sum = 0;
  const int64_t begin = at - side + 1 > 0 ? at - side + 1 : 0, end = at < last ? at : last;
  for (int64_t k = begin; k <= end; ++k) {
    const int64_t value = line[k * step];
    sum = value == none || sum == none ? none : sum + value;
  }
  return sum;
}

__global__ void __launch_bounds__(threads)
    spread_across(const int64_t* sums, Rows rows, int64_t* out) {
  for (int64_t line = blockIdx.x; line < rows.count() * rows.height; line += gridDim.x) {
    const int64_t side = rows.side(line / rows.height);
    if (line % rows.height + side > rows.height) continue;  // no patch begins here
    const int64_t first = line * rows.width;
    for (int64_t x = threadIdx.x; x < rows.width; x += threads)
      out[first + x] = sum_of_window(sums + first, x, side, rows.width - side, 1);
  }
}

template <class S>
__global__ void __launch_bounds__(threads) spread_down(
    const int64_t* sums, Rows rows, const int32_t* exponents, const Compute<S>* grad, S* out) {
  using T = Compute<S>;
  for (int64_t line = blockIdx.x; line < rows.count() * rows.height; line += gridDim.x) {
    const int64_t row = line / rows.height, y = line % rows.height, side = rows.side(row);
    for (int64_t x = threadIdx.x; x < rows.width; x += threads) {
      const int64_t* const column = sums + row * rows.plane() + x;
      const int64_t sum = sum_of_window(column, y, side, rows.height - side, rows.width);
      const double slope = sum == none ? static_cast<double>(NAN)
                                       : scalbn(static_cast<double>(sum), -exponents[row]);
      out[line * rows.width + x] = to_storage<S>(static_cast<T>(slope) * grad[2 * row]);
    }
  }
}

Tensor pairwise_loss_backward(const Tensor& grad_in,
                              const Tensor& prediction,
                              const Tensor&,
                              const Tensor&,
                              std::optional<Tensor> sides_in,
                              const Tensor& places_in,
                              const Tensor& slopes_in,
                              double,
                              double,
                              bool,
                              double) {
  const PairwiseProblem p =
      check_pairwise_backward(grad_in, prediction, sides_in, places_in, slopes_in);
  const Launcher launch(prediction);
  const ScalarType stored = prediction.scalar_type();
  const Tensor out = allocate(shape_of(prediction), stored, prediction);
  if (p.rows() * p.plane() == 0) return out;
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, compute_dtype(stored)));
  const Tensor places = torch::stable::contiguous(places_in);
  const Tensor slopes = torch::stable::contiguous(slopes_in);
  std::optional<Tensor> sides;
  if (sides_in.has_value()) sides = torch::stable::contiguous(*sides_in);
  const bool patches = sides.has_value();
  const Rows rows{p.n, p.c, p.height, p.width, patches ? const_data_of<int64_t>(*sides) : nullptr};
  const int64_t lines = p.rows() * p.height;
  const Tensor exponents = allocate({p.rows()}, ScalarType::Int, prediction);
  Tensor sums = allocate({lines, p.width}, ScalarType::Long, prediction);
  torch::stable::zero_(sums);
  const Tensor across = allocate({patches ? lines : 0, p.width}, ScalarType::Long, prediction);
  with_float_type(stored, [&](auto tag) {
    using S = typename decltype(tag)::type;
    using T = Compute<S>;
    launch(&find_exponent<T>,
           p.rows(),
           threads,
           0,
           const_data_of<T>(slopes),
           p.rows(),
           p.pairs,
           data_of<int32_t>(exponents));
    for (const bool missing : {false, true})
      launch(&scatter<T>,
             ceil_div(2 * p.rows() * p.pairs, threads),
             threads,
             0,
             const_data_of<int32_t>(places),
             const_data_of<T>(slopes),
             p.rows(),
             p.pairs,
             p.plane(),
             const_data_of<int32_t>(exponents),
             missing,
             data_of<int64_t>(sums));
    if (patches)
      launch(&spread_across,
             lines,
             threads,
             0,
             const_data_of<int64_t>(sums),
             rows,
             data_of<int64_t>(across));
    launch(&spread_down<S>,
           lines,
           threads,
           0,
           const_data_of<int64_t>(patches ? across : sums),
           rows,
           const_data_of<int32_t>(exponents),
           const_data_of<T>(grad),
           data_of<S>(out));
  });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) {
  m.impl("pairwise_loss", TORCH_BOX(&hdrops::pairwise_loss));
  m.impl("pairwise_loss_backward", TORCH_BOX(&hdrops::pairwise_loss_backward));
}
