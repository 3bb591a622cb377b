#pragma once
// How much attention each block of queries pays to each block of keys, without storing attention.
#include "attention/sparsed.h"
#include "common/launch.h"

namespace tokenburst {

struct AttnBlockMassParams {
  int64_t batch, heads, kv_heads, length, dim, block, blocks;  // blocks = ceil(length / block)
  DType dtype;
  float scale;
  const void* q;                     // [batch, heads, length, dim]
  const void* k;                     // [batch, kv_heads, length, dim]
  int64_t q_stride[3], k_stride[3];  // in elements; the last dimension is contiguous
  Ints kv_len;                       // [batch], may be absent: length
  Ints prompt_len;                   // [batch], may be absent: 0
  float* prefix;                     // [batch, heads, blocks, blocks]
  float* generation;                 // the same

  // CUDA: each of the thread blocks that run side by side owns a slot of [blocks, mass_rows] block
  // sums of its rows, in base 2 logarithms.
  int64_t slots;
  float* scratch;
};

constexpr int64_t mass_rows = 128;  // query rows of one work item, whole blocks of 32, 64 or 128

TB_HD int64_t mass_items(const AttnBlockMassParams& p) {
  return p.batch * p.heads * ((p.length + mass_rows - 1) / mass_rows);
}

// As many as two per multiprocessor of the largest GPU; items take turns on them.
inline int64_t mass_slots(int64_t items) { return items < 320 ? items : 320; }

}  // namespace tokenburst

TB_KERNEL(attn_block_mass, tokenburst::AttnBlockMassParams);
