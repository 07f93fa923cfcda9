// Gradients of the matching volume's convolution on CUDA. All are gathered, by products as in
// matching_volume.cu: no atomics, the same bits in every run.
//
// Of the features: a warp owns 32 channels of pixels that leave the same remainders by the strides,
// so that the same taps reach all of them. It goes over the motions: of a moved image over the places
// that its pixels were moved to, of the reference over all images. What a slice says of |F' - F_ref|
// is a product for each exposure; what it says of the linear parts is one for all of them, of
// gradients that are summed first.
//
// Of the weight: a warp owns a tap and 32 columns of 32 channels of one part, and a share of the
// pixels and motions; the shares are summed in their order.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "hdrops/matching_convolution.cuh"

namespace hdrops {
namespace {

// What the kernels read of the gradient (N, D', H', W', K) of the result.
template <class S>
struct Upstream {
  using T = Compute<S>;
  const S* grad;
  // Sums over the slices of the result whose depth tap reads a slice of the reference, or another:
  // (N, H' W', kind, depth taps, K).
  const T* sums;
  // The slice of the result that reads slice d with depth tap kd, at kd D + d; or -1.
  const int32_t* readers;
  bool aligned;  // grad, to four of its columns

  __device__ const S* at(const Convolved& how, int64_t n, int64_t o, int64_t pixel) const {
    return grad + ((n * how.size[0] + o) * how.size[1] * how.size[2] + pixel) * how.k;
  }
  __device__ const T* sum(
      const Convolved& how, int64_t n, int64_t pixel, int32_t kind, int64_t kd) const {
    const int64_t place = n * how.size[1] * how.size[2] + pixel;
    return sums + ((place * map_kinds + kind) * how.taps[0] + kd) * how.k;
  }
};

__global__ void write_readers(int64_t depth, Convolved how, int32_t* readers) {
  over(how.taps[0] * depth, [&](int64_t index) {
    const int64_t at = index % depth + how.padding[0] - index / depth * how.dilation[0];
    const bool reads = at >= 0 && at % how.stride[0] == 0 && at / how.stride[0] < how.size[0];
    readers[index] = reads ? static_cast<int32_t>(at / how.stride[0]) : -1;
  });
}

template <class S>
__global__ void __launch_bounds__(elementwise_threads) sum_over_depth(const S* grad,
                                                                      int64_t n_count,
                                                                      int64_t depth,
                                                                      Convolved how,
                                                                      SliceTable table,
                                                                      Compute<S>* sums) {
  using T = Compute<S>;
  const int64_t pixels = how.size[1] * how.size[2];
  over(n_count * pixels * how.taps[0] * how.k, [&](int64_t index) {
    const int64_t k = index % how.k, kd = index / how.k % how.taps[0];
    const int64_t pixel = index / how.k / how.taps[0] % pixels;
    const int64_t n = index / how.k / how.taps[0] / pixels;
    T others = 0, constants = 0;
    for (int64_t o = 0; o < how.size[0]; ++o) {
      const int64_t d = o * how.stride[0] - how.padding[0] + kd * how.dilation[0];
      if (d < 0 || d >= depth) continue;
      const T value = static_cast<T>(grad[((n * how.size[0] + o) * pixels + pixel) * how.k + k]);
      if (is_constant(table, d))
        constants += value;
      else
        others += value;
    }
    const int64_t place = (n * pixels + pixel) * map_kinds;
    sums[((place + of_others) * how.taps[0] + kd) * how.k + k] = others;
    sums[((place + of_constant) * how.taps[0] + kd) * how.k + k] = constants;
  });
}

// ---- of the features ----

// Pixels (first + stride times step) of a lane's rows.
template <class S>
struct ClassRows {
  int32_t first_y, first_x, y[lane_rows<S>], x[lane_rows<S>];  // y and x in steps; -1: no pixel

  __device__ ClassRows(const VolumeProblem& p, const Convolved& how, int64_t which, int64_t tile) {
    const int64_t classes = min(how.stride[2], p.width);
    first_y = static_cast<int32_t>(which / classes);
    first_x = static_cast<int32_t>(which % classes);
    const int64_t wide = ceil_div(p.width - first_x, how.stride[2]);
    const int64_t high = ceil_div(p.height - first_y, how.stride[1]);
#pragma unroll
    for (int32_t i = 0; i < lane_rows<S>; ++i) {
      const int64_t at = tile * warp_rows<S> + row_of_lane(i);
      const bool there = at < wide * high;
      y[i] = there ? static_cast<int32_t>(at / wide) : -1;
      x[i] = there ? static_cast<int32_t>(at % wide) : -1;
    }
  }

  // Places of the pixels moved by (down, right); -1 outside.
  __device__ void places(const VolumeProblem& p,
                         const Convolved& how,
                         int32_t down,
                         int32_t right,
                         Places<S>& to) const {
    const auto high = static_cast<int32_t>(p.height), wide = static_cast<int32_t>(p.width);
#pragma unroll
    for (int32_t i = 0; i < lane_rows<S>; ++i) {
      const int32_t row = first_y + y[i] * static_cast<int32_t>(how.stride[1]) + down;
      const int32_t column = first_x + x[i] * static_cast<int32_t>(how.stride[2]) + right;
      const bool inside = y[i] >= 0 && row >= 0 && row < high && column >= 0 && column < wide;
      to[i] = inside ? row * wide + column : -1;
    }
  }

  // The pixels of the result that read the pixels moved by (down, right) with a tap, -1 outside;
  // false where the tap reaches none of them.
  __device__ bool readers(
      const Convolved& how, int64_t tap, int32_t down, int32_t right, Places<S>& to) const {
    const auto step_y = static_cast<int32_t>(how.stride[1]);
    const auto step_x = static_cast<int32_t>(how.stride[2]);
    const auto ky = static_cast<int32_t>(tap / how.taps[2] * how.dilation[1]);
    const auto kx = static_cast<int32_t>(tap % how.taps[2] * how.dilation[2]);
    const int32_t row = first_y + down + static_cast<int32_t>(how.padding[1]) - ky;
    const int32_t column = first_x + right + static_cast<int32_t>(how.padding[2]) - kx;
    if (row % step_y != 0 || column % step_x != 0) return false;
    const auto high = static_cast<int32_t>(how.size[1]), wide = static_cast<int32_t>(how.size[2]);
#pragma unroll
    for (int32_t i = 0; i < lane_rows<S>; ++i) {
      const int32_t a = row / step_y + y[i], b = column / step_x + x[i];
      const bool inside = y[i] >= 0 && a >= 0 && a < high && b >= 0 && b < wide;
      to[i] = inside ? a * wide + b : -1;
    }
    return true;
  }
};

// A warp has a tile of pixels of one class and a block of channels of one image: of the reference, or
// of another one.
template <class S, Mode mode, bool of_base>
__global__ void __launch_bounds__(block_threads, 2) differentiate_features(
    VolumeView<S> view, Convolved how, PartWeights<S> weights, Upstream<S> upstream, S* out) {
  using T = Compute<S>;
  const VolumeProblem& p = view.p;
  const int64_t taps = plane_taps(how), blocks = ceil_div(p.c, warp_columns);
  const int64_t columns = math::rounded_up(how.k, channel_step);
  const int64_t classes = min(how.stride[1], p.height) * min(how.stride[2], p.width);
  const int64_t most = ceil_div(p.height, how.stride[1]) * ceil_div(p.width, how.stride[2]);
  const int64_t tiles = ceil_div(most, warp_rows<S>);
  const int64_t images = of_base ? 1 : p.count - 1;
  const int64_t units = p.n * images * blocks * classes * tiles;
  const T ceiling = static_cast<T>(p.ceiling);
  for (int64_t unit = int64_t{blockIdx.x} * block_warps + warp_of_thread(); unit < units;
       unit += int64_t{gridDim.x} * block_warps) {
    __syncwarp();
    const int64_t tile = unit % tiles, which = unit / tiles % classes;
    const int64_t block = unit / tiles / classes % blocks;
    const int64_t place = unit / tiles / classes / blocks, n = place / images;
    const int64_t own_image =
        of_base ? p.reference : place % images + (place % images >= p.reference ? 1 : 0);
    const ClassRows<S> rows(p, how, which, tile);
    Places<S> own;
    rows.places(p, how, 0, 0, own);
    Sums<S> total;
    clear<S>(total);

    // Calls f(sum index i, k, channel) for what a lane holds, two neighbouring k after each other.
    const auto each = [&](const auto& f) {
#pragma unroll
      for (int32_t i = 0; i < lane_rows<S>; ++i)
#pragma unroll
        for (int32_t k = 0; k < lane_columns; k += 2) {
          const int64_t c = block * warp_columns + column_of_lane(k);
          if (c < view.padded) f(i, k, c);
          keep_order();
        }
    };

    const int64_t last_image = of_base ? p.count : own_image + 1;
#pragma unroll 1
    for (int64_t image = of_base ? 0 : own_image; image < last_image; ++image) {
      if (image == p.reference) continue;
      const S* const features = kept(view.image(n, image));
      const S* const mask = view.mask(n, image);
      const S* const base = kept(view.image(n, p.reference));
#pragma unroll 1
      for (int64_t m = 0; m < p.motions; ++m) {
        const int32_t down = view.step(m, 0), right = view.step(m, 1);
        // The slice's pixels, from the own ones; and those of the other image.
        const int32_t to_slice_y = of_base ? 0 : -down, to_slice_x = of_base ? 0 : -right;
        Places<S> other;
        rows.places(p, how, of_base ? down : -down, of_base ? right : -right, other);

        // add(rows, matrix, k) for the taps that reach the pixels, of rows that load(place, k, row)
        // gives.
        const auto gather = [&](auto rows_type, int64_t kd, const auto& load, const auto& add) {
#pragma unroll 1
          for (int64_t tap = 0; tap < taps; ++tap) {
            Places<S> from;
            if (!rows.readers(how, tap, to_slice_y, to_slice_x, from)) continue;
#pragma unroll 1
            for (int64_t k = 0; k < columns; k += span<S>) {
              typename decltype(rows_type)::type a = {};
#pragma unroll
              for (int32_t i = 0; i < lane_rows<S>; ++i)
                if (from[i] >= 0) load(from[i], k + lane_channel<S>(), a[i]);
              add(a, kd * taps + tap, k);
            }
          }
        };

#pragma unroll 1
        for (int64_t e = 0; e < p.exposures; ++e) {
          const T exposure = view.exposures[e];
          const int64_t d = view.depth(image, m, e);
          Sums<S> of_off, of_a, of_p;
          clear<S>(of_off);
          if constexpr (mode == Mode::cap) {
            clear<S>(of_a);
            clear<S>(of_p);
          }
#pragma unroll 1
          for (int64_t kd = 0; kd < how.taps[0]; ++kd) {
            const int32_t o = upstream.readers[kd * p.depth() + d];
            if (o < 0) continue;
            gather(
                Tag<LoadedQuads<S>>{},
                kd,
                [&](int32_t at, int64_t k, Loaded<S, quad>& to) {
                  to = load_quad(upstream.at(how, n, o, at) + k, upstream.aligned, how.k - k);
                },
                [&](const LoadedQuads<S>& a, int64_t matrix, int64_t k) {
                  add_product<S>(of_off, a, weights.part[of_difference].at(matrix, block, k));
                  if constexpr (mode == Mode::cap) {
                    if constexpr (!of_base)
                      add_product<S>(of_a, a, weights.part[of_moved].at(matrix, block, k));
                    add_product<S>(of_p, a, weights.part[of_product].at(matrix, block, k));
                  }
                });
          }
          each([&](int32_t i, int32_t k, int64_t c) {
            if (own[i] < 0 || (!of_base && other[i] < 0)) return;
            const int32_t moved_at = of_base ? other[i] : own[i];
            const auto f = load_features<2>(view, features, moved_at, c);
            const auto s = load_mask<2>(view, mask, moved_at, c);
            const auto r = load_features<2>(view, base, of_base ? own[i] : other[i], c);
#pragma unroll
            for (int32_t b = 0; b < 2; ++b) {
              const T feature = f[b], saturated = s[b];
              const T here = r[b];
              const T a = moved<mode>(feature, saturated, exposure, ceiling, p.masked);
              T sum = math::with_sign(a - here, of_off[i][k + b]);
              if constexpr (of_base) {
                if constexpr (mode == Mode::cap) sum -= a * of_p[i][k + b];
                total[i][k + b] -= sum;
              } else {
                if constexpr (mode == Mode::cap) sum += of_a[i][k + b] + here * of_p[i][k + b];
                total[i][k + b] +=
                    slope<mode>(feature, saturated, exposure, ceiling, p.masked) * sum;
              }
            }
          });
        }

#pragma unroll 1
        for (int32_t part = 0; part < linear_parts<mode>; ++part) {
          Sums<S> of_a, of_p;
          if constexpr (!of_base) clear<S>(of_a);
          clear<S>(of_p);
#pragma unroll 1
          for (int64_t kd = 0; kd < how.taps[0]; ++kd)
            gather(
                Tag<Quads<S>>{},
                kd,
                [&](int32_t at, int64_t k, T(&to)[quad]) {
#pragma unroll 1
                  for (int64_t e = 0; e < p.exposures; ++e) {
                    const int32_t o = upstream.readers[kd * p.depth() + view.depth(image, m, e)];
                    if (o < 0) continue;
                    const T by = is_scaled<mode>(part) ? view.exposures[e] : T(1);
                    const auto more =
                        load_quad(upstream.at(how, n, o, at) + k, upstream.aligned, how.k - k);
#pragma unroll
                    for (int32_t j = 0; j < quad; ++j) to[j] += by * more[j];
                  }
                },
                [&](const Quads<S>& a, int64_t matrix, int64_t k) {
                  if constexpr (!of_base)
                    add_product<S>(of_a, a, weights.part[of_moved].at(matrix, block, k));
                  add_product<S>(of_p, a, weights.part[of_product].at(matrix, block, k));
                });
          each([&](int32_t i, int32_t k, int64_t c) {
            if (own[i] < 0 || other[i] < 0) return;
            const int32_t moved_at = of_base ? other[i] : own[i];
            const auto s = load_mask<2>(view, mask, moved_at, c);
            const auto x = load_features<2>(view, of_base ? features : base, other[i], c);
#pragma unroll
            for (int32_t b = 0; b < 2; ++b) {
              const T share = share_of_part<mode>(part, s[b]);
              const T value = x[b] * of_p[i][k + b];
              if constexpr (of_base)
                total[i][k + b] += share * value;
              else
                total[i][k + b] += share * (of_a[i][k + b] + value);
            }
          });
        }
      }
    }

    if constexpr (of_base) {
      Sums<S> of_p;
      clear<S>(of_p);
#pragma unroll 1
      for (int64_t matrix = 0; matrix < how.taps[0] * taps; ++matrix) {
        Places<S> from;
        if (!rows.readers(how, matrix % taps, 0, 0, from)) continue;
#pragma unroll 1
        for (int64_t k = 0; k < columns; k += span<S>) {
          const int64_t first = k + lane_channel<S>();
#pragma unroll 1
          for (int32_t kind = 0; kind < map_kinds; ++kind) {
            Quads<S> a;
            clear<S>(a);
#pragma unroll
            for (int32_t i = 0; i < lane_rows<S>; ++i)
              if (from[i] >= 0) {
                const auto sum =
                    load_quad(upstream.sum(how, n, from[i], kind, matrix / taps) + first,
                              how.k % quad == 0,
                              how.k - first);
#pragma unroll
                for (int32_t j = 0; j < quad; ++j) a[i][j] = sum[j];
              }
            add_product<S>(total, a, weights.part[of_reference].at(matrix, block, k));
            if (kind != of_constant) continue;
            add_product<S>(total, a, weights.part[of_moved].at(matrix, block, k));
            add_product<S>(of_p, a, weights.part[of_product].at(matrix, block, k));
          }
        }
      }
      each([&](int32_t i, int32_t k, int64_t c) {
        const auto r = load_features<2>(view, view.image(n, p.reference), own[i], c);
#pragma unroll
        for (int32_t b = 0; b < 2; ++b) total[i][k + b] += T(2) * r[b] * of_p[i][k + b];
      });
    }

    each([&](int32_t i, int32_t k, int64_t c) {
      if (own[i] < 0) return;
#pragma unroll
      for (int32_t b = 0; b < 2; ++b)
        if (c + b < p.c)
          out[((n * p.count + own_image) * p.c + c + b) * p.plane() + own[i]] =
              static_cast<S>(total[i][k + b]);
    });
  }
}

// ---- of the weight ----

// Depth taps of a warp.
template <class S>
constexpr int32_t weight_window = std::is_same_v<S, double> ? 1 : window;

constexpr int64_t tile_pixels = 64;     // of the result, that are taken together
constexpr int64_t units_wanted = 2048;  // warps that shares of the sums are made for

// What a warp of the gradient of the weight owns, and how many shares there are.
struct WeightUnits {
  int64_t windows, taps, channel_blocks, column_blocks, shares;
  HDROPS_HD_MEMBER int64_t kinds() const {
    return all_parts * windows * taps * channel_blocks * column_blocks;
  }
};

template <class S>
WeightUnits weight_units(const VolumeProblem& p, const Convolved& how) {
  WeightUnits units{ceil_div(how.taps[0], weight_window<S>),
                    plane_taps(how),
                    ceil_div(p.c, warp_columns),
                    ceil_div(how.k, warp_columns),
                    1};
  const int64_t tiles = p.n * ceil_div(how.size[1] * how.size[2], tile_pixels);
  const int64_t items = tiles * std::max<int64_t>(1, (p.count - 1) * p.motions);
  units.shares = math::clamp<int64_t>(units_wanted / units.kinds(), 1, std::max<int64_t>(1, items));
  return units;
}

// Four columns from each of `from`'s, or eight, of which `known` exist.
template <class S, class From>
__device__ __forceinline__ void add_columns(const From* from,
                                            bool aligned,
                                            int64_t known,
                                            Compute<S> by,
                                            Compute<S> (&to)[outer_columns<S>]) {
#pragma unroll
  for (int32_t first = 0; first < outer_columns<S>; first += quad) {
    const auto four = load_quad(from + first, aligned, known - first);
#pragma unroll
    for (int32_t k = 0; k < quad; ++k) to[first + k] += by * four[k];
  }
}

// Shares (share, part, depth tap, tap, channel, column) of the sums.
template <class S, Mode mode>
__global__ void __launch_bounds__(block_threads) differentiate_weight(
    VolumeView<S> view, Convolved how, Upstream<S> upstream, WeightUnits of, Compute<S>* shares) {
  using T = Compute<S>;
  constexpr int32_t window = weight_window<S>;
  const VolumeProblem& p = view.p;
  const int64_t pixels = how.size[1] * how.size[2], tiles = ceil_div(pixels, tile_pixels);
  const int64_t others = p.count - 1, units = of.kinds() * of.shares;
  const T ceiling = static_cast<T>(p.ceiling);
  for (int64_t unit = int64_t{blockIdx.x} * block_warps + warp_of_thread(); unit < units;
       unit += int64_t{gridDim.x} * block_warps) {
    __syncwarp();
    const int64_t k_block = unit % of.column_blocks;
    int64_t rest = unit / of.column_blocks;
    const int64_t c_block = rest % of.channel_blocks;
    rest /= of.channel_blocks;
    const int64_t tap = rest % of.taps;
    rest /= of.taps;
    const int64_t kd0 = rest % of.windows * window;
    rest /= of.windows;
    const auto part = static_cast<Part>(rest % all_parts);
    const int64_t share = rest / all_parts;
    const int64_t column = k_block * warp_columns + outer_column<S>(), known = how.k - column;
    const int64_t c = c_block * warp_columns + outer_channel();
    OuterSums<S> sums[window];
#pragma unroll
    for (auto& sum : sums) clear<S>(sum);

    // A lane's rows of pixels of the result from `first`, and what their tap reads.
    const auto places = [&](int64_t first,
                            int32_t down,
                            int32_t right,
                            int32_t (&pixel)[quad],
                            int32_t (&here)[quad],
                            int32_t (&there)[quad]) {
      const auto high = static_cast<int32_t>(p.height), wide = static_cast<int32_t>(p.width);
      const auto across = static_cast<int32_t>(how.size[2]);
#pragma unroll
      for (int32_t i = 0; i < quad; ++i) {
        const auto at = static_cast<int32_t>(first + outer_row<S>(i));
        pixel[i] = at < pixels ? at : -1;
        const int32_t y = at / across * static_cast<int32_t>(how.stride[1]) -
                          static_cast<int32_t>(how.padding[1]) +
                          static_cast<int32_t>(tap / how.taps[2] * how.dilation[1]);
        const int32_t x = at % across * static_cast<int32_t>(how.stride[2]) -
                          static_cast<int32_t>(how.padding[2]) +
                          static_cast<int32_t>(tap % how.taps[2] * how.dilation[2]);
        const bool inside =
            at < pixels && y >= 0 && y < high && x >= 0 && x < wide && c < view.padded;
        here[i] = inside ? y * wide + x : -1;
        const bool overlaps =
            inside && y + down >= 0 && y + down < high && x + right >= 0 && x + right < wide;
        there[i] = overlaps ? (y + down) * wide + x + right : -1;
      }
    };

    if (part != of_reference) {
      const int64_t items = p.n * others * p.motions * tiles;
#pragma unroll 1
      for (int64_t item = share * items / of.shares; item < (share + 1) * items / of.shares;
           ++item) {
        const int64_t tile = item % tiles, m = item / tiles % p.motions;
        const int64_t place = item / tiles / p.motions % others;
        const int64_t n = item / tiles / p.motions / others;
        const int64_t image = place + (place >= p.reference ? 1 : 0);
        const int32_t down = view.step(m, 0), right = view.step(m, 1);
#pragma unroll 1
        for (int64_t first = tile * tile_pixels; first < min(pixels, (tile + 1) * tile_pixels);
             first += outer_rows<S>) {
          int32_t pixel[quad], here[quad], there[quad];
          places(first, down, right, pixel, here, there);
          Loaded<S, quad> f[quad], s[quad], r[quad];
#pragma unroll
          for (int32_t i = 0; i < quad; ++i) {
            f[i] = load_features<quad>(view, view.image(n, image), there[i], c);
            s[i] = load_mask<quad>(view, view.mask(n, image), there[i], c);
            r[i] = load_features<quad>(view, view.image(n, p.reference), here[i], c);
          }
          const auto add_gradients = [&](int64_t kd, int64_t e, T by, OuterColumns<S>& to) {
            const int32_t o = upstream.readers[kd * p.depth() + view.depth(image, m, e)];
            if (o < 0) return false;
#pragma unroll
            for (int32_t i = 0; i < quad; ++i)
              if (pixel[i] >= 0)
                add_columns<S>(
                    upstream.at(how, n, o, pixel[i]) + column, upstream.aligned, known, by, to[i]);
            return true;
          };
          if (mode == Mode::cap || part == of_difference) {
#pragma unroll 1
            for (int64_t e = 0; e < p.exposures; ++e) {
              const T exposure = view.exposures[e];
              OuterRows<S> a;
#pragma unroll
              for (int32_t i = 0; i < quad; ++i)
#pragma unroll
                for (int32_t k = 0; k < quad; ++k) {
                  const T value = moved<mode>(f[i][k], s[i][k], exposure, ceiling, p.masked);
                  const T here_value = r[i][k];
                  a[i][k] = part == of_difference ? Difference{}(value, here_value)
                            : part == of_moved    ? value
                                                  : value * here_value;
                }
#pragma unroll
              for (int32_t j = 0; j < window; ++j) {
                if (kd0 + j >= how.taps[0]) continue;
                OuterColumns<S> b;
                clear<S>(b);
                if (add_gradients(kd0 + j, e, T(1), b)) add_outer<S>(sums[j], a, b);
              }
            }
          } else {
#pragma unroll 1
            for (int32_t linear = 0; linear < linear_parts<mode>; ++linear) {
              OuterRows<S> a;
#pragma unroll
              for (int32_t i = 0; i < quad; ++i)
#pragma unroll
                for (int32_t k = 0; k < quad; ++k) {
                  a[i][k] = f[i][k] * share_of_part<mode>(linear, s[i][k]);
                  if (part == of_product) a[i][k] *= r[i][k];
                }
#pragma unroll
              for (int32_t j = 0; j < window; ++j) {
                if (kd0 + j >= how.taps[0]) continue;
                OuterColumns<S> b;
                clear<S>(b);
                bool any = false;
#pragma unroll 1
                for (int64_t e = 0; e < p.exposures; ++e)
                  any |= add_gradients(
                      kd0 + j, e, is_scaled<mode>(linear) ? view.exposures[e] : T(1), b);
                if (any) add_outer<S>(sums[j], a, b);
              }
            }
          }
        }
      }
    }

    if (part != of_difference) {
      const int64_t items = p.n * tiles;
#pragma unroll 1
      for (int64_t item = share * items / of.shares; item < (share + 1) * items / of.shares;
           ++item) {
        const int64_t tile = item % tiles, n = item / tiles;
#pragma unroll 1
        for (int64_t first = tile * tile_pixels; first < min(pixels, (tile + 1) * tile_pixels);
             first += outer_rows<S>) {
          int32_t pixel[quad], here[quad], there[quad];
          places(first, 0, 0, pixel, here, there);
          OuterRows<S> a;
#pragma unroll
          for (int32_t i = 0; i < quad; ++i) {
            const auto r = load_features<quad>(view, view.image(n, p.reference), here[i], c);
#pragma unroll
            for (int32_t k = 0; k < quad; ++k) {
              a[i][k] = r[k];
              if (part == of_product) a[i][k] *= a[i][k];
            }
          }
#pragma unroll
          for (int32_t j = 0; j < window; ++j) {
            if (kd0 + j >= how.taps[0]) continue;
            OuterColumns<S> b;
            clear<S>(b);
#pragma unroll
            for (int32_t kind = 0; kind < map_kinds; ++kind) {
              if (kind == of_others && part != of_reference) continue;
#pragma unroll
              for (int32_t i = 0; i < quad; ++i)
                if (pixel[i] >= 0)
                  add_columns<S>(upstream.sum(how, n, pixel[i], kind, kd0 + j) + column,
                                 how.k % quad == 0,
                                 known,
                                 T(1),
                                 b[i]);
            }
            add_outer<S>(sums[j], a, b);
          }
        }
      }
    }

    const int64_t wide = of.column_blocks * warp_columns;
#pragma unroll
    for (int32_t j = 0; j < window; ++j) {
      if (kd0 + j >= how.taps[0]) continue;
      const int64_t plane = ((share * all_parts + part) * how.taps[0] + kd0 + j) * of.taps + tap;
      T* const to = shares + (plane * of.channel_blocks + c_block) * warp_columns * wide +
                    k_block * warp_columns;
#pragma unroll
      for (int32_t m = 0; m < 2; ++m)
#pragma unroll
        for (int32_t k = 0; k < 16; ++k)
          to[outer_sum_channel(m, k) * wide + outer_sum_column(k)] = sums[j][m][k];
    }
  }
}

template <class S>
__global__ void __launch_bounds__(elementwise_threads)
    sum_shares(VolumeProblem p, Convolved how, WeightUnits of, const Compute<S>* shares, S* out) {
  using T = Compute<S>;
  const int64_t taps = how.taps[0] * of.taps, all = how.k * p.channels() * taps;
  const int64_t wide = of.column_blocks * warp_columns, high = of.channel_blocks * warp_columns;
  over(all, [&](int64_t index) {
    const int64_t tap = index % taps, channel = index / taps % p.channels();
    const int64_t k = index / taps / p.channels();
    const int64_t part = min(channel / p.c, int64_t{of_product});
    const bool summed = part == of_product && p.inner;
    const int64_t first = summed ? 0 : channel - part * p.c, last = summed ? p.c : first + 1;
    T total = 0;
    for (int64_t share = 0; share < of.shares; ++share)
      for (int64_t c = first; c < last; ++c)
        total += shares[(((share * all_parts + part) * taps + tap) * high + c) * wide + k];
    out[index] = static_cast<S>(total);
  });
}

std::tuple<Tensor, Tensor> matching_conv3d_backward(const Tensor& grad_in,
                                                    const Tensor& features_in,
                                                    const std::optional<Tensor> saturation_in,
                                                    const Tensor& weight_in,
                                                    const Tensor& motions_in,
                                                    const std::vector<double> exposures,
                                                    int64_t reference,
                                                    bool cap,
                                                    double ceiling,
                                                    bool inner,
                                                    const std::vector<int64_t> order,
                                                    bool include_reference,
                                                    const std::vector<int64_t> stride,
                                                    const std::vector<int64_t> padding,
                                                    const std::vector<int64_t> dilation,
                                                    bool wants_features,
                                                    bool wants_weight) {
  const char* const op = "matching_conv3d_backward";
  const VolumeArguments arguments(op,
                                  features_in,
                                  saturation_in,
                                  motions_in,
                                  exposures,
                                  reference,
                                  cap,
                                  ceiling,
                                  inner,
                                  order,
                                  include_reference);
  const VolumeProblem& p = arguments.problem;
  const Convolved how = check_convolution(op, p, features_in, weight_in, stride, padding, dilation);
  check_gradient(op, grad_in, convolved_shape(p, how), features_in);
  const Launcher launch(features_in);
  const ScalarType dtype = features_in.scalar_type();
  const std::vector<int64_t> none = {0}, of_features = shape_of(features_in);
  const std::vector<int64_t> of_weight = shape_of(weight_in);
  const Tensor grad_features = allocate(wants_features ? of_features : none, dtype, features_in);
  const Tensor grad_weight = allocate(wants_weight ? of_weight : none, dtype, features_in);
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  const Tensor weight = torch::stable::contiguous(weight_in);
  const int64_t pixels = how.size[1] * how.size[2];
  if (!wants_features && !wants_weight) return {grad_features, grad_weight};
  with_float_type(dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    using T = Compute<S>;
    const DeviceVolume<S> volume(launch, arguments);
    check_places("pixels of the result", pixels);
    const DeviceSlices slices(launch, p, features_in);
    const Tensor readers =
        allocate({std::max<int64_t>(1, how.taps[0] * p.depth())}, ScalarType::Int, features_in);
    launch(&write_readers,
           elementwise_blocks(how.taps[0] * p.depth()),
           elementwise_threads,
           0,
           p.depth(),
           how,
           data_of<int32_t>(readers));
    const Tensor sums =
        allocate({p.n, pixels, map_kinds, how.taps[0], how.k}, compute_dtype(dtype), features_in);
    launch(&sum_over_depth<S>,
           elementwise_blocks(p.n * pixels * how.taps[0] * how.k),
           elementwise_threads,
           0,
           const_data_of<S>(grad),
           p.n,
           p.depth(),
           how,
           slices.table(),
           data_of<T>(sums));
    const Upstream<S> upstream{const_data_of<S>(grad),
                               const_data_of<T>(sums),
                               const_data_of<int32_t>(readers),
                               how.k % quad == 0 && is_aligned<S>(grad, quad)};
    with_mode(p, [&](auto mode) {
      constexpr Mode which = decltype(mode)::value;
      if (wants_features && grad_features.numel() > 0) {
        const DevicePartWeights<S> weights(launch, p, how, weight, true);
        const int64_t classes =
            std::min(how.stride[1], p.height) * std::min(how.stride[2], p.width);
        const int64_t most = ceil_div(p.height, how.stride[1]) * ceil_div(p.width, how.stride[2]);
        const int64_t units =
            p.n * ceil_div(p.c, warp_columns) * classes * ceil_div(most, warp_rows<S>);
        const auto differentiate = [&](auto kernel, int64_t images) {
          launch(kernel,
                 ceil_div(units * images, block_warps),
                 block_threads,
                 0,
                 volume.view,
                 how,
                 weights(),
                 upstream,
                 data_of<S>(grad_features));
        };
        differentiate(&differentiate_features<S, which, true>, 1);
        differentiate(&differentiate_features<S, which, false>, p.count - 1);
      }
      if (!wants_weight) return;
      const WeightUnits of = weight_units<S>(p, how);
      const Tensor shares = allocate({of.shares,
                                      all_parts * how.taps[0] * of.taps,
                                      of.channel_blocks * warp_columns,
                                      of.column_blocks * warp_columns},
                                     compute_dtype(dtype),
                                     features_in);
      launch(&differentiate_weight<S, which>,
             ceil_div(of.kinds() * of.shares, block_warps),
             block_threads,
             0,
             volume.view,
             how,
             upstream,
             of,
             data_of<T>(shares));
      launch(&sum_shares<S>,
             elementwise_blocks(weight.numel()),
             elementwise_threads,
             0,
             p,
             how,
             of,
             const_data_of<T>(shares),
             data_of<S>(grad_weight));
    });
  });
  return {grad_features, grad_weight};
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) {
  m.impl("matching_conv3d_backward", TORCH_BOX(&hdrops::matching_conv3d_backward));
}
