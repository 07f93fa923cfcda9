// Argument checks of the operator lab, shared by its CPU and CUDA kernels.
#pragma once

#include "hdrops/math/lab.h"
#include "hdrops/tensor.h"

namespace hdrops {

inline void check_colours(const char* op, const char* name, const Tensor& image) {
  check_dim(op, name, image, 4, "(N, 3, H, W)");
  STD_TORCH_CHECK(
      image.size(1) == 3, op, ": ", name, " must be (N, 3, H, W), got shape ", shape_text(image));
  check_image_dtype(op, name, image);
}

inline void check_lab(const char* op, const Tensor& lab) {
  check_colours(op, "lab", lab);
  STD_TORCH_CHECK(!is_code(lab.scalar_type()),
                  op,
                  ": lab must be floating point, got ",
                  dtype_name(lab.scalar_type()));
}

// The type of L*, a*, b* of an image.
inline ScalarType lab_dtype(ScalarType image) { return is_code(image) ? ScalarType::Float : image; }

// The type asked for of R, G, B: that of L*, a*, b*, or codes.
inline ScalarType check_rgb_dtype(ScalarType lab, std::optional<ScalarType> wanted) {
  const ScalarType dtype = wanted.value_or(lab);
  STD_TORCH_CHECK(dtype == lab || is_code(dtype),
                  "lab_to_rgb: an output of ",
                  dtype_name(dtype),
                  " from ",
                  dtype_name(lab),
                  " values is not offered; ask for ",
                  dtype_name(lab),
                  ", uint8 or uint16");
  return dtype;
}

inline void check_colour_grad(const char* op, const Tensor& grad, const Tensor& image) {
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
