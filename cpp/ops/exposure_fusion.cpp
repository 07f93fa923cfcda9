// exposure_fusion on the CPU (Mertens, Kautz and Van Reeth, "Exposure fusion").
//
// Passes over one image of N, with K exposures of C channels of b bytes and P pixels:
//   1. codes to the second level of weights and images: reads K C b P, writes K (C + 1) P / 4 values.
//      Codes and weights of the finest level live in rings of a few rows.
//   2. the levels above, down and up.
//   3. the finest result: reads K C b P and the second level, writes C P results. Weights are formed
//      again, row by row, which costs less than storing K P of them, and half the memory.
// No Laplacian pyramid is stored: a band is formed from an image row and the upward-filtered coarser
// one while it is blended. The passes over the finest level go down strips of columns, so that the
// rows at work stay in the cache whatever the width. All are parallel over rows, and no row depends
// on how rows and strips fall to threads. The backward stores the finest weights.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <memory>
#include <type_traits>

#include "hdrops/buffer.h"
#include "hdrops/exposure_fusion_checks.h"
#include "hdrops/pyramid.h"

namespace hdrops {
namespace {

// ---- one image ----------------------------------------------------------------------------------

// `pitch` is from row to row. Tensors have none to spare, the pyramid's own rows begin with a cache
// line.
struct Size {
  int64_t height, width, pitch;
  int64_t pixels() const { return height * pitch; }
};

int64_t rounded_up(int64_t values) { return math::rounded_up(values, lane); }

// Runs body(begin, end) over rows in parallel; `work` is the cost of one row in touched values.
template <class Body>
void over_rows(int64_t rows, int64_t work, const Body& body) {
  constexpr int64_t grain = 1 << 16;
  torch::stable::parallel_for(
      0, rows, std::max<int64_t>(1, grain / std::max<int64_t>(work, 1)), body);
}

// Strips of about equal width that cover `width` columns, each from a multiple of `lane`.
class Strips {
 public:
  Strips(int64_t width, int64_t widest) : width_(width) {
    const int64_t wanted = (width + widest - 1) / widest;
    each_ = rounded_up((width + wanted - 1) / wanted);
    count_ = (width + each_ - 1) / each_;
  }
  int64_t count() const { return count_; }
  int64_t widest() const { return each_; }
  Range operator[](int64_t i) const { return {i * each_, std::min(width_, (i + 1) * each_)}; }

 private:
  int64_t width_, count_, each_;
};

// Down all strips in parallel: row(state, strip, y), with one make() state per thread; `work` is the
// cost of one row of a strip in touched values.
template <class Make, class Row>
void over_strips(
    const Strips& strips, int64_t rows, int64_t work, const Make& make, const Row& row) {
  over_rows(strips.count() * rows, work, [&](int64_t begin, int64_t end) {
    auto state = make();
    for (int64_t i = begin; i < end; ++i) row(state, strips[i / rows], i % rows);
  });
}

template <class T>
class Fusion {
 public:
  Fusion(const FusionProblem& problem, Storage storage, bool backward)
      : problem_(problem),
        storage_(storage),
        parameters_(parameters(problem, storage)),
        backward_(backward) {
    Size size{problem.h, problem.w, problem.w};
    const int32_t depth = math::pyramid_depth(problem.h, problem.w);
    for (int32_t level = 0; level <= depth; ++level) {
      sizes_.push_back(size);
      if (level == depth) break;
      steps_.emplace_back(size.height, size.width, backward);
      const int64_t width = math::coarse_size(size.width);
      size = {math::coarse_size(size.height), width, rounded_up(width)};
    }
  }

  int32_t depth() const { return static_cast<int32_t>(steps_.size()); }

  // Values of the pyramids of one image: weights, images and results of all levels but the finest;
  // for the backward also the finest weights.
  int64_t pyramid_size() const {
    int64_t total = backward_ ? problem_.k * sizes_[0].pixels() : 0;
    for (size_t level = 1; level < sizes_.size(); ++level) {
      total += sizes_[level].pixels() * (problem_.k + (problem_.k + 1) * problem_.c);
    }
    return total;
  }

  // Binds one image and its scratch, and builds the pyramids.
  void build(const char* bracket, T* scratch) {
    bracket_ = bracket;
    weights_.assign(sizes_.size(), nullptr);
    images_.assign(sizes_.size(), nullptr);
    results_.assign(sizes_.size(), nullptr);
    for (size_t level = 1; level < sizes_.size(); ++level) {
      weights_[level] = scratch;
      scratch += problem_.k * sizes_[level].pixels();
      images_[level] = scratch;
      scratch += problem_.k * problem_.c * sizes_[level].pixels();
      results_[level] = scratch;
      scratch += problem_.c * sizes_[level].pixels();
    }
    if (backward_) weights_[0] = scratch;
    if (depth() > 0)
      descend_finest();
    else if (backward_)
      store_weights();
    for (int32_t level = 1; level < depth(); ++level) {
      const auto here = static_cast<size_t>(level), next = here + 1;
      const typename Step<T>::Pair& down = steps_[here].down;
      resample(down, problem_.k, weights_[here], level + 1, weights_[next]);
      resample(down, problem_.k * problem_.c, images_[here], level + 1, images_[next]);
    }
  }

  // Collapses the pyramid; finish(channel, y, columns, row) receives the results of a piece of a row,
  // in [0, 1] units.
  template <class Finish>
  void collapse(const Finish& finish) {
    for (int32_t level = depth(); level > 0; --level) {
      const Size size = sizes_[static_cast<size_t>(level)];
      over_rows(size.height,
                size.width * problem_.c * (problem_.k + 1) * 4,
                [&](int64_t begin, int64_t end) {
                  const auto scratch = buffer<T>(size.width);
                  Bases bases(*this, size.width);
                  std::vector<const T*> weights(static_cast<size_t>(problem_.k)),
                      images(static_cast<size_t>(problem_.k));
                  for (int64_t y = begin; y < end; ++y) {
                    for (int64_t c = 0; c < problem_.c; ++c) {
                      T* sum = plane(results_, level, c) + y * size.pitch;
                      start_sum(level, c, y, whole(level), scratch.get(), sum);
                      for (int64_t k = 0; k < problem_.k; ++k) {
                        weights[static_cast<size_t>(k)] = weight_row(level, k, y);
                        images[static_cast<size_t>(k)] =
                            plane(images_, level, k * problem_.c + c) + y * size.pitch;
                      }
                      fusion_loops<T>().blend(weights.data(),
                                              images.data(),
                                              T(1),
                                              bases.rows(level, c, y, whole(level), scratch.get()),
                                              problem_.k,
                                              size.width,
                                              sum);
                    }
                  }
                });
    }
    collapse_finest(finish);
  }

  // Gradient of the bracket in [0, 1] units, (K, C, H, W), to `out`; `grad` is (C, H, W) in [0, 1]
  // units. `adjoint` holds adjoint_size() values.
  int64_t adjoint_size() const {
    int64_t total = problem_.k * sizes_[0].pixels();
    for (size_t level = 1; level < sizes_.size(); ++level) {
      total += sizes_[level].pixels() * (problem_.c + problem_.k + problem_.k * problem_.c);
    }
    return total;
  }

  void differentiate(const T* grad, T* adjoint, T* out) {
    const size_t levels = sizes_.size();
    std::vector<T*> result_grads(levels), weight_grads(levels), image_grads(levels);
    for (size_t level = 1; level < levels; ++level) {
      weight_grads[level] = adjoint;
      adjoint += problem_.k * sizes_[level].pixels();
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
               level == 0 ? grad : result_grads[static_cast<size_t>(level)],
               level + 1,
               result_grads[static_cast<size_t>(level) + 1]);
    }

    // Of the bands and of both Gaussian pyramids, coarse to fine; the finest level follows below.
    for (int32_t level = depth(); level > 0; --level) {
      const Size size = sizes_[static_cast<size_t>(level)];
      over_rows(size.height,
                size.width * problem_.k * (problem_.c + 1) * 6,
                [&](int64_t begin, int64_t end) {
                  const auto coarse = buffer<T>(size.width), scratch = buffer<T>(size.width);
                  for (int64_t y = begin; y < end; ++y) {
                    for (int64_t k = 0; k < problem_.k; ++k) {
                      T* weight_grad = plane(weight_grads, level, k) + y * size.pitch;
                      start_weight_grad(level, k, y, weight_grads, scratch.get(), weight_grad);
                      for (int64_t c = 0; c < problem_.c; ++c) {
                        const int64_t at = k * problem_.c + c;
                        add_band(plane(result_grads, level, c) + y * size.pitch,
                                 plane(images_, level, at) + y * size.pitch,
                                 T(1),
                                 band_base(level, at, y, whole(level), scratch.get(), coarse.get()),
                                 size.width,
                                 weight_grad);
                        image_grad_row(level,
                                       k,
                                       c,
                                       y,
                                       result_grad,
                                       image_grads,
                                       scratch.get(),
                                       coarse.get(),
                                       plane(image_grads, level, at) + y * size.pitch);
                      }
                    }
                  }
                });
    }
    differentiate_weights(result_grad, weight_grads, laplacian_grads, out);

    // Finest images: bands, Gaussian pyramid, and the contrast, which needs its neighbours.
    const Size size = sizes_[0];
    over_rows(
        size.height, size.width * problem_.k * problem_.c * 8, [&](int64_t begin, int64_t end) {
          const auto coarse = buffer<T>(size.width), scratch = buffer<T>(size.width),
                     bands = buffer<T>(size.width);
          for (int64_t k = 0; k < problem_.k; ++k) {
            const T* laplacian = laplacian_grads + k * size.pixels();
            for (int64_t y = begin; y < end; ++y) {
              T* to[3] = {};
              for (int64_t c = 0; c < problem_.c; ++c) {
                to[c] = out + (k * problem_.c + c) * size.pixels() + y * size.width;
                image_grad_row(
                    0, k, c, y, result_grad, image_grads, scratch.get(), coarse.get(), bands.get());
                fusion_loops<T>().add(bands.get(), T(1), size.width, to[c]);
              }
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
    return plane(weights_, level, k) + y * sizes_[static_cast<size_t>(level)].pitch;
  }

  Range whole(int32_t level) const { return {0, sizes_[static_cast<size_t>(level)].width}; }

  void load(int64_t k, int64_t c, int64_t y, Range columns, T scale, T* out) const {
    const int64_t at = ((k * problem_.c + c) * problem_.h + y) * problem_.w + columns.begin;
    const int64_t bytes = bytes_of(storage_);
    const char* const row = bracket_ + at * bytes;
    if (y + 1 < problem_.h) prefetch<0>(row + problem_.w * bytes, columns.width() * bytes);
    fusion_loops<T>().load(row, storage_, columns.width(), scale, out);
  }

  const typename Step<T>::Pair& down_adjoint(int32_t level) const {
    return *steps_[static_cast<size_t>(level)].down_adjoint;
  }

  // A piece of row y of one level, filtered from a plane of the next coarser one.
  void from_coarser(int32_t level,
                    const typename Step<T>::Pair& filter,
                    const std::vector<T*>& pyramid,
                    int64_t index,
                    int64_t y,
                    Range columns,
                    T* scratch,
                    T* out) const {
    filtered_row<T>(filter,
                    plane(pyramid, level + 1, index),
                    sizes_[static_cast<size_t>(level) + 1].pitch,
                    y,
                    columns.begin,
                    columns.end,
                    scratch,
                    out);
  }

  // What is subtracted from a piece of an image row to get its band: the coarser level, filtered
  // upward; null at the coarsest.
  const T* band_base(
      int32_t level, int64_t image, int64_t y, Range columns, T* scratch, T* out) const {
    if (level == depth()) return nullptr;
    from_coarser(level, up(level), images_, image, y, columns, scratch, out);
    return out;
  }

  // What the bands are added to: the coarser result, filtered upward; 0 at the coarsest.
  void start_sum(int32_t level, int64_t c, int64_t y, Range columns, T* scratch, T* sum) const {
    if (level == depth())
      std::fill_n(sum, columns.width(), T(0));
    else
      from_coarser(level, up(level), results_, c, y, columns, scratch, sum);
  }

  // The bases of one channel's bands, a row for every exposure.
  class Bases {
   public:
    Bases(const Fusion& fusion, int64_t widest)
        : fusion_(fusion),
          stride_(rounded_up(widest)),
          values_(buffer<T>(fusion.problem_.k * stride_)),
          rows_(static_cast<size_t>(fusion.problem_.k)) {}

    // Null at the coarsest level.
    const T* const* rows(int32_t level, int64_t c, int64_t y, Range columns, T* scratch) {
      if (level == fusion_.depth()) return nullptr;
      for (int64_t k = 0; k < fusion_.problem_.k; ++k) {
        rows_[static_cast<size_t>(k)] = fusion_.band_base(
            level, k * fusion_.problem_.c + c, y, columns, scratch, values_.get() + k * stride_);
      }
      return rows_.data();
    }

   private:
    const Fusion& fusion_;
    int64_t stride_;
    Buffer<T> values_;
    std::vector<const T*> rows_;
  };

  // The weights of all exposures down one strip of columns, formed row by row in rising order. The
  // last `held` rows of weights and of raw values stay valid.
  class Weigher {
   public:
    Weigher(const Fusion& fusion, int64_t widest, int64_t held)
        : fusion_(fusion),
          stride_(rounded_up(widest) + 2 * lane),
          held_(held),
          raw_held_(raw_rows(held)),
          raw_(buffer<T>(fusion.problem_.k * fusion.problem_.c * raw_held_ * stride_)),
          grey_(buffer<T>(fusion.problem_.k * 3 * stride_)),
          weights_(buffer<T>(fusion.problem_.k * held * stride_)),
          loaded_(static_cast<size_t>(fusion.problem_.k * 3)),
          weighed_(static_cast<size_t>(held)),
          rows_(static_cast<size_t>(fusion.problem_.k)) {}

    // A row's weights take the raw values of the row below, too.
    static int64_t raw_rows(int64_t held) { return std::max<int64_t>(3, held + 1); }

    // Values per column of all rings.
    static int64_t values(const Fusion& fusion, int64_t held) {
      return fusion.problem_.k * (raw_rows(held) * fusion.problem_.c + 3 + held);
    }

    void enter(Range strip) {
      if (strip.begin == strip_.begin && strip.end == strip_.end) return;
      strip_ = strip;
      loaded_.assign(loaded_.size(), -1);
      weighed_.assign(weighed_.size(), -1);
    }

    // Makes the normalised weights of row y.
    void weigh(int64_t y) {
      const int64_t slot = y % held_;
      if (weighed_[static_cast<size_t>(slot)] == y) return;
      for (int64_t k = 0; k < fusion_.problem_.k; ++k) {
        rows_[static_cast<size_t>(k)] = weight_ring(k) + slot * stride_;
        unnormalised(k, y, rows_[static_cast<size_t>(k)]);
      }
      fusion_loops<T>().normalise(rows_.data(), fusion_.problem_.k, strip_.width());
      weighed_[static_cast<size_t>(slot)] = y;
    }

    // Rings of rows stride() apart, row y in place y % held, or y % raw_rows(held).
    T* weight_ring(int64_t k) const { return weights_.get() + k * held_ * stride_; }
    T* raw_ring(int64_t image) const { return raw_.get() + image * raw_held_ * stride_ + lane; }
    int64_t stride() const { return stride_; }

    void unnormalised(int64_t k, int64_t y, T* out) {
      fusion_loops<T>().weights(around(k, y), strip_.width(), fusion_.parameters_, out);
    }

    // The rows that the weights of row y rest on, and its raw values.
    WeightRows<T> around(int64_t k, int64_t y) {
      const int64_t above = math::mirror(y - 1, fusion_.problem_.h),
                    below = math::mirror(y + 1, fusion_.problem_.h);
      WeightRows<T> rows{make(k, above), make(k, y), make(k, below), {}, fusion_.problem_.c};
      for (int64_t c = 0; c < fusion_.problem_.c; ++c) rows.channels[c] = raw(k, c, y);
      return rows;
    }

    const T* weights(int64_t k, int64_t y) const { return weight_ring(k) + y % held_ * stride_; }
    T* raw(int64_t k, int64_t c, int64_t y) const {
      return raw_ring(k * fusion_.problem_.c + c) + y % raw_held_ * stride_;
    }

   private:
    // Grey of row y, readable one sample to either side of the strip.
    const T* make(int64_t k, int64_t y) {
      T* const grey = grey_.get() + (k * 3 + y % 3) * stride_ + lane;
      int64_t& loaded = loaded_[static_cast<size_t>(k * 3 + y % 3)];
      if (loaded == y) return grey;
      loaded = y;
      const int64_t width = fusion_.problem_.w, n = strip_.width();
      // One sample to either side, and as many more as keep the rows at whole cache lines.
      const int64_t left = std::min(lane, strip_.begin), right = std::min(lane, width - strip_.end);
      const Range wide{strip_.begin - left, strip_.end + right};
      const T* channels[3] = {};
      for (int64_t c = 0; c < fusion_.problem_.c; ++c) {
        fusion_.load(k, c, y, wide, T(1), raw(k, c, y) - left);
        channels[c] = raw(k, c, y) - left;
      }
      fusion_loops<T>().grey(
          channels, fusion_.problem_.c, wide.width(), fusion_.parameters_, grey - left);
      if (left == 0) grey[-1] = grey[math::mirror(-1, width)];
      if (right == 0) grey[n] = grey[math::mirror(width, width) - strip_.begin];
      return grey;
    }

    const Fusion& fusion_;
    int64_t stride_, held_, raw_held_;
    Range strip_{0, 0};
    Buffer<T> raw_, grey_, weights_;
    std::vector<int64_t> loaded_, weighed_;
    std::vector<T*> rows_;
  };

  // Strips of columns of the finest level whose rows at work fit in the cache.
  Strips strips(int64_t width, int64_t values_per_column) const {
    constexpr int64_t cache = 512 << 10;
    constexpr int64_t narrowest = 256;
    const int64_t values = cache / static_cast<int64_t>(sizeof(T));
    return {width, std::max(narrowest, values / values_per_column)};
  }

  // The finest weights, for the backward.
  void store_weights() {
    Weigher weigher(*this, problem_.w, 1);
    weigher.enter(whole(0));
    for (int64_t y = 0; y < problem_.h; ++y) {
      weigher.weigh(y);
      for (int64_t k = 0; k < problem_.k; ++k)
        std::copy_n(weigher.weight_ring(k), problem_.w, plane(weights_, 0, k) + y * problem_.w);
    }
  }

  // Weights and images of the second level, from codes.
  void descend_finest() {
    constexpr int64_t held = 5;
    const Size size = sizes_[1];
    const typename Step<T>::Pair& down = steps_[0].down;
    const AxisFilter<T> rows = down.rows.view(), columns = down.columns.view();
    const Strips all = strips(size.width, 2 * Weigher::values(*this, held));
    const int64_t widest = columns.needed_most(all.widest());
    struct State {
      Weigher weigher;
      Buffer<T> combined;
    };
    over_strips(
        all,
        size.height,
        all.widest() * problem_.k * problem_.c * 48,
        [&] { return State{Weigher(*this, widest, held), buffer<T>(widest)}; },
        [&](State& state, Range strip, int64_t y) {
          Weigher& weigher = state.weigher;
          const auto [from, to] = columns.needed(strip.begin, strip.end);
          weigher.enter({from, to});
          // The rows under the filter, of which some may be mirrored, are consecutive.
          const Tap<T>* const taps = rows.taps + rows.begin[y];
          const int64_t count = rows.begin[y + 1] - rows.begin[y];
          std::array<Tap<T>, 5> of_weights, of_images;
          int64_t first = problem_.h;
          for (int64_t t = 0; t < count; ++t) {
            const auto [index, weight] = taps[t];
            of_weights[static_cast<size_t>(t)] = {index % held, weight};
            of_images[static_cast<size_t>(t)] = {index % Weigher::raw_rows(held),
                                                 weight * parameters_.unit};
            first = std::min(first, index);
          }
          for (int64_t row = first; row < first + count; ++row) weigher.weigh(row);
          if (backward_) keep_weights(weigher, from, strip, y);

          const auto shrink = [&](const T* ring, const std::array<Tap<T>, 5>& here, T* plane) {
            T* const out = plane + y * size.pitch;
            fusion_loops<T>().combine(
                ring, weigher.stride(), here.data(), count, to - from, state.combined.get());
            fusion_loops<T>().filter(
                columns, state.combined.get() - from, strip.begin, strip.end, out);
            if (y + 1 < size.height) prefetch<1>(out + size.pitch + strip.begin, strip.width());
          };
          for (int64_t k = 0; k < problem_.k; ++k) {
            shrink(weigher.weight_ring(k), of_weights, plane(weights_, 1, k));
            for (int64_t image = k * problem_.c; image < (k + 1) * problem_.c; ++image)
              shrink(weigher.raw_ring(image), of_images, plane(images_, 1, image));
          }
        });
  }

  // Keeps the finest weights above row y of the second level; the weigher's columns begin at `from`.
  void keep_weights(const Weigher& weigher, int64_t from, Range strip, int64_t y) {
    const int64_t begin = 2 * strip.begin, end = std::min(problem_.w, 2 * strip.end);
    for (int64_t row = 2 * y; row < std::min(problem_.h, 2 * y + 2); ++row) {
      for (int64_t k = 0; k < problem_.k; ++k) {
        std::copy_n(weigher.weights(k, row) + (begin - from),
                    end - begin,
                    plane(weights_, 0, k) + row * problem_.w + begin);
      }
    }
  }

  template <class Finish>
  void collapse_finest(const Finish& finish) {
    const Strips all = strips(problem_.w, Weigher::values(*this, 1) + problem_.k + 2);
    struct State {
      Weigher weigher;
      Bases bases;
      Buffer<T> sum, scratch;
      std::vector<const T*> weights, images;
    };
    const auto k_count = static_cast<size_t>(problem_.k);
    over_strips(
        all,
        problem_.h,
        all.widest() * problem_.k * problem_.c * 12,
        [&] {
          return State{Weigher(*this, all.widest(), 1),
                       Bases(*this, all.widest()),
                       buffer<T>(all.widest()),
                       buffer<T>(all.widest() + 2 * lane),
                       std::vector<const T*>(k_count),
                       std::vector<const T*>(k_count)};
        },
        [&](State& state, Range strip, int64_t y) {
          state.weigher.enter(strip);
          state.weigher.weigh(y);
          for (size_t k = 0; k < k_count; ++k)
            state.weights[k] = state.weigher.weight_ring(static_cast<int64_t>(k));
          for (int64_t c = 0; c < problem_.c; ++c) {
            start_sum(0, c, y, strip, state.scratch.get(), state.sum.get());
            for (size_t k = 0; k < k_count; ++k)
              state.images[k] = state.weigher.raw(static_cast<int64_t>(k), c, y);
            fusion_loops<T>().blend(state.weights.data(),
                                    state.images.data(),
                                    parameters_.unit,
                                    state.bases.rows(0, c, y, strip, state.scratch.get()),
                                    problem_.k,
                                    strip.width(),
                                    state.sum.get());
            finish(c, y, strip, state.sum.get());
          }
        });
  }

  // The share of the weights' Gaussian pyramid in the gradient of a row of weights.
  void start_weight_grad(int32_t level,
                         int64_t k,
                         int64_t y,
                         const std::vector<T*>& weight_grads,
                         T* scratch,
                         T* out) const {
    if (level == depth())
      std::fill_n(out, whole(level).width(), T(0));
    else
      from_coarser(level, down_adjoint(level), weight_grads, k, y, whole(level), scratch, out);
  }

  // out += upstream * band.
  static void add_band(
      const T* upstream, const T* image, T unit, const T* base, int64_t n, T* out) {
    fusion_loops<T>().blend(&upstream, &image, unit, base == nullptr ? nullptr : &base, 1, n, out);
  }

  // Through the finest weights: writes the gradients of the Laplacians (K, H, W), and to `out`
  // (K, C, H, W) those of the images by saturation and exposedness.
  template <class ResultGrad>
  void differentiate_weights(const ResultGrad& result_grad,
                             const std::vector<T*>& weight_grads,
                             T* laplacian_grads,
                             T* out) {
    const Size size = sizes_[0];
    const auto k_count = static_cast<size_t>(problem_.k);
    over_rows(
        size.height, size.width * problem_.k * problem_.c * 16, [&](int64_t begin, int64_t end) {
          Weigher weigher(*this, size.width, 1);
          weigher.enter(whole(0));
          const int64_t stride = rounded_up(size.width);
          const auto rows = buffer<T>((2 * problem_.k + 2) * stride);
          T* const coarse = rows.get() + 2 * problem_.k * stride;
          T* const scratch = coarse + stride;
          std::vector<const T*> weights(k_count);
          std::vector<T*> grads(k_count);
          for (size_t k = 0; k < k_count; ++k) {
            weights[k] = rows.get() + static_cast<int64_t>(k) * stride;
            grads[k] = rows.get() + (problem_.k + static_cast<int64_t>(k)) * stride;
          }
          for (int64_t y = begin; y < end; ++y) {
            for (int64_t k = 0; k < problem_.k; ++k) {
              weigher.unnormalised(k, y, rows.get() + k * stride);
              T* const grad = grads[static_cast<size_t>(k)];
              start_weight_grad(0, k, y, weight_grads, scratch, grad);
              for (int64_t c = 0; c < problem_.c; ++c) {
                add_band(result_grad(0, c) + y * size.width,
                         weigher.raw(k, c, y),
                         parameters_.unit,
                         band_base(0, k * problem_.c + c, y, whole(0), scratch, coarse),
                         size.width,
                         grad);
              }
            }
            fusion_loops<T>().normalise_grad(weights.data(), grads.data(), problem_.k, size.width);
            for (int64_t k = 0; k < problem_.k; ++k) {
              T* to[3] = {};
              for (int64_t c = 0; c < problem_.c; ++c) {
                to[c] = out + (k * problem_.c + c) * size.pixels() + y * size.width;
                std::fill_n(to[c], size.width, T(0));
              }
              fusion_loops<T>().weights_grad(weigher.around(k, y),
                                             grads[static_cast<size_t>(k)],
                                             size.width,
                                             parameters_,
                                             to,
                                             laplacian_grads + k * size.pixels() + y * size.width);
            }
          }
        });
  }

  // Planes of the next coarser level from those of this one, or their adjoint counterpart.
  void resample(const typename Step<T>::Pair& filter,
                int64_t planes,
                const T* from,
                int32_t to_level,
                T* to) const {
    const Size size = sizes_[static_cast<size_t>(to_level)],
               from_size = sizes_[static_cast<size_t>(to_level) - 1];
    over_rows(planes * size.height, size.width * 8, [&](int64_t begin, int64_t end) {
      const auto scratch = buffer<T>(filter.columns.view().inputs);
      for (int64_t i = begin; i < end; ++i) {
        filtered_row<T>(filter,
                        from + i / size.height * from_size.pixels(),
                        from_size.pitch,
                        i % size.height,
                        0,
                        size.width,
                        scratch.get(),
                        to + i * size.pitch);
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
                      T* filter_scratch,
                      T* scratch,
                      T* out) const {
    const int64_t width = sizes_[static_cast<size_t>(level)].width;
    fusion_loops<T>().product(weight_row(level, k, y),
                              result_grad(level, c) + y * sizes_[static_cast<size_t>(level)].pitch,
                              width,
                              out);
    if (level > 0) subtract_finer_band(level, k, c, y, result_grad, scratch, out);
    if (level < depth()) {
      const int64_t image = k * problem_.c + c;
      from_coarser(
          level, down_adjoint(level), image_grads, image, y, whole(level), filter_scratch, scratch);
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
    const auto combined = buffer<T>(finer.width);
    std::fill_n(combined.get(), finer.width, T(0));
    for (int64_t t = rows.begin[y]; t < rows.begin[y + 1]; ++t) {
      const int64_t at = rows.taps[t].index;
      fusion_loops<T>().add_products(weight_row(level - 1, k, at),
                                     result_grad(level - 1, c) + at * finer.pitch,
                                     rows.taps[t].weight,
                                     finer.width,
                                     combined.get());
    }
    const int64_t width = sizes_[static_cast<size_t>(level)].width;
    fusion_loops<T>().filter(filter.columns.view(), combined.get(), 0, width, scratch);
    fusion_loops<T>().add(scratch, T(-1), width, out);
  }

  FusionProblem problem_;
  Storage storage_;
  math::FusionParameters<T> parameters_;
  bool backward_;
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
  over_images(p, [&](int64_t begin, int64_t end) {
    Fusion<T> fusion(p, in, false);
    const auto scratch = buffer<T>(fusion.pyramid_size());
    for (int64_t n = begin; n < end; ++n) {
      fusion.build(static_cast<const char*>(bracket.const_data_ptr()) + n * image_bytes,
                   scratch.get());
      fusion.collapse([&](int64_t c, int64_t y, Range columns, const T* row) {
        const int64_t at = ((n * p.c + c) * p.h + y) * p.w + columns.begin;
        fusion_loops<T>().store(row,
                                to,
                                columns.width(),
                                !p.opencv,
                                static_cast<char*>(out.mutable_data_ptr()) + at * bytes_of(to));
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
    const auto scratch = buffer<T>(fusion.pyramid_size());
    const auto adjoint = buffer<T>(fusion.adjoint_size());
    const auto masked = buffer<T>(p.opencv ? 0 : p.c * pixels);
    for (int64_t n = begin; n < end; ++n) {
      const T* const from = grad.const_data_ptr<T>() + n * p.c * pixels;
      fusion.build(static_cast<const char*>(bracket.const_data_ptr()) +
                       n * p.k * p.c * pixels * bytes_of(storage),
                   scratch.get());
      if (!p.opencv) {
        fusion.collapse([&](int64_t c, int64_t y, Range columns, const T* row) {
          const int64_t at = c * pixels + y * p.w + columns.begin;
          for (int64_t x = 0; x < columns.width(); ++x) {
            masked[static_cast<size_t>(at + x)] =
                row[x] < T(0) || row[x] > T(1) ? T(0) : from[at + x];
          }
        });
      }
      fusion.differentiate(p.opencv ? from : masked.get(),
                           adjoint.get(),
                           out.mutable_data_ptr<T>() + n * p.k * p.c * pixels);
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
