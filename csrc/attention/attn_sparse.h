#pragma once
// Attention under a block pattern: which blocks of keys a block of queries attends to, one bit per
// pair of blocks, per sequence and query head.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

struct AttnSparseParams {
  int64_t batch, heads, kv_heads, q_length, kv_length, dim;
  int64_t block, q_blocks, kv_blocks, words;  // words = ceil(kv_blocks / 32)
  DType dtype;
  float scale;
  const void* q;                                  // [batch, heads, q_length, dim]
  const void* k;                                  // [batch, kv_heads, kv_length, dim]
  const void* v;                                  // the same
  int64_t q_stride[3], k_stride[3], v_stride[3];  // in elements; the last dimension is contiguous
  const int32_t* bits;     // [batch or 1, heads or 1, q_blocks, words], bit j = kv block j is seen
  int64_t bits_stride[2];  // of batch and head, 0 where one stands for all
  Ints kv_len;             // [batch], may be absent: kv_length
  void* out;               // [batch, q_length, heads, dim]
  float* lse;              // [batch, heads, q_length]

  // CPU: `lanes` pairs of sequence and KV head at a time have their keys and values packed here.
  int64_t lanes;
  float* packed;   // [lanes, attn_sparse_lane_floats]
  int32_t* state;  // [lanes, kv_blocks]: who has packed a block
};

// Packed keys and values of one KV head: panels of 16 keys and of 16 dims.
inline int64_t attn_sparse_lane_floats(int64_t kv_blocks, int64_t block, int64_t dim) {
  return kv_blocks * block * (dim + (dim + 15) / 16 * 16);
}

// As many lanes as fit a cache, more where they would leave threads without work.
inline int64_t attn_sparse_lanes(int64_t all, int64_t lane_bytes, int64_t items_per_lane,
                                 int64_t threads) {
  const int64_t fitting = (int64_t{16} << 20) / (lane_bytes + 1);
  const int64_t busy =
      (8 * threads + items_per_lane - 1) / (items_per_lane + (items_per_lane == 0));
  const int64_t lanes = fitting > busy ? fitting : busy;
  return lanes < 1 ? 1 : lanes < all ? lanes : all;
}

}  // namespace tokenburst

TB_KERNEL(attn_sparse, tokenburst::AttnSparseParams);
