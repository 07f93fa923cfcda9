// mef_ssim on the CPU (Ma, Zeng and Wang, "Perceptual quality assessment for multi-exposure image
// fusion").
//
// The desired patch is a combination of the sources' patches, with factors that follow from their
// moments under a uniform window; its own moments under the weighted window follow from theirs. So
// all is windowed moments: no patch is formed. A level is worked off in tiles, each about the means
// of its own images, with rows of moments that stay in the L1 cache. The levels above the finest,
// a third of its size, are stored; what stands beyond a border is read by its index.
//
// Backward: the gradient at a pixel is a sum, under the windows that see it, of what the quality of
// each owes to its sources, to fused and to nothing of both. A tile forms these slopes again for all
// windows that reach into it. Nothing is shared between tiles, and no result depends on how tiles
// fall to threads.

#include "hdrops/simd/mef_ssim.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "hdrops/buffer.h"
#include "hdrops/mef_ssim_checks.h"
#include "hdrops/pyramid.h"

namespace hdrops {
namespace {

template <class T>
const MefSsimLoops<T>& loops() {
  if constexpr (std::is_same_v<T, float>)
    return HDROPS_PICK(mef_ssim_loops_f32);
  else
    return HDROPS_PICK(mef_ssim_loops_f64);
}

constexpr int64_t forward_rows = 32;
constexpr int64_t backward_rows = 64;
constexpr int64_t tile_columns = 192;  // with what the windows see beyond

template <class T>
class MefSsim {
 public:
  MefSsim(const MefSsimProblem& p, Storage storage) : p_(p), storage_(storage) {
    for (const double tap : p.window) taps_.push_back(static_cast<T>(tap));
    int64_t h = p.h, w = p.w;
    for (int64_t level = 0; level < p.levels; ++level) {
      sizes_.push_back({h, w, stored_size_});
      if (level > 0) stored_size_ += (p.k + 1) * h * w;
      h = math::halved_size(h);
      w = math::halved_size(w);
    }
  }

  // Values of the buffer that build() fills.
  int64_t stored_size() const { return stored_size_; }

  // Takes an image and its sources, and forms the levels above the finest.
  void build(const char* fused, const char* bracket, T* stored) {
    fused_ = fused;
    bracket_ = bracket;
    stored_ = stored;
    for (int64_t level = 1; level < p_.levels; ++level) {
      const Size &fine = size(level - 1), &coarse = size(level);
      const int64_t rows = (p_.k + 1) * coarse.h;
      over(rows, 2 * fine.w, [&](int64_t begin, int64_t end) {
        const auto scratch = buffer<T>(2 * fine.w);
        T *const above = scratch.get(), *const below = above + fine.w;
        for (int64_t row = begin; row < end; ++row) {
          const int64_t image = row / coarse.h, y = row % coarse.h;
          load_row(level - 1, image, 2 * y, 0, fine.w, above);
          load_row(level - 1, image, std::min(2 * y + 1, fine.h - 1), 0, fine.w, below);
          loops<T>().halve(above, below, fine.w, plane(level, image) + y * coarse.w);
        }
      });
    }
  }

  // Mean quality of a level.
  double mean(int64_t level) const {
    const Size& s = size(level);
    const int64_t height = p_.positions(s.h), width = p_.positions(s.w);
    const Tiles tiles = tiles_of(height, width, forward_rows, p_.reach());
    std::vector<double> sums(static_cast<size_t>(tiles.count()));
    over(tiles.count(), tiles.rows * tiles.columns, [&](int64_t begin, int64_t end) {
      MefSsimTile<T> tile = tile_for(tiles.rows + p_.reach(), tiles.columns + p_.reach());
      const auto images = buffer<T>((p_.k + 1) * tile.plane);
      const auto scratch = buffer<T>(tile.scratch());
      std::vector<double> columns(static_cast<size_t>(tiles.columns));
      for (int64_t t = begin; t < end; ++t) {
        const Range y = tiles.y(t), x = tiles.x(t);
        fill(level,
             tile,
             y.begin,
             x.begin,
             y.width() + p_.reach(),
             x.width() + p_.reach(),
             images.get());
        tile.width = x.width();
        std::fill(columns.begin(), columns.end(), 0.0);
        for (int64_t row = 0; row < y.width(); ++row)
          loops<T>().quality(tile, row, scratch.get(), columns.data());
        double sum = 0;
        for (const double column : columns) sum += column;
        sums[static_cast<size_t>(t)] = sum;
      }
    });
    double total = 0;
    for (const double sum : sums) total += sum;
    return total / static_cast<double>(height * width);
  }

  // Values of the buffer that gradient() works in.
  int64_t gradient_size() const {
    int64_t values = 0, padded = 0;
    for (const Size& s : sizes_) {
      values += s.h * s.w;
      if (p_.before() > 0) padded = std::max(padded, (s.h + p_.reach()) * (s.w + p_.reach()));
    }
    return values + padded;
  }

  // The gradient of fused, given those of the means.
  void gradient(const T* grad, T* work, char* out) const {
    std::vector<T*> grads;
    for (const Size& s : sizes_) {
      grads.push_back(work);
      work += s.h * s.w;
    }
    for (int64_t level = p_.levels - 1; level >= 0; --level) {
      const auto at = static_cast<size_t>(level);
      const Size& s = sizes_[at];
      const auto positions = static_cast<T>(p_.positions(s.h) * p_.positions(s.w));
      T* const target = p_.before() > 0 ? work : grads[at];
      level_gradient(level, grad[level] / positions, target);
      if (p_.before() > 0) fold(s, target, grads[at]);
      const bool finest = level == 0;
      const T* coarser = level + 1 < p_.levels ? grads[at + 1] : nullptr;
      if (!finest && coarser == nullptr) continue;
      over(s.h, s.w, [&](int64_t begin, int64_t end) {
        for (int64_t y = begin; y < end; ++y) {
          T* row = grads[at] + y * s.w;
          if (coarser != nullptr) {
            const T weight = y == s.h - 1 && s.h % 2 != 0 ? T(1) : T(0.5);
            loops<T>().spread(coarser + y / 2 * math::halved_size(s.w), weight, 0, s.w, s.w, row);
          }
          if (!finest) continue;
          for (int64_t x = 0; x < s.w; ++x) row[x] *= static_cast<T>(p_.scale);
          fusion_loops<T>().store(row, storage_, s.w, false, out + y * s.w * bytes_of(storage_));
        }
      });
    }
  }

 private:
  struct Size {
    int64_t h, w, stored;  // where a level begins in the buffer of build()
  };

  // A grid of tiles.
  struct Tiles {
    int64_t height, width, rows, columns;
    int64_t across() const { return (width + columns - 1) / columns; }
    int64_t count() const { return (height + rows - 1) / rows * across(); }
    Range y(int64_t t) const {
      const int64_t begin = t / across() * rows;
      return {begin, std::min(begin + rows, height)};
    }
    Range x(int64_t t) const {
      const int64_t begin = t % across() * columns;
      return {begin, std::min(begin + columns, width)};
    }
  };

  template <class Body>
  static void over(int64_t units, int64_t work, const Body& body) {
    constexpr int64_t grain = 1 << 13;
    torch::stable::parallel_for(
        0, units, std::max<int64_t>(1, grain / std::max<int64_t>(work, 1)), body);
  }

  const Size& size(int64_t level) const { return sizes_[static_cast<size_t>(level)]; }
  T* plane(int64_t level, int64_t image) const {
    return stored_ + size(level).stored + image * size(level).h * size(level).w;
  }

  // n values of row y of an image of a level, on 0 to 255; image k is fused.
  void load_row(int64_t level, int64_t image, int64_t y, int64_t x, int64_t n, T* out) const {
    const Size& s = size(level);
    if (level > 0) {
      std::copy_n(plane(level, image) + y * s.w + x, n, out);
      return;
    }
    const char* from = image == p_.k ? fused_ : bracket_ + image * s.h * s.w * bytes_of(storage_);
    fusion_loops<T>().load(
        from + (y * s.w + x) * bytes_of(storage_), storage_, n, static_cast<T>(p_.scale), out);
  }

  // Tiles that see `reach` pixels more than their own across, in whole cache lines.
  Tiles tiles_of(int64_t height, int64_t width, int64_t rows, int64_t reach) const {
    const int64_t columns = whole_lines<T>(std::max(tile_columns, 4 * reach)) - reach;
    return {height, width, std::min(rows, height), std::min(columns, width)};
  }

  // For `rows` rows of `columns` pixels.
  MefSsimTile<T> tile_for(int64_t rows, int64_t columns) const {
    // Positions go on to the end of a cache line, and their windows beyond it.
    const int64_t pitch = whole_lines<T>(whole_lines<T>(columns) + p_.reach());
    return {
        nullptr, p_.k, rows * pitch, pitch, taps_.data(), p_.reach() + 1, 0, static_cast<T>(p_.c)};
  }

  // Fills a tile with `rows` x `columns` pixels from (y, x) on, counted from where the first window
  // begins; zeros stand beyond the windows' reach.
  void fill(int64_t level,
            MefSsimTile<T>& tile,
            int64_t y,
            int64_t x,
            int64_t rows,
            int64_t columns,
            T* images) const {
    const Size& s = size(level);
    const int64_t top = y - p_.before(), left = x - p_.before();
    // Of the row's pixels, those inside the image.
    const int64_t from = std::clamp<int64_t>(-left, 0, columns);
    const int64_t to = std::clamp<int64_t>(s.w - left, from, columns);
    std::fill_n(images, (p_.k + 1) * tile.plane, T(0));
    for (int64_t image = 0; image <= p_.k; ++image) {
      T* const pixels = images + image * tile.plane;
      for (int64_t row = 0; row < rows; ++row) {
        T* const out = pixels + row * tile.pitch;
        const int64_t source = math::border_index(top + row, s.h, p_.border);
        if (source < 0) continue;
        load_row(level, image, source, left + from, to - from, out + from);
        for (int64_t column = 0; column < columns; ++column) {
          if (column == from) column = to;
          if (column >= columns) break;
          const int64_t at = math::border_index(left + column, s.w, p_.border);
          if (at >= 0) load_row(level, image, source, at, 1, out + column);
        }
      }
      // Beyond a border of zeros a pivot would stand for them.
      if (p_.border != math::Border::zeros) loops<T>().centre(pixels, tile.pitch, rows, columns);
    }
    tile.images = images;
  }

  // The gradient of a level's own mean by its pixels, those beyond its border included.
  void level_gradient(int64_t level, T upstream, T* out) const {
    const Size& s = size(level);
    const int64_t reach = p_.reach();
    const int64_t height = p_.positions(s.h), width = p_.positions(s.w);
    const Tiles tiles = tiles_of(height + reach, width + reach, backward_rows, 2 * reach);
    over(tiles.count(), tiles.rows * tiles.columns, [&](int64_t begin, int64_t end) {
      // A pixel is seen by the windows that begin up to `reach` before it.
      MefSsimTile<T> tile = tile_for(tiles.rows + 2 * reach, tiles.columns + 2 * reach);
      const int64_t slopes_plane = (tiles.rows + reach) * tile.pitch;
      const auto images = buffer<T>((p_.k + 1) * tile.plane);
      const auto slopes = buffer<T>((p_.k + 2) * slopes_plane);
      const auto scratch = buffer<T>(tile.scratch());
      for (int64_t t = begin; t < end; ++t) {
        const Range y = tiles.y(t), x = tiles.x(t);
        const Range seen_y{std::max<int64_t>(y.begin - reach, 0), std::min(y.end, height)};
        const Range seen_x{std::max<int64_t>(x.begin - reach, 0), std::min(x.end, width)};
        fill(level,
             tile,
             seen_y.begin,
             seen_x.begin,
             seen_y.width() + reach,
             seen_x.width() + reach,
             images.get());
        tile.width = seen_x.width();
        std::fill_n(slopes.get(), (p_.k + 2) * slopes_plane, T(0));
        // Slopes stand where the windows of the tile's first pixel begin, whether there are such.
        const int64_t down = seen_y.begin - (y.begin - reach);
        const int64_t right = seen_x.begin - (x.begin - reach);
        for (int64_t row = 0; row < seen_y.width(); ++row) {
          loops<T>().slopes(tile,
                            row,
                            upstream,
                            scratch.get(),
                            slopes_plane,
                            slopes.get() + (down + row) * tile.pitch + right);
        }
        tile.width = x.width();
        for (int64_t row = 0; row < y.width(); ++row) {
          loops<T>().gradient(
              tile,
              slopes.get() + row * tile.pitch,
              slopes_plane,
              images.get() + (y.begin - seen_y.begin + row) * tile.pitch + x.begin - seen_x.begin,
              scratch.get(),
              out + (y.begin + row) * (width + reach) + x.begin);
        }
      }
    });
  }

  // The gradient of pixels from that of them and of what stands beyond the border.
  void fold(const Size& s, const T* padded, T* out) const {
    std::fill_n(out, s.h * s.w, T(0));
    const int64_t before = p_.before(), width = s.w + p_.reach();
    for (int64_t y = 0; y < s.h + p_.reach(); ++y) {
      const int64_t row = math::border_index(y - before, s.h, p_.border);
      if (row < 0) continue;
      for (int64_t x = 0; x < width; ++x) {
        const int64_t column = math::border_index(x - before, s.w, p_.border);
        if (column >= 0) out[row * s.w + column] += padded[y * width + x];
      }
    }
  }

  MefSsimProblem p_;
  Storage storage_;
  std::vector<T> taps_;
  std::vector<Size> sizes_;
  int64_t stored_size_ = 0;
  const char* fused_ = nullptr;
  const char* bracket_ = nullptr;
  T* stored_ = nullptr;
};

// Small images of a batch go to threads one by one; large ones share all threads.
template <class Body>
void over_images(const MefSsimProblem& p, const Body& body) {
  constexpr int64_t large = 1 << 16;
  if (p.h * p.w >= large || p.n == 1) return body(0, p.n);
  torch::stable::parallel_for(0, p.n, 1, body);
}

// Calls f(problem of image n, n) with the levels of every image formed.
template <class T, class F>
void over_levels(const MefSsimProblem& p, const Tensor& fused, const Tensor& bracket, const F& f) {
  const Storage storage = storage_of(fused.scalar_type());
  const int64_t bytes = p.h * p.w * bytes_of(storage);
  over_images(p, [&](int64_t begin, int64_t end) {
    MefSsim<T> images(p, storage);
    const auto stored = buffer<T>(images.stored_size());
    for (int64_t n = begin; n < end; ++n) {
      images.build(static_cast<const char*>(fused.const_data_ptr()) + n * bytes,
                   static_cast<const char*>(bracket.const_data_ptr()) + n * p.k * bytes,
                   stored.get());
      f(images, n);
    }
  });
}

Tensor mef_ssim_means(const Tensor& fused_in,
                      const Tensor& bracket_in,
                      const std::vector<double> window,
                      double data_range,
                      double k,
                      int64_t border,
                      int64_t levels) {
  const MefSsimProblem p =
      check_mef_ssim("mef_ssim_means", fused_in, bracket_in, window, data_range, k, border, levels);
  const Tensor fused = torch::stable::contiguous(fused_in);
  const Tensor bracket = torch::stable::contiguous(bracket_in);
  const Tensor out = allocate({p.n, p.levels}, compute_dtype(fused.scalar_type()), fused);
  with_compute_type(fused.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    T* const means = out.mutable_data_ptr<T>();
    over_levels<T>(p, fused, bracket, [&](const MefSsim<T>& images, int64_t n) {
      for (int64_t level = 0; level < p.levels; ++level)
        means[n * p.levels + level] = static_cast<T>(images.mean(level));
    });
  });
  return out;
}

Tensor mef_ssim_means_backward(const Tensor& grad_in,
                               const Tensor& fused_in,
                               const Tensor& bracket_in,
                               const std::vector<double> window,
                               double data_range,
                               double k,
                               int64_t border,
                               int64_t levels) {
  const MefSsimProblem p = check_mef_ssim(
      "mef_ssim_means_backward", fused_in, bracket_in, window, data_range, k, border, levels);
  check_mef_ssim_grad(p, grad_in, fused_in);
  const Tensor fused = torch::stable::contiguous(fused_in);
  const Tensor bracket = torch::stable::contiguous(bracket_in);
  const Tensor grad =
      torch::stable::contiguous(torch::stable::to(grad_in, compute_dtype(fused.scalar_type())));
  const Tensor out = allocate(shape_of(fused), fused.scalar_type(), fused);
  with_compute_type(fused.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* const upstream = grad.const_data_ptr<T>();
    auto* const to = static_cast<char*>(out.mutable_data_ptr());
    const int64_t bytes = p.h * p.w * bytes_of(storage_of(fused.scalar_type()));
    over_levels<T>(p, fused, bracket, [&](const MefSsim<T>& images, int64_t n) {
      const auto work = buffer<T>(images.gradient_size());
      images.gradient(upstream + n * p.levels, work.get(), to + n * bytes);
    });
  });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) {
  m.impl("mef_ssim_means", TORCH_BOX(&hdrops::mef_ssim_means));
  m.impl("mef_ssim_means_backward", TORCH_BOX(&hdrops::mef_ssim_means_backward));
}
