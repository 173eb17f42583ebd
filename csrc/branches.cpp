// The two branches of a pre-norm transformer block (Dosovitskiy et al., arXiv 2010.11929), each one
// operator: x + dense(attention(norm(x))) and x + dense(gelu(dense(norm(x)))).
//
// For the backward pass they keep queries, keys and values, the result of attention, and the hidden
// layer before GELU. All else is computed anew there, in memory that the branches use in turn.
// Where the attribute `residual` is 0, x is not added.
#include "own_operators.h"

namespace mae {
namespace {

using Names = std::vector<std::string>;

struct BranchSize {
  int64_t samples, tokens, width;
  int64_t rows() const { return samples * tokens; }
};

BranchSize branch_size(op::KernelComputeContext* ctx) {
  const auto x = shape(ctx, "x");
  return {x.At(0), x.At(1), x.At(2)};
}

// The features of a weight's output.
int64_t features(op::KernelComputeContext* ctx, const char* weight) {
  return shape(ctx, weight).At(1);
}

const float* residual(op::KernelComputeContext* ctx, const char* name) {
  return ctx->Attr<int64_t>("residual") ? input(ctx, name) : nullptr;
}

// The layer normalisation of x, with what its gradient needs.
struct Normalised {
  std::vector<float> mean, inv_std;
  float* y;
};

Normalised normalise(op::KernelComputeContext* ctx, const BranchSize& s) {
  const int64_t rows = s.rows();
  Normalised n{std::vector<float>(rows), std::vector<float>(rows), scratch(0, rows * s.width)};
  kernels().layer_norm(rows, s.width, input(ctx, "x"), input(ctx, "gamma"), input(ctx, "beta"),
                       ctx->Attr<double>("epsilon"), n.y, n.mean.data(), n.inv_std.data());
  return n;
}

// From the gradient of the normalised x, which stands in the place of that, to those of x, gamma
// and beta.
void normalise_grad(op::KernelComputeContext* ctx, const BranchSize& s, const Normalised& n) {
  const float* x = input(ctx, "x");
  kernels().layer_norm_param_grad(s.rows(), s.width, n.y, x, n.mean.data(), n.inv_std.data(),
                                  output(ctx, "dgamma"), output(ctx, "dbeta"));
  kernels().layer_norm_grad(s.rows(), s.width, n.y, x, n.mean.data(), n.inv_std.data(),
                            input(ctx, "gamma"), residual(ctx, "dy"), output(ctx, "dx"));
}

AttentionSize attention_size(op::KernelComputeContext* ctx, const BranchSize& s) {
  const int64_t head_size = ctx->Attr<int64_t>("head_size");
  return {s.samples, s.tokens, features(ctx, "weight1") / (3 * head_size), head_size};
}

void attention_branch(op::KernelComputeContext* ctx) {
  const BranchSize s = branch_size(ctx);
  const AttentionSize a = attention_size(ctx, s);
  const int64_t inner = a.heads * a.head_size;
  float *qkv = output(ctx, "qkv"), *mixed = output(ctx, "mixed");
  affine({s.rows(), s.width, 3 * inner}, normalise(ctx, s).y, input(ctx, "weight1"),
         input(ctx, "bias1"), nullptr, qkv);
  kernels().attention(a, plain_gemm, qkv, mixed);
  affine({s.rows(), inner, s.width}, mixed, input(ctx, "weight2"), input(ctx, "bias2"),
         residual(ctx, "x"), output(ctx, "y"));
}

void attention_branch_grad(op::KernelComputeContext* ctx) {
  const BranchSize s = branch_size(ctx);
  const AttentionSize a = attention_size(ctx, s);
  const int64_t inner = a.heads * a.head_size;
  const Normalised n = normalise(ctx, s);
  float *dmixed = scratch(1, s.rows() * inner), *dqkv = scratch(2, s.rows() * 3 * inner);
  affine_grad({s.rows(), inner, s.width}, input(ctx, "mixed"), input(ctx, "weight2"),
              input(ctx, "dy"), dmixed, output(ctx, "dweight2"), output(ctx, "dbias2"));
  kernels().attention_grad(a, plain_gemm, input(ctx, "qkv"), dmixed, dqkv);
  affine_grad({s.rows(), s.width, 3 * inner}, n.y, input(ctx, "weight1"), dqkv, n.y,
              output(ctx, "dweight1"), output(ctx, "dbias1"));
  normalise_grad(ctx, s, n);
}

void mlp_branch(op::KernelComputeContext* ctx) {
  const BranchSize s = branch_size(ctx);
  const int64_t inner = features(ctx, "weight1");
  float *hidden = output(ctx, "hidden"), *activated = scratch(1, s.rows() * inner);
  affine({s.rows(), s.width, inner}, normalise(ctx, s).y, input(ctx, "weight1"),
         input(ctx, "bias1"), nullptr, hidden);
  kernels().gelu(s.rows() * inner, hidden, activated);
  affine({s.rows(), inner, s.width}, activated, input(ctx, "weight2"), input(ctx, "bias2"),
         residual(ctx, "x"), output(ctx, "y"));
}

void mlp_branch_grad(op::KernelComputeContext* ctx) {
  const BranchSize s = branch_size(ctx);
  const int64_t inner = features(ctx, "weight1"), count = s.rows() * inner;
  const float* hidden = input(ctx, "hidden");
  const Normalised n = normalise(ctx, s);
  float* work = scratch(1, count);
  kernels().gelu(count, hidden, work);
  affine_grad({s.rows(), inner, s.width}, work, input(ctx, "weight2"), input(ctx, "dy"), work,
              output(ctx, "dweight2"), output(ctx, "dbias2"));
  kernels().gelu_grad(count, hidden, work, work);
  affine_grad({s.rows(), s.width, inner}, n.y, input(ctx, "weight1"), work, n.y,
              output(ctx, "dweight1"), output(ctx, "dbias1"));
  normalise_grad(ctx, s, n);
}

const Names parameters = {"gamma", "beta", "weight1", "bias1", "weight2", "bias2"};

// Samples may be split; each rank has the whole parameters, and a part of the sum of their
// gradients.
void split_samples(op::SbpContext* ctx, const Names& samples, const Names& whole,
                   const Names& sums) {
  auto builder = ctx->NewBuilder();
  for (const std::string& name : samples) builder.Split(op::OpArg(std::string(name), 0), 0);
  for (const std::string& name : whole) builder.Broadcast(op::OpArg(std::string(name), 0));
  for (const std::string& name : sums) builder.PartialSum(op::OpArg(std::string(name), 0));
  builder.Build();
}

// `kept` are the forward operator's outputs after y, and how many features each has.
using Features = std::vector<int64_t> (*)(op::InferContext*);

int64_t last(const oneflow::Shape& shape) { return shape.At(shape.NumAxes() - 1); }

std::vector<int64_t> attention_features(op::InferContext* ctx) {
  const int64_t qkv = last(ctx->InputShape("weight1", 0));
  return {qkv, qkv / 3};
}
std::vector<int64_t> mlp_features(op::InferContext* ctx) {
  return {last(ctx->InputShape("weight1", 0))};
}

Names prefixed(const Names& names) {
  Names result;
  for (const std::string& name : names) result.push_back("d" + name);
  return result;
}

Names joined(Names names, const Names& others) {
  names.insert(names.end(), others.begin(), others.end());
  return names;
}

void add_branch(const std::string& name, const Names& kept, Features features) {
  op::OpRegistry forward = new_operator(name.c_str());
  op::OpRegistry grad = new_operator((name + "_grad").c_str());
  for (op::OpRegistry* registry : {&forward, &grad}) {
    registry->Attr<double>("epsilon", 1e-6);
    registry->Attr<int64_t>("residual", 1).Attr<int64_t>("head_size", 1);
  }
  for (const std::string& input : joined({"x"}, parameters)) forward.Input(input);
  for (const std::string& input : joined(joined({"x"}, parameters), joined(kept, {"dy"}))) {
    grad.Input(input);
  }
  const Names outputs = joined({"y"}, kept);
  add_operator(
      forward, outputs,
      [kept, features](op::InferContext* ctx) -> Maybe<void> {
        oneflow::Shape x = ctx->InputShape("x", 0);
        CHECK(x.NumAxes() == 3) << "x is not [samples, tokens, features]";
        ctx->SetOutputShape("y", 0, x);
        const std::vector<int64_t> widths = features(ctx);
        for (size_t i = 0; i < kept.size(); ++i) {
          x.Set(2, widths[i]);
          ctx->SetOutputShape(kept[i], 0, x);
        }
        return Maybe<void>::Ok();
      },
      [outputs](op::SbpContext* ctx) -> Maybe<void> {
        split_samples(ctx, joined({"x"}, outputs), parameters, {});
        return Maybe<void>::Ok();
      });
  add_operator(
      grad, joined({"dx"}, prefixed(parameters)),
      [](op::InferContext* ctx) -> Maybe<void> {
        for (const std::string& input : joined({"x"}, parameters)) {
          ctx->SetOutputShape("d" + input, 0, ctx->InputShape(input, 0));
        }
        return Maybe<void>::Ok();
      },
      [kept](op::SbpContext* ctx) -> Maybe<void> {
        split_samples(ctx, joined({"x", "dy", "dx"}, kept), parameters, prefixed(parameters));
        return Maybe<void>::Ok();
      });
}

}  // namespace

void add_branches() {
  add_branch("mae_attention_branch", {"qkv", "mixed"}, attention_features);
  add<attention_branch>("mae_attention_branch", all_float);
  add<attention_branch_grad>("mae_attention_branch_grad", all_float);
  add_branch("mae_mlp_branch", {"hidden"}, mlp_features);
  add<mlp_branch>("mae_mlp_branch", all_float);
  add<mlp_branch_grad>("mae_mlp_branch_grad", all_float);
}

}  // namespace mae
