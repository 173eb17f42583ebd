// Matrix products by a BLAS library, with the threads of the kernels.
#pragma once

#include <cstdint>

namespace mae {

// Row-major c [m, n] = alpha op(a) op(b) + beta c, with op(a) [m, k]; the strides are those of the
// rows. Where all dimensions but k are large enough, threads share it out.
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
          const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c,
          int64_t c_stride, float beta);

}  // namespace mae
