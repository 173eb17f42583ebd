// The primitives that move and fill: Fill, TensorFill, CopyNd, Permute, ConstantPad, and Cast.
#include "cuda_launch.h"
#include "cuda_primitives.h"
#include "cuda_tensors.h"
#include "oneflow/core/ep/include/primitive/cast.h"
#include "oneflow/core/ep/include/primitive/constant_pad.h"
#include "oneflow/core/ep/include/primitive/copy_nd.h"
#include "oneflow/core/ep/include/primitive/fill.h"
#include "oneflow/core/ep/include/primitive/permute.h"
#include "oneflow/core/ep/include/primitive/tensor_fill.h"

namespace mae {
namespace cuda {
namespace {

namespace primitive = oneflow::ep::primitive;

Sizes sizes_of(const int64_t* sizes, size_t axes) { return Sizes(sizes, sizes + axes); }

class Fill final : public primitive::Fill {
 public:
  explicit Fill(DataType type) : type_(type) {}
  void Launch(Stream* stream, void* y, Scalar value, size_t n) override {
    fill(stream, type_, value, n, y);
  }

 private:
  DataType type_;
};

class TensorFill final : public primitive::TensorFill {
 public:
  explicit TensorFill(DataType type) : type_(type) {}
  void Launch(Stream* stream, const void* value, void* y, size_t n) override {
    launch_elements(stream, "moving", kernel_name("fill_with", bytes_of(type_)), n, value, y);
  }

 private:
  DataType type_;
};

class CopyNd final : public primitive::CopyNd {
 public:
  void Launch(Stream* stream, DataType type, size_t axes, void* y, const int64_t* y_sizes,
              const int64_t* y_position, const void* x, const int64_t* x_sizes,
              const int64_t* x_position, const int64_t* extent) const override {
    const Sizes from = contiguous_strides(sizes_of(x_sizes, axes));
    const Sizes to = contiguous_strides(sizes_of(y_sizes, axes));
    int64_t x_offset = 0, y_offset = 0;
    for (size_t axis = 0; axis < axes; ++axis) {
      x_offset += from[axis] * x_position[axis];
      y_offset += to[axis] * y_position[axis];
    }
    const int bytes = bytes_of(type);
    copy_strided(stream, bytes, sizes_of(extent, axes), from, to, moved(x, x_offset * bytes),
                 moved(y, y_offset * bytes));
  }
};

class Permute final : public primitive::Permute {
 public:
  void Launch(Stream* stream, DataType type, size_t axes, const int64_t* x_sizes, const void* x,
              const int* permutation, void* y) override {
    const Sizes own = contiguous_strides(sizes_of(x_sizes, axes));
    Sizes sizes, from;
    for (size_t axis = 0; axis < axes; ++axis) {
      sizes.push_back(x_sizes[permutation[axis]]);
      from.push_back(own[permutation[axis]]);
    }
    copy_strided(stream, bytes_of(type), sizes, from, contiguous_strides(sizes), x, y);
  }
};

class ConstantPad final : public primitive::ConstantPad {
 public:
  explicit ConstantPad(DataType type) : type_(type) {}
  // Negative padding cuts.
  void Launch(Stream* stream, size_t axes, const int64_t* x_sizes, const void* x,
              const int64_t* before, const int64_t* after, Scalar value, void* y) override {
    Sizes result, extent;
    for (size_t axis = 0; axis < axes; ++axis) {
      result.push_back(x_sizes[axis] + before[axis] + after[axis]);
      const int64_t cut = std::min<int64_t>(before[axis], 0) + std::min<int64_t>(after[axis], 0);
      extent.push_back(std::max<int64_t>(x_sizes[axis] + cut, 0));
    }
    const Sizes from = contiguous_strides(sizes_of(x_sizes, axes));
    const Sizes to = contiguous_strides(result);
    int64_t x_offset = 0, y_offset = 0;
    for (size_t axis = 0; axis < axes; ++axis) {
      x_offset += std::max<int64_t>(-before[axis], 0) * from[axis];
      y_offset += std::max<int64_t>(before[axis], 0) * to[axis];
    }
    const int bytes = bytes_of(type_);
    fill(stream, type_, value, count_of(result), y);
    copy_strided(stream, bytes, extent, from, to, moved(x, x_offset * bytes),
                 moved(y, y_offset * bytes));
  }

 private:
  DataType type_;
};

class Cast final : public primitive::Cast {
 public:
  Cast(DataType from, DataType to)
      : kernel_(kernel_name("cast", from) + "_" + name_of(to)),
        packed_(kernel_name("cast_packed", from) + "_" + name_of(to)),
        has_packs_(is_float_and_half(from, to) || is_float_and_half(to, from)) {}
  void Launch(Stream* stream, const void* x, void* y, size_t n) override {
    const auto from = reinterpret_cast<uintptr_t>(x), to = reinterpret_cast<uintptr_t>(y);
    const bool aligned = from % 16 == 0 && to % 16 == 0;
    if (has_packs_ && aligned && n % 8 == 0) {
      launch_elements(stream, "cast", packed_, n / 8, x, y);
    } else {
      launch_elements(stream, "cast", kernel_, n, x, y);
    }
  }

 private:
  static bool is_float_and_half(DataType one, DataType other) {
    return one == DataType::kFloat &&
           (other == DataType::kFloat16 || other == DataType::kBFloat16);
  }

  std::string kernel_, packed_;
  bool has_packs_;
};

class FillFactory final : public primitive::FillFactory {
 public:
  std::unique_ptr<primitive::Fill> New(DataType type) override {
    if (is_movable(type)) return std::make_unique<Fill>(type);
    return otherwise<primitive::FillFactory>(type);
  }
};

class TensorFillFactory final : public primitive::TensorFillFactory {
 public:
  std::unique_ptr<primitive::TensorFill> New(DataType type) override {
    if (is_movable(type)) return std::make_unique<TensorFill>(type);
    return otherwise<primitive::TensorFillFactory>(type);
  }
};

class CopyNdFactory final : public primitive::CopyNdFactory {
 public:
  std::unique_ptr<primitive::CopyNd> New(size_t) override { return std::make_unique<CopyNd>(); }
};

class PermuteFactory final : public primitive::PermuteFactory {
 public:
  std::unique_ptr<primitive::Permute> New(size_t) override { return std::make_unique<Permute>(); }
};

class ConstantPadFactory final : public primitive::ConstantPadFactory {
 public:
  std::unique_ptr<primitive::ConstantPad> New(DataType type) override {
    if (is_movable(type)) return std::make_unique<ConstantPad>(type);
    return otherwise<primitive::ConstantPadFactory>(type);
  }
};

class CastFactory final : public primitive::CastFactory {
 public:
  std::unique_ptr<primitive::Cast> New(DataType from, DataType to) override {
    if (name_of(from) && name_of(to)) return std::make_unique<Cast>(from, to);
    return otherwise<primitive::CastFactory>(from, to);
  }
};

}  // namespace

void replace_moving_primitives() {
  replace_factory<primitive::FillFactory, FillFactory>("FillFactory");
  replace_factory<primitive::TensorFillFactory, TensorFillFactory>("TensorFillFactory");
  replace_factory<primitive::CopyNdFactory, CopyNdFactory>("CopyNdFactory");
  replace_factory<primitive::PermuteFactory, PermuteFactory>("PermuteFactory");
  replace_factory<primitive::ConstantPadFactory, ConstantPadFactory>("ConstantPadFactory");
  replace_factory<primitive::CastFactory, CastFactory>("CastFactory");
}

}  // namespace cuda
}  // namespace mae
