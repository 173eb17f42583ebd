// Operators of single elements that OneFlow builds on no primitive: the larger of two, clipping,
// the inverse of erf, and random numbers.
#include <limits>
#include <map>
#include <mutex>

#include "cuda_operators.h"

namespace mae {
namespace cuda {
namespace {

template <int code>
void larger_or_smaller(Context* ctx) {
  const int operation = code;
  const int64_t n = elements_of(ctx, "z");
  const auto strides = merged_strides({n}, {1}, {1});
  const Bits none;
  const void *x = input(ctx, "x"), *y = input(ctx, "y");
  void* z = output(ctx, "z");
  launch_elements(ctx->stream(), "elementwise", kernel_name("arithmetic", type_of(ctx, "z")), n,
                  operation, strides, none, none, x, y, z);
}

void erfinv(Context* ctx) {
  const int operation = device::UNARY_ERFINV;
  const void* x = input(ctx, "x");
  void* y = output(ctx, "y");
  launch_elements(ctx->stream(), "elementwise", kernel_name("unary", type_of(ctx, "x")),
                  elements_of(ctx, "x"), operation, x, y);
}

// --- clipping -----------------------------------------------------------------------------------

// A bound of a type, from the attribute of its kind; none is the type's own.
Bits bound(Context* ctx, DataType type, bool given, const char* of_reals, const char* of_wholes,
           int sign) {
  if (is_real(type)) {
    const double none = sign * std::numeric_limits<double>::infinity();
    return wide_bits_of(Scalar(given ? ctx->Attr<double>(of_reals) : none), type);
  }
  const int64_t none = type == DataType::kInt32
                           ? (sign < 0 ? std::numeric_limits<int32_t>::min()
                                       : std::numeric_limits<int32_t>::max())
                           : (sign < 0 ? std::numeric_limits<int64_t>::min()
                                       : std::numeric_limits<int64_t>::max());
  return wide_bits_of(Scalar(given ? ctx->Attr<int64_t>(of_wholes) : none), type);
}

template <bool below, bool above>
void clip(Context* ctx) {
  const DataType type = type_of(ctx, "x");
  const Bits least = bound(ctx, type, below, "floating_min", "integral_min", -1);
  const Bits most = bound(ctx, type, above, "floating_max", "integral_max", 1);
  const void* x = input(ctx, "x");
  void* y = output(ctx, "y");
  launch_elements(ctx->stream(), "elementwise", kernel_name("clip", type), elements_of(ctx, "x"),
                  least, most, x, y);
}

template <bool below, bool above>
void clip_grad(Context* ctx) {
  const DataType type = type_of(ctx, "x");
  const Bits least = bound(ctx, type, below, "floating_min", "integral_min", -1);
  const Bits most = bound(ctx, type, above, "floating_max", "integral_max", 1);
  const void *x = input(ctx, "x"), *dy = input(ctx, "dy");
  void* dx = output(ctx, "dx");
  launch_elements(ctx->stream(), "elementwise", kernel_name("clip_grad", type),
                  elements_of(ctx, "x"), least, most, x, dy, dx);
}

bool clip_matches(const Candidate& ctx) {
  const DataType type = type_of(ctx, "x");
  return is_real(type) || is_index(type);
}

// --- random numbers -----------------------------------------------------------------------------

// How often a seed was used in this process: the same program draws the same numbers, and two draws
// differ. OneFlow's own generator on CUDA needs a kernel to start.
int64_t next_call(int64_t seed) {
  static std::mutex lock;
  static auto* calls = new std::map<int64_t, int64_t>;
  const std::lock_guard<std::mutex> guard(lock);
  return (*calls)[seed]++;
}

void draw(Context* ctx, const char* kernel, double first, double second) {
  const int64_t seed = ctx->Attr<int64_t>("seed"), call = next_call(seed);
  void* y = output(ctx, "out");
  launch_elements(ctx->stream(), "random", kernel_name(kernel, type_of(ctx, "out")),
                  elements_of(ctx, "out"), seed, call, first, second, y);
}

void uniform(Context* ctx) {
  draw(ctx, "uniform", ctx->Attr<double>("from"), ctx->Attr<double>("to"));
}
void normal(Context* ctx) {
  draw(ctx, "normal", ctx->Attr<double>("mean"), ctx->Attr<double>("std"));
}

bool draw_matches(const Candidate& ctx) {
  const DataType type = type_of(ctx, "out");
  // Where CUDA is emulated the CPU's own numbers stay, which other tests compare with.
  return target_device() == oneflow::DeviceType::kCUDA && is_on_one_rank(ctx) && is_real(type) &&
         type != DataType::kBFloat16;
}

}  // namespace

void add_element_operators() {
  const Match number = [](const Candidate& ctx) { return is_number(type_of(ctx, "z")); };
  add<larger_or_smaller<device::ARITHMETIC_MAX>>("elementwise_maximum", number);
  add<larger_or_smaller<device::ARITHMETIC_MIN>>("elementwise_minimum", number);
  Needs in_place;
  in_place.in_place = [](const op::InferContext&,
                         op::AddInplaceArgPair pair) -> oneflow::Maybe<void> {
    return pair("y", 0, "x", 0, true);
  };
  add<erfinv>("erfinv", [](const Candidate& ctx) { return is_real(type_of(ctx, "x")); }, in_place);
  add<clip<true, true>>("clip_by_scalar", clip_matches, in_place);
  add<clip<true, false>>("clip_by_scalar_min", clip_matches, in_place);
  add<clip<false, true>>("clip_by_scalar_max", clip_matches, in_place);
  add<clip_grad<true, true>>("clip_by_scalar_grad", clip_matches);
  add<clip_grad<true, false>>("clip_by_scalar_min_grad", clip_matches);
  add<clip_grad<false, true>>("clip_by_scalar_max_grad", clip_matches);
  add<uniform>("uniform", draw_matches);
  add<normal>("normal", draw_matches);
}

}  // namespace cuda
}  // namespace mae
