// Layer normalisation (Ba et al., arXiv 1607.06450) of rows, y = gamma (x - mean) inv_std + beta,
// with what is added to x before it, and its gradient with what is added to that.
//
// A warp has a row, in registers: it is read once, and the variance is that of the deviations from
// the mean. x and its gradient are of TYPE float, half or bfloat16, y and its gradient of INNER;
// mean, inv_std [rows], gamma, beta and all arithmetic are float32.
//
//   layer_norm_TYPE_INNER_STEPS           x [rows, width] -> y; with branch [rows, width] of INNER
//     (null for none) and bias [width] (null for none) first sum = x + branch + bias, which is
//     written, and then normalised. mean and inv_std may be null.
//   layer_norm_grad_TYPE_INNER_STEPS      dx = gradient of x + add (null for none; may be dx), and
//     partial [gridDim.x, 2, width], this block's part of the gradients of gamma and beta; dynamic
//     shared memory 8 width bytes
//   sum_partials                          of sums.cu adds up the parts
// Blocks are (32, any); block b has the rows b blockDim.y .., then those gridDim.x blockDim.y
// further. A lane reads vectors of 8 elements (4 where TYPE is float): width is a multiple of that,
// and at most 32 times it times STEPS. For other widths, and wider ones, STEPS is 0: a row is read
// from memory, or cache, again for each sum, and partial has to be zeros.
#include "device.h"

namespace {

// Elements of a vector: 16 bytes of the wider type.
template <class X, class Y>
constexpr int kVector = sizeof(X) == 4 ? 4 : 8;

// What is normalised.
template <class X, class Y>
struct Sum {
  const X* x;
  const Y* branch;
  const float* bias;
  X* sum;

  template <int n>
  DEVICE void at(i64 i, int column, float (&v)[n]) const {
    load(x + i, v);
    if (!sum) return;
    float more[n];
    if (branch) {
      load(branch + i, more);
      UNROLL for (int k = 0; k < n; ++k) v[k] += more[k];
    }
    if (bias) {
      load(bias + column, more);
      UNROLL for (int k = 0; k < n; ++k) v[k] += more[k];
    }
    store(v, sum + i);
  }
};

template <class X, class Y, int steps>
DEVICE void forward(i64 rows, int width, float epsilon, const Sum<X, Y>& from, const float* gamma,
                    const float* beta, Y* y, float* mean, float* inv_std) {
  constexpr int n = kVector<X, Y>;
  const int lane = threadIdx.x;
  for (i64 row = blockIdx.x * (i64)blockDim.y + threadIdx.y; row < rows;
       row += (i64)gridDim.x * blockDim.y) {
    float v[steps][n], sum = 0, squares = 0;
    UNROLL for (int s = 0; s < steps; ++s) {
      const int column = (32 * s + lane) * n;
      UNROLL for (int k = 0; k < n; ++k) v[s][k] = 0;
      if (column < width) from.at(row * width + column, column, v[s]);
    }
    UNROLL for (int s = 0; s < steps; ++s) UNROLL for (int k = 0; k < n; ++k) sum += v[s][k];
    const float m = warp_sum(sum) / width;
    UNROLL for (int s = 0; s < steps; ++s) {
      if ((32 * s + lane) * n >= width) continue;
      UNROLL for (int k = 0; k < n; ++k) squares += (v[s][k] - m) * (v[s][k] - m);
    }
    const float r = rsqrtf(warp_sum(squares) / width + epsilon);
    UNROLL for (int s = 0; s < steps; ++s) {
      const int column = (32 * s + lane) * n;
      if (column >= width) continue;
      float g[n], b[n];
      load(gamma + column, g);
      load(beta + column, b);
      UNROLL for (int k = 0; k < n; ++k) v[s][k] = (v[s][k] - m) * r * g[k] + b[k];
      store(v[s], y + row * width + column);
    }
    if (lane == 0 && mean) mean[row] = m, inv_std[row] = r;
  }
}

// The same for any width, an element at a time.
template <class X, class Y>
DEVICE void forward_any(i64 rows, int width, float epsilon, const Sum<X, Y>& from,
                        const float* gamma, const float* beta, Y* y, float* mean, float* inv_std) {
  const int lane = threadIdx.x;
  for (i64 row = blockIdx.x * (i64)blockDim.y + threadIdx.y; row < rows;
       row += (i64)gridDim.x * blockDim.y) {
    const X* x = from.sum ? from.sum + row * width : from.x + row * width;
    float sum = 0, squares = 0;
    for (int column = lane; column < width; column += 32) {
      float v[1];
      from.at(row * width + column, column, v);
      sum += to_float(x[column]);
    }
    const float m = warp_sum(sum) / width;
    for (int column = lane; column < width; column += 32) {
      const float d = to_float(x[column]) - m;
      squares += d * d;
    }
    const float r = rsqrtf(warp_sum(squares) / width + epsilon);
    for (int column = lane; column < width; column += 32) {
      convert((to_float(x[column]) - m) * r * gamma[column] + beta[column],
              y[row * width + column]);
    }
    if (lane == 0 && mean) mean[row] = m, inv_std[row] = r;
  }
}

// With z = (x - mean) inv_std and h = gamma dy: dx = inv_std (h - mean(h) - z mean(h z)).
template <class X, class Y, int steps>
DEVICE void backward(i64 rows, int width, const Y* dy, const X* x, const float* mean,
                     const float* inv_std, const float* gamma, const X* add, X* dx,
                     float* partial) {
  constexpr int n = kVector<X, Y>;
  const int lane = threadIdx.x;
  float dgamma[steps][n], dbeta[steps][n], g[steps][n];
  UNROLL for (int s = 0; s < steps; ++s) {
    UNROLL for (int k = 0; k < n; ++k) dgamma[s][k] = dbeta[s][k] = g[s][k] = 0;
    if ((32 * s + lane) * n < width) load(gamma + (32 * s + lane) * n, g[s]);
  }
  for (i64 row = blockIdx.x * (i64)blockDim.y + threadIdx.y; row < rows;
       row += (i64)gridDim.x * blockDim.y) {
    const float m = mean[row], r = inv_std[row];
    float z[steps][n], h[steps][n], sum = 0, product = 0;
    UNROLL for (int s = 0; s < steps; ++s) {
      const int column = (32 * s + lane) * n;
      UNROLL for (int k = 0; k < n; ++k) z[s][k] = m, h[s][k] = 0;
      if (column >= width) continue;
      load(x + row * width + column, z[s]);
      load(dy + row * width + column, h[s]);
    }
    UNROLL for (int s = 0; s < steps; ++s) UNROLL for (int k = 0; k < n; ++k) {
      z[s][k] = (z[s][k] - m) * r;
      dgamma[s][k] += h[s][k] * z[s][k];
      dbeta[s][k] += h[s][k];
      h[s][k] *= g[s][k];
      sum += h[s][k];
      product += h[s][k] * z[s][k];
    }
    sum = warp_sum(sum) / width;
    product = warp_sum(product) / width;
    UNROLL for (int s = 0; s < steps; ++s) {
      const int column = (32 * s + lane) * n;
      if (column >= width) continue;
      float more[n];
      UNROLL for (int k = 0; k < n; ++k) more[k] = 0;
      if (add) load(add + row * width + column, more);
      UNROLL for (int k = 0; k < n; ++k) more[k] += r * (h[s][k] - sum - z[s][k] * product);
      store(more, dx + row * width + column);
    }
  }
  // The warps of the block, one after another.
  DYNAMIC_SHARED(float, total);
  for (int warp = 0; warp < (int)blockDim.y; ++warp) {
    if ((int)threadIdx.y == warp) {
      UNROLL for (int s = 0; s < steps; ++s) {
        const int column = (32 * s + lane) * n;
        if (column >= width) continue;
        UNROLL for (int k = 0; k < n; ++k) {
          total[column + k] = (warp ? total[column + k] : 0) + dgamma[s][k];
          total[width + column + k] = (warp ? total[width + column + k] : 0) + dbeta[s][k];
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.y * 32 + lane; i < 2 * width; i += 32 * blockDim.y) {
    partial[blockIdx.x * 2ll * width + i] = total[i];
  }
}

// The same for any width. The sums over rows are the work of whoever has the column.
template <class X, class Y>
DEVICE void backward_any(i64 rows, int width, const Y* dy, const X* x, const float* mean,
                         const float* inv_std, const float* gamma, const X* add, X* dx,
                         float* partial) {
  const int lane = threadIdx.x, warp = threadIdx.y;
  const i64 step = (i64)gridDim.x * blockDim.y;
  partial += blockIdx.x * 2ll * width;
  for (i64 first = blockIdx.x * (i64)blockDim.y; first < rows; first += step) {
    // Before dx is written, which may be where dy is.
    for (int column = warp * 32 + lane; column < width; column += 32 * blockDim.y) {
      for (i64 row = first; row < min(rows, first + blockDim.y); ++row) {
        const float d = to_float(dy[row * width + column]);
        partial[column] += d * (to_float(x[row * width + column]) - mean[row]) * inv_std[row];
        partial[width + column] += d;
      }
    }
    __syncthreads();
    const i64 row = first + warp;
    if (row >= rows) continue;
    const float m = mean[row], r = inv_std[row];
    float sum = 0, product = 0;
    for (int column = lane; column < width; column += 32) {
      const float h = to_float(dy[row * width + column]) * gamma[column];
      sum += h;
      product += h * (to_float(x[row * width + column]) - m) * r;
    }
    sum = warp_sum(sum) / width;
    product = warp_sum(product) / width;
    for (int column = lane; column < width; column += 32) {
      const i64 i = row * width + column;
      const float h = to_float(dy[i]) * gamma[column], z = (to_float(x[i]) - m) * r;
      convert((add ? to_float(add[i]) : 0) + r * (h - sum - z * product), dx[i]);
    }
  }
}

}  // namespace

#define FORWARD(X, Y, STEPS, CALL)                                                                 \
  KERNEL(layer_norm_##X##_##Y##_##STEPS,                                                           \
         (i64 rows, int width, float epsilon, const X* x, const Y* branch, const float* bias,      \
          X* sum, const float* gamma, const float* beta, Y* y, float* mean, float* inv_std)) {     \
    CALL(rows, width, epsilon, Sum<X, Y>{x, branch, bias, sum}, gamma, beta, y, mean, inv_std);    \
  }
#define BACKWARD(X, Y, STEPS, CALL)                                                                \
  KERNEL(layer_norm_grad_##X##_##Y##_##STEPS,                                                      \
         (i64 rows, int width, const Y* dy, const X* x, const float* mean, const float* inv_std,   \
          const float* gamma, const X* add, X* dx, float* partial)) {                              \
    CALL(rows, width, dy, x, mean, inv_std, gamma, add, dx, partial);                              \
  }
#define COMMA ,
#define STEP(X, Y, STEPS)                               \
  FORWARD(X, Y, STEPS, forward<X COMMA Y COMMA STEPS>)  \
  BACKWARD(X, Y, STEPS, backward<X COMMA Y COMMA STEPS>)
#define ANY(X, Y)                            \
  FORWARD(X, Y, 0, forward_any<X COMMA Y>)   \
  BACKWARD(X, Y, 0, backward_any<X COMMA Y>)
#define FROM_FLOAT(Y) \
  ANY(float, Y) STEP(float, Y, 4) STEP(float, Y, 6) STEP(float, Y, 8) STEP(float, Y, 10)
#define FROM_HALF(X) ANY(X, X) STEP(X, X, 2) STEP(X, X, 3) STEP(X, X, 4) STEP(X, X, 5)
#if defined(X_TYPE) && X_IS_FLOAT  // one pair alone, which compiles sooner
#define PAIR(Y) FROM_FLOAT(Y)
PAIR(Y_TYPE)
#elif defined(X_TYPE)
#define PAIR(X) FROM_HALF(X)
PAIR(X_TYPE)
#else
FROM_FLOAT(float)
FROM_FLOAT(half)
FROM_FLOAT(bfloat16)
FROM_HALF(half)
FROM_HALF(bfloat16)
#endif
