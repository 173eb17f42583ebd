// Updates of parameters: AdamW, and gradient descent with and without momentum.
#include "common.cuh"

INLINE float or_else(const float* pointer, float value) { return pointer ? *pointer : value; }
INLINE float sign_of(float x) { return (float)((x >= 0.0f) - (x <= 0.0f)); }

// copy: the parameter in half precision, which mixed precision keeps beside it, or null.
template <class G>
INLINE void adam(int64 n, const AdamSettings& a, const G* gradient, float* model, float* m,
                 float* v, float16* copy) {
  if (a.skip_if && *a.skip_if != 0) return;
  const float rate = or_else(a.rate_at, a.rate) * a.rate_scale;
  const float scale = a.scale * or_else(a.scale_at, 1.0f);
  const float step = rate / or_else(a.correction1_at, a.correction1);
  const float root = sqrtf(or_else(a.correction2_at, a.correction2));
  for (int64 i = first_element(); i < n; i += all_threads()) {
    const float w = model[i];
    const float g = float(gradient[i]) * scale + a.l1 * sign_of(w) + a.l2 * w;
    const float next_m = a.beta1 * m[i] + (1.0f - a.beta1) * g;
    const float next_v = a.beta2 * v[i] + (1.0f - a.beta2) * g * g;
    const float next = w - step * (next_m / (sqrtf(next_v) / root + a.epsilon)) -
                       rate * a.weight_decay * w;
    m[i] = next_m;
    v[i] = next_v;
    model[i] = next;
    if (copy) copy[i] = float16(next);
  }
}

#define ADAM_KERNEL(name, G)                                                            \
  KERNEL(adam_##name, (int64 n, AdamSettings settings, const G* gradient, float* model, \
                       float* m, float* v, float16* copy)) {                            \
    adam(n, settings, gradient, model, m, v, copy);                                     \
  }
ADAM_KERNEL(float32, float)
ADAM_KERNEL(float16, float16)

KERNEL(bias_correction, (float beta, const int64* step, float* y)) {
  if (first_element() == 0) *y = 1.0f - (float)pow((double)beta, (double)(*step + 1));
}
