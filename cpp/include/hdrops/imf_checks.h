// Argument checks of the operator imf, shared by its CPU and CUDA kernels.
#pragma once

#include <cmath>
#include <tuple>
#include <vector>

#include "hdrops/math/imf.h"
#include "hdrops/tensor.h"

namespace hdrops {

struct ImfProblem {
  int64_t n, c, plane;  // images, channels, pixels of one channel
  TableView dark, bright;
};

template <class T>
math::Ramp<T> ramp(const char* name, const std::vector<double>& ends) {
  STD_TORCH_CHECK(
      ends.size() == 2 && std::isfinite(ends[0]) && std::isfinite(ends[1]) && ends[0] < ends[1],
      "imf_fuse: ",
      name,
      " must be two finite, increasing code values, such as (5, 55)");
  return {
      static_cast<T>(ends[0]), static_cast<T>(ends[1]), static_cast<T>(1.0 / (ends[1] - ends[0]))};
}

inline ImfProblem check_imf(const Tensor& dark,
                            const Tensor& bright,
                            const Tensor& imf_dark,
                            const Tensor& imf_bright) {
  constexpr auto op = "imf_fuse";
  check_dim(op, "dark", dark, 4, "(N, C, H, W)");
  check_image_dtype(op, "dark", dark);
  check_dtype(op, "bright", bright, dark.scalar_type());
  STD_TORCH_CHECK(shape_of(dark) == shape_of(bright),
                  "imf_fuse: dark and bright must have one shape, got ",
                  shape_text(dark),
                  " and ",
                  shape_text(bright));
  for (const auto& [name, table] :
       {std::pair{"imf_dark", &imf_dark}, std::pair{"imf_bright", &imf_bright}}) {
    check_dtype(op, name, *table, compute_dtype(dark.scalar_type()));
    check_same_device(op, name, *table, dark);
  }
  check_same_device(op, "bright", bright, dark);
  const int64_t n = dark.size(0), c = dark.size(1);
  return {n,
          c,
          dark.size(2) * dark.size(3),
          table_view(op, "imf_dark", imf_dark, n, c),
          table_view(op, "imf_bright", imf_bright, n, c)};
}

inline void check_histogram(const Tensor& source, const Tensor& target, int64_t levels) {
  constexpr auto op = "estimate_imf";
  check_dim(op, "source", source, 4, "(N, C, H, W)");
  check_dim(op, "target", target, 4, "(N, C, H, W)");
  STD_TORCH_CHECK(is_code(source.scalar_type()),
                  "estimate_imf: source must be uint8 or uint16, got ",
                  dtype_name(source.scalar_type()),
                  "; histograms are defined on codes");
  check_dtype(op, "target", target, source.scalar_type());
  check_same_device(op, "target", target, source);
  STD_TORCH_CHECK(source.size(0) == target.size(0) && source.size(1) == target.size(1),
                  "estimate_imf: source and target must agree in N and C, got ",
                  shape_text(source),
                  " and ",
                  shape_text(target));
  STD_TORCH_CHECK(source.size(2) * source.size(3) > 0 && target.size(2) * target.size(3) > 0,
                  "estimate_imf: source and target must have at least one pixel");
  STD_TORCH_CHECK(
      levels >= 2 && levels <= 65536, "estimate_imf: levels must be 2 to 65536, got ", levels);
}

}  // namespace hdrops
