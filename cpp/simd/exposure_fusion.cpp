#include "hdrops/simd/exposure_fusion.h"

#include <cmath>
#include <type_traits>

#include "hdrops/simd/convert.h"

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

// ---- storage ------------------------------------------------------------------------------------

template <class T>
void load(const void* row, Storage storage, int64_t n, T scale, T* out) {
  load_stored(row, storage, n, out);
  if (scale == T(1)) return;
  for (int64_t i = 0; i < n; ++i) out[i] *= scale;
}

// Clamps to [0, 1] but keeps NaN.
template <class T>
T clamp_unit(T x) {
  const T floor = x < T(0) ? T(0) : x;
  return floor > T(1) ? T(1) : floor;
}

template <class T, class Out>
void store_as(const T* row, int64_t n, bool clamp, void* out) {
  constexpr int64_t run_length = 512;
  constexpr T scale = static_cast<T>(full_scale<Out>);
  T run[run_length];
  for (int64_t begin = 0; begin < n; begin += run_length) {
    const int64_t length = n - begin < run_length ? n - begin : run_length;
    if (clamp && scale == T(1)) {
      for (int64_t i = 0; i < length; ++i) run[i] = clamp_unit(row[begin + i]);
    } else {
      for (int64_t i = 0; i < length; ++i) run[i] = row[begin + i] * scale;
    }
    store_run(run, length, static_cast<Out*>(out) + begin);
  }
}

void store(const float* row, Storage storage, int64_t n, bool clamp, void* out) {
  switch (storage) {
    case Storage::u8:
      return store_as<float, uint8_t>(row, n, clamp, out);
    case Storage::u16:
      return store_as<float, uint16_t>(row, n, clamp, out);
    case Storage::f16:
      return store_as<float, float16_bits>(row, n, clamp, out);
    case Storage::bf16:
      return store_as<float, bfloat16_bits>(row, n, clamp, out);
    default:
      return store_as<float, float>(row, n, clamp, out);
  }
}

void store(const double* row, Storage, int64_t n, bool clamp, void* out) {
  store_as<double, double>(row, n, clamp, out);
}

// ---- weights ------------------------------------------------------------------------------------

// e^x for x <= 0, to 2 units in the last place: 2^n by exponent bits, the rest by a polynomial.
// Below -87 the result is 0.
inline float exp_negative(float x) {
  const float bounded = x > -87.0f ? x : -87.0f;
  const float shifted = bounded * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  float r = math::fused(n, -0.693359375f, bounded);
  r = math::fused(n, 2.12194440e-4f, r);
  float y = 1.9875691500e-4f;
  y = math::fused(y, r, 1.3981999507e-3f);
  y = math::fused(y, r, 8.3334519073e-3f);
  y = math::fused(y, r, 4.1665795894e-2f);
  y = math::fused(y, r, 1.6666665459e-1f);
  y = math::fused(y, r, 5.0000001201e-1f);
  y = math::fused(y, r * r, r) + 1.0f;
  const float scale = float_from_bits((bits_from_float(shifted) + 127u) << 23);
  const float value = x > -87.0f ? y * scale : 0.0f;
  return x == x ? value : x;
}

inline double exp_negative(double x) { return std::exp(x); }

// Exponents that need no pow() are constants of the loop; `general` stands for all others.
enum class Exponent { zero, one, general };

template <class T>
Exponent kind_of(T exponent) {
  return exponent == T(0) ? Exponent::zero : exponent == T(1) ? Exponent::one : Exponent::general;
}

template <Exponent kind, class T>
inline T raise(T x, T exponent) {
  if constexpr (kind == Exponent::zero)
    return T(1);
  else if constexpr (kind == Exponent::one)
    return x;
  else
    return math::power(x, exponent);
}

template <class T>
inline T squared_distance(T raw, T unit) {
  const T d = raw * unit - T(0.5);
  return d * d;
}

template <class T, Exponent contrast, Exponent saturation, bool exposed, int channels>
void weights_as(const WeightRows<T>& rows,
                int64_t n,
                const math::FusionParameters<T>& parameters,
                T* __restrict__ out) {
  const math::FusionParameters<T> p = parameters;
  const T* __restrict__ above = rows.grey_above;
  const T* __restrict__ centre = rows.grey;
  const T* __restrict__ below = rows.grey_below;
  const T* __restrict__ r = rows.channels[0];
  const T* __restrict__ g = rows.channels[1];
  const T* __restrict__ b = rows.channels[2];
  const T contrast_unit = math::contrast_unit(channels, p);
  const T falloff = -p.exposedness / static_cast<T>(math::fusion_two_sigma_squared);
  const auto run = [&](auto opencv) {
    math::FusionParameters<T> q = p;
    q.opencv = opencv;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const T lap = math::laplacian(above[i], centre[i - 1], centre[i], centre[i + 1], below[i]);
      T weight = raise<contrast>(std::fabs(lap) * contrast_unit, q.contrast);
      if constexpr (channels == 3)
        weight *= raise<saturation>(math::colourfulness(r[i], g[i], b[i], q), q.saturation);
      if constexpr (exposed) {
        T distance = squared_distance(r[i], q.unit);
        if constexpr (channels == 3)
          distance += squared_distance(g[i], q.unit) + squared_distance(b[i], q.unit);
        weight *= exp_negative(falloff * distance);
      }
      out[i] = weight + static_cast<T>(math::fusion_epsilon);
    }
  };
  if (p.opencv)
    run(std::true_type{});
  else
    run(std::false_type{});
}

template <class T>
void weights(const WeightRows<T>& rows, int64_t n, const math::FusionParameters<T>& p, T* out) {
  const auto with_channels = [&]<Exponent contrast, Exponent saturation, bool exposed>() {
    if (rows.count == 3)
      weights_as<T, contrast, saturation, exposed, 3>(rows, n, p, out);
    else
      weights_as<T, contrast, saturation, exposed, 1>(rows, n, p, out);
  };
  const auto with_exposedness = [&]<Exponent contrast, Exponent saturation>() {
    if (p.exposedness != T(0))
      with_channels.template operator()<contrast, saturation, true>();
    else
      with_channels.template operator()<contrast, saturation, false>();
  };
  const auto with_saturation = [&]<Exponent contrast>() {
    switch (kind_of(p.saturation)) {
      case Exponent::zero:
        return with_exposedness.template operator()<contrast, Exponent::zero>();
      case Exponent::one:
        return with_exposedness.template operator()<contrast, Exponent::one>();
      default:
        return with_exposedness.template operator()<contrast, Exponent::general>();
    }
  };
  switch (kind_of(p.contrast)) {
    case Exponent::zero:
      return with_saturation.template operator()<Exponent::zero>();
    case Exponent::one:
      return with_saturation.template operator()<Exponent::one>();
    default:
      return with_saturation.template operator()<Exponent::general>();
  }
}

template <class T>
void grey(const T* const* channels,
          int64_t count,
          int64_t n,
          const math::FusionParameters<T>& parameters,
          T* out) {
  const math::FusionParameters<T> p = parameters;
  const T* __restrict__ r = channels[0];
  T* __restrict__ to = out;
  if (count == 3) {
    const T* __restrict__ g = channels[1];
    const T* __restrict__ b = channels[2];
    for (int64_t i = 0; i < n; ++i) to[i] = math::grey(r[i], g[i], b[i], p);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = math::grey(r[i], p);
  }
}

template <class T>
void normalise(T* const* rows, int64_t k, int64_t n) {
  constexpr int64_t run_length = 512;
  T sum[run_length];
  for (int64_t begin = 0; begin < n; begin += run_length) {
    const int64_t length = n - begin < run_length ? n - begin : run_length;
    for (int64_t i = 0; i < length; ++i) sum[i] = rows[0][begin + i];
    for (int64_t j = 1; j < k; ++j) {
      for (int64_t i = 0; i < length; ++i) sum[i] += rows[j][begin + i];
    }
    for (int64_t i = 0; i < length; ++i) sum[i] = T(1) / sum[i];
    for (int64_t j = 0; j < k; ++j) {
      T* row = rows[j] + begin;
      for (int64_t i = 0; i < length; ++i) row[i] *= sum[i];
    }
  }
}

// ---- pyramid ------------------------------------------------------------------------------------

template <class T>
void combine(const T* plane,
             int64_t stride,
             const Tap<T>* taps,
             int64_t count,
             int64_t n,
             T* __restrict__ out) {
  const auto row = [&](int64_t tap) { return plane + taps[tap].index * stride; };
  const auto first = [&](auto terms) {
    constexpr int64_t used = decltype(terms)::value;
    const T* rows[used];
    T weights[used];
    for (int64_t t = 0; t < used; ++t) {
      rows[t] = row(t);
      weights[t] = taps[t].weight;
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      T sum = weights[0] * rows[0][i];
      for (int64_t t = 1; t < used; ++t) sum = math::fused(weights[t], rows[t][i], sum);
      out[i] = sum;
    }
    return used;
  };
  int64_t done = 0;
  switch (count) {
    case 0:
      for (int64_t i = 0; i < n; ++i) out[i] = T(0);
      return;
    case 1:
      done = first(std::integral_constant<int64_t, 1>{});
      break;
    case 2:
      done = first(std::integral_constant<int64_t, 2>{});
      break;
    case 3:
      done = first(std::integral_constant<int64_t, 3>{});
      break;
    case 4:
      done = first(std::integral_constant<int64_t, 4>{});
      break;
    default:
      done = first(std::integral_constant<int64_t, 5>{});
  }
  for (; done < count; ++done) {
    const T* from = row(done);
    const T weight = taps[done].weight;
    for (int64_t i = 0; i < n; ++i) out[i] = math::fused(weight, from[i], out[i]);
  }
}

template <class T>
void filter(const AxisFilter<T>& f,
            const T* __restrict__ in,
            int64_t begin,
            int64_t end,
            T* __restrict__ out) {
  const auto border = [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      T sum = T(0);
      for (int64_t t = f.begin[i]; t < f.begin[i + 1]; ++t)
        sum = math::fused(f.taps[t].weight, in[f.taps[t].index], sum);
      out[i] = sum;
    }
  };
  const int64_t inner_begin = begin > f.inner_begin ? begin : f.inner_begin;
  const int64_t inner_end = end < f.inner_end ? end : f.inner_end;
  if (inner_begin >= inner_end) return border(begin, end);
  border(begin, inner_begin);
  T* __restrict__ to = out + inner_begin;
  if (f.shrink) {
    const T outer = f.gain * T(1.0 / 16), inner = f.gain * T(4.0 / 16),
            centre = f.gain * T(6.0 / 16);
    const T* __restrict__ from = in + 2 * inner_begin;
    const int64_t n = inner_end - inner_begin;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const T* x = from + 2 * i;
      to[i] = math::fused(outer, x[-2] + x[2], math::fused(inner, x[-1] + x[1], centre * x[0]));
    }
  } else {
    // Both ends of the inner part are even: it holds whole pairs.
    const T side = f.gain * T(1.0 / 8), centre = f.gain * T(6.0 / 8), half = f.gain * T(1.0 / 2);
    const T* __restrict__ from = in + inner_begin / 2;
    const int64_t pairs = (inner_end - inner_begin) / 2;
#pragma GCC ivdep
    for (int64_t i = 0; i < pairs; ++i) {
      to[2 * i] = math::fused(side, from[i - 1] + from[i + 1], centre * from[i]);
      to[2 * i + 1] = half * (from[i] + from[i + 1]);
    }
  }
  border(inner_end, end);
}

template <class T>
void blend(const T* const* weights,
           const T* const* images,
           T unit,
           const T* const* coarse,
           int64_t count,
           int64_t n,
           T* __restrict__ sum) {
  // Several rows at a time, so that the sums stay in registers.
  const auto some = [&](auto rows) {
    constexpr int64_t used = decltype(rows)::value;
    const T* weight[used];
    const T* image[used];
    const T* base[used] = {};
    for (int64_t k = 0; k < used; ++k) {
      weight[k] = weights[k];
      image[k] = images[k];
      if (coarse != nullptr) base[k] = coarse[k];
    }
    if (coarse == nullptr) {
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) {
        T value = sum[i];
        for (int64_t k = 0; k < used; ++k)
          value = math::fused(weight[k][i], image[k][i] * unit, value);
        sum[i] = value;
      }
    } else {
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) {
        T value = sum[i];
        for (int64_t k = 0; k < used; ++k)
          value = math::fused(weight[k][i], image[k][i] * unit - base[k][i], value);
        sum[i] = value;
      }
    }
    weights += used;
    images += used;
    if (coarse != nullptr) coarse += used;
    count -= used;
  };
  while (count >= 3) some(std::integral_constant<int64_t, 3>{});
  if (count == 2) some(std::integral_constant<int64_t, 2>{});
  if (count == 1) some(std::integral_constant<int64_t, 1>{});
}

// ---- backward -----------------------------------------------------------------------------------

template <class T>
void product(const T* a, const T* b, int64_t n, T* __restrict__ out) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] * b[i];
}

template <class T>
void add(const T* a, T sign, int64_t n, T* __restrict__ out) {
  for (int64_t i = 0; i < n; ++i) out[i] = math::fused(sign, a[i], out[i]);
}

template <class T>
void add_products(const T* a, const T* b, T gain, int64_t n, T* __restrict__ out) {
  for (int64_t i = 0; i < n; ++i) out[i] = math::fused(gain, a[i] * b[i], out[i]);
}

template <class T>
void normalise_grad(const T* const* weights, T* const* rows, int64_t k, int64_t n) {
  constexpr int64_t run_length = 512;
  T inverse[run_length], mean[run_length];
  for (int64_t begin = 0; begin < n; begin += run_length) {
    const int64_t length = n - begin < run_length ? n - begin : run_length;
    for (int64_t i = 0; i < length; ++i) inverse[i] = mean[i] = T(0);
    for (int64_t j = 0; j < k; ++j) {
      const T* weight = weights[j] + begin;
      const T* row = rows[j] + begin;
      for (int64_t i = 0; i < length; ++i) {
        inverse[i] += weight[i];
        mean[i] += weight[i] * row[i];
      }
    }
    for (int64_t i = 0; i < length; ++i) {
      inverse[i] = T(1) / inverse[i];
      mean[i] *= inverse[i];
    }
    for (int64_t j = 0; j < k; ++j) {
      T* row = rows[j] + begin;
      for (int64_t i = 0; i < length; ++i) row[i] = (row[i] - mean[i]) * inverse[i];
    }
  }
}

// `unit`: the exponents of contrast and saturation are 1.
template <class T, bool unit, int channels, bool opencv>
void weights_grad_as(const WeightRows<T>& rows,
                     const T* __restrict__ grad,
                     int64_t n,
                     const math::FusionParameters<T>& parameters,
                     T* const* channels_grad,
                     T* __restrict__ laplacian_grad) {
  math::FusionParameters<T> p = parameters;
  p.opencv = opencv;
  const T* __restrict__ above = rows.grey_above;
  const T* __restrict__ centre = rows.grey;
  const T* __restrict__ below = rows.grey_below;
  const T* __restrict__ raw[3] = {rows.channels[0], rows.channels[1], rows.channels[2]};
  T* __restrict__ to[3] = {channels_grad[0], channels_grad[1], channels_grad[2]};
  const T contrast_unit = math::contrast_unit(channels, p);
  const T falloff = -p.exposedness / static_cast<T>(math::fusion_two_sigma_squared);
  const bool exposed = p.exposedness != T(0);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T lap = math::laplacian(above[i], centre[i - 1], centre[i], centre[i + 1], below[i]);
    const T contrast = std::fabs(lap) * contrast_unit;
    T x[3];
    T distance = T(0);
    for (int c = 0; c < channels; ++c) {
      x[c] = raw[c][i] * p.unit;
      distance += (x[c] - T(0.5)) * (x[c] - T(0.5));
    }
    const T by_contrast = unit ? contrast : math::power(contrast, p.contrast);
    const T contrast_slope = unit ? T(1) : math::power_slope(contrast, p.contrast);
    T saturation = T(0), by_saturation = T(1), saturation_slope = T(0);
    if constexpr (channels == 3) {
      saturation = math::colourfulness(raw[0][i], raw[1][i], raw[2][i], p);
      by_saturation = unit ? saturation : math::power(saturation, p.saturation);
      saturation_slope = unit ? T(1) : math::power_slope(saturation, p.saturation);
    }
    const T exponential = exp_negative(falloff * distance);
    const T by_exposedness = exposed ? exponential : T(1);
    const T sign = lap > T(0) ? T(1) : lap < T(0) ? T(-1) : T(0);
    laplacian_grad[i] =
        grad[i] * by_saturation * by_exposedness * contrast_slope * contrast_unit * sign;
    const T of_saturation = grad[i] * by_contrast * by_exposedness * saturation_slope;
    const T of_distance = grad[i] * by_contrast * by_saturation * by_exposedness * falloff;
    for (int c = 0; c < channels; ++c) {
      T part = of_distance * T(2) * (x[c] - T(0.5));
      if constexpr (channels == 3) {
        part += of_saturation *
                math::colourfulness_slope(x[c], x[(c + 1) % 3], x[(c + 2) % 3], saturation, opencv);
      }
      to[c][i] += part;
    }
  }
}

template <class T>
void weights_grad(const WeightRows<T>& rows,
                  const T* grad,
                  int64_t n,
                  const math::FusionParameters<T>& p,
                  T* const* channels_grad,
                  T* laplacian_grad) {
  const auto with_convention = [&]<bool unit, int channels>() {
    if (p.opencv)
      weights_grad_as<T, unit, channels, true>(rows, grad, n, p, channels_grad, laplacian_grad);
    else
      weights_grad_as<T, unit, channels, false>(rows, grad, n, p, channels_grad, laplacian_grad);
  };
  const auto with_channels = [&]<bool unit>() {
    if (rows.count == 3)
      with_convention.template operator()<unit, 3>();
    else
      with_convention.template operator()<unit, 1>();
  };
  if (p.contrast == T(1) && p.saturation == T(1))
    with_channels.template operator()<true>();
  else
    with_channels.template operator()<false>();
}

template <class T>
void contrast_grad(const T* __restrict__ above,
                   T above_gain,
                   const T* __restrict__ centre,
                   const T* __restrict__ below,
                   T below_gain,
                   int64_t n,
                   int64_t count,
                   const math::FusionParameters<T>& p,
                   T* const* channels_grad) {
  // Raw units of grey() per [0, 1] unit of a channel.
  const T raw = p.opencv ? T(1) : T(1) / p.unit;
  const T coefficient[3] = {count == 3 ? raw * (p.opencv ? T(0.299) : T(299)) : raw,
                            raw * (p.opencv ? T(0.587) : T(587)),
                            raw * (p.opencv ? T(0.114) : T(114))};
  const auto add = [&](int64_t i, T sideways) {
    const T sum = above_gain * above[i] + below_gain * below[i] + sideways - T(4) * centre[i];
    for (int64_t c = 0; c < count; ++c) channels_grad[c][i] += coefficient[c] * sum;
  };
  // A mirrored border hands the share of the sample outside to the second one, which counts twice
  // there.
  const auto border = [&](int64_t i) {
    const T left = i > 0 ? (i == 1 ? T(2) : T(1)) * centre[i - 1] : T(0);
    const T right = i + 1 < n ? (i == n - 2 ? T(2) : T(1)) * centre[i + 1] : T(0);
    add(i, n == 1 ? T(2) * centre[i] : left + right);
  };
  const int64_t inner_begin = n < 2 ? n : 2, inner_end = n - 2 > inner_begin ? n - 2 : inner_begin;
  for (int64_t i = 0; i < inner_begin; ++i) border(i);
  for (int64_t c = 0; c < count; ++c) {
    T* __restrict__ to = channels_grad[c];
    const T factor = coefficient[c];
    for (int64_t i = inner_begin; i < inner_end; ++i) {
      const T sum = above_gain * above[i] + below_gain * below[i] +
                    (centre[i - 1] + centre[i + 1]) - T(4) * centre[i];
      to[i] += factor * sum;
    }
  }
  for (int64_t i = inner_end; i < n; ++i) border(i);
}

template <class T>
constexpr FusionLoops<T> make_loops() {
  return {
      .load = load,
      .store = store,
      .grey = grey<T>,
      .weights = weights<T>,
      .normalise = normalise<T>,
      .combine = combine<T>,
      .filter = filter<T>,
      .blend = blend<T>,
      .product = product<T>,
      .add = add<T>,
      .add_products = add_products<T>,
      .normalise_grad = normalise_grad<T>,
      .weights_grad = weights_grad<T>,
      .contrast_grad = contrast_grad<T>,
  };
}

}  // namespace

const FusionLoops<float> fusion_loops_f32 = make_loops<float>();
const FusionLoops<double> fusion_loops_f64 = make_loops<double>();

}  // namespace HDROPS_LEVEL
}  // namespace hdrops
