// One result for each element, or for each pair that broadcasting brings together.
//
// The operation is an argument, not a template: all of these wait for memory, and a kernel for each
// would take minutes to compile. What costs many registers (pow, remainders, gradients) is apart
// from what is used most.
#include "common.cuh"

// An approximation (Winitzki's) to 3 digits, then steps of Newton's method. Weights are drawn with
// it.
template <class A>
INLINE A inverse_erf(A x) {
  if (x <= A(-1) || x >= A(1)) return x * A(infinity());
  const A k = A(0.147), log_term = log1p_of(-x * x);
  const A half_term = A(4.3307467508) + A(0.5) * log_term;  // 2 / (pi k)
  const A root = sqrt_of(sqrt_of(half_term * half_term - log_term / k) - half_term);
  A y = x < A(0) ? -root : root;
  for (int step = 0; step < 3; ++step) {
    y -= (erf_of(y) - x) * A(0.88622692545275801365) * exp_of(y * y);
  }
  return y;
}

template <class A>
INLINE A unary(int operation, A x) {
  switch (operation) {
    case UNARY_RELU: return x > A(0) ? x : A(0);
    case UNARY_GELU: return A(0.5) * x * (A(1) + erf_of(x * A(0.70710678118654752440)));
    case UNARY_FAST_GELU: {
      const A inner = x + A(0.044714998453855515) * x * x * x;
      return A(0.5) * x * (A(1) + tanh_of(A(0.79788456080286535588) * inner));
    }
    case UNARY_QUICK_GELU: return x / (A(1) + exp_of(A(-1.702) * x));
    case UNARY_SILU: return x / (A(1) + exp_of(-x));
    case UNARY_SIGMOID: return A(1) / (A(1) + exp_of(-x));
    case UNARY_TANH: return tanh_of(x);
    case UNARY_ABS: return x < A(0) ? -x : x;
    case UNARY_CEIL: return ceil_of(x);
    case UNARY_FLOOR: return floor_of(x);
    case UNARY_ROUND: return round_of(x);
    case UNARY_TRUNC: return trunc_of(x);
    case UNARY_SIGN: return A((x > A(0)) - (x < A(0)));
    case UNARY_NEGATIVE: return -x;
    case UNARY_RECIPROCAL: return A(1) / x;
    case UNARY_SQUARE: return x * x;
    case UNARY_SQRT: return sqrt_of(x);
    case UNARY_RSQRT: return rsqrt_of(x);
    case UNARY_EXP: return exp_of(x);
    case UNARY_EXPM1: return expm1_of(x);
    case UNARY_LOG: return log_of(x);
    case UNARY_LOG2: return log2_of(x);
    case UNARY_LOG10: return log10_of(x);
    case UNARY_LOG1P: return log1p_of(x);
    case UNARY_SIN: return sin_of(x);
    case UNARY_COS: return cos_of(x);
    case UNARY_ERF: return erf_of(x);
    case UNARY_ERFC: return erfc_of(x);
    case UNARY_ERFINV: return inverse_erf(x);
    case UNARY_SOFTPLUS: return x > A(20) ? x : log1p_of(exp_of(x));
  }
  return x;
}

// The operations that whole numbers have, too.
template <class A>
INLINE A unary_whole(int operation, A x) {
  switch (operation) {
    case UNARY_RELU: return x > 0 ? x : A(0);
    case UNARY_ABS: return x < 0 ? -x : x;
    case UNARY_SIGN: return (x > 0) - (x < 0);
    case UNARY_NEGATIVE: return -x;
    case UNARY_SQUARE: return x * x;
  }
  return x;
}
template <>
INLINE int unary<int>(int operation, int x) {
  return unary_whole(operation, x);
}
template <>
INLINE int64 unary<int64>(int operation, int64 x) {
  return unary_whole(operation, x);
}

template <class A>
INLINE bool question(int code, A x) {
  const bool is_nan = x != x, is_inf = !is_nan && x - x != A(0);
  switch (code) {
    case QUESTION_NOT: return x == A(0);
    case QUESTION_IS_NAN: return is_nan;
    case QUESTION_IS_INF: return is_inf;
    case QUESTION_IS_FINITE: return !is_nan && !is_inf;
  }
  return x != A(0);
}

template <class A>
INLINE A divide(A x, A y) {
  return x / y;
}
// A GPU gives some number for a division of whole numbers by 0, a CPU ends the program.
template <>
INLINE int divide<int>(int x, int y) {
  return y ? x / y : 0;
}
template <>
INLINE int64 divide<int64>(int64 x, int64 y) {
  return y ? x / y : 0;
}

template <class A>
INLINE A arithmetic(int operation, A x, A y) {
  switch (operation) {
    case ARITHMETIC_ADD: return x + y;
    case ARITHMETIC_SUB: return x - y;
    case ARITHMETIC_MUL: return x * y;
    case ARITHMETIC_DIV: return divide(x, y);
    case ARITHMETIC_MAX: return x > y || x != x ? x : y;
  }
  return x < y || x != x ? x : y;
}

template <class A>
INLINE A remainder_like_python(A x, A y) {
  const A r = remainder_of(x, y);
  return r != A(0) && (r < A(0)) != (y < A(0)) ? r + y : r;
}

template <class A>
INLINE A gelu_grad(A dy, A x) {
  const A cumulated = A(0.5) * (A(1) + erf_of(x * A(0.70710678118654752440)));
  return dy * (cumulated + x * A(0.39894228040143267794) * exp_of(A(-0.5) * x * x));
}

template <class A>
INLINE A fast_gelu_grad(A dy, A x) {
  const A c = A(0.79788456080286535588), k = A(0.044714998453855515);
  const A t = tanh_of(c * (x + k * x * x * x));
  const A slope = (A(1) - t * t) * c * (A(1) + A(3) * k * x * x);
  return dy * A(0.5) * (A(1) + t + x * slope);
}

// x: the first operand, of a gradient dy; y: the second, of a gradient what it is the slope at.
template <class A>
INLINE A special(int operation, A x, A y, A scalar) {
  switch (operation) {
    case SPECIAL_POW: return pow_of(x, y);
    case SPECIAL_FMOD: return remainder_of(x, y);
    case SPECIAL_FLOOR_DIV: return floor_of(x / y);
    case SPECIAL_TRUNC_DIV: return trunc_of(x / y);
    case SPECIAL_FLOOR_MOD: return remainder_like_python(x, y);
    // These two take the operand first and dy second.
    case SPECIAL_BASE_POWER_GRAD: return scalar * pow_of(x, scalar - A(1)) * y;
    case SPECIAL_EXPONENT_POWER_GRAD: return pow_of(scalar, x) * log_of(scalar) * y;
    case SPECIAL_GELU_GRAD: return gelu_grad(x, y);
    case SPECIAL_FAST_GELU_GRAD: return fast_gelu_grad(x, y);
    case SPECIAL_QUICK_GELU_GRAD: {
      const A s = A(1) / (A(1) + exp_of(A(-1.702) * y));
      return x * (s + A(1.702) * y * s * (A(1) - s));
    }
    case SPECIAL_SILU_GRAD: {
      const A s = A(1) / (A(1) + exp_of(-y));
      return x * s * (A(1) + y * (A(1) - s));
    }
    case SPECIAL_RELU_GRAD_OF_Y: return y > A(0) ? x : A(0);
    case SPECIAL_SIGMOID_GRAD_OF_Y: return x * y * (A(1) - y);
    case SPECIAL_SIGMOID_GRAD: {
      const A s = A(1) / (A(1) + exp_of(-y));
      return x * s * (A(1) - s);
    }
    case SPECIAL_TANH_GRAD: {
      const A t = tanh_of(y);
      return x * (A(1) - t * t);
    }
    case SPECIAL_ABS_GRAD: return y > A(0) ? x : y < A(0) ? -x : A(0);
    case SPECIAL_RECIPROCAL_GRAD: return -x / (y * y);
    case SPECIAL_SQUARE_GRAD: return x * A(2) * y;
    case SPECIAL_SQRT_GRAD: return x * A(0.5) * rsqrt_of(y);
    case SPECIAL_RSQRT_GRAD: return x * A(-0.5) * rsqrt_of(y) / y;
    case SPECIAL_EXP_GRAD: return x * exp_of(y);
    case SPECIAL_EXPM1_GRAD: return x * exp_of(y);
    case SPECIAL_LOG_GRAD: return x / y;
    case SPECIAL_LOG2_GRAD: return x / (y * A(0.69314718055994530942));
    case SPECIAL_LOG10_GRAD: return x / (y * A(2.30258509299404568402));
    case SPECIAL_LOG1P_GRAD: return x / (y + A(1));
    case SPECIAL_SIN_GRAD: return x * cos_of(y);
    case SPECIAL_COS_GRAD: return -x * sin_of(y);
    case SPECIAL_ERF_GRAD: return x * A(1.12837916709551257390) * exp_of(-y * y);
    case SPECIAL_ERFC_GRAD: return x * A(-1.12837916709551257390) * exp_of(-y * y);
    case SPECIAL_SOFTPLUS_GRAD: return x / (A(1) + exp_of(-y));
  }
  return x;
}

template <class A>
INLINE A special_whole(int operation, A x, A y) {
  if (operation == SPECIAL_POW) {
    A power = 1;
    for (A k = 0; k < y; ++k) power *= x;
    return power;
  }
  if (y == 0) return 0;
  const A quotient = x / y, rest = x % y;
  const bool rounds_up = rest != 0 && (rest < 0) != (y < 0);
  switch (operation) {
    case SPECIAL_FMOD: return rest;
    case SPECIAL_FLOOR_MOD: return rounds_up ? rest + y : rest;
    // OneFlow's quotient of whole numbers is cut off on every device.
    case SPECIAL_FLOOR_DIV: return quotient;
    case SPECIAL_TRUNC_DIV: return quotient;
  }
  return x;
}
template <>
INLINE int special<int>(int operation, int x, int y, int) {
  return special_whole(operation, x, y);
}
template <>
INLINE int64 special<int64>(int operation, int64 x, int64 y, int64) {
  return special_whole(operation, x, y);
}

template <class A>
INLINE bool compare(int operation, A x, A y) {
  switch (operation) {
    case COMPARISON_EQUAL: return x == y;
    case COMPARISON_NOT_EQUAL: return x != y;
    case COMPARISON_LESS: return x < y;
    case COMPARISON_LESS_EQUAL: return x <= y;
    case COMPARISON_GREATER: return x > y;
    case COMPARISON_GREATER_EQUAL: return x >= y;
    case COMPARISON_AND: return x != A(0) && y != A(0);
    case COMPARISON_OR: return x != A(0) || y != A(0);
  }
  return (x != A(0)) != (y != A(0));
}

// --- kernels ------------------------------------------------------------------------------------

// Two operands in their wide type; a null pointer means that the scalar stands for the tensor.
template <class T>
struct Operands {
  typedef typename Wide<T>::type A;
  const T *x, *y;
  A scalar_x, scalar_y;
  INLINE void at(const Strides& s, int64 i, A& left, A& right) const {
    int64 a, b;
    offsets(s, i, a, b);
    left = x ? A(x[a]) : scalar_x;
    right = y ? A(y[b]) : scalar_y;
  }
};

#define FOR_EACH_ELEMENT(i, n) for (int64 i = first_element(); i < (n); i += all_threads())

#define UNARY_KERNELS(name, T)                                                             \
  KERNEL(unary_##name, (int64 n, int operation, const T* x, T* y)) {                       \
    FOR_EACH_ELEMENT(i, n) y[i] = T(unary<Wide<T>::type>(operation, (Wide<T>::type)x[i])); \
  }                                                                                        \
  KERNEL(question_##name, (int64 n, int code, const T* x, bool* y)) {                      \
    FOR_EACH_ELEMENT(i, n) y[i] = question<Wide<T>::type>(code, (Wide<T>::type)x[i]);      \
  }

#define BINARY_KERNELS(name, T)                                                                   \
  KERNEL(arithmetic_##name, (int64 n, int operation, Strides s, Wide<T>::type scalar_x,           \
                             Wide<T>::type scalar_y, const T* x, const T* y, T* z)) {             \
    const Operands<T> operands = {x, y, scalar_x, scalar_y};                                      \
    FOR_EACH_ELEMENT(i, n) {                                                                      \
      Wide<T>::type left, right;                                                                  \
      operands.at(s, i, left, right);                                                             \
      z[i] = T(arithmetic<Wide<T>::type>(operation, left, right));                                \
    }                                                                                             \
  }                                                                                               \
  KERNEL(special_##name, (int64 n, int operation, Strides s, Wide<T>::type scalar_x,              \
                          Wide<T>::type scalar_y, Wide<T>::type attribute, const T* x,            \
                          const T* y, T* z)) {                                                    \
    const Operands<T> operands = {x, y, scalar_x, scalar_y};                                      \
    FOR_EACH_ELEMENT(i, n) {                                                                      \
      Wide<T>::type left, right;                                                                  \
      operands.at(s, i, left, right);                                                             \
      z[i] = T(special<Wide<T>::type>(operation, left, right, attribute));                        \
    }                                                                                             \
  }                                                                                               \
  KERNEL(add_##name, (int64 n, Sources sources, T* y)) {                                          \
    FOR_EACH_ELEMENT(i, n) {                                                                      \
      Wide<T>::type sum = (Wide<T>::type)((const T*)sources.at[0])[i];                            \
      for (int k = 1; k < sources.count; ++k) sum += (Wide<T>::type)((const T*)sources.at[k])[i]; \
      y[i] = T(sum);                                                                              \
    }                                                                                             \
  }

// --- packs --------------------------------------------------------------------------------------
// The same for the types and operations that training spends its time with, in packs of 16 bytes:
// memory is read half as fast by elements of two bytes. The host chooses these where pointers are
// aligned and the last axis is a whole number of packs. Strides count packs along it.

// The values of a pack at x + at; step 0: one element for all of them.
template <class T>
INLINE void load_pack(const T* x, int64 at, int step, typename Wide<T>::type scalar,
                      typename Wide<T>::type* values) {
  typedef typename Wide<T>::type A;
  if (x && step) {
    const Pack<T> pack = *(const Pack<T>*)(x + at);
#pragma unroll
    for (int k = 0; k < Pack<T>::COUNT; ++k) values[k] = A(pack.at[k]);
    return;
  }
  const A value = x ? A(x[at]) : scalar;
#pragma unroll
  for (int k = 0; k < Pack<T>::COUNT; ++k) values[k] = value;
}

#define PACKED_KERNELS(name, T)                                                                   \
  KERNEL(unary_packed_##name, (int64 packs, int operation, const Pack<T>* x, Pack<T>* y)) {       \
    FOR_EACH_ELEMENT(i, packs) {                                                                  \
      Pack<T> pack = x[i];                                                                        \
      for (int k = 0; k < Pack<T>::COUNT; ++k) {                                                  \
        pack.at[k] = T(unary<Wide<T>::type>(operation, (Wide<T>::type)pack.at[k]));               \
      }                                                                                           \
      y[i] = pack;                                                                                \
    }                                                                                             \
  }                                                                                               \
  KERNEL(arithmetic_packed_##name, (int64 packs, int operation, Strides s, int step_x,            \
                                    int step_y, Wide<T>::type scalar_x, Wide<T>::type scalar_y,   \
                                    const T* x, const T* y, Pack<T>* z)) {                        \
    FOR_EACH_ELEMENT(i, packs) {                                                                  \
      int64 a, b;                                                                                 \
      Wide<T>::type left[Pack<T>::COUNT], right[Pack<T>::COUNT];                                  \
      offsets(s, i, a, b);                                                                        \
      load_pack(x, a, step_x, scalar_x, left);                                                    \
      load_pack(y, b, step_y, scalar_y, right);                                                   \
      Pack<T> pack;                                                                               \
      for (int k = 0; k < Pack<T>::COUNT; ++k) {                                                  \
        pack.at[k] = T(arithmetic<Wide<T>::type>(operation, left[k], right[k]));                  \
      }                                                                                           \
      z[i] = pack;                                                                                \
    }                                                                                             \
  }                                                                                               \
  KERNEL(gelu_grad_packed_##name, (int64 packs, const Pack<T>* dy, const Pack<T>* x,              \
                                   Pack<T>* dx)) {                                                \
    FOR_EACH_ELEMENT(i, packs) {                                                                  \
      const Pack<T> slope = dy[i], at = x[i];                                                     \
      Pack<T> pack;                                                                               \
      for (int k = 0; k < Pack<T>::COUNT; ++k) {                                                  \
        typedef Wide<T>::type A;                                                                  \
        pack.at[k] = T(gelu_grad<A>(A(slope.at[k]), A(at.at[k])));                                \
      }                                                                                           \
      dx[i] = pack;                                                                               \
    }                                                                                             \
  }                                                                                               \
  KERNEL(add_packed_##name, (int64 packs, Sources sources, Pack<T>* y)) {                         \
    FOR_EACH_ELEMENT(i, packs) {                                                                  \
      Wide<T>::type sum[Pack<T>::COUNT], term[Pack<T>::COUNT];                                    \
      load_pack((const T*)sources.at[0], i * Pack<T>::COUNT, 1, 0, sum);                          \
      for (int j = 1; j < sources.count; ++j) {                                                   \
        load_pack((const T*)sources.at[j], i * Pack<T>::COUNT, 1, 0, term);                       \
        for (int k = 0; k < Pack<T>::COUNT; ++k) sum[k] += term[k];                               \
      }                                                                                           \
      Pack<T> pack;                                                                               \
      for (int k = 0; k < Pack<T>::COUNT; ++k) pack.at[k] = T(sum[k]);                            \
      y[i] = pack;                                                                                \
    }                                                                                             \
  }

PACKED_KERNELS(float32, float)
PACKED_KERNELS(float16, float16)
PACKED_KERNELS(bfloat16, bfloat16)

#define CLIP_KERNELS(name, T)                                                               \
  KERNEL(clip_##name, (int64 n, Wide<T>::type least, Wide<T>::type most, const T* x, T* y)) { \
    FOR_EACH_ELEMENT(i, n) {                                                                \
      const Wide<T>::type value = (Wide<T>::type)x[i];                                      \
      y[i] = T(value < least ? least : value > most ? most : value);                        \
    }                                                                                       \
  }                                                                                         \
  KERNEL(clip_grad_##name, (int64 n, Wide<T>::type least, Wide<T>::type most, const T* x,   \
                            const T* dy, T* dx)) {                                          \
    FOR_EACH_ELEMENT(i, n) {                                                                \
      const Wide<T>::type value = (Wide<T>::type)x[i];                                      \
      dx[i] = value < least || value > most ? T((Wide<T>::type)0) : dy[i];                  \
    }                                                                                       \
  }

#define COMPARISON_KERNEL(name, T)                                                    \
  KERNEL(compare_##name, (int64 n, int operation, Strides s, Wide<T>::type scalar_x,  \
                          Wide<T>::type scalar_y, const T* x, const T* y, bool* z)) { \
    const Operands<T> operands = {x, y, scalar_x, scalar_y};                          \
    FOR_EACH_ELEMENT(i, n) {                                                          \
      Wide<T>::type left, right;                                                      \
      operands.at(s, i, left, right);                                                 \
      z[i] = compare<Wide<T>::type>(operation, left, right);                          \
    }                                                                                 \
  }

UNARY_KERNELS(float32, float)
UNARY_KERNELS(float16, float16)
UNARY_KERNELS(bfloat16, bfloat16)
UNARY_KERNELS(float64, double)
UNARY_KERNELS(int32, int)
UNARY_KERNELS(int64, int64)
UNARY_KERNELS(int8, int8)
UNARY_KERNELS(uint8, uint8)
UNARY_KERNELS(bool, bool)

BINARY_KERNELS(float32, float)
BINARY_KERNELS(float16, float16)
BINARY_KERNELS(bfloat16, bfloat16)
BINARY_KERNELS(float64, double)
BINARY_KERNELS(int32, int)
BINARY_KERNELS(int64, int64)
BINARY_KERNELS(int8, int8)
BINARY_KERNELS(uint8, uint8)

CLIP_KERNELS(float32, float)
CLIP_KERNELS(float16, float16)
CLIP_KERNELS(bfloat16, bfloat16)
CLIP_KERNELS(float64, double)
CLIP_KERNELS(int32, int)
CLIP_KERNELS(int64, int64)

COMPARISON_KERNEL(float32, float)
COMPARISON_KERNEL(float16, float16)
COMPARISON_KERNEL(bfloat16, bfloat16)
COMPARISON_KERNEL(float64, double)
COMPARISON_KERNEL(int32, int)
COMPARISON_KERNEL(int64, int64)
COMPARISON_KERNEL(int8, int8)
COMPARISON_KERNEL(uint8, uint8)
COMPARISON_KERNEL(bool, bool)
