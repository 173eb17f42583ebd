// Operators that OneFlow does not have: attention that keeps no scores, and a linear layer with all
// that goes before and after it. On a CPU, OneFlow gives every tensor of a graph memory of its own,
// so each tensor that is never made is memory, too. Their gradients are operators; which belongs to
// which is the business of projects/MAE/modeling/one_operator.py.
#include "own_operators.h"

namespace mae {
namespace {

// --- attention -----------------------------------------------------------------------------------

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

LinearSize linear_size(op::KernelComputeContext* ctx) {
  const auto weight = shape(ctx, "weight");
  const int64_t in = weight.At(0), out = weight.At(1);
  return {in ? shape(ctx, "x").elem_cnt() / in : 0, in, out};
}

// f(x), in memory that the kernels of this thread use in turn.
const float* activated(op::KernelComputeContext* ctx, const LinearSize& s) {
  const float* x = input(ctx, "x");
  if (!ctx->Attr<int64_t>("gelu")) return x;
  float* result = scratch(0, s.rows * s.in);
  kernels().gelu(s.rows * s.in, x, result);
  return result;
}

void linear(op::KernelComputeContext* ctx) {
  const LinearSize s = linear_size(ctx);
  affine(s, activated(ctx, s), input(ctx, "weight"), optional_input(ctx, "bias"),
         optional_input(ctx, "residual"), output(ctx, "y"));
}

void linear_grad(op::KernelComputeContext* ctx) {
  const LinearSize s = linear_size(ctx);
  float* dx = output(ctx, "dx");
  affine_grad(s, activated(ctx, s), input(ctx, "weight"), input(ctx, "dy"), dx,
              output(ctx, "dweight"), output(ctx, "dbias"));
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
  add_branches();
}

}  // namespace mae

// Once, before the first operator runs.
extern "C" __attribute__((visibility("default"))) void mae_native_register() {
  mae::add_kernels();
  mae::add_operators();
}
