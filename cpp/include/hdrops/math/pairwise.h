// The order of intensities in pairs of patches: Ren, Fan and Huang, "Robust real-world image
// enhancement based on multi-exposure LDR images", WACV 2023, eq. 2 and 3; the pairs by the counter-
// based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cmath>
#include <cstdint>

#include "hdrops/math/common.h"

namespace hdrops::math {

// Philox4x32-10: four words of 32 bits from a counter of as many, in the lower halves of 64-bit
// lanes; what stands in the upper halves afterwards is of no account. `multiply` gives the 64-bit
// product of the lower half of each lane and a word.
template <class V, class Multiply>
HDROPS_HD void philox(V (&counter)[4], uint64_t seed, const Multiply& multiply) {
  auto key = static_cast<uint32_t>(seed), other_key = static_cast<uint32_t>(seed >> 32);
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int32_t round = 0; round < 10; ++round) {
    const V a = multiply(counter[0], 0xD2511F53u), b = multiply(counter[2], 0xCD9E8D57u);
    counter[0] = (b >> 32) ^ counter[1] ^ uint64_t { key };
    counter[1] = b;
    counter[2] = (a >> 32) ^ counter[3] ^ uint64_t { other_key };
    counter[3] = a;
    key += 0x9E3779B9u;
    other_key += 0xBB67AE85u;
  }
}

// The 64 random bits high, low as a fraction of 2^64, times a total below 2^31, rounded down.
template <class V, class Multiply>
HDROPS_HD V philox_rank(V high, V low, uint32_t total, const Multiply& multiply) {
  return (multiply(high, total) + (multiply(low, total) >> 32)) >> 32;
}

// What is alike in all pairs. Intensities are sums over patches times `share`, one over their
// pixels, and count as `least` below it.
template <class T>
struct PairRule {
  T threshold;  // S
  T constant;   // C
  T least;
  T share;
  bool ignore_ties;
};

template <class T>
HDROPS_HD PairRule<T> pair_rule(double threshold, double least, int64_t side, bool ignore_ties) {
  // So that logarithms are of normal numbers.
  constexpr double normal = sizeof(T) == 4 ? 0x1p-126 : 0x1p-1022;
  // log(1 + e^S) - log(1 + e^sqrt(S)) without exponentials that overflow.
  const double root = std::sqrt(threshold);
  const double constant =
      threshold - root + std::log1p(std::exp(-threshold)) - std::log1p(std::exp(-root));
  return {static_cast<T>(threshold),
          static_cast<T>(constant),
          static_cast<T>(least > normal ? least : normal),
          T(1) / static_cast<T>(side * side),
          ignore_ties};
}

template <class T>
HDROPS_HD bool pair_counts(T wanted_first, T wanted_second, const PairRule<T>& rule) {
  return !(rule.ignore_ties && wanted_first == wanted_second);
}

// The cost of a pair, log(1 + e^P), beyond S log(1 + e^sqrt(P)) + C, and its derivatives by the sums
// over both patches, from these and from those in the target; zeros of a pair that does not count.
// `by` has log, for normal numbers, exp, for numbers up to 0, log1p, from 0 to 1, and sqrt.
template <class T, class Elementary>
HDROPS_HD T pair_cost(T first,
                      T second,
                      T wanted_first,
                      T wanted_second,
                      const PairRule<T>& rule,
                      const Elementary& by,
                      T& first_slope,
                      T& second_slope) {
  const T one = first * rule.share, other = second * rule.share;
  const T one_bounded = one < rule.least ? rule.least : one;
  const T other_bounded = other < rule.least ? rule.least : other;
  const T sign = wanted_first > wanted_second ? T(-1) : T(1);  // -r
  const T p = sign * (by.log(one_bounded) - by.log(other_bounded));
  const bool beyond = p > rule.threshold;
  const T x = beyond ? by.sqrt(beyond ? p : T(1)) : p;
  const T t = by.exp(x < T(0) ? x : -x);
  const T cost = at_least_0(x) + by.log1p(t) + (beyond ? rule.constant : T(0));
  const T sigmoid = (x < T(0) ? t : T(1)) / (T(1) + t);
  const T slope = sign * rule.share * (beyond ? T(0.5) * sigmoid / x : sigmoid);
  const bool counts = pair_counts(wanted_first, wanted_second, rule);
  first_slope = counts && !(one < rule.least) ? slope / one_bounded : T(0);
  second_slope = counts && !(other < rule.least) ? -slope / other_bounded : T(0);
  return counts ? cost : T(0);
}

// The largest number of T up to `top`; NaN of NaN.
template <class T>
HDROPS_HD T rounded_down(double top) {
  const auto nearest = static_cast<T>(top);
  return static_cast<double>(nearest) > top ? std::nextafter(nearest, static_cast<T>(-HUGE_VAL))
                                            : nearest;
}

// The side of the patches of an image.
HDROPS_HD int64_t patch_side(int64_t wanted, int64_t height, int64_t width) {
  const int64_t most = height < width ? height : width;
  return wanted < 1 ? 1 : wanted < most ? wanted : most;
}

}  // namespace hdrops::math
