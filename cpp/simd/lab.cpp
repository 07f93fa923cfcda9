#include "hdrops/simd/lab.h"

#include <algorithm>
#include <type_traits>

#include "hdrops/math/lab.h"
#include "hdrops/simd/convert.h"

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

// Pixels handled between conversions: the buffers of six planes stay in the L1 cache.
constexpr int64_t run_length = 512;

// ---- runs of pixels -----------------------------------------------------------------------------

template <class Void>
Void* element(const Planes<Void>& planes, int64_t channel, int64_t at) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  return static_cast<Byte*>(planes.first) +
         (channel * planes.stride + at) * bytes_of(planes.storage);
}

// n values, codes over their full scale: in place where they are of the arithmetic type, else in
// the buffer.
template <class T>
const T* values_of(
    const Planes<const void>& planes, int64_t channel, int64_t begin, int64_t n, T* buffer) {
  const void* from = element(planes, channel, begin);
  if constexpr (std::is_same_v<T, float>) {
    if (planes.storage != Storage::f32) {
      with_elements(from, planes.storage, [&]<class In>(const In* stored) {
        if constexpr (std::is_integral_v<In>) {
          constexpr auto unit = static_cast<float>(1 / full_scale<In>);
          for (int64_t i = 0; i < n; ++i) buffer[i] = unit * static_cast<float>(stored[i]);
        } else {
          load_run(stored, n, buffer);
        }
      });
      return buffer;
    }
  }
  return static_cast<const T*>(from);
}

template <class T>
void store_values(
    T* buffer, const Planes<void>& planes, int64_t channel, int64_t begin, int64_t n) {
  if (planes.storage == own_storage<T>) return;
  with_elements(element(planes, channel, begin), planes.storage, [&]<class Out>(Out* to) {
    if constexpr (std::is_integral_v<Out>) {
      for (int64_t i = 0; i < n; ++i) buffer[i] *= static_cast<T>(full_scale<Out>);
      store_run(buffer, n, to);
    } else if constexpr (std::is_same_v<T, float>) {
      store_run(buffer, n, to);
    }
  });
}

// The planes of one run of pixels.
template <class T>
struct Run {
  const T* plane[3];

  math::Colour<T> at(int64_t i) const { return {plane[0][i], plane[1][i], plane[2][i]}; }
};

template <class T>
struct Buffer {
  T plane[3][run_length];

  Run<T> run() const { return {{plane[0], plane[1], plane[2]}}; }

  Run<T> read(const Planes<const void>& planes, int64_t begin, int64_t n) {
    Run<T> run;
    for (int64_t c = 0; c < 3; ++c) run.plane[c] = values_of(planes, c, begin, n, plane[c]);
    return run;
  }
};

template <class T, class F>
void each_value(int64_t n, const T* from, T* __restrict__ to, const F& f) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) to[i] = f(from[i]);
}

// colour(i) for n pixels.
template <class T, class F>
void each_colour(int64_t n, T* const (&to)[3], const F& colour) {
  T* __restrict__ first = to[0];
  T* __restrict__ second = to[1];
  T* __restrict__ third = to[2];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const math::Colour<T> c = colour(i);
    first[i] = c.first;
    second[i] = c.second;
    third[i] = c.third;
  }
}

// Calls run(begin, length, to) for runs of n pixels: `to` are three planes of the arithmetic type
// for the results.
template <class T, class F>
void in_runs(int64_t n, const Planes<void>& out, const F& run) {
  Buffer<T> buffer;
  for (int64_t begin = 0; begin < n; begin += run_length) {
    const int64_t length = std::min(run_length, n - begin);
    T* to[3];
    for (int64_t c = 0; c < 3; ++c) {
      const bool direct = out.storage == own_storage<T>;
      to[c] = direct ? static_cast<T*>(element(out, c, begin)) : buffer.plane[c];
    }
    run(begin, length, to);
    for (int64_t c = 0; c < 3; ++c) store_values(buffer.plane[c], out, c, begin, length);
  }
}

// Calls f with a zero of the arithmetic type.
template <class F>
void with_arithmetic(Storage storage, const F& f) {
  if (storage == Storage::f64)
    f(double{});
  else
    f(float{});
}

// In two passes each: one after the other in a pixel, the two chains of dependent operations would
// be too long for a processor to work on several pixels at a time.
void rgb_to_lab(Planes<const void> rgb, int64_t n, Planes<void> lab) {
  with_arithmetic(rgb.storage, [&]<class T>(T) {
    Buffer<T> stored, light;
    in_runs<T>(n, lab, [&](int64_t begin, int64_t length, T* const(&to)[3]) {
      const Run<T> from = stored.read(rgb, begin, length);
      for (int64_t c = 0; c < 3; ++c) {
        each_value(
            length, from.plane[c], light.plane[c], [](T x) { return math::linear_light(x); });
      }
      each_colour(length, to, [&](int64_t i) { return math::lab_of_light(light.run().at(i)); });
    });
  });
}

void lab_to_rgb(Planes<const void> lab, int64_t n, Planes<void> rgb) {
  with_arithmetic(lab.storage, [&]<class T>(T) {
    Buffer<T> stored, light;
    T* const planes[3] = {light.plane[0], light.plane[1], light.plane[2]};
    in_runs<T>(n, rgb, [&](int64_t begin, int64_t length, T* const(&to)[3]) {
      const Run<T> from = stored.read(lab, begin, length);
      each_colour(length, planes, [&](int64_t i) { return math::light_of_lab(from.at(i)); });
      for (int64_t c = 0; c < 3; ++c)
        each_value(length, light.plane[c], to[c], [](T x) { return math::display(x); });
    });
  });
}

template <class F>
void differentiate(Planes<const void> grad,
                   Planes<const void> in,
                   int64_t n,
                   Planes<void> out,
                   const F& gradient) {
  with_arithmetic(in.storage, [&]<class T>(T) {
    Buffer<T> of_grad, of_in;
    in_runs<T>(n, out, [&](int64_t begin, int64_t length, T* const(&to)[3]) {
      const Run<T> upstream = of_grad.read(grad, begin, length);
      const Run<T> from = of_in.read(in, begin, length);
      each_colour(length, to, [&](int64_t i) { return gradient(upstream.at(i), from.at(i)); });
    });
  });
}

void rgb_to_lab_backward(Planes<const void> grad,
                         Planes<const void> rgb,
                         int64_t n,
                         Planes<void> out) {
  differentiate(grad, rgb, n, out, []<class T>(const math::Colour<T>& g, const math::Colour<T>& c) {
    return math::lab_of_rgb_gradient(g, c);
  });
}

void lab_to_rgb_backward(Planes<const void> grad,
                         Planes<const void> lab,
                         int64_t n,
                         Planes<void> out) {
  differentiate(grad, lab, n, out, []<class T>(const math::Colour<T>& g, const math::Colour<T>& c) {
    return math::rgb_of_lab_gradient(g, c);
  });
}

}  // namespace

const LabLoops lab_loops = {
    .rgb_to_lab = rgb_to_lab,
    .lab_to_rgb = lab_to_rgb,
    .rgb_to_lab_backward = rgb_to_lab_backward,
    .lab_to_rgb_backward = lab_to_rgb_backward,
};

}  // namespace HDROPS_LEVEL
}  // namespace hdrops
