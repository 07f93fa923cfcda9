// Storage types of half-precision images in torch-free code.
#pragma once

#include <cstdint>

namespace hdrops {

struct float16_bits {
  uint16_t bits;
};

struct bfloat16_bits {
  uint16_t bits;
};

}  // namespace hdrops
