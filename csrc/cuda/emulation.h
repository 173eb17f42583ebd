// CUDA on this CPU: g++ compiles the very text that NVRTC compiles for a GPU, and runs it with real
// barriers and shuffles, one fiber a thread, one block after another. It is slow and exact, needs
// no GPU and no toolkit, and reports what a GPU leaves undefined.
//
//   g++ -std=c++17 -O1 -fPIC -shared -fvisibility=hidden -x c++ -include emulation.h kernels.cu
//       -o kernels.so
// (hidden: two such libraries in one process must not share what only their names have in common)
//
// What a kernel's text has to do (device.h has the same words for NVRTC):
//   KERNEL(name, (parameters)) { ... }   in place of extern "C" __global__ void: registers the name
//   KERNEL_BOUNDED(threads, blocks, name, (parameters)) { ... }   the same with __launch_bounds__
//   __shared__ float tile[64];           works, keeps what the block before left in it
//   SHARED(float, tile, 64);             the same, poisoned (NaN) for every block, its end guarded
//   DYNAMIC_SHARED(float, memory);       in place of extern __shared__: poisoned, its end guarded
//   everything else as in CUDA: threadIdx, __syncthreads, __syncwarp, __shfl_*_sync, __ballot_sync,
//   atomics, __ldg, vectors such as float4, the device's own functions such as rsqrtf.
// Inline PTX has to stand behind #ifdef __CUDACC_RTC__, with one of these functions beside it:
//   emulation::mma_16816 (half or bfloat16), mma_1688_tf32, ldmatrix, copy_async, commit_async,
//   wait_async, half_bits, half_value, bfloat16_bits, bfloat16_value.
//
// From C++:  emulation::launch({grid, block, shared_bytes}, kernel, arguments...);  throws
//            std::runtime_error with what went wrong, of which block and which thread.
// By name, from C++ or Python (ctypes), as cuLaunchKernel:
//   int emulation_launch(name, grid x, y, z, block x, y, z, shared_bytes, void** parameters,
//                        char* message, size_t room)       0, or 1 with a message
//   int emulation_has(name);   void emulation_order(unsigned seed);
// Launches of several host threads wait for one another.
//
// What is found:
//   - a missing __syncthreads: a fiber runs until it has to wait, so that one thread is as far
//     ahead of another as the text allows, in an order that the seed decides (0: ascending; tests
//     should try several). Fresh shared memory holds 0xff bytes: NaN, or -1.
//   - a thread that leaves before a barrier that others wait at, threads at different barriers,
//     lanes at different warp operations: who waits where is reported, nothing hangs.
//   - a shuffle from a lane that takes no part; an mma of less than a whole warp; a misaligned
//     ldmatrix; vector loads of misaligned addresses with -fsanitize=undefined.
//   - writes past the end of shared memory; with -fsanitize=address also reads, and any access
//     outside of global memory (Python has to be started with libasan preloaded, or use a program).
//   - cp.async without its wait: the target holds 0xff until the wait.
// What is not found: races within one run of a fiber between two waits that every order hides, bank
// conflicts, what the memory model allows between blocks.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// --------------------------------------------------------------------------- words of the language
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __constant__ static
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
#define EMULATED_VECTORS(type, name)                                                     \
  struct __align__(2 * sizeof(type)) name##2 { type x, y; };                             \
  struct name##3 { type x, y, z; };                                                      \
  struct __align__(sizeof(type) > 4 ? 16 : 4 * sizeof(type)) name##4 { type x, y, z, w; }; \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                       \
  inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }            \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATED_VECTORS(unsigned, uint)
EMULATED_VECTORS(float, float)
EMULATED_VECTORS(int, int)
EMULATED_VECTORS(short, short)
EMULATED_VECTORS(unsigned short, ushort)
EMULATED_VECTORS(signed char, char)
EMULATED_VECTORS(unsigned char, uchar)
EMULATED_VECTORS(double, double)
EMULATED_VECTORS(long long, longlong)
#undef EMULATED_VECTORS

// ------------------------------------------------------------------------------------------ fibers
#pragma GCC visibility push(hidden)
namespace emulation {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStack = 1 << 19;
#else
constexpr size_t kStack = 1 << 17;
#endif
constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxShared = 227 * 1024;  // of a block on sm_90

enum State { kReady, kAtBarrier, kAtWarp, kDone };

struct Pending {  // one copy of cp.async
  void* to;
  unsigned char data[16];
  int size;
};

struct Fiber {
  uint3 thread;
  unsigned rank;  // in the block
  State state;
  const char *operation, *file;  // what it waits at
  int line;
  unsigned mask;
  void* stack;  // where it goes on
  char* memory;
  alignas(16) unsigned char in[64];
  alignas(16) unsigned char out[32];
  std::vector<Pending> open;  // copies since the last commit
  std::vector<std::vector<Pending>> groups;
#if !defined(__x86_64__) && !defined(__aarch64__)
  ucontext_t context;
#endif
};

struct Emulator {
  std::mutex one_launch;
  std::vector<Fiber> fibers;
  char* stacks = nullptr;
  Fiber* self = nullptr;
  void* scheduler = nullptr;
  unsigned threads = 0, finished = 0, at_barrier = 0, line = 0;
  unsigned waiting[kMaxThreads / 32] = {};
  std::vector<unsigned> ready, order;
  dim3 grid, block;
  uint3 block_index{};
  unsigned long long serial = 0;  // of the block, over all launches
  std::vector<unsigned char> memory;
  unsigned char* dynamic_shared = nullptr;
  std::vector<std::function<bool()>> guards;
  std::function<void()> body;
  std::string failure, name;
  unsigned seed = 1, random = 1;
  const void* host_stack = nullptr;  // of the thread that launches, for the address sanitizer
  size_t host_size = 0;
#if !defined(__x86_64__) && !defined(__aarch64__)
  ucontext_t context;
#endif
};

inline Emulator& emulator() {
  static Emulator* one = new Emulator;  // never destroyed: kernels may run in a static's destructor
  return *one;
}
inline Emulator& e = emulator();

#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.weak mae_emulation_switch
.hidden mae_emulation_switch
.type mae_emulation_switch, @function
mae_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size mae_emulation_switch, .-mae_emulation_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.weak mae_emulation_switch
.hidden mae_emulation_switch
.type mae_emulation_switch, %function
mae_emulation_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size mae_emulation_switch, .-mae_emulation_switch
)");
#endif
#if defined(__x86_64__) || defined(__aarch64__)
extern "C" __attribute__((visibility("hidden"))) void mae_emulation_switch(void** from, void* to);
#endif

// From the fiber that runs to the scheduler.
inline void leave() {
  Fiber* me = e.self;
#ifdef __SANITIZE_ADDRESS__
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(me->state == kDone ? nullptr : &fake, e.host_stack, e.host_size);
#endif
#if defined(__x86_64__) || defined(__aarch64__)
  mae_emulation_switch(&me->stack, e.scheduler);
#else
  swapcontext(&me->context, &e.context);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, &e.host_stack, &e.host_size);
#endif
}

inline std::string at(const Fiber& f) {
  return "thread (" + std::to_string(f.thread.x) + ", " + std::to_string(f.thread.y) + ", " +
         std::to_string(f.thread.z) + ")";
}

// Ends the launch; the fiber that calls this does not go on.
[[noreturn]] inline void fail(const std::string& what) {
  e.failure = at(*e.self) + " " + what;
  leave();
  __builtin_unreachable();
}

inline void start() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &e.host_stack, &e.host_size);
#endif
  e.body();
  e.self->state = kDone;
  ++e.finished;
  leave();
  __builtin_unreachable();
}

inline void prepare(Fiber& f) {
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(f.memory + kStack) - 8;
  top[6] = reinterpret_cast<void*>(&start);  // after six registers; then rsp is 8 from a 16th
  top[7] = nullptr;
  f.stack = top;
#elif defined(__aarch64__)
  void** top = reinterpret_cast<void**>(f.memory + kStack) - 20;
  memset(top, 0, 160);
  top[11] = reinterpret_cast<void*>(&start);
  f.stack = top;
#else
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.memory;
  f.context.uc_stack.ss_size = kStack;
  makecontext(&f.context, &start, 0);
#endif
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(f.memory + kStack - 8192, 8192);
#endif
}

inline void enter(Fiber& f) {
  e.self = &f;
#ifdef __SANITIZE_ADDRESS__
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, f.memory, kStack);
#endif
#if defined(__x86_64__) || defined(__aarch64__)
  mae_emulation_switch(&e.scheduler, f.stack);
#else
  swapcontext(&e.context, &f.context);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

inline unsigned next_random() {
  e.random ^= e.random << 13, e.random ^= e.random >> 17, e.random ^= e.random << 5;
  return e.random;
}

// Puts these ranks where the scheduler takes them from, the last first.
inline void make_ready(std::vector<unsigned>& ranks) {
  if (e.seed) {
    for (size_t i = ranks.size(); i > 1; --i) std::swap(ranks[i - 1], ranks[next_random() % i]);
  } else {
    std::reverse(ranks.begin(), ranks.end());
  }
  for (unsigned r : ranks) e.fibers[r].state = kReady, e.ready.push_back(r);
}

// ---------------------------------------------------------------------------------------- barriers
inline void wait(State state, const char* operation, const char* file, int line) {
  e.self->state = state;
  e.self->operation = operation, e.self->file = file, e.self->line = line;
  leave();
}

inline void barrier(const char* file, int line) {
  if (e.at_barrier == 0) e.line = line;
  if (e.line != static_cast<unsigned>(line)) {
    fail("waits at __syncthreads in line " + std::to_string(line) +
         " while another waits in line " + std::to_string(e.line));
  }
  if (e.finished) fail("waits at __syncthreads in line " + std::to_string(line) +
                       ", which a thread that has left will never reach");
  ++e.at_barrier;
  e.self->state = kAtBarrier;
  if (e.at_barrier == e.threads) {  // all are here: this one waits with the others for its turn
    e.at_barrier = 0;
    e.order.clear();
    for (unsigned r = 0; r < e.threads; ++r) e.order.push_back(r);
    make_ready(e.order);
    leave();
    return;
  }
  wait(kAtBarrier, "__syncthreads", file, line);
}

// ----------------------------------------------------------------------- what a warp does together
inline unsigned lane() { return e.self->rank % 32; }
inline Fiber* warp_begin() { return &e.fibers[e.self->rank / 32 * 32]; }
// Whether the block has this lane. One that has left counts: nobody may wait for it.
inline bool present(unsigned l) { return e.self->rank / 32 * 32 + l < e.threads; }

// All lanes of `mask` give an In; the last to come calls combine(lanes, mask), which reads their
// `in` and writes their `out`.
template <class Out, class In, class Combine>
Out together(const char* operation, unsigned mask, const In& in, const Combine& combine) {
  static_assert(sizeof(In) <= sizeof(Fiber::in) && sizeof(Out) <= sizeof(Fiber::out), "");
  Fiber* me = e.self;
  const unsigned warp = me->rank / 32;
  if (!(mask >> lane() & 1)) fail(std::string("calls ") + operation + " with a mask it is not in");
  memcpy(me->in, &in, sizeof(In));
  me->state = kAtWarp, me->mask = mask, me->operation = operation, me->file = "", me->line = 0;
  Fiber* lanes = warp_begin();
  unsigned expected = 0, here = 0;
  ++e.waiting[warp];
  for (unsigned l = 0; l < 32; ++l) expected += mask >> l & 1 && present(l);
  if (e.waiting[warp] >= expected) {
    for (unsigned l = 0; l < 32; ++l) {
      here += mask >> l & 1 && present(l) && lanes[l].state == kAtWarp && lanes[l].mask == mask &&
              !strcmp(lanes[l].operation, operation);
    }
  }
  if (here != expected || !expected) {
    leave();
  } else {
    combine(lanes, mask);
    e.waiting[warp] -= expected;
    e.order.clear();
    for (unsigned l = 0; l < 32; ++l) {
      if (mask >> l & 1 && present(l)) e.order.push_back(warp * 32 + l);
    }
    make_ready(e.order);
    leave();
  }
  Out out;
  memcpy(&out, me->out, sizeof(Out));
  return out;
}

template <class T>
struct Shuffled {
  T value;
  int from;  // a lane
};

template <class T>
T shuffle(const char* operation, unsigned mask, T value, int from) {
  return together<T>(operation, mask, Shuffled<T>{value, from}, [=](Fiber* lanes, unsigned mask) {
    for (unsigned l = 0; l < 32; ++l) {
      if (!(mask >> l & 1) || !present(l)) continue;
      Shuffled<T> mine, other;
      memcpy(&mine, lanes[l].in, sizeof mine);
      if (!(mask >> mine.from & 1) || !present(mine.from)) {
        fail(std::string(operation) + ": lane " + std::to_string(l) + " reads lane " +
             std::to_string(mine.from) + ", which takes no part");
      }
      memcpy(&other, lanes[mine.from].in, sizeof other);
      memcpy(lanes[l].out, &other.value, sizeof(T));
    }
  });
}

inline unsigned ballot(const char* operation, unsigned mask, bool value) {
  return together<unsigned>(operation, mask, value, [](Fiber* lanes, unsigned mask) {
    unsigned found = 0;
    for (unsigned l = 0; l < 32; ++l) {
      if (mask >> l & 1 && present(l) && lanes[l].in[0]) found |= 1u << l;
    }
    for (unsigned l = 0; l < 32; ++l) {
      if (mask >> l & 1 && present(l)) memcpy(lanes[l].out, &found, sizeof found);
    }
  });
}

// ------------------------------------------------------------------------------- half and bfloat16
inline unsigned short half_bits(float v) {
  _Float16 h = static_cast<_Float16>(v);
  unsigned short bits;
  memcpy(&bits, &h, 2);
  return bits;
}
inline float half_value(unsigned short bits) {
  _Float16 h;
  memcpy(&h, &bits, 2);
  return static_cast<float>(h);
}
inline unsigned short bfloat16_bits(float v) {  // to nearest, to even between two
  unsigned bits;
  memcpy(&bits, &v, 4);
  if (v != v) return static_cast<unsigned short>(bits >> 16 | 0x40);
  return static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float bfloat16_value(unsigned short bits) {
  const unsigned wide = static_cast<unsigned>(bits) << 16;
  float v;
  memcpy(&v, &wide, 4);
  return v;
}

// -------------------------------------------------------------------------------- the tensor cores
struct Fragments {
  unsigned a[4], b[2];
  float c[4];
};

// c += A B of each lane's four elements: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1), with g =
// lane / 4 and t = lane % 4. B lies by columns.
template <int depth>
void add_products(Fiber* lanes, const float (&A)[16][depth], const float (&B)[8][depth]) {
  for (unsigned l = 0; l < 32; ++l) {
    Fragments f;
    memcpy(&f, lanes[l].in, sizeof f);
    for (unsigned i = 0; i < 4; ++i) {
      const float *row = A[l / 4 + i / 2 * 8], *column = B[l % 4 * 2 + i % 2];
      float sum = 0;
      for (int k = 0; k < depth; ++k) sum += row[k] * column[k];
      f.c[i] += sum;
    }
    memcpy(lanes[l].out, f.c, 16);
  }
}

// c [16, 8] += a [16, 16] b [16, 8], mma.sync.aligned.m16n8k16.row.col.f32.{f16,bf16}: with g =
// lane / 4 and t = lane % 4 a lane holds of a (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8,
// 2t + 8..), of b (2t.., g), (2t + 8.., g), of c (g, 2t..), (g + 8, 2t..).
inline void mma_16816(bool is_bfloat16, float* c, const unsigned* a, const unsigned* b) {
  Fragments f;
  memcpy(f.a, a, 16), memcpy(f.b, b, 8), memcpy(f.c, c, 16);
  struct Result { float c[4]; };
  const Result r = together<Result>(
      is_bfloat16 ? "mma bf16" : "mma f16", ~0u, f, [=](Fiber* lanes, unsigned) {
        float (*value)(unsigned short) = is_bfloat16 ? bfloat16_value : half_value;
        static float A[16][16], B[8][16];
        for (unsigned l = 0; l < 32; ++l) {
          if (!present(l)) fail("calls mma, lane " + std::to_string(l) + " takes no part");
          Fragments f;
          memcpy(&f, lanes[l].in, sizeof f);
          for (unsigned i = 0; i < 8; ++i) {
            const unsigned bits = f.a[i / 2] >> 16 * (i % 2) & 0xffff;
            const unsigned k = l % 4 * 2 + i % 2 + (i >= 4) * 8;
            A[l / 4 + i / 2 % 2 * 8][k] = value(static_cast<unsigned short>(bits));
            if (i >= 4) continue;
            const unsigned second = f.b[i / 2] >> 16 * (i % 2) & 0xffff;
            B[l / 4][l % 4 * 2 + i % 2 + i / 2 * 8] = value(static_cast<unsigned short>(second));
          }
        }
        add_products(lanes, A, B);
      });
  memcpy(c, r.c, 16);
}

inline float tf32(unsigned bits) {  // the tensor cores pass over the last 13 bits
  bits &= 0xffffe000u;
  float v;
  memcpy(&v, &bits, 4);
  return v;
}

// c [16, 8] += a [16, 8] b [8, 8], mma.sync.aligned.m16n8k8.row.col.f32.tf32: of a (g, t), (g + 8,
// t), (g, t + 4), (g + 8, t + 4), of b (t, g), (t + 4, g), of c as above.
inline void mma_1688_tf32(float* c, const unsigned* a, const unsigned* b) {
  Fragments f;
  memcpy(f.a, a, 16), memcpy(f.b, b, 8), memcpy(f.c, c, 16);
  struct Result { float c[4]; };
  const Result r = together<Result>("mma tf32", ~0u, f, [=](Fiber* lanes, unsigned) {
    static float A[16][8], B[8][8];
    for (unsigned l = 0; l < 32; ++l) {
      if (!present(l)) fail("calls mma, lane " + std::to_string(l) + " takes no part");
      Fragments f;
      memcpy(&f, lanes[l].in, sizeof f);
      for (unsigned i = 0; i < 4; ++i) A[l / 4 + i % 2 * 8][l % 4 + i / 2 * 4] = tf32(f.a[i]);
      for (unsigned i = 0; i < 2; ++i) B[l / 4][l % 4 + i * 4] = tf32(f.b[i]);
    }
    add_products(lanes, A, B);
  });
  memcpy(c, r.c, 16);
}

// ldmatrix.sync.aligned.m8n8.x{1,2,4}[.trans].shared.b16: lane 8 i + j has the address of row j of
// matrix i; register i of a lane is the elements 2 (lane % 4).. of row lane / 4, or, transposed,
// of column lane / 4.
template <int count, bool transposed>
void ldmatrix(unsigned* registers, const void* row) {
  struct Result { unsigned r[4]; };
  const Result result = together<Result>(
      transposed ? "ldmatrix.trans" : "ldmatrix", ~0u, row, [](Fiber* lanes, unsigned) {
        for (unsigned l = 0; l < 32; ++l) {
          if (!present(l)) fail("calls ldmatrix, lane " + std::to_string(l) + " takes no part");
          Result result{};
          for (unsigned i = 0; i < count; ++i) {
            for (unsigned half = 0; half < 2; ++half) {
              const unsigned along = l % 4 * 2 + half;
              const unsigned row = transposed ? along : l / 4, column = transposed ? l / 4 : along;
              const unsigned char* address;
              memcpy(&address, lanes[8 * i + row].in, sizeof address);
              if (reinterpret_cast<uintptr_t>(address) % 16) {
                fail("calls ldmatrix, lane " + std::to_string(8 * i + row) +
                     " with an address that is no multiple of 16");
              }
              unsigned short bits;
              memcpy(&bits, address + 2 * column, 2);
              result.r[i] |= static_cast<unsigned>(bits) << 16 * half;
            }
          }
          memcpy(lanes[l].out, &result, sizeof result);
        }
      });
  memcpy(registers, result.r, 4 * count);
}

// cp.async: what is copied is read now, and is there after the wait. `bytes` of `size` are copied,
// the rest is filled with zeros.
inline void copy_async(void* to, const void* from, int size, int bytes) {
  if (reinterpret_cast<uintptr_t>(to) % size) fail("calls cp.async to a misaligned address");
  if (bytes && reinterpret_cast<uintptr_t>(from) % size) {
    fail("calls cp.async from a misaligned address");
  }
  Pending p{to, {}, size};
  if (bytes) memcpy(p.data, from, bytes);
  memset(to, 0xff, size);
  e.self->open.push_back(p);
}
inline void commit_async() {
  e.self->groups.push_back(std::move(e.self->open));
  e.self->open.clear();
}
inline void wait_async(unsigned left) {
  auto& groups = e.self->groups;
  while (groups.size() > left) {
    for (const Pending& p : groups.front()) memcpy(p.to, p.data, p.size);
    groups.erase(groups.begin());
  }
}

// ----------------------------------------------------------------------------------- shared memory
constexpr size_t kGuard = 64;
constexpr unsigned char kPoison = 0xff, kGuardByte = 0xa5;

inline bool untouched(const unsigned char* guard) {
  for (size_t i = 0; i < kGuard; ++i) {
    if (guard[i] != kGuardByte) return false;
  }
  return true;
}

template <class T, size_t count>
struct Shared {
  alignas(128) unsigned char memory[sizeof(T) * count];
  unsigned char guard[kGuard];
  unsigned long long serial = 0;
  T* get() {
    if (serial != e.serial) {
      serial = e.serial;
      memset(memory, kPoison, sizeof memory);
      memset(guard, kGuardByte, sizeof guard);
      e.guards.push_back([this] { return untouched(guard); });
    }
    return reinterpret_cast<T*>(memory);
  }
};
#define SHARED(type, name, count)                          \
  static emulation::Shared<type, (count)> name##_emulated; \
  type* const name = name##_emulated.get()
#define DYNAMIC_SHARED(type, name) \
  type* const name = reinterpret_cast<type*>(emulation::e.dynamic_shared)

// ------------------------------------------------------------------------------------------ launch
inline void make_room() {
  if (e.stacks) return;
  const size_t room = kStack + 4096;
  void* all = mmap(nullptr, room * kMaxThreads, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) throw std::runtime_error("no memory for the stacks of the threads");
  e.stacks = static_cast<char*>(all);
  e.fibers.resize(kMaxThreads);
  for (unsigned i = 0; i < kMaxThreads; ++i) {
    mprotect(e.stacks + room * i, 4096, PROT_NONE);
    e.fibers[i].memory = e.stacks + room * i + 4096;
  }
}

inline std::string who_waits() {
  std::string text = "nothing can go on:";
  std::map<std::string, std::pair<unsigned, std::string>> groups;
  for (unsigned r = 0; r < e.threads; ++r) {
    const Fiber& f = e.fibers[r];
    const std::string what =
        f.state == kDone ? "has left"
                         : std::string("waits at ") + f.operation +
                               (f.line ? " in line " + std::to_string(f.line) : std::string());
    auto& group = groups[what];
    if (!group.first++) group.second = at(f);
  }
  for (const auto& g : groups) {
    text += " " + g.second.second + " " + g.first;
    text += g.second.first > 1 ? " (and " + std::to_string(g.second.first - 1) + " more);" : ";";
  }
  text.pop_back();
  return text;
}

inline void run_block(size_t shared_bytes) {
  ++e.serial;
  e.finished = e.at_barrier = 0;
  e.guards.clear();
  e.ready.clear();
  memset(e.waiting, 0, sizeof e.waiting);
  if (shared_bytes) {
    memset(e.dynamic_shared, kPoison, shared_bytes);
#ifndef __SANITIZE_ADDRESS__
    memset(e.dynamic_shared + shared_bytes, kGuardByte, kGuard);
#endif
  }
  e.order.clear();
  for (unsigned r = 0; r < e.threads; ++r) {
    Fiber& f = e.fibers[r];
    f.rank = r;
    f.thread = {r % e.block.x, r / e.block.x % e.block.y, r / (e.block.x * e.block.y)};
    f.open.clear(), f.groups.clear();
    prepare(f);
    e.order.push_back(r);
  }
  make_ready(e.order);
  while (!e.ready.empty() && e.failure.empty()) {
    const unsigned r = e.ready.back();
    e.ready.pop_back();
    enter(e.fibers[r]);
  }
  if (e.failure.empty() && e.finished != e.threads) e.failure = who_waits();
#ifndef __SANITIZE_ADDRESS__
  if (e.failure.empty() && shared_bytes && !untouched(e.dynamic_shared + shared_bytes)) {
    e.failure = "a write past the end of dynamic shared memory";
  }
#endif
  for (const auto& guard : e.guards) {
    if (e.failure.empty() && !guard()) e.failure = "a write past the end of SHARED memory";
  }
}

inline void run(const std::string& name, dim3 grid, dim3 block, size_t shared_bytes,
                std::function<void()> body) {
  std::lock_guard<std::mutex> lock(e.one_launch);
  const unsigned long long threads = 1ull * block.x * block.y * block.z;
  const unsigned long long blocks = 1ull * grid.x * grid.y * grid.z;
  if (threads == 0 || threads > kMaxThreads || block.z > 64) {
    throw std::runtime_error(name + ": a block of " + std::to_string(threads) + " threads");
  }
  if (blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    throw std::runtime_error(name + ": a grid of " + std::to_string(grid.x) + " x " +
                             std::to_string(grid.y) + " x " + std::to_string(grid.z));
  }
  if (shared_bytes > kMaxShared) {
    throw std::runtime_error(name + ": " + std::to_string(shared_bytes) +
                             " bytes of shared memory");
  }
  make_room();
  // Under the address sanitizer the memory ends where the launch says: it sees what is past that.
  e.memory.clear(), e.memory.shrink_to_fit();
#ifdef __SANITIZE_ADDRESS__
  const size_t rounded = (shared_bytes + 127) / 128 * 128;
  e.dynamic_shared = static_cast<unsigned char*>(aligned_alloc(128, rounded));
  if (shared_bytes % 128) {
    __asan_poison_memory_region(e.dynamic_shared + shared_bytes, 128 - shared_bytes % 128);
  }
#else
  e.memory.resize(shared_bytes + kGuard + 128);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(e.memory.data());
  e.dynamic_shared = e.memory.data() + (127 & -begin);
#endif
  e.name = name, e.failure.clear();
  e.grid = grid, e.block = block, e.threads = static_cast<unsigned>(threads);
  e.random = e.seed * 2654435761u | 1;
  e.body = std::move(body);
  for (unsigned long long i = 0; i < blocks && e.failure.empty(); ++i) {
    const unsigned long long b = e.seed % 2 ? blocks - 1 - i : i;
    e.block_index = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                     static_cast<unsigned>(b / grid.x / grid.y)};
    run_block(shared_bytes);
  }
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(e.dynamic_shared, rounded);
  free(e.dynamic_shared);
  if (!e.failure.empty()) {
    __asan_unpoison_memory_region(e.stacks, (kStack + 4096) * kMaxThreads);
  }
#endif
  if (!e.failure.empty()) {
    throw std::runtime_error(name + ", block (" + std::to_string(e.block_index.x) + ", " +
                             std::to_string(e.block_index.y) + ", " +
                             std::to_string(e.block_index.z) + "): " + e.failure);
  }
}

struct Shape {
  dim3 grid, block;
  size_t shared_bytes = 0;
};

template <class... P, class... A>
void launch(const Shape& s, void (*kernel)(P...), A... arguments) {
  const std::tuple<P...> given(arguments...);
  run("the kernel", s.grid, s.block, s.shared_bytes, [&] { std::apply(kernel, given); });
}

// --------------------------------------------------------------------------------- kernels by name
// One instantiation for each list of parameters, of which there are hundreds.
struct Named {
  void (*kernel)();
  void (*call)(void (*kernel)(), void** parameters);
};
inline std::map<std::string, Named>& kernels() {
  static auto* all = new std::map<std::string, Named>;
  return *all;
}

template <class... P, size_t... i>
void call_with(void (*kernel)(P...), void** parameters, std::index_sequence<i...>) {
  kernel(*static_cast<P*>(parameters[i])...);
}

template <class... P>
void call(void (*kernel)(), void** parameters) {
  call_with(reinterpret_cast<void (*)(P...)>(kernel), parameters, std::index_sequence_for<P...>());
}

struct Registered {
  Registered(const char* name, const Named& named) { kernels()[name] = named; }
};
template <class... P>
Named named(void (*kernel)(P...)) {
  return {reinterpret_cast<void (*)()>(kernel), call<P...>};
}
#define KERNEL(name, parameters)                                            \
  extern "C" void name parameters;                                          \
  static const emulation::Registered emulation_registered_##name(#name, emulation::named(name)); \
  extern "C" void name parameters
#define KERNEL_BOUNDED(threads, blocks, name, parameters) KERNEL(name, parameters)

}  // namespace emulation
#pragma GCC visibility pop

extern "C" {
__attribute__((used, visibility("default"))) inline int emulation_launch(
    const char* name, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
    size_t shared_bytes, void** parameters, char* message, size_t room) {
  std::string what;
  const auto found = emulation::kernels().find(name);
  if (found == emulation::kernels().end()) {
    what = std::string("no kernel is called ") + name;
  } else {
    try {
      const emulation::Named& named = found->second;
      emulation::run(name, dim3(gx, gy, gz), dim3(bx, by, bz), shared_bytes,
                     [&] { named.call(named.kernel, parameters); });
      return 0;
    } catch (const std::exception& error) {
      what = error.what();
    }
  }
  if (message && room) snprintf(message, room, "%s", what.c_str());
  return 1;
}
__attribute__((used, visibility("default"))) inline int emulation_has(const char* name) {
  return emulation::kernels().count(name) != 0;
}
__attribute__((used, visibility("default"))) inline void emulation_order(unsigned seed) {
  emulation::e.seed = seed;
}
}

// -------------------------------------------------------------------------- what CUDA has built in
#define threadIdx (emulation::e.self->thread)
#define blockIdx (emulation::e.block_index)
#define blockDim (emulation::e.block)
#define gridDim (emulation::e.grid)
constexpr int warpSize = 32;

#define __syncthreads() emulation::barrier(__FILE__, __LINE__)
inline void __syncwarp(unsigned mask = ~0u) { emulation::ballot("__syncwarp", mask, true); }
inline void __threadfence() {}
inline void __threadfence_block() {}

// A lane of the same part of `width` lanes.
template <class T>
T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
  const int l = emulation::lane();
  return emulation::shuffle("__shfl_sync", mask, v, (l & ~(width - 1)) + (from & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
  const int l = emulation::lane(), from = l ^ bits;
  const bool inside = from < (l & ~(width - 1)) + width;
  return emulation::shuffle("__shfl_xor_sync", mask, v, inside ? from : l);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  const int l = emulation::lane();
  const bool inside = (l & (width - 1)) + static_cast<int>(delta) < width;
  return emulation::shuffle("__shfl_down_sync", mask, v, inside ? l + static_cast<int>(delta) : l);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  const int l = emulation::lane();
  const bool inside = (l & (width - 1)) >= static_cast<int>(delta);
  return emulation::shuffle("__shfl_up_sync", mask, v, inside ? l - static_cast<int>(delta) : l);
}
inline unsigned __ballot_sync(unsigned mask, int v) {
  return emulation::ballot("__ballot_sync", mask, v != 0);
}
inline int __any_sync(unsigned mask, int v) {
  return emulation::ballot("__any_sync", mask, v != 0) != 0;
}
inline int __all_sync(unsigned mask, int v) {
  return emulation::ballot("__all_sync", mask, v == 0) == 0;
}
inline unsigned __activemask() {
  unsigned mask = 0;
  for (unsigned l = 0; l < 32; ++l) mask |= static_cast<unsigned>(emulation::present(l)) << l;
  return mask;
}

// Fibers change only where they wait, so a plain read and write is atomic.
#define EMULATED_ATOMIC(name, next)          \
  template <class T, class U> T name(T* p, U given) { \
    const T old = *p, v = static_cast<T>(given);      \
    *p = next;                                        \
    return old;                                       \
  }
EMULATED_ATOMIC(atomicAdd, old + v)
EMULATED_ATOMIC(atomicMax, old > v ? old : v)
EMULATED_ATOMIC(atomicMin, old < v ? old : v)
EMULATED_ATOMIC(atomicExch, v)
EMULATED_ATOMIC(atomicOr, old | v)
EMULATED_ATOMIC(atomicAnd, old & v)
#undef EMULATED_ATOMIC
template <class T, class U, class V> T atomicCAS(T* p, U compare, V v) {
  T old = *p;
  if (old == static_cast<T>(compare)) *p = static_cast<T>(v);
  return old;
}

template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> void __stcs(T* p, T v) { *p = v; }
template <class T> void __stcg(T* p, T v) { *p = v; }

template <class To, class From> To emulated_bits(From v) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  memcpy(&to, &v, sizeof to);
  return to;
}
inline int __float_as_int(float v) { return emulated_bits<int>(v); }
inline unsigned __float_as_uint(float v) { return emulated_bits<unsigned>(v); }
inline float __int_as_float(int v) { return emulated_bits<float>(v); }
inline float __uint_as_float(unsigned v) { return emulated_bits<float>(v); }
inline long long __double_as_longlong(double v) { return emulated_bits<long long>(v); }
inline double __longlong_as_double(long long v) { return emulated_bits<double>(v); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float normcdff(float x) { return 0.5f * erfcf(-0.70710678118654752f * x); }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32);
}
#define EMULATED_MIN_MAX(type)                                       \
  inline type min(type a, type b) { return b < a ? b : a; }          \
  inline type max(type a, type b) { return a < b ? b : a; }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned)
EMULATED_MIN_MAX(long)
EMULATED_MIN_MAX(unsigned long)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
#undef EMULATED_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
