// The inner loops of the operator matching: torch-free, one copy per CPU level.
#pragma once

#include <cstdint>

#include "hdrops/cpu_level.h"
#include "hdrops/simd/storage.h"

namespace hdrops {

// Rows of a result that are summed at a time.
constexpr int64_t matching_group = 8;

// Sums of products of runs. Row k of the result, k < rows, at x < length:
//   sum[k][x] = Σ_j u[of_u[j] + x] v[of_v[j] + along[k] + x]
// Reads and writes go on to the next multiple of `matching_step`.
template <class T>
struct MatchingSums {
  const T* u;
  const T* v;
  const int64_t* of_u;
  const int64_t* of_v;
  int64_t terms;
  const int64_t* along;
  int64_t rows;
  int64_t length;
};
constexpr int64_t matching_step = 16;

struct MatchingLoops {
  void (*sums_f32)(const MatchingSums<float>& of, float* const* sum);
  void (*sums_f64)(const MatchingSums<double>& of, double* const* sum);
  // Rows of elements in storage to the arithmetic type, and back.
  void (*load_f32)(const void* from, Storage storage, int64_t n, float* to);
  void (*load_f64)(const void* from, Storage storage, int64_t n, double* to);
  void (*store_f32)(const float* from, int64_t n, void* to, Storage storage);
  void (*store_f64)(const double* from, int64_t n, void* to, Storage storage);
};

HDROPS_DECLARE_LOOPS(MatchingLoops, matching_loops)

}  // namespace hdrops
