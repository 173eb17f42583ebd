// Operators that OneFlow does not have: attention that keeps no scores, and a linear layer with all
// that goes before and after it. On a CPU, OneFlow gives every tensor of a graph memory of its own,
// so each tensor that is never made is memory, too. Their gradients are operators; which belongs to
// which is the business of projects/MAE/modeling/native_operators.py.
#include <dlfcn.h>

#include "registration.h"

namespace mae {
namespace {

// --- attention -----------------------------------------------------------------------------------

// CBLAS from whatever library answers first: a preloaded one, else the one inside OneFlow.
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
          const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c,
          int64_t c_stride, float beta) {
  using Sgemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int,
                         float, float*, int);
  static const auto sgemm = reinterpret_cast<Sgemm>(dlsym(RTLD_DEFAULT, "cblas_sgemm"));
  constexpr int row_major = 101, no_transpose = 111, transpose = 112;
  sgemm(row_major, transpose_a ? transpose : no_transpose, transpose_b ? transpose : no_transpose,
        m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
}

void plain_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c,
                int64_t c_stride) {
  gemm(transpose_a, transpose_b, m, n, k, alpha, a, a_stride, b, b_stride, c, c_stride, 0.0f);
}

// Registers an operator on float32 tensors. Its outputs have the type of its first input.
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

// qkv [samples, tokens, 3 heads head_size], a head's query, key and value side by side.
AttentionSize attention_size(op::KernelComputeContext* ctx) {
  const auto qkv = shape(ctx, "qkv");
  const int64_t head_size = ctx->Attr<int64_t>("head_size");
  return {qkv.At(0), qkv.At(1), qkv.At(2) / (3 * head_size), head_size};
}

void attention(op::KernelComputeContext* ctx) {
  kernels().attention(attention_size(ctx), plain_gemm, input(ctx, "qkv"),
                      output(ctx, "out"));
}

void attention_grad(op::KernelComputeContext* ctx) {
  kernels().attention_grad(attention_size(ctx), plain_gemm, input(ctx, "qkv"),
                           input(ctx, "dout"), output(ctx, "dqkv"));
}

// Samples are independent of one another, and so are heads.
Maybe<void> attention_sbp(op::SbpContext* ctx) {
  for (int64_t axis : {0, 2}) {
    ctx->NewBuilder().Split(ctx->inputs(), axis).Split(ctx->outputs(), axis).Build();
  }
  return Maybe<void>::Ok();
}

Maybe<void> attention_shape(op::InferContext* ctx) {
  const oneflow::Shape& qkv = ctx->InputShape("qkv", 0);
  CHECK(qkv.NumAxes() == 3 && qkv.At(2) % (3 * ctx->Attr<int64_t>("head_size")) == 0)
      << "qkv is not [samples, tokens, 3 heads head_size]";
  ctx->SetOutputShape("out", 0, oneflow::Shape({qkv.At(0), qkv.At(1), qkv.At(2) / 3}));
  return Maybe<void>::Ok();
}

Maybe<void> attention_grad_shape(op::InferContext* ctx) {
  ctx->SetOutputShape("dqkv", 0, ctx->InputShape("qkv", 0));
  return Maybe<void>::Ok();
}

void add_attention() {
  op::OpRegistry forward = new_operator("mae_attention"), grad = new_operator("mae_attention_grad");
  forward.Attr<int64_t>("head_size", 1);
  grad.Attr<int64_t>("head_size", 1);
  add_operator(forward.Input("qkv"), {"out"}, attention_shape, attention_sbp);
  add_operator(grad.Input("qkv").Input("dout"), {"dqkv"}, attention_grad_shape, attention_sbp);
  add<attention>("mae_attention", all_float);
  add<attention_grad>("mae_attention_grad", all_float);
}

// --- linear layer --------------------------------------------------------------------------------
//
// y = f(x) weight + bias + residual, with f GELU where the attribute says so, else nothing; x
// [..., in], weight [in, out], y [..., out]. Bias and residual may be left out.

struct LinearSize {
  int64_t rows, in, out;
};

LinearSize linear_size(op::KernelComputeContext* ctx) {
  const auto weight = shape(ctx, "weight");
  const int64_t in = weight.At(0), out = weight.At(1);
  return {in ? shape(ctx, "x").elem_cnt() / in : 0, in, out};
}

// f(x), in memory that the kernels of this thread use in turn.
const float* activated(op::KernelComputeContext* ctx, const LinearSize& s) {
  const float* x = input(ctx, "x");
  if (!ctx->Attr<int64_t>("gelu")) return x;
  thread_local std::vector<float> work;
  const int64_t count = s.rows * s.in;
  if (static_cast<int64_t>(work.size()) < count) work.resize(count);
  kernels().gelu(count, x, work.data());
  return work.data();
}

void linear(op::KernelComputeContext* ctx) {
  const LinearSize s = linear_size(ctx);
  const float *bias = optional_input(ctx, "bias"), *residual = optional_input(ctx, "residual");
  float* y = output(ctx, "y");
  if (bias && residual) {
    kernels().add_row(s.rows, s.out, residual, bias, y);
  } else if (residual) {
    kernels().copy_strided({2, {s.rows, s.out}, {s.out, 1}}, residual, y);
  } else if (bias) {
    kernels().copy_strided({2, {s.rows, s.out}, {0, 1}}, bias, y);
  }
  gemm(false, false, s.rows, s.out, s.in, 1.0f, activated(ctx, s), s.in, input(ctx, "weight"),
       s.out, y, s.out, bias || residual ? 1.0f : 0.0f);
}

void linear_grad(op::KernelComputeContext* ctx) {
  const LinearSize s = linear_size(ctx);
  const float *dy = input(ctx, "dy"), *weight = input(ctx, "weight");
  float* dx = output(ctx, "dx");
  gemm(true, false, s.in, s.out, s.rows, 1.0f, activated(ctx, s), s.in, dy, s.out,
       output(ctx, "dweight"), s.out, 0.0f);
  kernels().sum_rows(s.rows, s.out, dy, output(ctx, "dbias"));
  gemm(false, true, s.rows, s.in, s.out, 1.0f, dy, s.out, weight, s.out, dx, s.in, 0.0f);
  if (ctx->Attr<int64_t>("gelu")) kernels().gelu_grad(s.rows * s.in, input(ctx, "x"), dx, dx);
}

// Data parallel: rows; tensor parallel: the weight's columns, or its rows if nothing is added.
Maybe<void> linear_sbp(op::SbpContext* ctx) {
  const int64_t last =
      ctx->LogicalTensorDesc4InputArgNameAndIndex("x", 0).shape().NumAxes() - 1;
  const bool bias = ctx->user_op_conf().has_input("bias", 0);
  const bool residual = ctx->user_op_conf().has_input("residual", 0);
  const op::OpArg x("x", 0), weight("weight", 0), y("y", 0), b("bias", 0), r("residual", 0);
  for (int64_t axis = 0; axis < last; ++axis) {
    auto by_rows = ctx->NewBuilder();
    by_rows.Split(x, axis).Broadcast(weight).Split(y, axis);
    if (bias) by_rows.Broadcast(b);
    if (residual) by_rows.Split(r, axis);
    by_rows.Build();
  }
  auto by_columns = ctx->NewBuilder();
  by_columns.Broadcast(x).Split(weight, 1).Split(y, last);
  if (bias) by_columns.Split(b, 0);
  if (residual) by_columns.Split(r, last);
  by_columns.Build();
  if (!bias && !residual) {
    ctx->NewBuilder().Split(x, last).Split(weight, 0).PartialSum(y).Build();
  }
  return Maybe<void>::Ok();
}

Maybe<void> linear_grad_sbp(op::SbpContext* ctx) {
  const int64_t last =
      ctx->LogicalTensorDesc4InputArgNameAndIndex("x", 0).shape().NumAxes() - 1;
  const op::OpArg x("x", 0), weight("weight", 0), dy("dy", 0);
  const op::OpArg dx("dx", 0), dweight("dweight", 0), dbias("dbias", 0);
  for (int64_t axis = 0; axis < last; ++axis) {
    auto by_rows = ctx->NewBuilder();
    by_rows.Split(x, axis).Broadcast(weight).Split(dy, axis);
    by_rows.Split(dx, axis).PartialSum(dweight).PartialSum(dbias).Build();
  }
  auto by_columns = ctx->NewBuilder();
  by_columns.Broadcast(x).Split(weight, 1).Split(dy, last);
  by_columns.PartialSum(dx).Split(dweight, 1).Split(dbias, 0).Build();
  auto by_features = ctx->NewBuilder();
  by_features.Split(x, last).Split(weight, 0).Broadcast(dy);
  by_features.Split(dx, last).Split(dweight, 0).Broadcast(dbias).Build();
  return Maybe<void>::Ok();
}

Maybe<void> linear_shape(op::InferContext* ctx) {
  oneflow::Shape y = ctx->InputShape("x", 0);
  const oneflow::Shape& weight = ctx->InputShape("weight", 0);
  CHECK(y.At(y.NumAxes() - 1) == weight.At(0)) << "x and weight don't have the same features";
  y.Set(y.NumAxes() - 1, weight.At(1));
  ctx->SetOutputShape("y", 0, y);
  return Maybe<void>::Ok();
}

Maybe<void> linear_grad_shape(op::InferContext* ctx) {
  const oneflow::Shape& weight = ctx->InputShape("weight", 0);
  ctx->SetOutputShape("dx", 0, ctx->InputShape("x", 0));
  ctx->SetOutputShape("dweight", 0, weight);
  ctx->SetOutputShape("dbias", 0, oneflow::Shape({weight.At(1)}));
  return Maybe<void>::Ok();
}

void add_linear() {
  op::OpRegistry forward = new_operator("mae_linear"), grad = new_operator("mae_linear_grad");
  forward.Input("x").Input("weight").OptionalInput("bias").OptionalInput("residual");
  grad.Input("x").Input("weight").Input("dy");
  forward.Attr<int64_t>("gelu", 0);
  grad.Attr<int64_t>("gelu", 0);
  add_operator(forward, {"y"}, linear_shape, linear_sbp);
  add_operator(grad, {"dx", "dweight", "dbias"}, linear_grad_shape, linear_grad_sbp);
  add<linear>("mae_linear", all_float);
  add<linear_grad>("mae_linear_grad", all_float);
}

}  // namespace

void add_operators() {
  add_attention();
  add_linear();
}

}  // namespace mae

// Once, before the first operator runs.
extern "C" __attribute__((visibility("default"))) void mae_native_register() {
  mae::add_kernels();
  mae::add_operators();
}
