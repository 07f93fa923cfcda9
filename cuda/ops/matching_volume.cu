// The matching volume on CUDA, and its convolution without the volume.
//
// A warp makes the operand of its products in registers, lane by lane, from the features, and owns
// 32 columns of 32 pixels of three neighbouring slices of the result. |F' - F_ref| is multiplied for
// each slice that a result reads. What is linear in F', with a gain as mask, is multiplied once for
// all slices of one image and motion that they read, and scaled: the moved features and products
// alike. (On tensor cores that is cheaper than to gather maps of the moved linear part, which would
// be four bytes for each two of the result.) What does not depend on the motion comes from maps of
// each depth tap.

#include <torch/csrc/stable/library.h>

#include "hdrops/matching_convolution.cuh"

namespace hdrops {
namespace {

// Where a pixel's moved one is, or -1.
__device__ int32_t moved_place(const VolumeProblem& p, int32_t pixel, int32_t down, int32_t right) {
  const auto high = static_cast<int32_t>(p.height), wide = static_cast<int32_t>(p.width);
  const int32_t y = pixel / wide + down, x = pixel % wide + right;
  return y >= 0 && y < high && x >= 0 && x < wide ? y * wide + x : -1;
}

// ---- the volume itself: a thread has four channels of a pixel of a slice ----

template <class S, Mode mode>
__global__ void __launch_bounds__(elementwise_threads, 2)
    fill_volume(VolumeView<S> view, SliceTable table, S* out) {
  using T = Compute<S>;
  const VolumeProblem& p = view.p;
  const int64_t quads = ceil_div(p.c, quad), channels = p.channels();
  const bool whole = p.c % quad == 0 && !p.inner;
  over(p.n * p.depth() * p.plane() * quads, [&](int64_t index) {
    const int64_t c = index % quads * quad, place = index / quads;
    const auto pixel = static_cast<int32_t>(place % p.plane());
    const int64_t slice = place / p.plane();
    const int64_t d = slice % p.depth(), n = slice / p.depth();
    const S* const base = view.image(n, p.reference);
    const bool constant = is_constant(table, d);
    const int64_t i = constant ? p.reference : table.keys[d] / p.motions;
    const int64_t m = constant ? 0 : table.keys[d] % p.motions;
    const T exposure = view.exposures[table.exposures[d]], ceiling = static_cast<T>(p.ceiling);
    const int32_t there =
        constant ? pixel : moved_place(p, pixel, view.step(m, 0), view.step(m, 1));
    const auto others = [&](int64_t first, T(&a)[quad], T(&r)[quad]) {
      const auto base_here = load_features<quad>(view, base, pixel, first);
      const auto f = load_features<quad>(view, view.image(n, i), there, first);
      const auto s = load_mask<quad>(view, view.mask(n, i), there, first);
#pragma unroll
      for (int32_t k = 0; k < quad; ++k) {
        r[k] = base_here[k];
        a[k] = constant ? r[k] : moved<mode>(f[k], s[k], exposure, ceiling, p.masked);
      }
    };
    T a[quad], r[quad];
    others(c, a, r);
    S* const to = out + place * channels + c;
    Pack<S, quad> parts[all_parts];
#pragma unroll
    for (int32_t k = 0; k < quad; ++k) {
      parts[of_moved].item[k] = static_cast<S>(a[k]);
      parts[of_reference].item[k] = static_cast<S>(r[k]);
      parts[of_difference].item[k] = static_cast<S>(Difference{}(a[k], r[k]));
      parts[of_product].item[k] = static_cast<S>(a[k] * r[k]);
    }
    if (whole) {
#pragma unroll
      for (int32_t part = 0; part < all_parts; ++part)
        *reinterpret_cast<Pack<S, quad>*>(to + part * p.c) = parts[part];
      return;
    }
#pragma unroll
    for (int32_t part = 0; part < all_parts; ++part) {
      if (part == of_product && p.inner) continue;
#pragma unroll
      for (int32_t k = 0; k < quad; ++k)
        if (c + k < p.c) to[part * p.c + k] = parts[part].item[k];
    }
    if (!p.inner || c != 0) return;
    T total = 0;
    for (int64_t first = 0; first < p.c; first += quad) {
      others(first, a, r);
#pragma unroll
      for (int32_t k = 0; k < quad; ++k)
        if (first + k < p.c) total += a[k] * r[k];
    }
    to[3 * p.c] = static_cast<S>(total);
  });
}

Tensor matching_volume(const Tensor& features_in,
                       const std::optional<Tensor> saturation_in,
                       const Tensor& motions_in,
                       const std::vector<double> exposures,
                       int64_t reference,
                       bool cap,
                       double ceiling,
                       bool inner,
                       const std::vector<int64_t> order,
                       bool include_reference) {
  const VolumeArguments arguments("matching_volume",
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
  const Launcher launch(features_in);
  const Tensor out = allocate(volume_shape(p), features_in.scalar_type(), features_in);
  if (out.numel() == 0) return out;
  with_float_type(features_in.scalar_type(), [&](auto tag) {
    using S = typename decltype(tag)::type;
    const DeviceVolume<S> volume(launch, arguments);
    const DeviceSlices slices(launch, p, features_in);
    with_mode(p, [&](auto mode) {
      launch(&fill_volume<S, decltype(mode)::value>,
             elementwise_blocks(p.n * p.depth() * p.plane() * ceil_div(p.c, quad)),
             elementwise_threads,
             0,
             volume.view,
             slices.table(),
             data_of<S>(out));
    });
  });
  return out;
}

// Its gradient: a thread gathers that of a channel of a pixel from all slices that hold it.
template <class S, Mode mode>
__global__ void __launch_bounds__(elementwise_threads, 2)
    differentiate_volume(VolumeView<S> view, const S* grad, S* out) {
  using T = Compute<S>;
  const VolumeProblem& p = view.p;
  const int64_t channels = p.channels();
  const T ceiling = static_cast<T>(p.ceiling);
  over(p.n * p.count * p.plane() * p.c, [&](int64_t index) {
    const int64_t c = index % p.c;
    const auto pixel = static_cast<int32_t>(index / p.c % p.plane());
    const int64_t image = index / p.c / p.plane() % p.count, n = index / p.c / p.plane() / p.count;
    const auto gradients = [&](int64_t i, int64_t m, int64_t e, int64_t at) {
      const int64_t slice = n * p.depth() + view.depth(i, m, e);
      return grad + (slice * p.plane() + at) * channels;
    };
    const int64_t product = 3 * p.c + (p.inner ? 0 : c);
    T total = 0;
    const auto loaded = [&](int64_t i, int32_t place) {
      return load_features<1>(view, view.image(n, i), place, c)[0];
    };
    const auto mask = [&](int64_t i, int32_t place) {
      return load_mask<1>(view, view.mask(n, i), place, c)[0];
    };
    const T own = loaded(image, pixel);
    if (image != p.reference) {
      const T s = mask(image, pixel);
      for (int64_t m = 0; m < p.motions; ++m) {
        const int32_t at = moved_place(p, pixel, -view.step(m, 0), -view.step(m, 1));
        if (at < 0) continue;
        const T r = loaded(p.reference, at);
        for (int64_t e = 0; e < p.exposures; ++e) {
          const T exposure = view.exposures[e];
          const S* const from = gradients(image, m, e, at);
          const T a = moved<mode>(own, s, exposure, ceiling, p.masked);
          total += slope<mode>(own, s, exposure, ceiling, p.masked) *
                   (static_cast<T>(from[c]) + r * static_cast<T>(from[product]) +
                    math::with_sign(a - r, static_cast<T>(from[2 * p.c + c])));
        }
      }
    } else {
      for (int64_t i = 0; i < p.count; ++i) {
        const bool constant = i == p.reference;
        if (constant && !p.include_reference) continue;
        for (int64_t m = 0; m < p.motions; ++m) {
          const int32_t there = moved_place(p, pixel, view.step(m, 0), view.step(m, 1));
          const T f = constant ? own : loaded(i, there), s = constant ? T(0) : mask(i, there);
          for (int64_t e = 0; e < p.exposures; ++e) {
            const S* const from = gradients(i, m, e, pixel);
            const T of_product_here = static_cast<T>(from[product]);
            total += static_cast<T>(from[p.c + c]);
            if (constant) {
              total += static_cast<T>(from[c]) + T(2) * own * of_product_here;
              continue;
            }
            const T a = moved<mode>(f, s, view.exposures[e], ceiling, p.masked);
            total +=
                a * of_product_here - math::with_sign(a - own, static_cast<T>(from[2 * p.c + c]));
          }
        }
      }
    }
    out[((n * p.count + image) * p.c + c) * p.plane() + pixel] = static_cast<S>(total);
  });
}

Tensor matching_volume_backward(const Tensor& grad_in,
                                const Tensor& features_in,
                                const std::optional<Tensor> saturation_in,
                                const Tensor& motions_in,
                                const std::vector<double> exposures,
                                int64_t reference,
                                bool cap,
                                double ceiling,
                                bool inner,
                                const std::vector<int64_t> order,
                                bool include_reference) {
  const char* const op = "matching_volume_backward";
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
  check_gradient(op, grad_in, volume_shape(p), features_in);
  const Launcher launch(features_in);
  const ScalarType dtype = features_in.scalar_type();
  const Tensor out = allocate(shape_of(features_in), dtype, features_in);
  if (out.numel() == 0) return out;
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  with_float_type(dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    const DeviceVolume<S> volume(launch, arguments);
    with_mode(p, [&](auto mode) {
      launch(&differentiate_volume<S, decltype(mode)::value>,
             elementwise_blocks(out.numel()),
             elementwise_threads,
             0,
             volume.view,
             const_data_of<S>(grad),
             data_of<S>(out));
    });
  });
  return out;
}

// ---- its convolution ----

// The pixels of a lane's rows of a tile of the result: the first tap's row and column, far outside
// where there is no pixel.
template <class S>
struct OutputRows {
  int32_t y[lane_rows<S>], x[lane_rows<S>];

  __device__ OutputRows(const Convolved& how, int64_t tile) {
#pragma unroll
    for (int32_t i = 0; i < lane_rows<S>; ++i) {
      const int64_t pixel = tile * warp_rows<S> + row_of_lane(i);
      const bool there = pixel < how.size[1] * how.size[2];
      constexpr int32_t outside = -(1 << 30);
      y[i] = there ? static_cast<int32_t>(pixel / how.size[2] * how.stride[1] - how.padding[1])
                   : outside;
      x[i] = there ? static_cast<int32_t>(pixel % how.size[2] * how.stride[2] - how.padding[2])
                   : outside;
    }
  }

  // Places of a tap; and those of a moved image, -1 too where the tap itself is outside.
  __device__ void places(const VolumeProblem& p,
                         const Convolved& how,
                         int32_t tap,
                         int32_t down,
                         int32_t right,
                         Places<S>& here,
                         Places<S>& there) const {
    const auto high = static_cast<int32_t>(p.height), wide = static_cast<int32_t>(p.width);
    const auto across = static_cast<int32_t>(how.taps[2]);
    const int32_t ky = tap / across * static_cast<int32_t>(how.dilation[1]);
    const int32_t kx = tap % across * static_cast<int32_t>(how.dilation[2]);
#pragma unroll
    for (int32_t i = 0; i < lane_rows<S>; ++i) {
      const int32_t row = y[i] + ky, column = x[i] + kx;
      const bool known = row >= 0 && row < high && column >= 0 && column < wide;
      here[i] = known ? row * wide + column : -1;
      const bool overlaps = known && row + down >= 0 && row + down < high && column + right >= 0 &&
                            column + right < wide;
      there[i] = overlaps ? (row + down) * wide + column + right : -1;
    }
  }
};

// A warp has a tile of pixels, a kind of slices, a depth tap and a block of columns.
template <class S>
__global__ void __launch_bounds__(block_threads)
    make_maps(VolumeView<S> view, Convolved how, PartWeights<S> weights, Compute<S>* maps) {
  using T = Compute<S>;
  const VolumeProblem& p = view.p;
  const int64_t taps = plane_taps(how), pixels = how.size[1] * how.size[2];
  const int64_t tiles = ceil_div(pixels, warp_rows<S>), blocks = ceil_div(how.k, warp_columns);
  const int64_t planes = map_kinds * how.taps[0] * blocks;
  const int64_t units = p.n * planes * tiles;
  for (int64_t unit = int64_t{blockIdx.x} * block_warps + warp_of_thread(); unit < units;
       unit += int64_t{gridDim.x} * block_warps) {
    __syncwarp();
    const int64_t tile = unit % tiles, plane = unit / tiles % planes, n = unit / tiles / planes;
    const int64_t block = plane % blocks, kd = plane / blocks % how.taps[0];
    const bool constant = plane / blocks / how.taps[0] == of_constant;
    const OutputRows<S> rows(how, tile);
    const S* const base = view.image(n, p.reference);
    Sums<S> sums;
    clear<S>(sums);
    for (int32_t tap = 0; tap < taps; ++tap) {
      Places<S> here, unused;
      rows.places(p, how, tap, 0, 0, here, unused);
      for (int64_t c = 0; c < view.padded; c += span<S>) {
        Quads<S> r;
#pragma unroll
        for (int32_t i = 0; i < lane_rows<S>; ++i) {
          const auto pack = load_features<quad>(view, base, here[i], c + lane_channel<S>());
#pragma unroll
          for (int32_t k = 0; k < quad; ++k) r[i][k] = pack[k];
        }
        const auto at = [&](Part part) { return weights.part[part].at(kd * taps + tap, block, c); };
        add_product<S>(sums, r, at(of_reference));
        if (!constant) continue;
        add_product<S>(sums, r, at(of_moved));
#pragma unroll
        for (auto& row : r)
#pragma unroll
          for (auto& value : row) value *= value;
        add_product<S>(sums, r, at(of_product));
      }
    }
    const int64_t columns = planes * warp_columns;
#pragma unroll
    for (int32_t i = 0; i < lane_rows<S>; ++i) {
      const int64_t pixel = tile * warp_rows<S> + row_of_lane(i);
      if (pixel >= pixels) continue;
      T* const to = maps + (n * pixels + pixel) * columns + plane * warp_columns;
#pragma unroll
      for (int32_t k = 0; k < lane_columns; ++k) to[column_of_lane(k)] = sums[i][k];
    }
  }
}

constexpr int32_t none = 1 << 30;  // no key

// Slices of the result of a warp: linear parts are shared by those that read one motion. Under a
// ceiling there are none, and a mask and float64 need the registers.
template <class S, Mode mode>
constexpr int32_t group_of =
    mode == Mode::cap ? 1 : (mode == Mode::split || std::is_same_v<S, double> ? 2 : 3);

// Image and motion that slices of the result read, and exposures.
template <class T, int32_t count>
struct Read {
  int32_t keys[count];
  T exposures[count];
};

template <class S, Mode mode>
__global__ void __launch_bounds__(block_threads) convolve(VolumeView<S> view,
                                                          Convolved how,
                                                          SliceTable table,
                                                          PartWeights<S> weights,
                                                          const Compute<S>* maps,
                                                          const S* bias,
                                                          bool relu,
                                                          S* out) {
  using T = Compute<S>;
  constexpr int32_t group = group_of<S, mode>;
  const VolumeProblem& p = view.p;
  const auto taps = static_cast<int32_t>(plane_taps(how));
  const auto padded = static_cast<int32_t>(view.padded);
  const int64_t pixels = how.size[1] * how.size[2];
  const int64_t tiles = ceil_div(pixels, warp_rows<S>), blocks = ceil_div(how.k, warp_columns);
  const int64_t groups = ceil_div(how.size[0], group);
  const int64_t units = p.n * groups * blocks * tiles;
  const T ceiling = static_cast<T>(p.ceiling);
  __shared__ Read<T, group * window> reads[block_warps];
  for (int64_t unit = int64_t{blockIdx.x} * block_warps + warp_of_thread(); unit < units;
       unit += int64_t{gridDim.x} * block_warps) {
    __syncwarp();
    const int64_t tile = unit % tiles, block = unit / tiles % blocks;
    const int64_t first = unit / tiles / blocks % groups * group;
    const int64_t n = unit / tiles / blocks / groups;
    const OutputRows<S> rows(how, tile);
    const S* const base = kept(view.image(n, p.reference));
    Read<T, group * window>& read = reads[warp_of_thread()];
    Sums<S> sums[group];
#pragma unroll
    for (auto& sum : sums) clear<S>(sum);

#pragma unroll 1
    for (int64_t kd0 = 0; kd0 < how.taps[0]; kd0 += window) {
      // What each slice of the result reads with each depth tap: a lane looks one up.
      __syncwarp();
      if (lane_of_thread() < group * window) {
        const int64_t o = first + lane_of_thread() / window, kd = kd0 + lane_of_thread() % window;
        const int64_t d = o * how.stride[0] - how.padding[0] + kd * how.dilation[0];
        const bool there = kd < how.taps[0] && o < how.size[0] && d >= 0 && d < p.depth();
        read.keys[lane_of_thread()] = there ? table.keys[d] : none;
        read.exposures[lane_of_thread()] = there ? view.exposures[table.exposures[d]] : T(0);
      }
      __syncwarp();
#pragma unroll
      for (int32_t o = 0; o < group; ++o)
#pragma unroll 1
        for (int32_t j = 0; j < window; ++j) {
          const int32_t key = read.keys[o * window + j];
          if (key == none) continue;
          const int64_t columns = map_kinds * how.taps[0] * blocks * warp_columns;
          const int64_t kind = key < 0 ? of_constant : of_others;
          const T* const from = maps + (n * pixels + tile * warp_rows<S>)*columns +
                                ((kind * how.taps[0] + kd0 + j) * blocks + block) * warp_columns;
#pragma unroll
          for (int32_t i = 0; i < lane_rows<S>; ++i) {
            if (tile * warp_rows<S> + row_of_lane(i) >= pixels) continue;
#pragma unroll
            for (int32_t k = 0; k < lane_columns; ++k)
              sums[o][i][k] += from[row_of_lane(i) * columns + column_of_lane(k)];
          }
        }

      // One image and motion after the other, of those that are read.
#pragma unroll 1
      for (int32_t last = -1;;) {
        int32_t key = none;
#pragma unroll 1
        for (int32_t at = 0; at < group * window; ++at)
          if (read.keys[at] > last && read.keys[at] < key) key = read.keys[at];
        if (key == none) break;
        last = key;
        const int64_t image = key / p.motions, motion = key % p.motions;
        const S* const other = kept(view.image(n, image));
        const S* const mask = view.mask(n, image);
        const int32_t down = view.step(motion, 0), right = view.step(motion, 1);

#pragma unroll 1
        for (int32_t tap = 0; tap < taps; ++tap) {
          Places<S> here, there;
          rows.places(p, how, tap, down, right, here, there);
#pragma unroll 1
          for (int32_t c = 0; c < padded; c += span<S>) {
            const int32_t channel = c + lane_channel<S>();
            LoadedQuads<S> f, s, r;
#pragma unroll
            for (int32_t i = 0; i < lane_rows<S>; ++i) {
              f[i] = load_features<quad>(view, other, there[i], channel);
              if (mode != Mode::scaled) s[i] = load_mask<quad>(view, mask, there[i], channel);
              r[i] = load_features<quad>(view, base, here[i], channel);
            }
#pragma unroll
            for (int32_t o = 0; o < group; ++o)
#pragma unroll 1
              for (int32_t j = 0; j < window; ++j) {
                if (read.keys[o * window + j] != key) continue;
                const T exposure = read.exposures[o * window + j];
                const auto with = [&](const auto& value, Part part) {
                  Quads<S> a;
#pragma unroll
                  for (int32_t i = 0; i < lane_rows<S>; ++i)
#pragma unroll
                    for (int32_t k = 0; k < quad; ++k)
                      a[i][k] = value(moved<mode>(f[i][k], s[i][k], exposure, ceiling, p.masked),
                                      r[i][k]);
                  const int64_t matrix = (kd0 + j) * taps + tap;
                  add_product<S>(sums[o], a, weights.part[part].at(matrix, block, c));
                };
                with(Difference{}, of_difference);
                if constexpr (mode == Mode::cap) {
                  with(First{}, of_moved);
                  with(Product{}, of_product);
                }
              }
          }
        }

#pragma unroll 1
        for (int32_t part = 0; part < linear_parts<mode>; ++part) {
#pragma unroll 1
          for (int32_t j = 0; j < window; ++j) {
            bool any = false;
#pragma unroll
            for (int32_t o = 0; o < group; ++o) any |= read.keys[o * window + j] == key;
            if (!any) continue;
            Sums<S> linear;
            clear<S>(linear);
#pragma unroll 1
            for (int32_t tap = 0; tap < taps; ++tap) {
              Places<S> here, there;
              rows.places(p, how, tap, down, right, here, there);
              const int64_t matrix = (kd0 + j) * taps + tap;
#pragma unroll 1
              for (int32_t c = 0; c < padded; c += span<S>) {
                const int32_t channel = c + lane_channel<S>();
                LoadedQuads<S> f, r;
#pragma unroll
                for (int32_t i = 0; i < lane_rows<S>; ++i) {
                  f[i] = load_features<quad>(view, other, there[i], channel);
                  r[i] = load_features<quad>(view, base, here[i], channel);
                }
                const S* const of_f = weights.part[of_moved].at(matrix, block, c);
                const S* const of_product_here = weights.part[of_product].at(matrix, block, c);
                if constexpr (mode == Mode::scaled) {
                  add_product<S>(linear, f, of_f);
                  add_product<S>(linear, products<S>(f, r), of_product_here);
                  continue;
                }
                Quads<S> a;
#pragma unroll
                for (int32_t i = 0; i < lane_rows<S>; ++i) {
                  const auto s = load_mask<quad>(view, mask, there[i], channel);
#pragma unroll
                  for (int32_t k = 0; k < quad; ++k)
                    a[i][k] = f[i][k] * share_of_part<mode>(part, s[k]);
                }
                add_product<S>(linear, a, of_f);
#pragma unroll
                for (int32_t i = 0; i < lane_rows<S>; ++i)
#pragma unroll
                  for (int32_t k = 0; k < quad; ++k) a[i][k] *= r[i][k];
                add_product<S>(linear, a, of_product_here);
              }
            }
#pragma unroll
            for (int32_t o = 0; o < group; ++o) {
              if (read.keys[o * window + j] != key) continue;
              const T by = is_scaled<mode>(part) ? read.exposures[o * window + j] : T(1);
#pragma unroll
              for (int32_t i = 0; i < lane_rows<S>; ++i)
#pragma unroll
                for (int32_t k = 0; k < lane_columns; ++k) sums[o][i][k] += by * linear[i][k];
            }
          }
        }
      }
    }

#pragma unroll
    for (int32_t o = 0; o < group; ++o) {
      if (first + o >= how.size[0]) continue;
#pragma unroll
      for (int32_t i = 0; i < lane_rows<S>; ++i) {
        const int64_t pixel = tile * warp_rows<S> + row_of_lane(i);
        if (pixel >= pixels) continue;
        S* const to = out + ((n * how.size[0] + first + o) * pixels + pixel) * how.k;
        store_row(sums[o][i], bias, relu, block, how.k, to);
      }
    }
  }
}

Tensor matching_conv3d(const Tensor& features_in,
                       const std::optional<Tensor> saturation_in,
                       const Tensor& weight_in,
                       const std::optional<Tensor> bias_in,
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
                       bool relu) {
  const char* const op = "matching_conv3d";
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
  std::optional<Tensor> bias;
  if (bias_in) {
    check_bias(op, *bias_in, how, features_in);
    bias = torch::stable::contiguous(*bias_in);
  }
  const Launcher launch(features_in);
  const ScalarType dtype = features_in.scalar_type();
  const Tensor out = allocate(convolved_shape(p, how), dtype, features_in);
  if (out.numel() == 0) return out;
  const Tensor weight = torch::stable::contiguous(weight_in);
  with_float_type(dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    using T = Compute<S>;
    const DeviceVolume<S> volume(launch, arguments);
    const DeviceSlices slices(launch, p, features_in);
    const DevicePartWeights<S> weights(launch, p, how, weight, false);
    const int64_t pixels = how.size[1] * how.size[2], blocks = ceil_div(how.k, warp_columns);
    check_places("pixels of the result", pixels);
    const int64_t tiles = ceil_div(pixels, warp_rows<S>);
    const int64_t planes = map_kinds * how.taps[0] * blocks;
    const Tensor maps =
        allocate({p.n, pixels, planes * warp_columns}, compute_dtype(dtype), features_in);
    launch(&make_maps<S>,
           ceil_div(p.n * planes * tiles, block_warps),
           block_threads,
           0,
           volume.view,
           how,
           weights(),
           data_of<T>(maps));
    with_mode(p, [&](auto mode) {
      constexpr Mode which = decltype(mode)::value;
      launch(
          &convolve<S, which>,
          ceil_div(p.n * ceil_div(how.size[0], group_of<S, which>) * blocks * tiles, block_warps),
          block_threads,
          0,
          volume.view,
          how,
          slices.table(),
          weights(),
          const_data_of<T>(maps),
          bias ? const_data_of<S>(*bias) : nullptr,
          relu,
          data_of<S>(out));
    });
  });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) {
  m.impl("matching_volume", TORCH_BOX(&hdrops::matching_volume));
  m.impl("matching_volume_backward", TORCH_BOX(&hdrops::matching_volume_backward));
  m.impl("matching_conv3d", TORCH_BOX(&hdrops::matching_conv3d));
}
