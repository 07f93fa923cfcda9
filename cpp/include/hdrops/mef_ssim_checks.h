// Argument checks of the operator mef_ssim, shared by its CPU and CUDA kernels.
#pragma once

#include <vector>

#include "hdrops/math/border.h"
#include "hdrops/math/mef_ssim.h"
#include "hdrops/math/ssim.h"
#include "hdrops/tensor.h"
#include "hdrops/window_checks.h"

namespace hdrops {

struct MefSsimProblem {
  int64_t n, k, h, w;
  std::vector<double> window;
  double scale;  // of stored values to 0 to 255
  double c;
  math::Border border;
  int64_t levels;

  // Pixels that a window takes beyond its own.
  int64_t reach() const { return static_cast<int64_t>(window.size()) - 1; }
  // Pixels that stand before the image for its first windows.
  int64_t before() const { return border == math::Border::valid ? 0 : reach() / 2; }
  int64_t positions(int64_t size) const {
    return border == math::Border::valid ? size - reach() : size;
  }
};

inline MefSsimProblem check_mef_ssim(const char* op,
                                     const Tensor& fused,
                                     const Tensor& bracket,
                                     const std::vector<double>& window,
                                     double data_range,
                                     double k,
                                     int64_t border,
                                     int64_t levels) {
  check_dim(op, "fused", fused, 4, "(N, 1, H, W)");
  check_dim(op, "bracket", bracket, 5, "(N, K, 1, H, W)");
  check_image_dtype(op, "fused", fused);
  check_dtype(op, "bracket", bracket, fused.scalar_type());
  check_same_device(op, "bracket", bracket, fused);
  const double full_scale = full_scale_of(storage_of(fused.scalar_type()));
  const double root = k * math::mef_range;
  const MefSsimProblem p{fused.size(0),
                         bracket.size(1),
                         fused.size(2),
                         fused.size(3),
                         window,
                         math::mef_range / data_range / full_scale,
                         root * root,
                         static_cast<math::Border>(border),
                         levels};
  STD_TORCH_CHECK(shape_of(fused) == std::vector<int64_t>({p.n, 1, p.h, p.w}) &&
                      shape_of(bracket) == std::vector<int64_t>({p.n, p.k, 1, p.h, p.w}),
                  op,
                  ": fused must be (N, 1, H, W) and bracket (N, K, 1, H, W), got ",
                  shape_text(fused),
                  " and ",
                  shape_text(bracket));
  STD_TORCH_CHECK(p.k >= 1, op, ": bracket must hold at least one source");
  check_positive(op, "data_range", data_range);
  check_positive(op, "k", k);
  STD_TORCH_CHECK(
      border >= 0 && border <= 4, op, ": border must be one of math::Border, got ", border);
  check_levels(op, levels);
  check_window(op, window);
  int64_t h = p.h, w = p.w;
  for (int64_t level = 1; level < levels; ++level) {
    h = math::halved_size(h);
    w = math::halved_size(w);
  }
  STD_TORCH_CHECK(p.positions(h) >= 1 && p.positions(w) >= 1,
                  op,
                  ": images of ",
                  p.w,
                  " x ",
                  p.h,
                  " do not hold the window on ",
                  levels,
                  " levels");
  return p;
}

inline void check_mef_ssim_grad(const MefSsimProblem& p, const Tensor& grad, const Tensor& fused) {
  constexpr auto op = "mef_ssim_means_backward";
  STD_TORCH_CHECK(!is_code(fused.scalar_type()),
                  op,
                  ": integer images have no gradient; convert them to floating point");
  STD_TORCH_CHECK(shape_of(grad) == std::vector<int64_t>({p.n, p.levels}),
                  op,
                  ": grad must be (N, levels) of the result, got ",
                  shape_text(grad));
  check_same_device(op, "grad", grad, fused);
}

}  // namespace hdrops
