// Layer normalisation of rows and its gradients.
//
// Statistics are float for 16-bit rows. The variance is that of the centred row, in a second pass:
// a difference of squares would lose digits.
#include "common.cuh"

template <class T>
INLINE void layer_norm(int64 rows, int64 n, double epsilon, const T* x, const T* gamma,
                       const T* beta, T* y, typename Wide<T>::type* mean,
                       typename Wide<T>::type* inverse) {
  typedef typename Wide<T>::type A;
  for (int64 r = first_row(); r < rows; r += all_rows()) {
    const T* from = x + r * n;
    T* to = y + r * n;
    A sum = 0;
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) sum += A(from[i]);
    const A m = reduce_row<Sum>(sum) / A(n);
    A squares = 0;
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) {
      const A centred = A(from[i]) - m;
      squares += centred * centred;
    }
    const A s = A(1) / sqrt_of(reduce_row<Sum>(squares) / A(n) + A(epsilon));
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) {
      A value = (A(from[i]) - m) * s;
      if (gamma) value *= A(gamma[i]);
      if (beta) value += A(beta[i]);
      to[i] = T(value);
    }
    if (threadIdx.x == 0) {
      mean[r] = m;
      inverse[r] = s;
    }
  }
}

// more: a tensor that is added to the gradient, or null.
template <class T>
INLINE void layer_norm_grad(int64 rows, int64 n, const T* dy, const T* x,
                            const typename Wide<T>::type* mean,
                            const typename Wide<T>::type* inverse, const T* gamma, const T* more,
                            T* dx) {
  typedef typename Wide<T>::type A;
  for (int64 r = first_row(); r < rows; r += all_rows()) {
    const T *from = x + r * n, *slope = dy + r * n;
    const A m = mean[r], s = inverse[r];
    A sum = 0, product = 0;
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) {
      const A g = A(slope[i]) * (gamma ? A(gamma[i]) : A(1));
      sum += g;
      product += g * (A(from[i]) - m) * s;
    }
    sum = reduce_row<Sum>(sum) / A(n);
    product = reduce_row<Sum>(product) / A(n);
    for (int64 i = threadIdx.x; i < n; i += blockDim.x) {
      const A g = A(slope[i]) * (gamma ? A(gamma[i]) : A(1));
      A value = s * (g - sum - (A(from[i]) - m) * s * product);
      if (more) value += A(more[r * n + i]);
      dx[r * n + i] = T(value);
    }
  }
}

// The sums of column i % n over part i / n of the rows; sum_parts of reduce.cu adds the parts.
template <class T>
INLINE void layer_norm_param_grad(int64 count, int64 rows, int64 n, int64 chunk, const T* dy,
                                  const T* x, const typename Wide<T>::type* mean,
                                  const typename Wide<T>::type* inverse,
                                  typename Wide<T>::type* gamma, typename Wide<T>::type* beta) {
  typedef typename Wide<T>::type A;
  for (int64 i = first_element(); i < count; i += all_threads()) {
    const int64 part = i / n, column = i - part * n, begin = part * chunk;
    const int64 end = begin + chunk < rows ? begin + chunk : rows;
    A of_gamma = 0, of_beta = 0;
    for (int64 r = begin; r < end; ++r) {
      const A slope = A(dy[r * n + column]);
      of_beta += slope;
      of_gamma += slope * (A(x[r * n + column]) - mean[r]) * inverse[r];
    }
    gamma[i] = of_gamma;
    beta[i] = of_beta;
  }
}

#define LAYER_NORM_KERNELS(name, T)                                                           \
  KERNEL(layer_norm_##name, (int64 rows, int64 n, double epsilon, const T* x, const T* gamma, \
                             const T* beta, T* y, Wide<T>::type* mean,                        \
                             Wide<T>::type* inverse)) {                                       \
    layer_norm(rows, n, epsilon, x, gamma, beta, y, mean, inverse);                           \
  }                                                                                           \
  KERNEL(layer_norm_grad_##name, (int64 rows, int64 n, const T* dy, const T* x,               \
                                  const Wide<T>::type* mean, const Wide<T>::type* inverse,    \
                                  const T* gamma, const T* more, T* dx)) {                    \
    layer_norm_grad(rows, n, dy, x, mean, inverse, gamma, more, dx);                          \
  }                                                                                           \
  KERNEL(layer_norm_param_grad_##name, (                                                      \
      int64 count, int64 rows, int64 n, int64 chunk, const T* dy, const T* x,                 \
      const Wide<T>::type* mean, const Wide<T>::type* inverse, Wide<T>::type* gamma,          \
      Wide<T>::type* beta)) {                                                                 \
    layer_norm_param_grad(count, rows, n, chunk, dy, x, mean, inverse, gamma, beta);          \
  }

LAYER_NORM_KERNELS(float32, float)
LAYER_NORM_KERNELS(float16, float16)
LAYER_NORM_KERNELS(bfloat16, bfloat16)
LAYER_NORM_KERNELS(float64, double)
