// Argument checks of the operator ssim, shared by its CPU and CUDA kernels.
#pragma once

#include <vector>

#include "hdrops/math/border.h"
#include "hdrops/math/ssim.h"
#include "hdrops/tensor.h"
#include "hdrops/window_checks.h"

namespace hdrops {

struct SsimProblem {
  int64_t n, c, h, w;
  std::vector<double> window;  // symmetric
  double c1, c2, covariance;
  math::Border border;
  int64_t levels;
  bool zero_padded;

  int64_t radius() const { return static_cast<int64_t>(window.size()) / 2; }
  // Positions of the window along a line of `size` pixels.
  int64_t positions(int64_t size) const {
    return border == math::Border::valid ? size - 2 * radius() : size;
  }
};

inline SsimProblem check_ssim(const char* op,
                              const Tensor& x,
                              const Tensor& y,
                              const std::vector<double>& window,
                              double c1,
                              double c2,
                              double covariance,
                              int64_t border,
                              int64_t levels,
                              bool zero_padded) {
  check_dim(op, "x", x, 4, "(N, C, H, W)");
  check_image_dtype(op, "x", x);
  check_dtype(op, "y", y, x.scalar_type());
  check_same_device(op, "y", y, x);
  STD_TORCH_CHECK(shape_of(y) == shape_of(x),
                  op,
                  ": x and y must have one shape, got ",
                  shape_text(x),
                  " and ",
                  shape_text(y));
  check_window(op, window);
  check_finite(op, "c1", c1);
  check_finite(op, "c2", c2);
  check_finite(op, "covariance", covariance);
  STD_TORCH_CHECK(border >= 0 && border <= 4, op, ": border must be 0 to 4, got ", border);
  check_levels(op, levels);
  const SsimProblem p{x.size(0),
                      x.size(1),
                      x.size(2),
                      x.size(3),
                      window,
                      c1,
                      c2,
                      covariance,
                      static_cast<math::Border>(border),
                      levels,
                      zero_padded};
  STD_TORCH_CHECK(p.c >= 1 && p.h >= 1 && p.w >= 1, op, ": x has no pixels: shape ", shape_text(x));
  int64_t height = p.h, width = p.w;
  for (int64_t level = 1; level < levels; ++level) {
    height = math::halved_size(height);
    width = math::halved_size(width);
  }
  STD_TORCH_CHECK(p.positions(height) >= 1 && p.positions(width) >= 1,
                  op,
                  ": level ",
                  levels - 1,
                  " of x has ",
                  height,
                  " x ",
                  width,
                  " pixels, fewer than the window of ",
                  static_cast<int64_t>(window.size()),
                  " a side");
  return p;
}

// After check_ssim: `grad` (N, C, levels, 2) of the means.
inline void check_ssim_grad(const SsimProblem& p, const Tensor& grad, const Tensor& x) {
  constexpr auto op = "ssim_means_backward";
  STD_TORCH_CHECK(!is_code(x.scalar_type()),
                  op,
                  ": integer images have no gradient; convert them to floating point");
  STD_TORCH_CHECK(shape_of(grad) == std::vector<int64_t>({p.n, p.c, p.levels, 2}),
                  op,
                  ": grad must be (N, C, levels, 2) of the means, got ",
                  shape_text(grad));
  check_same_device(op, "grad", grad, x);
}

}  // namespace hdrops
