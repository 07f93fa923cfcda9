// Storage types of images in kernels: full scale, conversion, vector access and the choice by
// dtype.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "hdrops/math/common.h"
#include "hdrops/tensor.h"

namespace hdrops {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// The largest code of an integer storage type; 1 for floats.
template <class Storage>
constexpr double full_scale = std::is_same_v<Storage, uint8_t>    ? 255.0
                              : std::is_same_v<Storage, uint16_t> ? 65535.0
                                                                  : 1.0;

template <class Storage>
constexpr bool is_code_storage = std::is_integral_v<Storage>;

// The arithmetic type of a storage type.
template <class Storage>
using Compute = std::conditional_t<std::is_same_v<Storage, double>, double, float>;

// A value in units of the storage type: codes are rounded half to even and saturated, floats
// converted.
template <class Storage, class T>
HDROPS_HD Storage to_storage(T value) {
  if constexpr (is_code_storage<Storage>) {
    return static_cast<Storage>(
        static_cast<int32_t>(math::to_code(value, static_cast<T>(full_scale<Storage>))));
  } else {
    return static_cast<Storage>(value);
  }
}

// `count` neighbouring values that are loaded or stored in one instruction.
template <class Storage, int32_t count>
struct alignas(sizeof(Storage) * count) Pack {
  Storage item[count];
};

// One 16-byte store: assigned as a struct, the items would be stored one by one.
template <class Storage, int32_t count>
__device__ void store_pack(const Pack<Storage, count>& pack, Storage* to) {
  static_assert(sizeof pack == sizeof(uint4));
  uint4 bits;
  memcpy(&bits, &pack, sizeof bits);
  __stwb(reinterpret_cast<uint4*>(to), bits);
}

template <class Storage>
struct Tag {
  using type = Storage;
};

template <class T>
T* data_of(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <class T>
const T* const_data_of(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

// Calls f with the Tag of the storage type of an image.
template <class F>
void with_image_type(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Byte:
      return f(Tag<uint8_t>{});
    case ScalarType::UInt16:
      return f(Tag<uint16_t>{});
    case ScalarType::Half:
      return f(Tag<Half>{});
    case ScalarType::BFloat16:
      return f(Tag<BFloat16>{});
    case ScalarType::Double:
      return f(Tag<double>{});
    default:
      return f(Tag<float>{});
  }
}

// The same of a floating-point storage type; of codes it calls nothing.
template <class F>
void with_float_type(ScalarType dtype, const F& f) {
  with_image_type(dtype, [&](auto tag) {
    if constexpr (!is_code_storage<typename decltype(tag)::type>) f(tag);
  });
}

}  // namespace hdrops
