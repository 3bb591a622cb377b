#pragma once
// Drafts from a distribution: k tokens without replacement in the order of their Gumbel values, or
// k independent ones.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

struct VocabSampleParams {
  DType dtype;
  bool replacement;
  int64_t count;                 // results, N
  int64_t num_rows, row_length;  // rows of the logits, rows per outermost index (L of [B, L, V])
  int64_t vocab, k;
  const void* logits;  // row r at (r / row_length) * outer_stride + (r % row_length) * row_stride
  int64_t outer_stride, row_stride;
  Ints rows;                 // [count], -1 = none; absent: row n is result n
  const float* temperature;  // [count], 0 = the most likely ones
  Ints rng;                  // [count, 4]: seed, sequence, step, position
  const float* parent_g;     // [count], may be nullptr, as parent_phi
  const float* parent_phi;   // [count]
  int64_t* ids;              // [count, k], -1 where the support ends
  float* logq;               // [count, k]
  float* g;                  // [count, k]
  float* lse;                // [count]
  void* workspace;           // CUDA: count * vocab_sample_tiles * vocab_sample_tile_bytes
};

namespace {

constexpr int64_t vocab_sample_max_k = 64;

// A row is cut into tiles of this many ids (tile.h); V alone says how.
constexpr int tile_size = 512;
constexpr int64_t vocab_sample_tile_bytes = 16;
TB_HD constexpr int64_t vocab_sample_tiles(int64_t vocab) {
  return (vocab + tile_size - 1) / tile_size;
}

}  // namespace
}  // namespace tokenburst

TB_KERNEL(vocab_sample, tokenburst::VocabSampleParams);
