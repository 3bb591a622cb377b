#pragma once
// What a verified step adds to the text of each sequence, until the sequence ends.
#include "common/launch.h"
#include "common/types.h"

namespace tokenburst {

struct TreeAppendParams {
  int64_t batch, nodes, capacity, num_eos;  // capacity = tokens that a row of the text can hold
  int64_t* text;                            // [batch, >= capacity]
  int64_t text_stride;
  int32_t* length;  // [batch]
  int64_t* root;    // [batch]
  bool* active;     // [batch]
  int64_t* rng;     // [batch, 3]; the last one counts with the length
  int32_t* kv_len;  // [batch]; counts with the length; may be nullptr
  Ints end;         // [batch], length at which a sequence ends
  Ints tokens;      // [batch, nodes], drafted
  Ints path;        // [batch, nodes]
  Ints n_accepted;  // [batch]
  Ints next_token;  // [batch]
  Ints eos;         // [num_eos], may be absent
  int32_t* taken;   // [batch]
};

// Token j of the n that a step decided: the drafted one below accepted node j, at last the
// target's. -1 where the path leads out of the tree.
TB_HD int64_t decided_token(const TreeAppendParams& p, int64_t b, int64_t j, int64_t n) {
  if (j + 1 >= n) return p.next_token[b];
  const int64_t node = p.path[b * p.nodes + j + 1];
  return 0 <= node && node < p.nodes ? p.tokens[b * p.nodes + node] : -1;
}
TB_HD bool ends_text(const TreeAppendParams& p, int64_t token) {
  for (int64_t e = 0; e < p.num_eos; ++e) {
    if (p.eos[e] == token) return true;
  }
  return false;
}
// How many tokens there is room for.
TB_HD int64_t at_most(const TreeAppendParams& p, int64_t b, int64_t n) {
  const int64_t length = p.length[b], end = p.end[b] < p.capacity ? p.end[b] : p.capacity;
  const int64_t room = 0 <= length && length < end ? end - length : 0;
  return n < room ? n : room;
}
TB_HD void close_step(const TreeAppendParams& p, int64_t b, int64_t count, bool ended) {
  p.taken[b] = static_cast<int32_t>(count);
  p.length[b] += static_cast<int32_t>(count);
  p.rng[3 * b + 2] += count;
  if (p.kv_len) p.kv_len[b] += static_cast<int32_t>(count);
  p.active[b] = p.active[b] && !ended && p.length[b] < p.end[b];
  if (p.active[b]) p.root[b] = p.next_token[b];
}

}  // namespace tokenburst

TB_KERNEL(tree_append_, tokenburst::TreeAppendParams);
