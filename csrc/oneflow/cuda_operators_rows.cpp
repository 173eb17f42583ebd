// Operators that look at rows: sums over axes, layer normalisation, sorting.
#include "cuda_operators.h"
#include "cuda_reduction.h"

namespace mae {
namespace cuda {

// --- reductions ---------------------------------------------------------------------------------

int64_t parts_of(int64_t elements, int64_t sums, int64_t least, int64_t wanted) {
  return std::max<int64_t>(1, std::min(elements / least, (wanted + sums - 1) / sums));
}

ReductionPlan::ReductionPlan(const Sizes& sizes, const std::vector<int32_t>& axes) {
  const Sizes own = contiguous_strides(sizes);
  std::vector<bool> goes(sizes.size(), false);
  for (const int32_t axis : axes) goes[axis < 0 ? axis + sizes.size() : axis] = true;
  for (size_t axis = 0; axis < sizes.size(); ++axis) {
    (goes[axis] ? gone_sizes : kept_sizes).push_back(sizes[axis]);
    (goes[axis] ? gone_strides : kept_strides).push_back(own[axis]);
  }
  results = count_of(kept_sizes);
  gone = count_of(gone_sizes);
  int last = static_cast<int>(sizes.size()) - 1;
  while (last > 0 && sizes[last] == 1) --last;
  constexpr int64_t kThreads = 1 << 18, kRows = 1 << 13;
  by_columns = last >= 0 && !goes[last] && results >= 32;
  parts = 1;
  if (results > 0 && gone > 0) {
    const int64_t least = by_columns ? 16 : 1024;
    parts = parts_of(gone, results, least, by_columns ? kThreads : kRows);
  }
  chunk = std::max<int64_t>(1, (gone + parts - 1) / parts);
  parts = std::max<int64_t>(1, (gone + chunk - 1) / chunk);
}

void add_parts(Stream* stream, const char* operation, DataType type, int64_t results,
               int64_t parts, const void* part, void* y) {
  const std::string kernel = std::string(operation) + "_parts";
  launch_rows(stream, "reduce", kernel_name(kernel.c_str(), type), results, parts, parts, part, y);
}

void reduce(Stream* stream, const char* operation, DataType type, const ReductionPlan& plan,
            const void* x, void* temporary, void* y) {
  const auto strides = [](const Sizes& sizes, const Sizes& own) {
    return merged_strides(sizes, own, Sizes(sizes.size(), 0));
  };
  const auto kept = strides(plan.kept_sizes, plan.kept_strides);
  const auto gone = strides(plan.gone_sizes, plan.gone_strides);
  const std::string kernel = std::string(operation) + (plan.by_columns ? "_columns" : "_rows");
  const std::string name = kernel_name(kernel.c_str(), type);
  void* part = plan.parts > 1 ? temporary : nullptr;
  const int64_t sums = plan.parts * plan.results;
  if (plan.by_columns) {
    launch_elements(stream, "reduce", name, sums, plan.results, plan.gone, plan.chunk, kept, gone,
                    x, part, y);
  } else {
    launch_rows(stream, "reduce", name, sums, plan.chunk, plan.results, plan.gone, plan.chunk,
                kept, gone, x, part, y);
  }
  if (part) add_parts(stream, operation, type, plan.results, plan.parts, part, y);
}

namespace {

void reduce(Context* ctx, const char* operation, const char* from, const char* to) {
  const ReductionPlan plan(sizes_of(ctx, from), ctx->Attr<std::vector<int32_t>>("axis"));
  void* temporary = plan.parts > 1 ? output(ctx, "tmp_buffer") : nullptr;
  reduce(ctx->stream(), operation, type_of(ctx, from), plan, input(ctx, from), temporary,
         output(ctx, to));
}

void reduce_sum(Context* ctx) { reduce(ctx, "sum", "input_tensor", "output_tensor"); }
void reduce_max(Context* ctx) { reduce(ctx, "max", "input_tensor", "output_tensor"); }
void reduce_min(Context* ctx) { reduce(ctx, "min", "input_tensor", "output_tensor"); }
void reduce_sum_like(Context* ctx) { reduce(ctx, "sum", "x", "y"); }

Needs reduction_needs(const char* from) {
  Needs needs;
  needs.temporary = [from](op::InferContext* ctx) -> size_t {
    const ReductionPlan plan(sizes_of_shape(ctx->InputShape(from, 0)),
                             ctx->Attr<std::vector<int32_t>>("axis"));
    return plan.temporary_bytes();
  };
  return needs;
}

// --- the gradient of a quotient's divisor -------------------------------------------------------

// -dz * z / y, summed over the axes along which y was repeated. The products are made in a
// temporary buffer, after which comes that of the sum.
struct DivisorPlan {
  int64_t product_bytes;
  ReductionPlan sum;

  DivisorPlan(const Sizes& dz, const Sizes& y, DataType type)
      : product_bytes((count_of(dz) * bytes_of(type) + 511) / 512 * 512),
        sum(dz, repeated_axes(dz, y)) {}
  int64_t temporary_bytes() const { return product_bytes + sum.temporary_bytes(); }

  static std::vector<int32_t> repeated_axes(const Sizes& dz, const Sizes& y) {
    const size_t missing = dz.size() - y.size();
    std::vector<int32_t> axes;
    for (size_t axis = 0; axis < dz.size(); ++axis) {
      if (axis < missing || (y[axis - missing] == 1 && dz[axis] != 1)) axes.push_back(axis);
    }
    return axes;
  }
};

void broadcast_div_grad(Context* ctx) {
  const Sizes of_dz = sizes_of(ctx, "dz"), of_y = sizes_of(ctx, "y");
  const DataType type = type_of(ctx, "dz");
  const DivisorPlan plan(of_dz, of_y, type);
  const void *dz = input(ctx, "dz"), *z = input(ctx, "z"), *y = input(ctx, "y");
  void* product = output(ctx, "tmp_buffer");
  const int64_t n = count_of(of_dz);
  const Bits none;
  const auto combine = [&](int operation, const void* left, const void* right, const Sizes& sizes) {
    const auto strides =
        merged_strides(of_dz, contiguous_strides(of_dz), broadcast_strides(sizes, of_dz));
    launch_elements(ctx->stream(), "elementwise", kernel_name("arithmetic", type), n, operation,
                    strides, none, none, left, right, product);
  };
  combine(device::ARITHMETIC_MUL, dz, z, of_dz);
  combine(device::ARITHMETIC_DIV, product, y, of_y);
  const int negative = device::UNARY_NEGATIVE;
  launch_elements(ctx->stream(), "elementwise", kernel_name("unary", type), n, negative, product,
                  product);
  reduce(ctx->stream(), "sum", type, plan.sum, product, moved(product, plan.product_bytes),
         output(ctx, "dy"));
}

bool has_sum(DataType type) {
  return is_real(type) || type == DataType::kInt32 || type == DataType::kInt64;
}

// --- layer normalisation ------------------------------------------------------------------------

// Statistics are over all axes from one on, and so are the parameters.
bool layer_norm_matches(const Candidate& ctx) {
  return is_real(type_of(ctx, "x")) &&
         ctx.Attr<int64_t>("begin_norm_axis") == ctx.Attr<int64_t>("begin_params_axis");
}

struct Rows {
  int64_t count, width;
  explicit Rows(Context* ctx)
      : count(elements_of(ctx, "mean")), width(count ? elements_of(ctx, "x") / count : 0) {}
};

void layer_norm(Context* ctx) {
  const Rows rows(ctx);
  const double epsilon = ctx->Attr<double>("epsilon");
  const void *x = input(ctx, "x"), *gamma = optional_input(ctx, "gamma");
  const void* beta = optional_input(ctx, "beta");
  void *y = output(ctx, "y"), *mean = output(ctx, "mean"), *inverse = output(ctx, "inv_variance");
  launch_rows(ctx->stream(), "layer_norm", kernel_name("layer_norm", type_of(ctx, "x")),
              rows.count, rows.width, rows.width, epsilon, x, gamma, beta, y, mean, inverse);
}

void layer_norm_grad(Context* ctx) {
  const Rows rows(ctx);
  const void *dy = input(ctx, "dy"), *x = input(ctx, "x"), *mean = input(ctx, "mean");
  const void *inverse = input(ctx, "inv_variance"), *gamma = optional_input(ctx, "gamma");
  const void* more = optional_input(ctx, "_add_to_output");
  void* dx = output(ctx, "dx");
  launch_rows(ctx->stream(), "layer_norm", kernel_name("layer_norm_grad", type_of(ctx, "x")),
              rows.count, rows.width, rows.width, dy, x, mean, inverse, gamma, more, dx);
}

// The rows are cut into parts as a sum over columns is. Two sums in float64's size at most.
struct ParameterPlan {
  int64_t rows, width, parts, chunk;
  ParameterPlan(int64_t rows, int64_t width) : rows(rows), width(width) {
    constexpr int64_t kThreads = 1 << 17;
    parts = width ? parts_of(rows, width, 16, kThreads) : 1;
    chunk = std::max<int64_t>(1, (rows + parts - 1) / parts);
    parts = std::max<int64_t>(1, (rows + chunk - 1) / chunk);
  }
  int64_t bytes_of_one() const { return parts * width * 8; }
};

ParameterPlan parameter_plan(const Sizes& x, int64_t begin_params_axis) {
  const int64_t width = count_of(Sizes(x.begin() + begin_params_axis, x.end()));
  return ParameterPlan(width ? count_of(x) / width : 0, width);
}

void layer_norm_param_grad(Context* ctx) {
  const auto plan = parameter_plan(sizes_of(ctx, "x"), ctx->Attr<int64_t>("begin_params_axis"));
  if (plan.width == 0) return;
  const DataType type = type_of(ctx, "x");
  const void *dy = input(ctx, "dy"), *x = input(ctx, "x"), *mean = input(ctx, "mean");
  const void* inverse = input(ctx, "inv_variance");
  void* of_gamma = output(ctx, "tmp_buffer");
  void* of_beta = moved(of_gamma, plan.bytes_of_one());
  launch_elements(ctx->stream(), "layer_norm", kernel_name("layer_norm_param_grad", type),
                  plan.parts * plan.width, plan.rows, plan.width, plan.chunk, dy, x, mean, inverse,
                  of_gamma, of_beta);
  const auto add_up = [&](const void* part, void* y) {
    if (y) add_parts(ctx->stream(), "sum", type, plan.width, plan.parts, part, y);
  };
  add_up(of_gamma, optional_output(ctx, "gamma_diff"));
  add_up(of_beta, optional_output(ctx, "beta_diff"));
}

// --- sorting ------------------------------------------------------------------------------------

void arg_sort(Context* ctx) {
  const Sizes sizes = sizes_of(ctx, "in");
  const int64_t n = sizes.empty() ? 1 : sizes.back();
  if (n == 0) return;
  const int descending = ctx->Attr<std::string>("direction") == "DESCENDING";
  const void* x = input(ctx, "in");
  void* y = output(ctx, "out");
  launch_rows(ctx->stream(), "sort", kernel_name("arg_sort", type_of(ctx, "in")),
              count_of(sizes) / n, n, n, descending, x, y);
}

}  // namespace

void add_row_operators() {
  add<reduce_sum>("reduce_sum", [](const Candidate& ctx) {
    return has_sum(type_of(ctx, "input_tensor"));
  }, reduction_needs("input_tensor"));
  const Match is_float = [](const Candidate& ctx) {
    return type_of(ctx, "input_tensor") == DataType::kFloat;
  };
  add<reduce_max>("reduce_max", is_float, reduction_needs("input_tensor"));
  add<reduce_min>("reduce_min", is_float, reduction_needs("input_tensor"));
  add<reduce_sum_like>("reduce_sum_like", [](const Candidate& ctx) {
    return has_sum(type_of(ctx, "x"));
  }, reduction_needs("x"));

  Needs divisor;
  divisor.temporary = [](op::InferContext* ctx) -> size_t {
    const DivisorPlan plan(sizes_of_shape(ctx->InputShape("dz", 0)),
                           sizes_of_shape(ctx->InputShape("y", 0)), ctx->InputDType("dz", 0));
    return plan.temporary_bytes();
  };
  add<broadcast_div_grad>("broadcast_div_grad", [](const Candidate& ctx) {
    return is_real(type_of(ctx, "dz"));
  }, divisor);

  const Match is_real_x = [](const Candidate& ctx) { return is_real(type_of(ctx, "x")); };
  add<layer_norm>("layer_norm", layer_norm_matches);
  Needs grad;
  grad.in_place = [](const op::InferContext& ctx,
                     const op::AddInplaceArgPair pair) -> oneflow::Maybe<void> {
    if (ctx.has_input("_add_to_output", 0)) JUST(pair("dx", 0, "_add_to_output", 0, true));
    return oneflow::Maybe<void>::Ok();
  };
  add<layer_norm_grad>("layer_norm_grad", is_real_x, grad);
  Needs param_grad;
  param_grad.temporary = [](op::InferContext* ctx) -> size_t {
    const auto plan = parameter_plan(sizes_of_shape(ctx->InputShape("x", 0)),
                                     ctx->Attr<int64_t>("begin_params_axis"));
    return 2 * plan.bytes_of_one();
  };
  add<layer_norm_param_grad>("layer_norm_param_grad", is_real_x, param_grad);

  add<arg_sort>("arg_sort", [](const Candidate& ctx) {
    const DataType type = type_of(ctx, "in");
    return type == DataType::kFloat || type == DataType::kDouble || is_index(type);
  });
}

}  // namespace cuda
}  // namespace mae
