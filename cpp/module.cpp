// The Python module hdrops._C: facts about the build and the machine. Importing it loads
// libhdrops.so, which registers the operators with torch. No torch header is included here: torch
// ships a pybind11 of its own.

#include <pybind11/pybind11.h>

#include "hdrops/cpu_level.h"

PYBIND11_MODULE(_C, m) {
  m.doc() =
      "Build facts and CPU level of hdrops; importing it registers the operators "
      "torch.ops.hdrops.*";
  m.attr("__version__") = HDROPS_VERSION;
  m.attr("compiler") = HDROPS_COMPILER;
  m.attr("built_with_cuda") = static_cast<bool>(HDROPS_BUILT_WITH_CUDA);
  m.attr("cuda_version") = HDROPS_CUDA_VERSION;
  m.attr("cuda_architectures") = HDROPS_CUDA_ARCHITECTURES;
  m.attr("cpu_levels") = HDROPS_LEVELS;
  m.def(
      "cpu_level",
      [] { return hdrops::cpu_level_name(hdrops::cpu_level()); },
      "The CPU level in use: 'baseline', 'avx2' or 'avx512'. RuntimeError if HDROPS_CPU names none "
      "or one "
      "that this processor lacks.");
  m.def(
      "best_cpu_level",
      [] { return hdrops::cpu_level_name(hdrops::best_cpu_level()); },
      "The best CPU level that this build and this processor have, whatever HDROPS_CPU says.");
}
