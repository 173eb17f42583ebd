// What the kernels share: types, loops over elements and rows, sums of a row, offsets by strides.
//
// NVRTC compiles this with no header of CUDA's or C's, so 16-bit floats are structs of its own.
// The kernels take their element type from templates and are named by it: softmax_float16.
#pragma once

#include "parameters.h"

typedef signed char int8;
typedef unsigned char uint8;

#define INLINE __device__ __forceinline__
#ifdef __CUDACC_RTC__
// emulation.h, which g++ includes before this, registers a kernel by its name, too.
#define KERNEL(name, parameters) extern "C" __global__ void name parameters
#endif

// --- types --------------------------------------------------------------------------------------

INLINE float float_of_bits(unsigned bits) {
#ifdef __CUDACC_RTC__
  return __uint_as_float(bits);
#else
  float value;
  memcpy(&value, &bits, 4);
  return value;
#endif
}

INLINE unsigned bits_of_float(float value) {
#ifdef __CUDACC_RTC__
  return __float_as_uint(value);
#else
  unsigned bits;
  memcpy(&bits, &value, 4);
  return bits;
#endif
}

// Round to nearest, ties to even; the arithmetic is that of float.
struct float16 {
  unsigned short bits;
  float16() = default;
  INLINE float16(float value);
  INLINE operator float() const;
};

struct bfloat16 {
  unsigned short bits;
  bfloat16() = default;
  INLINE bfloat16(float value) {
    const unsigned b = bits_of_float(value);
    const bool is_nan = (b & 0x7fffffff) > 0x7f800000;
    bits = is_nan ? 0x7fff : (unsigned short)((b + 0x7fff + ((b >> 16) & 1)) >> 16);
  }
  INLINE operator float() const { return float_of_bits((unsigned)bits << 16); }
};

#ifdef __CUDACC_RTC__
INLINE float16::float16(float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value)); }
INLINE float16::operator float() const {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
#else
INLINE float16::float16(float value) {
  const unsigned b = bits_of_float(value), sign = (b >> 16) & 0x8000, magnitude = b & 0x7fffffff;
  unsigned result;
  if (magnitude > 0x7f800000) {
    result = 0x7fff;  // NaN
  } else if (magnitude >= 0x477ff000) {
    result = 0x7c00;  // 65520 and more round to infinity
  } else if (magnitude < 0x38800000) {
    // Subnormal: in float, adding 0.5 leaves the bits of the result, rounded, at the end.
    result = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000;
  } else {
    result = (magnitude + 0xc8000fff + ((magnitude >> 13) & 1)) >> 13;
  }
  bits = (unsigned short)(sign | result);
}
INLINE float16::operator float() const {
  const unsigned sign = (unsigned)(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  const float value = float_of_bits(magnitude << 13) * 5.192296858534828e33f;  // 2^112
  return float_of_bits(sign | bits_of_float(value));
}
#endif

// What a type is computed in.
template <class T>
struct Wide {
  typedef T type;
};
template <>
struct Wide<float16> {
  typedef float type;
};
template <>
struct Wide<bfloat16> {
  typedef float type;
};
template <>
struct Wide<bool> {
  typedef int type;
};
template <>
struct Wide<int8> {
  typedef int type;
};
template <>
struct Wide<uint8> {
  typedef int type;
};

// An element of 16 bytes, which is only ever moved.
struct alignas(16) bytes16 {
  unsigned long long low, high;
};

// 16 bytes of elements, which one instruction loads and stores: a pack.
template <class T>
struct alignas(16) Pack {
  enum { COUNT = 16 / sizeof(T) };
  T at[COUNT];
};

INLINE float infinity() { return float_of_bits(0x7f800000); }

// --- functions of float and double --------------------------------------------------------------

#define FUNCTION(name, of_float, of_double)               \
  INLINE float name(float x) { return of_float(x); }      \
  INLINE double name(double x) { return of_double(x); }
FUNCTION(exp_of, expf, exp)
FUNCTION(expm1_of, expm1f, expm1)
FUNCTION(log_of, logf, log)
FUNCTION(log2_of, log2f, log2)
FUNCTION(log10_of, log10f, log10)
FUNCTION(log1p_of, log1pf, log1p)
FUNCTION(sin_of, sinf, sin)
FUNCTION(cos_of, cosf, cos)
FUNCTION(tanh_of, tanhf, tanh)
FUNCTION(erf_of, erff, erf)
FUNCTION(erfc_of, erfcf, erfc)
FUNCTION(sqrt_of, sqrtf, sqrt)
FUNCTION(rsqrt_of, rsqrtf, rsqrt)
FUNCTION(floor_of, floorf, floor)
FUNCTION(ceil_of, ceilf, ceil)
FUNCTION(trunc_of, truncf, trunc)
FUNCTION(round_of, nearbyintf, nearbyint)  // ties to even
#undef FUNCTION
INLINE float pow_of(float x, float y) { return powf(x, y); }
INLINE double pow_of(double x, double y) { return pow(x, y); }
INLINE float remainder_of(float x, float y) { return fmodf(x, y); }
INLINE double remainder_of(double x, double y) { return fmod(x, y); }

// --- loops --------------------------------------------------------------------------------------

// for (int64 i = first_element(); i < n; i += all_threads())
INLINE int64 first_element() { return (int64)blockIdx.x * blockDim.x + threadIdx.x; }
INLINE int64 all_threads() { return (int64)gridDim.x * blockDim.x; }

// A row is worked on by the blockDim.x threads of one threadIdx.y: 32, a warp, or a whole block.
// for (int64 r = first_row(); r < rows; r += all_rows())
//   for (int64 i = threadIdx.x; i < n; i += blockDim.x)
INLINE int64 first_row() { return (int64)blockIdx.x * blockDim.y + threadIdx.y; }
INLINE int64 all_rows() { return (int64)gridDim.x * blockDim.y; }

template <class A>
struct Sum {
  static INLINE A of(A a, A b) { return a + b; }
};
// A NaN stays.
template <class A>
struct Max {
  static INLINE A of(A a, A b) { return a > b || a != a ? a : b; }
};
template <class A>
struct Min {
  static INLINE A of(A a, A b) { return a < b || a != a ? a : b; }
};

// Gives every thread of a row the reduction of what all of them hold, in an order that depends on
// nothing but blockDim.x, so that two runs agree in every bit.
template <template <class> class Operation, class A>
INLINE A reduce_row(A value) {
  for (int lane = 16; lane > 0; lane /= 2) {
    value = Operation<A>::of(value, __shfl_xor_sync(0xffffffffu, value, lane));
  }
  if (blockDim.x == 32) return value;
  __shared__ A of_warp[32];
  __syncthreads();  // the last reduction was read by all
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  value = of_warp[0];
  for (int warp = 1; warp < (int)blockDim.x / 32; ++warp) {
    value = Operation<A>::of(value, of_warp[warp]);
  }
  return value;
}

// --- strides ------------------------------------------------------------------------------------

// The offsets a and b of element i. Division is in 32 bits where it can be: a quarter of the cost.
template <class Index>
INLINE void split_index(const Strides& s, Index i, int64& a, int64& b) {
  a = b = 0;
  for (int axis = s.axes - 1; axis > 0; --axis) {
    const Index size = (Index)s.size[axis], next = i / size;
    const int64 at = (int64)(i - next * size);
    a += at * s.a[axis];
    b += at * s.b[axis];
    i = next;
  }
  if (s.axes > 0) {
    a += (int64)i * s.a[0];
    b += (int64)i * s.b[0];
  }
}

INLINE void offsets(const Strides& s, int64 i, int64& a, int64& b) {
  if (i < 0x7fffffff) {
    split_index(s, (unsigned)i, a, b);
  } else {
    split_index(s, i, a, b);
  }
}

// Class indices and positions come as int32 or int64.
INLINE int64 index_at(const void* indices, int is_int64, int64 i) {
  return is_int64 ? ((const int64*)indices)[i] : (int64)((const int*)indices)[i];
}
