// What the files share that register CUDA kernels for OneFlow's operators.
#pragma once

#include <set>
#include <string>

#include "cuda_launch.h"
#include "cuda_primitives.h"
#include "cuda_tensors.h"
#include "function_kernel.h"

namespace mae {
namespace cuda {

using Context = op::KernelComputeContext;
using Candidate = op::KernelRegContext;  // what a kernel is chosen for

// --- a kernel's arguments -----------------------------------------------------------------------

inline op::Tensor* tensor(Context* ctx, const char* name, int index = 0) {
  return ctx->Tensor4ArgNameAndIndex(name, index);
}
// Not dptr(): that checks the element type against void.
inline const void* input(Context* ctx, const char* name, int index = 0) {
  return tensor(ctx, name, index)->raw_dptr();
}
inline const void* optional_input(Context* ctx, const char* name) {
  return ctx->has_input(name, 0) ? input(ctx, name) : nullptr;
}
inline void* output(Context* ctx, const char* name) { return tensor(ctx, name)->mut_raw_dptr(); }
inline void* optional_output(Context* ctx, const char* name) {
  return ctx->has_output(name, 0) ? output(ctx, name) : nullptr;
}
inline DataType type_of(Context* ctx, const char* name) { return tensor(ctx, name)->data_type(); }
inline int64_t elements_of(Context* ctx, const char* name) {
  return tensor(ctx, name)->shape_view().elem_cnt();
}

template <class Shape>
Sizes sizes_of_shape(const Shape& shape) {
  Sizes sizes;
  for (int64_t axis = 0; axis < shape.NumAxes(); ++axis) sizes.push_back(shape.At(axis));
  return sizes;
}
inline Sizes sizes_of(Context* ctx, const char* name) {
  return sizes_of_shape(tensor(ctx, name)->shape_view());
}

// --- when a kernel is chosen --------------------------------------------------------------------

inline DataType type_of(const Candidate& ctx, const char* name) {
  const op::TensorDesc* description = ctx.TensorDesc4ArgNameAndIndex(name, 0);
  return description ? description->data_type() : DataType::kInvalidDataType;
}
inline bool is_index(DataType type) {
  return type == DataType::kInt32 || type == DataType::kInt64;
}
// A tensor that no other rank holds a part of: kernels here don't know how a tensor is split.
inline bool is_on_one_rank(const Candidate& ctx) { return ctx.parallel_ctx().parallel_num() == 1; }

using Match = bool (*)(const Candidate&);
using Compute = void (*)(Context*);

// Above OneFlow's own, which go up to 10; 100 would be passed over unless an environment variable
// asks for experiments.
constexpr int kPriority = op::kKernelPriorityExperimental - 1;

// What a kernel needs beside its function.
struct Needs {
  op::InferTmpSizeFn temporary = nullptr;
  op::InplaceProposalFn in_place = nullptr;
};

void add_kernel(const char* name, Match match, op::OpKernelCreateFn create, const Needs& needs);

template <Compute compute>
void add(const char* name, Match match, const Needs& needs = {}) {
  add_kernel(name, match, [] { return op::NewOpKernel<Kernel<compute>>(); }, needs);
}

// The operators that have kernels here.
const std::set<std::string>& own_operators();

void add_moving_operators();
void add_element_operators();
void add_row_operators();
void add_gather_operators();
void add_training_operators();

// Takes OneFlow's CUDA kernels out of the choice that have no code for this GPU, so that it says
// "no kernel found" and the operator's name; else the process aborts at some later call.
void refuse_kernels_without_code();

}  // namespace cuda
}  // namespace mae
