// The inner loops of the operator lab: torch-free, one copy per CPU level.
#pragma once

#include <cstdint>

#include "hdrops/cpu_level.h"
#include "hdrops/simd/storage.h"

namespace hdrops {

// Three planes of pixels of one storage type, `stride` elements apart.
template <class Void>
struct Planes {
  Void* first;
  int64_t stride;
  Storage storage;
};

// n pixels. Float64 goes with float64 and codes, all other types with all but float64.
struct LabLoops {
  void (*rgb_to_lab)(Planes<const void> rgb, int64_t n, Planes<void> lab);
  void (*lab_to_rgb)(Planes<const void> lab, int64_t n, Planes<void> rgb);
  // The gradients of R, G, B and of L*, a*, b*, all of one type.
  void (*rgb_to_lab_backward)(Planes<const void> grad,
                              Planes<const void> rgb,
                              int64_t n,
                              Planes<void> out);
  void (*lab_to_rgb_backward)(Planes<const void> grad,
                              Planes<const void> lab,
                              int64_t n,
                              Planes<void> out);
};

HDROPS_DECLARE_LOOPS(LabLoops, lab_loops)

}  // namespace hdrops
