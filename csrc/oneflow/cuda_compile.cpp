#include "cuda_compile.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "cuda_cache.h"

namespace mae {
namespace cuda {
namespace {

struct Text {
  const char *name, *text;
};

// Written by build.sh: kernel_texts and header_texts, each ended by a null name.
#include "embedded_kernels.inc"

std::string& cache_folder() {
  static auto* folder = new std::string;
  return *folder;
}

std::vector<Header> headers() {
  std::vector<Header> list;
  for (const Text* text = header_texts; text->name != nullptr; ++text) {
    list.push_back({text->name, text->text});
  }
  return list;
}

std::string text_of(const std::string& file) {
  for (const Text* text = kernel_texts; text->name != nullptr; ++text) {
    if (file == text->name) return text->text;
  }
  throw std::runtime_error("there is no file of kernels named " + file);
}

std::string target_of(Architecture architecture) {
  const auto known = nvrtc_architectures();
  for (const int number : known) {
    if (number == architecture.number()) return "sm_" + std::to_string(number);
  }
  int best = 0;  // what a newer GPU can run is the PTX of an older architecture
  for (const int number : known) {
    if (number < architecture.number()) best = number;
  }
  if (best == 0) {
    throw std::runtime_error("this NVRTC (" + nvrtc_version() + ") has no target for a GPU of " +
                             std::to_string(architecture.major) + "." +
                             std::to_string(architecture.minor));
  }
  return "compute_" + std::to_string(best);
}

std::string image_of(const std::string& file, Architecture architecture, bool* compiled) {
  const std::vector<std::string> options = {
      "--gpu-architecture=" + target_of(architecture), "--std=c++17", "--fmad=true"};
  const std::string text = text_of(file);
  std::string identity = nvrtc_version() + "\n" + file + "\n" + text;
  for (const auto& header : headers()) identity += "\n" + header.name + "\n" + header.text;
  for (const auto& option : options) identity += "\n" + option;
  const Cache cache(cache_folder());
  const std::string key = file + "-" + digest(identity);
  std::string image = cache.read(key);
  *compiled = image.empty();
  if (*compiled) {
    image = compile(file + ".cu", text, headers(), options);
    cache.write(key, image);
  }
  return image;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void set_cache_folder(const std::string& folder) { cache_folder() = folder; }

std::vector<std::string> kernel_files() {
  std::vector<std::string> names;
  for (const Text* text = kernel_texts; text->name != nullptr; ++text) names.push_back(text->name);
  return names;
}

std::string image_of(const std::string& file, Architecture architecture) {
  const auto start = std::chrono::steady_clock::now();
  bool compiled = false;
  const std::string image = image_of(file, architecture, &compiled);
  if (compiled) {
    fprintf(stderr, "CUDA kernels of %s compiled for %s in %.1f s\n", file.c_str(),
            target_of(architecture).c_str(), seconds_since(start));
  }
  return image;
}

int compile_all(Architecture architecture) {
  std::atomic<int> compiled(0);
  std::exception_ptr problem;
  std::mutex lock;
  std::vector<std::thread> threads;
  for (const auto& file : kernel_files()) {
    threads.emplace_back([&, file] {
      try {
        bool now = false;
        image_of(file, architecture, &now);
        compiled += now;
      } catch (...) {
        const std::lock_guard<std::mutex> guard(lock);
        problem = std::current_exception();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  if (problem) std::rethrow_exception(problem);
  return compiled;
}

}  // namespace cuda
}  // namespace mae
