// Registers the kernels of kernels.h for OneFlow's operators on a CPU, with a priority above that
// of its own. Whatever a kernel here does not do (another type, another pattern of broadcasting)
// its predicate leaves to OneFlow's.
#include "registration.h"

namespace mae {
namespace {

// --- activations -----------------------------------------------------------------------------

void gelu(op::KernelComputeContext* ctx) {
  kernels().gelu(shape(ctx, "in").elem_cnt(), input(ctx, "in"), output(ctx, "out"));
}

void gelu_grad(op::KernelComputeContext* ctx) {
  kernels().gelu_grad(shape(ctx, "x").elem_cnt(), input(ctx, "x"), input(ctx, "dy"),
                      output(ctx, "dx"));
}

void softmax(op::KernelComputeContext* ctx) {
  const auto s = shape(ctx, "in");
  const int64_t width = s.At(s.NumAxes() - 1);
  if (width == 0) return;
  kernels().softmax(s.elem_cnt() / width, width, input(ctx, "in"), output(ctx, "out"));
}

void softmax_grad(op::KernelComputeContext* ctx) {
  const auto s = shape(ctx, "y");
  const int64_t width = s.At(s.NumAxes() - 1);
  if (width == 0) return;
  kernels().softmax_grad(s.elem_cnt() / width, width, input(ctx, "y"), input(ctx, "dy"),
                         output(ctx, "dx"));
}

// --- layer normalisation -----------------------------------------------------------------------

// The statistics are over all axes from the first normalised one, and so are the parameters.
bool layer_norm_matches(const op::KernelRegContext& ctx) {
  return all_float(ctx) &&
         ctx.Attr<int64_t>("begin_norm_axis") == ctx.Attr<int64_t>("begin_params_axis");
}

void layer_norm(op::KernelComputeContext* ctx) {
  const int64_t rows = shape(ctx, "mean").elem_cnt(), count = shape(ctx, "x").elem_cnt();
  if (rows == 0) return;
  kernels().layer_norm(rows, count / rows, input(ctx, "x"), optional_input(ctx, "gamma"),
                       optional_input(ctx, "beta"), ctx->Attr<double>("epsilon"),
                       output(ctx, "y"), output(ctx, "mean"), output(ctx, "inv_variance"));
}

void layer_norm_grad(op::KernelComputeContext* ctx) {
  const int64_t rows = shape(ctx, "mean").elem_cnt(), count = shape(ctx, "x").elem_cnt();
  if (rows == 0) return;
  kernels().layer_norm_grad(rows, count / rows, input(ctx, "dy"), input(ctx, "x"),
                            input(ctx, "mean"), input(ctx, "inv_variance"),
                            optional_input(ctx, "gamma"), optional_input(ctx, "_add_to_output"),
                            output(ctx, "dx"));
}

void layer_norm_param_grad(op::KernelComputeContext* ctx) {
  const int64_t count = shape(ctx, "x").elem_cnt();
  float *dgamma = optional_output(ctx, "gamma_diff"), *dbeta = optional_output(ctx, "beta_diff");
  const int64_t width = shape(ctx, dgamma ? "gamma_diff" : "beta_diff").elem_cnt();
  kernels().layer_norm_param_grad(width ? count / width : 0, width, input(ctx, "dy"),
                                  input(ctx, "x"), input(ctx, "mean"),
                                  input(ctx, "inv_variance"), dgamma, dbeta);
}

// --- optimizer -----------------------------------------------------------------------------------

bool adam_matches(const op::KernelRegContext& ctx) {
  const auto is_float = [&ctx](const char* name) {
    const op::TensorDesc* desc = ctx.TensorDesc4ArgNameAndIndex(name, 0);
    return desc != nullptr && desc->data_type() == DataType::kFloat;
  };
  return is_float("model") && is_float("model_diff") && !ctx.Attr<bool>("amsgrad") &&
         !ctx.user_op_conf().has_input("model_copy", 0);
}

void adam_update(op::KernelComputeContext* ctx) {
  if (ctx->has_input("skip_if", 0) &&
      *ctx->Tensor4ArgNameAndIndex("skip_if", 0)->dptr<int64_t>() != 0) {
    return;
  }
  const auto scalar = [ctx](const char* name, float otherwise) {
    return ctx->has_input(name, 0) ? *input(ctx, name) : otherwise;
  };
  AdamW s;
  s.learning_rate = scalar("learning_rate", ctx->Attr<float>("learning_rate_val")) *
                    ctx->Attr<float>("learning_rate_scale");
  s.weight_decay = ctx->Attr<float>("weight_decay");
  s.beta1 = ctx->Attr<float>("beta1");
  s.beta2 = ctx->Attr<float>("beta2");
  s.epsilon = ctx->Attr<float>("epsilon");
  s.bias_correction1 = scalar("bias_correction1", ctx->Attr<float>("bias_correction1_val"));
  s.bias_correction2 = scalar("bias_correction2", ctx->Attr<float>("bias_correction2_val"));
  s.scale = static_cast<float>(ctx->Attr<double>("scale")) * scalar("scale_by_tensor", 1.0f);
  s.l1 = ctx->Attr<float>("l1");
  s.l2 = ctx->Attr<float>("l2");
  kernels().adamw(shape(ctx, "model").elem_cnt(), s, input(ctx, "model_diff"),
                  output(ctx, "model"), output(ctx, "m"), output(ctx, "v"));
}

// --- sums and broadcasts -------------------------------------------------------------------------

void add_n(op::KernelComputeContext* ctx) {
  std::vector<const float*> sources;
  for (size_t i = 0; i < ctx->inputs().size(); ++i) sources.push_back(input(ctx, "in", i));
  kernels().add_n(shape(ctx, "out").elem_cnt(), sources.size(), sources.data(),
                  output(ctx, "out"));
}

// Which side of a binary operation repeats: y holds whole trailing axes (a row), or whole leading
// ones and ones after them (a column).
enum class Pattern { kNone, kRow, kColumn };

template <typename Shape>
Pattern pattern_of(const Shape& x, const Shape& y) {
  const int64_t axes = x.NumAxes(), missing = axes - y.NumAxes();
  if (axes == 0 || missing < 0 || x.elem_cnt() == y.elem_cnt()) return Pattern::kNone;
  const auto at = [&](int64_t a) { return a < missing ? 1 : y.At(a - missing); };
  int64_t first = 0;  // the first axis that y does not repeat
  while (first < axes && at(first) == 1) ++first;
  bool row = true;
  for (int64_t a = first; a < axes; ++a) row = row && at(a) == x.At(a);
  if (row) return Pattern::kRow;
  int64_t last = axes;
  while (last > 0 && at(last - 1) == 1) --last;
  bool column = true;
  for (int64_t a = 0; a < last; ++a) column = column && at(a) == x.At(a);
  return column ? Pattern::kColumn : Pattern::kNone;
}

Pattern pattern_of(const op::KernelRegContext& ctx) {
  const auto* x = ctx.TensorDesc4ArgNameAndIndex("x", 0);
  const auto* y = ctx.TensorDesc4ArgNameAndIndex("y", 0);
  return pattern_of(x->shape(), y->shape());
}

bool row_or_column_matches(const op::KernelRegContext& ctx) {
  return all_float(ctx) && pattern_of(ctx) != Pattern::kNone;
}
bool column_matches(const op::KernelRegContext& ctx) {
  return all_float(ctx) && pattern_of(ctx) == Pattern::kColumn;
}

using Binary = void (*Kernels::*)(int64_t, int64_t, const float*, const float*, float*);

template <Binary row, Binary column>
void broadcast(op::KernelComputeContext* ctx) {
  const auto x = shape(ctx, "x"), y = shape(ctx, "y");
  const int64_t count = x.elem_cnt(), other = y.elem_cnt();
  if (count == 0) return;
  const bool is_row = pattern_of(x, y) == Pattern::kRow;
  const int64_t rows = is_row ? count / other : other;
  (kernels().*(is_row ? row : column))(rows, count / rows, input(ctx, "x"), input(ctx, "y"),
                                       output(ctx, "z"));
}

// Which axes a sum goes over: the leading ones (sum_rows), the trailing ones (sum_columns).
Pattern sum_pattern(const std::vector<int32_t>& axes, int64_t count) {
  std::vector<bool> summed(count, false);
  for (int32_t axis : axes) summed[axis] = true;
  const int64_t changes = [&] {
    int64_t n = 0;
    for (int64_t a = 1; a < count; ++a) n += summed[a] != summed[a - 1];
    return n;
  }();
  if (axes.empty() || changes > 1) return Pattern::kNone;
  return summed[0] && changes == 1 ? Pattern::kRow : Pattern::kColumn;
}

bool sum_matches(const op::KernelRegContext& ctx, const char* name) {
  return all_float(ctx) &&
         sum_pattern(ctx.Attr<std::vector<int32_t>>("axis"),
                     ctx.TensorDesc4ArgNameAndIndex(name, 0)->shape().NumAxes()) != Pattern::kNone;
}
bool reduce_sum_matches(const op::KernelRegContext& ctx) {
  return sum_matches(ctx, "input_tensor");
}
bool reduce_sum_like_matches(const op::KernelRegContext& ctx) { return sum_matches(ctx, "x"); }

void sum(op::KernelComputeContext* ctx, const char* in, const char* out) {
  const auto& axes = ctx->Attr<std::vector<int32_t>>("axis");
  const auto x = shape(ctx, in);
  const int64_t count = x.elem_cnt(), results = shape(ctx, out).elem_cnt();
  if (results == 0) return;
  if (sum_pattern(axes, x.NumAxes()) == Pattern::kRow) {
    kernels().sum_rows(count / results, results, input(ctx, in), output(ctx, out));
  } else {
    kernels().sum_columns(results, count / results, input(ctx, in), output(ctx, out));
  }
}

void reduce_sum(op::KernelComputeContext* ctx) { sum(ctx, "input_tensor", "output_tensor"); }

void reduce_sum_like(op::KernelComputeContext* ctx) { sum(ctx, "x", "y"); }

// --- moving data ---------------------------------------------------------------------------------

bool transpose_matches(const op::KernelRegContext& ctx) {
  return all_float(ctx) && ctx.Attr<std::vector<int32_t>>("perm").size() <= kMaxAxes &&
         ctx.Attr<std::vector<int32_t>>("perm").size() > 0;
}

void transpose(op::KernelComputeContext* ctx) {
  const auto in = shape(ctx, "input");
  const auto& permutation = ctx->Attr<std::vector<int32_t>>("perm");
  std::vector<int64_t> stride(in.NumAxes(), 1);
  for (int64_t a = in.NumAxes() - 2; a >= 0; --a) stride[a] = stride[a + 1] * in.At(a + 1);
  StridedCopy copy{0, {}, {}};
  for (int32_t axis : permutation) {
    // An axis that follows the one before it in the source, too, is one axis with it.
    if (copy.axes && copy.stride[copy.axes - 1] == in.At(axis) * stride[axis]) {
      copy.size[copy.axes - 1] *= in.At(axis);
      copy.stride[copy.axes - 1] = stride[axis];
    } else {
      copy.size[copy.axes] = in.At(axis);
      copy.stride[copy.axes++] = stride[axis];
    }
  }
  kernels().copy_strided(copy, input(ctx, "input"), output(ctx, "output"));
}

struct Middle {
  int64_t outer, middle, inner;
};

Middle split_at(const oneflow::ShapeView& s, int64_t axis) {
  return {s.Count(0, axis), s.At(axis), s.Count(axis + 1)};
}

void narrow(op::KernelComputeContext* ctx) {
  const int64_t axis = ctx->Attr<int64_t>("dim");
  const Middle m = split_at(shape(ctx, "in"), axis);
  kernels().narrow(m.outer, m.middle, m.inner, ctx->Attr<int64_t>("start"),
                   shape(ctx, "out").At(axis), input(ctx, "in"), output(ctx, "out"));
}

void narrow_grad(op::KernelComputeContext* ctx) {
  const int64_t axis = ctx->Attr<int64_t>("dim");
  const Middle m = split_at(shape(ctx, "dx"), axis);
  kernels().narrow_grad(m.outer, m.middle, m.inner, ctx->Attr<int64_t>("start"),
                        shape(ctx, "dy").At(axis), input(ctx, "dy"), output(ctx, "dx"));
}

}  // namespace

void add_kernels() {
  add<gelu>("gelu", all_float);
  add<gelu_grad>("gelu_grad", all_float);
  add<softmax>("softmax", all_float);
  add<softmax_grad>("softmax_grad", all_float);
  add<layer_norm>("layer_norm", layer_norm_matches);
  add<layer_norm_grad>("layer_norm_grad", all_float);
  add<layer_norm_param_grad>("layer_norm_param_grad", all_float);
  add<adam_update>("adam_update", adam_matches);
  add<add_n>("add_n", all_float);
  add<broadcast<&Kernels::add_row, &Kernels::add_column>>("broadcast_add", row_or_column_matches);
  add<broadcast<&Kernels::multiply_row, &Kernels::multiply_column>>(
      "broadcast_mul", row_or_column_matches);
  add<broadcast<nullptr, &Kernels::subtract_column>>("broadcast_sub", column_matches);
  add<broadcast<nullptr, &Kernels::divide_column>>("broadcast_div", column_matches);
  add<reduce_sum>("reduce_sum", reduce_sum_matches);
  add<reduce_sum_like>("reduce_sum_like", reduce_sum_like_matches);
  add<transpose>("transpose", transpose_matches);
  add<narrow>("narrow", all_float);
  add<narrow_grad>("narrow_grad", all_float);
}

}  // namespace mae
