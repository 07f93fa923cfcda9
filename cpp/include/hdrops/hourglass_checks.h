// Argument checks of the operator hourglass, shared by its CPU and CUDA kernels.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "hdrops/tensor.h"

namespace hdrops {

// A transposed convolution of x (n, depth, rows, columns, c) with weights (c, k, taps).
struct TransposedProblem {
  int64_t n, c, k;
  int64_t in[3], out[3], taps[3], stride[3], padding[3], dilation[3];
};

inline TransposedProblem check_transposed(const char* op,
                                          const Tensor& x,
                                          const Tensor& weight,
                                          const std::optional<Tensor>& bias,
                                          const std::vector<int64_t>& stride,
                                          const std::vector<int64_t>& padding,
                                          const std::vector<int64_t>& output_padding,
                                          const std::vector<int64_t>& dilation) {
  check_dim(op, "x", x, 5, "(N, D, H, W, C)");
  STD_TORCH_CHECK(is_image(x.scalar_type()) && !is_code(x.scalar_type()),
                  op,
                  ": x must be floating point, got ",
                  dtype_name(x.scalar_type()));
  check_dim(op, "weight", weight, 5, "(C, K, kD, kH, kW)");
  check_dtype(op, "weight", weight, x.scalar_type());
  check_same_device(op, "weight", weight, x);
  TransposedProblem p{};
  p.n = x.size(0);
  p.c = x.size(4);
  p.k = weight.size(1);
  STD_TORCH_CHECK(weight.size(0) == p.c, op, ": weight has ", weight.size(0), " channels, x ", p.c);
  STD_TORCH_CHECK(p.c >= 1 && p.k >= 1, op, ": weight must have channels");
  if (bias) {
    check_dtype(op, "bias", *bias, x.scalar_type());
    check_same_device(op, "bias", *bias, x);
    STD_TORCH_CHECK(shape_of(*bias) == std::vector<int64_t>{p.k},
                    op,
                    ": bias must be (",
                    p.k,
                    "), got shape ",
                    shape_text(*bias));
  }
  STD_TORCH_CHECK(stride.size() == 3 && padding.size() == 3 && output_padding.size() == 3 &&
                      dilation.size() == 3,
                  op,
                  ": stride, padding, output_padding and dilation must be three numbers each");
  for (int axis = 0; axis < 3; ++axis) {
    p.in[axis] = x.size(1 + axis);
    p.taps[axis] = weight.size(2 + axis);
    p.stride[axis] = stride[axis];
    p.padding[axis] = padding[axis];
    p.dilation[axis] = dilation[axis];
    STD_TORCH_CHECK(p.taps[axis] >= 1 && stride[axis] >= 1 && padding[axis] >= 0 &&
                        dilation[axis] >= 1 && output_padding[axis] >= 0,
                    op,
                    ": kernel, stride and dilation must be at least 1, paddings at least 0");
    STD_TORCH_CHECK(std::max({stride[axis], padding[axis], dilation[axis]}) <= 1 << 16,
                    op,
                    ": stride, padding and dilation must be at most 65536");
    STD_TORCH_CHECK(output_padding[axis] < std::max(stride[axis], dilation[axis]),
                    op,
                    ": output_padding must be below the stride or the dilation");
    p.out[axis] = (p.in[axis] - 1) * stride[axis] - 2 * padding[axis] +
                  dilation[axis] * (p.taps[axis] - 1) + output_padding[axis] + 1;
    STD_TORCH_CHECK(p.in[axis] >= 1 && p.out[axis] >= 1, op, ": the result has no place");
  }
  return p;
}

}  // namespace hdrops
