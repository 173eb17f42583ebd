// How a factory of OneFlow's primitives is replaced.
//
// Most operators are built on `ep::primitive` factories, of which OneFlow keeps one for each kind
// and device. What the replacement does not do it leaves to the factory that was there, where
// OneFlow has code for this GPU; elsewhere it returns null, which makes OneFlow say that there is
// no kernel, before anything aborts.
#pragma once

#include <dlfcn.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "cuda_driver.h"
#include "oneflow/core/common/auto_registration_factory.h"
#include "oneflow/core/common/device_type.h"

namespace mae {
namespace cuda {

// Whether OneFlow's own kernels run on this GPU.
bool& oneflow_has_code();
// kCUDA; kCPU where kernels are emulated.
oneflow::DeviceType& target_device();

template <class Factory>
std::function<Factory*()>& original_factory() {
  static auto* creator = new std::function<Factory*()>;
  return *creator;
}

template <class Factory, class... Arguments>
std::unique_ptr<typename Factory::PrimitiveType> otherwise(Arguments&&... arguments) {
  if (!oneflow_has_code() || !original_factory<Factory>()) return nullptr;
  const std::unique_ptr<Factory> factory(original_factory<Factory>()());
  return factory->New(std::forward<Arguments>(arguments)...);
}

// The registry of a kind of factory is a static object in an inline function. This library, whose
// symbols are hidden, has a copy of its own, so OneFlow's is looked up by its exported name.
template <class Factory, class Replacement>
void replace_factory(const char* name) {
  using Registry = oneflow::AutoRegistrationFactory<oneflow::DeviceType, Factory>;
  const std::string symbol =
      "_ZZN7oneflow23AutoRegistrationFactoryINS_10DeviceTypeENS_2ep9primitive" +
      std::to_string(strlen(name)) + name + "EJEE3GetEvE3obj";
  auto* registry = static_cast<Registry*>(dlsym(RTLD_DEFAULT, symbol.c_str()));
  if (registry == nullptr || !registry->creators_) {
    fatal(std::string("this OneFlow has no registry of ") + name);
  }
  auto& creator = (*registry->creators_)[target_device()];
  original_factory<Factory>() = creator;
  creator = []() -> Factory* { return new Replacement; };
}

void replace_moving_primitives();
void replace_elementwise_primitives();
void replace_softmax_primitives();

}  // namespace cuda
}  // namespace mae
