// Elements moved, not computed: by their size in bytes, whatever their type.
//
// One strided copy serves permute, slice, the gradient of slice, concat, padding, broadcasting and
// making a tensor contiguous: the host puts each into sizes and strides, and takes the widest
// element that fits.
#include "common.cuh"

#define MOVING_KERNELS(bytes, T)                                                           \
  KERNEL(fill_##bytes, (int64 n, T value, T* y)) {                                         \
    for (int64 i = first_element(); i < n; i += all_threads()) y[i] = value;               \
  }                                                                                        \
  KERNEL(fill_with_##bytes, (int64 n, const T* value, T* y)) {                             \
    for (int64 i = first_element(); i < n; i += all_threads()) y[i] = *value;              \
  }                                                                                        \
  KERNEL(where_##bytes, (int64 n, Strides xy, Strides of_condition, const bool* condition, \
                         T scalar_x, T scalar_y, const T* x, const T* y, T* z)) {          \
    for (int64 i = first_element(); i < n; i += all_threads()) {                           \
      int64 a, b, c, unused;                                                               \
      offsets(xy, i, a, b);                                                                \
      offsets(of_condition, i, c, unused);                                                 \
      z[i] = condition[c] ? (x ? x[a] : scalar_x) : (y ? y[b] : scalar_y);                 \
    }                                                                                      \
  }                                                                                        \
  /* Sets y to x where *condition is not 0, or where it is. */                             \
  KERNEL(assign_if_##bytes, (int64 n, int wanted, int is_int64, const void* condition,     \
                             const T* x, T* y)) {                                          \
    if ((index_at(condition, is_int64, 0) != 0) != (wanted != 0)) return;                  \
    for (int64 i = first_element(); i < n; i += all_threads()) y[i] = x[i];                \
  }

#define COPY_KERNEL(bytes, T)                                    \
  KERNEL(copy_##bytes, (int64 n, Strides s, const T* x, T* y)) { \
    for (int64 i = first_element(); i < n; i += all_threads()) { \
      int64 a, b;                                                \
      offsets(s, i, a, b);                                       \
      y[b] = x[a];                                               \
    }                                                            \
  }

MOVING_KERNELS(1, unsigned char)
MOVING_KERNELS(2, unsigned short)
MOVING_KERNELS(4, unsigned)
MOVING_KERNELS(8, unsigned long long)
COPY_KERNEL(1, unsigned char)
COPY_KERNEL(2, unsigned short)
COPY_KERNEL(4, unsigned)
COPY_KERNEL(8, unsigned long long)
COPY_KERNEL(16, bytes16)
