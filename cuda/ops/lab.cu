// lab on CUDA: sRGB to CIELAB and back, one thread per pixel.

#include <torch/csrc/stable/library.h>

#include <optional>

#include "hdrops/lab_checks.h"
#include "hdrops/launch.cuh"
#include "hdrops/storage.cuh"

namespace hdrops {
namespace {

constexpr int32_t threads = 256;

// A pixel of images (N, 3, plane).
template <class S>
__device__ math::Colour<Compute<S>> colour_at(const S* image, int64_t at, int64_t plane) {
  using T = Compute<S>;
  constexpr T unit = static_cast<T>(1 / full_scale<S>);
  return {static_cast<T>(image[at]) * unit,
          static_cast<T>(image[at + plane]) * unit,
          static_cast<T>(image[at + 2 * plane]) * unit};
}

template <class S, class T>
__device__ void store_colour(const math::Colour<T>& c, S* image, int64_t at, int64_t plane) {
  constexpr T unit = static_cast<T>(full_scale<S>);
  image[at] = to_storage<S>(c.first * unit);
  image[at + plane] = to_storage<S>(c.second * unit);
  image[at + 2 * plane] = to_storage<S>(c.third * unit);
}

// Calls f(offset of the first channel) for the pixels of this thread.
template <class F>
__device__ void over_pixels(int64_t pixels, int64_t plane, const F& f) {
  const int64_t first = int64_t{blockIdx.x} * threads + threadIdx.x;
  for (int64_t i = first; i < pixels; i += int64_t{gridDim.x} * threads)
    f(i + 2 * (i / plane) * plane);
}

template <class In, class Out>
__global__ void __launch_bounds__(threads)
    to_lab(const In* rgb, Out* lab, int64_t pixels, int64_t plane) {
  over_pixels(pixels, plane, [&](int64_t at) {
    store_colour(math::lab_of_rgb(colour_at(rgb, at, plane)), lab, at, plane);
  });
}

template <class In, class Out>
__global__ void __launch_bounds__(threads)
    to_rgb(const In* lab, Out* rgb, int64_t pixels, int64_t plane) {
  over_pixels(pixels, plane, [&](int64_t at) {
    store_colour(math::rgb_of_lab(colour_at(lab, at, plane)), rgb, at, plane);
  });
}

template <class S>
__global__ void __launch_bounds__(threads)
    to_lab_backward(const S* grad, const S* rgb, S* out, int64_t pixels, int64_t plane) {
  over_pixels(pixels, plane, [&](int64_t at) {
    store_colour(math::lab_of_rgb_gradient(colour_at(grad, at, plane), colour_at(rgb, at, plane)),
                 out,
                 at,
                 plane);
  });
}

template <class S>
__global__ void __launch_bounds__(threads)
    to_rgb_backward(const S* grad, const S* lab, S* out, int64_t pixels, int64_t plane) {
  over_pixels(pixels, plane, [&](int64_t at) {
    store_colour(math::rgb_of_lab_gradient(colour_at(grad, at, plane), colour_at(lab, at, plane)),
                 out,
                 at,
                 plane);
  });
}

template <class... Parameters, class... Pointers>
void launch_over(const Launcher& launch,
                 void (*kernel)(Parameters...),
                 const Tensor& image,
                 Pointers... pointers) {
  const int64_t plane = image.size(2) * image.size(3), pixels = image.size(0) * plane;
  launch(kernel, ceil_div(pixels, threads), threads, 0, pointers..., pixels, plane);
}

void to_lab_into(const Tensor& image_in, const Tensor& out) {
  const Launcher launch(image_in);
  const Tensor image = torch::stable::contiguous(image_in);
  with_image_type(image.scalar_type(), [&](auto tag) {
    using In = typename decltype(tag)::type;
    using Out = std::conditional_t<is_code_storage<In>, float, In>;
    launch_over(launch, &to_lab<In, Out>, image, const_data_of<In>(image), data_of<Out>(out));
  });
}

void to_rgb_into(const Tensor& lab_in, const Tensor& out) {
  const Launcher launch(lab_in);
  const Tensor lab = torch::stable::contiguous(lab_in);
  with_float_type(lab.scalar_type(), [&](auto tag) {
    using In = typename decltype(tag)::type;
    with_image_type(out.scalar_type(), [&](auto out_tag) {
      using Out = typename decltype(out_tag)::type;
      if constexpr (is_code_storage<Out> || std::is_same_v<In, Out>)
        launch_over(launch, &to_rgb<In, Out>, lab, const_data_of<In>(lab), data_of<Out>(out));
    });
  });
}

Tensor rgb_to_lab(const Tensor& image) {
  check_colours("rgb_to_lab", "image", image);
  const Tensor out = allocate(shape_of(image), lab_dtype(image.scalar_type()), image);
  to_lab_into(image, out);
  return out;
}

void rgb_to_lab_out(const Tensor& image, Tensor out) {
  check_colours("rgb_to_lab", "image", image);
  check_out("rgb_to_lab", out, shape_of(image), image);
  check_dtype("rgb_to_lab", "out", out, lab_dtype(image.scalar_type()));
  to_lab_into(image, out);
}

Tensor lab_to_rgb(const Tensor& lab, std::optional<ScalarType> dtype) {
  check_lab("lab_to_rgb", lab);
  const Tensor out = allocate(shape_of(lab), check_rgb_dtype(lab.scalar_type(), dtype), lab);
  to_rgb_into(lab, out);
  return out;
}

void lab_to_rgb_out(const Tensor& lab, Tensor out) {
  check_lab("lab_to_rgb", lab);
  check_out("lab_to_rgb", out, shape_of(lab), lab);
  check_rgb_dtype(lab.scalar_type(), out.scalar_type());
  to_rgb_into(lab, out);
}

// `kernel_of(tag)` is the kernel for a storage type.
template <class KernelOf>
Tensor gradient(const Tensor& grad_in, const Tensor& image_in, const KernelOf& kernel_of) {
  const Launcher launch(image_in);
  const ScalarType dtype = image_in.scalar_type();
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  const Tensor image = torch::stable::contiguous(image_in);
  const Tensor out = allocate(shape_of(image), dtype, image);
  with_float_type(dtype, [&](auto tag) {
    using S = typename decltype(tag)::type;
    launch_over(launch,
                kernel_of(tag),
                image,
                const_data_of<S>(grad),
                const_data_of<S>(image),
                data_of<S>(out));
  });
  return out;
}

Tensor rgb_to_lab_backward(const Tensor& grad, const Tensor& image) {
  check_colours("rgb_to_lab_backward", "image", image);
  check_colour_grad("rgb_to_lab_backward", grad, image);
  return gradient(
      grad, image, [](auto tag) { return &to_lab_backward<typename decltype(tag)::type>; });
}

Tensor lab_to_rgb_backward(const Tensor& grad, const Tensor& lab) {
  check_lab("lab_to_rgb_backward", lab);
  check_colour_grad("lab_to_rgb_backward", grad, lab);
  return gradient(
      grad, lab, [](auto tag) { return &to_rgb_backward<typename decltype(tag)::type>; });
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CUDA, m) {
  m.impl("rgb_to_lab", TORCH_BOX(&hdrops::rgb_to_lab));
  m.impl("rgb_to_lab_out", TORCH_BOX(&hdrops::rgb_to_lab_out));
  m.impl("rgb_to_lab_backward", TORCH_BOX(&hdrops::rgb_to_lab_backward));
  m.impl("lab_to_rgb", TORCH_BOX(&hdrops::lab_to_rgb));
  m.impl("lab_to_rgb_out", TORCH_BOX(&hdrops::lab_to_rgb_out));
  m.impl("lab_to_rgb_backward", TORCH_BOX(&hdrops::lab_to_rgb_backward));
}
