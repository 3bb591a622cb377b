#pragma once
// Unmasking: which proposals become tokens. A candidate's rank is one 64-bit key, (score, lower
// position first), so most rules are a prefix of one order and the union of rules is the longest of
// them.
#include "common/launch.h"
#include "unmask/order.h"

namespace tokenburst {

struct UnmaskSelectParams {
  int64_t batch, length, candidates, mask_id, x_stride;
  void* x;  // [batch, length], rows x_stride apart, int64 if x_wide, else int32
  bool x_wide, lowest_first, min_one, strict;
  int64_t reach, num_damped;
  Ints position;           // [batch, candidates], place in x; -1 = none
  Ints token;              // [batch, candidates], -1 = no proposal
  const float* score;      // [batch, candidates], nullptr: random
  const int64_t* rng;      // [batch, 3] (seed, sequence, step), may be nullptr with score
  Ints top_k;              // [batch], may be absent, as all below
  const float* threshold;  // [batch]
  const float* factor;     // [batch]
  const float* budget;     // [batch]
  Ints most;               // [batch]
  const float* near;       // [batch]
  const float* reveal;     // [batch]
  const float* noise;      // [batch]
  Ints damped;             // [num_damped] token ids
  const float* damping;    // [batch]
  const float* edit;       // [batch]
  const bool* commit_all;  // [batch]
  bool* committed;         // [batch, candidates]
  int32_t* n_committed;    // [batch]
  int32_t* n_left;         // [batch], candidates on a mask that stay masked
  int32_t* n_edited;       // [batch]
  int32_t* owner;          // [batch, length], workspace on a GPU: first candidate of each position
  uint64_t* keys;          // [batch, candidates], workspace on a GPU
};

namespace {

constexpr int32_t nobody = 0x7fffffff, anchor = -1;  // in owner, beside numbers of candidates
constexpr int64_t budget_candidates = int64_t{1} << 19;

// Position of candidate i if it lies on a mask of x, or anywhere where edits are allowed, else -1.
TB_HD int64_t open_position(const UnmaskSelectParams& p, int64_t b, int64_t i) {
  const int64_t position = p.position[b * p.candidates + i];
  if (position < 0 || position >= p.length) return -1;
  return p.edit || x_at(p, b, position) == p.mask_id ? position : -1;
}

TB_HD float score_at(const UnmaskSelectParams& p, int64_t b, int64_t i, int64_t position) {
  if (!p.score) return fraction(chance(p.rng + 3 * b, position).word[0]);
  const float score = p.score[b * p.candidates + i];
  const int64_t token = p.token[b * p.candidates + i];
  for (int64_t d = 0; d < p.num_damped; ++d) {
    if (p.damped[d] == token) return score * p.damping[b];
  }
  return score;
}

// Whether a score reaches a bound; never where either is NaN.
TB_HD bool reaches(const UnmaskSelectParams& p, float score, float bound) {
  const bool beyond = p.lowest_first ? score < bound : score > bound;
  return beyond || (!p.strict && score == bound);
}

TB_HD float score_of(uint64_t key, bool lowest_first) {
  const auto rank = static_cast<uint32_t>(key >> 32);
  const uint32_t ascending = lowest_first ? ~rank : rank;
  return from_bits(ascending & 0x80000000u ? ascending & 0x7fffffffu : ~ascending);
}

// Key of a candidate on a mask, 0 if it has no proposal or no score. Gumbel noise on score / T
// ranks as drawing without replacement from softmax(score / T) does.
TB_HD uint64_t key_of(const UnmaskSelectParams& p, int64_t b, int64_t i, int64_t position) {
  const int64_t token = p.token[b * p.candidates + i];
  float score = score_at(p, b, i, position);
  if (token < 0 || token == p.mask_id || score != score) return 0;
  const float heat = p.noise ? p.noise[b] : 0.0f;
  if (heat > 0.0f) {
    constexpr float largest = 3.402823466e38f;
    const float inverse = 1.0f / heat, cold = inverse > largest ? largest : inverse;
    const float noise = gumbel(chance(p.rng + 3 * b, position).word[2]);
    score = fused(score, cold, p.lowest_first ? -noise : noise);
    if (score != score) return 0;
  }
  return rank_key(score, position, p.lowest_first);
}

// Smallest key that the threshold of sequence b lets through; above every key without one.
TB_HD uint64_t threshold_key(const UnmaskSelectParams& p, int64_t b) {
  const float threshold = p.threshold ? p.threshold[b] : 0.0f;
  if (!p.threshold || threshold != threshold) return ~0ull;
  const uint64_t first = rank_key(threshold, 0xffffffff, p.lowest_first);
  return p.strict ? first + (1ull << 32) : first;
}

// How many keys the counting rules ask for.
TB_HD int64_t wanted(const UnmaskSelectParams& p, int64_t b) {
  const int64_t k = p.top_k.present() ? p.top_k[b] : 0;
  const int64_t least = p.min_one ? 1 : 0;
  return k > least ? k : least;
}

// A prefix of the order: how many keys, the worst of them, and what they cost.
struct Prefix {
  int64_t count;
  uint64_t worst, cost;
};

// Entropy in units of 2^-32, so that a sum of costs does not depend on its order.
TB_HD uint64_t cost_of(uint64_t key) {
  const float cost = score_of(key, true);
  if (!(cost > 0.0f)) return 0;
  return static_cast<uint64_t>((cost < 4096.0f ? cost : 4096.0f) * 4294967296.0);
}

TB_HD bool searches(const UnmaskSelectParams& p) { return p.factor || p.budget; }

// Whether factor or budget admit all of a prefix. Where they do, they admit every shorter one.
TB_HD bool admits(const UnmaskSelectParams& p, int64_t b, const Prefix& prefix) {
  if (prefix.count == 0) return true;
  if (p.factor) {
    const float bound = 1.0f - p.factor[b] / static_cast<float>(prefix.count + 1);
    if (p.factor[b] >= 0.0f && score_of(prefix.worst, false) >= bound) return true;
  }
  if (p.budget && p.budget[b] >= 0.0f) {
    const float most = p.budget[b] < 4096.0f ? p.budget[b] : 4096.0f;
    const auto units = static_cast<uint64_t>(most * 4294967296.0);
    return prefix.cost - cost_of(prefix.worst) <= units;
  }
  return false;
}

// Whether candidate i is committed though the order does not reach it. `owner` knows the anchors.
TB_HD bool beside_the_order(const UnmaskSelectParams& p, int64_t b, int64_t i,
                            const int32_t* owner) {
  const int64_t position = p.position[b * p.candidates + i];
  if (p.reveal && fraction(chance(p.rng + 3 * b, position).word[1]) < p.reveal[b]) return true;
  if (!p.near || !reaches(p, score_at(p, b, i, position), p.near[b])) return false;
  const int64_t first = position > p.reach ? position - p.reach : 0;
  const int64_t stop = position + p.reach < p.length ? position + p.reach + 1 : p.length;
  for (int64_t at = first; at < stop; ++at) {
    if (owner[at] == anchor) return true;
  }
  return false;
}

// Whether candidate i replaces the token at its place, which is decided.
TB_HD bool edits(const UnmaskSelectParams& p, int64_t b, int64_t i, int64_t position) {
  const int64_t token = p.token[b * p.candidates + i];
  return token >= 0 && token != p.mask_id && token != x_at(p, b, position) &&
         reaches(p, score_at(p, b, i, position), p.edit[b]);
}

}  // namespace
}  // namespace tokenburst

TB_KERNEL(unmask_select_, tokenburst::UnmaskSelectParams);
