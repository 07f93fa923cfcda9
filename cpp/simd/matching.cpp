#include "hdrops/simd/matching.h"

#include <cstring>
#include <type_traits>

#include "hdrops/simd/convert.h"
#include "hdrops/simd/vectors.h"

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

static_assert(matching_step % lanes<float> == 0);

// All rows of a group at one place: each term is loaded once for all of them.
template <class T, int64_t rows>
void sums_of(const MatchingSums<T>& of, T* const* sum) {
  for (int64_t x = 0; x < of.length; x += lanes<T>) {
    Vector<T> total[rows] = {};
    for (int64_t j = 0; j < of.terms; ++j) {
      const Vector<T> u = load_vector(of.u + of.of_u[j] + x);
      const T* const v = of.v + of.of_v[j] + x;
      for (int64_t k = 0; k < rows; ++k)
        total[k] = multiply_add(u, load_vector(v + of.along[k]), total[k]);
    }
    for (int64_t k = 0; k < rows; ++k) store_vector(sum[k] + x, total[k]);
  }
}

template <class T>
void sums(const MatchingSums<T>& of, T* const* sum) {
  switch (of.rows) {
    case 1:
      return sums_of<T, 1>(of, sum);
    case 2:
      return sums_of<T, 2>(of, sum);
    case 3:
      return sums_of<T, 3>(of, sum);
    case 4:
      return sums_of<T, 4>(of, sum);
    case 5:
      return sums_of<T, 5>(of, sum);
    case 6:
      return sums_of<T, 6>(of, sum);
    case 7:
      return sums_of<T, 7>(of, sum);
    default:
      return sums_of<T, matching_group>(of, sum);
  }
}

template <class T>
void load(const void* from, Storage storage, int64_t n, T* to) {
  if (storage == own_storage<T>) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  } else if constexpr (std::is_same_v<T, float>) {
    with_elements(from, storage, [&]<class In>(const In* stored) {
      if constexpr (!std::is_integral_v<In> && !std::is_same_v<In, double>) load_run(stored, n, to);
    });
  }
}

template <class T>
void store(const T* from, int64_t n, void* to, Storage storage) {
  if (storage == own_storage<T>) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  } else if constexpr (std::is_same_v<T, float>) {
    with_elements(to, storage, [&]<class Out>(Out* stored) {
      if constexpr (!std::is_integral_v<Out> && !std::is_same_v<Out, double>)
        store_run(from, n, stored);
    });
  }
}

}  // namespace

const MatchingLoops matching_loops = {
    .sums_f32 = sums<float>,
    .sums_f64 = sums<double>,
    .load_f32 = load<float>,
    .load_f64 = load<double>,
    .store_f32 = store<float>,
    .store_f64 = store<double>,
};

}  // namespace HDROPS_LEVEL
}  // namespace hdrops
