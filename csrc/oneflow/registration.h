// What the files that register kernels and operators share.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "function_kernel.h"
#include "oneflow/core/framework/framework.h"

namespace mae {

using oneflow::DataType;
using oneflow::DeviceType;
using oneflow::Maybe;

using Match = bool (*)(const op::KernelRegContext&);

inline bool all_float(const op::KernelRegContext& ctx) {
  const auto is_float = [&ctx](const std::vector<std::pair<std::string, int32_t>>& names) {
    return std::all_of(names.begin(), names.end(), [&ctx](const auto& name) {
      const op::TensorDesc* desc = ctx.TensorDesc4ArgNameAndIndex(name.first, name.second);
      return desc != nullptr && desc->data_type() == DataType::kFloat;
    });
  };
  return is_float(ctx.inputs()) && is_float(ctx.outputs());
}

void keep_entries(const std::string& name);

template <void (*compute)(op::KernelComputeContext*)>
void add(const char* name, Match match) {
  const auto predicate = oneflow::hob::make_custom(
      "native", [match](const op::KernelRegContext& ctx) -> bool {
        return ctx.device_type() == DeviceType::kCPU && match(ctx);
      });
  keep_entries(name);
  auto& manager = op::UserOpRegistryMgr::Get();
  auto registry = manager.CheckAndGetOpKernelRegistry(name);
  registry.SetCreateFn<Kernel<compute>>()
      .SetIsMatchedHob(predicate == true)
      .SetPriority(op::kKernelPriorityOptimized);
  CHECK_JUST(manager.Register(CHECK_JUST(registry.Finish()).GetResult()));
}

inline const float* input(op::KernelComputeContext* ctx, const std::string& name, int index = 0) {
  return ctx->Tensor4ArgNameAndIndex(name, index)->dptr<float>();
}
inline const float* optional_input(op::KernelComputeContext* ctx, const std::string& name) {
  return ctx->has_input(name, 0) ? input(ctx, name) : nullptr;
}
inline float* output(op::KernelComputeContext* ctx, const std::string& name) {
  return ctx->Tensor4ArgNameAndIndex(name, 0)->mut_dptr<float>();
}
inline float* optional_output(op::KernelComputeContext* ctx, const std::string& name) {
  return ctx->has_output(name, 0) ? output(ctx, name) : nullptr;
}
inline oneflow::ShapeView shape(op::KernelComputeContext* ctx, const std::string& name) {
  return ctx->Tensor4ArgNameAndIndex(name, 0)->shape_view();
}

void add_kernels();    // for OneFlow's operators
void add_operators();  // this library's own, with their kernels

}  // namespace mae
