// pairwise_loss on the CPU (Ren, Fan and Huang, "Robust real-world image enhancement based on
// multi-exposure LDR images", section 4.1).
//
// The channels of all images are shared by the threads; a channel is worked off by one of them, in
// the same order whatever their number. Its usable places are listed, so that one random number
// finds one. Sums over patches come from sums of 2, 4, 8 ... neighbours: what they take grows with
// the logarithm of the side, and equal patches have equal sums. Backward: the slopes of the pairs
// are scattered to the first pixels of their patches, and summed in the same way over those that
// cover a pixel.

#include "hdrops/simd/pairwise.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "hdrops/buffer.h"
#include "hdrops/pairwise_checks.h"

namespace hdrops {
namespace {

const PairwiseLoops& loops() { return HDROPS_PICK(pairwise_loops); }

template <class T>
const PairwiseRowLoops<T>& row_loops() {
  if constexpr (sizeof(T) == 8)
    return loops().f64;
  else
    return loops().f32;
}

// The sides of the patches of all images.
std::vector<int64_t> sides_of(const PairwiseProblem& p, const std::optional<Tensor>& sides) {
  std::vector<int64_t> result(static_cast<size_t>(p.n), 1);
  if (!sides.has_value()) return result;
  const Tensor numbers = torch::stable::contiguous(*sides);
  for (int64_t n = 0; n < p.n; ++n)
    result[static_cast<size_t>(n)] =
        math::patch_side(numbers.const_data_ptr<int64_t>()[n], p.height, p.width);
  return result;
}

// Calls f(row, scratch, index) for each channel of each image. Forward needs lists of places, and
// both images.
template <class T, class F>
void over_rows(const PairwiseProblem& p,
               Storage storage,
               const std::optional<Tensor>& sides_in,
               bool forward,
               const F& f) {
  const std::vector<int64_t> sides = sides_of(p, sides_in);
  const auto row_of = [&](int64_t index) {
    return PairwiseRow{
        storage, p.height, p.width, sides[static_cast<size_t>(index / p.c)], p.pairs};
  };
  torch::stable::parallel_for(0, p.rows(), 1, [&](int64_t begin, int64_t end) {
    int64_t size = 0;
    bool planes = storage != (sizeof(T) == 8 ? Storage::f64 : Storage::f32);
    for (int64_t index = begin; index < end; ++index) {
      size = std::max(size, pairwise_buffer_size(row_of(index)));
      planes = planes || row_of(index).side > 1;
    }
    const auto numbers = buffer<T>(size + (planes ? (forward ? 2 : 1) * p.plane() : 0));
    const auto choices = buffer<int32_t>(forward ? p.plane() : 0);
    const auto exposed = buffer<uint8_t>(forward ? p.plane() : 0);
    T* const first = numbers.get() + size;
    const PairwiseScratch<T> scratch{{first, first + (planes && forward ? p.plane() : 0)},
                                     numbers.get(),
                                     choices.get(),
                                     exposed.get()};
    for (int64_t index = begin; index < end; ++index) f(row_of(index), scratch, index);
  });
}

// What exceeds these in the targets is over-exposed: NaN, up to which nothing is, for targets that
// hold NaN.
std::vector<double> tops_of(const PairwiseProblem& p,
                            Storage storage,
                            const char* target,
                            double limit) {
  std::vector<double> largest(static_cast<size_t>(p.rows()));
  torch::stable::parallel_for(0, p.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      largest[static_cast<size_t>(row)] =
          loops().largest(target + row * p.plane() * bytes_of(storage), storage, p.plane());
  });
  std::vector<double> tops(static_cast<size_t>(p.n));
  for (int64_t n = 0; n < p.n; ++n) {
    double most = -std::numeric_limits<double>::infinity();
    for (int64_t c = 0; c < p.c; ++c) {
      const double value = largest[static_cast<size_t>(n * p.c + c)];
      if (!(value <= most)) most = value;
      if (value != value) break;
    }
    tops[static_cast<size_t>(n)] = limit * most;
  }
  return tops;
}

std::tuple<Tensor, Tensor, Tensor> pairwise_loss(const Tensor& prediction_in,
                                                 const Tensor& target_in,
                                                 const Tensor& seed,
                                                 std::optional<Tensor> sides,
                                                 int64_t pairs,
                                                 double threshold,
                                                 double limit,
                                                 bool ignore_ties,
                                                 double least) {
  const PairwiseProblem p =
      check_pairwise(prediction_in, target_in, seed, sides, pairs, threshold, limit, least);
  const Tensor prediction = torch::stable::contiguous(prediction_in);
  const Tensor target = torch::stable::contiguous(target_in);
  const ScalarType dtype = compute_dtype(prediction.scalar_type());
  Tensor sums = allocate({p.n, p.c, 2}, dtype, prediction);
  Tensor places = allocate({p.n, p.c, 2, pairs}, ScalarType::Int, prediction);
  Tensor slopes = allocate({p.n, p.c, 2, pairs}, dtype, prediction);
  if (p.rows() * p.plane() == 0) {
    for (Tensor* t : {&sums, &places, &slopes}) torch::stable::zero_(*t);
    return {sums, places, slopes};
  }
  const Storage storage = storage_of(prediction.scalar_type());
  const int64_t bytes = p.plane() * bytes_of(storage);
  const auto* given = static_cast<const char*>(prediction.const_data_ptr());
  const auto* wanted = static_cast<const char*>(target.const_data_ptr());
  const std::vector<double> tops = tops_of(p, storage, wanted, limit);
  const auto key = static_cast<uint64_t>(*seed.const_data_ptr<int64_t>());
  with_compute_type(prediction.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    T* const to_sums = sums.mutable_data_ptr<T>();
    auto* const to_places = places.mutable_data_ptr<int32_t>();
    T* const to_slopes = slopes.mutable_data_ptr<T>();
    over_rows<T>(p, storage, sides, true, [&](const auto& row, const auto& scratch, int64_t index) {
      const PairwiseDraw draw{key,
                              static_cast<uint32_t>(index),
                              tops[static_cast<size_t>(index / p.c)],
                              threshold,
                              least,
                              ignore_ties};
      row_loops<T>().forward(row,
                             draw,
                             given + index * bytes,
                             wanted + index * bytes,
                             scratch,
                             to_sums + 2 * index,
                             to_places + 2 * pairs * index,
                             to_slopes + 2 * pairs * index);
    });
  });
  return {sums, places, slopes};
}

Tensor pairwise_loss_backward(const Tensor& grad_in,
                              const Tensor& prediction,
                              const Tensor&,
                              const Tensor&,
                              std::optional<Tensor> sides,
                              const Tensor& places_in,
                              const Tensor& slopes_in,
                              double,
                              double,
                              bool,
                              double) {
  const PairwiseProblem p =
      check_pairwise_backward(grad_in, prediction, sides, places_in, slopes_in);
  const ScalarType stored = prediction.scalar_type();
  Tensor out = allocate(shape_of(prediction), stored, prediction);
  if (p.rows() * p.plane() == 0) return out;
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, compute_dtype(stored)));
  const Tensor places = torch::stable::contiguous(places_in);
  const Tensor slopes = torch::stable::contiguous(slopes_in);
  const Storage storage = storage_of(stored);
  const int64_t bytes = p.plane() * bytes_of(storage);
  auto* const to = static_cast<char*>(out.mutable_data_ptr());
  with_compute_type(stored, [&](auto zero) {
    using T = decltype(zero);
    const T* const upstream = grad.const_data_ptr<T>();
    const auto* from = places.const_data_ptr<int32_t>();
    const T* const weights = slopes.const_data_ptr<T>();
    over_rows<T>(
        p, storage, sides, false, [&](const auto& row, const auto& scratch, int64_t index) {
          row_loops<T>().backward(row,
                                  upstream[2 * index],
                                  from + 2 * p.pairs * index,
                                  weights + 2 * p.pairs * index,
                                  scratch,
                                  to + index * bytes);
        });
  });
  return out;
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) {
  m.impl("pairwise_loss", TORCH_BOX(&hdrops::pairwise_loss));
  m.impl("pairwise_loss_backward", TORCH_BOX(&hdrops::pairwise_loss_backward));
}
