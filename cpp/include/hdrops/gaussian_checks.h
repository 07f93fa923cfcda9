// Argument checks of the operator gaussian, shared by its CPU and CUDA kernels.
#pragma once

#include "hdrops/math/border.h"
#include "hdrops/math/gaussian.h"
#include "hdrops/tensor.h"

namespace hdrops {

struct GaussianProblem {
  int64_t n, c, h, w;
  double sigma;
  int64_t radius;
  math::Border border;
};

inline GaussianProblem check_gaussian(
    const char* op, const Tensor& image, double sigma, int64_t radius, int64_t border) {
  check_dim(op, "image", image, 4, "(N, C, H, W)");
  check_image_dtype(op, "image", image);
  STD_TORCH_CHECK(
      sigma >= 0.3 && sigma <= 200, op, ": sigma must be 0.3 to 200 pixels, got ", sigma);
  STD_TORCH_CHECK(radius >= 1, op, ": radius must be at least 1 pixel, got ", radius);
  STD_TORCH_CHECK(border >= static_cast<int64_t>(math::Border::reflect) &&
                      border <= static_cast<int64_t>(math::Border::zeros),
                  op,
                  ": border must be 1 (reflect), 2 (symmetric), 3 (replicate) or 4 (zeros), got ",
                  border);
  return {image.size(0),
          image.size(1),
          image.size(2),
          image.size(3),
          sigma,
          radius,
          static_cast<math::Border>(border)};
}

inline void check_gaussian_out(const char* op, const Tensor& image, const Tensor& out) {
  check_out(op, out, shape_of(image), image);
  check_output_dtype(op, image.scalar_type(), out.scalar_type());
}

// The gradient of the blur takes `grad` as its only image.
inline void check_gaussian_grad(const char* op, const Tensor& grad) {
  STD_TORCH_CHECK(!is_code(grad.scalar_type()),
                  op,
                  ": grad must be floating point, got ",
                  dtype_name(grad.scalar_type()));
}

inline void check_gaussian_grad(const char* op, const Tensor& grad, const Tensor& image) {
  STD_TORCH_CHECK(!is_code(image.scalar_type()),
                  op,
                  ": integer images have no gradient; convert them to floating point");
  STD_TORCH_CHECK(shape_of(grad) == shape_of(image),
                  op,
                  ": grad must have the shape of the image, got ",
                  shape_text(grad));
  check_same_device(op, "grad", grad, image);
}

}  // namespace hdrops
