#include "cuda_driver.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace mae {
namespace cuda {
namespace {

template <class F>
F symbol(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (found == nullptr) fatal(std::string("no function ") + name + " in NVIDIA's library");
  return reinterpret_cast<F>(found);
}

void* driver() {
  static void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) fatal("no libcuda.so.1: there is no driver of NVIDIA's here");
  return library;
}

template <class F>
F of_driver(const char* name) {
  return symbol<F>(driver(), name);
}

void check(int error, const std::string& what) {
  if (error == 0) return;
  const char* text = nullptr;
  of_driver<int (*)(int, const char**)>("cuGetErrorString")(error, &text);
  fatal(what + ": error " + std::to_string(error) + " of the CUDA driver (" +
        (text ? text : "unknown") + ")");
}

}  // namespace

void fatal(const std::string& message) {
  fprintf(stderr, "error: CUDA kernels: %s\n", message.c_str());
  fflush(stderr);
  abort();
}

DriverContext current_context() {
  static const auto current = of_driver<int (*)(DriverContext*)>("cuCtxGetCurrent");
  DriverContext context = nullptr;
  check(current(&context), "cuCtxGetCurrent");
  if (context == nullptr) fatal("a kernel was launched on a thread without a CUDA context");
  return context;
}

Architecture current_architecture() {
  constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
  int device = 0;
  Architecture found{0, 0};
  check(of_driver<int (*)(int*)>("cuCtxGetDevice")(&device), "cuCtxGetDevice");
  const auto attribute = of_driver<int (*)(int*, int, int)>("cuDeviceGetAttribute");
  check(attribute(&found.major, kMajor, device), "cuDeviceGetAttribute");
  check(attribute(&found.minor, kMinor, device), "cuDeviceGetAttribute");
  return found;
}

DriverModule load_module(const std::string& image, const std::string& what) {
  DriverModule module = nullptr;
  const auto load = of_driver<int (*)(DriverModule*, const void*)>("cuModuleLoadData");
  check(load(&module, image.c_str()), "loading the kernels of " + what);
  return module;
}

DriverFunction find_function(DriverModule module, const std::string& name) {
  DriverFunction function = nullptr;
  using Find = int (*)(DriverFunction*, DriverModule, const char*);
  const auto find = of_driver<Find>("cuModuleGetFunction");
  check(find(&function, module, name.c_str()), "kernel " + name);
  return function;
}

void launch_function(DriverFunction function, unsigned blocks, unsigned width, unsigned height,
                     size_t shared, void* stream, void** arguments, const std::string& name) {
  using Launch = int (*)(DriverFunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                         unsigned, void*, void**, void**);
  static const auto launch = of_driver<Launch>("cuLaunchKernel");
  const int error = launch(function, blocks, 1, 1, width, height, 1, static_cast<unsigned>(shared),
                           stream, arguments, nullptr);
  if (error != 0) check(error, "launching " + name);
}

void synchronize(void* stream, const std::string& what) {
  static const auto wait = of_driver<int (*)(void*)>("cuStreamSynchronize");
  check(wait(stream), what);
}

// --- NVRTC --------------------------------------------------------------------------------------

namespace {

// As its sonames are: that of all of CUDA 11.2 to 11.8 is 11.2.
const char* const kNames[] = {"libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so.11.2"};

struct Nvrtc {
  void* library = nullptr;
  std::string problem;
};

std::vector<std::string>& folders() {
  static auto* list = new std::vector<std::string>;
  return *list;
}

Nvrtc find_nvrtc() {
  Nvrtc found;
  const auto try_to_open = [&found](const std::string& path) {
    if (found.library != nullptr) return;
    found.library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (found.library == nullptr) found.problem = dlerror();
  };
  for (const auto& folder : folders()) {
    for (const char* name : kNames) try_to_open(folder + "/" + name);
  }
  for (const char* name : kNames) try_to_open(name);
  return found;
}

const Nvrtc& nvrtc() {
  static const Nvrtc found = find_nvrtc();
  return found;
}

template <class F>
F of_nvrtc(const char* name) {
  if (nvrtc().library == nullptr) throw std::runtime_error("no NVRTC: " + nvrtc().problem);
  return symbol<F>(nvrtc().library, name);
}

using Program = void*;

std::string text_of(Program program, const char* size_of, const char* get) {
  size_t size = 0;
  of_nvrtc<int (*)(Program, size_t*)>(size_of)(program, &size);
  std::string text(size, '\0');
  of_nvrtc<int (*)(Program, char*)>(get)(program, &text[0]);
  return text;
}

bool is_machine_code(const std::vector<std::string>& options) {
  for (const auto& option : options) {
    if (option.find("--gpu-architecture=sm_") == 0) return true;
  }
  return false;
}

}  // namespace

void set_nvrtc_folders(const std::vector<std::string>& list) { folders() = list; }

std::string nvrtc_problem() { return nvrtc().library != nullptr ? "" : nvrtc().problem; }

std::string nvrtc_version() {
  int major = 0, minor = 0;
  of_nvrtc<int (*)(int*, int*)>("nvrtcVersion")(&major, &minor);
  return std::to_string(major) + "." + std::to_string(minor);
}

std::vector<int> nvrtc_architectures() {
  int count = 0;
  of_nvrtc<int (*)(int*)>("nvrtcGetNumSupportedArchs")(&count);
  std::vector<int> list(count);
  of_nvrtc<int (*)(int*)>("nvrtcGetSupportedArchs")(list.data());
  return list;
}

std::string compile(const std::string& name, const std::string& text,
                    const std::vector<Header>& headers, const std::vector<std::string>& options) {
  std::vector<const char*> names, texts, given;
  for (const auto& header : headers) {
    names.push_back(header.name.c_str());
    texts.push_back(header.text.c_str());
  }
  for (const auto& option : options) given.push_back(option.c_str());
  using Create = int (*)(Program*, const char*, const char*, int, const char**, const char**);
  Program program = nullptr;
  if (of_nvrtc<Create>("nvrtcCreateProgram")(&program, text.c_str(), name.c_str(),
                                             static_cast<int>(headers.size()), texts.data(),
                                             names.data()) != 0) {
    throw std::runtime_error("NVRTC takes no program " + name);
  }
  using Compile = int (*)(Program, int, const char**);
  const int error = of_nvrtc<Compile>("nvrtcCompileProgram")(
      program, static_cast<int>(given.size()), given.data());
  std::string result;
  if (error != 0) {
    result = text_of(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
  } else if (is_machine_code(options)) {
    result = text_of(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN");
  } else {
    result = text_of(program, "nvrtcGetPTXSize", "nvrtcGetPTX");
  }
  of_nvrtc<int (*)(Program*)>("nvrtcDestroyProgram")(&program);
  if (error != 0) throw std::runtime_error("NVRTC can't compile " + name + ":\n" + result);
  return result;
}

}  // namespace cuda
}  // namespace mae
