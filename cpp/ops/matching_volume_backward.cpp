// Gradients of the matching volume and of its convolution on the CPU.
//
// Motions of one dy move each row to one row. So all motions of a dy are added at a time, rows in
// parallel: no two threads add to one row, and every sum has one order.

#include <torch/csrc/stable/library.h>

#include <map>
#include <tuple>

#include "hdrops/matching_sampler.h"

namespace hdrops {
namespace {

// The motions of each dy.
std::map<int64_t, std::vector<int64_t>> by_rows(const std::vector<int64_t>& moves) {
  std::map<int64_t, std::vector<int64_t>> groups;
  for (size_t m = 0; 2 * m < moves.size(); ++m) groups[moves[2 * m]].push_back(m);
  return groups;
}

// Gradients of the parts of all images, as the sampler holds them.
template <class T>
class Gradients {
 public:
  explicit Gradients(const Sampler<T>& images)
      : images_(images), p_(images.p), plane_(p_.plane() * p_.c) {
    du_ = zeros();
    if (p_.masked && !p_.cap) dv_ = zeros();
  }

  T* du(int64_t image) const { return du_.get() + image * plane_; }
  T* dv(int64_t image) const { return dv_ ? dv_.get() + image * plane_ : nullptr; }
  T* dr() const { return du(p_.reference); }

  // What the gradients of a slice's pixels say of its parts.
  struct Slice {
    const T *u, *v;
    T *du, *dv;
    Moved<T> how;
    int64_t down, right;
  };
  Slice slice(int64_t image, int64_t motion, int64_t exposure) const {
    return {images_.u(image),
            images_.v(image),
            du(image),
            dv(image),
            images_.how(exposure),
            images_.moves[2 * motion],
            images_.moves[2 * motion + 1]};
  }
  // One part alone, unscaled.
  Slice plain(int64_t image, int64_t motion, bool second) const {
    const Moved<T> how{Gain::scaled, T(1), T(0)};
    return {second ? images_.v(image) : images_.u(image),
            nullptr,
            second ? dv(image) : du(image),
            nullptr,
            how,
            images_.moves[2 * motion],
            images_.moves[2 * motion + 1]};
  }

  // Adds those of `count` pixels from (y, x).
  void add(const Slice& of,
           int64_t y,
           int64_t x,
           int64_t count,
           const T* t,
           const T* t1,
           const T* t2,
           const T* tr,
           int64_t gap) const {
    images_.each_run(of.u,
                     of.v,
                     of.how,
                     of.down,
                     of.right,
                     y,
                     x,
                     count,
                     [&](int64_t at, int64_t n, const MovedRun<T>& run) {
                       const auto from = [&](const T* place) {
                         return place == nullptr ? nullptr : place + at * gap;
                       };
                       const int64_t moved = run.u == nullptr ? 0 : run.u - of.u;
                       volume_loops<T>().differentiate({run,
                                                        from(t),
                                                        from(t1),
                                                        from(t2),
                                                        from(tr),
                                                        gap,
                                                        p_.inner,
                                                        of.du + moved,
                                                        of.dv == nullptr ? nullptr : of.dv + moved,
                                                        dr() + (y * p_.width + x + at) * p_.c},
                                                       n,
                                                       p_.c);
                     });
  }

  // Writes the gradient of the features of bracket n.
  void store(const std::optional<Tensor>& saturation, int64_t n, const Tensor& out) const {
    const Storage storage = storage_of(out.scalar_type());
    const int64_t bytes = bytes_of(storage), masks = p_.mask_of_channels ? p_.c : 1;
    auto* const to = static_cast<char*>(out.mutable_data_ptr()) + n * p_.count * plane_ * bytes;
    torch::stable::parallel_for(0, p_.count * p_.height, 1, [&](int64_t begin, int64_t end) {
      const auto line = buffer<T>(2 * p_.width);
      T* const s = line.get() + p_.width;
      for (int64_t row = begin; row < end; ++row) {
        const int64_t i = row / p_.height, y = row % p_.height;
        const int64_t at = y * p_.width * p_.c;
        for (int64_t c = 0; c < p_.c; ++c) {
          const T* const a = du(i) + at + c;
          const bool split = dv_ && i != p_.reference;
          if (split)
            load_elements(static_cast<const char*>(saturation->const_data_ptr()) +
                              (((n * p_.count + i) * masks + (masks == 1 ? 0 : c)) * p_.plane() +
                               y * p_.width) *
                                  bytes,
                          storage,
                          p_.width,
                          s);
          for (int64_t x = 0; x < p_.width; ++x)
            line[x] =
                split ? s[x] * a[x * p_.c] + (1 - s[x]) * dv(i)[at + c + x * p_.c] : a[x * p_.c];
          store_elements(line.get(),
                         p_.width,
                         to + ((i * p_.c + c) * p_.plane() + y * p_.width) * bytes,
                         storage);
        }
      }
    });
  }

 private:
  Buffer<T> zeros() const {
    auto memory = buffer<T>(p_.count * plane_);
    std::fill_n(memory.get(), p_.count * plane_, T(0));
    return memory;
  }

  const Sampler<T>& images_;
  const VolumeProblem& p_;
  int64_t plane_;
  Buffer<T> du_, dv_;
};

// ---- of the volume ----

template <class T>
void volume_gradients(const Sampler<T>& images,
                      const Gradients<T>& gradients,
                      int64_t n,
                      const Tensor& grad) {
  const VolumeProblem& p = images.p;
  const int64_t all = p.channels(), row = p.width * all;
  const Storage storage = storage_of(grad.scalar_type());
  const auto add =
      [&](int64_t y, int64_t d, T* line, const typename Gradients<T>::Slice& slice, bool moved) {
        const int64_t at = ((n * p.depth() + d) * p.height + y) * row;
        load_elements(static_cast<const char*>(grad.const_data_ptr()) + at * bytes_of(storage),
                      storage,
                      row,
                      line);
        gradients.add(slice,
                      y,
                      0,
                      p.width,
                      moved ? line + 2 * p.c : nullptr,
                      line,
                      line + 3 * p.c,
                      line + p.c,
                      all);
      };
  for (int64_t i = 0; i < p.count; ++i) {
    if (i == p.reference) continue;
    for (const auto& [down, motions] : by_rows(images.moves))
      torch::stable::parallel_for(0, p.height, 1, [&](int64_t begin, int64_t end) {
        const auto line = buffer<T>(row);
        for (int64_t y = begin; y < end; ++y)
          for (const int64_t m : motions)
            for (int64_t e = 0; e < p.exposures; ++e)
              add(y, depth_of(p, {i, m, e}), line.get(), gradients.slice(i, m, e), true);
      });
  }
  if (!p.include_reference || p.depth() == 0) return;
  torch::stable::parallel_for(0, p.height, 1, [&](int64_t begin, int64_t end) {
    const auto line = buffer<T>(row);
    auto slice = gradients.plain(p.reference, 0, false);
    slice.down = slice.right = 0;
    for (int64_t y = begin; y < end; ++y)
      for (int64_t m = 0; m < p.motions; ++m)
        for (int64_t e = 0; e < p.exposures; ++e)
          add(y, depth_of(p, {p.reference, m, e}), line.get(), slice, false);
  });
}

Tensor matching_volume_backward(const Tensor& grad_in,
                                const Tensor& features_in,
                                const std::optional<Tensor> saturation_in,
                                const Tensor& motions_in,
                                const std::vector<double> exposures,
                                int64_t reference,
                                bool cap,
                                double ceiling,
                                bool inner,
                                const std::vector<int64_t> order,
                                bool include_reference) {
  const char* const op = "matching_volume_backward";
  const VolumeArguments arguments(op,
                                  features_in,
                                  saturation_in,
                                  motions_in,
                                  exposures,
                                  reference,
                                  cap,
                                  ceiling,
                                  inner,
                                  order,
                                  include_reference);
  const VolumeProblem& p = arguments.problem;
  check_gradient(op, grad_in, volume_shape(p), features_in);
  const ScalarType dtype = features_in.scalar_type();
  const Tensor out = allocate(shape_of(features_in), dtype, features_in);
  if (out.numel() == 0) return out;
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  with_compute_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t n = 0; n < p.n; ++n) {
      const Sampler<T> images(arguments, n);
      const Gradients<T> gradients(images);
      volume_gradients(images, gradients, n, grad);
      gradients.store(arguments.saturation, n, out);
    }
  });
  return out;
}

// ---- of the convolution ----

// Bands of rows whose sums for the gradient of the weight are apart, however many threads there are.
constexpr int64_t most_bands = 16;

template <class T>
class ConvolutionGradients {
 public:
  using Slice = typename Gradients<T>::Slice;

  ConvolutionGradients(const Sampler<T>& images,
                       const Convolved& how,
                       const Tensor& grad,
                       int64_t n)
      : images_(images),
        p_(images.p),
        how_(how),
        loops_(volume_loops<T>()),
        padded_(math::rounded_up(how.k, loops_.width)),
        storage_(storage_of(grad.scalar_type())),
        grad_(static_cast<const char*>(grad.const_data_ptr()) +
              n * how.positions() * how.k * bytes_of(storage_)) {
    // A linear part costs two convolutions for each exposure and output that reads it, or for all.
    const double direct = static_cast<double>(p_.exposures) / static_cast<double>(how.stride[0]);
    hoisted_ = !p_.cap && direct > (p_.masked ? 2 : 1);
    sum_constants();
  }

  void features(const T* weight, const Gradients<T>& gradients) const {
    const Spread spread(*this, weight);
    for (int64_t i = 0; i < p_.count; ++i) {
      if (i == p_.reference) continue;
      for (const auto& [down, motions] : by_rows(images_.moves))
        torch::stable::parallel_for(0, p_.height, 1, [&](int64_t begin, int64_t end) {
          typename Spread::Worker worker(spread, gradients);
          for (int64_t y = begin; y < end; ++y) worker.row(y, i, motions);
        });
    }
    torch::stable::parallel_for(0, p_.height, 1, [&](int64_t begin, int64_t end) {
      typename Spread::Worker worker(spread, gradients);
      for (int64_t y = begin; y < end; ++y) worker.constants(y);
    });
  }

  // Writes (K, channels, taps).
  void weights(T* out) const {
    const int64_t bands = std::min(how_.size[1], most_bands);
    const int64_t size = how_.taps[0] * plane_taps() * p_.channels() * padded_;
    const auto sums = buffer<T>(bands * size);
    std::fill_n(sums.get(), bands * size, T(0));
    torch::stable::parallel_for(0, bands, 1, [&](int64_t begin, int64_t end) {
      Gather gather(*this);
      for (int64_t band = begin; band < end; ++band)
        for (int64_t y = band * how_.size[1] / bands; y < (band + 1) * how_.size[1] / bands; ++y)
          gather.row(y, sums.get() + band * size);
    });
    for (int64_t band = 1; band < bands; ++band)
      loops_.add(sums.get() + band * size, T(1), size, sums.get());
    const int64_t taps = how_.taps[0] * plane_taps();
    for (int64_t k = 0; k < how_.k; ++k)
      for (int64_t c = 0; c < p_.channels(); ++c)
        for (int64_t t = 0; t < taps; ++t)
          out[(k * p_.channels() + c) * taps + t] = sums[(t * p_.channels() + c) * padded_ + k];
  }

 private:
  int64_t plane_taps() const { return how_.taps[1] * how_.taps[2]; }

  // Calls f(kd, o) for each output o that reads slice d.
  template <class F>
  void each_output(int64_t d, const F& f) const {
    for (int64_t kd = 0; kd < how_.taps[0]; ++kd) {
      const int64_t at = d + how_.padding[0] - kd * how_.dilation[0];
      if (at >= 0 && at % how_.stride[0] == 0 && at / how_.stride[0] < how_.size[0])
        f(kd, at / how_.stride[0]);
    }
  }

  // The gradients of `count` pixels of output slice o, (count, K).
  const char* output(int64_t o, int64_t y, int64_t x) const {
    return grad_ + (((o * how_.size[1] + y) * how_.size[2] + x) * how_.k) * bytes_of(storage_);
  }

  // Sums of the outputs, for each depth tap, that read any slice of the reference, and of the others:
  // (rows, columns, 2 depth taps, K).
  void sum_constants() {
    const int64_t stride = 2 * how_.taps[0] * how_.k, row = how_.size[2] * how_.k;
    constants_ = buffer<T>(how_.size[1] * how_.size[2] * stride);
    torch::stable::parallel_for(0, how_.size[1], 1, [&](int64_t begin, int64_t end) {
      const auto line = buffer<T>(row);
      for (int64_t y = begin; y < end; ++y) {
        T* const to = constants_.get() + y * how_.size[2] * stride;
        std::fill_n(to, how_.size[2] * stride, T(0));
        for (int64_t o = 0; o < how_.size[0]; ++o) {
          load_elements(output(o, y, 0), storage_, row, line.get());
          for (int64_t kd = 0; kd < how_.taps[0]; ++kd) {
            const int64_t d = o * how_.stride[0] - how_.padding[0] + kd * how_.dilation[0];
            if (d < 0 || d >= p_.depth()) continue;
            const bool constant = slice_of(p_, d).image == p_.reference;
            T* const place = to + (constant ? kd : how_.taps[0] + kd) * how_.k;
            for (int64_t x = 0; x < how_.size[2]; ++x)
              loops_.add(line.get() + x * how_.k, T(1), how_.k, place + x * stride);
          }
        }
      }
    });
  }

  // `count` pixels of constants from x, outside ones 0.
  void constant_row(bool of_reference,
                    int64_t kd,
                    int64_t y,
                    int64_t x,
                    int64_t count,
                    int64_t gap,
                    T* to) const {
    const int64_t stride = 2 * how_.taps[0] * how_.k;
    const int64_t first = (of_reference ? kd : how_.taps[0] + kd) * how_.k;
    for (int64_t j = 0; j < count; ++j) {
      const bool there = y >= 0 && y < how_.size[1] && x + j >= 0 && x + j < how_.size[2];
      if (there)
        std::copy_n(
            constants_.get() + (y * how_.size[2] + x + j) * stride + first, how_.k, to + j * gap);
      else
        std::fill_n(to + j * gap, how_.k, T(0));
    }
  }

  // The same of an output slice.
  void output_row(int64_t o, int64_t y, int64_t x, int64_t count, int64_t gap, T* to) const {
    const int64_t begin = y < 0 || y >= how_.size[1] ? count : math::clamp<int64_t>(-x, 0, count);
    const int64_t end = math::clamp<int64_t>(how_.size[2] - x, begin, count);
    const auto zero = [&](int64_t from, int64_t until) {
      for (int64_t j = from; j < until; ++j) std::fill_n(to + j * gap, how_.k, T(0));
    };
    zero(0, begin);
    zero(end, count);
    if (gap == how_.k && end > begin)
      load_elements(output(o, y, x + begin), storage_, (end - begin) * how_.k, to + begin * gap);
    else
      for (int64_t j = begin; j < end; ++j)
        load_elements(output(o, y, x + j), storage_, how_.k, to + j * gap);
  }

  // ---- of the features: the transposed convolution of gradients ----

  class Spread {
    // The taps that reach the pixels whose row and column have some remainders by the strides, and
    // their weights, transposed.
    struct Reach {
      std::vector<int64_t> ky, kx;
      // By depth tap: of |F' - F_ref|; of F' and the product; of all three; of the reference's own
      // slices; of F_ref in those of others.
      std::vector<Buffer<T>> difference, linear, all, constant, others;
    };

   public:
    Spread(const ConvolutionGradients& of, const T* weight)
        : of_(of),
          p_(of.p_),
          how_(of.how_),
          channels_(math::rounded_up(p_.c, of.loops_.width)),
          products_(math::rounded_up(p_.products(), of.loops_.width)) {
      for (int64_t ry = 0; ry < how_.stride[1]; ++ry)
        for (int64_t rx = 0; rx < how_.stride[2]; ++rx) reaches_.push_back(reach(ry, rx, weight));
    }

    class Worker {
     public:
      Worker(const Spread& of, const Gradients<T>& gradients)
          : of_(of),
            how_(of.how_),
            p_(of.p_),
            gradients_(gradients),
            most_(of.of_.loops_.pixels + how_.dilation[2] * how_.taps[2] / how_.stride[2] + 2),
            pixels_(of.of_.loops_.pixels * how_.stride[2]),
            strip_size_(how_.taps[1] * most_ * how_.k),
            strip_(buffer<T>(strip_size_)),
            sums_(buffer<T>(2 * how_.taps[0] * strip_size_)),
            tile_(buffer<T>(pixels_ * (2 * of.channels_ + of.products_))) {}

      void row(int64_t y, int64_t image, const std::vector<int64_t>& motions) {
        start(y);
        const VolumeProblem& p = p_;
        const bool masked = p.masked;
        for (int64_t x = 0; x < p.width; x += pixels_) {
          place(x);
          for (const int64_t m : motions) {
            if (of_.of_.hoisted_)
              std::fill_n(sums_.get(), (masked ? 2 : 1) * how_.taps[0] * strip_size_, T(0));
            for (int64_t e = 0; e < p.exposures; ++e) {
              const Slice slice = gradients_.slice(image, m, e);
              clear(of_.of_.hoisted_ ? of_.channels_ : stride());
              bool any = false;
              of_.of_.each_output(depth_of(p, {image, m, e}), [&](int64_t kd, int64_t o) {
                any = true;
                read([&](int64_t row, int64_t column, int64_t n, T* to) {
                  of_.of_.output_row(o, row, column, n, how_.k, to);
                });
                if (!of_.of_.hoisted_) {
                  spread(strip_.get(), &Reach::all, kd, stride());
                  return;
                }
                spread(strip_.get(), &Reach::difference, kd, of_.channels_);
                T* const sum = sums_.get() + kd * strip_size_;
                const int64_t used = ky_ * wide_ * how_.k;
                if (masked) of_.of_.loops_.add(strip_.get(), T(1), used, sum);
                of_.of_.loops_.add(strip_.get(),
                                   slice.how.exposure,
                                   used,
                                   masked ? sum + how_.taps[0] * strip_size_ : sum);
              });
              if (!any) continue;
              const T* const t = tile_.get();
              if (of_.of_.hoisted_)
                gradients_.add(slice, y_, x, count_, t, nullptr, nullptr, nullptr, of_.channels_);
              else
                gradients_.add(slice,
                               y_,
                               x,
                               count_,
                               t,
                               t + of_.channels_,
                               t + 2 * of_.channels_,
                               nullptr,
                               stride());
            }
            if (!of_.of_.hoisted_) continue;
            for (int part = 0; part < (masked ? 2 : 1); ++part) {
              const int64_t gap = of_.channels_ + of_.products_;
              clear(gap);
              for (int64_t kd = 0; kd < how_.taps[0]; ++kd)
                spread(sums_.get() + (part * how_.taps[0] + kd) * strip_size_,
                       &Reach::linear,
                       kd,
                       gap);
              gradients_.add(gradients_.plain(image, m, part == 1),
                             y_,
                             x,
                             count_,
                             nullptr,
                             tile_.get(),
                             tile_.get() + of_.channels_,
                             nullptr,
                             gap);
            }
          }
        }
      }

      // What slices of the reference, and all others, have of it alone.
      void constants(int64_t y) {
        start(y);
        const int64_t gap = of_.channels_ + of_.products_;
        Slice slice{of_.of_.images_.base(),
                    nullptr,
                    gradients_.dr(),
                    nullptr,
                    {Gain::scaled, T(1), T(0)},
                    0,
                    0};
        for (int64_t x = 0; x < p_.width; x += pixels_) {
          place(x);
          for (const bool of_reference : {true, false}) {
            const int64_t wide = of_reference ? gap : of_.channels_;
            clear(wide);
            for (int64_t kd = 0; kd < how_.taps[0]; ++kd) {
              read([&](int64_t row, int64_t column, int64_t n, T* to) {
                of_.of_.constant_row(of_reference, kd, row, column, n, how_.k, to);
              });
              spread(strip_.get(), of_reference ? &Reach::constant : &Reach::others, kd, wide);
            }
            const T* const t = tile_.get();
            gradients_.add(slice,
                           y,
                           x,
                           count_,
                           nullptr,
                           of_reference ? t : nullptr,
                           of_reference ? t + of_.channels_ : nullptr,
                           of_reference ? nullptr : t,
                           wide);
          }
        }
      }

     private:
      int64_t stride() const { return 2 * of_.channels_ + of_.products_; }

      // Row y: its rows of outputs, by their taps.
      void start(int64_t y) {
        y_ = y;
        remainder_ = y % how_.stride[1];
        ky_ = static_cast<int64_t>(of_.reach_of(remainder_, 0).ky.size());
      }

      // Pixels from x: the columns of outputs that any of them reaches.
      void place(int64_t x) {
        x_ = x;
        count_ = std::min(pixels_, p_.width - x);
        const int64_t far = how_.dilation[2] * (how_.taps[2] - 1);
        const int64_t least = x + how_.padding[2] - far;
        first_ = least < 0 ? -(-least / how_.stride[2]) : math::ceil_div(least, how_.stride[2]);
        const int64_t last = (x + count_ - 1 + how_.padding[2]) / how_.stride[2];
        wide_ = std::max<int64_t>(1, last - first_ + 1);
      }

      void clear(int64_t gap) { std::fill_n(tile_.get(), count_ * gap, T(0)); }

      // Fills the strip with rows of outputs.
      template <class Row>
      void read(const Row& row) {
        const auto& taps = of_.reach_of(remainder_, 0).ky;
        for (size_t k = 0; k < taps.size(); ++k) {
          const int64_t at = y_ + how_.padding[1] - taps[k] * how_.dilation[1];
          row(at >= 0 ? at / how_.stride[1] : -1,
              first_,
              wide_,
              strip_.get() + static_cast<int64_t>(k) * wide_ * how_.k);
        }
      }

      // Adds what a strip's gradients say of the pixels.
      void spread(const T* strip,
                  std::vector<Buffer<T>> Reach::* weights,
                  int64_t kd,
                  int64_t gap) {
        for (int64_t j = 0; j < std::min(how_.stride[2], count_); ++j) {
          const int64_t x = x_ + j;
          const Reach& reach = of_.reach_of(remainder_, x % how_.stride[2]);
          taps_.clear();
          for (int64_t k = 0; k < ky_; ++k)
            for (const int64_t kx : reach.kx) {
              const int64_t at = x + how_.padding[2] - kx * how_.dilation[2];  // a multiple
              taps_.push_back((k * wide_ + at / how_.stride[2] - first_) * how_.k);
            }
          if (taps_.empty()) continue;
          of_.of_.loops_.multiply({strip,
                                   how_.k,
                                   taps_.data(),
                                   static_cast<int64_t>(taps_.size()),
                                   how_.k,
                                   (reach.*weights)[kd].get(),
                                   gap / of_.of_.loops_.width,
                                   math::ceil_div(count_ - j, how_.stride[2]),
                                   tile_.get() + j * gap,
                                   how_.stride[2] * gap});
        }
      }

      const Spread& of_;
      const Convolved& how_;
      const VolumeProblem& p_;
      const Gradients<T>& gradients_;
      int64_t most_, pixels_, strip_size_;
      Buffer<T> strip_, sums_, tile_;
      std::vector<int64_t> taps_;
      int64_t y_ = 0, remainder_ = 0, ky_ = 0, x_ = 0, count_ = 0, first_ = 0, wide_ = 0;
    };

   private:
    const Reach& reach_of(int64_t ry, int64_t rx) const {
      return reaches_[ry * how_.stride[2] + rx];
    }

    // The taps of an axis that reach places of a remainder.
    std::vector<int64_t> taps_of(int axis, int64_t remainder) const {
      std::vector<int64_t> found;
      const int64_t step = how_.stride[axis];
      for (int64_t k = 0; k < how_.taps[axis]; ++k) {
        const int64_t at = (remainder + how_.padding[axis] - k * how_.dilation[axis]) % step;
        if (at == 0) found.push_back(k);
      }
      return found;
    }

    Reach reach(int64_t ry, int64_t rx, const T* weight) const {
      Reach reach;
      reach.ky = taps_of(1, ry);
      reach.kx = taps_of(2, rx);
      const int64_t c = p_.c;
      using Group = std::vector<std::vector<int64_t>>;  // first channels that are added
      const auto pack = [&](int64_t kd, const Group& groups, const std::vector<int64_t>& counts) {
        const int64_t width = of_.loops_.width, plane = of_.plane_taps();
        const int64_t taps = how_.taps[0] * plane;
        int64_t blocks = 0;
        for (const int64_t count : counts) blocks += math::ceil_div(count, width);
        auto out = buffer<T>(std::max<int64_t>(
            1, blocks * static_cast<int64_t>(reach.ky.size() * reach.kx.size()) * how_.k * width));
        T* to = out.get();
        for (size_t g = 0; g < groups.size(); ++g)
          for (int64_t first = 0; first < counts[g]; first += width)
            for (const int64_t ky : reach.ky)
              for (const int64_t kx : reach.kx)
                for (int64_t k = 0; k < how_.k; ++k)
                  for (int64_t j = first; j < first + width; ++j, ++to) {
                    *to = 0;
                    if (j >= counts[g]) continue;
                    for (const int64_t channel : groups[g])
                      *to += weight[(k * p_.channels() + channel + j) * taps + kd * plane +
                                    ky * how_.taps[2] + kx];
                  }
        return out;
      };
      for (int64_t kd = 0; kd < how_.taps[0]; ++kd) {
        reach.difference.push_back(pack(kd, {{2 * c}}, {c}));
        reach.linear.push_back(pack(kd, {{0}, {3 * c}}, {c, p_.products()}));
        reach.all.push_back(pack(kd, {{2 * c}, {0}, {3 * c}}, {c, c, p_.products()}));
        reach.constant.push_back(pack(kd, {{0, c}, {3 * c}}, {c, p_.products()}));
        reach.others.push_back(pack(kd, {{c}}, {c}));
      }
      return reach;
    }

    const ConvolutionGradients& of_;
    const VolumeProblem& p_;
    const Convolved& how_;
    int64_t channels_, products_;
    std::vector<Reach> reaches_;
  };

  // ---- of the weight ----

  class Gather {
   public:
    explicit Gather(const ConvolutionGradients& of)
        : of_(of),
          how_(of.how_),
          p_(of.p_),
          columns_(how_.stride[2] * (pixels - 1) + how_.dilation[2] * (how_.taps[2] - 1) + 1),
          strip_(buffer<T>(how_.taps[1] * columns_ * p_.c)),
          scratch_(buffer<T>(columns_ * p_.c)),
          rows_(buffer<T>(pixels * of.padded_)),
          sums_(buffer<T>(2 * how_.taps[0] * pixels * of.padded_)) {
      std::fill_n(rows_.get(), pixels * of.padded_, T(0));
    }

    void row(int64_t y, T* sums) {
      y_ = y;
      to_ = sums;
      for (int64_t x = 0; x < how_.size[2]; x += pixels) {
        x_ = x;
        count_ = std::min(pixels, how_.size[2] - x);
        wide_ = how_.stride[2] * (count_ - 1) + how_.dilation[2] * (how_.taps[2] - 1) + 1;
        for (int64_t i = 0; i < p_.count; ++i)
          for (int64_t m = 0; m < p_.motions; ++m)
            if (i != p_.reference) motion(i, m);
        constants();
      }
    }

   private:
    static constexpr int64_t pixels = 32;  // of a strip

    void motion(int64_t image, int64_t m) {
      const int64_t size = pixels * of_.padded_, taps = how_.taps[0];
      const int64_t down = of_.images_.moves[2 * m], right = of_.images_.moves[2 * m + 1];
      const T* const u = of_.images_.u(image);
      const T* const v = of_.images_.v(image);
      if (of_.hoisted_) std::fill_n(sums_.get(), 2 * taps * size, T(0));
      bool any = false;
      for (int64_t e = 0; e < p_.exposures; ++e) {
        const Moved<T> how = of_.images_.how(e);
        const auto with = [&](Part part) {
          bool made = false;
          of_.each_output(depth_of(p_, {image, m, e}), [&](int64_t kd, int64_t o) {
            if (!made) strip(part, u, v, how, down, right);
            made = any = true;
            of_.output_row(o, y_, x_, count_, of_.padded_, rows_.get());
            add(part, kd, rows_.get());
            if (!of_.hoisted_) return;
            T* const sum = sums_.get() + kd * size;
            const int64_t used = count_ * of_.padded_;
            if (v != nullptr) of_.loops_.add(rows_.get(), T(1), used, sum + taps * size);
            of_.loops_.add(rows_.get(), how.exposure, used, sum);
          });
        };
        with(Part::difference);
        if (of_.hoisted_) continue;
        with(Part::moved);
        with(Part::product);
      }
      if (!of_.hoisted_ || !any) return;
      const Moved<T> plain{Gain::scaled, T(1), T(0)};
      // With a mask, u is not scaled by exposures and v is.
      for (const bool scaled : {true, false}) {
        const T* const part = v == nullptr ? (scaled ? u : nullptr) : (scaled ? v : u);
        if (part == nullptr) continue;
        for (const Part what : {Part::moved, Part::product}) {
          strip(what, part, nullptr, plain, down, right);
          for (int64_t kd = 0; kd < taps; ++kd)
            add(what, kd, sums_.get() + (scaled ? kd : taps + kd) * size);
        }
      }
    }

    void constants() {
      const Moved<T> plain{Gain::scaled, T(1), T(0)};
      const T* const base = of_.images_.base();
      strip(Part::moved, base, nullptr, plain, 0, 0);
      for (int64_t kd = 0; kd < how_.taps[0]; ++kd) {
        of_.constant_row(true, kd, y_, x_, count_, of_.padded_, rows_.get());
        add_at(0, p_.c, kd, rows_.get());
        add_at(p_.c, p_.c, kd, rows_.get());
        of_.constant_row(false, kd, y_, x_, count_, of_.padded_, rows_.get());
        add_at(p_.c, p_.c, kd, rows_.get());
      }
      strip(Part::product, base, nullptr, plain, 0, 0);
      for (int64_t kd = 0; kd < how_.taps[0]; ++kd) {
        of_.constant_row(true, kd, y_, x_, count_, of_.padded_, rows_.get());
        add(Part::product, kd, rows_.get());
      }
    }

    void strip(
        Part part, const T* u, const T* v, const Moved<T>& how, int64_t down, int64_t right) {
      const bool sum = part == Part::product && p_.inner;
      const int64_t channels = sum ? 1 : p_.c;
      for (int64_t ky = 0; ky < how_.taps[1]; ++ky)
        of_.images_.row(part,
                        u,
                        v,
                        how,
                        down,
                        right,
                        y_ * how_.stride[1] - how_.padding[1] + ky * how_.dilation[1],
                        x_ * how_.stride[2] - how_.padding[2],
                        wide_,
                        strip_.get() + ky * wide_ * channels,
                        sum,
                        scratch_.get());
    }

    void add(Part part, int64_t kd, const T* rows) {
      const int64_t first = part == Part::moved        ? 0
                            : part == Part::difference ? 2 * p_.c
                                                       : 3 * p_.c;
      add_at(first, part == Part::product ? p_.products() : p_.c, kd, rows);
    }

    void add_at(int64_t first, int64_t channels, int64_t kd, const T* rows) {
      taps_.clear();
      for (int64_t ky = 0; ky < how_.taps[1]; ++ky)
        for (int64_t kx = 0; kx < how_.taps[2]; ++kx)
          taps_.push_back((ky * wide_ + kx * how_.dilation[2]) * channels);
      const int64_t gap = p_.channels() * of_.padded_;
      of_.loops_.outer({strip_.get(),
                        how_.stride[2] * channels,
                        taps_.data(),
                        of_.plane_taps(),
                        channels,
                        rows,
                        of_.padded_,
                        count_,
                        to_ + kd * of_.plane_taps() * gap + first * of_.padded_,
                        gap});
    }

    const ConvolutionGradients& of_;
    const Convolved& how_;
    const VolumeProblem& p_;
    int64_t columns_;
    Buffer<T> strip_, scratch_, rows_, sums_;
    std::vector<int64_t> taps_;
    T* to_ = nullptr;
    int64_t y_ = 0, x_ = 0, count_ = 0, wide_ = 0;
  };

  const Sampler<T>& images_;
  const VolumeProblem& p_;
  const Convolved& how_;
  const MatchingVolumeLoopsOf<T>& loops_;
  int64_t padded_;
  Storage storage_;
  const char* grad_;
  bool hoisted_ = false;
  Buffer<T> constants_;
};

std::tuple<Tensor, Tensor> matching_conv3d_backward(const Tensor& grad_in,
                                                    const Tensor& features_in,
                                                    const std::optional<Tensor> saturation_in,
                                                    const Tensor& weight_in,
                                                    const Tensor& motions_in,
                                                    const std::vector<double> exposures,
                                                    int64_t reference,
                                                    bool cap,
                                                    double ceiling,
                                                    bool inner,
                                                    const std::vector<int64_t> order,
                                                    bool include_reference,
                                                    const std::vector<int64_t> stride,
                                                    const std::vector<int64_t> padding,
                                                    const std::vector<int64_t> dilation,
                                                    bool wants_features,
                                                    bool wants_weight) {
  const char* const op = "matching_conv3d_backward";
  const VolumeArguments arguments(op,
                                  features_in,
                                  saturation_in,
                                  motions_in,
                                  exposures,
                                  reference,
                                  cap,
                                  ceiling,
                                  inner,
                                  order,
                                  include_reference);
  const VolumeProblem& p = arguments.problem;
  const Convolved how = check_convolution(op, p, features_in, weight_in, stride, padding, dilation);
  check_gradient(op, grad_in, convolved_shape(p, how), features_in);
  const ScalarType dtype = features_in.scalar_type();
  const std::vector<int64_t> none = {0}, of_features = shape_of(features_in);
  const std::vector<int64_t> of_weight = shape_of(weight_in);
  const Tensor grad_features = allocate(wants_features ? of_features : none, dtype, features_in);
  const Tensor grad_weight = allocate(wants_weight ? of_weight : none, dtype, features_in);
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  const Tensor weight = torch::stable::contiguous(weight_in);
  with_compute_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const Storage storage = storage_of(dtype);
    const int64_t size = weight.numel();
    const auto weights = elements_of<T>(weight);
    const auto total = buffer<T>(2 * size);
    std::fill_n(total.get(), size, T(0));
    for (int64_t n = 0; n < p.n; ++n) {
      const Sampler<T> images(arguments, n);
      const ConvolutionGradients<T> of(images, how, grad, n);
      if (wants_features) {
        const Gradients<T> gradients(images);
        of.features(weights.get(), gradients);
        gradients.store(arguments.saturation, n, grad_features);
      }
      if (!wants_weight) continue;
      of.weights(total.get() + size);
      volume_loops<T>().add(total.get() + size, T(1), size, total.get());
    }
    if (wants_weight) store_elements(total.get(), size, grad_weight.mutable_data_ptr(), storage);
  });
  return {grad_features, grad_weight};
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) {
  m.impl("matching_volume_backward", TORCH_BOX(&hdrops::matching_volume_backward));
  m.impl("matching_conv3d_backward", TORCH_BOX(&hdrops::matching_conv3d_backward));
}
