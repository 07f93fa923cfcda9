// Argument checks of the operator matching, shared by its CPU and CUDA kernels.
#pragma once

#include "hdrops/math/common.h"
#include "hdrops/tensor.h"

namespace hdrops {

struct CorrelationProblem {
  int64_t n, c, height, width, motions;
};

HDROPS_HD int64_t plane_of(const CorrelationProblem& p) { return p.height * p.width; }

inline CorrelationProblem check_correlation(const char* op,
                                            const Tensor& a,
                                            const Tensor& b,
                                            const Tensor& motions) {
  check_dim(op, "a", a, 4, "(N, C, H, W)");
  STD_TORCH_CHECK(is_image(a.scalar_type()) && !is_code(a.scalar_type()),
                  op,
                  ": a must be floating point, got ",
                  dtype_name(a.scalar_type()));
  check_dtype(op, "b", b, a.scalar_type());
  check_same_device(op, "b", b, a);
  STD_TORCH_CHECK(shape_of(a) == shape_of(b),
                  op,
                  ": a and b must have one shape, got ",
                  shape_text(a),
                  " and ",
                  shape_text(b));
  check_dim(op, "motions", motions, 2, "(M, 2)");
  check_same_device(op, "motions", motions, a);
  STD_TORCH_CHECK(motions.scalar_type() == ScalarType::Long && motions.size(1) == 2,
                  op,
                  ": motions must be (M, 2) of int64, got shape ",
                  shape_text(motions));
  return {a.size(0), a.size(1), a.size(2), a.size(3), motions.size(0)};
}

inline std::vector<int64_t> correlation_shape(const CorrelationProblem& p) {
  return {p.n, p.motions, p.height, p.width};
}

inline void check_correlation_grad(const CorrelationProblem& p,
                                   const Tensor& grad,
                                   const Tensor& a) {
  STD_TORCH_CHECK(shape_of(grad) == correlation_shape(p),
                  "correlation_backward: grad has shape ",
                  shape_text(grad),
                  ", not that of the result");
  check_same_device("correlation_backward", "grad", grad, a);
}

}  // namespace hdrops
