// NVIDIA's driver and run-time compiler, found when a GPU is used: this library is linked to
// neither, so it loads, and its tests run, where there is none.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace mae {
namespace cuda {

using DriverFunction = void*;  // CUfunction
using DriverModule = void*;    // CUmodule
using DriverContext = void*;   // CUcontext

struct Architecture {
  int major, minor;
  int number() const { return 10 * major + minor; }
};

// What a kernel's code must not go on from: a line on stderr, and the end of the process.
[[noreturn]] void fatal(const std::string& message);

// The calling thread's context: OneFlow makes that of the device current before it launches.
DriverContext current_context();
Architecture current_architecture();
DriverModule load_module(const std::string& image, const std::string& what);
DriverFunction find_function(DriverModule module, const std::string& name);
void launch_function(DriverFunction function, unsigned blocks, unsigned width, unsigned height,
                     size_t shared, void* stream, void** arguments, const std::string& name);
void synchronize(void* stream, const std::string& what);

// The run-time compiler. Folders to look into first are given once, before its first use.
void set_nvrtc_folders(const std::vector<std::string>& folders);
// "" if it can be loaded, else why not.
std::string nvrtc_problem();
std::string nvrtc_version();
// The architectures it has targets for, as 90 for 9.0, in ascending order.
std::vector<int> nvrtc_architectures();

struct Header {
  std::string name, text;
};

// Machine code ("--gpu-architecture=sm_90") or PTX ("compute_90") of a text. Throws
// std::runtime_error with the compiler's log.
std::string compile(const std::string& name, const std::string& text,
                    const std::vector<Header>& headers, const std::vector<std::string>& options);

}  // namespace cuda
}  // namespace mae
