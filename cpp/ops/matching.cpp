// matching on the CPU: features of one image against those of another, moved.

#include "hdrops/simd/matching.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

#include "hdrops/buffer.h"
#include "hdrops/matching_checks.h"

namespace hdrops {
namespace {

constexpr int64_t grain = 1 << 16;  // products that are worth a thread

const MatchingLoops& loops() { return HDROPS_PICK(matching_loops); }

void load(const void* from, Storage storage, int64_t n, float* to) {
  loops().load_f32(from, storage, n, to);
}
void load(const void* from, Storage storage, int64_t n, double* to) {
  loops().load_f64(from, storage, n, to);
}
void store(const float* from, int64_t n, void* to, Storage storage) {
  loops().store_f32(from, n, to, storage);
}
void store(const double* from, int64_t n, void* to, Storage storage) {
  loops().store_f64(from, n, to, storage);
}
void sum(const MatchingSums<float>& of, float* const* to) { loops().sums_f32(of, to); }
void sum(const MatchingSums<double>& of, double* const* to) { loops().sums_f64(of, to); }

struct Motion {
  int64_t index, down, right;
};

// The motions under which the image overlaps itself, and how far they reach to the left and right.
struct Motions {
  std::vector<Motion> all;
  int64_t left = 0, right = 0;

  Motions(const Tensor& motions, const CorrelationProblem& p) {
    const auto* at = motions.const_data_ptr<int64_t>();
    for (int64_t m = 0; m < p.motions; ++m) {
      const int64_t down = at[2 * m], right_by = at[2 * m + 1];
      if (down <= -p.height || down >= p.height || right_by <= -p.width || right_by >= p.width)
        continue;
      all.push_back({m, down, right_by});
      left = std::max(left, -right_by);
      right = std::max(right, right_by);
    }
  }
};

// Planes (count, H, W) in the arithmetic type, with zeros to the left and to the right of each row.
template <class T>
struct Padded {
  int64_t left, stride, plane;
  Buffer<T> memory;

  Padded(const void* from,
         Storage storage,
         int64_t count,
         const CorrelationProblem& p,
         int64_t left_pad,
         int64_t right_pad)
      : left(left_pad),
        stride(left_pad + math::rounded_up(p.width, matching_step) + right_pad),
        plane(plane_stride(p.height * stride)),
        // A run of the last row may end beyond it by as far as it is moved.
        memory(buffer<T>(count * plane + right_pad + matching_step)) {
    const auto* bytes = static_cast<const char*>(from);
    const int64_t rows = count * p.height;
    torch::stable::parallel_for(
        0, rows, std::max<int64_t>(1, grain / p.width), [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row) {
            T* const to = memory.get() + row / p.height * plane + row % p.height * stride;
            std::fill_n(to, left, T(0));
            load(bytes + row * p.width * bytes_of(storage), storage, p.width, to + left);
            std::fill_n(to + left + p.width, stride - left - p.width, T(0));
          }
        });
    std::fill_n(memory.get() + count * plane, right_pad + matching_step, T(0));
  }

  const T* get() const { return memory.get(); }

  // An odd number of cache lines: at a power of two, the same place of all planes would share a few
  // lines of the cache.
  static int64_t plane_stride(int64_t elements) {
    constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
    return (math::ceil_div(elements, line) | 1) * line;
  }
};

// What one row of the result is made of.
struct Terms {
  std::vector<int64_t> of_u, of_v, along, to;
};

// Writes rows of `out` (planes, H, W): for each y, `describe(y, terms)` fills in the terms and, for
// some planes, where they lie in v; all others become zero.
template <class T, class Describe>
void write_rows(const Padded<T>& u,
                const Padded<T>& v,
                const CorrelationProblem& p,
                int64_t planes,
                int64_t work,
                void* out,
                Storage storage,
                const Describe& describe) {
  const int64_t width = math::rounded_up(p.width, matching_step);
  const int64_t bytes = p.width * bytes_of(storage);
  const int64_t least = std::max<int64_t>(1, grain / std::max<int64_t>(1, work * p.width));
  torch::stable::parallel_for(0, p.height, least, [&](int64_t begin, int64_t end) {
    const auto scratch = buffer<T>(matching_group * width);
    T* row[matching_group];
    for (int64_t k = 0; k < matching_group; ++k) row[k] = scratch.get() + k * width;
    Terms terms;
    std::vector<char> written;
    for (int64_t y = begin; y < end; ++y) {
      const auto place = [&](int64_t index) {
        return static_cast<char*>(out) + (index * p.height + y) * bytes;
      };
      terms = {};
      describe(y, terms);
      written.assign(static_cast<size_t>(planes), 0);
      const auto count = static_cast<int64_t>(terms.to.size());
      for (int64_t k = 0; k < count; k += matching_group) {
        const int64_t rows = std::min(matching_group, count - k);
        sum(MatchingSums<T>{u.get(),
                            v.get(),
                            terms.of_u.data(),
                            terms.of_v.data(),
                            static_cast<int64_t>(terms.of_u.size()),
                            terms.along.data() + k,
                            rows,
                            p.width},
            row);
        for (int64_t r = 0; r < rows; ++r) {
          store(row[r], p.width, place(terms.to[k + r]), storage);
          written[terms.to[k + r]] = 1;
        }
      }
      for (int64_t index = 0; index < planes; ++index)
        if (!written[index]) std::memset(place(index), 0, static_cast<size_t>(bytes));
    }
  });
}

const void* image_of(const Tensor& t, int64_t n, int64_t elements) {
  return static_cast<const char*>(t.const_data_ptr()) +
         n * elements * bytes_of(storage_of(t.scalar_type()));
}
void* image_to_write(const Tensor& t, int64_t n, int64_t elements) {
  return static_cast<char*>(t.mutable_data_ptr()) +
         n * elements * bytes_of(storage_of(t.scalar_type()));
}

template <class T>
void correlate(const CorrelationProblem& p,
               const Tensor& a,
               const Tensor& b,
               const Motions& motions,
               const Tensor& out) {
  const Storage storage = storage_of(a.scalar_type());
  const int64_t features = p.c * plane_of(p), results = p.motions * plane_of(p);
  for (int64_t n = 0; n < p.n; ++n) {
    const Padded<T> u(image_of(a, n, features), storage, p.c, p, 0, 0);
    const Padded<T> v(image_of(b, n, features), storage, p.c, p, motions.left, motions.right);
    const auto describe = [&](int64_t y, Terms& terms) {
      for (int64_t c = 0; c < p.c; ++c) {
        terms.of_u.push_back(c * u.plane + y * u.stride);
        terms.of_v.push_back(c * v.plane + y * v.stride + v.left);
      }
      for (const Motion& m : motions.all) {
        if (y + m.down < 0 || y + m.down >= p.height) continue;
        terms.along.push_back(m.down * v.stride + m.right);
        terms.to.push_back(m.index);
      }
    };
    write_rows(
        u, v, p, p.motions, p.c * p.motions, image_to_write(out, n, results), storage, describe);
  }
}

// The gradient of a is that of features which are not moved, that of b of features which were: they
// gather from where they were moved to.
template <class T>
void correlate_backward(const CorrelationProblem& p,
                        const Tensor& grad,
                        const Tensor& other,
                        const Motions& motions,
                        bool moved,
                        const Tensor& out) {
  const Storage storage = storage_of(other.scalar_type());
  const int64_t features = p.c * plane_of(p), results = p.motions * plane_of(p);
  const int64_t left = moved ? motions.right : motions.left;
  const int64_t right = moved ? motions.left : motions.right;
  for (int64_t n = 0; n < p.n; ++n) {
    const Padded<T> u(
        image_of(grad, n, results), storage, p.motions, p, moved ? left : 0, moved ? right : 0);
    const Padded<T> v(image_of(other, n, features), storage, p.c, p, left, right);
    const auto describe = [&](int64_t y, Terms& terms) {
      for (const Motion& m : motions.all) {
        const int64_t row = moved ? y - m.down : y + m.down;
        if (row < 0 || row >= p.height) continue;
        const int64_t column = v.left + (moved ? -m.right : m.right);
        terms.of_v.push_back(row * v.stride + column);
        terms.of_u.push_back(m.index * u.plane + (moved ? row * u.stride + column : y * u.stride));
      }
      for (int64_t c = 0; c < p.c; ++c) {
        terms.along.push_back(c * v.plane);
        terms.to.push_back(c);
      }
    };
    write_rows(u, v, p, p.c, p.c * p.motions, image_to_write(out, n, features), storage, describe);
  }
}

void correlate_into(const CorrelationProblem& p,
                    const Tensor& a_in,
                    const Tensor& b_in,
                    const Tensor& motions_in,
                    const Tensor& out) {
  if (out.numel() == 0) return;
  const Tensor a = torch::stable::contiguous(a_in), b = torch::stable::contiguous(b_in);
  const Motions motions(torch::stable::contiguous(motions_in), p);
  with_compute_type(a.scalar_type(),
                    [&](auto zero) { correlate<decltype(zero)>(p, a, b, motions, out); });
}

Tensor correlation(const Tensor& a, const Tensor& b, const Tensor& motions) {
  const CorrelationProblem p = check_correlation("correlation", a, b, motions);
  const Tensor out = allocate(correlation_shape(p), a.scalar_type(), a);
  correlate_into(p, a, b, motions, out);
  return out;
}

void correlation_out(const Tensor& a, const Tensor& b, const Tensor& motions, Tensor out) {
  const CorrelationProblem p = check_correlation("correlation", a, b, motions);
  check_out("correlation", out, correlation_shape(p), a);
  check_dtype("correlation", "out", out, a.scalar_type());
  correlate_into(p, a, b, motions, out);
}

std::tuple<Tensor, Tensor> correlation_backward(const Tensor& grad_in,
                                                const Tensor& a_in,
                                                const Tensor& b_in,
                                                const Tensor& motions_in,
                                                bool wants_a,
                                                bool wants_b) {
  const CorrelationProblem p = check_correlation("correlation_backward", a_in, b_in, motions_in);
  check_correlation_grad(p, grad_in, a_in);
  const ScalarType dtype = a_in.scalar_type();
  const std::vector<int64_t> none = {0}, whole = shape_of(a_in);
  const Tensor grad_a = allocate(wants_a ? whole : none, dtype, a_in);
  const Tensor grad_b = allocate(wants_b ? whole : none, dtype, a_in);
  if (a_in.numel() == 0) return {grad_a, grad_b};
  const Tensor grad = torch::stable::contiguous(torch::stable::to(grad_in, dtype));
  const Tensor a = torch::stable::contiguous(a_in), b = torch::stable::contiguous(b_in);
  const Motions motions(torch::stable::contiguous(motions_in), p);
  with_compute_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    if (wants_a) correlate_backward<T>(p, grad, b, motions, false, grad_a);
    if (wants_b) correlate_backward<T>(p, grad, a, motions, true, grad_b);
  });
  return {grad_a, grad_b};
}

}  // namespace
}  // namespace hdrops

STABLE_TORCH_LIBRARY_IMPL(hdrops, CPU, m) {
  m.impl("correlation", TORCH_BOX(&hdrops::correlation));
  m.impl("correlation_out", TORCH_BOX(&hdrops::correlation_out));
  m.impl("correlation_backward", TORCH_BOX(&hdrops::correlation_backward));
}
