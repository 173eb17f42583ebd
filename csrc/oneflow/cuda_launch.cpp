#include "cuda_launch.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda_compile.h"
#include "cuda_driver.h"

namespace mae {
namespace cuda {
namespace {

constexpr int64_t kThreads = 256, kMostBlocks = 8192;
constexpr int64_t kLongRow = 1024;  // from here on a block works on a row, not a warp

// emulation_launch of csrc/cuda/emulation.h.
using Emulator = int (*)(const char*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                         size_t, void**, char*, size_t);
Emulator emulator = nullptr;

// oneflow::ep::CudaStream::cuda_stream() const, which OneFlow exports; its header needs CUDA's.
void* cuda_stream_of(const void* stream) {
  static const auto get = reinterpret_cast<void* (*)(const void*)>(
      dlsym(RTLD_DEFAULT, "_ZNK7oneflow2ep10CudaStream11cuda_streamEv"));
  if (get == nullptr) fatal("this OneFlow has no CudaStream::cuda_stream");
  return get(stream);
}

// The functions of one file in one context.
struct Loaded {
  DriverModule module = nullptr;
  std::unordered_map<std::string, DriverFunction> functions;
};

DriverFunction function_of(const char* file, const std::string& kernel) {
  static std::mutex lock;
  static auto* modules = new std::map<std::pair<DriverContext, std::string>, Loaded>;
  const DriverContext context = current_context();
  const std::lock_guard<std::mutex> guard(lock);
  Loaded& loaded = (*modules)[{context, file}];
  if (loaded.module == nullptr) {
    try {
      loaded.module = load_module(image_of(file, current_architecture()), file);
    } catch (const std::runtime_error& error) {
      fatal(error.what());
    }
  }
  DriverFunction& function = loaded.functions[kernel];
  if (function == nullptr) function = find_function(loaded.module, kernel);
  return function;
}

// --- profile ------------------------------------------------------------------------------------

using Clock = std::chrono::steady_clock;
std::atomic<bool> profiling(false);
std::mutex profile_lock;
std::map<std::string, std::pair<double, int64_t>>& profile() {
  static auto* all = new std::map<std::string, std::pair<double, int64_t>>;
  return *all;
}

void add_to_profile(const std::string& kernel, Clock::time_point start) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const std::lock_guard<std::mutex> guard(profile_lock);
  auto& entry = profile()[kernel];
  entry.first += seconds;
  entry.second += 1;
}

}  // namespace

Grid grid_of_elements(int64_t n) {
  const int64_t blocks = std::min((n + kThreads - 1) / kThreads, kMostBlocks);
  return {static_cast<unsigned>(blocks), static_cast<unsigned>(kThreads), 1};
}

Grid grid_of_rows(int64_t rows, int64_t width) {
  constexpr int64_t kMostRows = 65535;
  if (width >= kLongRow) {
    return {static_cast<unsigned>(std::min(rows, kMostRows)), static_cast<unsigned>(kThreads), 1};
  }
  const unsigned height = kThreads / 32;
  return {static_cast<unsigned>(std::min((rows + height - 1) / height, kMostRows)), 32, height};
}

void emulate(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(dlerror());
  emulator = reinterpret_cast<Emulator>(dlsym(library, "emulation_launch"));
  if (emulator == nullptr) throw std::runtime_error(path + " is no library of emulated kernels");
}

bool is_emulated() { return emulator != nullptr; }

void launch_list(void* stream, const char* file, const std::string& kernel, Grid grid,
                 void** arguments) {
  if (is_emulated()) {
    char problem[2000] = "";
    if (emulator(kernel.c_str(), grid.blocks, 1, 1, grid.width, grid.height, 1, grid.shared,
                 arguments, problem, sizeof problem) != 0) {
      fatal(problem);
    }
    return;
  }
  static const bool waits = getenv("MAE_CUDA_SYNC") != nullptr;
  void* cuda_stream = cuda_stream_of(stream);
  const DriverFunction function = function_of(file, kernel);
  if (profiling) synchronize(cuda_stream, "what was launched before " + kernel);
  const auto start = Clock::now();
  launch_function(function, grid.blocks, grid.width, grid.height, grid.shared, cuda_stream,
                  arguments, kernel);
  if (profiling || waits) synchronize(cuda_stream, kernel);
  if (profiling) add_to_profile(kernel, start);
}

void start_profile() {
  const std::lock_guard<std::mutex> guard(profile_lock);
  profile().clear();
  profiling = true;
}

std::string stop_profile() {
  profiling = false;
  const std::lock_guard<std::mutex> guard(profile_lock);
  std::vector<std::pair<double, std::string>> order;
  double all = 0;
  for (const auto& entry : profile()) {
    order.push_back({entry.second.first, entry.first});
    all += entry.second.first;
  }
  std::sort(order.rbegin(), order.rend());
  char line[200];
  snprintf(line, sizeof line, "all %.2f ms:", all * 1e3);
  std::string text = line;
  for (const auto& entry : order) {
    snprintf(line, sizeof line, " %s %.2f ms / %lld;", entry.second.c_str(), entry.first * 1e3,
             static_cast<long long>(profile()[entry.second].second));
    text += line;
  }
  return text;
}

}  // namespace cuda
}  // namespace mae
