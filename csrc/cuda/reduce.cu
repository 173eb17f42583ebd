// Sums, maxima and minima over axes.
//
// A shape is split into the axes that are kept and those that go. Each result is the sum of `gone`
// elements, cut into parts of `chunk` where there are too few results to fill a GPU; a second
// kernel adds the parts. No atomics: two runs add in the same order.
#include "common.cuh"

struct Zero {
  template <class A>
  static INLINE A first() { return A(0); }
};

// Rows: the axes that go end in the last one, so a row of threads adds neighbours in memory.
template <template <class> class Operation, class T, class Start>
INLINE void reduce_rows(int64 count, int64 results, int64 gone, int64 chunk, const Strides& kept,
                        const Strides& away, const T* x, typename Wide<T>::type* part, T* y) {
  typedef typename Wide<T>::type A;
  for (int64 r = first_row(); r < count; r += all_rows()) {
    const int64 p = r / results, begin = p * chunk;
    const int64 size = gone - begin < chunk ? gone - begin : chunk;
    int64 base, at, unused;
    offsets(kept, r - p * results, base, unused);
    A sum = Start::template first<A>();
    for (int64 i = threadIdx.x; i < size; i += blockDim.x) {
      offsets(away, begin + i, at, unused);
      sum = Operation<A>::of(sum, A(x[base + at]));
    }
    sum = reduce_row<Operation>(sum);
    if (threadIdx.x == 0) {
      if (part) {
        part[r] = sum;
      } else {
        y[r] = T(sum);
      }
    }
  }
}

// Columns: the last axis is kept, so neighbours in memory belong to neighbouring results.
template <template <class> class Operation, class T, class Start>
INLINE void reduce_columns(int64 count, int64 results, int64 gone, int64 chunk,
                           const Strides& kept, const Strides& away, const T* x,
                           typename Wide<T>::type* part, T* y) {
  typedef typename Wide<T>::type A;
  for (int64 r = first_element(); r < count; r += all_threads()) {
    const int64 p = r / results, begin = p * chunk;
    const int64 end = begin + chunk < gone ? begin + chunk : gone;
    int64 base, at, unused;
    offsets(kept, r - p * results, base, unused);
    A sum = Start::template first<A>();
    for (int64 i = begin; i < end; ++i) {
      offsets(away, i, at, unused);
      sum = Operation<A>::of(sum, A(x[base + at]));
    }
    if (part) {
      part[r] = sum;
    } else {
      y[r] = T(sum);
    }
  }
}

// part: [parts, results].
template <template <class> class Operation, class T, class Start>
INLINE void reduce_parts(int64 results, int64 parts, const typename Wide<T>::type* part, T* y) {
  typedef typename Wide<T>::type A;
  for (int64 r = first_row(); r < results; r += all_rows()) {
    A sum = Start::template first<A>();
    for (int64 p = threadIdx.x; p < parts; p += blockDim.x) {
      sum = Operation<A>::of(sum, part[p * results + r]);
    }
    sum = reduce_row<Operation>(sum);
    if (threadIdx.x == 0) y[r] = T(sum);
  }
}

#define REDUCTION(operation, Operation, Start, name, T)                                       \
  KERNEL(operation##_rows_##name, (int64 count, int64 results, int64 gone, int64 chunk,       \
                                   Strides kept, Strides away, const T* x,                    \
                                   Wide<T>::type* part, T* y)) {                              \
    reduce_rows<Operation, T, Start>(count, results, gone, chunk, kept, away, x, part, y);    \
  }                                                                                           \
  KERNEL(operation##_columns_##name, (int64 count, int64 results, int64 gone, int64 chunk,    \
                                      Strides kept, Strides away, const T* x,                 \
                                      Wide<T>::type* part, T* y)) {                           \
    reduce_columns<Operation, T, Start>(count, results, gone, chunk, kept, away, x, part, y); \
  }                                                                                           \
  KERNEL(operation##_parts_##name, (int64 results, int64 parts, const Wide<T>::type* part,    \
                                    T* y)) {                                                  \
    reduce_parts<Operation, T, Start>(results, parts, part, y);                               \
  }

REDUCTION(sum, Sum, Zero, float32, float)
REDUCTION(sum, Sum, Zero, float16, float16)
REDUCTION(sum, Sum, Zero, bfloat16, bfloat16)
REDUCTION(sum, Sum, Zero, float64, double)
REDUCTION(sum, Sum, Zero, int32, int)
REDUCTION(sum, Sum, Zero, int64, int64)

struct Lowest {
  template <class A>
  static INLINE A first() { return A(-infinity()); }
};
struct Highest {
  template <class A>
  static INLINE A first() { return A(infinity()); }
};
REDUCTION(max, Max, Lowest, float32, float)
REDUCTION(min, Min, Highest, float32, float)
