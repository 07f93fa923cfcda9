#include "hdrops/simd/gaussian.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "hdrops/simd/convert.h"
#include "hdrops/simd/vectors.h"

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

template <class T>
inline Vector<T> all(T value) {
  return value - Vector<T>{};
}

// ---- lines --------------------------------------------------------------------------------------

// How far ahead image rows are fetched, in strips: they are too far apart for the processor to
// foresee.
constexpr int64_t strips_ahead = 4;

template <class T, class In>
inline void load_line(const In* in, T pivot, T* out) {
  if constexpr (std::is_integral_v<In>) {
    typedef In Stored __attribute__((vector_size(line_size * sizeof(In))));
    typedef int32_t Code __attribute__((vector_size(line_size * sizeof(int32_t))));
    typedef float Value __attribute__((vector_size(line_size * sizeof(float))));
    Stored stored;
    std::memcpy(&stored, in, sizeof stored);
    // By way of 16 bits, or bytes go through general registers.
    typedef uint16_t Wider __attribute__((vector_size(line_size * sizeof(uint16_t))));
    const Code codes = __builtin_convertvector(__builtin_convertvector(stored, Wider), Code);
    const Value values = __builtin_convertvector(codes, Value) - pivot;
    std::memcpy(out, &values, sizeof values);
  } else {
    T values[line_size];
    load_run(in, line_size, values);
    for (int64_t i = 0; i < line_size; ++i) out[i] = values[i] - pivot;
  }
}

template <class T, class In>
void load_rows(const In* in, int64_t pitch, int64_t rows, int64_t n, T pivot, T* out) {
  for (int64_t y = 0; y < rows; ++y, in += pitch, out += line_size) {
    if (n == line_size) {
      __builtin_prefetch(in + strips_ahead * line_size);
      load_line(in, pivot, out);
    } else {
      load_run(in, n, out);
      for (int64_t i = 0; i < n; ++i) out[i] -= pivot;
    }
  }
}

void load(const void* in,
          Storage storage,
          int64_t pitch,
          int64_t rows,
          int64_t n,
          float pivot,
          float* out) {
  with_elements(in, storage, [&](auto* from) { load_rows(from, pitch, rows, n, pivot, out); });
}

void load(
    const void* in, Storage, int64_t pitch, int64_t rows, int64_t n, double pivot, double* out) {
  load_rows(static_cast<const double*>(in), pitch, rows, n, pivot, out);
}

// Several outputs at a time keep several sums under way.
template <int64_t at_once, class T>
inline void convolve_some(const T* taps, int64_t radius, const T* in, T* out) {
  for (int64_t part = 0; part < line_size; part += lanes<T>) {
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
  for (int64_t part = 0; part < line_size; part += lanes<float>) {
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
  for (int64_t part = 0; part < line_size; part += lanes<float>) {
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
      if (stride != line_size) {  // rows of an image: those of a later strip
        __builtin_prefetch(lead + i * stride + strips_ahead * line_size);
        __builtin_prefetch(trail + i * stride + strips_ahead * line_size);
      }
      const Vector<float> new_lead = load_vector(lead + i * stride + part) - origin;
      const Vector<float> new_trail = load_vector(trail + i * stride + part) - origin;
      const Vector<float> difference = (new_lead - last_lead) - (new_trail - last_trail);
      const Vector<float> sum = last_lead + new_trail;
      last_lead = new_lead;
      last_trail = new_trail;
      Vector<float> total = {};
#pragma GCC unroll 8
      for (int64_t k = 0; k < terms; ++k) {
        // What does not depend on the step before stands apart from what does.
        move[k] += multiply_add(entering[k], difference, drift[k] * sum);
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
  Vector<T> probe = {};
  int64_t i = 0;
  for (; i + lanes<T> <= n; i += lanes<T>) {
    const Vector<T> value = load_vector(values + i);
    probe += value - value;
  }
  for (; i < n; ++i) probe += values[i] - values[i];
  bool clean = true;
  for (int64_t lane = 0; lane < lanes<T>; ++lane) clean &= probe[lane] == T(0);
  return clean;
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
#pragma GCC unroll 16
  for (int64_t i = 0; i < lanes<T>; ++i) {
    if (i / side % 2 == 0)
      exchange<side>(
          rows[i], rows[i + side], std::make_index_sequence<static_cast<size_t>(lanes<T>)>());
  }
  if constexpr (2 * side < lanes<T>) exchange_all<2 * side, T>(rows);
}

template <class T>
void transpose(const T* in, int64_t in_stride, T* out, int64_t out_stride) {
  for (int64_t y = 0; y < line_size; y += lanes<T>) {
    for (int64_t x = 0; x < line_size; x += lanes<T>) {
      Vector<T> rows[lanes<T>];
#pragma GCC unroll 16
      for (int64_t i = 0; i < lanes<T>; ++i) rows[i] = load_vector(in + (y + i) * in_stride + x);
      exchange_all<1, T>(rows);
#pragma GCC unroll 16
      for (int64_t i = 0; i < lanes<T>; ++i) store_vector(out + (x + i) * out_stride + y, rows[i]);
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
    for (int64_t i = n; i < 2 * n; i += 64 / static_cast<int64_t>(sizeof(Out)))
      __builtin_prefetch(to + i, 1);
    for (int64_t begin = 0; begin < n; begin += run_length) {
      const int64_t length = std::min(run_length, n - begin);
      for (int64_t i = 0; i < length; ++i) run[i] = (from[begin + i] + offset) * scale;
      store_run(run, length, to + begin);
    }
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
  with_elements(out, storage, [&](auto* to) {
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
    for (int64_t i = n; i < 2 * n; i += line_size) __builtin_prefetch(to + i, 1);
    int64_t i = 0;
    for (; i + lanes<T> <= n; i += lanes<T>) {
      const Vector<T> value = load_vector(from + i) + offset;
      see(value);
      store_vector(to + i, value);
    }
    for (; i < n; ++i) {
      to[i] = from[i] + offset;
      see(all(to[i]));
    }
  }
  for (int64_t i = 0; i < lanes<T>; ++i) {
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
  with_elements(out, storage, [&](auto* to) { mask_as(in, n, range, scale, to); });
}

void mask(
    const double* in, int64_t n, const MaskRange<double>& range, double scale, Storage, void* out) {
  mask_as(in, n, range, scale, static_cast<double*>(out));
}

}  // namespace

const GaussianLoops<float> gaussian_loops_f32 = {
    .load = load,
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
    .load = load,
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
