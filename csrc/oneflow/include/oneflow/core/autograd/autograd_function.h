// OneFlow's package lacks this header of its own; the others name no more of it than this.
#pragma once

#include <functional>
#include <memory>

namespace oneflow {
namespace one {

class FunctionAutoGradCaptureState;
class TensorTuple;

struct AutogradFunctionBase {
  using FType = std::function<std::shared_ptr<TensorTuple>(
      const std::shared_ptr<FunctionAutoGradCaptureState>&, const TensorTuple&)>;
};

}  // namespace one
}  // namespace oneflow
