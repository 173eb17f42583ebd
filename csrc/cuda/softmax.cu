// Softmax and log-softmax of rows, and their gradients.
#include "common.cuh"

template <class T>
INLINE void softmax(int64 rows, int64 n, int logarithm, const T* x, T* y) {
  typedef typename Wide<T>::type A;
  for (int64 r = first_row(); r < rows; r += all_rows()) {
    const T* from = x + r * n;
    T* to = y + r * n;
    A most = A(-infinity());
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) most = Max<A>::of(most, A(from[i]));
    most = reduce_row<Max>(most);
    A sum = 0;
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) sum += exp_of(A(from[i]) - most);
    sum = reduce_row<Sum>(sum);
    if (logarithm) {
      const A log_sum = log_of(sum);
      for (int64 i = threadIdx.x; i < n; i += blockDim.x) to[i] = T(A(from[i]) - most - log_sum);
    } else {
      const A scale = A(1) / sum;
      for (int64 i = threadIdx.x; i < n; i += blockDim.x) {
        to[i] = T(exp_of(A(from[i]) - most) * scale);
      }
    }
  }
}

// y is the result of the forward pass: of the logarithm, logarithms.
template <class T>
INLINE void softmax_grad(int64 rows, int64 n, int logarithm, const T* y, const T* dy, T* dx) {
  typedef typename Wide<T>::type A;
  for (int64 r = first_row(); r < rows; r += all_rows()) {
    const T *p = y + r * n, *d = dy + r * n;
    T* to = dx + r * n;
    A sum = 0;
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) {
      sum += A(d[i]) * (logarithm ? A(1) : A(p[i]));
    }
    sum = reduce_row<Sum>(sum);
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) {
      to[i] = T(logarithm ? A(d[i]) - exp_of(A(p[i])) * sum : A(p[i]) * (A(d[i]) - sum));
    }
  }
}

#define SOFTMAX_KERNELS(name, T)                                                            \
  KERNEL(softmax_##name, (int64 rows, int64 n, int logarithm, const T* x, T* y)) {          \
    softmax(rows, n, logarithm, x, y);                                                      \
  }                                                                                         \
  KERNEL(softmax_grad_##name, (int64 rows, int64 n, int logarithm, const T* y, const T* dy, \
                               T* dx)) {                                                    \
    softmax_grad(rows, n, logarithm, y, dy, dx);                                            \
  }

SOFTMAX_KERNELS(float32, float)
SOFTMAX_KERNELS(float16, float16)
SOFTMAX_KERNELS(bfloat16, bfloat16)
SOFTMAX_KERNELS(float64, double)
