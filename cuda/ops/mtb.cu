// mtb on CUDA: the shift between two exposures by median threshold bitmaps, coarse to fine. The
// shift stays on the device: nothing waits for it.

#include <torch/csrc/stable/library.h>

#include <type_traits>

#include "hdrops/launch.cuh"
#include "hdrops/mtb_checks.h"
#include "hdrops/storage.cuh"
#include "hdrops/warp.cuh"

namespace hdrops {
namespace {

constexpr int32_t threads = 256;
constexpr int32_t warps = threads / warp_size;

using Count = unsigned long long;  // the 64-bit type of atomicAdd

// Both images of all pairs: plane `pair` is of a reference, plane n + pair of an image.
struct Planes {
  int64_t n, height, width;
};

HDROPS_HD int64_t rows_of(const Planes& p, int32_t level) { return p.height >> level; }
HDROPS_HD int64_t columns_of(const Planes& p, int32_t level) { return p.width >> level; }
HDROPS_HD int64_t words_of(const Planes& p, int32_t level) {
  return ceil_div(columns_of(p, level), warp_size);
}

// ---- grey codes and histograms ------------------------------------------------------------------

// Pixels of a block: long enough to pay for its own bins.
constexpr int64_t survey_pixels = 1 << 14;

template <class S>
__device__ uint32_t byte_of(S sample) {
  if constexpr (std::is_same_v<S, uint8_t>)
    return sample;
  else if constexpr (std::is_same_v<S, uint16_t>)
    return math::byte_code(sample);
  else
    return math::byte_code_of_value(static_cast<Compute<S>>(sample));
}

// The grey codes of n images, and their histograms on all levels, (planes, levels, 256) from the
// first of these planes on. Dynamic shared memory: bins of the finest level for every warp, then
// those of the coarser levels.
template <class S>
__global__ void __launch_bounds__(threads) survey(
    const S* images, int64_t channels, Planes p, int32_t levels, uint8_t* codes, Count* counts) {
  auto* bins = dynamic_shared<uint32_t>();
  const auto thread = static_cast<int32_t>(threadIdx.x);
  uint32_t* own = bins + 256 * (thread / warp_size);
  uint32_t* coarser = bins + 256 * warps;
  const int64_t plane = p.height * p.width;
  const int64_t rows = p.width < survey_pixels ? survey_pixels / p.width : 1;
  const int64_t groups = ceil_div(p.height, rows);
  for (int64_t unit = blockIdx.x; unit < p.n * groups; unit += gridDim.x) {
    const int64_t pair = unit / groups, first = unit % groups * rows;
    const int64_t last = first + rows < p.height ? first + rows : p.height;
    for (int32_t i = thread; i < 256 * (warps + levels - 1); i += threads) bins[i] = 0;
    __syncthreads();
    const S* image = images + pair * channels * plane;
    const auto width = static_cast<uint32_t>(p.width);
    const auto pixels = static_cast<uint32_t>((last - first) * p.width);
    for (uint32_t i = thread; i < pixels; i += threads) {
      const int64_t y = first + i / width, x = i % width, at = y * p.width + x;
      uint32_t code = byte_of(image[at]);
      if (channels == 3)
        code = math::grey_code(code, byte_of(image[at + plane]), byte_of(image[at + 2 * plane]));
      codes[pair * plane + at] = static_cast<uint8_t>(code);
      atomicAdd(&own[code], 1u);
      for (int32_t k = 1; k < levels; ++k) {
        const bool kept = ((x | y) & ((int64_t{1} << k) - 1)) == 0 && x >> k < columns_of(p, k) &&
                          y >> k < rows_of(p, k);
        if (!kept) break;
        atomicAdd(&coarser[256 * (k - 1) + code], 1u);
      }
    }
    __syncthreads();
    uint32_t sum = 0;
    for (int32_t w = 0; w < warps; ++w) sum += bins[256 * w + thread];
    Count* to = counts + pair * levels * 256 + thread;
    if (sum != 0) atomicAdd(to, static_cast<Count>(sum));
    for (int32_t k = 1; k < levels; ++k) {
      const uint32_t coarse = coarser[256 * (k - 1) + thread];
      if (coarse != 0) atomicAdd(to + 256 * k, static_cast<Count>(coarse));
    }
    __syncthreads();
  }
}

// One block for each level of each plane.
__global__ void __launch_bounds__(threads)
    limit(const Count* counts, Planes p, int32_t levels, int32_t exclude, math::MtbLimits* limits) {
  __shared__ Count staged[256];
  for (int64_t unit = blockIdx.x; unit < 2 * p.n * levels; unit += gridDim.x) {
    staged[threadIdx.x] = counts[unit * 256 + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
      const auto k = static_cast<int32_t>(unit % levels);
      limits[unit] = math::mtb_limits(staged, rows_of(p, k) * columns_of(p, k), exclude);
    }
    __syncthreads();
  }
}

// ---- bitmaps ------------------------------------------------------------------------------------

// A level of the bitmaps of a plane: `above` (rows, words), then `below`.
HDROPS_HD int64_t bitmap_size(const Planes& p, int32_t level) {
  return rows_of(p, level) * words_of(p, level);
}

// One warp per word.
__global__ void __launch_bounds__(threads) draw(const uint8_t* codes,
                                                const math::MtbLimits* limits,
                                                Planes p,
                                                int32_t levels,
                                                int32_t level,
                                                uint32_t* bits) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t lane = thread % warp_size;
  const int64_t size = bitmap_size(p, level), words = words_of(p, level), total = 2 * p.n * size;
  const int64_t step = int64_t{gridDim.x} * warps;
  for (int64_t i = int64_t{blockIdx.x} * warps + thread / warp_size; i < total; i += step) {
    const int64_t plane = i / size, within = i % size;
    const int64_t y = within / words, x = within % words * warp_size + lane;
    const math::MtbLimits limit = limits[plane * levels + level];
    bool above = false, below = false;
    if (x < columns_of(p, level)) {
      const int32_t code = codes[(plane * p.height + (y << level)) * p.width + (x << level)];
      above = code > limit.high;
      below = code < limit.low;
    }
    const uint32_t above_bits = __ballot_sync(all_lanes, above);
    const uint32_t below_bits = __ballot_sync(all_lanes, below);
    if (lane == 0) {
      uint32_t* to = bits + 2 * plane * size + within;
      to[0] = above_bits;
      to[size] = below_bits;
    }
  }
}

// ---- comparison ---------------------------------------------------------------------------------

// Words of a bitmap that a block compares.
constexpr int64_t compared_words = 4 * threads;

// Word i of a row that is moved to the right by `shift`.
__device__ uint32_t moved(const uint32_t* row, int64_t words, int64_t i, int64_t shift) {
  const int64_t first = i + (-shift >> 5);
  const uint32_t low = first >= 0 && first < words ? row[first] : 0;
  const uint32_t high = first + 1 >= 0 && first + 1 < words ? row[first + 1] : 0;
  return __funnelshift_r(low, high, static_cast<uint32_t>(-shift & 31));
}

// Adds to sums (n, 9, 2) the pixels that disagree, and those compared, at the shifts about twice
// shifts (n, 2), which are of the coarser level.
__global__ void __launch_bounds__(threads)
    compare(const uint32_t* bits, const int64_t* shifts, Planes p, int32_t level, Count* sums) {
  __shared__ uint32_t shared[2 * math::mtb_candidates];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int64_t size = bitmap_size(p, level), words = words_of(p, level), rows = rows_of(p, level);
  const int64_t groups = ceil_div(size, compared_words);
  for (int64_t unit = blockIdx.x; unit < p.n * groups; unit += gridDim.x) {
    const int64_t pair = unit / groups, begin = unit % groups * compared_words;
    const int64_t end = begin + compared_words < size ? begin + compared_words : size;
    if (thread < 2 * math::mtb_candidates) shared[thread] = 0;
    __syncthreads();
    const uint32_t* reference = bits + 2 * pair * size;
    const uint32_t* image = bits + 2 * (p.n + pair) * size;
    const int64_t dy = 2 * shifts[2 * pair], dx = 2 * shifts[2 * pair + 1];
    uint32_t errors[math::mtb_candidates] = {}, compared[math::mtb_candidates] = {};
    for (int64_t at = begin + thread; at < end; at += threads) {
      const int64_t y = at / words, i = at % words;
      const uint32_t above = reference[at], below = reference[at + size];
#pragma unroll
      for (int32_t candidate = 0; candidate < math::mtb_candidates; ++candidate) {
        const int64_t from = y - dy - math::mtb_step_y(candidate);
        if (from < 0 || from >= rows) continue;
        const uint32_t* row = image + from * words;
        const int64_t shift = dx + math::mtb_step_x(candidate);
        const uint32_t other_above = moved(row, words, i, shift);
        const uint32_t other_below = moved(row + size, words, i, shift);
        errors[candidate] += __popc((above & other_below) | (below & other_above));
        compared[candidate] += __popc((above | below) & (other_above | other_below));
      }
    }
#pragma unroll
    for (int32_t candidate = 0; candidate < math::mtb_candidates; ++candidate) {
      uint32_t one = errors[candidate], other = compared[candidate];
      for (int32_t offset = warp_size / 2; offset > 0; offset /= 2) {
        one += __shfl_down_sync(all_lanes, one, offset);
        other += __shfl_down_sync(all_lanes, other, offset);
      }
      if (thread % warp_size == 0) {
        atomicAdd(&shared[2 * candidate], one);
        atomicAdd(&shared[2 * candidate + 1], other);
      }
    }
    __syncthreads();
    if (thread < 2 * math::mtb_candidates && shared[thread] != 0) {
      atomicAdd(&sums[2 * math::mtb_candidates * pair + thread],
                static_cast<Count>(shared[thread]));
    }
    __syncthreads();
  }
}

// The shifts of a level from those of the coarser one, and the numbers of the finest level. Leaves
// the sums at 0 for the next level.
__global__ void __launch_bounds__(threads) choose(const math::MtbLimits* limits,
                                                  Planes p,
                                                  int32_t levels,
                                                  int32_t level,
                                                  Count* sums,
                                                  int64_t* shifts,
                                                  int64_t* numbers) {
  const int64_t first = int64_t{blockIdx.x} * threads + threadIdx.x;
  for (int64_t pair = first; pair < p.n; pair += int64_t{gridDim.x} * threads) {
    int64_t dy = 2 * shifts[2 * pair], dx = 2 * shifts[2 * pair + 1], disagree = 0, compared = 0;
    Count* sum = sums + 2 * math::mtb_candidates * pair;
    if (limits[pair * levels + level].informative &&
        limits[(p.n + pair) * levels + level].informative) {
      Count errors[math::mtb_candidates];
      for (int32_t i = 0; i < math::mtb_candidates; ++i) errors[i] = sum[2 * i];
      const int32_t best = math::mtb_best(errors);
      dy += math::mtb_step_y(best);
      dx += math::mtb_step_x(best);
      disagree = static_cast<int64_t>(errors[best]);
      compared = static_cast<int64_t>(sum[2 * best + 1]);
    }
    for (int32_t i = 0; i < 2 * math::mtb_candidates; ++i) sum[i] = 0;
    shifts[2 * pair] = dy;
    shifts[2 * pair + 1] = dx;
    int64_t* to = numbers + mtb_numbers * pair;
    to[0] = dy;
    to[1] = dx;
    to[2] = disagree;
    to[3] = compared;
  }
}

// Zeros of 64 bits each.
Tensor zeros(const std::vector<int64_t>& shape, const Tensor& like) {
  Tensor result = allocate(shape, ScalarType::Long, like);
  torch::stable::zero_(result);
  return result;
}

Tensor mtb_shift(const Tensor& image_in,
                 const Tensor& reference_in,
                 int64_t most_levels,
                 int64_t exclude) {
  const MtbProblem problem = check_mtb(image_in, reference_in, most_levels, exclude);
  const Launcher launch(image_in);
  const Tensor image = torch::stable::contiguous(image_in);
  const Tensor reference = torch::stable::contiguous(reference_in);
  const int64_t n = problem.n;
  const int32_t levels = problem.levels;
  const Tensor out = zeros({n, mtb_numbers}, image);
  if (n == 0 || levels == 0) return out;
  const Planes p{n, problem.height, problem.width};
  const Tensor codes = allocate({2, n, p.height, p.width}, ScalarType::Byte, image);
  const Tensor counts = zeros({2, n, levels, 256}, image);
  const Tensor limits = allocate(
      {2, n, levels, static_cast<int64_t>(sizeof(math::MtbLimits))}, ScalarType::Byte, image);
  const Tensor bits = allocate({2, n, 2, bitmap_size(p, 0)}, ScalarType::Int, image);
  const Tensor shifts = zeros({n, 2}, image);
  const Tensor sums = zeros({n, math::mtb_candidates, 2}, image);
  auto* limits_data = static_cast<math::MtbLimits*>(limits.mutable_data_ptr());

  const int64_t rows = std::max<int64_t>(1, survey_pixels / p.width);
  const int64_t bins = static_cast<int64_t>(sizeof(uint32_t)) * 256 * (warps + levels - 1);
  with_image_type(image.scalar_type(), [&](auto tag) {
    using S = typename decltype(tag)::type;
    for (const Tensor* images : {&reference, &image}) {
      const int64_t first = images == &reference ? 0 : n;
      launch(&survey<S>,
             n * ceil_div(p.height, rows),
             threads,
             bins,
             const_data_of<S>(*images),
             problem.c,
             p,
             levels,
             data_of<uint8_t>(codes) + first * p.height * p.width,
             data_of<Count>(counts) + first * levels * 256);
    }
  });
  launch(&limit,
         2 * n * levels,
         threads,
         0,
         const_data_of<Count>(counts),
         p,
         levels,
         problem.exclude,
         limits_data);
  for (int32_t level = levels - 1; level >= 0; --level) {
    const int64_t size = bitmap_size(p, level);
    launch(&draw,
           ceil_div(2 * n * size, warps),
           threads,
           0,
           const_data_of<uint8_t>(codes),
           limits_data,
           p,
           levels,
           level,
           data_of<uint32_t>(bits));
    launch(&compare,
           n * ceil_div(size, compared_words),
           threads,
           0,
           const_data_of<uint32_t>(bits),
           const_data_of<int64_t>(shifts),
           p,
           level,
           data_of<Count>(sums));
    launch(&choose,
           ceil_div(n, threads),
           threads,
           0,
           limits_data,
           p,
           levels,
           level,
           data_of<Count>(sums),
           data_of<int64_t>(shifts),
           data_of<int64_t>(out));
  }
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) { m.impl("mtb_shift", TORCH_BOX(&hdrops::mtb_shift)); }
