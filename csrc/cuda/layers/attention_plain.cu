// Scaled dot-product attention and its gradient without tensor cores: exact float32, and half where
// the compute capability is below 8.0. Shapes, results and the order of the work are those of
// attention.cu; so is the source, FlashAttention-2 (Dao, arXiv 2307.08691).
//
// 256 threads are a square of 16 x 16; thread (y, x) has of a TILE x TILE part of the scores rows
// y, y + 16, .. and columns x, x + 16, ... A row's 16 threads are half a warp. Tiles of queries,
// keys and so on are in shared memory as float32, rows one longer than they need be, so that
// threads of neighbouring rows read from different banks.
//
//   attention_plain_forward_TYPE_SIZE   grid samples * heads * ceil(tokens / TILE)
//     4 TILE (3 (size + 1) + TILE + 1) bytes of dynamic shared memory
//   attention_plain_backward_queries_TYPE_SIZE, then attention_plain_backward_keys_TYPE_SIZE
//     4 TILE (4 (size + 1) + TILE + 1) bytes
// TYPE is float or half, SIZE 32, 64 or 80, TILE 64, or 32 where a multiprocessor has too little
// shared memory (below 8.0).
#include "device.h"
#include "place.h"

#ifndef TILE
#if defined(__CUDACC_RTC__) && __CUDA_ARCH__ < 800
#define TILE 32
#else
#define TILE 64
#endif
#endif

namespace {

constexpr int kSide = 16, kEach = TILE / kSide, kScorePitch = TILE + 1;

DEVICE int thread_x() { return threadIdx.x % kSide; }
DEVICE int thread_y() { return threadIdx.x / kSide; }

DEVICE float row_sum(float v) {
  UNROLL for (int bits = kSide / 2; bits; bits >>= 1) v += __shfl_xor_sync(~0u, v, bits);
  return v;
}
DEVICE float row_max(float v) {
  UNROLL for (int bits = kSide / 2; bits; bits >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, bits));
  return v;
}

// A tile of rows into shared memory, zeros from the `valid`-th on.
template <class T, int size>
DEVICE void load_tile(float* to, const T* from, i64 stride, int valid) {
  for (int i = threadIdx.x; i < TILE * size; i += kSide * kSide) {
    const int row = i / size, column = i % size;
    to[row * (size + 1) + column] = row < valid ? to_float(from[row * stride + column]) : 0;
  }
}

// c = a b^T, of two tiles of rows.
template <int size>
DEVICE void multiply_rows(float (&c)[kEach][kEach], const float* a, const float* b) {
  UNROLL for (int i = 0; i < kEach; ++i) UNROLL for (int j = 0; j < kEach; ++j) c[i][j] = 0;
  a += thread_y() * (size + 1);
  b += thread_x() * (size + 1);
#pragma unroll 4
  for (int k = 0; k < size; ++k) {
    float left[kEach], right[kEach];
    UNROLL for (int i = 0; i < kEach; ++i) left[i] = a[kSide * i * (size + 1) + k];
    UNROLL for (int j = 0; j < kEach; ++j) right[j] = b[kSide * j * (size + 1) + k];
    UNROLL for (int i = 0; i < kEach; ++i) UNROLL for (int j = 0; j < kEach; ++j) {
      c[i][j] += left[i] * right[j];
    }
  }
}

// c += a b, where the square a goes through `scores` in shared memory. A thread has of c columns
// x, x + 16, ...
template <int size>
DEVICE void multiply_columns(float (&c)[kEach][size / kSide], const float (&a)[kEach][kEach],
                             float* scores, const float* b) {
  scores += thread_y() * kScorePitch;
  b += thread_x();
  __syncwarp();  // a row's scores concern one half of a warp alone
  UNROLL for (int i = 0; i < kEach; ++i) UNROLL for (int j = 0; j < kEach; ++j) {
    scores[kSide * i * kScorePitch + kSide * j + thread_x()] = a[i][j];
  }
  __syncwarp();
#pragma unroll 4
  for (int k = 0; k < TILE; ++k) {
    float left[kEach], right[size / kSide];
    UNROLL for (int i = 0; i < kEach; ++i) left[i] = scores[kSide * i * kScorePitch + k];
    UNROLL for (int j = 0; j < size / kSide; ++j) right[j] = b[k * (size + 1) + kSide * j];
    UNROLL for (int i = 0; i < kEach; ++i) UNROLL for (int j = 0; j < size / kSide; ++j) {
      c[i][j] += left[i] * right[j];
    }
  }
}

template <int size>
DEVICE void clear(float (&c)[kEach][size]) {
  UNROLL for (int i = 0; i < kEach; ++i) UNROLL for (int j = 0; j < size; ++j) c[i][j] = 0;
}

// A thread's rows of c, times `factor`, to rows of memory.
template <class T, int size>
DEVICE void store_tile(const float (&c)[kEach][size / kSide], const float (&factor)[kEach], T* to,
                       i64 stride, int valid) {
  UNROLL for (int i = 0; i < kEach; ++i) {
    const int row = thread_y() + kSide * i;
    if (row >= valid) continue;
    UNROLL for (int j = 0; j < size / kSide; ++j) {
      convert(c[i][j] * factor[i], to[row * stride + kSide * j + thread_x()]);
    }
  }
}

template <class T, int size>
DEVICE void forward(int heads, int tokens, float scale, const T* qkv, T* out, float* lse) {
  DYNAMIC_SHARED(float, memory);
  constexpr int tile = TILE * (size + 1);
  float *queries = memory, *keys = queries + tile, *values = keys + tile, *scores = values + tile;
  const Place<size> p(heads, tokens, TILE);
  load_tile<T, size>(queries, qkv + p.qkv(p.first), p.qkv_stride(), tokens - p.first);
  float o[kEach][size / kSide], top[kEach], sum[kEach];
  clear(o);
  UNROLL for (int i = 0; i < kEach; ++i) top[i] = -INFINITY, sum[i] = 0;
  for (int start = 0; start < tokens; start += TILE) {
    __syncthreads();
    const T* from = qkv + p.qkv(start) + size;
    load_tile<T, size>(keys, from, p.qkv_stride(), tokens - start);
    load_tile<T, size>(values, from + size, p.qkv_stride(), tokens - start);
    __syncthreads();
    float s[kEach][kEach];
    multiply_rows<size>(s, queries, keys);
    UNROLL for (int i = 0; i < kEach; ++i) {
      float most = top[i];
      UNROLL for (int j = 0; j < kEach; ++j) {
        const bool is_key = start + kSide * j + thread_x() < tokens;
        s[i][j] = is_key ? s[i][j] * scale : -INFINITY;
        most = fmaxf(most, s[i][j]);
      }
      most = row_max(most);
      const float shrink = expf(top[i] - most);
      top[i] = most;
      sum[i] *= shrink;
      UNROLL for (int j = 0; j < kEach; ++j) {
        s[i][j] = expf(s[i][j] - most);
        sum[i] += s[i][j];
      }
      UNROLL for (int j = 0; j < size / kSide; ++j) o[i][j] *= shrink;
    }
    multiply_columns<size>(o, s, scores, values);
  }
  UNROLL for (int i = 0; i < kEach; ++i) {
    sum[i] = row_sum(sum[i]);
    const int row = p.first + thread_y() + kSide * i;
    if (thread_x() == 0 && row < tokens) lse[p.row(row)] = top[i] + logf(sum[i]);
    sum[i] = 1 / sum[i];
  }
  store_tile<T, size>(o, sum, out + p.out(p.first), p.out_stride(), tokens - p.first);
}

// ds = p (dp - delta), p = exp(scale q k - lse); dq = scale ds k. Writes delta, the sums of dout
// times out.
template <class T, int size>
DEVICE void backward_queries(int heads, int tokens, float scale, const T* qkv, const T* out,
                             const T* dout, const float* lse, float* delta, T* dqkv) {
  DYNAMIC_SHARED(float, memory);
  constexpr int tile = TILE * (size + 1);
  float *queries = memory, *douts = queries + tile, *keys = douts + tile, *values = keys + tile;
  float* scores = values + tile;
  const Place<size> p(heads, tokens, TILE);
  load_tile<T, size>(queries, qkv + p.qkv(p.first), p.qkv_stride(), tokens - p.first);
  load_tile<T, size>(douts, dout + p.out(p.first), p.out_stride(), tokens - p.first);
  __syncthreads();
  float dq[kEach][size / kSide], own_lse[kEach], own_delta[kEach], factor[kEach];
  clear(dq);
  UNROLL for (int i = 0; i < kEach; ++i) {
    const int row = thread_y() + kSide * i;
    const bool is_query = p.first + row < tokens;
    float sum = 0;
    UNROLL for (int j = 0; j < size / kSide; ++j) {
      const int column = kSide * j + thread_x();
      if (is_query) {
        sum += to_float(out[p.out(p.first + row) + column]) * douts[row * (size + 1) + column];
      }
    }
    own_delta[i] = row_sum(sum);
    own_lse[i] = is_query ? lse[p.row(p.first + row)] : INFINITY;
    factor[i] = scale;
    if (is_query && thread_x() == 0) delta[p.row(p.first + row)] = own_delta[i];
  }
  for (int start = 0; start < tokens; start += TILE) {
    __syncthreads();
    const T* from = qkv + p.qkv(start) + size;
    load_tile<T, size>(keys, from, p.qkv_stride(), tokens - start);
    load_tile<T, size>(values, from + size, p.qkv_stride(), tokens - start);
    __syncthreads();
    float s[kEach][kEach], dp[kEach][kEach];
    multiply_rows<size>(s, queries, keys);
    multiply_rows<size>(dp, douts, values);
    UNROLL for (int i = 0; i < kEach; ++i) UNROLL for (int j = 0; j < kEach; ++j) {
      const bool is_key = start + kSide * j + thread_x() < tokens;
      s[i][j] = is_key ? expf(s[i][j] * scale - own_lse[i]) * (dp[i][j] - own_delta[i]) : 0;
    }
    multiply_columns<size>(dq, s, scores, keys);
  }
  store_tile<T, size>(dq, factor, dqkv + p.qkv(p.first), p.qkv_stride(), tokens - p.first);
}

// dk = scale ds^T q, dv = p^T dout.
template <class T, int size>
DEVICE void backward_keys(int heads, int tokens, float scale, const T* qkv, const T* dout,
                          const float* lse, const float* delta, T* dqkv) {
  DYNAMIC_SHARED(float, memory);
  constexpr int tile = TILE * (size + 1);
  float *keys = memory, *values = keys + tile, *queries = values + tile, *douts = queries + tile;
  float* scores = douts + tile;
  const Place<size> p(heads, tokens, TILE);
  const T* own = qkv + p.qkv(p.first) + size;
  load_tile<T, size>(keys, own, p.qkv_stride(), tokens - p.first);
  load_tile<T, size>(values, own + size, p.qkv_stride(), tokens - p.first);
  float dk[kEach][size / kSide], dv[kEach][size / kSide], factor[kEach], one[kEach];
  clear(dk);
  clear(dv);
  UNROLL for (int i = 0; i < kEach; ++i) factor[i] = scale, one[i] = 1;
  for (int start = 0; start < tokens; start += TILE) {
    __syncthreads();
    load_tile<T, size>(queries, qkv + p.qkv(start), p.qkv_stride(), tokens - start);
    load_tile<T, size>(douts, dout + p.out(start), p.out_stride(), tokens - start);
    __syncthreads();
    float s[kEach][kEach], dp[kEach][kEach];
    multiply_rows<size>(s, keys, queries);
    multiply_rows<size>(dp, values, douts);
    UNROLL for (int j = 0; j < kEach; ++j) {
      const int row = start + kSide * j + thread_x();
      const float l = row < tokens ? lse[p.row(row)] : INFINITY;
      const float d = row < tokens ? delta[p.row(row)] : 0;
      UNROLL for (int i = 0; i < kEach; ++i) {
        s[i][j] = expf(s[i][j] * scale - l);
        dp[i][j] = s[i][j] * (dp[i][j] - d);
      }
    }
    multiply_columns<size>(dv, s, scores, douts);
    multiply_columns<size>(dk, dp, scores, queries);
  }
  T* to = dqkv + p.qkv(p.first) + size;
  store_tile<T, size>(dk, factor, to, p.qkv_stride(), tokens - p.first);
  store_tile<T, size>(dv, one, to + size, p.qkv_stride(), tokens - p.first);
}

}  // namespace

#define ATTENTION(TYPE, SIZE)                                                                     \
  KERNEL_BOUNDED(256, 1, attention_plain_forward_##TYPE##_##SIZE,                                 \
                 (int heads, int tokens, float scale, const TYPE* qkv, TYPE* out, float* lse)) {  \
    forward<TYPE, SIZE>(heads, tokens, scale, qkv, out, lse);                                     \
  }                                                                                               \
  KERNEL_BOUNDED(256, 1, attention_plain_backward_queries_##TYPE##_##SIZE,                        \
                 (int heads, int tokens, float scale, const TYPE* qkv, const TYPE* out,           \
                  const TYPE* dout, const float* lse, float* delta, TYPE* dqkv)) {                \
    backward_queries<TYPE, SIZE>(heads, tokens, scale, qkv, out, dout, lse, delta, dqkv);         \
  }                                                                                               \
  KERNEL_BOUNDED(256, 1, attention_plain_backward_keys_##TYPE##_##SIZE,                           \
                 (int heads, int tokens, float scale, const TYPE* qkv, const TYPE* dout,          \
                  const float* lse, const float* delta, TYPE* dqkv)) {                            \
    backward_keys<TYPE, SIZE>(heads, tokens, scale, qkv, dout, lse, delta, dqkv);                 \
  }
#define ATTENTIONS(SIZE) ATTENTION(float, SIZE) ATTENTION(half, SIZE)
#ifdef HEAD_SIZE  // one alone, which compiles sooner
ATTENTIONS(HEAD_SIZE)
#else
ATTENTIONS(32)
ATTENTIONS(64)
ATTENTIONS(80)
#endif
