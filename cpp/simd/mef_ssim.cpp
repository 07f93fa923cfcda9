#include "hdrops/simd/mef_ssim.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hdrops/simd/elementary.h"
#include "hdrops/simd/vectors.h"

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

// ---- windows ------------------------------------------------------------------------------------

// The usual window is unrolled: `taps` of it at compile time, or 0.
constexpr int64_t usual = 11;

// Weighted and plain sums down the window, of a or of a * b, at all columns. Rows that a symmetric
// window weighs alike are added first.
template <int64_t taps, bool product, bool plain, class T>
void down(const T* a,
          const T* b,
          const MefSsimTile<T>& tile,
          T* __restrict__ weighted,
          T* __restrict__ uniform) {
  const int64_t size = taps > 0 ? taps : tile.window, pitch = tile.pitch;
  for (int64_t x = 0; x < pitch; x += lanes<T>) {
    const auto row = [&](const T* image, int64_t t) { return load_vector(image + t * pitch + x); };
    const int64_t middle = size / 2;
    Vector<T> centre = row(a, middle);
    if constexpr (product) centre *= row(b, middle);
    Vector<T> sum = centre, sum_weighted = centre * tile.taps[middle];
#pragma GCC unroll 8
    for (int64_t t = 0; t < middle; ++t) {
      const int64_t mirrored = size - 1 - t;
      Vector<T> both;
      if constexpr (product)
        both = multiply_add(row(a, t), row(b, t), row(a, mirrored) * row(b, mirrored));
      else
        both = row(a, t) + row(a, mirrored);
      if constexpr (plain) sum += both;
      sum_weighted = multiply_add(both, Vector<T>{} + tile.taps[t], sum_weighted);
    }
    store_vector(weighted + x, sum_weighted);
    if constexpr (plain) store_vector(uniform + x, sum);
  }
}

// Sums along the window at `width` positions, rounded up to whole cache lines.
template <int64_t taps, bool weighted, class T>
void along(const T* row, const MefSsimTile<T>& tile, T* __restrict__ out) {
  const int64_t size = taps > 0 ? taps : tile.window, width = whole_lines<T>(tile.width);
  for (int64_t x = 0; x < width; x += lanes<T>) {
    const int64_t middle = size / 2;
    Vector<T> sum = load_vector(row + x + middle);
    if constexpr (weighted) sum *= tile.taps[middle];
#pragma GCC unroll 8
    for (int64_t t = 0; t < middle; ++t) {
      const Vector<T> both = load_vector(row + x + t) + load_vector(row + x + size - 1 - t);
      if constexpr (weighted)
        sum = multiply_add(both, Vector<T>{} + tile.taps[t], sum);
      else
        sum += both;
    }
    store_vector(out + x, sum);
  }
}

// Rows of scratch do not overlap: no dependence keeps the loops over them from being vectorised.

// ---- one row of positions -----------------------------------------------------------------------

// Rows of scratch by what they hold; pairs (i, j), i <= j, of sources come before those with fused.
template <class T>
struct Rows {
  const MefSsimTile<T>& tile;
  T* begin;

  T* row(int64_t i) const { return begin + i * tile.pitch; }
  static int64_t pair(int64_t i, int64_t j) { return j * (j + 1) / 2 + i; }
  int64_t images() const { return tile.sources + 1; }
  int64_t all_pairs() const { return images() * (images() + 1) / 2; }

  T* mean(int64_t i) const { return row(i); }  // under the window's weights
  T* covariance(int64_t i, int64_t j) const { return row(images() + pair(i, j)); }
  T* sum(int64_t i) const { return row(images() + all_pairs() + i); }  // plain
  T* energy(int64_t i, int64_t j) const {
    return row(images() + all_pairs() + tile.sources + pair(i, j));
  }
  T* share(int64_t i) const {
    return row(images() + all_pairs() + tile.sources + tile.pairs() + i);
  }
  T* norm(int64_t i) const {
    return row(images() + all_pairs() + 2 * tile.sources + tile.pairs() + i);
  }
  T* spare(int64_t i) const {  // of six
    return row(images() + all_pairs() + 3 * tile.sources + tile.pairs() + i);
  }
};

template <int64_t taps, class T>
void moments(const Rows<T>& rows, int64_t y) {
  const MefSsimTile<T>& tile = rows.tile;
  const auto image = [&](int64_t i) { return tile.images + i * tile.plane + y * tile.pitch; };
  T *weighted = rows.spare(0), *uniform = rows.spare(1);
  for (int64_t j = 0; j <= tile.sources; ++j) {
    const bool fused = j == tile.sources;
    if (fused) {
      down<taps, false, false>(image(j), image(j), tile, weighted, uniform);
    } else {
      down<taps, false, true>(image(j), image(j), tile, weighted, uniform);
      along<taps, false>(uniform, tile, rows.sum(j));
    }
    along<taps, true>(weighted, tile, rows.mean(j));
    for (int64_t i = 0; i <= j; ++i) {
      if (fused) {
        down<taps, true, false>(image(i), image(j), tile, weighted, uniform);
      } else {
        down<taps, true, true>(image(i), image(j), tile, weighted, uniform);
        along<taps, false>(uniform, tile, rows.energy(i, j));
      }
      along<taps, true>(weighted, tile, rows.covariance(i, j));
    }
  }
}

// Products of weighted means go off the covariances.
template <class T>
void centre_covariances(const Rows<T>& rows, int64_t width) {
  for (int64_t j = 0; j < rows.images(); ++j) {
    for (int64_t i = 0; i <= j; ++i) {
      const T* __restrict__ a = rows.mean(i);
      const T* __restrict__ b = rows.mean(j);
      T* __restrict__ covariance = rows.covariance(i, j);
#pragma GCC ivdep
      for (int64_t x = 0; x < width; ++x) covariance[x] -= a[x] * b[x];
    }
  }
}

// From the sums to rows.share: what the desired patch takes of every source.
template <class T>
void desired(const Rows<T>& rows, int64_t width) {
  const MefSsimTile<T>& tile = rows.tile;
  const int64_t sources = tile.sources;
  const T n = static_cast<T>(tile.window * tile.window), inverse_n = T(1) / n;
  const T per_norm = T(1) / static_cast<T>(tile.window);
  T* __restrict__ gross = rows.spare(0);     // root mean squares, as shares take of them
  T* __restrict__ total = rows.spare(1);     // of the norms
  T* __restrict__ whole = rows.spare(2);     // energy of the sum of all sources
  T* __restrict__ exponent = rows.spare(3);  // p
  T* __restrict__ largest = rows.spare(4);   // logarithm of a weight
  T* __restrict__ contrast = rows.spare(5);  // the largest
#pragma GCC ivdep
  for (int64_t x = 0; x < width; ++x) {
    gross[x] = total[x] = whole[x] = contrast[x] = T(0);
    largest[x] = std::numeric_limits<T>::lowest();
  }
  for (int64_t j = 0; j < sources; ++j) {
    for (int64_t i = 0; i <= j; ++i) {
      const T* __restrict__ a = rows.sum(i);
      const T* __restrict__ b = rows.sum(j);
      T* __restrict__ energy = rows.energy(i, j);
      if (i < j) {
#pragma GCC ivdep
        for (int64_t x = 0; x < width; ++x) {
          energy[x] = math::mef_energy(energy[x], a[x], b[x], n, inverse_n);
          whole[x] += T(2) * energy[x];
        }
        continue;
      }
      T* __restrict__ norm = rows.norm(j);
      T* __restrict__ root = rows.share(j);
#pragma GCC ivdep
      for (int64_t x = 0; x < width; ++x) {
        root[x] = std::sqrt(energy[x]);
        energy[x] = math::mef_energy(energy[x], a[x], a[x], n, inverse_n);
        whole[x] += energy[x];
        norm[x] = std::sqrt(math::at_least_0(energy[x]));
        total[x] += norm[x];
      }
    }
  }
#pragma GCC ivdep
  for (int64_t x = 0; x < width; ++x) {
    const T p = tangent_of_quarters(math::mef_consistency(whole[x], total[x]));
    exponent[x] = p < T(math::mef_steepest) ? p : T(math::mef_steepest);
  }
  T* __restrict__ even = total;  // epsilon, by which all weights come nearer to each other
  // Weights are powers of contrasts; relative to the largest, for the tenth power leaves the range
  // of float32. Their sum would go out of the gain again.
  for (int64_t k = 0; k < sources; ++k) {
    T* __restrict__ norm = rows.norm(k);
#pragma GCC ivdep
    for (int64_t x = 0; x < width; ++x) {
      const T here = norm[x] + T(math::mef_contrast_floor);
      contrast[x] = here > contrast[x] ? here : contrast[x];
      norm[x] = here;
    }
  }
#pragma GCC ivdep
  for (int64_t x = 0; x < width; ++x) {
    largest[x] = exponent[x] * logarithm(contrast[x] * per_norm);
    const T above = T(math::mef_lowest) + largest[x];
    even[x] = T(math::mef_epsilon) * exp_negative(above > T(0) ? -above : T(0)) *
              T(math::mef_lowest_power);
  }
  for (int64_t k = 0; k < sources; ++k) {
    const T* __restrict__ norm = rows.norm(k);
    T* __restrict__ share = rows.share(k);
#pragma GCC ivdep
    for (int64_t x = 0; x < width; ++x) {
      const T below = exponent[x] * logarithm(norm[x] * per_norm) - largest[x];
      const T weight = exp_negative(below < T(0) ? below : T(0)) + even[x];
      const T part = weight / norm[x];
      gross[x] += part * share[x];
      share[x] = part;
    }
  }
  T* __restrict__ squared = whole;
#pragma GCC ivdep
  for (int64_t x = 0; x < width; ++x) squared[x] = T(0);
  for (int64_t j = 0; j < sources; ++j) {
    for (int64_t i = 0; i <= j; ++i) {
      const T* __restrict__ a = rows.share(i);
      const T* __restrict__ b = rows.share(j);
      const T* __restrict__ energy = rows.energy(i, j);
      const T times = i < j ? T(2) : T(1);
#pragma GCC ivdep
      for (int64_t x = 0; x < width; ++x) squared[x] += times * a[x] * b[x] * energy[x];
    }
  }
#pragma GCC ivdep
  for (int64_t x = 0; x < width; ++x)
    squared[x] = math::mef_gain(squared[x], gross[x] * gross[x], contrast[x]);
  for (int64_t k = 0; k < sources; ++k) {
    T* __restrict__ share = rows.share(k);
#pragma GCC ivdep
    for (int64_t x = 0; x < width; ++x) share[x] *= squared[x];
  }
}

// Moments, the desired patch, and on rows.spare(0) and (1) the quality and the inverse of its
// denominator.
template <class T>
void quality_row(const Rows<T>& rows, int64_t y) {
  const MefSsimTile<T>& tile = rows.tile;
  const int64_t width = whole_lines<T>(tile.width), sources = tile.sources;
  if (tile.window == usual)
    moments<usual>(rows, y);
  else
    moments<0>(rows, y);
  centre_covariances(rows, width);
  desired(rows, width);
  T* __restrict__ value = rows.spare(0);
  T* __restrict__ inverse = rows.spare(1);
  T* __restrict__ covariance = rows.spare(2);
  T* __restrict__ variance = rows.spare(3);  // of the desired patch
#pragma GCC ivdep
  for (int64_t x = 0; x < width; ++x) covariance[x] = variance[x] = T(0);
  for (int64_t j = 0; j < sources; ++j) {
    const T* __restrict__ b = rows.share(j);
    const T* __restrict__ with_fused = rows.covariance(j, sources);
#pragma GCC ivdep
    for (int64_t x = 0; x < width; ++x) covariance[x] += b[x] * with_fused[x];
    for (int64_t i = 0; i <= j; ++i) {
      const T* __restrict__ a = rows.share(i);
      const T* __restrict__ among = rows.covariance(i, j);
      const T times = i < j ? T(2) : T(1);
#pragma GCC ivdep
      for (int64_t x = 0; x < width; ++x) variance[x] += times * a[x] * b[x] * among[x];
    }
  }
  const T* __restrict__ fused = rows.covariance(sources, sources);
  const T c = tile.c;
#pragma GCC ivdep
  for (int64_t x = 0; x < width; ++x) {
    const auto q = math::mef_quality(covariance[x], variance[x], fused[x], c);
    value[x] = q.value;
    inverse[x] = q.inverse;
  }
}

template <class T>
void quality(const MefSsimTile<T>& tile, int64_t y, T* scratch, double* __restrict__ sums) {
  const Rows<T> rows{tile, scratch};
  quality_row(rows, y);
  const T* __restrict__ value = rows.spare(0);
#pragma GCC ivdep
  for (int64_t x = 0; x < tile.width; ++x) sums[x] += static_cast<double>(value[x]);
}

template <class T>
void slopes(const MefSsimTile<T>& tile, int64_t y, T upstream, T* scratch, int64_t plane, T* out) {
  const Rows<T> rows{tile, scratch};
  quality_row(rows, y);
  const int64_t width = tile.width, sources = tile.sources;
  const T* __restrict__ value = rows.spare(0);
  const T* __restrict__ inverse = rows.spare(1);
  T* __restrict__ constant = out + sources * plane;
  T* __restrict__ by_fused = constant + plane;
  const T* __restrict__ fused = rows.mean(sources);
  const T twice = T(2) * upstream;
#pragma GCC ivdep
  for (int64_t x = 0; x < width; ++x) {
    by_fused[x] = twice * value[x] * inverse[x];
    constant[x] = by_fused[x] * fused[x];
  }
  for (int64_t k = 0; k < sources; ++k) {
    T* __restrict__ by_source = out + k * plane;
    const T* __restrict__ share = rows.share(k);
    const T* __restrict__ mean = rows.mean(k);
#pragma GCC ivdep
    for (int64_t x = 0; x < width; ++x) {
      by_source[x] = twice * share[x] * inverse[x];
      constant[x] -= by_source[x] * mean[x];
    }
  }
}

template <int64_t taps, class T>
void gradient_as(const MefSsimTile<T>& tile,
                 const T* slopes,
                 int64_t slopes_plane,
                 const T* images,
                 T* scratch,
                 T* __restrict__ out) {
  T *const summed_down = scratch, *const summed = scratch + tile.pitch;
  for (int64_t k = 0; k < tile.sources + 2; ++k) {
    const T* plane = slopes + k * slopes_plane;
    down<taps, false, false>(plane, plane, tile, summed_down, summed);
    along<taps, true>(summed_down, tile, summed);
    const T* __restrict__ factor = images + (k <= tile.sources ? k : tile.sources) * tile.plane;
    const T* __restrict__ sum = summed;
    if (k == 0) {
      for (int64_t x = 0; x < tile.width; ++x) out[x] = sum[x] * factor[x];
    } else if (k < tile.sources) {
      for (int64_t x = 0; x < tile.width; ++x) out[x] += sum[x] * factor[x];
    } else if (k == tile.sources) {
      for (int64_t x = 0; x < tile.width; ++x) out[x] += sum[x];
    } else {
      for (int64_t x = 0; x < tile.width; ++x) out[x] -= sum[x] * factor[x];
    }
  }
}

template <class T>
void gradient(const MefSsimTile<T>& tile,
              const T* slopes,
              int64_t slopes_plane,
              const T* images,
              T* scratch,
              T* out) {
  if (tile.window == usual)
    gradient_as<usual>(tile, slopes, slopes_plane, images, scratch, out);
  else
    gradient_as<0>(tile, slopes, slopes_plane, images, scratch, out);
}

// ---- whole rows ---------------------------------------------------------------------------------

template <class T>
void centre(T* image, int64_t pitch, int64_t rows, int64_t width) {
  constexpr int64_t parts = 16;  // sums that do not wait for each other
  T sums[parts] = {};
  for (int64_t y = 0; y < rows; ++y) {
    const T* row = image + y * pitch;
    int64_t x = 0;
    for (; x + parts <= width; x += parts) {
      for (int64_t i = 0; i < parts; ++i) sums[i] += row[x + i];
    }
    for (; x < width; ++x) sums[0] += row[x];
  }
  T total = T(0);
  for (const T sum : sums) total += sum;
  const T pivot = std::nearbyint(total / static_cast<T>(rows * width) * T(16)) / T(16);
  for (int64_t y = 0; y < rows; ++y) {
    T* row = image + y * pitch;
    for (int64_t x = 0; x < width; ++x) row[x] -= pivot;
  }
}

template <class T>
void halve(const T* __restrict__ above,
           const T* __restrict__ below,
           int64_t n,
           T* __restrict__ out) {
  for (int64_t x = 0; x < n / 2; ++x) {
    const T left = (above[2 * x] + below[2 * x]) * T(0.5);
    const T right = (above[2 * x + 1] + below[2 * x + 1]) * T(0.5);
    out[x] = (left + right) * T(0.5);
  }
  if (n % 2 != 0) out[n / 2] = (above[n - 1] + below[n - 1]) * T(0.5);
}

template <class T>
void spread(const T* __restrict__ coarse,
            T weight,
            int64_t x,
            int64_t n,
            int64_t width,
            T* __restrict__ out) {
  const T half = weight * T(0.5);
  for (int64_t i = 0; i < n; ++i) out[i] += half * coarse[(x + i) / 2];
  if (x + n == width && width % 2 != 0) out[n - 1] += half * coarse[width / 2];
}

template <class T>
constexpr MefSsimLoops<T> loops = {
    .centre = centre<T>,
    .quality = quality<T>,
    .slopes = slopes<T>,
    .gradient = gradient<T>,
    .halve = halve<T>,
    .spread = spread<T>,
};

}  // namespace

const MefSsimLoops<float> mef_ssim_loops_f32 = loops<float>;
const MefSsimLoops<double> mef_ssim_loops_f64 = loops<double>;

}  // namespace HDROPS_LEVEL
}  // namespace hdrops
