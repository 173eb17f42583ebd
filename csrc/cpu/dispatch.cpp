// Picks the instruction set when the library is loaded.
#include "kernels.h"

namespace mae {

extern const Kernels kernels_sse2, kernels_avx2, kernels_avx512;

const Kernels& kernels() {
  static const Kernels& chosen = [] () -> const Kernels& {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
      return kernels_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kernels_avx2;
    return kernels_sse2;
  }();
  return chosen;
}

}  // namespace mae

extern "C" const char* mae_native_instruction_set() { return mae::kernels().name; }
