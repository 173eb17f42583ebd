// Where the attention of one head lies in what a layer computes: qkv [N, L, heads, 3, size], out
// [N, L, heads, size], a number a row [N, heads, L].
#pragma once

#include "device.h"

// Which rows of which head a block has.
template <int size>
struct Place {
  int head, first;
  i64 sample, tokens, heads;
  DEVICE Place(int heads, int tokens, int rows) : tokens(tokens), heads(heads) {
    const int blocks = (tokens + rows - 1) / rows;
    const int index = blockIdx.x / blocks;
    first = blockIdx.x % blocks * rows;
    sample = index / heads;
    head = index % heads;
  }
  DEVICE i64 qkv_stride() const { return heads * 3 * size; }
  DEVICE i64 out_stride() const { return heads * size; }
  DEVICE i64 qkv(i64 token) const { return ((sample * tokens + token) * heads + head) * 3 * size; }
  DEVICE i64 out(i64 token) const { return ((sample * tokens + token) * heads + head) * size; }
  DEVICE i64 row(i64 token) const { return (sample * heads + head) * tokens + token; }
};
