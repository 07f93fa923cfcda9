// The matching volume on the CPU, and its convolution without the volume.

#include <torch/csrc/stable/library.h>

#include "hdrops/matching_sampler.h"

namespace hdrops {
namespace {

void* place_of(const Tensor& t, int64_t element) {
  return static_cast<char*>(t.mutable_data_ptr()) + element * bytes_of(storage_of(t.scalar_type()));
}

// ---- the volume itself ----

template <class T>
void fill_volume(const Sampler<T>& images, int64_t n, const Tensor& out) {
  const VolumeProblem& p = images.p;
  const auto& loops = volume_loops<T>();
  const Storage storage = storage_of(out.scalar_type());
  const bool direct = storage == (sizeof(T) == 4 ? Storage::f32 : Storage::f64);
  const int64_t row = p.width * p.channels();
  torch::stable::parallel_for(0, p.depth() * p.height, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = buffer<T>(direct ? 1 : row);
    for (int64_t at = begin; at < end; ++at) {
      const int64_t d = at / p.height, y = at % p.height;
      const VolumeSlice slice = slice_of(p, d);
      const bool moved = slice.image != p.reference;
      void* const place = place_of(out, (n * p.depth() * p.height + at) * row);
      T* const to = direct ? static_cast<T*>(place) : scratch.get();
      const Moved<T> how = moved ? images.how(slice.exposure) : Moved<T>{Gain::scaled, T(1), T(0)};
      const int64_t* move = images.moves.data() + 2 * slice.motion;
      images.each_run(images.u(slice.image),
                      moved ? images.v(slice.image) : nullptr,
                      how,
                      moved ? move[0] : 0,
                      moved ? move[1] : 0,
                      y,
                      0,
                      p.width,
                      [&](int64_t x, int64_t count, const MovedRun<T>& run) {
                        loops.volume(run, count, p.c, p.inner, to + x * p.channels());
                      });
      if (!direct) store_elements(to, row, place, storage);
    }
  });
}

Tensor matching_volume(const Tensor& features_in,
                       const std::optional<Tensor> saturation_in,
                       const Tensor& motions_in,
                       const std::vector<double> exposures,
                       int64_t reference,
                       bool cap,
                       double ceiling,
                       bool inner,
                       const std::vector<int64_t> order,
                       bool include_reference) {
  const VolumeArguments arguments("matching_volume",
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
  const Tensor out = allocate(volume_shape(p), features_in.scalar_type(), features_in);
  if (out.numel() == 0) return out;
  with_compute_type(features_in.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    for (int64_t n = 0; n < p.n; ++n) fill_volume(Sampler<T>(arguments, n), n, out);
  });
  return out;
}

// ---- its convolution ----

// A few results that are kept under numbers, each in place of the oldest.
template <class T>
class Kept {
 public:
  Kept(int64_t count, int64_t size)
      : numbers_(static_cast<size_t>(count), -1), size_(size), memory_(buffer<T>(count * size)) {}

  void forget() { std::fill(numbers_.begin(), numbers_.end(), -1); }

  template <class Make>
  T* get(int64_t number, const Make& make) {
    for (size_t k = 0; k < numbers_.size(); ++k)
      if (numbers_[k] == number) return memory_.get() + static_cast<int64_t>(k) * size_;
    const size_t k = next_++ % numbers_.size();
    numbers_[k] = number;
    T* const to = memory_.get() + static_cast<int64_t>(k) * size_;
    make(to);
    return to;
  }

 private:
  std::vector<int64_t> numbers_;
  int64_t size_;
  size_t next_ = 0;
  Buffer<T> memory_;
};

// A map of 2D convolutions (rows, columns, depth taps, columns of weights).
template <class T>
struct Map {
  int64_t height, width, stride;
  Buffer<T> memory;
};

template <class T, class S>
class Convolution {
 public:
  Convolution(const Sampler<T>& images, const Convolved& how, const T* weight, const T* bias)
      : images_(images),
        p_(images.p),
        how_(how),
        weight_(weight),
        loops_(volume_loops<T>()),
        padded_(math::rounded_up(how.k, loops_.width)),
        taps_plane_(how.taps[1] * how.taps[2]),
        bias_(buffer<T>(padded_)) {
    std::fill_n(bias_.get(), padded_, T(0));
    if (bias != nullptr) std::copy_n(bias, how.k, bias_.get());
    const int64_t c = p_.c, products = p_.products(), all = taps_plane_ * how.taps[0];
    for (int64_t kd = 0; kd < how.taps[0]; ++kd) {
      linear_.push_back(pack(0, c, kd, kd + 1));
      difference_.push_back(pack(2 * c, c, kd, kd + 1));
      product_.push_back(pack(3 * c, products, kd, kd + 1));
    }
    // A product costs a convolution for each exposure and output that reads it, or one for all.
    const double direct = static_cast<double>(p_.exposures) / static_cast<double>(how.stride[0]);
    hoisted_ = !p_.cap && p_.order[2] == 2 && direct > (p_.masked ? 2 : 1);
    if (hoisted_) products_ = pack(3 * c, products, 0, how.taps[0]);
    const bool others = p_.count > 1 && p_.motions * p_.exposures > 0;
    const auto base = [&](Part part, int64_t y, int64_t x, int64_t n, T* to, T* scratch) {
      images_.row(part,
                  images_.base(),
                  nullptr,
                  plain_,
                  0,
                  0,
                  y,
                  x,
                  n,
                  to,
                  part == Part::product && p_.inner,
                  scratch);
    };
    if (others) {
      of_reference_ = map_of(false);
      const auto weights = pack(c, c, 0, how.taps[0]);
      convolve(of_reference_,
               weights.get(),
               c,
               false,
               [&](int64_t y, int64_t x, int64_t n, T* to, T* scratch) {
                 base(Part::moved, y, x, n, to, scratch);
               });
    }
    if (p_.include_reference) {
      constant_ = map_of(false);
      const auto weights = packed<T, S>(weight_, p_, how_, 0, c, 0, how.taps[0], weight_ + c * all);
      convolve(constant_,
               weights.get(),
               c,
               false,
               [&](int64_t y, int64_t x, int64_t n, T* to, T* scratch) {
                 base(Part::moved, y, x, n, to, scratch);
               });
      const auto squares = pack(3 * c, products, 0, how.taps[0]);
      convolve(constant_,
               squares.get(),
               products,
               false,
               [&](int64_t y, int64_t x, int64_t n, T* to, T* scratch) {
                 base(Part::product, y, x, n, to, scratch);
               });
    }
    if (p_.cap || !others) return;
    const auto weights = pack(0, c, 0, how.taps[0]);
    for (int64_t i = 0; i < p_.count; ++i) {
      moved_.emplace_back();
      if (i == p_.reference) continue;
      for (const T* part : {images_.u(i), images_.v(i)}) {
        if (part == nullptr) continue;
        Map<T> map = map_of(true);
        convolve(map, weights.get(), c, true, [&](int64_t y, int64_t x, int64_t n, T* to, T*) {
          images_.row(Part::moved, part, nullptr, plain_, 0, 0, y, x, n, to);
        });
        moved_.back().push_back(std::move(map));
      }
    }
  }

  void run(int64_t n, bool relu, const Tensor& out) const {
    const int64_t strips = math::ceil_div(how_.size[2], loops_.pixels);
    torch::stable::parallel_for(0, how_.size[1] * strips, 1, [&](int64_t begin, int64_t end) {
      Worker worker(*this);
      for (int64_t at = begin; at < end; ++at) {
        const int64_t y = at / strips, strip = at % strips;
        const int64_t first = strip * how_.size[2] / strips;
        const int64_t last = (strip + 1) * how_.size[2] / strips;
        worker.strip(n, y, first, last - first, relu, out);
      }
    });
  }

 private:
  Buffer<S> pack(int64_t first, int64_t channels, int64_t kd_begin, int64_t kd_end) const {
    return packed<T, S>(weight_, p_, how_, first, channels, kd_begin, kd_end);
  }

  // At all places that a moved kernel can have, or at those of the result.
  Map<T> map_of(bool everywhere) const {
    Map<T> map{how_.size[1], how_.size[2], how_.taps[0] * padded_, {}};
    if (everywhere) {
      map.height = p_.height + how_.dilation[1] * (how_.taps[1] - 1);
      map.width = p_.width + how_.dilation[2] * (how_.taps[2] - 1);
    }
    map.memory = buffer<T>(map.height * map.width * map.stride);
    std::fill_n(map.memory.get(), map.height * map.width * map.stride, T(0));
    return map;
  }

  int64_t columns(int64_t pixels, int64_t step) const {
    return step * (pixels - 1) + how_.dilation[2] * (how_.taps[2] - 1) + 1;
  }

  std::vector<int64_t> tap_offsets(int64_t columns, int64_t channels) const {
    std::vector<int64_t> offsets;
    for (int64_t ky = 0; ky < how_.taps[1]; ++ky)
      for (int64_t kx = 0; kx < how_.taps[2]; ++kx)
        offsets.push_back((ky * columns + kx * how_.dilation[2]) * channels);
    return offsets;
  }

  // Adds the convolution of rows that `row(y, x, count, to, scratch)` makes.
  template <class Row>
  void convolve(const Map<T>& map,
                const S* weights,
                int64_t channels,
                bool everywhere,
                const Row& row) const {
    const int64_t step_y = everywhere ? 1 : how_.stride[1],
                  step_x = everywhere ? 1 : how_.stride[2];
    const int64_t top = everywhere ? how_.dilation[1] * (how_.taps[1] - 1) : how_.padding[1];
    const int64_t left = everywhere ? how_.dilation[2] * (how_.taps[2] - 1) : how_.padding[2];
    const int64_t strips = math::ceil_div(map.width, loops_.pixels);
    const int64_t most = columns(loops_.pixels, step_x);
    torch::stable::parallel_for(0, map.height, 1, [&](int64_t begin, int64_t end) {
      const int64_t kept = held<S>(channels);
      const auto strip = buffer<S>(how_.taps[1] * most * kept);
      const auto line = buffer<T>(most * p_.c);
      const auto scratch = buffer<T>(most * p_.c);
      for (int64_t y = begin; y < end; ++y)
        for (int64_t s = 0; s < strips; ++s) {
          const int64_t x = s * map.width / strips, count = (s + 1) * map.width / strips - x;
          const int64_t wide = columns(count, step_x);
          for (int64_t ky = 0; ky < how_.taps[1]; ++ky)
            make_strip<T, S>(
                wide, channels, line.get(), strip.get() + ky * wide * kept, [&](T* to) {
                  row(y * step_y - top + ky * how_.dilation[1],
                      x * step_x - left,
                      wide,
                      to,
                      scratch.get());
                });
          const auto taps = tap_offsets(wide, kept);
          multiply_strip<T, S>({strip.get(),
                                step_x * kept,
                                taps.data(),
                                taps_plane_,
                                kept,
                                weights,
                                map.stride / loops_.width,
                                count,
                                map.memory.get() + (y * map.width + x) * map.stride,
                                map.stride});
        }
    });
  }

  // What one thread needs for a strip of pixels of all slices of the result.
  class Worker {
   public:
    explicit Worker(const Convolution& of)
        : of_(of),
          p_(of.p_),
          how_(of.how_),
          most_(of.columns(of.loops_.pixels, of.how_.stride[2])),
          kept_(std::min<int64_t>(8, (how_.taps[0] - 1) * how_.dilation[0] + 2)),
          differences_(kept_, how_.taps[1] * most_ * held<S>(p_.c)),
          products_(of.hoisted_ ? kept_ : 1, of.hoisted_ ? 2 * of.loops_.pixels * of.stride() : 0),
          strip_(buffer<S>(how_.taps[1] * most_ * held<S>(p_.c))),
          line_(buffer<T>(most_ * p_.c)),
          scratch_(buffer<T>(most_ * p_.c)),
          tile_(buffer<T>(of.loops_.pixels * of.padded_)),
          packed_(buffer<T>(of.loops_.pixels * how_.k)) {}

    void strip(int64_t n, int64_t y, int64_t x, int64_t count, bool relu, const Tensor& out) {
      y_ = y;
      x_ = x;
      count_ = count;
      top_ = y * how_.stride[1] - how_.padding[1];
      left_ = x * how_.stride[2] - how_.padding[2];
      wide_ = of_.columns(count, how_.stride[2]);
      taps_ = of_.tap_offsets(wide_, held<S>(p_.c));
      sums_ = of_.tap_offsets(wide_, held<S>(1));
      differences_.forget();
      products_.forget();
      inside();
      const Storage storage = storage_of(out.scalar_type());
      for (int64_t o = 0; o < how_.size[0]; ++o) {
        for (int64_t j = 0; j < count; ++j)
          std::copy_n(of_.bias_.get(), of_.padded_, tile_.get() + j * of_.padded_);
        for (int64_t kd = 0; kd < how_.taps[0]; ++kd) {
          const int64_t d = o * how_.stride[0] - how_.padding[0] + kd * how_.dilation[0];
          if (d < 0 || d >= p_.depth()) continue;
          const VolumeSlice slice = slice_of(p_, d);
          if (slice.image == p_.reference) {
            add_here(of_.constant_, kd);
          } else {
            add_here(of_.of_reference_, kd);
            add_slice(d, slice, kd);
          }
        }
        if (relu) of_.loops_.relu(count * of_.padded_, tile_.get());
        const T* result = tile_.get();
        if (of_.padded_ != how_.k) {
          for (int64_t j = 0; j < count; ++j)
            std::copy_n(tile_.get() + j * of_.padded_, how_.k, packed_.get() + j * how_.k);
          result = packed_.get();
        }
        const int64_t row = (n * how_.size[0] + o) * how_.size[1] + y;
        store_elements(
            result, count * how_.k, place_of(out, (row * how_.size[2] + x) * how_.k), storage);
      }
    }

   private:
    // The pixels whose taps all lie inside of the image: there a moved feature's convolution is
    // the moved convolution.
    void inside() {
      const int64_t reach_y = how_.dilation[1] * (how_.taps[1] - 1);
      const int64_t reach_x = how_.dilation[2] * (how_.taps[2] - 1);
      begin_ = end_ = count_;
      if (p_.cap || top_ < 0 || top_ + reach_y >= p_.height) return;
      const int64_t step = how_.stride[2];
      begin_ = left_ >= 0 ? 0 : std::min(count_, math::ceil_div(-left_, step));
      const int64_t room = p_.width - 1 - reach_x - left_;  // of the last pixel's first tap
      end_ = room < 0 ? begin_ : std::clamp(room / step + 1, begin_, count_);
    }

    void add_here(const Map<T>& map, int64_t kd) {
      const T* from = map.memory.get() + (y_ * map.width + x_) * map.stride + kd * of_.padded_;
      for (int64_t j = 0; j < count_; ++j)
        of_.loops_.add(from + j * map.stride, T(1), of_.padded_, tile_.get() + j * of_.padded_);
    }

    void add_slice(int64_t d, const VolumeSlice& slice, int64_t kd) {
      const T* const u = of_.images_.u(slice.image);
      const T* const v = of_.images_.v(slice.image);
      const int64_t down = of_.images_.moves[2 * slice.motion];
      const int64_t right = of_.images_.moves[2 * slice.motion + 1];
      const Moved<T> how = of_.images_.how(slice.exposure);
      const auto rows = [&](Part part, const T* a, const T* b, const Moved<T>& as, S* to) {
        const bool sum = part == Part::product && p_.inner;
        const int64_t channels = sum ? 1 : p_.c;
        for (int64_t ky = 0; ky < how_.taps[1]; ++ky)
          make_strip<T, S>(
              wide_, channels, line_.get(), to + ky * wide_ * held<S>(channels), [&](T* line) {
                of_.images_.row(part,
                                a,
                                b,
                                as,
                                down,
                                right,
                                top_ + ky * how_.dilation[1],
                                left_,
                                wide_,
                                line,
                                sum,
                                scratch_.get());
              });
      };
      const S* const difference =
          differences_.get(d, [&](S* to) { rows(Part::difference, u, v, how, to); });
      multiply(difference, p_.c, of_.difference_[kd].get(), 0, count_, tile_.get(), of_.padded_);

      if (begin_ < end_) {
        const auto& maps = of_.moved_[slice.image];
        if (maps.size() == 1) {
          add_moved(maps[0], kd, how.exposure, down, right);
        } else {
          add_moved(maps[0], kd, T(1), down, right);
          add_moved(maps[1], kd, how.exposure, down, right);
        }
      }
      if (begin_ > 0 || end_ < count_) {
        rows(Part::moved, u, v, how, strip_.get());
        multiply(strip_.get(), p_.c, of_.linear_[kd].get(), 0, begin_, tile_.get(), of_.padded_);
        multiply(strip_.get(),
                 p_.c,
                 of_.linear_[kd].get(),
                 std::max(begin_, end_),
                 count_,
                 tile_.get(),
                 of_.padded_);
      }

      const int64_t products = p_.products();
      if (!of_.hoisted_) {
        rows(Part::product, u, v, how, strip_.get());
        multiply(
            strip_.get(), products, of_.product_[kd].get(), 0, count_, tile_.get(), of_.padded_);
        return;
      }
      const int64_t size = of_.loops_.pixels * of_.stride();
      const T* const sums = products_.get(slice.image * p_.motions + slice.motion, [&](T* to) {
        for (const T* part : {u, v}) {
          if (part == nullptr) continue;
          rows(Part::product, part, nullptr, of_.plain_, strip_.get());
          std::fill_n(to, count_ * of_.stride(), T(0));
          multiply(strip_.get(), products, of_.products_.get(), 0, count_, to, of_.stride());
          to += size;
        }
      });
      add_products(sums, kd, v == nullptr ? how.exposure : T(1));
      if (v != nullptr) add_products(sums + size, kd, how.exposure);
    }

    void multiply(const S* strip,
                  int64_t channels,
                  const S* weights,
                  int64_t begin,
                  int64_t end,
                  T* tile,
                  int64_t stride) const {
      if (end <= begin) return;
      const int64_t kept = held<S>(channels), step = how_.stride[2] * kept;
      multiply_strip<T, S>({strip + begin * step,
                            step,
                            channels == p_.c ? taps_.data() : sums_.data(),
                            of_.taps_plane_,
                            kept,
                            weights,
                            stride / of_.loops_.width,
                            end - begin,
                            tile + begin * stride,
                            stride});
    }

    void add_moved(const Map<T>& map, int64_t kd, T scale, int64_t down, int64_t right) {
      const int64_t y = top_ + down + how_.dilation[1] * (how_.taps[1] - 1);
      if (y < 0 || y >= map.height) return;
      const int64_t first = left_ + right + how_.dilation[2] * (how_.taps[2] - 1);
      for (int64_t j = begin_; j < end_; ++j) {
        const int64_t x = first + j * how_.stride[2];
        if (x < 0 || x >= map.width) continue;
        of_.loops_.add(map.memory.get() + (y * map.width + x) * map.stride + kd * of_.padded_,
                       scale,
                       of_.padded_,
                       tile_.get() + j * of_.padded_);
      }
    }

    void add_products(const T* sums, int64_t kd, T scale) {
      for (int64_t j = 0; j < count_; ++j)
        of_.loops_.add(sums + j * of_.stride() + kd * of_.padded_,
                       scale,
                       of_.padded_,
                       tile_.get() + j * of_.padded_);
    }

    const Convolution& of_;
    const VolumeProblem& p_;
    const Convolved& how_;
    int64_t most_, kept_;
    Kept<S> differences_;
    Kept<T> products_;
    Buffer<S> strip_;
    Buffer<T> line_, scratch_, tile_, packed_;
    std::vector<int64_t> taps_, sums_;
    int64_t y_ = 0, x_ = 0, count_ = 0, top_ = 0, left_ = 0, wide_ = 0, begin_ = 0, end_ = 0;
  };

  // Of a row of sums for all depth taps.
  int64_t stride() const { return how_.taps[0] * padded_; }

  const Sampler<T>& images_;
  const VolumeProblem& p_;
  const Convolved& how_;
  const T* weight_;
  const MatchingVolumeLoopsOf<T>& loops_;
  int64_t padded_, taps_plane_;
  Buffer<T> bias_;
  Moved<T> plain_{Gain::scaled, T(1), T(0)};
  bool hoisted_ = false;
  std::vector<Buffer<S>> linear_, difference_, product_;
  Buffer<S> products_;
  Map<T> of_reference_{}, constant_{};
  std::vector<std::vector<Map<T>>> moved_;
};

bool multiplies_bf16() {
  static const bool does = HDROPS_PICK(matching_volume_loops).has_bf16();
  return does;
}

Tensor matching_conv3d(const Tensor& features_in,
                       const std::optional<Tensor> saturation_in,
                       const Tensor& weight_in,
                       const std::optional<Tensor> bias_in,
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
                       bool relu) {
  const char* const op = "matching_conv3d";
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
  if (bias_in) check_bias(op, *bias_in, how, features_in);
  const Tensor out = allocate(convolved_shape(p, how), features_in.scalar_type(), features_in);
  if (out.numel() == 0) return out;
  const Tensor weight = torch::stable::contiguous(weight_in);
  std::optional<Tensor> bias;
  if (bias_in) bias = torch::stable::contiguous(*bias_in);
  with_compute_type(features_in.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto weights = elements_of<T>(weight);
    const auto biases = bias ? elements_of<T>(*bias) : Buffer<T>();
    for (int64_t n = 0; n < p.n; ++n) {
      const Sampler<T> images(arguments, n);
      const auto run = [&]<class S>(S) {
        Convolution<T, S>(images, how, weights.get(), biases.get()).run(n, relu, out);
      };
      if constexpr (std::is_same_v<T, float>) {
        if (features_in.scalar_type() == ScalarType::BFloat16 && multiplies_bf16()) {
          run(bfloat16_bits{});
          continue;
        }
      }
      run(T{});
    }
  });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) {
  m.impl("matching_volume", TORCH_BOX(&hdrops::matching_volume));
  m.impl("matching_conv3d", TORCH_BOX(&hdrops::matching_conv3d));
}
