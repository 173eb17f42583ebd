// The library's entry points, which projects/MAE/runtime/cuda_kernels.py calls. Each returns null,
// or a message in words.
#include <stdexcept>

#include "cuda_compile.h"
#include "cuda_operators.h"
#include "oneflow/core/framework/user_op_registry_manager.h"

namespace mae {
namespace cuda {

bool& oneflow_has_code() {
  static bool value = false;
  return value;
}

oneflow::DeviceType& target_device() {
  static oneflow::DeviceType value = oneflow::DeviceType::kCUDA;
  return value;
}

namespace {
std::set<std::string>& operators_added() {
  static auto* names = new std::set<std::string>;
  return *names;
}
}  // namespace

const std::set<std::string>& own_operators() { return operators_added(); }

void add_kernel(const char* name, Match match, op::OpKernelCreateFn create, const Needs& needs) {
  auto& manager = op::UserOpRegistryMgr::Get();
  // An operator that has run before holds a pointer to its kernel's entry: the old vector stays.
  auto& entries = manager.op_kernel_reg_result_[name];
  auto* old = new auto(std::move(entries));
  entries = *old;
  const auto predicate =
      oneflow::hob::make_custom("NVRTC", [match](const op::KernelRegContext& ctx) -> bool {
        return ctx.device_type() == target_device() && match(ctx);
      });
  auto registry = manager.CheckAndGetOpKernelRegistry(name);
  registry.SetCreateFn(create).SetIsMatchedHob(predicate == true).SetPriority(kPriority);
  if (needs.temporary) registry.SetInferTmpSizeFn(needs.temporary);
  if (needs.in_place) registry.SetInplaceProposalFn(needs.in_place);
  CHECK_JUST(manager.Register(CHECK_JUST(registry.Finish()).GetResult()));
  operators_added().insert(name);
}

namespace {

void replace_everything() {
  replace_moving_primitives();
  replace_elementwise_primitives();
  replace_softmax_primitives();
  add_moving_operators();
  add_element_operators();
  add_row_operators();
  add_gather_operators();
  add_training_operators();
}

const char* message_of(const std::exception& error) {
  static std::string text;
  text = error.what();
  return text.c_str();
}

}  // namespace
}  // namespace cuda
}  // namespace mae

#define EXPORT extern "C" __attribute__((visibility("default")))

// cache: the folder of compiled code; nvrtc: folders with NVRTC, separated by colons.
EXPORT void mae_cuda_set_folders(const char* cache, const char* nvrtc) {
  mae::cuda::set_cache_folder(cache);
  std::vector<std::string> folders;
  std::string folder;
  for (const char* c = nvrtc;; ++c) {
    if (*c != ':' && *c != '\0') {
      folder += *c;
      continue;
    }
    if (!folder.empty()) folders.push_back(folder);
    folder.clear();
    if (*c == '\0') break;
  }
  mae::cuda::set_nvrtc_folders(folders);
}

// Why NVRTC can't be used, or null. After mae_cuda_set_folders.
EXPORT const char* mae_cuda_nvrtc_problem() {
  static const std::string problem = mae::cuda::nvrtc_problem();
  return problem.empty() ? nullptr : problem.c_str();
}

EXPORT const char* mae_cuda_nvrtc_version() {
  static const std::string version = mae::cuda::nvrtc_version();
  return version.c_str();
}

// Compiles what is not in the cache, for a GPU of compute capability major.minor; *compiled is how
// many files that were.
EXPORT const char* mae_cuda_compile(int major, int minor, int* compiled) {
  try {
    *compiled = mae::cuda::compile_all({major, minor});
    return nullptr;
  } catch (const std::exception& error) {
    return mae::cuda::message_of(error);
  }
}

// Takes the place of OneFlow's CUDA kernels. has_code: whether OneFlow's own run on this GPU; then
// they do what is not done here, else that is refused. Once, before the first operator.
EXPORT void mae_cuda_register(int has_code) {
  mae::cuda::oneflow_has_code() = has_code != 0;
  mae::cuda::replace_everything();
  if (!has_code) mae::cuda::refuse_kernels_without_code();
}

// For tests: the same on the CPU, with kernels from a library of emulated ones. has_code 0 refuses
// OneFlow's CPU kernels as it would those for CUDA.
EXPORT const char* mae_cuda_register_emulated(const char* library, int has_code) {
  try {
    mae::cuda::emulate(library);
    mae::cuda::target_device() = oneflow::DeviceType::kCPU;
    mae_cuda_register(has_code);
    return nullptr;
  } catch (const std::exception& error) {
    return mae::cuda::message_of(error);
  }
}

EXPORT void mae_cuda_start_profile() { mae::cuda::start_profile(); }

EXPORT const char* mae_cuda_stop_profile() {
  static std::string text;
  text = mae::cuda::stop_profile();
  return text.c_str();
}
