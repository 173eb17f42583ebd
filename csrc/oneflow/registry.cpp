// Keeps what OneFlow has already looked up valid while kernels are added.
//
// Symptom: an operator that has run before holds a pointer to the entry of its kernel in a vector
// of OneFlow's registry; a kernel that is added moves the entries, and the operator's next use
// crashes (`StatefulOpKernel::ChooseOpKernel`). So the old entries stay, and copies are added to.
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "oneflow/core/framework/user_op_kernel_registry.h"
#include "oneflow/core/framework/user_op_registry.h"
#define private public  // the vectors have no other way in
#include "oneflow/core/framework/user_op_registry_manager.h"
#undef private
#include "registration.h"

namespace mae {

void keep_entries(const std::string& name) {
  auto& entries = op::UserOpRegistryMgr::Get().op_kernel_reg_result_[name];
  auto* old = new auto(std::move(entries));  // never freed: what points there has no owner
  entries = *old;
}

}  // namespace mae
