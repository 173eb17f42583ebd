// What the kernels of this folder share: half types, 16-byte vectors, sums over a warp or a block,
// and the instructions of the tensor cores and of asynchronous copies.
//
// NVRTC compiles it without any header of CUDA's, so half precision is done by PTX. With g++,
// emulation.h comes first and has the same words and instructions for the CPU.
#pragma once

typedef long long i64;

#ifdef __CUDACC_RTC__
#define KERNEL(name, parameters) extern "C" __global__ void name parameters
#define KERNEL_BOUNDED(threads, blocks, name, parameters) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name parameters
#define DEVICE __device__ __forceinline__
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define DYNAMIC_SHARED(type, name)                               \
  extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(dynamic_shared)
#define INFINITY __int_as_float(0x7f800000)
#if __CUDA_ARCH__ >= 800
#define HAS_TENSOR_CORES 1
#endif
#else
#define DEVICE inline
#define HAS_TENSOR_CORES 1
#endif

#define UNROLL _Pragma("unroll")

// -------------------------------------------------------------------------------------- half types
struct half {
  unsigned short bits;
};
struct bfloat16 {
  unsigned short bits;
};

#ifdef __CUDACC_RTC__
DEVICE float to_float(half x) {
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(x.bits));
  return v;
}
DEVICE float to_float(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
DEVICE void convert(float v, half& x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(x.bits) : "f"(v)); }
DEVICE void convert(float v, bfloat16& x) {
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(x.bits) : "f"(v));
#else  // to nearest, to even between two
  const unsigned u = __float_as_uint(v);
  x.bits = (unsigned short)(v != v ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
#endif
}
// 2^x. Results below the smallest normal number are 0.
DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#else
DEVICE float to_float(half x) { return emulation::half_value(x.bits); }
DEVICE float to_float(bfloat16 x) { return emulation::bfloat16_value(x.bits); }
DEVICE void convert(float v, half& x) { x.bits = emulation::half_bits(v); }
DEVICE void convert(float v, bfloat16& x) { x.bits = emulation::bfloat16_bits(v); }
DEVICE float exp2_fast(float x) { return exp2f(x); }
#endif
DEVICE float to_float(float x) { return x; }
DEVICE void convert(float v, float& x) { x = v; }

// `count` elements that one instruction moves where they are 16 bytes.
template <class T, int count>
struct __align__(sizeof(T) * count) Vector {
  T at[count];
};

// A vector of 16 bytes as float numbers.
template <class T>
constexpr int vector_size = 16 / sizeof(T);
template <class T, int count>
DEVICE void load(const T* from, float (&to)[count]) {
  const Vector<T, count> v = *reinterpret_cast<const Vector<T, count>*>(from);
  UNROLL for (int i = 0; i < count; ++i) to[i] = to_float(v.at[i]);
}
template <class T, int count>
DEVICE void store(const float (&from)[count], T* to) {
  Vector<T, count> v;
  UNROLL for (int i = 0; i < count; ++i) convert(from[i], v.at[i]);
  *reinterpret_cast<Vector<T, count>*>(to) = v;
}

// -------------------------------------------------------------------------------------------- sums
DEVICE float warp_sum(float v) {
  UNROLL for (int bits = 16; bits; bits >>= 1) v += __shfl_xor_sync(~0u, v, bits);
  return v;
}

#if HAS_TENSOR_CORES
// ------------------------------------------------------------------------------------ tensor cores
#ifdef __CUDACC_RTC__
DEVICE unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// Two numbers in one register, the first below.
DEVICE unsigned pack(float low, float high, half) {
  unsigned r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
DEVICE unsigned pack(float low, float high, bfloat16) {
  unsigned r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

DEVICE float2 unpack(unsigned r, half) {
  float2 v;
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
      : "=f"(v.x), "=f"(v.y)
      : "r"(r));
  return v;
}

// c [16, 8] += a [16, 16] b [16, 8]. With g = lane / 4 and t = lane % 4 a lane holds of c (g, 2t..)
// and (g + 8, 2t..), of a the pairs (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), of b
// (2t, g), (2t + 8, g).
#define MMA(type)                                                                          \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                               \
      ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                         \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                     \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
DEVICE void mma(float (&c)[4], const unsigned (&a)[4], const unsigned* b, half) { MMA("f16"); }
DEVICE void mma(float (&c)[4], const unsigned (&a)[4], const unsigned* b, bfloat16) { MMA("bf16"); }

// Four matrices of 8 x 8: lane 8 i + j gives the address of row j of matrix i; a lane gets elements
// 2t.. of row g of each, or of column g where they are transposed.
DEVICE void load_matrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE void load_transposed(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// 16 bytes into shared memory, or zeros; there after `commit_copies` and `wait_copies<0>`.
DEVICE void copy_16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
               "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until only the last `left` groups are under way.
template <int left>
DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}
#else
DEVICE unsigned pack(float low, float high, half) {
  return emulation::half_bits(low) | (unsigned)emulation::half_bits(high) << 16;
}
DEVICE unsigned pack(float low, float high, bfloat16) {
  return emulation::bfloat16_bits(low) | (unsigned)emulation::bfloat16_bits(high) << 16;
}
DEVICE float2 unpack(unsigned r, half) {
  return {emulation::half_value(r & 0xffff), emulation::half_value(r >> 16)};
}
DEVICE void mma(float (&c)[4], const unsigned (&a)[4], const unsigned* b, half) {
  emulation::mma_16816(false, c, a, b);
}
DEVICE void mma(float (&c)[4], const unsigned (&a)[4], const unsigned* b, bfloat16) {
  emulation::mma_16816(true, c, a, b);
}
DEVICE void load_matrices(unsigned (&r)[4], const void* row) {
  emulation::ldmatrix<4, false>(r, row);
}
DEVICE void load_transposed(unsigned (&r)[4], const void* row) {
  emulation::ldmatrix<4, true>(r, row);
}
DEVICE void copy_16(void* to, const void* from, bool valid) {
  emulation::copy_async(to, from, 16, valid ? 16 : 0);
}
DEVICE void commit_copies() { emulation::commit_async(); }
template <int left>
DEVICE void wait_copies() {
  emulation::wait_async(left);
}
#endif
DEVICE float2 unpack(unsigned r, bfloat16) {
  return make_float2(__uint_as_float(r << 16), __uint_as_float(r & 0xffff0000u));
}
#endif  // HAS_TENSOR_CORES
