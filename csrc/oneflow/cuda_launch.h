// Launches of kernels on OneFlow's streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mae {
namespace cuda {

struct Grid {
  unsigned blocks, width, height;
  size_t shared = 0;  // bytes of dynamic shared memory
};

// A thread for each element, up to what keeps a GPU busy.
Grid grid_of_elements(int64_t n);
// A warp for each short row, a block for each long one: see first_row in common.cuh.
Grid grid_of_rows(int64_t rows, int64_t width);

// Runs kernels on the CPU instead, by a library that holds their text compiled with
// csrc/cuda/emulation.h. For tests. Throws std::runtime_error where it can't be loaded.
void emulate(const std::string& library);
bool is_emulated();

// Waits after each launch, so that an error names its kernel; MAE_CUDA_SYNC=1 in the environment.
void launch_list(void* stream, const char* file, const std::string& kernel, Grid grid,
                 void** arguments);

// Each argument must have the very type of the kernel's parameter: its bytes are passed.
template <class... Arguments>
void launch(void* stream, const char* file, const std::string& kernel, Grid grid,
            const Arguments&... arguments) {
  const void* list[] = {static_cast<const void*>(&arguments)...};
  launch_list(stream, file, kernel, grid, const_cast<void**>(list));
}

// A kernel whose first parameter is the number of elements, or of rows; none for 0 of them.
template <class... Arguments>
void launch_elements(void* stream, const char* file, const std::string& kernel, int64_t n,
                     const Arguments&... arguments) {
  if (n > 0) launch(stream, file, kernel, grid_of_elements(n), n, arguments...);
}
template <class... Arguments>
void launch_rows(void* stream, const char* file, const std::string& kernel, int64_t rows,
                 int64_t width, const Arguments&... arguments) {
  if (rows > 0) launch(stream, file, kernel, grid_of_rows(rows, width), rows, arguments...);
}

// Time that each kernel took, waiting for each: for benchmarks. Off until it is started.
void start_profile();
std::string stop_profile();

}  // namespace cuda
}  // namespace mae
