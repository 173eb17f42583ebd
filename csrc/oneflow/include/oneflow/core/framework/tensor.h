// In place of OneFlow's header of that name, which includes others that are not in its package. A
// tensor is only passed on here.
#pragma once

#include "oneflow/core/common/util.h"

namespace oneflow {
namespace one {

class Tensor;

}  // namespace one
}  // namespace oneflow
