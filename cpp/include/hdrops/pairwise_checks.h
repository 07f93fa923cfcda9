// Argument checks of the operator pairwise_loss, shared by its CPU and CUDA kernels.
#pragma once

#include <cmath>
#include <optional>

#include "hdrops/math/pairwise.h"
#include "hdrops/tensor.h"

namespace hdrops {

struct PairwiseProblem {
  int64_t n, c, height, width, pairs;

  int64_t rows() const { return n * c; }
  int64_t plane() const { return height * width; }
};

inline PairwiseProblem check_pairwise_image(const char* op,
                                            const Tensor& prediction,
                                            const std::optional<Tensor>& sides,
                                            int64_t pairs) {
  check_dim(op, "prediction", prediction, 4, "(N, C, H, W)");
  STD_TORCH_CHECK(is_image(prediction.scalar_type()) && !is_code(prediction.scalar_type()),
                  op,
                  ": prediction must be floating point, got ",
                  dtype_name(prediction.scalar_type()));
  const PairwiseProblem p{
      prediction.size(0), prediction.size(1), prediction.size(2), prediction.size(3), pairs};
  constexpr int64_t most = (int64_t{1} << 31) - 1;
  STD_TORCH_CHECK(p.plane() <= most,
                  op,
                  ": a channel must have fewer than 2^31 pixels, got shape ",
                  shape_text(prediction));
  STD_TORCH_CHECK(pairs >= 1 && pairs <= most, op, ": pairs must be 1 to 2^31 - 1, got ", pairs);
  if (sides.has_value()) {
    STD_TORCH_CHECK(shape_of(*sides) == std::vector<int64_t>{p.n},
                    op,
                    ": sides must have shape (",
                    p.n,
                    "), got ",
                    shape_text(*sides));
    STD_TORCH_CHECK(sides->scalar_type() == ScalarType::Long, op, ": sides must be int64");
    check_same_device(op, "sides", *sides, prediction);
  }
  return p;
}

inline PairwiseProblem check_pairwise(const Tensor& prediction,
                                      const Tensor& target,
                                      const Tensor& seed,
                                      const std::optional<Tensor>& sides,
                                      int64_t pairs,
                                      double threshold,
                                      double limit,
                                      double least) {
  const char* op = "pairwise_loss";
  const PairwiseProblem p = check_pairwise_image(op, prediction, sides, pairs);
  STD_TORCH_CHECK(shape_of(target) == shape_of(prediction),
                  op,
                  ": target must have the shape of the prediction, got ",
                  shape_text(target));
  check_dtype(op, "target", target, prediction.scalar_type());
  check_same_device(op, "target", target, prediction);
  STD_TORCH_CHECK(seed.numel() == 1 && seed.scalar_type() == ScalarType::Long,
                  op,
                  ": seed must be one int64 number, got shape ",
                  shape_text(seed));
  check_same_device(op, "seed", seed, prediction);
  STD_TORCH_CHECK(threshold > 0 && std::isfinite(threshold),
                  op,
                  ": threshold must be positive and finite, got ",
                  threshold);
  STD_TORCH_CHECK(limit > 0 && limit <= 1, op, ": limit must be in (0, 1], got ", limit);
  STD_TORCH_CHECK(least > 0, op, ": least must be positive, got ", least);
  return p;
}

inline PairwiseProblem check_pairwise_backward(const Tensor& grad,
                                               const Tensor& prediction,
                                               const std::optional<Tensor>& sides,
                                               const Tensor& places,
                                               const Tensor& slopes) {
  const char* op = "pairwise_loss_backward";
  check_dim(op, "places", places, 4, "(N, C, 2, pairs)");
  const PairwiseProblem p = check_pairwise_image(op, prediction, sides, places.size(3));
  const std::vector<int64_t> pairs{p.n, p.c, 2, p.pairs};
  STD_TORCH_CHECK(shape_of(places) == pairs && places.scalar_type() == ScalarType::Int,
                  op,
                  ": places must be int32 of shape (N, C, 2, pairs), got shape ",
                  shape_text(places));
  STD_TORCH_CHECK(shape_of(slopes) == pairs,
                  op,
                  ": slopes must have the shape of places, got ",
                  shape_text(slopes));
  check_dtype(op, "slopes", slopes, compute_dtype(prediction.scalar_type()));
  STD_TORCH_CHECK(shape_of(grad) == (std::vector<int64_t>{p.n, p.c, 2}),
                  op,
                  ": grad must be (N, C, 2), got shape ",
                  shape_text(grad));
  check_same_device(op, "grad", grad, prediction);
  check_same_device(op, "places", places, prediction);
  check_same_device(op, "slopes", slopes, prediction);
  return p;
}

}  // namespace hdrops
