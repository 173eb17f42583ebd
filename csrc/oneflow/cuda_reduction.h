// Sums of a tensor over axes, in parts: how they are cut, and their launches.
#pragma once

#include "cuda_tensors.h"

namespace mae {
namespace cuda {

// How many parts a sum is cut into: enough threads to fill a GPU, and `least` elements for each.
int64_t parts_of(int64_t elements, int64_t sums, int64_t least, int64_t wanted);

// The shape alone decides, so that two runs add in the same order, and the size of the temporary
// buffer can be told before.
struct ReductionPlan {
  Sizes kept_sizes, kept_strides, gone_sizes, gone_strides;
  int64_t results, gone;  // results, and elements for each
  int64_t parts, chunk;   // of `gone`
  bool by_columns;

  ReductionPlan(const Sizes& sizes, const std::vector<int32_t>& axes);
  int64_t temporary_bytes() const { return parts > 1 ? parts * results * 8 : 0; }
};

// `operation`: "sum", "max" or "min"; temporary: of at least as many bytes as the plan says.
void reduce(Stream* stream, const char* operation, DataType type, const ReductionPlan& plan,
            const void* x, void* temporary, void* y);

// y [results] = the sums of part [parts, results], which is of the type that sums are made in.
void add_parts(Stream* stream, const char* operation, DataType type, int64_t results,
               int64_t parts, const void* part, void* y);

}  // namespace cuda
}  // namespace mae
