// Run-time choice of the CPU level: which of the compiled copies of cpp/simd/ is used.
#pragma once

#include <string>

#define HDROPS_EXPORT __attribute__((visibility("default")))

namespace hdrops {

enum class CpuLevel { baseline = 0, avx2 = 1, avx512 = 2 };

// The best level that this build and this processor both have, or the one that
// HDROPS_CPU=baseline|avx2|avx512 forces. Decided once, at first call. An unknown or unavailable
// HDROPS_CPU throws std::runtime_error.
HDROPS_EXPORT CpuLevel cpu_level();

// The best level that this build and this processor both have, whatever HDROPS_CPU says.
HDROPS_EXPORT CpuLevel best_cpu_level();

HDROPS_EXPORT std::string cpu_level_name(CpuLevel level);

// Picks one of the loop tables; `avx2` and `avx512` are null where the build has no such level.
template <class Loops>
const Loops& pick(const Loops* baseline, const Loops* avx2, const Loops* avx512) {
  switch (cpu_level()) {
    case CpuLevel::avx512:
      return *avx512;
    case CpuLevel::avx2:
      return *avx2;
    default:
      return *baseline;
  }
}

}  // namespace hdrops

#ifdef HDROPS_X86_LEVELS
#define HDROPS_PICK(table) ::hdrops::pick(&baseline::table, &avx2::table, &avx512::table)
#define HDROPS_DECLARE_LOOPS(type, table) \
  namespace baseline {                    \
  extern const type table;                \
  }                                       \
  namespace avx2 {                        \
  extern const type table;                \
  }                                       \
  namespace avx512 {                      \
  extern const type table;                \
  }
#else
#define HDROPS_PICK(table) (baseline::table)
#define HDROPS_DECLARE_LOOPS(type, table) \
  namespace baseline {                    \
  extern const type table;                \
  }
#endif
