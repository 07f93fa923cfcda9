// imf on CUDA: intensity mapping functions by histogram specification, and the weighted fusion of
// eq. 8-12.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>

#include "hdrops/imf_checks.h"
#include "hdrops/launch.cuh"
#include "hdrops/storage.cuh"
#include "hdrops/warp.cuh"

namespace hdrops {
namespace {

using Count = unsigned long long;  // the 64-bit type of atomicAdd

// ---- estimate_imf: histograms -----------------------------------------------------------------

constexpr int32_t histogram_threads = 512;

// Both images at once: block `unit` counts one piece of one plane of one image.
struct HistogramImage {
  const void* data;
  int64_t size, pieces;  // `size` pixels of a plane, in `pieces`
};

struct HistogramJob {
  HistogramImage source, target;
  int64_t planes;
};

// `size` pixels from element `begin` of an image, and the histogram they belong to: 2 x plane, + 1
// for the target.
struct HistogramPiece {
  const void* data;
  int64_t begin, size, histogram;
};

HDROPS_HD int64_t histogram_units(const HistogramJob& job) {
  return job.planes * (job.source.pieces + job.target.pieces);
}

HDROPS_HD HistogramPiece histogram_piece(const HistogramJob& job, int64_t unit) {
  const int64_t per_plane = job.source.pieces + job.target.pieces;
  const int64_t plane = unit / per_plane, within = unit % per_plane;
  const bool of_target = within >= job.source.pieces;
  const HistogramImage image = of_target ? job.target : job.source;
  const int64_t piece = of_target ? within - job.source.pieces : within;
  const int64_t step = ceil_div(image.size, image.pieces);
  const int64_t begin = piece * step < image.size ? piece * step : image.size;
  const int64_t end = begin + step < image.size ? begin + step : image.size;
  return {image.data, plane * image.size + begin, end - begin, 2 * plane + of_target};
}

// A run of codes split where 16-byte loads begin and end.
template <class Code>
struct Span {
  static constexpr int32_t width = 16 / sizeof(Code);
  int64_t head, vectors,
      size;  // the first `head` codes and those after the vectors are read one by one
};

template <class Code>
HDROPS_HD Span<Code> span_of(const Code* codes, int64_t size) {
  constexpr int64_t width = Span<Code>::width;
  const auto misaligned =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(codes) % 16 / sizeof(Code));
  const int64_t wanted = (width - misaligned) % width;
  const int64_t head = wanted < size ? wanted : size;
  return {head, (size - head) / width, size};
}

// 32 copies of the 256 bins, one per lane and bank: the lanes of a warp never meet, whatever the
// image.
__global__ void __launch_bounds__(histogram_threads) count_u8(HistogramJob job, Count* counts) {
  constexpr int32_t codes = 256;
  __shared__ uint32_t bins[codes * warp_size];
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % warp_size;
  const int64_t units = histogram_units(job);
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const HistogramPiece piece = histogram_piece(job, unit);
    for (int32_t i = threadIdx.x; i < codes * warp_size; i += histogram_threads) bins[i] = 0;
    __syncthreads();
    const uint8_t* from = static_cast<const uint8_t*>(piece.data) + piece.begin;
    const Span<uint8_t> span = span_of(from, piece.size);
    const auto count = [&](uint32_t code) { atomicAdd(&bins[code * warp_size + lane], 1u); };
    const auto* vectors = reinterpret_cast<const uint4*>(from + span.head);
    for (int64_t v = threadIdx.x; v < span.vectors; v += histogram_threads) {
      const uint4 packed = vectors[v];
      const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
      for (int32_t i = 0; i < 16; ++i) count(words[i / 4] >> (8 * (i % 4)) & 255u);
    }
    const int64_t scalars = span.size - span.vectors * Span<uint8_t>::width;
    for (int64_t i = threadIdx.x; i < scalars; i += histogram_threads) {
      count(from[i < span.head ? i : i + span.vectors * Span<uint8_t>::width]);
    }
    __syncthreads();
    if (threadIdx.x < codes) {
      uint32_t sum = 0;
      for (int32_t i = 0; i < warp_size; ++i)
        sum += bins[threadIdx.x * warp_size + (i + lane) % warp_size];
      if (sum != 0)
        atomicAdd(&counts[piece.histogram * codes + threadIdx.x], static_cast<Count>(sum));
    }
    __syncthreads();
  }
}

// 65,536 bins do not fit a block: counts go to global memory, runs of equal codes in one addition.
// Areas of one code, such as clipped ones, are a run of the whole warp.
__global__ void __launch_bounds__(histogram_threads) count_u16(HistogramJob job, Count* counts) {
  constexpr int32_t codes = 65536;
  constexpr int32_t width = Span<uint16_t>::width;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % warp_size;
  const int64_t units = histogram_units(job);
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const HistogramPiece piece = histogram_piece(job, unit);
    const uint16_t* from = static_cast<const uint16_t*>(piece.data) + piece.begin;
    Count* to = counts + piece.histogram * codes;
    const Span<uint16_t> span = span_of(from, piece.size);
    const auto* vectors = reinterpret_cast<const Pack<uint16_t, width>*>(from + span.head);
    // Every thread takes every turn: the votes below are of whole warps.
    for (int64_t base = 0; base < span.vectors; base += histogram_threads) {
      const int64_t v = base + threadIdx.x;
      const bool valid = v < span.vectors;
      Pack<uint16_t, width> pack{};
      if (valid) pack = vectors[v];
      bool flat = valid;
#pragma unroll
      for (int32_t i = 1; i < width; ++i) flat = flat && pack.item[i] == pack.item[0];
      const uint32_t first = __shfl_sync(all_lanes, static_cast<uint32_t>(pack.item[0]), 0);
      if (__all_sync(all_lanes, flat && pack.item[0] == first)) {
        if (lane == 0) atomicAdd(&to[first], static_cast<Count>(warp_size * width));
        continue;
      }
      if (!valid) continue;
      uint32_t code = pack.item[0], length = 1;
#pragma unroll
      for (int32_t i = 1; i < width; ++i) {
        if (pack.item[i] == code) {
          ++length;
        } else {
          atomicAdd(&to[code], static_cast<Count>(length));
          code = pack.item[i];
          length = 1;
        }
      }
      atomicAdd(&to[code], static_cast<Count>(length));
    }
    const int64_t scalars = span.size - span.vectors * width;
    for (int64_t i = threadIdx.x; i < scalars; i += histogram_threads) {
      atomicAdd(&to[from[i < span.head ? i : i + span.vectors * width]], Count{1});
    }
  }
}

// ---- estimate_imf: specification --------------------------------------------------------------

// A piecewise linear map through `count` levels that occur, of which `trusted` is the last trusted
// one (-1: none).
struct SparseMap {
  const int32_t* level;
  const double* value;
  int32_t count, trusted;
  double limit;
};

// The largest i in [0, count) with array[i] <= x; 0 where there is none. `array` increases.
template <class T>
HDROPS_HD int32_t last_not_above(const T* array, int32_t count, T x) {
  int32_t low = 0, high = count;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    if (array[middle] <= x)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// The target level at a quantile, interpolated between levels that occur (`mid`: their
// mid-quantiles).
HDROPS_HD double matched_level(double quantile,
                               const int32_t* level,
                               const double* mid,
                               int32_t count) {
  const int32_t lower = last_not_above(mid, count, quantile);
  const double value = level[lower];
  if (lower + 1 >= count || !(quantile > mid[lower])) return value;
  return value + (level[lower + 1] - level[lower]) * (quantile - mid[lower]) /
                     (mid[lower + 1] - mid[lower]);
}

// The map at any source level: interpolated between levels that occur, in proportion to z before
// the first and after the last trusted one.
HDROPS_HD double mapped_level(int32_t z, const SparseMap& map) {
  const int32_t first = map.level[0];
  if (z < first) return map.value[0] * z / first;
  const int32_t i = last_not_above(map.level, map.count, z);
  double matched = map.value[i];
  if (z > map.level[i] && i + 1 < map.count) {
    matched +=
        (map.value[i + 1] - matched) * (z - map.level[i]) / (map.level[i + 1] - map.level[i]);
  }
  const int32_t last = map.trusted >= 0 ? map.trusted : map.count - 1;
  if (z <= map.level[last] || map.level[last] == 0) return matched;
  const double continued = map.value[last] * z / map.level[last];
  const double least = matched < map.limit ? matched : map.limit;
  return continued > least ? continued : least;
}

// Pixels and occurring levels in a run of codes.
struct Prefix {
  int64_t pixels;
  int32_t levels;
};

// Sums over all threads before this one, and over the whole block.
template <int32_t threads>
__device__ Prefix exclusive_scan(Prefix mine, Prefix* shared, Prefix* total) {
  const int32_t t = threadIdx.x;
  shared[t] = mine;
  __syncthreads();
  for (int32_t distance = 1; distance < threads; distance *= 2) {
    const Prefix before = t >= distance ? shared[t - distance] : Prefix{0, 0};
    __syncthreads();
    shared[t].pixels += before.pixels;
    shared[t].levels += before.levels;
    __syncthreads();
  }
  *total = shared[threads - 1];
  const Prefix inclusive = shared[t];
  __syncthreads();
  return {inclusive.pixels - mine.pixels, inclusive.levels - mine.levels};
}

template <int32_t codes>
constexpr int32_t specify_threads = codes < 512 ? codes : 512;

// One block per plane. The levels that occur are gathered in `level` and `value` (2 x codes per
// plane: source, target).
template <int32_t codes>
__global__ void __launch_bounds__(specify_threads<codes>) specify(const int64_t* counts,
                                                                  int32_t* level,
                                                                  double* value,
                                                                  float* out,
                                                                  int64_t planes,
                                                                  int64_t levels,
                                                                  double saturated) {
  constexpr int32_t threads = specify_threads<codes>, run = codes / threads;
  __shared__ Prefix scan[threads];
  __shared__ int32_t trusted;
  const int32_t t = threadIdx.x;
  for (int64_t plane = blockIdx.x; plane < planes; plane += gridDim.x) {
    const int64_t at = 2 * plane * codes;
    const int64_t *source = counts + at, *target = source + codes;
    int32_t *source_level = level + at, *target_level = source_level + codes;
    double *source_value = value + at, *target_mid = source_value + codes;
    if (t == 0) trusted = -1;

    Prefix in_source{0, 0}, in_target{0, 0}, all_source, all_target;
    for (int32_t z = t * run; z < (t + 1) * run; ++z) {
      in_source.pixels += source[z];
      in_source.levels += source[z] > 0;
      in_target.pixels += target[z];
      in_target.levels += target[z] > 0;
    }
    Prefix before_source = exclusive_scan<threads>(in_source, scan, &all_source);
    Prefix before_target = exclusive_scan<threads>(in_target, scan, &all_target);

    for (int32_t z = t * run; z < (t + 1) * run; ++z) {
      if (target[z] == 0) continue;
      target_level[before_target.levels] = z;
      target_mid[before_target.levels] =
          math::mid_quantile(before_target.pixels, target[z], all_target.pixels);
      before_target.pixels += target[z];
      ++before_target.levels;
    }
    __syncthreads();

    const double limit = saturated * (codes - 1) / 255.0;
    int32_t last = -1;
    for (int32_t z = t * run; z < (t + 1) * run; ++z) {
      if (source[z] == 0) continue;
      const double quantile =
          math::mid_quantile(before_source.pixels, source[z], all_source.pixels);
      const double matched = matched_level(quantile, target_level, target_mid, all_target.levels);
      source_level[before_source.levels] = z;
      source_value[before_source.levels] = matched;
      if (z > 0 && matched > 0 && matched < limit) last = before_source.levels;
      before_source.pixels += source[z];
      ++before_source.levels;
    }
    if (last >= 0) atomicMax(&trusted, last);
    __syncthreads();

    const SparseMap map{source_level, source_value, all_source.levels, trusted, limit};
    constexpr double to_units = 255.0 / (codes - 1);
    for (int64_t i = t; i < levels; i += threads) {
      const double position =
          static_cast<double>(i) * (codes - 1) / static_cast<double>(levels - 1);
      const auto within = math::table_position(position, codes);
      const double ends[2] = {mapped_level(within.index, map), mapped_level(within.index + 1, map)};
      out[plane * levels + i] = static_cast<float>(
          to_units * math::interpolate(ends, math::TablePosition<double>{0, within.fraction}));
    }
    __syncthreads();
  }
}

Tensor estimate_imf(const Tensor& source_in,
                    const Tensor& target_in,
                    int64_t levels,
                    double saturated) {
  check_histogram(source_in, target_in, levels);
  const Launcher launch(source_in);
  const Tensor source = torch::stable::contiguous(source_in);
  const Tensor target = torch::stable::contiguous(target_in);
  const bool bytes = source.scalar_type() == ScalarType::Byte;
  const int64_t planes = source.size(0) * source.size(1), codes = bytes ? 256 : 65536;
  const Tensor out = allocate({source.size(0), source.size(1), levels}, ScalarType::Float, source);
  if (planes == 0) return out;
  Tensor counts = allocate({planes, 2, codes}, ScalarType::Long, source);
  const Tensor level = allocate({planes, 2, codes}, ScalarType::Int, source);
  const Tensor value = allocate({planes, 2, codes}, ScalarType::Double, source);
  torch::stable::zero_(counts);

  // Pieces long enough to pay for a block's own bins, and few enough to be counted in 32 bits.
  constexpr int64_t shortest = 1 << 14, longest = 1 << 26;
  const int64_t blocks = 4 * launch.multiprocessors();
  const int64_t source_size = source.size(2) * source.size(3),
                target_size = target.size(2) * target.size(3);
  const int64_t length =
      std::clamp(ceil_div(planes * (source_size + target_size), blocks), shortest, longest);
  const HistogramJob job{{source.const_data_ptr(), source_size, ceil_div(source_size, length)},
                         {target.const_data_ptr(), target_size, ceil_div(target_size, length)},
                         planes};
  const auto run = [&](auto* count, auto* specify, int32_t threads) {
    launch(count,
           histogram_units(job),
           histogram_threads,
           0,
           job,
           reinterpret_cast<Count*>(counts.mutable_data_ptr<int64_t>()));
    launch(specify,
           planes,
           threads,
           0,
           counts.const_data_ptr<int64_t>(),
           level.mutable_data_ptr<int32_t>(),
           value.mutable_data_ptr<double>(),
           out.mutable_data_ptr<float>(),
           planes,
           levels,
           saturated);
  };
  if (bytes)
    run(&count_u8, &specify<256>, specify_threads<256>);
  else
    run(&count_u16, &specify<65536>, specify_threads<65536>);
  return out;
}

// ---- imf_fuse ---------------------------------------------------------------------------------

constexpr int32_t fuse_threads = 256;
// Tables (or sums) up to this size in all are kept in shared memory.
constexpr int64_t staged_bytes = 32 << 10;

// The tables and thresholds of one call. Block `unit` works on one piece of one plane, so on one
// pair of tables.
template <class T>
struct ImfJob {
  const T* imf_dark;
  const T* imf_bright;
  TableView dark, bright;
  math::Ramp<T> low, high;
  int64_t planes, channels, size, pieces;  // `size` pixels of a plane, in `pieces`
};

HDROPS_HD int64_t table_offset(const TableView& view, int64_t plane, int64_t channels) {
  return plane / channels * view.stride_n + plane % channels * view.stride_c;
}

// Units of a storage type to 8-bit code units.
template <class In, class T>
constexpr T to_code_units = static_cast<T>(255.0 / full_scale<In>);

// 8-bit code units to those of a storage type.
template <class Out, class T>
constexpr T from_code_units = static_cast<T>(full_scale<Out> / 255.0);

// One of the two images: its table, in entries per unit of its storage type, and its thresholds.
template <class T>
struct Side {
  const T* table;
  int32_t levels;
  T step;
  math::Ramp<T> ramp;
};

template <class In, class T>
HDROPS_HD Side<T> side(const T* table, const TableView& view, const math::Ramp<T>& ramp) {
  const auto levels = static_cast<int32_t>(view.levels);
  return {table, levels, static_cast<T>(levels - 1) / static_cast<T>(full_scale<In>), ramp};
}

template <class T>
HDROPS_HD math::TablePosition<T> position(const Side<T>& s, T raw) {
  return math::table_position(raw * s.step, s.levels);
}

template <class T>
HDROPS_HD T mapped(const Side<T>& s, T raw) {
  return math::interpolate(s.table, position(s, raw));
}

// A code's value in its table, and its weight.
struct alignas(8) Entry {
  float value, weight;
};

// The pixels of one piece of a plane: out = pixel(dark, bright), all three starting at element
// `offset`. `aligned` says that the pointers themselves allow vector access; the first pixels up to
// a vector's boundary go one by one.
template <class In, class Out, class Pixel>
__device__ void fuse_piece(const In* dark,
                           const In* bright,
                           Out* out,
                           int64_t offset,
                           int64_t size,
                           int64_t piece,
                           int64_t pieces,
                           bool aligned,
                           const Pixel& pixel) {
  constexpr int32_t width = 16 / (sizeof(In) > sizeof(Out) ? sizeof(In) : sizeof(Out));
  const int64_t wanted = (width - offset % width) % width;
  const int64_t head = aligned && wanted < size ? wanted : size;
  const int64_t vectors = (size - head) / width;
  const int64_t first = piece * fuse_threads + threadIdx.x, stride = pieces * fuse_threads;
  for (int64_t v = first; v < vectors; v += stride) {
    const int64_t at = offset + head + v * width;
    const auto d = *reinterpret_cast<const Pack<In, width>*>(dark + at);
    const auto b = *reinterpret_cast<const Pack<In, width>*>(bright + at);
    Pack<Out, width> result;
#pragma unroll
    for (int32_t i = 0; i < width; ++i) result.item[i] = pixel(d.item[i], b.item[i]);
    store_pack(result, out + at);
  }
  const int64_t scalars = size - vectors * width;
  for (int64_t i = first; i < scalars; i += stride) {
    const int64_t at = offset + (i < head ? i : i + vectors * width);
    out[at] = pixel(dark[at], bright[at]);
  }
}

template <class In, class Out>
bool vector_aligned(const In* dark, const In* bright, const Out* out) {
  constexpr size_t width = 16 / std::max(sizeof(In), sizeof(Out));
  const auto fits = [](const void* pointer, size_t bytes) {
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
  };
  return fits(dark, width * sizeof(In)) && fits(bright, width * sizeof(In)) &&
         fits(out, width * sizeof(Out));
}

// uint8 images: value and weight of all 256 codes are tabulated per block.
template <class Out>
__global__ void __launch_bounds__(fuse_threads) fuse_bytes(
    const uint8_t* dark, const uint8_t* bright, Out* out, bool aligned, ImfJob<float> job) {
  constexpr int32_t codes = 256;
  __shared__ Entry dark_entry[codes], bright_entry[codes];
  for (int64_t unit = blockIdx.x; unit < job.planes * job.pieces; unit += gridDim.x) {
    const int64_t plane = unit / job.pieces;
    const auto of_dark = side<uint8_t>(
        job.imf_dark + table_offset(job.dark, plane, job.channels), job.dark, job.low);
    const auto of_bright = side<uint8_t>(
        job.imf_bright + table_offset(job.bright, plane, job.channels), job.bright, job.high);
    for (int32_t code = threadIdx.x; code < codes; code += fuse_threads) {
      const auto raw = static_cast<float>(code);
      dark_entry[code] = {mapped(of_dark, raw), math::dark_weight(raw, of_dark.ramp)};
      bright_entry[code] = {mapped(of_bright, raw), math::bright_weight(raw, of_bright.ramp)};
    }
    __syncthreads();
    fuse_piece(dark,
               bright,
               out,
               plane * job.size,
               job.size,
               unit % job.pieces,
               job.pieces,
               aligned,
               [&](uint8_t d, uint8_t b) {
                 const Entry e = dark_entry[d], f = bright_entry[b];
                 return to_storage<Out>(from_code_units<Out, float> *
                                        math::blend(e.weight, e.value, f.weight, f.value));
               });
    __syncthreads();
  }
}

// All other images: interpolation in the tables, which are copied to shared memory where they fit.
template <class In, class Out, class T, bool staged>
__global__ void __launch_bounds__(fuse_threads)
    fuse_values(const In* dark, const In* bright, Out* out, bool aligned, ImfJob<T> job) {
  T* const shared = dynamic_shared<T>();
  for (int64_t unit = blockIdx.x; unit < job.planes * job.pieces; unit += gridDim.x) {
    const int64_t plane = unit / job.pieces;
    auto of_dark =
        side<In>(job.imf_dark + table_offset(job.dark, plane, job.channels), job.dark, job.low);
    auto of_bright = side<In>(
        job.imf_bright + table_offset(job.bright, plane, job.channels), job.bright, job.high);
    if constexpr (staged) {
      for (int32_t i = threadIdx.x; i < of_dark.levels; i += fuse_threads)
        shared[i] = of_dark.table[i];
      for (int32_t i = threadIdx.x; i < of_bright.levels; i += fuse_threads) {
        shared[of_dark.levels + i] = of_bright.table[i];
      }
      of_dark.table = shared;
      of_bright.table = shared + of_dark.levels;
      __syncthreads();
    }
    fuse_piece(dark,
               bright,
               out,
               plane * job.size,
               job.size,
               unit % job.pieces,
               job.pieces,
               aligned,
               [&](In d, In b) {
                 const auto raw_dark = static_cast<T>(d), raw_bright = static_cast<T>(b);
                 const T fused = math::blend(
                     math::dark_weight(raw_dark * to_code_units<In, T>, of_dark.ramp),
                     mapped(of_dark, raw_dark),
                     math::bright_weight(raw_bright * to_code_units<In, T>, of_bright.ramp),
                     mapped(of_bright, raw_bright));
                 return to_storage<Out>(from_code_units<Out, T> * fused);
               });
    if constexpr (staged) __syncthreads();
  }
}

template <class T>
ImfJob<T> imf_job(const ImfProblem& p,
                  const Tensor& imf_dark,
                  const Tensor& imf_bright,
                  const std::vector<double>& low,
                  const std::vector<double>& high,
                  int64_t blocks,
                  int64_t pixels_per_turn) {
  const int64_t planes = p.n * p.c;
  const int64_t pieces =
      std::clamp<int64_t>(ceil_div(blocks, planes), 1, ceil_div(p.plane, pixels_per_turn));
  return {imf_dark.const_data_ptr<T>(),
          imf_bright.const_data_ptr<T>(),
          p.dark,
          p.bright,
          ramp<T>("low", low),
          ramp<T>("high", high),
          planes,
          p.c,
          p.plane,
          pieces};
}

template <class In, class Out>
void launch_fuse(const Launcher& launch,
                 const void* dark_in,
                 const void* bright_in,
                 void* out_in,
                 const ImfJob<Compute<In>>& job) {
  using T = Compute<In>;
  const auto* dark = static_cast<const In*>(dark_in);
  const auto* bright = static_cast<const In*>(bright_in);
  auto* out = static_cast<Out*>(out_in);
  const bool aligned = vector_aligned(dark, bright, out);
  const int64_t units = job.planes * job.pieces;
  if constexpr (std::is_same_v<In, uint8_t>) {
    launch(&fuse_bytes<Out>, units, fuse_threads, 0, dark, bright, out, aligned, job);
  } else {
    const int64_t bytes = (job.dark.levels + job.bright.levels) * static_cast<int64_t>(sizeof(T));
    if (bytes <= staged_bytes) {
      launch(&fuse_values<In, Out, T, true>,
             units,
             fuse_threads,
             bytes,
             dark,
             bright,
             out,
             aligned,
             job);
    } else {
      launch(
          &fuse_values<In, Out, T, false>, units, fuse_threads, 0, dark, bright, out, aligned, job);
    }
  }
}

void fuse_into(const Launcher& launch,
               const ImfProblem& p,
               const Tensor& dark_in,
               const Tensor& bright_in,
               const Tensor& imf_dark_in,
               const Tensor& imf_bright_in,
               const std::vector<double>& low,
               const std::vector<double>& high,
               const Tensor& out) {
  const Tensor dark = torch::stable::contiguous(dark_in);
  const Tensor bright = torch::stable::contiguous(bright_in);
  const Tensor imf_dark = torch::stable::contiguous(imf_dark_in);
  const Tensor imf_bright = torch::stable::contiguous(imf_bright_in);
  if (dark.numel() == 0) return;
  const bool to_float = out.scalar_type() == ScalarType::Float;
  with_image_type(dark.scalar_type(), [&](auto tag) {
    using In = typename decltype(tag)::type;
    // Several waves of blocks, so that the last one matters little; each reads its tables once.
    constexpr int64_t blocks_per_multiprocessor = 16,
                      pixels_per_turn = 16 / sizeof(In) * fuse_threads;
    const auto job = imf_job<Compute<In>>(p,
                                          imf_dark,
                                          imf_bright,
                                          low,
                                          high,
                                          blocks_per_multiprocessor * launch.multiprocessors(),
                                          pixels_per_turn);
    const void *d = dark.const_data_ptr(), *b = bright.const_data_ptr();
    void* o = out.mutable_data_ptr();
    if constexpr (is_code_storage<In>) {
      if (to_float) return launch_fuse<In, float>(launch, d, b, o, job);
    }
    launch_fuse<In, In>(launch, d, b, o, job);
  });
}

// The thresholds too are checked before anything is allocated.
ImfProblem check_fuse(const Tensor& dark,
                      const Tensor& bright,
                      const Tensor& imf_dark,
                      const Tensor& imf_bright,
                      const std::vector<double>& low,
                      const std::vector<double>& high) {
  const ImfProblem p = check_imf(dark, bright, imf_dark, imf_bright);
  ramp<double>("low", low);
  ramp<double>("high", high);
  return p;
}

Tensor imf_fuse(const Tensor& dark,
                const Tensor& bright,
                const Tensor& imf_dark,
                const Tensor& imf_bright,
                const std::vector<double> low,
                const std::vector<double> high,
                std::optional<ScalarType> dtype) {
  const ImfProblem p = check_fuse(dark, bright, imf_dark, imf_bright, low, high);
  const ScalarType wanted = check_output_dtype("imf_fuse", dark.scalar_type(), dtype);
  const Launcher launch(dark);
  const Tensor out = allocate(shape_of(dark), wanted, dark);
  fuse_into(launch, p, dark, bright, imf_dark, imf_bright, low, high, out);
  return out;
}

void imf_fuse_out(const Tensor& dark,
                  const Tensor& bright,
                  const Tensor& imf_dark,
                  const Tensor& imf_bright,
                  const std::vector<double> low,
                  const std::vector<double> high,
                  Tensor out) {
  const ImfProblem p = check_fuse(dark, bright, imf_dark, imf_bright, low, high);
  check_out("imf_fuse", out, shape_of(dark), dark);
  check_output_dtype("imf_fuse", dark.scalar_type(), out.scalar_type());
  const Launcher launch(dark);
  fuse_into(launch, p, dark, bright, imf_dark, imf_bright, low, high, out);
}

// ---- imf_fuse_backward ------------------------------------------------------------------------

// A gradient that goes to two neighbouring entries of a table.
template <class T>
struct TableGradient {
  int32_t index;
  T lower, upper;
};

template <class T>
struct PixelGradient {
  T image_dark, image_bright;
  TableGradient<T> table_dark, table_bright;
};

// The slope of the table at a position; 0 outside, where the position is clamped.
template <class T>
HDROPS_HD T table_slope(const Side<T>& s, T raw, const math::TablePosition<T>& at) {
  const T inside = raw * s.step;
  const T slope = s.table[at.index + 1] - s.table[at.index];
  return inside >= T(0) && inside <= static_cast<T>(s.levels - 1) ? slope : T(0);
}

template <class In, class T>
HDROPS_HD PixelGradient<T> pixel_gradient(
    T grad, T dark, T bright, const Side<T>& of_dark, const Side<T>& of_bright) {
  constexpr T code = to_code_units<In, T>;
  const auto at_dark = position(of_dark, dark), at_bright = position(of_bright, bright);
  const auto partial = math::blend_gradient(math::dark_weight(dark * code, of_dark.ramp),
                                            math::interpolate(of_dark.table, at_dark),
                                            math::bright_weight(bright * code, of_bright.ramp),
                                            math::interpolate(of_bright.table, at_bright));
  const T upstream = grad / T(255);
  const T value_dark = upstream * partial.value_dark,
          value_bright = upstream * partial.value_bright;
  const auto &low = of_dark.ramp, &high = of_bright.ramp;
  const T slope_dark =
      math::weight_slope((dark * code - low.start) * low.inverse_width, low.inverse_width, T(1));
  const T slope_bright = math::weight_slope(
      (high.end - bright * code) * high.inverse_width, high.inverse_width, T(-1));
  return {value_dark * table_slope(of_dark, dark, at_dark) * of_dark.step +
              upstream * partial.weight_dark * slope_dark * code,
          value_bright * table_slope(of_bright, bright, at_bright) * of_bright.step +
              upstream * partial.weight_bright * slope_bright * code,
          {at_dark.index, value_dark * (T(1) - at_dark.fraction), value_dark * at_dark.fraction},
          {at_bright.index,
           value_bright * (T(1) - at_bright.fraction),
           value_bright * at_bright.fraction}};
}

// Gradients of tables are sums over pixels in an order that varies: in shared memory (`copies` of
// both tables, chosen by lane to keep neighbours with one code apart) where they fit, else in
// global memory.
template <class In, class Grad, class T, bool staged>
__global__ void __launch_bounds__(fuse_threads) backward(const Grad* grad,
                                                         const In* dark,
                                                         const In* bright,
                                                         In* grad_dark,
                                                         In* grad_bright,
                                                         T* grad_imf_dark,
                                                         T* grad_imf_bright,
                                                         int32_t copies,
                                                         ImfJob<T> job) {
  T* const sums = dynamic_shared<T>();
  const int32_t copy = static_cast<int32_t>(threadIdx.x) % copies;
  for (int64_t unit = blockIdx.x; unit < job.planes * job.pieces; unit += gridDim.x) {
    const int64_t plane = unit / job.pieces;
    const int64_t dark_offset = table_offset(job.dark, plane, job.channels);
    const int64_t bright_offset = table_offset(job.bright, plane, job.channels);
    const auto of_dark = side<In>(job.imf_dark + dark_offset, job.dark, job.low);
    const auto of_bright = side<In>(job.imf_bright + bright_offset, job.bright, job.high);
    T *to_dark = grad_imf_dark + dark_offset, *to_bright = grad_imf_bright + bright_offset;
    const int32_t entries = of_dark.levels + of_bright.levels;
    if constexpr (staged) {
      for (int32_t i = threadIdx.x; i < entries * copies; i += fuse_threads) sums[i] = T(0);
      __syncthreads();
    }
    const auto add = [&](T* to, int32_t entry, int32_t index, T value) {
      if (value == T(0)) return;
      if constexpr (staged)
        atomicAdd(&sums[(entry + index) * copies + copy], value);
      else
        atomicAdd(&to[index], value);
    };
    for (int64_t i = unit % job.pieces * fuse_threads + threadIdx.x; i < job.size;
         i += job.pieces * fuse_threads) {
      const int64_t at = plane * job.size + i;
      const auto g = pixel_gradient<In>(static_cast<T>(grad[at]),
                                        static_cast<T>(dark[at]),
                                        static_cast<T>(bright[at]),
                                        of_dark,
                                        of_bright);
      if constexpr (!is_code_storage<In>) {
        grad_dark[at] = static_cast<In>(g.image_dark);
        grad_bright[at] = static_cast<In>(g.image_bright);
      }
      add(to_dark, 0, g.table_dark.index, g.table_dark.lower);
      add(to_dark, 0, g.table_dark.index + 1, g.table_dark.upper);
      add(to_bright, of_dark.levels, g.table_bright.index, g.table_bright.lower);
      add(to_bright, of_dark.levels, g.table_bright.index + 1, g.table_bright.upper);
    }
    if constexpr (staged) {
      __syncthreads();
      for (int32_t i = threadIdx.x; i < entries; i += fuse_threads) {
        T sum = T(0);
        for (int32_t c = 0; c < copies; ++c) sum += sums[i * copies + (c + copy) % copies];
        if (sum == T(0)) continue;
        atomicAdd(i < of_dark.levels ? &to_dark[i] : &to_bright[i - of_dark.levels], sum);
      }
      __syncthreads();
    }
  }
}

template <class In, class Grad>
void launch_backward(const Launcher& launch,
                     const Tensor& grad,
                     const Tensor& dark,
                     const Tensor& bright,
                     const Tensor& grad_dark,
                     const Tensor& grad_bright,
                     const Tensor& grad_imf_dark,
                     const Tensor& grad_imf_bright,
                     const ImfJob<Compute<In>>& job) {
  using T = Compute<In>;
  const int64_t bytes = (job.dark.levels + job.bright.levels) * static_cast<int64_t>(sizeof(T));
  int32_t copies = 1;
  while (copies < warp_size && 2 * copies * bytes <= staged_bytes) copies *= 2;
  const bool staged = bytes <= staged_bytes;
  const auto run = [&](auto* kernel) {
    launch(kernel,
           job.planes * job.pieces,
           fuse_threads,
           staged ? copies * bytes : 0,
           static_cast<const Grad*>(grad.const_data_ptr()),
           static_cast<const In*>(dark.const_data_ptr()),
           static_cast<const In*>(bright.const_data_ptr()),
           static_cast<In*>(grad_dark.mutable_data_ptr()),
           static_cast<In*>(grad_bright.mutable_data_ptr()),
           grad_imf_dark.mutable_data_ptr<T>(),
           grad_imf_bright.mutable_data_ptr<T>(),
           copies,
           job);
  };
  if (staged)
    run(&backward<In, Grad, T, true>);
  else
    run(&backward<In, Grad, T, false>);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> imf_fuse_backward(const Tensor& grad_in,
                                                             const Tensor& dark_in,
                                                             const Tensor& bright_in,
                                                             const Tensor& imf_dark_in,
                                                             const Tensor& imf_bright_in,
                                                             const std::vector<double> low,
                                                             const std::vector<double> high) {
  const ImfProblem p = check_fuse(dark_in, bright_in, imf_dark_in, imf_bright_in, low, high);
  const ScalarType image = dark_in.scalar_type(), compute = compute_dtype(image);
  STD_TORCH_CHECK(shape_of(grad_in) == shape_of(dark_in),
                  "imf_fuse_backward: grad must have the shape of the images, got ",
                  shape_text(grad_in));
  check_same_device("imf_fuse_backward", "grad", grad_in, dark_in);
  const Launcher launch(dark_in);
  // Gradients arrive in the type of the result; any other type is widened once.
  const bool codes = is_code(image), same_type = !codes && grad_in.scalar_type() == image;
  const Tensor grad =
      torch::stable::contiguous(same_type ? grad_in : torch::stable::to(grad_in, compute));
  const Tensor dark = torch::stable::contiguous(dark_in);
  const Tensor bright = torch::stable::contiguous(bright_in);
  const Tensor imf_dark = torch::stable::contiguous(imf_dark_in);
  const Tensor imf_bright = torch::stable::contiguous(imf_bright_in);
  const std::vector<int64_t> shape = codes ? std::vector<int64_t>{0} : shape_of(dark);
  const Tensor grad_dark = allocate(shape, codes ? compute : image, dark);
  const Tensor grad_bright = allocate(shape, codes ? compute : image, dark);
  Tensor grad_imf_dark = allocate(shape_of(imf_dark), compute, dark);
  Tensor grad_imf_bright = allocate(shape_of(imf_bright), compute, dark);
  torch::stable::zero_(grad_imf_dark);
  torch::stable::zero_(grad_imf_bright);
  if (dark.numel() > 0) {
    with_image_type(image, [&](auto tag) {
      using In = typename decltype(tag)::type;
      using T = Compute<In>;
      constexpr int64_t blocks_per_multiprocessor = 6, pixels_per_turn = 4 * fuse_threads;
      const auto job = imf_job<T>(p,
                                  imf_dark,
                                  imf_bright,
                                  low,
                                  high,
                                  blocks_per_multiprocessor * launch.multiprocessors(),
                                  pixels_per_turn);
      const auto run = [&](auto grad_tag) {
        launch_backward<In, typename decltype(grad_tag)::type>(launch,
                                                               grad,
                                                               dark,
                                                               bright,
                                                               grad_dark,
                                                               grad_bright,
                                                               grad_imf_dark,
                                                               grad_imf_bright,
                                                               job);
      };
      if constexpr (!is_code_storage<In> && !std::is_same_v<In, T>) {
        if (same_type) return run(Tag<In>{});
      }
      run(Tag<T>{});
    });
  }
  return {grad_dark, grad_bright, grad_imf_dark, grad_imf_bright};
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) {
  m.impl("estimate_imf", TORCH_BOX(&hdrops::estimate_imf));
  m.impl("imf_fuse", TORCH_BOX(&hdrops::imf_fuse));
  m.impl("imf_fuse_out", TORCH_BOX(&hdrops::imf_fuse_out));
  m.impl("imf_fuse_backward", TORCH_BOX(&hdrops::imf_fuse_backward));
}
