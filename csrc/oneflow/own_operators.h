// What the operators share that OneFlow does not have.
#pragma once

#include "registration.h"

namespace mae {

// As gemm, with nothing of c kept.
void plain_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c,
                int64_t c_stride);

// x [rows, in], weight [in, out], y [rows, out].
struct LinearSize {
  int64_t rows, in, out;
};

// y = x weight + bias + residual; the last two may be null.
void affine(const LinearSize& s, const float* x, const float* weight, const float* bias,
            const float* residual, float* y);
// Its gradients; dx may be where x is, and is null where nobody wants it.
void affine_grad(const LinearSize& s, const float* x, const float* weight, const float* dy,
                 float* dx, float* dweight, float* dbias);

// Memory of `count` floats, one of kScratches, that the kernels of this thread use in turn.
constexpr int kScratches = 6;
float* scratch(int which, int64_t count);

op::OpRegistry new_operator(const char* name);

// Registers an operator on float32 tensors. Its outputs have the type of its first input.
void add_operator(op::OpRegistry& registry, const std::vector<std::string>& outputs,
                  const op::TensorDescInferFn& shapes, const op::GetSbpFn& sbp);

void add_branches();  // of a transformer block

}  // namespace mae
