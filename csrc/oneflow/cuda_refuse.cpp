// Which of OneFlow's own CUDA kernels may be chosen on a GPU that OneFlow has no code for.
//
// Symptom: a kernel without code fails with "no kernel image is available (209)", which nobody
// looks at; the process aborts at a later call, without naming the operator. So a kernel may be
// chosen there only if it is known to launch nothing of its own: it is built on primitives (of
// which those here stand in for OneFlow's), on cuBLAS or cuDNN, or it copies and fills memory.
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "cuda_operators.h"
#include "oneflow/core/framework/user_op_kernel_registry.h"
#include "oneflow/core/framework/user_op_registry_manager.h"

namespace mae {
namespace cuda {
namespace {

// By the sources of OneFlow 0.9.0, oneflow/user/kernels.
const char* const kWithoutCodeOfTheirOwn[] = {
    // primitives of one tensor
    "cast", "cast_like", "mutable_cast_once", "relu", "relu_grad", "gelu", "gelu_grad",
    "fast_gelu", "fast_gelu_grad", "quick_gelu", "quick_gelu_grad", "silu", "silu_grad", "tanh",
    "tanh_grad", "elu", "elu_grad", "celu", "celu_grad", "hardshrink", "hardshrink_grad",
    "hardsigmoid", "hardsigmoid_grad", "hardswish", "hardswish_grad", "hardtanh", "hardtanh_grad",
    "leaky_relu", "leaky_relu_grad", "mish", "mish_grad", "selu", "selu_grad", "softplus",
    "softplus_grad", "softshrink", "softshrink_grad", "softsign", "softsign_grad", "threshold",
    "threshold_grad", "trunc", "logical_not", "isfinite", "isinf", "isnan", "abs", "abs_grad",
    "acos", "acos_grad", "acosh", "acosh_grad", "asin", "asin_grad", "asinh", "asinh_grad", "atan",
    "atan_grad", "atanh", "atanh_grad", "ceil", "ceil_grad", "cos", "cos_grad", "cosh",
    "cosh_grad", "erf", "erf_grad", "erfc", "erfc_grad", "exp", "exp_grad", "expm1", "expm1_grad",
    "floor", "floor_grad", "lgamma", "lgamma_grad", "log", "log_grad", "log10", "log10_grad",
    "log1p", "log1p_grad", "log2", "log2_grad", "log_sigmoid", "log_sigmoid_grad", "negative",
    "negative_grad", "not_equal_zero", "reciprocal", "reciprocal_grad", "reciprocal_no_nan",
    "reciprocal_no_nan_grad", "rint", "rint_grad", "round", "round_grad", "rsqrt", "rsqrt_grad",
    "sigmoid", "sigmoid_grad", "sign", "sign_grad", "sin", "sin_grad", "sinh", "sinh_grad", "sqrt",
    "sqrt_grad", "square", "square_grad", "tan", "tan_grad", "softmax", "softmax_grad",
    "log_softmax", "log_softmax_grad", "pad", "transpose", "narrow", "narrow_grad", "expand",
    "scalar_add", "scalar_div", "scalar_floordiv", "scalar_fmod", "scalar_mul", "scalar_pow",
    "scalar_pow_grad", "scalar_reverse_pow", "scalar_reverse_pow_grad", "scalar_truncdiv",
    "scalar_logical_and", "scalar_logical_equal", "scalar_logical_greater",
    "scalar_logical_greater_equal", "scalar_logical_less", "scalar_logical_less_equal",
    "scalar_logical_not_equal", "scalar_logical_or", "scalar_logical_xor",
    // of several
    "add_n", "acc", "bias_add", "broadcast_add", "broadcast_div", "broadcast_equal",
    "broadcast_floor_mod", "broadcast_fmod", "broadcast_greater", "broadcast_greater_equal",
    "broadcast_isclose_eq_nan", "broadcast_isclose_neq_nan", "broadcast_less",
    "broadcast_less_equal", "broadcast_logical_and", "broadcast_logical_or",
    "broadcast_logical_xor", "broadcast_maximum", "broadcast_minimum", "broadcast_mul",
    "broadcast_not_equal", "broadcast_pow", "broadcast_sub", "scalar_add_by_tensor",
    "scalar_div_by_tensor", "scalar_mul_by_tensor", "scalar_sub_by_tensor", "split_like", "stack",
    "stack_grad", "same_padding", "same_padding_grad",
    // cuBLAS and cuDNN
    "matmul", "batch_matmul", "broadcast_matmul", "broadcast_matmul_grad_b", "dot",
    "matrix_vector_product", "matrix_vector_product_grad_a", "matrix_vector_product_grad_b",
    "vector_matrix_product", "vector_matrix_product_grad_a", "vector_matrix_product_grad_b",
    "conv1d", "conv2d", "conv3d", "conv_data_grad", "conv_filter_grad", "conv_bias_grad",
    // copied, filled, or nothing done at all
    "assign", "copy", "copy_d2h", "copy_h2d", "constant", "empty", "fill_", "fill_tensor_",
    "ones_like", "zero_like", "tensor_constant", "pack", "unpack", "tuple_identity", "identity",
    "identity_buffer", "amp_black_identity", "amp_white_identity", "expand_dims", "squeeze",
    "reshape", "reshape_like", "flatten", "hierarchical_parallel_cast",
    "hierarchical_parallel_cast_like", "parallel_cast", "pinned_identity", "cast_to_static_shape",
    "acc_ctrl_tick", "cast_to_tick", "repeat", "depend",
    // between ranks
    "eager_b_to_s", "eager_p_to_b", "eager_p_to_s", "eager_s_to_b", "eager_s_to_p", "eager_s_to_s",
    "eager_symmetric_s_to_p", "send", "recv", "eager_ccl_all_reduce", "eager_ccl_reduce",
    "eager_ccl_broadcast", "eager_ccl_touch", "eager_ccl_all_gather", "eager_ccl_reduce_scatter",
    "eager_ccl_s2s", "eager_nccl_all_reduce", "eager_nccl_broadcast", "eager_nccl_reduce",
    "eager_nccl_reduce_scatter", "eager_nccl_all_gather", "eager_nccl_s2s",
};

void keep_from_device(op::OpKernelRegistryResult* entry) {
  const auto inner = entry->is_matched_hob;
  const auto elsewhere = oneflow::hob::make_custom(
      "has code for this GPU", [inner](const op::KernelRegContext& ctx) -> bool {
        return ctx.device_type() != target_device() && inner->get(ctx);
      }) == true;
  entry->is_matched_hob = std::make_shared<std::decay_t<decltype(elsewhere)>>(elsewhere);
}

}  // namespace

void refuse_kernels_without_code() {
  std::set<std::string> may(std::begin(kWithoutCodeOfTheirOwn), std::end(kWithoutCodeOfTheirOwn));
  // Where CUDA is emulated, initial weights are still drawn by the CPU's own kernels.
  if (target_device() == oneflow::DeviceType::kCPU) may.insert({"uniform", "normal"});
  for (auto& named : op::UserOpRegistryMgr::Get().op_kernel_reg_result_) {
    const std::string& name = named.first;
    const bool nccl = name.find("nccl_logical") != std::string::npos;
    if (may.count(name) || nccl) continue;
    const bool own = own_operators().count(name) != 0;
    for (auto& entry : named.second) {
      if (!(own && entry.priority == kPriority)) keep_from_device(&entry);
    }
  }
}

}  // namespace cuda
}  // namespace mae
