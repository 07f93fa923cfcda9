#include "hdrops/simd/matching_volume.h"

#include <array>
#include <cstring>
#include <utility>

#include "hdrops/simd/convert.h"
#include "hdrops/simd/vectors.h"

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

// Accumulators of a strip product: two vectors for each pixel. They, two of weights and one of the
// strip fill the registers.
#if defined(__AVX512F__)
constexpr int64_t most_pixels = 14;
#else
constexpr int64_t most_pixels = 6;
#endif
constexpr int64_t vectors = 2;

template <class V>
inline V absolute(V x) {
  return x < V{} ? -x : x;
}
// multiply_add as a function object.
constexpr auto fused = [](auto a, auto b, auto c) { return multiply_add(a, b, c); };

template <Gain gain, class V>
inline V moved(V u, V v, V exposure, V ceiling) {
  return math::moved_feature<gain>(u, v, exposure, ceiling, fused);
}

template <Part part, class V>
inline V part_of(V a, V r) {
  if constexpr (part == Part::difference) return absolute(a - r);
  if constexpr (part == Part::product) return a * r;
  return a;
}

template <class T>
inline Vector<T> vector_of(T value) {
  return value - Vector<T>{};  // - 0 changes nothing, + 0 would change -0
}

template <Part part, Gain gain, class T>
void run_of(const MovedRun<T>& of, int64_t n, T* out) {
  constexpr bool has_v = gain == Gain::split || gain == Gain::blended;
  constexpr bool has_r = part != Part::moved;
  const Vector<T> exposure = vector_of(of.how.exposure), ceiling = vector_of(of.how.ceiling);
  int64_t i = 0;
  for (; i + lanes<T> <= n; i += lanes<T>) {
    const Vector<T> u = load_vector(of.u + i);
    const Vector<T> v = has_v ? load_vector(of.v + i) : Vector<T>{};
    const Vector<T> r = has_r ? load_vector(of.r + i) : Vector<T>{};
    store_vector(out + i, part_of<part>(moved<gain>(u, v, exposure, ceiling), r));
  }
  for (; i < n; ++i) {
    const T v = has_v ? of.v[i] : T(0), r = has_r ? of.r[i] : T(0);
    const Vector<T> a = moved<gain>(vector_of(of.u[i]), vector_of(v), exposure, ceiling);
    out[i] = part_of<part>(a, vector_of(r))[0];
  }
}

template <Part part, class T>
void run_part(const MovedRun<T>& of, int64_t n, T* out) {
  if (of.u == nullptr) {
    for (int64_t i = 0; i < n; ++i)
      out[i] = part == Part::difference ? (of.r[i] < 0 ? -of.r[i] : of.r[i])
               : part == Part::product  ? of.r[i] * 0
                                        : T(0);
    return;
  }
  switch (of.how.gain) {
    case Gain::scaled:
      return run_of<part, Gain::scaled>(of, n, out);
    case Gain::split:
      return run_of<part, Gain::split>(of, n, out);
    case Gain::capped:
      return run_of<part, Gain::capped>(of, n, out);
    default:
      return run_of<part, Gain::blended>(of, n, out);
  }
}

template <class T>
void run(Part part, const MovedRun<T>& of, int64_t n, T* out) {
  switch (part) {
    case Part::moved:
      return run_part<Part::moved>(of, n, out);
    case Part::difference:
      return run_part<Part::difference>(of, n, out);
    default:
      return run_part<Part::product>(of, n, out);
  }
}

template <class T>
void volume(const MovedRun<T>& of, int64_t pixels, int64_t channels, bool inner, T* out) {
  const int64_t all = 3 * channels + (inner ? 1 : channels);
  for (int64_t p = 0; p < pixels; ++p, out += all) {
    const int64_t at = p * channels;
    MovedRun<T> here = of;
    if (of.u != nullptr) here.u += at;
    if (of.v != nullptr) here.v += at;
    here.r += at;
    run_part<Part::moved>(here, channels, out);
    const T* const a = out;
    T* const rest = out + channels;
    T sum = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const T r = here.r[c], off = a[c] - r, product = a[c] * r;
      rest[c] = r;
      rest[channels + c] = off < 0 ? -off : off;
      if (inner)
        sum += product;
      else
        rest[2 * channels + c] = product;
    }
    if (inner) rest[2 * channels] = sum;
  }
}

template <class T, int64_t pixels>
void multiply_strip(const StripProduct<T>& of) {
  constexpr int64_t width = vectors * lanes<T>;
  const T* weight = of.weight;
  for (int64_t block = 0; block < of.blocks; ++block) {
    Vector<T> sum[pixels][vectors];
    T* const tile = of.tile + block * width;
#pragma GCC unroll 16
    for (int64_t p = 0; p < pixels; ++p)
#pragma GCC unroll 2
      for (int64_t k = 0; k < vectors; ++k)
        sum[p][k] = load_vector(tile + p * of.tile_stride + k * lanes<T>);
    for (int64_t t = 0; t < of.count; ++t) {
      const T* from = of.strip + of.taps[t];
      for (int64_t c = 0; c < of.channels; ++c, ++from, weight += width) {
        const Vector<T> w0 = load_vector(weight), w1 = load_vector(weight + lanes<T>);
#pragma GCC unroll 16
        for (int64_t p = 0; p < pixels; ++p) {
          const Vector<T> value = vector_of(from[p * of.step]);
          sum[p][0] = multiply_add(value, w0, sum[p][0]);
          sum[p][1] = multiply_add(value, w1, sum[p][1]);
        }
      }
    }
#pragma GCC unroll 16
    for (int64_t p = 0; p < pixels; ++p)
#pragma GCC unroll 2
      for (int64_t k = 0; k < vectors; ++k)
        store_vector(tile + p * of.tile_stride + k * lanes<T>, sum[p][k]);
  }
}

template <class T>
void multiply(const StripProduct<T>& of) {
  using Kernel = void (*)(const StripProduct<T>&);
  static constexpr auto kernels = []<int64_t... p>(std::integer_sequence<int64_t, p...>) {
    return std::array<Kernel, sizeof...(p)>{multiply_strip<T, p + 1>...};
  }(std::make_integer_sequence<int64_t, most_pixels>{});
  if (of.pixels > 0) kernels[of.pixels - 1](of);
}

template <class T>
void add(const T* from, T scale, int64_t n, T* to) {
  const Vector<T> by = vector_of(scale);
  int64_t i = 0;
  for (; i + lanes<T> <= n; i += lanes<T>)
    store_vector(to + i, multiply_add(by, load_vector(from + i), load_vector(to + i)));
  for (; i < n; ++i) to[i] = multiply_add(by, vector_of(from[i]), vector_of(to[i]))[0];
}

template <class T>
void relu(int64_t n, T* values) {
  for (int64_t i = 0; i < n; ++i) values[i] = values[i] < 0 ? T(0) : values[i];
}

// The first elements of a vector, of which the others are 0, and back.
template <class T>
inline Vector<T> load_part(const T* from, int64_t n) {
  Vector<T> value = {};
  std::memcpy(&value, from, static_cast<size_t>(n) * sizeof(T));
  return value;
}
template <class T>
inline void add_part(Vector<T> value, int64_t n, T* to) {
  const Vector<T> sum = load_part(to, n) + value;
  std::memcpy(to, &sum, static_cast<size_t>(n) * sizeof(T));
}

// Of n <= lanes channels from c of a pixel; all of them where `whole`.
template <Gain gain, bool there, bool whole, class T>
inline void differentiate_at(
    const MovedGradient<T>& of, int64_t p, int64_t at, int64_t c, int64_t n) {
  using V = Vector<T>;
  const auto load = [&](const T* from) { return whole ? load_vector(from) : load_part(from, n); };
  const auto add_to = [&](V value, T* to) {
    if constexpr (whole)
      store_vector(to, load_vector(to) + value);
    else
      add_part(value, n, to);
  };
  const V exposure = vector_of(of.run.how.exposure), ceiling = vector_of(of.run.how.ceiling);
  const V r = load(of.run.r + at);
  V u = {}, v = {}, a = {}, da = {}, dr = {};
  if constexpr (there) {
    u = load(of.run.u + at);
    if constexpr (gain == Gain::split || gain == Gain::blended) v = load(of.run.v + at);
    a = moved<gain>(u, v, exposure, ceiling);
  }
  const int64_t place = p * of.gap + c;
  if (of.t != nullptr) {
    const V t = load(of.t + place), off = a - r;
    const V signed_t = math::with_sign(off, t);
    da += signed_t;
    dr -= signed_t;
  }
  if (of.t1 != nullptr) da += load(of.t1 + place);
  if (of.t2 != nullptr) {
    const V t2 = of.inner ? vector_of(of.t2[p * of.gap]) : load(of.t2 + place);
    da += r * t2;
    dr += a * t2;
  }
  if (of.tr != nullptr) dr += load(of.tr + place);
  add_to(dr, of.dr + at);
  if constexpr (!there) return;
  if constexpr (gain == Gain::scaled) add_to(exposure * da, of.du + at);
  if constexpr (gain == Gain::split) {
    add_to(da, of.du + at);
    add_to(exposure * da, of.dv + at);
  }
  if constexpr (gain == Gain::capped || gain == Gain::blended)
    add_to(math::moved_slope<gain>(u, v, exposure, ceiling, fused) * da, of.du + at);
}

template <Gain gain, bool there, class T>
void differentiate_run(const MovedGradient<T>& of, int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; ++p) {
    int64_t c = 0;
    for (; c + lanes<T> <= channels; c += lanes<T>)
      differentiate_at<gain, there, true>(of, p, p * channels + c, c, lanes<T>);
    if (c < channels)
      differentiate_at<gain, there, false>(of, p, p * channels + c, c, channels - c);
  }
}

template <class T>
void differentiate(const MovedGradient<T>& of, int64_t pixels, int64_t channels) {
  if (of.run.u == nullptr) return differentiate_run<Gain::scaled, false>(of, pixels, channels);
  switch (of.run.how.gain) {
    case Gain::scaled:
      return differentiate_run<Gain::scaled, true>(of, pixels, channels);
    case Gain::split:
      return differentiate_run<Gain::split, true>(of, pixels, channels);
    case Gain::capped:
      return differentiate_run<Gain::capped, true>(of, pixels, channels);
    default:
      return differentiate_run<Gain::blended, true>(of, pixels, channels);
  }
}

// Channels whose sums are in registers at a time.
#if defined(__AVX512F__)
constexpr int64_t outer_channels = 8;
#else
constexpr int64_t outer_channels = 4;
#endif

template <class T, int64_t channels>
void outer_block(const T* strip, const StripOuter<T>& of, T* sums) {
  for (int64_t k = 0; k < of.columns; k += vectors * lanes<T>) {
    Vector<T> sum[channels][vectors];
#pragma GCC unroll 8
    for (int64_t c = 0; c < channels; ++c)
#pragma GCC unroll 2
      for (int64_t j = 0; j < vectors; ++j)
        sum[c][j] = load_vector(sums + c * of.columns + k + j * lanes<T>);
    const T* row = of.rows + k;
    const T* from = strip;
    for (int64_t p = 0; p < of.pixels; ++p, row += of.columns, from += of.step) {
      const Vector<T> g0 = load_vector(row), g1 = load_vector(row + lanes<T>);
#pragma GCC unroll 8
      for (int64_t c = 0; c < channels; ++c) {
        const Vector<T> value = vector_of(from[c]);
        sum[c][0] = multiply_add(value, g0, sum[c][0]);
        sum[c][1] = multiply_add(value, g1, sum[c][1]);
      }
    }
#pragma GCC unroll 8
    for (int64_t c = 0; c < channels; ++c)
#pragma GCC unroll 2
      for (int64_t j = 0; j < vectors; ++j)
        store_vector(sums + c * of.columns + k + j * lanes<T>, sum[c][j]);
  }
}

template <class T>
void outer(const StripOuter<T>& of) {
  for (int64_t t = 0; t < of.count; ++t) {
    const T* const strip = of.strip + of.taps[t];
    T* const sums = of.sums + t * of.gap;
    int64_t c = 0;
    for (; c + outer_channels <= of.channels; c += outer_channels)
      outer_block<T, outer_channels>(strip + c, of, sums + c * of.columns);
    for (; c < of.channels; ++c) outer_block<T, 1>(strip + c, of, sums + c * of.columns);
  }
}

template <class T>
constexpr MatchingVolumeLoopsOf<T> loops_of = {
    .pixels = most_pixels,
    .width = vectors * lanes<T>,
    .run = run<T>,
    .volume = volume<T>,
    .multiply = multiply<T>,
    .add = add<T>,
    .relu = relu<T>,
    .differentiate = differentiate<T>,
    .outer = outer<T>,
};

// ---- products in bfloat16, two at a time, summed in float32 ----

#if defined(__AVX512F__)
#define HDROPS_BF16 __attribute__((target("avx512bf16")))

HDROPS_BF16 void round_bf16(const float* from, int64_t n, bfloat16_bits* to) {
  int64_t i = 0;
  for (; i + lanes<float> <= n; i += lanes<float>) {
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(from + i));
    std::memcpy(to + i, &rounded, sizeof rounded);
  }
  store_run(from + i, n - i, to + i);
}

template <int64_t pixels>
HDROPS_BF16 void multiply_strip_bf16(const StripProduct<float, bfloat16_bits>& of) {
  constexpr int64_t width = vectors * lanes<float>;
  const bfloat16_bits* weight = of.weight;
  for (int64_t block = 0; block < of.blocks; ++block) {
    __m512 sum[pixels][vectors];
    float* const tile = of.tile + block * width;
#pragma GCC unroll 16
    for (int64_t p = 0; p < pixels; ++p)
#pragma GCC unroll 2
      for (int64_t k = 0; k < vectors; ++k)
        sum[p][k] = _mm512_loadu_ps(tile + p * of.tile_stride + k * lanes<float>);
    for (int64_t t = 0; t < of.count; ++t) {
      const bfloat16_bits* from = of.strip + of.taps[t];
      for (int64_t c = 0; c < of.channels; c += 2, from += 2, weight += 2 * width) {
        const auto w0 = (__m512bh)(_mm512_loadu_si512(weight));
        const auto w1 = (__m512bh)(_mm512_loadu_si512(weight + width));
#pragma GCC unroll 16
        for (int64_t p = 0; p < pixels; ++p) {
          int32_t pair;
          std::memcpy(&pair, from + p * of.step, sizeof pair);
          const auto value = (__m512bh)(_mm512_set1_epi32(pair));
          sum[p][0] = _mm512_dpbf16_ps(sum[p][0], value, w0);
          sum[p][1] = _mm512_dpbf16_ps(sum[p][1], value, w1);
        }
      }
    }
#pragma GCC unroll 16
    for (int64_t p = 0; p < pixels; ++p)
#pragma GCC unroll 2
      for (int64_t k = 0; k < vectors; ++k)
        _mm512_storeu_ps(tile + p * of.tile_stride + k * lanes<float>, sum[p][k]);
  }
}

void multiply_bf16(const StripProduct<float, bfloat16_bits>& of) {
  using Kernel = void (*)(const StripProduct<float, bfloat16_bits>&);
  static constexpr auto kernels = []<int64_t... p>(std::integer_sequence<int64_t, p...>) {
    return std::array<Kernel, sizeof...(p)>{multiply_strip_bf16<p + 1>...};
  }(std::make_integer_sequence<int64_t, most_pixels>{});
  if (of.pixels > 0) kernels[of.pixels - 1](of);
}

bool has_bf16() { return __builtin_cpu_supports("avx512bf16") != 0; }
#else
constexpr void (*multiply_bf16)(const StripProduct<float, bfloat16_bits>&) = nullptr;
constexpr void (*round_bf16)(const float*, int64_t, bfloat16_bits*) = nullptr;

bool has_bf16() { return false; }
#endif

}  // namespace

const MatchingVolumeLoops matching_volume_loops = {
    .f32 = loops_of<float>,
    .f64 = loops_of<double>,
    .multiply_bf16 = multiply_bf16,
    .round_bf16 = round_bf16,
    .has_bf16 = has_bf16,
};

}  // namespace HDROPS_LEVEL
}  // namespace hdrops
