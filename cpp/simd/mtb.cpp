#include "hdrops/simd/mtb.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "hdrops/simd/convert.h"
#include "hdrops/simd/vectors.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

// ---- grey codes ---------------------------------------------------------------------------------

// Pixels handled between conversions: the buffers of three channels stay in the L1 cache.
constexpr int64_t run_length = 1024;

template <class In>
void byte_codes(const In* in, int64_t n, uint8_t* codes) {
  if constexpr (std::is_same_v<In, uint16_t>) {
    for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(math::byte_code(in[i]));
  } else {
    using T = std::conditional_t<std::is_same_v<In, double>, double, float>;
    T values[run_length];
    load_run(in, n, values);
    for (int64_t i = 0; i < n; ++i)
      codes[i] = static_cast<uint8_t>(math::byte_code_of_value(values[i]));
  }
}

void mix(const uint8_t* red, const uint8_t* green, const uint8_t* blue, int64_t n, uint8_t* codes) {
  for (int64_t i = 0; i < n; ++i)
    codes[i] = static_cast<uint8_t>(math::grey_code(red[i], green[i], blue[i]));
}

template <class In>
void grey_of(const In* image, int64_t channels, int64_t plane, int64_t n, uint8_t* codes) {
  if constexpr (std::is_same_v<In, uint8_t>) {
    if (channels == 3) return mix(image, image + plane, image + 2 * plane, n, codes);
    std::memcpy(codes, image, static_cast<size_t>(n));
  } else {
    uint8_t channel[3][run_length];
    for (int64_t begin = 0; begin < n; begin += run_length) {
      const int64_t length = std::min(run_length, n - begin);
      if (channels == 1) {
        byte_codes(image + begin, length, codes + begin);
        continue;
      }
      for (int64_t c = 0; c < 3; ++c) byte_codes(image + c * plane + begin, length, channel[c]);
      mix(channel[0], channel[1], channel[2], length, codes + begin);
    }
  }
}

void grey(const void* image,
          Storage storage,
          int64_t channels,
          int64_t plane,
          int64_t at,
          int64_t n,
          uint8_t* codes) {
  const auto of = [&](const auto* elements) { grey_of(elements + at, channels, plane, n, codes); };
  if (storage == Storage::f64) return of(static_cast<const double*>(image));
  with_elements(image, storage, of);
}

void pick(const uint8_t* codes, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = codes[2 * i];
}

// ---- bitmaps ------------------------------------------------------------------------------------

struct Word {
  uint64_t above, below;
};

// The bits of 64 codes. `some_below` is all ones unless no code lies below the limits; `high` and
// `last_below` are limits as codes.
#if defined(__AVX512BW__)
Word word_of(const uint8_t* codes, uint8_t high, uint8_t last_below, uint64_t some_below) {
  const __m512i z = _mm512_loadu_si512(codes);
  return {_mm512_cmpgt_epu8_mask(z, _mm512_set1_epi8(static_cast<char>(high))),
          _mm512_cmple_epu8_mask(z, _mm512_set1_epi8(static_cast<char>(last_below))) & some_below};
}
#elif defined(__SSE2__)
Word word_of(const uint8_t* codes, uint8_t high, uint8_t last_below, uint64_t some_below) {
  uint64_t not_above = 0, below = 0;
#if defined(__AVX2__)
  const __m256i top = _mm256_set1_epi8(static_cast<char>(high));
  const __m256i bottom = _mm256_set1_epi8(static_cast<char>(last_below));
  for (int32_t i = 0; i < 64; i += 32) {
    const __m256i z = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i));
    const auto bits = [&](__m256i equal) {
      return static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(equal))) << i;
    };
    not_above |= bits(_mm256_cmpeq_epi8(_mm256_max_epu8(z, top), top));
    below |= bits(_mm256_cmpeq_epi8(_mm256_min_epu8(z, bottom), z));
  }
#else
  const __m128i top = _mm_set1_epi8(static_cast<char>(high));
  const __m128i bottom = _mm_set1_epi8(static_cast<char>(last_below));
  for (int32_t i = 0; i < 64; i += 16) {
    const __m128i z = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i));
    const auto bits = [&](__m128i equal) {
      return static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(equal))) << i;
    };
    not_above |= bits(_mm_cmpeq_epi8(_mm_max_epu8(z, top), top));
    below |= bits(_mm_cmpeq_epi8(_mm_min_epu8(z, bottom), z));
  }
#endif
  return {~not_above, below & some_below};
}
#else
Word word_of(const uint8_t* codes, uint8_t high, uint8_t last_below, uint64_t some_below) {
  Word word{0, 0};
  for (int32_t i = 0; i < 64; ++i) {
    word.above |= static_cast<uint64_t>(codes[i] > high) << i;
    word.below |= static_cast<uint64_t>(codes[i] <= last_below) << i;
  }
  word.below &= some_below;
  return word;
}
#endif

void bitmap(const uint8_t* codes,
            int64_t n,
            const math::MtbLimits& limits,
            int64_t words,
            int64_t pad,
            uint64_t* above,
            uint64_t* below) {
  const auto high = static_cast<uint8_t>(std::min(limits.high, 255));
  const auto last_below = static_cast<uint8_t>(std::max(limits.low - 1, 0));
  const uint64_t some_below = limits.low > 0 ? ~uint64_t{0} : 0;
  const int64_t whole = n / 64;
  for (int64_t i = 0; i < whole; ++i) {
    const Word word = word_of(codes + 64 * i, high, last_below, some_below);
    above[i] = word.above;
    below[i] = word.below;
  }
  int64_t filled = whole;
  if (const int64_t rest = n % 64; rest != 0) {
    uint8_t last[64] = {};
    std::memcpy(last, codes + 64 * whole, static_cast<size_t>(rest));
    const Word word = word_of(last, high, last_below, some_below);
    const uint64_t pixels = ~uint64_t{0} >> (64 - rest);
    above[filled] = word.above & pixels;
    below[filled++] = word.below & pixels;
  }
  for (uint64_t* row : {above, below}) {
    std::fill(row - pad, row, 0);
    std::fill(row + filled, row + words + pad, 0);
  }
}

// ---- comparison ---------------------------------------------------------------------------------

using Words = Vector<uint64_t>;

// For each 64 bits of `words`, how many of them are 1: the vector forms look up both halves of every
// byte.
#if defined(__AVX512BW__)
Words bit_counts(Words words) {
  const __m512i table = _mm512_set4_epi32(0x04030302, 0x03020201, 0x03020201, 0x02010100);
  const __m512i low = _mm512_set1_epi8(15);
  const auto of = [&](Words v) {
    return _mm512_shuffle_epi8(table, _mm512_and_si512(reinterpret_cast<__m512i>(v), low));
  };
  const __m512i bytes = _mm512_add_epi8(of(words), of(words >> 4));
  return reinterpret_cast<Words>(_mm512_sad_epu8(bytes, _mm512_setzero_si512()));
}
#elif defined(__AVX2__)
Words bit_counts(Words words) {
  constexpr int64_t first = 0x0302020102010100, second = 0x0403030203020201;
  const __m256i table = _mm256_setr_epi64x(first, second, first, second);
  const __m256i low = _mm256_set1_epi8(15);
  const auto of = [&](Words v) {
    return _mm256_shuffle_epi8(table, _mm256_and_si256(reinterpret_cast<__m256i>(v), low));
  };
  const __m256i bytes = _mm256_add_epi8(of(words), of(words >> 4));
  return reinterpret_cast<Words>(_mm256_sad_epu8(bytes, _mm256_setzero_si256()));
}
#else
Words bit_counts(Words words) {
  for (int64_t i = 0; i < lanes<uint64_t>; ++i)
    words[i] = static_cast<uint64_t>(__builtin_popcountll(words[i]));
  return words;
}
#endif

int64_t total(Words counts) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < lanes<uint64_t>; ++i) sum += counts[i];
  return static_cast<int64_t>(sum);
}

// A row moved to the right: bits [64 i - shift, 64 i - shift + 64) of it become word i.
struct Moved {
  int64_t words;
  uint64_t bits;

  explicit Moved(int64_t shift) : words(-shift >> 6), bits(static_cast<uint64_t>(-shift & 63)) {}

  Words operator()(const uint64_t* row, int64_t i) const {
    const Words first = load_vector(row + i + words), second = load_vector(row + i + words + 1);
    return first >> bits | (second << 1) << (63 - bits);
  }
};

void differences(const MtbRow& reference,
                 const MtbRow& image,
                 int64_t words,
                 const int64_t* shifts,
                 int64_t* errors) {
  const Moved moved[3] = {Moved(shifts[0]), Moved(shifts[1]), Moved(shifts[2])};
  Words counts[3] = {};
  for (int64_t i = 0; i < words; i += lanes<uint64_t>) {
    const Words above = load_vector(reference.above + i), below = load_vector(reference.below + i);
    for (int32_t c = 0; c < 3; ++c) {
      counts[c] +=
          bit_counts((above & moved[c](image.below, i)) | (below & moved[c](image.above, i)));
    }
  }
  for (int32_t c = 0; c < 3; ++c) errors[c] += total(counts[c]);
}

int64_t compared(const MtbRow& reference, const MtbRow& image, int64_t words, int64_t shift) {
  const Moved moved(shift);
  Words counts{};
  for (int64_t i = 0; i < words; i += lanes<uint64_t>) {
    const Words in_reference = load_vector(reference.above + i) | load_vector(reference.below + i);
    counts += bit_counts(in_reference & (moved(image.above, i) | moved(image.below, i)));
  }
  return total(counts);
}

}  // namespace

const MtbLoops mtb_loops = {
    .grey = grey,
    .pick = pick,
    .bitmap = bitmap,
    .differences = differences,
    .compared = compared,
};

}  // namespace HDROPS_LEVEL
}  // namespace hdrops
