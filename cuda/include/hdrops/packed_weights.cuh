// Weights packed for warp_products.cuh.
#pragma once

#include "hdrops/elementwise.cuh"
#include "hdrops/warp_products.cuh"

namespace hdrops {

// `count` matrices of (rows, columns), each in blocks of 32 columns, its rows padded with zeros.
struct PackedLayout {
  int64_t rows, columns, count;
  HDROPS_HD_MEMBER int64_t padded() const { return math::rounded_up(rows, channel_step); }
  HDROPS_HD_MEMBER int64_t blocks() const { return ceil_div(columns, warp_columns); }
  HDROPS_HD_MEMBER int64_t size() const { return count * blocks() * padded() * warp_columns; }
};

// The packed weights of block `block` of matrix `matrix`, from channel c.
template <class S>
struct PackedWeights {
  const S* data;
  int64_t padded, blocks;
  __device__ const S* at(int64_t matrix, int64_t block, int64_t c = 0) const {
    return data + ((matrix * blocks + block) * padded + c) * warp_columns;
  }
};

template <class S>
__global__ void pack_weights(const S* from,
                             S* to,
                             PackedLayout layout,
                             int64_t padded,
                             int64_t blocks,
                             int64_t of_row,
                             int64_t of_column,
                             int64_t of_matrix) {
  const int64_t block = padded * warp_columns;
  over(layout.count * blocks * block, [&](int64_t at) {
    int64_t row = 0;
    int32_t column = 0;
    unpacked_place<S>(at % block, row, column);
    const int64_t matrix = at / block / blocks;
    const int64_t k = at / block % blocks * warp_columns + column;
    const bool there = row < layout.rows && k < layout.columns;
    to[at] = there ? from[row * of_row + k * of_column + matrix * of_matrix] : S(0.0f);
  });
}

// Packs matrices of steps of_row, of_column and of_matrix from `from`. No step of rows repeats one.
template <class S>
void pack(const Launcher& launch,
          const S* from,
          S* to,
          const PackedLayout& layout,
          int64_t of_row,
          int64_t of_column,
          int64_t of_matrix) {
  launch(&pack_weights<S>,
         elementwise_blocks(layout.size()),
         elementwise_threads,
         0,
         from,
         to,
         layout,
         layout.padded(),
         layout.blocks(),
         of_row,
         of_column,
         of_matrix);
}

}  // namespace hdrops
