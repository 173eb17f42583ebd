// Rows taken by their indices, and the sums of rows that share one (the gradient of the former).
#include "common.cuh"

// x [outer, rows, inner] and count indices, for each outer or for all of them -> y [outer, count,
// inner]. An index less `first` that lies outside the rows gives 0: another rank has it.
#define GATHER_KERNEL(bytes, T)                                                                \
  KERNEL(gather_##bytes, (int64 n, int64 rows, int64 inner, int64 count, int batched,          \
                          int64 first, int is_int64, const void* indices, const T* x, T* y)) { \
    for (int64 i = first_element(); i < n; i += all_threads()) {                               \
      const int64 row = i / inner, column = i - row * inner;                                   \
      const int64 outer = row / count, k = row - outer * count;                                \
      const int64 id = index_at(indices, is_int64, batched ? row : k) - first;                 \
      const bool inside = id >= 0 && id < rows;                                                \
      y[i] = inside ? x[(outer * rows + id) * inner + column] : (T)0;                          \
    }                                                                                          \
  }
GATHER_KERNEL(1, unsigned char)
GATHER_KERNEL(2, unsigned short)
GATHER_KERNEL(4, unsigned)
GATHER_KERNEL(8, unsigned long long)

// x [outer, count, inner], indices as above -> y [outer, rows, inner]: each the sum of the x of its
// index, in their order. Every result looks through all indices, which neighbours share: no
// atomics, so two runs agree in every bit.
#define SEGMENT_SUM_KERNEL(name, T)                                                       \
  KERNEL(segment_sum_##name, (int64 n, int64 rows, int64 inner, int64 count, int batched, \
                              int64 first, int is_int64, const void* indices, const T* x, \
                              T* y)) {                                                    \
    for (int64 i = first_element(); i < n; i += all_threads()) {                          \
      const int64 line = i / inner, column = i - line * inner;                            \
      const int64 outer = line / rows, wanted = line - outer * rows + first;              \
      Wide<T>::type sum = 0;                                                              \
      for (int64 k = 0; k < count; ++k) {                                                 \
        if (index_at(indices, is_int64, batched ? outer * count + k : k) == wanted) {     \
          sum += (Wide<T>::type)x[(outer * count + k) * inner + column];                  \
        }                                                                                 \
      }                                                                                   \
      y[i] = T(sum);                                                                      \
    }                                                                                     \
  }
SEGMENT_SUM_KERNEL(float32, float)
SEGMENT_SUM_KERNEL(float16, float16)
SEGMENT_SUM_KERNEL(bfloat16, bfloat16)
SEGMENT_SUM_KERNEL(float64, double)
