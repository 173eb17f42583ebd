// One way to share work among threads, for all kernels.
#pragma once

#include <cstdint>

#ifdef MAE_STANDARD_THREADS  // for a thread sanitizer, which does not understand OpenMP's barriers
#include <algorithm>
#include <thread>
#include <vector>
#endif

namespace mae {

// Calls body(i) for 0 <= i < count, consecutive ones on one thread. Threads take part where there
// are enough elements in all that they save more than they cost.
template <typename Body>
void parallel_for(int64_t count, int64_t elements, const Body& body) {
  constexpr int64_t enough = 1 << 15;
#ifdef MAE_STANDARD_THREADS
  const int64_t threads = elements > enough ? 3 : 1, share = (count + threads - 1) / threads;
  std::vector<std::thread> workers;
  for (int64_t t = 0; t < threads; ++t) {
    workers.emplace_back([=, &body] {
      for (int64_t i = t * share; i < std::min(count, (t + 1) * share); ++i) body(i);
    });
  }
  for (std::thread& worker : workers) worker.join();
#else
#pragma omp parallel for if (elements > enough) schedule(static)
  for (int64_t i = 0; i < count; ++i) body(i);
#endif
}

}  // namespace mae
