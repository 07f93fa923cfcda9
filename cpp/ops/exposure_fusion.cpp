// exposure_fusion on the CPU (Mertens, Kautz and Van Reeth, "Exposure fusion").
//
// Passes over one image of N, with K exposures of C channels; P is the number of pixels, levels
// above the finest add a third:
//   1. weights: reads K C P codes, writes K P normalised weights.
//   2. pyramids: reads weights and codes, writes a third of K (C + 1) P values.
//   3. collapse, coarse to fine: reads all of these and the next coarser result, writes C P results.
//      No Laplacian pyramid is stored: a band is formed from an image row and the upward-filtered
//      coarser one while it is blended.
// All passes are parallel over rows, and no row depends on how rows fall to threads. The backward
// recomputes 1 and 2.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <memory>
#include <type_traits>

#include "hdrops/exposure_fusion_checks.h"
#include "hdrops/pyramid.h"

namespace hdrops {
namespace {

Storage storage_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte:
      return Storage::u8;
    case ScalarType::UInt16:
      return Storage::u16;
    case ScalarType::Half:
      return Storage::f16;
    case ScalarType::BFloat16:
      return Storage::bf16;
    case ScalarType::Float:
      return Storage::f32;
    default:
      return Storage::f64;
  }
}

int64_t bytes_of(Storage storage) {
  constexpr std::array<int64_t, 6> bytes = {1, 2, 2, 2, 4, 8};
  return bytes[static_cast<size_t>(storage)];
}

// ---- one image ----------------------------------------------------------------------------------

struct Size {
  int64_t height, width;
  int64_t pixels() const { return height * width; }
};

// Runs body(begin, end) over rows in parallel; `work` is the cost of one row in touched values.
template <class Body>
void over_rows(int64_t rows, int64_t work, const Body& body) {
  constexpr int64_t grain = 1 << 16;
  torch::stable::parallel_for(
      0, rows, std::max<int64_t>(1, grain / std::max<int64_t>(work, 1)), body);
}

template <class T>
std::unique_ptr<T[]> buffer(int64_t size) {
  return std::make_unique_for_overwrite<T[]>(static_cast<size_t>(size));
}

template <class T>
class Fusion {
 public:
  Fusion(const FusionProblem& problem, Storage storage, bool backward)
      : problem_(problem), storage_(storage), parameters_(parameters(problem, storage)) {
    Size size{problem.h, problem.w};
    const int32_t depth = math::pyramid_depth(problem.h, problem.w);
    for (int32_t level = 0; level <= depth; ++level) {
      sizes_.push_back(size);
      if (level == depth) break;
      steps_.emplace_back(size.height, size.width, backward);
      size = {math::coarse_size(size.height), math::coarse_size(size.width)};
    }
  }

  int32_t depth() const { return static_cast<int32_t>(steps_.size()); }

  // Values of the pyramids of one image: weights of all levels, images and results of all but the
  // finest.
  int64_t pyramid_size() const {
    int64_t total = 0;
    for (size_t level = 0; level < sizes_.size(); ++level) {
      total +=
          sizes_[level].pixels() * (problem_.k + (level > 0 ? (problem_.k + 1) * problem_.c : 0));
    }
    return total;
  }

  // Binds one image and its scratch, and builds the pyramids.
  void build(const char* bracket, T* scratch) {
    bracket_ = bracket;
    weights_.assign(sizes_.size(), nullptr);
    images_.assign(sizes_.size(), nullptr);
    results_.assign(sizes_.size(), nullptr);
    for (size_t level = 0; level < sizes_.size(); ++level) {
      weights_[level] = scratch;
      scratch += problem_.k * sizes_[level].pixels();
      if (level == 0) continue;
      images_[level] = scratch;
      scratch += problem_.k * problem_.c * sizes_[level].pixels();
      results_[level] = scratch;
      scratch += problem_.c * sizes_[level].pixels();
    }
    weigh();
    for (int32_t level = 0; level < depth(); ++level) descend(level);
  }

  // Collapses the pyramid; finish(channel, y, row) receives the rows of the result in [0, 1] units.
  template <class Finish>
  void collapse(const Finish& finish) {
    for (int32_t level = depth(); level >= 0; --level) {
      const Size size = sizes_[static_cast<size_t>(level)];
      over_rows(size.height,
                size.width * problem_.c * (problem_.k + 1) * 4,
                [&](int64_t begin, int64_t end) {
                  const Rows rows(*this, level);
                  const auto sum = buffer<T>(size.width), coarse = buffer<T>(size.width);
                  for (int64_t y = begin; y < end; ++y) {
                    for (int64_t c = 0; c < problem_.c; ++c) {
                      if (level < depth()) {
                        filtered_row<T>(
                            up(level), plane(results_, level + 1, c), y, rows.scratch(), sum.get());
                      } else {
                        std::fill_n(sum.get(), size.width, T(0));
                      }
                      for (int64_t k = 0; k < problem_.k; ++k) {
                        fusion_loops<T>().blend(weight_row(level, k, y),
                                                rows.image(k, c, y),
                                                band_base(level, k, c, y, rows, coarse.get()),
                                                size.width,
                                                sum.get());
                      }
                      if (level > 0)
                        std::copy_n(
                            sum.get(), size.width, plane(results_, level, c) + y * size.width);
                      else
                        finish(c, y, sum.get());
                    }
                  }
                });
    }
  }

  // Gradient of the bracket in [0, 1] units times `unit` of the storage; `grad` is (C, H, W) in [0,
  // 1] units. `adjoint` holds adjoint_size() values.
  int64_t adjoint_size() const {
    int64_t total = 2 * problem_.k * sizes_[0].pixels();
    for (size_t level = 1; level < sizes_.size(); ++level) {
      total += sizes_[level].pixels() * (problem_.c + problem_.k + problem_.k * problem_.c);
    }
    return total;
  }

  template <class Finish>
  void differentiate(const T* grad, T* adjoint, const Finish& finish) {
    const size_t levels = sizes_.size();
    std::vector<T*> result_grads(levels), weight_grads(levels), image_grads(levels);
    for (size_t level = 0; level < levels; ++level) {
      weight_grads[level] = adjoint;
      adjoint += problem_.k * sizes_[level].pixels();
      if (level == 0) continue;
      result_grads[level] = adjoint;
      adjoint += problem_.c * sizes_[level].pixels();
      image_grads[level] = adjoint;
      adjoint += problem_.k * problem_.c * sizes_[level].pixels();
    }
    T* laplacian_grads = adjoint;

    // Of the collapse: the gradient of a coarser result is the adjoint of the upward filter.
    const auto result_grad = [&](int32_t level, int64_t c) {
      return level == 0 ? grad + c * sizes_[0].pixels()
                        : static_cast<const T*>(plane(result_grads, level, c));
    };
    for (int32_t level = 0; level < depth(); ++level) {
      resample(*steps_[static_cast<size_t>(level)].up_adjoint,
               problem_.c,
               sizes_[static_cast<size_t>(level)].pixels(),
               level == 0 ? grad : result_grads[static_cast<size_t>(level)],
               level + 1,
               result_grads[static_cast<size_t>(level) + 1]);
    }

    // Of the bands and of both Gaussian pyramids, coarse to fine; the finest images follow below.
    for (int32_t level = depth(); level >= 0; --level) {
      const Size size = sizes_[static_cast<size_t>(level)];
      over_rows(size.height,
                size.width * problem_.k * (problem_.c + 1) * 6,
                [&](int64_t begin, int64_t end) {
                  const Rows rows(*this, level);
                  const auto coarse = buffer<T>(size.width);
                  for (int64_t y = begin; y < end; ++y) {
                    for (int64_t k = 0; k < problem_.k; ++k) {
                      T* weight_grad = plane(weight_grads, level, k) + y * size.width;
                      if (level < depth()) {
                        filtered_row<T>(*steps_[static_cast<size_t>(level)].down_adjoint,
                                        plane(weight_grads, level + 1, k),
                                        y,
                                        rows.scratch(),
                                        weight_grad);
                      } else {
                        std::fill_n(weight_grad, size.width, T(0));
                      }
                      for (int64_t c = 0; c < problem_.c; ++c) {
                        fusion_loops<T>().blend(result_grad(level, c) + y * size.width,
                                                rows.image(k, c, y),
                                                band_base(level, k, c, y, rows, coarse.get()),
                                                size.width,
                                                weight_grad);
                        if (level > 0) {
                          T* to = plane(image_grads, level, k * problem_.c + c) + y * size.width;
                          image_grad_row(
                              level, k, c, y, result_grad, image_grads, rows, coarse.get(), to);
                        }
                      }
                    }
                  }
                });
    }

    weigh_backward(weight_grads[0], laplacian_grads);

    // Finest images: bands, Gaussian pyramid, and the three measures.
    const Size size = sizes_[0];
    over_rows(
        size.height, size.width * problem_.k * problem_.c * 12, [&](int64_t begin, int64_t end) {
          const Rows rows(*this, 0);
          const GreyRows greys(*this);
          const auto coarse = buffer<T>(size.width), unused = buffer<T>(size.width);
          const auto channels = buffer<T>(3 * size.width);
          T* const to[3] = {
              channels.get(), channels.get() + size.width, channels.get() + 2 * size.width};
          for (int64_t k = 0; k < problem_.k; ++k) {
            const T* laplacian = laplacian_grads + k * size.pixels();
            for (int64_t y = begin; y < end; ++y) {
              for (int64_t c = 0; c < problem_.c; ++c) {
                image_grad_row(0, k, c, y, result_grad, image_grads, rows, coarse.get(), to[c]);
              }
              fusion_loops<T>().weights_grad(greys.at(k, y, y == begin),
                                             weight_grads[0] + k * size.pixels() + y * size.width,
                                             size.width,
                                             parameters_,
                                             to,
                                             unused.get());
              const bool single = size.height == 1;
              const int64_t above = single ? y : y - 1, below = y + 1;
              fusion_loops<T>().contrast_grad(
                  laplacian + std::max<int64_t>(above, 0) * size.width,
                  single   ? T(2)
                  : y == 0 ? T(0)
                  : y == 1 ? T(2)
                           : T(1),
                  laplacian + y * size.width,
                  laplacian + std::min(below, size.height - 1) * size.width,
                  below >= size.height   ? T(0)
                  : y == size.height - 2 ? T(2)
                                         : T(1),
                  size.width,
                  problem_.c,
                  parameters_,
                  to);
              for (int64_t c = 0; c < problem_.c; ++c) finish(k, c, y, to[c]);
            }
          }
        });
  }

 private:
  static math::FusionParameters<T> parameters(const FusionProblem& p, Storage storage) {
    const T unit = storage == Storage::u8    ? T(1.0 / 255)
                   : storage == Storage::u16 ? T(1.0 / 65535)
                                             : T(1);
    return {static_cast<T>(p.contrast),
            static_cast<T>(p.saturation),
            static_cast<T>(p.exposedness),
            p.opencv,
            unit};
  }

  const typename Step<T>::Pair& up(int32_t level) const {
    return steps_[static_cast<size_t>(level)].up;
  }

  T* plane(const std::vector<T*>& levels, int32_t level, int64_t index) const {
    return levels[static_cast<size_t>(level)] + index * sizes_[static_cast<size_t>(level)].pixels();
  }

  const T* weight_row(int32_t level, int64_t k, int64_t y) const {
    return plane(weights_, level, k) + y * sizes_[static_cast<size_t>(level)].width;
  }

  void load(int64_t k, int64_t c, int64_t y, T scale, T* out) const {
    const int64_t offset =
        ((k * problem_.c + c) * problem_.h + y) * problem_.w * bytes_of(storage_);
    fusion_loops<T>().load(bracket_ + offset, storage_, problem_.w, scale, out);
  }

  // Image rows of one level in [0, 1] units; those of the finest are loaded from the bracket when
  // asked for.
  class Rows {
   public:
    Rows(const Fusion& fusion, int32_t level)
        : fusion_(fusion),
          level_(level),
          row_(buffer<T>(fusion.problem_.w)),
          scratch_(buffer<T>(fusion.problem_.w)) {}

    const T* image(int64_t k, int64_t c, int64_t y) const {
      if (level_ > 0) {
        return fusion_.plane(fusion_.images_, level_, k * fusion_.problem_.c + c) +
               y * fusion_.sizes_[static_cast<size_t>(level_)].width;
      }
      fusion_.load(k, c, y, fusion_.parameters_.unit, row_.get());
      return row_.get();
    }

    T* scratch() const { return scratch_.get(); }

   private:
    const Fusion& fusion_;
    int32_t level_;
    std::unique_ptr<T[]> row_, scratch_;
  };

  // What is subtracted from an image row to get its band: the coarser level, filtered upward; null
  // at the coarsest.
  const T* band_base(
      int32_t level, int64_t k, int64_t c, int64_t y, const Rows& rows, T* out) const {
    if (level == depth()) return nullptr;
    filtered_row<T>(
        up(level), plane(images_, level + 1, k * problem_.c + c), y, rows.scratch(), out);
    return out;
  }

  // Raw rows and rolling grey rows for the weights of all exposures.
  class GreyRows {
   public:
    explicit GreyRows(const Fusion& fusion)
        : fusion_(fusion),
          stride_(fusion.problem_.w + 2),
          greys_(buffer<T>(fusion.problem_.k * 3 * stride_)),
          raw_(buffer<T>(3 * fusion.problem_.w)) {}

    // Rows around y of exposure k. `fresh` loads all three grey rows; otherwise y is the successor
    // of the last one.
    WeightRows<T> at(int64_t k, int64_t y, bool fresh) const {
      const int64_t height = fusion_.problem_.h;
      if (fresh) {
        make(k, math::mirror(y - 1, height), y - 1);
        make(k, y, y);
      }
      make(k, math::mirror(y + 1, height), y + 1);
      WeightRows<T> rows{slot(k, y - 1), slot(k, y), slot(k, y + 1), {}, fusion_.problem_.c};
      load(k, y);
      for (int64_t c = 0; c < 3; ++c) rows.channels[c] = raw_.get() + c * fusion_.problem_.w;
      return rows;
    }

   private:
    T* slot(int64_t k, int64_t y) const {
      return greys_.get() + (k * 3 + (y + 3) % 3) * stride_ + 1;
    }

    void load(int64_t k, int64_t y) const {
      for (int64_t c = 0; c < fusion_.problem_.c; ++c) {
        fusion_.load(k, c, y, T(1), raw_.get() + c * fusion_.problem_.w);
      }
    }

    void make(int64_t k, int64_t from, int64_t to) const {
      load(k, from);
      const int64_t width = fusion_.problem_.w;
      const T* const channels[3] = {raw_.get(), raw_.get() + width, raw_.get() + 2 * width};
      fusion_loops<T>().grey(channels, fusion_.problem_.c, width, fusion_.parameters_, slot(k, to));
    }

    const Fusion& fusion_;
    int64_t stride_;
    std::unique_ptr<T[]> greys_, raw_;
  };

  void weigh() {
    const Size size = sizes_[0];
    over_rows(
        size.height, size.width * problem_.k * problem_.c * 8, [&](int64_t begin, int64_t end) {
          const GreyRows greys(*this);
          std::vector<T*> rows(static_cast<size_t>(problem_.k));
          for (int64_t y = begin; y < end; ++y) {
            for (int64_t k = 0; k < problem_.k; ++k) {
              rows[static_cast<size_t>(k)] = plane(weights_, 0, k) + y * size.width;
              fusion_loops<T>().weights(greys.at(k, y, y == begin),
                                        size.width,
                                        parameters_,
                                        rows[static_cast<size_t>(k)]);
            }
            fusion_loops<T>().normalise(rows.data(), problem_.k, size.width);
          }
        });
  }

  // Gradients of normalised weights (K, H, W) become those of unnormalised weights in place, and
  // the gradients of the Laplacians (K, H, W) are written.
  void weigh_backward(T* weight_grads, T* laplacian_grads) {
    const Size size = sizes_[0];
    over_rows(
        size.height, size.width * problem_.k * problem_.c * 12, [&](int64_t begin, int64_t end) {
          const GreyRows greys(*this);
          const auto unnormalised = buffer<T>(problem_.k * size.width);
          const auto unused = buffer<T>(3 * size.width);
          T* const discard[3] = {
              unused.get(), unused.get() + size.width, unused.get() + 2 * size.width};
          std::fill_n(unused.get(), 3 * size.width, T(0));
          std::vector<const T*> weights(static_cast<size_t>(problem_.k));
          std::vector<T*> grads(static_cast<size_t>(problem_.k));
          for (int64_t y = begin; y < end; ++y) {
            // The weights need every exposure before any gradient does: two rounds over the rows at
            // hand.
            for (int64_t k = 0; k < problem_.k; ++k) {
              T* to = unnormalised.get() + k * size.width;
              fusion_loops<T>().weights(greys.at(k, y, y == begin), size.width, parameters_, to);
              weights[static_cast<size_t>(k)] = to;
              grads[static_cast<size_t>(k)] = weight_grads + k * size.pixels() + y * size.width;
            }
            fusion_loops<T>().normalise_grad(weights.data(), grads.data(), problem_.k, size.width);
            for (int64_t k = 0; k < problem_.k; ++k) {
              fusion_loops<T>().weights_grad(greys.at(k, y, false),
                                             grads[static_cast<size_t>(k)],
                                             size.width,
                                             parameters_,
                                             discard,
                                             laplacian_grads + k * size.pixels() + y * size.width);
            }
          }
        });
  }

  // Planes of the next coarser level from those of this one, or their adjoint counterpart.
  void resample(const typename Step<T>::Pair& filter,
                int64_t planes,
                int64_t from_stride,
                const T* from,
                int32_t to_level,
                T* to) const {
    const Size size = sizes_[static_cast<size_t>(to_level)];
    over_rows(planes * size.height, size.width * 8, [&](int64_t begin, int64_t end) {
      const auto scratch = buffer<T>(filter.columns.view().inputs);
      for (int64_t i = begin; i < end; ++i) {
        filtered_row<T>(filter,
                        from + i / size.height * from_stride,
                        i % size.height,
                        scratch.get(),
                        to + i * size.width);
      }
    });
  }

  void descend(int32_t level) {
    const auto here = static_cast<size_t>(level), next = here + 1;
    const typename Step<T>::Pair& down = steps_[here].down;
    const int64_t pixels = sizes_[here].pixels();
    resample(down, problem_.k, pixels, weights_[here], level + 1, weights_[next]);
    if (level > 0) {
      resample(down, problem_.k * problem_.c, pixels, images_[here], level + 1, images_[next]);
      return;
    }
    // From codes: the rows under the filter are loaded into a ring of five.
    const Size size = sizes_[next];
    over_rows(
        problem_.k * problem_.c * size.height, problem_.w * 8, [&](int64_t begin, int64_t end) {
          const auto ring = buffer<T>(6 * problem_.w);
          std::array<int64_t, 5> held;
          held.fill(-1);
          const AxisFilter<T> rows = down.rows.view(), columns = down.columns.view();
          for (int64_t i = begin; i < end; ++i) {
            const int64_t image = i / size.height, y = i % size.height;
            std::array<Tap<T>, 5> taps;
            const int64_t first = rows.begin[y], count = rows.begin[y + 1] - first;
            for (int64_t t = 0; t < count; ++t) {
              const Tap<T>& tap = rows.taps[first + t];
              const int64_t slot = tap.index % 5, key = image * problem_.h + tap.index;
              if (held[static_cast<size_t>(slot)] != key) {
                load(image / problem_.c,
                     image % problem_.c,
                     tap.index,
                     parameters_.unit,
                     ring.get() + slot * problem_.w);
                held[static_cast<size_t>(slot)] = key;
              }
              taps[static_cast<size_t>(t)] = {slot, tap.weight};
            }
            T* combined = ring.get() + 5 * problem_.w;
            fusion_loops<T>().combine(
                ring.get(), problem_.w, taps.data(), count, problem_.w, combined);
            fusion_loops<T>().filter(columns, combined, images_[next] + i * size.width);
          }
        });
  }

  // Gradient of row y of an image of one level: its own band, less the finer band's share, plus the
  // Gaussian pyramid's.
  template <class ResultGrad>
  void image_grad_row(int32_t level,
                      int64_t k,
                      int64_t c,
                      int64_t y,
                      const ResultGrad& result_grad,
                      const std::vector<T*>& image_grads,
                      const Rows& rows,
                      T* scratch,
                      T* out) const {
    const int64_t width = sizes_[static_cast<size_t>(level)].width;
    fusion_loops<T>().product(
        weight_row(level, k, y), result_grad(level, c) + y * width, width, out);
    if (level > 0) subtract_finer_band(level, k, c, y, result_grad, scratch, out);
    if (level < depth()) {
      filtered_row<T>(*steps_[static_cast<size_t>(level)].down_adjoint,
                      plane(image_grads, level + 1, k * problem_.c + c),
                      y,
                      rows.scratch(),
                      scratch);
      fusion_loops<T>().add(scratch, T(1), width, out);
    }
  }

  // out -= row y of up-adjoint(weights of the finer level * result gradient of the finer level).
  template <class ResultGrad>
  void subtract_finer_band(int32_t level,
                           int64_t k,
                           int64_t c,
                           int64_t y,
                           const ResultGrad& result_grad,
                           T* scratch,
                           T* out) const {
    const Size finer = sizes_[static_cast<size_t>(level) - 1];
    const typename Step<T>::Pair& filter = *steps_[static_cast<size_t>(level) - 1].up_adjoint;
    const AxisFilter<T> rows = filter.rows.view();
    const auto products = buffer<T>(finer.width), combined = buffer<T>(finer.width);
    std::fill_n(combined.get(), finer.width, T(0));
    for (int64_t t = rows.begin[y]; t < rows.begin[y + 1]; ++t) {
      const int64_t at = rows.taps[t].index;
      fusion_loops<T>().product(weight_row(level - 1, k, at),
                                result_grad(level - 1, c) + at * finer.width,
                                finer.width,
                                products.get());
      fusion_loops<T>().add(products.get(), rows.taps[t].weight, finer.width, combined.get());
    }
    fusion_loops<T>().filter(filter.columns.view(), combined.get(), scratch);
    fusion_loops<T>().add(scratch, T(-1), sizes_[static_cast<size_t>(level)].width, out);
  }

  FusionProblem problem_;
  Storage storage_;
  math::FusionParameters<T> parameters_;
  std::vector<Size> sizes_;
  std::vector<Step<T>> steps_;
  const char* bracket_ = nullptr;
  std::vector<T*> weights_, images_, results_;
};

// ---- all images ---------------------------------------------------------------------------------

// Small images of a batch go to threads one by one; large ones share all threads.
template <class Body>
void over_images(const FusionProblem& p, const Body& body) {
  constexpr int64_t large = 1 << 18;
  if (p.h * p.w >= large || p.n == 1) return body(0, p.n);
  torch::stable::parallel_for(0, p.n, 1, body);
}

template <class T>
void fuse_images(const FusionProblem& p, const Tensor& bracket, const Tensor& out) {
  const Storage in = storage_of(bracket.scalar_type()), to = storage_of(out.scalar_type());
  const int64_t image_bytes = p.k * p.c * p.h * p.w * bytes_of(in);
  const int64_t row_bytes = p.w * bytes_of(to);
  over_images(p, [&](int64_t begin, int64_t end) {
    Fusion<T> fusion(p, in, false);
    const Tensor scratch =
        allocate({fusion.pyramid_size()}, compute_dtype(bracket.scalar_type()), bracket);
    for (int64_t n = begin; n < end; ++n) {
      fusion.build(static_cast<const char*>(bracket.const_data_ptr()) + n * image_bytes,
                   scratch.mutable_data_ptr<T>());
      fusion.collapse([&](int64_t c, int64_t y, const T* row) {
        char* target =
            static_cast<char*>(out.mutable_data_ptr()) + ((n * p.c + c) * p.h + y) * row_bytes;
        fusion_loops<T>().store(row, to, p.w, !p.opencv, target);
      });
    }
  });
}

void fuse_into(const FusionProblem& p, const Tensor& bracket_in, const Tensor& out) {
  const Tensor bracket = torch::stable::contiguous(bracket_in);
  if (out.numel() == 0) return;
  if (bracket.scalar_type() == ScalarType::Double)
    fuse_images<double>(p, bracket, out);
  else
    fuse_images<float>(p, bracket, out);
}

Tensor exposure_fusion(const Tensor& bracket,
                       double contrast,
                       double saturation,
                       double exposedness,
                       bool opencv,
                       std::optional<ScalarType> dtype) {
  const FusionProblem p = check_fusion(bracket, contrast, saturation, exposedness, opencv);
  const ScalarType type = check_output_dtype("exposure_fusion", bracket.scalar_type(), dtype);
  const Tensor out = allocate({p.n, p.c, p.h, p.w}, type, bracket);
  fuse_into(p, bracket, out);
  return out;
}

void exposure_fusion_out(const Tensor& bracket,
                         double contrast,
                         double saturation,
                         double exposedness,
                         bool opencv,
                         Tensor out) {
  const FusionProblem p = check_fusion(bracket, contrast, saturation, exposedness, opencv);
  check_out("exposure_fusion", out, {p.n, p.c, p.h, p.w}, bracket);
  check_output_dtype("exposure_fusion", bracket.scalar_type(), out.scalar_type());
  fuse_into(p, bracket, out);
}

template <class T>
void backward_images(const FusionProblem& p,
                     const Tensor& grad,
                     const Tensor& bracket,
                     const Tensor& out) {
  const Storage storage = storage_of(bracket.scalar_type());
  const int64_t pixels = p.h * p.w;
  over_images(p, [&](int64_t begin, int64_t end) {
    Fusion<T> fusion(p, storage, true);
    const ScalarType type = compute_dtype(bracket.scalar_type());
    const Tensor scratch = allocate({fusion.pyramid_size()}, type, bracket);
    const Tensor adjoint = allocate({fusion.adjoint_size()}, type, bracket);
    const Tensor masked = allocate({p.c * pixels}, type, bracket);
    for (int64_t n = begin; n < end; ++n) {
      const T* from = grad.const_data_ptr<T>() + n * p.c * pixels;
      T* upstream = masked.mutable_data_ptr<T>();
      fusion.build(static_cast<const char*>(bracket.const_data_ptr()) +
                       n * p.k * p.c * pixels * bytes_of(storage),
                   scratch.mutable_data_ptr<T>());
      if (p.opencv) {
        std::copy_n(from, p.c * pixels, upstream);
      } else {
        fusion.collapse([&](int64_t c, int64_t y, const T* row) {
          const int64_t at = c * pixels + y * p.w;
          for (int64_t x = 0; x < p.w; ++x) {
            upstream[at + x] = row[x] < T(0) || row[x] > T(1) ? T(0) : from[at + x];
          }
        });
      }
      T* to = out.mutable_data_ptr<T>() + n * p.k * p.c * pixels;
      fusion.differentiate(upstream,
                           adjoint.mutable_data_ptr<T>(),
                           [&](int64_t k, int64_t c, int64_t y, const T* row) {
                             std::copy_n(row, p.w, to + (k * p.c + c) * pixels + y * p.w);
                           });
    }
  });
}

Tensor exposure_fusion_backward(const Tensor& grad_in,
                                const Tensor& bracket_in,
                                double contrast,
                                double saturation,
                                double exposedness,
                                bool opencv) {
  const FusionProblem p = check_fusion(bracket_in, contrast, saturation, exposedness, opencv);
  const ScalarType type = check_fusion_grad(p, grad_in, bracket_in);
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, type));
  const Tensor bracket = torch::stable::contiguous(bracket_in);
  const Tensor out = allocate(shape_of(bracket), type, bracket);
  if (bracket.numel() > 0) {
    if (type == ScalarType::Double)
      backward_images<double>(p, grad, bracket, out);
    else
      backward_images<float>(p, grad, bracket, out);
  }
  return type == bracket.scalar_type() ? out : torch::stable::to(out, bracket.scalar_type());
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) {
  m.impl("exposure_fusion", TORCH_BOX(&hdrops::exposure_fusion));
  m.impl("exposure_fusion_out", TORCH_BOX(&hdrops::exposure_fusion_out));
  m.impl("exposure_fusion_backward", TORCH_BOX(&hdrops::exposure_fusion_backward));
}
