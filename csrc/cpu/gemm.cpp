// See gemm.h. Either CBLAS of the library that answers first, a preloaded one or the one inside
// OneFlow, which shares a product among threads itself; or OpenBLAS, once it was asked for, whose
// calls compute on the thread that makes them, so that no threads but ours compete for the cores.
#include "gemm.h"

#include <dlfcn.h>
#include <omp.h>

#include <algorithm>
#include <string>

#include "parallel.h"

namespace mae {
namespace {

using Sgemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int,
                       float, float*, int);

Sgemm openblas = nullptr;

// How a product [m, n] is cut: parts of its rows, and of its columns.
struct Grid {
  int64_t rows, columns;
};

constexpr int64_t kUnit = 16;  // rows or columns that a part is a multiple of, but for the last

// OpenBLAS computes products of up to 10^6 multiplications in another order, so a larger one is not
// cut into such: the result would depend on the number of threads.
constexpr double kSmallest = 2e6;

int64_t part_size(int64_t length, int64_t parts) {
  const int64_t units = (length + kUnit - 1) / kUnit;
  return (units + parts - 1) / parts * kUnit;
}

bool is_fair(int64_t length, int64_t parts) {
  return parts == 1 || (parts - 1) * part_size(length, parts) + kUnit <= length;
}

// The smallest part, which is the last one.
double work(int64_t m, int64_t n, int64_t k, const Grid& g) {
  const int64_t rows = m - (g.rows - 1) * part_size(m, g.rows);
  const int64_t columns = n - (g.columns - 1) * part_size(n, g.columns);
  return static_cast<double>(rows) * columns * k;
}

// One part for each thread, or fewer. A part packs its rows and its columns before it multiplies
// them; columns, of which OpenBLAS packs few at a time, cost less (measured on AVX-512: a quarter).
Grid best_grid(int64_t m, int64_t n, int64_t k, int64_t threads) {
  Grid best = {1, 1};
  for (int64_t parts = threads; parts > 1 && best.rows * best.columns == 1; --parts) {
    int64_t lowest = INT64_MAX;
    for (int64_t rows = 1; rows <= parts; ++rows) {
      const Grid grid = {rows, parts / rows};
      if (parts % rows || !is_fair(m, grid.rows) || !is_fair(n, grid.columns)) continue;
      if (work(m, n, k, grid) < kSmallest) continue;
      const int64_t cost = 4 * part_size(m, grid.rows) + part_size(n, grid.columns);
      if (cost < lowest) lowest = cost, best = grid;
    }
  }
  return best;
}

}  // namespace

void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
          const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c,
          int64_t c_stride, float beta) {
  static const auto first = reinterpret_cast<Sgemm>(dlsym(RTLD_DEFAULT, "cblas_sgemm"));
  constexpr int row_major = 101, no_transpose = 111, transpose = 112;
  if (m == 0 || n == 0) return;
  a_stride = std::max<int64_t>(1, a_stride);  // 0 of no columns is refused
  const auto call = [=](Sgemm sgemm, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    sgemm(row_major, transpose_a ? transpose : no_transpose,
          transpose_b ? transpose : no_transpose, rows, columns, k, alpha,
          a + row * (transpose_a ? 1 : a_stride), a_stride,
          b + column * (transpose_b ? b_stride : 1), b_stride, beta,
          c + row * c_stride + column, c_stride);
  };
  if (!openblas) return call(first, 0, m, 0, n);
  if (omp_in_parallel()) return call(openblas, 0, m, 0, n);
  const Grid grid = best_grid(m, n, k, omp_get_max_threads());
  const int64_t rows = part_size(m, grid.rows), columns = part_size(n, grid.columns);
  const int64_t parts = grid.rows * grid.columns;
  parallel_for(parts, parts > 1 ? m * n * k : 0, [&](int64_t part) {
    const int64_t row = part / grid.columns * rows, column = part % grid.columns * columns;
    call(openblas, row, std::min(rows, m - row), column, std::min(columns, n - column));
  });
}

}  // namespace mae

// Let OpenBLAS in this file compute; it must have been built for any number of callers (pthreads).
// Returns null, or why it can't.
extern "C" __attribute__((visibility("default"))) const char* mae_use_openblas(const char* path,
                                                                               const char* prefix) {
  static std::string error;
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return (error = dlerror()).c_str();
  const std::string names(prefix);
  const auto sgemm = dlsym(library, (names + "cblas_sgemm").c_str());
  const auto set_threads = dlsym(library, (names + "openblas_set_num_threads").c_str());
  if (!sgemm || !set_threads) return (error = names + "cblas_sgemm is not there").c_str();
  reinterpret_cast<void (*)(int)>(set_threads)(1);
  mae::openblas = reinterpret_cast<mae::Sgemm>(sgemm);
  return nullptr;
}
