// Operators that move, choose or broadcast elements.
#include "cuda_operators.h"

namespace mae {
namespace cuda {
namespace {

void broadcast_like(Context* ctx) {
  const Sizes to = sizes_of(ctx, "y");
  Sizes from = to;
  for (const int32_t axis : ctx->Attr<std::vector<int32_t>>("broadcast_axes")) {
    from[axis < 0 ? axis + to.size() : axis] = 1;
  }
  copy_strided(ctx->stream(), bytes_of(type_of(ctx, "y")), to, broadcast_strides(from, to),
               contiguous_strides(to), input(ctx, "x"), output(ctx, "y"));
}

// A slice of a tensor, in elements of it: where it begins and its strides.
struct Slice {
  int64_t first = 0;
  Sizes sizes, strides;
};

// own: the strides of the large tensor.
Slice slice_of(Context* ctx, const char* large, const char* small, const Sizes& own) {
  const Sizes whole = sizes_of(ctx, large);
  const auto& start = ctx->Attr<std::vector<int64_t>>("start");
  const auto& step = ctx->Attr<std::vector<int64_t>>("step");
  Slice slice;
  slice.sizes = sizes_of(ctx, small);
  if (slice.sizes.empty()) slice.sizes.push_back(1);  // one element of a row
  for (size_t axis = 0; axis < whole.size(); ++axis) {
    const int64_t from = start[axis] < 0 ? start[axis] + whole[axis] : start[axis];
    const int64_t last = step[axis] < 0 ? whole[axis] - 1 : whole[axis];
    slice.first += std::min(std::max<int64_t>(from, 0), last) * own[axis];
    slice.strides.push_back(step[axis] * own[axis]);
  }
  return slice;
}

void slice(Context* ctx) {
  if (elements_of(ctx, "y") == 0) return;
  const Slice part = slice_of(ctx, "x", "y", contiguous_strides(sizes_of(ctx, "x")));
  const int bytes = bytes_of(type_of(ctx, "x"));
  copy_strided(ctx->stream(), bytes, part.sizes, part.strides, contiguous_strides(part.sizes),
               moved(input(ctx, "x"), part.first * bytes), output(ctx, "y"));
}

void write_slice(Context* ctx, const char* large, const char* small, const Sizes& large_strides,
                 const Sizes& small_strides) {
  if (elements_of(ctx, small) == 0) return;
  const Slice part = slice_of(ctx, large, small, large_strides);
  const int bytes = bytes_of(type_of(ctx, large));
  copy_strided(ctx->stream(), bytes, part.sizes, small_strides, part.strides, input(ctx, small),
               moved(output(ctx, large), part.first * bytes));
}

void slice_grad(Context* ctx) {
  fill(ctx->stream(), type_of(ctx, "dx"), Scalar(0), elements_of(ctx, "dx"), output(ctx, "dx"));
  Sizes small = sizes_of(ctx, "dy");
  if (small.empty()) small.push_back(1);
  write_slice(ctx, "dx", "dy", contiguous_strides(sizes_of(ctx, "dx")), contiguous_strides(small));
}

Sizes own_strides(Context* ctx, const char* name) {
  const auto& given = tensor(ctx, name)->stride();
  return Sizes(given.begin(), given.end());
}

// The one operator here that is given tensors as they lie: views with strides of their own.
void slice_update(Context* ctx) {
  if (input(ctx, "ref") != output(ctx, "y")) {
    copy_strided(ctx->stream(), bytes_of(type_of(ctx, "y")), sizes_of(ctx, "y"),
                 own_strides(ctx, "ref"), own_strides(ctx, "y"), input(ctx, "ref"),
                 output(ctx, "y"));
  }
  Sizes value = own_strides(ctx, "value");
  if (value.empty()) value.push_back(1);
  write_slice(ctx, "y", "value", own_strides(ctx, "y"), value);
}

void concat(Context* ctx) {
  const auto shape = tensor(ctx, "out")->shape_view();
  if (shape.elem_cnt() == 0) return;
  const int64_t columns = shape.Count(ctx->Attr<int64_t>("axis"));
  const int64_t rows = shape.elem_cnt() / columns;
  const int bytes = bytes_of(type_of(ctx, "out"));
  int64_t done = 0;
  for (size_t i = 0; i < ctx->inputs().size(); ++i) {
    const int64_t own = tensor(ctx, "in", i)->shape_view().elem_cnt() / rows;
    if (own == 0) continue;
    copy_strided(ctx->stream(), bytes, {rows, own}, {own, 1}, {columns, 1}, input(ctx, "in", i),
                 moved(output(ctx, "out"), done * bytes));
    done += own;
  }
}

void to_contiguous(Context* ctx) {
  const Sizes sizes = sizes_of(ctx, "in");
  copy_strided(ctx->stream(), bytes_of(type_of(ctx, "in")), sizes, own_strides(ctx, "in"),
               contiguous_strides(sizes), input(ctx, "in"), output(ctx, "out"));
}

// --- where --------------------------------------------------------------------------------------

enum Side { kNone, kX, kY };  // which of the two is a number

Scalar scalar_operand(Context* ctx) {
  if (ctx->Attr<bool>("has_int_operand")) return Scalar(ctx->Attr<int64_t>("int_operand"));
  if (ctx->Attr<bool>("has_float_operand")) return Scalar(ctx->Attr<double>("float_operand"));
  return Scalar(ctx->Attr<bool>("bool_operand"));
}

template <Side scalar>
void where(Context* ctx) {
  const DataType type = type_of(ctx, "out");
  const Sizes sizes = sizes_of(ctx, "out");
  const auto strides_of = [&](const char* name) {
    return broadcast_strides(sizes_of(ctx, name), sizes);
  };
  const Sizes none(sizes.size(), 0);
  const Sizes x_strides = scalar == kX ? none : strides_of("x");
  const Sizes y_strides = scalar == kY ? none : strides_of("y");
  const auto values = merged_strides(sizes, x_strides, y_strides);
  const auto of_condition = merged_strides(sizes, strides_of("condition"), none);
  const Bits number = scalar == kNone ? Bits() : bits_of(scalar_operand(ctx), type);
  const void* condition = input(ctx, "condition");
  const void* x = scalar == kX ? nullptr : input(ctx, "x");
  const void* y = scalar == kY ? nullptr : input(ctx, "y");
  void* z = output(ctx, "out");
  launch_elements(ctx->stream(), "moving", kernel_name("where", bytes_of(type)), count_of(sizes),
                  values, of_condition, condition, number, number, x, y, z);
}

bool where_matches(const Candidate& ctx) {
  return type_of(ctx, "condition") == DataType::kBool && is_movable(type_of(ctx, "out"));
}

// --- assignment ---------------------------------------------------------------------------------

template <int wanted>
void assign_if(Context* ctx) {
  const int is_wanted = wanted, is_int64 = type_of(ctx, "condition") == DataType::kInt64;
  const void *condition = input(ctx, "condition"), *x = input(ctx, "value");
  void* y = output(ctx, "ref");
  if (x == y) return;
  launch_elements(ctx->stream(), "moving",
                  kernel_name("assign_if", bytes_of(type_of(ctx, "value"))),
                  elements_of(ctx, "ref"), is_wanted, is_int64, condition, x, y);
}

bool assign_if_matches(const Candidate& ctx) {
  return is_index(type_of(ctx, "condition")) && is_movable(type_of(ctx, "value"));
}

}  // namespace

void add_moving_operators() {
  add<broadcast_like>("broadcast_like",
                      [](const Candidate& ctx) { return is_movable(type_of(ctx, "y")); });
  add<slice>("slice", [](const Candidate& ctx) {
    return is_on_one_rank(ctx) && is_movable(type_of(ctx, "x"));
  });
  add<slice_grad>("slice_grad", [](const Candidate& ctx) {
    return is_on_one_rank(ctx) && is_movable(type_of(ctx, "dx"));
  });
  Needs in_place;
  in_place.in_place = [](const op::InferContext&,
                         const op::AddInplaceArgPair pair) -> oneflow::Maybe<void> {
    return pair("y", 0, "ref", 0, true);
  };
  add<slice_update>("slice_update", [](const Candidate& ctx) {
    return is_on_one_rank(ctx) && is_movable(type_of(ctx, "ref"));
  }, in_place);
  add<concat>("concat", [](const Candidate& ctx) { return is_movable(type_of(ctx, "out")); });
  add<to_contiguous>("to_contiguous",
                     [](const Candidate& ctx) { return is_movable(type_of(ctx, "in")); });
  add<where<kNone>>("where", where_matches);
  add<where<kX>>("where_scalar_x", where_matches);
  add<where<kY>>("where_scalar_y", where_matches);
  add<assign_if<1>>("assign_if", assign_if_matches);
  add<assign_if<0>>("assign_if_not", assign_if_matches);
}

}  // namespace cuda
}  // namespace mae
