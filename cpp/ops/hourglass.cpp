// Transposed 3D convolution on the CPU, channels last, with bias and ReLU.
//
// Places of the result that leave the same remainders by the strides are reached by the same taps.
// Of such places in a row, neighbours read neighbours: each is a strip product with the taps that
// reach it, whatever the dilation.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "hdrops/hourglass_checks.h"
#include "hdrops/strip_products.h"

namespace hdrops {
namespace {

// The taps of one axis that reach a place, and what they read.
struct Reached {
  std::vector<int64_t> taps, from;
};

Reached reached(const TransposedProblem& p, int axis, int64_t place) {
  Reached found;
  for (int64_t k = 0; k < p.taps[axis]; ++k) {
    const int64_t at = place + p.padding[axis] - k * p.dilation[axis];
    if (at % p.stride[axis] != 0) continue;
    found.taps.push_back(k);
    found.from.push_back(at / p.stride[axis]);
  }
  return found;
}

template <class T>
class Transposed {
 public:
  Transposed(const TransposedProblem& problem, const T* weight, const T* bias)
      : p_(problem),
        loops_(volume_loops<T>()),
        padded_(math::rounded_up(p_.k, loops_.width)),
        bias_(buffer<T>(padded_)) {
    std::fill_n(bias_.get(), padded_, T(0));
    if (bias != nullptr) std::copy_n(bias, p_.k, bias_.get());
    for (int axis = 0; axis < 3; ++axis)
      remainders_[axis] = std::min(p_.stride[axis], p_.out[axis]);
    for (int64_t d = 0; d < remainders_[0]; ++d)
      for (int64_t h = 0; h < remainders_[1]; ++h)
        for (int64_t w = 0; w < remainders_[2]; ++w)
          weights_.push_back(
              pack(weight, reached(p_, 0, d).taps, reached(p_, 1, h).taps, reached(p_, 2, w).taps));
  }

  void run(const Tensor& x, bool relu, const Tensor& out) const {
    const Storage storage = storage_of(x.scalar_type());
    const int64_t bytes = bytes_of(storage), rows = p_.n * p_.out[0] * p_.out[1];
    // Columns that taps read before and after the row.
    const int64_t far = p_.dilation[2] * (p_.taps[2] - 1);
    const int64_t before = math::ceil_div(std::max<int64_t>(0, far - p_.padding[2]), p_.stride[2]);
    const int64_t last = (p_.out[2] - 1 + p_.padding[2]) / p_.stride[2];
    const int64_t wide = before + std::max(last + 1, p_.in[2]);
    const auto* from = static_cast<const char*>(x.const_data_ptr());
    auto* to = static_cast<char*>(out.mutable_data_ptr());
    torch::stable::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      const auto lines = buffer<T>(p_.taps[0] * p_.taps[1] * wide * p_.c);
      const auto tile = buffer<T>(loops_.pixels * padded_);
      std::vector<int64_t> offsets;
      for (int64_t row = begin; row < end; ++row) {
        const int64_t h = row % p_.out[1], d = row / p_.out[1] % p_.out[0];
        const int64_t n = row / (p_.out[0] * p_.out[1]);
        const Reached deep = reached(p_, 0, d), high = reached(p_, 1, h);
        T* line = lines.get();
        for (const int64_t z : deep.from)
          for (const int64_t y : high.from) {
            const bool inside = z >= 0 && z < p_.in[0] && y >= 0 && y < p_.in[1];
            std::fill_n(line, (inside ? before : wide) * p_.c, T(0));
            if (inside) {
              const int64_t at = ((n * p_.in[0] + z) * p_.in[1] + y) * p_.in[2] * p_.c;
              load_elements(from + at * bytes, storage, p_.in[2] * p_.c, line + before * p_.c);
              std::fill_n(
                  line + (before + p_.in[2]) * p_.c, (wide - before - p_.in[2]) * p_.c, T(0));
            }
            line += wide * p_.c;
          }
        const auto count = static_cast<int64_t>(deep.from.size() * high.from.size());
        for (int64_t w = 0; w < remainders_[2]; ++w) {
          const Reached along = reached(p_, 2, w);
          const int64_t pixels = math::ceil_div(p_.out[2] - w, p_.stride[2]);
          offsets.clear();
          for (int64_t k = 0; k < count; ++k)
            for (const int64_t column : along.from)
              offsets.push_back((k * wide + before + column) * p_.c);
          const int64_t remainder =
              (d % p_.stride[0] * remainders_[1] + h % p_.stride[1]) * remainders_[2] + w;
          for (int64_t first = 0; first < pixels; first += loops_.pixels) {
            const int64_t these = std::min(loops_.pixels, pixels - first);
            for (int64_t j = 0; j < these; ++j)
              std::copy_n(bias_.get(), padded_, tile.get() + j * padded_);
            loops_.multiply({lines.get() + first * p_.c,
                             p_.c,
                             offsets.data(),
                             static_cast<int64_t>(offsets.size()),
                             p_.c,
                             weights_[remainder].get(),
                             padded_ / loops_.width,
                             these,
                             tile.get(),
                             padded_});
            if (relu) loops_.relu(these * padded_, tile.get());
            for (int64_t j = 0; j < these; ++j) {
              const int64_t place = row * p_.out[2] + w + (first + j) * p_.stride[2];
              store_elements(tile.get() + j * padded_, p_.k, to + place * p_.k * bytes, storage);
            }
          }
        }
      }
    });
  }

 private:
  // [block][tap][channel][width]
  Buffer<T> pack(const T* weight,
                 const std::vector<int64_t>& deep,
                 const std::vector<int64_t>& high,
                 const std::vector<int64_t>& along) const {
    const int64_t width = loops_.width;
    const auto taps = static_cast<int64_t>(deep.size() * high.size() * along.size());
    auto out = buffer<T>(std::max<int64_t>(1, padded_ * taps * p_.c));
    T* to = out.get();
    for (int64_t first = 0; first < padded_; first += width)
      for (const int64_t kd : deep)
        for (const int64_t kh : high)
          for (const int64_t kw : along)
            for (int64_t c = 0; c < p_.c; ++c)
              for (int64_t k = first; k < first + width; ++k, ++to) {
                const int64_t tap = (kd * p_.taps[1] + kh) * p_.taps[2] + kw;
                const int64_t all = p_.taps[0] * p_.taps[1] * p_.taps[2];
                *to = k < p_.k ? weight[(c * p_.k + k) * all + tap] : T(0);
              }
    return out;
  }

  const TransposedProblem& p_;
  const MatchingVolumeLoopsOf<T>& loops_;
  int64_t padded_, remainders_[3];
  Buffer<T> bias_;
  std::vector<Buffer<T>> weights_;
};

Tensor deconv3d(const Tensor& x_in,
                const Tensor& weight_in,
                const std::optional<Tensor> bias_in,
                const std::vector<int64_t> stride,
                const std::vector<int64_t> padding,
                const std::vector<int64_t> output_padding,
                const std::vector<int64_t> dilation,
                bool relu) {
  const TransposedProblem p = check_transposed(
      "deconv3d", x_in, weight_in, bias_in, stride, padding, output_padding, dilation);
  const Tensor out = allocate({p.n, p.out[0], p.out[1], p.out[2], p.k}, x_in.scalar_type(), x_in);
  if (out.numel() == 0) return out;
  const Tensor x = torch::stable::contiguous(x_in), weight = torch::stable::contiguous(weight_in);
  std::optional<Tensor> bias;
  if (bias_in) bias = torch::stable::contiguous(*bias_in);
  with_compute_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto weights = elements_of<T>(weight);
    const auto biases = bias ? elements_of<T>(*bias) : Buffer<T>();
    Transposed<T>(p, weights.get(), biases.get()).run(x, relu, out);
  });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) { m.impl("deconv3d", TORCH_BOX(&hdrops::deconv3d)); }
