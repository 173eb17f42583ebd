// Sums over rows, in an order that the sizes alone decide: the gradients of biases, and the last
// step of those of a layer normalisation.
//
//   column_sums_TYPE  x [rows, width] -> partial [gridDim.y, width]: block (i, j) has the columns
//     256 i .. and the rows 8 j .., then those 8 gridDim.y further; blocks are (32, 8), width is a
//     multiple of 8 (of 4, and 128 columns a block, where TYPE is float)
//   sum_partials      partial [rows, width] -> first [split], second [width - split]; grid
//     ceil(width / 32), blocks (32, 32)
#include "columns.h"

namespace {
template <class T>
DEVICE void column_sums(i64 rows, int width, const T* x, float* partial) {
  ColumnSums<T> sums(width);
  for (i64 row = sums.row(); row < rows && sums.inside(); row += sums.step()) {
    float v[vector_size<T>];
    load(x + row * width + sums.column(), v);
    sums.add(v);
  }
  sums.finish(partial);
}
}  // namespace

KERNEL(column_sums_float, (i64 rows, int width, const float* x, float* partial)) {
  column_sums(rows, width, x, partial);
}
KERNEL(column_sums_half, (i64 rows, int width, const half* x, float* partial)) {
  column_sums(rows, width, x, partial);
}
KERNEL(column_sums_bfloat16, (i64 rows, int width, const bfloat16* x, float* partial)) {
  column_sums(rows, width, x, partial);
}

KERNEL(sum_partials, (int rows, int width, int split, const float* partial, float* first,
                      float* second)) {
  SHARED(float, sums, 32 * 33);
  const int column = blockIdx.x * 32 + threadIdx.x;
  float sum = 0;
  if (column < width) {
    for (int row = threadIdx.y; row < rows; row += 32) sum += partial[(i64)row * width + column];
  }
  sums[threadIdx.y * 33 + threadIdx.x] = sum;
  __syncthreads();
  sum = warp_sum(sums[threadIdx.x * 33 + threadIdx.y]);  // of column threadIdx.y of the block
  const int mine = blockIdx.x * 32 + threadIdx.y;
  if (threadIdx.x == 0 && mine < width) (mine < split ? first[mine] : second[mine - split]) = sum;
}
