// lab on the CPU: sRGB to CIELAB and back, pixel by pixel.

#include "hdrops/simd/lab.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>

#include "hdrops/lab_checks.h"

namespace hdrops {
namespace {

constexpr int64_t grain = 1 << 13;  // pixels that are worth a thread

const LabLoops& loops() { return HDROPS_PICK(lab_loops); }

// Images of three planes, and the part of them that begins with a pixel.
template <class Void>
struct Images {
  Void* memory;
  int64_t plane;
  Storage storage;

  Planes<Void> from(int64_t image, int64_t pixel) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    const int64_t at = 3 * image * plane + pixel;
    return {static_cast<Byte*>(memory) + at * bytes_of(storage), plane, storage};
  }
};

Images<const void> images(const Tensor& t) {
  return {t.const_data_ptr(), t.size(2) * t.size(3), storage_of(t.scalar_type())};
}

Images<void> images_to_write(const Tensor& t) {
  return {t.mutable_data_ptr(), t.size(2) * t.size(3), storage_of(t.scalar_type())};
}

// Calls kernel(image, first pixel, pixels) for the pixels of all images (N, 3, H, W), in parallel.
template <class Kernel>
void over_pixels(const Tensor& like, const Kernel& kernel) {
  const int64_t plane = like.size(2) * like.size(3);
  torch::stable::parallel_for(0, like.size(0) * plane, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t image = begin / plane, pixel = begin % plane;
      const int64_t n = std::min(end - begin, plane - pixel);
      kernel(image, pixel, n);
      begin += n;
    }
  });
}

using Convert = void (*)(Planes<const void>, int64_t, Planes<void>);
using Differentiate = void (*)(Planes<const void>, Planes<const void>, int64_t, Planes<void>);

void convert_into(const Tensor& image_in, Convert convert, const Tensor& out) {
  if (image_in.numel() == 0) return;
  const Tensor image = torch::stable::contiguous(image_in);
  const auto from = images(image);
  const auto to = images_to_write(out);
  over_pixels(image, [&](int64_t n, int64_t pixel, int64_t count) {
    convert(from.from(n, pixel), count, to.from(n, pixel));
  });
}

Tensor gradient(const Tensor& grad_in, const Tensor& image_in, Differentiate differentiate) {
  const ScalarType dtype = image_in.scalar_type();
  const Tensor out = allocate(shape_of(image_in), dtype, image_in);
  if (image_in.numel() == 0) return out;
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  const Tensor image = torch::stable::contiguous(image_in);
  const auto upstream = images(grad), from = images(image);
  const auto to = images_to_write(out);
  over_pixels(image, [&](int64_t n, int64_t pixel, int64_t count) {
    differentiate(upstream.from(n, pixel), from.from(n, pixel), count, to.from(n, pixel));
  });
  return out;
}

Tensor rgb_to_lab(const Tensor& image) {
  check_colours("rgb_to_lab", "image", image);
  const Tensor out = allocate(shape_of(image), lab_dtype(image.scalar_type()), image);
  convert_into(image, loops().rgb_to_lab, out);
  return out;
}

void rgb_to_lab_out(const Tensor& image, Tensor out) {
  check_colours("rgb_to_lab", "image", image);
  check_out("rgb_to_lab", out, shape_of(image), image);
  check_dtype("rgb_to_lab", "out", out, lab_dtype(image.scalar_type()));
  convert_into(image, loops().rgb_to_lab, out);
}

Tensor rgb_to_lab_backward(const Tensor& grad, const Tensor& image) {
  check_colours("rgb_to_lab_backward", "image", image);
  check_colour_grad("rgb_to_lab_backward", grad, image);
  return gradient(grad, image, loops().rgb_to_lab_backward);
}

Tensor lab_to_rgb(const Tensor& lab, std::optional<ScalarType> dtype) {
  check_lab("lab_to_rgb", lab);
  const Tensor out = allocate(shape_of(lab), check_rgb_dtype(lab.scalar_type(), dtype), lab);
  convert_into(lab, loops().lab_to_rgb, out);
  return out;
}

void lab_to_rgb_out(const Tensor& lab, Tensor out) {
  check_lab("lab_to_rgb", lab);
  check_out("lab_to_rgb", out, shape_of(lab), lab);
  check_rgb_dtype(lab.scalar_type(), out.scalar_type());
  convert_into(lab, loops().lab_to_rgb, out);
}

Tensor lab_to_rgb_backward(const Tensor& grad, const Tensor& lab) {
  check_lab("lab_to_rgb_backward", lab);
  check_colour_grad("lab_to_rgb_backward", grad, lab);
  return gradient(grad, lab, loops().lab_to_rgb_backward);
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) {
  m.impl("rgb_to_lab", TORCH_BOX(&hdrops::rgb_to_lab));
  m.impl("rgb_to_lab_out", TORCH_BOX(&hdrops::rgb_to_lab_out));
  m.impl("rgb_to_lab_backward", TORCH_BOX(&hdrops::rgb_to_lab_backward));
  m.impl("lab_to_rgb", TORCH_BOX(&hdrops::lab_to_rgb));
  m.impl("lab_to_rgb_out", TORCH_BOX(&hdrops::lab_to_rgb_out));
  m.impl("lab_to_rgb_backward", TORCH_BOX(&hdrops::lab_to_rgb_backward));
}
