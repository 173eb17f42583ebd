// Types, scalars and strides of OneFlow's tensors as the kernels of csrc/cuda take them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "oneflow/core/common/data_type.h"
#include "oneflow/core/common/scalar.h"
#include "oneflow/core/ep/include/stream.h"

namespace mae {
namespace cuda {

namespace device {
#include "../cuda/parameters.h"
}

using oneflow::DataType;
using oneflow::Scalar;
using Stream = oneflow::ep::Stream;
using Sizes = std::vector<int64_t>;

// As kernels are named: "float32". Null for a type that none of them takes.
const char* name_of(DataType type);
// The bytes of an element, of any type that is moved: 0 for others.
int bytes_of(DataType type);
inline bool is_movable(DataType type) { return bytes_of(type) != 0; }
bool is_real(DataType type);   // float32, float64, float16, bfloat16
bool is_whole(DataType type);  // int8, uint8, int32, int64
inline bool is_number(DataType type) { return is_real(type) || is_whole(type); }

// "softmax_float32"; "copy_4".
std::string kernel_name(const char* kernel, DataType type);
std::string kernel_name(const char* kernel, int bytes);

// The bits of a scalar as a kernel's parameter: of the type itself, or of what it is computed in.
struct Bits {
  alignas(8) unsigned char bytes[8] = {};
};
Bits bits_of(const Scalar& value, DataType type);
Bits wide_bits_of(const Scalar& value, DataType type);

int64_t count_of(const Sizes& sizes);
Sizes contiguous_strides(const Sizes& sizes);
// Of a tensor of these sizes, whose last axis is the last of the result: 0 where it repeats.
Sizes broadcast_strides(const Sizes& sizes, const Sizes& result);

// Without axes of one element, and with neighbouring axes as one where both tensors allow it. Ends
// the process where more axes are left than kernels take.
device::Strides merged_strides(const Sizes& sizes, const Sizes& a, const Sizes& b);

// y at strides `to` becomes x at strides `from`; all in elements of so many bytes.
void copy_strided(Stream* stream, int bytes, const Sizes& sizes, const Sizes& from,
                  const Sizes& to, const void* x, void* y);
void fill(Stream* stream, DataType type, const Scalar& value, int64_t n, void* y);

inline const void* moved(const void* pointer, int64_t bytes) {
  return static_cast<const char*>(pointer) + bytes;
}
inline void* moved(void* pointer, int64_t bytes) { return static_cast<char*>(pointer) + bytes; }

}  // namespace cuda
}  // namespace mae
