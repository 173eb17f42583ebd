// Scaled dot-product attention, softmax(scale q k^T) v, and its gradient, on tensor cores: compute
// capability 8.0 and later. attention_plain.cu has the same without them.
//
// After FlashAttention-2 (Dao, arXiv 2307.08691): no matrix [tokens, tokens] is in memory. Scores
// are computed in registers, a strip of 16 queries (or keys) a warp, with the softmax kept up as
// keys come in; the gradient computes them again from the log-sum-exp that the forward pass keeps.
// Sums and the softmax are in float32, products take half or bfloat16. Every sum has one fixed
// order, so the gradient is the same bit for bit in every run.
//
//   qkv   [samples, tokens, heads, 3, size]   a head's query, key and value side by side
//   out   [samples, tokens, heads, size]
//   lse   [samples, heads, tokens]  float32, log of the sum of exp(scale q k)
//   delta [samples, heads, tokens]  float32, sum of dout * out
//   size is 32, 64 or 80; tokens any number from 1.
//
// Kernels, of TYPE half or bfloat16, with their dynamic shared memory in bytes. A warp has a strip
// of FORWARD_ROWS or BACKWARD_ROWS (16 or 32) rows, warps = blockDim.x / 32, own = rows * warps.
// All rows in shared memory have 8 elements more than they use, so that the eight rows of a matrix
// that ldmatrix reads lie in different banks.
//   attention_forward_TYPE_SIZE         grid samples * heads * ceil(tokens / own)
//     2 (own (size + 8) + chunk (2 size + 8))
//   attention_backward_TYPE_SIZE        grid samples * heads, a whole head in shared memory; pad is
//     tokens rounded up to BACKWARD_ROWS
//     2 (pad (4 size + 16) + 16 warps (size + 8)) + 8 (pad + 16 BACKWARD_GROUPS)
//   attention_backward_once_TYPE_SIZE    the same for warps = pad / BACKWARD_ROWS: a strip of keys
//     a warp, every score computed once; `block`, a multiple of 16, is how many queries go together
//     2 (pad (4 size + 16) + pad (block + 8)) + 8 (pad + block + 16 BACKWARD_GROUPS)
//   attention_backward_queries_TYPE_SIZE, then attention_backward_keys_TYPE_SIZE, for tokens that
//     don't fit; grid as forward
//     2 (2 own (size + 8) + chunk (2 size + 8))
//     2 (own (2 size + 8) + chunk (2 size + 16)) + 8 (chunk + 16 BACKWARD_GROUPS)
// `chunk`, a multiple of 16, is how many keys (queries) are in shared memory at a time: tokens
// rounded up to 16 where that fits.
#include "device.h"
#include "place.h"

#if HAS_TENSOR_CORES

#ifndef FORWARD_THREADS  // bounds of blockDim.x and, for the compiler, blocks a multiprocessor
#define FORWARD_THREADS 256
#define FORWARD_BLOCKS 2
#endif
#ifndef BACKWARD_THREADS
#define BACKWARD_THREADS 256
#define BACKWARD_BLOCKS 1
#endif
#ifndef FORWARD_ROWS  // of a warp: 16 or 32
#define FORWARD_ROWS 16
#endif
#ifndef BACKWARD_ROWS
#define BACKWARD_ROWS 16
#endif
#ifndef FORWARD_GROUPS  // of 16 keys whose scores are in registers at a time
#define FORWARD_GROUPS 4
#endif
#ifndef BACKWARD_GROUPS
#define BACKWARD_GROUPS 2
#endif

namespace {

constexpr float kLog2e = 1.4426950408889634f;
constexpr int kPast = 16 * BACKWARD_GROUPS;  // rows past the end that the last step may ask for

// --------------------------------------------------------------------- products of a warp's strip
// A strip is m times 16 rows; what is read of the other operand serves all of them.

// The fragments of rows [16 m, size] in shared memory, as left operand.
template <class T, int size, int m>
DEVICE void load_left(unsigned (&a)[m][size / 16][4], const T* rows, int pitch) {
  const int lane = threadIdx.x % 32;
  rows += lane % 16 * pitch + lane / 16 * 8;
  UNROLL for (int r = 0; r < m; ++r) UNROLL for (int k = 0; k < size / 16; ++k) {
    load_matrices(a[r][k], rows + 16 * r * pitch + 16 * k);
  }
}

// c [16 m, 16 n] += a [16 m, size] b [16 n, size]^T, of b the first 16 `groups` rows.
template <class T, int size, int m, int n>
DEVICE void multiply_rows(float (&c)[m][2 * n][4], const unsigned (&a)[m][size / 16][4], const T* b,
                          int pitch, int groups) {
  const int lane = threadIdx.x % 32;
  b += (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
  UNROLL for (int i = 0; i < n; ++i) {
    if (i >= groups) break;
    UNROLL for (int k = 0; k < size / 16; ++k) {
      unsigned f[4];
      load_matrices(f, b + 16 * i * pitch + 16 * k);
      UNROLL for (int r = 0; r < m; ++r) {
        mma(c[r][2 * i], a[r][k], f, T());
        mma(c[r][2 * i + 1], a[r][k], f + 2, T());
      }
    }
  }
}

// c [16 m, size] += a [16 m, 16 n] b [16 n, size], where a is accumulators of the product above.
template <class T, int size, int m, int n>
DEVICE void multiply_columns(float (&c)[m][size / 8][4], const float (&a)[m][2 * n][4], const T* b,
                             int pitch, int groups) {
  const int lane = threadIdx.x % 32;
  b += lane % 16 * pitch + lane / 16 * 8;
  UNROLL for (int i = 0; i < n; ++i) {
    if (i >= groups) break;
    unsigned left[m][4];
    UNROLL for (int r = 0; r < m; ++r) UNROLL for (int h = 0; h < 4; ++h) {
      const float(&from)[4] = a[r][2 * i + h / 2];
      left[r][h] = pack(from[h % 2 * 2], from[h % 2 * 2 + 1], T());
    }
    UNROLL for (int j = 0; j < size / 16; ++j) {
      unsigned f[4];
      load_transposed(f, b + 16 * i * pitch + 16 * j);
      UNROLL for (int r = 0; r < m; ++r) {
        mma(c[r][2 * j], left[r], f, T());
        mma(c[r][2 * j + 1], left[r], f + 2, T());
      }
    }
  }
}

template <int m, int n>
DEVICE void clear(float (&c)[m][n][4]) {
  UNROLL for (int r = 0; r < m; ++r) UNROLL for (int j = 0; j < n; ++j) {
    UNROLL for (int i = 0; i < 4; ++i) c[r][j][i] = 0;
  }
}

// ------------------------------------------------------------------------------- moving whole rows
// `rows` rows of `width` elements into shared memory, zeros from the `valid`-th on.
template <class T, int width>
DEVICE void load_rows(T* to, int pitch, const T* from, i64 stride, int valid, int rows) {
  constexpr int parts = width / 8;
  for (int i = threadIdx.x; i < rows * parts; i += blockDim.x) {
    const int row = i / parts, part = i % parts;
    const bool is_valid = row < valid;
    copy_16(to + row * pitch + part * 8, from + (is_valid ? row : 0) * stride + part * 8, is_valid);
  }
}

DEVICE void wait_for_rows() {
  commit_copies();
  wait_copies<0>();
  __syncthreads();
}

// A warp's accumulators [16 m, size] times factor[r / 8] of this lane, by way of `scratch`
// [16, size + 8] in shared memory, so that memory sees 16 bytes at a time.
template <class T, int size, int m>
DEVICE void store_rows(const float (&c)[m][size / 8][4], const float (&factor)[2 * m], T* scratch,
                       T* to, i64 stride, int valid) {
  constexpr int pitch = size + 8, parts = size / 8;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  UNROLL for (int r = 0; r < m; ++r) {
    __syncwarp();
    UNROLL for (int j = 0; j < size / 8; ++j) UNROLL for (int h = 0; h < 2; ++h) {
      const float f = factor[2 * r + h];
      *reinterpret_cast<unsigned*>(scratch + (g + 8 * h) * pitch + 8 * j + 2 * t) =
          pack(c[r][j][2 * h] * f, c[r][j][2 * h + 1] * f, T());
    }
    __syncwarp();
    UNROLL for (int i = lane; i < 16 * parts; i += 32) {
      const int row = i / parts, part = i % parts;
      if (16 * r + row < valid) {
        *reinterpret_cast<uint4*>(to + (16 * r + row) * stride + part * 8) =
            *reinterpret_cast<const uint4*>(scratch + row * pitch + part * 8);
      }
    }
  }
}

template <int n>
DEVICE void fill(float (&x)[n], float value) {
  UNROLL for (int i = 0; i < n; ++i) x[i] = value;
}

DEVICE int round_up(int n, int to) { return (n + to - 1) / to * to; }

// ----------------------------------------------------------------------------------------- forward
// Lane (g, t) has of rows g + 8 i their largest score and its own part of the sum of
// exp(scale (score - largest)).
template <int size, int m>
struct Softmax {
  float o[m][size / 8][4], top[2 * m], sum[2 * m];
};

// Takes in `count` more keys; `scale` is that of the scores times log2(e).
template <class T, int size, int m>
DEVICE void attend(Softmax<size, m>& s, const unsigned (&q)[m][size / 16][4], const T* keys,
                   const T* values, int pitch, int count, float scale) {
  constexpr int n = FORWARD_GROUPS;
  const int t = threadIdx.x % 4;
  for (int k = 0; k < count; k += 16 * n) {
    const int groups = (count - k + 15) / 16;
    float c[m][2 * n][4];
    clear(c);
    multiply_rows<T, size, m, n>(c, q, keys + k * pitch, pitch, groups);
    if (k + 16 * n > count) {
      UNROLL for (int j = 0; j < 2 * n; ++j) UNROLL for (int i = 0; i < 4; ++i) {
        if (k + 8 * j + 2 * t + i % 2 < count) continue;
        UNROLL for (int r = 0; r < m; ++r) c[r][j][i] = -INFINITY;
      }
    }
    UNROLL for (int r = 0; r < m; ++r) UNROLL for (int h = 0; h < 2; ++h) {
      float& top = s.top[2 * r + h];
      float most = top;
      UNROLL for (int j = 0; j < 2 * n; ++j) {
        most = fmaxf(most, fmaxf(c[r][j][2 * h], c[r][j][2 * h + 1]));
      }
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const float shrink = exp2_fast((top - most) * scale), base = most * scale;
      top = most;
      float sum = s.sum[2 * r + h] * shrink;
      UNROLL for (int j = 0; j < 2 * n; ++j) UNROLL for (int i = 2 * h; i < 2 * h + 2; ++i) {
        c[r][j][i] = exp2_fast(c[r][j][i] * scale - base);
        sum += c[r][j][i];
      }
      s.sum[2 * r + h] = sum;
      UNROLL for (int j = 0; j < size / 8; ++j) {
        s.o[r][j][2 * h] *= shrink;
        s.o[r][j][2 * h + 1] *= shrink;
      }
    }
    multiply_columns<T, size, m, n>(s.o, c, values + k * pitch, pitch, groups);
  }
}

template <class T, int size>
DEVICE void forward(int heads, int tokens, int chunk, float scale, const T* qkv, T* out,
                    float* lse) {
  DYNAMIC_SHARED(T, memory);
  constexpr int m = FORWARD_ROWS / 16, pitch = 2 * size + 8, own_pitch = size + 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = blockDim.x / 2 * m;
  const Place<size> p(heads, tokens, rows);
  const int first = p.first + 16 * m * warp;  // of this warp's queries
  T *queries = memory, *keys = memory + rows * own_pitch;
  T* own = queries + 16 * m * warp * own_pitch;
  load_rows<T, size>(queries, own_pitch, qkv + p.qkv(p.first), p.qkv_stride(), tokens - p.first,
                     rows);
  Softmax<size, m> s;
  clear(s.o);
  fill(s.top, -INFINITY);
  fill(s.sum, 0);
  unsigned q[m][size / 16][4];
  for (int start = 0; start < tokens; start += chunk) {
    const int count = min(chunk, tokens - start);
    if (start) __syncthreads();
    load_rows<T, 2 * size>(keys, pitch, qkv + p.qkv(start) + size, p.qkv_stride(), count,
                           round_up(count, 16));
    wait_for_rows();
    if (first >= tokens) continue;
    if (!start) load_left<T, size>(q, own, own_pitch);
    attend<T, size>(s, q, keys, keys + size, pitch, count, scale * kLog2e);
  }
  if (first >= tokens) return;
  UNROLL for (int r = 0; r < 2 * m; ++r) {
    float sum = s.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int row = first + lane / 4 + 8 * r;
    if (lane % 4 == 0 && row < tokens) lse[p.row(row)] = s.top[r] * scale + logf(sum);
    s.sum[r] = 1 / sum;
  }
  store_rows<T, size>(s.o, s.sum, own, out + p.out(first), p.out_stride(), tokens - first);
}

// ---------------------------------------------------------------------------------------- backward
// With p = exp(scale s - lse): dv = p^T dout, dp = dout v^T, ds = p (dp - delta), dq = scale ds k,
// dk = scale ds^T q. `lse` is given times log2(e), infinite for rows past the end: their p is 0.

// dq [16 m, size] += ds k over `count` keys. lse and delta are of rows g + 8 i.
template <class T, int size, int m>
DEVICE void gradient_of_queries(float (&dq)[m][size / 8][4], const unsigned (&q)[m][size / 16][4],
                                const unsigned (&dout)[m][size / 16][4], const float (&lse)[2 * m],
                                const float (&delta)[2 * m], const T* keys, const T* values,
                                int pitch, int count, float scale) {
  constexpr int n = BACKWARD_GROUPS;
  const int t = threadIdx.x % 4;
  for (int k = 0; k < count; k += 16 * n) {
    const int groups = (count - k + 15) / 16;
    float s[m][2 * n][4], dp[m][2 * n][4];
    clear(s);
    clear(dp);
    multiply_rows<T, size, m, n>(s, q, keys + k * pitch, pitch, groups);
    multiply_rows<T, size, m, n>(dp, dout, values + k * pitch, pitch, groups);
    UNROLL for (int r = 0; r < m; ++r) UNROLL for (int j = 0; j < 2 * n; ++j) {
      UNROLL for (int i = 0; i < 4; ++i) {
        const float p = exp2_fast(s[r][j][i] * scale - lse[2 * r + i / 2]);
        s[r][j][i] = p * (dp[r][j][i] - delta[2 * r + i / 2]);
      }
    }
    if (k + 16 * n > count) {
      UNROLL for (int j = 0; j < 2 * n; ++j) UNROLL for (int i = 0; i < 4; ++i) {
        if (k + 8 * j + 2 * t + i % 2 < count) continue;
        UNROLL for (int r = 0; r < m; ++r) s[r][j][i] = 0;
      }
    }
    multiply_columns<T, size, m, n>(dq, s, keys + k * pitch, pitch, groups);
  }
}

// dk += ds^T q, dv += p^T dout over `count` queries; lse and delta in shared memory, up to the next
// multiple of 16 n.
template <class T, int size, int m>
DEVICE void gradient_of_keys(float (&dk)[m][size / 8][4], float (&dv)[m][size / 8][4],
                             const unsigned (&key)[m][size / 16][4],
                             const unsigned (&value)[m][size / 16][4], const T* queries,
                             int q_pitch, const T* douts, int dout_pitch, const float* lse,
                             const float* delta, int count, float scale) {
  constexpr int n = BACKWARD_GROUPS;
  const int t = threadIdx.x % 4;
  for (int k = 0; k < count; k += 16 * n) {
    const int groups = (count - k + 15) / 16;
    float p[m][2 * n][4], dp[m][2 * n][4];
    clear(p);
    clear(dp);
    multiply_rows<T, size, m, n>(p, key, queries + k * q_pitch, q_pitch, groups);
    multiply_rows<T, size, m, n>(dp, value, douts + k * dout_pitch, dout_pitch, groups);
    UNROLL for (int j = 0; j < 2 * n; ++j) {
      const float2 l = *reinterpret_cast<const float2*>(lse + k + 8 * j + 2 * t);
      const float2 d = *reinterpret_cast<const float2*>(delta + k + 8 * j + 2 * t);
      UNROLL for (int r = 0; r < m; ++r) UNROLL for (int i = 0; i < 4; ++i) {
        p[r][j][i] = exp2_fast(p[r][j][i] * scale - (i % 2 ? l.y : l.x));
        dp[r][j][i] = p[r][j][i] * (dp[r][j][i] - (i % 2 ? d.y : d.x));
      }
    }
    multiply_columns<T, size, m, n>(dv, p, douts + k * dout_pitch, dout_pitch, groups);
    multiply_columns<T, size, m, n>(dk, dp, queries + k * q_pitch, q_pitch, groups);
  }
}

// delta of rows g + 8 i: the sum of dout, which is in fragments, times out, in memory.
template <class T, int size, int m>
DEVICE void row_products(float (&delta)[2 * m], const unsigned (&dout)[m][size / 16][4],
                         const T* out, i64 stride, int valid) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  UNROLL for (int r = 0; r < 2 * m; ++r) {
    float sum = 0;
    if (g + 8 * r < valid) {
      const T* row = out + (g + 8 * r) * stride + 2 * t;
      UNROLL for (int k = 0; k < size / 16; ++k) UNROLL for (int i = 0; i < 2; ++i) {
        const float2 a = unpack(dout[r / 2][k][2 * i + r % 2], T());
        const float2 b = unpack(*reinterpret_cast<const unsigned*>(row + 16 * k + 8 * i), T());
        sum += a.x * b.x + a.y * b.y;
      }
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    delta[r] = sum + __shfl_xor_sync(~0u, sum, 2);
  }
}

// A whole head at once: first the gradients of the queries, a strip a warp, then those of the keys
// and values. Everything is read once.
template <class T, int size>
DEVICE void backward(int heads, int tokens, float scale, const T* qkv, const T* out, const T* dout,
                     const float* lse, T* dqkv) {
  DYNAMIC_SHARED(T, memory);
  constexpr int m = BACKWARD_ROWS / 16, strip = 16 * m, pitch = 3 * size + 8, dout_pitch = size + 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int rows = round_up(tokens, strip);
  const Place<size> p(heads, tokens, rows);
  T *all = memory, *douts = all + rows * pitch, *scratch = douts + rows * dout_pitch;
  float *shared_lse = reinterpret_cast<float*>(scratch + 16 * warps * dout_pitch);
  float *shared_delta = shared_lse + rows + kPast;
  scratch += 16 * warp * dout_pitch;
  load_rows<T, 3 * size>(all, pitch, qkv + p.qkv(0), p.qkv_stride(), tokens, rows);
  load_rows<T, size>(douts, dout_pitch, dout + p.out(0), p.out_stride(), tokens, rows);
  commit_copies();
  for (int i = threadIdx.x; i < rows + kPast; i += blockDim.x) {
    shared_lse[i] = i < tokens ? lse[p.row(i)] * kLog2e : INFINITY;
    if (i >= rows) shared_delta[i] = 0;
  }
  wait_copies<0>();
  __syncthreads();
  float scales[2 * m], ones[2 * m];
  fill(scales, scale);
  fill(ones, 1);
  for (int first = strip * warp; first < tokens; first += strip * warps) {
    unsigned q[m][size / 16][4], d[m][size / 16][4];
    load_left<T, size>(d, douts + first * dout_pitch, dout_pitch);
    float own_lse[2 * m], delta[2 * m], dq[m][size / 8][4];
    row_products<T, size, m>(delta, d, out + p.out(first), p.out_stride(), tokens - first);
    load_left<T, size>(q, all + first * pitch, pitch);
    UNROLL for (int r = 0; r < 2 * m; ++r) {
      const int row = first + lane / 4 + 8 * r;
      own_lse[r] = shared_lse[row];
      if (lane % 4 == 0) shared_delta[row] = delta[r];
    }
    clear(dq);
    gradient_of_queries<T, size, m>(dq, q, d, own_lse, delta, all + size, all + 2 * size, pitch,
                                    tokens, scale * kLog2e);
    store_rows<T, size>(dq, scales, scratch, dqkv + p.qkv(first), p.qkv_stride(), tokens - first);
  }
  __syncthreads();
  for (int first = strip * warp; first < tokens; first += strip * warps) {
    unsigned key[m][size / 16][4], value[m][size / 16][4];
    load_left<T, size>(key, all + first * pitch + size, pitch);
    load_left<T, size>(value, all + first * pitch + 2 * size, pitch);
    float dk[m][size / 8][4], dv[m][size / 8][4];
    clear(dk);
    clear(dv);
    gradient_of_keys<T, size, m>(dk, dv, key, value, all, pitch, douts, dout_pitch, shared_lse,
                                 shared_delta, tokens, scale * kLog2e);
    T* to = dqkv + p.qkv(first) + size;
    store_rows<T, size>(dk, scales, scratch, to, p.qkv_stride(), tokens - first);
    store_rows<T, size>(dv, ones, scratch, to + size, p.qkv_stride(), tokens - first);
  }
}

// The left operand [16, 16] from its transpose in shared memory.
template <class T>
DEVICE void load_left_transposed(unsigned (&a)[4], const T* columns, int pitch) {
  const int lane = threadIdx.x % 32;
  load_transposed(a, columns + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
}

// A whole head at once, and every score once: a warp has a strip of keys for good. The queries come
// in blocks; what each warp finds of ds^T for a block goes through shared memory to whoever
// multiplies it with the keys.
template <class T, int size>
DEVICE void backward_once(int heads, int tokens, int block, float scale, const T* qkv, const T* out,
                          const T* dout, const float* lse, T* dqkv) {
  DYNAMIC_SHARED(T, memory);
  constexpr int m = BACKWARD_ROWS / 16, n = BACKWARD_GROUPS, strip = 16 * m;
  constexpr int pitch = 3 * size + 8, dout_pitch = size + 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int g = lane / 4, t = lane % 4, rows = strip * warps, first = strip * warp;
  const int ds_pitch = block + 8, padded = rows + block + kPast;
  const Place<size> p(heads, tokens, rows);
  T *all = memory, *douts = all + rows * pitch, *ds = douts + rows * dout_pitch;  // [rows, block]
  float *shared_lse = reinterpret_cast<float*>(ds + rows * ds_pitch);
  float *shared_delta = shared_lse + padded;
  load_rows<T, 3 * size>(all, pitch, qkv + p.qkv(0), p.qkv_stride(), tokens, rows);
  load_rows<T, size>(douts, dout_pitch, dout + p.out(0), p.out_stride(), tokens, rows);
  commit_copies();
  for (int i = threadIdx.x; i < padded; i += blockDim.x) {
    shared_lse[i] = i < tokens ? lse[p.row(i)] * kLog2e : INFINITY;
    if (i >= rows) shared_delta[i] = 0;
  }
  wait_copies<0>();
  __syncthreads();
  unsigned key[m][size / 16][4], value[m][size / 16][4];
  float dk[m][size / 8][4], dv[m][size / 8][4], scales[2 * m], ones[2 * m];
  {
    float delta[2 * m];
    load_left<T, size>(key, douts + first * dout_pitch, dout_pitch);
    row_products<T, size, m>(delta, key, out + p.out(first), p.out_stride(), tokens - first);
    UNROLL for (int r = 0; r < 2 * m; ++r) if (t == 0) shared_delta[first + g + 8 * r] = delta[r];
  }
  load_left<T, size>(key, all + first * pitch + size, pitch);
  load_left<T, size>(value, all + first * pitch + 2 * size, pitch);
  clear(dk);
  clear(dv);
  fill(scales, scale);
  fill(ones, 1);
  const float exponent = scale * kLog2e;
  for (int start = 0; start < tokens; start += block) {
    __syncthreads();  // delta is there; ds may be written
    const int count = min(block, rows - start);
    for (int k = 0; k < count; k += 16 * n) {
      const int groups = (count - k + 15) / 16, row = start + k;
      float s[m][2 * n][4], dp[m][2 * n][4];
      clear(s);
      clear(dp);
      multiply_rows<T, size, m, n>(s, key, all + row * pitch, pitch, groups);
      multiply_rows<T, size, m, n>(dp, value, douts + row * dout_pitch, dout_pitch, groups);
      UNROLL for (int j = 0; j < 2 * n; ++j) {
        const float2 l = *reinterpret_cast<const float2*>(shared_lse + row + 8 * j + 2 * t);
        const float2 d = *reinterpret_cast<const float2*>(shared_delta + row + 8 * j + 2 * t);
        UNROLL for (int r = 0; r < m; ++r) UNROLL for (int i = 0; i < 4; ++i) {
          s[r][j][i] = exp2_fast(s[r][j][i] * exponent - (i % 2 ? l.y : l.x));
          dp[r][j][i] = s[r][j][i] * (dp[r][j][i] - (i % 2 ? d.y : d.x));
        }
        if (j / 2 >= groups) continue;
        UNROLL for (int r = 0; r < m; ++r) UNROLL for (int h = 0; h < 2; ++h) {
          const int own = first + 16 * r + g + 8 * h;
          // A key past the end has scores, too, but is none.
          const unsigned pair = pack(dp[r][j][2 * h], dp[r][j][2 * h + 1], T());
          *reinterpret_cast<unsigned*>(ds + own * ds_pitch + k + 8 * j + 2 * t) =
              own < tokens ? pair : 0;
        }
      }
      multiply_columns<T, size, m, n>(dv, s, douts + row * dout_pitch, dout_pitch, groups);
      multiply_columns<T, size, m, n>(dk, dp, all + row * pitch, pitch, groups);
    }
    __syncthreads();
    // dq of the block, 16 queries and 16 columns at a time; it takes the place of the queries.
    const int units = round_up(count, 16) / 16 * (size / 16);
    for (int unit = warp; unit < units; unit += warps) {
      const int query = unit / (size / 16) * 16, column = unit % (size / 16) * 16;
      float dq[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
      const T* keys = all + size + column + lane % 16 * pitch + lane / 16 * 8;
#pragma unroll 4
      for (int k = 0; k < rows; k += 16) {
        unsigned a[4], b[4];
        load_left_transposed(a, ds + k * ds_pitch + query, ds_pitch);
        load_transposed(b, keys + k * pitch);
        mma(dq[0], a, b, T());
        mma(dq[1], a, b + 2, T());
      }
      UNROLL for (int j = 0; j < 2; ++j) UNROLL for (int h = 0; h < 2; ++h) {
        T* to = all + (start + query + g + 8 * h) * pitch + column + 8 * j + 2 * t;
        *reinterpret_cast<unsigned*>(to) =
            pack(dq[j][2 * h] * scale, dq[j][2 * h + 1] * scale, T());
      }
    }
  }
  // Keys and values have been multiplied for the last time when all are here.
  __syncthreads();
  constexpr int parts = size / 8;
  for (int i = threadIdx.x; i < tokens * parts; i += blockDim.x) {
    const int row = i / parts, part = i % parts;
    *reinterpret_cast<uint4*>(dqkv + p.qkv(row) + part * 8) =
        *reinterpret_cast<const uint4*>(all + row * pitch + part * 8);
  }
  T *scratch = douts + first * dout_pitch, *to = dqkv + p.qkv(first) + size;
  if (first >= tokens) return;
  store_rows<T, size>(dk, scales, scratch, to, p.qkv_stride(), tokens - first);
  store_rows<T, size>(dv, ones, scratch, to + size, p.qkv_stride(), tokens - first);
}

// For a strip of queries a warp, with keys and values coming in chunks. Writes delta.
template <class T, int size>
DEVICE void backward_queries(int heads, int tokens, int chunk, float scale, const T* qkv,
                             const T* out, const T* dout, const float* lse, float* delta, T* dqkv) {
  DYNAMIC_SHARED(T, memory);
  constexpr int m = BACKWARD_ROWS / 16, pitch = 2 * size + 8, own_pitch = size + 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = blockDim.x / 2 * m;
  const Place<size> p(heads, tokens, rows);
  const int first = p.first + 16 * m * warp;
  T *queries = memory, *douts = queries + rows * own_pitch, *keys = douts + rows * own_pitch;
  load_rows<T, size>(queries, own_pitch, qkv + p.qkv(p.first), p.qkv_stride(), tokens - p.first,
                     rows);
  load_rows<T, size>(douts, own_pitch, dout + p.out(p.first), p.out_stride(), tokens - p.first,
                     rows);
  queries += 16 * m * warp * own_pitch;
  douts += 16 * m * warp * own_pitch;
  unsigned q[m][size / 16][4], d[m][size / 16][4];
  float own_lse[2 * m], own_delta[2 * m], scales[2 * m], dq[m][size / 8][4];
  fill(own_lse, INFINITY);
  fill(scales, scale);
  clear(dq);
  for (int start = 0; start < tokens; start += chunk) {
    const int count = min(chunk, tokens - start);
    if (start) __syncthreads();
    load_rows<T, 2 * size>(keys, pitch, qkv + p.qkv(start) + size, p.qkv_stride(), count,
                           round_up(count, 16));
    wait_for_rows();
    if (first >= tokens) continue;
    if (!start) {
      load_left<T, size>(q, queries, own_pitch);
      load_left<T, size>(d, douts, own_pitch);
      row_products<T, size, m>(own_delta, d, out + p.out(first), p.out_stride(), tokens - first);
      UNROLL for (int r = 0; r < 2 * m; ++r) {
        const int row = first + lane / 4 + 8 * r;
        if (row >= tokens) continue;
        own_lse[r] = lse[p.row(row)] * kLog2e;
        if (lane % 4 == 0) delta[p.row(row)] = own_delta[r];
      }
    }
    gradient_of_queries<T, size, m>(dq, q, d, own_lse, own_delta, keys, keys + size, pitch, count,
                                    scale * kLog2e);
  }
  if (first >= tokens) return;
  store_rows<T, size>(dq, scales, queries, dqkv + p.qkv(first), p.qkv_stride(), tokens - first);
}

// And for a strip of keys and values a warp, with queries coming in chunks.
template <class T, int size>
DEVICE void backward_keys(int heads, int tokens, int chunk, float scale, const T* qkv,
                          const T* dout, const float* lse, const float* delta, T* dqkv) {
  DYNAMIC_SHARED(T, memory);
  constexpr int m = BACKWARD_ROWS / 16, pitch = size + 8, own_pitch = 2 * size + 8;
  const int warp = threadIdx.x / 32, rows = blockDim.x / 2 * m;
  const Place<size> p(heads, tokens, rows);
  const int first = p.first + 16 * m * warp;
  T *own = memory, *queries = own + rows * own_pitch, *douts = queries + chunk * pitch;
  float *shared_lse = reinterpret_cast<float*>(douts + chunk * pitch);
  float *shared_delta = shared_lse + chunk + kPast;
  load_rows<T, 2 * size>(own, own_pitch, qkv + p.qkv(p.first) + size, p.qkv_stride(),
                         tokens - p.first, rows);
  own += 16 * m * warp * own_pitch;
  unsigned key[m][size / 16][4], value[m][size / 16][4];
  float dk[m][size / 8][4], dv[m][size / 8][4], scales[2 * m], ones[2 * m];
  clear(dk);
  clear(dv);
  fill(scales, scale);
  fill(ones, 1);
  for (int start = 0; start < tokens; start += chunk) {
    const int count = min(chunk, tokens - start), room = round_up(count, 16);
    if (start) __syncthreads();
    load_rows<T, size>(queries, pitch, qkv + p.qkv(start), p.qkv_stride(), count, room);
    load_rows<T, size>(douts, pitch, dout + p.out(start), p.out_stride(), count, room);
    for (int i = threadIdx.x; i < chunk + kPast; i += blockDim.x) {
      shared_lse[i] = i < count ? lse[p.row(start + i)] * kLog2e : INFINITY;
      shared_delta[i] = i < count ? delta[p.row(start + i)] : 0;
    }
    wait_for_rows();
    if (first >= tokens) continue;
    if (!start) {
      load_left<T, size>(key, own, own_pitch);
      load_left<T, size>(value, own + size, own_pitch);
    }
    gradient_of_keys<T, size, m>(dk, dv, key, value, queries, pitch, douts, pitch, shared_lse,
                                 shared_delta, count, scale * kLog2e);
  }
  if (first >= tokens) return;
  T* to = dqkv + p.qkv(first) + size;
  store_rows<T, size>(dk, scales, own, to, p.qkv_stride(), tokens - first);
  store_rows<T, size>(dv, ones, own, to + size, p.qkv_stride(), tokens - first);
}

}  // namespace

#define ATTENTION(TYPE, SIZE)                                                                    \
  KERNEL_BOUNDED(FORWARD_THREADS, SIZE > 64 ? 1 : FORWARD_BLOCKS,                               \
                 attention_forward_##TYPE##_##SIZE,                                             \
                 (int heads, int tokens, int chunk, float scale, const TYPE* qkv, TYPE* out,     \
                  float* lse)) {                                                                 \
    forward<TYPE, SIZE>(heads, tokens, chunk, scale, qkv, out, lse);                             \
  }                                                                                              \
  KERNEL_BOUNDED(BACKWARD_THREADS, BACKWARD_BLOCKS, attention_backward_##TYPE##_##SIZE,          \
                 (int heads, int tokens, float scale, const TYPE* qkv, const TYPE* out,          \
                  const TYPE* dout, const float* lse, TYPE* dqkv)) {                             \
    backward<TYPE, SIZE>(heads, tokens, scale, qkv, out, dout, lse, dqkv);                       \
  }                                                                                              \
  KERNEL_BOUNDED(BACKWARD_THREADS, BACKWARD_BLOCKS, attention_backward_once_##TYPE##_##SIZE,     \
                 (int heads, int tokens, int block, float scale, const TYPE* qkv,                \
                  const TYPE* out, const TYPE* dout, const float* lse, TYPE* dqkv)) {            \
    backward_once<TYPE, SIZE>(heads, tokens, block, scale, qkv, out, dout, lse, dqkv);           \
  }                                                                                              \
  KERNEL_BOUNDED(BACKWARD_THREADS, 1, attention_backward_queries_##TYPE##_##SIZE,                \
                 (int heads, int tokens, int chunk, float scale, const TYPE* qkv,                \
                  const TYPE* out, const TYPE* dout, const float* lse, float* delta,             \
                  TYPE* dqkv)) {                                                                 \
    backward_queries<TYPE, SIZE>(heads, tokens, chunk, scale, qkv, out, dout, lse, delta, dqkv); \
  }                                                                                              \
  KERNEL_BOUNDED(BACKWARD_THREADS, 1, attention_backward_keys_##TYPE##_##SIZE,                   \
                 (int heads, int tokens, int chunk, float scale, const TYPE* qkv,                \
                  const TYPE* dout, const float* lse, const float* delta, TYPE* dqkv)) {         \
    backward_keys<TYPE, SIZE>(heads, tokens, chunk, scale, qkv, dout, lse, delta, dqkv);         \
  }
#define ATTENTIONS(SIZE) ATTENTION(half, SIZE) ATTENTION(bfloat16, SIZE)
#ifdef HEAD_SIZE  // one alone, which compiles sooner
ATTENTIONS(HEAD_SIZE)
#else
ATTENTIONS(32)
ATTENTIONS(64)
ATTENTIONS(80)
#endif

#endif  // HAS_TENSOR_CORES
