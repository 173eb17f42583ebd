// A kernel for OneFlow that is a function of its context, on every kind of device.
#pragma once

#include "oneflow/core/framework/framework.h"

namespace mae {

namespace op = oneflow::user_op;

template <void (*compute)(op::KernelComputeContext*)>
class Kernel final : public op::OpKernel {
 public:
  Kernel() = default;
  ~Kernel() override = default;
  bool AlwaysComputeWhenAllOutputsEmpty() const override { return false; }

 private:
  using op::OpKernel::Compute;
  void Compute(op::KernelComputeContext* ctx) const override { compute(ctx); }
};

}  // namespace mae
