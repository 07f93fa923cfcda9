#include "hdrops/simd/pairwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "hdrops/simd/convert.h"
#include "hdrops/simd/elementary.h"
#include "hdrops/simd/vectors.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

// ---- over-exposure ------------------------------------------------------------------------------

constexpr int64_t run_length = 1024;

// Calls f with a pointer to the elements of a floating-point storage type whose arithmetic type is T.
template <class T, class Void, class F>
void with_floats(Void* memory, Storage storage, const F& f) {
  if constexpr (std::is_same_v<T, double>)
    f(static_cast<std::conditional_t<std::is_const_v<Void>, const double, double>*>(memory));
  else
    with_elements(memory, storage, f);
}

template <class T, class S>
double largest_of(const S* values, int64_t n) {
  T run[run_length];
  Vector<T> most = Vector<T>{} - std::numeric_limits<T>::infinity();
  typename VectorOf<T>::index missing{};
  for (int64_t begin = 0; begin < n; begin += run_length) {
    const int64_t length = std::min(run_length, n - begin);
    load_run(values + begin, length, run);
    std::fill_n(run + length, math::rounded_up(length, lanes<T>) - length, run[0]);
    for (int64_t i = 0; i < length; i += lanes<T>) {
      const Vector<T> v = load_vector(run + i);
      most = v > most ? v : most;
      missing |= v != v;
    }
  }
  T result = most[0];
  for (int64_t k = 0; k < lanes<T>; ++k) {
    if (missing[k] != 0) return std::numeric_limits<double>::quiet_NaN();
    result = std::max(result, most[k]);
  }
  return static_cast<double>(result);
}

double largest(const void* values, Storage storage, int64_t n) {
  double most = 0;
  if (storage == Storage::f64)
    most = largest_of<double>(static_cast<const double*>(values), n);
  else
    with_elements(values, storage, [&](auto* of) { most = largest_of<float>(of, n); });
  return most;
}

// ---- sums over windows --------------------------------------------------------------------------

// to[i] = op(to[i], from[i]); `from` may lie ahead in the same memory.
template <class T, class Op>
void combine(T* to, const T* from, int64_t n, const Op& op) {
  int64_t i = 0;
  for (; i + lanes<T> <= n; i += lanes<T>)
    store_vector(to + i, op(load_vector(to + i), load_vector(from + i)));
  for (; i < n; ++i) to[i] = static_cast<T>(op(to[i], from[i]));
}

constexpr auto plus = [](auto a, auto b) { return a + b; };
constexpr auto either = [](auto a, auto b) { return a | b; };

// Sums of `side` of n elements that follow one another, n - side + 1 of them; an element is `step`
// numbers. Windows of 1, 2, 4 ... are doubled, so that equal windows have equal sums wherever they
// lie, and nothing cancels. Both memories are used; the result is one of them.
template <class T>
const T* window_sums(T* line, T* sums, int64_t n, int64_t side, int64_t step) {
  const int64_t results = (n - side + 1) * step;
  int64_t done = 0;  // elements of a window that `sums` has
  for (int64_t width = 1;; width *= 2) {
    if ((side & width) != 0) {
      if (side == width) return line;
      if (done == 0)
        std::copy_n(line, results, sums);
      else
        combine(sums, line + done * step, results, plus);
      done += width;
      if (done == side) return sums;
    }
    combine(line, line + width * step, (n - 2 * width + 1) * step, plus);
  }
}

// In place, whether any of `side` elements that follow one another is set.
void window_any(uint8_t* line, int64_t n, int64_t side, int64_t step) {
  int64_t width = 1;
  for (; 2 * width <= side; width *= 2)
    combine(line, line + width * step, (n - 2 * width + 1) * step, either);
  if (width < side) combine(line, line + (side - width) * step, (n - side + 1) * step, either);
}

// Sums over the patches of a plane by their first pixels; in place.
template <class T>
void patch_sums(const PairwiseRow& r, T* plane, T* buffer) {
  T* const other = buffer + pairwise_buffer_size(r) / 2;
  const int64_t rows = r.height - r.side + 1, columns = r.width - r.side + 1;
  for (int64_t y = 0; y < r.height; ++y) {
    T* const line = plane + y * r.width;
    std::copy_n(line, r.width, buffer);
    std::copy_n(window_sums(buffer, other, r.width, r.side, 1), columns, line);
  }
  for (int64_t x = 0; x < columns; x += pairwise_strip) {
    const int64_t strip = std::min(pairwise_strip, columns - x);
    for (int64_t y = 0; y < r.height; ++y)
      std::copy_n(plane + y * r.width + x, strip, buffer + y * strip);
    const T* const sums = window_sums(buffer, other, r.height, r.side, strip);
    for (int64_t y = 0; y < rows; ++y)
      std::copy_n(sums + y * strip, strip, plane + y * r.width + x);
  }
}

// ---- places -------------------------------------------------------------------------------------

// The first pixels of all patches without over-exposed pixels, from left to right and down.
template <class T>
int64_t choose(
    const PairwiseRow& r, const T* target, double top, uint8_t* exposed, int32_t* choices) {
  const T bound = math::rounded_down<T>(top);
  const int64_t n = r.plane();
  for (int64_t i = 0; i < n; ++i) exposed[i] = target[i] <= bound ? 0 : 1;
  const int64_t rows = r.height - r.side + 1, columns = r.width - r.side + 1;
  if (r.side > 1) {
    for (int64_t y = 0; y < r.height; ++y) window_any(exposed + y * r.width, r.width, r.side, 1);
    window_any(exposed, r.height, r.side, r.width);
  }
  int64_t count = 0;
  for (int64_t y = 0; y < rows; ++y) {
    const int64_t first = y * r.width, last = first + columns;
    int64_t i = first;
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; i + 16 <= last; i += 16) {
      const __m128i flags = _mm_loadu_si128(reinterpret_cast<const __m128i*>(exposed + i));
      const __mmask16 usable = _mm_testn_epi8_mask(flags, flags);
      const __m512i at = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(i)), steps);
      _mm512_mask_compressstoreu_epi32(choices + count, usable, at);
      count += __builtin_popcount(usable);
    }
#endif
    for (; i < last; ++i) {
      choices[count] = static_cast<int32_t>(i);
      count += exposed[i] == 0;
    }
  }
  return count;
}

using Words = Vector<uint64_t>;

struct Multiply {
  Words operator()(Words a, uint32_t b) const {
#if defined(__AVX512F__)
    // Not _mm512_mul_epu32, whose undefined operand GCC 12 warns of.
    return reinterpret_cast<Words>(
        _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), _mm512_set1_epi64(b)));
#elif defined(__AVX2__)
    return reinterpret_cast<Words>(
        _mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(b)));
#elif defined(__SSE2__)
    return reinterpret_cast<Words>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi64x(b)));
#else
    return (a & uint64_t{0xffffffff}) * uint64_t{b};
#endif
  }
};

// Pairs worked on together: what they need stays in the L1 cache.
constexpr int64_t batch = 512;

// Ranks of both places of the pairs from `pair` on.
void draw_ranks(const PairwiseDraw& draw,
                int64_t pair,
                int64_t n,
                uint32_t total,
                uint64_t (&ranks)[2][batch]) {
  Words steps;
  for (int64_t i = 0; i < lanes<uint64_t>; ++i) steps[i] = static_cast<uint64_t>(i);
  for (int64_t i = 0; i < n; i += lanes<uint64_t>) {
    Words words[4] = {
        steps + static_cast<uint64_t>(pair + i), Words{} + draw.row, Words{}, Words{}};
    math::philox(words, draw.seed, Multiply{});
    for (int32_t k = 0; k < 2; ++k)
      store_vector(ranks[k] + i,
                   math::philox_rank(words[2 * k], words[2 * k + 1], total, Multiply{}));
  }
}

// ---- forward ------------------------------------------------------------------------------------

struct Elementary {
  template <class T>
  static T log(T x) {
    return logarithm(x);
  }
  template <class T>
  static T exp(T x) {
    return exp_negative(x);
  }
  // log(1 + x) times x over what of it the sum has.
  static float log1p(float x) {
    const float sum = 1.0f + x;
    return sum == 1.0f ? x : logarithm(sum) * (x / (sum - 1.0f));
  }
  static double log1p(double x) { return std::log1p(x); }
  template <class T>
  static T sqrt(T x) {
    return std::sqrt(x);
  }
};

// The values of a row as numbers of the arithmetic type: its own memory, or a copy.
template <class T>
const T* numbers_of(const PairwiseRow& r, const void* values, T* memory) {
  if (r.storage == own_storage<T> && r.side == 1) return static_cast<const T*>(values);
  with_floats<T>(values, r.storage, [&](const auto* from) { load_run(from, r.plane(), memory); });
  return memory;
}

template <class T>
void forward(const PairwiseRow& r,
             const PairwiseDraw& draw,
             const void* prediction,
             const void* target,
             const PairwiseScratch<T>& scratch,
             T* sums,
             int32_t* places,
             T* slopes) {
  const T* const wanted = numbers_of(r, target, scratch.planes[1]);
  const int64_t total = choose(r, wanted, draw.top, scratch.exposed, scratch.choices);
  if (total == 0) {
    std::fill_n(sums, 2, T(0));
    std::fill_n(places, 2 * r.pairs, 0);
    std::fill_n(slopes, 2 * r.pairs, T(0));
    return;
  }
  const T* const given = numbers_of(r, prediction, scratch.planes[0]);
  if (r.side > 1)
    for (T* plane : scratch.planes) patch_sums(r, plane, scratch.buffer);
  const auto rule = math::pair_rule<T>(draw.threshold, draw.least, r.side, draw.ignore_ties);
  constexpr int64_t parts = 8;
  double sum[parts] = {};
  int64_t counted = 0;
  uint64_t ranks[2][batch];
  T values[2][batch], orders[2][batch], costs[batch];
  for (int64_t begin = 0; begin < r.pairs; begin += batch) {
    const int64_t n = std::min(batch, r.pairs - begin);
    draw_ranks(draw, begin, n, static_cast<uint32_t>(total), ranks);
    for (int64_t k = 0; k < 2; ++k) {
      int32_t* const to = places + k * r.pairs + begin;
      for (int64_t i = 0; i < n; ++i) {
        const int32_t place = scratch.choices[ranks[k][i]];
        to[i] = place;
        values[k][i] = given[place];
        orders[k][i] = wanted[place];
      }
    }
    T* const first = slopes + begin;
    T* const second = first + r.pairs;
    for (int64_t i = 0; i < n; ++i)
      costs[i] = math::pair_cost(values[0][i],
                                 values[1][i],
                                 orders[0][i],
                                 orders[1][i],
                                 rule,
                                 Elementary{},
                                 first[i],
                                 second[i]);
    for (int64_t i = 0; i < n; ++i) counted += math::pair_counts(orders[0][i], orders[1][i], rule);
    std::fill_n(costs + n, math::rounded_up(n, parts) - n, T(0));
    for (int64_t i = 0; i < n; i += parts)
      for (int64_t k = 0; k < parts; ++k) sum[k] += static_cast<double>(costs[i + k]);
  }
  double whole = 0;
  for (const double part : sum) whole += part;
  sums[0] = static_cast<T>(whole);
  sums[1] = static_cast<T>(counted);
}

// ---- backward -----------------------------------------------------------------------------------

template <class T>
void scatter(const PairwiseRow& r, T grad, const int32_t* places, const T* slopes, T* plane) {
  std::fill_n(plane, r.plane(), T(0));
  const auto size = static_cast<uint32_t>(r.plane());
  for (int64_t i = 0; i < 2 * r.pairs; ++i) {
    const auto place = static_cast<uint32_t>(places[i]);
    if (place < size) plane[place] += grad * slopes[i];  // any may come from a caller
  }
}

// A pixel gets what the patches have whose first pixels lie up to side - 1 above and left of it: the
// sums over windows of a plane with margins of zeros.
template <class T, class S>
void spread(const PairwiseRow& r, T* plane, T* buffer, S* out) {
  T* const other = buffer + pairwise_buffer_size(r) / 2;
  const int64_t margin = r.side - 1;
  const int64_t rows = r.height - margin, columns = r.width - margin;
  for (int64_t y = 0; y < rows; ++y) {
    T* const line = plane + y * r.width;
    std::fill_n(buffer, margin, T(0));
    std::copy_n(line, columns, buffer + margin);
    std::fill_n(buffer + r.width, margin, T(0));
    std::copy_n(window_sums(buffer, other, r.width + margin, r.side, 1), r.width, line);
  }
  for (int64_t x = 0; x < r.width; x += pairwise_strip) {
    const int64_t strip = std::min(pairwise_strip, r.width - x);
    std::fill_n(buffer, margin * strip, T(0));
    for (int64_t y = 0; y < rows; ++y)
      std::copy_n(plane + y * r.width + x, strip, buffer + (margin + y) * strip);
    std::fill_n(buffer + r.height * strip, margin * strip, T(0));
    const T* const sums = window_sums(buffer, other, r.height + margin, r.side, strip);
    for (int64_t y = 0; y < r.height; ++y)
      store_run(sums + y * strip, strip, out + y * r.width + x);
  }
}

template <class T>
void backward(const PairwiseRow& r,
              T grad,
              const int32_t* places,
              const T* slopes,
              const PairwiseScratch<T>& scratch,
              void* out) {
  if (r.storage == own_storage<T> && r.side == 1)
    return scatter(r, grad, places, slopes, static_cast<T*>(out));
  T* const plane = scratch.planes[0];
  scatter(r, grad, places, slopes, plane);
  with_floats<T>(out, r.storage, [&](auto* to) {
    if (r.side == 1)
      store_run(plane, r.plane(), to);
    else
      spread(r, plane, scratch.buffer, to);
  });
}

}  // namespace

const PairwiseLoops pairwise_loops = {
    .largest = largest,
    .f32 = {.forward = forward<float>, .backward = backward<float>},
    .f64 = {.forward = forward<double>, .backward = backward<double>},
};

}  // namespace HDROPS_LEVEL
}  // namespace hdrops
