// Vectors of the level's width, by the compiler's own vector types. Included by cpp/simd/ only, so
// that each CPU level gets its own copy.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace hdrops {
namespace HDROPS_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int64_t vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int64_t vector_bytes = 32;
#else
constexpr int64_t vector_bytes = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(vector_bytes)));
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Index index __attribute__((vector_size(vector_bytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int64_t lanes = vector_bytes / static_cast<int64_t>(sizeof(T));

// Of any alignment.
template <class T>
inline Vector<T> load_vector(const T* from) {
  Vector<T> value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
inline void store_vector(T* to, Vector<T> value) {
  std::memcpy(to, &value, sizeof value);
}

// a b + c, rounded once where the level can.
#if defined(__AVX512F__)
[[maybe_unused]] inline Vector<float> multiply_add(Vector<float> a,
                                                   Vector<float> b,
                                                   Vector<float> c) {
  return _mm512_fmadd_ps(a, b, c);
}
[[maybe_unused]] inline Vector<double> multiply_add(Vector<double> a,
                                                    Vector<double> b,
                                                    Vector<double> c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__FMA__)
[[maybe_unused]] inline Vector<float> multiply_add(Vector<float> a,
                                                   Vector<float> b,
                                                   Vector<float> c) {
  return _mm256_fmadd_ps(a, b, c);
}
[[maybe_unused]] inline Vector<double> multiply_add(Vector<double> a,
                                                    Vector<double> b,
                                                    Vector<double> c) {
  return _mm256_fmadd_pd(a, b, c);
}
#else
template <class V>
inline V multiply_add(V a, V b, V c) {
  return a * b + c;
}
#endif

}  // namespace
}  // namespace HDROPS_LEVEL
}  // namespace hdrops
