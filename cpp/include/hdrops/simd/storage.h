// Storage types of images in torch-free code.
#pragma once

#include <cstdint>

#include "hdrops/math/common.h"

namespace hdrops {

struct float16_bits {
  uint16_t bits;
};

struct bfloat16_bits {
  uint16_t bits;
};

enum class Storage { u8, u16, f16, bf16, f32, f64 };

HDROPS_HD int64_t bytes_of(Storage storage) {
  constexpr int64_t bytes[] = {1, 2, 2, 2, 4, 8};
  return bytes[static_cast<int>(storage)];
}

// The value that stands for 1: the largest code, or 1 for floats.
HDROPS_HD double full_scale_of(Storage storage) {
  return storage == Storage::u8 ? 255.0 : storage == Storage::u16 ? 65535.0 : 1.0;
}

}  // namespace hdrops
