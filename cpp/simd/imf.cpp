#include "hdrops/simd/imf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <type_traits>

#include "hdrops/simd/convert.h"

#if defined(__AVX512VBMI__)
#include <immintrin.h>
#endif

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

// Pixels handled between conversions: three or four float buffers of this length stay in the L1
// cache.
constexpr int64_t run_length = 512;

// Raw storage units (codes, or [0, 1] for floats) to 8-bit code units.
template <class In, class T>
constexpr T to_code_units = static_cast<T>(255.0 / full_scale<In>);

// ---- histograms ---------------------------------------------------------------------------------

// Few codes: four tables break the dependence of an increment on the one before it.
void histogram_small(const uint8_t* codes, int64_t n, int64_t* counts) {
  uint32_t table[4][256] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    ++table[0][codes[i]];
    ++table[1][codes[i + 1]];
    ++table[2][codes[i + 2]];
    ++table[3][codes[i + 3]];
  }
  for (; i < n; ++i) ++table[0][codes[i]];
  for (int32_t c = 0; c < 256; ++c) {
    counts[c] += static_cast<int64_t>(table[0][c]) + table[1][c] + table[2][c] + table[3][c];
  }
}

// Many codes: pairs of neighbours are counted in one increment (65,536 bins, of which a photograph
// touches few), and repeats of eight equal pairs, as in clipped areas, only lengthen a run.
void histogram_u8(const uint8_t* codes, int64_t n, int64_t* counts) {
  constexpr int64_t worthwhile = 1 << 17;
  // Counts are 32-bit; a block cannot overflow them.
  constexpr int64_t block = int64_t{1} << 31;
  if (n < worthwhile) return histogram_small(codes, n, counts);
  constexpr int32_t pairs = 65536;
  const auto tables = std::make_unique<uint32_t[]>(2 * pairs);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t end = std::min(n, begin + block) & ~int64_t{7};
    uint32_t* even = tables.get();
    uint32_t* odd = even + pairs;
    std::memset(even, 0, 2 * pairs * sizeof(uint32_t));
    uint64_t previous = 0;
    uint32_t repeats = 0;
    const auto flush = [&] {
      for (int32_t shift = 0; shift < 64; shift += 16)
        even[(previous >> shift) & 0xffff] += repeats;
    };
    for (int64_t i = begin; i < end; i += 8) {
      uint64_t word;
      std::memcpy(&word, codes + i, sizeof word);
      if (word == previous) {
        ++repeats;
        continue;
      }
      if (repeats != 0) {
        flush();
        repeats = 0;
      }
      previous = word;
      ++even[word & 0xffff];
      ++odd[(word >> 16) & 0xffff];
      ++even[(word >> 32) & 0xffff];
      ++odd[word >> 48];
    }
    flush();
    int64_t column[256] = {};
    for (int32_t high = 0; high < 256; ++high) {
      int64_t row = 0;
      for (int32_t low = 0; low < 256; ++low) {
        const int64_t both = static_cast<int64_t>(even[256 * high + low]) + odd[256 * high + low];
        row += both;
        column[low] += both;
      }
      counts[high] += row;
    }
    for (int32_t c = 0; c < 256; ++c) counts[c] += column[c];
  }
  for (int64_t i = n & ~int64_t{7}; i < n; ++i) ++counts[codes[i]];
}

void histogram_u16(const uint16_t* codes, int64_t n, int64_t* counts) {
  for (int64_t i = 0; i < n; ++i) ++counts[codes[i]];
}

// ---- fusion, pixel by pixel ---------------------------------------------------------------------

// Positions of one run in a table and both neighbours' entries there; `step` is table entries per
// raw unit. The entries are fetched one pixel at a time, both in one load: that beats the gather
// instructions, which fetch them singly.
template <class T>
struct LookUp {
  int32_t index[run_length];
  T fraction[run_length], pair[2 * run_length];

  void fetch(const T* __restrict__ raw, int64_t n, T step, const T* table, int32_t levels) {
    for (int64_t i = 0; i < n; ++i) {
      const auto at = math::table_position(raw[i] * step, levels);
      index[i] = at.index;
      fraction[i] = at.fraction;
    }
#pragma GCC unroll 8
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(pair + 2 * i, table + index[i], 2 * sizeof(T));
      asm volatile("");  // keeps the compiler from making gathers of this loop
    }
  }
  T slope(int64_t i) const { return pair[2 * i + 1] - pair[2 * i]; }
  T value(int64_t i) const { return pair[2 * i] + fraction[i] * slope(i); }
};

// One run in arithmetic units: `dark` and `bright` are raw values, `out` is in units of the storage
// type Out.
template <class In, class Out, class T>
void fuse_run(
    const T* dark, const T* bright, int64_t n, const ImfChannel<T>& channel, T* __restrict__ out) {
  const T step_dark = static_cast<T>(channel.levels_dark - 1) / static_cast<T>(full_scale<In>);
  const T step_bright = static_cast<T>(channel.levels_bright - 1) / static_cast<T>(full_scale<In>);
  constexpr T units = static_cast<T>(full_scale<Out> / 255.0);
  const math::Ramp<T> low = channel.low, high = channel.high;
  LookUp<T> at_dark, at_bright;
  at_dark.fetch(dark, n, step_dark, channel.dark, channel.levels_dark);
  at_bright.fetch(bright, n, step_bright, channel.bright, channel.levels_bright);
  for (int64_t i = 0; i < n; ++i) {
    out[i] = units * math::blend(math::dark_weight(dark[i] * to_code_units<In, T>, low),
                                 at_dark.value(i),
                                 math::bright_weight(bright[i] * to_code_units<In, T>, high),
                                 at_bright.value(i));
  }
}

template <class In, class Out, class T>
void fuse(const In* dark, const In* bright, int64_t n, const ImfChannel<T>& channel, Out* out) {
  [[maybe_unused]] T dark_run[run_length], bright_run[run_length], out_run[run_length];
  for (int64_t begin = 0; begin < n; begin += run_length) {
    const int64_t length = std::min(run_length, n - begin);
    if constexpr (std::is_same_v<In, T> && std::is_same_v<Out, T>) {
      fuse_run<In, Out, T>(dark + begin, bright + begin, length, channel, out + begin);
    } else {
      load_run(dark + begin, length, dark_run);
      load_run(bright + begin, length, bright_run);
      fuse_run<In, Out, T>(dark_run, bright_run, length, channel, out_run);
      store_run(out_run, length, out + begin);
    }
  }
}

// Adds a run's gradients of the values to those of the table entries that they interpolate.
template <class T>
void scatter(const LookUp<T>& at, const T* value, int64_t n, T* table) {
  for (int64_t i = 0; i < n; ++i) {
    const T upper = value[i] * at.fraction[i];
    table[at.index[i]] += value[i] - upper;
    table[at.index[i] + 1] += upper;
  }
}

template <class In, class T>
void backward_run(const T* grad,
                  const T* dark,
                  const T* bright,
                  int64_t n,
                  const ImfChannel<T>& c,
                  ImfGradients<T> gradients) {
  constexpr T code = to_code_units<In, T>;
  const T step_dark = static_cast<T>(c.levels_dark - 1) / static_cast<T>(full_scale<In>);
  const T step_bright = static_cast<T>(c.levels_bright - 1) / static_cast<T>(full_scale<In>);
  const math::Ramp<T> low = c.low, high = c.high;
  LookUp<T> at_dark, at_bright;
  at_dark.fetch(dark, n, step_dark, c.dark, c.levels_dark);
  at_bright.fetch(bright, n, step_bright, c.bright, c.levels_bright);
  T value_dark[run_length], value_bright[run_length], weight_dark[run_length],
      weight_bright[run_length];
  for (int64_t i = 0; i < n; ++i) {
    const auto partial = math::blend_gradient(math::dark_weight(dark[i] * code, low),
                                              at_dark.value(i),
                                              math::bright_weight(bright[i] * code, high),
                                              at_bright.value(i));
    const T upstream = grad[i] / T(255);
    value_dark[i] = upstream * partial.value_dark;
    value_bright[i] = upstream * partial.value_bright;
    weight_dark[i] = upstream * partial.weight_dark;
    weight_bright[i] = upstream * partial.weight_bright;
  }
  scatter(at_dark, value_dark, n, gradients.table_dark);
  scatter(at_bright, value_bright, n, gradients.table_bright);
  if (gradients.image_dark == nullptr) return;
  // Inside the table the value moves with the position; outside, the position is clamped.
  const auto inside = [](T position, int32_t levels) {
    return position >= T(0) && position <= static_cast<T>(levels - 1);
  };
  for (int64_t i = 0; i < n; ++i) {
    const T slope = math::weight_slope(
        (dark[i] * code - low.start) * low.inverse_width, low.inverse_width, T(1));
    const T moved = inside(dark[i] * step_dark, c.levels_dark) ? at_dark.slope(i) : T(0);
    gradients.image_dark[i] = value_dark[i] * moved * step_dark + weight_dark[i] * slope * code;
  }
  for (int64_t i = 0; i < n; ++i) {
    const T slope = math::weight_slope(
        (high.end - bright[i] * code) * high.inverse_width, high.inverse_width, T(-1));
    const T moved = inside(bright[i] * step_bright, c.levels_bright) ? at_bright.slope(i) : T(0);
    gradients.image_bright[i] =
        value_bright[i] * moved * step_bright + weight_bright[i] * slope * code;
  }
}

template <class In, class T>
void backward(const T* grad,
              const In* dark,
              const In* bright,
              int64_t n,
              const ImfChannel<T>& channel,
              ImfGradients<T> gradients) {
  T dark_run[run_length], bright_run[run_length];
  for (int64_t begin = 0; begin < n; begin += run_length) {
    const int64_t length = std::min(run_length, n - begin);
    load_run(dark + begin, length, dark_run);
    load_run(bright + begin, length, bright_run);
    ImfGradients<T> here = gradients;
    if (here.image_dark != nullptr) {
      here.image_dark += begin;
      here.image_bright += begin;
    }
    backward_run<In, T>(grad + begin, dark_run, bright_run, length, channel, here);
  }
}

// ---- fusion of bytes by one joint table ---------------------------------------------------------

template <class Out>
void joint(const ImfChannel<float>& channel, int32_t begin, int32_t end, Out* joint) {
  uint8_t dark[256], bright[256];
  for (int32_t b = 0; b < 256; ++b) bright[b] = static_cast<uint8_t>(b);
  for (int32_t d = begin; d < end; ++d) {
    std::memset(dark, d, sizeof dark);
    fuse<uint8_t, Out, float>(dark, bright, 256, channel, joint + 256 * static_cast<int64_t>(d));
  }
}

template <class Out>
void lookup(const uint8_t* dark, const uint8_t* bright, int64_t n, const Out* joint, Out* out) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const Out a = joint[256 * dark[i] + bright[i]];
    const Out b = joint[256 * dark[i + 1] + bright[i + 1]];
    const Out c = joint[256 * dark[i + 2] + bright[i + 2]];
    const Out d = joint[256 * dark[i + 3] + bright[i + 3]];
    out[i] = a;
    out[i + 1] = b;
    out[i + 2] = c;
    out[i + 3] = d;
  }
  for (; i < n; ++i) out[i] = joint[256 * dark[i] + bright[i]];
}

#if defined(__AVX512VBMI__)
// ---- fusion of bytes by byte permutations -------------------------------------------------------
//
// With W1 = 1 from dark_limit on and W2 = 1 below bright_limit, eq. 8 splits by code into products
// of one factor of the dark and one of the bright code:
//
//   d >= dark_limit:                      out = v1(d) a(b) + p(b) / 2
//   d < dark_limit and b < bright_limit:  out = v1(d) W1 / (1 + W1) + p(b) s(d)
//   a = 1 / (1 + W2),  s = 1 / (1 + W1),  p = 2 v2 W2 / (1 + W2)
//
// so out = t(d) a + p(b) s with 16-bit fixed-point tables: t and p of 256 entries, a and s of 64.
// Where both codes lie in a ramp, which a real pair hardly has, the pixel is evaluated by itself.

}  // namespace
}  // namespace HDROPS_LEVEL

struct alignas(64) ImfPacked {
  uint8_t t_low[256], t_high[256];  // t(d), 8.8
  uint8_t p_low[256], p_high[256];  // p(b), 8.8
  uint8_t a_low[64], a_high[64];    // a(192 + i), 0.16
  uint8_t s_low[64], s_high[64];    // s(i), 0.16
  float dark[256], bright[256];     // values at every code
  float weight_dark[256], weight_bright[256];
  int32_t dark_limit;
  int32_t bright_limit;
};

namespace HDROPS_LEVEL {
namespace {

void put(uint8_t* low, uint8_t* high, int32_t index, float value, float scale) {
  const auto fixed = static_cast<int32_t>(std::min(value * scale + 0.5f, 65535.0f));
  low[index] = static_cast<uint8_t>(fixed & 255);
  high[index] = static_cast<uint8_t>(fixed >> 8);
}

bool pack(const ImfChannel<float>& c, ImfPacked* packed) {
  ImfPacked& p = *packed;
  p.dark_limit = static_cast<int32_t>(std::ceil(math::clamp(c.low.end, 0.0f, 256.0f)));
  p.bright_limit = static_cast<int32_t>(std::floor(math::clamp(c.high.start, -1.0f, 255.0f))) + 1;
  if (p.dark_limit > 64 || p.bright_limit < 192) return false;
  for (int32_t code = 0; code < 256; ++code) {
    const auto z = static_cast<float>(code);
    p.dark[code] = math::interpolate(
        c.dark,
        math::table_position(z * (static_cast<float>(c.levels_dark - 1) / 255.0f), c.levels_dark));
    p.bright[code] = math::interpolate(
        c.bright,
        math::table_position(z * (static_cast<float>(c.levels_bright - 1) / 255.0f),
                             c.levels_bright));
    const bool representable =
        p.dark[code] >= 0 && p.dark[code] <= 255 && p.bright[code] >= 0 && p.bright[code] <= 255;
    if (!representable) return false;
    const float w1 = p.weight_dark[code] = math::dark_weight(z, c.low);
    const float w2 = p.weight_bright[code] = math::bright_weight(z, c.high);
    put(p.t_low,
        p.t_high,
        code,
        code < p.dark_limit ? p.dark[code] * w1 / (1 + w1) : p.dark[code],
        256);
    put(p.p_low, p.p_high, code, 2 * p.bright[code] * w2 / (1 + w2), 256);
    if (code >= 192) put(p.a_low, p.a_high, code - 192, 1 / (1 + w2), 65536);
    if (code < 64) put(p.s_low, p.s_high, code, 1 / (1 + w1), 65536);
  }
  return true;
}

struct ByteTable {
  __m512i quarter[4];
  explicit ByteTable(const uint8_t* bytes) {
    for (int32_t i = 0; i < 4; ++i) quarter[i] = _mm512_load_si512(bytes + 64 * i);
  }
  __m512i operator()(__m512i index, __mmask64 upper) const {
    const __m512i below = _mm512_permutex2var_epi8(quarter[0], index, quarter[1]);
    const __m512i above = _mm512_permutex2var_epi8(quarter[2], index, quarter[3]);
    return _mm512_mask_blend_epi8(upper, below, above);
  }
};

void fuse_packed(
    const uint8_t* dark, const uint8_t* bright, int64_t n, const ImfPacked& p, uint8_t* out) {
  const ByteTable t_low(p.t_low), t_high(p.t_high), p_low(p.p_low), p_high(p.p_high);
  const __m512i a_low = _mm512_load_si512(p.a_low), a_high = _mm512_load_si512(p.a_high);
  const __m512i s_low = _mm512_load_si512(p.s_low), s_high = _mm512_load_si512(p.s_high);
  const __m512i dark_limit = _mm512_set1_epi8(static_cast<char>(p.dark_limit));
  const __m512i last_flat = _mm512_set1_epi8(static_cast<char>(p.bright_limit - 1));
  const __m512i top_quarter = _mm512_set1_epi8(static_cast<char>(192));
  const __m512i half_high = _mm512_set1_epi8(static_cast<char>(0x80));
  const __m512i ones = _mm512_set1_epi8(-1);
  // Rounds to nearest and makes up for the mean truncation of the two high products.
  const __m512i rounding = _mm512_set1_epi16(129);
  const auto fuse_64 = [&](__m512i d, __m512i b, __mmask64 lanes, uint8_t* to) {
    const __mmask64 d_upper = _mm512_movepi8_mask(d), b_upper = _mm512_movepi8_mask(b);
    const __mmask64 in_low = _mm512_cmplt_epu8_mask(d, dark_limit);
    const __mmask64 in_top = _mm512_cmpge_epu8_mask(b, top_quarter);
    const __m512i tl = t_low(d, d_upper), th = t_high(d, d_upper);
    const __m512i pl = p_low(b, b_upper), ph = p_high(b, b_upper);
    // a: all ones (65535 / 65536) in the dark ramp, the table from code 192 on, one half elsewhere.
    const __m512i al =
        _mm512_mask_mov_epi8(_mm512_maskz_permutexvar_epi8(in_top, b, a_low), in_low, ones);
    const __m512i ah = _mm512_mask_mov_epi8(
        _mm512_mask_permutexvar_epi8(half_high, in_top, b, a_high), in_low, ones);
    const __m512i sl = _mm512_maskz_permutexvar_epi8(in_low, d, s_low);
    const __m512i sh = _mm512_mask_permutexvar_epi8(half_high, in_low, d, s_high);
    const auto words = [&](auto unpack) {
      const __m512i first = _mm512_mulhi_epu16(unpack(tl, th), unpack(al, ah));
      const __m512i second = _mm512_mulhi_epu16(unpack(pl, ph), unpack(sl, sh));
      return _mm512_srli_epi16(_mm512_add_epi16(_mm512_add_epi16(first, rounding), second), 8);
    };
    const __m512i low = words([](__m512i l, __m512i h) { return _mm512_unpacklo_epi8(l, h); });
    const __m512i high = words([](__m512i l, __m512i h) { return _mm512_unpackhi_epi8(l, h); });
    _mm512_mask_storeu_epi8(to, lanes, _mm512_packus_epi16(low, high));
    return static_cast<uint64_t>(in_low & _mm512_cmpgt_epu8_mask(b, last_flat) & lanes);
  };
  const auto finish = [&](uint64_t both_ramps, int64_t at) {
    for (; both_ramps != 0; both_ramps &= both_ramps - 1) {
      const int64_t i = at + __builtin_ctzll(both_ramps);
      const float exact = math::blend(
          p.weight_dark[dark[i]], p.dark[dark[i]], p.weight_bright[bright[i]], p.bright[bright[i]]);
      out[i] = static_cast<uint8_t>(math::to_code(exact, 255.0f));
    }
  };
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const uint64_t both = fuse_64(
        _mm512_loadu_si512(dark + i), _mm512_loadu_si512(bright + i), ~__mmask64{0}, out + i);
    if (both != 0) finish(both, i);
  }
  if (i < n) {
    const __mmask64 lanes = ~__mmask64{0} >> (64 - (n - i));
    finish(fuse_64(_mm512_maskz_loadu_epi8(lanes, dark + i),
                   _mm512_maskz_loadu_epi8(lanes, bright + i),
                   lanes,
                   out + i),
           i);
  }
}
#endif

}  // namespace

const ImfLoops imf_loops = {
    .histogram_u8 = histogram_u8,
    .histogram_u16 = histogram_u16,
    .fuse_u8 = fuse<uint8_t, uint8_t, float>,
    .fuse_u8_f32 = fuse<uint8_t, float, float>,
    .fuse_u16 = fuse<uint16_t, uint16_t, float>,
    .fuse_u16_f32 = fuse<uint16_t, float, float>,
    .fuse_f16 = fuse<float16_bits, float16_bits, float>,
    .fuse_bf16 = fuse<bfloat16_bits, bfloat16_bits, float>,
    .fuse_f32 = fuse<float, float, float>,
    .fuse_f64 = fuse<double, double, double>,
    .backward_u8 = backward<uint8_t, float>,
    .backward_u16 = backward<uint16_t, float>,
    .backward_f32 = backward<float, float>,
    .backward_f64 = backward<double, double>,
    .joint_u8 = joint<uint8_t>,
    .joint_u8_f32 = joint<float>,
    .lookup_u8 = lookup<uint8_t>,
    .lookup_u8_f32 = lookup<float>,
#if defined(__AVX512VBMI__)
    .pack = pack,
    .fuse_packed = fuse_packed,
    .packed_bytes = sizeof(ImfPacked),
#else
    .pack = nullptr,
    .fuse_packed = nullptr,
    .packed_bytes = 0,
#endif
};

}  // namespace HDROPS_LEVEL
}  // namespace hdrops
