// A block (32, 8) that goes down a strip of columns, a vector of 16 bytes a lane, and sums each.
#pragma once

#include "device.h"

template <class T>
class ColumnSums {
  static constexpr int n = vector_size<T>;
  int width_;
  float sum_[n];

 public:
  DEVICE explicit ColumnSums(int width) : width_(width) {
    UNROLL for (int k = 0; k < n; ++k) sum_[k] = 0;
  }
  DEVICE int column() const { return (blockIdx.x * 32 + threadIdx.x) * n; }
  DEVICE bool inside() const { return column() < width_; }
  DEVICE i64 row() const { return blockIdx.y * (i64)blockDim.y + threadIdx.y; }
  DEVICE i64 step() const { return (i64)gridDim.y * blockDim.y; }
  DEVICE void add(const float (&v)[n]) {
    UNROLL for (int k = 0; k < n; ++k) sum_[k] += v[k];
  }
  // Writes the sums of the block to partial [gridDim.y, width]. All threads call it.
  DEVICE void finish(float* partial) {
    SHARED(float, total, 8 * 32 * n);
    UNROLL for (int k = 0; k < n; ++k) total[(threadIdx.y * n + k) * 32 + threadIdx.x] = sum_[k];
    __syncthreads();
    if (threadIdx.y || !inside()) return;
    UNROLL for (int k = 0; k < n; ++k) {
      float sum = 0;
      for (int y = 0; y < 8; ++y) sum += total[(y * n + k) * 32 + threadIdx.x];
      partial[blockIdx.y * (i64)width_ + column() + k] = sum;
    }
  }
};
