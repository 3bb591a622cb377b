#pragma once
// The table of the stochastic n-gram drafter. A slot holds one context (the hash of n tokens), how
// often it was seen, and the running mean of what the target put after it: at most `width` tokens,
// most probable first. A context lives in one bucket of eight slots, so that the contexts of one
// call can be learned bucket by bucket, each in order, and the result is the same everywhere.
#include "common/math.h"
#include "common/types.h"

namespace tokenburst {

constexpr int64_t ngram_ways = 8;        // slots of a bucket
constexpr int64_t ngram_max_width = 16;  // tokens of a slot
constexpr int64_t ngram_max_context = 8;

// Where the n last tokens before a draft, or in it, are found.
struct NgramText {
  int64_t capacity, stride, nodes;
  Ints text;   // [batch, capacity], rows `stride` apart: prompt and generated tokens
  Ints start;  // [batch], position of node 0 in the text
};

namespace {

TB_HD uint64_t ngram_mix(uint64_t hash, int64_t token) {
  hash = (hash ^ static_cast<uint32_t>(token)) * 0xBF58476D1CE4E5B9u;
  return hash ^ (hash >> 29);
}

// Hashes of the 1, 2, ... `most` tokens up to and including node i; 0 from where a token is
// missing. `token(j)` and `parent(j)` read the tree; a node may only point at earlier ones.
template <class Token, class Parent>
TB_HD void ngram_contexts(const NgramText& t, int64_t b, int64_t i, int64_t most, Token token,
                          Parent parent, uint64_t* hashes) {
  int64_t node = i, back = 0;  // back: tokens before node 0
  uint64_t hash = 0;
  bool known = true;
  for (int64_t n = 0; n < most; ++n) {
    int64_t value = -1;
    if (node >= 0) {
      value = token(node);
      const int64_t up = parent(node);
      node = node == 0 || up < 0 ? -1 : up < node ? up : 0;
    } else {
      ++back;
      const int64_t place = t.start[b] - back;
      if (0 <= place && place < t.capacity) value = t.text[b * t.stride + place];
    }
    known = known && value >= 0;
    hash = ngram_mix(hash, value);
    // A slot's key also says how many tokens it stands for, and is never 0.
    hashes[n] = known ? ngram_mix(hash, n + 1) | 1 : 0;
  }
}

TB_HD int64_t ngram_bucket(uint64_t hash, int64_t slots) {
  return static_cast<int64_t>((hash >> 20) & static_cast<uint64_t>(slots / ngram_ways - 1)) *
         ngram_ways;
}

// Slot of a context, -1 = never seen.
TB_HD int64_t ngram_find(const int64_t* key, int64_t slots, uint64_t hash) {
  const int64_t first = ngram_bucket(hash, slots);
  for (int64_t slot = first; hash != 0 && slot < first + ngram_ways; ++slot) {
    if (key[slot] == static_cast<int64_t>(hash)) return slot;
  }
  return -1;
}

}  // namespace
}  // namespace tokenburst
