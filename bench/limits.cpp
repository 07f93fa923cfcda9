// What this processor can do at most: bandwidth of reads and copies over the working set, and the peak of FMAs.
// Built and run by limits.py; usage: limits THREADS SECONDS MEGABYTES...; prints one JSON object.
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

typedef uint64_t Line __attribute__((vector_size(64), may_alias));

#if defined(__AVX512F__)
constexpr int kFloats = 16;
#elif defined(__AVX__)
constexpr int kFloats = 8;
#else
constexpr int kFloats = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * kFloats)));

template <bool streaming>
inline void store(Line* to, const Line& value) {
#if defined(__AVX512F__)
  if (streaming) return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)value);
#elif defined(__AVX__)
  if (streaming) {
    __m256i half[2];
    std::memcpy(half, &value, 64);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), half[0]);
    return _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + 1, half[1]);
  }
#elif defined(__SSE2__)
  if (streaming) {
    __m128i quarter[4];
    std::memcpy(quarter, &value, 64);
    for (int i = 0; i < 4; i++) _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, quarter[i]);
    return;
  }
#endif
  *to = value;
}

volatile uint64_t sink;

// One thread's share of a pattern over n lines. "copy2" reads two arrays and writes one, as a fusion of two images does.
template <int inputs, bool streaming>
void move(const Line* a, const Line* b, Line* c, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) store<streaming>(c + i, inputs == 2 ? a[i] ^ b[i] : a[i]);
#if defined(__SSE2__)
  if (streaming) _mm_sfence();
#endif
}

void read(const Line* a, int64_t begin, int64_t end) {
  Line sum[4] = {};
  int64_t i = begin;
  for (; i + 4 <= end; i += 4)
    for (int j = 0; j < 4; j++) sum[j] ^= a[i + j];
  const Line all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
  sink = all[0] ^ all[1] ^ all[2] ^ all[3] ^ all[4] ^ all[5] ^ all[6] ^ all[7];
}

// The best of repeated runs of `work(begin, end)` over n lines shared by the threads, in seconds.
template <typename Work>
double best(int64_t n, double seconds, Work work) {
  double fastest = 1e9;
  const double stop = omp_get_wtime() + seconds;
  for (int round = 0; round < 5 || omp_get_wtime() < stop; round++) {
    const double start = omp_get_wtime();
#pragma omp parallel
    {
      const int64_t share = (n + omp_get_num_threads() - 1) / omp_get_num_threads();
      const int64_t begin = std::min(n, share * omp_get_thread_num());
      work(begin, std::min(n, begin + share));
    }
    if (round > 0) fastest = std::min(fastest, omp_get_wtime() - start);
  }
  return fastest;
}

double fma_gflops(int threads, double seconds) {
  constexpr int kChains = 12;
  constexpr int64_t kSteps = 200000;
  const double time = best(threads, seconds, [](int64_t, int64_t) {
    Floats sum[kChains];
    const Floats scale = Floats{} + 0.999999f;
    const Floats shift = Floats{} + 1e-6f;
    for (int j = 0; j < kChains; j++) sum[j] = Floats{} + (2.0f + j);
    for (int64_t i = 0; i < kSteps; i++)
      for (int j = 0; j < kChains; j++) sum[j] = sum[j] * scale + shift;
    Floats all{};
    for (int j = 0; j < kChains; j++) all += sum[j];
    sink = static_cast<uint64_t>(all[0]);
  });
  return 2.0 * kFloats * kChains * kSteps * threads / time / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = std::atoi(argv[1]);
  const double seconds = std::atof(argv[2]);
  omp_set_dynamic(0);
  omp_set_num_threads(threads);
  std::vector<double> sizes;
  for (int i = 3; i < argc; i++) sizes.push_back(std::atof(argv[i]));
  const int64_t largest = static_cast<int64_t>(*std::max_element(sizes.begin(), sizes.end()) * 1e6) / 64;
  Line* block = static_cast<Line*>(std::aligned_alloc(64, 64 * largest));
  if (block == nullptr) return 1;
  best(largest, 0, [&](int64_t begin, int64_t end) { std::memset(block + begin, 1, 64 * (end - begin)); });

  std::printf("{\"megabytes\": [");
  for (size_t i = 0; i < sizes.size(); i++) std::printf("%s%g", i ? ", " : "", sizes[i]);
  std::printf("]");
  const char* const names[] = {"read", "copy", "copy_streaming", "copy2", "copy2_streaming"};
  for (int kind = 0; kind < 5; kind++) {
    std::printf(", \"%s\": [", names[kind]);
    for (size_t i = 0; i < sizes.size(); i++) {
      const int arrays = kind == 0 ? 1 : kind < 3 ? 2 : 3;
      const int64_t n = static_cast<int64_t>(sizes[i] * 1e6) / 64 / arrays;
      const Line *a = block, *b = block + n;
      Line* c = block + (arrays - 1) * n;
      const double time = best(n, seconds, [&](int64_t begin, int64_t end) {
        if (kind == 0) read(a, begin, end);
        if (kind == 1) move<1, false>(a, a, c, begin, end);
        if (kind == 2) move<1, true>(a, a, c, begin, end);
        if (kind == 3) move<2, false>(a, b, c, begin, end);
        if (kind == 4) move<2, true>(a, b, c, begin, end);
      });
      std::printf("%s%.1f", i ? ", " : "", 64.0 * arrays * n / time / 1e9);
    }
    std::printf("]");
  }
  std::printf(", \"fma_gflops\": %.0f}\n", fma_gflops(threads, seconds));
  std::free(block);
}
