#pragma once
// STAND, learning: what the target put after each node goes into the slots of the node's contexts.
#include "common/launch.h"
#include "ngram/ngram.h"

namespace tokenburst {

struct NgramUpdateParams {
  int64_t batch, slots, width;
  int64_t most, least;  // tokens of the longest and the shortest context that is learned
  int64_t candidates;   // of a row of top_ids
  int64_t* key;         // [slots], 0 = empty
  int32_t* count;       // [slots]
  int32_t* ids;         // [slots, width]
  float* probs;         // [slots, width], descending, 0 = no token
  NgramText text;
  Ints tokens;             // [batch, nodes]
  Ints parent;             // [batch, nodes]
  Ints top_ids;            // [batch, nodes, candidates]
  const float* top_probs;  // [batch, nodes, candidates]
  Ints n_nodes;            // [batch], may be absent: nodes
  uint64_t* contexts;      // [batch * nodes * (most - least + 1)], workspace of the CUDA kernel
};

namespace {

// Hash of the context of entry e, in (sequence, node, length) order; 0 = takes no part.
TB_HD uint64_t ngram_entry(const NgramUpdateParams& p, int64_t e) {
  const int64_t lengths = p.most - p.least + 1, nodes = p.text.nodes;
  const int64_t row = e / lengths, b = row / nodes, i = row % nodes;
  const int64_t count = p.n_nodes.present() ? p.n_nodes[b] : nodes;
  if (i >= count) return 0;
  uint64_t hashes[ngram_max_context];
  ngram_contexts(
      p.text, b, i, p.most, [&](int64_t j) { return p.tokens[b * nodes + j]; },
      [&](int64_t j) { return p.parent[b * nodes + j]; }, hashes);
  return hashes[p.least - 1 + e % lengths];
}

// The slot of a context, or the one it takes: an empty one, else that of the context seen least.
TB_HD int64_t ngram_claim(const NgramUpdateParams& p, uint64_t hash) {
  const int64_t known = ngram_find(p.key, p.slots, hash);
  if (known >= 0) return known;
  const int64_t first = ngram_bucket(hash, p.slots);
  int64_t chosen = first;
  for (int64_t slot = first; slot < first + ngram_ways; ++slot) {
    if (p.key[slot] == 0) {
      chosen = slot;
      break;
    }
    if (p.count[slot] < p.count[chosen]) chosen = slot;
  }
  p.key[chosen] = static_cast<int64_t>(hash);
  p.count[chosen] = 0;
  for (int64_t i = 0; i < p.width; ++i) {
    p.ids[chosen * p.width + i] = -1;
    p.probs[chosen * p.width + i] = 0.0f;
  }
  return chosen;
}

// Puts (id, prob) into a list of at most `width`, ordered by probability, then by id.
TB_HD void ngram_insert(int64_t id, float prob, int32_t* ids, float* probs, int64_t width) {
  int64_t at = width;
  while (at > 0 && (prob > probs[at - 1] || (prob == probs[at - 1] && id < ids[at - 1]))) --at;
  for (int64_t i = width - 1; i > at; --i) {
    ids[i] = ids[i - 1];
    probs[i] = probs[i - 1];
  }
  if (at < width) {
    ids[at] = static_cast<int32_t>(id);
    probs[at] = prob;
  }
}

// mean <- (count mean + new) / (count + 1), of which the most probable tokens stay.
TB_HD void ngram_learn(const NgramUpdateParams& p, int64_t e, uint64_t hash) {
  const int64_t slot = ngram_claim(p, hash), row = e / (p.most - p.least + 1) * p.candidates;
  int32_t* ids = p.ids + slot * p.width;
  float* probs = p.probs + slot * p.width;
  const int32_t seen = p.count[slot] < 0 ? 0 : p.count[slot];
  const float total = static_cast<float>(seen) + 1.0f;
  const float old_share = static_cast<float>(seen) / total, new_share = 1.0f / total;

  int32_t merged_ids[ngram_max_width];
  float merged[ngram_max_width];
  for (int64_t i = 0; i < p.width; ++i) {
    merged_ids[i] = -1;
    merged[i] = 0.0f;
  }
  const auto offered = [&](int64_t id) {  // place in the new row, -1 = none; the first one counts
    for (int64_t c = 0; c < p.candidates; ++c) {
      if (p.top_ids[row + c] == id) return p.top_probs[row + c] > 0.0f ? c : int64_t{-1};
    }
    return int64_t{-1};
  };
  for (int64_t i = 0; i < p.width; ++i) {
    if (!(probs[i] > 0.0f) || ids[i] < 0) continue;
    const int64_t again = offered(ids[i]);
    const float more = again < 0 ? 0.0f : new_share * p.top_probs[row + again];
    ngram_insert(ids[i], fused(old_share, probs[i], more), merged_ids, merged, p.width);
  }
  for (int64_t c = 0; c < p.candidates; ++c) {
    const int64_t id = p.top_ids[row + c];
    if (id < 0 || id > 0x7fffffff || offered(id) != c) continue;
    bool stored = false;
    for (int64_t i = 0; i < p.width; ++i) stored = stored || (ids[i] == id && probs[i] > 0.0f);
    if (stored) continue;
    const float prob = new_share * p.top_probs[row + c];
    if (prob > 0.0f) ngram_insert(id, prob, merged_ids, merged, p.width);
  }
  for (int64_t i = 0; i < p.width; ++i) {
    ids[i] = merged_ids[i];
    probs[i] = merged[i];
  }
  p.count[slot] = seen < (1 << 24) ? seen + 1 : seen;  // above, a float no longer counts by one
}

}  // namespace
}  // namespace tokenburst

TB_KERNEL(ngram_update_, tokenburst::NgramUpdateParams);
