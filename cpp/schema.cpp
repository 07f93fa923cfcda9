// Every operator of hdrops on one page. Kernels register themselves at the bottom of
// cpp/ops/<op>.cpp and cuda/ops/<op>.cu; fake kernels and autograd stand in
// python/hdrops/ops/<op>.py.
//
// Conventions: images are (N, C, H, W), brackets (N, K, C, H, W), intensity tables (1 or N, 1 or C,
// L). Tables and thresholds are in 8-bit code units. `dtype` is the element type of a fresh output;
// none means that of the input.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(hdrops, m) {
  m.def("estimate_imf(Tensor source, Tensor target, SymInt levels, float saturated) -> Tensor");

  m.def(
      "imf_fuse(Tensor dark, Tensor bright, Tensor imf_dark, Tensor imf_bright, "
      "float[] low, float[] high, ScalarType? dtype=None) -> Tensor");
  m.def(
      "imf_fuse_out(Tensor dark, Tensor bright, Tensor imf_dark, Tensor imf_bright, "
      "float[] low, float[] high, Tensor(a!) out) -> ()");
  // Gradients of dark, bright (empty for integer images), imf_dark and imf_bright.
  m.def(
      "imf_fuse_backward(Tensor grad, Tensor dark, Tensor bright, Tensor imf_dark, "
      "Tensor imf_bright, float[] low, float[] high) -> (Tensor, Tensor, Tensor, Tensor)");

  m.def(
      "exposure_fusion(Tensor bracket, float contrast, float saturation, float exposedness, "
      "bool opencv, ScalarType? dtype=None) -> Tensor");
  m.def(
      "exposure_fusion_out(Tensor bracket, float contrast, float saturation, float exposedness, "
      "bool opencv, Tensor(a!) out) -> ()");
  m.def(
      "exposure_fusion_backward(Tensor grad, Tensor bracket, float contrast, float saturation, "
      "float exposedness, bool opencv) -> Tensor");

  // border: 1 reflect, 2 symmetric, 3 replicate, 4 zeros; for windows also 0 valid (math/border.h).
  m.def(
      "gaussian_blur(Tensor image, float sigma, SymInt radius, int border, "
      "ScalarType? dtype=None) -> Tensor");
  m.def(
      "gaussian_blur_out(Tensor image, float sigma, SymInt radius, int border, Tensor(a!) out) -> "
      "()");
  // The adjoint of gaussian_blur, in the shape and type of grad.
  m.def("gaussian_blur_backward(Tensor grad, float sigma, SymInt radius, int border) -> Tensor");
  m.def(
      "gaussian_mask(Tensor image, float sigma, SymInt radius, int border, bool invert, "
      "ScalarType? dtype=None) -> Tensor");
  m.def(
      "gaussian_mask_out(Tensor image, float sigma, SymInt radius, int border, bool invert, "
      "Tensor(a!) out) -> ()");
  m.def(
      "gaussian_mask_backward(Tensor grad, Tensor image, float sigma, SymInt radius, int border, "
      "bool invert) -> Tensor");

  // (N, 3, H, W): sRGB in the type of the result, float32 for codes; CIELAB in floating point.
  m.def("rgb_to_lab(Tensor image) -> Tensor");
  m.def("rgb_to_lab_out(Tensor image, Tensor(a!) out) -> ()");
  m.def("rgb_to_lab_backward(Tensor grad, Tensor image) -> Tensor");
  m.def("lab_to_rgb(Tensor lab, ScalarType? dtype=None) -> Tensor");
  m.def("lab_to_rgb_out(Tensor lab, Tensor(a!) out) -> ()");
  m.def("lab_to_rgb_backward(Tensor grad, Tensor lab) -> Tensor");

  // Means over the positions of the window, (N, C, levels, 2): of luminance x contrast-structure
  // and of contrast-structure alone. `window` holds the odd number of taps of a separable window.
  m.def(
      "ssim_means(Tensor x, Tensor y, float[] window, float c1, float c2, float covariance, "
      "int border, SymInt levels, bool zero_padded) -> Tensor");
  // Gradients of x and y; empty where not wanted.
  m.def(
      "ssim_means_backward(Tensor grad, Tensor x, Tensor y, float[] window, float c1, float c2, "
      "float covariance, int border, SymInt levels, bool zero_padded, bool wants_x, bool wants_y) "
      "-> "
      "(Tensor, Tensor)");

  // Means of the quality map of every scale, (N, levels): fused (N, 1, H, W), bracket
  // (N, K, 1, H, W).
  m.def(
      "mef_ssim_means(Tensor fused, Tensor bracket, float[] window, float data_range, float k, "
      "int border, SymInt levels) -> Tensor");
  // Gradient of fused.
  m.def(
      "mef_ssim_means_backward(Tensor grad, Tensor fused, Tensor bracket, float[] window, "
      "float data_range, float k, int border, SymInt levels) -> Tensor");

  // Features (N, C, H, W), motions (M, 2) of int64, rows of dy, dx: (N, M, H, W).
  m.def("correlation(Tensor a, Tensor b, Tensor motions) -> Tensor");
  m.def("correlation_out(Tensor a, Tensor b, Tensor motions, Tensor(a!) out) -> ()");
  // Gradients of a and b; empty where not wanted.
  m.def(
      "correlation_backward(Tensor grad, Tensor a, Tensor b, Tensor motions, bool wants_a, "
      "bool wants_b) -> (Tensor, Tensor)");

  // Features (N, n, C, H, W), saturation (N, n, 1 or C, H, W), motions (M, 2) of int64; `order` of the
  // depth axis from the slowest index to the fastest: 0 image, 1 motion, 2 exposure. The result is
  // (N, D, H, W, channels).
  m.def(
      "matching_volume(Tensor features, Tensor? saturation, Tensor motions, float[] exposures, "
      "int reference, bool cap, float ceiling, bool inner, int[] order, bool include_reference) "
      "-> Tensor");
  m.def(
      "matching_volume_backward(Tensor grad, Tensor features, Tensor? saturation, Tensor motions, "
      "float[] exposures, int reference, bool cap, float ceiling, bool inner, int[] order, "
      "bool include_reference) -> Tensor");
  // The volume's convolution, (N, D', H', W', K): of depth, rows and columns.
  m.def(
      "matching_conv3d(Tensor features, Tensor? saturation, Tensor weight, Tensor? bias, "
      "Tensor motions, float[] exposures, int reference, bool cap, float ceiling, bool inner, "
      "int[] order, bool include_reference, int[] stride, int[] padding, int[] dilation, "
      "bool relu) -> Tensor");
  // Gradients of the features and of the weight; empty where not wanted.
  m.def(
      "matching_conv3d_backward(Tensor grad, Tensor features, Tensor? saturation, Tensor weight, "
      "Tensor motions, float[] exposures, int reference, bool cap, float ceiling, bool inner, "
      "int[] order, bool include_reference, int[] stride, int[] padding, int[] dilation, "
      "bool wants_features, bool wants_weight) -> (Tensor, Tensor)");

  // Of x (N, D, H, W, C) and weights (C, K, kD, kH, kW); the result is (N, D', H', W', K).
  m.def(
      "deconv3d(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
      "SymInt[] output_padding, int[] dilation, bool relu) -> Tensor");

  // Rows of the whole numbers dy, dx, pixels that disagree and pixels compared, (N, 4) of int64.
  m.def("mtb_shift(Tensor image, Tensor reference, SymInt levels, SymInt exclude) -> Tensor");

  // Sums over pairs of patches and the numbers of pairs, (N, C, 2), of prediction and target
  // (N, C, H, W); the pixels with which patches begin, y W + x, (N, C, 2, pairs) of int32; and the
  // derivatives of the sums by those over each patch, of the same shape. `seed` is one int64 number,
  // `sides` (N) of int64 those of the patches of each image, none for pixels.
  m.def(
      "pairwise_loss(Tensor prediction, Tensor target, Tensor seed, Tensor? sides, SymInt pairs, "
      "float threshold, float limit, bool ignore_ties, float least) -> (Tensor, Tensor, Tensor)");
  // Gradient of prediction, from the last two results.
  m.def(
      "pairwise_loss_backward(Tensor grad, Tensor prediction, Tensor target, Tensor seed, "
      "Tensor? sides, Tensor places, Tensor slopes, float threshold, float limit, "
      "bool ignore_ties, float least) -> Tensor");
}
