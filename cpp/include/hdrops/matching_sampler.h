// Slices of the matching volume on the CPU, made row by row where they are needed.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "hdrops/matching_volume_checks.h"
#include "hdrops/strip_products.h"

namespace hdrops {

// The images of one bracket with their channels side by side, in the arithmetic type.
template <class T>
class Sampler {
 public:
  // Bracket n. It refers to the arguments.
  Sampler(const VolumeArguments& arguments, int64_t n)
      : p(arguments.problem), plane_(p.plane() * p.c), loops_(volume_loops<T>()) {
    const Tensor& features = arguments.features;
    const auto* at = arguments.motions.const_data_ptr<int64_t>();
    moves.assign(at, at + 2 * p.motions);
    for (int64_t& move : moves) move = math::clamp<int64_t>(move, -(1LL << 31), 1LL << 31);
    for (const double gain : arguments.exposures) gains.push_back(static_cast<T>(gain));
    const Storage storage = storage_of(features.scalar_type());
    const int64_t bytes = bytes_of(storage);
    u_ = buffer<T>(p.count * plane_);
    if (p.masked) v_ = buffer<T>(p.count * plane_);
    const auto* images =
        static_cast<const char*>(features.const_data_ptr()) + n * p.count * plane_ * bytes;
    const int64_t masks = p.mask_of_channels ? p.c : 1;
    const char* saturated = nullptr;
    if (p.masked)
      saturated = static_cast<const char*>(arguments.saturation->const_data_ptr()) +
                  n * p.count * masks * p.plane() * bytes;
    torch::stable::parallel_for(0, p.count * p.height, 1, [&](int64_t begin, int64_t end) {
      const auto line = buffer<T>(2 * p.width);
      for (int64_t row = begin; row < end; ++row) {
        const int64_t i = row / p.height, y = row % p.height;
        T* const u = u_.get() + (i * p.height + y) * p.width * p.c;
        T* const s = line.get() + p.width;
        for (int64_t c = 0; c < p.c; ++c) {
          const auto place = [&](int64_t planes, int64_t channel) {
            return (((i * planes + channel) * p.height + y) * p.width) * bytes;
          };
          load_elements(images + place(p.c, c), storage, p.width, line.get());
          const bool moved = p.masked && i != p.reference;
          if (!moved) {
            for (int64_t x = 0; x < p.width; ++x) u[x * p.c + c] = line[x];
            continue;
          }
          load_elements(saturated + place(masks, masks == 1 ? 0 : c), storage, p.width, s);
          T* const v = v_.get() + (u - u_.get());
          for (int64_t x = 0; x < p.width; ++x) {
            u[x * p.c + c] = p.cap ? line[x] : s[x] * line[x];
            v[x * p.c + c] = p.cap ? s[x] : (1 - s[x]) * line[x];
          }
        }
      }
    });
  }

  const VolumeProblem& p;
  std::vector<int64_t> moves;  // dy, dx
  std::vector<T> gains;

  const T* u(int64_t image) const { return u_.get() + image * plane_; }
  // Null where a moved feature has one part only.
  const T* v(int64_t image) const { return p.masked ? v_.get() + image * plane_ : nullptr; }
  const T* base() const { return u(p.reference); }

  Moved<T> how(int64_t exposure) const {
    const Gain gain =
        p.cap ? (p.masked ? Gain::blended : Gain::capped) : (p.masked ? Gain::split : Gain::scaled);
    return {gain, gains[exposure], static_cast<T>(p.ceiling)};
  }

  // Calls f(offset, run) for the parts of `count` pixels from (y, x), all inside, of the image's
  // parts u and v moved by (down, right); run.u is null where the moved pixels lie outside.
  template <class F>
  void each_run(const T* u,
                const T* v,
                const Moved<T>& how,
                int64_t down,
                int64_t right,
                int64_t y,
                int64_t x,
                int64_t count,
                const F& f) const {
    const int64_t row = y + down;
    const bool there = row >= 0 && row < p.height;
    const int64_t begin = there ? math::clamp<int64_t>(-right - x, 0, count) : count;
    const int64_t end = there ? math::clamp<int64_t>(p.width - right - x, begin, count) : count;
    const auto part = [&](int64_t from, int64_t to, bool inside) {
      if (to <= from) return;
      const int64_t here = (y * p.width + x + from) * p.c;
      const int64_t moved = (row * p.width + x + from + right) * p.c;
      f(from,
        to - from,
        MovedRun<T>{inside ? u + moved : nullptr,
                    inside && v != nullptr ? v + moved : nullptr,
                    base() + here,
                    how});
    };
    part(0, begin, false);
    part(begin, end, true);
    part(end, count, false);
  }

  // Pixels of a part of a slice, at row y and columns from x, `count` of them; zeros where they lie
  // outside of the image. With `sum` the channels are summed. `scratch` holds a row then.
  void row(Part part,
           const T* u,
           const T* v,
           const Moved<T>& how,
           int64_t down,
           int64_t right,
           int64_t y,
           int64_t x,
           int64_t count,
           T* out,
           bool sum = false,
           T* scratch = nullptr) const {
    const int64_t channels = sum ? 1 : p.c;
    const int64_t begin = y < 0 || y >= p.height ? count : math::clamp<int64_t>(-x, 0, count);
    const int64_t end = math::clamp<int64_t>(p.width - x, begin, count);
    std::fill_n(out, begin * channels, T(0));
    std::fill_n(out + end * channels, (count - end) * channels, T(0));
    if (end <= begin) return;
    T* const to = sum ? scratch : out + begin * channels;
    each_run(u,
             v,
             how,
             down,
             right,
             y,
             x + begin,
             end - begin,
             [&](int64_t at, int64_t n, const MovedRun<T>& run) {
               loops_.run(part, run, n * p.c, to + at * p.c);
             });
    if (!sum) return;
    for (int64_t j = begin; j < end; ++j) {
      T total = 0;
      for (int64_t c = 0; c < p.c; ++c) total += to[(j - begin) * p.c + c];
      out[j] = total;
    }
  }

 private:
  int64_t plane_;
  const MatchingVolumeLoopsOf<T>& loops_;
  Buffer<T> u_, v_;
};

// Weights of some channels as strip products take them, of taps (rows, columns) and of the columns
// k + K kd for the depth taps asked for. Those of `more`, if any, are added.
template <class T, class S>
Buffer<S> packed(const T* weight,
                 const VolumeProblem& p,
                 const Convolved& how,
                 int64_t first,
                 int64_t channels,
                 int64_t kd_begin,
                 int64_t kd_end,
                 const T* more = nullptr) {
  const int64_t width = volume_loops<T>().width, pair = in_bf16<S> ? 2 : 1;
  const int64_t padded = math::rounded_up(how.k, width), each = padded / width;
  const int64_t plane = how.taps[1] * how.taps[2], taps = how.taps[0] * plane;
  const int64_t size = (kd_end - kd_begin) * padded * plane * held<S>(channels);
  const auto values = buffer<T>(in_bf16<S> ? size : 1);
  auto out = buffer<S>(size);
  T* to = values.get();
  if constexpr (!in_bf16<S>) to = out.get();
  for (int64_t block = 0; block < (kd_end - kd_begin) * each; ++block) {
    const int64_t kd = kd_begin + block / each, k0 = block % each * width;
    for (int64_t t = 0; t < plane; ++t)
      for (int64_t c0 = 0; c0 < held<S>(channels); c0 += pair)
        for (int64_t k = k0; k < k0 + width; ++k)
          for (int64_t c = c0; c < c0 + pair; ++c, ++to) {
            const int64_t at = ((k * p.channels() + first + c) * taps) + kd * plane + t;
            const bool there = k < how.k && c < channels;
            *to = there ? weight[at] + (more == nullptr ? T(0) : more[at]) : T(0);
          }
  }
  if constexpr (in_bf16<S>)
    HDROPS_PICK(matching_volume_loops).round_bf16(values.get(), size, out.get());
  return out;
}

}  // namespace hdrops
