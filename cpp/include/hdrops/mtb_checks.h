// Argument checks of the operator mtb, shared by its CPU and CUDA kernels.
#pragma once

#include "hdrops/math/mtb.h"
#include "hdrops/tensor.h"

namespace hdrops {

constexpr int64_t mtb_most_levels = 16;
// Numbers of a result: dy, dx, pixels that disagree, pixels compared.
constexpr int64_t mtb_numbers = 4;

struct MtbProblem {
  int64_t n, c, height, width;
  int32_t levels, exclude;

  int64_t pixels() const { return height * width; }
};

inline MtbProblem check_mtb(const Tensor& image,
                            const Tensor& reference,
                            int64_t levels,
                            int64_t exclude) {
  constexpr auto op = "mtb_shift";
  check_dim(op, "image", image, 4, "(N, C, H, W)");
  check_image_dtype(op, "image", image);
  check_dtype(op, "reference", reference, image.scalar_type());
  check_same_device(op, "reference", reference, image);
  STD_TORCH_CHECK(shape_of(image) == shape_of(reference),
                  "mtb_shift: image and reference must have one shape, got ",
                  shape_text(image),
                  " and ",
                  shape_text(reference));
  STD_TORCH_CHECK(image.size(1) == 1 || image.size(1) == 3,
                  "mtb_shift: image must have 1 or 3 channels, got shape ",
                  shape_text(image));
  STD_TORCH_CHECK(image.size(2) * image.size(3) > 0, "mtb_shift: image has no pixels");
  STD_TORCH_CHECK(levels >= 1 && levels <= mtb_most_levels,
                  "mtb_shift: levels must be 1 to ",
                  mtb_most_levels,
                  ", got ",
                  levels);
  STD_TORCH_CHECK(
      exclude >= 0 && exclude <= 254, "mtb_shift: exclude must be 0 to 254, got ", exclude);
  const int64_t height = image.size(2), width = image.size(3);
  return {image.size(0),
          image.size(1),
          height,
          width,
          math::mtb_levels(height, width, levels),
          static_cast<int32_t>(exclude)};
}

}  // namespace hdrops
