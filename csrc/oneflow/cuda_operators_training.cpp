// Operators of a training step: losses of class indices, AdamW, the dynamic loss scale.
#include "cuda_operators.h"

namespace mae {
namespace cuda {
namespace {

// --- cross entropy ------------------------------------------------------------------------------

// On CUDA `prob` holds log-probabilities, which the gradient takes.
void cross_entropy(Context* ctx) {
  const int64_t rows = elements_of(ctx, "label");
  const int64_t classes = rows ? elements_of(ctx, "prediction") / rows : 0;
  const int is_logarithm = 1, is_int64 = type_of(ctx, "label") == DataType::kInt64;
  const DataType type = type_of(ctx, "prediction");
  const void *x = input(ctx, "prediction"), *labels = input(ctx, "label");
  void *log_p = output(ctx, "prob"), *y = output(ctx, "out");
  launch_rows(ctx->stream(), "softmax", kernel_name("softmax", type), rows, classes, classes,
              is_logarithm, x, log_p);
  launch_elements(ctx->stream(), "loss", kernel_name("cross_entropy", type), rows, classes,
                  is_int64, labels, log_p, y);
}

void cross_entropy_grad(Context* ctx) {
  const int64_t rows = elements_of(ctx, "label");
  const int64_t classes = rows ? elements_of(ctx, "prob") / rows : 0;
  const int is_int64 = type_of(ctx, "label") == DataType::kInt64;
  const void *labels = input(ctx, "label"), *log_p = input(ctx, "prob"), *dy = input(ctx, "dy");
  void* dx = output(ctx, "prediction_diff");
  launch_elements(ctx->stream(), "loss", kernel_name("cross_entropy_grad", type_of(ctx, "prob")),
                  rows * classes, classes, is_int64, labels, log_p, dy, dx);
}

void nll(Context* ctx) {
  const int64_t rows = elements_of(ctx, "target"), ignored = ctx->Attr<int64_t>("ignore_index");
  const int64_t classes = rows ? elements_of(ctx, "input") / rows : 0;
  const int is_int64 = type_of(ctx, "target") == DataType::kInt64;
  const void *labels = input(ctx, "target"), *x = input(ctx, "input");
  const void* weights = optional_input(ctx, "weight");
  void *y = output(ctx, "output"), *y_weight = output(ctx, "out_weight");
  launch_elements(ctx->stream(), "loss", kernel_name("nll", type_of(ctx, "input")), rows, classes,
                  ignored, is_int64, labels, x, weights, y, y_weight);
}

void nll_grad(Context* ctx) {
  const int64_t rows = elements_of(ctx, "target"), ignored = ctx->Attr<int64_t>("ignore_index");
  const int64_t n = elements_of(ctx, "in_grad"), classes = rows ? n / rows : 0;
  const int is_int64 = type_of(ctx, "target") == DataType::kInt64;
  const void *labels = input(ctx, "target"), *dy = input(ctx, "out_grad");
  const void* weights = optional_input(ctx, "weight");
  void* dx = output(ctx, "in_grad");
  launch_elements(ctx->stream(), "loss", kernel_name("nll_grad", type_of(ctx, "in_grad")), n,
                  classes, ignored, is_int64, labels, dy, weights, dx);
}

bool nll_matches(const Candidate& ctx) {
  return is_on_one_rank(ctx) && is_real(type_of(ctx, "input")) && is_index(type_of(ctx, "target"));
}

// --- AdamW --------------------------------------------------------------------------------------

bool adam_matches(const Candidate& ctx) {
  const DataType gradient = type_of(ctx, "model_diff");
  return type_of(ctx, "model") == DataType::kFloat && !ctx.Attr<bool>("amsgrad") &&
         (gradient == DataType::kFloat || gradient == DataType::kFloat16);
}

device::AdamSettings adam_settings(Context* ctx) {
  const auto number = [ctx](const char* name) { return ctx->Attr<float>(name); };
  const auto pointer = [ctx](const char* name) {
    return static_cast<const float*>(optional_input(ctx, name));
  };
  device::AdamSettings s;
  s.rate = number("learning_rate_val");
  s.rate_scale = number("learning_rate_scale");
  s.weight_decay = number("weight_decay");
  s.beta1 = number("beta1");
  s.beta2 = number("beta2");
  s.epsilon = number("epsilon");
  s.correction1 = number("bias_correction1_val");
  s.correction2 = number("bias_correction2_val");
  s.scale = static_cast<float>(ctx->Attr<double>("scale"));
  s.l1 = number("l1");
  s.l2 = number("l2");
  s.rate_at = pointer("learning_rate");
  s.correction1_at = pointer("bias_correction1");
  s.correction2_at = pointer("bias_correction2");
  s.scale_at = pointer("scale_by_tensor");
  s.skip_if = static_cast<const device::int64*>(optional_input(ctx, "skip_if"));
  return s;
}

void adam_update(Context* ctx) {
  const auto settings = adam_settings(ctx);
  const void* gradient = input(ctx, "model_diff");
  void *model = output(ctx, "model"), *m = output(ctx, "m"), *v = output(ctx, "v");
  void* copy = ctx->has_input("model_copy", 0) ? output(ctx, "model_copy") : nullptr;
  launch_elements(ctx->stream(), "optimizer", kernel_name("adam", type_of(ctx, "model_diff")),
                  elements_of(ctx, "model"), settings, gradient, model, m, v, copy);
}

void bias_correction(Context* ctx) {
  const float beta = ctx->Attr<float>("beta");
  const void* step = input(ctx, "train_step");
  void* y = output(ctx, "out");
  launch(ctx->stream(), "optimizer", "bias_correction", grid_of_elements(1), beta, step, y);
}

// --- the loss scale -----------------------------------------------------------------------------

void count_not_finite(Context* ctx) {
  void* y = output(ctx, "y");
  fill(ctx->stream(), DataType::kInt64, Scalar(0), 1, y);
  for (size_t i = 0; i < ctx->inputs().size(); ++i) {
    const op::Tensor* from = tensor(ctx, "x", i);
    const void* x = from->raw_dptr();
    launch_elements(ctx->stream(), "loss", kernel_name("count_not_finite", from->data_type()),
                    from->shape_view().elem_cnt(), x, y);
  }
}

void loss_scale_schedule(Context* ctx) {
  const int64_t period = ctx->Attr<int64_t>("increment_period");
  const float multiplier = ctx->Attr<float>("multiplier");
  const void* not_finite = input(ctx, "count_not_finite");
  void *scale = output(ctx, "loss_scale"), *good_steps = output(ctx, "good_step_counter");
  launch(ctx->stream(), "loss", "loss_scale", grid_of_elements(1), period, multiplier, not_finite,
         scale, good_steps);
}

bool cast_scale_matches(const Candidate& ctx) {
  const auto is = [&ctx](DataType x, DataType y, DataType by) {
    return type_of(ctx, "x") == x && type_of(ctx, "y") == y &&
           type_of(ctx, "scale_by_tensor") == by;
  };
  constexpr DataType kHalf = DataType::kFloat16, kFloat = DataType::kFloat;
  return is(kHalf, kFloat, kFloat) || is(kFloat, kHalf, kHalf) || is(kFloat, kHalf, kFloat) ||
         is(kFloat, kFloat, kFloat) || is(kHalf, kHalf, kHalf);
}

void fused_cast_scale(Context* ctx) {
  const float scale = static_cast<float>(ctx->Attr<double>("scale"));
  const void *x = input(ctx, "x"), *by = input(ctx, "scale_by_tensor");
  void* y = output(ctx, "y");
  const std::string kernel = kernel_name("cast_scale", type_of(ctx, "x")) + "_" +
                             name_of(type_of(ctx, "y")) + "_by_" +
                             name_of(type_of(ctx, "scale_by_tensor"));
  launch_elements(ctx->stream(), "cast", kernel, elements_of(ctx, "x"), scale, x, by, y);
}

}  // namespace

void add_training_operators() {
  add<cross_entropy>("sparse_softmax_cross_entropy", [](const Candidate& ctx) {
    return is_real(type_of(ctx, "out")) && is_index(type_of(ctx, "label"));
  });
  add<cross_entropy_grad>("sparse_softmax_cross_entropy_grad", [](const Candidate& ctx) {
    return is_real(type_of(ctx, "prob")) && is_index(type_of(ctx, "label"));
  });
  add<nll>("nll", nll_matches);
  add<nll_grad>("nll_grad", nll_matches);
  const Match always = [](const Candidate&) { return true; };
  const Match is_real_x = [](const Candidate& ctx) { return is_real(type_of(ctx, "x")); };
  add<adam_update>("adam_update", adam_matches);
  add<bias_correction>("adam_bias_correction_factor", always);
  add<count_not_finite>("count_not_finite", is_real_x);
  add<count_not_finite>("multi_count_not_finite", is_real_x);
  add<loss_scale_schedule>("dynamic_loss_scale_schedule", always);
  add<fused_cast_scale>("fused_cast_scale", cast_scale_matches);
}

}  // namespace cuda
}  // namespace mae
