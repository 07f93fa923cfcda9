// gaussian on the CPU: Gaussian blur and the masks made from it (eq. 1-5).
//
// Short windows, and all in float64, are convolved tap by tap. Longer ones cost the same whatever
// their length: the window is written as a sum of a few cosines,
//
//   g(n) = sum over k of c_k cos(w_k n),   w_k = (k + 1/2) w,   |n| <= r,
//
// (Sugimoto and Kamata, "Fast Gaussian filter with second-order shift property of DCT-5"), and the
// convolution F_k with each cosine follows from the values that enter and leave the window:
//
//   F_k(x+1) - F_k(x) = F_k(x) - F_k(x-1) - 4 sin^2(w_k/2) F_k(x)
//                       + cos(w_k r) d(x) + (cos(w_k r) - cos(w_k (r+1))) s(x)
//   s(x) = u(x+r) + u(x-r),   d(x) = u(x+r+1) + u(x-r-1) - s(x)
//
// kept as F_k and its last difference, a form that does not drift in float32. With w = 2 pi/(2r+1)
// these would be a discrete cosine transform, whose periodic continuation has a kink at the ends of
// the window; w is free here, a continuation without one exists, and a handful of cosines fit the
// window a thousand times better.
//
// The image is worked off in bands of rows, whose number depends on its size alone, so that results
// do not depend on the threads. Within a band, a block of rows at a time: down the columns in strips
// of 16, transposed into lines across the rows, then along the rows: nothing but the result leaves
// the cache. Values are taken relative to the first pixel of their channel, so that a flat image
// keeps its value to the bit.

#include "hdrops/simd/gaussian.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <type_traits>
#include <vector>

#include "hdrops/buffer.h"
#include "hdrops/gaussian_checks.h"

namespace hdrops {
namespace {

template <class T>
const GaussianLoops<T>& loops() {
  if constexpr (std::is_same_v<T, float>)
    return HDROPS_PICK(gaussian_loops_f32);
  else
    return HDROPS_PICK(gaussian_loops_f64);
}

// ---- windows ------------------------------------------------------------------------------------

// The window as cosines of odd multiples of half a base frequency.
struct CosineFit {
  double base;                  // w
  std::vector<double> weights;  // c_k
  double error;                 // sum over the window of the differences from it
};

// Calls f(n, cos(w n)) for n from 0 to radius.
template <class F>
void over_cosine(double w, int64_t radius, const F& f) {
  double before = std::cos(w), now = 1;
  const double twice = 2 * before;
  for (int64_t n = 0; n <= radius; ++n) {
    f(n, now);
    const double next = twice * now - before;
    before = now;
    now = next;
  }
}

// The weighted sum of squares is least for a sum of exactly 1; `taps` are 0 to radius.
CosineFit fit_cosines(const std::vector<double>& taps, int64_t terms, double base) {
  const auto radius = static_cast<int64_t>(taps.size()) - 1;
  constexpr int64_t most = Cosines::most;
  // Sum over |n| <= r of cos(a n).
  const auto dirichlet = [&](double a) {
    const double half = std::sin(a / 2);
    return half == 0 ? static_cast<double>(2 * radius + 1)
                     : std::sin((static_cast<double>(radius) + 0.5) * a) / half;
  };
  std::array<std::array<double, most>, most> gram{};
  std::array<double, most> sums{}, products{};
  for (int64_t i = 0; i < terms; ++i) {
    const double w = (static_cast<double>(i) + 0.5) * base;
    sums[i] = dirichlet(w);
    over_cosine(w, radius, [&](int64_t n, double cosine) {
      products[i] += (n == 0 ? 1 : 2) * taps[static_cast<size_t>(n)] * cosine;
    });
    for (int64_t j = 0; j <= i; ++j) {
      gram[i][j] = (dirichlet(static_cast<double>(i - j) * base) +
                    dirichlet(static_cast<double>(i + j + 1) * base)) /
                   2;
    }
  }
  // Cholesky; the ridge bounds the weights where fewer cosines would do.
  const double ridge = 1e-13 * gram[0][0];
  for (int64_t i = 0; i < terms; ++i) {
    gram[i][i] += ridge;
    for (int64_t j = 0; j <= i; ++j) {
      double sum = gram[i][j];
      for (int64_t k = 0; k < j; ++k) sum -= gram[i][k] * gram[j][k];
      gram[i][j] = i == j ? std::sqrt(std::max(sum, ridge)) : sum / gram[j][j];
    }
  }
  const auto solve = [&](std::array<double, most> x) {
    for (int64_t i = 0; i < terms; ++i) {
      for (int64_t k = 0; k < i; ++k) x[i] -= gram[i][k] * x[k];
      x[i] /= gram[i][i];
    }
    for (int64_t i = terms - 1; i >= 0; --i) {
      for (int64_t k = i + 1; k < terms; ++k) x[i] -= gram[k][i] * x[k];
      x[i] /= gram[i][i];
    }
    return x;
  };
  const auto free = solve(products), towards = solve(sums);
  double total = 0, gain = 0;
  for (int64_t i = 0; i < terms; ++i) {
    total += sums[i] * free[i];
    gain += sums[i] * towards[i];
  }
  CosineFit fit{base, {}, 0};
  std::vector<double> rest = taps;
  for (int64_t i = 0; i < terms; ++i) {
    const double weight = free[i] + (1 - total) / gain * towards[i];
    fit.weights.push_back(weight);
    over_cosine((static_cast<double>(i) + 0.5) * base, radius, [&](int64_t n, double cosine) {
      rest[static_cast<size_t>(n)] -= weight * cosine;
    });
  }
  for (int64_t n = 0; n <= radius; ++n)
    fit.error += (n == 0 ? 1 : 2) * std::abs(rest[static_cast<size_t>(n)]);
  return fit;
}

// Cosines that fit the window to 1e-5 of its sum; none where it is short enough for taps.
std::optional<CosineFit> cosines_for(const std::vector<double>& taps, double sigma) {
  const auto radius = static_cast<int64_t>(taps.size()) - 1;
  constexpr int64_t longest_taps = 12;
  if (radius <= longest_taps) return std::nullopt;
  // The best base frequency in units of 2 pi / (2 r + 1) hardly depends on the sampling: it is
  // searched for on a coarser one.
  constexpr int64_t coarse = 64;
  const int64_t samples = std::min(radius, coarse);
  const std::vector<double> sampled = math::gaussian_window<double>(
      sigma * (static_cast<double>(samples) + 0.5) / (static_cast<double>(radius) + 0.5), samples);
  const auto frequency = [](double units, int64_t r) {
    return units * 2 * std::numbers::pi / static_cast<double>(2 * r + 1);
  };
  std::optional<CosineFit> best;
  for (const int64_t terms : {5, 6, 8}) {
    double best_units = 0, least = std::numeric_limits<double>::infinity();
    for (double units = 0.3; units < 1.3; units += 0.0125) {
      const double error = fit_cosines(sampled, terms, frequency(units, samples)).error;
      if (error < least) {
        least = error;
        best_units = units;
      }
    }
    best = fit_cosines(taps, terms, frequency(best_units, radius));
    constexpr double allowed = 1.2e-5;
    if (best->error <= allowed) break;
  }
  return best;
}

// What a line is convolved with.
template <class T>
struct Window {
  int64_t radius;
  std::vector<T> taps;   // 0 to radius
  std::vector<T> tails;  // sums of the taps from 0, 1, ... radius on
  std::vector<T> start;  // of the cosines
  Cosines cosines{};     // no terms: convolve with the taps

  Window(double sigma, int64_t wanted) {
    const std::vector<double> exact = math::gaussian_window<T>(sigma, wanted);
    radius = static_cast<int64_t>(exact.size()) - 1;
    taps.assign(exact.begin(), exact.end());
    tails.resize(exact.size());
    double tail = 0;
    for (size_t i = exact.size(); i-- > 0;) {
      tail += exact[i];
      tails[i] = static_cast<T>(tail);
    }
    if constexpr (std::is_same_v<T, float>) {
      if (const auto fit = cosines_for(exact, sigma)) set_cosines(*fit);
    }
  }

 private:
  void set_cosines(const CosineFit& fit) {
    const auto terms = static_cast<int64_t>(fit.weights.size());
    const auto r = static_cast<double>(radius);
    start.resize(static_cast<size_t>(2 * terms * (radius + 1)));
    for (int64_t k = 0; k < terms; ++k) {
      const double w = (static_cast<double>(k) + 0.5) * fit.base;
      const double c = fit.weights[static_cast<size_t>(k)];
      const double half = std::sin(w / 2);
      cosines.curvature[k] = static_cast<float>(4 * half * half);
      cosines.entering[k] = static_cast<float>(c * std::cos(w * r));
      cosines.drift[k] = static_cast<float>(c * 2 * half * std::sin(w * (r + 0.5)));
      for (int64_t j = 0; j <= radius; ++j) {
        const auto at = static_cast<double>(j);
        float* weights = start.data() + 2 * terms * j + k;
        // u(0) counts once in the sum; beyond the window stands nothing.
        weights[0] = static_cast<float>(c * std::cos(w * at) * (j == 0 ? 0.5 : 1));
        weights[terms] = static_cast<float>(j == radius ? c * std::cos(w * r)
                                                        : c * 2 * half * std::sin(w * (at + 0.5)));
      }
    }
    cosines.terms = terms;
    cosines.radius = radius;
    cosines.start = start.data();
  }
};

// ---- one plane ----------------------------------------------------------------------------------

// The filter of one channel of H x W values, or its adjoint.
//
// With the borders symmetric and zeros the filter is its own adjoint. With reflect it is after the
// values at both ends of every line are doubled, if those of the result are then halved. With
// replicate the adjoint is the filter with zeros, except that each end of a line gathers all that
// its copies beyond the border gave: tails of the window.
template <class T>
class Filter {
 public:
  static constexpr int64_t block_columns = 64;

  Filter(const GaussianProblem& p, Storage storage, bool adjoint)
      : window_(p.sigma, p.radius),
        height_(p.h),
        width_(p.w),
        storage_(storage),
        bytes_(bytes_of(storage)),
        border_(adjoint && p.border == math::Border::replicate ? math::Border::zeros : p.border),
        doubles_(adjoint && p.border == math::Border::reflect),
        gathers_(adjoint && p.border == math::Border::replicate) {
    // Each band begins with sums over a whole window.
    const int64_t least = std::max<int64_t>(256, 4 * window_.radius);
    while (height_ / (2 * bands_) >= least) bands_ *= 2;
    if (bands_ == 1 && height_ * width_ >= 1 << 16) bands_ = std::min<int64_t>(2, height_);
  }

  int64_t bands() const { return bands_; }

  // The first value of a plane, which all are relative to; 0 where it is not finite.
  T pivot(const char* plane) const {
    T value;
    loops<T>().load(plane, storage_, 0, 1, 1, T(0), &value);
    return loops<T>().finite(&value, 1) ? value : T(0);
  }

  // Scratch of one thread.
  struct Scratch {
    Buffer<T> lines, across, block, states;
    std::vector<char> stale;
  };
  Scratch scratch() const {
    const int64_t gathered = std::max(2 * window_.radius + block_rows, 2 * block_rows) + 2;
    Scratch s;
    s.lines = buffer<T>((gathered + block_rows) * line_size);
    s.across = buffer<T>(block_rows / line_size * across_size());
    s.block = buffer<T>(2 * block_columns * line_size + state_size());
    s.states = buffer<T>(strips() * state_size());
    s.stale.assign(static_cast<size_t>(strips()), 0);
    return s;
  }

  // emit(y, x, rows, columns, block) receives the results of one band in blocks of up to 16 x
  // block_columns values, relative to the pivot, with block_columns values from row to row.
  template <class Emit>
  void run(const char* plane, T pivot, int64_t band, Scratch& s, const Emit& emit) const {
    const int64_t begin = height_ * band / bands_, end = height_ * (band + 1) / bands_;
    std::fill(s.stale.begin(), s.stale.end(), 1);
    for (int64_t y = begin; y < end; y += block_rows) {
      const int64_t rows = std::min(block_rows, end - y);
      bool finite = true;
      for (int64_t strip = 0; strip < strips(); ++strip)
        finite &= down(plane, pivot, strip, y, rows, s);
      for (int64_t group = 0; group * line_size < rows; ++group) {
        T* lines = s.across.get() + group * across_size() + before() * line_size;
        extend(pivot, lines);
        const int64_t first = y + group * line_size;
        along(lines, finite, s, [&](int64_t x, int64_t columns, const T* block) {
          emit(first, x, std::min(line_size, y + rows - first), columns, block);
        });
      }
    }
  }

 private:
  static constexpr int64_t block_rows = 32;

  int64_t strips() const { return (width_ + line_size - 1) / line_size; }
  int64_t state_size() const { return state_lines(window_.cosines.terms) * line_size; }
  // Lines before the first column, and lines of one group of rows in all.
  int64_t before() const { return window_.radius + 2; }
  int64_t across_size() const {
    return (before() + math::rounded_up(width_, line_size) + window_.radius) * line_size;
  }
  bool at_end(int64_t i, int64_t n) const { return i == 0 || i == n - 1; }

  static void scale(T* line, T by) {
    for (int64_t i = 0; i < line_size; ++i) line[i] *= by;
  }

  // Rows first to first + count - 1, which may lie beyond the border, of one strip.
  void gather(
      const char* plane, T pivot, int64_t strip, int64_t first, int64_t count, T* out) const {
    const int64_t x = strip * line_size, n = std::min(line_size, width_ - x);
    const auto load = [&](int64_t y, int64_t rows, T* to) {
      if (n < line_size) std::fill(to, to + rows * line_size, T(0));
      loops<T>().load(plane + (y * width_ + x) * bytes_, storage_, width_, rows, n, pivot, to);
      for (const int64_t end : {int64_t{0}, height_ - 1}) {
        if (doubles_ && end >= y && end < y + rows) scale(to + (end - y) * line_size, T(2));
        if (height_ == 1) break;
      }
    };
    for (int64_t i = 0; i < count;) {
      T* const to = out + i * line_size;
      const int64_t y = math::border_index(first + i, height_, border_);
      // Rows inside the image follow each other.
      const int64_t rows = y >= 0 && y == first + i ? std::min(count - i, height_ - y) : 1;
      if (y < 0)
        std::fill(to, to + line_size, -pivot);
      else
        load(y, rows, to);
      i += rows;
    }
  }

  // The end of a line in the adjoint of replicate: line(i) is the i-th from that end.
  template <class Line>
  void gather_end(int64_t n, const Line& line, T* out) const {
    std::fill(out, out + line_size, T(0));
    for (int64_t i = 0; i <= std::min(window_.radius, n - 1); ++i) {
      const T weight = n == 1 ? T(1) : window_.tails[static_cast<size_t>(i)];
      const T* values = line(i);
      for (int64_t j = 0; j < line_size; ++j) out[j] += weight * values[j];
    }
  }

  // Filters rows y to y + rows - 1 of one strip down the columns into the lines across them; says
  // whether all results are finite.
  bool down(const char* plane, T pivot, int64_t strip, int64_t y, int64_t rows, Scratch& s) const {
    const GaussianLoops<T>& loop = loops<T>();
    const int64_t r = window_.radius;
    T* const gathered = s.lines.get();
    T* const results = gathered + (std::max(2 * r + block_rows, 2 * block_rows) + 2) * line_size;
    char& stale = s.stale[static_cast<size_t>(strip)];
    bool done = false;
    if (window_.cosines.terms > 0) {
      T* const state = s.states.get() + strip * state_size();
      if (stale) {
        gather(plane, pivot, strip, y - 2 - r, 2 * r + 2, gathered);
        loop.start(window_.cosines, gathered + (r + 1) * line_size, state);
      }
      const int64_t lead = y + r, trail = y - 1 - r, margin = doubles_ ? 1 : 0;
      const bool in_place = storage_ == Storage::f32 && (strip + 1) * line_size <= width_ &&
                            trail >= margin && lead + rows <= height_ - margin;
      if (in_place) {
        const T* column = reinterpret_cast<const T*>(plane) + strip * line_size;
        loop.advance(window_.cosines,
                     column + lead * width_,
                     column + trail * width_,
                     width_,
                     rows,
                     pivot,
                     state,
                     results);
      } else {
        T* const left = gathered + block_rows * line_size;
        gather(plane, pivot, strip, lead, rows, gathered);
        gather(plane, pivot, strip, trail, rows, left);
        loop.advance(window_.cosines, gathered, left, line_size, rows, T(0), state, results);
      }
      // NaN and infinities never leave a state: convolve, and begin anew.
      done = loop.finite(state, state_size());
      stale = !done;
    }
    if (!done) {
      gather(plane, pivot, strip, y - r, rows + 2 * r, gathered);
      loop.convolve(window_.taps.data(), r, gathered + r * line_size, rows, results);
      done = loop.finite(results, rows * line_size);
    }
    if (gathers_) {
      for (const bool first : {true, false}) {
        const int64_t at = (first ? 0 : height_ - 1) - y;
        if (at < 0 || at >= rows) continue;
        gather_end(
            height_,
            [&](int64_t i) {
              gather(plane, pivot, strip, first ? i : height_ - 1 - i, 1, gathered);
              return gathered;
            },
            results + at * line_size);
      }
    }
    for (int64_t i = 0; doubles_ && i < rows; ++i) {
      if (at_end(y + i, height_)) scale(results + i * line_size, T(0.5));
    }
    const int64_t groups = (rows + line_size - 1) / line_size;
    std::fill(results + rows * line_size, results + groups * line_size * line_size, T(0));
    for (int64_t group = 0; group < groups; ++group) {
      loop.transpose(
          results + group * line_size * line_size,
          line_size,
          s.across.get() + group * across_size() + (before() + strip * line_size) * line_size,
          line_size);
    }
    return done;
  }

  // Writes what stands beyond the ends of the rows; `lines` points to the first column.
  void extend(T pivot, T* lines) const {
    if (doubles_) {
      scale(lines, T(2));
      if (width_ > 1) scale(lines + (width_ - 1) * line_size, T(2));
    }
    const auto put = [&](int64_t x) {
      const int64_t from = math::border_index(x, width_, border_);
      T* const line = lines + x * line_size;
      if (from < 0)
        std::fill(line, line + line_size, -pivot);
      else
        std::copy_n(lines + from * line_size, line_size, line);
    };
    for (int64_t x = -before(); x < 0; ++x) put(x);
    for (int64_t x = width_; x < width_ + window_.radius; ++x) put(x);
  }

  template <class Emit>
  void along(const T* lines, bool finite, Scratch& s, const Emit& emit) const {
    const GaussianLoops<T>& loop = loops<T>();
    const bool sliding = window_.cosines.terms > 0 && finite;
    const int64_t r = window_.radius;
    T* const results = s.block.get();
    T* const block = results + block_columns * line_size;
    T* const state = block + block_columns * line_size;
    // Rounding errors gather over a few thousand columns at most.
    constexpr int64_t restart = 64 * block_columns;
    for (int64_t x = 0; x < width_; x += block_columns) {
      const int64_t columns = std::min(block_columns, width_ - x);
      const T* at = lines + x * line_size;
      if (sliding) {
        if (x % restart == 0) loop.start(window_.cosines, at - line_size, state);
        loop.advance(window_.cosines,
                     at + r * line_size,
                     at - (1 + r) * line_size,
                     line_size,
                     columns,
                     T(0),
                     state,
                     results);
      } else {
        loop.convolve(window_.taps.data(), r, at, columns, results);
      }
      if (gathers_) {
        if (x == 0) gather_end(width_, [&](int64_t i) { return lines + i * line_size; }, results);
        if (x + columns == width_) {
          gather_end(
              width_,
              [&](int64_t i) { return lines + (width_ - 1 - i) * line_size; },
              results + (columns - 1) * line_size);
        }
      }
      if (doubles_) {
        if (x == 0) scale(results, T(0.5));
        if (x + columns == width_ && width_ > 1) scale(results + (columns - 1) * line_size, T(0.5));
      }
      for (int64_t c = 0; c < columns; c += line_size)
        loop.transpose(results + c * line_size, line_size, block + c, block_columns);
      emit(x, columns, block);
    }
  }

  Window<T> window_;
  int64_t height_, width_;
  Storage storage_;
  int64_t bytes_;
  math::Border border_;
  bool doubles_, gathers_;
  int64_t bands_ = 1;
};

// ---- images -------------------------------------------------------------------------------------

// Runs body(task, scratch) for every band of `planes` planes in parallel.
template <class T, class Body>
void over_bands(const Filter<T>& filter, int64_t planes, const Body& body) {
  torch::stable::parallel_for(0, planes * filter.bands(), 1, [&](int64_t begin, int64_t end) {
    auto scratch = filter.scratch();
    for (int64_t task = begin; task < end; ++task)
      body(task / filter.bands(), task % filter.bands(), scratch);
  });
}

template <class T>
void blur_as(const GaussianProblem& p, const Tensor& image, bool adjoint, const Tensor& out) {
  const Storage from = storage_of(image.scalar_type()), to = storage_of(out.scalar_type());
  const Filter<T> filter(p, from, adjoint);
  // Codes keep their scale or become [0, 1].
  const auto scale = static_cast<T>(full_scale_of(to) / full_scale_of(from));
  const auto* in = static_cast<const char*>(image.const_data_ptr());
  auto* const result = static_cast<char*>(out.mutable_data_ptr());
  over_bands(filter, p.n * p.c, [&](int64_t index, int64_t band, auto& scratch) {
    const char* plane = in + index * p.h * p.w * bytes_of(from);
    char* const to_plane = result + index * p.h * p.w * bytes_of(to);
    const T pivot = adjoint ? T(0) : filter.pivot(plane);
    filter.run(plane,
               pivot,
               band,
               scratch,
               [&](int64_t y, int64_t x, int64_t rows, int64_t columns, const T* block) {
                 loops<T>().store(block,
                                  Filter<T>::block_columns,
                                  rows,
                                  columns,
                                  pivot,
                                  scale,
                                  to,
                                  to_plane + (y * p.w + x) * bytes_of(to),
                                  p.w);
               });
  });
}

// Blurs the channels of one image to `out`, relative to its first pixel; gives the extremes.
template <class T>
Extremes<T> blur_image(
    const GaussianProblem& p, const Filter<T>& filter, const char* image, int64_t bytes, T* out) {
  std::vector<Extremes<T>> found(static_cast<size_t>(p.c * filter.bands()));
  const T origin = filter.pivot(image);
  over_bands(filter, p.c, [&](int64_t c, int64_t band, auto& scratch) {
    const char* plane = image + c * p.h * p.w * bytes;
    T* const to = out + c * p.h * p.w;
    const T pivot = filter.pivot(plane);
    Extremes<T> extremes;
    filter.run(plane,
               pivot,
               band,
               scratch,
               [&](int64_t y, int64_t x, int64_t rows, int64_t columns, const T* block) {
                 loops<T>().keep(block,
                                 Filter<T>::block_columns,
                                 rows,
                                 columns,
                                 pivot - origin,
                                 to + y * p.w + x,
                                 p.w,
                                 &extremes);
               });
    found[static_cast<size_t>(c * filter.bands() + band)] = extremes;
  });
  Extremes<T> all;
  for (const Extremes<T>& e : found)
    all = {std::min(all.low, e.low), std::max(all.high, e.high), all.nan || e.nan};
  return all;
}

constexpr int64_t grain = 1 << 17;

template <class T>
void mask_as(const GaussianProblem& p, const Tensor& image, bool invert, const Tensor& out) {
  const Storage from = storage_of(image.scalar_type()), to = storage_of(out.scalar_type());
  const Filter<T> filter(p, from, false);
  const int64_t size = p.c * p.h * p.w;
  // The blurred image lies in the output where that has its type.
  const auto full_scale = static_cast<T>(full_scale_of(to));
  const bool in_place = to == (std::is_same_v<T, float> ? Storage::f32 : Storage::f64);
  const Buffer<T> scratch = in_place ? nullptr : buffer<T>(size);
  for (int64_t n = 0; n < p.n; ++n) {
    const auto* in = static_cast<const char*>(image.const_data_ptr()) + n * size * bytes_of(from);
    auto* const result = static_cast<char*>(out.mutable_data_ptr()) + n * size * bytes_of(to);
    T* const blurred = in_place ? reinterpret_cast<T*>(result) : scratch.get();
    const Extremes<T> found = blur_image(p, filter, in, bytes_of(from), blurred);
    const bool flat = found.low == found.high && !found.nan;
    MaskRange<T> range{found.low, found.high, invert};
    if (found.nan) range.low = std::numeric_limits<T>::quiet_NaN();
    torch::stable::parallel_for(0, size, grain, [&](int64_t begin, int64_t end) {
      char* const to_run = result + begin * bytes_of(to);
      if (flat) {
        std::fill(blurred + begin, blurred + end, T(1));
        loops<T>().store(blurred + begin, 0, 1, end - begin, T(0), full_scale, to, to_run, 0);
      } else {
        loops<T>().mask(blurred + begin, end - begin, range, full_scale, to, to_run);
      }
    });
  }
}

template <class T>
void mask_gradient_as(const GaussianProblem& p,
                      const Tensor& grad,
                      const Tensor& image,
                      bool invert,
                      const Tensor& out) {
  constexpr Storage wide = std::is_same_v<T, float> ? Storage::f32 : Storage::f64;
  const Storage from = storage_of(image.scalar_type());
  const Filter<T> filter(p, from, false);
  const Filter<T> adjoint(p, wide, true);
  const int64_t size = p.c * p.h * p.w;
  const Buffer<T> blurred = buffer<T>(size);
  const auto offset = [&](int64_t n, int64_t at) { return (n * size + at) * bytes_of(from); };
  // Chunks of a fixed size sum for themselves and are added in order.
  constexpr int64_t chunk = 1 << 14;
  const int64_t chunks = (size + chunk - 1) / chunk;
  for (int64_t n = 0; n < p.n; ++n) {
    const auto* in = static_cast<const char*>(image.const_data_ptr()) + offset(n, 0);
    const auto* upstream = static_cast<const char*>(grad.const_data_ptr()) + offset(n, 0);
    auto* const result = static_cast<char*>(out.mutable_data_ptr()) + offset(n, 0);
    const Extremes<T> found = blur_image(p, filter, in, bytes_of(from), blurred.get());
    const bool flat = found.low == found.high && !found.nan;
    const auto over_chunks = [&](const auto& body) {
      torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
        std::vector<T> values(static_cast<size_t>(chunk));
        for (int64_t i = begin; i < end; ++i) {
          const int64_t at = i * chunk, length = std::min(chunk, size - at);
          loops<T>().load(upstream + at * bytes_of(from), from, 0, 1, length, T(0), values.data());
          body(i, blurred.get() + at, values.data(), length);
        }
      });
    };
    MaskSlopes<T> slopes{};
    if (found.nan) {
      slopes.gain = std::numeric_limits<T>::quiet_NaN();
    } else if (!flat) {
      std::vector<MaskSums> sums(static_cast<size_t>(chunks));
      const MaskRange<T> range{found.low, found.high, invert};
      over_chunks([&](int64_t i, const T* values, const T* grads, int64_t length) {
        loops<T>().sum(values, grads, length, range, &sums[static_cast<size_t>(i)]);
      });
      MaskSums all;
      for (const MaskSums& s : sums) {
        all.below += s.below;
        all.above += s.above;
        all.at_low += s.at_low;
        all.at_high += s.at_high;
      }
      const double gain = (invert ? -1.0 : 1.0) / (static_cast<double>(found.high) - found.low);
      slopes = {found.low,
                found.high,
                static_cast<T>(gain),
                static_cast<T>(gain * all.below / static_cast<double>(all.at_low)),
                static_cast<T>(gain * all.above / static_cast<double>(all.at_high))};
    }
    over_chunks([&](int64_t, T* values, const T* grads, int64_t length) {
      if (flat)
        std::fill(values, values + length, T(0));
      else
        loops<T>().differentiate(values, grads, length, slopes);
    });
    over_bands(adjoint, p.c, [&](int64_t c, int64_t band, auto& scratch) {
      const int64_t at = c * p.h * p.w;
      adjoint.run(reinterpret_cast<const char*>(blurred.get() + at),
                  T(0),
                  band,
                  scratch,
                  [&](int64_t y, int64_t x, int64_t rows, int64_t columns, const T* block) {
                    loops<T>().store(block,
                                     Filter<T>::block_columns,
                                     rows,
                                     columns,
                                     T(0),
                                     T(1),
                                     from,
                                     result + (at + y * p.w + x) * bytes_of(from),
                                     p.w);
                  });
    });
  }
}

// ---- operators ----------------------------------------------------------------------------------

void blur_into(const GaussianProblem& p, const Tensor& image_in, bool adjoint, const Tensor& out) {
  if (image_in.numel() == 0) return;
  const Tensor image = torch::stable::contiguous(image_in);
  with_compute_type(image.scalar_type(),
                    [&](auto zero) { blur_as<decltype(zero)>(p, image, adjoint, out); });
}

void mask_into(const GaussianProblem& p, const Tensor& image_in, bool invert, const Tensor& out) {
  if (image_in.numel() == 0) return;
  const Tensor image = torch::stable::contiguous(image_in);
  with_compute_type(image.scalar_type(),
                    [&](auto zero) { mask_as<decltype(zero)>(p, image, invert, out); });
}

Tensor output_of(const char* op, const Tensor& image, std::optional<ScalarType> dtype) {
  return allocate(shape_of(image), check_output_dtype(op, image.scalar_type(), dtype), image);
}

Tensor gaussian_blur(const Tensor& image,
                     double sigma,
                     int64_t radius,
                     int64_t border,
                     std::optional<ScalarType> dtype) {
  const GaussianProblem p = check_gaussian("gaussian_blur", image, sigma, radius, border);
  const Tensor out = output_of("gaussian_blur", image, dtype);
  blur_into(p, image, false, out);
  return out;
}

void gaussian_blur_out(
    const Tensor& image, double sigma, int64_t radius, int64_t border, Tensor out) {
  const GaussianProblem p = check_gaussian("gaussian_blur", image, sigma, radius, border);
  check_gaussian_out("gaussian_blur", image, out);
  blur_into(p, image, false, out);
}

Tensor gaussian_blur_backward(const Tensor& grad, double sigma, int64_t radius, int64_t border) {
  constexpr auto op = "gaussian_blur_backward";
  const GaussianProblem p = check_gaussian(op, grad, sigma, radius, border);
  check_gaussian_grad(op, grad);
  const Tensor out = allocate(shape_of(grad), grad.scalar_type(), grad);
  blur_into(p, grad, true, out);
  return out;
}

Tensor gaussian_mask(const Tensor& image,
                     double sigma,
                     int64_t radius,
                     int64_t border,
                     bool invert,
                     std::optional<ScalarType> dtype) {
  const GaussianProblem p = check_gaussian("gaussian_mask", image, sigma, radius, border);
  const Tensor out = output_of("gaussian_mask", image, dtype);
  mask_into(p, image, invert, out);
  return out;
}

void gaussian_mask_out(
    const Tensor& image, double sigma, int64_t radius, int64_t border, bool invert, Tensor out) {
  const GaussianProblem p = check_gaussian("gaussian_mask", image, sigma, radius, border);
  check_gaussian_out("gaussian_mask", image, out);
  mask_into(p, image, invert, out);
}

Tensor gaussian_mask_backward(const Tensor& grad_in,
                              const Tensor& image_in,
                              double sigma,
                              int64_t radius,
                              int64_t border,
                              bool invert) {
  constexpr auto op = "gaussian_mask_backward";
  const GaussianProblem p = check_gaussian(op, image_in, sigma, radius, border);
  check_gaussian_grad(op, grad_in, image_in);
  const ScalarType dtype = image_in.scalar_type();
  const Tensor out = allocate(shape_of(image_in), dtype, image_in);
  if (image_in.numel() == 0) return out;
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  const Tensor image = torch::stable::contiguous(image_in);
  with_compute_type(
      dtype, [&](auto zero) { mask_gradient_as<decltype(zero)>(p, grad, image, invert, out); });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) {
  m.impl("gaussian_blur", TORCH_BOX(&hdrops::gaussian_blur));
  m.impl("gaussian_blur_out", TORCH_BOX(&hdrops::gaussian_blur_out));
  m.impl("gaussian_blur_backward", TORCH_BOX(&hdrops::gaussian_blur_backward));
  m.impl("gaussian_mask", TORCH_BOX(&hdrops::gaussian_mask));
  m.impl("gaussian_mask_out", TORCH_BOX(&hdrops::gaussian_mask_out));
  m.impl("gaussian_mask_backward", TORCH_BOX(&hdrops::gaussian_mask_backward));
}
