// The arithmetic of the native CPU kernels, free of OneFlow: plain float32 arrays in, arrays out.
//
// Every function is compiled once for each vector instruction set and runs on the threads of the
// OpenMP pool that MKL uses, too. Arrays are contiguous and rows follow one another. The order of
// every sum depends on the sizes alone, so a result does not depend on the number of threads.
#pragma once

#include <cstdint>

namespace mae {

constexpr int kMaxAxes = 8;

struct AdamW {
  float learning_rate, weight_decay, beta1, beta2, epsilon;
  float bias_correction1, bias_correction2;
  float scale;  // of the gradient
  float l1, l2;
};

// A copy of a strided array into a contiguous one; strides are in elements, of the source.
struct StridedCopy {
  int axes;
  int64_t size[kMaxAxes], stride[kMaxAxes];
};

// Row-major c [m, n] = alpha op(a) op(b) with op(a) [m, k]; the strides are those of the rows.
using Gemm = void (*)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                      float alpha, const float* a, int64_t a_stride, const float* b,
                      int64_t b_stride, float* c, int64_t c_stride);

struct AttentionSize {
  int64_t samples, tokens, heads, head_size;
};

struct Kernels {
  const char* name;  // of the instruction set

  // x Phi(x), Phi the normal distribution; and dy (Phi(x) + x phi(x)).
  void (*gelu)(int64_t n, const float* x, float* y);
  void (*gelu_grad)(int64_t n, const float* x, const float* dy, float* dx);

  // Layer normalisation (Ba et al., arXiv 1607.06450) of rows, with the biased variance. gamma and
  // beta may be null. mean and inv_std are [rows].
  void (*layer_norm)(int64_t rows, int64_t width, const float* x, const float* gamma,
                     const float* beta, double epsilon, float* y, float* mean, float* inv_std);
  // dx += where `add` is not null, with the values of `add`.
  void (*layer_norm_grad)(int64_t rows, int64_t width, const float* dy, const float* x,
                          const float* mean, const float* inv_std, const float* gamma,
                          const float* add, float* dx);
  // Either result may be null.
  void (*layer_norm_param_grad)(int64_t rows, int64_t width, const float* dy, const float* x,
                                const float* mean, const float* inv_std, float* dgamma,
                                float* dbeta);

  void (*softmax)(int64_t rows, int64_t width, const float* x, float* y);
  void (*softmax_grad)(int64_t rows, int64_t width, const float* y, const float* dy, float* dx);

  // Scaled dot-product attention (Vaswani et al., arXiv 1706.03762) of queries, keys and values
  // qkv [samples, tokens, heads, 3 head_size] -> [samples, tokens, heads, head_size]. No matrix of
  // scores outlives its head; the gradient computes them again.
  void (*attention)(const AttentionSize& size, Gemm gemm, const float* qkv, float* out);
  void (*attention_grad)(const AttentionSize& size, Gemm gemm, const float* qkv, const float* dout,
                         float* dqkv);

  // AdamW (Loshchilov and Hutter, arXiv 1711.05101), in OneFlow's order of operations.
  void (*adamw)(int64_t n, const AdamW& settings, const float* gradient, float* model, float* m,
                float* v);

  // y = sum of the inputs; y may be the first of them.
  void (*add_n)(int64_t n, int inputs, const float* const* x, float* y);
  // y[i] = x[i] op z[i % width], the row z repeated; and z[i / width], the column repeated.
  void (*add_row)(int64_t rows, int64_t width, const float* x, const float* z, float* y);
  void (*multiply_row)(int64_t rows, int64_t width, const float* x, const float* z, float* y);
  void (*add_column)(int64_t rows, int64_t width, const float* x, const float* z, float* y);
  void (*subtract_column)(int64_t rows, int64_t width, const float* x, const float* z, float* y);
  void (*multiply_column)(int64_t rows, int64_t width, const float* x, const float* z, float* y);
  void (*divide_column)(int64_t rows, int64_t width, const float* x, const float* z, float* y);
  // Sums over the rows -> [width], and over the columns -> [rows].
  void (*sum_rows)(int64_t rows, int64_t width, const float* x, float* y);
  void (*sum_columns)(int64_t rows, int64_t width, const float* x, float* y);

  void (*copy_strided)(const StridedCopy& copy, const float* x, float* y);
  // Part [start, start + length) of the middle axis of [outer, middle, inner], and back into zeros.
  void (*narrow)(int64_t outer, int64_t middle, int64_t inner, int64_t start, int64_t length,
                 const float* x, float* y);
  void (*narrow_grad)(int64_t outer, int64_t middle, int64_t inner, int64_t start, int64_t length,
                      const float* dy, float* dx);

  // Samples of `size` elements. y[j] = scale[s] x[s] for the j-th s of `chosen`, scale null for 1;
  // and back: y[s] = base[s] + scale[s] x[j], or base[s] where `place` has -1 in place of j.
  void (*take_samples)(int64_t count, int64_t size, const int64_t* chosen, const float* scale,
                       const float* x, float* y);
  void (*add_samples)(int64_t samples, int64_t size, const int64_t* place, const float* scale,
                      const float* base, const float* x, float* y);
};

// The table for this processor: the widest instruction set that it has.
const Kernels& kernels();

}  // namespace mae
