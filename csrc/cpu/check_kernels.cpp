// Runs every kernel of every instruction set that this processor has, on arrays that end where
// they must, for all classes of shapes, and compares the sets with one another. check.sh builds it
// with a sanitizer, which finds what reads or writes elsewhere, or two threads in one place.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels.h"

namespace mae {
extern const Kernels kernels_sse2, kernels_avx2, kernels_avx512;
}

namespace {

using mae::Kernels;

// A heap array of exactly n elements, so that a sanitizer sees one more.
struct Array {
  explicit Array(int64_t n, float scale = 1.0f) : n(n), data(new float[n]) {
    static uint32_t state = 1;
    for (int64_t i = 0; i < n; ++i) {
      state = state * 1664525u + 1013904223u;
      data[i] = scale * (static_cast<float>(state >> 8) / (1 << 23) - 1.0f);
    }
  }
  operator float*() const { return data.get(); }
  int64_t n;
  std::unique_ptr<float[]> data;
};

void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
          int64_t as, const float* b, int64_t bs, float* c, int64_t cs) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (int64_t p = 0; p < k; ++p) {
        sum += (ta ? a[p * as + i] : a[i * as + p]) * (tb ? b[j * bs + p] : b[p * bs + j]);
      }
      c[i * cs + j] = alpha * sum;
    }
  }
}

using Outputs = std::vector<std::unique_ptr<Array>>;

float* output(Outputs& outputs, int64_t n) {
  outputs.push_back(std::make_unique<Array>(n));
  return *outputs.back();
}

// All kernels on [rows, width], from the same inputs for every table.
void run(const Kernels& k, int64_t rows, int64_t width, const std::vector<Array*>& in,
         Outputs& out) {
  const int64_t n = rows * width;
  const float *x = *in[0], *dy = *in[1], *row = *in[2], *column = *in[3];
  k.gelu(n, x, output(out, n));
  k.gelu_grad(n, x, dy, output(out, n));
  float *mean = output(out, rows), *inverse = output(out, rows);
  for (const float* parameter : {row, static_cast<const float*>(nullptr)}) {
    k.layer_norm(rows, width, x, parameter, parameter, 1e-3, output(out, n), mean, inverse);
    k.layer_norm_grad(rows, width, dy, x, mean, inverse, parameter, parameter ? dy : nullptr,
                      output(out, n));
  }
  k.layer_norm_param_grad(rows, width, dy, x, mean, inverse, output(out, width),
                          output(out, width));
  if (width > 0) {
    float* y = output(out, n);
    k.softmax(rows, width, x, y);
    k.softmax_grad(rows, width, y, dy, output(out, n));
  }
  mae::AdamW settings{0.1f, 0.05f, 0.9f, 0.99f, 1e-3f, 0.1f, 0.01f, 1.0f, 0.01f, 0.02f};
  float *model = output(out, n), *m = output(out, n), *v = output(out, n);
  for (int64_t i = 0; i < n; ++i) model[i] = x[i], m[i] = dy[i], v[i] = x[i] * x[i];
  k.adamw(n, settings, dy, model, m, v);
  for (int inputs : {2, 4}) {
    const float* sources[] = {x, dy, dy, x};
    k.add_n(n, inputs, sources, output(out, n));
  }
  k.add_row(rows, width, x, row, output(out, n));
  k.multiply_row(rows, width, x, row, output(out, n));
  k.add_column(rows, width, x, column, output(out, n));
  k.subtract_column(rows, width, x, column, output(out, n));
  k.multiply_column(rows, width, x, column, output(out, n));
  k.divide_column(rows, width, x, column, output(out, n));
  k.sum_rows(rows, width, x, output(out, width));
  k.sum_columns(rows, width, x, output(out, rows));
  k.copy_strided({2, {width, rows}, {1, width}}, x, output(out, n));
  k.copy_strided({2, {rows, width}, {width, 1}}, x, output(out, n));
  if (width > 2) {
    float* part = output(out, rows * (width - 2));
    k.narrow(rows, width, 1, 1, width - 2, x, part);
    k.narrow_grad(rows, width, 1, 1, width - 2, part, output(out, n));
  }
  std::vector<int64_t> chosen, place;  // every third row is left out
  for (int64_t r = 0; r < rows; ++r) {
    place.push_back(r % 3 == 1 ? -1 : static_cast<int64_t>(chosen.size()));
    if (r % 3 != 1) chosen.push_back(r);
  }
  const int64_t count = chosen.size();
  float* taken = output(out, count * width);
  k.take_samples(count, width, chosen.data(), column, x, taken);
  k.add_samples(rows, width, place.data(), column, dy, taken, output(out, n));
}

void run_attention(const Kernels& k, const mae::AttentionSize& s, const Array& qkv,
                   const Array& dout, Outputs& out) {
  k.attention(s, gemm, qkv, output(out, dout.n));
  k.attention_grad(s, gemm, qkv, dout, output(out, qkv.n));
}

int failures = 0;

void compare(const char* name, const Outputs& ours, const Outputs& theirs) {
  for (size_t o = 0; o < ours.size(); ++o) {
    for (int64_t i = 0; i < ours[o]->n; ++i) {
      const float a = (*ours[o])[i], b = (*theirs[o])[i];
      if (std::isnan(a) && std::isnan(b)) continue;  // the mean of nothing
      if (!(std::fabs(a - b) <= 2e-4f * (1.0f + std::fabs(b)))) {
        std::printf("%s: output %zu differs at %lld: %g, %g\n", name, o,
                    static_cast<long long>(i), a, b);
        ++failures;
        return;
      }
    }
  }
}

}  // namespace

int main() {
  __builtin_cpu_init();
  std::vector<const Kernels*> tables = {&mae::kernels_sse2};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    tables.push_back(&mae::kernels_avx2);
  }
  if (&mae::kernels() == &mae::kernels_avx512) tables.push_back(&mae::kernels_avx512);
  const int64_t sizes[][2] = {{0, 5},   {4, 0},    {1, 1},     {1, 33},   {7, 1},
                              {3, 17},  {5, 64},   {2, 197},   {300, 65}, {130, 1030},
                              {1, 9000}, {2000, 40}};
  for (const auto& size : sizes) {
    const int64_t rows = size[0], width = size[1];
    Array x(rows * width), dy(rows * width), row(width), column(rows, 2.0f);
    for (int64_t i = 0; i < rows; ++i) column[i] += 3.0f;
    Outputs first;
    run(*tables[0], rows, width, {&x, &dy, &row, &column}, first);
    for (const Kernels* table : tables) {
      Outputs outputs;
      run(*table, rows, width, {&x, &dy, &row, &column}, outputs);
      compare(table->name, outputs, first);
    }
  }
  for (const mae::AttentionSize& s :
       {mae::AttentionSize{0, 3, 2, 4}, mae::AttentionSize{1, 1, 1, 1},
        mae::AttentionSize{2, 7, 3, 5}, mae::AttentionSize{3, 50, 2, 16}}) {
    Array qkv(s.samples * s.tokens * s.heads * 3 * s.head_size);
    Array dout(s.samples * s.tokens * s.heads * s.head_size);
    Outputs first;
    run_attention(*tables[0], s, qkv, dout, first);
    for (const Kernels* table : tables) {
      Outputs outputs;
      run_attention(*table, s, qkv, dout, outputs);
      compare(table->name, outputs, first);
    }
  }
  for (const Kernels* table : tables) std::printf("%s ", table->name);
  std::printf(failures ? "differ\n" : "agree\n");
  return failures != 0;
}
