// Elements of one type as those of another.
#include "common.cuh"

template <class From, class To>
struct Converted {
  static INLINE To of(From x) { return To((typename Wide<From>::type)x); }
};
// A number is true unless it is 0: half of one, which would be cut off to 0, is true, too.
template <class From>
struct Converted<From, bool> {
  static INLINE bool of(From x) { return (typename Wide<From>::type)x != 0; }
};

#define CAST(from_name, From, to_name, To)                                       \
  KERNEL(cast_##from_name##_##to_name, (int64 n, const From* x, To* y)) {        \
    for (int64 i = first_element(); i < n; i += all_threads()) {                 \
      y[i] = Converted<From, To>::of(x[i]);                                      \
    }                                                                            \
  }

#define CASTS_FROM(name, From)         \
  CAST(name, From, bool, bool)         \
  CAST(name, From, int8, int8)         \
  CAST(name, From, uint8, uint8)       \
  CAST(name, From, int32, int)         \
  CAST(name, From, int64, int64)       \
  CAST(name, From, float16, float16)   \
  CAST(name, From, bfloat16, bfloat16) \
  CAST(name, From, float32, float)     \
  CAST(name, From, float64, double)

CASTS_FROM(bool, bool)
CASTS_FROM(int8, int8)
CASTS_FROM(uint8, uint8)
CASTS_FROM(int32, int)
CASTS_FROM(int64, int64)
CASTS_FROM(float16, float16)
CASTS_FROM(bfloat16, bfloat16)
CASTS_FROM(float32, float)
CASTS_FROM(float64, double)

// Between float and half precision, eight at a time: mixed precision casts every weight in each
// step.
template <class T>
struct alignas(16) Eight {
  T at[8];
};

#define PACKED_CAST(from_name, From, to_name, To)                                                \
  KERNEL(cast_packed_##from_name##_##to_name, (int64 eights, const Eight<From>* x,               \
                                               Eight<To>* y)) {                                  \
    for (int64 i = first_element(); i < eights; i += all_threads()) {                            \
      const Eight<From> from = x[i];                                                             \
      Eight<To> to;                                                                              \
      for (int k = 0; k < 8; ++k) to.at[k] = To(float(from.at[k]));                              \
      y[i] = to;                                                                                 \
    }                                                                                            \
  }

PACKED_CAST(float32, float, float16, float16)
PACKED_CAST(float16, float16, float32, float)
PACKED_CAST(float32, float, bfloat16, bfloat16)
PACKED_CAST(bfloat16, bfloat16, float32, float)

// The loss scale of mixed precision: y = x * scale * *by.
#define CAST_SCALE(from_name, From, to_name, To, by_name, By)                                   \
  KERNEL(cast_scale_##from_name##_##to_name##_by_##by_name, (                                   \
      int64 n, float scale, const From* x, const By* by, To* y)) {                              \
    const float factor = scale * float(*by);                                                    \
    for (int64 i = first_element(); i < n; i += all_threads()) y[i] = To(float(x[i]) * factor); \
  }

CAST_SCALE(float16, float16, float32, float, float32, float)
CAST_SCALE(float32, float, float16, float16, float16, float16)
CAST_SCALE(float32, float, float16, float16, float32, float)
CAST_SCALE(float32, float, float32, float, float32, float)
CAST_SCALE(float16, float16, float16, float16, float16, float16)
