// Operators that take rows by index, and their gradients.
#include "cuda_operators.h"

namespace mae {
namespace cuda {
namespace {

// The axis of the rows in a tensor, and which indices an outer row has: its own, or all.
struct RowsByIndex {
  int64_t rows, inner, count;
  int batched;
  RowsByIndex(const Sizes& of_rows, const Sizes& indices, int64_t axis, bool batched)
      : rows(1), inner(1), count(batched ? indices[axis] : count_of(indices)), batched(batched) {
    if (of_rows.empty()) return;
    rows = of_rows[axis];
    inner = count_of(Sizes(of_rows.begin() + axis + 1, of_rows.end()));
  }
};

void gather(Context* ctx, int64_t axis, bool batched) {
  const RowsByIndex at(sizes_of(ctx, "in"), sizes_of(ctx, "indices"), axis, batched);
  const int64_t first = 0;
  const int is_int64 = type_of(ctx, "indices") == DataType::kInt64;
  const void *indices = input(ctx, "indices"), *x = input(ctx, "in");
  void* y = output(ctx, "out");
  launch_elements(ctx->stream(), "gather", kernel_name("gather", bytes_of(type_of(ctx, "in"))),
                  elements_of(ctx, "out"), at.rows, at.inner, at.count, at.batched, first, is_int64,
                  indices, x, y);
}

void gather_all(Context* ctx) { gather(ctx, ctx->Attr<int64_t>("axis"), false); }

void batch_gather(Context* ctx) {
  gather(ctx, tensor(ctx, "indices")->shape_view().NumAxes() - 1, true);
}

void segment_sum(Context* ctx, int64_t axis, bool batched) {
  const RowsByIndex at(sizes_of(ctx, "out"), sizes_of(ctx, "segment_ids"), axis, batched);
  const int64_t first = 0;
  const int is_int64 = type_of(ctx, "segment_ids") == DataType::kInt64;
  const void *indices = input(ctx, "segment_ids"), *x = input(ctx, "data");
  void* y = output(ctx, "out");
  launch_elements(ctx->stream(), "gather", kernel_name("segment_sum", type_of(ctx, "out")),
                  elements_of(ctx, "out"), at.rows, at.inner, at.count, at.batched, first, is_int64,
                  indices, x, y);
}

void unsorted_segment_sum(Context* ctx) { segment_sum(ctx, ctx->Attr<int64_t>("axis"), false); }

void unsorted_batch_segment_sum(Context* ctx) {
  segment_sum(ctx, tensor(ctx, "segment_ids")->shape_view().NumAxes() - 1, true);
}

bool gather_matches(const Candidate& ctx) {
  return is_movable(type_of(ctx, "in")) && is_index(type_of(ctx, "indices"));
}
bool segment_sum_matches(const Candidate& ctx) {
  return is_real(type_of(ctx, "out")) && is_index(type_of(ctx, "segment_ids"));
}

}  // namespace

void add_gather_operators() {
  // A split of a batch leaves each rank whole rows with their indices.
  add<batch_gather>("batch_gather", gather_matches);
  add<unsorted_batch_segment_sum>("unsorted_batch_segment_sum", segment_sum_matches);
  const Match on_one_rank = [](const Candidate& ctx) {
    return is_on_one_rank(ctx) && segment_sum_matches(ctx);
  };
  add<gather_all>("gather", [](const Candidate& ctx) {
    return is_on_one_rank(ctx) && gather_matches(ctx);
  });
  add<unsorted_segment_sum>("unsorted_segment_sum", on_one_rank);
  add<unsorted_segment_sum>("unsorted_segment_sum_like", on_one_rank);
}

}  // namespace cuda
}  // namespace mae
