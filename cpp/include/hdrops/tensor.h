// Checks, views and allocation on torch::stable::Tensor, shared by the CPU and CUDA operators.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hdrops/simd/storage.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace hdrops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::UInt16:
      return "uint16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    default:
      return "an unsupported dtype";
  }
}

inline bool is_code(ScalarType dtype) {
  return dtype == ScalarType::Byte || dtype == ScalarType::UInt16;
}

inline bool is_image(ScalarType dtype) {
  return is_code(dtype) || dtype == ScalarType::Half || dtype == ScalarType::BFloat16 ||
         dtype == ScalarType::Float || dtype == ScalarType::Double;
}

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

// Arithmetic type of an operator: float64 for float64 images, float32 for everything else.
inline ScalarType compute_dtype(ScalarType image) {
  return image == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls f with a zero of the arithmetic type of an image type.
template <class F>
void with_compute_type(ScalarType image, const F& f) {
  if (compute_dtype(image) == ScalarType::Double)
    f(double{});
  else
    f(float{});
}

inline std::vector<int64_t> shape_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return {sizes.begin(), sizes.end()};
}

inline std::string shape_text(const Tensor& t) {
  std::string text = "(";
  for (const int64_t size : shape_of(t))
    text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ")";
}

inline void check_same_device(const char* op,
                              const char* name,
                              const Tensor& t,
                              const Tensor& reference) {
  STD_TORCH_CHECK(
      t.device() == reference.device(),
      op,
      ": ",
      name,
      " is on another device than the first tensor; move them to one device with .to()");
}

inline void check_dtype(const char* op, const char* name, const Tensor& t, ScalarType expected) {
  STD_TORCH_CHECK(t.scalar_type() == expected,
                  op,
                  ": ",
                  name,
                  " must be ",
                  dtype_name(expected),
                  " here, got ",
                  dtype_name(t.scalar_type()),
                  "; convert it with .to()");
}

inline void check_image_dtype(const char* op, const char* name, const Tensor& t) {
  STD_TORCH_CHECK(is_image(t.scalar_type()),
                  op,
                  ": ",
                  name,
                  " must be uint8, uint16, float16, bfloat16, float32 or float64, got ",
                  dtype_name(t.scalar_type()));
}

inline void check_dim(
    const char* op, const char* name, const Tensor& t, int64_t dim, const char* layout) {
  STD_TORCH_CHECK(
      t.dim() == dim, op, ": ", name, " must be ", layout, ", got shape ", shape_text(t));
}

// The output type asked for: that of the images, or float32 for integer images.
inline ScalarType check_output_dtype(const char* op,
                                     ScalarType image,
                                     std::optional<ScalarType> wanted) {
  const ScalarType dtype = wanted.value_or(image);
  STD_TORCH_CHECK(dtype == image || (is_code(image) && dtype == ScalarType::Float),
                  op,
                  ": an output of ",
                  dtype_name(dtype),
                  " from ",
                  dtype_name(image),
                  " images is not offered; ask for ",
                  dtype_name(image),
                  is_code(image) ? " or float32" : "");
  return dtype;
}

inline void check_out(const char* op,
                      const Tensor& out,
                      const std::vector<int64_t>& shape,
                      const Tensor& like) {
  STD_TORCH_CHECK(
      shape_of(out) == shape, op, ": out has shape ", shape_text(out), ", not that of the result");
  STD_TORCH_CHECK(out.is_contiguous(), op, ": out must be contiguous");
  check_same_device(op, "out", out, like);
}

// Asks for huge pages under large memory before its first touch: faulting 4-KiB pages costs more
// than most kernels here.
inline void advise_huge_pages(void* memory, size_t bytes) {
#ifdef __linux__
  constexpr size_t threshold = 4 << 20;
  if (bytes < threshold) return;
  constexpr uintptr_t page = 4096;
  const auto at = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (at + page - 1) / page * page, end = (at + bytes) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// A fresh tensor of the given shape on the device of `like`.
inline Tensor allocate(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like) {
  Tensor out = torch::stable::empty(
      {shape.data(), shape.size()}, dtype, std::nullopt, like.device(), std::nullopt, std::nullopt);
  if (like.is_cpu())
    advise_huge_pages(out.data_ptr(), static_cast<size_t>(out.numel()) * out.element_size());
  return out;
}

// Broadcast strides of an intensity table (1 or N, 1 or C, L) over images (N, C, H, W).
struct TableView {
  int64_t stride_n;
  int64_t stride_c;
  int64_t levels;
};

inline TableView table_view(
    const char* op, const char* name, const Tensor& table, int64_t n, int64_t c) {
  check_dim(op, name, table, 3, "a table of shape (1 or N, 1 or C, L)");
  STD_TORCH_CHECK(
      (table.size(0) == 1 || table.size(0) == n) && (table.size(1) == 1 || table.size(1) == c),
      op,
      ": ",
      name,
      " of shape ",
      shape_text(table),
      " does not broadcast over N=",
      n,
      ", C=",
      c,
      "; give (L,), (C, L) or (N, C, L)");
  const int64_t levels = table.size(2);
  STD_TORCH_CHECK(
      levels >= 2 && levels <= 65536, op, ": ", name, " must have 2 to 65536 levels, got ", levels);
  return {table.size(0) == 1 ? 0 : table.size(1) * levels, table.size(1) == 1 ? 0 : levels, levels};
}

}  // namespace hdrops
