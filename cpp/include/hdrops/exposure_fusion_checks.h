// Argument checks of the operator exposure_fusion, shared by its CPU and CUDA kernels.
#pragma once

#include "hdrops/tensor.h"

namespace hdrops {

struct FusionProblem {
  int64_t n, k, c, h, w;
  double contrast, saturation, exposedness;
  bool opencv;
};

inline FusionProblem check_fusion(
    const Tensor& bracket, double contrast, double saturation, double exposedness, bool opencv) {
  constexpr auto op = "exposure_fusion";
  check_dim(op, "bracket", bracket, 5, "(N, K, C, H, W)");
  check_image_dtype(op, "bracket", bracket);
  const FusionProblem p{bracket.size(0),
                        bracket.size(1),
                        bracket.size(2),
                        bracket.size(3),
                        bracket.size(4),
                        contrast,
                        saturation,
                        exposedness,
                        opencv};
  STD_TORCH_CHECK(p.k >= 1, "exposure_fusion: bracket must hold at least one exposure");
  STD_TORCH_CHECK(
      p.c == 1 || p.c == 3, "exposure_fusion: bracket must have 1 or 3 channels, got ", p.c);
  STD_TORCH_CHECK(contrast >= 0 && saturation >= 0 && exposedness >= 0,
                  "exposure_fusion: contrast, saturation and exposedness must be exponents >= 0");
  return p;
}

// The arithmetic type of the gradient, after checking `grad` (N, C, H, W) against the bracket.
inline ScalarType check_fusion_grad(const FusionProblem& p,
                                    const Tensor& grad,
                                    const Tensor& bracket) {
  STD_TORCH_CHECK(!is_code(bracket.scalar_type()),
                  "exposure_fusion_backward: integer brackets have no gradient; convert them to "
                  "floating point");
  STD_TORCH_CHECK(shape_of(grad) == std::vector<int64_t>({p.n, p.c, p.h, p.w}),
                  "exposure_fusion_backward: grad must be (N, C, H, W) of the result, got ",
                  shape_text(grad));
  check_same_device("exposure_fusion_backward", "grad", grad, bracket);
  return compute_dtype(bracket.scalar_type());
}

}  // namespace hdrops
