// Argument checks of the matching volume and its convolution, shared by their CPU and CUDA kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "hdrops/math/common.h"
#include "hdrops/tensor.h"

namespace hdrops {

// What the volume is made of: `count` images of (c, height, width), and its slices.
struct VolumeProblem {
  int64_t n, count, c, height, width;
  int64_t motions, exposures, reference;
  bool masked, mask_of_channels, cap, inner, include_reference;
  double ceiling;
  int64_t order[3];  // from the slowest axis of depth to the fastest: 0 image, 1 motion, 2 exposure

  HDROPS_HD_MEMBER int64_t images() const { return count - (include_reference ? 0 : 1); }
  HDROPS_HD_MEMBER int64_t depth() const { return images() * motions * exposures; }
  HDROPS_HD_MEMBER int64_t products() const { return inner ? 1 : c; }
  HDROPS_HD_MEMBER int64_t channels() const { return 3 * c + products(); }
  HDROPS_HD_MEMBER int64_t plane() const { return height * width; }
};

struct VolumeSlice {
  int64_t image, motion, exposure;
};

// Image, motion and exposure of a slice.
HDROPS_HD VolumeSlice slice_of(const VolumeProblem& p, int64_t d) {
  const int64_t sizes[3] = {p.images(), p.motions, p.exposures};
  int64_t place[3];
  for (int axis = 2; axis >= 0; --axis) {
    const int64_t size = sizes[p.order[axis]];
    place[p.order[axis]] = d % size;
    d /= size;
  }
  const int64_t image = !p.include_reference && place[0] >= p.reference ? place[0] + 1 : place[0];
  return {image, place[1], place[2]};
}

// The number of a slice.
HDROPS_HD int64_t depth_of(const VolumeProblem& p, const VolumeSlice& slice) {
  const bool skipped = !p.include_reference && slice.image > p.reference;
  const int64_t place[3] = {slice.image - (skipped ? 1 : 0), slice.motion, slice.exposure};
  const int64_t sizes[3] = {p.images(), p.motions, p.exposures};
  int64_t d = 0;
  for (const int64_t axis : p.order) d = d * sizes[axis] + place[axis];
  return d;
}

inline VolumeProblem check_volume(const char* op,
                                  const Tensor& features,
                                  const std::optional<Tensor>& saturation,
                                  const Tensor& motions,
                                  const std::vector<double>& exposures,
                                  int64_t reference,
                                  bool cap,
                                  double ceiling,
                                  bool inner,
                                  const std::vector<int64_t>& order,
                                  bool include_reference) {
  check_dim(op, "features", features, 5, "(N, n, C, H, W)");
  STD_TORCH_CHECK(is_image(features.scalar_type()) && !is_code(features.scalar_type()),
                  op,
                  ": features must be floating point, got ",
                  dtype_name(features.scalar_type()));
  VolumeProblem p{};
  p.n = features.size(0);
  p.count = features.size(1);
  p.c = features.size(2);
  p.height = features.size(3);
  p.width = features.size(4);
  STD_TORCH_CHECK(p.c >= 1, op, ": features must have a channel");
  STD_TORCH_CHECK(reference >= 0 && reference < p.count,
                  op,
                  ": reference must be one of ",
                  p.count,
                  " images, got ",
                  reference);
  if (saturation) {
    check_dtype(op, "saturation", *saturation, features.scalar_type());
    check_same_device(op, "saturation", *saturation, features);
    check_dim(op, "saturation", *saturation, 5, "(N, n, 1 or C, H, W)");
    std::vector<int64_t> expected = shape_of(features);
    if (saturation->size(2) == 1) expected[2] = 1;
    STD_TORCH_CHECK(shape_of(*saturation) == expected,
                    op,
                    ": saturation of shape ",
                    shape_text(*saturation),
                    " does not fit features of shape ",
                    shape_text(features));
    p.masked = true;
    p.mask_of_channels = saturation->size(2) == p.c;
  }
  // So that a moved feature is 0 where the image is.
  STD_TORCH_CHECK(ceiling >= 0, op, ": ceiling must be 0 or more, got ", ceiling);
  for (const double gain : exposures)
    STD_TORCH_CHECK(std::isfinite(gain), op, ": exposures must be finite, got ", gain);
  check_dim(op, "motions", motions, 2, "(M, 2)");
  check_same_device(op, "motions", motions, features);
  STD_TORCH_CHECK(motions.scalar_type() == ScalarType::Long && motions.size(1) == 2,
                  op,
                  ": motions must be (M, 2) of int64, got shape ",
                  shape_text(motions));
  std::vector<int64_t> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  STD_TORCH_CHECK((sorted == std::vector<int64_t>{0, 1, 2}), op, ": order must hold 0, 1 and 2");
  std::copy(order.begin(), order.end(), p.order);
  p.motions = motions.size(0);
  p.exposures = static_cast<int64_t>(exposures.size());
  p.reference = reference;
  p.cap = cap;
  p.ceiling = ceiling;
  p.inner = inner;
  p.include_reference = include_reference;
  return p;
}

// Checked arguments of a bracket's volume, contiguous.
struct VolumeArguments {
  VolumeProblem problem;
  Tensor features, motions;
  std::optional<Tensor> saturation;
  std::vector<double> exposures;

  VolumeArguments(const char* op,
                  const Tensor& features_in,
                  const std::optional<Tensor>& saturation_in,
                  const Tensor& motions_in,
                  const std::vector<double>& exposures_in,
                  int64_t reference,
                  bool cap,
                  double ceiling,
                  bool inner,
                  const std::vector<int64_t>& order,
                  bool include_reference)
      : problem(check_volume(op,
                             features_in,
                             saturation_in,
                             motions_in,
                             exposures_in,
                             reference,
                             cap,
                             ceiling,
                             inner,
                             order,
                             include_reference)),
        features(torch::stable::contiguous(features_in)),
        motions(torch::stable::contiguous(motions_in)),
        exposures(exposures_in) {
    if (saturation_in) saturation = torch::stable::contiguous(*saturation_in);
  }
};

inline std::vector<int64_t> volume_shape(const VolumeProblem& p) {
  return {p.n, p.depth(), p.height, p.width, p.channels()};
}

inline void check_gradient(const char* op,
                           const Tensor& grad,
                           const std::vector<int64_t>& shape,
                           const Tensor& features) {
  STD_TORCH_CHECK(shape_of(grad) == shape,
                  op,
                  ": grad has shape ",
                  shape_text(grad),
                  ", not that of the result");
  check_same_device(op, "grad", grad, features);
}

// A convolution of depth, rows and columns.
struct Convolved {
  int64_t k;
  int64_t taps[3], stride[3], padding[3], dilation[3], size[3];

  HDROPS_HD_MEMBER int64_t positions() const { return size[0] * size[1] * size[2]; }
};

inline Convolved check_convolution(const char* op,
                                   const VolumeProblem& p,
                                   const Tensor& features,
                                   const Tensor& weight,
                                   const std::vector<int64_t>& stride,
                                   const std::vector<int64_t>& padding,
                                   const std::vector<int64_t>& dilation) {
  check_dtype(op, "weight", weight, features.scalar_type());
  check_same_device(op, "weight", weight, features);
  check_dim(op, "weight", weight, 5, "(K, channels, taps of depth, rows, columns)");
  STD_TORCH_CHECK(weight.size(1) == p.channels(),
                  op,
                  ": weight has ",
                  weight.size(1),
                  " channels, the volume ",
                  p.channels());
  STD_TORCH_CHECK(stride.size() == 3 && padding.size() == 3 && dilation.size() == 3,
                  op,
                  ": stride, padding and dilation must be three numbers each");
  Convolved how{};
  how.k = weight.size(0);
  STD_TORCH_CHECK(how.k >= 1, op, ": weight must have a result");
  const int64_t sides[3] = {p.depth(), p.height, p.width};
  for (int axis = 0; axis < 3; ++axis) {
    how.taps[axis] = weight.size(2 + axis);
    how.stride[axis] = stride[axis];
    how.padding[axis] = padding[axis];
    how.dilation[axis] = dilation[axis];
    STD_TORCH_CHECK(
        how.taps[axis] >= 1 && stride[axis] >= 1 && padding[axis] >= 0 && dilation[axis] >= 1,
        op,
        ": kernel, stride and dilation must be at least 1, padding at least 0");
    STD_TORCH_CHECK(std::max({stride[axis], padding[axis], dilation[axis]}) <= 1 << 16,
                    op,
                    ": stride, padding and dilation must be at most 65536");
    const int64_t room = sides[axis] + 2 * padding[axis] - dilation[axis] * (how.taps[axis] - 1);
    STD_TORCH_CHECK(
        room >= 1, op, ": the kernel with its dilation is larger than the padded volume");
    how.size[axis] = (room - 1) / stride[axis] + 1;
  }
  return how;
}

inline void check_bias(const char* op,
                       const Tensor& bias,
                       const Convolved& how,
                       const Tensor& features) {
  check_dtype(op, "bias", bias, features.scalar_type());
  check_same_device(op, "bias", bias, features);
  STD_TORCH_CHECK(shape_of(bias) == std::vector<int64_t>{how.k},
                  op,
                  ": bias must be (",
                  how.k,
                  "), got shape ",
                  shape_text(bias));
}

inline std::vector<int64_t> convolved_shape(const VolumeProblem& p, const Convolved& how) {
  return {p.n, how.size[0], how.size[1], how.size[2], how.k};
}

}  // namespace hdrops
