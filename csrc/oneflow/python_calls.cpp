// Runs one of the library's own operators on OneFlow tensors, called from Python with ctypes.
//
// OneFlow 0.9 has no such call. The headers of Python and of OneFlow's Python module are not in
// its package; all that is needed of them is what a Python tensor looks like.
#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "oneflow/core/framework/op_builder.h"
#include "oneflow/core/framework/op_interpreter.h"

namespace oneflow {
namespace one {

// The header of this class includes others that are not in the package.
class OpInterpUtil {
 public:
  static Maybe<void> Dispatch(const OpExpr& op, const TensorTuple& inputs, TensorTuple* outputs,
                              const OpExprInterpContext& context);
};

}  // namespace one
}  // namespace oneflow

namespace {

namespace one = oneflow::one;

struct PythonTensor {
  void* head[2];  // the reference count and the type
  std::shared_ptr<one::Tensor> data;
};

// oneflow::one::PyTensor_New of OneFlow's Python module, whose result is a new reference.
void* (*new_python_tensor)(const std::shared_ptr<one::Tensor>& data);

thread_local one::TensorTuple outputs;
thread_local std::string error;

// Strings and how many, as ctypes passes them.
struct Names {
  int count;
  const char* const* name;
};

std::string bits(double value) {
  int64_t number;
  std::memcpy(&number, &value, sizeof(number));
  return std::to_string(number);
}

// Operators are made once for each kind of call, as OneFlow makes its own.
std::shared_ptr<one::UserOpExpr> find_operator(const std::string& type, const Names& inputs,
                                               const Names& outputs, const Names& attributes,
                                               const int64_t* values, const Names& reals,
                                               const double* real_values) {
  // Never destroyed: at exit, OneFlow is gone first. Python's lock guards it.
  static auto& known = *new std::map<std::string, std::shared_ptr<one::UserOpExpr>>;
  std::string key = type;
  for (int i = 0; i < inputs.count; ++i) key += std::string(" ") + inputs.name[i];
  for (int i = 0; i < attributes.count; ++i) {
    key += std::string(" ") + attributes.name[i] + "=" + std::to_string(values[i]);
  }
  for (int i = 0; i < reals.count; ++i) {
    key += std::string(" ") + reals.name[i] + "=" + bits(real_values[i]);
  }
  auto& found = known[key];
  if (!found) {
    one::OpBuilder builder(type);
    for (int i = 0; i < inputs.count; ++i) builder.Input(inputs.name[i]);
    for (int i = 0; i < outputs.count; ++i) builder.Output(outputs.name[i]);
    for (int i = 0; i < attributes.count; ++i) {
      builder.Attr<int64_t>(attributes.name[i], values[i]);
    }
    for (int i = 0; i < reals.count; ++i) {
      builder.Attr<double>(reals.name[i], real_values[i]);
    }
    found = builder.Build().GetPtrOrThrow();
  }
  return found;
}

}  // namespace

#define MAE_EXPORT extern "C" __attribute__((visibility("default")))

// Takes the address of that function, before mae_output is called.
MAE_EXPORT void mae_set_new_tensor(void* function) {
  new_python_tensor = reinterpret_cast<decltype(new_python_tensor)>(function);
}

// Returns null, or what went wrong. The results wait for mae_output on this thread.
MAE_EXPORT const char* mae_call(const char* type, Names input_names, PythonTensor* const* inputs,
                                Names output_names, Names attributes, const int64_t* values,
                                Names reals, const double* real_values) {
  try {
    one::TensorTuple tensors(input_names.count);
    for (int i = 0; i < input_names.count; ++i) tensors[i] = inputs[i]->data;
    outputs = one::TensorTuple(output_names.count);
    const auto op = find_operator(type, input_names, output_names, attributes, values,
                                  reals, real_values);
    one::OpInterpUtil::Dispatch(*op, tensors, &outputs, oneflow::AttrMap{}).GetOrThrow();
    return nullptr;
  } catch (const std::exception& exception) {
    outputs.clear();
    error = exception.what();
    return error.c_str();
  }
}

// The result of that index as a Python tensor, a new reference. Nothing is kept: what a tensor holds
// for its backward pass must not outlive Python.
MAE_EXPORT void* mae_output(int index) {
  const std::shared_ptr<one::Tensor> tensor = std::move(outputs[index]);
  return new_python_tensor(tensor);
}
