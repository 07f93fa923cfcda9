// ssim on the CPU (Wang, Bovik, Sheikh and Simoncelli 2004; Wang, Simoncelli and Bovik 2003).
//
// Each level is swept once, in tiles whose rows at work stay in the second cache: no map of moments
// or of derivatives is ever stored. What is stored are the levels but the finest, in the arithmetic
// type: a third of the images, and for the backward a third of the wanted gradients. The backward
// forms moments and derivatives again, coarser levels first. Tiles do not depend on the number of
// threads; their sums are added in float64, in a fixed order.

#include "hdrops/simd/ssim.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "hdrops/buffer.h"
#include "hdrops/ssim_checks.h"

namespace hdrops {
namespace {

template <class T>
const SsimLoops<T>& loops() {
  if constexpr (std::is_same_v<T, float>)
    return HDROPS_PICK(ssim_loops_f32);
  else
    return HDROPS_PICK(ssim_loops_f64);
}

// Tiles of about equal size that cover so many rows and columns. None is smaller than half of what
// is aimed at, or than twice the window.
class Tiles {
 public:
  Tiles(int64_t rows, int64_t columns, int64_t window)
      : rows_(rows),
        columns_(columns),
        down_(parts(rows, 256, window)),
        across_(parts(columns, 512, window)) {}

  int64_t count() const { return down_ * across_; }
  int64_t widest() const { return (columns_ + across_ - 1) / across_; }
  SsimTile operator[](int64_t i) const {
    const int64_t y = i / across_, x = i % across_;
    return {rows_ * y / down_,
            rows_ * (y + 1) / down_,
            columns_ * x / across_,
            columns_ * (x + 1) / across_};
  }

 private:
  static int64_t parts(int64_t n, int64_t aim, int64_t window) {
    const int64_t most = std::max(aim, 4 * window);
    return (n + most - 1) / most;
  }

  int64_t rows_, columns_, down_, across_;
};

template <class T>
class Ssim {
 public:
  Ssim(const SsimProblem& problem, const Tensor& x, const Tensor& y)
      : problem_(problem), planes_(problem.n * problem.c) {
    const Storage storage = storage_of(x.scalar_type());
    // The middle tap takes the rounding of the others: a sum that is not that of the window would
    // leave flat areas a variance.
    double total = 0, rounded = 0;
    for (const double tap : problem.window) {
      taps_.push_back(static_cast<T>(tap));
      total += tap;
      rounded += static_cast<double>(taps_.back());
    }
    T& middle = taps_[taps_.size() / 2];
    middle = static_cast<T>(static_cast<double>(middle) + (total - rounded));
    window_ = {taps_.data(),
               static_cast<int64_t>(taps_.size()),
               problem.border,
               math::ssim_constants<T>(
                   problem.c1, problem.c2, problem.covariance, full_scale_of(storage))};
    levels_.push_back({x.const_data_ptr(), y.const_data_ptr(), storage, problem.h, problem.w});
    int64_t coarser = 0;
    for (int64_t level = 1; level < problem.levels; ++level) {
      const SsimPlanes& finer = levels_.back();
      const int64_t height = math::halved_size(finer.height),
                    width = math::halved_size(finer.width);
      levels_.push_back({nullptr,
                         nullptr,
                         std::is_same_v<T, float> ? Storage::f32 : Storage::f64,
                         height,
                         width});
      coarser += height * width;
    }
    pyramid_ = buffer<T>(2 * planes_ * coarser);
    T* next = pyramid_.get();
    for (size_t level = 1; level < levels_.size(); ++level) {
      const int64_t values = planes_ * levels_[level].height * levels_[level].width;
      levels_[level].x = next;
      levels_[level].y = next + values;
      next += 2 * values;
    }
  }

  // To (planes, levels, 2).
  void means(T* out) {
    for (int64_t level = 0; level < problem_.levels; ++level) {
      const SsimPlanes& size = levels_[static_cast<size_t>(level)];
      const int64_t height = window_.positions(size.height), width = window_.positions(size.width);
      const Tiles tiles(height, width, window_.size);
      std::vector<double> sums(static_cast<size_t>(2 * planes_ * tiles.count()));
      over_tiles(tiles, [&](int64_t plane, int64_t tile, T* scratch) {
        double* const to = sums.data() + 2 * (plane * tiles.count() + tile);
        loops<T>().sum(plane_of(level, plane), window_, tiles[tile], scratch, to);
        if (level + 1 < problem_.levels) halve(level + 1, plane, tile, tiles.count(), scratch);
      });
      for (int64_t plane = 0; plane < planes_; ++plane) {
        for (int64_t which = 0; which < 2; ++which) {
          double sum = 0;
          for (int64_t tile = 0; tile < tiles.count(); ++tile)
            sum += sums[static_cast<size_t>(2 * (plane * tiles.count() + tile) + which)];
          out[(plane * problem_.levels + level) * 2 + which] =
              static_cast<T>(sum / static_cast<double>(height * width));
        }
      }
    }
  }

  // Gradients of x and, unless null, of y, from that of the means.
  void differentiate(const T* grad, void* x, void* y) {
    for (int64_t level = 0; level + 1 < problem_.levels; ++level) {
      const SsimPlanes& size = levels_[static_cast<size_t>(level)];
      const Tiles tiles(size.height, size.width, 1);
      over_tiles(tiles, [&](int64_t plane, int64_t tile, T* scratch) {
        halve(level + 1, plane, tile, tiles.count(), scratch);
      });
    }
    const T *coarser_x = nullptr, *coarser_y = nullptr;
    Buffer<T> coarser;
    for (int64_t level = problem_.levels - 1; level >= 0; --level) {
      const SsimPlanes& size = levels_[static_cast<size_t>(level)];
      const int64_t values = planes_ * size.height * size.width;
      Buffer<T> own = buffer<T>(level == 0 ? 0 : values * (y == nullptr ? 1 : 2));
      void* const to_x = level == 0 ? x : own.get();
      void* const to_y = y == nullptr ? nullptr : level == 0 ? y : own.get() + values;
      const Tiles tiles(window_.padded(size.height), window_.padded(size.width), window_.size);
      const int64_t coarser_size = math::halved_size(size.height) * math::halved_size(size.width);
      const double positions = static_cast<double>(window_.positions(size.height)) *
                               static_cast<double>(window_.positions(size.width));
      over_tiles(tiles, [&](int64_t plane, int64_t tile, T* scratch) {
        const T* const upstream = grad + (plane * problem_.levels + level) * 2;
        const int64_t at = plane * size.height * size.width * bytes_of(size.storage);
        const auto of_plane = [&](const T* gradient) {
          return gradient == nullptr ? nullptr : gradient + plane * coarser_size;
        };
        const SsimGradient<T> gradient{static_cast<T>(upstream[0] / positions),
                                       static_cast<T>(upstream[1] / positions),
                                       of_plane(coarser_x),
                                       of_plane(coarser_y),
                                       problem_.zero_padded,
                                       static_cast<char*>(to_x) + at,
                                       to_y == nullptr ? nullptr : static_cast<char*>(to_y) + at,
                                       size.storage};
        loops<T>().differentiate(plane_of(level, plane), window_, tiles[tile], gradient, scratch);
      });
      coarser = std::move(own);
      coarser_x = static_cast<const T*>(to_x);
      coarser_y = static_cast<const T*>(to_y);
    }
  }

 private:
  SsimPlanes plane_of(int64_t level, int64_t plane) const {
    SsimPlanes planes = levels_[static_cast<size_t>(level)];
    const int64_t at = plane * planes.height * planes.width * bytes_of(planes.storage);
    planes.x = static_cast<const char*>(planes.x) + at;
    planes.y = static_cast<const char*>(planes.y) + at;
    return planes;
  }

  // Runs work(plane, tile, scratch) over all tiles of all planes, in parallel.
  template <class Work>
  void over_tiles(const Tiles& tiles, const Work& work) {
    const int64_t halving = levels_.front().width + 2;
    const int64_t each = std::max(loops<T>().scratch(window_.size, tiles.widest()), halving);
    torch::stable::parallel_for(0, planes_ * tiles.count(), 1, [&](int64_t begin, int64_t end) {
      const Buffer<T> scratch = buffer<T>(each);
      for (int64_t i = begin; i < end; ++i)
        work(i / tiles.count(), i % tiles.count(), scratch.get());
    });
  }

  // A share, of so many, of the rows of a coarser level of both images.
  void halve(int64_t level, int64_t plane, int64_t share, int64_t shares, T* scratch) {
    const SsimPlanes finer = plane_of(level - 1, plane), size = plane_of(level, plane);
    const int64_t begin = size.height * share / shares, end = size.height * (share + 1) / shares;
    for (const auto& [from, to] : {std::pair{finer.x, size.x}, std::pair{finer.y, size.y}}) {
      loops<T>().halve(from,
                       finer.storage,
                       finer.height,
                       finer.width,
                       problem_.zero_padded,
                       begin,
                       end,
                       scratch,
                       const_cast<T*>(static_cast<const T*>(to)));
    }
  }

  const SsimProblem& problem_;
  int64_t planes_;
  std::vector<T> taps_;
  SsimWindow<T> window_;
  std::vector<SsimPlanes> levels_;
  Buffer<T> pyramid_;
};

Tensor ssim_means(const Tensor& x_in,
                  const Tensor& y_in,
                  const std::vector<double> window,
                  double c1,
                  double c2,
                  double covariance,
                  int64_t border,
                  int64_t levels,
                  bool zero_padded) {
  const SsimProblem p =
      check_ssim("ssim_means", x_in, y_in, window, c1, c2, covariance, border, levels, zero_padded);
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor out = allocate({p.n, p.c, levels, 2}, compute_dtype(x.scalar_type()), x);
  if (p.n == 0) return out;
  with_compute_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Ssim<T>(p, x, y).means(out.mutable_data_ptr<T>());
  });
  return out;
}

std::tuple<Tensor, Tensor> ssim_means_backward(const Tensor& grad_in,
                                               const Tensor& x_in,
                                               const Tensor& y_in,
                                               const std::vector<double> window,
                                               double c1,
                                               double c2,
                                               double covariance,
                                               int64_t border,
                                               int64_t levels,
                                               bool zero_padded,
                                               bool wants_x,
                                               bool wants_y) {
  const SsimProblem p = check_ssim(
      "ssim_means_backward", x_in, y_in, window, c1, c2, covariance, border, levels, zero_padded);
  check_ssim_grad(p, grad_in, x_in);
  const ScalarType dtype = x_in.scalar_type();
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, compute_dtype(dtype)));
  const std::vector<int64_t> none = {0}, whole = shape_of(x);
  const Tensor grad_x = allocate(wants_x ? whole : none, dtype, x);
  const Tensor grad_y = allocate(wants_y ? whole : none, dtype, x);
  if (p.n == 0 || (!wants_x && !wants_y)) return {grad_x, grad_y};
  with_compute_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* const upstream = grad.const_data_ptr<T>();
    // The means are symmetric in x and y.
    if (wants_x) {
      Ssim<T>(p, x, y).differentiate(
          upstream, grad_x.mutable_data_ptr(), wants_y ? grad_y.mutable_data_ptr() : nullptr);
    } else {
      Ssim<T>(p, y, x).differentiate(upstream, grad_y.mutable_data_ptr(), nullptr);
    }
  });
  return {grad_x, grad_y};
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) {
  m.impl("ssim_means", TORCH_BOX(&hdrops::ssim_means));
  m.impl("ssim_means_backward", TORCH_BOX(&hdrops::ssim_means_backward));
}
