// From a file of csrc/cuda, by its name ("softmax"), to code for a GPU.
#pragma once

#include <string>
#include <vector>

#include "cuda_driver.h"

namespace mae {
namespace cuda {

// Where compiled code is kept; "" keeps none.
void set_cache_folder(const std::string& folder);

// The names of all files of kernels.
std::vector<std::string> kernel_files();

// Machine code for the architecture, or PTX of the newest one that the compiler knows where the
// GPU is newer. From the cache, or compiled now, which takes seconds and is said on stderr. Throws
// std::runtime_error.
std::string image_of(const std::string& file, Architecture architecture);

// The same for all files at once, on as many threads as there are files. Returns how many were
// compiled, the others being in the cache.
int compile_all(Architecture architecture);

}  // namespace cuda
}  // namespace mae
