#pragma once
// The way back: which decided tokens become masks again. Candidates are ranked by lowest score,
// then lower position; rules take a prefix of that order, chance takes any.
#include "common/launch.h"
#include "unmask/order.h"

namespace tokenburst {

struct UnmaskRemaskParams {
  int64_t batch, length, candidates, mask_id, x_stride, span;
  void* x;  // [batch, length], rows x_stride apart, int64 if x_wide, else int32
  bool x_wide;
  Ints position;             // [batch, candidates], first place in x of each span; -1 = none
  const float* score;        // [batch, candidates]
  const int64_t* rng;        // [batch, 3] (seed, sequence, step), with probability
  Ints top_k;                // [batch], may be absent, as all below
  const float* threshold;    // [batch]
  Ints most;                 // [batch]
  const float* probability;  // [batch, candidates]
  bool* remasked;            // [batch, candidates]
  int32_t* n_remasked;       // [batch]
  int32_t* owner;            // [batch, length], workspace on a GPU
  uint64_t* keys;            // [batch, candidates], workspace on a GPU
};

namespace {

constexpr int32_t unowned = 0x7fffffff, opened = -1;  // in owner, beside numbers of candidates

// First position of candidate i if its span lies in x and holds no mask, otherwise -1.
TB_HD int64_t decided_position(const UnmaskRemaskParams& p, int64_t b, int64_t i) {
  const int64_t position = p.position[b * p.candidates + i];
  if (position < 0 || position > p.length - p.span) return -1;
  for (int64_t j = 0; j < p.span; ++j) {
    if (x_at(p, b, position + j) == p.mask_id) return -1;
  }
  return position;
}

TB_HD uint64_t remask_key(const UnmaskRemaskParams& p, int64_t b, int64_t i, int64_t position) {
  const float score = p.score[b * p.candidates + i];
  return score != score ? 0 : rank_key(score, position, true);
}

// Smallest key of a score below the threshold.
TB_HD uint64_t below_key(const UnmaskRemaskParams& p, int64_t b) {
  const float threshold = p.threshold ? p.threshold[b] : 0.0f;
  if (!p.threshold || threshold != threshold) return ~0ull;
  return rank_key(threshold, 0xffffffff, true) + (1ull << 32);
}

TB_HD bool chanced(const UnmaskRemaskParams& p, int64_t b, int64_t i, int64_t position) {
  return p.probability &&
         fraction(chance(p.rng + 3 * b, position).word[3]) < p.probability[b * p.candidates + i];
}

}  // namespace
}  // namespace tokenburst

TB_KERNEL(unmask_remask_, tokenburst::UnmaskRemaskParams);
