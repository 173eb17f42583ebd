// AdamW (Loshchilov and Hutter, arXiv 1711.05101) for all parameters in one launch, in OneFlow's
// order of operations:
//   g = gradient * scale + l1 sign(model) + l2 model
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
//   model -= rate / correction1 * m / (sqrt(v / correction2) + epsilon) + rate * decay * model
//
// `tensors` and `chunks` lie on the device. Block i has the elements chunks[i].start .. + kChunk of
// tensors[chunks[i].tensor]. float32 model, m and v; gradient float32, half or bfloat16; a copy of
// the model in half or bfloat16 is written where there is one. All tensors are aligned to 16 bytes.
// Null pointers stand for: rate 1, scale_by 1, corrections 1, skip_if 0.
#include "device.h"

enum Kind { kFloat, kHalf, kBfloat16 };
constexpr int kChunk = 16384;

struct Tensor {
  float *model, *m, *v;
  const void* gradient;
  void* copy;  // or null
  i64 size;
  float rate, decay;  // factor of the learning rate; weight decay
  int gradient_kind, copy_kind;
};
struct Chunk {
  int tensor, index;  // starts at element index * kChunk
};
struct Settings {
  float beta1, beta2, epsilon, scale, l1, l2;
};

namespace {

template <int n>
DEVICE void load_gradient(const Tensor& t, i64 i, float (&g)[n]) {
  if (t.gradient_kind == kFloat) {
    load(static_cast<const float*>(t.gradient) + i, g);
  } else if (t.gradient_kind == kHalf) {
    load(static_cast<const half*>(t.gradient) + i, g);
  } else {
    load(static_cast<const bfloat16*>(t.gradient) + i, g);
  }
}

struct Step {
  Settings s;
  float rate, decay, scale, root;

  template <int n>
  DEVICE void update(const Tensor& t, i64 i) const {
    float g[n], w[n], m[n], v[n];
    load_gradient(t, i, g);
    load(t.model + i, w);
    load(t.m + i, m);
    load(t.v + i, v);
    UNROLL for (int k = 0; k < n; ++k) {
      g[k] *= scale;
      if (s.l1 != 0) g[k] += w[k] >= 0 ? s.l1 : -s.l1;
      if (s.l2 != 0) g[k] += s.l2 * w[k];
      m[k] = s.beta1 * m[k] + (1.0f - s.beta1) * g[k];
      v[k] = s.beta2 * v[k] + (1.0f - s.beta2) * g[k] * g[k];
      w[k] -= rate * (m[k] / (sqrtf(v[k]) * root + s.epsilon)) + decay * w[k];
    }
    store(w, t.model + i);
    store(m, t.m + i);
    store(v, t.v + i);
    if (!t.copy) return;
    if (t.copy_kind == kHalf) store(w, static_cast<half*>(t.copy) + i);
    if (t.copy_kind == kBfloat16) store(w, static_cast<bfloat16*>(t.copy) + i);
  }
};

}  // namespace

// Blocks of any number of threads.
KERNEL(adamw, (const Tensor* tensors, const Chunk* chunks, Settings s, const float* rate,
               const float* scale_by, const float* correction1, const float* correction2,
               const i64* skip_if)) {
  if (skip_if && *skip_if) return;
  const Chunk chunk = chunks[blockIdx.x];
  const Tensor t = tensors[chunk.tensor];
  const float learning_rate = (rate ? *rate : 1.0f) * t.rate;
  Step step{s, learning_rate / (correction1 ? *correction1 : 1.0f), learning_rate * t.decay,
            s.scale * (scale_by ? *scale_by : 1.0f),
            1.0f / sqrtf(correction2 ? *correction2 : 1.0f)};
  const i64 start = (i64)chunk.index * kChunk, end = min(t.size, start + kChunk);
  const i64 whole = start + (end - start) / 4 * 4;
  for (i64 i = start + 4 * threadIdx.x; i < whole; i += 4 * blockDim.x) step.update<4>(t, i);
  for (i64 i = whole + threadIdx.x; i < end; i += blockDim.x) step.update<1>(t, i);
}
