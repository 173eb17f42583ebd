// See kernels.h. build.sh compiles this file once for each instruction set, with MAE_ISA its name.
#include "kernels.h"
#include "parallel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#define MAE_JOIN2(a, b) a##b
#define MAE_JOIN(a, b) MAE_JOIN2(a, b)
#define MAE_TEXT2(a) #a
#define MAE_TEXT(a) MAE_TEXT2(a)

namespace mae {
namespace {

constexpr int64_t kBlock = 4096;     // elements of a flat array that a thread takes at a time

inline float from_bits(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// exp(x) for x <= 0, to 2 units in the last place; 2e-38 and not 0 below -87; NaN stays NaN.
inline float exp_negative(float x) {
  const float in_range = x < -87.0f ? -87.0f : x;
  const int32_t n = static_cast<int32_t>(in_range * 1.44269504f - 0.5f);
  // x - n ln 2, with ln 2 in two parts, the first short enough for an exact product.
  const float count = static_cast<float>(n);
  const float r = (in_range - count * 0.693145752f) - count * 1.42860677e-6f;
  float y = 1.0f / 5040.0f;  // Taylor's series
  y = y * r + 1.0f / 720.0f;
  y = y * r + 1.0f / 120.0f;
  y = y * r + 1.0f / 24.0f;
  y = y * r + 1.0f / 6.0f;
  y = y * r + 0.5f;
  y = y * r + 1.0f;
  y = y * r + 1.0f;
  return y * from_bits((n + 127) << 23);
}

// Phi(x), the cumulative normal distribution, given e = exp(-x^2 / 2).
//
// erfc(u) = exp(-u^2) t P(t) with t = 1 / (1 + 0.37 u); P is a least-squares fit of degree 8 with a
// relative error below 2e-8 for u in [0, 9.5]. A small tail is exact, too: nothing cancels.
inline float cumulative_normal(float x, float e) {
  const float u = std::fabs(x) * 0.707106781f;
  const float t = 1.0f / (1.0f + 0.37f * u);
  float p = 0.06192398f;
  p = p * t - 0.30327725f;
  p = p * t + 0.48685044f;
  p = p * t - 0.28532158f;
  p = p * t + 0.31080862f;
  p = p * t + 0.10651754f;
  p = p * t + 0.20625474f;
  p = p * t + 0.20742974f;
  p = p * t + 0.20881375f;
  const float tail = 0.5f * e * t * p;
  return x < 0.0f ? tail : 1.0f - tail;
}

// Calls body(first, last) with the blocks of a flat array that the threads share out.
template <typename Body>
void for_blocks(int64_t n, const Body& body) {
  parallel_for((n + kBlock - 1) / kBlock, n, [&](int64_t block) {
    body(block * kBlock, std::min(n, (block + 1) * kBlock));
  });
}

void gelu(int64_t n, const float* x, float* y) {
  for_blocks(n, [=](int64_t first, int64_t last) {
#pragma omp simd
    for (int64_t i = first; i < last; ++i) {
      y[i] = x[i] * cumulative_normal(x[i], exp_negative(-0.5f * x[i] * x[i]));
    }
  });
}

void gelu_grad(int64_t n, const float* x, const float* dy, float* dx) {
  for_blocks(n, [=](int64_t first, int64_t last) {
#pragma omp simd
    for (int64_t i = first; i < last; ++i) {
      const float e = exp_negative(-0.5f * x[i] * x[i]);
      dx[i] = dy[i] * (cumulative_normal(x[i], e) + x[i] * e * 0.398942280f);
    }
  });
}

void layer_norm(int64_t rows, int64_t width, const float* x, const float* gamma, const float* beta,
                double epsilon, float* y, float* mean, float* inv_std) {
  parallel_for(rows, rows * width, [=](int64_t r) {
    const float* in = x + r * width;
    float* out = y + r * width;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += in[i];
    const float centre = sum / width;
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < width; ++i) squares += (in[i] - centre) * (in[i] - centre);
    const float scale = static_cast<float>(1.0 / std::sqrt(squares / width + epsilon));
    mean[r] = centre;
    inv_std[r] = scale;
    if (gamma && beta) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) out[i] = (in[i] - centre) * scale * gamma[i] + beta[i];
    } else {
      for (int64_t i = 0; i < width; ++i) {
        const float z = (in[i] - centre) * scale;
        out[i] = (gamma ? z * gamma[i] : z) + (beta ? beta[i] : 0.0f);
      }
    }
  });
}

// One row; whether there is a weight and something to add is known when this is compiled.
template <bool weighted, bool adds>
void layer_norm_grad_row(int64_t width, const float* dy, const float* x, float centre, float scale,
                         const float* gamma, const float* add, float* dx) {
  float sum = 0.0f, product = 0.0f;
#pragma omp simd reduction(+ : sum, product)
  for (int64_t i = 0; i < width; ++i) {
    const float g = weighted ? dy[i] * gamma[i] : dy[i];
    sum += g;
    product += g * (x[i] - centre);
  }
  const float shift = sum / width, slope = product * scale * scale / width;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const float g = weighted ? dy[i] * gamma[i] : dy[i];
    const float d = scale * (g - shift - (x[i] - centre) * slope);
    dx[i] = adds ? add[i] + d : d;
  }
}

void layer_norm_grad(int64_t rows, int64_t width, const float* dy, const float* x,
                     const float* mean, const float* inv_std, const float* gamma, const float* add,
                     float* dx) {
  const auto row = gamma ? (add ? layer_norm_grad_row<true, true>
                                : layer_norm_grad_row<true, false>)
                         : (add ? layer_norm_grad_row<false, true>
                                : layer_norm_grad_row<false, false>);
  parallel_for(rows, rows * width, [=](int64_t r) {
    row(width, dy + r * width, x + r * width, mean[r], inv_std[r], gamma,
        add ? add + r * width : nullptr, dx + r * width);
  });
}

constexpr int64_t kColumns = 64;      // that a thread sums at a time, over all rows in order
constexpr int64_t kRowsAtOnce = 128;  // summed in float32 before they join the total

// Calls body(first, last) with the ranges of columns that the threads share out.
template <typename Body>
void for_column_blocks(int64_t rows, int64_t width, const Body& body) {
  const int64_t blocks = (width + kColumns - 1) / kColumns;
  parallel_for(blocks, rows * width, [&](int64_t block) {
    body(block * kColumns, std::min(width, (block + 1) * kColumns));
  });
}

void layer_norm_param_grad(int64_t rows, int64_t width, const float* dy, const float* x,
                           const float* mean, const float* inv_std, float* dgamma, float* dbeta) {
  for_column_blocks(rows, width, [=](int64_t first, int64_t last) {
    const int64_t count = last - first;
    float gamma_total[kColumns] = {}, beta_total[kColumns] = {};
    for (int64_t start = 0; start < rows; start += kRowsAtOnce) {
      float gamma_part[kColumns] = {}, beta_part[kColumns] = {};
      for (int64_t r = start; r < std::min(rows, start + kRowsAtOnce); ++r) {
        const float *in = x + r * width + first, *g = dy + r * width + first;
        const float centre = mean[r], scale = inv_std[r];
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
          gamma_part[i] += g[i] * ((in[i] - centre) * scale);
          beta_part[i] += g[i];
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        gamma_total[i] += gamma_part[i];
        beta_total[i] += beta_part[i];
      }
    }
    if (dgamma) std::copy_n(gamma_total, count, dgamma + first);
    if (dbeta) std::copy_n(beta_total, count, dbeta + first);
  });
}

void softmax_row(int64_t width, const float* in, float* out) {
  float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < width; ++i) largest = in[i] > largest ? in[i] : largest;
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) {
    out[i] = exp_negative(in[i] - largest);
    sum += out[i];
  }
  const float scale = 1.0f / sum;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) out[i] *= scale;
}

// scale y (dy - sum(y dy)), the gradient of scale x through y = softmax(scale x).
void softmax_grad_row(int64_t width, float scale, const float* y, const float* dy, float* dx) {
  float product = 0.0f;
#pragma omp simd reduction(+ : product)
  for (int64_t i = 0; i < width; ++i) product += y[i] * dy[i];
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) dx[i] = scale * (y[i] * (dy[i] - product));
}

void softmax(int64_t rows, int64_t width, const float* x, float* y) {
  parallel_for(rows, rows * width,
               [=](int64_t r) { softmax_row(width, x + r * width, y + r * width); });
}

void softmax_grad(int64_t rows, int64_t width, const float* y, const float* dy, float* dx) {
  parallel_for(rows, rows * width, [=](int64_t r) {
    softmax_grad_row(width, 1.0f, y + r * width, dy + r * width, dx + r * width);
  });
}

// Where a head's query, key, value and output begin, in their arrays, and how far its tokens are
// apart there.
struct Head {
  int64_t query, key, value, out, qkv_stride, out_stride;
};

Head head_at(const AttentionSize& s, int64_t index) {
  const int64_t sample = index / s.heads, head = index % s.heads;
  const int64_t qkv_stride = 3 * s.heads * s.head_size, out_stride = s.heads * s.head_size;
  const int64_t query = sample * s.tokens * qkv_stride + head * 3 * s.head_size;
  return {query,      query + s.head_size,
          query + 2 * s.head_size,      sample * s.tokens * out_stride + head * s.head_size,
          qkv_stride, out_stride};
}

// The weights of a head [tokens, tokens].
void attention_weights(const AttentionSize& s, Gemm gemm, const Head& h, const float* qkv,
                       float* weights) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.head_size));
  gemm(false, true, s.tokens, s.tokens, s.head_size, scale, qkv + h.query, h.qkv_stride,
       qkv + h.key, h.qkv_stride, weights, s.tokens);
  for (int64_t r = 0; r < s.tokens; ++r) {
    softmax_row(s.tokens, weights + r * s.tokens, weights + r * s.tokens);
  }
}

// Calls body(head, a, b) for every head, with two arrays [tokens, tokens] to work in.
template <typename Body>
void for_heads(const AttentionSize& s, const Body& body) {
  const int64_t count = s.samples * s.heads, scores = s.tokens * s.tokens;
  parallel_for(count, count * scores, [&](int64_t i) {
    thread_local std::vector<float> work;
    if (static_cast<int64_t>(work.size()) < 2 * scores) work.resize(2 * scores);
    body(head_at(s, i), work.data(), work.data() + scores);
  });
}

void attention(const AttentionSize& s, Gemm gemm, const float* qkv, float* out) {
  for_heads(s, [&](const Head& h, float* weights, float*) {
    attention_weights(s, gemm, h, qkv, weights);
    gemm(false, false, s.tokens, s.head_size, s.tokens, 1.0f, weights, s.tokens, qkv + h.value,
         h.qkv_stride, out + h.out, h.out_stride);
  });
}

void attention_grad(const AttentionSize& s, Gemm gemm, const float* qkv, const float* dout,
                    float* dqkv) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.head_size));
  for_heads(s, [&](const Head& h, float* weights, float* dweights) {
    attention_weights(s, gemm, h, qkv, weights);
    gemm(true, false, s.tokens, s.head_size, s.tokens, 1.0f, weights, s.tokens, dout + h.out,
         h.out_stride, dqkv + h.value, h.qkv_stride);
    gemm(false, true, s.tokens, s.tokens, s.head_size, 1.0f, dout + h.out, h.out_stride,
         qkv + h.value, h.qkv_stride, dweights, s.tokens);
    for (int64_t r = 0; r < s.tokens; ++r) {
      float* row = dweights + r * s.tokens;
      softmax_grad_row(s.tokens, scale, weights + r * s.tokens, row, row);
    }
    gemm(false, false, s.tokens, s.head_size, s.tokens, 1.0f, dweights, s.tokens, qkv + h.key,
         h.qkv_stride, dqkv + h.query, h.qkv_stride);
    gemm(true, false, s.tokens, s.head_size, s.tokens, 1.0f, dweights, s.tokens, qkv + h.query,
         h.qkv_stride, dqkv + h.key, h.qkv_stride);
  });
}

// A block of it. The settings are copied, so that the compiler need not fear that a store changes
// them; whether there is a penalty is known when this is compiled.
template <bool penalised>
void adamw_block(int64_t n, AdamW s, const float* gradient, float* model, float* m, float* v) {
  const float root = 1.0f / std::sqrt(s.bias_correction2);
  const float step = s.learning_rate / s.bias_correction1;
  const float decay = s.learning_rate * s.weight_decay;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    float g = gradient[i] * s.scale;
    if (penalised) g += s.l1 * (model[i] >= 0.0f ? 1.0f : -1.0f) + s.l2 * model[i];
    const float next_m = s.beta1 * m[i] + (1.0f - s.beta1) * g;
    const float next_v = s.beta2 * v[i] + (1.0f - s.beta2) * g * g;
    m[i] = next_m;
    v[i] = next_v;
    model[i] -= step * (next_m / (std::sqrt(next_v) * root + s.epsilon)) + decay * model[i];
  }
}

void adamw(int64_t n, const AdamW& s, const float* gradient, float* model, float* m, float* v) {
  const auto block = s.l1 != 0.0f || s.l2 != 0.0f ? adamw_block<true> : adamw_block<false>;
  for_blocks(n, [&](int64_t start, int64_t end) {
    block(end - start, s, gradient + start, model + start, m + start, v + start);
  });
}

void add_n(int64_t n, int inputs, const float* const* x, float* y) {
  for_blocks(n, [=](int64_t start, int64_t end) {
    if (inputs == 2) {
      const float *a = x[0], *b = x[1];
#pragma omp simd
      for (int64_t i = start; i < end; ++i) y[i] = a[i] + b[i];
      return;
    }
    // Block by block, so that y stays in the cache. y may be x[0], which is read first.
    if (y != x[0]) std::memcpy(y + start, x[0] + start, (end - start) * sizeof(float));
    for (int k = 1; k < inputs; ++k) {
      const float* a = x[k];
#pragma omp simd
      for (int64_t i = start; i < end; ++i) y[i] += a[i];
    }
  });
}

template <typename Operation>
void with_row(int64_t rows, int64_t width, const float* x, const float* z, float* y,
              const Operation& operation) {
  parallel_for(rows, rows * width, [=](int64_t r) {
    const float* in = x + r * width;
    float* out = y + r * width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) out[i] = operation(in[i], z[i]);
  });
}

template <typename Operation>
void with_column(int64_t rows, int64_t width, const float* x, const float* z, float* y,
                 const Operation& operation) {
  parallel_for(rows, rows * width, [=](int64_t r) {
    const float* in = x + r * width;
    float* out = y + r * width;
    const float value = z[r];
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) out[i] = operation(in[i], value);
  });
}

void add_row(int64_t rows, int64_t width, const float* x, const float* z, float* y) {
  with_row(rows, width, x, z, y, [](float a, float b) { return a + b; });
}
void multiply_row(int64_t rows, int64_t width, const float* x, const float* z, float* y) {
  with_row(rows, width, x, z, y, [](float a, float b) { return a * b; });
}
void add_column(int64_t rows, int64_t width, const float* x, const float* z, float* y) {
  with_column(rows, width, x, z, y, [](float a, float b) { return a + b; });
}
void subtract_column(int64_t rows, int64_t width, const float* x, const float* z, float* y) {
  with_column(rows, width, x, z, y, [](float a, float b) { return a - b; });
}
void multiply_column(int64_t rows, int64_t width, const float* x, const float* z, float* y) {
  with_column(rows, width, x, z, y, [](float a, float b) { return a * b; });
}
void divide_column(int64_t rows, int64_t width, const float* x, const float* z, float* y) {
  with_column(rows, width, x, z, y, [](float a, float b) { return a / b; });
}

void sum_rows(int64_t rows, int64_t width, const float* x, float* y) {
  for_column_blocks(rows, width, [=](int64_t first, int64_t last) {
    const int64_t count = last - first;
    float total[kColumns] = {};
    for (int64_t start = 0; start < rows; start += kRowsAtOnce) {
      float part[kColumns] = {};
      for (int64_t r = start; r < std::min(rows, start + kRowsAtOnce); ++r) {
        const float* in = x + r * width + first;
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) part[i] += in[i];
      }
      for (int64_t i = 0; i < count; ++i) total[i] += part[i];
    }
    std::copy_n(total, count, y + first);
  });
}

void sum_columns(int64_t rows, int64_t width, const float* x, float* y) {
  parallel_for(rows, rows * width, [=](int64_t r) {
    const float* in = x + r * width;
    float total = 0.0f;
    for (int64_t start = 0; start < width; start += kBlock) {
      const int64_t end = std::min(width, start + kBlock);
      float part = 0.0f;
#pragma omp simd reduction(+ : part)
      for (int64_t i = start; i < end; ++i) part += in[i];
      total += part;
    }
    y[r] = total;
  });
}

void copy_strided(const StridedCopy& copy, const float* x, float* y) {
  const int last = copy.axes - 1;
  const int64_t length = copy.size[last], step = copy.stride[last];
  int64_t outer = 1;
  for (int a = 0; a < last; ++a) outer *= copy.size[a];
  parallel_for(outer, outer * length, [=](int64_t o) {
    int64_t offset = 0, rest = o;
    for (int a = last - 1; a >= 0; --a) {
      offset += rest % copy.size[a] * copy.stride[a];
      rest /= copy.size[a];
    }
    const float* in = x + offset;
    float* out = y + o * length;
    if (step == 1) {
      std::memcpy(out, in, length * sizeof(float));
    } else {
      for (int64_t i = 0; i < length; ++i) out[i] = in[i * step];
    }
  });
}

void narrow(int64_t outer, int64_t middle, int64_t inner, int64_t start, int64_t length,
            const float* x, float* y) {
  const int64_t count = length * inner;
  parallel_for(outer, outer * count, [=](int64_t o) {
    std::memcpy(y + o * count, x + (o * middle + start) * inner, count * sizeof(float));
  });
}

void narrow_grad(int64_t outer, int64_t middle, int64_t inner, int64_t start, int64_t length,
                 const float* dy, float* dx) {
  const int64_t before = start * inner, count = length * inner, all = middle * inner;
  parallel_for(outer, outer * all, [=](int64_t o) {
    float* out = dx + o * all;
    std::memset(out, 0, before * sizeof(float));
    std::memcpy(out + before, dy + o * count, count * sizeof(float));
    std::memset(out + before + count, 0, (all - before - count) * sizeof(float));
  });
}

void take_samples(int64_t count, int64_t size, const int64_t* chosen, const float* scale,
                  const float* x, float* y) {
  parallel_for(count, count * size, [=](int64_t j) {
    const float* in = x + chosen[j] * size;
    float* out = y + j * size;
    const float factor = scale ? scale[chosen[j]] : 1.0f;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) out[i] = factor * in[i];
  });
}

void add_samples(int64_t samples, int64_t size, const int64_t* place, const float* scale,
                 const float* base, const float* x, float* y) {
  parallel_for(samples, samples * size, [=](int64_t s) {
    const float* in = base + s * size;
    float* out = y + s * size;
    if (place[s] < 0) {
      std::memcpy(out, in, size * sizeof(float));
      return;
    }
    const float* part = x + place[s] * size;
    const float factor = scale ? scale[s] : 1.0f;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) out[i] = in[i] + factor * part[i];
  });
}

}  // namespace

extern const Kernels MAE_JOIN(kernels_, MAE_ISA);
const Kernels MAE_JOIN(kernels_, MAE_ISA) = {
    MAE_TEXT(MAE_ISA),
    gelu,
    gelu_grad,
    layer_norm,
    layer_norm_grad,
    layer_norm_param_grad,
    softmax,
    softmax_grad,
    attention,
    attention_grad,
    adamw,
    add_n,
    add_row,
    multiply_row,
    add_column,
    subtract_column,
    multiply_column,
    divide_column,
    sum_rows,
    sum_columns,
    copy_strided,
    narrow,
    narrow_grad,
    take_samples,
    add_samples,
};

}  // namespace mae
