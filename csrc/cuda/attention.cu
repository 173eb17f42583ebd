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
// Kernels, of TYPE half or bfloat16, with their dynamic shared memory, where pad(n) is n rounded up
// to 16 and warps = blockDim.x / 32. All rows have 8 elements more than they use, so that the eight
// rows of a matrix that ldmatrix reads lie in different banks.
//   attention_forward_TYPE_SIZE         grid samples * heads * ceil(tokens / (16 warps));
//     2 (16 warps (size + 8) + chunk (2 size + 8)) bytes
//   attention_backward_TYPE_SIZE        grid samples * heads, a whole head in shared memory;
//     2 (pad(tokens) (4 size + 16) + 16 warps (size + 8)) + 8 (pad(tokens) + kPast) bytes
//   attention_backward_queries_TYPE_SIZE, then attention_backward_keys_TYPE_SIZE, for tokens that
//     don't fit; grid as forward; 2 (32 warps (size + 8) + chunk (2 size + 8)) and
//     2 (16 warps (2 size + 8) + chunk (2 size + 16)) + 8 (chunk + kPast) bytes
// `chunk`, a multiple of 16, is how many keys (queries) are in shared memory at a time; pad(tokens)
// where that fits.
#include "device.h"

#if HAS_TENSOR_CORES

#ifndef FORWARD_THREADS  // bounds of blockDim.x and, for the compiler, blocks a multiprocessor
#define FORWARD_THREADS 256
#define FORWARD_BLOCKS 2
#endif
#ifndef BACKWARD_THREADS
#define BACKWARD_THREADS 256
#define BACKWARD_BLOCKS 1
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

// ------------------------------------------------------------------- products of a warp's 16 rows
// The fragments of rows [16, size] in shared memory, as left operand.
template <class T, int size>
DEVICE void load_left(unsigned (&a)[size / 16][4], const T* rows, int pitch) {
  const int lane = threadIdx.x % 32;
  rows += lane % 16 * pitch + lane / 16 * 8;
  UNROLL for (int k = 0; k < size / 16; ++k) load_matrices(a[k], rows + 16 * k);
}

// c [16, 16 n] += a [16, size] b [16 n, size]^T, of b the first 16 `groups` rows.
template <class T, int size, int n>
DEVICE void multiply_rows(float (&c)[2 * n][4], const unsigned (&a)[size / 16][4], const T* b,
                          int pitch, int groups) {
  const int lane = threadIdx.x % 32;
  b += (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
  UNROLL for (int i = 0; i < n; ++i) {
    if (i >= groups) break;
    UNROLL for (int k = 0; k < size / 16; ++k) {
      unsigned f[4];
      load_matrices(f, b + 16 * i * pitch + 16 * k);
      mma(c[2 * i], a[k], f, T());
      mma(c[2 * i + 1], a[k], f + 2, T());
    }
  }
}

// c [16, size] += a [16, 16 n] b [16 n, size], where a is accumulators of the product above.
template <class T, int size, int n>
DEVICE void multiply_columns(float (&c)[size / 8][4], const float (&a)[2 * n][4], const T* b,
                             int pitch, int groups) {
  const int lane = threadIdx.x % 32;
  b += lane % 16 * pitch + lane / 16 * 8;
  UNROLL for (int i = 0; i < n; ++i) {
    if (i >= groups) break;
    const unsigned left[4] = {
        pack(a[2 * i][0], a[2 * i][1], T()), pack(a[2 * i][2], a[2 * i][3], T()),
        pack(a[2 * i + 1][0], a[2 * i + 1][1], T()), pack(a[2 * i + 1][2], a[2 * i + 1][3], T())};
    UNROLL for (int j = 0; j < size / 16; ++j) {
      unsigned f[4];
      load_transposed(f, b + 16 * i * pitch + 16 * j);
      mma(c[2 * j], left, f, T());
      mma(c[2 * j + 1], left, f + 2, T());
    }
  }
}

template <int n>
DEVICE void clear(float (&c)[n][4]) {
  UNROLL for (int j = 0; j < n; ++j) UNROLL for (int i = 0; i < 4; ++i) c[j][i] = 0;
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

// A warp's accumulators [16, size], row r times factor[r / 8 of this lane], by way of `scratch`
// [16, size + 8] in shared memory, so that memory sees 16 bytes at a time.
template <class T, int size>
DEVICE void store_rows(const float (&c)[size / 8][4], float first, float second, T* scratch, T* to,
                       i64 stride, int valid) {
  constexpr int pitch = size + 8, parts = size / 8;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  __syncwarp();
  UNROLL for (int j = 0; j < size / 8; ++j) {
    unsigned* at = reinterpret_cast<unsigned*>(scratch + g * pitch + 8 * j + 2 * t);
    at[0] = pack(c[j][0] * first, c[j][1] * first, T());
    at[4 * pitch] = pack(c[j][2] * second, c[j][3] * second, T());
  }
  __syncwarp();
  UNROLL for (int i = lane; i < 16 * parts; i += 32) {
    const int row = i / parts, part = i % parts;
    if (row < valid) {
      *reinterpret_cast<uint4*>(to + row * stride + part * 8) =
          *reinterpret_cast<const uint4*>(scratch + row * pitch + part * 8);
    }
  }
}

// Which rows of which head a block has.
template <class T, int size>
struct Place {
  int head, first;
  i64 sample, tokens, heads;
  DEVICE Place(int heads, int tokens, int rows) : tokens(tokens), heads(heads) {
    const int blocks = (tokens + rows - 1) / rows;
    const int index = blockIdx.x / blocks;
    first = blockIdx.x % blocks * rows;
    sample = index / heads;
    head = index % heads;
  }
  DEVICE i64 qkv_stride() const { return heads * 3 * size; }
  DEVICE i64 out_stride() const { return heads * size; }
  DEVICE i64 qkv(i64 token) const { return ((sample * tokens + token) * heads + head) * 3 * size; }
  DEVICE i64 out(i64 token) const { return ((sample * tokens + token) * heads + head) * size; }
  DEVICE i64 row(i64 token) const { return (sample * heads + head) * tokens + token; }
};

DEVICE int round_16(int n) { return (n + 15) / 16 * 16; }

// ----------------------------------------------------------------------------------------- forward
// Lane (g, t) has of rows g and g + 8 their largest score and its own part of the sum of
// exp(scale (score - largest)).
template <int size>
struct Softmax {
  float o[size / 8][4], top[2], sum[2];
};

// Takes in `count` more keys; `scale` is that of the scores times log2(e).
template <class T, int size>
DEVICE void attend(Softmax<size>& s, const unsigned (&q)[size / 16][4], const T* keys,
                   const T* values, int pitch, int count, float scale) {
  constexpr int n = FORWARD_GROUPS;
  const int t = threadIdx.x % 4;
  for (int k = 0; k < count; k += 16 * n) {
    const int groups = (count - k + 15) / 16;
    float c[2 * n][4];
    clear(c);
    multiply_rows<T, size, n>(c, q, keys + k * pitch, pitch, groups);
    if (k + 16 * n > count) {
      UNROLL for (int j = 0; j < 2 * n; ++j) UNROLL for (int i = 0; i < 4; ++i) {
        if (k + 8 * j + 2 * t + i % 2 >= count) c[j][i] = -INFINITY;
      }
    }
    UNROLL for (int r = 0; r < 2; ++r) {
      float top = s.top[r];
      UNROLL for (int j = 0; j < 2 * n; ++j) top = fmaxf(top, fmaxf(c[j][2 * r], c[j][2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      const float shrink = exp2_fast((s.top[r] - top) * scale), base = top * scale;
      s.top[r] = top;
      float sum = s.sum[r] * shrink;
      UNROLL for (int j = 0; j < 2 * n; ++j) {
        c[j][2 * r] = exp2_fast(c[j][2 * r] * scale - base);
        c[j][2 * r + 1] = exp2_fast(c[j][2 * r + 1] * scale - base);
        sum += c[j][2 * r] + c[j][2 * r + 1];
      }
      s.sum[r] = sum;
      UNROLL for (int j = 0; j < size / 8; ++j) {
        s.o[j][2 * r] *= shrink;
        s.o[j][2 * r + 1] *= shrink;
      }
    }
    multiply_columns<T, size, n>(s.o, c, values + k * pitch, pitch, groups);
  }
}

template <class T, int size>
DEVICE void forward(int heads, int tokens, int chunk, float scale, const T* qkv, T* out,
                    float* lse) {
  DYNAMIC_SHARED(T, memory);
  constexpr int pitch = 2 * size + 8, own_pitch = size + 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = blockDim.x / 2;
  const Place<T, size> p(heads, tokens, rows);
  const int first = p.first + 16 * warp;  // this warp's queries
  T *queries = memory, *keys = memory + rows * own_pitch, *own = queries + 16 * warp * own_pitch;
  load_rows<T, size>(queries, own_pitch, qkv + p.qkv(p.first), p.qkv_stride(), tokens - p.first,
                     rows);
  Softmax<size> s;
  clear(s.o);
  s.top[0] = s.top[1] = -INFINITY;
  s.sum[0] = s.sum[1] = 0;
  unsigned q[size / 16][4];
  for (int start = 0; start < tokens; start += chunk) {
    const int count = min(chunk, tokens - start);
    if (start) __syncthreads();
    load_rows<T, 2 * size>(keys, pitch, qkv + p.qkv(start) + size, p.qkv_stride(), count,
                           round_16(count));
    wait_for_rows();
    if (first >= tokens) continue;
    if (!start) load_left<T, size>(q, own, own_pitch);
    attend<T, size>(s, q, keys, keys + size, pitch, count, scale * kLog2e);
  }
  if (first >= tokens) return;
  UNROLL for (int r = 0; r < 2; ++r) {
    s.sum[r] += __shfl_xor_sync(~0u, s.sum[r], 1);
    s.sum[r] += __shfl_xor_sync(~0u, s.sum[r], 2);
    const int row = first + lane / 4 + 8 * r;
    if (lane % 4 == 0 && row < tokens) lse[p.row(row)] = s.top[r] * scale + logf(s.sum[r]);
  }
  store_rows<T, size>(s.o, 1 / s.sum[0], 1 / s.sum[1], own, out + p.out(first), p.out_stride(),
                      tokens - first);
}

// ---------------------------------------------------------------------------------------- backward
// With p = exp(scale s - lse): dv = p^T dout, dp = dout v^T, ds = p (dp - delta), dq = scale ds k,
// dk = scale ds^T q. `lse` is given times log2(e), and infinite for rows past the end: their p is 0.

// dq [16, size] += ds k over `count` keys. Of rows g and g + 8.
template <class T, int size>
DEVICE void gradient_of_queries(float (&dq)[size / 8][4], const unsigned (&q)[size / 16][4],
                                const unsigned (&dout)[size / 16][4], const float (&lse)[2],
                                const float (&delta)[2], const T* keys, const T* values, int pitch,
                                int count, float scale) {
  constexpr int n = BACKWARD_GROUPS;
  const int t = threadIdx.x % 4;
  for (int k = 0; k < count; k += 16 * n) {
    const int groups = (count - k + 15) / 16;
    float s[2 * n][4], dp[2 * n][4];
    clear(s);
    clear(dp);
    multiply_rows<T, size, n>(s, q, keys + k * pitch, pitch, groups);
    multiply_rows<T, size, n>(dp, dout, values + k * pitch, pitch, groups);
    UNROLL for (int j = 0; j < 2 * n; ++j) UNROLL for (int i = 0; i < 4; ++i) {
      const float p = exp2_fast(s[j][i] * scale - lse[i / 2]);
      s[j][i] = k + 8 * j + 2 * t + i % 2 < count ? p * (dp[j][i] - delta[i / 2]) : 0;
    }
    multiply_columns<T, size, n>(dq, s, keys + k * pitch, pitch, groups);
  }
}

// dk += ds^T q, dv += p^T dout over `count` queries; lse and delta in shared memory, up to the next
// multiple of 16 n.
template <class T, int size>
DEVICE void gradient_of_keys(float (&dk)[size / 8][4], float (&dv)[size / 8][4],
                             const unsigned (&key)[size / 16][4],
                             const unsigned (&value)[size / 16][4], const T* queries, int q_pitch,
                             const T* douts, int dout_pitch, const float* lse, const float* delta,
                             int count, float scale) {
  constexpr int n = BACKWARD_GROUPS;
  const int t = threadIdx.x % 4;
  for (int r = 0; r < count; r += 16 * n) {
    const int groups = (count - r + 15) / 16;
    float p[2 * n][4], dp[2 * n][4];
    clear(p);
    clear(dp);
    multiply_rows<T, size, n>(p, key, queries + r * q_pitch, q_pitch, groups);
    multiply_rows<T, size, n>(dp, value, douts + r * dout_pitch, dout_pitch, groups);
    UNROLL for (int j = 0; j < 2 * n; ++j) {
      const float2 l = *reinterpret_cast<const float2*>(lse + r + 8 * j + 2 * t);
      const float2 d = *reinterpret_cast<const float2*>(delta + r + 8 * j + 2 * t);
      UNROLL for (int i = 0; i < 4; ++i) {
        p[j][i] = exp2_fast(p[j][i] * scale - (i % 2 ? l.y : l.x));
        dp[j][i] = p[j][i] * (dp[j][i] - (i % 2 ? d.y : d.x));
      }
    }
    multiply_columns<T, size, n>(dv, p, douts + r * dout_pitch, dout_pitch, groups);
    multiply_columns<T, size, n>(dk, dp, queries + r * q_pitch, q_pitch, groups);
  }
}

// delta of rows g and g + 8: the sum of dout, which is in fragments, times out, in memory.
template <class T, int size>
DEVICE void row_products(float (&delta)[2], const unsigned (&dout)[size / 16][4], const T* out,
                         i64 stride, int valid) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  UNROLL for (int r = 0; r < 2; ++r) {
    delta[r] = 0;
    if (g + 8 * r < valid) {
      const T* row = out + (g + 8 * r) * stride + 2 * t;
      UNROLL for (int k = 0; k < size / 16; ++k) UNROLL for (int i = 0; i < 2; ++i) {
        const float2 a = unpack(dout[k][2 * i + r], T());
        const float2 b = unpack(*reinterpret_cast<const unsigned*>(row + 16 * k + 8 * i), T());
        delta[r] += a.x * b.x + a.y * b.y;
      }
    }
    delta[r] += __shfl_xor_sync(~0u, delta[r], 1);
    delta[r] += __shfl_xor_sync(~0u, delta[r], 2);
  }
}

// A whole head at once: first the gradients of the queries, a strip a warp, then those of the keys
// and values. Everything is read once.
template <class T, int size>
DEVICE void backward(int heads, int tokens, float scale, const T* qkv, const T* out, const T* dout,
                     const float* lse, T* dqkv) {
  DYNAMIC_SHARED(T, memory);
  constexpr int pitch = 3 * size + 8, dout_pitch = size + 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
  const int rows = round_16(tokens), strips = rows / 16, warps = blockDim.x / 32;
  const Place<T, size> p(heads, tokens, rows);
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
  for (int strip = warp; strip < strips; strip += warps) {
    const int first = 16 * strip;
    unsigned q[size / 16][4], d[size / 16][4];
    load_left<T, size>(d, douts + first * dout_pitch, dout_pitch);
    float delta[2], dq[size / 8][4];
    row_products<T, size>(delta, d, out + p.out(first), p.out_stride(), tokens - first);
    load_left<T, size>(q, all + first * pitch, pitch);
    const float own_lse[2] = {shared_lse[first + g], shared_lse[first + g + 8]};
    if (lane % 4 == 0) {
      shared_delta[first + g] = delta[0];
      shared_delta[first + g + 8] = delta[1];
    }
    clear(dq);
    gradient_of_queries<T, size>(dq, q, d, own_lse, delta, all + size, all + 2 * size, pitch,
                                 tokens, scale * kLog2e);
    store_rows<T, size>(dq, scale, scale, scratch, dqkv + p.qkv(first), p.qkv_stride(),
                        tokens - first);
  }
  __syncthreads();
  for (int strip = warp; strip < strips; strip += warps) {
    const int first = 16 * strip;
    unsigned key[size / 16][4], value[size / 16][4];
    load_left<T, size>(key, all + first * pitch + size, pitch);
    load_left<T, size>(value, all + first * pitch + 2 * size, pitch);
    float dk[size / 8][4], dv[size / 8][4];
    clear(dk);
    clear(dv);
    gradient_of_keys<T, size>(dk, dv, key, value, all, pitch, douts, dout_pitch, shared_lse,
                              shared_delta, tokens, scale * kLog2e);
    T* to = dqkv + p.qkv(first) + size;
    store_rows<T, size>(dk, scale, scale, scratch, to, p.qkv_stride(), tokens - first);
    store_rows<T, size>(dv, 1, 1, scratch, to + size, p.qkv_stride(), tokens - first);
  }
}

// As above, for a strip of queries a warp, with keys and values coming in chunks. Writes delta.
template <class T, int size>
DEVICE void backward_queries(int heads, int tokens, int chunk, float scale, const T* qkv,
                             const T* out, const T* dout, const float* lse, float* delta, T* dqkv) {
  DYNAMIC_SHARED(T, memory);
  constexpr int pitch = 2 * size + 8, own_pitch = size + 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, rows = blockDim.x / 2;
  const Place<T, size> p(heads, tokens, rows);
  const int first = p.first + 16 * warp;
  T *queries = memory, *douts = queries + rows * own_pitch, *keys = douts + rows * own_pitch;
  load_rows<T, size>(queries, own_pitch, qkv + p.qkv(p.first), p.qkv_stride(), tokens - p.first,
                     rows);
  load_rows<T, size>(douts, own_pitch, dout + p.out(p.first), p.out_stride(), tokens - p.first,
                     rows);
  queries += 16 * warp * own_pitch;
  unsigned q[size / 16][4], d[size / 16][4];
  float own_lse[2] = {INFINITY, INFINITY}, own_delta[2], dq[size / 8][4];
  clear(dq);
  for (int start = 0; start < tokens; start += chunk) {
    const int count = min(chunk, tokens - start);
    if (start) __syncthreads();
    load_rows<T, 2 * size>(keys, pitch, qkv + p.qkv(start) + size, p.qkv_stride(), count,
                           round_16(count));
    wait_for_rows();
    if (first >= tokens) continue;
    if (!start) {
      load_left<T, size>(q, queries, own_pitch);
      load_left<T, size>(d, douts + 16 * warp * own_pitch, own_pitch);
      row_products<T, size>(own_delta, d, out + p.out(first), p.out_stride(), tokens - first);
      UNROLL for (int r = 0; r < 2; ++r) {
        const int row = first + g + 8 * r;
        if (row >= tokens) continue;
        own_lse[r] = lse[p.row(row)] * kLog2e;
        if (lane % 4 == 0) delta[p.row(row)] = own_delta[r];
      }
    }
    gradient_of_queries<T, size>(dq, q, d, own_lse, own_delta, keys, keys + size, pitch, count,
                                 scale * kLog2e);
  }
  if (first >= tokens) return;
  store_rows<T, size>(dq, scale, scale, queries, dqkv + p.qkv(first), p.qkv_stride(),
                      tokens - first);
}

// And for a strip of keys and values a warp, with queries coming in chunks.
template <class T, int size>
DEVICE void backward_keys(int heads, int tokens, int chunk, float scale, const T* qkv,
                          const T* dout, const float* lse, const float* delta, T* dqkv) {
  DYNAMIC_SHARED(T, memory);
  constexpr int pitch = size + 8, own_pitch = 2 * size + 8;
  const int warp = threadIdx.x / 32, rows = blockDim.x / 2;
  const Place<T, size> p(heads, tokens, rows);
  const int first = p.first + 16 * warp;
  T *own = memory, *queries = own + rows * own_pitch, *douts = queries + chunk * pitch;
  float *shared_lse = reinterpret_cast<float*>(douts + chunk * pitch);
  float *shared_delta = shared_lse + chunk + kPast;
  load_rows<T, 2 * size>(own, own_pitch, qkv + p.qkv(p.first) + size, p.qkv_stride(),
                         tokens - p.first, rows);
  own += 16 * warp * own_pitch;
  unsigned key[size / 16][4], value[size / 16][4];
  float dk[size / 8][4], dv[size / 8][4];
  clear(dk);
  clear(dv);
  for (int start = 0; start < tokens; start += chunk) {
    const int count = min(chunk, tokens - start);
    if (start) __syncthreads();
    load_rows<T, size>(queries, pitch, qkv + p.qkv(start), p.qkv_stride(), count, round_16(count));
    load_rows<T, size>(douts, pitch, dout + p.out(start), p.out_stride(), count, round_16(count));
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
    gradient_of_keys<T, size>(dk, dv, key, value, queries, pitch, douts, pitch, shared_lse,
                              shared_delta, count, scale * kLog2e);
  }
  if (first >= tokens) return;
  T* to = dqkv + p.qkv(first) + size;
  store_rows<T, size>(dk, scale, scale, own, to, p.qkv_stride(), tokens - first);
  store_rows<T, size>(dv, 1, 1, own, to + size, p.qkv_stride(), tokens - first);
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
