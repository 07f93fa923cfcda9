// A tile is swept from top to bottom in blocks of as many rows as a vector has lanes. New rows of both
// images, less a pivot that is near to them, enter a ring of rows as their sum and difference. Their
// moments are weighed down the columns; blocks of as many columns are transposed, so that the rows
// become lanes, and weighed along the rows, again from vector to vector: no load is unaligned. The
// derivatives go back the same way: along the rows, transposed, into a ring of rows, down the columns.

#include "hdrops/simd/ssim.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "hdrops/simd/convert.h"
#include "hdrops/simd/vectors.h"

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

// ---- vectors ------------------------------------------------------------------------------------

template <class T>
inline const Vector<T>& vector_at(const T* at) {
  return *reinterpret_cast<const Vector<T>*>(at);
}
template <class T>
inline Vector<T>& vector_at(T* at) {
  return *reinterpret_cast<Vector<T>*>(at);
}

// lanes vectors of lanes values: rows become columns.
template <class T>
inline void transpose(Vector<T>* rows) {
  constexpr int64_t n = lanes<T>;
  typename VectorOf<T>::index low, high;
  for (int64_t i = 0; i < n; ++i) {
    low[i] = static_cast<typename VectorOf<T>::Index>(i / 2 + i % 2 * n);
    high[i] = static_cast<typename VectorOf<T>::Index>(n / 2 + i / 2 + i % 2 * n);
  }
  Vector<T> other[n];
#pragma GCC unroll 4
  for (int64_t stage = 1; stage < n; stage *= 2) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < n / 2; ++i) {
      other[2 * i] = __builtin_shuffle(rows[i], rows[i + n / 2], low);
      other[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + n / 2], high);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < n; ++i) rows[i] = other[i];
  }
}

// The taps of a window, of `size` known when compiled or, for 0, not.
template <class T, int64_t size>
class Taps {
 public:
  explicit Taps(const SsimWindow<T>& window) : taps_(window.taps), radius_(window.size / 2) {}

  // out[i] = sum over k of tap k times in(i + k), for a block of outputs.
  template <class In>
  void weigh(const In& in, Vector<T>* out) const {
    using V = Vector<T>;
    if constexpr (size > 0) {
      constexpr int64_t radius = size / 2;
      V line[size - 1 + lanes<T>];
#pragma GCC unroll 64
      for (int64_t i = 0; i < size - 1; ++i) line[i] = in(i);
#pragma GCC unroll 16
      for (int64_t i = 0; i < lanes<T>; ++i) {
        line[i + size - 1] = in(i + size - 1);
        V sum = taps_[radius] * line[i + radius];
#pragma GCC unroll 64
        for (int64_t k = 0; k < radius; ++k)
          sum = multiply_add(V{} + taps_[k], line[i + k] + line[i + size - 1 - k], sum);
        out[i] = sum;
      }
    } else {
      for (int64_t i = 0; i < lanes<T>; ++i) {
        V sum = taps_[radius_] * in(i + radius_);
        for (int64_t k = 0; k < radius_; ++k)
          sum = multiply_add(V{} + taps_[k], in(i + k) + in(i + 2 * radius_ - k), sum);
        out[i] = sum;
      }
    }
  }

  // The same of in and of its squares.
  template <class In>
  void weigh_squares(const In& in, Vector<T>* out, Vector<T>* squares) const {
    using V = Vector<T>;
    if constexpr (size > 0) {
      constexpr int64_t radius = size / 2;
      V line[size - 1 + lanes<T>], square[size - 1 + lanes<T>];
#pragma GCC unroll 64
      for (int64_t i = 0; i < size - 1; ++i) {
        line[i] = in(i);
        square[i] = line[i] * line[i];
      }
#pragma GCC unroll 16
      for (int64_t i = 0; i < lanes<T>; ++i) {
        const int64_t last = i + size - 1;
        line[last] = in(last);
        square[last] = line[last] * line[last];
        V sum = taps_[radius] * line[i + radius], sum_2 = taps_[radius] * square[i + radius];
#pragma GCC unroll 64
        for (int64_t k = 0; k < radius; ++k) {
          const V tap = V{} + taps_[k];
          sum = multiply_add(tap, line[i + k] + line[last - k], sum);
          sum_2 = multiply_add(tap, square[i + k] + square[last - k], sum_2);
        }
        out[i] = sum;
        squares[i] = sum_2;
      }
    } else {
      weigh(in, out);
      weigh([&](int64_t i) { return in(i) * in(i); }, squares);
    }
  }

 private:
  const T* taps_;
  int64_t radius_;
};

// ---- rows ---------------------------------------------------------------------------------------

// Calls f with a null pointer to the storage type.
template <class T, class F>
inline void with_storage(Storage storage, const F& f) {
  if constexpr (std::is_same_v<T, double>) {
    if (storage == Storage::f64) return f(static_cast<const double*>(nullptr));
  } else {
    switch (storage) {
      case Storage::u8:
        return f(static_cast<const uint8_t*>(nullptr));
      case Storage::u16:
        return f(static_cast<const uint16_t*>(nullptr));
      case Storage::f16:
        return f(static_cast<const float16_bits*>(nullptr));
      case Storage::bf16:
        return f(static_cast<const bfloat16_bits*>(nullptr));
      default:
        return f(static_cast<const float*>(nullptr));
    }
  }
}

// Columns begin to end - 1 of row `row` of a padded plane, to out; a row of -1 is one of zeros.
template <class S, class T>
void load_padded(const S* plane,
                 int64_t width,
                 int64_t row,
                 int64_t margin,
                 math::Border border,
                 int64_t begin,
                 int64_t end,
                 T* out) {
  if (row < 0) return std::fill(out, out + (end - begin), T(0));
  const S* line = plane + row * width;
  const int64_t inner_begin = std::clamp(margin, begin, end);
  const int64_t inner_end = std::clamp(margin + width, begin, end);
  const auto outside = [&](int64_t from, int64_t to) {
    for (int64_t c = from; c < to; ++c) {
      const int64_t at = math::border_index(c - margin, width, border);
      out[c - begin] = T(0);
      if (at >= 0) load_run(line + at, 1, out + (c - begin));
    }
  };
  outside(begin, inner_begin);
  load_run(line + (inner_begin - margin), inner_end - inner_begin, out + (inner_begin - begin));
  outside(inner_end, end);
}

template <class T>
void store_row(const T* row, int64_t n, Storage storage, void* plane, int64_t at) {
  with_storage<T>(storage, [&](auto tag) {
    using S = std::remove_const_t<std::remove_pointer_t<decltype(tag)>>;
    store_run(row, n, static_cast<S*>(plane) + at);
  });
}

// ---- tiles --------------------------------------------------------------------------------------

constexpr int64_t power_above(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// Sizes of the scratch of a tile; everything in it begins at a multiple of a vector.
template <class T>
struct Layout {
  static constexpr int64_t block = lanes<T>;
  int64_t halo;   // rows or columns that a window needs beside one
  int64_t ring;   // rows or columns of a ring: a power of two, for the window of a whole block
  int64_t lead;   // readable values before the first column
  int64_t pitch;  // from row to row: an odd number of vectors, lest rows share a set of the cache
  int64_t edge;   // rows near a border, in which gradients of padding gather

  Layout(int64_t window, int64_t columns)
      : halo(window - 1),
        ring(power_above(halo + block)),
        lead(math::rounded_up(halo, block)),
        pitch((math::rounded_up(columns + 2 * halo, block) / block + 1 + lead / block) / 2 * 2 *
                  block +
              block),
        edge(window + 1) {}

  int64_t values() const {
    const int64_t rows = 6 * ring + 2 * block + 2 * edge + 2;
    return lead + rows * pitch + 8 * ring * block + 4 * block;
  }
};

template <class T, int64_t size>
class Sweep {
 public:
  using V = Vector<T>;
  static constexpr int64_t block = lanes<T>;

  // Positions of the tile; those outside the image count as zeros.
  Sweep(const SsimPlanes& planes, const SsimWindow<T>& window, const SsimTile& tile, T* scratch)
      : planes_(planes),
        window_(window),
        taps_(window),
        tile_(tile),
        layout_(window.size, tile.right - tile.left),
        next_(scratch + layout_.lead) {
    sums_ = rows(layout_.ring);
    differences_ = rows(layout_.ring);
    line_x_ = rows(1);
    line_y_ = rows(1);
    for (T*& moment : moments_) moment = take(layout_.ring * block);
    with_storage<T>(planes.storage, [&](auto tag) {
      pivot_x_ = pivot(static_cast<decltype(tag)>(planes.x));
      pivot_y_ = pivot(static_cast<decltype(tag)>(planes.y));
    });
  }

  void sum(double* sums) {
    double lane_sums[2][block] = {};
    const auto add = [&](const V* parts, double* to) {
      V tree[block];
      std::copy(parts, parts + block, tree);
      for (int64_t width = block / 2; width > 0; width /= 2)
        for (int64_t i = 0; i < width; ++i) tree[i] += tree[i + width];
      for (int64_t lane = 0; lane < block; ++lane) to[lane] += static_cast<double>(tree[0][lane]);
    };
    const int64_t height = tile_.bottom - tile_.top, width = tile_.right - tile_.left;
    for (int64_t row = 0; row < height + halo(); row += block) {
      load_rows(row);
      const auto rows_inside = inside(row - halo(), height);
      if (row + block <= halo()) continue;
      for (int64_t column = 0; column < width + halo(); column += block) {
        prefetch(row + block, column);
        V moments[4][block];
        if (!weigh_block(row, column, moments)) continue;
        V products[block] = {}, structures[block] = {};
        const int64_t first = column - halo();
        for (int64_t i = std::max<int64_t>(0, -first); i < std::min(block, width - first); ++i) {
          const math::SsimFactors<V> f =
              math::ssim_factors(moments_of(moments, i), window_.constants);
          products[i] = rows_inside ? f.luminance * f.structure : V{};
          structures[i] = rows_inside ? f.structure : V{};
        }
        add(products, lane_sums[0]);
        add(structures, lane_sums[1]);
      }
    }
    for (int64_t which = 0; which < 2; ++which) {
      sums[which] = 0;
      for (const double value : lane_sums[which]) sums[which] += value;
    }
  }

 private:
  typedef typename VectorOf<T>::index Mask;

  int64_t halo() const { return size > 0 ? size - 1 : layout_.halo; }

  T* take(int64_t values) {
    T* const at = next_;
    next_ += values;
    return at;
  }
  T* rows(int64_t count) { return take(count * layout_.pitch); }

  // Which of a block of positions from `first` lie in 0 to n - 1.
  static Mask inside(int64_t first, int64_t n) {
    Mask mask;
    for (int64_t lane = 0; lane < block; ++lane)
      mask[lane] = first + lane >= 0 && first + lane < n ? -1 : 0;
    return mask;
  }

  // The median of the finite ones of a few pixels of the tile, in its arithmetic type: highlights
  // are no reason to lose the variance of the rest.
  template <class S>
  T pivot(const S* plane) const {
    constexpr int64_t samples = 8;
    const auto at = [](int64_t from, int64_t to, int64_t margin, int64_t n, int64_t i) {
      return std::clamp<int64_t>(
          from + (to - from) * (2 * i + 1) / (2 * samples) - margin, 0, n - 1);
    };
    const int64_t margin = window_.margin();
    T values[samples * samples];
    int64_t count = 0;
    for (int64_t i = 0; i < samples; ++i) {
      const int64_t row = at(tile_.top, tile_.bottom + halo(), margin, planes_.height, i);
      for (int64_t j = 0; j < samples; ++j) {
        const int64_t column = at(tile_.left, tile_.right + halo(), margin, planes_.width, j);
        load_run(plane + row * planes_.width + column, 1, values + count);
        if (values[count] - values[count] == T(0)) ++count;
      }
    }
    if (count == 0) return T(0);
    const auto below = [](T a, T b) { return a < b; };
    std::nth_element(values, values + count / 2, values + count, below);
    return values[count / 2];
  }

  const T* ring_row(const T* ring, int64_t row) const {
    return ring + (row & (layout_.ring - 1)) * layout_.pitch;
  }
  T* ring_row(T* ring, int64_t row) const {
    return ring + (row & (layout_.ring - 1)) * layout_.pitch;
  }

  // A block of rows of the tile into the ring; beyond the image, zeros.
  void load_rows(int64_t first) {
    const int64_t margin = window_.margin(), padded_width = window_.padded(planes_.width);
    const int64_t columns = math::rounded_up(tile_.right - tile_.left + halo(), block);
    const int64_t begin = tile_.left, end = std::min(tile_.left + columns, padded_width);
    with_storage<T>(planes_.storage, [&](auto tag) {
      for (int64_t row = first; row < first + block; ++row) {
        const int64_t padded = tile_.top + row;
        const int64_t from =
            padded < window_.padded(planes_.height)
                ? math::border_index(padded - margin, planes_.height, window_.border)
                : -1;
        const auto load = [&](const void* plane, T* line) {
          load_padded(static_cast<decltype(tag)>(plane),
                      planes_.width,
                      from,
                      margin,
                      window_.border,
                      begin,
                      end,
                      line);
          std::fill(line + (end - begin), line + columns, T(0));
        };
        load(planes_.x, line_x_);
        load(planes_.y, line_y_);
        T* const sum = ring_row(sums_, row);
        T* const difference = ring_row(differences_, row);
        const V px = V{} + pivot_x_, py = V{} + pivot_y_;
        for (int64_t i = 0; i < columns; i += block) {
          const V x = vector_at(line_x_ + i) - px, y = vector_at(line_y_ + i) - py;
          vector_at(sum + i) = x + y;
          vector_at(difference + i) = x - y;
        }
      }
    });
  }

  // Fetches what load_rows(first) will read of a block of columns: its rows are too far apart for the
  // processor to foresee.
  void prefetch(int64_t first, int64_t column) const {
    const int64_t bytes = bytes_of(planes_.storage), margin = window_.margin();
    const int64_t top = tile_.top - margin + first;
    const int64_t begin = std::max<int64_t>(top, 0);
    const int64_t end = std::min(top + block, planes_.height);
    int64_t at =
        (begin * planes_.width + std::max<int64_t>(tile_.left - margin + column, 0)) * bytes;
    for (int64_t row = begin; row < end; ++row, at += planes_.width * bytes) {
      __builtin_prefetch(static_cast<const char*>(planes_.x) + at);
      __builtin_prefetch(static_cast<const char*>(planes_.y) + at);
    }
  }

  T* column_at(T* ring, int64_t column) const {
    return ring + (column & (layout_.ring - 1)) * block;
  }

  // Weighted means of s, s², d and d² about the pivots, at the rows from row - halo in lanes and the
  // columns from column - halo. False where no column lies inside yet.
  bool weigh_block(int64_t row, int64_t column, V (*moments)[block]) {
    for (int64_t which = 0; which < 2; ++which) {
      const T* const ring = which == 0 ? sums_ : differences_;
      V means[block], squares[block];
      taps_.weigh_squares(
          [&](int64_t i) { return vector_at(ring_row(ring, row - halo() + i) + column); },
          means,
          squares);
      transpose<T>(means);
      transpose<T>(squares);
      for (int64_t i = 0; i < block; ++i) {
        vector_at(column_at(moments_[2 * which], column + i)) = means[i];
        vector_at(column_at(moments_[2 * which + 1], column + i)) = squares[i];
      }
    }
    if (column + block <= halo()) return false;
    for (int64_t which = 0; which < 4; ++which) {
      T* const ring = moments_[which];
      taps_.weigh([&](int64_t i) { return vector_at(column_at(ring, column - halo() + i)); },
                  moments[which]);
    }
    return true;
  }

  math::SsimMoments<V> moments_of(const V (*moments)[block], int64_t i) const {
    const V s = moments[0][i], d = moments[2][i];
    const T covariance = window_.constants.covariance;
    return {s + (pivot_x_ + pivot_y_),
            d + (pivot_x_ - pivot_y_),
            math::ssim_variance(moments[1][i], s, covariance),
            math::ssim_variance(moments[3][i], d, covariance)};
  }

 public:
  void differentiate(const SsimTile& pixels, const SsimGradient<T>& gradient) {
    const int64_t maps = gradient.y == nullptr ? 3 : 4;
    T *slopes[4], *weighted[4];
    for (int64_t which = 0; which < maps; ++which) {
      slopes[which] = take(layout_.ring * block);
      weighted[which] = rows(layout_.ring);
      std::fill(weighted[which], weighted[which] + layout_.ring * layout_.pitch, T(0));
    }
    T* const results[2] = {rows(block), maps == 4 ? rows(block) : nullptr};
    Outputs out(*this, pixels, gradient, maps);

    const int64_t height = window_.positions(planes_.height) - tile_.top;
    const int64_t width = window_.positions(planes_.width) - tile_.left;
    const int64_t last_row = tile_.bottom - tile_.top + halo();
    const int64_t last_column = tile_.right - tile_.left + halo();
    for (int64_t row = 0; row < last_row; row += block) {
      load_rows(row);
      if (row + block <= halo()) continue;
      const Mask rows_inside = inside(row - halo(), height);
      for (int64_t which = 0; which < maps; ++which)
        std::fill(slopes[which], slopes[which] + layout_.ring * block, T(0));
      for (int64_t column = 0; column < last_column; column += block) {
        prefetch(row + block, column);
        V moments[4][block];
        if (!weigh_block(row, column, moments)) continue;
        for (int64_t i = 0; i < block; ++i) {
          const int64_t at = column - halo() + i;
          V parts[4] = {};
          if (at >= 0 && at < width) slopes_of(moments, i, gradient, parts);
          for (int64_t which = 0; which < maps; ++which)
            vector_at(column_at(slopes[which], at)) = rows_inside ? parts[which] : V{};
        }
        for (int64_t which = 0; which < maps; ++which) {
          T* const ring = slopes[which];
          V along[block];
          taps_.weigh(
              [&](int64_t i) { return vector_at(column_at(ring, column - 2 * halo() + i)); },
              along);
          transpose<T>(along);
          for (int64_t i = 0; i < block; ++i)
            vector_at(ring_row(weighted[which], row - halo() + i) + column) = along[i];
        }
      }
      for (int64_t column = 0; column < last_column; column += block)
        combine(row, column, maps, weighted, results);
      for (int64_t i = 0; i < block; ++i)
        out.put(tile_.top + row - halo() + i, results, i * layout_.pitch + halo());
    }
    out.finish();
  }

 private:
  // Derivatives at one column: factors of s and of d, and what is added for x and for y.
  void slopes_of(const V (*moments)[block],
                 int64_t i,
                 const SsimGradient<T>& gradient,
                 V* parts) const {
    const math::SsimMoments<V> g = math::ssim_slopes(
        moments_of(moments, i), window_.constants, gradient.by_product, gradient.by_structure);
    const T twice = 2 * window_.constants.covariance;
    parts[0] = twice * g.var_s;
    parts[1] = twice * g.var_d;
    const V s = g.mean_s - parts[0] * moments[0][i], d = g.mean_d - parts[1] * moments[2][i];
    parts[2] = s + d;
    parts[3] = s - d;
  }

  // Gradients at the rows from row - halo and the columns from column - halo.
  void combine(int64_t row, int64_t column, int64_t maps, T* const* weighted, T* const* results) {
    V down[4][block];
    for (int64_t which = 0; which < maps; ++which) {
      const T* const ring = weighted[which];
      taps_.weigh(
          [&](int64_t i) { return vector_at(ring_row(ring, row - 2 * halo() + i) + column); },
          down[which]);
    }
    for (int64_t i = 0; i < block; ++i) {
      const int64_t at = column - halo();
      const V s = down[0][i] * load_vector(ring_row(sums_, row - halo() + i) + at);
      const V d = down[1][i] * load_vector(ring_row(differences_, row - halo() + i) + at);
      vector_at(results[0] + i * layout_.pitch + column) = s + d + down[2][i];
      if (maps == 4) vector_at(results[1] + i * layout_.pitch + column) = s - d + down[3][i];
    }
  }

  // Takes rows of gradients of the padded images, adds what padding hands on, adds the gradient of
  // the coarser level, and stores them.
  class Outputs {
   public:
    Outputs(Sweep& sweep, const SsimTile& pixels, const SsimGradient<T>& gradient, int64_t maps)
        : sweep_(sweep), pixels_(pixels), gradient_(gradient), images_(maps - 2) {
      const SsimWindow<T>& window = sweep.window_;
      margin_ = window.margin();
      height_ = sweep.planes_.height;
      width_ = sweep.planes_.width;
      folds_ = margin_ > 0 && window.border != math::Border::zeros;
      left_ = std::max(pixels.left - margin_, int64_t{0});
      right_ = std::min(pixels.right - margin_, width_);
      if (!folds_) return;
      for (int64_t image = 0; image < images_; ++image) {
        edges_[image] = sweep.rows(sweep.layout_.edge);
        std::fill(edges_[image], edges_[image] + sweep.layout_.edge * sweep.layout_.pitch, T(0));
      }
    }

    // Row `padded` of the padded images: images of `results`, from `at`, the first column of the
    // sweep.
    void put(int64_t padded, T* const* results, int64_t at) {
      if (padded < pixels_.top || padded >= pixels_.bottom) return;
      const int64_t row = math::border_index(padded - margin_, height_, sweep_.window_.border);
      if (row < 0) return;
      for (int64_t image = 0; image < images_; ++image) {
        T* const values = results[image] + at - sweep_.tile_.left + margin_;
        if (folds_) fold(values);
        T* const edge = folds_ ? edge_row(image, row) : nullptr;
        if (edge == nullptr) {
          store(image, row, values + left_);
        } else {
          for (int64_t c = 0; c < right_ - left_; ++c) edge[c] += values[left_ + c];
        }
      }
    }

    void finish() {
      if (!folds_) return;
      const int64_t top = std::max(pixels_.top - margin_, int64_t{0});
      const int64_t bottom = std::min(pixels_.bottom - margin_, height_);
      for (int64_t row = top; row < bottom; ++row) {
        if (row > margin_ && row < height_ - 1 - margin_) row = height_ - 1 - margin_;
        if (row >= bottom) break;
        for (int64_t image = 0; image < images_; ++image) store(image, row, edge_row(image, row));
      }
    }

   private:
    // Where a row gathers that padding may hand something to; null for any other.
    T* edge_row(int64_t image, int64_t row) const {
      const int64_t last = height_ - 1 - margin_;
      if (row > margin_ && row < last) return nullptr;
      const int64_t slot = row <= margin_ ? row : margin_ + 1 + row - last;
      return edges_[image] + slot * sweep_.layout_.pitch;
    }

    // values[c] is that of column c of the image.
    void fold(T* values) const {
      const auto hand_on = [&](int64_t from, int64_t to) {
        for (int64_t c = from; c < to; ++c)
          values[math::border_index(c, width_, sweep_.window_.border)] += values[c];
      };
      hand_on(pixels_.left - margin_, std::min(pixels_.right - margin_, int64_t{0}));
      hand_on(std::max(pixels_.left - margin_, width_), pixels_.right - margin_);
    }

    void store(int64_t image, int64_t row, T* values) const {
      const T* const coarser = image == 0 ? gradient_.coarser_x : gradient_.coarser_y;
      if (coarser != nullptr) add_coarser(coarser, row, values);
      store_row(values,
                right_ - left_,
                gradient_.storage,
                image == 0 ? gradient_.x : gradient_.y,
                row * width_ + left_);
    }

    // The adjoint of the mean of 2 x 2 pixels.
    void add_coarser(const T* plane, int64_t row, T* values) const {
      const bool zeros = gradient_.zero_padded;
      const T* const from =
          plane + math::coarser_line(row, height_, zeros) * math::halved_size(width_);
      const T share = T(0.25) * static_cast<T>(math::times_halved(row, height_, zeros));
      const auto add = [&](int64_t c) {
        values[c - left_] += share * from[math::coarser_line(c, width_, zeros)];
      };
      int64_t c = left_;
      const int64_t shift = zeros ? width_ % 2 : 0;
      if ((c + shift) % 2 == 1) add(c++);
      const int64_t pairs = (right_ - c) / 2;
      const T* const inner = from + (c + shift) / 2;
      T* const to = values + (c - left_);
#pragma GCC ivdep
      for (int64_t i = 0; i < pairs; ++i) {
        to[2 * i] += share * inner[i];
        to[2 * i + 1] += share * inner[i];
      }
      for (c += 2 * pairs; c < right_; ++c) add(c);
      if (right_ == width_ && math::times_halved(width_ - 1, width_, zeros) == 2) add(width_ - 1);
    }

    Sweep& sweep_;
    const SsimTile& pixels_;
    const SsimGradient<T>& gradient_;
    int64_t images_, margin_, height_, width_, left_, right_;
    bool folds_;
    T* edges_[2] = {};
  };

  SsimPlanes planes_;
  SsimWindow<T> window_;
  Taps<T, size> taps_;
  SsimTile tile_;
  Layout<T> layout_;
  T* next_;
  T *sums_, *differences_, *line_x_, *line_y_;
  T* moments_[4];
  T pivot_x_, pivot_y_;
};

template <class T>
int64_t scratch(int64_t window, int64_t columns) {
  return Layout<T>(window, columns + window - 1).values();
}

template <class T>
void sum(const SsimPlanes& planes,
         const SsimWindow<T>& window,
         const SsimTile& tile,
         T* scratch,
         double* sums) {
  if (window.size == 11)
    Sweep<T, 11>(planes, window, tile, scratch).sum(sums);
  else
    Sweep<T, 0>(planes, window, tile, scratch).sum(sums);
}

template <class T>
void differentiate(const SsimPlanes& planes,
                   const SsimWindow<T>& window,
                   const SsimTile& pixels,
                   const SsimGradient<T>& gradient,
                   T* scratch) {
  // The positions whose window holds a pixel of the tile.
  const int64_t halo = window.size - 1;
  const SsimTile positions{std::max<int64_t>(0, pixels.top - halo),
                           pixels.bottom,
                           std::max<int64_t>(0, pixels.left - halo),
                           pixels.right};
  if (window.size == 11)
    Sweep<T, 11>(planes, window, positions, scratch).differentiate(pixels, gradient);
  else
    Sweep<T, 0>(planes, window, positions, scratch).differentiate(pixels, gradient);
}

template <class T>
void halve(const void* plane,
           Storage storage,
           int64_t height,
           int64_t width,
           bool zero_padded,
           int64_t begin,
           int64_t end,
           T* scratch,
           T* out) {
  const int64_t columns = math::halved_size(width);
  const int64_t shift = -math::halved_line(0, width, zero_padded);
  T* const sums = scratch + 1;  // from column -1 to column width
  with_storage<T>(storage, [&](auto tag) {
    const auto* in = static_cast<decltype(tag)>(plane);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = math::halved_line(i, height, zero_padded);
      const int64_t second = std::min(first + 1, height - 1);
      constexpr int64_t run = 512;
      T one[run], two[run];
      for (int64_t c = 0; c < width; c += run) {
        const int64_t n = std::min(run, width - c);
        load_run(in + second * width + c, n, two);
        if (first >= 0)
          load_run(in + first * width + c, n, one);
        else
          std::fill(one, one + n, T(0));
        for (int64_t j = 0; j < n; ++j) sums[c + j] = one[j] + two[j];
      }
      sums[-1] = T(0);
      sums[width] = sums[width - 1];
      const T* const from = sums - shift;
      T* const row = out + i * columns;
      for (int64_t c = 0; c < columns; ++c) row[c] = T(0.25) * (from[2 * c] + from[2 * c + 1]);
    }
  });
}

template <class T>
constexpr SsimLoops<T> make_loops() {
  return {
      .scratch = scratch<T>,
      .sum = sum<T>,
      .differentiate = differentiate<T>,
      .halve = halve<T>,
  };
}

}  // namespace

const SsimLoops<float> ssim_loops_f32 = make_loops<float>();
const SsimLoops<double> ssim_loops_f64 = make_loops<double>();

}  // namespace HDROPS_LEVEL
}  // namespace hdrops
