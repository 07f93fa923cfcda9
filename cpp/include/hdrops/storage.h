// From torch's element types to those of torch-free code.
#pragma once

#include <array>

#include "hdrops/simd/storage.h"
#include "hdrops/tensor.h"

namespace hdrops {

inline Storage storage_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte:
      return Storage::u8;
    case ScalarType::UInt16:
      return Storage::u16;
    case ScalarType::Half:
      return Storage::f16;
    case ScalarType::BFloat16:
      return Storage::bf16;
    case ScalarType::Float:
      return Storage::f32;
    default:
      return Storage::f64;
  }
}

inline int64_t bytes_of(Storage storage) {
  constexpr std::array<int64_t, 6> bytes = {1, 2, 2, 2, 4, 8};
  return bytes[static_cast<size_t>(storage)];
}

}  // namespace hdrops
