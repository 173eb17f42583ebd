// The order of the elements of each row.
#include "common.cuh"

// The place of an element is the number of those before it; equal ones keep their order, and NaN
// is larger than all. Rows of tokens are short: n comparisons for each element cost less than
// the passes of a sorting network.
template <class T>
INLINE bool comes_before(T a, T b, bool descending) {
  const bool nan_a = a != a, nan_b = b != b;
  if (nan_a || nan_b) return nan_a != nan_b && nan_a == descending;
  return descending ? a > b : a < b;
}

template <class T>
INLINE void arg_sort(int64 rows, int64 n, int descending, const T* x, int* y) {
  for (int64 r = first_row(); r < rows; r += all_rows()) {
    const T* row = x + r * n;
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) {
      const T own = row[i];
      int64 place = 0;
      for (int64 k = 0; k < n; ++k) {
        const bool before = comes_before(row[k], own, descending != 0);
        place += before || (k < i && !comes_before(own, row[k], descending != 0));
      }
      y[r * n + place] = (int)i;
    }
  }
}

#define SORT_KERNEL(name, T)                                                           \
  KERNEL(arg_sort_##name, (int64 rows, int64 n, int descending, const T* x, int* y)) { \
    arg_sort(rows, n, descending, x, y);                                               \
  }
SORT_KERNEL(float32, float)
SORT_KERNEL(float64, double)
SORT_KERNEL(int32, int)
SORT_KERNEL(int64, int64)
