// sRGB (IEC 61966-2-1) and CIELAB (CIE 15) for the white D65. Tristimulus values X, Y, Z are over
// those of white.
#pragma once

#include <cmath>
#include <cstring>

#include "hdrops/math/common.h"
#include "hdrops/math/exposure_fusion.h"

namespace hdrops::math {

// ---- roots and powers ---------------------------------------------------------------------------
//
// In float32 x^p, for p = 1/3, 12/5 and 5/12, to 2 units in the last place and without branches: r
// near x^(-1/n), since the bits of a float grow with its logarithm; x r^n is then near 1, and x^p a
// product of powers of x and r, times a power of x r^n = 1 - d, which is a polynomial in d. For x
// well inside the normal numbers; elsewhere they may give anything, but infinity and NaN give no
// finite value.

// A value as a large and a small part: a* and b* are differences, and keep the digits of both.
template <class T>
struct Sum {
  T large, small;
};
template <class T>
HDROPS_HD T total(const Sum<T>& sum) {
  return sum.large + sum.small;
}

// a b + c, rounded once where that costs nothing.
HDROPS_HD double multiply_add(double a, double b, double c) { return a * b + c; }
HDROPS_HD float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return fused(a, b, c);
#else
  return a * b + c;
#endif
}

// x^exponent to a few percent; `at_1` makes it least wrong for all x.
HDROPS_HD float guess_power(float x, float exponent, float at_1) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const auto guessed = static_cast<int32_t>(multiply_add(static_cast<float>(bits), exponent, at_1));
  float guess;
  std::memcpy(&guess, &guessed, sizeof guess);
  return guess;
}

// The polynomial in d of the given coefficients, from the constant one on.
template <class... Others>
HDROPS_HD float polynomial(float d, float constant, Others... others) {
  if constexpr (sizeof...(others) == 0)
    return constant;
  else
    return multiply_add(polynomial(d, others...), d, constant);
}

HDROPS_HD Sum<double> cube_root(double x) { return {std::cbrt(x), 0.0}; }
HDROPS_HD Sum<float> cube_root(float x) {
  const float r = guess_power(x, -1.0f / 3, 1419900544.0f);
  const float near = x * (r * r);
  // Rounded once on every level: the way back through the matrix multiplies errors of roots.
  const float d = fused(-near, r, 1.0f);
  // (1 - d)^(-2/3)
  const float p = polynomial(
      d, 0.666666687f, 0.555555642f, 0.493790329f, 0.452633917f, 0.42952925f, 0.406128973f);
  return {near, near * d * p};
}

HDROPS_HD double power_12_5(double x) { return std::pow(x, 2.4); }
HDROPS_HD float power_12_5(float x) {
  const float r = guess_power(x, -1.0f / 5, 1277905408.0f);
  const float square = r * r, w = x * (square * r);
  const float d = multiply_add(-w, square, 1.0f);
  // (1 - d)^(-3/5)
  const float p = polynomial(
      d, 0.600000441f, 0.480000734f, 0.41584295f, 0.374212205f, 0.357494503f, 0.335002929f);
  const float near = (x * x) * w;
  return multiply_add(near * d, p, near);
}

HDROPS_HD double power_5_12(double x) { return std::pow(x, 5.0 / 12); }
HDROPS_HD float power_5_12(float x) {
  const float r = guess_power(x, -1.0f / 12, 1153651968.0f);
  const float square = r * r, fourth = square * square, w = x * fourth;
  const float d = multiply_add(-w, fourth * fourth, 1.0f);
  // (1 - d)^(-7/12)
  const float p = polynomial(d,
                             0.583333373f,
                             0.461800933f,
                             0.397655636f,
                             0.356613219f,
                             0.327101439f,
                             0.294713438f,
                             0.274756879f,
                             0.357486486f,
                             0.350237936f);
  const float near = w * (square * r);
  return multiply_add(near * d, p, near);
}

// ---- primaries ----------------------------------------------------------------------------------

// R, G, B, or X, Y, Z, or L*, a*, b*.
template <class T>
struct Colour {
  T first, second, third;
};

// Rows of a matrix whose rows sum to 1, as the weights of (first - second) and (third - second):
// equal components stay equal to the bit.
struct ColourMatrix {
  double first[3], third[3];
};

// Of the primaries (0.64, 0.33), (0.30, 0.60), (0.15, 0.06) and the white (0.3127, 0.3290), and its
// inverse; both are fractions, here rounded to float64.
HDROPS_HD ColourMatrix rgb_to_xyz() {
  return {{0.43388734556603986, 0.21263900587151036, 0.01775004007097326},
          {0.18988864529646141, 0.072192315360733714, 0.87280233907378824}};
}
HDROPS_HD ColourMatrix xyz_to_rgb() {
  return {{3.0803990906794647, -0.92122335886027695, 0.052873938970364444},
          {-0.54301591310937103, 0.0452558573525563, 1.1511030199186121}};
}

template <class T>
HDROPS_HD Colour<T> mixed(const Colour<T>& c, const ColourMatrix& m) {
  const T first = c.first - c.second, third = c.third - c.second;
  const auto row = [&](int32_t i) {
    return multiply_add(static_cast<T>(m.first[i]),
                        first,
                        multiply_add(static_cast<T>(m.third[i]), third, c.second));
  };
  return {row(0), row(1), row(2)};
}

// The gradient of what mixed() took, from that of its result.
template <class T>
HDROPS_HD Colour<T> mixed_gradient(const Colour<T>& grad, const ColourMatrix& m) {
  const auto column = [&](const double (&weights)[3]) {
    return static_cast<T>(weights[0]) * grad.first + static_cast<T>(weights[1]) * grad.second +
           static_cast<T>(weights[2]) * grad.third;
  };
  const T first = column(m.first), third = column(m.third);
  return {first, grad.first + grad.second + grad.third - first - third, third};
}

// ---- the curve of sRGB, odd about 0 -------------------------------------------------------------

constexpr double srgb_threshold = 0.04045, srgb_slope = 12.92, srgb_offset = 0.055;

// (c + 0.055) / 1.055, of which the curve is a power.
template <class T>
HDROPS_HD T srgb_base(T magnitude) {
  return multiply_add(magnitude, T(1 / (1 + srgb_offset)), T(srgb_offset / (1 + srgb_offset)));
}

template <class T>
HDROPS_HD T linear_light(T value) {
  const T magnitude = std::abs(value);
  const T power = power_12_5(srgb_base(magnitude));
  return std::copysign(magnitude <= T(srgb_threshold) ? magnitude * T(1 / srgb_slope) : power,
                       value);
}

template <class T>
HDROPS_HD T linear_light_slope(T value) {
  const T magnitude = std::abs(value);
  const T base = srgb_base(magnitude);
  const T slope = T(2.4 / (1 + srgb_offset)) * (power_12_5(base) / base);
  return magnitude <= T(srgb_threshold) ? T(1 / srgb_slope) : slope;
}

// The inverse of linear_light.
template <class T>
HDROPS_HD T display(T light) {
  const T magnitude = std::abs(light);
  const T power = multiply_add(power_5_12(magnitude), T(1 + srgb_offset), T(-srgb_offset));
  return std::copysign(
      magnitude <= T(srgb_threshold / srgb_slope) ? magnitude * T(srgb_slope) : power, light);
}

template <class T>
HDROPS_HD T display_slope(T light) {
  const T magnitude = std::abs(light);
  const T slope = T((1 + srgb_offset) / 2.4) * (power_5_12(magnitude) / magnitude);
  return magnitude <= T(srgb_threshold / srgb_slope) ? T(srgb_slope) : slope;
}

// ---- the function of CIELAB ---------------------------------------------------------------------

// f(t) = t^(1/3) for t > (6/29)^3, and its tangent below, which is 4/29 at 0.
constexpr double lab_delta = 6.0 / 29, lab_origin = 4.0 / 29;
constexpr double lab_slope = 1 / (3 * lab_delta * lab_delta);

template <class T>
HDROPS_HD Sum<T> lightness(T t) {
  const bool curved = t > T(lab_delta * lab_delta * lab_delta);
  const Sum<T> root = cube_root(t);
  const T line = multiply_add(t, T(lab_slope), T(lab_origin));
  return {curved ? root.large : line, curved ? root.small : T(0)};
}

template <class T>
HDROPS_HD T lightness_slope(T t) {
  const T root = total(cube_root(t));
  const T slope = T(1.0 / 3) / (root * root);
  return t > T(lab_delta * lab_delta * lab_delta) ? slope : T(lab_slope);
}

// The inverse of lightness. Its line passes through 0 exactly: black stays black.
template <class T>
HDROPS_HD T tristimulus(T f) {
  const T line = (f - T(lab_origin)) * T(1 / lab_slope);
  return f > T(lab_delta) ? f * f * f : line;
}

template <class T>
HDROPS_HD T tristimulus_slope(T f) {
  return f > T(lab_delta) ? T(3) * (f * f) : T(1 / lab_slope);
}

// ---- colours ------------------------------------------------------------------------------------

template <class T>
HDROPS_HD Colour<T> light_of_rgb(const Colour<T>& rgb) {
  return {linear_light(rgb.first), linear_light(rgb.second), linear_light(rgb.third)};
}

template <class T>
HDROPS_HD Colour<T> lab_of_light(const Colour<T>& light) {
  const Colour<T> xyz = mixed(light, rgb_to_xyz());
  const Sum<T> x = lightness(xyz.first), y = lightness(xyz.second), z = lightness(xyz.third);
  return {T(116) * ((y.large - T(lab_origin)) + y.small),
          T(500) * ((x.large - y.large) + (x.small - y.small)),
          T(200) * ((y.large - z.large) + (y.small - z.small))};
}

template <class T>
HDROPS_HD Colour<T> lab_of_rgb(const Colour<T>& rgb) {
  return lab_of_light(light_of_rgb(rgb));
}

// The gradient of R, G, B from that of L*, a*, b*.
template <class T>
HDROPS_HD Colour<T> lab_of_rgb_gradient(const Colour<T>& grad, const Colour<T>& rgb) {
  const Colour<T> xyz = mixed(light_of_rgb(rgb), rgb_to_xyz());
  const T a = T(500) * grad.second, b = T(200) * grad.third;
  const Colour<T> of_xyz = {a * lightness_slope(xyz.first),
                            (T(116) * grad.first - a + b) * lightness_slope(xyz.second),
                            -b * lightness_slope(xyz.third)};
  const Colour<T> of_light = mixed_gradient(of_xyz, rgb_to_xyz());
  return {of_light.first * linear_light_slope(rgb.first),
          of_light.second * linear_light_slope(rgb.second),
          of_light.third * linear_light_slope(rgb.third)};
}

// lightness of X, Y and Z.
template <class T>
HDROPS_HD Colour<T> lightness_of_lab(const Colour<T>& lab) {
  const T y = multiply_add(lab.first, T(1.0 / 116), T(lab_origin));
  return {multiply_add(lab.second, T(1.0 / 500), y), y, multiply_add(lab.third, T(-1.0 / 200), y)};
}

template <class T>
HDROPS_HD Colour<T> light_of_lightness(const Colour<T>& f) {
  const Colour<T> xyz = {tristimulus(f.first), tristimulus(f.second), tristimulus(f.third)};
  return mixed(xyz, xyz_to_rgb());
}

template <class T>
HDROPS_HD Colour<T> light_of_lab(const Colour<T>& lab) {
  return light_of_lightness(lightness_of_lab(lab));
}

template <class T>
HDROPS_HD Colour<T> rgb_of_lab(const Colour<T>& lab) {
  const Colour<T> light = light_of_lab(lab);
  return {display(light.first), display(light.second), display(light.third)};
}

// The gradient of L*, a*, b* from that of R, G, B.
template <class T>
HDROPS_HD Colour<T> rgb_of_lab_gradient(const Colour<T>& grad, const Colour<T>& lab) {
  const Colour<T> f = lightness_of_lab(lab);
  const Colour<T> light = light_of_lightness(f);
  const Colour<T> of_light = {grad.first * display_slope(light.first),
                              grad.second * display_slope(light.second),
                              grad.third * display_slope(light.third)};
  const Colour<T> of_xyz = mixed_gradient(of_light, xyz_to_rgb());
  const T x = of_xyz.first * tristimulus_slope(f.first),
          y = of_xyz.second * tristimulus_slope(f.second),
          z = of_xyz.third * tristimulus_slope(f.third);
  return {(x + y + z) * T(1.0 / 116), x * T(1.0 / 500), z * T(-1.0 / 200)};
}

}  // namespace hdrops::math
