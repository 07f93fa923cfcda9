#include "hdrops/simd/gaussian.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "hdrops/simd/convert.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

// ---- vectors ------------------------------------------------------------------------------------

#if defined(__AVX512F__)
constexpr int64_t vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int64_t vector_bytes = 32;
#else
constexpr int64_t vector_bytes = 16;
#endif

template <class T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(vector_bytes)));
  static constexpr int64_t count = vector_bytes / static_cast<int64_t>(sizeof(T));
};
template <class T>
using Vector = typename Lanes<T>::Vector;

template <class T>
inline Vector<T> load_vector(const T* from) {
  Vector<T> value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
inline void store_vector(T* to, Vector<T> value) {
  std::memcpy(to, &value, sizeof value);
}

// a b + c, rounded once where the level can.
inline Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_pd(a, b, c);
#else
  return a * b + c;
#endif
}

template <class T>
inline Vector<T> all(T value) {
  return value - Vector<T>{};
}

// ---- lines --------------------------------------------------------------------------------------

template <class T>
void load(const void* in, Storage storage, int64_t n, T pivot, T* out) {
  load_stored(in, storage, n, out);
  for (int64_t i = 0; i < n; ++i) out[i] -= pivot;
}

// Several outputs at a time keep several sums under way.
template <int64_t at_once, class T>
inline void convolve_some(const T* taps, int64_t radius, const T* in, T* out) {
  constexpr int64_t lanes = Lanes<T>::count;
  for (int64_t part = 0; part < line_size; part += lanes) {
    Vector<T> sums[at_once];
    for (int64_t i = 0; i < at_once; ++i)
      sums[i] = taps[0] * load_vector(in + i * line_size + part);
    for (int64_t j = 1; j <= radius; ++j) {
      const T* before = in - j * line_size + part;
      const T* after = in + j * line_size + part;
      const Vector<T> tap = all(taps[j]);
      for (int64_t i = 0; i < at_once; ++i) {
        const Vector<T> pair =
            load_vector(before + i * line_size) + load_vector(after + i * line_size);
        sums[i] = multiply_add(tap, pair, sums[i]);
      }
    }
    for (int64_t i = 0; i < at_once; ++i) store_vector(out + i * line_size + part, sums[i]);
  }
}

template <class T>
void convolve(const T* taps, int64_t radius, const T* in, int64_t count, T* out) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    convolve_some<4>(taps, radius, in + i * line_size, out + i * line_size);
  for (; i < count; ++i) convolve_some<1>(taps, radius, in + i * line_size, out + i * line_size);
}

template <int64_t terms>
void start_terms(const Cosines& window, const float* in, float* state) {
  constexpr int64_t lanes = Lanes<float>::count;
  for (int64_t part = 0; part < line_size; part += lanes) {
    Vector<float> value[terms] = {}, move[terms] = {};
    const float* weights = window.start;
    for (int64_t j = 0; j <= window.radius; ++j, weights += 2 * terms) {
      const Vector<float> after = load_vector(in + j * line_size + part);
      const Vector<float> sum = after + load_vector(in - j * line_size + part);
      const Vector<float> difference = after - load_vector(in - (j + 1) * line_size + part);
#pragma GCC unroll 8
      for (int64_t k = 0; k < terms; ++k) {
        value[k] = multiply_add(all(weights[k]), sum, value[k]);
        move[k] = multiply_add(all(weights[terms + k]), difference, move[k]);
      }
    }
    for (int64_t k = 0; k < terms; ++k) {
      store_vector(state + k * line_size + part, value[k]);
      store_vector(state + (terms + k) * line_size + part, move[k]);
    }
    float* edges = state + 2 * terms * line_size + part;
    store_vector(edges, load_vector(in + window.radius * line_size + part));
    store_vector(edges + line_size, load_vector(in - (window.radius + 1) * line_size + part));
  }
}

template <int64_t terms>
void advance_terms(const Cosines& window,
                   const float* lead,
                   const float* trail,
                   int64_t stride,
                   int64_t count,
                   float pivot,
                   float* state,
                   float* out) {
  constexpr int64_t lanes = Lanes<float>::count;
  for (int64_t part = 0; part < line_size; part += lanes) {
    Vector<float> value[terms], move[terms], curvature[terms], entering[terms], drift[terms];
#pragma GCC unroll 8
    for (int64_t k = 0; k < terms; ++k) {
      value[k] = load_vector(state + k * line_size + part);
      move[k] = load_vector(state + (terms + k) * line_size + part);
      curvature[k] = all(-window.curvature[k]);
      entering[k] = all(window.entering[k]);
      drift[k] = all(window.drift[k]);
    }
    float* edges = state + 2 * terms * line_size + part;
    Vector<float> last_lead = load_vector(edges), last_trail = load_vector(edges + line_size);
    const Vector<float> origin = all(pivot);
    for (int64_t i = 0; i < count; ++i) {
      const Vector<float> new_lead = load_vector(lead + i * stride + part) - origin;
      const Vector<float> new_trail = load_vector(trail + i * stride + part) - origin;
      const Vector<float> difference = (new_lead - last_lead) - (new_trail - last_trail);
      const Vector<float> sum = last_lead + new_trail;
      last_lead = new_lead;
      last_trail = new_trail;
      Vector<float> total = {};
#pragma GCC unroll 8
      for (int64_t k = 0; k < terms; ++k) {
        move[k] = multiply_add(drift[k], sum, move[k]);
        move[k] = multiply_add(entering[k], difference, move[k]);
        move[k] = multiply_add(curvature[k], value[k], move[k]);
        value[k] += move[k];
        total = k == 0 ? value[k] : total + value[k];
      }
      store_vector(out + i * line_size + part, total);
    }
#pragma GCC unroll 8
    for (int64_t k = 0; k < terms; ++k) {
      store_vector(state + k * line_size + part, value[k]);
      store_vector(state + (terms + k) * line_size + part, move[k]);
    }
    store_vector(edges, last_lead);
    store_vector(edges + line_size, last_trail);
  }
}

void start(const Cosines& window, const float* in, float* state) {
  switch (window.terms) {
    case 5:
      return start_terms<5>(window, in, state);
    case 6:
      return start_terms<6>(window, in, state);
    default:
      return start_terms<8>(window, in, state);
  }
}

void advance(const Cosines& window,
             const float* lead,
             const float* trail,
             int64_t stride,
             int64_t count,
             float pivot,
             float* state,
             float* out) {
  switch (window.terms) {
    case 5:
      return advance_terms<5>(window, lead, trail, stride, count, pivot, state, out);
    case 6:
      return advance_terms<6>(window, lead, trail, stride, count, pivot, state, out);
    default:
      return advance_terms<8>(window, lead, trail, stride, count, pivot, state, out);
  }
}

template <class T>
bool finite(const T* values, int64_t n) {
  bool all_finite = true;
  for (int64_t i = 0; i < n; ++i) all_finite &= values[i] - values[i] == T(0);
  return all_finite;
}

// ---- transposition ------------------------------------------------------------------------------

// Exchanges squares of `side` lanes between two vectors that lie `side` rows apart.
template <int64_t side, class V, size_t... lane>
inline void exchange(V& a, V& b, std::index_sequence<lane...>) {
  constexpr size_t n = sizeof...(lane), s = static_cast<size_t>(side);
  const V low = __builtin_shufflevector(a, b, (lane / s % 2 == 0 ? lane : n + lane - s)...);
  b = __builtin_shufflevector(a, b, (lane / s % 2 == 0 ? lane + s : n + lane)...);
  a = low;
}

template <int64_t side, class T>
inline void exchange_all(Vector<T>* rows) {
  constexpr int64_t lanes = Lanes<T>::count;
#pragma GCC unroll 16
  for (int64_t i = 0; i < lanes; ++i) {
    if (i / side % 2 == 0)
      exchange<side>(
          rows[i], rows[i + side], std::make_index_sequence<static_cast<size_t>(lanes)>());
  }
  if constexpr (2 * side < lanes) exchange_all<2 * side, T>(rows);
}

template <class T>
void transpose(const T* in, int64_t in_stride, T* out, int64_t out_stride) {
  constexpr int64_t lanes = Lanes<T>::count;
  for (int64_t y = 0; y < line_size; y += lanes) {
    for (int64_t x = 0; x < line_size; x += lanes) {
      Vector<T> rows[lanes];
#pragma GCC unroll 16
      for (int64_t i = 0; i < lanes; ++i) rows[i] = load_vector(in + (y + i) * in_stride + x);
      exchange_all<1, T>(rows);
#pragma GCC unroll 16
      for (int64_t i = 0; i < lanes; ++i) store_vector(out + (x + i) * out_stride + y, rows[i]);
    }
  }
}

// ---- results ------------------------------------------------------------------------------------

template <class T, class Out>
void store_rows(const T* in,
                int64_t in_stride,
                int64_t rows,
                int64_t n,
                T offset,
                T scale,
                Out* out,
                int64_t out_stride) {
  constexpr int64_t run_length = 256;
  T run[run_length];
  for (int64_t y = 0; y < rows; ++y) {
    const T* from = in + y * in_stride;
    Out* to = out + y * out_stride;
    for (int64_t begin = 0; begin < n; begin += run_length) {
      const int64_t length = std::min(run_length, n - begin);
      for (int64_t i = 0; i < length; ++i) run[i] = (from[begin + i] + offset) * scale;
      store_run(run, length, to + begin);
    }
  }
}

// Calls f with a pointer to the element type.
template <class F>
void with_storage(Storage storage, void* out, const F& f) {
  switch (storage) {
    case Storage::u8:
      return f(static_cast<uint8_t*>(out));
    case Storage::u16:
      return f(static_cast<uint16_t*>(out));
    case Storage::f16:
      return f(static_cast<float16_bits*>(out));
    case Storage::bf16:
      return f(static_cast<bfloat16_bits*>(out));
    default:
      return f(static_cast<float*>(out));
  }
}

void store(const float* in,
           int64_t in_stride,
           int64_t rows,
           int64_t n,
           float offset,
           float scale,
           Storage storage,
           void* out,
           int64_t out_stride) {
  with_storage(storage, out, [&](auto* to) {
    store_rows(in, in_stride, rows, n, offset, scale, to, out_stride);
  });
}

void store(const double* in,
           int64_t in_stride,
           int64_t rows,
           int64_t n,
           double offset,
           double scale,
           Storage,
           void* out,
           int64_t out_stride) {
  store_rows(in, in_stride, rows, n, offset, scale, static_cast<double*>(out), out_stride);
}

template <class T>
void keep(const T* in,
          int64_t in_stride,
          int64_t rows,
          int64_t n,
          T offset,
          T* out,
          int64_t out_stride,
          Extremes<T>* extremes) {
  constexpr int64_t lanes = Lanes<T>::count;
  Vector<T> low = all(extremes->low), high = all(extremes->high);
  auto nan = low != low;
  const auto see = [&](Vector<T> value) {
    low = value < low ? value : low;
    high = value > high ? value : high;
    nan |= value != value;
  };
  for (int64_t y = 0; y < rows; ++y) {
    const T* from = in + y * in_stride;
    T* to = out + y * out_stride;
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      const Vector<T> value = load_vector(from + i) + offset;
      see(value);
      store_vector(to + i, value);
    }
    for (; i < n; ++i) {
      to[i] = from[i] + offset;
      see(all(to[i]));
    }
  }
  for (int64_t i = 0; i < lanes; ++i) {
    extremes->low = std::min(extremes->low, low[i]);
    extremes->high = std::max(extremes->high, high[i]);
    extremes->nan |= nan[i] != 0;
  }
}

// Sums by lane, so that their order does not depend on the level.
constexpr int64_t sum_lanes = 16;

template <class T>
void sum(const T* blurred, const T* grad, int64_t n, const MaskRange<T>& range, MaskSums* sums) {
  const T low = range.low, high = range.high, width = high - low;
  double below[sum_lanes] = {}, above[sum_lanes] = {};
  int64_t at_low = 0, at_high = 0;
  for (int64_t begin = 0; begin < n; begin += sum_lanes) {
    const int64_t length = std::min(sum_lanes, n - begin);
    for (int64_t i = 0; i < length; ++i) {
      const T value = (blurred[begin + i] - low) / width;
      below[i] += static_cast<double>(grad[begin + i] * (T(1) - value));
      above[i] += static_cast<double>(grad[begin + i] * value);
    }
    for (int64_t i = 0; i < length; ++i) {
      at_low += blurred[begin + i] == low;
      at_high += blurred[begin + i] == high;
    }
  }
  for (int64_t i = 0; i < sum_lanes; ++i) {
    sums->below += below[i];
    sums->above += above[i];
  }
  sums->at_low += at_low;
  sums->at_high += at_high;
}

template <class T>
void differentiate(T* blurred, const T* grad, int64_t n, const MaskSlopes<T>& slopes) {
  const MaskSlopes<T> s = slopes;
  for (int64_t i = 0; i < n; ++i) {
    const T value = blurred[i];
    T slope = s.gain * grad[i];
    slope -= value == s.low ? s.at_low : T(0);
    slope -= value == s.high ? s.at_high : T(0);
    blurred[i] = slope;
  }
}

template <class T, class Out>
void mask_as(const T* in, int64_t n, const MaskRange<T>& range, T scale, Out* out) {
  constexpr int64_t run_length = 512;
  T run[run_length];
  const T low = range.low, width = range.high - range.low;
  for (int64_t begin = 0; begin < n; begin += run_length) {
    const int64_t length = std::min(run_length, n - begin);
    for (int64_t i = 0; i < length; ++i) run[i] = (in[begin + i] - low) / width;
    if (range.invert)
      for (int64_t i = 0; i < length; ++i) run[i] = T(1) - run[i];
    if (scale != T(1))
      for (int64_t i = 0; i < length; ++i) run[i] *= scale;
    store_run(run, length, out + begin);
  }
}

void mask(const float* in,
          int64_t n,
          const MaskRange<float>& range,
          float scale,
          Storage storage,
          void* out) {
  with_storage(storage, out, [&](auto* to) { mask_as(in, n, range, scale, to); });
}

void mask(
    const double* in, int64_t n, const MaskRange<double>& range, double scale, Storage, void* out) {
  mask_as(in, n, range, scale, static_cast<double*>(out));
}

}  // namespace

const GaussianLoops<float> gaussian_loops_f32 = {
    .load = load<float>,
    .convolve = convolve<float>,
    .start = start,
    .advance = advance,
    .finite = finite<float>,
    .transpose = transpose<float>,
    .store = store,
    .keep = keep<float>,
    .mask = mask,
    .sum = sum<float>,
    .differentiate = differentiate<float>,
};

const GaussianLoops<double> gaussian_loops_f64 = {
    .load = load<double>,
    .convolve = convolve<double>,
    .start = nullptr,
    .advance = nullptr,
    .finite = finite<double>,
    .transpose = transpose<double>,
    .store = store,
    .keep = keep<double>,
    .mask = mask,
    .sum = sum<double>,
    .differentiate = differentiate<double>,
};

}  // namespace HDROPS_LEVEL
}  // namespace hdrops
