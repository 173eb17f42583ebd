// GELU (Hendrycks and Gimpel, arXiv 1606.08415), x Phi(x) with Phi the normal distribution itself,
// not the tanh approximation, and its gradient dy (Phi(x) + x phi(x)).
//
//   gelu_TYPE       y = gelu(x + bias); bias [width] float32, null for none; `sum`, null for none,
//     takes x + bias
//   gelu_grad_TYPE  dx, which may be dy, from x + bias; `y`, null for none, takes gelu(x) for a
//     product that needs it again; partial [gridDim.y, width], null for none, takes each block's
//     sums of dx over its rows, the gradient of bias once sum_partials has added them up
// TYPE is float, half or bfloat16; x [rows, width], width a multiple of a 16-byte vector. Grid
// (ceil(width / (32 vectors)), any), blocks (32, 8).
//
// float32 has erf; half and bfloat16 have Phi to 2e-7 by Abramowitz and Stegun 7.1.26, with an
// exponential that the gradient has need of anyway.
#include "columns.h"

namespace {

// Phi(x) and phi(x).
DEVICE float2 normal(float x, float) {
  return make_float2(0.5f * (1.0f + erff(x * 0.70710678118654752f)),
                     0.39894228040143268f * expf(-0.5f * x * x));
}

DEVICE float2 normal_of_half(float x) {
  const float e = exp2_fast(-0.72134752044448170f * x * x);  // exp(-x^2 / 2)
  const float t = __fdividef(1.0f, 1.0f + 0.23164189f * fabsf(x));
  float q = 0.5f * 1.061405429f;
  q = q * t - 0.5f * 1.453152027f;
  q = q * t + 0.5f * 1.421413741f;
  q = q * t - 0.5f * 0.284496736f;
  q = q * t + 0.5f * 0.254829592f;
  q = q * t * e;  // Phi(-|x|)
  return make_float2(x < 0 ? q : 1.0f - q, 0.39894228040143268f * e);
}
DEVICE float2 normal(float x, half) { return normal_of_half(x); }
DEVICE float2 normal(float x, bfloat16) { return normal_of_half(x); }

template <class T>
DEVICE void forward(i64 rows, int width, const T* x, const float* bias, T* sum, T* y) {
  constexpr int n = vector_size<T>;
  const ColumnSums<T> place(width);
  if (!place.inside()) return;
  float b[n];
  UNROLL for (int k = 0; k < n; ++k) b[k] = bias ? bias[place.column() + k] : 0;
  for (i64 row = place.row(); row < rows; row += place.step()) {
    const i64 i = row * width + place.column();
    float v[n];
    load(x + i, v);
    UNROLL for (int k = 0; k < n; ++k) v[k] += b[k];
    if (sum) {  // and go on with what the gradient will see
      store(v, sum + i);
      UNROLL for (int k = 0; k < n; ++k) {
        T rounded;
        convert(v[k], rounded);
        v[k] = to_float(rounded);
      }
    }
    UNROLL for (int k = 0; k < n; ++k) v[k] *= normal(v[k], T()).x;
    store(v, y + i);
  }
}

template <class T>
DEVICE void backward(i64 rows, int width, const T* x, const T* dy, T* dx, T* y, float* partial) {
  constexpr int n = vector_size<T>;
  ColumnSums<T> sums(width);
  for (i64 row = sums.row(); row < rows && sums.inside(); row += sums.step()) {
    const i64 i = row * width + sums.column();
    float v[n], d[n];
    load(x + i, v);
    load(dy + i, d);
    UNROLL for (int k = 0; k < n; ++k) {
      const float2 p = normal(v[k], T());
      d[k] *= p.x + v[k] * p.y;
      v[k] *= p.x;
    }
    store(d, dx + i);
    if (y) store(v, y + i);
    sums.add(d);
  }
  if (partial) sums.finish(partial);
}

}  // namespace

#define GELU(T)                                                                                  \
  KERNEL_BOUNDED(256, 4, gelu_##T,                                                               \
                 (i64 rows, int width, const T* x, const float* bias, T* sum, T* y)) {           \
    forward<T>(rows, width, x, bias, sum, y);                                                    \
  }                                                                                              \
  KERNEL_BOUNDED(256, 4, gelu_grad_##T,                                                          \
                 (i64 rows, int width, const T* x, const T* dy, T* dx, T* y, float* partial)) {  \
    backward<T>(rows, width, x, dy, dx, y, partial);                                             \
  }
GELU(float)
GELU(half)
GELU(bfloat16)
