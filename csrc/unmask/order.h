#pragma once
// What the ops of this room share: the tokens x, chance, and the order of candidates as 64-bit
// keys.
#include "common/philox.h"
#include "common/types.h"

namespace tokenburst {
namespace {

template <class Params>
TB_HD int64_t x_at(const Params& p, int64_t b, int64_t position) {
  const int64_t i = b * p.x_stride + position;
  return p.x_wide ? static_cast<const int64_t*>(p.x)[i] : static_cast<const int32_t*>(p.x)[i];
}

template <class Params>
TB_HD void write_x(const Params& p, int64_t b, int64_t position, int64_t token) {
  const int64_t i = b * p.x_stride + position;
  if (p.x_wide) {
    static_cast<int64_t*>(p.x)[i] = token;
  } else {
    static_cast<int32_t*>(p.x)[i] = static_cast<int32_t>(token);
  }
}

// The first counter word is a token id / 4 where tokens are sampled, never all ones, so the draws
// are independent of those.
TB_HD Philox4 chance(const int64_t* rng, int64_t position) {
  return philox(static_cast<uint64_t>(rng[0]), 0xffffffffu, static_cast<uint32_t>(position),
                static_cast<uint32_t>(rng[2]), static_cast<uint32_t>(rng[1]));
}
TB_HD float fraction(uint32_t word) {
  return static_cast<float>(word >> 8) * 5.9604644775390625e-8f;
}

// Larger is better; never 0, which stands for "cannot be committed". Both zeros are one score.
TB_HD uint64_t rank_key(float score, int64_t position, bool lowest_first) {
  const uint32_t bits = to_bits(score == 0.0f ? 0.0f : score);
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  const uint32_t rank = lowest_first ? ~ascending : ascending;
  return static_cast<uint64_t>(rank) << 32 | ~static_cast<uint32_t>(position);
}

}  // namespace
}  // namespace tokenburst
