#include "cuda_tensors.h"

#include <cstring>

#include "cuda_driver.h"
#include "cuda_launch.h"

namespace mae {
namespace cuda {

const char* name_of(DataType type) {
  switch (type) {
    case DataType::kBool: return "bool";
    case DataType::kInt8: return "int8";
    case DataType::kUInt8: return "uint8";
    case DataType::kInt32: return "int32";
    case DataType::kInt64: return "int64";
    case DataType::kFloat16: return "float16";
    case DataType::kBFloat16: return "bfloat16";
    case DataType::kFloat: return "float32";
    case DataType::kDouble: return "float64";
    default: return nullptr;
  }
}

int bytes_of(DataType type) {
  switch (type) {
    case DataType::kBool:
    case DataType::kChar:
    case DataType::kInt8:
    case DataType::kUInt8: return 1;
    case DataType::kInt16:
    case DataType::kUInt16:
    case DataType::kFloat16:
    case DataType::kBFloat16: return 2;
    case DataType::kInt32:
    case DataType::kUInt32:
    case DataType::kFloat: return 4;
    case DataType::kInt64:
    case DataType::kUInt64:
    case DataType::kDouble: return 8;
    default: return 0;
  }
}

bool is_real(DataType type) {
  return type == DataType::kFloat || type == DataType::kDouble || type == DataType::kFloat16 ||
         type == DataType::kBFloat16;
}

bool is_whole(DataType type) {
  return type == DataType::kInt8 || type == DataType::kUInt8 || type == DataType::kInt32 ||
         type == DataType::kInt64;
}

std::string kernel_name(const char* kernel, DataType type) {
  return std::string(kernel) + "_" + name_of(type);
}

std::string kernel_name(const char* kernel, int bytes) {
  return std::string(kernel) + "_" + std::to_string(bytes);
}

// --- scalars ------------------------------------------------------------------------------------

namespace {

template <class T>
Bits bits(T value) {
  Bits result;
  memcpy(result.bytes, &value, sizeof value);
  return result;
}

uint16_t bfloat16_bits(float value) {
  uint32_t b;
  memcpy(&b, &value, 4);
  if (value != value) return 0x7fff;
  return static_cast<uint16_t>((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}

}  // namespace

Bits bits_of(const Scalar& value, DataType type) {
  switch (type) {
    case DataType::kBool: return bits(value.As<double>() != 0);
    case DataType::kChar:
    case DataType::kInt8: return bits(static_cast<int8_t>(value.As<int64_t>()));
    case DataType::kUInt8: return bits(static_cast<uint8_t>(value.As<int64_t>()));
    case DataType::kInt16:
    case DataType::kUInt16: return bits(static_cast<int16_t>(value.As<int64_t>()));
    case DataType::kInt32:
    case DataType::kUInt32: return bits(static_cast<int32_t>(value.As<int64_t>()));
    case DataType::kInt64:
    case DataType::kUInt64: return bits(value.As<int64_t>());
    case DataType::kFloat16: return bits(static_cast<oneflow::float16>(value.As<float>()));
    case DataType::kBFloat16: return bits(bfloat16_bits(value.As<float>()));
    case DataType::kFloat: return bits(value.As<float>());
    case DataType::kDouble: return bits(value.As<double>());
    default: fatal("a scalar of a type that no kernel takes");
  }
}

Bits wide_bits_of(const Scalar& value, DataType type) {
  switch (type) {
    case DataType::kBool: return bits(static_cast<int32_t>(value.As<double>() != 0));
    case DataType::kFloat16:
    case DataType::kBFloat16: return bits(value.As<float>());
    case DataType::kInt8:
    case DataType::kUInt8: return bits(static_cast<int32_t>(value.As<int64_t>()));
    default: return bits_of(value, type);
  }
}

// --- strides ------------------------------------------------------------------------------------

int64_t count_of(const Sizes& sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return count;
}

Sizes contiguous_strides(const Sizes& sizes) {
  Sizes strides(sizes.size(), 1);
  for (int axis = static_cast<int>(sizes.size()) - 2; axis >= 0; --axis) {
    strides[axis] = strides[axis + 1] * sizes[axis + 1];
  }
  return strides;
}

Sizes broadcast_strides(const Sizes& sizes, const Sizes& result) {
  const Sizes own = contiguous_strides(sizes);
  const size_t missing = result.size() - sizes.size();
  Sizes strides(result.size(), 0);
  for (size_t axis = 0; axis < sizes.size(); ++axis) {
    if (sizes[axis] != 1) strides[axis + missing] = own[axis];
  }
  return strides;
}

device::Strides merged_strides(const Sizes& sizes, const Sizes& a, const Sizes& b) {
  device::Strides s;
  s.axes = 0;
  for (size_t axis = 0; axis < sizes.size(); ++axis) {
    if (sizes[axis] == 1) continue;
    const int last = s.axes - 1;
    const bool follows = last >= 0 && s.a[last] == a[axis] * sizes[axis] &&
                         s.b[last] == b[axis] * sizes[axis];
    if (follows) {
      s.size[last] *= sizes[axis];
      s.a[last] = a[axis];
      s.b[last] = b[axis];
      continue;
    }
    if (s.axes == device::MAX_AXES) fatal("a tensor with more than 8 axes that can't be merged");
    s.size[s.axes] = sizes[axis];
    s.a[s.axes] = a[axis];
    s.b[s.axes] = b[axis];
    ++s.axes;
  }
  return s;
}

namespace {

// How many elements can be moved as one: 1, 2, 4, ... so that they are of at most 16 bytes, lie
// together in both tensors, and are aligned there.
int elements_at_a_time(int bytes, const device::Strides& s, const void* x, const void* y) {
  const int last = s.axes - 1;
  if (last < 0 || s.a[last] != 1 || s.b[last] != 1) return 1;
  const auto fits = [&](int64_t factor) {
    const uintptr_t width = bytes * factor;
    if (reinterpret_cast<uintptr_t>(x) % width || reinterpret_cast<uintptr_t>(y) % width) {
      return false;
    }
    if (s.size[last] % factor) return false;
    for (int axis = 0; axis < last; ++axis) {
      if (s.a[axis] % factor || s.b[axis] % factor) return false;
    }
    return true;
  };
  int factor = 1;
  while (bytes * factor < 16 && fits(factor * 2)) factor *= 2;
  return factor;
}

}  // namespace

void copy_strided(Stream* stream, int bytes, const Sizes& sizes, const Sizes& from,
                  const Sizes& to, const void* x, void* y) {
  int64_t n = count_of(sizes);
  if (n == 0) return;
  device::Strides s = merged_strides(sizes, from, to);
  const int factor = elements_at_a_time(bytes, s, x, y);
  if (factor > 1) {
    n /= factor;
    const int last = s.axes - 1;
    s.size[last] /= factor;
    for (int axis = 0; axis < last; ++axis) {
      s.a[axis] /= factor;
      s.b[axis] /= factor;
    }
  }
  launch_elements(stream, "moving", kernel_name("copy", bytes * factor), n, s, x, y);
}

void fill(Stream* stream, DataType type, const Scalar& value, int64_t n, void* y) {
  const Bits bits = bits_of(value, type);
  launch_elements(stream, "moving", kernel_name("fill", bytes_of(type)), n, bits, y);
}

}  // namespace cuda
}  // namespace mae
