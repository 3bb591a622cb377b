#pragma once
// Unmasking: which proposals become tokens. A candidate's rank is one 64-bit key, (score, lower
// position first), so every rule is a prefix of one order and the union of rules is the longest of
// them.
#include "common/launch.h"
#include "common/philox.h"
#include "common/types.h"

namespace tokenburst {

struct UnmaskSelectParams {
  int64_t batch, length, candidates, mask_id, x_stride;
  void* x;  // [batch, length], rows x_stride apart, int64 if x_wide, else int32
  bool x_wide, lowest_first, min_one;
  Ints position;           // [batch, candidates], place in x; -1 = none
  Ints token;              // [batch, candidates], -1 = no proposal
  const float* score;      // [batch, candidates], nullptr: random
  const int64_t* rng;      // [batch, 3] (seed, sequence, step), where score is nullptr
  Ints top_k;              // [batch], may be absent
  const float* threshold;  // [batch], may be nullptr
  const bool* commit_all;  // [batch], may be nullptr
  bool* committed;         // [batch, candidates]
  int32_t* n_committed;    // [batch]
  int32_t* n_left;         // [batch], candidates on a mask that stay masked
  int32_t* owner;          // [batch, length], workspace on a GPU: first candidate of each position
  uint64_t* keys;          // [batch, candidates], workspace on a GPU
};

namespace {

TB_HD int64_t x_at(const UnmaskSelectParams& p, int64_t b, int64_t position) {
  const int64_t i = b * p.x_stride + position;
  return p.x_wide ? static_cast<const int64_t*>(p.x)[i] : static_cast<const int32_t*>(p.x)[i];
}

TB_HD void write_x(const UnmaskSelectParams& p, int64_t b, int64_t position, int64_t token) {
  const int64_t i = b * p.x_stride + position;
  if (p.x_wide) {
    static_cast<int64_t*>(p.x)[i] = token;
  } else {
    static_cast<int32_t*>(p.x)[i] = static_cast<int32_t>(token);
  }
}

// Position of candidate i if it lies on a mask of x, otherwise -1.
TB_HD int64_t masked_position(const UnmaskSelectParams& p, int64_t b, int64_t i) {
  const int64_t position = p.position[b * p.candidates + i];
  const bool inside = 0 <= position && position < p.length;
  return inside && x_at(p, b, position) == p.mask_id ? position : -1;
}

// The first counter word is a token id / 4 where tokens are sampled, never all ones, so the draws
// are independent of those.
TB_HD float random_score(const int64_t* rng, int64_t position) {
  const Philox4 bits =
      philox(static_cast<uint64_t>(rng[0]), 0xffffffffu, static_cast<uint32_t>(position),
             static_cast<uint32_t>(rng[2]), static_cast<uint32_t>(rng[1]));
  return static_cast<float>(bits.word[0] >> 8) * 5.9604644775390625e-8f;
}

TB_HD float score_at(const UnmaskSelectParams& p, int64_t b, int64_t i, int64_t position) {
  return p.score ? p.score[b * p.candidates + i] : random_score(p.rng + 3 * b, position);
}

// Larger is better; never 0, which stands for "cannot be committed". Both zeros are one score.
TB_HD uint64_t rank_key(float score, int64_t position, bool lowest_first) {
  const uint32_t bits = to_bits(score == 0.0f ? 0.0f : score);
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  const uint32_t rank = lowest_first ? ~ascending : ascending;
  return static_cast<uint64_t>(rank) << 32 | ~static_cast<uint32_t>(position);
}

// Key of a candidate on a mask, 0 if it has no proposal or no score.
TB_HD uint64_t key_of(const UnmaskSelectParams& p, int64_t b, int64_t i, int64_t position) {
  const int64_t token = p.token[b * p.candidates + i];
  const float score = score_at(p, b, i, position);
  if (token < 0 || token == p.mask_id || score != score) return 0;
  return rank_key(score, position, p.lowest_first);
}

// Smallest key that the threshold of sequence b lets through; above every key without one.
TB_HD uint64_t threshold_key(const UnmaskSelectParams& p, int64_t b) {
  const float threshold = p.threshold ? p.threshold[b] : 0.0f;
  if (!p.threshold || threshold != threshold) return ~0ull;
  return rank_key(threshold, 0xffffffff, p.lowest_first);
}

// How many keys the counting rules ask for.
TB_HD int64_t wanted(const UnmaskSelectParams& p, int64_t b) {
  const int64_t k = p.top_k.present() ? p.top_k[b] : 0;
  const int64_t least = p.min_one ? 1 : 0;
  return k > least ? k : least;
}

}  // namespace
}  // namespace tokenburst

TB_KERNEL(unmask_select_, tokenburst::UnmaskSelectParams);
