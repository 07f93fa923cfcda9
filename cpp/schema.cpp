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
}
