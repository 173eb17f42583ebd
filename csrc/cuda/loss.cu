// Cross entropy with class indices, and what a dynamic loss scale looks at.
#include "common.cuh"

// log_p [n, classes] -> y [n] = -log_p[label].
template <class T>
INLINE void cross_entropy(int64 n, int64 classes, int is_int64, const void* labels, const T* log_p,
                          T* y) {
  typedef typename Wide<T>::type A;
  for (int64 i = first_element(); i < n; i += all_threads()) {
    const int64 label = index_at(labels, is_int64, i);
    const bool known = label >= 0 && label < classes;
    y[i] = T(known ? -A(log_p[i * classes + label]) : A(0));
  }
}

// Of the n elements of the logits: dy times the probability, less 1 at the label.
template <class T>
INLINE void cross_entropy_grad(int64 n, int64 classes, int is_int64, const void* labels,
                               const T* log_p, const T* dy, T* dx) {
  typedef typename Wide<T>::type A;
  for (int64 i = first_element(); i < n; i += all_threads()) {
    const int64 row = i / classes, label = index_at(labels, is_int64, row);
    const A target = label == i - row * classes ? A(1) : A(0);
    dx[i] = T(A(dy[row]) * (exp_of(A(log_p[i])) - target));
  }
}

// Negative log likelihood: y = -weight * x at the label, and that weight; both 0 for the label
// `ignored` and for one outside the classes. weights of each class, or null for 1.
template <class T>
INLINE void nll(int64 n, int64 classes, int64 ignored, int is_int64, const void* labels,
                const T* x, const T* weights, T* y, T* y_weight) {
  typedef typename Wide<T>::type A;
  for (int64 i = first_element(); i < n; i += all_threads()) {
    const int64 label = index_at(labels, is_int64, i);
    const bool counts = label != ignored && label >= 0 && label < classes;
    const A weight = !counts ? A(0) : weights ? A(weights[label]) : A(1);
    y_weight[i] = T(weight);
    y[i] = T(counts ? -weight * A(x[i * classes + label]) : A(0));
  }
}

template <class T>
INLINE void nll_grad(int64 n, int64 classes, int64 ignored, int is_int64, const void* labels,
                     const T* dy, const T* weights, T* dx) {
  typedef typename Wide<T>::type A;
  for (int64 i = first_element(); i < n; i += all_threads()) {
    const int64 row = i / classes, column = i - row * classes;
    const int64 label = index_at(labels, is_int64, row);
    const bool counts = label != ignored && label == column;
    dx[i] = T(counts ? -A(dy[row]) * (weights ? A(weights[column]) : A(1)) : A(0));
  }
}

// Adds the number of elements that are not finite to *y. Whole numbers add up alike in any order.
template <class T>
INLINE void count_not_finite(int64 n, const T* x, int64* y) {
  typedef typename Wide<T>::type A;
  int64 count = 0;
  for (int64 i = first_element(); i < n; i += all_threads()) {
    const A value = A(x[i]);
    count += !(value - value == A(0));
  }
  count = reduce_row<Sum>(count);
  if (threadIdx.x == 0 && count != 0) {
    atomicAdd((unsigned long long*)y, (unsigned long long)count);
  }
}

#define NLL_KERNELS(name, T)                                                                      \
  KERNEL(nll_##name, (int64 n, int64 classes, int64 ignored, int is_int64, const void* labels,    \
                      const T* x, const T* weights, T* y, T* y_weight)) {                         \
    nll(n, classes, ignored, is_int64, labels, x, weights, y, y_weight);                          \
  }                                                                                               \
  KERNEL(nll_grad_##name, (int64 n, int64 classes, int64 ignored, int is_int64,                   \
                           const void* labels, const T* dy, const T* weights, T* dx)) {           \
    nll_grad(n, classes, ignored, is_int64, labels, dy, weights, dx);                             \
  }

NLL_KERNELS(float32, float)
NLL_KERNELS(float16, float16)
NLL_KERNELS(bfloat16, bfloat16)
NLL_KERNELS(float64, double)

#define LOSS_KERNELS(name, T)                                                                  \
  KERNEL(cross_entropy_##name, (int64 n, int64 classes, int is_int64, const void* labels,      \
                                const T* log_p, T* y)) {                                       \
    cross_entropy(n, classes, is_int64, labels, log_p, y);                                     \
  }                                                                                            \
  KERNEL(cross_entropy_grad_##name, (int64 n, int64 classes, int is_int64, const void* labels, \
                                     const T* log_p, const T* dy, T* dx)) {                    \
    cross_entropy_grad(n, classes, is_int64, labels, log_p, dy, dx);                           \
  }                                                                                            \
  KERNEL(count_not_finite_##name, (int64 n, const T* x, int64* y)) {                           \
    count_not_finite(n, x, y);                                                                 \
  }

LOSS_KERNELS(float32, float)
LOSS_KERNELS(float16, float16)
LOSS_KERNELS(bfloat16, bfloat16)
LOSS_KERNELS(float64, double)

// What a step does to the loss scale, as OneFlow's schedule: it falls, not below 1, where something
// was not finite, and grows after `period` good steps.
KERNEL(loss_scale, (int64 period, float multiplier, const int64* not_finite, float* scale,
                    int64* good_steps)) {
  if (first_element() != 0) return;
  if (*not_finite != 0) {
    *good_steps = 0;
    const float lower = *scale / multiplier;
    *scale = lower > 1.0f ? lower : 1.0f;
    return;
  }
  const int64 good = *good_steps + 1;
  if (good < period) {
    *good_steps = good;
    return;
  }
  *good_steps = 0;
  const double higher = (double)*scale * multiplier, most = 3.402823466e38;
  *scale = (float)(higher < most ? higher : most);
}
