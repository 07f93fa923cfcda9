#include "hdrops/cpu_level.h"

#include <cstdlib>
#include <stdexcept>

namespace hdrops {

CpuLevel best_cpu_level() {
#ifdef HDROPS_X86_LEVELS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("f16c");
  // AVX-512 here means the byte permutations of VBMI too (Ice Lake, Zen 4 and later): the table
  // lookups need them.
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512vbmi");
  if (avx512) return CpuLevel::avx512;
  if (avx2) return CpuLevel::avx2;
#endif
  return CpuLevel::baseline;
}

std::string cpu_level_name(CpuLevel level) {
  switch (level) {
    case CpuLevel::avx512:
      return "avx512";
    case CpuLevel::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

static CpuLevel chosen_cpu_level() {
  const CpuLevel best = best_cpu_level();
  const char* forced = std::getenv("HDROPS_CPU");
  if (forced == nullptr || *forced == '\0') return best;
  for (const CpuLevel level : {CpuLevel::baseline, CpuLevel::avx2, CpuLevel::avx512}) {
    if (cpu_level_name(level) != forced) continue;
    if (level > best) {
      throw std::runtime_error(
          "HDROPS_CPU=" + std::string(forced) +
          " is not available here; the best level of this build on this processor is " +
          cpu_level_name(best));
    }
    return level;
  }
  throw std::runtime_error("HDROPS_CPU=" + std::string(forced) +
                           " is unknown; use baseline, avx2 or avx512, or unset it");
}

CpuLevel cpu_level() {
  static const CpuLevel level = chosen_cpu_level();
  return level;
}

}  // namespace hdrops
