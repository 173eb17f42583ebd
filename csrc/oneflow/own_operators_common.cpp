// See own_operators.h.
#include "own_operators.h"

#include "cpu/gemm.h"

namespace mae {

void plain_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c,
                int64_t c_stride) {
  gemm(transpose_a, transpose_b, m, n, k, alpha, a, a_stride, b, b_stride, c, c_stride, 0.0f);
}

void affine(const LinearSize& s, const float* x, const float* weight, const float* bias,
            const float* residual, float* y) {
  if (bias && residual) {
    kernels().add_row(s.rows, s.out, residual, bias, y);
  } else if (residual) {
    kernels().copy_strided({2, {s.rows, s.out}, {s.out, 1}}, residual, y);
  } else if (bias) {
    kernels().copy_strided({2, {s.rows, s.out}, {0, 1}}, bias, y);
  }
  gemm(false, false, s.rows, s.out, s.in, 1.0f, x, s.in, weight, s.out, y, s.out,
       bias || residual ? 1.0f : 0.0f);
}

void affine_grad(const LinearSize& s, const float* x, const float* weight, const float* dy,
                 float* dx, float* dweight, float* dbias) {
  gemm(true, false, s.in, s.out, s.rows, 1.0f, x, s.in, dy, s.out, dweight, s.out, 0.0f);
  kernels().sum_rows(s.rows, s.out, dy, dbias);
  if (dx) gemm(false, true, s.rows, s.in, s.out, 1.0f, dy, s.out, weight, s.out, dx, s.in, 0.0f);
}

float* scratch(int which, int64_t count) {
  thread_local std::vector<float> memory[kScratches];
  if (static_cast<int64_t>(memory[which].size()) < count) memory[which].resize(count);
  return memory[which].data();
}

void add_operator(op::OpRegistry& registry, const std::vector<std::string>& outputs,
                  const op::TensorDescInferFn& shapes, const op::GetSbpFn& sbp) {
  for (const std::string& name : outputs) registry.Output(name);
  registry.NoGrad().SetTensorDescInferFn(shapes).SetGetSbpFn(sbp).SetDataTypeInferFn(
      [outputs](op::InferContext* ctx) -> Maybe<void> {
        const auto& first = ctx->inputs().at(0);
        for (const std::string& name : outputs) {
          ctx->SetOutputDType(name, 0, ctx->InputDType(first.first, first.second));
        }
        return Maybe<void>::Ok();
      });
  CHECK_JUST(op::UserOpRegistryMgr::Get().Register(CHECK_JUST(registry.Finish()).GetResult()));
}

op::OpRegistry new_operator(const char* name) {
  return op::UserOpRegistryMgr::Get().CheckAndGetOpRegistry(name);
}

}  // namespace mae
