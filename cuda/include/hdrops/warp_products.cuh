// Matrix products of a warp whose left operand is made in registers: each lane makes what it
// multiplies, so that warps share nothing and never wait for each other. float16 and bfloat16 go to
// the tensor cores, everything else to multiply-adds.
//
// A warp has rows (pixels) and 32 columns. Lane 4 g + t holds of its rows g + 8 i the columns
// 8 j + 2 t + b, in sums[i][2 j + b]. Channels are taken a span at a time; a lane gives four of them
// for each of its rows, from lane_channel(): on tensor cores a quarter of the span, else all of it.
#pragma once

#include "hdrops/assembly.cuh"
#include "hdrops/math/common.h"
#include "hdrops/storage.cuh"
#include "hdrops/warp.cuh"

namespace hdrops {

constexpr int32_t warp_columns = 32, lane_columns = 8, quad = 4;
constexpr int32_t channel_step = 16;  // packed weights and features have a multiple of it

// A block is of warps that share nothing.
constexpr int32_t block_warps = 4, block_threads = block_warps * warp_size;

// Rows of a lane, rows of a warp, channels of a span.
template <class S>
constexpr int32_t lane_rows = std::is_same_v<S, double> ? 2 : 4;
template <class S>
constexpr int32_t warp_rows = 8 * lane_rows<S>;
template <class S>
constexpr int32_t span = on_tensor_cores<S> ? channel_step : quad;

__device__ inline int32_t lane_of_thread() { return static_cast<int32_t>(threadIdx.x) % warp_size; }
__device__ inline int32_t warp_of_thread() { return static_cast<int32_t>(threadIdx.x) / warp_size; }

// The row of the warp that is the lane's i-th, and the column of its sums[i][k].
__device__ inline int32_t row_of_lane(int32_t i) { return 8 * i + lane_of_thread() / quad; }
__device__ inline int32_t column_of_lane(int32_t k) {
  return 8 * (k / 2) + 2 * (lane_of_thread() % quad) + k % 2;
}
template <class S>
__device__ inline int32_t lane_channel() {
  return on_tensor_cores<S> ? quad * (lane_of_thread() % quad) : 0;
}

// Neighbouring values as they are loaded; those of 16 bits lie in pairs, half the registers.
template <class S, int32_t count>
struct alignas(sizeof(S) * count) Loaded {
  static constexpr bool pairs = sizeof(S) == 2 && count % 2 == 0;
  std::conditional_t<pairs, uint32_t, S> item[pairs ? count / 2 : count];

  __device__ Compute<S> operator[](int32_t k) const {
    if constexpr (pairs)
      return of_pair<S>(item[k / 2], k % 2);
    else
      return static_cast<Compute<S>>(item[k]);
  }
  __device__ static Loaded zeros() {
    Loaded zeros;
#pragma unroll
    for (auto& value : zeros.item) value = {};
    return zeros;
  }
};

// What a lane gives of its rows, computed or as loaded, and what it holds of the results.
template <class S>
using Quads = Compute<S>[lane_rows<S>][quad];
template <class S>
using LoadedQuads = Loaded<S, quad>[lane_rows<S>];
template <class S>
using Sums = Compute<S>[lane_rows<S>][lane_columns];

template <class S, class Array>
__device__ inline void clear(Array& values) {
#pragma unroll
  for (auto& row : values)
#pragma unroll
    for (auto& value : row) value = 0;
}

// Where element `index` of weights that are packed for products lies in (channels, 32 columns) of
// them: channel and column. Each 16 channels are 512 elements.
template <class S>
__device__ inline void unpacked_place(int64_t index, int64_t& channel, int32_t& column) {
  if constexpr (on_tensor_cores<S>) {
    const auto at = static_cast<int32_t>(index % (channel_step * warp_columns));
    const int32_t lane = at / channel_step, k = at % channel_step;
    channel =
        index / (channel_step * warp_columns) * channel_step + quad * (lane % quad) + k % quad;
    column = 8 * (k / quad) + lane / quad;
  } else {
    channel = index / warp_columns;
    column = static_cast<int32_t>(index % warp_columns);
  }
}

// Two neighbouring values of a row for the tensor cores.
template <class S>
__device__ __forceinline__ uint32_t pair_of(const Compute<S> (&row)[quad], int32_t k) {
  return packed_pair<S>(row[2 * k], row[2 * k + 1]);
}
template <class S>
__device__ __forceinline__ uint32_t pair_of(const Loaded<S, quad>& row, int32_t k) {
  return row.item[k];
}

// sums += a weights, of one span of channels, whose packed weights `weights` points to; a are Quads
// or LoadedQuads.
template <class S, class Rows>
__device__ __forceinline__ void add_product(Sums<S>& sums, const Rows& a, const S* weights) {
  if constexpr (on_tensor_cores<S>) {
    const uint4* from = reinterpret_cast<const uint4*>(weights + lane_of_thread() * channel_step);
    const uint4 first = from[0], second = from[1];
    const uint32_t b[4][2] = {
        {first.x, first.y}, {first.z, first.w}, {second.x, second.y}, {second.z, second.w}};
#pragma unroll
    for (int32_t m = 0; m < lane_rows<S>; m += 2) {
      const uint32_t tile[4] = {pair_of<S>(a[m], 0),
                                pair_of<S>(a[m + 1], 0),
                                pair_of<S>(a[m], 1),
                                pair_of<S>(a[m + 1], 1)};
#pragma unroll
      for (int32_t j = 0; j < 4; ++j)
        multiply_add_tile<S>(sums[m][2 * j],
                             sums[m][2 * j + 1],
                             sums[m + 1][2 * j],
                             sums[m + 1][2 * j + 1],
                             tile,
                             b[j][0],
                             b[j][1]);
    }
  } else {
    using T = Compute<S>;
    const int32_t first = 2 * (lane_of_thread() % quad);
#pragma unroll
    for (int32_t c = 0; c < quad; ++c) {
      T b[lane_columns];
#pragma unroll
      for (int32_t j = 0; j < 4; ++j) {
        const auto pair =
            *reinterpret_cast<const Pack<S, 2>*>(weights + c * warp_columns + 8 * j + first);
        b[2 * j] = static_cast<T>(pair.item[0]);
        b[2 * j + 1] = static_cast<T>(pair.item[1]);
      }
#pragma unroll
      for (int32_t i = 0; i < lane_rows<S>; ++i)
#pragma unroll
        for (int32_t k = 0; k < lane_columns; ++k) sums[i][k] += a[i][c] * b[k];
    }
  }
}

// a b of each value, rounded to S where that is what is multiplied.
template <class S>
struct ProductRows {
  std::conditional_t<on_tensor_cores<S>, Loaded<S, quad>, Compute<S>[quad]> row[lane_rows<S>];
  __device__ const auto& operator[](int32_t i) const { return row[i]; }
};
template <class S>
__device__ __forceinline__ ProductRows<S> products(const LoadedQuads<S>& a,
                                                   const LoadedQuads<S>& b) {
  ProductRows<S> out;
#pragma unroll
  for (int32_t i = 0; i < lane_rows<S>; ++i) {
    if constexpr (on_tensor_cores<S>) {
#pragma unroll
      for (int32_t k = 0; k < 2; ++k)
        out.row[i].item[k] = multiplied_pairs<S>(a[i].item[k], b[i].item[k]);
    } else {
#pragma unroll
      for (int32_t k = 0; k < quad; ++k) out.row[i][k] = a[i][k] * b[i][k];
    }
  }
  return out;
}

// Four neighbouring values from `from`, of which `known` exist, zeros behind them. `aligned` says that
// all four can be loaded at once where they exist.
template <class S>
__device__ __forceinline__ Loaded<S, quad> load_quad(const S* from, bool aligned, int64_t known) {
  if (aligned && known >= quad) return *reinterpret_cast<const Loaded<S, quad>*>(from);
  S values[quad];
#pragma unroll
  for (int32_t k = 0; k < quad; ++k) values[k] = k < known ? from[k] : static_cast<S>(0.0f);
  Loaded<S, quad> quads;
  memcpy(&quads, values, sizeof quads);
  return quads;
}

// Whether `count` neighbouring values can be loaded at once at each `count`-th of t.
template <class S>
bool is_aligned(const Tensor& t, int64_t count) {
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % (count * sizeof(S)) == 0;
}

// A row of sums, with a bias and ReLU, to the columns of a block of 32 of those of `to`.
template <class S>
__device__ __forceinline__ void store_row(const Compute<S> (&row)[lane_columns],
                                          const S* bias,
                                          bool relu,
                                          int64_t block,
                                          int64_t columns,
                                          S* to) {
  using T = Compute<S>;
#pragma unroll
  for (int32_t k = 0; k < lane_columns; ++k) {
    const int64_t column = block * warp_columns + column_of_lane(k);
    if (column >= columns) continue;
    T value = row[k] + (bias == nullptr ? T(0) : static_cast<T>(bias[column]));
    if (relu) value = math::at_least_0(value);
    to[column] = static_cast<S>(value);
  }
}

// ---- outer products, summed over rows ----
//
// Here rows are what is summed over, and a lane gives four channels from 4 g of each row, and
// columns: on tensor cores of its own rows 4 t + i, four columns from 4 g; else of all rows, eight
// columns from 8 t. Its sums[m][j][k] are those of channel 4 g + 2 m + k / 2 and column
// 8 t + 4 (k % 2) + j.

template <class S>
constexpr int32_t outer_rows = on_tensor_cores<S> ? 16 : 4;
template <class S>
constexpr int32_t outer_columns = on_tensor_cores<S> ? 4 : 8;
template <class S>
using OuterSums = Compute<S>[2][16];
template <class S>
using OuterRows = Compute<S>[quad][quad];
template <class S>
using OuterColumns = Compute<S>[quad][outer_columns<S>];

// The row of a lane's i-th, and its first channel and column.
template <class S>
__device__ inline int32_t outer_row(int32_t i) {
  return on_tensor_cores<S> ? quad * (lane_of_thread() % quad) + i : i;
}
__device__ inline int32_t outer_channel() { return lane_of_thread() / quad * quad; }
template <class S>
__device__ inline int32_t outer_column() {
  return on_tensor_cores<S> ? lane_of_thread() / quad * quad : lane_of_thread() % quad * 8;
}
__device__ inline int32_t outer_sum_channel(int32_t m, int32_t k) {
  return outer_channel() + 2 * m + k % 4 / 2;
}
__device__ inline int32_t outer_sum_column(int32_t k) {
  return lane_of_thread() % quad * 8 + 4 * (k % 2) + k / 4;
}

template <class S>
__device__ __forceinline__ void add_outer(OuterSums<S>& sums,
                                          const OuterRows<S>& a,
                                          const OuterColumns<S>& b) {
  if constexpr (on_tensor_cores<S>) {
    uint32_t right[4][2];
#pragma unroll
    for (int32_t j = 0; j < 4; ++j) {
      right[j][0] = packed_pair<S>(b[0][j], b[1][j]);
      right[j][1] = packed_pair<S>(b[2][j], b[3][j]);
    }
#pragma unroll
    for (int32_t m = 0; m < 2; ++m) {
      const uint32_t left[4] = {packed_pair<S>(a[0][2 * m], a[1][2 * m]),
                                packed_pair<S>(a[0][2 * m + 1], a[1][2 * m + 1]),
                                packed_pair<S>(a[2][2 * m], a[3][2 * m]),
                                packed_pair<S>(a[2][2 * m + 1], a[3][2 * m + 1])};
#pragma unroll
      for (int32_t j = 0; j < 4; ++j)
        multiply_add_tile<S>(sums[m][4 * j],
                             sums[m][4 * j + 1],
                             sums[m][4 * j + 2],
                             sums[m][4 * j + 3],
                             left,
                             right[j][0],
                             right[j][1]);
    }
  } else {
#pragma unroll
    for (int32_t i = 0; i < quad; ++i)
#pragma unroll
      for (int32_t m = 0; m < 2; ++m)
#pragma unroll
        for (int32_t j = 0; j < 4; ++j)
#pragma unroll
          for (int32_t k = 0; k < 4; ++k)
            sums[m][4 * j + k] += a[i][2 * m + k / 2] * b[i][4 * (k % 2) + j];
  }
}

}  // namespace hdrops
