// The two branches of a pre-norm transformer block (Dosovitskiy et al., arXiv 2010.11929), each one
// operator: x + scale dense(attention(norm(x))) and x + scale dense(gelu(dense(norm(x)))).
//
// `scale` [samples], which may be left out for 1, is that of stochastic depth (Huang et al., arXiv
// 1603.09382): where it is 0 the branch of a sample is dropped, and nothing of it computed.
//
// For the backward pass they keep queries, keys and values, the result of attention, and the hidden
// layer before GELU, of the samples that are not dropped, one after the other. All else is computed
// anew there, in memory that the branches use in turn.
#include "own_operators.h"

namespace mae {
namespace {

using Names = std::vector<std::string>;

// What a branch works on: the samples that are not dropped.
class Part {
 public:
  explicit Part(op::KernelComputeContext* ctx)
      : ctx_(ctx), samples_(shape(ctx, "x").At(0)), tokens_(shape(ctx, "x").At(1)),
        width_(shape(ctx, "x").At(2)), scale_(optional_input(ctx, "scale")) {
    for (int64_t s = 0; scale_ && s < samples_; ++s) {
      place_.push_back(scale_[s] == 0.0f ? -1 : static_cast<int64_t>(chosen_.size()));
      if (scale_[s] != 0.0f) chosen_.push_back(s);
    }
    x_ = take("x", nullptr, 0);
  }

  int64_t samples() const { return scale_ ? static_cast<int64_t>(chosen_.size()) : samples_; }
  int64_t tokens() const { return tokens_; }
  int64_t rows() const { return samples() * tokens_; }
  int64_t width() const { return width_; }
  const float* x() const { return x_; }
  // The gradient of the branch's result.
  const float* dy() const { return take("dy", scale_, 1); }

  // Where the branch puts its result, and what it adds to it; `finish` adds it where this is null.
  float* target(const char* name) const {
    return scale_ ? scratch(2, rows() * width_) : output(ctx_, name);
  }
  const float* addend(const char* name) const { return scale_ ? nullptr : input(ctx_, name); }
  void finish(const char* base, bool scaled, const char* name) const {
    if (!scale_) return;
    kernels().add_samples(samples_, tokens_ * width_, place_.data(), scaled ? scale_ : nullptr,
                          input(ctx_, base), scratch(2, rows() * width_), output(ctx_, name));
  }

 private:
  const float* take(const char* name, const float* scale, int which) const {
    if (!scale_) return input(ctx_, name);
    float* taken = scratch(which, rows() * width_);
    kernels().take_samples(samples(), tokens_ * width_, chosen_.data(), scale, input(ctx_, name),
                           taken);
    return taken;
  }

  op::KernelComputeContext* ctx_;
  int64_t samples_, tokens_, width_;
  const float *scale_, *x_;
  std::vector<int64_t> chosen_, place_;
};

// The features of a weight's output.
int64_t features(op::KernelComputeContext* ctx, const char* weight) {
  return shape(ctx, weight).At(1);
}

// The layer normalisation of x, with what its gradient needs.
struct Normalised {
  std::vector<float> mean, inv_std;
  float* y;
};

Normalised normalise(op::KernelComputeContext* ctx, const Part& p) {
  const int64_t rows = p.rows();
  Normalised n{std::vector<float>(rows), std::vector<float>(rows), scratch(3, rows * p.width())};
  kernels().layer_norm(rows, p.width(), p.x(), input(ctx, "gamma"), input(ctx, "beta"),
                       ctx->Attr<double>("epsilon"), n.y, n.mean.data(), n.inv_std.data());
  return n;
}

// From the gradient of the normalised x, which stands in the place of that, to those of x, gamma
// and beta.
void normalise_grad(op::KernelComputeContext* ctx, const Part& p, const Normalised& n) {
  kernels().layer_norm_param_grad(p.rows(), p.width(), n.y, p.x(), n.mean.data(),
                                  n.inv_std.data(), output(ctx, "dgamma"), output(ctx, "dbeta"));
  kernels().layer_norm_grad(p.rows(), p.width(), n.y, p.x(), n.mean.data(), n.inv_std.data(),
                            input(ctx, "gamma"), p.addend("dy"), p.target("dx"));
  p.finish("dy", false, "dx");
}

AttentionSize attention_size(op::KernelComputeContext* ctx, const Part& p) {
  const int64_t head_size = ctx->Attr<int64_t>("head_size");
  return {p.samples(), p.tokens(), features(ctx, "weight1") / (3 * head_size), head_size};
}

// The second layer of a branch, and what follows.
void second_layer(op::KernelComputeContext* ctx, const Part& p, int64_t inner, const float* x) {
  affine({p.rows(), inner, p.width()}, x, input(ctx, "weight2"), input(ctx, "bias2"),
         p.addend("x"), p.target("y"));
  p.finish("x", true, "y");
}

void attention_branch(op::KernelComputeContext* ctx) {
  const Part p(ctx);
  const AttentionSize a = attention_size(ctx, p);
  const int64_t inner = a.heads * a.head_size;
  float *qkv = output(ctx, "qkv"), *mixed = output(ctx, "mixed");
  affine({p.rows(), p.width(), 3 * inner}, normalise(ctx, p).y, input(ctx, "weight1"),
         input(ctx, "bias1"), nullptr, qkv);
  kernels().attention(a, plain_gemm, qkv, mixed);
  second_layer(ctx, p, inner, mixed);
}

void attention_branch_grad(op::KernelComputeContext* ctx) {
  const Part p(ctx);
  const AttentionSize a = attention_size(ctx, p);
  const int64_t inner = a.heads * a.head_size;
  const Normalised n = normalise(ctx, p);
  float *dmixed = scratch(4, p.rows() * inner), *dqkv = scratch(5, p.rows() * 3 * inner);
  affine_grad({p.rows(), inner, p.width()}, input(ctx, "mixed"), input(ctx, "weight2"), p.dy(),
              dmixed, output(ctx, "dweight2"), output(ctx, "dbias2"));
  kernels().attention_grad(a, plain_gemm, input(ctx, "qkv"), dmixed, dqkv);
  affine_grad({p.rows(), p.width(), 3 * inner}, n.y, input(ctx, "weight1"), dqkv, n.y,
              output(ctx, "dweight1"), output(ctx, "dbias1"));
  normalise_grad(ctx, p, n);
}

void mlp_branch(op::KernelComputeContext* ctx) {
  const Part p(ctx);
  const int64_t inner = features(ctx, "weight1");
  float *hidden = output(ctx, "hidden"), *activated = scratch(4, p.rows() * inner);
  affine({p.rows(), p.width(), inner}, normalise(ctx, p).y, input(ctx, "weight1"),
         input(ctx, "bias1"), nullptr, hidden);
  kernels().gelu(p.rows() * inner, hidden, activated);
  second_layer(ctx, p, inner, activated);
}

void mlp_branch_grad(op::KernelComputeContext* ctx) {
  const Part p(ctx);
  const int64_t inner = features(ctx, "weight1"), count = p.rows() * inner;
  const float* hidden = input(ctx, "hidden");
  const Normalised n = normalise(ctx, p);
  float* work = scratch(4, count);
  kernels().gelu(count, hidden, work);
  affine_grad({p.rows(), inner, p.width()}, work, input(ctx, "weight2"), p.dy(), work,
              output(ctx, "dweight2"), output(ctx, "dbias2"));
  kernels().gelu_grad(count, hidden, work, work);
  affine_grad({p.rows(), p.width(), inner}, n.y, input(ctx, "weight1"), work, n.y,
              output(ctx, "dweight1"), output(ctx, "dbias1"));
  normalise_grad(ctx, p, n);
}

const Names parameters = {"gamma", "beta", "weight1", "bias1", "weight2", "bias2"};

// Samples may be split; each rank has the whole parameters, and a part of the sum of their
// gradients.
void split_samples(op::SbpContext* ctx, const Names& samples, const Names& whole,
                   const Names& sums) {
  auto builder = ctx->NewBuilder();
  if (ctx->user_op_conf().has_input("scale", 0)) builder.Split(op::OpArg("scale", 0), 0);
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

bool is_scale_of(op::InferContext* ctx, const oneflow::Shape& x) {
  return !ctx->has_input("scale", 0) || ctx->InputShape("scale", 0).elem_cnt() == x.At(0);
}

void add_branch(const std::string& name, const Names& kept, Features features) {
  op::OpRegistry forward = new_operator(name.c_str());
  op::OpRegistry grad = new_operator((name + "_grad").c_str());
  for (op::OpRegistry* registry : {&forward, &grad}) {
    registry->Attr<double>("epsilon", 1e-6);
    registry->Attr<int64_t>("head_size", 1).OptionalInput("scale");
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
        CHECK(is_scale_of(ctx, x)) << "scale is not one number a sample";
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
        CHECK(is_scale_of(ctx, ctx->InputShape("x", 0))) << "scale is not one number a sample";
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
