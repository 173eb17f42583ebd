// Random numbers: Philox-4x32-10 (Salmon et al., SC 2011), a function of seed, call and place.
//
// So a number depends on no other thread, on no state on the GPU, and on no number of threads.
#include "common.cuh"

struct Four {
  unsigned x, y, z, w;
};

INLINE unsigned high_of_product(unsigned a, unsigned b) {
  return (unsigned)(((unsigned long long)a * b) >> 32);
}

INLINE Four philox(unsigned long long seed, unsigned long long call, unsigned long long place) {
  Four c = {(unsigned)place, (unsigned)(place >> 32), (unsigned)call, (unsigned)(call >> 32)};
  unsigned key_x = (unsigned)seed, key_y = (unsigned)(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const unsigned high0 = high_of_product(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
    const unsigned high1 = high_of_product(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
    c = Four{high1 ^ c.y ^ key_x, low1, high0 ^ c.w ^ key_y, low0};
    key_x += 0x9E3779B9u;
    key_y += 0xBB67AE85u;
  }
  return c;
}

// 53 bits in [0, 1).
INLINE double unit_of(unsigned high, unsigned low) {
  const unsigned long long bits = ((unsigned long long)high << 21) ^ (low >> 11);
  return (double)bits * 1.1102230246251565e-16;
}

#define RANDOM_KERNELS(name, T)                                                               \
  /* In [from, to): rounding up to `to` is taken back. */                                     \
  KERNEL(uniform_##name, (int64 n, int64 seed, int64 call, double from, double to, T* y)) {   \
    for (int64 i = first_element(); i < n; i += all_threads()) {                              \
      const Four bits = philox(seed, call, i);                                                \
      const T value = T((Wide<T>::type)(from + (to - from) * unit_of(bits.x, bits.y)));       \
      y[i] = (double)(Wide<T>::type)value < to ? value : T((Wide<T>::type)from);              \
    }                                                                                         \
  }                                                                                           \
  /* By Box and Muller's transformation. */                                                   \
  KERNEL(normal_##name, (int64 n, int64 seed, int64 call, double mean, double std, T* y)) {   \
    for (int64 i = first_element(); i < n; i += all_threads()) {                              \
      const Four bits = philox(seed, call, i);                                                \
      const double radius = sqrt(-2.0 * log1p(-unit_of(bits.x, bits.y)));                     \
      const double angle = 6.28318530717958647693 * unit_of(bits.z, bits.w);                  \
      y[i] = T((Wide<T>::type)(mean + std * radius * cos(angle)));                            \
    }                                                                                         \
  }

RANDOM_KERNELS(float32, float)
RANDOM_KERNELS(float16, float16)
RANDOM_KERNELS(float64, double)
