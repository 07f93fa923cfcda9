// Storage types of images in torch-free code.
#pragma once

#include <cstdint>

namespace hdrops {

// Element types of images.
enum class Storage { u8, u16, f16, bf16, f32, f64 };

struct float16_bits {
  uint16_t bits;
};

struct bfloat16_bits {
  uint16_t bits;
};

}  // namespace hdrops
