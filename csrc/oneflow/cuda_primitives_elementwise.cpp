// The primitives of elements: Add, ElementwiseUnary, BroadcastElementwiseUnary and -Binary.
#include "cuda_launch.h"
#include "cuda_primitives.h"
#include "cuda_tensors.h"
#include "oneflow/core/ep/include/primitive/add.h"
#include "oneflow/core/ep/include/primitive/broadcast_elementwise_binary.h"
#include "oneflow/core/ep/include/primitive/broadcast_elementwise_unary.h"
#include "oneflow/core/ep/include/primitive/elementwise_unary.h"

namespace mae {
namespace cuda {
namespace {

namespace primitive = oneflow::ep::primitive;
using primitive::BinaryOp;
using primitive::UnaryOp;

constexpr const char* kFile = "elementwise";

// A kernel and the code of the operation in it; no kernel where there is none.
struct Operation {
  const char* kernel = nullptr;
  int code = 0;
};

// --- which kernel does what ---------------------------------------------------------------------

Operation operation_of(UnaryOp op) {
  const auto unary = [](int code) { return Operation{"unary", code}; };
  const auto question = [](int code) { return Operation{"question", code}; };
  switch (op) {
    case UnaryOp::kIdentity: return unary(device::UNARY_IDENTITY);
    case UnaryOp::kRelu: return unary(device::UNARY_RELU);
    case UnaryOp::kGelu: return unary(device::UNARY_GELU);
    case UnaryOp::kFastGelu: return unary(device::UNARY_FAST_GELU);
    case UnaryOp::kQuickGelu: return unary(device::UNARY_QUICK_GELU);
    case UnaryOp::kSilu: return unary(device::UNARY_SILU);
    case UnaryOp::kSigmoid: return unary(device::UNARY_SIGMOID);
    case UnaryOp::kTanh: return unary(device::UNARY_TANH);
    case UnaryOp::kAbs: return unary(device::UNARY_ABS);
    case UnaryOp::kCeil: return unary(device::UNARY_CEIL);
    case UnaryOp::kFloor: return unary(device::UNARY_FLOOR);
    case UnaryOp::kRint:
    case UnaryOp::kRound: return unary(device::UNARY_ROUND);
    case UnaryOp::kTrunc: return unary(device::UNARY_TRUNC);
    case UnaryOp::kSign: return unary(device::UNARY_SIGN);
    case UnaryOp::kNegative: return unary(device::UNARY_NEGATIVE);
    case UnaryOp::kReciprocal: return unary(device::UNARY_RECIPROCAL);
    case UnaryOp::kSquare: return unary(device::UNARY_SQUARE);
    case UnaryOp::kSqrt: return unary(device::UNARY_SQRT);
    case UnaryOp::kRsqrt: return unary(device::UNARY_RSQRT);
    case UnaryOp::kExp: return unary(device::UNARY_EXP);
    case UnaryOp::kExpm1: return unary(device::UNARY_EXPM1);
    case UnaryOp::kLog: return unary(device::UNARY_LOG);
    case UnaryOp::kLog2: return unary(device::UNARY_LOG2);
    case UnaryOp::kLog10: return unary(device::UNARY_LOG10);
    case UnaryOp::kLog1p: return unary(device::UNARY_LOG1P);
    case UnaryOp::kSin: return unary(device::UNARY_SIN);
    case UnaryOp::kCos: return unary(device::UNARY_COS);
    case UnaryOp::kErf: return unary(device::UNARY_ERF);
    case UnaryOp::kErfc: return unary(device::UNARY_ERFC);
    case UnaryOp::kLogicalNot: return question(device::QUESTION_NOT);
    case UnaryOp::kIsNan: return question(device::QUESTION_IS_NAN);
    case UnaryOp::kIsInf: return question(device::QUESTION_IS_INF);
    case UnaryOp::kIsFinite: return question(device::QUESTION_IS_FINITE);
    case UnaryOp::kNotEqualZero: return question(device::QUESTION_NOT_ZERO);
    default: return {};
  }
}

Operation operation_of(BinaryOp op) {
  const auto arithmetic = [](int code) { return Operation{"arithmetic", code}; };
  const auto special = [](int code) { return Operation{"special", code}; };
  const auto compare = [](int code) { return Operation{"compare", code}; };
  switch (op) {
    case BinaryOp::kAdd: return arithmetic(device::ARITHMETIC_ADD);
    case BinaryOp::kSub: return arithmetic(device::ARITHMETIC_SUB);
    case BinaryOp::kMul: return arithmetic(device::ARITHMETIC_MUL);
    case BinaryOp::kDiv: return arithmetic(device::ARITHMETIC_DIV);
    case BinaryOp::kMax: return arithmetic(device::ARITHMETIC_MAX);
    case BinaryOp::kMin: return arithmetic(device::ARITHMETIC_MIN);
    case BinaryOp::kPow: return special(device::SPECIAL_POW);
    case BinaryOp::kFmod: return special(device::SPECIAL_FMOD);
    case BinaryOp::kFloorDiv: return special(device::SPECIAL_FLOOR_DIV);
    case BinaryOp::kTruncDiv: return special(device::SPECIAL_TRUNC_DIV);
    case BinaryOp::kFloorMod: return special(device::SPECIAL_FLOOR_MOD);
    case BinaryOp::kScalarBasePowerGrad: return special(device::SPECIAL_BASE_POWER_GRAD);
    case BinaryOp::kScalarExpPowerGrad: return special(device::SPECIAL_EXPONENT_POWER_GRAD);
    case BinaryOp::kGeluBackwardWithDyX: return special(device::SPECIAL_GELU_GRAD);
    case BinaryOp::kFastGeluBackwardWithDyX: return special(device::SPECIAL_FAST_GELU_GRAD);
    case BinaryOp::kQuickGeluBackwardWithDyX: return special(device::SPECIAL_QUICK_GELU_GRAD);
    case BinaryOp::kSiluBackwardWithDyX: return special(device::SPECIAL_SILU_GRAD);
    case BinaryOp::kReluBackwardWithDyY: return special(device::SPECIAL_RELU_GRAD_OF_Y);
    case BinaryOp::kSigmoidBackwardWithDyY: return special(device::SPECIAL_SIGMOID_GRAD_OF_Y);
    case BinaryOp::kTanhBackwardWithDyX: return special(device::SPECIAL_TANH_GRAD);
    case BinaryOp::kAbsBackwardWithDyX: return special(device::SPECIAL_ABS_GRAD);
    case BinaryOp::kReciprocalBackwardWithDyX: return special(device::SPECIAL_RECIPROCAL_GRAD);
    case BinaryOp::kSquareBackwardWithDyX: return special(device::SPECIAL_SQUARE_GRAD);
    case BinaryOp::kSqrtBackwardWithDyX: return special(device::SPECIAL_SQRT_GRAD);
    case BinaryOp::kRsqrtBackwardWithDyX: return special(device::SPECIAL_RSQRT_GRAD);
    case BinaryOp::kExpBackwardWithDyX: return special(device::SPECIAL_EXP_GRAD);
    case BinaryOp::kExpm1BackwardWithDyX: return special(device::SPECIAL_EXPM1_GRAD);
    case BinaryOp::kLogBackwardWithDyX: return special(device::SPECIAL_LOG_GRAD);
    case BinaryOp::kLog2BackwardWithDyX: return special(device::SPECIAL_LOG2_GRAD);
    case BinaryOp::kLog10BackwardWithDyX: return special(device::SPECIAL_LOG10_GRAD);
    case BinaryOp::kLog1pBackwardWithDyX: return special(device::SPECIAL_LOG1P_GRAD);
    case BinaryOp::kSinBackwardWithDyX: return special(device::SPECIAL_SIN_GRAD);
    case BinaryOp::kCosBackwardWithDyX: return special(device::SPECIAL_COS_GRAD);
    case BinaryOp::kErfBackwardWithDyX: return special(device::SPECIAL_ERF_GRAD);
    case BinaryOp::kErfcBackwardWithDyX: return special(device::SPECIAL_ERFC_GRAD);
    case BinaryOp::kEqual: return compare(device::COMPARISON_EQUAL);
    case BinaryOp::kNotEqual: return compare(device::COMPARISON_NOT_EQUAL);
    case BinaryOp::kLessThan: return compare(device::COMPARISON_LESS);
    case BinaryOp::kLessEqual: return compare(device::COMPARISON_LESS_EQUAL);
    case BinaryOp::kGreaterThan: return compare(device::COMPARISON_GREATER);
    case BinaryOp::kGreaterEqual: return compare(device::COMPARISON_GREATER_EQUAL);
    case BinaryOp::kLogicalAnd: return compare(device::COMPARISON_AND);
    case BinaryOp::kLogicalOr: return compare(device::COMPARISON_OR);
    case BinaryOp::kLogicalXor: return compare(device::COMPARISON_XOR);
    default: return {};
  }
}

bool is(const Operation& operation, const char* kernel) {
  return operation.kernel != nullptr && strcmp(operation.kernel, kernel) == 0;
}

// Whole numbers and truth values have some of the functions.
bool has_whole(int unary_code) {
  switch (unary_code) {
    case device::UNARY_IDENTITY:
    case device::UNARY_RELU:
    case device::UNARY_ABS:
    case device::UNARY_SIGN:
    case device::UNARY_NEGATIVE:
    case device::UNARY_SQUARE: return true;
    default: return false;
  }
}

bool is_done(const Operation& operation, DataType from, DataType to, UnaryOp) {
  if (operation.kernel == nullptr || name_of(from) == nullptr) return false;
  if (is(operation, "question")) return to == DataType::kBool;
  return from == to && (is_real(from) || has_whole(operation.code));
}

bool is_done(const Operation& operation, DataType from, DataType to, BinaryOp) {
  if (operation.kernel == nullptr || name_of(from) == nullptr) return false;
  if (is(operation, "compare")) return to == DataType::kBool;
  if (from != to) return false;
  if (is_real(from)) return true;
  const bool whole = is(operation, "arithmetic") || operation.code <= device::SPECIAL_FLOOR_MOD;
  return is_whole(from) && whole;
}

// --- packs of 16 bytes --------------------------------------------------------------------------

constexpr int kPackBytes = 16;

bool has_packs(DataType type) {
  return type == DataType::kFloat || type == DataType::kFloat16 || type == DataType::kBFloat16;
}

template <class... Pointers>
bool aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % kPackBytes == 0) && ...);
}

// Whether an operand can be read in packs, or as one element for each of them.
bool fits_packs(const device::int64* strides, int last, int count, const void* data) {
  if (strides[last] == 0) return true;
  if (strides[last] != 1 || !aligned(data)) return false;
  for (int axis = 0; axis < last; ++axis) {
    if (strides[axis] % count != 0) return false;
  }
  return true;
}

// --- primitives ---------------------------------------------------------------------------------

class Add final : public primitive::Add {
 public:
  explicit Add(DataType type)
      : type_(type), kernel_(kernel_name("add", type)), packed_(kernel_name("add_packed", type)) {}

  // More than a kernel takes at once: the sum so far is a source of the next launch.
  void Launch(Stream* stream, const void* const* x, size_t count, void* y, size_t n) override {
    size_t next = 0;
    do {
      device::Sources sources;
      sources.count = 0;
      if (next > 0) sources.at[sources.count++] = y;
      while (sources.count < device::MAX_SOURCES && next < count) {
        sources.at[sources.count++] = x[next++];
      }
      launch_sum(stream, sources, y, n);
    } while (next < count);
  }

  void Launch(Stream* stream, const void* x, const void* y, void* z, size_t n) override {
    const void* sources[] = {x, y};
    Launch(stream, sources, 2, z, n);
  }

 private:
  void launch_sum(Stream* stream, const device::Sources& sources, void* y, size_t n) {
    const size_t count = kPackBytes / bytes_of(type_);
    bool packs = has_packs(type_) && n % count == 0 && aligned(y);
    for (int i = 0; i < sources.count; ++i) packs = packs && aligned(sources.at[i]);
    if (packs) {
      launch_elements(stream, kFile, packed_, n / count, sources, y);
    } else {
      launch_elements(stream, kFile, kernel_, n, sources, y);
    }
  }

  DataType type_;
  std::string kernel_, packed_;
};

class Unary final : public primitive::ElementwiseUnary {
 public:
  Unary(const Operation& operation, DataType type)
      : kernel_(kernel_name(operation.kernel, type)),
        packed_(kernel_name("unary_packed", type)),
        code_(operation.code),
        has_packs_(is(operation, "unary") && has_packs(type)),
        count_(kPackBytes / bytes_of(type)) {}
  void Launch(Stream* stream, const void* x, void* y, size_t n) override {
    if (has_packs_ && n % count_ == 0 && aligned(x, y)) {
      launch_elements(stream, kFile, packed_, n / count_, code_, x, y);
    } else {
      launch_elements(stream, kFile, kernel_, n, code_, x, y);
    }
  }

 private:
  std::string kernel_, packed_;
  int code_;
  bool has_packs_;
  size_t count_;
};

// Of the operations that broadcast only the identity is used.
class BroadcastIdentity final : public primitive::BroadcastElementwiseUnary {
 public:
  explicit BroadcastIdentity(DataType type) : type_(type) {}

  void Launch(Stream* stream, size_t x_axes, const int64_t* x_sizes, const int64_t* x_strides,
              const void* x, size_t y_axes, const int64_t* y_sizes, const int64_t* y_strides,
              void* y) override {
    Sizes from(y_axes, 0);
    for (size_t axis = 0; axis < x_axes; ++axis) {
      if (x_sizes[axis] != 1) from[y_axes - x_axes + axis] = x_strides[axis];
    }
    copy_strided(stream, bytes_of(type_), Sizes(y_sizes, y_sizes + y_axes), from,
                 Sizes(y_strides, y_strides + y_axes), x, y);
  }

  void Launch(Stream* stream, size_t x_axes, const int64_t* x_sizes, const void* x, size_t y_axes,
              const int64_t* y_sizes, void* y) override {
    const Sizes from = contiguous_strides(Sizes(x_sizes, x_sizes + x_axes));
    const Sizes to = contiguous_strides(Sizes(y_sizes, y_sizes + y_axes));
    Launch(stream, x_axes, x_sizes, from.data(), x, y_axes, y_sizes, to.data(), y);
  }

 private:
  DataType type_;
};

class Binary final : public primitive::BroadcastElementwiseBinary {
 public:
  Binary(const Operation& operation, DataType type, const Scalar& attribute)
      : kernel_(kernel_name(operation.kernel, type)),
        packed_(packed_kernel(operation, type)),
        code_(operation.code),
        type_(type),
        takes_attribute_(is(operation, "special")),
        attribute_(wide_bits_of(attribute, type)) {}

  void Launch(Stream* stream, size_t x_axes, const int64_t* x_sizes, const void* x, size_t y_axes,
              const int64_t* y_sizes, const void* y, void* z) override {
    launch(stream, {Sizes(x_sizes, x_sizes + x_axes), x, Scalar(0)},
           {Sizes(y_sizes, y_sizes + y_axes), y, Scalar(0)}, z);
  }
  void Launch(Stream* stream, Scalar x, size_t y_axes, const int64_t* y_sizes, const void* y,
              void* z) override {
    launch(stream, {{}, nullptr, x}, {Sizes(y_sizes, y_sizes + y_axes), y, Scalar(0)}, z);
  }
  void Launch(Stream* stream, size_t x_axes, const int64_t* x_sizes, const void* x, Scalar y,
              void* z) override {
    launch(stream, {Sizes(x_sizes, x_sizes + x_axes), x, Scalar(0)}, {{}, nullptr, y}, z);
  }

 private:
  struct Operand {
    Sizes sizes;
    const void* data;
    Scalar scalar;
  };

  static Sizes result_of(const Sizes& x, const Sizes& y) {
    Sizes result(std::max(x.size(), y.size()), 1);
    for (const Sizes* sizes : {&x, &y}) {
      const size_t missing = result.size() - sizes->size();
      for (size_t axis = 0; axis < sizes->size(); ++axis) {
        if ((*sizes)[axis] != 1) result[missing + axis] = (*sizes)[axis];
      }
    }
    return result;
  }

  void launch(Stream* stream, const Operand& x, const Operand& y, void* z) {
    const Sizes result = result_of(x.sizes, y.sizes);
    const auto strides = merged_strides(result, broadcast_strides(x.sizes, result),
                                        broadcast_strides(y.sizes, result));
    const Bits scalar_x = wide_bits_of(x.scalar, type_), scalar_y = wide_bits_of(y.scalar, type_);
    const int64_t n = count_of(result);
    if (launch_packs(stream, x, y, strides, scalar_x, scalar_y, n, z)) return;
    if (takes_attribute_) {
      launch_elements(stream, kFile, kernel_, n, code_, strides, scalar_x, scalar_y, attribute_,
                      x.data, y.data, z);
    } else {
      launch_elements(stream, kFile, kernel_, n, code_, strides, scalar_x, scalar_y, x.data,
                      y.data, z);
    }
  }

  // Whether the operands lie so that packs can be taken; then it is done.
  bool launch_packs(Stream* stream, const Operand& x, const Operand& y, device::Strides s,
                    const Bits& scalar_x, const Bits& scalar_y, int64_t n, void* z) {
    const int last = s.axes - 1;
    if (packed_.empty() || last < 0 || !aligned(z)) return false;
    const int count = kPackBytes / bytes_of(type_);
    if (s.size[last] % count != 0) return false;
    if (!fits_packs(s.a, last, count, x.data) || !fits_packs(s.b, last, count, y.data)) {
      return false;
    }
    const int step_x = s.a[last] != 0, step_y = s.b[last] != 0;
    if (takes_attribute_) {  // the gradient of GELU: of two whole tensors
      if (last != 0 || !step_x || !step_y) return false;
      launch_elements(stream, kFile, packed_, n / count, x.data, y.data, z);
      return true;
    }
    s.size[last] /= count;
    s.a[last] *= count;
    s.b[last] *= count;
    launch_elements(stream, kFile, packed_, n / count, code_, s, step_x, step_y, scalar_x,
                    scalar_y, x.data, y.data, z);
    return true;
  }

  static std::string packed_kernel(const Operation& operation, DataType type) {
    if (!has_packs(type)) return "";
    if (is(operation, "arithmetic")) return kernel_name("arithmetic_packed", type);
    const bool gelu = is(operation, "special") && operation.code == device::SPECIAL_GELU_GRAD;
    return gelu ? kernel_name("gelu_grad_packed", type) : "";
  }

  std::string kernel_, packed_;
  int code_;
  DataType type_;
  bool takes_attribute_;
  Bits attribute_;
};

// --- factories ----------------------------------------------------------------------------------

class AddFactory final : public primitive::AddFactory {
 public:
  std::unique_ptr<primitive::Add> New(DataType type) override {
    if (is_number(type)) return std::make_unique<Add>(type);
    return otherwise<primitive::AddFactory>(type);
  }
};

class UnaryFactory final : public primitive::ElementwiseUnaryFactory {
  using Result = std::unique_ptr<primitive::ElementwiseUnary>;

 public:
  Result New(UnaryOp op, DataType from, DataType to) override { return make(op, from, to); }
  Result New(UnaryOp op, DataType from, DataType to, Scalar a) override {
    return make(op, from, to, a);
  }
  Result New(UnaryOp op, DataType from, DataType to, Scalar a, Scalar b) override {
    return make(op, from, to, a, b);
  }

 private:
  template <class... Attributes>
  Result make(UnaryOp op, DataType from, DataType to, Attributes... attributes) {
    const Operation operation = operation_of(op);
    if (is_done(operation, from, to, op)) return std::make_unique<Unary>(operation, from);
    return otherwise<primitive::ElementwiseUnaryFactory>(op, from, to, attributes...);
  }
};

class BroadcastUnaryFactory final : public primitive::BroadcastElementwiseUnaryFactory {
  using Result = std::unique_ptr<primitive::BroadcastElementwiseUnary>;

 public:
  Result New(UnaryOp op, DataType from, DataType to, size_t axes) override {
    return make(op, from, to, axes);
  }
  Result New(UnaryOp op, DataType from, DataType to, size_t axes, Scalar a) override {
    return make(op, from, to, axes, a);
  }
  Result New(UnaryOp op, DataType from, DataType to, size_t axes, Scalar a, Scalar b) override {
    return make(op, from, to, axes, a, b);
  }

 private:
  template <class... Attributes>
  Result make(UnaryOp op, DataType from, DataType to, size_t axes, Attributes... attributes) {
    if (op == UnaryOp::kIdentity && from == to && is_movable(from)) {
      return std::make_unique<BroadcastIdentity>(from);
    }
    return otherwise<primitive::BroadcastElementwiseUnaryFactory>(op, from, to, axes,
                                                                  attributes...);
  }
};

class BinaryFactory final : public primitive::BroadcastElementwiseBinaryFactory {
  using Result = std::unique_ptr<primitive::BroadcastElementwiseBinary>;

 public:
  Result New(BinaryOp op, DataType from, DataType to, size_t axes) override {
    return make(op, from, to, axes, Scalar(0));
  }
  Result New(BinaryOp op, DataType from, DataType to, size_t axes, Scalar a) override {
    return make(op, from, to, axes, a, a);
  }
  Result New(BinaryOp op, DataType from, DataType to, size_t axes, Scalar a, Scalar b) override {
    return make(op, from, to, axes, a, a, b);
  }

 private:
  template <class... Attributes>
  Result make(BinaryOp op, DataType from, DataType to, size_t axes, Scalar first,
              Attributes... attributes) {
    const Operation operation = operation_of(op);
    if (is_done(operation, from, to, op)) return std::make_unique<Binary>(operation, from, first);
    return otherwise<primitive::BroadcastElementwiseBinaryFactory>(op, from, to, axes,
                                                                   attributes...);
  }
};

}  // namespace

void replace_elementwise_primitives() {
  replace_factory<primitive::AddFactory, AddFactory>("AddFactory");
  replace_factory<primitive::ElementwiseUnaryFactory, UnaryFactory>("ElementwiseUnaryFactory");
  replace_factory<primitive::BroadcastElementwiseUnaryFactory, BroadcastUnaryFactory>(
      "BroadcastElementwiseUnaryFactory");
  replace_factory<primitive::BroadcastElementwiseBinaryFactory, BinaryFactory>(
      "BroadcastElementwiseBinaryFactory");
}

}  // namespace cuda
}  // namespace mae
