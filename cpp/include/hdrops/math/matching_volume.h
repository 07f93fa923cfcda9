// A moved feature of the matching volume, and its derivative: EMVNet, section 3.2.
#pragma once

#include "hdrops/math/common.h"

namespace hdrops {

// What a moved feature is of the parts u and v of its image, with an exposure E and a ceiling T:
//   scaled E u,  split u + E v,  capped min(E u, T),  blended v min(E u, T) + (1 - v) E u.
// Of features f and a saturation s, split has u = s f and v = (1 - s) f, the others u = f, v = s.
enum class Gain { scaled, split, capped, blended };

namespace math {

// On numbers and on vectors of them; fused(a, b, c) is a b + c.
template <Gain gain, class V, class Fused>
HDROPS_HD V
moved_feature(const V& u, const V& v, const V& exposure, const V& ceiling, const Fused& fused) {
  if constexpr (gain == Gain::split) {
    return fused(exposure, v, u);
  } else {
    const V scaled = exposure * u;
    if constexpr (gain == Gain::scaled) return scaled;
    const V capped = ceiling < scaled ? ceiling : scaled;  // NaN stays
    if constexpr (gain == Gain::capped)
      return capped;
    else
      return fused(v, capped, (1 - v) * scaled);
  }
}

// The derivative of a capped or blended one by u.
template <Gain gain, class V, class Fused>
HDROPS_HD V
moved_slope(const V& u, const V& v, const V& exposure, const V& ceiling, const Fused& fused) {
  const V below = exposure * u <= ceiling ? exposure : V{};
  if constexpr (gain == Gain::capped)
    return below;
  else
    return fused(v, below, exposure - v * exposure);
}

// The sign of x of a value, 0 at 0 and of NaN.
template <class V>
HDROPS_HD V with_sign(const V& x, const V& value) {
  return x > V{} ? value : (x < V{} ? -value : V{});
}

}  // namespace math
}  // namespace hdrops
