// The primitives of rows: softmax and log-softmax, forward and backward.
#include "cuda_launch.h"
#include "cuda_primitives.h"
#include "cuda_tensors.h"
#include "oneflow/core/ep/include/primitive/log_softmax.h"
#include "oneflow/core/ep/include/primitive/log_softmax_backward.h"
#include "oneflow/core/ep/include/primitive/softmax.h"
#include "oneflow/core/ep/include/primitive/softmax_backward.h"

namespace mae {
namespace cuda {
namespace {

namespace primitive = oneflow::ep::primitive;

template <class Base, int logarithm>
class Forward final : public Base {
 public:
  explicit Forward(DataType type) : kernel_(kernel_name("softmax", type)) {}
  void Launch(Stream* stream, size_t rows, size_t n, const void* x, void* y) override {
    const int64_t width = n;
    const int is_logarithm = logarithm;
    if (n > 0) launch_rows(stream, "softmax", kernel_, rows, width, width, is_logarithm, x, y);
  }

 private:
  std::string kernel_;
};

template <class Base, int logarithm>
class Backward final : public Base {
 public:
  explicit Backward(DataType type) : kernel_(kernel_name("softmax_grad", type)) {}
  void Launch(Stream* stream, size_t rows, size_t n, const void* y, const void* dy,
              void* dx) override {
    const int64_t width = n;
    const int is_logarithm = logarithm;
    if (n == 0) return;
    launch_rows(stream, "softmax", kernel_, rows, width, width, is_logarithm, y, dy, dx);
  }

 private:
  std::string kernel_;
};

template <class Base, class Primitive>
class Factory final : public Base {
 public:
  std::unique_ptr<typename Base::PrimitiveType> New(DataType type) override {
    if (is_real(type)) return std::make_unique<Primitive>(type);
    return otherwise<Base>(type);
  }
};

template <class Base, class Primitive>
void replace(const char* name) {
  replace_factory<Base, Factory<Base, Primitive>>(name);
}

}  // namespace

void replace_softmax_primitives() {
  replace<primitive::SoftmaxFactory, Forward<primitive::Softmax, 0>>("SoftmaxFactory");
  replace<primitive::LogSoftmaxFactory, Forward<primitive::LogSoftmax, 1>>("LogSoftmaxFactory");
  replace<primitive::SoftmaxBackwardFactory, Backward<primitive::SoftmaxBackward, 0>>(
      "SoftmaxBackwardFactory");
  replace<primitive::LogSoftmaxBackwardFactory, Backward<primitive::LogSoftmaxBackward, 1>>(
      "LogSoftmaxBackwardFactory");
}

}  // namespace cuda
}  // namespace mae
