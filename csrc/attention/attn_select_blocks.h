#pragma once
// Which blocks of keys each block of queries keeps, as a bitmask.
#include "attention/sparsed.h"
#include "common/launch.h"
#include "common/math.h"

namespace tokenburst {

struct AttnSelectBlocksParams {
  int64_t batch, heads, length, block, blocks, words;  // words = ceil(blocks / 32)
  double keep;
  const float* prefix;      // [batch, heads, blocks, blocks]
  const float* generation;  // the same
  Ints kv_len;              // [batch], may be absent: length
  Ints prompt_len;          // [batch], may be absent: 0
  int32_t* bits;            // [batch, heads, blocks, words]
};

// An integer that orders masses; NaN and negative ones count as 0.
TB_HD uint32_t mass_order(float mass) { return mass > 0.0f ? to_bits(mass) : 0u; }

}  // namespace tokenburst

TB_KERNEL(attn_select_blocks, tokenburst::AttnSelectBlocksParams);
